"""What can go wrong for a user, each with the exit code a stage ends with."""


class PipelineError(Exception):
    """A fault the user can act on: one line, no traceback. ``exit_code`` is the process's."""

    exit_code = 1


class ParamsError(PipelineError):
    """params.yaml (or an option) holds something that is not allowed."""

    exit_code = 2


class IntegrityError(PipelineError):
    """A file or a download is missing, damaged, or not what it claims to be."""

    exit_code = 3


class DivergedError(PipelineError):
    """The loss or a gradient stopped being a finite number."""

    exit_code = 4


class BusyError(PipelineError):
    """Another process holds what this one needs; trying again later can succeed."""

    exit_code = 75
