"""Reading two revisions: metrics through git, the rest through dvc."""

import errno
import math
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

from pipeline.reporting import revision
from pipeline.reporting.revision import ComparisonError, table
from pipeline.storage import md5
from tests.reporting.revisions import ELBO, commit, invoke, run, write, write_images, write_metrics

LOCK = """
schema: '2.0'
stages:
  evaluate@vae:
    cmd: python -m stages.evaluate vae
    outs: [{{path: results/vae_images.parquet, hash: md5, md5: {md5}}}]
"""


def test_flat_and_nested_metrics_have_the_same_names(repository: Path) -> None:
    write("metrics/vae.json", {"test": {"elbo": -141.0}})  # nested, as version 0.2.0 wrote them
    found = revision.metrics("team/base")
    assert found["vae/test/elbo"] == (-140.0, -141.0)
    assert found["vae/test/kl"] == (6.5, None)
    assert found["data/train/sha256"] == ("aa", "aa")
    commit("nested")
    write_metrics(-142.0)
    assert revision.metrics("HEAD")["vae/test/elbo"] == (-141.0, -142.0)


@pytest.mark.parametrize("content", ['{"test/elbo": ', "[1]", '{"confidence_0.8": 1}', "[" * 9000])
def test_a_file_that_the_revision_has_in_another_form_is_left_out(
    repository: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write("metrics/vae.json", content)
    write("metrics/ae.json", {"test/recon": 128.0})
    commit("another form")
    write_metrics(-140.0)
    found = revision.metrics("HEAD")
    assert (found["vae/test/elbo"], found["ae/test/recon"]) == ((None, -140.0), (128.0, 128.0))
    assert capsys.readouterr().err.startswith("note: metrics/vae.json of HEAD is left out (")


def test_metrics_need_not_be_known_to_dvc(repository: Path) -> None:
    write("dvc.yaml", "params: [params.yaml]\n")
    write_metrics(-141.0)
    assert revision.metrics("team/base")["vae/test/elbo"] == (-140.0, -141.0)


def test_params_that_differ_are_named_by_dvc(repository: Path) -> None:
    write("params.yaml", "beta: 1.0\ntrain: {batch_size: 64}\n")
    assert revision.params("team/base") == {"train.batch_size": (None, 64)}


def test_values_of_other_images_are_not_paired(repository: Path) -> None:
    assert revision.per_image("vae", "team/base") is None
    write_images(ELBO, labels=np.ones(len(ELBO), np.int64))
    assert revision.per_image("vae", "team/base") is None
    write_images(ELBO + 1)
    pair = revision.per_image("vae", "team/base")
    assert pair is not None
    np.testing.assert_array_equal(pair[1]["elbo"], pair[0]["elbo"] + 1)


def test_values_that_a_revision_does_not_have_are_not_paired(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("git", "rm", "--quiet", "--cached", "results/vae_images.parquet.dvc")
    run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "without")
    write_images(ELBO)
    assert revision.per_image("vae", "HEAD") is None
    assert capsys.readouterr().err == "note: DVC has no results/vae_images.parquet at HEAD; nothing is paired\n"


@pytest.mark.parametrize("command", ["gate", "report"])
def test_an_unknown_revision_is_one_line(repository: Path, command: str) -> None:
    result = invoke(command, "--against", "nowhere")
    assert (result.exit_code, result.stderr) == (2, f"error: 'nowhere' {revision.UNKNOWN}\n")


@pytest.mark.parametrize("against", ["", "workspace", "--all", "HEAD:metrics"])
@pytest.mark.usefixtures("repository")
def test_what_is_no_commit_is_not_compared_with(against: str) -> None:
    with pytest.raises(ComparisonError, match=f"{against!r} is no revision"):
        revision.metrics(against)


@pytest.mark.usefixtures("repository")
def test_a_missing_dvc_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: None)
    result = invoke("report", "--against", "team/base")
    assert (result.exit_code, result.stderr) == (2, "error: no dvc in PATH; run `make env` and activate .venv\n")


