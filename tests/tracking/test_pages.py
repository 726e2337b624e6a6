"""What MLflow's pages show: short names, a description that fits its pane, few numbers, and views."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from pipeline.params import Params, load_params
from pipeline.storage import load_json
from pipeline.tracking import events, store
from pipeline.tracking.dvc_files import read_history
from pipeline.tracking.logged_model import NOTE
from pipeline.tracking.pages import VIEW, VIEWS, describe_experiment, describe_run, label, links
from pipeline.tracking.record import Record
from pipeline.tracking.values import HEADLINE
from tests.conftest import ROOT
from tests.tracking.fake_training import settings, train

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]


def record(params: Params, name: str = "vae", **metrics: float) -> Record:
    values = {key: str(value) for key, value in settings(name, params).items()}
    return Record("1", "run", "FINISHED", values, {"dataset": "mnist"}, metrics, False, None, False)


def test_names_differ_within_the_letters_that_a_table_shows() -> None:
    vae = {"model.name": "vae", "model.hidden_dims": [512, 256], "model.latent_dim": 2, "beta": 1.0, "seed": 1}
    changed = [{}, {"beta": 4.0}, {"seed": 2}, {"model.hidden_dims": [512]}, {"model.latent_dim": 16}]
    changed += [{"model.name": "ae"}, {"model.name": "ae", "seed": 2}]
    assert len({label(vae | change)[:24] for change in changed}) == len(changed)


def test_the_command_of_a_description_is_short_lines_that_name_each_param() -> None:
    params = load_params(ROOT / "params.yaml")
    note = describe_run(record(params))
    assert max(map(len, note.splitlines())) < 130
    command = note.partition("    dvc exp run")[2]
    assert max(map(len, command.splitlines())) < 90
    options = shlex.split(command.replace("\\\n", " "))
    values = dict(option.split("=", 1) for option in options if option != "-S")
    assert options.count("-S") == len(values) == len(settings("vae", params))  # the data set in place of the model's name
    assert (values["beta"], values["vae.hidden_dims"], values["data.name"]) == ("1.0", "[512,256]", "mnist")


def test_the_description_of_an_autoencoder_is_this_text() -> None:
    metrics = {"best_val_recon": 12.5, "best_epoch": 3.0, "epochs": 4.0, "test_recon": 13.0}
    values = {"model.name": "ae", "model.latent_dim": "2", "model.hidden_dims": "[512, 256]", "seed": "1", "beta_of": "a b"}
    tags = {"dataset": "my_photos", "evaluate.profile": "full"}
    assert (
        describe_run(Record("1", "run", "FINISHED", values, tags, metrics, False, None, False))
        == """\
Test images (full evaluation): **reconstruction 13.00** nats per image

Validation, epoch 3 of 4: **reconstruction 12.50** nats per image

AE of my_photos: 2 latent dimensions, hidden layers [512, 256], seed 1

