"""llmkit: the package that the LLM foundations course builds, one lesson at a time."""

from typing import Any

__version__ = "0.1.0"

_FUNCTIONS = {
    "from_pretrained": "llmkit.checkpoints.pretrained",
    "save_pretrained": "llmkit.checkpoints.pretrained",
    "load_gguf": "llmkit.checkpoints.gguf",
    "save_gguf": "llmkit.checkpoints.gguf",
}


def __getattr__(name: str) -> Any:
    """from_pretrained, save_pretrained, load_gguf and save_gguf, imported when asked for: counting needs no models."""
    if name not in _FUNCTIONS:
        raise AttributeError(f"module 'llmkit' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_FUNCTIONS[name]), name)
