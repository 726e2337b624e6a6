"""A table of MLflow's runs of one data set."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from pipeline.errors import ParamsError
from pipeline.tracking.record import Record
from pipeline.tracking.run import MODEL_MD5, Run

# Columns of the table, and where a run holds them.
PARAMS = {"model": "model.name", "beta": "beta", "latent_dim": "model.latent_dim", "seed": "seed"}
METRICS = {"recon": "test/recon", "kl": "test/kl", "elbo": "test/elbo"}
TAGS = {"role": "role", "dataset": "dataset", "data": "data.md5", "experiment": "dvc.exp.name"}
SHOWN = ["name", "role", "model", "beta", "latent_dim", "seed", "recon", "kl", "elbo", "data", "experiment"]
ROLES = ["main", "comparison", "depth-matched", "seed", "sweep"]  # in this order, then runs of earlier versions, which have none
SHORT = 7  # letters of an md5 that are shown
COLUMNS = [*SHOWN, "dataset", "status", "run_id", "setting", "series"]
MAX_ROWS = 100  # of the table on a terminal and in the page; runs.csv has all
METRIC = "test/elbo"
HIGHER_IS_BETTER = re.compile("(elbo|log_p|accuracy|active_units|per_second)$")  # the ends of such metrics' names
_NO_SETTING = ("seed", "train.threads", "train.device")  # params by which runs of one setting may differ
_MAX_PARAMS = 3  # in the name of a setting


@dataclass(frozen=True)
class Comparison:
    """Runs of one data set: a row of ``table`` each, and ``runs`` to read from in the same order.

    Runs of one ``setting`` differ by their seed alone, those of one ``series`` by beta, too. ``best`` has the settings, the best
    first, by the mean of ``metric`` over their runs.
    """

    table: pd.DataFrame
    runs: list[Run]
    best: list[str]
    metric: str = METRIC

    @property
    def dataset(self) -> str:
        """The data set of all the runs."""
        return str(self.table["dataset"].iloc[0])

    def scored(self) -> pd.DataFrame:
        """Return the rows with a beta and a test ELBO."""
        return self.table.dropna(subset=["beta", *METRICS])

    def listed(self) -> pd.DataFrame:
        """Return at most :data:`MAX_ROWS` rows, those of the best settings, in the order of the table."""
        places = self.table["setting"].map({name: place for place, name in enumerate(self.best)})
        return self.table.loc[sorted(places.sort_values(kind="stable").index[:MAX_ROWS])]


def _named(labels: Sequence[str], params: Sequence[Mapping[str, str]], ignored: Sequence[str]) -> list[str]:
    """Return the name of each run's group, of runs whose params are equal but for those ``ignored``.

    It is the group's label, and where several groups have it, the params by which they differ. A param that some runs lack, as
    those of an older version, counts only if the others differ in it.
    """
    values = {key: {one[key] for one in params if key in one} for key in set().union(*params) - set(ignored)}
    differing = {key for key, found in values.items() if len(found) > 1}
    kept = [frozenset((key, value) for key, value in one.items() if key in differing) for one in params]
    names = dict[tuple[str, frozenset[tuple[str, str]]], str]()
    groups = dict[str, list[frozenset[tuple[str, str]]]]()
    for label, own in dict.fromkeys(zip(labels, kept, strict=True)):
        groups.setdefault(label, []).append(own)
    for label, members in groups.items():
        common = frozenset.intersection(*members)
        for number, own in enumerate(members, 1):
            told = [f"{key.rpartition('.')[2]}={value}" for key, value in sorted(own - common)][:_MAX_PARAMS]
            name = " ".join([label, *told])
            names[label, own] = f"{name} ({number})" if name in names.values() else name
    return [names[one] for one in zip(labels, kept, strict=True)]


def _best(settings: pd.Series, scores: pd.Series, metric: str) -> list[str]:
    """Return the settings by the mean of the runs' scores, the best first, those without one last."""
    means = scores.groupby(settings, sort=False).mean()
    return list(means.sort_values(ascending=not HIGHER_IS_BETTER.search(metric), kind="stable", na_position="last").index)


def _one_version(versions: pd.Series, dataset: str, wanted: str | None) -> pd.Series:
    """Return which runs are of the version that is wanted, the first letters of its md5.

    Raises ParamsError for several versions unless one of them, or ``all``, is wanted. A run that has none counts for each.
    """
    known = versions.dropna().str[:SHORT].value_counts(sort=False)
    listed = ", ".join(f"{md5} ({count} run{'s' * (count > 1)})" for md5, count in known.items())
    if wanted not in (None, "all"):
        chosen = versions.isna() | versions.fillna("").str.startswith(wanted)
        if not wanted or not chosen.any():
            raise ParamsError(f"no run is of version {wanted!r} of {dataset}; there are {listed or 'none'}")
        return chosen
    if wanted is None and len(known) > 1:
        choice = f"choose one with --data {known.index[0]}, or compare them with --data all"
        raise ParamsError(f"these runs are of {len(known)} versions of {dataset}, the newest first: {listed}; {choice}")
    return versions.isna() | versions.notna()


