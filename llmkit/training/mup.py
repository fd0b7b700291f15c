"""muP: initialisation and learning rates by width, so that what is tuned on a narrow model serves a wide one.

Legend: m is the width (d_model) over the base model's. For Adam, after Yang et al. 2022, table 8 (the form of table 3
that allows tied embeddings):

what                                  initial std     learning rate   multiplier
embeddings, positions, norms, biases  as at the base  1               1
matrices inside blocks                1 / sqrt(m)     1 / m           1
output (lm_head)                      as at the base  1               1 / m
scores of attention                                                   1 / D instead of 1 / sqrt(D)
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from llmkit.layers.attention import MultiHeadAttention
from llmkit.layers.heads import CausalLM
from llmkit.training.losses import next_token_loss
from llmkit.training.optim import AdamW
from llmkit.training.width import width_factors


def mup(model: CausalLM, base: CausalLM, weight_decay: float = 0.0) -> list[dict]:
    """Turn a freshly built model into its muP form, in place; gives AdamW's groups, with an lr_scale each.

    base           the same family, narrower: the model on which the learning rate is tuned. Only its shapes are read,
                   so it may be built under `torch.device("meta")`; with a base of the model's own size nothing changes
    weight_decay   of matrices, as in `decay_groups`; AdamW multiplies it by the group's learning rate

    The builders initialise every width with one std, which is what the 1 / sqrt(m) is applied to. The multiplier and
    the scale of scores are not weights: a training run that resumes calls mup first, and a model that is to be saved
    for use goes through `fold`. Raises ValueError when the two models do not have the same parameters, and for a model
    that is in muP form already. Source: Yang et al. 2022, "Tensor Programs V", tables 3 and 8, definition 4.1.

    >>> from llmkit.models.gpt2 import GPT2Config, gpt2
    >>> wide, base = (gpt2(GPT2Config(50, 16, width, n_layers=1, n_heads=2)) for width in (32, 8))
    >>> [(group["lr_scale"], len(group["params"])) for group in mup(wide, base)]
    [(1.0, 14), (0.25, 6)]
    """
    theirs = dict(base.named_parameters())
    ours = dict(model.named_parameters())
    if [(name, p.dim()) for name, p in ours.items()] != [(name, p.dim()) for name, p in theirs.items()]:
        raise ValueError("the base model must be of the same family with as many layers: only widths may differ")
    if hasattr(model, "mup_hook"):
        raise ValueError("this model is in muP form already: build a new one")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in ours.items():
        std, rate = width_factors(name, p.shape, theirs[name].shape)
        groups.setdefault((rate, weight_decay if p.dim() >= 2 else 0.0), []).append(p)
        with torch.no_grad():
            p.mul_(std)
    multiplier = theirs["transformer.embed.tokens.weight"].size(1) / ours["transformer.embed.tokens.weight"].size(1)
    model.mup_multiplier = multiplier
    model.mup_hook = model.lm_head.register_forward_pre_hook(lambda module, inputs: (inputs[0] * multiplier,))
    for ours_, theirs_ in zip(_attentions(model), _attentions(base), strict=True):
        ours_.scale = theirs_.scale * _head_dim(theirs_) / _head_dim(ours_)
    return [{"params": ps, "weight_decay": decay, "lr_scale": scale} for (scale, decay), ps in groups.items()]


@torch.no_grad()
def fold(model: CausalLM) -> None:
    """Write the multiplier and the scale of scores into the weights: an ordinary model with the same logits.

    For a model that has been trained: the last norm and the queries take them up, and save_pretrained's file is
    then right everywhere. Raises ValueError for a model that is not in muP form, and where norms stand on the queries.
    """
    if not hasattr(model, "mup_hook"):
        raise ValueError("this model is not in muP form: there is nothing to fold")
    if any(attn.q_norm is not None for attn in _attentions(model)):
        raise ValueError("a norm on the queries would undo a factor in q_proj: save scale and multiplier yourself")
    for attn in _attentions(model):
        ordinary = _head_dim(attn) ** -0.5
        for p in attn.q_proj.parameters():
            p.mul_(attn.scale / ordinary)
        attn.scale = ordinary
    for p in model.transformer.norm.parameters():
        p.mul_(model.mup_multiplier)
    model.mup_hook.remove()
    del model.mup_hook, model.mup_multiplier


def _attentions(model: nn.Module) -> list[MultiHeadAttention]:
    return [module for module in model.modules() if isinstance(module, MultiHeadAttention)]


def _head_dim(attn: MultiHeadAttention) -> int:
    return attn.q_proj.out_features // attn.n_heads


class Coordinates(NamedTuple):
    """Root mean square of a coordinate, by layer, step and width: arrays (layers, n_steps + 1, widths).

    sizes   of the activations
    moves   of the activations minus what they were before training (0 at step 0)
    """

    widths: list[int]
    layers: list[str]
    sizes: Tensor
    moves: Tensor

    def slopes(self, of: str = "moves", step: int = -1) -> dict[str, float]:
        """For each layer the exponent of the width: 0 if coordinates are as large in wide models as in narrow ones."""
        x = torch.tensor(self.widths, dtype=torch.float64).log()
        x = x - x.mean()
        y = getattr(self, of)[:, step].double().log()
        return dict(zip(self.layers, ((y * x).sum(-1) / (x * x).sum()).tolist(), strict=True))


def coordinate_check(
    models: Mapping[int, tuple[CausalLM, Sequence[dict]]], ids: Tensor, lr: float, n_steps: int = 4
) -> Coordinates:
    """Train models of several widths on one batch for a few steps of AdamW, and see how large each layer's output is.

    models   width -> (model, its groups); they are trained in place
    ids      (B, T), the same batch at every step

    What a layer writes should neither explode nor vanish with the width, and each layer should move as far in a wide
    model as in a narrow one. Layers: the embedding, what each attention and MLP adds to the stream, the logits. The
    size of logits before training does shrink under muP, as 1 / sqrt(width): look at the moves.
    Raises ValueError for fewer than two widths. Source: Yang et al. 2022, appendix D.
    """
    if len(models) < 2:
        raise ValueError("a slope needs models of at least two widths")
    sizes, moves, layers = [], [], []
    for model, groups in models.values():
        optimizer, first, of_model = AdamW(groups, lr), None, []
        for _ in range(n_steps + 1):
            activations, loss = _activations(model, ids)
            first = first or activations
            of_model.append([(_rms(x), _rms(x - first[name])) for name, x in activations.items()])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        layers = list(activations)
        sizes.append([[size for size, _ in step] for step in of_model])
        moves.append([[move for _, move in step] for step in of_model])
    return Coordinates(list(models), layers, torch.tensor(sizes).permute(2, 1, 0), torch.tensor(moves).permute(2, 1, 0))


def _activations(model: CausalLM, ids: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What the layers write on ids, detached, and the loss."""
    found: dict[str, Tensor] = {}
    modules = {"embedding": model.transformer.embed}
    for i, block in enumerate(model.transformer.blocks):
        modules |= {f"attention {i}": block.attn, f"mlp {i}": block.mlp}
    modules["logits"] = model.lm_head

    def keep(name: str):
        return lambda module, inputs, output: found.__setitem__(name, output.detach())

    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        loss = next_token_loss(model(ids), ids)
    finally:
        for hook in hooks:
            hook.remove()
    return found, loss


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())
