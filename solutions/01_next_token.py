# %% [markdown]
# # 01 · Predicting the next token
#
# **You will** build language models that predict the next word by counting, measure how good they are in a unit that any model can be measured in, and see what no amount of counting can learn.
#
# **Before** you start: Python. No machine learning is needed yet. One exercise near the end uses PyTorch and a gradient; the calls that it needs are shown there.
#
# **Time** about 85 minutes for six exercises, 15 more for an optional seventh, and 20 more if PyTorch is new to you. Everything runs in seconds on a laptop.

# %% tags=["setup"]
import math
import random

from llmkit.course import check, gpu_section, hint, progress, start
from llmkit.data import toyland
from llmkit.viz import COLORS, figure, show

start("01_next_token", solved=True)

# %% [markdown]
# ## One question, asked over and over
#
# Every language model, from the ones in this notebook to the ones that write programs, answers a single question:
#
# > Here is the beginning of a text. What comes next, and how likely is each possibility?
#
# A model that answers it well can write: choose one of the likely words, put it at the end, ask again.
#
# To learn how well a question *can* be answered, it helps to know the right answers. For English nobody does. So this course has a small world of its own, **toyland**, where we do. Its stories are written by a program that makes one random choice after the other, and that program can also say exactly how probable every next word is. Here is a story:

# %% tags=["nbval-check-output"]
print(toyland.stories(1, seed=4)[0])

# %% [markdown]
# And here is the world itself, asked for the next word after "The cat sat on the". These are not estimates. They are the probabilities with which the stories are written.

# %% tags=["nbval-check-output"]
truth = toyland.next_word("The cat sat on the")
for word, p in list(truth.items())[:5]:
    print(f"{p:.3f} {word}")
print(f"… and {len(truth) - 5} other words")

# %% [markdown]
# So the question of this lesson: **how close to these probabilities can we come by reading stories and counting, and what will still be missing?**
#
# A *token* is one unit of text. In this lesson a token is a word or a punctuation mark, together with the space before it, so that joining the tokens gives back the text. (Lesson 02 is about better units.)

# %% tags=["nbval-check-output"]
print(toyland.split("The cat sat on the mat."))

# %% [markdown]
# ## By hand: which word follows "the"?
#
# Before any code, four sentences and a pencil:
#
# - the cat sat on the mat
# - the dog sat on the rug
# - the cat saw the bird
# - the dog lay on the mat
#
# The simplest model looks at one word only, the one before. It answers "what follows *the*?" with the shares it has seen: write down every word that came right after a "the", and divide.
#
# ### Exercise 1.1 · P(mat | the) · ●○○ · 3 min
#
# What is the share of "mat" among the words that follow "the"? A fraction such as `3 / 7` or a decimal number will do; it must be right to within half a hundredth. (The bar in P(mat | the) is read "given": the probability of mat given that "the" came before.)

# %%
p_mat = None
# BEGIN SOLUTION
p_mat = 2 / 8
# END SOLUTION
p_mat = check(p_mat, "1.1")

# %% [markdown]
# If you are stuck, here or later, `hint("1.1")` opens one hint at a time. The answers are in the `solutions/` folder, but a hint leaves you the fun.
#
# ## The same for any number of words before
#
# Looking at one word before gives a **bigram** model: it counts pairs. With two words before it counts triples, and with $n - 1$ words before it is an **n-gram** model. What stands before is called the **context**.
#
# To let the first word of a text have a context too, we put $n - 1$ copies of a special token `<start>` in front. For $n = 3$ the text "the cat sat" is counted like this:
#
# | context | token |
# |---|---|
# | `<start>` `<start>` | the |
# | `<start>` the | cat |
# | the cat | sat |
#
# ### Exercise 1.2 · count n-grams · ●●○ · 10 min
#
# Write `count_ngrams(documents, n)`. `documents` is a list of lists of tokens. The result is a dict from contexts to counts: a context is a *tuple* of $n - 1$ tokens, its counts are a `Counter` of the tokens that followed. For $n = 1$ the only context is the empty tuple `()`. An n-gram must not reach from one document into the next. `START` is given; `Counts` is only a name for the type of the result.

# %%
from llmkit.models.ngram import START, Counts

# %% tags=["exercise"]
from llmkit.models.ngram import count_ngrams

# %%
count_ngrams = check(count_ngrams)

# %% [markdown]
# `check` looks at what you wrote. When it is right, your function takes llmkit's place: everything below runs on *your* code. When it is not there yet, it says what differs and goes on with llmkit's own, so you can read on at any time and come back.
#
# Now count something larger: a million characters of stories. A `<end>` token closes each document, because "the text ends here" is also something a model has to predict.

