# %% [markdown]
# # 08 · Mixture of experts
#
# **You will** build the part that lets a model hold many more parameters than it uses for a token: route each token to two of eight small networks, keep the eight evenly busy, and measure what that buys and what it does not.
#
# **Before** you start: lessons 05 (the decoder block, training) and 06 (LLaMA, the gated MLP). Exercises name the torch calls that they need.
#
# **Time** about 85 minutes for six exercises, 20 more for two that are optional. All cells together run for about half a minute.

# %% tags=["setup"]
import math
import random

import torch
from matplotlib.patches import Rectangle
from torch import nn
from torch.nn import functional as F

from llmkit.course import check, gpu_section, hint, progress, start
from llmkit.data import toyland
from llmkit.viz import COLORS, figure, show
from llmkit.viz.style import CYCLE

start("08_mixture_of_experts", solved=True)
threads = torch.get_num_threads()
torch.set_num_threads(1)  # these models are so small that a second thread waits more than it works

# %% [markdown]
# ## A model of which most is asleep
#
# A larger model knows more, and it costs more: every parameter is multiplied with every token. Or does it have to be? Mixtral 8x7B (Jiang et al. 2024) is LLaMA with one part exchanged. Let us build it without any memory behind it (torch's `meta` device keeps shapes only) and count.

# %% tags=["nbval-check-output"]
from llmkit.models.mixtral import SIZES, active_params, mixtral

with torch.device("meta"):
    giant = mixtral(SIZES["mixtral-8x7b"])
parts = {
    "experts": ".experts.",
    "attention": ".attn.",
    "routers": ".router.",
    "embedding and head": "",
    "norms": "norm",
}
counts = dict.fromkeys(parts, 0)
for name, parameter in giant.named_parameters():
    where = next((part for part, mark in parts.items() if mark and mark in name), "embedding and head")
    counts[where] += parameter.numel()
for part, count in counts.items():
    print(f"{part:20} {count:15,}")
print(f"{'together':20} {sum(counts.values()):15,}")

# %% [markdown]
# Nearly everything sits in one place: the *experts*. In each of its 32 layers Mixtral has eight MLPs where LLaMA has one. Such an MLP is called an **expert**. A token does not pass through all eight. A small matrix, the **router**, looks at the token's vector and picks two. The other six stay idle for this token; for the next token two others may be picked.
#
# So there are two numbers of parameters: those that the model *holds*, and those that are **active**, which means used for a token. The first is what has to fit into memory. The second is what costs time.
#
# The name says 8x7B, but 8 times 7 is 56, and the model holds 46.7 billion. Attention, embeddings and norms are there once, not eight times.
#
# ### Exercise 8.1 · active parameters · ●○○ · 5 min
#
# How many of the 46,702,792,704 parameters are active for one token? An expert is a `GatedMLP` (lesson 06) with three matrices of 4,096 × 14,336. There are eight in each of 32 layers, and two of them are used. Give the answer in billions, to within 0.02.

# %%
active = None
# BEGIN SOLUTION
idle = 32 * (8 - 2) * 3 * 4096 * 14336
active = (46_702_792_704 - idle) / 1e9
# END SOLUTION
active = check(active, "8.1")

# %% tags=["nbval-check-output"]
print(f"active: {active_params(giant):,} of {sum(counts.values()):,}")
print(f"that is {active_params(giant) / sum(counts.values()):.1%} of what is in memory")

# %% [markdown]
# A model that holds as much as a 47-billion one and computes about as much as a 13-billion one. This is the offer of a **mixture of experts** (MoE). This lesson asks three questions. How does a token find its experts? What goes wrong when we let it choose freely? And does the offer hold?
#
# ## The idea, in a picture
#
# Seven tokens, four experts, two of them for each token. Each token is a vector $x$ of $C$ numbers; the router is a matrix with one row for each of the $E$ experts. Their product is one number an expert, a **logit**; softmax makes probabilities of a token's logits. The vectors and the matrix here are random, as they are before training. In the picture, 1. and 2. mark a token's first and second choice.

# %%
words = ["The", " cat", " sat", " on", " the", " mat", "."]
generator = torch.Generator().manual_seed(3)
vectors = torch.randn(len(words), 16, generator=generator)  # (N, C): N tokens of C numbers
router_rows = 0.35 * torch.randn(4, 16, generator=generator)  # (E, C)
probs = (vectors @ router_rows.T).softmax(-1)  # (N, E)
fig, axis = figure(height=2.6)
image = axis.imshow(probs.T, vmin=0, vmax=1, aspect="auto")
for token, row in enumerate(probs.topk(2).indices.tolist()):
    for place, expert in enumerate(row):
        p = float(probs[token, expert])
        axis.text(token, expert, f"{place + 1}.", ha="center", va="center", color="black" if p > 0.5 else "white")
axis.set_xticks(range(len(words)), [word.strip() for word in words])
axis.set_yticks(range(4), [f"expert {e}" for e in range(4)])
axis.grid(False)
axis.set_title("Each token goes to the two experts that the router likes best")
fig.colorbar(image, ax=axis, label="probability")
show(
    fig,
    alt=f"A heat map of 4 experts by 7 tokens; in each column the two most probable experts are marked 1 and 2. "
    f"For the first token these are experts {probs[0].topk(2).indices[0]} and {probs[0].topk(2).indices[1]}.",
)

# %% [markdown]
# ## Routing by hand: one token
#
# One token, four experts, logits 2, 0.5, 1 and -1. Mixtral takes the softmax, keeps the two largest, and divides them by their sum, so that they sum to 1 again:

# %% tags=["nbval-check-output"]
one = torch.tensor([2.0, 0.5, 1.0, -1.0])
shares = one.softmax(-1)
kept = shares.topk(2)
print("softmax over all four   ", [round(p, 3) for p in shares.tolist()])
print("the two largest         ", [round(p, 3) for p in kept.values.tolist()], "of experts", kept.indices.tolist())
print("divided by their sum    ", [round(p, 3) for p in (kept.values / kept.values.sum()).tolist()])

