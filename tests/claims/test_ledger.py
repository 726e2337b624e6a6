"""The ledger's verdicts: planted effects are found, their opposites fail, and noise decides nothing."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.claims.ledger import CLAIMS, MIN_TEST_IMAGES, interval, ledger, line, markdown, remarks, verdict
from pipeline.evaluation.results import Results

BETWEEN_BETAS = {name for name, claim in CLAIMS.items() if claim.between_betas}


def results(model: str, beta: float | None, seed: int = 1, better: float = 0.0) -> Results:
    """Return measurements of noise, ``better`` standard deviations better than none on everything that a claim reads."""
    rng = np.random.default_rng([seed, len(model)])

    def noise(*shape: int) -> np.ndarray:
        return rng.normal(size=shape) - better

    arrays = {f"pair_{name}": noise(200) for name in ("tortuosity", "jump_share")}
    arrays |= {f"off_manifold_{name}": noise(300) > 0 for name in ("prior", "matched", "hull")}
    arrays |= {f"confidence_{name}": 0.8 - 0.1 * noise(300) for name in ("prior", "matched", "hull")}
    arrays["real_features"] = np.random.default_rng(0).normal(size=(300, 4))
    arrays["sample_features"] = np.random.default_rng([seed, 7]).normal(size=(4, 300, 4)) + 2 - better
    if beta is not None:
        arrays |= {"image_recon": 130 + noise(300) + beta, "image_kl": 8 - beta + noise(300)}
    return Results("mnist", model, beta, seed, ["prior", "gaussian", "gmm10", "kde"], f"md5 of {model} {seed}", arrays)


def verdicts(*measured: Results) -> dict[str, str]:
    return {name: entry["verdict"] for name, entry in ledger(measured).items()}


def test_planted_effects_hold_and_their_opposites_fail():
    better = verdicts(results("ae", None), results("vae", 1.0, better=1.0))
    worse = verdicts(results("ae", None, better=1.0), results("vae", 1.0))
    for name in CLAIMS.keys() - BETWEEN_BETAS - {"holes"}:
        assert better[name] == "holds", name
        assert worse[name] == "fails", name
    assert better["holes"] == "holds"


def test_no_effect_is_inconclusive():
    found = verdicts(results("ae", None), results("vae", 1.0))
    undecided = [name for name in CLAIMS.keys() - BETWEEN_BETAS - {"holes"} if found[name] == "inconclusive"]
    assert len(undecided) >= 6  # of 8, at 95% each


def test_claims_about_beta_compare_vaes():
    weak, strong = results("vae", 1.0), results("vae_strong", 4.0)
    for order in ((weak, strong), (strong, weak)):
        entries = ledger(order)
        assert entries["beta_costs_reconstruction"]["estimate"] == pytest.approx(3, abs=0.3)
        assert entries["beta_regularises"]["verdict"] == "holds"
    assert {verdicts(weak)[name] for name in BETWEEN_BETAS} == {"inconclusive"}


def test_claims_about_beta_are_decided_also_where_a_comparison_model_has_the_beta_of_the_main_one():
    main, same, other = results("vae", 4.0), results("vae_larger_beta", 4.0, better=9.0), results("vae_beta_1", 1.0)
    with_same, without = ledger([main, same, other]), ledger([main, other])
    assert with_same == without, "the first VAE is the main one"
    assert {with_same[name]["verdict"] for name in BETWEEN_BETAS} == {"holds"}
    assert "low" in ledger([*measured_on(5), replace(same, beta=1.0, arrays={})])["smooth"], "with autoencoders, too"


def measured_on(number: int, seeds: int = 1) -> list[Results]:
    found = [results(*kind, seed) for seed in range(1, seeds + 1) for kind in (("ae", None), ("vae", 1.0))]
    arrays = [{"pair_tortuosity": one["pair_tortuosity"], "image_recon": np.ones(number)} for one in found]
    return [replace(one, arrays=own) for one, own in zip(found, arrays, strict=True)]


def test_a_verdict_of_one_seed_is_about_this_training_and_of_more_it_is_not():
    for seeds, ending in ((1, " in this training"), (2, "")):
        entries = ledger(measured_on(MIN_TEST_IMAGES, seeds))
        decided = [entry for entry in entries.values() if "low" in entry]
        assert {entry["verdict"] for entry in decided} <= {"holds", "fails", "inconclusive"}
        assert all(entry["says"] == entry["verdict"] + ending and line(entry) == entry["says"] for entry in decided)
        assert any("`dvc exp run -P -S claims.seeds=5`" in remark for remark in remarks(entries)) == (seeds == 1)
        assert all(remark in markdown(entries) for remark in remarks(entries))
        assert not any("test images" in remark for remark in remarks(entries))


def test_few_test_images_are_warned_of_at_every_verdict():
    entries = ledger(measured_on(359))
    for entry in entries.values():
        assert "low" not in entry or line(entry) == f"{entry['verdict']} in this training (only 359 test images)"
    assert any("only 359 test images" in remark for remark in remarks(entries))
    assert "note" not in ledger(measured_on(MIN_TEST_IMAGES))["smooth"]


def test_several_seeds_give_a_t_interval():
    pairs = [results(*kind, seed, better) for seed in range(1, 6) for kind, better in ((("ae", None), 0.0), (("vae", 1.0), 0.5))]
    entry = ledger(pairs)["smooth"]
    assert entry["interval"] == "t over 5 seeds"
    assert entry["verdict"] == "holds"
    low, high, _ = interval([1.0, 2.0, 3.0], np.zeros(1))
    assert (low, high) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-3)


def certain(share: float, sure: float) -> Results:
    """Return measurements of an autoencoder with this share of the hull off the manifold, and this confidence everywhere."""
    arrays = {"off_manifold_hull": np.arange(20000) < 20000 * share, "confidence_hull": np.full(300, sure)}
    return Results("mnist", "ae", None, 1, [], "", arrays)


def test_an_autoencoder_has_holes_when_more_than_5_percent_of_the_hull_is_off_the_manifold():
    vae = replace(certain(0.0, 0.0), model="vae", beta=1.0)
    assert verdicts(certain(0.06, 0.0), vae)["holes"] == "holds"
    assert verdicts(certain(0.04, 0.0), vae)["holes"] == "fails"


def test_a_classifier_is_unsure_below_80_percent():
    unsure, sure = certain(0.0, 0.79), replace(certain(0.0, 0.81), model="vae", beta=1.0)
    assert ledger([unsure, sure])["more_unsure"]["estimate"] == 1.0


@pytest.mark.parametrize(("name", "count"), [("smooth", 2000), ("more_holes", 2000), ("generates_from_prior", 100)])
def test_bounds_of_one_seed_come_from_many_resamples(name: str, count: int):
    _, replicates = CLAIMS[name].effect(results("ae", None), results("vae", 1.0), np.random.default_rng(0))
    assert len(replicates) >= count


def test_one_seed_gives_the_middle_95_percent_of_the_replicates_around_the_estimate():
    low, high, kind = interval([7.0], np.linspace(0, 1, 1001))
    assert (low, high) == pytest.approx((7 - 0.475, 7 + 0.475))
    assert kind == "bootstrap, one seed"


def test_every_autoencoder_has_entries():
    entries = ledger([results("ae", None), results("ae_depth_matched", None), results("vae", 1.0)])
    assert {"smooth", "smooth/ae_depth_matched"} <= entries.keys()


def test_claims_that_were_not_measured_are_inconclusive_with_a_note():
    ae, vae = results("ae", None), results("vae", 1.0)
    pairs_alone = replace(ae, arrays={name: array for name, array in ae.arrays.items() if name.startswith("pair")})
    entries = ledger([pairs_alone, vae])
    assert "estimate" in entries["smooth"]
    assert entries["generates_from_prior"] == entries["generates_from_prior"] | {
        "verdict": "inconclusive",
        "note": "not measured: sample_features, which needs the classifier",
    }
    assert "estimate" not in entries["generates_from_prior"]


@pytest.mark.parametrize("change", [{"arrays": {"pair_tortuosity": np.zeros(7)}}, {"dataset": "kmnist"}])
def test_models_that_were_not_measured_alike_are_refused(change):
    vae = results("vae", 1.0)
    with pytest.raises(ValueError, match=r"data set|broadcast"):
        ledger([results("ae", None), replace(vae, **change)])


def test_markdown_has_a_row_for_every_entry():
    entries = ledger([results("ae", None), results("vae", 1.0)])
    head, *rows = [row for row in markdown(entries).splitlines() if row.startswith("|")]
    assert head.count("|") == 7
    assert len(rows) == 1 + len(entries)
    for (key, entry), row in zip(entries.items(), rows[1:], strict=True):
        assert f"(`{key}`)" in row
        assert f"**{line(entry)}**" in row


def test_intervals_cover_the_truth_as_often_as_they_say():
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        ae, vae = (replace(results("ae", None), arrays={"pair_tortuosity": rng.normal(size=80)}) for _ in range(2))
        entry = ledger([ae, replace(vae, beta=1.0, model="vae")])["smooth"]
        covered += entry["low"] <= 0 <= entry["high"]
    assert covered >= 51  # 57 expected, 3 standard deviations below


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(1, 2, "holds"), (-2, -1, "fails"), (-1, 1, "inconclusive"), (0, 1, "inconclusive")]
)
def test_verdicts(low: float, high: float, expected: str):
    assert verdict(low, high, 0.0) == expected
