"""Which learning rate is best at which width, in the standard parametrisation and in muP.

Run: python benchmarks/results/transfer.py     about 8 minutes on one core
"""

from functools import partial

from store import arguments, store

from llmkit.training.isoflop import isoflop_minimum
from llmkit.training.sweeps import BASE_WIDTH, train_transfer, tune

WIDTHS = (32, 64, 128, 256)
GRID = (4e-3, 8e-3, 1.6e-2, 3.2e-2)


def main() -> None:
    chosen = arguments(__doc__)
    points, optima = [], []
    for width in WIDTHS:
        curves = {kind: tune(partial(train_transfer, width, kind, seed=chosen.seed), GRID) for kind in kinds(width)}
        if width == BASE_WIDTH:  # the same model with the same learning rates: trained once
            curves["sp"] = [{**point, "parametrization": "sp"} for point in curves["mup"]]
        for kind, curve in curves.items():
            points += curve
            optima.append(optimum(curve))
            print(kind, width, [(p["lr"], round(p["loss"], 3)) for p in curve], optima[-1]["lr"], flush=True)
    store("transfer", chosen, {"base_width": BASE_WIDTH, "points": points, "optima": optima})


def kinds(width: int) -> tuple[str, ...]:
    return ("mup",) if width == BASE_WIDTH else ("mup", "sp")


def optimum(curve: list[dict]) -> dict:
    """The lowest point of a parabola in log lr through the best point and its neighbours."""
    best = min(range(len(curve)), key=lambda i: curve[i]["loss"])
    near = curve[best - 1 : best + 2]
    lowest = isoflop_minimum([point["lr"] for point in near], [point["loss"] for point in near])
    return {key: near[1][key] for key in ("width", "parametrization")} | {"lr": lowest.n_params, "loss": lowest.loss}


if __name__ == "__main__":
    main()
