"""The pipeline's own trainer."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from common import BATCH, EPOCHS, NET, THREADS, Clock, images, report

from pipeline import startup


def main() -> None:
    """Train and report."""
    startup.choose_waiting(THREADS)
    import torch

    from pipeline import runtime
    from pipeline.data import Images
    from pipeline.models import ModelConfig
    from pipeline.training.config import TrainConfig
    from pipeline.training.trainer import fit

    torch.manual_seed(0)
    train, test = (Images(images(part)[:, None]) for part in ("train", "test"))
    config = TrainConfig(EPOCHS, batch_size=BATCH, schedule="constant", patience=0, fused=sys.argv[4:] != ["autograd"])
    with runtime.use("cpu", THREADS) as rt:
        latent_dim, hidden_dims = {"mlp": (2, (512, 256)), "conv": (50, (32, 64))}[NET]
        model, clock = ModelConfig("vae", NET, train.shape, latent_dim, hidden_dims).build(), Clock()
        for _epoch in fit(model, train, test.take(slice(1)), config, runtime=rt):
            clock.epoch()
        with torch.no_grad():
            loss = model.loss_terms(torch.from_numpy(test.intensities), torch.randn(len(test), latent_dim))["loss"]
        report(clock, loss.item())


main()
