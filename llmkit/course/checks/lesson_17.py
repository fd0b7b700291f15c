"""Lesson 17: Bradley and Terry's probability and loss, the last token, best of n, answers' log-probabilities, DPO."""

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from llmkit.alignment.dpo import PairLogProbs, sequence_log_probs, sigmoid_loss
from llmkit.alignment.preferences import win_probability
from llmkit.alignment.reward import last_token
from llmkit.course.exercise import Case, Exercise


def _random(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- 17.1 win_probability ---


def win_cases() -> list[Case]:
    t = torch.tensor
    return [
        Case("the example", lambda: (t([1.0, 0.0]), t([0.0, 0.0]), 0.1)),
        Case("equal scores", lambda: (t([2.0]), t([2.0]))),
        Case("one point ahead, one behind", lambda: (t([1.0, 0.0]), t([0.0, 1.0]))),
        Case("only the difference counts", lambda: (t([101.0, -7.0]), t([100.0, -9.0]))),
        Case("a judge who flips one in five", lambda: (t([3.0, -3.0, 0.0]), t([0.0, 0.0, 0.0]), 0.2)),
        Case("a judge who tosses a coin", lambda: (t([5.0, -5.0]), t([0.0, 0.0]), 0.5)),
        Case("a table of scores", lambda: (_random(3, 4), _random(3, 4, seed=1), 0.05)),
        Case("flip = 0 is allowed", lambda: (t([1.0, -2.0]), t([0.0, 0.0]), 0.0)),
        Case("flip below 0 is refused", lambda: (t([1.0]), t([0.0]), -0.1)),
        Case("flip above 0.5 is refused", lambda: (t([1.0]), t([0.0]), 0.6)),
    ]


def _refuse_flip(flip):
    if not 0 <= flip <= 0.5:
        raise ValueError("flip")


def win_other_way(first, second, flip=0.0):
    return win_probability(second, first, flip)


def win_no_flip(first, second, flip=0.0):
    _refuse_flip(flip)
    return torch.sigmoid(first - second)


def win_flip_to_first(first, second, flip=0.0):
    _refuse_flip(flip)
    return flip + (1 - flip) * torch.sigmoid(first - second)


def win_flip_lost(first, second, flip=0.0):
    _refuse_flip(flip)
    return (1 - flip) * torch.sigmoid(first - second)


def win_ratio(first, second, flip=0.0):
    _refuse_flip(flip)
    p = first / (first + second)
    return flip + (1 - 2 * flip) * p


def win_by_exp(first, second, flip=0.0):
    _refuse_flip(flip)
    return flip + (1 - 2 * flip) * first.exp() / (first.exp() + second.exp())


def win_flip_inside(first, second, flip=0.0):
    _refuse_flip(flip)
    return torch.sigmoid((1 - 2 * flip) * (first - second))


def win_never_refuses(first, second, flip=0.0):
    return flip + (1 - 2 * flip) * torch.sigmoid(first - second)


def win_flip_coin(first, second, flip=0.0):
    _refuse_flip(flip)
    return flip / 2 + (1 - flip) * torch.sigmoid(first - second)


def win_flip_subtracted(first, second, flip=0.0):
    _refuse_flip(flip)
    return torch.sigmoid(first - second) - flip


def win_half_refused(first, second, flip=0.0):
    if not 0 <= flip < 0.5:
        raise ValueError("flip")
    return win_never_refuses(first, second, flip)


def win_zero_refused(first, second, flip=0.0):
    if not 0 < flip <= 0.5:
        raise ValueError("flip")
    return win_never_refuses(first, second, flip)


def win_ends_refused(first, second, flip=0.0):
    if not 0 < flip < 0.5:
        raise ValueError("flip")
    return win_never_refuses(first, second, flip)


def win_decided(first, second, flip=0.0):
    _refuse_flip(flip)
    return flip + (1 - 2 * flip) * (first > second).float()


# --- 17.2 bradley_terry_loss ---


def loss_cases() -> list[Case]:
    t = torch.tensor
    return [
        Case("one pair, equal scores: log 2", lambda: (t([1.0]), t([1.0]))),
        Case("two pairs", lambda: (t([2.0, 0.5]), t([1.0, 1.5]))),
        Case("five pairs", lambda: (_random(5), _random(5, seed=1))),
        Case("far apart, and the wrong way", lambda: (t([-150.0, 0.0]), t([150.0, 0.0]))),
        Case("one margin for all", lambda: (_random(4, seed=2), _random(4, seed=3), 0.7)),
        Case("a margin for each pair", lambda: (_random(3, seed=4), _random(3, seed=5), t([0.0, 1.0, 2.5]))),
        Case("the example: centring", lambda: (t([2.0]), t([2.0]), 0.0, 0.1)),
        Case("margin and centring", lambda: (_random(6, seed=6), _random(6, seed=7), 0.3, 0.05)),
        Case("unequal numbers are refused", lambda: (torch.zeros(2), torch.zeros(3))),
        Case("a column beside a row is refused", lambda: (torch.zeros(3, 1), torch.zeros(3))),
        Case("no pairs are refused", lambda: (torch.zeros(0), torch.zeros(0))),
        Case("margins in a column are refused", lambda: (_random(3, seed=8), _random(3, seed=9), torch.ones(3, 1))),
    ]


def _refuse_margin(chosen, margin):
    if isinstance(margin, torch.Tensor) and margin.dim() and margin.shape != chosen.shape:
        raise ValueError("margin")


def _refuse_pairs(chosen, rejected, margin):
    if chosen.shape != rejected.shape or chosen.dim() != 1 or not len(chosen):
        raise ValueError("pairs")
    _refuse_margin(chosen, margin)


def _loss(term, penalty=lambda a, b: (a + b).square().mean()):
    def loss(chosen, rejected, margin=0.0, centre=0.0):
        _refuse_pairs(chosen, rejected, margin)
        return term(chosen, rejected, margin) + centre * penalty(chosen, rejected)

    return loss


def _right_term(a, b, m):
    return -F.logsigmoid(a - b - m).mean()


def loss_unstable(chosen, rejected, margin=0.0, centre=0.0):
    _refuse_pairs(chosen, rejected, margin)
    return -torch.sigmoid(chosen - rejected - margin).log().mean() + centre * (chosen + rejected).square().mean()


def loss_never_refuses(chosen, rejected, margin=0.0, centre=0.0):
    return -F.logsigmoid(chosen - rejected - margin).mean() + centre * (chosen + rejected).square().mean()


def loss_refuses_only_numbers(chosen, rejected, margin=0.0, centre=0.0):
    if len(chosen) != len(rejected) or not len(chosen):
        raise ValueError("pairs")
    _refuse_margin(rejected, margin)
    return loss_never_refuses(chosen, rejected, margin, centre)


def loss_any_margin(chosen, rejected, margin=0.0, centre=0.0):
    _refuse_pairs(chosen, rejected, 0.0)
    return loss_never_refuses(chosen, rejected, margin, centre)


def loss_of_nothing(chosen, rejected, margin=0.0, centre=0.0):
    if chosen.shape != rejected.shape or chosen.dim() != 1:
        raise ValueError("pairs")
    _refuse_margin(chosen, margin)
    return loss_never_refuses(chosen, rejected, margin, centre)


# --- 17.3 last_token (find the bug) ---


def token_cases() -> list[Case]:
    def make(B, T, C, rows, seed=0):
        return _random(B, T, C, seed=seed), torch.tensor(rows).bool()

    return [
        Case("the example", lambda: (torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[True, True, False]]))),
        Case("no mask", lambda: (_random(2, 3, 4),)),
        Case("no padding", lambda: make(2, 3, 5, [[1, 1, 1], [1, 1, 1]])),
        Case("padding on the right", lambda: make(3, 4, 5, [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], 1)),
        Case("padding on the left", lambda: make(3, 4, 5, [[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]], 2)),
        Case("padding on both sides", lambda: make(2, 5, 3, [[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]], 3)),
        Case("a hole in the middle", lambda: make(2, 4, 3, [[1, 0, 1, 0], [1, 1, 0, 1]], 4)),
        Case("one token", lambda: make(2, 1, 6, [[1], [1]], 5)),
        Case("a row of padding alone is refused", lambda: make(2, 3, 4, [[1, 1, 0], [0, 0, 0]])),
        Case("a mask of another length is refused", lambda: make(2, 3, 4, [[1, 1], [1, 1]])),
    ]


