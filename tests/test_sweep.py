"""Models trained together end where each ends alone, and each is a run of its own."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pipeline import sweep, tracking
from pipeline.data import Dataset
from pipeline.errors import DivergedError, ParamsError
from pipeline.experiment import build
from pipeline.params import Params
from pipeline.runtime import Runtime
from pipeline.sweep import Stack, assemble, fit_together, options
from pipeline.trainer import fit
from pipeline.weights import load_weights

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]

BETAS, SEEDS = [0.5, 4.0], [1, 2]


def changed(params: Params, **train: object) -> Params:
    vae = {key: train.pop(key) for key in ("epochs", "warmup_epochs") if key in train}
    values = params.model_dump()
    values["train"] |= train
    values["vae"] |= vae
    return Params.model_validate(values)


@pytest.mark.parametrize(
    "change",
    [{}, {"schedule": "constant"}, {"batch_size": 4}, {"warmup_epochs": 3}, {"patience": 1, "learning_rate": 0.05, "epochs": 12}],
)
def test_each_model_is_the_one_trained_alone(change: dict, params: Params, dataset: Dataset, rt: Runtime) -> None:
    params = changed(params, **change)
    members, splits = assemble(dataset, params, BETAS, SEEDS)
    list(fit_together(members, splits, runtime=rt, **options(params)))
    for member in members:
        alone = build("vae", params.vae, splits[member.seed][0], member.seed)
        keywords = options(params) | {"seed": member.seed, "beta": member.beta}
        epochs = list(fit(alone, *splits[member.seed], runtime=rt, **keywords))
        assert len(member.rows) == len(epochs)
        assert member.best_epoch == epochs[-1].state.header["best_epoch"]
        for row, epoch in zip(member.rows, epochs, strict=True):
            assert row == pytest.approx({"epoch": epoch.step, **epoch.metrics}, rel=1e-4, abs=1e-6)
        torch.testing.assert_close(member.model.state_dict(), alone.state_dict(), rtol=1e-3, atol=1e-4)


def test_the_written_out_gradient_is_that_of_autograd(params: Params, dataset: Dataset, rt: Runtime) -> None:
    members, _ = assemble(dataset, params, BETAS, SEEDS)
    stack, random = Stack([member.model for member in members]), torch.Generator().manual_seed(0)
    (x, seen), noise = torch.rand(2, 4, 5, 64, generator=random), torch.randn(4, 5, 2, generator=random)
    betas = torch.tensor([member.beta for member in members])
    found = []
    for backward in (stack.autograd, stack.explicit):
        for parameter in stack.parameters():
            parameter.grad = torch.zeros_like(parameter)
        found.append((backward(x, seen, noise, betas), [parameter.grad for parameter in stack.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


class Casting(Runtime):
    """The runtime of another device, on the CPU: its products need tensors of bfloat16."""

    keeps_float32 = False

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("kind", [Runtime, Casting])
def test_bfloat16_trains(kind: type[Runtime], params: Params, dataset: Dataset) -> None:
    params, found = changed(params, epochs=1, learning_rate=1e-3), {}
    for runtime in (Runtime(torch.device("cpu"), 1), kind(torch.device("cpu"), 1, "bfloat16")):
        (member, _), splits = assemble(dataset, params, BETAS, [1])
        list(fit_together([member], splits, runtime=runtime, **options(params)))
        found[runtime.precision] = torch.cat([each.flatten() for each in member.model.state_dict().values()])
    assert 0 < (found["bfloat16"] - found["float32"]).norm() < 0.02 * found["float32"].norm()


def test_early_stopping_is_each_models_own(params: Params, dataset: Dataset, rt: Runtime) -> None:
    params = changed(params, patience=1, learning_rate=0.05, epochs=12)
    members, splits = assemble(dataset, params, BETAS, SEEDS)
    list(fit_together(members, splits, runtime=rt, **options(params)))
    assert len({len(member.rows) for member in members}) > 1


def test_a_model_that_diverges_is_named(params: Params, dataset: Dataset, rt: Runtime) -> None:
    members, splits = assemble(dataset, params, [1.0, 2.0], [1])
    with torch.no_grad():
        members[1].model.decoder[0].weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match="epoch 1: the loss or a gradient of vae_beta2_seed1 is not finite"):
        list(fit_together(members, splits, runtime=rt, **options(params)))


@pytest.mark.usefixtures("store")
def test_each_model_becomes_a_run_of_its_own(params: Params, data_file: Path, workspace: Path) -> None:
    files = sweep.sweep(params, [0.5, 4.0], [1], data_file, Path("no judge"), workspace / "out")
    assert [path.name for path in files] == ["vae_beta0.5_seed1.safetensors", "vae_beta4_seed1.safetensors"]
    assert [load_weights(path).beta for path in files] == [0.5, 4.0]
    found = {record.name: (record, run) for record, run in tracking.records()}
    assert found.keys() == {"vae 16-8-2 beta=0.5 seed=1", "vae 16-8-2 beta=4 seed=1"}
    record, run = found["vae 16-8-2 beta=4 seed=1"]
    assert record.status == "FINISHED"
    assert record.params["beta"] == "4"
    assert record.metrics["test/elbo"] == pytest.approx(
        -record.metrics["test/recon"] - record.metrics["test/kl"], rel=1e-4, abs=1e-6
    )
    assert list(run.points("val/loss")) == [1, 2, 3, 4]
    assert {"vae_beta4_seed1.safetensors", "vae_beta4_seed1_history.csv"} == run.files().keys()
    assert record.has_data
    assert record.model_id


def test_values_that_are_not_allowed(params: Params, data_file: Path, workspace: Path) -> None:
    with pytest.raises(ParamsError, match=r"--betas: -1\.0 is not allowed") as caught:
        sweep.sweep(params, [-1.0], [1], data_file, Path("no judge"), workspace / "out")
    assert caught.value.exit_code == 2
    said = CliRunner().invoke(sweep.main, ["--betas", "one"])
    assert said.exit_code == 2
    assert "allowed are numbers between commas" in said.output
