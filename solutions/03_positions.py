# %% [markdown]
# # 03 · Embeddings and positions
#
# **You will** turn tokens into vectors, tell a model in five ways where each token stands, and measure which of them still works on a text eight times as long as any that the model was trained on.
#
# **Before** you start: lessons 01 (loss, softmax, gradient) and 02 (tokens). From torch you need tensors, indexing, `sin`, `cos`, `cat`, `stack` and `where`; each exercise names the calls. The lesson trains small models; you may take them as black boxes, lesson 04 opens them.
#
# **Time** about 90 minutes, eight exercises, two of them optional (22 minutes more). Two cells train small models, for about 20 seconds in all.

# %% tags=["setup"]
import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmkit.course import check, gpu_section, hint, progress, start
from llmkit.data import toyland
from llmkit.viz import COLORS, figure, show

start("03_positions", solved=True)

# %% [markdown]
# ## Who bit whom?
#
# Two sentences with the same words:
#
# > the dog bit the man
# > the man bit the dog
#
# A model that knows *which* words there are, and not *where* they stand, cannot tell them apart. And the part that makes today's models strong, attention, is such a model: it compares each token with each other token, whatever stands between them. Let us see it. Here is a small untrained model with one layer of attention. It reads the letters of both sentences, each followed by the same question, and says how probable each letter is as the next one.

# %%
from llmkit.layers.attention import MultiHeadAttention
from llmkit.layers.blocks import PreNormBlock
from llmkit.layers.heads import CausalLM
from llmkit.layers.mlp import MLP, ACTIVATIONS
from llmkit.layers.transformer import Embedding, Transformer, init_weights

torch.set_num_threads(1)  # models as small as these gain nothing from a second thread
D_MODEL, N_HEADS = 32, 4
corpus = toyland.corpus(train_bytes=400_000, validation_bytes=60_000)
texts = {"train": "\n".join(corpus.train), "validation": "\n".join(corpus.validation)}
alphabet = sorted(set("".join(texts.values())))


def encode(text):
    return torch.tensor([alphabet.index(letter) for letter in text])


def language_model(embed, n_layers=2, rope=None, position_bias=None):
    """A small model; what is inside is lessons 04 and 05. Here only `embed` and the last two arguments matter."""

    def block():
        return PreNormBlock(MultiHeadAttention(width, N_HEADS), MLP(width, 4 * width, ACTIVATIONS["relu"]), norm)

    width = embed.tokens.embedding_dim
    norm = partial(nn.LayerNorm, width)
    blocks = [block() for _ in range(n_layers)]
    model = CausalLM(Transformer(embed, blocks, norm(), rope, position_bias), config=None, tie=True)
    init_weights(model, n_layers, std=width**-0.5)
    return model.eval()


sentences = ["the dog bit the man. who was it?", "the man bit the dog. who was it?"]
ids = torch.stack([encode(sentence) for sentence in sentences])  # (B, T) = (2, 32): B texts, T letters each
torch.manual_seed(0)
blind = language_model(Embedding(len(alphabet), D_MODEL), n_layers=1)
with torch.no_grad():
    answers = blind(ids)[:, -1].softmax(-1)  # P(next letter) after the whole text, (2, V)
print(f"largest difference between the two answers: {float((answers[0] - answers[1]).abs().max()):.7f}")
assert torch.allclose(answers[0], answers[1], atol=1e-6)

# %% [markdown]
# No difference but rounding. The two texts hold the same letters, and that is all that this model takes in. So the question of this lesson: **how does a model learn where a token stands, and what happens when a text is longer than any it has learned from?**
#
# ## First: from a token to a vector
#
# A network computes with vectors, and a token is only a number, its **id**. So the first part of every model is a table with one row for each of the $V$ tokens: the **embedding** table, of shape $(V, C)$. $C$ is the **width** of the model, called `d_model` in code: how many numbers stand for one token. Looking up a token means taking its row.
#
# There is another way to say the same. Write token $i$ as a vector of $V$ zeros with a single 1 at place $i$ (**one-hot**), and multiply it with the table. All rows are multiplied by 0 except one:

# %% tags=["nbval-check-output"]
table = torch.tensor([[0.1, 0.2, 0.3], [1.0, 1.1, 1.2], [2.0, 2.1, 2.2], [3.0, 3.1, 3.2]])  # V = 4, C = 3
some_ids = torch.tensor([2, 0, 2])
one_hot = F.one_hot(some_ids, num_classes=4).float()  # (3, 4)
print(one_hot)
print(one_hot @ table)
assert torch.equal(one_hot @ table, table[some_ids])

# %% [markdown]
# So an embedding is an ordinary matrix product that is computed by picking rows. That is more than a curiosity: it says how the table *learns*.
#
# ### Exercise 3.1 · which rows learn? · ●○○ · 4 min
#
# Take the table and the ids above, and suppose that the loss is the plain **sum** of all nine numbers in `table[some_ids]`. What is the gradient of this loss with respect to each row of the table? Within a row, all three numbers have the same gradient, so give one number for each row: a list of four, such as `[1, 2, 3, 4]`.

# %%
row_gradients = None
# BEGIN SOLUTION
row_gradients = [1, 0, 2, 0]
# END SOLUTION
row_gradients = check(row_gradients, "3.1")

# %% [markdown]
# A token that does not occur in a batch learns nothing from it; one that occurs often learns often. That is one reason why rare tokens have poor embeddings.
#
# Nothing in the table says *where* a token stood. Three places are open to say it:
#
# | the position is … | schemes | used in |
# |---|---|---|
# | added to the embedding | learned table, sinusoidal | GPT-2, BERT; the 2017 Transformer |
# | turned into the vectors that attention compares | RoPE | LLaMA, Mistral, Qwen, GPT-NeoX |
# | added to the scores that attention gets | ALiBi, T5's bias | BLOOM, MPT; T5 |
#
# ## Added: a second table
#
# The plainest idea is a second table, with a row for each *position*. A token's vector is then `tokens.weight[id] + positions.weight[position]`. Both are learned in the same way. In llmkit that is `Embedding(vocab_size, d_model, nn.Embedding(max_len, d_model))`, and it cures the blindness:

# %%
torch.manual_seed(0)
learned = language_model(Embedding(len(alphabet), D_MODEL, nn.Embedding(64, D_MODEL)), n_layers=1)
with torch.no_grad():
    answers = learned(ids)[:, -1].softmax(-1)
