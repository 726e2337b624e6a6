"""One optimisation step: through autograd, the reference, and with the gradient of a multilayer perceptron written out."""

from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.optimizer import Optimizer
from pipeline.runtime import Runtime


def _add(totals: dict[str, Tensor], **terms: Tensor) -> None:
    for name, value in terms.items():
        totals[name] = totals[name].add_(value) if name in totals else value.clone()


class Step(Protocol):
    """What takes an optimisation step and adds up the terms of its objective."""

    totals: dict[str, Tensor]
    optimizer: Optimizer

    def __call__(self, pixels: Tensor, mask: Tensor, noise: Tensor, beta: float | Tensor, learning_rate: float | Tensor) -> None:
        """Take a step.

        Args:
            pixels: images ``[B, D]``, uint8.
            mask: by what the encoder sees each pixel multiplied ``[B, D]``; the reconstruction's target is the image itself.
            noise: standard normal ``[B, noise_dim]``.
            beta: weight of the KL term.
            learning_rate: the optimizer's step size.
        """


class AutogradStep:
    """The step as it is usually written: any model with an ``objective``, any precision."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, batch_size: int, runtime: Runtime) -> None:
        self.model, self.optimizer, self.runtime = model, optimizer, runtime
        self.totals: dict[str, Tensor] = {}

    def __call__(self, pixels: Tensor, mask: Tensor, noise: Tensor, beta: float | Tensor, learning_rate: float | Tensor) -> None:
        """Take a step; the arguments are those of :class:`Step`."""
        self.optimizer.gradient.zero_()
        x = pixels.float().div_(255)
        with self.runtime.autocast():
            terms: dict[str, Tensor] = self.model.objective(x, noise, beta, x * mask)  # type: ignore[operator]
        # torch.autocast has left its precision in the graph; the other context is read by each product when it runs.
        with self.runtime.autocast() if self.runtime.keeps_float32 else nullcontext():
            terms["loss"].backward()
        self.optimizer.step(terms["loss"].detach(), learning_rate)
        _add(self.totals, **{name: value.detach() for name, value in terms.items() if value.ndim == 0})


class _Layer:
    """A linear layer with the buffers that its products read and write; ``delta`` is the gradient of the loss at ``out``.

    Weights, gradients and buffers stay where they are, so every view of them is made once.
    """

    def __init__(self, linear: nn.Linear, x: Tensor, x_delta: Tensor | None, after_relu: bool, before_relu: bool) -> None:
        assert linear.weight.grad is not None
        assert linear.bias.grad is not None
        self.x, self.x_delta, self.after_relu, self.before_relu = x, x_delta, after_relu, before_relu
        self.weight, self.bias = linear.weight.detach(), linear.bias.detach()
        self.weight_grad, self.bias_grad = linear.weight.grad, linear.bias.grad
        self.out, self.delta = (x.new_empty(len(x), linear.out_features) for _ in range(2))
        self.weight_t, self.delta_t = self.weight.t(), self.delta.t()

    def forward(self) -> None:
        torch.addmm(self.bias, self.x, self.weight_t, out=self.out)
        if self.before_relu:
            self.out.relu_()

    def backward(self) -> None:
        """Write the gradients of weight, bias and input, the last one through the ReLU that the input came from."""
        torch.mm(self.delta_t, self.x, out=self.weight_grad)
        torch.sum(self.delta, 0, out=self.bias_grad)
        if self.x_delta is not None:
            torch.mm(self.delta, self.weight, out=self.x_delta)
            if self.after_relu:
                torch.ops.aten.threshold_backward.grad_input(self.x_delta, self.x, 0, grad_input=self.x_delta)


def _chain(net: nn.Sequential, x: Tensor, x_delta: Tensor | None) -> list[_Layer]:
    """Return the net's linear layers, each of which reads what the one before it writes."""
    layers: list[_Layer] = []
    linear = [module for module in net if isinstance(module, nn.Linear)]
    for module in linear:
        layers.append(_Layer(module, x, x_delta, after_relu=bool(layers), before_relu=module is not linear[-1]))
        x, x_delta = layers[-1].out, layers[-1].delta
    return layers


