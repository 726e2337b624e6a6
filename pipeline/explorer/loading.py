"""Read the models to explore: results, decoders, and a sweep's models of other betas."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.errors import DAMAGED, IntegrityError, ParamsError
from pipeline.evaluation.results import Results, load_results
from pipeline.storage import check_arrays, load_arrays, md5, refusing


class NotExplorable(ParamsError):
    """A model or its images are of a kind that the explorer does not show."""


@dataclass(frozen=True)
class Explored:
    """One model to explore: its codes of the test images, and its decoder."""

    results: Results
    layers: Sequence[tuple[np.ndarray, np.ndarray]]


def layers(weights: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return weight ``[out, in]`` and bias ``[out]`` of each linear layer of the decoder in a file of weights, without torch.

    Raises IntegrityError naming the file when it is missing or damaged, NotExplorable for another kind of decoder.
    """
    arrays, header = load_arrays(weights)
    listed = header.get("decoder")
    kinds = list(map(str, listed)) if isinstance(listed, list) else []
    if len(kinds) % 2 == 0 or kinds != ["ReLU" if index % 2 else "Linear" for index in range(len(kinds))]:
        found = ", ".join(kinds) or "unknown; train the model again"
        raise NotExplorable(f"{weights}: the explorer decodes linear layers with a ReLU between every two; these are {found}")
    names = [f"decoder.{index}" for index in range(0, len(kinds), 2)]
    if missing := [part for name in names for part in (f"{name}.weight", f"{name}.bias") if part not in arrays]:
        raise NotExplorable(f"{weights}: the explorer decodes linear layers with a bias; there is no {missing[0]}")
    axes = {f"{name}.weight": f"f4 n{depth + 1} n{depth}" for depth, name in enumerate(names)}
    axes |= {f"{name}.bias": f"f4 n{depth}" for depth, name in enumerate(names, 1)}
    with refusing(weights, "weights"):
        check_arrays({name: arrays[name] for name in axes}, axes)
    return [(arrays[f"{name}.weight"], arrays[f"{name}.bias"]) for name in names]


def load_explored(results: Path, models: Path) -> dict[str, Explored]:
    """Return the models in the folder ``results`` by name. Raises IntegrityError where ``models`` lacks their weights."""
    explored = {}
    for path in sorted(results.glob("*.safetensors")):
        weights = models / path.name
        explored[path.stem] = one = Explored(load_results(path), layers(weights))
        if md5(weights) != one.results.weights_md5:
            raise IntegrityError(f"{path}: results of other weights than {weights}; run `dvc repro` to evaluate these")
    return explored


def add_sweep(explored: dict[str, Explored], sweep: Path, data: Path) -> list[list[Explored]]:
    """Return each model with those of other betas in the folder ``sweep``. Raises IntegrityError for another data set."""
    from pipeline.data import load_dataset
    from pipeline.models.weights import load_weights  # imports torch, which only a sweep needs: it has no codes yet

    dataset = load_dataset(data)
    cards = {name: {one.results.beta: one} for name, one in explored.items()}
    for path in sorted(sweep.glob("*.safetensors")):
        try:
            trained = load_weights(path)
        except IntegrityError as error:  # DVC does not know a sweep's files
            raise IntegrityError(str(error).replace(DAMAGED, "delete it and run `latent sweep` again")) from None
        name, beta = trained.config.model, trained.beta
        if beta in cards.get(name, {beta}):
            continue
        results = explored[name].results
        test = dataset.test.take(slice(len(results["codes"])))
        arrays = {array: results[array] for array in ("inputs", "labels") if array in results}
        same_labels = np.array_equal([] if test.labels is None else test.labels, arrays.get("labels", []))
        if {trained.dataset, dataset.name} != {results.dataset} or not same_labels:
            raise IntegrityError(f"{path}, {data}: another data set than the results'; a sweep is shown on the same images")
        arrays["codes"] = trained.predict(test.intensities)["code"]
        cards[name][beta] = Explored(replace(results, beta=beta, arrays=arrays), layers(path))
    return [list(card.values()) for card in cards.values()]