print(f"largest difference between the two answers: {float((answers[0] - answers[1]).abs().max()):.4f}")
assert (answers[0] - answers[1]).abs().max() > 1e-4

# %% [markdown]
# But a table ends. This one has 64 rows; what is the row for position 64?

# %% tags=["nbval-check-output"]
try:
    learned(encode("the dog bit the man. " * 4)[None])
except ValueError as error:
    print(f"ValueError: {error}")

# %% [markdown]
# There is none. GPT-2 has 1024 rows and BERT 512, and that is the end. One can glue more rows to the table, but nobody has trained them. We shall see below what that does.
#
# ## Added: waves
#
# The authors of the 2017 Transformer wanted a formula instead of a table, so that every position has a vector. Think of a clock. The second hand says where you are within a minute and nothing about the hour; the hour hand says the hour, but not the second. Together they name every moment of the day. Their formula has $C/2$ hands, each slower than the one before. Hand $i$ at position $p$ stands at the angle
#
# $$p\,\omega_i \quad\text{with the frequency}\quad \omega_i = \frac{1}{\text{base}^{\,2i/C}}, \qquad i = 0, 1, \dots, C/2 - 1$$
#
# and an angle is written down by its sine and its cosine. So the vector of position $p$ has $C$ numbers: $\sin p\omega_0, \cos p\omega_0, \sin p\omega_1, \cos p\omega_1, \dots$ The base is 10000: the first hand turns by one radian for each token, the last one, in a wide model, by little more than 1/10000.
#
# ### Exercise 3.2 · sinusoidal · ●●○ · 10 min
#
# Write `sinusoidal(positions, d_model, base)`. `positions` is a tensor of whole numbers of *any* shape, also `()`; the result has one more axis at the end, of size `d_model`, in float32. An odd `d_model` is refused with a `ValueError`.

# %% tags=["exercise"]
from llmkit.layers.positions import sinusoidal

# %%
sinusoidal = check(sinusoidal)

# %%
fig, axis = figure(height=3.0)
waves = sinusoidal(torch.arange(64), D_MODEL)
image = axis.imshow(waves.T, aspect="auto", cmap="PuOr", vmin=-1, vmax=1)
axis.grid(False)
axis.set(xlabel="position p", ylabel="entry of the vector", title="Fast hands at the top, slow hands at the bottom")
fig.colorbar(image, ax=axis, label="value")
show(
    fig,
    alt=f"Heat map of 64 position vectors of 32 entries. Entry 0 goes up and down about {64 / (2 * math.pi):.0f} times; "
    f"the last entries hardly change: entry 31 goes from 1 to {float(waves[63, 31]):.4f}.",
)

# %% [markdown]
# Each column is one position, and rows 0 and 1 are the first hand, rows 2 and 3 the second. The upper rows tell neighbours apart. The lower hands hardly move over 64 positions: sine near 0, cosine near 1, which makes the stripes. (They are there for longer texts.)
#
# Why sine *and* cosine? Because of this: going $k$ tokens further turns every hand by the fixed angle $k\,\omega_i$, **wherever you start**. A turn is a linear map, the one thing that a layer of a network computes most easily. So "three tokens back" can be one and the same operation at every place of the text.
#
# ### Exercise 3.3 · how far does it turn? · ●○○ · 4 min
#
# Take `d_model = 4` and `base = 100`: two hands. By how many radians does each of them turn on the way from position 5 to position 8? Give a list of two numbers, hand 0 first.

# %%
turns = None
# BEGIN SOLUTION
turns = [3.0, 0.3]
# END SOLUTION
turns = check(turns, "3.3")

# %% [markdown]
# A claim about *all* positions deserves a proof, or at least a test that could fail. Call the vector of position $p$ $\mathrm{PE}(p)$. We look for one matrix $M$ with $\mathrm{PE}(p + 3) = M\,\mathrm{PE}(p)$ for 500 positions at once (four hands, base 100), without telling the computer anything about turns: least squares finds the best $M$, whatever it is. Beside it a control, vectors that are random instead of waves.


# %%
def best_map(vectors, k):
    """The matrix that comes nearest to mapping each row to the one k further, and the largest error it makes."""
    before, after = vectors[:-k], vectors[k:]
    matrix = torch.linalg.lstsq(before, after, driver="gelsd").solution.T  # this driver allows for dependent columns
    return matrix, float((before @ matrix.T - after).abs().max())


generator = torch.Generator().manual_seed(0)
positions = torch.arange(500)
matrix, error = best_map(sinusoidal(positions, 8, 100.0).double(), k=3)
_, control_error = best_map(torch.randn(500, 8, generator=generator).double(), k=3)
print(f"waves:   the largest error of the best matrix is {error:.5f}")
print(f"control: the largest error of the best matrix is {control_error:.5f}")
print("the matrix for the first two hands (rounded):")
print(matrix[:4, :4].round(decimals=3) + 0.0)
print(f"cos 3 = {math.cos(3):.3f}, sin 3 = {math.sin(3):.3f}")
rotation = torch.tensor([[math.cos(3), math.sin(3)], [-math.sin(3), math.cos(3)]]).double()
assert error < 1e-3 and control_error > 1
assert torch.allclose(matrix[:2, :2], rotation, atol=1e-3) and matrix[:2, 2:].abs().max() < 1e-3

# %% [markdown]
# The matrix that least squares found is made of 2 × 2 blocks, one for each hand, and each block is a turn by $3\,\omega_i$. All else is 0. The random vectors have no such matrix.
#
# **Break it.** The waves have a fixed size, and embeddings have another. GPT-2 begins with embeddings of standard deviation 0.02. Add waves to them, and the token is a whisper beside its position:

# %% tags=["nbval-check-output"]
size = float(sinusoidal(torch.arange(64), 32).square().mean().sqrt())
print(f"root mean square of the waves: {size:.3f}, {size / 0.02:.0f} times an embedding of size 0.02")

