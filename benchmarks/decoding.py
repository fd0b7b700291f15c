"""GPT-2 124M, float32, one text: tokens a second of llmkit's generate against transformers', as a ratio.

    python benchmarks/decoding.py [NEW_TOKENS]

Random weights (speed does not depend on them), the same in both. The two take turns, so that whatever else the
machine does hits both; the shortest of several runs counts.
"""

import tempfile

import torch
import transformers
from timing import interleaved, report, whole_numbers

import llmkit
from llmkit.generation.generate import generate
from llmkit.models.gpt2 import SIZES, gpt2


def main(n_new: int = 64) -> None:
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        llmkit.save_pretrained(gpt2(SIZES["gpt2"]), folder)
        ours, _ = llmkit.from_pretrained(folder)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    for n_prompt in (16, 512):
        ids = torch.randint(50257, (1, n_prompt))
        options = {"max_new_tokens": n_new, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        expected = theirs.generate(ids, **options)
        assert torch.equal(generate(ours, ids, n_new), expected), "the two do not write the same tokens"
        our_time, their_time = interleaved(
            lambda ids=ids: generate(ours, ids, n_new), lambda ids=ids, options=options: theirs.generate(ids, **options)
        )
        report(f"GPT-2 124M, prompt of {n_prompt}, {n_new} new tokens", our_time, their_time, required=1.0)


if __name__ == "__main__":
    main(*whole_numbers(__doc__))
