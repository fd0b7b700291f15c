# %% [markdown]
# # 17 · Preferences: reward models, DPO
#
# **You will** learn a reward from noisy comparisons, choose the best of n answers by it until it goes wrong, and train a policy on the comparisons themselves (DPO), in a world so small that the best possible policy is known exactly; then the same on short stories whose true worth is known.
#
# **Before** you start: lesson 01 (toyland), 05 (a decoder and its loss), 07 (sampling), 16 (instruction tuning: what counts is the answer, not the prompt). From torch you need `gather`, `where`, `logsigmoid`.
#
# **Time** about 85 minutes: six exercises. All cells together run for about 50 seconds.

# %% tags=["setup"]
import copy
from itertools import repeat

import torch
from torch import Tensor
from torch.nn import functional as F

from llmkit.course import check, gpu_section, hint, progress, start
from llmkit.viz import COLORS, figure, show

torch.set_num_threads(1)  # the fastest for a model as small as ours
start("17_preferences", solved=True)

# %% [markdown]
# ## Which of the two is better?
#
# Instruction tuning shows a model what to say. Often nobody can write the best answer down, but everybody can say which of two is better. This lesson turns such comparisons into a better model.
#
# Whether it *is* better is usually a matter of opinion, or of another model's opinion. Not here. Our world has 8 tokens, answers of 4 tokens, and three prompts; there are $8^4 = 4096$ answers, and we can list them all. The **reference** is a decoder of one layer, trained on made-up texts that walk round a circle of the 8 tokens, mostly in one direction. The judge's taste is a rule: half a point for each of the answer's three steps (from one of its tokens to the next) that does not fall, half a point for each different token that is not in the prompt.

# %%
from llmkit.alignment.exact import answer_index, kl, log_probs, objective, optimum
from llmkit.alignment.small_world import small_world

world = small_world(0)
prompts, answers, ref, truth = world.prompts, world.answers, world.ref_log_probs, world.rewards
print(f"{world.model.n_params():,} parameters; tables of log P and of rewards: {tuple(ref.shape)}")
generator = torch.Generator().manual_seed(0)
drawn = torch.multinomial(ref[0].exp(), 6, replacement=True, generator=generator)
for i in drawn.tolist():
    print(
        f"prompt {prompts[0].tolist()} -> {answers[i].tolist()}   P = {ref[0, i].exp():.5f}   reward {truth[0, i]:.1f}"
    )
mean_reward = (ref.exp() * truth).sum(-1).mean().item()
print(f"mean reward of the reference {mean_reward:.3f}; the best answer has {truth.max():.1f}")

# %% [markdown]
# Can the model be made to answer with more reward, if all we ever see is "this one rather than that one"?
#
# ## How a judge chooses
#
# Say answer $a$ is worth $r_a$ to a judge and $b$ is worth $r_b$. A judge in a hurry does not always name the better one. **Bradley and Terry** (1952):
#
# $$P(a \text{ wins}) = \sigma(r_a - r_b) = \frac{1}{1 + e^{-(r_a - r_b)}}$$
#
# Equal worth is a coin toss; one point ahead wins 73% of the time, two points 88%. Some judges also click on the wrong button: with probability `flip` the answer is turned round afterwards.
#
# ### Exercise 17.1 · win_probability · ●○○ · 6 min
#
# Write `win_probability(first, second, flip)`. The first two are tensors of scores of one shape; the result has that shape. Refuse a `flip` below 0 or above 0.5 with a `ValueError`; 0 and 0.5 themselves are allowed.

# %% tags=["exercise"]
from llmkit.alignment.preferences import win_probability

# %%
win_probability = check(win_probability)

# %% [markdown]
# `sample_pairs` draws a prompt, two answers from the reference, and asks such a judge. Does it do what the formula says? We count:

# %%
from llmkit.alignment.preferences import accuracy_ceiling, label_entropy, sample_pairs

test = sample_pairs(ref, truth, 20_000, torch.Generator().manual_seed(99))
worth = torch.stack([truth[test.prompt, test.chosen], truth[test.prompt, test.rejected]])
lead = worth[0] - worth[1]
gaps = torch.arange(0.5, 3.0, 0.5).double()
counted = [((lead == g).sum() / (lead.abs() == g).sum()).item() for g in gaps]
x = torch.linspace(0, 3, 50)
fig, axis = figure(height=3.0)
axis.plot(x, win_probability(x, torch.zeros(50)), color=COLORS["truth"])
axis.plot(gaps, counted, "o", color=COLORS["model"])
axis.text(1.32, 0.80, "Bradley and Terry", ha="right")
axis.text(gaps[2] + 0.1, counted[2] - 0.03, "counted in 20,000 pairs", color=COLORS["model"])
axis.set(xlabel="lead of the better answer (points)", ylabel="share in which it wins", ylim=(0.5, 1))
axis.set_title("The better answer wins more often, not always")
show(fig, alt=f"Share of pairs that the better answer wins against its lead, on the curve of Bradley and Terry: {counted[0]:.2f} at half a point, {counted[3]:.2f} at two points.")  # fmt: skip

# %% [markdown]
# So the labels are noisy, and no model can predict them all. Of pairs with win probability $p$, the best possible guess is right $\max(p, 1-p)$ of the time. The mean of that is the **ceiling**. And the mean entropy of the labels is the least loss that anybody can have.

# %%
p = win_probability(worth[0], worth[1])
ceiling, least_loss = accuracy_ceiling(p), label_entropy(p)
print(
    f"ceiling of the accuracy {ceiling:.1%}; least loss {least_loss:.4f} nats (a coin toss: {torch.tensor(2.0).log():.4f})"
)
assert 0.60 < ceiling < 0.66 and least_loss < 0.66

# %% [markdown]
# A ceiling of not much above 60% looks hopeless. It is not: two answers of one model are often about as good, and people who judge such pairs do not all agree either. **Know the ceiling before you judge an accuracy.**
#
# ## Learning the reward
#
# Write $r_w$ for the score of the answer that won (the chosen one), $r_l$ for the one that lost (the rejected one). The loss follows from the probability: minus its logarithm, for what was chosen. Two additions are in use. A **margin** $m$ asks the chosen one to lead by that much. And since only differences are asked for, all scores may float up or down together; **centring** adds $c \,(r_w + r_l)^2$ to hold them about 0.
#
# $$L = -\ln \sigma(r_w - r_l - m) + c\,(r_w + r_l)^2$$
#
# By hand: with $r_w = r_l = 2$ and $m = 0$ the first part is $\ln 2 = 0.6931$, and with $c = 0.1$ the second is $0.1 \cdot 16 = 1.6$.
#
# ### Exercise 17.2 · bradley_terry_loss · ●●○ · 10 min
#
# Write `bradley_terry_loss(chosen, rejected, margin, centre)`: scores $(M,)$ each, `margin` a number or one for each pair, $(M,)$; the result is the mean over the pairs. It must not overflow when the scores are 300 apart. Refuse with a `ValueError`: scores that are not both $(M,)$, no pairs at all, and margins in a column, $(M, 1)$.

# %% tags=["exercise"]
from llmkit.alignment.preferences import bradley_terry_loss

# %%
bradley_terry_loss = check(bradley_terry_loss)

# %% [markdown]
# **What the loss cannot see.** Add something to the scores that depends on the prompt alone:

