"""A race on tiny Shakespeare, characters: nanoGPT's recipe for CPUs against llmkit's, by the clock.

python benchmarks/shakespeare.py --text FILE [--nanogpt FOLDER] [--steps N] [--compile] [--json OUT] [--figure PNG]

Both train in this process, one after the other, with two threads. nanoGPT's split (the last tenth is held out) and its
evaluation: 200 random batches of 12 with a context of 64, the same for both. The time of evaluations does not count.

nanogpt   the published settings: 4 layers, 4 heads, width 128, context 64, batch 12, 2,000 iterations, AdamW 1e-3 ->
          1e-4, betas 0.9 and 0.99, 100 steps of warm-up, no dropout. Its own model.py with --nanogpt, else the same
          GPT-2 of transformers
llmkit    models/speedrun.py with Muon, bfloat16 where the CPU has instructions for it; it is given a share of the
          seconds that nanogpt took, and its learning rate falls with the clock
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from timing import interleaved
from torch import Tensor, nn

from llmkit.models.gpt2 import GPT2Config, gpt2
from llmkit.models.speedrun import SpeedrunConfig, narrow_stream, speedrun
from llmkit.training.losses import packed_loss
from llmkit.training.muon import Muon
from llmkit.training.optim import AdamW, clip_gradients, decay_groups
from llmkit.training.precision import bf16_is_fast

CONTEXT, BATCH = 64, 12


def read(path: str) -> tuple[Tensor, Tensor, int]:
    """Ids of the first nine tenths, of the last, and how many characters there are."""
    text = Path(path).read_text(encoding="utf-8")
    number = {char: i for i, char in enumerate(sorted(set(text)))}
    ids = torch.tensor([number[char] for char in text])
    cut = int(0.9 * len(ids))
    return ids[:cut], ids[cut:], len(number)


def batch(ids: Tensor, size: int, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    starts = torch.randint(len(ids) - context, (size,), generator=generator)
    rows = starts[:, None] + torch.arange(context + 1)
    rows = ids[rows]
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


@torch.no_grad()
def evaluate(loss: Callable, validation: Tensor, context: int = CONTEXT) -> float:
    """Nats a character on 200 batches, the same for every model."""
    generator = torch.Generator().manual_seed(1337)
    return sum(float(loss(*batch(validation, BATCH, context, generator))) for _ in range(200)) / 200


class Clock:
    """Seconds of training: it stands still while something is evaluated."""

    def __init__(self):
        self.total, self.since = 0.0, time.perf_counter()

    def now(self) -> float:
        return self.total + time.perf_counter() - self.since

    def pause(self, work: Callable) -> float:
        self.total = self.now()
        value = work()
        self.since = time.perf_counter()
        return value


def nanogpt_model(vocab_size: int, folder: str | None, bias: bool = False) -> tuple[nn.Module, Callable]:
    """(model, loss): nanoGPT's own file if there is a folder, else the same model of transformers."""
    torch.manual_seed(1337)
    if folder:
        sys.path.insert(0, folder)
        from model import GPT, GPTConfig

        model = GPT(GPTConfig(CONTEXT, vocab_size, 4, 4, 128, dropout=0.0, bias=bias))
        return model, lambda ids, targets: model(ids, targets)[1]
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size, CONTEXT, 128, 4, 4, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = GPT2LMHeadModel(config)

    def loss(ids: Tensor, targets: Tensor) -> Tensor:
        logits = model(ids, use_cache=False).logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return model, loss


