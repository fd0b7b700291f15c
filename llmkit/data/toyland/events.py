"""What happens in a story besides the facts it is held to: moods, walks, sights, talk, jokes."""

from llmkit.data.toyland.lexicon import BEING_STATES, PROPERTIES
from llmkit.data.toyland.roles import by, each_pair, rule, there
from llmkit.data.toyland.template import Alternative, Memory

ACTS = {
    "tired": ["sat down for a while", "yawned", "closed X_his eyes for a minute", "leaned against a wall"],
    "hungry": ["ate <meal=meals>", "dreamed of <meal=meals>", "looked for something to eat"],
    "happy": ["sang <song=songs>", "danced around the {thing}", "smiled all day", "hummed <song=songs>"],
    "sad": ["cried a little", "said nothing for a while", "wrote a long letter", "listened to <song=songs>"],
    "angry": ["shouted at the {pet}", "kicked a stone", "slammed the door", "counted to ten"],
    "curious": ["asked too many questions", "looked around", "opened every drawer", "followed the {pet}"],
    "bored": ["counted the clouds", "yawned", "threw pebbles", "whistled <song=songs>"],
    "cold": ["put on another coat", "walked faster", "made a fire", "danced to get warm"],
    "proud": ["told everybody", "stood up very straight", "wrote it in X_his diary"],
}
POOR = {
    "tired": "Sleep well",
    "sleepy": "Sleep well",
    "hungry": "Eat something",
    "thirsty": "Drink something",
}
BEGINNINGS = [(2, "Then"), (1, "After a while"), (1, "A little later"), (1, "Soon"), (0.5, "To everybody's surprise,"),
              (0.5, "In the <part=dayparts>"), (0.5, "On <d1=days>"), (0.5, "As usual,"), (0.4, "For no reason"),
              (0.3, "Once again,")]  # fmt: skip
DROP = ["put down", "dropped", "picked up", "could not carry", "let go of", "stared at", "turned away from"]


@rule
def events(m: Memory) -> list[Alternative]:
    """At least three events, then an end becomes possible; never more than twelve."""
    n = m["n"]
    go_on, stop = (0 if n >= 12 else 5), (0 if n < 3 else 1)
    return [(w, t) for w, t in ((go_on, " <event><events>"), (stop, " <ending>")) if w]


@rule
def event(m: Memory) -> list[Alternative]:
    n = {"n": m["n"] + 1}
    possible = {
        "mood": 3,
        "busy": 8,
        "scene": 4,
        "pet_acts": 2.5,
        "walk": 2,
        "talk": 2.5,
        "buy": 1,
        "joke": 0.5,
    }
    if m.get("spot"):
        possible |= {"ask_hidden": 1.5, "fetch": 1.5}
    else:
        possible |= {"give": 3, "ask_holder": 2, "hide": 1, "because": 3}
    if "place" in m:
        possible["ask_place"] = 1
    possible |= {"count_change": 2, "ask_count": 2} if m.get("count") else {"count_start": 1.5}
    possible["promise_end" if m.get("promiser") else "promise"] = 1.2
    possible |= {} if m.get("third") else {"meet": 1}
    if m.get("third") and m["holder"] != "third" and "third" not in (m.get("promiser"), m.get("owner")):
        possible["leave"] = 0.7
    if m.get("seat"):
        possible["seat_again"] = 1
    return [(w, f"<{name}>", n) for name, w in possible.items()]


@rule
def then(m: Memory) -> list[Alternative]:
    """An optional beginning of a sentence that goes on with a name."""
    return [(8, ""), *BEGINNINGS]


@rule
def then_they(m: Memory) -> list[Alternative]:
    return [(6, "They")] + [(w, f"{text} they") for w, text in BEGINNINGS]


@rule
def while_(m: Memory) -> list[Alternative]:
    """An optional clause at the end of a sentence."""
    words = {"while": 1, "before": 0.5, "because": 0.7, "after": 0.5, "although": 0.3}
    clauses = [(weight, f" {word} <clause=clauses>") for word, weight in words.items()]
    return [(7, ""), *clauses, (0.7, " <manner=adverbs>")]


@rule
def busy(m: Memory) -> list[Alternative]:
    """Free content: verb, adjective and noun are drawn from large pools, so nobody can foresee much of it."""
    templates = [
        "<then> {X} <verb=verbs> <a l1=looks> <t1=things><while_>.",
        "<then> {X} <verb=verbs> the <l1=looks> <t1=sights> at the <p1=places><while_>.",
        "<then> {X} <manner2=adverbs> <verb=verbs> <a l1=looks> <t1=sights><while_>.",
        "<then> {X} <verb=verbs> <a l1=looks> <t1=things> and <a l2=looks> <t2=sights>.",
        "On <d1=days> {X} <verb=verbs> <a t1=sights> in <town2=towns>.",
        "{X} <verb=verbs> the <l1=looks> <t1=things> of <a l2=looks> <job2=jobs><while_>.",
    ]
    return [(1, by(t, X=x)) for x in there(m) for t in templates]


@rule
def scene(m: Memory) -> list[Alternative]:
    templates = [
        "There was <a l1=looks> <t1=sights> next to <a l2=looks> <t2=sights>.",
        "They saw <a l1=looks> <t1=sights>, <a l2=looks> <a1=animals> and <a t2=things>.",
        "<A l1=looks> <a1=animals> with <a l2=looks> <t2=things> passed by.",
        "On the wall hung <a l1=looks> <t1=things> and a picture of <a t2=sights>.",
        "Behind <a l1=looks> <t1=sights> stood <a temper3=tempers> <job3=jobs> with <a l2=looks> <t2=things>.",
        "<A temper3=tempers> <job3=jobs> was selling <s f1=foods>, <s f2=foods but f1> and <s f3=foods but f1 but f2>.",
        "The air smelled of <s f1=foods> and <s a1=animals>.",
    ]
    return [(1, t) for t in templates]


