"""Lesson 18: PPO against the reward model with a price on KL; what it gained by the truth, and what else it changed."""

from pathlib import Path
from typing import Any

from llmkit.alignment.toyland import BETA, prompt_ids, train_ppo
from llmkit.alignment.toyland_truth import end_id, proxy_scores, true_scores, win_rate
from llmkit.checkpoints.safetensors import read_json

from . import common, instruct, prefer
from .plan import Plan

NAME = "5_reinforce"


def run(plan: Plan, out: Path) -> dict[str, Any]:
    """From the SFT model, not from DPO's, so that both are compared with the same start."""
    sft, tokenizer = common.load(out / instruct.NAME)
    reward = prefer.load_reward(sft, out / prefer.NAME)
    tested = set(prefer.fresh_openings(plan, plan.answers, prefer.ASKED))
    asked = [o for o in prefer.fresh_openings(plan, plan.openings + plan.answers, prefer.PPO) if o not in tested]
    curve = []

    def score(prompts: Any, answers: Any) -> Any:
        return proxy_scores(reward, prompts, answers)

    def watch(step: int, prompts: Any, rollout: Any, scores: Any) -> None:
        true = true_scores(tokenizer, prompts, rollout.answers()).mean()
        kl = (rollout.log_probs - rollout.ref_log_probs).sum(1).mean()
        curve.append([step, float(scores.mean()), float(true), float(kl)])

    policy = train_ppo(
        sft, prompt_ids(tokenizer, asked), end_id(tokenizer), score, BETA, plan.seed, n_steps=plan.ppo_steps,
        n_answers=plan.ppo_answers, lr=1e-3 * prefer.WIDTH / plan.d_model, watch=watch,
    )  # fmt: skip
    common.save(policy, tokenizer, out / NAME)
    before = read_json(out / prefer.NAME / "result.json")["measured"]
    ppo = prefer.judged(policy, sft, tokenizer, reward, plan, 3)
    items = {split: common.test_items(plan, split) for split in instruct.SPLITS}
    return {
        "curve": curve, "beta": BETA, "answers_seen": plan.ppo_steps * plan.ppo_answers,
        "measured": ppo.as_json(),
        "wins": {name: list(win_rate(ppo.scores, before[name]["scores"])) for name in ("sft", "dpo")},
        "instructions": instruct.measure(policy, tokenizer, items),
        "story_bits": common.domain(tokenizer, plan).bits(policy),
    }  # fmt: skip
