"""The families of instructions: what is asked, about what, and when an answer is right.

Each function draws a `Task` from a random generator: text, question and true answer come from toyland's own record of
what happened (`trace`), never from reading the text.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from llmkit.data.toyland.language import sentences
from llmkit.data.toyland.lexicon import ANIMALS, FOODS, NUMBERS, PLACES
from llmkit.data.toyland.reviews import LABELS, REVIEWS
from llmkit.data.toyland.scenes import count_scene, scene
from llmkit.data.toyland.stories import VILLAGE
from llmkit.data.toyland.tasks import story_summary
from llmkit.data.toyland.template import Memory
from llmkit.data.toyland.words import plural, written

Rule = Callable[[str], bool]
NOT_SAID = "The story does not say."


@dataclass(frozen=True)
class Task:
    """What an instruction is made from.

    target    the answer to learn from
    holes     for the phrasing: text, question, old, new
    rule      which other answers are right too; None: only the target, apart from capitals, spaces and the last stop
    before    turns that come before the last question, for the family follow_up: (question, answer)
    """

    target: str
    holes: dict[str, str]
    rule: Rule | None = None
    before: tuple[tuple[str, str], ...] = field(default=())


def plain(reply: str) -> str:
    """Small letters, one space between words, no full stop at the end: what may differ between right answers."""
    return " ".join(reply.lower().split()).removesuffix(".")


def one_of(*answers: str) -> Rule:
    """Right is any of these, apart from what `plain` takes away."""
    accepted = {plain(answer) for answer in answers}
    return lambda reply: plain(reply) in accepted


def same_set(words: list[str]) -> Rule:
    """Right are these words, parted by commas, in any order, each once."""
    wanted = sorted(word.lower() for word in words)
    return lambda reply: sorted(part.strip() for part in plain(reply).split(",")) == wanted


def questions(m: Memory) -> list[tuple[str, str, str]]:
    """What a scene can be asked: (question, short answer, answer as a sentence)."""
    thing, pet, spot = m["thing"], m["pet"], m.get("spot")
    holder = m[m["holder"]]
    where = (f"Where is the {thing}?", spot, f"The {thing} is {spot}.")
    who = (f"Who has the {thing}?", holder, f"{holder} has the {thing}.")
    return [
        where if spot else who,
        where if spot else who,  # what happened in the story is asked for as often as what stands in it
        (f"What does the {thing} look like?", m["look"], f"The {thing} is {m['look']}."),
        (f"What is {m['hero']}'s job?", m["job"], f"{m['hero']} is {written(m['job'], 'a')}."),
        (f"Where does the {pet} sit?", f"on the {m['seat']}", f"The {pet} sits on the {m['seat']}."),
    ]


def answer(rng: random.Random) -> Task:
    story = scene(rng)
    question, short, target = rng.choice(questions(story.trace[-1].memory))
    return Task(target, {"text": story.text, "question": question}, one_of(short, target))


def refuse(rng: random.Random) -> Task:
    """The same questions, about what is not in the story."""
    story = scene(rng)
    m = story.trace[-1].memory
    thing = rng.choice([t for t in VILLAGE.pools["things"].words[:40] if t not in story.text])
    food = rng.choice([f for f in FOODS if f not in story.text])
    asked = [
        f"Who has the {thing}?", f"Where is the {thing}?", f"What does the {thing} look like?",
        f"What is {m['friend']}'s job?", f"How many {plural(food)} are left?",
    ]  # fmt: skip
    return Task(NOT_SAID, {"text": story.text, "question": rng.choice(asked)})


def summarise(rng: random.Random) -> Task:
    story = scene(rng)
    return Task(story_summary(story), {"text": story.text})


def translate(rng: random.Random) -> Task:
    """A sentence of at most eight words, with its one translation into Tolk."""
    for sentence in sentences(rng.getrandbits(40)):
        if len(sentence.english().split()) <= 8:
            return Task(sentence.tolk(), {"text": sentence.english()})
    raise AssertionError("sentences() is endless")


def classify(rng: random.Random) -> Task:
    review = REVIEWS.sample(rng)
    return Task(LABELS[review.trace[-1].memory["label"]].capitalize() + ".", {"text": review.text})


def people(m: Memory) -> list[str]:
    return [m[role] for role in ("hero", "friend", "third") if m.get(role)]


def extract(rng: random.Random) -> Task:
    story = scene(rng)
    names = people(story.trace[-1].memory)
    return Task(", ".join(names), {"text": story.text}, same_set(names))


def count(rng: random.Random) -> Task:
    story = count_scene(rng)
    m = story.trace[-1].memory
    n, food = m["count"], m["food"]
    number, foods = NUMBERS[n], plural(food)
    target = f"One {food} is left." if n == 1 else f"{number.capitalize()} {foods} are left."
    short = (number, str(n), f"{number} {food if n == 1 else foods}", *(("none", "zero") if n == 0 else ()))
    return Task(target, {"text": story.text, "question": foods}, one_of(target, *short))


def reverse(rng: random.Random) -> Task:
    words = rng.sample([*FOODS, *ANIMALS, *PLACES[:20]], rng.randint(3, 5))
    return Task(", ".join(reversed(words)), {"text": ", ".join(words)})


def list_(rng: random.Random) -> Task:
    """Which words of a list are of a kind: knowledge, not copying, decides."""
    kinds = {"animals": list(ANIMALS), "foods": list(FOODS), "places": list(PLACES[:20])}
    kind = rng.choice(list(kinds))
    words = rng.sample([word for some in kinds.values() for word in some], rng.randint(4, 6))
    wanted = [word for word in words if word in kinds[kind]]
    holes = {"text": ", ".join(words), "question": kind}
    return Task(", ".join(wanted), holes, same_set(wanted)) if wanted else Task("None.", holes)


def rewrite(rng: random.Random) -> Task:
    """A sentence with one fact changed: a name, a place, a thing."""
    pools = {key: VILLAGE.pools[pool].words for key, pool in
             {"name": "girls", "other": "boys", "place": "places", "thing": "things"}.items()}  # fmt: skip
    known = {key: rng.choice(words[:30]) for key, words in pools.items()}
    template = rng.choice((
        "{name} found the {thing} at the {place}.", "{name} gave the {thing} to {other}.",
        "At the {place} {name} met {other}.", "{other} and {name} took the {thing} to the {place}.",
        "{other} saw the {thing} of {name}.",
    ))  # fmt: skip
    key = rng.choice([key for key in known if "{" + key + "}" in template])
    new = rng.choice([word for word in pools[key][:30] if word != known[key]])
    target = template.format(**{**known, key: new})
    return Task(target, {"text": template.format(**known), "old": known[key], "new": new})


def format_(rng: random.Random) -> Task:
    """Who has the thing, in a form that a program can check; the kind is in holes["kind"]."""
    while (m := (story := scene(rng)).trace[-1].memory).get("spot"):
        pass  # hidden: nobody has it
    thing, holder = m["thing"], m[m["holder"]]
    kind = rng.choice(("json", "brackets", "lines", "done"))
    facts = {"thing": thing, "holder": holder}
    target = {
        "json": json.dumps(facts), "brackets": f"[{holder}]", "lines": f"- {thing}\n- {holder}",
        "done": f"{holder} has the {thing}. Done.",
    }[kind]  # fmt: skip
    rules = {"json": lambda reply: _read_json(reply) == facts, "brackets": lambda reply: reply.strip() == target,
             "lines": lambda reply: reply.strip().split("\n") == target.split("\n")}  # fmt: skip
    return Task(target, {"text": story.text, "thing": thing, "kind": kind}, rules.get(kind))


def _read_json(reply: str) -> object:
    try:
        return json.loads(reply)
    except json.JSONDecodeError:
        return None


def follow_up(rng: random.Random) -> Task:
    """What "it" is was said one turn earlier: the thing, or the animal."""
    story = scene(rng)
    m = story.trace[-1].memory
    thing, pet = m["thing"], m["pet"]
    about = {
        "thing": ("Which thing is the story about?", f"It is about {written(thing, 'a')}.",
                  f"The {thing} is {m['look']}.", m["look"]),
        "pet": ("Which animal is in the story?", f"It is {written(pet, 'a')}.",
                f"The {pet} sits on the {m['seat']}.", f"on the {m['seat']}"),
    }[rng.choice(("thing", "pet"))]  # fmt: skip
    question, first, target, short = about
    return Task(target, {"text": story.text}, one_of(target, short), before=((f"{story.text} {question}", first),))


OPENINGS = ("Ahoy", "Well", "Listen", "Friend", "Indeed", "Certainly")


def system(rng: random.Random) -> Task:
    """A system message says how every answer begins; what follows must be true as well."""
    task, opening = answer(rng), rng.choice(OPENINGS)
    holes = {**task.holes, "new": opening}

    def begins(reply: str) -> bool:
        reply = reply.strip()
        return reply.startswith(opening) and task.rule(reply.removeprefix(opening).lstrip("!.,: "))

    return Task(f"{opening}! {task.target}", holes, begins)


FAMILIES: dict[str, Callable[[random.Random], Task]] = {
    "answer": answer, "summarise": summarise, "translate": translate, "classify": classify, "extract": extract,
    "count": count, "reverse": reverse, "list": list_, "rewrite": rewrite, "refuse": refuse, "format": format_,
    "follow_up": follow_up, "system": system,
}  # fmt: skip