# %% [markdown]
# The token's new vector is then 0.731 times what expert 0 makes of it, plus 0.269 times what expert 2 makes of it. These two numbers are the **weights** of its choices.
#
# ### Exercise 8.2 · route · ●●○ · 8 min
#
# Now for all tokens. Write `route(logits, top_k)`. `logits` has the shape (N, E): N tokens, E experts. The result is two tensors of shape (N, k), with k = `top_k`: the weights, in float32 and largest first, and the numbers of the chosen experts. Logits may arrive in bfloat16, which has only three decimal digits; compute in float32 from the start. (`tensor.topk(k, dim=-1)` gives values and places.)

# %% tags=["exercise"]
from llmkit.layers.moe import route

# %%
route = check(route)

# %% [markdown]
# Some codes do it in another order: first the k largest logits, then a softmax over these alone. Is that a different model? Both divide $e^{z_i}$ by something that is the same for all of a token's choices, and make the sum 1. So they must agree. That is an argument; here is the measurement, for every k:

# %% tags=["nbval-check-output"]
logits = 3 * torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
for top_k in range(1, 9):
    weights, chosen = route(logits, top_k)
    best = logits.topk(top_k)
    assert torch.equal(chosen, best.indices)
    assert (weights - best.values.softmax(-1)).abs().max() < 1e-6
print("softmax, then top-k, then divide  =  top-k, then softmax: 1000 tokens, k from 1 to 8, to 1e-6")

# %% [markdown]
# ### Break it: do we have to divide?
#
# Leave the division out and the weights of a token sum to less than 1, and for each token to something else. And in the special case k = 1 dividing has a price. Here every choice gets a random number in the place of its expert's result. Look at the gradient that reaches the router:

# %%
results = torch.randn(1000, 2, generator=torch.Generator().manual_seed(1))
for top_k in (1, 2):
    for divide in (True, False):
        z = logits.clone().requires_grad_()
        kept = z.softmax(-1).topk(top_k).values
        w = kept / kept.sum(-1, keepdim=True) if divide else kept
        (w * results[:, :top_k]).sum().backward()
        name = "divided    " if divide else "not divided"
        total = w.detach().sum(-1)
        print(
            f"k = {top_k}, {name}: sums of weights {total.min():.2f} to {total.max():.2f}, gradient {z.grad.norm():9.6f}"
        )
        assert (z.grad.norm() < 1e-3) == (top_k == 1 and divide)

# %% [markdown]
# With one expert a token and division, the weight is 1 whatever the logits are. Then no gradient reaches the router through it, and the router never learns (what is left in the first line is rounding). That is why the Switch Transformer (Fedus et al. 2021), which uses one expert, does not divide, and Mixtral, which uses two, may.
#
# ## To the experts and back
#
# Now the tokens have to be carried to their experts. Written for one token $n$ with choices $c_{n,1} \dots c_{n,k}$ and weights $w_{n,1} \dots w_{n,k}$:
#
# $$y_n = \sum_{s=1}^{k} w_{n,s} \cdot \text{expert}_{c_{n,s}}(x_n)$$
#
# A loop over tokens would be slow: an expert is a few matrix products, and those are fast only when many rows go in at once. So we turn the question round. Not "which experts does this token need?", but "which tokens need this expert?"
#
# ### Exercise 8.3 · dispatch, expert by expert · ●●○ · 12 min
#
# Write `dispatch_loop(x, weights, chosen, experts)`. `x` is (N, C); `weights` and `chosen` are (N, k), as `route` gives them; `experts` is a list of functions from (n, C) to (n, C), for any number n of rows. For each expert find its tokens, run it on them once, and add the weighted results where they came from. The result is (N, C) with the dtype of `x`; when `x` is in bfloat16, `weights` are still in float32. An expert may have no token at all. Calls that you need: `torch.where(condition)` gives the rows and columns where a (N, k) condition holds; `out.index_add_(0, places, rows)` adds each row at its place. The check also compares gradients.

# %% tags=["exercise"]
from llmkit.layers.moe import dispatch_loop

# %%
dispatch_loop = check(dispatch_loop)

# %% [markdown]
# ## The same by sorting
#
# The loop looks through all choices once for every expert. With eight experts nobody minds. DeepSeek-V3 has 256 in a layer. There is another way: write one row for each choice, **sort** the rows by expert, and each expert's rows stand together as one block. Then every row moves once there and once back, however many experts there are, and a GPU can multiply all blocks in a single call (a *grouped* matrix product).

