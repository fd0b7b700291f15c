# %% [markdown]
# # 14 · Scaling: precision, parallelism, laws
#
# **You will** find out what a larger model asks for: fewer bits a number, many machines that add up their gradients, steps of another shape, another learning rate; and you will fit the law that says how large it should be, next to the one number that nobody else can draw beside it, the true entropy.
#
# **Before** you start: lessons 05 (loss, AdamW, the training loop), 06 (LLaMA) and 13 (the trainer; the token mean). From torch and numpy you need `tensor_split`, `@`, `norm`, and `np.polyfit`; each exercise names its calls.
#
# **Time** about 85 minutes for four exercises, 40 more for three that are optional. All cells together compute for about half a minute. The long sweeps are stored; this lesson draws them, and trains one of their points again before your eyes.

# %% tags=["setup"]
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import llmkit
from llmkit import results
from llmkit.course import check, gpu_section, hint, progress, start
from llmkit.viz import COLORS, figure, show

start("14_scaling", solved=True)
threads = torch.get_num_threads()
torch.set_num_threads(1)  # the fastest for models as small as ours

# %% [markdown]
# ## One budget, five sizes
#
# You have a fixed amount of computing, and no more. A small model reads a lot of text with it, a large one little. Which is better?
#
# The text is the village, the small world of lesson 05, and every story is read once. Computing is counted in **FLOPs**, single multiplications and additions; our smallest budget is $1.2 \cdot 10^{11}$. Five LLaMAs of two layers spent exactly that. This was done before (`python benchmarks/results/isoflop.py`, seed 0) and stored. So that you need not believe it, the widest of the five is now trained again.
#
# **Guess** first: which width gave the lowest loss, 8, 16, 24, 32 or 48?

# %%
guess_width = None

# %%
from llmkit.training.sweeps import train_isoflop

stored = results.load("isoflop")
smallest = [point for point in stored["points"] if point["budget"] == min(p["budget"] for p in stored["points"])]
live = max(smallest, key=lambda point: point["width"])
again = train_isoflop(live["width"], live["budget"], live["lr"], live["seed"])
print("width  parameters   tokens read   loss (nats a token)")
for point in smallest:
    print(f"{point['width']:5} {point['n_params']:11,} {point['n_tokens']:13,}   {point['loss']:.3f}")
best_width = min(smallest, key=lambda point: point["loss"])["width"]
print(f"\nwidth {live['width']} trained again, just now:  {again['loss']:.3f}")
print(f"the best is width {best_width}; you guessed {guess_width}")
assert again["n_tokens"] == live["n_tokens"] and abs(again["loss"] - live["loss"]) < 0.05

# %% [markdown]
# Every row cost the same. The smallest model read nine times as much text as the widest; it had no room for what it read. The widest had room, and not enough to read. In between there is a best size.
#
# At a hundred thousand parameters such a sweep takes minutes. Nobody can sweep at seventy billion, so one has to know *beforehand*: **how large a model, on how much text, with which learning rate, and how is it to be spread over the machines?** This lesson goes through the answers in the order in which they hurt: first the numbers, then the machines, then the steps, then the size.
#
# ## Fewer bits a number
#
# A model of $N$ parameters in 32-bit numbers takes $4N$ bytes, and all of them travel through the chip for every batch. In 16 bits it is half of that, and the units that multiply matrices are many times as fast. But 16 bits must be shared between two things: how large a number may become (the exponent), and how finely it is divided (the rest).

# %% tags=["nbval-check-output"]
print("format     smallest gap after 1    largest number   smallest above 0")
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    kind = torch.finfo(dtype)
    tiniest = torch.tensor(1, dtype=torch.int16 if kind.bits == 16 else torch.int32).view(dtype).item()
    print(f"{str(dtype)[6:]:9}   1/{1 / kind.eps:<12,.0f}        {kind.max:14.3g}   2^{math.log2(tiniest):.0f}")
half = torch.tensor(60_000.0, dtype=torch.float16)
print(f"\n60,000 + 60,000 in float16: {(half + half).item()}; 1e-8 in float16: {torch.tensor(1e-8).half().item()}")
print(f"in bfloat16: {(half.bfloat16() + half.bfloat16()).item():,.0f}; {torch.tensor(1e-8).bfloat16().item():.3g}")

# %% [markdown]
# float16 counts finely and breaks off early, at both ends. bfloat16 has the reach of float32, and gaps so wide that 60,000 twice is not quite 120,000. Neither is good at everything. What does go wrong?
#
# ### Exercise 14.1 · a thousand small steps · ●○○ · 4 min
#
# A weight of 1.0 is kept in bfloat16. A thousand times you add 0.003 to it, and each time the result is rounded to the nearest number that bfloat16 has. What is the weight in the end? Predict it; the cell after next does it.

# %%
after_steps = None
# BEGIN SOLUTION
after_steps = 1.0  # the next number is 1 + 1/128 = 1.0078; 1.003 is nearer to 1, each time
# END SOLUTION
after_steps = check(after_steps, "14.1")

# %% tags=["nbval-check-output"]
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    weight = torch.tensor(1.0, dtype=dtype)
    for _ in range(1000):
        weight = (weight + 0.003).to(dtype)
    print(f"{str(dtype)[6:]:9} {weight.item():.3f}")

# %% [markdown]
# Nothing crashes and nothing is NaN; in bfloat16 the weight does not move. (float16 is wrong as well, in the other direction: above 2 its numbers are 1/512 apart, and 0.003 is rounded up to two of these gaps.) In a real model the sizes differ from weight to weight, so let us count. We train a small model for a moment and ask, for several learning rates: if every weight were kept in 16 bits and had to move by the learning rate (as with Adam it does, more or less), how many would stay where they are?

# %%
from llmkit.training.losses import next_token_loss
from llmkit.training.optim import AdamW
from llmkit.training.sweeps import batches, build

model, groups = build(64, "sp")
optimizer, stream = AdamW(groups, 0.008), batches(8)
for _ in range(12):
    ids, mask = next(stream)
    optimizer.zero_grad()
    next_token_loss(model(ids), ids, mask).backward()
    optimizer.step()
matrices = torch.cat([p.detach().flatten() for p in model.parameters() if p.dim() == 2])
standing = {}
print("learning rate   stand still in bfloat16   float16   float32")
for lr in (1e-2, 1e-3, 1e-4, 1e-5):
    standing[lr] = []
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        kept = matrices.to(dtype)
        standing[lr].append(((kept - lr).to(dtype) == kept).float().mean().item())
    print("{:13.0e}   {:23.1%}   {:7.1%}   {:7.1%}".format(lr, *standing[lr]))
assert standing[1e-2][0] < 0.01 and standing[1e-4][0] > 0.6 and standing[1e-5][2] < 0.01

# %% [markdown]
# At the learning rates of our tiny models nobody would notice. At $10^{-4}$, where large models are trained, most weights in bfloat16 could not take a single step. Hence **mixed precision**: matrix products in 16 bits, and beside them a *master copy* of the weights in 32 bits, to which the steps are added. `torch.autocast` does the first half.
#
# The second thing that goes wrong is at the lower end. Gradients are small numbers. Where do those of our model lie, and where does float16 end?

# %%
ids, mask = (x[:2] for x in next(stream))  # float16 is slow on a CPU: two stories


def gradient_of(scale=1.0, dtype=None):
    """All gradients in one row, from a forward pass with products in `dtype`; the loss times scale, and back."""
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        logits = model(ids)
    (next_token_loss(logits, ids, mask) * scale).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()]) / scale


exact = gradient_of()
sizes = exact[exact != 0].abs().log2()
below = (sizes < -14).float().mean().item()
fig, axis = figure(height=2.7)
axis.hist(sizes.numpy(), bins=80, color=COLORS["model"])
axis.axvspan(-24, -14, color=COLORS["bad"], alpha=0.15, linewidth=0)
axis.axvspan(-34, -24, color=COLORS["bad"], alpha=0.35, linewidth=0)
top = axis.get_ylim()[1]
axis.text(-19, 0.97 * top, "float16 loses\ndigits", ha="center", va="top", fontsize=9)
axis.text(-27, 0.97 * top, "float16: 0", ha="center", va="top", fontsize=9)
axis.set(xlabel="size of a gradient, log2", ylabel="how many", xlim=(-32, 0))
axis.set_title(f"{below:.0%} of the gradients lose digits in float16")
show(
    fig,
    alt=f"Histogram of gradient sizes from 2^-32 to 2^-4. {below:.0%} lie below 2^-14, where float16 has fewer digits, "
    f"{(sizes < -24).float().mean():.2%} below 2^-24, where it has nothing.",
)
print("products in      loss times   error of the gradient   gradients that became 0")
errors = {}
for dtype, scale in (
    (torch.bfloat16, 1),
    (torch.bfloat16, 2**-6),
    (torch.float16, 1),
    (torch.float16, 2**-6),
    (torch.float16, 2**10),
    (torch.float16, 2**24),
):
    got = gradient_of(scale, dtype)
    errors[dtype, scale] = ((got - exact).norm() / exact.norm()).item()
    lost = ((got == 0) & (exact != 0)).float().mean().item()
    shown = f"{errors[dtype, scale]:.2%}" if math.isfinite(errors[dtype, scale]) else "not finite"
    print(f"{str(dtype)[6:]:14} {scale:12,.6g}   {shown:>21}   {lost:23.2%}")
