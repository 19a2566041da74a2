"""Stanford Cars (Krause 2013), each cut to its box, as in Yeh 2017, section 4."""

from pathlib import Path

from PIL import Image

from dcgan_inpaint.data.images import Channels, Side, to_rgb_or_gray
from dcgan_inpaint.data.parts import Parts, stamp
from dcgan_inpaint.errors import Text, checked, import_extra


class Cars(Parts):
    """The cars of the published training and test parts, cut to the boxes that come with them.

    `root` holds cars_train/, cars_test/ and devkit/ with cars_train_annos.mat and
    cars_test_annos.mat.  A box is made a square by the resize, as the paper does.  Raises
    FileNotFoundError that says what is missing, ModuleNotFoundError without SciPy.
    """

    kind = "cars"

    @checked
    def __init__(self, root: Text, image_size: Side = 64, channels: Channels = 3):
        super().__init__(image_size, channels, 1.0, {"train": "train", "val": None, "test": "test"})
        self.root = Path(root).expanduser()
        self.boxes = self._boxes("train") | self._boxes("test")

    def _boxes(self, part: str) -> dict[str, tuple[int, int, int, int]]:
        """Left, top, right, bottom of each picture of a part, by its name below root."""
        io = import_extra("scipy.io", "data=cars", "SciPy", "mat")
        file = self.root / "devkit" / f"cars_{part}_annos.mat"
        if not file.is_file() or not (self.root / f"cars_{part}").is_dir():
            raise FileNotFoundError(
                f"Stanford Cars not found in data.root={self.root}: put cars_{part}/ and "
                f"devkit/{file.name} there"
            )
        try:  # arrays alone: nothing in such a file is run
            rows = io.loadmat(file, squeeze_me=True)["annotations"].reshape(-1)  # of one, too
            boxes = {
                str(row["fname"]): tuple(
                    int(row[f"bbox_{side}"]) for side in ("x1", "y1", "x2", "y2")
                )
                for row in rows
            }
        except Exception as error:  # a file can hold anything, and its reader raises many kinds
            raise ValueError(f"{file}: no list of cars and their boxes ({error})") from error
        for name, (left, top, right, bottom) in boxes.items():
            # a file beside the others: the list may be anybody's
            if "/" in name or not 1 <= left < right or not 1 <= top < bottom:
                raise ValueError(f"{file}: {name!r:.80}, {boxes[name]}: no picture and its box")
        # theirs count from 1, and the last pixel is inside
        return {
            f"cars_{part}/{name}": (x1 - 1, y1 - 1, x2, y2)
            for name, (x1, y1, x2, y2) in boxes.items()
        }

    def names(self, part: str | None) -> list[str]:
        return [name for name in self.boxes if name.startswith(f"cars_{part}/")]

    def picture(self, item: str) -> Image.Image:
        with Image.open(self.root / item) as whole:
            _, _, right, bottom = box = self.boxes[item]
            if right > whole.width or bottom > whole.height:
                raise ValueError(f"its box {box} reaches outside")
            car = to_rgb_or_gray(whole, self.channels).crop(box)
        return car.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)

    def settings(self) -> dict:
        files = (self.root / "devkit").glob("cars_*_annos.mat")
        return super().settings() | {"root": str(self.root.resolve()), "files": stamp(files)}
