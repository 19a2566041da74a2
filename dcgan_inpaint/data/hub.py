"""Sets in the formats of Hugging Face, by its library `datasets`: parquet files of a folder, or the
hub's.  Since its version 4 that library runs no code of a set; here it is not asked for less."""

import io
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from dcgan_inpaint.configs import Positive, Text, checked
from dcgan_inpaint.data.decoding import Channels, Crop, Side
from dcgan_inpaint.data.parts import Parts, files_below, stamp
from dcgan_inpaint.errors import import_extra, show


class HuggingFace(Parts):
    """The images in one column of a set; nothing else in it is read.

    `path` is a folder of parquet files or, with `download`, a name on the hub; `split` is the part
    that is trained on, `val` and `test` those of these splits.  The library keeps its own copy, in
    HF_HOME.  `cache_limit` is in GB (streaming.py).  Raises FileNotFoundError for a path that is
    not there, ModuleNotFoundError without the library.
    """

    kind = "huggingface"

    @checked
    def __init__(
        self,
        path: Text,
        image_size: Side = 64,
        channels: Channels = 3,
        crop: Crop = 1.0,
        split: Text = "train",
        column: Text = "image",
        val: Text | None = None,
        test: Text | None = None,
        download: bool = False,
        cache_limit: Positive | None = None,
    ):
        super().__init__(image_size, channels, crop, {"train": split, "val": val, "test": test})
        self.path, self.split, self.column = path, split, column
        self.val, self.test, self.cache_limit = val, test, cache_limit
        self.local = Path(path).expanduser().is_dir()
        if not self.local and not download:
            raise FileNotFoundError(
                f"data.path={path} is not a folder; data.download=true takes it from the hub"
            )
        self.library = import_extra("datasets", "data=huggingface", "datasets", "huggingface")
        self._opened = lru_cache(maxsize=3)(self._open)  # mapped from files, not in memory

    def names(self, part: str | None) -> list[str]:
        return [f"{part}/{i:07d}" for i in range(len(self._opened(part)))]

    def image(self, item: str) -> Image.Image:
        part, _, number = item.rpartition("/")
        stored = self._opened(part)[int(number)][self.column]
        if stored["bytes"] is None:  # its path may lead to other images of this machine
            raise ValueError("the set holds its path alone: use data=folder")
        return Image.open(io.BytesIO(stored["bytes"]))

    def settings(self) -> dict:
        facts = {"path": self.path, "column": self.column, "files": self._files}
        return super().settings() | facts

    @cached_property
    def _files(self) -> str:
        if self.local:
            return stamp(files_below(Path(self.path).expanduser()))
        parts = {part for part in self.parts.values() if part is not None}
        copies = [file["filename"] for part in parts for file in self._opened(part).cache_files]
        return stamp(map(Path, copies))

    def _open(self, part: str | None) -> Any:
        key = next(split for split, its in self.parts.items() if its == part)
        asked = f"data.path={self.path} data.{'split' if key == 'train' else key}={part}"
        path = str(Path(self.path).expanduser()) if self.local else self.path
        try:
            opened = self.library.load_dataset(path, split=part)
        except Exception as error:  # a file can hold anything, and its readers raise many kinds
            raise ValueError(f"{asked}: {error or type(error).__name__}") from error
        if self.column not in opened.column_names:
            columns = ", ".join(opened.column_names)
            raise ValueError(f"data.column={show(self.column)}: {asked} has the columns {columns}")
        try:  # as the bytes that they are: decoded here, as all are
            undecoded = self.library.Image(decode=False)
            return opened.select_columns(self.column).cast_column(self.column, undecoded)
        except Exception as error:  # as above
            what = opened.features[self.column]
            raise ValueError(f"data.column={self.column}: {asked} has {what} there") from error
