"""``python -m pipeline.sweep``: train VAEs of one shape at many (beta, seed) together, by matrix products over a model axis.

Each model gets the first weights, permutations, masks and noise that it would get alone, so it ends where a training of its
own ends, up to rounding. Each is an MLflow run of the same form, with the likelihood of the test images; weights and
histories go to ``--out``. DVC knows nothing of it: it is for looking around, ``dvc exp run`` for keeping.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import click
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from tqdm import tqdm

from pipeline import runs, runtime, tracking
from pipeline.checkpoint import source_sha256
from pipeline.command import one_line
from pipeline.data import Dataset, Split, holdout, load_dataset
from pipeline.epoch import draw_batches, learning_rate_at, resident, validate
from pipeline.errors import DivergedError, ParamsError
from pipeline.examination import examine
from pipeline.experiment import build, reads
from pipeline.files import md5
from pipeline.history import flatten, save_csv
from pipeline.models.vae import VAE
from pipeline.objectives import bernoulli_nll, gaussian_kl, reparameterise
from pipeline.optimizer import Optimizer
from pipeline.params import Params, load_params
from pipeline.runtime import Runtime, generator
from pipeline.weights import Trained, save_weights

NAME = "vae"


class Stack(nn.Module):
    """K VAEs of one shape as one module: weights ``[K, out, in]``, one batched product a layer instead of K."""

    def __init__(self, models: Sequence[VAE]) -> None:
        super().__init__()
        self.models = list(models)  # a list, so that their parameters are not this module's
        self.layers = [self._linear(model) for model in self.models]
        self.depth = sum(isinstance(layer, nn.Linear) for layer in models[0].encoder)
        pairs = list(zip(*self.layers, strict=True))
        self.weights = nn.ParameterList(torch.stack([layer.weight.detach() for layer in same]) for same in pairs)
        self.biases = nn.ParameterList(torch.stack([layer.bias.detach() for layer in same])[:, None] for same in pairs)

    @staticmethod
    def _linear(model: VAE) -> list[nn.Linear]:
        return [layer for net in (model.encoder, model.decoder) for layer in net if isinstance(layer, nn.Linear)]

    def lend(self) -> None:
        """Let each model's parameters be its slice of the stack, so that each can be used by itself."""
        for k, layers in enumerate(self.layers):
            for layer, weight, bias in zip(layers, self.weights, self.biases, strict=True):
                layer.weight.data, layer.bias.data = weight.data[k], bias.data[k, 0]

    def _run(self, x: Tensor, start: int, stop: int) -> Tensor:
        for index in range(start, stop):
            x = torch.baddbmm(self.biases[index], x, self.weights[index].mT)
            x = x if index == stop - 1 else x.relu()
        return x

    def objective(self, x: Tensor, seen: Tensor, noise: Tensor, beta: Tensor) -> dict[str, Tensor]:
        """Return what :meth:`VAE.objective` returns, for each model ``[K]``.

        Args:
            x: images ``[K, B, input_dim]`` in [0, 1].
            seen: what the encoder sees of them.
            noise: standard normal ``[K, B, latent_dim]``.
            beta: weights of the KL terms ``[K]``.
        """
        mean, logvar = self._run(seen, 0, self.depth).chunk(2, dim=-1)
        logits = self._run(reparameterise(mean, logvar, noise), self.depth, len(self.weights))
        recon, kl = bernoulli_nll(logits, x).mean(-1), gaussian_kl(mean, logvar).sum(-1).mean(-1)
        return {"loss": recon + beta * kl, "recon": recon, "kl": kl}

    def autograd(self, x: Tensor, seen: Tensor, noise: Tensor, beta: Tensor) -> dict[str, Tensor]:
        """Add the gradients of each model's loss to its parameters' and return the terms: the reference, for any precision."""
        terms = self.objective(x, seen, noise, beta)
        terms["loss"].sum().backward()  # no model's loss depends on another's weights, so each gets its own gradient
        return {name: value.detach() for name, value in terms.items()}

    @torch.no_grad()
    def explicit(self, x: Tensor, seen: Tensor, noise: Tensor, beta: Tensor) -> dict[str, Tensor]:
        """Do the same with the backward pass written out, as in :class:`pipeline.step.ExplicitStep`; gradients are replaced."""
        last, scale = len(self.weights) - 1, 1 / x.shape[1]
        inputs, h = [], seen
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if index == self.depth:
                mean, logvar = h.chunk(2, dim=-1)
                std = torch.exp(0.5 * logvar)
                h = torch.addcmul(mean, std, noise)
            inputs.append(h)
            h = torch.baddbmm(bias, h, weight.mT)
            if index not in (self.depth - 1, last):
                h.relu_()
        t = torch.sigmoid(-h)
        recon = -scale * ((x * h).sum((1, 2)) + t.log().sum((1, 2)))
        var, rate = std.square(), (beta * scale)[:, None, None]
        kl = 0.5 * scale * (mean.square() + var - 1 - logvar).sum((1, 2))
        delta = (1 - t).sub_(x).mul_(scale)  # of the loss with respect to a layer's output, from the last to the first
        for index in range(last, -1, -1):
            weight, bias, h = self.weights[index], self.biases[index], inputs[index]
            torch.bmm(delta.mT, h, out=weight.grad)
            torch.sum(delta, 1, keepdim=True, out=bias.grad)
            if index:
                delta = torch.bmm(delta, weight)
                if index == self.depth:
                    delta = torch.cat([delta + rate * mean, 0.5 * (delta * noise * std + (var - 1) * rate)], dim=-1)
                else:
                    torch.ops.aten.threshold_backward.grad_input(delta, h, 0, grad_input=delta)
        return {"loss": recon + beta * kl, "recon": recon, "kl": kl}


