"""PPO: rollouts, rewards, advantages, losses; against TRL's helpers, numpy, and the exact gradient and optimum."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from llmkit.alignment import exact
from llmkit.alignment.advantages import (
    KL_ESTIMATORS,
    gae,
    kl_estimate,
    masked_mean,
    masked_whiten,
    penalise_missing_end,
    token_rewards,
    value_mask,
)
from llmkit.alignment.kl_control import AdaptiveKL
from llmkit.alignment.minibatches import checked_scores
from llmkit.alignment.ppo import (
    PPOSettings,
    clip_fraction,
    policy_loss,
    ppo_step,
    ppo_targets,
    value_loss,
)
from llmkit.alignment.rollout import (
    Rollout,
    completion_log_probs,
    completion_mask,
    sample_rollout,
    score_rollout,
)
from llmkit.alignment.small_runs import by_ppo
from llmkit.alignment.small_world import small_world
from llmkit.alignment.value import ValueModel, completion_values
from llmkit.models.gpt2 import GPT2Config, gpt2
from llmkit.training.optim import AdamW

EOS = 1


@pytest.fixture(scope="module")
def world():
    torch.set_num_threads(1)
    return small_world()


def small_gpt2(seed=0, **fields):
    torch.manual_seed(seed)
    model = gpt2(GPT2Config(**{"vocab_size": 12, "max_len": 16, "d_model": 16, "n_layers": 2, "n_heads": 2} | fields))
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


PROMPTS = [[3, 4, 5], [6], [7, 8], [3, 3, 3, 3]] * 8


def a_rollout(temperature=0.7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return sample_rollout(small_gpt2(0), small_gpt2(1), PROMPTS, 6, EOS, temperature, generator=generator)


def random_tokens(seed=0, B=5, T=7):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(T) < torch.tensor([7, 3, 1, 6, 2])[:B, None]
    return [torch.randn(B, T, generator=generator) for _ in range(4)], mask


# --- rollouts ---


def test_rollout_against_one_text_at_a_time():
    rollout = a_rollout()
    assert 0 < rollout.ended.sum() < len(rollout), "both kinds of ending should occur here"
    for model, got in ((small_gpt2(0), rollout.log_probs), (small_gpt2(1), rollout.ref_log_probs)):
        for i, (prompt, answer) in enumerate(zip(PROMPTS, rollout.answers(), strict=True)):
            logits = model(torch.tensor([prompt + answer]))[0, len(prompt) - 1 : -1] / 0.7
            wanted = logits.log_softmax(-1)[range(len(answer)), answer]
            assert torch.allclose(got[i, : len(answer)], wanted, atol=1e-5)
            assert (got[i, len(answer) :] == 0).all()
            assert (answer[-1] == EOS) == bool(rollout.ended[i]) and EOS not in answer[:-1]
            assert len(answer) == 6 or answer[-1] == EOS


def test_rollout_is_made_by_the_generator():
    assert torch.equal(a_rollout(seed=3).completions, a_rollout(seed=3).completions)
    assert not torch.equal(a_rollout(seed=3).completions, a_rollout(seed=4).completions)


def test_rollout_draws_what_it_says(world):
    """The share of each first token is its probability at that temperature."""
    generator = torch.Generator().manual_seed(0)
    prompts = [world.prompts[0].tolist()] * 4000
    rollout = sample_rollout(world.model, world.model, prompts, 1, None, temperature=0.5, generator=generator)
    wanted = (world.model(world.prompts[:1])[0, -1] / 0.5).softmax(-1)
    share = torch.bincount(rollout.completions[:, 0], minlength=8) / 4000
    assert torch.allclose(share, wanted, atol=0.03) and rollout.ended.all()


def test_completion_mask_and_trl():
    trl = pytest.importorskip("trl.experimental.utils")
    ids = torch.randint(0, 6, (50, 9), generator=torch.Generator().manual_seed(0))
    mask = completion_mask(ids, EOS)
    ends = trl.first_true_indices(ids == EOS)  # 9 where there is none
    assert torch.equal(mask.sum(1), (ends + 1).clamp(max=9))
    theirs, kept = trl.truncate_right(ids, EOS, 99)
    assert torch.equal(ids.masked_fill(~mask, 99), theirs) and torch.equal(mask.long(), kept)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"prompts": [[3] * 12]}, "context is 16"),
        ({"prompts": [[3], []]}, "none may be empty"),
        ({"max_new_tokens": 0}, "at least one token"),
        ({"temperature": 0.0}, "drawn answers"),
        ({"policy": small_gpt2(dropout=0.1).train()}, "model.eval"),
    ],
)
def test_rollout_names_bad_input(change, words):
    model = small_gpt2()
    arguments = {"policy": model, "reference": model, "prompts": [[3, 4]], "max_new_tokens": 6, "eos_id": EOS} | change
    with pytest.raises(ValueError, match=words):
        sample_rollout(**arguments)


def test_a_value_model_that_drops_out_is_refused():
    model = small_gpt2()
    rollout = sample_rollout(model, model, [[3, 4]] * 2, 4, EOS)
    values = ValueModel(small_gpt2(dropout=0.1).transformer).train()
    with pytest.raises(ValueError, match="the value model drops out"):
        completion_values(values, rollout)
    assert completion_values(values.eval(), rollout).shape == (2, 4)


@pytest.mark.parametrize(("scores", "words"), [([1.0, float("nan")], "answer 1 is nan"), ([1.0], "one score each")])
def test_scores_that_teach_nothing_are_refused(scores, words):
    model = small_gpt2()
    rollout = sample_rollout(model, model, [[3, 4]] * 2, 4, EOS)
    with pytest.raises(ValueError, match=words):
        checked_scores(rollout, scores)
    assert checked_scores(rollout, [1, 0]).tolist() == [1.0, 0.0]  # a list does too


# --- rewards and advantages ---


def test_score_at_the_end_or_after_it():
    (log_probs, ref, _, _), mask = random_tokens()
    scores = torch.arange(1.0, 6.0)
    at_end = token_rewards(log_probs, ref, scores, mask, 0.3)
    after = token_rewards(log_probs, ref, scores, mask, 0.3, score_at="eos+1")
    for i, n in enumerate(mask.sum(1).tolist()):
        kl = -0.3 * (log_probs - ref)[i, :n]
        assert torch.allclose(at_end[i, : n - 1], kl[:-1]) and torch.allclose(at_end[i, n - 1], kl[-1] + scores[i])
        assert torch.allclose(after[i, : n - 1], kl[:-1]) and (at_end[i, n:] == 0).all()
        place = min(n, 6)  # TRL: the first padding, or the last token where the answer fills the row
        assert torch.allclose(after[i, place], scores[i] + (kl[-1] if place == n - 1 else 0))
    assert torch.equal(value_mask(mask, "eos+1").sum(1), (mask.sum(1) + 1).clamp(max=7))
    assert torch.equal(penalise_missing_end(scores, scores > 2, 1.0), torch.tensor([0.0, 1.0, 3.0, 4.0, 5.0]))


@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.8, 0.0)])
def test_gae_is_the_sum_of_its_definition(gamma, lam):
    (rewards, values, _, _), mask = random_tokens()
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for i, n in enumerate(mask.sum(1).tolist()):
        r, v = rewards[i, :n].double().numpy(), np.append(values[i, :n].double().numpy(), 0.0)
        delta = r + gamma * v[1:] - v[:-1]
        wanted = [sum((gamma * lam) ** k * delta[t + k] for k in range(n - t)) for t in range(n)]
        assert np.allclose(advantages[i, :n], wanted, atol=1e-5)
        if lam == 1:
            to_go = [sum(gamma ** (k - t) * r[k] for k in range(t, n)) for t in range(n)]
            assert np.allclose(returns[i, :n], to_go, atol=1e-5)
        assert (advantages[i, n:] == 0).all() and (returns[i, n:] == 0).all()


def test_rewards_may_be_whole_numbers():
    (_, values, _, _), mask = random_tokens()
    rewards = torch.arange(7).expand(5, 7)
    for got, wanted in zip(gae(rewards, values, mask), gae(rewards.float(), values, mask), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("outside", [torch.nan, -torch.inf])
def test_a_mean_looks_at_nothing_outside_the_mask(outside):
    (values, *_), mask = random_tokens()
    worse = values.masked_fill(~mask, outside)
    assert torch.equal(masked_mean(worse, mask), masked_mean(values, mask))
    assert torch.equal(masked_whiten(worse, mask), masked_whiten(values, mask))


def test_whitening_against_numpy():
    (values, *_), mask = random_tokens()
    counted = values[mask].double().numpy()
    wanted = (counted - counted.mean()) / np.sqrt(counted.var(ddof=1) + 1e-8)
    assert np.allclose(masked_whiten(values, mask)[mask], wanted, atol=1e-5)
    assert np.allclose(masked_whiten(values, mask, shift_mean=False)[mask], wanted + counted.mean(), atol=1e-5)
    small = 1e-4 * values  # here the 1e-8 is seen
    assert abs(float(masked_whiten(small, mask)[mask].std()) - 1) > 0.1
    with pytest.raises(ValueError, match="at least two tokens"):
        masked_whiten(values, mask & (mask.cumsum(0) > 4))


def test_kl_estimators_values_and_gradients():
    """Expectations over all eight tokens: k1 and k3 are the KL, k2 is not; as losses each pulls somewhere else."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, generator=generator, dtype=torch.float64, requires_grad=True)
    policy, ref = logits.log_softmax(-1), torch.randn(8, generator=generator, dtype=torch.float64).log_softmax(-1)
    weights, kl = policy.detach().exp(), exact.kl(policy, ref)
    means = {kind: (weights * kl_estimate(policy, ref, kind)).sum() for kind in KL_ESTIMATORS}
    assert torch.allclose(means["k1"], kl) and torch.allclose(means["k3"], kl)
    assert abs(means["k2"] - kl) > 0.05
    slopes = {kind: torch.autograd.grad(mean, logits, retain_graph=True)[0] for kind, mean in means.items()}
    assert slopes["k1"].abs().max() < 1e-12
    assert torch.allclose(slopes["k2"], torch.autograd.grad(kl, logits, retain_graph=True)[0])
    assert torch.allclose(slopes["k3"], torch.autograd.grad(exact.kl(ref, policy), logits)[0])