# %% tags=["nbval-check-output"]
from llmkit.data.toyland import END

corpus = toyland.corpus(train_bytes=1_000_000, validation_bytes=100_000)


def tokens_of(text):
    return [*toyland.split(text), END]


train = [tokens_of(text) for text in corpus.train]
validation = [tokens_of(text) for text in corpus.validation]
print(f"train      {len(train):5} stories  {sum(map(len, train)):7} tokens")
print(f"validation {len(validation):5} stories  {sum(map(len, validation)):7} tokens")
vocabulary = {token for document in train + validation for token in document}
new_tokens = {token for document in validation for token in document}.difference(*train)
print(f"{len(vocabulary)} different tokens, {len(new_tokens)} of them in validation only")
tables = {n: count_ngrams(train, n) for n in range(1, 7)}  # counted once, used all through the lesson

# %% [markdown]
# The validation stories are kept aside, to see how a model does on stories it has not read. We never count in them. One thing we do take from them: the list of tokens that exist, so that a model knows among how many it has to share out its probability. On real text nobody has such a list; lesson 02 is about that.
#
# Let us ask three counting models what comes after "The cat sat on the", and draw their answers beside the truth.

# %%
prompt = toyland.split("The cat sat on the")
likely = list(truth)[:6]
fig, axes = figure(3, height=3.0, sharey=True)
for axis, n in zip(axes, (2, 4, 5), strict=True):
    followers = tables[n][tuple(prompt[len(prompt) - n + 1 :])]
    total = sum(followers.values())
    rows = range(len(likely))
    axis.barh([r + 0.2 for r in rows], [truth[word] for word in likely], 0.38, color=COLORS["truth"])
    counted = [followers.get(word, 0) / total for word in likely]
    axis.barh([r - 0.2 for r in rows], counted, 0.38, color=COLORS["model"])
    axis.set_title(f"n = {n}: … {''.join(prompt[len(prompt) - n + 1 :]).strip()}", fontsize=9)
    axis.set_xlabel("P(next word)")
axes[0].set_yticks(list(rows), likely)
axes[0].invert_yaxis()
axes[0].text(truth[likely[0]] * 0.45, 2.6, "black: the truth\nblue: counted", fontsize=9)
show(
    fig,
    alt="Three panels of bars for the next word after 'The cat sat on the'. After one word of context "
    "the counted shares are near zero for all six words; after three words they are about two thirds of the truth; "
    "after four words, the cat among them, they nearly equal it.",
)

# %% [markdown]
# More context, better answers. After "the" alone, any noun may come. After "sat on the" it is clear that somebody sat somewhere, but dogs and owls sit too, and elsewhere. Only when "cat" is among the words that the model looks at do the counts come near the truth.
#
# ## Let it write
#
# A model that gives probabilities can write, if we can draw a token at random so that each comes up as often as its probability says. Computers give us uniform random numbers $u$ between 0 and 1. Lay the probabilities end to end on that interval, and take the token on which $u$ falls:

# %%
line = dict(list(truth.items())[:4])
line["…"] = 1 - sum(line.values())
fig, axis = figure(height=1.7)
left = 0.0
for i, (word, p) in enumerate(line.items()):
    axis.barh(0, p, left=left, color=f"C{i}")
    axis.text(left + p / 2, 0, word.strip(), ha="center", va="center", color="white", fontweight="bold")
    left += p
axis.annotate("u = 0.61", (0.61, 0.4), (0.61, 0.8), ha="center", arrowprops={"arrowstyle": "->"})
axis.set(yticks=[], xlim=(0, 1), ylim=(-0.45, 1.05), title="A random number chooses the word it falls on")
axis.grid(False)
show(
    fig,
    alt="The interval from 0 to 1 cut into pieces as long as the probabilities of the next words; "
    "an arrow marks u = 0.61, which falls on one of them.",
)

# %% [markdown]
# ### Exercise 1.3 · pick · ●●○ · 8 min
#
# Write `pick(probs, u)`: the token on which `u` falls. The first token owns $[0, p_1)$, the second $[p_1, p_1 + p_2)$, and so on: on a boundary `u` belongs to the token that begins there. Two things that real code must get right: floating-point probabilities may sum to 0.9999999, so a `u` beyond the last boundary belongs to the last token that has a probability above 0; and a token of probability 0 is never picked. If every probability is 0, raise a `ValueError`.

# %% tags=["exercise"]
from llmkit.generation.sampling import pick

# %%
pick = check(pick)

