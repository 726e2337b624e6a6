"""The commands of dvc.yaml: each reads its options and params, calls the package and writes its declared outputs."""

import errno
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import click

from pipeline.errors import PipelineError

OUT_OF_MEMORY, NO_SPACE, TERMINATED = 5, 74, 128 + signal.SIGTERM
_NO_SPACE_ERRNOS = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM}


def _terminate(signum: int, frame: object) -> NoReturn:
    raise SystemExit(TERMINATED)


def run(command: Callable[[], object]) -> NoReturn:
    """Run a click command as a stage: a user's mistake is one line on stderr and the exit code of its kind."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        command()
    except PipelineError as error:
        message, code = str(error), error.exit_code
    except OSError as error:
        if error.errno not in _NO_SPACE_ERRNOS:
            raise
        message, code = (
            f"{error.filename or 'output'}: {error.strerror}; make room or make it writable, then run again",
            NO_SPACE,
        )
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "out of memory" not in str(error):
            raise
        message, code = f"out of memory ({error}); lower train.batch_size or the hidden_dims", OUT_OF_MEMORY
    else:
        sys.exit(0)
    click.echo(f"error: {message}", err=True)
    sys.exit(code)
