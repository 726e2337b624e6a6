"""The download stage end to end: what it writes, when it falls back, and how it ends when it cannot."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data import load_dataset
from tests.conftest import ROOT

SECRET = "hunter2-canary"

# The stage with a tiny MNIST, in a process of its own: that is how signals, exit codes and two at once are real.
STAGE = """
import hashlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in the background deaf to it
from dataclasses import replace
from pathlib import Path
from pipeline.datasets import DATASETS
from pipeline.datasets.idx import IdxDataset, idx_file
from pipeline.datasets.transfer import Patience
from stages import run
from stages.download import main
shapes = (20, 4, 4), (20,), (10, 4, 4), (10,)
blank = [idx_file(f"f{i}", shape, sha256="0") for i, shape in enumerate(shapes)]
contents = [file.header + bytes(file.size - len(file.header)) for file in blank]
files = [replace(file, sha256=hashlib.sha256(content).hexdigest()) for file, content in zip(blank, contents)]
if folder := sys.argv.pop(1):
    for file, content in zip(files, contents):
        Path(folder, file.name).write_bytes(content)
published = ("http://127.0.0.1:1/",)
DATASETS["mnist"] = IdxDataset("mnist", published, tuple(files), patience=Patience(read=60, total=60, backoff=()))
try:
    run(main)
finally:
    assert not {"torch", "torchvision", "mlflow"} & set(sys.modules)
"""


class Stage:
    """Runs the stage in ``folder``; ``command`` prepares one without waiting."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mirror = folder / "mirror"
        self.mirror.mkdir()
        self.params(fallback="digits", mirror="null")

    def params(self, **values: str) -> None:
        lines = (ROOT / "params.yaml").read_text().splitlines()
        for key, value in values.items():
            (index,) = (i for i, line in enumerate(lines) if line.startswith(f"  {key}:"))
            lines[index] = f"  {key}: {value}"
        (self.folder / "params.yaml").write_text("\n".join(lines))

    def command(self, *options: str, fill: bool = False, mirror: str | None = None) -> "subprocess.Popen[str]":
        environment = {key: value for key, value in os.environ.items() if key != "PIPELINE_MIRROR"}
        environment |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"} | ({"PIPELINE_MIRROR": mirror} if mirror else {})
        arguments = [sys.executable, "-c", STAGE, str(self.mirror) if fill else "", *options]
        return subprocess.Popen(
            arguments, cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def __call__(self, *options: str, fill: bool = False, mirror: str | None = None) -> tuple[int, str, str]:
        process = self.command(*options, fill=fill, mirror=mirror)
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err

    @property
    def written(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for part in ("data", "metrics") for path in (self.folder / part).glob("*")}


OUTS = {"data/dataset.safetensors", "metrics/data.json"}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_two_at_once_write_the_same_whole_files(stage: Stage) -> None:
    assert stage(fill=True, mirror=str(stage.mirror))[0] == 0
    before = {name: (stage.folder / name).read_bytes() for name in OUTS}
    both = [stage.command(mirror=str(stage.mirror)) for _ in range(2)]
    assert [process.communicate(timeout=30) and process.returncode for process in both] == [0, 0]
    assert stage.written == OUTS
    assert {name: (stage.folder / name).read_bytes() for name in OUTS} == before
    assert len(load_dataset(stage.folder / "data/dataset.safetensors").train) == 20
    summary = json.loads(before["metrics/data.json"])
    assert (summary["name"], summary["requested"], summary["train/images"], summary["test/images"]) == (
        "mnist",
        "mnist",
        20,
        10,
    )
    assert str(stage.folder) not in before["metrics/data.json"].decode()


def test_the_mirror_of_the_environment_goes_before_that_of_the_params(stage: Stage) -> None:
    stage.params(mirror=str(stage.mirror))
    code, _, err = stage(fill=True, mirror="absent")
    assert code == 0
    assert err.index("absent: no such folder") < err.index(f"bytes from {stage.mirror}")


def test_the_fallback_is_loud_and_named(stage: Stage) -> None:
    code, _, err = stage()
    assert code == 0
    notice = [line for line in err.splitlines() if line.startswith("!!")]
    assert len(notice) > 6
    for expected in (
        "NOT mnist",
        "digits instead",
        "http://127.0.0.1:1/:",
        "dvc repro --force download",
    ):
        assert any(expected in line for line in notice)
    assert load_dataset(stage.folder / "data/dataset.safetensors").name == "digits"
    summary = json.loads((stage.folder / "metrics/data.json").read_text())
    assert (summary["name"], summary["requested"]) == ("digits", "mnist")


def test_without_a_fallback_it_stops_with_one_line(stage: Stage) -> None:
    stage.params(fallback="null")
    code, out, err = stage()
    assert (code, out, stage.written) == (3, "", set())
    assert err.splitlines()[-1].startswith("error: f0: http://127.0.0.1:1/: ")
    assert "Traceback" not in err


def hold(folder: Path) -> str:
    folder.joinpath("held").mkdir()
    return str(folder / "held")


def file(folder: Path) -> str:
    folder.joinpath("f0").write_bytes(b"")
    return str(folder / "f0")


NAMED: dict[str, tuple[Callable[[Path], str], str]] = {
    "missing": (lambda _: "/absent", "/absent: no such folder"),
    "empty": (hold, "/held: no such file in the folder"),
    "a file": (file, "/f0: a file; name the folder that holds it"),
    "no server": (lambda _: f"http://user:{SECRET}@127.0.0.1:1/", "http://127.0.0.1:1/: "),
    "no such scheme": (lambda _: f"s3://{SECRET}@bucket", "s3://bucket: refused"),
}


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        (kind, where)
        for kind in NAMED
        for where in ("PIPELINE_MIRROR", "data.mirror")
        if where == "PIPELINE_MIRROR" or kind in ("missing", "empty", "a file")
    ],
)
def test_a_mirror_that_the_user_named_and_that_has_nothing_stops_it(kind: str, where: str, stage: Stage) -> None:
    make, reason = NAMED[kind]
    mirror = make(stage.folder)
    stage.params(mirror=mirror if where == "data.mirror" else "null")
    code, out, err = stage(mirror=mirror if where != "data.mirror" else None)
    assert (code, out, stage.written) == (3, "", set())
    assert reason in err.splitlines()[-1]
    assert f"correct {where}, or leave it out" in err.splitlines()[-1]
    assert "!!" not in err
    assert SECRET not in err