# %% [markdown]
# Now the loop around it: ask, pick, append, ask again. This is `sample` in llmkit, and it is how every language model writes; only the function that gives the probabilities changes.

# %% tags=["show"]
from llmkit.generation.sampling import sample


# %% tags=["nbval-check-output"]
def counting_model(n):
    def next_token(tokens):
        context = tuple(([START] * (n - 1) + tokens)[len(tokens) :])
        followers = tables[n][context]
        total = sum(followers.values())
        return {token: count / total for token, count in followers.items()}

    return next_token


for n in (1, 2, 3, 5):
    text = "".join(sample(counting_model(n), [], random.Random(1), END, max_tokens=45))
    print(f"n = {n}: {text}\n")

# %% [markdown]
# With $n = 1$ we get a bag of words. With 2 and 3, phrases. With 5, sentences that could stand in a story; but every one brings in somebody new, and nobody comes back. The model forgets everything that is more than four words back. Keep this in mind; it is the heart of the lesson.
#
# ## How good is it? A number
#
# To compare models we need a number, and the text itself supplies it: **how probable does the model find a story it has not read?** A better model is less surprised.
#
# The probability of a whole text is the product of its next-token probabilities (the *chain rule*):
#
# $$P(t_1 t_2 \dots t_N) = P(t_1)\,P(t_2 \mid t_1)\,P(t_3 \mid t_1 t_2)\cdots = \prod_{i=1}^{N} P(t_i \mid t_1 \dots t_{i-1})$$
#
# Here $t_i$ is the $i$-th token and $N$ the number of tokens. A product of many numbers below 1 soon underflows, so we add logarithms instead. A natural logarithm measures in **nats**; one bit is $\ln 2 \approx 0.693$ nats. The world can do this sum exactly:

# %% tags=["nbval-check-output"]
logs = toyland.word_log_probs(toyland.stories(1, seed=4)[0])
print(f"{len(logs)} tokens (with <end>), log P = {sum(logs):.1f} nats, so P = 10^{sum(logs) / math.log(10):.0f}")
print(f"product of the first ten probabilities: {math.prod(math.exp(p) for p in logs[:10]):.2e}")

# %% [markdown]
# Each token that is added multiplies the probability by a number that is at most 1, and mostly far below it. So long texts have small probabilities, however well they are predicted: comparing two texts of different length by their probability is mostly comparing their length. So we divide. Three ways to do it are in use:
#
# | name | what it is |
# |---|---|
# | **cross-entropy** | mean of $-\ln P(t_i \mid \dots)$: nats a token. It is what a model loses by not knowing the text, so it is also called its **loss** |
# | **perplexity** | $e^{\text{cross-entropy}}$: among how many equally likely tokens the model was undecided |
# | **bits per byte** | all bits spent on the text, divided by its length in bytes |
#
# The first two are quick to say and depend on what a token is: whoever cuts text into longer tokens has fewer of them and pays more for each. Bits per byte does not, so it is the one to trust when tokenizers differ (lesson 02 needs it).
#
# ### Exercise 1.4 · bits per byte · ●○○ · 5 min
#
# Write `bits_per_byte(log_probs, text)`. `log_probs` are natural logarithms, one for each token. Divide all the bits by the number of bytes of `text` in UTF-8, where "é" takes two. An empty text is refused with a `ValueError`.

# %% tags=["exercise"]
from llmkit.evaluation.metrics import bits_per_byte

# %%
bits_per_byte = check(bits_per_byte)

# %% [markdown]
# A test with a known answer. A model that thinks all $V$ tokens equally likely must have a perplexity of exactly $V$:

# %% tags=["nbval-check-output"]
from llmkit.evaluation.metrics import cross_entropy, perplexity

uniform = [math.log(1 / len(vocabulary))] * 1000
print(f"perplexity of not knowing anything: {perplexity(uniform):.1f}, of {len(vocabulary)} tokens")

# %% [markdown]
# ## Never seen before
#
# Our counting model has a problem that no amount of reading cures. How many of the n-grams in the validation stories never occurred in training?

# %%
orders = range(1, 7)
unseen = []
for n in orders:
    new = 0
    for context, counts in count_ngrams(validation, n).items():
        seen = tables[n].get(context, {})
        new += sum(count for token, count in counts.items() if token not in seen)
    unseen.append(new / sum(map(len, validation)))
fig, axis = figure(height=3.0)
axis.plot(orders, unseen, "o-", color=COLORS["model"])
for n, share in zip(orders, unseen, strict=True):
    axis.annotate(f"{share:.1%}", (n, share), (0, 8), textcoords="offset points", ha="center", fontsize=9)
