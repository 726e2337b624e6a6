"""The gate and the report, against real revisions of a small repository with hand-written metrics."""

import json
import math
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from conftest import ROOT
from PIL import Image

from pipeline import gate, report
from pipeline.errors import ParamsError
from pipeline.evaluation import METRICS
from pipeline.gate import ComparisonError, Gate, Rule, judge
from pipeline.models import MODELS
from pipeline.params import load_yaml

RULES = """
same: [data.name, data.train.sha256]
metrics:
  vae.test.elbo: {better: higher, tolerance: 0.5}
  vae.samples.fcd: {better: lower, tolerance: 1, optional: true}
"""
DVC_YAML = """
params: [params.yaml]
metrics: [metrics/data.json, metrics/vae.json]
plots:
  - metrics/figures
  - metrics/vae_history.csv
  - loss:
      x: epoch
      y: {metrics/vae_history.csv: [train/loss, val/loss]}
"""
ELBO = np.random.default_rng(0).normal(0, 8, 400)
ELBO += -140 - ELBO.mean()


def write(path: str, content: Any) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content if isinstance(content, str) else json.dumps(content))


def metrics(elbo: float = -140.0, **more: Any) -> None:
    write("metrics/vae.json", {"test": {"elbo": elbo, **more}})


def images(elbo: np.ndarray, labels: np.ndarray | None = None) -> None:
    Path("laboratory").mkdir(exist_ok=True)
    table = pd.DataFrame({"label": np.arange(len(elbo)) % 10 if labels is None else labels, "elbo": elbo})
    table.to_parquet("laboratory/vae_images.parquet")


def picture(name: str, color: str) -> None:
    Path("metrics/figures").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 20), color).save(f"metrics/figures/{name}.png")


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def commit(message: str) -> None:
    run("git", "add", "--all")
    run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", message)


def invoke(command: Any, *options: str) -> Result:
    result = CliRunner().invoke(command, options)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose branch ``team/base`` has an ELBO about -140, its values per image in DVC's cache, plots and figures."""
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("git", "init", "--quiet", "--initial-branch", "team/base")
        gate.dvc("init", "--quiet")
        gate.dvc("config", "core.analytics", "false")
        write("gate.yaml", RULES)
        write("dvc.yaml", DVC_YAML)
        write("params.yaml", "beta: 1.0\n")
        write("metrics/data.json", {"name": "blobs", "train": {"sha256": "aa"}})
        write("metrics/vae_history.csv", "epoch,train/loss,val/loss\n1,150,151\n2,143,144\n3,140,141\n")
        metrics(elbo_se=0.4, gone=1.5, kl=6.5)
        picture("same", "blue")
        picture("changed", "red")
        images(ELBO)
        gate.dvc("add", "--quiet", "laboratory/vae_images.parquet")
        commit("base")
    return folder


