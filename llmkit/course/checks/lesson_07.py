"""Lesson 07: the cache's positions, samplers, speculative decoding."""

import torch

from llmkit.course.compare import first_difference
from llmkit.course.exercise import Case, Exercise
from llmkit.generation.logits import repetition_penalty, top_p
from llmkit.generation.speculative import tokens_per_pass
from llmkit.layers.transformer import token_positions


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _left_padded(n_columns: int, lengths: list[int]) -> torch.Tensor:
    return torch.arange(n_columns) >= n_columns - torch.tensor(lengths)[:, None]


# --- 7.1 work without a cache, by hand ---


def work() -> int:
    return sum(10 + i for i in range(20))


# --- 7.2 token_positions (find the bug) ---


def position_cases() -> list[Case]:
    return [
        Case("a prompt of 4, nothing cached", lambda: (4, 0)),
        Case("one new token after 3", lambda: (1, 3)),
        Case("two new tokens after 5", lambda: (2, 5)),
        Case("start left out: 0", lambda: (3,)),
        Case("a mask without padding", lambda: (4, 0, torch.ones(2, 4, dtype=torch.bool))),
        Case("padding on the left, nothing cached", lambda: (5, 0, _left_padded(5, [5, 3, 1]))),
        Case("padding on the left, one new token after 5", lambda: (1, 5, _left_padded(6, [6, 4, 2]))),
        Case("padding on the left, three new tokens after 4", lambda: (3, 4, _left_padded(7, [7, 5]))),
        Case("a mask of ones and zeros", lambda: (2, 3, _left_padded(5, [3, 5, 4]).long())),
        Case("all that is cached is padding", lambda: (2, 3, _left_padded(5, [2, 1]))),
    ]


def same_positions(expected, got, arguments) -> str | None:
    """Nobody looks at padding, so its positions may be any that exist."""
    if len(arguments) == 3 and isinstance(got, torch.Tensor) and got.shape == expected.shape:
        padding = ~arguments[2][:, -expected.size(1) :].bool()
        outside = (got < 0) | (got >= arguments[2].size(1))
        if (outside & padding).any():
            return "a position of padding is below 0 or beyond the text: a table of positions has no such row"
        expected, got = expected.masked_fill(padding, 0), got.masked_fill(padding, 0)
    difference = first_difference(expected, got, 0.0)
    return str(difference) if difference else None


def positions_from_zero(n_new, start=0, attention_mask=None, device=None):
    if attention_mask is None:
        return torch.arange(n_new, device=device)
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, :n_new]


def positions_masked_from_the_front(n_new, start=0, attention_mask=None, device=None):
    if attention_mask is None:
        return torch.arange(start, start + n_new)
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, :n_new]


def positions_with_padding(n_new, start=0, attention_mask=None, device=None):
    index = torch.arange(start, start + n_new)
    return index if attention_mask is None else index.expand(len(attention_mask), n_new)


def positions_from_one(n_new, start=0, attention_mask=None, device=None):
    return token_positions(n_new, start, attention_mask) + 1


def positions_of_everything(n_new, start=0, attention_mask=None, device=None):
    if attention_mask is None:
        return torch.arange(start + n_new)
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def positions_to_n_new(n_new, start=0, attention_mask=None, device=None):
    if attention_mask is None:
        return torch.arange(start, n_new)  # raises where start > n_new
    return token_positions(n_new, start, attention_mask)


def positions_new_part_only(n_new, start=0, attention_mask=None, device=None):
    if attention_mask is None:
        return torch.arange(start, start + n_new)
    return (attention_mask.long()[:, start:].cumsum(-1) - 1).clamp(min=0)


def positions_added_to_start(n_new, start=0, attention_mask=None, device=None):
    if attention_mask is None:
        return torch.arange(start, start + n_new)
    return start + (attention_mask.long()[:, start:].cumsum(-1) - 1).clamp(min=0)


def positions_start_twice(n_new, start=0, attention_mask=None, device=None):
    if attention_mask is None:
        return torch.arange(start, start + n_new)
    return start + token_positions(n_new, start, attention_mask)


