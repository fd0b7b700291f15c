"""Lesson 20: names, rows, experts, blocks of 4 bits, GPTQ, log-probabilities of answers, pairs."""

import math
import re

import torch

from llmkit.checkpoints.gguf_from_hf import gguf_name as own_name
from llmkit.checkpoints.gptq import nearest
from llmkit.checkpoints.quantization import BLOCK, inverse
from llmkit.checkpoints.tables import WeightsError
from llmkit.course.checks.lesson_03 import halves_cases
from llmkit.course.exercise import Case, Exercise
from llmkit.layers.rope import pairs_to_halves


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- 20.1 gguf_name ---

_PARTS = ("input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
          "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "block_sparse_moe.gate")  # fmt: skip


def name_cases() -> list[Case]:
    def one(label: str, name: str) -> Case:
        return Case(label, lambda: (name,))

    layer = "model.layers."
    return [
        one("the embedding", "model.embed_tokens.weight"),
        one("the last norm", "model.norm.weight"),
        one("the output matrix", "lm_head.weight"),
        *(one(f"{part} of layer 0", f"{layer}0.{part}.weight") for part in _PARTS),
        one("layer 31", f"{layer}31.self_attn.q_proj.weight"),
        one("a bias", f"{layer}2.self_attn.q_proj.bias"),
        *(one(f"an expert's {w}", f"{layer}1.block_sparse_moe.experts.{e}.{w}.weight") for w, e in (("w1", 0), ("w2", 7), ("w3", 12))),
        one("a tensor of another family", f"{layer}0.self_attn.q_norm.weight"),
        one("something outside the layers", "model.rotary.weight"),
        one("a layer without a number", f"{layer}x.mlp.up_proj.weight"),
        one("a whole name inside a layer", f"{layer}0.model.norm.weight"),
        one("an 8-bit checkpoint's scale", f"{layer}0.self_attn.q_proj.weight_scale"),
        one("another ending outside the layers", "model.norm.scale"),
        one("an adapter's matrix", f"{layer}0.self_attn.q_proj.lora_A.weight"),
        one("a layer inside another model", f"language_model.{layer}0.mlp.up_proj.weight"),
    ]  # fmt: skip


def _names(change=lambda theirs, name: theirs, unknown=True):
    def gguf_name(name):
        try:
            return change(own_name(name), name)
        except WeightsError:
            if unknown:
                raise
            return name

    return gguf_name


name_w2_w3 = _names(
    lambda to, name: re.sub(
        r"ffn_(up|down)_exps", lambda m: {"ffn_up_exps": "ffn_down_exps", "ffn_down_exps": "ffn_up_exps"}[m[0]], to
    )
)
name_w1_w3 = _names(
    lambda to, name: re.sub(
        r"ffn_(up|gate)_exps", lambda m: {"ffn_up_exps": "ffn_gate_exps", "ffn_gate_exps": "ffn_up_exps"}[m[0]], to
    )
)
name_keeps_expert = _names(
    lambda to, name: to.replace("_exps", "_exps." + re.search(r"experts\.(\d+)", name)[1]) if "experts" in name else to
)
name_without_ending = _names(lambda to, name: to.rpartition(".")[0])
name_always_weight = _names(lambda to, name: to.rpartition(".")[0] + ".weight")
name_one_digit = _names(lambda to, name: re.sub(r"blk\.(\d)\d*", r"blk.\1", to))
name_router = _names(lambda to, name: to.replace("ffn_gate_inp", "ffn_gate"))
name_norms = _names(lambda to, name: to.replace("ffn_norm", "post_attention_norm"))
name_unknown = _names(unknown=False)


def name_any_ending(name):
    stem, _, ending = name.rpartition(".")
    return own_name(f"{stem}.weight").removesuffix("weight") + ending


def name_not_from_the_start(name):
    return own_name(name[max(name.find("model.layers."), 0) :])


def name_not_to_the_end(name):
    return own_name(re.sub(r"\.(weight|bias).*", r".\1", name.replace(".lora_A", "")))


# --- 20.2 halves_to_pairs ---


def pairs_the_other_way(weight, n_heads):
    return pairs_to_halves(weight, n_heads)


def pairs_over_all_heads(weight, n_heads):
    return weight.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)


def pairs_of_columns(weight, n_heads):
    return weight.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)


