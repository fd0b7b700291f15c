"""AdamW against Muon: steps to a loss, each at the learning rate that is best for it, three seeds.

Run: python benchmarks/results/optimizers.py     about 6 minutes on one core
"""

from store import arguments, store

from llmkit.training.sweeps import steps_to, train_optimizer, tune

ADAMW_GRID = (4e-3, 8e-3, 1.6e-2, 3.2e-2)
MUON_GRID = (0.02, 0.04, 0.08)  # with AdamW's own best rate for embeddings and norms; then that is tuned too
N_SEEDS = 3


def main() -> None:
    chosen = arguments(__doc__)
    seed = chosen.seed
    tuning = tune(lambda lr: train_optimizer("adamw", lr, seed=seed), ADAMW_GRID)
    adamw = best(tuning)["lr"]
    muon_lrs = tune(lambda lr: train_optimizer("muon", lr, adamw, seed=seed), MUON_GRID)
    muon = best(muon_lrs)["lr"]
    rest = tune(lambda lr: train_optimizer("muon", muon, lr, seed=seed), (adamw / 2, adamw, adamw * 2))
    muon_adamw = best(rest)["adamw_lr"]
    tuning += muon_lrs + rest
    for point in tuning:
        print({key: point[key] for key in ("optimizer", "lr", "adamw_lr", "loss")}, flush=True)
    runs = []
    for seed in range(chosen.seed, chosen.seed + N_SEEDS):
        runs += [train_optimizer("adamw", adamw, seed=seed), train_optimizer("muon", muon, muon_adamw, seed=seed)]
    target = max(run["loss"] for run in runs if run["optimizer"] == "adamw")  # every AdamW run gets there
    for run in runs:
        run["steps_to_target"] = steps_to(run["losses"], target)
        print(run["optimizer"], run["seed"], round(run["loss"], 3), run["steps_to_target"])
    tuning = [{key: value for key, value in point.items() if key != "losses"} for point in tuning]
    store("optimizers", chosen, {"target": target, "tuning": tuning, "runs": runs})


def best(points: list[dict]) -> dict:
    return min(points, key=lambda point: point["loss"])


if __name__ == "__main__":
    main()
