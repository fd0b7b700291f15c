"""The bootstrap: scipy draws the same resamples; coverage and false alarms by simulation."""

import numpy as np
import pytest
import torch

from llmkit.evaluation.bleu import bleu, bleu_counts, bleu_from_counts
from llmkit.evaluation.bootstrap import bootstrap_interval, paired_bootstrap


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_interval_equals_scipy(level):
    scipy_bootstrap = pytest.importorskip("scipy.stats").bootstrap
    for seed in range(30):
        x = np.random.default_rng(seed).exponential(size=3 + 7 * seed)
        for mine, theirs in ((None, np.mean), (np.median, np.median)):
            got = bootstrap_interval(x, mine, level, n_resamples=300, seed=seed)
            expected = scipy_bootstrap(
                (x,),
                theirs,
                method="percentile",
                confidence_level=level,
                n_resamples=300,
                rng=np.random.default_rng(seed),
            ).confidence_interval
            assert got == pytest.approx((theirs(x), *expected))


def test_95_percent_intervals_hold_the_mean_95_percent_of_the_time():
    rng = np.random.default_rng(0)
    held = above = 0
    for seed in range(400):
        _, low, high = bootstrap_interval(rng.normal(3.0, 2.0, size=100), n_resamples=1000, seed=seed)
        held += low <= 3.0 <= high
        above += low > 3.0
    assert 0.92 <= held / 400 <= 0.98
    assert above / 400 < 0.05, "as often too high as too low"


def test_the_fast_mean_draws_what_the_general_way_draws():
    x = np.random.default_rng(1).normal(size=37)
    assert bootstrap_interval(x, seed=5) == pytest.approx(bootstrap_interval(x, np.mean, seed=5))
    y = x + np.random.default_rng(2).normal(size=37)
    assert paired_bootstrap(x, y, seed=5) == pytest.approx(paired_bootstrap(x, y, np.mean, seed=5))


def test_many_rows_are_resampled_in_parts():
    """Over a million rows are resampled one at a time, 700 rows 1428 times at once."""
    x = np.random.default_rng(3).normal(size=1_200_000)
    got = bootstrap_interval(x, n_resamples=25)
    assert got.high - got.low == pytest.approx(3.6 / 1_200_000**0.5, rel=0.4)
    small = x[:700]
    assert bootstrap_interval(small, n_resamples=3000) == pytest.approx(
        bootstrap_interval(small, np.mean, n_resamples=3000)
    )


def test_seeds():
    x = np.random.default_rng(4).normal(size=50)
    assert (
        bootstrap_interval(x) == bootstrap_interval(x, seed=0) == bootstrap_interval(x, seed=np.random.default_rng(0))
    )
    assert bootstrap_interval(x) != bootstrap_interval(x, seed=1)
    assert bootstrap_interval(x) == bootstrap_interval(x, level=0.95, n_resamples=2000)
    one = bootstrap_interval(x, n_resamples=1)
    assert one.low == one.high != one.estimate
    generator = np.random.default_rng(0)
    assert bootstrap_interval(x, seed=generator) != bootstrap_interval(x, seed=generator), "a generator moves on"


def test_right_and_wrong_may_come_as_booleans_or_tensors():
    a, b = np.random.default_rng(9).random((2, 30)) < 0.6
    assert bootstrap_interval(a) == bootstrap_interval(a.astype(float)) == bootstrap_interval(torch.tensor(a))
    assert paired_bootstrap(a, b) == paired_bootstrap(a.astype(float), b.astype(float))


def _corpora():
    rng = np.random.default_rng(5)
    references = [[list(rng.choice(list("abcdef"), size=9))] for _ in range(60)]

    def worse(share):
        return [[w if rng.random() > share else "z" for w in refs[0]] for refs in references]

    return worse(0.1), worse(0.3), references


