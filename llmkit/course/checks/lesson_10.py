"""Lesson 10: bags and pooling, aligned labels, spans and their score, calibration."""

import math

import torch
from torch.nn import functional as F

from llmkit.course.compare import first_difference
from llmkit.course.exercise import Case, Exercise
from llmkit.data.masking import align_labels
from llmkit.data.toyland import entities, reviews
from llmkit.evaluation.calibration import fit_temperature
from llmkit.evaluation.spans import Span, bio_spans
from llmkit.layers.encoder_heads import mean_pool

IGNORE = -100


# --- 10.1 the ceiling, by hand ---


def ceiling() -> float:
    return round(reviews.bag_of_words_ceiling(), 6)


# --- 10.2 mean_pool (find the bug) ---


def pool_cases() -> list[Case]:
    def make(B, T, C, lengths=None, kind=torch.bool, left=False, dtype=torch.float32):
        hidden = torch.randn(B, T, C, generator=torch.Generator().manual_seed(B * 100 + T * 10 + C)).to(dtype)
        if lengths is None:
            return (hidden,)
        column = torch.arange(T).flip(0) if left else torch.arange(T)
        return hidden, (column < torch.tensor(lengths)[:, None]).to(kind)

    return [
        Case("no mask", lambda: make(2, 5, 3)),
        Case("a mask without padding", lambda: make(2, 5, 3, [5, 5])),
        Case("two texts, one of them shorter", lambda: make(2, 5, 3, [5, 2])),
        Case("three texts", lambda: make(3, 4, 6, [1, 4, 3])),
        Case("padding on the left", lambda: make(3, 6, 4, [2, 6, 5], left=True)),
        Case("a mask of ones and zeros", lambda: make(2, 7, 5, [3, 7], torch.long)),
        Case("one token", lambda: make(1, 1, 4, [1])),
        Case("a text of padding alone", lambda: make(2, 3, 5, [0, 2])),
        Case("float64", lambda: make(2, 5, 3, [4, 2], dtype=torch.float64)),
    ]


def mean_over_padding(hidden, attention_mask=None):
    return hidden.mean(1)


def pool_only_the_sum(hidden, attention_mask=None):
    if attention_mask is None:
        return hidden.mean(1)
    return (hidden * attention_mask[..., None].type_as(hidden)).sum(1) / hidden.size(1)


def pool_not_divided(hidden, attention_mask=None):
    return hidden.sum(1) if attention_mask is None else (hidden * attention_mask[..., None].type_as(hidden)).sum(1)


def pool_divided_only(hidden, attention_mask=None):
    if attention_mask is None:
        return hidden.mean(1)
    return hidden.sum(1) / attention_mask.sum(1, keepdim=True).clamp(min=1).type_as(hidden)


def pool_nan_for_nothing(hidden, attention_mask=None):
    if attention_mask is None:
        return hidden.mean(1)
    real = attention_mask[..., None].type_as(hidden)
    return (hidden * real).sum(1) / real.sum(1)


def pool_of_the_whole_batch(hidden, attention_mask=None):
    if attention_mask is None:
        return hidden.mean(1)
    real = attention_mask[..., None].type_as(hidden)
    return (hidden * real).sum(1) / real.sum().clamp(min=1)


def pool_over_the_wrong_axis(hidden, attention_mask=None):
    if attention_mask is None:
        return hidden.mean(-1)
    real = attention_mask[..., None].type_as(hidden)
    return (hidden * real).sum(-1) / real.sum(1).clamp(min=1)


def pool_the_first(hidden, attention_mask=None):
    return hidden[:, 0]


def pool_left_padding_forgotten(hidden, attention_mask=None):
    if attention_mask is None:
        return hidden.mean(1)
    counts = attention_mask.sum(1).tolist()
    return torch.stack([h[:n].mean(0) if n else 0 * h[0] for h, n in zip(hidden, counts, strict=True)])


def pool_the_padding(hidden, attention_mask=None):
    return hidden.mean(1) if attention_mask is None else mean_pool(hidden, ~attention_mask.bool())


def pool_all_texts_joined(hidden, attention_mask=None):
    return hidden.mean(1) if attention_mask is None else hidden[attention_mask.bool()].mean(0)


def pool_mean_of_no_rows(hidden, attention_mask=None):
    if attention_mask is None:
        return hidden.mean(1)
    return torch.stack([h[m].mean(0) for h, m in zip(hidden, attention_mask.bool(), strict=True)])


