"""Stanford Cars (Krause 2013), each cut to its box, as in Yeh 2017, section 4."""

from pathlib import Path

from PIL import Image

from dcgan_inpaint.configs import Text, checked
from dcgan_inpaint.data.decoding import Channels, Side, list_images, to_rgb_or_gray
from dcgan_inpaint.data.parts import Parts, stamp
from dcgan_inpaint.errors import import_extra

Box = tuple[int, int, int, int]  # left, top, right, bottom, in px


class Cars(Parts):
    """The cars of the published training and test parts, cut to the boxes that come with them.

    `root` holds cars_train/, cars_test/ and devkit/ with cars_train_annos.mat and
    cars_test_annos.mat; or, with `cut`, images that are their boxes already, without a devkit/
    and perhaps without cars_test/.  A box is made a square by the resize, as the paper does.
    Raises FileNotFoundError that says what is missing, ModuleNotFoundError without SciPy.
    """

    kind = "cars"

    @checked
    def __init__(
        self, root: Text, image_size: Side = 64, channels: Channels = 3, cut: bool = False
    ):
        self.root, self.cut = Path(root).expanduser(), cut
        test = None if cut and not (self.root / "cars_test").is_dir() else "test"
        super().__init__(image_size, channels, 1.0, {"train": "train", "val": None, "test": test})
        boxes = self._whole if cut else self._boxes
        self.boxes = boxes("train") | (boxes("test") if test else {})

    def _whole(self, part: str) -> dict[str, Box | None]:
        """The images of a part, by name below root, that are their boxes."""
        folder = self.root / f"cars_{part}"
        if not folder.is_dir():
            raise FileNotFoundError(f"Stanford Cars not found: put {folder.name}/ in {self.root}")
        return {f"{folder.name}/{path.name}": None for path in list_images(folder)}

    def _boxes(self, part: str) -> dict[str, Box | None]:
        """The box of each image of a part, by its name below root."""
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
                raise ValueError(f"{file}: {name!r:.80}, {boxes[name]}: no image and its box")
        # theirs count from 1, and the last pixel is inside
        return {
            f"cars_{part}/{name}": (x1 - 1, y1 - 1, x2, y2)
            for name, (x1, y1, x2, y2) in boxes.items()
        }

    def names(self, part: str | None) -> list[str]:
        return [name for name in self.boxes if name.startswith(f"cars_{part}/")]

    def image(self, item: str) -> Image.Image:
        with Image.open(self.root / item) as whole:
            box = self.boxes[item] or (0, 0, *whole.size)
            _, _, right, bottom = box
            if right > whole.width or bottom > whole.height:
                raise ValueError(f"its box {box} reaches outside")
            car = to_rgb_or_gray(whole, self.channels).crop(box)
        return car.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)

    def settings(self) -> dict:
        files = (self.root / "devkit").glob("cars_*_annos.mat")
        facts = {"root": str(self.root.resolve()), "cut": self.cut, "files": stamp(files)}
        return super().settings() | facts
