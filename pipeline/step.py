"""One optimisation step: through autograd, the reference, and with the gradient of a multilayer perceptron written out."""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.runtime import Runtime


class FlatAdam:
    """A model's parameters and gradients as two flat buffers, stepped by one fused Adam call instead of one per tensor.

    Reference: Adam: A Method for Stochastic Optimization, 1412.6980.
    """

    def __init__(self, model: nn.Module, learning_rate: float) -> None:
        parameters = list(model.parameters())
        self.weights = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
        self.gradient = self.weights.grad = torch.zeros_like(self.weights)
        offset = 0
        for parameter in parameters:
            view = slice(offset, offset + parameter.numel())
            parameter.data = self.weights[view].view_as(parameter)
            parameter.grad = self.gradient[view].view_as(parameter)
            offset = view.stop
        self.adam = torch.optim.Adam([self.weights], lr=learning_rate, fused=True)
        # The fused kernel leaves weights and moments alone where this is 1: nothing is stepped after a bad gradient,
        # and nobody has to wait for the device to find out.
        self.bad = torch.zeros((), device=self.weights.device)
        self.adam.found_inf = self.bad  # type: ignore[attr-defined]

    def step(self, loss: Tensor, learning_rate: float) -> None:
        """Apply the gradient, unless it or the loss is not finite."""
        bad = torch.isfinite(loss + self.gradient.sum()).logical_not()
        torch.logical_or(self.bad, bad, out=self.bad)
        self.adam.param_groups[0]["lr"] = learning_rate
        self.adam.step()


def _add(totals: dict[str, Tensor], **terms: Tensor) -> None:
    for name, value in terms.items():
        totals[name] = totals[name] + value if name in totals else value


class AutogradStep:
    """The step as it is usually written: any model with an ``objective``, any precision."""

    def __init__(self, model: nn.Module, optimizer: FlatAdam, batch_size: int, runtime: Runtime) -> None:
        self.model, self.optimizer, self.runtime = model, optimizer, runtime
        self.totals: dict[str, Tensor] = {}

    def __call__(self, pixels: Tensor, noise: Tensor, beta: float, learning_rate: float) -> None:
        """Take one step on images ``[B, D]`` (uint8) with standard normal noise ``[B, noise_dim]``."""
        self.optimizer.gradient.zero_()
        with self.runtime.autocast():
            terms: dict[str, Tensor] = self.model.objective(pixels.float().div_(255), noise, beta)  # type: ignore[operator]
        terms["loss"].backward()
        self.optimizer.step(terms["loss"].detach(), learning_rate)
        _add(self.totals, **{name: value.detach() for name, value in terms.items() if value.ndim == 0})


