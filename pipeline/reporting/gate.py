"""The gate: whether a metric got worse than at another revision, by more than gate.yaml allows."""

import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field

from pipeline import stats
from pipeline.errors import ParamsError
from pipeline.params import Section, load_yaml
from pipeline.reporting.revision import ComparisonError, Markdown, Sides, is_number, markdown, per_image, table
from pipeline.tracking.origin import git

RULES = "gate.yaml"
Tables = tuple[pd.DataFrame, pd.DataFrame]
Metric = Annotated[str, Field(pattern=r"^\w[\w.@+=-]*(/\w[\w.@+=-]*)+$")]

ERRORS = 2.0  # standard errors of the paired difference that are allowed beyond the tolerance
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


class Change(NamedTuple):
    """How a metric changed and, where the gate has a rule for it, what is allowed."""

    metric: str
    old: float
    new: float
    error: float  # the standard error of the difference, 0 where it is not known
    interval: str  # what that is from: "paired", "unpaired" or "none"
    rule: Rule | None = None
    comparable: bool = True  # whether no classifier measured it, or the same one measured both sides

    @property
    def loss(self) -> float:
        """By how much the metric got worse."""
        return (float(self.new) - float(self.old)) * (-1 if self.rule and self.rule.better == "higher" else 1)

    @property
    def allowed(self) -> float:
        """The loss that passes: the tolerance and, if both sides have the values of each image, two standard errors.

        The unpaired error is not allowed on top: it is several times too large, as both sides measured the same images.
        """
        return (self.rule.tolerance if self.rule else 0.0) + ERRORS * self.error * (self.interval == "paired")

    @property
    def verdict(self) -> str:
        """``worse`` or ``better`` for a change that is larger than what is allowed, else ``same``; empty without a rule."""
        if not self.comparable:
            return "another classifier"
        # The rounding of decimals does not count: 0.4 - 0.1 is not over 0.3.
        within = abs(self.loss) <= self.allowed or math.isclose(abs(self.loss), self.allowed, abs_tol=1e-9 * abs(self.old))
        return "" if not self.rule else "same" if within else "worse" if self.loss > 0 else "better"


def same_classifier(name: str, sides: Sides) -> bool:
    """Return whether no classifier measured a metric, or the same one on both sides."""
    found = re.match(r"(.+?)/(holes/|sample_quality/|interpolation/\w+/(class_switches|entropy)$)", name)
    old, new = sides.get(f"{found[1]}/classifier/md5", (None, None)) if found else (None, None)
    return bool(old == new)


def difference_error(name: str, sides: Sides, tables: Tables | None) -> tuple[float, str]:
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


def changes(names: Iterable[str], rules: Mapping[str, Rule], sides: Sides, against: str) -> list[Change]:
    """Return how the metrics changed that are a number on both sides."""
    found, tables = [], dict[str, Tables | None]()
    for name in names:
        old, new = sides.get(name, (None, None))
        if is_number(old) and is_number(new):
            if (model := name.split("/")[0]) not in tables:
                tables[model] = per_image(model, against)
            error, interval = difference_error(name, sides, tables[model])
            found.append(Change(name, old, new, error, interval, rules.get(name), same_classifier(name, sides)))
    return found


def check(gate: Gate, sides: Sides, against: str) -> None:
    """Raise ComparisonError when the sides measured different things, or lack a metric that is not optional."""
    for name in gate.same:
        old, new = sides.get(name, (None, None))
        if old is None or old != new:
            raise ComparisonError(f"{name} must be the same on both sides: {old} at {against}, {new} here; nothing is compared")
    missing = []
    for name, rule in gate.metrics.items():
        old, new = sides.get(name, (None, None))
        if not (is_number(old) and is_number(new)) and not (rule.optional and None in (old, new)):
            missing.append(f"{name} is {old} at {against}, {new} here")
    if missing:
        raise ComparisonError(f"{'; '.join(missing)}: a metric of the gate must be a number, or absent and optional")


def decision(found: Sequence[Change]) -> str:
    """Return the gate's decision as a sentence, and whether rows are left out of it."""
    worse = [change.metric for change in found if change.verdict == "worse"]
    sentence = f"Worse than allowed: {', '.join(map(markdown, worse))}." if worse else "No metric got worse than allowed."
    left_out = "" if all(change.comparable for change in found) else " What another classifier measured is not compared."
    return sentence + left_out


def change_table(found: Iterable[Change], against: str) -> str:
    """Return the changes as a Markdown table; SE is the standard error of a change over the test images.

    An unpaired one is too large, so the change is at least so many.
    """

    def cells(change: Change) -> tuple[Any, ...]:
        difference, arrow, errors = float(change.new) - float(change.old), None, None
        if change.comparable:
            arrow = f"{'▲' if difference > 0 else '▼'}\u00a0{difference:+.4g}" if difference else "="
        if change.comparable and difference and change.error:
            errors = "≥" * (change.interval == "unpaired") + f"{abs(difference) / change.error:.1f}\u00a0SE"
        verdict = f"**{change.verdict}**" if change.verdict in {"worse", "better"} else change.verdict
        own = [Markdown(text or "-") for text in (arrow, errors)]
        return change.metric, change.old, change.new, *own, change.allowed if change.rule else None, Markdown(verdict)

    return table(("metric", against, "here", "change", "in SE", "allowed", "verdict"), list(map(cells, found)))
