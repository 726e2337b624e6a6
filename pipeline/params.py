"""The typed, validated schema of params.yaml."""

import re
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML, tokens
from ruamel.yaml.error import YAMLError

from pipeline.errors import ParamsError

# The limits of a file. Its parser needs minutes for a text that consists of brackets.
MAX_BYTES, MAX_BRACKETS, MAX_TOKENS, MAX_DEPTH = 64 * 1024, 2000, 10_000, 20
_REFUSED = tokens.AnchorToken | tokens.AliasToken | tokens.TagToken | tokens.DirectiveToken
_STARTS = (
    tokens.BlockSequenceStartToken | tokens.BlockMappingStartToken | tokens.FlowSequenceStartToken | tokens.FlowMappingStartToken
)
_ENDS = tokens.BlockEndToken | tokens.FlowSequenceEndToken | tokens.FlowMappingEndToken


class Section(BaseModel):
    """A mapping in a YAML file; every key is declared and checked."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


AnySection = TypeVar("AnySection", bound=Section)
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Width = Annotated[int, Field(ge=1, le=65536)]


def _without_credentials(mirror: str) -> str:
    if re.match(r"\s*([a-z][a-z0-9+.-]+:|//)", mirror, re.IGNORECASE) and set(mirror) & {"@", "?"}:
        raise ValueError(
            "a URL with '@' or '?' may hold a password, which would go into git and MLflow; set it as PIPELINE_MIRROR instead"
        )
    return mirror


Mirror = Annotated[str, AfterValidator(_without_credentials)]


def _is_local(path: str) -> str:
    if not path.strip() or not path.isprintable() or "://" in path or path.startswith("~"):
        raise ValueError("allowed is the path of a folder or file on this machine")
    return path


class ImageParams(Section):
    size: int = Field(ge=1, le=4096, description="Height and width in pixels.")
    channels: Literal[1, 3] = Field(description="1: gray, 3: color.")
    fit: Literal["crop", "pad"] = Field(description="How a file becomes a square: crop keeps its center, pad adds bars.")
    background: Literal["white", "black"] = Field(description="Color of transparent pixels and of the bars.")


class DataParams(Section):
    name: Name = Field(description="Data set, one of pipeline/datasets, or folder or arrays for images of your own.")
    path: Annotated[str, AfterValidator(_is_local)] = Field(
        max_length=4096, description="Of folder and arrays: where they are. DVC needs a path that exists for all data sets."
    )
    image: ImageParams = Field(description="Of folder: what the image files become.")
    test_size: float = Field(gt=0, lt=1, description="Of folder and arrays without a split: fraction of the images to test.")
    on_error: Literal["stop", "skip"] = Field(description="Of folder, for files that cannot be read: stop, or leave them out.")
    mirror: Mirror | None = Field(description="Folder, ``file:`` or ``http(s):`` URL that is asked, not the published mirrors.")
    fallback: Literal["digits"] | None = Field(description="Data set used when no mirror answers; null: stop with exit code 3.")
    val_size: float = Field(gt=0, le=0.5, description="Fraction of the training images held out for validation by ``seed``.")


class TrainParams(Section):
    batch_size: int = Field(ge=1, le=65536, description="Images per step.")
    learning_rate: float = Field(gt=0, le=1e9, description="Initial learning rate of Adam (1412.6980) and Shampoo (1802.09568).")
    schedule: Literal["constant", "cosine"] = Field(description="Learning rate: constant, or a half cosine to 0 (1608.03983).")
    patience: int = Field(ge=0, le=100000, description="Epochs without a lower validation loss before it stops; 0: never early.")
    threads: int = Field(ge=1, le=1024, description="CPU threads; another number gives other last bits.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(description="Where to compute; auto: cuda, else mps, else cpu.")
    precision: Literal["float32", "bfloat16"] = Field(description="Precision of the factors of a matmul, where the device can.")
    binarize: bool = Field(
        description="Draw each training pixel black or white, with its intensity as probability, anew in each step (1509.00519)."
    )
    shards: Literal[1, 2, 4, 8, 16, 32, 64] = Field(
        description="Equal parts of a batch whose gradients are added in a fixed order, in one process or in those of torchrun."
    )

    @model_validator(mode="after")
    def _shards_divide_the_batch(self) -> Self:
        if self.batch_size % self.shards:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of shards, {self.shards}")
        return self


class ModelParams(Section):
    net: Name = Field(description="Encoder and decoder, one of NETS in pipeline/models; training refuses an unknown name.")
    latent_dim: int = Field(ge=1, le=4096, description="Dimensions of the latent space.")
    hidden_dims: list[Width] = Field(max_length=16, description="Widths of the encoder's hidden layers; mirrored in the decoder.")
    epochs: int = Field(ge=1, le=100000, description="Passes over the training images.")
    input_dropout: float = Field(ge=0, lt=1, description="Fraction of the encoder's input pixels set to zero (1805.08913).")
    decoder_input_lr_multiplier: float = Field(
        gt=0, le=1e9, description="Factor on the learning rate of the decoder's first layer, which learns slowly with few inputs."
    )
    # The cost of one-sided Shampoo grows with the square of a matrix's smaller side times the larger.
    hidden_optimizer: Literal["adam", "shampoo"] = Field(description="Optimizer of the matrices between hidden layers.")


class VAEParams(ModelParams):
    warmup_epochs: int = Field(ge=0, le=100000, description="Epochs, at most all, in which the KL weight rises to beta; 0: none.")


class ClassifierParams(Section):
    seed: int = Field(ge=0, lt=2**31, description="Seed of its weights and batches; it measures the models of all seeds.")
    steps: int = Field(ge=10, le=1000000, description="Batches of 128 images it is trained on, at most.")
    min_accuracy: float = Field(ge=0, le=1, description="Test accuracy below which the metrics that need it are left out.")


class EvaluateParams(Section):
    profile: Literal["fast", "full"] = Field(description="fast: at most 2,000 test images; full: all of them.")
    num_samples: int = Field(ge=1, le=1000, description="Posterior samples per image for the reconstruction term.")


class ClaimsParams(Section):
    seeds: int = Field(ge=1, le=100, description="Number of seeds from ``seed`` on; all but the first train every model again.")
    comparison_beta: float = Field(ge=0, le=1e9, description="Beta of the comparison model for the claims about beta.")


class PoolParams(Section):
    threads: int = Field(ge=1, le=1024, description="CPU threads of each process; another number gives other last bits.")


class TrackingParams(Section):
    sample_every: int = Field(ge=1, le=100000, description="Epochs between two sample grids.")


class FiguresParams(Section):
    scatter_points: int = Field(ge=10, le=100000, description="Test images in the latent scatter plot.")
    manifold_size: int = Field(ge=2, le=64, description="Images along each side of the manifold.")
    dpi: int = Field(ge=50, le=600, description="Dots per inch of the PNGs.")


class Params(Section):
    """Everything that decides a result, one field per key of params.yaml."""

    seed: int = Field(ge=0, lt=2**31, description="Seed of every random choice.")
    beta: float = Field(ge=0, le=1e9, description="Weight of the VAE's KL term (beta-VAE, openreview Sy2fzU9gl); 1 is the ELBO.")
    likelihood: Literal["auto", "bernoulli", "continuous_bernoulli", "gaussian", "discretized_logistic"] = Field(
        description="Distribution of a pixel given the decoder's output; auto: bernoulli if gray, discretized_logistic if color."
    )
    data: DataParams = Field(description="The data set and its source.")
    train: TrainParams = Field(description="How every model is trained.")
    ae: ModelParams = Field(description="The autoencoder and how long it is trained.")
    vae: VAEParams = Field(description="The variational autoencoder (Auto-Encoding Variational Bayes, 1312.6114).")
    classifier: ClassifierParams = Field(description="The reference classifier, which measures decoded images.")
    evaluate: EvaluateParams = Field(description="The budget of the evaluation.")
    claims: ClaimsParams = Field(description="The models that the claims are tested on.")
    pool: PoolParams = Field(description="Trainings that run at once: comparison models, seeds, sweeps.")
    tracking: TrackingParams = Field(description="What is logged to MLflow beside metrics and files.")
    figures: FiguresParams = Field(description="How the figures are drawn.")


def parse(path: Path | str, text: str) -> dict[str, Any]:
    """Return the mapping that a YAML text is. Raises ParamsError, naming ``path``, for what :func:`load_yaml` refuses."""
    # DVC reads params.yaml as YAML 1.2 through ruamel.yaml; another parser would see `1e-3` as a string.
    yaml, depth = YAML(typ="safe", pure=True), 0
    try:
        too_large = text.count("[") + text.count("{") > MAX_BRACKETS
        for count, token in enumerate(() if too_large else yaml.scan(text)):
            is_merge = isinstance(token, tokens.ScalarToken) and token.plain and token.value == "<<"
            if is_merge or isinstance(token, _REFUSED):
                where = f"{path}:{token.start_mark.line + 1}"
                raise ParamsError(f"{where}: anchors, aliases and tags, << and % are not allowed; write the value out")
            depth += isinstance(token, _STARTS) - isinstance(token, _ENDS)
            if too_large := depth > MAX_DEPTH or count > MAX_TOKENS:
                break
        if too_large:
            raise ParamsError(f"{path}: more values or brackets than any file of parameters needs")
        values = yaml.load(text)
    except (YAMLError, ValueError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ParamsError(f"{where}: not valid YAML: {' '.join(problem.split()):.200}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: allowed is a mapping of keys, not {'nothing' if values is None else type(values).__name__}")
    return values


def _problem(detail: Any) -> str:
    match detail["type"]:
        case "missing":
            return "missing; add it (see the one in this repository)"
        case "extra_forbidden":
            return "unknown key; check the spelling or remove it"
        case "value_error":  # without the value, which may be a secret
            return str(detail["ctx"]["error"])
    allowed = detail["msg"].replace("Input should be", "allowed is").replace("Input", "it")
    return f"{detail['input']!r:.80} is not allowed; {allowed}"


def _explain(details: Iterable[Any]) -> str:
    lines = [f"{'.'.join(map(str, detail['loc'])):.80}: {_problem(detail)}" for detail in details]
    return "; ".join(lines[:3]) + (f"; and {len(lines) - 3} more" if len(lines) > 3 else "")


def load_yaml(path: str | Path, schema: type[AnySection]) -> AnySection:
    """Read a YAML file and check it against a schema.

    Raises ParamsError, one line with key, value and what is allowed, for anything unknown, missing, duplicate, ill-typed
    or out of range, and for what is no file, over 64 KB, nested deeply or not UTF-8, for anchors, aliases, tags, directives and
    merge keys.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # reading a pipe may wait for ever
            raise ParamsError(f"{path}: not a file")
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ParamsError(f"{path}: over {MAX_BYTES // 1024} KB, more than any file of parameters needs")
        return schema.model_validate(parse(path, content.decode("utf-8-sig")))
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error.strerror}); run from the root of the repository") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except ValidationError as error:
        raise ParamsError(f"{path}: {_explain(error.errors(include_url=False))}") from None


def with_values(params: Params, values: Mapping[str, Any]) -> Params:
    """Return params with other values of some keys that they have.

    Raises ParamsError, one line with key, value and what is allowed.

    >>> with_values(load_params("params.yaml"), {"vae.latent_dim": 8}).vae.latent_dim
    8
    """
    changed = params.model_dump()
    for key, value in values.items():
        *sections, last = key.split(".")
        reduce(getitem, sections, changed)[last] = value
    try:
        return Params.model_validate(changed)
    except ValidationError as error:
        raise ParamsError(_explain(error.errors(include_url=False))) from None


def _differs_from_git(path: str | Path) -> bool:
    with suppress(OSError):
        return subprocess.run(["git", "diff-index", "--quiet", "HEAD", "--", path], capture_output=True).returncode == 1
    return False


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check params.yaml before any work is done; :func:`load_yaml` says what it refuses."""
    try:
        return load_yaml(path, Params)
    except ParamsError as error:
        if _differs_from_git(path):  # DVC leaves a refused -S value in the file
            undo = f"correct it there, or drop all changes since the last commit: `git checkout {path}`"
            raise ParamsError(f"{error}; {undo}") from None
        raise
