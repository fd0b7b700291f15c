"""The fast little decoder, and the bfloat16 products that make it fast on a CPU."""

import pytest
import torch
from torch.nn import functional as F

from llmkit.layers.attention import attention, fused_attention
from llmkit.layers.masks import CAUSAL
from llmkit.models.speedrun import SpeedrunConfig, narrow_stream, speedrun
from llmkit.training.losses import packed_loss
from llmkit.training.muon import Muon
from llmkit.training.precision import bf16_is_fast

SMALL = SpeedrunConfig(vocab_size=17, d_model=32, n_layers=2, n_heads=2)


def test_it_begins_as_the_identity_and_knows_nothing():
    torch.manual_seed(0)
    model = speedrun(SMALL)
    ids = torch.randint(17, (2, 9))
    assert torch.equal(model(ids), torch.zeros(2, 9, 17)), "every token as likely as any other"
    stream = model.transformer.embed(ids, torch.arange(9))
    assert torch.equal(model.transformer(ids), model.transformer.norm(stream)), "blocks that add nothing"
    assert not any(name.endswith("bias") for name, _ in model.named_parameters())


def test_a_tied_one_has_one_table_of_logits_that_can_be_large():
    torch.manual_seed(0)
    model = speedrun(SpeedrunConfig(vocab_size=400, d_model=64, n_layers=2, n_heads=2, tie=True))
    assert model.lm_head.weight is model.transformer.embed.tokens.weight
    assert model.lm_head.weight.std().item() == pytest.approx(0.2, rel=0.02)
    assert (model.transformer.blocks[0].attn.o_proj.weight == 0).all(), "blocks still add nothing"


def test_it_learns_and_sees_no_future():
    torch.manual_seed(0)
    model = speedrun(SMALL)
    optimizer = Muon(model, 0.02, 5e-3)
    ids = torch.tensor([[(3 * i * i + b) % 17 for i in range(25)] for b in range(8)])
    losses = []
    for _ in range(40):
        loss = packed_loss(model, ids[:, :-1], ids[:, 1:]).objective / ids[:, 1:].numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    changed = ids.clone()
    changed[:, 12:] = 0
    assert torch.allclose(model(ids)[:, :12], model(changed)[:, :12], atol=1e-5)
    assert (model(ids) - model(changed))[:, 12:].abs().max() > 0.1


def test_a_narrow_stream_is_the_same_model_but_for_rounding():
    torch.manual_seed(0)
    model = speedrun(SMALL)
    for p in model.parameters():
        p.data += 0.05 * torch.randn_like(p)
    ids = torch.randint(17, (2, 9))
    wide = model(ids)
    narrow_stream(model)
    assert torch.equal(wide, model(ids)), "without autocast nothing changes"
    seen = []
    model.transformer.blocks[1].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        narrow = model(ids)
    assert seen == [torch.bfloat16] and not torch.equal(wide, narrow)
    assert (wide - narrow.float()).abs().max() < 0.05 * wide.abs().max()


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_bf16_attention_with_gradients_is_attention(kv_heads):
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(2, heads, 7, 8, dtype=torch.bfloat16, requires_grad=True) for heads in (4, kv_heads, kv_heads)
    )
    ours = fused_attention(q, k, v, CAUSAL, 0.3)
    wide = [x.detach().float().repeat_interleave(4 // x.size(1), 1).requires_grad_() for x in (q, k, v)]
    true = attention(*wide, CAUSAL, 0.3)
    peer = F.scaled_dot_product_attention(*wide, is_causal=True, scale=0.3)
    assert torch.allclose(true, peer, atol=1e-5)
    assert torch.allclose(ours.float(), true, atol=0.03)
    weights = torch.randn(ours.shape)
    (ours.float() * weights).sum().backward()
    (true * weights).sum().backward()
    for narrow, exact in zip((q, k, v), wide, strict=True):
        exact = exact.grad.view(2, narrow.size(1), -1, 7, 8).sum(2)
        assert torch.allclose(narrow.grad.float(), exact, atol=0.05, rtol=0.05)


def test_bf16_is_fast_says_yes_or_no():
    assert bf16_is_fast(torch.device("cpu")) in (True, False)
