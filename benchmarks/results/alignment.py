"""From SFT to a policy that pleases a judge: reward models, best of n, DPO, PPO, and what they do to the truth.

Run: python benchmarks/results/alignment.py     about 19 minutes on one core, from the model of align_sft.py
alignment.partial.json is written anew after each seed; "seeds_done" says how many it holds. It becomes alignment.json
when all seeds are done, and then the reward model is stored: a run that is stopped changes nothing that lessons read.
"""

import time

import torch
from store import arguments, store

from llmkit.alignment import toyland
from llmkit.alignment.best_of_n import best_of_n_kl_bound
from llmkit.alignment.preferences import pair_accuracy
from llmkit.alignment.reward import reward_model
from llmkit.alignment.toyland_truth import (
    best_of_curve,
    end_id,
    judge,
    measure,
    proxy_scores,
    texts_of,
    true_scores,
    win_rate,
)
from llmkit.checkpoints.safetensors import save_safetensors
from llmkit.data.toyland.preferences import mood_stories, openings
from llmkit.finetuning.toyland_chat import fine_tune

SIZES, REWARD_STEPS = (64, 256, 1280), 120
NS = (1, 2, 4, 8, 16, 32, 64)
PARTIAL = "alignment.partial"
TEST, POOL, TRAIN = 7, 8, 9  # seeds of openings, the same for every seed of the run


def main() -> None:
    chosen = arguments(__doc__, seeds=3, tests=200, pool=32, ppo_steps=toyland.PPO_STEPS, dpo_steps=100)
    sft, tokenizer = toyland.load_sft()
    runs, kept = [], {}
    for seed in range(chosen.seed, chosen.seed + chosen.seeds):
        pipeline = Pipeline(sft, tokenizer, seed, chosen)
        runs.append(pipeline.run())
        kept = kept or pipeline.kept
        store(PARTIAL, chosen, {
            "seeds_done": len(runs), "beta": toyland.BETA, "sizes": SIZES, "reward_steps": REWARD_STEPS, "ns": NS,
            "source": source(chosen.tests), "runs": runs,
        })  # fmt: skip
    (chosen.out / f"{PARTIAL}.json").replace(chosen.out / "alignment.json")
    save_safetensors(kept, chosen.out / toyland.REWARD)