# --- losses ---


def test_losses_against_numpy():
    (new, old, advantages, returns), mask = random_tokens()
    loss, clipped = (f(new, old, advantages, mask, 0.2) for f in (policy_loss, clip_fraction))
    wanted, wanted_clipped, n = 0.0, 0, int(mask.sum())
    for i, t in mask.nonzero().tolist():
        rho, A = float((new[i, t] - old[i, t]).exp()), float(advantages[i, t])
        plain, cut = -A * rho, -A * min(max(rho, 0.8), 1.2)
        wanted, wanted_clipped = wanted + max(plain, cut) / n, wanted_clipped + (cut > plain)
    assert abs(float(loss) - wanted) < 1e-5 and abs(float(clipped) - wanted_clipped / n) < 1e-6

    loss, wanted = value_loss(new, old, returns, mask, 0.3), 0.0
    for i, t in mask.nonzero().tolist():
        v, v_old, target = float(new[i, t]), float(old[i, t]), float(returns[i, t])
        plain, cut = (v - target) ** 2, (min(max(v, v_old - 0.3), v_old + 0.3) - target) ** 2
        wanted += 0.5 * max(plain, cut) / n
    assert abs(float(loss) - wanted) < 1e-4


@pytest.mark.parametrize("moved, advantage, flows", [(0.5, 1, 0), (0.5, -1, 1), (-0.5, 1, 1), (-0.5, -1, 0)])
def test_four_quadrants_of_the_clip(moved, advantage, flows):
    new, one = torch.full((1, 1), moved, requires_grad=True), torch.ones(1, 1)
    policy_loss(new, 0 * one, advantage * one, one.bool()).backward()
    assert bool(new.grad != 0) == bool(flows)
    assert float(clip_fraction(new, 0 * one, advantage * one, one.bool())) == 1 - flows


