"""Losses, AdamW, schedule, clipping, batches and the loop."""

import math

import pytest
import torch
from torch.nn import functional as F

from llmkit.data.batches import document_batches, pad
from llmkit.models.gpt2 import GPT2Config, gpt2
from llmkit.training import muon
from llmkit.training.loop import train
from llmkit.training.losses import cross_entropy, next_token_loss, token_log_probs, z_loss
from llmkit.training.muon import Muon, orthogonalize, split_parameters
from llmkit.training.optim import AdamW, clip_gradients, decay_groups
from llmkit.training.schedules import warmup_cosine
from llmkit.viz.residual import gradient_norms, logit_lens, record_residual, residual_norms
from llmkit.viz.training import smooth

TINY = GPT2Config(vocab_size=23, max_len=32, d_model=16, n_layers=3, n_heads=2)


def tiny(seed=0):
    torch.manual_seed(seed)
    return gpt2(TINY)


def test_next_token_loss_by_hand():
    logits, ids = torch.randn(2, 5, 23), torch.randint(23, (2, 5))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    log_probs = logits.log_softmax(-1)
    terms = [-log_probs[b, t, ids[b, t + 1]] for b, n in ((0, 5), (1, 3)) for t in range(n - 1)]
    assert torch.allclose(next_token_loss(logits, ids, mask), torch.stack(terms).mean())
    assert torch.allclose(-token_log_probs(logits, ids).mean(), next_token_loss(logits, ids))
    assert torch.allclose(next_token_loss(logits.bfloat16(), ids), next_token_loss(logits.bfloat16().float(), ids))


def test_loss_of_nothing_is_refused():
    with pytest.raises(ValueError, match="-100"):
        cross_entropy(torch.randn(2, 3, 5), torch.full((2, 3), -100))


def test_z_loss():
    logits = torch.randn(2, 3, 5)
    assert torch.allclose(z_loss(logits), logits.exp().sum(-1).log().pow(2).mean())
    assert z_loss(logits.log_softmax(-1)).abs() < 1e-10


def test_adamw_equals_torch():
    ours, theirs = tiny(), tiny()
    groups = decay_groups(theirs, 0.3)
    assert {p.dim() for p in groups[0]["params"]} == {2} and {p.dim() for p in groups[1]["params"]} == {1}
    assert sum(p.numel() for g in groups for p in g["params"]) == ours.n_params()
    optimizer = AdamW(decay_groups(ours, 0.3), lr=1e-2, betas=(0.9, 0.95), eps=1e-6)
    peer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-6)
    for step in range(12):
        ids = torch.randint(23, (4, 9), generator=torch.Generator().manual_seed(step))
        optimizer.lr = peer.param_groups[0]["lr"] = peer.param_groups[1]["lr"] = 1e-2 / (step + 1)
        for model, o in ((ours, optimizer), (theirs, peer)):
            o.zero_grad()
            next_token_loss(model(ids), ids).backward()
            o.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_adamw_equals_torch_where_experts_are_idle():
    """A parameter that gets its first gradient late is at its own first step, not at the model's."""
    ours, theirs = (torch.nn.ParameterList(torch.ones(2, 3) for _ in range(3)) for _ in range(2))
    options = {"lr": 0.1, "betas": (0.9, 0.95), "eps": 1e-6}
    pairs = (ours, AdamW(decay_groups(ours), **options)), (theirs, torch.optim.AdamW(decay_groups(theirs), **options))
    for step in range(8):
        for parameters, optimizer in pairs:
            optimizer.zero_grad()
            for i, p in enumerate(parameters):
                if step % (i + 1) == i:  # all steps, every second, every third
                    p.grad = torch.randn(2, 3, generator=torch.Generator().manual_seed(10 * step + i))
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_adamw_leaves_parameters_without_gradient_alone():
    model = tiny()
    before = [p.clone() for p in model.parameters()]
    AdamW(decay_groups(model), lr=1.0).step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_adamw_takes_an_iterator_of_parameters():
    model = torch.nn.Linear(2, 2)
    optimizer = AdamW([{"params": model.parameters()}], lr=0.1)
    optimizer.zero_grad()
    before = model.weight.detach().clone()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)