# %%
by_prompt = torch.tensor([100.0, -30.0, 7.0])[test.prompt]
plain = bradley_terry_loss(worth[0], worth[1])
moved = bradley_terry_loss(worth[0] + by_prompt, worth[1] + by_prompt)
print(f"loss {plain:.6f}, with 100, -30 and 7 points added to the prompts' answers {moved:.6f}")
assert abs(plain - moved) < 1e-9

# %% [markdown]
# (It is a little below the least loss printed above by the luck of 20,000 drawn labels: that is what one expects, not what every draw gives.) A pair never compares answers to different prompts. So a reward model is known only up to a number for each prompt: **never compare its scores across prompts.**
#
# ### From a decoder to a score
#
# A reward model is a decoder without its last matrix, and in its place a single row: hidden state $(C)$ in, one number out. Which hidden state? In a decoder only the *last* token has seen the whole text.
#
# ### Exercise 17.3 · last_token · ●●○ · 10 min · find the bug
#
# The function below is in use in many places, and its author's tests pass. Texts in a batch have unequal length, `attention_mask` $(B, T)$ is false for padding, and padding may stand on *either* side, on both, or even between tokens: what counts is the last true place of each row. Mend it. Without a mask nothing is padding. A row of padding alone has no last token: refuse it, and a mask that is not $(B, T)$, with a `ValueError`.

# %% tags=["exercise"]
from llmkit.alignment.reward import last_token

# %%
last_token = check(last_token)

# %% [markdown]
# Break it: what happens when the *last place* is taken, padding or not? The same answer, alone and beside a longer one:

# %%
from llmkit.alignment.reward import pair_calibration, reward_loss, reward_model

torch.manual_seed(0)
untrained = reward_model(world.model)
alone, padded = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[0, 1, 2, 3, 0, 0]])
mask = torch.tensor([[1, 1, 1, 1, 0, 0]]).bool()
with torch.no_grad():
    right = untrained(alone).item(), untrained(padded, mask).item()
    wrong = untrained.score(untrained.transformer(padded, mask)[:, -1]).item()
print(f"alone {right[0]:.4f}, padded {right[1]:.4f}; read from the last place {wrong:.4f}")
assert abs(right[0] - right[1]) < 1e-5 < abs(right[0] - wrong)

# %% [markdown]
# A score that depends on who else is in the batch. Nothing crashes, the loss falls, and the model judges padding.
#
# ### How many pairs does it need?
#
# We train reward models from 200, 2,000 and 20,000 pairs, two seeds each, all for the same 150 steps, starting from the reference. With 200 pairs, that is nearly a hundred times over the same ones.

# %%
from llmkit.alignment.preferences import pair_accuracy
from llmkit.training.loop import train

texts = torch.cat([prompts.repeat_interleave(4096, 0), answers.repeat(3, 1)], 1)  # (3 * 4096, 6)


def trained_reward(n_pairs, seed, n_steps=150):
    """Scores (3, 4096) of a reward model trained on n_pairs comparisons, and its accuracy on these very pairs."""
    generator = torch.Generator().manual_seed(seed)
    pairs = sample_pairs(ref, truth, n_pairs, generator)

    def batches():
        while True:
            i = torch.randint(n_pairs, (128,), generator=generator)
            rows = [4096 * pairs.prompt[i] + side[i] for side in (pairs.chosen, pairs.rejected)]
            yield texts[torch.cat(rows)], None

    torch.manual_seed(seed)
    model = reward_model(world.model)
    train(model, batches(), n_steps, 5e-3, loss=reward_loss, weight_decay=0.0, progress=False)
    with torch.no_grad():
        scores = model(texts).view(3, 4096).double()
    return scores, pair_accuracy(scores[pairs.prompt, pairs.chosen], scores[pairs.prompt, pairs.rejected])


SIZES, SEEDS = (200, 2000, 20_000), (0, 1)
trained = {(n, seed): trained_reward(n, seed) for n in SIZES for seed in SEEDS}
proxies = {key: scores for key, (scores, _) in trained.items()}
different = lead != 0
print(f"{'':13} {'its own pairs':>14} {'20,000 new pairs':>41}")
print(f"{'pairs':>7} {'seed':>5} {'accuracy':>14} {'accuracy':>10} {'names the better one':>21} {'loss':>8}")
accuracy = {}
for (n, seed), scores in proxies.items():
    a, b = scores[test.prompt, test.chosen], scores[test.prompt, test.rejected]
    better = ((a > b) == (lead > 0))[different].double().mean().item()
    accuracy[n, seed] = pair_accuracy(a, b), better
    own = trained[n, seed][1]
    print(f"{n:7,} {seed:5} {own:14.1%} {accuracy[n, seed][0]:10.1%} {better:21.1%} {bradley_terry_loss(a, b):8.3f}")
print(f"{'the best possible':>28} {ceiling:10.1%} {1:21.1%} {least_loss:8.3f}")
assert min(accuracy[20_000, s][0] for s in SEEDS) > max(accuracy[200, s][0] for s in SEEDS)
assert max(accuracy[n, s][0] for n in SIZES for s in SEEDS) < ceiling
assert min(trained[200, s][1] for s in SEEDS) > 0.8 > max(trained[20_000, s][1] for s in SEEDS)

# %% [markdown]
# ("Names the better one" leaves the noise out: how often does the model prefer the answer that *is* better, in pairs that differ?)
#
# From 200 pairs the model gets about nine in ten of its own pairs right, where the truth itself would get about 63%: it has learnt them by heart, noise and all. On new pairs its accuracy is little more than a coin's, and its loss is far above the coin's, ln 2 = 0.693: it is sure, and wrong. From 20,000 pairs, each seen about once, there was nothing to learn by heart, and the loss on new pairs is below the coin's.
#
# How sure is it, and how often right? Put together the pairs in which the model is about as sure, by $\sigma$ of the difference of its scores, and count in how many it names the chosen one. An honest model lies on the diagonal (a dot for every group of more than 100 pairs):

# %%
fig, axes = figure(2, height=3.1, sharey=True)
shown = {}
for axis, n in zip(axes, (200, 20_000), strict=True):
    a, b = proxies[n, 0][test.prompt, test.chosen], proxies[n, 0][test.prompt, test.rejected]
    apart = a != b
    table = pair_calibration(a[apart], b[apart])
    full = table.count > 100
    shown[n] = table.confidence[full][-1].item(), table.accuracy[full][-1].item()
    axis.plot([0.5, 1], [0.5, 1], color=COLORS["truth"], linewidth=1)
    axis.plot(table.confidence[full], table.accuracy[full], "o-", color=COLORS["model"])
    axis.set(xlabel="how sure (probability)", xlim=(0.5, 1), ylim=(0.4, 1.0), title=f"{n:,} pairs")
axes[0].set_ylabel("share right")
axes[0].text(0.72, 0.8, "honest", rotation=32)
fig.suptitle("A reward model from few pairs is sure without reason", fontsize=11, x=0.02, ha="left", fontweight="bold")
show(fig, alt=f"Share right against how sure the model is. 200 pairs: where it is {shown[200][0]:.2f} sure, {shown[200][1]:.2f} are right. 20,000 pairs: {shown[20_000][0]:.2f} sure, {shown[20_000][1]:.2f} right.")  # fmt: skip
assert shown[200][0] - shown[200][1] > 0.25 > shown[20_000][0] - shown[20_000][1]

