"""What lesson 14 added: a ring of ranks, and muP's rule for one parameter."""

import pytest
import torch

from llmkit.models.gpt2 import GPT2Config, gpt2
from llmkit.models.llama import LlamaConfig, llama
from llmkit.training.mup import mup
from llmkit.training.parallelism import all_reduce_bytes
from llmkit.training.ring import ring_all_reduce
from llmkit.training.width import width_factors


@pytest.mark.parametrize("n, size", [(1, 3), (2, 4), (3, 12), (3, 7), (5, 3), (8, 40)])
def test_every_rank_has_the_sum_and_nobody_sends_more_than_the_formula(n, size):
    generator = torch.Generator().manual_seed(n)
    tensors = [torch.randint(-9, 9, (size,), generator=generator).double() for _ in range(n)]
    before = [x.clone() for x in tensors]
    sums, sent = ring_all_reduce(tensors)
    assert all(torch.equal(x, torch.stack(before).sum(0)) for x in sums) and len(sums) == len(sent) == n
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    assert sum(sent) == 2 * (n - 1) * size
    if size % n == 0:
        assert sent == [all_reduce_bytes(size, n)] * n
    sums[0].zero_()
    assert n == 1 or torch.equal(sums[1], torch.stack(before).sum(0)), "the ranks share memory"


def test_a_ring_of_nobody_is_refused():
    with pytest.raises(ValueError, match="at least 1 rank"):
        ring_all_reduce([])


@pytest.mark.parametrize("kind", ["gpt2", "llama", "llama, untied"])
def test_width_factors_are_those_of_mup(kind):
    def build(width):
        torch.manual_seed(0)
        if kind == "gpt2":
            return gpt2(GPT2Config(50, 16, width, n_layers=2, n_heads=2, d_ff=3 * width))
        return llama(LlamaConfig(50, width, 2, 2, d_ff=100 + width, tie=kind == "llama"))

    wide, base, untouched = build(32), build(8), build(32)
    groups = mup(wide, base)
    rates = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    shapes = {name: p.shape for name, p in base.named_parameters()}
    seen = set()
    for (name, p), first in zip(wide.named_parameters(), untouched.parameters(), strict=True):
        std, lr = width_factors(name, p.shape, shapes[name])
        assert rates[id(p)] == pytest.approx(lr), name
        torch.testing.assert_close(p, first * std)
        seen.add(lr)
    assert len(seen) == (2 if kind == "gpt2" else 3)
