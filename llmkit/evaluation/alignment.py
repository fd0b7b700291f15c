"""Does attention look at the words that it translates?"""

from collections.abc import Collection

from torch import Tensor


def aligned_share(weights: Tensor, links: Collection[tuple[int, int]]) -> float:
    """Share of the output's words whose strongest weight is on an input word that they translate.

    weights  (T, S): row j holds how much output word j looks at each input word; of equal weights the first counts
    links    (i, j): input word i and output word j mean the same. A word may be in several links, and hitting any one
             of its input words is enough; output words in no link are not counted.

    Raises ValueError where there are no links.

    >>> aligned_share(torch.tensor([[0.1, 0.9], [0.2, 0.8]]), [(1, 0), (0, 1)])
    0.5
    """
    if not links:
        raise ValueError("without links there is nothing to hit")
    strongest = weights.argmax(-1).tolist()
    meant: dict[int, set[int]] = {}
    for i, j in links:
        meant.setdefault(j, set()).add(i)
    return sum(strongest[j] in inputs for j, inputs in meant.items()) / len(meant)
