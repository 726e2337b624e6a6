"""What MLflow's pages show: names of runs, descriptions, the card of a model, and the views of an experiment."""

import json
import textwrap
from collections.abc import Mapping
from shlex import quote
from typing import Any

from pipeline.tracking.record import Record

Values = Mapping[str, Any]
WIDTH = 64  # of a line of code; a longer one makes the page of a run scroll to the side on a screen of 1280 pixels
KNOWN = {
    "mnist": "CC BY-SA 3.0, Yann LeCun, Corinna Cortes and Christopher J.C. Burges",
    "fashion_mnist": "MIT, Zalando SE",
    "kmnist": "CC BY-SA 4.0, ROIS-DS Center for Open Data in the Humanities",
    "digits": "CC BY 4.0, Alpaydin and Kaynak, UCI",
}
"""The licences of the data sets that ``data.name`` can name; all others are a user's own."""
VIEW = "mlflow.sharedViewState."  # MLflow's tag for a view, with the view's id


def label(settings: Values) -> str:
    """Return the name of a run, which begins with what differs most: MLflow's table shows some 20 letters.

    The last part are the hidden sizes of the encoder and the latent dimensions.

    >>> label({"model.name": "vae", "model.hidden_dims": [512, 256], "model.latent_dim": 2, "beta": 4.0, "seed": 1})
    'β=4 vae seed=1 512-256-2'
    """
    beta = [f"β={settings['beta']:g}"] if "beta" in settings else []
    widths = "-".join(map(str, [*settings["model.hidden_dims"], settings["model.latent_dim"]]))
    return " ".join([*beta, settings["model.name"], f"seed={settings['seed']}", widths])


def role(group: str = "", name: str = "") -> str:
    """Return what a training is for, from the group and the name of a comparison model, both empty for a main model.

    >>> role(), role("seeds", "vae"), role("seeds", "vae_beta_1"), role("comparison", "ae_depth_matched")
    ('main', 'seed', 'comparison', 'depth-matched')
    """
    if not group:
        return "main"
    return "depth-matched" if "depth_matched" in name else "comparison" if "beta" in name else "seed"


def _result(record: Record, prefix: str) -> str:
    """Return the likelihood of a run in one line, of the test images or of the validation images at the best epoch."""
    recon, kl = record.number(f"{prefix}recon"), record.number(f"{prefix}kl")
    if recon is None:
        return ""
    if kl is None:
        return f"**reconstruction {recon:.2f}** nats per image"
    return f"**ELBO {-recon - kl:.2f}** nats per image: reconstruction {recon:.2f}, KL {kl:.2f}"


def train_command(record: Record) -> str:
    """Return the command that trains the model of a run again, on the data of params.yaml if they are a user's own.

    It is an indented block of Markdown.
    """
    name, data = record.params.get("model.name", ""), record.tags.get("dataset", "")
    values = ({"data.name": data} if data in KNOWN else {}) | record.params
    keys = {key: key.replace("model.", f"{name}.", 1) for key in sorted(values) if key != "model.name"}
    options = " ".join(f"-S {quote(f'{keys[key]}={values[key]}'.replace(' ', ''))}" for key in keys)
    # Each option stays whole; its blank is one that no value has.
    wrapped = textwrap.wrap(options.replace("-S ", "-S\0"), WIDTH, break_long_words=False, break_on_hyphens=False)
    command = " \\\n      ".join(["dvc exp run", *wrapped]).replace("\0", " ")
    return f"    {command}"


def describe_run(record: Record) -> str:
    """Return the description of a run, in Markdown: result, model, and the command that trains it again."""
    params, tags, name = record.params, record.tags, record.params["model.name"]
    test, validation = _result(record, "test/"), _result(record, "best/val/")
    profile = tags.get("evaluate.profile", "")
    lines = [f"Test images ({profile} evaluation): {test}"] if test else []
    epochs = f"epoch {record.number('best/epoch') or 0:g} of {record.number('epochs') or 0:g}"
    lines += [f"Validation, {epochs}: {validation}"] if validation else []
    shape = f"{params['model.latent_dim']} latent dimensions, hidden layers {params['model.hidden_dims']}"
    beta = f", β = {params['beta']}" if "beta" in params else ""
    lines += [f"{name.upper()} of {tags['dataset']}: {shape}{beta}, seed {params['seed']}", "Train it again:"]
    return "\n\n".join([*lines, train_command(record)])