# %% [markdown]
# The 2017 paper multiplies the embeddings by $\sqrt{C}$ (section 3.4) before it adds the waves. Our small models begin with embeddings of size $1/\sqrt{32} = 0.18$.
#
# ## Turned: RoPE
#
# Adding has a weakness: the vector then says "the letter e at position 37", and whoever wants to know "the letter before me" has to subtract positions first. **RoPE** (rotary position embedding, Su et al. 2021) builds the subtraction in.
#
# For this we need one fact about attention. Each token makes two vectors of $D$ numbers from its own vector: a **query** $q$, what it looks for, and a **key** $k$, what it has to offer. How much the token at position $m$ attends to the token at position $n$ depends on the dot product $q \cdot k = q_1 k_1 + \dots + q_D k_D$, the **score**. That is all we need until lesson 04.
#
# Now take the hands of the clock again. Cut $q$ and $k$ into pairs, see each pair as an arrow in the plane, and turn the arrow of a token at position $p$ by the angle $p\,\omega_i$. The dot product of two arrows depends on their lengths and on the angle *between* them. Turn $q$ by $m\,\omega$ and $k$ by $n\,\omega$, and the angle between them changes by $(m - n)\,\omega$: only the **distance** counts. By hand, for $q = k = (1, 0)$ and $\omega = 1$:

# %% tags=["nbval-check-output"]
print("  m   n   turned q · turned k    cos(m - n)")
for m, n in ((5, 3), (25, 23), (25, 24), (3, 5)):
    turned_q, turned_k = (math.cos(m), math.sin(m)), (math.cos(n), math.sin(n))
    score = turned_q[0] * turned_k[0] + turned_q[1] * turned_k[1]
    print(f"{m:3} {n:3} {score:15.4f} {math.cos(m - n):17.4f}")

# %% [markdown]
# Which numbers make a pair is a convention. llmkit takes the one of LLaMA's files at Hugging Face: entry $i$ of the first half goes with entry $i$ of the second half, so for $D = 8$ the pairs are (0, 4), (1, 5), (2, 6), (3, 7). An arrow $(a, b)$ turned by the angle $\alpha$ becomes
#
# $$(a\cos\alpha - b\sin\alpha,\;\; b\cos\alpha + a\sin\alpha)$$
#
# ### Exercise 3.4 · rotate · ●●○ · 10 min
#
# Write `rotate(x, cos, sin)`. `x` has the shape (B, H, T, D): B texts, H **heads** (several queries side by side for each token, each of $D = C/H$ numbers), T positions, D numbers. `cos` and `sin` are those of the angles, with the shape (T, D/2), or (B, 1, T, D/2) where each text has positions of its own; both broadcast against a half of `x`. `x.chunk(2, dim=-1)` gives the two halves, `torch.cat([a, b], dim=-1)` joins them.

# %% tags=["exercise"]
from llmkit.layers.rope import rotate

# %%
rotate = check(rotate)

# %% [markdown]
# The frequencies are those of the waves above, with $D$ in the place of $C$. The base is called `theta` here, as in the configs of real models. `RotaryEmbedding` makes from positions the cosines and sines that `rotate` wants.

# %% tags=["show"]
from llmkit.layers.rope import rope_frequencies

# %% [markdown]
# Does only the distance count, for random vectors too? We give the *same* query to all positions $m$ and the same key to all positions $n$, and draw all scores. Beside it what happens if something is left out: only the query is turned; or waves are added instead.

# %%
from llmkit.layers.rope import RotaryEmbedding

rope = RotaryEmbedding(head_dim=16)
cos, sin = rope(torch.arange(48))  # each (T, D/2) = (48, 8)
q, k = torch.randn(2, 1, 1, 1, 16, generator=generator)
q, k = q.expand(1, 1, 48, 16), k.expand(1, 1, 48, 16)
waves = sinusoidal(torch.arange(48), 16)
scores = {
    "RoPE": (rotate(q, cos, sin) @ rotate(k, cos, sin).mT)[0, 0],
    "only q turned": (rotate(q, cos, sin) @ k.mT)[0, 0],
    "waves added": ((q + waves) @ (k + waves).mT)[0, 0],
}


def unevenness(matrix):
    """How much the scores of one distance differ, at most: 0 when only the distance counts."""
    return max(float(diagonal.max() - diagonal.min()) for d in range(-40, 41) for diagonal in [matrix.diagonal(d)])


fig, axes = figure(3, height=2.7, sharey=True)
for axis, (name, matrix) in zip(axes, scores.items(), strict=True):
    image = axis.imshow(matrix, cmap="PuOr", vmin=-12, vmax=12)
    axis.set_title(f"{name}\nuneven by {unevenness(matrix):.1f}", fontsize=10)
    axis.set_xlabel("key at n")
    axis.grid(False)
axes[0].set_ylabel("query at m")
fig.colorbar(image, ax=axes, label="score", shrink=0.8).ax.set_ylim(-12, 6)  # the colours that occur
show(
    fig,
    alt="Three maps of scores for one query and one key at all positions. With RoPE every diagonal has one colour "
    f"(largest difference on a diagonal {unevenness(scores['RoPE']):.4f}); with only q turned there are horizontal "
    f"stripes ({unevenness(scores['only q turned']):.1f}), with waves added a pattern in which diagonals vary "
    f"({unevenness(scores['waves added']):.1f}).",
)
assert unevenness(scores["RoPE"]) < 1e-3
assert min(unevenness(scores["only q turned"]), unevenness(scores["waves added"])) > 1

# %% [markdown]
# The number in each title is the largest difference between two scores of the *same* distance. With RoPE it is 0: every diagonal has one colour. With only $q$ turned the score depends on $m$ alone. With waves added, part of the score depends on the distance, the rest on the two places themselves.
#
# **Break it.** RoPE asks for exact angles. The numbers of a model are often stored in bfloat16, which has only 8 significant bits. If the frequencies are rounded like that, the angle at position 10,000 is off by:

# %% tags=["nbval-check-output"]
exact = rope_frequencies(128)
rounded = exact.bfloat16().float()
off = (10_000 * (rounded - exact)).abs()
print(f"the worst hand: {float(off.max()):.0f} radians, {float(off.max() / (2 * math.pi)):.1f} turns")
print(f"{int((off > 0.5).sum())} of {len(off)} hands are off by more than half a radian")

# %% [markdown]
# That is why `RotaryEmbedding` keeps its frequencies in float32 when the rest of a model becomes bfloat16.
#
# ## Added to the scores: ALiBi
#
# The shortest scheme of all: leave the vectors alone, and subtract from each score something that grows with the distance. Head $h$ subtracts $s_h \cdot \text{distance}$ with a fixed **slope** $s_h$: some heads look near, some far. Nothing is learned (Press et al. 2022, "ALiBi"). With four heads the slopes are 1/4, 1/16, 1/64 and 1/256.
#
# ### Exercise 3.5 · how far does it see? · ●●○ · 5 min
#
# Attention turns scores into weights by softmax (lesson 01). Take the head with slope 1/4 and suppose that all scores are the same before the penalty. What is the smallest distance (a whole number) at which a key's weight is less than a hundredth of the weight of the key at distance 0?

