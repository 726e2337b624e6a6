"""The house rules: who imports whom, and that dvc.yaml lists for each stage just the files its result depends on."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]

# Imported by stages, yet without a say in their outputs, so a change of them must not rerun anything.
VIEWS = {
    "pipeline/__init__.py": "how OpenMP waits",
    "pipeline/errors.py": "what a user is told",
    "pipeline/params.py": "refuses bad values; the values themselves are params of the stages",
    "pipeline/runs.py": "what MLflow is told",
    "pipeline/tracking.py": "MLflow shows what DVC's files hold",
    "pipeline/models/__init__.py": "the registry: a new model does not retrain the others",
    "stages/__init__.py": "exit codes",
}
MAY_IMPORT_TORCH_DISTRIBUTED = {"pipeline/runtime.py"}


def imports(path: Path) -> set[str]:
    """Return the dotted names a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def files_of(name: str) -> set[str]:
    """Return the first-party files that importing a dotted name runs."""
    parts = name.split(".")
    if parts[0] not in {"pipeline", "stages"}:
        return set()
    paths = {Path(*parts[:end]) / "__init__.py" for end in range(1, len(parts) + 1)} | {Path(*parts).with_suffix(".py")}
    return {str(path) for path in paths if (ROOT / path).is_file()}


def closure(start: str, follow_registry: bool = True) -> set[str]:
    """Return every first-party file that running ``start`` imports."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            if follow_registry or path != "pipeline/models/__init__.py":
                todo += [file for name in imports(ROOT / path) for file in files_of(name)]
    return seen


def expected_deps(command: str) -> set[str]:
    words = command.split()
    start = words[2].replace(".", "/") + ".py"
    trained = words[3] if start == "stages/train.py" else None
    files = closure(start, follow_registry=trained is None)
    if trained:
        from pipeline.models import MODELS

        files |= closure(MODELS[trained].__module__.replace(".", "/") + ".py", follow_registry=False)
    return files - VIEWS.keys()


@pytest.mark.parametrize("name", STAGES)
def test_deps_of_a_stage_are_the_closure_of_its_imports(name: str) -> None:
    stage = STAGES[name]
    listed = {dep for dep in stage["deps"] if dep.endswith(".py")}
    expected = expected_deps(stage["cmd"]) | ({"pipeline/params.py"} if "params.yaml" in stage["deps"] else set())
    assert listed == expected, f"{name} in dvc.yaml should list\n" + "\n".join(f"      - {path}" for path in sorted(expected))


@pytest.mark.parametrize("view", VIEWS)
def test_views_exist(view: str) -> None:
    assert (ROOT / view).is_file()


SOURCES = sorted(str(path.relative_to(ROOT)) for folder in ("pipeline", "stages") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES)
def test_borders(path: str) -> None:
    names = imports(ROOT / path)
    roots = {name.split(".")[0] for name in names}
    assert "dvc" not in roots
    assert "mlflow" not in roots or path == "pipeline/tracking.py"
    assert not any(name.startswith("torch.distributed") for name in names) or path in MAY_IMPORT_TORCH_DISTRIBUTED
    if path.startswith("pipeline/"):
        assert "stages" not in roots
    if path.startswith("stages/"):
        assert not any(name.startswith("stages.") for name in names if name != "stages.run")


@pytest.mark.parametrize("start", ["stages/download.py", "stages/figures.py"])
def test_torch_stays_out_of_stages_that_do_not_need_it(start: str) -> None:
    assert not {"torch", "torchvision"} & {name.split(".")[0] for path in closure(start) for name in imports(ROOT / path)}


@pytest.mark.parametrize("name", ["validate", "download", "figures", "claims", "laboratory", "explore"])
def test_torch_is_not_loaded_with_stages_that_seldom_or_never_need_it(name: str) -> None:
    found = f"import sys, stages.{name}; print([m for m in ('torch', 'torchvision', 'sklearn') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", found], cwd=ROOT, text=True).strip() == "[]"


def test_garbage_is_looked_for_in_what_a_stage_makes_not_in_its_imports() -> None:
    script = """
import gc
collected, usual = [], gc.get_threshold()
gc.callbacks.append(lambda phase, about: collected.append(about["generation"]))
import click, stages.figures
say = lambda: print(2 in collected, gc.get_threshold() == usual, len(gc.get_objects()))
stages.run(click.Command("work", callback=say))
"""
    collected, usual, searched = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True).split()
    assert (collected, usual) == ("False", "True")
    assert int(searched) < 2000


def test_the_trainer_knows_neither_models_nor_tracking() -> None:
    assert not closure("pipeline/trainer.py") & {"pipeline/models/__init__.py", "pipeline/tracking.py", "pipeline/checkpoint.py"}
