"""Check params.yaml, and what is known of the data and the nets, before any other stage runs."""

if __name__ == "__main__":
    from pipeline.startup import begin_stage

    begin_stage()  # before the imports below, during which this process may be stopped or lose its parent

from pipeline.datasets import DATASETS
from pipeline.datasets.arrays import arrays
from pipeline.datasets.own import KINDS, find
from pipeline.errors import ParamsError
from pipeline.params import Params
from stages import run, stage


def check_nets(params: Params) -> None:
    """Raise ParamsError for a net that is unknown or cannot take images of the size that ``data`` says."""
    import torch

    from pipeline.models import ModelConfig

    data, shape = params.data, (1, 28, 28)
    if data.name == "folder":
        shape = (data.image.channels, data.image.size, data.image.size)
    elif data.name == "arrays":
        shape = arrays(data.path, test_size=data.test_size).train.shape
    for name, model in (("ae", params.ae), ("vae", params.vae)):
        with torch.device("meta"):  # takes no memory
            ModelConfig(name, model.net, shape, model.latent_dim, tuple(model.hidden_dims)).build()


@stage(__doc__, "params")
def main(params: Params) -> None:
    data = params.data
    if data.name not in {*DATASETS, *KINDS}:
        raise ParamsError(f"data.name: {data.name!r} is not a data set; allowed are {', '.join([*DATASETS, *KINDS])}")
    if data.name in KINDS:
        find(data.name, data.path)
    if {params.ae.net, params.vae.net} != {"mlp"}:  # which takes any size, and need not import torch
        check_nets(params)


if __name__ == "__main__":
    run(main)