# %%
alibi_reach = None
# BEGIN SOLUTION
alibi_reach = math.floor(4 * math.log(100)) + 1
# END SOLUTION
alibi_reach = check(alibi_reach, "3.5")

# %% [markdown]
# A head with the slope 1/4 has a window of some 20 tokens, softly closed. The number of heads is often a power of two, and then slopes are easy. For other numbers there is a rule that one has to look up; llmkit's is the same as BLOOM's:

# %% tags=["show"]
from llmkit.layers.positions import alibi_slopes

# %% tags=["nbval-check-output"]
for n_heads in (2, 4, 6):
    print(n_heads, "heads: 1 /", [round(1 / float(slope), 1) for slope in alibi_slopes(n_heads)])

# %% [markdown]
# ## Added to the scores: T5's buckets
#
# T5 *learns* what to add: one number for each distance and head. A table of all distances would end somewhere, like the table of positions. So T5 puts distances into **buckets**: the near ones have a bucket each, the farther ones share, in stretches that grow by equal factors. The last bucket takes the final stretch before `max_distance` and everything beyond. That ends nowhere.
#
# Two more things. Distance here is *key position minus query position*: a key in the past has a **negative** distance. And an encoder looks both ways (`bidirectional`), so half of its buckets are for keys that come later; a decoder looks back only, and all its buckets are for the past.
#
# ### Exercise 3.6 · find the bug · ●●○ · 12 min
#
# Here is somebody's `relative_bucket`. The shapes are right, nothing crashes, and in an encoder it does what it should. In a decoder it tells the model nothing at all. Print a few buckets for `bidirectional=False` first, then read the code, then mend it. The docstring says what is wanted.

# %% tags=["exercise"]
from llmkit.layers.positions import relative_bucket

# %%
relative_bucket = check(relative_bucket)

# %%
distances = torch.arange(0, 160)
fig, axes = figure(2, height=3.0)
for slope in alibi_slopes(4).tolist():
    axes[0].plot(distances, -slope * distances)
    end = min(160, 19 / slope)
    axes[0].text(end + 3, -slope * end, f"1/{1 / slope:.0f}", va="center", fontsize=9)
axes[0].set(ylim=(-20, 1), xlabel="distance back", ylabel="added to the score", title="ALiBi: four straight lines")
axes[1].step(distances, relative_bucket(-distances, False), where="post")
axes[1].axvline(128, color=COLORS["control"], linestyle="--")
axes[1].text(126, 2, "max_distance", ha="right", color="#666666", fontsize=9)
axes[1].set(xlabel="distance back", ylabel="bucket", title="T5: a staircase of 32 buckets")
show(
    fig,
    alt="Left: four straight lines falling from 0 with slopes 1/4 to 1/256. Right: the bucket number of a distance, "
    f"one step each up to bucket 15, then ever longer steps, and bucket {int(relative_bucket(torch.tensor([-128]), False)[0])} from {int((relative_bucket(-distances, False) == 31).nonzero()[0])} on.",
)

# %% [markdown]
# ## The experiment: longer than ever seen
#
# Five schemes, and one question: **what happens beyond the training length?** We train six small language models on letters of toyland stories (two layers, width 32). All of them read 64 letters at a time, about a dozen words. Then each is asked to predict letter after letter through 512.
#
# The sixth model has no positions at all: the control. And for a scale, two counting models of lesson 01: letter frequencies alone (a unigram), and letters given the one before (a bigram).
#
# A detail of T5: it was trained on 512 tokens, and all beyond a distance of 128 shares a bucket. Ours has 16 buckets, up to a distance of 32, half of what it is trained on. A bucket for distances that never occur in training would keep the number it began with.
#
# The learned table has 64 rows, and llmkit refuses more. To see what would happen, we glue random rows to it, as large as those that it began with.

# %%
from llmkit.layers.positions import Alibi, RelativePositionBias, Sinusoidal
from llmkit.training.loop import train

CONTEXT, LONG = 64, 512
train_ids, validation_ids = encode(texts["train"]), encode(texts["validation"])


