"""Types of command line options."""

from pathlib import Path
from typing import Any

import click


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


PATH = PathFromHere()