def pairs_of_columns_by_head(weight, n_heads):
    return weight.unflatten(-1, (n_heads, 2, -1)).transpose(-1, -2).flatten(-3)


def pairs_half_before_head(weight, n_heads):
    return weight.unflatten(0, (2, n_heads, -1)).transpose(0, 1).flatten(0, 2)


def pairs_head_and_half(weight, n_heads):
    return weight.unflatten(0, (n_heads, 2, -1)).transpose(0, 1).flatten(0, 2)


def pairs_head_and_place(weight, n_heads):
    return weight.unflatten(0, (n_heads, 2, -1)).transpose(0, 2).flatten(0, 2)


def pairs_second_first(weight, n_heads):
    return weight.unflatten(0, (n_heads, 2, -1)).flip(1).transpose(1, 2).flatten(0, 2)


def pairs_heads_inside(weight, n_heads):
    return weight.unflatten(0, (2, -1, n_heads)).permute(2, 1, 0, *range(3, weight.dim() + 2)).flatten(0, 2)


def pairs_not_joined(weight, n_heads):
    return weight.unflatten(0, (n_heads, 2, -1)).transpose(1, 2)


# --- 20.3 stack_experts ---


def stack_cases() -> list[Case]:
    def tensors(n: int, layers=(0,), kinds=("w1", "w2", "w3"), order=None, without=()):
        named = {}
        for layer in layers:
            for e in order or range(n):
                for kind in kinds:
                    shape = (4, 6) if kind == "w2" else (6, 4)
                    name = f"model.layers.{layer}.block_sparse_moe.experts.{e}.{kind}.weight"
                    named[name] = _random(*shape, seed=100 * layer + 3 * e + int(kind[1]))
        return {name: tensor for name, tensor in named.items() if name not in without}

    def other():
        return {"model.norm.weight": torch.ones(4), "model.layers.0.block_sparse_moe.gate.weight": torch.zeros(2, 4)}

    last = "model.layers.0.block_sparse_moe.experts.2.w3.weight"
    first = "model.layers.1.block_sparse_moe.experts.0.w1.weight"
    return [
        Case("two experts of one layer, one matrix each", lambda: (tensors(2, kinds=("w1",)), 2)),
        Case("two experts of one layer", lambda: (tensors(2), 2)),
        Case("two layers, among other tensors", lambda: (other() | tensors(2, (0, 1)), 2)),
        Case("the last expert comes first", lambda: (tensors(3, order=(2, 1, 0)), 3)),
        Case("twelve experts, as a file lists them: 0, 1, 10, 11, 2 …", lambda: (tensors(12, order=sorted(range(12), key=str)), 12)),
        Case("a dense model", lambda: ({"model.norm.weight": torch.ones(4)}, 0)),
        Case("the last expert's w3 is missing", lambda: (tensors(3, without=(last,)), 3)),
        Case("the first expert's w1 is missing in one layer", lambda: (tensors(3, (0, 1), without=(first,)), 3)),
        Case("an expert too many", lambda: (tensors(3), 2)),
        Case("three experts, but they are 0, 1 and 3", lambda: (tensors(3, order=(0, 1, 3)), 3)),
        Case("experts where there should be none", lambda: (tensors(2), 0)),
    ]  # fmt: skip


def _stack(tensors, n_experts, *, order=sorted, check=True, dim=0, name=own_name, join=torch.stack):
    found = {}
    for theirs, tensor in tensors.items():
        if number := re.search(r"\.experts\.(\d+)\.", theirs):
            found.setdefault(name(theirs), {})[int(number[1])] = tensor
    if check and any(sorted(experts) != list(range(n_experts)) for experts in found.values()):
        raise ValueError("experts are missing")
    return {key: join([experts[e] for e in order(experts)], dim) for key, experts in found.items()}


def stack_as_texts(tensors, n_experts):
    return _stack(tensors, n_experts, order=lambda experts: sorted(experts, key=str))


def stack_in_order_of_arrival(tensors, n_experts):
    return _stack(tensors, n_experts, order=list)


def stack_unchecked(tensors, n_experts):
    return _stack(tensors, n_experts, check=False)


def stack_counted(tensors, n_experts):
    result = stack_unchecked(tensors, n_experts)
    if any(len(experts) != n_experts for experts in result.values()):
        raise ValueError("experts are missing")
    return result


def stack_none_wanted(tensors, n_experts):
    return _stack(tensors, n_experts) if n_experts else {}


