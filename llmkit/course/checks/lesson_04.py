"""Lesson 04: scores and weights, masks, heads, groups, attention in blocks."""

import torch

from llmkit.course.exercise import Case, Exercise
from llmkit.layers.attention import attention_weights, split_heads
from llmkit.layers.masks import CAUSAL, causal_mask


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# --- 4.1 one answer by hand ---


def by_hand() -> list[float]:
    q = torch.tensor([2.0, 0.0])
    k = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    v = torch.tensor([[0.0, 4.0], [8.0, 0.0], [4.0, 0.0]])
    return ((k @ q).softmax(0) @ v).tolist()


# --- 4.2 the size of a score ---


def score_size() -> float:
    return 64**0.5


# --- 4.3 attention_weights ---


def weights_cases() -> list[Case]:
    def make(B, H, T, S, D, seed, dtype=torch.float32, size=1.0):
        return size * _random(B, H, T, D, seed=seed, dtype=dtype), _random(B, H, S, D, seed=seed + 1, dtype=dtype)

    def padding(lengths, S):
        return (torch.arange(S) < torch.tensor(lengths)[:, None])[:, None, None]  # (B, 1, 1, S)

    def sixteen():  # whole numbers and a scale of 1/4: rounding is the same before and after .float()
        q, k = (2 * _random(*shape, seed=seed).round() for shape, seed in (((2, 3, 5, 16), 13), ((2, 3, 40, 16), 14)))
        return q.bfloat16(), k.bfloat16()

    def nothing():
        return torch.tensor([[True, False, True], [False, False, False]])

    return [
        Case("one query, two keys", lambda: make(1, 1, 1, 2, 4, 0)),
        Case("two texts, three heads, five tokens", lambda: make(2, 3, 5, 5, 8, 1)),
        Case("more keys than queries", lambda: make(2, 3, 4, 7, 6, 2)),
        Case("a causal mask", lambda: (*make(1, 2, 4, 4, 8, 3), causal_mask(4, 4))),
        Case("a causal mask, six keys for four queries", lambda: (*make(2, 3, 4, 6, 8, 4), causal_mask(4, 6))),
        Case("padding, a mask of shape (B, 1, 1, S)", lambda: (*make(2, 3, 5, 5, 8, 5), padding([5, 3], 5))),
        Case("a row that may look at nothing", lambda: (*make(2, 1, 2, 3, 4, 6), nothing())),
        Case("mask is CAUSAL", lambda: (*make(2, 3, 4, 6, 8, 7), CAUSAL)),
        Case("a floating mask is added", lambda: (*make(2, 3, 4, 6, 8, 8), _random(1, 3, 4, 6, seed=9))),
        Case("a floating mask with -inf", lambda: (*make(1, 2, 2, 3, 8, 10), torch.zeros(2, 3).masked_fill(~nothing(), -torch.inf))),
        Case("a scale of its own", lambda: (*make(2, 3, 5, 5, 8, 11), None, 0.5)),
        Case("large scores", lambda: make(1, 2, 3, 4, 8, 12, size=200.0)),
        Case("bfloat16: softmax in float32", sixteen),
    ]  # fmt: skip


def _weights(q, k, mask=None, scale=None, *, scaled=lambda q: q.size(-1) ** -0.5, hide=-torch.inf, invert=False,
             late=False, dim=-1, empty=0.0, add=True, own_scale=True):  # fmt: skip
    """attention_weights with one choice made wrongly."""
    scores = q @ k.transpose(-2, -1) * (scaled(q) if scale is None or not own_scale else scale)
    if mask is CAUSAL:
        mask = causal_mask(q.size(-2), k.size(-2))
    if mask is None:
        return scores.float().softmax(dim).type_as(q)
    if mask.dtype != torch.bool:
        scores = scores + mask if add else scores * mask
        mask = scores > -torch.inf
        seen = mask
    else:
        seen = ~mask if invert else mask
        if late:
            return (scores.float().softmax(dim) * seen).type_as(q)
        scores = scores.masked_fill(~seen, hide)
    weights = scores.float().softmax(dim)
    if empty is not None and hide == -torch.inf and dim == -1:
        weights = weights.masked_fill(~seen.any(-1, keepdim=True), empty)
    return weights.type_as(q)


