"""A params.yaml that is not right is refused in one line that names the key."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies
from ruamel.yaml import YAML

from pipeline import params as params_module
from pipeline.errors import ParamsError
from pipeline.params import load_params
from tests.conftest import ROOT

SHIPPED = (ROOT / "params.yaml").read_text()


def changed(*replacements: tuple[str, str]) -> str:
    text = SHIPPED
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return text


def test_the_shipped_file_is_right_and_each_key_is_explained() -> None:
    params = load_params(ROOT / "params.yaml")
    assert (params.beta, params.vae.latent_dim, params.vae.hidden_dims, params.vae.epochs) == (1.0, 2, [512, 256], 30)
    assert (params.ae.hidden_dims, params.ae.epochs, params.train.batch_size) == ([512, 256, 128], 15, 128)
    for section in (type(params), *(type(value) for value in params.__dict__.values() if hasattr(value, "model_fields_set"))):
        for name, field in section.model_fields.items():
            assert field.description, name


BAD = {
    "empty": ("", "mapping"),
    "only a comment": ("# nothing", "mapping"),
    "a list": ("- 1\n- 2\n", "mapping"),
    "a scalar": ("5", "mapping"),
    "missing key": (changed(("seed: 1 ", "# ")), "seed: missing"),
    "missing section": (changed(("beta: 1.0", "# ")), "beta: missing"),
    "unknown key": (SHIPPED + "\ntypo: 1\n", "typo: unknown key"),
    "unknown nested key": (changed(("  patience: 7", "  patience: 7\n  momentum: 1")), "train.momentum: unknown key"),
    "duplicate key": (SHIPPED + "\nseed: 2\n", "seed"),
    "word for number": (changed(("beta: 1.0", "beta: abc")), "beta: 'abc'"),
    "quoted number": (changed(("beta: 1.0", "beta: '4'")), "beta: '4'"),
    "bool for number": (changed(("beta: 1.0", "beta: true")), "beta: True"),
    "null for number": (changed(("beta: 1.0", "beta: null")), "beta: None"),
    "list for number": (changed(("beta: 1.0", "beta: [1]")), "beta: "),
    "negative beta": (changed(("beta: 1.0", "beta: -4")), "beta: -4"),
    "nan": (changed(("beta: 1.0", "beta: .nan")), "beta: nan"),
    "infinity": (changed(("beta: 1.0", "beta: .inf")), "beta: inf"),
    "float for int": (changed(("batch_size: 128", "batch_size: 12.5")), "train.batch_size: 12.5"),
    "zero batch": (changed(("batch_size: 128", "batch_size: 0")), "train.batch_size: 0"),
    "negative batch": (changed(("batch_size: 128", "batch_size: -128")), "train.batch_size: -128"),
    "zero rate": (changed(("2.0e-3", "0.0")), "train.learning_rate: 0.0"),
    "unknown schedule": (changed(("schedule: cosine", "schedule: linear")), "train.schedule: 'linear'"),
    "unknown device": (changed(("device: auto", "device: tpu")), "train.device: 'tpu'"),
    "unknown precision": (changed(("precision: float32", "precision: float16")), "train.precision: 'float16'"),
    "a path for a name": (changed(("name: mnist", "name: ../mnist")), "data.name: '../mnist'"),
    "no path": (changed(("path: images ", "path: ' ' ")), "data.path: allowed is the path"),
    "a path that is a URL": (changed(("path: images ", "path: s3://bucket ")), "data.path: allowed is the path"),
    "a path from home": (changed(("path: images ", "path: ~/photos ")), "data.path: allowed is the path"),
    "two channels": (changed(("channels: 3", "channels: 2")), "data.image.channels: 2"),
    "unknown fit": (changed(("fit: crop", "fit: squash")), "data.image.fit: 'squash'"),
    "unknown fallback": (changed(("fallback: digits", "fallback: mnist")), "data.fallback: 'mnist'"),
    "val_size 0": (changed(("val_size: 0.05", "val_size: 0.0")), "data.val_size: 0.0"),
    "val_size 1": (changed(("val_size: 0.05", "val_size: 1.0")), "data.val_size: 1.0"),
    "zero threads": (changed(("threads: 2 ", "threads: 0 ")), "train.threads: 0"),
    "hidden_dims a number": (changed(("[512, 256, 128]", "512")), "ae.hidden_dims: 512"),
    "hidden_dims with zero": (changed(("[512, 256, 128]", "[512, 0]")), "ae.hidden_dims.1: 0"),
    "hidden_dims of lists": (changed(("[512, 256, 128]", "[[512]]")), "ae.hidden_dims.0: [512]"),
    "hidden_dims without end": (changed(("[512, 256, 128]", f"[{'1, ' * 999}]")), "ae.hidden_dims: [1, 1"),
    "latent_dim of a billion": (changed(("latent_dim: 2", "latent_dim: 1000000000")), "ae.latent_dim: 1000000000"),
    "latent_dim as a float": (changed(("latent_dim: 2", "latent_dim: 1e9")), "ae.latent_dim: 1000000000.0"),
    "three shards": (changed(("shards: 1", "shards: 3")), "train.shards: 3 is not allowed; allowed is 1, 2, 4"),
    "a rate that is 0 in a float": (changed(("2.0e-3", "1e-400")), "train.learning_rate: 0.0"),
    "a name with a line end": (changed(("name: mnist", 'name: "mnist\\n"')), "data.name: 'mnist\\n'"),
    "a name of wide letters": (changed(("name: mnist", "name: \uff4dnist")), "data.name: '\uff4dnist'"),
    "a path with NUL": (changed(("path: images ", 'path: "a\\0b" ')), "data.path: allowed is the path"),
    "latent_dim 0": (changed(("latent_dim: 2", "latent_dim: 0")), "ae.latent_dim: 0"),
    "section a number": ("seed: 1\nbeta: 1.0\ntrain: 5\n", "train"),
    "tab": (changed(("  patience: 7", "\tpatience: 7")), "not valid YAML"),
    "unclosed": (SHIPPED + "\nx: [1, 2\n", "not valid YAML"),
    "alias bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "anchors, aliases and tags"),
    "merge key": (SHIPPED + "\nx: &x {a: 1}\ny: {<<: *x}\n", "anchors, aliases and tags"),
    "python tag": (changed(("seed: 1 ", "seed: !!python/object/apply:os.system ['true'] ")), "anchors, aliases and tags"),
    "merge key without an anchor": (SHIPPED + "\n<<: {seed: 2}\n", "<<"),
    "merge key in a section": (changed(("  patience: 7", "  <<: {patience: 7}\n  patience: 7")), "<<"),
    "a directive of another YAML": ("%YAML 1.1\n---\n" + SHIPPED, "% are not allowed"),
    "a directive of tags": ("%TAG ! tag:example.org,2000:\n---\n" + SHIPPED, "% are not allowed"),
    "deeply nested": ("x: " + "[" * 5000, "brackets"),
    "very deeply nested": ("x: " + "[" * 20000, "brackets"),
    "deeply nested mappings": ("x: " + "{a: " * 15000, "brackets"),
    "deeply nested, on lines": ("x:\n" + " [\n" * 1500, "brackets"),
    "deeply nested blocks": ("".join(" " * level + "a:\n" for level in range(300)), "brackets"),
    "deeply nested lists": ("- " * 30000, "brackets"),
    "nested complex keys": ("? " * 30000, "brackets"),
    "a long list on a line": ("x: [" + "1," * 30000 + "1]", "brackets"),
    "many keys": ("".join(f"key{index}: 1\n" for index in range(4000)), "brackets"),
    "a long line": (SHIPPED + "\nx: " + "word " * 12000, "x: unknown key"),
    "a NUL byte": (SHIPPED + "\0", "not valid YAML"),
    "UTF-16": (SHIPPED.encode("utf-16"), "UTF-8"),
    "a huge power": (changed(("beta: 1.0", "beta: 1e999999")), "beta: inf"),
    "a huge integer": (changed(("seed: 1 ", f"seed: {'9' * 5000} ")), "not valid YAML"),
    "a large integer": (changed(("seed: 1 ", "seed: 0xffffffff ")), "seed: 4294967295"),
    "a date": (changed(("seed: 1 ", "seed: 2001-01-01 ")), "seed: datetime.date"),
    "no date": (changed(("seed: 1 ", "seed: 2001-99-99 ")), "params.yaml"),
    "sexagesimal": (changed(("seed: 1 ", "seed: 1:30 ")), "seed: '1:30'"),
    "an equals sign": (changed(("beta: 1.0", "beta: =")), "not valid YAML"),
    "a tilde": (changed(("beta: 1.0", "beta: ~")), "beta: None"),
    "a number as key": (SHIPPED + "\n1: 2\n", "1: 1 is not allowed"),
    "a list as key": (SHIPPED + "\n[1]: 2\n", "(1,)"),
    "a mapping as key": (SHIPPED + "\n? {a: 1}\n: 2\n", "not valid YAML"),
    "an enormous key": (SHIPPED + f"\n{'k' * 1000}: 1\n", "unknown key"),
    "a duplicate nested key": (changed(("  patience: 7", "  patience: 7\n  patience: 8")), "patience"),
    "two documents": (SHIPPED + "\n---\nseed: 1\n", "not valid YAML"),
    "too large": (SHIPPED + "#" * 70000, "64 KB"),
    "latin-1": (SHIPPED.encode() + b"# caf\xe9\n", "UTF-8"),
    "binary": (b"\x00\x01\x02", "not valid YAML"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line_that_names_the_key(name: str, tmp_path: Path) -> None:
    content, expected = BAD[name]
    path = tmp_path / "params.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    message = str(caught.value)
    assert expected in message
    assert str(path) in message
    assert "\n" not in message


def test_no_content_of_a_file_takes_long_to_refuse(tmp_path: Path) -> None:
    """The parser's time grows with the square of the open brackets, so it sees few of them."""
    (tmp_path / "params.yaml").write_text("[" * params_module.MAX_BRACKETS)
    with pytest.raises(ParamsError, match="brackets"):
        load_params(tmp_path / "params.yaml")
    assert params_module.MAX_BRACKETS <= 2000


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "device"])
def test_what_is_not_a_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if kind == "loop" else "/dev/zero")
    with pytest.raises(ParamsError, match=r"params\.yaml: (not a file|cannot be read)"):
        load_params(path)