def stack_last_axis(tensors, n_experts):
    return _stack(tensors, n_experts, dim=-1)


def stack_joined(tensors, n_experts):
    return _stack(tensors, n_experts, join=torch.cat)


def stack_up_and_gate(tensors, n_experts):
    return _stack(tensors, n_experts, name=name_w1_w3)


def stack_their_names(tensors, n_experts):
    return _stack(tensors, n_experts, name=lambda name: re.sub(r"experts\.\d+", "experts", name))


# --- 20.4 q4_0 ---


def blocks_cases() -> list[Case]:
    def one(*first: float):
        return torch.tensor([[*first, *[0.0] * (32 - len(first))]])

    return [
        Case("largest -8: d is 1, and 0 becomes the number 8", lambda: (one(-8.0, 1.0, 2.0),)),
        Case("largest 8: d is -1", lambda: (one(1.0, 8.0, -3.0),)),
        Case("halves", lambda: (one(-8.0, 1.5, -1.5, 2.5, -2.5),)),
        Case("nearly as large on the other side: at most 15", lambda: (one(-8.0, 7.9, 7.4),)),
        Case("two largest of both signs", lambda: (one(0.5, 3.0, -3.0),)),
        Case("zeros", lambda: (torch.zeros(2, 32),)),
        Case("0, 1, 2 … 31", lambda: (torch.arange(32.0)[None],)),
        Case("two blocks of very different sizes in a row", lambda: (torch.cat([_random(1, 32), 100 * _random(1, 32, seed=1)], 1),)),
        Case("rows of three blocks", lambda: (_random(5, 96, seed=2),)),
        Case("experts: three axes", lambda: (0.02 * _random(2, 3, 64, seed=3),)),
        Case("one row", lambda: (_random(64, seed=4),)),
        Case("a scale that is too large for 16 bits", lambda: (one(1e6, 1.0),)),
    ]  # fmt: skip


def _q4_0(values, *, place=lambda b: b.abs().argmax(-1, keepdim=True), over=-8.0, add=8.5, most=15, cut=torch.trunc,
          take=lambda largest: largest, times=lambda b, d: b * inverse(d), dtype=torch.float16, pack=None, blocks=None,
          scale_after=False):  # fmt: skip
    block = blocks or BLOCK
    b = values.unflatten(-1, (-1, block))
    d = take(b.gather(-1, place(b))) / over
    if not d.to(dtype).isfinite().all():
        raise ValueError("too large")
    q = cut(times(b, d) + add).clamp(0, most).nan_to_num(0).to(torch.uint8)
    low, high = q.chunk(2, dim=-1)
    packed = pack(q) if pack else low | (high << 4)
    scale = d.to(dtype).contiguous().view(torch.uint8)
    return torch.cat([packed, scale] if scale_after else [scale, packed], dim=-1).flatten(-2)


def q4_neighbours(values):
    return _q4_0(values, pack=lambda q: q[..., 0::2] | (q[..., 1::2] << 4))


def q4_upper_first(values):
    return _q4_0(values, pack=lambda q: (q.chunk(2, -1)[0] << 4) | q.chunk(2, -1)[1])


def q4_without_sign(values):
    return _q4_0(values, take=torch.abs, over=8.0)


def q4_always_negative(values):
    return _q4_0(values, take=torch.abs)


def q4_rounded_scale(values):
    return _q4_0(values, times=lambda b, d: b * inverse(d.half().float()))


def q4_divided(values):
    return _q4_0(values, times=lambda b, d: b / d)


def q4_over_7(values):
    return _q4_0(values, over=-7.0)


def q4_over_plus_8(values):
    return _q4_0(values, over=8.0)


def q4_largest_signed(values):
    return _q4_0(values, place=lambda b: b.argmax(-1, keepdim=True))


def q4_not_clamped(values):
    return _q4_0(values, most=16)


def q4_cut_not_rounded(values):
    return _q4_0(values, add=8.0)


def q4_halves_to_even(values):
    return _q4_0(values, add=8.0, cut=torch.round)


def q4_bfloat16(values):
    if not (values.abs().max() / 8).half().isfinite():
        raise ValueError("too large")
    return _q4_0(values, dtype=torch.bfloat16)


def q4_scale_last(values):
    return _q4_0(values, scale_after=True)


