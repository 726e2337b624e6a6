"""What a search proposes and prunes depends on its settings and on earlier rounds alone."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import BusyError, IntegrityError, ParamsError
from pipeline.sweeps.search_report import figure
from pipeline.sweeps.study import COMPLETE, FAILED, PRUNED, Ended, Settings, Study, load_optuna
from pipeline.sweeps.trial import first_above

optuna = pytest.importorskip("optuna", reason="the extra search is not installed; `make search` installs it")
SPACE: dict[str, Any] = {
    "beta": {"low": 0.5, "high": 8.0, "log": True, "step": None},
    "vae.latent_dim": {"low": 2, "high": 8, "log": False, "step": 3},
    "vae.input_dropout": {"low": 0.1, "high": 0.7, "log": False, "step": 0.1},
    "vae.hidden_dims": [[8, 4], []],
}
SETTINGS = Settings("vae", "val/loss", SPACE, True, 1, 3, 1, 0, "f", optuna.__version__)


def loss(params: Any) -> float:
    """Return a loss with its lowest value at beta = 2, most of which comes from beta."""
    return float(np.log(params["beta"] / 2) ** 2 + 0.01 * params["vae.latent_dim"])


def complete(number: int, params: Any) -> Ended:
    value = loss(params)
    return Ended(number, params, COMPLETE, number, [value + 2, value + 1, value], value, 3, "md5")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of 36 trials in rounds of three."""
    made = Study(tmp_path_factory.mktemp("study") / "study.jsonl", SETTINGS)
    while numbers := made.next_round(36):
        for number, params in made.propose(numbers).items():
            made.add(complete(number, params))
    return made


def test_one_process_works_on_a_study_at_a_time_and_sees_what_the_one_before_it_added(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "new/study.jsonl"
    first, second = Study(path, SETTINGS), Study(path, SETTINGS)
    with first.alone():
        with pytest.raises(BusyError, match=r"study\.jsonl: another process runs this search"), second.alone():
            pass
        first.add(study.trials[0])
    with second.alone():
        assert second.trials == study.trials[:1]
    with pytest.raises(ParamsError, match="another --seed"), Study(path, replace(SETTINGS, seed=2)).alone():
        pass


def test_proposals_are_of_the_space_and_of_few_digits(study: Study) -> None:
    for trial in study.trials:
        beta, latent_dim, dropout, hidden_dims = trial.params.values()
        assert 0.5 <= beta <= 8.0
        assert beta == float(f"{beta:.6g}")
        assert latent_dim in (2, 5, 8)
        assert type(latent_dim) is int
        assert dropout in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
        assert hidden_dims in ([8, 4], [])
    assert len({trial.params["beta"] for trial in study.trials}) == 36


def test_a_study_read_from_its_file_proposes_the_same_and_the_round_it_is_in_does_not_count(study: Study) -> None:
    found = Study.load(study.path)
    assert found
    assert found.trials == study.trials
    assert found.settings == SETTINGS
    for first in (0, 9, 33):
        numbers = range(first, first + 3)
        proposed = {number: study.trials[number].params for number in numbers}
        assert found.propose(numbers) == proposed
        half = replace(found, trials=found.trials[: first + 2])
        assert half.propose(half.next_round(36)) == proposed
        assert half.limits(numbers) == found.limits(numbers)
    assert found.propose(range(36, 39)) != Study(study.path, replace(SETTINGS, seed=2), study.trials).propose(range(36, 39))


def test_the_proposals_learn_from_what_was_found(study: Study) -> None:
    far = [abs(np.log(trial.params["beta"] / 2)) for trial in study.trials]
    assert np.mean(far[24:]) < 0.6 * np.mean(far[:12])


def test_the_trials_of_a_round_keep_away_from_each_other(study: Study) -> None:
    together = replace(study, settings=replace(SETTINGS, at_once=12)).propose(range(36, 48)).values()
    alone = [study.propose(range(number, number + 1))[number] for number in range(36, 48)]
    spread = [np.std([np.log(params["beta"]) for params in found]) for found in (together, alone)]
    assert spread[0] > 1.1 * spread[1]


def test_values_that_fail_are_avoided(tmp_path: Path) -> None:
    made = Study(tmp_path / "study.jsonl", replace(SETTINGS, at_once=1))
    for number in range(40):
        ((_, params),) = made.propose(range(number, number + 1)).items()
        failed = Ended(number, params, FAILED, number, error="not finite")
        made.add(failed if params["vae.hidden_dims"] else complete(number, params))
    fails = [trial.state == FAILED for trial in made.trials]
    assert sum(fails[:10]) >= 3
    assert sum(fails[20:]) <= 3


def test_rounds_follow_each_other_and_a_longer_search_completes_its_last_one(study: Study) -> None:
    assert study.next_round(36) == range(36, 36)
    assert study.next_round(37) == range(36, 37)
    held = replace(study, trials=study.trials[:19])
    assert [held.next_round(total) for total in (19, 20, 21, 30)] == [range(19, 19), range(18, 20), range(18, 21), range(18, 21)]


def test_limits_are_those_of_the_median_pruner_of_optuna(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    curves = [list(np.round(rng.uniform(0, 9, length), 3)) for length in (4, 4, 3, 4, 2, 4)]
    trials = [Ended(n, {}, COMPLETE, n, curve, min(curve)) for n, curve in enumerate(curves)]
    trials += [Ended(6, {}, PRUNED, 6, [0.0, 0.0]), Ended(7, {}, FAILED, 7), Ended(8, {}, COMPLETE, 8, [0.0], 0.0)]
    made = Study(tmp_path / "study.jsonl", replace(SETTINGS, at_once=2), trials)
    limits = made.limits(range(8, 10))
    assert limits == [np.median([curve[epoch] for curve in curves if len(curve) > epoch]) for epoch in range(4)]
    theirs = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_warmup_steps=2))
    for curve in curves:
        theirs.add_trial(optuna.trial.create_trial(value=min(curve), intermediate_values=dict(enumerate(curve, 1))))
    for curve in rng.uniform(0, 9, (50, 4)):
        asked, pruned = theirs.ask(), None
        for epoch, value in enumerate(curve, 1):
            asked.report(value, epoch)
            pruned = pruned or (epoch if asked.should_prune() else None)
        assert first_above(curve, limits, warmup=1) == pruned
    assert made.limits(range(4, 6)) == [], "with four trials"
    assert replace(made, settings=replace(SETTINGS, prune=False)).limits(range(8, 10)) == []


