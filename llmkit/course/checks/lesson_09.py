"""Lesson 09: what a masked model sees, filling gaps, pairs, RoBERTa's positions, pseudo-log-likelihood."""

import torch
from torch import Tensor

from llmkit.course.exercise import Case, Exercise
from llmkit.data.masking import replace_chosen
from llmkit.data.sentence_pairs import join_pair
from llmkit.evaluation.pseudo_likelihood import pseudo_log_likelihood
from llmkit.layers.encoder_heads import fill_mask


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _ids(*shape: int, seed: int = 0, low: int = 5, high: int = 20) -> Tensor:
    return torch.randint(low, high, shape, generator=_generator(seed))


# --- 9.1 Bayes in a gap, by hand ---


def p_cat() -> float:
    return (12 / 24 * 30 / 90) / (12 / 24 * 30 / 90 + 5 / 24 * 20 / 70)


# --- 9.2 what stays as it was, by hand ---


def unchanged() -> float:
    return 10_000 * 0.85 + 10_000 * 0.15 * 0.1


# --- 9.3 replace_chosen ---


def replace_cases() -> list[Case]:
    def make(B: int, T: int, seed: int, rate: float, *shares: float):
        chosen = torch.rand(B, T, generator=_generator(seed + 50)) < rate
        return _ids(B, T, seed=seed), chosen, 4, 20, _generator(seed), *shares

    cases = [
        Case("everything chosen becomes [MASK]", lambda: make(1, 6, 0, 0.5, 1.0, 0.0)),
        Case("all [MASK], whatever the random share", lambda: make(1, 7, 0, 0.5, 1.0, 0.3)),
        Case("nothing is chosen", lambda: make(2, 5, 1, 0.0)),
        Case("8 of 10 [MASK], none random", lambda: make(2, 30, 2, 0.6, 0.8, 0.0)),
        Case("all chosen, none [MASK], half of them random", lambda: make(2, 30, 3, 1.1, 0.0, 0.5)),
        Case("half [MASK], half random", lambda: make(2, 30, 4, 0.7, 0.5, 0.5)),
    ]
    for seed in range(5, 9):
        cases.append(
            Case(f"BERT's shares, 3 texts of 40 tokens, seed {seed}", lambda seed=seed: make(3, 40, seed, 0.5))
        )
    cases.append(
        Case("the generator stands elsewhere: 6 [MASK], 3 random of 10", lambda: make(4, 33, 9, 0.4, 0.6, 0.3))
    )
    return cases


def _bernoulli(p: float, ids: Tensor, generator) -> Tensor:
    return torch.bernoulli(torch.full(ids.shape, float(p)), generator=generator).bool()


def _replaced(ids, chosen, mask_id, vocab_size, generator, mask_share, random_share, rest, where):
    """replace_chosen with another probability for the rest, or with another set of places that become random."""
    inputs = ids.clone()
    masked = _bernoulli(mask_share, ids, generator) & chosen
    inputs[masked] = mask_id
    if mask_share == 1 or random_share == 0:
        return inputs
    drawn = _bernoulli(rest(mask_share, random_share), ids, generator)
    random_ids = torch.randint(vocab_size, ids.shape, generator=generator)
    replaced = where(drawn, chosen, masked)
    inputs[replaced] = random_ids[replaced]
    return inputs


def _right_rest(mask_share, random_share):
    return random_share / (1 - mask_share)


def replace_share_of_all(ids, chosen, mask_id, vocab_size, generator=None, mask_share=0.8, random_share=0.1):
    return _replaced(
        ids, chosen, mask_id, vocab_size, generator, mask_share, random_share,
        lambda m, r: r, lambda drawn, chosen, masked: drawn & chosen & ~masked,
    )  # fmt: skip


def replace_masks_again(ids, chosen, mask_id, vocab_size, generator=None, mask_share=0.8, random_share=0.1):
    return _replaced(
        ids, chosen, mask_id, vocab_size, generator, mask_share, random_share,
        _right_rest, lambda drawn, chosen, masked: drawn & chosen,
    )  # fmt: skip


