"""The headline numbers of both models, which `dvc metrics diff` and `dvc exp show` list, and the lines that end `dvc repro`."""

from collections.abc import Mapping
from typing import Any

# Short names, as a table has room for few characters; the VAE's come first, as most experiments change them.
HEADLINE = {
    "elbo": "test/elbo",
    "recon": "test/recon",
    "kl": "test/kl",
    "log_p": "log_likelihood/log_p",
    "frechet": "sample_quality/prior/frechet_distance",
    "knn": "latent/knn_accuracy",
}
MODELS = ("vae", "ae")

Metrics = Mapping[str, Any]


def headline(metrics: Mapping[str, Metrics]) -> dict[str, Any]:
    """Return the headline numbers of the models' flat metrics; one that was not measured is left out.

    >>> headline({"vae": {"test/recon": 128.4, "test/kl": 6.9}, "ae": {"test/recon": 127.9}})
    {'vae/recon': 128.4, 'vae/kl': 6.9, 'ae/recon': 127.9}
    """
    named = [(model, name, key) for model in MODELS for name, key in HEADLINE.items()]
    return {f"{model}/{name}": metrics[model][key] for model, name, key in named if key in metrics[model]}


def closing_lines(data: Metrics, numbers: Metrics) -> list[str]:
    """Return six lines on a run: two with the result, two with what to open, two with what to try; a seventh if some is missing.

    ``data`` are the metrics of the download, ``numbers`` those of :func:`headline`. Where the data are the fallback, a warning
    stands before them.
    """

    def listed(**names: str) -> str:
        known = {word.replace("_", " "): numbers[name] for word, name in names.items() if name in numbers}
        return ", ".join(f"{word} {number:.2f}" for word, number in known.items())

    name, wanted = data["name"], data["requested"]
    again = "`dvc repro --force download && dvc repro` asks again"
    warning = f"WARNING these are the small {name}, not {wanted}, as no mirror answered; {again}"
    vae = listed(ELBO="vae/elbo", reconstruction="vae/recon", KL="vae/kl", log_p="vae/log_p")
    missing = [name.replace("_", " ") for name in HEADLINE if f"vae/{name}" not in numbers] if vae else []
    why = f"        not measured: {', '.join(missing)}; the notes in metrics/vae.json say why"
    samples = listed(VAE="vae/frechet", autoencoder="ae/frechet")
    return [
        *([warning] if name != wanted else []),
        f"Result  {name}, nats per image: VAE {vae}",
        f"        autoencoder {listed(reconstruction='ae/recon')}" + f"; Frechet distance of samples: {samples}" * bool(samples),
        *([why] if missing else []),
        "Open    explorer/explorer.html in a browser: move through both latent spaces",
        "        metrics/figures/overview.png, or `make ui`: curves, samples and figures of every training",
        "Try     `dvc exp run -S beta=4 --name beta4`, then `dvc metrics diff`: a KL term of four times the weight",
        "        `make claims`: which statements of tutorials hold for these models (4 minutes)",
    ]
