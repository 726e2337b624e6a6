"""A plain loop in PyTorch: the images as one tensor, autograd, Adam."""

import torch
from common import BATCH, EPOCHS, THREADS, Clock, images, report
from nets import decoder, encoder
from torch import nn
from torch.nn import functional

torch.set_num_threads(THREADS)
torch.manual_seed(0)


def loss_of(x: torch.Tensor) -> torch.Tensor:
    """Return -ELBO in nats per image."""
    mu, logvar = model[0](x).chunk(2, 1)
    logits = model[1](mu + torch.exp(0.5 * logvar) * torch.randn_like(mu))
    bce = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return (bce - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())) / len(x)


x = torch.from_numpy(images("train"))[:, None].float() / 255
model, clock = nn.ModuleList([encoder(), decoder()]), Clock()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for _ in range(EPOCHS):
    for rows in torch.randperm(len(x)).split(BATCH):
        optimizer.zero_grad()
        loss = loss_of(x[rows])
        loss.backward()
        optimizer.step()
    clock.epoch()
with torch.no_grad():
    report(clock, loss_of(torch.from_numpy(images("test"))[:, None].float() / 255).item())
