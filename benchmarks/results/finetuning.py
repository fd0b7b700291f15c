"""A general model learns Python: full and LoRA at many rates, ranks, targets; replay, warm-up.

Run: python benchmarks/results/finetuning.py     about 5 minutes on one core, from the base of base_for_finetuning.py
"""

from store import arguments, store

from llmkit.finetuning import experiments
from llmkit.finetuning.lora import LoRAConfig
from llmkit.training.sweeps import tune

FULL = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
ADAPTER = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
RANKS = (1, 2, 4, 16, 32)
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def main() -> None:
    chosen = arguments(__doc__)
    base, _ = experiments.load_base()
    points: list[dict] = []

    def run(name: str, lr: float, lora: LoRAConfig | None = None, **options) -> dict:
        options = {"seed": chosen.seed, **options}
        _, point = experiments.tune_on_code(base, lr, lora, **options)
        point = {"name": name, "rank": lora and lora.rank, **experiments.rounded(point)}
        points.append(point)
        print(point, flush=True)
        return {**point, "loss": point["code"]}

    def best(name: str, grid: tuple, lora: LoRAConfig | None = None) -> dict:
        return min(tune(lambda lr: run(name, lr, lora), grid), key=lambda point: point["loss"])

    adapter = LoRAConfig(rank=8, alpha=16)
    full, lora = best("full", FULL), best("lora", ADAPTER, adapter)
    for seed in (chosen.seed + 1, chosen.seed + 2):
        for factor in (0.5, 1, 2):
            run("full", full["lr"] * factor, seed=seed)
            run("lora", lora["lr"] * factor, adapter, seed=seed)
    for seed in (chosen.seed, chosen.seed + 1):
        for replay in (0.1, 0.3):
            run("full", full["lr"], replay=replay, seed=seed)
            run("lora", lora["lr"], adapter, replay=replay, seed=seed)
        for warmup in (0.0, 0.5):
            run("full", full["lr"], warmup=warmup, seed=seed)
        run("not re-warmed", 0.1 * experiments.BASE_LR, warmup=0.0, seed=seed)  # where the base's schedule ended
    for lr in FULL[-2:]:
        run("embeddings frozen", lr, freeze="transformer.embed")
    run("embeddings frozen", 2 * FULL[-1], freeze="transformer.embed")
    best("attention", ADAPTER[2:], LoRAConfig(rank=20, alpha=40, targets=ATTENTION))  # as many parameters
    for rank in RANKS:
        best("lora", ADAPTER[2:], LoRAConfig(rank=rank, alpha=16))
    store("finetuning", chosen, {
        "base": experiments.bits_per_byte(base), "perfect": experiments.perfect_bits_per_byte(),
        "best": {"full": full["lr"], "lora": lora["lr"]}, "n_steps": experiments.STEPS, "points": points,
    })  # fmt: skip


if __name__ == "__main__":
    main()
