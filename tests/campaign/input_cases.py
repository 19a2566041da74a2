"""Cases with bad values, unusual or damaged images and masks, and malicious checkpoints.

A script completes its work correctly, or refuses the input in one line that names it and writes
nothing.
"""

import json
import os
import random
import warnings
from pathlib import Path

import bad_values
import hostile
import numpy as np
from cases import Case, require
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image, ImageOps
from reference_runs import CPU, ReferenceRuns, check_equal, read_completion
from safetensors.torch import load_file

from dcgan_inpaint.composition import normalize_overrides
from dcgan_inpaint.configs import flatten
from dcgan_inpaint.errors import format_count

TYPED = {"['a', None]": "[a,null]", "{'a': 1}": "{a:1}"}  # as on the command line


def run_bad_value(case: Case) -> None:
    """Set one option of one choice to a bad value."""
    runs, rng = ReferenceRuns(case.shared), case.rng
    choices = list(bad_values.choices())
    # The stride is coprime to their number, so the first cases cover all groups.
    script, group, choice = choices[(case.number * 37) % len(choices)]
    own = [w.format(files=runs.files) for w in bad_values.OWN[script].get(choice, [])]
    own = [f"{group}={choice}"] if group else own
    with initialize_config_dir(str(bad_values.CONF), version_base="1.3"):
        default = compose(script, normalize_overrides(own))
    small = bad_values.compose_small(script, group, choice, runs.files)
    key = rng.choice(bad_values.keys(small, group, choice))
    is_hydra_key = key.split(".")[-1].startswith("_")
    value = rng.choice(bad_values.HYDRA_BAD if is_hydra_key else list(bad_values.BAD))
    before, after = (flatten(OmegaConf.to_container(cfg)) for cfg in (default, small))
    words = [f"{k}={v}".replace(" ", "") for k, v in after.items() if v != before.get(k)]
    case.describe(f"{script} {' '.join(own)} {key}={value}")
    result = case.run(f"{script}.py", *own, *words, f"{key}={TYPED.get(value, value)}")
    if result.code == 0:
        result.check_success()
        for path in case.cwd.rglob("*.safetensors"):
            tensors = load_file(path).items()
            broken = [k for k, v in tensors if not v.isfinite().all()]
            result.require(not broken, f"{path.name}: {broken} is not finite")
        return
    if "not finite after" in result.err:  # a too large step shows only in training
        return result.check_one_line("Lower model.lr")
    case.check_refused(result)
    names = {*bad_values.aliases(small, key), key.rpartition(".")[0] or key}
    result.require(any(name in result.err for name in names), f"the line does not name {key}")


# --- images and masks ---

