"""The ledger computes its verdicts: planted effects are found, their opposites fail, and nothing is decided by noise."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline import tracking
from pipeline.claims import CLAIMS, interval, ledger, markdown, verdict
from pipeline.errors import IntegrityError
from pipeline.laboratory import Laboratory, load_laboratory, save_laboratory
from pipeline.params import Params, load_params
from pipeline.variants import variants
from stages.claims import files, main

BETWEEN_BETAS = {name for name, claim in CLAIMS.items() if claim.between_betas}


def laboratory(model: str, beta: float | None, seed: int = 1, better: float = 0.0) -> Laboratory:
    """Return measurements of noise, ``better`` standard deviations better than none on everything that a claim reads."""
    rng = np.random.default_rng([seed, len(model)])

    def noise(*shape: int) -> np.ndarray:
        return rng.normal(size=shape) - better

    arrays = {f"walk_{name}": noise(200) for name in ("tortuosity", "jump_share")}
    arrays |= {f"far_{name}": noise(300) > 0 for name in ("prior", "matched", "hull")}
    arrays |= {f"top_{name}": 0.8 - 0.1 * noise(300) for name in ("prior", "matched", "hull")}
    arrays["real_features"] = np.random.default_rng(0).normal(size=(300, 4))
    arrays["sample_features"] = np.random.default_rng([seed, 7]).normal(size=(4, 300, 4)) + 2 - better
    if beta is not None:
        arrays |= {"image_recon": 130 + noise(300) + beta, "image_kl": 8 - beta + noise(300)}
    return Laboratory("mnist", model, beta, seed, ["prior", "gaussian", "gmm10", "kde"], f"md5 of {model} {seed}", arrays)


def verdicts(*laboratories: Laboratory) -> dict[str, str]:
    return {name: entry["verdict"] for name, entry in ledger(laboratories).items()}


def test_planted_effects_hold_and_their_opposites_fail():
    better = verdicts(laboratory("ae", None), laboratory("vae", 1.0, better=1.0))
    worse = verdicts(laboratory("ae", None, better=1.0), laboratory("vae", 1.0))
    for name in CLAIMS.keys() - BETWEEN_BETAS - {"holes"}:
        assert better[name] == "holds", name
        assert worse[name] == "fails", name
    assert better["holes"] == "holds"


def test_no_effect_is_inconclusive():
    found = verdicts(laboratory("ae", None), laboratory("vae", 1.0))
    undecided = [name for name in CLAIMS.keys() - BETWEEN_BETAS - {"holes"} if found[name] == "inconclusive"]
    assert len(undecided) >= 6  # of 8, at 95% each


def test_beta_is_weighed_between_vaes():
    weak, strong = laboratory("vae", 1.0), laboratory("vae_strong", 4.0)
    for order in ((weak, strong), (strong, weak)):
        entries = ledger(order)
        assert entries["beta_costs_reconstruction"]["estimate"] == pytest.approx(3, abs=0.3)
        assert entries["beta_regularises"]["verdict"] == "holds"
    assert {verdicts(weak)[name] for name in BETWEEN_BETAS} == {"inconclusive"}


def test_several_seeds_give_a_t_interval():
    pairs = [
        laboratory(*kind, seed, better) for seed in range(1, 6) for kind, better in ((("ae", None), 0.0), (("vae", 1.0), 0.5))
    ]
    entry = ledger(pairs)["smooth"]
    assert entry["interval"] == "t over 5 seeds"
    assert entry["verdict"] == "holds"
    low, high, _ = interval([1.0, 2.0, 3.0], np.zeros(1))
    assert (low, high) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-3)


def test_every_autoencoder_is_weighed():
    entries = ledger([laboratory("ae", None), laboratory("ae_matched", None), laboratory("vae", 1.0)])
    assert {"smooth", "smooth/ae_matched"} <= entries.keys()


def test_what_was_not_measured_is_said_and_not_decided():
    ae, vae = laboratory("ae", None), laboratory("vae", 1.0)
    deaf = replace(ae, arrays={name: array for name, array in ae.arrays.items() if name.startswith("walk")})
    entries = ledger([deaf, vae])
    assert entries["smooth"]["verdict"] in ("holds", "fails", "inconclusive")
    assert entries["generates_from_prior"] == entries["generates_from_prior"] | {
        "verdict": "inconclusive",
        "note": "not measured: sample_features",
    }
    assert "estimate" not in entries["generates_from_prior"]


def test_intervals_cover_the_truth_as_often_as_they_say():
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        ae, vae = (replace(laboratory("ae", None), arrays={"walk_tortuosity": rng.normal(size=80)}) for _ in range(2))
        entry = ledger([ae, replace(vae, beta=1.0, model="vae")])["smooth"]
        covered += entry["low"] <= 0 <= entry["high"]
    assert covered >= 51  # 57 expected, 3 standard deviations below


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(1, 2, "holds"), (-2, -1, "fails"), (-1, 1, "inconclusive"), (0, 1, "inconclusive")]
)
def test_verdicts(low: float, high: float, expected: str):
    assert verdict(low, high, 0.0) == expected


class TestStage:
    @pytest.fixture(autouse=True)
    def tags(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
        tagged: dict[str, dict[str, str]] = {}

        class Recorder(tracking.Run):
            def __init__(self, md5: str) -> None:
                super().__init__()
                self.md5 = md5

            def set_tags(self, tags):
                tagged[self.md5] = dict(tags)

        monkeypatch.setattr(tracking, "find", Recorder)
        return tagged

    def run(self, folder: Path, *laboratories: Laboratory):
        paths = [str(folder / laboratory.model) for laboratory in laboratories]
        for path, measured in zip(paths, laboratories, strict=True):
            save_laboratory(path, measured)
        return CliRunner().invoke(main, [*paths, "--metrics", str(folder / "claims.json"), "--table", str(folder / "claims.md")])

    def test_writes_json_table_and_tags(self, tmp_path: Path, tags: dict[str, dict[str, str]]):
        ae, vae = laboratory("ae", None), laboratory("vae", 1.0, better=1.0)
        assert self.run(tmp_path, ae, vae).exit_code == 0
        entries = json.loads((tmp_path / "claims.json").read_text())
        assert set(entries) == set(CLAIMS)
        assert entries["smooth"].keys() >= {"claim", "metric", "sampler", "threshold", "estimate", "low", "high", "verdict"}
        assert (tmp_path / "claims.md").read_text() == markdown(ledger([ae, vae]))
        assert tags["md5 of vae 1"]["claim.smooth"] == "holds"

    def test_different_measurements_are_refused(self, tmp_path: Path):
        ae, vae = laboratory("ae", None), laboratory("vae", 1.0)
        short = replace(vae, arrays=vae.arrays | {"walk_tortuosity": np.zeros(7)})
        for other in (short, replace(vae, dataset="kmnist")):
            assert isinstance(self.run(tmp_path, ae, other).exception, IntegrityError)

    def test_a_folder_stands_for_the_laboratories_in_it(self, tmp_path: Path):
        for name in ("vae_2", "ae_2"):
            save_laboratory(tmp_path / f"{name}.safetensors", laboratory("vae", 1.0))
        assert files(tmp_path) == [tmp_path / "ae_2.safetensors", tmp_path / "vae_2.safetensors"]
        assert files(tmp_path / "file") == [tmp_path / "file"]

    def test_a_laboratory_round_trips(self, tmp_path: Path):
        measured = laboratory("vae", 1.0)
        save_laboratory(tmp_path / "file", measured)
        loaded = load_laboratory(tmp_path / "file")
        assert replace(loaded, arrays={}) == replace(measured, arrays={})
        assert all(np.array_equal(loaded.arrays[name], array) for name, array in measured.arrays.items())


class TestVariants:
    params = load_params(Path(__file__).parents[1] / "params.yaml")

    def with_options(self, **options: float) -> Params:
        return self.params.model_copy(update={"evaluate": self.params.evaluate.model_copy(update=options)})

    def test_one_seed_trains_only_what_the_pipeline_does_not(self):
        trained = {variant.name: variant for variant in variants(self.with_options(seeds=1, contrast_beta=8.0))}
        assert trained.keys() == {"ae_matched", "vae_contrast"}
        assert trained["ae_matched"].model == "ae"
        assert trained["ae_matched"].params.ae.hidden_dims == self.params.vae.hidden_dims
        assert trained["vae_contrast"].params.beta == 8.0

    def test_more_seeds_train_everything_again(self):
        options = self.with_options(seeds=3, contrast_beta=self.params.beta)
        trained = [variant.folder(Path()).name for variant in variants(options)]
        first = self.params.seed
        names = ("ae", "vae", "ae_matched", "vae_contrast")
        again = [f"{name}_{seed}" for seed in (first + 1, first + 2) for name in names]
        assert trained == [f"ae_matched_{first}", f"vae_contrast_{first}", *again]
