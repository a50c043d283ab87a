"""Executes notebooks and keeps small outputs: `python .docs/execute.py .docs/notebooks/*.ipynb` writes them anew.

Each runs in a kernel of its own, in an empty folder. Progress is dropped, pictures become small.
"""

import argparse
import base64
import io
import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # whatever the caller draws with
WIDTH, COLOURS = 640, 64  # of a picture


def small(png: str) -> str:
    """Return a PNG in base64 with fewer pixels and colours."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    image.thumbnail((WIDTH, WIDTH))
    file = io.BytesIO()
    image.quantize(COLOURS).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def kept(outputs: list) -> list:
    """Return outputs without progress, with printed text in one piece and small pictures."""
    found: list = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if output.get("name") == "stdout" and found and found[-1].get("name") == "stdout":
            found[-1]["text"] += output["text"]
            continue
        data = output.get("data", {})
        if "image/png" in data:
            output["data"] = {"image/png": small(data["image/png"])}
            output["metadata"] = {}
        found.append(output)
    return found


def executed(path: Path) -> nbformat.NotebookNode:
    """Return a notebook with the outputs of this run."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = kept(cell.outputs)
    return notebook


def main() -> None:
    """Execute the notebooks that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--to", type=Path, help="a folder for the results, in place of the notebooks themselves")
    given = parser.parse_args()
    for path in given.notebooks:
        nbformat.write(executed(path), (given.to or path.parent) / path.name)


if __name__ == "__main__":
    main()
