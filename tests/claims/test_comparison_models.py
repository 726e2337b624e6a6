"""The comparison models that params.yaml asks for, and that the stages train and evaluate just these."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from pipeline.claims.comparison_models import FAMILIES, ComparisonModel, comparison_models
from pipeline.claims.ledger import ledger
from pipeline.classifier import save_classifier, train_classifier
from pipeline.data import Dataset
from pipeline.evaluation.results import load_results
from pipeline.params import Params
from pipeline.storage import load_json
from stages import evaluate_comparison, train_comparison
from tests.conftest import ROOT


def with_claims(params: Params, **claims: float) -> Params:
    return params.model_copy(update={"claims": params.claims.model_copy(update=claims)})


def test_each_seed_adds_a_depth_matched_autoencoder_and_a_vae_at_another_beta(params: Params) -> None:
    found = {model.label: model for model in comparison_models(with_claims(params, seeds=2, comparison_beta=3.0))}
    comparison = {"ae_depth_matched_1", "vae_larger_beta_1", "ae_depth_matched_2", "vae_larger_beta_2"}
    assert {label for label, model in found.items() if model.group == "comparison"} == comparison
    assert {label for label, model in found.items() if model.group == "seeds"} == {"ae_2", "vae_2"}
    assert found["ae_depth_matched_1"].params.ae.hidden_dims == params.vae.hidden_dims
    assert found["vae_larger_beta_2"].params.beta == 3.0
    assert found["ae_2"].params.seed == 2
    assert {model.params.train.threads for model in found.values()} == {params.pool.threads}


def test_a_main_beta_of_the_comparison_adds_a_vae_at_beta_1_and_changes_nothing_else(params: Params) -> None:
    def models(beta: float, comparison_beta: float) -> dict[str, ComparisonModel]:
        asked = with_claims(params, comparison_beta=comparison_beta).model_copy(update={"beta": beta})
        return {model.label: model for model in comparison_models(asked)}

    usual, same = models(1.0, 4.0), models(4.0, 4.0)
    assert same.keys() - usual.keys() == {"vae_beta_1_1"}
    assert (same["vae_beta_1_1"].params.beta, same["vae_beta_1_1"].group) == (1.0, "seeds")
    assert models(2.0, 4.0).keys() == usual.keys()
    assert models(1.0, 1.0).keys() == usual.keys(), "there is no other beta to compare with"


def test_of_the_comparison_models_those_at_a_fixed_beta_do_not_depend_on_that_of_the_main_one() -> None:
    stages = YAML(typ="safe").load(ROOT / "claims/dvc.yaml")["stages"]
    assert "beta" not in stages["train_comparison"]["params"]
    assert {"beta", "claims"} <= set(stages["train_seeds"]["params"])


def test_one_seed_adds_no_further_main_models(params: Params) -> None:
    assert [model.group for model in comparison_models(params)] == ["comparison", "comparison"]


def test_the_stages_train_and_evaluate_what_the_ledger_needs(
    params: Params, dataset: Dataset, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # a store that is down
    values = params.model_dump() | {"classifier": params.classifier.model_dump() | {"min_accuracy": 0.0}}
    values["evaluate"]["profile"] = "fast"
    YAML().dump(values, Path("params.yaml"))
    save_classifier(Path("classifier"), train_classifier(dataset, num_steps=60, seed=0))
    for group in ("comparison", "seeds"):
        trained = CliRunner().invoke(train_comparison.main, [group, "--data", str(data_file)], catch_exceptions=False)
        assert trained.exit_code == 0, trained.output
    (file,) = Path("models/seeds").iterdir()
    assert file.read_bytes() == b"", "DVC needs the folder and warns of an empty one, one seed needs no model in it"
    arguments = ["--data", str(data_file), "--classifier", "classifier"]
    evaluated = CliRunner().invoke(evaluate_comparison.main, arguments, catch_exceptions=False)
    assert evaluated.exit_code == 0, evaluated.output
    labels = {"ae_depth_matched_1", "vae_larger_beta_1"}
    metrics = load_json("metrics/comparison.json")
    assert {key.split("/")[0] for key in metrics} == labels
    assert all(
        {f"{label}/{family}" for family in FAMILIES} <= {"/".join(key.split("/")[:2]) for key in metrics} for label in labels
    )
    results = [load_results(Path(f"results/comparison/{label}.safetensors")) for label in sorted(labels)]
    smooth = ledger(results)["smooth"]
    assert smooth["note"] == "only 40 test images"
