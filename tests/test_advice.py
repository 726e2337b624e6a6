"""A command that a message or a docstring names exists, with its options; it is parsed and not run."""

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import click
import pytest
from dvc.cli.parser import get_main_parser

from pipeline.cli import main as latent
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in Path(ROOT, "docs").glob("*.md"))]
PROGRAMS = ("latent", "dvc", "git", "mlflow", "make", "python")
IN_PART = {"dvc exp run -S"}  # names an option, whose value follows in the reader's own words


def texts(source: str) -> Iterator[str]:
    """Yield the strings of a program, with `x` for what is filled in."""
    tree = ast.parse(source)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


def commands(source: str) -> set[str]:
    """Return the commands that stand between backticks in the strings of a program, each on its own."""
    spans = {span for text in texts(source) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)}
    alone = {" ".join(part.split()) for span in spans for part in re.split(r"&&|[;|]", span)}
    return {part for part in alone if " " in part and part.partition(" ")[0] in PROGRAMS}


@cache
def git_commands() -> list[str]:
    return subprocess.check_output(["git", "--list-cmds=main"], text=True).split()


@cache
def targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def check_click(command: click.Command, words: list[str]) -> None:
    """Raise ValueError for an unknown command or option."""
    if isinstance(command, click.Group) and words and not words[0].startswith("-"):
        if words[0] not in command.commands:
            raise ValueError(f"no command {words[0]}")
        return check_click(command.commands[words[0]], words[1:])
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    if unknown := {word.partition("=")[0] for word in words if word.startswith("-")} - options - {"--help"}:
        raise ValueError(f"no option {unknown}")
    return None


def check(command: str) -> None:
    """Raise an exception for a command that does not exist or lacks an option."""
    program, *words = shlex.split(command)
    match program:
        case "latent" | "mlflow":
            check_click(latent if program == "latent" else import_module("mlflow.cli").cli, words)
        case "dvc":
            get_main_parser().parse_args(words)
        case "git":
            assert not words or words[0] in git_commands()
        case "make":
            assert {word for word in words if "=" not in word} <= targets()
        case "python":
            assert words[0] == "-m"
            path = ROOT / words[1].replace(".", "/")
            assert path.is_dir() or path.with_suffix(".py").is_file()


def advice() -> list[str]:
    sources = [path for folder in ("pipeline", "stages") for path in (ROOT / folder).rglob("*.py")]
    return sorted({command for path in sources for command in commands(path.read_text())} - IN_PART)


@pytest.mark.parametrize("command", advice())
def test_a_command_that_is_named_exists(command: str) -> None:
    check(command)


@pytest.mark.parametrize(
    "command",
    [
        *("latent sink", "latent sync --all", "dvc rebro", "dvc repro --no-such", "git no-such", "make nothing"),
        *("python -m no.such", "mlflow experiments revive", "mlflow experiments restore --name x"),
    ],
)
def test_a_command_that_does_not_exist_is_found(command: str) -> None:
    with pytest.raises((Exception, SystemExit)):
        check(command)


def test_commands_are_found_in_strings_and_their_parts() -> None:
    source = "def f(a):\n    '''Run `dvc pull`.'''\n    return f'`git checkout HEAD -- {a} && dvc repro`' + '``dvc no code``'\n"
    assert commands(source) == {"dvc pull", "git checkout HEAD -- x", "dvc repro"}


@pytest.mark.parametrize(
    "path", ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in Path(ROOT, "docs").glob("*.md"))]
)
def test_a_command_of_latent_in_the_documentation_exists(path: str) -> None:
    for command in commands(repr((ROOT / path).read_text().replace("\\\n", " "))):
        if command.startswith(("latent ", "make ")):
            check(command)
