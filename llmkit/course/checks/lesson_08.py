"""Lesson 08: routing, dispatching, balancing."""

import torch
from torch import Tensor
from torch.nn import functional as F

from llmkit.course.exercise import Case, Exercise
from llmkit.layers.balance import balancing_step as _balancing_step
from llmkit.layers.balance import within_capacity as _within_capacity
from llmkit.layers.moe import dispatch_grouped as _dispatch_grouped
from llmkit.layers.moe import dispatch_loop as _dispatch_loop
from llmkit.layers.moe import route as _route
from llmkit.models.mixtral import MixtralConfig

# --- 8.1 active (by hand) ---


def _expert_billions(matrices: int = 3) -> float:
    c = MixtralConfig()
    return c.n_layers * matrices * c.d_model * c.d_ff / 1e9  # one expert of every layer


TOTAL = 46.702792704


def active() -> float:
    return TOTAL - 6 * _expert_billions()


def active_a_quarter_of_all() -> float:
    return TOTAL / 4


def active_two_matrices() -> float:
    return TOTAL - 6 * _expert_billions(2)


def active_one_expert() -> float:
    return TOTAL - 7 * _expert_billions()


def active_idle_ones() -> float:
    return 6 * _expert_billions()


def active_experts_alone() -> float:
    return 2 * _expert_billions()


def active_by_the_name() -> float:
    return 14.0


def active_one_layer() -> float:
    return TOTAL - 6 * _expert_billions() / 32


def active_not_in_billions() -> float:
    return active() * 1e9


# --- 8.2 route ---


