"""A trained model as two ONNX files."""

from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.errors import ParamsError
from pipeline.models.weights import Trained
from pipeline.storage import write


class _Encoder(nn.Module):
    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.model = trained.model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        posterior = self.model.encode(images)
        return (posterior.mean, posterior.std) if self.model.is_probabilistic else (posterior.mean,)


class _Decoder(nn.Module):
    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.model = trained.model

    def forward(self, z: Tensor) -> Tensor:
        return self.model.decode_images(z)


def export_onnx(trained: Trained, folder: Path) -> list[Path]:
    """Write ``encoder.onnx`` and ``decoder.onnx`` into a folder, and return their paths; equal weights give equal bytes.

    The encoder maps ``images`` ``[N, C, H, W]`` in [0, 1] to ``mean`` and, of a VAE, ``std`` ``[N, d]``; the decoder maps ``z``
    ``[N, d]`` to ``images``. N may be any number.

    Raises ParamsError where the packages that torch needs for it are not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch imports it late, deep within)
    except ImportError as error:
        raise ParamsError(
            f"{error}; `make onnx` installs what an export needs, or: pip install 'latent-pipeline[onnx]'"
        ) from None
    config, model = trained.config, trained.model.cpu()
    outputs = ["mean", "std"] if model.is_probabilistic else ["mean"]
    nets = {
        "encoder": (_Encoder(trained), torch.zeros(2, *config.image_shape), ["images"], outputs),
        "decoder": (_Decoder(trained), torch.zeros(2, config.latent_dim), ["z"], ["images"]),
    }
    about = {"model": config.model, "dataset": trained.dataset, "beta": trained.beta}
    paths = []
    for name, (net, example, inputs, outs) in nets.items():
        shapes = [{0: torch.export.Dim("N")}]
        program = torch.onnx.export(
            net.eval(), (example,), input_names=inputs, output_names=outs, dynamic_shapes=shapes, verbose=False
        )
        assert program
        content = program.model_proto
        graph = content.graph
        for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
            part.ClearField("doc_string")
            part.ClearField("metadata_props")  # the lines of code that made it, with their paths on this machine
        onnx.helper.set_model_props(content, {key: str(value) for key, value in about.items() if value is not None})
        paths.append(folder / f"{name}.onnx")
        write(paths[-1], content.SerializeToString(deterministic=True))
    return paths
