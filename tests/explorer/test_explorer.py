"""The latent explorer's file."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from pipeline.data import Dataset, Images, intensities, save_dataset
from pipeline.errors import IntegrityError, ParamsError
from pipeline.evaluation.results import Results, load_results, save_results
from pipeline.explorer import page
from pipeline.explorer.loading import load_explored, read_networks
from pipeline.explorer.networks import NotExplorable, compute, mean_intensities
from pipeline.explorer.page import MAX_BYTES, explorer, extent
from pipeline.figures.latent import plane
from pipeline.models.weights import save_weights
from pipeline.storage import md5, save_arrays
from pipeline.tracking import store
from stages import explorer as explorer_stage
from tests.conftest import craft
from tests.explorer.explorer_examples import LABELS, LETTERS, NAMES, SHAPE, cards, images, results, stage, trained, workspace

DIMENSIONS = (1, 2, 3, 16)


def data(document):
    return json.loads(re.search(r'id="data">(.*?)</script>', document, re.DOTALL)[1])


@pytest.mark.parametrize("dim", DIMENSIONS)
def test_page_is_self_contained_and_deterministic(dim):
    document = explorer(cards(dim), images())
    assert document == explorer(cards(dim), images())
    assert not re.search(r"https?:|\bsrc=|@import|url\(|\bfetch\b|XMLHttpRequest|WebSocket", document)
    assert "<title>Latent explorer on digits: AE and VAE, β = 4</title>" in document
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', document)[1]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy.replace(page.WASM, "")
    assert document.index(policy) < document.index("<style>"), "it counts for what comes after it"
    assert not re.search(r"\$(policy|title|subtitle|style|scripts|data|blob)\b", document), "every place is filled"


@pytest.mark.parametrize("dim", DIMENSIONS)
def test_page_without_labels_has_one_color_and_no_classes(dim):
    shown = data(explorer(cards(dim, labels=None), images()))
    assert (shown["classes"], len(shown["colors"])) == ("", 1)
    assert data(explorer(cards(dim), images()))["classes"] == "digit"


@pytest.mark.parametrize("dim", DIMENSIONS)
def test_each_of_many_classes_has_its_name_and_color(dim, monkeypatch):
    monkeypatch.setattr("pipeline.explorer.page.POINTS", 5)  # a class may have no point that is shown
    shown = data(explorer(cards(dim, labels=LETTERS), images()))
    names = [str(label) for label in range(65, 91)]
    assert shown["names"] == names
    assert len({tuple(color) for color in shown["colors"]}) == 26
    for (model,) in shown["cards"]:
        assert dim > 1 or model["frame"][1] == [-0.7, 25.7]


def test_only_a_model_with_a_prior_has_its_circles():
    assert [card[0]["prior"] for card in data(explorer(cards(2), images()))["cards"]] == [False, True]


def test_decoders_of_the_default_size_fit_in_float32():
    document = explorer(cards(16, (512, 256, 128)), images())
    assert len(document.encode()) < MAX_BYTES
    assert '"precision": ["float32"]' in document


def test_the_replay_has_all_its_epochs_in_view():
    _, (vae,) = cards(2)
    far = np.stack([np.full((100, 2), 40.0), vae.results["codes"][:100]])
    (shown,) = data(explorer([[replace(vae, replay=far)]], images()))["cards"][0]
    codes = np.concatenate([*far, vae.results["codes"]]) - shown["center"]
    for axis, (low, high) in zip(shown["axes"], shown["replay"]["frame"], strict=True):
        assert low < (codes @ axis).min() < (codes @ axis).max() < high
    assert np.ptp(shown["replay"]["frame"]) > np.ptp(shown["frame"])


def test_names_from_outside_cannot_become_markup():
    (ae,), _ = cards(2)
    document = explorer([[replace(ae, results=replace(ae.results, dataset="</script><b>", model="</script><b>"))]], images())
    assert "<b>" not in document


def test_plane_keeps_most_variance_and_its_frame_nearly_all_codes():
    codes = results("vae", 16, 1.0)["codes"]
    center, axes, names = plane(codes)
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-12)
    assert ((codes - center) @ axes.T).var(0).sum() >= np.sort(codes.var(0))[-2:].sum()
    assert "of variance" in names[0]
    low, high = extent(codes).T
    assert ((codes >= low) & (codes <= high)).mean() > 0.98


def test_precision_falls_with_the_number_of_models_before_they_are_refused(monkeypatch):
    _, (vae,) = cards(2)
    models = [replace(vae, results=replace(vae.results, beta=float(beta))) for beta in range(1, 14)]
    small = np.zeros_like(images())  # compresses at once
    monkeypatch.setattr("pipeline.explorer.page.MAX_BYTES", len(explorer([models[:3]], small)) + 1000)
    kinds = []
    for count in (2, 4, 5, 7, 8):
        document = explorer([models[:count]], small)
        assert len(document.encode()) < page.MAX_BYTES
        (shown,) = data(document)["cards"]
        parts = [shown[i][part] for i in (0, 1) for part in ("decoder", "encoder")]
        kinds.append([part[0]["weight"][0] if part else None for part in parts])
    with pytest.raises(ParamsError, match=r"13 models takes .* MB, over .*; use fewer models"):
        explorer([models], small)
    falling = [kinds.index(kind) for kind in kinds]
    assert falling == sorted(falling)
    assert kinds[0] == ["float32"] * 4
    assert kinds[-1] == ["float16", None, "float16", None]
    assert {None, "float16", "float24", "float32"} == {kind for row in kinds for kind in row}


NETS = {"mlp": (SHAPE, (16, 16), "bernoulli"), "conv": ((3, 32, 24), (4, 8, 6), "continuous_bernoulli")}


def saved(folder, net):
    """The file of a model of this net, and its codes of the test images, these, and what its decoder makes of two codes."""
    shape, hidden, likelihood = NETS[net]
    model, pixels = trained("vae", 3, 1.0, hidden, net=net, shape=shape, likelihood=likelihood), images(shape)
    save_weights(folder / "x.safetensors", model)
    found = model.predict(intensities(pixels))
    return model, pixels, found["code"], (found["code"][:2], found["reconstruction"][:2])


@pytest.mark.parametrize("net", NETS)
def test_networks_read_without_torch_compute_what_torch_does(net, tmp_path):
    model, pixels, codes, decoded = saved(tmp_path, net)
    decoder, likelihood, encoder = read_networks(tmp_path / "x.safetensors", pixels, codes, decoded)
    assert likelihood == NETS[net][2]
    np.testing.assert_allclose(mean_intensities(compute(decoder, decoded[0]), likelihood), decoded[1], atol=1e-4)
    with torch.no_grad():
        x, z = torch.from_numpy(intensities(pixels[:5])), torch.from_numpy(codes[:5])
        np.testing.assert_allclose(compute(decoder, z.numpy()), model.model.decoder(z), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(compute(encoder, x.numpy())[..., 0, 0], model.model.encoder(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("net", NETS)
def test_networks_that_compute_something_else_than_torch_did_are_not_shown(net, tmp_path):
    _, pixels, codes, (at, expected) = saved(tmp_path, net)
    assert read_networks(tmp_path / "x.safetensors", pixels, codes + 0.1, (at, expected)).encoder == ()
    with pytest.raises(NotExplorable, match="this decoder computes something else"):
        read_networks(tmp_path / "x.safetensors", pixels, codes, (at, expected + 0.01))
    with pytest.raises(NotExplorable, match=r"decoder\.\d is none of them"):
        read_networks(tmp_path / "x.safetensors", pixels[..., :14], codes, (at[:0], expected[:0]))
    with pytest.raises(IntegrityError, match="of different shapes"):
        read_networks(tmp_path / "x.safetensors", pixels, codes[:, :2], (at, expected))


def test_an_encoder_of_other_layers_is_left_out(tmp_path):
    _, pixels, codes, decoded = saved(tmp_path, "mlp")
    for other in ({"encoder.1.weight": np.ones((2, 1, 3, 3), np.float32)}, {"encoder.0.bias": np.ones(1, np.float32)}):
        craft(tmp_path / "x.safetensors", other)
        assert read_networks(tmp_path / "x.safetensors", pixels, codes, decoded).encoder == ()


def test_a_decoder_of_other_convolutions_is_refused(tmp_path):
    _, pixels, codes, decoded = saved(tmp_path, "conv")
    craft(tmp_path / "x.safetensors", {"decoder.9.weight": np.ones((4, 3, 3, 3), np.float32)})
    with pytest.raises(NotExplorable, match=r"decoder\.9 is none of them"):
        read_networks(tmp_path / "x.safetensors", pixels, codes, decoded)


def test_models_that_cannot_be_shown_are_refused(monkeypatch):
    with pytest.raises(IntegrityError, match="no results"):
        explorer([], images())
    with pytest.raises(NotExplorable, match="the explorer shows images of 1 channel or 3; those of digits have 2"):
        explorer(cards(2, shape=(2, 28, 28)), images((2, 28, 28)))
    monkeypatch.setattr("pipeline.explorer.page.MAX_BYTES", 100_000)
    with pytest.raises(NotExplorable, match=r"2 models takes .* MB, over 0\.1; smaller hidden_dims"):
        explorer(cards(2), images())


def test_decoders_that_cannot_be_shown_are_refused(tmp_path):
    def read(name):
        return read_networks(tmp_path / name, images(), np.zeros((5, 2), np.float32), (np.empty((0, 2)), np.empty(0)))

    other = trained("vae", 2, 1.0)
    other.model.decoder[1] = torch.nn.Tanh()
    save_weights(tmp_path / "tanh.safetensors", other)
    with pytest.raises(NotExplorable, match=r"tanh\.safetensors: .*linear layers.*Linear, Tanh"):
        read("tanh.safetensors")
    save_arrays(tmp_path / "plain.safetensors", {"decoder.0.weight": np.ones((784, 2), np.float32)}, {"decoder": ["Linear"]})
    with pytest.raises(NotExplorable, match=r"plain\.safetensors: .*decoder\.0 is none of them"):
        read("plain.safetensors")
    save_arrays(tmp_path / "bilinear.safetensors", {}, {"decoder": ["Linear", "ReLU", "Bilinear"]})
    with pytest.raises(NotExplorable, match="the decoder's layers are Linear, ReLU, Bilinear"):
        read("bilinear.safetensors")
    save_arrays(tmp_path / "old.safetensors", {}, {"model": "vae"})
    with pytest.raises(NotExplorable, match=r"old\.safetensors: .*unknown"):
        read("old.safetensors")


def test_color_images_and_names_of_classes_are_in_the_page(monkeypatch):
    monkeypatch.setattr("pipeline.explorer.page.PIXELS", 100_000)
    shown = data(explorer(cards(2, shape=(3, 32, 24), classes=NAMES), images((3, 32, 24))))
    assert (shown["shape"], shown["ink"], shown["named"], shown["names"]) == ([32, 24, 3], False, True, list(NAMES))
    assert shown["images"][2] == 43 * 3 * 32 * 24, "as many images as fit"
    assert shown["labels"][2] == len(LABELS), "and a dot for each code"
    plain = data(explorer(cards(2), images()))
    assert (plain["shape"], plain["ink"], plain["named"]) == ([28, 28, 1], True, False)


class Logged:
    """A run that remembers the files it is given."""

    def __init__(self):
        self.files = []

    def log_file(self, path, folder=None):
        self.files.append(Path(path).name)


@pytest.fixture
def runs(monkeypatch):
    """The MLflow runs by the md5 of their weights, in place of a store."""
    found = {}
    monkeypatch.setattr(store, "find", lambda md5: found.setdefault(md5, Logged()))
    return found


def test_stage_writes_the_same_page_each_time_and_logs_it_to_each_run(tmp_path, runs):
    workspace(tmp_path, 2)
    first = stage(tmp_path).read_bytes()
    assert stage(tmp_path).read_bytes() == first
    assert [run.files for run in runs.values()] == [["explorer.html"] * 2] * 2
    assert b'"map"' in first
    workspace(tmp_path, 1)
    assert '"map"' not in stage(tmp_path).read_text()


@pytest.mark.parametrize("labels", [LABELS, LETTERS, None])
def test_sweep_adds_its_models_to_the_card_of_their_kind(tmp_path, runs, labels):
    workspace(tmp_path, 2, labels=labels)
    first = stage(tmp_path).read_bytes()
    assert stage(tmp_path, "--sweep", str(tmp_path / "empty")).read_bytes() == first
    swept = data(stage(tmp_path, "--sweep", str(tmp_path / "sweep")).read_text())
    assert [[model["beta"] for model in card] for card in swept["cards"]] == [[None], [1.0, 0.5, 2.0, 8.0]]
    assert ["map" in model for model in swept["cards"][1]] == [True, False, False, False], "only the first was evaluated"


def test_weights_that_do_not_belong_to_the_results_are_refused(tmp_path, runs):
    workspace(tmp_path, 2)
    other = replace(trained("vae", 2, 4.0), dataset="letters")
    save_weights(tmp_path / "sweep" / "letters.safetensors", other)
    with pytest.raises(IntegrityError, match=r"letters\.safetensors.*another data set"):
        stage(tmp_path, "--sweep", str(tmp_path / "sweep"))
    save_weights(tmp_path / "models" / "vae.safetensors", trained("vae", 2, 1.0, seed=9))
    with pytest.raises(IntegrityError, match="of other weights"):
        stage(tmp_path)
    workspace(tmp_path, 2)
    save_arrays(
        tmp_path / "models" / "replay" / "vae.safetensors", {"codes": np.zeros((4, 9, 2), np.float32)}, {"weights_md5": "x"}
    )
    with pytest.raises(IntegrityError, match=r"replay/vae\.safetensors: of another training"):
        stage(tmp_path)
    workspace(tmp_path, 2)
    other = Images(images(), (LABELS + 1) % 10)
    save_dataset(tmp_path / "dataset.safetensors", Dataset("digits", other, other))
    with pytest.raises(IntegrityError, match=r"dataset\.safetensors: another data set than the results'"):
        stage(tmp_path)


def test_a_damaged_file_of_a_sweep_is_not_dvcs(tmp_path, runs):
    workspace(tmp_path, 2)
    (tmp_path / "sweep" / "0.5.safetensors").write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match=r"0\.5\.safetensors: .*; delete it and run `latent sweep` again"):
        stage(tmp_path, "--sweep", str(tmp_path / "sweep"))


@pytest.mark.parametrize("change", [{"dtype": np.int8}, {"fill": np.nan}], ids=str)
def test_a_crafted_decoder_is_refused(change, tmp_path):
    weights = np.full((4, 2), change.get("fill", 1), change.get("dtype", np.float32))
    arrays = {"decoder.0.weight": weights, "decoder.0.bias": np.zeros(4, np.float32)}
    arrays |= {"decoder.2.weight": np.zeros((5, 4), np.float32), "decoder.2.bias": np.zeros(5, np.float32)}
    save_arrays(tmp_path / "x", arrays, {"decoder": ["Linear", "ReLU", "Linear"]})
    with pytest.raises(IntegrityError, match="x: not weights of this version"):
        read_networks(tmp_path / "x", images(), np.zeros((5, 2), np.float32), (np.empty((0, 2)), np.empty(0)))


def test_page_is_written_without_importing_torch(tmp_path):
    code = "import sys, pipeline.explorer.page; print({'torch', 'mlflow', 'matplotlib.pyplot'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_a_decoder_of_other_layers_gives_a_page_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_dataset("data/dataset.safetensors", Dataset("blobs", Images(images()), Images(images())))
    save_arrays("models/vae.safetensors", {}, {"decoder": ["Linear", "Upsample"]})
    codes = {"codes": np.zeros((300, 2), np.float32)}
    save_results("results/vae.safetensors", Results("blobs", "vae", 1.0, 1, [], md5("models/vae.safetensors"), codes))
    done = CliRunner().invoke(explorer_stage.main, [])
    assert done.exit_code == 0, done.output
    assert "the decoder's layers are Linear, Upsample" in done.output
    assert "No explorer" in Path("explorer/explorer.html").read_text()


def test_results_of_some_test_images_are_shown_beside_these(tmp_path, runs):
    workspace(tmp_path, 2)
    indices = np.arange(1, len(LABELS), 2)
    for path in (tmp_path / "results").glob("*.safetensors"):
        whole = load_results(path)
        some = {name: whole[name][indices] for name in ("codes", "spread", "labels")}
        shown = {name: whole[name][1::2] for name in ("inputs", "reconstructions")}
        save_results(path, replace(whole, arrays=whole.arrays | some | shown | {"test_indices": indices}))
    _, shown = load_explored(tmp_path / "results", tmp_path / "models", tmp_path / "dataset.safetensors")
    assert np.array_equal(shown, images()[1::2])
    assert stage(tmp_path).exists()
