"""Lesson 18: the best policy, masks, KL estimators, advantages, the clip."""

import math

import torch

from llmkit.alignment.advantages import masked_mean
from llmkit.course.exercise import Case, Exercise


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _mask(lengths: list[int], T: int) -> torch.Tensor:
    return torch.arange(T) < torch.tensor(lengths)[:, None]


# --- 18.1 the best policy by hand ---


def best_share() -> float:
    good, bad = 0.2 * math.exp(1 / 0.5), 0.8
    return good / (good + bad)


# --- 18.2 completion_mask ---


def completion_mask_cases() -> list[Case]:
    def rows(*tokens):
        return torch.tensor(tokens)

    return [
        Case("an answer that ends in the middle", lambda: (rows([5, 1, 7, 8]), 1)),
        Case("an answer that is cut off", lambda: (rows([5, 6, 7, 8]), 1)),
        Case("an answer that ends at once", lambda: (rows([1, 6, 7, 8]), 1)),
        Case("an answer that ends with its last token", lambda: (rows([5, 6, 7, 1]), 1)),
        Case("the end token comes again later", lambda: (rows([5, 1, 1, 7], [5, 1, 7, 1], [2, 3, 4, 1]), 1)),
        Case("the end token is 0", lambda: (rows([5, 0, 0], [0, 0, 0], [1, 1, 0]), 0)),
        Case("eos_id is None: all tokens count", lambda: (rows([5, 1, 0], [0, 0, 0]), None)),
        Case("one row of tokens without batch", lambda: (torch.tensor([5, 1, 7]), 1)),
        Case("no tokens", lambda: (torch.zeros(2, 0, dtype=torch.long), 1)),
        Case("many answers", lambda: (torch.randint(0, 5, (40, 9), generator=torch.Generator().manual_seed(0)), 2)),
    ]


def mask_without_end(completions: torch.Tensor, eos_id: int | None) -> torch.Tensor:
    if completions.dim() != 2 or completions.size(1) == 0:
        raise ValueError(f"completions must be (B, T) with T >= 1, got {tuple(completions.shape)}")
    if eos_id is None:
        return torch.ones_like(completions, dtype=torch.bool)
    is_end = (completions == eos_id).int()
    return is_end.cumsum(1) == 0


def _refuse_completions(completions):
    if completions.dim() != 2 or completions.size(1) == 0:
        raise ValueError("completions must be (B, T) with T >= 1")


def _masked(rule):
    def mask(completions, eos_id):
        _refuse_completions(completions)
        if eos_id is None:
            return torch.ones_like(completions, dtype=torch.bool)
        return rule(completions == eos_id)

    return mask


mask_of_other_tokens = _masked(lambda end: ~end)
mask_up_to_last_end = _masked(lambda end: end.int().flip(1).cumsum(1).flip(1) > 0)
mask_one_too_many = _masked(lambda end: torch.nn.functional.pad(end, (2, 0))[:, :-2].int().cumsum(1) == 0)
mask_inverted = _masked(lambda end: end.int().cumsum(1) - end.int() > 0)


mask_with_every_end = _masked(lambda end: (end.int().cumsum(1) == 0) | end)
mask_rolled = _masked(lambda end: (end.int().cumsum(1) == 0).roll(1, 1))
mask_up_to_second_end = _masked(lambda end: end.int().cumsum(1) <= 1)
mask_by_argmax_only = _masked(lambda end: torch.arange(end.size(1)) <= end.int().argmax(1)[:, None])


def mask_as_integers(completions, eos_id):
    return _masked(lambda end: end.int().cumsum(1) - end.int() == 0)(completions, eos_id).long()


# --- 18.3 kl_estimate ---


