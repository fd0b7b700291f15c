"""FLOPs against torch's counter, laws recovered from points made with known ones, and the arithmetic of many GPUs."""

import math
import random

import matplotlib.pyplot as plt
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llmkit.models.gpt2 import GPT2Config, count_params, gpt2
from llmkit.models.llama import LlamaConfig, llama
from llmkit.models.mixtral import MixtralConfig
from llmkit.models.palm import PalmConfig, palm
from llmkit.training import parallelism
from llmkit.training.flops import forward_flops, six_nd, training_flops
from llmkit.training.isoflop import isoflop_minimum, power_law
from llmkit.training.scaling import (
    CHINCHILLA,
    CHINCHILLA_REFIT,
    CHINCHILLA_ROUNDED,
    Law,
    bootstrap_laws,
    fit_law,
    interval,
)
from llmkit.viz import scaling as viz

GOPHER = 5.76e23  # FLOPs
LLAMA = {"vocab_size": 61, "d_model": 24, "n_layers": 3, "n_heads": 6, "d_ff": 40}
MODELS = {
    "gpt2": (gpt2, GPT2Config(53, 32, 24, 2, 4)),
    "gpt2, d_ff": (gpt2, GPT2Config(53, 32, 24, 2, 4, d_ff=30)),
    "llama": (llama, LlamaConfig(**LLAMA)),
    "grouped, wide heads, tied": (llama, LlamaConfig(**LLAMA, n_kv_heads=2, head_dim=10, tie=True)),
    "palm": (palm, PalmConfig(13, 24, 3, 6, 10, 20)),
}


@pytest.mark.parametrize("build, config", MODELS.values(), ids=MODELS)
def test_flops_are_those_of_torchs_counter(build, config):
    model, ids = build(config), torch.randint(config.vocab_size, (1, 17))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        logits = model(ids)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    assert forward_flops(config, 17).total == forward.get_total_flops()
    assert training_flops(config, 17) == forward.get_total_flops() + backward.get_total_flops()
    assert training_flops(config, 17, recompute=True) == 2 * forward.get_total_flops() + backward.get_total_flops()


def test_six_nd_leaves_out_the_scores():
    config = GPT2Config()
    exact, rule = training_flops(config, 1024), six_nd(count_params(config), 1024)
    scores = 3 * forward_flops(config, 1024).scores
    assert (exact - scores) / rule == pytest.approx(1, abs=0.01)  # positions, norms and biases do not multiply
    assert 0.1 < exact / rule - 1 < 0.2
    assert six_nd(2, 3) == 36


def test_flops_refuse_what_they_cannot_count():
    with pytest.raises(ValueError, match="at least 1 token"):
        forward_flops(GPT2Config(), 0)
    with pytest.raises(ValueError, match="experts"):
        forward_flops(MixtralConfig(), 8)


def test_chinchillas_numbers():
    assert CHINCHILLA_ROUNDED.exponent == pytest.approx(0.28 / 0.62)
    assert CHINCHILLA.exponent == pytest.approx(0.46, abs=0.005)  # table 2 of the paper
    assert CHINCHILLA.optimal(GOPHER)[0] == pytest.approx(40e9, rel=0.02)  # section 3.3
    assert CHINCHILLA_ROUNDED.optimal(GOPHER)[0] == pytest.approx(32e9, rel=0.02)  # rounding costs a fifth
    assert CHINCHILLA_REFIT.exponent == pytest.approx(0.513, abs=0.001)
    n, d = CHINCHILLA_REFIT.optimal(GOPHER)
    assert 15 < d / n < 25  # the 20 tokens a parameter that Chinchilla was trained with


@pytest.mark.parametrize("flops", [6.0, 8.0])
def test_the_optimum_is_where_no_other_size_is_better(flops):
    law = Law(1.0, 80.0, 300.0, 0.4, 0.5)
    n, d = law.optimal(1e18, flops)
    assert flops * n * d == pytest.approx(1e18)
    for factor in (0.9, 1.1):
        assert law.loss(n * factor, d / factor) > law.loss(n, d)
    with pytest.raises(ValueError, match="budget"):
        law.optimal(0)


