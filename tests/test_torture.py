"""A sample of the faults that `make torture` injects; those that take long are left to it (or `pytest -m torture`)."""

from collections.abc import Iterator

import pytest

from tests.torture.__main__ import CASES, table
from tests.torture.checks import Case, Tally
from tests.torture.lab import Lab
from tests.torture.store import Store

SLOW = {"kill: stages", "kill: dvc", "kill: sweep", "kill: new store", "signals: real commands", "server", "eight on a new store"}
SCALE = 1 / 30  # of what `make torture` does in 15 minutes


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("torture") / "lab", seed=1, scale=SCALE)
    yield lab
    lab.close()


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.torture] if name in SLOW else []) for name in CASES])
def test_nothing_is_lost_or_doubled_and_no_traceback_is_shown(name: str, lab: Lab) -> None:
    tally = Tally()
    CASES[name](Case(lab, name, tally))
    assert tally.findings == []
    assert tally.counts["survived"] == tally.counts["injected"] > 0


def test_the_same_seed_chooses_the_same_places(lab: Lab) -> None:
    counts = {"write": 10, "sql": 600, "step": 30}

    def places(name: str) -> list[object]:
        case = Case(lab, name, Tally())
        return [case.plan(counts) for _ in range(20)]

    assert places("kill: training") == places("kill: training")
    assert [plan["at"] for plan in places("kill: sync")] != [plan["at"] for plan in places("kill: training")]  # type: ignore[index]


def test_a_run_or_a_point_too_many_or_too_few_is_found(lab: Lab) -> None:
    tally, wanted = Tally(), lab.store.curves()
    case = Case(lab, "kill: training", tally)
    case.store_holds(lab.store, wanted, "as it is")
    assert tally.findings == []
    run = next(iter(lab.store.runs))
    points = lab.store.points.copy()
    points[next(key for key in points if key[2])] += 1
    doubled = Store(lab.store.runs | {"another": lab.store.runs[run]}, points, lab.store.values)
    case.store_holds(doubled, wanted, "doubled")
    case.store_holds(Store({}, points.__class__(), {}), wanted, "empty")
    assert (tally.counts["surplus"], tally.counts["duplicated"], tally.counts["lost"]) == (1, 1, 2)


def test_the_table_has_a_row_for_each_case_and_one_of_totals() -> None:
    lines = table({"one": Tally(), "two": Tally()}).splitlines()
    assert [line.split("|")[1].strip("- ") for line in lines] == ["case", "", "one", "two", "total"]