def weights_unscaled(q, k, mask=None, scale=None):
    return _weights(q, k, mask, scale, scaled=lambda q: 1.0)


def weights_scaled_by_width(q, k, mask=None, scale=None):
    return _weights(q, k, mask, scale, scaled=lambda q: 1 / q.size(-1))


def weights_scaled_by_length(q, k, mask=None, scale=None):
    return _weights(q, k, mask, scale, scaled=lambda q: q.size(-2) ** -0.5)


def weights_multiplied(q, k, mask=None, scale=None):
    return _weights(q, k, mask, scale, scaled=lambda q: q.size(-1) ** 0.5)


def weights_mask_after_softmax(q, k, mask=None, scale=None):
    return _weights(q, k, mask, scale, late=True)


def weights_hidden_by_zero(q, k, mask=None, scale=None):
    return _weights(q, k, mask, scale, hide=0.0)


def weights_mask_inverted(q, k, mask=None, scale=None):
    return _weights(q, k, mask, scale, invert=True)


def weights_over_queries(q, k, mask=None, scale=None):
    return _weights(q, k, mask, scale, dim=-2)


def weights_not_a_number(q, k, mask=None, scale=None):
    return _weights(q, k, mask, scale, empty=None)


def weights_large_negative(q, k, mask=None, scale=None):
    return _weights(q, k, mask, scale, hide=-1e9)


def weights_mask_multiplied(q, k, mask=None, scale=None):
    return _weights(q, k, mask, scale, add=False)


def weights_own_scale_ignored(q, k, mask=None, scale=None):
    return _weights(q, k, mask, scale, own_scale=False)


def weights_in_sixteen_bits(q, k, mask=None, scale=None):
    if q.dtype == torch.float32:
        return attention_weights(q, k, mask, scale)
    return (q @ k.transpose(-2, -1) * q.size(-1) ** -0.5).softmax(-1)


def weights_not_a_number_replaced(q, k, mask=None, scale=None):
    return _weights(q, k, mask, scale, empty=None).nan_to_num(0.0)


def weights_divided_by_scale(q, k, mask=None, scale=None):
    return attention_weights(q, k, mask, None if scale is None else 1 / scale)


def weights_mask_added_before_scaling(q, k, mask=None, scale=None):
    if isinstance(mask, torch.Tensor) and mask.dtype != torch.bool:
        mask = mask * (q.size(-1) ** -0.5 if scale is None else scale)
    return attention_weights(q, k, mask, scale)


def weights_triangle_at_the_beginning(q, k, mask=None, scale=None):
    if mask is CAUSAL:
        mask = mask_from_the_beginning(q.size(-2), k.size(-2))
    return attention_weights(q, k, mask, scale)


# --- 4.4 causal_mask (find the bug) ---


def mask_cases() -> list[Case]:
    return [
        Case("three queries, three keys", lambda: (3, 3)),
        Case("one query, one key", lambda: (1, 1)),
        Case("two queries at the end of three keys", lambda: (2, 3)),
        Case("one query at the end of five keys (a cache)", lambda: (1, 5)),
        Case("four queries, seven keys", lambda: (4, 7)),
    ]


def mask_from_the_beginning(q_len, kv_len, device=None):
    queries = torch.arange(q_len, device=device)[:, None]
    keys = torch.arange(kv_len, device=device)
    return keys <= queries


def mask_without_diagonal(q_len, kv_len, device=None):
    return torch.ones(q_len, kv_len, dtype=torch.bool).tril(kv_len - q_len - 1)


def mask_one_too_many(q_len, kv_len, device=None):
    return torch.ones(q_len, kv_len, dtype=torch.bool).tril(kv_len - q_len + 1)


def mask_flipped(q_len, kv_len, device=None):
    return torch.ones(q_len, kv_len, dtype=torch.bool).triu(kv_len - q_len)


def mask_hides(q_len, kv_len, device=None):
    return ~causal_mask(q_len, kv_len)


def mask_other_way(q_len, kv_len, device=None):
    return torch.ones(q_len, kv_len, dtype=torch.bool).tril(q_len - kv_len)


def mask_moved_too_far(q_len, kv_len, device=None):
    return torch.ones(q_len, kv_len, dtype=torch.bool)


# --- 4.5 split_heads ---