def points(law, noise=0.0, seed=0):
    rng = random.Random(seed)
    rows = [(n, c / 6 / n) for c in (1e19, 1e20, 1e21) for n in (1e8, 4e8, 1e9, 4e9, 1e10)]
    return list(zip(*((n, d, law.loss(n, d) * (1 + rng.gauss(0, noise))) for n, d in rows), strict=True))


@pytest.mark.parametrize("law", [CHINCHILLA, CHINCHILLA_REFIT])
def test_a_law_is_recovered_from_its_points(law):
    assert list(fit_law(*points(law), n_starts=4)) == pytest.approx(list(law), rel=1e-5)


def test_one_outlier_does_not_rule_the_fit():
    n, d, losses = points(CHINCHILLA)
    spoilt = list(losses)
    spoilt[7] *= 1.5
    robust = fit_law(n, d, spoilt, starts=[CHINCHILLA])
    squares = fit_law(n, d, spoilt, starts=[CHINCHILLA], delta=10.0)
    assert abs(robust.E - CHINCHILLA.E) < 0.01 and abs(robust.exponent - CHINCHILLA.exponent) < 0.02
    assert abs(squares.E - CHINCHILLA.E) > 0.05


def test_bootstrapped_laws_scatter_with_the_noise():
    scatter = []
    for noise in (0.0, 0.001, 0.004):
        table = points(CHINCHILLA, noise, seed=3)
        laws = bootstrap_laws(*table, n_resamples=5, seed=1, law=CHINCHILLA)
        low, high = interval([law.E for law in laws], 0.5)
        scatter.append(high - low)
    assert scatter[0] < 1e-3 and scatter[2] > 1.5 * scatter[1] > 1e-3
    assert laws[:2] == bootstrap_laws(*table, n_resamples=2, seed=1, law=CHINCHILLA)
    assert laws[0] != bootstrap_laws(*table, n_resamples=1, seed=2, law=CHINCHILLA)[0]


def test_fits_refuse_bad_points():
    n, d, losses = points(CHINCHILLA)
    with pytest.raises(ValueError, match="at least 5 points"):
        fit_law(n[:4], d[:4], losses[:4])
    with pytest.raises(ValueError, match="at least 5 points"):
        fit_law(n, d, losses[:-1])
    with pytest.raises(ValueError, match="broke down"):
        fit_law(n, d, [math.inf, *losses[1:]])


def test_parabola_and_power_law():
    sizes = [1e5, 3e5, 2e6, 5e6]
    best = isoflop_minimum(sizes, [2 + 0.1 * math.log(n / 7e5) ** 2 for n in sizes])
    assert best.n_params == pytest.approx(7e5) and best.loss == pytest.approx(2.0) and best.inside
    assert best.at(3e6) == pytest.approx(2 + 0.1 * math.log(3e6 / 7e5) ** 2)
    assert not isoflop_minimum(sizes, [2 + 0.1 * math.log(n / 1e4) ** 2 for n in sizes]).inside
    with pytest.raises(ValueError, match="downwards"):
        isoflop_minimum(sizes, [2 - 0.1 * math.log(n / 7e5) ** 2 for n in sizes])
    with pytest.raises(ValueError, match="three sizes"):
        isoflop_minimum([1, 1, 2], [1, 2, 3])
    assert power_law([2, 3, 7], [5 * x**-0.4 for x in (2, 3, 7)]) == pytest.approx((5, -0.4))
    with pytest.raises(ValueError, match="two different"):
        power_law([2, 2], [1, 2])


def test_memory_of_zero_is_that_of_the_paper():
    """Rajbhandari et al. 2020, figure 1: 7.5 billion parameters on 64 GPUs."""
    totals = [parallelism.memory(7.5e9, 64, stage).total / 1e9 for stage in range(4)]
    assert totals == pytest.approx([120, 31.4, 16.6, 1.9], abs=0.05)
    assert parallelism.memory(1, 2, 1) == (2, 2, 6) and parallelism.memory(1, 2, 2) == (2, 1, 6)
    assert all(parallelism.memory(1e9, 1, stage).total == 16e9 for stage in range(4))
    with pytest.raises(ValueError, match="stages 0 to 3"):
        parallelism.memory(1, 1, 4)


