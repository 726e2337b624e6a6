"""The gate's decisions, on hand-written values and between real revisions."""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import ParamsError
from pipeline.params import load_yaml
from pipeline.reporting import gate
from pipeline.reporting.gate import Change, Gate, Rule, change_table, changes, check, decision, difference_error, same_classifier
from pipeline.reporting.revision import ComparisonError
from pipeline.stats import standard_error
from pipeline.storage import flatten
from tests.conftest import ROOT
from tests.reporting.revisions import ELBO, RULES, commit, invoke, run, write, write_images, write_metrics

SAME = {"data/name": ("blobs", "blobs"), "data/train/sha256": ("aa", "aa")}


def decide(sides: dict[str, tuple[Any, Any]], **rule: Any) -> Change:
    gate = Gate(same=list(SAME), metrics={"vae/test/elbo": Rule(**{"better": "higher", "tolerance": 0.5} | rule)})
    check(gate, SAME | sides, "main")
    (change,) = changes(gate.metrics, gate.metrics, SAME | sides, "main")
    return change


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize(
    ("old", "new", "rule", "verdict"),
    [
        (-140.0, -140.5, {}, "same"),  # just what is tolerated
        (-140.0, -140.500001, {}, "worse"),
        (-140.0, -139.5, {}, "same"),
        (-140.0, -139.4, {}, "better"),
        (0.1, 0.4, {"better": "lower", "tolerance": 0.3}, "same"),  # 0.4 - 0.1 > 0.3 in binary
        (2, 1, {"tolerance": 0.0}, "worse"),
        (1, 2, {"tolerance": 0.0}, "better"),
        (1, 1, {"tolerance": 0.0}, "same"),
        (1.0, 9.0, {"better": "lower"}, "worse"),
        (9.0, 1.0, {"better": "lower"}, "better"),
        (100.0, 100.0 + 0.9e-7, {"better": "lower", "tolerance": 0.0}, "same"),  # rounding, relative to the value
        (100.0, 100.0 + 1.1e-7, {"better": "lower", "tolerance": 0.0}, "worse"),
    ],
)
def test_a_change_is_named_beyond_the_tolerance(old: float, new: float, rule: dict[str, Any], verdict: str) -> None:
    assert decide({"vae/test/elbo": (old, new)}, **rule).verdict == verdict


@pytest.mark.usefixtures("workspace")
def test_a_standard_error_of_one_side_is_no_interval() -> None:
    assert decide({"vae/test/elbo": (1.0, 1.0), "vae/test/elbo_se": (0.1, None)}).interval == "none"


@pytest.mark.usefixtures("workspace")
def test_unpaired_standard_errors_are_shown_and_not_allowed_on_top() -> None:
    found = decide({"vae/test/elbo": (1.0, 0.0), "vae/test/elbo_se": (0.3, 0.4)})
    assert (found.interval, found.error, found.allowed, found.verdict) == ("unpaired", pytest.approx(0.5), 0.5, "worse")


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize("new", [None, math.nan, math.inf, "much", True, 10**400])
def test_a_metric_of_the_gate_must_be_a_number(new: Any) -> None:
    with pytest.raises(ComparisonError, match=r"vae/test/elbo is 1\.0 at main, .* here"):
        decide({"vae/test/elbo": (1.0, new)})


@pytest.mark.usefixtures("workspace")
def test_an_optional_metric_may_be_absent_but_not_broken() -> None:
    gate = Gate(same=[], metrics={"vae/test/elbo": Rule(better="higher", tolerance=0.5, optional=True)})
    for sides in ({"vae/test/elbo": (None, 1.0)}, {}):
        check(gate, sides, "main")
        assert changes(gate.metrics, gate.metrics, sides, "main") == []
    with pytest.raises(ComparisonError, match="nan"):
        check(gate, {"vae/test/elbo": (1.0, math.nan)}, "main")


def test_all_metrics_that_are_no_number_are_named() -> None:
    rule = Rule(better="lower", tolerance=0)
    gate = Gate(same=[], metrics={"a/b": rule, "a/c": rule.model_copy(update={"optional": True}), "a/d": rule, "a/e": rule})
    said = "a/b is None at v1, None here; a/d is 1 at v1, x here: a metric of the gate must be a number, or absent and optional"
    with pytest.raises(ComparisonError, match=f"^{said}$"):
        check(gate, {"a/d": (1, "x"), "a/e": (sys.float_info.max, -1)}, "v1")
    with pytest.raises(
        ComparisonError, match=r"^a/b must be the same on both sides: None at v1, None here; nothing is compared$"
    ):
        check(Gate(same=["a/b"], metrics=gate.metrics), {}, "v1")


