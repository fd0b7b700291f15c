"""What a story must remember: who holds the thing, where it is hidden, how many are left, what was promised."""

from llmkit.data.toyland.lexicon import NUMBERS
from llmkit.data.toyland.roles import by, each_pair, rule, there
from llmkit.data.toyland.template import Alternative, Memory


@rule
def give(m: Memory) -> list[Alternative]:
    templates = [
        "<then> {X} gave the {thing} to {Y}.",
        "<then> {X} <adverb=adverbs> handed the {thing} to {Y}.",
        '"You may have the {thing}," said {X}, and {Y} took it <adverb=adverbs>.',
        "{Y} asked for the {thing}, and {X} gave it to {Y_him}.",
        '"May I hold the {thing}?" asked {Y}. {X} gave it to {Y_him} <adverb=adverbs>.',
        "{X} lent {Y} the {thing} for <a span=dayparts>.",
        "{X} did not want the {thing} any more, so {Y} took it.",
    ]
    x = m["holder"]
    return [(1, by(t, X=x, Y=y), {"holder": y}) for y in there(m) if y != x for t in templates]


@rule
def ask_holder(m: Memory) -> list[Alternative]:
    x = m["holder"]
    others = [y for y in there(m) if y != x]
    asked = [by('"Who has the {thing}?" asked {Y}. "I have it," said {X}.', X=x, Y=y) for y in others]
    asked += [by('"Who has the {thing}?" asked the {pet}. "{X} has it," said {Y}.', X=x, Y=y) for y in others]
    asked += [by('"Where is the {thing}?" asked the {pet}. {Y} pointed at {X}.', X=x, Y=y) for y in others]
    asked += [by("Everybody could see that {X} had the {thing}.", X=x)]
    return [(1, t) for t in asked]


@rule
def hide(m: Memory) -> list[Alternative]:
    return [
        (2, by("<then> {X} hid the {thing} <spot=hiding>.", X=m["holder"])),
        (1, by("When nobody was looking, {X} put the {thing} <spot=hiding>.", X=m["holder"])),
    ]


@rule
def ask_hidden(m: Memory) -> list[Alternative]:
    x = m["holder"]
    templates = ['"Where is the {thing}?" asked {Y}. "{cap spot}," said {X}.',
                 '"It is {spot}," whispered {X} to {Y}.', "{Y} did not know that the {thing} was {spot}."]  # fmt: skip
    return [(1, by(t, X=x, Y=y)) for y in there(m) if y != x for t in templates]


@rule
def fetch(m: Memory) -> list[Alternative]:
    spot = m["spot"]  # named here, because memory has no spot any more when the words are written
    templates = [f"<then> {{X}} looked {spot} and found the {{thing}} again.",
                 f"{{X}} got the {{thing}} back, which was still {spot}."]  # fmt: skip
    return [(1, by(t, X=x), {"spot": "", "holder": x}) for x in there(m) for t in templates]


@rule
def buy(m: Memory) -> list[Alternative]:
    """Prices and change: the last number follows from the other two."""
    bought = "{X} bought <a item_look=looks> <item=things but thing> for"
    return [
        (1 / price, by(f"{bought} {price} coin{'s' * (price > 1)}, paid with {note} and got {note - price} back.", X=x))
        for x in there(m)
        for note in (5, 10, 20)
        for price in range(1, note)
    ]


@rule
def count_start(m: Memory) -> list[Alternative]:
    templates = [
        "{X} bought N <s food=foods>.",
        "{X} picked N <s food=foods>.",
        "Somebody gave {X} N <s food=foods>.",
    ]
    return [
        (1 / n, by(t.replace(" N ", f" {_number(n)} "), X=x), {"count": n, "owner": x})
        for x in there(m) for n in range(2, 10) for t in templates
    ]  # fmt: skip


@rule
def count_change(m: Memory) -> list[Alternative]:
    x, count, found = m["owner"], m["count"], []
    for k in range(1, count + 1):
        what = f"{_number(k)} {{food}}" if k == 1 else f"{_number(k)} {{s food}}"
        lines = [by(f"{{X}} ate {what}.", X=x), by(f"The {{pet}} stole {what} from {{X}}.", X=x)]
        lines += [by(f"{{X}} gave {what} to {{Y}}, who ate {'it' if k == 1 else 'them'} at once.", X=x, Y=y)
                  for y in there(m) if y != x]  # fmt: skip
        found += [(1 / k, line, {"count": count - k}) for line in lines]
    for k in range(1, 1 + min(3, 12 - count)):
        what = f"{_number(k)} more {{food}}" if k == 1 else f"{_number(k)} more {{s food}}"
        found.append((1 / k, by(f"{{X}} found {what}.", X=x), {"count": count + k}))
    return found


@rule
def ask_count(m: Memory) -> list[Alternative]:
    x, n = m["owner"], _number(m["count"])
    answer = n.capitalize()
    left = f"There was {n} {{food}} left." if n == "one" else f"There were {n} {{s food}} left."
    asked = [by(f'"How many {{s food}} do you have?" asked {{Y}}. "{answer}," said {{X}}.', X=x, Y=y)
             for y in there(m) if y != x]  # fmt: skip
    return [(1, t) for t in [*asked, left]]


@rule
def promise(m: Memory) -> list[Alternative]:
    return each_pair(m, ["{X} promised to <deed=deeds>.", '"I will <deed=deeds>," {X} promised {Y}.',
                         '"Do not forget to <deed=deeds>," said {Y} to {X}.'], promiser="X")  # fmt: skip


@rule
def promise_end(m: Memory) -> list[Alternative]:
    x = m["promiser"]
    kept = [
        "{X} kept {X_his} word and went to {deed}.",
        "{X} remembered to {deed}, and everybody was pleased.",
    ]
    broken = [
        "{X} had forgotten to {deed}, and {Y} was angry.",
        '"You forgot to {deed}!" said {Y}. {X} blushed.',
    ]
    return [(1, by(t, X=x), {"promiser": ""}) for t in kept] + [
        (1, by(t, X=x, Y=y), {"promiser": ""}) for y in there(m) if y != x for t in broken
    ]


def _number(n: int) -> str:
    return NUMBERS[n]
