"""pythae 0.1.2's VAE and BaseTrainer with the same net and loss."""

import logging

import torch
from common import BATCH, EPOCHS, THREADS, Clock, images, report
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
    """784-512-256-2."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU())
        self.mu, self.logvar = nn.Linear(256, 2), nn.Linear(256, 2)

    def forward(self, x: torch.Tensor) -> ModelOutput:
        """Return mean and log variance."""
        h = self.net(x)
        return ModelOutput(embedding=self.mu(h), log_covariance=self.logvar(h))


class Decoder(BaseDecoder):
    """2-256-512-784."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 256), nn.ReLU(), nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 784), nn.Sigmoid())

    def forward(self, z: torch.Tensor) -> ModelOutput:
        """Return the reconstruction."""
        return ModelOutput(reconstruction=self.net(z).reshape(-1, 1, 28, 28))


class Times(TrainingCallback):
    """Notes the end of each epoch."""

    def on_epoch_end(self, *args: object, **kwargs: object) -> None:
        """Note the time."""
        clock.epoch()


config = VAEConfig(input_dim=(1, 28, 28), latent_dim=2, reconstruction_loss="bce")
model = VAE(config, encoder=Encoder(), decoder=Decoder())
settings = BaseTrainerConfig(
    output_dir=".bench/pythae_runs", num_epochs=EPOCHS, learning_rate=1e-3, per_device_train_batch_size=BATCH, no_cuda=True
)
clock = Clock()
data = images("train")[:, None].astype("float32") / 255
TrainingPipeline(training_config=settings, model=model)(train_data=data, callbacks=[Times()])
with torch.no_grad():
    report(clock, model({"data": torch.from_numpy(images("test"))[:, None].float() / 255}).loss.item())
