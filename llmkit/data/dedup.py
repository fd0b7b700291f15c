"""Documents that stand in a corpus more than once: exact copies by a hash, near copies by MinHash."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from llmkit.data.cleaning import clean
from llmkit.data.hashing import hash64, mix, streams


def exact_duplicates(documents: Iterable[str]) -> list[list[int]]:
    """Numbers of documents that are the same text after `clean`: each group in order, groups by their first.

    >>> exact_duplicates(["a cat", "a dog", "a cat  ", "a dog!"])
    [[0, 2]]
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for number, text in enumerate(documents):
        groups[text_key(clean(text))].append(number)
    return [group for group in groups.values() if len(group) > 1]


def text_key(text: str) -> bytes:
    """128 bits of BLAKE2b: among 10^12 different texts, two have the same with probability 10^-15."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


def shingles(text: str, n: int = 5) -> set[str]:
    """All runs of n words, in lower case and without punctuation; of a shorter text, all of it as one.

    Near duplicates share most of them. Texts without any word have none. Source: Broder 1997, "On the resemblance and
    containment of documents", section 2; Lee et al. 2022 take n = 5.

    >>> sorted(shingles("The cat sat. The cat sat on it.", n=3))
    ['cat sat on', 'cat sat the', 'sat on it', 'sat the cat', 'the cat sat']
    """
    if n < 1:
        raise ValueError(f"a shingle has at least 1 word, got n = {n}")
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))} if words else set()


def jaccard(a: set, b: set) -> float:
    """How much two sets have in common: |a ∩ b| / |a ∪ b|, from 0 to 1. Two empty sets are alike: 1.

    >>> jaccard({1, 2, 3}, {2, 3, 4})
    0.5
    """
    return len(a & b) / len(a | b) if a or b else 1.0


def minhash(items: Iterable[str], n_hashes: int = 120, seed: int = 0) -> np.ndarray:
    """A signature: for each of n_hashes hash functions, the smallest value that any of the items has; uint64 (H,).

    Function h gives an item the value mix(hash64(item) ^ key), key the h-th of _keys(n_hashes, seed). So it puts all
    strings of the world in an order of its own. Of the union of two sets, every item is equally likely to be first; it
    lies in both with probability |a ∩ b| / |a ∪ b|, and just then the two signatures agree there. The same in every
    process. Of no item: all 2^64 - 1. Raises ValueError for n_hashes below 1. Source: Broder 1997, section 3.

    >>> a, b = minhash({"x", "y", "z"}), minhash({"x", "y", "w"})
    >>> bool((a == minhash(["z", "y", "x", "x"])).all()), 0.3 < estimated_jaccard(a, b) < 0.7
    (True, True)
    """
    keys, largest = _keys(n_hashes, seed), np.iinfo(np.uint64).max
    hashes = np.fromiter(map(hash64, set(items)), dtype=np.uint64)  # (N,)
    parts = np.array_split(hashes, len(hashes) // 4096 + 1)  # bounds the memory to 4096 x H numbers
    smallest = [mix(part[:, None] ^ keys).min(axis=0, initial=largest) for part in parts]  # each (H,)
    return np.min(smallest, axis=0)


def _keys(n_hashes: int, seed: int) -> np.ndarray:
    if n_hashes < 1:
        raise ValueError(f"a signature has at least 1 hash, got n_hashes = {n_hashes}")
    return streams(seed, n_hashes)


def estimated_jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """The share of places in which two signatures (H,) agree: unbiased, with variance J (1 - J) / H.

    Raises ValueError for signatures of different length.
    """
    if a.shape != b.shape:
        raise ValueError(f"signatures of {len(a)} and {len(b)} hashes cannot be compared")
    return float((a == b).mean())


def candidate_probability(similarity: float | np.ndarray, bands: int, rows: int) -> float | np.ndarray:
    """How likely a pair of that Jaccard similarity is to agree in a whole band: 1 - (1 - s^rows)^bands.

    An S-curve whose steep part lies near (1 / bands)^(1 / rows). Source: Leskovec, Rajaraman and Ullman, "Mining of
    massive datasets", section 3.4.2.

    >>> [round(candidate_probability(s, bands=20, rows=5), 3) for s in (0.2, 0.4, 0.6, 0.8)]
    [0.006, 0.186, 0.802, 1.0]
    """
    return 1 - (1 - similarity**rows) ** bands


def candidate_pairs(signatures: np.ndarray, bands: int) -> Iterator[tuple[int, int]]:
    """Pairs i < j of signatures (N, H) that are equal in all H / bands places of a band; once for each such band.

    Raises ValueError when H is no multiple of bands.
    """
    n_hashes = signatures.shape[1]
    if bands < 1 or n_hashes % bands:
        raise ValueError(f"{n_hashes} hashes cannot be cut into {bands} bands of equal size")
    for band in np.split(np.ascontiguousarray(signatures), bands, axis=1):  # (N, rows)
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for number, values in enumerate(band):
            buckets[values.tobytes()].append(number)
        for bucket in buckets.values():
            yield from combinations(bucket, 2)


def near_duplicates(
    documents: Sequence[str], threshold: float = 0.8, n: int = 5, n_hashes: int = 120, bands: int = 24, seed: int = 0
) -> list[list[int]]:
    """Clusters of documents that are nearly the same: their numbers in order, clusters by their first.

    threshold   Jaccard similarity of the `shingles` of n words from which two documents count as copies; a cluster is
                what a chain of such pairs joins, so that its ends may be less alike
    bands       of n_hashes / bands hashes: only pairs that agree in a whole one are looked at, and those by their true
                similarity. So no pair is joined wrongly, and one of similarity s is missed with probability
                1 - candidate_probability(s, bands, n_hashes / bands): at the defaults 7e-5 at 0.8, 1e-9 at 0.9

    Documents of equal shingles are taken together first, so that a thousand exact copies are not compared in pairs. In
    memory lie the texts and a signature each, not the shingles. Raises ValueError for a threshold outside 0 … 1.
    Source: Lee et al. 2022, "Deduplicating training data makes language models better", section 4.2 (which verifies by
    edit similarity).
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    first_with: dict[bytes, int] = {}
    parent, signatures = [], {}
    for number, text in enumerate(documents):
        items = shingles(text, n)
        parent.append(first_with.setdefault(text_key("\n".join(sorted(items))), number))
        if parent[number] == number:
            signatures[number] = minhash(items, n_hashes, seed)
    distinct, unlike = list(signatures), set()
    for pair in candidate_pairs(np.array([signatures[i] for i in distinct]).reshape(-1, n_hashes), bands):
        i, j = (_root(parent, distinct[k]) for k in pair)
        if i == j or pair in unlike:
            continue
        if jaccard(*(shingles(documents[distinct[k]], n) for k in pair)) >= threshold:
            parent[max(i, j)] = min(i, j)
        else:
            unlike.add(pair)
    clusters: dict[int, list[int]] = defaultdict(list)
    for number in range(len(documents)):
        clusters[_root(parent, number)].append(number)
    return [cluster for cluster in clusters.values() if len(cluster) > 1]