def test_muon_equals_torch():
    peer_class = getattr(torch.optim, "Muon", None)
    if peer_class is None:
        pytest.skip("torch.optim.Muon came with torch 2.9")
    ours, theirs = tiny(), tiny()
    matrices, others = split_parameters(theirs)
    assert len(matrices) == 3 * 6 and all(p.dim() == 2 for p in matrices)
    assert sum(p.numel() for p in matrices + others) == theirs.n_params()
    optimizer = Muon(ours, lr=0.02, adamw_lr=1e-3, weight_decay=0.1)
    peer = peer_class(matrices, lr=0.02, weight_decay=0.1, momentum=0.95)
    rest = torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(5):
        ids = torch.randint(23, (4, 9), generator=torch.Generator().manual_seed(step))
        for model, several in ((ours, [optimizer]), (theirs, [peer, rest])):
            for o in several:
                o.zero_grad()
            next_token_loss(model(ids), ids).backward()
            for o in several:
                o.step()
    for (name, a), b, first in zip(ours.named_parameters(), theirs.parameters(), tiny().parameters(), strict=True):
        if (
            ".blocks." in name and a.dim() == 2
        ):  # AdamW makes large steps of tiny gradients' rounding errors: it has its own test
            # bfloat16 inside, additions in another order
            assert (a - b).norm() < 0.2 * (b - first).norm(), name


@pytest.mark.parametrize("fast", [True, False])
def test_orthogonalize(monkeypatch, fast):
    seen, product = [], torch.Tensor.__matmul__
    monkeypatch.setattr(muon, "bf16_is_fast", lambda device: fast)
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: seen.append(a.dtype) or product(a, b))
    x = orthogonalize(torch.randn(3, 20, 12, generator=torch.Generator().manual_seed(0)))
    assert x.dtype == torch.bfloat16 and set(seen) == {torch.bfloat16 if fast else torch.float32}
    values = torch.linalg.svdvals(x.float())
    assert values.min() > 0.5 and values.max() < 1.3


def test_clipping_equals_torch():
    models = tiny(), tiny()
    for model in models:
        next_token_loss(model(torch.arange(8)[None]), torch.arange(8)[None]).backward()
    for limit in (1e9, 0.01):
        ours = clip_gradients(models[0].parameters(), limit)
        theirs = torch.nn.utils.clip_grad_norm_(models[1].parameters(), limit)
        assert ours == pytest.approx(float(theirs), rel=1e-5)
        for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.allclose(a.grad, b.grad, atol=1e-8)
    next(models[0].parameters()).grad[0] = math.nan
    with pytest.raises(FloatingPointError, match="learning rate"):
        clip_gradients(models[0].parameters(), 1.0)
    assert clip_gradients([torch.ones(2)], 1.0) == 0.0  # none has a gradient, as torch has it


def test_schedule():
    rates = [warmup_cosine(s, 100, 2.0, warmup=10, floor=0.1) for s in range(101)]
    assert rates[10] == 2.0 == max(rates) and rates[100] == pytest.approx(0.2)
    assert all(b > a for a, b in zip(rates[:10], rates[1:11], strict=True))
    assert all(b < a for a, b in zip(rates[10:100], rates[11:], strict=True))
    assert rates[55] == pytest.approx(0.2 + 1.8 / 2) and rates[0] == pytest.approx(2.0 / 11)


def test_initialisation():
    torch.manual_seed(0)
    model = gpt2(GPT2Config(vocab_size=500, max_len=64, d_model=128, n_layers=8, n_heads=4))
    block = model.transformer.blocks[3]
    assert block.attn.q_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for last in (block.attn.o_proj, block.mlp.down_proj):
        assert last.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
        assert not last.bias.any()
    ids = torch.randint(500, (4, 32))
    with torch.no_grad():
        loss = float(next_token_loss(model(ids), ids))
    assert loss == pytest.approx(math.log(500), rel=0.02)


