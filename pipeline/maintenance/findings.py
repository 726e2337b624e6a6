"""What a check found, one line each with its cure, and the repair of what can be repaired safely."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Level = Literal["ok", "fixed", "warning", "problem"]


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
