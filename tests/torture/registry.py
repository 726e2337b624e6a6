"""The cases by name, in the order of the table."""

from collections.abc import Callable

from tests.torture.lab import Case

CASES: dict[str, Callable[[Case], None]] = {}


def case(name: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Register a case."""

    def register(function: Callable[[Case], None]) -> Callable[[Case], None]:
        CASES[name] = function
        return function

    return register
