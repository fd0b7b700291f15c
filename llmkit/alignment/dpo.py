"""Direct preference optimisation and its relatives: a policy from pairs, without a reward model and without sampling.

M pairs. h = [log pi(chosen) - log pi(rejected)] - [log ref(chosen) - log ref(rejected)], each a sum over the answer's
tokens: how much more than the reference the policy prefers the chosen answer. beta h is the margin of rewards.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmkit.layers.dropout import drops_out
from llmkit.training.losses import token_log_probs


class PairLogProbs(NamedTuple):
    """What the losses read, all (M,): log P of the whole answer under policy and reference, and its tokens' number."""

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_length: Tensor
    rejected_length: Tensor

    @property
    def h(self) -> Tensor:
        return (self.chosen - self.ref_chosen) - (self.rejected - self.ref_rejected)

    @property
    def h_per_token(self) -> Tensor:
        """h with each answer's log-ratio divided by its length."""
        chosen = (self.chosen - self.ref_chosen) / self.chosen_length
        return chosen - (self.rejected - self.ref_rejected) / self.rejected_length


def sigmoid_loss(pairs: PairLogProbs, beta: float) -> Tensor:
    """-log sigmoid(beta h), (M,): Bradley-Terry with beta log(pi / ref) as the reward. At the start, pi = ref, log 2.

    Its gradient in h is -beta sigmoid(-beta h): pairs already in order pull less. Source: Rafailov et al. 2023, eq. 7.
    """
    return -F.logsigmoid(beta * pairs.h)


def smoothed_loss(pairs: PairLogProbs, beta: float, flip: float = 0.1) -> Tensor:
    """cDPO: labels are taken to be wrong with probability `flip`, so a margin has a finite best value, (M,).

    (1 - flip) of sigmoid_loss and flip of the same for the pair turned round. Source: Mitchell 2023; eric-mitchell/
    direct-preference-optimization, trainers.py.
    """
    margin = beta * pairs.h
    return -(1 - flip) * F.logsigmoid(margin) - flip * F.logsigmoid(-margin)


def ipo_loss(pairs: PairLogProbs, beta: float) -> Tensor:
    """(h - 1 / (2 beta))², (M,): the margin is drawn to a number and not to infinity. Azar et al. 2023, eq. 17."""
    return (pairs.h - 1 / (2 * beta)).square()


def ipo_mean_loss(pairs: PairLogProbs, beta: float) -> Tensor:
    """IPO on log-ratios per token, (M,): TRL's `ipo`, where 1 / (2 beta) is asked of a token and not of an answer."""
    return (pairs.h_per_token - 1 / (2 * beta)).square()


def sigmoid_norm_loss(pairs: PairLogProbs, beta: float) -> Tensor:
    """sigmoid_loss on log-ratios per token, (M,): a long answer has no more weight than a short one. TRL's name."""
    return -F.logsigmoid(beta * pairs.h_per_token)


def simpo_loss(pairs: PairLogProbs, beta: float, gamma: float = 0.5) -> Tensor:
    """-log sigmoid(beta (mean log P chosen - mean log P rejected) - gamma), (M,), with no reference at all.

    gamma is by how much the chosen one should lead. Source: Meng et al. 2024, eq. 6.
    """
    lead = pairs.chosen / pairs.chosen_length - pairs.rejected / pairs.rejected_length
    return -F.logsigmoid(beta * lead - gamma)


LOSSES = {
    "sigmoid": sigmoid_loss,
    "smoothed": smoothed_loss,
    "ipo": ipo_loss,
    "ipo_mean": ipo_mean_loss,
    "sigmoid_norm": sigmoid_norm_loss,
    "simpo": simpo_loss,
}


class DPOStep(NamedTuple):
    """The loss, with gradients, and what is logged: means over the pairs, without."""

    loss: Tensor
    chosen: Tensor  # log P of the chosen answers: it may fall while the margin grows
    rejected: Tensor
    chosen_reward: Tensor  # beta log(pi / ref)
    rejected_reward: Tensor
    margin: Tensor  # chosen_reward - rejected_reward
    accuracy: Tensor  # share of margins above 0