class ExplicitStep:
    r"""The same step for a perceptron with ReLU layers, with forward and backward pass written out over fixed buffers.

    Nothing is allocated, recorded or read twice: matrix products write into their buffers and into the flat gradient.
    With :math:`t = \mathrm{sigmoid}(-l)`, the reconstruction term is :math:`-\sum \log t + x l` and its gradient
    :math:`1 - t - x`, at a third of the cost of a softplus; a logit over 88 counts as a loss that is not finite.
    Equal to :class:`AutogradStep` up to rounding.
    """

    def __init__(self, model: Any, optimizer: FlatAdam, batch_size: int, runtime: Runtime) -> None:
        self.optimizer, self.scale = optimizer, 1 / batch_size
        self.encoder, self.decoder = ([m for m in net if isinstance(m, nn.Linear)] for net in (model.encoder, model.decoder))
        layers = [*self.encoder, *self.decoder]

        def buffer(width: int) -> Tensor:
            return torch.empty(batch_size, width, device=runtime.device)

        self.x = buffer(layers[0].in_features)
        self.outputs = [buffer(layer.out_features) for layer in layers]
        self.deltas = [buffer(layer.out_features) for layer in layers]  # gradients with respect to the outputs
        self.latent_dim = model.latent_dim
        self.is_gaussian = model.noise_dim > 0
        self.z, self.z_delta = buffer(model.latent_dim), buffer(model.latent_dim)
        self.totals: dict[str, Tensor] = {}

    @staticmethod
    def applies_to(model: Any, runtime: Runtime) -> bool:
        """Return whether the model is such a perceptron, says that its objective is this one, and computes in float32."""

        def alternates(net: object) -> bool:
            kinds = isinstance(net, nn.Sequential) and all(
                isinstance(layer, nn.ReLU if index % 2 else nn.Linear) for index, layer in enumerate(net)
            )
            return kinds and len(net) % 2 == 1  # type: ignore[arg-type]

        # A subclass may have another objective, so it does not inherit the word of its parent.
        says_so = "has_plain_objective" in vars(type(model))
        return says_so and runtime.precision == "float32" and alternates(model.encoder) and alternates(model.decoder)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, noise: Tensor, beta: float, learning_rate: float) -> None:
        """Take one step on images ``[B, D]`` (uint8) with standard normal noise ``[B, noise_dim]``."""
        split = len(self.encoder)
        self.x.copy_(pixels).div_(255)
        h = self.x
        for layer, out in zip(self.encoder, self.outputs[:split], strict=True):
            h = self._forward(layer, h, out, is_last=layer is self.encoder[-1])
        if self.is_gaussian:
            mean, logvar = h.chunk(2, dim=1)
            std = torch.exp(0.5 * logvar)
            torch.addcmul(mean, std, noise, out=self.z)
            h = self.z
        code, code_delta = h, self.z_delta if self.is_gaussian else self.deltas[split - 1]
        for layer, out in zip(self.decoder, self.outputs[split:], strict=True):
            h = self._forward(layer, h, out, is_last=layer is self.decoder[-1])

        logits, delta = self.outputs[-1], self.deltas[-1]
        t = torch.sigmoid(logits.neg())
        recon = torch.dot(self.x.view(-1), logits.view(-1)).neg() - t.log().sum()
        torch.sub(1 - t, self.x, out=delta).mul_(self.scale)
        recon = recon * self.scale
        for index in reversed(range(split, len(self.outputs))):
            below = self.outputs[index - 1] if index > split else code
            into = self.deltas[index - 1] if index > split else code_delta
            self._backward(self.decoder[index - split], below, self.deltas[index], into, is_relu=index > split)
        loss = recon
        if self.is_gaussian:
            var = std.square()
            kl = 0.5 * (mean.square() + var - 1 - logvar).sum() * self.scale
            loss = recon + beta * kl
            d_mean, d_logvar = self.deltas[split - 1].chunk(2, dim=1)
            torch.add(self.z_delta, mean, alpha=beta * self.scale, out=d_mean)
            d_logvar.copy_(0.5 * (self.z_delta * noise * std + (var - 1) * (beta * self.scale)))
            _add(self.totals, loss=loss, recon=recon, kl=kl)
        else:
            _add(self.totals, loss=loss, recon=recon)
        for index in reversed(range(split)):
            below = self.outputs[index - 1] if index else self.x
            self._backward(
                self.encoder[index],
                below,
                self.deltas[index],
                self.deltas[index - 1] if index else None,
                is_relu=index > 0,
            )
        self.optimizer.step(loss, learning_rate)

    @staticmethod
    def _forward(layer: nn.Linear, x: Tensor, out: Tensor, is_last: bool) -> Tensor:
        torch.addmm(layer.bias, x, layer.weight.t(), out=out)
        return out if is_last else out.relu_()

    @staticmethod
    def _backward(layer: nn.Linear, x: Tensor, delta: Tensor, into: Tensor | None, is_relu: bool) -> None:
        """Write the layer's gradients, and that of its input, through the ReLU the input came from."""
        torch.mm(delta.t(), x, out=layer.weight.grad)
        torch.sum(delta, 0, out=layer.bias.grad)
        if into is not None:
            torch.mm(delta, layer.weight, out=into)
            if is_relu:
                torch.ops.aten.threshold_backward.grad_input(into, x, 0, grad_input=into)