def test_dvc_runs_without_the_variables_of_an_outer_dvc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", "elsewhere")
    monkeypatch.setenv("MLFLOW_RUN_ID", "another")
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: "/usr/bin/env")
    names = {line.partition("=")[0] for line in revision.dvc().splitlines()}
    assert "PATH" in names
    assert [name for name in names if name.startswith(("DVC_", "MLFLOW_"))] == ["DVC_SITE_CACHE_DIR"]


def test_the_dvc_beside_python_is_started_else_that_of_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for folder in ("beside", "path"):
        program = tmp_path / folder / "dvc"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\necho {folder} "$@"\necho hint >&2\n')
        program.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(tmp_path / "beside/python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert revision.dvc("params", "diff x") == "beside params diff x\n"
    assert capfd.readouterr() == ("", "hint\n")
    (tmp_path / "beside/dvc").rename(tmp_path / "beside/other")
    assert revision.dvc() == "path\n"
    monkeypatch.delenv("PATH")
    with pytest.raises(ComparisonError, match=r"^no dvc in PATH; run `make env` and activate \.venv$"):
        revision.dvc()
    (tmp_path / "beside/other").rename(tmp_path / "beside/dvc")
    assert revision.dvc() == "beside\n"


def test_params_and_plots_are_what_dvc_prints_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, answers = [], ['{"params.yaml": {"b": {"old": 1, "new": 2}, "a": {"new": 3}}, "a.yaml": {"c": {"old": 4}}}']
    answers += ['{"data": {"b": [1], "a": []}}', "{}"]
    monkeypatch.setattr(revision, "dvc", lambda *arguments: calls.append(arguments) or answers.pop(0))
    assert list(revision.params("v1").items()) == [("a", (None, 3)), ("b", (1, 2)), ("c", (4, None))]
    assert list(revision.plots("v1", "folder").items()) == [("a", []), ("b", [1])]
    assert revision.plots("v1", "folder") == {}
    assert calls == [("params", "diff", "v1", "--json"), *[("plots", "diff", "v1", "--json", "--out", "folder")] * 2]


def test_metrics_are_in_the_order_of_the_files_here(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("metrics/zz.json", "[1]")
    write("metrics/note.txt", "no metrics")
    write("metrics/sub/deep.json", {"a": 1})
    commit("more")
    Path("metrics/zz.json").unlink()
    write("metrics/vae.json", {"test/kl": 6.5, "fresh": None, "test/elbo": -140.0})
    write("metrics/ae.json", {"a": {"b": 1}})
    assert list(revision.metrics("HEAD").items()) == [
        ("ae/a/b", (None, 1)),
        ("data/name", ("blobs", "blobs")),
        ("data/train/sha256", ("aa", "aa")),
        ("vae/test/kl", (6.5, 6.5)),
        ("vae/fresh", (None, None)),
        ("vae/test/elbo", (-140.0, -140.0)),
        ("vae/test/elbo_se", (0.4, None)),
        ("vae/test/gone", (1.5, None)),
    ]
    assert capsys.readouterr().err == "note: metrics/zz.json of HEAD is left out ('list' object has no attribute 'items')\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (-1234567.8, "-1.23457e+06"),
        (True, "True"),
        ("", ""),
        (" a\tb\n\nc ", "a b c"),
        ("a" * 200, "a" * 200),
        ("a" * 201, f"`{'a' * 200} ...`"),
        ("v1|x", r"v1\|x"),
        ("a?|b\\|c", r"`a?\|b\|c`"),
        ("a`b", "`` a`b ``"),
        ("a``b`c", "``` a``b`c ```"),
        ("abcdef", "abcdef"),
        ("abcdef1", "`abcdef1`"),  # GitHub would take it for a commit
    ],
)
def test_a_value_is_one_line_of_markdown(value: object, shown: str) -> None:
    assert revision.markdown(value) == shown


def test_a_sentence_keeps_its_marks_outside_of_code() -> None:
    assert revision.prose("see  <b>, a.b: then\n@all.; end") == "see `<b>`, a.b: then `@all`.; end"
    assert revision.prose("ab " * 999) == ("ab " * 999)[:1000]


def test_what_counts_as_a_number() -> None:
    largest = sys.float_info.max
    assert [
        value
        for value in (0, -1.5, largest, -largest, int(largest), True, "1", None, math.inf, math.nan, 10**309)
        if revision.is_number(value)
    ] == [0, -1.5, largest, -largest, int(largest)]


