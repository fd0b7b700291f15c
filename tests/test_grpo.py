"""GRPO: losses against TRL's trainer, group advantages, gradients by enumeration, verifiers, pass@k, additions."""

import copy
import dataclasses
import itertools
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from llmkit.alignment import exact
from llmkit.alignment.advantages import group_advantages, zero_variance_fraction
from llmkit.alignment.grpo import REDUCTIONS, GRPOSettings, grpo_step, importance_log_ratio, token_losses
from llmkit.alignment.rollout import completion_log_probs, sample_rollout, score_rollout
from llmkit.alignment.small_runs import by_grpo
from llmkit.alignment.small_world import small_world
from llmkit.alignment.verifiers import contains_answer, exact_answer, lenient_answer, right_form
from llmkit.data.arithmetic import ALPHABET, EOS, addition, decode, encode, is_held_out, problems
from llmkit.evaluation.pass_at_k import mean_pass_at_k, pass_at_k
from llmkit.training.optim import AdamW


@pytest.fixture(scope="module")
def world():
    torch.set_num_threads(1)
    return small_world()


def tokens(seed=0, size=0.6):
    """Log-probabilities new, old and of the reference (6, 8), advantages (6,), mask."""
    generator = torch.Generator().manual_seed(seed)
    new, old, ref = (-1.5 + size * torch.randn(6, 8, generator=generator) for _ in range(3))
    mask = torch.arange(8) < torch.tensor([8, 3, 1, 5, 8, 2])[:, None]
    return new, old, ref, torch.randn(6, generator=generator), mask


# --- TRL's loss ---


def trl_loss(trainer, new, old, ref, advantages, mask, loss_type, level, beta, correct, clip_high):
    """GRPOTrainer._compute_loss with nothing of a trainer but what it reads."""
    accelerator = SimpleNamespace(
        num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x
    )
    stub = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (new, torch.zeros_like(new), None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        importance_sampling_level=level, beta=beta, loss_type=loss_type, epsilon_low=0.2, epsilon_high=clip_high,
        args=SimpleNamespace(use_bias_correction_kl=correct, delta=None, steps_per_generation=1), use_vllm=False,
        model=SimpleNamespace(training=True), current_gradient_accumulation_steps=1, accelerator=accelerator,
        max_completion_length=10, _entropy_bonus_enabled=False, _metrics=defaultdict(lambda: defaultdict(list)),
    )  # fmt: skip
    ids = torch.zeros(mask.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :2], "prompt_mask": ids[:, :2] + 1, "completion_ids": ids, "completion_mask": mask.long(),
        "advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": ref,
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    return trainer._compute_loss(stub, None, inputs)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", list(REDUCTIONS))
def test_losses_are_trls(loss_type, level):
    trainer = pytest.importorskip("trl.trainer.grpo_trainer").GRPOTrainer
    for beta, correct, clip_high in ((0.0, False, 0.2), (0.3, False, 0.28), (0.3, True, 0.28)):
        for seed in range(3):
            new, old, ref, advantages, mask = tokens(seed)
            ours, theirs = new.clone().requires_grad_(True), new.clone().requires_grad_(True)
            losses = token_losses(ours, old, advantages, mask, 0.2, clip_high, level, ref, beta, correct)
            loss = REDUCTIONS[loss_type](losses, mask, 10, float(mask.sum()))
            wanted = trl_loss(trainer, theirs, old, ref, advantages, mask, loss_type, level, beta, correct, clip_high)
            assert torch.allclose(loss, wanted, atol=1e-6)
            loss.backward()
            wanted.backward()
            assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


