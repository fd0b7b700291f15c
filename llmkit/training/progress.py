"""tqdm's progress bar, without the warning that it gives in a notebook that has no ipywidgets."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would stand in the lesson's output; the bar of text serves as well
    from tqdm.auto import tqdm

__all__ = ["tqdm"]
