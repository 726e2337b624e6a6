"""Results and histories made by hand, for every shape of latent space, of images and of labels."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.text import Text

from pipeline.evaluation.results import Results
from pipeline.figures import Page


def make(model="vae", dimensions=2, beta=4.0, points=60, shape=(1, 8, 6), classes=10, grid=5):
    """Results of random images; without ``classes`` there are no labels, and what needs a classifier is absent.

    The images of a manifold are gray by where they lie: 0.1 more a column, 0.01 more a row upwards.
    """
    random = np.random.default_rng(dimensions)
    groups = np.arange(points) % (classes or 10)

    def images(*sizes):
        return random.random((*sizes, *shape), dtype=np.float32)

    arrays = {
        "codes": random.normal(groups[:, None], 0.3, (points, dimensions)).astype(np.float32),
        "spread": np.full((points, dimensions), 0.1, np.float32),
        "inputs": np.linspace(0, 1, 12 * np.prod(shape), dtype=np.float32).reshape(12, *shape),
        "reconstructions": images(12),
        "prior_samples": images(16),
        "interpolations": images(3, 7),
        "interpolation_ends": images(3, 2),
        "worst": images(2, 10),
    }
    if dimensions == 2:
        gray = 0.1 * np.arange(grid) + 0.01 * np.arange(grid)[::-1, None]
        plane = np.broadcast_to(gray[..., None, None, None], (grid, grid, *shape)).astype(np.float32)
        arrays |= {"manifold": plane, "manifold_quantiles": plane, "volume_map": random.normal(size=(8, 8))}
        arrays |= {"map_axes": np.linspace([-3, -5], [3, 5], 8).T, "map_codes": random.normal(size=(20, 2))}
    if dimensions > 2:
        arrays["traversals"] = images(dimensions, 7)
    if classes:
        arrays |= {"labels": groups, "sample_images": images(4, 20), "frechet_distances": np.array([12.34, 5.0, 4.0, 3.0])}
        arrays |= {"misclassified": images(2, 0), "frechet_distance_real": np.array([0.153])}
        if dimensions == 2:
            confidence = random.uniform(0.4, 1, (8, 8))
            confidence[0, 7] = 0.345  # at the ends of both axes
            arrays |= {"confidence_map": confidence, "hole_code": np.array([3.0, 5.0]), "hole_image": images()}
    return Results("digits", model, beta, 1, ["prior", "gaussian", "gmm10", "kde"], f"md5 of {model}", arrays)


def history(kl=True, epochs=6):
    """A history whose best epoch is the fourth."""
    columns = {"epoch": range(1, epochs + 1)}
    for split in ("train", "val"):
        for term in ("loss", "recon", "kl") if kl else ("loss", "recon"):
            columns[f"{split}/{term}"] = [100.0 + (epoch - 4) ** 2 for epoch in columns["epoch"]]
    return pd.DataFrame(columns)


def two(dimensions=2, **options):
    """A page of an autoencoder and a VAE."""
    models = {"ae": make("ae", dimensions, None, **options), "vae": make("vae", dimensions, **options)}
    return Page(models, {"ae": history(kl=False), "vae": history()}, points=50)


def texts(figure: Figure) -> str:
    """All texts of a figure, a line each."""
    return "\n".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))