def test_values_without_labels_are_paired_by_their_number(repository: Path) -> None:
    values = pd.DataFrame({"elbo": ELBO})
    for rows, is_paired in ((400, True), (399, False)):
        values[:rows].to_parquet("results/vae_images.parquet")
        assert (revision.per_image("vae", "team/base") is not None) == is_paired


def test_a_metric_without_change_is_on_both_sides(repository: Path) -> None:
    write_metrics(elbo_se=0.4, gone=1.5, kl=6.5)
    assert revision.metrics("team/base")["vae/test/kl"] == (6.5, 6.5)


def test_columns_of_a_table_are_aligned() -> None:
    text = table(("metric", "v1", "here"), [("vae/test/elbo", -138.9, 2), ("short", None, True)])
    assert text.splitlines() == [
        "| metric        | v1     | here |",
        "| ------------- | ------ | ---- |",
        "| vae/test/elbo | -138.9 | 2    |",
        "| short         | -      | True |",
    ]


def test_bars_and_newlines_in_a_cell_are_escaped() -> None:
    assert table(["a"], [["one|two\nthree"]]).splitlines()[2] == r"| one\|two three |"
    assert revision.markdown("<b>\\|c") == r"`<b>\|c`"  # as code, in which a backslash of its own would free the bar


def test_floats_have_six_digits() -> None:
    assert table(["a"], [[1 / 3]]).splitlines()[2] == "| 0.333333 |"


def test_a_table_without_rows_is_its_head() -> None:
    assert table(["a", "bb"], []).splitlines() == ["| a | bb |", "| - | -- |"]


HOSTILE = ["<img src=x>", "&lt;", "<!--", "@everyone", "user@host.org", "a|b", "a\\|b", "\\", "[x](http://y)", "**b**", "_x_"]
HOSTILE += ["~~x~~", "a`b`c", "`", "www.evil.com", "http://evil.com", "#1", "GH-1", "deadbee", "$x$", "a\n\n# b", "\x1b[31m"]
HOSTILE += ["\u202e", "x" * 999]


@pytest.mark.parametrize("value", HOSTILE)
def test_text_of_a_file_is_only_text_in_a_table(value: str) -> None:
    lines = table(["a", "b"], [[value, 1]]).splitlines()
    assert len(lines) == 3
    parser = MarkdownIt("gfm-like")
    for text in (lines[2], revision.prose(value)):
        shown = parser.render("\n".join([*lines[:2], text]) if text is lines[2] else text)
        tags = set(re.findall(r"<(\w+)", shown)) - {"table", "thead", "tbody", "tr", "th", "td", "p", "code"}
        assert not tags, shown
        outside = re.sub(r"<code>.*?</code>", "", shown)
        assert "@" not in outside
        assert "#" not in outside
    assert len(lines[2]) < 300
    assert parser.render("\n".join(lines)).count("<td") == 2


def test_damaged_values_of_images_are_one_line(repository: Path) -> None:
    write_images(ELBO)
    write("dvc.lock", LOCK.format(md5="ab" * 16))
    result = invoke("gate", "--against", "team/base")
    said = "error: results/vae_images.parquet: not the file of dvc.lock; delete it and run `dvc repro`\n"
    assert (result.exit_code, result.stderr) == (3, said)
    assert invoke("report", "--against", "team/base", "--out", "out").exit_code == 3
    write("results/vae_images.parquet", "PAR1 not really")
    write("dvc.lock", LOCK.format(md5=md5("results/vae_images.parquet")))
    result = invoke("gate", "--against", "team/base")
    assert result.exit_code == 3
    assert result.stderr.startswith("error: results/vae_images.parquet: not values of images, at team/base or here")
    write("dvc.lock", "<<<<<<< HEAD\n")
    assert invoke("gate", "--against", "team/base").stderr.startswith(
        "error: dvc.lock: a merge left its marks in it; `git checkout"
    )


def test_damaged_values_in_the_cache_are_one_line(repository: Path) -> None:
    write_images(ELBO)
    (stored,) = (path for path in Path(".dvc/cache/files/md5").rglob("*") if path.is_file())
    stored.chmod(0o600)
    stored.write_bytes(stored.read_bytes()[:-9] + b"damaged!!")
    result = invoke("gate", "--against", "team/base")
    assert result.exit_code == 3
    assert result.stderr.startswith(f"error: {stored.absolute()}: damaged, not the results/vae_images.parquet of team/base")


