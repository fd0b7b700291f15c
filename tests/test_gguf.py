"""GGUF files written by gguf's own writer, read back: every kind of number, q and k in llama.cpp's order, bad files."""

import sys

import numpy as np
import pytest
import torch

gguf = pytest.importorskip("gguf")

from llmkit.checkpoints.gguf import load_gguf  # noqa: E402
from llmkit.checkpoints.tables import WeightsError  # noqa: E402
from llmkit.models.llama import LlamaConfig, llama  # noqa: E402
from llmkit.tokenizers import ByteLevelBPE  # noqa: E402
from llmkit.tokenizers.base import TokenizerFileError  # noqa: E402

# A special token that only its type tells from text: it is spelled in ordinary characters.
TOKENIZER = ByteLevelBPE.train("the cat sat on the mat, the dog sat on the cat " * 20, 276, special_tokens=["[END]"])
CONFIG = LlamaConfig(TOKENIZER.vocab_size, 64, 2, 4, n_kv_heads=2, d_ff=96, max_len=128, norm_eps=1e-5, rope_theta=5e4)
# The relative error of the logits that rounding the weights may cause.
KINDS = {"F32": 1e-6, "F16": 2e-3, "BF16": 2e-2, "Q8_0": 2e-2, "Q4_0": 0.3, "Q4_1": 0.3}


