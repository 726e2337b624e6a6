"""What an mlflow.db holds, read without a change."""

import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

VOLATILE = "samples_per_second"  # a metric that no file holds


@dataclass(frozen=True)
class Store:
    """The runs of trainings and their points in an mlflow.db, read without a change."""

    runs: dict[str, tuple[str, str, str]]  # stage, md5 of the weights and status by run
    points: Counter[tuple[str, str, int]]  # run, key, step
    values: dict[tuple[str, str, int], float]

    @classmethod
    def of(cls, path: Path, experiment: str = "") -> "Store":
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as db:
            where = f"and e.name = '{experiment}'" if experiment else ""
            listed = "from runs r join experiments e using (experiment_id) where r.lifecycle_stage = 'active'"
            found = db.execute(f"select r.run_uuid, r.status {listed} {where}").fetchall()
            tags = {(run, key): value for run, key, value in db.execute("select run_uuid, key, value from tags")}
            found = [(run, status) for run, status in found if tags.get((run, "role")) != "grid"]  # which is of a whole sweep
            runs = {run: (tags.get((run, "dvc.stage"), ""), tags.get((run, "model.md5"), ""), status) for run, status in found}
            rows = [row for row in db.execute("select run_uuid, key, step, value from metrics") if row[0] in runs]
        points = Counter((run, key, step) for run, key, step, _ in rows)
        return cls(runs, points, {(run, key, step): value for run, key, step, value in rows})

    def by_weights(self) -> Counter[tuple[str, str]]:
        return Counter((stage, weights) for stage, weights, _ in self.runs.values())

    def curves(self) -> dict[tuple[str, str, str, int], float]:
        """Return the value of each point with a step, by stage, weights, key and step."""
        named = {(*self.runs[run][:2], key, step): value for (run, key, step), value in self.values.items() if step}
        return {key: value for key, value in named.items() if key[2] != VOLATILE}
