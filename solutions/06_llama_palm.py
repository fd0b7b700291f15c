# %% [markdown]
# # 06 · LLaMA and PaLM
#
# **You will** turn GPT-2 (2019) into LLaMA (2023) one part at a time, count the parameters and the cache of the published models to the last byte, and measure which of the changes makes a small model better, and which cannot be told from chance.
#
# **Before** you start: lessons 03 (RoPE), 04 (attention) and 05 (the decoder block, training). Exercises name the torch calls that they need.
#
# **Time** about 80 minutes for six exercises, 10 more for an optional seventh. All cells together run for about half a minute.

# %% tags=["setup"]
import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmkit.course import check, gpu_section, hint, progress, start
from llmkit.data import toyland
from llmkit.viz import COLORS, figure, show

start("06_llama_palm", solved=True)
threads = torch.get_num_threads()
torch.set_num_threads(1)  # these models are so small that a second thread waits more than it works

# %% [markdown]
# ## Two models, four years apart
#
# GPT-2 came out in 2019, LLaMA in 2023. Both are stacks of decoder blocks, both predict the next token. Let us train a tiny one of each on the same letters, in the same order, and see whether four years made a difference.
#
# A token is a single letter in this lesson: then the vocabulary is small, and the models can be small too. A model reads $B = 8$ pieces of $T = 32$ letters a step, for 80 steps.

# %%
from llmkit.layers.transformer import init_weights
from llmkit.training.loop import train
from llmkit.training.losses import next_token_loss

corpus = toyland.corpus(train_bytes=300_000, validation_bytes=40_000)
letters = sorted(set("\n".join(corpus.train + corpus.validation)))
number_of = {letter: i for i, letter in enumerate(letters)}
V, C, H, LAYERS, T, B = len(letters), 32, 4, 2, 32, 8  # vocabulary, width, heads, blocks, length, batch


def ids_of(text):
    return torch.tensor([number_of[letter] for letter in text])


def windows(ids, seed, length=T, batch=B):
    """Endless batches of pieces (batch, length) cut from the text at random places."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        begins = torch.randint(len(ids) - length, (batch, 1), generator=generator)
        yield ids[begins + torch.arange(length)], None


train_ids = ids_of("\n".join(corpus.train))
validation = next(windows(ids_of("\n".join(corpus.validation)), seed=1, batch=256))[0]  # (256, T), the same for all


def fresh(make, seed, width=C):
    """A new model whose weights begin at a size that suits its width."""
    torch.manual_seed(seed)
    model = make()
    init_weights(model, len(model.transformer.blocks), std=0.02 * (768 / width) ** 0.5)
    return model


@torch.no_grad()
def measure(model, pieces=validation):
    """Nats a letter on pieces that were not read."""
    return next_token_loss(model(pieces), pieces).item()


def run(make, seed, n_steps=80, lr=1e-2, **options):
    """A fresh model, trained; the model and its loss on the validation pieces."""
    model = fresh(make, seed)
    train(model, windows(train_ids, seed), n_steps, lr, progress=False, **options)
    return model, measure(model)


# %%
from llmkit.models.gpt2 import GPT2Config, gpt2
from llmkit.models.llama import LlamaConfig, llama

tiny_gpt2 = GPT2Config(V, max_len=T, d_model=C, n_layers=LAYERS, n_heads=H)
tiny_llama = LlamaConfig(V, d_model=C, n_layers=LAYERS, n_heads=H, d_ff=88)

pair_counts = torch.ones(V, V).index_put((train_ids[:-1], train_ids[1:]), torch.ones(1), accumulate=True)
bigram_log_probs = (pair_counts / pair_counts.sum(1, keepdim=True)).log()
bigram = -bigram_log_probs[validation[:, :-1], validation[:, 1:]].mean().item()
print(f"{V} letters; counting pairs gives {bigram:.2f} nats a letter")

models, first = {}, {}
for name, make in (("GPT-2", lambda: gpt2(tiny_gpt2)), ("LLaMA", lambda: llama(tiny_llama))):
    models[name], first[name] = run(make, seed=0)
    print(f"{name}: {models[name].n_params():,} parameters, {first[name]:.2f} nats a letter after 80 steps")
assert 0.05 < first["GPT-2"] - first["LLaMA"] < 0.4

# %% [markdown]
# LLaMA is ahead, with nearly the same number of parameters. Neither is better than counting pairs of letters: 80 steps are the very beginning of training. Most of this lesson compares beginnings, since they are cheap enough to repeat dozens of times. For the largest step we also train three times as long.
#
# (One number in `fresh` needs a word. GPT-2's weights begin with a standard deviation of 0.02, which suits its width of 768. Narrower models need larger weights to begin with, in proportion to $1/\sqrt{\text{width}}$. What happens without this is at the end of the experiment.)
#
# Five things were exchanged between the two, and two more around them in the same years:
#
# | name here | GPT-2 | LLaMA |
# |---|---|---|
# | RMSNorm | LayerNorm | **RMSNorm** |
# | RoPE | a learned table of positions | **RoPE** (lesson 03) |
# | SwiGLU | an MLP of two matrices, GELU | **SwiGLU**: three matrices, one of them a gate |
# | no biases | biases everywhere | **none** |
# | own output | the output matrix is the token table (tied) | **a matrix of its own** |
# | grouped | every head has keys and values | the same; since Llama 2 70B **grouped queries** |
# | parallel | attention, then MLP | the same; in PaLM (2022) **side by side** |
#
# So the question of this lesson: **which of the seven does it?** Each was argued for in a paper. We will first see what each one is, and then change one at a time, with enough repetitions to know what chance alone does.
#
# Write down your guess now. How many of the seven, at this size, will make a difference that is larger than chance? And which is the largest?

# %%
guess_number = None  # for example 4
guess_largest = None  # "RMSNorm", "RoPE", "SwiGLU", "no biases", "own output", "grouped" or "parallel"

# %% [markdown]
# ## RMSNorm: a norm without a mean
#
# LayerNorm (lesson 05) subtracts a vector's mean and divides by its standard deviation. **RMSNorm** leaves the mean where it is and divides by the *root mean square*:
#
# $$\text{RMSNorm}(x) = \frac{x}{\sqrt{\frac{1}{C}\sum_i x_i^2 + \epsilon}} \cdot w$$
#
# $x$ is a vector of $C$ numbers, $w$ a learned weight for each of them, $\epsilon$ a tiny number against division by 0. There is no bias. By hand: [3, 4] has the mean square (9 + 16) / 2 = 12.5, whose root is 3.54, so it becomes [0.85, 1.13].
#
# Why may the mean stay? Because there is not much of it. A vector of $C$ numbers has $C$ directions, and the mean is only one of them, the direction (1, 1, …, 1). Here is how much of the length of real vectors lies in it: the residual stream of the GPT-2 above, at every position.

# %%
from llmkit.viz.residual import record_residual


def residual_stream(model):
    """x after each block, at every position: (N, C)."""
    with record_residual(model) as stream, torch.no_grad():
        model(validation)
    return torch.cat([one.flatten(0, 1) for one in stream[1:]])


def share_of_mean(x):
    """Of each vector's squared length, the part that lies in the direction (1, …, 1)."""
    return x.mean(-1).square() / x.square().mean(-1)