def q4_one_scale_a_row(values):
    d = values.gather(-1, values.abs().argmax(-1, keepdim=True)) / -8
    b = values.unflatten(-1, (-1, BLOCK))
    q = (b * inverse(d[..., None]) + 8.5).trunc().clamp(0, 15).to(torch.uint8)
    low, high = q.chunk(2, dim=-1)
    scale = d[..., None].half().expand(*b.shape[:-1], 1).contiguous()
    if not scale.isfinite().all():
        raise ValueError("too large")
    return torch.cat([scale.view(torch.uint8), low | (high << 4)], dim=-1).flatten(-2)


# --- 20.5 gptq ---


def gptq_cases() -> list[Case]:
    def made(rows: int, columns: int, seed: int = 0, n: int = 200, mixed: float = 1.0):
        mixing = torch.eye(columns) + mixed * _random(columns, columns, seed=seed + 1) / columns**0.5
        x = _random(n, columns, seed=seed + 2) @ mixing
        return _random(rows, columns, seed=seed), x.T @ x

    def equal():
        """What the first columns lose falls to the block's largest weight, which comes after them."""
        weight, x = 0.3 * _random(2, 64, seed=70), _random(200, 64, seed=71)
        for first in (0, 32):
            weight[:, first : first + 3] = torch.tensor([[7.9, 7.8, -8.0], [-7.7, -7.9, 8.0]])
            x[:, first : first + 3] = x[:, first, None] + 0.05 * x[:, first : first + 3]
        return weight, x.T @ x

    even = [0.5, -1.0, 0.25] * 10 + [0.5, -2.0]
    return [
        Case("inputs that have nothing to do with each other: each weight by itself", lambda: (_random(3, 32), 7 * torch.eye(32))),
        Case("one block, inputs that come together", lambda: made(3, 32)),
        Case("two blocks, 2 bits", lambda: (*made(4, 64, seed=10), 2)),
        Case("strongly tied inputs, 3 bits", lambda: (*made(4, 32, seed=30, mixed=3.0), 3)),
        Case("fewer inputs than columns: only the damping saves the inverse", lambda: (*made(3, 32, seed=40, n=10), 4)),
        Case("a larger damping", lambda: (*made(3, 32, seed=50), 4, 0.5)),
        Case("inputs that are nearly equal", equal),
        Case("a row of zeros", lambda: (torch.cat([torch.zeros(1, 32), torch.tensor([even])]), made(2, 32, seed=60)[1])),
        Case("a Hessian of another size", lambda: (_random(2, 64), torch.eye(32))),
        Case("no inputs at all", lambda: (_random(2, 32), torch.zeros(32, 32))),
        Case("a row that is no whole number of blocks", lambda: (_random(2, 40), torch.eye(40))),
        Case("1 bit", lambda: (_random(2, 32), torch.eye(32), 1)),
    ]  # fmt: skip


def _gptq(weight, hessian, bits=4, damp=0.01, *, spread=None, sign=-1.0, divide=1, pin=True, group=BLOCK,
          moving=True, damping=None, in_place=False, clamp=True, stored=lambda scale: scale.half().float()):  # fmt: skip
    """gptq with one choice made wrongly."""
    nearest(weight, bits)  # refuses what is to be refused
    if hessian.shape != (weight.size(1),) * 2:
        raise ValueError("the Hessian is of another size")
    H, half = hessian.double(), 2 ** (bits - 1)
    mean = H.diagonal().mean()
    H = damping(H, damp) if damping else H + damp * mean * torch.eye(len(H), dtype=torch.float64)
    factor, failed = torch.linalg.cholesky_ex(H)
    if failed or not mean:
        raise ValueError("no inverse")
    U = (spread or (lambda inverse_H: torch.linalg.cholesky(inverse_H, upper=True)))(
        torch.cholesky_inverse(factor)
    ).float()
    W = weight if in_place else weight.detach().float().clone()
    first, rounded = weight.detach().clone(), torch.empty_like(W)
    for j in range(W.size(1)):
        if j % group == 0:
            block = (W if moving else first)[:, j : j + group]
            place = block.abs().argmax(1, keepdim=True)
            scale = block.gather(1, place) / -half
        q = (W[:, j : j + 1] * inverse(scale) + (half + 0.5)).trunc()
        q = (q.clamp(0, 2 * half - 1) if clamp else q) - half
        q = torch.where(place == j % group, -float(half), q) if pin else q
        rounded[:, j : j + 1] = q * stored(scale)
        error = (W[:, j] - rounded[:, j]) / U[j, j] ** divide
        W[:, j + 1 :] += sign * error[:, None] * U[j, j + 1 :]
    return rounded


