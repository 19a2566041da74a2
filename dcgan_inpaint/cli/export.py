"""Export of a trained model: a small checkpoint, or one-pass completion as ONNX or torch.export."""

from pathlib import Path

from hydra.utils import get_object

from dcgan_inpaint.errors import one_line_errors
from dcgan_inpaint.inpainting.exporting import (
    check_onnx,
    export_program,
    write_onnx,
    write_program,
)
from dcgan_inpaint.models.checkpoint import load_model, save_weights
from dcgan_inpaint.schemas import ExportConfig


def main(config: ExportConfig) -> None:
    """Write the file `out`, whose suffix decides the format."""
    out = Path(config.out)
    with one_line_errors():
        if out.is_dir():
            raise IsADirectoryError(f"out={out}: is a directory. Give the path of a file")
        onnx = out.suffix == ".onnx"
        if config.weights != "half" and not onnx:
            raise ValueError(f"weights={config.weights}: requires out=<file>.onnx")
        if onnx:
            check_onnx(f"out={out}")
        model = load_model(config.ckpt)
        if out.suffix == ".safetensors":
            save_weights(model, out, averaged=True)
        else:
            network = model.fill(fold=not onnx)
            if network is None:
                raise ValueError(
                    f"ckpt={config.ckpt}: holds a {model.kind}, which has no network for one-pass "
                    "completion. Use out=<file>.safetensors"
                )
            program = export_program(
                network, model.image_shape, get_object(config.blend["_target_"])
            )
            if onnx:
                write_onnx(program, out, config.weights)
            else:
                write_program(program, out)
    print(f"{out}: {out.stat().st_size:,} bytes")