@pytest.mark.parametrize(
    "mirror",
    [
        "https://me:hunter2@example.org/mnist",
        "https://hunter2@example.org",
        "HTTP:me:hunter2@host",
        "//me:hunter2@host",
        "s3://a?key=hunter2",
    ],
)
def test_a_mirror_with_a_password_is_refused_without_repeating_it(mirror: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(changed(("mirror: null", f"mirror: '{mirror}'")))
    with pytest.raises(ParamsError, match=r"data\.mirror: .*PIPELINE_MIRROR") as caught:
        load_params(tmp_path / "params.yaml")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("mirror", ["/data/me@work/mnist", "file:/data/mnist", "https://example.org/mnist"])
def test_a_mirror_without_a_password_is_allowed(mirror: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(changed(("mirror: null", f"mirror: {mirror}")))
    assert load_params(tmp_path / "params.yaml").data.mirror == mirror


def test_a_refused_change_of_a_committed_file_comes_with_the_way_back(workspace: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments], check=True, capture_output=True
        )

    file = workspace / "params.yaml"
    file.write_text(changed(("beta: 1.0", "beta: abc")))
    with pytest.raises(ParamsError) as without_git:
        load_params()
    assert "git" not in str(without_git.value)
    file.write_text(SHIPPED)
    git("init", "--quiet")
    git("add", "params.yaml")
    git("commit", "--quiet", "--message", "x")
    file.write_text(changed(("beta: 1.0", "beta: abc")))
    with pytest.raises(ParamsError, match=r"beta: 'abc'.*`git checkout params\.yaml`"):
        load_params()
    git("checkout", "params.yaml")
    assert load_params().beta == 1.0


def shipped_with(key: str, value: object) -> dict[str, Any]:
    """Return the shipped values with another one at a dotted key."""
    values = load_params(ROOT / "params.yaml").model_dump()
    *sections, last = key.split(".")
    section = values
    for name in sections:
        section = section[name]
    section[last] = value
    return values


KEYS = [
    name if section is None else f"{section}.{name}"
    for section, fields in [(None, {"seed": 1, "beta": 1.0}), *load_params(ROOT / "params.yaml").model_dump().items()]
    if isinstance(fields, dict)
    for name in fields
]
FLOATS = strategies.floats(allow_subnormal=False)  # which other tests turn off: see pipeline.runtime
VALUES = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | FLOATS | strategies.text(max_size=8),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def written(values: object) -> str:
    stream = io.StringIO()
    YAML(typ="safe", pure=True).dump(values, stream)
    return stream.getvalue()


@given(key=strategies.sampled_from(KEYS), value=VALUES)
def test_any_value_is_accepted_as_it_is_or_refused_by_its_key(key: str, value: object, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("any") / "params.yaml"
    path.write_text(written(shipped_with(key, value)), "utf-8")
    try:
        params = load_params(path)
    except ParamsError as error:
        refusal = str(error)
    else:
        assert params.model_dump() == shipped_with(key, value)
        path.write_text(written(params.model_dump()), "utf-8")
        assert load_params(path) == params
        return
    assert "\n" not in refusal
    assert key in refusal or "not valid YAML" in refusal or "not allowed; write" in refusal


@settings(max_examples=150)
@given(text=strategies.text(max_size=200) | strategies.text("[]{}:,-?&*!|>'\"%@<=#\n 1a.~", max_size=200))
def test_any_text_is_refused_in_one_line(text: str, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("any") / "params.yaml"
    path.write_bytes(text.encode("utf-8"))
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"\xef\xbb\xbf" + SHIPPED.replace("\n", "\r\n").encode())
    assert load_params(tmp_path / "params.yaml") == load_params(ROOT / "params.yaml")


def test_numbers_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(changed(("2.0e-3", "1e-3"), ("beta: 1.0", "beta: 4")))
    params = load_params(tmp_path / "params.yaml")
    assert (params.train.learning_rate, params.beta) == (0.001, 4.0)


@pytest.mark.parametrize("stage", [["stages.validate"], ["stages.train", "vae"], ["stages.download"]])
def test_a_stage_ends_with_exit_code_2_and_no_output(stage: list[str], tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(changed(("beta: 1.0", "beta: -4")))
    done = subprocess.run(
        [sys.executable, "-m", *stage, "--params", str(tmp_path / "params.yaml")], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "beta: -4 is not allowed; allowed is greater than or equal to 0" in done.stderr
