"""The report of what changed, against a real revision."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.reporting import report
from pipeline.reporting.gate import Rule, change_table, changes
from pipeline.reporting.report import claim_changes, curve, details, left_out, param_changes, pictures
from pipeline.reporting.revision import Markdown, metrics, table
from pipeline.storage import md5
from tests.reporting.revisions import commit, invoke, write, write_metrics, write_picture

RULE = Rule(better="higher", tolerance=0.5)
DISTANCE = "sample_quality/prior/frechet_distance"


def report_on(against: str = "team/base") -> tuple[str, str]:
    """Return comment.md and report.md."""
    result = invoke("report", "--against", against, "--out", "out")
    assert result.exit_code == 0, result.stderr
    return Path("out/comment.md").read_text(), Path("out/report.md").read_text()


def test_the_comment_shows_what_changed_and_the_report_the_pictures(repository: Path) -> None:
    write("params.yaml", "beta: 4.0\nfresh: '@all'\n")
    write("metrics/vae_history.csv", "epoch,train/loss,val/loss\n1,160,161\n2,150,152\n3,146,149\n")
    write_metrics(-144.0, elbo_se=0.4, fresh=2, kl=6.5, name="<b>")
    write_picture("changed", "green")
    write_picture("fresh", "black")
    comment, text = report_on()
    head, folded = comment.split("<details>")
    assert "**Params**: beta 1 → 4; fresh - → `@all`\n" in head
    assert "**Worse than allowed: vae/test/elbo.** Rules: gate.yaml at team/base." in head
    assert re.search(r"^\| vae/test/elbo +\| -140 +\| -144 +\| ▼\s-4 +\| ≥7.1\sSE +\| 0.5 +\| \*\*worse\*\*", head, re.M)
    assert folded.startswith("<summary>vae: 3 numbers changed</summary>")
    for row in (r"test/elbo +\| -140 +\| -144 +\| -4 ", r"test/gone +\| 1.5 +\| - +\| - ", r"test/fresh +\| - +\| 2 +\| - "):
        assert re.search(rf"^\| {row}", folded, re.MULTILINE), row
    assert "test/name" not in comment  # a text
    assert "test/kl" not in folded  # the same
    assert "![" not in comment
    assert text.startswith(comment)
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
    for line in ((0x94, 0x5D, 0xD6), (0x13, 0xAD, 0xC7)):  # dvc's colors of the two revisions
        assert (np.abs(drawn.astype(int) - line).max(-1) < 8).sum() > 50


def test_the_report_names_what_is_not_measured_here() -> None:
    notes = {"vae/holes/note": (None, "no hull: they need 2 latent dimensions, not 3"), "ae/holes/note": ("gone", None)}
    sides = notes | {"data/note": (None, "of the data"), "vae/test/elbo": (-1.0, -2.0)}
    (line,) = left_out(sides)
    assert re.sub(r"[`\\]", "", line) == "**Left out** of vae/holes: no hull: they need 2 latent dimensions, not 3."


def test_the_report_says_that_nothing_changed(repository: Path) -> None:
    comment, text = report_on()
    said = ["No metric got worse", "No param changed.", "No headline number changed.", "No verdict of a claim changed."]
    assert [sentence for sentence in said if sentence not in comment] == []
    assert "No plot or figure changed." in text
    assert "<details>" not in comment
    assert sorted(os.listdir("out")) == ["comment.md", "report.md"]


def test_numbers_of_another_classifier_are_counted_and_not_shown(repository: Path) -> None:
    write_metrics()
    measured = {"test/elbo": -140.0, "classifier/md5": "aa", DISTANCE: 0.2, "holes/hull/coverage": 0.4}
    write("metrics/vae.json", measured)
    commit("one classifier")
    write("metrics/vae.json", measured | {"test/elbo": -140.1, DISTANCE: 0.9, "holes/hull/coverage": 0.8})
    assert re.search(rf"{DISTANCE} +\| 0.2 +\| 0.9 +\| ▲\s\+0.7 ", report_on("HEAD")[0])
    values = {"test/elbo": -140.1, "classifier/md5": "bb", DISTANCE: 0.9, "holes/hull/coverage": 0.8}
    write("metrics/vae.json", values)
    comment, _ = report_on("HEAD")
    assert re.search(rf"{DISTANCE} +\| 0.2 +\| 0.9 +\| - +\| - +\| - +\| another classifier \|", comment)
    assert "<summary>vae: 1 numbers changed</summary>\n\n2 numbers that another classifier measured are not compared." in comment
    assert "coverage" not in comment


def ledger(verdict: str) -> dict[str, Any]:
    # The comparison model has the weights that the VAE gets later.
    models = {"vae_1": md5("models/vae.safetensors"), "vae_larger_beta_1": hashlib.md5(b"other weights").hexdigest()}
    entry = {"claim": "Smooth?", "verdict": verdict, "estimate": 0.1}
    return {
        "models": models,
        "claims": {"smooth": entry, "holes": entry | {"verdict": "fails"}},
    }


def test_claims_whose_verdict_changed_are_listed(repository: Path) -> None:
    write("models/vae.safetensors", "weights")
    write("metrics/claims.json", ledger("holds"))
    commit("claims")
    assert "No verdict of a claim changed." in report_on("HEAD")[0]
    write("metrics/claims.json", ledger("inconclusive"))
    comment, _ = report_on("HEAD")
    assert re.search(r"^\| smooth +\| `Smooth\?` +\| holds +\| inconclusive \|$", comment, re.MULTILINE)
    assert "| holes" not in comment
    write("models/vae.safetensors", "other weights")
    assert "The claims are of other models than these; `make claims` tests them anew." in report_on("HEAD")[0]


def test_the_report_says_why_there_is_no_verdict(repository: Path) -> None:
    write("metrics/data.json", {"name": "blobs", "train": {"sha256": "bb"}})
    write_metrics(-144.0)
    comment, _ = report_on()
    assert "**No verdict**: data/train/sha256 must be the same on both sides" in comment
    assert re.search(r"^\| vae/test/elbo +\| -140 +\| -144 +\| ▼\s-4 +\| - +\| - +\| +\|$", comment, re.MULTILINE)


def test_a_comment_leaves_out_whole_blocks_that_are_too_long(repository: Path) -> None:
    write_metrics(**{f"metric_{number:04}": number for number in range(1500)})
    write("metrics/vae_train.json", {f"metric_{number:04}": number for number in range(1500)})
    write("metrics/ae.json", {f"test/metric_{number:04}": number for number in range(9)})
    write("metrics/hostile<b>.json", {"a": 1})
    comment, _ = report_on()
    assert len(comment) < 65_536
    assert re.findall("<summary>([^<]*)</summary>", comment) == ["ae: 9 numbers changed", "other files: 1 numbers changed"]
    assert comment.count("<details>") == comment.count("</details>") == 2
    assert comment.count("More numbers changed than fit into a comment.") == 1


@pytest.mark.parametrize(("number", "more"), [(20, ""), (22, "; and 2 more")])
def test_at_most_twenty_params_are_named(monkeypatch: pytest.MonkeyPatch, number: int, more: str) -> None:
    monkeypatch.setattr(report, "params", lambda against: {f"{against}.{n:02}": (n, None) for n in range(number)})
    assert param_changes("v1") == "**Params**: " + "; ".join(f"v1.{n:02} {n} → -" for n in range(20)) + more


@pytest.mark.usefixtures("workspace")
def test_at_most_twenty_claims_are_listed_with_the_statement_of_either_side() -> None:
    sides: dict[str, Any] = {f"claims/claims/c{n:02}/verdict": ("fails", "holds") for n in range(21)}
    sides |= {"claims/claims/c00/claim": ("Old", "New"), "claims/claims/c01/claim": ("Old", None), "vae/verdict": (1, 2)}
    sides |= {"claims/claims/same/verdict": ("fails", "fails"), "claims/claims/c02/estimate": (1, 2)}
    assert claim_changes(sides, "v1").splitlines() == [
        "| claim | statement | v1    | here  |",
        "| ----- | --------- | ----- | ----- |",
        "| c00   | New       | fails | holds |",
        "| c01   | Old       | fails | holds |",
        *(f"| c{n:02}   | -         | fails | holds |" for n in range(2, 20)),
    ]


def test_all_numbers_that_differ_are_told_by_file_and_family() -> None:
    sides = {
        "zoo/a/b": (1, 2.5),
        "data/train/size": (7, None),
        "vae/test/elbo": (-140.0, -141.0),
        "vae/test/kl": (6.5, 6.5),
        "vae/test/name": ("a", "b"),
        "vae/holes/hull/coverage": (0.1, 0.2),
        "vae/time": (None, 3),
        "vae/test/recon": (1.0, 2.0),
        "vae/classifier/md5": ("aa", "bb"),
    } | {f"{file}/n": (1, 2) for file in ("claims", "claims_summary", "summary")}
    vae, data, other = details(sides, "v1")
    assert vae.splitlines() == [
        "<details><summary>vae: 3 numbers changed</summary>",
        "",
        "1 numbers that another classifier measured are not compared.",
        "",
        "**test**",
        "",
        "| metric     | v1   | here | change |",
        "| ---------- | ---- | ---- | ------ |",
        "| test/elbo  | -140 | -141 | -1     |",
        "| test/recon | 1    | 2    | 1      |",
        "",
        "**time**",
        "",
        "| metric | v1 | here | change |",
        "| ------ | -- | ---- | ------ |",
        "| time   | -  | 3    | -      |",
        "",
        "</details>",
    ]
    assert "data: 1 numbers changed" in data
    assert "| train/size | 7  | -    | -      |" in data
    assert "other files: 1 numbers changed" in other
    assert "**a**\n" in other
    assert "| zoo/a/b | 1  | 2.5  | 1.5    |" in other


def points(*revisions: str, y: float = 1.0) -> dict[str, Any]:
    return {"data": {"values": [{"rev": rev, "x": 1, "y": y * number} for number, rev in enumerate(revisions)]}}


def test_a_plot_is_drawn_unless_both_sides_are_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    monkeypatch.setattr(report.vl_convert, "vegalite_to_png", lambda *args, **options: asked.append((args, options)) or b"png")
    assert curve(points("v1", "workspace", y=0)) is None
    drawn = [points("v1", "workspace"), points("workspace"), points("v1", "v2", "workspace", y=0)]
    assert [curve(content) for content in drawn] == [b"png"] * 3
    assert asked == [((content,), {"scale": 2, "allowed_base_urls": []}) for content in drawn]  # without network

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("x" * 300)

    monkeypatch.setattr(report.vl_convert, "vegalite_to_png", refuse)
    assert curve(drawn[0]) is None
    assert capsys.readouterr() == ("", f"note: a plot cannot be drawn ({'x' * 200})\n")


def test_pictures_have_names_fit_for_links_and_what_is_the_same_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def image(side: str, content: str) -> dict[str, Any]:
        path = tmp_path / f"{side} {content}.png"
        path.write_text(content)
        return {"type": "image", "revisions": [side], "url": str(path)}

    plot = {"type": "vega", "content": points("v1", "workspace")}
    same = {"type": "vega", "content": points("v1", "workspace", y=0)}
    long = "é/" * 60
    found = {
        "dvc.yaml::a b": [same, plot],
        "metrics/h.csv": [plot],
        "metrics/h.json": [plot],
        "metrics/h.tsv": [plot],
        "same.png": [image("v1", "a"), image("workspace", "a")],
        "gone.png": [image("v1", "a")],
        f"{long}.png": [image("workspace", "b"), image("v1", "c")],
    }
    monkeypatch.setattr(
        report, "plots", lambda against, folder: found if (against, Path(folder).is_dir()) == ("v1", True) else {}
    )
    monkeypatch.setattr(report, "curve", lambda content: b"drawn" if content is plot["content"] else None)
    cut = f"{long.replace('/', '_')}.png"[-100:]
    gone, both = (
        Markdown("![gone.png, old](old_gone.png)"),
        [Markdown(f"![{cut}, {side}]({side}_{cut})") for side in ("old", "new")],
    )
    assert list(pictures("v1", tmp_path / "out")) == [
        "### `dvc.yaml::a b`\n\n![dvc.yaml_a_b](dvc.yaml_a_b.png)",
        f"### gone.png\n\n{table(('v1', 'here'), [(gone, None)])}",
        f"### `{long}.png`\n\n{table(('v1', 'here'), [both])}",
    ]
    written = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert written == {"dvc.yaml_a_b.png": "drawn", "old_gone.png": "a", f"new_{cut}": "b", f"old_{cut}": "c"}


def test_the_whole_comment(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "params", lambda against: {})
    monkeypatch.setattr(report, "plots", lambda against, folder: {})
    write("metrics/vae.json", {"test/elbo": -140.25, "test/elbo_se": 0.4, "test/kl": 6.5, "holes/note": "no hull"})
    parts = [
        "### Compared with team/base",
        "**No metric got worse than allowed.** Rules: gate.yaml at team/base.",
        "No param changed.",
        change_table(changes(["vae/test/elbo"], {"vae/test/elbo": RULE}, metrics("team/base"), "team/base"), "team/base"),
        "SE: the standard error of the change over the test images. The tolerances also allow for another seed or CPU."
        " 1 headline numbers did not change.",
        "No verdict of a claim changed.",
        "**Left out** of vae/holes: no hull.",
        "<!-- pictures -->",
        *details(metrics("team/base"), "team/base"),
    ]
    comment = "\n\n".join(parts)
    report.write_report("team/base", Path("out"), None)
    assert Path("out/comment.md").read_text() == f"{comment}\n"
    assert Path("out/report.md").read_text() == f"{comment}\n\n## Pictures\n\nNo plot or figure changed.\n"
    for most, last in ((len(comment) + 1, parts[-1]), (len(comment), report.TOO_MANY)):
        monkeypatch.setattr(report, "COMMENT_LENGTH", most)
        report.write_report("team/base", Path("out"), None)
        assert Path("out/comment.md").read_text().endswith(f"<!-- pictures -->\n\n{last}\n")
