"""The space of a search is checked before any work, and a mistake names file, key and what is allowed."""

from pathlib import Path

import pytest

from pipeline.errors import ParamsError
from pipeline.params import Params
from pipeline.sweeps.space import Space, load_space


@pytest.fixture
def load(params: Params, tmp_path: Path) -> object:
    def loaded(content: str, model: str = "vae") -> Space:
        (tmp_path / "space.yaml").write_text(content)
        return load_space(tmp_path / "space.yaml", params, model)

    return loaded


def test_lists_and_ranges_get_the_types_of_the_params(load) -> None:  # type: ignore[no-untyped-def]
    space = load(
        "beta: {low: 1, high: 1e1, log: true}\nvae.latent_dim: {low: 2, high: 8, step: 3}\n"
        "vae.epochs: {low: 1, high: 100, log: true}\nvae.input_dropout: {low: 0, high: 0.3, step: 0.1}\n"
        "vae.hidden_dims: [[8, 4], [], [8, 4]]\ntrain.learning_rate: [1, 0.1]\n"
    )
    assert space == {
        "beta": {"low": 1.0, "high": 10.0, "log": True, "step": None},
        "vae.latent_dim": {"low": 2, "high": 8, "log": False, "step": 3},
        "vae.epochs": {"low": 1, "high": 100, "log": True, "step": 1},
        "vae.input_dropout": {"low": 0.0, "high": 0.3, "log": False, "step": 0.1},
        "vae.hidden_dims": [[8, 4], []],
        "train.learning_rate": [1.0, 0.1],
    }
    assert [type(space["beta"][end]) for end in ("low", "high")] == [float, float]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "allowed is a mapping of keys, not nothing"),
        ("{}", r"an empty space; allowed is a list of values or a range as in \{low: 1, high: 8\}"),
        ("- beta", "allowed is a mapping of keys, not list"),
        ("beta: [1", "not valid YAML"),
        ("bta: [1]", "bta: not allowed; allowed are beta, train.batch_size"),
        ("ae.epochs: [1]", "ae.epochs: not allowed"),
        ("likelihood: [gaussian]", "likelihood: not allowed"),
        ("train.binarize: [true, false]", "train.binarize: not allowed"),
        ("seed: [1, 2]", "seed: a search makes no sense: the best of many seeds is luck; --seeds trains"),
        ("train.shards: [1, 2]", "train.shards: a search makes no sense"),
        ("train.threads: [1, 2]", "train.threads: --cpus sets it for all trials"),
        ("beta: 1", "beta: allowed is a list of values or a range"),
        ("beta: []", "beta: allowed is a list of values or a range"),
        ("beta: {low: 1}", "beta: allowed is a list of values or a range"),
        ("beta: {low: 1, high: 2, size: 3}", "beta: allowed is a list of values or a range"),
        ("beta: [1, -1]", "beta: -1 is not allowed; allowed is greater than or equal to 0"),
        ("beta: [1, one]", "beta: 'one' is not allowed; allowed is a valid number"),
        ("vae.net: {low: 1, high: 2}", "vae.net: allowed is a list of values, because it is no number"),
        ("beta: {low: -1, high: 2}", "beta: -1 is not allowed"),
        ("beta: {low: 1, high: 2e9}", "beta: 2000000000.0 is not allowed"),
        ("vae.epochs: {low: 1, high: 2.5}", "vae.epochs: 2.5 is not allowed; allowed is a valid integer"),
        ("beta: {low: 2, high: 1}", "beta: low, 2.0, is not below high, 1.0"),
        ("beta: {low: 1, high: 1}", "beta: low, 1.0, is not below high, 1.0"),
        ("beta: {low: 0, high: 1, log: true}", "beta: log: true needs a low above 0, not 0.0"),
        ("beta: {low: 1, high: 2, log: 1}", "beta: log: 1 is not allowed; allowed are true and false"),
        ("beta: {low: 1, high: 2, log: true, step: 1}", "beta: step and log: true exclude each other"),
        ("beta: {low: 1, high: 2, step: 0}", "beta: step: 0 is not allowed; allowed is a number above 0"),
        ("vae.epochs: {low: 1, high: 2, step: 0.5}", "vae.epochs: step: 0.5 is not allowed; allowed is a whole number above 0"),
        ("beta: {low: 1, high: 2, step: 0.3}", r"beta: high, 2\.0, is not low, 1\.0, and a whole number of steps of 0\.3"),
        ("beta: {low: 1, high: 2, step: 3}", r"beta: high, 2\.0, is not low"),
        ("1: [2]", "1: "),
    ],
)
def test_a_mistake_is_one_line(content: str, message: str, load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ParamsError, match=message) as caught:
        load(content)
    assert str(caught.value).startswith(f"{tmp_path / 'space.yaml'}")
    assert "\n" not in str(caught.value)


def test_a_batch_that_a_range_cannot_cut_into_shards_is_found_before_any_work(params: Params, tmp_path: Path) -> None:
    sharded = params.model_copy(update={"train": params.train.model_copy(update={"shards": 4})})
    (tmp_path / "space.yaml").write_text("train.batch_size: {low: 8, high: 16}")
    with pytest.raises(ParamsError, match="batch_size 9 is not a multiple of shards"):
        load_space(tmp_path / "space.yaml", sharded, "vae")
    (tmp_path / "space.yaml").write_text("train.batch_size: {low: 8, high: 16, step: 4}")
    assert load_space(tmp_path / "space.yaml", sharded, "vae")


def test_the_autoencoder_has_its_own_keys(load) -> None:  # type: ignore[no-untyped-def]
    assert list(load("ae.latent_dim: [2, 4]", "ae")) == ["ae.latent_dim"]
    with pytest.raises(ParamsError, match="beta: not allowed"):
        load("beta: [1]", "ae")