def positions_of_the_first_columns_moved(n_new, start=0, attention_mask=None, device=None):
    return start + positions_from_zero(n_new, start, attention_mask)


# --- 7.3 temperature, by hand ---


def _softmax_of_probabilities() -> float:
    return torch.tensor([0.8 / 0.5, 0.2 / 0.5]).softmax(-1)[0].item()


def p_sharp() -> float:
    return 0.8**2 / (0.8**2 + 0.2**2)


# --- 7.4 top_p ---


def top_p_cases() -> list[Case]:
    def row(*probs):
        return torch.tensor([probs]).log()

    cases = [
        Case("the example", lambda: (row(0.5, 0.3, 0.2), 0.6)),
        Case("not in order", lambda: (row(0.1, 0.6, 0.25, 0.05), 0.7)),
        Case("the first alone is enough", lambda: (row(0.2, 0.7, 0.1), 0.4)),
        Case("a tiny p keeps the most probable", lambda: (row(0.2, 0.45, 0.35), 0.01)),
        Case("p = 1 keeps all", lambda: (row(0.2, 0.5, 0.3), 1.0)),
        Case("p = 1 keeps all, also where rounding makes the sum reach 1 early", lambda: (_steep(), 1.0)),
        Case("all equal, half of it: the first ones count first", lambda: (torch.zeros(1, 4), 0.5)),
        Case("p = 0 is refused", lambda: (row(0.5, 0.5), 0.0)),
        Case("p above 1 is refused", lambda: (row(0.5, 0.5), 1.5)),
        Case("some are forbidden already", lambda: (row(0.5, 0.0, 0.3, 0.2), 0.6)),
        Case("two rows, each with its own order", lambda: (torch.cat([row(0.1, 0.6, 0.3), row(0.55, 0.2, 0.25)]), 0.7)),
    ]
    for seed, p in enumerate((0.3, 0.5, 0.8, 0.9, 0.97)):
        cases.append(Case(f"3 rows of 11 tokens, p = {p}", lambda seed=seed, p=p: (_random(3, 11, seed=seed) * 2, p)))
    cases.append(Case("float64", lambda: (_random(2, 7, seed=9, dtype=torch.float64), 0.6)))
    return cases


def _steep() -> torch.Tensor:
    return torch.tensor([[-40.0, 30.0, 0.0, -20.0]])


def _refuse(p: float) -> None:
    if not 0 < p <= 1:
        raise ValueError("p")


def _cut(logits, p, drop_of):
    """top_p, with another rule for which of the sorted tokens are dropped."""
    _refuse(p)
    if p == 1:
        return logits
    probs, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    drop = drop_of(probs)
    return logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)


def top_p_boundary_dropped(logits, p):
    def drop_of(probs):
        drop = probs.cumsum(-1) > p
        drop[..., 0] = False
        return drop

    return _cut(logits, p, drop_of)


def top_p_boundary_dropped_always(logits, p):
    return _cut(logits, p, lambda probs: probs.cumsum(-1) > p)


def top_p_rounded_at_1(logits, p):
    _refuse(p)
    probs, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    drop = probs.cumsum(-1) - probs >= p
    return logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)


def top_p_one_too_many(logits, p):
    def drop_of(probs):
        reached = probs.cumsum(-1) - probs >= p
        return torch.cat([torch.zeros_like(reached[..., :1]), reached[..., :-1]], dim=-1)

    return _cut(logits, p, drop_of)


def top_p_not_sorted(logits, p):
    _refuse(p)
    probs = logits.softmax(-1)
    return logits if p == 1 else logits.masked_fill(probs.cumsum(-1) - probs >= p, -torch.inf)


def top_p_not_put_back(logits, p):
    _refuse(p)
    if p == 1:
        return logits
    probs = logits.softmax(-1).sort(dim=-1, descending=True).values
    return logits.masked_fill(probs.cumsum(-1) - probs >= p, -torch.inf)


def top_p_sorted_logits_back(logits, p):
    _refuse(p)
    ordered = logits.sort(dim=-1, descending=True).values
    probs = ordered.softmax(-1)
    return ordered if p == 1 else ordered.masked_fill(probs.cumsum(-1) - probs >= p, -torch.inf)


