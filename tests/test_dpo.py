"""DPO and relatives: equal to TRL and to the original code's formulas, and to the exact optimum where that is known."""

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from llmkit.alignment.dpo import (
    LOSSES,
    PairLogProbs,
    dpo,
    frozen_copy,
    ipo_loss,
    pair_log_probs,
    reference_log_probs,
    sequence_log_probs,
    sigmoid_loss,
    simpo_loss,
    smoothed_loss,
)
from llmkit.alignment.exact import kl, log_probs, objective, optimum
from llmkit.alignment.small_runs import by_dpo
from llmkit.alignment.small_world import small_world
from llmkit.layers.dropout import without_dropout
from llmkit.models.gpt2 import GPT2Config, gpt2
from llmkit.models.llama import LlamaConfig, llama


@pytest.fixture
def batch():
    """Three pairs of unequal length, chosen first: logits of policy and reference, ids, answers, padding."""
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 11, (6, 8), generator=g)
    ends = torch.tensor([8, 6, 5, 7, 4, 8])
    mask = torch.arange(8) < ends[:, None]
    completion = mask & (torch.arange(8) >= torch.tensor([3, 2, 4, 3, 2, 4])[:, None])
    policy, reference = torch.randn(2, 6, 8, 11, generator=g)
    return policy, reference, ids, completion, mask


def ours(batch):
    policy, reference, ids, completion, mask = batch
    fixed = reference_log_probs(lambda ids, mask: reference, ids, mask, completion)
    return pair_log_probs(lambda ids, mask: policy, ids, mask, completion, fixed)


def trl_loss(batch, name, beta, label_smoothing=0.0):
    """TRL's own _compute_loss, with log-probabilities where its models give them."""
    trl = pytest.importorskip("trl")
    policy, reference, ids, completion, mask = batch

    def model(logits):
        def forward(**kwargs):
            labels = kwargs["labels"][:, 1:]
            log_p = logits[:, :-1].log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
            log_p = log_p.masked_fill(labels == -100, 0.0)
            zeros = torch.zeros_like(log_p)
            return SimpleNamespace(log_probs=log_p, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())

        return forward

    same = lambda x: x  # noqa: E731
    stub = SimpleNamespace(
        model=SimpleNamespace(training=False), ref_model=model(reference), beta=beta, loss_types=[name],
        loss_weights=[1.0], label_smoothing=label_smoothing, f_divergence_type="reverse_kl", ld_alpha=None,
        use_weighting=False,
        precompute_ref_logps=True, aux_loss_enabled=False, _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0, args=None,
        accelerator=SimpleNamespace(device="cpu", gather=same, gather_for_metrics=same, unwrap_model=same),
    )  # fmt: skip
    fixed = sequence_log_probs(reference, ids, completion)
    inputs = {
        "input_ids": ids, "attention_mask": mask.long(), "completion_mask": completion.long(),
        "ref_chosen_logps": fixed[:3], "ref_rejected_logps": fixed[3:],
    }  # fmt: skip
    loss = trl.DPOTrainer._compute_loss(stub, model(policy), inputs, False)
    return loss, stub._metrics["eval"]


@pytest.mark.parametrize(
    ("name", "theirs"), [("sigmoid", "sigmoid"), ("ipo_mean", "ipo"), ("sigmoid_norm", "sigmoid_norm")]
)
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_losses_equal_trls(batch, name, theirs, beta):
    expected, logged = trl_loss(batch, theirs, beta)
    step = dpo(ours(batch), beta, LOSSES[name])
    assert torch.allclose(step.loss, expected, atol=1e-6)
    for key, value in {
        "rewards/chosen": step.chosen_reward, "rewards/rejected": step.rejected_reward, "rewards/margins": step.margin,
        "rewards/accuracies": step.accuracy, "logps/chosen": step.chosen, "logps/rejected": step.rejected,
    }.items():  # fmt: skip
        assert logged[key][0] == pytest.approx(value.item(), abs=1e-5), key


def test_smoothed_loss_by_trls_robust_one(batch):
    """Theirs is divided by 1 - 2 flip, and the term of the turned pairs has the other sign."""
    step = ours(batch)
    for flip in (0.1, 0.3):
        turned = F.logsigmoid(-0.5 * step.h)
        expected, _ = trl_loss(batch, "robust", 0.5, flip)
        assert torch.allclose((smoothed_loss(step, 0.5, flip) + 2 * flip * turned).mean(), expected * (1 - 2 * flip))
    assert torch.equal(smoothed_loss(step, 0.5), smoothed_loss(step, 0.5, 0.1))