def kl_cases() -> list[Case]:
    half, zero = torch.tensor([0.5]), torch.tensor([0.0])
    return [
        Case("k1 of one token", lambda: (half.clone(), zero.clone(), "k1")),
        Case("k2 of one token", lambda: (half.clone(), zero.clone(), "k2")),
        Case("k3 of one token", lambda: (half.clone(), zero.clone(), "k3")),
        *(Case(f"{k} of two answers", lambda k=k: (-_random(2, 5).abs(), -_random(2, 5, seed=1).abs(), k)) for k in ("k1", "k2", "k3")),
        Case("k1 where nothing is said", lambda: (_random(3), _random(3, seed=1))),
        Case("an unknown estimator", lambda: (half.clone(), zero.clone(), "k4")),
    ]  # fmt: skip


def _kl(k1=lambda d: d, k2=lambda d: d**2 / 2, k3=lambda d: torch.exp(-d) - 1 + d):
    def estimate(log_probs, ref_log_probs, kind="k1"):
        rules = {"k1": k1, "k2": k2, "k3": k3}
        if kind not in rules:
            raise ValueError(f"kl estimator {kind!r} is not known")
        return rules[kind](log_probs - ref_log_probs)

    return estimate


kl_turned = _kl(lambda d: -d, lambda d: d**2 / 2, lambda d: torch.exp(d) - 1 - d)
kl_k1_turned = _kl(k1=lambda d: -d)
kl_k3_turned = _kl(k3=lambda d: torch.exp(d) - 1 - d)
kl_k3_sign = _kl(k3=lambda d: torch.exp(d) - 1 + d)
kl_k3_without_one = _kl(k3=lambda d: torch.exp(-d) + d)
kl_k2_not_halved = _kl(k2=lambda d: d**2)
kl_k1_absolute = _kl(k1=lambda d: d.abs())


def kl_meaned(log_probs, ref_log_probs, kind="k1"):
    return _kl()(log_probs, ref_log_probs, kind).mean()


def kl_weighted(log_probs, ref_log_probs, kind="k1"):
    rules = _kl(*(lambda d, rule=rule: log_probs.exp() * rule(d) for rule in (lambda d: d, lambda d: d**2 / 2, lambda d: torch.exp(-d) - 1 + d)))  # fmt: skip
    return rules(log_probs, ref_log_probs, kind)


# --- 18.4 gae ---


def gae_cases() -> list[Case]:
    def three():
        return torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.5, 0.5]]), torch.ones(1, 3, dtype=torch.bool)

    def many(seed=0):
        return _random(3, 6, seed=seed), _random(3, 6, seed=seed + 1), _mask([6, 3, 1], 6)

    return [
        Case("one token", lambda: (torch.tensor([[2.0]]), torch.tensor([[0.5]]), torch.ones(1, 1, dtype=torch.bool))),
        Case("three tokens, lam 1: rewards to come less the value", lambda: (*three(), 1.0, 1.0)),
        Case("three tokens, lam 0: one step", lambda: (*three(), 1.0, 0.0)),
        Case("three tokens, lam 0.5", lambda: (*three(), 1.0, 0.5)),
        Case("three tokens, gamma 0.9 and lam 0.5", lambda: (*three(), 0.9, 0.5)),
        Case("nothing said: gamma 1, lam 0.95", three),
        Case("two answers of full length", lambda: (_random(2, 5), _random(2, 5, seed=1), _mask([5, 5], 5), 0.9, 0.8)),
        Case("answers of several lengths, other numbers after their ends", lambda: (*many(), 0.9, 0.8)),
        Case("values of another shape", lambda: (_random(2, 5), _random(2, 6), _mask([5, 5], 5))),
        Case("a mask of another shape", lambda: (_random(2, 5), _random(2, 5), _mask([5, 5], 6))),
    ]  # fmt: skip