def test_the_key_that_makes_the_difference_is_important(study: Study) -> None:
    importances = study.importances()
    assert importances == study.importances()
    assert next(iter(importances)) == "beta"
    assert sum(importances.values()) == pytest.approx(1)
    assert replace(study, trials=study.trials[:4]).importances() == {}


def test_another_search_in_the_same_folder_is_refused(study: Study) -> None:
    study.check(replace(SETTINGS))
    with pytest.raises(ParamsError, match=r"study\.jsonl: its search has another --at-once and params\.yaml, data or code; give"):
        study.check(replace(SETTINGS, at_once=4, fingerprint="g"))
    for fingerprint in "fg":  # it depends on the space, too
        with pytest.raises(ParamsError, match=r"its search has another --space; give"):
            study.check(replace(SETTINGS, space={"beta": [1.0]}, fingerprint=fingerprint))


@pytest.mark.parametrize("content", ["{", "[]", "{}", "", "\x00"])
def test_a_file_that_is_no_study_is_refused(content: str, tmp_path: Path) -> None:
    assert Study.load(tmp_path / "study.jsonl") is None
    (tmp_path / "study.jsonl").write_text(content)
    with pytest.raises(IntegrityError, match=r"study\.jsonl: damaged, or not a study of this version; delete it"):
        Study.load(tmp_path / "study.jsonl")


def test_the_best_are_complete_and_no_repetitions(study: Study) -> None:
    again = [replace(study.best()[0], number=36), Ended(37, {}, PRUNED, 37, [0.0])]
    longer = replace(study, trials=[*study.trials, *again])
    assert longer.best() == study.best()
    values = [trial.value for trial in study.best()]
    assert values == sorted(values)


def test_the_best_so_far_is_drawn_up_to_the_last_trial_while_others_of_its_round_still_train(study: Study) -> None:
    for half in (replace(study, trials=[study.trials[number] for number in (0, 1, 5)]), study):
        line = figure(half).axes[0].lines[1]
        numbers = list(line.get_xdata())
        assert numbers == sorted(numbers)
        assert numbers[-1] == half.trials[-1].number
        assert list(line.get_ydata())[-1] == half.best()[0].value


def test_without_optuna_one_line_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ParamsError, match="`make search` installs what `latent search` needs"):
        load_optuna()
