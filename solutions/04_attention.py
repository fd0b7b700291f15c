# %% [markdown]
# # 04 · Attention
#
# **You will** write the part that lets every word look at every other one, give it masks and heads, train it on sentences in which only the last word tells what "it" is, and find out by surgery which of its heads do the work.
#
# **Before** you start: lessons 01 (softmax, loss) and 03 (vectors for tokens and positions). From torch you need matrix products (`@`), `transpose`, `softmax` and broadcasting; each exercise names the calls. Two experiments train small models; the training loop is a black box here that lesson 05 opens.
#
# **Time** about 85 minutes: five exercises, and two that are optional (31 minutes more). The cells that train take about half a minute together.

# %% tags=["setup"]
import math
from contextlib import contextmanager
from functools import partial
from itertools import islice

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmkit.course import check, gpu_section, hint, progress, start
from llmkit.data.toyland import coreference
from llmkit.viz import COLORS, figure, show
from llmkit.viz.attention import attention_maps, draw_attention, record_attention

start("04_attention", solved=True)
threads = torch.get_num_threads()
torch.set_num_threads(1)  # models as small as these gain nothing from a second thread

# %% [markdown]
# ## What is "it"?

# %% tags=["nbval-check-output"]
for example in (
    coreference.sentence("robot", "ball", "heavy"),
    coreference.sentence("robot", "ball", "tired"),
    coreference.sentence("fox", "badger", "tired"),
    coreference.sentence("badger", "fox", "tired"),
    coreference.sentence("badger", "fox", "tired", passive=True),
):
    print(f"{example.text:60} it ={example.referent}")

# %% [markdown]
# You read these without effort. Look at what it takes. The first two sentences differ in one word at the very end, and it changes what a word in the middle *means*. The third and the fourth consist of the same words, only their places differ. And in the last one the places are exchanged once more, by "was … by".
#
# So to know what "it" stands for, the word "it" has to look at other words, and which of them matter depends on what they are. A fixed recipe such as "take the noun that is three words back" fails in the next sentence. The question of this lesson: **how can a word choose, by itself, which other words to look at?**
#
# ## The idea: a mean whose shares are computed
#
# After lesson 03 each token is a vector. To let a word take in the others we could give it the *mean* of all vectors. Then it would know what is in the sentence, but nothing stands out. Attention is a weighted mean. The weights are computed afresh for each word, and from the words themselves. Three vectors of each word take part:
#
# - a **query** $q$: what am I looking for?
# - a **key** $k$: what do I offer to be found by?
# - a **value** $v$: what do I hand over when I am found?
#
# The **score** of a query with a key is their dot product $q \cdot k$: large when they point the same way. A softmax (lesson 01) turns a query's scores into weights that sum to 1. The answer is the mean of the values under these weights:
#
# $$w_s = \frac{e^{q \cdot k_s}}{\sum_r e^{q \cdot k_r}} \qquad\qquad y = \sum_s w_s\, v_s$$
#
# ### Exercise 4.1 · one answer by hand · ●○○ · 6 min
#
# One query, three keys with their values, two numbers each:
#
# | | | |
# |---|---|---|
# | query $q$ | (2, 0) | |
# | key 1 | (1, 0) | value (0, 4) |
# | key 2 | (0, 1) | value (8, 0) |
# | key 3 | (1, 1) | value (4, 0) |
#
# Compute the three scores, their softmax, and the answer $y$: a list of two numbers, to within 0.01. ($e^2 = 7.389$ and $e^0 = 1$ are all the exponentials that you need.)

# %%
by_hand = None
# BEGIN SOLUTION
share = math.exp(2) / (math.exp(2) + 1 + math.exp(2))  # keys 1 and 3 have the score 2, key 2 has 0
by_hand = [(1 - 2 * share) * 8 + share * 4, share * 4]
# END SOLUTION
by_hand = check(by_hand, "4.1")

# %%
q = torch.tensor([2.0, 0.0])
keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
values = torch.tensor([[0.0, 4.0], [8.0, 0.0], [4.0, 0.0]])
weights = (keys @ q).softmax(0)
answer = weights @ values
fig, axes = figure(2, height=3.0)
spots = [(2.05, 0.05), (0.6, -0.2), (-0.15, 1.12), (1.08, 0.92)]
arrows = [(q, "query", COLORS["query"])]
arrows += [(key, f"key {i + 1}: weight {weights[i]:.2f}", COLORS["key"]) for i, key in enumerate(keys)]
for (vector, name, color), spot in zip(arrows, spots, strict=True):
    axes[0].annotate("", vector.tolist(), (0, 0), arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 2})
    axes[0].text(*spot, name, color=color, fontsize=9)
axes[0].set(
    xlim=(-0.3, 2.9), ylim=(-0.35, 1.5), title="Keys that point my way …", xlabel="first number", ylabel="second number"
)
axes[1].scatter(*values.T, s=900 * weights + 15, color=COLORS["value"])
for i, value in enumerate(values.tolist()):
    axes[1].text(value[0] + 0.5, value[1] + 0.25, f"value {i + 1}", color=COLORS["value"], fontsize=9)
axes[1].plot(*answer, "X", color=COLORS["model"], markersize=11)
axes[1].text(answer[0] + 0.5, answer[1] + 0.2, "answer", color=COLORS["model"], fontsize=9)
axes[1].set(xlim=(-1, 10.5), ylim=(-0.8, 5), title="… decide whose values I get", xlabel="first number")
show(
    fig,
    alt=f"Left: keys 1 and 3 point the query's way and get weights of {weights[0]:.2f} each. Right: the answer lies at "
    f"({answer[0]:.2f}, {answer[1]:.2f}), between values 1 and 3 and far from value 2.",
)

# %% [markdown]
# For a whole text of $T$ tokens there are $T$ queries and $T$ keys. With the queries as rows of a matrix $Q$ of shape $(T, D)$ and the keys as rows of $K$, all scores are one product, $Q K^\top$ of shape $(T, T)$: row $t$ holds the scores of token $t$ with every token, itself included. $D$ is the length of a query.
#
# ## Why the scores are divided
#
# A dot product of longer vectors is larger. How much?
#
# ### Exercise 4.2 · the size of a score · ●○○ · 4 min
#
# All numbers of $q$ and $k$ are independent, with mean 0 and standard deviation 1, and $D = 64$. What is the standard deviation of $q \cdot k$? Predict it; the next cell measures it.

