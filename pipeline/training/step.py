"""What computes the gradient of one step: autograd, or a fused step where one applies, over all of a batch or its shards."""

from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor

from pipeline.models import LatentModel
from pipeline.runtime import Ranks, Runtime, tree_sum
from pipeline.training.fused_mlp import FusedMLPStep


class TrainStep(Protocol):
    """Computes the gradient of a batch's loss."""

    def __call__(self, x: Tensor, encoder_input: Tensor, noise: Tensor, beta: float) -> dict[str, Tensor]:
        """Leave the gradient in every parameter's ``grad`` and return the scalar terms of the objective.

        Takes images ``x`` and what the encoder reads, both ``[B, C, H, W]``, standard normal noise ``[B, noise_dim]`` and the
        weight of the KL term.
        """


class AutogradStep:
    """The step as it is usually written: for any model, at any precision."""

    def __init__(self, model: LatentModel, runtime: Runtime) -> None:
        self.model, self.runtime = model, runtime

    def __call__(self, x: Tensor, encoder_input: Tensor, noise: Tensor, beta: float) -> dict[str, Tensor]:
        """Compute the gradient; the arguments are those of :class:`TrainStep`."""
        self.model.zero_grad(set_to_none=False)  # the gradients are views of the optimizer's flat one
        with self.runtime.autocast():
            terms = self.model.loss_terms(x, noise, beta, encoder_input)
        # torch.autocast has left its precision in the graph; the other context is read by each matmul when it runs.
        with self.runtime.autocast() if self.runtime.keeps_float32 else nullcontext():
            torch.autograd.backward(terms["loss"])
        return {name: value.detach() for name, value in terms.items() if value.ndim == 0}


class ShardedStep:
    """A step that takes the shards of a batch one after another, and adds their gradients and terms by a fixed tree.

    So the number of processes that share the shards changes no bit. Gradients and terms travel as one tensor.
    """

    def __init__(self, step: TrainStep, gradient: Tensor, shards: int, ranks: Ranks) -> None:
        self.step, self.gradient, self.shards, self.ranks = step, gradient, shards, ranks

    def __call__(self, x: Tensor, encoder_input: Tensor, noise: Tensor, beta: float) -> dict[str, Tensor]:
        """Compute the gradient; the arguments, those of :class:`TrainStep`, are of this process's shards alone."""
        names, rows = list[str](), []
        shards = [part.chunk(self.shards // self.ranks.size) for part in (x, encoder_input, noise)]
        for targets, inputs, eps in zip(*shards, strict=True):
            terms = self.step(targets, inputs, eps, beta)
            names = list(terms)
            rows.append(torch.cat([self.gradient, torch.stack([*terms.values()])]))
        total = self.ranks.tree_sum(tree_sum(torch.stack(rows))) / self.shards
        gradient, terms_of_all = total.split([len(self.gradient), len(names)])
        self.gradient.copy_(gradient)
        return dict(zip(names, terms_of_all.unbind(), strict=True))


def train_step(model: LatentModel, batch_size: int, runtime: Runtime, fused: bool = True) -> TrainStep:
    """Return the step for a model, fused if one applies. Every ``grad`` must be allocated already; :class:`Optimizer` does it."""
    if fused and FusedMLPStep.applies_to(model, runtime):
        return FusedMLPStep(model, batch_size, runtime)
    return AutogradStep(model, runtime)