def _refuse_mask(hidden, mask):
    if mask.shape != hidden.shape[:2] or not mask.bool().any(-1).all():
        raise ValueError("mask")


def _token(place):
    def token(hidden, attention_mask=None):
        if attention_mask is None:
            return hidden[:, -1]
        _refuse_mask(hidden, attention_mask)
        return hidden[torch.arange(len(hidden)), place(attention_mask)]

    return token


def token_by_length(hidden, attention_mask=None):
    if attention_mask is None:
        return hidden[:, -1]
    lengths = attention_mask.sum(-1)
    return hidden[torch.arange(len(hidden)), lengths - 1]


def token_last_or_length(hidden, attention_mask=None):
    if attention_mask is None:
        return hidden[:, -1]
    _refuse_mask(hidden, attention_mask)
    mask = attention_mask.bool()
    last = torch.where(mask[:, -1], mask.size(1) - 1, mask.sum(-1) - 1)
    return hidden[torch.arange(len(hidden)), last]


def token_always_last(hidden, attention_mask=None):
    if attention_mask is not None:
        _refuse_mask(hidden, attention_mask)
    return hidden[:, -1]


def token_mean(hidden, attention_mask=None):
    if attention_mask is None:
        return hidden.mean(1)
    _refuse_mask(hidden, attention_mask)
    real = attention_mask[..., None].float()
    return (hidden * real).sum(1) / real.sum(1)