def top_p_least_probable_first(logits, p):
    _refuse(p)
    if p == 1:
        return logits
    probs, order = logits.softmax(-1).sort(dim=-1, stable=True)
    drop = probs.cumsum(-1) - probs >= p
    return logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)


def top_p_each_alone(logits, p):
    _refuse(p)
    return logits.masked_fill(logits.softmax(-1) < 1 - p, -torch.inf)


def top_p_zero_instead(logits, p):
    kept = top_p(logits, p)
    return kept.masked_fill(kept == -torch.inf, 0.0)


def top_p_probabilities(logits, p):
    return top_p(logits, p).softmax(-1)


def top_p_of_logits(logits, p):
    _refuse(p)
    if p == 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    drop = ordered.cumsum(-1) - ordered >= p
    return logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)


def top_p_equal_kept(logits, p):
    return _cut(logits, p, lambda probs: probs.cumsum(-1) - probs > p)


def top_p_gathered(logits, p):
    _refuse(p)
    if p == 1:
        return logits
    probs, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    drop = probs.cumsum(-1) - probs >= p
    return logits.masked_fill(drop.gather(-1, order), -torch.inf)


def top_p_in_place(logits, p):
    logits[top_p(logits, p) == -torch.inf] = -torch.inf
    return logits


# --- 7.5 repetition_penalty ---


def penalty_cases() -> list[Case]:
    def make(B, T, V, seed, penalty, mask=None):
        ids = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))
        return (_random(B, V, seed=seed) * 3, ids, penalty) + (() if mask is None else (mask,))

    return [
        Case("the example", lambda: (torch.tensor([[2.0, -2.0, 1.0]]), torch.tensor([[0, 1]]), 2.0)),
        Case("a token that stands there twice", lambda: (torch.tensor([[2.0, 3.0]]), torch.tensor([[1, 1]]), 1.5)),
        Case("nothing changes at 1", lambda: make(2, 4, 6, 0, 1.0)),
        Case("below 1 it is a reward", lambda: make(2, 4, 6, 1, 0.5)),
        Case("two rows, each with its own text", lambda: make(2, 5, 9, 2, 1.3)),
        Case("padding does not count", lambda: make(3, 5, 9, 3, 1.3, _left_padded(5, [5, 3, 1]))),
        Case("a mask of ones and zeros", lambda: make(2, 6, 11, 4, 1.2, _left_padded(6, [2, 6]).long())),
        Case("padding with the id of a token that stands in the text", _shared_id),
        Case("one token", lambda: make(1, 1, 5, 5, 1.7)),
        Case("0 is refused", lambda: make(1, 2, 5, 6, 0.0)),
        Case("a negative penalty is refused", lambda: make(1, 2, 5, 7, -1.0)),
    ]


def _shared_id() -> tuple:
    """Padded on both sides, so that it does not help to let the last or the first place decide."""
    mask = torch.tensor([[False, True, True, False], [True, True, False, False]])
    return torch.tensor([[1.0, 2.0, -3.0], [4.0, -5.0, 6.0]]), torch.tensor([[1, 1, 2, 1], [2, 0, 2, 1]]), 2.0, mask


def _counts(logits, ids, mask):
    real = torch.ones_like(ids) if mask is None else mask.long()
    return torch.zeros_like(logits).scatter_add(-1, ids, real.to(logits.dtype))


def _refuse_penalty(penalty):
    if penalty <= 0:
        raise ValueError("penalty")


def penalty_divides_all(logits, ids, penalty, attention_mask=None):
    _refuse_penalty(penalty)
    return torch.where(_counts(logits, ids, attention_mask) > 0, logits / penalty, logits)


def penalty_for_each_time(logits, ids, penalty, attention_mask=None):
    _refuse_penalty(penalty)
    factor = penalty ** _counts(logits, ids, attention_mask)
    return torch.where(logits > 0, logits / factor, logits * factor)


def penalty_with_padding(logits, ids, penalty, attention_mask=None):
    return repetition_penalty(logits, ids, penalty)