assert (
    0.1 < errors[torch.float16, 2**-6] < 0.5
    and errors[torch.float16, 2**10] < 0.01
    and not math.isfinite(errors[torch.float16, 2**24])
)

# %% [markdown]
# The two rows with $2^{-6}$ = 0.015625 stand for a larger batch. The loss is a mean over tokens, so each token's part in it is divided by their number, and the gradients inside the model with it. Here we have two stories; with 64 times as many, every number on its way back would be 64 times as small. (A weight's gradient is a sum over all tokens and shrinks less. Multiplying the loss shrinks it as well, so the last column shows more zeros than a real batch would.) float16, which did well on two, then gets a good part of the gradient wrong, and loses some of its numbers altogether. bfloat16 does not notice.
#
# The cure for float16 is one multiplication: the loss times 1,024 makes everything 1,024 times as large on its way back, and before the step the gradients are divided again, in 32 bits. This is **loss scaling**. With too large a factor the other end is reached, and what comes out is not finite. So the factor is found by trying: `torch.amp.GradScaler` begins with 65,536, halves it and skips the step when anything is not finite, and doubles it after 2,000 steps that went well.
#
# bfloat16 needs none of this, for it reaches as far as float32. It pays with digits: it has three bits fewer for them, and its error is several times that of float16 with scaling. For training this has turned out to be enough, and so bfloat16 is what one uses where the hardware has it.
#
# ## Adding up over machines
#
# Now many machines. The plainest way is **data parallel**: each of $n$ machines (a *rank*) holds the whole model and takes its share of the batch. Then all gradients are averaged, and everybody takes the same step. The gradient of a mean is the mean of the gradients, so this is the same training, only faster.
#
# For the mean, all ranks have to learn the sum of all gradients: an **all-reduce**. If everybody sent everything to one rank, that rank would receive $n - 1$ times the model and send it back as often. The ring does it better. Each rank cuts its gradients into $n$ pieces and only ever talks to its neighbour:
#
# 1. *reduce-scatter*, $n - 1$ steps: pass a piece on, add the piece that comes in to your own. In the end each rank has the complete sum of one piece.
# 2. *all-gather*, $n - 1$ steps: pass the complete pieces round.
#
# ### Exercise 14.2 · ring_all_reduce · ●●● · 20 min · optional
#
# Write `ring_all_reduce(tensors)` for ranks that live in one list: `tensors[r]` is what rank $r$ has, all of shape (N,). Give back the list of sums, one for each rank, and a list with how many numbers each rank sent. The docstring says which piece is sent when. Do not change what is given, and count what is really sent: pieces need not be of one length.
#
# (`torch.tensor_split(x, n)` cuts into n pieces, some of them empty where N is less than n; `torch.cat` joins them.)

# %% tags=["exercise"]
from llmkit.training.ring import ring_all_reduce

# %%
ring_all_reduce = check(ring_all_reduce)

# %% tags=["nbval-check-output"]
from llmkit.training.parallelism import all_reduce_bytes

print("ranks   each sends, for a gradient of 1,200 numbers   by the formula   all to one and back: that one sends")
for n in (2, 3, 4, 8, 100):
    given = [torch.full((1200,), float(r)) for r in range(n)]
    sums, sent = ring_all_reduce(given)
    assert all((x == n * (n - 1) / 2).all() for x in sums)
    print(f"{n:5}   {max(sent):45,}   {all_reduce_bytes(1200, n):14,.0f}   {1200 * (n - 1):36,}")

# %% [markdown]
# $2 (n - 1) / n$ times the gradient, and so never more than twice, however many ranks there are. This is why data parallel training scales.
#
# ## Two processes, by hand and by DDP
#
# Let us do it for real: two processes on this machine, which have nothing in common but a connection. `torchrun` starts the same script twice and tells each process its number. In the script a model is trained three times, on the same six batches: once with the gradients averaged by three lines of our own, once with the same three lines and one bug (the sum is not divided), and once with torch's `DistributedDataParallel`, DDP.

# %%
SCRIPT = """
import sys
import torch
import torch.distributed as dist
from llmkit.models.llama import LlamaConfig, llama
from llmkit.training.losses import next_token_loss
from llmkit.training.optim import AdamW, clip_gradients, decay_groups

dist.init_process_group("gloo")
rank, n = dist.get_rank(), dist.get_world_size()
config, folder = LlamaConfig(64, 32, n_layers=1, n_heads=2, d_ff=64), sys.argv[1]
report = {}
for way in ("averaged", "summed", "DDP"):
    torch.manual_seed(0)
    model = llama(config)
    forward = torch.nn.parallel.DistributedDataParallel(model) if way == "DDP" else model
    optimizer = AdamW(decay_groups(model), 0.01)
    norms = []
    for ids in torch.load(f"{folder}/batches.pt"):
        mine = ids.chunk(n)[rank]
        optimizer.zero_grad()
        next_token_loss(forward(mine), mine).backward()
        if way != "DDP":
            for p in model.parameters():
                dist.all_reduce(p.grad)             # now it is the sum, on both
                if way == "averaged":
                    p.grad /= n
        norms.append(clip_gradients(model.parameters(), 1e9))
        optimizer.step()
    report[way] = torch.cat([p.detach().flatten() for p in model.parameters()]), norms
if rank == 0:
    torch.save(report, f"{folder}/report.pt")
dist.barrier()  # leave together: one that goes early can make the other's connection abort
dist.destroy_process_group()
"""


def in_two_processes(script, folder):
    """Run a script under torchrun with two processes that can import llmkit."""
    (folder / "script.py").write_text(script, encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(llmkit.__file__).parents[1])}
    if sys.platform == "win32":
        environment["USE_LIBUV"] = "0"  # which torch for Windows comes without
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(folder / "script.py"), str(folder)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


from llmkit.models.llama import LlamaConfig, llama
from llmkit.training.optim import clip_gradients, decay_groups

texts = torch.randint(64, (6, 8, 24), generator=torch.Generator().manual_seed(0))
texts[..., 1::2] = (texts[..., 0::2] * 5 + 3) % 64  # every second token follows from the one before
with tempfile.TemporaryDirectory() as name:
    torch.save(texts, Path(name) / "batches.pt")
    in_two_processes(SCRIPT, Path(name))
    report = torch.load(Path(name) / "report.pt")

torch.manual_seed(0)
alone = llama(LlamaConfig(64, 32, n_layers=1, n_heads=2, d_ff=64))
first = torch.cat([p.detach().flatten() for p in alone.parameters()])
rule, norms = AdamW(decay_groups(alone), 0.01), []
for ids_ in texts:
    rule.zero_grad()
    next_token_loss(alone(ids_), ids_).backward()
    norms.append(clip_gradients(alone.parameters(), 1e9))
    rule.step()
one = torch.cat([p.detach().flatten() for p in alone.parameters()])
moved = (one - first).abs().max().item()
print(f"one process: the weights moved by up to {moved:.3f}; gradient norm of the last step {norms[-1]:.3f}\n")
for way, (two, their_norms) in report.items():
    difference = (two - one).abs().max().item()
    print(
        f"two processes, {way:8}: largest difference of a weight {difference:.0e}; gradient norm {their_norms[-1]:.3f}"
    )
same = (report["averaged"][0] - report["DDP"][0]).abs().max().item()
print(f"by hand against DDP: {same:.0e}")
assert (report["averaged"][0] - one).abs().max() < 1e-3 * moved and same < 1e-3 * moved

