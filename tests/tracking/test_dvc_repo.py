"""What is read of DVC's files in the workspace and in commits."""

import os
import re
import shutil
from contextlib import chdir
from pathlib import Path

import pytest
from dvc.repo import Repo

from pipeline.errors import IntegrityError, ParamsError
from pipeline.params import Params
from pipeline.storage import md5
from pipeline.tracking import dvc_repo
from pipeline.tracking.dvc_lock import Stage, folder_md5, read
from pipeline.tracking.dvc_repo import Config, Source, config, output_at, sources
from pipeline.tracking.origin import commit_of
from tests.conftest import ROOT
from tests.tracking.repository import Repository, git, write


@pytest.fixture
def repository(params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A repository with one stage, whose outputs are a file and a folder in DVC's cache, and a folder in git."""
    repository = Repository(params, data_file, monkeypatch)
    repository.add(
        "figures", "figures --all", ["data/dataset.safetensors"], ["results/file", "results/folder"], ["metrics/figures"]
    )
    for path in ("results/file", "results/folder/a", "results/folder/sub/b", "metrics/figures/c.png"):
        write(path, path)
    repository.lock()
    repository.commit()
    return repository


def workspace_source(scratch: Path) -> tuple[Source, Stage]:
    """Return the workspace and its stage ``figures``."""
    source = sources(scratch)[-1]
    (stage,) = [stage for stage in source.stages if stage.name == "figures"]
    return source, stage


@pytest.mark.usefixtures("repository")
def test_stage_has_what_its_lock_file_says(tmp_path: Path) -> None:
    _, stage = workspace_source(tmp_path / "scratch")
    assert (stage.module, stage.params) == ("figures", {})
    assert stage.deps == {"data/dataset.safetensors": md5("data/dataset.safetensors")}
    assert stage.outs["results/file"] == md5("results/file")
    assert stage.out(".png") == ""


@pytest.mark.parametrize(
    "entry",
    [
        {"cmd": ["sh script.sh", "true", 1, None]},
        {"cmd": "sh script.sh"},
        {"cmd": "python -m stages."},
        {"outs": []},
    ],
)
def test_stage_with_another_command_is_none_of_the_pipeline(entry: dict) -> None:
    assert Stage.of("name", entry).module == ""


def test_dependencies_without_md5_are_left_out() -> None:
    deps = [
        {"path": "s3://a", "etag": "1"},
        {"path": "b", "md5": "2" * 32},
        {"path": "c", "md5": None},
        {"path": "d", "repo": {}},
    ]
    stage = Stage.of("train_vae", {"cmd": "python -m stages.train vae", "deps": deps})
    assert (stage.module, stage.deps, stage.outs, stage.params) == ("train", {"b": "2" * 32}, {}, {})


def test_stage_of_several_commands_is_that_of_the_pipeline() -> None:
    stage = Stage.of("train_vae", {"cmd": ["mkdir -p models", "python -m stages.train vae"]})
    assert (stage.module, stage.words) == ("train", ("vae",))


def test_options_of_the_command_say_where_params_data_and_weights_are() -> None:
    entry = {
        "cmd": "python -m stages.train --params=big.yaml vae --data data/other.safetensors --out models/big",
        "params": {"params.yaml": {"seed": 1}, "big.yaml": {"seed": 2}},
        "deps": [{"path": f"data/{name}.safetensors", "md5": str(n) * 32} for n, name in enumerate(("dataset", "other"))],
        "outs": [{"path": f"models/{name}.safetensors", "md5": str(n) * 32} for n, name in enumerate(("extra", "vae"), 2)],
    }
    stage = Stage.of("big", entry)
    assert (stage.params, stage.data) == ({"seed": 2}, ("data/other.safetensors", "1" * 32))
    assert stage.weights == "models/vae.safetensors"


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("lock", ["dvc.lock", "claims/dvc.lock"])
def test_damaged_lock_of_the_workspace_is_one_line_with_the_way_out(lock: str, tmp_path: Path) -> None:
    write(lock, good := Path("dvc.lock").read_text())
    damages = ("", "stages", "schema: '2.0'\nstages: 1", "schema: '2.0'\nstages: {a: 1}", "a: [", good.replace("cmd", "cxd"))
    damages += (
        f"<<<<<<< HEAD\n{good}=======\n{good}>>>>>>> other\n",
        good.replace("2.0", "1.0"),
        good[: good.index("md5: ") + 9],
        "[" * 3000,
    )
    damages += (good.replace("path:", "pxth:"), good + "stages: {}\n", good.replace("2.0", "2.0\udcff"))
    for content in damages:
        Path(lock).write_bytes(content.encode(errors="surrogateescape"))
        with pytest.raises(IntegrityError, match=f"^{lock}: .*; `git checkout HEAD -- {lock}` brings"):
            _ = sources(tmp_path / "scratch")[-1].stages
    for make in (os.mkdir, os.mkfifo):  # a read of the second would wait
        Path(lock).rmdir() if Path(lock).is_dir() else Path(lock).unlink()
        make(lock)
        for look in (lambda: read(lock), lambda: sources(tmp_path / "scratch")[-1].stages):
            with pytest.raises(IntegrityError, match=f"^{lock}: not a file"):
                look()


@pytest.mark.usefixtures("repository")
def test_missing_lock_of_the_workspace_is_one_line_with_the_way_out(tmp_path: Path) -> None:
    assert sources(tmp_path / "scratch")[-1].stages, "a pipeline of claims that never ran has none"
    Path("dvc.lock").unlink()
    with pytest.raises(IntegrityError, match=r"^dvc.lock: no such file; `git checkout HEAD -- dvc.lock` brings it back"):
        _ = sources(tmp_path / "scratch")[-1].stages
    git("rm", "-q", "--cached", "dvc.lock")
    git("commit", "-qm", "without")
    with pytest.raises(IntegrityError, match=r"^dvc.lock: no such file; `dvc repro` makes it"):
        _ = sources(tmp_path / "scratch")[-1].stages


@pytest.mark.usefixtures("repository")
def test_damaged_lock_of_an_experiment_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    baseline, good = git("rev-parse", "HEAD"), Path("dvc.lock").read_text()
    write("dvc.lock", "<<<<<<< HEAD\n")
    git("commit", "-qam", "damaged")
    git("update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/one", damaged := git("rev-parse", "HEAD"))
    git("reset", "-q", "--hard", baseline)
    assert Path("dvc.lock").read_text() == good
    assert [bool(source.stages) for source in sources(tmp_path / "scratch")] == [True, False, True]
    said = capsys.readouterr().err
    assert said == f"sync: one ({damaged[:7]}) is left out: dvc.lock: a merge left its marks in it\n"


@pytest.mark.usefixtures("repository")
def test_without_git_the_workspace_is_read_and_a_note_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    (source,) = sources(tmp_path / "scratch")
    assert source.stages
    assert capsys.readouterr().err == "note: no experiment is read (git is not installed)\n"


@pytest.mark.usefixtures("repository")
def test_wrong_configuration_and_no_repository_are_one_line(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    write(".dvc/config.local", "[cache\n")
    with pytest.raises(IntegrityError, match=r"^DVC cannot read its configuration \(.*config.*\); correct it"):
        sources(tmp_path / "scratch")
    with chdir(tmp_path_factory.mktemp("none")), pytest.raises(ParamsError, match=r"is not in a DVC repository"):
        sources(tmp_path / "scratch")


@pytest.mark.usefixtures("repository")
def test_text_that_dvc_2_locked_may_have_other_line_ends(tmp_path: Path) -> None:
    locked = Path("dvc.lock").read_text()
    write("results/file", "a\nb\n")
    old, new = md5("results/file"), re.search(r"results/file\n +hash: md5\n +md5: (\w+)", locked)
    assert new
    for path in ("results/file", "dvc.lock"):
        Path(path).write_bytes(b"a\r\nb\r\n" if path != "dvc.lock" else locked.replace(new[1], old).encode())
    source, stage = workspace_source(tmp_path / "three")
    assert source.fetch(stage, "results/file") is None
    write("dvc.lock", locked.replace(new[1], old).replace("      hash: md5\n", ""))
    source, stage = workspace_source(tmp_path / "two")
    copy = source.fetch(stage, "results/file")
    assert copy
    assert copy.read_bytes() == b"a\r\nb\r\n"


@pytest.mark.usefixtures("repository")
def test_md5_is_never_a_path(tmp_path: Path) -> None:
    secret, locked = write("secret/file", "of another user"), Path("dvc.lock").read_text()
    write("dvc.lock", re.sub(r"(results/file\n +hash: md5\n +md5: )\w+", rf"\1{secret.parent.absolute()}", locked))
    with pytest.raises(IntegrityError, match=r"^dvc.lock: the entry figures is not that of a stage"):
        _ = sources(tmp_path / "scratch")[-1].stages


@pytest.mark.usefixtures("repository")
def test_output_is_fetched_only_with_its_locked_bytes(tmp_path: Path) -> None:
    source, stage = workspace_source(tmp_path / "scratch")
    copy = source.fetch(stage, "results/file")
    assert copy
    assert (copy.name, copy.read_text()) == ("file", "results/file")
    assert source.fetch(stage, "results/other") is None
    assert source.fetch(stage, "") is None


@pytest.mark.usefixtures("repository")
def test_changed_output_comes_from_the_cache_of_the_last_commit(tmp_path: Path) -> None:
    write("results/file", "changed")
    source, stage = workspace_source(tmp_path / "one")
    copy = source.fetch(stage, "results/file")
    assert copy
    assert copy.read_text() == "results/file"
    shutil.rmtree(".dvc/cache")
    source, stage = workspace_source(tmp_path / "two")
    assert source.fetch(stage, "results/file") is None


@pytest.mark.usefixtures("repository")
def test_damaged_object_of_the_cache_is_not_fetched(tmp_path: Path) -> None:
    source, stage = workspace_source(tmp_path / "scratch")
    shutil.rmtree("results")
    stored = Path(".dvc/cache/files/md5", stage.outs["results/file"][:2], stage.outs["results/file"][2:])
    stored.chmod(0o600)
    stored.write_text("damaged")
    assert source.fetch(stage, "results/file") is None


@pytest.mark.usefixtures("repository")
def test_an_output_of_a_revision_is_its_bytes_or_an_error_that_names_what_is_wrong(tmp_path: Path) -> None:
    _, stage = workspace_source(tmp_path / "scratch")
    write("results/file", "changed")
    assert output_at("HEAD", "results/file") == b"results/file"
    with pytest.raises(IntegrityError, match=r"^DVC has no results/none of HEAD here; `dvc fetch -A` brings"):
        output_at("HEAD", "results/none")
    stored = Path(".dvc/cache/files/md5", stage.outs["results/file"][:2], stage.outs["results/file"][2:]).absolute()
    stored.chmod(0o600)
    stored.write_text("damaged")
    message = f"^{stored}: damaged, not the results/file of {commit_of('HEAD')}; delete it, then `dvc fetch -A` brings"
    with pytest.raises(IntegrityError, match=message):
        output_at("HEAD", "results/file")


@pytest.mark.usefixtures("repository")
def test_the_configuration_says_where_the_cache_the_databases_and_the_remotes_are(tmp_path: Path) -> None:
    assert config() == Config(tmp_path / ".dvc/cache/files/md5", None, {})
    remote = "['remote \"storage\"']\n    url = s3://bucket\n['remote \"auto-generated-upstream\"']\n    url = /srv/clone\n"
    write(".dvc/config", f"[core]\n    site_cache_dir = {tmp_path}/site\n[cache]\n    dir = {tmp_path}/other\n{remote}")
    found = config()
    assert (found.objects, found.site_cache) == (tmp_path / "other/files/md5", f"{tmp_path}/site")
    assert {name: remote["url"] for name, remote in found.remotes.items()} == {"storage": "s3://bucket"}


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("is_deleted", [False, True])
def test_folder_has_the_files_of_the_lock_file(is_deleted: bool, tmp_path: Path) -> None:
    if is_deleted:
        shutil.rmtree("results")
    source, stage = workspace_source(tmp_path / "scratch")
    files = source.unfolded(stage)
    assert files.outs.keys() - stage.outs.keys() == {"results/folder/a", "results/folder/sub/b", "metrics/figures/c.png"}
    for path in ("results/folder/sub/b", "metrics/figures/c.png"):
        copy = source.fetch(files, path)
        assert copy
        assert copy.read_text() == path


@pytest.mark.usefixtures("repository")
def test_changed_folder_in_git_is_that_of_the_last_commit(tmp_path: Path) -> None:
    write("metrics/figures/d.png", "more")
    write("metrics/figures/c.png", "other")
    source, stage = workspace_source(tmp_path / "scratch")
    files = source.unfolded(stage)
    assert "metrics/figures/d.png" not in files.outs
    copy = source.fetch(files, "metrics/figures/c.png")
    assert copy
    assert copy.read_text() == "metrics/figures/c.png"


@pytest.mark.usefixtures("repository")
def test_a_changed_folder_in_git_is_that_of_the_last_commit_beside_those_that_dvc_keeps(tmp_path: Path) -> None:
    write("metrics/figures/c.png", "other")
    source, stage = workspace_source(tmp_path / "scratch")
    made = {
        path: md5(write(f"{tmp_path}/copy", path))
        for path in ("results/folder/a", "results/folder/sub/b", "metrics/figures/c.png")
    }
    assert source.unfolded(stage).outs == stage.outs | made
    del made["metrics/figures/c.png"]
    assert Source(source.files, tmp_path / "alone").unfolded(stage).outs == stage.outs | made, "without a commit"


@pytest.mark.usefixtures("repository")
def test_what_dvc_lacks_is_said_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError) as lacks:
        output_at("HEAD", "results/none")
    cure = "`dvc fetch -A` brings all outputs from a remote, if one is set"
    assert str(lacks.value) == f"DVC has no results/none of HEAD here; {cure}"
    shutil.rmtree(".dvc")
    with pytest.raises(ParamsError) as bare:
        config()
    assert str(bare.value) == f"{tmp_path} has no folder .dvc; `git checkout HEAD -- .dvc` brings it back"
    shutil.rmtree(".git")
    Path("dvc.lock").unlink()
    with pytest.raises(ParamsError) as none:
        sources(tmp_path / "scratch")
    assert str(none.value) == f"{tmp_path} is not in a DVC repository; run it in one"


@pytest.mark.usefixtures("repository")
def test_a_file_that_cannot_be_read_is_none_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, stage = workspace_source(tmp_path / "scratch")
    alone = Source(source.files, tmp_path / "alone")

    def down(*_: object) -> None:
        raise ConnectionError("no route to https://me:hunter2@host/x")

    monkeypatch.setattr(type(source.files), "cat_file", down)
    dvc_repo._note.cache_clear()  # of tests before
    assert [alone.fetch(stage, path) for path in ("results/file", "results/file")] == [None, None]
    assert capsys.readouterr().err == "note: DVC could not read a file (no route to https://host/x)\n"


@pytest.mark.usefixtures("repository")
def test_the_time_of_the_workspace_is_that_of_its_newest_lock_file(tmp_path: Path) -> None:
    write("claims/dvc.lock", "schema: '2.0'")
    for times in ((5, 7.5), (7.5, 5)):
        for path, time in zip(("dvc.lock", "claims/dvc.lock"), times, strict=True):
            os.utime(path, (time, time))
        assert sources(tmp_path / "scratch")[-1].time == 7500


def test_folder_md5_is_that_of_dvc(repository: Repository, tmp_path: Path) -> None:
    _, stage = workspace_source(tmp_path / "scratch")
    files = {name: md5(f"results/folder/{name}") for name in ("sub/b", "a")}
    assert folder_md5(files) == stage.outs["results/folder"]


def test_experiments_and_their_baselines_are_sources(repository: Repository, tmp_path: Path) -> None:
    baseline = git("rev-parse", "HEAD")
    write("results/file", "of the experiment")
    repository.add("figures", "figures --all", ["data/dataset.safetensors"], ["results/file"])
    repository.lock()
    repository.save_experiment("one", baseline)
    git("update-ref", "refs/exps/stash", baseline)
    git("update-ref", "refs/exps/exec/EXEC_HEAD", baseline)
    found = sources(tmp_path / "scratch")
    tags = {"dvc.exp.name": "one", "dvc.exp.baseline": baseline}
    assert [(source.commit == baseline, source.tags) for source in found] == [(True, {}), (False, tags), (False, {})]
    for source, text in zip(found, ["results/file", "of the experiment", "results/file"], strict=True):
        (stage,) = [stage for stage in source.stages if stage.name == "figures"]
        copy = source.fetch(stage, "results/file")
        assert copy
        assert copy.read_text() == text
    assert found[0].time == 1000 * int(git("show", "-s", "--format=%ct", baseline))


@pytest.mark.usefixtures("repository")
def test_baseline_that_git_does_not_have_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = git("rev-parse", "HEAD")
    git("update-ref", f"refs/exps/{'0' * 2}/{'1' * 38}/one", head)
    assert [bool(source.stages) for source in sources(tmp_path / "scratch")] == [False, True, True]
    assert "the baseline of an experiment (0011111) is left out" in capsys.readouterr().err


@pytest.mark.usefixtures("repository")
def test_cache_of_the_local_configuration_serves_all_commits(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    head = git("rev-parse", "HEAD")
    git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/one", head)
    moved = tmp_path_factory.mktemp("cache") / "moved"
    shutil.move(".dvc/cache", moved)
    shutil.rmtree("results")
    write(".dvc/config.local", f"[cache]\n    dir = {moved}\n")
    for source in sources(tmp_path / "scratch"):
        (stage,) = [stage for stage in source.stages if stage.name == "figures"]
        assert source.fetch(stage, "results/file")


@pytest.mark.usefixtures("repository")
def test_remote_that_was_configured_later_serves_all_commits(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    head, remote = git("rev-parse", "HEAD"), tmp_path_factory.mktemp("remote")
    git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/one", head)
    write(".dvc/config", f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {remote}\n")
    with Repo() as repo:
        repo.push()
    for folder in (".dvc/cache", ".dvc/tmp", "results", "site"):
        shutil.rmtree(folder, ignore_errors=True)
    for number, source in enumerate(sources(tmp_path / "scratch")):
        (stage,) = [stage for stage in source.stages if stage.name == "figures"]
        files = source.unfolded(stage)
        copy = Source(source.files, tmp_path / str(number), source.commit).fetch(files, "results/folder/sub/b")
        assert copy, "each from the remote, not from the copy of another"


def test_only_dvc_repo_imports_dvc_and_only_dvc_api() -> None:
    found = {
        (path.name, line.strip())
        for path in (ROOT / "pipeline").rglob("*.py")
        for line in path.read_text().splitlines()
        if line.strip().startswith(("import dvc", "from dvc"))
    }
    assert found == {("dvc_repo.py", "from dvc.api import DVCFileSystem")}