def penalty_of_the_unseen(logits, ids, penalty, attention_mask=None):
    _refuse_penalty(penalty)
    unseen = _counts(logits, ids, attention_mask) == 0
    return torch.where(unseen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def penalty_subtracted(logits, ids, penalty, attention_mask=None):
    _refuse_penalty(penalty)
    return torch.where(_counts(logits, ids, attention_mask) > 0, logits - penalty, logits)


def penalty_the_wrong_way(logits, ids, penalty, attention_mask=None):
    _refuse_penalty(penalty)
    return repetition_penalty(logits, ids, 1 / penalty, attention_mask)


def penalty_for_all_rows(logits, ids, penalty, attention_mask=None):
    _refuse_penalty(penalty)
    seen = (_counts(logits, ids, attention_mask) > 0).any(0, keepdim=True)
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def penalty_divides_all_and_padding(logits, ids, penalty, attention_mask=None):
    return penalty_divides_all(logits, ids, penalty)


def penalty_for_each_time_and_padding(logits, ids, penalty, attention_mask=None):
    return penalty_for_each_time(logits, ids, penalty)


def penalty_padding_last(logits, ids, penalty, attention_mask=None):
    _refuse_penalty(penalty)
    real = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, ids, real)
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def penalty_mask_as_index(logits, ids, penalty, attention_mask=None):
    _refuse_penalty(penalty)
    out = logits.clone()
    for row, tokens in enumerate(ids):
        for token in set((tokens if attention_mask is None else tokens[attention_mask[row]]).tolist()):
            out[row, token] = logits[row, token] / penalty if logits[row, token] > 0 else logits[row, token] * penalty
    return out


def penalty_mask_not_boolean(logits, ids, penalty, attention_mask=None):
    if attention_mask is not None and attention_mask.dtype != torch.bool:
        raise RuntimeError("what torch.where and scatter say")
    return repetition_penalty(logits, ids, penalty, attention_mask)


def penalty_in_place(logits, ids, penalty, attention_mask=None):
    return logits.copy_(repetition_penalty(logits, ids, penalty, attention_mask))


# --- 7.6 residual ---


def residual_cases() -> list[Case]:
    def pair(*shape, seed, sharp=1.5, dtype=torch.float32):
        return tuple((_random(*shape, seed=seed + i, dtype=dtype) * sharp).softmax(-1) for i in (0, 100))

    return [
        Case(
            "the example",
            lambda: (torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.2, 0.3, 0.5])),
        ),
        Case("one token is under-rated", lambda: (torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5]))),
        Case("the two share nothing", lambda: (torch.tensor([0.0, 0.5, 0.5]), torch.tensor([1.0, 0.0, 0.0]))),
        Case("equal: p itself", lambda: (torch.tensor([0.25, 0.75]), torch.tensor([0.25, 0.75]))),
        Case("random, 7 tokens", lambda: pair(7, seed=0)),
        Case("four positions of 5 tokens", lambda: pair(4, 5, seed=1)),
        Case("two texts, three positions", lambda: pair(2, 3, 5, seed=2)),
        Case("one position equal, one not", lambda: tuple(torch.tensor([[0.5, 0.5], x]) for x in ([1.0, 0.0], [0.25, 0.75]))),
        Case("float64", lambda: pair(2, 6, seed=3, dtype=torch.float64)),
    ]  # fmt: skip


def _or_p(wrong):
    """A slip in the formula is a slip whether or not the case p = q was thought of."""

    def function(p, q):
        return torch.where((p == q).all(-1, keepdim=True), p, wrong(p, q))

    return function


def residual_not_normalised(p, q):
    return torch.where((p == q).all(-1, keepdim=True), p, (p - q).clamp(min=0))


def residual_zero_divided(p, q):
    excess = (p - q).clamp(min=0)
    return excess / excess.sum(-1, keepdim=True)


def residual_all_zero(p, q):
    excess = (p - q).clamp(min=0)
    return excess / excess.sum(-1, keepdim=True).clamp(min=1e-30)


