"""Folders as they come from people: whatever is wrong with one is said by name, and saving never loses the old one."""

import dataclasses
import fnmatch
import json
import os
import random
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import llmkit
from llmkit.checkpoints import pretrained, safetensors
from llmkit.checkpoints.safetensors import INDEX, SINGLE, SafetensorsFolder
from llmkit.checkpoints.tables import WeightsError
from llmkit.models.gpt2 import GPT2Config, gpt2
from llmkit.models.llama import LlamaConfig, llama
from llmkit.models.palm import PalmConfig, palm
from llmkit.tokenizers import ByteLevelBPE

CONFIG = LlamaConfig(vocab_size=20, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=24, max_len=32)
IDS = torch.arange(12).view(2, 6)


def saved(folder, **options):
    torch.manual_seed(0)
    model = llama(CONFIG)
    llmkit.save_pretrained(model, folder, **options)
    return model


def change_tensors(folder, change):
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE)


def change_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def refused(folder, message):
    with pytest.raises(WeightsError, match=message) as caught:
        llmkit.from_pretrained(folder)
    return str(caught.value)


Q = "model.layers.1.self_attn.q_proj.weight"
BAD_TENSORS = {
    rf"transformer.blocks.1.attn.q_proj.weight: the checkpoint has no {Q}": lambda t: t.pop(Q),
    "holds 1 tensors that this model has no place for: model.extra": lambda t: t.update({"model.extra": torch.ones(2)}),
    rf"q_proj.weight: config.json asks for \(16, 16\), but {Q} is \(16, 8\)": lambda t: t.update(
        {Q: torch.ones(16, 8)}
    ),
    rf"{Q} holds torch.int64, not floating-point": lambda t: t.update({Q: torch.ones(16, 16).long()}),
}


@pytest.mark.parametrize("message", BAD_TENSORS)
def test_a_tensor_that_does_not_fit_is_named(tmp_path, message):
    saved(tmp_path)
    change_tensors(tmp_path, BAD_TENSORS[message])
    refused(tmp_path, message)


BAD_CONFIGS = {
    "model_type 'gemma' is not one of": {"model_type": "gemma"},
    "model_type None is not one of": {"model_type": None},
    r"model_type \['llama'\] is not one of": {"model_type": ["llama"]},
    "has no 'hidden_size'": {"hidden_size": ...},
    "cannot be divided|cannot share|asks for": {"num_attention_heads": 5, "head_dim": None},
    "cannot share 3 key-value heads": {"num_key_value_heads": 3},
    "describes no model that can be built": {"hidden_size": "sixteen"},
    "can be built: .*zero": {"num_attention_heads": 0, "head_dim": None},
    "describes no model|no place for": {"num_hidden_layers": 0},
    "describes no model that can be built: ": {"vocab_size": -1},
    "LLaMA with biases is not built here": {"attention_bias": True},
    "gelu instead of silu": {"hidden_act": "gelu"},
}


@pytest.mark.parametrize("message", BAD_CONFIGS)
def test_a_config_that_fits_no_model_is_named(tmp_path, message):
    saved(tmp_path)

    def change(config):
        for key, value in BAD_CONFIGS[message].items():
            config.pop(key, None) if value is ... else config.update({key: value})

    change_config(tmp_path, change)
    refused(tmp_path, message)


def test_a_gpt2_with_another_activation_is_named(tmp_path):
    llmkit.save_pretrained(gpt2(GPT2Config(20, 16, 8, 1, 2)), tmp_path)
    change_config(tmp_path, lambda config: config.update(activation_function="gelu_fast"))
    refused(tmp_path, r"the activation 'gelu_fast' is not one of gelu, gelu_new")


def test_a_cohere_that_is_no_palm_is_named(tmp_path):
    model = palm(PalmConfig(20, 16, 1, 2, head_dim=8, d_ff=24)).eval()
    llmkit.save_pretrained(model, tmp_path)
    change_config(tmp_path, lambda config: config.pop("tie_word_embeddings"))  # transformers 4 left it out where true
    with torch.no_grad():
        assert torch.allclose(llmkit.from_pretrained(tmp_path)[0](IDS), model(IDS), atol=1e-6)
    for name, value in {"hidden_act": "gelu", "logit_scale": 0.0625, "num_key_value_heads": 2}.items():
        kept = (tmp_path / "config.json").read_text()
        change_config(tmp_path, lambda config, change={name: value}: config.update(change))
        refused(tmp_path, f"{name} is {value!r}, PaLM has ")
        (tmp_path / "config.json").write_text(kept)