def token_never_refuses(hidden, attention_mask=None):
    if attention_mask is None:
        return hidden[:, -1]
    last = (torch.arange(attention_mask.size(1)) * attention_mask).argmax(-1)
    return hidden[torch.arange(len(hidden)), last]


def token_needs_a_mask(hidden, attention_mask=None):
    return last_token(hidden, attention_mask.bool())


def token_all_rows(hidden, attention_mask=None):
    if attention_mask is None:
        return hidden[:, -1]
    _refuse_mask(hidden, attention_mask)
    return hidden[:, (torch.arange(attention_mask.size(1)) * attention_mask).argmax(-1)]


# --- 17.4 how many answers for three nats, by hand ---


def n_for_three_nats() -> int:
    return 54


def _other_numbers(named: set[int]) -> dict[str, Callable[[], int]]:
    """For every other n up to 200: what the bound is there, and so on which side of 3 nats it lies."""
    messages = {}
    for n in range(1, 201):
        bound = math.log(n) - (n - 1) / n
        if n not in named and n != n_for_three_nats():
            side = "below 3: too small" if bound < 3 else "but a smaller n has 3 nats, too: too large"
            messages[f"at n = {n} the bound is {bound:.2f} nats, {side}"] = lambda n=n: n
    return messages


# --- 17.5 sequence_log_probs ---


def sequence_cases() -> list[Case]:
    def make(B, T, V, spans, seed=0, impossible=False):
        logits = _random(B, T, V, seed=seed, scale=2.0)
        ids = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))
        places = torch.arange(T)
        mask = torch.stack([(places >= a) & (places < b) for a, b in spans])
        if impossible:  # what is predicted behind the answer is impossible: padding
            for row, (_, b) in enumerate(spans):
                for t in range(b, T):
                    logits[row, t - 1, ids[row, t]] = -torch.inf
        return logits, ids, mask

    return [
        Case("the example: two tokens, four to choose from", lambda: (torch.zeros(1, 3, 4), torch.tensor([[0, 1, 2]]), torch.tensor([[False, True, True]]))),
        Case("a prompt of two, an answer of one", lambda: make(1, 3, 5, [(2, 3)], 1)),
        Case("two rows alike", lambda: make(2, 5, 7, [(2, 5), (2, 5)], 2)),
        Case("prompts of unequal length", lambda: make(3, 6, 7, [(1, 6), (3, 6), (5, 6)], 3)),
        Case("answers of unequal length", lambda: make(3, 6, 7, [(2, 6), (2, 4), (2, 3)], 4)),
        Case("impossible padding", lambda: make(2, 6, 7, [(2, 4), (1, 5)], 5, impossible=True)),
        Case("an impossible token in the answer", lambda: (torch.tensor([[[-torch.inf, 0.0, -torch.inf, 0.0]] * 3]), torch.tensor([[0, 1, 2]]), torch.tensor([[False, True, True]]))),
        Case("half precision comes back in float32", lambda: (make(2, 5, 9, [(2, 5), (1, 4)], 6)[0].bfloat16(), *make(2, 5, 9, [(2, 5), (1, 4)], 6)[1:])),
        Case("an empty answer is refused", lambda: make(2, 5, 7, [(2, 5), (3, 3)], 7)),
        Case("a first token in the answer is refused", lambda: make(2, 5, 7, [(2, 5), (0, 3)], 8)),
        Case("a mask of another length is refused", lambda: (torch.zeros(1, 3, 4), torch.tensor([[0, 1, 2]]), torch.tensor([[False, True]]))),
    ]  # fmt: skip


