"""KV caches: keep the keys and values of earlier tokens, so that a new token costs one step and not a whole pass.

A cache is made for one text (or batch) and handed to the model: `model(ids, cache=cache)`. It is never a part of
the model. The three kinds have the same methods; they differ in what they keep and how.

    GrowingCache   everything, by torch.cat: the eight lines to read first; copies the whole cache every step
    StaticCache    everything, in a buffer of known size: no copies
    RingCache      the last `window` tokens only, in a buffer that is written round and round
"""

from collections.abc import Callable

import torch
from torch import Tensor


class LayerCache:
    """What one layer remembers; this class grows by concatenation.

    length   tokens seen so far, which is also the position of the next one
    memory   keys and values of an encoder's memory, for layers with cross-attention; never grows
    """

    def __init__(self):
        self.length = 0
        self.memory: tuple[Tensor, Tensor] | None = None  # (B, KV, S of the memory, D) each
        self.k: Tensor | None = None  # (B, KV, S, D)
        self.v: Tensor | None = None

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add the T new keys and values (B, KV, T, D); gives all that the new queries may look at."""
        if self.k is not None:
            k, v = torch.cat([self.k, k], dim=-2), torch.cat([self.v, v], dim=-2)
        self.k, self.v = k, v
        self.length = k.size(-2)
        return k, v

    def columns(self, n_new: int, device: torch.device | None = None) -> Tensor:
        """(S,): the position in the text of each key that `update` will give for n_new tokens."""
        return torch.arange(self.length + n_new, device=device)

    def reorder(self, rows: Tensor) -> None:
        """Let text i of the batch go on from text rows[i]: beam search keeps the best and drops the others.

        A row may go on only from one that reads the same text: the memory stays where it is.
        """
        if self.k is not None:
            self.k, self.v = self.k[rows], self.v[rows]

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens: speculative decoding takes back what was refused."""
        if length > self.length:
            raise ValueError(f"cannot cut a cache of {self.length} tokens to {length}")
        if self.k is not None:
            self.k, self.v = self.k[..., :length, :], self.v[..., :length, :]
        self.length = length


class StaticLayerCache(LayerCache):
    """Everything, written into a buffer of `max_len` tokens that is allocated once."""

    def __init__(self, max_len: int):
        super().__init__()
        self.max_len = max_len

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        end = self.length + k.size(-2)
        if end > self.max_len:
            raise ValueError(f"the cache holds {self.max_len} tokens and was given token number {end}")
        if self.k is None:
            shape = (*k.shape[:-2], self.max_len, k.size(-1))
            self.k, self.v = k.new_empty(shape), v.new_empty(shape)
        self.k[..., self.length : end, :] = k
        self.v[..., self.length : end, :] = v
        self.length = end
        return self.k[..., :end, :], self.v[..., :end, :]

    def truncate(self, length: int) -> None:
        if length > self.length:
            raise ValueError(f"cannot cut a cache of {self.length} tokens to {length}")
        self.length = length


class RingLayerCache(LayerCache):
    """The last `window` tokens: token number i is written into slot i % window, over the one it replaces.

    A single new token sees the slots as they lie (rotation is already in the keys, so order does not matter).
    Several at once see the remembered tokens in order, then themselves; the mask narrows each to its window.
    """

    def __init__(self, window: int):
        super().__init__()
        self.window = window

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        n_new = k.size(-2)
        if self.k is None:
            shape = (*k.shape[:-2], self.window, k.size(-1))
            self.k, self.v = k.new_empty(shape), v.new_empty(shape)
        if n_new > 1:  # read what will be written over
            past = self.columns(n_new, k.device)[:-n_new] % self.window
            seen_k, seen_v = torch.cat([self.k[..., past, :], k], dim=-2), torch.cat([self.v[..., past, :], v], dim=-2)
        kept = min(n_new, self.window)
        slots = torch.arange(self.length + n_new - kept, self.length + n_new, device=k.device) % self.window
        self.k[..., slots, :] = k[..., -kept:, :]
        self.v[..., slots, :] = v[..., -kept:, :]
        self.length += n_new
        if n_new > 1:
            return seen_k, seen_v
        filled = min(self.length, self.window)
        return self.k[..., :filled, :], self.v[..., :filled, :]

    def columns(self, n_new: int, device: torch.device | None = None) -> Tensor:
        end = self.length + n_new
        if n_new > 1:  # in order: at most window - 1 old ones, then the new ones
            return torch.arange(max(0, self.length - self.window + 1), end, device=device)
        slots = torch.arange(min(end, self.window), device=device)
        return slots + (end - 1 - slots) // self.window * self.window

    def truncate(self, length: int) -> None:
        raise ValueError("a ring cache has written over what it would have to go back to; use a StaticCache")


class Cache(list):
    """One LayerCache for each block of a model."""

    def __init__(self, n_layers: int, make: Callable[[], LayerCache] = LayerCache):
        super().__init__(make() for _ in range(n_layers))

    @property
    def length(self) -> int:
        return self[0].length

    def columns(self, n_new: int, device: torch.device | None = None) -> Tensor:
        return self[0].columns(n_new, device)

    def reorder(self, rows: Tensor) -> None:
        for layer in self:
            layer.reorder(rows)

    def truncate(self, length: int) -> None:
        for layer in self:
            layer.truncate(length)
            if length == 0:  # what comes next may be the answer to another text
                layer.memory = None


def growing_cache(n_layers: int) -> Cache:
    """A cache that grows by concatenation."""
    return Cache(n_layers, LayerCache)


def static_cache(n_layers: int, max_len: int) -> Cache:
    """A cache with room for max_len tokens, allocated at the first use."""
    return Cache(n_layers, lambda: StaticLayerCache(max_len))


def ring_cache(n_layers: int, window: int) -> Cache:
    """A cache that remembers `window` tokens, for models with a sliding window of that size."""
    return Cache(n_layers, lambda: RingLayerCache(window))
