# %% [markdown]
# # 13 · Pretraining: data, optimiser, resume
#
# **You will** find copies among documents without comparing all pairs, pack texts into rows that do not leak into each other, repair the accumulation bug that half the world had until 2024, get several training runs out of one, and kill a run with SIGKILL and bring it back to the last bit.
#
# **Before** you start: lessons 05 (the training loop, warm-up, GPT-2) and 04 (masks). From torch you need `cumsum`, `masked_fill`, `backward`; from numpy broadcasting.
#
# **Time** about 85 minutes for four exercises, 31 more for three that are optional. All cells together run for about half a minute.

# %% tags=["setup"]
import importlib.util
import inspect
import math
import random
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llmkit import results
from llmkit.course import check, gpu_section, hint, progress, start
from llmkit.viz import COLORS, figure, show

torch.set_num_threads(1)  # the fastest for models as small as ours
start("13_pretraining", solved=True)
temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
work = Path(temporary.name)  # everything that this lesson writes goes there

# %% [markdown]
# ## A run that dies
#
# A large model trains for weeks on thousands of machines, and machines fail. Llama 3's 405B model was interrupted 466 times in 54 days (Dubey et al. 2024, section 3.3.4). So a run is not one long program. It is many short ones, and what holds it together lies on a disk.
#
# We begin with such a death, in small. The stories of the village (lesson 05), cut into words, one number for each:

# %% tags=["nbval-check-output"]
from llmkit.data.shard_writer import write_shards
from llmkit.data.toyland import END
from llmkit.training.rehearsals import START, village

stories = village()  # .train and .held_out: lists of ids. .vocabulary: the words
V = len(stories.vocabulary)
END_ID = stories.vocabulary.index(END)
shards = write_shards((story[:-1] for story in stories.train), work / "shards", V, eos_id=END_ID)  # it adds the end
print(
    f"{len(stories.train):,} stories, {shards.n_tokens:,} tokens of {V:,} kinds, in {shards.dtype.itemsize} bytes each"
)
print("".join(stories.vocabulary[i] for i in stories.train[0][:28]), "…")

# %% [markdown]
# A *shard* is a file of token ids and nothing else, so that any part of it can be read without the rest. `Sampler` decides which rows make which batch. `Trainer` is the loop of lesson 05, grown up: it saves itself every so many steps, and `resume()` goes on from what was saved.
#
# The program below is what we shall kill. It has dropout, so chance takes part: random numbers must come out the same too. (`DocumentWindows` cuts the shard into rows of 64 tokens, `packed_loss` adds up −log P over a batch, `decay_groups` says which weights shrink; all three come again below.) At step `hang_at` it stops, with a batch half done, and waits for its end.

# %%
PROGRAM = """
import sys, time
import torch
from llmkit.data.sampler import DocumentWindows, Sampler
from llmkit.data.shards import TokenShards
from llmkit.models.gpt2 import GPT2Config, gpt2
from llmkit.training.losses import packed_loss
from llmkit.training.optim import AdamW, decay_groups
from llmkit.training.schedules import warmup_cosine
from llmkit.training.settings import Settings
from llmkit.training.trainer import Trainer

torch.set_num_threads(1)

def new_trainer(shards, folder, hang_at=None):
    rows = DocumentWindows(TokenShards(shards), context=64)
    torch.manual_seed(0)
    model = gpt2(GPT2Config(rows.data.vocab_size, 64, d_model=32, n_layers=2, n_heads=2, dropout=0.1))

    def loss(model, *batch):
        if trainer.step == hang_at:
            print("in the middle of a step", flush=True)
            time.sleep(600)
        return packed_loss(model, *batch)

    trainer = Trainer(
        model, AdamW(decay_groups(model), 1e-2), Sampler(rows, batch_size=8),
        lambda step: warmup_cosine(step, 100, 1e-2, 5),
        Settings(n_steps=100, save_every=20, log_every=1, keep=10), folder, loss=loss, progress=False)
    return trainer

if __name__ == "__main__":
    new_trainer(sys.argv[1], sys.argv[2], hang_at=70).fit()
"""
(work / "program.py").write_text(PROGRAM, encoding="utf-8")
spec = importlib.util.spec_from_file_location("program", work / "program.py")
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)  # the same code for us, here in the notebook


def losses(trainer):
    return [line["loss"] for line in trainer.log.lines if "loss" in line]


whole = program.new_trainer(work / "shards", work / "whole")
whole.fit()
print(f"the run that nothing happens to: {losses(whole)[0]:.2f} nats a token at step 1, {losses(whole)[-1]:.2f} at 100")

# %% [markdown]
# Now the same as a process of its own. When it says that it is in the middle of a step, we kill it: `kill()` is SIGKILL, which no program can catch or prepare for.

# %%
from llmkit.training.runlog import read_log

process = subprocess.Popen(
    [sys.executable, str(work / "program.py"), str(work / "shards"), str(work / "killed")],
    stdout=subprocess.PIPE, text=True,
)  # fmt: skip
print("the process is", process.stdout.readline().strip())
process.kill()
process.communicate()
first_life = [line["loss"] for line in read_log(work / "killed" / "metrics.jsonl")]
print(f"killed; its log has {len(first_life)} steps, its checkpoints:",
      ", ".join(path.name for path in sorted((work / "killed" / "checkpoints").iterdir())))  # fmt: skip

second = program.new_trainer(work / "shards", work / "killed")
went_back_to = second.resume()
second.fit()
second_life = losses(second)[went_back_to:]
print(f"resumed from step {went_back_to}, in another process, and trained to step {second.step}")

# %%
from llmkit.viz.pretraining import draw_resumed

same_losses = losses(second) == losses(whole)
weights = zip(whole.model.parameters(), second.model.parameters(), strict=True)
apart = max((a - b).abs().max().item() for a, b in weights)
fig, axis = figure(height=3.0)
draw_resumed(axis, losses(whole), first_life, second_life, went_back_to)
axis.text(21, losses(whole)[20] + 0.3, "never interrupted (wide, grey)", color="#666666", fontsize=9)
axis.text(65, first_life[-1] + 0.42, "killed in step 71", fontsize=9)
axis.text(61.5, 6.7, "checkpoint of step 60", fontsize=9)
axis.text(88, second_life[26] + 0.47, "resumed", color=COLORS["bad"], fontsize=9)
axis.text(8, first_life[8] - 1.1, "first life", color=COLORS["model"], fontsize=9)
axis.set_title("Killed, resumed from step 60: on the old line to the last bit")
show(
    fig,
    alt=f"Training loss by step. The run that was killed in step 71 and resumed from step {went_back_to} lies on the run that was "
    f"never interrupted; the largest difference of a weight at step 100 is {apart}.",
)
print(f"all losses equal: {same_losses}; largest difference of a weight after step 100: {apart}")
assert same_losses and apart == 0.0 and len(first_life) == 70 and went_back_to == 60

# %% [markdown]
# Not "about as good": **the same numbers**. Ten steps were lost, nothing else. So the questions of this lesson: **what must lie on the disk for that? And before the disk: what goes into a run, and what happens in one step of it?** We take them in the order in which a run meets them: the data, the step, the disk.
#
# ## Part one: the data
#
# ## How alike are two texts?
#
# The web says many things many times. A model that reads a page a thousand times learns it by heart, and if the page is in the test set too, its score is worth nothing. So copies must go. *Exact* copies are easy: a hash of each text, and equal hashes meet. But copies differ by a date, a name, a menu.
#
# Cut both texts into all runs of $n$ words (**shingles**), as sets $A$ and $B$. Their **Jaccard similarity** is what they share, divided by what there is:
#
# $$J(A, B) = \frac{|A \cap B|}{|A \cup B|}$$
#
# ### Exercise 13.1 · two sentences · ●○○ · 4 min
#
# "the cat sat on the mat" and "the cat sat on a mat", shingles of *two* words. What is their Jaccard similarity? (To within half a hundredth; a fraction such as `1 / 2` will do.)

# %%
similarity = None
# BEGIN SOLUTION
similarity = 3 / 7  # shared: the cat, cat sat, sat on. Only one has: on the, the mat; on a, a mat
# END SOLUTION
similarity = check(similarity, "13.1")

# %%
from llmkit.data.dedup import jaccard, shingles