def replace_unchosen_too(ids, chosen, mask_id, vocab_size, generator=None, mask_share=0.8, random_share=0.1):
    return _replaced(
        ids, chosen, mask_id, vocab_size, generator, mask_share, random_share,
        _right_rest, lambda drawn, chosen, masked: drawn & ~masked,
    )  # fmt: skip


def replace_masks_everywhere(ids, chosen, mask_id, vocab_size, generator=None, mask_share=0.8, random_share=0.1):
    inputs = replace_chosen(ids, torch.ones_like(chosen), mask_id, vocab_size, generator, mask_share, random_share)
    return inputs


def replace_rest_all_random(ids, chosen, mask_id, vocab_size, generator=None, mask_share=0.8, random_share=0.1):
    return _replaced(
        ids, chosen, mask_id, vocab_size, generator, mask_share, random_share,
        _right_rest, lambda drawn, chosen, masked: chosen & ~masked,
    )  # fmt: skip


def replace_with_mask_only(ids, chosen, mask_id, vocab_size, generator=None, mask_share=0.8, random_share=0.1):
    return ids.masked_fill(chosen, mask_id)


def replace_nothing_random(ids, chosen, mask_id, vocab_size, generator=None, mask_share=0.8, random_share=0.1):
    return ids.masked_fill(_bernoulli(mask_share, ids, generator) & chosen, mask_id)


def replace_tokens_drawn_early(ids, chosen, mask_id, vocab_size, generator=None, mask_share=0.8, random_share=0.1):
    inputs = ids.clone()
    masked = _bernoulli(mask_share, ids, generator) & chosen
    inputs[masked] = mask_id
    if mask_share == 1 or random_share == 0:
        return inputs
    random_ids = torch.randint(vocab_size, ids.shape, generator=generator)
    replaced = _bernoulli(_right_rest(mask_share, random_share), ids, generator) & chosen & ~masked
    inputs[replaced] = random_ids[replaced]
    return inputs


def replace_half_of_the_rest(ids, chosen, mask_id, vocab_size, generator=None, mask_share=0.8, random_share=0.1):
    return _replaced(
        ids, chosen, mask_id, vocab_size, generator, mask_share, random_share,
        lambda m, r: 0.5, lambda drawn, chosen, masked: drawn & chosen & ~masked,
    )  # fmt: skip


def replace_draws_few_tokens(ids, chosen, mask_id, vocab_size, generator=None, mask_share=0.8, random_share=0.1):
    inputs = ids.clone()
    masked = _bernoulli(mask_share, ids, generator) & chosen
    inputs[masked] = mask_id
    if mask_share == 1 or random_share == 0:
        return inputs
    replaced = _bernoulli(_right_rest(mask_share, random_share), ids, generator) & chosen & ~masked
    inputs[replaced] = torch.randint(vocab_size, (int(replaced.sum()),), generator=generator)
    return inputs


def replace_without_generator(ids, chosen, mask_id, vocab_size, generator=None, mask_share=0.8, random_share=0.1):
    return replace_chosen(ids, chosen, mask_id, vocab_size, _generator(12345), mask_share, random_share)


def replace_gives_labels(ids, chosen, mask_id, vocab_size, generator=None, mask_share=0.8, random_share=0.1):
    return ids.masked_fill(~chosen, -100)


def replace_in_place(ids, chosen, mask_id, vocab_size, generator=None, mask_share=0.8, random_share=0.1):
    return ids.copy_(replace_chosen(ids, chosen, mask_id, vocab_size, generator, mask_share, random_share))


def replace_divides_by_zero(ids, chosen, mask_id, vocab_size, generator=None, mask_share=0.8, random_share=0.1):
    if mask_share == 1:
        raise ZeroDivisionError("what random_share / (1 - mask_share) says")
    return replace_chosen(ids, chosen, mask_id, vocab_size, generator, mask_share, random_share)


# --- 9.4 fill_mask ---