# %%
score_size = None
# BEGIN SOLUTION
score_size = math.sqrt(64)
# END SOLUTION
score_size = check(score_size, "4.2")

# %%
generator = torch.Generator().manual_seed(0)
widths, largest, slopes = [2**n for n in range(1, 11)], {"scores as they are": [], "divided by √D": []}, []
for D in widths:
    queries, others = torch.randn(500, D, generator=generator), torch.randn(20, D, generator=generator)
    scores = queries @ others.T  # (500, 20): every query has 20 keys to choose from
    if D in (4, 64, 1024):
        print(f"D = {D:4}: standard deviation of the scores {scores.std():5.1f}, root of D {D**0.5:5.1f}")
    for name, divided in (("scores as they are", scores), ("divided by √D", scores / D**0.5)):
        w = divided.softmax(-1)
        largest[name].append(w.amax(-1).mean().item())
        if D == 64:
            slopes.append((w * (1 - w)).mean().item())  # how much a weight moves when its own score moves
fig, axis = figure(height=2.8)
for (name, line), color in zip(largest.items(), (COLORS["bad"], COLORS["good"]), strict=True):
    axis.semilogx(widths, line, "o-", base=2, color=color, markersize=4)
    axis.annotate(
        name, (widths[-1], line[-1]), (6, 0), textcoords="offset points", color=color, va="center", fontsize=9
    )
axis.set(
    xlabel="D, length of a query",
    ylabel="largest of 20 weights",
    xlim=(1.7, 9000),
    ylim=(0, 1),
    title="Undivided, one key takes all",
)
axis.set_xticks([2, 8, 32, 128, 512], ["2", "8", "32", "128", "512"])
show(
    fig,
    alt=f"Mean largest weight among 20 keys against D. Undivided it rises from {largest['scores as they are'][0]:.2f} at D = 2 "
    f"to {largest['scores as they are'][-1]:.2f} at 1024; divided by the root of D it stays near {largest['divided by √D'][5]:.2f}.",
)
print(f"at D = 64 a weight moves by {slopes[0]:.4f} for each unit of its score undivided, by {slopes[1]:.4f} divided")
assert largest["scores as they are"][-1] > 0.9 and largest["divided by √D"][-1] < 0.5

# %% [markdown]
# With undivided scores an untrained model already looks at little more than a single word, chosen by chance. And a softmax that is so sure moves less when the scores move, at $D = 64$ only about a quarter as much: less gradient, slower learning. So scores are divided by $\sqrt D$, whatever $D$ is.
#
# ## Who may look at whom
#
# One thing is missing. A model that is to guess the next word must not see it. But in training it gets the whole sentence at once, because all positions can be computed in one pass. So there is a rule: position $t$ may look at positions $0 … t$ and at nothing later. A **mask** says for each query and each key whether it may be looked at: True, it may. Where it is False, the score becomes $-\infty$ *before* the softmax; its exponential is 0, and what is left still sums to 1.
#
# What should a query get that may look at nothing at all (a padding token, say)? The softmax would compute 0/0, which is NaN (not a number), and one NaN spoils all sums that it gets into. We settle that its weights are all 0.
#
# ### Exercise 4.3 · attention_weights · ●●○ · 20 min
#
# Write `attention_weights(q, k, mask, scale)`. Here `q` has the shape $(B, H, T, D)$: $B$ texts, $H$ heads (soon more about these; each is computed by itself), $T$ queries of length $D$. `k` is $(B, H, S, D)$ with $S$ keys. The result is $(B, H, T, S)$.
#
# - `scale` multiplies the scores; None means $1/\sqrt D$.
# - `mask` is None, or a boolean tensor, or a floating one that is *added* to the scores (lesson 03's ALiBi comes in here), or the constant `CAUSAL`, which stands for `causal_mask(T, S, q.device)`. (Ask with `mask is CAUSAL`, then `mask.dtype == torch.bool`. All masks broadcast to the shape of the scores.)
# - A row that may look at nothing, whether False or an added $-\infty$ hides its keys, gives zeros, and its gradient is 0 too, not NaN. (So NaN has to be avoided *before* the softmax; replacing it afterwards leaves it in the gradient.)
# - The softmax is computed in float32 (`.float()`), and the result has the dtype of `q` (`.type_as(q)`).
#
# Calls that you need: `k.transpose(-2, -1)`, `.masked_fill(where, value)`, `.softmax(-1)`, `.all(-1, keepdim=True)`, `torch.inf`. It must match torch's own attention; the check also compares gradients.

# %%
from llmkit.layers.masks import CAUSAL, Mask, causal_mask  # Mask is the type: a tensor, CAUSAL or None

# %% tags=["exercise"]
from llmkit.layers.attention import attention_weights

# %%
attention_weights = check(attention_weights)

# %% [markdown]
# The rest of attention is one product: weights times values.

# %% tags=["show"]
from llmkit.layers.attention import attention

# %%
torch.manual_seed(0)
q, k, v = torch.randn(2, 4, 6, 8), torch.randn(2, 4, 9, 8), torch.randn(2, 4, 9, 8)
for name, mask in (("no mask", None), ("causal", causal_mask(6, 9)), ("random", torch.rand(2, 1, 6, 9) < 0.7)):
    difference = (attention(q, k, v, mask) - F.scaled_dot_product_attention(q, k, v, mask)).abs().max()
    print(f"{name:8} largest difference from torch's attention below 0.00001: {bool(difference < 1e-5)}")
    assert difference < 1e-5

# %% [markdown]
# ### Exercise 4.4 · causal_mask · ●●○ · 8 min · find the bug
#
# This `causal_mask(q_len, kv_len)` is right as long as there are as many queries as keys, and every test of a training run has exactly that. In generation (lesson 07) the model has a memory of the earlier tokens: one new query, many keys. Then it fails, and no error is raised. The queries are always the *last* `q_len` of the `kv_len` positions. Mend it.

# %% tags=["exercise"]
from llmkit.layers.masks import causal_mask

# %%
causal_mask = check(causal_mask)

# %% [markdown]
# ### Break it: three ways to mask wrongly
#
# Each of these runs without an error.

