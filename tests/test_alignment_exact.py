"""The exact optimum: identities for random policies, gradients, best of n, nothing over the frontier."""

import math

import pytest
import torch

from llmkit.alignment.best_of_n import best_of_n_distribution, best_of_n_kl_bound
from llmkit.alignment.exact import (
    answer_index,
    answers,
    frontier,
    kl,
    log_probs,
    most_reward,
    objective,
    optimum,
    policy_gradient_loss,
)
from llmkit.alignment.small_runs import by_exact_gradient
from llmkit.alignment.small_world import reward_table, small_world
from llmkit.training.losses import token_log_probs


@pytest.fixture(scope="module")
def world():
    return small_world(0)


@pytest.fixture
def tables():
    """A reference, a reward without ties and five policies, (2, 30)."""
    g = torch.Generator().manual_seed(3)

    def policy():
        return (2 * torch.randn(2, 30, generator=g, dtype=torch.float64)).log_softmax(-1)

    reference = policy()
    rewards = torch.randn(2, 30, generator=g, dtype=torch.float64)
    return reference, rewards, [policy() for _ in range(5)]


def test_every_answer_once():
    every = answers(3, 4)
    assert every.shape == (81, 4) and len({tuple(row) for row in every.tolist()}) == 81
    assert torch.equal(answer_index(every, 3), torch.arange(81))
    with pytest.raises(ValueError, match="0 … 7, got 0 to 8"):
        answer_index(torch.tensor([[0, 8]]))
    with pytest.raises(ValueError, match="vocab >= 1"):
        answers(0, 2)


def test_log_probs_equal_a_run_of_every_text(world):
    table = log_probs(world.model, world.prompts)
    assert table.shape == (3, 4096)
    assert torch.allclose(table.exp().sum(-1), torch.ones(3, dtype=torch.float64), atol=1e-12)
    for p in range(3):
        texts = torch.cat([world.prompts[p].expand(4096, 2), world.answers], 1)
        slow = token_log_probs(world.model(texts), texts)[:, 1:].sum(-1)
        assert (table[p] - slow).abs().max() < 1e-5
    one = log_probs(world.model, world.prompts, length=1)
    assert torch.allclose(one, world.model(world.prompts)[:, -1].double().log_softmax(-1), atol=1e-6)


def test_rewards_by_hand():
    some = torch.tensor([[2, 3, 4, 5], [5, 4, 3, 2], [1, 1, 1, 1], [0, 2, 1, 2]])
    assert reward_table(torch.tensor([[0, 1], [4, 4]]), some).tolist() == [[3.5, 2, 1.5, 1.5], [3, 1.5, 2, 2.5]]


def test_the_gap_to_the_optimum_is_beta_kl(tables, world):
    reference, rewards, policies = tables
    for beta in (0.1, 0.5, 2.0):
        best = optimum(reference, rewards, beta)
        assert torch.allclose(objective(best.log_probs, reference, rewards, beta), best.value, atol=1e-10)
        for policy in [reference, *policies]:
            gap = best.value - objective(policy, reference, rewards, beta)
            assert torch.allclose(gap, beta * kl(policy, best.log_probs), atol=1e-9) and (gap > 0).all()
    best = optimum(world.ref_log_probs, world.rewards, world.beta)
    gap = best.value - objective(world.ref_log_probs, world.ref_log_probs, world.rewards, world.beta)
    assert torch.allclose(gap, world.beta * kl(world.ref_log_probs, best.log_probs), atol=1e-9)


def test_kl_where_an_answer_is_impossible():
    p = torch.tensor([1.0, 0.0]).log()
    assert kl(p, torch.tensor([0.25, 0.75]).log()).item() == pytest.approx(math.log(4))
    assert kl(p, p).item() == 0


