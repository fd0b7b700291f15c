"""How close a small model comes to the exact entropy of the village: in minutes on two cores, and with more time.

Run: python benchmarks/results/toyland.py [--seconds 180] [--steps 24000]     25 minutes, writing the stories too

The first run goes by the clock, on two threads; the second by its steps, on one, so that it can be repeated. Closed is
(unigram - model) / (unigram - exact), in nats a story, on whole held-out stories; above is how far the model's loss
stays over the entropy itself.
"""

import math
import time
from collections import Counter

import torch
from store import arguments, store

from llmkit.data import toyland
from llmkit.data.batches import document_batches
from llmkit.layers.heads import CausalLM
from llmkit.models.speedrun import SpeedrunConfig, narrow_stream, speedrun
from llmkit.training.losses import next_token_loss
from llmkit.training.muon import Muon
from llmkit.training.precision import bf16_is_fast
from llmkit.training.sweeps import CHUNK, encode, held_out, held_out_loss, vocabulary, written

WIDTH, BATCH = 128, 8


def unigram_loss(documents: list[list[int]], validation: list[list[int]]) -> float:
    """Nats a token of the words' frequencies, each counted once more than it occurs."""
    counts = Counter(i for document in documents for i in document[1:])
    total = sum(counts.values()) + len(vocabulary())
    targets = [i for document in validation for i in document[1:]]
    return -sum(math.log((counts[i] + 1) / total) for i in targets) / len(targets)


def train(documents: list[list[int]], seed: int, n_layers: int, seconds: float = 0.0, n_steps: int = 0,
          lr: float = 0.05, adamw_lr: float = 2e-2, hold: float = 0.4) -> tuple[CausalLM, int]:  # fmt: skip
    """n_steps, or as many as `seconds` hold: the rate stays for a share `hold` of them and then falls to 0."""
    torch.manual_seed(seed)
    model = speedrun(SpeedrunConfig(len(vocabulary()), WIDTH, n_layers, n_heads=WIDTH // 32, tie=True))
    bf16 = bf16_is_fast(torch.device("cpu"))
    if bf16:
        narrow_stream(model)
    optimizer = Muon(model, lr, adamw_lr, weight_decay=0.0)
    begin, step, share = time.perf_counter(), 0, 0.0
    for ids, mask in document_batches(documents, BATCH, seed, multiple_of=8):
        if share >= 1:
            break
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = next_token_loss(model(ids), ids, mask)
        loss.backward()
        optimizer.lr = lr * min(1.0, (step + 1) / 50) * min(1.0, (1 - share) / (1 - hold))
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        share = step / n_steps if n_steps else (time.perf_counter() - begin) / seconds
        if step % 500 == 0:
            print(f"step {step}, {share:.0%}: {loss.item():.3f}", flush=True)
    return model.eval(), step


def measure(n_stories: int, seed: int, threads: int, **options) -> dict:
    """The run's sizes, its loss and what it is compared with."""
    torch.set_num_threads(threads)
    documents = [encode(text) for chunk in range(-(-n_stories // CHUNK)) for text in written(seed, chunk)]
    validation = [encode(text) for text in held_out()]
    model, steps = train(documents, seed, **options)
    tokens = sum(len(document) - 1 for document in validation)
    exact = -sum(math.fsum(toyland.VILLAGE.word_log_probs(text)) for text in held_out()) / tokens
    loss, unigram = held_out_loss(model), unigram_loss(documents[:12_000], validation)
    found = {
        **options, "threads": threads, "stories": min(len(documents), BATCH * steps), "steps": steps,
        "n_params": model.n_params(),
        "unigram": unigram, "entropy": exact, "loss": loss, "closed": (unigram - loss) / (unigram - exact),
        "above": loss / exact - 1,
    }  # fmt: skip
    print("{loss:.4f} nats a token, entropy {entropy:.4f}: {closed:.2%} closed, {above:.1%} above".format(**found))
    return found


def main() -> None:
    chosen = arguments(__doc__, seconds=180.0, steps=24_000)
    found = {"minutes": measure(64_000, chosen.seed, threads=2, n_layers=2, seconds=chosen.seconds)}
    store("toyland", chosen, found)
    found["long"] = measure(8 * chosen.steps, chosen.seed, threads=1, n_layers=3, n_steps=chosen.steps)
    store("toyland", chosen, found)


if __name__ == "__main__":
    main()
