"""The files around the code: line endings, the Makefile, the workflows."""

import os
import re
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests import mutants
from tests.conftest import ROOT

WORKFLOWS = {path.name: YAML(typ="safe").load(path) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
JOBS = [(name, job) for name, workflow in WORKFLOWS.items() for job in workflow["jobs"]]
STEPS = [step for name, job in JOBS for step in WORKFLOWS[name]["jobs"][job]["steps"]]


def git(*arguments: object, **options: str) -> str:
    return subprocess.run(["git", *map(str, arguments)], check=True, capture_output=True, text=True, **options).stdout


@pytest.mark.parametrize("setting", ["core.autocrlf=true", "core.autocrlf=input", "core.eol=crlf"])
def test_a_clone_has_the_bytes_of_the_commit_whatever_the_line_endings_of_its_user(setting: str, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git("clone", "--quiet", "--shared", "-c", setting, ROOT, clone)
    entries = [entry.partition("\t") for entry in git("-C", clone, "ls-tree", "-rz", "HEAD").split("\0")[:-1]]
    committed = {path: about.split()[2] for about, _, path in entries}
    hashed = git("-C", clone, "hash-object", "--no-filters", "--stdin-paths", input="\n".join(committed))
    assert dict(zip(committed, hashed.split(), strict=True)) == committed


def make(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run make in this repository, without making the environment anew."""
    command = ["make", "--silent", "--old-file=env", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_port_that_is_taken_is_one_line_with_a_command_that_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = make("ui", f"PORT={port}")
    assert done.returncode != 0
    first, *rest = done.stderr.splitlines()
    assert first == f"error: another program uses port {port}; choose a free one: make ui PORT={port + 1}"
    assert all(line.startswith("make: ***") for line in rest)
    assert f"--port {port + 1}\n" in make("--dry-run", "ui", f"PORT={port + 1}").stdout


def test_what_make_starts_has_its_own_site_cache_of_dvc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DVC_SITE_CACHE_DIR")
    shutil.copy(ROOT / "Makefile", tmp_path)
    printed = tmp_path / "print.mk"
    printed.write_text("include Makefile\nprint:\n\t@echo $$DVC_SITE_CACHE_DIR\n")
    done = subprocess.run(["make", "-f", printed.name, "print"], cwd=tmp_path, check=True, capture_output=True, text=True)
    folder = Path(done.stdout.strip())
    assert folder == tmp_path / ".dvc/tmp/site_cache"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("step", [step for step in STEPS if "uses" in step], ids=lambda step: step["uses"])
def test_an_action_is_pinned_by_its_commit(step: dict[str, str]) -> None:
    assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])


@pytest.mark.parametrize(("name", "job"), JOBS)
def test_a_job_that_runs_code_of_a_pull_request_has_a_token_that_may_only_read(name: str, job: str) -> None:
    workflow, content = WORKFLOWS[name], WORKFLOWS[name]["jobs"][job]
    assert workflow["permissions"] == {}
    checkouts = [step for step in content["steps"] if "checkout" in step.get("uses", "")]
    if name == "comment.yml":  # without a ref a workflow_run checks the default branch out
        assert [step.get("run") for step in content["steps"] if step not in checkouts] == [".ci/comment"]
        assert [step["with"] for step in checkouts] == [{"persist-credentials": False}]
    elif checkouts:
        assert content["permissions"] == {"contents": "read"}
        assert all(step["with"]["persist-credentials"] is False for step in checkouts)
        assert not re.search(r"secrets\.|github\.token|GITHUB_TOKEN", str(content))
    else:  # what runs with a token that may write is what is written there, and GitHub's own publishing of a finished site
        used = [step["uses"].partition("@")[0] for step in content["steps"] if "uses" in step]
        assert used in ([], ["actions/deploy-pages"])
    # GitHub puts an expression into the script before the shell reads it; a name of a branch would be code there.
    assert not any("${{" in step.get("run", "") for step in content["steps"])


def test_the_rules_of_the_gate_are_those_of_the_base() -> None:
    commands = [step["run"] for step in STEPS if "latent " in step.get("run", "")]
    assert len(commands) == 2
    assert all('--rules "$RUNNER_TEMP/gate.yaml"' in command for command in commands)
    assert 'git show "$BASE:gate.yaml" > "$RUNNER_TEMP/gate.yaml"' in commands[0]


AUDITS = {
    "no vulnerability": ("echo '[]' > {found}", 0, "audit: no known vulnerability"),
    "a vulnerability": ("echo CVE-1 > {found}; exit 1", 1, "CVE-1"),
    "no network": ("echo 'no route to host' >&2; exit 1", 0, "not audited, the database could not be asked: no route to host"),
}


@pytest.mark.parametrize("case", AUDITS)
def test_the_audit_says_when_it_could_not_look(case: str, tmp_path: Path) -> None:
    script, code, said = AUDITS[case]
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/audit", tmp_path / ".ci")
    uv = tmp_path / ".uv/bin/uv"  # makes an environment with a pip-audit that answers so
    uv.parent.mkdir(parents=True)
    answer = script.format(found='"${@: -1}"')
    uv.write_text(
        f'#!/usr/bin/env bash\n[ "$1" = venv ] || exit 0\nmkdir -p "${{@: -1}}/bin"\n'
        f'cat > "${{@: -1}}/bin/pip-audit" <<\'END\'\n#!/usr/bin/env bash\n{answer}\nEND\nchmod +x "${{@: -1}}/bin/pip-audit"\n'
    )
    uv.chmod(0o755)
    done = subprocess.run([".ci/audit"], cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stderr) == (code, "")
    assert said in done.stdout


def test_rooms_whose_code_is_mutated_have_tests() -> None:
    assert set(mutants.ROOMS) < set(mutants.rooms())
    assert all(map(mutants.files, mutants.rooms()))
    for test in mutants.LEFT_OUT:
        file, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / file).read_text()
