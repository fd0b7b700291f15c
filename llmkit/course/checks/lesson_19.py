"""Lesson 19: groups, ratios, the length bias, the clipped loss, a verifier that can be cheated, pass@k."""

import math
import re

import numpy as np
import torch

from llmkit.alignment.advantages import kl_estimate
from llmkit.alignment.verifiers import final_answer
from llmkit.course.exercise import Case, Exercise


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _mask(lengths: list[int], T: int) -> torch.Tensor:
    return torch.arange(T) < torch.tensor(lengths)[:, None]


# --- 19.1 the rare win by hand ---


def rare_win() -> list[float]:
    deviation = math.sqrt(1 / 16 * 15 / 16)
    return [(1 - 1 / 16) / deviation, -1 / 16 / deviation]


def rare_win_sample() -> list[float]:
    deviation = math.sqrt(1 / 16 * 15 / 16 * 16 / 15)
    return [(1 - 1 / 16) / deviation, -1 / 16 / deviation]


# --- 19.2 group_advantages ---


def group_cases() -> list[Case]:
    return [
        Case("two answers, one right", lambda: (torch.tensor([1.0, 0.0]), 2)),
        Case("four answers, one right", lambda: (torch.tensor([1.0, 0.0, 0.0, 0.0]), 4)),
        Case("the same, population deviation", lambda: (torch.tensor([1.0, 0.0, 0.0, 0.0]), 4, "population")),
        Case("the same, not divided", lambda: (torch.tensor([1.0, 0.0, 0.0, 0.0]), 4, "none")),
        Case("two groups of three", lambda: (torch.tensor([1.0, 0.0, 0.0, 5.0, 5.0, 9.0]), 3, "none")),
        Case("two groups of three, divided", lambda: (torch.tensor([1.0, 0.0, 0.0, 5.0, 5.0, 9.0]), 3)),
        Case("a group of equal rewards", lambda: (torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 0.0]), 3)),
        Case("rewards that hardly differ: eps counts", lambda: (torch.tensor([1e-4, 0.0, 0.0, 2e-4]), 4)),
        Case("an eps of your own", lambda: (torch.tensor([1.0, 0.0, 0.0, 0.0]), 4, "sample", 0.5)),
        Case("whole numbers", lambda: (torch.tensor([1, 0, 0, 1, 0, 0]), 3)),
        Case("a group of one", lambda: (torch.tensor([1.0, 0.0]), 1)),
        Case("rewards that make no whole groups", lambda: (torch.tensor([1.0, 0.0, 1.0]), 2)),
        Case("a table of rewards", lambda: (torch.ones(2, 2), 2)),
        Case("no rewards", lambda: (torch.ones(0), 2)),
        Case("an unknown deviation", lambda: (torch.tensor([1.0, 0.0]), 2, "batch")),
        Case("many", lambda: (_random(24), 6)),
    ]


def _group(rewards, group_size, std="sample", eps=1e-4, *, rows=True, centre=True, whole=False, inside=False,
           correction=None, add=True, square=False, keep=False, mean_of=None, std_of=None, least=0):  # fmt: skip
    """group_advantages with one choice made wrongly."""
    if group_size < 2 or rewards.dim() != 1 or rewards.numel() == 0 or rewards.numel() % group_size:
        raise ValueError("no groups")
    if std not in ("sample", "population", "none"):
        raise ValueError("std")
    r = rewards.float()
    r = r.view(-1, group_size) if rows else r.view(group_size, -1).T
    if whole:
        r = r.reshape(1, -1)
    centred = r - (r.mean(1, keepdim=True) if mean_of is None else mean_of(r)) if centre else r
    if std != "none":
        n_less = int(std == "sample") if correction is None else correction
        d = r.std(1, correction=n_less, keepdim=True) if std_of is None else std_of(r, n_less)
        d = d.square() if square else d
        centred = centred / ((d.square() + eps).sqrt() if inside else d + eps if add else d.clamp(min=least * eps))
    if keep:
        return centred
    return centred.flatten() if rows else centred.T.flatten()


def group_over_the_batch(*a):
    return _group(*a, whole=True)


def group_mean_of_the_batch(*a):
    return _group(*a, mean_of=lambda r: r.mean())


