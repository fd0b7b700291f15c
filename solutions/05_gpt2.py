# %% [markdown]
# # 05 · GPT-2 and a first training run
#
# **You will** put attention into a block, stack blocks into GPT-2, count its 124,439,808 parameters by hand, train a small one from nothing, and measure how much of what counting could not learn it learns.
#
# **Before** you start: lessons 01 (loss, entropy, n-grams) and 04 (attention). From torch you need tensors, `mean`, `sqrt`, `tanh` and slices; each exercise names the calls.
#
# **Time** about 80 minutes, six exercises. One cell trains for half a minute to a minute.

# %% tags=["setup"]
import math
import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmkit.course import check, gpu_section, hint, progress, start
from llmkit.data import toyland
from llmkit.viz import COLORS, draw_losses, figure, show, smooth

start("05_gpt2", solved=True)

# %% [markdown]
# ## Where counting stopped
#
# Lesson 01 ended with a gap. The best counting model paid about 2.5 nats a token on stories it had not read, while the world itself pays about 1.0: its exact entropy. What was missing was memory: *who* has the lantern, *which* name to say again. Lesson 04 brought attention, which can look back over any distance.
#
# So the question of this lesson: **if we build a whole language model around attention and train it for half a minute on a laptop, how much of the gap is left, and where does it lie?**
#
# Half a minute is too short to meet toyland's three thousand names often enough. So this lesson moves to a **village**: the same stories by the same rules, but only sixty people and fifteen towns. Its entropy is just as exactly known, and counting does better here too; both are measured again below.
#
# First the stories, cut into words as in lesson 01. Each token gets a number, its **id**; a `<start>` stands in front of each story and an `<end>` after it.

# %% tags=["nbval-check-output"]
from llmkit.data.toyland import END

START = "<start>"
corpus = toyland.corpus(train_bytes=2_000_000, validation_bytes=100_000, world=toyland.VILLAGE)


def tokens_of(text):
    return [START, *toyland.split(text), END]


vocabulary = sorted({token for text in corpus.train + corpus.validation for token in tokens_of(text)})
id_of = {token: i for i, token in enumerate(vocabulary)}
train_ids = [[id_of[token] for token in tokens_of(text)] for text in corpus.train]
validation_ids = [[id_of[token] for token in tokens_of(text)] for text in corpus.validation]
print(f"{len(train_ids)} stories to read, {sum(map(len, train_ids))} tokens; {len(validation_ids)} kept aside")
print(f"{len(vocabulary)} different tokens; the longest story has {max(map(len, train_ids + validation_ids))}")

# %% [markdown]
# (The list of words is taken from both parts, so that every story can be written down; how often a word occurs is learnt from the first part only.)
#
# Here is a GPT-2 of our own size before any training, asked to continue a story. It is the model that we are going to take apart.

# %%
from llmkit.generation.generate import generate
from llmkit.generation.logits import Sampler
from llmkit.models.gpt2 import GPT2Config, gpt2

SMALL = GPT2Config(vocab_size=len(vocabulary), max_len=320, d_model=128, n_layers=2, n_heads=4)
torch.manual_seed(0)
model = gpt2(SMALL).eval()


def write(model, beginning, n=40, seed=1):
    ids = torch.tensor([[id_of[token] for token in [START, *toyland.split(beginning)]]])
    out = generate(model, ids, n, Sampler(), stop_tokens=[id_of[END]], generator=torch.Generator().manual_seed(seed))
    return "".join(vocabulary[i] for i in out[0].tolist() if vocabulary[i] not in (START, END))


print(write(model, "Once there was"))

# %% [markdown]
# Noise: it has never seen a story. But everything is in place. The printout of the model is its table of contents:

# %% tags=["nbval-check-output"]
print(model)

# %% [markdown]
# Read it from the outside in.
#
# - `embed`: a table with a vector of $C = 128$ numbers for each token, and a second table with a vector for each position. Their sum is $x$, of shape $(B, T, C)$: $B$ texts, $T$ tokens each.
# - `blocks`: each block reads $x$ and *adds* something to it, twice. $x$ runs through the whole model and is never replaced. It is called the **residual stream**.
# - `norm` and `lm_head`: at the end a score (logit) for each of the $V$ tokens, at every position.
#
# Lesson 04 built `attn`. Four things are new: the norms, the MLP, the way they are wired, and how the numbers begin. We take them one by one.
#
# ## Keeping numbers at one scale
#
# Why is there a norm at all? Stack twenty layers that multiply by random matrices, and watch the size of the numbers:

# %%
torch.manual_seed(0)
sizes = {}
for gain in (0.8, 1.0, 1.25):
    x = torch.randn(64, 96)
    sizes[gain] = [x.std().item()]
    for _ in range(20):
        x = x @ (gain * torch.randn(96, 96) / 96**0.5)
        sizes[gain].append(x.std().item())
fig, axis = figure(height=2.6)
for gain, line in sizes.items():
    axis.semilogy(line, color=COLORS["control"] if gain == 1.0 else COLORS["bad"])
    axis.text(20.2, line[-1], f"gain {gain}", va="center", fontsize=9)
