"""A Sphinx extension: formulas become MathML when the site is built, so that a page needs no script for them.

Every browser since 2023 draws MathML, and screen readers read it. Only the font is not on every machine: STIX Two
Math (SIL Open Font License) comes with the package ziamath and is cut down to the signs that the pages use.
"""

import logging
import re
from importlib.resources import files
from pathlib import Path

from docutils import nodes
from fontTools import subset
from latex2mathml.converter import convert

logging.getLogger("fontTools").setLevel(logging.WARNING)
ASCII = "".join(map(chr, range(32, 127)))


def mathml(latex: str, block: bool = False) -> str:
    """The <math> element of a formula.

    >>> mathml("x^2")[-53:]
    '<msup><mi>x</mi><mn>2</mn></msup></mrow></math>'
    """
    return convert(latex, display="block" if block else "inline")


def visit_inline(self, node: nodes.math) -> None:
    self.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def visit_block(self, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math-block">{mathml(node.astext(), block=True)}</div>\n')
    raise nodes.SkipNode


def write_font(app, error: Exception | None) -> None:
    """The font with the signs of all formulas, as woff2 (about a twentieth of the whole font)."""
    if error:
        return
    pages = [page.read_text(encoding="utf-8") for page in Path(app.outdir).rglob("*.html")]
    formulas = "".join(formula for page in pages for formula in re.findall(r"<math.*?</math>", page, re.DOTALL))
    signs = set(re.sub(r"<[^>]*>", "", formulas))
    signs |= {chr(int(code, 16)) for code in re.findall(r"&#x([0-9A-Fa-f]+);", formulas)}
    options = subset.Options(flavor="woff2", layout_features=["*"])
    font = subset.load_font(str(files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf"), options)
    cutter = subset.Subsetter(options)
    cutter.populate(text=ASCII + "".join(signs) + italics(signs | set(ASCII)))
    cutter.subset(font)
    subset.save_font(font, str(Path(app.outdir) / "_static" / "math.woff2"), options)


def italics(signs: set[str]) -> str:
    """What a browser draws for one letter in <mi>: its mathematical italic, another sign of the font."""
    found = ["\u210e"]  # h, which has a place of its own
    for sign in signs:
        for first, count, italic in (("A", 26, 0x1D434), ("a", 26, 0x1D44E), ("Α", 25, 0x1D6E2), ("α", 25, 0x1D6FC)):
            if 0 <= ord(sign) - ord(first) < count:
                found.append(chr(italic + ord(sign) - ord(first)))
    return "".join(found) + "𝜖𝜗𝜅𝜙𝜚𝜛𝜕"


def setup(app) -> dict:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.connect("build-finished", write_font)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