# %% [markdown]
# From 200 pairs (seed 0), being sure means nothing: the share that is right hardly rises with it. From 20,000 the model is about as sure as it should be, except perhaps where it is most sure.
#
# ## Best of n
#
# The plainest use of a score: draw $n$ answers, keep the one that scores most. No training. How far does that take us from the reference? For many answers and no ties the KL (the divergence of lesson 01) is known (Stiennon et al. 2020), and it is never more (Beirami et al. 2024):
#
# $$\text{KL}(\text{best of } n \,\|\, \text{reference}) \le \ln n - \frac{n-1}{n}$$

# %%
from llmkit.alignment.best_of_n import best_of_n_distribution, best_of_n_kl_bound

for n in (2, 4, 16, 64):
    exact = kl(best_of_n_distribution(ref, truth, n), ref).mean().item()
    print(f"best of {n:3}: KL {exact:.3f} nats, at most {best_of_n_kl_bound(n):.3f}")
    assert exact < best_of_n_kl_bound(n)

# %% [markdown]
# ### Exercise 17.4 · nats are dear · ●○○ · 4 min
#
# What is the smallest whole n for which this bound is 3 nats or more? Find it with paper, or with a loop. The logarithm is the natural one.

# %%
n_for_three_nats = None
# BEGIN SOLUTION
n_for_three_nats = next(n for n in range(1, 1000) if best_of_n_kl_bound(n) >= 3)
# END SOLUTION
n_for_three_nats = check(n_for_three_nats, "17.4")

# %% [markdown]
# One more nat takes about $e$ times as many answers. Training can go further than that, which is its strength and its danger.
#
# ### The experiment: more and more of a good thing
#
# Now choose by the *learned* scores, the **proxy**, and measure the *true* reward, for n from 1 to 16,384. There is no sampling here: the distribution of best of n is computed for all 4096 answers. The control chooses by the truth itself.
#
# **Guess** before you run it: for the reward model from 20,000 pairs, which n (a power of 2 from 1 to 16,384) gives most true reward?

# %%
guess = None

# %%
from llmkit.viz.alignment import draw_frontier, draw_overoptimisation

NS = [2**i for i in range(15)]


def best_of_curve(scores):
    """KL, true reward and the scores' own mean (standardised by the reference's) for each n in NS."""
    spread = ((ref.exp() * scores.square()).sum(-1) - (ref.exp() * scores).sum(-1).square()).sqrt()
    rows = []
    for n in NS:
        policy = best_of_n_distribution(ref, scores, n)
        gain = ((policy.exp() - ref.exp()) * scores).sum(-1) / spread
        rows.append((kl(policy, ref).mean().item(), (policy.exp() * truth).sum(-1).mean().item(), gain.mean().item()))
    return list(zip(*rows, strict=True))


curves = {key: best_of_curve(scores) for key, scores in proxies.items()}
control = best_of_curve(truth)
SHADES = {200: COLORS["bad"], 2000: COLORS["key"], 20_000: COLORS["model"]}
lines = {"chosen by the truth": (*control[:2], "#666666")}
heights = {}
for n in SIZES:
    lines[f"_{n}"] = (*curves[n, 0][:2], SHADES[n])
    lines[f"_{n} again"] = (*curves[n, 1][:2], SHADES[n])
fig, axes = figure(2, height=3.4)
for (n, _), (divergence, _, gain) in curves.items():
    axes[0].plot([max(x, 0) ** 0.5 for x in divergence], gain, color=SHADES[n], linewidth=1.6)
axes[0].set(
    xlabel="√KL from the reference", ylabel="gain in score (std of the reference)", title="The proxy only rises …"
)
draw_overoptimisation(axes[1], lines)
axes[1].set(title="… the truth turns over", ylim=(1.2, 3.9), xlim=(0, 3.1))
axes[1].text(0.05, 0.75, "dots: the tops", transform=axes[1].transAxes, fontsize=9)
for i, n in enumerate(SIZES):
    axes[0].text(0.98, 0.24 - 0.1 * i, f"{n:,} pairs, two seeds", color=SHADES[n], fontsize=9, ha="right", transform=axes[0].transAxes)  # fmt: skip
if guess is not None:
    at = curves[20_000, 0][0][min(range(len(NS)), key=lambda i: abs(NS[i] - guess))] ** 0.5
    axes[1].axvline(at, ymax=0.7, color=COLORS["guess"])
    axes[1].text(at, 1.25, "your guess ", color=COLORS["guess"], fontsize=9, ha="right" if at > 1.2 else "left")
tops = {key: max(range(len(NS)), key=lambda i: curve[1][i]) for key, curve in curves.items()}
show(
    fig,
    alt="Left: the learned score rises with the root of KL for every reward model. Right: true reward by the root of KL; "
    + "; ".join(
        f"{n:,} pairs: most {curves[n, 0][1][tops[n, 0]]:.2f}, at the end {curves[n, 0][1][-1]:.2f}" for n in SIZES
    )
    + f"; chosen by the truth {control[1][-1]:.2f}",
)
print(f"{'':22} {'true reward':^37} {'gain in score':>15}")
print(f"{'pairs':>8} {'seed':>6} {'n = 1':>13} {'most':>7} {'at n =':>9} {'n = 16,384':>12} {'n = 16,384':>15}")
for (n, seed), curve in curves.items():
    top = tops[n, seed]
    print(f"{n:8,} {seed:6} {curve[1][0]:13.2f} {curve[1][top]:7.2f} {NS[top]:9,} {curve[1][-1]:12.2f} {curve[2][-1]:15.2f}")  # fmt: skip
print(f"{'chosen by the truth':>20} {control[1][0]:8.2f} {'':17} {control[1][-1]:12.2f}\nyour guess: {guess}")
assert all(b > a for curve in curves.values() for a, b in zip(curve[2], curve[2][1:], strict=False))
assert sum(curve[1][-1] < max(curve[1]) for curve in curves.values()) >= 4

# %% [markdown]
# The learned score rises with every doubling of n, in all six models. The true reward rises with it at first, and then turns over: in every one of the six it ends below its top, and far below the control. (The control stops at a smaller distance because of ties: many answers have the highest reward, and it chooses among them as the reference would.) This is **over-optimisation**. Choosing hard finds the answers for which the model's error is largest, and the harder one chooses, the more the error is what one has chosen for. The answers at the far end are such as the reference seldom gives, so few pairs, or none, told the model about them. How high a line climbs on the left does not say how much truth was won: its unit is that model's own spread over the reference's answers. Compare the last two columns: the model that gains most in score is not the one with the most true reward.
#
# Not as we expected: more pairs did not simply turn over later. Two seeds at one size can differ as much as two sizes; models from 2,000 pairs reach about as much as those from 20,000 (seen about once each, in 150 steps), and one from 200 was plainly lucky. Nor is all six a law: one of them turns only just, and after another number of training steps (try `n_steps=120`) some still rise at n = 16,384.
#
# In practice the right panel cannot be drawn, because nobody knows the truth. What can be watched is the distance on the horizontal axis.
#
# ## The best policy there is
#
# A policy $\pi$ that only maximises a proxy ends where the proxy is most wrong. So one pays for distance. With a price $\beta$ for each nat (0.5 points in our world), with $y$ for an answer to one prompt and $\mathbb{E}$ for the mean over the answers of $\pi$:
#
# $$J(\pi) = \mathbb{E}_{y \sim \pi}[r(y)] - \beta\, \text{KL}(\pi \,\|\, \pi_\text{ref})$$
#
# Write the KL out as a sum, and put the reward into the same logarithm, as $\ln e^{r(y)/\beta}$:
#
# $$J(\pi) = -\beta \sum_y \pi(y) \ln \frac{\pi(y)}{\pi_\text{ref}(y)\, e^{r(y)/\beta}}$$
#
# This would be a KL if the denominators summed to 1. They sum to some $Z$, another one for each prompt. Divided by $Z$ they are a distribution, $\pi^*$, and $J(\pi) = \beta \ln Z - \beta\, \text{KL}(\pi \,\|\, \pi^*)$. A KL is never below 0, and it is 0 where both are equal:
#
# $$\pi^*(y) = \frac{\pi_\text{ref}(y)\, e^{r(y)/\beta}}{Z}, \qquad J^* = \beta \ln Z, \qquad J^* - J(\pi) = \beta\, \text{KL}(\pi \,\|\, \pi^*)$$
#
# In a real model $Z$ is a sum over every text that could be written, and nobody can compute it. Ours has 4096 terms.