def test_values_of_images_are_paired_only_where_they_average_to_the_metric() -> None:
    old = pd.DataFrame({"kl": [1.0, 2.0, 6.0], "name": ["a", "b", "c"], "gone": [1.0, 2.0, 3.0]})
    new = pd.DataFrame({"kl": [2.0, 4.0, 6.0], "name": ["a", "b", "c"]})
    sides = {"vae/test/kl": (3.0, 4.0), "vae/test/kl_se": (0.6, 0.8), "vae/test/gone": (2.0, 2.0), "vae/test/name": (1.0, 1.0)}
    assert difference_error("vae/test/kl", sides, (old, new)) == (pytest.approx(1 / math.sqrt(3)), "paired")
    assert difference_error("vae/test/kl", sides, None) == (pytest.approx(1.0), "unpaired")
    for name in ("gone", "name"):
        assert difference_error(f"vae/test/{name}", sides, (old, new)) == (0.0, "none")
    for factor, interval in ((1 + 9e-6, "paired"), (1 + 12e-6, "unpaired")):  # six significant digits
        assert difference_error("vae/test/kl", sides | {"vae/test/kl": (3.0, 4.0 * factor)}, (old, new))[1] == interval
        assert difference_error("vae/test/kl", sides | {"vae/test/kl": (3.0 / factor, 4.0)}, (old, new))[1] == interval


def test_values_of_images_are_read_once_for_each_model(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, str]] = []
    monkeypatch.setattr(gate, "per_image", lambda *asked: read.append(asked))
    sides = {
        "vae/test/elbo": (1.0, 2),
        "vae/a": (1, 1),
        "vae/text": (1, "x"),
        "vae/new": (None, 1),
        "ae/a": (1, 2),
        "b/c": (None, 1),
    }
    assert [change.metric for change in changes([*sides, "no/no"], {}, sides, "v1")] == ["vae/test/elbo", "vae/a", "ae/a"]
    assert read == [("vae", "v1"), ("ae", "v1")]


def test_the_table_has_the_changes_and_a_sentence_names_what_got_worse() -> None:
    lower = Rule(better="lower", tolerance=0.5)
    found = [Change("a/b", 1.0, 3.0, 0.1, "paired", lower), Change("a/c", 1.0, 0.9, 0.1, "unpaired", lower)]
    found += [Change("a/d", 2.0, 2.0, 0.1, "paired"), Change("a/e", 3.0, 9.0, 0.0, "none", lower, comparable=False)]
    rows = [[cell.strip(" ") for cell in line.split("|")[1:-1]] for line in change_table(found, "v1").splitlines()]
    assert rows[:1] + rows[2:] == [
        ["metric", "v1", "here", "change", "in SE", "allowed", "verdict"],
        ["a/b", "1", "3", "▲\u00a0+2", "20.0\u00a0SE", "0.7", "**worse**"],
        ["a/c", "1", "0.9", "▼\u00a0-0.1", "≥1.0\u00a0SE", "0.5", "same"],
        ["a/d", "2", "2", "=", "-", "-", ""],
        ["a/e", "3", "9", "-", "-", "0.5", "another classifier"],
    ]
    assert decision(found) == "Worse than allowed: a/b. What another classifier measured is not compared."
    assert decision([found[0]] * 2) == "Worse than allowed: a/b, a/b."
    assert decision(found[1:3]) == "No metric got worse than allowed."


@pytest.mark.parametrize(
    ("name", "needs_one"),
    [
        ("vae/sample_quality/prior/frechet_distance", True),
        ("vae/holes/hull/off_manifold", True),
        ("vae/interpolation/cross_class/entropy", True),
        ("vae/interpolation/cross_class/jump_share", False),
        ("vae/test/elbo", False),
        ("comparison/vae_1/holes/hull/coverage", True),
    ],
)
def test_a_distance_of_another_classifier_is_not_compared(name: str, needs_one: bool) -> None:
    other = {"vae/classifier/md5": ("aa", "bb"), "comparison/vae_1/classifier/md5": ("aa", "bb")}
    assert same_classifier(name, other) != needs_one
    assert same_classifier(name, dict.fromkeys(other, ("aa", "aa")))
    assert same_classifier(name, {})


@pytest.mark.parametrize(("elbo", "code", "verdict"), [(-144.0, 1, "worse"), (-140.4, 0, "same"), (-137.0, 0, "better")])
def test_the_gate_decides_between_commits(repository: Path, elbo: float, code: int, verdict: str) -> None:
    run("git", "switch", "--quiet", "--create", "change")
    write_metrics(elbo, elbo_se=0.4)
    commit("change")
    result = invoke("gate", "--against", "team/base")
    assert result.exit_code == code
    row = next(line for line in result.stdout.splitlines() if line.startswith("| vae/test/elbo"))
    assert verdict in row
    assert f"≥{abs(elbo + 140) / (0.4 * math.sqrt(2)):.1f}\u00a0SE" in row
    assert ("Worse than allowed: vae/test/elbo." in result.stdout) == bool(code)


