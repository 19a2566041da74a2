"""Write of a trained model what completion needs, in half precision: what the repository ships.

python experiments/ship.py <run>/weights.safetensors dcgan_inpaint/checkpoints/<name>.safetensors

No raw networks beside their averages, nothing that only training needs, and no word of where the
images lay.  Says how many bytes that are.
"""

import sys
from pathlib import Path

from dcgan_inpaint.models.checkpoint import load_model, save_weights


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("error: give a checkpoint and the file to write")
    made = Path(sys.argv[2])
    save_weights(load_model(sys.argv[1]), made, averaged=True)
    print(f"{made}: {made.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