# %%
scores = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(1))
allowed = causal_mask(5, 5)
right = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
wrong = {
    "after softmax": scores.softmax(-1) * allowed,
    "0 for −∞": scores.masked_fill(~allowed, 0.0).softmax(-1),
    "one too many": scores.masked_fill(~torch.ones(5, 5).tril(1).bool(), -torch.inf).softmax(-1),
}
fig, axes = figure(4, width=7.2, height=2.5, sharey=True)
for axis, (name, weights) in zip(axes, {"right": right, **wrong}.items(), strict=True):
    image = draw_attention(axis, weights[0, 0], "abcde")
    axis.set_title(name, fontsize=10)
    axis.set_xlabel("key")
axes[0].set_ylabel("query")
fig.colorbar(image, ax=axes, label="weight", shrink=0.9)
future = {name: (weights * ~allowed).sum().item() / weights.sum().item() for name, weights in wrong.items()}
show(
    fig,
    alt=f"Four maps of weights, 5 queries by 5 keys. Right: a triangle. Masked after the softmax: a triangle whose first row sums "
    f"to {wrong['after softmax'][0, 0, 0].sum():.2f}. With 0 for minus infinity {future['0 for −∞']:.0%} of all weight lies in the "
    f"future, with one column too many {future['one too many']:.0%}.",
)
print(f"{'':14} first row sums to   weight on the future")
for name, weights in {"right": right, **wrong}.items():
    print(f"{name:14} {weights[0, 0, 0].sum():17.2f} {(weights * ~allowed).sum() / weights.sum():22.0%}")

# %% [markdown]
# The last one is the most treacherous: every position sees exactly the word that it has to guess, and a model that may copy its answer gets a wonderful loss. There is a test that finds all three, and it belongs beside every causal model: change a token, here the one at position 3, and see whether an *earlier* position changes.

# %%
torch.manual_seed(0)
q, k, v = (torch.randn(1, 1, 5, 8) for _ in range(3))
k2, v2 = k.clone(), v.clone()
k2[..., 3, :], v2[..., 3, :] = torch.randn(8), torch.randn(8)  # another token at position 3
ways = {
    "right": lambda q, k, v: attention(q, k, v, allowed),
    "after softmax": lambda q, k, v: attention_weights(q, k) * allowed @ v,
    "0 for −∞": lambda q, k, v: (q @ k.mT / 8**0.5).masked_fill(~allowed, 0.0).softmax(-1) @ v,
    "one too many": lambda q, k, v: attention(q, k, v, torch.ones(5, 5).tril(1).bool()),
}
for name, way in ways.items():
    changed = (way(q, k, v) - way(q, k2, v2)).abs().amax((0, 1, 3)) > 0
    print(f"{name:14} changed: {[position for position in range(5) if changed[position]]}")
    assert changed[3:].all() and bool(changed[:3].any()) == (name != "right")

# %% [markdown]
# Masks are combined with `&`. Here is a batch of two texts, the second with two tokens of padding on the left, in a causal model. Its first two rows may look at nothing:

# %% tags=["nbval-check-output"]
from llmkit.layers.masks import padding_mask

real = torch.tensor([[True] * 4, [False, False, True, True]])  # (B, S)
print((causal_mask(4, 4) & padding_mask(real)).int())  # (T, S) & (B, 1, 1, S) -> (B, 1, T, S)

# %% [markdown]
# ## Heads
#
# A softmax makes *one* mean. But "it" may want to look at the verb for one reason and at a noun for another, and the mean of both is neither. So attention runs several times side by side, each time with other queries, keys and values: these are the **heads**. The $C$ numbers of a token are cut into $H$ pieces of $D = C/H$ numbers, so that it costs no more than one head of full width.
#
# ### Exercise 4.5 · split_heads · ●●○ · 8 min
#
# Write `split_heads(x, n_heads)`: from $(B, T, H \cdot D)$ to $(B, H, T, D)$. Head 0 takes the first $D$ numbers of every token, head 1 the next $D$, and so on. A `view` straight to the wanted shape would run and give nonsense: it would mix numbers of different tokens. (`x.unflatten(-1, (a, b))` cuts the last axis in two; `.transpose(1, 2)` exchanges two axes.)

# %% tags=["exercise"]
from llmkit.layers.attention import split_heads

# %%
split_heads = check(split_heads)

# %% [markdown]
# ### Exercise 4.6 · repeat_kv · ●○○ · 6 min · optional
#
# Keys and values have to be kept while a text is generated (lesson 07), and they fill the memory. Queries are not kept. In plain multi-head attention, MHA, each query head has a key-value head of its own. Newer models have fewer, and several query heads share one: **grouped-query attention**, GQA. With a single key-value head it is called multi-query attention, MQA.
#
# Write `repeat_kv(x, n_heads)`: from $(B, K, S, D)$ with $K$ key-value heads to $(B, H, S, D)$ with $H$ = `n_heads`. Each head stands $H / K$ times, its copies *side by side*: 1, 1, 2, 2. (`torch.Tensor.repeat_interleave` has a `dim`.)

# %% tags=["exercise"]
from llmkit.layers.attention import repeat_kv

# %%
repeat_kv = check(repeat_kv)

# %% [markdown]
# What does it save? Llama-3-8B has 32 layers, 32 query heads and 8 key-value heads of 128 numbers. For one text of 8,192 tokens, in 16 bits, keys and values together:

# %% tags=["nbval-check-output"]
for name, n_kv_heads in (("MHA, 32 key-value heads", 32), ("GQA,  8 (Llama-3-8B)", 8), ("MQA,  1", 1)):
    print(f"{name:24} {2 * 32 * n_kv_heads * 128 * 8192 * 2 / 2**30:5.3f} GiB")

# %% [markdown]
# Now the layer. `q_proj`, `k_proj` and `v_proj` are learned matrices that make queries, keys and values of each token's vector; `o_proj` mixes what the heads bring back. (`fused_attention` is torch's fast attention, `rotate` is lesson 03's RoPE, and a `LayerCache` is the memory of lesson 07. Sinks and the norms of q and k are options of some newer models, dropout is one of the older: lesson 05 says what it is.)

# %%
from collections.abc import Callable

from llmkit.layers.attention import add_sinks, fused_attention, merge_heads
from llmkit.layers.cache import LayerCache
from llmkit.layers.rope import rotate