@dataclass
class Member:
    """One model of a sweep and how its training went; ``model`` has the best weights once the sweep is over."""

    model: VAE
    beta: float
    seed: int
    rows: list[dict[str, float]] = field(default_factory=list)
    """The history, a row an epoch, as a single training writes it."""
    best_epoch: int = 0
    waited: int = 0

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"{NAME}_beta{self.beta:g}_seed{self.seed}"


def fit_together(
    members: Sequence[Member],
    splits: dict[int, tuple[Split, Split]],
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    schedule: str = "cosine",
    patience: int = 7,
    warmup_epochs: int = 0,
    input_dropout: float = 0.0,
    latent_lr_scale: float = 1.0,
    preconditioner: str = "none",
    runtime: Runtime | None = None,
) -> Iterator[list[Member]]:
    """Train all members as :func:`pipeline.trainer.fit` would each, yielding after each epoch those that still learnt.

    Args:
        members: their models are trained in place.
        splits: training and validation images by seed, of equal sizes.
        epochs, batch_size, learning_rate, schedule, patience, warmup_epochs, input_dropout, latent_lr_scale,
            preconditioner: as for ``fit``.
        runtime: where to compute; by default the CPU as it is.

    Raises:
        DivergedError: a loss or a gradient was not finite; it names the members.
    """
    runtime = runtime or Runtime(torch.device("cpu"))
    device, seeds, warmup_epochs = runtime.device, list(splits), min(warmup_epochs, epochs)
    row = torch.tensor([seeds.index(member.seed) for member in members], device=device)  # a member's row of the seeds' data
    betas = torch.tensor([member.beta for member in members], device=device)
    stack = Stack([member.model.to(device).train() for member in members])
    ends = 0, stack.depth - 1, stack.depth, len(stack.weights) - 1
    hidden = [f"weights.{i}" for i in range(len(stack.weights)) if i not in ends] if preconditioner == "shampoo" else []
    faster = f"weights.{stack.depth}", f"biases.{stack.depth}"
    optimizer = Optimizer(stack, dict.fromkeys(faster, latent_lr_scale), hidden)
    stack.lend()
    images, held_out = ({seed: resident(splits[seed][part], device) for seed in seeds} for part in (0, 1))
    size, dim = len(images[seeds[0]]), members[0].model.latent_dim
    batch_size = min(batch_size, size)
    steps = size // batch_size
    val_noise = {s: torch.randn(len(held_out[s]), dim, generator=generator(s, "validation")).to(device) for s in seeds}
    best = [parameter.detach().clone() for parameter in stack.parameters()]

    for epoch in range(1, epochs + 1):
        learning = [k for k, member in enumerate(members) if not (patience and member.waited >= patience)]
        if not learning:
            break
        drawn = [draw_batches(s, epoch, size, batch_size, images[s].shape[1], dim, input_dropout) for s in seeds]
        order, masks, mask_order, noise = (
            torch.stack(same).to(device) for same in zip(*(vars(each).values() for each in drawn), strict=True)
        )
        weight = betas * min(1.0, epoch / warmup_epochs) if warmup_epochs else betas
        totals: dict[str, Tensor] = {}
        for i in range(steps):
            rate = learning_rate_at(schedule, learning_rate, (epoch - 1) * steps + i, epochs * steps)
            pixels = torch.stack([images[s].index_select(0, rows) for s, rows in zip(seeds, order[:, i], strict=True)])
            mask = torch.stack([pool.index_select(0, rows) for pool, rows in zip(masks, mask_order[:, i], strict=True)])
            x = pixels.float().div_(255)
            x, seen, eps = x[row], (x * mask)[row], noise[row, i]
            with runtime.autocast():
                if runtime.keeps_float32:
                    terms = stack.explicit(x, seen, eps, weight)
                else:
                    optimizer.gradient.zero_()
                    terms = stack.autograd(x, seen, eps, weight)
            optimizer.step(terms["loss"].sum(), rate)
            optimizer.adapt()
            totals = {name: totals.get(name, 0) + value for name, value in terms.items()}
        if optimizer.bad.item():
            lost = [member.name for k, member in enumerate(members) if not totals["loss"][k].isfinite()]
            raise DivergedError(
                f"epoch {epoch}: the loss or a gradient of {', '.join(lost) or 'a model'} is not finite; "
                f"leave it out or lower train.learning_rate ({learning_rate:g})"
            )
        for k in learning:
            member = members[k]
            metrics = {f"train/{name}": totals[name][k].item() / steps for name in totals}
            metrics |= flatten({"val": validate(member.model, held_out[member.seed], val_noise[member.seed])})
            if not math.isfinite(metrics["val/loss"]):
                raise DivergedError(f"{member.name}, epoch {epoch}: the validation loss is not finite; leave it out")
            member.rows.append({"epoch": epoch, **metrics, "learning_rate": rate})
            lowest = member.rows[member.best_epoch - 1]["val/loss"] if member.best_epoch else math.inf
            if metrics["val/loss"] < lowest and epoch >= warmup_epochs:
                member.best_epoch, member.waited = epoch, 0
                for kept, parameter in zip(best, stack.parameters(), strict=True):
                    kept[k].copy_(parameter.detach()[k])
            elif epoch > warmup_epochs:
                member.waited += 1
        yield [members[k] for k in learning]

    with torch.no_grad():
        for kept, parameter in zip(best, stack.parameters(), strict=True):
            parameter.copy_(kept)
    for member in members:
        member.model.eval()


