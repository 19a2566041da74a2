"""Any fault: is anything lost, half there, or silently wrong?

python tests/campaign/faults.py                         # the whole campaign
python tests/campaign/faults.py --quick                 # a part of each family, as CI runs it
python tests/campaign/faults.py --family kills --seed 1
python tests/campaign/faults.py --case kills/17         # one alone; what it wrote stays

A case runs the scripts with words, as a user does, in processes of their own, and is held to what
is said of its family below.  It draws all that it does from (seed, family, number), so one seed
gives the same cases; kills and signals by the clock hit what is running at that moment.  Starting
Python and torch takes seconds, so the processes are forked from this one, which has imported all
and computed nothing.  Mounting small disks takes root; without it those cases are skipped, and the
table says so.
"""

import argparse
import csv
import functools
import json
import math
import os
import random
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: threads do not survive a fork

import bad_values
import hostile
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image, ImageOps
from safetensors.torch import load_file

from dcgan_inpaint.configs import normalize_overrides
from dcgan_inpaint.models.checkpoint import load_gan, save_weights
from dcgan_inpaint.runs.records import read_record
from dcgan_inpaint.runs.run_dir import flat

PROJECT = Path(__file__).resolve().parents[2]
SECONDS = 300  # that a case may take, where the machine does other work as well
SOON = 10  # seconds in which a signal ends a run


class Fault(Exception):
    """What does not hold."""


class Skipped(Exception):
    """Why a case cannot be tried here."""


def hold(true: object, what: str) -> None:
    if not true:
        raise Fault(what)


# --- scripts in processes of their own ---


class Done(NamedTuple):
    """How a script ended: exit code, or minus the signal that killed it."""

    command: str
    code: int
    out: str
    err: str

    def fault(self, what: str) -> Fault:
        return Fault(f"{what}; exit code {self.code} of {self.command}\n{self.err[-1500:]}")

    def check(self, true: object, what: str) -> None:
        if not true:
            raise self.fault(what)

    def succeeds(self) -> None:
        self.check(self.code == 0 and "Traceback" not in self.err, "it does not succeed")

    def line(self, *named: str, code: int = 1) -> None:
        """It ends in one line, which names these, and no traceback."""
        lines = self.err.splitlines() or [""]
        self.check(self.code == code, f"it does not end with {code}")
        self.check("Traceback" not in self.out + self.err, "a traceback")
        said = [line for line in lines if line.startswith("error: ")]
        if code == 1:
            self.check(len(said) == 1 and lines[-1] == said[0], "not one line")
        for name in named:
            self.check(name in lines[-1], f"the line does not name {name}")


