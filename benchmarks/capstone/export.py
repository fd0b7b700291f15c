"""Lesson 20: the model as GGUF files; size, what is lost, speed, and whether llama.cpp writes the same."""

import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from llmkit.alignment.toyland_truth import end_id
from llmkit.checkpoints.gguf import load_gguf, save_gguf
from llmkit.checkpoints.special import Settings
from llmkit.finetuning.sft import end_of_turn
from llmkit.finetuning.toyland_chat import END_OF_TURN
from llmkit.generation.generate import generate, generate_batch
from llmkit.layers.int8 import with_int8_weights
from llmkit.tokenizers.chat import encode_chat

from . import common, reinforce
from .plan import Plan

NAME = "6_export"
TYPES = ("F32", "F16", "Q8_0")
LONGEST = 40  # tokens of a reply that is compared
LLAMA_THREADS = 2  # what llama.cpp is started with, whatever torch has


def run(plan: Plan, out: Path) -> dict[str, Any]:
    """Greedy replies to instructions of all families: those of our float32 model are what others are compared with."""
    folder = out / NAME
    folder.mkdir(parents=True, exist_ok=True)
    model, tokenizer = common.load(out / reinforce.NAME)
    ends = {end_of_turn(tokenizer), end_id(tokenizer)}  # llama.cpp stops at either
    items = common.test_items(plan, "instances")[: plan.greedy_prompts]
    prompts = [encode_chat(item.messages, tokenizer, prompt=True)[0] for item in items]
    wanted = [_reply(model, ids, ends) for ids in prompts]
    settings = Settings(special={"eos": END_OF_TURN}, chat_template="chatml")
    found: dict[str, Any] = {"files": {}, "prompts": len(prompts), "threads": torch.get_num_threads(), "speed": {}}
    for kind in TYPES:
        path = folder / f"capstone-{kind.lower()}.gguf"
        save_gguf(model, path, tokenizer, kind, settings)
        back = load_gguf(path)[0]
        found["files"][kind] = {"bytes": path.stat().st_size, **_held_out(back, tokenizer, plan),
                                "llmkit": _agreement(wanted, [_reply(back, ids, ends) for ids in prompts])}  # fmt: skip
        found["files"][kind]["llama.cpp"] = _llama_cpp(path, prompts, wanted, ends, plan, found["speed"], kind)
    found["speed"]["llmkit, float32"] = _speed(model, prompts[0], plan.new_tokens)
    narrow = with_int8_weights(model)
    found["speed"]["llmkit, int8"] = _speed(narrow, prompts[0], plan.new_tokens)
    found["int8"] = {**_held_out(narrow, tokenizer, plan),
                     "llmkit": _agreement(wanted, [_reply(narrow, ids, ends) for ids in prompts])}  # fmt: skip
    return found


def _held_out(model: Any, tokenizer: Any, plan: Plan) -> dict[str, float]:
    return {"story_bits": common.domain(tokenizer, plan).bits(model)}


def _reply(model: Any, ids: list[int], ends: set[int]) -> list[int]:
    return _until(generate_batch(model, [ids], LONGEST, stop_tokens=ends)[0], ends)


def _until(ids: list[int], ends: set[int]) -> list[int]:
    """Without the end, which llama.cpp does not give."""
    return next((ids[:i] for i, token in enumerate(ids) if token in ends), ids)


def _agreement(wanted: list[list[int]], found: list[list[int]]) -> dict[str, float]:
    """Share of replies that are the same to the last token, and of tokens before the first that differs."""
    pairs = list(zip(wanted, found, strict=True))
    return {"replies": sum(a == b for a, b in pairs) / len(pairs),
            "tokens": sum(_common(a, b) for a, b in pairs) / max(1, sum(map(len, wanted)))}  # fmt: skip


def _common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _speed(model: Any, ids: list[int], n: int, repeats: int = 3) -> float:
    """New tokens a second, one text at a time, the best of three; the prompt's time is in it."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        generate(model, torch.tensor([ids]), n)
        best = min(best, time.perf_counter() - start)
    return n / best


def _llama_cpp(
    path: Path, prompts: list, wanted: list, ends: set[int], plan: Plan, speed: dict[str, float], kind: str
) -> dict[str, float] | None:
    """The same file in a real llama.cpp, where the package xllamacpp is installed."""
    if importlib.util.find_spec("xllamacpp") is None:
        return None
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    from llama_cpp import LlamaCpp

    with _quiet(path.with_suffix(".log")):
        peer = LlamaCpp(path, n_threads=LLAMA_THREADS)
        found = [_until(peer.greedy(ids, LONGEST), ends) for ids in prompts]
        question = {"prompt": prompts[0], "n_predict": plan.new_tokens, "temperature": 0, "ignore_eos": True}
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            peer._post("/completion", {**question, "cache_prompt": False})
            seconds.append(time.perf_counter() - start)
        del peer
    speed[f"llama.cpp, {kind}"] = plan.new_tokens / min(seconds)
    return _agreement(wanted, found)


@contextmanager
def _quiet(log: Path) -> Iterator[None]:
    """llama.cpp writes its log past Python's stderr: into a file with it."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
