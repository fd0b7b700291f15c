"""How much does a generated text share with a reference? What BLEU, chrF and ROUGE have in common; exact match."""

from collections import Counter
from collections.abc import Sequence
from typing import Any


def ngrams(items: Sequence, n: int) -> Counter:
    """How often each run of n neighbours occurs: in a list of words as tuples, in a string as strings.

    >>> ngrams("a b a b".split(), 2)
    Counter({('a', 'b'): 2, ('b', 'a'): 1})
    >>> ngrams("aaa", 2)
    Counter({'aa': 2})
    """
    items = items if isinstance(items, str) else tuple(items)
    return Counter(items[i : i + n] for i in range(len(items) - n + 1))


def exact_match(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The share of hypotheses that are, character for character, one of their references; 0 to 1.

    hypotheses  generated texts
    references  for each of them its list of right texts

    Nothing is normalised: take off spaces, case or a final period before, where they shall not count. Raises
    ValueError as `check_corpus` does.

    >>> exact_match(["a cat", "dog"], [["the cat", "a cat"], ["Dog"]])
    0.5
    """
    check_corpus(hypotheses, references, str)
    return sum(h in refs for h, refs in zip(hypotheses, references, strict=True)) / len(hypotheses)


def check_corpus(hypotheses: Sequence[Any], references: Sequence[Sequence[Any]], kind: type) -> None:
    """Raise ValueError unless there is a text, and a list of at least one reference for each text.

    kind   str: texts are strings. list: they are lists of tokens (a string would be read as letters)

    >>> check_corpus(["a"], ["a"], str)
    Traceback (most recent call last):
        ...
    ValueError: references[0] must be a list of texts, one text a reference, got 'a'
    """
    if isinstance(hypotheses, str) or not len(hypotheses):
        raise ValueError("hypotheses must be a list of at least one text")
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses, but references for {len(references)}")
    for i, (hypothesis, texts) in enumerate(zip(hypotheses, references, strict=True)):
        check_text(hypothesis, texts, kind, f"hypotheses[{i}]", f"references[{i}]")


def check_text(hypothesis: Any, references: Sequence[Any], kind: type, *names: str) -> None:
    """The same for one text with its references; names of the two are for the message."""
    name, references_name = names or ("hypothesis", "references")
    one = "a string" if kind is str else "a list of tokens"
    if isinstance(hypothesis, str) != (kind is str):
        raise ValueError(f"{name} must be {one}, got {hypothesis!r:.60}")
    if isinstance(references, str) or not len(references):
        raise ValueError(f"{references_name} must be a list of texts, one text a reference, got {references!r:.60}")
    for text in references:
        if isinstance(text, str) != (kind is str):
            raise ValueError(f"each of {references_name} must be {one}, got {text!r:.60}")