@_or_p
def residual_of_q(p, q):
    excess = (q - p).clamp(min=0)
    return excess / excess.sum(-1, keepdim=True)


@_or_p
def residual_absolute(p, q):
    distance = (p - q).abs()
    return distance / distance.sum(-1, keepdim=True)


def residual_is_p(p, q):
    return p


@_or_p
def residual_by_softmax(p, q):
    return (p - q).clamp(min=0).softmax(-1)


@_or_p
def residual_over_everything(p, q):
    excess = (p - q).clamp(min=0)
    return excess / excess.sum()


def residual_over_everything_all_zero(p, q):
    excess = (p - q).clamp(min=0)
    return excess / excess.sum().clamp(min=1e-30)


@_or_p
def residual_by_softmax_of_differences(p, q):
    return (p - q).softmax(-1)


@_or_p
def residual_where_larger(p, q):
    kept = torch.where(p > q, p, 0.0)
    return kept / kept.sum(-1, keepdim=True)


# --- 7.7 tokens_per_pass ---


def pass_cases() -> list[Case]:
    cases = [
        Case("the example", lambda: (0.5, 2)),
        Case("one guess", lambda: (0.8, 1)),
        Case("every guess refused", lambda: (0.0, 3)),
        Case("every guess accepted", lambda: (1.0, 4)),
        Case("no guesses", lambda: (0.7, 0)),
    ]
    return cases + [Case("others", lambda a=a, g=g: (a, g)) for a, g in ((0.9, 8), (0.35, 3), (0.66, 5), (0.99, 20))]


def passes_without_the_last(a, g):
    return float(g) if a == 1 else (1 - a**g) / (1 - a)


def passes_as_if_none_stopped(a, g):
    return 1 + a * g


def passes_for_ever(a, g):
    return float(g + 1) if a == 1 else 1 / (1 - a)


def passes_guesses_only(a, g):
    return tokens_per_pass(a, g) - 1


def passes_divide_by_zero(a, g):
    return (1 - a ** (g + 1)) / (1 - a)


def passes_all_or_nothing(a, g):
    return 1 + g * a**g


