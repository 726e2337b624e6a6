"""What the claims ledger needs beyond the pipeline's own two models."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.params import Params

GROUPS = ("matched", "contrast", "seeds")


@dataclass(frozen=True)
class Variant:
    """A model to train and measure."""

    group: str
    """Which stage trains it; a group depends on the params of its own models alone."""
    name: str
    """What it is called in the ledger."""
    model: str
    """Its name in the registry of models."""
    params: Params
    """All of params.yaml, with what makes it a variant."""

    def folder(self, root: Path) -> Path:
        """Return where its weights and history lie below a folder of variants."""
        return root / self.group / f"{self.name}_{self.params.seed}"


def variants(params: Params) -> Iterator[Variant]:
    """Yield the variants that params.yaml asks for.

    For each of ``evaluate.seeds`` seeds from ``seed`` on: an autoencoder with the VAE's hidden layers, so that depth is not
    mistaken for principle; a VAE at ``evaluate.contrast_beta``; and, beyond the first seed, the pipeline's own two models.
    """
    matched = params.ae.model_copy(update={"hidden_dims": params.vae.hidden_dims})
    for seed in range(params.seed, params.seed + params.evaluate.seeds):
        here = params.model_copy(update={"seed": seed})
        if seed != params.seed:
            yield Variant("seeds", "ae", "ae", here)
            yield Variant("seeds", "vae", "vae", here)
        yield Variant("matched", "ae_matched", "ae", here.model_copy(update={"ae": matched}))
        yield Variant("contrast", "vae_contrast", "vae", here.model_copy(update={"beta": params.evaluate.contrast_beta}))
