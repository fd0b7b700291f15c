"""A world small enough to be counted: a reference that writes 4 of 8 tokens, and the reward it is to learn."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from llmkit.alignment.exact import VOCAB, answers, log_probs
from llmkit.models.gpt2 import GPT2Config, gpt2
from llmkit.training.loop import train

BETA = 0.5  # nats of KL are paid for at this price


class SmallWorld(NamedTuple):
    """A world that is small enough to be counted. P = 3 prompts of 2 tokens, N = 4096 answers of 4 tokens."""

    model: nn.Module  # the reference, in evaluation mode; copy.deepcopy it before training
    prompts: Tensor  # (P, 2)
    answers: Tensor  # (N, 4)
    ref_log_probs: Tensor  # (P, N) float64
    rewards: Tensor  # (P, N) float64
    beta: float


def reward_table(prompts: Tensor, answers: Tensor) -> Tensor:
    """The rule of the small world, (P, N): half a point for every step that does not fall, and half a point for every
    different token that is not in the prompt.

    >>> reward_table(torch.tensor([[0, 1]]), torch.tensor([[2, 3, 4, 5], [5, 4, 3, 2], [1, 1, 2, 2]])).tolist()
    [[3.5, 2.0, 2.0]]
    """
    steady = (answers.diff(dim=1) >= 0).sum(1)  # (N,)
    tokens = torch.arange(int(max(answers.max(), prompts.max())) + 1)
    used = (answers[..., None] == tokens).any(1)  # (N, V)
    asked = (prompts[..., None] == tokens).any(1)  # (P, V)
    fresh = (used[None] & ~asked[:, None]).sum(-1)  # (P, N)
    return (steady + fresh).double() / 2


def small_world(seed: int = 0, n_steps: int = 250) -> SmallWorld:
    """A reference (a decoder of one layer, 13,280 numbers) trained for about two seconds on made walks, and a reward.

    The model knows 8 tokens and nothing else: no BOS, no EOS, no padding; every answer has 4 tokens. The random state
    of torch is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = gpt2(GPT2Config(VOCAB, max_len=8, d_model=32, n_layers=1, n_heads=2, d_ff=128))
        batches = ((made_walks(256), None) for _ in range(n_steps))
        train(model, batches, n_steps, lr=1e-2, progress=False)
    model.eval().requires_grad_(False)
    prompts = torch.tensor([[0, 1], [2, 4], [5, 3]])
    every = answers()
    return SmallWorld(model, prompts, every, log_probs(model, prompts), reward_table(prompts, every), BETA)


def made_walks(n: int, length: int = 6) -> Tensor:
    """(n, length) tokens 0 … 7 that step round a circle of 8: mostly on in the direction of the first step, sometimes
    back, and now and then anywhere."""
    first = torch.randint(VOCAB, (n, 1))
    forward = torch.randint(2, (n, 1)) * 2 - 1  # 1 or -1
    sizes = torch.multinomial(torch.tensor([0.15, 0.15, 0.4, 0.3]), n * (length - 1), True).view(n, -1) - 1  # -1 … 2
    sizes[:, 0] = torch.randint(1, 3, (n,))
    anywhere = torch.rand(n, length - 1) < 0.3
    anywhere[:, 0] = False  # the first step tells the direction
    steps = torch.where(anywhere, torch.randint(VOCAB, (n, length - 1)), forward * sizes)
    return torch.cat([first, steps], 1).cumsum(1) % VOCAB