def test_column_of_text_is_not_paired(repository: Path) -> None:
    write_images(ELBO)
    pd.DataFrame({"label": np.arange(len(ELBO)) % 10, "elbo": ["x"] * len(ELBO)}).to_parquet("results/vae_images.parquet")
    write_metrics(-140.1, elbo_se=0.4)
    assert "| ≥" in invoke("gate", "--against", "team/base").stdout


@pytest.mark.parametrize("content", ['{"test/elbo": -1', "[1]", '"x"', "[" * 9000, '{"test/elbo": NaN}', "\udcff"])
def test_damaged_metrics_file_is_one_line(repository: Path, content: str) -> None:
    Path("metrics/vae.json").write_bytes(content.encode(errors="surrogateescape"))
    for command in ("gate", "report"):
        result = invoke(command, "--against", "team/base")
        assert result.exit_code == 3
        assert result.stderr.splitlines()[-1].startswith("error: metrics/vae.json: ")


def test_a_metrics_file_that_was_edited_is_one_line(repository: Path) -> None:
    write("dvc.lock", LOCK.replace("results/vae_images.parquet", "metrics/vae.json").format(md5=md5("metrics/vae.json")))
    assert invoke("gate", "--against", "team/base").exit_code == 0
    write_metrics(-120.0)
    result = invoke("gate", "--against", "team/base")
    said = "error: metrics/vae.json: not the file of dvc.lock; delete it and run `dvc repro`\n"
    assert (result.exit_code, result.stderr) == (3, said)


@pytest.mark.parametrize("content", ["true", '"x"', "null"])
def test_metric_that_is_no_number_has_no_verdict(repository: Path, content: str) -> None:
    write("metrics/vae.json", f'{{"test/elbo": {content}}}')
    assert invoke("gate", "--against", "team/base").exit_code == 2
    result = invoke("report", "--against", "team/base", "--out", "out")
    assert result.exit_code == 0, result.stderr


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EROFS])
def test_dvc_without_space_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int) -> None:
    program = tmp_path / "dvc"
    text = f"ERROR: unexpected error - [Errno {number}] {os.strerror(number)}: '/tmp/full/file'"
    program.write_text(f'#!/bin/sh\necho "{text}" >&2\nexit 255\n')
    program.chmod(0o700)
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: str(program))
    result = invoke("report", "--against", "team/base")
    said = f"error: /tmp/full/file: {os.strerror(number)}; make room or make it writable, then run again\n"
    assert (result.exit_code, result.stderr) == (74, said)


@pytest.mark.usefixtures("repository")
def test_dvc_whose_database_has_no_space_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "dvc"
    program.write_text('#!/bin/sh\necho "ERROR: unexpected error - disk I/O error" >&2\nexit 255\n')
    program.chmod(0o700)
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: str(program))
    result = invoke("report", "--against", "team/base")
    assert (result.exit_code, result.stderr) == (
        74,
        "error: a file of dvc params: Input/output error; make room or make it writable, then run again\n",
    )


@pytest.mark.parametrize(("stderr", "said"), [("WARNING: old\nERROR: no such thing\nmore", "no such thing"), ("", "exit code 3")])
def test_dvcs_own_words_are_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stderr: str, said: str) -> None:
    program = tmp_path / "dvc"
    program.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{stderr}\nEND\nexit 3\n")
    program.chmod(0o700)
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: str(program))
    with pytest.raises(ComparisonError, match=f"^dvc params diff: {said}$"):
        revision.dvc("params", "diff", "HEAD")


def test_dvc_keeps_the_variables_that_configure_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SITE_CACHE_DIR", "DVC_STAGE"):
        monkeypatch.setenv(name, "/elsewhere")
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: "/usr/bin/env")
    names = {line.partition("=")[0] for line in revision.dvc().splitlines()}
    assert {name for name in names if name.startswith("DVC_")} == {"DVC_GLOBAL_CONFIG_DIR", "DVC_SITE_CACHE_DIR"}
