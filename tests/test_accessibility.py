"""Every lesson for every reader: alt text that says the finding, headings in order, colours that all can tell apart."""

import json
import re
from functools import cache

import numpy as np
import pytest

from llmkit.course.site_check import heading_problems
from llmkit.course.site_map import COLORS as LINES
from llmkit.course.site_pages import built_lessons, notebook_paths
from llmkit.viz.style import COLORS, CYCLE, DIVERGING, SEQUENTIAL

LESSONS = built_lessons()


@cache
def cells(lesson, which: int) -> list[dict]:
    """Of the learner's notebook (0) or the solved one (1)."""
    return json.loads(notebook_paths(lesson)[which].read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_every_figure_has_alt_text_that_says_something(lesson):
    outputs = [output for cell in cells(lesson, 1) for output in cell.get("outputs", [])]
    figures = [output for output in outputs if any(kind.startswith("image/") for kind in output.get("data", {}))]
    assert figures, "a lesson without a figure"
    alts = [figure["metadata"].get("image/png", {}).get("alt", "") for figure in figures]
    for alt in alts:
        assert len(alt) >= 60 and len(alt.split()) >= 10, f"alt text that says too little: {alt!r}"
        assert not re.match(r"(?i)(an? )?(image|picture|figure|plot|graph) (of|showing)\b", alt), alt
    assert len(set(alts)) == len(alts), "two figures with the same alt text"


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
@pytest.mark.parametrize("which", [0, 1], ids=["lesson", "solution"])
def test_headings_are_in_order(lesson, which):
    text = "\n".join("".join(cell["source"]) for cell in cells(lesson, which) if cell["cell_type"] == "markdown")
    levels = [len(marks) for marks in re.findall(r"^(#{1,6}) \S", without_code(text), re.MULTILINE)]
    assert heading_problems(levels) == []


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def test_headings_out_of_order_are_seen():
    assert heading_problems([1, 2, 3, 2, 3, 3]) == []
    assert (
        heading_problems([1, 3]) and heading_problems([2, 3]) and heading_problems([1, 2, 1]) and heading_problems([])
    )


# Machado, Oliveira and Fernandes 2009, "A physiologically-based model for simulation of color vision deficiency",
# severity 1.0; for linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(color: str) -> np.ndarray:
    """Linear RGB of #RRGGBB, each between 0 and 1."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of linear RGB: distances in it are roughly as large as they look."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb.clip(0, 1)
    x, y, z = np.cbrt(xyz / [0.95047, 1.0, 1.08883])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def too_close(colors: list[str], matrix) -> set[frozenset[str]]:
    """The pairs less than ten units apart: side by side, ten are a clear difference."""
    seen = {color: lab(np.asarray(matrix) @ linear(color)) for color in colors}
    return {frozenset((a, b)) for a in seen for b in seen if a < b and np.linalg.norm(seen[a] - seen[b]) < 10}


def contrast(a: str, b: str) -> float:
    """WCAG 2's ratio of luminances, 1 to 21."""
    lights = sorted(float(np.dot([0.2126, 0.7152, 0.0722], linear(color))) + 0.05 for color in (a, b))
    return lights[1] / lights[0]


@pytest.mark.parametrize("kind", BLINDNESS)
def test_the_palette_is_told_apart_with_every_kind_of_colour_blindness(kind):
    assert too_close(CYCLE, BLINDNESS[kind]) == set()
    assert too_close(list(LINES), BLINDNESS[kind]) == set()
    assert too_close(list(COLORS.values()), BLINDNESS[kind]) == set()


def test_red_and_green_would_not_pass():
    """matplotlib's own, far apart for most eyes."""
    assert not too_close(["#D62728", "#2CA02C"], BLINDNESS["none"])
    assert too_close(["#D62728", "#2CA02C"], BLINDNESS["deuteranopia"])


def test_the_map_of_the_site_stands_out_on_white_and_on_dark():
    for color in LINES:
        assert contrast(color, "#FFFFFF") >= 3 and contrast(color, "#131416") >= 3, color


def test_the_maps_of_magnitudes_rise_in_lightness_for_everyone():
    import matplotlib

    def lightness(name: str, matrix) -> np.ndarray:
        rgb = matplotlib.colormaps[name](np.linspace(0, 1, 33))[:, :3]
        return np.array([lab(np.asarray(matrix) @ linear(matplotlib.colors.to_hex(one)))[0] for one in rgb])

    for matrix in BLINDNESS.values():
        assert (np.diff(lightness(SEQUENTIAL, matrix)) > 0).all()
        signed = lightness(DIVERGING, matrix)
        assert (np.diff(signed[:17]) > 0).all() and (np.diff(signed[16:]) < 0).all(), "lightest in the middle"
    assert not (np.diff(lightness("jet", BLINDNESS["none"])) > 0).all()
