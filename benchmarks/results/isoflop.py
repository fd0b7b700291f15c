"""Sizes against tokens at three budgets, and the law L(N, D) = E + A / N^alpha + B / D^beta beside the true entropy.

Run: python benchmarks/results/isoflop.py     about 15 minutes on one core
"""

from store import arguments, store

from llmkit.training.isoflop import isoflop_minimum, power_law
from llmkit.training.scaling import bootstrap_laws, fit_law, interval
from llmkit.training.sweeps import entropy, held_out, train_isoflop

WIDTHS = {  # budget in FLOPs -> five sizes around the best
    1.2e11: (8, 16, 24, 32, 48),
    4.8e11: (16, 24, 32, 48, 64),
    1.92e12: (24, 32, 48, 64, 96),
}
LR = 0.016  # the best at the base width in transfer.py; under muP it serves all


def main() -> None:
    chosen = arguments(__doc__)
    points = []
    for budget, widths in WIDTHS.items():
        for width in widths:
            points.append(train_isoflop(width, budget, LR, chosen.seed))
            print("{width:4} {budget:.2e} N={n_params} D={n_tokens} loss {loss:.4f}".format(**points[-1]), flush=True)
    n, d, losses = ([point[key] for point in points] for key in ("n_params", "n_tokens", "loss"))
    law = fit_law(n, d, losses)
    laws = bootstrap_laws(n, d, losses, n_resamples=100, seed=chosen.seed, law=law)
    minima = []
    for budget in WIDTHS:
        of_budget = [point for point in points if point["budget"] == budget]
        best = isoflop_minimum([p["n_params"] for p in of_budget], [p["loss"] for p in of_budget])
        minima.append({"budget": budget, **best._asdict()})
    _, exponent = power_law(list(WIDTHS), [best["n_params"] for best in minima])
    truth = entropy()
    intervals = {key: interval([getattr(other, key) for other in laws]) for key in (*law._fields, "exponent")}
    store("isoflop", chosen, {
        "entropy": truth, "held_out_stories": len(held_out()), "points": points, "minima": minima,
        "exponent_of_minima": exponent, "law": law._asdict(), "exponent": law.exponent, "intervals_95": intervals,
        "laws": [list(other) for other in laws],
    })  # fmt: skip
    low, high = intervals["E"]
    print(f"fitted E {law.E:.3f} nats a token, 95% {low:.3f} to {high:.3f}; true entropy {truth:.3f}")
    low, high = intervals["exponent"]
    print(f"N_opt ~ C^{law.exponent:.2f}, 95% {low:.2f} to {high:.2f}; by the parabolas' minima {exponent:.2f}")


if __name__ == "__main__":
    main()
