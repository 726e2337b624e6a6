"""Numbers that git tracks: stable order, six significant digits, so that a diff shows what changed and not how it was written."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.files import write


def significant(value: Any) -> Any:
    """Round every float in a nest of mappings and sequences to six significant digits.

    Raises ValueError for a number that is not finite: no metrics file holds one.

    >>> significant({"recon": 132.20001234, "per_dim": [0.1234567]})
    {'recon': 132.2, 'per_dim': [0.123457]}
    """
    if isinstance(value, Mapping):
        return {key: significant(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [significant(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
        return float(f"{value:.6g}")
    return value


def save_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write nested metrics as JSON, rounded, in the order given. Raises ValueError for NaN and infinity."""
    write(path, json.dumps(significant(values), indent=2, allow_nan=False) + "\n")


def save_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the columns of the first one, rounded. Raises ValueError for NaN, infinity and unknown columns."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(significant(list(rows)))
    write(path, text.getvalue())


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers in nested metrics by their path, ``test/recon``, as MLflow names them.

    >>> flatten({"model": "vae", "test": {"recon": 132.2, "kl_per_dim": [3.1, 3.2]}})
    {'test/recon': 132.2, 'test/kl_per_dim/0': 3.1, 'test/kl_per_dim/1': 3.2}
    """
    numbers: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, list):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, Mapping):
            numbers |= flatten(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[f"{prefix}{key}"] = float(value)
    return numbers
