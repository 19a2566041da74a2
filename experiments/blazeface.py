"""Read the weights of BlazeFace from MediaPipe's file, once: what photos/detector.py loads.

npm pack @mediapipe/face_detection@0.4.1657300184   # and unpack it
pip install tflite ai-edge-litert                   # which nothing else here needs
python experiments/blazeface.py package/face_detection_short_range.tflite

They are half precision there and stay so, to the bit.  Then the network is held against LiteRT's
interpreter, on noise: the largest differences, beside the largest values, are printed.
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

FILE = "3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633"  # SHA-256


def tensors(file: bytes) -> dict[str, np.ndarray]:
    """All weights of a TFLite file, in its own names and layout."""
    tflite = import_module("tflite")
    model = tflite.Model.GetRootAs(file, 0)
    graph = model.Subgraphs(0)
    found = {}
    for i in range(graph.TensorsLength()):
        tensor = graph.Tensors(i)
        buffer = model.Buffers(tensor.Buffer())
        if tensor.Type() == tflite.TensorType.FLOAT16 and buffer.DataLength():
            array = np.frombuffer(buffer.DataAsNumpy().tobytes(), np.float16)
            found[tensor.Name().decode()] = array.reshape(tensor.ShapeAsNumpy())
    return found


def ours(name: str) -> str:
    """conv2d_3/Kernel -> blocks.2.pointwise.weight"""
    layer, _, kind = name.partition("/")
    word, _, number = layer.rpartition("_") if layer[-1].isdigit() else (layer, "", "0")
    heads = {"classificator": "scores", "regressor": "faces"}
    if word in heads:
        layer = f"{heads[word]}.{['8', '16'].index(number)}"
    elif word == "depthwise_conv2d":
        layer = f"blocks.{number}.depthwise"
    else:
        layer = f"blocks.{int(number) - 1}.pointwise" if int(number) else "stem"
    return f"{layer}.{'weight' if kind == 'Kernel' else 'bias'}"


def converted(name: str, array: np.ndarray) -> Tensor:
    """TFLite's (out, h, w, in), and (1, h, w, channels) of depthwise ones, as torch has them."""
    weight = torch.from_numpy(array.copy())
    if weight.ndim == 1:
        return weight
    order = (3, 0, 1, 2) if name.startswith("depthwise") else (0, 3, 1, 2)
    return weight.permute(order).contiguous()


def compare(path: str, count: int = 32) -> None:
    """The network as it is shipped against LiteRT's interpreter, on `count` images of noise."""
    interpreter = import_module("ai_edge_litert.interpreter").Interpreter(path)
    interpreter.allocate_tensors()
    (given,), outputs = interpreter.get_input_details(), interpreter.get_output_details()
    network = load_blazeface()
    generator = torch.Generator().manual_seed(0)
    apart, largest = torch.zeros(2), torch.zeros(2)
    for i in range(count):
        coarse = torch.rand(1, 3, 2 + i, 2 + i, generator=generator) * 2 - 1  # blobs of all sizes
        image = torch.nn.functional.interpolate(coarse, (INPUT_SIZE, INPUT_SIZE), mode="bilinear")
        interpreter.set_tensor(given["index"], image.permute(0, 2, 3, 1).numpy())
        interpreter.invoke()
        theirs = {o["shape"][-1]: interpreter.get_tensor(o["index"])[0] for o in outputs}
        logits, values = network(image)
        values = (values - network.anchors) * INPUT_SIZE  # theirs are seen from the places, in px
        pairs = (logits[0, :, None], theirs[1]), (values[0].flatten(1), theirs[VALUES_PER_ANCHOR])
        for j, (own, other) in enumerate(pairs):
            apart[j] = max(apart[j], (own - torch.from_numpy(other)).abs().max())
            largest[j] = max(largest[j], own.abs().max())
    for j, what in enumerate(("logits", "values, px")):
        print(f"{what}: up to {largest[j]:.1f}, apart by at most {apart[j]:.2g}")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("error: give face_detection_short_range.tflite")
    file = Path(sys.argv[1]).read_bytes()
    if hashlib.sha256(file).hexdigest() != FILE:
        sys.exit(f"error: {sys.argv[1]} is not the file that this reads")
    weights = {ours(name): converted(name, array) for name, array in tensors(file).items()}
    about = {"source": "MediaPipe, face_detection_short_range.tflite", "licence": "Apache-2.0"}
    save_file(weights, BLAZEFACE_WEIGHTS, about)
    print(f"{BLAZEFACE_WEIGHTS}: {BLAZEFACE_WEIGHTS.stat().st_size:,} bytes")
    compare(sys.argv[1])


if __name__ == "__main__":
    main()
