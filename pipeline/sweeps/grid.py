"""A grid of params: its trials, one for each combination of the values."""

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from pipeline.errors import ParamsError
from pipeline.params import Params, parse, with_values
from pipeline.storage import md5
from pipeline.sweeps.trial import DATA, Trial, code_md5, fingerprint
from pipeline.tracking import store

Axes = Mapping[str, Sequence[Any]]
"""The values to try by their keys in params.yaml."""
MAX_NAME = 200  # bytes; a file system takes 255 for the name of a folder
SET_BY = {"train.threads": "--cpus", "train.device": "--gpus"}


def text(value: Any) -> str:
    """Return a value as it is written on a command line, without blanks.

    >>> text(0.5), text([512, 256])
    ('0.5', '[512,256]')
    """
    return str(value).replace(" ", "")


def value_of(params: Params, key: str) -> Any:
    """Return the value of a key of params.yaml, such as ``vae.latent_dim``."""
    value: Any = params
    for name in key.split("."):
        value = getattr(value, name)
    return value


def allowed(params: Params, model: str) -> list[str]:
    """Return the keys that a grid may have: those that decide a training, but for those that change what a loss means.

    The losses of other likelihoods or other validation images do not compare.
    """
    sections = [f"{name}.{key}" for name in ("train", model) for key in getattr(params, name).model_dump()]
    left_out = {*SET_BY, "train.binarize"}
    return ["seed", *(["beta"] if model != "ae" else []), *(key for key in sections if key not in left_out)]


def parse_axes(params: Params, model: str, arguments: Sequence[str]) -> dict[str, list[Any]]:
    """Return the axes of arguments such as ``beta=0.5,1,2`` with each value checked.

    Raises ParamsError for a key or a value that is not allowed.

    >>> from pipeline.params import load_params
    >>> parse_axes(load_params("params.yaml"), "vae", ["beta=0.5,1", "vae.hidden_dims=[512,256],[128]"])
    {'beta': [0.5, 1.0], 'vae.hidden_dims': [[512, 256], [128]]}
    """
    axes: dict[str, list[Any]] = {}
    for argument in arguments:
        key, _, values = argument.partition("=")
        if key in SET_BY:
            raise ParamsError(f"--grid {argument}: {SET_BY[key]} sets {key} of all trials")
        if key not in allowed(params, model):
            raise ParamsError(f"--grid {argument}: {key!r} is not allowed; allowed are {', '.join(allowed(params, model))}")
        if key in axes or not values.strip():
            raise ParamsError(f"--grid {argument}: allowed is each key once with values between commas, as in beta=0.5,1,2")
        for value in parse(f"--grid {argument}", f"values: [{values}]")["values"]:
            try:
                checked = value_of(with_values(params, {key: value}), key)
            except ParamsError as error:
                raise ParamsError(f"--grid {argument}: {error}") from None
            if checked not in axes.setdefault(key, []):
                axes[key].append(checked)
    return axes


def maker(params: Params, model: str, cpus: int, gpus: int) -> Callable[[Mapping[str, Any], Path], Trial]:
    """Return what makes a trial of values and of a folder, which is relative to the root.

    A trial trains with ``cpus`` threads, and on a CPU unless there are ``gpus``. Data and code are hashed once.
    Raises ParamsError where the params train on a CPU but there are ``gpus``, and, for a trial, where values are not allowed
    together; OSError without a prepared data set.
    """
    if gpus and params.train.device == "cpu":
        raise ParamsError(f"--gpus {gpus}: train.device in params.yaml is cpu; set it to auto, or leave out --gpus")
    root, data, code = store.root(), md5(DATA), code_md5()
    kept = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME")  # for the processes on other machines
    environment = {key: os.environ[key] for key in kept if key in os.environ}
    own = {"train.threads": cpus} | ({} if gpus else {"train.device": "cpu"})

    def make(values: Mapping[str, Any], folder: Path) -> Trial:
        changed = with_values(params, {**values, **own})
        return Trial(model, values, changed, root / folder, root, fingerprint(model, changed, data, code), environment)

    return make


def trials(params: Params, model: str, axes: Axes, out: Path, cpus: int, gpus: int) -> dict[str, Trial]:
    """Return the trials of a grid by their names, with folders of these names in ``out``. Raises what :func:`maker` raises."""
    make, found = maker(params, model, cpus, gpus), {}
    for combination in product(*axes.values()):
        values = dict(zip(axes, combination, strict=True))
        name = ",".join(f"{key}={text(value)}" for key, value in values.items())
        if len(name.encode()) > MAX_NAME:
            raise ParamsError(
                f"--grid {name:.60}...: too many keys for the name of a trial's folder; put fixed values into params.yaml"
            )
        try:
            found[name] = make(values, out / name)
        except ParamsError as error:
            raise ParamsError(f"--grid {name}: {error}") from None
    return found
