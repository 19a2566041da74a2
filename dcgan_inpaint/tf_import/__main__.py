"""Convert a TensorFlow checkpoint of Amos's DCGAN.

python -m dcgan_inpaint.tf_import path/to/checkpoint amos.safetensors
"""

import argparse
from pathlib import Path

from dcgan_inpaint.composition import quote_override
from dcgan_inpaint.errors import one_line_errors, tolerate_closed_pipes
from dcgan_inpaint.models.checkpoint import save_weights
from dcgan_inpaint.tf_import.convert import import_dcgan

CROP_HELP = """crop of the training images: side of the central square / short side.  The default,
108/178, is the papers' crop of CelebA; use 1 for square images such as OpenFace-aligned ones"""


def main() -> None:
    tolerate_closed_pipes()
    parser = argparse.ArgumentParser(prog="python -m dcgan_inpaint.tf_import", description=__doc__)
    parser.add_argument("checkpoint", help="its directory, or <directory>/DCGAN.model-<step>")
    parser.add_argument("out", help="the .safetensors file to write, for inpaint.py ckpt=<out>")
    parser.add_argument("--crop", type=float, default=108 / 178, help=CROP_HELP)
    args = parser.parse_args()
    with one_line_errors():
        if Path(args.out).is_dir():
            raise IsADirectoryError(f"{args.out}: is a directory. Give the path of a file")
        model = import_dcgan(args.checkpoint, args.crop)
        save_weights(model, args.out)
    sizes = "{image_size} px, {channels} channels, z_dim {z_dim}, gf_dim {gf_dim}, df_dim {df_dim}"
    print(f"{sizes}, widths {{widths}}".format(**model.hparams), f"-> {args.out}")
    print(f"python inpaint.py {quote_override('ckpt', args.out)} images=photo.jpg")


if __name__ == "__main__":
    main()