axis.set(
    xlabel="layer", ylabel="standard deviation", title="A small error in scale grows with every layer", xlim=(0, 23)
)
axis.set_xticks(range(0, 21, 5))
show(
    fig,
    alt=f"Standard deviation of the numbers after each of 20 random layers: with a gain of 0.8 it falls to "
    f"{sizes[0.8][-1]:.3f}, with 1.25 it grows to {sizes[1.25][-1]:.0f}.",
)
print({gain: round(line[-1], 3) for gain, line in sizes.items()})

# %% [markdown]
# A gain a fifth too small or too large, and after twenty layers the numbers are a hundred times off. During training the gains move all the time. **Layer normalisation** repairs the scale before each part: for every vector $x$ of $C$ numbers,
#
# $$\text{LayerNorm}(x) = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \cdot w + b$$
#
# $\mu$ is the mean of the vector's own $C$ numbers and $\sigma^2$ their variance; $\epsilon$ is tiny and keeps us from dividing by 0. $w$ and $b$ (both of length $C$) are learned: they may undo the normalising where that is useful. By hand: [1, 3] has the mean 2 and the variance 1, so it becomes [−1, 1].
#
# ### Exercise 5.1 · layer_norm · ●○○ · 8 min
#
# Write it for `x` of any shape (…, C). The variance is the mean of the squared distances (divided by $C$). `weight` and `bias` may be None. It must match torch's own to float precision, and so must its gradient. Useful: `x.mean(-1, keepdim=True)`, `.square()`, `torch.sqrt` or `torch.rsqrt` (1 / root).

# %% tags=["exercise"]
from llmkit.layers.norms import layer_norm

# %%
layer_norm = check(layer_norm)

# %%
x = torch.randn(2, 5, 96) * 7 + 3
norm = nn.LayerNorm(96)
print(f"before: mean {x.mean():.2f}, std {x.std():.2f}")
print(f"after:  mean {layer_norm(x, None, None).mean():.2f}, std {layer_norm(x, None, None).std():.2f}")
difference = (layer_norm(x, norm.weight, norm.bias) - norm(x)).abs().max()
assert difference < 1e-5  # torch's fused kernel, which the models use, computes the same

# %% [markdown]
# ## The other half of a block
#
# Attention moves information *between* positions. What a position then does with it is the work of the **MLP**: widen to four times $C$, bend, narrow again. Every position by itself, with the same weights.

# %% tags=["show"]
from llmkit.layers.mlp import MLP

# %% [markdown]
# (`Dropout` is for training: it sets a random share of the numbers to 0 and raises the others to make up for it, so that nothing comes to rely on one other number alone. At 0, as here, it does nothing. GPT-1 and BERT were trained with a tenth; PaLM and others that see each text only once go without.)
#
# Without the bend the two matrices would be one. GPT-2 bends with **GELU**: $x \cdot \Phi(x)$, where $\Phi(x)$ is the probability that a standard normal number is below $x$. Large numbers pass, negative ones are pulled to 0, and the corner is round. In 2019 $\Phi$ was slow to compute, so GPT-2 was trained with an approximation:
#
# $$\text{GELU}(x) \approx \frac{x}{2} \left(1 + \tanh\!\left(\sqrt{2/\pi}\,\left(x + 0.044715\,x^3\right)\right)\right)$$
#
# ### Exercise 5.2 · gelu_tanh · ●○○ · 5 min
#
# Write exactly this approximation, for tensors of any shape. Whoever loads GPT-2's weights has to use the formula they were trained with. Useful: `torch.tanh`, `math.sqrt`, `math.pi`.

# %% tags=["exercise"]
from llmkit.layers.mlp import gelu_tanh

# %%
gelu_tanh = check(gelu_tanh)

# %%
x = torch.linspace(-4, 4, 401)
fig, axes = figure(2, height=2.6)
axes[0].plot(x, F.relu(x), color=COLORS["control"])
axes[0].plot(x, gelu_tanh(x), color=COLORS["model"])
axes[0].text(-3.9, 1.2, "GELU (blue)\nReLU (grey)", fontsize=9)
axes[0].set(xlabel="x", title="GELU: a round corner")
axes[1].plot(x, (gelu_tanh(x) - F.gelu(x)) * 1e4, color=COLORS["bad"])
axes[1].set(xlabel="x", ylabel="difference · 10⁴", title="tanh formula − exact")
worst = (gelu_tanh(x) - F.gelu(x)).abs().max().item()
show(
    fig,
    alt=f"Left: GELU follows ReLU but dips slightly below zero for small negative numbers. Right: the tanh formula differs "
    f"from the exact GELU by at most {worst:.5f}.",
)
print(f"largest difference: {worst:.5f}")
assert 1e-4 < worst < 1e-3

# %% [markdown]
# Less than a thousandth. It would change no word you notice, and it is enough to fail a comparison with the published model: a trap that we shall meet again when we load weights.
#
# ## The block, and where the norm goes
#
# Here is the block as GPT-2 has it. (Pass over `rotary` and `cache`: GPT-2 does not use the first, and the second only speeds up writing.)

# %%
from llmkit.layers.blocks import Rotary

# %% tags=["show"]
from llmkit.layers.blocks import PreNormBlock