def group_deviation_of_the_batch(*a):
    return _group(*a, std_of=lambda r, n_less: r.std(correction=n_less))


def group_interleaved(*a):
    return _group(*a, rows=False)


def group_not_centred(*a):
    return _group(*a, centre=False)


def group_always_population(*a):
    return _group(*a, correction=0)


def group_always_sample(*a):
    return _group(*a, correction=1)


def group_without_eps(*a):
    return _group(*a, add=False)


def group_eps_clamped(*a):
    return _group(*a, add=False, least=1)


def group_eps_inside(*a):
    return _group(*a, inside=True)


def group_variance(*a):
    return _group(*a, square=True)


def group_as_table(*a):
    return _group(*a, keep=True)


def group_always_divided(rewards, group_size, std="sample", eps=1e-4):
    _group(rewards, group_size, std)
    return _group(rewards, group_size, "sample" if std == "none" else std, eps)


def group_never_divided(rewards, group_size, std="sample", eps=1e-4):
    _group(rewards, group_size, std)
    return _group(rewards, group_size, "none")


# --- 19.3 importance_log_ratio ---


def ratio_cases() -> list[Case]:
    def one(*rest):
        return lambda: (
            torch.tensor([[-1.0, -2.0, -0.5]]),
            torch.tensor([[-1.5, -1.0, -0.5]]),
            torch.ones(1, 3, dtype=torch.bool),
            *rest,
        )

    def many(*rest):
        return lambda: (_random(4, 5), _random(4, 5, seed=1), _mask([5, 3, 1, 4], 5), *rest)

    return [
        Case("one answer, by tokens", one("token")),
        Case("nothing said: by tokens", one()),
        Case("one answer, as a whole", one("sequence")),
        Case("answers of several lengths, by tokens", many("token")),
        Case("answers of several lengths, as wholes", many("sequence")),
        Case("an answer without tokens", lambda: (_random(2, 3), _random(2, 3, seed=1), _mask([3, 0], 3), "sequence")),
        Case("an unknown level", one("word")),
    ]


def _ratio(new, old, mask, level="token", *, turned=False, clean=True, mean=None, exp=False, keep=True):
    """importance_log_ratio with one choice made wrongly."""
    if level not in ("token", "sequence"):
        raise ValueError("level")
    d = old - new if turned else new - old
    d = d.masked_fill(~mask, 0.0) if clean else d
    if level == "sequence":
        d = (mean or (lambda d, m: d.sum(1, keepdim=True) / m.sum(1, keepdim=True).clamp(min=1)))(d, mask)
        d = d if keep else d.squeeze(1)
    return d.exp() if exp else d


def ratio_turned(*a):
    return _ratio(*a, turned=True)


def ratio_exponential(*a):
    return _ratio(*a, exp=True)


def ratio_exponential_masked(new, old, mask, level="token"):
    ratio = _ratio(new, old, mask, level, exp=True)
    return ratio * mask if level == "token" else ratio


def ratio_mean_of_ratios(new, old, mask, level="token"):
    _ratio(new, old, mask, level)
    ratio = (new - old).exp() * mask
    return ratio if level == "token" else ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)


def ratio_detached(*a):
    return _ratio(*a).detach()


def ratio_not_masked(*a):
    return _ratio(*a, clean=False)


def ratio_summed(*a):
    return _ratio(*a, mean=lambda d, m: d.sum(1, keepdim=True))


def ratio_over_all_places(*a):
    return _ratio(*a, mean=lambda d, m: d.mean(1, keepdim=True))


def ratio_without_axis(*a):
    return _ratio(*a, keep=False)


def ratio_over_nothing(*a):
    return _ratio(*a, mean=lambda d, m: d.sum(1, keepdim=True) / m.sum(1, keepdim=True))


def ratio_over_nothing_by_product(new, old, mask, level="token"):
    _ratio(new, old, mask, level)
    d = (new - old) * mask
    return d if level == "token" else d.sum(1, keepdim=True) / mask.sum(1, keepdim=True)


def ratio_one_for_all(*a):
    return _ratio(*a, mean=lambda d, m: (d.sum() / m.sum()).expand(len(d), 1))


