"""The tasks of toyland have true labels: checked from the text, not from the code that wrote it."""

import re
from collections import Counter, defaultdict

import pytest

from llmkit.data.toyland import entities, language, reviews, tasks
from llmkit.data.toyland.words import split

# --- reviews ---


def test_reviews_are_balanced_and_reproducible():
    found = reviews.reviews(4000, seed=3)
    assert found[:50] == reviews.reviews(50, seed=3) != reviews.reviews(50, seed=4)
    assert abs(sum(r.label for r in found) / 4000 - 0.5) < 0.03
    share = Counter(r.form for r in found)
    for form, weight in reviews.FORMS.items():
        assert abs(share[form] / 4000 - weight / sum(reviews.FORMS.values())) < 0.03
        labels = [r.label for r in found if r.form == form]
        assert abs(sum(labels) / len(labels) - 0.5) < 0.12  # the form tells nothing
    assert {r.kind for r in found} == {"films", "books", "meals", "journeys"}
    assert all(r.subject in r.text for r in found)


def test_labels_are_those_of_a_reader():
    """An independent reading of each form by rules about English, not about templates."""
    good, bad = set(reviews.GOOD), set(reviews.BAD)

    def read(review):
        opinion = review.text.split(". ")[-1] if review.form != "ironic" else review.text
        words = [w.strip(" .,!").lower() for w in re.findall(r"[\w']+", opinion)]
        feelings = [(w in good, i) for i, w in enumerate(words) if w in good | bad]
        if review.form == "ironic":
            return any(
                c[:-1] in review.text for c in ("until the end.", "pay for it again.", "wants more.", "everybody.")
            )
        if review.form == "compared":
            return "better" in words
        if review.form == "negated":
            return not feelings[0][0]
        if review.form == "corrected" and "but" not in words:
            return feelings[0][0]
        return feelings[-1][0]  # the last word counts: plain, contrast, others, "not dull but clever"

    for review in reviews.reviews(3000, seed=1):
        assert read(review) == bool(review.label), review


def test_bag_of_words_ceiling_by_enumeration():
    """In a world of two adjectives of each kind all reviews are listed, and the best guess for every bag is summed."""
    by_bag = defaultdict(lambda: [0.0, 0.0])
    labelled = {}
    small = reviews.world(2)
    rng_label = {text: label for text, label in _labels_of(small).items()}
    total = 0.0
    for text, p in small.documents():
        labelled[text] = rng_label[text]
        by_bag[tuple(sorted(split(text.lower().replace(" ", "  "))))][rng_label[text]] += p
        total += p
    assert abs(total - 1) < 1e-9
    best = sum(max(pair) for pair in by_bag.values())
    assert best == pytest.approx(reviews.bag_of_words_ceiling(), abs=1e-9)
    assert best < 0.9


def _labels_of(world):
    """Text -> label, by writing with each label alone; a text of both labels would be a contradiction."""
    found = {}
    for label in (0, 1):
        rules = dict(world.rules)
        start = rules["start"]
        rules["start"] = lambda m, start=start, label=label: [a for a in start(m) if a[2]["label"] == label]
        for text, _ in type(world)(rules, world.pools).documents():
            assert found.setdefault(text, label) == label, text
    return found


def test_the_courses_own_sentence():
    assert reviews.REVIEWS.log_prob("This movie is wonderful.") > -12
    assert reviews.Review("", 1, "plain", "movie").summary == "A good movie."


# --- entities ---


def test_tags_are_iob2_and_names_tell_little():
    train, test = entities.tagged_sentences(4000, seed=0), entities.tagged_sentences(1000, seed=1)
    for sentence in train:
        assert len(sentence.words) == len(sentence.tags)
        for before, tag in zip(("O", *sentence.tags), sentence.tags, strict=False):
            assert not tag.startswith("I-") or before[2:] == tag[2:]
        assert [entities.TAGS[i] for i in sentence.labels] == list(sentence.tags)
    kinds = defaultdict(set)
    for sentence in train:
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            if tag.startswith("B-"):
                kinds[word].add(tag[2:])
    assert all(kinds[name] == {"PER", "LOC", "ORG"} for name in entities.NAMES[:20])
    tagger = entities.word_list(train)
    right = [tagger.get(w, "O") == t for s in test for w, t in zip(s.words, s.tags, strict=True) if t != "O"]
    assert 0.3 < sum(right) / len(right) < 0.75  # a list of words is far from enough


def test_unseen_names_are_unseen():
    seen = {w for s in entities.tagged_sentences(3000) for w in s.words}
    new = {w for s in entities.tagged_sentences(500, seed=5, unseen=True)
           for w, t in zip(s.words, s.tags, strict=True) if t.startswith("B-")}  # fmt: skip
    names = {w for w in new if w[0].isupper()} - {"University", "Museum"}
    assert len(names) > 60 and not names & seen


# --- the second language ---

SMALL_WORDS = {"The", "the", "A", "a", "An", "an", "to", "at", "will"}  # Tolk has none of them


def test_translations_are_a_function_of_the_english():
    found = {}
    for sentence in language.translations(3000, seed=2):
        assert found.setdefault(sentence.english(), sentence.tolk()) == sentence.tolk()
    stems = list(language.LEXICON.values())
    assert not any(a != b and b.startswith(a) for a in stems for b in stems)
    held = frozenset(found)
    assert not held & {s.english() for s in language.translations(500, seed=2, without=held)}