def select(
    found: Sequence[tuple[Record, Run]],
    dataset: str | None,
    model: str | None,
    tags: dict[str, str],
    data: str | None = None,
    top: int | None = None,
    metric: str | None = None,
) -> Comparison:
    """Return the runs that pass the filters, the newest of those with the same weights, of the ``top`` best settings by a metric.

    ``data`` is the version of the data set, the first letters of the md5 of the prepared file, or ``all``.
    Raises ParamsError when no run passes, when they are of several data sets or versions and nothing chooses, or when none has
    the ``metric``.
    """
    rows, runs, records, seen = [], [], [], set()
    wanted = tags | ({"dataset": dataset} if dataset else {})
    for record, run in found:
        weights, name = record.tags.get(MODEL_MD5, record.id), record.params.get("model.name")
        if name is None or model not in (None, name) or weights in seen or not wanted.items() <= record.tags.items():
            continue
        seen.add(weights)
        values: dict[str, Any] = {"name": record.name, "status": record.status, "run_id": record.id}
        values |= {column: record.params.get(key) for column, key in PARAMS.items()}
        values |= {column: record.tags.get(key) for column, key in TAGS.items()}
        rows.append(values | {column: record.number(key) for column, key in METRICS.items()})
        runs.append(run)
        records.append(record)
    if not rows:
        raise ParamsError("no run passes these filters; `latent sync` rebuilds lost runs")
    table = pd.DataFrame(rows, columns=COLUMNS)
    numbers = ["beta", "latent_dim", "seed", *METRICS]
    table[numbers] = table[numbers].apply(pd.to_numeric)
    table["dataset"] = table["dataset"].fillna("unknown")
    same = table["name"].duplicated(keep=False)
    table.loc[same, "name"] += " " + table["run_id"].str[:4]  # runs that differ in what is not part of their names
    if len(names := sorted(table["dataset"].unique())) > 1:
        raise ParamsError(f"these runs are of several data sets ({', '.join(names)}); choose one with --dataset")
    table = table[_one_version(table["data"], names[0], data)]
    table["data"] = table["data"].str[:SHORT] if table["data"].nunique() > 1 else None
    order = table["role"].map({name: index for index, name in enumerate(ROLES)})
    table = table.assign(order=order).sort_values(["order", "model", "latent_dim", "beta", "seed"], kind="stable")[COLUMNS]
    records = [records[index] for index in table.index]
    labels = table["model"] + " d=" + table["latent_dim"].astype("Int64").astype(str) + (" data " + table["data"]).fillna("")
    betas = ["" if pd.isna(beta) else f" β={beta:g}" for beta in table["beta"]]
    params = [record.params for record in records]
    table["setting"] = _named(list(labels + betas), params, _NO_SETTING)
    table["series"] = _named(list(labels), params, ("beta", *_NO_SETTING))
    scores = pd.Series([record.number(metric or METRIC) for record in records], table.index, dtype=float)
    if (top or metric) and scores.isna().all():
        there = ", ".join(sorted({key for record in records for key in record.metrics}))
        raise ParamsError(f"no run has the metric {metric or METRIC}; --metric names one that they have: {there or 'none'}")
    best = _best(table["setting"], scores, metric or METRIC)[:top]
    table = table[table["setting"].isin(best)]
    return Comparison(table.reset_index(drop=True), [runs[index] for index in table.index], best, metric or METRIC)


def shown(table: pd.DataFrame) -> list[str]:
    """Return the columns to show, those that some run has."""
    return [column for column in SHOWN if table[column].notna().any()]


def texts(table: pd.DataFrame) -> Iterator[list[str]]:
    """Yield the rows of the table as text."""
    for row in table[shown(table)].to_dict("records"):
        yield [
            "" if pd.isna(v) else f"{v:.2f}" if k in METRICS else f"{v:g}" if isinstance(v, float) else str(v)
            for k, v in row.items()
        ]


def render(compared: Comparison) -> Table:
    """Return the table for a terminal, of at most :data:`MAX_ROWS` runs."""
    rows, number = compared.listed(), len(compared.table)
    cut = f"{len(rows)} of {number:,} runs, of the best settings by {compared.metric}; runs.csv has all"
    title = f"Runs on {escape(compared.dataset)}, nats per test image"
    table = Table(
        title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False, caption=cut if len(rows) < number else None
    )
    for column in shown(rows):
        is_text = column in ("name", "role", "model", "experiment")
        # A command of DVC's needs an experiment's whole name. pipeline.options.show gives columns that do not wrap all their
        # width, as a number that is cut would be another one.
        table.add_column(column, justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
    for row in texts(rows):
        table.add_row(*map(escape, row))
    return table