axis.set(xlabel="n", ylabel="share of n-grams never seen", ylim=(0, 1), title="The longer the context, the more is new")
show(
    fig,
    alt=f"The share of validation n-grams that never occurred in training rises from {unseen[0]:.1%} for n = 1 "
    f"to {unseen[-1]:.0%} for n = 6.",
)

# %% [markdown]
# To what it has never seen, the counting model gives probability 0. Then the product is 0, its logarithm minus infinity, the perplexity infinite. One unseen bigram in a whole book does that. Let us look for the first one in the validation stories:

# %% tags=["nbval-check-output"]
bigrams = tables[2]
story, place = next((d, i) for d in validation for i in range(1, len(d)) if d[i] not in bigrams.get((d[i - 1],), {}))
print("".join(story[: place + 1]), "…")
print(f"\n{story[place]!r} never followed {story[place - 1]!r} in training, so for the bigram model P(story) = 0.")
print(f"After other words {story[place]!r} did occur, {tables[1][()].get(story[place], 0)} times.")

# %% [markdown]
# There is nothing wrong with the story. The model is too sure of what it has read.
#
# ## Smoothing: what a shorter context says
#
# The cure is to keep a little probability for what was not seen, and to hand it out by what a *shorter* context says. After " named" the name Dreria was never seen; but without looking at the word before, it was: a rare word, and not an impossible one.
#
# How much to keep? Witten and Bell (1991) had a good idea: look at how many *different* tokens followed the context so far. If a hundred different ones did, the next one will often be new; if only one ever did, hardly. They pretend that each different follower was also once an occasion on which the shorter context was asked:
#
# $$P(t \mid h) = \frac{c(h, t) + d(h)\,P(t \mid h')}{c(h) + d(h)}$$
#
# $h$ is the context, $h'$ the same without its first token, $c(h, t)$ how often $t$ followed $h$ (*count*), $c(h)$ how often $h$ occurred (*total*), $d(h)$ how many different tokens followed it (*distinct*). The shorter context is smoothed in the same way, down to no context at all, and there to "all tokens are equally likely".
#
# ### Exercise 1.5 · find the bug · ●●○ · 8 min
#
# Here is somebody's `witten_bell`. It runs, and the loss it gives looks wonderful. That should make you suspicious: a model that gives every token a high probability is no good if the probabilities after a context add up to more than 1. Mend it. (For the counts 3 of 4, two different followers and a shorter context that says 0.25, the right answer is 0.5833.)

# %% tags=["exercise"]
from llmkit.models.ngram import witten_bell

# %%
witten_bell = check(witten_bell)

# %% [markdown]
# This sum is the test to run on any model that you did not write yourself:

# %% tags=["nbval-check-output"]
followers = bigrams[(" the",)]
total, distinct = sum(followers.values()), len(followers)
unigrams = tables[1][()]
n_tokens = sum(unigrams.values())
parts = [witten_bell(followers.get(token, 0), total, distinct, count / n_tokens) for token, count in unigrams.items()]
print(f"the probabilities of all {len(parts)} tokens after ' the' sum to {sum(parts):.6f}")

# %% [markdown]
# `NGram` in llmkit puts it together: the counts of every *order*, 1 to $n$ (an n-gram's order is its number of tokens), and a smoothing function that mixes each order with the one below. Models that mix in this way are called *interpolated*. (`absolute_discount` in the description is another way to mix; it has its turn at the end.)

# %% tags=["show"]
from llmkit.models.ngram import NGram

# %% [markdown]
# ## The experiment: how far does counting get?
#
# Now we can measure. For $n$ from 1 to 6 we count in the million characters and ask how surprised the model is by the validation stories, in nats a token. The world can be asked the same question: it is the perfect model, and its loss on its own stories is their **entropy**. No model can do better than that on average, however large it is.
#
# Before you run it, write down a guess. Which $n$ will be best? And how much of the way from $n = 1$ to the entropy will it have gone: a third, a half, nine tenths?

# %%
guess_n = None  # for example 3
guess_share = None  # for example 0.9


# %%
def mixed(n):
    return NGram([tables[order] for order in range(1, n + 1)], witten_bell, len(vocabulary))


def mean_loss(log_probs):
    return cross_entropy([p for story in log_probs for p in story])


loss = {}
for n in tables:
    model = mixed(n)
    loss[n] = mean_loss([model.log_probs(document) for document in validation])
exact = [toyland.word_log_probs(text) for text in corpus.validation]
entropy = mean_loss(exact)
best = min(loss, key=loss.get)
closed = (loss[1] - loss[best]) / (loss[1] - entropy)
for n, nats in loss.items():
    print(f"n = {n}: {nats:.2f} nats a token, perplexity {math.exp(nats):6.1f}" + ("   <- best" if n == best else ""))