pair = "The cat sat on the mat.", "The cat sat on a mat."
print({n: round(jaccard(*(shingles(text, n) for text in pair)), 3) for n in (1, 2, 3)}, "for shingles of 1, 2, 3 words")
assert abs(similarity - jaccard(*(shingles(text, 2) for text in pair))) < 0.005

# %% [markdown]
# One word of six was exchanged. Each sentence has two of its five pairs for itself, so of seven pairs three are shared: less than half. Longer shingles are stricter, and say better that it is the *same text* and not the same subject.
#
# ## A signature for each text
#
# For a million documents there are half a million million pairs. Nobody compares them all. **MinHash** (Broder 1997) makes from each set a short list of numbers, its signature, so that two lists agree in a share of about $J$ places. The idea:
#
# - A hash function gives each shingle a number that looks random. It puts all shingles of the world in an *order*.
# - Keep only the smallest number in the set: the shingle that is first in this order.
# - Of all shingles in $A \cup B$, one is first, and each is equally likely to be it. If it lies in both sets, both have the same smallest number. If it lies in one of them only, they have not. So **the two smallest numbers are equal with probability $J$**.
# - One such comparison is a coin. Take $H$ functions, and count.
#
# ### Exercise 13.2 · minhash · ●●○ · 15 min · optional
#
# Write `minhash(items, n_hashes, seed)`. `hash64(text)` gives 64 bits of a text. Function $h$ is `mix(hash64(item) ^ key)`, with `key` the $h$-th of `_keys(n_hashes, seed)`; `mix` scrambles arrays of uint64. The result is the smallest value for each function, (H,) uint64; of no item at all it is the largest uint64, $2^{64} - 1$, everywhere. `items` may be any iterable, also one that can be read only once. `_keys` raises the ValueError for you.
#
# In numpy: `a[:, None] ^ b` of shapes (N,) and (H,) gives (N, H); `np.array(…, dtype=np.uint64)`; `np.iinfo(np.uint64).max`.

# %%
from llmkit.data.dedup import _keys, estimated_jaccard

# %% tags=["exercise"]
from llmkit.data.dedup import minhash

# %%
minhash = check(minhash)

# %% [markdown]
# Does it estimate $J$? Pairs of stories, in which one is the other with more and more of its words exchanged; shingles of five words from here on. (The left panel is the answer. The right one belongs to the section's second trick, which is explained below it.)

# %%
from llmkit.data.dedup import candidate_pairs, candidate_probability

rng = random.Random(0)
BANDS, HASHES = 24, 120
points = []
for number in range(240):
    words = stories.texts[number].split()
    changed = [rng.choice(stories.vocabulary[2:]).strip() if rng.random() < (number % 24) / 100 else w for w in words]
    sets = [shingles(text) for text in (stories.texts[number], " ".join(changed))]
    signatures = [minhash(items, HASHES) for items in sets]
    found = bool(list(candidate_pairs(np.stack(signatures), BANDS)))
    points.append((jaccard(*sets), estimated_jaccard(*signatures), found))
