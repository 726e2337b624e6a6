"""A table of MLflow's runs of one data set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from pipeline.errors import ParamsError
from pipeline.tracking.run import MODEL_MD5, Record, Run

# Columns of the table, and where a run holds them.
PARAMS = {"model": "model.name", "beta": "beta", "latent_dim": "model.latent_dim", "seed": "seed"}
METRICS = {"recon": "test/recon", "kl": "test/kl", "elbo": "test/elbo"}
TAGS = {"role": "role", "dataset": "dataset", "data": "data.md5", "experiment": "dvc.exp.name"}
SHOWN = ["name", "role", "model", "beta", "latent_dim", "seed", "recon", "kl", "elbo", "data", "experiment"]
ROLES = ["main", "comparison", "depth-matched", "seed", "sweep"]  # in this order, then runs of earlier versions, which have none
SHORT = 7  # letters of an md5 that are shown
COLUMNS = [*SHOWN, "dataset", "status", "run_id"]


@dataclass(frozen=True)
class Comparison:
    """Runs of one data set: a row of ``table`` each, and ``runs`` to read from in the same order."""

    table: pd.DataFrame
    runs: list[Run]

    @property
    def dataset(self) -> str:
        """The data set of all the runs."""
        return str(self.table["dataset"].iloc[0])

    def scored(self) -> pd.DataFrame:
        """Return the rows with a beta and a test ELBO, and a column ``series``: models that differ in beta and seed alone."""
        rows = self.table.dropna(subset=["beta", *METRICS])
        version = (" data " + rows["data"]).fillna("")
        return rows.assign(series=rows["model"] + " d=" + rows["latent_dim"].astype("Int64").astype(str) + version)


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
) -> Comparison:
    """Return the runs that pass the filters, the newest of those with the same weights.

    ``data`` is the version of the data set, the first letters of the md5 of the prepared file, or ``all``.
    Raises ParamsError when no run passes, or when they are of several data sets or versions and nothing chooses.
    """
    rows, runs, seen = [], [], set()
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
    chosen = _one_version(table["data"], names[0], data)
    table, runs = table[chosen].reset_index(drop=True), [run for run, is_chosen in zip(runs, chosen, strict=True) if is_chosen]
    table["data"] = table["data"].str[:SHORT] if table["data"].nunique() > 1 else None
    order = table["role"].map({name: index for index, name in enumerate(ROLES)})
    table = table.assign(order=order).sort_values(["order", "model", "latent_dim", "beta", "seed"], kind="stable")
    return Comparison(table[COLUMNS].reset_index(drop=True), [runs[index] for index in table.index])


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
    """Return the table for a terminal."""
    table = Table(title=f"Runs on {escape(compared.dataset)}, nats per test image", box=SIMPLE_HEAD)
    for column in shown(compared.table):
        is_text = column in ("name", "role", "model", "experiment")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=column != "experiment")
    for row in texts(compared.table):
        table.add_row(*map(escape, row))
    return table
