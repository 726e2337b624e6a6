"""What the claims ledger and the laboratory's figures need of a model: written by ``evaluate``, read without torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import IntegrityError
from pipeline.files import load_arrays, save_arrays


@dataclass(frozen=True)
class Laboratory:
    """One model's measurements that are arrays, by name; what does not apply to the model or the data is absent.

    - ``image_*`` [N]: columns of the per-image table (recon, recon_at_mean, mse, kl, elbo, log_p, gap, judged_class, ...).
    - ``walk_*`` [P]: pairs of test images (same_class, tortuosity, jump_share, class_switches, entropy).
    - ``top_M``, ``far_M`` [K]: at draws of the reference measure M (prior, matched, hull), the judge's top probability, and
      whether the decoded image is off the manifold.
    - ``real_features`` [K, 64]: real test images as the judge sees them.
    - ``sample_features`` [S, K, 64], ``sample_images`` [S, 20, height, width]: decoded draws of each of ``samplers``.
    - ``map_axes`` [2, M]: coordinates of the maps over the latent plane; their second axis goes upwards, row 0 is its end.
    - ``confidence_map``, ``density_map``, ``volume_map`` [M, M]: the judge's top probability, the codes' log density, the
      decoder's log sqrt det J^T J. ``map_codes`` [K, 2] and ``map_labels`` [K]: test images on them.
    - ``worst``, ``surprising`` [2, 10, height, width]: images above reconstructions; the largest errors, and those that the
      judge most surely takes for another class.
    """

    dataset: str
    model: str
    beta: float | None
    seed: int
    samplers: list[str]
    weights_md5: str
    arrays: dict[str, np.ndarray]

    @property
    def title(self) -> str:
        """The model as people name it, with data set and beta, for a figure's title."""
        name = self.model.replace("_", " ")
        name = name.upper() if len(name) < 4 else name
        return f"{name} on {self.dataset}" + ("" if self.beta is None else f", β = {self.beta:g}")


def save_laboratory(path: str | Path, laboratory: Laboratory) -> None:
    """Write to one file; equal measurements give equal bytes."""
    header = {name: value for name, value in vars(laboratory).items() if name != "arrays"}
    save_arrays(path, laboratory.arrays, header)


def load_laboratory(path: str | Path) -> Laboratory:
    """Read what :func:`save_laboratory` wrote. Raises IntegrityError naming the file when it is missing or damaged."""
    arrays, header = load_arrays(path)
    try:
        return Laboratory(**header, arrays=arrays)
    except TypeError as error:
        raise IntegrityError(f"{path}: not a laboratory of this version ({error}); run `dvc repro evaluate`") from None