def _toy_model(seed: int, V: int = 9):
    """A deterministic (ids, attention_mask) -> logits whose answer depends on both neighbours and on the mask."""
    left, right = (torch.randn(30, V, generator=_generator(seed + i)) for i in (0, 1000))

    def model(ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        real = torch.ones_like(ids) if attention_mask is None else attention_mask.long()
        shown = ids * real
        before = torch.cat([torch.zeros_like(shown[:, :1]), shown[:, :-1]], dim=1)
        after = torch.cat([shown[:, 1:], torch.zeros_like(shown[:, :1])], dim=1)
        return 2 * left[before] + 2 * right[after] + 0.5 * left[shown]  # (B, T, V)

    return model


def fill_cases() -> list[Case]:
    def make(seed: int, rows: list[list[int]], k: int, mask=None):
        return (_toy_model(seed), torch.tensor(rows), 4, k) + (() if mask is None else (torch.tensor(mask),))

    return [
        Case("one gap, the best token", lambda: make(0, [[7, 4, 8]], 1)),
        Case("one gap, the three best", lambda: make(1, [[7, 4, 8, 9]], 3)),
        Case("two gaps in one text", lambda: make(2, [[4, 6, 7, 4, 8]], 2)),
        Case("two texts, one gap each", lambda: make(3, [[5, 6, 4, 7], [4, 8, 9, 5]], 4)),
        Case("two texts, two gaps and one", lambda: make(4, [[4, 6, 4, 7], [8, 9, 5, 4]], 3)),
        Case("no gap: two tensors (0, k)", lambda: make(5, [[5, 6, 7]], 2)),
        Case("with an attention mask", lambda: make(6, [[5, 4, 6, 7], [9, 4, 0, 0]], 3, [[1, 1, 1, 1], [1, 1, 0, 0]])),
        Case("an attention mask that hides a neighbour", lambda: make(7, [[5, 4, 6]], 2, [[1, 1, 0]])),
        Case("k left out: five", lambda: (_toy_model(8), torch.tensor([[6, 4, 7]]), 4)),
        Case("logits in half precision", lambda: (_half(_toy_model(9)), torch.tensor([[6, 4, 7, 4]]), 4, 3)),
    ]


def _half(model):
    return lambda ids, attention_mask=None: model(ids, attention_mask).bfloat16()


def fill_logits(model, ids, mask_id, k=5, attention_mask=None):
    scores, tokens = model(ids, attention_mask)[ids == mask_id].float().topk(k, dim=-1)
    return tokens, scores


def fill_log_probabilities(model, ids, mask_id, k=5, attention_mask=None):
    log_p, tokens = model(ids, attention_mask)[ids == mask_id].float().log_softmax(-1).topk(k, dim=-1)
    return tokens, log_p


def fill_swapped(model, ids, mask_id, k=5, attention_mask=None):
    return fill_mask(model, ids, mask_id, k, attention_mask)[::-1]


def fill_among_k(model, ids, mask_id, k=5, attention_mask=None):
    scores, tokens = model(ids, attention_mask)[ids == mask_id].float().topk(k, dim=-1)
    return tokens, scores.softmax(-1)


def fill_float_too_late(model, ids, mask_id, k=5, attention_mask=None):
    probs, tokens = model(ids, attention_mask)[ids == mask_id].softmax(-1).float().topk(k, dim=-1)
    return tokens, probs


def fill_without_mask(model, ids, mask_id, k=5, attention_mask=None):
    return fill_mask(model, ids, mask_id, k)


def fill_all_places(model, ids, mask_id, k=5, attention_mask=None):
    probs, tokens = model(ids, attention_mask).float().softmax(-1).topk(k, dim=-1)
    return tokens, probs


def fill_first_only(model, ids, mask_id, k=5, attention_mask=None):
    logits = model(ids, attention_mask)
    first = (ids == mask_id).int().argmax(1)
    probs, tokens = logits[torch.arange(len(ids)), first].float().softmax(-1).topk(k, dim=-1)
    return tokens, probs


def fill_one_to_the_left(model, ids, mask_id, k=5, attention_mask=None):
    before = torch.roll(ids == mask_id, -1, dims=1)
    probs, tokens = model(ids, attention_mask)[before].float().softmax(-1).topk(k, dim=-1)
    return tokens, probs


def fill_least(model, ids, mask_id, k=5, attention_mask=None):
    probs, tokens = model(ids, attention_mask)[ids == mask_id].float().softmax(-1).topk(k, dim=-1, largest=False)
    return tokens, probs


def fill_over_gaps(model, ids, mask_id, k=5, attention_mask=None):
    probs, tokens = model(ids, attention_mask)[ids == mask_id].float().softmax(0).topk(k, dim=-1)
    return tokens, probs


def fill_half(model, ids, mask_id, k=5, attention_mask=None):
    probs, tokens = model(ids, attention_mask)[ids == mask_id].softmax(-1).topk(k, dim=-1)
    return tokens, probs


# --- 9.5 join_pair ---


def pair_cases() -> list[Case]:
    return [
        Case("the example", lambda: ([7, 8], [9], 1, 2)),
        Case("a longer second text", lambda: ([7], [8, 9, 10], 1, 2)),
        Case("other special ids", lambda: ([7, 8, 9], [5, 6], 101, 102)),
        Case("no second text", lambda: ([7, 8], [], 1, 2)),
        Case("an empty first text", lambda: ([], [9, 8], 1, 2)),
        Case("tuples", lambda: ((3, 4), (5,), 1, 2)),
    ]


def pair_sep_in_segment_1(first, second, cls_id, sep_id):
    ids, types = join_pair(first, second, cls_id, sep_id)
    return ids, [0] * (1 + len(first)) + [1] * (len(ids) - 1 - len(first)) if len(second) else types


def pair_last_sep_in_segment_0(first, second, cls_id, sep_id):
    ids, types = join_pair(first, second, cls_id, sep_id)
    return ids, [*types[:-1], 0]


def pair_no_last_sep(first, second, cls_id, sep_id):
    ids, types = join_pair(first, second, cls_id, sep_id)
    return (ids[:-1], types[:-1]) if len(second) else (ids, types)


def pair_second_cls(first, second, cls_id, sep_id):
    ids = [cls_id, *first, sep_id]
    return (
        (ids + [cls_id, *second, sep_id], [0] * len(ids) + [1] * (len(second) + 2))
        if len(second)
        else (ids, [0] * len(ids))
    )


def pair_types_from_1(first, second, cls_id, sep_id):
    ids, types = join_pair(first, second, cls_id, sep_id)
    return ids, [t + 1 for t in types]


def pair_empty_second(first, second, cls_id, sep_id):
    ids = [cls_id, *first, sep_id, *second, sep_id]
    return ids, [0] * (len(first) + 2) + [1] * (len(second) + 1)


def pair_cls_without_type(first, second, cls_id, sep_id):
    ids, types = join_pair(first, second, cls_id, sep_id)
    return ids, types[1:]


def pair_two_seps(first, second, cls_id, sep_id):
    """RoBERTa's way: two separators between the texts."""
    if not len(second):
        return join_pair(first, second, cls_id, sep_id)
    return [cls_id, *first, sep_id, sep_id, *second, sep_id], [0] * (len(first) + 2) + [1] * (len(second) + 2)


# --- 9.6 position_ids (find the bug) ---


def position_cases() -> list[Case]:
    def rows(*texts):
        return (torch.tensor(texts),)

    return [
        Case("one text", lambda: rows([5, 6, 7])),
        Case("padding on the right", lambda: rows([5, 6, 7, 8], [5, 6, 1, 1])),
        Case("padding on the left", lambda: rows([5, 6, 7, 8], [1, 1, 5, 6])),
        Case("padding on both sides", lambda: rows([1, 5, 6, 7, 1], [5, 6, 7, 8, 9])),
        Case("nothing but padding", lambda: rows([1, 1, 1], [5, 6, 7])),
        Case("padding in the middle", lambda: rows([5, 1, 6, 7, 1, 8])),
        Case("another padding token", lambda: (torch.tensor([[0, 0, 5, 1], [7, 1, 6, 0]]), 0)),
        Case("random, padded with 3", lambda: (_ids(4, 9, seed=2, low=2, high=6), 3)),
    ]


def positions_by_column(ids, pad_id=1):
    positions = torch.arange(pad_id + 1, pad_id + 1 + ids.size(1)).expand(ids.shape)
    return torch.where(ids == pad_id, pad_id, positions)


def positions_from_0(ids, pad_id=1):
    real = (ids != pad_id).long()
    return (real.cumsum(-1) - 1) * real + (1 - real) * pad_id


def positions_without_offset(ids, pad_id=1):
    real = (ids != pad_id).long()
    return real.cumsum(-1) * real


def positions_padding_not_reset(ids, pad_id=1):
    return (ids != pad_id).long().cumsum(-1) + pad_id


def positions_start_at_pad(ids, pad_id=1):
    real = (ids != pad_id).long()
    return (real.cumsum(-1) - 1) * real + pad_id


def positions_always_1(ids, pad_id=1):
    real = (ids != pad_id).long()
    return real.cumsum(-1) * real + 1


def positions_without_pad_added(ids, pad_id=1):
    return torch.where(ids == pad_id, pad_id, (ids != pad_id).cumsum(-1))


def positions_down_the_batch(ids, pad_id=1):
    real = (ids != pad_id).long()
    return real.cumsum(0) * real + pad_id


def positions_right_but_boolean_of_1(ids, pad_id=1):
    real = (ids != 1).long()
    return real.cumsum(-1) * real + pad_id


def positions_padding_0(ids, pad_id=1):
    real = (ids != pad_id).long()
    return (real.cumsum(-1) + pad_id) * real


def positions_one_too_high(ids, pad_id=1):
    return torch.where(ids == pad_id, pad_id, (ids != pad_id).cumsum(-1) + pad_id + 1)


def positions_only_for_pad_1(ids, pad_id=1):
    return torch.where(ids == 1, 1, (ids != 1).cumsum(-1) + 1)


def positions_less_all_padding(ids, pad_id=1):
    padding = ids == pad_id
    return positions_by_column(ids, pad_id) - (padding.sum(1, keepdim=True) * ~padding)


def positions_less_padding_in_front(ids, pad_id=1):
    padding = ids == pad_id
    front = padding.long().cumprod(1).sum(1, keepdim=True)
    return positions_by_column(ids, pad_id) - front * ~padding


# --- 9.7 pseudo_log_likelihood ---


def pll_cases() -> list[Case]:
    def make(seed: int, text: list[int], special=None, wrap=lambda model: model):
        return (wrap(_toy_model(seed)), torch.tensor(text), 4) + (() if special is None else (torch.tensor(special),))

    return [
        Case("three tokens", lambda: make(0, [7, 6, 8])),
        Case("one token", lambda: make(1, [5])),
        Case("five tokens", lambda: make(2, [7, 6, 8, 0, 5])),
        Case("the first and the last are special", lambda: make(3, [1, 7, 6, 8, 2], [True, False, False, False, True])),
        Case("special as ones and zeros", lambda: make(4, [1, 7, 6, 2], [1, 0, 0, 1])),
        Case("all special: zeros", lambda: make(5, [1, 2], [True, True])),
        Case("special in the middle", lambda: make(6, [7, 6, 2, 8, 3], [False, False, True, False, False])),
        Case("the text holds a [MASK] itself", lambda: make(7, [7, 4, 8])),
        Case("logits in half precision", lambda: make(8, [7, 6, 8, 5], None, _half)),
        Case("all copies in one call", lambda: make(9, [1, 7, 6, 2], [True, False, False, True], _only_once)),
    ]


def _only_once(model):
    """The same model, which complains of a second call."""
    calls = []

    def once(ids, attention_mask=None):
        calls.append(ids)
        if len(calls) > 1:
            raise RuntimeError("a second call of the model; all copies go through it in one")
        return model(ids, attention_mask)

    return once


def _special(ids, special):
    return torch.zeros(len(ids), dtype=torch.bool) if special is None else special.bool()


def _scored(log_p, ids, special):
    picked = log_p.float().log_softmax(-1).gather(-1, ids[:, None]).squeeze(-1)
    return picked.masked_fill(_special(ids, special), 0.0)


def pll_not_hidden(model, ids, mask_id, special=None):
    return _scored(model(ids[None], None)[0], ids, special)


def pll_all_hidden(model, ids, mask_id, special=None):
    hidden = ids.masked_fill(~_special(ids, special), mask_id)
    return _scored(model(hidden[None], None)[0], ids, special)


def pll_right_hidden(model, ids, mask_id, special=None):
    fixed, scores = _special(ids, special), torch.zeros(len(ids))
    for t in range(len(ids)):
        if not fixed[t]:
            copy = ids.clone()
            copy[t:] = torch.where(fixed[t:], ids[t:], mask_id)
            scores[t] = model(copy[None], None)[0, t].float().log_softmax(-1)[ids[t]]
    return scores


def pll_logits(model, ids, mask_id, special=None):
    fixed, scores = _special(ids, special), torch.zeros(len(ids))
    for t in range(len(ids)):
        if not fixed[t]:
            copy = ids.clone()
            copy[t] = mask_id
            scores[t] = model(copy[None], None)[0, t, ids[t]]
    return scores


def pll_probabilities(model, ids, mask_id, special=None):
    return pseudo_log_likelihood(model, ids, mask_id, special).exp().masked_fill(_special(ids, special), 0.0)


def pll_sum(model, ids, mask_id, special=None):
    return pseudo_log_likelihood(model, ids, mask_id, special).sum()


def pll_mean(model, ids, mask_id, special=None):
    return pseudo_log_likelihood(model, ids, mask_id, special).mean()


def pll_special_too(model, ids, mask_id, special=None):
    return pseudo_log_likelihood(model, ids, mask_id)


def pll_scored_only(model, ids, mask_id, special=None):
    return pseudo_log_likelihood(model, ids, mask_id, special)[~_special(ids, special)]


def pll_positive(model, ids, mask_id, special=None):
    return -pseudo_log_likelihood(model, ids, mask_id, special)


def pll_half(model, ids, mask_id, special=None):
    if model(ids[None], None).dtype != torch.float32:
        raise RuntimeError("what index_put says of two dtypes")
    return pseudo_log_likelihood(model, ids, mask_id, special)


def pll_float_too_late(model, ids, mask_id, special=None):
    scores = torch.zeros(len(ids))
    for t in (~_special(ids, special)).nonzero().flatten().tolist():
        copy = ids.clone()
        copy[t] = mask_id
        scores[t] = model(copy[None], None)[0, t].log_softmax(-1)[ids[t]].float()
    return scores


def pll_of_the_best(model, ids, mask_id, special=None):
    scores = torch.zeros(len(ids))
    for t in (~_special(ids, special)).nonzero().flatten().tolist():
        copy = ids.clone()
        copy[t] = mask_id
        scores[t] = model(copy[None], None)[0, t].float().log_softmax(-1).max()
    return scores


def pll_of_the_mask(model, ids, mask_id, special=None):
    scores = torch.zeros(len(ids))
    for t in (~_special(ids, special)).nonzero().flatten().tolist():
        copy = ids.clone()
        copy[t] = mask_id
        scores[t] = model(copy[None], None)[0, t].float().log_softmax(-1)[copy[t]]
    return scores


EXERCISES = [
    Exercise(
        number="9.1",
        name="p_cat",
        reference=p_cat,
        tolerance=0.003,
        hints=(
            "P(cat and mat) is the chance of a cat times the chance that a cat chooses the mat.",
            "The same for the dog. Nobody else sits on a mat, so these two share the whole.",
            "Divide the cat's by the sum of the two.",
        ),
        wrong={
            "that is the chance of a cat before the mat is read": lambda: 12 / 24,
            "that compares the animals alone; the mat has to come in": lambda: 12 / 17,
            "that compares how often each chooses the mat; how often each animal turns up has to come in": (
                lambda: (30 / 90) / (30 / 90 + 20 / 70)
            ),
            "that is the chance of a cat on a mat among all stories; divide by that of anybody on a mat": (
                lambda: 12 / 24 * 30 / 90
            ),
            "that is the dog's": lambda: 1 - p_cat(),
            "that is in per cent; a number between 0 and 1 is wanted": lambda: 100 * p_cat(),
            "that compares the counts of two animals that turn up and choose differently: take the shares, 12/24 · 30/90": (
                lambda: 30 / 50
            ),
            "the counts of different animals cannot be added up like that: 30 of 90 is one in three, 20 of 70 less": (
                lambda: 12 * 30 / (12 * 30 + 5 * 20)
            ),
        },
    ),
    Exercise(
        number="9.2",
        name="unchanged",
        reference=unchanged,
        tolerance=1e-4,
        hints=(
            "First those that were not chosen at all.",
            "Then the chosen ones that stay: a tenth of 15%.",
        ),
        wrong={
            "the chosen tokens that stay are seen as they were, too": lambda: 8500,
            "a tenth of the *chosen* stay, not a tenth of all": lambda: 9500,
            "a random token is not what was there": lambda: 8800,
            "that is how many are seen changed": lambda: 10_000 - unchanged(),
            "only the random ones were taken away; a token that became [MASK] is not seen either": lambda: 9850,
            "that is the share; how many tokens of 10,000 is it?": lambda: unchanged() / 10_000,
            "those are the chosen ones that stay; the others were not touched at all": lambda: 150,
        },
    ),
    Exercise(
        number="9.3",
        name="replace_chosen",
        reference="llmkit.data.masking:replace_chosen",
        cases=replace_cases,
        hints=(
            "inputs = ids.clone(); masked = (first draw) & chosen; inputs[masked] = mask_id.",
            "With 80% [MASK], 20% of the chosen are left. 10% of all are to become random: that is one half of the rest.",
            "Places that become random: (second draw) & chosen & ~masked. Draw the new ids for all places and pick there.",
        ),
        wrong={
            "random_share was drawn among those that are left over, so too few become random: it is a share of all "
            "chosen": replace_share_of_all,
            "a token that had become [MASK] was made random afterwards; only the rest may be": replace_masks_again,
            "tokens became random that were not chosen": replace_unchosen_too,
            "tokens were replaced that were not chosen: combine the draw with `chosen`": replace_masks_everywhere,
            "all that were left over became random; a part of them stays": replace_rest_all_random,
            "every chosen token became [MASK]; some become random, and some stay": replace_with_mask_only,
            "none became random": replace_nothing_random,
            "the new tokens were drawn before the second bernoulli: the order of the draws is part of the task": (
                replace_tokens_drawn_early
            ),
            "the second probability is 0.5 only for BERT's shares; work it out from mask_share and random_share": (
                replace_half_of_the_rest
            ),
            "new tokens were drawn only for the places that need one; draw them for all places and pick there": (
                replace_draws_few_tokens
            ),
            "these are other random numbers: give generator=generator to every draw": replace_without_generator,
            "those are the labels; what the model sees is wanted": replace_gives_labels,
            "the result is right, but it was written into the ids that were given: begin with ids.clone()": (
                replace_in_place
            ),
            "where mask_share is 1 nothing is left over: return before dividing by 1 - mask_share": (
                replace_divides_by_zero
            ),
        },
    ),
    Exercise(
        number="9.4",
        name="fill_mask",
        reference="llmkit.layers.encoder_heads:fill_mask",
        cases=fill_cases,
        tolerance=1e-6,
        hints=(
            "logits = model(ids, attention_mask); logits[ids == mask_id] are those of the gaps, (N, V).",
            "softmax over the whole vocabulary first, then topk.",
            "topk gives (values, places): the places are the tokens.",
        ),
        wrong={
            "those are logits; probabilities are wanted": fill_logits,
            "those are log-probabilities; probabilities are wanted": fill_log_probabilities,
            "the two tensors are in the other order: tokens first, then probabilities": fill_swapped,
            "the softmax was taken over the k best alone; it belongs over the whole vocabulary, before topk": fill_among_k,
            "the attention mask was not given to the model": fill_without_mask,
            "every place was answered; only those that hold mask_id are asked": fill_all_places,
            "one gap a text was answered; there may be several, or none": fill_first_only,
            "the logits were read one place too early: a masked model answers at the place itself": fill_one_to_the_left,
            "those are the least probable": fill_least,
            "the softmax ran over the gaps; each gap has its own, over the vocabulary": fill_over_gaps,
            "logits in half precision: compute the softmax in float32 (.float())": fill_half,
            "logits in half precision: .float() came after the softmax; it belongs before": fill_float_too_late,
        },
    ),
    Exercise(
        number="9.5",
        name="join_pair",
        reference="llmkit.data.sentence_pairs:join_pair",
        cases=pair_cases,
        hints=(
            "Two parts: [CLS] first [SEP], and second [SEP]. The second part is empty where there is no second text.",
            "The segment numbers are as many zeros as the first part is long, then as many ones as the second.",
        ),
        wrong={
            "the first [SEP] belongs to segment 0": pair_sep_in_segment_1,
            "the last [SEP] belongs to the second text: segment 1": pair_last_sep_in_segment_0,
            "the [SEP] at the end is missing": pair_no_last_sep,
            "the second text has no [CLS] of its own": pair_second_cls,
            "segments are counted from 0": pair_types_from_1,
            "without a second text there is only one [SEP]": pair_empty_second,
            "[CLS] has a segment number too: as many numbers as ids": pair_cls_without_type,
            "one [SEP] stands between the texts (two is RoBERTa's way)": pair_two_seps,
        },
    ),
    Exercise(
        number="9.6",
        name="position_ids",
        reference="llmkit.models.roberta:position_ids",
        cases=position_cases,
        starts_from=positions_by_column,
        hints=(
            "Work out the rows for [padding, padding, token, token] by hand, with pad_id 1. What does the function give?",
            "Which call counts the tokens up to each place? You had it in token_positions, lesson 07.",
            "A running sum of (ids != pad_id) counts tokens from 1. At padding the count has to go: multiply by 0 there.",
        ),
        wrong={
            "the column was counted, so padding on the left moves the whole text; count the tokens": positions_by_column,
            "tokens begin at 0 here; they begin one after pad_id": positions_from_0,
            "the count is right, but it begins at 1 whatever pad_id is, and padding got 0": positions_without_offset,
            "padding got the row of the token before it; its row is pad_id": positions_padding_not_reset,
            "the first token got pad_id, which is padding's own row": positions_start_at_pad,
            "1 was added whatever pad_id is": positions_always_1,
            "padding got row 0; its row is pad_id": positions_padding_0,
            "tokens begin one too high: a running sum counts from 1, so add pad_id and no more": positions_one_too_high,
            "pad_id was not used: it need not be 1": positions_only_for_pad_1,
            "a running sum counts from 1; the first token's row is pad_id + 1": positions_without_pad_added,
            "all padding of a text was taken off, also what stands behind a token": positions_less_all_padding,
            "padding in front was taken off, but padding in the middle is still counted": positions_less_padding_in_front,
            "the sum ran down the batch, over different texts": positions_down_the_batch,
            "padding was taken to be 1, whatever pad_id is": positions_right_but_boolean_of_1,
        },
    ),
    Exercise(
        number="9.7",
        name="pseudo_log_likelihood",
        reference="llmkit.evaluation.pseudo_likelihood:pseudo_log_likelihood",
        cases=pll_cases,
        tolerance=1e-5,
        hints=(
            "places = (~special.bool()).nonzero().squeeze(-1): the N places to score. rows = torch.arange(N).",
            "copies = ids.repeat(N, 1), and in row i the place places[i] becomes mask_id.",
            "logits[rows, places] is (N, V): row i's answer for its own gap. Take log_softmax, then the entry of the true token.",
        ),
        wrong={
            "nothing was hidden: the model sees the token that it is asked for": pll_not_hidden,
            "all tokens were hidden at once; one at a time": pll_all_hidden,
            "all that follows was hidden too; only the one token is": pll_right_hidden,
            "those are logits; log-probabilities need log_softmax": pll_logits,
            "those are probabilities; their logarithms are wanted": pll_probabilities,
            "that is the sum; one number a token is wanted": pll_sum,
            "that is the mean; one number a token is wanted": pll_mean,
            "special tokens were scored": pll_special_too,
            "the special tokens are missing from the result: it has one number for every token, 0 for those": (
                pll_scored_only
            ),
            "the sign is turned: log-probabilities are not above 0": pll_positive,
            "logits in half precision: .float() before log_softmax": pll_half,
            "logits in half precision: .float() came after log_softmax; it belongs before": pll_float_too_late,
            "that is the most probable token; ask for the one that was hidden": pll_of_the_best,
            "that is how probable [MASK] itself is; ask for the token that was hidden": pll_of_the_mask,
        },
    ),
]
