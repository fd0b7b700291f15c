# %% [markdown]
# # 12 · Translation, summaries: text to text
#
# **You will** train one small T5 that translates, judges, classifies and summarises, told which by the first words of its input; measure its answers with BLEU and ROUGE that you write yourself; and look at what it looks at while it translates.
#
# **Before** you start: lesson 11 (encoder and decoder, cross-attention, `given`, teacher forcing), 07 (greedy, beams), 01 (n-grams). From torch you need `log_softmax`, `gather`, `masked_fill`.
#
# **Time** about 90 minutes: five exercises, 27 more for two that are optional. All cells together run for about 40 seconds, half of it training.

# %% tags=["setup"]
import copy
import re
from collections import Counter, defaultdict

import torch
from torch import Tensor
from torch.nn import functional as F

from llmkit.course import check, gpu_section, hint, progress, start
from llmkit.viz import COLORS, figure, show

torch.set_num_threads(1)  # the fastest for a model as small as ours
start("12_text_to_text", solved=True)

# %% [markdown]
# ## One sentence, four jobs
#
# In lesson 10 every task had a model of its own: an encoder, and a head with as many outputs as there are labels. A translator would need yet another one. T5's idea was to do without all of this: **every task is a text that goes in and a text that comes out**, and what is wanted stands in front of the input, in words.

# %% tags=["nbval-check-output"]
from llmkit.data.toyland.language import translations
from llmkit.data.toyland.reviews import LABELS, bag_of_words_ceiling, reviews
from llmkit.data.toyland.tasks import Example, examples

REVIEW_TASKS = ("sentiment", "kind", "summary")


def translation_example(sentence):
    return Example("translation", f"translate: {sentence.english()}", sentence.tolk())


test_sentences = translations(300, seed=1)
test = {"translation": [translation_example(sentence) for sentence in test_sentences]}
test |= {task: examples(task, 300, seed=1) for task in REVIEW_TASKS}
for example in (test["translation"][2], *(test[task][5] for task in REVIEW_TASKS)):
    print(f"{example.input}\n    -> {example.target}\n")

# %% [markdown]
# The last three are about reviews. The first is a translation into **Tolk**, a language that is not spoken anywhere: the verb stands last and the time first, adjectives follow their noun, nouns have endings for their case (who, whom, to whom, where) and for the plural, the verb has them for tense and for its subject's number. (Our training sentences have no "not".) It differs from English more than French does. And every sentence has exactly one right translation, so that we can say for certain what is wrong.
#
# The sentences we train on must not be among those we test on; `without` sees to that. A fifth of all sentences have a giver, a gift and somebody who gets it. They are the hardest, so in training (and only there) we take all of these and a third of the others.

# %%
tested = {example.input for task in test for example in test[task]}
pool = translations(16_000, seed=0, without=frozenset(sentence.english() for sentence in test_sentences))
sizes = {"translation": 16_000, "sentiment": 5000, "summary": 5000, "kind": 500}
train_examples = {
    "translation": [translation_example(s) for i, s in enumerate(pool) if s.to or i % 3 == 0],
    **{task: [e for e in examples(task, sizes[task]) if e.input not in tested] for task in REVIEW_TASKS},
}
assert not tested & {example.input for task in train_examples for example in train_examples[task]}
print({task: len(found) for task, found in train_examples.items()})

# %% [markdown]
# The tokens of this lesson are simple, because tokenizers were lesson 02: a whole English word is one token, a word of Tolk is its stem and its endings, and a capital letter is a mark ⇧ before the word. Whatever is in no list is spelt in letters. Texts and answers both end with the token `</s>`.

# %% tags=["nbval-check-output"]
from llmkit.data.toyland.vocabulary import task_vocabulary

vocabulary = task_vocabulary(example for task in train_examples for example in train_examples[task])
for text in ("translate: The old farmer gave a key to the queen.", "milifus luros habemota rupen nozafera.", "Zebra"):
    print("|".join(vocabulary.tokens_of(text)))
    assert vocabulary.decode(vocabulary.encode(text)) == text
print(len(vocabulary), "different tokens")

# %% [markdown]
# Now one model for all. Every second batch is 32 translations, and every other one 30 reviews of all three kinds. The model is a T5 (lesson 11) with two layers on each side. We keep a copy of it from the middle of its training, because a model that makes mistakes is more instructive.

# %%
from llmkit.data.batches import pad_pairs, pair_batches
from llmkit.models.t5 import T5Config, t5
from llmkit.training.loop import train
from llmkit.training.losses import seq2seq_loss
from llmkit.training.muon import Muon

N_STEPS, HALF = 600, 300


def pairs_of(found):
    return [(vocabulary.encode(example.input), vocabulary.encode(example.target)) for example in found]


def alternating(seed):
    """A batch of translations, a batch of reviews, and so on."""
    translated = pair_batches(pairs_of(train_examples["translation"]), 32, seed)
    reviewed = pair_batches([pair for task in REVIEW_TASKS for pair in pairs_of(train_examples[task])], 30, seed)
    while True:
        yield next(translated)
        yield next(reviewed)


torch.manual_seed(0)
config = T5Config(len(vocabulary), d_model=64, n_layers=2, n_heads=4, head_dim=16, d_ff=128)
model = t5(config)
torch.nn.init.normal_(model.encoder.embed.tokens.weight, std=0.5)  # half of T5's own
history = train(
    model, alternating(seed=0), N_STEPS, lr=0.01, loss=seq2seq_loss, optimizer=Muon(model, 0.01, adamw_lr=0.03),
    evaluate=copy.deepcopy, evaluate_at=[HALF], progress=False,
)  # fmt: skip
half = history.evaluations[0][1].eval()
print(f"{model.n_params():,} parameters; one model for four tasks")

# %%
from llmkit.generation.generate import generate


def answers_to(model, texts, max_new_tokens=30):
    """What the model writes for each text, greedily."""
    ids, mask, _ = pad_pairs([(vocabulary.encode(text), [0]) for text in texts])
    beginning = torch.full((len(ids), 1), config.start_id)
    out = generate(model.given(ids, mask), beginning, max_new_tokens, stop_tokens=[config.end_id])
    return [vocabulary.decode(row) for row in out.tolist()]


SENTENCE = "This movie is wonderful."
PREFIXES = ("classify sentiment: ", "classify kind: ", "summarize: ", "translate: ")
for prefix, answer in zip(PREFIXES, answers_to(model, [prefix + SENTENCE for prefix in PREFIXES]), strict=True):
    print(f"{prefix + SENTENCE:45} -> {answer}")

# %% [markdown]
# Nothing in the architecture says how many tasks there are, or of what kind. The same weights, the same sentence; only the first words differ. How good is it, on sentences it has not seen?

# %%
written = {name: {} for name in ("half", "whole")}
for name, m in (("half", half), ("whole", model)):
    for task, found in test.items():
        written[name][task] = answers_to(m, [example.input for example in found])


def exact(answers, task):
    return sum(answer == example.target for answer, example in zip(answers, test[task], strict=False)) / len(answers)


scores = {name: {task: exact(found, task) for task, found in written[name].items()} for name in written}
print("exactly right, of 300    half trained   trained")
for task in test:
    print(f"{task:24} {scores['half'][task]:11.1%} {scores['whole'][task]:9.1%}")
assert scores["whole"]["translation"] > 0.95 and scores["whole"]["sentiment"] > 0.7  # four seeds: 96%, 77% at the least

# %% [markdown]
# So the questions of this lesson: **what does a prefix do, how does one measure a text against another, and when is a good number a good answer?**
#
# ## The prefix is data
#
# A decoder gives probabilities, so we can look at what the prefix changes before a word is written. Take nine ways to begin an answer and ask for the probability of each: the product of the probabilities of its tokens. (That function is exercise 12.2; here it is used first.)

# %%
from llmkit.generation.choose import score_answers

