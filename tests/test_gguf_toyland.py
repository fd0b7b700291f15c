"""Models trained on toyland, carried from Hugging Face's files to GGUF and run by a real llama.cpp."""

import random

import pytest
import torch
from gguf_peer import BYTES, LLAMA3, dense
from torch import nn

from llmkit.checkpoints.gguf import load_gguf, save_gguf
from llmkit.checkpoints.gguf_file import GGUFFile
from llmkit.checkpoints.gguf_from_hf import converted, gguf_name, stack_experts, write_converted
from llmkit.checkpoints.gguf_names import llama_weights, mixtral_weights
from llmkit.checkpoints.pretrained import save_pretrained
from llmkit.checkpoints.safetensors import SafetensorsFolder
from llmkit.checkpoints.special import Settings
from llmkit.checkpoints.tables import WeightsError, split_numbers
from llmkit.data.batches import pad
from llmkit.finetuning import experiments
from llmkit.generation.generate import generate
from llmkit.generation.logits import GREEDY
from llmkit.layers.transformer import init_weights
from llmkit.models import llama as llama_file
from llmkit.models import mixtral as mixtral_file
from llmkit.models.mixtral import MixtralConfig, mixtral
from llmkit.training.loop import train

SETTINGS = Settings({"eos": "<end>"})
PROMPTS = ("The owl sat on the", "Once there was a clever gardener named Anna. Her house stood in", "In the end")


@pytest.fixture(scope="module")
def trained():
    """name -> model: lesson 15's base, which is stored, and a Mixtral of twelve experts that learns for 25 steps."""
    base, tokenizer = experiments.load_base()
    torch.manual_seed(0)
    config = MixtralConfig(tokenizer.vocab_size, 64, 2, 4, n_kv_heads=2, d_ff=64, max_len=512, n_experts=12, tie=True)
    moe = mixtral(config)
    init_weights(moe, 2, 0.08)
    rng, stories = random.Random(0), experiments.story_ids("stories")
    batches = (pad([rng.choice(stories)[:64] for _ in range(4)]) for _ in range(25))
    losses = train(moe, batches, 25, 1e-2, progress=False).losses
    assert losses[-1] < 0.85 * losses[0], "it has learnt something"
    return {"llama": base, "mixtral": moe}, tokenizer