def ratio_repeated(*a):
    return _ratio(*a, mean=lambda d, m: (d.sum(1, keepdim=True) / m.sum(1, keepdim=True).clamp(min=1)).expand(d.shape))


# --- 19.4 the length bias by hand ---


def blame() -> list[float]:
    return [5.0, 1.0, 1.0, 1.0]


# --- 19.5 token_losses ---


def losses_cases() -> list[Case]:
    def one(moved, advantage, *rest):
        return lambda: (
            torch.tensor([[moved]]), torch.zeros(1, 1), torch.tensor([advantage]), torch.ones(1, 1, dtype=torch.bool),
            *rest,
        )  # fmt: skip

    def many(*rest, seed=0):
        return lambda: (
            -_random(3, 4, seed=seed).abs(), -_random(3, 4, seed=seed + 1).abs(), torch.tensor([1.5, -0.5, 0.3]),
            _mask([4, 2, 1], 4), *rest,
        )  # fmt: skip

    def with_kl(*rest):
        return lambda: (*many(0.2, 0.28, "token")(), -_random(3, 4, seed=7).abs(), *rest)

    return [
        Case("nothing has moved, a good answer", one(0.0, 2.0)),
        Case("a good token, 1.5 times as likely: cut", one(math.log(1.5), 2.0)),
        Case("a good token, 1.25 times as likely, clip_high 0.28: not cut", one(math.log(1.25), 2.0, 0.2, 0.28)),
        Case("a bad token, 0.75 times as likely, clip_high 0.28: cut below", one(math.log(0.75), -2.0, 0.2, 0.28)),
        Case("a bad token that became more likely", one(math.log(1.5), -2.0)),
        Case("a good token that became less likely", one(math.log(0.5), 2.0)),
        Case("answers of several lengths", many()),
        Case("other clips", many(0.1, 0.5, seed=3)),
        Case("one ratio for each answer", many(0.2, 0.28, "sequence")),
        Case("with k3", with_kl(0.1)),
        Case("with k3 times the ratio", with_kl(0.1, True)),
        Case("one ratio for each answer, with k3 times it", lambda: (
            *many(0.2, 0.28, "sequence")(), -_random(3, 4, seed=7).abs(), 0.1, True,
        )),
        Case("a beta of 0 adds nothing", with_kl(0.0)),
        Case("a beta without a reference", many(0.2, 0.2, "token", None, 0.1)),
        Case("a beta below 0", with_kl(-0.1)),
    ]  # fmt: skip


def _losses(new, old, A, mask, low=0.2, high=0.2, level="token", ref=None, beta=0.0, correct=False, *,
            pick=torch.minimum, sign=-1.0, per_token=False, clean=True, kl="k3", kl_from=None, swap=False,
            clip=True, kl_sign=1.0, estimate=kl_estimate, of_kl=lambda new, old, ratio: ratio,
            carry=lambda ratio: ratio):  # fmt: skip
    """token_losses with one choice made wrongly."""
    if beta < 0 or (beta > 0 and ref is None):
        raise ValueError("beta")
    log_ratio = (new - old).masked_fill(~mask, 0.0)
    if level == "sequence":
        log_ratio = log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    ratio, low, high = carry(log_ratio.exp()), *((high, low) if swap else (low, high))
    gain = A[:, None] / (mask.sum(1, keepdim=True) if per_token else 1)
    cut = ratio.clamp(1 - low, 1 + high) if clip else ratio
    losses = (sign * pick(ratio * gain, cut * gain)).expand(mask.shape)
    if beta > 0:
        price = estimate(new, old if kl_from == "old" else ref, kl)
        losses = losses + kl_sign * beta * (price * of_kl(new, old, ratio) if correct else price)
    return losses.masked_fill(~mask, 0.0) if clean else losses


def losses_one_clip(new, old, A, mask, low=0.2, high=0.2, *rest):
    return _losses(new, old, A, mask, low, low, *rest)


def losses_clips_swapped(*a):
    return _losses(*a, swap=True)


def losses_larger_gain(*a):
    return _losses(*a, pick=torch.maximum)


def losses_always_cut(*a):
    return _losses(*a, pick=lambda plain, cut: cut)


def losses_never_cut(*a):
    return _losses(*a, clip=False)


def losses_wrong_sign(*a):
    return _losses(*a, sign=1.0)