def model_with(scheme, seed, context=CONTEXT):
    """One of the six models, untrained."""
    torch.manual_seed(seed)
    added = {"learned": lambda: nn.Embedding(context, D_MODEL), "sinusoidal": lambda: Sinusoidal(D_MODEL)}
    to_scores = {
        "ALiBi": lambda: Alibi(N_HEADS),
        "T5 bias": lambda: RelativePositionBias(N_HEADS, bidirectional=False, n_buckets=16, max_distance=context // 2),
    }
    embed = Embedding(len(alphabet), D_MODEL, added[scheme]() if scheme in added else None)
    rope = RotaryEmbedding(D_MODEL // N_HEADS) if scheme == "RoPE" else None
    return language_model(embed, rope=rope, position_bias=to_scores[scheme]() if scheme in to_scores else None)


def windows(ids, length, batch_size, seed):
    """Batches of stretches that begin anywhere in the text; one letter more, because the last one is a target too."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(ids) - length, (batch_size, 1), generator=generator)
        yield ids[starts + torch.arange(length + 1)], None


def letter_loss(model, ids, _=None):
    return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def fit(model, seed, n_steps=250, length=CONTEXT, batch_size=8, lr=1.5e-2):
    train(model, windows(train_ids, length, batch_size, seed), n_steps, lr, warmup=n_steps // 10, weight_decay=0.01,
          loss=letter_loss, progress=False)  # fmt: skip
    return model


starts = torch.arange(32)[:, None] * ((len(validation_ids) - LONG - 1) // 32)
held_out = validation_ids[starts + torch.arange(LONG + 1)]  # 32 stretches of 513 letters


@torch.no_grad()
def loss_by_position(model):
    """(512,): nats at each position, mean over the held-out stretches."""
    logits = model(held_out[:, :-1])
    return F.cross_entropy(logits.transpose(1, 2), held_out[:, 1:], reduction="none").mean(0)


def lengthen(table, length):
    """A learned table with untrained rows behind the trained ones."""
    longer = nn.Embedding(length, D_MODEL)
    nn.init.normal_(longer.weight, std=D_MODEL**-0.5)
    longer.weight.data[: len(table.weight)] = table.weight.data
    return longer


def count_loss():
    """Nats a letter of two counting models on the held-out stretches."""
    V = len(alphabet)
    pairs = torch.bincount(train_ids[:-1] * V + train_ids[1:], minlength=V * V).view(V, V) + 0.01
    unigram, bigram = pairs.sum(0) / pairs.sum(), pairs / pairs.sum(1, keepdim=True)
    before, after = held_out[:, :-1], held_out[:, 1:]
    return float(-unigram[after].log().mean()), float(-bigram[before, after].log().mean())


# %% [markdown]
# Before you run it: which scheme has the lowest loss at positions 384 to 511? And what will RoPE's loss be there, in nats a letter? (At the end of the training length, around position 64, the better schemes come to about 2.1.)

# %%
guess_scheme = None  # "none", "learned", "sinusoidal", "RoPE", "ALiBi" or "T5 bias"
guess_rope = None  # for example 2.0

# %%
SCHEMES = ("none", "learned", "sinusoidal", "RoPE", "ALiBi", "T5 bias")
SEEDS = (0,)  # (0, 1) trains each model twice and prints the spread
trained = {(scheme, seed): fit(model_with(scheme, seed), seed) for scheme in SCHEMES for seed in SEEDS}
for seed in SEEDS:
    embed = trained["learned", seed].transformer.embed
    embed.positions = lengthen(embed.positions, LONG)
by_position = {key: loss_by_position(model) for key, model in trained.items()}
unigram, bigram = count_loss()

ZONES = ((32, 64), (64, 128), (128, 256), (384, 512))


def in_zone(scheme, zone):
    """Mean over the seeds, and half the difference between the largest and the smallest."""
    values = [float(by_position[scheme, seed][zone[0] : zone[1]].mean()) for seed in SEEDS]
    return sum(values) / len(values), (max(values) - min(values)) / 2


cell = "{:9.2f} ± {:.2f}" if len(SEEDS) > 1 else "{:15.2f}"
print(f"{'nats a letter at':18}" + "".join(f"{f'{a} … {b - 1}':>15}" for a, b in ZONES))
for scheme in SCHEMES:
    print(f"{scheme:18}" + "".join(cell.format(*in_zone(scheme, zone)) for zone in ZONES))
print(f"unigram {unigram:.2f}, bigram {bigram:.2f} at every position")

# %%
far = {scheme: in_zone(scheme, (384, 512))[0] for scheme in SCHEMES}
near = {scheme: in_zone(scheme, (32, 64))[0] for scheme in SCHEMES}
best = min(far, key=far.get)


def draw_by_position(axis, curves, colors, step=32, gap=0.047):
    """Means over `step` positions; names at the right end, moved apart where they would overlap."""
    middles = torch.arange(step // 2, LONG, step)
    axis_range = max(1.1, *(float(curve.view(-1, step).mean(1).max()) - 1.9 for curve in curves.values()))
    at, ends = -math.inf, {name: float(curve[-2 * step :].mean()) for name, curve in curves.items()}
    for name in sorted(curves, key=ends.get):
        style = {"linestyle": "--", "linewidth": 1} if name == "bigram" else {}
        axis.plot(middles, curves[name].view(-1, step).mean(1), color=colors[name], **style)
        at = max(ends[name], at + gap * axis_range)
        axis.text(LONG + 4, at, name, color=colors[name], va="center", fontsize=9)
    axis.axvspan(0, CONTEXT, color=COLORS["masked"], alpha=0.5, zorder=0)
    axis.set(xlim=(0, LONG), xlabel="position", ylabel="nats a letter")


scheme_colors = {
    "none": COLORS["control"], "learned": "#E69F00", "sinusoidal": "#D55E00", "RoPE": "#0072B2", "ALiBi": "#009E73",
    "T5 bias": "#56B4E9", "bigram": "#666666",
}  # fmt: skip
fig, axis = figure(height=4.2)
means = {scheme: torch.stack([by_position[scheme, seed] for seed in SEEDS]).mean(0) for scheme in SCHEMES}
draw_by_position(axis, means | {"bigram": torch.full((LONG,), bigram)}, scheme_colors)
axis.text(CONTEXT + 4, axis.get_ylim()[1], "trained up to here", color="#666666", fontsize=9, va="top")
if guess_rope is not None:
    axis.plot(448, guess_rope, "o", color=COLORS["guess"])
    axis.annotate("your guess for RoPE", (448, guess_rope), (0, 7), textcoords="offset points", color=COLORS["guess"],
                  ha="center", fontsize=9, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
axis.set_title("ALiBi stays where it was; waves and RoPE break")
show(
    fig,
    alt="Loss by position for models trained on 64 letters. "
    + "; ".join(f"{scheme} {near[scheme]:.2f} at 32-63 and {far[scheme]:.2f} at 384-511" for scheme in SCHEMES),
)
print(f"lowest at positions 384 … 511: {best}" + (f"; your guess: {guess_scheme}" if guess_scheme else ""))
assert best == "ALiBi" and abs(far["ALiBi"] - near["ALiBi"]) < 0.1
assert far["sinusoidal"] - near["sinusoidal"] > 0.4
assert 0.02 < far["learned"] - near["learned"] < 0.5 and 0.05 < far["T5 bias"] - near["T5 bias"] < 0.6
assert max(near["RoPE"], near["ALiBi"], near["T5 bias"]) < near["none"] - 0.1
assert min(near["learned"], near["sinusoidal"]) > near["none"] - 0.12 and abs(near["none"] - bigram) < 0.15
assert in_zone("RoPE", (128, 256))[0] - near["RoPE"] < 0.4 < far["RoPE"] - near["RoPE"]

# %% [markdown]
# Each model was trained once, to keep the wait short. With another seed (try `SEEDS = (0, 1)`) most numbers move by less than a tenth, RoPE's at the far end by up to two tenths, those of the waves beyond 64 by half a nat and more. So trust the large differences, and not the order of RoPE, ALiBi and T5's bias within the first 64.
#
# Read the grey area first, the training length. RoPE, ALiBi and T5's bias, the three that tell attention about *distances*, have learned most. After this short training the waves and the learned table are no better than no positions at all, or hardly. "Two letters before me" has to be found anew for each of the 64 places; with distances, only once. (This need not stay so. What do you get with `n_steps=2000`?)
#
# The control is about as good as the bigram, and that is no accident: the letter at which the model stands it knows without looking back. What it cannot tell is the order of the letters before that one.
#
# Then go to the right.
#
# - **ALiBi** stays where it was. Its penalty is a straight line, and what is far away counts for little anyway.
# - **T5's bias** gets worse slowly. A likely reason: everything far away shares one number, which was learned for a few dozen tokens and now has to do for hundreds.
# - **RoPE** gets worse slowly at first and then breaks, although it tells attention nothing but distances. This surprises most people. The next section looks for the reason.
# - **Waves** have a vector for each position, as promised. The model has never seen those vectors, and the loss jumps as soon as they come.
# - **The learned table** with its random rows loses less than that. It also had less to lose.
#
# One question is left from the beginning. The blind model there had *one* layer, and the control here has two. Does that matter? Two untrained models without positions, which differ in their layers only:

# %%
for n_layers in (1, 2):
    torch.manual_seed(0)
    blind = language_model(Embedding(len(alphabet), D_MODEL), n_layers)
    with torch.no_grad():
        answers = blind(ids)[:, -1].softmax(-1)
    difference = float((answers[0] - answers[1]).abs().max())
    print(f"{n_layers} layer(s), no positions: the two answers differ by {difference:.4f}")
    assert (difference > 1e-3) == (n_layers == 2)

# %% [markdown]
# With two layers a blind model is not wholly blind. A token in these models sees only what came before it. So after the first layer the vector of each letter already depends on *which letters came before it*, and the second layer can make use of that. Larger models without positions learn a good deal in this way (Haviv et al. 2022).
#
# ## Why RoPE breaks
#
# Look at the hands of the clock. Here are three of the four hands that a head of our model has (the fourth is slower still): inside all the angles that occur within 64 tokens, outside those within 512.

# %%
frequencies = rope_frequencies(D_MODEL // N_HEADS)
fig, axes = figure(3, height=2.8)
for axis, i in zip(axes, (0, 1, 2), strict=True):
    for radius, length, color, label in (
        (1.0, CONTEXT, COLORS["model"], f"trained: {CONTEXT} tokens"),
        (1.25, LONG, COLORS["bad"], f"asked: {LONG} tokens"),
    ):
        angles = torch.arange(length) * frequencies[i]
        axis.plot(radius * angles.cos(), radius * angles.sin(), ".", color=color, markersize=3)
        if i == 2:
            axis.text(-0.15, 0.1 if radius == 1.0 else -0.3, label, color=color, ha="center", fontsize=9)
    share = min(1.0, float((CONTEXT - 1) * frequencies[i] / (2 * math.pi)))
    axis.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal", xticks=[], yticks=[])
    axis.set_title(f"hand {i}:\n{share:.0%} seen in training", fontsize=10)
    axis.grid(False)
show(
    fig,
    alt="Three circles of angles. Hand 0 goes round many times within 64 tokens, hand 1 once; hand 2 covers only a tenth "
    f"of its circle ({float(63 * frequencies[2]):.2f} radians), but is asked for up to {float(511 * frequencies[2]):.2f} radians.",
)

turned = ", ".join(f"{CONTEXT * float(f) / (2 * math.pi):.2f}" for f in frequencies)
print(f"turns of the four hands within {CONTEXT} tokens: {turned}")

# %% [markdown]
# The fast hand goes round and round: it has shown every angle in training. Hand 2 has covered a tenth of its circle. At 512 tokens it is asked for angles that no query and no key ever had, and nobody taught the model what they mean.
#
# ## Longer contexts for a trained RoPE
#
# So keep the angles within what was seen. A text 8 times as long can be squeezed in if every hand turns 8 times as slowly: **linear** scaling, also called position interpolation (Chen et al. 2023).

# %% tags=["show"]
from llmkit.layers.rope import linear_scaling, ntk_scaling

# %% [markdown]
# But then the fast hand, which tells neighbours apart, is slowed down too, and *it* had no problem. **NTK** scaling stretches each hand by a different factor: the slowest by all of it, the fastest by none. **YaRN** and **Llama 3** go one step further and ask each hand the right question: *how many turns did you make within the original context?*
#
# - more than some high number: it has seen every angle, leave it;
# - fewer than some low number: it must not leave its arc, stretch it by the full factor;
# - between: a mixture.
#
# ### Exercise 3.7 · llama3_scaling · ●●○ · 10 min · optional
#
# Write `llama3_scaling`. A hand with frequency $f$ (radians a token) makes $L f / 2\pi$ turns in $L$ tokens, where $L$ is `original_max_position_embeddings`. Up to `low_freq_factor` turns its new frequency is $f / \text{factor}$, from `high_freq_factor` turns on it stays $f$, and between the two the result moves *linearly in the number of turns* from one to the other: half way between the borders it is the mean of $f$ and $f / \text{factor}$.

# %% tags=["exercise"]
from llmkit.layers.rope import llama3_scaling

# %%
llama3_scaling = check(llama3_scaling)

# %% [markdown]
# Llama 3 was trained on 8192 tokens; the config of Llama 3.1 allows 131,072 and asks for this scaling with the factor 8. These are its 64 hands:

# %%
frequencies = rope_frequencies(128, theta=500_000.0)
scaled = llama3_scaling(frequencies, 8.0, 1.0, 4.0, 8192)
wavelengths = 2 * math.pi / frequencies  # tokens for one turn
kept, stretched = 8192 / wavelengths >= 4, 8192 / wavelengths <= 1
bands = {
    "kept": (kept, COLORS["good"]),
    "blended": (~kept & ~stretched, COLORS["key"]),
    "stretched by 8": (stretched, COLORS["bad"]),
}
fig, axis = figure(height=3.2)
axis.plot(2 * math.pi / scaled, ".", color=COLORS["control"])
axis.text(63, float(2 * math.pi / scaled[-1]) * 1.6, "after scaling", color="#666666", ha="right", fontsize=9)
for name, (band, color) in bands.items():
    axis.plot(band.nonzero(), wavelengths[band], ".", color=color)
    place = float(band.nonzero().float().mean())
    axis.text(place, 8, f"{name}:\n{int(band.sum())} hands", color=color, ha="center", fontsize=9)
axis.axhline(8192, color=COLORS["truth"], linestyle="--", linewidth=1)
axis.text(0, 9500, "original context, 8192 tokens", fontsize=9)
axis.set(yscale="log", xlabel="hand", ylabel="tokens for one turn", title="Llama 3.1 stretches only the slow hands")
show(
    fig,
    alt="Tokens for one turn by hand, on a logarithmic axis, from 6 to 2.6 million. "
    + ", ".join(f"{int(band.sum())} hands {name}" for name, (band, _) in bands.items())
    + ". The stretched ones are those that do not complete a turn in 8192 tokens.",
)

# %% [markdown]
# YaRN does much the same. It blends along the *number* of the hand instead of its turns, with other borders, and it makes queries and keys a little longer, because softmax over more keys would be flatter. In `config.json` of a model the whole choice is one entry, such as `"rope_scaling": {"rope_type": "yarn", "factor": 8.0, …}`, and `RotaryEmbedding` takes the same dict.
#
# ### The second experiment
#
# Take the RoPE models from above and give them new frequencies for 512 tokens: first without any further training, then after 20 short steps on 512 letters each. The control is no scaling at all, with the same 20 steps. Guess first: which one is best *without* training at positions 384 … 511, and is it the same after?

# %%
guess_before = None  # "no scaling", "linear", "NTK" or "YaRN"
guess_after = None

# %%
import copy

FACTOR = LONG / CONTEXT
SCALINGS = {
    "no scaling": None,
    "linear": {"rope_type": "linear", "factor": FACTOR},
    "NTK": {"rope_type": "ntk", "factor": FACTOR},
    "YaRN": {"rope_type": "yarn", "factor": FACTOR, "original_max_position_embeddings": CONTEXT},
}
before, after = {name: [] for name in SCALINGS}, {name: [] for name in SCALINGS}
for name, scaling in SCALINGS.items():
    for seed in SEEDS:
        model = copy.deepcopy(trained["RoPE", seed])
        model.transformer.rope = RotaryEmbedding(D_MODEL // N_HEADS, scaling=scaling)
        before[name].append(loss_by_position(model))
        fit(model, seed + 10, n_steps=20, length=LONG, batch_size=1, lr=3e-3)
        after[name].append(loss_by_position(model))

print("nats a letter       without training         after 20 steps")
print("at            0 … 63    384 … 511      0 … 63    384 … 511")
ends = {}
for name in SCALINGS:
    row = [torch.stack(curves[name]).mean(0) for curves in (before, after)]
    ends[name] = [float(curve[a:b].mean()) for curve in row for a, b in ((0, 64), (384, 512))]
    print(f"{name:12}" + "{:8.2f} {:12.2f} {:11.2f} {:12.2f}".format(*ends[name]))
assert ends["linear"][0] > ends["no scaling"][0] + 0.2, "linear scaling hurts the near places at first"
assert max(ends["NTK"][1], ends["YaRN"][1]) < ends["no scaling"][1] - 0.2
assert all(row[3] < row[1] for row in ends.values()) and abs(ends["linear"][3] - ends["no scaling"][3]) < 0.25
assert max(ends["NTK"][3], ends["YaRN"][3]) < ends["no scaling"][3] - 0.03
best_before, best_after = (min(ends, key=lambda name: ends[name][column]) for column in (1, 3))
print(f"best far out: {best_before} without training, {best_after} after")
if guess_before or guess_after:
    print(f"your guess:   {guess_before} without training, {guess_after} after")

# %%
scaling_colors = dict(zip(SCALINGS, (COLORS["control"], "#D55E00", "#0072B2", "#009E73"), strict=True))
fig, axes = figure(2, height=3.4, sharey=True)
for axis, curves, title in (
    (axes[0], before, f"no training: {best_before} ends best"),
    (axes[1], after, f"20 steps: {best_after} ends best"),
):
    draw_by_position(axis, {name: torch.stack(c).mean(0) for name, c in curves.items()}, scaling_colors, gap=0.06)
    axis.set_title(title)
axes[1].set_ylabel("")
show(
    fig,
    alt="Loss by position of the RoPE models with four sets of frequencies, before and after 20 steps on long texts. "
    + "; ".join(f"{name}: {row[1]:.2f} then {row[3]:.2f} at 384-511" for name, row in ends.items()),
)

# %% [markdown]
# Left, without any training: **linear** scaling is flat, with no break, but costs most within the first 64 letters. The model has learned what one step of the fast hand means, and a step is now an eighth of that. NTK and YaRN leave the fast hand alone. They lose a little at the start, and at the end they are far better than no scaling.
#
# Right, after 20 steps: at the far end every curve has come down, the control's too, for long texts teach something by themselves. NTK and YaRN remain ahead of the control; linear scaling is only level with it, within what another seed would change. (Its authors train for up to 1000 steps.)
#
# Do not take the order of NTK and YaRN from here. YaRN's borders, 32 turns and 1 turn, were chosen for contexts of thousands of tokens, where many hands make more than 32 turns. In 64 tokens not one does, as printed above. By that border YaRN's blend would begin before the first hand; it is cut off at hand 0, and so hand 0 stays as it is.
#
# ## One rotation, two orders (optional)
#
# LLaMA's own files, llama.cpp's GGUF files, PaLM and Cohere pair *neighbours*: entry 0 with 1, 2 with 3. The files at Hugging Face pair *halves*, as we do. Take weights made for the one convention and run them with the other: shapes fit, nothing crashes, the text is nonsense. The cure is to reorder the rows of the two matrices that make $q$ and $k$, so that what was (0, 1, 2, 3) within a head becomes (0, 2, 1, 3): first members of all pairs, then second members.
#
# ### Exercise 3.8 · pairs_to_halves · ●●● · 12 min · optional
#
# Write `pairs_to_halves(weight, n_heads)`. `weight` has the shape (H · D, C): rows 0 to D - 1 belong to head 0, and so on; or (H · D,), a bias. Reorder the rows *within each head*. (Lesson 20 needs it to read a GGUF file.)

# %% tags=["exercise"]
from llmkit.layers.rope import pairs_to_halves

# %%
pairs_to_halves = check(pairs_to_halves)

# %%
H, D, T = 3, 8, 6


def rotate_neighbours(x, cos, sin):
    """As in LLaMA's own code: a pair of neighbours is a complex number, and turning is multiplying."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2)


def scores_of(w_q, w_k, turn):
    q, k = ((x @ w.T).view(1, T, H, D).transpose(1, 2) for w in (w_q, w_k))
    return turn(q, cos, sin) @ turn(k, cos, sin).mT  # (1, H, T, T)


x = torch.randn(T, 16, generator=generator)
w_q, w_k = torch.randn(2, H * D, 16, generator=generator)
cos, sin = RotaryEmbedding(D)(torch.arange(T))
wanted = scores_of(w_q, w_k, rotate_neighbours)
mixed_up = scores_of(w_q, w_k, rotate)
converted = scores_of(pairs_to_halves(w_q, H), pairs_to_halves(w_k, H), rotate)
scale = wanted.abs().max()
print(f"weights for neighbours, code for halves: scores off by {float((mixed_up - wanted).abs().max() / scale):.0%}")
print(f"after pairs_to_halves:                   scores off by {float((converted - wanted).abs().max() / scale):.4%}")
assert (converted - wanted).abs().max() < 1e-4 * scale < 0.1 * (mixed_up - wanted).abs().max()

# %% [markdown]
# ## On real text, on a GPU
#
# The same experiment on Python's own documentation, byte by byte: context 256, asked for up to 2048, models of four layers and width 256. This section runs by itself where a GPU is found.

# %%
from llmkit.data.text import python_docs


@gpu_section("train five schemes on Python's documentation at context 256 and measure them up to 2048",
             full={"context": 256, "width": 256, "n_layers": 4, "n_steps": 1500, "batch_size": 32},
             smoke={"context": 16, "width": 16, "n_layers": 1, "n_steps": 2, "batch_size": 2})  # fmt: skip
def real_text(device, context, width, n_layers, n_steps, batch_size):
    text = torch.tensor(list(python_docs().encode()))
    cut, long = int(0.9 * len(text)), 8 * context
    held = text[cut : cut + 16 * (long + 1)].view(16, long + 1).to(device)
    options = {
        "none": {},
        "sinusoidal": {"positions": Sinusoidal(width)},
        "RoPE": {"rope": RotaryEmbedding(width // N_HEADS)},
        "ALiBi": {"position_bias": Alibi(N_HEADS)},
        "T5 bias": {"position_bias": RelativePositionBias(N_HEADS, bidirectional=False)},
    }
    for scheme, option in options.items():
        torch.manual_seed(0)
        embed = Embedding(256, width, option.pop("positions", None))
        model = language_model(embed, n_layers, **option).to(device)
        batches = ((ids.to(device), mask) for ids, mask in windows(text[:cut], context, batch_size, seed=0))
        train(model, batches, n_steps, lr=2e-3, loss=letter_loss, progress=False)
        with torch.no_grad():
            logits = torch.cat([model(row[None, :-1]) for row in held])
        curve = F.cross_entropy(logits.transpose(1, 2), held[:, 1:], reduction="none").mean(0)
        zones = [float(curve[a * context // 2 : b * context // 2].mean()) for a, b in ((1, 2), (2, 4), (12, 16))]
        print(
            f"{scheme:11} nats a byte at {context // 2}, {context} and {6 * context} on: "
            + "  ".join(f"{z:.2f}" for z in zones)
        )


# %% [markdown]
# ## Mistakes people make
#
# | mistake | how it shows |
# |---|---|
# | A text longer than the table of positions | an index error at best; on a GPU "device-side assert" and no word about positions |
# | Weights with neighbours paired, code with halves (or the other way round) | nothing crashes; the scores are off, as above, and the text is nonsense |
# | Frequencies of RoPE in bfloat16 | fine on short texts; angles off by whole turns at position 10,000, as above |
# | Positions count the padding on the left | a text gives other answers in a batch than alone |
# | Distance as query minus key where key minus query is meant | a T5 decoder with one bucket for the whole past: exercise 3.6 |
# | A longer context set in the config, and no scaling | the loss rises beyond the training length, as in the first experiment |
#
# ## Where the real systems do it
#
# - **transformers** `modeling_rope_utils.py`: all scalings, in the table `ROPE_INIT_FUNCTIONS`; llmkit's frequencies are compared with them in `tests/test_positions.py`. The buckets are `T5Attention._relative_position_bucket`, the slopes `build_alibi_tensor` of BLOOM.
# - **llama.cpp** `convert_hf_to_gguf.py` and transformers' `convert_llama_weights_to_hf.py` each have a function `permute`: exercise 3.8, there and back.
# - **Papers**: Vaswani et al. 2017, section 3.5 (waves); Shaw et al. 2018 (distances first); Raffel et al. 2020, section 2.1 (T5); Su et al. 2021 (RoPE); Press et al. 2022 (ALiBi, and the experiment of this lesson at full size); Chen et al. 2023 (interpolation); Peng et al. 2023 (YaRN); Haviv et al. 2022 (decoders without positions).
#
# ## What llmkit gained
#
# | file | what |
# |---|---|
# | `llmkit/layers/positions.py` | `sinusoidal`, `alibi_slopes`, `relative_bucket`, and the modules around them |
# | `llmkit/layers/rope.py` | `rotate`, `RotaryEmbedding`, linear, NTK, YaRN and Llama 3 scaling, `pairs_to_halves` |
# | `llmkit/layers/transformer.py` | `Embedding`; the places where `Transformer` takes `rope=` and `position_bias=` |
#
# Three questions to check yourself:
#
# <details><summary>RoPE turns q and k by their absolute positions. Why is it called a relative scheme?</summary>
#
# The score is the only place where q and k meet, and it depends on the angle between them. Turning one by m and the other by n changes that angle by m - n, so the places themselves cancel.
# </details>
#
# <details><summary>Somebody adds waves to the values too, "to be sure". With RoPE, why does nobody turn v?</summary>
#
# The values are not compared with anything: they are averaged and handed on. Turned values would put each token's absolute position into what is handed on, and the next layer would have to turn it back.
# </details>
#
# <details><summary>A model with theta = 10000 and head_dim = 128 was trained on 4096 tokens. About how many of its 64 hands have not completed a turn?</summary>
#
# A turn takes 2 pi · 10000^(i/64) tokens. That is 4096 at i = 64 · ln(4096 / 2 pi) / ln 10000 = 45.03. So hands 46 to 63 have not: 18 of them.
# </details>

# %%
progress()

# %% [markdown]
# **Next**: 04_attention. What queries and keys are good for: a model that looks back at "the ball" to know what "it" was.
