"""A study: the trials of a search that have ended, in a file, and what Optuna proposes from them.

What is proposed depends on the settings, the number of a trial and the trials of earlier rounds alone, and no generator of random
numbers lives longer than one proposal. So a search that was killed goes on with the trials that it would have had.
"""

import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.errors import BusyError, IntegrityError, ParamsError
from pipeline.storage import write
from pipeline.sweeps.space import Space

STARTUP = 5  # completed trials before any is pruned, as in Optuna's MedianPruner
COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"


@dataclass(frozen=True)
class Settings:
    """What decides the trials of a search, whatever stops it; ``fingerprint`` stands for params, data and code."""

    model: str
    metric: str
    space: Space
    prune: bool
    seed: int
    at_once: int
    cpus: int
    gpus: int
    fingerprint: str
    optuna: str


@dataclass(frozen=True)
class Ended:
    """A trial that has ended: its values by key, and the metric after each epoch and, of a complete one, at its best epoch.

    ``folder`` is the number of the trial whose training it is, another one where the values are the same.
    """

    number: int
    params: Mapping[str, Any]
    state: str
    folder: int
    curve: Sequence[float] = ()
    value: float | None = None
    epoch: int | None = None
    md5: str = ""
    error: str = ""


@dataclass
class Study:
    """A search: its file, of JSON lines, whose first are the settings and whose others are the trials, in their order."""

    path: Path
    settings: Settings
    trials: list[Ended] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> "Study | None":
        """Return the study in a file, None where there is none. Raises IntegrityError for a file of another kind."""
        if not path.exists():
            return None
        try:
            settings, *trials = map(json.loads, path.read_text().splitlines())
            return cls(path, Settings(**settings), [Ended(**trial) for trial in trials])
        except (TypeError, ValueError):
            cure = "delete it, and the search finds the trials that were complete in their folders"
            raise IntegrityError(f"{path}: damaged, or not a study of this version; {cure}") from None

    def check(self, settings: Settings) -> None:
        """Raise ParamsError, naming what differs, where these are not the settings of the study."""
        mine, given = asdict(self.settings), asdict(settings)
        names = {"fingerprint": "params.yaml, data or code", "optuna": "version of Optuna"}
        differs = {name: None for name in mine if mine[name] != given[name]}
        if {"model", "space", "cpus", "gpus"} & differs.keys():  # which may change the fingerprint by themselves
            differs.pop("fingerprint", None)
        if differs:
            listed = " and ".join(names.get(name, f"--{name.replace('_', '-')}") for name in differs)
            raise ParamsError(f"{self.path}: its search has another {listed}; give this one another folder by --out")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from this study, and read its file anew. Raises BusyError while another process works on it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_suffix(".lock"), "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(f"{self.path}: another process runs this search; wait for it or stop it") from None
            if found := Study.load(self.path):
                found.check(self.settings)
                self.trials = found.trials
            yield

    def add(self, trial: Ended) -> None:
        """Add a trial and write the file, at once and as a whole, so that a kill leaves the old or the new one."""
        self.trials = sorted([*self.trials, trial], key=lambda one: one.number)
        lines = [asdict(self.settings), *map(asdict, self.trials)]
        write(self.path, "".join(f"{json.dumps(line)}\n" for line in lines))

    def numbers(self) -> set[int]:
        """Return the numbers of the trials that have ended."""
        return {trial.number for trial in self.trials}

    def of(self, state: str) -> list[Ended]:
        """Return the trials of a state."""
        return [trial for trial in self.trials if trial.state == state]

    def best(self) -> list[Ended]:
        """Return the complete trials, the best first, without those that repeat another one."""
        return sorted((one for one in self.of(COMPLETE) if one.folder == one.number), key=lambda one: (one.value, one.number))

    def next_round(self, total: int) -> range:
        """Return the numbers of the first round, of ``at_once`` trials, that has not ended; it is empty after ``total``."""
        first = min(set(range(total)) - self.numbers(), default=total)
        first -= first % self.settings.at_once if first < total else 0
        return range(first, min(first + self.settings.at_once, total))

    def propose(self, numbers: range) -> dict[int, dict[str, Any]]:
        """Return the values of a round's trials by their numbers, which depend on the trials of earlier rounds alone."""
        proposed: dict[int, dict[str, Any]] = {}
        for number in numbers:
            proposed[number] = _ask(self.settings, number, self.before(numbers), proposed.values())
        return proposed

    def before(self, numbers: range) -> list[Ended]:
        """Return the trials of earlier rounds."""
        return [trial for trial in self.trials if trial.number < numbers.start]

    def limits(self, numbers: range) -> list[float]:
        """Return for each epoch the median of the complete trials of earlier rounds, above which a trial is pruned."""
        curves = [trial.curve for trial in self.before(numbers) if trial.state == COMPLETE]
        if not self.settings.prune or len(curves) < STARTUP:
            return []
        return [median(curve[epoch] for curve in curves if len(curve) > epoch) for epoch in range(max(map(len, curves)))]

    def importances(self) -> dict[str, float]:
        """Return how much of the variance of the complete trials comes from each key, by fANOVA; empty for too few of them.

        Reference: An Efficient Approach for Assessing Hyperparameter Importance, Hutter, Hoos, Leyton-Brown, ICML 2014.
        """
        complete = self.of(COMPLETE)
        if len(complete) < STARTUP or len({trial.value for trial in complete}) < 2:
            return {}
        optuna = load_optuna()
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.settings.seed)
        found = optuna.importance.get_param_importances(_study(self.settings, complete, ()), evaluator=evaluator)
        return {key: float(value) for key, value in found.items()}