# %% tags=["show"]
from llmkit.layers.attention import MultiHeadAttention

# %% [markdown]
# Torch has a layer of the same name. With the same matrices it must give the same numbers:

# %%
torch.manual_seed(0)
ours, theirs = MultiHeadAttention(12, n_heads=3), nn.MultiheadAttention(12, 3, bias=False, batch_first=True)
with torch.no_grad():
    theirs.in_proj_weight.copy_(torch.cat([ours.q_proj.weight, ours.k_proj.weight, ours.v_proj.weight]))
    theirs.out_proj.weight.copy_(ours.o_proj.weight)
    x = torch.randn(2, 5, 12)
    expected, _ = theirs(x, x, x, attn_mask=~causal_mask(5, 5))  # torch's layer wants True for *hidden*
    assert torch.allclose(ours(x, causal_mask(5, 5)), expected, atol=1e-6)
    order = torch.randperm(5)
    assert torch.allclose(ours(x)[:, order], ours(x[:, order]), atol=1e-6)
print("the same as torch's layer; and shuffled tokens give the same answers, shuffled")

# %% [markdown]
# (Mind the comment: what True means in a mask differs even inside one library. The second assertion is lesson 03's blindness: without positions, attention cannot tell word order.)
#
# ## Experiment 1: a model that knows what "it" is
#
# The sentences at the beginning come from a small generator. Who does something to what, a verb, active or passive, and a last word that fits either the one who acts (tired, weak, lazy …) or the load (heavy, wet, hot …). In more than half of the sentences both are animals or the robot, so that no noun gives its part away. A fifth of all couples, robot and ball among them, is kept aside, both ways round, and used for measuring only.
#
# The model: two layers of attention, two heads each, 48 numbers a token. (After each attention comes an MLP, a small network that works on every token by itself; lesson 05 opens it.) Every token may look in both directions. At the position of "it", and only there, it has to name the noun that "it" stands for. Three controls get the same training:
#
# - **no positions**: the words without their order
# - **causal, asked at "it"**: may only look back
# - **causal, asked at the full stop**: may only look back, but from the end
#
# Before you run it, write down what share each will get right of the held-out sentences in which both nouns could be the one who acts, between 0 and 1.

# %%
guess = {"both directions": None, "no positions": None, "causal, at “it”": None, "causal, at the end": None}

# %%
from llmkit.layers.blocks import PreNormBlock
from llmkit.layers.heads import CausalLM
from llmkit.layers.mlp import MLP
from llmkit.layers.transformer import Embedding, Transformer, init_weights

words = coreference.vocabulary()
place = {word: i for i, word in enumerate(words)}
LENGTH = 14


def encode(examples):
    """Sentences as tensors: ids (N, 14), which of them are real (N, 14), the place of "it" (N,), the referent (N,)."""
    examples = list(examples)
    ids = torch.tensor([[place[t] for t in e.tokens] + [0] * (LENGTH - len(e.tokens)) for e in examples])
    real = torch.arange(LENGTH) < torch.tensor([len(e.tokens) for e in examples])[:, None]
    return ids, real, torch.tensor([e.it for e in examples]), torch.tensor([place[e.referent] for e in examples])


def build(causal=False, positions=True, C=48):
    norm = partial(nn.LayerNorm, C)
    embed = Embedding(len(words), C, nn.Embedding(LENGTH, C) if positions else None)
    blocks = [PreNormBlock(MultiHeadAttention(C, n_heads=2), MLP(C, 4 * C), norm) for _ in range(2)]
    model = CausalLM(Transformer(embed, blocks, norm(), causal=causal), config=None, tie=True)
    init_weights(model, 2, std=0.1)
    return model


def answers(model, ids, real, it, at_end):
    """Logits (N, V) for the noun, read at "it" or at the full stop."""
    where = real.sum(1) - 1 if at_end else it
    return model(ids, real)[torch.arange(len(ids)), where]


def train(model, data, seed, at_end=False, n_steps=400, batch=48, lr=3e-3):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr, fused=True)
    for step in range(n_steps):
        optimizer.param_groups[0]["lr"] = lr * min(1, (step + 1) / 20) * (1 - step / n_steps)
        rows = torch.randint(len(data[0]), (batch,), generator=generator)
        ids, real, it, referent = (part[rows] for part in data)
        loss = F.cross_entropy(answers(model, ids, real, it, at_end), referent)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


read = encode(islice(coreference.examples(seed=0), 8000))
new = [e for e in islice(coreference.examples(seed=1, held_out=True), 2000) if e.load in coreference.DOERS]
unread = encode(new)  # held-out pairs in which both could be the one who acts


@torch.no_grad()
def accuracy(model, at_end=False):
    ids, real, it, referent = unread
    return (answers(model, ids, real, it, at_end).argmax(-1) == referent).float().mean().item()


kinds = {
    "both directions": {},
    "no positions": {"positions": False},
    "causal, at “it”": {"causal": True},
    "causal, at the end": {"causal": True, "at_end": True},
}
models, right = {}, {}
for name, options in kinds.items():
    at_end = options.pop("at_end", False)
    for seed in (0, 1, 2) if name == "both directions" else (0,):
        torch.manual_seed(seed)
        models[name, seed] = train(build(**options), read, seed, at_end)
        right[name, seed] = accuracy(models[name, seed], at_end)
    scores = ", ".join(f"{right[name, seed]:.1%}" for seed in range(3) if (name, seed) in right)
    print(f"{name:20} {scores:22}" + (f" your guess {guess[name]:.0%}" if guess[name] is not None else ""))
assert min(right["both directions", seed] for seed in range(3)) >= 0.95
assert right["causal, at the end", 0] >= 0.95
assert max(right["no positions", 0], right["causal, at “it”", 0]) < 0.6

# %%
fig, axis = figure(height=2.2)
for row, name in enumerate(reversed(kinds)):
    axis.barh(row, right[name, 0], color=COLORS["model"] if right[name, 0] > 0.9 else COLORS["control"], height=0.6)
    if guess[name] is not None:
        axis.plot(guess[name], row, "D", color=COLORS["guess"])
