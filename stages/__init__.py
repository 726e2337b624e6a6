"""The commands of dvc.yaml and claims/dvc.yaml: read options and params, call the package, write the declared outputs.
May import everything in pipeline; a stage begins with its signals, and imports torch and mlflow inside the command."""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it; an import of typing would come before a stage's signals
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from typing import NoReturn

    import click

    from pipeline.params import Params

SHARED = {"params": "params.yaml", "data": "data/dataset.safetensors", "classifier": "models/classifier.safetensors"}


def stage(help: str | None, *shared: str, **defaults: str) -> Callable[[Callable[..., None]], click.Command]:  # noqa: A002
    """Make a function a click command with options for the :data:`SHARED` paths that are named, and for others by their defaults.

    The function gets ``params`` as the checked content of the file.
    """
    from pathlib import Path

    import click

    from pipeline.params import load_params

    def load(context: click.Context, option: click.Parameter, path: Path) -> Params:
        return load_params(path)

    def decorate(function: Callable[..., None]) -> click.Command:
        for name, default in reversed(({name: SHARED[name] for name in shared} | defaults).items()):
            callback = load if name == "params" else None
            function = click.option(f"--{name}", default=default, show_default=True, type=Path, callback=callback)(function)
        return click.command(help=help)(function)

    return decorate


def results_files(paths: Iterable[Path]) -> list[Path]:
    """Return the given files, with a folder replaced by its safetensors files, sorted by name."""
    return [file for path in paths for file in (sorted(path.glob("*.safetensors")) if path.is_dir() else [path])]


def run(command: click.Command) -> NoReturn:
    """Run a command in this process and end it: an error that the user can act on is one line and an exit code."""
    import sys

    from pipeline.errors import one_line
    from pipeline.startup import begin_stage, end

    begin_stage()  # for who calls this from another script
    try:
        with one_line():
            sys.exit(command.main(standalone_mode=False))
    finally:
        end()