def test_train_learns_and_reports():
    model = tiny()
    batch = torch.arange(20).view(2, 10), None
    history = train(
        model, [batch] * 60, 60, lr=3e-3, evaluate=lambda m: m.training, evaluate_at=[0, 30], progress=False
    )
    assert history.losses[0] == pytest.approx(math.log(23), rel=0.05) and history.losses[-1] < 2.0
    assert history.evaluations == [(0, False), (30, False), (60, False)]
    assert len(history.gradient_norms) == 60 and not model.training


def test_train_refuses_what_cannot_work():
    batch = torch.arange(20).view(2, 10), None
    with pytest.raises(ValueError, match="ran out after 3 of 5"):
        train(tiny(), [batch] * 3, 5, lr=1e-3, progress=False)
    with pytest.raises(FloatingPointError, match="step 0"):
        train(tiny(), [batch], 1, lr=1e-3, loss=lambda m, i, a: m(i).sum() * math.nan, progress=False)


def test_same_seed_same_run():
    runs = [
        train(tiny(), document_batches([[i, i + 1, i + 2] for i in range(20)], 4), 8, lr=1e-3, progress=False).losses
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


def test_pad():
    ids, mask = pad([[1, 2, 3], [4]], pad_id=9)
    assert ids.tolist() == [[1, 2, 3], [4, 9, 9]] and mask.tolist() == [[True] * 3, [True, False, False]]
    for bad in ([], [[1], []]):
        with pytest.raises(ValueError, match="empty|one document"):
            pad(bad)
    with pytest.raises(ValueError, match="side"):
        pad([[1]], side="middle")
    ids, mask = pad([[5, 6, 7], [8]], side="left", multiple_of=4)
    assert ids.tolist() == [[0, 5, 6, 7], [0, 0, 0, 8]] and mask.int().tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]
    assert pad([[1] * 8], multiple_of=4)[0].size(1) == 8
    with pytest.raises(ValueError, match="multiple_of"):
        pad([[1]], multiple_of=0)


def test_document_batches():
    documents = [[i] * (1 + i % 7) for i in range(50)]
    stream = document_batches(documents, 8, seed=1, max_len=5)
    epoch = [next(stream) for _ in range(6)]
    seen = [int(row[0]) for ids, _ in epoch for row in ids]
    assert len(seen) == len(set(seen)) == 48  # none twice in an epoch, only the last rest is left out
    assert max(ids.size(1) for ids, _ in epoch) == 5
    again = [int(row[0]) for _ in range(6) for row in next(stream)[0]]
    assert again != seen
    same = document_batches(documents, 8, seed=1, max_len=5)
    assert [int(row[0]) for row in next(same)[0]] == seen[:8]
    rounded, mask = next(document_batches(documents, 8, seed=1, max_len=5, multiple_of=4))
    assert rounded.size(1) % 4 == 0 and rounded[mask].tolist() == epoch[0][0][epoch[0][1]].tolist()
    with pytest.raises(ValueError, match="batch of 51"):
        next(document_batches(documents, 51))


def test_residual_stream():
    model, ids = tiny().eval(), torch.randint(23, (2, 6))
    with record_residual(model) as stream:
        logits = model(ids)
    assert len(stream) == 4 and torch.equal(stream[0], model.transformer.embed(ids, torch.arange(6)))
    assert torch.allclose(model.lm_head(model.transformer.norm(stream[-1])), logits)
    lens = logit_lens(model, ids)
    assert lens.shape == (4, 2, 6, 23) and torch.allclose(lens[-1], logits, atol=1e-6)
    assert residual_norms(model, ids) == pytest.approx([float(x.norm(dim=-1).mean()) for x in stream])
    assert not model.transformer.blocks[0]._forward_hooks
    F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
    assert len(gradient_norms(model)) == 3 and min(gradient_norms(model)) > 0


def test_smooth():
    assert smooth([2.0] * 5, 0.9) == pytest.approx([2.0] * 5)
