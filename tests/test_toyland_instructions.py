"""Instructions: answers right when read from the text alone, splits kept apart, the same in every process."""

import json
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from llmkit.data.toyland.instruction_families import FAMILIES, NOT_SAID, OPENINGS, one_of
from llmkit.data.toyland.instructions import SPLITS, held_out, instructions
from llmkit.data.toyland.language import LEXICON, VERBS
from llmkit.data.toyland.lexicon import ANIMALS, BOYS, FOODS, GIRLS, NUMBERS, PLACES
from llmkit.data.toyland.phrasings import FORMATS, HELD_OUT, TRAIN
from llmkit.data.toyland.reviews import BAD, GOOD
from llmkit.data.toyland.words import plural
from llmkit.evaluation.instructions import Reply, score

NAMES = {*GIRLS, *BOYS}


@pytest.fixture(scope="module")
def items():
    return instructions(len(FAMILIES) * 150, seed=5)


def of(items, family):
    return [item for item in items if item.family == family]


def names_in(text):
    return list(dict.fromkeys(word for word in re.findall(r"[A-Z][a-z]+", text) if word in NAMES))


def who_has(text):
    """Follow the thing through the story, sentence by sentence, by rules about English: (thing, look, holder, spot)."""
    begun = re.search(r"([A-Z]\w+) (?:had brought|was holding|put) an? ([\w ]+?) (\w+)(?: down beside it)?\.", text)
    holder, look, thing = begun.groups()
    spot, asker = None, None
    rules = {
        rf"(\w+) gave the {thing} to (\w+)\.": 2, rf"(\w+) (?:\w+ )?handed the {thing} to (\w+)\.": 2,
        rf"lent (\w+) the {thing}": 1, r", (?:and|so) (\w+) took it": 1,
        rf"(\w+) asked for the {thing}, and \w+ gave it": 1,
        rf"(\w+) (?:hid|put) the {thing} ": 1, rf"(\w+) looked .* and found the {thing} again": 1,
        rf"(\w+) got the {thing} back": 1,
    }  # fmt: skip
    for sentence in re.split(r'(?<=[.?!])"? ', text[begun.end() :]):
        if given := [m[group] for rule, group in rules.items() if (m := re.search(rule, sentence))]:
            (holder,) = given
        elif re.search(r"gave it to (him|her)", sentence):
            holder = asker
        asker = m[1] if (m := re.search(r"^asked (\w+)\.", sentence)) else None
        if m := re.search(rf"(?:hid|put) the {thing} (.+)\.", sentence):
            spot = m[1]
        if re.search(rf"the {thing} (again|back)", sentence):
            spot = None
    return thing, look, holder, spot


def test_who_where_and_what_it_looks_like_can_be_read(items):
    n = Counter()
    for item in of(items, "answer") + of(items, "format") + of(items, "summarise"):
        text = item.content
        thing, look, holder, spot = who_has(text)
        ask = item.messages[-1]["content"]
        if item.family == "summarise":
            end = (
                f"hid it {spot}."
                if spot
                else (f"now {holder} has it." if holder != names_in(item.target)[0] else "and kept it.")
            )
            assert item.target.endswith(end) and f"{look} {thing}" in item.target, (text, item.target)
        elif item.family == "format":
            assert holder in item.target and spot is None, (text, item.target)
        elif f"Who has the {thing}?" in ask:
            assert item.target == f"{holder} has the {thing}.", (text, item.target)
        elif f"Where is the {thing}?" in ask:
            assert item.target == f"The {thing} is {spot}.", (text, item.target)
        elif "look like?" in ask:
            assert item.target == f"The {thing} is {look}.", (text, item.target)
        elif "'s job?" in ask:
            hero = re.search(r"(\w+)'s job\?", ask)[1]
            job = re.search(rf"{hero}, an? \w+ (\w+),", text)[1]
            assert item.target.endswith(f" {job}.") and item.target.startswith(hero)
        else:
            animal, seat = re.search(r"The (\w+) sat on the ([^.]+)\.", text).groups()
            assert item.target == f"The {animal} sits on the {seat}."
        n[item.family, item.target.split()[1] if item.family == "answer" else ""] += 1
    assert len(n) > 8


def test_refusals_ask_for_what_is_not_there_and_answers_for_what_is(items):
    for item in of(items, "refuse"):
        assert item.target == NOT_SAID and item.correct("the story does not say")
        ask = item.messages[-1]["content"].replace(item.content, "")
        if m := re.search(r"the (\w+)(?: look like)?\?|many (\w+) are", ask):
            word = m[1] or m[2]
            assert not re.search(rf"\b{word}\b", item.content)
        else:
            name = re.search(r"(\w+)'s job", ask)[1]
            assert name in item.content and not re.search(rf"{name}, an? \w+ \w+,", item.content)