class ExplicitStep:
    r"""The same step for a perceptron with ReLU layers, with forward and backward pass written out over fixed buffers.

    Matrix products write into their buffers and into the flat gradient; nothing is recorded.
    With :math:`t = \mathrm{sigmoid}(-l)`, the reconstruction term is :math:`-\sum \log t + x l` and its gradient
    :math:`1 - t - x`, at a third of the cost of a softplus; a logit over 88 counts as a loss that is not finite.
    Equal to :class:`AutogradStep` up to rounding.
    """

    def __init__(self, model: Any, optimizer: Optimizer, batch_size: int, runtime: Runtime) -> None:
        self.optimizer, self.runtime, self.scale = optimizer, runtime, 1 / batch_size
        self.is_gaussian = model.noise_dim > 0
        input_dim = model.encoder[0].in_features
        self.x = torch.empty(batch_size, input_dim, device=runtime.device)
        self.seen = torch.empty_like(self.x)
        self.encoder = _chain(model.encoder, self.seen, None)
        encoded = self.encoder[-1]
        code, code_delta = encoded.out, encoded.delta
        if self.is_gaussian:
            self.mean, self.logvar = encoded.out.chunk(2, dim=1)
            self.mean_delta, self.logvar_delta = encoded.delta.chunk(2, dim=1)
            self.z, self.z_delta = (self.x.new_empty(self.mean.shape) for _ in range(2))
            code, code_delta = self.z, self.z_delta
        self.decoder = _chain(model.decoder, code, code_delta)
        self.x_flat, self.logits_flat = self.x.view(-1), self.decoder[-1].out.view(-1)
        self.totals: dict[str, Tensor] = {}

    @staticmethod
    def applies_to(model: Any, runtime: Runtime) -> bool:
        """Return whether the model is such a perceptron, says that its objective is this one, and keeps to float32."""

        def alternates(net: object) -> bool:
            kinds = isinstance(net, nn.Sequential) and all(
                isinstance(layer, nn.ReLU if index % 2 else nn.Linear) for index, layer in enumerate(net)
            )
            return kinds and len(net) % 2 == 1  # type: ignore[arg-type]

        # A subclass may have another objective, so it does not inherit the word of its parent.
        says_so = "has_plain_objective" in vars(type(model))
        return says_so and runtime.keeps_float32 and alternates(model.encoder) and alternates(model.decoder)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, mask: Tensor, noise: Tensor, beta: float | Tensor, learning_rate: float | Tensor) -> None:
        """Take a step; the arguments are those of :class:`Step`."""
        self.x.copy_(pixels).div_(255)
        torch.mul(self.x, mask, out=self.seen)
        self._forward(self.encoder)
        if self.is_gaussian:
            std = torch.exp(0.5 * self.logvar)
            torch.addcmul(self.mean, std, noise, out=self.z)
        self._forward(self.decoder)

        logits, delta = self.decoder[-1].out, self.decoder[-1].delta
        t = torch.sigmoid(logits.neg())
        torch.sub(1 - t, self.x, out=delta).mul_(self.scale)
        recon = (torch.dot(self.x_flat, self.logits_flat) + t.log_().sum()) * -self.scale
        self._backward(self.decoder)
        if self.is_gaussian:
            var, weight = std.square(), beta * self.scale
            kl = 0.5 * (self.mean.square() + var - 1 - self.logvar).sum() * self.scale
            loss = recon + beta * kl
            torch.add(self.z_delta, self.mean * weight, out=self.mean_delta)
            self.logvar_delta.copy_(0.5 * (self.z_delta * noise * std + (var - 1) * weight))
            _add(self.totals, loss=loss, recon=recon, kl=kl)
        else:
            loss = recon
            _add(self.totals, loss=loss, recon=recon)
        self._backward(self.encoder)
        self.optimizer.step(loss, learning_rate)

    def _forward(self, layers: list[_Layer]) -> None:
        with self.runtime.autocast():
            for layer in layers:
                layer.forward()

    def _backward(self, layers: list[_Layer]) -> None:
        with self.runtime.autocast():
            for layer in reversed(layers):
                layer.backward()