def test_adaptive_kl():
    control = AdaptiveKL(0.1, target=6.0)
    assert control.update(6.6) == pytest.approx(0.1 * 1.01)  # 10% above
    assert control.update(600.0) == pytest.approx(0.101 * 1.02)  # never more than 2% a batch
    with pytest.raises(ValueError, match="above 0"):
        AdaptiveKL(-0.1, 6.0)


# --- the step ---


@pytest.mark.parametrize("score_at", ["eos", "eos+1"])
def test_first_minibatch_is_on_policy(score_at):
    rollout, policy = a_rollout(), small_gpt2(0)
    values = ValueModel(policy.transformer)
    assert completion_values(values, rollout).abs().max() == 0
    settings = PPOSettings(
        temperature=0.7, score_at=score_at, n_minibatches=2, missing_eos_penalty=1.0, whiten_rewards=True
    )
    scores = torch.linspace(-1, 1, len(rollout))
    optimizer = AdamW([{"params": [*policy.parameters(), *values.parameters()]}], lr=1e-2)
    stats = ppo_step(policy, values, optimizer, rollout, scores, settings, torch.Generator().manual_seed(0))
    assert abs(stats.first_ratio - 1) < 1e-5 and stats.first_clip_fraction == 0 and stats.first_approx_kl < 1e-9
    assert stats.clip_fraction > 0 and stats.approx_kl > 1e-4  # seven updates later
    assert abs(stats.kl - float((rollout.log_probs - rollout.ref_log_probs).sum(1).mean())) < 1e-5
    wrong_temperature = completion_log_probs(small_gpt2(0), rollout) - rollout.log_probs
    assert wrong_temperature.abs().max() > 0.05


