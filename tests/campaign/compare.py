"""Compare the results of two checkouts on fixed commands.

python tests/campaign/compare.py OLD_CHECKOUT NEW_CHECKOUT
python tests/campaign/compare.py OLD_CHECKOUT NEW_CHECKOUT --tolerance 1e-4   # not bitwise
python tests/campaign/compare.py OLD_CHECKOUT NEW_CHECKOUT --only solver method

Each checkout runs the commands in its own processes, on one thread, with its own cache of decoded
images.  Every result that the old checkout writes is compared: images, z, tables, records, and the
weights of the trained checkpoints.  Log files and run times are not.  The new checkout also loads
the checkpoints that the old one has trained.  The script prints one line per command and exits with
1 if anything differs.
"""

import argparse
import csv
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: threads do not survive a fork

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

CPU = ("trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
FACES = ("data=faces", "data.train_size=64", "data.val_size=8", "data.test_size=16")
TRAIN = (
    *("train.py", *CPU, *FACES[1:], "data.image_size=16", "batch_size=16", "trainer.max_epochs=2"),
    *("trainer.log_every_n_steps=2", "sample_every=4", "preview=2", "validate=3"),
)
SMALL_GAN = ("model.gf_dim=4", "model.df_dim=4", "model.z_dim=5", "sample_metrics=16")
SHIPPED = ("faces64", "celeba64", "celeba128")
RENAMED = {"select": "answer"}  # options of the new checkout -> of 7f30de1
# Not results: settings, run times, log files, and the page that names its directory.
IGNORED = ("config.yaml", "index.html", ".lock", "hparams.yaml", "events.out.tfevents")
TIMINGS = ("seconds", "images_per_second")
COLUMNS = {"pictures": "images"}  # of 7f30de1 -> of the new checkout
TENSORS = {"doubt": "error_calibration"}  # the same, in checkpoints


class Command(NamedTuple):
    """A script with its overrides; `{files}` and `{runs}` in them are replaced by directories."""

    name: str
    words: tuple[str, ...]


def inpaint(name: str, *overrides: str, faces: bool = True, limit: int = 4) -> Command:
    data = FACES if faces else ()
    return Command(name, ("inpaint.py", *CPU, *data, f"limit={limit}", *overrides))


def train(name: str, model: str, *overrides: str) -> Command:
    return Command(name, (*TRAIN[:1], f"model={model}", *TRAIN[1:], *overrides))


def commands() -> list[Command]:
    trained = "ckpt={runs}/%s/weights.safetensors"
    quick = ("solver.iterations=10",)
    masks = ("random80", "half", "pattern", "freeform", "grid", "left", "mixture")
    measurements = ("lowres", "grayscale", "noisy", "quantized")
    fills = ("tv", "nearest", "mean", "biharmonic", "telea", "navier_stokes")
    photo = ("images={files}/photo.png",)
    data: dict[str, Any] = {"faces": False, "limit": 8}
    latent = ("gan={runs}/train_dcgan/weights.safetensors", "model.code_dim=8", "model.df_dim=4")
    return [
        inpaint("default", "ckpt=faces64", **data),
        # Rounding grows in a longer search: with a tolerance, compare these two.
        *(
            inpaint(name, "ckpt=faces64", f"solver.iterations={count}", "stages=none", **data)
            for name, count in (("no_iteration", 0), ("two_iterations", 2))
        ),
        *(inpaint(f"mask_{name}", f"mask={name}", *quick) for name in masks),
        *(inpaint(f"measurement_{name}", f"mask={name}", *quick) for name in measurements),
        *(
            inpaint(f"experiment_{name}", f"experiment={name}", "solver.iterations=20")
            for name in ("amos2016", "yeh2017")
        ),
        *(
            inpaint(f"solver_{name}", f"solver={name}", "solver.iterations=5", "stages=none")
            for name in ("hmc", "momentum")
        ),
        inpaint("frames", *quick, "out_interval=5", "candidates=2", "seed=3"),
        inpaint("celeba64_mean", "ckpt=celeba64", "candidates=4", "select=mean", *quick),
        inpaint("celeba64_best", "ckpt=celeba64", "candidates=4", "select=best", *quick),
        inpaint("celeba64_random", "ckpt=celeba64", "start=random", "features=true", *quick),
        inpaint("celeba128_photo", *photo, *quick, faces=False),
        inpaint("celeba128_crop", *photo, "crop=[10,20,100,100]", *quick, faces=False),
        inpaint("photo_hole", *photo, "mask=file", "mask.path={files}/hole.png", faces=False),
        *(inpaint(f"method_{name}", f"method={name}") for name in fills),
        Command(
            "sample",
            *[("sample.py", "count=9", "steps=3", "plus=[0]", "minus=[1]", "base=[2]")],
        ),
        Command(
            "sample_metrics",
            ("sample.py", *FACES, "count=4", "metrics=true", "metrics_count=16", "features=true"),
        ),
        train("train_dcgan", "dcgan", *SMALL_GAN),
        train("train_dcgan_r1", "dcgan", *SMALL_GAN, "model.r1=0.5", "model.widths=amos_head"),
        train("train_latent_encoder", "latent_encoder", *latent),
        train("train_sampler", "latent_encoder", *latent, "model.noise_dim=3"),
        train("train_augmented", "latent_encoder", *latent, "model.changed=0.5"),
        train("train_context_encoder", "context_encoder", "model.gf_dim=4", "model.df_dim=4"),
        train("train_unet", "unet", "model.gf_dim=4"),
        inpaint("search_trained", trained % "train_dcgan", *quick, faces=False),
        inpaint("start_trained", trained % "train_latent_encoder", *quick, faces=False),
        inpaint("search_sampler", trained % "train_sampler", *quick, "candidates=3", faces=False),
        inpaint("network", trained % "train_unet", "method=network", faces=False),
        inpaint("adversarial", trained % "train_context_encoder", "method=network", faces=False),
    ]


def make_files(root: Path) -> None:
    """Write a photo and a mask image that the commands name."""
    rng = np.random.default_rng(0)
    blocks = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    blocks.resize((180, 140), Image.Resampling.BICUBIC).save(root / "photo.png")
    hole = Image.new("L", (180, 140), 255)
    hole.paste(0, (70, 50, 110, 90))
    hole.save(root / "hole.png")


# --- run the commands of one checkout ---


def run_checkout(checkout: Path, tasks: list[dict[str, Any]]) -> None:
    """Run tasks one after another, each in a fork of this process, which has imported everything.

    A task has the arguments of the script, or the checkpoints to load, and a file for its output.
    The file ends with the line `exit code N`.
    """
    import dcgan_inpaint

    package = Path(dcgan_inpaint.__file__).resolve()
    assert package.is_relative_to(checkout), f"{package} was imported, not that of {checkout}"
    torch.set_num_threads(1)
    for script in ("train.py", "inpaint.py", "sample.py"):
        runpy.run_path(str(checkout / script), run_name="imported")
    for task in tasks:
        sys.stdout.flush()
        if not (pid := os.fork()):
            _run_task(checkout, task)
        os.waitpid(pid, 0)


def _run_task(checkout: Path, task: dict[str, Any]) -> NoReturn:
    """Run one task and end the process."""
    code: Any = 1
    try:
        output = os.open(task["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if "load" in task:
            load_checkpoints(task["load"], Path(task["output"]))
        else:
            sys.argv = task["argv"]
            runpy.run_path(str(checkout / sys.argv[0]), run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
    finally:
        print(f"exit code {code}", flush=True)
        os._exit(0)


def load_checkpoints(checkpoints: dict[str, str], output: Path) -> None:
    """Load each checkpoint as inpaint.py does, and save the tensors of the model."""
    from dcgan_inpaint.models.checkpoint import load_model

    output.mkdir(parents=True)
    for name, path in checkpoints.items():
        torch.manual_seed(0)  # networks that a checkpoint lacks have random weights
        state = load_model(path).state_dict()
        np.savez(output / f"{name}.npz", **{key: value.numpy() for key, value in state.items()})


# --- compare what two commands have written ---


Differ = Callable[[Any, Any], bool]


def differ_by(tolerance: float) -> Differ:
    """Return whether two arrays differ; a tolerance is absolute and relative."""

    def differ(old: Any, new: Any) -> bool:
        old, new = np.asarray(old), np.asarray(new)
        if old.shape != new.shape or old.dtype != new.dtype:
            return True
        if old.dtype.kind not in "fiu" or not tolerance:
            return old.tobytes() != new.tobytes()
        if old.dtype == np.uint8:  # an image: rounding may change a level
            return bool(np.abs(old.astype(int) - new.astype(int)).max(initial=0) > 1)
        return not np.allclose(old, new, rtol=tolerance, atol=tolerance, equal_nan=True)

    return differ


def read_arrays(path: Path) -> dict[str, Any] | None:
    """Return the named arrays of a result, or None for a file that is no result."""
    if path.name.startswith(IGNORED) or path.suffix == ".part":
        return None
    if path.suffix == ".csv":
        return _read_table(path)
    if path.suffix == ".png":
        with Image.open(path) as image:
            return {"pixels": np.asarray(image)}
    if path.suffix == ".npy":
        return {"array": np.load(path)}
    if path.suffix == ".npz":
        return dict(np.load(path))
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        tensors.pop("measured", None)  # the metrics of a record, with seconds: see metrics.csv
        return {name: value.numpy() for name, value in tensors.items()}
    if path.suffix == ".ckpt":
        state = torch.load(path, weights_only=True)["state_dict"]
        return {name: value.numpy() for name, value in state.items()}
    return {"bytes": np.frombuffer(path.read_bytes(), np.uint8)}


def _read_table(path: Path) -> dict[str, Any]:
    """Return the columns of a CSV file: numbers as float64, anything else as text."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("metric") not in TIMINGS]
    columns: dict[str, Any] = {}
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows]
        if name.endswith(TIMINGS):
            continue
        column = COLUMNS.get(name, name)
        try:
            columns[column] = np.array([float(value or "nan") for value in values])
        except ValueError:
            columns[column] = np.array(values)
    return columns


def compare_directories(old: Path, new: Path, differ: Differ) -> Iterator[str]:
    """Yield a description of each difference; only what the old directory has is compared."""
    if not old.exists():
        yield f"{old.name}: not written by the old checkout"
    for path in sorted(path for path in old.rglob("*") if path.is_file()):
        name = path.relative_to(old)
        if (before := read_arrays(path)) is None:
            continue
        if not (new / name).exists():
            yield f"{name}: missing"
            continue
        after = read_arrays(new / name) or {}
        for key, value in before.items():
            key = key if key in after else TENSORS.get(key, key)
            if key not in after:
                yield f"{name}: {key} is missing"
            elif differ(value, after[key]):
                yield f"{name}: {key} differs{_describe(value, after[key])}"


def _describe(old: Any, new: Any) -> str:
    old, new = np.asarray(old), np.asarray(new)
    if old.shape != new.shape or old.dtype != new.dtype:
        return f": {old.dtype} {old.shape} and {new.dtype} {new.shape}"
    if old.dtype.kind not in "fiu":
        return ""
    return f" by up to {np.nanmax(np.abs(old.astype(float) - new.astype(float)), initial=0):.3g}"


# --- the comparison ---


def compare(checkouts: list[Path], root: Path, chosen: list[Command], tolerance: float) -> int:
    """Run the commands in both checkouts; print one line per command, return how many differ."""
    files = root / "files"
    files.mkdir(exist_ok=True)
    make_files(files)
    sides = [root / "old", root / "new"]
    names = [*(command.name for command in chosen), "checkpoints"]
    shutil.rmtree(sides[1], ignore_errors=True)
    for checkout, side in zip(checkouts, sides, strict=True):
        tasks = _tasks(checkout, side, files, chosen, sides[0])
        _run_tasks(checkout, side, [task for task in tasks if not Path(task["log"]).exists()])
    count = 0
    for name in names:
        old, new = (side / f"{name}.log" for side in sides)
        codes = [log.read_text().splitlines()[-1] for log in (old, new)]
        found = [f"{code}, see {log}" for code, log in zip(codes, (old, new), strict=True)]
        if codes == ["exit code 0"] * 2:
            found = list(
                compare_directories(sides[0] / name, sides[1] / name, differ_by(tolerance))
            )
        count += bool(found)
        print(f"{name}: {'; '.join(found[:5]) or 'equal'}", flush=True)
        if len(found) > 5:
            print(f"  and {len(found) - 5} more differences")
    return count


def _tasks(
    checkout: Path, runs: Path, files: Path, chosen: list[Command], old_runs: Path
) -> list[dict[str, Any]]:
    """Return what `run_checkout` has to do for a checkout."""
    search = (checkout / "conf" / "method" / "search.yaml").read_text()
    tasks = []
    for name, words in chosen:
        argv = [word.format(files=files, runs=runs) for word in words]
        for new, old in RENAMED.items():
            if f"\n{old}:" in search:
                argv = [f"{old}{w[len(new) :]}" if w.startswith(f"{new}=") else w for w in argv]
        tasks.append({"argv": [*argv, f"output={runs / name}"], "log": str(runs / f"{name}.log")})
    trained = [name for name, words in chosen if words[0] == "train.py"]
    checkpoints = {name: name for name in SHIPPED}
    checkpoints |= {name: str(old_runs / name / "weights.safetensors") for name in trained}
    output, log = str(runs / "checkpoints"), str(runs / "checkpoints.log")
    return [*tasks, {"load": checkpoints, "output": output, "log": log}]


def _run_tasks(checkout: Path, runs: Path, tasks: list[dict[str, Any]]) -> None:
    """Run the tasks in a process that imports the package of this checkout."""
    runs.mkdir(exist_ok=True)
    todo = runs / "tasks.json"
    todo.write_text(json.dumps(tasks))
    env = os.environ | {"PYTHONPATH": str(checkout), "DCGAN_INPAINT_CACHE": str(runs / "cache")}
    command = [sys.executable, __file__, "--tasks", str(todo), str(checkout), str(checkout)]
    subprocess.run(command, cwd=runs, env=env, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the results of two checkouts.")
    parser.add_argument("old", type=Path, help="the checkout that is right")
    parser.add_argument("new", type=Path, help="the checkout to test")
    parser.add_argument("--tolerance", type=float, default=0.0, help="0: bitwise equal")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="commands whose name contains NAME"
    )
    parser.add_argument(
        "--keep", type=Path, help="directory for the results; those of OLD are reused"
    )
    parser.add_argument("--tasks", type=Path, help=argparse.SUPPRESS)  # see _run_tasks
    args = parser.parse_args()
    checkouts = [args.old.resolve(), args.new.resolve()]
    if args.tasks:
        run_checkout(checkouts[0], json.loads(args.tasks.read_text()))
        return 0
    only = args.only or [""]
    chosen = [command for command in commands() if any(part in command.name for part in only)]
    with tempfile.TemporaryDirectory(prefix="compare_") as temporary:
        root = args.keep or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        count = compare(checkouts, root.resolve(), chosen, args.tolerance)
    print(f"{count} of {len(chosen) + 1} commands differ")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