def model_of(config=CONFIG, seed=0):
    torch.manual_seed(seed)
    model = llama(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def permuted(weight, n_heads):
    """Rows of q and k as llama.cpp's converter writes them (convert_hf_to_gguf.py, `permute`)."""
    rows, columns = weight.shape
    return weight.reshape(n_heads, 2, rows // n_heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def tensors_of(model, config=CONFIG):
    t = model.transformer
    names = {"token_embd": t.embed.tokens.weight, "output_norm": t.norm.weight}
    if not config.tie:
        names["output"] = model.lm_head.weight
    for i, block in enumerate(t.blocks):
        a, m = block.attn, block.mlp
        names |= {
            f"blk.{i}.attn_norm": block.attn_norm.weight, f"blk.{i}.ffn_norm": block.mlp_norm.weight,
            f"blk.{i}.attn_q": permuted(a.q_proj.weight, 4), f"blk.{i}.attn_k": permuted(a.k_proj.weight, 2),
            f"blk.{i}.attn_v": a.v_proj.weight, f"blk.{i}.attn_output": a.o_proj.weight,
            f"blk.{i}.ffn_gate": m.gate_proj.weight, f"blk.{i}.ffn_up": m.up_proj.weight,
            f"blk.{i}.ffn_down": m.down_proj.weight,
        }  # fmt: skip
    return {f"{name}.weight": tensor.detach().numpy() for name, tensor in names.items()}


def write(path, tensors, kind="F32", config=CONFIG, architecture="llama", change=None, pre="gpt-2", **entries):
    w = gguf.GGUFWriter(str(path), architecture)
    w.add_context_length(config.max_len)
    w.add_embedding_length(config.d_model)
    w.add_block_count(config.n_layers)
    w.add_feed_forward_length(config.d_ff)
    w.add_head_count(config.n_heads)
    w.add_head_count_kv(config.n_kv_heads)
    w.add_layer_norm_rms_eps(config.norm_eps)
    w.add_rope_freq_base(config.rope_theta)
    for name, value in entries.items():
        w.add_uint32(name.replace("__", "."), value)
    shown = TOKENIZER.to_json()["model"]
    tokens = sorted(shown["vocab"].items(), key=lambda item: item[1])
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list([token for token, _ in tokens])
    w.add_token_types([3 if token in TOKENIZER.special_tokens else 1 for token, _ in tokens])
    w.add_token_merges([" ".join(merge) for merge in shown["merges"]])
    to = gguf.GGMLQuantizationType[kind]
    for name, values in tensors.items():
        if change and name in change:
            values = change[name]
        small = values is None or values.ndim == 1 or kind == "F32"
        if values is not None:
            stored = np.ascontiguousarray(values) if small else gguf.quants.quantize(values, to)
            w.add_tensor(name, stored, raw_dtype=None if small else to)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


@pytest.fixture
def ids():
    return torch.randint(CONFIG.vocab_size, (2, 12), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_number(tmp_path, ids, kind):
    model = model_of()
    loaded, tokenizer = load_gguf(write(tmp_path / "m.gguf", tensors_of(model), kind))
    with torch.no_grad():
        difference = (loaded(ids) - model(ids)).norm() / model(ids).norm()
    assert difference < KINDS[kind]
    assert kind == "F32" or difference > 0, "the file does not hold that kind"
    assert tokenizer.encode("the cat[END]", special="all") == TOKENIZER.encode("the cat[END]", special="all")
    assert tokenizer.special_tokens == TOKENIZER.special_tokens
    assert loaded.config == CONFIG


def test_quantised_weights_are_ggufs_own(tmp_path):
    model = model_of()
    tensors = tensors_of(model)
    loaded, _ = load_gguf(write(tmp_path / "m.gguf", tensors, "Q4_1"))
    to = gguf.GGMLQuantizationType.Q4_1
    expected = gguf.quants.dequantize(gguf.quants.quantize(tensors["blk.1.ffn_up.weight"], to), to)
    assert np.array_equal(loaded.transformer.blocks[1].mlp.up_proj.weight.detach().numpy(), expected)


def test_unpermuted_q_and_k_would_be_noticed(tmp_path, ids):
    model = model_of()
    tensors = tensors_of(model)
    wrong = {"blk.0.attn_q.weight": model.transformer.blocks[0].attn.q_proj.weight.detach().numpy()}
    loaded, _ = load_gguf(write(tmp_path / "m.gguf", tensors, change=wrong))
    with torch.no_grad():
        assert (loaded(ids) - model(ids)).abs().max() > 1e-2


def test_a_file_without_output_ties(tmp_path, ids):
    from dataclasses import replace

    config = replace(CONFIG, tie=True)
    model = model_of(config)
    loaded, _ = load_gguf(write(tmp_path / "m.gguf", tensors_of(model, config), config=config))
    assert loaded.lm_head.weight is loaded.transformer.embed.tokens.weight
    with torch.no_grad():
        assert torch.allclose(loaded(ids), model(ids), atol=1e-6)


def test_asked_dtype(tmp_path):
    loaded, _ = load_gguf(write(tmp_path / "m.gguf", tensors_of(model_of())), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


BAD_TENSORS = {
    "no blk.1.ffn_up.weight": {"blk.1.ffn_up.weight": None},
    "no token_embd.weight": {"token_embd.weight": None},
    r"attn_v.weight is \(16, 64\)": {"blk.0.attn_v.weight": np.zeros((16, 64), np.float32)},
    "holds 1 tensors that this model has no place for: blk.9": {"blk.9.extra.weight": np.zeros(4, np.float32)},
}


@pytest.mark.parametrize("message", BAD_TENSORS)
def test_bad_tensors_are_named(tmp_path, message):
    tensors = tensors_of(model_of()) | {name: None for name in BAD_TENSORS[message]}
    path = write(tmp_path / "m.gguf", tensors, change=BAD_TENSORS[message])
    with pytest.raises(WeightsError, match=message):
        load_gguf(path)


def test_bad_files_are_named(tmp_path):
    good = write(tmp_path / "m.gguf", tensors_of(model_of()))
    whole = good.read_bytes()
    with pytest.raises(WeightsError, match=r"nothing\.gguf is not a file"):
        load_gguf(tmp_path / "nothing.gguf")
    (tmp_path / "x.gguf").write_bytes(b"PK\3\4" + whole[4:])
    with pytest.raises(WeightsError, match="is not a GGUF file"):
        load_gguf(tmp_path / "x.gguf")
    for length in (3, 8, 100, 2000, len(whole) // 2, len(whole) - 1000):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"cut\.gguf is (damaged|not a GGUF file)"):
            load_gguf(tmp_path / "cut.gguf")


def test_what_is_not_built_is_refused(tmp_path):
    tensors = tensors_of(model_of())
    for change, message in (
        ({"architecture": "gemma"}, "architecture 'gemma'"),
        ({"llama__expert_count": 4, "llama__expert_used_count": 2}, "expert_count is 4, but the tensors make it 0"),
    ):
        with pytest.raises(WeightsError, match=message):
            load_gguf(write(tmp_path / "m.gguf", tensors, **change))
    freqs = tensors | {"rope_freqs.weight": np.arange(8, dtype=np.float32)}
    with pytest.raises(WeightsError, match=r"rope_freqs\.weight"):
        load_gguf(write(tmp_path / "m.gguf", freqs))
    with pytest.raises(TokenizerFileError, match="pre-tokenizer 'qwen2'"):
        load_gguf(write(tmp_path / "m.gguf", tensors, pre="qwen2"))


def test_a_vocabulary_without_a_letter_is_refused(tmp_path, monkeypatch):
    add = gguf.GGUFWriter.add_token_list
    monkeypatch.setattr(
        gguf.GGUFWriter, "add_token_list", lambda self, t: add(self, ["xyz" if x == "!" else x for x in t])
    )
    with pytest.raises(TokenizerFileError, match=r"m\.gguf: the vocabulary lacks the byte 0x21"):
        load_gguf(write(tmp_path / "m.gguf", tensors_of(model_of())))


def test_sizes_that_make_no_model_are_named(tmp_path):
    from dataclasses import replace

    path = write(tmp_path / "m.gguf", tensors_of(model_of()), config=replace(CONFIG, n_kv_heads=3))
    with pytest.raises(WeightsError, match=r"m\.gguf describes no model that can be built: .*cannot share 3"):
        load_gguf(path)


@pytest.mark.parametrize(
    ("types", "message"),
    [({258: 4}, "is of type 4: only normal and control"), ({-1: None}, "272 tokens, 272 different ones, 271 types")],
)
def test_tokens_of_other_types_are_refused(tmp_path, monkeypatch, types, message):
    """llama.cpp finds user-defined tokens in plain text; read as anything else they would give other ids."""
    add = gguf.GGUFWriter.add_token_types

    def changed(self, values):
        add(self, [types.get(i, value) for i, value in enumerate(values)][: -1 if -1 in types else None])

    monkeypatch.setattr(gguf.GGUFWriter, "add_token_types", changed)
    with pytest.raises(TokenizerFileError, match=message):
        load_gguf(write(tmp_path / "m.gguf", tensors_of(model_of())))


@pytest.mark.parametrize("kind", ["Q5_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_other_kinds_are_expanded_by_gguf(tmp_path, monkeypatch, kind):
    from llmkit.checkpoints.gguf_file import GGUFFile

    number = gguf.GGMLQuantizationType[kind]
    data = np.random.default_rng(0).integers(0, 60, gguf.quants.quant_shape_to_byte_shape((3, 512), number))
    w = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama")
    w.add_tensor("x", data.astype(np.uint8), raw_dtype=number)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    values = GGUFFile(tmp_path / "m.gguf")["x"]
    assert values.shape == (3, 512)
    assert np.array_equal(values.numpy(), gguf.quants.dequantize(data.astype(np.uint8), number))
    monkeypatch.setitem(sys.modules, "gguf.quants", None)
    with pytest.raises(ImportError, match=rf"expanding x, which is {kind}, needs the package gguf: pip install"):
        GGUFFile(tmp_path / "m.gguf")["x"]