x = residual_stream(models["GPT-2"])
share, untrained = share_of_mean(x), share_of_mean(residual_stream(fresh(lambda: gpt2(tiny_gpt2), seed=0)))
both = F.cosine_similarity(F.layer_norm(x, (C,)), x, dim=-1)  # RMSNorm does not turn x, so x stands for it
fig, axes = figure(2, height=2.7)
axes[0].hist(share, bins=50, range=(0, 0.06), color=COLORS["model"])
axes[0].axvline(1 / C, color=COLORS["truth"], linestyle="--")
axes[0].text(1 / C + 0.001, axes[0].get_ylim()[1] * 0.7, "1 / C: an average\ndirection's share", fontsize=9)
axes[0].set(xlabel="share of the squared length", ylabel="vectors", title="Little of x lies in its mean")
axes[1].hist(both, bins=50, range=(0.97, 1), color=COLORS["good"])
axes[1].set(xlabel="cosine of the two results", title="Both norms nearly agree")
show(
    fig,
    alt=f"Histograms over the residual stream of a trained tiny GPT-2. Left: the mean holds {share.mean():.1%} "
    f"of the squared length on average. Right: LayerNorm's and RMSNorm's results have a mean cosine of {both.mean():.3f}.",
)
print(f"share of the squared length in the mean: {share.mean():.1%} on average; 1 / C is {1 / C:.1%}")
print(f"the same before training:                {untrained.mean():.1%}")
print(f"cosine of LayerNorm's and RMSNorm's results (1: the same direction): {both.mean():.4f} on average")
assert share.mean() < untrained.mean() / 3 and both.mean() > 0.98

# %% [markdown]
# Before training the mean has the share of an average direction, afterwards far less. That is no accident: a LayerNorm takes the mean away from whatever it reads, so no later part can see it, and nothing is learned that would put something there. Training makes the vectors longer in the other directions, and the mean is left behind. For such vectors RMSNorm and LayerNorm give nearly the same.
#
# ### Exercise 6.1 · rms_norm · ●●○ · 8 min
#
# Write it for `x` (…, C). Models are stored in 16 bits, and that needs care: **convert `x` to float32, divide there, convert the result back to the dtype of `x`, and only then multiply by the weight.** The order decides about the last digit, and whoever loads LLaMA's weights wants the same digits. Useful: `x.float()`, `.square()`, `.mean(-1, keepdim=True)`, `torch.rsqrt` (1 / root), `.type_as(x)`.

# %% tags=["exercise"]
from llmkit.layers.norms import rms_norm

# %%
rms_norm = check(rms_norm)

# %% [markdown]
# ### Break it: squares in 16 bits
#
# What is the float32 for? Two 16-bit formats are in use. *float16* has about three digits, and its largest number is 65,504. *bfloat16* reaches as far as float32, but has only two to three digits. Take away the conversion:


# %%
def rms_norm_16(x, weight, eps=1e-6):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


x = torch.randn(64, 4096, generator=torch.Generator().manual_seed(0))
for scale in (1, 300):
    for dtype in (torch.bfloat16, torch.float16):
        small, ones = (x * scale).to(dtype), torch.ones(4096, dtype=dtype)
        exact = rms_norm(small.double().float(), torch.ones(4096))
        errors = [(norm(small, ones).float() - exact).square().mean().sqrt() for norm in (rms_norm, rms_norm_16)]
        print(f"numbers of about {scale:3}, {str(dtype)[6:]:8}: error {errors[0]:.5f}, without float32 {errors[1]:.5f}")
        if (scale, dtype) != (300, torch.float16):
            assert 1.2 < errors[1] / errors[0] < 1.7
assert rms_norm_16((x * 300).half(), torch.ones(4096).half()).abs().max() == 0

# %% [markdown]
# The numbers of a normalised vector are about 1 in size, so an error of 1 in the last row means: everything is lost. In float16 the squares of 300 are infinite, 1 / infinity is 0, and the whole vector becomes 0. Otherwise the error only grows, by a third to a half. Nothing crashes in either case.
#
# ## SwiGLU: an MLP with a gate
#
# GPT-2's MLP is: widen, bend with GELU, narrow. LLaMA's has two matrices up instead of one:
#
# $$\text{MLP}(x) = W_{\text{down}}\,\bigl(\text{silu}(W_{\text{gate}}\,x) \odot W_{\text{up}}\,x\bigr), \qquad \text{silu}(z) = z \cdot \text{sigmoid}(z)$$
#
# $\odot$ multiplies number by number. Sigmoid is the S-curve from 0 to 1, so silu looks much like GELU. What is new is the product: one projection of $x$ decides how much of the other comes through.

# %%
z = torch.linspace(-6, 6, 241)
fig, axes = figure(2, height=2.7)
axes[0].plot(z, F.gelu(z), color=COLORS["control"])
axes[0].plot(z, F.silu(z), color=COLORS["model"])
axes[0].text(1.7, 2.1, "GELU", color="#666666", fontsize=9, ha="right")
axes[0].text(3.2, 2.0, "silu", color=COLORS["model"], fontsize=9)
axes[0].set(xlabel="z", ylabel="silu(z), GELU(z)", title="silu: nearly GELU")
for up, color in ((2.0, COLORS["good"]), (0.5, COLORS["model"]), (-1.0, COLORS["bad"])):
    axes[1].plot(z, F.silu(z) * up, color=color)
    axes[1].text(6.1, 6 * up, f"up = {up:g}", color=color, va="center", fontsize=9)
axes[1].set(xlabel="gate", ylabel="silu(gate) · up", title="Where the gate is open, up passes", xlim=(-6, 9.5))
show(
    fig,
    alt="Left: silu and GELU, both near 0 for negative numbers and near z for positive ones. Right: silu(gate) "
    "times up for three values of up; at a gate of 6 they are about 12, 3 and -6, at -6 all are near 0.",
)

# %% [markdown]
# ### Exercise 6.2 · swiglu · ●○○ · 4 min
#
# Write the part between the matrices: `swiglu(gate, up)` for two tensors of the same shape. Useful: `torch.sigmoid`.

# %% tags=["exercise"]
from llmkit.layers.mlp import swiglu