def _refuse_answer(logits, ids, mask):
    if mask.shape != ids.shape or logits.shape[:2] != ids.shape or mask[:, 0].any() or not mask.any(-1).all():
        raise ValueError("answer")


def _summed(combine):
    def log_probs(logits, ids, completion_mask):
        _refuse_answer(logits, ids, completion_mask)
        picked = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        return combine(picked, completion_mask)

    return log_probs


def sequence_unshifted(logits, ids, completion_mask):
    _refuse_answer(logits, ids, completion_mask)
    picked = logits.float().log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)
    return torch.where(completion_mask, picked, 0.0).sum(-1)


def sequence_of_logits(logits, ids, completion_mask):
    _refuse_answer(logits, ids, completion_mask)
    picked = logits[:, :-1].float().gather(-1, ids[:, 1:, None]).squeeze(-1)
    return torch.where(completion_mask[:, 1:], picked, 0.0).sum(-1)


def sequence_loss(logits, ids, completion_mask):
    return -sequence_log_probs(logits, ids, completion_mask)


def sequence_half_precision(logits, ids, completion_mask):
    _refuse_answer(logits, ids, completion_mask)
    picked = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    return torch.where(completion_mask[:, 1:], picked, 0.0).sum(-1)


def sequence_never_refuses(logits, ids, completion_mask):
    picked = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    return torch.where(completion_mask[:, 1:], picked, 0.0).sum(-1)


def sequence_empty_is_zero(logits, ids, completion_mask):
    if completion_mask.shape != ids.shape or completion_mask[:, 0].any():
        raise ValueError("mask")
    return sequence_never_refuses(logits, ids, completion_mask)


def sequence_first_token(logits, ids, completion_mask):
    if completion_mask.shape != ids.shape or not completion_mask.any(-1).all():
        raise ValueError("mask")
    return sequence_never_refuses(logits, ids, completion_mask)


# --- 17.6 sigmoid_loss ---


def dpo_cases() -> list[Case]:
    t = torch.tensor

    def pairs(chosen, rejected, ref_chosen, ref_rejected, lengths=None):
        ones = torch.ones(len(chosen), dtype=torch.long)
        return PairLogProbs(chosen, rejected, ref_chosen, ref_rejected, *(lengths or (ones, ones)))

    def drawn(M, seed, lengths=None):
        return pairs(*[-_random(M, seed=seed + i, scale=3.0).abs() for i in range(4)], lengths=lengths)

    return [
        Case("policy = reference: log 2", lambda: (pairs(t([-2.0]), t([-3.0]), t([-2.0]), t([-3.0])), 0.1)),
        Case("the chosen one gained 2 nats", lambda: (pairs(t([-2.0]), t([-3.0]), t([-4.0]), t([-3.0])), 0.5)),
        Case("the rejected one lost 2 nats: the same", lambda: (pairs(t([-2.0]), t([-5.0]), t([-2.0]), t([-3.0])), 0.5)),
        Case("four pairs", lambda: (drawn(4, 0), 0.3)),
        Case("a large beta", lambda: (drawn(3, 10), 2.0)),
        Case("answers of unequal length: sums, not means", lambda: (drawn(3, 20, (t([2, 5, 1]), t([4, 4, 9]))), 0.5)),
        Case("far on the wrong side", lambda: (pairs(t([-900.0]), t([-1.0]), t([-1.0]), t([-1.0])), 0.5)),
    ]  # fmt: skip