class RoundedInputs:
    """Every product's inputs as 16-bit floats, which is what llama.cpp multiplies F16 matrices with."""

    def __init__(self, model):
        linears = [
            module for name, module in model.named_modules() if isinstance(module, nn.Linear) and "router" not in name
        ]
        self.handles = [
            module.register_forward_pre_hook(lambda _, args: (args[0].half().float(),)) for module in linears
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


@pytest.mark.parametrize("name", ["llama", "mixtral"])
@pytest.mark.parametrize("kind", ["F32", "F16"])
def test_llama_cpp_says_what_we_say(trained, tmp_path, name, kind):
    """The same 24 tokens greedily, and the ten likeliest next tokens' log-probabilities to 1e-3.

    At F16 to 2e-3: a sum in another order can flip the rounding of an input, which is 5e-4 of it.
    """
    pytest.importorskip("xllamacpp")
    from gguf_peer import Peer

    models, tokenizer = trained
    save_gguf(models[name], tmp_path / "m.gguf", tokenizer, kind, SETTINGS)
    ours, _ = load_gguf(tmp_path / "m.gguf")
    peer, apart = Peer(tmp_path / "m.gguf"), []
    for prompt in PROMPTS:
        assert peer.tokenize(prompt) == tokenizer.encode(prompt)
        ids = [tokenizer.special_tokens["<end>"], *tokenizer.encode(prompt)]
        theirs = peer.greedy(ids, 24)
        own = generate(ours, torch.tensor([ids]), 24, GREEDY)[0, len(ids) :].tolist()
        assert theirs == own[: len(theirs)] and (len(theirs) == 24 or own[len(theirs)] == ids[0])
        top = peer.next_token(ids, 10)
        with torch.no_grad():
            plain = ours(torch.tensor([ids]))[0, -1].log_softmax(-1)
            with RoundedInputs(ours):
                as_theirs = ours(torch.tensor([ids]))[0, -1].log_softmax(-1)
        apart.append(
            [max(abs(log_probs[i].item() - value) for i, value in top.items()) for log_probs in (plain, as_theirs)]
        )
    plain, as_theirs = (max(column) for column in zip(*apart, strict=True))
    print(f"{name} {kind}: apart by {plain:.1e}; with our inputs rounded to 16 bits too {as_theirs:.1e}")
    assert plain < 1e-3 if kind == "F32" else as_theirs < 2e-3
    assert plain < 1e-2


def tensors_of(model, tokenizer, folder):
    save_pretrained(model, folder, tokenizer)
    return SafetensorsFolder(folder)


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_from_file_to_file_is_what_the_model_would_write(trained, tmp_path, name):
    """gguf_from_hf.py against save_gguf: two ways from a checkpoint to GGUF, which share only the permutation."""
    models, tokenizer = trained
    model = models[name]
    n_kv_heads, n_experts = model.config.n_kv_heads or model.config.n_heads, getattr(model.config, "n_experts", 0)
    ours = converted(tensors_of(model, tokenizer, tmp_path / "hf"), model.config.n_heads, n_kv_heads, n_experts)
    save_gguf(model, tmp_path / "m.gguf", tokenizer, settings=SETTINGS)
    file = GGUFFile(tmp_path / "m.gguf")
    assert set(ours) == set(file.tensors)
    for key, tensor in ours.items():
        there = file[key] if key in file else torch.stack([file[f"{key}[{e}]"] for e in range(n_experts)])
        assert torch.equal(tensor.float(), there), key
    for kind in ("F32", "Q4_0"):  # the two write the same file, byte by byte
        save_gguf(model, tmp_path / "m.gguf", tokenizer, kind, SETTINGS)
        write_converted(tmp_path / "other" / "m.gguf", ours, model.config, tokenizer, kind, SETTINGS)
        written = [GGUFFile(path) for path in (tmp_path / "m.gguf", tmp_path / "other" / "m.gguf")]
        assert written[0].fields == written[1].fields and set(written[0]) == set(written[1])
        assert all(torch.equal(written[0][key], written[1][key]) for key in written[0])
    with pytest.raises(ValueError, match="kind 'Q2' is not one of F32, F16"):
        write_converted(tmp_path / "x.gguf", ours, model.config, tokenizer, "Q2", SETTINGS)


def test_old_files_waves_are_passed_over_and_experts_need_their_number():
    embedding = {"model.embed_tokens.weight": torch.ones(4, 2)}
    old = embedding | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    assert set(converted(old, 2, 2)) == {"token_embd.weight"}
    expert = {"model.layers.0.block_sparse_moe.experts.0.w1.weight": torch.ones(2, 2)}
    with pytest.raises(ValueError, match=r"experts\.0\.w1\.weight belongs to an expert: give n_experts"):
        converted(embedding | expert, 2, 2)
    assert set(converted(embedding | expert, 2, 2, 1)) == {"token_embd.weight", "blk.0.ffn_gate_exps.weight"}


def test_llama_3s_factors_are_written_too(tmp_path):
    model = dense(BYTES, rope_scaling=LLAMA3)
    save_gguf(model, tmp_path / "m.gguf", BYTES)
    tensors = {name: tensor for name, tensor in GGUFFile(tmp_path / "m.gguf").items() if name != "rope_freqs.weight"}
    write_converted(tmp_path / "ours.gguf", tensors, model.config, BYTES)
    factors = [GGUFFile(tmp_path / name)["rope_freqs.weight"] for name in ("m.gguf", "ours.gguf")]
    assert torch.equal(*factors) and factors[0].max() == 8


@pytest.mark.parametrize(
    ("hf", "gguf", "config"),
    [
        (llama_file.weights, llama_weights, llama_file.LlamaConfig()),
        (mixtral_file.weights, mixtral_weights, MixtralConfig()),
    ],
)
def test_names_are_those_of_the_tables(hf, gguf, config):
    """Through our own names: the family's table to Hugging Face's, and gguf_names' to GGUF's."""
    theirs, wanted = hf(config), gguf(config)
    assert set(theirs) == set(wanted)
    for ours, entry in theirs.items():
        numbers = ["17", "4"][: ours.count("{}")]
        name = wanted[ours].names[0].removesuffix("[{}]").format(*numbers)
        assert gguf_name(entry.names[0].format(*numbers)) == name
        assert split_numbers(ours)[1] == []


def test_what_cannot_be_converted_is_named():
    layer = "model.layers.0"
    for name in (
        f"{layer}.self_attn.q_norm.weight", "transformer.h.0.weight", f"{layer}.mlp.weight", "w",
        f"{layer}.self_attn.q_proj.weight_scale", "model.norm.scale",  # an 8-bit checkpoint's
        f"{layer}.block_sparse_moe.experts.w1.weight", f"{layer}.mlp.experts.gate_up_proj.weight",  # no expert's number
    ):  # fmt: skip
        with pytest.raises(WeightsError, match="is no tensor of a LLaMA, Mistral or Mixtral"):
            gguf_name(name)
        with pytest.raises(WeightsError, match="is no tensor of a LLaMA, Mistral or Mixtral"):
            converted({name: torch.zeros(2, 2)}, 1, 1)
    one = {"model.layers.0.block_sparse_moe.experts.1.w1.weight": torch.zeros(2, 2)}
    with pytest.raises(ValueError, match=r"blk.0.ffn_gate_exps.weight: experts \[1\] were found, 0 to 1 are needed"):
        stack_experts(one, 2)
