"""The pipeline's own trainer."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
import numpy as np
from common import BATCH, EPOCHS, THREADS, Clock, images, report

from pipeline import runtime  # before torch is loaded: it sets how long OpenMP's threads spin

# isort: split
import torch

from pipeline.data import Split
from pipeline.epoch import resident, validate
from pipeline.models import MODELS
from pipeline.trainer import fit

torch.manual_seed(0)
train, test = (Split(part, np.zeros(len(part), np.int64)) for part in (images("train"), images("test")))
with runtime.use("cpu", THREADS) as rt:
    model, clock = MODELS["vae"](), Clock()
    explicit = sys.argv[3:] != ["autograd"]
    for _epoch in fit(
        model,
        train,
        test.take(slice(1)),
        epochs=EPOCHS,
        batch_size=BATCH,
        schedule="constant",
        patience=0,
        runtime=rt,
        explicit=explicit,
    ):
        clock.epoch()
    report(clock, validate(model, resident(test, rt.device), torch.randn(len(test), 2))["loss"])