@pytest.fixture
def repo(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, the current folder, without its values per image."""
    shutil.copytree(base, tmp_path / "repo", symlinks=True)
    monkeypatch.chdir(tmp_path / "repo")
    Path("laboratory/vae_images.parquet").unlink()
    return tmp_path / "repo"


@pytest.mark.parametrize(("elbo", "code", "verdict"), [(-144.0, 1, "worse"), (-137.0, 0, "better")])
def test_the_gate_decides_between_commits(repo: Path, elbo: float, code: int, verdict: str) -> None:
    run("git", "switch", "--quiet", "--create", "change")
    metrics(elbo, elbo_se=0.4)
    commit("change")
    result = invoke(gate.main, "--against", "team/base")
    assert result.exit_code == code
    row = next(line for line in result.stdout.splitlines() if line.startswith("| vae.test.elbo"))
    assert verdict in row
    assert "unpaired" in row
    assert f"{0.5 + 2 * 0.4 * math.sqrt(2):.6g}" in row
    assert ("Worse than allowed: vae.test.elbo." in result.stdout) == bool(code)


def test_values_per_image_decide_what_standard_errors_cannot(repo: Path) -> None:
    lost = ELBO - 1 + np.random.default_rng(1).normal(0, 0.5, len(ELBO))
    metrics(float(lost.mean()), elbo_se=0.4)
    assert invoke(gate.main, "--against", "team/base").exit_code == 0  # unpaired, 1.63 is allowed
    images(lost)
    result = invoke(gate.main, "--against", "team/base")
    assert result.exit_code == 1
    assert "| paired" in result.stdout
    images(lost + 1)  # not those that the metric is the mean of
    assert "| unpaired" in invoke(gate.main, "--against", "team/base").stdout


def test_values_of_other_images_are_not_paired(repo: Path) -> None:
    images(ELBO, labels=np.ones(len(ELBO), np.int64))
    assert gate.per_image("vae", "team/base") is None
    images(ELBO)
    assert gate.per_image("vae", "team/base") is not None


SAME = {"data.name": ("blobs", "blobs"), "data.train.sha256": ("aa", "aa")}


def decide(sides: dict[str, tuple[Any, Any]], **rule: Any) -> gate.Verdict:
    rules = Gate(same=list(SAME), metrics={"vae.test.elbo": Rule(**{"better": "higher", "tolerance": 0.5} | rule)})
    (verdict,) = judge(rules, SAME | sides, "main")
    return verdict


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize(
    ("old", "new", "rule", "worse"),
    [
        (-140.0, -140.5, {}, False),  # just what is tolerated
        (-140.0, -140.500001, {}, True),
        (0.1, 0.4, {"better": "lower", "tolerance": 0.3}, False),  # 0.4 - 0.1 > 0.3 in binary
        (2, 1, {"tolerance": 0.0}, True),
        (1, 2, {"tolerance": 0.0}, False),
        (1.0, 9.0, {"better": "lower"}, True),
        (9.0, 1.0, {"better": "lower"}, False),
    ],
)
def test_a_loss_over_the_tolerance_is_worse(old: float, new: float, rule: dict[str, Any], worse: bool) -> None:
    assert decide({"vae.test.elbo": (old, new)}, **rule).worse == worse


@pytest.mark.usefixtures("workspace")
def test_a_standard_error_of_one_side_is_no_interval() -> None:
    assert decide({"vae.test.elbo": (1.0, 1.0), "vae.test.elbo_se": (0.1, None)}).interval == "none"


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize("new", [None, math.nan, math.inf, "much", True])
def test_a_metric_of_the_gate_must_be_there(new: Any) -> None:
    with pytest.raises(ComparisonError, match=r"vae\.test\.elbo is 1\.0 at main, .* here"):
        decide({"vae.test.elbo": (1.0, new)})


@pytest.mark.usefixtures("workspace")
def test_an_optional_metric_may_be_absent_but_not_broken() -> None:
    rules = Gate(same=[], metrics={"vae.test.elbo": Rule(better="higher", tolerance=0.5, optional=True)})
    assert judge(rules, {"vae.test.elbo": (None, 1.0)}, "main") == judge(rules, {}, "main") == []
    with pytest.raises(ComparisonError, match="nan"):
        judge(rules, {"vae.test.elbo": (1.0, math.nan)}, "main")


def test_the_report_shows_what_changed(repo: Path) -> None:
    write("params.yaml", "beta: 4.0\n")
    write("metrics/vae_history.csv", "epoch,train/loss,val/loss\n1,160,161\n2,150,152\n3,146,149\n")
    metrics(-144.0, elbo_se=0.4, fresh=2, kl=6.5)
    picture("changed", "green")
    picture("fresh", "black")
    result = invoke(report.main, "--against", "team/base", "--out", "out")
    assert result.exit_code == 0, result.stderr
    text, comment = Path("out/report.md").read_text(), Path("out/comment.md").read_text()
    for row in (
        r"vae.test.elbo +\| -140 +\| -144 +\| 4 +\| 1.63\d+ \| unpaired \| \*\*worse\*\*",
        r"beta +\| 1 +\| 4 +\| 3 ",
        r"vae.test.elbo +\| -140 +\| -144 +\| -4 ",
        r"vae.test.gone +\| 1.5 +\| - +\| - ",
        r"vae.test.fresh +\| - +\| 2 +\| - ",
    ):
        assert re.search(rf"^\| {row}", text, re.MULTILINE), row
        assert re.search(rf"^\| {row}", comment, re.MULTILINE), row
    assert "vae.test.kl" not in text
    assert "![" not in comment
    links = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert links == [
        "loss.png",
        *(f"{side}_metrics_figures_changed.png" for side in ("old", "new")),
        "new_metrics_figures_fresh.png",
    ]
    assert sorted(path.name for path in Path("out").glob("*.png")) == sorted(links)
    colors = [Image.open(f"out/{link}").getpixel((5, 5)) for link in links[1:]]
    assert colors == [(255, 0, 0), (0, 128, 0), (0, 0, 0)]
    drawn = np.asarray(Image.open("out/loss.png").convert("RGB")).reshape(-1, 3)
    for line in ((0x94, 0x5D, 0xD6), (0x13, 0xAD, 0xC7)):  # dvc's colours of the two revisions
        assert (np.abs(drawn.astype(int) - line).max(-1) < 8).sum() > 50


def test_the_report_says_that_nothing_changed(repo: Path) -> None:
    assert invoke(report.main, "--against", "team/base", "--out", "out").exit_code == 0
    text = Path("out/report.md").read_text()
    for sentence in ("No metric got worse", "No param changed.", "No metric changed.", "No plot or figure changed."):
        assert sentence in text
    assert sorted(os.listdir("out")) == ["comment.md", "report.md"]


def test_other_data_are_not_compared(repo: Path) -> None:
    write("metrics/data.json", {"name": "blobs", "train": {"sha256": "bb"}})
    result = invoke(gate.main, "--against", "team/base")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "error: data.train.sha256 must be the same on both sides: aa at team/base, bb here; nothing is compared"
    ]


@pytest.mark.parametrize("command", [gate.main, report.main])
def test_a_missing_revision_is_one_line(repo: Path, command: Any) -> None:
    result = invoke(command, "--against", "nowhere")
    assert (result.exit_code, result.stderr) == (2, "error: dvc metrics diff: unknown Git revision 'nowhere'\n")


@pytest.mark.parametrize("against", ["", "workspace", "--all"])
def test_the_workspace_is_not_compared_with_itself(repo: Path, against: str) -> None:
    result = invoke(gate.main, f"--against={against}")
    assert (result.exit_code, result.stderr) == (2, f"error: {against!r} is not a revision to compare with\n")


def test_without_dvc_one_line_says_so(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: None)
    result = invoke(report.main, "--against", "team/base")
    assert (result.exit_code, result.stderr) == (2, "error: no dvc in PATH; run `make env` and activate .venv\n")


def test_dvc_runs_without_the_variables_of_an_outer_dvc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", "elsewhere")
    monkeypatch.setenv("MLFLOW_RUN_ID", "another")
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: "/usr/bin/env")
    names = {line.partition("=")[0] for line in gate.dvc().splitlines()}
    assert "PATH" in names
    assert not any(name.startswith(("DVC_", "MLFLOW_")) for name in names)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (("better: higher", "better: up"), "metrics.vae.test.elbo.better: 'up' is not allowed; allowed is 'higher' or 'lower'"),
        (("tolerance: 0.5", "tolerance: -1"), "metrics.vae.test.elbo.tolerance: -1 is not allowed"),
        (("tolerance: 0.5", "tolerance: .nan"), "metrics.vae.test.elbo.tolerance: nan is not allowed"),
        ((", tolerance: 0.5", ""), "metrics.vae.test.elbo.tolerance: missing"),
        (("optional", "maybe"), "metrics.vae.samples.fcd.maybe: unknown key"),
        (("same", "equal"), "same: missing"),
    ],
)
def test_a_wrong_gate_is_one_line(tmp_path: Path, broken: tuple[str, str], says: str) -> None:
    (tmp_path / "gate.yaml").write_text(RULES.replace(*broken))
    with pytest.raises(ParamsError, match=re.escape(says)):
        load_yaml(tmp_path / "gate.yaml", Gate)


def test_the_shipped_gate_names_what_is_measured() -> None:
    for name in load_yaml(ROOT / "gate.yaml", Gate).metrics:
        model, section, *keys = name.split(".")
        assert model in MODELS
        assert section in METRICS
        assert keys