# %%
beta = world.beta
best = optimum(ref, truth, beta)
for name, policy in {
    "reference": ref,
    "best of 16": best_of_n_distribution(ref, truth, 16),
    "pi*": best.log_probs,
}.items():
    J = objective(policy, ref, truth, beta).mean().item()
    gap = (best.value.mean() - J).item()
    price = beta * kl(policy, best.log_probs).mean().item()
    print(f"{name:11} J {J:.4f}, below J* by {abs(gap):.4f} = beta KL(pi || pi*) = {abs(price):.4f}")
    assert abs(gap - price) < 1e-9

# %% [markdown]
# For each policy the two ways to the gap agree: J falls short of $J^*$ by $\beta$ times the distance to $\pi^*$.
#
# ### Nothing above the line
#
# For every price there is a best policy. Together they are the frontier: at that KL no policy has more reward, whatever it was trained with.

# %%
from llmkit.alignment.exact import frontier, most_reward

betas = torch.logspace(-1.3, 1.5, 200).tolist()
line = frontier(ref, truth, betas)
bons = {n: best_of_n_distribution(ref, truth, n) for n in (2, 4, 16, 64, 256)}
points = {n: (kl(q, ref).mean().item(), (q.exp() * truth).sum(-1).mean().item()) for n, q in bons.items()}
proxied = [(x, y) for x, y in zip(*curves[2000, 0][:2], strict=True) if x < 4.2]
fig, axis = figure(height=3.3)
draw_frontier(axis, line.kl, line.reward)
axis.plot(*zip(*points.values(), strict=True), "o", color=COLORS["good"])
axis.plot(*zip(*proxied, strict=True), "o-", color=COLORS["key"], linewidth=1, markersize=4)
for n, (x, y) in points.items():
    axis.text(x + 0.05, y - 0.03, n, color=COLORS["good"], fontsize=9, va="top")
axis.text(3.1, 3.12, "best of n by the truth", color=COLORS["good"], ha="left", va="top")
axis.text(1.5, 2.28, "best of n by a reward model from 2,000 pairs", color=COLORS["key"], fontsize=9)
axis.text(1.0, 3.27, "frontier", ha="right")
axis.set(xlim=(0, 4.2), ylim=(2.0, 3.6), title="Nothing crosses the frontier; best of n by the truth comes near")
show(fig, alt=f"Mean reward against KL. The frontier; best of 16 at {points[16][0]:.2f} nats has {points[16][1]:.2f}, just under it; the reward model's points bend down far below, to {proxied[-1][1]:.2f}.")  # fmt: skip
for x, y in [*points.values(), *proxied]:
    assert y <= most_reward(x, ref, truth, betas) + 1e-9
room = {n: most_reward(x, ref, truth, betas) - y for n, (x, y) in points.items()}
print("below the frontier:", ", ".join(f"best of {n} {gap:.3f}" for n, gap in room.items()))

# %% [markdown]
# ## DPO: the policy is the reward model
#
# Turn the formula for $\pi^*$ round: $r(y) = \beta \ln \frac{\pi^*(y)}{\pi_\text{ref}(y)} + \beta \ln Z$. Every policy is the optimum of *some* reward, namely of $\beta \ln(\pi / \pi_\text{ref})$, up to a number for each prompt; and such a number, as we saw, a pair cannot see. So put this reward into Bradley and Terry's loss, and train the policy with it, without a reward model and without drawing a single answer (Rafailov et al. 2023). With $y_w$ for the chosen answer and $y_l$ for the rejected one:
#
# $$L = -\ln \sigma(\beta h), \qquad h = \ln\frac{\pi(y_w)}{\pi_\text{ref}(y_w)} - \ln\frac{\pi(y_l)}{\pi_\text{ref}(y_l)}$$
#
# First the logarithm of an answer's probability. Logits at position $t$ predict token $t+1$; the prompt does not count, padding does not count, the rest is *summed*.
#
# ### Exercise 17.5 · sequence_log_probs · ●●○ · 12 min
#
# Write `sequence_log_probs(logits, ids, completion_mask)`: $(B, T, V)$, $(B, T)$, $(B, T)$ to $(B,)$ in float32. Refuse, with a `ValueError`, an answer without tokens, one that has the very first token (nothing predicts it), and shapes that do not fit. At padding the log-probability may be $-\infty$, which must not matter. In the answer it does matter: then the sum is $-\infty$. In llmkit there is `token_log_probs(logits, ids)`, $(B, T-1)$, in float32: log P of each token but the first, the shift already done.

# %%
from llmkit.training.losses import token_log_probs

# %% tags=["exercise"]
from llmkit.alignment.dpo import sequence_log_probs

# %%
sequence_log_probs = check(sequence_log_probs)

# %% [markdown]
# ### Exercise 17.6 · sigmoid_loss · ●●○ · 8 min
#
# Write `sigmoid_loss(pairs, beta)`, one loss for each pair, $(M,)$. `pairs` has six fields, $(M,)$ each: `chosen`, `rejected`, `ref_chosen`, `ref_rejected` are log-probabilities of whole answers, under the policy and under the reference; `chosen_length` and `rejected_length` are not needed here. (`pairs.h` exists; write it out once yourself.)

# %%
from llmkit.alignment.dpo import PairLogProbs

# %% tags=["exercise"]
from llmkit.alignment.dpo import sigmoid_loss

# %%
sigmoid_loss = check(sigmoid_loss)

# %% [markdown]
# At the start policy and reference are the same, so $h = 0$ and the loss is $\ln 2$. The gradient in $h$ is $-\beta\,\sigma(-\beta h)$: a pair in the right order by a wide margin pulls hardly at all.

# %%
chosen = torch.tensor([-5.0, -5.0, -5.0], requires_grad=True)
ref_chosen = torch.tensor([-5.0, -9.0, -1.0])  # at the start; 4 nats gained; 4 nats lost
others = torch.full((3,), -6.0)
losses = sigmoid_loss(PairLogProbs(chosen, others, ref_chosen, others, *torch.ones(2, 3)), beta)
losses.sum().backward()
for name, value, gradient in zip(("start", "4 nats up", "4 nats down"), losses.tolist(), chosen.grad, strict=True):
    print(f"{name:12} loss {value:.4f}, gradient {gradient:.4f}")
assert torch.allclose(chosen.grad, -beta * torch.sigmoid(-beta * (chosen - ref_chosen)).detach())