def test_people_counts_lists_and_orders_are_true(items):
    for item in of(items, "extract"):
        assert item.target.split(", ") == names_in(item.content)
        assert item.correct(", ".join(reversed(names_in(item.content)))) and not item.correct(names_in(item.content)[0])
    for item in of(items, "count"):
        total, food = 0, None
        for s in re.split(r"(?<=\.) ", item.content):
            if m := re.search(rf"\b({'|'.join(NUMBERS[1:])}) (?:more )?(\w+)", s):
                n, food = NUMBERS.index(m[1]), m[2]
                total += n if re.search(r"bought|picked|Somebody gave|found", s) else -n
        word = NUMBERS[total].capitalize()
        assert item.target.startswith(word) and food.removesuffix("s")[:2] in item.target
        assert item.correct(str(total)) and item.correct(word) and not item.correct(str(total + 1))
    for item in of(items, "reverse"):
        assert item.target.split(", ")[::-1] == item.content.split(", ")
    kinds = {"animals": ANIMALS, "foods": FOODS, "places": PLACES}
    empty = 0
    for item in of(items, "list"):
        ask = item.messages[-1]["content"].replace(item.content, "")
        (kind,) = [k for k in kinds if k in ask]
        wanted = [w for w in item.content.split(", ") if w in kinds[kind]]
        assert item.target == (", ".join(wanted) or "None.") and item.correct(item.target)
        empty += not wanted
    assert 0 < empty < 75


def test_sentiment_rewriting_and_translation_are_true(items):
    plain = 0
    for item in of(items, "classify"):
        assert item.target in ("Positive.", "Negative.") and item.correct(item.target.lower()[:-1])
        feelings = {w in GOOD for w in re.findall(r"\w+", item.content) if w in {*GOOD, *BAD}}
        if len(feelings) == 1 and not re.search(r"not|never|Nobody|nobody|better|worse|!", item.content):
            plain += 1
            assert item.target == ("Positive." if feelings.pop() else "Negative.")
    assert plain > 20
    for item in of(items, "rewrite"):
        before, after = re.findall(r"\w+", item.content), re.findall(r"\w+", item.target)
        ask = item.messages[-1]["content"].replace(item.content, "")
        removed, added = [w for w in before if w not in after], [w for w in after if w not in before]
        assert all(w in ask for w in removed + added) and removed and added
    stems = {stem: word for word, stem in LEXICON.items()}
    for item in of(items, "translate"):
        assert len(item.content.split()) <= 8
        english = item.content.lower()
        for word in item.target.removesuffix(".").split():
            stem = max((s for s in stems if word.startswith(s)), key=len)
            meaning = stems[stem]
            odd = {"be": ("is", "are", "was", "were"), "this": ("this", "these")}
            forms = {meaning, plural(meaning), *VERBS.get(meaning, ()), *odd.get(meaning, ())}
            assert any(re.search(rf"\b{form}\b", english) for form in forms), (item.content, word)


def test_formats_follow_ups_and_system_messages(items):
    seen = Counter()
    for item in of(items, "format"):
        asked = item.messages[-1]["content"]
        fits = {p: re.search(re.escape(p).replace(r"\{thing\}", r"\w+"), asked) for s in FORMATS.values() for p in s[0]}
        kind = next(kind for kind, sets in FORMATS.items() if any(fits[p] for p in sets[0]))
        seen[kind] += 1
        if kind == "json":
            facts = json.loads(item.target)
            assert set(facts) == {"thing", "holder"} and item.correct(json.dumps(facts, indent=2))
            assert not item.correct(item.target[:-1]) and not item.correct(json.dumps({**facts, "more": 1}))
        elif kind == "lines":
            assert item.target.count("\n") == 1 and not item.correct(item.target.replace("\n", " "))
        elif kind == "brackets":
            assert item.target[0] == "[" and not item.correct(item.target.strip("[]"))
        else:
            assert item.target.endswith(". Done.") and not item.correct(item.target.removesuffix(" Done."))
    assert min(seen.values()) > 15 and len(seen) == 4
    for item in of(items, "follow_up"):
        assert [m["role"] for m in item.messages] == ["user", "assistant", "user"]
        about = item.messages[1]["content"].removesuffix(".").split()[-1]
        assert item.target.startswith(f"The {about} ") and about not in item.messages[2]["content"]
    assert {item.target.split()[2] for item in of(items, "follow_up")} == {"is", "sits"}
    for item in of(items, "system"):
        opening = item.target.split("!")[0]
        assert opening in OPENINGS and opening in item.messages[0]["content"] and item.messages[0]["role"] == "system"
        assert (
            item.correct(item.target)
            and item.correct(item.target.replace("!", ","))
            and not item.correct(item.target.split("! ")[1])
        )
        other = next(o for o in OPENINGS if o != opening)
        assert not item.correct(item.target.replace(opening, other)) and not item.correct(opening + "! I do not know.")


