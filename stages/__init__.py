"""The commands of dvc.yaml: each reads its options and params, calls the package and writes its declared outputs."""

import ctypes
import errno
import gc
import signal
import sys
from typing import NoReturn

import click

from pipeline.errors import IntegrityError, PipelineError

# What a stage imports lives as long as its process: searching it for garbage, while it is imported, took a sixth of that time,
# and on the way out half a second.
_THRESHOLDS = gc.get_threshold()
gc.set_threshold(1_000_000)

OUT_OF_MEMORY, NO_SPACE, INTERRUPTED, TERMINATED = 5, 74, 128 + signal.SIGINT, 128 + signal.SIGTERM
_PR_SET_PDEATHSIG = 1
_NO_SPACE_ERRNOS = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM}


def _terminate(signum: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # dvc's own death sends another, in the middle of saving
    raise SystemExit(TERMINATED)


def run(command: click.Command) -> NoReturn:
    """Run a click command as a stage: a user's mistake is one line on stderr and the exit code of its kind."""
    signal.signal(signal.SIGTERM, _terminate)
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    if sys.platform == "linux":
        # A killed `dvc` would leave its stage running, and the next `dvc repro` would start a second one beside it.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        command.main(standalone_mode=False)
    except PipelineError as error:
        message, code = str(error), error.exit_code
    except click.ClickException as error:
        message, code = f"{error.format_message()} (see --help)", error.exit_code
    except click.Abort:
        message, code = "interrupted", INTERRUPTED
    except FileNotFoundError as error:
        message, code = f"{error.filename}: no such file or folder; run `dvc repro`", IntegrityError.exit_code
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