def test_two_standard_errors_of_paired_values_are_allowed_on_top(repository: Path) -> None:
    noise = np.random.default_rng(1).normal(0, 5, len(ELBO))
    lost = ELBO - 0.7 + noise - noise.mean()
    write_metrics(float(lost.mean()), elbo_se=0.4)
    assert invoke("gate", "--against", "team/base").exit_code == 1
    write_images(lost)
    result = invoke("gate", "--against", "team/base")
    assert result.exit_code == 0
    assert f"{0.5 + 2 * standard_error(noise):.6g}" in result.stdout
    assert "≥" not in result.stdout
    write_images(lost + 1)  # their mean is not the metric
    assert "| ≥" in invoke("gate", "--against", "team/base").stdout


def test_other_data_are_not_compared(repository: Path) -> None:
    write("metrics/data.json", {"name": "blobs", "train": {"sha256": "bb"}})
    result = invoke("gate", "--against", "team/base")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "error: data/train/sha256 must be the same on both sides: aa at team/base, bb here; nothing is compared"
    ]


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (("better: higher", "better: up"), "metrics.vae/test/elbo.better: 'up' is not allowed; allowed is 'higher' or 'lower'"),
        (("tolerance: 0.5", "tolerance: -1"), "metrics.vae/test/elbo.tolerance: -1 is not allowed"),
        (("tolerance: 0.5", "tolerance: .nan"), "metrics.vae/test/elbo.tolerance: nan is not allowed"),
        ((", tolerance: 0.5", ""), "metrics.vae/test/elbo.tolerance: missing"),
        (("optional", "maybe"), "metrics.vae/sample_quality/frechet_distance.maybe: unknown key"),
        (("same", "equal"), "same: missing"),
    ],
)
def test_a_wrong_gate_is_one_line(tmp_path: Path, broken: tuple[str, str], says: str) -> None:
    (tmp_path / "gate.yaml").write_text(RULES.replace(*broken))
    with pytest.raises(ParamsError, match=re.escape(says)):
        load_yaml(tmp_path / "gate.yaml", Gate)


def test_the_shipped_gate_names_what_is_measured() -> None:
    gate = load_yaml(ROOT / "gate.yaml", Gate)
    names = [*gate.same, *gate.metrics]
    files = {stem: json.loads((ROOT / "metrics" / f"{stem}.json").read_text()) for stem in {name.split("/")[0] for name in names}}
    assert set(names) <= {f"{stem}/{key}" for stem, values in files.items() for key in flatten(values)}


def test_rules_are_those_of_the_other_revision_unless_named(repository: Path) -> None:
    write_metrics(-144.0, elbo_se=0.4)
    write("gate.yaml", RULES.replace("0.5", "100"))
    result = invoke("gate", "--against", "team/base")
    assert result.exit_code == 1
    assert result.stdout.endswith("Rules: gate.yaml at team/base, which differs from the one here.\n")
    result = invoke("gate", "--against", "team/base", "--rules", "gate.yaml")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "Rules: gate.yaml.")
    assert invoke("report", "--against", "team/base", "--out", "out").exit_code == 0
    assert "Rules: gate.yaml at team/base, which differs from the one here." in Path("out/comment.md").read_text()
    Path("gate.yaml").unlink()
    assert invoke("gate", "--against", "team/base").exit_code == 1


def test_rules_are_those_here_where_the_other_revision_has_none(repository: Path) -> None:
    run("git", "rm", "--quiet", "--cached", "gate.yaml")
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "-m", "without")
    write_metrics(-144.0, elbo_se=0.4)
    result = invoke("gate", "--against", "HEAD")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (1, "Rules: gate.yaml here, as HEAD has none.")


def test_wrong_rules_of_the_other_revision_are_one_line(repository: Path) -> None:
    write("gate.yaml", RULES.replace("higher", "up"))
    commit("wrong")
    write("gate.yaml", RULES)
    result = invoke("gate", "--against", "HEAD")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: gate.yaml at HEAD: metrics.vae/test/elbo.better: 'up' is not allowed")
    assert result.stderr.endswith("; `--rules gate.yaml` takes the one here\n")
    assert invoke("gate", "--against", "HEAD", "--rules", "gate.yaml").exit_code == 0
    result = invoke("gate", "--against", "HEAD", "--rules", "nowhere.yaml")
    assert (result.exit_code, result.stderr.startswith("error: nowhere.yaml: ")) == (2, True)


@pytest.mark.parametrize("name", ["elbo", "../../etc/passwd", "/etc/passwd", "a/b c", "'<b>/x'", "'vae/test/elbo|x'"])
def test_a_name_in_the_gate_is_that_of_a_metric(tmp_path: Path, name: str) -> None:
    (tmp_path / "gate.yaml").write_text(RULES.replace("vae/test/elbo", name))
    with pytest.raises(ParamsError, match="String should match pattern"):
        load_yaml(tmp_path / "gate.yaml", Gate)