def test_every_item_accepts_its_target_and_not_another_ones(items):
    for item, other in zip(items, items[len(FAMILIES) :], strict=False):
        assert item.correct(item.target) and not item.correct("") and not item.correct(item.target + " And more.")
        if item.family == other.family and item.target != other.target and item.family not in ("classify", "refuse"):
            assert not item.correct(other.target)


def test_splits_are_disjoint_and_phrasings_kept_apart():
    n = len(FAMILIES) * 120
    found = {split: instructions(n, seed, split) for seed, split in enumerate(SPLITS)}
    contents = {split: {item.content for item in some} for split, some in found.items()}
    assert not contents["train"] & (contents["instances"] | contents["phrasings"])
    assert all(held_out(c) == (split != "train") for split in SPLITS for c in contents[split])
    shares = [held_out(item.content) for item in instructions(2000, 9)] + [held_out(str(i)) for i in range(5000)]
    assert not any(shares[:2000]) and 0.17 < sum(shares[2000:]) / 5000 < 0.23
    for family, phrasings in TRAIN.items():
        assert len(set(phrasings)) >= 8 and len(set(HELD_OUT[family])) >= 3
        strip = lambda p: re.sub(r"\W+", " ", p.lower()).strip()  # noqa: E731
        assert not {strip(p) for p in phrasings} & {strip(p) for p in HELD_OUT[family]}
    assert all(len(train) == 3 and len(kept) == 1 and not set(train) & set(kept) for train, kept in FORMATS.values())

    def fits(item, phrasings):
        text = item.messages[0 if item.family == "system" else -1]["content"]
        return any(re.fullmatch(re.sub(r"\\{\w+\\}", "(.|\n)*", re.escape(p)), text) for p in phrasings)

    for split in SPLITS:
        ours, others = (HELD_OUT, TRAIN) if split == "phrasings" else (TRAIN, HELD_OUT)
        kept = [item for item in found[split] if item.family != "format"]
        assert all(fits(item, ours[item.family]) for item in kept)
        assert sum(fits(item, others[item.family]) for item in kept) < 0.3 * len(kept)  # "{text} {question}" fits much
        used = {
            i for item in kept if item.family == "reverse" for i, p in enumerate(ours["reverse"]) if fits(item, [p])
        }
        assert used == set(range(len(ours["reverse"])))


def test_balanced_and_the_same_everywhere():
    found = instructions(len(FAMILIES) * 7 + 3, seed=2)
    assert set(Counter(item.family for item in found).values()) == {7, 8}
    assert found[:20] == instructions(20, seed=2) != instructions(20, seed=3)
    assert {item.family for item in instructions(9, families=["count", "list"])} == {"count", "list"}
    code = ("from llmkit.data.toyland.instructions import instructions; import zlib; "
            "print(zlib.crc32(repr(instructions(60, 4, 'phrasings')).encode()))")  # fmt: skip
    values = set()
    for seed in ("1", "2"):
        env = {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        values.add(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=env).stdout)
    assert len(values) == 1
    for wrong, words in (
        (lambda: instructions(-1), "at least 0"), (lambda: instructions(1, split="test"), "no split 'test'"),
        (lambda: instructions(1, families=["sing"]), "no family 'sing'"),
        (lambda: instructions(1, families=[]), "no family"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            wrong()


def test_scores_by_family():
    some = instructions(8, families=["reverse", "list"])
    found = [Reply(item.target if i != 2 else "?", i != 5) for i, item in enumerate(some)]
    scores = score(some, found)
    assert scores.families["reverse"].estimate == 0.75 and scores.families["list"].estimate == 1.0
    assert scores.all.estimate == pytest.approx(7 / 8) and scores.stop_rate == pytest.approx(7 / 8)
    assert scores.families["reverse"].low < 0.75 < scores.families["reverse"].high
    assert one_of("A b.")("a  B") and not one_of("A b.")("a b c") and np.isfinite(scores.all.high)
    with pytest.raises(ValueError, match="8 instructions and 7 replies"):
        score(some, found[:7])