sentence = test_sentences[0]
BEGINNINGS = ["positive", "negative", "films", "books", "meals", "A good", "A bad", "huhopi", "milifu"]
MEANING = {"huhopi": "huhopi (this)", "milifu": "milifu (farmer)"}


def beginnings_of(model, text):
    """P of each of BEGINNINGS as the beginning of the answer, (9,)."""
    ids, mask, _ = pad_pairs([(vocabulary.encode(text), [0])])
    return score_answers(model, ids, mask, [vocabulary.encode(b, end=False) for b in BEGINNINGS])[0].exp()


SHOWN = {**{prefix: prefix.rstrip(": ") for prefix in PREFIXES}, "": "no prefix"}
table = {prefix: beginnings_of(model, prefix + SENTENCE) for prefix in SHOWN}
fig, axes = figure(5, height=3.0, sharey=True)
for axis, (prefix, p) in zip(axes, table.items(), strict=True):
    axis.barh(range(9), p, color=COLORS["model"] if prefix else COLORS["control"])
    axis.set_title(SHOWN[prefix].replace("classify ", "classify\n"), fontsize=9)
    axis.set(xlim=(0, 1.05), xticks=[0, 0.5, 1])
    axis.set_xticklabels(["0", ".5", "1"])
    axis.set_xlabel(f"others {max(0.0, 1 - p.sum().item()):.0%}", fontsize=8)
axes[0].set_yticks(range(9), [MEANING.get(b, b) for b in BEGINNINGS])
axes[0].invert_yaxis()
fig.suptitle(f"“{SENTENCE}” The prefix decides what is said", fontsize=11, x=0.02, ha="left", fontweight="bold")
likely = {name: (BEGINNINGS[int(table[p].argmax())], table[p].max().item()) for p, name in SHOWN.items()}
show(
    fig,
    alt="Five panels, one for each prefix before the same sentence: probabilities of nine beginnings of the answer. "
    + "; ".join(f"{name}: {what} {p:.2f}" for name, (what, p) in likely.items()),
)
for name, (what, p) in likely.items():
    print(f"{name:20} most probable beginning {what!r}, P = {p:.3f}")
assert [likely[SHOWN[p]][0] for p in PREFIXES] == ["positive", "films", "A good", "huhopi"]

# %% [markdown]
# ("Others" is what is left for any other beginning.) In four panels one bar has nearly everything. In the last one nothing tells what is wanted, and the model has never seen such an input: its belief is divided: the longest bar is shorter than in the other panels, and "others" is longer. It cannot ask; written greedily, the answer is that of the longest bar.
#
# ### Break it: no prefixes in training
#
# What would a model learn from the same inputs and answers if the prefixes were left out of the *data*? Then each review comes three times, with three different answers. We train two very small T5s on reviews, with equally many examples of the three tasks, one with prefixes and one without.


# %%
def trained_small(with_prefix, n_steps=60):
    pairs = []
    for task in REVIEW_TASKS:
        for example in examples(task, 1200, seed=2):
            text = example.input if with_prefix else example.input.split(": ", 1)[1]
            pairs.append((vocabulary.encode(text), vocabulary.encode(example.target)))
    torch.manual_seed(0)
    small = t5(T5Config(len(vocabulary), d_model=32, n_layers=1, n_heads=2, head_dim=16, d_ff=64))
    torch.nn.init.normal_(small.encoder.embed.tokens.weight, std=0.5)
    train(small, pair_batches(pairs, 30, 0), n_steps, lr=0.01, loss=seq2seq_loss,
          optimizer=Muon(small, 0.01, adamw_lr=0.03), progress=False)  # fmt: skip
    return small


GROUPS = {"sentiment": ["positive", "negative"], "kind": ["films", "books", "meals", "journeys"], "summary": ["A"]}
firsts = [vocabulary.encode(word, end=False) for words in GROUPS.values() for word in words]
texts = [example.input.split(": ", 1)[1] for example in test["sentiment"][:100]]
for with_prefix in (True, False):
    small = trained_small(with_prefix)
    asked = [("classify kind: " if with_prefix else "") + text for text in texts]
    ids, mask, _ = pad_pairs([(vocabulary.encode(text), [0]) for text in asked])
    p = score_answers(small, ids, mask, firsts).exp().mean(0).split([len(words) for words in GROUPS.values()])
    print(
        f"prefixes {'in' if with_prefix else 'left out of'} the data; P(the answer begins like …):",
        ", ".join(f"{task} {part.sum():.2f}" for task, part in zip(GROUPS, p, strict=True)),
    )
    if not with_prefix:
        assert all(0.15 < part.sum() < 0.5 for part in p)

# %% [markdown]
# With prefixes ("classify kind:" in front of all these) the model knows which of the three is meant. Without them it gives each task about a third, which is right: a third of its training answers were of that kind. No architecture can do better. **The task has to stand in the input, because this model has no other place to read it from.** A head for each task would be one; a prefix needs no new weights.
#
# ## How much of each
#
# One more thing is decided by data: how often each task comes. If all examples are put into one pot, a task with a hundred times as many examples gets a hundred times as many steps. T5 does two things about that. A task counts as at most so large (`limit`); and the sizes may be raised to the power 1/T, with a temperature T above 1, which brings them closer to each other.
#
# $$r_m = \frac{\min(n_m, K)^{1/T}}{\sum_k \min(n_k, K)^{1/T}}$$
#
# $n_m$ is the number of examples of task $m$, $K$ the limit, $T$ the temperature and $r_m$ the share that the task gets.
#
# ### Exercise 12.1 · mixing_rates · ●○○ · 8 min
#
# Write `mixing_rates(sizes, limit, temperature)`. `sizes` is a dictionary, task to number of examples; the result is a dictionary with the same tasks, whose values sum to 1. `limit` None means no limit. The limit comes first, then the temperature. Raise a `ValueError` for no task at all, for a size or a limit below 1, and for a temperature that is not above 0.

# %% tags=["exercise"]
from llmkit.data.mixture import mixing_rates

# %%
mixing_rates = check(mixing_rates)

# %%
counted = {task: len(found) for task, found in train_examples.items()}
for name, rates in {
    "one pot": mixing_rates(counted),
    "limit 5,000": mixing_rates(counted, limit=5000),
    "temperature 4": mixing_rates(counted, temperature=4),
}.items():
    print(f"{name:14}", "  ".join(f"{task} {rate:.2f}" for task, rate in rates.items()))
in_reviews = sum(counted[task] for task in REVIEW_TASKS)
ours = {"translation": 0.5} | {task: 0.5 * counted[task] / in_reviews for task in REVIEW_TASKS}
print("what we did    " + "  ".join(f"{task} {rate:.2f}" for task, rate in ours.items()))

# %% [markdown]
# (Shares of batches or of examples: with 32 and 30 in a batch it is about the same.) The task `kind` got next to nothing, and still had learnt nearly all there is to learn by the middle of the training. Sentiment and summaries had not. So counting examples is not enough. This is what each half of the batches looked like from the optimizer's side:

# %%
fig, axes = figure(2, height=2.9)
norms = {}
for offset, name in enumerate(("translation", "reviews")):
    color = (COLORS["model"], COLORS["key"])[offset]
    loss = torch.tensor(history.losses[offset::2])
    norm = torch.tensor(history.gradient_norms[offset::2])
    norms[name] = [norm[i : i + 20].mean().item() for i in range(0, len(norm), 20)]
    losses = [loss[i : i + 20].mean().item() for i in range(0, len(loss), 20)]
    steps = range(20, N_STEPS, 40)
    axes[0].semilogy(steps, losses, color=color)
    axes[0].text(N_STEPS, losses[-1], f" {name}", color=color, va="center", fontsize=9)
    axes[1].plot(steps, norms[name], color=color)
apart = 0.06 if norms["translation"][-1] > norms["reviews"][-1] else -0.06  # so that the names do not collide
for name, color, shift in (("translation", COLORS["model"], apart), ("reviews", COLORS["key"], -apart)):
    axes[1].text(N_STEPS, norms[name][-1] + shift, f" {name}", color=color, va="center", fontsize=9)
