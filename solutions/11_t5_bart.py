# %% [markdown]
# # 11 · T5 and BART
#
# **You will** join an encoder and a decoder, damage texts in the ways that T5 and BART were taught to repair, find a trap in T5's reference code by measuring it, and compare what three kinds of pretraining are worth for a small task.
#
# **Before** you start: lessons 04 (attention, masks), 07 (generation with a cache) and 09 (hiding words). Exercises name the calls that they need.
#
# **Time** about 90 minutes: six exercises, 24 more for two that are optional. All cells together run for about half a minute.

# %% tags=["setup"]
import math
import random
from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmkit.course import check, gpu_section, hint, progress, start
from llmkit.data import toyland
from llmkit.viz import COLORS, figure, show

start("11_t5_bart", solved=True)
threads = torch.get_num_threads()
torch.set_num_threads(1)  # the fastest for models as small as ours

# %% [markdown]
# ## A gap of unknown size
#
# The world of this lesson is a corner of toyland: two people, one thing, and somebody has it in the end. As in lesson 07, the world can say exactly how probable a text is. So let us ask it for the words that may stand in a gap.

# %% tags=["nbval-check-output"]
from llmkit.data.toyland.automaton import World
from llmkit.data.toyland.words import Pool, split


def tale(m):
    return [(1, "<somebody_hero> met <somebody_friend>. <has><turn> <close>")]


def has(m):
    owners = ("hero", "friend")
    return [(1, f"{{{owner}}} had <a look=looks> <thing=things>.", {"holder": owner, "n": 0}) for owner in owners]


def turn(m):
    return [(1, ""), (4, " <give>"), (2, " <hide>")]


shortened = ("girls", "boys", "things", "looks", "hiding", "adverbs", "dayparts")
pools = toyland.STORIES.pools
pools = pools | {name: Pool(pools[name].words[:8], [1.0] * len(pools[name].words[:8])) for name in shortened}
rules = {"tale": tale, "has": has, "turn": turn, "then": lambda m: [(1, "")], "last": lambda m: [(1, "")]}
world = World(toyland.STORIES.rules | rules, pools, start="tale")

story = "Mia met Max. Mia had a red key. When nobody was looking, Mia put the key ___. The key is still ___, and only Mia knows."
fits = {}
for place in pools["hiding"].words:
    fits[place] = math.exp(world.log_prob(story.replace("___", place)))
for place, p in fits.items():
    print(f"{p / sum(fits.values()):6.1%}  {len(place.split())} words  {place}")

# %% [markdown]
# Eight answers, all equally good, and they are not equally long. BERT (lesson 09) cannot even be asked this question: it has one place for each hidden token, so whoever asks must say beforehand how many tokens are missing. GPT-2 can write as many as it likes, but it reads from left to right, and does not see "and only Mia knows" when it fills the gap.
#
# What is wanted is a model that **reads a damaged text on both sides, and then writes an answer as long as it needs**. That takes two halves:
#
# ```
# encoder   the text     ── self-attention ── mlp ──>  memory (B, S, C)
#           sees everything                              │ keys, values
# decoder   the answer   ── self-attention ── cross-attention ── mlp ──>  next token
#           causal, sees what it has written so far
# ```
#
# $B$ is the number of texts, $S$ the number of tokens that are read, $T$ the number of tokens written so far, $C$ the width. What the encoder hands over, its last hidden states, is called the **memory**. The encoder is BERT's, the decoder is GPT-2's with one branch more. This is the Transformer as it was first published (Vaswani et al. 2017, for translation); T5 and BART are two ways to pretrain it.
#
# ## Cross-attention
#
# The new branch is attention as you wrote it in lesson 04. Only the place where things come from is new: the **queries** come from the decoder, **keys and values** from the memory. Each token of the answer asks the text.
#
# ### Exercise 11.1 · who asks whom · ●○○ · 4 min
#
# Two texts of $S = 7$ tokens, the answer so far has $T = 4$ tokens, the width is $C = 48$, in 3 heads of 16 numbers. Give two shapes as lists, each with the batch in front: that of the cross-attention weights, and that of its keys after `split_heads` (lesson 04). `shapes = [[…], […]]`

# %%
shapes = None
# BEGIN SOLUTION
shapes = [[2, 3, 4, 7], [2, 3, 7, 16]]
# END SOLUTION
shapes = check(shapes, "11.1")

# %% [markdown]
# In llmkit cross-attention is `MultiHeadAttention` with another `forward`:

# %%
from llmkit.layers.attention import MultiHeadAttention, merge_heads, split_heads
from llmkit.layers.blocks import Rotary
from llmkit.layers.cache import LayerCache
from llmkit.layers.masks import Mask

# %% tags=["show"]
from llmkit.layers.cross import CrossAttention, PreNormCrossBlock

# %% [markdown]
# Two things are *not* there. There is no causal mask: the text has been read as a whole before the first word is written, so nothing in it is "later". And there are no positions: order is already in the memory.
#
# One mask remains. Texts of a batch differ in length, and the shorter ones end in padding. Nobody may look at that, the decoder neither. It is the easiest thing to forget, because the encoder has its mask already. So let us forget it, on an untrained T5 with two texts:

# %%
from llmkit.layers.masks import padding_mask
from llmkit.layers.seq2seq import ConditionalLM
from llmkit.models.t5 import T5Config, t5
from llmkit.viz.attention import cross_attention_maps

torch.manual_seed(0)
tiny = t5(T5Config(vocab_size=60, d_model=48, n_layers=2, n_heads=3, head_dim=16, d_ff=96)).eval()
ids = torch.randint(2, 60, (2, 7))
real = torch.arange(7) < torch.tensor([7, 3])[:, None]  # (B, S): the second text has 3 tokens, then padding
ids[~real] = 0
answer = torch.tensor([[0, 5, 9, 13], [0, 5, 9, 13]])  # (B, T)
with torch.no_grad():
    alone = tiny(ids[1:, :3], answer[1:])
    together = tiny(ids, answer, real)[1:]
    memory = tiny.encoder(ids, real)
    forgotten = ConditionalLM(tiny, memory, None)(answer)[1:]
    right = ConditionalLM(tiny, memory, padding_mask(real))(answer)[1:]
on_padding = cross_attention_maps(tiny, ids, answer)[:, 1, :, :, 3:].sum(-1).mean().item()
print("logits of the short text in a batch and alone, largest difference:")
print(f"  with the mask      {(together - alone).abs().max():.5f}")
print(f"  without it         {(forgotten - alone).abs().max():.5f}")
print(f"share of the weight that goes to padding, 4 of 7 places, without any mask: {on_padding:.0%}")
assert torch.allclose(together, alone, atol=1e-4) and torch.equal(right, together)
assert (forgotten - alone).abs().max() > 0.1

# %% [markdown]
# No error, and training would not show it either: the padding is there in each batch, so the model can learn to live with it. Then you answer one text alone, and it is another model. The test for it is the line "in a batch and alone".
#
# The other two facts can be tested too. A later token of the answer may not change an earlier logit, and the *last* token of the text must change the *first*:

