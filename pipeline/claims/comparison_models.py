"""The models that the claims need besides the two of the main pipeline."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.params import Params

GROUPS = ("comparison", "seeds")
FAMILIES = ("test", "interpolation", "holes", "sample_quality")  # the families of metrics that the claims read


@dataclass(frozen=True)
class ComparisonModel:
    """A model to train and evaluate."""

    group: str  # the stage that trains it: only the group `seeds` depends on `beta`, so another beta retrains no `comparison`
    name: str  # in files, figures and the ledger
    model: str  # its name in the registry of models
    params: Params  # all of params.yaml, with the changes for this model

    @property
    def label(self) -> str:
        """Name and seed, unique among the comparison models."""
        return f"{self.name}_{self.params.seed}"

    def folder(self, root: Path) -> Path:
        """Return the folder of its weights and history below the folder of all models."""
        return root / self.group / self.label


def comparison_models(params: Params) -> Iterator[ComparisonModel]:
    """Yield the comparison models that params.yaml asks for, each to be trained with ``pool.threads`` threads.

    For each of ``claims.seeds`` seeds from ``seed`` on: an autoencoder with the VAE's hidden layers, which separates the effect
    of depth; a VAE at ``claims.comparison_beta`` and, if that is the main pipeline's ``beta``, one at beta 1; beyond the first
    seed, the two models of the main pipeline.
    """
    depth_matched = params.ae.model_copy(update={"net": params.vae.net, "hidden_dims": params.vae.hidden_dims})
    train = params.train.model_copy(update={"threads": params.pool.threads})
    for seed in range(params.seed, params.seed + params.claims.seeds):
        own = params.model_copy(update={"seed": seed, "train": train})
        yield ComparisonModel("comparison", "ae_depth_matched", "ae", own.model_copy(update={"ae": depth_matched}))
        larger_beta = own.model_copy(update={"beta": params.claims.comparison_beta})
        yield ComparisonModel("comparison", "vae_larger_beta", "vae", larger_beta)
        if params.beta == params.claims.comparison_beta != 1:
            yield ComparisonModel("seeds", "vae_beta_1", "vae", own.model_copy(update={"beta": 1.0}))
        if seed != params.seed:
            yield ComparisonModel("seeds", "ae", "ae", own)
            yield ComparisonModel("seeds", "vae", "vae", own)
