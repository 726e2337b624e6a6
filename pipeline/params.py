"""The typed, validated schema of params.yaml."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.tokens import AliasToken, AnchorToken, TagToken

from pipeline.errors import ParamsError

MAX_BYTES = 64 * 1024


class Section(BaseModel):
    """A mapping in a YAML file, each key of which is declared and checked."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


AnySection = TypeVar("AnySection", bound=Section)
HiddenDims = Annotated[list[Annotated[int, Field(ge=1, le=65536)]], Field(max_length=16)]


class DataParams(Section):
    """Which images, and from where."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """The data set, one of pipeline/datasets; ``download`` refuses a name that is not there."""
    mirror: str | None
    """A folder, ``file:`` or ``http(s):`` URL with the data set's files, tried before the published ones."""
    fallback: Literal["digits"] | None
    """The data set to use, loudly, when no mirror answers; null: stop with exit code 3."""
    val_size: Annotated[float, Field(gt=0, le=0.5)]
    """Fraction of the published training images held out for validation, drawn by ``seed``."""


class TrainParams(Section):
    """How every model is trained."""

    batch_size: Annotated[int, Field(ge=1, le=65536)]
    """Images per step."""
    learning_rate: Annotated[float, Field(gt=0, le=1e9)]
    """Step size at the start, Adam's (Adam: A Method for Stochastic Optimization, 1412.6980) and Shampoo's."""
    schedule: Literal["constant", "cosine"]
    """Step size over the whole training: constant, or a half cosine down to zero (SGDR, 1608.03983)."""
    patience: Annotated[int, Field(ge=0, le=100000)]
    """Epochs without a lower validation loss before training stops; 0: never stop early."""
    threads: Annotated[int, Field(ge=1, le=1024)]
    """CPU threads; fixed here because another number gives other bits."""
    device: Literal["auto", "cpu", "cuda", "mps"]
    """Where to compute; auto: cuda, else mps, else cpu."""
    precision: Literal["float32", "bfloat16"]
    """In which matrix products read their factors, where the device can."""
    sample_every: Annotated[int, Field(ge=1, le=100000)]
    """Epochs between two sample grids in MLflow."""


class ModelParams(Section):
    """One model and how long it is trained."""

    latent_dim: Annotated[int, Field(ge=1, le=4096)]
    """Dimensions of the latent space."""
    hidden_dims: HiddenDims
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    epochs: Annotated[int, Field(ge=1, le=100000)]
    """Passes over the training images."""
    input_dropout: Annotated[float, Field(ge=0, lt=1)]
    """Fraction of the pixels hidden from the encoder in training (Amortized Inference Regularization, 1805.08913)."""
    latent_lr_scale: Annotated[float, Field(gt=0, le=1e9)]
    """Times ``train.learning_rate``: how the decoder's first layer learns, which is slow with few inputs."""
    preconditioner: Literal["none", "shampoo"]
    """What steps the matrices between hidden layers: one-sided Shampoo (1802.09568), whose cost grows with the square of the
    smaller side times the larger, or Adam like everything else (none)."""


class VAEParams(ModelParams):
    """The variational autoencoder (Auto-Encoding Variational Bayes, 1312.6114)."""

    warmup_epochs: Annotated[int, Field(ge=0, le=100000)]
    """Epochs, at most all, over which the weight of the KL term rises linearly to beta; 0: beta from the start."""


class EvaluateParams(Section):
    """What ``evaluate`` spends."""

    profile: Literal["fast", "full"]
    """fast: at most 2,000 test images; full: all of them."""
    num_samples: Annotated[int, Field(ge=1, le=1000)]
    """Draws from the posterior per image for the sampled reconstruction term."""
    judge_seed: Annotated[int, Field(ge=0, lt=2**31)]
    """Seed of the judge's weights and batches; apart from ``seed``, so that one judge judges the models of all seeds."""
    judge_steps: Annotated[int, Field(ge=10, le=1000000)]
    """Batches of 128 images the judge is trained on."""
    judge_accuracy: Annotated[float, Field(ge=0, le=1)]
    """Fraction of test images the judge must name rightly to be listened to; below, its metrics are left out."""
    seeds: Annotated[int, Field(ge=1, le=100)]
    """Seeds over which the claims are weighed, from ``seed`` on; each beyond the first trains every model again."""
    contrast_beta: Annotated[float, Field(ge=0, le=1e9)]
    """The beta of the VAE that the claims about beta compare with; equal to ``beta``: none is trained."""


class FiguresParams(Section):
    """How the figures are drawn."""

    scatter_points: Annotated[int, Field(ge=10, le=100000)]
    """Test images in the latent scatter."""
    manifold_size: Annotated[int, Field(ge=2, le=64)]
    """Images along each side of the manifold."""
    dpi: Annotated[int, Field(ge=50, le=600)]
    """Dots per inch of the PNGs."""


class Params(Section):
    """Everything that decides a result, one field per key of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**31)]
    """Every random choice derives from it."""
    beta: Annotated[float, Field(ge=0, le=1e9)]
    """Weight of the VAE's KL term (beta-VAE, openreview Sy2fzU9gl); 1 is the evidence lower bound."""
    data: DataParams
    train: TrainParams
    ae: ModelParams
    vae: VAEParams
    evaluate: EvaluateParams
    figures: FiguresParams


def _parse(path: Path, text: str) -> Any:
    # DVC reads params.yaml as YAML 1.2 through ruamel.yaml; another parser would see `1e-3` as a string.
    yaml = YAML(typ="safe", pure=True)
    try:
        for token in yaml.scan(text):
            if isinstance(token, AnchorToken | AliasToken | TagToken):
                line = token.start_mark.line + 1
                raise ParamsError(f"{path}:{line}: anchors, aliases and tags are not allowed; write the value out")
        return yaml.load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error)
        raise ParamsError(f"{where}: not valid YAML: {' '.join(problem.split())}") from None
    except (ValueError, RecursionError) as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from None


def _explain(details: Iterable[Any]) -> str:
    lines = []
    for detail in details:
        key = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "missing":
            lines.append(f"{key}: missing; add it (see the one in this repository)")
        elif detail["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key; check the spelling or remove it")
        else:
            allowed = detail["msg"].replace("Input should be", "allowed is").replace("Input", "it")
            lines.append(f"{key}: {detail['input']!r:.80} is not allowed; {allowed}")
    return "; ".join(lines[:3]) + (f"; and {len(lines) - 3} more" if len(lines) > 3 else "")


def load_yaml(path: str | Path, schema: type[AnySection]) -> AnySection:
    """Read a YAML file and check it against a schema.

    Raises ParamsError, one line with key, value and what is allowed, for anything unknown, missing, duplicate, ill-typed
    or out of range, and for files over 64 KB, anchors, aliases, tags and bytes that are not UTF-8.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error.strerror}); run from the root of the repository") from None
    if len(content) > MAX_BYTES:
        raise ParamsError(f"{path}: over {MAX_BYTES // 1024} KB; it should be a page of keys")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    values = _parse(path, text)
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: allowed is a mapping of keys, not {'nothing' if values is None else type(values).__name__}")
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ParamsError(f"{path}: {_explain(error.errors(include_url=False))}") from None


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check params.yaml before any work is done; :func:`load_yaml` says what it refuses."""
    return load_yaml(path, Params)