EXERCISES = [
    Exercise(
        number="7.1",
        name="work",
        reference=work,
        tolerance=0.0,
        hints=(
            "For the first new token the model reads 10 tokens. How many for the second?",
            "The last new token is never read: nothing is asked of the model after it.",
        ),
        wrong={
            "the text grows: only the first pass reads 10 tokens": lambda: 10 * 20,
            "only the last pass reads that many; the passes before it read fewer": lambda: 20 * 29,
            "every pass was taken to read the finished text of 30 tokens": lambda: 20 * 30,
            "one token too many in every pass: the first one reads the prompt alone, which is 10": (
                lambda: sum(11 + i for i in range(20))
            ),
            "that is the work with a cache; this exercise is without one": lambda: 29,
            "that counts new tokens; count what the model has to read for them": lambda: 20,
            "that is how long the text is in the end; count every call, and all that it reads": lambda: 30,
            "the prompt is part of the text, so every call reads its 10 tokens too": lambda: sum(range(20)),
            "every call reads the prompt of 10 too; and the last new token is read by none": lambda: sum(range(21)),
        },
    ),
    Exercise(
        number="7.2",
        name="token_positions",
        reference="llmkit.layers.transformer:token_positions",
        cases=position_cases,
        starts_from=positions_from_zero,
        tolerance=0.0,
        compare=same_positions,
        hints=(
            "Three tokens are cached and one comes: it is the fourth of its text. Which position is that?",
            "The mask covers the cached tokens too, so its running sum counts from the beginning of the text.",
            "Of the (B, start + n_new) positions that the running sum gives, which columns are the new tokens'?",
        ),
        wrong={
            "positions start at 0 again: the new token believes that it is the first of the text": positions_from_zero,
            "without a mask it is right; with one, the first n_new columns were taken, and those are cached "
            "tokens": positions_masked_from_the_front,
            "padding was counted: a text of 2 tokens begins at position 0 however much padding stands before it": (
                positions_with_padding
            ),
            "positions count from 1; the first token of a text has 0": positions_from_one,
            "those are the positions of all tokens, the cached ones too; only the new ones are asked for": (
                positions_of_everything
            ),
            "torch.arange(a, b) ends before b: b is not how many there are": positions_to_n_new,
            "with a mask, start was added, but the running sum over all columns has counted the cached tokens "
            "already": positions_start_twice,
            "with a mask, the first n_new columns were taken and moved by start; the new tokens are in the last "
            "columns": positions_of_the_first_columns_moved,
            "with a mask, the running sum began at the new tokens; the cached ones come before them": (
                positions_new_part_only
            ),
            "with a mask, padding among the cached tokens was counted: start is how many columns there are, not how "
            "many tokens": positions_added_to_start,
        },
    ),
    Exercise(
        number="7.3",
        name="p_sharp",
        reference=p_sharp,
        tolerance=5e-3,
        hints=(
            "Dividing a logit by T turns P into P to the power 1/T, before they are made to sum to 1 again.",
            "1/T is 2 here: square both probabilities, then divide by the sum of the squares.",
        ),
        wrong={
            "the squares do not sum to 1 yet: divide by their sum": lambda: 0.8**2,
            "that is for a temperature of 2, the square root; at 0.5 the exponent is 2": (
                lambda: 0.8**0.5 / (0.8**0.5 + 0.2**0.5)
            ),
            "that is the probability at temperature 1, before any change": lambda: 0.8,
            "the logits are divided by T, not the probabilities": lambda: 0.8 / 0.5,
            "the probability was multiplied by T; it becomes a power": lambda: 0.8 * 0.5,
            "that is the other token's": lambda: 0.2**2 / (0.8**2 + 0.2**2),
            "softmax was taken of the probabilities; the logits are their logarithms": _softmax_of_probabilities,
            "a probability is between 0 and 1; that is in per cent": lambda: 100 * p_sharp(),
        },
    ),
    Exercise(
        number="7.4",
        name="top_p",
        reference="llmkit.generation.logits:top_p",
        cases=top_p_cases,
        tolerance=1e-6,
        hints=(
            "logits.softmax(-1).sort(dim=-1, descending=True, stable=True) gives the probabilities and where each stood.",
            "A token stays when the sum of those *before* it is below p: cumsum(-1) minus the token's own probability.",
            "The answer is in sorted order; drop.scatter(-1, order, drop) puts each True or False back in its place.",
        ),
        wrong={
            "the token that crosses p was dropped, so what is kept has less than p": top_p_boundary_dropped,
            "the token that crosses p was dropped; when the first one crosses it, nothing is left": (
                top_p_boundary_dropped_always
            ),
            "at p = 1 every token stays; a rounded sum reached 1 before the last of them": top_p_rounded_at_1,
            "one token too many: stop at the first with which the sum reaches p": top_p_one_too_many,
            "the running sum went through the vocabulary in its own order; the most probable come first": (
                top_p_not_sorted
            ),
            "what was found for the sorted tokens was applied to the unsorted ones: put it back in place first": (
                top_p_not_put_back
            ),
            "the result is in sorted order; every token must keep its place": top_p_sorted_logits_back,
            "sorted upwards: the least probable tokens were kept": top_p_least_probable_first,
            "each probability was compared alone; the sum of the most probable ones decides": top_p_each_alone,
            "forbidden tokens have logit 0, which is not impossible; they need -inf": top_p_zero_instead,
            "those are probabilities; give the logits back, with -inf where forbidden": top_p_probabilities,
            "logits were added up; p is about probabilities, so softmax comes first": top_p_of_logits,
            "a token was kept although those more probable than it sum to exactly p: it stays only where they sum to "
            "less": top_p_equal_kept,
            "gather reads from the places in order; to put each flag back where its token stood, write there": (
                top_p_gathered
            ),
            "the cut is right, but it was written into the logits that were given; masked_fill makes new ones": (
                top_p_in_place
            ),
        },
    ),
    Exercise(
        number="7.5",
        name="repetition_penalty",
        reference="llmkit.generation.logits:repetition_penalty",
        cases=penalty_cases,
        tolerance=1e-6,
        hints=(
            "Make a table seen (B, V) of True and False first: torch.zeros_like(logits, dtype=torch.bool).",
            "A negative logit divided by 2 comes closer to 0: the token becomes *more* probable.",
            "With a mask, go row by row: seen[row, tokens[real]] = True marks the tokens that are not padding.",
        ),
        wrong={
            "negative logits were divided too, and so became more probable": penalty_divides_all,
            "a token is penalised once, however often it stands there": penalty_for_each_time,
            "padding was counted as text": penalty_with_padding,
            "the tokens that are *not* in the text were penalised": penalty_of_the_unseen,
            "the penalty was subtracted; it is a factor": penalty_subtracted,
            "the wrong way round: what was said becomes more probable": penalty_the_wrong_way,
            "what one text of the batch said was held against all of them": penalty_for_all_rows,
            "negative logits were divided too, and so became more probable; and padding was counted as text": (
                penalty_divides_all_and_padding
            ),
            "a token is penalised once, however often it stands there; and padding was counted as text": (
                penalty_for_each_time_and_padding
            ),
            "a token of the text was let off because padding has the same id: scatter writes False there too, over "
            "the True": penalty_padding_last,
            "a mask of ones and zeros was used as an index, so it picked tokens 1 and 0: attention_mask.bool() first": (
                penalty_mask_as_index
            ),
            "the penalty is right, but it was written into the logits that were given: begin with logits.clone(), or "
            "use torch.where": penalty_in_place,
            "the mask may come as ones and zeros; attention_mask.bool() makes both kinds alike": (
                penalty_mask_not_boolean
            ),
        },
    ),
    Exercise(
        number="7.6",
        name="residual",
        reference="llmkit.generation.speculative:residual",
        cases=residual_cases,
        tolerance=2e-6,
        hints=(
            "(p - q).clamp(min=0) is what the target gives a token beyond what the draft gives it.",
            "Divide by the sum over the last axis, with keepdim=True, so that each row sums to 1.",
            "Where p = q that sum is 0: torch.where(total > 0, …, p) chooses p there.",
        ),
        wrong={
            "it does not sum to 1: divide by its sum": residual_not_normalised,
            "0 / 0 where p and q are equal; p is wanted there": residual_zero_divided,
            "zeros everywhere where p and q are equal; p is wanted there": residual_all_zero,
            "the wrong way round: that is where the draft gives too much": residual_of_q,
            "negative differences count as 0; here they became positive": residual_absolute,
            "that is p itself. The draft's accepted guesses have covered a part of p already; what is left of it is "
            "wanted": residual_is_p,
            "softmax turns the zeros into probabilities; divide by the sum instead": residual_by_softmax,
            "divided by the sum over all positions; each row sums to 1 by itself": residual_over_everything,
            "divided by the sum over all positions, where each row sums to 1 by itself; and zeros where p and q are "
            "equal": residual_over_everything_all_zero,
            "softmax lets every token through; negative differences count as 0, and the rest is divided by its sum": (
                residual_by_softmax_of_differences
            ),
            "where p is larger, only the excess p - q counts, not all of p": residual_where_larger,
        },
    ),
    Exercise(
        number="7.7",
        name="tokens_per_pass",
        reference="llmkit.generation.speculative:tokens_per_pass",
        cases=pass_cases,
        hints=(
            "At least 1 token always comes out. The second comes out if the first guess is accepted: with chance a.",
            "The third needs both guesses: a². Add these chances up to the last: 1 + a + a² + … (how many terms?).",
            "If you use the closed form of the sum, look at a = 1.",
        ),
        wrong={
            "one term is missing: after the last accepted guess the target gives one more token": passes_without_the_last,
            "the guesses after a refused one are thrown away, so they do not all count": passes_as_if_none_stopped,
            "that is for endlessly many guesses": passes_for_ever,
            "those are the accepted guesses; the target's own token comes on top": passes_guesses_only,
            "0 / 0 when every guess is accepted": passes_divide_by_zero,
            "all or nothing: if only the first guesses are right, those are kept": passes_all_or_nothing,
        },
    ),
]
