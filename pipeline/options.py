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