class Running:
    """A script that runs."""

    def __init__(self, pid: int, command: str, out: Path, err: Path):
        self.pid, self.command, self.out, self.err = pid, command, out, err
        self.status: int | None = None

    def runs(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None
        return self.status is None

    def tell(self, number: int) -> None:
        """Send a signal, if it is not too late."""
        if self.runs():
            os.kill(self.pid, number)

    def until(self, sign: Callable[[], object]) -> None:
        """Wait for a sign, or for its end."""
        while self.runs() and not sign():
            time.sleep(0.0003)

    def end(self) -> Done:
        if self.status is None:
            self.status = os.waitpid(self.pid, 0)[1]
        code = os.waitstatus_to_exitcode(self.status)
        # what a device or a name holds may be no text
        out, err = (path.read_bytes().decode(errors="replace") for path in (self.out, self.err))
        return Done(self.command, code, out, err)


class Trial:
    """One case: its random numbers, its folders, and what it runs."""

    def __init__(self, family: str, number: int, seed: int, room: Path, shared: Path):
        self.number, self.room, self.shared = number, room, shared
        self.rng = random.Random(f"{seed} {family} {number}")
        self.here, self.given = room / "here", room / "given"  # where it runs; what it is given
        self.said: list[str] = []  # what the case is, for its fault
        self.count = 0
        for folder in (self.here, self.given):
            folder.mkdir(parents=True)

    def start(self, *command: object, first: Callable[[], None] | None = None) -> Running:
        """A script and its words; `first` is called in its process before it begins."""
        words = [str(word) for word in command]
        self.count += 1
        out, err = (self.room / f"{self.count}.{name}" for name in ("out", "err"))
        sys.stdout.flush()
        sys.stderr.flush()
        if not (pid := os.fork()):
            _become(words, self.here, (out, err), first)
        return Running(pid, " ".join(words), out, err)

    def run(self, *command: object, first: Callable[[], None] | None = None) -> Done:
        return self.start(*command, first=first).end()

    def says(self, what: object) -> None:
        self.said.append(str(what))

    def refused(self, done: Done, *named: str) -> None:
        """In one line, and nothing is written."""
        done.line(*named)
        written = [str(path.relative_to(self.here)) for path in self.here.rglob("*")]
        done.check(not written, f"{written} was written")


def _become(
    words: list[str], here: Path, streams: Sequence[Path], first: Callable[[], None] | None
) -> NoReturn:
    """Be `python <words>` in the folder `here`, from now to the end of the process."""
    code: Any = 1
    try:
        os.chdir(here)
        for number, path in enumerate(streams, 1):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = words
        if first is not None:
            first()
        runpy.run_path(str(PROJECT / words[0]), run_name="__main__")
        code = 0
    except SystemExit as stop:  # as the interpreter takes it
        code = stop.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # the script has ended: too late for it
            signal.signal(number, signal.SIG_IGN)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def threads(count: int) -> Callable[[], None]:
    return functools.partial(torch.set_num_threads, count)


CHANGES = {"open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate"}


def counting(below: Path, note: Path, killed_at: int = 0) -> Callable[[], None]:
    """Counts in `note` what a process changes below a folder, and kills it at one of them."""

    def begin() -> None:
        file, count = os.open(note, os.O_CREAT | os.O_WRONLY), 0
        prefix = os.fsencode(below)

        def hook(event: str, arguments: tuple) -> None:
            nonlocal count
            if event not in CHANGES or isinstance(arguments[0], int):
                return
            if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
                return
            if os.fsencode(arguments[0]).startswith(prefix):
                count += 1
                if count == killed_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                os.pwrite(file, b"%8d" % count, 0)

        sys.addaudithook(hook)

    return begin


# --- what all compare with: runs that nothing happened to ---

CPU = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
TRAIN = [
    *("train.py", *CPU, "data.image_size=16", "data.train_size=64", "data.val_size=4"),
    *("data.test_size=8", "batch_size=16", "model.gf_dim=2", "model.df_dim=2", "model.z_dim=5"),
    *("trainer.log_every_n_steps=2", "sample_every=4", "preview=2", "validate=3"),
    "sample_metrics=0",
]
EPOCHS = 3
COMPLETE = [
    *("inpaint.py", *CPU, "mask=random", "limit=8", "batch_size=2", "candidates=2"),
    *("solver.iterations=3", "stages=none", "out_interval=1"),
]


class Shared:
    """Where what is made once lies, and the words that made it."""

    def __init__(self, root: Path):
        self.root, self.files, self.cache = root, root / "files", root / "cache"
        self.trained, self.half = root / "trained", root / "half"  # of EPOCHS, of one less
        self.completed, self.samples = root / "completed", root / "samples"
        self.weights = self.trained / "weights.safetensors"
        self.gan = self.files / "DCGAN.safetensors"
        self.data = (f"cache_dir={self.cache}",)

    def train(self, folder: Path, epochs: int = EPOCHS, cache: Path | None = None) -> list[str]:
        cached = f"cache_dir={cache or self.cache}"
        return [*TRAIN, f"trainer.max_epochs={epochs}", cached, f"output={folder}"]

    def complete(self, folder: Path, cache: Path | None = None) -> list[str]:
        cached = f"cache_dir={cache or self.cache}"
        return [*COMPLETE, f"ckpt={self.weights}", cached, f"output={folder}"]

    def sample(self, folder: Path) -> list[str]:
        ends = ["plus=[0]", "minus=[1]", "base=[2]", f"output={folder}"]
        return ["sample.py", f"ckpt={self.weights}", "count=9", "steps=3", *ends]

    def words(self, kind: str, folder: Path) -> list[str]:
        """Of train, inpaint or sample."""
        if kind == "train":
            return self.train(folder)
        return self.sample(folder) if kind == "sample" else self.complete(folder)

    @functools.cached_property
    def facts(self) -> dict[str, float]:
        """How many changes to files a run makes, and how many seconds its parts last."""
        return json.loads((self.root / "facts.json").read_text())


def prepare(trial: Trial) -> None:
    shared, facts = Shared(trial.shared), {}
    shared.files.mkdir(parents=True)
    bad_values.make_files(shared.files)
    wholes: dict[str, tuple[Path, list[str], str]] = {
        "train": (shared.trained, shared.train(shared.trained), "config.yaml"),
        "inpaint": (shared.completed, shared.complete(shared.completed), "records"),
        "sample": (shared.samples, shared.sample(shared.samples), "config.yaml"),
    }
    for name, (folder, words, sign) in wholes.items():
        note = trial.room / name
        running = trial.start(*words, first=counting(folder, note))
        running.until((folder / sign).exists)
        since = time.perf_counter()
        running.end().succeeds()
        facts[f"{name} seconds"] = time.perf_counter() - since
        facts[f"{name} changes"] = int(note.read_bytes())
    trial.run(*shared.train(shared.half, EPOCHS - 1)).succeeds()
    cache, note = trial.room / "cache", trial.room / "cache changes"
    building = trial.start(*shared.complete(trial.here / "run", cache), first=counting(cache, note))
    building.until(lambda: any(cache.glob(".*building*")))
    since = time.perf_counter()
    building.until(lambda: not any(cache.glob(".*building*")))
    facts["cache seconds"] = time.perf_counter() - since
    building.end().succeeds()
    facts["cache changes"] = int(note.read_bytes())
    (shared.root / "facts.json").write_text(json.dumps(facts))


def contents(folder: Path) -> dict[str, Any]:
    """All that a completion left, but the seconds that it took and the words that it was given."""
    held: dict[str, Any] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_dir() or name in ("config.yaml", ".lock"):
            continue
        if name == "index.html":  # names its folder, and the seconds
            held[name] = b"</html>" in path.read_bytes()
        elif name in ("metrics.csv", "summary.csv"):
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if row.get("metric") != "seconds"]
            held[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
        elif name.startswith("records") and (found := read_record(path)):
            kept, about = found
            kept["measured"] = kept["measured"][:-1]
            held[name] = {k: v.numpy().tobytes() for k, v in kept.items()} | about
        else:
            held[name] = path.read_bytes()
    return held


def learned(folder: Path) -> dict[str, Any]:
    """All that a training left, but its logs and how to continue it."""
    held: dict[str, Any] = {"weights": (folder / "weights.safetensors").read_bytes()}
    for room in ("samples", "completions"):
        held |= {f"{room}/{p.name}": p.read_bytes() for p in (folder / room).iterdir()}
    return held | contents(folder / "validation")


def same(found: dict[str, Any], wanted: dict[str, Any], what: str) -> None:
    differing = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
    hold(not differing, f"{what}: not as if nothing had happened: {', '.join(differing[:9])}")


def no_parts(*folders: Path) -> None:
    """Nothing is left of files that were being written."""
    left = [
        path
        for folder in folders
        for end in ("*.part", ".*building*")
        for path in folder.rglob(end)
    ]
    hold(not left, f"left behind: {left}")


def completes(trial: Trial, folder: Path, cache: Path | None = None) -> None:
    """The same words once more end as if nothing had happened."""
    shared = Shared(trial.shared)
    trial.run(*shared.complete(folder, cache)).succeeds()
    same(contents(folder), contents(shared.completed), "the completion")
    no_parts(folder, *([cache] if cache else []))


def trains_on(trial: Trial, folder: Path, cache: Path | None = None) -> None:
    """Continued, or begun again if there is nothing to continue, it ends the same."""
    shared, last = Shared(trial.shared), folder / "last.ckpt"
    words = shared.train(folder, cache=cache)
    trial.run(*([words[0], f"resume={last}"] if last.exists() else words)).succeeds()
    same(learned(folder), learned(shared.trained), "the training")
    no_parts(folder, *([cache] if cache else []))


# --- bad values: refused in a line that names the key, nothing written; or taken, and finite ---

TYPED = {"['a', None]": "[a,null]", "{'a': 1}": "{a:1}"}


def bad_value(trial: Trial) -> None:
    shared, rng = Shared(trial.shared), trial.rng
    ways = list(bad_values.ways())
    door, group, choice = ways[(trial.number * 37) % len(ways)]  # of all kinds early
    own = [w.format(files=shared.files) for w in bad_values.OWN[door].get(choice, [])]
    own = [f"{group}={choice}"] if group else own
    with initialize_config_dir(str(bad_values.CONF), version_base="1.3"):
        plain = compose(door, normalize_overrides(own))
    small = bad_values.composed(door, group, choice, shared.files)
    key = rng.choice(bad_values.keys(small, group, choice))
    hydras = key.split(".")[-1].startswith("_")
    shown = rng.choice(bad_values.HYDRAS if hydras else list(bad_values.BAD))
    before, now = (flat(OmegaConf.to_container(cfg)) for cfg in (plain, small))
    # what has it as its interpolation follows
    words = [f"{k}={v}".replace(" ", "") for k, v in now.items() if v != before.get(k)]
    trial.says(f"{door} {' '.join(own)} {key}={shown}")
    done = trial.run(f"{door}.py", *own, *words, f"{key}={TYPED.get(shown, shown)}")
    if done.code == 0:
        done.succeeds()
        for path in trial.here.rglob("*.safetensors"):
            held = load_file(path).items()
            broken = [k for k, v in held if k != "measured" and not v.isfinite().all()]
            done.check(not broken, f"{path.name}: not finite: {broken}")
        return
    if "not finite after" in done.err:  # a step that is too large is found out in training
        return done.line("Lower model.lr")
    trial.refused(done)
    names = {*bad_values.aliases(small, key), key.rpartition(".")[0] or key}
    done.check(any(name in done.err for name in names), f"{key} is not named")


# --- images and masks: refused in a line with the file's name, nothing written; or the photo is
# completed at its own size, upright, and as it was outside of the hole ---

KINDS = [  # modes and the formats that hold them
    *(("L", kind) for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")),
    *(("RGB", kind) for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM")),
    *(("P", kind) for kind in ("PNG", "GIF", "BMP", "TIFF")),
    *(("RGBA", kind) for kind in ("PNG", "TIFF", "WEBP")),
    *(("1", "PNG"), ("1", "TIFF"), ("LA", "PNG"), ("CMYK", "JPEG"), ("CMYK", "TIFF")),
    *(("I;16", "PNG"), ("I;16", "TIFF"), ("I", "TIFF"), ("F", "TIFF")),
]
TURNS = {  # EXIF's orientation: what puts an upright image into the file
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def noise(rng: random.Random, mode: str, width: int, height: int) -> Image.Image:
    """Of coarse blocks, which survive JPEG."""
    blocks = rng.randbytes(3 * 8 * 8)
    image = Image.frombytes("RGB", (8, 8), blocks).resize((width, height), 0)
    if mode in ("I;16", "I", "F"):
        levels = np.asarray(image.convert("L")).astype({"I;16": "<u2", "I": "<i4"}.get(mode, "<f4"))
        return Image.fromarray(levels * 200 if mode != "F" else levels)
    return image.convert(mode)


def image_file(rng: random.Random, folder: Path) -> tuple[Path, str]:
    """An image of any kind, often damaged, and what it is."""
    mode, kind = rng.choice(KINDS)
    sides = rng.choice([(1, 1), (1, 200), (200, 1), (16, 16), (0, 0), (0, 0), (0, 0)])
    width, height = sides if sides[0] else (rng.randint(2, 300), rng.randint(2, 300))
    path, options = folder / f"a.{kind.lower()}", {}
    turn = rng.choice([0, 0, *range(1, 9), 9, 65535])
    if turn and kind in ("PNG", "JPEG", "WEBP", "TIFF"):
        exif = Image.Exif()
        exif[274] = turn
        options["exif"] = exif
    noise(rng, mode, width, height).save(path, kind, **options)
    data = bytearray(path.read_bytes())
    damage = rng.choice(["whole", "whole", "cut", "flipped", "header", "more", "empty", "named"])
    if damage == "cut":
        del data[rng.randrange(len(data)) :]
    elif damage == "flipped":
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif damage == "header":
        data[rng.randrange(min(40, len(data)))] = rng.randrange(256)
    elif damage == "more":
        data += rng.randbytes(100)
    elif damage == "empty":
        data.clear()
    if damage == "named":
        other = folder / f"a.{rng.choice(['png', 'jpg', 'gif', 'txt', 'heic', 'svg'])}"
        path = path.rename(other)
    path.write_bytes(data)
    return path, f"{mode} {kind} {width}x{height}, EXIF {turn}, {damage}"


def photo_words(trial: Trial, *more: object) -> list[str]:
    shared = Shared(trial.shared)
    quick = ["solver.iterations=1", "stages=none", f"output={trial.here / 'out'}"]
    return ["inpaint.py", *CPU, f"ckpt={shared.gan}", *shared.data, *quick, *map(str, more)]


def upright(path: Path) -> Image.Image:
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("ignore")  # of PIL, of broken EXIF
        image.load()
        return ImageOps.exif_transpose(image)


def completed_photo(trial: Trial) -> Image.Image:
    (path,) = (trial.here / "out" / "photos").iterdir()
    with Image.open(path) as image:
        image.load()
    return image


def image(trial: Trial) -> None:
    path, what = image_file(trial.rng, trial.given)
    trial.says(what)
    detector = trial.rng.choice(["null", "auto"])
    done = trial.run(*photo_words(trial, f"images={path}", f"detector={detector}"))
    if done.code:
        trial.refused(done, path.name)
        hold("whole" not in what, f"a whole image is refused: {done.err}")
        return
    done.succeeds()
    photo, made = upright(path), completed_photo(trial)
    hold(made.size == photo.size, f"{photo.size} has become {made.size}")
    if photo.mode in ("L", "RGB") and min(photo.size) >= 16:
        hold(made.mode == photo.mode, f"{photo.mode} has become {made.mode}")
        differ = np.asarray(photo) != np.asarray(made)
        differ = differ.any(-1) if differ.ndim == 3 else differ
        hold(differ.mean() < 0.5, "changed outside of the hole")
        if detector == "null":
            side = min(photo.size)
            left, top = (photo.width - side) // 2, (photo.height - side) // 2
            differ[top : top + side, left : left + side] = False
            hold(not differ.any(), "changed outside of the square")


NAMES = {
    "long": b"a" * 246 + b".png",
    "no text": b"\xff\xfe.png",
    "lines": b"a\nb.png",
    "a dash": b"-rf.png",
    "assignment": b"a=b,c=[d].png",
    "blank": b" .png",
    "quotes": b"'\"`$(touch marker)`.png",
    "dots": b"...png",
}


def image_name(trial: Trial) -> None:
    """Files of any name in a folder: completed, or refused before the work."""
    which = list(NAMES)[trial.number % len(NAMES)]
    trial.says(which)
    file = os.path.join(os.fsencode(trial.given), NAMES[which])
    with open(file, "wb") as opened:
        noise(trial.rng, "RGB", 30, 40).save(opened, "PNG")
    done = trial.run(*photo_words(trial, f"images={trial.given}", "detector=null"))
    if done.code:
        trial.refused(done)
    else:
        done.succeeds()
        completed_photo(trial)
    hold(not list(trial.room.rglob("marker")), "the name was run")


def image_folder(trial: Trial) -> None:
    """Of images to learn from: less than 1% broken ones are left out, more are refused."""
    rng, root, cache = trial.rng, trial.given, trial.room / "cache"
    count, bad = 150, rng.choice([0, 1, 1, 30])
    for i in range(count):
        noise(rng, "RGB", 20, 24).save(root / f"{i:03d}.png")
    broken = [f"{i:03d}.png" for i in rng.sample(range(count), bad)]
    for name in broken:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: rng.randrange(len(data) // 2)])
    os.mkfifo(root / "pipe.png")
    trial.says(f"{bad} broken")
    gan = Shared(trial.shared).gan
    words = ["inpaint.py", *CPU, f"ckpt={gan}", "data=folder", f"data.root={root}"]
    words += [
        "data.image_size=16",
        "split=train",
        "limit=2",
        "method=mean",
        f"cache_dir={cache}",
        f"output={trial.here / 'out'}",
    ]
    done = trial.run(*words)
    if bad > 1:
        trial.refused(done, "cannot be read")
        hold(not list(cache.glob("folder*")), "a cache of some was kept")
        return
    done.succeeds()
    (file,) = cache.rglob("names.json")
    kept = {Path(name).name for name in json.loads(file.read_text())}
    hold(kept and not kept & {*broken, "pipe.png"}, "a broken one was kept")


def mask_image(trial: Trial) -> None:
    """The hole is where the upright mask image has it, whatever EXIF says of its file."""
    rng, side = trial.rng, 48
    photo = noise(rng, "RGB", side, side)
    photo.save(trial.given / "photo.png")
    words = [f"images={trial.given / 'photo.png'}", "crop=[0,0,48,48]", "mask=file"]
    if trial.number % 3:  # of any kind
        path, what = image_file(rng, trial.given)
        trial.says(what)
        done = trial.run(*photo_words(trial, *words, f"mask.path={path}"))
        if done.code:
            trial.refused(done, "mask.path=")
        else:
            done.succeeds()
            hold(completed_photo(trial).size == photo.size, "another size")
        return
    turn, kind = rng.choice([1, *TURNS]), rng.choice(["PNG", "JPEG", "WEBP", "TIFF"])
    trial.says(f"EXIF {turn} in {kind}")
    left, top = rng.randint(2, 20), rng.randint(2, 20)
    box = left, top, left + rng.randint(9, 24), top + rng.randint(9, 12)
    upright_mask = Image.new("L", (side, side), 255)
    upright_mask.paste(0, box)
    stored, exif = upright_mask, Image.Exif()
    exif[274] = turn
    if turn in TURNS:
        stored = upright_mask.transpose(TURNS[turn])
    path = trial.given / f"mask.{kind.lower()}"
    stored.save(path, kind, exif=exif, **({"quality": 100} if kind in ("JPEG", "WEBP") else {}))
    trial.run(*photo_words(trial, *words, f"mask.path={path}", "blend=paste")).succeeds()
    differ = (np.asarray(photo) != np.asarray(completed_photo(trial))).any(-1)
    hole = np.asarray(upright_mask) == 0
    hold(not differ[~hole].any(), "changed outside of the upright hole")
    hold(differ[hole].mean() > 0.8, "not changed in the upright hole")


# --- checkpoints: refused in one line, nothing written, nothing run; or it was not damaged ---


def checkpoint(trial: Trial) -> None:
    """One of those that lie."""
    every = list(hostile.every())
    name, make = every[(trial.number * 61) % len(every)]
    path = make(trial.given)
    quick, data = ["inpaint.py", *CPU, "limit=1", "solver.iterations=1"], Shared(trial.shared).data
    ways = {
        "ckpt": [*quick, f"ckpt={path}", *data],
        "samples": ["sample.py", f"ckpt={path}", "count=2", *data],
        "gan": ["train.py", *CPU, "model=latent_encoder", f"gan={path}", *data],
    }
    way = trial.rng.choice(list(ways))
    trial.says(f"{name}, by {way}")
    done = trial.run(*ways[way])
    trial.refused(done, f"={path}")
    hold(not (trial.given / "marker").exists(), "it was run")


def damaged_checkpoint(trial: Trial) -> None:
    """A good one, cut or with a bit flipped: never taken for something else."""
    shared, rng = Shared(trial.shared), trial.rng
    source = rng.choice([shared.weights, shared.trained / "last.ckpt"])
    path = trial.given / source.name
    data = bytearray(source.read_bytes())
    if rng.random() < 0.4:
        at = rng.randrange(len(data))
        what = f"cut at {at} of {len(data)}"
        del data[at:]
    else:
        at = rng.choice([rng.randrange(len(data)), rng.randrange(3000), -rng.randrange(1, 3000)])
        what = f"bit flipped at {at} of {len(data)}"
        data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    trial.says(f"{path.name} {what}")
    words = [*shared.complete(trial.here / "run"), f"ckpt={path}"]
    done = trial.run(*words)
    if done.code:
        trial.refused(done, f"={path}")
    else:
        done.succeeds()
        mine, theirs = contents(trial.here / "run"), contents(shared.completed)
        for held in (mine, theirs):  # where the checkpoint lies is one of the settings
            for name in list(held):
                if name.startswith("records"):
                    held[name] = {k: v for k, v in held[name].items() if k != "settings"}
        same(mine, theirs, "taken as it is")


# --- damage: what is missing or broken in a run's folder is made again, or refused in one line ---


def damage(rng: random.Random, path: Path) -> str:
    how = rng.choice(["deleted", "empty", "cut", "flipped", "zeros", "text", "more"])
    data = bytearray(path.read_bytes())
    path.unlink()
    if how == "cut":
        del data[rng.randrange(len(data)) if data else 0 :]
    elif how == "flipped" and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "zeros":
        data[:] = bytes(len(data))
    elif how == "text":
        data[:] = b"not what was here"
    elif how == "more":
        data += rng.randbytes(50)
    if how != "deleted":
        path.write_bytes(b"" if how == "empty" else data)
    return f"{path.name} {how}"


def files_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")


def damaged_completion(trial: Trial) -> None:
    shared, folder = Shared(trial.shared), trial.here / "run"
    shutil.copytree(shared.completed, folder)
    for path in trial.rng.sample(files_below(folder), trial.rng.choice([1, 1, 2, 5])):
        trial.says(damage(trial.rng, path))
    completes(trial, folder)


def damaged_cache(trial: Trial) -> None:
    shared, cache, rng = Shared(trial.shared), trial.room / "cache", trial.rng
    shutil.copytree(shared.cache, cache)
    files = [p for p in files_below(cache) if p.suffix in (".bin", ".json")]
    trial.says(damage(rng, rng.choice(files)))
    if rng.random() < 0.5:
        completes(trial, trial.here / "run", cache)
    else:
        trains_on(trial, trial.here / "run", cache)


def damaged_training(trial: Trial) -> None:
    """Continued as if nothing were, or refused; then the one before, or all words, do it."""
    shared, folder, rng = Shared(trial.shared), trial.here / "run", trial.rng
    shutil.copytree(shared.half, folder)
    named = rng.choice(["last.ckpt", "config.yaml", "weights.safetensors", ""])
    path = folder / named if named else rng.choice(files_below(folder))
    trial.says(damage(rng, path))
    longer = f"trainer.max_epochs={EPOCHS}"
    before = {p: p.read_bytes() for p in files_below(folder)}
    done = trial.run("train.py", f"resume={folder / 'last.ckpt'}", longer)
    if done.code:
        done.line()
        now = {p: p.read_bytes() for p in files_below(folder)}
        hold(now == before, "a refused run has changed something")
        if path.name == "config.yaml":
            path.unlink(missing_ok=True)
            trial.run(*shared.train(folder), f"resume={folder / 'last.ckpt'}").succeeds()
        else:
            trial.run("train.py", f"resume={folder / 'last-1.ckpt'}", longer).succeeds()
    else:
        done.succeeds()
    found, wanted = learned(folder), learned(shared.trained)
    for held in (found, wanted):  # images of earlier iterations are not made again
        for name in [n for n in held if n.startswith(("samples/", "completions/"))]:
            del held[name]
    same(found, wanted, "the training")


# --- disks: full or read-only ends a run in one line that names the folder; with room again it
# continues, and ends as if nothing had happened ---


@contextmanager
def disk(at: Path, options: str) -> Iterator[None]:
    at.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Skipped(f"no disk can be mounted here ({done.stderr.strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def change(at: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(at)], check=True)


def used(folder: Path) -> int:
    """KB on a disk of pages of 4 KB."""
    return sum(4 * math.ceil(max(p.stat().st_size, 1) / 4096) for p in folder.rglob("*"))


def full_disk(trial: Trial) -> None:
    shared, at = Shared(trial.shared), trial.room / "disk"
    kind = ["inpaint", "train", "cache", "sample"][trial.number % 4]
    most = {
        "inpaint": used(shared.completed),
        "train": 2 * used(shared.trained),
        "cache": used(shared.cache),
        "sample": used(shared.samples),
    }
    size = 4 * trial.rng.randint(1, most[kind] // 4)
    trial.says(f"{kind} on {size} KB")
    with disk(at, f"size={size}k"):
        folder, cache = at / "run", at / "cache"
        if kind == "cache":
            words, named = shared.complete(trial.here / "run", cache), f"cache_dir={cache}"
        else:
            words, named = shared.words(kind, folder), str(folder)
        done = trial.run(*words)
        if done.code:
            done.line(named)
            if kind == "cache":
                hold(not list(trial.here.iterdir()), "a folder was made")
        else:
            done.succeeds()
        whole_images(at)
        change(at, "size=64m")
        if kind == "inpaint":
            completes(trial, folder)
        elif kind == "train":
            trains_on(trial, folder)
        elif kind == "cache":
            completes(trial, trial.here / "run", cache)
        else:
            samples_again(trial, folder)


def whole_images(folder: Path) -> None:
    for path in sorted(folder.rglob("*.png")):
        try:
            with Image.open(path) as image:
                image.verify()
            hold(b"IEND" in path.read_bytes()[-8:], f"half of an image: {path.name}")
        except (OSError, SyntaxError) as error:
            raise Fault(f"half of an image: {path.name} ({error})") from error


def samples_again(trial: Trial, folder: Path) -> None:
    shared = Shared(trial.shared)
    trial.run(*shared.sample(folder)).succeeds()
    same(contents(folder), contents(shared.samples), "the samples")
    no_parts(folder)


def limited_files(trial: Trial) -> None:
    """A limit of the system for the size of a file (ulimit -f) is met like a full disk."""
    shared, folder = Shared(trial.shared), trial.here / "run"
    kind = ["inpaint", "train"][trial.number % 2]
    source = shared.completed if kind == "inpaint" else shared.trained
    most = max(path.stat().st_size for path in source.rglob("*"))
    size = trial.rng.randint(4096, most)  # what it says has to be written too
    trial.says(f"{kind} with files of {size} bytes at most")
    words = shared.complete(folder) if kind == "inpaint" else shared.train(folder)
    limits = size, resource.RLIM_INFINITY
    done = trial.run(*words, first=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))
    if done.code:
        done.line(str(folder))
    else:
        done.succeeds()
    if kind == "inpaint":
        completes(trial, folder)
    else:
        trains_on(trial, folder)


def read_only(trial: Trial) -> None:
    shared, at = Shared(trial.shared), trial.room / "disk"
    kind = ["inpaint", "train", "sample", "cache", "built cache"][trial.number % 5]
    trial.says(kind)
    with disk(at, "size=64m"):
        if kind == "built cache":
            shutil.copytree(shared.cache, at / "cache")
        change(at, "ro")
        folder = trial.here / "run" if "cache" in kind else at / "run"
        cache = at / "cache"
        if kind == "built cache":
            completes(trial, folder, cache)
            return
        words = {
            "inpaint": shared.complete(folder),
            "train": shared.train(folder),
            "sample": shared.sample(folder),
            "cache": shared.complete(folder, cache),
        }
        named = f"cache_dir={cache}" if kind == "cache" else f"output={folder}"
        trial.refused(trial.run(*words[kind]), named)


# --- signals: within seconds one line that says how to go on, exit code 128 + the signal's number;
# continued it ends as if nothing had happened.  Kills: the same but for the line ---


def stopped(trial: Trial) -> None:
    shared, folder, rng = Shared(trial.shared), trial.here / "run", trial.rng
    kind = ["inpaint", "train"][trial.number % 2]
    number = rng.choice([signal.SIGTERM, signal.SIGINT])
    moment = rng.random() * shared.facts[f"{kind} seconds"]
    trial.says(f"{kind}, {number.name} {moment:.2f} s after its begin")
    words = shared.complete(folder) if kind == "inpaint" else shared.train(folder)
    running = trial.start(*words)
    running.until((folder / "config.yaml").exists)
    time.sleep(moment)
    since = time.perf_counter()
    running.tell(number)
    done = running.end()
    took = time.perf_counter() - since
    if done.code:
        done.line(f"{number.name}: ", code=128 + number)
        ways = ("goes on", "begins again", "give the same command again")
        done.check(any(way in done.err for way in ways), "it does not say how to continue")
        done.check(took < SOON, f"it took {took:.0f} s to end")
    else:
        done.succeeds()
    if kind == "inpaint":
        completes(trial, folder)
    else:
        trains_on(trial, folder)


def stopped_early(trial: Trial) -> None:
    """At any moment from the first on: no traceback."""
    shared, folder, rng = Shared(trial.shared), trial.here / "run", trial.rng
    kind = ["inpaint", "train", "sample"][trial.number % 3]
    number = rng.choice([signal.SIGTERM, signal.SIGINT])
    moment = rng.random()
    trial.says(f"{kind}, {number.name} after {moment:.2f} s")
    running = trial.start(*shared.words(kind, folder))
    time.sleep(moment)
    running.tell(number)
    done = running.end()
    if done.code not in (0, -number):
        done.line(f"{number.name}: ", code=128 + number)
    again: dict[str, Callable[[Trial, Path], None]]
    again = {"inpaint": completes, "train": trains_on, "sample": samples_again}
    again[kind](trial, folder)


def killed(trial: Trial) -> None:
    """By the clock: in training, while a cache is built, a checkpoint written, in an evaluation."""
    shared, folder, rng = Shared(trial.shared), trial.here / "run", trial.rng
    cache = trial.room / "cache"
    kind = ["training", "cache", "checkpoint", "evaluation"][trial.number % 4]
    share, epoch = rng.random(), rng.randint(1, EPOCHS)
    trial.says(f"in {kind} at {share:.3f}" + (f" of epoch {epoch}" if kind == "checkpoint" else ""))
    if kind == "training":
        running = trial.start(*shared.train(folder))
        running.until((folder / "config.yaml").exists)
        time.sleep(share * shared.facts["train seconds"])
    elif kind == "checkpoint":
        running = trial.start(*shared.train(folder))
        part = folder / "last.part"  # there for some milliseconds
        for _ in range(epoch - 1):
            running.until(part.exists)
            running.until(lambda: not part.exists())
        running.until(part.exists)
        time.sleep(share * 0.01)
    elif kind == "cache":
        running = trial.start(*shared.complete(folder, cache))
        running.until(lambda: any(cache.glob(".*building*")))
        time.sleep(share * shared.facts["cache seconds"])
    else:
        running = trial.start(*shared.complete(folder))
        running.until((folder / "records").exists)
        time.sleep(share * shared.facts["inpaint seconds"])
    running.tell(signal.SIGKILL)
    running.end()
    whole_images(folder / "completed")
    if kind in ("training", "checkpoint"):
        trains_on(trial, folder)
    else:
        completes(trial, folder, cache if kind == "cache" else None)


def killed_at_a_change(trial: Trial) -> None:
    """At one of the moments at which a file is opened to write, renamed, linked or removed."""
    shared, folder, rng = Shared(trial.shared), trial.here / "run", trial.rng
    kind = ["train", "inpaint", "cache", "sample"][trial.number % 4]
    at = rng.randint(1, int(shared.facts[f"{kind} changes"]))
    trial.says(f"{kind} at change {at} of {shared.facts[f'{kind} changes']:.0f}")
    cache, note = trial.room / "cache", trial.room / "changes"
    words = {
        "train": shared.train(folder),
        "inpaint": shared.complete(folder),
        "cache": shared.complete(folder, cache),
        "sample": shared.sample(folder),
    }
    below = cache if kind == "cache" else folder
    done = trial.run(*words[kind], first=counting(below, note, at))
    done.check(done.code == -signal.SIGKILL, "it was not killed")
    if kind == "train":
        trains_on(trial, folder)
    elif kind == "sample":
        whole_images(folder)
        samples_again(trial, folder)
    else:
        completes(trial, folder, cache if kind == "cache" else None)


# --- two at once: each ends as if it were alone, or is refused in one line ---


def two_at_once(trial: Trial) -> None:
    shared, folder, rng = Shared(trial.shared), trial.here / "run", trial.rng
    kind = ["inpaint", "train", "cache", "both"][trial.number % 4]
    apart = rng.random() * rng.choice([0.1, 1.5])
    trial.says(f"{kind}, {apart:.2f} s apart")
    cache = trial.room / "cache"
    commands = {
        "inpaint": [shared.complete(folder)] * 2,
        "train": [shared.train(folder)] * 2,
        "cache": [shared.complete(trial.here / name, cache) for name in ("a", "b")],
        "both": [shared.train(folder), shared.complete(folder)],
    }
    first = trial.start(*commands[kind][0])
    time.sleep(apart)
    second = trial.start(*commands[kind][1])
    ends = [first.end(), second.end()]
    for done in ends:
        if done.code:
            done.line(f"output={folder}")
            done.check("at work there" in done.err or "holds a" in done.err, "not for this reason")
        else:
            done.succeeds()
    hold(any(done.code == 0 for done in ends), "neither succeeds")
    if kind == "cache":
        hold(all(done.code == 0 for done in ends), "one does not succeed")
        for name in ("a", "b"):
            same(contents(trial.here / name), contents(shared.completed), name)
        hold(sum("decoding test" in done.err for done in ends) == 1, "built twice")
    elif kind == "inpaint" or (kind == "both" and ends[0].code):
        same(contents(folder), contents(shared.completed), "the completion")
    else:
        same(learned(folder), learned(shared.trained), "the training")


# --- not finite: refused as weights and z; a training that comes to it stops, a search never ---


def diverging(trial: Trial) -> None:
    shared, folder, rng = Shared(trial.shared), trial.here / "run", trial.rng
    kind = rng.choice(["dcgan", "dcgan", "context_encoder"])
    rate = 10 ** rng.uniform(0, 6)
    trial.says(f"{kind} with lr={rate:.3g}")
    words = [w for w in shared.train(folder) if kind == "dcgan" or "z_dim" not in w]
    more = ["validate=0"] if kind == "dcgan" else ["model.code_dim=3", "validate=0"]
    done = trial.run(words[0], f"model={kind}", *words[1:], *more, f"model.lr={rate}")
    if done.code:
        done.line()
        done.check("not finite after" in done.err or "model.lr=" in done.err, "not for this")
        done.check("model.lr" in done.err, "no remedy")
        hold(not (folder / "weights.safetensors").exists(), "weights were written")
    else:
        done.succeeds()
    for path in folder.glob("last*.ckpt"):
        state = torch.load(path, weights_only=True)["state_dict"]
        hold(all(v.isfinite().all() for v in state.values()), f"{path.name} is not finite")


def not_finite_weights(trial: Trial) -> None:
    shared, rng = Shared(trial.shared), trial.rng
    gan = load_gan(shared.gan)
    state = gan.state_dict()
    name = rng.choice([name for name, value in state.items() if value.is_floating_point()])
    value = rng.choice([math.nan, math.inf, -math.inf])
    if name.endswith("running_var"):
        value = rng.choice([value, -1.0])
    state[name][tuple(rng.randrange(size) for size in state[name].shape)] = value
    path = trial.given / rng.choice(["weights.safetensors", "weights.ckpt"])
    if path.suffix == ".ckpt":
        torch.save(hostile.lightning(gan), path)
    else:
        save_weights(gan, path)
    trial.says(f"{name} {value} in {path.name}")
    quick = ["limit=1", "solver.iterations=1", *shared.data]
    done = trial.run("inpaint.py", *CPU, f"ckpt={path}", *quick)
    trial.refused(done, f"ckpt={path}", name)


def not_finite_z(trial: Trial) -> None:
    shared, rng = Shared(trial.shared), trial.rng
    z = np.zeros((rng.randint(1, 9), 5), np.float32)
    z[rng.randrange(len(z)), rng.randrange(5)] = rng.choice([math.nan, math.inf, -math.inf])
    np.save(trial.given / "z.npy", z)
    count = rng.choice(["", "count=9"])
    done = trial.run(
        "sample.py", f"ckpt={shared.gan}", f"z={trial.given / 'z.npy'}", *count.split()
    )
    trial.refused(done, "z.npy: has numbers that are not finite")


def extreme_search(trial: Trial) -> None:
    """The largest numbers that a search may be given: what it makes is finite."""
    shared, rng = Shared(trial.shared), trial.rng
    folder = trial.here / "run"
    solver, lr = rng.choice(["adam", "momentum", "lbfgs"]), 10 ** rng.uniform(-6, 6)
    lam = 10 ** rng.uniform(-6, 6)
    objective, start = rng.choice(["amos", "yeh", "windowed"]), rng.choice(["stages=none", ""])
    mask = rng.choice(["full", "center", "noisy", "lowres", "random80"])
    words = [f"solver={solver}", f"objective={objective}", f"mask={mask}", *start.split()]
    words += [f"objective.lam={lam}", f"solver.lr={lr}", "solver.iterations=3", "limit=2"]
    trial.says(" ".join(words))
    done = trial.run(
        "inpaint.py", *CPU, f"ckpt={shared.gan}", *shared.data, *words, f"output={folder}"
    )
    if done.code:
        trial.refused(done)
        return
    done.succeeds()
    hold(np.isfinite(np.load(folder / "z.npy")).all(), "z is not finite")
    with (folder / "trace.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    hold(all(math.isfinite(float(row["total"])) for row in rows), "the objective is not finite")


# --- batch sizes and threads: what is drawn depends on neither; the same batches of one thread give
# the same to the bit; one evaluation of G differs by rounding ---


def batches(trial: Trial) -> None:
    shared, rng = Shared(trial.shared), trial.rng
    size, count = rng.randint(1, 9), rng.choice([1, 1, 2])
    trial.says(f"batch_size={size}, {count} threads")
    words = [
        *shared.complete(trial.here / "a"),
        "solver.iterations=0",
        "candidates=1",
        "start=random",
    ]
    trial.run(*words).succeeds()
    other = [*words, f"output={trial.here / 'b'}", f"batch_size={size}"]
    trial.run(*other, first=threads(count)).succeeds()
    a, b = trial.here / "a", trial.here / "b"
    for name in ("z.npy", "before.png", "masked.png"):
        hold((a / name).read_bytes() == (b / name).read_bytes(), f"{name} differs")
    for path in sorted((a / "completed").iterdir()):
        with Image.open(path) as one, Image.open(b / "completed" / path.name) as two:
            apart = np.abs(np.asarray(one, int) - np.asarray(two, int)).max()
        hold(apart <= 1, f"{path.name} differs by {apart} levels")


def same_twice(trial: Trial) -> None:
    """A search of the same batches gives the same to the bit."""
    shared, rng = Shared(trial.shared), trial.rng
    more = [f"batch_size={rng.randint(1, 9)}", "solver.iterations=20"]
    more += [f"solver={rng.choice(['adam', 'lbfgs', 'momentum'])}"]
    trial.says(" ".join(more))
    for name in ("a", "b"):
        trial.run(*shared.complete(trial.here / name), *more).succeeds()
    same(contents(trial.here / "a"), contents(trial.here / "b"), "once more")


# --- the campaign ---


class Family(NamedTuple):
    """What one case does, how many there are, and how many of them are quick."""

    check: Callable[[Trial], None]
    cases: int
    quick: int


FAMILIES = {
    "bad values": Family(bad_value, 330, 12),
    "images": Family(image, 130, 6),
    "image names": Family(image_name, 8, 3),
    "image folders": Family(image_folder, 8, 1),
    "masks": Family(mask_image, 60, 4),
    "checkpoints that lie": Family(checkpoint, 166, 6),
    "damaged checkpoints": Family(damaged_checkpoint, 60, 4),
    "damaged completions": Family(damaged_completion, 60, 3),
    "damaged trainings": Family(damaged_training, 24, 2),
    "damaged caches": Family(damaged_cache, 20, 2),
    "full disks": Family(full_disk, 40, 4),
    "limited files": Family(limited_files, 10, 2),
    "read-only disks": Family(read_only, 10, 2),
    "signals": Family(stopped, 30, 2),
    "early signals": Family(stopped_early, 24, 3),
    "kills": Family(killed, 100, 4),
    "kills at a change": Family(killed_at_a_change, 60, 4),
    "two at once": Family(two_at_once, 12, 2),
    "diverging": Family(diverging, 16, 1),
    "weights not finite": Family(not_finite_weights, 40, 3),
    "z not finite": Family(not_finite_z, 6, 1),
    "extreme searches": Family(extreme_search, 24, 2),
    "batch sizes and threads": Family(batches, 16, 2),
    "the same twice": Family(same_twice, 6, 1),
}


class Ended(NamedTuple):
    family: str
    number: int
    seconds: float
    how: str  # held, failed or skipped
    why: str


class Campaign:
    """Runs cases, so many at once, each in a process of its own below `root`."""

    def __init__(self, root: Path, seed: int, at_once: int):
        self.root, self.seed, self.at_once = root, seed, at_once
        self.running: dict[int, tuple[str, int, float]] = {}  # pid -> case and its begin

    def run(self, cases: Sequence[tuple[str, int]], keep: bool = False) -> Iterator[Ended]:
        waiting = list(cases)[::-1]
        try:
            while waiting or self.running:
                while waiting and len(self.running) < self.at_once:
                    self._begin(*waiting.pop())
                time.sleep(0.01)
                yield from [e for pid in list(self.running) if (e := self._end(pid, keep))]
        finally:
            for pid in self.running:
                os.killpg(pid, signal.SIGKILL)

    def room(self, family: str, number: int) -> Path:
        return self.root / f"{family.replace(' ', '_')}_{number}"

    def _begin(self, family: str, number: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        if pid := os.fork():
            self.running[pid] = family, number, time.perf_counter()
            return
        os.setpgid(0, 0)  # so that nothing of it outlives it
        room, how, trial = self.room(family, number), ("held", ""), None
        try:
            trial = Trial(family, number, self.seed, room, self.root / "shared")
            (prepare if family == "prepare" else FAMILIES[family].check)(trial)
        except Skipped as reason:
            how = "skipped", str(reason)
        except Fault as fault:
            how = "failed", str(fault)
        except BaseException:  # of the campaign itself
            how = "failed", traceback.format_exc()
        said = ", ".join(trial.said) if trial else ""
        (room / "end.json").write_text(
            json.dumps([how[0], f"{said}: {how[1]}" if said else how[1]])
        )
        os._exit(0)

    def _end(self, pid: int, keep: bool) -> Ended | None:
        family, number, since = self.running[pid]
        seconds = time.perf_counter() - since
        late = seconds > SECONDS and family != "prepare"
        if late:
            os.killpg(pid, signal.SIGKILL)
        if not os.waitpid(pid, 0 if late else os.WNOHANG)[0]:
            return None
        del self.running[pid]
        with suppress(ProcessLookupError):  # what a case that failed has left running
            os.killpg(pid, signal.SIGKILL)
        room = self.room(family, number)
        end = room / "end.json"
        how = ["failed", f"not done in {SECONDS} s"]
        if end.exists():
            how = json.loads(end.read_text())
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in mounts:
            if mount.startswith(f"{room}/"):
                subprocess.run(["umount", "-l", mount], check=True)
        if not keep:
            shutil.rmtree(room, ignore_errors=True)
        return Ended(family, number, seconds, *how)


def chosen(args: argparse.Namespace) -> list[tuple[str, int]]:
    if args.case:
        family, _, number = args.case.rpartition("/")
        if family not in FAMILIES or not number.isdecimal():
            sys.exit(f"error: --case {args.case}: use one of {', '.join(FAMILIES)}, / and a number")
        return [(family, int(number))]
    unknown = set(args.family or ()) - FAMILIES.keys()
    if unknown:
        sys.exit(f"error: --family {min(unknown)}: choose of {', '.join(FAMILIES)}")
    families = {name: f for name, f in FAMILIES.items() if name in (args.family or FAMILIES)}
    sizes = {name: f.quick if args.quick else f.cases for name, f in families.items()}
    cases = [(name, number) for name, size in sizes.items() for number in range(size)]
    return sorted(cases, key=lambda case: case[1])  # of all families early


def table(ended: Sequence[Ended]) -> str:
    rows = ["| family | cases | held | skipped | seconds |", "|---|---|---|---|---|"]
    families = [*dict.fromkeys(e.family for e in ended)]
    for name in [*families, "all"]:
        of_it = [e for e in ended if name in (e.family, "all")]
        counts = [sum(e.how == how for e in of_it) for how in ("held", "skipped")]
        seconds = sum(e.seconds for e in of_it)
        rows.append(f"| {name} | {len(of_it)} | {counts[0]} | {counts[1]} | {seconds:.0f} |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few cases of each family")
    parser.add_argument("--family", action="append", help="only this; may be said several times")
    parser.add_argument("--case", help="only this, such as kills/17; its folder stays")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=os.cpu_count(), help="processes")
    args = parser.parse_args()
    cases = chosen(args)
    for script in ("train.py", "inpaint.py", "sample.py"):  # import all that they need
        runpy.run_path(str(PROJECT / script), run_name="imported")
    since = time.perf_counter()
    root = Path(tempfile.mkdtemp(prefix="faults_"))
    try:
        return report(Campaign(root, args.seed, args.at_once), cases, bool(args.case), since)
    finally:
        if not args.case:
            shutil.rmtree(root, ignore_errors=True)


def report(campaign: Campaign, cases: list[tuple[str, int]], keep: bool, since: float) -> int:
    (prepared,) = campaign.run([("prepare", 0)])
    if prepared.how != "held":
        sys.exit(f"error: nothing can be tried: {prepared.why}")
    ended = []
    try:
        for each in campaign.run(cases, keep):
            ended.append(each)
            if each.how == "failed":
                alone = f"python tests/campaign/faults.py --case '{each.family}/{each.number}'"
                print(f"{alone} --seed {campaign.seed}\n  {each.why}", flush=True)
    except KeyboardInterrupt:
        print(f"interrupted after {len(ended)} of {len(cases)} cases")
    print(table(ended))
    for why in {each.why for each in ended if each.how == "skipped"}:
        print(f"skipped: {why}")
    print(f"{time.perf_counter() - since:.0f} seconds, {campaign.at_once} at once")
    if keep:
        print(campaign.root)
    return int(len(ended) < len(cases) or any(each.how == "failed" for each in ended))


if __name__ == "__main__":
    sys.exit(main())
