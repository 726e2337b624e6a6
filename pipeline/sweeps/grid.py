"""Train VAEs over a grid of beta and seed, several at once, to explore; ``dvc exp run`` keeps results under DVC."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from pydantic import ValidationError

from pipeline.errors import ParamsError
from pipeline.params import Params
from pipeline.sweeps.evaluations import run_evaluations
from pipeline.sweeps.trainings import Training, run_trainings

MODEL = "vae"


def grid(params: Params, betas: Sequence[float], seeds: Sequence[int]) -> dict[str, Params]:
    """Return the params of each grid point by its file name. Raises ParamsError for a beta or seed that is not allowed.

    >>> from pipeline.params import load_params
    >>> list(grid(load_params("params.yaml"), [1, 4], [1]))
    ['vae_beta1_seed1', 'vae_beta4_seed1']
    """
    points, values = {}, params.model_dump()
    values["train"]["threads"] = params.pool.threads
    for beta, seed in product(betas, seeds):
        try:
            points[f"{MODEL}_beta{beta:g}_seed{seed}"] = Params.model_validate(values | {"beta": float(beta), "seed": seed})
        except ValidationError as error:
            detail = error.errors()[0]
            raise ParamsError(f"--{detail['loc'][0]}s: {detail['input']!r} is not allowed; {detail['msg']}") from None
    return points


def sweep(params: Params, betas: Sequence[float], seeds: Sequence[int], data: Path, classifier: Path, out: Path) -> list[Path]:
    """Train a VAE for each beta and seed with ``pool.threads`` threads, and return the files of weights.

    Each is logged as an MLflow run with the likelihood of the test images. A sweep that was stopped resumes from its checkpoints.
    Raises ParamsError for a beta or seed that is not allowed, and what a single training raises.
    """
    points = grid(params, betas, seeds)
    files = {name: out / f"{name}.safetensors" for name in points}
    trainings = {name: Training(MODEL, own, data, out, name, "sweep") for name, own in points.items()}
    checkpoints = run_trainings(trainings, params)
    test = {"families": ["test"]}
    run_evaluations({name: ((name, files[name], own, data, classifier), test) for name, own in points.items()}, params)
    for saved in checkpoints:  # not earlier: a sweep that is killed while it evaluates must not train again
        saved.clear()
    return list(files.values())