# %% [markdown]
# Two lines. Each branch reads a *normalised copy* of $x$ and adds its answer to $x$ itself. The Transformer of 2017 did it the other way round: it normalised the sum, so that $x$ itself passes through every norm (`PostNormBlock`). Both look reasonable. GPT-2 moved the norm; why?
#
# Predict before you run the next cell: twelve blocks, trained on letters for 45 steps at a learning rate that suits a deep model. Which of the two learns faster, and by how much?

# %%
from functools import partial

from llmkit.layers.attention import MultiHeadAttention
from llmkit.layers.blocks import PostNormBlock
from llmkit.layers.heads import CausalLM
from llmkit.layers.transformer import Embedding, Transformer, init_weights
from llmkit.training.loop import train
from llmkit.viz.residual import gradient_norms

letters = sorted(set("".join(corpus.train[:200])))
letter_ids = torch.tensor([letters.index(letter) for letter in "".join(corpus.train[:200])])


def windows(length=32, batch=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    while True:
        begins = torch.randint(len(letter_ids) - length, (batch,), generator=generator)
        yield torch.stack([letter_ids[b : b + length] for b in begins]), None


def stack(block, n_layers, C=48):
    """A decoder of any block, from the same parts as GPT-2."""
    norm = partial(nn.LayerNorm, C)
    blocks = [block(MultiHeadAttention(C, 4, bias=True), MLP(C, 4 * C), norm) for _ in range(n_layers)]
    embed = Embedding(len(letters), C, nn.Embedding(32, C))
    model = CausalLM(Transformer(embed, blocks, norm() if block is PreNormBlock else None), None, tie=True)
    init_weights(model, n_layers, std=0.1)
    return model


depth = {}
for name, block in (("norm first", PreNormBlock), ("norm last", PostNormBlock)):
    torch.manual_seed(0)
    deep = stack(block, 12)
    ids, _ = next(windows())
    F.cross_entropy(deep(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    gradients = gradient_norms(deep)
    depth[name] = train(deep, windows(), 45, lr=5e-3, warmup=1, progress=False).losses
    print(
        f"{name}: last ten losses {sum(depth[name][-10:]) / 10:.2f}; at the start the largest gradient of a block "
        f"is {max(gradients) / min(gradients):.1f} times the smallest"
    )
counts = torch.bincount(letter_ids).double()
unigram = -(counts / counts.sum() * (counts / counts.sum()).clamp(min=1e-12).log()).sum().item()
fig, axis = figure(height=2.6)
draw_losses(
    axis,
    {name: (range(1, 46), smooth(losses, 0.8)) for name, losses in depth.items()},
    baselines={"letter frequencies": unigram},
    colors={"norm first": COLORS["good"], "norm last": COLORS["bad"]},
)
axis.set(
    xlabel="step",
    ylabel="nats a letter",
    xlim=(0, 62),
    title="Twelve blocks with the norm last learn letter counts, no more",
)
ends = {name: sum(losses[-10:]) / 10 for name, losses in depth.items()}
show(
    fig,
    alt=f"Loss over 45 steps of two twelve-block models: with the norm first it reaches {ends['norm first']:.2f} nats a letter, "
    f"with the norm last {ends['norm last']:.2f}, which is what letter frequencies alone give.",
)
assert ends["norm first"] < ends["norm last"] - 0.2 and ends["norm last"] > unigram - 0.1

# %% [markdown]
# With the norm last the model gets no further in this time than how often each letter occurs. Every block's output goes through all the norms above it, so a step that is good for one block changes what all the later ones see. With the norm first there is an open road from the loss to every block: the plain sum. The 2017 model got round this with a long warm-up and fewer blocks.
#
# (One would like to see it coming. The gradients at the start do not tell: look at the ratios printed above. It is the *steps* that do the damage.)
#
# ## How the numbers begin
#
# All of GPT-2's matrices begin as random numbers with a standard deviation of 0.02, with one exception. Each block adds to the stream twice, $2L$ additions for $L$ blocks. Added random numbers add their *variances*, so the stream grows with $\sqrt{2L}$. GPT-2 therefore begins the last matrix of each branch smaller, by $1/\sqrt{2L}$:

# %% tags=["show"]
from llmkit.layers.transformer import init_weights

# %%
from llmkit.viz.residual import residual_norms

grown = {}
for name, scaled in (("all alike", False), ("last ones / √2L", True)):
    torch.manual_seed(0)
    deep = stack(PreNormBlock, 24)
    if not scaled:
        for block in deep.transformer.blocks:
            for last in (block.attn.o_proj, block.mlp.down_proj):
                nn.init.normal_(last.weight, std=0.1)
    norms = residual_norms(deep, next(windows())[0])
    grown[name] = norms[-1] / norms[0]
    print(f"{name:16} the stream grows {grown[name]:.1f} times over 24 blocks")
assert grown["last ones / √2L"] < grown["all alike"] / 3

# %% [markdown]
# (The small stack here uses 0.1 instead of 0.02, because its matrices are smaller.)
#
# If everything is small at the start, all logits are nearly equal, and the model considers every token equally likely. That gives the first thing to look at in any training run.
#
# ### Exercise 5.3 · the first loss · ●○○ · 2 min
#
# GPT-2 has $V = 50257$ tokens. What should its loss be before the first step, in nats? A run that starts anywhere else has a bug in the loss or in the initialisation. (One decimal is enough.)

# %%
first_loss = None
# BEGIN SOLUTION
first_loss = math.log(50257)
# END SOLUTION
first_loss = check(first_loss, "5.3")

# %%
ids = torch.tensor([story[:60] for story in validation_ids[:16] if len(story) > 60])
with torch.no_grad():
    logits = model(ids)  # (B, T, V)
start_loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item()
print(f"our model: {start_loss:.2f} nats; ln {len(vocabulary)} = {math.log(len(vocabulary)):.2f}")
assert abs(start_loss - math.log(len(vocabulary))) < 0.2

# %% [markdown]
# ## The loss, and the commonest bug
#
# A text of $T$ tokens is $T - 1$ exercises at once: from the first token guess the second, from the first two the third, and so on. The causal mask makes it possible to do them all in one pass. So `logits[:, t]`, which has seen the tokens up to $t$, must be compared with token $t + 1$.
#
# Texts of different lengths are put into one rectangle by **padding** the short ones on the right. `attention_mask` says where real tokens are. Padding must not be counted.
#
# ### Exercise 5.4 · next_token_loss · ●●○ · 8 min · find the bug
#
# The function below runs, its loss falls, and a model trained with it is worthless. Mend it. The result is the mean over all tokens that are predicted and are not padding, in nats; `attention_mask` may be None. `F.cross_entropy(logits, targets, ignore_index=-100)` leaves out targets of −100.

# %%
from llmkit.training.losses import IGNORE, cross_entropy  # IGNORE is -100; cross_entropy leaves such targets out

# %% tags=["exercise"]
from llmkit.training.losses import next_token_loss

# %%
next_token_loss = check(next_token_loss)

# %% [markdown]
# This is what the bug does. Two models, 40 steps each on the same stories: one with the right loss, one whose position $t$ is asked for token $t$.

# %%
from llmkit.data.batches import document_batches, pad


def copying_loss(model, ids, attention_mask):
    logits = model(ids)
    targets = ids.masked_fill(~attention_mask, -100)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


tiny = GPT2Config(vocab_size=len(vocabulary), max_len=320, d_model=32, n_layers=1, n_heads=2)
broken = {}
for name, loss in (("right", None), ("not shifted", copying_loss)):
    torch.manual_seed(0)
    victim = gpt2(tiny)
    batches = document_batches(train_ids, 8, seed=0, max_len=64)
    history = train(victim, batches, 40, lr=1e-2, loss=loss, progress=False)
    broken[name] = history.losses
    print(f"{name:12} last loss {history.losses[-1]:.2f}: {write(victim, 'Once there was', n=12)}")
assert broken["not shifted"][-1] < broken["right"][-1]

# %% [markdown]
# The smaller loss belongs to the broken model. It has learned to repeat what it sees. **A loss that is too good is a bug until proven otherwise**; and since we know this world's entropy, we have a hard limit to compare with. Real text has none, which is why a written sample belongs beside every loss.
#
# ## Counting GPT-2
#
# A model card says "124M parameters". Where are they?
#
# ### Exercise 5.5 · count_params · ●●○ · 12 min
#
# Write `count_params(config)`. A `Linear` from $a$ to $b$ numbers has $a \cdot b$ weights and $b$ biases. A LayerNorm has a weight and a bias of length $C$. Each block has two norms, the four projections of attention (q, k, v and the output, each from $C$ to $C$) and the MLP's two. The output matrix *is* the token embedding (they are **tied**), so it is counted once. `config.d_ff` may be None, which means $4C$. For the default config the result must be 124,439,808.

# %% tags=["exercise"]
from llmkit.models.gpt2 import count_params

# %%
count_params = check(count_params)

# %% [markdown]
# The four published sizes, once by your arithmetic and once by building the model without memory (torch's `meta` device has shapes but no numbers):

# %% tags=["nbval-check-output"]
from llmkit.models.gpt2 import SIZES

for name, config in SIZES.items():
    with torch.device("meta"):
        built = gpt2(config).n_params()
    assert built == count_params(config)
    C, L = config.d_model, config.n_layers
    embedding = config.vocab_size * C
    print(f"{name:12} {L:2} blocks of width {C:4}: {built:13,} parameters, {embedding / built:4.0%} in the token table")

# %% [markdown]
# Almost a third of the smallest GPT-2 is a table of words. Tying the output to it saves another 38,597,376. There is a rule of thumb in the numbers: a block has about $12 C^2$ parameters, four for attention and eight for the MLP.
#
# ## The step size
#
# Training repeats one step: take a batch, compute the gradient, move every parameter a little. How far is the **learning rate**. The optimiser is AdamW (llmkit/training/optim.py, lesson 13 takes it apart): it moves each parameter by its average gradient divided by the gradient's usual size, so the rate is nearly the distance itself.
#
# In the first steps these averages know nothing yet, so the rate begins small and rises: the **warm-up**. Towards the end it falls, so that the parameters settle.
#
# ### Exercise 5.6 · warmup_cosine · ●●○ · 8 min
#
# Write `warmup_cosine(step, n_steps, peak, warmup, floor)`. Steps count from 0. Before step `warmup` the rate is a straight line: peak · (step + 1) / (warmup + 1). From there it is half a cosine from `peak` at step `warmup` down to `floor * peak` at step `n_steps`, and it stays there.

# %% tags=["exercise"]
from llmkit.training.schedules import warmup_cosine

# %%
warmup_cosine = check(warmup_cosine)

# %%
fig, axis = figure(height=2.2)
axis.plot([warmup_cosine(s, 520, 0.05, 26) for s in range(540)], color=COLORS["model"])
axis.set(
    xlabel="step", ylabel="learning rate", title="The rate of the run below: up in 26 steps, down in the other 494"
)
show(
    fig,
    alt="The learning rate rises in a straight line to 0.05 at step 26 and falls along half a cosine to 0.005 at step 520.",
)

# %% [markdown]
# ## The loop
#
# Everything is there. The loop that joins it is thirty lines; read it once. (`History` collects the losses, `Batch` is a pair of ids and mask, `_evaluate` calls your function on the model in evaluation mode. `clip_gradients` shortens a gradient that is longer than `max_norm` and returns the length it had; `decay_groups` says which parameters are pulled a little towards 0 at each step, the `weight_decay`. Lesson 13 has both.)

# %%
from llmkit.training.loop import Batch, History, _evaluate, language_model_loss

# %% tags=["show"]
from llmkit.training.loop import train

# %% [markdown]
# ## The experiment
#
# How much can be gained is known exactly. A model that only knows how often each word occurs (unigram) is the zero of our scale; the world's own entropy is 100%. The best counting model is in between. All three are measured on the same stories, whole, in nats a story.

# %%
from llmkit.models.ngram import kneser_ney_ngram

documents = [tokens_of(text)[1:] for text in corpus.train]
held_out = [tokens_of(text)[1:] for text in corpus.validation]
perfect = [toyland.VILLAGE.word_log_probs(text) for text in corpus.validation]  # of the world itself, token by token
exact = -sum(map(sum, perfect)) / len(held_out)
baselines = {}
for n in (1, 5):
    counting = kneser_ney_ngram(documents, n, len(vocabulary))
    baselines[n] = -sum(sum(counting.log_probs(document)) for document in held_out) / len(held_out)


def closed(nats):
    """The share of the way from the unigram model to the exact entropy."""
    return (baselines[1] - nats) / (baselines[1] - exact)


print(f"unigram                {baselines[1]:6.1f} nats a story    0%")
print(f"best n-gram (KN, n=5)  {baselines[5]:6.1f}                {closed(baselines[5]):4.0%}")
print(f"the world itself       {exact:6.1f}              100%")

# %% [markdown]
# Three departures from GPT-2's recipe, all because our model is small and our time short. The token table begins with a standard deviation of 0.2 instead of 0.02: the output matrix is this table, and what a logit can reach is the length of its rows times the length of the normalised $x$, $0.02 \cdot \sqrt{768} \cdot \sqrt{768} \approx 15$ in GPT-2 but only 2.6 at width 128. The position table begins with the waves of lesson 03, at the same size: random numbers of 0.02 could hardly be seen beside such tokens. (It is learned all the same; in a trial it brought the copying that we shall see below about a hundred steps earlier.) And the matrices inside the blocks are moved by **Muon** instead of AdamW, an optimiser of 2024 that lesson 14 takes apart; it needs fewer steps.
#
# Write down a guess: after half a minute of training, what share of the way will the small GPT-2 have gone? (0.65 for 65%.)

# %%
guess = None

# %%
from llmkit.layers.positions import sinusoidal
from llmkit.training.loop import language_model_loss
from llmkit.training.muon import Muon
from llmkit.training.precision import bf16_is_fast

STEPS, BATCH, RATE = 520, 8, 0.05


def quick_loss(model, ids, attention_mask):
    """The same loss; where this processor can, products are taken in 16 bits, which saves a quarter of the time."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16_is_fast(torch.device("cpu"))):
        return language_model_loss(model, ids, attention_mask)


@torch.no_grad()
def nats_per_story(model, documents=validation_ids):
    total, ordered = 0.0, sorted(documents, key=len)
    for first in range(0, len(ordered), 16):
        ids, mask = pad(ordered[first : first + 16])
        log_probs = model(ids)[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        total -= log_probs[mask[:, 1:]].sum().item()
    return total / len(documents)


pools = toyland.VILLAGE.pools
NAMES = {*pools["girls"].words, *pools["boys"].words, *pools["towns"].words}
THINGS = {*pools["things"].words, *pools["animals"].words}


@torch.no_grad()
def gap_by_kind(model):
    """kind of token -> (how many, nats above the perfect model's in all)."""
    gaps = {}
    for text, ids, world in zip(corpus.validation[:40], validation_ids, perfect, strict=False):
        row = torch.tensor([ids])
        ours = model(row)[0, :-1].log_softmax(-1).gather(-1, row[0, 1:, None]).squeeze(-1).tolist()
        seen = set()
        for token, mine, best in zip(tokens_of(text)[1:], ours, world, strict=True):
            word = token.strip()
            kind = "names" if word in NAMES else "things" if word in THINGS else "all other tokens"
            if kind != "all other tokens":
                kind += ", repeated" if word in seen else ", new"
            seen.add(word)
            count, gap = gaps.get(kind, (0, 0.0))
            gaps[kind] = count + 1, gap + best - mine
    return gaps


samples, kinds = [], []


def look(model):
    samples.append(write(model, "Once there was", n=45))
    kinds.append(gap_by_kind(model))
    above = sum(gap for _, gap in kinds[-1].values())
    return (above - sum(map(sum, perfect[:40]))) / 40  # nats a story


torch.manual_seed(0)
model = gpt2(SMALL)
nn.init.normal_(model.transformer.embed.tokens.weight, std=0.2)
with torch.no_grad():
    model.transformer.embed.positions.weight.copy_(0.2 * sinusoidal(torch.arange(SMALL.max_len), SMALL.d_model))
history = train(
    model, document_batches(train_ids, BATCH, seed=0, multiple_of=8), STEPS, lr=RATE, loss=quick_loss,
    optimizer=Muon(model, RATE, adamw_lr=2e-2), evaluate=look, evaluate_at=range(0, STEPS, STEPS // 8 + 1),
    progress=False,
)  # fmt: skip
reached = nats_per_story(model)
print(f"{model.n_params():,} parameters, {STEPS} steps: {reached:.1f} nats a story, {closed(reached):.0%} of the way")
print(
    f"gradient norm: {history.gradient_norms[0]:.1f} at the start, {sum(history.gradient_norms[-20:]) / 20:.2f} at the end"
)

# %%
fig, axis = figure(height=3.4)
per_story = sum(len(ids) - 1 for ids in validation_ids) / len(validation_ids)
steps = list(range(1, STEPS + 1))
draw_losses(
    axis,
    {"": (steps, smooth(history.losses, 0.95))},
    entropy=exact / per_story,
    baselines={"unigram": baselines[1] / per_story, "best n-gram": baselines[5] / per_story},
    colors={"": COLORS["model"]},
)
if guess is not None:
    axis.axhline((baselines[1] - guess * (baselines[1] - exact)) / per_story, color=COLORS["guess"], linewidth=1)
    axis.text(
        2, (baselines[1] - guess * (baselines[1] - exact)) / per_story, "your guess", color=COLORS["guess"], va="bottom"
    )
axis.text(STEPS / 4, 4.9, "GPT-2, training loss", color=COLORS["model"], fontsize=9)
axis.set(xlabel="step", ylabel="nats a token", xlim=(0, STEPS * 1.22), ylim=(0, 7))
axis.set_title(f"Past the n-grams, {closed(reached):.0%} of the way to the entropy")
show(
    fig,
    alt=f"Training loss over {STEPS} steps: it starts at {history.losses[0]:.1f} nats a token, crosses the best n-gram's line at "
    f"{baselines[5] / per_story:.2f} and ends at {sum(history.losses[-20:]) / 20:.2f}; the entropy is {exact / per_story:.2f}.",
)
assert closed(reached) > 0.92  # other processors round differently, and a run moves by a point

# %% [markdown]
# What it wrote on the way, each time after "Once there was". (The untrained model is worse than the unigram: with the larger token table it is *sure*, and what it is sure of is to say the last token again. By the rule of exercise 5.3 this start is a bad one; the run pays for it with its first steps. The shares here are measured on forty stories, the one above on all that were kept aside.)

# %%
for i in (0, 1, 2, 4, 8):
    step, nats = history.evaluations[i]
    print(f"step {step:3}, {closed(nats):5.0%}: {samples[i]}\n")

# %% [markdown]
# ## When it learned what
#
# The same question as in lesson 01: where is what is left? Tokens are sorted into names, things and all others, and a name or a thing counts as *new* the first time it stands in its story and as *repeated* after that. `gap_by_kind` has looked at this before and during training: how many nats more than the perfect model does ours pay, for a token of each kind?

# %%
steps = [step for step, _ in history.evaluations]
lines = {kind: [gaps[kind][1] / gaps[kind][0] for gaps in kinds] for kind in kinds[0]}
colors = {"names, repeated": COLORS["bad"], "things, repeated": COLORS["model"], "all other tokens": COLORS["control"]}
fig, axis = figure(height=3.2)
for kind, color in colors.items():
    axis.plot(steps[1:], lines[kind][1:], "o-", color=color, markersize=4)
    axis.text(steps[-1] + 8, lines[kind][-1], kind, color=color, va="center", fontsize=9)
axis.set(xlabel="step", ylabel="nats above the perfect model", xlim=(0, STEPS * 1.3), ylim=(0, None))
axis.set_title("Grammar first; saying the right name again comes late")
late = lines["names, repeated"]
show(
    fig,
    alt=f"Nats above the perfect model by step: all other tokens fall at once to {lines['all other tokens'][4]:.2f} at half time; "
    f"repeated names cost {late[4]:.1f} at half time and {late[-1]:.1f} at the end.",
)
count = {kind: n for kind, (n, _) in kinds[-1].items()}
total = sum(gap for _, gap in kinds[-1].values())
for kind, (n, gap) in sorted(kinds[-1].items(), key=lambda item: -item[1][1]):
    print(
        f"{kind:18} {n:5} tokens, {gap / n:5.2f} nats each above the perfect model: {gap / total:4.0%} of what is left"
    )
others = lines["all other tokens"]
fallen = {kind: (line[1] - line[4]) / (line[1] - line[-1]) for kind, line in lines.items() if kind in colors}
print({kind: f"{share:.0%} of its fall after the first look came in the first half" for kind, share in fallen.items()})
assert fallen["all other tokens"] > fallen["names, repeated"] + 0.15

# %% [markdown]
# Two things are learned at two times. Which word follows which phrase, what may happen in a story: that falls at once. To say a name or a thing *again*, the model has to find it among a hundred tokens and copy it. Nothing in the counts of words helps with that; a head has to learn to look for names, and another to write down what it found, as with the induction heads of lesson 04. So it comes later, and at the end it is not done: only one token in ten is a repeated name or thing, but about half of what is left lies there. (The entropy itself is reached by nobody in half a minute. In the whole of toyland, with its three thousand names, the same run gets much less far, because most names are met only a few times.)
#
# ## Looking inside: what would it say after each block?
#
# The stream is never replaced, only added to, so we may read it early: put the final norm and the output matrix on the stream after each block. This is the **logit lens**.

# %%
from llmkit.viz.residual import logit_lens

text = "Once there was a quiet painter named Mia. Her house stood in Ashby, next to the"
ids = torch.tensor([[id_of[token] for token in [START, *toyland.split(text)]]])
layers = logit_lens(model, ids)[:, 0, -1].softmax(-1)  # (L + 1, V)
print(f"after “… {text[-30:]}”")
for depth, probs in enumerate(layers):
    top = probs.topk(4)
    words = ", ".join(
        f"{vocabulary[i].strip()} {p:.2f}" for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)
    )
    print(f"{'embedding' if depth == 0 else f'block {depth}':10} {words}")
truth = list(toyland.VILLAGE.next_word(text).items())[:4]
print("the world  " + ", ".join(f"{word.strip()} {p:.2f}" for word, p in truth))

# %% [markdown]
# Read downwards. Before the first block the stream holds little more than the word "the" itself; after the first block the guesses are the right *kind* of word already, and at the end the probabilities are nearly as even as the world's own.
#
# ## Break it
#
# Which parts are needed? A small model on letters, 150 steps, with one part taken out each time, measured on letters that it has not read.


# %%
class NoResidual(PreNormBlock):
    def forward(self, x, mask=None, rotary=None, cache=None):
        return self.mlp(self.mlp_norm(self.attn(self.attn_norm(x), mask, rotary, cache)))


class NoAttention(PreNormBlock):
    def forward(self, x, mask=None, rotary=None, cache=None):
        return x + self.mlp(self.mlp_norm(x))


class NoMLP(PreNormBlock):
    def forward(self, x, mask=None, rotary=None, cache=None):
        return x + self.attn(self.attn_norm(x), mask, rotary, cache)


def assemble(block=PreNormBlock, C=64, positions=True):
    norm = partial(nn.LayerNorm, C)
    blocks = [block(MultiHeadAttention(C, 2, bias=True), MLP(C, 4 * C), norm) for _ in range(2)]
    embed = Embedding(len(letters), C, nn.Embedding(64, C) if positions else None)
    model = CausalLM(Transformer(embed, blocks, norm()), None, tie=True)
    init_weights(model, 2, std=0.1)
    return model


unread = "".join(corpus.validation)[: 64 * 200]
unread = torch.tensor([letters.index(letter) for letter in unread]).view(200, 64)
variants = {
    "whole": {},
    "no positions": {"positions": False},
    "no MLP": {"block": NoMLP},
    "no attention": {"block": NoAttention},
    "no residual": {"block": NoResidual},
}
broken = {}
for name, options in variants.items():
    torch.manual_seed(0)
    victim = assemble(**options)
    train(victim, windows(length=64), 150, lr=5e-3, progress=False)
    with torch.no_grad():
        broken[name] = next_token_loss(victim(unread), unread).item()
    print(f"{name:14} {broken[name]:.2f} nats a letter")

# %% [markdown]
# Without the residual road the model is back at letter frequencies. Without the MLP or without attention it is worse than whole, but it learns.
#
# (One seed, a short run: large differences mean something, small ones do not. The next lesson repeats such comparisons with several seeds, to see how large the noise is.)
#
# ## Real weights
#
# Your parts are GPT-2's parts, so GPT-2's weights fit. `llmkit.from_pretrained("openai-community/gpt2")` downloads config and weights from the Hub and fills this very class. Two things have to be translated, and the table that does it (`weights` in llmkit/models/gpt2.py) is worth a look: OpenAI stored q, k and v as one matrix, and stored every matrix transposed. One of them, `c_proj` of attention, is square: forget to transpose it and *nothing complains*; the model just talks nonsense.
#
# llmkit's tests write random GPT-2s with transformers, load them here, and compare all logits: they agree to about one part in a million. Here is the same round trip in small, saved and read back:

# %%
import tempfile

import llmkit

with tempfile.TemporaryDirectory() as folder:
    llmkit.save_pretrained(model, folder)
    again, _ = llmkit.from_pretrained(folder)
for (name, ours), (_, theirs) in zip(model.named_parameters(), again.named_parameters(), strict=True):
    assert torch.equal(ours, theirs), name
print("saved, read back: the same weights to the last bit")

# %% [markdown]
# ## On a GPU
#
# nanoGPT's recipe for its small GPU model: 6 blocks, 6 heads, width 384, context 256, single characters. Here on the letters of toyland instead of Shakespeare. Runs by itself where a GPU is found.


# %%
@gpu_section(
    "train a character model of 6 blocks and width 384 (nanoGPT's small recipe) on toyland",
    full={"n_steps": 2000, "batch": 64, "length": 256, "C": 384, "n_layers": 6},
    smoke={"n_steps": 2, "batch": 2, "length": 16, "C": 24, "n_layers": 1},
)
def character_model(device, n_steps, batch, length, C, n_layers):
    text = "\n".join(corpus.train)
    letters = sorted(set(text))
    data = torch.tensor([letters.index(letter) for letter in text])
    generator = torch.Generator().manual_seed(0)

    def windows():
        while True:
            begins = torch.randint(len(data) - length, (batch,), generator=generator)
            yield torch.stack([data[b : b + length] for b in begins]).to(device), None

    torch.manual_seed(0)
    big = gpt2(GPT2Config(len(letters), length, C, n_layers, n_heads=6)).to(device)
    losses = train(big, windows(), n_steps, lr=1e-3, progress=False).losses
    print(f"{big.n_params():,} parameters: {losses[0]:.2f} to {losses[-1]:.2f} nats a letter in {n_steps} steps")
    return losses


# %% [markdown]
# ## Mistakes people make
#
# | mistake | how it shows |
# |---|---|
# | Position $t$ asked for token $t$ | the loss falls far below the entropy; the text repeats itself |
# | Padding counted in the loss | a fine loss that gets finer the more padding a batch has |
# | First loss far from ln V | wrong initialisation, or logits that are probabilities already |
# | `loss.backward()` without `zero_grad()` | gradients add up from step to step, the norm grows, then the loss jumps |
# | Exact GELU under GPT-2's weights | nothing visible; the comparison with the published model fails in the fourth digit |
# | A square matrix not transposed on loading | no error at all, and nonsense |
#
# ## Where the real systems do it
#
# - **nanoGPT** `model.py`: `Block` is the `PreNormBlock` of this lesson, `CausalSelfAttention` has q, k and v in one matrix; `configure_optimizers` splits matrices and vectors as `decay_groups` does.
# - **transformers** `models/gpt2/modeling_gpt2.py`: `GPT2Block`; `Conv1D` is the transposed Linear; `NewGELUActivation` is your 5.2.
# - **llm.c** trains the same model in plain C: `layernorm_forward`, `gelu_forward`.
# - Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.3: norm first, the residual scale. Xiong et al. 2020, "On layer normalization in the transformer architecture": why norm first trains without warm-up.
# - Elhage et al. 2021, "A mathematical framework for transformer circuits": the residual stream as the place where parts talk.
#
# ## What llmkit gained
#
# | file | what |
# |---|---|
# | `llmkit/layers/norms.py`, `mlp.py` | `layer_norm`, `gelu_tanh`, `MLP` |
# | `llmkit/layers/blocks.py`, `transformer.py`, `heads.py` | the block, the stack, the output |
# | `llmkit/models/gpt2.py` | config, builder, table of weights, `count_params` |
# | `llmkit/training/` | `next_token_loss`, AdamW, `warmup_cosine`, clipping, `train` |
# | `llmkit/data/batches.py` | padding, batches of whole documents |
# | `llmkit/checkpoints/` | `from_pretrained`, `save_pretrained` |
# | `llmkit/viz/training.py`, `residual.py` | loss curves, the logit lens |
#
# Three questions to check yourself:
#
# <details><summary>A colleague's model of 32,000 tokens starts at a loss of 7.0. What do you say?</summary>
#
# ln 32000 is 10.4. An untrained model cannot know more than that, so either the loss leaks the answer (no shift), or padding is counted, or the weights were not fresh.
# </details>
#
# <details><summary>Why may the last matrix of each branch begin smaller, but not all matrices?</summary>
#
# Only these write into the stream, and their contributions add up. The others are followed by a norm or a softmax inside the branch; making them smaller would not help the stream.
# </details>
#
# <details><summary>Why does the model need the position table, although the causal mask already treats early and late positions differently?</summary>
#
# The mask says which tokens may be seen, not in which order they stand. (In the table above, after 150 steps on letters, leaving it out cost nothing that could be measured. That is no proof that it never does: lesson 03 has the longer answer.)
# </details>

# %%
progress()

# %% [markdown]
# **Next**: 06_llama_palm. Between GPT-2 and LLaMA nearly every part of this block was exchanged. Which of the changes matter?
