"""What is an answer worth that is not finished yet? A learned baseline, one number for each token."""

import copy

from torch import Tensor, nn

from llmkit.alignment.rollout import Rollout, with_completions
from llmkit.layers.dropout import drops_out


class ValueModel(nn.Module):
    """ids (B, T) -> values (B, T): the score that the policy is expected to get from each state on.

    The transformer is a copy of the policy's (or a reward model's), and what is frozen there is frozen here. The head
    begins at zero, so that the first values are 0 and not noise. Policy and values share no weights: a value loss then
    cannot spoil the policy.
    """

    def __init__(self, transformer: nn.Module):
        super().__init__()
        self.transformer = copy.deepcopy(transformer)
        self.head = nn.Linear(transformer.embed.tokens.embedding_dim, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.head(self.transformer(ids, attention_mask)).squeeze(-1)


def completion_values(value_model: nn.Module, rollout: Rollout) -> Tensor:
    """(B, T): the value of the state before each token of the answers. Raises ValueError where dropout is on."""
    if drops_out(value_model):
        raise ValueError("the value model drops out at random, so its values differ every time: call its eval()")
    ids, attention_mask = with_completions(rollout)
    return value_model(ids, attention_mask)[:, -rollout.completions.size(1) - 1 : -1].float()