def test_what_can_never_be_found_ends_in_an_error(monkeypatch):
    with pytest.raises(ValueError, match="at most 3 words"):
        tasks.short_stories(1, max_words=3)
    monkeypatch.setattr(language, "PATIENCE", 50)
    common = frozenset(s.english() for s in language.translations(500, seed=2))
    with pytest.raises(ValueError, match="no 9 different sentences: after 0"):
        language.translations(9, seed=2, without=common)


def test_grammar_of_tolk():
    for sentence in language.translations(1500, seed=3):
        words = sentence.tolk().rstrip(".").split()
        verb = words[-1]
        assert verb.startswith(language.LEXICON[sentence.verb])  # the verb stands last
        assert verb.endswith(language.TENSES[language.TIMES[sentence.time]])
        assert ("m" in verb[len(language.LEXICON[sentence.verb]) :]) == sentence.subject.many  # and agrees
        if sentence.says_when:
            assert words[0] == language.LEXICON[sentence.time]
        if sentence.object:
            stem = language.LEXICON[sentence.object.word]
            assert stem + ("in" if sentence.object.many else "n") in words
        aligned = {j for _, j in sentence.alignment()}
        assert aligned == set(range(len(words))), sentence  # every word of Tolk says something of the English
        english = sentence.english().rstrip(".").split()
        linked = Counter(j for _, j in sentence.alignment())
        two_words = sentence.says_when and len(sentence.time.split()) == 2  # "last week" is one word of Tolk
        assert linked == {j: 2 if two_words and j == 0 else 1 for j in range(len(words))}, sentence
        places = [i for i, _ in sentence.alignment()]
        assert len(set(places)) == len(places) and set(english) - {english[i] for i in places} <= SMALL_WORDS


def test_alignment_tells_two_equal_words_apart():
    owls, key = language.Noun("owl", "old", many=True, article="a"), language.Noun("key", "old", article="a")
    sentence = language.Sentence(owls, "see", "today", object=key)  # old owls see an old key today
    assert sorted(sentence.alignment()) == [(0, 2), (1, 1), (2, 5), (4, 4), (5, 3), (6, 0)]


def test_english_of_sentences():
    Noun, Sentence = language.Noun, language.Sentence
    assert Sentence(Noun("movie", article="this"), "be", "now", predicate="wonderful", says_when=False).english() == (
        "This movie is wonderful."
    )
    owls = Noun("owl", "old", many=True, article="a")
    assert (
        Sentence(owls, "see", "today", object=Noun("key", "old", article="a")).english()
        == "Old owls see an old key today."
    )
    assert Sentence(Noun("fox"), "give", "tomorrow", Noun("clock"), Noun("boy", many=True), "market").english() == (
        "The fox will give the clock to the boys at the market tomorrow."
    )


# --- text to text ---


def test_every_task_has_a_prefix_and_a_true_target():
    for name in tasks.TASKS:
        found = tasks.examples(name, 60, seed=1)
        assert len(found) == 60 and all(e.task == name and ": " in e.input and e.target for e in found)
        assert found == tasks.examples(name, 60, seed=1)
    with pytest.raises(ValueError, match="no task 'poem'"):
        tasks.examples("poem", 3)
    assert len({e.input.split(": ")[0] for name in tasks.TASKS for e in tasks.examples(name, 1)}) == 5


def test_stories_say_what_the_questions_ask():
    for story in tasks.short_stories(300, seed=2):
        for question, answer in tasks.story_questions(story):
            if question.startswith("Who has"):
                last = story.text.split(". ")[-3:]
                assert any(answer in sentence for sentence in last)  # the story's end names its owner
            elif not question.startswith("How many"):
                assert answer in story.text
            assert re.search(r" (is|has|are|does) ", question)
        summary, answers = tasks.story_summary(story), dict(tasks.story_questions(story))
        holder = next((answer for question, answer in answers.items() if question.startswith("Who has")), None)
        finder = summary.split()[0]
        if holder:  # in the end somebody has it: the one who found it, or another
            assert summary.endswith(" and kept it." if holder == finder else f", and now {holder} has it.")
        else:
            spot = next(answer for question, answer in answers.items() if question.startswith("Where is"))
            who = re.search(rf"and (?:(\w+) )?hid it {spot}\.$", summary)[1]
            assert who != finder and all(name in story.text for name in (finder, who) if name)
        assert not re.search(r"\ba [aeiou]|\ban [^aeiouh]", summary)
        assert len(story.text.split()) <= 90


def test_counts_in_questions_are_right():
    """Counted again from the sentences: who bought, ate, gave, found how many."""
    numbers = {
        word: i for i, word in enumerate("no one two three four five six seven eight nine ten eleven twelve".split())
    }
    checked = 0
    for story in tasks.short_stories(600, seed=4):
        asked = [(q, a) for q, a in tasks.story_questions(story) if q.startswith("How many")]
        if not asked:
            continue
        count = None
        for sentence in re.split(r"(?<=[.!?])\s+", story.text):
            for verb, sign in (("bought", 1), ("picked", 1), ("gave", 1), ("found", 1), ("ate", -1), ("stole", -1)):
                match = re.search(rf"\b{verb} (?:[A-Z]\w+ )?(\w+)(?: more)? (\w+)", sentence)
                if match and match[1] in numbers:
                    n = numbers[match[1]]
                    if count is None:
                        count = n
                    elif verb == "gave" or sign < 0:
                        count -= n
                    else:
                        count += n
                    break
        assert count == numbers[asked[0][1]], story.text
        checked += 1
    assert checked > 50