class Pipeline:
    """One seed: its pairs, its reward models, its policies, all judged on the same openings."""

    def __init__(self, sft, tokenizer, seed: int, chosen):
        self.sft, self.tokenizer, self.seed, self.chosen = sft, tokenizer, seed, chosen
        self.end = end_id(tokenizer)
        self.tests, self.pool, self.prompts = (
            toyland.prompt_ids(tokenizer, openings(n, at))
            for n, at in ((chosen.tests, TEST), (chosen.pool, POOL), (2000, TRAIN))
        )
        self.found: dict[str, dict] = {}
        self.paths: dict[str, list] = {}
        self.kept: dict[str, torch.Tensor] = {}  # the reward model of the most pairs, as it is stored

    def run(self) -> dict:
        pairs = toyland.compare(self.sft, self.tokenizer, max(SIZES), 10 + self.seed)
        others = toyland.compare(self.sft, self.tokenizer, 384, 20 + self.seed)
        self.rewards = {n: self.reward(pairs.first(n)) for n in SIZES}
        rewards = {n: accuracies(model, pairs.first(n), others) for n, model in self.rewards.items()}
        self.say("rewards", rewards)
        self.proxy = self.rewards[max(SIZES)]
        curves = self.curves()
        self.say("best of n", curves)
        self.baseline = self.judged("SFT", self.sft)
        self.judged("SFT again", self.sft)  # the control of all win rates
        self.best_of(16)
        self.judged("rejection SFT", self.rejection_sft())
        self.judged("DPO", self.dpo(pairs))
        few, many = (lambda p, a, n=n: proxy_scores(self.rewards[n], p, a) for n in (min(SIZES), max(SIZES)))
        noise = torch.Generator().manual_seed(self.seed)
        self.ppo("PPO", many, toyland.BETA)
        self.ppo("PPO, no KL", many, 0.0)
        self.ppo("PPO, no KL, few pairs", few, 0.0)
        self.ppo("PPO, random reward", lambda p, a: torch.randn(len(a), generator=noise), toyland.BETA)
        self.ppo("PPO on the truth", lambda p, a: 2 * true_scores(self.tokenizer, p, a), toyland.BETA)
        return {
            "seed": self.seed, "ceiling": round(pairs.ceiling, 4), "ceiling_of_others": round(others.ceiling, 4),
            "labels_right": round(right(pairs.lead), 4), "rewards": rewards, "best_of_n": curves,
            "methods": self.found, "paths": self.paths,
        }  # fmt: skip

    def reward(self, pairs):
        """In 16 bits a weight, as it is stored: the lesson's is then the same."""
        model = toyland.train_reward(self.sft, pairs, REWARD_STEPS, self.seed)
        halves = {name: tensor.half() for name, tensor in model.state_dict().items()}
        if len(pairs.prompts) == max(SIZES):
            self.kept = halves
        again = reward_model(self.sft)
        again.load_state_dict({name: tensor.float() for name, tensor in halves.items()})
        return again.requires_grad_(False)

    def curves(self) -> dict:
        """Best of n by each reward model, and by the truth: the true score for each n, and the chooser's own."""
        n_answers = max(NS)
        prompts = [prompt for prompt in self.pool for _ in range(n_answers)]
        answers = toyland.many_answers(self.sft, prompts, self.end, torch.Generator().manual_seed(30 + self.seed))
        true = true_scores(self.tokenizer, prompts, answers).view(-1, n_answers)
        choosers = {str(n): proxy_scores(m, prompts, answers).view(-1, n_answers) for n, m in self.rewards.items()}
        return {
            name: [rounded(point) for point in best_of_curve(scores, true, NS)]
            for name, scores in {**choosers, "truth": true}.items()
        }

    def answers(self, policy):
        """Drawn anew for each method: with the same numbers a policy that hardly moved would give SFT's own answers."""
        generator = torch.Generator().manual_seed(1000 * (self.seed + 1) + len(self.found))
        rollout = toyland.sample_answers(policy, self.sft, self.tests, self.end, generator)
        return rollout.answers(), (rollout.log_probs - rollout.ref_log_probs).sum(1).mean().item()

    def judged(self, name: str, policy):
        return self.keep(name, *self.answers(policy))

    def keep(self, name: str, answers, kl: float):
        found = measure(self.tokenizer, self.tests, answers, self.proxy, kl)
        figures = {key: value and round(value, 4) for key, value in found.as_json().items() if key != "scores"}
        won = win_rate(found.scores, (self.baseline if self.found else found).scores)
        self.found[name] = {**figures, "win_rate": rounded(won), "answers": texts_of(self.tokenizer, answers[:3])}
        self.say(name, {**figures, "win_rate": rounded(won)}, self.found[name]["answers"][:2])
        return found

    def best_of(self, n: int) -> None:
        many = [prompt for prompt in self.tests for _ in range(n)]
        answers = toyland.many_answers(self.sft, many, self.end, torch.Generator().manual_seed(50 + self.seed))
        best = proxy_scores(self.proxy, many, answers).view(-1, n).argmax(1).tolist()
        self.keep(f"best of {n}", [answers[n * i + j] for i, j in enumerate(best)], best_of_n_kl_bound(n))

    def rejection_sft(self, n: int = 8, n_prompts: int = 384, n_steps: int = 40):
        """The best of n answers by the reward model, shown to the SFT model as if they were demonstrations."""
        prompts = self.prompts[:n_prompts]
        many = [prompt for prompt in prompts for _ in range(n)]
        answers = toyland.many_answers(self.sft, many, self.end, torch.Generator().manual_seed(60 + self.seed))
        best = proxy_scores(self.proxy, many, answers).view(-1, n).argmax(1).tolist()
        shown = toyland.demonstrations(prompts, [answers[n * i + j] for i, j in enumerate(best)])
        policy = toyland.policy_of(self.sft)
        fine_tune(policy, shown, n_steps, 64, lr=0.005, seed=self.seed)
        return policy.eval()

    def dpo(self, pairs):
        policy, log = toyland.train_dpo(self.sft, pairs, self.chosen.dpo_steps, self.seed)
        kept = ("loss", "chosen", "rejected", "margin", "accuracy")
        self.paths["DPO"] = [rounded([float(getattr(step, key)) for key in kept]) for step in log[::10]]
        return policy

    def ppo(self, name: str, reward, beta: float) -> None:
        path = self.paths[name] = []

        n = self.chosen.ppo_steps

        def watch(step, prompts, rollout, scores):
            if step % 4 and step < n - 1:
                return
            kl = (rollout.log_probs - rollout.ref_log_probs).sum(1).mean().item()
            true = true_scores(self.tokenizer, prompts, rollout.answers())
            path.append([step, *rounded([kl, scores.mean().item(), true.mean().item()])])

        policy = toyland.train_ppo(self.sft, self.prompts, self.end, reward, beta, self.seed, n_steps=n, watch=watch)
        self.judged(name, policy)

    def say(self, *what) -> None:
        print(round(time.process_time()), self.seed, *what, flush=True)


def accuracies(model, pairs, others) -> dict:
    """On its own pairs, on others; and on those others that differ, how often it names the truly better answer."""
    scores = [proxy_scores(model, side.prompts, x) for side in (pairs, others) for x in (side.chosen, side.rejected)]
    differ = others.lead.abs() > 1e-6
    better = (scores[2] > scores[3])[differ] == (others.lead > 0)[differ]
    own, new = pair_accuracy(*scores[:2]), pair_accuracy(*scores[2:])
    return dict(zip(("own", "new", "names_better"), rounded([own, new, better.float().mean().item()]), strict=True))


def right(lead) -> float:
    """Of the labels of pairs that differ, how many name the better answer: what the noise leaves of them."""
    return (lead[lead.abs() > 1e-6] > 0).float().mean().item()


def source(n: int) -> dict:
    """What the true source's own continuations are worth."""
    stories = mood_stories(n, TEST)
    _, tokenizer = toyland.load_sft()
    prompts = toyland.prompt_ids(tokenizer, [opening for opening, _ in stories])
    found = judge(tokenizer, prompts, [tokenizer.encode(answer) for _, answer in stories])
    nats = -sum(one.log_prob for one in found) / sum(one.n_words + 1 for one in found)
    return {"score": round(sum(one.score for one in found) / n, 4), "nats_per_word": round(nats, 4)}


def rounded(values) -> list[float]:
    return [round(value, 4) for value in values]


if __name__ == "__main__":
    main()