def _gae(rewards, values, mask, gamma=1.0, lam=0.95, *, last=lambda values: 0.0, factor=lambda g, lam: g * lam,
         clean=True, next_from=1, discount=lambda g: g, returns="v", forward=False, tidy=True,
         carry_masked=False):  # fmt: skip
    """gae with one choice made wrongly."""
    if rewards.shape != values.shape or rewards.shape != mask.shape:
        raise ValueError("rewards, values and mask must all be (B, T)")
    real = mask.float()
    r, v = (rewards * real, values * real) if clean else (rewards, values)
    T, out, running = rewards.size(1), [None] * rewards.size(1), 0.0
    for t in range(T) if forward else reversed(range(T)):
        following = v[:, t + next_from] if t + next_from < T else last(v)
        running = r[:, t] + discount(gamma) * following - v[:, t] + factor(gamma, lam) * running
        if carry_masked:
            running = running * real[:, t]
        out[t] = running
    a = torch.stack(out, 1)
    back = {"v": a + v, "a": a, "a + r": a + r, "r": r.flip(1).cumsum(1).flip(1)}[returns]
    return (a * real, back * real) if tidy else (a, back)


def gae_last_value_again(*a):
    return _gae(*a, last=lambda v: v[:, -1])


def gae_without_gamma(*a):
    return _gae(*a, factor=lambda g, lam: lam)


def gae_without_lambda(*a):
    return _gae(*a, factor=lambda g, lam: g)


def gae_next_not_discounted(*a):
    return _gae(*a, discount=lambda g: 1.0)


def gae_from_the_front(*a):
    return _gae(*a, forward=True)


def gae_mask_forgotten(*a):
    return _gae(*a, clean=False, tidy=False)


def gae_masked_at_the_end_only(*a):
    return _gae(*a, clean=False)


def gae_values_not_masked(rewards, values, mask, *a):
    _gae(rewards, values, mask)  # the shapes
    return _gae(rewards * mask, values, mask, *a, clean=False, carry_masked=True)


def gae_only_rewards_masked(rewards, values, mask, *a):
    _gae(rewards, values, mask)  # the shapes
    return _gae(rewards * mask, values, mask, *a, clean=False)


def gae_only_values_masked(rewards, values, mask, *a):
    _gae(rewards, values, mask)  # the shapes
    return _gae(rewards, values * mask, mask, *a, clean=False)


def gae_next_values_not_masked(rewards, values, mask, *a):
    """A token's own value is set to 0 outside the mask, but not the value after it."""
    _gae(rewards, values, mask)  # the shapes
    gamma = a[0] if a else 1.0
    after = torch.nn.functional.pad((values * ~mask)[:, 1:], (0, 1))  # what should have been 0
    advantages, _ = _gae(rewards * mask + gamma * after, values * mask, mask, *a, clean=False)
    return advantages, (advantages + values) * mask


def gae_returns_not_masked(rewards, values, mask, *a):
    advantages, _ = _gae(rewards, values, mask, *a)
    return advantages, advantages + values


def gae_without_recursion(*a):
    return _gae(*a, factor=lambda g, lam: 0.0)


def gae_returns_are_rewards_to_come(rewards, values, mask, gamma=1.0, lam=0.95):
    advantages, _ = _gae(rewards, values, mask, gamma, lam)
    return advantages, _gae(rewards, values * 0, mask, gamma, 1.0)[0]


def gae_returns_are_advantages(*a):
    return _gae(*a, returns="a")


def gae_returns_from_rewards(*a):
    return _gae(*a, returns="a + r")


def gae_gamma_ignored(rewards, values, mask, gamma=1.0, lam=0.95):
    return _gae(rewards, values, mask, 1.0, lam)


def gae_own_value_as_next(*a):
    return _gae(*a, next_from=0)


# --- 18.5 when the gradient is nothing ---


def slopes() -> list[float]:
    return [0.0, -0.5, 1.5, 0.0]


# --- 18.6 policy_loss ---