def _logits(n: int, e: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (2 * torch.randn(n, e, generator=torch.Generator().manual_seed(seed))).to(dtype)


def route_cases() -> list[Case]:
    return [
        Case("one token, four experts", lambda: (torch.tensor([[2.0, 0.5, 1.0, -1.0]]), 2)),
        Case("five tokens, six experts, 2 of them", lambda: (_logits(5, 6, 0), 2)),
        Case("top_k = 1: the weight is 1", lambda: (_logits(5, 4, 1), 1)),
        Case("top_k = E: all take part", lambda: (_logits(3, 4, 2), 4)),
        Case("negative logits", lambda: (_logits(4, 5, 3) - 8.0, 3)),
        Case("large logits", lambda: (_logits(4, 7, 4) * 20, 3)),
        Case("bfloat16 logits: the weights are float32", lambda: (_logits(4, 7, 5, torch.bfloat16), 3)),
        Case("one token more than experts", lambda: (_logits(9, 8, 6), 2)),
    ]


def route_not_renormalised(logits, top_k):
    weights, chosen = logits.float().softmax(-1).topk(top_k, dim=-1)
    return weights, chosen


def route_softmax_twice(logits, top_k):
    weights, chosen = logits.float().softmax(-1).topk(top_k, dim=-1)
    return weights.softmax(-1), chosen


def route_over_tokens(logits, top_k):
    weights, chosen = logits.float().softmax(0).topk(top_k, dim=-1)
    return weights / weights.sum(-1, keepdim=True), chosen


def route_logits_without_softmax(logits, top_k):
    weights, chosen = logits.float().topk(top_k, dim=-1)
    return weights / weights.sum(-1, keepdim=True), chosen


def route_sigmoid(logits, top_k):
    weights, chosen = logits.float().sigmoid().topk(top_k, dim=-1)
    return weights / weights.sum(-1, keepdim=True), chosen


def route_smallest(logits, top_k):
    weights, chosen = logits.float().softmax(-1).topk(top_k, dim=-1, largest=False)
    return weights / weights.sum(-1, keepdim=True), chosen


def route_summed_over_tokens(logits, top_k):
    weights, chosen = logits.float().softmax(-1).topk(top_k, dim=-1)
    return weights / weights.sum(0, keepdim=True), chosen


def route_in_16_bits(logits, top_k):
    weights, chosen = logits.softmax(-1).topk(top_k, dim=-1)
    return weights / weights.sum(-1, keepdim=True), chosen


def route_float32_too_late(logits, top_k):
    weights, chosen = logits.softmax(-1).float().topk(top_k, dim=-1)
    return weights / weights.sum(-1, keepdim=True), chosen


def route_one_sum_for_all(logits, top_k):
    weights, chosen = logits.float().softmax(-1).topk(top_k, dim=-1)
    return weights / weights.sum(), chosen


# --- 8.3 dispatch_loop and 8.4 dispatch_grouped ---


def _expert(c: int, seed: int):
    """Bends its input, so that weighing before and after are different things."""
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(c, c, generator=g)
    return lambda x: torch.tanh(x @ w.to(x.dtype)) + seed


def _doubling(factor: float):
    return lambda x: x * factor


def _choices(n: int, e: int, k: int, seed: int, without: int | None = None) -> tuple[Tensor, Tensor]:
    logits = _logits(n, e, seed)
    if without is not None:
        logits[:, without] = -100.0
    return _route(logits, k)


def _dispatch(n: int, e: int, k: int, seed: int, c: int = 3, without: int | None = None) -> tuple:
    x = torch.randn(n, c, generator=torch.Generator().manual_seed(seed + 100))
    return x, *_choices(n, e, k, seed, without), [_expert(c, i) for i in range(e)]


def dispatch_cases() -> list[Case]:
    def toy():
        x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        return x, torch.ones(3, 1), torch.tensor([[1], [0], [1]]), [_doubling(10.0), _doubling(-1.0)]

    def two_each():
        x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        weights = torch.tensor([[0.75, 0.25], [0.5, 0.5], [1.0, 0.0]])
        return x, weights, torch.tensor([[2, 0], [0, 1], [1, 2]]), [_doubling(f) for f in (4.0, -8.0, 16.0)]

    def bf16():  # small whole numbers and halves, which bfloat16 holds exactly, in the gradients too
        x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).bfloat16()
        return x, torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([[2, 0], [0, 1]]), two_each()[3]

    return [
        Case("three tokens, each to one of two experts", toy),
        Case("three tokens, each to two of three experts", two_each),
        Case("five tokens, four experts that are not linear", lambda: _dispatch(5, 4, 2, 0)),
        Case("an expert that nobody chose", lambda: _dispatch(7, 4, 2, 1, without=1)),
        Case("the first expert is the one that nobody chose", lambda: _dispatch(6, 4, 2, 7, without=0)),
        Case("the last expert is the one that nobody chose", lambda: _dispatch(6, 4, 2, 8, without=3)),
        Case("one token", lambda: _dispatch(1, 5, 3, 2)),
        Case("eleven tokens, eight experts, three each", lambda: _dispatch(11, 8, 3, 3, c=5)),
        Case("bfloat16 tokens, float32 weights", bf16),
        Case("forty tokens", lambda: _dispatch(40, 6, 2, 4, c=4)),
    ]


def loop_without_weights(x, weights, chosen, experts):
    return _dispatch_loop(x, torch.ones_like(weights), chosen, experts)


def loop_last_one_wins(x, weights, chosen, experts):
    out = torch.zeros_like(x)
    for e, expert in enumerate(experts):
        token, slot = torch.where(chosen == e)
        if len(token):
            out = out.index_copy(0, token, (expert(x[token]) * weights[token, slot, None]).type_as(x))
    return out


def loop_first_weight_for_all(x, weights, chosen, experts):
    return _dispatch_loop(x, weights[:, :1].expand_as(weights), chosen, experts)


def loop_weights_before(x, weights, chosen, experts):
    out = torch.zeros_like(x)
    for e, expert in enumerate(experts):
        token, slot = torch.where(chosen == e)
        if len(token):
            out = out.index_add(0, token, expert(x[token] * weights[token, slot, None].type_as(x)))
    return out


def loop_only_the_first_choice(x, weights, chosen, experts):
    return _dispatch_loop(x, weights[:, :1], chosen[:, :1], experts)


def loop_every_expert_on_every_token(x, weights, chosen, experts):
    return torch.stack([expert(x) for expert in experts]).sum(0)


def loop_weights_along_the_columns(x, weights, chosen, experts):
    out = torch.zeros_like(x)
    for e, expert in enumerate(experts):
        token, slot = torch.where(chosen == e)
        out = out.index_add(0, token, (expert(x[token]) * weights[token, slot]).type_as(x))
    return out