def assemble(dataset: Dataset, params: Params, betas: Sequence[float], seeds: Sequence[int]) -> tuple[list[Member], dict]:
    """Return the untrained members, each at its own first weights, and the images by seed."""
    splits = {seed: holdout(dataset.train, params.data.val_size, seed) for seed in seeds}
    members = []
    for beta, seed in product(betas, seeds):
        model = build(NAME, params.vae, splits[seed][0], seed)
        assert isinstance(model, VAE)
        members.append(Member(model, beta, seed))
    return members, splits


def options(params: Params) -> dict[str, object]:
    """Return the params by which a sweep trains, as keywords of :func:`fit_together`."""
    chosen = params.train.model_dump(include={"batch_size", "learning_rate", "schedule", "patience"})
    of_model = {"epochs", "warmup_epochs", "input_dropout", "latent_lr_scale", "preconditioner"}
    return chosen | params.vae.model_dump(include=of_model)


def sweep(params: Params, betas: Sequence[float], seeds: Sequence[int], data: Path, judge: Path, out: Path) -> list[Path]:
    """Train, log and measure all (beta, seed); return the weights' files.

    Raises ParamsError for a beta or a seed that is not allowed, and what a single training raises.
    """
    settings = {}
    for beta, seed in product(betas, seeds):
        try:
            settings[beta, seed] = Params.model_validate(params.model_dump() | {"beta": beta, "seed": seed})
        except ValidationError as error:
            detail = error.errors()[0]
            raise ParamsError(f"--{detail['loc'][0]}s: {detail['input']!r} is not allowed; {detail['msg']}") from None
    dataset, data_md5 = load_dataset(data), md5(data)
    members, splits = assemble(dataset, params, betas, seeds)
    with runtime.use(params.train.device, params.train.threads, params.train.precision) as rt, ExitStack() as stack:
        click.echo(f"sweep: {len(members)} models on {dataset.name}; {rt}")
        tags = {"dataset": dataset.name, "data.md5": data_md5, "source.sha256": source_sha256(), "sweep": "true"}
        tags |= {"device": rt.device.type, "threads": str(rt.threads), "torch": torch.__version__}
        logs = []
        for member in members:
            values = reads(settings[member.beta, member.seed], NAME)
            logs.append(stack.enter_context(tracking.start(runs.label(values), tags)))
            runs.began(logs[-1], values, dataset.name, data, data_md5, dataset.train.images.shape)
        begun = time.perf_counter()
        epochs = fit_together(members, splits, runtime=rt, **options(params))  # type: ignore[arg-type]
        for learnt in (bar := tqdm(epochs, "sweep", params.vae.epochs, unit="epoch", disable=None)):
            if bar.disable:
                losses = ", ".join(f"{member.name} {member.rows[-1]['val/loss']:.2f}" for member in learnt)
                click.echo(f"sweep epoch {int(learnt[0].rows[-1]['epoch'])}/{params.vae.epochs}: val/loss {losses}")
            for member, run in zip(members, logs, strict=True):
                if member in learnt:
                    run.log_epoch(member.rows[-1], time.perf_counter() - begun)
        click.echo(f"sweep: trained in {time.perf_counter() - begun:.1f} s")
        files = []
        for member, run in zip(members, logs, strict=True):
            weights, history = out / f"{member.name}.safetensors", out / f"{member.name}_history.csv"
            own = settings[member.beta, member.seed]
            save_weights(weights, Trained(member.model, NAME, dataset.name, dataset.train.image_shape, member.beta))
            save_csv(history, member.rows)
            summary = {"epochs": len(member.rows), "best": member.rows[member.best_epoch - 1]}
            values, input_dim = reads(own, NAME), dataset.train.images[0].size
            runs.trained(run, values, flatten(summary), md5(weights), input_dim, history, weights)
            numbers = examine(member.name, weights, own, data, judge, ["test"]).numbers
            runs.evaluated(run, numbers["profile"], flatten(numbers), dataset.name, [])
            files.append(weights)
    return files


def _numbers(kind: type) -> object:
    def parse(context: click.Context, option: click.Parameter, value: str) -> list[float]:
        try:
            return list(dict.fromkeys(kind(part) for part in value.split(",")))
        except ValueError:
            raise click.BadParameter(f"{value!r}; allowed are numbers between commas, as in the default") from None

    return parse


@click.command()
@click.option("--betas", default="0.5,1,2,4,8", show_default=True, callback=_numbers(float))
@click.option("--seeds", default="1", show_default=True, callback=_numbers(int))
@click.option("--params", default="params.yaml", show_default=True, type=Path)
@click.option("--data", default="data/dataset.safetensors", show_default=True, type=Path)
@click.option("--judge", default="models/judge.safetensors", show_default=True, type=Path)
@click.option("--out", default="models/sweep", show_default=True, type=Path)
@one_line()
def main(betas: list[float], seeds: list[int], params: Path, data: Path, judge: Path, out: Path) -> None:
    """Train a VAE for each of --betas and --seeds, all together; the rest is as params.yaml has it."""
    for path in sweep(load_params(params), betas, seeds, data, judge, out):
        click.echo(f"sweep: {path}")


if __name__ == "__main__":
    main()
