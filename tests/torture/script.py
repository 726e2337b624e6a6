"""Run a file of Python in a fork: `tests.torture.script FILE`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    exec(compile(Path(sys.argv[1]).read_text(), sys.argv[1], "exec"), {"__name__": "__main__"})  # noqa: S102
