"""Sets that come in parts of their own: which part is trained on, validated on, tested on."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dcgan_inpaint.data.decoding import DecodedImages

SHARE = 20  # where a split has no part of its own it takes one image of so many
FIRST = {"val": 6, "test": 16}  # of each SHARE


class Parts(DecodedImages):
    """Images in parts, which are made into the splits; `names` gives those of one part.

    `parts` says which part each split is.  Where val or test is None, it is one image of 20 of
    the training part, in order, and not trained on.
    """

    cache_limit: float | None = None  # GB, over which the training split is streamed: streaming.py

    def __init__(
        self, image_size: int, channels: int, crop: float, parts: Mapping[str, str | None]
    ):
        super().__init__(image_size, channels, crop)
        self.parts = parts

    def names(self, part: str | None) -> Sequence[str]:
        """The names of a part's images, which no other part has."""
        raise NotImplementedError

    def shard(self, item: str) -> str:
        """Where an image lies; those of one shard are read fastest one after another."""
        return self.kind

    def items(self, split: str) -> list[str]:
        """The names of a split's images, in the order of the set.

        Raises ValueError where so few are trained on that none is held out for it.
        """
        own = self.parts[split]
        if split != "train" and own is not None:
            return list(self.names(own))
        held_out = {FIRST[name] for name in FIRST if self.parts[name] is None}
        names = self.names(self.parts["train"])
        if split == "train":
            return [name for i, name in enumerate(names) if i % SHARE not in held_out]
        if not (held := list(names[FIRST[split] :: SHARE])):
            raise ValueError(
                f"data.{split}=null: one of {SHARE} of {len(names)} images is none: name a part"
            )
        return held

    def settings(self) -> dict:
        return super().settings() | {"parts": dict(self.parts)}


def stamp(files: Iterable[Path]) -> str:
    """Changes when one of the files does: a word for their names, sizes and times."""
    digest = hashlib.sha256()
    for path in sorted(files):
        stat = path.stat()
        digest.update(
            f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode(errors="surrogateescape")
        )
    return digest.hexdigest()[:16]


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