def load_optuna() -> Any:
    """Return the module optuna, quiet. Raises ParamsError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        cure = "`make search` installs what `latent search` needs, or: pip install 'latent-pipeline[search]'"
        raise ParamsError(f"{error}; {cure}") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _distributions(space: Space) -> dict[str, Any]:
    kinds = load_optuna().distributions
    number = {int: kinds.IntDistribution, float: kinds.FloatDistribution}
    return {
        key: number[type(values["low"])](**values)
        if isinstance(values, dict)
        else kinds.CategoricalDistribution(range(len(values)))  # lists are no values for Optuna
        for key, values in space.items()
    }


def _study(settings: Settings, ended: Iterable[Ended], running: Iterable[Mapping[str, Any]], sampler: Any = None) -> Any:
    """Return a study of Optuna's with these trials, in memory."""
    optuna = load_optuna()
    states, create = optuna.trial.TrialState, optuna.trial.create_trial
    distributions, study = _distributions(settings.space), optuna.create_study(sampler=sampler)
    lists = {key: values for key, values in settings.space.items() if isinstance(values, list)}

    def coded(params: Mapping[str, Any]) -> dict[str, Any]:
        return {key: lists[key].index(value) if key in lists else value for key, value in params.items()}

    for trial in ended:
        # Values that cannot be trained count as the worst, so that others are proposed.
        state = states.COMPLETE if trial.state == COMPLETE else states.PRUNED
        seen = dict(enumerate(trial.curve, 1))
        about = {"params": coded(trial.params), "distributions": distributions, "intermediate_values": seen}
        study.add_trial(create(state=state, value=trial.value, **about))
    for params in running:
        study.add_trial(create(state=states.RUNNING, params=coded(params), distributions=distributions))
    return study


def _ask(settings: Settings, number: int, ended: Iterable[Ended], running: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values that the tree-structured Parzen estimator (2304.11127) proposes for a trial."""
    from pipeline.runtime import generator

    seed = generator(settings.seed, "search", number).initial_seed() % 2**32
    study = _study(settings, ended, running, load_optuna().samplers.TPESampler(seed=seed))
    asked = study.ask(_distributions(settings.space)).params
    values = {}
    for key, choice in settings.space.items():
        value = asked[key]
        if isinstance(choice, list):
            value = choice[value]
        elif isinstance(value, float):  # with few digits, which stand in commands
            value = min(max(float(f"{value:.{12 if choice['step'] else 6}g}"), choice["low"]), choice["high"])
        values[key] = value
    return values