def test_files_that_are_missing_or_damaged_are_named(tmp_path):
    refused(tmp_path, r"config\.json is missing")
    (tmp_path / "config.json").write_text('{"model_type": "llama", ')
    refused(tmp_path, r"config\.json is not JSON")
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    refused(tmp_path, r"config\.json is not JSON")
    (tmp_path / "config.json").write_text("[1, 2]")
    refused(tmp_path, "should hold a JSON object, it holds a list")
    saved(tmp_path)
    (tmp_path / SINGLE).unlink()
    refused(tmp_path, f"has no {SINGLE} and no {INDEX}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    refused(tmp_path, "pytorch_model.bin is a pickle, which can run any code")


@pytest.mark.parametrize("length", [0, 4, 8, 60, -1, -500])
def test_a_truncated_file_is_named(tmp_path, length):
    saved(tmp_path)
    whole = (tmp_path / SINGLE).read_bytes()
    (tmp_path / SINGLE).write_bytes(whole[:length])
    refused(tmp_path, f"{SINGLE} cannot be read as safetensors")


def test_damaged_headers_never_give_another_error(tmp_path):
    """Bits flipped at random in the first 3 kB: an error of ours, or a model where only numbers changed."""
    saved(tmp_path)
    whole, rng, refusals = (tmp_path / SINGLE).read_bytes(), random.Random(0), 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 1, 8))):
            damaged[rng.randrange(3000)] ^= 1 << rng.randrange(8)
        (tmp_path / SINGLE).write_bytes(damaged)
        try:
            llmkit.from_pretrained(tmp_path)
        except WeightsError:
            refusals += 1
    assert refusals > 50


SHARDED = {"max_shard_bytes": 4000}


def test_shards_are_read_back_bit_by_bit(tmp_path):
    model = saved(tmp_path, **SHARDED)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2 and not (tmp_path / SINGLE).exists()
    again, _ = llmkit.from_pretrained(tmp_path)
    for (name, one), (_, other) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.allclose(theirs(IDS).logits, again(IDS), atol=1e-5)


def test_a_tied_matrix_is_stored_once(tmp_path):
    torch.manual_seed(0)
    model = gpt2(GPT2Config(20, 16, 8, 1, 2))
    llmkit.save_pretrained(model, tmp_path)
    tensors = load_file(tmp_path / SINGLE)
    assert not any(name.startswith("lm_head") for name in tensors)
    assert sum(tensor.numel() for tensor in tensors.values()) == model.n_params()
    again, _ = llmkit.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.transformer.embed.tokens.weight