def _dpo(loss):
    return lambda pairs, beta: loss(pairs, beta)


def dpo_unstable(pairs, beta):
    return -torch.sigmoid(beta * pairs.h).log()


def dpo_per_token(pairs, beta):
    return -F.logsigmoid(beta * pairs.h_per_token)


EXERCISES = [
    Exercise(
        number="17.1",
        name="win_probability",
        reference="llmkit.alignment.preferences:win_probability",
        cases=win_cases,
        hints=(
            "Without flips it is one call: the sigmoid of a difference.",
            "With probability flip the answer is turned round. What is then the probability that the first one is named?",
            "First wins and is not turned, or loses and is turned: write down the probability of each way, and add the two.",
        ),
        wrong={
            "the difference is the wrong way round: a higher first score should win more often": win_other_way,
            "flip was not used": win_no_flip,
            "a flip turns the answer round; it does not always go to the first": win_flip_to_first,
            "where the first loses and the answer is turned round, the first is named too": win_flip_lost,
            "scores are logarithms of strengths: not s / (s + t), but the sigmoid of the difference": win_ratio,
            "flips mix probabilities; they do not shrink the scores": win_flip_inside,
            "a flip names the *other* answer; it does not toss a coin between the two": win_flip_coin,
            "flip was taken off as it is: but wins are turned into losses, and losses into wins": win_flip_subtracted,
            "flip = 0.5 is allowed; only what lies outside of 0 to 0.5 is refused": win_half_refused,
            "flip = 0 is allowed, and it is what flip is where none is given: only below 0 it is refused": (
                win_zero_refused
            ),
            "flip = 0 and flip = 0.5 are both allowed; only what lies outside of 0 to 0.5 is refused": win_ends_refused,
            "a flip below 0 or above 0.5 has to be refused with a ValueError": win_never_refuses,
            "that is who is better; a noisy judge names the better one only more often": win_decided,
            "exp overflows for large scores, and inf / inf is NaN: take the sigmoid of the difference": win_by_exp,
        },
    ),
    Exercise(
        number="17.2",
        name="bradley_terry_loss",
        reference="llmkit.alignment.preferences:bradley_terry_loss",
        cases=loss_cases,
        gradients=True,
        tolerance=1e-5,
        hints=(
            "P(chosen wins) is a sigmoid; the loss is minus the log of it, averaged. torch has logsigmoid.",
            "A margin asks for more: the chosen one has to lead by that much before the loss is log 2.",
            "Centring adds centre times a mean: square the sum of the two scores in each pair, then average.",
        ),
        wrong={
            "chosen and rejected are exchanged": _loss(lambda a, b, m: -F.logsigmoid(b - a - m).mean()),
            "a margin is taken off the lead; here it is added": _loss(lambda a, b, m: -F.logsigmoid(a - b + m).mean()),
            "the margin was not used": _loss(lambda a, b, m: -F.logsigmoid(a - b).mean()),
            "the margin stands inside the sigmoid; behind it, it changes no gradient": _loss(
                lambda a, b, m: (-F.logsigmoid(a - b) + m).mean()
            ),
            "the mean over the pairs is wanted, not the sum": _loss(lambda a, b, m: -F.logsigmoid(a - b - m).sum()),
            "minus is missing": _loss(lambda a, b, m: F.logsigmoid(a - b - m).mean()),
            "the log is missing: that is 1 minus the probability": _loss(
                lambda a, b, m: torch.sigmoid(b - a + m).mean()
            ),
            "centring holds the *sum* of the two about 0; that is their difference": _loss(
                _right_term, lambda a, b: (a - b).square().mean()
            ),
            "square first, then average: scores that cancel out are not centred": _loss(
                _right_term, lambda a, b: (a + b).mean().square()
            ),
            "centring squares the sum; these are the squares of the two": _loss(
                _right_term, lambda a, b: (a.square() + b.square()).mean()
            ),
            "centre was not used": _loss(_right_term, lambda a, b: 0.0),
            "log(sigmoid(x)) is -inf where x is far below 0: logsigmoid is not": loss_unstable,
            "nothing is refused: what does not fit needs a ValueError of your own, for torch refuses only some shapes and broadcasts others": loss_never_refuses,
            "no pairs have to be refused: a mean over nothing is NaN": loss_of_nothing,
            "(3, 1) beside (3,) broadcasts to (3, 3), every chosen with every rejected: refuse it": (
                loss_refuses_only_numbers
            ),
            "a margin of (3, 1) beside scores of (3,) broadcasts to (3, 3), every pair with every margin: refuse it": (
                loss_any_margin
            ),
        },
    ),
    Exercise(
        number="17.3",
        name="last_token",
        reference="llmkit.alignment.reward:last_token",
        cases=token_cases,
        starts_from=token_by_length,
        hints=(
            "How long a text is tells where it ends only if it begins at place 0 and has no gaps.",
            "Number the places, 0 … T - 1. Which number has the last true place? The largest.",
            "argmax of (places * mask) finds it; a row without any true place has to be refused before.",
        ),
        wrong={
            "length - 1 is the last place only if the padding is on the right": _token(lambda m: m.long().sum(-1) - 1),
            "it still takes length - 1, which is the last place only if the padding is on the right, and refuses nothing": (
                token_by_length
            ),
            "a text may have padding on its left and on its right; here length - 1 counts from the wrong place": (
                token_last_or_length
            ),
            "first place + length - 1 is the last place only if no padding stands between tokens": _token(
                lambda m: m.long().argmax(-1) + m.long().sum(-1) - 1
            ),
            "that is the last place, padding or not": token_always_last,
            "that is the last place, padding or not, and nothing is refused": lambda hidden, mask=None: hidden[:, -1],
            "one place too far: the number of places after the last true one, taken off T, is its place plus 1": _token(
                lambda m: (m.size(1) - m.flip(-1).long().argmax(-1)) % m.size(1)
            ),
            "that is the first token that is real; the last is wanted": _token(lambda m: m.long().argmax(-1)),
            "that is the place before the first padding; with padding on the left it is the last place": _token(
                lambda m: m.long().argmin(-1) - 1
            ),
            "that is the mean over the tokens; the last one is wanted": token_mean,
            "a text of padding alone has to be refused with a ValueError": token_never_refuses,
            "attention_mask may be None: then nothing is padding": token_needs_a_mask,
            "hidden[:, last] takes all those places of every row; each row needs its own": token_all_rows,
        },
    ),
    Exercise(
        number="17.4",
        name="n_for_three_nats",
        reference=n_for_three_nats,
        hints=(
            "For a large n, (n - 1) / n is nearly 1: so log n has to be about 4.",
            "A loop over n from 1 on, and best_of_n_kl_bound(n), answers it.",
        ),
        wrong={
            "that is where log n alone reaches 3; (n - 1) / n is taken off": lambda: 21,
            "rounded down: log 20 is below 3, and (n - 1) / n is taken off besides": lambda: 20,
            "that is where log n - 1 reaches 3; (n - 1) / n is a little less than 1": lambda: 55,
            "that one is just below 3 nats": lambda: 53,
            "the logarithm is the natural one; that is 2 to the 4th": lambda: 16,
            "a power of 2 was not asked for: n may be any whole number": lambda: 64,
            "that is e to the 4th, where log n - 1 is 3: but (n - 1) / n is a little less than 1, and n is whole": (
                lambda: math.exp(4)
            ),
            **_other_numbers({16, 20, 21, 53, 55, 64}),
        },
    ),
    Exercise(
        number="17.5",
        name="sequence_log_probs",
        reference="llmkit.alignment.dpo:sequence_log_probs",
        cases=sequence_cases,
        tolerance=1e-5,
        hints=(
            "logits[:, t] predict ids[:, t + 1]; token_log_probs has done that shift: its column t belongs to ids[:, t + 1].",
            "The mask belongs to ids, so it loses its first place too.",
            "Where the mask is false put 0 with torch.where: 0 times -inf is not 0.",
        ),
        wrong={
            "a sum is wanted: the probability of the whole answer, not the mean over its tokens": _summed(
                lambda p, m: torch.where(m[:, 1:], p, 0.0).sum(-1) / m.sum(-1)
            ),
            "logits at t were read as predicting the token *at* t; they predict the next": sequence_unshifted,
            "the mask was cut at the other end: it belongs to ids[:, 1:]": _summed(
                lambda p, m: torch.where(m[:, :-1], p, 0.0).sum(-1)
            ),
            "prompt and padding were counted too": _summed(lambda p, m: p.sum(-1)),
            "the prompt was counted too; only padding was left out": _summed(
                lambda p, m: torch.where(m.flip(1).cummax(1).values.flip(1)[:, 1:], p, 0.0).sum(-1)
            ),
            "logits were summed; they need a log_softmax first": sequence_of_logits,
            "only padding is left out: an answer with an impossible token is impossible, -inf": _summed(
                lambda p, m: torch.where(m[:, 1:] & ~p.isinf(), p, 0.0).sum(-1)
            ),
            "an answer with an impossible token is impossible: -inf, not the most negative number that there is": _summed(
                lambda p, m: (p * m[:, 1:]).nan_to_num(0.0).sum(-1)
            ),
            "0 times -inf is NaN: a padded place may be impossible": _summed(lambda p, m: (p * m[:, 1:]).sum(-1)),
            "that is the loss; log-probabilities are negative": sequence_loss,
            "one number for each row is wanted": _summed(lambda p, m: torch.where(m[:, 1:], p, 0.0).sum()),
            "half precision: make the logits float32 before the softmax": sequence_half_precision,
            "an answer without tokens has to be refused": sequence_empty_is_zero,
            "an answer that has the very first token has to be refused: nothing predicts it": sequence_first_token,
            "a mask that counts the first token, or no token, has to be refused": sequence_never_refuses,
        },
    ),
    Exercise(
        number="17.6",
        name="sigmoid_loss",
        reference="llmkit.alignment.dpo:sigmoid_loss",
        cases=dpo_cases,
        tolerance=1e-5,
        hints=(
            "Bradley and Terry's loss again, with beta log(pi / ref) in the place of the score.",
            "Four numbers for each pair: (chosen - ref_chosen) - (rejected - ref_rejected).",
            "One loss for each pair, (M,); no mean here.",
        ),
        wrong={
            "the reference is missing": _dpo(lambda p, b: -F.logsigmoid(b * (p.chosen - p.rejected))),
            "chosen and rejected are exchanged": _dpo(lambda p, b: -F.logsigmoid(-b * p.h)),
            "the reference has the wrong sign: log(pi / ref) is a difference": _dpo(
                lambda p, b: -F.logsigmoid(b * ((p.chosen + p.ref_chosen) - (p.rejected + p.ref_rejected)))
            ),
            "only the chosen answer's ratio was taken": _dpo(lambda p, b: -F.logsigmoid(b * (p.chosen - p.ref_chosen))),
            "beta stands inside the sigmoid, where it scales the reward": _dpo(lambda p, b: -b * F.logsigmoid(p.h)),
            "beta was not used": _dpo(lambda p, b: -F.logsigmoid(p.h)),
            "beta divides here; the reward is beta times the log-ratio": _dpo(lambda p, b: -F.logsigmoid(p.h / b)),
            "one loss for each pair is wanted; the mean is taken later": _dpo(lambda p, b: sigmoid_loss(p, b).mean()),
            "minus is missing": _dpo(lambda p, b: F.logsigmoid(b * p.h)),
            "sums over the answer's tokens, not means: dividing by the length is another loss": dpo_per_token,
            "the log is missing": _dpo(lambda p, b: torch.sigmoid(-b * p.h)),
            "log(sigmoid(x)) is -inf where x is far below 0: logsigmoid is not": dpo_unstable,
            "these are log-probabilities already: the logarithm of a ratio is their difference": _dpo(
                lambda p, b: -F.logsigmoid(b * ((p.chosen / p.ref_chosen).log() - (p.rejected / p.ref_rejected).log()))
            ),
            "these are log-probabilities: the logarithm of a ratio is a difference, not a quotient": _dpo(
                lambda p, b: -F.logsigmoid(b * (p.chosen / p.ref_chosen - p.rejected / p.ref_rejected))
            ),
            "brackets are missing: minus (rejected - ref_rejected) is minus rejected plus ref_rejected": _dpo(
                lambda p, b: -F.logsigmoid(b * (p.chosen - p.ref_chosen - p.rejected - p.ref_rejected))
            ),
        },
    ),
]
