"""The command ``latent``: fast help, one line for an error, and what each command passes on."""

import json
import os
import stat
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from zipfile import ZipFile

import click
import pytest
from click.testing import CliRunner, Result
from rich.table import Table

import pipeline
from pipeline.cli import main
from pipeline.errors import DivergedError
from pipeline.params import load_params
from pipeline.sweeps.sweep import Configuration, Sweep
from tests.conftest import ROOT

HEAVY = {"torch", "torchvision", "mlflow", "numpy", "pandas", "matplotlib", "pydantic", "rich", "sklearn"}


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """Put a module with this content in the place of another."""
    module = ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)
    parent, _, child = name.rpartition(".")
    monkeypatch.setattr(import_module(parent), child, module, raising=False)


def imported(script: str, **environment: str) -> set[str]:
    """Return which of the heavy modules a script imports that runs the command, whatever it prints before."""
    code = f"import sys\nfrom pipeline.cli import main\ntry: {script}\nexcept SystemExit: pass\nprint('\\n', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, check=True, capture_output=True, text=True
    )
    return HEAVY & set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("command", [[], *([name] for name in main.commands)], ids=str)
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    assert imported(f"main([*{command}, '--help'], prog_name='latent')") == set()


def test_completion_imports_nothing_heavy() -> None:
    words = {"_LATENT_COMPLETE": "bash_complete", "COMP_WORDS": "latent compare --d", "COMP_CWORD": "2"}
    assert imported("main(prog_name='latent')", **words) == set()


def test_completion_knows_the_commands() -> None:
    result = CliRunner().invoke(
        main, env={"_LATENT_COMPLETE": "bash_complete", "COMP_WORDS": "latent s", "COMP_CWORD": "1"}, prog_name="latent"
    )
    assert result.stdout.split() == ["plain,sample", "plain,search", "plain,summary", "plain,sweep", "plain,sync"]


def test_help_names_every_command_and_the_completion() -> None:
    result = call("--help")
    assert result.exit_code == 0
    of_models = {"decode", "encode", "export", "interpolate", "nearest", "reconstruct", "sample"}
    of_runs = {"compare", "doctor", "gate", "report", "search", "summary", "sweep", "sync", "ui", "verify"}
    assert set(main.commands) == of_models | of_runs
    assert all(f"\n  {name} " in result.stdout for name in main.commands)
    assert '\n    eval "$(_LATENT_COMPLETE=bash_source latent)"\n' in result.stdout
    assert call().stdout == result.stdout


def test_every_option_has_a_help_text() -> None:
    options = [option for command in main.commands.values() for option in command.params]
    assert all(option.help for option in options if isinstance(option, click.Option))