# %%
with torch.no_grad():
    base = tiny(ids[:1], answer[:1])
    later, text = answer[:1].clone(), ids[:1].clone()
    later[0, 2], text[0, -1] = 20, 20 + (text[0, -1] == 20)
    by_answer = (tiny(ids[:1], later) - base).abs().amax(-1)[0] > 1e-5
    by_text = (tiny(text, answer[:1]) - base).abs().amax(-1)[0] > 1e-5
print("positions that change with token 2 of the answer:   ", by_answer.tolist())
print("positions that change with the last token of the text:", by_text.tolist())
assert by_answer.tolist() == [False, False, True, True] and by_text.all()

# %% [markdown]
# ## Read once, write many
#
# While an answer is written, the decoder's own keys and values grow by one token a step, as in lesson 07. Those of the memory do not change at all. So they are computed at the first step and kept: `cache.memory` in the code above. We count the tokens that go through `k_proj` of one layer's cross-attention while 20 tokens are written.

# %% tags=["nbval-check-output"]
from llmkit.generation.generate import generate

text = torch.randint(2, 60, (1, 30))
counts, texts = {}, {}
for use_cache in (False, True):
    seen = []
    hook = tiny.decoder.blocks[0].cross_attn.k_proj.register_forward_hook(lambda m, x, y: seen.append(x[0].size(1)))  # noqa: B023
    texts[use_cache] = generate(tiny.given(text), torch.tensor([[0]]), 20, use_cache=use_cache)
    hook.remove()
    counts[use_cache] = sum(seen)
assert torch.equal(texts[True], texts[False])
print(
    f"keys made of the text of 30 tokens, in one layer: {counts[False]} without a cache, {counts[True]} with; the same answer"
)

# %% [markdown]
# `tiny.given(text)` reads the text and gives back a `ConditionalLM`. It is called as any causal language model is: tokens so far in, logits out. So everything of lesson 07 works on it unchanged: sampling, beams, even speculation.
#
# ## T5: say what is missing
#
# T5 (Raffel et al. 2020) is pretrained on damaged text. Some **spans** are taken out, a span being some tokens side by side. Each leaves a **sentinel**, a token that exists for this purpose only. The answer gives every sentinel and after it the words that it stands for:
#
# | | |
# |---|---|
# | text | Thank you for inviting me to your party last week . |
# | input | Thank you `<X>` me to your party `<Y>` week . |
# | target | `<X>` for inviting `<Y>` last |
#
# (This is the paper's own example. Its figure has a third sentinel `<Z>` that closes the target. The code closes both with the end token.)
#
# ### Exercise 11.2 · by hand · ●○○ · 4 min
#
# The text is "The cat sat on the mat ." and the noise takes "cat sat" and "mat". Write input and target with the sentinels `<X>` and `<Y>`, one space between any two tokens, without end tokens: `by_hand = ["…", "…"]`

# %%
by_hand = None
# BEGIN SOLUTION
by_hand = ["The <X> on the <Y> .", "<X> cat sat <Y> mat"]
# END SOLUTION
by_hand = check(by_hand, "11.2")

# %% [markdown]
# ### Exercise 11.3 · span_corruption · ●●○ · 15 min
#
# Write `span_corruption(ids, noise, sentinels, end_id)`. `noise` says for each token whether it is missing. Neighbours that are missing share a sentinel. Sentinels are used in order, one for each span. Both lists are closed by `end_id`. More spans than sentinels, or a mask of another length than the text, raise ValueError.

# %%
from collections.abc import Sequence

# %% tags=["exercise"]
from llmkit.data.span_corruption import span_corruption

# %%
span_corruption = check(span_corruption)

# %%
words = "Thank you for inviting me to your party last week .".split()
noise = [word in ("for", "inviting", "last") for word in words]
for name, tokens in zip(("input ", "target"), span_corruption(words, noise, ["<X>", "<Y>"], "</s>"), strict=True):
    print(name, " ".join(tokens))

# %% [markdown]
# The target is short, and that is the point: the decoder writes only what is missing, so an example costs less than one in which the whole text is written again.
#
# T5 takes 15% of the tokens away, in spans of 3 on average. Its encoder has room for 512 tokens. A text that is to fill it may be longer, because it shrinks: how long, and how long is its target? (`random_spans_helper` in T5's code.)

# %% tags=["nbval-check-output"]
from llmkit.data.span_corruption import span_corruption_lengths

length, target = span_corruption_lengths(512)
n_noise = round(0.15 * length)
print(f"a text of {length} tokens: {n_noise} of them are noise, in {round(n_noise / 3)} spans")
print(f"input  {length - n_noise} + {round(n_noise / 3)} sentinels + end = {length - n_noise + round(n_noise / 3) + 1}")
print(f"target {n_noise} + {round(n_noise / 3)} sentinels + end = {target}")

# %% [markdown]
# ## The trap
#
# Which spans? T5's reference code (`random_spans_noise_mask`) does this for a text of $n$ tokens:
#
# 1. the number of noise tokens is $0.15\,n$, rounded; the number of spans is a third of that, rounded, and at least 1;
# 2. cut the noise tokens into that many pieces at random, and the other tokens into *as many* pieces;
# 3. lay them out in turn: text, noise, text, noise …
#
# llmkit has it as `t5_noise_mask`, and a test compares the two draw by draw. Read the three steps again before you go on. With long texts all is well. But our stories are short.
#
# ### Exercise 11.4 · one span · ●○○ · 5 min
#
# What is the longest text, in tokens, that gets a single span? (Python and numpy round a half to the even neighbour: 2.5 to 2, 4.5 to 4.)

# %%
longest = None
# BEGIN SOLUTION
longest = max(n for n in range(2, 100) if max(round(round(0.15 * n) / 3), 1) == 1)
# END SOLUTION
longest = check(longest, "11.4")

# %% [markdown]
# Now what does a single span mean? One piece of text, one piece of noise, in this order. There is one way to do that. Count how many *different* masks 500 draws give:

# %%
from llmkit.data.span_corruption import noise_mask, t5_noise_mask

rng = np.random.default_rng(0)
print("tokens   different masks in 500 draws   last token hidden")
different = {}
for n in (16, longest, longest + 1, 64, 568):
    masks = [t5_noise_mask(n, rng) for _ in range(500)]
    different[n] = len({mask.tobytes() for mask in masks})
    print(f"{n:6} {different[n]:20} {np.mean([mask[-1] for mask in masks]):27.0%}")
assert different[16] == different[longest] == 1 and 50 < different[longest + 1] <= 100 and different[64] > 400