def dpo(pairs: PairLogProbs, beta: float, loss: Callable[[PairLogProbs, float], Tensor] = sigmoid_loss) -> DPOStep:
    """One of LOSSES, averaged over the pairs, and the numbers to watch.

    Raises ValueError for beta <= 0, unequal shapes and an answer of no tokens.

    >>> one = torch.ones(1)
    >>> dpo(PairLogProbs(-2 * one, -3 * one, -2 * one, -3 * one, one, one), beta=0.1).loss   # policy = reference
    tensor(0.6931)
    """
    if not beta > 0:
        raise ValueError(f"beta must be above 0, got {beta}")
    shapes = {tuple(t.shape) for t in pairs}
    if len(shapes) > 1 or pairs.chosen.dim() != 1 or not len(pairs.chosen):
        raise ValueError(f"all six of the pairs' tensors must be (M,) with M >= 1, got {sorted(shapes)}")
    if not bool((torch.minimum(pairs.chosen_length, pairs.rejected_length) > 0).all()):
        raise ValueError("an answer has no tokens: leave its pair out")
    with torch.no_grad():
        chosen_reward = beta * (pairs.chosen - pairs.ref_chosen)
        rejected_reward = beta * (pairs.rejected - pairs.ref_rejected)
        margin = chosen_reward - rejected_reward
        logged = pairs.chosen, pairs.rejected, chosen_reward, rejected_reward, margin, (margin > 0).float()
        means = [x.detach().mean() for x in logged]
    return DPOStep(loss(pairs, beta).mean(), *means)


def sequence_log_probs(logits: Tensor, ids: Tensor, completion_mask: Tensor) -> Tensor:
    """log P of each row's answer given its prompt, (B, T, V), (B, T) -> (B,): a sum, not a mean.

    completion_mask   (B, T) true for the answer's tokens, its EOS among them; not for the prompt, not for padding. The
                      first token has nothing before it and cannot be counted.

    >>> logits = torch.zeros(1, 3, 4)   # four tokens, all as likely
    >>> sequence_log_probs(logits, torch.tensor([[0, 1, 2]]), torch.tensor([[False, True, True]]))   # 2 log(1/4)
    tensor([-2.7726])
    """
    if completion_mask.shape != ids.shape or logits.shape[:2] != ids.shape:
        raise ValueError(
            f"logits (B, T, V), ids (B, T) and completion_mask (B, T) do not fit: {tuple(logits.shape)}, "
            f"{tuple(ids.shape)}, {tuple(completion_mask.shape)}"
        )
    counted = completion_mask.bool()
    if bool(counted[:, 0].any()):
        raise ValueError("completion_mask counts a first token, which nothing predicts: is the prompt missing?")
    if not bool(counted.any(-1).all()):
        row = int((~counted.any(-1)).nonzero()[0])
        raise ValueError(f"row {row} of completion_mask is empty: an answer needs a token, EOS at least")
    # where, not times: a padded position may hold -inf, and 0 * -inf is NaN
    return torch.where(counted[:, 1:], token_log_probs(logits, ids), 0.0).sum(-1)


def frozen_copy(model: nn.Module) -> nn.Module:
    """The reference: the model as it is now, in evaluation mode, never trained."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def reference_log_probs(
    reference: nn.Module, ids: Tensor, attention_mask: Tensor | None, completion_mask: Tensor
) -> Tensor:
    """(B,) log-probabilities that never change: compute them once, before training, and the reference may go."""
    return sequence_log_probs(reference(ids, attention_mask), ids, completion_mask)


def pair_log_probs(
    model: nn.Module, ids: Tensor, attention_mask: Tensor | None, completion_mask: Tensor, ref_log_probs: Tensor
) -> PairLogProbs:
    """Run 2M texts (2M, T), the M chosen ones first and then the M rejected, through the policy at once.

    ref_log_probs   (2M,) from `reference_log_probs` of the same rows

    Raises ValueError for a policy that drops out at random: it would differ from its reference before the first step.
    """
    if drops_out(model):
        raise ValueError(
            "the policy drops out at random, so it differs from its reference before the first step: "
            "llmkit.layers.dropout.without_dropout(model) sets it to 0"
        )
    if len(ids) % 2 or ref_log_probs.shape != ids.shape[:1]:
        raise ValueError(
            f"ids holds chosen and then rejected texts, an even number, and ref_log_probs one number for each; got "
            f"{len(ids)} rows and {tuple(ref_log_probs.shape)}"
        )
    log_probs = sequence_log_probs(model(ids, attention_mask), ids, completion_mask)
    lengths = completion_mask.sum(-1)
    return PairLogProbs(*log_probs.chunk(2), *ref_log_probs.chunk(2), *lengths.chunk(2))
