"""How OpenMP's threads wait follows the load of the cores, unless the user has decided."""

import os
import subprocess
import sys

import pytest

from pipeline import startup


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has not imported torch, with no OpenMP settings of its own."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(("free", "threads", "asleep"), [(2.0, 2, False), (1.0, 2, True), (1.0, 1, False), (14.9, 2, False)])
def test_threads_sleep_while_they_wait_when_too_few_cores_are_free(
    free: float, threads: int, asleep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "free_cores", lambda: free)
    startup.choose_waiting(threads)
    assert ("OMP_WAIT_POLICY" in os.environ, "GOMP_SPINCOUNT" in os.environ) == (asleep, not asleep)


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "free_cores", lambda: 0.0)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    startup.choose_waiting(2)
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_nothing_is_set_once_torch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    startup.choose_waiting(2)
    assert not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()


def test_free_cores_counts_a_busy_process() -> None:
    spinning = "import os, sys; print(flush=True)\nwhile True: pass"
    cores = len(os.sched_getaffinity(0))
    busy = [subprocess.Popen([sys.executable, "-c", spinning], stdout=subprocess.PIPE) for _ in range(cores)]
    try:
        for process in busy:
            assert process.stdout
            process.stdout.readline()
        assert startup.free_cores(0.5) < 0.5 * cores
    finally:
        for process in busy:
            process.kill()
            process.communicate()


def test_importing_startup_imports_no_torch() -> None:
    found = "import sys, pipeline.startup; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", found], text=True).strip() == "False"
