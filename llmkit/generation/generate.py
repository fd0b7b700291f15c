"""The generation loop: one pass over the prompt, then one token at a time, remembering keys and values."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from llmkit.data.batches import pad
from llmkit.generation.logits import GREEDY, Sampler
from llmkit.layers.cache import Cache
from llmkit.layers.dropout import drops_out


@torch.inference_mode()
def stream(
    model: nn.Module,
    ids: Tensor,
    max_new_tokens: int,
    sampler: Sampler = GREEDY,
    attention_mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    cache: Cache | None = None,
    use_cache: bool = True,
) -> Iterator[Tensor]:
    """Yield the next token of every text, (B,), again and again.

    ids             (B, T) prompts, padded on the left where they differ in length
    attention_mask  (B, T) false for padding
    cache           an empty one of your own (ring, growing); by default the model makes one
    use_cache       False runs the whole text again for every token: slow, and the same

    Raises ValueError for an empty prompt, padding on the right, a text beyond the model's learned positions, or a model
    that drops out at random.
    """
    check_padding(attention_mask)
    check_dropout(model)
    if max_new_tokens < 1:
        return
    if use_cache and cache is None:
        cache = model.new_cache(ids.size(1) + max_new_tokens)
    new = ids
    for _ in range(max_new_tokens):
        logits = model(new if use_cache else ids, attention_mask, cache if use_cache else None, last_only=True)[:, -1]
        token = sampler(logits, ids, attention_mask, generator)  # (B,)
        yield token
        new = token[:, None]
        ids = torch.cat([ids, new], dim=1)
        if attention_mask is not None:
            attention_mask = torch.cat([attention_mask, torch.ones_like(attention_mask[:, :1])], dim=1)


def check_padding(attention_mask: Tensor | None) -> None:
    """Raises ValueError for prompts (B, T) with padding on the right, where the next token would have to stand."""
    if attention_mask is not None and not attention_mask[:, -1].all():
        raise ValueError("prompts of a batch must be padded on the left: the last column has padding in it")


def check_dropout(*models: nn.Module) -> None:
    """Raises ValueError for a model in training mode with dropout, whose text would be another every time."""
    if any(map(drops_out, models)):
        raise ValueError("the model drops out at random, as in training: call model.eval() before it writes")


def generate(
    model: nn.Module,
    ids: Tensor,
    max_new_tokens: int,
    sampler: Sampler = GREEDY,
    stop_tokens: Iterable[int] = (),
    pad_id: int = 0,
    **options,
) -> Tensor:
    """Prompts (B, T) and what follows, (B, T + n): until every text has had a stop token, or max_new_tokens.

    The stop token itself is kept; what comes after it in a text that ended early is pad_id. `options` are stream's.
    """
    stops = torch.tensor(sorted(stop_tokens), device=ids.device, dtype=torch.long)
    done = torch.zeros(ids.size(0), dtype=torch.bool, device=ids.device)
    columns = [ids]
    for token in stream(model, ids, max_new_tokens, sampler, **options):
        token = token.masked_fill(done, pad_id)
        columns.append(token[:, None])
        done |= torch.isin(token, stops)
        if done.all():
            break
    return torch.cat(columns, dim=1)


def generate_batch(
    model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int, pad_id: int = 0, **options
) -> list[list[int]]:
    """Continue prompts of any lengths together; gives only the new tokens, each text up to its stop token."""
    ids, attention_mask = pad(prompts, pad_id, side="left")
    device = next(model.parameters()).device
    stops = set(options.get("stop_tokens", ()))
    mask = None if attention_mask.all() else attention_mask.to(device)
    out = generate(model, ids.to(device), max_new_tokens, attention_mask=mask, pad_id=pad_id, **options)
    return [_until(row, stops) for row in out[:, ids.size(1) :].tolist()]


def _until(tokens: list[int], stops: set[int]) -> list[int]:
    ends = [i for i, token in enumerate(tokens) if token in stops]
    return tokens[: ends[0] + 1] if ends else tokens