FORMATS = [  # modes, each with file formats that store it
    *(("L", file_format) for file_format in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")),
    *(("RGB", file_format) for file_format in ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM")),
    *(("P", file_format) for file_format in ("PNG", "GIF", "BMP", "TIFF")),
    *(("RGBA", file_format) for file_format in ("PNG", "TIFF", "WEBP")),
    *(("1", "PNG"), ("1", "TIFF"), ("LA", "PNG"), ("CMYK", "JPEG"), ("CMYK", "TIFF")),
    *(("I;16", "PNG"), ("I;16", "TIFF"), ("I", "TIFF"), ("F", "TIFF")),
]
ORIENTATION = 274  # EXIF tag
TRANSPOSED = {  # EXIF orientation: how the file stores an upright image
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def noise(rng: random.Random, mode: str, width: int, height: int) -> Image.Image:
    """Return an image of 8x8 random blocks, which survive JPEG compression."""
    blocks = rng.randbytes(3 * 8 * 8)
    image = Image.frombytes("RGB", (8, 8), blocks).resize((width, height), 0)
    if mode in ("I;16", "I", "F"):
        levels = np.asarray(image.convert("L")).astype({"I;16": "<u2", "I": "<i4"}.get(mode, "<f4"))
        return Image.fromarray(levels * 200 if mode != "F" else levels / 255)
    return image.convert(mode)


def write_image(rng: random.Random, directory: Path) -> tuple[Path, str, bool]:
    """Write an image of a random mode, size and format, often damaged.

    Returns its path, a description, and whether the file is intact.
    """
    mode, file_format = rng.choice(FORMATS)
    sides = rng.choice([(1, 1), (1, 200), (200, 1), (16, 16), (0, 0), (0, 0), (0, 0)])
    width, height = sides if sides[0] else (rng.randint(2, 300), rng.randint(2, 300))
    path, options = directory / f"a.{file_format.lower()}", {}
    orientation = rng.choice([0, 0, *range(1, 9), 9, 65535])
    if orientation and file_format in ("PNG", "JPEG", "WEBP", "TIFF"):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    noise(rng, mode, width, height).save(path, file_format, **options)
    data = bytearray(path.read_bytes())
    damages = ["intact", "intact", "truncated", "bits flipped", "header byte changed"]
    damage = rng.choice([*damages, "bytes appended", "emptied", "extension changed"])
    if damage == "truncated":
        del data[rng.randrange(len(data)) :]
    elif damage == "bits flipped":
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif damage == "header byte changed":
        data[rng.randrange(min(40, len(data)))] = rng.randrange(256)
    elif damage == "bytes appended":
        data += rng.randbytes(100)
    elif damage == "emptied":
        data.clear()
    elif damage == "extension changed":
        extension = rng.choice(["png", "jpg", "gif", "txt", "heic", "svg"])
        path = path.rename(directory / f"a.{extension}")
    path.write_bytes(data)
    description = f"{mode} {file_format} {width}x{height}, EXIF {orientation}, {damage}"
    return path, description, damage == "intact"


def photo_command(case: Case, *overrides: object) -> list[str]:
    """Return the command line that completes photos with one iteration."""
    runs = ReferenceRuns(case.shared)
    quick = ["solver.iterations=1", "stages=none", f"output={case.cwd / 'out'}"]
    return ["inpaint.py", *CPU, f"ckpt={runs.gan}", *runs.data, *quick, *map(str, overrides)]


def read_upright(path: Path) -> Image.Image:
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("ignore")  # PIL warns about broken EXIF data
        image.load()
        return ImageOps.exif_transpose(image)


def read_completed_photo(case: Case) -> Image.Image:
    (path,) = (case.cwd / "out" / "photos").iterdir()
    with Image.open(path) as image:
        image.load()
    return image


def run_image(case: Case) -> None:
    """Complete a photo; the result has its size and differs from it only in the hole."""
    path, description, intact = write_image(case.rng, case.inputs)
    case.describe(description)
    detector = case.rng.choice(["null", "auto"])
    result = case.run(*photo_command(case, f"images={path}", f"detector={detector}"))
    if result.code:
        case.check_refused(result, path.name)
        require(not intact, f"an intact image is refused: {result.err}")
        return
    result.check_success()
    photo, completed = read_upright(path), read_completed_photo(case)
    require(completed.size == photo.size, f"the size {photo.size} became {completed.size}")
    if photo.mode in ("L", "RGB") and min(photo.size) >= 16:
        require(completed.mode == photo.mode, f"the mode {photo.mode} became {completed.mode}")
        changed = np.asarray(photo) != np.asarray(completed)
        changed = changed.any(-1) if changed.ndim == 3 else changed
        require(changed.mean() < 0.5, "pixels outside of the hole changed")
        if detector == "null":  # the crop is the central square
            side = min(photo.size)
            left, top = (photo.width - side) // 2, (photo.height - side) // 2
            changed[top : top + side, left : left + side] = False
            require(not changed.any(), "pixels outside of the crop changed")


FILE_NAMES = {
    "long": b"a" * 246 + b".png",
    "not UTF-8": b"\xff\xfe.png",
    "two lines": b"a\nb.png",
    "leading dash": b"-rf.png",
    "assignment": b"a=b,c=[d].png",
    "blank": b" .png",
    "quotes": b"'\"`$(touch marker)`.png",
    "dots": b"...png",
}


def run_file_name(case: Case) -> None:
    """Complete a photo with an unusual file name."""
    name = list(FILE_NAMES)[case.number % len(FILE_NAMES)]
    case.describe(name)
    path = os.path.join(os.fsencode(case.inputs), FILE_NAMES[name])
    with open(path, "wb") as file:
        noise(case.rng, "RGB", 30, 40).save(file, "PNG")
    result = case.run(*photo_command(case, f"images={case.inputs}", "detector=null"))
    if result.code:
        case.check_refused(result)
    else:
        result.check_success()
        read_completed_photo(case)
    require(not list(case.directory.rglob("marker")), "the file name was executed")


def run_image_folder(case: Case) -> None:
    """Decode a folder: below 1% broken images are left out; more are refused."""
    rng, root, cache = case.rng, case.inputs, case.directory / "cache"
    count, broken_count = 150, rng.choice([0, 1, 1, 30])
    for i in range(count):
        noise(rng, "RGB", 20, 24).save(root / f"{i:03d}.png")
    broken = [f"{i:03d}.png" for i in rng.sample(range(count), broken_count)]
    for name in broken:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: rng.randrange(len(data) // 2)])
    os.mkfifo(root / "pipe.png")
    case.describe(format_count(broken_count, "broken image"))
    gan = ReferenceRuns(case.shared).gan
    words = ["inpaint.py", *CPU, f"ckpt={gan}", "data=folder", f"data.root={root}"]
    words += ["data.image_size=16", "split=train", "limit=2", "method=mean"]
    result = case.run(*words, f"cache_dir={cache}", f"output={case.cwd / 'out'}")
    if broken_count > 1:
        case.check_refused(result, "cannot be read")
        require(not list(cache.glob("folder*")), "an incomplete cache is left")
        return
    result.check_success()
    (file,) = cache.rglob("names.json")
    decoded = {Path(name).name for name in json.loads(file.read_text())}
    require(decoded and not decoded & {*broken, "pipe.png"}, "a broken image was decoded")


def run_mask_image(case: Case) -> None:
    """Complete a photo with a mask image; the hole follows the EXIF orientation of the mask."""
    rng, side = case.rng, 48
    photo = noise(rng, "RGB", side, side)
    photo.save(case.inputs / "photo.png")
    words = [f"images={case.inputs / 'photo.png'}", "crop=[0,0,48,48]", "mask=file"]
    if case.number % 3:  # an arbitrary file as the mask
        path, description, _ = write_image(rng, case.inputs)
        case.describe(description)
        result = case.run(*photo_command(case, *words, f"mask.path={path}"))
        if result.code:
            case.check_refused(result, "mask.path=")
        else:
            result.check_success()
            require(read_completed_photo(case).size == photo.size, "the size changed")
        return
    orientation = rng.choice([1, *TRANSPOSED])
    file_format = rng.choice(["PNG", "JPEG", "WEBP", "TIFF"])
    case.describe(f"EXIF {orientation} in {file_format}")
    left, top = rng.randint(2, 20), rng.randint(2, 20)
    box = left, top, left + rng.randint(9, 24), top + rng.randint(9, 12)
    upright = Image.new("L", (side, side), 255)
    upright.paste(0, box)
    stored, exif = upright, Image.Exif()
    exif[ORIENTATION] = orientation
    if orientation in TRANSPOSED:
        stored = upright.transpose(TRANSPOSED[orientation])
    path = case.inputs / f"mask.{file_format.lower()}"
    options = {"quality": 100} if file_format in ("JPEG", "WEBP") else {}
    stored.save(path, file_format, exif=exif, **options)
    case.run(*photo_command(case, *words, f"mask.path={path}", "blend=paste")).check_success()
    changed = (np.asarray(photo) != np.asarray(read_completed_photo(case))).any(-1)
    hole = np.asarray(upright) == 0
    require(not changed[~hole].any(), "pixels outside of the upright hole changed")
    require(changed[hole].mean() > 0.8, "the upright hole was not completed")


# --- checkpoints ---


def run_malicious_checkpoint(case: Case) -> None:
    """Load a malicious checkpoint: it is refused, and no code of it runs."""
    checkpoints = list(hostile.all_checkpoints())
    name, write = checkpoints[(case.number * 61) % len(checkpoints)]  # see run_bad_value
    path = write(case.inputs)
    quick = ["inpaint.py", *CPU, "limit=1", "solver.iterations=1"]
    data = ReferenceRuns(case.shared).data
    commands = {
        "ckpt": [*quick, f"ckpt={path}", *data],
        "samples": ["sample.py", f"ckpt={path}", "count=2", *data],
        "gan": ["train.py", *CPU, "model=latent_encoder", f"gan={path}", *data],
    }
    option = case.rng.choice(list(commands))
    case.describe(f"{name}, loaded as {option}")
    result = case.run(*commands[option])
    case.check_refused(result, f"={path}")
    require(not (case.inputs / "marker").exists(), "code of the checkpoint was executed")


def run_damaged_checkpoint(case: Case) -> None:
    """Load a truncated or changed checkpoint: it is refused, or the results are unchanged."""
    runs, rng = ReferenceRuns(case.shared), case.rng
    source = rng.choice([runs.weights, runs.trained / "last.ckpt"])
    path = case.inputs / source.name
    data = bytearray(source.read_bytes())
    if rng.random() < 0.4:
        position = rng.randrange(len(data))
        damage = f"truncated at byte {position} of {len(data)}"
        del data[position:]
    else:
        anywhere, head, tail = rng.randrange(len(data)), rng.randrange(3000), rng.randrange(1, 3000)
        position = rng.choice([anywhere, head, -tail])
        damage = f"bit flipped in byte {position} of {len(data)}"
        data[position] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    case.describe(f"{path.name} {damage}")
    result = case.run(*runs.complete(case.cwd / "run"), f"ckpt={path}")
    if result.code:
        case.check_refused(result, f"={path}")
        return
    result.check_success()
    actual, expected = read_completion(case.cwd / "run"), read_completion(runs.completed)
    for contents in (actual, expected):  # the settings contain the path of the checkpoint
        for name in list(contents):
            if name.startswith("records"):
                record = contents[name].items()
                contents[name] = {k: v for k, v in record if k != "settings"}
    check_equal(actual, expected, "the completion run")
