"""Cases with numbers that are not finite, extreme settings, and other batch sizes and threads.

Inputs that are not finite are refused.  A training run that diverges stops in one line; a search
stays finite.  Random numbers do not depend on the batch size or the number of threads.
"""

import csv
import math

import hostile
import numpy as np
import torch
from cases import Case, require, use_threads
from PIL import Image
from reference_runs import CPU, ReferenceRuns, check_equal, read_completion

from dcgan_inpaint.errors import format_count
from dcgan_inpaint.models.checkpoint import load_gan, save_weights


def run_divergence(case: Case) -> None:
    """Train with a large step: the run stops in one line, and stores only finite weights."""
    runs, run_dir, rng = ReferenceRuns(case.shared), case.cwd / "run", case.rng
    model = rng.choice(["dcgan", "dcgan", "context_encoder"])
    lr = 10 ** rng.uniform(0, 6)
    case.describe(f"{model} with lr={lr:.3g}")
    words = [w for w in runs.train(run_dir) if model == "dcgan" or "z_dim" not in w]
    more = ["validate=0"] if model == "dcgan" else ["model.code_dim=3", "validate=0"]
    result = case.run(words[0], f"model={model}", *words[1:], *more, f"model.lr={lr}")
    if result.code:
        result.check_one_line()
        known = "not finite after" in result.err or "model.lr=" in result.err
        result.require(known, "the line does not say that the training diverged")
        result.require("model.lr" in result.err, "the line does not name model.lr")
        require(not (run_dir / "weights.safetensors").exists(), "weights were written")
    else:
        result.check_success()
    for path in run_dir.glob("last*.ckpt"):
        state = torch.load(path, weights_only=True)["state_dict"]
        require(all(v.isfinite().all() for v in state.values()), f"{path.name} is not finite")


def run_nonfinite_weights(case: Case) -> None:
    """Load a checkpoint with one number that is not finite, or a negative variance."""
    runs, rng = ReferenceRuns(case.shared), case.rng
    gan = load_gan(runs.gan)
    state = gan.state_dict()
    name = rng.choice([name for name, value in state.items() if value.is_floating_point()])
    value = rng.choice([math.nan, math.inf, -math.inf])
    if name.endswith("running_var"):
        value = rng.choice([value, -1.0])
    state[name][tuple(rng.randrange(size) for size in state[name].shape)] = value
    path = case.inputs / rng.choice(["weights.safetensors", "weights.ckpt"])
    if path.suffix == ".ckpt":
        torch.save(hostile.lightning_checkpoint(gan), path)
    else:
        save_weights(gan, path)
    case.describe(f"{name} {value} in {path.name}")
    quick = ["limit=1", "solver.iterations=1", *runs.data]
    result = case.run("inpaint.py", *CPU, f"ckpt={path}", *quick)
    case.check_refused(result, f"ckpt={path}", name)


def run_nonfinite_z(case: Case) -> None:
    """Load a z.npy with one number that is not finite."""
    runs, rng = ReferenceRuns(case.shared), case.rng
    z = np.zeros((rng.randint(1, 9), 5), np.float32)
    z[rng.randrange(len(z)), rng.randrange(5)] = rng.choice([math.nan, math.inf, -math.inf])
    path = case.inputs / "z.npy"
    np.save(path, z)
    count = rng.choice([[], ["count=9"]])
    result = case.run("sample.py", f"ckpt={runs.gan}", f"z={path}", *count)
    case.check_refused(result, "z.npy: contains numbers that are not finite")


def run_extreme_search(case: Case) -> None:
    """Search with extreme settings: refused, or the results are finite."""
    runs, rng = ReferenceRuns(case.shared), case.rng
    run_dir = case.cwd / "run"
    solver, lr = rng.choice(["adam", "momentum"]), 10 ** rng.uniform(-6, 6)
    lam = 10 ** rng.uniform(-6, 6)
    objective = rng.choice(["amos", "yeh", "windowed"])
    stages = rng.choice([["stages=none"], []])
    mask = rng.choice(["full", "center", "noisy", "lowres", "random80"])
    words = [f"solver={solver}", f"objective={objective}", f"mask={mask}", *stages]
    words += [f"objective.lam={lam}", f"solver.lr={lr}", "solver.iterations=3", "limit=2"]
    case.describe(" ".join(words))
    command = ["inpaint.py", *CPU, f"ckpt={runs.gan}", *runs.data]
    result = case.run(*command, *words, f"output={run_dir}")
    if result.code:
        case.check_refused(result)
        return
    result.check_success()
    require(np.isfinite(np.load(run_dir / "z.npy")).all(), "z is not finite")
    with (run_dir / "trace.csv").open(newline="") as file:
        totals = [float(row["total"]) for row in csv.DictReader(file)]
    require(all(map(math.isfinite, totals)), "the objective is not finite")


def run_other_batches(case: Case) -> None:
    """Change the batch size and threads: z and masks are equal, images differ by rounding."""
    runs, rng = ReferenceRuns(case.shared), case.rng
    size, count = rng.randint(1, 9), rng.choice([1, 1, 2])
    case.describe(f"batch_size={size}, {format_count(count, 'thread')}")
    a, b = case.cwd / "a", case.cwd / "b"
    words = [*runs.complete(a), "solver.iterations=0", "candidates=1", "start=random"]
    case.run(*words).check_success()
    other = [*words, f"output={b}", f"batch_size={size}"]
    case.run(*other, before=use_threads(count)).check_success()
    for name in ("z.npy", "before.png", "masked.png"):
        require((a / name).read_bytes() == (b / name).read_bytes(), f"{name} differs")
    for path in sorted((a / "completed").iterdir()):
        with Image.open(path) as one, Image.open(b / "completed" / path.name) as two:
            difference = np.abs(np.asarray(one, int) - np.asarray(two, int)).max()
        require(difference <= 1, f"{path.name} differs by {format_count(difference, 'level')}")


def run_repeatedly(case: Case) -> None:
    """Repeat a search with the same batches and one thread: the results are bitwise equal."""
    runs, rng = ReferenceRuns(case.shared), case.rng
    overrides = [f"batch_size={rng.randint(1, 9)}", "solver.iterations=20"]
    overrides += [f"solver={rng.choice(['adam', 'momentum'])}"]
    case.describe(" ".join(overrides))
    for name in ("a", "b"):
        case.run(*runs.complete(case.cwd / name), *overrides).check_success()
    check_equal(read_completion(case.cwd / "a"), read_completion(case.cwd / "b"), "the second run")
