"""Write the notebooks from tutorial.py: the texts of one language each, the same code, the same outputs.

The code runs once, and only if it changed since its outputs were made; ``--run`` runs it in any case.
"""

import base64
import hashlib
import io
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode, v4
from PIL import Image

from pipeline.params import Params, load_params
from pipeline.startup import choose_waiting

HERE = Path(__file__).parent
NOTEBOOKS = {"en": HERE / "latent_spaces.ipynb", "pt": HERE / "espacos_latentes.ipynb"}


def source(language: str) -> NotebookNode:
    """Return the notebook of a language without outputs."""
    cells = jupytext.read(HERE / "tutorial.py", fmt="py:percent").cells[1:]  # the first says what the file is
    chosen = [cell for cell in cells if cell.metadata.get("lang", language) == language]
    new = {"markdown": v4.new_markdown_cell, "code": v4.new_code_cell}
    made = [new[cell.cell_type](cell.source, id=f"cell-{number:02}") for number, cell in enumerate(chosen)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return v4.new_notebook(cells=made, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def code(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the cells of code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def recipe(params: Params) -> str:
    """Return the hash of the params that decide the notebook's numbers."""
    values = params.model_dump(include={"seed", "train", "ae", "vae"}) | {"val_size": params.data.val_size}
    return hashlib.sha256(repr(values).encode()).hexdigest()


def with_outputs(language: str, made: NotebookNode) -> NotebookNode:
    """Return the notebook of a language with the outputs of one that ran, and the code and recipe that they come from."""
    notebook = source(language)
    for cell, ran in zip(code(notebook), code(made), strict=True):
        cell.outputs, cell.execution_count = ran.outputs, ran.execution_count
    notebook.metadata["made_from"] = made.metadata["made_from"]
    return notebook


def smaller(picture: str) -> str:
    """Return a PNG in base64 with 128 colors, which is a third of its size and looks the same."""
    written = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
        written, "PNG", optimize=True
    )
    return base64.b64encode(written.getvalue()).decode()


def run() -> NotebookNode:
    """Run the code and return the notebook with its outputs."""
    params = load_params(HERE.parent / "params.yaml")
    choose_waiting(params.train.threads)  # in the kernel, which has this environment
    notebook = source("en")
    resources = {"metadata": {"path": str(HERE)}}
    NotebookClient(notebook, timeout=3600, kernel_name="python3", coalesce_streams=True, resources=resources).execute()
    for cell in code(notebook):  # without progress and warnings, which name places of this machine
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    for output in (output for cell in code(notebook) for output in cell.outputs):
        if "image/png" in output.get("data", {}):
            output.update(data={"image/png": smaller(output["data"]["image/png"])}, metadata={})
    notebook.metadata["made_from"] = {"code": digest(notebook), "params": recipe(params)}
    return notebook


def digest(notebook: NotebookNode) -> str:
    """Return the hash of a notebook's code."""
    return hashlib.sha256("\0".join(cell.source for cell in code(notebook)).encode()).hexdigest()


def main(*arguments: Any) -> None:
    """Write the notebooks."""
    path = NOTEBOOKS["en"]
    made = nbformat.read(path, as_version=4) if path.exists() else v4.new_notebook()
    if "--run" in arguments or made.metadata.get("made_from", {}).get("code") != digest(source("en")):
        made = run()
    for language, path in NOTEBOOKS.items():
        nbformat.write(with_outputs(language, made), path)
        print(f"wrote {path.relative_to(HERE.parent)}, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
