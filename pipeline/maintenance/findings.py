"""What a check found, one line each with its cure, and the repair of what can be repaired safely."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from pipeline.errors import redact

Level = Literal["ok", "fixed", "warning", "problem"]
DOCTOR_FIX, VERIFY_FIX = "`latent doctor --fix`", "`latent verify --fix`"


@dataclass(frozen=True)
class Finding:
    """One line: ``ok``, ``fixed``, a ``warning`` or a ``problem``, what it is about, what was found, and its cure.

    ``fix`` repairs it, loses nothing that cannot be made again, and returns what it did.
    """

    level: Level
    about: str
    text: str
    cure: str = ""
    fix: Callable[[], str] | None = None

    def __str__(self) -> str:
        """Return the line.

        >>> print(Finding("problem", "params", "params.yaml: beta: -4 is not allowed", "edit it"))
        problem  params: params.yaml: beta: -4 is not allowed; edit it
        """
        cure = f"; {self.cure}" if self.cure else ""
        return f"{self.level:<8} {' '.join(f'{self.about}: {self.text}{cure}'.split())}"

    def repaired(self) -> "Finding":
        """Try the ``fix``, if there is one, and return what is now the case."""
        if self.fix is None:
            return self
        try:
            return replace(self, level="fixed", text=f"{self.text}: {self.fix()}", cure="", fix=None)
        except Exception as error:  # a repair that fails is a finding, too
            return replace(self, text=f"{self.text}; the repair failed ({error})", fix=None)


def show(findings: Iterable[Finding], fix: bool) -> Counter[Level]:
    """Print findings, a line each, and repair them if asked; return how many are left of each level."""
    levels = Counter[Level]()
    for finding in findings:
        done = finding.repaired() if fix else finding
        levels[done.level] += 1
        tqdm.write(redact(str(done)), sys.stdout)
    return levels


def remove(*paths: Path) -> str:
    """Delete files and links as far as they are there; return what was done."""
    gone = [path for path in paths if path.is_symlink() or path.exists()]
    for path in gone:
        path.unlink(missing_ok=True)
    return f"removed {' and '.join(map(str, gone[:3]))}" + (" and others" if len(gone) > 3 else "")
