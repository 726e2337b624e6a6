"""The gate: whether a metric got worse than at another revision, by more than gate.yaml allows."""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field

from pipeline import stats
from pipeline.errors import ParamsError
from pipeline.params import Section, load_yaml
from pipeline.reporting.revision import ComparisonError, Markdown, Sides, is_number, markdown, per_image, table
from pipeline.tracking.origin import git

RULES = "gate.yaml"
Metric = Annotated[str, Field(pattern=r"^\w[\w.@+=-]*(/\w[\w.@+=-]*)+$")]

ERRORS = 2.0  # standard errors of the difference that are allowed beyond the tolerance
ROUNDING = 1e-5  # relative; metrics files hold six significant digits


class Rule(Section):
    """The direction of an improvement, the largest loss that passes in the metric's unit, and whether a side may lack it."""

    better: Literal["higher", "lower"]
    tolerance: Annotated[float, Field(ge=0)]
    optional: bool = False


class Gate(Section):
    """The content of gate.yaml: values that must be equal on both sides, and rules by metric, ``vae/test/elbo``."""

    same: list[Metric]
    metrics: Annotated[dict[Metric, Rule], Field(min_length=1)]


def load_rules(rules: Path | None, against: str) -> tuple[Gate, str]:
    """Return the rules and a sentence that says where they are from.

    They are those of a file that is named, else gate.yaml of the other revision, so that a change cannot bring rules of its own,
    else the one here. Raises ParamsError for rules that are none, and when git fails.
    """
    if rules:
        return load_yaml(rules, Gate), f"Rules: {markdown(rules)}."
    if not git("ls-tree", "--name-only", against, f"./{RULES}"):
        return load_yaml(RULES, Gate), f"Rules: {RULES} here, as {markdown(against)} has none."
    content = git("show", f"{against}:./{RULES}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, RULES)
        path.write_bytes(content)
        try:
            gate = load_yaml(path, Gate)
        except ParamsError as error:
            problem = str(error).replace(str(path), f"{RULES} at {against}")
            raise ParamsError(f"{problem}; `--rules {RULES}` takes the one here") from None
    differs = not Path(RULES).is_file() or Path(RULES).read_bytes() != content
    return gate, f"Rules: {RULES} at {markdown(against)}{', which differs from the one here' if differs else ''}."


class Verdict(NamedTuple):
    """How a metric changed: the loss is by how much it got worse, and the interval says where its standard error comes from."""

    metric: str
    old: float
    new: float
    loss: float
    allowed: float  # the tolerance and two standard errors of the loss
    interval: str  # "paired", "unpaired" or "none"

    @property
    def worse(self) -> bool:
        """Whether the loss is over what is allowed, not counting the rounding of decimals: 0.1 + 0.2 is not over 0.3."""
        return not (self.loss <= self.allowed or math.isclose(self.loss, self.allowed, abs_tol=1e-9 * abs(self.old)))


def difference_error(name: str, sides: Sides, tables: tuple[pd.DataFrame, pd.DataFrame] | None) -> tuple[float, str]:
    """Return the standard error of a metric's difference: paired by image if possible, else from ``NAME_se``, else 0 (none)."""
    column = name.split("/")[-1]  # of the images' values, if it averages to the metric
    if tables and all(
        column in side
        and pd.api.types.is_numeric_dtype(side[column])
        and math.isclose(side[column].mean(), value, rel_tol=ROUNDING)
        for side, value in zip(tables, sides[name], strict=True)
    ):
        difference = tables[1][column].to_numpy(np.float64) - tables[0][column].to_numpy(np.float64)
        return stats.standard_error(difference), "paired"
    errors = sides.get(f"{name}_se", (None, None))
    return (math.hypot(*errors), "unpaired") if all(map(is_number, errors)) else (0.0, "none")


def verdicts(gate: Gate, sides: Sides, against: str) -> list[Verdict]:
    """Return a verdict for each metric of the gate that both sides have.

    Raises ComparisonError when the sides measured different things, or a metric that is not optional is missing.
    """
    for name in gate.same:
        old, new = sides.get(name, (None, None))
        if old is None or old != new:
            raise ComparisonError(f"{name} must be the same on both sides: {old} at {against}, {new} here; nothing is compared")
    tables = {model: per_image(model, against) for model in sorted({name.split("/")[0] for name in gate.metrics})}
    found, missing = [], []
    for name, rule in gate.metrics.items():
        old, new = sides.get(name, (None, None))
        if is_number(old) and is_number(new):
            loss = float(old) - float(new) if rule.better == "higher" else float(new) - float(old)
            error, interval = difference_error(name, sides, tables[name.split("/")[0]])
            found.append(Verdict(name, old, new, loss, rule.tolerance + ERRORS * error, interval))
        elif not (rule.optional and None in (old, new)):
            missing.append(f"{name} is {old} at {against}, {new} here")
    if missing:
        raise ComparisonError(f"{'; '.join(missing)}: a metric of the gate must be a number, or absent and optional")
    return found


def summary(found: Sequence[Verdict], against: str) -> str:
    """Return the verdicts as a Markdown table and a sentence."""
    rows = [(*verdict, Markdown("**worse**") if verdict.worse else "better" if verdict.loss < 0 else "ok") for verdict in found]
    worse = [verdict.metric for verdict in found if verdict.worse]
    sentence = f"Worse than allowed: {', '.join(map(markdown, worse))}." if worse else "No metric got worse than allowed."
    return f"{table(('metric', against, 'here', 'loss', 'allowed', 'interval', 'verdict'), rows)}\n\n{sentence}"
