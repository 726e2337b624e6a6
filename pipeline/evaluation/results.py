"""The arrays of one evaluated model: written once, read by figures, explorer and claims without torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from pipeline.storage import Arrays, ClassName, Header, Name, check_arrays, load_arrays, refusing, save_arrays

# How the names of data sets are written; others as they are.
DATASETS = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "kmnist": "KMNIST"}

# Type and axes of the arrays that `Results` describes, by name or pattern (see check_arrays).
AXES = {
    "codes": "f N d",
    "spread": "f N d",
    "labels": "i N",
    "test_indices": "i N",
    "inputs": "f K C H W",
    "reconstructions": "f K C H W",
    "prior_samples": "f * C H W",
    "manifold*": "f * * C H W",
    "traversals": "f * * C H W",
    "interpolations": "f R * C H W",
    "interpolation_ends": "f R 2 C H W",
    "image_predicted_class": "i N",
    "image_*": "f N",
    "pair_same_class": "b P",
    "pair_*": "f P",
    "off_manifold_*": "b *",
    "real_features": "f * F",
    "sample_features": "f S * F",
    "sample_images": "f S * C H W",
    "frechet_distances": "f S",
    "frechet_distance_real": "f 1",
    "map_axes": "f 2 M",
    "*_map": "f M M",
    "map_codes": "f L 2",
    "hole_code": "f 2",
    "hole_image": "f C H W",
    "confidence_*": "f *",
    "worst": "f 2 * C H W",
    "misclassified": "f 2 * C H W",
}


@dataclass(frozen=True)
class Results:
    """One model's measurements that are arrays, by name; arrays that do not apply to the model or the data are absent.

    Images are intensities in [0, 1]; d is the latent dimension, N the number of test images.

    - ``codes``, ``spread`` [N, d]: posterior means of the test images, and their standard deviations (zeros for a point);
      ``labels`` [N]: their classes; ``test_indices`` [N]: where they stand in the data set.
    - ``inputs``, ``reconstructions`` [K, C, H, W]: some test images of each class, and their reconstructions;
      ``prior_samples`` [16, C, H, W]: decoded samples from N(0, I), at the same latent points for every model.
    - ``manifold``, ``manifold_quantiles`` [M, M, C, H, W] (d = 2): the decoded plane over [-3, 3]^2, and at quantiles of the
      standard normal; the second axis goes upwards. ``traversals`` [min(d, 32), S, C, H, W] (d > 2): one axis from -3 to 3.
    - ``interpolations`` [R, S, C, H, W]: decoded straight lines between the codes of pairs of test images, which are
      ``interpolation_ends`` [R, 2, C, H, W].
    - ``image_*`` [N]: the columns of the table of test images, for example ``image_recon``.
    - ``pair_*`` [P]: interpolations of pairs of test images (same_class, tortuosity, jump_share, class_switches, entropy).
    - ``confidence_M``, ``off_manifold_M`` [K]: the classifier's top probability at points of the reference measure M (prior,
      matched, hull), and whether the decoded image is off the manifold.
    - ``real_features`` [K, F]: features of real test images. ``sample_features`` [S, K, F], ``sample_images``
      [S, 20, C, H, W] and ``frechet_distances`` [S]: decoded samples of each of ``samplers``; ``frechet_distance_real`` [1]: of
      other real images.
    - ``map_axes`` [2, M]: coordinates of the maps over the latent plane; row 0 of a map is the end of the second axis.
      ``confidence_map``, ``density_map``, ``volume_map`` [M, M]: the classifier's top probability, the codes' log density, the
      decoder's log sqrt det J^T J. ``map_codes`` [K, 2]: test images on them. ``hole_code`` [2], ``hole_image`` [C, H, W]: where
      the confidence is lowest in the half of the map with most codes, and the image decoded there.
    - ``worst``, ``misclassified`` [2, 10, C, H, W]: images above their reconstructions; the largest errors, and the highest
      confidence in a wrong class, first one for each class that they are taken for, then a second, and so on.
    """

    dataset: str
    model: str  # its name in files and figures
    beta: float | None  # weight of the KL term in training; None for a model without one
    seed: int
    samplers: list[str]
    weights_md5: str  # the weights' hash in dvc.lock; it identifies the MLflow run
    arrays: Arrays
    classes: tuple[str, ...] = ()  # the name of each label, empty where a class is called by its number

    def __getitem__(self, name: str) -> np.ndarray:
        """Return an array by its name. Raises KeyError when it is absent."""
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    @property
    def has_prior(self) -> bool:
        """Whether training had a KL term, which pulls the codes towards N(0, I)."""
        return self.beta is not None

    @property
    def data(self) -> str:
        """The data set's display name."""
        return DATASETS.get(self.dataset, self.dataset)

    @property
    def label(self) -> str:
        """The model's display name, with its beta.

        >>> Results("mnist", "vae", 4.0, 1, [], "", {}).label
        'VAE, β = 4'
        """
        name = self.model.replace("_", " ")
        name = name.upper() if len(name) < 4 else name
        return name if self.beta is None else f"{name}, β = {self.beta:g}"

    @property
    def title(self) -> str:
        """The model's display name, with data set (unless empty) and beta, for a figure's title.

        >>> Results("mnist", "vae", 4.0, 1, [], "", {}).title
        'VAE on MNIST, β = 4'
        """
        name, *beta = self.label.split(", ")
        return ", ".join([f"{name} on {self.data}" if self.dataset else name, *beta])


class _Header(Header):
    dataset: Name
    model: Name
    beta: float | None = Field(ge=0)
    seed: int
    samplers: list[str]
    weights_md5: str = Field(pattern=r"^[\w -]*$", max_length=64)
    classes: list[ClassName] = Field([], max_length=1 << 16)


def save_results(path: str | Path, results: Results) -> None:
    """Write results to one file; equal results give equal bytes."""
    header = {name: value for name, value in vars(results).items() if name != "arrays"}
    save_arrays(path, results.arrays, header)


def load_results(path: str | Path) -> Results:
    """Read results. Raises IntegrityError naming the file when it is missing or damaged."""
    arrays, header = load_arrays(path)
    with refusing(path, "results"):
        _Header.check(header)
        check_arrays(arrays, AXES, S=len(header["samplers"]))
        limit = len(header.get("classes", ())) or 1 << 16
        for name in {"labels", "image_predicted_class"} & arrays.keys():
            if not 0 <= arrays[name].min() <= arrays[name].max() < limit:
                raise ValueError(f"{name}: not those of a data set")
        return Results(**header | {"classes": tuple(header.get("classes", ()))}, arrays=arrays)
