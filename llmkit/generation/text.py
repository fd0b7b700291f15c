"""From text to text: prompts and answers as strings, shown while they grow."""

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from llmkit.generation.generate import stream
from llmkit.generation.logits import GREEDY, Sampler
from llmkit.tokenizers.base import Tokenizer


def stream_text(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompt: str | list[int],
    max_new_tokens: int = 100,
    sampler: Sampler = GREEDY,
    stop: Iterable[str] = (),
    stop_tokens: Iterable[int] = (),
    **options,
) -> Iterator[str]:
    """Yield the answer piece by piece, as soon as each piece is certain.

    prompt       text, or ids (what `encode_chat` gives)
    stop         strings that end the answer; they and what follows are not given, also when a token holds
                 more than the stop string or the string is spread over several tokens
    stop_tokens  ids that end the answer; not given

    A piece is held back while it ends in half a character (byte-level tokens) or in what may become a stop string.
    """
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
    if not ids:
        raise ValueError("the prompt has no tokens: give at least one, for example the start-of-text token")
    stop, stop_tokens = [s for s in stop if s], set(stop_tokens)
    device = next(model.parameters()).device
    new: list[int] = []
    given = 0
    text = ""
    for token in stream(model, torch.tensor([ids], device=device), max_new_tokens, sampler, **options):
        if token.item() in stop_tokens:
            break
        new.append(token.item())
        text = tokenizer.decode(new)
        ends = [place for place in (text.find(s, given) for s in stop) if place >= 0]
        if ends:
            text = text[: min(ends)]
            break
        whole = text.rstrip("\ufffd")  # bytes at the end of a character whose other bytes are still to come
        certain = len(whole) - _held_back(whole, stop)
        if certain > given:
            yield text[given:certain]
            given = certain
    if len(text) > given:
        yield text[given:]


def generate_text(model: nn.Module, tokenizer: Tokenizer, prompt: str | list[int], *args, **options) -> str:
    """The whole answer of stream_text."""
    return "".join(stream_text(model, tokenizer, prompt, *args, **options))


def _held_back(text: str, stop: list[str]) -> int:
    """Length of the longest end of the text that begins a stop string.

    >>> _held_back("yes. Us", ["User:"])
    2
    """
    return max((n for s in stop for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
