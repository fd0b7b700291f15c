"""A training step of GPT-2 124M, float32: llmkit's model and AdamW against transformers' and torch's, as a ratio.

python benchmarks/step.py [BATCH] [LENGTH]
"""

import torch
import transformers
from timing import interleaved, report, whole_numbers

from llmkit.models.gpt2 import SIZES, gpt2
from llmkit.training.losses import next_token_loss
from llmkit.training.optim import AdamW, clip_gradients, decay_groups


def main(batch: int = 2, length: int = 256) -> None:
    ids = torch.randint(50257, (batch, length))
    ours = gpt2(SIZES["gpt2"]).train()
    our_optimizer = AdamW(decay_groups(ours), lr=1e-4)
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**no_dropout)).train()
    their_optimizer = torch.optim.AdamW(decay_groups(theirs), lr=1e-4)

    def our_step() -> None:
        our_optimizer.zero_grad()
        next_token_loss(ours(ids), ids).backward()
        clip_gradients(ours.parameters(), 1.0)
        our_optimizer.step()

    def their_step() -> None:
        their_optimizer.zero_grad()
        theirs(ids, labels=ids, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        their_optimizer.step()

    our_time, their_time = interleaved(our_step, their_step)
    report(f"GPT-2 124M, training step of {batch} x {length} tokens", our_time, their_time, required=1.0)


if __name__ == "__main__":
    main(*whole_numbers(__doc__))