def pool_mask_must_be_given(hidden, attention_mask=None):
    return mean_pool(hidden, attention_mask.bool())  # None has no bool


def pool_mask_as_index(hidden, attention_mask=None):
    if attention_mask is None:
        return hidden.mean(1)
    return torch.stack([h[m].mean(0) if m.sum() else 0 * h[0] for h, m in zip(hidden, attention_mask, strict=True)])


def pool_in_float32(hidden, attention_mask=None):
    return mean_pool(hidden.float(), attention_mask)


# --- 10.3 fit_temperature ---


def temperature_cases() -> list[Case]:
    def make(N, K, sharp, seed, wrong=0.3, **ends):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(K, (N,), generator=generator)
        said = torch.where(torch.rand(N, generator=generator) < wrong, (labels + 1) % K, labels)
        logits = F.one_hot(said, K) * sharp + torch.randn(N, K, generator=generator) * sharp / 4
        return logits, labels, *ends.values()

    surest = torch.tensor([[1.5, 0.0], [0.0, 1.2]])  # surer, the loss at low would be 0 for several T
    return [
        Case("the docstring's example", lambda: (torch.tensor([[3.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))),
        Case("two labels, too sure", lambda: make(40, 2, 6.0, 0)),
        Case("three labels, far too sure", lambda: make(60, 3, 20.0, 1)),
        Case("not sure enough: below 1", lambda: make(60, 3, 1.0, 2, wrong=0.05)),
        Case("a constant added to all logits changes nothing", lambda: _moved(*make(50, 4, 7.0, 3))),
        Case("large logits", lambda: _moved(*make(30, 2, 40.0, 4), by=300.0)),
        Case("all right: the lower end", lambda: (surest.clone(), torch.tensor([0, 1]))),
        Case("all wrong: the upper end", lambda: (surest.clone(), torch.tensor([1, 0]))),
        Case("other ends", lambda: (surest.clone(), torch.tensor([1, 0]), 0.5, 4.0)),
        Case("T between narrow ends", lambda: make(40, 2, 6.0, 0, low=0.5, high=3.0)),
        Case("the only T between equal classes", lambda: make(80, 5, 5.0, 5)),
        Case("no examples are refused", lambda: (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))),
        Case("a label that does not exist is refused", lambda: (torch.zeros(2, 2), torch.tensor([0, 2]))),
        Case("labels of another length are refused", lambda: (torch.zeros(3, 2), torch.tensor([0, 1]))),
        Case("low above high is refused", lambda: (surest.clone(), torch.tensor([0, 1]), 3.0, 2.0)),
        Case("low equal to high is refused", lambda: (surest.clone(), torch.tensor([0, 1]), 2.0, 2.0)),
        Case("a low of 0 is refused", lambda: (surest.clone(), torch.tensor([0, 1]), 0.0, 2.0)),
    ]


def _moved(logits, labels, by=5.0):
    return logits + by, labels


def same_temperature(expected, got, arguments) -> str | None:
    if isinstance(got, torch.Tensor) and got.numel() == 1:
        got = got.item()
    if isinstance(got, bool) or not isinstance(got, int | float):
        return f"expected a number, got {type(got).__name__}"
    if math.isnan(got) or abs(got - expected) > 0.0101 * expected:
        close = abs(got - expected) < 0.05 * expected
        return f"expected {expected:.4f} to within 1%, got {got:.4f}" + (" (close: finer steps?)" if close else "")
    return None


def _loss(logits, labels, T):
    return F.cross_entropy(logits.double() / T, labels).item()


def _search(score, low, high):
    """The T with the smallest score among 2,000 even steps in ln T."""
    steps = torch.linspace(math.log(low), math.log(high), 2001, dtype=torch.float64).exp().tolist()
    return min(steps, key=score)


def _refuse(logits, labels, low, high):
    fit_temperature(logits, labels, low, high)


def temperature_multiplied(logits, labels, low=0.05, high=20.0):
    _refuse(logits, labels, low, high)
    return _search(lambda T: _loss(logits, labels, 1 / T), low, high)


def temperature_by_accuracy(logits, labels, low=0.05, high=20.0):
    _refuse(logits, labels, low, high)
    return _search(lambda T: -((logits / T).argmax(-1) == labels).double().mean().item(), low, high)


def temperature_matches_confidence(logits, labels, low=0.05, high=20.0):
    _refuse(logits, labels, low, high)
    share = (logits.argmax(-1) == labels).double().mean()
    return _search(lambda T: abs((logits.double() / T).softmax(-1).amax(-1).mean() - share).item(), low, high)


def temperature_of_likelihood(logits, labels, low=0.05, high=20.0):
    _refuse(logits, labels, low, high)

    def mean_probability(T):
        return -(logits.double() / T).softmax(-1).gather(-1, labels[:, None]).mean().item()

    return _search(mean_probability, low, high)


def temperature_smallest_loss_itself(logits, labels, low=0.05, high=20.0):
    return _loss(logits, labels, fit_temperature(logits, labels, low, high))


def temperature_largest_loss(logits, labels, low=0.05, high=20.0):
    _refuse(logits, labels, low, high)
    return _search(lambda T: -_loss(logits, labels, T), low, high)


def temperature_in_even_steps(logits, labels, low=0.05, high=20.0):
    _refuse(logits, labels, low, high)
    steps = torch.linspace(low, high, 100).tolist()
    return min(steps, key=lambda T: _loss(logits, labels, T))


def temperature_with_ends_fixed(logits, labels, low=0.05, high=20.0):
    return fit_temperature(logits, labels)


def temperature_its_logarithm(logits, labels, low=0.05, high=20.0):
    return math.log(fit_temperature(logits, labels, low, high))


def temperature_softmax_twice(logits, labels, low=0.05, high=20.0):
    _refuse(logits, labels, low, high)
    return _search(lambda T: F.cross_entropy((logits.double() / T).softmax(-1), labels).item(), low, high)


def temperature_never_refuses(logits, labels, low=0.05, high=20.0):
    try:
        return fit_temperature(logits, labels, low, high)
    except ValueError:
        return 1.0


# --- 10.4 align_labels ---


def align_cases() -> list[Case]:
    return [
        Case("one token a word", lambda: ([3, 0, 5], [0, 1, 2])),
        Case("the docstring's example", lambda: ([7, 8], [None, 0, 0, 1, None])),
        Case("a word of four tokens", lambda: ([1, 2, 0], [None, 0, 1, 1, 1, 1, 2, None])),
        Case("padding behind", lambda: ([4, 4], [None, 0, 1, 1, None, None, None])),
        Case("two words with the same label", lambda: ([6, 6, 6], [0, 0, 1, 2, 2])),
        Case("the label 0", lambda: ([0, 0], [None, 0, 0, 1, None])),
        Case("words that were cut off have no token", lambda: ([1, 2, 3, 4], [None, 0, 1, 1, None])),
        Case("two sentences side by side, numbered afresh", lambda: ([1], [None, 0, None, 0, 0, None])),
        Case("the same with two words each", lambda: ([1, 2], [None, 0, 1, None, 0, 1, 1, None])),
        Case("nothing", lambda: ([], [])),
        Case("only [CLS] and [SEP]", lambda: ([5], [None, None])),
        Case("a token of a word without a label is refused", lambda: ([1, 2], [None, 0, 1, 2, None])),
        Case("a negative number is refused", lambda: ([1, 2], [0, -1])),
    ]


def align_every_piece(labels, words):
    align_labels(labels, words)
    return [IGNORE if word is None else labels[word] for word in words]


def align_last_piece(labels, words):
    align_labels(labels, words)
    after = [*words[1:], None]
    return [IGNORE if w is None or w == a else labels[w] for w, a in zip(words, after, strict=True)]


def align_in_order(labels, words):
    align_labels(labels, words)
    return list(labels) + [IGNORE] * (len(words) - len(labels))


def align_pads_with_zero(labels, words):
    return [0 if label == IGNORE else label for label in align_labels(labels, words)]


def align_drops_special(labels, words):
    return [label for label, word in zip(align_labels(labels, words), words, strict=True) if word is not None]


def align_drops_all_without(labels, words):
    return [label for label in align_labels(labels, words) if label != IGNORE]


def align_none_for_none(labels, words):
    return [None if label == IGNORE else label for label in align_labels(labels, words)]


def align_ignores_what_is_missing(labels, words):
    return align_labels([*labels, *[IGNORE] * 99], [w if w is None or w >= 0 else 99 for w in words])


def align_by_falsehood(labels, words):
    aligned, before = [], None
    for word in words:
        if word is not None and not 0 <= word < len(labels):
            raise ValueError("no label")
        aligned.append(labels[word] if word and word != before else IGNORE)
        before = word
    return aligned


def align_new_label_only(labels, words):
    align_labels(labels, words)
    aligned, last = [], None
    for word in words:
        label = IGNORE if word is None else labels[word]
        aligned.append(IGNORE if label == last else label)
        last = label
    return aligned


def align_each_word_once(labels, words):
    align_labels(labels, words)
    seen: set = set()
    aligned = []
    for word in words:
        aligned.append(IGNORE if word is None or word in seen else labels[word])
        seen.add(word)
    return aligned


def align_index_error(labels, words):
    aligned, before = [], None
    for word in words:
        aligned.append(IGNORE if word is None or word == before else labels[word])
        before = word
    return aligned


def align_before_not_moved(labels, words):
    align_labels(labels, words)
    aligned, before = [], None
    for word in words:
        if word is None or word == before:
            aligned.append(IGNORE)
            continue
        aligned.append(labels[word])
        before = word
    return aligned


# --- 10.5 bio_spans ---


def span_cases() -> list[Case]:
    both = [
        ("no entity", "O O O"),
        ("one entity of one word", "O B-PER O"),
        ("one of three words", "O B-ORG I-ORG I-ORG O"),
        ("an entity at the end", "O B-LOC I-LOC"),
        ("an entity is the whole sentence", "B-PER"),
        ("two side by side", "B-PER B-PER I-PER"),
        ("two types side by side", "B-PER I-PER B-LOC O B-ORG"),
        ("no words", ""),
        ("an I after O", "O I-LOC O"),
        ("an I at the start", "I-PER I-PER O"),
        ("an I of another type", "B-PER I-LOC"),
        ("an I of another type, and more of it", "B-PER I-LOC I-LOC O I-LOC"),
        ("back to the first type", "B-PER I-LOC I-PER O"),
        ("long type names", "B-creative-work I-creative-work O"),
        ("a tag that is none is refused", "B-PER X O"),
        ("a letter without a type is refused", "B-PER I O"),
    ]
    cases = [
        Case(f"{label}{', strict' if strict else ''}", lambda tags=tags, strict=strict: (tags.split(), strict))
        for strict in (False, True) for label, tags in both
    ]  # fmt: skip
    cases.append(Case("strict left out: False", lambda: (["O", "I-LOC"],)))
    cases += [Case(f"60 random tags, seed {s}", lambda s=s: (_random_tags(60, s), s % 2 == 1)) for s in range(4)]
    return cases


def same_spans(expected, got, arguments) -> str | None:
    """A tuple of three is equal to a Span, but the score that comes next asks for its .type."""
    difference = first_difference(expected, got, 0.0)
    if difference:
        return str(difference)
    bare = [span for span in got if not hasattr(span, "type") or not isinstance(span, tuple)]
    return (
        f"the values are right, but make each a Span(start, end, type), not a {type(bare[0]).__name__}"
        if bare
        else None
    )


def _random_tags(n: int, seed: int) -> list[str]:
    drawn = torch.randint(5, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
    return [("O", "B-PER", "I-PER", "B-LOC", "I-LOC")[i] for i in drawn]


def spans_without_the_last(tags, strict=False):
    return [span for span in bio_spans(tags, strict) if span.end < len(tags)]


def spans_end_inclusive(tags, strict=False):
    return [Span(s, e - 1, t) for s, e, t in bio_spans(tags, strict)]


def spans_of_single_words(tags, strict=False):
    bio_spans(tags, strict)
    return [Span(i, i + 1, tag[2:]) for i, tag in enumerate(tags) if tag != "O"]


def spans_only_b(tags, strict=False):
    bio_spans(tags, strict)
    return [Span(i, i + 1, tag[2:]) for i, tag in enumerate(tags) if tag[0] == "B"]


def spans_type_not_compared(tags, strict=False):
    bio_spans(tags, strict)
    spans, start, kind = [], 0, ""
    for i, tag in enumerate([*tags, "O"]):
        if tag[0] == "I" and (kind or strict):
            continue
        if kind:
            spans.append(Span(start, i, kind))
        start, kind = i, tag[2:]
    return spans


def spans_b_goes_on(tags, strict=False):
    bio_spans(tags, strict)
    spans, start, kind = [], 0, ""
    for i, tag in enumerate([*tags, "O"]):
        if tag[2:] == kind:
            continue
        if kind:
            spans.append(Span(start, i, kind))
        start, kind = i, tag[2:] if tag[0] == "B" or not strict else ""
    return spans


def spans_always_strict(tags, strict=False):
    return bio_spans(tags, True)


def spans_never_strict(tags, strict=False):
    return bio_spans(tags, False)


def spans_strict_goes_on_after(tags, strict=False):
    """In strict reading the wrong I is left out, but a later I of the first type goes on with the first span."""
    bio_spans(tags, strict)
    if not strict:
        return bio_spans(tags)
    spans, open_span = [], None
    for i, tag in enumerate(tags):
        letter, kind = tag[0], tag[2:]
        if letter == "B":
            open_span = [i, i + 1, kind]
            spans.append(open_span)
        elif letter == "I" and open_span and open_span[2] == kind:
            open_span[1] = i + 1
        elif letter == "O":
            open_span = None
    return [Span(*span) for span in spans]


def spans_strict_second_i_begins(tags, strict=False):
    """In strict reading the I that goes on with nothing is left out, but an I of its type right after it is not."""
    if not strict:
        return bio_spans(tags)
    bio_spans(tags, True)
    spans, open_span = [], None
    for i, tag in enumerate(tags):
        kind = tag[2:]
        if tag[0] == "I" and open_span and open_span[2] == kind:
            open_span[1] = i + 1
        elif tag[0] == "B" or (tag[0] == "I" and i and tags[i - 1][2:] == kind):
            open_span = [i, i + 1, kind]
            spans.append(open_span)
        else:
            open_span = None
    return [Span(*span) for span in spans]


def spans_type_with_prefix(tags, strict=False):
    return [Span(s, e, tags[s]) for s, e, _ in bio_spans(tags, strict)]


def spans_type_cut_at_hyphen(tags, strict=False):
    return [Span(s, e, t.split("-")[0]) for s, e, t in bio_spans(tags, strict)]


def spans_start_last(tags, strict=False):
    return [Span(e, s, t) for s, e, t in bio_spans(tags, strict)]


def spans_bare(tags, strict=False):
    return [tuple(span) for span in bio_spans(tags, strict)]


def spans_anything_is_a_tag(tags, strict=False):
    return bio_spans([tag if tag == "O" or (tag[:2] in ("B-", "I-") and tag[2:]) else "O" for tag in tags], strict)


# --- 10.6 F1 by hand ---


def by_hand() -> list[float]:
    return [1 / 4, 1 / 3, 2 / 7]


# --- 10.7 the lazy tagger, measured ---


def lazy(unseen: bool = False) -> float:
    tags = [tag for s in entities.tagged_sentences(400, seed=2 if unseen else 1, unseen=unseen) for tag in s.tags]
    return tags.count("O") / len(tags)


def _share_of_entity_words() -> float:
    return 1 - lazy()


def _mean_of_sentences() -> float:
    sentences = entities.tagged_sentences(400, seed=1)
    return sum(s.tags.count("O") / len(s.tags) for s in sentences) / len(sentences)


EXERCISES = [
    Exercise(
        number="10.1",
        name="ceiling",
        reference=ceiling,
        tolerance=0.0005,
        hints=(
            "In some forms a bag is always right, in the others it is right half of the time.",
            "The weights add up to 20. How much of that is in the forms that have a twin?",
        ),
        wrong={
            "that is the share of reviews whose bag gives the label away; for the others one may still guess": (
                lambda: 13 / 20
            ),
            "that is the share of reviews that have a twin": lambda: 7 / 20,
            "that is the share that goes wrong": lambda: 3.5 / 20,
            "the forms do not come equally often: use their weights": lambda: 1 - 3 / 7 / 2,
            "a percentage; a number between 0 and 1 is wanted": lambda: 82.5,
            "that is rounded to two places; three are wanted": lambda: 0.83,
            "that is cut off after two places; three are wanted": lambda: 0.82,
            "negated reviews need no guess here: this classifier may let “not” turn an adjective round, and no text of "
            "the same words says the opposite": lambda: 1 - (3 + 3 + 2 + 2) / 20 / 2,
        },
    ),
    Exercise(
        number="10.2",
        name="mean_pool",
        reference="llmkit.layers.encoder_heads:mean_pool",
        cases=pool_cases,
        starts_from=mean_over_padding,
        tolerance=1e-5,
        gradients=True,
        hints=(
            "Padding must be in neither part of a mean: not in the sum, and not in the number it is divided by.",
            "attention_mask[..., None] has the shape (B, T, 1); as numbers (.type_as(hidden)) it multiplies hidden.",
            "A text of padding alone is 0 / 0. What has the divisor to be there, so that 0 comes out? .clamp(min=…)",
        ),
        wrong={
            "the mean is still taken over all T columns": mean_over_padding,
            "padding was left out of the sum, but the sum is divided by T": pool_only_the_sum,
            "a sum, not a mean: divide by the number of tokens": pool_not_divided,
            "divided by the right number, but padding is still in the sum": pool_divided_only,
            "0 / 0 for a text of padding alone; zeros are wanted there": pool_nan_for_nothing,
            "divided by the number of tokens in the whole batch; each text has its own": pool_of_the_whole_batch,
            "the wrong axis: tokens are axis 1": pool_over_the_wrong_axis,
            "that is the first token, not the mean": pool_the_first,
            "padding may stand on the left too: the first n columns need not be the tokens": pool_left_padding_forgotten,
            "the mask is true for tokens, and here the padding was averaged": pool_the_padding,
            "hidden[mask] joins the tokens of all texts; each text has its own mean": pool_all_texts_joined,
            "the mean of no rows is NaN; a text of padding alone gets zeros": pool_mean_of_no_rows,
            "attention_mask may be None: then all T tokens are real": pool_mask_must_be_given,
            "a mask of ones and zeros was used as an index, so it picked tokens 1 and 0: attention_mask.bool() first": (
                pool_mask_as_index
            ),
            "the result should have the type of hidden": pool_in_float32,
        },
    ),
    Exercise(
        number="10.3",
        name="fit_temperature",
        reference="llmkit.evaluation.calibration:fit_temperature",
        cases=temperature_cases,
        compare=same_temperature,
        tolerance=0.015,  # only for naming slips: a learner's grid is another than that of the slip
        hints=(
            "_check_shapes(logits, labels, 'logits') refuses what has to be refused, all but wrong ends.",
            "A grid that is even in ln T: math.log(low) to math.log(high) in some 2,000 steps, then math.exp of each.",
            "min(grid, key=loss) gives the T with the smallest loss. Neighbours on the grid must differ by less than 1%.",
            "Golden section instead: of the losses at two inner points, which end of the interval can be thrown away?",
        ),
        wrong={
            "the logits were multiplied by T; they are divided": temperature_multiplied,
            "accuracy does not depend on T at all: it is the loss that has to be small": temperature_by_accuracy,
            "that makes the mean confidence equal the accuracy; what is wanted is the smallest loss": (
                temperature_matches_confidence
            ),
            "the mean of the probabilities was made large; the mean of their logarithms is wanted": (
                temperature_of_likelihood
            ),
            "the largest loss, not the smallest": temperature_largest_loss,
            "that is the smallest loss; the T that gives it is wanted": temperature_smallest_loss_itself,
            "even steps of T are too coarse where T is small: even steps of ln T": temperature_in_even_steps,
            "low and high were not used": temperature_with_ends_fixed,
            "that is ln T; T is wanted": temperature_its_logarithm,
            "F.cross_entropy takes logits: it does the softmax itself": temperature_softmax_twice,
            "bad input has to be refused: _check_shapes, and low and high by hand": temperature_never_refuses,
        },
    ),
    Exercise(
        number="10.4",
        name="align_labels",
        reference="llmkit.data.masking:align_labels",
        cases=align_cases,
        hints=(
            "Go through the words of the tokens and remember the one before: a token is the first of its word when its "
            "number is another than that.",
            "Word number 0 is a word too: ask `word is None`, not `not word`.",
            "Ask whether 0 <= word < len(labels) before you look the label up.",
        ),
        wrong={
            "every piece of a word got its label; only the first is to have it": align_every_piece,
            "the last piece of each word has the label; it should be the first": align_last_piece,
            "labels were written one after the other, without looking at which word a token belongs to": align_in_order,
            "0 is a label; tokens without one get -100": align_pads_with_zero,
            "there must be one label for each token, [CLS] and [SEP] included": align_drops_special,
            "every token has an entry: those without a label get -100, they are not left out": align_drops_all_without,
            "tokens without a label get -100 (IGNORE), which the loss leaves out, not None": align_none_for_none,
            "a token of a word without a label has to raise ValueError, not to get -100": align_ignores_what_is_missing,
            "word number 0 was taken for no word at all: `0` is false in Python, ask `is None`": align_by_falsehood,
            "two words with the same label are still two words: compare words, not labels": align_new_label_only,
            "a number that comes again after [SEP] is a word of another sentence, and has a first token again": (
                align_each_word_once
            ),
            "a word without a label has to raise ValueError (and -1 would quietly take the last label)": (
                align_index_error
            ),
            "after None a new word begins, even one of the same number: None has to be remembered too": (
                align_before_not_moved
            ),
        },
    ),
    Exercise(
        number="10.5",
        name="bio_spans",
        reference="llmkit.evaluation.spans:bio_spans",
        cases=span_cases,
        compare=same_spans,
        hints=(
            "Remember where the open span began and of which type it is; no type means that none is open.",
            "An I- of the open type is the only tag that goes on. Every other tag closes what is open.",
            "After closing: does this tag open a new span? B- does, O does not, I- does unless strict.",
            "A span that is open at the end must be closed too: an extra O behind the tags saves a special case.",
        ),
        wrong={
            "a span that reaches the end of the sentence is lost": spans_without_the_last,
            "end is the place after the last word, as in words[start:end]": spans_end_inclusive,
            "every word became a span of its own; I- goes on with the span before it": spans_of_single_words,
            "only the first word of each entity; I- goes on with it": spans_only_b,
            "an I- of another type does not go on with the open span": spans_type_not_compared,
            "B- always begins a new span, also right after one of the same type": spans_b_goes_on,
            "when strict is False, an I- that goes on with nothing begins a span": spans_always_strict,
            "strict makes no difference: an I- that goes on with nothing must be left out then": spans_never_strict,
            "once a span is closed it stays closed: in B-PER I-LOC I-PER the last one goes on with nothing": (
                spans_strict_goes_on_after
            ),
            "strict also leaves out the I- that follow an I- which goes on with nothing": spans_strict_second_i_begins,
            "the type is what stands after B- or I-": spans_type_with_prefix,
            "a type may have a hyphen itself: cut at the first one only (parse_tag does)": spans_type_cut_at_hyphen,
            "start and end are exchanged": spans_start_last,
            "the values are right, but they are bare tuples: write Span(start, end, type)": spans_bare,
            "what is no tag has to raise ValueError; parse_tag does": spans_anything_is_a_tag,
        },
    ),
    Exercise(
        number="10.6",
        name="by_hand",
        reference=by_hand,
        tolerance=0.004,
        hints=(
            "Write down the spans of both rows: (words, type). A predicted one counts when the same is in the other row.",
            "B-PER B-ORG is two spans of one word. How many were predicted, how many were to be found?",
            "Precision divides by the predicted ones, recall by those to be found; F1 is 2PR / (P + R).",
        ),
        wrong={
            "precision and recall are exchanged": lambda: [1 / 3, 1 / 4, 2 / 7],
            "“Mia” and “Shipping” were predicted as two spans, so four were predicted": lambda: [1 / 3, 1 / 3, 1 / 3],
            "half an entity is none: “Lina” alone is not “Lina Oakford”": lambda: [2 / 4, 2 / 3, 4 / 7],
            "those are shares of tags; spans are counted": lambda: [4 / 7, 4 / 7, 4 / 7],
            "percentages; numbers between 0 and 1 are wanted": lambda: [25.0, 100 / 3, 200 / 7],
            "F1 is the harmonic mean, 2PR / (P + R), not the middle": lambda: [1 / 4, 1 / 3, 7 / 24],
            "F1 is missing: three numbers are wanted": lambda: [1 / 4, 1 / 3],
            "the type has to be right too, and the whole span: only “Ashby” is": lambda: [3 / 4, 3 / 3, 6 / 7],
        },
    ),
    Exercise(
        number="10.7",
        name="lazy",
        reference=lazy,
        tolerance=0.002,
        hints=(
            "It is right wherever the right tag is O.",
            "Put the tags of all sentences in one list, and count how many of them are O.",
        ),
        wrong={
            "that is the share of words that belong to an entity, where it is wrong": _share_of_entity_words,
            "that is the entity F1; token accuracy is asked": lambda: 0.0,
            "that is the other test set, the one with names never seen": lambda: lazy(unseen=True),
            "that is the mean of the sentences' shares; count all words together": _mean_of_sentences,
            "a percentage; a number between 0 and 1 is wanted": lambda: 100 * lazy(),
        },
    ),
]