axes[0].set(xlabel="step", ylabel="nats a token", xlim=(0, 850), title="Loss by task …")
axes[1].set(xlabel="step", ylabel="length of the gradient", xlim=(0, 850), ylim=(0, None), title="… and its pull")
first_half = {name: sum(v[1:7]) / 6 for name, v in norms.items()}
show(
    fig,
    alt="Left: loss of the translations' and the reviews' batches by step, both falling. Right: length of the gradient; "
    f"from step 40 to 300 on average {first_half['translation']:.2f} for translations and "
    f"{first_half['reviews']:.2f} for reviews.",
)
print(
    f"mean length of the gradient, steps 40 to 300: translations {first_half['translation']:.2f}, reviews {first_half['reviews']:.2f}"
)
assert first_half["translation"] > 2 * first_half["reviews"]

# %% [markdown]
# For the first half of the training the reviews' gradient is about a third as long as the translations'. (Of the tokens in their answers most are known after a few steps: that a summary begins with "A", and how it ends.) Both go into the same running mean of the optimizer, where the long one leads. So we expected that the reviews would gain if their loss counted three times, and tried it, with three seeds each, before this lesson was written:
#
# | reviews' loss times | sentiment right, three seeds | translations exactly right |
# |---|---|---|
# | 1 (no factor) | 93%, 87%, 89% | 98.7%, 99.7%, 98.3% |
# | 3 | 99%, 97%, 83% | 97.7%, 99.0%, 96.3% |
#
# It costs translations a little, and whether it helps the reviews three seeds cannot say: the spread between seeds is larger than the difference. (Sentiment is learnt in jumps, one form of sentence after another, and when a jump comes is largely luck.) We left the factor out. The pull of each task is worth looking at; how to set it has to be measured, and with more than one seed.
#
# ## A label is a text too
#
# A classifier with two outputs can only say one of two things. Our model can write anything as an answer to "classify sentiment:". Does it always write a label?

# %%
for name in written:
    answers = written[name]["sentiment"]
    print(f"{name} trained: {sum(answer not in LABELS for answer in answers)} of 300 answers are no label")
odd = ["classify sentiment: " + sentence.english() for sentence in test_sentences]
free = Counter(answer if answer in LABELS else "no label" for answer in answers_to(model, odd))
print("asked for the sentiment of the sentences that are no reviews:", dict(free))

# %% [markdown]
# To be sure of a label, one does not let the model write: one computes the probability of each label and takes the largest. That is *constrained decoding* in its plainest form. The logarithm of the probability of a whole answer is the sum over its tokens:
#
# $$\ln P(y \mid x) = \sum_t \ln P(y_t \mid x, y_{<t})$$
#
# $x$ is the input, $y$ the answer with the tokens $y_1 … y_T$, the end token among them, and $y_{<t}$ those before $y_t$. Leave the end out, and "A" can never be less probable than "A good movie."
#
# ### Exercise 12.2 · answer_log_probs · ●●○ · 12 min
#
# Write `answer_log_probs(logits, labels)`. `logits` is $(B, T, V)$ and `labels` $(B, T)$: at each place the logits *there* predict the label *there* (`shift_right` has seen to that, so nothing is moved here). Labels of −100 are padding and do not count; a row of nothing else gives 0. The result is $(B,)$, in float32, in nats.
#
# Two calls: `log_probs.gather(-1, index[..., None])` picks one entry along the last axis for each place, and refuses a negative index; `masked_fill(where, value)` makes a new tensor.

# %% tags=["exercise"]
from llmkit.generation.choose import answer_log_probs

# %%
answer_log_probs = check(answer_log_probs)

# %% [markdown]
# Around it stands a function that puts every answer beside every text. `given` reads the texts once, and a decoder that gets N times as many rows takes N of them for each text:

# %% tags=["show"]
from llmkit.generation.choose import score_answers

# %%
label_ids = [vocabulary.encode(label) for label in LABELS]


def chosen_labels(model, texts):
    ids, mask, _ = pad_pairs([(vocabulary.encode(text), [0]) for text in texts])
    scores = score_answers(model, ids, mask, label_ids)  # (B, 2)
    return [LABELS[i] for i in scores.argmax(-1)], scores.exp()


for name, m in (("half", half), ("whole", model)):
    chosen, p = chosen_labels(m, [example.input for example in test["sentiment"]])
    print(
        f"{name:5} trained: written freely {exact(written[name]['sentiment'], 'sentiment'):.1%} right, chosen among the "
        f"labels {exact(chosen, 'sentiment'):.1%}; P(either label) {p.sum(-1).mean():.3f}"
    )
chosen, p = chosen_labels(model, odd)
sure = (p.sum(-1) > 0.5).float().mean()
print(f"sentences that are no reviews: always a label; for {sure:.0%} of them P(either label) is above one half")
print("   ", odd[0], "->", chosen[0])

# %% [markdown]
# On reviews the two ways agree: the model has learnt that this prefix is followed by one of two words. Sentences that are no reviews have no sentiment, for the most part. For a part of them (in some runs a small one) the model, writing freely, says something that is no label, and the two labels together have little probability: both are signs that something is amiss. For the others it is sure of a label for which there is no reason; models trained with three other seeds were so for nearly all of these sentences. The choice among labels shows none of this, it names one of the two as always. **Constraining guarantees the form of an answer; whether the question made sense, it cannot tell.** Keep the sum of the probabilities beside it: a low one is a warning, a high one proves nothing.
#
# ### Is it better than counting words?
#
# What is that number worth? Three things to compare with. *Majority*: say the commoner label. *Bag of words*: a linear classifier (logistic regression) that knows only which words there are. And its **ceiling**: in three forms of our reviews ("slow at first, but wonderful in the end") the same words in another order say the opposite, so nobody who only counts words can be right more often than this:

# %%
from llmkit.training.optim import AdamW

n_words = len(vocabulary)


def bags(found):
    x = torch.zeros(len(found), n_words)
    for row, example in enumerate(found):
        x[row, vocabulary.encode(example.input)] = 1.0
    return x


def is_positive(found):
    return torch.tensor([example.target == "positive" for example in found]).float()


x, y = bags(train_examples["sentiment"][:2500]), is_positive(train_examples["sentiment"][:2500])
w = torch.zeros(n_words, requires_grad=True)
optimizer = AdamW([{"params": [w], "weight_decay": 0.0}], lr=0.1)
for _ in range(150):
    optimizer.zero_grad()
    (F.binary_cross_entropy_with_logits(x @ w, y) + 1e-4 * w.square().sum()).backward()
    optimizer.step()
bag_right = ((bags(test["sentiment"]) @ w.detach() > 0).float() == is_positive(test["sentiment"])).tolist()
model_right = [a == e.target for a, e in zip(written["whole"]["sentiment"], test["sentiment"], strict=True)]
forms = [review.form for review in reviews(300, seed=1)]
majority = max(Counter(example.target for example in test["sentiment"]).values()) / 300
print(
    f"majority {majority:.1%}, bag of words {sum(bag_right) / 300:.1%}, its ceiling {bag_of_words_ceiling():.1%}, T5 {sum(model_right) / 300:.1%}"
)
assert majority < sum(bag_right) / 300 < min(bag_of_words_ceiling(), sum(model_right) / 300 - 0.05)

# %%
by_form = {f: [[r[i] for i in range(300) if forms[i] == f] for r in (bag_right, model_right)] for f in set(forms)}
order = sorted(by_form, key=lambda f: (sum(by_form[f][0]) / len(by_form[f][0]), f))
fig, axis = figure(height=2.9)
for row, form in enumerate(order):
    for right, color, shift in zip(by_form[form], (COLORS["control"], COLORS["model"]), (-0.12, 0.12), strict=True):
        share = sum(right) / len(right)
        error = (share * (1 - share) / len(right)) ** 0.5
        axis.errorbar(share, row + shift, xerr=error, fmt="o", color=color, capsize=3)