@rule
def walk(m: Memory) -> list[Alternative]:
    place = "<place=places but place>" if "place" in m else "<place=places>"
    return [
        (3, f"<then_they> walked to the {place}<while_>."),
        (2, f"<then_they> all went to the {place}, because it was <weather=weather>."),
        (1, f"The way to the {place} was long, but nobody complained."),
        (1, f'"Let us go to the {place}," said {{hero}}, and off they went.'),
        (1, f'"I want to see the {place}," said {{friend}}. It was not far.'),
    ]


@rule
def ask_place(m: Memory) -> list[Alternative]:
    return each_pair(m, ['"Where are we?" asked {X}. "At the {place}," said {Y}.',
                         '"I like this {place}," said {X}. {Y} nodded.'])  # fmt: skip


@rule
def mood(m: Memory) -> list[Alternative]:
    templates = [
        "{X} was STATE, so {X_he} ACT.",
        "Because {X} was STATE, {X_he} ACT.",
        "{X} felt STATE and ACT.",
    ]
    return [
        (1, by(t.replace("STATE", state).replace("ACT", act), X=x))
        for x in there(m) for state, acts in ACTS.items() for act in acts for t in templates
    ]  # fmt: skip


@rule
def because(m: Memory) -> list[Alternative]:
    """What "it" is depends on what is said of it, and what is said next depends on what "it" was."""
    properties = [m["prop"]] if "prop" in m else PROPERTIES[m["thing"]]
    of_thing = [
        (3 / len(properties), f"The {{pet}} {verb} the {{thing}} because it was {prop}. <about_thing>", {"prop": prop})
        for verb in DROP for prop in properties
    ]  # fmt: skip
    each = 3 / len(BEING_STATES)
    of_pet = [
        (each, f"The {{pet}} {verb} the {{thing}} because it was {state}. <about_pet>", {"state": state})
        for verb in DROP for state in BEING_STATES
    ]  # fmt: skip
    return of_thing + of_pet


@rule
def about_thing(m: Memory) -> list[Alternative]:
    templates = ['"It really is {prop}," said {X}.', '"Be careful with that {thing}," said {X}.',
                 "{X} looked at the {thing} and nodded.", "{X} took a closer look at the {thing}."]  # fmt: skip
    return [(1, by(t, X=x)) for x in there(m) for t in templates]


@rule
def about_pet(m: Memory) -> list[Alternative]:
    templates = ['"Poor {pet}!" said {X}.', "{X} patted the {pet} on the head.", "{X} told the {pet} to rest.",
                 '"Oh, {pet}," said {X}.']  # fmt: skip
    return [(1, by(t, X=x)) for x in there(m) for t in templates]


@rule
def pet_acts(m: Memory) -> list[Alternative]:
    return [
        (2, "The {pet} <adverb=adverbs> looked at the {thing}."),
        (1, "The {pet} sneezed."),
        (1, "The {pet} chased <a other=animals but pet>."),
        (1, "Meanwhile the {pet} slept in the sun."),
        (1, "The {pet} wanted <meal=meals>."),
        (1, "<A other=animals but pet> came by and greeted the {pet}."),
    ]


@rule
def seat_again(m: Memory) -> list[Alternative]:
    return [(2, "The {pet} went back to the {seat}."), (1, "The {pet} still sat on the {seat}."),
            (1, 'The {pet} would not share the {seat} with anyone.')]  # fmt: skip


@rule
def talk(m: Memory) -> list[Alternative]:
    weather = "{weather}" if "weather" in m else "<weather=weather>"
    return each_pair(m, [
        f'"It is {weather} today," said {{X}}. "As always," said {{Y}}.',
        '"Do you like <s f1=foods>?" asked {X}. "No," said {Y}, "but the {pet} does."',
        '"Have you ever seen <a l1=looks> <t1=sights>?" asked {X}. "Only in <town2=towns>," said {Y}.',
        '"My <relation2=relatives> is <a j1=jobs>," said {X}. "Mine is <a j2=jobs>," said {Y}.',
        "{X} told {Y} about the <memory=places>" + (" in {town}." if "town" in m else "."),
        "{X} <adverb=adverbs> asked {Y} for the time.",
        "{X} and {Y} talked about <a dream=looks> <dreamt=things>.",
    ])  # fmt: skip


@rule
def meet(m: Memory) -> list[Alternative]:
    return [
        (2, "<then_they> met <somebody_third>, <a third_job=jobs>."),
        (1, "<A third_temper=tempers> <third_job=jobs> called <somebody_third> joined them."),
    ]


@rule
def leave(m: Memory) -> list[Alternative]:
    gone = {"third": ""}
    return [(2, f"{m['third']} said goodbye and left.", gone), (1, f"{m['third']} had to go home.", gone)]


@rule
def joke(m: Memory) -> list[Alternative]:
    tellers = "{X} told a joke: "
    jokes = [
        '"Why did the <a1=animals> cross the <p1=places>? To get to the other side." Only {Y} laughed.',
        '"What is the difference between <a l1=looks> <a1=animals> and <a t1=things>? I forgot the rest." {Y} sighed.',
        '"<A a1=animals> walks into a bar." Nobody let {X_him} finish, not even {Y}.',
        '"How many <s j1=jobs> does it take to carry <a t1=things>? Two, and one to drop it." {Y} groaned.',
    ]
    return each_pair(m, [tellers + j for j in jokes])