def policy_cases() -> list[Case]:
    def one(moved, advantage):
        return lambda: (
            torch.tensor([[moved]]),
            torch.zeros(1, 1),
            torch.tensor([[advantage]]),
            torch.ones(1, 1, dtype=torch.bool),
        )

    def many(seed=0):
        return (
            -_random(3, 5, seed=seed).abs(),
            -_random(3, 5, seed=seed + 1).abs(),
            _random(3, 5, seed=seed + 2),
            _mask([5, 3, 1], 5),
        )

    return [
        Case("nothing has moved, a good token", one(0.0, 2.0)),
        Case("a good token, already more likely by half", one(math.log(1.5), 2.0)),
        Case("a good token that became less likely", one(math.log(0.5), 2.0)),
        Case("a bad token that became more likely", one(math.log(1.5), -2.0)),
        Case("a bad token, already half as likely", one(math.log(0.5), -2.0)),
        Case("inside the clip", one(0.1, 1.0)),
        Case("answers of several lengths", many),
        Case("a wider clip", lambda: (*many(3), 0.5)),
        Case("no token counts", lambda: (torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool))),
    ]  # fmt: skip


def _policy(new, old, advantages, mask, clip=0.2, *, pick=torch.maximum, sign=-1.0, log=lambda d: d.exp(),
            mean=masked_mean, turned=False):  # fmt: skip
    """policy_loss with one choice made wrongly."""
    ratio = log(old - new if turned else new - old)
    plain, clipped = sign * advantages * ratio, sign * advantages * ratio.clamp(1 - clip, 1 + clip)
    return mean(pick(plain, clipped), mask)


def policy_minimum(*a):
    return _policy(*a, pick=torch.minimum)


def policy_always_clipped(*a):
    return _policy(*a, pick=lambda plain, clipped: clipped)


def policy_never_clipped(*a):
    return _policy(*a, pick=lambda plain, clipped: plain)


def policy_wrong_sign(*a):
    return _policy(*a, sign=1.0, pick=torch.minimum)


def policy_larger_gain(*a):
    return _policy(*a, sign=1.0)


def policy_ratio_turned(*a):
    return _policy(*a, turned=True)


def policy_log_ratio(*a):
    return _policy(*a, log=lambda d: d)


def policy_plain_mean(*a):
    masked_mean(a[0], a[3])
    return _policy(*a, mean=lambda x, mask: (x * mask).mean())


def policy_without_mask(*a):
    masked_mean(a[0], a[3])
    return _policy(*a, mean=lambda x, mask: x.mean())


def policy_sum(*a):
    masked_mean(a[0], a[3])
    return _policy(*a, mean=lambda x, mask: (x * mask).sum())


def policy_mean_by_answer(*a):
    masked_mean(a[0], a[3])
    return _policy(*a, mean=lambda x, mask: ((x * mask).sum(1) / mask.sum(1)).mean())


def policy_clip_fixed(new, old, advantages, mask, clip=0.2):
    return _policy(new, old, advantages, mask)


def policy_logs_divided(new, old, advantages, mask, clip=0.2):
    ratio = new / old
    return masked_mean(torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)), mask)


def policy_cut_from_the_graph(new, old, advantages, mask, clip=0.2):
    return _policy(new.detach(), old, advantages, mask, clip)