axis.set_yticks(range(len(order)), [f"{form} ({len(by_form[form][0])})" for form in order])
axis.axvline(0.5, color=COLORS["control"], linewidth=1, linestyle=":")
first = order[0], by_form[order[0]]
for right, color, name, height in zip(
    first[1], ("#666666", COLORS["model"]), ("bag of words", "T5"), (0.1, 0.3), strict=True
):
    axis.text(sum(right) / len(right), height, name, color=color, ha="center", va="bottom", fontsize=9)
axis.set(
    xlabel="share of reviews judged rightly",
    xlim=(-0.04, 1.04),
    title="Counting words fails where words act on each other",
)
axis.grid(axis="x", visible=True)
shares = {form: [sum(r) / len(r) for r in by_form[form]] for form in order}
show(
    fig,
    alt="Accuracy by form of review, bag of words and T5: "
    + ", ".join(f"{form} {bag:.2f} and {t5_:.2f}" for form, (bag, t5_) in shares.items()),
)
print({form: [round(value, 2) for value in pair] for form, pair in shares.items()})

# %% [markdown]
# The bag is far below its ceiling, and one row says why. "Not at all dull" is judged worse than by a coin: a linear classifier *adds up* what the words say, so "not" can make every review a little better or worse, but it cannot turn "dull" around. (The ceiling is for any rule that sees only which words there are. One that knew pairs, such as "not" together with "dull", would come closer to it.) In "contrast", "corrected" and "others" no bag can do better than a coin. The transformer sees the order. What it has learnt least well is negation. (How well differs from run to run: four seeds came to 77% to 94% in all. Every one of them beats the bag, three of the four beat its ceiling.)
#
# For the *kind* of review, on the other hand, one word is enough: each review names its subject, and there are eight of these. The score near 100% in the table above says nothing about a model, since a list of eight words would get it too. Compare first.
#
# ## Training reads the truth, writing reads itself
#
# In training the decoder predicts each token from the **true** ones before it: teacher forcing. When it writes, it predicts each token from what it has **written itself**. It never saw its own mistakes in training. Does that matter? First, what follows without any experiment:
#
# ### Exercise 12.3 · from forced to free · ●○○ · 4 min
#
# On 300 test sentences a model is given the true beginnings (teacher forcing), and at each place we look at its most probable token. In 171 sentences all of these are right, the end token included; in the other 129 at least one is wrong. Then it writes the 300 answers by itself, greedily. How many of them are exactly right?

# %%
n_exact = None
# BEGIN SOLUTION
n_exact = 171
# END SOLUTION
n_exact = check(n_exact, "12.3")


# %%
def forced_and_free(model, found):
    """For each example and place: is the favourite right after the true beginning, and after its own? (B, T) each."""
    ids, mask, labels = pad_pairs(pairs_of(found))
    with torch.no_grad():
        memory = model.given(ids, mask)
        beginning = torch.full((len(ids), 1), config.start_id)
        decoder_ids = torch.cat([beginning, labels[:, :-1].clamp(min=0)], dim=1)
        forced = memory(decoder_ids).argmax(-1) == labels
        free = generate(memory, beginning, labels.size(1))[:, 1:] == labels
    return forced, free, labels != -100


forced, free, real = forced_and_free(half, test["translation"])
all_right = [(right | ~real).all(-1).sum().item() for right in (forced, free)]
print(f"half trained, all tokens right: {all_right[0]} of 300 after true beginnings, {all_right[1]} written freely")
assert all_right[0] == all_right[1] == round(300 * scores["half"]["translation"])

# %% [markdown]
# Up to its first mistake a greedy writer reads exactly what teacher forcing would show it. So the two can only differ *after* a first mistake, and the share of perfect answers can be had without writing one token: from one pass, which is cheaper by far. (Greedy only. A beam looks further.)
#
# ### The experiment: after the first mistake
#
# Take the sentences in which the half trained model makes a mistake, and in them the places *behind* the first one. At each we ask the same model twice: after the true beginning (the control), and after its own, with the mistake in it. Same sentences, same places.

# %%
first_mistake = torch.where(real & ~forced, torch.arange(real.size(1)), 10**6).amin(-1, keepdim=True)
distance = torch.arange(real.size(1)) - first_mistake
behind = real & (distance > 0)
forced_share = forced[behind].float().mean().item()
print(
    f"{int((first_mistake < 10**6).sum())} sentences, {int(behind.sum())} places: after the true beginning {forced_share:.0%} right"
)

# %% [markdown]
# **Guess** before you run the next cell: which share of these places, from 0 to 1, is right when the model goes on from its own beginning?

# %%
guess = None

# %%
free_share = free[behind].float().mean().item()
half_answers = [vocabulary.encode(answer) for answer in written["half"]["translation"]]
true_answers = [vocabulary.encode(example.target) for example in test["translation"]]
as_long = torch.tensor([[len(a) == len(b)] for a, b in zip(half_answers, true_answers, strict=True)])
LINES = {
    "after the true beginning": (forced, behind, COLORS["control"]),
    "after its own": (free, behind, COLORS["model"]),
    "after its own, answer as long as the true one": (free, behind & as_long, COLORS["key"]),
}
curves = {name: [] for name in LINES}
for d in range(1, 9):
    for name, (right, where, _) in LINES.items():
        here = where & (distance == d)
        share, n = right[here].float().mean().item(), int(here.sum())
        curves[name].append((share, (share * (1 - share) / n) ** 0.5))
fig, axis = figure(height=3.2)
for shift, (name, (_, _, color)) in enumerate(LINES.items()):
    values, bars = zip(*curves[name], strict=True)
    places = [d + 0.08 * (shift - 1) for d in range(1, 9)]
    axis.errorbar(places, values, bars, fmt="o-", color=color, capsize=3, linewidth=1.4)
    text = name.replace("own, answer as long ", "own, where the\nanswer is as long\n")
    height = (
        max(values[-1], curves["after its own, answer as long as the true one"][-1][0]) + 0.04,
        values[-1],
        values[-1] - 0.2,
    )[shift]
    axis.text(8.3, height, text, color="#666666" if shift == 0 else color, va="center", fontsize=9)
if guess is not None:
    axis.axhline(guess, color=COLORS["guess"])
    axis.text(12.1, guess, "your guess", color=COLORS["guess"], ha="right", va="bottom", fontsize=9)
axis.set(xlabel="tokens behind the first mistake", ylabel="share that is right", ylim=(0, 1.08), xlim=(0.7, 12.2))
axis.set_xticks(range(1, 9))
axis.set_title("Behind a mistake nearly all is wrong, or is it?")
show(
    fig,
    alt="Share of right tokens by distance from the first mistake. Eight tokens behind: "
    + "; ".join(f"{name} {values[-1][0]:.2f}" for name, values in curves.items()),
)
same = behind & as_long
print(f"your guess: {guess}; right behind the first mistake:")
print(
    f"  all {int((first_mistake < 10**6).sum())} sentences:     {forced_share:.1%} after the true beginning, {free_share:.1%} after its own"
)
print(
    f"  {int(same.any(-1).sum())} with as many tokens: {forced[same].float().mean():.1%} after the true beginning, {free[same].float().mean():.1%} after its own"
)
assert forced_share > free_share + 0.2 and free[same].float().mean() > free_share + 0.2

# %% [markdown]
# The first comparison is dramatic: behind a mistake, most is wrong. The third line takes the greater part of it back. In the answers that have as many tokens as they should, most of what follows is right, and some tokens on there is no difference left to see. (These sentences are a choice: a model that has lost its place seldom ends on time. The next cell counts all of them.) What looked like confusion is mostly this: a token too few or too many, and everything behind it stands elsewhere and counts as wrong. **We measured places, not answers.** So let us count by *edits*: how many tokens have to be put in, taken out or replaced to make the right answer.