# %% [markdown]
# By hand and by DDP: the weights of one process, up to rounding (sums in another order). What DDP does better is the time. It does not wait for the end of the backward pass, but sends the gradients of the last layers while those of the first are still being computed.
#
# And the bug? **Summed instead of averaged is nearly invisible.** The weights are the same up to a small difference, because AdamW divides by the size of the gradients: twice the gradient, the same step. (Muon does too.) The norm gives it away, it is twice what it should be, and whatever looks at it is led astray: clipping cuts where it should not, and SGD would walk twice as far. If the gradient norm in your log grows with the number of GPUs, look there.
#
# One trap of lesson 13 is waiting here as well: the mean of two means is the mean of all only if both ranks have equally many tokens. Ours have. `llmkit`'s trainer counts the tokens of all ranks before it divides.
#
# ## Where the bytes go
#
# A data-parallel rank holds the whole model, and in mixed precision with Adam that means for each parameter: 2 bytes of weight and 2 of gradient in 16 bits, and 12 bytes for the optimiser, in 32 bits: the master copy, the mean, and the square. **16 bytes a parameter**, before a single activation. And every rank keeps the same.
#
# That is waste, and **ZeRO** removes it in stages. Stage 1: each rank keeps the optimiser's state of only $1/n$ of the parameters, makes their step, and sends the new weights round. Stage 2: the gradients are cut up too. Stage 3: so are the weights, which are gathered layer by layer when they are needed; PyTorch calls this FSDP, fully sharded data parallel.
#
# ### Exercise 14.3 · memory · ●○○ · 8 min
#
# Write `memory(n_params, n_ranks, zero_stage, weight_bytes, gradient_bytes, optimizer_bytes)`: the bytes on *one* rank for weights, gradients and optimiser, as a `Memory` (or a plain tuple in that order). Raise a `ValueError` for a stage that is not 0, 1, 2 or 3, and for less than one rank.

# %% tags=["show"]
from llmkit.training.parallelism import Memory

# %% tags=["exercise"]
from llmkit.training.parallelism import memory

# %%
memory = check(memory)

# %%
GB = 1e9
fig, axis = figure(height=2.9)
parts = ("weights", "gradients", "optimizer")
colors = (COLORS["model"], COLORS["key"], COLORS["control"])
per_stage = [Memory(*memory(7.5e9, 64, stage)) for stage in range(4)]
left = np.zeros(4)
for part, color in zip(parts, colors, strict=True):
    values = np.array([getattr(m, part) for m in per_stage]) / GB
    axis.barh(range(4), values, left=left, color=color)
    axis.text(left[0] + min(values[0] / 2, 20), -0.62, part.replace("z", "s"), ha="center", va="center", fontsize=8)
    left = left + values
for stage, m in enumerate(per_stage):
    axis.text(sum(m) / GB + 1.5, stage, f"{sum(m) / GB:.1f}", va="center", fontsize=9)
axis.axvline(80, color=COLORS["truth"], linewidth=1)
axis.text(81, 3.35, "a GPU of 80 GB", fontsize=9, va="center")
axis.set_yticks(range(4), ["each holds all", "ZeRO 1", "ZeRO 2", "ZeRO 3 (FSDP)"])
axis.set_ylim(3.6, -0.95)
axis.set(xlabel="gigabytes on each of 64 GPUs, 7.5 billion parameters", xlim=(0, 130))
axis.set_title("The optimiser is three quarters of it, and the first to be cut up")
show(
    fig,
    alt="Bars of memory a GPU for 7.5 billion parameters on 64 GPUs: "
    + ", ".join(f"stage {stage} {sum(m) / GB:.1f} GB" for stage, m in enumerate(per_stage)),
)

# %% [markdown]
# These are the numbers of the ZeRO paper's first figure. What does it cost? Stage 1 and 2 send as much as before. An all-reduce *is* a reduce-scatter and an all-gather, with nothing said about what happens in between: a rank that has the complete sum of its piece can make the step for this piece, and then send round new weights instead of gradients. Stage 3 sends half as much again, for the weights have to be gathered twice, forward and backward.
#
# ## The page on 8, 64, 1,024 GPUs
#
# Data parallel is one way to cut. There are two more. **Tensor parallel** cuts every matrix: each rank multiplies by its part, and the parts are added up, four times in every layer, with everybody waiting; this needs the fast connections inside one machine. **Pipeline parallel** cuts the stack of layers: rank 1 has the first ten, rank 2 the next ten, and while the second works on one part of the batch (a *micro-batch*), the first has begun the next. At the start and the end of each step some stages have nothing to do, which is called the bubble. And with many machines one more thing becomes daily business: something breaks.
#
# All of this is arithmetic. A model of 70 billion parameters (80 layers of width 8,192) on 1.4 trillion tokens, batches of 4 million tokens in texts of 4,096:

# %% tags=["nbval-check-output"]
from llmkit.training.flops import six_nd
from llmkit.training.parallelism import (
    DAY,
    HOUR,
    LLAMA3_GPU,
    checkpoint_interval,
    lost_share,
    pipeline_bubble,
    tensor_parallel_bytes,
    time_between_failures,
    training_days,
)

N, D, BATCH, LENGTH = 70e9, 1.4e12, 2**22, 4096
TENSOR, NETWORK, NVLINK = 8, 50e9, 450e9  # GPUs in a machine; bytes a second and GPU, between machines and inside one
PEAK, USE = 989e12, 0.4  # an H100 in bfloat16, and the share of it that a good run gets
rows = {}


def row(name, unit, value):
    rows.setdefault(f"{name} ({unit})", []).append(value)


