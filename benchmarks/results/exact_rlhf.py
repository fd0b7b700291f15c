"""RLHF against its exact optimum: how near each method comes to J*, in the small world where all answers are counted.

Run: python benchmarks/results/exact_rlhf.py     about a minute on one core
"""

from store import arguments, store

from llmkit.alignment.best_of_n import best_of_n_distribution
from llmkit.alignment.exact import kl, log_probs, objective, optimum
from llmkit.alignment.small_runs import by_dpo, by_exact_gradient, by_grpo, by_ppo
from llmkit.alignment.small_world import small_world

REINFORCE = {"std": "none", "reduction": "dr_grpo"}


def main() -> None:
    chosen = arguments(__doc__)
    world = small_world(chosen.seed)
    policies = {
        "the reference": lambda: world.model,
        "gradient over all answers": lambda: by_exact_gradient(world),
        "PPO, 300 steps of 288 answers": lambda: by_ppo(world),
        "REINFORCE, KL in the reward": lambda: by_grpo(world, kl="reward", **REINFORCE)[0],
        "GRPO, KL in the reward": lambda: by_grpo(world, kl="reward")[0],
        "REINFORCE, k3 in the loss": lambda: by_grpo(world, kl="loss", **REINFORCE)[0],
        "DPO, 500 pairs": lambda: by_dpo(world, 500, 60),
        "DPO, 512,000 pairs": lambda: by_dpo(world, 512_000, 150),
    }
    tables = {name: log_probs(make(), world.prompts).detach() for name, make in policies.items()}
    for n in (4, 64):
        tables[f"best of {n} by the true reward"] = best_of_n_distribution(world.ref_log_probs, world.rewards, n)
    best = optimum(world.ref_log_probs, world.rewards, world.beta)
    store("exact_rlhf", chosen, {
        "beta": world.beta, "best": best.value.mean().item(),
        "policies": {name: {
            "J": objective(table, world.ref_log_probs, world.rewards, world.beta).mean().item(),
            "kl_to_best": kl(table, best.log_probs).mean().item(),
            "kl_to_reference": kl(table, world.ref_log_probs).mean().item(),
            "reward": (table.exp() * world.rewards).sum(-1).mean().item(),
        } for name, table in tables.items()},
    })  # fmt: skip


if __name__ == "__main__":
    main()