# %%
def edits(a, b):
    """The fewest tokens to insert, delete or replace that turn a into b."""
    above = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y)))
        above = row
    return above[-1]


wrong = [i for i in range(300) if half_answers[i] != true_answers[i]]
n_edits = [edits(half_answers[i], true_answers[i]) for i in wrong]
n_forced = [(real[i] & ~forced[i]).sum().item() for i in wrong]
differences = torch.tensor(n_edits).double() - torch.tensor(n_forced)
print(f"{len(wrong)} sentences with a mistake; wrong tokens in each, on average:")
print(
    f"  true beginnings {sum(n_forced) / len(wrong):.2f}; written freely, counted in edits {sum(n_edits) / len(wrong):.2f}"
)
print(
    f"  difference {differences.mean():.2f} ± {differences.std() / len(wrong) ** 0.5:.2f}; none in {(differences <= 0).sum()} sentences"
)
worst = max(wrong, key=lambda i: edits(half_answers[i], true_answers[i]))
print(f"  the worst: {vocabulary.decode(half_answers[worst])}\n  should be: {vocabulary.decode(true_answers[worst])}")

# %% [markdown]
# So there is a price for reading one's own mistakes, one to two tokens for each sentence that has one, and it is unequal: in some of the wrong answers it is nothing, in a few the model loses its place altogether, as in the worst one. It is called **exposure bias**. A better model pays less, because it makes fewer first mistakes: ours, fully trained, is wrong in a few sentences of 300.
#
# ## How close is close?
#
# "Exactly right" is a hard judge. In a real language there are many right translations of a sentence, and a nearly right one is better than nonsense. **BLEU** (2002) asks: of the words, pairs, triples and quadruples of neighbours in the translation, which share occurs in a reference? For n = 1 … 4 that is the precision $p_n$, and
#
# $$\text{BLEU} = \text{BP} \cdot (p_1\, p_2\, p_3\, p_4)^{1/4}$$
#
# The counts are added up over all sentences of the test set before dividing. Two details make it work. The first is how one counts.
#
# ### Exercise 12.4 · clipped_counts · ●●○ · 10 min · find the bug
#
# The function below counts how many n-grams of a translation occur in a reference, and how many it has: a pair of whole numbers. It gives a translation "the the the the the the the" full marks. Mend it: an n-gram counts at most as often as it occurs in that reference *that has it most often* (there may be several references). For n = 1, the seven "the", and the references "the cat is on the mat" and "there is a cat on the mat" it is (2, 7).
#
# `Counter` has the operators that you need: `a & b` keeps the smaller count of each key, `a | b` the larger one, `a + b` the sum; `.total()` adds all up. In llmkit there is `ngrams(words, n)`, a Counter of the n-grams as tuples.

# %%
from llmkit.evaluation.overlap import ngrams

# %% tags=["exercise"]
from llmkit.evaluation.bleu import clipped_counts

# %%
clipped_counts = check(clipped_counts)

# %% [markdown]
# The second detail: precision alone rewards silence. Who says only the one word that is certain has a precision of 1. Recall would help, but with several references it is not clear of what. BLEU has a **brevity penalty** instead:
#
# ### Exercise 12.5 · brevity_penalty · ●○○ · 5 min
#
# Write `brevity_penalty(length, reference_length)`: 1 where the translation has at least as many tokens as the reference, else $e^{1 - r/c}$ with $c$ tokens for the reference's $r$. No tokens where some were wanted gives 0 (that is the limit), none where none were wanted gives 1.

# %% tags=["exercise"]
from llmkit.evaluation.bleu import brevity_penalty

# %%
brevity_penalty = check(brevity_penalty)

# %% [markdown]
# Both together, by hand and by llmkit's `bleu` (which gives the same numbers as sacrebleu, the program that papers use). One pencil-sized example:

# %% tags=["nbval-check-output"]
from llmkit.evaluation.bleu import bleu, tokenize_13a

reference = "the old queen sold a heavy key to the sad clown".split()
translation = "the old queen sold a key to the clown".split()
precisions = []
for n in (1, 2, 3, 4):
    matching, total = clipped_counts(translation, [reference], n)
    precisions.append(matching / total)
    print(f"n = {n}: {matching} of {total}")
penalty = brevity_penalty(len(translation), len(reference))
mean = (precisions[0] * precisions[1] * precisions[2] * precisions[3]) ** 0.25
print(f"mean of the precisions {mean:.3f}, brevity penalty {penalty:.3f}, BLEU {100 * mean * penalty:.1f}")
assert abs(100 * mean * penalty - bleu([translation], [[reference]]).score) < 1e-9

# %% [markdown]
# Every word of this translation is right, and it scores less than half. Two words are left out, and four of the six quadruples do not match any more, because each gap breaks all quadruples across it. So a BLEU of 40 does not mean that 40% is right. It is a number to compare systems with, on the same test set with the same tokens.
#
# What do the numbers mean for *our* language? Besides the two models we score answers whose faults we know: the English sentence copied; the right words in English order; the right stems in the right order without any endings. **chrF** does the same as BLEU with letters, up to six neighbours, and counts recall too.

# %%
from llmkit.evaluation.chrf import chrf


def score_translations(answers):
    references = [example.target for example in test["translation"]]
    row = bleu([tokenize_13a(text) for text in answers], [[tokenize_13a(text)] for text in references])
    letters = chrf(answers, [[text] for text in references])
    return *row.precisions, row.score, letters, 100 * exact(answers, "translation")


def english_order(sentence):
    words = sentence.tolk().rstrip(".").split()
    place = {j: min(i for i, other in sentence.alignment() if other == j) for j in range(len(words))}
    return " ".join(words[j] for j in sorted(place, key=place.get)) + "."


def stems_only(text):
    return "".join(token for token in vocabulary.tokens_of(text) if token.startswith(" ") or token == ".").strip()


table = {
    "English copied": [sentence.english() for sentence in test_sentences],
    "right words, English order": [english_order(sentence) for sentence in test_sentences],
    "right order, no endings": [stems_only(example.target) for example in test["translation"]],
    "half trained": written["half"]["translation"],
    "trained": written["whole"]["translation"],
}
results = {name: score_translations(answers) for name, answers in table.items()}
print(f"{'':27}" + "".join(f"{name:>7}" for name in ("p1", "p2", "p3", "p4", "BLEU", "chrF", "exact")))
for name, row in results.items():
    print(f"{name:27}" + "".join(f"{value:7.1f}" for value in row))
ordered, bare = results["right words, English order"], results["right order, no endings"]
assert ordered[0] == 100 and ordered[4] < 5 and bare[4] < 5 and ordered[5] > bare[5] > results["English copied"][5] + 20

# %% [markdown]
# Copying is the baseline to beat where input and output are alike (whoever corrects grammar finds it very hard to beat). Between English and Tolk it has no chance.
#
# The next two rows are more instructive. With every single word right ($p_1$ = 100) but in English order, a reader of Tolk would understand the sentence, since the endings say who did what; and BLEU is 0, because no four neighbours are right anywhere, and one factor of 0 makes the product 0. (On single sentences that happens all the time. This is why BLEU is a score for a corpus, and why programs can *smooth* it.) Without endings, nobody could tell who gave what to whom, and BLEU is 0 as well. It does not say which of the two is worse; chrF, which has no use for whole words, at least tells them apart, and from the copy. A number is good at ranking systems that make similar mistakes. Give two, and read some answers.
#
# ## Wider is not always better
#
# Greedy takes the best token each time. Beam search (lesson 07) keeps the K best beginnings and finds answers of higher probability; a score is the log-probability divided by the length. Are they better answers? With the true translations at hand we can look, at the first 100 sentences.

# %%
from llmkit.evaluation.bleu import bleu_counts, bleu_from_counts
from llmkit.evaluation.bootstrap import paired_bootstrap
from llmkit.generation.beam import beam_search