# %% [markdown]
# ### The experiment: few pairs and many
#
# We train the same policy by DPO on 500 pairs and on 128,000, always on all of them at once, and watch the *true* objective J, which real training never sees. As a control, 500 other pairs, and the first 500 with another loss: **IPO** (Azar et al. 2023), $(h - \frac{1}{2\beta})^2$, asks for $h = \frac{1}{2\beta}$, here 1 nat, and no more.
#
# **Guess**: 60 steps on 500 pairs. Where does J end? The reference has 2.19, the optimum 2.46. Write a number.

# %%
guess = None

# %%
from llmkit.alignment.dpo import dpo, ipo_loss


def train_dpo(n_pairs, seed=1, loss=sigmoid_loss, n_steps=60):
    """What each step logs, with J before it; the policy's table at the end; how often each answer is in a pair."""
    pairs = sample_pairs(ref, truth, n_pairs, torch.Generator().manual_seed(seed))
    rows = (pairs.prompt, pairs.chosen), (pairs.prompt, pairs.rejected)
    fixed, length = [ref[row] for row in rows], torch.full((n_pairs,), 4)
    times = sum(torch.zeros_like(ref).index_put(row, torch.ones(()).double(), accumulate=True) for row in rows)
    log = []

    def step_loss(model, prompts):
        table = log_probs(model, prompts)
        step = dpo(PairLogProbs(*[table[row] for row in rows], *fixed, length, length), beta, loss)
        log.append((step, objective(table.detach(), ref, truth, beta).mean().item()))
        return step.loss

    model = copy.deepcopy(world.model).requires_grad_(True)
    train(model, repeat((prompts,)), n_steps, 1e-2, weight_decay=0.0, loss=step_loss, progress=False)
    return log, log_probs(model, prompts).detach(), times


runs = {
    "500 pairs": train_dpo(500),
    "500 others": train_dpo(500, seed=2),
    "128,000 pairs": train_dpo(128_000),
    "500 pairs, IPO": train_dpo(500, loss=ipo_loss),
}
J_ref, J_best = objective(ref, ref, truth, beta).mean().item(), best.value.mean().item()
final = {name: objective(table, ref, truth, beta).mean().item() for name, (_, table, _) in runs.items()}
fig, axes = figure(2, height=3.3)
STYLE = {"500 pairs": COLORS["bad"], "128,000 pairs": COLORS["model"], "500 pairs, IPO": COLORS["good"]}
for name, color in STYLE.items():
    J = [value for _, value in runs[name][0]]
    axes[0].plot(J, color=color)
    if name != "500 pairs":
        x, shift = (20, 0.22) if name == "128,000 pairs" else (61, -0.32)
        axes[0].text(x, J[-1] + shift, name, color=color, va="center", fontsize=9)
other = [value for _, value in runs["500 others"][0]]
axes[0].plot(other, color=COLORS["bad"], alpha=0.4)
higher = other[-1] > final["500 pairs"]  # the two end close together: one name above its line's end, one below
axes[0].text(61, other[-1], "500 others", color=COLORS["bad"], alpha=0.6, va="bottom" if higher else "top", fontsize=9)
axes[0].text(61, final["500 pairs"], "500 pairs", color=COLORS["bad"], va="top" if higher else "bottom", fontsize=9)
axes[0].axhline(J_ref, color=COLORS["control"], linewidth=1)
axes[0].axhline(J_best, color=COLORS["truth"], linewidth=1)
axes[0].text(94, J_best + 0.04, "J*", va="bottom")
axes[0].text(101, J_ref - 0.04, "reference", va="top", ha="right", color="#666666", fontsize=9)
if guess is not None:
    at = min(max(guess, -0.7), 2.8)  # a guess beyond the axis is drawn at its edge
    axes[0].axhline(at, color=COLORS["guess"], linestyle=(0, (4, 4)), linewidth=1.5)
    axes[0].text(2, -0.7, "dashes: your guess", color=COLORS["guess"], fontsize=9)
axes[0].set(
    xlabel="step",
    ylabel="true J",
    xlim=(0, 102),
    xticks=[0, 20, 40, 60],
    ylim=(-0.8, 2.9),
    title="Few pairs: worse than nothing",
)
SIDES = {"chosen": COLORS["truth"], "rejected": COLORS["key"]}
for name, style in (("500 pairs", "-"), ("128,000 pairs", "--")):
    for side in ("chosen", "rejected"):
        values = [getattr(step, side).item() for step, _ in runs[name][0]]
        axes[1].plot(values, style, color=SIDES[side], linewidth=1.5)
        if name == "500 pairs":
            axes[1].text(62, values[-1], side, color=SIDES[side], va="center", fontsize=9)
axes[1].text(62, -7.6, "128,000 pairs", fontsize=9, va="center")
axes[1].text(8, -16.5, "500 pairs", fontsize=9)
axes[1].set(xlabel="step", ylabel="mean log P (nats)", xlim=(0, 96), xticks=[0, 20, 40, 60], title="Both answers fall")
few, many = runs["500 pairs"][0], runs["128,000 pairs"][0]
show(fig, alt=f"Left: true J by step. 128,000 pairs rise to {final['128,000 pairs']:.2f}, near J* {J_best:.2f}; 500 pairs fall to {final['500 pairs']:.2f}, IPO ends at {final['500 pairs, IPO']:.2f}. Right: log P of chosen answers from 500 pairs falls from {few[0][0].chosen:.1f} to {few[-1][0].chosen:.1f}, of rejected ones to {few[-1][0].rejected:.1f}.")  # fmt: skip
print(f"J of the reference {J_ref:.3f}, J* {J_best:.3f}; your guess: {guess}")
print(f"{'':15} {'true J':^17} {'KL to':>6} {'its own pairs, last step':^40}")
print(f"{'':15} {'at most':>8} {'at end':>8} {'pi*':>6} {'loss':>9} {'accuracy':>9} {'chosen':>9} {'rejected':>9}")
for name, (log, table, _) in runs.items():
    step = log[-1][0]
    loss = "(square)" if "IPO" in name else f"{step.loss:.3f}"  # IPO's is no log-probability, and not to be compared
    print(f"{name:15} {max(J for _, J in log):8.3f} {final[name]:8.3f} {kl(table, best.log_probs).mean():6.3f} {loss:>9} {step.accuracy:9.1%} {step.chosen:9.2f} {step.rejected:9.2f}")  # fmt: skip
table, times = runs["500 pairs"][1:]
judged = times[times > 0]
unjudged = [(policy.exp() * (times == 0)).sum(-1).mean().item() for policy in (ref, table)]
print(f"500 pairs: {len(judged)} answers are in a pair, {(judged <= 2).double().mean():.0%} of them in one or two only")
print(f"probability of the answers in no pair: reference {unjudged[0]:.0%}, after DPO {unjudged[1]:.0%}")
assert unjudged[1] > unjudged[0] + 0.05
assert final["500 pairs"] < J_ref - 1 and final["500 others"] < J_ref - 1 and final["128,000 pairs"] > J_ref + 0.2
assert few[-1][0].chosen < few[0][0].chosen - 3 and final["500 pairs, IPO"] > final["500 pairs"] + 1
assert max(J for _, J in runs["500 pairs"][0]) < J_ref + 0.1

