"""Convert the weights of BlazeFace from MediaPipe's file for photos/detector.py.

npm pack @mediapipe/face_detection@0.4.1657300184   # then unpack it
pip install tflite ai-edge-litert                   # only this script needs them
python experiments/blazeface.py package/face_detection_short_range.tflite

The weights stay in half precision, bitwise equal. Then the script compares the network with
LiteRT's interpreter on noise, and prints the largest values and the largest differences.
"""

import hashlib
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from dcgan_inpaint.photos.detector import (
    BLAZEFACE_WEIGHTS,
    INPUT_SIZE,
    VALUES_PER_ANCHOR,
    load_blazeface,
)

SHA256 = "3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633"  # of the file


def read_tensors(file: bytes) -> dict[str, np.ndarray]:
    """Return all weights of a TFLite file with their original names and layouts."""
    tflite = import_module("tflite")
    model = tflite.Model.GetRootAs(file, 0)
    graph = model.Subgraphs(0)
    weights = {}
    for i in range(graph.TensorsLength()):
        tensor = graph.Tensors(i)
        buffer = model.Buffers(tensor.Buffer())
        if tensor.Type() == tflite.TensorType.FLOAT16 and buffer.DataLength():
            array = np.frombuffer(buffer.DataAsNumpy().tobytes(), np.float16)
            weights[tensor.Name().decode()] = array.reshape(tensor.ShapeAsNumpy())
    return weights


def convert_name(name: str) -> str:
    """Convert a name: conv2d_3/Kernel -> blocks.2.pointwise.weight."""
    layer, _, kind = name.partition("/")
    kernel, _, number = layer.rpartition("_") if layer[-1].isdigit() else (layer, "", "0")
    heads = {"classificator": "scores", "regressor": "faces"}
    if kernel in heads:
        layer = f"{heads[kernel]}.{['8', '16'].index(number)}"
    elif kernel == "depthwise_conv2d":
        layer = f"blocks.{number}.depthwise"
    else:
        layer = f"blocks.{int(number) - 1}.pointwise" if int(number) else "stem"
    return f"{layer}.{'weight' if kind == 'Kernel' else 'bias'}"


def convert_weight(name: str, array: np.ndarray) -> Tensor:
    """Convert (out, h, w, in), or (1, h, w, channels) of a depthwise layer, to PyTorch's layout."""
    weight = torch.from_numpy(array.copy())
    if weight.ndim == 1:
        return weight
    order = (3, 0, 1, 2) if name.startswith("depthwise") else (0, 3, 1, 2)
    return weight.permute(order).contiguous()


def compare(path: str, count: int = 32) -> None:
    """Compare the converted network with LiteRT's interpreter on `count` images of noise."""
    interpreter = import_module("ai_edge_litert.interpreter").Interpreter(path)
    interpreter.allocate_tensors()
    (input_details,), outputs = interpreter.get_input_details(), interpreter.get_output_details()
    network = load_blazeface()
    generator = torch.Generator().manual_seed(0)
    difference, largest = torch.zeros(2), torch.zeros(2)
    for i in range(count):
        coarse = torch.rand(1, 3, 2 + i, 2 + i, generator=generator) * 2 - 1  # blobs of all sizes
        image = torch.nn.functional.interpolate(coarse, (INPUT_SIZE, INPUT_SIZE), mode="bilinear")
        interpreter.set_tensor(input_details["index"], image.permute(0, 2, 3, 1).numpy())
        interpreter.invoke()
        expected = {o["shape"][-1]: interpreter.get_tensor(o["index"])[0] for o in outputs}
        logits, values = network(image)
        values = (values - network.anchors) * INPUT_SIZE  # in px, relative to the anchors
        pairs = (
            (logits[0, :, None], expected[1]),
            (values[0].flatten(1), expected[VALUES_PER_ANCHOR]),
        )
        for j, (own, other) in enumerate(pairs):
            difference[j] = max(difference[j], (own - torch.from_numpy(other)).abs().max())
            largest[j] = max(largest[j], own.abs().max())
    for j, name in enumerate(("logits", "values, px")):
        print(f"{name}: up to {largest[j]:.1f}, largest difference {difference[j]:.2g}")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("error: expected one argument, the path of face_detection_short_range.tflite")
    file = Path(sys.argv[1]).read_bytes()
    if hashlib.sha256(file).hexdigest() != SHA256:
        sys.exit(f"error: {sys.argv[1]} is another version of the file. See the package above")
    weights = {
        convert_name(name): convert_weight(name, array)
        for name, array in read_tensors(file).items()
    }
    metadata = {"source": "MediaPipe, face_detection_short_range.tflite", "licence": "Apache-2.0"}
    save_file(weights, BLAZEFACE_WEIGHTS, metadata)
    print(f"{BLAZEFACE_WEIGHTS}: {BLAZEFACE_WEIGHTS.stat().st_size:,} bytes")
    compare(sys.argv[1])


if __name__ == "__main__":
    main()
