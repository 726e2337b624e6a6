"""Runs of one data set are put in one table; which runs, and what is refused."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import sqlalchemy
from click.testing import CliRunner, Result
from rich.console import Console

from pipeline.cli import main
from pipeline.errors import ParamsError
from pipeline.options import show
from pipeline.reporting import compare, compare_figures
from pipeline.reporting.compare import COLUMNS, render, select, texts
from pipeline.tracking import store as tracking
from pipeline.tracking.record import Record

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]


def found(
    name: str,
    number: int,
    model: str = "vae",
    metrics: dict[str, float] | None = None,
    others: dict[str, str] | None = None,
    **tags: str,
) -> Any:
    """Return a record, with weights that ``number`` tells apart and ``others`` of the params, and its run."""
    params = {"model.name": model, "model.latent_dim": str(number), "seed": "1"} | ({"beta": "1"} if model == "vae" else {})
    params |= others or {}
    tags = {"dataset": "blobs", "model.md5": str(number)} | tags
    return Record(f"{number:04}", name, "FINISHED", params, tags, metrics or {}, False, None, False), SimpleNamespace(name=name)


def names(*arguments: Any) -> list[str]:
    return select(*arguments).table["name"].tolist()


def test_runs_are_filtered_by_data_set_model_and_tag() -> None:
    runs = [found("no model", 4, others={"model.name": None}), found("a", 1, sweep="true"), found("b", 2, "ae"), found("c", 3)]  # type: ignore[dict-item]
    assert names(runs, None, None, {}) == ["b", "a", "c"]
    assert names(runs, None, "ae", {}) == ["b"]
    assert names(runs, None, None, {"sweep": "true"}) == ["a"]
    with pytest.raises(ParamsError, match="no run passes"):
        select(runs, "mnist", None, {})


def test_of_runs_with_the_same_weights_the_newest_counts() -> None:
    assert names([found("newer", 1), found("older", 1), found("other", 2)], None, None, {}) == ["newer", "other"]
    unknown = [found("a", 1), found("b", 2)]
    for record, _ in unknown:
        del record.tags["model.md5"]
    assert names(unknown, None, None, {}) == ["a", "b"]


def test_runs_of_one_name_get_their_id() -> None:
    assert names([found("a", 12345), found("a", 23456), found("b", 3)], None, None, {}) == ["b", "a 1234", "a 2345"]


def test_runs_are_in_the_order_of_roles_models_and_params() -> None:
    roles = ["main", "comparison", "depth-matched", "seed", "sweep", None]
    keys = [(role, "vae", "1", "2") for role in roles]
    keys[1:1] = [("main", "vae", "4", "1"), ("main", "vae", "4", "2"), ("main", "vae", "10", "1")]
    runs = []
    for number, (role, model, beta, seed) in enumerate([("main", "ae", "1", "9"), *keys]):
        others = {"model.latent_dim": "2", "beta": beta, "seed": seed, "beta2": str(number)}
        runs.append(found(str(number), number, model, None, others, **({"role": role} if role else {})))
    deep = found("deep", 99, "vae", None, {"model.latent_dim": "10", "beta": "0"}, role="main")
    assert names([deep, *runs[::-1]], None, None, {}) == ["0", "1", "2", "3", "4", "deep", "5", "6", "7", "8", "9"]


def test_each_row_keeps_its_run() -> None:
    compared = select([found("c", 3), found("a", 1), found("b", 2, "ae")], None, None, {})
    assert (compared.dataset, compared.metric) == ("blobs", "test/elbo")
    assert [run.name for run in compared.runs] == compared.table["name"].tolist() == ["b", "a", "c"]  # type: ignore[attr-defined]


def test_several_data_sets_are_refused() -> None:
    runs = [found("a", 1), found("b", 2, dataset="squares")]
    with pytest.raises(ParamsError, match=r"several data sets \(blobs, squares\); choose one with --dataset"):
        select(runs, None, None, {})
    assert names(runs, "squares", None, {}) == ["b"]


VERSIONS = [
    found("new", 1, **{"data.md5": "abc123456"}),
    found("other", 2, **{"data.md5": "abc123456"}),
    found("old", 3, **{"data.md5": "def123456"}),
    found("before", 4),
]


def test_several_versions_of_a_data_set_are_refused_unless_one_or_all_are_wanted() -> None:
    message = r"2 versions of blobs, the newest first: abc1234 \(2 runs\), def1234 \(1 run\); choose one with --data abc1234, or"
    with pytest.raises(ParamsError, match=message):
        select(VERSIONS, None, None, {})
    assert names(VERSIONS, None, None, {}, "def") == ["old", "before"]
    one = select(VERSIONS, None, None, {}, "abc1234")
    assert one.table["name"].tolist() == [run.name for run in one.runs] == ["new", "other", "before"]  # type: ignore[attr-defined]
    assert "data" not in {column for column in one.table if one.table[column].notna().any()}
    every = select(VERSIONS, None, None, {}, "all").table.set_index("name")
    assert every.loc[["new", "old"], "data"].tolist() == ["abc1234", "def1234"]
    with pytest.raises(ParamsError, match=r"no run is of version 'f' of blobs; there are abc1234 \(2 runs\), def1234"):
        select(VERSIONS[:3], None, None, {}, "f")
    with pytest.raises(ParamsError, match=r"^no run is of version '' of blobs; there are none$"):
        select(VERSIONS[3:], None, None, {}, "")
    assert names(VERSIONS[2:], None, None, {}) == ["old", "before"]
    record, _ = run = found("a", 1)
    del record.tags["dataset"]
    assert select([run], None, None, {}).dataset == "unknown"


def test_runs_on_several_versions_are_no_series() -> None:
    metrics = {"test_recon": 1.0, "test_kl": 1.0, "test_elbo": -2.0}
    runs = [found(name, 2, metrics=metrics, **{"data.md5": name * 8, "model.md5": name}) for name in "ab"]
    assert select(runs, None, None, {}, "all").scored()["series"].nunique() == 2
    assert select(runs, None, None, {}, "a").scored()["series"].tolist() == ["vae d=2"]


def seeds(beta: str, elbos: list[float], first: int, **others: str) -> list[Any]:
    """Return runs with these ELBOs that differ by their seed alone."""
    both = {"beta": beta, "model.latent_dim": "2"} | others
    return [
        found(
            f"{beta} {seed}", first + seed, metrics={"test_elbo": elbo, "test_kl": elbo / -9}, others=both | {"seed": f"{seed}"}
        )
        for seed, elbo in enumerate(elbos)
    ]


SEEDS = [*seeds("1", [-30.0, -10.0], 0), *seeds("4", [-15.0, -16.0], 10), *seeds("2", [-40.0], 20)]


def test_runs_that_differ_by_their_seed_alone_are_one_setting_named_by_what_tells_it_from_others() -> None:
    slow = seeds("1", [-20.0], 30, **{"train.learning_rate": "0.01"})
    fast = seeds("1", [-20.0], 40, **{"train.learning_rate": "0.1", "train.threads": "8"})
    table = select([*slow, *fast, *seeds("4", [-15.0, -16.0], 10)], None, None, {}).table
    settings = {"vae d=2 β=1 learning_rate=0.01": 1, "vae d=2 β=1 learning_rate=0.1": 1, "vae d=2 β=4": 2}
    assert table["setting"].value_counts().to_dict() == settings
    assert table["series"].value_counts().to_dict() == {
        "vae d=2": 2,
        "vae d=2 learning_rate=0.01": 1,
        "vae d=2 learning_rate=0.1": 1,
    }


def test_a_setting_is_named_by_at_most_three_params_in_order_and_a_number_where_these_are_the_same() -> None:
    params = {"train.e": "1", "train.a": "1", "model.c": "1", "b": "1", "train.same": "1"}
    runs = [*seeds("1", [-1.0], 0, **params), *seeds("1", [-1.0, -1.0], 10, **params | {"train.e": "2"})]
    runs += seeds("1", [-1.0], 20, **params | {"train.e": "2", "train.a": "2", "model.c": "2", "b": "2"})
    runs[2][0].params.update({"train.device": "cuda", "train.threads": "8"})
    table = select(runs, None, None, {}).table
    names = ["b=1 c=1 a=1", "b=1 c=1 a=1 (2)", "b=1 c=1 a=1 (2)", "b=2 c=2 a=2"]
    assert table.sort_values("run_id")["setting"].tolist() == [f"vae d=2 β=1 {name}" for name in names]
    assert table.sort_values("run_id")["series"].tolist() == [f"vae d=2 {name}" for name in names]


def test_a_param_that_older_runs_lack_makes_no_other_setting() -> None:
    newer = seeds("1", [-20.0], 30, **{"train.binarize": "False"})
    table = select([*SEEDS, *newer], None, None, {}).table
    assert table["setting"].value_counts().to_dict() == {"vae d=2 β=1": 3, "vae d=2 β=2": 1, "vae d=2 β=4": 2}


@pytest.mark.parametrize(
    ("metric", "top", "betas"),
    [
        (None, 1, [4.0, 4.0]),  # -10 is the best run, but the mean over its seeds is worse
        (None, 2, [1.0, 1.0, 4.0, 4.0]),
        ("test_elbo", 9, [1.0, 1.0, 2.0, 4.0, 4.0]),
        ("test/kl", 1, [4.0, 4.0]),  # lower is better
    ],
)
def test_top_keeps_the_settings_that_are_best_in_the_mean_over_their_seeds(
    metric: str | None, top: int, betas: list[float]
) -> None:
    compared = select(SEEDS, None, None, {}, top=top, metric=metric)
    assert compared.table["beta"].tolist() == betas
    assert len(compared.runs) == len(betas)
    assert compared.best == ["vae d=2 β=4", "vae d=2 β=1", "vae d=2 β=2"][:top]


def test_settings_of_one_score_stay_in_order_and_those_without_one_are_last() -> None:
    runs = [found(str(n), n, metrics={"test_elbo": -9.0 - n % 2} if n % 3 else {}) for n in range(90)]
    best = select(runs, None, None, {}).best
    assert best == [f"vae d={n} β=1" for n in sorted(range(90), key=lambda n: (n % 3 == 0, n % 2 * (n % 3 != 0)))]


def test_a_metric_that_no_run_has_is_refused() -> None:
    with pytest.raises(
        ParamsError, match="no run has the metric val/loss; --metric names one that they have: test_elbo, test_kl"
    ):
        select(SEEDS, None, None, {}, metric="val/loss")
    with pytest.raises(ParamsError, match=r"^no run has the metric test/elbo; --metric names one that they have: none$"):
        select([found("a", 1)], None, None, {}, top=1)


def test_a_long_table_is_cut_to_the_best_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "MAX_ROWS", 3)
    compared = select(SEEDS, None, None, {})
    assert len(compared.table) == 5
    assert compared.listed()["name"].tolist() == ["1 0", "4 0", "4 1"]
    assert render(compared).row_count == 3
    cut = select(SEEDS, None, None, {}, metric="test_kl")
    assert str(render(cut).caption) == "3 of 5 runs, of the best settings by test_kl; runs.csv has all"
    assert render(select(SEEDS[:3], None, None, {})).caption is None
    assert str(render(compared).caption) == "3 of 5 runs, of the best settings by test/elbo; runs.csv has all"


def test_the_table_has_numbers_and_the_text_two_decimals() -> None:
    record, run = found("a", 2, metrics={"test_recon": 132.2071, "test_kl": 6.5, "test_elbo": -138.7})
    compared = select([(record, run), found("b", 3, "ae")], None, None, {})
    assert list(compared.table.columns) == COLUMNS
    assert compared.table.set_index("name").loc["a", ["recon", "kl", "elbo"]].tolist() == [132.2071, 6.5, -138.7]
    assert list(texts(compared.table)) == [
        ["b", "ae", "", "3", "1", "", "", ""],
        ["a", "vae", "1", "2", "1", "132.21", "6.50", "-138.70"],
    ]
    assert render(compared).row_count == 2


TABLE = """\
                                 Runs on blobs, nats per test image
 name   role   model  beta  latent_dim  seed    recon    kl     elbo     data  experiment
 ──────────────────────────────────────────────────────────────────────────────────────────────────
 main   main   ae                   10     1  1234.50                 def1234
 sweep  sweep  vae       1           2     1   132.21  6.50  -138.70  abc1234  many-words-of-a-long
                                                                               -experiment
 older         vae    0.25           3    12                   -9.12"""


def test_the_table_on_a_terminal() -> None:
    experiment = {"data.md5": "abc123456", "dvc.exp.name": "many-words-of-a-long-experiment"}
    scores = {"test_recon": 132.2071, "test_kl": 6.5, "test_elbo": -138.7}
    runs = [
        found("sweep", 2, metrics=scores, role="sweep", **experiment),
        found("older", 3, metrics={"test_elbo": -9.12}, others={"beta": "0.25", "seed": "12"}),
        found("main", 10, "ae", {"test_recon": 1234.5}, role="main", **{"data.md5": "def123456"}),
    ]
    console = Console(width=100, record=True)
    console.print(render(select(runs, None, None, {}, "all")))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert list(filter(None, lines)) == TABLE.splitlines()


@pytest.mark.parametrize("term", ["dumb", "xterm"])
@pytest.mark.parametrize("width", [20, 80, 100])
def test_no_number_is_cut_on_a_narrow_terminal(
    width: int, term: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "25")
    monkeypatch.setenv("TERM", term)
    scores = {"test_recon": 1132.2071, "test_kl": 6.5, "test_elbo": -1138.7}
    runs = [found(f"\u03b2={n} vae seed=1 512-256-2", n, metrics=scores, **{"dvc.exp.name": f"run{n}"}) for n in (1, 2)]
    show(render(select(runs, None, None, {})))
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "\u2026" not in shown
    for word in ("latent_dim", "1132.21", "-1138.70", "512-256-2", "run1", "run2"):
        assert word in shown
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= max(width, 82)


def test_a_long_experiment_makes_no_table_wider(capsys: pytest.CaptureFixture[str]) -> None:
    show(render(select([found("a", 1, **{"dvc.exp.name": "x" * 150})], None, None, {})))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 120
    assert shown.count("x") == 150 + 1  # of the column's title


def test_a_long_experiment_is_broken_and_not_cut_on_a_narrow_terminal() -> None:
    console, experiment = Console(width=70, record=True), "runs-of-wide-nets-on-many-images-of-faces"
    console.print(render(select([found("a", 1, **{"dvc.exp.name": experiment})], None, None, {})))
    (first, second) = [line for line in console.export_text().splitlines() if "runs-" in line or "faces" in line]
    assert first.split()[-1] + second.strip() == experiment


def test_names_are_no_markup_of_the_terminal() -> None:
    console = Console(width=200, record=True)
    console.print(render(select([found("[red]a[/] [/b]", 1, dataset="[/x]")], None, None, {})))
    shown = console.export_text()
    assert "[red]a[/] [/b]" in shown
    assert "Runs on [/x]" in shown


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["compare", *arguments])


def log(name: str, beta: float, dataset: str = "blobs", **params: object) -> None:
    """Log a run with the params, metrics and points of version 0.2.0, and weights of no version."""
    settings = {"model.name": "vae", "model.hidden_dims": [8], "model.latent_dim": 2, "seed": 1, "beta": beta} | params
    weights = Path("vae.safetensors")
    weights.write_bytes(b"not weights")
    with tracking.start(name, {"dataset": dataset}) as run:
        run.log_params(settings)
        for epoch in (1, 2, 3):
            run.log_epoch({"epoch": epoch, "val/loss": 40.0 - epoch, "val/recon": 30.0 - epoch})
        run.log_metrics({"test/recon": 25.0 + beta, "test/kl": 9.0 - beta, "test/elbo": -34.0})
        run.log_file(weights)


@pytest.mark.usefixtures("store")
def test_runs_of_version_0_2_0_are_compared_without_their_pictures() -> None:
    for beta in (1.0, 4.0):
        log(f"vae 8-2 beta={beta:g} seed=1", beta, **{"model.latent_lr_scale": 16.0, "model.preconditioner": "shampoo"})
    result = call("--out", "out", "--dpi", "50")
    assert result.exit_code == 0, result.output
    assert [line for line in result.stderr.splitlines() if line.startswith("note")] == [
        f"note: vae 8-2 beta={beta} seed=1: weights of another version; its pictures are left out" for beta in (1, 4)
    ]
    line = next(line for line in result.stdout.splitlines() if "beta=4" in line)
    assert line.split() == ["vae", "8-2", "beta=4", "seed=1", "vae", "4", "2", "1", "29.00", "5.00", "-34.00"]
    assert pd.read_csv("out/runs.csv")["kl"].tolist() == [8.0, 5.0]
    assert {path.stem for path in Path("out").glob("*.png")} == {"rate_distortion", "terms_by_beta", "curves"}


@pytest.mark.usefixtures("store")
def test_a_store_of_several_data_sets_or_without_runs_is_one_line() -> None:
    result = call("--out", "out")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: no run passes these filters; `latent sync` rebuilds lost runs\n",
    )
    log("a", 1.0)
    log("b", 1.0, dataset="squares")
    result = call("--out", "out")
    assert result.exit_code == 2
    assert result.stderr == "error: these runs are of several data sets (blobs, squares); choose one with --dataset\n"
    assert not Path("out").exists()


@pytest.mark.usefixtures("store")
def test_mlflow_filters_and_what_it_refuses_is_one_line() -> None:
    for beta in (1.0, 4.0):
        log(f"beta {beta:g}", beta)
    assert [record.name for record, _ in tracking.records(wanted="params.beta = '4'")] == ["beta 4"]
    result = call("--out", "out", "--filter", "params.beta = 4")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: MLflow refuses the filter params.beta = 4 (")
    assert line.endswith("""allowed is one as in `latent compare --filter "params.beta = '4'"`""")


@pytest.mark.usefixtures("store")
def test_runs_that_are_not_drawn_cost_no_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_figures, "MAX_DRAWN", 1)
    statements: list[str] = []

    def count(*asked: Any) -> None:
        statements.append(asked[2])

    def asked() -> int:
        statements.clear()
        compared = select(tracking.records(), None, None, {})
        assert compare_figures.curves(compared)
        compare_figures.pictured(compared)
        return len(statements)

    log("best", 1.0)
    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", count)
    try:
        alone = asked()
        for beta in (2.0, 3.0, 4.0):
            log(f"worse {beta:g}", beta)
        assert asked() == alone
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", count)
