"""JAX and optax: an epoch is one compiled scan over the batches, the fastest peer we know."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import BATCH, EPOCHS, Clock, images, report

SIZES = [(784, 512), (512, 256), (256, 4)], [(2, 256), (256, 512), (512, 784)]


def start(key: jax.Array) -> list[list[tuple[jax.Array, jax.Array]]]:
    """Return weights and biases, uniform within 1/sqrt(fan in) as torch draws them."""
    nets = []
    for sizes in SIZES:
        net = []
        for inputs, outputs in sizes:
            key, w, b = jax.random.split(key, 3)
            bound = inputs**-0.5
            net.append(
                (
                    jax.random.uniform(w, (inputs, outputs), minval=-bound, maxval=bound),
                    jax.random.uniform(b, (outputs,), minval=-bound, maxval=bound),
                )
            )
        nets.append(net)
    return nets


def mlp(net: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
    for w, b in net[:-1]:
        x = jax.nn.relu(x @ w + b)
    return x @ net[-1][0] + net[-1][1]


def loss(nets: list[list[tuple[jax.Array, jax.Array]]], x: jax.Array, key: jax.Array) -> jax.Array:
    """Return -ELBO in nats per image."""
    mu, logvar = jnp.split(mlp(nets[0], x), 2, axis=1)
    logits = mlp(nets[1], mu + jnp.exp(0.5 * logvar) * jax.random.normal(key, mu.shape))
    bce = optax.sigmoid_binary_cross_entropy(logits, x).sum()
    return (bce + 0.5 * jnp.sum(mu**2 + jnp.exp(logvar) - 1 - logvar)) / len(x)


optimizer = optax.adam(1e-3)


@jax.jit
def epoch(nets, state, key, data):  # type: ignore[no-untyped-def]
    """Take one pass over the data."""
    order_key, noise_key = jax.random.split(key)
    steps = len(data) // BATCH
    order = jax.random.permutation(order_key, len(data))[: steps * BATCH].reshape(steps, BATCH)

    def step(carry, now):  # type: ignore[no-untyped-def]
        nets, state = carry
        rows, key = now
        x = data[rows].astype(jnp.float32) / 255
        value, gradient = jax.value_and_grad(loss)(nets, x, key)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(nets, updates), state), value

    (nets, state), values = jax.lax.scan(step, (nets, state), (order, jax.random.split(noise_key, steps)))
    return nets, state, values.mean()


data = jnp.asarray(images("train").reshape(-1, 784))
key = jax.random.PRNGKey(0)
nets = start(key)
state, clock = optimizer.init(nets), Clock()
for index in range(EPOCHS):
    nets, state, mean = epoch(nets, state, jax.random.fold_in(key, index), data)
    mean.block_until_ready()
    clock.epoch()
x = jnp.asarray(np.asarray(images("test")).reshape(-1, 784)).astype(jnp.float32) / 255
report(clock, float(loss(nets, x, key)))