N_BEAM = 100
true_words = [[tokenize_13a(example.target)] for example in test["translation"][:N_BEAM]]


def beams(model, n_beams, length_penalty=1.0, n=N_BEAM):
    """Answers to the first n test sentences, found with n_beams beams."""
    ids, mask, _ = pad_pairs(pairs_of(test["translation"][:n]))
    with torch.no_grad():
        memory = model.given(ids, mask)
    beginning = torch.full((n, 1), config.start_id)
    found, _ = beam_search(memory, beginning, 24, n_beams, length_penalty, stop_token=config.end_id)
    return [vocabulary.decode(row) for row in found.tolist()]


def counts_of(answers):
    """(n, 10): what BLEU needs to know of each answer; rows may be added up."""
    return [bleu_counts(tokenize_13a(a), refs) for a, refs in zip(answers, true_words, strict=False)]


def corpus_bleu(rows):
    return bleu_from_counts(sum(rows)).score


WIDTHS = (1, 2, 4, 8)
found = {("half trained", k): beams(half, k) for k in WIDTHS} | {("trained", k): beams(model, k) for k in (1, 4)}
assert found["trained", 1] == written["whole"]["translation"][:N_BEAM]  # one beam is greedy
graded = {key: (corpus_bleu(counts_of(answers)), 100 * exact(answers, "translation")) for key, answers in found.items()}
for (name, k), (b, e) in graded.items():
    print(f"{name:12} {k} beam{'s' * (k > 1):1}: BLEU {b:.1f}, exactly right {e:.0f}%")
gain = paired_bootstrap(
    counts_of(found["half trained", 8]), counts_of(found["half trained", 1]), corpus_bleu, n_resamples=500
)
print(
    f"half trained, BLEU of 8 beams minus greedy: {gain.estimate:.1f}, 95% interval {gain.low:.1f} to {gain.high:.1f}"
)

# %% [markdown]
# (`paired_bootstrap` from lesson 10 draws test sentences again and again, with repetition, and looks how much the difference changes.) Where the model is sure, beams find what greedy finds, or nearly. Where it is not, more beams help a little here, and the first of them most. (In half-trained models from three other seeds eight beams gained 3.0, 1.0 and -0.2: look at the interval.) What no beam can do is find what the model does not believe in.
#
# In large translation systems something odd was found: beyond some width answers get *worse*, because the most probable text of all is often far too short, or empty (the "beam search curse"; Koehn and Knowles 2017, section 3.6; Stahlberg and Byrne 2019). **In our language it does not show.** A sentence here has one right translation and a definite end, so a model that knows the language at all puts little probability on stopping early. Where the answer is more open, expect it.
#
# Related to it is the *length penalty*: the exponent of the length by which scores are divided. At 0 nothing is divided, and each further token costs; the larger it is, the better long answers look. The half trained model, 4 beams, 60 sentences:

# %%
lengths = {}
for penalty in (0.0, 1.0, 4.0):
    rows = sum(counts_of(beams(half, 4, penalty, n=60)))
    lengths[penalty] = rows[0] / rows[1]
    print(
        f"penalty {penalty}: BLEU {bleu_from_counts(rows).score:.1f}, {lengths[penalty]:.2f} words for each true word"
    )
assert lengths[0.0] <= lengths[1.0] < lengths[4.0]

# %% [markdown]
# Here the lengths change by a few percent at most. Which value is best has to be found on held-out text, for each model anew.
#
# ## What it looks at while it translates
#
# Tolk puts the words in another order, so the decoder has to look to and fro in the English sentence. Cross-attention (lesson 11) gives weights: how much each place of the answer looks at each token of the input. And toyland knows which words mean the same: `alignment()` lists pairs (English word, Tolk word).
#
# One thing has to be got right. The decoder's input is the answer shifted by one, so the place that *reads* a word is the place that *writes* the next one. We want the weights at the place that writes a word's stem.

# %%
from llmkit.viz.attention import draw_attention, record_attention


def cross_attention(model, sentence):
    """(L * H, J, I) for J Tolk words (where their stem is written) and I English words; and what is on other tokens."""
    text, answer = f"translate: {sentence.english()}", sentence.tolk()
    source, target = vocabulary.tokens_of(text), vocabulary.tokens_of(answer)
    columns = [i for i, token in enumerate(source) if token.startswith(" ")][1:]  # without " translate"
    rows = [j for j, token in enumerate(target) if token.startswith(" ")]  # row j of the labels is written at place j
    decoder_ids = torch.tensor([[config.start_id, *vocabulary.encode(answer, end=False)]])
    with torch.no_grad(), record_attention(model.decoder) as maps:
        model(torch.tensor([vocabulary.encode(text)]), decoder_ids)
    heads = torch.cat([maps[1][0], maps[3][0]])  # each block's self-attention comes before its cross-attention
    return heads[:, rows][:, :, columns]


def random_order(sentence, seed):
    """True links with the English words shuffled: the control."""
    n = len(sentence.english().split())
    places = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    return [(places[i], j) for i, j in sentence.alignment()]


# %% [markdown]
# A picture of one sentence proves nothing, so we count.
#
# ### Exercise 12.6 · aligned_share · ●●○ · 12 min · optional
#
# Write `aligned_share(weights, links)`. `weights` is $(T, S)$: row $j$ holds how much output word $j$ looks at each of $S$ input words. `links` is a list of pairs (i, j): **input** word i and **output** word j mean the same. An output word counts as right when the largest weight of its row (the first of equal ones) is on any input word that it is linked with. The result is the share of right ones among the output words that have at least one link. No links at all: a `ValueError`.

# %% tags=["exercise"]
from llmkit.evaluation.alignment import aligned_share

# %%
aligned_share = check(aligned_share)

# %% [markdown]
# There are eight heads. To take the best of eight *on the sentences it was chosen on* would flatter it, so we choose the head on 50 sentences and measure on 100 others. The control has the same weights and the same links, with the English words in random order.

# %%
chosen_on, measured_on = test_sentences[:50], test_sentences[50:150]
maps_of = {sentence: cross_attention(model, sentence) for sentence in test_sentences[:150]}
by_head = [sum(aligned_share(maps_of[s][head], s.alignment()) for s in chosen_on) / len(chosen_on) for head in range(8)]
best = max(range(8), key=lambda head: by_head[head])
shares = [aligned_share(maps_of[s][best], s.alignment()) for s in measured_on]
control = [aligned_share(maps_of[s][best], random_order(s, seed)) for seed, s in enumerate(measured_on)]
share, by_chance = sum(shares) / 100, sum(control) / 100
print("each head, layer 0 and then 1:", " ".join(f"{value:.2f}" for value in by_head))
print(f"layer {best // 4}, head {best % 4} on other sentences: {share:.1%}; with shuffled words {by_chance:.1%}")
together = sum(aligned_share(maps_of[s].mean(0), s.alignment()) for s in measured_on) / 100
print(f"the mean of all eight heads: {together:.1%}")
assert share > by_chance + 0.3

# %%
shown = next(s for s in measured_on if s.to and s.says_when and not s.at and s.subject.adjective)
english, tolk = shown.english().rstrip(".").split(), shown.tolk().rstrip(".").split()
truth = torch.zeros(len(tolk), len(english))
for i, j in shown.alignment():
    truth[j, i] = 1.0
panels = {
    f"layer {best // 4}, head {best % 4}": maps_of[shown][best],
    "mean of the eight heads": maps_of[shown].mean(0),
    "what means the same": truth,
}
fig, axes = figure(3, height=3.0, sharey=True)
for axis, (name, weights) in zip(axes, panels.items(), strict=True):
    draw_attention(axis, weights, tolk, english)
    axis.set_title(name, fontsize=9)
    axis.tick_params(labelsize=8)
