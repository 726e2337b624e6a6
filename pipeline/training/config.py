"""The configuration of one training: everything but the model and the images."""

from dataclasses import dataclass, fields

from pipeline.params import ModelParams, Params

# What can make a training diverge, by its key and value in the params.yaml of this repository.
SHIPPED = {"learning_rate": 2e-3, "beta": 1.0, "decoder_input_lr_multiplier": 16.0, "input_dropout": 0.2}


@dataclass(frozen=True)
class TrainConfig:
    """How :func:`pipeline.training.trainer.fit` trains; most fields are those of params.yaml."""

    epochs: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    patience: int = 7
    seed: int = 0
    """Of the permutations, the noise and the input dropout."""
    beta: float = 1.0
    warmup_epochs: int = 0
    """Epochs over which the KL weight rises to beta; the best epoch is the last of them or a later one."""
    input_dropout: float = 0.0
    """An encoder that memorizes images places new ones badly (1511.06406, 1805.08913)."""
    binarize: bool = False
    """Train on black and white images, drawn anew for each step, and choose the best epoch by images drawn once."""
    decoder_input_lr_multiplier: float = 1.0
    """Adam moves every weight alike, so a layer of two inputs, whose weights are large, follows slowly (see 2203.03466 for how
    widths and learning rates go together)."""
    hidden_optimizer: str = "adam"
    shards: int = 1
    """Equal parts of a batch, a power of two, whose gradients are added by a fixed tree."""
    fused: bool = True
    """Compute the gradient without autograd where the model allows it; False: the reference."""

    @classmethod
    def from_params(cls, params: Params, model: ModelParams) -> "TrainConfig":
        """Return how params.yaml trains the model of this section."""
        values = params.train.model_dump() | model.model_dump() | {"seed": params.seed, "beta": params.beta}
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})

    def advice(self, is_probabilistic: bool) -> str:
        """Return what to lower when a training diverges: what is over ten times the shipped value, the most extreme first.

        >>> TrainConfig(10, input_dropout=0.9999, beta=20.0).advice(is_probabilistic=True)
        'lower input_dropout (0.9999; shipped: 0.2) or beta (20.0; shipped: 1.0)'
        """

        def strength(name: str, value: float) -> float:
            return 1 / (1 - value) if name == "input_dropout" else value  # visible pixels are scaled up

        names = [name for name in SHIPPED if is_probabilistic or name != "beta"]
        ratios = {name: strength(name, getattr(self, name)) / strength(name, SHIPPED[name]) for name in names}
        extreme = sorted((name for name in names if ratios[name] > 10), key=ratios.__getitem__, reverse=True)
        chosen = extreme or [name for name in ("learning_rate", "beta") if name in names]
        sections = {"learning_rate": "train.learning_rate"}
        return "lower " + " or ".join(
            f"{sections.get(name, name)} ({getattr(self, name)!r}; shipped: {SHIPPED[name]!r})" for name in chosen
        )
