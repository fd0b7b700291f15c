"""Reviews of films, books, meals and journeys, whose sentiment is true by construction and has to be read.

The opinion is one sentence, put in one of several forms. In three of them ("slow at first, but wonderful in the end")
the same words in another order say the opposite, so that whoever only counts words has to guess there:
`bag_of_words_ceiling`.
"""

import random
from dataclasses import dataclass

from llmkit.data.toyland.automaton import World
from llmkit.data.toyland.template import Alternative, Memory
from llmkit.data.toyland.words import Pool

LABELS = ("negative", "positive")
PARTS = {
    "movie": "plot, ending, music, hero, dialogue, camera work",
    "film": "plot, ending, music, villain, dialogue, first scene",
    "book": "plot, ending, language, hero, first chapter, cover",
    "novel": "plot, ending, language, villain, last chapter, title",
    "meal": "soup, dessert, service, bread, sauce, wine",
    "dinner": "soup, dessert, waiter, fish, sauce, salad",
    "journey": "train, hotel, view, guide, weather, company",
    "trip": "boat, hotel, view, guide, food, company",
}
KINDS = {
    "movie": "films", "film": "films", "book": "books", "novel": "books",
    "meal": "meals", "dinner": "meals", "journey": "journeys", "trip": "journeys",
}  # fmt: skip
GOOD = (
    "wonderful great lovely charming clever perfect superb splendid brilliant delightful pleasant fresh elegant "
    "surprising memorable enjoyable impressive marvellous warm honest"
).split()
BAD = (
    "dull terrible boring silly awful slow dreadful poor tiresome weak clumsy disappointing stale ugly "
    "predictable forgettable annoying miserable cold pointless"
).split()
FRIENDS = "Anna Tom Mia Ben Clara Max Nora Leo Ida Sam".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
TOWNS = "Oakford Millbridge Ashby Kelmoor Westhaven Dunwick".split()
SETTINGS = {
    "films": ("On <day=days> <friend=friends> showed me a {subject}.", "<friend=friends> sent me to this {subject}."),
    "books": ("On <day=days> <friend=friends> lent me a {subject}.", "I found this {subject} in <town=towns>."),
    "meals": ("On <day=days> we had a {subject} in <town=towns>.", "<friend=friends> made a {subject}."),
    "journeys": ("On <day=days> we made a {subject} to <town=towns>.", "<friend=friends> paid for the {subject}."),
}  # fmt: skip
# An exclamation that the next clause makes honest or ironic: the adjective alone tells nothing.
HONEST = {
    1: ("We stayed until the end.", "I would pay for it again.", "My whole family wants more.", "I told everybody."),
    0: ("We left after ten minutes.", "I want my money back.", "My whole family fell asleep.", "I told nobody."),
}  # fmt: skip
FORMS = {"plain": 6, "negated": 3, "contrast": 3, "corrected": 2, "others": 2, "compared": 2, "ironic": 2}
SAME_WORDS = ("contrast", "corrected", "others")  # forms whose words, in another order, say the opposite


@dataclass(frozen=True)
class Review:
    """label 1 is positive; `form` is a key of FORMS, `subject` of PARTS: what is reviewed."""

    text: str
    label: int
    form: str
    subject: str

    @property
    def sentiment(self) -> str:
        return LABELS[self.label]

    @property
    def kind(self) -> str:
        """films, books, meals or journeys."""
        return KINDS[self.subject]

    @property
    def summary(self) -> str:
        return f"A {'good' if self.label else 'bad'} {self.subject}."


def _start(m: Memory) -> list[Alternative]:
    """Label, form and subject are independent of each other."""
    return [
        (weight, "<frame>", {"label": label, "form": form, "subject": subject})
        for form, weight in FORMS.items() for label in (0, 1) for subject in PARTS
    ]  # fmt: skip


