"""Every family against transformers, read through its files: the largest relative difference, float32.

Run: python benchmarks/results/parity.py     needs llmkit[peers]; half a minute
"""

import sys
import tempfile
from pathlib import Path

import torch
from store import arguments, store
from torch.nn import functional as F

import llmkit

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from parity import ENCODERS, MODELS, SEQ2SEQ, ids_for, make_theirs, relative_error, transformers  # noqa: E402


def outputs(theirs, ours, is_seq2seq: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of both, or hidden states where there is no head; in training, both with the same random numbers."""
    ids = {"input_ids": ids_for(theirs)}
    if is_seq2seq:
        ids["decoder_input_ids"] = ids_for(theirs, (3, 11), seed=2)
    torch.manual_seed(0)
    out = theirs(**ids)
    torch.manual_seed(0)
    return (out.logits if "logits" in out else out.last_hidden_state), ours(*ids.values())


def table_gradient(out: torch.Tensor, tables: list[torch.nn.Parameter]) -> torch.Tensor:
    """What reaches the token embedding through all layers; of two tables, one of them the output's, the sum."""
    target = torch.randint(0, out.size(-1), out.shape[:-1], generator=torch.Generator().manual_seed(3))
    return sum(torch.autograd.grad(F.cross_entropy(out.flatten(0, -2), target.flatten()), tables))


def measure(name: str) -> dict[str, float]:
    """With noise on every parameter, and freshly initialised: small numbers show an eps that large ones hide.

    With noise also in training, where there is dropout: from the same seed the same numbers have to be dropped.
    """
    found = {}
    for label, noise in (("noise", 0.1), ("fresh", 0.0)):
        theirs = make_theirs(name, noise)
        with tempfile.TemporaryDirectory() as folder:
            theirs.save_pretrained(folder)
            ours, _ = llmkit.from_pretrained(folder)
        expected, got = outputs(theirs, ours, name in SEQ2SEQ)
        found[label] = relative_error(expected, got)
        if noise:
            ours_in = (ours.encoder if name in SEQ2SEQ else ours.transformer).embed.tokens.weight
            theirs_in, theirs_out = theirs.get_input_embeddings().weight, theirs.get_output_embeddings()
            # transformers 5 ties T5 v1.1's output to the table, whatever its config says
            tied = theirs_out is not None and theirs_out.weight is theirs_in and ours.lm_head.weight is not ours_in
            our_tables = [ours_in, ours.lm_head.weight] if tied else [ours_in]
            found["gradient"] = relative_error(table_gradient(expected, [theirs_in]), table_gradient(got, our_tables))
            if any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in ours.modules()):
                found["dropout"] = relative_error(*outputs(theirs.train(), ours.train(), name in SEQ2SEQ))
    return found


def main() -> None:
    chosen = arguments(__doc__)
    rows = {name: measure(name) for name in (*MODELS, *ENCODERS, *SEQ2SEQ)}
    store("parity", chosen, {"transformers": transformers.__version__, "models": rows})


if __name__ == "__main__":
    main()
