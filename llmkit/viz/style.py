"""One house style for every figure: size, type, colours with fixed meanings, alt text."""

import base64
import io

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's palette (told apart with every common kind of colour blindness), one meaning a colour.
COLORS = {
    "model": "#0072B2",  # what was trained or counted
    "truth": "#000000",  # the source itself: exact probabilities, the entropy
    "control": "#999999",  # baselines and controls
    "guess": "#882255",  # what the reader wrote down before the run
    "good": "#009E73",
    "bad": "#D55E00",
    "query": "#0072B2",
    "key": "#E69F00",
    "value": "#009E73",
    "masked": "#DDDDDD",
    "loss": "#D55E00",
}
CYCLE = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000"]
SEQUENTIAL = "cividis"  # magnitudes
DIVERGING = "PuOr"  # signed values


def use_house_style() -> None:
    """Set matplotlib's defaults for the course; called by `start`."""
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 100,
            "figure.figsize": (6.8, 3.6),
            "figure.constrained_layout.use": True,
            "font.family": "DejaVu Sans",  # comes with matplotlib, so figures are the same everywhere
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#E6E6E6",
            "grid.linewidth": 0.8,
            "axes.prop_cycle": plt.cycler(color=CYCLE),
            "lines.linewidth": 2.0,
            "legend.frameon": False,
            "image.cmap": SEQUENTIAL,
        }
    )


def figure(columns: int = 1, width: float = 6.8, height: float = 3.6, **kwargs) -> tuple[Figure, Axes]:
    """A figure at notebook width (inches) with `columns` panels side by side; keywords go to plt.subplots."""
    return plt.subplots(1, columns, figsize=(width, height), **kwargs)


def show(fig: Figure, alt: str) -> None:
    """Display a figure with alt text that says its finding, and close it.

    The picture goes out as PNG of at most 256 colours, a third of the size of matplotlib's own, and without its
    version stamp: the same numbers give the same bytes. Outside IPython (a lesson's master run as a script) nothing is
    displayed.
    """
    drawn, picture = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", bbox_inches="tight")
    plt.close(fig)
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(picture, "png", optimize=True)
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return
    if get_ipython() is None:
        return
    data = {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": alt}
    display(data, metadata={"image/png": {"alt": alt}}, raw=True)