def gptq_no_compensation(weight, hessian, bits=4, damp=0.01):
    """Also what a *lower* factor gives: right of its diagonal there is nothing."""
    _gptq(weight, hessian, bits, damp)
    return nearest(weight, bits)


def gptq_root_of_the_hessian(*a):
    return _gptq(*a, spread=lambda inverse_H: torch.linalg.cholesky(torch.linalg.inv(inverse_H), upper=True))


def gptq_scale_not_stored(*a):
    return _gptq(*a, stored=lambda scale: scale)


def gptq_divided_twice(*a):
    return _gptq(*a, divide=2)


def gptq_lower(*a):
    """The other triangular root: inverse = U Uᵀ."""
    return _gptq(*a, spread=lambda inverse_H: torch.linalg.cholesky(inverse_H.flip(0, 1)).flip(0, 1))


def gptq_plain_inverse(*a):
    return _gptq(*a, spread=lambda inv: inv)


def gptq_not_divided(*a):
    return _gptq(*a, divide=0)


def gptq_wrong_sign(*a):
    return _gptq(*a, sign=1.0)


def gptq_not_pinned(*a):
    return _gptq(*a, pin=False)


def gptq_first_scales(*a):
    return _gptq(*a, moving=False)


def gptq_one_scale_a_row(weight, hessian, bits=4, damp=0.01):
    return _gptq(weight, hessian, bits, damp, group=weight.size(1))


def gptq_damped_by_itself(*a):
    return _gptq(*a, damping=lambda H, damp: H + damp * torch.diag(H.diagonal()))


def gptq_damped_absolutely(*a):
    return _gptq(*a, damping=lambda H, damp: H + damp * torch.eye(len(H), dtype=torch.float64))


def gptq_damped_fixed(weight, hessian, bits=4, damp=0.01):
    return _gptq(weight, hessian, bits)


def gptq_in_place(*a):
    return _gptq(*a, in_place=True)


# --- 20.6 continuation_log_probs ---


