"""Find a trained model: in a file, in a revision of DVC's, or in MLflow's store."""

import os
import tempfile
from pathlib import Path

from pipeline.errors import DAMAGED, IntegrityError, ParamsError
from pipeline.models.weights import Trained, load_weights
from pipeline.startup import repository_root

STORED = "models:/"
"""The start of an address of MLflow's: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or ``models:/ID``."""


def find_model(model: str, rev: str | None = None) -> Trained:
    """Return a model by its file of weights or by its address in MLflow's store; nothing of a file is executed.

    ``rev`` is a git revision or an experiment of DVC: the file is taken as it was there, from DVC's cache or a remote.

    Raises ParamsError when there is none, and IntegrityError when it is damaged or of another version.
    """
    if model.startswith(STORED):
        if rev is not None:
            raise ParamsError(f"--rev is for files; {model} names its version itself: {STORED}NAME/VERSION")
        from pipeline.tracking.registry import fetch_weights  # takes seconds to import, as what follows

        with tempfile.TemporaryDirectory() as scratch:
            return _load(fetch_weights(model, Path(scratch)), model)
    if rev is not None:  # an empty one is a mistake, too, of a script perhaps
        from pipeline.tracking.dvc_repo import output_at

        path = os.path.relpath(model, repository_root())
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch, Path(path).name)
            copy.write_bytes(output_at(rev, path))
            return _load(copy, f"{path} of {rev}")
    if not Path(model).is_file():
        names = sorted({path.stem for path in Path("models").glob("*.safetensors")} - {"classifier"})
        raise ParamsError(f"{model}: no such file; in models/ are {', '.join(names) or 'none'}; `dvc repro` trains ae and vae")
    return load_weights(model)


def _load(path: Path, name: str) -> Trained:
    """Read weights that were copied to ``path``; an error calls them by their ``name``."""
    try:
        return load_weights(path)
    except IntegrityError as error:
        cure = "use it with the version of this project that trained it, or train it again"
        raise IntegrityError(str(error).replace(str(path), name).replace(DAMAGED, cure)) from None
