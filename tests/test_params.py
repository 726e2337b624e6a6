"""A params.yaml that is not right is refused in one line that names the key."""

import subprocess
import sys
from pathlib import Path

import pytest

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
    "unknown fallback": (changed(("fallback: digits", "fallback: mnist")), "data.fallback: 'mnist'"),
    "val_size 0": (changed(("val_size: 0.05", "val_size: 0.0")), "data.val_size: 0.0"),
    "val_size 1": (changed(("val_size: 0.05", "val_size: 1.0")), "data.val_size: 1.0"),
    "zero threads": (changed(("threads: 2 ", "threads: 0 ")), "train.threads: 0"),
    "hidden_dims a number": (changed(("[512, 256, 128]", "512")), "ae.hidden_dims: 512"),
    "hidden_dims with zero": (changed(("[512, 256, 128]", "[512, 0]")), "ae.hidden_dims.1: 0"),
    "latent_dim 0": (changed(("latent_dim: 2", "latent_dim: 0")), "ae.latent_dim: 0"),
    "section a number": ("seed: 1\nbeta: 1.0\ntrain: 5\n", "train"),
    "tab": (changed(("  patience: 7", "\tpatience: 7")), "not valid YAML"),
    "unclosed": (SHIPPED + "\nx: [1, 2\n", "not valid YAML"),
    "alias bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "anchors, aliases and tags"),
    "merge key": (SHIPPED + "\nx: &x {a: 1}\ny: {<<: *x}\n", "anchors, aliases and tags"),
    "python tag": (changed(("seed: 1 ", "seed: !!python/object/apply:os.system ['true'] ")), "anchors, aliases and tags"),
    "deeply nested": ("x: " + "[" * 5000, "not valid YAML"),
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
