"""Run a built notebook in an empty folder and keep outputs that are the same on every machine."""

import os
import re
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

MOST_BYTES = 500_000


class OutputError(Exception):
    """An output that may not be stored; says which cell and why."""


def execute(notebook: NotebookNode, master: Path, time_limit: int = 300) -> float:
    """Run all cells in place and return the seconds taken.

    The folder is empty, because a lesson needs no file beside it; answers go there too, not among the
    reader's. Raises OutputError for an exception, for anything on stderr, for a path of this machine, for a
    figure without alt text, and for a notebook of more than 500 kB.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, LLMKIT_ANSWERS=folder, LLMKIT_GPU="off")
        environment.pop("LLMKIT_GPU_SMOKE", None)
        client = NotebookClient(
            notebook,
            timeout=time_limit,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        try:
            client.execute(env=environment)
        except CellExecutionError as error:
            raise OutputError(f"{master}: a cell raised an exception\n{error}") from None
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.metadata.pop("execution", None)
                cell.outputs = _tidy(cell.outputs)
                _check_outputs(cell, master, folder)
    notebook.metadata["language_info"] = {"name": "python"}  # the kernel adds its version, which varies
    size = len(nbformat.writes(notebook).encode())
    if size > MOST_BYTES:
        raise OutputError(f"{master}: the executed notebook has {size} bytes, more than {MOST_BYTES}")
    return time.monotonic() - start


def _tidy(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join what one stream printed in several pieces: where it was cut depends on timing."""
    tidy: list[NotebookNode] = []
    for output in outputs:
        same = tidy and output.output_type == "stream" == tidy[-1].output_type and output.name == tidy[-1].name
        if same:
            tidy[-1].text += output.text
        else:
            tidy.append(output)
    return tidy


def _check_outputs(cell: NotebookNode, master: Path, folder: str) -> None:
    where = f"{master}, cell {cell.id} ({cell.source.splitlines()[0] if cell.source else ''})"
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stderr":
            raise OutputError(f"{where}: printed on stderr: {output.text.strip()[:300]}")
        data = output.get("data", {})
        text = output.get("text", "") + str(data.get("text/plain", "")) + str(data.get("text/html", ""))
        for private in (folder, str(Path.home()), os.getcwd()):
            if re.search(re.escape(private) + r"\b", text):
                raise OutputError(f"{where}: its output contains a path of this machine: {private}")
        if "image/png" in data and not output.get("metadata", {}).get("image/png", {}).get("alt"):
            raise OutputError(f"{where}: a figure without alt text; end the cell with show(fig, alt=…)")