print(f"entropy: {entropy:.2f} nats a token, perplexity {math.exp(entropy):3.1f}")
print(f"The best n-gram has gone {closed:.0%} of the way from n = 1 to the entropy.")
if guess_n is not None:
    print(f"Your guess: n = {guess_n} is best.")
if guess_share is not None:
    print(f"Your guess: {guess_share:.0%} of the way.")

# %%
fig, axis = figure(height=3.4)
axis.plot(list(loss), list(loss.values()), "o-", color=COLORS["model"])
axis.axhline(entropy, color=COLORS["truth"], linestyle="--")
plain = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # a guess's line does not run through the words
axis.text(1, entropy - 0.5, f"entropy of toyland, the perfect model: {entropy:.2f}", bbox=plain)
for n, nats in loss.items():
    weight = "bold" if n == best else "normal"
    axis.annotate(
        f"{nats:.2f}", (n, nats), (0, 9), textcoords="offset points", ha="center", color=COLORS["model"], weight=weight
    )
if guess_n is not None:
    axis.axvline(guess_n, color=COLORS["guess"], linestyle=":", zorder=0)
    axis.text(guess_n + 0.05, 5.7, "your guess", color=COLORS["guess"])
if guess_share is not None:
    axis.axhline(loss[1] - guess_share * (loss[1] - entropy), color=COLORS["guess"], linestyle=":", zorder=0)
    axis.text(5.5, loss[1] - guess_share * (loss[1] - entropy) + 0.1, "your guess", color=COLORS["guess"])
axis.set(
    xlabel="n",
    ylabel="loss: nats a token, new stories",
    ylim=(0, 6.5),
    title="Counting stops far above what is possible",
)
show(
    fig,
    alt=f"Loss of n-gram models falls from {loss[1]:.2f} nats at n = 1 to {loss[best]:.2f} at n = {best} and rises again; "
    f"the entropy line lies far below at {entropy:.2f}.",
)

# %% [markdown]
# Two things to see. The curve turns, though slowly: with longer contexts there is more to know and less to count, and from some $n$ on the second wins. And it turns far above the line. The next words of these stories *can* be foreseen much better, and no $n$ does it. What is it that they do not see?
#
# Ask the data. Here is one story, each token coloured by how much more the n-gram paid for it than the perfect model.

# %%
from llmkit.viz import show_tokens

model = mixed(best)
text = next(t for t in corpus.validation if "In the end" in t and len(t) < 700)
paid = model.log_probs(tokens_of(text))
extra = [max(0.0, e - m) for e, m in zip(toyland.word_log_probs(text), paid, strict=True)]
show_tokens(
    toyland.split(text),
    extra[:-1],
    title=f"Extra surprise of the {best}-gram over the perfect model (nats)",
    alt="A story as text. The darkest tokens are names of people and things that were mentioned many words earlier, "
    "and the verbs right after those names.",
)

# %% [markdown]
# The darkest tokens are names: who holds the thing, who is asked, what the thing was. They were all said before, but more than a few words ago, and an n-gram forgets. The verbs after "Dreria" are dark too: this name is rare, so hardly anything was counted after it. A reader sees at once that it is a name, and what names are followed by; for an n-gram it is a token like no other.
#
# Is that all of it? Add this gap up over all validation stories, by kind of token:


# %%
pools = toyland.STORIES.pools
names = {*pools["girls"].words, *pools["boys"].words, *pools["towns"].words}
named = {*names, *pools["things"].words}


def kinds_of(document):
    """The kind of each token of a story."""
    words = [token.strip() for token in document]
    for i, word in enumerate(words):
        if word in named:
            yield "names and things,\nsaid before" if word in words[:i] else "names and things,\nnew"
        else:
            yield "the token after\na name" if i and words[i - 1] in names else "all other tokens"


gaps: dict[str, list[float]] = {}
for document, perfect in zip(validation, exact, strict=True):
    for kind, e, m in zip(kinds_of(document), perfect, model.log_probs(document), strict=True):
        gaps.setdefault(kind, []).append(e - m)
n_tokens, whole = sum(map(len, gaps.values())), sum(map(sum, gaps.values()))
kinds = sorted(gaps, key=lambda kind: len(gaps[kind]), reverse=True)
share_of_tokens = {kind: len(gaps[kind]) / n_tokens for kind in kinds}
share_of_gap = {kind: sum(gaps[kind]) / whole for kind in kinds}