def losses_not_masked(*a):
    return _losses(*a, clean=False)


def losses_shared_out(*a):
    return _losses(*a, per_token=True)


def losses_k1(*a):
    return _losses(*a, kl="k1")


def losses_kl_to_old(*a):
    return _losses(*a, kl_from="old")


def losses_kl_paid(*a):
    return _losses(*a, kl_sign=-1.0)


def losses_kl_turned(*a):
    return _losses(*a, estimate=lambda new, ref, kind: kl_estimate(ref, new, kind))


def losses_kl_detached(*a):
    return _losses(*a, estimate=lambda *b: kl_estimate(*b).detach())


def losses_kl_ratio_detached(*a):
    return _losses(*a, of_kl=lambda new, old, ratio: ratio.detach())


def losses_kl_token_ratio(*a):
    return _losses(*a, of_kl=lambda new, old, ratio: (new - old).exp())


def losses_detached(*a):
    return _losses(*a, carry=torch.Tensor.detach)


def losses_kl_after_mask(new, old, A, mask, low=0.2, high=0.2, level="token", ref=None, beta=0.0, correct=False):
    whole = _losses(new, old, A, mask, low, high, level, ref, beta, correct, clean=False)
    plain = _losses(new, old, A, mask, low, high, level, clean=False)
    return plain.masked_fill(~mask, 0.0) + (whole - plain)


def losses_without_kl(new, old, A, mask, low=0.2, high=0.2, level="token", ref=None, beta=0.0, correct=False):
    _losses(new, old, A, mask, low, high, level, ref, beta)
    return _losses(new, old, A, mask, low, high, level)


def losses_never_corrected(new, old, A, mask, low=0.2, high=0.2, level="token", ref=None, beta=0.0, correct=False):
    return _losses(new, old, A, mask, low, high, level, ref, beta)


def losses_always_corrected(new, old, A, mask, low=0.2, high=0.2, level="token", ref=None, beta=0.0, correct=False):
    return _losses(new, old, A, mask, low, high, level, ref, beta, True)


def losses_kl_cut_ratio(new, old, A, mask, low=0.2, high=0.2, *rest):
    return _losses(new, old, A, mask, low, high, *rest, of_kl=lambda new, old, ratio: ratio.clamp(1 - low, 1 + high))


def losses_token_ratio_only(new, old, A, mask, low=0.2, high=0.2, level="token", *rest):
    return _losses(new, old, A, mask, low, high, "token", *rest)


def losses_averaged(*a):
    return _losses(*a).sum() / a[3].sum()


# --- 19.6 exact_answer ---


def part_of_answer(completion: str, answer: str) -> float:
    return float(final_answer(completion) in answer)


def answer_cases() -> list[Case]:
    return [
        Case("right", lambda: ("132", "132")),
        Case("right, with work", lambda: ("7+5+0=12,4+8+1=13;132", "132")),
        Case("wrong", lambda: ("131", "132")),
        Case("one digit of it", lambda: ("7+5+0=12,4+8+1=13;1", "132")),
        Case("its end", lambda: ("32", "132")),
        Case("nothing at all", lambda: ("", "132")),
        Case("work, and then nothing", lambda: ("7+5+0=12;", "132")),
        Case("more than it", lambda: ("1321", "132")),
        Case("in the work alone", lambda: ("132;7", "132")),
        Case("two semicolons: the last one counts", lambda: ("1;2;132", "132")),
        Case("right first, then changed", lambda: ("132;131", "132")),
        Case("a zero in front", lambda: ("0132", "132")),
        Case("several numbers", lambda: ("131,132,133", "132")),
        Case("a sum instead of a number", lambda: ("47+85", "132")),
        Case("0", lambda: ("0", "0")),
        Case("other digits of the same number", lambda: ("１３２", "132")),
        Case("a plus in front", lambda: ("+132", "132")),
        Case("a blank behind", lambda: ("132 ", "132")),
        Case("a line break behind", lambda: ("132\n", "132")),
        Case("its digits in another order", lambda: ("213", "132")),
    ]


def answer_contained(completion, answer):
    return float(answer in completion)


def answer_ends_with(completion, answer):
    return float(completion.endswith(answer))


