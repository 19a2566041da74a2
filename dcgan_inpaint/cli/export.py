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
        if out.suffix == ".onnx":
            check_onnx(f"out={out}")
        model = load_model(config.ckpt)
        if out.suffix == ".safetensors":
            save_weights(model, out, averaged=True)
        else:
            network = model.fill()
            if network is None:
                raise ValueError(
                    f"ckpt={config.ckpt}: holds a {model.kind}, which has no network for one-pass "
                    "completion. Use out=<file>.safetensors"
                )
            program = export_program(
                network, model.image_shape, get_object(config.blend["_target_"])
            )
            write = write_onnx if out.suffix == ".onnx" else write_program
            write(program, out)
    print(f"{out}: {out.stat().st_size:,} bytes")