def loop_residual_too(x, weights, chosen, experts):
    return x + _dispatch_loop(x, weights, chosen, experts)


def loop_in_the_weights_type(x, weights, chosen, experts):
    return _dispatch_loop(x.to(weights.dtype), weights, chosen, experts)


def grouped_not_put_back(x, weights, chosen, experts):
    top_k = chosen.size(-1)
    order = chosen.flatten().argsort(stable=True)  # (N * k,) rows sorted by expert
    counts = torch.bincount(chosen.flatten(), minlength=len(experts)).tolist()
    runs = x[order // top_k].split(counts)
    y = torch.cat([expert(run) for expert, run in zip(experts, runs, strict=True) if len(run)])  # (N * k, C)
    y = y[order].unflatten(0, (-1, top_k))  # back in place: (N, k, C)
    return (y * weights.type_as(y)[..., None]).sum(1)


def grouped_left_sorted(x, weights, chosen, experts):
    top_k = chosen.size(-1)
    order = chosen.flatten().argsort(stable=True)
    counts = torch.bincount(chosen.flatten(), minlength=len(experts)).tolist()
    runs = x[order // top_k].split(counts)
    y = torch.cat([expert(run) for expert, run in zip(experts, runs, strict=True) if len(run)])
    return (weights.type_as(y)[:, None] @ y.unflatten(0, (-1, top_k))).squeeze(1)


def grouped_without_weights(x, weights, chosen, experts):
    return _dispatch_grouped(x, torch.ones_like(weights), chosen, experts)


def grouped_weights_sorted_too(x, weights, chosen, experts):
    order = chosen.flatten().argsort(stable=True)
    return _dispatch_grouped(x, weights.flatten()[order].view_as(weights), chosen, experts)


def grouped_rows_by_remainder(x, weights, chosen, experts):
    top_k = chosen.size(-1)
    order = chosen.flatten().argsort(stable=True)
    counts = torch.bincount(chosen.flatten(), minlength=len(experts)).tolist()
    runs = x[order % len(x)].split(counts)
    y = torch.cat([expert(run) for expert, run in zip(experts, runs, strict=True) if len(run)])
    y = torch.empty_like(y).index_copy(0, order, y).unflatten(0, (-1, top_k))
    return (weights.type_as(y)[:, None] @ y).squeeze(1)


# --- 8.5 balance_loss ---


def balance_cases() -> list[Case]:
    even = torch.tensor([[9.0, 8.0, 0.0, 0.0], [0.0, 9.0, 8.0, 0.0], [0.0, 0.0, 9.0, 8.0], [8.0, 0.0, 0.0, 9.0]])
    return [
        Case("two tokens, two experts, one each", lambda: (torch.tensor([[9.0, 0.0], [0.0, 9.0]]), 1)),
        Case("four experts, each chosen by two tokens", lambda: (even.clone(), 2)),
        Case("all tokens alike", lambda: (torch.tensor([[3.0, 2.0, 0.0, 0.0]]).repeat(5, 1), 2)),
        Case("one token", lambda: (_logits(1, 5, 1), 2)),
        Case("eleven tokens, six experts, three each", lambda: (_logits(11, 6, 2), 3)),
        Case("an expert that nobody chose, the last", lambda: (_logits(7, 5, 3) - torch.arange(5) * 8.0, 2)),
        Case("top_k = E", lambda: (_logits(6, 4, 4), 4)),
        Case("bfloat16 logits", lambda: (_logits(9, 8, 5, torch.bfloat16), 2)),
        Case("fifty tokens", lambda: (_logits(50, 8, 6), 2)),
    ]


def _parts(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    probs = logits.float().softmax(-1)
    chosen = probs.topk(top_k, dim=-1).indices
    return F.one_hot(chosen, logits.size(-1)).float().sum(1).mean(0), probs.mean(0)


def balance_without_e(logits, top_k):
    f, p = _parts(logits, top_k)
    return (f * p).sum()


def balance_of_shares(logits, top_k):
    f, p = _parts(logits, top_k)
    return logits.size(-1) * (f / top_k * p).sum()


def balance_probs_squared(logits, top_k):
    _, p = _parts(logits, top_k)
    return logits.size(-1) * top_k * (p * p).sum()


def balance_counts_squared(logits, top_k):
    f, _ = _parts(logits, top_k)
    return logits.size(-1) * (f * f).sum()


def balance_first_choice_only(logits, top_k):
    return top_k * balance_of_shares(logits, 1)


def balance_mean_over_experts(logits, top_k):
    f, p = _parts(logits, top_k)
    return (f * p).mean()


def balance_token_by_token(logits, top_k):
    probs = logits.float().softmax(-1)
    return logits.size(-1) * probs.topk(top_k, dim=-1).values.sum(-1).mean()


def balance_logits_for_probs(logits, top_k):
    f, _ = _parts(logits, top_k)
    return logits.size(-1) * (f * logits.float().mean(0)).sum()


def balance_in_16_bits(logits, top_k):
    probs = logits.softmax(-1)
    f = torch.bincount(probs.topk(top_k, dim=-1).indices.flatten(), minlength=logits.size(-1)) / len(logits)
    return logits.size(-1) * (f * probs.mean(0)).sum()


def balance_argmax(logits, top_k):
    return balance_of_shares(logits, 1)


def balance_probs_squared_plain(logits, top_k):
    return balance_probs_squared(logits, top_k) / top_k


def balance_no_gradient(logits, top_k):
    f, p = _parts(logits, top_k)
    return logits.size(-1) * (f * p.detach()).sum()


def balance_of_weights(logits, top_k):
    f, _ = _parts(logits, top_k)
    weights, chosen = _route(logits, top_k)
    p = torch.zeros(logits.shape).scatter(1, chosen, weights).mean(0)
    return logits.size(-1) * (f * p).sum()


def balance_summed_over_tokens(logits, top_k):
    f, p = _parts(logits, top_k)
    return logits.size(-1) * (f * p).sum() * len(logits)


def balance_over_tokens(logits, top_k):
    f, _ = _parts(logits, top_k)
    return logits.size(-1) * (f * logits.float().softmax(0).mean(0)).sum()


# --- 8.6 pooled (predict) ---


def pooled() -> float:
    return 2.0


# --- 8.7 balancing_step ---


def step_cases() -> list[Case]:
    def random_load(e: int, seed: int) -> Tensor:
        load = torch.rand(e, generator=torch.Generator().manual_seed(seed))
        return load / load.sum()

    return [
        Case("one too much, one too little, two right", lambda: (torch.tensor([0.375, 0.125, 0.25, 0.25]), 0.1)),
        Case("all even: nothing moves", lambda: (torch.full((8,), 0.125), 0.1)),
        Case("all on one expert", lambda: (torch.tensor([0.0, 0.0, 1.0, 0.0]), 0.01)),
        Case("counts instead of shares", lambda: (torch.tensor([10.0, 20.0, 3.0, 4.0, 30.0]), 0.5)),
        Case("random shares", lambda: (random_load(6, 1), 0.01)),
        Case("without a rate: it is 0.001", lambda: (random_load(5, 3),)),
        Case("random shares, a larger rate", lambda: (random_load(7, 2), 2.0)),
    ]


def step_towards_the_crowd(load, rate=1e-3):
    return -_balancing_step(load, rate)


def step_in_proportion(load, rate=1e-3):
    return rate * (load.mean() - load)


def step_without_rate(load, rate=1e-3):
    return torch.sign(load.mean() - load)


def step_only_up(load, rate=1e-3):
    return rate * (load < load.mean()).type_as(load)


def step_only_the_fullest(load, rate=1e-3):
    step = torch.zeros_like(load)
    step[load.argmax()] -= rate
    return step


def step_from_one_over_e(load, rate=1e-3):
    return rate * torch.sign(1 / len(load) - load)


def step_down_on_the_mean(load, rate=1e-3):
    return torch.where(load < load.mean(), rate, -rate)


def step_up_on_the_mean(load, rate=1e-3):
    return torch.where(load > load.mean(), -rate, rate)


def step_from_the_median(load, rate=1e-3):
    return rate * torch.sign(load.median() - load)


# --- 8.8 within_capacity ---


def capacity_cases() -> list[Case]:
    def random_choices(n: int, e: int, k: int, seed: int) -> Tensor:
        return _choices(n, e, k, seed)[1]

    return [
        Case("three tokens, one place each", lambda: (torch.tensor([[0], [0], [1]]), 2, 1)),
        Case("second choices wait", lambda: (torch.tensor([[0, 1], [1, 0], [0, 1]]), 2, 2)),
        Case("a late first choice comes before an early second one", lambda: (torch.tensor([[1, 0], [0, 1]]), 2, 1)),
        Case("room for all", lambda: (random_choices(6, 4, 2, 0), 4, 6)),
        Case("no room at all", lambda: (random_choices(5, 4, 2, 1), 4, 0)),
        Case("one token", lambda: (torch.tensor([[2, 0, 1]]), 4, 1)),
        Case("twenty tokens, three choices", lambda: (random_choices(20, 5, 3, 2), 5, 7)),
        Case("forty tokens", lambda: (random_choices(40, 8, 2, 3), 8, 10)),
    ]


def _in_turn(rows, n_tokens: int, top_k: int, n_experts: int, capacity: int, counts_refused: bool = True) -> Tensor:
    taken, kept = [0] * n_experts, torch.zeros(n_tokens, top_k, dtype=torch.bool)
    for token, slot, e in rows:
        kept[token, slot] = taken[e] < capacity
        taken[e] += 1
    return kept


def capacity_token_by_token(chosen, n_experts, capacity):
    n, k = chosen.shape
    rows = [(t, s, int(chosen[t, s])) for t in range(n) for s in range(k)]
    return _in_turn(rows, n, k, n_experts, capacity)


def capacity_each_choice_alone(chosen, n_experts, capacity):
    n, k = chosen.shape
    kept = [_in_turn([(t, 0, int(chosen[t, s])) for t in range(n)], n, 1, n_experts, capacity) for s in range(k)]
    return torch.cat(kept, 1)


def capacity_one_too_few(chosen, n_experts, capacity):
    n, k = chosen.shape
    rows = [(t, s, int(chosen[t, s])) for s in range(k) for t in range(n)]
    return _in_turn(rows, n, k, n_experts, capacity - 1)


def capacity_wrong_shape_back(chosen, n_experts, capacity):
    return _within_capacity(chosen, n_experts, capacity).T.reshape(chosen.shape)


def capacity_last_come(chosen, n_experts, capacity):
    n, k = chosen.shape
    rows = [(t, s, int(chosen[t, s])) for s in range(k) for t in reversed(range(n))]
    return _in_turn(rows, n, k, n_experts, capacity)


def capacity_per_token(chosen, n_experts, capacity):
    n, k = chosen.shape
    rows = [(t, s, int(chosen[t, s])) for s in range(k) for t in range(n)]
    return ~_in_turn(rows, n, k, n_experts, capacity)


EXERCISES = [
    Exercise(
        number="8.1",
        name="active",
        reference=active,
        tolerance=2e-3,
        hints=(
            "Six of the eight experts in each layer do nothing for a given token. How many parameters is that?",
            "One expert has three matrices of 4096 x 14336. There are six idle ones in each of 32 layers.",
        ),
        wrong={
            "that divides everything by 4, but attention, embeddings and norms are used by every token": (
                active_a_quarter_of_all
            ),
            "an expert has three matrices here: gate, up and down": active_two_matrices,
            "that leaves one expert a layer; two are used": active_one_expert,
            "that is what stays idle; take it away from the total": active_idle_ones,
            "there are idle experts in all 32 layers, not in one": active_one_layer,
            "those are the two experts alone; attention, embeddings and norms are used as well": active_experts_alone,
            "2 times 7: but the 7 in the name counts attention and embeddings too, and they are there once": (
                active_by_the_name
            ),
            "right, but write it in billions": active_not_in_billions,
        },
    ),
    Exercise(
        number="8.2",
        name="route",
        reference="llmkit.layers.moe:route",
        cases=route_cases,
        hints=(
            "Softmax over the last axis makes each row of E logits into probabilities; .float() comes first.",
            "probs.topk(top_k, dim=-1) gives two tensors: the k largest values of each row, and where they stood.",
            "The k values sum to less than 1. Divide each row by its own sum; keepdim=True keeps the shape (N, 1).",
        ),
        wrong={
            "the weights of a token do not sum to 1: divide the k largest by their sum": route_not_renormalised,
            "a softmax of probabilities flattens them; divide by their sum instead": route_softmax_twice,
            "the softmax runs over the tokens; it must run over the experts, the last axis": route_over_tokens,
            "there is no softmax: logits can be negative, so they cannot be weights": route_logits_without_softmax,
            "that is a sigmoid for each expert alone; Mixtral takes the softmax over all": route_sigmoid,
            "those are the least probable experts": route_smallest,
            "each row must be divided by its own sum, not by the sum over tokens": route_summed_over_tokens,
            "all weights together sum to 1; each token's own k must, so sum over the last axis": route_one_sum_for_all,
            "the softmax ran in bfloat16; turn the logits into float32 first": route_in_16_bits,
            "float32 came after the softmax, when the decimals were gone; turn the logits into float32 first": (
                route_float32_too_late
            ),
        },
    ),
    Exercise(
        number="8.3",
        name="dispatch_loop",
        reference="llmkit.layers.moe:dispatch_loop",
        cases=dispatch_cases,
        gradients=True,
        tolerance=1e-5,
        hints=(
            "Begin with zeros like x, and go through the experts with enumerate(experts).",
            "token, slot = torch.where(chosen == e) gives the rows and columns where expert e was chosen.",
            "expert(x[token]) is (n, C), weights[token, slot] is (n,): it needs a last axis to be multiplied on, and "
            "the dtype of x.",
            "out.index_add_(0, token, rows) adds each row at its token; a token gets a row from every expert it chose.",
        ),
        wrong={
            "the weights are not used": loop_without_weights,
            "a token's second expert overwrote the first one's result: add, do not assign": loop_last_one_wins,
            "every choice got the weight of the first; the weight of a choice stands in its own column": (
                loop_first_weight_for_all
            ),
            "the weight was multiplied onto the input; an expert is not linear, so weigh what comes out": (
                loop_weights_before
            ),
            "only the first choice of each token was served": loop_only_the_first_choice,
            "every expert ran on every token": loop_every_expert_on_every_token,
            "the tokens themselves were added; begin with zeros, the block adds the residual": loop_residual_too,
            "weights[token, slot] is (n,) and was multiplied along the columns; give it a last axis: (n, 1)": (
                loop_weights_along_the_columns
            ),
            "the result must have the dtype of x, also when the weights are float32": loop_in_the_weights_type,
        },
    ),
    Exercise(
        number="8.4",
        name="dispatch_grouped",
        reference="llmkit.layers.moe:dispatch_grouped",
        cases=dispatch_cases,
        gradients=True,
        tolerance=1e-5,
        starts_from=grouped_not_put_back,
        hints=(
            "Row i of the sorted rows came from row order[i]. So where must row i of y go?",
            "Try it on paper with order = [2, 0, 1]: y[order] takes row order[i] to place i. That is the way there.",
            "index_copy(0, order, y) writes row i of y to row order[i] of a tensor.",
        ),
        wrong={
            "y[order] sorts once more; going back needs the opposite: row i of y belongs to row order[i]": (
                grouped_not_put_back
            ),
            "the rows were left in the order of the experts; they must go back to their tokens": grouped_left_sorted,
            "the weights are not used": grouped_without_weights,
            "the rows are back in the order of the tokens, so the weights must not be sorted": (
                grouped_weights_sorted_too
            ),
            "row r of the flat choices belongs to token r // top_k": grouped_rows_by_remainder,
        },
    ),
    Exercise(
        number="8.5",
        name="balance_loss",
        reference="llmkit.layers.balance:balance_loss",
        cases=balance_cases,
        gradients=True,
        tolerance=1e-5,
        hints=(
            "P is the mean over tokens of the softmax: (E,). f counts choices, (E,), divided by the number of tokens.",
            "torch.bincount(chosen.flatten(), minlength=E) counts how often each expert number occurs.",
            "Multiply f and P expert by expert, sum, and multiply by E. The f of all experts sum to top_k, not to 1.",
        ),
        wrong={
            "the factor E is missing": balance_without_e,
            "f is choices a *token*, so it sums to top_k; you divided by all choices": balance_of_shares,
            "that is P times P; one of the two must be the counted share f": balance_probs_squared,
            "that is f times f, and counting has no gradient; one of the two must be P": balance_counts_squared,
            "that is the mean probability squared; f is counted from the choices, not P again": balance_probs_squared_plain,
            "the gradient does not reach the logits: P must stay attached to them": balance_no_gradient,
            "only first choices were counted; all top_k count": balance_argmax,
            "first choices were counted k times; every choice counts once": balance_first_choice_only,
            "P is over all experts, from the softmax; you took the renormalised weights of the chosen ones": (
                balance_of_weights
            ),
            "P is a mean over the tokens, so the loss does not grow with N": balance_summed_over_tokens,
            "the softmax runs over the tokens; it must run over the experts, the last axis": balance_over_tokens,
            "the softmax ran in bfloat16; turn the logits into float32 first": balance_in_16_bits,
            "sum over the experts, then times E; the mean divides by E": balance_mean_over_experts,
            "average over the tokens first, f and P each for itself, then multiply": balance_token_by_token,
            "P is the mean of probabilities, not of logits": balance_logits_for_probs,
        },
    ),
    Exercise(
        number="8.6",
        name="pooled",
        reference=pooled,
        tolerance=1e-3,
        hints=(
            "Put the tokens of both layers on one heap. How often was each expert chosen, by how many tokens?",
            "Over both layers each expert has f = 1/2 and P = 1/4. E is 4.",
        ),
        wrong={
            "that is the mean of the two layers' losses; pooling happens before the multiplication": lambda: 3.6,
            "f sums to top_k = 2 over the experts, so a balanced router has not 1": lambda: 1.0,
            "the losses were added; the tokens are pooled, not the losses": lambda: 7.2,
            "each expert is chosen by half of the twenty tokens, so its f is not 1": lambda: 4.0,
            "f was taken over both layers, P over one; both are means over all twenty tokens": lambda: 1.8,
            "the factor E is missing": lambda: 0.5,
            "the loss of a balanced router is not 0": lambda: 0.0,
        },
    ),
    Exercise(
        number="8.7",
        name="balancing_step",
        reference="llmkit.layers.balance:balancing_step",
        cases=step_cases,
        hints=(
            "An expert with less than the mean load must become easier to choose. Up or down with its bias?",
            "torch.sign gives 1, 0 or -1: only the direction counts, each bias moves by `rate` or not at all.",
        ),
        wrong={
            "the wrong way round: crowded experts became still easier to choose": step_towards_the_crowd,
            "the step does not depend on how far the load is off; only the sign counts": step_in_proportion,
            "the rate is missing": step_without_rate,
            "an expert exactly on the mean does not move; here it went down": step_down_on_the_mean,
            "an expert exactly on the mean does not move; here it went up": step_up_on_the_mean,
            "that is the median of the loads; the mean is the even share": step_from_the_median,
            "experts above the mean must go down too": step_only_up,
            "every expert off the mean moves, not the fullest one alone": step_only_the_fullest,
            "compare with the mean of the loads; they may be counts that do not sum to 1": step_from_one_over_e,
        },
    ),
    Exercise(
        number="8.8",
        name="within_capacity",
        reference="llmkit.layers.balance:within_capacity",
        cases=capacity_cases,
        hints=(
            "The order of service: all first choices by token, then all second choices. chosen.T.flatten() is it.",
            "F.one_hot(in_order, n_experts).cumsum(0) says for every row how many each expert has been given so far.",
            "Take from it each row's own expert with gather; `place <= capacity`, and back to the shape (N, k).",
        ),
        wrong={
            "token by token was served; all first choices come before any second one": capacity_token_by_token,
            "first and second choices share the same places; here each had its own": capacity_each_choice_alone,
            "one place too few: an expert takes `capacity` rows": capacity_one_too_few,
            "in order of service the flags are (k, N): view them so and transpose, not view as (N, k)": (
                capacity_wrong_shape_back
            ),
            "the last tokens were served first": capacity_last_come,
            "True means accepted; this is the opposite": capacity_per_token,
        },
    ),
]