# %% [markdown]
# Up to that length the "random" mask is always the same one, at the end of the text: nothing else is ever asked, in no epoch. One token more, and there are a hundred (5 noise tokens can be cut in two in 4 ways, the 26 others in 25). And at *every* length the last token is hidden, and the first never.
#
# T5 itself did not suffer: its texts were packed together to 568 tokens. The trap snaps when somebody uses the same function on single sentences or short stories. Nothing fails, and the loss falls as ever: the same few places are asked over and over.
#
# The best way to find such a thing is to measure, for each place, how often it is hidden.
#
# ### Exercise 11.5 · hidden_share · ●●○ · 8 min · measure
#
# Write `hidden_share(make_mask, length, n_draws, rng)`: for each place the share of `n_draws` masks in which it is hidden, as an array of shape (length,). `make_mask(length, rng)` gives one mask, a boolean array. Hand on the `rng` that you get: a new one for each draw would give the same mask each time.

# %%
Rng = np.random.Generator

# %% tags=["exercise"]
from llmkit.data.span_corruption import hidden_share

# %%
hidden_share = check(hidden_share)

# %% [markdown]
# llmkit's `noise_mask` mends both faults. The number of tokens and spans is rounded up or down *by chance*, so that it is right on average instead of always the same. And there may be text after the last span, or none before the first. Side by side:

# %%
fig, axes = figure(2, width=7.2, height=3.0, sharey=True)
shares = {}
for axis, n in zip(axes, (24, 64), strict=True):
    for name, make, color in (("reference", t5_noise_mask, COLORS["bad"]), ("noise_mask", noise_mask, COLORS["good"])):
        shares[name, n] = hidden_share(make, n, 3000, np.random.default_rng(1))
        axis.step(range(n), shares[name, n], where="mid", color=color)
    axis.axhline(0.15, color=COLORS["truth"], linewidth=1, linestyle="--")
    axis.set(
        xlabel="place in the text",
        title={24: "24 tokens: the end, nothing else", 64: "64 tokens: the end, always"}[n],
        ylim=(0, 1.05),
    )
axes[0].set_ylabel("share of masks that hide it")
axes[0].text(18.5, 0.85, "T5's mask", color=COLORS["bad"], ha="right", fontsize=9)
axes[0].text(1, 0.2, "noise_mask", color=COLORS["good"], fontsize=9)
axes[1].text(55, 0.85, "T5's mask", color=COLORS["bad"], ha="right", fontsize=9)
axes[1].text(1, 0.2, "15%", fontsize=9)
show(
    fig,
    alt=f"How often each place is hidden. 24 tokens: T5's mask hides the last 4 always and the others never, noise_mask hides all, "
    f"between {shares['noise_mask', 24].min():.2f} and {shares['noise_mask', 24].max():.2f}. 64 tokens: T5's mask rises from "
    f"{shares['reference', 64][0]:.2f} at the first place to 1.00 at the last.",
)
for (name, n), share in shares.items():
    print(
        f"{name:10} {n:3} tokens: mean {share.mean():.3f}, first {share[0]:.2f}, middle {share[n // 2]:.2f}, last {share[-1]:.2f}"
    )
assert set(shares["reference", 24]) == {0.0, 1.0} and shares["noise_mask", 24].min() > 0.03

# %% [markdown]
# The cure is not perfect: the very ends are still hidden less often than the middle, because fewer spans reach them. But every place gets its turn.
#
# ## BART: write it all again
#
# BART (Lewis et al. 2019) damages text too, but the answer is the **whole text**, repaired. So any damage will do. The paper tries five kinds:
#
# | noise | what the model has to find out |
# |---|---|
# | token masking (BERT's) | which token |
# | token deletion | which token, and *where* |
# | text infilling: a span becomes one mask | which tokens, and *how many* |
# | sentence permutation | the order |
# | document rotation: begin anywhere, go round | where it began |
#
# Infilling is the one to look at. Lengths of spans are drawn from a Poisson distribution of mean 3, and a length may be 0: then a mask is put where nothing is missing. So a mask says "something may be missing here", no more. It did best in the paper, and the published BART uses it (30% of the tokens) together with sentence permutation.
#
# ### Exercise 11.6 · replace_spans · ●●○ · 12 min · optional
#
# Write `replace_spans(ids, spans, mask_id)`. A span is a pair (first token, number of tokens); they come in order and do not overlap. Each becomes one `mask_id`, also one of 0 tokens: that takes nothing away and puts a mask *before* its first token (`(len(ids), 0)` puts one at the end). Two spans that touch leave two masks. Spans that overlap, are out of order, or reach beyond the text raise ValueError.

# %% tags=["exercise"]
from llmkit.data.bart_noise import replace_spans

# %%
replace_spans = check(replace_spans)

# %% [markdown]
# All of it on one text, with each word tinted by the sentence it comes from. A red line marks a place where words meet that were not neighbours, or where the text now begins or ends and did not before: the model sees no such line, only you do. The first of infilling's masks stands for nothing, the second for three tokens, the third for two.

# %%
from llmkit.data.bart_noise import delete_tokens, infill, permute_sentences, rotate
from llmkit.viz.corruption import draw_corruptions

text = "Mia met Max. Mia had a red key. In the end Max kept it."
words = [token.strip() for token in split(text)]
ends = [i + 1 for i, word in enumerate(words) if word == "."]
sentences = [sum(i >= end for end in ends) for i in range(len(words))]
places = list(range(len(words)))
rng = np.random.default_rng(445)  # a draw in which infilling has a mask for nothing
by_sentence = [[i for i in places if sentences[i] == s] for s in range(3)]
rows = {
    "the text": places,
    "T5's spans": span_corruption(places, noise_mask(len(places), rng, density=0.3), ["<X>", "<Y>", "<Z>"], "</s>")[0][
        :-1
    ],
    "masking": replace_spans(places, [(int(i), 1) for i in sorted(rng.permutation(len(places))[:3])], "_"),
    "infilling": infill(places, rng, "_"),
    "deletion": delete_tokens(places, rng),
    "permutation": permute_sentences(by_sentence, rng),
    "rotation": rotate(places, rng),
}
n_sentinels = sum(isinstance(item, str) for item in rows["T5's spans"])
assert rows["infilling"] == [*range(5), "_", 5, 6, "_", 10, 11, 12, "_", 15, 16]
fig, axis = figure(width=7.2, height=2.7)
draw_corruptions(axis, words, rows, sentences)
axis.set_title("One text, T5's noise and BART's five")
show(
    fig,
    alt=f"A text of {len(words)} tokens as boxes, and six damaged versions. T5's spans leave {n_sentinels} sentinels, "
    f"infilling {rows['infilling'].count('_')} masks for {len(words) - sum(i != '_' for i in rows['infilling'])} missing tokens, deletion leaves no trace of "
    f"{len(words) - len(rows['deletion'])} tokens, permutation and rotation keep all words.",
)

# %% [markdown]
# How long are the spans? Both papers say "3 on average", and mean different things. BART draws from a Poisson distribution. T5 cuts $n$ noise tokens into $s$ pieces, every way with the same probability. There are $\binom{n-1}{s-1}$ ways to do that, and $\binom{n-k-1}{s-2}$ of them begin with a piece of length $k$. By symmetry this holds for every piece, so $P(k) = \binom{n-k-1}{s-2} / \binom{n-1}{s-1}$. Theory against draws, for texts of 568 tokens:

