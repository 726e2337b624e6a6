"""How the package's own commands, ``python -m pipeline.NAME``, tell of a user's mistake."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from pipeline.errors import PipelineError


@contextmanager
def one_line() -> Iterator[None]:
    """Turn a fault the user can act on into one line on stderr and its exit code; decorates a command's function."""
    try:
        yield
    except PipelineError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
