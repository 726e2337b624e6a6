"""The space of a search: values or a range for keys of params.yaml, checked before any work."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from pipeline.errors import ParamsError
from pipeline.params import Params, Section, load_yaml, with_values
from pipeline.sweeps.grid import SET_BY, allowed, value_of

Space = Mapping[str, list[Any] | dict[str, Any]]
"""By their keys a list of values, or a range with all of ``low``, ``high``, ``log`` and ``step``, which may be None."""
NO_SENSE = {
    "seed": "the best of many seeds is luck; --seeds trains the best settings with several",
    "train.shards": "it decides the last bits alone",
}
FORMS = "allowed is a list of values or a range as in {low: 1, high: 8}, with step: 1 or log: true if wanted"


class _File(Section):
    model_config = ConfigDict(extra="allow")


def _range(params: Params, key: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if not {"low", "high"} <= given.keys() <= {"low", "high", "log", "step"}:
        raise ParamsError(FORMS)
    kind, log, step = type(value_of(params, key)), given.get("log", False), given.get("step")
    if kind not in (int, float):
        raise ParamsError("allowed is a list of values, because it is no number")
    low, high = (value_of(with_values(params, {key: given[end]}), key) for end in ("low", "high"))
    if low >= high:
        raise ParamsError(f"low, {low}, is not below high, {high}")
    if not isinstance(log, bool):
        raise ParamsError(f"log: {log!r} is not allowed; allowed are true and false")
    if log and low <= 0:
        raise ParamsError(f"log: true needs a low above 0, not {low}")
    if log and step is not None:
        raise ParamsError("step and log: true exclude each other")
    if step is None and kind is int:
        step = 1
    if step is not None:
        if isinstance(step, bool) or not isinstance(step, int | kind) or step <= 0:
            raise ParamsError(f"step: {step!r} is not allowed; allowed is {'a whole' if kind is int else 'a'} number above 0")
        count = round((high - low) / step, 6)
        if count != int(count) or not count:
            raise ParamsError(f"high, {high}, is not low, {low}, and a whole number of steps of {step}")
        with_values(params, {key: low + kind(step)})  # such as a batch that no longer divides
    return {"low": low, "high": high, "log": log, "step": step}


def load_space(path: Path, params: Params, model: str) -> Space:
    """Read the space of a search from a YAML file.

    Raises ParamsError, one line with the file, the key and what is allowed, for what params.yaml or a search does not allow.

    >>> from pipeline.params import load_params
    >>> file = Path(getfixture("tmp_path"), "space.yaml")
    >>> _ = file.write_text("beta: {low: 1, high: 8, log: true}\\nvae.net: [mlp, conv]")
    >>> load_space(file, load_params("params.yaml"), "vae")
    {'beta': {'low': 1.0, 'high': 8.0, 'log': True, 'step': None}, 'vae.net': ['mlp', 'conv']}
    """
    given = load_yaml(path, _File).model_extra or {}
    if not given:
        raise ParamsError(f"{path}: an empty space; {FORMS}")
    keys: list[str] = [key for key in allowed(params, model) if key not in NO_SENSE]
    space: dict[str, list[Any] | dict[str, Any]] = {}
    for key, values in given.items():
        try:
            if key in NO_SENSE:
                raise ParamsError(f"a search makes no sense: {NO_SENSE[key]}")
            if key in SET_BY:
                raise ParamsError(f"{SET_BY[key]} sets it for all trials")
            if key not in keys:
                raise ParamsError(f"not allowed; allowed are {', '.join(keys)}")
            if isinstance(values, dict):
                space[key] = _range(params, key, values)
            elif isinstance(values, list) and values:
                checked = [value_of(with_values(params, {key: value}), key) for value in values]
                space[key] = [value for index, value in enumerate(checked) if value not in checked[:index]]
            else:
                raise ParamsError(FORMS)
        except ParamsError as error:
            where = "" if str(error).startswith(key) else f"{key}: "
            raise ParamsError(f"{path}: {where}{error}") from None
    return space
