"""A second language, Tolk, with a true translation for every sentence of a part of English.

    the old farmer gave the heavy key to a queen yesterday .
    (yesterday) (farmer-s old-s) (queen-ta) (key-n heavy-n) (give-ra)     in Tolk's order, with Tolk's endings

The verb stands last, the time first; adjectives follow their noun and agree with it in case and number; nouns have
endings for case (subject, object, to, at) and number; the verb agrees with the subject's number and has three tenses.
There are no articles: "the" and "a" are lost. Words of Tolk are made up and have nothing to do with the English ones.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from llmkit.data.toyland.words import plural, written

PEOPLE = (
    "farmer queen baker doctor painter sailor teacher king cook judge clown nurse cat dog fox owl robot girl boy"
).split()
THINGS = "key ball lamp book letter box stone hat drum cake flower ring clock map bottle movie song coat".split()
PLACES = "market river bridge castle forest station garden mill harbour school".split()
ADJECTIVES = "old young small big red green heavy wonderful dull cheerful quiet clever sad brave lazy".split()
TIMES = {"yesterday": "past", "last week": "past", "today": "present", "now": "present",
         "tomorrow": "future", "next year": "future"}  # fmt: skip
# base: (past, present singular, present plural); "future" is will + base
_TRANSITIVE = {
    "see": ("saw", "sees"), "find": ("found", "finds"), "carry": ("carried", "carries"), "buy": ("bought", "buys"),
    "hide": ("hid", "hides"), "paint": ("painted", "paints"), "lose": ("lost", "loses"), "like": ("liked", "likes"),
}  # fmt: skip
_GIVING = {"give": ("gave", "gives"), "show": ("showed", "shows"), "sell": ("sold", "sells"), "send": ("sent", "sends")}
_ALONE = {
    "sleep": ("slept", "sleeps"),
    "sing": ("sang", "sings"),
    "wait": ("waited", "waits"),
    "laugh": ("laughed", "laughs"),
}
VERBS = {**_TRANSITIVE, **_GIVING, **_ALONE}
CASES = {"subject": "s", "object": "n", "to": "ta", "at": "ri"}
TENSES = {"past": "ra", "present": "ke", "future": "lo"}


def _lexicon() -> dict[str, str]:
    """A made-up stem for every English word, the same on every machine; none is the beginning of another."""
    rng, stems = random.Random(17), {}
    words = [*PEOPLE, *THINGS, *PLACES, *ADJECTIVES, *TIMES, *VERBS, "be", "this"]
    while len(stems) < len(words):
        n = rng.choice((2, 2, 3))
        stem = "".join(rng.choice("bdfghlmnprstvz") + rng.choice("aeiou") for _ in range(n))
        if not any(other.startswith(stem) or stem.startswith(other) for other in stems.values()):
            stems[words[len(stems)]] = stem
    return stems


LEXICON = _lexicon()


@dataclass(frozen=True)
class Noun:
    """A noun with what stands around it in English."""

    word: str
    adjective: str | None = None
    many: bool = False
    article: str = "the"  # the, a or this

    def english(self) -> str:
        noun = plural(self.word) if self.many else self.word
        phrase = f"{self.adjective} {noun}" if self.adjective else noun
        if self.article == "a":
            return phrase if self.many else written(phrase, "a")
        return f"{'these' if self.many and self.article == 'this' else self.article} {phrase}"

    def tolk(self, case: str) -> str:
        ending = ("i" if self.many else "") + CASES[case]
        words = [LEXICON[self.word] + ending]
        if self.adjective:
            words.append(LEXICON[self.adjective] + ending)
        return " ".join([LEXICON["this"], *words] if self.article == "this" else words)


@dataclass(frozen=True)
class Sentence:
    """Who does what, with whom, where and when; `verb` "be" says an adjective of the subject."""

    subject: Noun
    verb: str
    time: str
    object: Noun | None = None
    to: Noun | None = None
    at: str | None = None
    predicate: str | None = None
    says_when: bool = True

    def english(self) -> str:
        text = " ".join(words for _, words in self._english()) + "."
        return text[0].upper() + text[1:]

    def tolk(self) -> str:
        return " ".join(words for _, words in self._tolk()) + "."

    def _english(self) -> list[tuple[str, str]]:
        """(part of the sentence, its words) in English order."""
        parts = [
            ("subject", self.subject.english()), ("verb", self._english_verb()), ("predicate", self.predicate),
            ("object", self.object and self.object.english()), ("to", self.to and f"to {self.to.english()}"),
            ("at", self.at and f"at the {self.at}"), ("time", self.says_when and self.time),
        ]  # fmt: skip
        return [(part, words) for part, words in parts if words]

    def _tolk(self) -> list[tuple[str, str]]:
        """The same parts in Tolk's order."""
        many = self.subject.many
        parts = [
            ("time", self.says_when and LEXICON[self.time]), ("subject", self.subject.tolk("subject")),
            ("at", self.at and LEXICON[self.at] + CASES["at"]), ("to", self.to and self.to.tolk("to")),
            ("object", self.object and self.object.tolk("object")),
            ("predicate", self.predicate and LEXICON[self.predicate] + ("is" if many else "s")),
            ("verb", LEXICON[self.verb] + ("m" if many else "") + TENSES[TIMES[self.time]]),
        ]  # fmt: skip
        return [(part, words) for part, words in parts if words]

    def _english_verb(self) -> str:
        tense, many = TIMES[self.time], self.subject.many
        if tense == "future":
            return f"will {self.verb}"
        if self.verb == "be":
            return {"past": ("was", "were"), "present": ("is", "are")}[tense][many]
        past, singular = VERBS[self.verb]
        return past if tense == "past" else self.verb if many else singular

    def alignment(self) -> list[tuple[int, int]]:
        """(English word, Tolk word) places that mean the same: what a translator has to look at.

        Words are linked inside one part of the sentence, so that "old owls see an old key" has each "old" once.
        """
        english = [(part, word) for part, words in self._english() for word in words.lower().split()]
        tolk = [(part, word) for part, words in self._tolk() for word in words.split()]
        back = {stem: word for word, stem in LEXICON.items()}
        links = []
        for j, (part, word) in enumerate(tolk):
            stem = max((s for s in back if word.startswith(s)), key=len)
            meaning = back[stem]
            forms = {meaning, plural(meaning), *VERBS.get(meaning, ()), *meaning.split()}
            forms |= {"is", "are", "was", "were"} if meaning == "be" else {"these"} if meaning == "this" else set()
            links += [(i, j) for i, (place, other) in enumerate(english) if place == part and other in forms]
        return links