# %%
from llmkit.data.bart_noise import infill_spans
from llmkit.data.span_corruption import random_segments

rng, n, s = np.random.default_rng(0), 85, 28
drawn = {
    "T5": Counter(int(k) for _ in range(400) for k in random_segments(n, s, rng)),
    "BART": Counter(k for _ in range(200) for _, k in infill_spans(568, rng)),
}
lengths = range(13)
theory = {
    "T5": [math.comb(n - k - 1, s - 2) / math.comb(n - 1, s - 1) if k else 0.0 for k in lengths],
    "BART": [math.exp(-3) * 3**k / math.factorial(k) for k in lengths],
}
fig, axes = figure(2, width=7.2, height=2.8, sharey=True)
furthest = {}
for axis, (name, counts) in zip(axes, drawn.items(), strict=True):
    measured = [counts[k] / counts.total() for k in lengths]
    furthest[name] = max(abs(a - b) for a, b in zip(measured, theory[name], strict=True))
    axis.set_xticks(range(0, 13, 2))
    axis.bar(lengths, measured, color=COLORS["model"], width=0.75)
    axis.plot(lengths, theory[name], "o", color=COLORS["key"], markersize=5)
    axis.set(
        xlabel="tokens in a span",
        title={"T5": "T5: one token is the commonest", "BART": "BART: 2 or 3, sometimes none"}[name],
    )
axes[0].set_ylabel("share of spans")
axes[0].text(4.2, 0.22, "bars: drawn", color=COLORS["model"], fontsize=9)
axes[0].text(4.2, 0.19, "dots: theory", color="#A06800", fontsize=9)
show(
    fig,
    alt=f"Lengths of spans, drawn and by theory. T5: {theory['T5'][1]:.0%} of the spans have one token, falling steadily. "
    f"BART: {theory['BART'][0]:.0%} have none, {theory['BART'][3]:.0%} have three.",
)
for name, counts in drawn.items():
    mean = sum(k * v for k, v in counts.items()) / counts.total()
    print(f"{name:4} mean {mean:.2f} tokens, one token {counts[1] / counts.total():.0%}, none {counts[0] / counts.total():.0%}; "
          f"largest distance from theory {furthest[name]:.3f}")  # fmt: skip
assert max(furthest.values()) < 0.02

# %% [markdown]
# ## What the decoder reads
#
# In training the right answer is known, so all its tokens are predicted at once, each from the true ones before it (**teacher forcing**; the causal mask does the rest). At place $t$ the decoder writes `labels[t]`, so the latest token that it may have read is `labels[t - 1]`. At place 0 it reads a start token. In other words the decoder's input is the labels, shifted by one.
#
# A language model (lesson 05) did this with one list of ids: logits at $t$ are compared with `ids[t + 1]`. Here input and labels are two tensors, and that is where it goes wrong. Labels of shorter answers are padded with -100, which `cross_entropy` leaves out; -100 is no token, so in the decoder's input it has to become padding.
#
# ### Exercise 11.7 · shift_right · ●●○ · 8 min · find the bug
#
# Training with this function runs, and the loss is wonderful. Mend it. `labels` is $(B, T)$, and so is the result.

# %%
from llmkit.training.losses import IGNORE

# %% tags=["exercise"]
from llmkit.training.losses import shift_right

# %%
shift_right = check(shift_right)

# %% [markdown]
# How wonderful? We train a small T5 to repair our stories, once with the shift and once without. First the stories as ids. (Two in five of them are short enough for the trap, so `noise_mask` it is.)

# %%
from llmkit.data.batches import index_batches, pad, pad_pairs, pair_batches
from llmkit.data.toyland.tasks import story_questions
from llmkit.training.losses import cross_entropy, seq2seq_loss
from llmkit.training.loop import train as run_training
from llmkit.training.muon import Muon

draw = random.Random(0)
documents = [world.sample(draw) for _ in range(4500)]


def asked(document, rng):
    """Who has the thing, or where is it? The question in front of the story, and the answer."""
    question, answer = rng.choice([pair for pair in story_questions(document) if not pair[0].startswith("What")])
    return f"{question} {document.text}", f" {answer}"


draw = random.Random(1)
labelled = [asked(document, draw) for document in documents[4000:4100]]
known = {document.text for document in documents[:4100]}
held_out = [asked(document, draw) for document in documents[4100:] if document.text not in known][:300]

PAD, END, MASK, ANSWER = range(4)
SENTINELS = list(range(4, 12))
vocabulary = ["<pad>", "</s>", "<mask>", "<answer>", *(f"<{i}>" for i in range(len(SENTINELS)))]
texts = [document.text for document in documents[:4000]]
vocabulary += sorted(
    {t for text in texts for t in split(text)} | {t for pair in labelled + held_out for s in pair for t in split(s)}
)
id_of = {token: i for i, token in enumerate(vocabulary)}
story_ids = [[id_of[token] for token in split(text)] for text in texts]
tokens_each = sum(map(len, story_ids)) / len(story_ids)
print(texts[0])
print(
    f"{len(vocabulary)} different tokens, {tokens_each:.0f} tokens a story, at most {longest} in {np.mean([len(ids) <= longest for ids in story_ids]):.0%} of them"
)

# %%
C, HEADS, BATCH = 48, 4, 16


def spans(ids, rng):
    """T5's task: the text with sentinels, and what they stand for."""
    return span_corruption(ids, noise_mask(len(ids), rng), SENTINELS, END)


def noisy_batches(make_pair, seed):
    """Endless batches of stories, damaged anew each time."""
    rng = np.random.default_rng(seed)
    for rows in index_batches([len(ids) for ids in story_ids], BATCH, seed):
        yield pad_pairs([make_pair(story_ids[i], rng) for i in rows])


