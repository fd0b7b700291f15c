"""The general model that lesson 15 starts from: stories, and a little of Python's documentation.

Run: python benchmarks/results/base_for_finetuning.py     about 2 minutes on one core; then finetuning.py anew
"""

import torch
from store import arguments

from llmkit.checkpoints.pretrained import save_pretrained
from llmkit.finetuning import experiments


def main() -> None:
    chosen = arguments(__doc__, steps=experiments.BASE_STEPS)
    tokenizer = experiments.train_tokenizer()
    model = experiments.train_base(tokenizer, chosen.steps, chosen.seed)
    save_pretrained(model.to(torch.float16), chosen.out / experiments.BASE, tokenizer)
    print(f"wrote {chosen.out / experiments.BASE}: {experiments.bits_per_byte(model.float())}")


if __name__ == "__main__":
    main()
