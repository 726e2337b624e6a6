"""Each point of a sweep is trained as params.yaml says, evaluated, and a run of its own."""

from pathlib import Path

import pytest

from pipeline.errors import ParamsError
from pipeline.models.weights import load_weights
from pipeline.params import Params
from pipeline.sweeps.grid import grid, sweep
from pipeline.tracking import store as tracking

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]


def test_points_differ_in_beta_seed_and_threads_alone(params: Params) -> None:
    points = grid(params, [0.5, 4], [1, 7])
    assert list(points) == ["vae_beta0.5_seed1", "vae_beta0.5_seed7", "vae_beta4_seed1", "vae_beta4_seed7"]
    own = points["vae_beta4_seed7"]
    assert (own.beta, own.seed, own.train.threads) == (4.0, 7, params.pool.threads)
    assert own.model_copy(update={"beta": params.beta, "seed": params.seed, "train": params.train}) == params


@pytest.mark.usefixtures("store")
def test_each_point_of_the_grid_is_a_run_with_test_metrics_and_a_model(params: Params, data_file: Path, workspace: Path) -> None:
    files = sweep(params, [0.5, 4.0], [1], data_file, Path("no classifier"), workspace / "out")
    assert [path.name for path in files] == ["vae_beta0.5_seed1.safetensors", "vae_beta4_seed1.safetensors"]
    assert [load_weights(path).beta for path in files] == [0.5, 4.0]
    found = {record.name: (record, run) for record, run in tracking.records()}
    assert found.keys() == {"β=0.5 vae seed=1 16-8-2", "β=4 vae seed=1 16-8-2"}
    record, run = found["β=4 vae seed=1 16-8-2"]
    assert (record.status, record.tags["role"]) == ("FINISHED", "sweep")
    assert record.params["beta"] == "4"
    assert record.metrics["test_elbo"] == pytest.approx(
        -record.metrics["test_recon"] - record.metrics["test_kl"], rel=1e-4, abs=1e-6
    )
    assert list(run.points("val/loss")) == [1, 2, 3, 4]
    assert {"vae_beta4_seed1.safetensors", "vae_beta4_seed1_history.csv", "evaluation.json"} == run.files().keys()
    assert record.has_data
    assert record.model_id


@pytest.mark.parametrize(
    ("betas", "seeds", "message"), [([-1.0], [1], r"--betas: -1\.0 is not"), ([1.0], [-1], "--seeds: -1 is not")]
)
def test_values_that_are_not_allowed_are_refused_before_any_work(
    betas: list[float], seeds: list[int], message: str, params: Params, data_file: Path, workspace: Path
) -> None:
    with pytest.raises(ParamsError, match=message) as caught:
        sweep(params, betas, seeds, data_file, Path("no classifier"), workspace / "out")
    assert caught.value.exit_code == 2
    assert not (workspace / "out").exists()