EXERCISES = [
    Exercise(
        number="18.1",
        name="best_share",
        reference=best_share,
        tolerance=2e-3,
        hints=(
            "The weight of an answer is its probability under the reference times exp(reward / beta).",
            "exp(1 / 0.5) is 7.389, and the answer without reward keeps its weight of 0.8.",
            "Divide the good answer's weight by the sum of both.",
        ),
        wrong={
            "that is its weight before it is divided by the sum of the weights": lambda: 0.2 * math.exp(2),
            "a probability between 0 and 1 is asked for, not percent": lambda: 100 * best_share(),
            "that is Z, the sum of both weights; the second one's share of it is asked for": lambda: 0.2 * math.exp(2) + 0.8,
            "the reward is divided by beta, not multiplied by it": lambda: 0.2 * math.exp(0.5) / (0.2 * math.exp(0.5) + 0.8),
            "beta was left out: the reward is divided by it first": lambda: 0.2 * math.e / (0.2 * math.e + 0.8),
            "the reference was left out: its probabilities stand in front of the exponentials": lambda: math.exp(2) / (math.exp(2) + 1),
            "that is the other answer's share": lambda: 1 - best_share(),
            "that would be best without the KL; with it the policy stays nearer to the reference": lambda: 1.0,
        },
    ),
    Exercise(
        number="18.2",
        name="completion_mask",
        reference="llmkit.alignment.rollout:completion_mask",
        cases=completion_mask_cases,
        starts_from=mask_without_end,
        hints=(
            "Which token was chosen by the policy and is missing from the mask? It is the one that a policy must learn to write.",
            "cumsum counts the ends up to *and with* each place. How many ends stand before a place?",
        ),
        wrong={
            "the end token itself is left out: the policy chose it, so it must be able to learn it": mask_without_end,
            "only end tokens are hidden; what stands after the first one is no part of the answer": mask_of_other_tokens,
            "the answer ends at the first end token, not at the last": mask_up_to_last_end,
            "one token too many: the first one after the end counts too": mask_one_too_many,
            "an end token after the first one is no part of the answer": mask_with_every_end,
            "all up to the second end token counts; a place belongs to the answer if no end token stands *before* it": mask_up_to_second_end,
            "moved by one place, but the last place came round to the front; the first token always counts": mask_rolled,
            "an answer that never ends counts as a whole": mask_by_argmax_only,
            "True must mean that the token counts": mask_inverted,
            "the mask must be boolean; these are whole numbers": mask_as_integers,
        },
    ),
    Exercise(
        number="18.3",
        name="kl_estimate",
        reference="llmkit.alignment.advantages:kl_estimate",
        cases=kl_cases,
        gradients=True,
        tolerance=1e-5,
        hints=(
            "First the difference d of the two log-probabilities, policy minus reference; all three are made of it.",
            "k3 is the sum of three terms: an exponential of minus d, minus one, plus d.",
            "Nothing is averaged here: one number for each token comes back, and an unknown kind is a ValueError.",
        ),
        wrong={
            "the difference is turned round: policy minus reference": kl_turned,
            "k1 is d itself, policy minus reference: its sign is turned round": kl_k1_turned,
            "in k3 the signs of d are turned round": kl_k3_turned,
            "in k3 the exponential is of minus d": kl_k3_sign,
            "k3 of equal probabilities must be 0: a one is missing": kl_k3_without_one,
            "k2 is *half* the square": kl_k2_not_halved,
            "k1 may be negative: no absolute value": kl_k1_absolute,
            "no factor of probability: a likely token is drawn more often, and so counts more already": kl_weighted,
            "one estimate for each token is wanted, not their mean": kl_meaned,
        },
    ),
    Exercise(
        number="18.4",
        name="gae",
        reference="llmkit.alignment.advantages:gae",
        cases=gae_cases,
        tolerance=1e-5,
        hints=(
            "First make rewards and values 0 outside the mask; then no later step needs the mask, until the very end.",
            "Go from the last token to the first, and carry two things along: the advantage of the token after, and its value.",
            "delta is r_t + gamma * (value of the next state) - (value of this one); after the last token that value is 0.",
            "advantage = delta + gamma * lam * (advantage of the token after). The returns are advantages plus values.",
        ),
        wrong={
            "after the last token nothing comes: its next value is 0, not its own value once more": gae_last_value_again,
            "the advantage after is multiplied by gamma *and* lam; gamma is missing": gae_without_gamma,
            "the advantage after is multiplied by gamma *and* lam; lam is missing": gae_without_lambda,
            "the value of the next state is multiplied by gamma": gae_next_not_discounted,
            "the recursion runs from the last token to the first; it was run from the front": gae_from_the_front,
            "what stands after the end of an answer was counted": gae_mask_forgotten,
            "the mask was applied to the result only: numbers after the end have leaked into the answer": gae_masked_at_the_end_only,
            "the value after the last token must be 0: the values outside the mask were not set to 0": gae_values_not_masked,
            "only the rewards were set to 0 outside the mask: the values after the end have leaked into the answer": gae_only_rewards_masked,
            "only the values were set to 0 outside the mask: the rewards after the end have leaked into the answer": gae_only_values_masked,
            "the value of the next state must be 0 too where that state lies outside the mask": gae_next_values_not_masked,
            "the returns too must be 0 outside the mask": gae_returns_not_masked,
            "those are the deltas alone; each token gets gamma lam times the advantage after it too": gae_without_recursion,
            "those returns are the rewards to come; asked for are advantages plus values, the same only for lam 1": gae_returns_are_rewards_to_come,
            "the returns are advantages plus values": gae_returns_are_advantages,
            "the returns are advantages plus *values*; the rewards were added": gae_returns_from_rewards,
            "gamma was not used: it stands before the next value, and before the advantage after": gae_gamma_ignored,
            "delta needs the value of the *next* state; this state's own was taken": gae_own_value_as_next,
        },
    ),
    Exercise(
        number="18.5",
        name="slopes",
        reference=slopes,
        tolerance=1e-6,
        hints=(
            "Write both branches for each case: -A * ratio, and -A * (the ratio cut to 0.8 … 1.2). Which is larger?",
            "If the cut branch is the larger one, it does not depend on the ratio at all, so its slope is 0.",
            "Otherwise the loss is -A times the ratio, and the slope with respect to log P is that again: d ratio / d log P = ratio.",
        ),
        wrong={
            "the cut was applied on both sides; on the side from which the token has to come back the gradient must flow": lambda: [0.0, 0.0, 0.0, 0.0],
            "the third case was cut: compare its two branches again, the *larger* loss counts": lambda: [0.0, -0.5, 0.0, 0.0],
            "the second case was cut: compare its two branches again, the *larger* loss counts": lambda: [0.0, 0.0, 1.5, 0.0],
            "nothing was cut: where the token has gone far enough in the good direction, no gradient is left": lambda: [-1.5, -0.5, 1.5, 0.5],
            "the wrong cases are cut: a good token that is *more* likely already needs no further push": lambda: [-1.5, 0.0, 0.0, 0.5],
            "that is the slope of the objective; the loss has the other sign": lambda: [0.0, 0.5, -1.5, 0.0],
            "those are slopes in the ratio; asked is the slope in log P, and d ratio / d log P = ratio": lambda: [0.0, -1.0, 1.0, 0.0],
            "a cut ratio gives no slope at all, not the slope at the edge": lambda: [-1.2, -0.5, 1.5, 0.8],
        },
    ),
    Exercise(
        number="18.6",
        name="policy_loss",
        reference="llmkit.alignment.ppo:policy_loss",
        cases=policy_cases,
        gradients=True,
        tolerance=1e-5,
        hints=(
            "ratio = (log_probs - old_log_probs).exp(); plain is -advantages * ratio, and clipped the same with ratio.clamp(…).",
            "Of the two losses the larger one counts, token by token (torch.maximum); then masked_mean.",
            "torch.minimum of the two *gains* A * ratio, with a minus in front of its mean, is the same.",
        ),
        wrong={
            "of the two *losses* the larger one counts; the smaller would let a bad step go on": policy_minimum,
            "the cut loss was taken everywhere: a token that went the wrong way gets no gradient to come back": policy_always_clipped,
            "nothing is cut": policy_never_clipped,
            "a loss is made smaller: good tokens need a minus": policy_wrong_sign,
            "a loss is made smaller, so good tokens need a minus; and of the two *gains* the smaller one counts": policy_larger_gain,
            "the ratio is turned round: new over old": policy_ratio_turned,
            "that is the logarithm of the ratio; take its exponential": policy_log_ratio,
            "the mean is over all places; only those in the mask count": policy_plain_mean,
            "the mask was not used": policy_without_mask,
            "that is the sum over the mask; the mean is asked for": policy_sum,
            "each answer was averaged by itself; the mean is over all tokens of the mask at once": policy_mean_by_answer,
            "the clip is an argument; 0.2 is only what holds where nothing is said": policy_clip_fixed,
            "the ratio is of probabilities: exp of the difference, not one logarithm over the other": policy_logs_divided,
            "the value is right, but no gradient reaches log_probs: do not detach, nor go through .item() or a list": policy_cut_from_the_graph,
        },
    ),
]  # fmt: skip