for n in (8, 64, 1024, 16_384):
    stages = 1 if n == 8 else 4
    copies = n // (TENSOR * stages)  # of the whole model; each works on a share of the batch
    share = BATCH // copies
    compute = six_nd(N, BATCH) / (n * PEAK * USE)
    row("state a GPU, each holds all", "GB", f"{sum(memory(N)) / GB:,.0f}")
    row("state a GPU, ZeRO 1", "GB", f"{sum(memory(N, n, 1)) / GB:,.0f}")
    row("state a GPU, ZeRO 3", "GB", f"{sum(memory(N, n, 3)) / GB:,.1f}")
    row("tensor x pipeline x data", "ranks", f"{TENSOR} x {stages} x {copies}")
    row("state a GPU, tensor x pipeline, ZeRO 1", "GB", f"{sum(memory(N / TENSOR / stages, copies, 1)) / GB:,.0f}")
    row("computing a step", "s", f"{compute:,.1f}")
    row(
        "sending gradients, between machines", "s", f"{all_reduce_bytes(2 * N / TENSOR / stages, copies) / NETWORK:.2f}"
    )
    within = tensor_parallel_bytes(8192, 80 // stages, share, TENSOR)
    row("sending activations, inside a machine", "s", f"{within / NVLINK:,.2f}")
    row("micro-batches of one text, each copy", "number", f"{share // LENGTH}")
    row("bubble of the pipeline", "share", f"{pipeline_bubble(stages, share // LENGTH):.1%}")
    between = time_between_failures(n, LLAMA3_GPU)
    every = checkpoint_interval(60, between)
    days = training_days(six_nd(N, D), n, PEAK, USE)
    row("training", "days", f"{days:,.1f}")
    row("between two failures", "hours", f"{between / HOUR:,.0f}")
    row("failures in the whole run", "number", f"{days * DAY / between:,.0f}")
    row("best time between checkpoints", "minutes", f"{every / 60:,.0f}")
    row("time lost to saving and failures", "share", f"{lost_share(60, every, between, 600):.1%}")
print(f"{'GPUs':46}" + "".join(f"{n:>12,}" for n in (8, 64, 1024, 16_384)))
for name, values in rows.items():
    print(f"{name:46}" + "".join(f"{value:>12}" for value in values))

# %% [markdown]
# Read it from left to right.
#
# - **8**: it does not fit. ZeRO 3 and tensor parallel both leave 140 GB on a GPU of 80. And it would take six years.
# - **64**: it fits once the weights themselves are cut, by ZeRO 3 or by tensor and pipeline parallel together; ZeRO 1 alone is not enough. The run takes nine months.
# - **1,024**: the state is no trouble any more. Now the pipeline's bubble shows, because each copy has only 32 micro-batches left to fill it with, and every second day something breaks.
# - **16,384**: computing a step takes a third of a second, and whatever does not shrink with it stands out. The bubble is more than half, since each copy has two micro-batches; one would make the batch larger or the pipeline shorter. A failure comes every three hours, and a sixth of all time goes into saving and repeating.
#
# The number of failures in the whole run does not depend on how many GPUs there are: half as many run twice as long. What grows is the *cost* of each, because all the others have to wait. (The failure rate is that of the Llama 3 report: 419 interruptions in 54 days on 16,384 GPUs. The network speeds are those on a data sheet, and nobody reaches them. Sending and computing overlap in part, so that one may not add up the rows.)
#
# ## Steps of another shape: Muon
#
# So far we have made the same steps faster. Are they good steps? Look at the gradients of our model once more. A matrix acts along pairs of directions; how strongly, its **singular values** say. Here is how much of the first layer's gradients lies in which direction, and what AdamW makes of it.

# %%
optimizer.zero_grad()
next_token_loss(model(ids), ids, mask).backward()
in_blocks = [p for name, p in model.named_parameters() if ".blocks." in name and p.dim() == 2]


def singular_values(updates):
    """Of all matrices, each divided by its largest."""
    values = [torch.linalg.svdvals(update.float()) for update in updates]
    return torch.cat([v / v[0] for v in values])


by_gradient = singular_values([p.grad for p in in_blocks])
by_adamw = singular_values([optimizer.mean[p] / (optimizer.square[p].sqrt() + 1e-8) for p in in_blocks])
for name, values in (("gradients", by_gradient), ("AdamW's steps", by_adamw)):
    print(f"{name:14} half of all directions get less than {values.median():.3f} of what the strongest one gets")

# %% [markdown]
# A few directions get nearly everything. AdamW evens it out a little, but it goes entry by entry and knows nothing of directions. **Muon** (Jordan et al. 2024) does: it takes the momentum matrix and replaces *all* its singular values by 1, so that rare directions learn as fast as common ones. That would need a singular value decomposition of every matrix in every step, which is slow. But there is a trick. Multiply a matrix $X$ by its own products,
#
# $$X \leftarrow a X + b\, (X X^\top) X + c\, (X X^\top)^2 X,$$
#
# and its directions stay while each singular value $s$ becomes $a s + b s^3 + c s^5$. (With $X = U S V^\top$, $X X^\top X = U S^3 V^\top$.) So a polynomial that drives every number between 0 and 1 towards 1 does the work with matrix products alone, and in bfloat16.
#
# ### Exercise 14.4 · orthogonalize · ●●○ · 12 min · optional
#
# Write `orthogonalize(x, steps)` for `x` of shape (N, A, B), N matrices at once. Divide each by its norm first (then no singular value is above 1), and then repeat the line above `steps` times. All in bfloat16. The transposition of tall matrices saves time and changes nothing; you may leave it out. (`x.norm(dim=(-2, -1), keepdim=True)` is one norm for each matrix, `.clamp(min=…)` a lower bound, `x.mT` the transposed, `@` multiplies all N at once.)

# %% tags=["exercise"]
from llmkit.training.muon import orthogonalize

# %%
orthogonalize = check(orthogonalize)

# %%
with torch.no_grad():
    by_muon = torch.cat([torch.linalg.svdvals(orthogonalize(p.grad[None])[0].float()) for p in in_blocks])
s = torch.linspace(0, 1, 400)
rounds = [s]
for _ in range(5):
    rounds.append(3.4445 * rounds[-1] - 4.7750 * rounds[-1] ** 3 + 2.0315 * rounds[-1] ** 5)
fig, axes = figure(2, height=3.0, width=7.2)
for k, color, spot in ((1, "#AAAAAA", (0.62, 1.24)), (2, "#777777", (0.1, 1.25)), (5, COLORS["good"], (0.5, 0.56))):
    axes[0].plot(s, rounds[k], color=color, linewidth=1.6)
    axes[0].text(*spot, f"{k} round{'s' * (k > 1)}", color=color, va="center", fontsize=9)
axes[0].set(xlabel="singular value before", ylabel="… and after", xlim=(0, 1.02), ylim=(0, 1.4))
axes[0].set_title("Five rounds lift all to about 1")
edges = np.linspace(0, 1.3, 40)
for values, name, color, alpha in (
    (by_gradient, "gradient", COLORS["control"], 0.8),
    (by_adamw, "AdamW", COLORS["model"], 0.6),
    (by_muon, "Muon", COLORS["good"], 0.7),
):
    axes[1].hist(values.numpy(), bins=edges, color=color, alpha=alpha, label=name)
axes[1].legend(loc="upper center", fontsize=9)
axes[1].set(xlabel="singular value (all but Muon's: over the largest)", ylabel="how many", xlim=(0, 1.3))
axes[1].set_title("… in a real step too")
lifted = rounds[5][s > 0.03]
middle = by_muon.quantile(torch.tensor([0.05, 0.95]))
show(
    fig,
    alt=f"Left: the polynomial after one, two and five rounds; after five, values above 0.03 lie between {lifted.min():.2f} and {lifted.max():.2f}. "
    f"Right: singular values of a real step. Median: gradient {by_gradient.median():.2f}, AdamW {by_adamw.median():.2f} of "
    f"the largest; Muon's lie between {middle[0]:.2f} and {middle[1]:.2f} (nine tenths of them).",
)
inside = ((by_muon > 0.6) & (by_muon < 1.25)).float().mean().item()
print(f"{inside:.1%} of the singular values are between 0.6 and 1.25; the smallest is {by_muon.min():.2f}")
assert inside > 0.85

# %% [markdown]
# Not exactly 1, and the directions that had next to nothing are still on their way. The coefficients were chosen to lift small values as fast as possible, and the price is that large ones end up anywhere between about 0.7 and 1.2. It does not matter for training, as its authors found. Is ours the same Muon as torch's?

# %%
from llmkit.training.muon import Muon, split_parameters

if hasattr(torch.optim, "Muon"):
    ours, theirs = build(64, "sp")[0], build(64, "sp")[0]
    hidden, rest = split_parameters(theirs)
    mine = Muon(ours, lr=0.02, adamw_lr=0.008, weight_decay=0.0)
    peer = torch.optim.Muon(hidden, lr=0.02, weight_decay=0.0, momentum=0.95)
    for _ in range(3):
        for m in (ours, theirs):
            m.zero_grad()
            next_token_loss(m(ids), ids, mask).backward()
        for p in rest:
            p.grad = None  # torch's Muon takes matrices only, so the others stay for this comparison
        for p in split_parameters(ours)[1]:
            p.grad = None
        mine.step(), peer.step()
    start_ = torch.cat([p.flatten() for p in split_parameters(build(64, "sp")[0])[0]])
    ends = [torch.cat([p.detach().flatten() for p in split_parameters(m)[0]]) for m in (ours, theirs)]
    relative = ((ends[0] - ends[1]).norm() / (ends[1] - start_).norm()).item()
    print(f"three steps of llmkit's Muon and of torch.optim.Muon differ by {relative:.1%} of their length (bfloat16)")
    assert relative < 0.1
else:
    print("torch.optim.Muon came with torch 2.9; this one is older")

# %% [markdown]
# ### AdamW against Muon
#
# A comparison of optimisers is worth as much as the tuning of the loser. So each got its own learning rate: AdamW's and Muon's from grids that were widened until the best lay inside, Muon's AdamW part (embeddings, norms) likewise. Then three seeds each. It is stored; `python benchmarks/results/optimizers.py` makes it again.

# %%
race = results.load("optimizers")
TUNED = {}
for name in ("adamw", "muon"):
    tried = [point for point in race["tuning"] if point["optimizer"] == name]
    TUNED[name] = min(tried, key=lambda point: point["loss"])
    print(f"{name}: {len(tried)} runs to tune; best at lr {TUNED[name]['lr']:g}", end="")
    print(f" and {TUNED[name]['adamw_lr']:g} for the rest" if name == "muon" else "")
at_low_rate = next(p["loss"] for p in race["tuning"] if (p["optimizer"], p["lr"]) == ("adamw", 0.004))
print(f"adamw at lr 0.004 ends at {at_low_rate:.2f}")
fig, axis = figure(height=3.0)
for name, label, color, up in (("adamw", "AdamW", COLORS["model"], 0.04), ("muon", "Muon", COLORS["good"], -0.03)):
    for run in (run for run in race["runs"] if run["optimizer"] == name):
        steps, losses = zip(*run["losses"], strict=True)
        axis.plot(steps, losses, color=color, linewidth=1.2)
    axis.text(steps[-1] + 4, losses[-1] + up, label, color=color, va="center", fontsize=9)
axis.axhline(race["target"], color=COLORS["control"], linewidth=1, linestyle="--")
axis.text(102, race["target"] + 0.02, "AdamW at its end (the worst seed)", color="#666666", fontsize=8)
needed = {
    name: [run["steps_to_target"] for run in race["runs"] if run["optimizer"] == name] for name in ("adamw", "muon")
}
saved = 1 - np.mean(needed["muon"]) / np.mean(needed["adamw"])
axis.set(xlabel="step", ylabel="held-out loss (nats a token)", ylim=(1.5, 2.6), xlim=(100, 330))
axis.set_title(f"Muon is at AdamW's final loss after {1 - saved:.0%} of the steps")
show(
    fig,
    alt=f"Held-out loss of three AdamW and three Muon runs from step 100 on. To a loss of {race['target']:.2f} AdamW needs "
    f"{np.mean(needed['adamw']):.0f} steps and Muon {np.mean(needed['muon']):.0f}.",
)
for name, steps in needed.items():
    ends_ = [run["loss"] for run in race["runs"] if run["optimizer"] == name]
    print(
        f"{name:6} steps to {race['target']:.3f}: {', '.join(f'{n:.0f}' for n in steps)};  final losses {', '.join(f'{x:.3f}' for x in ends_)}"
    )
rounds_cost = 0
for rows_, columns in ((min(p.shape), max(p.shape)) for p in in_blocks):
    rounds_cost += 5 * (2 * rows_**2 * columns + 2 * rows_**3 + 2 * rows_**2 * columns)
of_width_64 = next(p for p in stored["points"] if p["width"] == 64)
batch_cost = of_width_64["flops"] / of_width_64["n_steps"]
print(
    f"FLOPs a step: forward and backward {batch_cost:.2g} (8 stories), Muon's rounds {rounds_cost:.2g} more: {rounds_cost / batch_cost:.0%}"
)
by_step = {
    name: np.mean([dict(map(tuple, r["losses"]))[20] for r in race["runs"] if r["optimizer"] == name])
    for name in needed
}
print(f"after 20 steps: AdamW {by_step['adamw']:.2f}, Muon {by_step['muon']:.2f}")
assert (
    0.05 < saved < 0.25
    and 0.08 < rounds_cost / batch_cost < 0.2
    and all(m < a for a, m in zip(needed["adamw"], needed["muon"], strict=True))
)
assert by_step["muon"] > by_step["adamw"]

# %% [markdown]
# Muon needs about an eighth fewer steps, on every one of the three seeds, and ends 0.05 nats lower. In the first steps it is behind. That is less than the stories one hears, and there is an honest objection besides: on models as small as ours, with batches as small, the five rounds cost about an eighth more FLOPs a step, which eats up the gain. For large models this objection goes away. The rounds cost some $5 \cdot 6 A^3$ for a matrix of size $A$ however large the batch is, training $6 A^2$ for every token; the ratio is $5A$ over the tokens of a batch, and with millions of tokens that is next to nothing. What remains to be compared is wide models with long training, and this lesson cannot.
#
# Look also at how the comparison could have been won without an effort. AdamW at 0.004, the rate that suits a model four times as wide, ends at 1.90, and against that opponent *anything* is an improvement. (Muon was tuned over two rates in six runs, AdamW over one in four. The number of runs is part of the result.)
#
# ## What a step costs
#
# To plan, one has to count. Multiplying an (m, k) matrix by a (k, n) matrix takes $2mkn$ FLOPs: $k$ multiplications and $k$ additions for each of the $m n$ results. All the rest of a transformer is small change. llmkit counts exactly:

# %% tags=["show"]
from llmkit.training.flops import FLOPs, forward_flops

# %%
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llmkit.models.gpt2 import GPT2Config, count_params
from llmkit.training.flops import training_flops

with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
    next_token_loss(model(ids[:1]), ids[:1]).backward()
print(f"torch counts {counter.get_total_flops():,} FLOPs forward and backward")
print(f"llmkit says  {training_flops(model.config, ids.size(1)):,}")
assert counter.get_total_flops() == training_flops(model.config, ids.size(1))

# %% [markdown]
# For planning there is a rule that fits on a napkin. Each parameter is multiplied once and added once for each token, 2 FLOPs; the backward pass needs two products for each one forward. So training costs
#
# $$6 N D$$
#
# FLOPs, nearly, for $N$ parameters and $D$ tokens. What does it leave out? The scores of attention, which have no parameters.
#
# ### Exercise 14.5 · when the scores catch up · ●●○ · 8 min · optional
#
# GPT-2 small has width $C = 768$; its MLP has two matrices of $C \times 4C$. At which length $T$ of the text do the scores (queries against keys, and weights against values, every query against all $T$ keys) cost as many FLOPs as everything else in a block, projections and MLP together?

# %%
equal_length = None
# BEGIN SOLUTION
# For one token: 2 * (4 C² + 8 C²) = 24 C² in the matrices, 2 * 2 T C = 4 T C in the scores.
equal_length = 24 * 768**2 // (4 * 768)
# END SOLUTION
equal_length = check(equal_length, "14.5")

# %%
config = GPT2Config()
lengths = [2**k for k in range(7, 16)]
counts = [forward_flops(config, T) for T in lengths]
ratios = [training_flops(config, T) / six_nd(count_params(config), T) for T in lengths]
fig, axes = figure(2, height=2.8, width=7.2)
axes[0].plot(lengths, [c.scores / c.total for c in counts], "o-", color=COLORS["model"], markersize=4)
axes[0].plot(lengths, [(c.projections + c.mlp) / c.total for c in counts], "o-", color=COLORS["key"], markersize=4)
axes[0].axvline(equal_length, color=COLORS["control"], linewidth=1)
axes[0].text(130, 0.1, "scores", color=COLORS["model"], fontsize=9)
axes[0].text(130, 0.72, "projections and MLP", color="#A06F00", fontsize=9)
axes[0].text(equal_length * 0.9, 0.9, f"T = {equal_length:,}", ha="right", fontsize=9)
axes[0].set(xlabel="length of the text", ylabel="share of the FLOPs", xscale="log", ylim=(0, 1))
axes[0].set_title("Scores overtake the rest at 6 C")
axes[1].plot(lengths, ratios, "o-", color=COLORS["loss"], markersize=4)
axes[1].axhline(1, color=COLORS["control"], linewidth=1)
axes[1].set(xlabel="length of the text", ylabel="exact / (6 N D)", xscale="log", ylim=(0, None))
axes[1].set_title("6 N D is right for short texts")
show(
    fig,
    alt=f"GPT-2 small. Left: scores and the rest of a block cost the same at {equal_length} tokens. Right: exact FLOPs are "
    f"{ratios[0]:.2f} times 6ND at 128 tokens, {ratios[3]:.2f} at 1,024 and {ratios[-1]:.1f} at 32,768.",
)
at = forward_flops(config, equal_length)
assert at.scores == at.projections + at.mlp
print(f"exact over 6ND: {ratios[0]:.2f} at 128 tokens, {ratios[3]:.2f} at 1,024, {ratios[-1]:.2f} at 32,768")

# %% [markdown]
# (N here counts the token table once, since it is the output matrix as well. The wider a model, the later its scores catch up.)
#
# ## The best size for a budget
#
# Back to the beginning. Our sweep has three budgets, each four times the one before, and five sizes at each. For one budget the losses against $\log N$ look like a bowl; through it we lay a parabola and read off the lowest point. This is Hoffmann et al.'s second approach, **IsoFLOP**.
#
# ### Exercise 14.6 · isoflop_minimum · ●●○ · 12 min
#
# Write `isoflop_minimum(n_params, losses)`: fit loss $= c_0 + c_1 x + c_2 x^2$ with $x = \ln N$ by least squares, and give back a `Parabola`: the coefficients `(c0, c1, c2)`, the number of parameters at the lowest point, the loss there, and whether that point lies between the smallest and the largest size. Raise a `ValueError` for unequal lengths, for fewer than three *different* sizes, and where $c_2$ is not above 0.

# %% tags=["show"]
from llmkit.training.isoflop import Parabola

# %% tags=["exercise"]
from llmkit.training.isoflop import isoflop_minimum

# %%
isoflop_minimum = check(isoflop_minimum)

# %%
from llmkit.training.isoflop import power_law
from llmkit.viz.scaling import draw_isoflop

entropy = stored["entropy"]
budgets = sorted({point["budget"] for point in stored["points"]})
curves, minima = {}, []
for budget in budgets:
    of_budget = [point for point in stored["points"] if point["budget"] == budget]
    curves[f"{budget:.1e}"] = [p["n_params"] for p in of_budget], [p["loss"] for p in of_budget]
    minima.append(isoflop_minimum(*curves[f"{budget:.1e}"]))
fig, axis = figure(height=3.4)
draw_isoflop(axis, curves, entropy)
axis.set_title("Each budget has a best size, and it grows with the budget")
show(
    fig,
    alt="IsoFLOP parabolas, loss against parameters for three budgets, with the entropy line at "
    f"{entropy:.2f}. Best sizes: "
    + ", ".join(f"{m.n_params:,.0f} at {b:.1e}" for m, b in zip(minima, budgets, strict=True)),
)
for budget, m in zip(budgets, minima, strict=True):
    print(
        f"{budget:.2e} FLOPs: best size {m.n_params:9,.0f} parameters, loss {m.loss:.3f}"
        + ("" if m.inside else " (outside)")
    )
_, exponent = power_law(budgets, [m.n_params for m in minima])
print(f"best size ~ budget^{exponent:.2f}")
assert minima[0].n_params < minima[-1].n_params and all(m.inside for m in minima)

# %% [markdown]
# Three things to see. The best size grows with the budget, more slowly than the budget does (every budget is four times the one before). The bowls grow flatter: with much computing it matters less to hit the size exactly. And the last bowl is so flat that the place of its lowest point is little more than noise: between the best and the worst of five sizes, which differ by a factor of eight, lie two hundredths of a nat. The exponent is a slope through three such points. (Hoffmann et al. found about 0.5, over budgets that differ by a factor of 500 and models up to sixteen billion parameters; there is no reason why our village should agree, and no way to tell from this whether it does.)
#
# ## A law, and what is left over
#
# All fifteen points together can be fitted by one formula, approach 3 of the same paper:
#
# $$L(N, D) = E + \frac{A}{N^\alpha} + \frac{B}{D^\beta}$$
#
# The second term is what a small model cannot express, the third what too little text did not teach. $E$ is the loss that is left when both are without limit: *the entropy of the text*, if the models could learn all there is. For English nobody can check that; Hoffmann et al. found an E of 1.69 nats a token for theirs, and Besiroglu et al., fitting the same points with more care, 1.82. Our text has an entropy that we know. So here is the one test of a scaling law that can be made nowhere else.
#
# How much do fifteen points say? We draw fifteen of them with replacement, fit again, and do that a hundred times: the **bootstrap**. How far the fits scatter shows how little is known.

# %%
from llmkit.training.scaling import CHINCHILLA_REFIT, Law, fit_law, interval
from llmkit.viz.scaling import draw_law

law = Law(**stored["law"])
laws = [Law(*values) for values in stored["laws"]]
points = stored["points"]
refitted = fit_law(*([p[key] for p in points] for key in ("n_params", "n_tokens", "loss")), starts=[law])
assert abs(refitted.E - law.E) < 0.02  # the stored fit is where a fit from there stays
low, high = interval([one.E for one in laws])
per_nd = float(np.median([p["flops"] / (p["n_params"] * p["n_tokens"]) for p in points]))
fig, axis = figure(height=3.4)
best_losses = [min(p["loss"] for p in points if p["budget"] == b) for b in budgets]
draw_law(axis, law, laws, budgets, best_losses, entropy, flops=per_nd)
axis.set_title(f"Fitted E is {law.E - entropy:.2f} too high, and its interval excludes little")
show(
    fig,
    alt=f"Loss of the best size against the budget, extrapolated ten thousandfold. Fitted E {law.E:.2f} nats a token with a "
    f"bootstrap interval from {low:.2f} to {high:.2f}; true entropy {entropy:.2f}.",
)
print(f"law: E {law.E:.3f}, A {law.A:.3g}, B {law.B:.3g}, alpha {law.alpha:.2f}, beta {law.beta:.2f}")
print(f"fitted E {law.E:.3f} nats a token, 95% of the bootstrap between {low:.3f} and {high:.3f}")
print(f"true entropy of these stories {entropy:.3f}; lowest loss of the sweep {min(p['loss'] for p in points):.3f}")
assert 1.0 < law.E < 1.3 and low < 0.1 and entropy < law.E < high < 1.4
misses = [abs(law.loss(p["n_params"], p["n_tokens"]) - p["loss"]) for p in points]
print(f"the law misses the points by {np.mean(misses):.2f} nats on average, and by up to {max(misses):.2f}")
print("alpha: 95% of the bootstrap between {:.1f} and {:.1f}".format(*interval([one.alpha for one in laws])))
assert 0.05 < np.mean(misses) < 0.1 and 0.2 < max(misses) < 0.25
a_low, a_high = interval([one.exponent for one in laws])
print(
    f"best size ~ budget^{law.exponent:.2f}, 95% between {a_low:.2f} and {a_high:.2f}; by the parabolas {exponent:.2f}"
)

# %% [markdown]
# **The fit says 1.15, the truth is 0.96, and the interval holds nearly everything below 1.36.** That is the honest result. Why so little?
#
# - An E is an extrapolation. The lowest loss we have seen is 1.38. All below it is the shape of a curve that was drawn from above, and the shape is not known: resamples find α anywhere between 0.1 and 3.8. A slow power law reaches far down, a fast one stops soon, and fifteen points cannot tell which is right.
# - There are three budgets, a factor of sixteen between the first and the last. Hoffmann et al. had more than 400 runs, and sizes over a factor of more than 200.
# - All models have two layers and one learning rate. If such models have a limit of their own, the fit takes it for the entropy of the text: E is the floor of a *recipe*. The points of the largest budget, all between 1.38 and 1.41 whatever their size, look as though something other than N and D had begun to count.
#
# - The formula does not even fit. In the picture two of the three points lie well above the curve; over all fifteen, the law misses by 0.07 nats on average and by up to 0.23. (The fit follows the paper in using a Huber loss, to which one large miss is no worse than several small ones.)
#
# So what can one use such a fit for? Inside the range the parabolas, which pass near their points, say which size to choose. The law is for a step beyond, and there only with many more runs than ours. As a measurement of the entropy it is worthless here, and if you read an E of a large model with two digits behind the point, ask for the interval.
# With a law in hand the plan is a formula. Minimise $L$ while $6ND$ is the budget, and $N$ and $D$ come out as powers of the budget. For Gopher's budget, the refitted Chinchilla law says:

# %% tags=["nbval-check-output"]
n, d = CHINCHILLA_REFIT.optimal(5.76e23)
print(
    f"5.76e23 FLOPs: {n / 1e9:.0f} billion parameters on {d / 1e12:.1f} trillion tokens, {d / n:.0f} tokens a parameter"
)
print(
    f"loss {CHINCHILLA_REFIT.loss(n, d):.3f}; with Gopher's 280 billion: {CHINCHILLA_REFIT.loss(280e9, 5.76e23 / 6 / 280e9):.3f}"
)

# %% [markdown]
# Gopher had 280 billion parameters and 300 billion tokens, about one for each. Four times smaller and four times as much text is better, and cheaper to use ever after. This is the sentence that changed how models are sized.
#
# ## Wider models, the same learning rate
#
# One number is still missing. The best learning rate depends on the width, and tuning it at full size costs as much as training. Can we tune it on a narrow model and keep it?
#
# Why does it depend on the width at all? A unit adds up over its inputs. Adam moves every weight by about the learning rate, in step with the input, so the moves do not cancel: with twice as many inputs, the output moves twice as far. Let us look. Four widths, three steps of AdamW on one small batch; how far has the output of each layer moved?

# %%
from llmkit.training.mup import coordinate_check
from llmkit.training.sweeps import BASE_WIDTH
from llmkit.training.sweeps import config as config_of
from llmkit.viz.scaling import draw_coordinates

WIDTHS = (32, 64, 128, 256)
few = next(batches(8))[0][:2]  # two stories


def regrouped(width, rule):
    """A muP model whose learning rates come from a rule of our own: (name, shape, base shape) -> (std, rate)."""
    wide, _ = build(width, "mup")
    with torch.device("meta"):
        base = llama(config_of(BASE_WIDTH))
    shapes = {name: tuple(p.shape) for name, p in base.named_parameters()}
    of_rate = {}
    for name, p in wide.named_parameters():
        _, rate = rule(name, tuple(p.shape), shapes[name])
        of_rate.setdefault(rate, []).append(p)
    return wide, [{"params": ps, "weight_decay": 0.0, "lr_scale": rate} for rate, ps in of_rate.items()]


def checked(make, widths=WIDTHS):
    return coordinate_check({width: make(width) for width in widths}, few, lr=0.004, n_steps=3)


from llmkit.course.checks.lesson_14 import factors_of_all_matrices

found = {
    "standard": checked(lambda width: build(width, "sp")),
    "muP": checked(lambda width: build(width, "mup")),
    "muP with a bug": checked(lambda width: regrouped(width, factors_of_all_matrices)),
}
TITLES = {
    "standard": "wide ones move further",
    "muP": "hidden layers move alike",
    "muP with a bug": "one more line falls",
}
fig, axes = figure(3, height=3.5, width=7.6, sharey=True)
for axis, (name, coordinates) in zip(axes, found.items(), strict=True):
    moves = dict(zip(coordinates.layers, coordinates.moves[:, -1].tolist(), strict=True))
    draw_coordinates(axis, WIDTHS, moves)
    axis.set_title(f"{name}:\n" + TITLES[name], fontsize=10)
axes[1].set_ylabel("")
axes[2].set_ylabel("")
fig.legend(*axes[2].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8, handlelength=1)
slopes = {name: coordinates.slopes() for name, coordinates in found.items()}
show(
    fig,
    alt="How far each layer's output moves in three steps, by width. Exponents of the width for attention 0: "
    + ", ".join(f"{name} {s['attention 0']:.1f}" for name, s in slopes.items())
    + f"; of the embedding with the bug {slopes['muP with a bug']['embedding']:.1f}.",
)
print(f"{'exponent of the width':22}" + "".join(f"{layer:>13}" for layer in found["muP"].layers))
for name, s in slopes.items():
    print(f"{name:22}" + "".join(f"{value:13.2f}" for value in s.values()))
assert min(slopes["standard"][layer] for layer in ("attention 0", "mlp 0", "logits")) > 0.4
assert max(abs(value) for layer, value in slopes["muP"].items() if layer != "logits") < 0.25

# %% [markdown]
# (With other seeds the exponents change by 0.1 or so.) On the left the outputs of a wide model move further, with one learning rate for all. In the middle is **muP** (Yang et al. 2022): the matrices inside blocks get the learning rate divided by $m$, the width over that of a base model. Their initial size is divided by $\sqrt m$, the output is multiplied by $1/m$, and the scores of attention are divided by $D$ and not by $\sqrt D$. The lines are flat.
#
# The logits are the exception, and one that teaches something. After three small steps most of their move is a change of the features, seen through output weights that are still as they were drawn; that part has to fade with the width. The part that training itself has written into the output does not, and with more steps it takes over (after sixteen the exponent is −0.1). A coordinate check wants a few steps, not one.
#
# The third panel is muP as somebody wrote it in a hurry. It trains, and its loss falls like any other. Compare the two pictures: one line is different.
#
# ### Exercise 14.7 · width_factors · ●●○ · 8 min · find the bug
#
# The function below tells, for one parameter, by what its initial standard deviation and its learning rate are multiplied. It is the one behind the third panel. Find out what is wrong with it and mend it; the docstring says what is right. (Adam's rate depends on the number of *inputs* that grow with the width. What is the input of an embedding?)

# %% tags=["exercise"]
from llmkit.training.width import width_factors

# %%
width_factors = check(width_factors)

# %%
mended = checked(lambda width: regrouped(width, width_factors), (32, 128)).slopes()
print(
    f"exponent for the embedding: {slopes['muP with a bug']['embedding']:.2f} with the bug, {mended['embedding']:.2f} now"
)
assert abs(mended["embedding"]) < 0.3 < abs(slopes["muP with a bug"]["embedding"])

# %% [markdown]
# ### The experiment: does the optimum stay?
#
# Every width was trained with a grid of learning rates, both ways, 150 steps each (`python benchmarks/results/transfer.py`). The base is width 64, where both are the same model.
#
# **Guess**: the best learning rate at width 64 is about 0.018 (read off between the rates that were tried). What is it at width 256, in the standard parametrisation?

# %%
guess_lr = None

# %%
from llmkit.viz.scaling import draw_learning_rates

transfer = results.load("transfer")
best_rate = {(o["parametrization"], o["width"]): o["lr"] for o in transfer["optima"]}
fig, axes = figure(2, height=3.4, width=7.4, sharey=True)
for axis, (kind, title) in zip(axes, (("sp", "Standard: the optimum moves"), ("mup", "muP: it stays")), strict=True):
    curves_by_width = {}
    for width in sorted({point["width"] for point in transfer["points"]}):
        line = sorted(
            (p["lr"], p["loss"]) for p in transfer["points"] if (p["width"], p["parametrization"]) == (width, kind)
        )
        curves_by_width[width] = tuple(zip(*line, strict=True))
    draw_learning_rates(axis, curves_by_width)
    axis.set_title(title)
    axis.tick_params(axis="x", labelsize=8)
axes[1].set_ylabel("")
if guess_lr is not None:
    axes[0].axvline(guess_lr, color=COLORS["guess"])
show(
    fig,
    alt="Loss against learning rate for widths 32 to 256. Best rates from 32 to 256: standard "
    + ", ".join(f"{best_rate['sp', w]:.4f}" for w in WIDTHS)
    + "; muP "
    + ", ".join(f"{best_rate['mup', w]:.4f}" for w in WIDTHS),
)
loss_of = {(p["parametrization"], p["width"], p["lr"]): p["loss"] for p in transfer["points"]}
print(f"your guess for width 256, standard: {guess_lr}")
print("best learning rate    " + "".join(f"{w:>9}" for w in WIDTHS))
for kind, title in (("sp", "standard"), ("mup", "muP")):
    print(f"{title:22}" + "".join(f"{best_rate[kind, w]:9.4f}" for w in WIDTHS))
moved_by = {kind: best_rate[kind, 256] / best_rate[kind, 32] for kind in ("sp", "mup")}
print(
    f"from width 32 to 256 the best rate is multiplied by {moved_by['sp']:.2f} (standard) and {moved_by['mup']:.2f} (muP)"
)
print(
    f"width 256 at 0.016, the best of the grid at width 64: standard {loss_of['sp', 256, 0.016]:.3f}, muP {loss_of['mup', 256, 0.016]:.3f}"
)
for width in (32, 256):
    own = {kind: min(x for (k, w, _), x in loss_of.items() if (k, w) == (kind, width)) for kind in ("sp", "mup")}
    print(f"width {width}, each at its own best rate: standard {own['sp']:.3f}, muP {own['mup']:.3f}")
assert loss_of["sp", 256, 0.016] > loss_of["mup", 256, 0.016] + 0.5 and abs(own["sp"] - own["mup"]) < 0.05
assert moved_by["sp"] < 0.25 and 0.7 < moved_by["mup"] < 1.4

# %% [markdown]
# In the standard parametrisation the best rate falls about as 1 / width: eight times the width, an eighth of the rate. Whoever tunes at width 64 and trains at 256 with that rate loses most of a nat. Under muP it moves by less than a tenth, well inside one step of the grid. What was tuned on the narrow model serves the wide one.
#
# Two things that one might expect and that did not happen. muP does not make the model *better*: each tuned for itself, both ways end at the same loss at width 256. And at width 32, below the base, the standard way tuned for itself is a little better than muP. muP saves the search, no more; at seventy billion parameters that is a great deal. (One seed, 150 steps; both ways begin with matrices of size 1/√width, so that what is compared is the rates, the output's multiplier and the scale of the scores.)
#
# ## On real text
#
# The trade between size and data can be seen without any training. An n-gram model of lesson 01 is "larger" the longer its contexts are. Here are three sizes on more and more of Python's manual, which comes with Python (paragraphs in random order; the loss in nats a character on paragraphs that were kept apart).

# %%
import random

from llmkit.data.text import python_docs
from llmkit.models.ngram import witten_bell_ngram

paragraphs = [
    paragraph
    for paragraph in python_docs().split("\n\n")
    if len(paragraph) > 80 and sum(c.isalpha() or c.isspace() for c in paragraph) > 0.9 * len(paragraph)  # no tables
]
random.Random(0).shuffle(paragraphs)
kept_apart, reading = "\n\n".join(paragraphs[:30]), "\n\n".join(paragraphs[30:])
letters = len(set(reading + kept_apart))
print("characters read" + "".join(f"{f'{n}-gram':>9}" for n in (2, 3, 5)))
real = {}
for size in (2_000, 8_000, 32_000):
    for n_ in (2, 3, 5):
        ngram = witten_bell_ngram([reading[:size]], n_, letters)
        real[n_, size] = -sum(ngram.log_probs(kept_apart)) / len(kept_apart)
    print(f"{size:15,}" + "".join(f"{real[n_, size]:9.3f}" for n_ in (2, 3, 5)))
assert real[5, 2_000] > real[3, 2_000] and real[5, 32_000] < real[3, 32_000] < real[2, 32_000]

# %% [markdown]
# With little text the larger model is the worse one; with more it overtakes, and the small one has all but stopped learning. What E is for this text, nobody can say.
#
# ## On a GPU
#
# Which share of the hardware's arithmetic does training use (MFU), in float32 and in bfloat16, eager and compiled? And with several GPUs: what does FSDP save? Runs by itself where a GPU is found.


# %%
FSDP_SCRIPT = """
import sys
import torch
from llmkit.models.llama import LlamaConfig, llama
from llmkit.training.distributed import parallelize, process_group, rank, world_size
from llmkit.training.losses import next_token_loss

width, layers = map(int, sys.argv[1:])
with process_group() as device:
    for kind in ("ddp", "fsdp"):
        torch.manual_seed(0)
        model = llama(LlamaConfig(1000, width, layers, max(1, width // 64), d_ff=3 * width)).to(device)
        forward = parallelize(model, kind)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            ids = torch.randint(1000, (2, 128), device=device)
            next_token_loss(forward(ids), ids).backward()
            optimizer.step()
            optimizer.zero_grad()
        peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else float("nan")
        if rank() == 0:
            print(f"{world_size()} GPUs, {kind}: at most {peak:.2f} GB on each", flush=True)
        del model, forward, optimizer
"""


@gpu_section(
    "measure MFU in float32 and bfloat16, eager and compiled, and the memory of DDP and FSDP where there are several GPUs",
    full={"width": 1024, "n_layers": 12, "length": 1024, "batch": 16, "n_steps": 10},
    smoke={"width": 16, "n_layers": 1, "length": 16, "batch": 2, "n_steps": 1},
)
def on_gpu(device, width, n_layers, length, batch, n_steps):
    import time
    from contextlib import nullcontext

    from llmkit.training.mfu import matmul_peak

    big = LlamaConfig(8192, width, n_layers, max(1, width // 64), d_ff=3 * width, max_len=length)
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    ids_ = torch.randint(8192, (batch, length), device=device)
    table = {}
    for dtype in (torch.float32, torch.bfloat16):
        peak = matmul_peak(device, dtype, None if device.type == "cuda" else 64)
        for compiled in (False, True) if device.type == "cuda" else (False,):
            torch.manual_seed(0)
            net = llama(big).to(device)
            run = torch.compile(net) if compiled else net
            rule = AdamW(decay_groups(net), 1e-4)

            def one_step(run=run, net=net, rule=rule, dtype=dtype):
                mixed = torch.autocast(device.type, dtype) if dtype == torch.bfloat16 else nullcontext()
                with mixed:
                    logits = run(ids_)
                next_token_loss(logits, ids_).backward()
                rule.step()
                rule.zero_grad()

            one_step()  # compiles, and loads kernels
            wait()
            begin = time.perf_counter()
            for _ in range(n_steps):
                one_step()
            wait()
            seconds = (time.perf_counter() - begin) / n_steps
            used = batch * training_flops(big, length) / seconds
            table[dtype, compiled] = used / peak
            print(
                f"{str(dtype)[6:]:9} {'compiled' if compiled else 'eager':9} {batch * length / seconds:10,.0f} tokens a second, "
                f"{used / peak:.0%} of {peak / 1e12:.0f} TFLOP/s"
            )
            del net, run, rule
    if device.type == "cuda" and torch.cuda.device_count() > 1:
        with tempfile.TemporaryDirectory() as name:
            script = Path(name) / "fsdp.py"
            script.write_text(FSDP_SCRIPT, encoding="utf-8")
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            done = subprocess.run(
                [*torchrun, f"--nproc-per-node={torch.cuda.device_count()}", str(script), "2048", "16"],
                env=os.environ | {"PYTHONPATH": str(Path(llmkit.__file__).parents[1])},
                capture_output=True,
                text=True,
            )
            print(done.stdout if done.returncode == 0 else done.stderr[-2000:])
    return table


# %% [markdown]
# ## Mistakes people make
#
# | mistake | how it shows |
# |---|---|
# | Weights kept in bfloat16 alone | the loss falls, and stops falling when the learning rate becomes small |
# | float16 without loss scaling, or gradients clipped before they are divided by the scale | slow learning; or every step is clipped to almost nothing |
# | Gradients summed over ranks instead of averaged | AdamW hides it; the gradient norm grows with the number of GPUs |
# | Every rank reads the same batch | nothing visible: $n$ GPUs do the work of one |
# | Muon on embeddings and the output | it runs, and nothing tells you; its authors leave those to AdamW, one row of a table is not a direction among many |
# | An optimiser compared at the other one's learning rate | whatever was tuned wins |
# | A size chosen at one budget, by the loss alone | the largest model that fits, with too little text |
# | An E or an exponent without an interval | a number with three digits from fifteen points |
# | muP's rate on the embedding too | trains, and the optimum moves after all; a coordinate check shows it in seconds |
#
# ## Where the real systems do it
#
# - **torch**: `torch.amp.GradScaler` and `torch.autocast`; `torch.nn.parallel.DistributedDataParallel`; `torch.distributed.fsdp.fully_shard` (FSDP2); `torch.optim.Muon`; `torch.utils.flop_counter.FlopCounterMode`; `torch.utils.checkpoint`.
# - **llmkit**: `llmkit/training/distributed.py` (`parallelize`), `python -m llmkit.training` under `torchrun`; `recompute.py` trades a third more computing for the memory of activations.
# - **NVIDIA/Megatron-LM** has tensor and pipeline parallelism, **deepspeedai/DeepSpeed** ZeRO; **KellerJordan/Muon** the optimiser; **microsoft/mup** muP.
# - Micikevicius et al. 2018, "Mixed precision training". Rajbhandari et al. 2020, "ZeRO", section 3.1 (the 16 bytes) and figure 1. Patarasuk and Yuan 2009 (the ring). Shoeybi et al. 2019, "Megatron-LM"; Huang et al. 2019, "GPipe". Llama Team 2024, section 3.3.4 (failures). Kaplan et al. 2020, section 2.1 (6ND). Hoffmann et al. 2022, section 3 (the three approaches); Besiroglu et al. 2024 (the refit). Yang et al. 2022, "Tensor Programs V", table 8 (the rules) and appendix D (the coordinate check).
#
# ## What llmkit gained
#
# | file | what |
# |---|---|
# | `llmkit/training/ring.py`, `distributed.py` | `ring_all_reduce`; DDP and FSDP for the trainer |
# | `llmkit/training/parallelism.py` | `memory`, traffic, bubble, failures: the page of 8, 64, 1,024 GPUs |
# | `llmkit/training/muon.py` | `orthogonalize`, `Muon` |
# | `llmkit/training/flops.py`, `mfu.py` | `forward_flops`, `training_flops`, `six_nd`; the share of the peak |
# | `llmkit/training/isoflop.py`, `scaling.py` | `isoflop_minimum`, `power_law`, `fit_law`, bootstrap, `Law.optimal` |
# | `llmkit/training/mup.py`, `width.py` | `mup`, `coordinate_check`, `width_factors` |
# | `llmkit/training/sweeps.py`, `llmkit/results/` | one point of each sweep, and what the sweeps found |
#
# Three questions to check yourself:
#
# <details><summary>Why does ZeRO stage 1 send no more than plain data parallel training?</summary>
#
# An all-reduce is a reduce-scatter and an all-gather. After the first, each rank has the whole gradient of its piece, which is all it needs for the step of that piece. Then it is the new weights that are gathered, and not the gradients: as many numbers.
# </details>
#
# <details><summary>A colleague fits L = E + A/N^α at one budget's sizes, all trained on the same text until it ran out, and reports E = 1.1 ± 0.0. What would you ask?</summary>
#
# How the ± was made (a bootstrap over points?), over how many powers of ten the sizes reach, and whether the text was repeated: with D fixed, E swallows the term B/D^β.
# </details>
#
# <details><summary>You tuned 0.01 at width 128 under muP and now train width 1,024. Which learning rate do the matrices in the blocks get, and which the embedding?</summary>
#
# m = 8: the matrices 0.01 / 8 = 0.00125, the embedding 0.01.
# </details>

# %%
torch.set_num_threads(threads)
progress()

# %% [markdown]
# **Next**: 15_finetuning_lora. A model that has learnt a world, and a new one with little text: what to change, and what to leave alone?