def test_group_advantages():
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 3.0, 3.0, 3.0, 3.0])
    a = group_advantages(rewards, 4)
    assert torch.allclose(a[:4], torch.tensor([0.5, -0.5, -0.5, 0.5]) / (0.57735 + 1e-4), atol=1e-4)
    assert (a[4:] == 0).all() and zero_variance_fraction(rewards, 4) == 0.5
    assert torch.allclose(group_advantages(rewards, 4, "population")[0], torch.tensor(0.5 / 0.5001))
    assert torch.equal(group_advantages(rewards, 4, "none")[:4], torch.tensor([0.5, -0.5, -0.5, 0.5]))
    one_in_16 = group_advantages(torch.eye(16)[0], 16, "population")
    assert 3.85 < float(one_in_16[0]) < 3.88 and -0.27 < float(one_in_16[1]) < -0.25  # rare wins are shouted
    with pytest.raises(ValueError, match="nothing to be compared"):
        group_advantages(rewards, 1)
    with pytest.raises(ValueError, match="do not make groups of 3"):
        group_advantages(rewards, 3)
    with pytest.raises(ValueError, match="std is"):
        group_advantages(rewards, 4, "batch")


# --- what the losses do ---


@pytest.mark.parametrize("reduction", list(REDUCTIONS))
def test_on_policy_loss_is_nothing_and_its_gradient_is_not(reduction):
    """Equal lengths, ratio 1: the loss is minus the mean advantage, 0; the gradient is REINFORCE's."""
    new, _, _, _, mask = tokens()
    mask, advantages = torch.ones_like(mask), group_advantages(torch.tensor([1.0, 0.0, 0.0, 2.0, 0.0, 1.0]), 3)
    new = new.requires_grad_(True)
    loss = REDUCTIONS[reduction](token_losses(new, new.detach(), advantages, mask), mask, 8, 48.0)
    assert abs(float(loss.detach())) < 1e-7
    loss.backward()
    assert torch.allclose(new.grad, -advantages[:, None].expand(6, 8) / 48, atol=1e-7)


def test_length_bias():
    """Two wrong answers, of 1 and of 8 tokens: per_answer_mean blames a token of the long one eight times less."""
    mask = torch.arange(8) < torch.tensor([1, 8])[:, None]
    blame = {}
    for name, reduce in REDUCTIONS.items():
        new = torch.zeros(2, 8, requires_grad=True)
        reduce(token_losses(new, torch.zeros(2, 8), -torch.ones(2), mask), mask, 8, float(mask.sum())).backward()
        blame[name] = float(new.grad[0, 0] / new.grad[1, 0])
    assert blame == pytest.approx({"grpo": 8.0, "bnpo": 1.0, "dr_grpo": 1.0, "dapo": 1.0})


def test_sequence_ratio():
    new, old, _, _, mask = tokens()
    ratio = importance_log_ratio(new, old, mask, "sequence").exp()
    for i, n in enumerate(mask.sum(1).tolist()):
        wanted = torch.prod((new[i, :n] - old[i, :n]).exp()) ** (1 / n)
        assert torch.allclose(ratio[i, 0], wanted)


