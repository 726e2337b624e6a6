"""The house rules: which room may import which, and that a stage lists exactly the code that decides its result."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PIPELINES = {file: YAML(typ="safe").load(ROOT / file)["stages"] for file in ("dvc.yaml", "claims/dvc.yaml")}
STAGES = {name: stage for stages in PIPELINES.values() for name, stage in stages.items()}
SOURCES = sorted(str(path.relative_to(ROOT)) for folder in ("pipeline", "stages") for path in (ROOT / folder).rglob("*.py"))

# Which other rooms the files of a room may import. A room is a folder of pipeline/ or a module beside them.
MAY_IMPORT = {
    "errors": set(),
    "startup": set(),
    "stats": set(),
    "params": {"errors"},
    "storage": {"errors"},
    "summary": set(),
    "runtime": {"errors"},
    "data": {"errors", "storage"},
    "datasets": {"data", "errors", "startup", "storage"},
    "models": {"data", "errors", "storage"},
    "tracking": {"data", "errors", "models", "startup", "storage"},  # models in served.py alone
    "training": {"data", "errors", "models", "params", "runtime", "startup", "storage", "tracking"},
    "classifier": {"data", "errors", "runtime", "storage"},
    "evaluation": {"classifier", "data", "errors", "models", "params", "runtime", "stats", "storage", "tracking"},
    "figures": {"errors", "evaluation"},
    "explorer": {"data", "errors", "evaluation", "figures", "models", "storage"},
    "claims": {"evaluation", "params", "stats", "storage"},
    "sweeps": {"errors", "evaluation", "figures", "options", "params", "runtime", "startup", "stats"}
    | {"storage", "tracking", "training"},
    "reporting": {"errors", "figures", "models", "params", "runtime", "stats", "storage", "summary", "tracking"},
    "maintenance": {"errors", "params", "runtime", "startup", "storage", "tracking"},
    "notebook": {"data", "datasets", "errors", "evaluation", "figures", "models", "params", "runtime", "training"},
    "inference": {"data", "datasets", "errors", "models", "options", "runtime", "startup", "storage", "tracking"},
    "options": set(),
    "cli": {"errors", "inference", "maintenance", "options", "params", "reporting"}
    | {"startup", "storage", "summary", "sweeps", "tracking"},
    "__main__": {"cli", "startup"},
    "__init__": set(),
}
# Of these rooms figures, explorer and claims see the arrays alone.
ARRAYS_ALONE = {"figures", "explorer", "claims"}
ONLY_HERE = {"mlflow": "pipeline/tracking/", "dvc": "pipeline/tracking/dvc_repo.py", "torch.distributed": "pipeline/runtime.py"}
ONLY_HERE |= {"ray": "pipeline/sweeps/ray.py", "submitit": "pipeline/sweeps/slurm.py", "optuna": "pipeline/sweeps/study.py"}
WITHOUT_TORCH = (
    "data",
    "storage",
    "stats",
    "params",
    "datasets",
    "figures",
    "claims",
    "tracking",
    "startup",
    "errors",
    "summary",
)

# Imported by stages, yet without a say in their outputs, so a change of them must not rerun anything.
VIEWS = {
    "pipeline/__init__.py": "says what the package is",
    "pipeline/errors.py": "what a user is told",
    "pipeline/params.py": "refuses bad values; the values themselves are params of the stages",
    "pipeline/startup.py": "signals, bytecode, and how OpenMP waits",
    "pipeline/sweeps": "where trainings run",
    "pipeline/tracking": "MLflow shows what DVC's files hold",
    "pipeline/claims/__init__.py": "says what the folder is",
    "pipeline/evaluation/__init__.py": "says what the folder is",
    "stages/__init__.py": "options and exit codes",
}


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


def is_covered(path: str, by: list[str]) -> bool:
    return any(path == listed or path.startswith(f"{listed}/") for listed in by)


def closure(start: str) -> set[str]:
    """Return every first-party file that running ``start`` imports; what MLflow is told decides nothing and is not followed."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            if not path.startswith("pipeline/tracking/"):
                todo += [file for name in imports(ROOT / path) for file in files_of(name)]
    return seen