fig, axis = figure(height=3.2)
for shares, up, color, what in (
    (share_of_gap, 0.2, COLORS["model"], f"share of the gap between {best}-gram\nand perfect model"),
    (share_of_tokens, -0.2, COLORS["control"], "share of the tokens"),
):
    bars = axis.barh([row + up for row in range(len(kinds))], [shares[k] for k in kinds], 0.38, color=color, label=what)
    axis.bar_label(bars, fmt="{:.0%}", padding=3, fontsize=9)
axis.set_yticks(range(len(kinds)), kinds)
axis.legend(loc="center right", bbox_to_anchor=(1, 0.42))
back = next(kind for kind in kinds if "said before" in kind)
title = f"What was said before: {share_of_tokens[back]:.0%} of the tokens, {share_of_gap[back]:.0%} of the gap"
axis.set(xlim=(0, 0.9), xlabel="share", title=title)
axis.xaxis.set_major_formatter("{x:.0%}")
show(
    fig,
    alt="Share of the tokens and share of the gap, by kind of token: "
    + "; ".join(f"{' '.join(kind.split())} {share_of_tokens[kind]:.0%} and {share_of_gap[kind]:.0%}" for kind in kinds),
)

# %% [markdown]
# The largest piece that is missing has a name: **memory over any distance**. A model that can look back at the whole story, find the name that matters and copy it can win back what is lost on these tokens: four tenths of the gap, on a tenth of the tokens. That is what attention does. It is lesson 04.
#
# A smaller piece is **likeness**: to know, before having counted anything after it, that a name is a name. Vectors in place of tokens do that, in lesson 03. The rest of the gap, about a third, is spread thinly over all other tokens: sentences that a 4-gram knows in pieces only.
#
# ## The smallest neural network does the same as counting
#
# Before that, one step that looks like a detour. Everything after this lesson is *trained* instead of counted: a table of numbers is changed little by little until it predicts well. For the bigram model both can be done, so we can see that they agree.
#
# The model is a table $W$ of size $V \times V$, where $V$ is the number of tokens. Row $i$ holds a number (a **logit**) for every token that might follow token $i$. Softmax turns a row into probabilities:
#
# $$P(j \mid i) = \frac{e^{W_{ij}}}{\sum_k e^{W_{ik}}}$$
#
# The loss is the cross-entropy over all pairs $(x, y)$ of neighbours. How does it change when one logit changes? The answer is the most useful formula of this course: for one pair, the gradient of row $x$ is **what the model believes minus what happened**,
#
# $$\frac{\partial\,\text{loss}}{\partial W_{x}} = \text{softmax}(W_x) - \text{onehot}(y)$$
#
# where $\text{onehot}(y)$ is 1 at $y$ and 0 elsewhere.
#
# ### Exercise 1.6 · the gradient · ●●● · 15 min
#
# Write `bigram_gradient(table, x, y)`: the gradient of the *mean* loss over $N$ pairs. `table` is a float tensor (V, V), `x` and `y` are integer tensors (N,). Pairs with the same `x` add up in the same row; rows that occur in no pair are 0; the result has the shape and dtype of the table. PyTorch can find gradients by itself, which is called *autograd*; yours must agree with it to 1e-6. Do not use it for your answer (though the check would let you).
#
# If PyTorch is new to you, these three calls are all that you need:

# %% tags=["nbval-check-output"]
import torch
from torch import Tensor
from torch.nn import functional as F

print(torch.softmax(torch.zeros(2, 4), dim=-1), "softmax along the last axis: each row sums to 1\n")
print(F.one_hot(torch.tensor([2, 0, 2]), 3), "1 where the number points\n")
rows = torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
added = torch.zeros(2, 2).index_add(0, torch.tensor([0, 1, 0]), rows)
print(added, "rows 0 and 2 were added into row 0, row 1 into row 1")

# %% tags=["exercise"]
from llmkit.models.bigram import bigram_gradient

# %%
bigram_gradient = check(bigram_gradient)

# %% [markdown]
# To keep the table small enough to look at, the tokens are now single letters. `train_bigram` does **gradient descent**: 800 times it asks your function for the gradient, which points to where the loss grows, and takes a step the other way. How far a step goes is the *learning rate*, `lr`.
#
# Beside it we count, and compare the two tables by their **divergence**: how many nats more one pays, on average, for believing the trained row where the counted row is the truth. It is 0 when the two are equal. (Its full name is Kullback-Leibler divergence.)

# %%
from llmkit.models.bigram import train_bigram

