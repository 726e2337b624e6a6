"""What the commands share: types of options, and how a table is shown."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table


class PathFromHere(click.Path):
    """A path on the command line, relative to the folder where it was typed; a default is relative to the root.

    ``suffixes`` are those of the files that are allowed; among them an empty one stands for a folder.
    """

    def __init__(self, *suffixes: str) -> None:
        super().__init__()
        self.suffixes = suffixes

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Path:
        """Return the path for a command that runs in the root."""
        source = context.get_parameter_source(param.name) if context and param and param.name else None
        typed = context.find_root().obj if context and source is click.core.ParameterSource.COMMANDLINE else None
        if self.suffixes and Path(value).suffix not in self.suffixes:
            *most, last = (suffix or "a folder without a dot in its name" for suffix in self.suffixes)
            allowed = f"are {', '.join(most)} and {last}" if most else f"is {last}"
            self.fail(f"{str(value)!r}; allowed {allowed}", param, context)
        return Path(typed or "", value)


class ModelName(PathFromHere):
    """A model: a name stands for its file in models/, an address of MLflow's stays as it is, all else is a path."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        """Return the path of a file of weights, or an address, as text."""
        if value.startswith("models:/"):
            return value
        return str(
            super().convert(value, param, context) if Path(value).suffix or "/" in value else f"models/{value}.safetensors"
        )


class ImageOrIndex(PathFromHere):
    """The path of an image, or the index of an image of the prepared data set."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        """Return a whole number or a path."""
        return int(value) if value.isdecimal() else super().convert(value, param, context)


PATH = PathFromHere()


def show(table: "Table") -> None:
    """Print a table as wide as the terminal, or 120 columns wide in a log, and wider where columns that do not wrap need it.

    So no number is cut. Words of columns that wrap are broken. A terminal that is too narrow breaks the lines itself.
    """
    from rich.cells import cell_len
    from rich.console import Console

    terminal = Console(width=None if sys.stdout.isatty() else 120)
    for column in table.columns:
        if column.no_wrap:
            column.min_width = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
        else:
            column.max_width = 12  # while the table is measured
    needed = terminal.measure(table, options=terminal.options.update(max_width=10_000)).minimum
    for column in table.columns:
        column.max_width = None
    # With a height, too: else rich takes a terminal of the type dumb for 80 columns wide.
    console = Console(width=max(terminal.width, needed), height=terminal.height)
    with console.capture() as drawn:  # printed by rich, it would end the process with 1 when the reader has gone
        console.print(table)
    click.echo(drawn.get(), nl=False)
