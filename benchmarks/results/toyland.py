"""How close a small model comes to the exact entropy of the village: minutes on two cores, then a longer run.

Run: python benchmarks/results/toyland.py [--seconds 180] [--stories 12000] [--width 128] [--layers 2]
The writing of the stories comes on top of the seconds.

Closed is (unigram - model) / (unigram - exact), in nats a story, on whole held-out stories; above is how far the
model's loss stays over the entropy itself.
"""

import math
import time
from collections import Counter

import torch
from store import arguments, store

from llmkit.data import toyland
from llmkit.data.batches import document_batches
from llmkit.models.speedrun import SpeedrunConfig, narrow_stream, speedrun
from llmkit.training.losses import next_token_loss
from llmkit.training.muon import Muon
from llmkit.training.precision import bf16_is_fast
from llmkit.training.sweeps import CHUNK, encode, held_out, held_out_loss, vocabulary, written


def unigram_loss(documents: list[list[int]], validation: list[list[int]]) -> float:
    """Nats a token of the words' frequencies, each counted once more than it occurs."""
    counts = Counter(i for document in documents for i in document[1:])
    total = sum(counts.values()) + len(vocabulary())
    targets = [i for document in validation for i in document[1:]]
    return -sum(math.log((counts[i] + 1) / total) for i in targets) / len(targets)


def train(documents: list[list[int]], seconds: float, seed: int, sizes: SpeedrunConfig, batch: int, lr: float,
          adamw_lr: float, hold: float, steps: int | None = None) -> tuple[torch.nn.Module, int, float]:  # fmt: skip
    """By the clock, as benchmarks/shakespeare.py does; gives the model, its steps and the passes over the stories."""
    torch.manual_seed(seed)
    model, bf16 = speedrun(sizes), bf16_is_fast(torch.device("cpu"))
    if bf16:
        narrow_stream(model)
    optimizer = Muon(model, lr, adamw_lr, weight_decay=0.0)
    begin, step, share = time.perf_counter(), 0, 0.0
    for ids, mask in document_batches(documents, batch, seed):
        if share >= 1:
            break
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = next_token_loss(model(ids), ids, mask)
        loss.backward()
        optimizer.lr = lr * min(1.0, (step + 1) / 50) * (1.0 if share < hold else (1 - share) / (1 - hold))
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        share = step / steps if steps else (time.perf_counter() - begin) / seconds
        if step % 200 == 0:
            print(f"step {step}, {share:.0%}: {loss.item():.3f}", flush=True)
    return model.eval(), step, step * batch / len(documents)


def measure(seconds: float, n_stories: int, seed: int, sizes: SpeedrunConfig, **options) -> dict:
    documents = [encode(text) for chunk in range(n_stories // CHUNK) for text in written(seed, chunk)]
    validation = [encode(text) for text in held_out()]
    model, steps, epochs = train(documents, seconds, seed, sizes, **options)
    tokens = sum(len(document) - 1 for document in validation)
    exact = -sum(math.fsum(toyland.VILLAGE.word_log_probs(text)) for text in held_out()) / tokens
    loss, unigram = held_out_loss(model), unigram_loss(documents, validation)
    return {
        "seconds": seconds, "stories": n_stories, "steps": steps, "epochs": epochs, "n_params": model.n_params(),
        "tokens_per_story": tokens / len(validation), "unigram": unigram, "entropy": exact, "loss": loss,
        "closed": (unigram - loss) / (unigram - exact), "above_entropy": loss / exact - 1, **options,
    }  # fmt: skip


def main() -> None:
    chosen = arguments(__doc__, seconds=180.0, stories=20_000, width=128, layers=2)
    torch.set_num_threads(2)
    sizes = SpeedrunConfig(len(vocabulary()), chosen.width, chosen.layers, n_heads=chosen.width // 32, tie=True)
    measured = measure(chosen.seconds, chosen.stories, chosen.seed, sizes, batch=8, lr=0.05, adamw_lr=2e-2, hold=0.4)
    line = "closed {closed:.2%}; {loss:.4f} nats a token, entropy {entropy:.4f}: {above_entropy:.1%} above"
    print(line.format(**measured))
    store(f"toyland_{chosen.seconds:.0f}s", chosen, measured)


if __name__ == "__main__":
    main()
