"""Compare training recipes at the same budget: -ELBO on validation images, paired over seeds, with 95% intervals.

Each recipe is the default of params.yaml with the change that its name says: ``python -m benchmarks.recipe``, for other nets with
``--net``. No test image is used; ``python -m benchmarks.bounds`` measures on those once a recipe is chosen.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

from benchmarks.tools import ROOT, table
from pipeline import runtime
from pipeline.data import holdout, load_dataset
from pipeline.errors import one_line
from pipeline.models.base import LatentModel, parametric_layers
from pipeline.params import Params, load_params
from pipeline.stats import t_interval
from pipeline.sweeps.pool import Report, run_all
from pipeline.training.config import TrainConfig
from pipeline.training.run import new_model
from pipeline.training.trainer import fit


def initialize(scheme: Callable[[Tensor], Tensor], gain: float) -> Callable[[LatentModel], None]:
    """Return what draws a model's initial weights by a scheme, with ``gain`` before a ReLU, and zeroes its hidden biases."""

    @torch.no_grad()
    def prepare(model: LatentModel) -> None:
        for net in (model.encoder, model.decoder):
            *hidden, last = [layer for layer in parametric_layers(net) if isinstance(layer, nn.Linear)]
            for layer in (*hidden, last):
                scheme(layer.weight).mul_(1.0 if layer is last else gain)
                if layer is not last:
                    layer.bias.zero_()

    return prepare


def plain_bias(model: LatentModel) -> None:
    """Draw the decoder's output bias as torch does for any other layer of 512 inputs."""
    nn.init.uniform_(parametric_layers(model.decoder)[-1].get_parameter("bias"), -0.04, 0.04)


CONV = {"net": "conv", "hidden_dims": [32, 64]}
CONV_50 = CONV | {"latent_dim": 50, "input_dropout": 0.0, "hidden_optimizer": "adam"}
# What differs from params.yaml, by section.
NETS: dict[str, dict[str, dict[str, Any]]] = {
    "mlp, d = 2": {},
    "mlp, d = 20": {"vae": {"latent_dim": 20, "input_dropout": 0.0}},
    "conv, d = 2": {"vae": CONV},
    "conv, d = 50": {"vae": CONV_50},
    "conv, d = 50, binarized": {"train": {"binarize": True, "patience": 0}, "vae": CONV_50},
}


def params_of(net: str, seed: int, **changes: Any) -> Params:
    """Return params.yaml with another net for the VAE, and further changes of the section `vae`."""
    values = load_params(ROOT / "params.yaml").model_dump() | {"seed": seed}
    values |= {section: values[section] | keys for section, keys in NETS[net].items()}
    return Params.model_validate(values | {"vae": values["vae"] | changes})


@dataclass(frozen=True)
class Recipe:
    """What differs from the default."""

    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of :class:`pipeline.training.config.TrainConfig`."""
    model: dict[str, Any] = field(default_factory=dict)
    """Keys of the section `vae` of params.yaml."""
    prepare: Callable[[LatentModel], None] = lambda model: None
    """What is done to the untrained model."""


DEFAULT = "default"
RECIPES = {
    DEFAULT: Recipe(),
    "constant learning rate": Recipe({"schedule": "constant"}),
    "learning rate 1e-3": Recipe({"learning_rate": 1e-3}),
    "learning rate 3e-3": Recipe({"learning_rate": 3e-3}),
    "plain output bias": Recipe(prepare=plain_bias),
    "Kaiming initial weights": Recipe(prepare=initialize(partial(nn.init.kaiming_normal_, nonlinearity="linear"), 2**0.5)),
    "orthogonal initial weights": Recipe(prepare=initialize(nn.init.orthogonal_, 2**0.5)),
    "no KL warm-up": Recipe({"warmup_epochs": 0}),
    "KL warm-up over 10 epochs": Recipe({"warmup_epochs": 10}),
    "no input dropout": Recipe({"input_dropout": 0.0}),
    "input dropout 0.1": Recipe({"input_dropout": 0.1}),
    "input dropout 0.3": Recipe({"input_dropout": 0.3}),
    "decoder's first layer: learning rate x 1": Recipe({"decoder_input_lr_multiplier": 1.0}),
    "decoder's first layer: learning rate x 4": Recipe({"decoder_input_lr_multiplier": 4.0}),
    "decoder's first layer: learning rate x 64": Recipe({"decoder_input_lr_multiplier": 64.0}),
    "Adam everywhere": Recipe({"hidden_optimizer": "adam"}),
    "Adam everywhere, 36 epochs": Recipe({"hidden_optimizer": "adam", "epochs": 36}),  # nearly the time of 30 with Shampoo
    "batches of 64": Recipe({"batch_size": 64}),
    "hidden layers of 1024 and 512": Recipe(model={"hidden_dims": [1024, 512]}),
    "hidden layers of 512, 512 and 256": Recipe(model={"hidden_dims": [512, 512, 256]}),
}


def validation_loss(name: str, net: str, epochs: int, seed: int, data: Path, report: Report) -> float:
    """Return -ELBO of the best epoch, nats per validation image."""
    recipe, dataset = RECIPES[name], load_dataset(data)
    params = params_of(net, seed, epochs=epochs, **recipe.model)
    train, val = holdout(dataset.train, params.data.val_size, seed)
    config = replace(TrainConfig.from_params(params, params.vae), beta=1.0, patience=0, **recipe.changes)
    with runtime.use("cpu", threads=1) as rt:
        model = new_model("vae", params, dataset.name, train).model
        torch.manual_seed(seed)
        recipe.prepare(model)
        loss = min(epoch.metrics["val/loss"] for epoch in fit(model, train, val, config, runtime=rt))
    report(f"{loss:.2f} nats")
    return float(loss)


@click.command()
@click.option("--data", default="data/dataset.safetensors", show_default=True, type=Path)
@click.option("--net", default="mlp, d = 2", show_default=True, type=click.Choice(list(NETS)))
@click.option("--epochs", default=30, show_default=True, type=click.IntRange(min=5))
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(min=2))
@click.option("--workers", default=2, show_default=True, type=click.IntRange(min=1), help="Trainings at once, one thread each.")
@click.option("--only", multiple=True, type=click.Choice(list(RECIPES)), help="Recipes beside the default; repeatable.")
def main(data: Path, net: str, epochs: int, seeds: int, workers: int, only: tuple[str, ...]) -> None:
    """Print the table of recipes in docs/recipe.md."""
    names = [name for name in RECIPES if name == DEFAULT or not only or name in only]
    jobs = {(name, seed): f"{name}, seed {seed}" for seed in range(1, seeds + 1) for name in names}
    tasks = {label: partial(validation_loss, name, net, epochs, seed, data) for (name, seed), label in jobs.items()}
    losses = run_all(tasks, "recipe", workers, len(tasks))
    rows = []
    for name in names:
        own, default = ([losses[jobs[recipe, seed]] for seed in range(1, seeds + 1)] for recipe in (name, DEFAULT))
        mean, half_width = t_interval([loss - other for loss, other in zip(own, default, strict=True)])
        rows.append([name, f"{sum(own) / seeds:.2f}", f"{mean:+.2f}", f"± {half_width:.2f}"])
    table(("recipe", f"validation -ELBO, mean of {seeds} seeds", "against the default", "95% interval"), rows)


if __name__ == "__main__":
    with one_line():
        main()
