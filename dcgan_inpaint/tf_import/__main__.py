"""python -m dcgan_inpaint.tf_import path/to/checkpoint amos.safetensors"""

import argparse
from pathlib import Path

from dcgan_inpaint.errors import one_line_errors
from dcgan_inpaint.models.checkpoint import save_weights
from dcgan_inpaint.tf_import.convert import import_dcgan


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dcgan_inpaint.tf_import",
        description="Turn a TensorFlow checkpoint of Amos's DCGAN into one of this project.",
    )
    parser.add_argument("checkpoint", help="its folder, or <folder>/DCGAN.model-<step>")
    parser.add_argument("out", help="the .safetensors file to write, for inpaint.py ckpt=<out>")
    parser.add_argument(
        "--crop",
        type=float,
        default=108 / 178,
        help="how its training images were framed: side of the central square / short side; "
        "default 108/178, the papers' crop of CelebA; 1 for images that were square (the blog's "
        "OpenFace-aligned ones)",
    )
    args = parser.parse_args()
    with one_line_errors():
        if Path(args.out).is_dir():
            raise IsADirectoryError(f"{args.out}: a folder; name the file to write")
        model = import_dcgan(args.checkpoint, args.crop)
        save_weights(model, args.out)
    sizes = "{image_size} px, {channels} channels, z_dim {z_dim}, gf_dim {gf_dim}, df_dim {df_dim}"
    print(f"{sizes}, widths {{widths}}".format(**model.hparams), f"-> {args.out}")
    print(f"python inpaint.py ckpt={args.out} images=photo.jpg")


if __name__ == "__main__":
    main()