def test_ring_all_reduce_by_walking_round_it():
    """Each rank sends one of n pieces to its neighbour, n - 1 times to sum and n - 1 times to spread the sums."""
    n = 5
    pieces = [[float(rank * 10 + piece) for piece in range(n)] for rank in range(n)]
    wanted = [sum(column) for column in zip(*pieces, strict=True)]
    sent = 0
    for step in range(2 * (n - 1)):
        moving = [(rank, (rank - step) % n, pieces[rank][(rank - step) % n]) for rank in range(n)]
        for rank, piece, value in moving:
            there = pieces[(rank + 1) % n]
            there[piece] = there[piece] + value if step < n - 1 else value
        sent += 1
    assert all(of_rank == wanted for of_rank in pieces)
    assert parallelism.all_reduce_bytes(n * 8, n) == sent * 8
    assert parallelism.all_reduce_bytes(8, 1) == 0
    assert parallelism.tensor_parallel_bytes(7, 3, 11, 4) == 4 * 3 * 2 * 3 / 4 * 7 * 11 * 2


@pytest.mark.parametrize("stages, microbatches", [(1, 4), (4, 1), (3, 5)])
def test_pipeline_bubble_by_its_timetable(stages, microbatches):
    busy = {(stage, stage + batch) for stage in range(stages) for batch in range(microbatches)}
    ticks = max(tick for _, tick in busy) + 1
    assert parallelism.pipeline_bubble(stages, microbatches) == pytest.approx(1 - len(busy) / (stages * ticks))


def test_failures():
    """Llama 3: 419 in 54 days on 16,384 GPUs are one in 3.1 hours."""
    hours = parallelism.time_between_failures(16_384, parallelism.LLAMA3_GPU) / parallelism.HOUR
    assert hours == pytest.approx(54 * 24 / 419)
    assert parallelism.time_between_failures(8, parallelism.LLAMA3_GPU) > 200 * parallelism.DAY
    best = parallelism.checkpoint_interval(60, 3600)
    least = parallelism.lost_share(60, best, 3600)
    assert all(parallelism.lost_share(60, best * factor, 3600) > least for factor in (0.8, 1.25))
    assert parallelism.lost_share(60, 600, 3600, 360) == pytest.approx(0.1 + 300 / 3600 + 0.1)
    assert parallelism.training_days(86400 * 5, 10, 1, 0.5) == 1


def test_figures_are_drawn():
    sizes, losses = [1e4, 3e4, 1e5], [2.0, 1.5, 1.8]
    law, (_, axes) = Law(1.0, 80.0, 300.0, 0.4, 0.5), plt.subplots(1, 4)
    viz.draw_isoflop(axes[0], {"1e11": (sizes, losses), "4e11": (sizes, [1.6, 1.3, 1.25])}, entropy=0.9)
    viz.draw_law(axes[1], law, [law, law._replace(E=1.2)], [1e11, 4e11], [1.5, 1.25], entropy=0.9)
    viz.draw_learning_rates(axes[2], {32: ([0.1, 0.2, 0.4], losses), 64: ([0.1, 0.2, 0.4], losses)})
    viz.draw_coordinates(axes[3], [32, 64], {"logits": [1.0, 1.0], "mlp 0": [0.1, 0.3]})
    stars = [line for line in axes[0].lines if line.get_marker() == "*"]
    assert stars[0].get_xdata()[0] == pytest.approx(isoflop_minimum(sizes, losses).n_params)
    assert axes[1].lines[0].get_ydata()[-1] > 1.0 and "true entropy" in {text.get_text() for text in axes[1].texts}
    assert [line.get_xdata()[0] for line in axes[2].lines if line.get_marker() == "*"] == [0.2, 0.2]
    assert axes[3].get_yscale() == "log"
    plt.close("all")