def heads_cases() -> list[Case]:
    return [
        Case("one token, three heads of two numbers", lambda: (torch.arange(6.0).view(1, 1, 6), 3)),
        Case("two tokens, two heads", lambda: (torch.arange(8.0).view(1, 2, 4), 2)),
        Case("two texts, five tokens, three heads of four", lambda: (_random(2, 5, 12), 3)),
        Case("one head", lambda: (_random(2, 3, 4, seed=1), 1)),
        Case("heads of one number", lambda: (_random(2, 3, 4, seed=2), 4)),
    ]


def heads_by_view(x, n_heads):
    return x.reshape(x.size(0), n_heads, x.size(1), -1)


def heads_interleaved(x, n_heads):
    return x.unflatten(-1, (-1, n_heads)).permute(0, 3, 1, 2)


def heads_not_moved(x, n_heads):
    return x.unflatten(-1, (n_heads, -1))


def heads_axes_swapped(x, n_heads):
    return split_heads(x, n_heads).transpose(-2, -1)


def heads_cut_the_other_way(x, n_heads):
    return x.unflatten(-1, (-1, n_heads)).transpose(1, 2)


def heads_in_front(x, n_heads):
    return torch.stack(x.chunk(n_heads, -1))


# --- 4.6 repeat_kv ---


def repeat_cases() -> list[Case]:
    return [
        Case("two heads become four", lambda: (torch.tensor([1.0, 2.0]).view(1, 2, 1, 1), 4)),
        Case("one head for three (MQA)", lambda: (_random(2, 1, 4, 5), 3)),
        Case("two heads for six, two texts", lambda: (_random(2, 2, 5, 4, seed=1), 6)),
        Case("three heads for three: nothing to repeat", lambda: (_random(2, 3, 5, 4, seed=2), 3)),
        Case("three heads for six", lambda: (_random(1, 3, 2, 4, seed=3), 6)),
    ]