def test_wrong_bytes_are_no_reason_to_fall_back(stage: Stage) -> None:
    (stage.mirror / "f0").write_bytes(b"\0" * 336)
    stage.params(mirror="/absent")
    code, out, err = stage(mirror=str(stage.mirror))
    assert (code, out, stage.written) == (3, "", set())
    assert err.splitlines()[-1].startswith("error: f0: ")
    assert "!!" not in err


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_a_mirror_hangs_leaves_nothing(stage: Stage, signum: int, code: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        process = stage.command(mirror=f"http://127.0.0.1:{listener.getsockname()[1]}/")
        connection, _ = listener.accept()
        with connection:
            process.send_signal(signum)
            _, err = process.communicate(timeout=30)
    assert (process.returncode, stage.written) == (code, set())
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        (["--help"], 0, "--metrics"),
        (["--nope"], 2, "--nope"),
        (["--params", "absent.yaml"], 2, "absent.yaml"),
        (["extra"], 2, "extra"),
    ],
)
def test_usage(stage: Stage, options: list[str], code: int, expected: str) -> None:
    ended, out, err = stage(*options)
    assert (ended, stage.written) == (code, set())
    assert expected in out + err
    assert len(err.splitlines()) == (code != 0)


def test_an_unknown_data_set_is_refused_in_one_line(stage: Stage) -> None:
    stage.params(name="mnits")
    code, _, err = stage()
    assert (code, stage.written, len(err.splitlines())) == (2, set(), 1)
    assert all(word in err for word in ("data.name", "mnits", "fashion_mnist"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where nobody may")
def test_an_output_that_cannot_be_written_is_one_line(stage: Stage) -> None:
    (stage.folder / "data").mkdir(mode=0o500)
    code, _, err = stage(fill=True, mirror=str(stage.mirror))
    assert (code, stage.written) == (74, set())
    assert "Traceback" not in err