axis.axvline(0.5, color=COLORS["truth"], linewidth=1, linestyle="--")
axis.text(0.51, 3.45, "one of two nouns", fontsize=9)
if any(share is not None for share in guess.values()):
    axis.text(1.0, 3.45, "◆ your guess", color=COLORS["guess"], ha="right", fontsize=9)
axis.set_yticks(range(4), list(reversed(kinds)))
axis.set(xlabel="share right, pairs never seen together", xlim=(0, 1.02), ylim=(-0.5, 3.9))
axis.set_title("At “it”, only one who sees the end can know")
show(
    fig,
    alt=f"Share of held-out sentences answered rightly: both directions {right['both directions', 0]:.0%}, without positions "
    f"{right['no positions', 0]:.0%}, causal at it {right['causal, at “it”', 0]:.0%}, causal at the end "
    f"{right['causal, at the end', 0]:.0%}.",
)

# %% [markdown]
# - Without positions the model knows both nouns and that somebody is tired, but not who does what: one of two.
# - The causal model cannot know at "it" what comes later; no amount of training helps. At the full stop the same model has everything. A causal language model may *resolve* a pronoun only after it has read on, and what is stored at "it" is not the answer. (That is why encoders such as BERT, lesson 09, look both ways.)
#
# ## What the row of "it" shows
#
# Now look inside. `attention_maps` records all weights of one text, shape $(L, H, T, S)$. We take the row of "it", once with "heavy" and once with "tired", in all four heads:

# %%
model = models["both directions", 0]
pair = [coreference.sentence("robot", "ball", word) for word in ("heavy", "tired")]
rows = {}
for example in pair:
    maps = attention_maps(model, torch.tensor([[place[token] for token in example.tokens]]))
    rows[example.word] = maps[:, :, example.it]  # (L, H, S)
fig, axes = plt.subplots(2, 2, figsize=(7.2, 4.4), sharex=True, sharey=True)
labels = [token.strip() for token in pair[0].tokens]
labels[-2] = "heavy /\ntired"
for layer in range(2):
    for head in range(2):
        axis = axes[layer, head]
        for offset, word, color in ((-0.2, "heavy", COLORS["model"]), (0.2, "tired", COLORS["bad"])):
            axis.bar(torch.arange(len(labels)) + offset, rows[word][layer, head], 0.4, color=color, label=word)
        axis.set_title(f"layer {layer}, head {head}", fontsize=10)
        axis.set_ylim(0, 1)
        axis.set_xticks(range(len(labels)), labels, rotation=60, fontsize=9)
axes[0, 0].legend(title="last word", fontsize=9)
fig.supylabel("weight in the row of “it”", fontsize=10)
fig.suptitle("In layer 1 the row of “it” moves from ball to robot", fontsize=11, fontweight="bold", x=0.02, ha="left")
mover = max(range(2), key=lambda head: float(rows["heavy"][1, head, 4] - rows["tired"][1, head, 4]))
show(
    fig,
    alt=f"Weights in the row of it, four heads, for two last words. In layer 1, head {mover}, ball has a weight of "
    f"{rows['heavy'][1, mover, 4]:.2f} with heavy and {rows['tired'][1, mover, 4]:.2f} with tired; robot "
    f"{rows['heavy'][1, mover, 1]:.2f} and {rows['tired'][1, mover, 1]:.2f}.",
)
print(f"layer 1, head {mover}: ball {rows['heavy'][1, mover, 4]:.2f} -> {rows['tired'][1, mover, 4]:.2f}, "
      f"robot {rows['heavy'][1, mover, 1]:.2f} -> {rows['tired'][1, mover, 1]:.2f}")  # fmt: skip
assert rows["heavy"][1, mover, 4] > rows["tired"][1, mover, 4] + 0.3

# %% [markdown]
# There it is, the picture that everybody shows: the word "it" looks at the ball when the ball is heavy, and at the robot when the robot is tired. So this head finds the referent, does it not?
#
# Be careful. An *untrained* model has such rows too, and a picture of one sentence proves nothing about what the model *needs*. There is a better question. What happens if this head is taken out?
#
# **Ablation**: set a head's part of the result to 0, leave all else as it is, and measure over all held-out sentences. The table also says where each head looks: in the row of "it", the weight on the right noun minus that on the other one, mean over all sentences (0: no preference). Before you run it: in the figure the heads of layer 1 look at the right noun, those of layer 0 do not. Which one will the model miss most? (layer, head)

# %%
guess_head = None  # for example (1, 0)


# %%
@contextmanager
def without(model, *heads):
    """Inside the `with`, the given (layer, head) pairs contribute nothing."""
    handles = []
    for layer, head in heads:
        attn = model.transformer.blocks[layer].attn
        D = attn.o_proj.in_features // attn.n_heads

        def silence(module, inputs, part=slice(head * D, head * D + D)):
            x = inputs[0].clone()  # (B, T, H * D), what the heads bring back
            x[..., part] = 0
            return (x,)

        handles.append(attn.o_proj.register_forward_pre_hook(silence))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def looks_right(model):
    """(L, H): in the row of "it", the weight on the right noun minus that on the other one, mean over sentences."""
    ids, real, it, referent = unread
    nouns = torch.tensor([[place[f" {e.doer}"], place[f" {e.load}"]] for e in new])
    other = nouns.sum(1) - referent
    with record_attention(model) as maps:
        model(ids, real)
    n = torch.arange(len(ids))
    rows = torch.stack([layer[n, :, it] for layer in maps])  # (L, N, H, S)
    on = [(rows * (ids == noun[:, None])[:, None]).sum(-1).mean(1) for noun in (referent, other)]
    return on[0] - on[1]


HEADS = [(0, 0), (0, 1), (1, 0), (1, 1)]
print("seed  head          looks at the right noun   right without it")
kept = {}
for seed in range(3):
    model = models["both directions", seed]
    looks = looks_right(model)
    for layer, head in HEADS:
        with without(model, (layer, head)):
            kept[seed, layer, head] = accuracy(model)
        print(f"{seed:4}  layer {layer}, head {head} {looks[layer, head]:+20.2f} {kept[seed, layer, head]:20.1%}")
    with without(model, (1, 0), (1, 1)):
        kept[seed, "layer 1"] = accuracy(model)
    print(f"{seed:4}  both of layer 1 {kept[seed, 'layer 1']:39.1%}")
    assert min(HEADS, key=lambda head: kept[seed, *head])[0] == 0  # the one that is missed most is of layer 0
