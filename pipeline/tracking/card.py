"""The card of a logged or registered model, in Markdown: what it is, its numbers, how to use it, and what it is not for."""

from pipeline.tracking.logged_model import INPUT
from pipeline.tracking.pages import KNOWN, train_command
from pipeline.tracking.record import Record

KINDS = {
    "ae": "An autoencoder: it encodes an image as a latent point, and decodes latent points to images.",
    "vae": "A variational autoencoder: it encodes an image as a normal distribution of latent points, and decodes these.",
}
LIKELIHOODS = {"auto": "bernoulli if gray, discretized_logistic if color"}
NUMBERS = {  # by their keys in metrics files: name, and the key of the standard error
    "test/elbo": ("ELBO, nats per image", "test/elbo_se"),
    "test/recon": ("reconstruction term, nats per image", "test/recon_se"),
    "test/kl": ("KL term, nats per image", ""),
    "test/bits_per_dim": ("bits per dimension", ""),
    "log_likelihood/log_p": ("log p(x), nats per image", ""),
    "test/mse": ("mean squared error of an intensity", ""),
    "sample_quality/prior/frechet_distance": ("Fréchet distance of samples from the prior", ""),
    "latent/knn_accuracy": ("share of images whose nearest codes have their class", ""),
}


def _numbers(record: Record) -> str:
    """Return a table of the numbers on the test images, and where there are none a sentence."""
    rows = []
    for key, (name, error_key) in NUMBERS.items():
        if (value := record.number(key)) is not None:
            error = record.number(error_key)
            rows.append(f"| {name} | {value:.6g} | {'' if error is None else f'{error:.2g}'} |")
    if not rows:
        return "It was not yet evaluated on the test images."
    images = "all" if record.tags.get("evaluate.profile") == "full" else "2,000 or fewer"
    return "\n".join([f"On {images} test images:", "", "| | | standard error |", "|---|---|---|", *rows])


def model_card(record: Record, address: str) -> str:
    """Return the card of the model of a run; ``address`` is that of the model in MLflow's store, ``models:/...``."""

    def param(key: str) -> str:
        return record.params.get(key, "?")

    name, latent_dim, data = param("model.name"), param("model.latent_dim"), record.tags.get("dataset", "?")
    shape = ", ".join(map(str, record.data_shape[1:])) or "C, H, W"
    about = {
        "run": f"`{record.name}`",
        "net": f"`{param('model.net')}`, hidden layers {param('model.hidden_dims')}, {latent_dim} latent dimensions",
        "likelihood of the pixels": LIKELIHOODS.get(likelihood := record.params.get("likelihood", "bernoulli"), likelihood),
        "weight of the KL term": record.params.get("beta", "it has no KL term"),
        "training images": f"{record.data_shape[0]:,} of shape [{shape}]" if record.data_shape else "?",
        "held out for validation": f"{param('data.val_size')} of these",
        "data": f"{data}, version `{record.data_version or '?'}`",
        "licence of the data": KNOWN.get(data, "not known here"),
        "weights": f"md5 `{record.tags.get('model.md5', '?')}`",
    }
    table = "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in about.items())])
    prior = "\n- It has no prior: points from N(0, I) can lie far from the codes of all images." if name == "ae" else ""
    return f"""\
# {name.upper()} of {data}

{KINDS.get(name, "")}

{table}

## Numbers

{_numbers(record)}

## Use

In a copy of this project:

    latent encode photos/ --out codes.parquet \\
      --model {address}

Anywhere; this runs the code that was logged with the model:

    import mlflow
    model = mlflow.pyfunc.load_model("{address}")
    code = model.predict(images)["code"]

Takes: {INPUT} Their shape is [{shape}].

Gives: a dict with `code` [N, {latent_dim}] (of a VAE the posterior mean) and `reconstruction` [N, {shape}].

## Limits

- It was trained on {data} alone. It gives other images a code, too, but that says little about them.
- With {latent_dim} latent dimensions, a reconstruction loses what differs between similar images.{prior}
- It is made to study latent spaces, and not for decisions about people.

## Train it again

{train_command(record)}"""