# %%
swiglu = check(swiglu)

# %% tags=["show"]
from llmkit.layers.mlp import GatedMLP

# %%
mlp, x = GatedMLP(C, 88), torch.randn(2, 5, C)
assert torch.allclose(mlp(x), mlp.down_proj(swiglu(mlp.gate_proj(x), mlp.up_proj(x))), atol=1e-6)
print("GatedMLP is your swiglu between three matrices")

# %% [markdown]
# Three matrices instead of two would make the MLP half as large again. To compare fairly, one makes them narrower. Two matrices of $C \times 4C$ weigh $8C^2$. Three of $C \times d_\text{ff}$ weigh the same when
#
# $$3\,C\,d_\text{ff} = 8\,C^2 \quad\Longrightarrow\quad d_\text{ff} = \tfrac{8}{3}\,C$$
#
# That is rarely a whole number, and chips like widths that are multiples of a large power of 2. So LLaMA rounds *up* to a multiple of 256.
#
# ### Exercise 6.3 · gated_width · ●○○ · 5 min
#
# Write `gated_width(d_model, multiple_of=256)`: cut 8/3 of `d_model` to a whole number, then round that up to a multiple. What already is a multiple stays as it is. The result is an `int`, because `nn.Linear` takes no other width.

# %% tags=["exercise"]
from llmkit.layers.mlp import gated_width

# %%
gated_width = check(gated_width)

# %% tags=["nbval-check-output"]
for name, width in (("LLaMA-7B", 4096), ("LLaMA-13B", 5120), ("LLaMA-65B", 8192), ("our tiny one", C)):
    d_ff = gated_width(width, 8 if width == C else 256)
    print(f"{name:12} C = {width:4}, d_ff = {d_ff:5}: {3 * d_ff / (8 * width) - 1:+.1%} against two matrices of 4 C")
assert tiny_llama.d_ff == gated_width(C, 8)

# %% [markdown]
# ## No biases
#
# The least spectacular change. A bias is one number for each output of a matrix, against a whole row of weights. How much do GPT-2's biases weigh? On the *meta device* torch builds a model without memory for its numbers, so even the largest can be counted:

# %%
from llmkit.models import gpt2 as gpt2_file
from llmkit.models import llama as llama_file
from llmkit.models import palm as palm_file

with torch.device("meta"):
    full = gpt2(gpt2_file.SIZES["gpt2"])
biases = sum(p.numel() for name, p in full.named_parameters() if name.endswith("bias"))
print(f"GPT-2: {full.n_params():,} parameters, {biases:,} of them biases: {biases / full.n_params():.2%}")

# %% [markdown]
# PaLM's authors report that leaving them out made large models more stable in training (Chowdhery et al. 2022, section 2). We cannot check that at our size; what we can check is whether they are missed.
#
# ## Grouped queries: a smaller cache
#
# A model that writes keeps the keys and values of all tokens so far, so as not to compute them again: the **KV cache** (lesson 07 builds it). It grows with every token, and on long texts it, not the weights, fills the memory. **Grouped-query attention** (GQA, lesson 04) lets several query heads share one key-value head; **multi-query attention** (MQA), in PaLM, lets all of them share one.
#
# ### Exercise 6.4 · kv_cache_bytes · ●●○ · 8 min
#
# Write `kv_cache_bytes(config, tokens, bytes_per_number=2)`: the memory for one text. Every layer keeps a key *and* a value, for every token and every key-value head, of `head_dim` numbers each. Two fields of a config may be None: `n_kv_heads`, then there are as many as `n_heads`; and `head_dim`, then it is `d_model // n_heads`. The result is a whole number of bytes.

# %% tags=["exercise"]
from llmkit.models.sizes import kv_cache_bytes

# %%
kv_cache_bytes = check(kv_cache_bytes)

# %%
TOKENS = 32_768
cached = {
    "LLaMA-7B": llama_file.SIZES["llama-7b"],
    "Llama-3-8B": llama_file.SIZES["llama-3-8b"],
    "PaLM-8B": palm_file.SIZES["palm-8b"],
}
gib = {name: kv_cache_bytes(config, TOKENS) / 2**30 for name, config in cached.items()}
fig, axis = figure(height=2.4)
bars = axis.barh(list(gib), list(gib.values()), color=COLORS["model"])
heads = [
    f"heads: {config.n_heads} query, {config.n_kv_heads or config.n_heads} key-value" for config in cached.values()
]
labels = [f" {size:.2g} GiB: {what}" for size, what in zip(gib.values(), heads, strict=True)]
axis.bar_label(bars, labels, fontsize=9)
axis.invert_yaxis()
axis.set(
    xlim=(0, 31), xlabel="GiB for one text of 32,768 tokens, 16 bits a number", title="Sharing keys shrinks the cache"
)
axis.grid(axis="y")
show(
    fig,
    alt="KV cache for one text of 32,768 tokens: " + ", ".join(f"{name} {size:.2g} GiB" for name, size in gib.items()),
)
print({name: round(size, 2) for name, size in gib.items()})

# %% [markdown]
# LLaMA-7B's 6.74 billion weights take 12.6 GiB in 16 bits: the cache of a single long text is larger than the model. (LLaMA-7B was made for texts of 2,048 tokens; this is what the same shape would need.) Llama 3 divides by four. PaLM's single key-value head, although twice as wide, divides by four once more.
#
# ## Counting LLaMA
#
# In lesson 05 you counted GPT-2's 124,439,808 parameters. Somebody has carried that function over to LLaMA. They did remember that there are no biases and no position table. It still gives the wrong number.
#
# ### Exercise 6.5 · count_params · find the bugs · ●●○ · 10 min
#
# Mend it, so that LLaMA-7B has its published 6,738,415,616 parameters. One mended place will not do: the check tells you which differences are left. The docstring says everything that is needed.

# %% tags=["exercise"]
from llmkit.models.llama import count_params

# %%
count_params = check(count_params)

# %% [markdown]
# Now all published sizes side by side, built on the meta device from their configs:

# %%
rows = {}
for build, sizes in ((gpt2, gpt2_file.SIZES), (llama, llama_file.SIZES), (palm_file.palm, palm_file.SIZES)):
    for name, config in sizes.items():
        with torch.device("meta"):
            n = build(config).n_params()
        kv = getattr(config, "n_kv_heads", None) or config.n_heads
        d_ff = config.d_ff or 4 * config.d_model
        tied = getattr(config, "tie", True)
        rows[name] = n
        print(
            f"{name:13} {n:15,}  {config.n_layers:3} layers  C {config.d_model:5}  heads {config.n_heads:2}, "
            f"{kv:2} key-value  d_ff {d_ff / config.d_model:.2f} C  V {config.vocab_size:6}  {'tied' if tied else 'own output'}"
        )