def sentences(seed: int = 0) -> Iterator[Sentence]:
    """Endless sentences of all forms; "This movie is wonderful." is one of them."""
    rng = random.Random(seed)
    while True:
        time = rng.choice(list(TIMES))
        says_when = rng.random() < 0.7
        time = time if says_when else {"past": "yesterday", "present": "now", "future": "tomorrow"}[TIMES[time]]
        at = rng.choice(PLACES) if rng.random() < 0.3 else None
        kind = rng.choice(("be", "alone", "transitive", "transitive", "giving"))
        if kind == "be":
            subject = _noun(rng, PEOPLE + THINGS, articles=("the", "this"), plain=True)
            yield Sentence(subject, "be", time, predicate=rng.choice(ADJECTIVES), at=at, says_when=says_when)
            continue
        verb = rng.choice(list({"alone": _ALONE, "transitive": _TRANSITIVE, "giving": _GIVING}[kind]))
        yield Sentence(
            _noun(rng, PEOPLE), verb, time,
            object=_noun(rng, THINGS) if kind != "alone" else None,
            to=_noun(rng, PEOPLE) if kind == "giving" else None, at=at, says_when=says_when,
        )  # fmt: skip


def _noun(
    rng: random.Random, words: list[str], articles: tuple[str, ...] = ("the", "the", "a"), plain: bool = False
) -> Noun:
    adjective = None if plain or rng.random() < 0.5 else rng.choice(ADJECTIVES)
    return Noun(rng.choice(words), adjective, rng.random() < 0.3, rng.choice(articles))


PATIENCE = 20_000  # known sentences in a row, after which there are no others


def translations(n: int, seed: int = 0, without: frozenset[str] = frozenset()) -> list[Sentence]:
    """n different sentences, none of whose English is in `without`: what training must not have seen.

    Raises ValueError where the language has not so many.
    """
    found: dict[str, Sentence] = {}
    source, known = sentences(seed), 0
    while len(found) < n:
        sentence = next(source)
        if sentence.english() not in without and sentence.english() not in found:
            found[sentence.english()] = sentence
            known = 0
        elif (known := known + 1) == PATIENCE:
            raise ValueError(f"there are no {n} different sentences: after {len(found)}, {known} known ones came")
    return list(found.values())