def test_values_stand_before_their_tokens():
    rollout, values = a_rollout(), ValueModel(small_gpt2(0).transformer)
    torch.nn.init.normal_(values.head.weight, generator=torch.Generator().manual_seed(0))
    got = completion_values(values, rollout)
    for i, (prompt, answer) in enumerate(zip(PROMPTS, rollout.answers(), strict=True)):
        for t in range(len(answer)):
            wanted = values(torch.tensor([prompt + answer[:t]]))[0, -1]
            assert torch.allclose(got[i, t], wanted, atol=1e-4)


def test_a_step_raises_good_answers_and_teaches_the_values():
    rollout, policy = a_rollout(), small_gpt2(0)
    values = ValueModel(policy.transformer)
    optimizer = AdamW([{"params": [*policy.parameters(), *values.parameters()]}], lr=2e-3)
    scores = 1.0 + (rollout.completions == 3).any(1).float()
    ppo_step(policy, values, optimizer, rollout, scores, PPOSettings(beta=0.0, temperature=0.7), None)
    with torch.no_grad():
        gain = (completion_log_probs(policy, rollout, 0.7) - rollout.log_probs).sum(1)
        assert gain[scores > 1].mean() > gain[scores == 1].mean() + 0.01
        assert completion_values(values, rollout)[rollout.mask].mean() > 0.01  # they began at 0; all scores are above 1


def test_targets_are_trls():
    """Advantages, returns and which states count, as TRL 1.0.0 computed them (later versions have no PPO)."""
    stored = json.loads((Path(__file__).parent / "trl_ppo.json").read_text(encoding="utf-8"))
    for case in stored["cases"]:
        t = {name: torch.tensor(value) for name, value in case.items() if isinstance(value, list)}
        mask = torch.arange(t["values"].size(1)) < t["lengths"][:, None]
        log_probs, ref = (t[name].masked_fill(~mask, 0.0) for name in ("log_probs", "ref_log_probs"))
        rollout = Rollout(mask[:, :1], mask[:, :1], mask.long(), mask, log_probs, ref, t["ended"])
        settings = PPOSettings(
            score_at="eos+1", kl=case["kl"], whiten_rewards=case["whiten_rewards"],
            **{name: stored[name] for name in ("missing_eos_penalty", "beta", "gamma", "lam")},
        )  # fmt: skip
        got = ppo_targets(rollout, t["scores"], t["values"], settings)
        assert torch.allclose(got.advantages, t["advantages"], atol=1e-5)
        assert torch.allclose(got.returns, t["returns"], atol=1e-5)
        assert torch.equal(got.value_mask, t["value_mask"].bool())