axes[0].set_ylabel("written in Tolk, downwards", fontsize=9)
fig.suptitle("The decoder reads English in Tolk's order", fontsize=11, x=0.02, ha="left", fontweight="bold")
show(
    fig,
    alt=f"Three matrices, Tolk words by English words: one cross-attention head, the mean of eight heads, and the true alignment with the time "
    f"first and the verb last. Over 100 sentences the largest weight is on a right word for {share:.0%} of the words in that head, "
    f"for {together:.0%} in the mean, for {by_chance:.0%} by chance.",
)
print(shown.english(), "->", shown.tolk())

# %% [markdown]
# Nobody told the model which words belong together. It found out because looking at the right word makes the next one easier to guess. From top to bottom the eye jumps as the grammar demands: to the end for the time, back to the subject (noun before adjective), forward to the receiver, back to the gift, and to the verb last.
#
# But be careful with such a picture. How the heads share the work is an accident of the training: in another run, with another seed, the best head came to 77% and the mean of all eight to 90%. A head with a low share is not useless. And a weight says where a head looks, not what it takes from there: what is read at one place may have come there, in the encoder, from another. A row that misses the right word may have found what it needs at a neighbour.
#
# ## Summaries
#
# A summary may put things in words of its own, as long as it has the content. **ROUGE-L** looks for the longest sequence of words that both texts have in the same order, with gaps allowed: the *longest common subsequence*. Its length divided by the length of the summary is a precision, by that of the reference a recall, and F1 is the harmonic mean of the two.
#
# "police killed the gunman" and "the gunman killed police" have all their words in common. In the same order: "the gunman", or "killed" with one of the others; never three. So the length is 2.
#
# For texts $a$ and $b$ let $L_{ij}$ be the length for the first $i$ words of $a$ and the first $j$ of $b$. If the last of these words are equal, use both: $L_{ij} = L_{i-1,j-1} + 1$. If not, at least one of them is not used: $L_{ij} = \max(L_{i-1,j}, L_{i,j-1})$. Nothing has anything in common with an empty text.
#
# ### Exercise 12.7 · lcs_length · ●●● · 15 min · optional
#
# Write `lcs_length(a, b)` for two sequences (lists or strings), either of which may be empty. The result is a whole number. Fill a table of $L_{ij}$, or keep its last row; a plain recursion asks for the same $L_{ij}$ again and again, and is too slow for the texts of 70 words that the check has.

# %% tags=["exercise"]
from llmkit.evaluation.rouge import lcs_length

# %%
lcs_length = check(lcs_length)

# %% [markdown]
# Now the comparison that a summary has to stand. *Lead-1*: the first sentence of the text. For news it is famous for being hard to beat, because journalists put what matters first. *Always the same*: "A good movie.", whatever the text. *The opposite*: the true summary with good and bad exchanged.

# %%
from llmkit.evaluation.rouge import rouge_l

reviews_read = [example.input.removeprefix("summarize: ") for example in test["summary"]]
true_summaries = [example.target for example in test["summary"]]


def first_sentence(text):
    return re.match(r"[^.!?]*[.!?]", text).group()


def opposite(summary):
    return summary.replace("good", "?").replace("bad", "good").replace("?", "bad")


summaries = {
    "lead-1": [first_sentence(text) for text in reviews_read],
    "always the same": ["A good movie."] * 300,
    "the opposite": [opposite(summary) for summary in true_summaries],
    "half trained": written["half"]["summary"],
    "trained": written["whole"]["summary"],
}
rouge = {}
for name, found in summaries.items():
    rouge[name] = sum(rouge_l(a, b).f1 for a, b in zip(found, true_summaries, strict=True)) / 300
    verdict = sum(a.split()[1:2] == b.split()[1:2] for a, b in zip(found, true_summaries, strict=True)) / 300
    print(f"{name:16} ROUGE-L F1 {rouge[name]:.2f}   right verdict {verdict:4.0%}")
assert rouge["lead-1"] < rouge["always the same"] < rouge["the opposite"] < rouge["trained"]

# %% [markdown]
# Here lead-1 is easy to beat: our summaries use words that the reviews do not ("good" for "superb"). The other two rows are worse news. A sentence that says nothing about the text gets half of the points, and **the summary that says the opposite of the truth gets two thirds**. Two of three words are right; the one that is wrong is the one that matters, and ROUGE does not know which one that is. For texts that are compressed and not rewritten it is more useful; for the truth of a summary it never is. Where the truth can be checked, check it.
#
# ## A prefix it has never seen
#
# What does our model do with an instruction that was not in its data? Eleven attempts with the same review, and for each the kind of answer to fifty other reviews.

# %%
STRANGE = [
    "", "translate", "Translate: ", "summarise: ", "classify: ", "sentiment: ", "say the opposite: ",
    "translate to English: ", "summarize translate: ", "what is the kind of this? ", "do nothing: ",
]  # fmt: skip
KINDS = {example.target for example in train_examples["kind"]}
tolk = {token for example in train_examples["translation"] for token in vocabulary.tokens_of(example.target)}


def kind_of_answer(answer):
    if answer in LABELS:
        return "sentiment"
    if answer in KINDS:
        return "kind"
    if answer.startswith("A "):
        return "summary"
    return "Tolk" if tolk.issuperset(vocabulary.tokens_of(answer)) else "something else"


some = [text for text in reviews_read if text != SENTENCE][:50]
for prefix in STRANGE:
    answers = answers_to(model, [prefix + text for text in (SENTENCE, *some)], max_new_tokens=16)
    counts = Counter(map(kind_of_answer, answers[1:])).most_common()
    print(f"{prefix!r:32} -> {answers[0]:30.30} {', '.join(f'{n} {kind}' for kind, n in counts)}")

# %% [markdown]
# It never says that it does not know the task. It has four kinds of answers, and nearly every input gets one of them (a few get a scrap or a mixture: an ending, half Tolk and half a summary), chosen by whatever known words the prefix shares with those of the training. A new spelling ("summarise") is a new word, in letters. Our model has learnt four words of command, not to follow instructions. Models that do are trained on very many tasks in very many phrasings, and then a new phrasing is near an old one: lesson 16.
#
# The same holds for the *content*. Tolk has a word for "movie" and none for "meal":

# %%
for text in (
    "This movie is wonderful.",
    "This meal is wonderful.",
    "The movie was not dull.",
    "The queen ate the cake.",
):
    print(f"{text:28} -> {answers_to(model, ['translate: ' + text])[0]}")

# %% [markdown]
# Only the first is right. For words it cannot translate the model says some other word, or none, and it says so fluently: whoever does not know Tolk cannot tell which of the four to trust. (The probability can hint at it; lesson 10 says how far to believe one.)
#
# ## On real text
#
# Does the first sentence beat other choices where people write summaries? Python's own library has thousands: by convention (PEP 257) a docstring begins with one line that sums it up, and the details come below. So: summary is the first line, text is the rest. Candidates are its first sentence, its last, its longest.

# %%
from llmkit.data.text import python_source

pairs = []
for docstring in re.findall(r'"""(.+?)"""', python_source(8_000_000), flags=re.DOTALL):
    line, _, rest = docstring.strip().partition("\n\n")
    found = [" ".join(part.split()) for part in re.split(r"(?<=[.!?])\s", rest) if len(part.split()) >= 4]
    if "\n" not in line and len(line.split()) >= 4 and len(found) >= 3:
        pairs.append((line, found))
pairs = pairs[:300]
choices = {"first": lambda p: p[0], "last": lambda p: p[-1], "longest": lambda p: max(p, key=len)}
print(f"{len(pairs)} docstrings of at least three more sentences")
docs = {}
for name, choose in choices.items():
    found = [rouge_l(choose(parts), line) for line, parts in pairs]
    docs[name] = sum(score.f1 for score in found) / len(found)
    recall = sum(score.recall for score in found) / len(found)
    print(f"{name:8} sentence: ROUGE-L F1 {docs[name]:.3f}, recall {recall:.3f}")
print("a summary:", pairs[0][0], "\nfirst sentence of its text:", pairs[0][1][0][:100])
assert docs["first"] > docs["last"]

