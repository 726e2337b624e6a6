"""The same net as a Lightning module, as its documentation writes one: tensors in a DataLoader, logging on."""

import logging

import lightning
import torch
from common import BATCH, EPOCHS, THREADS, Clock, images, report
from nets import decoder, encoder
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(THREADS)
lightning.seed_everything(0, verbose=False)
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class LitVAE(lightning.LightningModule):
    """The net of :mod:`nets`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder(), decoder()

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        """Return -ELBO in nats per image."""
        mu, logvar = self.encoder(x).chunk(2, 1)
        logits = self.decoder(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu))
        bce = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        return (bce - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())) / len(x)

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        """Return the loss of a batch."""
        loss = self.loss(batch[0])
        self.log("train_loss", loss)
        return loss

    def on_train_epoch_end(self) -> None:
        """Note the time."""
        clock.epoch()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


x = torch.from_numpy(images("train"))[:, None].float() / 255
model, clock = LitVAE(), Clock()
trainer = lightning.Trainer(
    max_epochs=EPOCHS,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, DataLoader(TensorDataset(x), batch_size=BATCH, shuffle=True))
with torch.no_grad():
    report(clock, model.loss(torch.from_numpy(images("test"))[:, None].float() / 255).item())
