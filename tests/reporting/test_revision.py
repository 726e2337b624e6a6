"""Reading two revisions through dvc."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.reporting import revision
from pipeline.reporting.revision import ComparisonError, table
from tests.reporting.revisions import ELBO, commit, invoke, run, write, write_images, write_metrics


def test_flat_and_nested_metrics_have_the_same_names(repository: Path) -> None:
    write("metrics/vae.json", {"test": {"elbo": -141.0}})  # nested, as version 0.2.0 wrote them
    found = revision.metrics("team/base")
    assert found["vae/test/elbo"] == (-140.0, -141.0)
    assert found["vae/test/kl"] == (6.5, None)
    assert found["data/train/sha256"] == ("aa", "aa")
    assert not any("." in name for name in found)
    commit("nested")
    write_metrics(-142.0)
    assert revision.metrics("HEAD")["vae/test/elbo"] == (-141.0, -142.0)


def test_files_of_one_name_are_refused(repository: Path) -> None:
    write("more/vae.json", {"a": 1})
    write("dvc.yaml", "metrics: [metrics/vae.json, more/vae.json]\n")
    with pytest.raises(ComparisonError, match=r"two metrics files have the same name: .*metrics/vae.json, more/vae.json"):
        revision.metrics("team/base")


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


def test_values_that_a_revision_does_not_have_are_not_paired(repository: Path) -> None:
    run("git", "rm", "--quiet", "--cached", "results/vae_images.parquet.dvc")
    run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "without")
    write_images(ELBO)
    assert revision.per_image("vae", "HEAD") is None


@pytest.mark.parametrize("command", ["gate", "report"])
def test_an_unknown_revision_is_one_line(repository: Path, command: str) -> None:
    result = invoke(command, "--against", "nowhere")
    assert (result.exit_code, result.stderr) == (2, "error: dvc metrics diff: unknown Git revision 'nowhere'\n")


@pytest.mark.parametrize("against", ["", "workspace", "--all"])
def test_the_workspace_is_not_compared_with_itself(against: str) -> None:
    with pytest.raises(ComparisonError, match=f"{against!r} is not a revision to compare with"):
        revision.metrics(against)


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


def test_floats_have_six_digits() -> None:
    assert table(["a"], [[1 / 3]]).splitlines()[2] == "| 0.333333 |"


def test_a_table_without_rows_is_its_head() -> None:
    assert table(["a", "bb"], []).splitlines() == ["| a | bb |", "| - | -- |"]
