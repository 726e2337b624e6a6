"""The headline numbers, the lines that end a run, and the stage that writes and prints them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from pipeline.cli import main as latent
from pipeline.evaluation.likelihood import MAX_DIMENSIONS
from pipeline.summary import HEADLINE, MODELS, closing_lines, headline, notes
from pipeline.tracking.values import HEADLINE as MLFLOW
from stages.summary import main as stage
from tests.conftest import ROOT
from tests.stages.test_reruns import STAGES, paths

DATA = {"name": "mnist", "requested": "mnist"}
MEASURED = {key: 1.5 for key in HEADLINE.values()}  # noqa: C420


def test_what_was_not_measured_is_left_out_and_never_a_zero() -> None:
    assert len(headline(dict.fromkeys(MODELS, MEASURED))) == 12
    plain = {"test/recon": 30.0, "latent/knn_accuracy": 0.0}
    assert headline({"vae": plain | {"test/kl": 2.0}, "ae": plain}) == {
        "vae/recon": 30.0,
        "vae/kl": 2.0,
        "vae/knn": 0.0,
        "ae/recon": 30.0,
        "ae/knn": 0.0,
    }


def test_six_lines_end_a_run() -> None:
    lines = closing_lines(DATA, headline({"vae": MEASURED, "ae": {"test/recon": 31.25}}))
    assert len(lines) == 6
    assert max(map(len, lines)) <= 110
    assert lines[0] == "Result  mnist, nats per image: VAE ELBO 1.50, reconstruction 1.50, KL 1.50, log p 1.50"
    assert lines[1] == "        autoencoder reconstruction 31.25; Frechet distance of samples: VAE 1.50"
    assert [line[:8].strip() for line in lines] == ["Result", "", "Open", "", "Try", ""]
    short = closing_lines(DATA, headline({"vae": {"test/recon": 1.5, "test/kl": 1.5, "test/elbo": 1.5}, "ae": {}}))
    assert short[2] == "        not measured: log p, frechet, knn; the notes in metrics/vae.json say why"
    assert len(short) == 7
    assert closing_lines(DATA, {"ae/recon": 31.25})[1] == "        autoencoder reconstruction 31.25"


@pytest.mark.parametrize(
    ("dimensions", "active", "is_said"),
    [(2, 0, True), (2, 1, True), (2, 2, False), (10, 4, True), (10, 5, False), (30, 4, True), (64, 0, False), (0, 0, False)],
)
def test_a_vae_that_uses_few_of_its_dimensions_is_named(dimensions: int, active: int, is_said: bool) -> None:
    listed = {f"test/kl_per_dim/{index}": 0.0 for index in range(dimensions)} if dimensions <= MAX_DIMENSIONS else {}
    found = notes({"dataset": "mnist", "test/active_units": active} | listed, {})
    said = (
        f"Note    the VAE uses {active} of its {dimensions} latent dimensions; docs/faq.md (posterior collapse) says what to do"
    )
    assert found == ([said] if is_said else [])
    assert closing_lines(DATA, {}, found)[2 : 2 + len(found)] == found
    assert "posterior collapse" in (ROOT / "docs/faq.md").read_text("utf-8")


def test_claims_about_another_data_set_are_named() -> None:
    vae, claimed = {"dataset": "shapes"}, {"vae_larger_beta_1/dataset": "mnist", "ae_1/dataset": "mnist", "ae_1/test/recon": 1.0}
    (line,) = notes(vae, claimed)
    assert line == "Note    metrics/claims.json and comparison.json are of mnist; `make claims` makes those of shapes"
    assert notes({"dataset": "mnist"}, claimed) == notes(vae, {}) == notes({}, claimed) == []


def test_a_run_on_the_fallback_says_so_first() -> None:
    warning, *lines = closing_lines({"name": "digits", "requested": "mnist"}, {})
    assert warning.startswith("WARNING these are the small digits, not mnist")
    assert len(lines) == 6


@pytest.mark.usefixtures("workspace")
def test_the_stage_writes_what_the_command_shows_again() -> None:
    Path("metrics").mkdir()
    for name, values in {"data": DATA, "vae": MEASURED | {"dataset": "mnist"}, "ae": {"test/recon": 31.25}}.items():
        Path(f"metrics/{name}.json").write_text(json.dumps(values))
    printed = CliRunner().invoke(stage, catch_exceptions=False).stdout
    assert json.loads(Path("metrics/summary.json").read_text()) == headline({"vae": MEASURED, "ae": {"test/recon": 31.25}})
    assert CliRunner().invoke(latent, ["summary"]).stdout == printed
    Path("metrics/comparison.json").write_text(json.dumps({"ae_1/dataset": "letters"}))
    noted = CliRunner().invoke(stage, catch_exceptions=False).stdout
    assert noted.count("are of letters; `make claims`") == 1
    assert CliRunner().invoke(latent, ["summary"]).stdout == noted
    Path("metrics/summary.json").unlink()
    result = CliRunner().invoke(latent, ["summary"])
    assert result.exit_code == 3
    assert result.stderr.startswith("error: metrics/summary.json: cannot be read")


@pytest.mark.parametrize(("name", "content"), [("data", {"name": "mnist"}), ("summary", {"vae/elbo": "low"})])
@pytest.mark.usefixtures("workspace")
def test_a_summary_of_other_files_is_one_line(name: str, content: dict[str, str]) -> None:
    Path("metrics").mkdir()
    for file, values in ({"data": DATA, "summary": {}} | {name: content}).items():
        Path(f"metrics/{file}.json").write_text(json.dumps(values))
    result = CliRunner().invoke(latent, ["summary"])
    assert result.exit_code == 3
    assert result.stderr.startswith("error: metrics: not metrics of a run of this version")


def test_the_headline_numbers_of_dvc_and_of_mlflow_are_metrics_that_a_run_has() -> None:
    """Both leave out what was not measured, so a metric with a new key would vanish from them in silence."""
    measured = set().union(*(json.loads((ROOT / f"metrics/{file}.json").read_text()) for file in ("vae", "vae_train")))
    assert set(HEADLINE.values()) <= MLFLOW.keys() <= measured


def test_dvc_lists_the_summaries_alone() -> None:
    assert {path for name in STAGES for path in paths(name, "metrics")} == {"metrics/summary.json", "metrics/claims_summary.json"}


@pytest.mark.parametrize("name", STAGES)
def test_dvc_keeps_the_former_results_of_a_stage(name: str) -> None:
    """It keeps none of a stage with a plain output outside its cache, so these are metrics or plots."""
    assert not [out for out in STAGES[name].get("outs", []) if not isinstance(out, str)]


def test_the_summary_is_the_last_stage_of_the_main_pipeline() -> None:
    """DVC runs a stage after those that make its dependencies, so all must lead to it but the one that only refuses params."""
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    made = {path: name for name in stages for path in paths(name, "outs", "metrics", "plots")}
    before, todo = set[str](), ["summary"]
    while todo:
        name = todo.pop()
        before.add(name)
        todo += [made[dep] for dep in paths(name, "deps") if dep in made]
    assert stages.keys() - before == {"validate"}


def test_the_main_pipeline_reads_nothing_of_the_claims() -> None:
    claims = YAML(typ="safe").load(ROOT / "claims/dvc.yaml")["stages"]
    made = {path for name in claims for path in paths(name, "outs", "metrics", "plots")}
    assert not [name for name in STAGES.keys() - claims.keys() if paths(name, "deps") & made]
