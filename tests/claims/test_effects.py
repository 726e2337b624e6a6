"""Effects against formulas, which models of which seeds are compared, and the params of the comparison models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.claims.comparison_models import ComparisonModel, comparison_models
from pipeline.claims.ledger import ledger, paired, samples, share, share_of_first
from pipeline.evaluation.results import Results
from pipeline.params import Params
from pipeline.stats import frechet_distance, standard_error


def measured(model: str = "ae", beta: float | None = None, seed: int = 1, samplers: str = "", **arrays: Any) -> Results:
    return Results("mnist", model, beta, seed, samplers.split(), "", {name: np.asarray(array) for name, array in arrays.items()})


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_difference_is_between_the_same_images_and_resampled_with_them(sign: float) -> None:
    common = 100 * rng().normal(size=400)
    first, second = measured(x=common + np.linspace(0, 2, 400)), measured(x=common)
    estimate, replicates = paired(first, second, rng(), name="x", sign=sign)
    assert estimate == pytest.approx(sign)
    assert replicates.mean() == pytest.approx(estimate, abs=0.01)
    assert replicates.std() == pytest.approx(standard_error(np.linspace(0, 2, 400)), rel=0.1)


def test_a_difference_of_shares_has_the_error_of_both() -> None:
    first, second = measured(x=np.arange(1000) < 300), measured(x=np.arange(500) < 50)
    estimate, replicates = share(first, second, rng(), name="x")
    assert estimate == pytest.approx(0.2)
    assert replicates.mean() == pytest.approx(0.2, abs=0.002)
    assert replicates.std() == pytest.approx(np.sqrt(0.3 * 0.7 / 1000 + 0.1 * 0.9 / 500), rel=0.1)


def test_a_share_below_a_value_leaves_out_the_value() -> None:
    first, second = measured(x=[0.7, 0.8, 0.8, 0.9]), measured(x=[0.8, 0.9])
    assert share(first, second, rng(), name="x", below=0.8)[0] == 0.25


def test_the_share_of_the_first_model_has_its_own_error() -> None:
    estimate, replicates = share_of_first(measured(x=np.arange(1000) < 300), measured(), rng(), name="x")
    assert estimate == pytest.approx(0.3)
    assert replicates.mean() == pytest.approx(0.3, abs=0.002)
    assert replicates.std() == pytest.approx(np.sqrt(0.3 * 0.7 / 1000), rel=0.1)


def test_samples_are_those_of_the_named_samplers_whatever_their_order() -> None:
    near, far, real = rng().normal(size=(3, 200, 2)) + np.array([0.5, 2.0, 0.0])[:, None, None]
    first = measured(samplers="gmm10 prior", sample_features=[near, far], real_features=real)
    second = measured(samplers="prior gmm10", sample_features=[near, far], real_features=real)
    for of_first, of_second, a, b in (("gmm10", "gmm10", near, far), ("prior", "prior", far, near), ("prior", "gmm10", far, far)):
        estimate, replicates = samples(first, second, rng(), samplers=(of_first, of_second))
        assert estimate == pytest.approx(frechet_distance(a, real) - frechet_distance(b, real))
        # Each set is resampled by itself, so that also the distances of equal sets differ.
        assert 0.1 < replicates.std() < 1.0
        assert replicates.mean() == pytest.approx(estimate, abs=0.4)


def test_models_are_compared_within_a_seed_and_seeds_without_both_do_not_count() -> None:
    def of(model: str, beta: float | None, seed: int, value: float) -> Results:
        return measured(model, beta, seed, pair_tortuosity=np.full(9, value), image_recon=np.full(9, value))

    results = [of("ae", None, seed, 10.0 * seed) for seed in (1, 2, 3)] + [of("deep", None, 2, 7.0)]
    results += [of("vae", 1.0, 1, 4.0), of("vae", 1.0, 2, 5.0), of("vae", 1.0, 4, 0.0)]
    results += [of("vae_smaller", 0.0, 2, 3.0), of("vae_larger", 4.0, 1, 6.0), of("vae_larger", 4.0, 3, 0.0)]
    entries = ledger(results)
    assert entries["smooth"]["estimate"] == np.mean([10 - 4, 20 - 5])
    assert entries["smooth/deep"]["estimate"] == 7 - 5
    assert entries["beta_costs_reconstruction"]["estimate"] == np.mean([5 - 3, 6 - 4])
    assert not {key for key in entries if "beta" in key and "/" in key}


def test_an_entry_says_what_is_missing() -> None:
    entries = ledger([measured(pair_tortuosity=np.zeros(9))])
    for key, entry in entries.items():
        assert entry["verdict"] == "inconclusive"
        assert ("two betas" if key.startswith("beta") else "both models") in entry["note"]
    assert ledger([]).keys() == entries.keys()


def test_comparison_models_differ_from_the_main_models_as_they_should(params: Params) -> None:
    params = params.model_copy(
        update={
            "pool": params.pool.model_copy(update={"threads": 3}),
            "vae": params.vae.model_copy(update={"net": "other", "hidden_dims": [7, 5, 3]}),
            "claims": params.claims.model_copy(update={"seeds": 2, "comparison_beta": 3.0}),
        }
    )
    expected = []
    for seed in (params.seed, params.seed + 1):
        own = params.model_copy(update={"seed": seed, "train": params.train.model_copy(update={"threads": 3})})
        deep = own.model_copy(update={"ae": own.ae.model_copy(update={"net": "other", "hidden_dims": [7, 5, 3]})})
        expected.append(ComparisonModel("comparison", "ae_depth_matched", "ae", deep))
        expected.append(ComparisonModel("comparison", "vae_larger_beta", "vae", own.model_copy(update={"beta": 3.0})))
    expected += [ComparisonModel("seeds", name, name, own) for name in ("ae", "vae")]
    assert list(comparison_models(params)) == expected
    assert expected[0].folder(Path("models")) == Path(f"models/comparison/ae_depth_matched_{params.seed}")
