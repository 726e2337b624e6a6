"""The report of what changed, against a real revision."""

import os
import re
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.reporting import report
from pipeline.storage import md5
from tests.reporting.revisions import invoke, write, write_metrics, write_picture


def test_the_report_shows_what_changed(repository: Path) -> None:
    write("params.yaml", "beta: 4.0\n")
    write("metrics/vae_history.csv", "epoch,train/loss,val/loss\n1,160,161\n2,150,152\n3,146,149\n")
    write_metrics(-144.0, elbo_se=0.4, fresh=2, kl=6.5)
    write_picture("changed", "green")
    write_picture("fresh", "black")
    result = invoke("report", "--against", "team/base", "--out", "out")
    assert result.exit_code == 0, result.stderr
    text, comment = Path("out/report.md").read_text(), Path("out/comment.md").read_text()
    for row in (
        r"vae/test/elbo +\| -140 +\| -144 +\| 4 +\| 1.63\d+ \| unpaired \| \*\*worse\*\*",
        r"beta +\| 1 +\| 4 +\| 3 ",
        r"vae/test/elbo +\| -140 +\| -144 +\| -4 ",
        r"vae/test/gone +\| 1.5 +\| - +\| - ",
        r"vae/test/fresh +\| - +\| 2 +\| - ",
    ):
        assert re.search(rf"^\| {row}", text, re.MULTILINE), row
        assert re.search(rf"^\| {row}", comment, re.MULTILINE), row
    assert "vae/test/kl" not in text
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
    for line in ((0x94, 0x5D, 0xD6), (0x13, 0xAD, 0xC7)):  # dvc's colors of the two revisions
        assert (np.abs(drawn.astype(int) - line).max(-1) < 8).sum() > 50


def test_the_report_says_that_nothing_changed(repository: Path) -> None:
    assert invoke("report", "--against", "team/base", "--out", "out").exit_code == 0
    text = Path("out/report.md").read_text()
    for sentence in ("No metric got worse", "No param changed.", "No metric changed.", "No plot or figure changed."):
        assert sentence in text
    assert sorted(os.listdir("out")) == ["comment.md", "report.md"]


def test_the_report_says_when_the_claims_are_of_other_models(repository: Path) -> None:
    write("models/vae.safetensors", "weights")
    ledger = {"models": {"vae_1": md5("models/vae.safetensors")}, "claims": {"smooth": {"verdict": "holds"}}}
    write("metrics/claims.json", ledger)
    write("dvc.yaml", Path("dvc.yaml").read_text().replace("metrics/vae.json]", "metrics/vae.json, metrics/claims.json]"))
    for content, expected in (("weights", False), ("other weights", True)):
        write("models/vae.safetensors", content)
        assert invoke("report", "--against", "team/base", "--out", "out").exit_code == 0
        assert ("The claims are of other models" in Path("out/report.md").read_text()) == expected


def test_the_report_says_why_there_is_no_verdict(repository: Path) -> None:
    write("metrics/data.json", {"name": "blobs", "train": {"sha256": "bb"}})
    assert invoke("report", "--against", "team/base", "--out", "out").exit_code == 0
    assert "No verdict: data/train/sha256 must be the same on both sides" in Path("out/report.md").read_text()


def test_a_long_comment_is_cut_between_rows(repository: Path) -> None:
    write_metrics(**{f"metric_{number:04}": number for number in range(1500)})
    assert invoke("report", "--against", "team/base", "--out", "out").exit_code == 0
    comment = Path("out/comment.md").read_text()
    assert len(comment) < 65_536
    assert re.search(r"\|\n\n\(cut here\)\n", comment)
    assert "metric_1499" in Path("out/report.md").read_text()


def test_changes_of_text_have_no_difference() -> None:
    text = report.changes("metric", {"a/b": ("mnist", "digits"), "a/c": (1, 1)}, "v1")
    assert text.splitlines()[2:] == ["| a/b    | mnist | digits | -      |"]
