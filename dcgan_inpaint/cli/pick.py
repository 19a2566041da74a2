"""Choice of other samples for the photos of a finished completion run: inpaint.py pick=.

Importing this module does not import torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dcgan_inpaint.errors import format_count, one_line_errors, show
from dcgan_inpaint.files import atomic_write, shorten_name
from dcgan_inpaint.schemas import InpaintConfig


def main(config: InpaintConfig) -> None:
    """Replace photos of the run in `output` by the samples in `pick`, and print where they are."""
    assert config.pick is not None
    with one_line_errors():
        if config.output is None:
            raise ValueError(
                f"pick={show(config.pick)}: selects samples of a finished run. "
                "Set output= to its directory"
            )
        photos = pick_samples(Path(config.output), config.pick)
    print(f"{format_count(len(photos), 'photo')} replaced")
    print(photos[0] if len(photos) == 1 else photos[0].parent)


def pick_samples(run_dir: Path, pick: int | Mapping[str, int]) -> list[Path]:
    """Replace photos of a finished run by samples that it has stored.

    Args:
        run_dir: The run directory.
        pick: The number of the sample, from 1: one for all photos, or one for each photo, by the
            name of its original file or by that in photos/.

    Returns:
        The replaced files.

    Raises:
        ValueError: If there are no such samples or photos. No file is replaced then.
    """
    option, run = f"pick={show(pick)}", f"output={run_dir}"
    if not (run_dir / "metrics.csv").is_file():
        raise ValueError(f"{option}: {run} is not a finished completion run. Set output= to one")
    photos = {path.stem: path for path in sorted((run_dir / "photos").glob("*.png"))}
    if not photos:
        raise ValueError(
            f"{option}: {run} has no photos: it completed images of a data set. "
            "Set output= to a run with images="
        )
    samples = run_dir / "samples"
    if not samples.is_dir():
        reason = "it has one completion of each photo"
        if (run_dir / "candidates").is_dir():
            reason = "they were deleted, or it is of an earlier version"
        raise ValueError(
            f"{option}: {run} has no samples: {reason}. "
            "Complete the photos with candidates=2 or more"
        )
    if isinstance(pick, int):
        numbers = dict.fromkeys(photos, pick)
    else:
        numbers = {_find_photo(list(photos), name, option): k for name, k in pick.items()}
    chosen = {photos[name]: samples / f"{name}_{k}.png" for name, k in numbers.items()}
    for photo, sample in chosen.items():
        if not sample.is_file():
            count = sum(path.name.startswith(f"{photo.stem}_") for path in samples.iterdir())
            samples_of_each = format_count(count, "sample")
            raise ValueError(
                f"{option}: {run} has {samples_of_each} of each photo. Use 1 to {count}"
            )
    for photo, sample in chosen.items():
        with atomic_write(photo) as file:
            file.write(sample.read_bytes())
    return list(chosen)


def _find_photo(labels: Sequence[str], name: str, option: str) -> str:
    """Return the label in photos/ of a photo, from its label or from the name of its file.

    Raises ValueError if there are none or several.
    """
    path = Path(name)
    if same := {name, path.stem} & set(labels):
        return same.pop()
    matches = [each for each in labels if each.partition("_")[2] == shorten_name(path.stem)]
    if len(matches) == 1:
        return matches[0]
    problem = "several photos have this name" if matches else "no such photo in the run"
    raise ValueError(f"{option}: {name}: {problem}. Use {' or '.join(matches or labels[:5])}")
