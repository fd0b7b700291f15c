"""What noise does to a text: each corruption as a row of boxes, coloured by where a word comes from."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from llmkit.viz.style import COLORS

TINTS = ("#DCEAF5", "#FBE7C6", "#D5EFE5", "#F3DDE9")  # one for each sentence of the text
_GAP = 0.35  # characters between two boxes


def draw_corruptions(
    axis: Axes,
    words: Sequence[str],
    rows: Mapping[str, Sequence[int | str]],
    sentences: Sequence[int] | None = None,
) -> None:
    """Draw corrupted versions of one text, one under the other.

    words      the text
    rows       name -> what is left: a number stands for that word of the text, a string is a mark (a mask, a sentinel)
    sentences  for each word the number of its sentence, which gives its tint; by default all are of one

    Marks are set in orange. Where a word and the next one were not neighbours in the text and no mark stands between
    them, a red line says that something is gone or moved; it is drawn at the ends too. Raises ValueError for a number
    that is no word.
    """
    sentences = [0] * len(words) if sentences is None else sentences
    longest = 0.0
    for height, (name, row) in enumerate(rows.items()):
        at, before = 0.0, -1
        axis.text(-1.0, height, name, ha="right", va="center", fontsize=9, fontweight="bold")
        for item in [*row, len(words)]:
            if isinstance(item, int):
                if not 0 <= item <= len(words):
                    raise ValueError(f"{name!r} holds the number {item}, but there are words 0 … {len(words) - 1}")
                if before is not None and item != before + 1:
                    axis.plot([at - _GAP / 2] * 2, [height - 0.44, height + 0.44], color=COLORS["bad"], linewidth=2.2)
            if item == len(words):
                break
            text = words[item] if isinstance(item, int) else item
            tint = TINTS[sentences[item] % len(TINTS)] if isinstance(item, int) else COLORS["key"]
            axis.barh(height, len(text) + 0.5, 0.72, left=at, color=tint)
            axis.text(at + (len(text) + 0.5) / 2, height, text, ha="center", va="center", fontsize=7.5,
                      family="DejaVu Sans Mono")  # fmt: skip
            at += len(text) + 0.5 + _GAP
            before = item if isinstance(item, int) else None
        longest = max(longest, at)
    axis.set(xlim=(-1.2, longest), ylim=(len(rows) - 0.45, -0.6))
    axis.axis("off")