def test_targets_end_to_end():
    """Whitened advantages of lam 1 and zero values: the rewards to come, the penalty for no end included."""
    rollout = a_rollout()
    scores, settings = torch.linspace(-1, 1, len(rollout)), PPOSettings(lam=1.0, missing_eos_penalty=2.0)
    targets = ppo_targets(rollout, scores, torch.zeros_like(rollout.log_probs), settings)
    penalised = scores - 2.0 * ~rollout.ended
    kl = 0.05 * (rollout.log_probs - rollout.ref_log_probs)
    to_go = penalised[:, None] - kl.flip(1).cumsum(1).flip(1)
    assert torch.allclose(targets.returns[rollout.mask], to_go[rollout.mask], atol=1e-5)
    assert torch.allclose(targets.advantages, masked_whiten(to_go, rollout.mask), atol=1e-4)


def test_a_step_obeys_every_setting():
    """Two updates written out, with nothing at its default."""
    rollout, policy = a_rollout(), small_gpt2(0)
    values = ValueModel(policy.transformer)
    settings = PPOSettings(
        beta=0.3, gamma=0.9, lam=0.8, clip=0.01, value_clip=0.02, value_weight=0.7, n_epochs=1, n_minibatches=2,
        temperature=0.7, kl="k3", score_at="eos+1", missing_eos_penalty=0.5, whiten_advantages=False, max_grad_norm=0.4,
    )  # fmt: skip
    scores, hand, hand_values = torch.arange(32.0) / 8, copy.deepcopy(policy), copy.deepcopy(values)
    optimizer = torch.optim.SGD([*policy.parameters(), *values.parameters()], 0.3)
    ppo_step(policy, values, optimizer, rollout, scores, settings, torch.manual_seed(1))
    scores, states = penalise_missing_end(scores, rollout.ended, 0.5), value_mask(rollout.mask, "eos+1")
    rewards = token_rewards(rollout.log_probs, rollout.ref_log_probs, scores, rollout.mask, 0.3, "eos+1", "k3")
    old = completion_values(hand_values, rollout).detach()
    advantages, returns = gae(rewards, old, states, 0.9, 0.8)
    parameters = [*hand.parameters(), *hand_values.parameters()]
    optimizer = torch.optim.SGD(parameters, 0.3)
    for index in torch.randperm(32, generator=torch.manual_seed(1)).chunk(2):
        part = rollout.rows(index)
        now = completion_log_probs(hand, part, 0.7)
        loss = policy_loss(now, part.log_probs, advantages[index], part.mask, 0.01)
        value = completion_values(hand_values, part)
        optimizer.zero_grad()
        (loss + 0.7 * value_loss(value, old[index], returns[index], states[index], 0.02)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.4)
        optimizer.step()
    for got, wanted in zip([*policy.parameters(), *values.parameters()], parameters, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_scores_of_a_verifier_may_be_booleans():
    def step(scores):
        rollout, policy = a_rollout(), small_gpt2(0)
        values = ValueModel(policy.transformer)
        optimizer = AdamW([{"params": [*policy.parameters(), *values.parameters()]}], lr=2e-3)
        settings = PPOSettings(n_epochs=1, missing_eos_penalty=1.0)
        return ppo_step(policy, values, optimizer, rollout, scores, settings)

    right = torch.arange(len(PROMPTS)) % 2 == 0
    assert step(right) == step(right.long()) == step(right.float())


def test_step_names_bad_input():
    rollout, policy = a_rollout(), small_gpt2(0)
    values = ValueModel(policy.transformer)
    optimizer = AdamW([{"params": policy.parameters()}], lr=1e-2)
    scores = torch.zeros(len(rollout))
    with pytest.raises(ValueError, match="one score each"):
        ppo_step(policy, values, optimizer, rollout, scores[1:])
    with pytest.raises(ValueError, match="cut into 99 minibatches"):
        ppo_step(policy, values, optimizer, rollout, scores, PPOSettings(n_minibatches=99))
    for settings, words in (
        ({"beta": -1}, "beta is -1"), ({"n_epochs": 0}, "at least once"), ({"n_minibatches": 0}, "at least one part"),
        ({"score_at": "pad"}, "score_at 'pad' is not known: take one of eos, eos\\+1"), ({"kl": "k9"}, "one of k1, k2"),
        ({"lam": 2.0}, "lam is between 0 and 1"), ({"gamma": -0.1}, "gamma is between"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            PPOSettings(**settings)
    for name in ("clip", "value_clip", "temperature", "max_grad_norm"):
        with pytest.raises(ValueError, match=f"{name} is above 0, got 0"):
            PPOSettings(**{name: 0.0})
    rollout.mask[0] = False
    with pytest.raises(ValueError, match="no tokens"):
        ppo_step(policy, values, optimizer, rollout, scores)


# --- the exact gradient and the exact optimum ---


def every_answer(world, policy):
    """All 4096 answers to the first prompt as one rollout, and the probability of each under the policy."""
    N = len(world.answers)
    prompts = world.prompts[:1].expand(N, -1)
    on = torch.ones(N, 4, dtype=torch.bool)
    rollout = score_rollout(policy, world.model, prompts, on[:, :2], world.answers, on, on[:, 0])
    return rollout, rollout.log_probs.double().sum(1).exp().float()


def a_policy(world, noise=0.1):
    policy = copy.deepcopy(world.model).requires_grad_(True)
    torch.manual_seed(5)
    for parameter in policy.parameters():
        parameter.data += noise * torch.randn_like(parameter)
    return policy


@pytest.mark.parametrize("baseline", [0.0, 1.5])
def test_expected_gradient_is_the_exact_one(world, baseline):
    """All answers as the batch, weighed by their probability: with lam 1 the gradient of J, whatever the values say."""
    policy = a_policy(world)
    rollout, weights = every_answer(world, policy)
    before = torch.cat([rollout.prompts[:, -1:], rollout.completions[:, :-1]], 1)  # a value may know what came before
    values = baseline * torch.randn(8, generator=torch.Generator().manual_seed(0))[before]
    settings = PPOSettings(beta=world.beta, lam=1.0, whiten_advantages=False)
    targets = ppo_targets(rollout, world.rewards[0].float(), values, settings)
    weighed = targets.advantages * weights[:, None] * weights.numel()
    loss = policy_loss(completion_log_probs(policy, rollout), rollout.log_probs, weighed, rollout.mask)
    loss.backward()
    got = [-4 * p.grad.clone() for p in policy.parameters()]  # the loss is a mean over 4 tokens
    policy.zero_grad()
    log_p = exact.log_probs(policy, world.prompts[:1])
    exact.objective(log_p, world.ref_log_probs[:1], world.rewards[:1], world.beta).sum().backward()
    for ours, p in zip(got, policy.parameters(), strict=True):
        assert torch.allclose(ours, p.grad, atol=2e-4 * float(p.grad.abs().max()) + 1e-5)


def test_ppo_comes_near_the_optimum(world):
    """From drawn answers alone: KL(policy || pi*) below 0.02 nats, and so J within 1% of J*."""
    policy = by_ppo(world)
    with torch.no_grad():
        log_p = exact.log_probs(policy, world.prompts)
    best = exact.optimum(world.ref_log_probs, world.rewards, world.beta)
    J = exact.objective(log_p, world.ref_log_probs, world.rewards, world.beta)
    kl = exact.kl(log_p, best.log_probs)
    assert torch.allclose(best.value - J, world.beta * kl, atol=1e-6)
    assert float(kl.mean()) < 0.02 and float(J.mean()) > 0.99 * float(best.value.mean()), f"KL {kl.mean():.4f}"