assert all(min(kept[seed, 1, 0], kept[seed, 1, 1]) > 0.85 > 0.7 > kept[seed, "layer 1"] for seed in range(3))

# %%
fig, axis = figure(height=2.8)
names = [f"layer {layer}, head {head}" for layer, head in HEADS] + ["both heads\nof layer 1"]
for seed, shift in ((0, -0.25), (1, 0.0), (2, 0.25)):
    heights = [kept[seed, layer, head] for layer, head in HEADS] + [kept[seed, "layer 1"]]
    most = min(range(4), key=lambda i: heights[i])
    colors = [COLORS["bad"] if i == most else COLORS["model"] if i == 4 else COLORS["control"] for i in range(5)]
    axis.bar(torch.arange(5) + shift, heights, 0.23, color=colors)
    for i in range(5):
        axis.text(i + shift, 0.02, seed, color="white", ha="center", fontsize=9)
if guess_head is not None:
    axis.plot(HEADS.index(guess_head), 1.05, "v", color=COLORS["guess"], markersize=9)
    axis.text(HEADS.index(guess_head) + 0.1, 1.03, "your guess", color=COLORS["guess"], fontsize=9)
axis.axhline(0.5, color=COLORS["truth"], linewidth=1, linestyle="--")
axis.text(4.42, 0.51, "one of\ntwo", fontsize=9)
axis.text(4.75, 1.05, "orange: the head missed most", ha="right", color=COLORS["bad"], fontsize=9)
axis.set_xticks(range(5), names, fontsize=9)
axis.set(ylabel="share right without it", xlim=(-0.45, 4.8), ylim=(0, 1.13))
axis.set_title("Missed most: a head of layer 0, in seeds 0, 1 and 2")
show(
    fig,
    alt="Share right on held-out sentences without each head, three seeds side by side; missed most is a head of layer 0. For seed 0: "
    + ", ".join(f"{name.replace(chr(10), ' ')} {height:.0%}" for name, height in zip(
        names, [kept[0, layer, head] for layer, head in HEADS] + [kept[0, "layer 1"]], strict=True)) + ".",
)  # fmt: skip

# %% [markdown]
# Read the table slowly; it is not what the picture promised.
#
# - In seeds 0 and 1 both heads of layer 1 look at the right noun, and taking *one* of them out costs about ten points or less. The other one can do the same work. Without both of them the model falls to chance.
# - The single head that is missed most is one of layer 0, in all three seeds. In seeds 0 and 1 it has no preference for the right noun at all.
# - In seed 2 the heads of layer 1 have no preference either, only one of layer 0 has a weak one, and the model is as good. It has found another way.
#
# And something is missing in this story. To turn to the ball, somebody has to read the word "heavy". Who does? In the upper row of the figure, "it" hardly looks at the last word. So let us cut single *looks*: in layer 0, hide the last word from "it" only; from the two nouns only; from everybody. And, for comparison, from everybody in layer 1.

# %%
ids, real, it, referent = unread
n, last_word = torch.arange(len(ids)), real.sum(1) - 2
nouns = [torch.tensor([e.tokens.index(f" {getattr(e, part)}") for e in new]) for part in ("doer", "load")]


@contextmanager
def blind(model, layer, rows):
    """Inside the `with`, the tokens at `rows` (None: all) do not see the last word in this layer."""

    def hide_it(module, inputs):
        x, mask, *rest = inputs
        hidden = torch.zeros(len(ids), 1, LENGTH, LENGTH, dtype=torch.bool)  # (N, 1, T, S)
        for row in range(LENGTH) if rows is None else rows:
            hidden[n, 0, row, last_word] = True
        return x, mask & ~hidden, *rest

    handle = model.transformer.blocks[layer].attn.register_forward_pre_hook(hide_it)
    try:
        yield
    finally:
        handle.remove()


cuts = {
    "layer 0, from “it”": (0, [it]),
    "layer 0, from both nouns": (0, nouns),
    "layer 0, from everybody": (0, None),
    "layer 1, from everybody": (1, None),
}
print(f"{'the last word is hidden in':28} right, seeds 0, 1, 2")
seen = {}
for name, (layer, hidden_from) in cuts.items():
    for seed in range(3):
        with blind(models["both directions", seed], layer, hidden_from):
            seen[name, seed] = accuracy(models["both directions", seed])
    print(f"{name:28} " + "  ".join(f"{seen[name, seed]:6.1%}" for seed in range(3)))
with torch.no_grad(), record_attention(models["both directions", 0]) as maps:
    models["both directions", 0](ids, real)
print(f"weight on the last word in layer 0, mean over sentences: from “it” {maps[0][n, :, it, last_word].mean():.2f}, "
      f"from the nouns {torch.stack([maps[0][n, :, noun, last_word] for noun in nouns]).mean():.2f}")  # fmt: skip
assert min(seen["layer 0, from “it”", seed] for seed in range(3)) > 0.95
assert max(seen["layer 0, from everybody", seed] for seed in (0, 1)) < 0.6

# %% [markdown]
# In seeds 0 and 1 all that the model knows about "heavy" goes through layer 0. Hide the word there from everybody, and the model guesses. But it does not need the look of "it", and cutting that of the nouns costs only a part. Many words read a little of it, "it" and the nouns with weights below 0.1, which nobody would notice in a map, and pass it on. (Seed 2 has other ways: there even hiding it from everybody in layer 0 leaves two thirds right.)
#
# So a map of attention tells where a head looks. It does not tell whether the model needs it; small weights can carry the decision and large ones can be spare. **A map is a hypothesis; surgery is the test.** And single cuts can miss what matters where the work is shared: take out groups too.
#
# ## Experiment 2: two layers do what one cannot
#
# "It" needed two steps, in two layers: first learn who is meant by the last word, then turn to it. The best known case of this comes from language models. A name that occurred before will come again: after "Mrs Dal" comes "loway" if that stood there before. To copy, a head must find the place *after* an earlier occurrence of the present token. A single layer cannot: a key knows its own token, not the one before it. Two layers can:
#
# 1. a head of the first layer lets each token look at the one *before* it, and writes down what stood there;
# 2. a head of the second layer looks for the place where the present token is written down as "before me", and copies what stands there.
#
# The second one is called an **induction head** (Olsson et al. 2022). Let us see whether one appears by itself. The text: 32 random tokens that repeat with a period between 6 and 16, never the same twice. Nothing can be learned by heart. Models of attention only (no MLP), one layer against two. The **induction score** of a head is the weight that it gives to the right place, the one after the last occurrence of the present token.