def test_the_module_is_the_command() -> None:
    said = subprocess.run([sys.executable, "-m", "pipeline", "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == call("--version").stdout == f"latent, version {pipeline.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paint"], "No such command 'paint'."),
        (["compare", "--tag", "sweep"], "Invalid value for '--tag': 'sweep'; allowed is key=value, as in dvc.exp.name=four"),
        (["compare", "--dpi", "5"], "Invalid value for '--dpi': 5 is not in the range 50<=x<=600."),
        (["sweep", "beta=1"], "Missing option '--grid'."),
        (
            ["sweep", "--grid", "beta=1", "--address", "auto"],
            "Invalid value for '--address': allowed with --backend ray and slurm",
        ),
        (["search"], "Missing option '--space'."),
        (
            ["search", "--seeds", "1,x"],
            "Invalid value for '--seeds': '1,x'; allowed are whole numbers between commas, as in 0,1,2",
        ),
    ],
)
def test_a_mistake_in_the_options_is_one_line(arguments: list[str], message: str) -> None:
    result = call(*arguments)
    assert (result.exit_code, result.stderr) == (2, f"error: {message} (see --help)\n")


def test_an_error_of_a_command_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(deleted: bool) -> None:
        raise DivergedError("not finite")

    fake(monkeypatch, "pipeline.tracking.sync", sync=sync)
    result = call("sync")
    assert (result.exit_code, result.stderr) == (4, "error: not finite\n")


def test_sync_says_how_many_runs_changed(monkeypatch: pytest.MonkeyPatch, workspace: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    fake(monkeypatch, "pipeline.tracking.sync", sync=lambda deleted: (7, 2))
    monkeypatch.setattr("pipeline.tracking.store.end_stale_runs", list)
    result = call("sync")
    assert result.stdout == "sync: 7 trainings in DVC's files, 2 of them new or incomplete in http://server\n"
    assert result.exit_code == 0


def test_sweep_passes_its_options_on_and_shows_and_saves_what_it_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    passed: list[Any] = []
    best, other = Configuration({"beta": 4.0}, [None], [99.5]), Configuration({"beta": 0.5}, [None])  # type: ignore[list-item]
    errors = {"beta=0.5": DivergedError("beta=0.5: not finite")}

    def sweep(*arguments: Any) -> Sweep:
        passed.extend(arguments)
        return Sweep([best, other], "dvc exp run -S beta=4.0", errors)

    monkeypatch.setattr("pipeline.sweeps.sweep.sweep", sweep)
    result = call("sweep", "--grid", "beta=4,0.5", "seed=2", "--cpus", "3", "--out", "out", "--save", str(tmp_path / "best"))
    params = load_params(ROOT / "params.yaml")
    assert passed == [params, "vae", {"beta": [4.0, 0.5], "seed": [2]}, "local", 3, 0, None, Path("out")]
    assert [line.split() for line in result.stdout.splitlines() if "." in line][:2] == [
        ["4.0", "99.500", "1", "0"],
        ["0.5", "1", "1"],
    ]
    assert (tmp_path / "best").read_text() == "dvc exp run -S beta=4.0\n"
    assert (result.exit_code, result.stderr) == (
        4,
        "error: 1 of 2 trials failed, see above; the same command tries these again\n",
    )


def test_compare_says_when_the_store_stopped_answering(monkeypatch: pytest.MonkeyPatch) -> None:
    run = SimpleNamespace(alive=False)
    fake(monkeypatch, "pipeline.tracking.store", records=lambda experiment, wanted: [experiment, wanted])
    fake(monkeypatch, "pipeline.reporting.compare", select=lambda *given: SimpleNamespace(runs=[run]), render=lambda _: Table())
    fake(monkeypatch, "pipeline.reporting.compare_figures", write_comparison=lambda *given: ["curves"])
    result = call("compare")
    assert (result.exit_code, result.stderr) == (1, "error: the MLflow store stopped answering; what is drawn is incomplete\n")
    run.alive = True
    assert call("compare").stdout.endswith("compare: compare/compare.html with curves\n")


READ_BY_NOBODY = """
import sys
from types import ModuleType, SimpleNamespace
from rich.table import Table
def fake(name, **content):
    sys.modules[name] = module = ModuleType(name)
    vars(module).update(content)
fake("pipeline.tracking.store", records=lambda experiment, wanted: [])
fake("pipeline.reporting.compare", select=lambda *given: SimpleNamespace(runs=[]), render=lambda compared: Table("a table"))
fake("pipeline.reporting.compare_figures", write_comparison=lambda *given: [])
from pipeline.cli import main
main(["compare"])
"""


def test_a_table_that_nobody_reads_ends_the_command_in_silence() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", READ_BY_NOBODY], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_wheel_holds_the_package_its_data_and_the_command(tmp_path: Path) -> None:
    names = subprocess.check_output(["git", "ls-files", "pipeline", "stages"], cwd=ROOT, text=True).split()
    names = [name for name in names if (ROOT / name).exists()]
    for name in [*names, "pyproject.toml", "README.md", "LICENSE"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    build = "import json; from setuptools import build_meta; print(json.dumps(build_meta.build_wheel('.')))"
    said = subprocess.check_output([sys.executable, "-c", build], cwd=tmp_path, text=True, stderr=subprocess.DEVNULL)
    wheel = ZipFile(tmp_path / json.loads(said.splitlines()[-1]))
    assert set(names) <= set(wheel.namelist())
    info = f"latent_pipeline-{pipeline.__version__}.dist-info"
    assert wheel.read(f"{info}/entry_points.txt").decode() == "[console_scripts]\nlatent = pipeline.__main__:main\n"
    assert {Path(name).parts[0] for name in wheel.namelist()} == {"pipeline", "stages", info}


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "pipeline.__version__"}


def test_dvc_keeps_its_site_cache_where_this_user_alone_can_write(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_SITE_CACHE_DIR")
    assert "DVC_SITE_CACHE_DIR" not in os.environ
    call("gate", "--against", "")
    assert "DVC_SITE_CACHE_DIR" not in os.environ, "there is no repository"
    (workspace / ".dvc").mkdir()
    (workspace / "claims").mkdir()
    monkeypatch.chdir(workspace / "claims")
    call("gate", "--against", "")
    folder = Path(os.environ["DVC_SITE_CACHE_DIR"])
    assert folder == workspace / ".dvc/tmp/site_cache"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_command_in_a_sub_folder_works_in_the_root(monkeypatch: pytest.MonkeyPatch, workspace: Path) -> None:
    passed: dict[str, Any] = {}

    def write_report(against: str, out: Path, rules: Path | None) -> None:
        passed.update(folder=Path.cwd(), out=out, rules=rules)

    fake(monkeypatch, "pipeline.reporting.report", write_report=write_report)
    (workspace / ".dvc").mkdir()
    (workspace / "sub" / "sub").mkdir(parents=True)
    monkeypatch.chdir("sub/sub")
    result = call("report", "--rules", "mine.yaml")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == f"note: working in {workspace}\n"
    assert passed == {"folder": workspace, "out": Path("report"), "rules": workspace / "sub" / "sub" / "mine.yaml"}
    assert call("report", "--rules", "mine.yaml").stderr == "", "in the root, there is nothing to say"
    assert passed["rules"] == Path("mine.yaml")


def test_every_command_finds_the_root(monkeypatch: pytest.MonkeyPatch, workspace: Path) -> None:
    (workspace / ".dvc").mkdir()
    (workspace / "sub").mkdir()
    for name in main.commands:
        monkeypatch.chdir(workspace / "sub")
        call(name, "--no-such-option")
        assert Path.cwd() == workspace, name