def _chart(kind: str, **settings: Any) -> dict[str, Any]:
    chart = {"uuid": str(settings), "type": kind, "metricSectionId": "first", "deleted": False, "isGenerated": False}
    return chart | {"runsCountToCompare": 10} | settings


def _line(*keys: str) -> dict[str, Any]:
    scales = {"xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "lineSmoothness": 0, "range": {}}
    scales |= {"yAxisKey": "metric", "yAxisExpressions": [], "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True}
    return _chart("LINE", metricKey=keys[0], selectedMetricKeys=keys, **scales)


def _images(key: str) -> dict[str, Any]:
    return _chart("IMAGE", imageKeys=[key], step=0, showRunParams=False)


def _charts(title: str, columns: int, *charts: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a view with a section of charts; MLflow adds those of other metrics below, in folded sections."""
    names = {"first": title, "train": "train", "val": "val", "rest": "Model metrics"}
    sections = [{"uuid": key, "name": name, "display": key == "first", "isReordered": True} for key, name in names.items()]
    sections[0] |= {"columns": columns}
    return {"compareRunCharts": charts, "compareRunSections": sections, "isAccordionReordered": True}


_COLUMNS = {  # of the table, with their widths in pixels
    "tags.`role`": 115,
    "metrics.`test_elbo`": 90,
    "metrics.`test_recon`": 90,
    "metrics.`test_kl`": 75,
    "metrics.`frechet_distance`": 125,
    "metrics.`knn_accuracy`": 105,
}
_VIEWS: dict[str, tuple[str, dict[str, Any]]] = {  # title and state by id
    "results": ("Results", {"selectedColumns": [*_COLUMNS], "columnOrder": [*_COLUMNS], "columnWidths": _COLUMNS}),
    "curves": (
        "Curves",
        _charts("Curves, nats per image", 2, _line("val/loss"), _line("val/recon", "train/recon"), _line("val/kl", "train/kl")),
    ),
    "pictures": ("Pictures", _charts("Pictures by epoch", 1, _images("samples"), _images("reconstructions"))),
}
VIEWS = {
    f"{VIEW}{key}": json.dumps({"name": title, "createdAt": -index, "updatedAt": -index, "state": json.dumps(state)})
    for index, (key, (title, state)) in enumerate(_VIEWS.items())
}
"""The tags of an experiment in which MLflow keeps its views; the one created last stands first in its menu."""


def links(experiment: str) -> dict[str, str]:
    """Return the places of an experiment's views on an MLflow server, by their titles; the first is the table of runs."""
    page = f"#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey="
    return {
        title: f"{page}{key}" + ("&compareRunsMode=CHART" if "compareRunCharts" in state else "")
        for key, (title, state) in _VIEWS.items()
    }


def describe_experiment(experiment: str) -> str:
    """Return the description of an experiment, in Markdown."""
    views = ", ".join(f"[{title}]({link})" for title, link in links(experiment).items())
    return f"""\
{views} of all runs. A run is one training of an autoencoder or a VAE.

- `role`: `main`, `depth-matched` (an autoencoder with the VAE's hidden layers), `comparison` (a VAE with another β),
  `seed` (a main model with another seed) or `sweep` (a trial of `latent sweep` or `latent search`, below the run of its `grid`).
- `test_elbo`, `test_recon`, `test_kl`: nats per test image. Higher is better for the ELBO, lower for the reconstruction term.
- `frechet_distance`: of samples from the prior to test images; lower is better.
- `knn_accuracy`: how often the nearest codes have an image's class.
- All other numbers of a run are in its artifact `evaluation.json`, the verdicts on the claims in `claims.json`.

`dvc repro` and `dvc exp run -S beta=4` add runs; `latent sync` rebuilds lost ones from DVC's files."""