def room(path: str) -> str:
    return Path(path).parts[1].removesuffix(".py")


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_lists_exactly_the_code_that_decides_its_result(name: str) -> None:
    stage = STAGES[name]
    listed = [dep for dep in stage["deps"] if dep.startswith(("pipeline", "stages"))]
    start = stage["cmd"].split()[2].replace(".", "/") + ".py"
    needed = {path for path in closure(start) if not is_covered(path, list(VIEWS)) or path in listed}
    missing = sorted(path for path in needed if not is_covered(path, listed))
    assert not missing, f"{name} must list"
    stale = [dep for dep in listed if not any(is_covered(path, [dep]) for path in needed) and name != "validate"]
    assert not stale, f"{name} lists what it does not import"


@pytest.mark.parametrize("view", VIEWS)
def test_views_exist(view: str) -> None:
    assert (ROOT / view).exists()


def test_the_import_table_names_every_room() -> None:
    assert {room(path) for path in SOURCES if path.startswith("pipeline/")} == MAY_IMPORT.keys()


@pytest.mark.parametrize("path", [path for path in SOURCES if path.startswith("pipeline/")])
def test_a_room_imports_what_the_table_allows(path: str) -> None:
    names = {name for name in imports(ROOT / path) if name.startswith("pipeline.")}
    assert not any(name.split(".")[0] == "stages" for name in imports(ROOT / path))
    used = {name.split(".")[1] for name in names} - {room(path), "__version__"}
    assert used <= MAY_IMPORT[room(path)]
    if room(path) in ARRAYS_ALONE:
        seen = {name for name in names if name.startswith("pipeline.evaluation.")}
        assert all(name.startswith("pipeline.evaluation.results") for name in seen)


@pytest.mark.parametrize("path", SOURCES)
def test_libraries_stay_in_their_rooms(path: str) -> None:
    names = imports(ROOT / path)
    for library, place in ONLY_HERE.items():
        uses = any(name == library or name.startswith(f"{library}.") for name in names)
        assert not uses or path.startswith(place), f"{library} is imported in {place} alone"
    if path.startswith("pipeline/") and room(path) in WITHOUT_TORCH:
        assert not any(name.split(".")[0] in {"torch", "torchvision"} for name in names)
    if path.startswith("stages/"):
        assert {file for name in names for file in files_of(name) if file.startswith("stages/")} <= {"stages/__init__.py"}


@pytest.mark.parametrize("name", ["download", "figures", "claims", "summary"])
def test_a_stage_that_needs_no_torch_imports_none(name: str) -> None:
    reached = closure(f"stages/{name}.py")
    assert not [path for path in reached if any(n.split(".")[0] == "torch" for n in imports(ROOT / path))]


@pytest.mark.parametrize("name", sorted(Path(path).stem for path in SOURCES if path.startswith("stages/") and "__" not in path))
def test_a_stage_imports_nothing_heavy_before_its_command_runs(name: str) -> None:
    heavy = ("torch", "mlflow", "sklearn", "matplotlib", "pandas")
    found = f"import sys, stages.{name}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", found], cwd=ROOT, text=True).strip() == "[]"


@pytest.mark.parametrize("path", [path for path in SOURCES if path.startswith("stages/") and "__" not in path])
def test_a_stage_begins_with_its_signals(path: str) -> None:
    first = ast.parse((ROOT / path).read_text()).body[1]
    assert ast.unparse(first).split("\n") == [
        "if __name__ == '__main__':",
        "    from pipeline.startup import begin_stage",
        "    begin_stage()",
    ]


def test_the_trainer_knows_neither_tracking_nor_checkpoints() -> None:
    assert not {path for path in closure("pipeline/training/trainer.py") if "tracking" in path or "checkpoint" in path}


def test_no_file_is_longer_than_300_lines() -> None:
    assert not [path for path in SOURCES if len((ROOT / path).read_text().splitlines()) > 300]


@pytest.mark.parametrize("folder", sorted({str(Path(path).parent) for path in SOURCES} - {"pipeline"}))
def test_a_folder_says_what_belongs_in_it(folder: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text())) or ""
    assert "ay import" in docstring