def test_expected_reinforce_is_the_gradient_of_the_objective(tables):
    """Three ways: autograd of J, the surrogate, and a loop over answers that weighs each one's own gradient."""
    reference, rewards, _ = tables
    theta = torch.randn(2, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    policy = theta.log_softmax(-1)
    (true,) = torch.autograd.grad(-objective(policy, reference, rewards, 0.7).mean(), theta, retain_graph=True)
    (surrogate,) = torch.autograd.grad(policy_gradient_loss(policy, reference, rewards, 0.7), theta, retain_graph=True)
    assert torch.allclose(true, surrogate, atol=1e-12)
    expected = torch.zeros_like(theta)
    for i in range(2):
        for j in range(30):
            (score,) = torch.autograd.grad(policy[i, j], theta, retain_graph=True)
            with torch.no_grad():
                what_it_got = rewards[i, j] - 0.7 * (policy[i, j] - reference[i, j])
                expected -= policy[i, j].exp() * what_it_got * score / 2
    assert torch.allclose(true, expected, atol=1e-12)


def test_exact_policy_gradient_reaches_the_optimum(world):
    best = optimum(world.ref_log_probs, world.rewards, world.beta)
    policy = log_probs(by_exact_gradient(world), world.prompts).detach()
    assert kl(policy, best.log_probs).mean() < 0.02
    value = objective(policy, world.ref_log_probs, world.rewards, world.beta).mean()
    assert 0 <= best.value.mean() - value < 0.03 * best.value.mean()
    assert kl(world.ref_log_probs, best.log_probs).mean() > 0.4  # there was something to learn


def test_best_of_n_by_drawing_all_groups(tables):
    reference, rewards, _ = tables
    p, r = reference[0, :6].softmax(-1), torch.tensor([1.0, 0.0, 1.0, 2.0, 0.0, 1.0]).double()  # with ties
    for n in (1, 2, 3):
        counted = torch.zeros(6, dtype=torch.float64)
        for group in torch.cartesian_prod(*[torch.arange(6)] * n).reshape(-1, n):
            counted[group[r[group].argmax()]] += p[group].prod()
        assert torch.allclose(best_of_n_distribution(p.log()[None], r[None], n).exp()[0], counted, atol=1e-12)


def test_best_of_n_kl_stays_under_its_bound(tables, world):
    assert [round(best_of_n_kl_bound(n), 3) for n in (2, 4, 8, 16)] == [0.193, 0.636, 1.204, 1.835]
    for reference, rewards in (tables[:2], (world.ref_log_probs, world.rewards)):
        for n in (1, 2, 4, 16, 256):
            policy = best_of_n_distribution(reference, rewards, n)
            assert torch.allclose(policy.exp().sum(-1), torch.ones(len(policy), dtype=torch.float64), atol=1e-9)
            assert (kl(policy, reference) <= best_of_n_kl_bound(n) + 1e-9).all()
    # many answers, no ties: the bound is nearly reached
    even = torch.full((1, 5000), 1 / 5000, dtype=torch.float64).log()
    spread = kl(best_of_n_distribution(even, torch.arange(5000.0)[None], 4), even).item()
    assert best_of_n_kl_bound(4) - 1e-3 < spread < best_of_n_kl_bound(4)


def test_best_of_n_of_answers_that_are_hardly_ever_drawn():
    policy = best_of_n_distribution(torch.tensor([[1e-20, 1.0]]).double().log(), torch.tensor([[1.0, 0.0]]), 8)
    assert policy[0, 0].exp().item() == pytest.approx(8e-20, rel=1e-6, abs=0)


def test_best_of_n_of_answers_that_are_never_drawn():
    reference = torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]).double().log()
    policy = best_of_n_distribution(reference, torch.tensor([[0.0, 1.0, 2.0]] * 3), 2)
    assert torch.allclose(policy.exp(), torch.tensor([[0, 0.25, 0.75], [0.25, 0, 0.75], [0.25, 0.75, 0]]).double())


def test_nothing_crosses_the_frontier(tables):
    reference, rewards, policies = tables
    betas = torch.logspace(-1.5, 1.5, 300).tolist()
    line = frontier(reference, rewards, betas)
    assert (line.kl.diff() <= 0).all() and (line.reward.diff() <= 0).all()  # dearer KL: less of both
    bests = [best_of_n_distribution(reference, rewards, n) for n in (2, 4, 16)]
    for policy in [reference, *policies, *bests]:
        ceiling = most_reward(kl(policy, reference).mean().item(), reference, rewards, betas)
        assert (policy.exp() * rewards).sum(-1).mean().item() <= ceiling + 1e-9
    for i in (50, 150, 250):  # and the line itself touches it
        assert most_reward(line.kl[i].item(), reference, rewards, betas) == pytest.approx(line.reward[i].item())


def test_the_world_is_the_same_each_time_and_leaves_torch_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, other = small_world(1, n_steps=2), small_world(1, n_steps=2), small_world(2, n_steps=2)
    assert torch.rand(1) == expected
    assert torch.equal(one.ref_log_probs, two.ref_log_probs) and not torch.equal(one.ref_log_probs, other.ref_log_probs)
    assert not any(p.requires_grad for p in one.model.parameters()) and not one.model.training


def test_the_reference_has_learned_how_walks_go_on(world):
    chance = -math.log(8)
    untrained = small_world(0, n_steps=1)
    likely = torch.tensor([[2, 3, 4, 5]])  # after 0, 1
    assert world.ref_log_probs[0, answer_index(likely)] > 4 * chance + 2
    entropy = [-(w.ref_log_probs.exp() * w.ref_log_probs).sum(-1).mean().item() for w in (world, untrained)]
    assert entropy[0] < entropy[1] - 0.5


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan")])
def test_beta_must_cost_something(tables, beta):
    reference, rewards, _ = tables
    for call in (optimum, lambda *a: objective(reference, *a), lambda *a: policy_gradient_loss(reference, *a)):
        with pytest.raises(ValueError, match="beta"):
            call(reference, rewards, beta)


def test_bad_input_is_named(tables):
    reference, rewards, _ = tables
    with pytest.raises(ValueError, match=r"rewards \(2, 29\)"):
        optimum(reference, rewards[:, :-1], 1.0)
    with pytest.raises(ValueError, match="log_q"):
        kl(reference, reference[:, :-1])
    for call in (lambda n: best_of_n_distribution(reference, rewards, n), best_of_n_kl_bound):
        with pytest.raises(ValueError, match="n >= 1"):
            call(0)