def test_nothing_pulls_at_the_optimum():
    """Every pair of one-token answers, weighed by how often it is drawn and won: at pi* DPO's mean gradient is 0."""
    g = torch.Generator().manual_seed(0)
    ref, rewards = torch.randn(5, generator=g).double().log_softmax(-1), 2 * torch.rand(5, generator=g).double()
    first, second = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T
    weight = (ref[first] + ref[second]).exp() * torch.sigmoid(rewards[first] - rewards[second])
    one = torch.ones(25)
    for start, rests in ((optimum(ref[None], rewards[None], 0.5).log_probs[0], True), (ref, False)):
        logits = start.clone().requires_grad_(True)
        p = logits.log_softmax(-1)
        losses = sigmoid_loss(PairLogProbs(p[first], p[second], ref[first], ref[second], one, one), 0.5)
        (slope,) = torch.autograd.grad((weight * losses).sum(), logits)
        assert (slope.abs().max() < 1e-8) == rests


def preference_loss(pairs, beta, label_smoothing=0.0, ipo=False):
    """The formulas of eric-mitchell/direct-preference-optimization, trainers.py, written from the equations."""
    logits = (pairs.chosen - pairs.rejected) - (pairs.ref_chosen - pairs.ref_rejected)
    if ipo:
        return (logits - 1 / (2 * beta)) ** 2
    return -F.logsigmoid(beta * logits) * (1 - label_smoothing) - F.logsigmoid(-beta * logits) * label_smoothing


def test_losses_equal_the_original_code(batch):
    pairs = ours(batch)
    assert torch.allclose(sigmoid_loss(pairs, 0.3), preference_loss(pairs, 0.3))
    assert torch.allclose(smoothed_loss(pairs, 0.3, 0.2), preference_loss(pairs, 0.3, 0.2))
    assert torch.allclose(smoothed_loss(pairs, 0.3, 0.0), sigmoid_loss(pairs, 0.3))
    assert torch.allclose(ipo_loss(pairs, 0.3), preference_loss(pairs, 0.3, ipo=True))


def test_the_two_ipos_differ_by_length(batch):
    pairs = ours(batch)
    assert not torch.allclose(ipo_loss(pairs, 0.3), LOSSES["ipo_mean"](pairs, 0.3))
    one = pairs._replace(chosen_length=torch.ones(3), rejected_length=torch.ones(3))
    assert torch.allclose(ipo_loss(one, 0.3), LOSSES["ipo_mean"](one, 0.3))


def test_simpo_by_hand():
    t = torch.tensor
    pairs = PairLogProbs(t([-4.0]), t([-9.0]), t([0.0]), t([5.0]), t([2]), t([3]))
    assert simpo_loss(pairs, 2.0, 0.5).item() == pytest.approx(math.log(1 + math.exp(-(2 * (-2 + 3) - 0.5))))


def test_it_starts_at_log_2_with_no_margin(batch):
    policy, _, ids, completion, mask = batch
    pairs = ours((policy, policy, ids, completion, mask))
    step = dpo(pairs, 0.1)
    assert step.loss.item() == pytest.approx(math.log(2)) and step.margin == 0 and step.accuracy == 0
    assert dpo(pairs, 0.1, ipo_loss).loss.item() == pytest.approx(25)


def test_the_gradient_is_beta_sigmoid_of_minus_the_margin(batch):
    pairs = PairLogProbs(*[t.detach() for t in ours(batch)])
    chosen, rejected = pairs.chosen.clone().requires_grad_(), pairs.rejected.clone().requires_grad_()
    moved = pairs._replace(chosen=chosen, rejected=rejected)
    dpo(moved, 0.4).loss.backward()
    expected = -0.4 * torch.sigmoid(-0.4 * pairs.h) / 3
    assert torch.allclose(chosen.grad, expected) and torch.allclose(rejected.grad, -expected)


