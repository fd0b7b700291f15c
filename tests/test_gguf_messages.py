"""What is said of a damaged GGUF file or config: each kind of damage has its own words."""

import json
import struct

import pytest
from test_gguf_damage import NAMED, planned, sources

import llmkit
from llmkit.checkpoints.gguf import load_gguf
from llmkit.checkpoints.gguf_file import GGUFFile
from llmkit.checkpoints.gguf_header import read_header
from llmkit.checkpoints.gguf_write import Planned, write_gguf
from llmkit.checkpoints.tables import WeightsError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return sources(tmp_path_factory.mktemp("whole"))


def replaced(at, letter, value):
    """The whole file with one number of its header replaced."""
    return lambda data: data[:at] + struct.pack("<" + letter, value) + data[at + struct.calcsize("<" + letter) :]


def at_tensor(data, offset):
    """The place of a number behind the first tensor's name, token_embd.weight: axes, sizes, type, offset."""
    return data.index(b"token_embd.weight") + len(b"token_embd.weight") + offset


# what is said -> what was done to the bytes
BYTES_MESSAGES = {
    "it does not begin with 'GGUF'": lambda data: b"GGML" + data[4:],
    r"damaged \(version 1, where 2 and 3 are read\)": replaced(4, "I", 1),
    r"damaged \(version 50331648, .* written for big-endian machines": replaced(4, "I", 3 << 24),
    r"damaged \(.*\): was the download cut short\?": replaced(8, "Q", 2**63),
    r"damaged \(1099511627776 bytes are announced at byte 32": replaced(24, "Q", 2**40),
    r"damaged \(the text at byte 24 is not UTF-8": lambda data: data[:32] + b"\xff" + data[33:],
    r"type 77 of a metadata entry is not one of": replaced(32 + len("general.architecture"), "I", 77),
    "token_embd.weight has 9 axes": lambda data: replaced(at_tensor(data, 0), "I", 9)(data),
    r"token_embd.weight is empty: its shape is \(0, 32\)": lambda data: replaced(at_tensor(data, 12), "Q", 0)(data),
    "a row of 31 values is no whole number of Q8_0's blocks": lambda data: replaced(at_tensor(data, 4), "Q", 31)(data),
    "token_embd.weight is of the unknown tensor type 4;": lambda data: replaced(at_tensor(data, 20), "I", 4)(data),
    "token_embd.weight begins at 7, which is no multiple": lambda data: replaced(at_tensor(data, 24), "Q", 7)(data),
    r"token_embd.weight would end \d+ bytes after the file": lambda data: replaced(at_tensor(data, 24), "Q", 2**62)(
        data
    ),
    r"blk.1.ffn_\w+.weight would end 1 bytes after the file|\d+ bytes after the file": lambda data: data[:-40],
    "the tensor blk.0.attn_q.weight stands twice": lambda data: data.replace(
        b"blk.1.attn_q.weight", b"blk.0.attn_q.weight"
    ),
    "the entry 'general.type' stands twice": lambda data: data.replace(b"general.name", b"general.type"),
}


@pytest.mark.parametrize("message", BYTES_MESSAGES)
def test_what_is_wrong_with_the_bytes_is_said(whole, tmp_path, message):
    (tmp_path / "m.gguf").write_bytes(BYTES_MESSAGES[message](whole[0][0].read_bytes()))
    with pytest.raises(WeightsError, match=message):
        load_gguf(tmp_path / "m.gguf")


# what is said -> the metadata entries that are changed; None: left out
FIELDS_MESSAGES = {
    "'llama.block_count' is two, not a whole number": {"llama.block_count": "two"},
    "'llama.block_count' is True, not a whole number": {"llama.block_count": True},
    r"llama.block_count is 4000000000, but the tensors make it 2": {"llama.block_count": 4_000_000_000},
    r"llama.embedding_length is 64, but the tensors make it 32": {"llama.embedding_length": 64},
    r"times the size of a head is 4294967295, but": {
        "llama.attention.head_count": 1, "llama.attention.key_length": 2**32 - 1,
    },
    "0 heads over 32 dimensions": {"llama.attention.head_count": 0},
    r"llama.vocab_size is 3, but the tensors make it \d+": {"llama.vocab_size": 3},
    r"llama.expert_count is 9, but the tensors make it 0": {"llama.expert_count": 9, "llama.expert_used_count": 2},
    "has no entry 'llama.context_length'": {"llama.context_length": None},
    "has no entry 'general.architecture'": {"general.architecture": None},
    "layer_norm_rms_epsilon' is nan, not a number": {"llama.attention.layer_norm_rms_epsilon": float("nan")},
    "rope scaling 'yarn' is not read": {"llama.rope.scaling.type": "yarn"},
    "rope_freqs.weight are not the factors of": {"llmkit.rope_scaling.factor": 4.0},
    r"a tokenizer 'gpt3'; from GGUF llmkit reads gpt2, llama": {"tokenizer.ggml.model": "gpt3"},
    r"\d+ tokens, but the embedding has \d+ rows": {
        "tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.token_type": [1, 1],
    },
    r"tokenizer.ggml.tokens is no list of str": {"tokenizer.ggml.tokens": [1, 2]},
    r"'tokenizer.ggml.tokens' is a, not a list": {"tokenizer.ggml.tokens": "a"},
    r"2 tokens, 1 different ones, 2 types": {"tokenizer.ggml.tokens": ["a", "a"], "tokenizer.ggml.token_type": [1, 1]},
    r"merge 0 is 'a'; two pieces were expected": {"tokenizer.ggml.merges": ["a"]},
}  # fmt: skip


@pytest.mark.parametrize("message", FIELDS_MESSAGES)
def test_what_is_wrong_with_the_metadata_is_said(whole, tmp_path, message):
    header = read_header(whole[0][0])
    fields = {key: value for key, value in (header.fields | FIELDS_MESSAGES[message]).items() if value is not None}
    factors = GGUFFile(whole[0][0])["rope_freqs.weight"]
    plan = {name: planned(info.kind, list(info.shape)) for name, info in header.tensors.items()}
    plan["rope_freqs.weight"] = Planned("F32", tuple(factors.shape), lambda: factors)
    write_gguf(tmp_path / "m.gguf", fields, plan)
    with pytest.raises(NAMED, match=message):
        load_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("llama", {"num_hidden_layers": 10**9}, "asks for 1000000000 layers or experts, but the files hold 21 tensors"),
        ("mixtral", {"num_local_experts": 10**9}, "asks for 2000000000 layers or experts"),
        ("llama", {"head_dim": 2**33}, "head_dim = 8589934592 is not to be believed"),
        ("llama", {"hidden_size": 2**40}, "hidden_size = 1099511627776 is not to be believed"),
        ("bert", {"id2label": None, "num_labels": 10**10}, "num_labels = 10000000000 is not to be believed"),
    ],
)
def test_absurd_counts_in_a_config_are_said_at_once(whole, tmp_path, family, change, message):
    source = next(folder for folder in whole[1] if folder.name == family)
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((source / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=message):
        llmkit.from_pretrained(tmp_path)