def bad_index(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


OUTSIDE = ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", 7, "C:\\x"]


@pytest.mark.parametrize("target", OUTSIDE, ids=str)
def test_an_index_cannot_point_outside(tmp_path, target):
    saved(tmp_path, **SHARDED)
    bad_index(tmp_path, lambda index: index["weight_map"].update({Q: target}))
    refused(tmp_path, re.escape(f"{Q} points to {target!r}, which is not a file name"))


def test_an_index_that_does_not_fit_its_files_is_named(tmp_path):
    saved(tmp_path, **SHARDED)
    first = sorted(tmp_path.glob("model-*"))[0]
    bad_index(tmp_path, lambda index: index["weight_map"].update(ghost=first.name))
    refused(tmp_path, f"{first.name} has no ghost, which the index says is in it")
    saved(tmp_path, **SHARDED)
    name = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    gone = next(key for key, file in name.items() if file == first.name)
    bad_index(tmp_path, lambda index: index["weight_map"].pop(gone))
    refused(tmp_path, "which the index does not name|which is not in the folder")
    saved(tmp_path, **SHARDED)
    first.unlink()
    refused(tmp_path, f"names {first.name}, which is not in the folder")
    (tmp_path / INDEX).write_text("{}")
    refused(tmp_path, f"{INDEX} has no weight_map")


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
@pytest.mark.parametrize("options", [{}, SHARDED], ids=["one file", "shards"])
def test_others_may_read_what_is_saved(tmp_path, options):
    """safetensors' own save_file gives a file to its owner alone, whatever the umask."""
    mask = os.umask(0o022)
    try:
        saved(tmp_path, **options)
    finally:
        os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


@pytest.mark.parametrize("options", [{}, SHARDED], ids=["one file", "shards"])
def test_a_save_that_fails_leaves_the_old_one(tmp_path, monkeypatch, options):
    old = saved(tmp_path, **options)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls = 0

    def full(*arguments, **keywords):
        nonlocal calls
        calls += 1
        if calls == (1 if not options else 3):
            arguments[1].write_bytes(b"half a fi")
            raise OSError(28, "No space left on device")
        save_file(*arguments, **keywords)

    monkeypatch.setattr(safetensors, "save_file", full)
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.add_(1)
    with pytest.raises(OSError, match="No space left"):
        llmkit.save_pretrained(old, tmp_path, **options)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_saving_over_shards_leaves_none_that_would_be_read(tmp_path):
    saved(tmp_path, **SHARDED)
    model = saved(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", SINGLE]
    again = saved(tmp_path, max_shard_bytes=9000)
    names = {path.name for path in tmp_path.glob("*.safetensors")}
    assert names == set(json.loads((tmp_path / INDEX).read_text())["weight_map"].values())
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_part_that_the_files_do_not_know_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"blocks\.0\.attn\.q_norm\.weight has no place in this family's files"):
        llmkit.save_pretrained(llama(CONFIG, qk_norm=True), tmp_path)
    assert not list(tmp_path.iterdir())


def test_saving_removes_nobody_elses_weights(tmp_path):
    saved(tmp_path, **SHARDED)
    others = {"model_backup.safetensors", "model-lora.safetensors"}
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    saved(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", SINGLE, *others}


def test_dtype_is_kept_unless_another_is_asked_for(tmp_path):
    llmkit.save_pretrained(llama(CONFIG).bfloat16(), tmp_path)
    for asked, expected in ((None, torch.bfloat16), (torch.float32, torch.float32)):
        model, _ = llmkit.from_pretrained(tmp_path, dtype=asked)
        assert {parameter.dtype for parameter in model.parameters()} == {expected}
    with pytest.raises(TypeError, match="one of torch's, such as torch.bfloat16, not 'bfloat16'"):
        llmkit.from_pretrained(tmp_path, "bfloat16")


def test_nan_is_a_number_like_any_other(tmp_path):
    """A diverged model can be loaded and looked at."""
    saved(tmp_path)
    change_tensors(tmp_path, lambda tensors: tensors[Q].fill_(float("nan")))
    model, _ = llmkit.from_pretrained(tmp_path)
    assert model.transformer.blocks[1].attn.q_proj.weight.isnan().all()


def test_old_files_with_buffers_and_without_a_prefix(tmp_path):
    """OpenAI's GPT-2 on the Hub names its tensors without "transformer.", and has the masks in it."""
    torch.manual_seed(0)
    model = gpt2(GPT2Config(20, 16, 8, 1, 2)).eval()
    llmkit.save_pretrained(model, tmp_path)
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(tmp_path / SINGLE).items()}
    tensors |= {"h.0.attn.bias": torch.ones(1, 1, 16, 16), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file(tensors, tmp_path / SINGLE)
    with torch.no_grad():
        assert torch.allclose(llmkit.from_pretrained(tmp_path)[0](IDS), model(IDS), atol=1e-6)
    (tmp_path / "llama").mkdir()
    saved(tmp_path / "llama")
    change_tensors(
        tmp_path / "llama", lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)})
    )
    llmkit.from_pretrained(tmp_path / "llama")


