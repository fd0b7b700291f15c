"""Mutated GGUF files and folders: each is refused by name, within a second and a bounded memory, or loads.

60 + 60 here; benchmarks/gguf_damage.py tries 500 + 500.
"""

import json
import random
import struct
import sys
import time
from collections import Counter

import pytest
import torch

import llmkit
from llmkit.checkpoints.gguf import load_gguf, save_gguf
from llmkit.checkpoints.gguf_header import read_header
from llmkit.checkpoints.gguf_write import Planned, write_gguf
from llmkit.checkpoints.tables import WeightsError
from llmkit.models.bert import BertConfig, bert
from llmkit.models.gpt2 import GPT2Config, gpt2
from llmkit.models.llama import LlamaConfig, llama
from llmkit.models.mixtral import MixtralConfig, mixtral
from llmkit.tokenizers import ByteLevelBPE, SentencePieceBPE
from llmkit.tokenizers.base import TokenizerFileError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured and bounded as Linux does it")

TEXT = "the cat sat on the mat, the dog sat on the cat " * 20
BYTES = ByteLevelBPE.train(TEXT, 280, special_tokens=["<|endoftext|>"])
PIECES = SentencePieceBPE.train(TEXT, 310)
SCALING = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 64}  # fmt: skip
ABSURD = (0, 1, 3, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
WRONG = (
    0,
    1,
    7,
    2**31,
    2**32 - 1,
    -1,
    0.0,
    float("nan"),
    float("inf"),
    "",
    "llama",
    "text",
    True,
    [],
    [1],
    ["a"],
    [0.5],
)
NAMED = (WeightsError, TokenizerFileError)
MEMORY = 2**30  # bytes of address space above what is in use


def sources(folder):
    """Files and folders to damage: two GGUF files, and a folder of each family that has an odd config."""
    torch.manual_seed(0)
    dense = LlamaConfig(BYTES.vocab_size, 32, 2, 4, n_kv_heads=2, d_ff=32, max_len=64, rope_scaling=SCALING)
    experts = MixtralConfig(PIECES.vocab_size, 32, 2, 4, n_kv_heads=2, d_ff=32, max_len=64, n_experts=2)
    save_gguf(llama(dense), folder / "dense.gguf", BYTES, "Q8_0")
    save_gguf(mixtral(experts), folder / "experts.gguf", PIECES, "Q4_0")
    models = {"llama": (llama(dense), BYTES), "mixtral": (mixtral(experts), PIECES)}
    models["gpt2"] = gpt2(GPT2Config(280, 32, 32, 2, 2)), BYTES
    models["bert"] = bert(BertConfig(280, 32, 2, 2, 32, 32)), None
    for name, (model, tokenizer) in models.items():
        llmkit.save_pretrained(model, folder / name, tokenizer, max_shard_bytes=60_000 if name == "llama" else 10**9)
    return [folder / "dense.gguf", folder / "experts.gguf"], [folder / name for name in models]


def damage_bytes(data, rng, end):
    """Cut it, write an absurd number over its first `end` bytes, change some of them, or swap its magic."""
    data = bytearray(data)
    way = rng.choice(["cut", "absurd", "absurd", "flip", "flip", "magic"])
    if way == "cut":
        return bytes(data[: rng.randrange(len(data))])
    if way == "magic":
        return rng.choice([b"GGML", b"PK\3\4", bytes(4), b"FUGG"]) + bytes(data[4:])
    if way == "absurd":
        at = rng.randrange(end - 8)
        data[at : at + 8] = struct.pack("<Q", rng.choice(ABSURD)) if rng.random() < 0.5 else bytes([255] * 8)
        return bytes(data)
    for _ in range(rng.choice([1, 1, 3, 20])):
        data[rng.randrange(end)] = rng.randrange(256)
    return bytes(data)


def damage_gguf(source, target, rng):
    """Bytes of the header, or a well-formed file whose metadata or tensors are wrong."""
    header = read_header(source)
    end = min(info.start for info in header.tensors.values())
    if rng.random() < 0.4:
        near = rng.choice([40, 2000, end])  # counts and sizes stand at the beginning, tokens fill the rest
        target.write_bytes(damage_bytes(source.read_bytes(), rng, min(near, end)))
        return
    fields, tensors = dict(header.fields), dict(header.tensors)
    plan = {name: [info.kind, list(info.shape)] for name, info in tensors.items()}
    if rng.random() < 0.6:
        key = rng.choice(list(fields))
        fields[key] = rng.choice(WRONG)
        if rng.random() < 0.3:
            del fields[key]
    else:
        name = rng.choice(list(plan))
        kind, shape = plan.pop(name)
        shape[rng.randrange(len(shape))] = rng.choice([1, 2, 32, 64, 4096])
        plan |= rng.choice([{}, {name: ["F32", shape]}, {name + ".more": ["F32", [4]], name: [kind, shape]}])
    try:
        write_gguf(target, fields, {name: planned(*info) for name, info in plan.items()})
    except (ValueError, KeyError):  # not every wrong value can be written: this one is cut instead
        target.write_bytes(source.read_bytes()[: rng.randrange(end)])


def planned(kind, shape):
    return Planned(kind if shape[-1] % 32 == 0 else "F32", tuple(shape), lambda: torch.zeros(shape))


def damage_folder(source, target, rng):
    """A copy of the folder in which one of its files is damaged."""
    target.mkdir()
    files = sorted(source.iterdir())
    chosen = rng.choice([file for file in files if file.suffix == ".json"] * 2 + files)
    for file in files:
        data = file.read_bytes()
        if file == chosen and file.suffix == ".safetensors":
            data = damage_bytes(data, rng, rng.choice([8, min(len(data), 2000)]) + 1)
        elif file == chosen and rng.random() < 0.3:
            data = rng.choice(
                [data[: rng.randrange(len(data))], b"[" * 100_000, b"\xff" + data, b'{"a": ' + b"9" * 9999]
            )
        elif file == chosen:
            data = json.dumps(damage_json(json.loads(data), rng)).encode()
        (target / file.name).write_bytes(data)


def damage_json(value, rng):
    """One entry, at the top or one level down, is left out or replaced."""
    if not isinstance(value, dict) or not value:
        return rng.choice(WRONG)
    key = rng.choice(list(value))
    if isinstance(value[key], dict) and rng.random() < 0.7:
        return value | {key: damage_json(value[key], rng)}
    if rng.random() < 0.2:
        return {name: entry for name, entry in value.items() if name != key}
    return value | {key: rng.choice([*WRONG, None, {}, 10**12])}


def try_all(load, damage, sources, folder, n, seed):
    """Load n mutants. Gives the errors' names with counts; raises for an error without a name, and for a slow one."""
    rng, found = random.Random(seed), Counter()
    import resource  # Unix alone has it

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    for i in range(n):
        target = folder / f"mutant{i}"
        damage(rng.choice(sources), target, rng)
        with open("/proc/self/statm", encoding="ascii") as pages:
            used = int(pages.read().split()[0]) * resource.getpagesize()
        began = time.process_time()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
        try:
            load(target)
            found["loaded"] += 1
        except NAMED as error:
            found[type(error).__name__] += 1
            assert folder.name in str(error) or str(target) in str(error) or len(str(error)) > 20
        except Exception as error:
            raise AssertionError(f"mutant {i} of seed {seed} ({target}): {type(error).__name__}: {error}") from error
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        seconds = time.process_time() - began
        assert seconds < 1, f"mutant {i} of seed {seed} took {seconds:.1f} s"
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return sources(tmp_path_factory.mktemp("whole"))


def test_the_undamaged_ones_load(whole):
    files, folders = whole
    for file in files:
        assert load_gguf(file)[1] is not None
    for folder in folders:
        llmkit.from_pretrained(folder)


def test_damaged_gguf_files_are_refused_by_name(whole, tmp_path):
    found = try_all(load_gguf, damage_gguf, whole[0], tmp_path, 60, seed=1)
    print(dict(found))
    assert found["loaded"] < 30 and found["WeightsError"] > 20, "most mutants should be damaged"


def test_damaged_folders_are_refused_by_name(whole, tmp_path):
    found = try_all(llmkit.from_pretrained, damage_folder, whole[1], tmp_path, 60, seed=2)
    print(dict(found))
    assert found["loaded"] < 40 and found["WeightsError"] > 15, "most mutants should be damaged"
