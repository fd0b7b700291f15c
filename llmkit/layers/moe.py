"""Mixture of experts: many MLPs, of which each token uses a few.

N = B * T tokens, E experts, k = top_k of them for each token.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


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
    counts = torch.bincount(chosen.flatten(), minlength=len(experts)).tolist()
    runs = x[order // top_k].split(counts)
    y = torch.cat([expert(run) for expert, run in zip(experts, runs, strict=True) if len(run)])  # (N * k, C)
    y = torch.empty_like(y).index_copy(0, order, y).unflatten(0, (-1, top_k))  # back in place: (N, k, C)
    return (weights.type_as(y)[:, None] @ y).squeeze(1)


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

    bias          (E,) added for *choosing* only; the weights are the scores without it, so it gets no gradient.
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


def balancing_step(load: Tensor, rate: float = 1e-3) -> Tensor:
    """(E,) loads -> (E,) what to add to the biases: rate up for the underused, rate down for the overused.

    >>> balancing_step(torch.tensor([0.5, 0.25, 0.25, 1.0]), 0.1)
    tensor([ 0.0000,  0.1000,  0.1000, -0.1000])
    """
    return rate * torch.sign(load.mean() - load)


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


def expert_load(chosen: Tensor, n_experts: int, attention_mask: Tensor | None = None) -> Tensor:
    """(E,): of all choices, the share that fell on each expert; sums to 1.

    >>> expert_load(torch.tensor([[0, 2], [2, 3]]), 4)
    tensor([0.2500, 0.0000, 0.5000, 0.2500])
    """
    if attention_mask is not None:
        chosen = chosen[attention_mask.flatten().bool()]
    counts = torch.bincount(chosen.flatten(), minlength=n_experts).float()
    return counts / counts.sum()


def dead_experts(load: Tensor, below: float = 0.1) -> list[int]:
    """The experts that get less than `below` times an equal share.

    >>> dead_experts(torch.tensor([0.5, 0.01, 0.29, 0.2]))
    [1]
    """
    return torch.where(load < below / len(load))[0].tolist()


def balance_loss(logits: Tensor, top_k: int) -> Tensor:
    """How unevenly one layer's router spreads the tokens: E * sum over experts of f_e * P_e.

    logits  (N, E) of one layer
    f_e     choices a token that fell on expert e: how many tokens have it among their top_k, divided by N
    P_e     the mean over tokens of expert e's probability (softmax over all E)
    result  scalar, float32; top_k when the load is even, up to E when all tokens go to the same experts

    Counting has no gradient, so the gradient comes through P alone: it lowers the logits of crowded experts.
    Source: Fedus et al. 2021 (Switch Transformer), equation 4, for more than one choice a token.

    >>> balance_loss(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), top_k=1).item()
    1.0
    """
    probs = logits.float().softmax(-1)
    chosen = probs.topk(top_k, dim=-1).indices
    choices = torch.bincount(chosen.flatten(), minlength=logits.size(-1)) / len(logits)  # (E,); sums to top_k
    return logits.size(-1) * (choices * probs.mean(0)).sum()


def load_balancing_loss(
    logits: Sequence[Tensor], top_k: int, attention_mask: Tensor | None = None, per_layer: bool = True
) -> Tensor:
    """`balance_loss` of all layers.

    logits          (N, E) for each layer
    attention_mask  (B, T), N = B * T; padding is not counted
    per_layer       the mean of the layers' losses, as in the Switch Transformer; False pools all layers' tokens
                    first, as transformers does, which lets opposite mistakes of two layers cancel
    """
    if attention_mask is not None:
        kept = attention_mask.flatten().bool()
        logits = [layer[kept] for layer in logits]
    if not per_layer:
        logits = [torch.cat(list(logits))]
    return torch.stack([balance_loss(layer, top_k) for layer in logits]).mean()


def router_z_loss(logits: Sequence[Tensor]) -> Tensor:
    """Mean of logsumexp(logits)², which keeps router logits small. Source: Zoph et al. 2022 (ST-MoE), equation 5."""
    return torch.stack([layer.float().logsumexp(-1).square().mean() for layer in logits]).mean()


def within_capacity(chosen: Tensor, n_experts: int, capacity: int) -> Tensor:
    """(N, k) bool: which choices an expert that takes at most `capacity` rows still accepts.

    First choices are served before second choices, and within them in the order of tokens; what is refused is
    dropped, so that token passes by the residual path only. Source: Lepikhin et al. 2020 (GShard), algorithm 1.

    >>> within_capacity(torch.tensor([[0], [0], [1]]), 2, capacity=1).flatten().tolist()
    [True, False, True]
    """
    in_order = chosen.T.flatten()  # all first choices, then all second ones
    taken = torch.nn.functional.one_hot(in_order, n_experts).cumsum(0)  # (k * N, E)
    place = taken.gather(1, in_order[:, None]).squeeze(1)  # 1 for the first row of an expert
    return (place <= capacity).view(chosen.size(1), -1).T


class record_routing:
    """`with record_routing(model) as routes:` collects each MoE layer's logits and choices, layer by layer.

    routes.logits   a list of (N, E), with gradients: what load_balancing_loss wants
    routes.chosen   a list of (N, k)
    """

    def __init__(self, model: nn.Module):
        self.layers = [module for module in model.modules() if isinstance(module, MoE)]
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