def answer_starts_with(completion, answer):
    return float(bool(final_answer(completion)) and answer.startswith(final_answer(completion)))


def answer_part_but_not_empty(completion, answer):
    return float(bool(final_answer(completion)) and final_answer(completion) in answer)


def answer_contained_at_the_end(completion, answer):
    return float(answer in final_answer(completion))


def answer_without_work(completion, answer):
    return float(completion == answer)


def answer_by_number(completion, answer):
    try:
        return float(int(final_answer(completion)) == int(answer))
    except ValueError:
        return 0.0


def answer_digits_by_number(completion, answer):
    final = final_answer(completion)
    return float(final.isdigit() and int(final) == int(answer))


def answer_after_first_semicolon(completion, answer):
    return float(completion.split(";", 1)[-1] == answer)


def answer_stripped(completion, answer):
    return float(final_answer(completion).strip("+ ") == answer)


def answer_any_part(completion, answer):
    return float(answer in completion.split(";"))


def answer_last_number(completion, answer):
    return float(re.findall(r"\d+", completion)[-1:] == [answer])


def answer_up_to_the_line_break(completion, answer):
    return float(re.match(re.escape(answer) + "$", final_answer(completion)) is not None)


def answer_sorted(completion, answer):
    return float(sorted(final_answer(completion)) == sorted(answer))


def answer_as_bool(completion, answer):
    return final_answer(completion) == answer


def answer_same_length(completion, answer):
    return float(len(final_answer(completion)) == len(answer))


# --- 19.7 pass_at_k ---


def pass_cases() -> list[Case]:
    return [
        Case("one try of four is right, one is drawn", lambda: (4, 1, 1)),
        Case("one of four, two are drawn", lambda: (4, 1, 2)),
        Case("two of five, three are drawn", lambda: (5, 2, 3)),
        Case("none is right", lambda: (4, 0, 4)),
        Case("fewer wrong ones than are drawn", lambda: (4, 3, 2)),
        Case("as many wrong ones as are drawn", lambda: (4, 2, 2)),
        Case("all are right", lambda: (3, 3, 1)),
        Case("all are drawn", lambda: (6, 1, 6)),
        Case("ten thousand tries: no overflow", lambda: (10_000, 3, 5_000)),
        Case("more drawn than there are", lambda: (5, 2, 6)),
        Case("none drawn", lambda: (5, 2, 0)),
        Case("more right than tries", lambda: (5, 7, 2)),
        Case("fewer right than none", lambda: (5, -1, 2)),
        *(Case(f"n {n}, c {c}, k {k}", lambda n=n, c=c, k=k: (n, c, k)) for n, c, k in ((9, 4, 3), (20, 1, 7), (64, 5, 16))),
    ]  # fmt: skip


def _pass(rule):
    def estimate(n, c, k):
        if not 1 <= k <= n or not 0 <= c <= n:
            raise ValueError("n, c, k")
        return rule(n, c, k)

    return estimate


def _hypergeometric(n, c, k):
    return 1.0 if n - c < k else float(1 - np.prod(1 - k / np.arange(n - c + 1, n + 1)))


pass_with_replacement = _pass(lambda n, c, k: 1 - (1 - c / n) ** k)
pass_share_only = _pass(lambda n, c, k: c / n)
pass_times_k = _pass(lambda n, c, k: min(1.0, k * c / n))
pass_all_wrong = _pass(lambda n, c, k: 1 - _hypergeometric(n, c, k))
pass_any = _pass(lambda n, c, k: float(c > 0))
pass_all_right = _pass(lambda n, c, k: math.comb(c, k) / math.comb(n, k))
pass_exactly_one = _pass(lambda n, c, k: c * math.comb(n - c, k - 1) / math.comb(n, k))
pass_without_shortcut = _pass(lambda n, c, k: 0.0 if n - c < k else _hypergeometric(n, c, k))


def pass_range_off_by_one(n, c, k):
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError("n, c, k")
    return 1.0 if n - c < k else 1 - math.prod(1 - k / i for i in range(max(n - c, 1), n))


def pass_overflows(n, c, k):
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError("n, c, k")
    wrong = math.factorial(n - c) / math.factorial(n - c - k) if n - c >= k else 0
    return 1 - wrong / (math.factorial(n) / math.factorial(n - k))