def continuation_cases() -> list[Case]:
    def many(T: int, start: int, seed: int = 0, V: int = 7):
        ids = torch.randint(0, V, (T,), generator=torch.Generator().manual_seed(seed))
        return 2 * _random(T, V, seed=seed), ids, start

    def toy():
        return torch.tensor([[0.0, 9.0], [0.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1, 0])

    return [
        Case("one token after two", lambda: (*toy(), 2)),
        Case("two tokens after one", lambda: (*toy(), 1)),
        Case("eight tokens, a context of five", lambda: many(8, 5)),
        Case("the shortest context", lambda: many(6, 1, 1)),
        Case("an answer of no tokens", lambda: many(6, 6, 2)),
        Case("16-bit logits", lambda: (many(6, 3, 3)[0].bfloat16(), *many(6, 3, 3)[1:])),
        Case("no context", lambda: many(5, 0, 4)),
        Case("a context longer than the text", lambda: many(5, 6, 5)),
    ]


def rows_of_the_tokens_themselves(logits, ids, start):
    if not 1 <= start <= len(ids):
        raise ValueError(f"the context must have from 1 to {len(ids)} tokens, got {start}")
    log_probs = logits[start:].float().log_softmax(-1)
    return log_probs.gather(-1, ids[start:, None]).squeeze(-1)


def _continuation(rule):
    def log_probs(logits, ids, start):
        if not 1 <= start <= len(ids):
            raise ValueError("start")
        return rule(logits.float(), ids, start)

    return log_probs


def _right(logits, ids, start):
    return logits[start - 1 : len(ids) - 1].log_softmax(-1).gather(-1, ids[start:, None]).squeeze(-1)


continuation_summed = _continuation(lambda logits, ids, start: _right(logits, ids, start).sum())
continuation_with_context = _continuation(lambda logits, ids, start: _right(logits, ids, 1))
continuation_of_logits = _continuation(
    lambda logits, ids, start: logits[start - 1 : -1].gather(-1, ids[start:, None]).squeeze(-1)
)
continuation_probabilities = _continuation(lambda logits, ids, start: _right(logits, ids, start).exp())
continuation_losses = _continuation(lambda logits, ids, start: -_right(logits, ids, start))
continuation_two_back = _continuation(
    lambda logits, ids, start: logits.roll(2, 0)[start:].log_softmax(-1).gather(-1, ids[start:, None]).squeeze(-1)
)
continuation_ids_before = _continuation(
    lambda logits, ids, start: logits[start:].log_softmax(-1).gather(-1, ids[start - 1 : -1, None]).squeeze(-1)
)
continuation_both_shifted = _continuation(
    lambda logits, ids, start: rows_of_the_tokens_themselves(logits.roll(1, 0), ids.roll(1, 0), start)
)
continuation_first_lost = _continuation(lambda logits, ids, start: _right(logits, ids, start)[1:])


# --- 20.7 pairs by hand ---


def standard_errors() -> list[float]:
    n, only_a, only_b, both = 200, 30, 20, 70
    share_a, share_b = (both + only_a) / n, (both + only_b) / n
    paired = math.sqrt(((only_a + only_b) / n - (share_a - share_b) ** 2) / n)
    apart = math.sqrt((share_a * (1 - share_a) + share_b * (1 - share_b)) / n)
    return [paired, apart]


EXERCISES = [
    Exercise(
        number="20.1",
        name="gguf_name",
        reference="llmkit.checkpoints.gguf_from_hf:gguf_name",
        cases=name_cases,
        hints=(
            'Part the ending off first: name.rpartition(".") gives the stem, the dot and "weight".',
            "Two tables: one for the three names outside the layers, one for the parts of a layer. "
            'r"model\\.layers\\.(\\d+)\\.(.+)" with re.fullmatch gives the layer\'s number and the part.',
            'Take the expert\'s number out (re.sub(r"experts\\.\\d+", "experts.*", part)) before you look the part up.',
        ),
        wrong={
            "w2 goes down and w3 goes up": name_w2_w3,
            "w1 is the gate and w3 goes up: both have one shape, so nothing would crash": name_w1_w3,
            "the expert's number is no part of the name: a layer's experts become one tensor": name_keeps_expert,
            "the ending (.weight or .bias) stays": name_without_ending,
            "the ending is not always .weight": name_always_weight,
            "a layer's number may have two digits": name_one_digit,
            "block_sparse_moe.gate is the router, ffn_gate_inp; ffn_gate is a dense layer's gate": name_router,
            "post_attention_layernorm is named for what it follows; GGUF names it for what it precedes, ffn_norm": name_norms,
            "a name that is not in the table must raise WeightsError; a tensor that slips through is lost silently": name_unknown,
            "any ending was taken; only .weight and .bias are known, and a scale of 8-bit weights is no weight": name_any_ending,
            "the pattern must fit from the name's beginning: re.search and `in` look anywhere": name_not_from_the_start,
            "the pattern must fit to the name's end: re.match is content with its beginning": name_not_to_the_end,
        },
    ),
    Exercise(
        number="20.2",
        name="halves_to_pairs",
        reference="llmkit.layers.rope:halves_to_pairs",
        cases=halves_cases,  # the same matrices, the other way
        hints=(
            "weight.unflatten(0, (n_heads, 2, -1)) makes the rows (head, half, place in the half).",
            "Which two axes must change places so that the two members of a pair come to lie side by side?",
            "flatten(0, 2) makes one axis of the first three again.",
        ),
        wrong={
            "that is the way back, from neighbours to halves": pairs_the_other_way,
            "the rows were sorted over all heads at once; each head keeps its own rows": pairs_over_all_heads,
            "the columns were reordered; the rows belong to the heads": pairs_of_columns,
            "the columns were reordered, head by head; it is the rows that make a head's numbers": pairs_of_columns_by_head,
            "heads and halves changed places; the first axis, the heads, stays where it is": pairs_head_and_half,
            "the rows come as (head, half, place); they were read as (half, head, place)": pairs_half_before_head,
            "the heads' axis was moved; halves and places change places, behind it": pairs_head_and_place,
            "the second half came first: the order is 0 2 1 3": pairs_second_first,
            "the heads lie one behind the other: the first D rows are head 0": pairs_heads_inside,
            "the shape: flatten heads, places and halves into one axis again": pairs_not_joined,
        },
    ),
    Exercise(
        number="20.3",
        name="stack_experts",
        reference="llmkit.checkpoints.gguf_from_hf:stack_experts",
        cases=stack_cases,
        hints=(
            "Collect first, stack last: a dict from GGUF's name to another dict, from the expert's number to its matrix.",
            're.search(r"\\.experts\\.(\\d+)\\.", name) finds the number; make an int of it.',
            "sorted(numbers) == list(range(n_experts)) says whether all are there and none is too many.",
        ),
        wrong={
            "the numbers were sorted as texts: 10 comes before 2": stack_as_texts,
            "the experts were stacked as they came; the file's order is not theirs": stack_in_order_of_arrival,
            "an expert is missing or too many, and nobody said so": stack_unchecked,
            "as many as needed is not enough: 0, 1 and 3 are three, and 2 is missing": stack_counted,
            "where n_experts is 0, each expert that is there is one too many": stack_none_wanted,
            "the new axis is the first one": stack_last_axis,
            "the matrices were joined along an axis that was there; torch.stack makes a new one": stack_joined,
            "gate and up are exchanged: w1 is the gate, w3 goes up": stack_up_and_gate,
            "the result is under GGUF's names": stack_their_names,
        },
    ),
    Exercise(
        number="20.4",
        name="q4_0",
        reference="llmkit.checkpoints.quantization:q4_0",
        cases=blocks_cases,
        hints=(
            "values.unflatten(-1, (-1, BLOCK)) makes the blocks; gather with abs().argmax(-1, keepdim=True) fetches the "
            "largest with its sign.",
            "blocks * inverse(d) + 8.5, then trunc, clamp(0, 15), .to(torch.uint8).",
            "q.chunk(2, dim=-1) gives the first and the last 16 numbers; high << 4 moves four bits up, | joins.",
            "_half(d) gives the two bytes; torch.cat with them in front, flatten(-2).",
        ),
        wrong={
            "a byte holds the numbers i and i + 16, not two neighbours": q4_neighbours,
            "the first 16 numbers are in the *lower* halves of the bytes": q4_upper_first,
            "d has the largest weight's sign, so that it comes to lie on -8 exactly": q4_without_sign,
            "the largest weight keeps its sign before it is divided by -8; here d is never positive": q4_always_negative,
            "the numbers are computed with d as it was; only the file's copy is rounded to 16 bits": q4_rounded_scale,
            "x / d was computed; it rounds otherwise than x * inverse(d), and is NaN where d is 0": q4_divided,
            "d is the largest weight over -8": q4_over_7,
            "d is the largest weight over *minus* 8: the number 0 stands for it": q4_over_plus_8,
            "largest by absolute value, not the most positive": q4_largest_signed,
            "16 does not fit into four bits: at most 15": q4_not_clamped,
            "8 was added and not 8.5: that cuts the fraction off instead of rounding": q4_cut_not_rounded,
            "halves were rounded to the even number; here they go up: add 8.5 and cut": q4_halves_to_even,
            "the scale is a float16, not a bfloat16": q4_bfloat16,
            "the scale's bytes come first": q4_scale_last,
            "every block of 32 has its own scale": q4_one_scale_a_row,
        },
    ),
    Exercise(
        number="20.5",
        name="gptq",
        reference="llmkit.checkpoints.gptq:gptq",
        cases=gptq_cases,
        tolerance=1e-4,
        time_limit=10.0,
        hints=(
            "Work on a float copy W of the weight, which changes, and fill `rounded` beside it, a column at a time.",
            "H = hessian + damp * (mean of its diagonal) * identity, in float64. torch.linalg.cholesky_ex(H) gives the factor "
            "and whether it failed, torch.cholesky_inverse(factor) the inverse, torch.linalg.cholesky(…, upper=True) is U.",
            "When j is a multiple of 32: scale and place of the largest weight from _scale_and_place(W[:, j : j + 32], bits).",
            "The last step of column j: W[:, j + 1 :] -= error[:, None] * U[j, j + 1 :].",
        ),
        wrong={
            "that is rounding each weight by itself: the error of a column must be spread over those after it; or U is not the *upper* factor, and nothing is spread": gptq_no_compensation,
            "that is a factor of the damped Hessian; U is one of its *inverse*": gptq_root_of_the_hessian,
            "the whole numbers are multiplied with the scale as a file stores it, _stored(scale)": gptq_scale_not_stored,
            "U is the *upper* factor, H⁻¹ = UᵀU; this one is of the other kind": gptq_lower,
            "the rows of the inverse itself were used; after each column it would have to be computed anew, and U's rows are that": gptq_plain_inverse,
            "the error is divided by U[j, j] before it is spread": gptq_not_divided,
            "the error is divided by U[j, j], not by its square": gptq_divided_twice,
            "the later columns must *lose* error * U[j, k]; they gained it": gptq_wrong_sign,
            "the largest weight must be written as scale * -2^(bits-1), or a reader finds another scale": gptq_not_pinned,
            "a block's scale is set from the weights as they are when the block begins, not as they were at first": gptq_first_scales,
            "each block of 32 has its own scale": gptq_one_scale_a_row,
            "the damping is a share of the diagonal's *mean*, the same for every column": gptq_damped_by_itself,
            "damp is a share of the diagonal's mean, not a number by itself": gptq_damped_absolutely,
            "the damping is an argument; 0.01 is only what holds where nothing is said": gptq_damped_fixed,
            "the value is right, but the weight was changed: work on a copy": gptq_in_place,
        },
    ),
    Exercise(
        number="20.6",
        name="continuation_log_probs",
        reference="llmkit.evaluation.multiple_choice:continuation_log_probs",
        cases=continuation_cases,
        starts_from=rows_of_the_tokens_themselves,
        tolerance=1e-5,
        hints=(
            "Row t of the logits was computed from the tokens up to and with t. Which token is it about?",
            "The token at place `start` is predicted by the row before it. How many rows are needed, and which is the last?",
        ),
        wrong={
            "each token was looked up in its own row; that row is about the token *after* it": rows_of_the_tokens_themselves,
            "one number for each token is asked for, not their sum": continuation_summed,
            "the context's own tokens were scored too": continuation_with_context,
            "those are logits; log_softmax makes log-probabilities of them": continuation_of_logits,
            "those are probabilities; their logarithms are asked for": continuation_probabilities,
            "those are losses; log-probabilities are negative": continuation_losses,
            "one row too far back: the row right before a token is about it": continuation_two_back,
            "the tokens were moved and not the rows: row t is about token t + 1, not t - 1": continuation_ids_before,
            "rows and tokens were both moved, so each token still meets its own row; only the rows move": continuation_both_shifted,
            "the answer's first token is missing: the context's last row is about it": continuation_first_lost,
        },
    ),
    Exercise(
        number="20.7",
        name="errors",
        reference=standard_errors,
        tolerance=2e-4,
        hints=(
            "For each question let x be 1 where only A is right, -1 where only B is, 0 otherwise. The difference is the mean of x.",
            "A mean's standard error is the root of (variance / n), and the variance is the mean of x² less the mean squared.",
            "For two different sets of questions the variances of the two shares add up; a share p has p (1 - p) / n.",
        ),
        wrong={
            "the two are exchanged: the first is the one of the same questions": lambda: standard_errors()[::-1],
            "those are variances; take their roots": lambda: [x**2 for x in standard_errors()],
            "as shares, not percent": lambda: [100 * x for x in standard_errors()],
            "as shares, not percent: one percent is 0.01": lambda: [round(100 * x, 1) for x in standard_errors()],
            "as shares, not percent: five points are 0.05": lambda: [round(100 * x, 2) for x in standard_errors()],
            "a list of two is asked for; that is the first": lambda: standard_errors()[0],
            "a list of two is asked for; that is the second": lambda: standard_errors()[1],
            "one standard error each, not 1.96": lambda: [1.96 * x for x in standard_errors()],
            "variances add, not errors: in the second the root comes after the sum": lambda: [standard_errors()[0], math.sqrt(0.50 * 0.50 / 200) + math.sqrt(0.45 * 0.55 / 200)],
            "the variance was not divided by the number of questions": lambda: [x * math.sqrt(200) for x in standard_errors()],
            "in the second the two variances *add*: both shares are uncertain": lambda: [standard_errors()[0], math.sqrt(0.25 / 200)],
            "the variance of x was taken over the 50 questions that differ; the other 150 are zeros that count": lambda: [math.sqrt((1 - 0.2**2) / 50), standard_errors()[1]],
            "those are two standard errors each; one is asked for": lambda: [2 * x for x in standard_errors()],
        },
    ),
]  # fmt: skip
