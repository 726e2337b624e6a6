"""Read the models to explore: results, decoders, encoders, and a sweep's models of other betas."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.data import Dataset, Images, intensities, load_dataset
from pipeline.errors import DAMAGED, IntegrityError
from pipeline.evaluation.results import Results, load_results
from pipeline.explorer.networks import KINDS, Layers, NotExplorable, check_kinds, compute, mean_intensities, read_layers
from pipeline.storage import Header, check_arrays, load_arrays, md5, refusing

BATCH = 500  # images per pass
CHECKED = 20  # test images whose codes an encoder must give
CLOSE = 1e-3  # to what torch computed; other layers are further off


class Networks(NamedTuple):
    """The layers of a model's decoder, what its outputs stand for, and the layers of its encoder where the page can run it."""

    decoder: Layers
    likelihood: str = "bernoulli"
    encoder: Layers = ()


@dataclass(frozen=True)
class Explored:
    """One model to explore: its codes of the test images, and its networks.

    ``replay`` ``[1 + epochs, n, d]`` are the codes of the first test images before its training and after each epoch.
    """

    results: Results
    networks: Networks
    replay: np.ndarray | None = None


def read_networks(weights: Path, images: np.ndarray, codes: np.ndarray, decoded: tuple[np.ndarray, np.ndarray]) -> Networks:
    """Return the networks in a file of weights, without torch.

    A file does not say all about its layers. So the decoder must give known images at known codes, ``decoded`` ``[K, d]`` and
    ``[K, C, H, W]``, and the encoder the ``codes`` ``[N, d]`` of the test ``images`` ``[N, C, H, W]`` (bytes), or it is left out.

    Raises IntegrityError naming the file when it is missing or damaged, NotExplorable for another kind of decoder.
    """
    arrays, header = load_arrays(weights)
    check_kinds(header, weights)
    likelihood = str(header.get("config", {}).get("likelihood", "bernoulli"))
    decoder = read_layers("decoder", arrays, images.shape[1:], weights)
    at, expected = decoded
    if decoder[0].inputs != (codes.shape[1], 1, 1):
        raise IntegrityError(f"{weights}: the decoder and the results are of different shapes; run `dvc repro`")
    if len(at) and not np.allclose(mean_intensities(compute(decoder, at), likelihood), expected, rtol=0, atol=CLOSE):
        raise NotExplorable(f"{weights}: the explorer runs {KINDS}; this decoder computes something else")
    try:
        encoder = read_layers("encoder", arrays, images.shape[1:], weights)
    except NotExplorable:
        return Networks(decoder, likelihood)
    dim, known = codes.shape[1], codes[:CHECKED]
    outputs = compute(encoder, intensities(images[:CHECKED])).reshape(len(known), -1) if encoder else np.empty((0, 0))
    fits = outputs.shape[1] in (dim, 2 * dim) and np.allclose(outputs[:, :dim], known, rtol=CLOSE, atol=CLOSE)
    return Networks(decoder, likelihood, encoder if fits else ())


def _decoded(results: Results, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the code of a test image and the image that torch decoded there, from the results; none where they have none."""
    if "reconstructions" not in results:
        return np.empty((0, 1)), np.empty(0)
    first = np.rint(255 * results["inputs"][0]).astype(np.uint8)
    at = np.flatnonzero((images == first).all(axis=(1, 2, 3)))[:1]
    return results["codes"][at], results["reconstructions"][: len(at)]


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
        if md5(weights) != found.weights_md5:
            raise IntegrityError(f"{path}: results of other weights than {weights}; run `dvc repro` to evaluate these")
        images = _test_images(dataset, found, data).pixels[:]
        networks = read_networks(weights, images, found["codes"], _decoded(found, images))
        explored[path.stem] = Explored(found, networks, _replay(models / "replay" / path.name, found))
    return explored, images


def add_sweep(explored: dict[str, Explored], folders: Sequence[Path], images: np.ndarray) -> list[list[Explored]]:
    """Return each model with those of other betas in and below some folders, with their codes of the test ``images``.

    Of each beta it is the first one, by path, with as many latent dimensions as the model.
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
        if beta in cards.get(name, {beta}) or trained.config.latent_dim != explored[name].results["codes"].shape[1]:
            continue
        results = explored[name].results
        if trained.dataset != results.dataset or trained.config.image_shape != images.shape[1:]:
            raise IntegrityError(f"{path}: another data set than the results'; a sweep is shown on the same images")
        with torch.no_grad():
            posteriors = [trained.model.encode(x) for x in torch.from_numpy(intensities(images)).split(BATCH)]
        arrays = {array: results[array] for array in ("inputs", "labels") if array in results}
        arrays["codes"] = torch.cat([posterior.mean for posterior in posteriors]).numpy()
        arrays["spread"] = torch.cat([posterior.std for posterior in posteriors]).numpy()
        decoded = arrays["codes"][:1], trained.predict(intensities(images[:1]))["reconstruction"]
        networks = read_networks(path, images, arrays["codes"], decoded)
        cards[name][beta] = Explored(replace(results, beta=beta, arrays=arrays), networks)
    return [list(card.values()) for card in cards.values()]
