"""Export a trained model as a small checkpoint: averaged weights in half precision."""

import argparse
from pathlib import Path

from dcgan_inpaint.errors import one_line_errors, tolerate_closed_pipes
from dcgan_inpaint.models.checkpoint import load_model, save_weights


def main() -> None:
    tolerate_closed_pipes()
    parser = argparse.ArgumentParser(
        prog="python -m dcgan_inpaint.cli.export",
        description="Write the averaged weights of a trained model in half precision. The file "
        "holds everything that completion needs, but no raw networks, nothing that only training "
        "needs, and no paths of the training images.",
    )
    parser.add_argument("checkpoint", help="weights.safetensors or last.ckpt of a training run")
    parser.add_argument("out", type=Path, help="the .safetensors file to write")
    args = parser.parse_args()
    with one_line_errors():
        if args.out.is_dir():
            raise IsADirectoryError(f"{args.out}: is a directory. Give the path of a file")
        save_weights(load_model(args.checkpoint), args.out, averaged=True)
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
