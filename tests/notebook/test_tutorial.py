"""The tutorial notebook runs from top to bottom."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

TUTORIAL = Path(__file__).parents[2] / "notebooks/latent_spaces.ipynb"


def test_tutorial_is_stored_without_outputs():
    for cell in nbformat.read(TUTORIAL, as_version=4).cells:
        assert cell.cell_type == "markdown" or (cell.outputs, cell.execution_count) == ([], None)


def test_tutorial_runs_and_shows_each_figure_once(monkeypatch):
    for name, value in {"DATASET": "digits", "AE_EPOCHS": "2", "VAE_EPOCHS": "2", "BETA_EPOCHS": "1"}.items():
        monkeypatch.setenv(name, value)
    tutorial = nbformat.read(TUTORIAL, as_version=4)
    client = NotebookClient(tutorial, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(TUTORIAL.parent)}})
    client.execute()
    for cell in tutorial.cells:
        if cell.cell_type == "code":
            shown = sum("image/png" in output.get("data", {}) for output in cell.outputs)
            drawn = sum(cell.source.count(call) for call in ("\nplot_", "plt.subplots(", "visualize_latent_space("))
            starts = cell.source.startswith("plot_")
            assert "import" in cell.source or shown == drawn + starts, cell.source
            assert not [output for output in cell.outputs if output.get("name") == "stderr"]