def _root(parent: list[int], i: int) -> int:
    """The first document of i's cluster; the way there is shortened (union-find)."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@dataclass(frozen=True)
class Deduplicated:
    """What `deduplicate` kept, and why the rest went.

    kept          numbers of documents, in order
    copy_of       number of a removed document -> the kept one that it copies
    exact, near   how many were removed as the same text, and as nearly the same
    """

    kept: list[int]
    copy_of: dict[int, int]
    exact: int
    near: int


def deduplicate(documents: Sequence[str], threshold: float = 0.8, **options: int) -> Deduplicated:
    """Keep the first document of each group of copies; options go to `near_duplicates`.

    >>> report = deduplicate(["The cat sat on the mat.", "the cat sat on the mat!", "A dog ran.", "A dog ran. "])
    >>> report.kept, report.copy_of, report.exact, report.near
    ([0, 2], {1: 0, 3: 2}, 1, 1)
    """
    copy_of = {copy: group[0] for group in exact_duplicates(documents) for copy in group[1:]}
    exact, rest = len(copy_of), [i for i in range(len(documents)) if i not in copy_of]
    for cluster in near_duplicates([documents[i] for i in rest], threshold, **options):
        copy_of |= {rest[copy]: rest[cluster[0]] for copy in cluster[1:]}
    copy_of = {copy: copy_of.get(original, original) for copy, original in sorted(copy_of.items())}
    return Deduplicated([i for i in range(len(documents)) if i not in copy_of], copy_of, exact, len(copy_of) - exact)
