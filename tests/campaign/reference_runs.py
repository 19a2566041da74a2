"""Uninterrupted runs that the cases of the campaign compare with."""

import csv
import functools
import json
import time
from pathlib import Path
from typing import Any

import bad_values
from cases import Case, count_changes, require

from dcgan_inpaint.runs.records import read_record

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


class ReferenceRuns:
    """Directories and command lines of the reference runs below `root`.

    `trained` is a training run of EPOCHS epochs, `shorter` one of an epoch less; `completed` and
    `samples` are runs of inpaint.py and sample.py with its weights.
    """

    def __init__(self, root: Path):
        self.root, self.files, self.cache = root, root / "files", root / "cache"
        self.trained, self.shorter = root / "trained", root / "shorter"
        self.completed, self.samples = root / "completed", root / "samples"
        self.weights = self.trained / "weights.safetensors"
        self.gan = self.files / "DCGAN.safetensors"
        self.data = (f"cache_dir={self.cache}",)

    def train(self, run_dir: Path, epochs: int = EPOCHS, cache: Path | None = None) -> list[str]:
        cached = f"cache_dir={cache or self.cache}"
        return [*TRAIN, f"trainer.max_epochs={epochs}", cached, f"output={run_dir}"]

    def complete(self, run_dir: Path, cache: Path | None = None) -> list[str]:
        cached = f"cache_dir={cache or self.cache}"
        return [*COMPLETE, f"ckpt={self.weights}", cached, f"output={run_dir}"]

    def sample(self, run_dir: Path) -> list[str]:
        rows = ["plus=[0]", "minus=[1]", "base=[2]"]
        command = ["sample.py", f"ckpt={self.weights}", "count=9", "steps=3"]
        return [*command, *rows, f"output={run_dir}"]

    def command(self, task: str, run_dir: Path) -> list[str]:
        """Return the command line of a task: train, inpaint or sample."""
        if task == "train":
            return self.train(run_dir)
        return self.sample(run_dir) if task == "sample" else self.complete(run_dir)

    @functools.cached_property
    def facts(self) -> dict[str, float]:
        """Number of file changes and run time in seconds of each reference run."""
        return json.loads((self.root / "facts.json").read_text())


def prepare(case: Case) -> None:
    """Make the reference runs and measure them."""
    runs, facts = ReferenceRuns(case.shared), {}
    runs.files.mkdir(parents=True)
    bad_values.make_files(runs.files)
    commands: dict[str, tuple[Path, list[str], str]] = {  # the last entry marks the start
        "train": (runs.trained, runs.train(runs.trained), "config.yaml"),
        "inpaint": (runs.completed, runs.complete(runs.completed), "records"),
        "sample": (runs.samples, runs.sample(runs.samples), "config.yaml"),
    }
    for name, (run_dir, words, first_file) in commands.items():
        count_file = case.directory / name
        script = case.start(*words, before=count_changes(run_dir, count_file))
        script.wait_for((run_dir / first_file).exists)
        start = time.perf_counter()
        script.wait().check_success()
        facts[f"{name} seconds"] = time.perf_counter() - start
        facts[f"{name} changes"] = int(count_file.read_bytes())
    case.run(*runs.train(runs.shorter, EPOCHS - 1)).check_success()
    cache, count_file = case.directory / "cache", case.directory / "cache changes"
    words = runs.complete(case.cwd / "run", cache)
    script = case.start(*words, before=count_changes(cache, count_file))
    script.wait_for(lambda: any(cache.glob(".*building*")))
    start = time.perf_counter()
    script.wait_for(lambda: not any(cache.glob(".*building*")))
    facts["cache seconds"] = time.perf_counter() - start
    script.wait().check_success()
    facts["cache changes"] = int(count_file.read_bytes())
    (runs.root / "facts.json").write_text(json.dumps(facts))


# --- comparisons with the reference runs ---


def read_completion(run_dir: Path) -> dict[str, Any]:
    """Return the contents of a completion run by file, without run times and the config."""
    contents: dict[str, Any] = {}
    for path in run_dir.rglob("*"):
        name = str(path.relative_to(run_dir))
        if path.is_dir() or name in ("config.yaml", ".lock"):
            continue
        if name == "index.html":  # contains the name of the directory, and run times
            contents[name] = b"</html>" in path.read_bytes()
        elif name in ("metrics.csv", "summary.csv"):
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if row.get("metric") != "seconds"]
            contents[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
        elif name.startswith("records") and (record := read_record(path)):
            del record.metrics["seconds"]
            contents[name] = {k: v.numpy().tobytes() for k, v in record.tensors.items()}
            contents[name] |= {"name": record.name, "image": record.image}
            contents[name] |= {"settings": record.settings, "metrics": json.dumps(record.metrics)}
        else:
            contents[name] = path.read_bytes()
    return contents


def read_training(run_dir: Path) -> dict[str, Any]:
    """Return the contents of a training run by file, without logs and last.ckpt."""
    contents: dict[str, Any] = {"weights": (run_dir / "weights.safetensors").read_bytes()}
    for name in ("samples", "completions"):
        contents |= {f"{name}/{p.name}": p.read_bytes() for p in (run_dir / name).iterdir()}
    return contents | read_completion(run_dir / "validation")


def check_equal(actual: dict[str, Any], expected: dict[str, Any], what: str) -> None:
    """Require that two contents are equal; the message lists the files that differ."""
    names = actual.keys() | expected.keys()
    different = sorted(name for name in names if actual.get(name) != expected.get(name))
    require(not different, f"{what} differs from the uninterrupted run: {different[:9]}")


def check_no_partial_files(*directories: Path) -> None:
    """Require that no temporary files are left."""
    patterns = ("*.part", ".*building*")
    left = [path for root in directories for pattern in patterns for path in root.rglob(pattern)]
    require(not left, f"temporary files are left: {left}")


def check_completion_resumes(case: Case, run_dir: Path, cache: Path | None = None) -> None:
    """Repeat the command of a completion run, and require the results of the reference run."""
    runs = ReferenceRuns(case.shared)
    case.run(*runs.complete(run_dir, cache)).check_success()
    check_equal(read_completion(run_dir), read_completion(runs.completed), "the completion run")
    check_no_partial_files(run_dir, *([cache] if cache else []))


def check_training_resumes(case: Case, run_dir: Path, cache: Path | None = None) -> None:
    """Resume a training run, or restart it if it has no checkpoint, and compare its results."""
    runs, last = ReferenceRuns(case.shared), run_dir / "last.ckpt"
    words = runs.train(run_dir, cache=cache)
    resumed = [words[0], f"resume={last}"]
    case.run(*(resumed if last.exists() else words)).check_success()
    check_equal(read_training(run_dir), read_training(runs.trained), "the training run")
    check_no_partial_files(run_dir, *([cache] if cache else []))


def check_samples_repeat(case: Case, run_dir: Path) -> None:
    """Repeat the command of a sampling run, and require the results of the reference run."""
    runs = ReferenceRuns(case.shared)
    case.run(*runs.sample(run_dir)).check_success()
    check_equal(read_completion(run_dir), read_completion(runs.samples), "the sampling run")
    check_no_partial_files(run_dir)
