"""pythae 0.1.2's VAE and BaseTrainer with the same net and loss."""

import logging

import torch
from common import BATCH, EPOCHS, THREADS, Clock, images, report
from nets import LATENT, decoder, encoder
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import nn

logging.disable(logging.WARNING)
torch.set_num_threads(THREADS)
torch.manual_seed(0)


class Encoder(BaseEncoder):
    """The encoder of :mod:`nets`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = encoder()

    def forward(self, x: torch.Tensor) -> ModelOutput:
        """Return mean and log variance."""
        mu, logvar = self.net(x).chunk(2, 1)
        return ModelOutput(embedding=mu, log_covariance=logvar)


class Decoder(BaseDecoder):
    """The decoder of :mod:`nets`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(decoder(), nn.Sigmoid())

    def forward(self, z: torch.Tensor) -> ModelOutput:
        """Return the reconstruction."""
        return ModelOutput(reconstruction=self.net(z))


class Times(TrainingCallback):
    """Notes the end of each epoch."""

    def on_epoch_end(self, *args: object, **kwargs: object) -> None:
        """Note the time."""
        clock.epoch()


config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, reconstruction_loss="bce")
model = VAE(config, encoder=Encoder(), decoder=Decoder())
settings = BaseTrainerConfig(
    output_dir=".bench/pythae_runs", num_epochs=EPOCHS, learning_rate=1e-3, per_device_train_batch_size=BATCH, no_cuda=True
)
clock = Clock()
data = images("train")[:, None].astype("float32") / 255
TrainingPipeline(training_config=settings, model=model)(train_data=data, callbacks=[Times()])
with torch.no_grad():
    report(clock, model({"data": torch.from_numpy(images("test"))[:, None].float() / 255}).loss.item())