def test_corpus_bleu_from_counts_or_by_looking_up():
    good, bad, references = _corpora()
    rows = [np.array([bleu_counts(h, r) for h, r in zip(hyps, references, strict=True)]) for hyps in (good, bad)]

    def by_counts(rows):
        return bleu_from_counts(rows.sum(axis=0)).score

    def by_looking_up(chosen):
        return bleu([good[i] for i in chosen], [references[i] for i in chosen]).score

    got = bootstrap_interval(rows[0], by_counts, n_resamples=100)
    assert got.low < got.estimate == bleu(good, references).score < got.high
    assert got == pytest.approx(bootstrap_interval(np.arange(60), by_looking_up, n_resamples=100))
    better = paired_bootstrap(*rows, by_counts, n_resamples=300)
    assert better.estimate == pytest.approx(got.estimate - bleu(bad, references).score)
    assert better.low > 0 and better.p_value == 1 / 301
    worse = paired_bootstrap(*rows[::-1], by_counts, n_resamples=300)
    assert worse == pytest.approx((-better.estimate, -better.high, -better.low, better.p_value))


def test_p_values_give_the_alarm_that_they_promise():
    """No difference: below 0.05 in about 5% of cases. A difference of 3 standard errors: mostly."""
    rng = np.random.default_rng(6)
    alarms, found = 0, 0
    for seed in range(400):
        hard = rng.normal(size=100)  # what both systems find hard
        a, b = (hard + rng.normal(size=100) for _ in range(2))
        alarms += paired_bootstrap(a, b, n_resamples=500, seed=seed).p_value < 0.05
        found += paired_bootstrap(a + 3 * 0.02**0.5, b, n_resamples=500, seed=seed).p_value < 0.05
    assert 0.025 <= alarms / 400 <= 0.085
    assert 0.75 <= found / 400 <= 0.93  # 0.85 by the normal approximation


def test_p_value_counts_resamples_by_the_definition():
    rng = np.random.default_rng(7)
    for n in [5, 7, 11, 20, 49] * 8:
        a, b = rng.integers(2, size=(2, n))
        got = paired_bootstrap(a, b, n_resamples=400, seed=3)
        chosen = np.random.default_rng(3).integers(n, size=(400, n))
        differences = a[chosen].sum(1) - b[chosen].sum(1)  # whole numbers: no rounding
        far = np.abs(differences - (a - b).sum()) >= abs((a - b).sum())
        assert got.p_value == (1 + far.sum()) / 401
        assert paired_bootstrap(a * 0.1, b * 0.1, n_resamples=400, seed=3).p_value == got.p_value, "ties by rounding"
        assert got.estimate == pytest.approx(a.mean() - b.mean())
        assert (got.low, got.high) == pytest.approx(tuple(np.quantile(differences / n, [0.025, 0.975])))
        a, b = rng.normal(size=(2, n))
        differences = (a - b)[chosen].mean(1)
        far = np.abs(differences - (a - b).mean()) >= abs((a - b).mean())
        assert paired_bootstrap(a, b, n_resamples=400, seed=3).p_value == (1 + far.sum()) / 401
    same = paired_bootstrap(a, a)
    assert same == (0.0, 0.0, 0.0, 1.0)


def test_pairing_takes_out_what_both_find_hard():
    rng = np.random.default_rng(8)
    hard = rng.normal(size=200)
    a, b = hard + 0.1 * rng.normal(size=200) + 0.05, hard + 0.1 * rng.normal(size=200)
    paired, first, second = paired_bootstrap(a, b), bootstrap_interval(a), bootstrap_interval(b)
    assert first.low < second.high, "the two intervals overlap"
    assert paired.low > 0 and paired.p_value < 0.01


def test_nonsense_is_refused():
    x = np.arange(4.0)
    for call, message in (
        (lambda: bootstrap_interval([]), "at least one row"),
        (lambda: bootstrap_interval(np.zeros((4, 2))), r"rows of shape \(4, 2\) need a statistic"),
        (lambda: bootstrap_interval(x, level=95), "level must be between 0 and 1, got 95"),
        (lambda: bootstrap_interval(x, level=0), "level must be between"),
        (lambda: bootstrap_interval(x, n_resamples=0), "n_resamples must be at least 1"),
        (lambda: paired_bootstrap(x, x[:3]), "4 rows and 3"),
        (lambda: paired_bootstrap(x, x[:0]), "at least one row"),
        (lambda: paired_bootstrap(x, x, level=1.0), "level must be between"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
