"""Lesson 13's longer runs: stories read once or many times, and one WSD run against a cosine run for each length.

Run: python benchmarks/results/pretraining.py     about 3 minutes on one core
"""

from store import arguments, store

from llmkit.training.rehearsals import curves, entropy, many_runs, measured, one_run_many_lengths, repeated

TIMES = (1, 2, 4, 8, 16)
LENGTHS = (75, 150, 300)
GRID = (0.02, 0.04, 0.08, 0.16)
N_SEEDS = 3


def main() -> None:
    chosen = arguments(__doc__)
    seeds = range(chosen.seed, chosen.seed + N_SEEDS)
    runs = []
    for times in TIMES:
        for seed in seeds:
            trainer = repeated(times, seed=seed)
            trainer.fit()
            found = curves(trainer)
            runs.append({"times": times, "seed": seed, "held_out": found["held_out"],
                         "training_loss": sum(found["losses"][-20:]) / 20})  # fmt: skip
            print("read", times, "times, seed", seed, round(measured(found), 3), flush=True)
    tuning = []
    for lr in GRID:
        for name, run in (("wsd", one_run_many_lengths), ("cosine", many_runs)):
            loss = measured(run(LENGTHS[1:2], chosen.seed, lr)[LENGTHS[1]])
            tuning.append({"schedule": name, "lr": lr, "length": LENGTHS[1], "loss": loss})
            print(tuning[-1], flush=True)
    best = {
        name: min((one for one in tuning if one["schedule"] == name), key=lambda one: one["loss"])["lr"]
        for name in ("wsd", "cosine")
    }
    schedules = []
    for seed in seeds:
        found = {
            "wsd": one_run_many_lengths(LENGTHS, seed, best["wsd"]),
            "cosine": many_runs(LENGTHS, seed, best["cosine"]),
            "cosine to 0": many_runs(LENGTHS, seed, best["cosine"], floor=0.0),
        }
        for name, run in found.items():
            for length in LENGTHS:
                point = {"schedule": name, "lr": best[name.split()[0]], "seed": seed, "length": length}
                schedules.append(point | {"loss": measured(run[length])})
                print(schedules[-1], flush=True)
    store("pretraining", chosen, {"entropy": entropy(), "repeats": runs, "tuning": tuning, "schedules": schedules})


if __name__ == "__main__":
    main()