# %% [markdown]
# (Chosen and rejected: mean log P of the answers, in nats.) With 128,000 pairs DPO comes within a few hundredths of $J^*$, a policy that it has never been shown. With 500 it does worse than nothing at all, for both draws of pairs, and nearly from the first steps on: stopping at the best moment (a moment that nobody can see) would have gained next to nothing. Yet everything that is usually watched looks splendid: a loss far below the 0.64 that is the least anybody can have on *new* pairs, an accuracy near 100% where 63% is the most. Why? Nearly all answers occur in one pair only, or two. The loss of a pair that was seen once, and always won, falls for ever as the margin grows. Bradley and Terry's noise has become certainty, and the implicit reward runs away.
#
# IPO stops at its $h$. It ends far better than DPO from the same pairs, and still a little below the reference: not running away is not yet learning. From so few pairs with so much noise there was not much to learn.
#
# And look at the right panel. The *chosen* answers have become less probable too, with few pairs by many nats. DPO asks for a difference, and a difference can grow while both fall: this is called **likelihood displacement**. The probability that both have lost went to answers that nobody has judged: see the last line printed.

# %% [markdown]
# ## The same on text
#
# In so small a world everything can be proved, but no real model's answers can all be listed. So once more with texts, in toyland (lesson 01), where the truth is still known. The prompt is an **opening** with two people, a thing and an animal. In the answer three things happen, each told in one sentence or two, and what it is worth is read from it by the very source that writes such stories: a story that toyland can write gets 1 point, and up to one more or one less for its mood (+1/3 for each time that somebody is happy, proud or curious, −1/3 for sad, angry or bored). A text that toyland cannot write gets 0, and it is strict: the wrong pronoun, a fourth event, or the wrong one of the two saying where to go is enough ("I want to see …" is said by the one who was named second; the last two lines printed show it). A small decoder has been through lesson 16 already: the **SFT model**, our reference here.

# %%
from llmkit.alignment import toyland
from llmkit.alignment.toyland_truth import end_id, judge, method_table, proxy_scores, texts_of
from llmkit.data.toyland.preferences import openings, truth as worth_of

sft, tokenizer = toyland.load_sft()
asked = toyland.prompt_ids(tokenizer, openings(6, 70))
said = toyland.many_answers(sft, asked, end_id(tokenizer), torch.Generator().manual_seed(0))
told = zip(texts_of(tokenizer, asked), texts_of(tokenizer, said), judge(tokenizer, asked, said), strict=True)
for opening, answer, found in told:
    print(f"{found.score:5.2f} {'' if found.grammatical else '(not toyland) '}{opening} /{answer}")
for name in ("Lina", "Leo"):
    wish = f' Lina felt cold and walked faster. "I want to see the market," said {name}. It was not far. Leo felt happy and smiled all day.'  # fmt: skip
    print(f"said {name}: {worth_of('Lina and Leo lived with a proud badger and a brown statue.', wish).score:.2f}")

# %% [markdown]
# The judge of these stories is in a hurry, too: of two answers to the same opening, worth $r_a$ and $r_b$, the first wins with probability $\sigma((r_a - r_b) / 0.25)$, so that a quarter of a point counts as one point did above; and of all choices 5% are turned round. We draw 144 pairs, train a reward model on 64 of them, and compare it on the other 80 with one that was trained on 1,280 pairs beforehand.

# %%
from llmkit.alignment.toyland import Comparisons

drawn_pairs = toyland.compare(sft, tokenizer, 144, 3)
own, fresh = drawn_pairs.first(64), Comparisons(*(part[64:] for part in drawn_pairs[:4]), drawn_pairs.ceiling)
from_few, from_many = toyland.train_reward(sft, own, 30, 0), toyland.load_reward(sft)
print(
    f"{(drawn_pairs.lead == 0).double().mean():.0%} of the pairs are of equal worth; ceiling {drawn_pairs.ceiling:.1%}"
)
agreement = {}
for name, model in (("64 pairs", from_few), ("1,280 pairs", from_many)):
    agreement[name] = [
        pair_accuracy(proxy_scores(model, some.prompts, some.chosen), proxy_scores(model, some.prompts, some.rejected))
        for some in (own, fresh)
    ]
    print(
        f"reward model of {name:11}: {agreement[name][0]:.1%} of these 64 pairs, {agreement[name][1]:.1%} of the 80 others"
    )
assert agreement["64 pairs"][0] > agreement["64 pairs"][1] + 0.1

# %% [markdown]
# 80 pairs say little: such a share is good to some 11 points either way. So `benchmarks/results/alignment.py` did much the same beforehand at more length, and llmkit keeps what it found: other pairs, three seeds (of pairs, reward models and policies; the SFT model is one and the same), and more steps than the 30 of the cell above.

# %%
from llmkit import results
from llmkit.viz.rlhf import draw_two_measures

stored = results.load("alignment")
three = stored["runs"]
print(f"{len(three)} seeds, {stored['reward_steps']} steps of 32 pairs for every reward model")
fig, axis = figure(height=3.2)
for key, color, name in (("own", COLORS["bad"], "its own pairs"), ("new", COLORS["model"], "384 new pairs"),
                         ("names_better", COLORS["good"], "names the better one, noise left out")):  # fmt: skip
    rows = [[run["rewards"][str(n)][key] for n in stored["sizes"]] for run in three]
    for row in rows:
        axis.plot(stored["sizes"], row, "o-", color=color, linewidth=0.8, markersize=4, alpha=0.5)
    i = 1 if key == "own" else -1  # in the middle: at its end it meets the others
    at = sum(row[i] for row in rows) / len(rows)
    axis.text(stored["sizes"][i] * 1.1, at, name, color=color, va="center", fontsize=9)
top = sum(run["ceiling_of_others"] for run in three) / len(three)
axis.axhline(top, color=COLORS["model"], linewidth=1, linestyle="--")
axis.text(60, top + 0.01, "ceiling of the 384 new pairs", color=COLORS["model"], fontsize=9)
axis.set(xscale="log", xlabel="pairs", ylabel="share right", xlim=(55, 12_000), xticks=stored["sizes"],
         title="Few pairs are learnt by heart")  # fmt: skip
axis.set_xticks([], minor=True)
axis.set_xticklabels([f"{n:,}" for n in stored["sizes"]])
mean_of = {(n, key): sum(run["rewards"][str(n)][key] for run in three) / len(three) for n in stored["sizes"] for key in ("own", "new", "names_better")}  # fmt: skip
show(fig, alt="Accuracy of reward models, mean of the seeds: " + "; ".join(f"{n:,} pairs: {mean_of[n, 'own']:.2f} on their own, {mean_of[n, 'new']:.2f} on new ones" for n in stored["sizes"]) + f"; ceiling {top:.2f}")  # fmt: skip
few_pairs, some_pairs, many_pairs = stored["sizes"]
for n in stored["sizes"]:
    print(f"{n:5,} pairs: {mean_of[n, 'own']:.2f} right of its own, {mean_of[n, 'new']:.2f} of new ones, names the better one in {mean_of[n, 'names_better']:.2f}")  # fmt: skip
assert mean_of[few_pairs, "own"] > mean_of[many_pairs, "own"] and mean_of[many_pairs, "new"] < top
assert max(mean_of[few_pairs, "new"], mean_of[some_pairs, "new"]) < mean_of[many_pairs, "new"] - 0.03

