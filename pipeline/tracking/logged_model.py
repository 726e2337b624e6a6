"""The data of a run, and its model: the weights, a signature, and the code that loads them, under a name of its own.

Loading one (``mlflow.pyfunc.load_model``) imports that code, a copy of ``pipeline/models`` and what it needs from the time of
logging, and reads the weights; nothing is unpickled. Load models of a store that you trust. The package's name has a hash of the
code, so a model loads beside any other package and beside models of other versions. A model that was logged by version 0.2.0
imports the package ``pipeline`` that is there, which is the current one inside this repository.
"""

import hashlib
import json
import re
import tempfile
import warnings
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data import Shape
from pipeline.tracking.database import load_mlflow

if TYPE_CHECKING:
    import mlflow

_PIPELINE = Path(__file__).parents[1]
_CODE = ("data.py", "errors.py", "models/*.py", "storage.py", "tracking/served.py")  # models and what the folder may import
REQUIREMENTS = ("numpy", "pydantic", "safetensors", "torch")  # what that code imports; MLflow adds itself
_LOADER = "tracking.served"  # the module with `_load_pyfunc`, which MLflow calls
NOTE = "mlflow.note.content"
"""The tag with a description, in Markdown, that MLflow's pages show."""
INPUT = "Images [N, C, H, W], float32, each value an intensity in [0, 1]; other values are refused."


def package(folder: Path) -> Path:
    """Write a copy of the code that loads weights, as a package named by its content; return its folder."""
    code = {path.relative_to(_PIPELINE): path.read_text() for found in _CODE for path in sorted(_PIPELINE.glob(found))}
    name = "latent_model_" + hashlib.sha256(repr(sorted(code.items())).encode()).hexdigest()[:16]
    for path, text in code.items():
        copy = folder / name / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(re.sub(r"\b(from|import) pipeline\b", rf"\1 {name}", text))
    (folder / name / "__init__.py").write_text(f'"""The code that loads the model it was logged with. {INPUT}"""\n')
    return folder / name


def log(
    client: "mlflow.MlflowClient",
    run: "mlflow.entities.RunInfo",
    params: dict[str, str],
    weights: Path,
    name: str,
    image_shape: Shape,
    latent_dim: int,
    may_be_begun: bool,
) -> str:
    """Log the weights as a model of a run, whose status stays, and return its id.

    The run has it once all of it is in the store. What a killed process has begun is completed, if there ``may_be`` such a one.
    """
    mlflow = load_mlflow()
    types, run_id, experiment = mlflow.types, run.run_id, run.experiment_id
    pixels, code = ((np.dtype(np.float32), (-1, *shape)) for shape in (image_shape, (latent_dim,)))
    outputs = types.Schema([types.TensorSpec(*code, "code"), types.TensorSpec(*pixels, "reconstruction")])
    signature = mlflow.models.ModelSignature(types.Schema([types.TensorSpec(*pixels)]), outputs)
    begun = client.search_logged_models([experiment], f"source_run_id = '{run_id}'") if may_be_begun else []
    model = begun[0] if begun else client.create_logged_model(experiment, name, run_id, {"input": INPUT}, params)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*input example was not provided")  # it would run the model
        loader = package(Path(scratch, "code"))
        mlflow.pyfunc.save_model(
            path=f"{scratch}/model",
            loader_module=f"{loader.name}.{_LOADER}",
            data_path=str(weights),
            code_paths=[str(loader)],
            pip_requirements=[f"{requirement}=={version(requirement)}" for requirement in REQUIREMENTS],
            signature=signature,
            metadata={"input": INPUT},
            mlflow_model=mlflow.models.Model(name, run_id, model_id=model.model_id, model_uuid=model.model_id),
        )
        client.log_model_artifacts(model.model_id, f"{scratch}/model")
    client.finalize_logged_model(model.model_id, "READY")
    log_numbers(client, run_id, model.model_id, has_none=not begun)
    client.log_outputs(run_id, [mlflow.entities.LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id)


def describe(client: "mlflow.MlflowClient", model_id: str, card: str) -> None:
    """Give a model its card: as its description in MLflow, and as the file README.md among its artifacts."""
    if client.get_logged_model(model_id).tags.get(NOTE) != card:
        with tempfile.TemporaryDirectory() as scratch:
            Path(scratch, "README.md").write_text(card, encoding="utf-8")
            client.log_model_artifact(model_id, f"{scratch}/README.md")
        client.set_logged_model_tags(model_id, {NOTE: card})  # last: where it is, a killed process has left nothing out


def data_of(inputs: list[Any]) -> tuple[tuple[int, ...], str]:
    """Return shape and digest of the data that :func:`log_data` logged, among the inputs of a run; both empty for others."""
    with suppress(IndexError, TypeError, ValueError, KeyError):
        data = inputs[0].dataset
        return tuple(json.loads(data.profile)["features_shape"]), data.digest
    return (), ""


def log_numbers(client: "mlflow.MlflowClient", run_id: str, model_id: str, has_none: bool = False) -> None:
    """Show the numbers of a run on the page of its model, but those of an epoch; a new model ``has_none`` yet."""
    shown = [] if has_none else client.get_logged_model(model_id).metrics or []
    held = {(point.key, point.timestamp) for point in shown}
    points = [point for point in client.get_run(run_id).data._metric_objs if point.step == 0]
    new = [point for point in points if (point.key, point.timestamp) not in held]
    metric = load_mlflow().entities.Metric
    client.log_batch(run_id, metrics=[metric(point.key, point.value, point.timestamp, 0, model_id) for point in new])


def log_data(
    client: "mlflow.MlflowClient", run_id: str, name: str, path: str | Path, digest: str, shape: tuple[int, ...]
) -> None:
    """Log the training data, images of this shape, as an input of a run, with a digest of its content."""
    mlflow = load_mlflow()
    images = np.broadcast_to(np.uint8(0), shape)  # MLflow stores only shape and type
    source = mlflow.data.sources.LocalArtifactDatasetSource(str(path))
    data = mlflow.data.from_numpy(images, source, name=name, digest=digest)._to_mlflow_entity()
    tag = mlflow.entities.InputTag("mlflow.data.context", "training")
    inputs = [mlflow.entities.DatasetInput(data, [tag])]
    try:
        client.log_inputs(run_id, datasets=inputs)
    except mlflow.exceptions.MlflowException:  # another process stored the same data set at the same time; now it is there
        client.log_inputs(run_id, datasets=inputs)