def test_names_bad_input():
    new, old, ref, advantages, mask = tokens()
    with pytest.raises(ValueError, match="beta is -0.1"):
        token_losses(new, old, advantages, mask, beta=-0.1, ref_log_probs=ref)
    with pytest.raises(ValueError, match="give ref_log_probs"):
        token_losses(new, old, advantages, mask, beta=0.1)
    with pytest.raises(ValueError, match="level is"):
        token_losses(new, old, advantages, mask, level="word")
    for settings, words in (
        ({"reduction": "mean"}, "reduction 'mean' is not known: take one of grpo, bnpo"),
        ({"kl": "both"}, "take one of loss, reward"), ({"std": "batch"}, "std 'batch'"), ({"level": "word"}, "level"),
        ({"beta": -1}, "beta is -1"), ({"n_epochs": 0}, "at least once"), ({"n_minibatches": 0}, "at least one part"),
        ({"group_size": 1}, "nothing to be compared with"), ({"temperature": 0.0}, "temperature is above 0"),
        ({"clip_low": 0.0}, "clip_low is above 0"), ({"max_grad_norm": -1.0}, "max_grad_norm is above 0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            GRPOSettings(**settings)


def test_defaults_are_trls_but_two():
    GRPOConfig = pytest.importorskip("trl").GRPOConfig  # noqa: N806
    theirs = {field.name: field.default for field in dataclasses.fields(GRPOConfig)}
    names = {
        "group_size": "num_generations", "reduction": "loss_type", "clip_low": "epsilon", "beta": "beta",
        "level": "importance_sampling_level", "correct_kl": "use_bias_correction_kl", "n_epochs": "num_iterations",
        "temperature": "temperature", "max_grad_norm": "max_grad_norm",
    }  # fmt: skip
    ours = GRPOSettings()
    assert {name for name, key in names.items() if getattr(ours, name) != theirs[key]} == {"reduction", "correct_kl"}
    assert theirs["epsilon_high"] is None and ours.clip_high == ours.clip_low
    assert theirs["scale_rewards"] == "group" and ours.std == "sample"


# --- the exact gradient and the exact optimum ---


@pytest.mark.parametrize("kl", ["reward", "none"])
def test_expected_gradient_is_the_exact_one(world, kl):
    """All answers as one group, weighed by their probability: gradient of J, or of the reward alone without KL."""
    policy = copy.deepcopy(world.model).requires_grad_(True)
    torch.manual_seed(5)
    for parameter in policy.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    N, on = len(world.answers), torch.ones(len(world.answers), 4, dtype=torch.bool)
    rollout = score_rollout(
        policy, world.model, world.prompts[:1].expand(N, -1), on[:, :2], world.answers, on, on[:, 0]
    )
    weights = rollout.log_probs.sum(1).exp()
    paid = world.rewards[0].float()
    if kl == "reward":
        paid = paid - world.beta * (rollout.log_probs - rollout.ref_log_probs).sum(1)
    losses = token_losses(
        completion_log_probs(policy, rollout), rollout.log_probs, group_advantages(paid, N, "none"), on
    )
    REDUCTIONS["dr_grpo"](losses * weights[:, None] * N, on, 4, 0.0).backward()
    got = [-4 * p.grad.clone() for p in policy.parameters()]
    policy.zero_grad()
    log_p = exact.log_probs(policy, world.prompts[:1])
    if kl == "reward":
        wanted = exact.objective(log_p, world.ref_log_probs[:1], world.rewards[:1], world.beta).sum()
    else:
        wanted = (log_p.exp() * world.rewards[:1]).sum()
    wanted.backward()
    for ours, p in zip(got, policy.parameters(), strict=True):
        assert torch.allclose(ours, p.grad, atol=2e-4 * float(p.grad.abs().max()) + 1e-5)


def test_expected_gradient_of_real_groups():
    """Every group of 2, 3 or 4 answers of one token, weighed by its probability: the answer is in its own baseline, so
    (n - 1) / n of the true gradient is left; divided by the group's deviation it has another direction."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, generator=generator).requires_grad_(True)
    rewards, log_p = 2 * torch.rand(5, generator=generator), logits.log_softmax(-1)
    (true,) = torch.autograd.grad((log_p.exp() * rewards).sum(), logits, retain_graph=True)
    for n, std in itertools.product((2, 3, 4), ("none", "sample", "population")):
        groups = torch.cartesian_prod(*[torch.arange(5)] * n)  # (5^n, n)
        new = log_p[groups].reshape(-1, 1)
        advantages, on = group_advantages(rewards[groups].flatten(), n, std), torch.ones_like(new, dtype=torch.bool)
        losses = token_losses(new, new.detach(), advantages, on).view(-1, n).mean(1)
        chance = log_p.detach()[groups].sum(1).exp()
        (got,) = torch.autograd.grad(-(chance * losses).sum(), logits, retain_graph=True)
        if std == "none":
            assert torch.allclose(got, (n - 1) / n * true, atol=1e-6)
        else:
            assert 0.98 < float(torch.cosine_similarity(got, true, 0)) < 0.999


def expected_fixed_point(where: str, correct: bool = False):
    """Eight answers of one token, all of them as the batch: where gradient descent comes to rest, and pi*."""
    generator = torch.Generator().manual_seed(1)
    ref, rewards = torch.randn(8, generator=generator).log_softmax(-1), 2 * torch.rand(8, generator=generator)
    logits, on, beta = ref.clone().requires_grad_(True), torch.ones(8, 1, dtype=torch.bool), 0.5
    for _ in range(700):
        new = logits.log_softmax(-1)
        old, p = new.detach(), new.detach().exp()
        paid = rewards - beta * (old - ref) * (where == "reward")
        advantages = paid - (p * paid).sum()
        losses = token_losses(
            new[:, None], old[:, None], advantages, on, ref_log_probs=ref[:, None],
            beta=beta * (where == "loss"), correct_kl=correct,
        )  # fmt: skip
        (slope,) = torch.autograd.grad((p[:, None] * losses).sum(), logits)
        logits.data -= 2.0 * slope
    return logits.detach().log_softmax(-1), ref, rewards, beta


def test_where_each_kl_comes_to_rest():
    """k1 in the reward ends at pi*; k3 in the loss ends elsewhere, and with the correction at pi*."""
    for where, correct, reaches in (("reward", False, True), ("loss", False, False), ("loss", True, True)):
        policy, ref, rewards, beta = expected_fixed_point(where, correct)
        best = exact.optimum(ref[None], rewards[None], beta).log_probs[0]
        miss = float(exact.kl(policy, best))
        assert (miss < 1e-4) if reaches else (0.005 < miss < 1), f"{where}, correct={correct}: {miss}"
    policy, ref, rewards, beta = expected_fixed_point("loss")
    # at rest its gradient, that of E r - beta KL(reference || policy), is nothing
    rest = policy.exp() * (rewards - (policy.exp() * rewards).sum()) - beta * (policy.exp() - ref.exp())
    assert rest.abs().max() < 1e-4


REINFORCE = {"std": "none", "reduction": "dr_grpo"}


@pytest.mark.parametrize(
    "kl, low, high, how", [("reward", 0.0, 0.02, REINFORCE), ("loss", 0.03, 0.1, REINFORCE), ("reward", 0.0, 0.02, {})]
)
def test_policy_gradient_comes_near_the_optimum(world, kl, low, high, how):
    """REINFORCE with the mean of the group as baseline: k1 in the reward reaches pi*, k3 in the loss does not.

    The last is GRPO as in its paper, but with the KL in the reward."""
    policy, stats = by_grpo(world, kl=kl, **how)
    assert all(abs(one.first_ratio - 1) < 1e-5 and one.first_clip_fraction == 0 for one in stats)
    with torch.no_grad():
        log_p = exact.log_probs(policy, world.prompts)
    best = exact.optimum(world.ref_log_probs, world.rewards, world.beta)
    J = exact.objective(log_p, world.ref_log_probs, world.rewards, world.beta).mean()
    miss = float(exact.kl(log_p, best.log_probs).mean())
    assert low < miss < high, f"{kl}: KL(policy || pi*) {miss:.4f}"
    assert float(J) > 0.97 * float(best.value.mean())


def test_several_epochs_and_minibatches(world):
    policy = copy.deepcopy(world.model).requires_grad_(True)
    prompts = [prompt for prompt in world.prompts.tolist() for _ in range(8)]
    generator = torch.Generator().manual_seed(0)
    rollout = sample_rollout(policy, world.model, prompts, 4, None, generator=generator)
    optimizer = AdamW([{"params": policy.parameters()}], lr=2e-2)
    rewards = (rollout.completions == 3).any(1).float()
    settings = GRPOSettings(n_epochs=4, n_minibatches=2, clip_high=0.28)
    stats = grpo_step(policy, optimizer, rollout, rewards, settings, generator)
    assert abs(stats.first_ratio - 1) < 1e-5 and stats.first_clip_fraction == 0 < stats.clip_fraction
    assert stats.length == 4 and stats.zero_variance == zero_variance_fraction(rewards, 8)
    with pytest.raises(ValueError, match="cut into 99 minibatches"):
        grpo_step(policy, optimizer, rollout, rewards, GRPOSettings(n_minibatches=99))
    with pytest.raises(ValueError, match="one score each"):
        grpo_step(policy, optimizer, rollout, rewards[1:])
    rollout.mask[0] = False
    with pytest.raises(ValueError, match="no tokens"):
        grpo_step(policy, optimizer, rollout, rewards)


@pytest.mark.parametrize("max_norm", [0.5, 1e9])
@pytest.mark.parametrize("kl, reduction", [("loss", "dapo"), ("reward", "dr_grpo")])
def test_a_step_obeys_every_setting(world, kl, reduction, max_norm):
    """Two updates written out, with nothing at its default; the reference is another model, so that KL counts."""
    reference, policy = copy.deepcopy(world.model), copy.deepcopy(world.model).requires_grad_(True)
    reference.lm_head.weight.data *= 1.5
    prompts = [prompt for prompt in world.prompts[:2].tolist() for _ in range(4)]
    rollout = sample_rollout(policy, reference, prompts, 4, 3, 0.7, generator=torch.Generator().manual_seed(0))
    rewards = torch.tensor([0.0, 1.0, 4.0, 9.0, 5.0, 5.0, 5.0, 5.0])  # the second group teaches nothing but the KL
    settings = GRPOSettings(
        group_size=4, reduction=reduction, std="none", clip_low=0.01, clip_high=0.02, level="sequence", beta=0.3,
        kl=kl, correct_kl=True, n_minibatches=2, temperature=0.7, max_grad_norm=max_norm,
    )  # fmt: skip
    by_hand = copy.deepcopy(policy)
    stats = grpo_step(
        policy, torch.optim.SGD(policy.parameters(), 0.01), rollout, rewards, settings, torch.manual_seed(1)
    )
    nats = (rollout.log_probs - rollout.ref_log_probs).sum(1)
    paid, in_loss = (rewards - 0.3 * nats, 0.0) if kl == "reward" else (rewards, 0.3)
    optimizer, advantages = torch.optim.SGD(by_hand.parameters(), 0.01), group_advantages(paid, 4, "none")
    for index in torch.randperm(8, generator=torch.manual_seed(1)).chunk(2):
        part = rollout.rows(index)
        now = completion_log_probs(by_hand, part, 0.7)
        losses = token_losses(
            now, part.log_probs, advantages[index], part.mask, 0.01, 0.02, "sequence", part.ref_log_probs, in_loss, True
        )
        loss = losses.sum() / (rollout.mask.sum() / 2 if reduction == "dapo" else len(index) * 4)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), max_norm)
        optimizer.step()
    for got, wanted in zip(policy.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    assert stats.reward == pytest.approx(4.25) and stats.zero_variance == 0.5  # of what was earned, not of what is paid
    assert stats.kl == pytest.approx(nats.mean().item()) and stats.kl > 0.01
    assert stats.length == rollout.mask.sum().item() / 8 and stats.loss == pytest.approx(loss.item(), abs=1e-5)


def test_the_share_that_the_clip_took(world):
    """By hand, after a step so large that ratios lie beyond both ends."""
    policy = copy.deepcopy(world.model).requires_grad_(True)
    prompts = [prompt for prompt in world.prompts.tolist() for _ in range(4)]
    rollout = sample_rollout(policy, world.model, prompts, 4, None, generator=torch.Generator().manual_seed(0))
    rewards = (rollout.completions == 3).float().sum(1)
    for low, high in ((0.01, 0.3), (0.3, 0.01)):
        moving = copy.deepcopy(policy)
        settings = GRPOSettings(group_size=4, clip_low=low, clip_high=high, n_epochs=2)
        stats = grpo_step(moving, torch.optim.SGD(moving.parameters(), 1.0), rollout, rewards, settings)
        once = copy.deepcopy(policy)
        grpo_step(once, torch.optim.SGD(once.parameters(), 1.0), rollout, rewards,
                  dataclasses.replace(settings, n_epochs=1))  # fmt: skip
        ratio = (completion_log_probs(once, rollout) - rollout.log_probs).exp()
        A = group_advantages(rewards, 4)[:, None].expand_as(ratio)
        beyond = ((A > 0) & (ratio > 1 + high)) | ((A < 0) & (ratio < 1 - low))
        assert 0 < beyond.float().mean() < 1
        assert stats.clip_fraction == pytest.approx(beyond.float().mean().item())


# --- pass@k, verifiers, additions ---


def test_pass_at_k_by_counting():
    for n, c, k in ((5, 2, 3), (6, 1, 4), (4, 4, 1), (5, 0, 5), (6, 3, 1)):
        draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    assert mean_pass_at_k([[True, False, False], [False] * 3], 2) == pytest.approx(1 / 3)
    assert 0 < pass_at_k(10_000, 1, 5000) < 1  # no overflow
    with pytest.raises(ValueError, match="pass@6 cannot be estimated from 5"):
        pass_at_k(5, 2, 6)
    with pytest.raises(ValueError, match="7 right answers among 5"):
        pass_at_k(5, 7, 2)
    with pytest.raises(ValueError, match="at least one problem"):
        mean_pass_at_k([], 1)


@pytest.mark.parametrize(
    "completion, strict, lenient, form, anywhere",
    [
        ("42", 1, 1, 1, 1),
        ("7+5=12,1+1+2=4;42", 1, 1, 1, 1),
        ("042", 0, 1, 0, 1),
        ("42;", 0, 1, 0, 1),
        ("42;41", 0, 0, 1, 1),
        ("40414243", 0, 0, 1, 1),
        ("41", 0, 0, 1, 0),
        ("", 0, 0, 0, 0),
        ("４２", 0, 0, 0, 0),
        ("9" * 5000, 0, 0, 1, 0),  # int() refuses more than 4,300 digits
        ("0" * 5000 + "42", 0, 1, 0, 1),
    ],
)
def test_verifiers(completion, strict, lenient, form, anywhere):
    assert exact_answer(completion, "42") == strict and lenient_answer(completion, "42") == lenient
    assert right_form(completion) == form and contains_answer(completion, "42") == anywhere
    assert lenient_answer("00", "0") == lenient_answer("0", "00") == 1 and lenient_answer("10", "1") == 0


def test_additions():
    for digits, held_out in ((1, False), (2, True), (3, False)):
        for problem in problems(200, digits, seed=3, held_out=held_out, scratchpad=True):
            a, b = problem.prompt[:-1].split("+")
            assert len(a) == len(b) == digits and int(a) + int(b) == int(problem.answer)
            assert is_held_out(int(a), int(b)) == is_held_out(int(b), int(a)) == held_out
            work, final = problem.solution.split(";")
            assert final == problem.answer and exact_answer(problem.solution, problem.answer) == 1
            columns = [column.split("=") for column in work.split(",")]
            assert all(sum(map(int, left.split("+"))) == int(total) for left, total in columns)
            assert "".join([columns[-1][1]] + [total[-1] for _, total in columns[-2::-1]]) == final
            assert decode([*encode(problem.prompt + problem.solution), EOS, 5]) == problem.prompt + problem.solution
    share = sum(is_held_out(a, b) for a in range(10, 100) for b in range(10, 100)) / 8100
    assert 0.18 < share < 0.22
    assert problems(5, 2, seed=1) != problems(5, 2, seed=2)
    assert addition(99, 1, True).solution == "9+1+0=10,9+0+1=10;100" and ALPHABET[EOS] == "\n"
    with pytest.raises(ValueError, match="at least 0"):
        addition(-1, 2)
    with pytest.raises(ValueError, match="not among the characters"):
        encode("1-2")
    with pytest.raises(ValueError, match="share"):
        problems(1, 2, share=0.0)
    with pytest.raises(ValueError, match="at least one digit"):
        problems(1, 0)


def test_groups_of_different_prompts_are_refused(world):
    """prompts * n instead of each prompt n times: every answer would be compared with those to other prompts."""
    policy, prompts = world.model, [[1], [2], [1, 2]]
    learner, settings = copy.deepcopy(policy).requires_grad_(True), GRPOSettings(group_size=2)
    optimizer = AdamW([{"params": learner.parameters()}], 1e-3)
    rewards = torch.arange(6.0)
    mixed = sample_rollout(policy, policy, prompts * 2, 3, None)
    with pytest.raises(ValueError, match=r"group 0 has answers to different prompts.*\[prompt for prompt in prompts"):
        grpo_step(learner, optimizer, mixed, rewards, settings)
    together = sample_rollout(policy, policy, [prompt for prompt in prompts for _ in range(2)], 3, None)
    with pytest.raises(ValueError, match="do not make groups of 4"):
        grpo_step(learner, optimizer, together, rewards, GRPOSettings(group_size=4))
    grpo_step(learner, optimizer, together, rewards, settings)