# %% [markdown]
# All three are low: the text below does not repeat the line above it, and whoever writes such a line uses other words. The first sentence is the best of three poor choices by F1. Recall alone would prefer the longest, for the reason for which precision alone prefers the shortest.
#
# And translation? OPUS collects real ones: books in English and French, sentence by sentence, each by one translator among many possible ones. Tolk has exactly one right answer; how far is that from the world? Where the Hub can be reached, this cell loads a thousand pairs and gives the copy as the baseline, as we did above: by BLEU, and by chrF, which sees the letters that the two languages share.

# %%
from llmkit.data.text import hub_rows


def copies(pairs):
    """BLEU and chrF of the English text itself, offered as its French translation; and words of French for one of English."""
    english, french = (list(side) for side in zip(*pairs, strict=True))
    cut = [[tokenize_13a(text) for text in side] for side in (english, french)]
    words = sum(map(len, cut[1])) / sum(map(len, cut[0]))
    return bleu(cut[0], [[one] for one in cut[1]]).score, chrf(english, [[text] for text in french]), words


REAL = False  # set to True to load OPUS books from the Hub (they are downloaded)
some_pairs = {
    "two sentences of ours": [("The station is near.", "La gare est proche."), ("A long table.", "Une longue table.")]
}
if REAL:
    columns = ["translation.en", "translation.fr"]
    some_pairs["OPUS books"] = hub_rows("Helsinki-NLP/opus_books", columns, config="en-fr", limit=1000)
else:
    print("would also score a thousand sentences of English books as if they were French: set REAL = True")
for name, some in some_pairs.items():
    as_bleu, as_chrf, words = copies(some)
    print(f"{name}: the copy has BLEU {as_bleu:.1f}, chrF {as_chrf:.1f}; {words:.2f} French words for an English one")

# %% [markdown]
# ## On a GPU
#
# Two tasks of toyland have been left out, because they need longer inputs and more training than half a minute: a one-sentence summary of a *story*, and a question about it. The same code, a larger T5:


# %%
@gpu_section(
    "train a T5 of about 8 million parameters to sum up stories and to answer questions about them, 6,000 steps",
    full={"n": 30_000, "n_test": 300, "n_steps": 6000, "batch": 64, "d_model": 256, "n_layers": 4},
    smoke={"n": 20, "n_test": 4, "n_steps": 2, "batch": 4, "d_model": 16, "n_layers": 1},
)
def story_tasks(device, n, n_test, n_steps, batch, d_model, n_layers):
    tests = {task: examples(task, n_test, seed=1) for task in ("story", "question")}
    seen = {example.input for task in tests for example in tests[task]}
    train_on = [e for task in tests for e in examples(task, n, seed=0) if e.input not in seen]
    words = task_vocabulary(train_on)
    pairs = [(words.encode(example.input), words.encode(example.target)) for example in train_on]
    torch.manual_seed(0)
    large = t5(T5Config(len(words), d_model, n_layers, n_heads=max(1, d_model // 32), head_dim=32, d_ff=4 * d_model))
    torch.nn.init.normal_(large.encoder.embed.tokens.weight, std=0.5)
    large.to(device)
    batches = ([part.to(device) for part in batch_] for batch_ in pair_batches(pairs, batch, 0))
    train(
        large, batches, n_steps, lr=0.01, loss=seq2seq_loss, optimizer=Muon(large, 0.01, adamw_lr=0.01), progress=False
    )
    shares = {}
    for task, found in tests.items():
        ids, mask, _ = pad_pairs([(words.encode(example.input), [0]) for example in found])
        beginning = torch.zeros(len(ids), 1, dtype=torch.long, device=device)
        memory = large.given(ids.to(device), mask.to(device))
        answers = [words.decode(row) for row in generate(memory, beginning, 40, stop_tokens=[1]).tolist()]
        shares[task] = sum(a == e.target for a, e in zip(answers, found, strict=True)) / len(found)
        print(f"{task}: {shares[task]:.1%} exactly right; for example {answers[0]!r}, should be {found[0].target!r}")
    lead = sum(rouge_l(first_sentence(e.input.split(": ", 1)[1]), e.target).f1 for e in tests["story"]) / n_test
    print(f"lead-1 of the stories: ROUGE-L F1 {lead:.2f}")
    return shares


# %% [markdown]
# ## Mistakes people make
#
# | mistake | how it shows |
# |---|---|
# | The end token is left out of the labels | loss is fine; in use the model never stops, and answers trail off into repetitions |
# | Another prefix, or another spelling of it, in use than in training | fluent answers to another task |
# | A short answer's loss drowned by a long one's | one task stays at the level of guessing, while the mean loss falls nicely |
# | log P of labels divided by their lengths, or without the end | long labels, or short ones, are preferred, whatever the text says |
# | Free and forced tokens compared place by place | a catastrophe that is mostly a shift by one |
# | BLEU as the mean of sentence scores, or on one's own tokens | numbers that nobody else can compare with |
# | ROUGE taken for truth | a summary with the opposite verdict gets two thirds |
#
# ## Where the real systems do it
#
# - **T5**: Raffel et al. 2020, section 2.4 (every task as text), 3.5.2 (mixing). Its checkpoints on the Hub name their prefixes in `config.json` under `task_specific_params`: "summarize: ", "translate English to German: ", with four beams, and for summaries a length penalty of 2.
# - **transformers**: `generate(num_beams=…, length_penalty=…, early_stopping=…, prefix_allowed_tokens_fn=…)`; the last one is constrained decoding token by token, for sets of answers too large to score each. llmkit's tests compare beam search with it, token for token.
# - **sacrebleu** and **rouge-score** are the programs behind published numbers; llmkit's tests compare with both. Papineni et al. 2002 (BLEU), Popović 2015 (chrF), Lin 2004 (ROUGE), Post 2018 (why the tokens must be stated).
# - Exposure bias: Ranzato et al. 2016; Bengio et al. 2015 (scheduled sampling) feed the model its own words now and then in training. Attention and alignment: Koehn and Knowles 2017, section 3.5. That lead-3 beats a trained summariser of news: See et al. 2017.
#
# ## What llmkit gained
#
# | file | what |
# |---|---|
# | `llmkit/data/mixture.py` | `mixing_rates` |
# | `llmkit/data/toyland/vocabulary.py` | words, stems and endings as tokens; texts come back exactly |
# | `llmkit/generation/choose.py` | `answer_log_probs`, `score_answers`: choosing among given answers |
# | `llmkit/evaluation/bleu.py`, `chrf.py`, `rouge.py` | BLEU, chrF, ROUGE-N and ROUGE-L |
# | `llmkit/evaluation/alignment.py` | `aligned_share` |
#
# Three questions to check yourself:
#
# <details><summary>You add a fifth task to our model, with 200 examples, all into one pot with the others. What happens, and what can be done?</summary>
#
# It gets about one example in a hundred, so it may hardly be learnt. Give it a larger share by a limit on the others or by a temperature; its examples are then seen more often, so watch whether it learns them by heart.
# </details>
#
# <details><summary>A model's translations have a BLEU of 35 and a brevity penalty of 0.6. What would you look at first?</summary>
#
# At the lengths. Precisions of nearly 60 on average are good, and the answers are much too short: is something cut off (a limit of new tokens), does the beam stop early, is the length penalty 0? exp(1 − r/c) = 0.6 means that there are only two thirds of the words.
# </details>
#
# <details><summary>With constrained decoding a sentiment model always says "positive" or "negative". Why is that not the same as knowing one of the two?</summary>
#
# The choice divides all belief among the labels that are allowed, however little there was. For a text without any sentiment it still names one. Look at the probability that the labels have together, and add an answer for "neither" to the training data if that can occur.
# </details>

# %%
progress()

# %% [markdown]
# **Next**: 13_pretraining. A run is killed in the middle of the night. What has to be on disk so that it goes on exactly as if nothing had happened?
