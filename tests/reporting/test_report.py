"""The report of what changed, against a real revision."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.reporting.report import left_out
from pipeline.storage import md5
from tests.reporting.revisions import commit, invoke, write, write_metrics, write_picture

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