letters = "".join(corpus.train[:10])
alphabet = sorted(set(letters))
ids = torch.tensor([alphabet.index(letter) for letter in letters])
x, y = ids[:-1], ids[1:]
table, losses = train_bigram(x, y, len(alphabet), steps=800, lr=3.0)

counts = torch.zeros(len(alphabet), len(alphabet)).index_put((x, y), torch.ones(len(x)), accumulate=True)
counted = counts / counts.sum(1, keepdim=True).clamp(min=1)
trained = torch.softmax(table, dim=-1)
divergence = (counted * (counted.clamp(min=1e-12) / trained).log()).sum(1)  # nats, for each letter before
mean_divergence = (divergence * counts.sum(1)).sum() / counts.sum()
floor = -(counts * counted.clamp(min=1e-12).log()).sum() / counts.sum()
print(f"loss of the counts          {floor:.4f} nats a letter")
print(
    f"loss of the trained table   {F.cross_entropy(table[x], y):.4f}   (it began at {losses[0]:.4f} = ln {len(alphabet)})"
)
print(f"mean divergence of the two  {mean_divergence:.4f} nats")
assert mean_divergence < 0.01

# %%
from collections import Counter

order = [alphabet.index(letter) for letter, _ in Counter(letters).most_common(18)]
fig, axes = figure(2, height=3.5)
for axis, matrix, name in ((axes[0], counted, "counted"), (axes[1], trained, "trained")):
    image = axis.imshow(matrix[order][:, order] ** 0.5, vmin=0, vmax=1)
    labels = [alphabet[i].replace(" ", "space") for i in order]
    axis.set_xticks(range(len(order)), labels, fontsize=9)
    axis.set_yticks(range(len(order)), labels, fontsize=9)
    axis.get_xticklabels()[labels.index("space")].set_rotation(90)
    axis.grid(False)
    axis.set(title=name, xlabel="next letter", ylabel="letter before")
bar = fig.colorbar(image, ax=axes, shrink=0.8, label="P(next letter)")
bar.set_ticks([0, 0.5**0.5, 1], labels=["0", "0.5", "1"])
show(
    fig,
    alt="Two heat maps of the 18 commonest letters: the probability of the next letter by counting and by training. "
    "They look the same. The brightest cell is the space after a full stop.",
)

# %% [markdown]
# The same picture twice. Training found the counts, without ever counting, by asking "what did I believe, and what happened?". Counting works only when the context is a thing one can tabulate. The question works for any model that has a gradient, with a context of any length. That is why we change sides here.
#
# ## Can counting be done better? (optional)
#
# Kneser and Ney (1995) noticed something. "Francisco" is a frequent word, but it follows only "San". When the context is new, and we fall back on single words, Francisco should *not* be a good guess, however often it was seen: it appears in one place only. So for the shorter contexts they count in how many *different* places a token appears, instead of how often.
#
# They also keep probability back in another way than Witten and Bell: every count is lowered by the same *discount*, 0.75, whether it is 1 or 100, and what that frees goes to the shorter context. Counts of 1, the least reliable, lose most of what they had; counts of 100 hardly notice.
#
# ### Exercise 1.7 · continuation counts · ●●● · 10 min · optional
#
# Write `continuation_counts(counts)`. It gets the counts of one order and returns those of the next lower one: contexts lose their first token, and the number for (context, token) is how many different first tokens were seen before "context token", however often. With "San Francisco" seen twice, "a hat" and "the hat" once each, Francisco has 1 and hat has 2.

# %% tags=["exercise"]
from llmkit.models.ngram import continuation_counts

# %%
continuation_counts = check(continuation_counts)

# %% tags=["show"]
from llmkit.models.ngram import DISCOUNT, absolute_discount, kneser_ney_ngram

# %%
kneser_ney = {}
for n in (2, 3, 5):
    model = kneser_ney_ngram(train, n, len(vocabulary))
    kneser_ney[n] = mean_loss([model.log_probs(document) for document in validation])
    print(f"n = {n}: Witten-Bell {loss[n]:.2f}, Kneser-Ney {kneser_ney[n]:.2f} nats a token")
best_of_all = min([*loss.values(), *kneser_ney.values()])
share = (loss[1] - best_of_all) / (loss[1] - entropy)
print(f"The best counting model has gone {share:.0%} of the way to the entropy.")

# %% [markdown]
# Better, and with a longer context than before. Of all the methods that Chen and Goodman compared, a variant of this one did best. The gap to the entropy is still wide open.
#
# ## On real text
#
# Python comes with half a megabyte of English: the pages that `help()` shows. Nobody knows its entropy, so there is no line to draw. Tokens are single characters here, and the unit is bits per byte, so the numbers can be set beside those of any other model on the same text, whatever its tokens are.

