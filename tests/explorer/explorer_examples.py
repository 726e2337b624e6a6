"""Untrained models with contrast, results of them made by hand, and a folder with all that the stage reads."""

import numpy as np
import torch

from pipeline.data import Dataset, Images, intensities, save_dataset
from pipeline.evaluation.results import Results, save_results
from pipeline.explorer.loading import Explored
from pipeline.models import ModelConfig
from pipeline.models.weights import Trained, save_weights
from pipeline.storage import md5, save_arrays
from stages.explorer import main

SHAPE = (1, 28, 28)
SWEEP = (0.5, 2.0, 8.0)
LABELS = np.arange(300) % 10
LETTERS = np.where(np.arange(300) < 26, np.arange(300) + 65, 66)  # of class 65 there is one, the others than 66 are rare


def trained(name, dim, beta, hidden=(32, 16), seed=0):
    """A model whose decoder, though untrained, decodes images with contrast."""
    torch.manual_seed(seed)
    config = ModelConfig(name, "mlp", SHAPE, dim, hidden)
    model = config.build()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(2.5)
    return Trained(model.eval(), config, "digits", beta)


def images():
    """Images [N, 1, 28, 28] of a random pattern for each class, with noise."""
    random = np.random.default_rng(0)
    patterns = random.integers(0, 2, (10, 7, 7)).repeat(4, 1).repeat(4, 2)
    noise = random.integers(0, 56, (len(LABELS), 28, 28))
    return (200 * patterns[LABELS] + noise).astype(np.uint8)[:, None]


def results(name, dim, beta, weights_md5="", labels=LABELS, with_map=False):
    arrays = {
        "codes": np.random.default_rng(dim).normal(LABELS[:, None] % 4, 0.3, (len(LABELS), dim)).astype(np.float32),
        "inputs": images()[:10] / np.float32(255),
    }
    if labels is not None:
        arrays["labels"] = labels
    if with_map:
        arrays |= {"map_axes": np.linspace(-1, 4, 5) * np.ones((2, 1)), "confidence_map": np.linspace(0, 1, 25).reshape(5, 5)}
    return Results("digits", name, beta, 0, [], weights_md5, arrays)


def linear(part, name, dim, hidden=(32, 16)):
    """The linear layers of the encoder or the decoder."""
    model = trained(name, dim, None, hidden).model
    found = [layer for layer in getattr(model, part).children() if isinstance(layer, torch.nn.Linear)]
    return [(layer.weight.numpy(force=True), layer.bias.numpy(force=True)) for layer in found]


def cards(dim, hidden=(32, 16), **options):
    """An autoencoder and a VAE, a card each."""
    parts = [(n, results(n, dim, b, **options)) for n, b in (("ae", None), ("vae", 4.0))]
    return [[Explored(found, linear("decoder", n, dim, hidden), linear("encoder", n, dim, hidden))] for n, found in parts]


def workspace(folder, dim, hidden=(32, 16), **options):
    """Write all that the stage reads."""
    for name, beta in (("ae", None), ("vae", 1.0)):
        path = folder / "models" / f"{name}.safetensors"
        model = trained(name, dim, beta, hidden)
        save_weights(path, model)
        made = results(name, dim, beta, md5(path), with_map=dim == 2, **options)
        with torch.no_grad():
            posterior = model.model.encode(torch.from_numpy(intensities(images())))
        made.arrays.update(codes=posterior.mean.numpy(), spread=posterior.std.numpy())
        save_results(folder / "results" / path.name, made)
        if name == "vae":
            codes = np.linspace(0, 1, 4, dtype=np.float32)[:, None, None] * made["codes"][:100]
            save_arrays(folder / "models" / "replay" / path.name, {"codes": codes}, {"weights_md5": md5(path)})
    for seed, beta in enumerate(SWEEP, 1):
        save_weights(folder / "sweep" / f"{beta}.safetensors", trained("vae", dim, beta, hidden, seed))
    test = Images(images(), options.get("labels", LABELS))
    save_dataset(folder / "dataset.safetensors", Dataset("digits", test, test))


def stage(folder, *options):
    """Run the stage in such a folder; return the page."""
    out = folder / "explorer.html"
    given = {"--results": "results", "--models": "models", "--data": "dataset.safetensors", "--out": out.name}
    words = [word for option, name in given.items() for word in (option, str(folder / name))]
    main.main([*words, *options], standalone_mode=False)
    return out