def encoder_decoder(seed):
    torch.manual_seed(seed)
    return t5(T5Config(len(vocabulary), C, n_layers=1, n_heads=HEADS, head_dim=C // HEADS, d_ff=C))


def fit(model, batches, n_steps, lr, loss):
    """Muon with a weight decay that keeps the matrices small: large ones would hardly move in the fine-tuning."""
    optimizer = Muon(model, lr, adamw_lr=lr, weight_decay=1.0)
    return run_training(model, batches, n_steps, lr, loss=loss, optimizer=optimizer, progress=False).losses


from llmkit.course.checks.lesson_11 import not_shifted  # the function as it was before you mended it

broken, curves = {}, {}
for name, shift in (("shifted", shift_right), ("not shifted", not_shifted)):

    def loss(model, ids, mask, labels, shift=shift):
        return cross_entropy(model(ids, shift(labels, PAD, PAD), mask), labels)

    broken[name] = encoder_decoder(0)
    curves[name] = fit(broken[name], noisy_batches(spans, 0), 40, 0.05, loss)
    ids, mask, labels = next(noisy_batches(spans, 1))
    written = generate(broken[name].given(ids, mask), torch.full((BATCH, 1), PAD), labels.size(1))[:, 1:]
    right = (written == labels)[labels != IGNORE].float().mean().item()
    print(
        f"{name:12} loss {np.mean(curves[name][:3]):5.2f} -> {np.mean(curves[name][-5:]):.2f}; written by itself: {right:.0%} of the tokens right"
    )
    print("             writes", " ".join(vocabulary[i].strip() for i in written[0, :8].tolist()))
assert np.mean(curves["not shifted"][-5:]) < 0.3 * np.mean(curves["shifted"][-5:])

# %% [markdown]
# Without the shift the decoder is shown the very token that it has to write, and learns to copy its input. Then it is alone: it begins with padding, copies it, and goes on for ever. A loss far below what you expected is the symptom. (`generate` was not told to stop at the end token here, so both write on.)
#
# ## What is odd about T5
#
# You know nearly all of its parts: pre-norm blocks, RMSNorm (lesson 06), no biases, ReLU in version 1.0 and a gated MLP in version 1.1. Five things are its own.
#
# | | T5 | most others |
# |---|---|---|
# | scores | $q \cdot k$, not divided | divided by $\sqrt D$ ($D$: numbers in a head) |
# | positions | `relative_bucket` of lesson 03: a learned number for each bucket of distances and each head, added to the scores | added to the embedding, or RoPE |
# | its table | one for all layers of a stack (stored in layer 0 in the files); none in cross-attention | one for each layer, or none |
# | decoder begins with | padding | a start token |
# | output (1.0) | the embedding matrix, and the states before it times $C^{-1/2}$ | tied or not, no factor |
#
# The first and the last belong together with how T5 is initialised. Its queries' matrix begins smaller by $\sqrt D$, which does the same as the division. And its embedding begins with a standard deviation of 1, fifty times GPT-2's 0.02. Tied to the output, such a matrix makes logits of size $\sqrt C$, unless the states are made smaller first.
#
# What is the first loss of an untrained model with $V = 8000$ tokens and $C = 512$, with and without the factor? A model that knows nothing should be near $\ln V \approx 9$. Write down a guess.

# %%
guess_loss = {"with the factor": None, "without": None}

# %%
torch.manual_seed(0)
wide = t5(T5Config(vocab_size=8000, n_layers=1)).eval()
ids, labels = torch.randint(2, 8000, (8, 24)), torch.randint(2, 8000, (8, 12))
read = shift_right(labels, PAD, PAD)
first, size, echo, silenced = {}, {}, {}, {}
with torch.no_grad():
    for name, scale in (("with the factor", wide.scale), ("without", 1.0)):
        wide.scale = scale
        logits = wide(ids, read)
        first[name], size[name] = cross_entropy(logits, labels).item(), logits.std().item()
        echo[name] = logits.gather(-1, read[..., None]).mean().item()  # of the token that was just read
        silenced[name] = cross_entropy(logits.scatter(-1, read[..., None], 0.0), labels).item()
        print(f"{name:16} first loss {first[name]:6.1f}; logits have a standard deviation of {size[name]:4.1f}, "
              f"that of the token just read is {echo[name]:5.1f}; with 0 in its place {silenced[name]:5.1f}"
              + (f", your guess {guess_loss[name]}" if guess_loss[name] is not None else ""))  # fmt: skip
    attn = wide.encoder.blocks[0].attn
    x = wide.encoder.blocks[0].attn_norm(wide.encoder.embed.tokens(ids))
    q, k = split_heads(attn.q_proj(x), 8), split_heads(attn.k_proj(x), 8)
    scores = (q @ k.transpose(-2, -1)).std().item()
print(f"ln V = {math.log(8000):.1f}; T5's undivided scores have a standard deviation of {scores:.2f}")
print(
    f"tables of positions: encoder {tuple(wide.encoder.position_bias.weight.shape)}, decoder {tuple(wide.decoder.position_bias.weight.shape)}, however many layers"
)
assert 9.0 < silenced["with the factor"] < 10.5 < first["with the factor"] < 25 < 150 < first["without"]
assert 0.7 < scores < 1.4

# %% [markdown]
# Two things happen here. Without the factor the model is terribly sure of something wrong: the first steps of training go into shrinking logits. With it most logits have size 1, which costs half a nat above $\ln V$.
#
# But the first loss is not 9.5 either, and I had expected that it would be. One logit stands out: that of the token which the decoder has *just read*. Its embedding is still in the residual stream, and the output is the same matrix, so an untrained T5 believes that every word comes twice. Put 0 in the place of this one logit, and the loss is what a model that knows nothing should have. (GPT-2 ties its matrices too, but its embeddings begin fifty times smaller.)
#
# ## What is odd about BART
#
# BART is closer to 2017: norm *after* each branch, biases everywhere, learned positions, GELU. Its oddities come from the library in which it was written, fairseq:
#
# - positions begin to count at 2, as RoBERTa's (lesson 09): the table has two rows more than it has positions;
# - the decoder begins with the *end* token `</s>` (id 2), then comes `<s>`;
# - a vector is added to the logits, `final_logits_bias`, which is stored with the model and never trained: zeros.

# %% tags=["nbval-check-output"]
from llmkit.models import bart as bart_family
from llmkit.models import t5 as t5_family

with torch.device("meta"):  # shapes only, no memory
    models = {name: t5(t5_family.SIZES[name]) for name in ("t5-small", "t5-base")}
    models |= {name: bart_family.bart(bart_family.SIZES[name]) for name in ("bart-base", "bart-large")}
print("            parameters   start  end  encoder + decoder   table of positions")
for name, model in models.items():
    table = model.decoder.embed.positions
    layers = f"{len(model.encoder.blocks)} + {len(model.decoder.blocks)}"
    rows = "relative, 32 buckets" if table is None else f"{table.num_embeddings} rows"
    print(f"{name:10} {model.n_params():12,}  {model.config.start_id:5} {model.config.end_id:4}  {layers:>17}   {rows}")
assert [model.n_params() for model in models.values()] == [60_506_624, 222_903_552, 139_420_416, 406_291_456]

# %% [markdown]
# These are the published sizes. In llmkit's tests both families are compared with transformers on the same weights: logits, gradients, padding, cached steps and the ids of beam search.
#
# ## The experiment: what is it worth?
#
# We pretrain on 4,000 stories without labels, in three ways, and then teach a task from 100 labelled examples: a question in front of a story ("Who has the lamp?" or "Where is the lamp?"), answered in one to four words. Measured is the share of 300 unread stories whose answer is right to the last token.
#
# - **span corruption**: an encoder-decoder with 1 + 1 layers; 15% of the tokens, `noise_mask`
# - **infilling**: the same model; 30% of the tokens, writes the whole story
# - **next token**: a decoder-only model of 2 layers, reads the same stories from left to right
# - **controls**: both kinds of model without any pretraining
#
# **Equal compute** means here: the same number of floating-point operations in pretraining, as torch counts them. Infilling writes more, so it gets fewer steps. The fine-tuning is the same for all: 75 steps. The question is put in T5's own form, with a sentinel: `<0> Who has the lamp? …` is answered by `<0> Anna`. (For the decoder-only model question and story are followed by `<answer>`, and only the answer counts in the loss.)
#
# Which order do you expect? Write down the shares, from 0 to 1.

# %%
guess = {
    "no pretraining": None,
    "span corruption": None,
    "infilling": None,
    "decoder-only, none": None,
    "decoder-only, next token": None,
}

# %%
from torch.utils.flop_counter import FlopCounterMode

from llmkit.layers.blocks import PreNormBlock
from llmkit.layers.heads import CausalLM
from llmkit.layers.mlp import MLP
from llmkit.layers.norms import RMSNorm
from llmkit.layers.positions import RelativePositionBias
from llmkit.layers.transformer import Embedding, Transformer


def decoder_only(seed):
    """T5's decoder without cross-attention, initialised like it; 2 layers, as 1 + 1."""
    torch.manual_seed(seed)
    norm = partial(RMSNorm, C)
    blocks = [
        PreNormBlock(MultiHeadAttention(C, HEADS, scale=1.0), MLP(C, C, F.relu, bias=False), norm) for _ in range(2)
    ]
    bias = RelativePositionBias(HEADS, bidirectional=False)
    model = CausalLM(
        Transformer(Embedding(len(vocabulary), C), blocks, norm(), position_bias=bias), config=None, tie=True
    )
    for name, parameter in model.transformer.blocks.named_parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=C**-0.5 * (HEADS / C if "q_proj" in name else 1) ** 0.5)
    nn.init.normal_(model.transformer.embed.tokens.weight, std=C**-0.5)
    return model


def causal_loss(model, ids, mask, labels):
    """The pair is (what is read, what is to be written at each place); padding on the right needs no mask."""
    return cross_entropy(model(ids), labels)


def infilling(ids, rng):
    return [*infill(ids, rng, MASK), END], [*ids, END]


def next_token(ids, rng):
    return [END, *ids], [*ids, END]


def question_pair(text, answer):
    return [SENTINELS[0], *(id_of[t] for t in split(text)), END], [
        SENTINELS[0],
        *(id_of[t] for t in split(answer)),
        END,
    ]


def causal_pair(text, answer):
    """Question and story, <answer>, answer, as one text; what is before the answer does not count."""
    ids, answer = question_pair(text, answer)
    return [*ids[:-1], ANSWER, *answer[:-1]], [IGNORE] * (len(ids) - 1) + answer


@torch.no_grad()
def answered(model):
    """(N,) which held-out questions are answered right to the last token, by greedy decoding."""
    pairs, right = [question_pair(*pair) for pair in held_out], []
    for first in range(0, len(pairs), 100):
        some = pairs[first : first + 100]
        if isinstance(model, CausalLM):
            ids, mask = pad([[*ids[:-1], ANSWER] for ids, _ in some], PAD, side="left")
            written = generate(model, ids, 7, stop_tokens=[END], pad_id=PAD, attention_mask=mask)[:, ids.size(1) :]
        else:
            ids, mask, _ = pad_pairs(some)
            written = generate(
                model.given(ids, mask), torch.full((len(ids), 1), PAD), 7, stop_tokens=[END], pad_id=PAD
            )[:, 1:]
        right += [w[: len(answer)] == answer for w, (_, answer) in zip(written.tolist(), some, strict=True)]
    return np.array(right)


def flops(build, make_pair, loss):
    """Operations of an average step, forward and backward."""
    model, batches = build(0), noisy_batches(make_pair, 9)
    with FlopCounterMode(display=False) as counter:
        for _ in range(4):
            loss(model, *next(batches))
    return 3 * counter.get_total_flops() / 4  # backward costs twice as much as forward


arms = {
    "no pretraining": (encoder_decoder, None, seq2seq_loss),
    "span corruption": (encoder_decoder, spans, seq2seq_loss),
    "infilling": (encoder_decoder, infilling, seq2seq_loss),
    "decoder-only, none": (decoder_only, None, causal_loss),
    "decoder-only, next token": (decoder_only, next_token, causal_loss),
}
cost = {name: flops(build, make, loss) for name, (build, make, loss) in arms.items() if make is not None}
budget, SEEDS = 120 * cost["span corruption"], (0, 1, 2)
about_who = np.array([text.startswith("Who") for text, _ in held_out])
scores, kept, by_kind = {}, {}, {}
print(" " * 36 + "right, three seeds     mean    who  where")
for name, (build, make_pair, loss) in arms.items():
    n_steps = round(budget / cost[name]) if make_pair else 0
    for seed in SEEDS:
        model = build(seed)
        if make_pair:
            fit(model, noisy_batches(make_pair, seed), n_steps, 0.05, loss)
        as_pair = causal_pair if build is decoder_only else question_pair
        fit(model, pair_batches([as_pair(*pair) for pair in labelled], BATCH, seed), 75, 0.025, loss)
        right = answered(model)
        scores[name, seed], kept[name, seed] = right.mean(), model
        by_kind[name, seed] = right[about_who].mean(), right[~about_who].mean()
    mean = np.mean([scores[name, seed] for seed in SEEDS])
    who, where = np.mean([by_kind[name, seed] for seed in SEEDS], axis=0)
    print(f"{name:25} {n_steps:3} steps   " + "  ".join(f"{scores[name, seed]:4.0%}" for seed in SEEDS)
          + f"   {mean:7.0%} {who:6.0%} {where:6.0%}" + (f"   your guess {guess[name]:.0%}" if guess[name] is not None else ""))  # fmt: skip
print(
    f"parameters: {encoder_decoder(0).n_params():,} and {decoder_only(0).n_params():,}; tokens of stories in pretraining with spans: {120 * BATCH * tokens_each:,.0f}"
)
asked_for = {make.__name__: np.mean([(next(noisy_batches(make, seed))[2] != IGNORE).sum() / BATCH for seed in range(8)])
             for make in (spans, infilling)}  # fmt: skip
print("tokens to be written for each story: " + ", ".join(f"{name} {count:.0f}" for name, count in asked_for.items()))
means = {name: np.mean([scores[name, seed] for seed in SEEDS]) for name in arms}
assert means["span corruption"] > means["no pretraining"]
assert means["infilling"] > means["no pretraining"] + 0.05
assert means["decoder-only, next token"] > means["decoder-only, none"] + 0.1
assert asked_for["infilling"] > 4 * asked_for["spans"]

# %%
fig, axis = figure(height=2.9)
for row, name in enumerate(reversed(arms)):
    color = COLORS["control"] if arms[name][1] is None else COLORS["model"]
    axis.barh(row, means[name], color=color, height=0.6, alpha=0.55)
    axis.plot([scores[name, seed] for seed in SEEDS], [row] * len(SEEDS), "o", color=color, markersize=6)
    if guess[name] is not None:
        axis.plot(guess[name], row, "D", color=COLORS["guess"])
axis.set_yticks(range(len(arms)), list(reversed(arms)))
axis.set(
    xlabel="unread questions answered right (dots: three seeds; diamond: your guess)",
    xlim=(0, 1),
    title="In the mean, each kind of pretraining beats its control",
)
show(
    fig,
    alt="Share of unread questions answered right, mean of three seeds: "
    + ", ".join(f"{name} {mean:.0%}" for name, mean in means.items())
    + ".",
)

# %% [markdown]
# In the mean each kind of pretraining is better than its control. The two right columns of the table say more:
#
# - **Who**: a story has two names, so a coin between them would be right in half of the cases. Only one model is far above the coin: the decoder-only model that has learned to write the next token.
# - **Where**: here both kinds of pretraining help the encoder-decoder. The decoder-only model loses; with five seeds more it was even. I do not know why.
#
# I had expected something else from the paper. There an encoder-decoder is better than a decoder-only model at equal cost (section 3.2), and span corruption is as good as any other kind and cheaper (section 3.3). Here the decoder-only model is ahead, and span corruption is no better than infilling. One reason for the latter can be counted: for the same story it asks for less than a quarter of the tokens that infilling asks for. It is cheap for each story, and it lives on many stories. T5 read $2^{35}$ tokens, 34 billion (section 3.1.2 of the paper); ours has read fewer than 60,000.
#
# **What this run can show**: that each kind of pretraining is worth something here. With five seeds more each kind was again above its control in the mean, and infilling above span corruption; in one seed of the eight, span corruption was just below its control. **What it cannot show**: which kind is better for a model of any useful size.
#
# And the setting was chosen: I made more than twenty trials, on this task and others, and kept one that learns something in seconds. In one of them a third kind of question was asked ("What does the lamp look like?") and the fine-tuning was shorter: the seeds differed more than the kinds of pretraining, and the decoder-only model gained nothing. In another, with AdamW in place of Muon (it learns more slowly here), both kinds of the encoder-decoder came out *worse* than no pretraining at all. Whoever reports one such table, without controls and seeds, can report what they like.
#
# ## Where the answer comes from
#
# Cross-attention can be looked at, like any other. We take the best of the infilling models. At the second step the decoder has read `<0>` and has to give the answer's first word. Where does it look in question and story? (`cross_attention_maps` records only the layers that are called `cross_attn`.) First over all held-out questions: how much weight lies on the places where the answer's first word stands? And, for "Who", on the name that the model writes, right or wrong?

# %%
best = max(SEEDS, key=lambda seed: scores["infilling", seed])
reader = kept["infilling", best]
ids, mask, labels = pad_pairs([question_pair(*pair) for pair in held_out])
before, wanted = shift_right(labels, PAD, PAD), labels[:, 1:2]  # (N, T), (N, 1)


@torch.no_grad()
def first_word(model):
    """The answer's first word as the model writes it (N, 1), and where it looks then (N, H, S)."""
    return model(ids, before, mask)[:, 1:2].argmax(-1), cross_attention_maps(model, ids, before, mask)[-1, :, :, 1]


def weight_on(word, looks):
    """The weight (N, H) on all places where word (N, 1) stands."""
    return (looks * (ids == word)[:, None]).sum(-1)


written, looks = first_word(reader)
right, on_answer = (written == wanted)[:, 0], weight_on(wanted, looks)
untrained = weight_on(wanted, first_word(encoder_decoder(best))[1])
places = ((ids == wanted).sum(-1) / mask.sum(-1)).mean()
print(f"share of the text that is the answer's word: {places:.0%}")
for name, weights in (("untrained", untrained), ("trained", on_answer)):
    print(
        f"weight on it, {name:9} "
        + ", ".join(f"head {h}: {share:.0%}" for h, share in enumerate(weights.mean(0).tolist()))
    )
top = int(on_answer.mean(0).argmax())
who = torch.from_numpy(about_who)
print(
    f"head {top}, “Who”, answered right ({int((who & right).sum())}): {on_answer[who & right, top].mean():.0%} on the right name"
)
print(f"head {top}, “Who”, answered wrong ({int((who & ~right).sum())}): {on_answer[who & ~right, top].mean():.0%} on the right name, "
      f"{weight_on(written, looks)[who & ~right, top].mean():.0%} on the one that is written")  # fmt: skip
without = []
for head in range(HEADS):  # lesson 04's surgery: this head brings back nothing

    def silence(module, inputs, part=slice(head * C // HEADS, (head + 1) * C // HEADS)):
        x = inputs[0].clone()
        x[..., part] = 0
        return (x,)

    hook = reader.decoder.blocks[0].cross_attn.o_proj.register_forward_pre_hook(silence)
    without.append((first_word(reader)[0] == wanted).float().mean().item())
    hook.remove()
print(
    f"first word right: {right.float().mean():.0%}; without head "
    + ", ".join(f"{h}: {share:.0%}" for h, share in enumerate(without))
)
missed = int(np.argmin(without))
on_words = torch.zeros(len(vocabulary)).index_add_(0, ids.flatten(), looks[:, missed].flatten()) / len(ids)
print(
    f"head {missed} is missed most; it has {on_words.max():.0%} of its weight on “{vocabulary[int(on_words.argmax())].strip()}”"
)
assert on_answer.mean(0)[top] > 4 * places > 2 * untrained.mean(0)[top]
assert without[top] < right.float().mean() and without[missed] < right.float().mean() - 0.1

# %%
from llmkit.viz.attention import draw_attention

one = next(
    i for i, (text, answer) in enumerate(held_out)
    if right[i] and about_who[i] and on_answer[i, top] > 0.9 and len(split(text)) < 36
)  # fmt: skip
row = looks[one, :, mask[one]]  # (H, S)
fig, axis = figure(width=7.2, height=2.3)
image = draw_attention(axis, row, [f"head {h}" for h in range(HEADS)], [vocabulary[i] for i in ids[one, mask[one]]])
axis.tick_params(axis="x", labelsize=8)
fig.colorbar(image, ax=axis, label="weight")
axis.set_title(f"Head {top} looks at the word that is to be written, “{held_out[one][1].strip()}”")
where = (ids[one, mask[one]] == wanted[one]).nonzero()[:, 0].tolist()
show(
    fig,
    alt=f"Four heads by {int(mask[one].sum())} tokens of question and story. The answer stands at places {where}; head {top} gives them "
    f"{row[top, where].sum():.2f} of its weight, the other heads {', '.join(f'{row[h, where].sum():.2f}' for h in range(HEADS) if h != top)}.",
)

# %% [markdown]
# A head has learned to go to the word that is about to be written, and there is a sign that it matters: where a "Who" question is answered wrongly, the weight on the right name is lower, and much of it is on the name that is written. How much the head matters, the surgery says: compare its share with the others'.
#
# But read the last two lines of the output too. The head that is missed most need not be the one that looks most at the answer. A head may be missed only because the layers behind it have got used to what it brings back, for instance from the same common word in every story. As in lesson 04, a map is a hypothesis and the surgery is the test; and the surgery does not tell a head that finds something from one that the others only rely on.
#
# ## Nothing is lost (optional)
#
# Input and target of span corruption together hold the whole text. The way back is worth having: it turns what a T5 writes into a repaired text. A model makes mistakes, though, so the function has to stand anything.
#
# ### Exercise 11.8 · repair_spans · ●●○ · 12 min · optional
#
# Write `repair_spans(inputs, targets, sentinels, end_id)`. Each sentinel in `inputs` is replaced by the tokens that follow it in `targets`. Both are read up to their first `end_id` only. A sentinel without an answer leaves nothing; of two answers for one sentinel the last counts; what stands before the first sentinel in `targets` is no answer.

# %% tags=["exercise"]
from llmkit.data.span_corruption import repair_spans

# %%
repair_spans = check(repair_spans)

# %%
rng = np.random.default_rng(0)
for ids in story_ids[:500]:
    assert repair_spans(*spans(ids, rng), SENTINELS, END) == ids
print("500 stories taken apart and put together again: the same")

# %% [markdown]
# ## On real text
#
# How many sentences of real English fall into the trap? Python carries its own reference as text (`python_docs`). We cut it at full stops and count words and punctuation marks; T5's own tokens are shorter than words, so for T5 it would be somewhat fewer sentences.

# %%
import re

from llmkit.data.text import python_docs

real = [split(part) for part in re.split(r"(?<=\.)\s+(?=[A-Z])", python_docs()) if part.strip()]
short = np.mean([len(part) <= longest for part in real])
print(
    f"sentences of at most {longest} tokens, which always lose their end and nothing else: {round(short, 1):.0%}, to the nearest 10%"
)
assert 0.4 < short < 0.95

# %% [markdown]
# ## On a GPU
#
# A T5 of about 30 million parameters on the same reference, 568 tokens a text, so that no trap is in the way.


# %%
@gpu_section(
    "pretrain a T5 of about 30 million parameters on Python's reference for 400 steps",
    full={"C": 384, "n_layers": 6, "n_steps": 400, "batch": 32, "length": 568, "n_words": 8000},
    smoke={"C": 16, "n_layers": 1, "n_steps": 2, "batch": 2, "length": 40, "n_words": 300},
)
def larger(device, C, n_layers, n_steps, batch, length, n_words):
    tokens = split(python_docs())
    common = [token for token, _ in Counter(tokens).most_common(n_words)]
    marks = 200  # sentinels, behind </s>, <pad> and one id for all rare words
    number = {token: i + 3 + marks for i, token in enumerate(common)}
    ids = [number.get(token, 2) for token in tokens]
    config = T5Config(n_words + 3 + marks, C, n_layers, n_heads=C // 16, head_dim=16, d_ff=4 * C)
    torch.manual_seed(0)
    model, rng = t5(config).to(device), np.random.default_rng(0)

    def batches():
        while True:
            begins = rng.integers(len(ids) - length, size=batch)
            texts = [ids[begin : begin + length] for begin in begins]
            pairs = [span_corruption(text, noise_mask(length, rng), range(3, 3 + marks), 1) for text in texts]
            yield tuple(part.to(device) for part in pad_pairs(pairs))

    losses = fit(model, batches(), n_steps, 0.02, seq2seq_loss)
    print(f"{model.n_params():,} parameters: loss {np.mean(losses[:3]):.2f} -> {np.mean(losses[-20:]):.2f}")
    return losses


# %% [markdown]
# ## Mistakes people make
#
# | mistake | how it shows |
# |---|---|
# | The encoder's padding mask is not handed to the cross-attention | nothing; the answer to a text depends on what else is in the batch |
# | Labels not shifted, or shifted twice (some models shift inside) | a loss near 0 and nonsense written; or a model that always skips a token |
# | The reference mask on short texts | a loss that falls fast; only ends are ever asked |
# | -100 left in the decoder's input, or padding left in the labels | an index error; or a model that is best at predicting padding |
# | Decoder started with the wrong token (T5: padding, BART: `</s>`) | the first word is off, the rest is often fine |
# | T5's head without its factor, or with it where the matrices are not tied (1.1) | first loss in the hundreds; or answers that are far too unsure |
# | Sentinels in another order: T5's own ids count *down* from the last of the vocabulary | loaded models fill gaps with noise |
#
# ## Where the real systems do it
#
# - **T5**: `t5/data/preprocessors.py` of google-research/text-to-text-transfer-transformer: `random_spans_noise_mask`, and `random_spans_helper` for the lengths. **transformers** `models/t5/modeling_t5.py`; `examples/flax/language-modeling/run_t5_mlm_flax.py` has the collator.
# - **BART**: fairseq `fairseq/data/denoising_dataset.py`; transformers `models/bart/modeling_bart.py` with `shift_tokens_right`, and `run_bart_dlm_flax.py`.
# - Raffel et al. 2020: section 2.1 (the model), 3.1.4 (span corruption's first form), 3.2 (encoder-decoder against decoder-only at equal cost), 3.3 (objectives). Lewis et al. 2019: section 2.2 (five kinds of noise), 4 (which of them helps), 5.1 (the published mixture). Vaswani et al. 2017, section 3.2.3: cross-attention.
#
# ## What llmkit gained
#
# | file | what |
# |---|---|
# | `llmkit/layers/cross.py` | `CrossAttention`, the decoder's blocks with three branches |
# | `llmkit/layers/seq2seq.py` | `Seq2SeqLM`, `ConditionalLM` |
# | `llmkit/models/t5.py`, `bart.py` | configs, builders, tables of weights |
# | `llmkit/data/span_corruption.py` | span corruption and back, both noise masks, `hidden_share` |
# | `llmkit/data/bart_noise.py` | BART's five kinds of noise |
# | `llmkit/training/losses.py` | `shift_right`, `seq2seq_loss` |
# | `llmkit/viz/corruption.py`, `attention.py` | damaged texts as boxes, `cross_attention_maps` |
#
# Three questions to check yourself:
#
# <details><summary>Why does the cross-attention need no causal mask, although the decoder must not see the future?</summary>
#
# The future that it must not see is that of the answer. The text is given as a whole, before the first word is written.
# </details>
#
# <details><summary>An answer of 100 tokens to a text of 1,000: what grows in the cache, and what does not?</summary>
#
# The keys and values of the decoder's self-attention grow by one token a step, up to 100. Those of the cross-attention, 1,000 a layer, are made at the first step and stay.
# </details>
#
# <details><summary>You repair T5's mask by choosing each token with probability 0.15 on its own. What changes?</summary>
#
# Nearly all spans then have one token: the mean is 1 / 0.85 = 1.2. Targets become longer, because nearly every missing token brings a sentinel along, and a single missing word is easier to guess than three in a row.
# </details>

# %%
torch.set_num_threads(threads)
progress()

# %% [markdown]
# **Next**: 12_text_to_text. One such model, many tasks: a prefix in front of the input says what to do with it.
