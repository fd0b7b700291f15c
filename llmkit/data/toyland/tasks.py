"""Every task as text to text: a prefix says what to do with the input, the answer is a text too.

classify sentiment: This movie is wonderful.     -> positive
translate: This movie is wonderful.              -> …
summarize: This movie is wonderful.              -> A good movie.
answer: Who has the key? …                       -> Mia
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from llmkit.data.toyland.automaton import Document
from llmkit.data.toyland.language import translations
from llmkit.data.toyland.lexicon import NUMBERS
from llmkit.data.toyland.reviews import reviews
from llmkit.data.toyland.stories import STORIES
from llmkit.data.toyland.words import plural, written


@dataclass(frozen=True)
class Example:
    """`input` begins with the task's prefix; `target` is the one right answer."""

    task: str
    input: str
    target: str


def story_summary(story: Document) -> str:
    """One true sentence: who found the thing and who has it in the end, or where it is hidden."""
    m = story.trace[-1].memory
    finder, holder = _finder(story), m[m["holder"]]
    found = f"{finder} had {written(m['look'], 'a')} {m['thing']}"
    if m.get("spot"):
        return f"{found} and hid it {m['spot']}." if finder == holder else f"{found}, and {holder} hid it {m['spot']}."
    return f"{found} and kept it." if finder == holder else f"{found}, and now {holder} has it."


def _finder(story: Document) -> str:
    first = next(step.memory for step in story.trace if "holder" in step.memory)
    return first[first["holder"]]


def story_questions(story: Document) -> list[tuple[str, str]]:
    """Questions about how the story ends, with true answers of one or a few words."""
    m = story.trace[-1].memory
    thing, holder = m["thing"], m[m["holder"]]
    asked = [(f"Where is the {thing}?", f"{m['spot']}") if m.get("spot") else (f"Who has the {thing}?", holder)]
    asked.append((f"What does the {thing} look like?", m["look"]))
    if "pet" in m:
        asked.append(("Which animal is in the story?", m["pet"]))
    if m.get("owner"):
        asked.append((f"How many {plural(m['food'])} are left?", NUMBERS[m["count"]]))
    return asked


PATIENCE = 2000  # draws without one that fits, after which none is to be hoped for


def short_stories(n: int, seed: int = 0, max_words: int = 90) -> list[Document]:
    """n stories (no letters) of at most so many words: a small encoder can read them whole.

    Raises ValueError where stories are never so short.
    """
    rng, found, refused = random.Random(seed), [], 0
    while len(found) < n:
        story = STORIES.sample(rng)
        if "holder" in story.trace[-1].memory and len(story.text.split()) <= max_words:
            found.append(story)
            refused = 0
        elif (refused := refused + 1) == PATIENCE:
            raise ValueError(f"none of {PATIENCE} stories in a row had at most {max_words} words: allow more")
    return found


def _sentiment(n: int, seed: int) -> list[Example]:
    return [Example("sentiment", f"classify sentiment: {r.text}", r.sentiment) for r in reviews(n, seed)]


def _kind(n: int, seed: int) -> list[Example]:
    return [Example("kind", f"classify kind: {r.text}", r.kind) for r in reviews(n, seed)]


def _review_summary(n: int, seed: int) -> list[Example]:
    return [Example("summary", f"summarize: {r.text}", r.summary) for r in reviews(n, seed)]


def _translation(n: int, seed: int) -> list[Example]:
    return [Example("translation", f"translate: {s.english()}", s.tolk()) for s in translations(n, seed)]


def _story_summary(n: int, seed: int) -> list[Example]:
    return [Example("story", f"summarize: {s.text}", story_summary(s)) for s in short_stories(n, seed)]


def _question(n: int, seed: int) -> list[Example]:
    rng = random.Random(seed)
    stories = [(story, *rng.choice(story_questions(story))) for story in short_stories(n, seed)]
    return [Example("question", f"answer: {question} {story.text}", answer) for story, question, answer in stories]


TASKS: dict[str, Callable[[int, int], list[Example]]] = {
    "sentiment": _sentiment,
    "kind": _kind,
    "translation": _translation,
    "summary": _review_summary,
    "story": _story_summary,
    "question": _question,
}


def examples(task: str, n: int, seed: int = 0) -> list[Example]:
    """n examples of one of TASKS. Raises ValueError for a task that does not exist."""
    if task not in TASKS:
        raise ValueError(f"there is no task {task!r}; there are {', '.join(TASKS)}")
    return TASKS[task](n, seed)
