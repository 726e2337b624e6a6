"""Read the models to explore: results, decoders, encoders, and a sweep's models of other betas."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.data import Dataset, Images, intensities, load_dataset
from pipeline.errors import DAMAGED, IntegrityError, ParamsError
from pipeline.evaluation.results import Results, load_results
from pipeline.storage import Header, check_arrays, load_arrays, md5, refusing

Layers = Sequence[tuple[np.ndarray, np.ndarray]]
"""Weight ``[out, in]`` and bias ``[out]`` of each linear layer."""
CHECKED = 20  # test images whose codes an encoder must give


class NotExplorable(ParamsError):
    """A model or its images are of a kind that the explorer does not show."""


@dataclass(frozen=True)
class Explored:
    """One model to explore: its codes of the test images, its decoder, and its encoder where the page can run it.

    ``replay`` ``[1 + epochs, n, d]`` are the codes of the first test images before its training and after each epoch.
    """

    results: Results
    layers: Layers
    encoder: Layers = ()
    replay: np.ndarray | None = None


def layers(weights: Path) -> Layers:
    """Return the linear layers of the decoder in a file of weights, without torch.

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


def encoder_layers(weights: Path, images: np.ndarray, codes: np.ndarray) -> Layers:
    """Return the linear layers of the encoder, or none where it is not such layers with a ReLU between every two.

    Whether it is, the ``codes`` ``[N, d]`` of the test ``images`` ``[N, C, H, W]`` (bytes) tell: these layers must give them.
    """
    arrays, _ = load_arrays(weights)
    names = sorted((name for name in arrays if name.startswith("encoder.")), key=lambda name: (len(name), name))
    found = [
        (arrays[name], arrays[bias]) for name in names if (bias := name.replace("weight", "bias")) != name and bias in arrays
    ]
    x = intensities(images[:CHECKED]).reshape(len(images[:CHECKED]), -1)
    for depth, (weight, offset) in enumerate(found):
        if weight.ndim != 2 or weight.shape[1] != x.shape[1]:
            return ()
        x = (np.maximum(x, 0) if depth else x) @ weight.T + offset
    dim, known = codes.shape[1], codes[:CHECKED]
    return found if x.shape[1] in (dim, 2 * dim) and np.allclose(x[:, :dim], known, rtol=1e-3, atol=1e-3) else ()


def _test_images(dataset: Dataset, results: Results, path: Path) -> Images:
    """Return the test images of the results' codes. Raises IntegrityError for another data set."""
    indices = results.arrays.get("test_indices", np.arange(len(results["codes"])))
    test = dataset.test.take(indices[(indices >= 0) & (indices < len(dataset.test))])
    same = np.array_equal([] if test.labels is None else test.labels, results.arrays.get("labels", []))
    if dataset.name != results.dataset or len(test) != len(indices) or not same:
        raise IntegrityError(f"{path}: another data set than the results'; run `dvc repro` to evaluate on this one")
    return test


class _ReplayHeader(Header):
    weights_md5: str


def _replay(path: Path, results: Results) -> np.ndarray | None:
    """Return the codes in a file of ``models/replay``, if there is one. Raises IntegrityError for those of other weights."""
    if not path.exists():
        return None
    arrays, header = load_arrays(path)
    with refusing(path, "a replay"):
        _ReplayHeader.check(header)
        check_arrays(arrays, {"codes": f"f4 * * {results['codes'].shape[1]}"})
        codes = arrays["codes"]
    if header["weights_md5"] != results.weights_md5:
        raise IntegrityError(f"{path}: of another training than the results; run `dvc repro` to train again")
    return codes


def load_explored(results: Path, models: Path, data: Path) -> tuple[dict[str, Explored], np.ndarray]:
    """Return the models in the folder ``results`` by name, and the bytes ``[N, C, H, W]`` of their test images in ``data``.

    Raises IntegrityError where ``models`` lacks their weights or ``data`` is another data set.
    """
    explored: dict[str, Explored] = {}
    images, dataset = np.empty((0, 1, 0, 0), np.uint8), load_dataset(data)
    for path in sorted(results.glob("*.safetensors")):
        weights, found = models / path.name, load_results(path)
        decoder = layers(weights)
        if md5(weights) != found.weights_md5:
            raise IntegrityError(f"{path}: results of other weights than {weights}; run `dvc repro` to evaluate these")
        images = _test_images(dataset, found, data).pixels
        encoder = encoder_layers(weights, images, found["codes"])
        explored[path.stem] = Explored(found, decoder, encoder, _replay(models / "replay" / path.name, found))
    return explored, images


def add_sweep(explored: dict[str, Explored], folders: Sequence[Path], images: np.ndarray) -> list[list[Explored]]:
    """Return each model with those of other betas in and below some folders, with their codes of the test ``images``.

    Raises IntegrityError for models of another data set.
    """
    import torch  # which only a sweep needs: it has no codes yet

    from pipeline.models.weights import load_weights

    cards = {name: {one.results.beta: one} for name, one in explored.items()}
    for path in (path for folder in folders for path in sorted(folder.rglob("*.safetensors"))):
        try:
            trained = load_weights(path)
        except IntegrityError as error:  # DVC does not know a sweep's files
            raise IntegrityError(str(error).replace(DAMAGED, "delete it and run `latent sweep` again")) from None
        name, beta = trained.config.model, trained.beta
        if beta in cards.get(name, {beta}):
            continue
        results = explored[name].results
        if trained.dataset != results.dataset or trained.config.image_shape != images.shape[1:]:
            raise IntegrityError(f"{path}: another data set than the results'; a sweep is shown on the same images")
        with torch.no_grad():
            posterior = trained.model.encode(torch.from_numpy(intensities(images)))
        arrays = {array: results[array] for array in ("inputs", "labels") if array in results}
        arrays |= {"codes": posterior.mean.numpy(), "spread": posterior.std.numpy()}
        shown = replace(results, beta=beta, arrays=arrays)
        cards[name][beta] = Explored(shown, layers(path), encoder_layers(path, images, arrays["codes"]))
    return [list(card.values()) for card in cards.values()]