true, estimated, found = map(np.array, zip(*points, strict=True))
error = np.sqrt(np.mean((estimated - true) ** 2))
expected_error = np.sqrt(np.mean(true * (1 - true) / HASHES))
fig, axes = figure(2, height=3.0)
s = np.linspace(0, 1, 101)
band = 2 * np.sqrt(s * (1 - s) / HASHES)
axes[0].fill_between(s, s - band, s + band, color=COLORS["masked"])
axes[0].plot(true, estimated, ".", color=COLORS["model"], markersize=4)
axes[0].text(0.45, 0.12, "grey: ± 2 standard\ndeviations of a coin", fontsize=9)
axes[0].set(xlabel="true Jaccard similarity", ylabel="share of equal places", title="120 numbers estimate J")
axes[1].plot(s, candidate_probability(s, BANDS, HASHES // BANDS), color=COLORS["truth"], linewidth=1.5)
edges = np.linspace(0, 1, 9)
for low, high in zip(edges[:-1], edges[1:], strict=True):
    inside = (true >= low) & (true < high + 1e-9 * (high == 1))
    if inside.sum() >= 5:
        axes[1].plot(true[inside].mean(), found[inside].mean(), "o", color=COLORS["model"])
axes[1].text(0.02, 0.82, "points: our pairs\nline: 1 − (1 − s⁵)²⁴", fontsize=9)
axes[1].set(
    xlabel="true Jaccard similarity s", ylabel="share of pairs looked at", title="Only look-alikes are compared"
)
show(
    fig,
    alt=f"Left: estimated against true similarity of 240 pairs; the root mean square error is {error:.3f}, theory says "
    f"{expected_error:.3f}. Right: the share of pairs that agree in a whole band is an S-curve, "
    f"{candidate_probability(0.4, BANDS, 5):.2f} at a similarity of 0.4 and {candidate_probability(0.8, BANDS, 5):.4f} at 0.8.",
)
print(f"root mean square error {error:.3f}; a coin of that probability, tossed {HASHES} times: {expected_error:.3f}")
assert abs(error / expected_error - 1) < 0.25

# %% [markdown]
# The error is that of a coin tossed 120 times, no more.
#
# The right panel is the second trick, for not comparing all pairs. Cut the signature into 24 **bands** of 5 numbers. Only texts that agree in a *whole* band are looked at more closely. One band agrees with probability $s^5$, so none of 24 does with $(1 - s^5)^{24}$: an S-curve. Strangers hardly ever meet, near copies nearly always do.
#
# Does it find copies? We plant sixty among 400 stories, of three kinds.

# %%
from llmkit.data.dedup import deduplicate

originals = list(stories.texts[:400])
planted = {"spaces added": [], "one word exchanged": [], "every 12th word exchanged": []}
for number in range(20):
    words = originals[number].split()
    one = list(words)
    one[len(words) // 2] = "lantern"
    planted["spaces added"].append(originals[number] + "  \n")
    planted["one word exchanged"].append(" ".join(one))
    planted["every 12th word exchanged"].append(" ".join("lantern" if i % 12 == 5 else w for i, w in enumerate(words)))
corpus = originals + [text for copies in planted.values() for text in copies]
report = deduplicate(corpus)
print(f"{len(corpus)} documents, {report.exact} exact copies and {report.near} near ones removed")
caught = {}
for i, (kind, copies) in enumerate(planted.items()):
    numbers = range(400 + 20 * i, 420 + 20 * i)
    caught[kind] = sum(number in report.copy_of for number in numbers)
    likeness = np.mean([jaccard(shingles(originals[n]), shingles(text)) for n, text in enumerate(copies)])
    print(f"{kind:26} similarity {likeness:.2f}: {caught[kind]} of 20 found")
wrongly = [number for number in report.copy_of if number < 400]
print(f"stories wrongly taken for copies: {len(wrongly)}")
assert list(caught.values()) == [20, 20, 0] and not wrongly

# %% [markdown]
# The third kind is missed, by design: exchange one word in twelve, and most runs of five are broken; similarity is far below the threshold of 0.8. A page from a template with other names filled in is such a case. Lower the threshold and it is found, together with texts that are only alike. There is no right threshold, there is a decision.
#
# ## What do copies cost?
#
# The experiment. A model reads the same number of tokens in every arm, 300 steps of 512. But in the second arm they come from half as many different stories, each read twice; then 4, 8, 16 times. The control is the first arm, in which nothing is read twice (its stories just suffice). Everything else is equal; three seeds each, for the weights and the order.
#
# The first arm reaches about 2.08 nats a token on stories that nobody has read. Write down a guess: what will the arm reach that reads a sixteenth of the stories 16 times?

# %%
guess = None

# %% [markdown]
# These runs take minutes, so they were made before (`python benchmarks/results/pretraining.py`, which runs seeds 0, 1 and 2) and kept in llmkit/results/. We load them, and run the first fifth of one again to see that they say what this machine says.

# %%
from llmkit.training.rehearsals import curves, entropy, repeated

stored = results.load("pretraining")
print("made with:", stored["command"])
live = repeated(16, seed=0)
live.fit(until=60)
then = next(run for run in stored["repeats"] if run["times"] == 16 and run["seed"] == 0)["held_out"][0][1]
now = curves(live)["held_out"][0][1]
print(f"16 times, seed 0, held-out loss at step 60: stored {then:.2f}, now {now:.2f}")
exact = stored["entropy"]
print(f"the perfect model: {exact:.3f} nats a token on all 48 held-out stories")
assert abs(now - then) < 0.1 and abs(entropy(4) - exact) < 0.15

# %%
times = sorted({run["times"] for run in stored["repeats"]})
ends = {t: [run["held_out"][-1][1] for run in stored["repeats"] if run["times"] == t] for t in times}
read = {t: [run["training_loss"] for run in stored["repeats"] if run["times"] == t] for t in times}
fig, axes = figure(2, height=3.2)
for losses_of, color in ((ends, COLORS["model"]), (read, COLORS["control"])):
    means = [np.mean(losses_of[t]) for t in times]
    spread = [[m - min(losses_of[t]) for m, t in zip(means, times, strict=True)],
              [max(losses_of[t]) - m for m, t in zip(means, times, strict=True)]]  # fmt: skip
    axes[0].errorbar(times, means, spread, fmt="o-", color=color, capsize=3, markersize=4)
if guess is not None:
    axes[0].plot(16, guess, "*", color=COLORS["guess"], markersize=14)
axes[0].axhline(exact, color=COLORS["truth"], linewidth=1.2)
axes[0].text(1, exact + 0.07, "entropy", fontsize=9)
axes[0].text(1, 2.3, "stories never read", color=COLORS["model"], fontsize=9)
axes[0].text(1.6, 1.45, "stories being read", color="#666666", fontsize=9)
axes[0].set_xscale("log", base=2)
axes[0].set_xticks(times, [str(t) for t in times])
axes[0].minorticks_off()
axes[0].set(xlabel="times each story is read", ylabel="nats a token", title="Same steps, fewer stories")
for t, color in ((1, COLORS["good"]), (4, COLORS["key"]), (16, COLORS["bad"])):
    runs = [run["held_out"] for run in stored["repeats"] if run["times"] == t]
    steps = [step for step, _ in runs[0]]
    mean = [np.mean([run[i][1] for run in runs]) for i in range(len(steps))]
    axes[1].plot(steps, mean, "o-", color=color, markersize=4)
    axes[1].text(
        304, mean[-1] + (0.09 if t == 4 else -0.05 if t == 1 else 0), f"{t}×", color=color, va="center", fontsize=9
    )
axes[1].set(xlabel="step", ylabel="held-out, nats a token", xlim=(50, 335), title="16×: lowest at step 120")
mean_end = {t: float(np.mean(ends[t])) for t in times}
show(
    fig,
    alt="Left: held-out loss by how often each story is read: "
    + ", ".join(f"{t} times {m:.2f}" for t, m in mean_end.items())
    + f"; the loss on the stories being read falls from {np.mean(read[1]):.2f} to {np.mean(read[16]):.2f}. "
    "Right: held-out loss by step for 1, 4 and 16 times; the last one rises from step 120 on.",
)
seed_spread = max(ends[1]) - min(ends[1])
for t in times:
    print(
        f"{t:2} times: held-out {mean_end[t]:.2f} ({mean_end[t] - mean_end[1]:+.2f}), on what it reads {np.mean(read[t]):.2f}"
    )
print(f"three seeds of the first arm lie within {seed_spread:.2f}" + (f"; your guess for 16: {guess}" if guess else ""))
assert mean_end[16] > mean_end[1] + 1.5 and mean_end[4] < mean_end[1] + 0.15
assert np.mean(read[16]) < exact < np.mean(read[8])
assert mean[0] < mean_end[16] and min(mean) == mean[1]  # `mean` is the curve of 16 times

# %% [markdown]
# Reading twice costs next to nothing, four times costs a little, sixteen times is a disaster: the run ends worse than it was after 60 steps. And the *training* loss is best just where the model is worst. Whoever watches only that one sees a triumph. It even falls below the entropy, the least that anybody could lose who has not read these stories: a sign that they have been learnt by heart.
#
# (The curve in the right panel says what could have been saved by stopping at its lowest point. Muennighoff et al. (2023) found for models of up to 9 billion parameters that four epochs are nearly as good as new data, and that the worth of repeating fades after that. Where it turns depends on the size of the model against the data; that four is near the limit here too is partly chance.)
#
# Note what this experiment does *not* say: that removing copies makes a corpus larger. It makes room for other text.
#
# ## Is the exam in the textbook?
#
# The other kind of copy is a copy of the *test*. GPT-3's authors looked for runs of 13 words that stand in both (Brown et al. 2020, appendix C).
#
# ### Exercise 13.3 · overlap_share · ●●○ · 10 min · optional
#
# Write `overlap_share(document, item, n)`: the share of the *document's* words that lie in a run of `n` words which stands in the test item too. Words come from `gram_words(text)` (lower case, no punctuation). Runs may overlap; a word counts once. 0.0 where there is no such run, also for empty texts; a ValueError for `n` below 1.

# %%
from llmkit.data.decontamination import _grams, gram_words

# %% tags=["exercise"]
from llmkit.data.decontamination import overlap_share

# %%
overlap_share = check(overlap_share)

# %% [markdown]
# `overlap` does the same for a whole corpus, with an index of the test's runs, reading each document once. Three of the test's stories have found their way into the training texts: one whole, one as a quote of 30 words, one with every tenth word exchanged.

# %%
from llmkit.data.decontamination import overlap

test = list(stories.held_out_texts)
quote = "Somebody wrote: " + " ".join(test[1].split()[20:50]) + " That was all."
rewritten = " ".join("lantern" if i % 10 == 4 else word for i, word in enumerate(test[2].split()))
documents = list(stories.texts[:300]) + [test[0], quote, rewritten]
share_hit = {}
for n in (13, 8, 5):
    hit = overlap(documents, test, n=n, shortest=min(8, n)).documents  # test items below `shortest` words are skipped
    share_hit[n] = sum(number < 300 for number in hit) / 300
    print(f"n = {n:2}: the three " + ", ".join(f"{hit.get(i, 0.0):.2f}" for i in (300, 301, 302))
          + f"; of the 300 honest stories {share_hit[n]:.0%} are hit")  # fmt: skip
assert (
    overlap_share(quote, test[1]) == overlap(documents, test).documents[301]
    and share_hit[13] < 0.05 < 0.3 < share_hit[8]
)

# %% [markdown]
# At 13 words the whole copy and the quote are found. The rewritten one is not: no run of ten words is left in it. Runs of 8 find it, and accuse half of the honest stories too, because people in this village say the same things. The same dilemma as before, and harder: a test item that was *translated* or rephrased is found by no run of words.
#
# ## Rows without waste
#
# A model trains on rows of one length, and documents have lengths of their own. Three ways:
#
# 1. one document a row, and padding behind it;
# 2. all documents end to end, cut every $T$ tokens (`concatenate`);
# 3. *best fit*: the longest first, each into the row where the least space is left over (`best_fit`).

# %%
from llmkit.data.packing import best_fit, concatenate
from llmkit.viz.pretraining import draw_packed

T = 256
some = stories.train[:400]
ways = {"end to end, cut": concatenate(some, T), "best fit": best_fit(some, T)}
alone = sum(map(len, some)) / (len(some) * T)
table = {"one a row": (alone, 0.0)} | {name: (p.occupancy, p.n_cut / len(some)) for name, p in ways.items()}
fig, axes = figure(2, height=2.7)
for axis, (name, packed) in zip(axes, ways.items(), strict=True):
    draw_packed(axis, packed, range(8) if name != "best fit" else range(0, len(packed.ids), len(packed.ids) // 8 + 1))
    axis.set_title(f"{name}: {packed.occupancy:.1%} full, {packed.n_cut / len(some):.0%} cut", fontsize=10)
axes[0].set_ylabel("row")
for axis in axes:
    axis.set_xlabel("token of the row (a colour: a story)")
fig.suptitle(
    "Best fit cuts no story and wastes little (dark: padding)", fontsize=11, x=0.02, ha="left", fontweight="bold"
)
show(
    fig,
    alt="Rows of 256 tokens, packed in two ways: eight that follow each other, and eight from all of best fit. "
    + "; ".join(
        f"{name}: {full:.1%} of the tokens are text, {cut:.0%} of the stories are cut"
        for name, (full, cut) in table.items()
    ),
)
for name, (full, cut) in table.items():
    print(f"{name:16} {full:6.1%} of the tokens are text, {cut:4.0%} of the stories cut")
assert table["best fit"][0] > 0.9 > 0.6 > alone and table["best fit"][1] == 0

# %% [markdown]
# One story a row: nearly half of the arithmetic is spent on padding. Best fit wastes a fourteenth or so and cuts nothing. Cutting is not free either: the second half of a story talks about people that this row has never introduced (Ding et al. 2024).
#
# But now several texts lie in one row, and three things must be said so that they do not mix. Attention must not look from one into another. Positions must begin at 0 in each. And the last token of a text must not be asked for the first of the next. The first two follow from the *number of the document* each token belongs to, which `Transformer.forward` takes as `documents`.
#
# ### Exercise 13.4 · mark_documents · ●●○ · 10 min
#
# Write `mark_documents(ids, targets, eos_id)` for rows `ids` (..., T), in which each document is followed by the token `eos_id`. `targets` (..., T) are the tokens that come one later. Give back two new tensors:
#
# - the targets, with −100 where `ids` has an end token (what comes next is another text);
# - the documents, int64 (..., T): the number of the document, from 0 in each row. The end token belongs to the document it ends.
#
# Watch the second sentence: a *target* that is an end token stays, or the model never learns to stop. `x.cumsum(-1)` counts a boolean tensor along its last axis.

# %% tags=["exercise"]
from llmkit.data.packing import mark_documents

# %%
mark_documents = check(mark_documents)

# %% [markdown]
# Is it enough? A proof by numbers. Take a row with two stories, exchange *every* word of the first, and look at the logits of the second. They must not move, not even in the last bit.

# %%
from llmkit.models.llama import LlamaConfig, llama

first, other, later = (torch.tensor(stories.train[i]) for i in (0, 1, 2))
n = min(len(first), len(other))
torch.manual_seed(0)
reader = llama(LlamaConfig(V, 32, n_layers=2, n_heads=2, d_ff=64, tie=True)).eval()
rows = torch.stack([torch.cat([text[: n - 1], torch.tensor([END_ID]), later]) for text in (first, other)])  # (2, T)
_, row_documents = mark_documents(rows, rows.roll(-1, dims=1), END_ID)
moved = {}
with torch.no_grad():
    for name, given in {"with document numbers": row_documents, "without": None}.items():
        logits = reader(rows, documents=given)[:, n:]  # of the second story, after two different first ones
        moved[name] = (logits[0] - logits[1]).abs().max().item()
        print(f"{name:22} the logits of the second story move by up to {moved[name]:.3g}")
    on_its_own = reader(later[None])[0]
    difference = (reader(rows, documents=row_documents)[0, n:] - on_its_own).abs().max().item()
    print(f"and they are those of the story alone in a row, up to {'rounding' if difference < 1e-5 else difference}")
assert moved["with document numbers"] == 0.0 < moved["without"] and difference < 1e-5

# %% [markdown]
# ## Part two: the step
#
# ## One batch in many parts
#
# A global batch of a million tokens fits into no memory. So it comes in parts: a backward pass for each, gradients add up in `p.grad`, and one step at the end. That is **gradient accumulation**, and the same sum is what many GPUs do at once.
#
# ### Exercise 13.5 · accumulated_gradients · ●●○ · 12 min · find the bug
#
# The function below gives the loss of the whole batch and the gradients, in the order of `model.parameters()`. `packed_loss(model, *part).nats` is the *sum* of −log P over the targets that count. The loss should not depend on how the batch was cut; with this function it does. Mend it. (Parts may have different shapes, a part may have no counted target at all, and gradients left from earlier are to be forgotten. Where no target counts anywhere: a ValueError.)

# %%
from llmkit.training.losses import IGNORE, packed_loss  # IGNORE is -100

# %% tags=["exercise"]
from llmkit.training.losses import accumulated_gradients

# %%
accumulated_gradients = check(accumulated_gradients)

# %% [markdown]
# The wrong version is not a straw man. Nearly everybody had it: a loss function that takes the mean over *its own* tokens, divided by the number of parts. It was reported in October 2024 (huggingface/trl#2175), traced by Unsloth, and mended in transformers by the pull request #34191 and its successors. It stayed hidden because with rows that are all full it is right.
#
# How wrong is it otherwise? `reader` from above, untrained, and sixteen stories, cut to very different lengths, one a row with padding, in parts of one row each. Beside it the control: rows that are all full.

# %%
from llmkit.data.batches import pad


def naive(model, parts):
    """The mean of the parts' own means."""
    model.zero_grad()
    for part in parts:
        (packed_loss(model, *part).nats / (part[1] != IGNORE).sum() / len(parts)).backward()
    return [p.grad.clone() for p in model.parameters()]


def angle(a, b):
    a, b = (torch.cat([g.flatten() for g in gradients]) for gradients in (a, b))
    return math.degrees(math.acos(min(1.0, (a @ b / (a.norm() * b.norm())).item())))


def as_parts(documents, n_parts):
    ids, real = pad(documents)
    targets = ids.roll(-1, dims=1).masked_fill(~real.roll(-1, dims=1), IGNORE)
    targets[:, -1] = IGNORE
    return list(zip(ids.chunk(n_parts), targets.chunk(n_parts), strict=True))


uneven = [stories.train[i][: 4 + 8 * i] for i in range(16)]
full = [stories.train[i][:64] for i in range(40) if len(stories.train[i]) >= 64][:16]
wrong_by = {}
for name, batch in (("4 to 124 tokens", uneven), ("all of 64", full)):
    right_loss, whole_gradient = accumulated_gradients(reader, as_parts(batch, 1))
    whole_gradient = [g.clone() for g in whole_gradient]
    for n_parts in (4, 16):
        mended = accumulated_gradients(reader, as_parts(batch, n_parts))[1]
        cured = angle([g.clone() for g in mended], whole_gradient)
        wrong_by[name, n_parts] = angle(naive(reader, as_parts(batch, n_parts)), whole_gradient)
        print(
            f"{name:16} in {n_parts:2} parts: the gradient points {wrong_by[name, n_parts]:4.1f}° away by mean of means, {cured:.1f}° by your function"
        )
        assert cured < 0.3
assert wrong_by["4 to 124 tokens", 16] > 5 > 0.3 > wrong_by["all of 64", 16]

# %% [markdown]
# With full rows there is no difference at all, which is why tests on packed text never saw it. With uneven rows each token of the short text weighs as much as many of a long one, so the run optimises something else than it says. (`Trainer` adds up sums over parts *and* ranks, and divides once.)
#
# ## AdamW, taken apart
#
# Lesson 05 promised it. The whole optimiser is this (`_foreach_` means: for a list of tensors at once):

# %% tags=["show"]
from llmkit.training.optim import adamw_update

# %% [markdown]
# By hand, for one weight of 1.0 with the gradients 4 and then 2, lr 0.1, betas 0.9 and 0.99, no decay. The mean $m$ and the mean square $s$ begin at 0, which makes them too small at first; dividing by $1 - \beta^{t}$ repairs that:

# %% tags=["nbval-check-output"]
w, m, s = 1.0, 0.0, 0.0
theirs = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
torchs = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.99), weight_decay=0.0)
for t, g in enumerate((4.0, 2.0), start=1):
    m, s = 0.9 * m + 0.1 * g, 0.99 * s + 0.01 * g * g
    mean, square = m / (1 - 0.9**t), s / (1 - 0.99**t)
    w -= 0.1 * mean / (math.sqrt(square) + 1e-8)
    theirs.grad = torch.tensor([g], dtype=torch.float64)
    torchs.step()
    print(
        f"step {t}: m {m:.3f}, s {s:.4f}; corrected {mean:.3f} and {square:.3f}; w = {w:.4f} (torch: {theirs.item():.4f})"
    )
    assert abs(w - theirs.item()) < 1e-9

# %% [markdown]
# The first step is 0.1 long whatever the gradient: $g / \sqrt{g^2}$. That is Adam's nature: it cares for the *sign* and the steadiness of a gradient, not for its size.
#
# ### Decay: beside the gradient, not inside it
#
# Weight decay pulls every weight a little towards 0. The old way (**L2**) adds $\lambda w$ to the gradient. But whatever goes into Adam's gradient is divided by the gradient's usual size. AdamW pulls *outside*: `p *= 1 - lr * weight_decay`. The W is for that, and it is why Loshchilov and Hutter (2019) called it **decoupled**.
#
# Three groups of 200 weights, all 1.0, whose gradients are pure noise of size 0.1, 1 and 10. Nothing is to be learned, so only the decay can move their means. lr 0.01, decay 0.1, 300 steps:

# %%
from llmkit.training.optim import AdamW

SIZES, DECAY, RATE = (0.1, 1.0, 10.0), 0.1, 0.01


def pulled(inside, decay=DECAY):
    """Mean of each group by step, (300, 3)."""
    generator = torch.Generator().manual_seed(0)
    w = torch.ones(3, 200, requires_grad=True)
    optimizer = AdamW([{"params": [w], "weight_decay": 0.0 if inside else decay}], RATE)
    path = []
    for _ in range(300):
        noise = torch.randn(3, 200, generator=generator) * torch.tensor(SIZES)[:, None]
        w.grad = noise + (decay * w.detach() if inside else 0.0)
        optimizer.step()
        path.append(w.detach().mean(1).tolist())
    return path


paths = {"L2: inside the gradient": pulled(True), "AdamW: beside it": pulled(False)}
control = pulled(False, decay=0.0)[-1]
fig, axes = figure(2, height=2.8, sharey=True)
for axis, (name, path) in zip(axes, paths.items(), strict=True):
    for group, (size, color) in enumerate(zip(SIZES, (COLORS["bad"], COLORS["model"], COLORS["good"]), strict=True)):
        axis.plot([point[group] for point in path], color=color)
        height = path[-1][group] + (0.0 if name.startswith("L2") else (group - 1) * 0.09)
        axis.text(304, height, f"{size:g}", color=color, va="center", fontsize=9)
    axis.plot([(1 - RATE * DECAY) ** t for t in range(300)], ":", color=COLORS["truth"], linewidth=1.5)
    axis.set(xlabel="step", xlim=(0, 340), ylim=(0, 1.1))
    axis.set_title(name, fontsize=10)
axes[0].set_ylabel("mean of the weights")
axes[0].text(112, 0.5, "numbers: size of the gradients\ndotted: (1 − lr · decay)ᵗ", fontsize=9)
fig.suptitle("L2 under Adam spares the weights with large gradients", fontsize=11, x=0.02, ha="left", fontweight="bold")
last = {name: path[-1] for name, path in paths.items()}
show(fig, alt="Means of three groups of weights after 300 steps, gradients of size 0.1, 1 and 10. "
     + "; ".join(f"{name}: " + ", ".join(f"{x:.2f}" for x in values) for name, values in last.items()))  # fmt: skip
for name, values in {**last, "no decay (control)": control}.items():
    print(f"{name:24} " + ", ".join(f"{size:g}: {x:.3f}" for size, x in zip(SIZES, values, strict=True)))
assert last["L2: inside the gradient"][0] < 0.1 and last["L2: inside the gradient"][2] > 0.95
assert all(abs(x - (1 - RATE * DECAY) ** 300) < 0.02 for x in last["AdamW: beside it"])

# %% [markdown]
# With AdamW all shrink by the factor that one asked for. With L2 the small-gradient group is gone and the large-gradient group hardly notices: the pull was divided by 0.1, 1 and 10.
#
# ## One run, many lengths
#
# A cosine (lesson 05) must know from its first step how long it will be. Stop it early and the rate is still high; go on afterwards and it has died down already. **Warm-up, stable, decay** (WSD) stays at its peak and comes down only at the end. On the plateau nothing depends on the length, so one may decide later: take a checkpoint of the plateau, come down from there, and keep the plateau for a longer run.
#
# ### Exercise 13.6 · warmup_stable_decay · ●●○ · 10 min
#
# Write `warmup_stable_decay(step, n_steps, peak, warmup, decay, floor)`. Steps count from 0.
#
# - Before step `warmup`: peak · (step + 1) / (warmup + 1), as in lesson 05. This rule comes first, even where the last `decay` steps have begun.
# - The last `decay` steps lead down. The share done is 0 at step `n_steps - decay` and 1 at step `n_steps` (and stays 1), and the rate goes from `peak` to `floor * peak` as 1 − √(share done) goes from 1 to 0.
# - In between: `peak`.
#
# `decay` None means a fifth of `n_steps`, rounded down, but at least 1. With `decay` 0 the rate is `peak` up to and with step `n_steps`. (Hägele et al. 2024 found this root better than a straight line.)

# %% tags=["exercise"]
from llmkit.training.schedules import warmup_stable_decay

# %%
warmup_stable_decay = check(warmup_stable_decay)

# %% [markdown]
# Three lengths, 75, 150 and 300 steps. The control: a cosine run from the beginning for each, 525 steps in all. WSD: one plateau of 240 steps, left at 60, 120 and 240 for the way down; 345 steps in all. Each schedule has the peak that is best for *it* at 150 steps (of 0.02, 0.04, 0.08 and 0.16), three seeds, all stored by the same command as before. The shortest WSD run again, live:

# %%
from llmkit.training.rehearsals import measured, one_run_many_lengths

LENGTHS = (75, 150, 300)
runs = stored["schedules"]
rates = {kind: next(run["lr"] for run in runs if run["schedule"] == kind) for kind in ("wsd", "cosine")}
reached = {
    kind: {n: [run["loss"] for run in runs if run["schedule"] == kind and run["length"] == n] for n in LENGTHS}
    for kind in ("wsd", "cosine", "cosine to 0")
}
branch = one_run_many_lengths([75], seed=0, lr=rates["wsd"])[75]
print(f"WSD, 75 steps, seed 0: stored {reached['wsd'][75][0]:.2f}, now {measured(branch):.2f}; best peaks {rates}")
assert abs(measured(branch) - reached["wsd"][75][0]) < 0.1

# %%
from llmkit.training.schedules import warmup_cosine

fig, axes = figure(2, height=3.1)
for n in LENGTHS:
    steps = range(n + 1)
    axes[0].plot(steps, [warmup_cosine(s, n, 1.0, 10) for s in steps], color=COLORS["control"], linewidth=1.5)
    axes[0].plot(steps, [warmup_stable_decay(s, n, 1.0, 10, n // 5) for s in steps], color=COLORS["model"])
axes[0].text(175, 1.03, "WSD", color=COLORS["model"], fontsize=9)
axes[0].text(180, 0.72, "cosine", color="#666666", fontsize=9)
axes[0].set(xlabel="step", ylabel="learning rate / peak", title="One plateau, three ways down", ylim=(0, 1.12))
for kind, color, mark in (("cosine", COLORS["control"], "s-"), ("wsd", COLORS["model"], "o-")):
    means = [np.mean(reached[kind][n]) for n in LENGTHS]
    spread = [[m - min(reached[kind][n]) for m, n in zip(means, LENGTHS, strict=True)],
              [max(reached[kind][n]) - m for m, n in zip(means, LENGTHS, strict=True)]]  # fmt: skip
    axes[1].errorbar(LENGTHS, means, spread, fmt=mark, color=color, capsize=3, markersize=4)
axes[1].text(112, 3.1, "cosine, 525 steps in all", color="#666666", fontsize=9)
axes[1].text(78, 2.2, "WSD, 345 steps", color=COLORS["model"], fontsize=9)
axes[1].set_xscale("log", base=2)
axes[1].set_xticks(LENGTHS, [str(n) for n in LENGTHS])
axes[1].minorticks_off()
axes[1].set(
    xlabel="length of the run in steps", ylabel="held-out, nats a token", title="As good, at two thirds the steps"
)
mean_reached = {kind: {n: float(np.mean(reached[kind][n])) for n in LENGTHS} for kind in reached}
show(
    fig,
    alt="Left: learning rates of three cosine runs and of one WSD plateau with three ways down. Right: held-out loss at 75, 150 and 300 "
    "steps; "
    + "; ".join(f"{kind} " + ", ".join(f"{x:.2f}" for x in mean_reached[kind].values()) for kind in rates)
    + ".",
)
for n in LENGTHS:
    print(f"{n:3} steps: WSD {mean_reached['wsd'][n]:.2f} ({min(reached['wsd'][n]):.2f} to {max(reached['wsd'][n]):.2f}), "
          f"cosine {mean_reached['cosine'][n]:.2f} ({min(reached['cosine'][n]):.2f} to {max(reached['cosine'][n]):.2f})")  # fmt: skip
assert abs(mean_reached["wsd"][75] - mean_reached["cosine"][75]) < 0.1
print("a cosine down to 0 instead: " + ", ".join(f"{n} steps {x:.2f}" for n, x in mean_reached["cosine to 0"].items()))
assert max(reached["wsd"][300]) < min(reached["cosine"][300] + reached["cosine to 0"][300])
assert all(mean_reached["cosine to 0"][n] > mean_reached["cosine"][n] - 0.02 for n in LENGTHS)

# %% [markdown]
# One WSD run serves all three lengths. At the shortest it is a little behind, at 150 equal, and at 300 it is ahead in all three seeds, by more than we had expected. Our first suspicion was the end of the way down: this cosine stops at a tenth of its peak and WSD at 0. So there is a second control, a cosine that goes to 0 too. It is no better, so that is not the reason. Another remains: the peaks were tuned at 150 steps with four values and one seed, and a peak that is right there need not be right at 300. Read the figure as "at least as good". The published comparisons say the same more carefully (Hu et al. 2024; Hägele et al. 2024).
#
# ## Part three: the disk
#
# ## What must be kept?
#
# Back to the run that came back from the dead. This is one step of the trainer, as it stands in the package:

# %%
from llmkit.training.trainer import Trainer

print(inspect.getsource(Trainer.train_step))

# %% [markdown]
# ### Exercise 13.7 · what may be left out · ●●○ · 6 min · optional
#
# Eight things that change during a run:
#
# - `"weights"`
# - `"means"`, `"squares"`, `"step counts"`: what AdamW remembers of each parameter
# - `"step"`: how many steps the run has done
# - `"place in the data"`: how far the sampler has come
# - `"learning rate"`: what `optimizer.lr` is now
# - `"random state"`: the state of torch's random generator, which dropout draws from
#
# Read `train_step`. (`_update(loss, lr)` clips the gradients and lets the optimiser take its step with this `lr`. What has to do with `rank`, `world` and `distributed` is for many GPUs, lesson 14; with one process, rank is 0 and world is 1. Weights in lower precision and idle experts play no part here either.) Which of them need *not* be in the checkpoint, because the trainer works them out anew from the others? Answer with a set of names, such as `{"weights", "step"}`. Then the cell below tries all eight.

# %%
may_be_left_out = None
# BEGIN SOLUTION
may_be_left_out = {"learning rate", "random state"}
# END SOLUTION
may_be_left_out = check(may_be_left_out, "13.7")

# %% [markdown]
# For each piece: take the checkpoint of step 60, spoil that piece, resume in a new trainer, train to the 80th step, and compare with the run that nothing happened to.

# %%
from llmkit.training.checkpoint import load_checkpoint, save_checkpoint

checkpoint = work / "whole" / "checkpoints" / "step-00000060"
truth, _ = load_checkpoint(work / "whole" / "checkpoints" / "step-00000080")


def spoil(piece, groups, state):
    """A checkpoint in which one piece is as it would be in a new run."""
    kinds = {"means": "mean:", "squares": "square:", "step counts": "steps:"}
    if piece == "weights":
        groups["model"] = {
            name: p.detach() for name, p in program.new_trainer(work / "shards", None).model.named_parameters()
        }
    elif piece in kinds:
        for name, value in groups["optimizer"].items():
            if name.startswith(kinds[piece]):
                groups["optimizer"][name] = torch.zeros_like(value)
    elif piece == "place in the data":
        state["batches"]["batch"] = 0
    elif piece == "step":
        state["step"] = 0


def resumed_without(piece):
    groups, state = load_checkpoint(checkpoint)
    spoil(piece, groups, state)
    folder = work / piece
    save_checkpoint(folder / "checkpoints", state["step"], groups, state)
    trainer = program.new_trainer(work / "shards", folder)
    trainer.resume()
    trainer.folder = None  # what comes now need not be saved
    trainer.optimizer.lr = 123.0 if piece == "learning rate" else trainer.optimizer.lr
    if piece == "random state":
        torch.manual_seed(987)
    trainer.fit(until=trainer.step + 20)
    ours = dict(trainer.model.named_parameters())
    return losses(trainer)[-20:], max(
        (ours[name] - p).abs().max().item() for name, p in truth["model"].items() if name in ours
    )


PIECES = ["weights", "means", "squares", "step counts", "step", "place in the data", "learning rate", "random state"]
reference = losses(whole)[60:80]
unlike, change = {}, {}
print("left out             loss of the next step    mean of 20     weights differ by")
for piece in ["nothing", *PIECES]:
    after, unlike[piece] = resumed_without(piece)
    change[piece] = (sum(after) - sum(reference)) / 20
    print(
        f"{piece:20} {after[0]:6.2f} ({after[0] - reference[0]:+.2f}) {sum(after) / 20:15.2f} ({change[piece]:+.2f}) {unlike[piece]:12.3g}"
    )
harmless = {piece for piece in PIECES if unlike[piece] == 0.0}
print("may be left out:", ", ".join(sorted(harmless)))
assert harmless == may_be_left_out and unlike["nothing"] == 0.0 and change["weights"] > 1 < change["squares"]
assert all(abs(change[piece]) < 0.15 for piece in ("means", "step counts", "step", "place in the data"))

# %% [markdown]
# Learning rate and randomness are *functions* here, of the step and of (seed, step, rank), the rank being the number of the GPU. What is a function needs no place on the disk; that is worth building into a trainer. (PyTorch users often save the generators' states instead, one for each GPU.)
#
# Look at what the others do to the loss. Two are loud. Without the weights the run is back at the beginning; nobody overlooks that. Without the squares it *explodes*: a word that is not in the next batch has a gradient of 0, so its new mean square is 0, its old mean is not, and a step is the one divided by the root of the other.
#
# **The other four are silent.** The means, the step counts, the step, the place in the data: the loss over the next twenty steps differs by less than a tenth of a nat, as much as another batch would do, while the run is another one (look at the weights). One goes through the warm-up again, another begins its data a second time. A loss that looks fine proves nothing; "equal to the bit" does, and that is a test which one can run every night.
#
# ## Half a checkpoint is worse than none
#
# What if the kill comes *during* the save? Or the disk is full? A checkpoint is therefore written under another name, pushed to the disk (`fsync`), and then renamed, which on one file system happens at once or not at all:

# %%
print(inspect.getsource(save_checkpoint))

# %% [markdown]
# A name without `.partial` says that the folder was complete once. Whether it still is, the hashes say. We flip one bit of the newest one, and ask for the newest that is whole:

# %%
from llmkit.training.checkpoint import checkpoints, load_newest

newest = checkpoints(work / "whole" / "checkpoints")[-1]
file = newest / "model.safetensors"
content = bytearray(file.read_bytes())
content[len(content) // 2] ^= 1
file.write_bytes(content)
_, state = load_newest(work / "whole" / "checkpoints", warn=lambda text: print(text.replace(str(work), "…")))
print("loaded: step", state["step"])
assert state["step"] == 80

# %% [markdown]
# Without the hash this model would have been loaded, with one weight off. If none of the checkpoints is whole, `load_newest` raises: to begin again from nothing is a decision for a person, not for a program. (llmkit's tests kill a run at thirty random moments and at *every* file operation of a save; the outcome must be the same to the bit.)
#
# ## A bad stretch of data
#
# The same machinery has a second use. Suppose that one file was written by a broken program: every story backwards. Files are often read one after the other, so it comes as one stretch of eight batches. And in another run a file holds one word only, again and again. (The optimiser is Muon, as in lesson 05.)


# %%
from llmkit.data.sampler import DocumentWindows, PackedRows, Sampler
from llmkit.training.evaluate import Validation
from llmkit.training.muon import Muon
from llmkit.training.settings import Settings

CONTEXT, ROWS, BAD_FROM, BAD_TO, N = 64, 8, 40, 48, 120  # batches 40 … 47 are bad


class InFileOrder(Sampler):
    """Rows as they lie in the files, not shuffled."""

    def indices(self, part=0, of=1):
        first = self.batch * self.batch_size
        return np.arange(first + part * self.batch_size // of, first + (part + 1) * self.batch_size // of) % len(
            self.rows
        )


def spoilt_shards(kind):
    documents, at, total = [story[:-1] for story in stories.train[:700]], 0, 0  # more than the runs read
    while total < BAD_FROM * CONTEXT * ROWS:
        total, at = total + len(documents[at]) + 1, at + 1
    bad, size = [], 0
    while kind != "clean" and size < (BAD_TO - BAD_FROM) * CONTEXT * ROWS - 64:
        document = documents[at + len(bad)]
        bad.append(document[::-1] if kind == "backwards" else [stories.vocabulary.index(" the")] * len(document))
        size += len(document) + 1
    return write_shards(documents[:at] + bad + documents[at:], work / f"{kind} shards", V, END_ID)


held_out = Validation(PackedRows(best_fit(stories.held_out, T)), 8, token_bytes=stories.token_bytes)


def reading(shards, folder, sampler=InFileOrder):
    torch.manual_seed(0)
    model = llama(LlamaConfig(V, 32, n_layers=2, n_heads=2, d_ff=64, tie=True))
    torch.nn.init.normal_(model.transformer.embed.tokens.weight, std=0.2)
    return Trainer(
        model, Muon(model, 0.04, adamw_lr=0.02), sampler(DocumentWindows(shards, CONTEXT), ROWS),
        lambda step: warmup_stable_decay(step, N, 0.04, 10), Settings(N, save_every=30, log_every=1, keep=20),
        folder, held_out, progress=False,
    )  # fmt: skip


spoilt = {kind: spoilt_shards(kind) for kind in ("backwards", "one word", "clean")}
lives, ends_at = {}, {}
for kind in ("clean", "backwards"):
    trainer = reading(spoilt[kind], work / "backwards run" if kind == "backwards" else None)
    trainer.fit()
    lives[kind], ends_at[kind] = losses(trainer), trainer.log.lines[-1]["validation_loss"]
one_word = reading(spoilt["one word"], None)
one_word.fit(until=60)
lives["one word"] = losses(one_word)
print("highest loss in the bad stretch, backwards:", round(max(lives["backwards"][BAD_FROM:BAD_TO]), 1))
print("lowest loss in the bad stretch, one word:", round(min(lives["one word"][BAD_FROM : BAD_TO + 2]), 2))

# %% [markdown]
# The cure is that of PaLM (Chowdhery et al. 2022, section 5.1): go back to a checkpoint well before the spike, and leave out the batches around it. With what we have it is two lines: `resume(step)` and `batches.advance(n)`.

# %%
rewound = reading(spoilt["backwards"], work / "backwards run")
back_at = rewound.resume(30)
rewound.fit(until=38)
rewound.batches.advance(12)  # leaves out batches 38 … 49
rewound.fit()
lives["rewound"], ends_at["rewound"] = losses(rewound), rewound.log.lines[-1]["validation_loss"]
fig, axes = figure(2, height=3.1, sharey=True)
axes[0].plot(range(1, N + 1), lives["backwards"], color=COLORS["bad"], linewidth=1.5)
axes[0].plot(range(back_at + 1, N + 1), lives["rewound"][back_at:], color=COLORS["good"], linewidth=1.5)
axes[0].plot([back_at], [lives["backwards"][back_at - 1]], "o", color=COLORS["good"], markersize=6)
axes[0].text(53, 7.5, "backwards", color=COLORS["bad"], fontsize=9)
axes[0].text(45, 0.8, "rewound to 30,\n12 batches left out", color=COLORS["good"], fontsize=9)
axes[0].set(xlabel="step", ylabel="training loss (nats a token)", title="A spike, and the way round it", ylim=(0, None))
axes[1].plot(range(1, 61), lives["one word"], color=COLORS["key"], linewidth=1.5)
axes[1].text(3, 1.0, "“the the the the …”", color="#8A5A00", fontsize=9)
axes[1].set(xlabel="step", title="Bad data that looks wonderful")
show(
    fig,
    alt=f"Training loss by step. Left: eight batches of stories written backwards raise it to {max(lives['backwards'][BAD_FROM:BAD_TO]):.1f}; "
    f"the run rewound to step 30 passes without a spike. Right: eight batches of one repeated word bring it down to "
    f"{min(lives['one word'][BAD_FROM : BAD_TO + 2]):.2f}, and up again afterwards.",
)
for kind in ("clean", "backwards", "rewound"):
    print(
        f"{kind:10} held-out loss after step {N}: {ends_at[kind]:.2f} ({ends_at[kind] - ends_at['clean']:+.2f} against clean)"
    )
assert ends_at["backwards"] > ends_at["clean"] + 0.05 > ends_at["rewound"]

# %% [markdown]
# Eight bad batches of 120, and seventy steps later the run is still visibly behind the control that never saw them. Rewound, it is where the control is (one seed; differences of a few hundredths are noise).
#
# The right panel is the one to remember. This stretch is as worthless as the other, and the loss *dives*: nothing is easier to predict. An alarm that only looks upwards sleeps through it, until the spike when real text comes back. **Watch for a loss that is too low, too.**
#
# (If the rows are shuffled over all files, as `Sampler` does, no batch is all bad and no spike appears. The bad rows are read all the same; only nobody sees them. And not every spike has bad data behind it: PaLM's authors trained on the very same batches from another checkpoint and saw none.)
#
# ## Which loss to report
#
# A loss in nats *a token* depends on how the text was cut: fewer, longer tokens are each harder. To compare across tokenizers count per **byte**: all nats, divided by ln 2, divided by the bytes of UTF-8 that the targets spell. Here with our words as tokens, and the same number for the perfect model:

# %%
figures = held_out(rewound.model)
n_bytes = sum(len(text.encode("utf-8")) for text in stories.held_out_texts)
n_targets = sum(len(story) - 1 for story in stories.held_out)
by_hand = figures["validation_loss"] * n_targets / math.log(2) / n_bytes
print(
    f"our model: {figures['validation_loss']:.2f} nats a word, {figures['bits_per_byte']:.3f} bits a byte (by hand {by_hand:.3f})"
)
print(f"the world: {exact:.2f} nats a word, {exact * n_targets / math.log(2) / n_bytes:.3f} bits a byte")
print(
    f"{n_bytes / n_targets:.2f} bytes a word, so a model of single letters with {figures['validation_loss'] * n_targets / n_bytes:.2f} nats a letter would be as good"
)
assert abs(by_hand - figures["bits_per_byte"]) < 1e-6

# %% [markdown]
# ## On real text
#
# From files to shards it is one command, and from shards to a model another:
#
#     python -m llmkit.data FILES … --tokenizer tokenizer.json --out shards --dedup
#     python -m llmkit.training run.toml
#
# Here with Python's own library as text, cut at empty lines between functions, and a tokenizer of 512 tokens. The functions that we call are what the two commands call. If the Hub can be reached, 300 stories of TinyStories go the same way; otherwise this is said.

# %%
from itertools import islice

from llmkit.data.__main__ import arguments, prepare
from llmkit.data.hub import hub_reachable
from llmkit.data.text import hub_stream, python_source
from llmkit.tokenizers import ByteLevelBPE
from llmkit.training.build import build_trainer
from llmkit.training.run import read_run

source = python_source(250_000)
ByteLevelBPE.train(source[:60_000], 512, special_tokens=["<|endoftext|>"]).save(work / "bpe")


def prepared(name, text, separator):
    (work / f"{name}.txt").write_text(text, encoding="utf-8", newline="")
    options = [
        str(work / f"{name}.txt"),
        "--tokenizer",
        str(work / "bpe"),
        "--out",
        str(work / name),
        "--separator",
        separator,
    ]
    return prepare(arguments([*options, "--dedup", "--val-share", "0.1"]))


summary = prepared("python", source, "\n\n\n")
print(f"{summary['documents']} pieces of Python, {sum(summary['removed'].values())} of them removed as copies or empty")
print(
    f"train {summary['train']['tokens']:,} tokens, held out {summary['val']['tokens']:,}; {summary['bytes_per_token']:.2f} bytes a token"
)
if not hub_reachable():
    print("The Hub cannot be reached. With it, this would prepare 300 stories of TinyStories too.")
else:
    try:
        tales = prepared("tales", "\x00".join(islice(hub_stream("roneneldan/TinyStories"), 300)), "\x00")
        print(f"TinyStories: {tales['documents']} stories, {tales['train']['tokens']:,} tokens to train on")
    except (OSError, RuntimeError, ValueError) as error:
        print(f"TinyStories is passed over: {type(error).__name__}")

# %%
(work / "run.toml").write_text(
    """
[model]
family = "llama"
vocab_size = 512
d_model = 48
n_layers = 2
n_heads = 3
d_ff = 128
tie = true

[data]
train = "python/train"
validation = "python/val"
tokenizer = "python/tokenizer.json"
context = 128
documents = true
validation_rows = 40

[optimizer]
kind = "muon"
lr = 0.04
adamw_lr = 0.02

[schedule]
kind = "wsd"
warmup = 5

[training]
folder = "run"
batch_size = 4
n_steps = 60
evaluate_every = 20
""",
    encoding="utf-8",
)
run = read_run(work / "run.toml")
coder, _ = build_trainer(run, torch.device("cpu"))
coder.progress = False
lines = [line for line in coder.fit() if "bits_per_byte" in line]
print(", ".join(f"step {line['step']}: {line['bits_per_byte']:.2f} bits a byte" for line in lines))
print(
    f"zlib, which does not learn: {8 * len(zlib.compress(source.encode(), 9)) / len(source.encode()):.2f} bits a byte"
)
assert 2.5 < lines[-1]["bits_per_byte"] < lines[0]["bits_per_byte"]

# %% [markdown]
# Sixty steps are enough to see that the pipeline works, and for nothing else: an ordinary compressor needs far fewer bits.
#
# ## On a GPU
#
# A LLaMA of about 30 million parameters on 20 MB of the whole of toyland (each story between three and four times), in bfloat16, with the share of the GPU's arithmetic that it uses (MFU: what training needs in principle, divided by what the device has been seen to do in one large matrix product; lesson 14 counts it out).


# %%
@gpu_section(
    "train a LLaMA of about 30 million parameters on 20 MB of toyland in bfloat16 and print its MFU (a few minutes)",
    full={"train_bytes": 20_000_000, "d_model": 512, "n_layers": 8, "context": 512, "batch": 64, "n_steps": 500},
    smoke={"train_bytes": 30_000, "d_model": 16, "n_layers": 1, "context": 64, "batch": 2, "n_steps": 2},
)
def larger(device, train_bytes, d_model, n_layers, context, batch, n_steps):
    from llmkit.data import toyland
    from llmkit.training.mfu import utilisation
    from llmkit.training.optim import decay_groups

    corpus = toyland.corpus(train_bytes, max(20_000, train_bytes // 100))
    cut = [[START, *toyland.split(text), END] for text in corpus.train + corpus.validation]
    words = sorted({token for text in cut for token in text})
    id_of = {token: i for i, token in enumerate(words)}
    ids = [[id_of[token] for token in text] for text in cut]
    sizes = torch.tensor([0 if token in (START, END) else len(token.encode("utf-8")) for token in words])
    config = LlamaConfig(len(words), d_model, n_layers, n_heads=max(1, d_model // 64), d_ff=8 * d_model // 3, tie=True)
    torch.manual_seed(0)
    model = llama(config).to(device)
    trainer = Trainer(
        model, AdamW(decay_groups(model), 2e-3),
        Sampler(PackedRows(best_fit(ids[: len(corpus.train)], context)), batch),
        lambda step: warmup_stable_decay(step, n_steps, 2e-3, n_steps // 20),
        Settings(n_steps, bf16=True, evaluate_every=n_steps // 2, log_every=max(1, n_steps // 10)),
        evaluate=Validation(PackedRows(best_fit(ids[len(corpus.train) :], context)), batch, token_bytes=sizes),
        mfu=utilisation(config, context, device, torch.bfloat16), progress=False,
    )  # fmt: skip
    lines = trainer.fit()
    speed = [line for line in lines if "mfu" in line][-1]
    end = [line for line in lines if "bits_per_byte" in line][-1]
    print(
        f"{model.n_params():,} parameters: {end['validation_loss']:.2f} nats a token, {end['bits_per_byte']:.3f} bits a byte"
    )
    print(f"{speed['tokens_per_second']:,} tokens a second, MFU {speed['mfu']:.0%}")
    return lines


# %% [markdown]
# ## Mistakes people make
#
# | mistake | how it shows |
# |---|---|
# | Copies in the data, several epochs unnoticed | a splendid training loss, a held-out loss that turns upwards |
# | Test items in the training texts | a score that nobody can repeat on new questions |
# | Packed rows without document numbers | nothing visible; texts read each other, positions run on |
# | End tokens left out of the targets | the model writes on for ever |
# | Mean of the parts' means | right with full rows; with uneven ones the loss depends on how the batch was cut |
# | Decay as L2 under Adam | weights with small gradients vanish, the others hardly decay |
# | Cosine stopped before its end | a loss that says little about what the run would have reached |
# | Sampler's place not saved | no sign at all; the beginning of the data is read again and again |
# | Checkpoint written in place | the one death that comes while saving costs the whole run |
# | Alarm for spikes only upwards | worthless, repetitive data looks like progress |
#
# ## Where the real systems do it
#
# - **Copies**: Broder 1997 (MinHash); Lee et al. 2022, "Deduplicating training data makes language models better"; Leskovec, Rajaraman and Ullman, "Mining of massive datasets", section 3.4 (bands). Rules that tell prose from menus: Rae et al. 2021 (Gopher), appendix A.1.1, in llmkit/data/cleaning.py.
# - **Packing**: Ding et al. 2024, "Fewer truncations improve language modeling". transformers' `DataCollatorWithFlattening` restarts positions in each document; llmkit's tests compare with it.
# - **Accumulation**: transformers' trainer counts `num_items_in_batch` over all parts since the pull request #34191.
# - **WSD**: Hu et al. 2024 (MiniCPM), section 4; Hägele et al. 2024, "Scaling laws and compute-optimal training beyond fixed training durations".
# - **Decay**: Loshchilov and Hutter 2019. Muennighoff et al. 2023, "Scaling data-constrained language models": how much repeating is worth.
# - **Failures**: Dubey et al. 2024 (Llama 3), section 3.3.4; Chowdhery et al. 2022 (PaLM), section 5.1.
#
# ## What llmkit gained
#
# | file | what |
# |---|---|
# | `llmkit/data/cleaning.py`, `dedup.py`, `decontamination.py` | `minhash`, near copies, Gopher's rules, `overlap_share` and `overlap` |
# | `llmkit/data/packing.py`, `shards.py`, `shard_writer.py`, `sampler.py` | best fit, `mark_documents`, token files, a sampler with a cursor; `python -m llmkit.data` |
# | `llmkit/training/trainer.py`, `settings.py`, `runlog.py` | the trainer; `python -m llmkit.training run.toml` |
# | `llmkit/training/checkpoint.py`, `snapshot.py` | checkpoints that are whole or not there |
# | `llmkit/training/losses.py`, `schedules.py`, `evaluate.py` | `accumulated_gradients`, `warmup_stable_decay`, bits per byte |
# | `llmkit/training/rehearsals.py`, `llmkit/viz/pretraining.py` | this lesson's small runs and drawings |
#
# Three questions to check yourself:
#
# <details><summary>Your run is resumed on 16 GPUs instead of 8. Which of the eight pieces of exercise 13.7 make trouble, and how does `Sampler` avoid it?</summary>
#
# The place in the data, if each GPU keeps its own, and random states, of which there are now too few. `Sampler` numbers *global* batches and cuts each into as many parts as there are ranks, so the cursor is one number. (Dropout depends on the rank, so with dropout the run is no longer the same to the bit, only as good.)
# </details>
#
# <details><summary>A colleague removes near copies at a similarity of 0.8 and says that no test item can be left in the data. Is that so?</summary>
#
# No. A test item quoted inside a longer page has a small Jaccard similarity with that page, because the union is large. Overlap of runs, measured for the item, finds it; a rephrased item neither does.
# </details>
#
# <details><summary>You have a checkpoint from the plateau of a WSD run and ten times the data that you had planned for. What do you do? And with a cosine run?</summary>
#
# Go on on the plateau, and come down at the new end. The cosine run has come down already; its rate must be raised again, which costs what was gained by lowering it, or one begins anew.
# </details>

# %%
temporary.cleanup()
progress()

# %% [markdown]
# **Next**: 14_scaling. The run is safe now. How large should it be? Precision, many processes, and laws that say what more of everything will buy.
