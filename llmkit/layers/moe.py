"""Mixture of experts: many MLPs, of which each token uses a few.

N = B * T tokens, E experts, k = top_k of them for each token.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from llmkit.layers.balance import balancing_step, expert_load


def route(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Mixtral's choice: softmax over all experts, the k largest, renormalised to sum to 1.

    logits   (N, E)
    weights  (N, k) float32, largest first; chosen (N, k) the experts' numbers

    The same as a softmax over the k largest logits alone. Source: Jiang et al. 2024 (Mixtral), section 2.1.
    """
    probs = logits.float().softmax(-1)
    weights, chosen = probs.topk(top_k, dim=-1)
    return weights / weights.sum(-1, keepdim=True), chosen


def dispatch_loop(x: Tensor, weights: Tensor, chosen: Tensor, experts: Sequence[Callable]) -> Tensor:
    """Expert by expert: find its tokens, run them, add the weighted results where they came from.

    x (N, C), weights and chosen (N, k) -> (N, C)
    """
    out = torch.zeros_like(x)
    for e, expert in enumerate(experts):
        token, slot = torch.where(chosen == e)
        if len(token):
            out.index_add_(0, token, expert(x[token]) * weights[token, slot, None].type_as(x))
    return out


def dispatch_grouped(x: Tensor, weights: Tensor, chosen: Tensor, experts: Sequence[Callable]) -> Tensor:
    """The same by sorting: all rows for expert 0, then all for expert 1, …, one matmul for each run of rows.

    Every row is moved once there and once back, whatever the number of experts; the result does not depend on
    the order of additions, so it is the same on every run.
    """
    top_k = chosen.size(-1)
    order = chosen.flatten().argsort(stable=True)  # (N * k,) rows sorted by expert
    back = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=x.device))
    counts = torch.bincount(chosen.flatten(), minlength=len(experts)).tolist()
    runs = x.index_select(0, order // top_k).split(counts)
    y = torch.cat([expert(run) for expert, run in zip(experts, runs, strict=True) if len(run)])  # (N * k, C)
    y = y.index_select(0, back).unflatten(0, (-1, top_k))  # back in place: (N, k, C)
    return (y * weights.type_as(y)[..., None]).sum(1)


class SoftmaxRouter(nn.Linear):
    """Mixtral's router: logits in float32, then `route`."""

    def __init__(self, d_model: int, n_experts: int, top_k: int):
        super().__init__(d_model, n_experts, bias=False)
        if top_k > n_experts:
            raise ValueError(f"cannot choose {top_k} of {n_experts} experts")
        self.top_k = top_k

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C) -> weights (N, k), chosen (N, k), logits (N, E)."""
        logits = nn.functional.linear(x, self.weight).float()
        return *route(logits, self.top_k), logits


class SigmoidRouter(nn.Linear):
    """DeepSeek-V3's router: each expert scored on its own, a bias that evens out the load, groups of experts.

    load_bias     (E,) added for *choosing* only; the weights are the scores without it, so it gets no gradient.
                  `update_bias` moves it after each step. Source: DeepSeek-V3, section 2.1.2.
    n_groups      experts stand in groups; only the best top_groups of them (by their two best experts) take part
    weight_scale  the k weights sum to this
    """

    def __init__(
        self,
        d_model: int,
        n_experts: int,
        top_k: int,
        n_groups: int = 1,
        top_groups: int = 1,
        weight_scale: float = 1.0,
    ):
        super().__init__(d_model, n_experts, bias=False)
        if top_k > n_experts // n_groups * top_groups:
            raise ValueError(f"cannot choose {top_k} of {n_experts // n_groups * top_groups} experts")
        self.top_k, self.n_groups, self.top_groups, self.weight_scale = top_k, n_groups, top_groups, weight_scale
        self.register_buffer("load_bias", torch.zeros(n_experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C) -> weights (N, k), chosen (N, k), logits (N, E)."""
        logits = nn.functional.linear(x.float(), self.weight.float())
        scores = logits.sigmoid()
        chosen = self._best_groups(scores + self.load_bias).topk(self.top_k, dim=-1).indices
        weights = scores.gather(-1, chosen)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * self.weight_scale, chosen, logits

    def _best_groups(self, biased: Tensor) -> Tensor:
        if self.n_groups == 1:
            return biased
        grouped = biased.unflatten(-1, (self.n_groups, -1))  # (N, G, E/G)
        best = grouped.topk(2, dim=-1).values.sum(-1).topk(self.top_groups, dim=-1).indices
        kept = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter(-1, best, True)
        return grouped.masked_fill(~kept[..., None], -torch.inf).flatten(-2)

    @torch.no_grad()
    def update_bias(self, chosen: Tensor, rate: float = 1e-3) -> None:
        """Raise the bias of experts that got less than their share in the last step, lower the others'."""
        load = expert_load(chosen, len(self.load_bias))
        self.load_bias += balancing_step(load, rate)


class MoE(nn.Module):
    """A router, its experts and perhaps a shared expert that every token passes.

    router   (N, C) -> weights (N, k), chosen (N, k), logits (N, E)
    """

    recorder: Callable[[Tensor, Tensor], None] | None = None  # set by record_routing: gets (logits, chosen)

    def __init__(self, router: nn.Module, experts: Sequence[nn.Module], shared: nn.Module | None = None):
        super().__init__()
        self.router, self.experts, self.shared = router, nn.ModuleList(experts), shared

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)  # (B, T, C) -> (N, C)
        weights, chosen, logits = self.router(flat)
        if self.recorder is not None:
            self.recorder(logits, chosen)
        out = dispatch_grouped(flat, weights, chosen, self.experts)
        if self.shared is not None:
            out = out + self.shared(flat)
        return out.view_as(x)


class record_routing:
    """`with record_routing(model) as routes:` collects each MoE layer's logits and choices, layer by layer.

    routes.logits   a list of (N, E), with gradients: what load_balancing_loss wants
    routes.chosen   a list of (N, k)
    """

    def __init__(self, model: nn.Module):
        # By what it has, not by its class: a lesson shows MoE in a cell, and that makes another class of the name.
        self.layers = [
            module for module in model.modules() if hasattr(module, "recorder") and hasattr(module, "router")
        ]
        if not self.layers:
            raise ValueError("this model has no MoE layer, so there is no routing to record")
        self.logits: list[Tensor] = []
        self.chosen: list[Tensor] = []

    def __enter__(self) -> "record_routing":
        for layer in self.layers:
            layer.recorder = self._record
        return self

    def __exit__(self, *_: object) -> None:
        for layer in self.layers:
            del layer.recorder

    def _record(self, logits: Tensor, chosen: Tensor) -> None:
        self.logits.append(logits)
        self.chosen.append(chosen)

    def clear(self) -> None:
        """Forget what was recorded: call it before each step."""
        self.logits, self.chosen = [], []
