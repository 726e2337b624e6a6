"""The headline numbers of both models, which `dvc metrics diff` and `dvc exp show` list, and the lines that end `dvc repro`."""

from collections.abc import Mapping, Sequence
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
FEW = 8  # of more latent dimensions than these, four are few, too

Metrics = Mapping[str, Any]


def headline(metrics: Mapping[str, Metrics]) -> dict[str, Any]:
    """Return the headline numbers of the models' flat metrics; one that was not measured is left out.

    >>> headline({"vae": {"test/recon": 128.4, "test/kl": 6.9}, "ae": {"test/recon": 127.9}})
    {'vae/recon': 128.4, 'vae/kl': 6.9, 'ae/recon': 127.9}
    """
    named = [(model, name, key) for model in MODELS for name, key in HEADLINE.items()]
    return {f"{model}/{name}": metrics[model][key] for model, name, key in named if key in metrics[model]}


def notes(vae: Metrics, comparison: Metrics) -> list[str]:
    """Return a line each for a VAE that uses few of its latent dimensions, and for claims about another data set.

    ``vae`` are the metrics of the VAE, ``comparison`` those of the models of the second pipeline.

    >>> notes({"dataset": "shapes", "test/active_units": 2}, {"vae_larger_beta_1/dataset": "mnist"})
    ['Note    metrics/claims.json and comparison.json are of mnist; `make claims` makes those of shapes']
    """
    found, dimensions = list[str](), sum(name.startswith("test/kl_per_dim/") for name in vae)
    if dimensions and 2 * (active := vae["test/active_units"]) <= min(dimensions, FEW):
        used = f"the VAE uses {active} of its {dimensions} latent dimensions"
        found.append(f"Note    {used}; docs/faq.md (posterior collapse) says what to do")
    others = sorted({value for name, value in comparison.items() if name.endswith("/dataset")} - {vae.get("dataset")})
    if vae and others:
        cure = f"`make claims` makes those of {vae['dataset']}"
        found.append(f"Note    metrics/claims.json and comparison.json are of {', '.join(others)}; {cure}")
    return found


def closing_lines(data: Metrics, numbers: Metrics, noted: Sequence[str] = ()) -> list[str]:
    """Return six lines on a run: two with the result, two with what to open, two with what to try; a seventh if some is missing.

    ``data`` are the metrics of the download, ``numbers`` those of :func:`headline`, ``noted`` the lines of :func:`notes`, which
    follow the result. Where the data are the fallback, a warning stands before them.
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
        *noted,
        "Open    explorer/explorer.html in a browser: move through both latent spaces",
        "        metrics/figures/overview.png, or `make ui`: curves, samples and figures of every training",
        "Try     `dvc exp run -S beta=4 --name beta4`, then `dvc metrics diff`: a KL term of four times the weight",
        "        `make claims`: which statements of tutorials hold for these models (4 minutes)",
    ]
