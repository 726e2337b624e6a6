"""A grid is checked before any work, and each of its trials is trained as params.yaml says but for its own values."""

from pathlib import Path

import pytest

from pipeline.errors import ParamsError
from pipeline.params import Params
from pipeline.storage import md5
from pipeline.sweeps.grid import allowed, parse_axes, trials
from pipeline.sweeps.sweep import command
from pipeline.sweeps.trial import CODE, Trial
from tests.test_architecture import STAGES


@pytest.fixture
def prepared(workspace: Path, data_file: Path) -> Path:
    """A workspace with the prepared data set where a sweep reads it."""
    (workspace / "data").mkdir()
    return data_file.rename(workspace / "data/dataset.safetensors")


def made(params: Params, axes: dict[str, list[object]], **options: object) -> dict[str, Trial]:
    return trials(params, "vae", axes, Path("out"), **{"cpus": 1, "gpus": 0} | options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("prepared")
def test_trials_differ_in_their_values_threads_and_device_alone(params: Params) -> None:
    found = made(params, {"beta": [0.5, 4.0], "vae.hidden_dims": [[16, 8]]}, cpus=3)
    assert list(found) == ["beta=0.5,vae.hidden_dims=[16,8]", "beta=4.0,vae.hidden_dims=[16,8]"]
    own = found["beta=4.0,vae.hidden_dims=[16,8]"].params
    assert (own.beta, own.vae.hidden_dims, own.train.threads, own.train.device) == (4.0, [16, 8], 3, "cpu")
    assert own.model_copy(update={"beta": params.beta, "vae": params.vae, "train": params.train}) == params


def test_values_are_read_as_dvc_reads_them_and_each_is_tried_once(params: Params) -> None:
    axes = parse_axes(params, "vae", ["beta=1,1.0,1e-2", "vae.hidden_dims=[8, 4],[]", "vae.net=mlp,conv"])
    assert axes == {"beta": [1.0, 0.01], "vae.hidden_dims": [[8, 4], []], "vae.net": ["mlp", "conv"]}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("beta=-1", "beta: -1 is not allowed; allowed is greater than or equal to 0"),
        ("beta=one", "beta: 'one' is not allowed; allowed is a valid number"),
        ("train.patience=1.5", r"train.patience: 1\.5 is not allowed; allowed is a valid integer"),
        ("bta=1", "'bta' is not allowed; allowed are seed, beta, train.batch_size"),
        ("ae.epochs=3", "'ae.epochs' is not allowed"),
        ("likelihood=gaussian", "'likelihood' is not allowed"),
        ("train.threads=2", "--cpus sets train.threads"),
        ("beta", "each key once with values between commas"),
        ("seed=1", "each key once with values between commas"),
        ("beta= ", "each key once with values between commas"),
        ("beta=[1", "not valid YAML"),
    ],
)
def test_a_mistake_names_the_argument_and_what_is_allowed(argument: str, message: str, params: Params) -> None:
    with pytest.raises(ParamsError, match=message) as caught:
        parse_axes(params, "vae", ["seed=1", argument])
    assert str(caught.value).startswith(f"--grid {argument}:")


@pytest.mark.usefixtures("prepared")
def test_values_that_are_not_allowed_together_are_refused(params: Params) -> None:
    axes = parse_axes(params, "vae", ["train.batch_size=16,20", "train.shards=2,8"])
    with pytest.raises(ParamsError, match=r"--grid train\.batch_size=20,train\.shards=8: train: batch_size 20 is not a multiple"):
        made(params, axes)


@pytest.mark.usefixtures("prepared")
def test_a_name_that_no_folder_can_have_is_refused(params: Params) -> None:
    with pytest.raises(ParamsError, match=r"too many keys for the name of a trial's folder"):
        made(params, {"vae.hidden_dims": [[512] * 16, [256] * 16], "ae.hidden_dims": [[512] * 16, [256] * 40]})


def test_a_gpu_that_no_trial_would_use_is_refused(params: Params) -> None:
    assert params.train.device == "cpu"
    with pytest.raises(ParamsError, match=r"--gpus 1: train\.device in params\.yaml is cpu; set it to auto"):
        made(params, {"beta": [1.0]}, gpus=1)


def test_the_code_of_a_fingerprint_is_what_a_stage_that_trains_lists() -> None:
    listed = {dep.removeprefix("pipeline/") for dep in STAGES["train_vae"]["deps"] if dep.startswith("pipeline/")}
    assert set(CODE) == listed


@pytest.mark.parametrize("model", ["vae", "ae"])
def test_the_keys_of_a_grid_are_params_of_the_stage_that_trains(model: str, params: Params) -> None:
    read = STAGES[f"train_{model}"]["params"]
    assert {key.partition(".")[0] for key in allowed(params, model)} == set(read) - {"likelihood", "data.val_size"}


def test_a_fingerprint_changes_with_values_data_and_threads(params: Params, prepared: Path) -> None:
    found = [*made(params, {"beta": [1.0, 4.0]}).values(), *made(params, {"beta": [1.0]}, cpus=2).values()]
    other = params.model_copy(update={"figures": params.figures.model_copy(update={"dpi": 99})})
    assert made(other, {"beta": [1.0]})["beta=1.0"].fingerprint == found[0].fingerprint, "figures do not train"
    before = md5(prepared)
    prepared.write_bytes(prepared.read_bytes() + b" ")
    assert md5(prepared) != before
    found += made(params, {"beta": [1.0]}).values()
    assert len({trial.fingerprint for trial in found}) == 4


@pytest.mark.usefixtures("prepared")
def test_the_command_sets_what_params_yaml_does_not_say(params: Params) -> None:
    found = made(params, {"vae.hidden_dims": [[16, 8]], "seed": [3]})
    (trial,) = found.values()
    assert command(trial, params) == "dvc exp run -S 'vae.hidden_dims=[16,8]' -S seed=3"
    other = params.model_copy(update={"train": params.train.model_copy(update={"threads": 4, "device": "auto"})})
    assert command(trial, other).endswith(" -S seed=3 -S train.threads=1 -S train.device=cpu")
