"""How a story ends; and letters, which are all beginning and end."""

from llmkit.data.toyland.roles import by, rule
from llmkit.data.toyland.template import Alternative, Memory


@rule
def ending(m: Memory) -> list[Alternative]:
    if not m.get("promiser"):
        return [(1, "<close>")]
    debts = ["{X} forgot to {deed}. <close>", "At last {X} went to {deed}. <close>"]
    return [(1, by(t, X=m["promiser"])) for t in debts]


@rule
def close(m: Memory) -> list[Alternative]:
    x = m["holder"]
    if m.get("spot"):
        ends = [
            "The {thing} is still {spot}, and only {X} knows.",
            "Nobody ever looked {spot}, so the {thing} is there to this day.",
        ]
    else:
        ends = ["In the end {X} kept the {thing}.", "That is how {X} came to own the {look} {thing}.",
                "{X} still has the {thing} today."]  # fmt: skip
    return [(1, by(f"{t}<last>", X=x)) for t in ends]


@rule
def last(m: Memory) -> list[Alternative]:
    lines = [
        (4, ""),
        (1, " Nobody was surprised."),
        (1, " The {pet} was not asked."),
        (1, " It had been a long <end_time=dayparts>."),
    ]
    lines += [(1, " The {pet} sat on the {seat} again.")] if m.get("seat") else []
    lines += [(1, " {hero} went home to {town}.")] if "town" in m else []
    return lines


@rule
def letter(m: Memory) -> list[Alternative]:
    return [(1, "Dear <somebody_friend>, thank you for the <look=looks> <thing=things>.<letter_lines>", {})]


@rule
def letter_lines(m: Memory) -> list[Alternative]:
    return [(4, " <letter_line><letter_lines>"), (1, " <letter_end>")]


@rule
def letter_line(m: Memory) -> list[Alternative]:
    known = [(2, "I keep the {thing} <spot=hiding>.")] if "spot" not in m else []
    known += [(2, "Our <pet=animals> likes it too.")] if "pet" not in m else [(0.5, "The {pet} sends its love.")]
    known += [(2, "The weather in <town=towns> is <weather=weather>.")] if "town" not in m else [
        (0.5, "Nobody leaves {town} when it is {weather}.")]  # fmt: skip
    return known + [
        (2, "I <verb=verbs> <a l1=looks> <t1=sights><while_>."),
        (2, "We had <meal=meals> with <a temper3=tempers> <job3=jobs>."),
        (1, "Yesterday I saw <a other=animals> at the <place=places>."),
        (1, "I will <deed=deeds> on <day=days>."),
        (1, "Please do not lend the {thing} to <a job=jobs>."),
        (1, "Do you remember the <look3=looks> <thing3=things but thing>?"),
    ]


@rule
def letter_end(m: Memory) -> list[Alternative]:
    return [(2, "Yours, <somebody_hero>."), (1, "Come and see us soon! Yours, <somebody_hero>."),
            (1, "Greetings from the <end_job=jobs>, <somebody_hero>.")]  # fmt: skip