def run_nanogpt(train: Tensor, validation: Tensor, vocab_size: int, folder: str | None, steps: int) -> dict:
    model, loss = nanogpt_model(vocab_size, folder)
    groups = [{"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
              {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(1337)
    curve, clock = [], Clock()
    for step in range(steps):
        share = (step - 100) / (steps - 100)
        lr = 1e-3 * (step + 1) / 101 if step < 100 else 1e-4 + 0.45e-3 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss(*batch(train, BATCH, CONTEXT, generator)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 250 == 0 or step + 1 == steps:
            value = clock.pause(lambda: evaluate(loss, validation))
            curve.append((round(clock.total, 2), round(value, 4)))
    return {"seconds": clock.total, "loss": curve[-1][1], "steps": steps, "curve": curve,
            "tokens_per_second": steps * BATCH * CONTEXT / clock.total}  # fmt: skip


def run_llmkit(
    train: Tensor, validation: Tensor, vocab_size: int, seconds: float, compiled: bool = False,
    steps: int | None = None, context: int = 128, rows: int = 16, heads: int = 2, lr: float = 0.02,
    adamw_lr: float = 6e-3, hold: float = 0.3, seed: int = 0, evaluations: int = 8,
) -> dict:  # fmt: skip
    """With steps, the schedule follows them instead of the clock: to compare settings on a busy machine."""
    torch.manual_seed(seed)
    model, bf16 = speedrun(SpeedrunConfig(vocab_size, n_heads=heads)), bf16_is_fast(torch.device("cpu"))
    if bf16:
        narrow_stream(model)
    optimizer = Muon(model, lr, adamw_lr, weight_decay=0.0)

    def loss(ids: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return packed_loss(model, ids, targets).objective / targets.numel()

    generator = torch.Generator().manual_seed(seed)
    compiling = time.perf_counter()
    if compiled:
        model.compile()
    loss(*batch(train, rows, context, generator)).backward()  # the first step of a process is slow in any framework
    optimizer.zero_grad()
    compiling = time.perf_counter() - compiling
    curve, clock, step, share = [], Clock(), 0, 0.0
    while share < 1:
        rate = min(1.0, (step + 1) / 20) * (1.0 if share < hold else (1 - share) / (1 - hold))
        loss(*batch(train, rows, context, generator)).backward()
        optimizer.lr = lr * rate
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        share = step / steps if steps else clock.now() / seconds
        if share * evaluations >= len(curve) + 1 or share >= 1:
            value = clock.pause(lambda: evaluate(loss, validation))
            curve.append((round(clock.total, 2), round(value, 4)))
    return {"seconds": clock.total, "loss": curve[-1][1], "loss_own_context": evaluate(loss, validation, context),
            "steps": step, "curve": curve, "tokens_per_second": step * rows * context / clock.total,
            "compile_seconds": compiling if compiled else 0.0, "bf16": bf16}  # fmt: skip


def equal_steps(train: Tensor, vocab_size: int, folder: str | None, compiled: bool) -> dict[str, float]:
    """Tokens a second of nanoGPT's model and of llmkit's GPT-2 of the same sizes, biases in both, each with its AdamW.

    All take turns. llmkit's in float32, in bfloat16 where the CPU has instructions for it, and both compiled.
    """
    ids, targets = batch(train, BATCH, CONTEXT, torch.Generator().manual_seed(0))
    theirs, their_loss = nanogpt_model(vocab_size, folder, bias=True)
    optimizer = torch.optim.AdamW(theirs.parameters(), 1e-3)

    def their_step() -> None:
        their_loss(ids, targets).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def our_step(bf16: bool, compiled: bool) -> Callable[[], None]:
        model = gpt2(GPT2Config(vocab_size, CONTEXT, 128, 4, 4))
        optimizer = AdamW(decay_groups(model), 1e-3)
        if compiled:
            model.compile()

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = packed_loss(model, ids, targets).objective / targets.numel()
            loss.backward()
            clip_gradients(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return step

    steps = {"nanoGPT, eager": their_step}
    for how in (False, True) if compiled else (False,):
        for bf16 in (False, True) if bf16_is_fast(torch.device("cpu")) else (False,):
            steps[f"llmkit, {'compiled' if how else 'eager'}{', bfloat16' * bf16}"] = our_step(bf16, how)
    seconds = interleaved(*(lambda step=step: [step() for _ in range(20)] for step in steps.values()))
    return dict(zip(steps, (20 * ids.numel() / each for each in seconds), strict=True))


def draw(results: dict, path: str) -> None:
    """Loss by seconds of training, both, as a PNG."""
    from llmkit.viz.style import COLORS, figure, use_house_style

    use_house_style()
    fig, axis = figure(height=3.2)
    theirs = results["nanogpt"]
    axis.plot(*zip(*theirs["curve"], strict=True), color=COLORS["control"])
    axis.text(*theirs["curve"][-1], "  nanoGPT", color=COLORS["control"], va="center")
    for row in results["llmkit"]:
        axis.plot(*zip(*row["curve"], strict=True), color=COLORS["model"])
        whole = row["share"] == "all"  # the shorter runs end beside the longest one: their names stand below it
        name, where = ("  llmkit", {"va": "center"}) if whole else (f"{row['share']} ", {"va": "top", "ha": "right"})
        axis.text(*row["curve"][-1], name, color=COLORS["model"], **where)
    axis.set(xlabel="seconds of training, 2 cores", ylabel="nats a character, held out")
    axis.set_xlim(0, 1.2 * theirs["seconds"])
    least = min((row["seconds"] for row in results["llmkit"] if row["loss"] <= theirs["loss"]), default=None)
    ahead = "not reached" if least is None else f"in {least / theirs['seconds']:.0%} of its time"
    axis.set_title(f"Tiny Shakespeare: nanoGPT's loss {ahead}")
    fig.savefig(path, dpi=150, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="tinyshakespeare.txt")
    parser.add_argument("--nanogpt", help="folder with nanoGPT's model.py")
    parser.add_argument("--steps", type=int, default=2000, help="iterations of nanoGPT")
    parser.add_argument("--compile", action="store_true", help="a second row with torch.compile, its seconds shown")
    parser.add_argument("--json", help="write the results here")
    parser.add_argument("--figure", help="write the curves here, a PNG")
    options = parser.parse_args()
    if not Path(options.text).exists():
        sys.exit(f"{options.text} is not here: give tiny Shakespeare with --text")
    if options.nanogpt and not (Path(options.nanogpt) / "model.py").exists():
        sys.exit(f"{options.nanogpt} has no model.py: name nanoGPT's folder with --nanogpt")
    torch.set_num_threads(2)
    train, validation, vocab_size = read(options.text)
    if len(validation) <= (longest := 2 * CONTEXT):  # of the two contexts that are evaluated
        sys.exit(f"the last tenth of {options.text} has {len(validation)} characters: {longest + 1} are needed")
    speeds = equal_steps(train, vocab_size, options.nanogpt, options.compile)
    for name, speed in speeds.items():
        print(f"equal model   {name:26} {speed:8,.0f} tokens/s   {speed / speeds['nanoGPT, eager']:.2f}x")
    theirs = run_nanogpt(train, validation, vocab_size, options.nanogpt, options.steps)
    speed = f"{theirs['tokens_per_second']:,.0f} tokens/s"
    print(f"nanoGPT       {theirs['seconds']:6.1f} s   loss {theirs['loss']:.3f}   {speed}")
    ours = []
    for share, compiled in ((1 / 6, False), (1 / 4, False), (1, False), *([(1, True)] if options.compile else [])):
        row = run_llmkit(train, validation, vocab_size, theirs["seconds"] * share, compiled)
        row["share"] = {1 / 6: "1/6", 1 / 4: "1/4", 1: "all"}[share]
        ours.append(row)
        compiling = f", after {row['compile_seconds']:.0f} s of compiling" if compiled else ""
        print(
            f"llmkit {row['share']:>4}   {row['seconds']:6.1f} s   loss {row['loss']:.3f} "
            f"({row['loss_own_context']:.3f} with context 128)   {row['tokens_per_second']:,.0f} tokens/s{compiling}"
        )
    results = {"equal": speeds, "nanogpt": theirs, "llmkit": ours}
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if options.figure:
        draw(results, options.figure)


if __name__ == "__main__":
    main()
