"""Two segments in one input: how BERT reads pairs of texts, and the pairs of its second task."""

import random
from collections.abc import Sequence


def join_pair(first: Sequence[int], second: Sequence[int], cls_id: int, sep_id: int) -> tuple[list[int], list[int]]:
    """[CLS] first [SEP] second [SEP], and the segment number of every token: 0 up to the first [SEP], then 1.

    An empty second text leaves [CLS] first [SEP]. Source: Devlin et al. 2018, figure 2.

    >>> join_pair([7, 8], [9], cls_id=1, sep_id=2)
    ([1, 7, 8, 2, 9, 2], [0, 0, 0, 0, 1, 1])
    """
    head, tail = [cls_id, *first, sep_id], [*second, sep_id] if second else []
    return head + tail, [0] * len(head) + [1] * len(tail)


def next_sentence_pairs(
    documents: Sequence[Sequence[str]], rng: random.Random, swap: bool = False
) -> list[tuple[str, str, bool]]:
    """(first, second, do they follow each other) for each two neighbours in the documents; half are true.

    documents   each a list of sentences
    swap        False: in the others, second is any sentence of another document (next-sentence prediction); True: the
                two are exchanged (sentence order)

    Raises ValueError for a single document or an empty one, unless swap. Sources: Devlin et al. 2018, section 3.1,
    task 2; Lan et al. 2019 (ALBERT), section 3.1.
    """
    if not swap and (len(documents) < 2 or min(map(len, documents)) < 1):
        raise ValueError("the second sentence comes from another document: at least two are needed, none of them empty")
    pairs = []
    for number, document in enumerate(documents):
        for first, second in zip(document, document[1:], strict=False):
            if rng.random() < 0.5:
                pairs.append((first, second, True))
            elif swap:
                pairs.append((second, first, False))
            else:
                other = rng.randrange(len(documents) - 1)
                pairs.append((first, rng.choice(documents[other + (other >= number)]), False))
    return pairs
