"""The metrics by section of the metrics file; a new one is a function in a file beside this one and a line here."""

from collections.abc import Callable, Iterable

from pipeline.evaluation.bounds import bounds
from pipeline.evaluation.geometry import geometry
from pipeline.evaluation.holes import holes
from pipeline.evaluation.images import images, table
from pipeline.evaluation.latent import latent
from pipeline.evaluation.likelihood import likelihood
from pipeline.evaluation.pictures import pictures
from pipeline.evaluation.samplers import SAMPLERS
from pipeline.evaluation.samples import samples
from pipeline.evaluation.smoothness import smoothness
from pipeline.evaluation.subject import PROFILES, Budget, Findings, Subject

METRICS: dict[str, Callable[[Subject], Findings]] = {
    "test": likelihood,
    "bounds": bounds,
    "latent": latent,
    "geometry": geometry,
    "smoothness": smoothness,
    "holes": holes,
    "samples": samples,
    "images": images,
}

__all__ = ["METRICS", "PROFILES", "SAMPLERS", "Budget", "Findings", "Subject", "measure", "pictures", "table"]


def measure(subject: Subject, sections: Iterable[str] = METRICS) -> Findings:
    """Return the findings of all sections as one: numbers by section (none where one does not apply), columns, arrays.

    Args:
        subject: the trained model and its images.
        sections: names in :data:`METRICS`; any iterable, so also one that shows progress.
    """
    found = {section: METRICS[section](subject) for section in sections}
    numbers = {section: findings.numbers for section, findings in found.items() if findings.numbers}
    columns = {name: column for findings in found.values() for name, column in findings.per_image.items()}
    arrays = {name: array for findings in found.values() for name, array in findings.arrays.items()}
    return Findings(numbers, columns, arrays | {f"image_{name}": column for name, column in columns.items()})
