"""A stage ends with its parent and at a signal from its first moment on, and OpenMP's threads wait as the load advises."""

import ast
import os
import resource
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline import startup
from tests.conftest import ROOT


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


@pytest.mark.parametrize(("threads", "warns"), [(0, False), (1, True), (1000, True)])
def test_more_threads_than_cores_are_warned_of(threads: int, warns: bool, capsys: pytest.CaptureFixture[str]) -> None:
    cores = len(startup.cores())
    startup.choose_waiting(cores + threads)
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {cores + threads} threads on {cores} cores") if warns else said == ""


ADOPTING = """
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: this process adopts orphans
go, apart = sys.argv[1:]
child = f"open({go!r}).read()\\nfrom pipeline.startup import begin_stage\\nbegin_stage()\\nprint('works')"
dying = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])"
how = {"session": {"start_new_session": True}, "group": {"process_group": 0}}[apart]
subprocess.run([sys.executable, "-c", dying], check=True, **how)
open(go, "w").close()  # only now, adopted, the child goes on
os.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no signal for the death of a parent")
@pytest.mark.parametrize(("apart", "variables"), [("session", {}), ("group", {"DVC_STAGE": "train_vae"})])
def test_a_stage_whose_parent_was_killed_before_it_looked_does_no_work(
    apart: str, variables: dict[str, str], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "go")
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(
        [sys.executable, "-c", ADOPTING, tmp_path / "go", apart], env=environment, check=True, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("", "")


# Stands in for DVC, which starts a command in a shell that stays its parent.
WITH_A_SHELL = """
import os, subprocess, sys
stage = "open(sys.argv[1]).read()\\n" if sys.argv[1] else ""
stage = f"import signal, sys\\n{stage}from pipeline.startup import begin_stage\\nbegin_stage()\\n"
stage += "print('works', flush=True)\\nsignal.pause()"
command = ["/bin/sh", "-c", '"$@"; true', "sh", sys.executable, "-c", stage, sys.argv[1]]
started = subprocess.Popen(command, env=os.environ | {"DVC_STAGE": "train_vae"})
if not sys.argv[1]:
    started.wait()
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="other systems do not tell of the end of a grandparent")
@pytest.mark.parametrize("moment", ["before it looks", "while it works"])
def test_a_stage_behind_a_shell_ends_with_dvc(moment: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    go = tmp_path / "go" if moment == "before it looks" else ""
    if go:
        os.mkfifo(go)
    with subprocess.Popen(
        [sys.executable, "-c", WITH_A_SHELL, go], env=environment, stdout=subprocess.PIPE, text=True, process_group=0
    ) as dvc:
        assert dvc.stdout
        if go:
            dvc.wait()
            go.open("w").close()
        else:
            assert dvc.stdout.readline() == "works\n"
            dvc.kill()
        assert dvc.stdout.read() == ""  # its end comes when the stage, which holds the pipe, has ended


@pytest.mark.parametrize("alone", [{}, {"start_new_session": True}, {"process_group": 0}], ids=str)
@pytest.mark.parametrize("variables", [{}, {"DVC_STAGE": "x"}], ids=str)
def test_a_stage_with_a_living_parent_works(alone: dict[str, Any], variables: dict[str, str]) -> None:
    environment = os.environ | variables
    subprocess.run([sys.executable, "-m", "stages.validate"], cwd=ROOT, check=True, env=environment, **alone)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_imports_ends_a_stage_in_silence(signum: int, code: int, tmp_path: Path) -> None:
    """A module that takes for ever stands in for torch."""
    (tmp_path / "click.py").write_text("import signal\nprint('importing', flush=True)\nsignal.pause()\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-m", "stages.validate"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as stage:
        assert stage.stdout
        assert stage.stderr
        assert stage.stdout.readline() == "importing\n"
        stage.send_signal(signum)
        assert stage.wait() == code
        assert stage.stderr.read() == ""


@pytest.mark.parametrize("command", ["stages.validate", "pipeline"])
def test_nothing_but_startup_is_imported_before_signals_are_handled(command: str) -> None:
    script = (
        "import runpy, sys\n"
        "from pipeline import startup\n"
        "def begin(): print([name for name in sys.modules if name.startswith(('pipeline', 'stages', 'click'))]); sys.exit()\n"
        "startup.begin = startup.begin_stage = begin\n"
        f"runpy.run_module({command!r}, run_name='__main__', alter_sys=True)"
    )
    found = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True)
    assert set(ast.literal_eval(found)) <= {"pipeline", "pipeline.startup", "stages"}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the project, the libraries of its first stage compiled."""
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    assert validate(tmp_path) == (0, "")
    return tmp_path


def validate(package: Path, **options: Any) -> tuple[int, str]:
    hidden = ("PYTHONDONTWRITEBYTECODE", "COVERAGE_")  # the data of coverage cannot be written to a full disk, either
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    command = [sys.executable, "-m", "stages.validate"]
    done = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, **options)
    return done.returncode, done.stderr


def test_a_stage_starts_again_after_its_bytecode_could_not_be_written(package: Path) -> None:
    for path in package.rglob("*.pyc"):
        path.unlink()
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (900, 900))  # a write ends early, as on a full disk
    for options in ({"preexec_fn": limit}, {"preexec_fn": limit}, {}):
        assert validate(package, **options) == (0, "")


@pytest.mark.parametrize(
    "drop",
    [
        "class Dying:\n    def __del__(self):\n        kill()\nDying()",
        "import gc\ngc.callbacks.append(lambda phase, info: phase == 'stop' and kill())\ngc.collect()",
        "from ctypes import CFUNCTYPE\nCFUNCTYPE(None)(kill)()",
    ],
    ids=["finalizer", "garbage collection", "callback"],
)
def test_a_signal_whose_exception_python_drops_stops_in_silence(drop: str) -> None:
    program = f"""
import os, queue, signal
from pipeline.startup import begin
begin()
def kill():
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        os.kill(os.getpid(), signal.SIGTERM)
{drop}
print("went on", flush=True)
queue.Queue().get()
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (143, "went on\n", "")


@pytest.mark.parametrize("kept", [0, 16, 100, 0.5])
def test_a_stage_starts_again_after_its_bytecode_was_cut(kept: float, package: Path) -> None:
    needed = {"__init__", "startup", "validate"}  # what deletes the damaged files; the process that writes one checks it, too
    compiled = [path for path in package.rglob("*.pyc") if path.name.split(".")[0] not in needed]
    assert {"params", "errors"} <= {path.name.split(".")[0] for path in compiled}
    for path in compiled:
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    assert validate(package) == (0, "")


def test_importing_startup_imports_no_torch() -> None:
    found = "import sys, pipeline.startup; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", found], text=True).strip() == "False"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_work_changes_nothing(signum: int) -> None:
    program = f"""
import atexit, os, click, stages
atexit.register(lambda: (os.kill(os.getpid(), {int(signum)}), print("cleaned up")))
stages.run(click.command()(lambda: print("done")))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\ncleaned up\n", "")
