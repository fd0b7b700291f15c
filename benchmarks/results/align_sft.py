"""The SFT model that lessons 17 and 18 start from: it goes on with stories whose mood the true source knows.

Run: python benchmarks/results/align_sft.py     about a minute on one core; then alignment.py anew
"""

import torch
from store import arguments

from llmkit.alignment import toyland
from llmkit.checkpoints.pretrained import save_pretrained


def main() -> None:
    chosen = arguments(__doc__)
    tokenizer = toyland.train_tokenizer()
    model = toyland.train_sft(tokenizer, chosen.seed)
    save_pretrained(model.to(torch.float16), chosen.out / toyland.SFT, tokenizer)
    print(f"wrote {chosen.out / toyland.SFT}")


if __name__ == "__main__":
    main()