Train it again:

    dvc exp run \\
      -S beta_of=ab -S 'ae.hidden_dims=[512,256]' -S ae.latent_dim=2 \\
      -S seed=1"""
    )


@pytest.mark.parametrize("names", [("test_recon", "test_kl"), ("test/recon", "test/kl")])
def test_the_result_comes_first_also_that_of_a_run_of_an_earlier_version(names: tuple[str, str], params: Params) -> None:
    note = describe_run(record(params, **dict(zip(names, (128.0, 7.0), strict=True))))
    assert note.startswith("Test images ( evaluation): **ELBO -135.00** nats per image: reconstruction 128.00, KL 7.00\n")


@pytest.mark.usefixtures("store")
def test_a_run_has_at_most_40_metrics_and_its_curves_come_first(params: Params, data_file: Path, workspace: Path) -> None:
    """MLflow draws charts in sections by what stands before the last slash, in alphabetical order, and those without one last."""
    train("vae", params, data_file, workspace, workspace)
    ((_, run),) = store.records()
    row = read_history(ROOT / "metrics/vae_history.csv")[0]
    run.log_epoch(row | {f"val/kl_per_dim/{i}": 1.0 for i in range(64)})
    metrics = load_json(ROOT / "metrics/vae.json")
    events.log_evaluation(run, metrics, [])
    ((found, _),) = store.records()
    assert {"test_elbo", "frechet_distance", "knn_accuracy", "best_val_loss"} <= found.metrics.keys()
    assert len(found.metrics) <= 40
    curves = {key for key in found.metrics if "/" in key}
    assert curves <= row.keys()
    assert {"train/loss", "val/kl"} <= curves
    assert load_json(run.fetch("evaluation.json", workspace) or "") == metrics


def test_headline_names_are_not_sections() -> None:
    assert len(set(HEADLINE.values())) == len(HEADLINE)
    assert not [name for name in HEADLINE.values() if "/" in name or "." in name]


@pytest.mark.usefixtures("store")
def test_a_ledger_is_an_artifact_and_one_tag(workspace: Path) -> None:
    claims = {name: {"verdict": "fails" if name == "b" else "holds", "estimate": 0.5} for name in "abc"}
    with store.start("run", {}) as run:
        events.log_claims(run, claims)
    ((found, _),) = store.records()
    assert found.tags["claims"] == "2 holds, 1 fails"
    assert not [tag for tag in found.tags if tag.startswith("claim.")]
    assert load_json(run.fetch("claims.json", workspace) or "") == claims


@pytest.mark.usefixtures("store")
def test_a_new_experiment_has_a_description_and_views_of_what_runs_have() -> None:
    with store.start("run", {"role": "main"}):
        pass
    client, experiment = store.connect()
    tags = client.get_experiment(experiment).tags
    assert VIEWS.items() <= tags.items()
    assert all(place in tags[NOTE] for place in links(experiment).values())
    assert f"#/experiments/{experiment}/runs" in links(experiment)["Results"]
    shown = {**HEADLINE, "val/loss": "", "val/recon": "", "val/kl": "", "train/recon": "", "train/kl": ""}
    for value in VIEWS.values():
        state = json.loads(json.loads(value)["state"])
        columns = [column.split("`")[1] for column in state.get("selectedColumns", [])]
        assert set(columns) <= {"role", *HEADLINE.values()}
        sections = {section["uuid"] for section in state.get("compareRunSections", [])}
        for chart in state.get("compareRunCharts", []):
            assert chart["metricSectionId"] in sections
            if chart["type"] == "LINE":
                assert chart["metricKey"] in chart["selectedMetricKeys"]
                assert set(chart["selectedMetricKeys"]) <= shown.keys()


COLUMNS = {"tags.`role`": 115, "metrics.`test_elbo`": 90, "metrics.`test_recon`": 90, "metrics.`test_kl`": 75}
COLUMNS |= {"metrics.`frechet_distance`": 125, "metrics.`knn_accuracy`": 105}
CHART = {"metricSectionId": "first", "deleted": False, "isGenerated": False, "runsCountToCompare": 10}
LINE = CHART | {"type": "LINE", "xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "lineSmoothness": 0}
LINE |= {"range": {}, "yAxisKey": "metric", "yAxisExpressions": [], "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True}
IMAGE = CHART | {"type": "IMAGE", "step": 0, "showRunParams": False}


def test_the_views_are_in_the_format_of_mlflow() -> None:
    views = {key.removeprefix("mlflow.sharedViewState."): json.loads(value) for key, value in VIEWS.items()}
    states = {key: json.loads(view.pop("state")) for key, view in views.items()}
    assert views == {
        key: {"name": name, "createdAt": -age, "updatedAt": -age}
        for age, (key, name) in enumerate({"results": "Results", "curves": "Curves", "pictures": "Pictures"}.items())
    }
    charts = {key: state.pop("compareRunCharts", []) for key, state in states.items()}
    ids = [chart.pop("uuid") for key in charts for chart in charts[key]]
    assert len(set(ids)) == len(ids)
    drawn = [["val/loss"], ["val/recon", "train/recon"], ["val/kl", "train/kl"]]
    assert charts == {
        "results": [],
        "curves": [LINE | {"metricKey": keys[0], "selectedMetricKeys": keys} for keys in drawn],
        "pictures": [IMAGE | {"imageKeys": [key]} for key in ("samples", "reconstructions")],
    }
    others = [("train", "train"), ("val", "val"), ("rest", "Model metrics")]
    folded = [{"uuid": key, "name": name, "display": False, "isReordered": True} for key, name in others]
    titles = {"curves": ("Curves, nats per image", 2), "pictures": ("Pictures by epoch", 1)}
    first = {"uuid": "first", "display": True, "isReordered": True}
    assert states == {
        "results": {"selectedColumns": [*COLUMNS], "columnOrder": [*COLUMNS], "columnWidths": COLUMNS},
        **{
            key: {"compareRunSections": [first | {"name": name, "columns": columns}, *folded], "isAccordionReordered": True}
            for key, (name, columns) in titles.items()
        },
    }


def test_mlflow_knows_each_key_of_the_views() -> None:
    scripts = (Path(mlflow.__file__).parent / "server/js/build/static/js").glob("*.js")
    known = set(re.findall(r"\w{5,}", "".join(path.read_text() for path in scripts)))
    keys = {"sharedViewState", "viewStateShareKey", "compareRunsMode", "selectedColumns", "columnOrder", "columnWidths"}
    keys |= {"compareRunCharts", "compareRunSections", "isAccordionReordered", "display", "isReordered", "columns"}
    assert keys | {key for key in LINE | IMAGE if len(key) > 4} <= known


def test_the_links_of_an_experiment_lead_to_its_views() -> None:
    page = "#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey="
    assert links("7") == {
        "Results": f"{page}results",
        "Curves": f"{page}curves&compareRunsMode=CHART",
        "Pictures": f"{page}pictures&compareRunsMode=CHART",
    }
    shown = ", ".join(f"[{title}]({link})" for title, link in links("7").items())
    assert describe_experiment("7").startswith(
        f"{shown} of all runs. A run is one training of an autoencoder or a VAE.\n\n- `role`"
    )


@pytest.mark.usefixtures("store")
def test_an_experiment_of_an_earlier_version_gets_its_pages_once() -> None:
    client = MlflowClient(store.store_uri())
    experiment = client.create_experiment("latent-spaces", tags={NOTE: "ours"})
    store.complete_experiment()
    tags = client.get_experiment(experiment).tags
    assert tags[NOTE] == "ours"
    assert tags.keys() >= VIEWS.keys()
    client.delete_experiment_tag(experiment, f"{VIEW}curves")
    store.complete_experiment()
    assert f"{VIEW}curves" not in client.get_experiment(experiment).tags, "a view that its user has deleted"


@pytest.mark.parametrize("number", range(5))
@pytest.mark.usefixtures("store")
def test_an_experiment_whose_pages_a_process_was_killed_over_gets_all(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    client = MlflowClient(store.store_uri())
    experiment = client.create_experiment("latent-spaces")
    set_tag, calls = MlflowClient.set_experiment_tag, []

    def killed(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) > number:
            raise SystemExit
        set_tag(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_experiment_tag", killed)
        with pytest.raises(SystemExit):
            store.complete_experiment()
    store.complete_experiment()
    assert client.get_experiment(experiment).tags.keys() >= {NOTE, *VIEWS}


@pytest.mark.usefixtures("store")
def test_a_run_whose_user_has_deleted_its_data_set_goes_on_without_a_description(params: Params) -> None:
    with store.start("run", {}) as run:
        run.log_params(settings("vae", params))
        events.describe(run)
        assert run.alive
    ((found, _),) = store.records()
    assert NOTE not in found.tags