# %% tags=["nbval-check-output"]
few_weights, few = route(logits[20:25, :3], 2)
order = few.flatten().argsort(stable=True)
print("choices of five tokens  ", few.tolist())
print("the same in one row     ", few.flatten().tolist())
print("order                   ", order.tolist(), " <- which row comes first, second, …")
print("the row, sorted         ", few.flatten()[order].tolist())
print("token of each row       ", (order // 2).tolist(), " <- row r belongs to token r // k")
print("rows for each expert    ", torch.bincount(few.flatten(), minlength=3).tolist())

# %%
fig, axes = figure(2, height=2.7, sharey=True)
for axis, rows, title in (
    (axes[0], torch.arange(10), "as the tokens stand"),
    (axes[1], order, "sorted by expert"),
):
    for place, row in enumerate(rows.tolist()):
        expert = int(few.flatten()[row])
        axis.barh(place, 1, 0.86, color=CYCLE[expert], alpha=0.75)
        axis.text(0.5, place, f"token {row // 2}, expert {expert}", ha="center", va="center", fontsize=9)
    axis.set(title=title, xticks=[], xlim=(0, 1))
    axis.grid(False)
axes[0].set(yticks=range(10), ylabel="row")
axes[0].invert_yaxis()
show(
    fig,
    alt=f"Ten rows, one a choice, coloured by expert. On the left the colours are mixed; on the right, after sorting, "
    f"they stand in {len(set(few.flatten().tolist()))} blocks of "
    + ", ".join(map(str, torch.bincount(few.flatten(), minlength=3).tolist()))
    + " rows.",
)

# %% [markdown]
# ### Exercise 8.4 · find the bug · ●●○ · 10 min · optional
#
# Here is somebody's `dispatch_grouped`. Every shape fits and nothing crashes. A model with it even trains, only worse than it should: one of its lines brings rows to the wrong tokens. Find the line. (`empty.index_copy(0, places, rows)` writes row i of `rows` to row `places[i]`. `rows[places]` is the opposite: it reads row `places[i]` and puts it at i.)

# %% tags=["exercise"]
from llmkit.layers.moe import dispatch_grouped

# %%
dispatch_grouped = check(dispatch_grouped)

# %% [markdown]
# Three ways must now give the same numbers: the loop, the sorted one, and a plain one that runs *every* expert on *every* token and multiplies what was not chosen by 0. Values and gradients:

# %% tags=["nbval-check-output"]
from llmkit.layers.mlp import GatedMLP


def every_expert(x, weights, chosen, experts):
    share = torch.zeros(len(x), len(experts)).scatter(1, chosen, weights)  # (N, E), mostly 0
    return (share[..., None] * torch.stack([expert(x) for expert in experts], 1)).sum(1)


torch.manual_seed(0)
small = nn.ModuleList([GatedMLP(16, 32) for _ in range(8)])
weights, chosen = route(logits, 2)
results = {}
for dispatch in (every_expert, dispatch_loop, dispatch_grouped):
    x = torch.randn(1000, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y = dispatch(x, weights, chosen, small)
    y.square().sum().backward()
    results[dispatch.__name__] = (y.detach(), x.grad)
for y, gradient in results.values():
    assert torch.allclose(y, results["every_expert"][0], atol=1e-5)
    assert torch.allclose(gradient, results["every_expert"][1], atol=1e-4)
print("values and gradients agree in all three")
print(f"rows through an expert: {1000 * 8} when every expert runs, {chosen.numel()} when only the chosen ones do")

# %% [markdown]
# The layer puts the pieces together. `shared` is an expert that every token passes besides its chosen ones; DeepSeek's models have one, Mixtral has none. `recorder` lets us look at the choices from outside.

# %% tags=["show"]
from llmkit.layers.moe import MoE

# %% [markdown]
# ## Four kinds of text
#
# An expert is interesting only if it becomes an expert *in* something. So the training text is a mixture of four kinds, a quarter each: toyland's stories, Python code, Python's manual, and sums. A token is one character. A model reads $B = 16$ pieces of $T = 48$ characters a step, four of each kind.

# %%
from llmkit.data.text import python_docs, python_source

SIZE = 250_000
rng = random.Random(0)
pairs = [(rng.randrange(1000), rng.randrange(1000)) for _ in range(SIZE // 16)]
texts = {
    "stories": "\n".join(toyland.corpus(train_bytes=SIZE, validation_bytes=1000).train),
    "code": python_source(2 * SIZE)[-SIZE:],
    "manual": python_docs()[:SIZE],
    "sums": "".join(f"{a} + {b} = {a + b}\n" for a, b in pairs),
}
KINDS = list(texts)
characters = "\n" + "".join(map(chr, range(32, 127)))  # what is not among these becomes "?"
number_of = {character: i for i, character in enumerate(characters)}
ids = {kind: torch.tensor([number_of.get(c, number_of["?"]) for c in text]) for kind, text in texts.items()}
V, C, T, FF, E = len(characters), 32, 48, 32, 8  # vocabulary, width, length, width of an expert, experts
TOP_K = 2


def pieces(held_out, per_kind, seed, length=T):
    """Endless batches (4 * per_kind, length), kind by kind; the last tenth of each text is held out."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        rows = []
        for text in ids.values():
            low, high = (int(0.9 * len(text)), len(text)) if held_out else (0, int(0.9 * len(text)))
            begins = torch.randint(low, high - length, (per_kind, 1), generator=generator)
            rows.append(text[begins + torch.arange(length)])
        yield torch.cat(rows), None


PER_KIND = 32
validation = next(pieces(True, PER_KIND, seed=7))[0]  # (4 * 32, T), the same for all models
kind_of = torch.arange(4).repeat_interleave(PER_KIND * T)  # the kind of each of its characters
for kind, row in zip(KINDS, validation[::PER_KIND], strict=True):
    print(f"{kind:8} {''.join(characters[i] for i in row).replace(chr(10), '⏎')}")

# %% [markdown]
# The model is LLaMA with one block, once with an ordinary MLP and once with eight experts in its place. An expert is 32 wide and two are used, so the ordinary MLP, our control, is 64 wide: both multiply a token with the same number of parameters; the mixture has the router's 256 besides.
#
# The router is the one of DeepSeek-V3, in all runs, so that nothing but the balancing will differ between them. It gives each expert a score on its own, with a sigmoid (a number between 0 and 1), where Mixtral's softmax makes the experts compete. The weights are again divided by their sum. You will see its code when we need the rest of it, a bias that now stays at zero.

# %%
from llmkit.layers.balance import dead_experts, expert_load, load_balancing_loss
from llmkit.layers.moe import SigmoidRouter, record_routing
from llmkit.layers.transformer import init_weights
from llmkit.models.llama import LlamaConfig, llama
from llmkit.training.loop import language_model_loss, train
from llmkit.training.losses import token_log_probs


def experts_layer():
    return MoE(SigmoidRouter(C, E, TOP_K), [GatedMLP(C, FF) for _ in range(E)])


def build(seed, mlp=None, d_ff=TOP_K * FF):
    """One block: with `mlp()` in the MLP's place, or with an ordinary MLP that is d_ff wide."""
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=V, d_model=C, n_layers=1, n_heads=4, d_ff=d_ff, max_len=T, tie=True)
    model = llama(config, mlp)
    init_weights(model, n_layers=1, std=C**-0.5)  # a small width wants larger numbers than GPT-2's 0.02
    for layer in model.modules():
        if hasattr(layer, "router"):
            nn.init.normal_(layer.router.weight, std=0.05)  # at the beginning no expert is preferred by much
    return model


@torch.no_grad()
def validation_loss(model):
    """Nats a character on the held-out pieces."""
    return float(-token_log_probs(model(validation), validation).mean())


sizes = {"ordinary MLP": build(0), "mixture of experts": build(0, experts_layer)}
for name, model in sizes.items():
    print(f"{name:20} {model.n_params():6,} parameters, {active_params(model):6,} active")

# %% [markdown]
# ## Left alone
#
# First without any care. We train for 150 steps and write down, at each, how the choices fell on the eight experts. An even router would give each expert a share of 1/8 = 0.125 of all choices. The largest share that is possible is 0.5: an expert that *every* token has among its two.
#
# Before you run it: what will be the largest share at the end?

# %%
guess_largest = None  # a number between 0.125 and 0.5


# %%
def train_experts(seed, n_steps, aux=0.0, rate=0.0, **options):
    """A trained mixture and its shares (n_steps, E); aux weighs the balance loss, rate moves the load biases."""
    model, shares = build(seed, experts_layer), []
    with record_routing(model) as routes:

        def loss(model, ids, attention_mask):
            routes.clear()
            value = language_model_loss(model, ids, attention_mask)
            if aux:
                value = value + aux * load_balancing_loss(routes.logits, TOP_K)
            for layer, chosen in zip(routes.layers, routes.chosen, strict=True):
                if rate:
                    layer.router.update_bias(chosen, rate)
            shares.append(expert_load(routes.chosen[0], E))
            return value

        history = train(model, pieces(False, 4, seed + 1), n_steps, lr=0.015, loss=loss, progress=False, **options)
    return model, torch.stack(shares), history


@torch.no_grad()
def choices(model):
    """(N, k): the experts of every held-out character."""
    with record_routing(model) as routes:
        model(validation)
    return routes.chosen[0]


STEPS = 150
runs = {}
for seed in (0, 1):
    runs["left alone", seed] = train_experts(seed, STEPS)
    model, shares, _ = runs["left alone", seed]
    load = expert_load(choices(model), E)
    print(f"seed {seed}: shares", " ".join(f"{share:.3f}" for share in load.sort(descending=True).values))
    print(
        f"        largest {load.max():.3f}, experts with less than a tenth of an even share: {len(dead_experts(load))}"
    )
    assert load.max() > 0.25, "more than twice an even share"
if guess_largest is not None:
    print(f"your guess: {guess_largest:.3f}")

# %% [markdown]
# Nobody asked for that. The loss speaks only of characters. The usual explanation is a loop that feeds itself: an expert that is chosen more often is trained more often, becomes better, and so the router learns to choose it more often. An expert that is never chosen gets no gradient at all; it does not learn. It is called a **dead** expert, and the process a **collapse**. Its parameters are paid for in memory and do nothing. (We count an expert as dead below a tenth of an even share.)
#
# How far it goes differs from seed to seed and from model to model. Here it is a partial collapse: the tokens use fewer experts than there are, and the busiest is far above its share.
#
# ## The first cure: a loss for balance
#
# Say it to the loss, then. Shazeer et al. (2017) did so first; the form in use is that of the Switch Transformer. For one layer, with $N$ tokens and $E$ experts:
#
# $$\text{balance} = E \sum_{e=1}^{E} f_e \, P_e$$
#
# $f_e$ is the number of choices that fell on expert $e$, divided by $N$. $P_e$ is the mean of its probability over the tokens, with a softmax over all experts. Both are large for a crowded expert. Why a product of two numbers that say the same? Because $f$ is counted, and counting has no gradient: move a logit a little and no count changes. $P$ has one. So $f$ says how strongly to push, and $P$ is what can be pushed.
#
# Note the size. $f$ counts *all* k choices of a token, so over the experts it sums to k and not to 1. When everything is even, $f_e = k/E$ and $P_e = 1/E$, and the loss is $E \cdot E \cdot \frac{k}{E} \cdot \frac{1}{E} = k$. For Mixtral that is 2, not 1.
#
# ### Exercise 8.5 · balance_loss · ●●○ · 10 min
#
# Write `balance_loss(logits, top_k)` for the logits (N, E) of one layer. Compute in float32. The result is a scalar (a tensor without axes), and its gradient is checked too. `torch.bincount(chosen.flatten(), minlength=E)` counts how often each number occurs.

# %% tags=["exercise"]
from llmkit.layers.balance import balance_loss

# %%
balance_loss = check(balance_loss)

# %% [markdown]
# What does its gradient do? Take a hundred tokens that all like experts 0 and 1, and step downhill. A negative step lowers the logit:

# %% tags=["nbval-check-output"]
crowded = torch.tensor([2.0, 1.5, 0.0, 0.0, -0.5]).repeat(100, 1).requires_grad_()
balance_loss(crowded, 2).backward()
downhill = -crowded.grad.sum(0)
print("step for the logits of experts 0 to 4:", [f"{step:+.3f}" for step in downhill.tolist()])
print(f"loss {balance_loss(crowded, 2).item():.2f}; even would be 2, everything on two experts at most 5")

# %% [markdown]
# Down for the two that are crowded, up for the three that are not.
#
# ### Exercise 8.6 · predict: two layers on one heap · ●○○ · 5 min
#
# A model has many layers, and each has a router. `transformers` computes the loss of Mixtral in this way: it puts the tokens of all layers on *one heap*, computes $f$ and $P$ there, and multiplies. The alternative is a loss for each layer, and their mean.
#
# Take two layers with $E = 4$, $k = 2$ and ten tokens. In layer 1 every token has the probabilities 0.45, 0.45, 0.05, 0.05, in layer 2 every token has 0.05, 0.05, 0.45, 0.45. In each layer two experts do everything and two are dead. Layer by layer the loss is $4 \cdot (1 \cdot 0.45 + 1 \cdot 0.45) = 3.6$ in both, far above the even value. What is it when the two layers are pooled first?

# %%
pooled = None
# BEGIN SOLUTION
pooled = 4 * sum(0.5 * 0.25 for _ in range(4))
# END SOLUTION
pooled = check(pooled, "8.6")

# %% tags=["nbval-check-output"]
likes = torch.tensor([0.45, 0.45, 0.05, 0.05]).log()
layers = [likes.repeat(10, 1), likes.flip(0).repeat(10, 1)]
for per_layer in (True, False):
    value = load_balancing_loss(layers, 2, per_layer=per_layer).item()
    print(f"{'mean over layers' if per_layer else 'one heap        '}: {value:.2f}")
assert abs(load_balancing_loss(layers, 2, per_layer=False).item() - 2.0) < 1e-5

# %% [markdown]
# On one heap it is perfect, while half of each layer is dead. llmkit's default is layer by layer; `per_layer=False` gives the number that `transformers` gives, and the tests compare them.
#
# ## The second cure: a bias, and no loss at all
#
# The balance loss has a price: it pulls the router away from what is best for predicting. Its weight is a compromise; 0.01 is the usual one. DeepSeek-V3 found a way without (Wang et al. 2024). Give each expert a number, its **load bias**, and add it to the scores *for choosing only*. The weights, which are multiplied onto the experts' results, come from the scores without it. After each step look at the loads: whoever had too much gets a slightly lower bias, whoever had too little a slightly higher one. It is a thermostat. No gradient is involved.
#
# ### Exercise 8.7 · the thermostat · ●○○ · 5 min
#
# Write `balancing_step(load, rate)`: what to add to the biases. `load` is (E,), either shares or counts. Every expert below the mean load gets `rate`, every expert above it `-rate`, one exactly on it 0, however far off it is.

# %% tags=["exercise"]
from llmkit.layers.balance import balancing_step

# %%
balancing_step = check(balancing_step)

# %% [markdown]
# The whole router, with the bias in its place: in `forward`, `load_bias` takes part in choosing and not in the weights. (`n_groups` is for experts that stand on several machines: a token then uses only a few machines. We have one group.)

# %% tags=["show"]
from llmkit.layers.moe import SigmoidRouter

# %% [markdown]
# Look at it alone, without training: a router with random rows, tokens that all lean to one side, 400 updates. And with the sign turned round, to see what the sign is good for:


# %%
def thermostat(sign):
    torch.manual_seed(1)
    router, x = SigmoidRouter(16, 8, 2), torch.randn(500, 16) + 1.5
    largest = []
    with torch.no_grad():
        for _ in range(400):
            load = expert_load(router(x)[1], 8)
            largest.append(float(load.max()))
            router.load_bias += sign * balancing_step(load, 0.005)
    return largest


right, wrong = thermostat(1), thermostat(-1)
print(f"largest share: at first {right[0]:.3f}, after 400 updates {right[-1]:.3f}, with the wrong sign {wrong[-1]:.3f}")
assert right[-1] < 0.18 < right[0] < wrong[-1]

# %% [markdown]
# ## The experiment: two cures
#
# Now the same training with each cure: the balance loss with weight 0.01, and the bias with a rate of 0.01. (DeepSeek-V3 used 0.001, over a training many thousand times as long.) For the balance loss llmkit's `load_balancing_loss` computes your 8.5 in every layer and takes the mean. It makes its $P$ with a softmax of the router's logits, although this router weighs with a sigmoid.
#
# Everything else, the weights at the start and the order of the text included, is as it was. Which of the two will be more even at the end, and will either cost something in the loss?

# %%
guess_more_even = None  # "balance loss" or "load bias"

# %%
for seed in (0, 1):
    runs["balance loss", seed] = train_experts(seed, STEPS, aux=0.01)
    runs["load bias", seed] = train_experts(seed, STEPS, rate=0.01)
CURES = ["left alone", "balance loss", "load bias"]
print("                 largest share   dead experts   nats a character      (seed 0, seed 1)")
largest = {}
for cure in CURES:
    loads = [expert_load(choices(runs[cure, seed][0]), E) for seed in (0, 1)]
    losses = [validation_loss(runs[cure, seed][0]) for seed in (0, 1)]
    largest[cure] = [float(load.max()) for load in loads]
    print(
        f"{cure:14}   {largest[cure][0]:.3f}  {largest[cure][1]:.3f}    "
        f"{len(dead_experts(loads[0]))}  {len(dead_experts(loads[1]))}           {losses[0]:.3f}  {losses[1]:.3f}"
    )
for cure in CURES[1:]:
    assert max(largest[cure]) < 0.23 < 0.25 < min(largest["left alone"])
if guess_more_even is not None:
    print(f"your guess for the more even one: {guess_more_even}")

# %%
fig, axes = figure(3, width=7.2, height=3.2, sharey=True)
palette = [*CYCLE, COLORS["control"]]
for axis, cure in zip(axes, CURES, strict=True):
    shares = runs[cure, 0][1]  # (steps, E)
    smooth = F.avg_pool1d(F.pad(shares.T[None], (5, 5), mode="replicate"), 11, 1)[0]  # mean of 11 steps
    by_size = smooth[:, -1].argsort(descending=True)
    axis.stackplot(range(STEPS), smooth[by_size], colors=palette, edgecolor="white", linewidth=0.4)
    axis.text(STEPS * 0.97, 0.03, f"{float(smooth[:, -1].max()):.2f}", ha="right", color="white", fontweight="bold")
    axis.set(title=cure, xlabel="step", xlim=(0, STEPS), ylim=(0, 1))
    axis.grid(False)
axes[0].set_ylabel("share of choices")
if guess_largest is not None:
    axes[0].axhline(guess_largest, color=COLORS["guess"], linestyle=":")
    axes[0].text(5, guess_largest + 0.01, "your guess", color=COLORS["guess"])
fig.suptitle(
    "Left alone, a few experts take over; both cures stop it", fontsize=11, fontweight="bold", x=0.01, ha="left"
)
show(
    fig,
    alt=f"Three rivers of the shares of eight experts over {STEPS} steps. Left alone, the widest stream ends on the "
    f"held-out text at {largest['left alone'][0]:.2f} of all choices; with the balance loss at "
    f"{largest['balance loss'][0]:.2f}, with the load bias at {largest['load bias'][0]:.2f}, an even share being 0.125.",
)

# %% [markdown]
# Each colour is one expert, the busiest at the end lowest; the white number is its share (of the training text, so it is not quite the one in the table). On the left a few streams widen within the first 30 steps and others dry up. In the other two all eight stay. Which of the cures is the more even one depends on when you stop: in the middle figure the shares still swing. We ran it for 300 steps as well; there the largest shares were 0.14 and 0.15 with the loss, 0.15 and 0.15 with the bias.
#
# The losses tell no such clear story: compare the two seeds of one row with the differences between the rows. The rows differ by less than the seeds do. So at this size and length a collapse does not show in the loss, and neither does a cure. You find it only by counting.
#
# ## Who is an expert in what?
#
# Count for each kind of text which experts its characters choose. How strongly do the two go together? The **mutual information** measures it: how many nats does knowing the kind tell about the expert. With $p(e, d)$ the share of choices of expert $e$ in kind $d$, and $p(e)$, $p(d)$ their sums over the other,
#
# $$I = \sum_{e, d} p(e, d) \ln \frac{p(e, d)}{p(e)\,p(d)}$$
#
# It is 0 when the experts know nothing of the kinds, and at most $\ln 4 = 1.39$, when every expert serves one kind alone. As a control the kinds are shuffled among the characters: then it must be nearly 0.


# %%
def expert_by_kind(chosen, kinds):
    """(E, 4): the share of all choices."""
    pairs = chosen * 4 + kinds[:, None]
    return torch.bincount(pairs.flatten(), minlength=E * 4).view(E, 4) / chosen.numel()


def mutual_information(joint):
    """Nats; joint (rows, columns) sums to 1."""
    apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    seen = joint > 0  # 0 * log 0 counts as 0
    return float((joint[seen] * (joint[seen] / apart[seen]).log()).sum())


shuffled = kind_of[torch.randperm(len(kind_of), generator=torch.Generator().manual_seed(0))]
information = {}
for cure in CURES:
    values = [mutual_information(expert_by_kind(choices(runs[cure, seed][0]), kind_of)) for seed in (0, 1)]
    control = mutual_information(expert_by_kind(choices(runs[cure, 0][0]), shuffled))
    information[cure] = values[0]
    print(f"{cure:14} {values[0]:.3f} and {values[1]:.3f} nats (two seeds), kinds shuffled {control:.4f}")
    assert min(values) > 0.02 > 10 * control

# %%
fig, axes = figure(3, width=7.2, height=3.2, sharey=True)
for axis, cure in zip(axes, CURES, strict=True):
    joint = expert_by_kind(choices(runs[cure, 0][0]), kind_of)
    shown = 4 * joint[joint.sum(1).argsort(descending=True)]  # each kind's choices sum to 1
    image = axis.imshow(shown, vmin=0, vmax=0.5, aspect="auto")
    for e in range(E):
        for d in range(4):
            value = float(shown[e, d])
            axis.text(
                d, e, f"{value:.2f}", ha="center", va="center", fontsize=7, color="black" if value > 0.3 else "white"
            )
    axis.set_xticks(range(4), KINDS, fontsize=8, rotation=30)
    axis.set_title(f"{cure}\n{information[cure]:.2f} nats", fontsize=10)
    axis.grid(False)
axes[0].set_ylabel("expert, the busiest first")
axes[0].set_yticks(range(E), range(1, E + 1))
fig.colorbar(image, ax=axes, label="share of the kind's choices", shrink=0.9)
show(
    fig,
    alt="Three tables of 8 experts by 4 kinds of text. Sums lean on experts that the other three kinds use less. "
    + ", ".join(f"{cure}: {information[cure]:.2f} nats of mutual information" for cure in CURES)
    + ".",
)

# %% [markdown]
# Columns that look alike use the same experts. The sums stand apart in all three tables, and stories, code and manual share most of theirs. Nobody told the model which text is which.
#
# Does a cure cost some of this division? The balance loss might: it asks for evenness in each batch, whatever the text. But look at the two seeds behind each value. They lie as far apart as the rows do, so these runs cannot say which row divides the kinds best.
#
# Yet "expert in Python" would be saying too much, as a look at single characters shows. Here each character is coloured by the expert that it chose first:

# %%
model = runs["load bias", 0][0]
rows = [int(i) * PER_KIND + 1 for i in range(4)]
with torch.no_grad(), record_routing(model) as routes:
    model(validation[rows])
first = routes.chosen[0][:, 0].view(4, T)
tints = [*CYCLE, "white"]  # two greys would be hard to tell apart
fig, axis = figure(width=7.2, height=1.9)
for line, row in enumerate(rows):
    for column in range(T):
        box = (column - 0.5, line - 0.45)
        axis.add_patch(Rectangle(box, 1, 0.9, facecolor=tints[int(first[line, column])], alpha=0.5, edgecolor="0.6"))
        character = characters[validation[row, column]].replace("\n", "⏎")
        axis.text(column, line, character, ha="center", va="center", family="DejaVu Sans Mono", fontsize=8)
axis.set(xlim=(-0.6, T - 0.4), ylim=(3.6, -0.6), xticks=[], title="No kind of text keeps to one expert")
axis.set_yticks(range(4), KINDS)
axis.grid(False)
busiest = {kind: int(first[line].bincount(minlength=E).max()) for line, kind in enumerate(KINDS)}
show(
    fig,
    alt="Four lines of text, one of each kind, each character coloured by its first expert. No line has one colour: "
    + ", ".join(f"in {kind} the commonest expert has {n} of {T} characters" for kind, n in busiest.items())
    + ".",
)

# %% [markdown]
# No line has one colour. In the sums most digits share one or two experts; look at the spaces, full stops and line ends in the other lines. What the expert follows may be the *character* rather than the text it stands in. A number decides: the mutual information between the first expert and the character, beside that with the kind. (With eight experts it can be at most ln 8 = 2.08 nats; with the kind, as before, 1.39.)

# %%
first = choices(model)[:, 0]
for name, labels in (("character", validation.flatten()), ("kind", kind_of)):
    joint = torch.bincount(first * V + labels, minlength=E * V).view(E, V) / len(first)
    print(f"first expert and {name:9}: {mutual_information(joint):.2f} nats")
    if name == "character":
        with_character = mutual_information(joint)
assert with_character > 2 * mutual_information(joint)

# %% [markdown]
# The character tells several times as much. And part of what the kind tells is the character again: a digit is most often in a sum. The Mixtral paper reports the like in its section 5: no clear division by topic, and instead a choice that follows the form of the text, with the same expert for the indentation of code, for example.
#
# %% [markdown]
# ## Does the offer hold?
#
# Now the question of the beginning. We train longer, for 400 steps, and compare three models: the mixture with the load bias; an ordinary MLP with as many *active* parameters (64 wide); and an ordinary MLP with as many parameters *in all* (256 wide), which computes all of them for every token.
#
# Before you run it: of the distance between the small ordinary MLP and the large one, what part will the mixture cover? 0 would mean that it is no better than the small one, 1 as good as the large one.

# %%
guess_part = None  # for example 0.5

# %%
LONG, STOPS = 400, (50, 100, 200, 300)
options = {"evaluate": validation_loss, "evaluate_at": STOPS}
curves, ends = {}, {}
for name, d_ff, seeds in (("small MLP", 64, (0, 1)), ("large MLP", 256, (0,)), ("mixture", None, (0, 1))):
    for seed in seeds:
        if d_ff is None:
            model, _, history = train_experts(seed, LONG, rate=0.01, **options)
        else:
            model = build(seed, d_ff=d_ff)
            history = train(model, pieces(False, 4, seed + 1), LONG, lr=0.015, progress=False, **options)
        gigaflops = 6 * active_params(model) * 16 * T / 1e9  # a step: 2 a parameter and token forward, 4 backward
        curves[name, seed] = [(step * gigaflops, value) for step, value in history.evaluations]
        ends.setdefault(name, []).append(history.evaluations[-1][1])
    print(
        f"{name:10} holds {model.n_params():6,}, uses {active_params(model):6,} parameters: "
        + " and ".join(f"{value:.3f}" for value in ends[name])
        + " nats"
    )
print("\nmixture minus small MLP, after each number of steps, two seeds:")
for stop, step in enumerate((*STOPS, LONG)):
    behind = [curves["mixture", seed][stop][1] - curves["small MLP", seed][stop][1] for seed in (0, 1)]
    print(f"{step:5}   {behind[0]:+.3f}  {behind[1]:+.3f}")
small, mixed = (sum(ends[name]) / 2 for name in ("small MLP", "mixture"))
part = (small - mixed) / (small - ends["large MLP"][0])
print(f"The mixture covers {part:.0%} of the distance from the small MLP to the large one (means of the seeds).")
assert active_params(model) < 1.05 * active_params(build(0, d_ff=64))  # the mixture has a router more
assert ends["large MLP"][0] < min(ends["mixture"])
assert abs(small - mixed) < 0.5 * (small - ends["large MLP"][0])
if guess_part is not None:
    print(f"your guess: {guess_part:.0%}")

# %%
fig, axis = figure(height=3.4)
colors = {"small MLP": COLORS["control"], "large MLP": COLORS["truth"], "mixture": COLORS["model"]}
for (name, seed), curve in curves.items():
    axis.plot(*zip(*curve, strict=True), "o-", color=colors[name], markersize=3, alpha=1 if seed == 0 else 0.5)
    if seed == 0:
        offset = (6, {"small MLP": 3, "mixture": -8, "large MLP": 0}[name])
        axis.annotate(name, curve[-1], offset, textcoords="offset points", color=colors[name], va="center")
if guess_part is not None:
    height = small - guess_part * (small - ends["large MLP"][0])
    axis.plot(curves["mixture", 0][-1][0], height, "x", color=COLORS["guess"], markersize=9)
    axis.annotate("your guess", (curves["mixture", 0][-1][0], height), (5, 5), textcoords="offset points",
                  color=COLORS["guess"])  # fmt: skip
axis.set(xlabel="billions of operations in training", ylabel="nats a character, held out")
axis.set_title("For the same work, the mixture ends near the small MLP")
axis.set_xlim(0, 1.18 * max(x for curve in curves.values() for x, _ in curve))
show(
    fig,
    alt=f"Held-out loss against operations. The small MLP ends at {ends['small MLP'][0]:.3f} nats, the mixture at "
    f"{ends['mixture'][0]:.3f} for nearly the same number of operations, the large MLP at {ends['large MLP'][0]:.3f} for "
    f"{curves['large MLP', 0][-1][0] / curves['small MLP', 0][-1][0]:.1f} times as many.",
)

# %% [markdown]
# Beside the **small MLP** the mixture does nearly the same work for a token and holds 2.4 times as many parameters. It begins behind: with two of eight experts used, an expert has seen a quarter of the characters that the ordinary MLP has, so it knows less. Then it catches up. Whether it is ahead at the end these runs cannot say: the last line of the small table is no larger than what separates two seeds of the mixture. We also ran it once for 800 steps (set `LONG = 800`, about fifteen seconds more): there the mixture ended 0.045 and 0.032 nats lower, 29% of the way for seed 0. With two seeds that is a hint, not a proof.
#
# Beside the **large MLP**, which holds as many parameters, it is behind after as many steps. Parameters that a token does not use do not help this token. But the large MLP pays with more than twice the work. Read the figure upwards from one place on the horizontal axis, and for the same work the large one is the worst of the three. (That flatters the other two a little: in the middle of its run its learning rate is still high.)
#
# So the offer is not "as good as all its parameters for the price of the active ones". How far up from the small model a mixture gets depends on size and on patience: the Switch Transformer's authors, with up to thousands of experts and billions of tokens, report the quality of the ordinary model in as little as a seventh of the time. Our models are too small and too briefly trained to show that, and a GPU section below trains longer.
#
# One warning about the horizontal axis. It counts operations, not seconds. Eight small matrix products take longer than one large one with as many multiplications, so a mixture is slower in seconds than the figure makes it look. `benchmarks/moe.py` measures our dispatch on your machine, beside `transformers`.
#
# ## A limit on each expert (optional)
#
# On many machines, each expert lives on one of them, and memory for its rows is set aside before anybody knows who will choose it. So an expert gets a **capacity**: it takes at most so many rows, and what comes later is *dropped*. A dropped choice adds nothing; the token passes by on the residual path. The **capacity factor** is how much room there is compared with an even load: with factor 1.25 an expert takes 1.25 · N · k / E rows.
#
# ### Exercise 8.8 · within_capacity · ●●● · 10 min · optional
#
# Write `within_capacity(chosen, n_experts, capacity)`: a boolean (N, k), True where an expert accepts the choice. All first choices are served before all second choices, and so on; among first choices the earlier token comes first. Every expert accepts the first `capacity` rows that come to it.

# %% tags=["exercise"]
from llmkit.layers.balance import within_capacity

# %%
within_capacity = check(within_capacity)

# %%
factors = (1.0, 1.25, 1.5, 2.0, 3.0)
fig, axis = figure(height=2.8)
dropped = {}
for cure, color in (("left alone", COLORS["bad"]), ("load bias", COLORS["good"])):
    chosen = choices(runs[cure, 0][0])[torch.randperm(len(kind_of), generator=torch.Generator().manual_seed(0))[:768]]
    room = [math.ceil(factor * chosen.numel() / E) for factor in factors]
    dropped[cure] = [float(1 - within_capacity(chosen, E, capacity).float().mean()) for capacity in room]
    axis.plot(factors, dropped[cure], "o-", color=color)
    axis.annotate(cure, (factors[1], dropped[cure][1]), (6, 6), textcoords="offset points", color=color)
axis.set(xlabel="capacity factor", ylabel="share of choices dropped", title="Balance decides how much is dropped")
axis.set_ylim(bottom=0)
show(
    fig,
    alt=f"Share of dropped choices against the capacity factor, for 768 held-out characters. At 1.25 the model that was "
    f"left alone drops {dropped['left alone'][1]:.0%}, the one with the load bias {dropped['load bias'][1]:.0%}.",
)
print(
    f"dropped at capacity factor 1.25: left alone {dropped['left alone'][1]:.1%}, load bias {dropped['load bias'][1]:.1%}"
)
assert dropped["load bias"][1] < dropped["left alone"][1]

# %% [markdown]
# Mixtral and DeepSeek-V3 drop nothing; sorting, as in exercise 8.4, takes blocks of any length. Dropping has another flaw: whether *your* token is dropped depends on who else is in the batch.
#
# ## On a GPU
#
# With more text and more steps than a laptop's patience allows: the same comparison, four layers.


# %%
@gpu_section(
    "train a mixture with 8 experts in each of 4 layers beside its two ordinary controls, 3,000 steps each",
    full={"width": 256, "n_layers": 4, "length": 256, "per_kind": 16, "n_steps": 3000, "lr": 2e-3},
    smoke={"width": 16, "n_layers": 2, "length": 16, "per_kind": 1, "n_steps": 2, "lr": 2e-3},
)
def large_comparison(device, width, n_layers, length, per_kind, n_steps, lr):
    held_out = torch.cat([next(pieces(True, per_kind, seed, length))[0] for seed in range(4)]).to(device)
    results = {}
    for name, d_ff in (("small MLP", 2 * width), ("large MLP", 8 * width), ("mixture", None)):
        torch.manual_seed(0)
        config = LlamaConfig(V, width, n_layers, n_heads=4, d_ff=d_ff or width, max_len=length, tie=True)
        mlp = None if d_ff else lambda: MoE(SigmoidRouter(width, E, TOP_K), [GatedMLP(width, width) for _ in range(E)])
        model = llama(config, mlp)
        init_weights(model, n_layers, std=width**-0.5)
        model = model.to(device)
        batches = ((ids.to(device), mask) for ids, mask in pieces(False, per_kind, 1, length))
        loss = None
        if d_ff is None:
            routes = record_routing(model).__enter__()

            def loss(model, ids, attention_mask, routes=routes):
                routes.clear()
                value = language_model_loss(model, ids, attention_mask)
                for layer, chosen in zip(routes.layers, routes.chosen, strict=True):
                    layer.router.update_bias(chosen, 0.001)
                return value

        train(model, batches, n_steps, lr, loss=loss, progress=False)
        if d_ff is None:
            routes.__exit__()
        with torch.no_grad():
            results[name] = float(-token_log_probs(model(held_out), held_out).mean())
        print(f"{name:10} {model.n_params():,} parameters, {active_params(model):,} active: {results[name]:.3f} nats")
    return results


# %% [markdown]
# ## Mistakes people make
#
# | mistake | how it shows |
# |---|---|
# | No balancing | nothing, in the loss of a short run; count the choices, layer by layer |
# | The loss pooled over layers | it reads its even value while layers are half dead (exercise 8.6) |
# | The balanced value taken for 1 | "the loss will not go below 2": it cannot, with two experts a token |
# | Padding counted in the loads | the padding token's favourite expert looks crowded; give `attention_mask` to `load_balancing_loss` |
# | The load bias left in the weights | gradients and results change with every update; choose with it, weigh without |
# | Rows brought back by sorting twice | shapes fit, the model trains, and every token gets another one's result (8.4) |
# | Comparing by parameters held | the mixture looks wasteful; comparing by active ones only, it looks free. Say both |
#
# ## Where the real systems do it
#
# - **transformers** `models/mixtral/modeling_mixtral.py`: `MixtralTopKRouter` is your 8.2, `MixtralExperts` your 8.3, `load_balancing_loss_func` your 8.5 on one heap; `integrations/moe.py` has the grouped product. `models/deepseek_v3`: `DeepseekV3TopkRouter` is our `SigmoidRouter`, bias, groups and all.
# - **vLLM** and **megablocks** sort the rows, as in 8.4, and multiply the blocks in one kernel.
# - Shazeer et al. 2017, "Outrageously large neural networks"; Lepikhin et al. 2020 (GShard: top-2, capacity); Fedus et al. 2021 (Switch: top-1, the balance loss); Zoph et al. 2022 (ST-MoE: the z-loss on the router, `router_z_loss` in llmkit); Jiang et al. 2024 (Mixtral); Wang et al. 2024, "Auxiliary-loss-free load balancing"; DeepSeek-V3, section 2.1.2.
#
# ## What llmkit gained
#
# | file | what |
# |---|---|
# | `llmkit/layers/moe.py` | `route`, `dispatch_loop`, `dispatch_grouped`, the routers, `MoE` |
# | `llmkit/layers/balance.py` | `balance_loss`, `load_balancing_loss`, `balancing_step`, `within_capacity` |
# | both | `expert_load` and `dead_experts` count, `record_routing` listens to a model |
# | `llmkit/models/mixtral.py` | Mixtral as LLaMA with one part exchanged, `active_params` |
#
# Three questions to check yourself:
#
# <details><summary>A mixture has 64 experts of which 8 are used, in layers that are otherwise like an ordinary model's. Its balance loss reads 8.0. Good or bad?</summary>
#
# As good as it gets, if it was computed layer by layer: the even value is k, and k is 8. Pooled over layers, 8.0 proves nothing.
# </details>
#
# <details><summary>Why is the load bias not simply a parameter, trained with the rest?</summary>
#
# It enters only in the choice of the k largest, and that choice has no gradient. (And a gradient would move it to where the loss is lower, which is not where the load is even.)
# </details>
#
# <details><summary>You can afford the memory of 47 billion parameters, but serve one user at a time, one token at a time. What does a mixture save you?</summary>
#
# Most of the work: for each token only the active 13 billion have to be read and multiplied. With a large batch every expert is somebody's choice, so all are read; but each still computes only its own rows.
# </details>

# %%
torch.set_num_threads(threads)
progress()

# %% [markdown]
# **Next**: 09_bert_roberta. A model that may look to both sides, and fills gaps instead of continuing.