for name in ("llama-7b", "llama-3-8b", "llama-3.2-1b"):
    assert rows[name] == count_params(llama_file.SIZES[name])
for size, billions in (("8b", 8.63), ("62b", 62.50), ("540b", 540.35)):  # as the paper says
    assert abs(rows[f"palm-{size}"] / 1e9 - billions) < 0.01

# %% [markdown]
# The PaLM rows agree with the 8.63, 62.50 and 540.35 billion of the paper. Three things to notice. Llama 3's MLP is wider than 8/3: what grouped queries saved went there. The *small* Llama and SmolLM2 tie their matrices again: with 128,256 tokens and a width of 2048 a second table would add more than a fifth to the model. And PaLM's MLP is gated *and* 4 C wide.
#
# ## PaLM's block: side by side
#
# A serial block lets the MLP read what attention has just added. PaLM's **parallel** block lets both read the same $x$:

# %% tags=["show"]
from llmkit.layers.blocks import Rotary  # isort: split
from llmkit.layers.blocks import ParallelBlock

# %%
from torch.utils.flop_counter import FlopCounterMode

from llmkit.layers.attention import MultiHeadAttention
from llmkit.layers.blocks import PreNormBlock
from llmkit.layers.norms import RMSNorm

wide, length = 256, 64
for block in (PreNormBlock, ParallelBlock):
    torch.manual_seed(0)
    one = block(MultiHeadAttention(wide, H), GatedMLP(wide, gated_width(wide, 64)), partial(RMSNorm, wide))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        one(torch.randn(1, length, wide))
    norms = sum(isinstance(module, RMSNorm) for module in one.modules())
    n = sum(p.numel() for p in one.parameters())
    print(
        f"{block.__name__:13} {counter.get_total_flops():,} FLOPs in matrix products, {n:,} parameters, {norms} norms"
    )

# %% [markdown]
# (A FLOP is one addition or multiplication of two numbers.) The work is the same to the last multiplication; one norm is saved. So what did PaLM gain? Its authors report about 15% faster training at large scale, because matrices that read the same input can be laid side by side and multiplied *as one*. (When the model is spread over many chips, a block's partial sums also have to be added up once instead of twice.) The first can be shown here:

# %%
q_k_v_gate_up = [one.attn.q_proj, one.attn.k_proj, one.attn.v_proj, one.mlp.gate_proj, one.mlp.up_proj]
x = torch.randn(2, 7, wide)
h = one.norm(x)
with torch.no_grad():
    separate = [projection(h) for projection in q_k_v_gate_up]
    fused = h @ torch.cat([projection.weight for projection in q_k_v_gate_up]).T
assert torch.allclose(torch.cat(separate, dim=-1), fused, atol=1e-5)
print(f"{len(separate)} products with one input are one product, {tuple(fused.shape)}")

serial_steps = ["q k v", "q·k", "weights·v", "output", "gate up", "down"]
parallel_steps = ["q k v gate up", "q·k", "weights·v", "output down"]
print(
    f"one after the other: {len(serial_steps)} products in the serial block, {len(parallel_steps)} in the parallel one"
)

# %% [markdown]
# The price: the MLP no longer sees what attention found in the same block. PaLM's authors saw a small loss of quality at 8B and none at 62B. We will see what it costs in ours.
#
# ## The experiment: a ladder from GPT-2 to LLaMA
#
# Now for the question. A model is put together from parts, so a *recipe* can be a dict of parts. The ladder is a list of changes: each rung takes the recipe before it and exchanges what its name says.

# %%
from llmkit.layers.heads import CausalLM
from llmkit.layers.mlp import ACTIVATIONS, MLP
from llmkit.layers.rope import RotaryEmbedding
from llmkit.layers.transformer import Embedding, Transformer


