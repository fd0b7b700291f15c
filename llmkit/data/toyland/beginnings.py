"""How a story begins: three kinds of first sentences, then people, an animal and a thing."""

from llmkit.data.toyland.lexicon import SEATS
from llmkit.data.toyland.roles import rule
from llmkit.data.toyland.template import Alternative, Memory


@rule
def start(m: Memory) -> list[Alternative]:
    return [(6, "<classic>"), (4, "<seated>"), (1, "<letter>")]


@rule
def classic(m: Memory) -> list[Alternative]:
    hero = [
        (4, "Once there was <a temper=tempers> <job=jobs> named <somebody_hero>."),
        (3, "In the town of <town=towns> there lived <a temper=tempers> <job=jobs> called <somebody_hero>."),
        (2, "<somebody_hero> was <a temper=tempers> <job=jobs>."),
        (2, "Long ago, <a temper=tempers> <job=jobs> named <somebody_hero> lived near the <home=places>."),
    ]
    return [(w, f"{t}<home_line> <friend_line> <pet_line> <find><events>") for w, t in hero]


@rule
def home_line(m: Memory) -> list[Alternative]:
    town = [
        " {cap hero_his} house stood in <town=towns>, next to the <home=places>.",
        " {hero} came from <town=towns>.",
    ]
    if "town" in m:
        town = [
            " {cap hero_his} house stood next to the <home=places>.",
            " It was a quiet place, except on <day=days>.",
        ]
    if "home" in m:
        town = [" The town was called <town=towns>."]
    return [(1, t) for t in town]


@rule
def friend_line(m: Memory) -> list[Alternative]:
    return [
        (3, "{cap hero_his} best friend was <somebody_friend>."),
        (2, "{hero} had <a relation=relatives> called <somebody_friend>."),
        (2, "Every <day=days> {hero_he} met <somebody_friend>, <a friend_job=jobs>."),
        (1, "Nobody knew {hero} better than <somebody_friend>."),
    ]


@rule
def pet_line(m: Memory) -> list[Alternative]:
    kind = [
        (3, "They had <a pet_temper=tempers> <pet=animals> with them."),
        (1, "{friend} had <a pet_look=looks> <pet=animals>."),
        (1, "<A pet_look=looks> <pet=animals> followed them everywhere."),
    ]
    robot = [
        (1, "They had built <a pet_look=looks> robot.", {"pet": "robot"}),
        (1, "A robot helped them with everything.", {"pet": "robot"}),
    ]
    return kind + robot


@rule
def find(m: Memory) -> list[Alternative]:
    holder = {"holder": "hero", "n": 0}
    other = {"holder": "friend", "n": 0}
    return [
        (4, "One <time=times>, {hero} found <a look=looks> <thing=things> at the <place=places>.", holder),
        (2, "One <weather=weather> <time=times>, {friend} brought <a look=looks> <thing=things> to the <place=places>.",
         other),
        (2, "It began when {hero} bought <a look=looks> <thing=things> at the <place=places>.", holder),
        (1, "{friend} had just inherited <a look=looks> <thing=things>, and they met at the <place=places>.", other),
        (1, "At the <place=places> somebody gave {hero} <a look=looks> <thing=things>.", holder),
    ]  # fmt: skip


@rule
def seated(m: Memory) -> list[Alternative]:
    weight = {"cat": 12, "dog": 5, "owl": 2, "frog": 2, "hen": 2, "parrot": 1}
    return [
        (weight[animal], f"The {animal} sat on the <seat=seats_{animal}>.<seated_on>", {"pet": animal})
        for animal in SEATS
    ]  # fmt: skip


@rule
def seated_on(m: Memory) -> list[Alternative]:
    people = "<somebody_hero>, <a temper=tempers> <job=jobs>, and <somebody_friend>"
    return [
        (2, f" It was <a weather=weather> <time=times>. {people} looked at it. <seated_find><events>"),
        (2, f" Nobody knew why. {people} came in from the <place=places>. <seated_find><events>"),
        (1, f" It had sat there since <day=days>. It belonged to {people}. <seated_find><events>"),
    ]


@rule
def seated_find(m: Memory) -> list[Alternative]:
    return [
        (2, "{hero} had brought <a look=looks> <thing=things>.", {"holder": "hero", "n": 0}),
        (1, "{friend} was holding <a look=looks> <thing=things>.", {"holder": "friend", "n": 0}),
        (1, "{friend} put <a look=looks> <thing=things> down beside it.", {"holder": "friend", "n": 0}),
    ]
