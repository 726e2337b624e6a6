"""What .ci/comment does with the report of a pull request, with a `gh` that writes down its calls."""

import base64
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

GH = """\
#!/usr/bin/env bash
set -e
echo "$*" >>"$CALLS/calls"
case "$*" in
  "run download"*) [ -d "$CALLS/report" ] && cp -a "$CALLS/report" "${@: -1}" ;;
  *git/blobs*) cat >>"$CALLS/blobs"; echo >>"$CALLS/blobs"; echo "b10b$(wc -l <"$CALLS/blobs")" ;;
  *git/trees*) cat >"$CALLS/tree"; echo 7ree ;;
  *git/commits*) echo c0mm17 ;;
  "api -X PATCH"*) [ -e "$CALLS/branch" ] ;;
  "pr comment"*) cp "${@: -1}" "$CALLS/comment.md" ;;
esac
"""
PNG = b"\x89PNG\r\n\x1a\n"
OLD, NEW = "old_metrics_figures_overview.png", "new_metrics_figures_overview.png"
REPORT = "### Compared\n\n<!-- pictures -->\n\nthe rest"


def post(folder: Path, files: dict[str, bytes | Path] | None) -> tuple[list[str], str]:
    """Return the calls of gh for a report with these files (a path is linked to), and the comment."""
    (folder / "gh").write_text(GH)
    (folder / "gh").chmod(0o755)
    if files is not None:
        (folder / "report").mkdir()
    for name, content in (files or {}).items():
        path = folder / "report" / name
        path.symlink_to(content) if isinstance(content, Path) else path.write_bytes(content)
    names = {"GH_REPO": "me/latent", "NUMBER": "7", "RUN": "42", "CALLS": str(folder), "TMPDIR": str(folder)}
    subprocess.run([ROOT / ".ci/comment"], env=names | {"PATH": f"{folder}:{os.environ['PATH']}"}, check=True)
    comment = folder / "comment.md"
    return (folder / "calls").read_text().splitlines(), comment.read_text() if comment.exists() else ""


@pytest.mark.parametrize("is_there", [True, False])
def test_two_pictures_go_to_the_branch_of_the_pull_request(tmp_path: Path, is_there: bool) -> None:
    if is_there:
        (tmp_path / "branch").touch()
    files = {"comment.md": REPORT.encode(), OLD: PNG + b"old", NEW: PNG + b"new"}
    calls, comment = post(tmp_path, files)
    blobs = [json.loads(line) for line in (tmp_path / "blobs").read_text().splitlines()]
    assert [base64.b64decode(blob["content"]) for blob in blobs] == [PNG + b"old", PNG + b"new"]
    tree = json.loads((tmp_path / "tree").read_text())["tree"]
    assert [(file["path"], file["mode"], file["sha"]) for file in tree] == [
        ("old.png", "100644", "b10b1"),
        ("new.png", "100644", "b10b2"),
    ]
    refs = [call for call in calls if "refs" in call]
    assert "refs/heads/report/7 -f sha=c0mm17 -F force=true" in refs[0]
    assert [("ref=refs/heads/report/7" in call) for call in refs[1:]] == ([] if is_there else [True])
    shown = "![overview, old](https://github.com/me/latent/raw/c0mm17/old.png)"
    assert comment.index("### Compared") < comment.index(shown) < comment.index("the rest")
    assert "<!--" not in comment
    assert comment.endswith("(https://github.com/me/latent/actions/runs/42)\n")
    assert calls[-1].startswith("pr comment 7 --edit-last --create-if-none")


@pytest.mark.parametrize("content", [b"<svg onload=alert(1)>", b"", PNG + b"x" * 2_000_000, Path("/etc/hostname")])
def test_what_is_no_small_png_is_not_shown(tmp_path: Path, content: bytes | Path) -> None:
    calls, comment = post(tmp_path, {"comment.md": REPORT.encode(), NEW: content, "other.png": PNG})
    assert not [call for call in calls if call.startswith("api")]
    assert "![" not in comment
    assert "the rest" in comment


def test_the_text_is_short_and_notifies_nobody(tmp_path: Path) -> None:
    text = b"@everyone " + "\u00e9\ud7ff".encode() * 30_000 + b"\xff"
    _, comment = post(tmp_path, {"comment.md": text})
    assert "@everyone" not in comment
    assert "@\u200beveryone" in comment
    assert len(comment) < 65_536


@pytest.mark.parametrize("files", [None, {}, {"comment.md": Path("/etc/passwd")}])
def test_a_run_without_a_report_posts_nothing(tmp_path: Path, files: dict[str, bytes | Path] | None) -> None:
    calls, comment = post(tmp_path, files)
    assert (len(calls), comment) == (1, "")
