"""Cases that damage files of a run, limit its disk, or interrupt it.

A run that cannot continue ends in one line that says how to go on.  Repeated or resumed, it ends
with the same results as an uninterrupted run.
"""

import math
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cases import Case, CaseSkipped, CheckFailed, count_changes, require
from PIL import Image
from reference_runs import (
    EPOCHS,
    ReferenceRuns,
    check_completion_resumes,
    check_equal,
    check_samples_repeat,
    check_training_resumes,
    read_completion,
    read_training,
)

MAX_STOP_SECONDS = 10  # from a signal to the end of the run
CHECK_REPEATED: dict[str, Callable[[Case, Path], None]] = {
    "inpaint": check_completion_resumes,
    "train": check_training_resumes,
    "sample": check_samples_repeat,
}


# --- damaged files ---


def damage_file(rng: random.Random, path: Path) -> str:
    """Damage a file in a random way, and describe it."""
    damages = ["deleted", "emptied", "truncated", "bit flipped", "zeroed", "replaced"]
    damage = rng.choice([*damages, "bytes appended"])
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage == "emptied":
        data.clear()
    elif damage == "truncated":
        del data[rng.randrange(len(data)) if data else 0 :]
    elif damage == "bit flipped" and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif damage == "zeroed":
        data[:] = bytes(len(data))
    elif damage == "replaced":
        data[:] = b"unexpected text"
    elif damage == "bytes appended":
        data += rng.randbytes(50)
    if damage != "deleted":
        path.write_bytes(data)
    return f"{path.name} {damage}"


def list_files(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if p.is_file() and p.name != ".lock")


def run_damaged_completion(case: Case) -> None:
    """Damage files of a completion run and repeat its command."""
    runs, run_dir = ReferenceRuns(case.shared), case.cwd / "run"
    shutil.copytree(runs.completed, run_dir)
    for path in case.rng.sample(list_files(run_dir), case.rng.choice([1, 1, 2, 5])):
        case.describe(damage_file(case.rng, path))
    check_completion_resumes(case, run_dir)


def run_damaged_cache(case: Case) -> None:
    """Damage a file of the cache and start a run that reads it."""
    runs, cache, rng = ReferenceRuns(case.shared), case.directory / "cache", case.rng
    shutil.copytree(runs.cache, cache)
    files = [path for path in list_files(cache) if path.suffix in (".bin", ".json")]
    case.describe(damage_file(rng, rng.choice(files)))
    check = check_completion_resumes if rng.random() < 0.5 else check_training_resumes
    check(case, case.cwd / "run", cache)


def run_damaged_training(case: Case) -> None:
    """Damage a file of a training run, interrupted after its last epoch, and resume it.

    A refused run changes nothing.  It resumes from last-1.ckpt, or with the complete command if
    config.yaml is damaged.
    """
    runs, run_dir, rng = ReferenceRuns(case.shared), case.cwd / "run", case.rng
    shutil.copytree(runs.shorter, run_dir)
    shutil.copy(run_dir / "last.ckpt", run_dir / "last-1.ckpt")  # a run that ends removes it
    name = rng.choice(["last.ckpt", "config.yaml", "weights.safetensors", ""])
    path = run_dir / name if name else rng.choice(list_files(run_dir))
    case.describe(damage_file(rng, path))
    longer = f"trainer.max_epochs={EPOCHS}"
    before = {path: path.read_bytes() for path in list_files(run_dir)}
    result = case.run("train.py", f"resume={run_dir / 'last.ckpt'}", longer)
    if result.code:
        result.check_one_line()
        after = {path: path.read_bytes() for path in list_files(run_dir)}
        require(after == before, "a refused run changed files")
        if path.name == "config.yaml":
            path.unlink(missing_ok=True)
            words = [*runs.train(run_dir), f"resume={run_dir / 'last.ckpt'}"]
        else:
            words = ["train.py", f"resume={run_dir / 'last-1.ckpt'}", longer]
        case.run(*words).check_success()
    else:
        result.check_success()
    actual, expected = read_training(run_dir), read_training(runs.trained)
    for contents in (actual, expected):  # images of earlier iterations are not made again
        for name in [n for n in contents if n.startswith(("samples/", "completions/"))]:
            del contents[name]
    check_equal(actual, expected, "the training run")


# --- disks ---