def ladder(C, H, max_len):
    """Name of the rung -> its recipe, from GPT-2 up."""
    d_ff = gated_width(C, 8)
    changes = {
        "GPT-2": {
            "norm": partial(nn.LayerNorm, C),
            "attn": partial(MultiHeadAttention, C, H, bias=True),
            "mlp": partial(MLP, C, 4 * C, ACTIVATIONS["gelu_new"]),
            "block": PreNormBlock,
            "positions": partial(nn.Embedding, max_len, C),
            "rope": lambda: None,
            "tie": True,
        },
        "RMSNorm": {"norm": partial(RMSNorm, C)},
        "RoPE": {"positions": lambda: None, "rope": partial(RotaryEmbedding, C // H)},
        "SwiGLU": {"mlp": partial(GatedMLP, C, d_ff, bias=True)},
        "no biases": {"mlp": partial(GatedMLP, C, d_ff), "attn": partial(MultiHeadAttention, C, H)},
        "own output": {"tie": False},
        # one key-value head; what that saves goes into a wider MLP, as in Llama 3
        "grouped": {
            "attn": partial(MultiHeadAttention, C, H, n_kv_heads=1),
            "mlp": partial(GatedMLP, C, d_ff + 2 * (C - C // H) // 3),
        },
        "parallel": {"block": ParallelBlock},
    }
    rungs, recipe = {}, {}
    for name, change in changes.items():
        recipe = recipe | change
        rungs[name] = recipe
    return rungs


def assemble(recipe, n_layers=LAYERS, vocab_size=V):
    blocks = [recipe["block"](recipe["attn"](), recipe["mlp"](), recipe["norm"]) for _ in range(n_layers)]
    norm = recipe["norm"]()
    width = len(norm.weight)
    embed = Embedding(vocab_size, width, recipe["positions"]())
    return CausalLM(Transformer(embed, blocks, norm, rope=recipe["rope"]()), None, recipe["tie"])


rungs = ladder(C, H, T)
sizes = {name: assemble(recipe).n_params() for name, recipe in rungs.items()}
print(sizes)
assert sizes["GPT-2"] == models["GPT-2"].n_params() and sizes["own output"] == models["LLaMA"].n_params()
assert max(sizes.values()) < 1.1 * min(sizes.values())

# %% [markdown]
# The bottom rung has as many parameters as llmkit's `gpt2`, the rung "own output" as many as `llama`, and all are within 10% of each other. Every rung trains with the same three **seeds**. A seed fixes the numbers that the weights begin with and the order of the pieces that are read; nothing about a seed is better than about another, so *the spread between seeds is what chance alone does*.
#
# And one control: the bottom rung a second time, with three other seeds, as if it were a change. Whatever difference that shows is no difference at all.

# %%
SEEDS = range(3)
loss = {name: [run(partial(assemble, recipe), seed)[1] for seed in SEEDS] for name, recipe in rungs.items()}
loss = {
    "GPT-2": loss.pop("GPT-2"),
    "GPT-2 again": [run(partial(assemble, rungs["GPT-2"]), s + 100)[1] for s in SEEDS],
} | loss
mean = {name: sum(values) / len(values) for name, values in loss.items()}

squares = [(value - mean[name]) ** 2 for name, values in loss.items() for value in values]
spread = math.sqrt(sum(squares) / (len(squares) - len(loss)))  # one standard deviation between seeds, from all rungs
chance = 2 * spread * math.sqrt(2 / len(SEEDS))  # a difference of two means that chance rarely exceeds
chance_of_one = 2 * spread * math.sqrt(2)  # and one of two single runs
below = {name: list(mean)[max(0, i - 1)] for i, name in enumerate(mean)} | {"RMSNorm": "GPT-2"}
step = {name: mean[name] - mean[below[name]] for name in mean}
print(f"spread between seeds {spread:.3f}")
print(f"may be chance: up to {chance:.3f} between two means, up to {chance_of_one:.3f} between two single runs\n")
for name, value in mean.items():
    verdict = (
        "" if name == "GPT-2" else f"{step[name]:+.3f}  " + ("more than chance" if abs(step[name]) > chance else "")
    )
    print(f"{name:12} {value:.3f}  {verdict}")

# %%
names = list(mean)
fig, axis = figure(height=4.2)
for row, name in enumerate(names):
    moved = name != "GPT-2" and abs(step[name]) > chance
    color = (
        COLORS["control"]
        if name.startswith("GPT-2")
        else COLORS["good" if step[name] < 0 else "bad"]
        if moved
        else COLORS["model"]
    )
    axis.errorbar(mean[name], row, xerr=chance / 2, fmt="o", color=color, capsize=4, markersize=8)
    axis.plot(loss[name], [row + 0.22] * len(SEEDS), "|", color=color, alpha=0.7)
    if name != "GPT-2":
        axis.text(
            max(mean.values()) + 0.12,
            row,
            f"{step[name]:+.3f}",
            va="center",
            ha="right",
            color=color,
            weight="bold" if moved else None,
        )
axis.axvline(bigram, color=COLORS["control"], linestyle="--", linewidth=1.2, zorder=0)
axis.text(bigram + 0.003, 0, "counting pairs", color="#666666", fontsize=9, va="center")
axis.text(max(mean.values()) + 0.12, 0, "step", va="center", ha="right", fontsize=9)
axis.set_yticks(range(len(names)), ["GPT-2", "GPT-2 again", *(f"+ {name}" for name in names[2:])])
axis.invert_yaxis()
moved = [name for name in names[2:] if abs(step[name]) > chance]
others = max(abs(step[name]) for name in names[2:] if name != "RoPE")
title = f"RoPE: {step['RoPE']:+.2f} nats a letter. Every other step: at most {others:.2f}"
axis.set(
    xlabel="nats a letter after 80 steps (ticks: the three seeds)\nwhere the bars of two rungs do not overlap, they differ by more than chance",
    xlim=(None, max(mean.values()) + 0.13),
    title=title,
)
axis.grid(axis="y")
show(
    fig,
    alt="Ladder from GPT-2 to LLaMA, loss in nats a letter: "
    + ", ".join(f"{name} {value:.2f}" for name, value in mean.items())
    + f"; differences up to {chance:.2f} may be chance.",
)
largest = min(step, key=step.get)
print(f"beyond chance: {', '.join(moved)}; largest: {largest}")
if guess_number is not None or guess_largest is not None:
    print(f"your guess: {guess_number} beyond chance, the largest {guess_largest}")
assert largest == "RoPE" and step["RoPE"] < -2 * chance and abs(step["RMSNorm"]) < 2 * chance

# %% [markdown]
# **RoPE is nearly the whole difference.** Nothing else comes near it. If other steps are beyond chance in your output, they are so narrowly, and not all of them for the better. Steps within chance are too small to be *seen* with three seeds. That is not "they do nothing": 0.02 nats would be worth a lot to somebody who trains a large model, and we would hardly see them. Nor does it say anything about later: no rung has left counting pairs (the dashed line) behind yet.
#
# Look at the grey control, too: two times the same recipe, and the means differ. Somebody who trains each variant once and writes down the differences gets a ladder as well. Here is that ladder, three times:

# %%
print(f"{'':12}" + "".join(f"  seed {seed}" for seed in SEEDS))
for name in names[2:]:
    print(f"{name:12}" + "".join(f"{a - b:+8.3f}" for a, b in zip(loss[name], loss[below[name]], strict=True)))
both_signs = [n for n in names[2:] if len({a > b for a, b in zip(loss[n], loss[below[n]], strict=True)}) == 2]
print(f"better with one seed, worse with another: {', '.join(both_signs)}")
assert len(both_signs) >= 2 and "RoPE" not in both_signs

# %% [markdown]
# One more caution. We say "more than chance" from twice the standard error on (by which a difference of two such means typically errs), and chance alone reaches that about one time in twenty. Seven steps are seven occasions to be fooled. The cure is a **second test**, with seeds that had no part in the choice. Take the step that came out *worst*, and only that one: does it really harm?

# %%
suspect = max(names[2:], key=step.get)
again = {
    rung: [run(partial(assemble, rungs[rung]), seed + 200)[1] for seed in SEEDS] for rung in (below[suspect], suspect)
}
second = (sum(again[suspect]) - sum(again[below[suspect]])) / len(SEEDS)
print(f"{suspect}: first test {step[suspect]:+.3f}, second test {second:+.3f} (chance: up to {chance:.3f})")
assert abs(second) < abs(step["RoPE"]) / 2

# %% [markdown]
# In the run stored here SwiGLU had looked *harmful*, and the second test takes most of that back. This is the rule with second tests: the worst of many small steps was chosen because it came out badly, and part of that was bad luck.
#
# The own output, the best of the small steps, is not quite a fair one: it brings $V \cdot C$ = 2,240 parameters, 8% of the model, the most of any rung. Does it hold? Write `suspect = "own output"` and run the cell again.
#
# ### Why RoPE?
#
# That step does two things at once. It takes away the table, which begins as random vectors as large as the letters' own and blurs them until it is learned. And it brings in the distance between two tokens, ready-made. So there is a control to make: **no positions at all**, neither a table nor RoPE. (The causal mask still shows each letter only those before it, but not in which order.) The last line begins the table smaller than everything else, to see whether its size at the start is what harms.
#
# Guess first: where will it lie, near the table or near RoPE? And what if all three train three times as long?

# %%
LONG = 240
places = {"table": rungs["RMSNorm"], "no positions": rungs["RoPE"] | {"rope": lambda: None}, "RoPE": rungs["RoPE"]}
unplaced = [run(partial(assemble, places["no positions"]), seed)[1] for seed in SEEDS]
short = {"table": mean["RMSNorm"], "no positions": sum(unplaced) / len(SEEDS), "RoPE": mean["RoPE"]}
longer = {name: run(partial(assemble, recipe), 0, LONG)[1] for name, recipe in places.items()}
print(f"{'nats a letter after':25}" + "".join(f"{name:>14}" for name in places))
for label, row in ((" 80 steps (three seeds)", short), (f"{LONG} steps (one seed)", longer)):
    print(f"{label:25}" + "".join(f"{row[name]:14.3f}" for name in places))
print(f"counting pairs: {bigram:.3f}")

small_table = fresh(partial(assemble, places["table"]), seed=0)
with torch.no_grad():
    small_table.transformer.embed.positions.weight.mul_(0.2)
train(small_table, windows(train_ids, seed=0), 80, 1e-2, progress=False)
begun_small = measure(small_table)
print(f"a table that begins five times smaller, 80 steps, seed 0: {begun_small:.3f}, else {loss['RMSNorm'][0]:.3f}")
assert begun_small < loss["RMSNorm"][0]
assert short["RoPE"] < short["no positions"] < short["table"]
assert longer["RoPE"] < min(longer["table"], longer["no positions"]) - 0.1

# %% [markdown]
# Not as one would think. After 80 steps about *half* of RoPE's step has nothing to do with RoPE: the model without positions is better than the one with a table. The table is in the way: begun five times smaller, it harms much less. After 240 steps that half is gone, table and no positions differ by less than two single runs may, and RoPE is far ahead of both. By then it alone has left counting pairs clearly behind, and what it gains is the distance itself.
#
# "RoPE does it" was the right answer after 80 steps, but half of it for another reason than one would have given. (The lower row is one seed each; the section for a GPU goes further.)
#
# ### Break it: a change that was none


# %%
def untouched(make, seed):
    """GPT-2's 0.02, at a width for which it was not made."""
    torch.manual_seed(seed)
    model = make()
    init_weights(model, LAYERS, std=0.02)
    train(model, windows(train_ids, seed), 80, 1e-2, progress=False)
    return measure(model)


careful = {name: loss[name][0] for name in ("no biases", "own output")}  # the ladder's runs with the same seed
careless = {name: untouched(partial(assemble, rungs[name]), seed=0) for name in careful}
print("weights begin at      " + "".join(f"{name:>12}" for name in careless) + "   difference")
for label, losses in ((f"{0.02 * (768 / C) ** 0.5:.3f} (for C = {C})", careful), ("0.020 (for C = 768)", careless)):
    a, b = losses["no biases"], losses["own output"]
    print(f"{label:22}{a:12.3f}{b:12.3f}   {b - a:+.3f}")
assert careless["own output"] - careless["no biases"] < 3 * min(step["own output"], -0.03)

# %% [markdown]
# With weights that begin at 0.02, "own output" looks like the discovery of the decade, about twice the step of RoPE. Nothing is wrong with the arithmetic. But what was measured is mostly that *a tied matrix that begins too small hardly gets going in 80 steps*. Begin both as their width demands, and most of it is gone. A comparison is only as good as everything that was *not* changed: weights at the start, learning rate, number of steps, number of parameters.
#
# The learning rate is next. Was 0.01 perhaps good for LLaMA and bad for GPT-2?
#
# ## When the learning rate is too high
#
# Attention scores are dot products of $q$ and $k$, and nothing holds them. If training makes both a little longer in every step, the scores grow with the *product* of the lengths. A softmax of large scores is all on one token, its gradient is 0, and that head cannot learn any more. Large models have been seen to die of this (Dehghani et al. 2023, section 2: vision models of about 8 billion parameters).
#
# **QK-norm** (their cure; also in Qwen3, OLMo 2 and Gemma 3) puts an RMSNorm on every query and key, over the $D$ numbers of a head, before they are rotated. Then there is a limit. How large can a score become?
#
# ### Exercise 6.6 · the largest score · ●●○ · 8 min
#
# A head has $D = 64$ numbers. $q$ and $k$ come out of an RMSNorm whose weight is still 1. The score is $q \cdot k / \sqrt{D}$. What is the largest value it can have, whatever the text? (RoPE turns vectors and leaves their length alone.) Think first, then look at the next cell but one.

# %%
largest_score = None
# BEGIN SOLUTION
# RMSNorm makes the mean of the squares 1, so their sum is D and the length is sqrt(D).
# q · k is at most length times length = D; divided by sqrt(D) that is sqrt(64).
largest_score = 8.0
# END SOLUTION
largest_score = check(largest_score, "6.6")

# %%
D = 64
q, k = (torch.randn(100_000, D, generator=torch.Generator().manual_seed(seed)) * 50 for seed in (0, 1))
before = (q * k).sum(-1) / D**0.5
after = (rms_norm(q, torch.ones(D)) * rms_norm(k, torch.ones(D))).sum(-1) / D**0.5
aligned = (rms_norm(q, torch.ones(D)) * rms_norm(2 * q, torch.ones(D))).sum(-1) / D**0.5
print(f"largest of 100,000 random scores: {before.max():.0f} before the norm, {after.max():.2f} after")
print(f"k in the direction of q:          {aligned.max():.2f}")
assert aligned.max() < 8.001 and after.max() < aligned.max()

# %% [markdown]
# (In training the norms' weights are learned as well, so the limit can move, but slowly, like any parameter.)
#
# Now train at several learning rates, with and without QK-norm, and watch the scores, one seed each. Before you run it, guess: at a rate of 0.1, ten times what we have used, how many nats a letter will LLaMA have, and how many with QK-norm? (At 0.01 it was about 2.4.)

# %%
guess_plain = None  # for example 2.5
guess_normed = None


# %%
class Watched(MultiHeadAttention):
    """Attention that remembers the largest |score| of its last pass."""

    def _attend(self, q, k, v, mask):
        with torch.no_grad():
            self.largest = (q @ k.transpose(-2, -1) * self.scale).abs().max().item()
        return super()._attend(q, k, v, mask)


def watched_run(recipe, lr, seed):
    """The loss on validation pieces, and the largest score of each step."""
    largest = []

    def loss_and_scores(model, ids, attention_mask):
        value = next_token_loss(model(ids), ids)
        largest.append(max(block.attn.largest for block in model.transformer.blocks))
        return value

    _, value = run(partial(assemble, recipe), seed, lr=lr, loss=loss_and_scores)
    return value, largest


RATES = {"GPT-2": (3e-3, 3e-2), "LLaMA": (3e-2, 1e-1), "with QK-norm": (1e-2, 3e-2, 1e-1)}
HIGH = 1e-1
watched = {
    "GPT-2": rungs["GPT-2"] | {"attn": partial(Watched, C, H, bias=True)},
    "LLaMA": rungs["own output"] | {"attn": partial(Watched, C, H)},
    "with QK-norm": rungs["own output"] | {"attn": partial(Watched, C, H, qk_norm=RMSNorm)},
}
sweep, scores = {"GPT-2": {1e-2: loss["GPT-2"][0]}, "LLaMA": {1e-2: loss["own output"][0]}, "with QK-norm": {}}, {}
for name, recipe in watched.items():
    for lr in RATES[name]:
        sweep[name][lr], scores[name, lr] = watched_run(recipe, lr, seed=0)
    sweep[name] = dict(sorted(sweep[name].items()))
    print(f"{name:13}" + "".join(f"  {lr:g}: {value:.2f}" for lr, value in sweep[name].items()))
print(
    "largest score in 80 steps at 0.1: "
    + ", ".join(f"{name} {max(scores[name, HIGH]):.0f}" for name in ("LLaMA", "with QK-norm"))
)

# %%
fig, axes = figure(2, height=3.4)
colors = {"GPT-2": COLORS["control"], "LLaMA": COLORS["bad"], "with QK-norm": COLORS["good"]}
for name, values in sweep.items():
    axes[0].plot(list(values), list(values.values()), "o-", color=colors[name])
    at = list(values.items())[-1]
    label = name.replace(" ", "\n")
    axes[0].annotate(label, at, (7, 0), textcoords="offset points", color=colors[name], fontsize=9, va="center")
for guess, name in ((guess_plain, "LLaMA"), (guess_normed, "QK-norm")):
    if guess is not None:
        axes[0].plot(HIGH, guess, "x", color=COLORS["guess"], markersize=9, zorder=5)
        axes[0].annotate(
            f"guess: {name}",
            (HIGH, guess),
            (-8, 0),
            textcoords="offset points",
            color=COLORS["guess"],
            fontsize=9,
            ha="right",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
axes[0].set(
    xscale="log",
    xlim=(2.3e-3, 0.5),
    xlabel="learning rate",
    ylabel="nats a letter after 80 steps",
    title="QK-norm: little in the loss …",
)
for name in ("LLaMA", "with QK-norm"):
    axes[1].semilogy(scores[name, HIGH], color=colors[name])
    axes[1].text(82, scores[name, HIGH][-1], name.replace(" ", "\n"), color=colors[name], fontsize=9, va="center")
axes[1].set(xlabel="step", ylabel="largest |score|", title="… and much in the scores", xlim=(0, 105))
show(
    fig,
    alt=f"Left: loss against learning rate. At 0.1 LLaMA has {sweep['LLaMA'][HIGH]:.2f} nats a letter, "
    f"with QK-norm {sweep['with QK-norm'][HIGH]:.2f}. Right: the largest score over 80 steps at 0.1 "
    f"reaches {max(scores['LLaMA', HIGH]):.0f} without and {max(scores['with QK-norm', HIGH]):.0f} with QK-norm.",
)
assert max(scores["LLaMA", HIGH]) > 5 * max(scores["with QK-norm", HIGH])
assert min(sweep["GPT-2"], key=sweep["GPT-2"].get) == 1e-2 and sweep["GPT-2"][3e-2] > sweep["LLaMA"][3e-2]
assert sweep["with QK-norm"][HIGH] < sweep["LLaMA"][HIGH] + 0.1

# %% [markdown]
# First, was 0.01 fair? Of the three rates that GPT-2 was given it is the best, so it was not chosen to suit LLaMA. The ladder did not rest on the learning rate.
#
# Second, QK-norm does what it says: at a rate of 0.1 the plain scores reach hundreds, the others about ten or twenty. And third, what was not as expected: the loss hardly shows it. At 0.01 the two are level, at 0.03 QK-norm is even a little behind, and only at 0.1 is it a little ahead; two single runs of one recipe may differ by nearly as much.
#
# The models here are small and train for 80 steps, and scores of hundreds hurt them less than one might fear. In larger models and longer runs the runaway can end the training (Wortsman et al. 2023 measure it over many sizes and rates). So in our experiment QK-norm is an insurance that was hardly called upon.
#
# ## z-loss: another number that nothing holds (optional)
#
# Softmax does not care if the same number is added to all logits: the probabilities stay as they are. So nothing in the loss keeps the logits near 0, and they may drift together, to where 16-bit numbers are coarse. $Z = \sum_j e^{\text{logit}_j}$, the denominator of the softmax, measures it: $\log Z = 0$ means that the logits already are log-probabilities. PaLM adds $10^{-4} \log^2 Z$ to its loss.
#
# ### Exercise 6.7 · z_loss · ●●○ · 8 min · optional
#
# Write `z_loss(logits)`: the mean over all positions of $\log^2 Z$, as a scalar in float32, without the factor. Logits may come in 16 bits; convert them before anything is summed. It must survive logits of 200, whose exponential is too large for float32. Useful: `torch.logsumexp`.

# %% tags=["exercise"]
from llmkit.training.losses import z_loss

# %%
z_loss = check(z_loss)

# %% [markdown]
# What does it do? PaLM's factor, a hundred times as much, and none, for one seed:


# %%
def loss_with_z(factor, drift):
    def loss(model, ids, attention_mask):
        logits = model(ids)
        drift.append(logits.detach().logsumexp(-1).mean().item())
        return next_token_loss(logits, ids) + factor * z_loss(logits)

    return loss


fig, axis = figure(height=2.8)
last = {}
for factor, color, up in ((0, COLORS["control"], 0.25), (1e-4, COLORS["model"], -0.25), (1e-2, COLORS["good"], 0)):
    drift = []
    _, value = run(partial(assemble, rungs["own output"]), seed=0, loss=loss_with_z(factor, drift))
    last[factor] = drift[-1]
    axis.plot(drift, color=color, linewidth=4 if factor == 0 else 2)
    axis.text(80, drift[-1] + up, f" factor {factor:g}: loss {value:.2f}", color=color, va="center", fontsize=9)
axis.set(
    xlabel="step",
    ylabel="mean log Z",
    xlim=(0, 110),
    ylim=(3.4, 5.9),
    title="Pulling log Z down needs a larger factor here",
)
show(
    fig,
    alt=f"Mean log Z over 80 steps. Without z-loss it ends at {last[0]:.1f}, with PaLM's factor 0.0001 at "
    f"{last[1e-4]:.1f}, with 0.01 at {last[1e-2]:.1f}.",
)
assert last[1e-2] < last[0] - 0.5 and abs(last[1e-4] - last[0]) < 0.3

# %% [markdown]
# PaLM's factor does nothing that could be seen in 80 steps: its effect adds up over the hundred thousands of steps for which it was made. A hundred times as much pulls $\log Z$ down. The three losses differ by no more than two single runs of one recipe may, so whether that costs anything cannot be seen here. It need not: the probabilities stay the same when all logits move together.
#
# ## On real text
#
# Does the ladder's largest step hold elsewhere? The same models on the English of Python's documentation, one seed.

# %%
from llmkit.data.text import python_docs

docs = python_docs()[:400_000]
doc_letters = sorted(set(docs))
doc_number = {letter: i for i, letter in enumerate(doc_letters)}
doc_ids = torch.tensor([doc_number[letter] for letter in docs])
doc_pieces = next(windows(doc_ids[350_000:], seed=1, batch=256))[0]
real = {}
for name in ("RMSNorm", "RoPE"):
    model = fresh(partial(assemble, rungs[name], vocab_size=len(doc_letters)), seed=0)
    train(model, windows(doc_ids[:350_000], seed=0), 80, 1e-2, progress=False)
    real[name] = measure(model, doc_pieces)
    print(f"{name:10} {real[name]:.2f} nats a letter")
print(f"step {real['RoPE'] - real['RMSNorm']:+.2f} (on toyland {step['RoPE']:+.2f})")
assert real["RoPE"] < real["RMSNorm"]

# %% [markdown]
# ## On a GPU
#
# Tiny models for a few seconds: would the ladder look the same for larger ones, trained longer? This section climbs it with models of about 30 million parameters. It runs by itself where a GPU is found.


# %%
@gpu_section(
    "climb the ladder with models of 30 million parameters, two seeds each",
    full={"width": 512, "heads": 8, "n_layers": 10, "length": 256, "batch": 32, "n_steps": 600, "lr": 1e-3, "seeds": 2},
    smoke={"width": 16, "heads": 2, "n_layers": 1, "length": 16, "batch": 2, "n_steps": 2, "lr": 1e-3, "seeds": 1},
)
def large_ladder(device, width, heads, n_layers, length, batch, n_steps, lr, seeds):
    text = ids_of("\n".join(toyland.corpus(4_000_000 if device.type != "cpu" else 10_000, 100_000).train))
    text = text.to(device)
    held_out, read = text[: len(text) // 20], text[len(text) // 20 :]

    def batches(ids, seed, n=batch):
        generator = torch.Generator().manual_seed(seed)
        while True:
            begins = torch.randint(len(ids) - length, (n, 1), generator=generator) + torch.arange(length)
            yield ids[begins.to(device)], None

    pieces = next(batches(held_out, 1))[0]
    results = {}
    for name, recipe in ladder(width, heads, length).items():
        values = []
        for seed in range(seeds):
            model = fresh(partial(assemble, recipe, n_layers), seed, width).to(device)
            train(model, batches(read, seed), n_steps, lr, progress=False)
            values.append(measure(model, pieces))
        results[name] = values
        print(f"{name:12} {model.n_params():,} parameters: " + ", ".join(f"{value:.3f}" for value in values))
    return results


# %% [markdown]
# ## Mistakes people make
#
# | mistake | how it shows |
# |---|---|
# | Squares of 16-bit numbers in a norm | in float16 whole vectors become 0; in bfloat16 an error that nobody notices |
# | `gate_proj` and `up_proj` swapped on loading | no error, since their shapes are equal; the text is nonsense |
# | A gated MLP of width 4 C compared with a plain one of 4 C | the gate "wins" with half as many parameters again |
# | `head_dim` from the number of key-value heads | the cache looks as large as without grouping |
# | One seed for each variant | every change helps or hurts, and next week the other way round |
# | One thing changed, and with it what suits the old one (weights at the start, learning rate) | a large gain that is gone when both are tuned |
# | Two things changed in one step | the gain is explained by the wrong one; a control with only one of them tells |
#
# ## Where the real systems do it
#
# - **transformers** `models/llama/modeling_llama.py`: `LlamaRMSNorm` (your 6.1, cast included), `LlamaMLP`, `repeat_kv`; `models/qwen3` has the norms on q and k; `models/cohere` is PaLM's parallel block.
# - **LLaMA's own code**, `llama/model.py`: `FeedForward` computes your `gated_width`, `multiple_of=256`.
# - **vLLM** `models/llama.py` multiplies q, k, v as one matrix (`QKVParallelLinear`) and gate and up as one, in the serial block too.
# - Zhang and Sennrich 2019 (RMSNorm); Shazeer 2020, "GLU variants improve transformer", whose conclusion explains the success "to divine benevolence"; Ainslie et al. 2023 (GQA); Touvron et al. 2023 (LLaMA), section 2.2; Chowdhery et al. 2022 (PaLM), sections 2 and 5.
# - Narang et al. 2021, "Do transformer modifications transfer across implementations and applications?": this lesson's question for dozens of changes at full size. Most did not help.
# - Wortsman et al. 2023, "Small-scale proxies for large-scale transformer training instabilities": growing scores, drifting logits, QK-norm and z-loss, in small models.
#
# ## What llmkit gained
#
# | file | what |
# |---|---|
# | `llmkit/layers/norms.py`, `mlp.py` | `rms_norm`, `swiglu`, `gated_width`, `GatedMLP` |
# | `llmkit/layers/blocks.py` | `ParallelBlock` |
# | `llmkit/models/llama.py`, `palm.py` | configs, builders, tables of weights, LLaMA's `count_params` |
# | `llmkit/models/sizes.py` | `kv_cache_bytes` |
# | `llmkit/training/losses.py` | `z_loss` |
#
# Three questions to check yourself:
#
# <details><summary>A paper reports that its new norm is 0.01 nats better, one run each. In this lesson's models, what would you answer?</summary>
#
# That the spread between two runs of the *same* recipe is larger (print `spread`). It may be true, but one run each cannot show it. Ask for seeds.
# </details>
#
# <details><summary>A model has 40 query heads of 128 numbers, 8 key-value heads and 48 layers. How large is its cache for 1,000 tokens in bfloat16?</summary>
#
# 2 · 48 · 1000 · 8 · 128 · 2 bytes = 196,608,000 bytes, about 188 MiB. The number of query heads does not matter.
# </details>
#
# <details><summary>Why does QK-norm not limit the scores for ever?</summary>
#
# Its weights are learned: a weight of 3 on q and on k makes scores up to nine times as large. But a weight moves by about the learning rate in a step, while a product of two growing matrices runs away.
# </details>

# %%
torch.set_num_threads(threads)
progress()

# %% [markdown]
# **Next**: 07_generation. A model that predicts can write. How to choose the next token, and how not to compute everything again for each.