def test_names_of_the_hub(tmp_path, monkeypatch):
    import huggingface_hub

    model, asked = saved(tmp_path), []

    def download(name, allow_patterns):
        asked.append((name, tuple(allow_patterns)))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    again, _ = llmkit.from_pretrained("someone/small-llama")
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert asked == [("someone/small-llama", pretrained.HUB_FILES)]
    for file, wanted in {"config.json": True, "tokenizer.model": True, SINGLE: True, INDEX: True,
                         "model-00001-of-00002.safetensors": True, "consolidated.safetensors": False,
                         "pytorch_model.bin": False}.items():  # fmt: skip
        assert any(fnmatch.fnmatch(file, pattern) for pattern in asked[0][1]) == wanted, file

    def offline(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    refused("someone/small-llama", "someone/small-llama could not be fetched from the Hub: no route")
    for name in ("gpt2", "../weights", "a/b/c", "/no/such/folder", "a\\b/c"):
        refused(name, "is neither a folder nor a Hub name")


MEASURE = """
import sys, torch, llmkit, llmkit.checkpoints.pretrained
def peak():  # not getrusage: its maximum is inherited from the process that started this one
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
llmkit.from_pretrained(sys.argv[2])  # a tiny one: the code that torch loads on first use is no weights
before = peak()
model, _ = llmkit.from_pretrained(sys.argv[1])
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
@pytest.mark.parametrize("options", [{}, {"max_shard_bytes": 60_000_000}], ids=["one file", "shards"])
def test_loading_needs_little_more_than_the_weights(tmp_path, options):
    """The peak of all memory that the process holds, pages of the mapped file among it, over what it held before."""
    config = LlamaConfig(8000, 768, 6, 12, n_kv_heads=4, d_ff=2048)
    llmkit.save_pretrained(llama(config), tmp_path, **options)
    saved(tmp_path / "tiny")
    size = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    command = [sys.executable, "-c", MEASURE, str(tmp_path), str(tmp_path / "tiny")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    needed = int(run.stdout) / size
    print(f"{size / 1e6:.0f} MB of weights, loading needed {needed:.2f} times as much")
    assert 0.8 < needed < 1.2


@torch.no_grad()
def test_a_tied_file_that_holds_the_matrix_twice(tmp_path):
    """Some files do; the copy is passed over where it is one, and named where it is not."""
    config = LlamaConfig(50, 16, 1, 2, d_ff=24, tie=True)
    model = llama(config)
    llmkit.save_pretrained(model, tmp_path)
    tensors = dict(SafetensorsFolder(tmp_path))
    for change, fits in ((0.0, True), (0.1, False)):
        twice = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + change}
        save_file(twice, tmp_path / "model.safetensors", metadata={"format": "pt"})
        if fits:
            assert llmkit.from_pretrained(tmp_path)[0].n_params() == model.n_params()
        else:
            with pytest.raises(WeightsError, match="no place for: lm_head.weight"):
                llmkit.from_pretrained(tmp_path)


@torch.no_grad()
def test_a_file_of_two_dtypes_becomes_one_model(tmp_path):
    model = llama(LlamaConfig(50, 16, 1, 2, d_ff=24))
    llmkit.save_pretrained(model.bfloat16(), tmp_path)
    tensors = {n: t.float() if "norm" in n else t for n, t in SafetensorsFolder(tmp_path).items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again, _ = llmkit.from_pretrained(tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert again(torch.tensor([[1, 2, 3]])).isfinite().all()


@torch.no_grad()
def test_loaded_matrices_lie_as_one_row_reads_them_fastest(tmp_path):
    """Wide ones column by column, narrow ones row by row; values, ties and what is saved again are the same."""
    model = gpt2(GPT2Config(20, 16, 8, 1, 2))
    llmkit.save_pretrained(model, tmp_path)
    again, _ = llmkit.from_pretrained(tmp_path)
    block = again.transformer.blocks[0]
    for wide in (block.attn.q_proj, block.mlp.up_proj, again.lm_head):
        assert wide.weight.t().is_contiguous() and not wide.weight.is_contiguous()
    assert block.mlp.down_proj.weight.is_contiguous() and again.transformer.embed.positions.weight.is_contiguous()
    assert again.lm_head.weight is again.transformer.embed.tokens.weight
    for (name, ours), (_, theirs) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    llmkit.save_pretrained(again, tmp_path / "second")
    first, second = load_file(tmp_path / "model.safetensors"), load_file(tmp_path / "second" / "model.safetensors")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    path = tmp_path / "model.safetensors"
    before = again(IDS)
    path.write_bytes(b"0" * path.stat().st_size)  # nothing of the model lies in the file any more
    assert torch.equal(again(IDS), before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_json_has_not_is_refused_and_the_old_file_stays(tmp_path, value):
    safetensors.write_json({"loss": None}, tmp_path / "x.json")
    with pytest.raises(ValueError, match=r"x\.json cannot be written: .*store None"):
        safetensors.write_json({"loss": [value]}, tmp_path / "x.json")
    assert safetensors.read_json(tmp_path / "x.json") == {"loss": None} and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("special", "ends"),
    [((), None), (("<|endoftext|>",), 256), (("<|endoftext|>", "<|im_start|>", "<|im_end|>"), [256, 258])],
)
def test_transformers_stops_where_a_text_ends_and_nowhere_else(tmp_path, special, ends):
    """Left unsaid, LLaMA's id 2 would end every text: here it is a word like any other."""
    transformers = pytest.importorskip("transformers")
    model = llama(dataclasses.replace(CONFIG, vocab_size=260))
    tokenizer = ByteLevelBPE.train(["the cat"], 256 + len(special), special_tokens=special) if special else None
    llmkit.save_pretrained(model, tmp_path, tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.config.eos_token_id == ends and theirs.generation_config.eos_token_id == ends