def test_only_the_answer_counts(batch):
    policy, _, ids, completion, mask = batch
    expected = sequence_log_probs(policy, ids, completion)
    by_hand = torch.zeros(6)
    for b in range(6):
        for t in range(1, 8):
            if completion[b, t]:
                by_hand[b] += policy[b, t - 1].log_softmax(-1)[ids[b, t]]
    assert torch.allclose(expected, by_hand, atol=1e-5)
    forbidden = policy.clone()
    forbidden[~mask] = -torch.inf  # what padding says, be it -inf, changes nothing
    forbidden[~mask, 0] = 0.0
    assert torch.allclose(sequence_log_probs(forbidden, ids, completion), expected)


def test_the_reference_stays():
    torch.manual_seed(0)
    model = llama(LlamaConfig(11, 16, 1, 2, d_ff=24, max_len=8, tie=True))
    reference = frozen_copy(model)
    assert not reference.training and not any(p.requires_grad for p in reference.parameters())
    ids = torch.randint(0, 11, (4, 6))
    completion = torch.arange(6).expand(4, 6) >= 2
    fixed = reference_log_probs(reference, ids, None, completion)
    assert not fixed.requires_grad
    step = dpo(pair_log_probs(model, ids, None, completion, fixed), 0.5)
    step.loss.backward()
    assert step.loss.item() == pytest.approx(math.log(2)) and not step.margin.requires_grad
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.05 * p.grad
    assert dpo(pair_log_probs(model, ids, None, completion, fixed), 0.5).loss < step.loss
    assert torch.equal(reference_log_probs(reference, ids, None, completion), fixed)


@pytest.fixture(scope="module")
def world():
    return small_world(0)


def gap_after_dpo(world, n_pairs, n_steps):
    model = by_dpo(world, n_pairs, n_steps)
    policy, best = log_probs(model, world.prompts).detach(), optimum(world.ref_log_probs, world.rewards, world.beta)
    gap = best.value - objective(policy, world.ref_log_probs, world.rewards, world.beta)
    return gap.mean().item(), kl(policy, best.log_probs).mean().item()


def test_many_pairs_reach_the_optimum(world):
    gap, divergence = gap_after_dpo(world, 512_000, 150)  # measured: 0.0062, 0.0124
    assert divergence < 0.02 and gap < 0.01


def test_few_pairs_are_worse_than_doing_nothing(world):
    best = optimum(world.ref_log_probs, world.rewards, world.beta).value
    reference = (best - objective(world.ref_log_probs, world.ref_log_probs, world.rewards, world.beta)).mean().item()
    gap, _ = gap_after_dpo(world, 500, 60)
    assert 0.2 < reference < 0.35 and gap > 3 * reference


def test_bad_input_is_named(batch):
    policy, _, ids, completion, mask = batch
    pairs = ours(batch)
    for beta in (0.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="beta must be above 0"):
            dpo(pairs, beta)
    with pytest.raises(ValueError, match=r"\(M,\)"):
        dpo(pairs._replace(chosen=torch.zeros(2)), 0.1)
    with pytest.raises(ValueError, match="no tokens"):
        dpo(pairs._replace(chosen_length=torch.tensor([1, 0, 1])), 0.1)
    empty = completion.clone()
    empty[2] = False
    with pytest.raises(ValueError, match="row 2 of completion_mask is empty"):
        sequence_log_probs(policy, ids, empty)
    with pytest.raises(ValueError, match="first token"):
        sequence_log_probs(policy, ids, torch.ones_like(completion))
    with pytest.raises(ValueError, match="do not fit"):
        sequence_log_probs(policy, ids, completion[:, 1:])
    with pytest.raises(ValueError, match="5 rows"):
        pair_log_probs(lambda *a: policy, ids[:5], None, completion, torch.zeros(5))


def test_a_policy_that_drops_out_is_refused():
    """Its margin to its own copy would not be 0."""
    policy = gpt2(GPT2Config(20, 16, 8, 1, 2, dropout=0.1)).train()
    ids, mask = torch.randint(20, (4, 6)), torch.arange(6).expand(4, 6) > 2
    known = reference_log_probs(frozen_copy(policy), ids, None, mask)
    with pytest.raises(ValueError, match="without_dropout"):
        pair_log_probs(policy, ids, None, mask, known)
    pairs = pair_log_probs(without_dropout(policy), ids, None, mask, known)
    assert torch.allclose(pairs.chosen, pairs.ref_chosen, atol=1e-6) and policy.training
