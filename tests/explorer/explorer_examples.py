"""Untrained models with contrast, results of them made by hand, and a folder with all that the stage reads."""

from pathlib import Path

import numpy as np
import torch

from pipeline.data import Dataset, Images, intensities, save_dataset
from pipeline.evaluation.results import Results, save_results
from pipeline.explorer.loading import Explored, Networks
from pipeline.explorer.networks import read_layers
from pipeline.models import ModelConfig
from pipeline.models.weights import Trained, save_weights
from pipeline.storage import md5, save_arrays
from stages.explorer import main

SHAPE = (1, 28, 28)
SWEEP = (0.5, 2.0, 8.0)
LABELS = np.arange(300) % 10
LETTERS = np.where(np.arange(300) < 26, np.arange(300) + 65, 66)  # of class 65 there is one, the others than 66 are rare
NAMES = tuple(f"{size} thing number {number}" for number in range(5) for size in ("A small", "Large"))


def trained(name, dim, beta, hidden=(32, 16), seed=0, net="mlp", shape=SHAPE, likelihood="bernoulli"):
    """A model whose decoder, though untrained, decodes images with contrast."""
    torch.manual_seed(seed)
    config = ModelConfig(name, net, shape, dim, hidden, likelihood)
    model = config.build()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(2.5 if net == "mlp" else 4.0)
    return Trained(model.eval(), config, "digits", beta)


def images(shape=SHAPE):
    """Images [N, C, H, W] of a random pattern for each class, with noise, mostly dark."""
    random, (channels, height, width) = np.random.default_rng(0), shape
    patterns = (random.random((10, channels, 7, 7)) < 0.3).repeat(-(-height // 7), 2).repeat(-(-width // 7), 3)
    noise = random.integers(0, 56, (len(LABELS), *shape))
    return (200 * patterns[LABELS, :, :height, :width] + noise).astype(np.uint8)


def results(name, dim, beta, weights_md5="", labels=LABELS, with_map=False, shape=SHAPE, classes=()):
    arrays = {
        "codes": np.random.default_rng(dim).normal(LABELS[:, None] % 4, 0.3, (len(LABELS), dim)).astype(np.float32),
        "inputs": images(shape)[:10] / np.float32(255),
    }
    if labels is not None:
        arrays["labels"] = labels
    if with_map:
        arrays |= {"map_axes": np.linspace(-1, 4, 5) * np.ones((2, 1)), "confidence_map": np.linspace(0, 1, 25).reshape(5, 5)}
    return Results("digits", name, beta, 0, [], weights_md5, arrays, classes)


def networks(model):
    """The networks of a trained model."""
    arrays = {name: tensor.numpy(force=True) for name, tensor in model.model.state_dict().items()}
    decoder, encoder = (read_layers(part, arrays, model.config.image_shape, Path("x")) for part in ("decoder", "encoder"))
    return Networks(decoder, encoder=encoder)


def cards(dim, hidden=(32, 16), net="mlp", shape=SHAPE, **options):
    """An autoencoder and a VAE, a card each."""
    parts = [(n, results(n, dim, b, shape=shape, **options)) for n, b in (("ae", None), ("vae", 4.0))]
    return [[Explored(found, networks(trained(n, dim, None, hidden, net=net, shape=shape)))] for n, found in parts]


def workspace(folder, dim, hidden=(32, 16), labels=LABELS, classes=(), **options):
    """Write all that the stage reads; ``options`` are those of the models."""
    shape = options.get("shape", SHAPE)
    pixels = images(shape)
    for name, beta in (("ae", None), ("vae", 1.0)):
        path = folder / "models" / f"{name}.safetensors"
        model = trained(name, dim, beta, hidden, **options)
        save_weights(path, model)
        made = results(name, dim, beta, md5(path), labels, dim == 2, shape, classes)
        with torch.no_grad():
            posterior = model.model.encode(torch.from_numpy(intensities(pixels)))
        reconstructions = model.predict(made["inputs"])["reconstruction"]
        made.arrays.update(codes=posterior.mean.numpy(), spread=posterior.std.numpy(), reconstructions=reconstructions)
        save_results(folder / "results" / path.name, made)
        if name == "vae":
            codes = np.linspace(0, 1, 4, dtype=np.float32)[:, None, None] * made["codes"][:100]
            save_arrays(folder / "models" / "replay" / path.name, {"codes": codes}, {"weights_md5": md5(path)})
    for seed, beta in enumerate(SWEEP, 1):
        save_weights(folder / "sweep" / f"{beta}.safetensors", trained("vae", dim, beta, hidden, seed, **options))
    test = Images(pixels, labels)
    save_dataset(folder / "dataset.safetensors", Dataset("digits", test, test, classes))


def stage(folder, *options):
    """Run the stage in such a folder; return the page."""
    out = folder / "explorer.html"
    given = {"--results": "results", "--models": "models", "--data": "dataset.safetensors", "--out": out.name}
    words = [word for option, name in given.items() for word in (option, str(folder / name))]
    main.main([*words, *options], standalone_mode=False)
    return out