# %%
from llmkit.data.text import python_docs

pages = [page for page in python_docs().split("\n\n") if page.strip()]
held_out = pages[9::10]
read = [list(page) for i, page in enumerate(pages) if i % 10 != 9][:2000]
characters = {character for page in pages for character in page}
print("  n   bits per byte, n = 0 is not knowing anything")
print(f"  0   {math.log2(len(characters)):.2f}")
for n in (1, 2, 3, 5):
    model = kneser_ney_ngram(read, n, len(characters))
    logs = [p for page in held_out[:100] for p in model.log_probs(page)]
    print(f"  {n}   {bits_per_byte(logs, ''.join(held_out[:100])):.2f}")

# %% [markdown]
# ## On a GPU
#
# The table of a bigram model over whole words has millions of entries, most of them never touched. Counting is faster; a GPU makes training bearable. This section runs by itself where a GPU is found.


# %%
@gpu_section(f"train a bigram table over all words of toyland ({len(vocabulary) ** 2 / 1e6:.0f} million logits)",
             full={"n_stories": 3000, "steps": 200}, smoke={"n_stories": 5, "steps": 3})  # fmt: skip
def word_bigrams(device, n_stories, steps):
    words = sorted({token for document in train[:n_stories] for token in document})
    index = {word: i for i, word in enumerate(words)}
    pairs = torch.tensor([(index[a], index[b]) for d in train[:n_stories] for a, b in zip(d, d[1:], strict=False)]).to(
        device
    )
    table, losses = train_bigram(pairs[:, 0], pairs[:, 1], len(words), steps, lr=2.0)
    print(f"{table.numel()} logits; loss from {losses[0]:.2f} to {losses[-1]:.2f} nats a pair in {steps} steps")
    return losses


# %% [markdown]
# ## Mistakes people make
#
# | mistake | how it shows |
# |---|---|
# | Probabilities that do not sum to 1 | a loss that is too good to be true, below the entropy |
# | Measuring on the text one has counted in | the longer the context, the better, without end |
# | Averaging perplexities over documents | a number that no text has; average the nats, then take the exponential |
# | Comparing nats a token between tokenizers | the one with longer tokens looks worse; use bits per byte |
# | Forgetting the end of the document | texts never stop, and P(text) is the probability of all texts that begin so |
#
# ## Where the real systems do it
#
# - **KenLM** (`lmplz`) estimates modified Kneser-Ney models on billions of words; speech recognisers and spelling correctors still use them, and web text is filtered by their perplexity (Wenzek et al. 2020, CCNet).
# - **transformers** `GenerationMixin._sample`: the same loop as our `sample`, with logits from a network.
# - **lm-evaluation-harness** reports `word_perplexity`, `byte_perplexity` and `bits_per_byte`; the last is yours from exercise 1.4.
# - Shannon measured the entropy of English with people as the model: "Prediction and entropy of printed English", 1951. Jelinek and Mercer 1980 brought interpolation; Chen and Goodman 1998 compare all smoothing methods of this lesson.
#
# ## What llmkit gained
#
# | file | what |
# |---|---|
# | `llmkit/data/toyland/` | the world: stories, exact next-word probabilities, entropy |
# | `llmkit/models/ngram.py` | counts, Witten-Bell and Kneser-Ney smoothing, `NGram` |
# | `llmkit/models/bigram.py` | the smallest neural model and its gradient |
# | `llmkit/generation/sampling.py` | `pick`, `sample` |
# | `llmkit/evaluation/metrics.py` | `cross_entropy`, `perplexity`, `bits_per_byte` |
#
# Three questions to check yourself:
#
# <details><summary>A model has a perplexity of 20 on a text. Its tokens are words of 5 bytes on average, space included. What is that in bits per byte?</summary>
#
# log2(20) = 4.32 bits a token, divided by 5 bytes: 0.86 bits per byte.
# </details>
#
# <details><summary>Why does the loss rise again for large n, although a longer context holds everything that a shorter one does?</summary>
#
# Long contexts have been seen once or never. Witten-Bell still gives the one follower that it saw half of the probability (one observation, one different follower), and that is often wrong.
# </details>
#
# <details><summary>On the stories used for training, the 6-gram's loss is far below the entropy. Is that a contradiction?</summary>
#
# No. The entropy bounds the average over new stories from the source. A model that has memorised a text can give that text any probability up to 1.
# </details>

# %%
progress()

# %% [markdown]
# **Next**: 02_tokenizers. A model needs a fixed list of tokens, and words are a bad one: there is always another. Where the pieces come from, and why a model cannot spell.
