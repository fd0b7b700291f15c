"""Answers drawn from the policy, with what a policy gradient needs to know of them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from llmkit.data.batches import pad
from llmkit.generation.generate import generate
from llmkit.generation.logits import Sampler
from llmkit.layers.dropout import drops_out


@dataclass(frozen=True)
class Rollout:
    """B answers of at most T tokens to prompts of at most P.

    mask                      true for the tokens of the answer, its end-of-text token included; false after it
    log_probs, ref_log_probs  of the drawn tokens, at the temperature they were drawn with; 0 outside the mask
    ended                     false for answers that were cut off at the greatest length
    """

    prompts: Tensor  # (B, P), padded on the left
    prompt_mask: Tensor  # (B, P)
    completions: Tensor  # (B, T), padded on the right
    mask: Tensor  # (B, T)
    log_probs: Tensor  # (B, T)
    ref_log_probs: Tensor  # (B, T)
    ended: Tensor  # (B,)

    def __len__(self) -> int:
        return len(self.mask)

    def rows(self, index: Tensor) -> "Rollout":
        """Some of the answers: a minibatch."""
        return Rollout(*(getattr(self, field.name)[index] for field in fields(self)))

    def answers(self) -> list[list[int]]:
        """The tokens of each answer, its end-of-text token included."""
        return [row[real].tolist() for row, real in zip(self.completions, self.mask, strict=True)]


def completion_mask(completions: Tensor, eos_id: int | None) -> Tensor:
    """(B, T) -> (B, T): true up to the first eos_id of each row and there; everywhere for eos_id None.

    >>> completion_mask(torch.tensor([[5, 1, 7, 1], [5, 6, 7, 8]]), eos_id=1).int()
    tensor([[1, 1, 0, 0],
            [1, 1, 1, 1]], dtype=torch.int32)
    """
    if completions.dim() != 2 or completions.size(1) == 0:
        raise ValueError(f"completions must be (B, T) with T >= 1, got {tuple(completions.shape)}")
    if eos_id is None:
        return torch.ones_like(completions, dtype=torch.bool)
    is_end = (completions == eos_id).int()
    return is_end.cumsum(1) - is_end == 0  # no end before this place


def with_completions(rollout: Rollout) -> tuple[Tensor, Tensor | None]:
    """ids (B, P + T) and their attention mask: prompts, then answers. The mask is None where no prompt is padded.

    What stands after the end of an answer needs no mask: in a causal model nothing that counts looks at it.
    """
    ids = torch.cat([rollout.prompts, rollout.completions], dim=1)
    if rollout.prompt_mask.all():
        return ids, None
    return ids, torch.cat([rollout.prompt_mask, torch.ones_like(rollout.mask)], dim=1)


def completion_logits(model: nn.Module, rollout: Rollout, temperature: float = 1.0) -> Tensor:
    """(B, T, V): what the model was about to say before each token of the answers, divided by the temperature.

    Dropout must be off: with it the same model gives other probabilities in the update than in the rollout, and the
    ratio of the first step is not 1. Raises ValueError where it is on.
    """
    if drops_out(model):
        raise ValueError("the model drops out at random, so its probabilities differ every time: call model.eval()")
    ids, attention_mask = with_completions(rollout)
    T = rollout.completions.size(1)
    return model(ids, attention_mask)[:, -T - 1 : -1].float() / temperature


def completion_log_probs(model: nn.Module, rollout: Rollout, temperature: float = 1.0) -> Tensor:
    """(B, T): log P of each token of the answers given the prompt and what stands before it; 0 outside the mask."""
    log_probs = completion_logits(model, rollout, temperature).log_softmax(-1)
    chosen = log_probs.gather(-1, rollout.completions[..., None]).squeeze(-1)  # (B, T, V) -> (B, T)
    return chosen.masked_fill(~rollout.mask, 0.0)


@torch.no_grad()
def sample_rollout(
    policy: nn.Module,
    reference: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    eos_id: int | None,
    temperature: float = 1.0,
    pad_id: int = 0,
    generator: torch.Generator | None = None,
) -> Rollout:
    """One answer to each prompt; repeat a prompt for several.

    prompts  lists of ids; GRPO's groups of n stand together: [prompt for prompt in prompts for _ in range(n)]
    eos_id   ends an answer; None for answers of exactly max_new_tokens, which then all count as ended

    The log-probabilities come from a second pass without cache, the one that the update makes, so that the first ratio
    is 1. Raises ValueError for no prompts or an empty one, max_new_tokens or a temperature that draws nothing, and
    prompts that leave no room in the model's context.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}: an answer needs at least one token")
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}: a policy gradient needs drawn answers, so above 0")
    ids, prompt_mask = (x.to(next(policy.parameters()).device) for x in pad(prompts, pad_id, side="left"))
    room = policy.transformer.embed.max_len
    if room is not None and ids.size(1) + max_new_tokens > room:
        raise ValueError(
            f"the longest prompt has {ids.size(1)} tokens and answers up to {max_new_tokens}, but the model's context "
            f"is {room}: cut the prompts or the answers"
        )
    stops = () if eos_id is None else (eos_id,)
    attention_mask = None if prompt_mask.all() else prompt_mask
    text = generate(
        policy, ids, max_new_tokens, Sampler(temperature), stops, pad_id, attention_mask=attention_mask,
        generator=generator,
    )  # fmt: skip
    completions = nn.functional.pad(
        text[:, ids.size(1) :], (0, max_new_tokens + ids.size(1) - text.size(1)), value=pad_id
    )
    mask = completion_mask(completions, eos_id)
    ended = torch.ones_like(mask[:, 0]) if eos_id is None else ((completions == eos_id) & mask).any(1)
    return score_rollout(policy, reference, ids, prompt_mask, completions, mask, ended, temperature)


@torch.no_grad()
def score_rollout(
    policy: nn.Module, reference: nn.Module, prompts: Tensor, prompt_mask: Tensor, completions: Tensor, mask: Tensor,
    ended: Tensor, temperature: float = 1.0,
) -> Rollout:  # fmt: skip
    """A Rollout of answers that are there already, from anywhere: their log-probabilities under both models."""
    nothing = torch.zeros(mask.shape, device=mask.device)
    bare = Rollout(prompts, prompt_mask, completions, mask, nothing, nothing, ended)
    log_probs = completion_log_probs(policy, bare, temperature)
    ref_log_probs = log_probs if reference is policy else completion_log_probs(reference, bare, temperature)
    return Rollout(prompts, prompt_mask, completions, mask, log_probs, ref_log_probs, ended)