# %%
from llmkit.layers.rope import RotaryEmbedding

SYMBOLS, LONGEST = 32, 16


def repeating(generator, shortest=6, batch=32):
    """ids (B, 32): a random row of different symbols, repeated with a period of 6 to 16; and the periods (B, 1)."""
    period = torch.randint(shortest, LONGEST + 1, (batch, 1), generator=generator)
    symbols = torch.rand(batch, SYMBOLS, generator=generator).argsort(-1)  # each row in another order
    return symbols.gather(1, torch.arange(2 * LONGEST)[None] % period), period


class AttentionOnly(nn.Module):
    """A block without an MLP."""

    def __init__(self, C, n_heads):
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(C), MultiHeadAttention(C, n_heads)

    def forward(self, x, mask=None, rotary=None, cache=None):
        return x + self.attn(self.norm(x), mask, rotary, cache)


@torch.no_grad()
def scores_of(model, ids, period):
    """The best head's mean weight, in the repeated part, on the right place and on the token before."""
    t = torch.arange(ids.size(1))[None]
    again, right_place = t >= period, (t - period + 1).clamp(min=0)  # (B, T)
    with record_attention(model) as maps:
        model(ids)

    def best(target):
        on = [layer.gather(-1, target[:, None, :, None].expand(*layer.shape[:3], 1)).squeeze(-1) for layer in maps]
        return max(float((layer * again[:, None]).sum((0, 2)).max() / again.sum()) for layer in on)

    return best(right_place), best((t - 1).clamp(min=0).expand_as(ids))


def watch(n_layers, seed, shortest=6, table=None, n_steps=240, C=32, n_heads=2, lr=1e-2):
    torch.manual_seed(seed)
    embed, rope = Embedding(SYMBOLS, C, table), None if table else RotaryEmbedding(C // n_heads)
    blocks = [AttentionOnly(C, n_heads) for _ in range(n_layers)]
    model = CausalLM(Transformer(embed, blocks, nn.LayerNorm(C), rope), config=None, tie=False)
    init_weights(model, n_layers, std=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.98), fused=True)
    generator, log = torch.Generator().manual_seed(seed), []
    for step in range(n_steps + 1):
        optimizer.param_groups[0]["lr"] = lr * min(1, (step + 1) / 20) * (1 - 0.9 * step / n_steps)
        ids, period = repeating(generator, shortest)
        losses = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        again = (torch.arange(1, ids.size(1))[None] >= period).flatten()  # what can be known
        if step % 20 == 0:
            log.append((step, losses[again].mean().item(), *scores_of(model, ids, period)))
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    return log


runs = {(n_layers, seed): watch(n_layers, seed) for n_layers in (2, 1) for seed in (0, 1)}
for (n_layers, seed), log in runs.items():
    step, loss, induction, previous = log[-1]
    print(f"{n_layers} layer{'s' if n_layers > 1 else ' '}, seed {seed}: loss on repeated tokens {loss:.2f}, "
          f"induction score {induction:.2f}, looking at the token before {previous:.2f}")  # fmt: skip
assert all(runs[2, seed][-1][1] < 0.6 and runs[2, seed][-1][2] > 0.4 for seed in (0, 1))
assert all(runs[1, seed][-1][1] > 1.5 and runs[1, seed][-1][2] < 0.25 for seed in (0, 1))

# %%
fig, axes = figure(2, width=7.2, height=3.0)
for (n_layers, seed), log in runs.items():
    steps, loss, induction, previous = zip(*log, strict=True)
    style = {"alpha": 1 if seed == 0 else 0.4, "color": COLORS["model"] if n_layers == 2 else COLORS["control"]}
    axes[0].plot(steps, loss, **style)
    axes[1].plot(steps, induction, **style)
    if n_layers == 2:
        axes[1].plot(steps, previous, alpha=style["alpha"], color=COLORS["key"])
axes[0].text(240, runs[1, 0][-1][1] - 0.3, "one layer", color=COLORS["control"], ha="right", fontsize=9)
axes[0].text(240, runs[2, 0][-1][1] + 0.3, "two layers", color=COLORS["model"], ha="right", fontsize=9)
axes[0].set(xlabel="step", ylabel="nats, repeated tokens", ylim=(0, None), title="The loss falls off a cliff …")
axes[1].text(240, 0.9, "induction score", color=COLORS["model"], ha="right", fontsize=9)
axes[1].text(240, 0.36, "token before", color=COLORS["key"], ha="right", fontsize=9)
axes[1].text(240, 0.13, "one layer", color=COLORS["control"], ha="right", fontsize=9)
axes[1].set(xlabel="step", ylabel="mean weight, best head", ylim=(0, 1), title="… when two heads appear")
show(
    fig,
    alt=f"Left: loss on repeated tokens over 240 steps; two layers end at {runs[2, 0][-1][1]:.2f} nats, one layer at "
    f"{runs[1, 0][-1][1]:.2f}. Right: with two layers the induction score rises to {runs[2, 0][-1][2]:.2f} together with the weight "
    f"on the token before, with one layer it stays at {runs[1, 0][-1][2]:.2f}.",
)

# %% [markdown]
# For about 100 steps two layers do no better than one: the loss falls slowly, and no head copies. Then both heads appear together, and the loss falls off a cliff. Neither is of much use without the other, so at first there is little to learn from. The models of this lesson have a few thousand parameters; Olsson et al. (2022) found the same cliff in large language models, and lesson 05 meets it again as the part that its model learns last.
#
# A trap, if you build this yourself: suppose that the period had always been 16, and the positions came from a learned table instead of RoPE (four heads, 64 numbers).

# %%
table = nn.Embedding(2 * LONGEST, 64)
log = watch(1, seed=1, shortest=LONGEST, table=table, n_steps=300, C=64, n_heads=4, lr=3e-3)
_, loss, score, _ = log[-1]
print(f'1 layer, period always 16: loss on repeated tokens {loss:.2f}, "induction" score {score:.2f}')
assert loss < 0.5 and score > 0.6