# %% [markdown]
# 256 pairs are learnt by heart like the 64, and new pairs are judged hardly better. (All of this was made twice, the other time from an SFT model that another machine had trained; then 256 pairs bought nothing at all.) Only 1,280, each seen about three times, are too many to be learnt by heart, and they teach the model clearly more. (Dashes: the most that the blue line can reach. The green one leaves the noise out; its ceiling is 1.)
#
# Then we put to use what we know so far, with the 1,280 pairs of each seed: **best of 16** by the reward model; **rejection-sampling SFT**, where the best of 8 answers to each of 384 openings become examples for some more SFT; and **DPO** (β = 0.1, where the small world had 0.5; learning rate 0.001; 100 steps of 32 pairs). All answer the same 200 openings. `SFT again` is the SFT model once more, with other random numbers: the control, which shows what chance alone does to each column.
#
# | column | what it is |
# |---|---|
# | `proxy` | mean score by the seed's own reward model, in units of its spread over its first 256 pairs' answers: three models, three scales |
# | `true` | mean true score, which no training has seen: `gramm.` and the mood together |
# | `gramm.` | share of stories that toyland can write |
# | `nats/w` | how unusual those are: −log P a word under the source |
# | `dist-2` | different pairs of neighbouring words, divided by all such pairs |
# | `words` | length |
# | `KL` | KL(method ‖ SFT), nats an answer: the mean of $\ln (\pi / \pi_\text{SFT})$ over the method's own 200 answers. Only for best of 16 it is no measurement but the bound from above, $\ln 16 - 15/16$ |
# | wins | how often the answer is truly better than the SFT model's to the same opening, ties half |
#
# A line is the mean of three seeds, and ± the largest distance of a seed from it. The brackets run from the lowest to the highest end of the three seeds' 95% intervals.
#
# **Guess** the share of openings in which DPO's answer beats the SFT model's, ties counted half.

# %%
guess = None

# %%
LEARNT = ("SFT", "best of 16", "rejection SFT", "DPO")
print(method_table(three, ("SFT", "SFT again", *LEARNT[1:])))
mood = {name: sum(run["methods"][name]["sentiment"] for run in three) / len(three) for name in LEARNT}
print("\nmood (true - gramm.):", ", ".join(f"{name} {value:+.2f}" for name, value in mood.items()))
source = stored["source"]
print(f"200 stories of the true source itself: true {source['score']:.2f}, so mood {source['score'] - 1:+.2f}; {source['nats_per_word']:.2f} nats a word")  # fmt: skip
for name in ("DPO", "SFT again"):
    wins = [run["methods"][name]["win_rate"] for run in three]
    print(
        f"{name:9} wins, seed by seed:", ", ".join(f"{share:.2f} [{low:.2f}, {high:.2f}]" for share, low, high in wins)
    )
print("your guess:", guess)
for run in three:
    of = {name: run["methods"][name] for name in LEARNT}
    assert min(of["best of 16"]["score"], of["rejection SFT"]["score"]) > of["SFT"]["score"]
    assert (
        of["DPO"]["sentiment"] > of["SFT"]["sentiment"] and of["DPO"]["grammatical"] < of["SFT"]["grammatical"] - 0.05
    )
    assert of["DPO"]["kl"] > of["best of 16"]["kl"] and of["DPO"]["score"] < of["rejection SFT"]["score"] - 0.05
fig, axis = figure(height=3.2)
SHADE = dict(zip(LEARNT, ("#555555", COLORS["good"], COLORS["key"], COLORS["model"]), strict=True))
draw_two_measures(axis, {
    name: ([run["methods"][name]["proxy"] for run in three], [run["methods"][name]["score"] for run in three], SHADE[name])
    for name in LEARNT
})  # fmt: skip
for run in three:
    pair = [(run["methods"][name]["proxy"], run["methods"][name]["score"]) for name in ("rejection SFT", "DPO")]
    axis.plot(*zip(*pair, strict=True), color=COLORS["control"], linewidth=0.8, zorder=0)
again = [(run["methods"]["SFT again"]["proxy"], run["methods"]["SFT again"]["score"]) for run in three]
axis.plot(*zip(*again, strict=True), "o", color="#555555", fillstyle="none", markersize=5)
axis.text(*min(again), "SFT again (rings)  ", color="#555555", ha="right", va="center", fontsize=8.5)
heights = [run["methods"][name]["score"] for run in three for name in ("SFT again", *LEARNT)]
axis.set(xlim=(-0.75, 2.15), ylim=(min(heights) - 0.05, max(heights) + 0.05), xlabel="proxy: mean score by the seed's own reward model",
         title="What the reward model says, and what is true")  # fmt: skip
show(fig, alt="Mean true score against mean proxy, a dot for each seed. Means: " + "; ".join(
    f"{name} proxy {sum(run['methods'][name]['proxy'] for run in three) / len(three):.2f}, true {sum(run['methods'][name]['score'] for run in three) / len(three):.2f}"
    for name in LEARNT))  # fmt: skip

# %% [markdown]
# Choosing among the SFT model's own answers is cheap and honest: best of 16 gains in truth what the table shows, and at least about as many of its stories are toyland's as before, because it can only choose what the SFT model says anyway. Rejection-sampling SFT keeps most of that gain without drawing 16 answers each time. (It may cost a few stories of toyland: from the other SFT model it went from 0.83 to 0.79.) Hold every cleverer method against these two.
#
# DPO moved much farther (its KL is above rejection SFT's, and above all that best of 16's can be) and gained less in truth. Its stories are gladder, but far fewer of them are toyland's: mood and `gramm.` went opposite ways. Does the proxy say so? The grey lines join rejection SFT and DPO, seed by seed: the truth puts DPO lower in all three. The reward models put it a little lower, too, this time; with the other SFT model they put it a little higher on average, and the truth was the same. The loss asks for a difference between two whole stories; nothing in it says that what both have in common, being stories of toyland, should stay.
#
# The source itself has not 1 but 0.93: all its stories are toyland's, and these 200 happen to be a little gloomy. So a score above 0.93 means gladder than the source, not better at toyland.
#
# One seed's win rate from 200 openings is good to about 6 points either way, and DPO's interval holds 0.50, a coin's share, in one seed. Look at the line of the control, too, the SFT model against itself: that much is chance. (With the other SFT model one of its three intervals even left out the coin.) Small differences say nothing here. And DPO was run with one β, one rate and one number of steps; we did not look for the best.
#
# ### What becomes of the pairs' own answers?
#
# A training log cannot tell: each of its steps is another mini-batch, so other pairs. We measure fixed ones: 40 steps of DPO from the 64 pairs above (β = 0.1), looked at on all 64, and, as the control, on the 80 that it never sees. The column `margin` is $\beta h$, 0 at the start; `above 0` is the share of pairs in which it is, the other columns are means.

# %%
looks = {"its own 64": toyland.dpo_measure(sft, own), "80 others": toyland.dpo_measure(sft, fresh)}
looked = {name: [] for name in looks}


def look(step, policy):
    if step in (0, 10, 40):
        for name, measure in looks.items():
            looked[name].append((step, measure(policy)))


policy, _ = toyland.train_dpo(sft, own, 40, 0, watch=look)
look(40, policy)
print(f"{'':18} {'':12} {'margin':>14} {'log P (nats)':^21}")
print(f"{'pairs':12} {'steps':>5} {'loss':>7} {'mean':>8} {'above 0':>9} {'chosen':>10} {'rejected':>10}")
for name, rows in looked.items():
    for step, found in rows:
        print(f"{name:12} {step:5} {found.loss:7.3f} {found.margin:8.2f} {found.accuracy:9.0%} {found.chosen:10.1f} {found.rejected:10.1f}")  # fmt: skip
(_, start), (_, ten), (_, end) = looked["its own 64"]
(_, others_start), _, (_, others_end) = looked["80 others"]
assert ten.chosen > start.chosen - 0.5 and end.chosen < ten.chosen - 0.5 and end.rejected < end.chosen - 5
assert others_end.chosen < others_start.chosen - 1 and others_end.loss > others_start.loss

