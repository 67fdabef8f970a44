"""The notebooks of docs/notebooks, executed: `python -m benchmarks.notebooks [NAME ...]`

Runs them from the repository's root and writes their outputs into them.  tests/benchmarks/test_notebooks.py executes
them too and writes nothing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "notebooks"
PATIENCE = 600
"""Seconds that a cell may take."""


def names() -> list[str]:
    """The notebooks, by name."""
    return sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def executed(name: str) -> NotebookNode:
    """A notebook with fresh outputs, without what libraries write to the error stream.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3", resources={"metadata": {"path": ROOT}}).execute()
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"{name}-{number}", {}
        cell.outputs = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
        if cell.cell_type != "code":
            del cell["outputs"]
    return notebook


def main(argv: list[str] | None = None) -> int:
    """Execute and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.notebooks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help=f"which (default: all): {', '.join(names())}")
    for name in parser.parse_args(argv).names or names():
        began = time.monotonic()
        notebook = executed(name)
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        print(f"{name}: {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