@contextmanager
def mounted_disk(path: Path, options: str) -> Iterator[None]:
    """Mount a file system in memory; raises CaseSkipped without the permission."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise CaseSkipped(f"no disk can be mounted here ({result.stderr.strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def remount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(path)], check=True)


def disk_usage(directory: Path) -> int:
    """Return the KB that a directory occupies on a disk with pages of 4 KB."""
    return sum(4 * math.ceil(max(p.stat().st_size, 1) / 4096) for p in directory.rglob("*"))


def check_complete_images(directory: Path) -> None:
    """Require that every PNG file below the directory is complete."""
    for path in sorted(directory.rglob("*.png")):
        try:
            with Image.open(path) as image:
                image.verify()
            require(b"IEND" in path.read_bytes()[-8:], f"incomplete image: {path.name}")
        except (OSError, SyntaxError) as error:
            raise CheckFailed(f"incomplete image: {path.name} ({error})") from error


def run_full_disk(case: Case) -> None:
    """Run on a small disk, enlarge it, and repeat the run."""
    runs, disk = ReferenceRuns(case.shared), case.directory / "disk"
    task = ["inpaint", "train", "cache", "sample"][case.number % 4]
    max_size = {
        "inpaint": disk_usage(runs.completed),
        "train": 2 * disk_usage(runs.trained),
        "cache": disk_usage(runs.cache),
        "sample": disk_usage(runs.samples),
    }
    size = 4 * case.rng.randint(1, max_size[task] // 4)
    case.describe(f"{task} on {size} KB")
    with mounted_disk(disk, f"size={size}k"):
        run_dir, cache = disk / "run", disk / "cache"
        if task == "cache":
            words, name = runs.complete(case.cwd / "run", cache), f"cache_dir={cache}"
        else:
            words, name = runs.command(task, run_dir), str(run_dir)
        result = case.run(*words)
        if result.code:
            result.check_one_line(name)
            if task == "cache":
                require(not list(case.cwd.iterdir()), "the run directory was made")
        else:
            result.check_success()
        check_complete_images(disk)
        remount(disk, "size=64m")
        if task == "cache":
            check_completion_resumes(case, case.cwd / "run", cache)
        else:
            CHECK_REPEATED[task](case, run_dir)


def run_file_size_limit(case: Case) -> None:
    """Run with a limit on the size of files (ulimit -f), and repeat the run without it."""
    runs, run_dir = ReferenceRuns(case.shared), case.cwd / "run"
    task = ["inpaint", "train"][case.number % 2]
    source = runs.completed if task == "inpaint" else runs.trained
    largest = max(path.stat().st_size for path in source.rglob("*"))
    size = case.rng.randint(4096, largest)  # the output of the script must fit as well
    case.describe(f"{task} with files of at most {size} bytes")
    limits = size, resource.RLIM_INFINITY
    result = case.run(
        *runs.command(task, run_dir),
        before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
    )
    if result.code:
        result.check_one_line(str(run_dir))
    else:
        result.check_success()
    CHECK_REPEATED[task](case, run_dir)


def run_read_only_disk(case: Case) -> None:
    """Run on a read-only disk: refused, but for a complete cache, which is only read."""
    runs, disk = ReferenceRuns(case.shared), case.directory / "disk"
    task = ["inpaint", "train", "sample", "cache", "complete cache"][case.number % 5]
    case.describe(task)
    with mounted_disk(disk, "size=64m"):
        if task == "complete cache":
            shutil.copytree(runs.cache, disk / "cache")
        remount(disk, "ro")
        run_dir = case.cwd / "run" if "cache" in task else disk / "run"
        cache = disk / "cache"
        if task == "complete cache":
            check_completion_resumes(case, run_dir, cache)
        elif task == "cache":
            case.check_refused(case.run(*runs.complete(run_dir, cache)), f"cache_dir={cache}")
        else:
            case.check_refused(case.run(*runs.command(task, run_dir)), f"output={run_dir}")


# --- signals ---


def run_signal(case: Case) -> None:
    """Stop a run with SIGTERM or SIGINT: it ends soon, in a line that says how to continue."""
    runs, run_dir, rng = ReferenceRuns(case.shared), case.cwd / "run", case.rng
    task = ["inpaint", "train"][case.number % 2]
    number = rng.choice([signal.SIGTERM, signal.SIGINT])
    delay = rng.random() * runs.facts[f"{task} seconds"]
    case.describe(f"{task}, {number.name} {delay:.2f} s after the start")
    script = case.start(*runs.command(task, run_dir))
    script.wait_for((run_dir / "config.yaml").exists)
    time.sleep(delay)
    start = time.perf_counter()
    script.send(number)
    result = script.wait()
    seconds = time.perf_counter() - start
    if result.code:
        result.check_one_line(f"{number.name}: ", code=128 + number)
        advice = ("continues", "starts again", "Run the same command again")
        said = any(text in result.err for text in advice)
        result.require(said, "the line does not say how to continue")
        result.require(seconds < MAX_STOP_SECONDS, f"the run ended after {seconds:.0f} s")
    else:
        result.check_success()
    CHECK_REPEATED[task](case, run_dir)


def run_early_signal(case: Case) -> None:
    """Stop a run within its first second: there is no traceback."""
    runs, run_dir, rng = ReferenceRuns(case.shared), case.cwd / "run", case.rng
    task = ["inpaint", "train", "sample"][case.number % 3]
    number = rng.choice([signal.SIGTERM, signal.SIGINT])
    delay = rng.random()
    case.describe(f"{task}, {number.name} after {delay:.2f} s")
    script = case.start(*runs.command(task, run_dir))
    time.sleep(delay)
    script.send(number)
    result = script.wait()
    if result.code not in (0, -number):
        result.check_one_line(f"{number.name}: ", code=128 + number)
    CHECK_REPEATED[task](case, run_dir)


def run_kill(case: Case) -> None:
    """Kill a run at a random time: in training, decoding, saving a checkpoint or completing."""
    runs, run_dir, rng = ReferenceRuns(case.shared), case.cwd / "run", case.rng
    cache = case.directory / "cache"
    phase = ["training", "decoding", "saving", "completing"][case.number % 4]
    fraction, epoch = rng.random(), rng.randint(1, EPOCHS)
    epoch_text = f" in epoch {epoch}" if phase == "saving" else ""
    case.describe(f"{phase}, killed at {fraction:.3f} of its time{epoch_text}")
    if phase == "training":
        script = case.start(*runs.train(run_dir))
        script.wait_for((run_dir / "config.yaml").exists)
        time.sleep(fraction * runs.facts["train seconds"])
    elif phase == "saving":
        script = case.start(*runs.train(run_dir))

        def saving() -> bool:  # for some milliseconds
            return any(run_dir.glob("last.*.part"))

        for _ in range(epoch - 1):
            script.wait_for(saving)
            script.wait_for(lambda: not saving())
        script.wait_for(saving)
        time.sleep(fraction * 0.01)
    elif phase == "decoding":
        script = case.start(*runs.complete(run_dir, cache))
        script.wait_for(lambda: any(cache.glob(".*building*")))
        time.sleep(fraction * runs.facts["cache seconds"])
    else:
        script = case.start(*runs.complete(run_dir))
        script.wait_for((run_dir / "records").exists)
        time.sleep(fraction * runs.facts["inpaint seconds"])
    script.send(signal.SIGKILL)
    script.wait()
    check_complete_images(run_dir / "completed")
    if phase in ("training", "saving"):
        check_training_resumes(case, run_dir)
    else:
        check_completion_resumes(case, run_dir, cache if phase == "decoding" else None)


def run_kill_at_change(case: Case) -> None:
    """Kill a run just before it opens a file to write, renames, links or removes one."""
    runs, run_dir, rng = ReferenceRuns(case.shared), case.cwd / "run", case.rng
    task = ["train", "inpaint", "cache", "sample"][case.number % 4]
    count = int(runs.facts[f"{task} changes"])
    change = rng.randint(1, count)
    case.describe(f"{task} at change {change} of {count}")
    cache = case.directory / "cache" if task == "cache" else None
    words = runs.complete(run_dir, cache) if cache else runs.command(task, run_dir)
    kill = count_changes(cache or run_dir, case.directory / "changes", change)
    result = case.run(*words, before=kill)
    result.require(result.code == -signal.SIGKILL, "the run was not killed")
    if cache:
        check_completion_resumes(case, run_dir, cache)
        return
    if task == "sample":
        check_complete_images(run_dir)
    CHECK_REPEATED[task](case, run_dir)


# --- concurrent runs ---


def run_concurrently(case: Case) -> None:
    """Start two runs with the same directory: each succeeds or is refused in one line."""
    runs, run_dir, rng = ReferenceRuns(case.shared), case.cwd / "run", case.rng
    task = ["inpaint", "train", "cache", "train and inpaint"][case.number % 4]
    delay = rng.random() * rng.choice([0.1, 1.5])
    case.describe(f"{task}, the second {delay:.2f} s later")
    cache = case.directory / "cache"
    commands = {
        "inpaint": [runs.complete(run_dir)] * 2,
        "train": [runs.train(run_dir)] * 2,
        "cache": [runs.complete(case.cwd / name, cache) for name in ("a", "b")],
        "train and inpaint": [runs.train(run_dir), runs.complete(run_dir)],
    }
    first = case.start(*commands[task][0])
    time.sleep(delay)
    second = case.start(*commands[task][1])
    results = [first.wait(), second.wait()]
    for result in results:
        if result.code:
            result.check_one_line(f"output={run_dir}")
            reasons = ("another run is using it", "contains a")
            known = any(reason in result.err for reason in reasons)
            result.require(known, "the line does not say that the directory is in use")
        else:
            result.check_success()
    require(any(result.code == 0 for result in results), "both runs were refused")
    if task == "cache":
        require(all(result.code == 0 for result in results), "a run was refused")
        for name in ("a", "b"):
            check_equal(read_completion(case.cwd / name), read_completion(runs.completed), name)
        decoded = sum("decoding test" in result.err for result in results)
        require(decoded == 1, "the images were decoded twice")
    elif task == "inpaint" or (task == "train and inpaint" and results[0].code):
        check_equal(read_completion(run_dir), read_completion(runs.completed), "the completion run")
    else:
        check_equal(read_training(run_dir), read_training(runs.trained), "the training run")
