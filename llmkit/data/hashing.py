"""Hashes that are the same in every process, on every machine and in every version (Python's hash is none of these)."""

import hashlib

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio: adding it again and again visits everything


def mix(x: np.ndarray) -> np.ndarray:
    """Scramble 64-bit numbers, uint64 (...) -> uint64 (...): a bijection in which every bit hangs on every other.

    The finaliser of SplitMix64: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", with the
    constants of Java's SplittableRandom and of Vigna's splitmix64.c.

    >>> [f"{i:016x}" for i in mix(np.array([1, 2], dtype=np.uint64)).tolist()]
    ['5692161d100b05e5', 'dbd238973a2b148a']
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def streams(seed: int, n: int, start: int = 0) -> np.ndarray:
    """Random numbers start … start + n - 1 of a seeded endless sequence: uint64 (n,). SplitMix64, entered anywhere.

    >>> np.array_equal(streams(7, 5)[3:], streams(7, 2, start=3))
    True
    """
    at = np.arange(start + 1, start + n + 1, dtype=np.uint64)
    return mix(np.uint64(seed % 2**64) + at * GOLDEN)


def derive(*numbers: int) -> int:
    """One 64-bit seed from several numbers; their order counts, so that (0, 1) and (1, 0) are strangers.

    >>> derive(0, 1) == derive(1, 0)
    False
    """
    key = 0
    for number in numbers:
        key = int(mix(np.array([(key + number) % 2**64], dtype=np.uint64) + GOLDEN)[0])
    return key


def hash64(text: str) -> int:
    """64 bits of BLAKE2b over the UTF-8 of a text.

    >>> f"{hash64('The cat sat on the mat.'):016x}"
    '5faf202d3c0e9c32'
    """
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "big")
