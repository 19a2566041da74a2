"""One-pass completion as a graph that needs no code of this project: torch.export and ONNX."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dcgan_inpaint.blending import poisson
from dcgan_inpaint.errors import import_extra
from dcgan_inpaint.files import atomic_write
from dcgan_inpaint.inpainting.poisson_graph import poisson_graph

Network = Callable[[Tensor, Tensor], Tensor]  # known pixels, mask -> images
Blend = Callable[[Tensor, Tensor, Tensor], Tensor]  # fake, images, mask -> completions
GRAPHS: dict[Blend, Blend] = {poisson: poisson_graph}  # what replaces a function in a graph
OPSET = 18  # of ONNX; the first with all operators of the graph, in onnxruntime since 1.14
COMPRESSED_SIZE = 1024  # values in a tensor from which on it is stored with less precision


class OnePassCompletion(nn.Module):
    """Completion in one pass, with the blending.

    image (B, C, S, S) in [-1, 1], and mask (B, 1, S, S), 1 = known and 0 = hole -> completion
    (B, C, S, S) in [-1, 1].  Known pixels stay bitwise equal.

    Args:
        network: Network for one-pass completion, from `Model.fill`.
        blend: Function of blending.py.
    """

    def __init__(self, network: Network, blend: Blend):
        super().__init__()
        self.network, self.blend = network, GRAPHS.get(blend, blend)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        fake = self.network(image * mask, mask)  # (B, C, S, S)
        return self.blend(fake, image, mask)


def export_program(
    network: Network, image_shape: tuple[int, int, int], blend: Blend
) -> torch.export.ExportedProgram:
    """Return the graph of `OnePassCompletion` for any number of images of a shape (C, S, S)."""
    completion = OnePassCompletion(network, blend).eval()
    # Two images, because a size of 1 would be a constant of the graph.
    images, mask = torch.zeros(2, *image_shape), torch.ones(2, 1, *image_shape[1:])
    batch = {0: torch.export.Dim("batch")}
    with torch.no_grad():
        return torch.export.export(completion, (images, mask), dynamic_shapes=(batch, batch))


def write_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a graph for `torch.export.load(path).module()(image, mask)`."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getvalue())


def check_onnx(option: str) -> None:
    """Raise ModuleNotFoundError if a library of the extra [onnx] is missing."""
    for library in ("onnx", "onnxscript"):
        import_extra(library, option, library, "onnx")


def write_onnx(
    program: torch.export.ExportedProgram, path: Path, weights: Literal["half", "int8"] = "half"
) -> None:
    """Write a graph as ONNX, with the inputs image and mask and the output completion.

    Weights are stored in half precision, as in the shipped checkpoints, whose weights stay exact
    if no BatchNorm is folded into them (`Model.fill`).  int8 halves the file.  They are converted
    to float32 when the file is loaded, and all computations are in float32.

    Args:
        program: The graph, from `export_program`.
        path: The file.
        weights: Type of the stored weights, see `_compress`.
    """
    exported: Any = torch.onnx.export(
        program,
        input_names=["image", "mask"],
        output_names=["completion"],
        opset_version=OPSET,
        dynamo=True,
        optimize=False,  # it would fold BatchNorms, and the weights would no longer be exact
        verbose=False,
    )
    model = exported.model_proto
    for node in model.graph.node:
        node.ClearField("metadata_props")  # the source line of each operator, with local paths
    _compress(model.graph, int8=weights == "int8")
    with atomic_write(path) as file:
        file.write(model.SerializeToString())


def _compress(graph: Any, int8: bool) -> None:
    """Store the large float32 tensors of an ONNX graph with less precision, each with a conversion.

    Vectors are stored in half precision.  Other tensors are too, or with `int8` as whole numbers
    from -127 to 127 and a scale for each index of the first dimension.
    """
    import onnx
    from onnx import helper, numpy_helper

    def initializer(name: str, values: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    conversions = []
    for tensor in [each for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT]:
        values, name = numpy_helper.to_array(tensor), tensor.name
        if values.size < COMPRESSED_SIZE:
            continue
        graph.initializer.remove(tensor)
        if int8 and values.ndim > 1:
            rows = values.reshape(len(values), -1)
            scale = np.abs(rows).max(1) / np.float32(127)  # (R,)
            scale[scale == 0] = 1
            rounded = (rows / scale[:, None]).round().astype(np.int8).reshape(values.shape)
            inputs = [initializer(f"{name}_int8", rounded), initializer(f"{name}_scale", scale)]
            conversions.append(helper.make_node("DequantizeLinear", inputs, [name], axis=0))
        else:
            half = initializer(f"{name}_half", values.astype(np.float16))
            to = onnx.TensorProto.FLOAT
            conversions.append(helper.make_node("Cast", [half], [name], to=to))
    nodes = [*conversions, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