def repeat_in_turns(x, n_heads):
    return x.repeat(1, n_heads // x.size(1), 1, 1)


def repeat_too_often(x, n_heads):
    return x.repeat_interleave(n_heads, dim=1)


def repeat_positions(x, n_heads):
    return x.repeat_interleave(n_heads // x.size(1), dim=2)


def repeat_texts(x, n_heads):
    return x.repeat_interleave(n_heads // x.size(1), dim=0)


def repeat_first_only(x, n_heads):
    return x[:, :1].expand(-1, n_heads, -1, -1)


# --- 4.7 blockwise_attention ---


def block_cases() -> list[Case]:
    def make(B, H, T, S, D, seed, *options, size=1.0):
        q = size * _random(B, H, T, D, seed=seed)
        return q, _random(B, H, S, D, seed=seed + 1), _random(B, H, S, D, seed=seed + 2), *options

    def far_below(q, k, v, block):
        return q.abs() + 30, -k.abs() - 3, v, block

    return [
        Case("four keys, one block", lambda: make(1, 1, 2, 4, 4, 0, 4)),
        Case("four keys, two blocks", lambda: make(1, 1, 2, 4, 4, 3, 2)),
        Case("a last block that is shorter", lambda: make(2, 3, 5, 7, 8, 6, 3)),
        Case("a block longer than the text", lambda: make(1, 2, 3, 5, 8, 9, 64)),
        Case("blocks of one key", lambda: make(2, 3, 4, 6, 8, 12, 1)),
        Case("scores in the hundreds", lambda: make(1, 2, 3, 9, 8, 15, 2, size=200.0)),
        Case("all scores far below 0", lambda: far_below(*make(1, 2, 3, 9, 8, 27, 2))),
        Case("causal", lambda: make(2, 3, 6, 6, 8, 18, 2, True)),
        Case("causal, four queries at the end of nine keys", lambda: make(2, 3, 4, 9, 8, 21, 4, True)),
        Case("the block left out: 64", lambda: make(1, 2, 5, 150, 8, 24)),
    ]


def _blockwise(q, k, v, block=64, causal=False, *, shrink_total=True, shrink_mixed=True, each=False, last=True,
               aligned=True, scaled=True, first=-torch.inf, subtract=True, own_largest=False, counted=True,
               divide="at the end"):  # fmt: skip
    """blockwise_attention with one choice made wrongly."""
    T, S = q.size(-2), k.size(-2)
    largest = q.new_full((*q.shape[:-1], 1), first)
    total, mixed = torch.zeros_like(largest), torch.zeros(*q.shape[:-1], v.size(-1))
    seen = torch.arange(S - T if aligned else 0, S if aligned else T)[:, None]
    blocks = list(range(0, S, block)) if last else list(range(0, max(S - block, 0) + 1, block))
    for start in blocks:
        scores = q @ k[..., start : start + block, :].transpose(-2, -1) * (q.size(-1) ** -0.5 if scaled else 1.0)
        if causal:
            places = torch.arange(scores.size(-1)) + (start if counted else 0)
            scores = scores.masked_fill(places > seen, -torch.inf)
        highest = scores.amax(-1, keepdim=True)
        new = torch.maximum(largest, highest) if subtract else torch.zeros_like(largest)
        weights, shrink = torch.exp(scores - new), torch.exp(largest - new) if subtract else 1.0
        if each:
            mine = torch.exp(scores - highest.clamp(min=-1e30))
            mixed = mixed + mine @ v[..., start : start + block, :] / mine.sum(-1, keepdim=True).clamp(min=1e-30)
            continue
        total = total * (shrink if shrink_total else 1.0) + weights.sum(-1, keepdim=True)
        mixed = mixed * (shrink if shrink_mixed else 1.0) + weights @ v[..., start : start + block, :]
        mixed = mixed / total if divide == "each time" else mixed
        largest = highest if own_largest else new
    return mixed / len(blocks) if each else mixed / total if divide == "at the end" else mixed


def block_nothing_shrunk(q, k, v, block=64, causal=False):
    return _blockwise(q, k, v, block, causal, shrink_total=False, shrink_mixed=False)


def block_total_not_shrunk(q, k, v, block=64, causal=False):
    return _blockwise(q, k, v, block, causal, shrink_total=False)


def block_values_not_shrunk(q, k, v, block=64, causal=False):
    return _blockwise(q, k, v, block, causal, shrink_mixed=False)


def block_mean_of_blocks(q, k, v, block=64, causal=False):
    return _blockwise(q, k, v, block, causal, each=True)


def block_rest_forgotten(q, k, v, block=64, causal=False):
    return _blockwise(q, k, v, block, causal, last=False)


def block_aligned_at_the_beginning(q, k, v, block=64, causal=False):
    return _blockwise(q, k, v, block, causal, aligned=False)


def block_unscaled(q, k, v, block=64, causal=False):
    return _blockwise(q, k, v, block, causal, scaled=False)


def block_largest_from_zero(q, k, v, block=64, causal=False):
    return _blockwise(q, k, v, block, causal, first=0.0)


def block_nothing_subtracted(q, k, v, block=64, causal=False):
    return _blockwise(q, k, v, block, causal, subtract=False)


def block_largest_of_the_block(q, k, v, block=64, causal=False):
    return _blockwise(q, k, v, block, causal, own_largest=True)


def block_keys_counted_anew(q, k, v, block=64, causal=False):
    return _blockwise(q, k, v, block, causal, counted=False)


def block_never_divided(q, k, v, block=64, causal=False):
    return _blockwise(q, k, v, block, causal, divide="never")


def block_divided_each_time(q, k, v, block=64, causal=False):
    return _blockwise(q, k, v, block, causal, divide="each time")


EXERCISES = [
    Exercise(
        number="4.1",
        name="by_hand",
        reference=by_hand,
        tolerance=0.01,
        hints=(
            "The scores are the query times each key: multiply number by number and add up. The first is 2·1 + 0·0.",
            "The scores are 2, 0, 2. Their exponentials are 7.389, 1 and 7.389; divide each by the sum.",
            "The answer is the first weight times the first value, plus the second times the second, plus the third …",
        ),
        wrong={
            "that is the plain mean of the values; the weights come from the scores": lambda: [4.0, 4 / 3],
            "that is the value of the best key alone; every key adds its share": lambda: [0.0, 4.0],
            "you used the scores as weights; they have to go through softmax first": lambda: [8.0, 8.0],
            "key 2 got no weight; take the exponentials of the scores first, and e to the 0 is 1": lambda: [2.0, 2.0],
            "those are the weights; the answer is the values weighted by them": lambda: [0.468, 0.063, 0.468],
            "the sum is not yet divided: the weights must sum to 1": lambda: [8 + 4 * 7.389, 4 * 7.389],
            "you divided the scores by the root of 2; here they are taken as they are": lambda: (
                torch.tensor([2.0, 0.0, 2.0]).div(2**0.5).softmax(0)
                @ torch.tensor([[0.0, 4.0], [8.0, 0.0], [4.0, 0.0]])
            ).tolist(),
        },
    ),
    Exercise(
        number="4.2",
        name="score_size",
        reference=score_size,
        tolerance=0.02,
        hints=(
            "A product of two independent numbers of variance 1 (and mean 0) has variance 1.",
            "A score is the sum of 64 such products. Variances of independent numbers add.",
            "The standard deviation is the root of the variance.",
        ),
        wrong={
            "that is the variance; the standard deviation is its root": lambda: 64.0,
            "that is the size of one product; a score is the sum of 64 of them": lambda: 1.0,
            "that is the score after it was divided by the root of D": lambda: 0.125,
            "variances add, not standard deviations: 64 · 1 is the variance, and you doubled it": lambda: 128.0,
        },
    ),
    Exercise(
        number="4.3",
        name="attention_weights",
        reference="llmkit.layers.attention:attention_weights",
        cases=weights_cases,
        gradients=True,
        tolerance=1e-4,  # .float() before or after the product: 3e-5 in 16 bits; a softmax in 16 bits: 1e-3
        hints=(
            "scores = q @ k.transpose(-2, -1) has the shape (B, H, T, S): one number for each query and each key.",
            "A boolean mask: scores.masked_fill(~mask, -torch.inf), after scaling and before softmax.",
            "softmax of a row of -inf is NaN. Find these rows with (scores == -torch.inf).all(-1, keepdim=True); give "
            "them some finite score before the softmax and the weight 0 after it.",
            "CAUSAL stands for causal_mask(T, S); a floating mask is added to the scores; the softmax takes "
            "scores.float() and the result goes back with .type_as(q).",
        ),
        wrong={
            "the scores are not divided by the root of D": weights_unscaled,
            "the scores are divided by D; it is the root of D": weights_scaled_by_width,
            "the root is taken of the number of queries; D is the length of a query, q.size(-1)": weights_scaled_by_length,
            "the scores are multiplied by the root of D; divide": weights_multiplied,
            "the mask was applied after the softmax: the weights that are left do not sum to 1": weights_mask_after_softmax,
            "hidden scores became 0, but exp(0) is 1: hidden keys still get a weight": weights_hidden_by_zero,
            "the mask is used the wrong way round: True means *may* look": weights_mask_inverted,
            "the softmax runs over the queries; each query's weights over its keys must sum to 1": weights_over_queries,
            "a row that may look at nothing gives NaN; its weights should be 0": weights_not_a_number,
            "a row that may look at nothing spreads evenly over what it must not see; its weights should be 0": weights_large_negative,
            "a floating mask is to be added to the scores, not multiplied": weights_mask_multiplied,
            "`scale` was given and not used": weights_own_scale_ignored,
            "for 16-bit input the softmax must be computed in float32 (.float() before it)": weights_in_sixteen_bits,
            "the NaN was replaced after the softmax and stays in the gradient; give such a row finite scores before it": weights_not_a_number_replaced,
            "`scale` is what the scores are multiplied by; you divided by it": weights_divided_by_scale,
            "the floating mask was added before the scores were scaled; scale first": weights_mask_added_before_scaling,
            "this triangle begins at the first key; CAUSAL stands for causal_mask(T, S)": weights_triangle_at_the_beginning,
        },
    ),
    Exercise(
        number="4.4",
        name="causal_mask",
        reference="llmkit.layers.masks:causal_mask",
        cases=mask_cases,
        starts_from=mask_from_the_beginning,
        hints=(
            "With as many queries as keys the function is right. Look at causal_mask(1, 5): what may the last of five see?",
            "Query i does not stand at position i. The last query stands at the last key's position.",
            "Query i stands at position kv_len - q_len + i.",
        ),
        wrong={
            "the queries are counted from the first key; they are the *last* q_len of the positions": mask_from_the_beginning,
            "a position must see itself: the diagonal is missing": mask_without_diagonal,
            "every position sees the next one too: one column too many": mask_one_too_many,
            "the triangle is flipped: positions see the future": mask_flipped,
            "True must mean *may* look; this says what is hidden": mask_hides,
            "the queries are moved the wrong way, out of the keys": mask_other_way,
            "every query sees every key: the queries are moved too far": mask_moved_too_far,
        },
    ),
    Exercise(
        number="4.5",
        name="split_heads",
        reference="llmkit.layers.attention:split_heads",
        cases=heads_cases,
        gradients=True,
        hints=(
            "First only cut the last axis: x.unflatten(-1, (n_heads, -1)) has the shape (B, T, H, D).",
            "Then exchange the axes T and H: .transpose(1, 2).",
        ),
        wrong={
            "a view straight to (B, H, T, D) keeps the order in memory, and numbers of different tokens get mixed: cut the last axis first, then exchange two axes": heads_by_view,
            "head 0 has every n_heads-th number; it must have the first D of them": heads_interleaved,
            "the shape is (B, T, H, D); exchange T and H": heads_not_moved,
            "the last two axes are exchanged: (B, H, D, T)": heads_axes_swapped,
            "the sizes are exchanged: there should be n_heads heads, not n_heads numbers in each": heads_cut_the_other_way,
            "the heads stand before the texts: (H, B, T, D)": heads_in_front,
        },
    ),
    Exercise(
        number="4.6",
        name="repeat_kv",
        reference="llmkit.layers.attention:repeat_kv",
        cases=repeat_cases,
        gradients=True,
        hints=(
            "Each head must stand n_heads // x.size(1) times, its copies side by side: 1, 1, 2, 2.",
            "torch's repeat_interleave(times, dim=...) puts the copies side by side; repeat writes 1, 2, 1, 2.",
        ),
        wrong={
            "the heads stand 1, 2, 1, 2; the copies of one head stand side by side: 1, 1, 2, 2": repeat_in_turns,
            "every head is copied n_heads times; n_heads is how many there are to be in the end": repeat_too_often,
            "the positions are copied, not the heads: the axis of heads is 1": repeat_positions,
            "the texts are copied, not the heads: the axis of heads is 1": repeat_texts,
            "all queries get the first key-value head": repeat_first_only,
        },
    ),
    Exercise(
        number="4.7",
        name="blockwise_attention",
        reference="llmkit.layers.flash:blockwise_attention",
        cases=block_cases,
        tolerance=1e-5,
        hints=(
            "Keep three tensors: largest (B, H, T, 1) from -inf, total (B, H, T, 1) and mixed (B, H, T, D) from 0.",
            "For each block: new = maximum(largest, the block's largest score); weights = exp(scores - new); what was "
            "summed before is multiplied by exp(largest - new).",
            "Causal: query i stands at position S - T + i; scores of later keys become -inf before the maximum is taken.",
            "At the end: mixed / total.",
        ),
        wrong={
            "the old sums are not shrunk when a block brings a larger score": block_nothing_shrunk,
            "the sum of the weights is not shrunk when a larger score comes; the values are": block_total_not_shrunk,
            "the mixed values are not shrunk when a larger score comes; the sum of weights is": block_values_not_shrunk,
            "every block has its own softmax and the blocks are averaged; one softmax runs over all keys": block_mean_of_blocks,
            "the last keys are left out when they do not fill a block": block_rest_forgotten,
            "the causal mask counts queries from the first key; they are the last T of the S positions": block_aligned_at_the_beginning,
            "the scores are not divided by the root of D": block_unscaled,
            "the largest score starts at 0; where all scores are far below, this gives 0/0: start at -inf": block_largest_from_zero,
            "nothing is subtracted before exp, and large scores overflow": block_nothing_subtracted,
            "what is kept is the largest score of the last block; keep the largest of all blocks so far": block_largest_of_the_block,
            "the keys of each block are counted from 0 again; they stand at start, start + 1, …": block_keys_counted_anew,
            "the mixed values are not divided by the sum of the weights": block_never_divided,
            "the mixed values are divided in each block; divide once, at the end": block_divided_each_time,
        },
    ),
]