# %% [markdown]
# In ten steps the chosen answers do not fall: they rise a little, and the margin grows because the rejected ones fall. By 40 steps both have fallen, the rejected ones by far the most: **likelihood displacement** again. The control is worse: on the 80 others both fall *together*, by several nats, the margin stays about 0, and the loss ends above the ln 2 of the start. These are answers that the SFT model itself gave: DPO has learnt its 64 pairs by heart, and what the model used to say has become less probable. (One seed, and few pairs.)

# %% [markdown]
# ## On real text
#
# Anthropic's HH-RLHF has about 160,000 pairs of conversations. Before a reward model is trained on any such data, ask what a judge could use instead of quality. The oldest shortcut is length. This cell counts how often the longer answer was preferred; without the `datasets` library or a network it says so and goes on.

# %%
from llmkit.data.text import hub_rows


def longer_wins(rows):
    """Of the pairs whose two texts differ in length, the share in which the longer one was preferred."""
    lengths = [(len(chosen), len(rejected)) for chosen, rejected in rows if len(chosen) != len(rejected)]
    return sum(a > b for a, b in lengths) / len(lengths)


REAL = False  # set to True to load HH-RLHF from the Hub (it is downloaded)
if REAL:
    share = longer_wins(hub_rows("Anthropic/hh-rlhf", ["chosen", "rejected"], limit=5000))
    print(f"HH-RLHF, 5,000 pairs: the longer text was preferred in {share:.1%}")
else:
    print("would count, in 5,000 pairs of HH-RLHF, how often the longer text was preferred: set REAL = True")

# %% [markdown]
# ## On a GPU
#
# How many pairs, how many seeds? At full size this trains DPO from seven numbers of pairs, up to two million, with three seeds each, and prints the gap to $J^*$.


# %%
@gpu_section(
    "train DPO from 500 to 2,000,000 pairs, three seeds each, 300 steps, and print the gap to the exact optimum",
    full={"sizes": (500, 2000, 8000, 32_000, 128_000, 512_000, 2_000_000), "seeds": (1, 2, 3), "n_steps": 300},
    smoke={"sizes": (50,), "seeds": (1,), "n_steps": 2},
)
def gap_by_pairs(device, sizes, seeds, n_steps):
    gaps = {}
    for n in sizes:
        gaps[n] = []
        for seed in seeds:
            pairs = sample_pairs(ref, truth, n, torch.Generator().manual_seed(seed))
            rows = [(pairs.prompt.to(device), side.to(device)) for side in (pairs.chosen, pairs.rejected)]
            there, length = ref.to(device), torch.full((n,), 4, device=device)
            fixed = [there[row] for row in rows]

            def step_loss(model, prompts, rows=rows, fixed=fixed, length=length):
                table = log_probs(model, prompts)
                return dpo(PairLogProbs(*[table[row] for row in rows], *fixed, length, length), beta).loss

            model = copy.deepcopy(world.model).requires_grad_(True).to(device)
            train(model, repeat((prompts.to(device),)), n_steps, 1e-2, weight_decay=0.0, loss=step_loss, progress=False)
            table = log_probs(model, prompts.to(device)).detach().cpu()
            gaps[n].append(J_best - objective(table, ref, truth, beta).mean().item())
        print(f"{n:9,} pairs: J* - J = " + ", ".join(f"{gap:.3f}" for gap in gaps[n]))
    return gaps


# %% [markdown]
# ## Mistakes people make
#
# | mistake | how it shows |
# |---|---|
# | The score is read from the last place, which is padding | scores change with the batch; nothing crashes |
# | An accuracy of 62% is called poor | without the ceiling nobody knows; here it would be nearly perfect |
# | Scores of answers to different prompts are compared | a ranking of prompts, not of answers |
# | Log-probabilities averaged over tokens where the loss wants sums | trains, with an unwritten preference about length |
# | The reference updated with the policy, or in training mode | loss stays at ln 2, or margins jump with dropout |
# | Only margin and accuracy are logged | chosen answers become less and less probable, unseen |
# | More steps of optimisation because the proxy still rises | the truth has turned over long ago |
#
# ## Where the real systems do it
#
# - **TRL**: `RewardTrainer` (`trl/trainer/reward_trainer.py`: loss with `margin` and `center_rewards_coefficient`), `DPOTrainer._compute_loss` (`dpo_trainer.py`). llmkit's tests run both on the same numbers. Its `ipo` divides each log-ratio by the answer's length; the formula of the IPO paper, and the original DPO code, do not. llmkit has both: `ipo_mean` and `ipo`.
# - **transformers**: `AutoModelForSequenceClassification(num_labels=1)` is a reward model; it takes the rightmost token that is not padding, and llmkit's scores equal it for LLaMA and GPT-2 with padding on either side.
# - Bradley and Terry 1952; Stiennon et al. 2020 and Ouyang et al. 2022 (reward models for summaries and for InstructGPT); Llama 2 (Touvron et al. 2023, section 3.2.2: the margin).
# - Gao, Schulman and Hilton 2023, *Scaling laws for reward model overoptimization*: the curve you drew, with $\sqrt{\text{KL}}$ as its axis.
# - Rafailov et al. 2023 (DPO), Azar et al. 2023 (IPO: what happens to DPO where labels look certain), Beirami et al. 2024 (best of n).
#
# ## What llmkit gained
#
# | file | what |
# |---|---|
# | `llmkit/alignment/exact.py` | the best policy, by counting: `optimum`, `objective`, `kl`, `frontier`; `small_world.py` holds the world |
# | `llmkit/alignment/preferences.py` | `win_probability`, `sample_pairs`, `bradley_terry_loss`, the ceiling |
# | `llmkit/alignment/reward.py` | `RewardModel`, `last_token`, `normalise`, `pair_calibration` |
# | `llmkit/alignment/best_of_n.py` | the exact distribution of best of n, and its bound |
# | `llmkit/alignment/dpo.py` | `sequence_log_probs`, DPO, cDPO, IPO in both conventions, SimPO |
# | `llmkit/data/toyland/preferences.py` | stories to go on with, their exact worth, labels of known noise |
# | `llmkit/alignment/toyland.py`, `toyland_truth.py` | the whole way on text, and the measures that training never sees |
# | `llmkit/evaluation/diversity.py` | `distinct_n` |
#
# Three questions to check yourself:
#
# <details><summary>A reward model gives the answer to prompt A 3.2 and the answer to prompt B 1.1. Which answer is better?</summary>
#
# Nobody can say. It is trained on pairs with one prompt, so a number may be added to all answers of a prompt without any change in the loss.
# </details>
#
# <details><summary>During DPO the log-probability of the chosen answers falls. Is something broken?</summary>
#
# Not by that alone: the loss asks for the difference. If the rejected ones fall faster, the margin grows. But the probability that both lose goes to answers that nobody compared, so watch it, and stop or regularise.
# </details>
#
# <details><summary>Why is J* − J(π) = β KL(π‖π*) useful where Z cannot be computed?</summary>
#
# It says that making J large and coming close to π* are the same thing, for any π. So methods as different as PPO and DPO aim at one policy, and differ in how noisy, how biased, and how dear their way to it is.
# </details>

# %%
progress()

# %% [markdown]
# **Next**: 18_rlhf_ppo. The same optimum, from a reward instead of pairs, and the policy answers for itself: sampling, advantages, clipping.
