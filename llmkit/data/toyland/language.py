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

    def tolk(self, case: str) -> list[str]:
        ending = ("i" if self.many else "") + CASES[case]
        words = [LEXICON[self.word] + ending]
        if self.adjective:
            words.append(LEXICON[self.adjective] + ending)
        return [LEXICON["this"], *words] if self.article == "this" else words


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
        words = [self.subject.english(), self._english_verb()]
        words += [self.predicate] if self.predicate else []
        words += [self.object.english()] if self.object else []
        words += [f"to {self.to.english()}"] if self.to else []
        words += [f"at the {self.at}"] if self.at else []
        words += [self.time] if self.says_when else []
        text = " ".join(words) + "."
        return text[0].upper() + text[1:]

    def _english_verb(self) -> str:
        tense, many = TIMES[self.time], self.subject.many
        if tense == "future":
            return f"will {self.verb}"
        if self.verb == "be":
            return {"past": ("was", "were"), "present": ("is", "are")}[tense][many]
        past, singular = VERBS[self.verb]
        return past if tense == "past" else self.verb if many else singular

    def tolk(self) -> str:
        words = [LEXICON[self.time]] if self.says_when else []
        words += self.subject.tolk("subject")
        words += [LEXICON[self.at] + CASES["at"]] if self.at else []
        words += self.to.tolk("to") if self.to else []
        words += self.object.tolk("object") if self.object else []
        words += [LEXICON[self.predicate] + ("is" if self.subject.many else "s")] if self.predicate else []
        words.append(LEXICON[self.verb] + ("m" if self.subject.many else "") + TENSES[TIMES[self.time]])
        return " ".join(words) + "."

    def alignment(self) -> list[tuple[int, int]]:
        """(English word, Tolk word) places that mean the same: what a translator has to look at."""
        english = self.english().rstrip(".").lower().split()
        order = self.tolk().rstrip(".").split()
        back = {stem: word for word, stem in LEXICON.items()}
        links = []
        for j, word in enumerate(order):
            stem = max((s for s in back if word.startswith(s)), key=len)
            meaning = back[stem]
            forms = {meaning, plural(meaning), *VERBS.get(meaning, ()), *meaning.split()}
            forms |= {"is", "are", "was", "were"} if meaning == "be" else {"these"} if meaning == "this" else set()
            links += [(i, j) for i, other in enumerate(english) if other in forms]
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


def translations(n: int, seed: int = 0, without: frozenset[str] = frozenset()) -> list[Sentence]:
    """n different sentences, none of whose English is in `without`: what training must not have seen."""
    found: dict[str, Sentence] = {}
    source = sentences(seed)
    while len(found) < n:
        sentence = next(source)
        if sentence.english() not in without:
            found.setdefault(sentence.english(), sentence)
    return list(found.values())