def _frame(m: Memory) -> list[Alternative]:
    """The opinion alone ("This movie is …") or after a sentence that sets the scene ("It was …")."""
    settings = SETTINGS[KINDS[m["subject"]]]
    return [
        (2, "<opinion>", {"it": f"this {m['subject']}", "was": "is"}),
        *((1, f"{setting} <opinion>", {"it": "it", "was": "was"}) for setting in settings),
    ]


def _opinion(m: Memory) -> list[Alternative]:
    """OWN is an adjective of the reviewer's mind, OTHER of the opposite mind, ANY of either."""
    own, other = ("good", "bad") if m["label"] else ("bad", "good")
    parts = f"parts_{m['subject']}"
    # the subject stands somewhere in every review: in the sentence before, or here
    so_what, of_what = ("", "") if m["it"] == "it" else (", {it}", " of {it}")
    sentences = {
        "plain": [
            "{cap it} {was} OWN.", "{cap it} {was} really OWN.", "{cap it} {was} OWN and ALSO.", "I found {it} OWN.",
            f"The PART{of_what} {{was}} OWN and the PART2 ALSO.",
        ],
        "negated": [
            "{cap it} {was} not OTHER.", "{cap it} {was} not at all OTHER.", "Nobody could call {it} OTHER.",
            "{cap it} {was} never OTHER.",
        ],
        "contrast": [
            "{cap it} {was} OTHER at first, but OWN in the end.",
            "The PART {was} OTHER, but all in all {it} {was} OWN.",
        ],
        "corrected": ["{cap it} {was} not OTHER but OWN.", "{cap it} {was} OWN, not OTHER."],
        "others": [
            "Everybody found {it} OTHER, but I say OWN.", "<reader=friends> calls {it} OTHER, and I call {it} OWN.",
        ],
        "compared": [
            f"{{cap it}} {{was}} much {'better' if m['label'] else 'worse'} than the ANY {{subject}} of last week."
        ],
        "ironic": [f"So ANY{so_what}! {clause}" for clause in HONEST[m["label"]]],
    }[m["form"]]  # fmt: skip
    holes = {
        "OWN": f"<own={own}>", "OTHER": f"<other={other}>", "ALSO": f"<also={own} but own>",
        "PART2": f"<part2={parts} but part>", "PART": f"<part={parts}>",
    }  # fmt: skip
    for hole, pool in holes.items():
        sentences = [sentence.replace(hole, pool) for sentence in sentences]
    return [
        (1, sentence.replace("ANY", f"<any={pool}>"))
        for sentence in sentences for pool in (("good", "bad") if "ANY" in sentence else ("",))
    ]  # fmt: skip


def world(n_adjectives: int = 20) -> World:
    """The source of reviews, with exact log_prob and next_word; one with few adjectives can be enumerated."""
    pools = {
        "good": Pool(GOOD[:n_adjectives]), "bad": Pool(BAD[:n_adjectives]), "friends": Pool(FRIENDS),
        "days": Pool(DAYS, [1.0] * len(DAYS)), "towns": Pool(TOWNS),
    }  # fmt: skip
    pools |= {f"parts_{subject}": Pool(parts.split(", "), [1.0] * 6) for subject, parts in PARTS.items()}
    return World({"start": _start, "frame": _frame, "opinion": _opinion}, pools)


REVIEWS = world()


def reviews(n: int, seed: int = 0) -> list[Review]:
    """n reviews, half of them positive; the first k are the same for every n >= k."""
    rng, found = random.Random(seed), []
    for _ in range(n):
        document = REVIEWS.sample(rng)
        known = document.trace[-1].memory
        found.append(Review(document.text, known["label"], known["form"], known["subject"]))
    return found


def bag_of_words_ceiling() -> float:
    """The best accuracy that is possible for whoever knows only which words a review has, and how often.

    In the forms SAME_WORDS every text has a twin of the same words, the same probability and the other label, so
    that the best guess is right half of the time; all other forms give themselves away.

    >>> round(bag_of_words_ceiling(), 3)
    0.825
    """
    return 1 - sum(FORMS[form] for form in SAME_WORDS) / sum(FORMS.values()) / 2