# %% [markdown]
# One layer is enough (with this seed; with some others it has not found it after 300 steps), and by our score it is a fine induction head. It has learned "look 15 places back", which is not copying. A score that goes up is not yet the mechanism that you have in mind; another period would show it.
#
# ## Attention in blocks (optional)
#
# The weights of one head for 8,192 tokens are 67 million numbers, and they are used once. FlashAttention (Dao et al. 2022) never writes them down. It reads the keys block by block and keeps three things for each query: the largest score so far, the sum of $e^{\text{score} - \text{largest}}$ so far, and the sum of the values so far weighted in the same way. When a block brings a larger score, the two old sums are multiplied by $e^{\text{old largest} - \text{new largest}}$, and all is as if the new one had been known from the start. At the end one sum is divided by the other.
#
# ### Exercise 4.7 · blockwise_attention · ●●● · 25 min · optional
#
# Write `blockwise_attention(q, k, v, block, causal)`. It must equal `attention` for every size of block, also where the last block is shorter, and where scores are hundreds above or below 0 ($e^{200}$ is too large for float32 and $e^{-200}$ becomes 0, which is why the largest score is subtracted). With `causal`, the queries are the last $T$ of the $S$ positions. Calls that you need: `torch.maximum`, `.amax(-1, keepdim=True)`, `torch.exp`.

# %% tags=["exercise"]
from llmkit.layers.flash import blockwise_attention

# %%
blockwise_attention = check(blockwise_attention)

# %%
torch.manual_seed(0)
q, k, v = (torch.randn(1, 2, 100, 16) for _ in range(3))
for block in (1, 7, 64, 100):
    assert torch.allclose(blockwise_attention(q, k, v, block, causal=True), attention(q, k, v, CAUSAL), atol=1e-5)
print("blocks of 1, 7, 64 and 100 keys: the same as attention; scores held at a time:")
print([f"{block}: {100 * block:,} of {100 * 100:,}" for block in (1, 7, 64)])

# %% [markdown]
# ## On a GPU
#
# How much memory does it save? The same attention written out and by torch's fused kernel, which works in blocks.


# %%
@gpu_section(
    "measure the memory of attention over 8,192 tokens, written out and fused (a few seconds)",
    full={"T": 8192, "H": 8, "D": 64},
    smoke={"T": 16, "H": 2, "D": 4},
)
def memory(device, T, H, D):
    q, k, v = (torch.randn(1, H, T, D, device=device, dtype=torch.bfloat16) for _ in range(3))
    results = {}
    for name, function in (("written out", attention), ("fused", fused_attention)):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        results[name] = function(q, k, v, CAUSAL)
        if device.type == "cuda":
            print(f"{name:12} {(torch.cuda.max_memory_allocated() - before) / 2**20:8.0f} MiB")
    assert torch.allclose(results["written out"].float(), results["fused"].float(), atol=0.05)


# %% [markdown]
# ## Mistakes people make
#
# | mistake | how it shows |
# |---|---|
# | Mask after the softmax, or 0 for $-\infty$ | nothing crashes and the loss falls; early positions are the worst. Look at the sums of the rows |
# | A mask that sees the next token | a loss that is too good; change a token and look whether an earlier position changes |
# | True for "hidden" in one library, for "visible" in the next | the model reads only the padding. `nn.MultiheadAttention` and `scaled_dot_product_attention` differ |
# | Causal mask aligned at the first key | training is fine, generation with a cache sees only the first token |
# | `view` to $(B, H, T, D)$ without `transpose` | all shapes fit; numbers of different tokens are mixed, and the model trains badly |
# | A row with nothing to see | NaN, first in padding, one step later everywhere |
# | Explaining a model by its maps | see experiment 1: take the head out |
#
# ## Where the real systems do it
#
# - **transformers** `models/llama/modeling_llama.py`: `eager_attention_forward` is your 4.3, `repeat_kv` your 4.6; `masking_utils.py` puts masks together. `models/gpt_oss` has sinks: one more score in each row that belongs to no token (`add_sinks` here), so that a head may look at nothing.
# - **PyTorch** `scaled_dot_product_attention` chooses between kernels; `torch.nn.attention.flex_attention` compiles masks that are given as functions.
# - **FlashAttention** (`flash_attn/flash_attn_interface.py`) is your 4.7 on a GPU; its causal mask is aligned at the end since version 2.1, as in 4.4. Before that it was aligned at the beginning.
# - Vaswani et al. 2017, section 3.2: the scale and the heads. Shazeer 2019 (MQA), Ainslie et al. 2023 (GQA). Jain and Wallace 2019, "Attention is not explanation". Olsson et al. 2022, "In-context learning and induction heads".
#
# ## What llmkit gained
#
# | file | what |
# |---|---|
# | `llmkit/layers/attention.py` | `attention_weights`, `attention`, heads and groups, `MultiHeadAttention` |
# | `llmkit/layers/masks.py` | causal, sliding window, prefix, padding and document masks |
# | `llmkit/layers/flash.py` | `blockwise_attention` |
# | `llmkit/viz/attention.py` | recording and drawing of maps |
# | `llmkit/data/toyland/coreference.py` | the sentences about "it" |
#
# Three questions to check yourself:
#
# <details><summary>Every token's attention is a mean of values. How can a model then compute anything that is not a mean?</summary>
#
# The weights depend on the tokens (through an exponential), the heads are mixed by `o_proj`, and between the layers stands the MLP (lesson 05). With fixed weights it would indeed be a mean and nothing more.
# </details>
#
# <details><summary>A model was trained with n_kv_heads = 8. May you repeat its key-value heads to 32 and load it as an MHA model?</summary>
#
# Yes, it computes the same: `repeat_kv` does just that at every step. It only needs four times the memory for keys and values.
# </details>
#
# <details><summary>Removing any single head changes nothing. Does the model not need attention?</summary>
#
# That does not follow: two heads may do the same work, as in layer 1 above. Remove both.
# </details>

# %%
torch.set_num_threads(threads)
progress()

# %% [markdown]
# **Next**: 05_gpt2. Attention becomes a block, blocks become GPT-2, and it learns to tell stories.