EXERCISES = [
    Exercise(
        number="19.1",
        name="rare_win",
        reference=rare_win,
        tolerance=2e-3,  # two decimals: -0.26 is off by 0.0018, n - 1's -0.25 by 0.0082
        hints=(
            "The mean of the sixteen rewards is 1/16. How far is a 1 from it, and how far is a 0?",
            "The variance of zeros and ones with mean p is p (1 - p), divided by n; its root is the deviation.",
        ),
        wrong={
            "that is with n - 1 under the root; here the population's deviation is meant, with n": rare_win_sample,
            "those are the distances from the mean; they are still to be divided by the deviation": lambda: [15 / 16, -1 / 16],
            "those are the distances from the mean, rounded; they are still to be divided by the deviation": lambda: [0.94, -0.06],
            "that was divided by the variance; the deviation is its root": lambda: [16.0, -16 / 15],
            "the right one comes first, then a wrong one": lambda: rare_win()[::-1],
            "a wrong answer lies below the mean, so its advantage is negative": lambda: [rare_win()[0], -rare_win()[1]],
            "those are the rewards themselves": lambda: [1.0, 0.0],
            "to two decimals, please": lambda: [round(value, 1) for value in rare_win()],
            "that was cut off after two decimals; round it": lambda: [3.87, -0.25],
        },
    ),
    Exercise(
        number="19.2",
        name="group_advantages",
        reference="llmkit.alignment.advantages:group_advantages",
        cases=group_cases,
        tolerance=1e-5,
        hints=(
            "One row for each prompt: rewards.float().unflatten(0, (-1, group_size)); `_groups` does it, with the errors.",
            "Subtract the mean over axis 1, and keep the axis, so that it is subtracted row by row.",
            "torch's std takes correction=1 for n - 1 and correction=0 for n. eps is added to the deviation, outside the root.",
        ),
        wrong={
            "mean and deviation are those of the whole batch; each group has its own": group_over_the_batch,
            "answers to one prompt stand next to each other; every n-th was taken as a group": group_interleaved,
            "the group's mean was not subtracted": group_not_centred,
            "\"sample\" divides by n - 1 under the root; the deviation with n was taken": group_always_population,
            "\"population\" divides by n under the root; the deviation with n - 1 was taken": group_always_sample,
            "the mean is that of the whole batch; each group has its own": group_mean_of_the_batch,
            "the deviation is that of the whole batch; each group has its own": group_deviation_of_the_batch,
            "eps is *added* to the deviation; as a least value it changes only what is smaller": group_eps_clamped,
            "eps is missing: a group of equal rewards divides 0 by 0": group_without_eps,
            "eps is added to the deviation, after the root": group_eps_inside,
            "that was divided by the variance, not by its root": group_variance,
            "the result has the shape of the rewards, (N,), not one row a group": group_as_table,
            "\"none\" does not divide at all": group_always_divided,
            "nothing was divided; only \"none\" asks for that": group_never_divided,
        },
    ),
    Exercise(
        number="19.3",
        name="importance_log_ratio",
        reference="llmkit.alignment.grpo:importance_log_ratio",
        cases=ratio_cases,
        gradients=True,
        tolerance=1e-5,
        hints=(
            "First log_probs - old_log_probs, with 0 where the mask is false; that is the answer for \"token\".",
            "For \"sequence\": its sum over axis 1, divided by the number of tokens that count, and the axis is kept.",
            "An answer without tokens would divide by 0: count at least 1.",
        ),
        wrong={
            "turned round: new minus old": ratio_turned,
            "the *logarithm* of the ratio is asked for; no exponential yet": ratio_exponential,
            "those are the ratios, 0 outside the mask; their *logarithm* is asked for": ratio_exponential_masked,
            "the ratios were taken, and for \"sequence\" their mean; the *logarithms* are asked for": ratio_mean_of_ratios,
            "no gradient flows: the log-probabilities were detached, or used under no_grad": ratio_detached,
            "what stands after the end of an answer was counted": ratio_not_masked,
            "for \"sequence\" the *mean* of the answer's tokens is meant; the sum grows with length": ratio_summed,
            "the mean is over the answer's own tokens, not over all places of its row": ratio_over_all_places,
            "for \"sequence\" the shape is (B, 1)": ratio_without_axis,
            "an answer without tokens gave NaN; its ratio is 1, so its logarithm 0": ratio_over_nothing,
            "an answer without tokens divides 0 by 0; count at least one token": ratio_over_nothing_by_product,
            "one ratio for each answer, not one for the whole batch": ratio_one_for_all,
            "for \"sequence\" the shape is (B, 1): one number an answer, not repeated for each token": ratio_repeated,
        },
    ),
    Exercise(
        number="19.4",
        name="blame",
        reference=blame,
        tolerance=1e-6,
        hints=(
            "Write the weight with which one token of the short answer enters the loss, then one of the long answer.",
            "grpo: 1/4 · 1/2 against 1/20 · 1/2. In the others every token has the same number under it.",
        ),
        wrong={
            "turned round: the token of the *short* answer over that of the long one": lambda: [0.2, 1.0, 1.0, 1.0],
            "bnpo takes the mean over all tokens of the batch at once, so every token weighs the same": lambda: [5.0, 5.0, 1.0, 1.0],
            "grpo divides by the answer's own length first: a token of a short answer weighs more": lambda: [1.0, 1.0, 1.0, 1.0],
            "dr_grpo divides every answer by the same constant": lambda: [5.0, 1.0, 5.0, 1.0],
            "dapo divides by the tokens of the whole batch, the same for every token": lambda: [5.0, 1.0, 1.0, 5.0],
            "only one of the four divides by the answer's own length": lambda: [5.0, 5.0, 5.0, 5.0],
            "both answers are pushed down: how many *times* as strongly is a number above 0": lambda: [-b for b in blame()],
            "that is the order turned round: grpo, bnpo, dr_grpo, dapo": lambda: blame()[::-1],
            "four numbers are asked for, one for each reduction": lambda: blame()[:3],
            "a list of four numbers is asked for, grpo's first": lambda: blame()[0],
        },
    ),
    Exercise(
        number="19.5",
        name="token_losses",
        reference="llmkit.alignment.grpo:token_losses",
        cases=losses_cases,
        gradients=True,
        tolerance=1e-5,
        hints=(
            "ratio = importance_log_ratio(…, level).exp(); A = advantages[:, None], one for each answer.",
            "The smaller of the two gains, ratio * A and ratio.clamp(1 - clip_low, 1 + clip_high) * A, with a minus.",
            "A \"sequence\" ratio has shape (B, 1): .expand(mask.shape) gives every token its answer's loss.",
            "Where beta is above 0: add beta * kl_estimate(log_probs, ref_log_probs, \"k3\"), times the ratio with correct_kl. Last, 0 outside the mask.",
        ),
        wrong={
            "there are two clips: below 1 clip_low counts, above it clip_high": losses_one_clip,
            "the two clips are swapped: 1 - clip_low … 1 + clip_high": losses_clips_swapped,
            "of the two *gains* the smaller one counts": losses_larger_gain,
            "the cut ratio was taken everywhere: a token that went the wrong way gets no gradient to come back": losses_always_cut,
            "nothing is cut": losses_never_cut,
            "a loss is made smaller: the gain needs a minus": losses_wrong_sign,
            "outside the mask the losses must be 0": losses_not_masked,
            "the advantage is not shared out among the tokens; every token gets the whole. Dividing comes later, in the reduction": losses_shared_out,
            "that is k1; in the loss it gives no gradient on average. k3 is asked for": losses_k1,
            "the KL is to the reference, not to the policy that drew the answers": losses_kl_to_old,
            "the KL is a price: it is added to the loss": losses_kl_paid,
            "the KL is from the policy to the reference: kl_estimate takes the policy's log-probabilities first": losses_kl_turned,
            "the KL was added after the mask, so it stands outside the answers too: mask last": losses_kl_after_mask,
            "k3 was detached: it is to pull the policy, so its gradient counts": losses_kl_detached,
            "the ratio that multiplies k3 was detached: its gradient counts too": losses_kl_ratio_detached,
            "k3 is multiplied by the ratio only where correct_kl asks for it": losses_always_corrected,
            "with correct_kl k3 is multiplied by the ratio as it is, not by the one that was cut": losses_kl_cut_ratio,
            "k3 was multiplied by each token's ratio; with \"sequence\" it is the answer's": losses_kl_token_ratio,
            "the ratio was detached, so no gradient reaches the policy": losses_detached,
            "beta was not used": losses_without_kl,
            "correct_kl was not used: it multiplies k3 by the ratio": losses_never_corrected,
            "level was not used: for \"sequence\" all tokens of an answer share one ratio": losses_token_ratio_only,
            "one loss for each token is wanted, (B, T), not their mean": losses_averaged,
        },
    ),
    Exercise(
        number="19.6",
        name="exact_answer",
        reference="llmkit.alignment.verifiers:exact_answer",
        cases=answer_cases,
        starts_from=part_of_answer,
        hints=(
            "What does \"\" in \"132\" give in Python? And \"1\" in \"132\"?",
            "Only one comparison of two strings is as strict as the docstring; try to think of a text that it pays and should not.",
        ),
        wrong={
            "a part of the right answer is paid: \"1\", and even nothing at all": part_of_answer,
            "now nothing is no longer paid, but one digit of the right answer still is": answer_part_but_not_empty,
            "the beginning of the right answer is paid": answer_starts_with,
            "a right answer anywhere in the text is paid: a list of all numbers wins": answer_contained,
            "the final part need only contain the answer: \"131,132,133\" is paid": answer_contained_at_the_end,
            "a text that only *ends* with the answer is paid, as 0132 is": answer_ends_with,
            "work before the semicolon is allowed; final_answer takes it off": answer_without_work,
            "as numbers they are equal, but character for character they are not: 0132": answer_by_number,
            "what counts stands after the *last* semicolon": answer_after_first_semicolon,
            "nothing may be taken off the answer: character for character": answer_stripped,
            "a blank or a line break was taken off the answer; character for character means that these count": (
                lambda completion, answer: float(final_answer(completion).strip() == answer)
            ),
            "blanks were taken off the answer; character for character means that these count": (
                lambda completion, answer: float(final_answer(completion).strip(" ") == answer)
            ),
            "zeros were taken off its front: 0132 is another text than 132": (
                lambda completion, answer: float(final_answer(completion).lstrip("0") == answer.lstrip("0"))
            ),
            "digits were compared as numbers: 0132 is another text than 132": answer_digits_by_number,
            "every part between semicolons was tried; only the last one counts": answer_any_part,
            "the last *number* was looked for; the whole of what stands after the last semicolon counts": answer_last_number,
            "in a pattern $ also stands before a line break at the end, which is paid": answer_up_to_the_line_break,
            "the right digits are paid in any order: 213": answer_sorted,
            "the reward is a number, 1.0 or 0.0, not True or False": answer_as_bool,
            "the length alone was compared": answer_same_length,
        },
    ),
    Exercise(
        number="19.7",
        name="pass_at_k",
        reference="llmkit.evaluation.pass_at_k:pass_at_k",
        cases=pass_cases,
        tolerance=1e-6,
        hints=(
            "The opposite is easier: how probable is it that all k drawn ones are wrong?",
            "C(n - c, k) / C(n, k). It is the product of (1 - k / i) for i from n - c + 1 to n; math.comb works too, since Python's whole numbers do not overflow.",
            "With fewer than k wrong ones a right one must be among them: 1.0. Errors first: 1 <= k <= n and 0 <= c <= n.",
        ),
        wrong={
            "that draws with putting back, and is too low on average; here the k tries are different ones": pass_with_replacement,
            "that is pass@1, whatever k is": pass_share_only,
            "probabilities of drawing a right one do not add up: two may be right": pass_times_k,
            "that is the probability that all are wrong; the opposite is asked for": pass_all_wrong,
            "that says whether any of the n is right; only k of them are drawn": pass_any,
            "the product begins with n - c + 1 and ends with n": pass_range_off_by_one,
            "that is the probability that all k are right": pass_all_right,
            "that is the probability of exactly one right one; at least one is asked for": pass_exactly_one,
            "with fewer than k wrong tries a right one is always among them: 1, not 0": pass_without_shortcut,
            "right for small numbers, but factorials of large ones cannot be divided as floats: use the product, or math.comb": pass_overflows,
        },
    ),
]  # fmt: skip
