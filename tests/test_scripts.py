"""train.py, inpaint.py and sample.py with small models: their files, and errors in one line."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dcgan_inpaint.cli.entry_point import run_config
from dcgan_inpaint.composition import compose_config
from dcgan_inpaint.errors import format_count
from dcgan_inpaint.images import make_grid
from dcgan_inpaint.models.checkpoint import load_gan
from dcgan_inpaint.photos.photos import PORTRAITS
from dcgan_inpaint.runs.resuming import TRAINING_STATE

PROJECT = Path(__file__).parents[1]
SMALL = [
    "data.image_size=16",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
]
TRAIN = [
    *SMALL,
    "data.train_size=64",
    "data.val_size=4",
    "batch_size=16",
    "model.gf_dim=2",
    "model.df_dim=2",
    "model.z_dim=5",
    "trainer.log_every_n_steps=2",
    "sample_every=4",
    "preview=2",
    "validate=3",
    "sample_metrics=8",
]
# options that a debug run has its own values of, and those that make the data small
DEBUG = (
    *("trainer.log", "trainer.enable", "sample_every", "preview", "validate", "sample_metrics"),
    *("data.train_size", "data.val_size", "batch_size"),
)
CONTEXT_ENCODER = [a for a in TRAIN if "z_dim" not in a] + [
    "model=context_encoder",
    "model.code_dim=5",
]


def assert_one_error(result, message):
    """Assert that a script wrote one error line, which contains `message`, and no traceback."""
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert message in errors[0]
    assert "Traceback" not in result.stderr


def read_csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_script_runs_from_another_directory_and_exits_with_1_after_an_error(tmp_path):
    command = [sys.executable, PROJECT / "inpaint.py", "limit=0"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert_one_error(result, "limit=0: should be greater")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", ["train.py", "inpaint.py", "sample.py"])
def test_help_shows_usage_and_the_options(script, run):
    text = run(script, "--help").stdout
    assert f"Usage: python {script}" in text.splitlines()[0]
    assert re.search(r"\n  cache_dir=\S+\s+directory of decoded images\n", text)
    assert "conf/README.md describes all options" in text


HELP = [  # script, overrides
    ("train.py", []),
    ("train.py", ["model=one_pass", "data=balanced", "logger=wandb"]),
    ("inpaint.py", []),
    ("inpaint.py", ["experiment=amos2016", "mask=random80", "data=celeba"]),
    ("sample.py", ["data=faces"]),
]


@pytest.mark.parametrize(("script", "overrides"), HELP)
def test_each_option_in_the_help_has_a_sentence_and_its_value(script, overrides, run):
    lines = run(script, "--help", *overrides).stdout.splitlines()
    options = [i for i, line in enumerate(lines) if re.match(r"  [\w.]+=", line)]
    assert len(options) > 15
    for i in options:
        beside = re.match(r"  [\w.]+=.*? {2,}\w", lines[i])
        assert beside or re.match(r" {20,}\S", lines[i + 1]), lines[i]
    shown = [lines[i] for i in options]
    assert all(any(line.startswith(f"  {each}") for line in shown) for each in overrides)


def test_help_with_a_wrong_override_is_one_error_line(run):
    assert_one_error(
        run("inpaint.py", "--help", "lam=1", fails=True), "Did you mean objective.lam=1?"
    )


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """The run directory of a trained DCGAN."""
    folder = tmp_path_factory.mktemp("train")
    loggers = ["logger=wandb", "logger.wandb.offline=true"]
    run("train.py", *TRAIN, *loggers, "trainer.max_epochs=2", f"output={folder}")
    return folder


def test_train_writes_checkpoints_images_and_metrics(trained):
    assert (trained / "config.yaml").is_file()
    last = torch.load(trained / "last.ckpt")
    assert "optimizer_states" in last
    weights = load_file(trained / "weights.safetensors")
    assert weights.keys() == last["state_dict"].keys()
    assert all(torch.equal(v, last["state_dict"][k]) for k, v in weights.items())
    assert not (trained / "last-1.ckpt").exists()  # a fallback during the training only
    assert sorted(p.name for p in (trained / "samples").iterdir()) == ["0000004.png", "0000008.png"]
    assert [p.name for p in sorted((trained / "completions").iterdir())] == [
        "0000004.png",
        "0000008.png",
    ]
    with Image.open(trained / "completions" / "0000008.png") as image:
        assert image.size == (2 * 18 + 2, 3 * 18 + 2)  # masked, completed, original
    rows = read_csv(trained / "logs" / "version_0" / "metrics.csv")
    logged = [row for row in rows if row["train/d_loss"]]
    assert [float(row["iteration"]) for row in logged] == [2, 4, 6, 8]
    for name in ("d_loss_real", "d_loss_fake", "g_loss", "D(x)", "D(G(z))", "images_per_second"):
        assert all(float(row[f"train/{name}"]) > 0 for row in logged)
    assert len([row for row in rows if row["preview/psnr_hole"]]) == 2  # one an epoch
    (psnr,) = [float(row["completion/psnr_hole"]) for row in rows if row["completion/psnr_hole"]]
    completed = read_csv(trained / "validation" / "metrics.csv")
    assert len(completed) == 3
    (swd,) = [float(row["samples/swd_16"]) for row in rows if row["samples/swd_16"]]
    assert 0 < swd < 3000
    assert psnr == pytest.approx(sum(float(row["psnr_hole"]) for row in completed) / 3)
    assert list((trained / "wandb").glob("offline-run-*/*.wandb"))


def test_two_runs_of_the_same_second_get_two_directories(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = ["trainer.max_epochs=1", "preview=0", "validate=0", "sample_metrics=0"]
    for logger in ("csv", "null"):
        run("train.py", *TRAIN, *quick, f"logger={logger}")
    first, second = sorted((tmp_path / "runs" / "train").iterdir(), key=lambda p: p.stat().st_mtime)
    assert OmegaConf.load(first / "config.yaml").output == str(first.relative_to(tmp_path))
    assert (first / "logs" / "version_0" / "metrics.csv").is_file()
    assert sorted(p.name for p in second.iterdir()) == [
        ".lock",
        "config.yaml",
        "last.ckpt",
        "samples",
        "weights.safetensors",
    ]


def test_resumed_training_equals_an_uninterrupted_one(run, trained, tmp_path):
    """Resumes with the stored settings: two epochs and one more equal three epochs bitwise."""
    resumed, uninterrupted = tmp_path / "resumed", tmp_path / "uninterrupted"
    shutil.copytree(trained, resumed)
    first_log = (resumed / "logs" / "version_0" / "metrics.csv").read_text()
    run("train.py", "trainer.max_epochs=3", f"resume={resumed / 'last.ckpt'}")
    assert (resumed / "logs" / "version_0" / "metrics.csv").read_text() == first_log
    logged = [
        row
        for row in read_csv(resumed / "logs" / "version_1" / "metrics.csv")
        if row["train/d_loss"]
    ]
    assert [float(row["iteration"]) for row in logged] == [10, 12]
    run("train.py", *TRAIN, "trainer.max_epochs=3", "logger=tensorboard", f"output={uninterrupted}")
    assert list((uninterrupted / "tensorboard").glob("events.out.tfevents.*"))
    a, b = (torch.load(p / "last.ckpt") for p in (resumed, uninterrupted))
    assert a["iteration"] == b["iteration"] == 12
    for name, value in b["state_dict"].items():
        assert torch.equal(a["state_dict"][name], value), name


@pytest.mark.slow
def test_training_is_resumed_with_moved_files(run, trained, image_directories, tmp_path):
    """The images and the GAN are in other directories, whose names need quotes."""
    gan, moved = tmp_path / "gan.ckpt", tmp_path / "a (1) & b=c[2]"
    shutil.copy(trained / "last.ckpt", gan)
    overrides = [a for a in TRAIN if not a.startswith(("model", "sample", "data."))]
    overrides += ["data=folder", f"data.root={image_directories / '110'}", "data.image_size=16"]
    overrides += ["model=latent_encoder", "model.df_dim=2", "model.code_dim=8", f"gan={gan}"]
    run("train.py", *overrides, "trainer.max_epochs=1", f"output={tmp_path / 'run'}")
    moved.mkdir()
    (image_directories / "110").rename(moved / "images")
    gan.rename(moved / "gan.ckpt")
    shutil.copytree(tmp_path / "run", moved / "run")
    resume = [f"resume={moved / 'run' / 'last.ckpt'}", "trainer.max_epochs=2"]
    result = run("train.py", *resume, f"data.root={moved / 'images'}", f"gan={moved / 'gan.ckpt'}")
    assert "trained 12 iterations" in result.stdout
    (printed,) = shlex.split(result.stdout.splitlines()[-1])
    result = run("inpaint.py", printed, "limit=1", f"output={moved / 'out'}")
    assert "1 image completed" in result.stdout


def file_states(directory):
    """Return the size and the modification time of each file below a directory."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def test_resuming_a_checkpoint_with_another_shape_is_an_error(run, trained, tmp_path):
    saved = torch.load(trained / "last.ckpt")
    name = next(iter(saved["state_dict"]))
    saved["state_dict"][name] = torch.zeros(1)
    torch.save(saved, tmp_path / "last.ckpt")
    shutil.copy(trained / "config.yaml", tmp_path)
    result = run("train.py", f"resume={tmp_path / 'last.ckpt'}", fails=True)
    assert_one_error(
        result, f"{name} does not fit. Use the model= and data= that it was started with"
    )


CHANGED_SETTINGS = {
    "seed": (["seed=1"], "seed=0, not 1"),
    "batch_size": (["batch_size=8"], "batch_size=16, not 8"),
    "g_steps": (["model.g_steps=1"], "model.g_steps=2, not 1"),
    "lr": (["model.lr=0.1"], "model.lr=0.0002, not 0.1"),
    "default": (["model.gf_dim=64"], "model.gf_dim=2, not 64"),
    "flip": (["flip=false"], "flip=true, not false"),
    "data.seed": (["data.seed=1"], "data.seed=0, not 1"),
    "model": (["model=unet"], "model._target_=dcgan_inpaint.models.dcgan.DCGAN, not dcgan_inpaint"),
}


@pytest.mark.parametrize("case", CHANGED_SETTINGS)
def test_resuming_with_a_changed_setting_is_an_error(run, trained, case):
    arguments, message = CHANGED_SETTINGS[case]
    before = file_states(trained)
    result = run("train.py", f"resume={trained / 'last.ckpt'}", *arguments, fails=True)
    assert_one_error(result, f"last.ckpt: the run was started with {message}")
    assert file_states(trained) == before


def test_checkpoint_without_config_rejects_other_settings(run, trained, tmp_path):
    """Without config.yaml beside it, the settings are required; last.ckpt stores them as well."""
    shutil.copy(trained / "last.ckpt", tmp_path)
    overrides = [*TRAIN, f"resume={tmp_path / 'last.ckpt'}", f"output={tmp_path / 'out'}"]
    for argument, message in (
        ("model.lr=0.1", "model.lr=0.0002, not 0.1"),
        ("data.seed=1", "data.seed=0, not 1"),
        ("seed=1", "mask_seed=0, not 1"),  # follows seed
        ("flip=false", "flip=true, not false"),
        ("+trainer.limit_train_batches=1", "trainer.limit_train_batches=null, not 1"),
    ):
        result = run("train.py", *overrides, argument, fails=True)
        assert_one_error(result, f"last.ckpt: the run was started with {message}")
    assert not (tmp_path / "out").exists()
    config = (trained / "config.yaml").read_text()  # last.ckpt decides, not a changed file
    (tmp_path / "config.yaml").write_text(config.replace("flip: true", "flip: false"))
    result = run("train.py", f"resume={tmp_path / 'last.ckpt'}", fails=True)
    assert_one_error(result, "last.ckpt: the run was started with flip=true, not false")


OCCUPIED = {
    "train again": ("train.py", ["last.ckpt"], "contains a training"),
    "train over a completion": ("train.py", ["records/00000.safetensors"], "contains a completion"),
    "complete into a training": ("inpaint.py", ["weights.safetensors"], "contains a training"),
    "samples into a completion": ("sample.py", ["metrics.csv"], "contains a completion"),
    "complete into samples": ("inpaint.py", ["samples.png"], "contains samples"),
}


@pytest.mark.parametrize("case", OCCUPIED)
def test_directory_with_other_results_is_an_error_and_stays_unchanged(run, tmp_path, case):
    script, files, message = OCCUPIED[case]
    for name in ["config.yaml", *files]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("content")
    before = file_states(tmp_path)
    assert_one_error(
        run(script, f"output={tmp_path}", fails=True), f"{message}. Use another output"
    )
    assert file_states(tmp_path) == before


def test_directory_in_use_by_another_process_is_an_error(run, tmp_path):
    code = "lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"
    command = [sys.executable, "-c", f"import sys, filelock; {code}", tmp_path / ".lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        result = run("sample.py", "count=1", f"output={tmp_path}", fails=True)
        other.communicate(b"\n")
    assert_one_error(result, "another run is using it")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    run("sample.py", "count=1", f"output={tmp_path}")
    assert (tmp_path / "samples.png").is_file()


@pytest.mark.parametrize(
    ("script", "wrong"),
    [("train.py", "batch_size=0,-1"), ("inpaint.py", "limit=0,-1"), ("sample.py", "count=0,-1")],
)
def test_multirun_leaves_no_empty_numbered_directory(run, tmp_path, monkeypatch, script, wrong):
    """Hydra makes its directory before a run, so an option that is refused shows it."""
    monkeypatch.chdir(tmp_path)
    run(script, "-m", wrong, fails=True)
    assert [path.name for path in (tmp_path / "runs" / "multirun").iterdir()] == ["multirun.yaml"]


def test_one_validation_image_is_enough(run, tmp_path):
    """`preview` and `validate` are upper limits; `sample_metrics` needs two test images."""
    overrides = [
        a for a in TRAIN if not a.startswith(("data.val", "preview", "validate", "sample_m"))
    ]
    overrides += ["data.val_size=1", "preview=20", "validate=20", "trainer.max_epochs=1"]
    result = run("train.py", *overrides, "sample_metrics=0", f"output={tmp_path / 'run'}")
    assert "1 validation image completed: psnr_hole" in result.stdout
    result = run(
        "train.py", *overrides, "data.test_size=1", f"output={tmp_path / 'no'}", fails=True
    )
    assert_one_error(
        result, "too few images (64 of train, 1 of val, 1 of test). Use sample_metrics=0"
    )
    assert not (tmp_path / "no").exists()


@pytest.fixture
def image_directories(tmp_path):
    """Directories of 110 and 20 images, as BMP, whose bytes are the same on every machine."""
    generator = np.random.default_rng(0)
    for count in (110, 20):
        (tmp_path / f"{count}").mkdir()
        for i in range(count):
            levels = generator.integers(0, 256, (20, 24, 3), np.uint8)
            Image.fromarray(levels).save(tmp_path / f"{count}" / f"{i}.bmp")
    return tmp_path


@pytest.mark.slow
def test_110_images_train_with_default_settings(run, image_directories, tmp_path):
    """Only the sizes of images and networks differ, to save time; an epoch is one batch."""
    sizes = ["data.image_size=16", "model.gf_dim=1", "model.df_dim=1", "trainer.max_epochs=2"]
    folder = [f"data.root={image_directories / '110'}", f"output={tmp_path / 'run'}"]
    result = run("train.py", "data=folder", *folder, *sizes, "trainer.accelerator=cpu")
    assert "7 validation images completed: psnr_hole" in result.stdout
    assert "swd_16 " in result.stdout
    assert "trained 2 iterations" in result.stdout
    assert (tmp_path / "run" / "completions" / "0000002.png").is_file()


def test_too_few_images_error_names_settings_that_work(run, image_directories, tmp_path):
    overrides = ["data=folder", f"data.root={image_directories / '20'}", "data.image_size=16"]
    overrides += [*SMALL[1:], "model.gf_dim=1", "model.df_dim=1", "trainer.max_epochs=1"]
    overrides += [f"output={tmp_path / 'run'}"]
    result = run("train.py", *overrides, fails=True)
    assert_one_error(result, "error: data: too few images (")
    assert not (tmp_path / "run").exists()
    advice = result.stderr.rpartition(". Use ")[2]
    lower = advice.replace(" or less", "").replace(",", "").split()
    assert {override.partition("=")[0] for override in lower} > {"batch_size"}
    assert "trained 1 iteration\n" in run("train.py", *overrides, *lower).stdout


def test_completing_a_split_writes_metrics_images_and_traces(run, trained, tmp_path):
    result = run(
        "inpaint.py",
        f"ckpt={trained / 'last.ckpt'}",  # selects the data as well
        "trainer.accelerator=cpu",
        "mask=random",
        "limit=5",
        "batch_size=2",
        "blend=paste",
        "stages=none",
        "solver.iterations=4",
        "out_interval=2",
        f"output={tmp_path}",
    )
    assert "5 images completed: psnr_hole" in result.stdout
    assert "searching z" in result.stderr
    assert result.stdout.splitlines()[-1] == str(tmp_path / "completed.png")
    for name in ("before", "masked", "generated", "completed"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size[1] == 16 + 4
    assert len(list((tmp_path / "completed").glob("*_face_*.png"))) == 5
    rows = read_csv(tmp_path / "metrics.csv")
    assert [row["name"] for row in rows] == [f"0000{i}_face_{2_000_000_000 + i}" for i in range(5)]
    for row in rows:
        psnr_hole, psnr_whole, raw_psnr_whole = (
            float(row[n]) for n in ("psnr_hole", "psnr_whole", "raw_psnr_whole")
        )
        assert raw_psnr_whole < psnr_whole < 60
        assert psnr_hole < psnr_whole
        assert float(row["raw_psnr_hole"]) == pytest.approx(
            psnr_hole
        )  # pasted, so the hole is G(z)
        assert float(row["seconds"]) > 0
    summary = {row["metric"]: row for row in read_csv(tmp_path / "summary.csv")}
    mean = sum(float(row["psnr_hole"]) for row in rows) / 5
    assert float(summary["psnr_hole"]["mean"]) == pytest.approx(mean)
    assert float(summary["psnr_hole"]["low"]) < mean < float(summary["psnr_hole"]["high"])
    assert summary["psnr_hole"]["images"] == "5"
    trace = read_csv(tmp_path / "trace.csv")
    assert len(trace) == 5 * 5  # 4 iterations and the end
    first = trace[0]
    assert float(first["total"]) == pytest.approx(
        float(first["context"]) + 0.1 * float(first["prior"])
    )
    z, frames = np.load(tmp_path / "z.npy"), np.load(tmp_path / "z_frames.npy")
    assert z.shape == (5, 5)
    assert frames.shape == (5, 3, 5)
    assert np.array_equal(frames[:, -1], z)
    assert [p.name for p in sorted((tmp_path / "frames").iterdir())] == [
        "00000.png",
        "00002.png",
        "00004.png",
    ]
    assert (tmp_path / "search.gif").is_file()
    assert (tmp_path / "config.yaml").is_file()


@pytest.mark.parametrize("method", ["mean", "nearest", "tv"])
def test_baseline_completes_the_data_of_the_checkpoint(run, trained, tmp_path, method):
    small = [*SMALL[1:], f"ckpt={trained / 'last.ckpt'}", "mask=random80", "limit=3"]
    result = run("inpaint.py", *small, f"method={method}", "batch_size=2", f"output={tmp_path}")
    assert "3 images completed: psnr_hole" in result.stdout
    rows = read_csv(tmp_path / "metrics.csv")
    assert all(float(row["psnr_hole"]) > 5 for row in rows)
    assert all(row["context"] == "nan" for row in rows)  # a baseline has no objective
    assert not (tmp_path / "trace.csv").exists()
    assert not (tmp_path / "z.npy").exists()


def test_nearest_completes_photos_from_the_training_images(run, trained, photos, tmp_path):
    small = [*SMALL[1:], f"ckpt={trained / 'last.ckpt'}", f"images={photos}"]
    run("inpaint.py", *small, "method=nearest", f"output={tmp_path / 'out'}")
    assert len(list((tmp_path / "out" / "photos").iterdir())) == 2


@pytest.fixture(scope="module")
def context_encoder(run, tmp_path_factory):
    """The run directory of a trained context encoder."""
    folder = tmp_path_factory.mktemp("context_encoder")
    run("train.py", *CONTEXT_ENCODER, "trainer.max_epochs=2", f"output={folder}")
    return folder


def test_context_encoder_writes_completions_and_metrics(context_encoder):
    assert not (context_encoder / "samples").exists()  # it has no z to sample from
    names = [p.name for p in sorted((context_encoder / "completions").iterdir())]
    assert names == ["0000004.png", "0000008.png"]
    rows = read_csv(context_encoder / "logs" / "version_0" / "metrics.csv")
    logged = [row for row in rows if row["train/hole_l2"]]
    assert [float(row["iteration"]) for row in logged] == [2, 4, 6, 8]
    for name in ("hole_l2", "adversarial", "d_loss", "images_per_second"):
        assert all(float(row[f"train/{name}"]) > 0 for row in logged)
    assert len([row for row in rows if row["preview/psnr_hole"]]) == 2
    assert len([row for row in rows if row["completion/psnr_hole"]]) == 1
    assert len(read_csv(context_encoder / "validation" / "metrics.csv")) == 3


def test_resumed_context_encoder_equals_an_uninterrupted_one(run, context_encoder, tmp_path):
    last, longer = f"resume={context_encoder / 'last.ckpt'}", "trainer.max_epochs=3"
    run("train.py", longer, last, f"output={tmp_path / 'resumed'}")
    run("train.py", *CONTEXT_ENCODER, longer, f"output={tmp_path / 'uninterrupted'}")
    a, b = (torch.load(tmp_path / n / "last.ckpt") for n in ("resumed", "uninterrupted"))
    assert a["iteration"] == b["iteration"] == 12
    for name, value in b["state_dict"].items():
        assert torch.equal(a["state_dict"][name], value), name


def test_context_encoder_completes_with_its_averaged_or_raw_network(run, context_encoder, tmp_path):
    small = [*SMALL[1:], f"ckpt={context_encoder / 'last.ckpt'}", "mask=half", "limit=3"]
    network = [*small, "method=network"]
    result = run("inpaint.py", *network, "blend=poisson", f"output={tmp_path / 'a'}")
    assert "3 images completed: psnr_hole" in result.stdout
    run("inpaint.py", *network, "ema=false", f"output={tmp_path / 'b'}")
    ema, raw = ((tmp_path / n / "generated.png").read_bytes() for n in "ab")
    assert ema != raw
    run("inpaint.py", *small, "method=mean", f"output={tmp_path / 'c'}")
    assert (tmp_path / "c" / "metrics.csv").is_file()


ENCODER_ERRORS = {
    "search": (
        ["method=search"],
        "holds a one-pass network, which has no z to search. Use method=net",
    ),
    "measure": (["method=network", "mask=grayscale"], "network needs known pixels"),
}


@pytest.mark.parametrize("case", ENCODER_ERRORS)
def test_wrong_option_of_a_context_encoder_is_one_error_line(run, context_encoder, case):
    arguments, message = ENCODER_ERRORS[case]
    assert_one_error(
        run("inpaint.py", f"ckpt={context_encoder / 'last.ckpt'}", *arguments, fails=True), message
    )


def test_sampling_from_a_context_encoder_is_an_error(run, context_encoder):
    result = run("sample.py", f"ckpt={context_encoder / 'last.ckpt'}", fails=True)
    assert_one_error(result, "last.ckpt: holds a one-pass network without a GAN. Use that of a GAN")


@pytest.fixture(scope="module")
def latent_encoder(run, trained, tmp_path_factory):
    """The run directory of a latent encoder for the trained DCGAN."""
    folder = tmp_path_factory.mktemp("latent_encoder")
    overrides = [a for a in TRAIN if not a.startswith(("model", "sample"))]
    overrides += ["model=latent_encoder", "model.df_dim=2", "model.code_dim=8"]
    overrides += ["trainer.max_epochs=1", f"gan={trained / 'last.ckpt'}", f"output={folder}"]
    result = run("train.py", *overrides)
    assert "3 validation images completed: psnr_hole" in result.stdout
    return folder


def test_latent_encoder_writes_completions_and_metrics(latent_encoder):
    rows = read_csv(latent_encoder / "logs" / "version_0" / "metrics.csv")
    assert [float(r["iteration"]) for r in rows if r["train/whole"]] == [2, 4]
    assert (latent_encoder / "completions" / "0000004.png").is_file()


def test_search_starts_from_the_latent_encoder_by_default(run, trained, latent_encoder, tmp_path):
    """Random starts equal those of the GAN; so do starts from measurements that are not pixels."""
    with_encoder = f"ckpt={latent_encoder / 'weights.safetensors'}"
    gan_only = f"ckpt={trained / 'last.ckpt'}"
    z = {}
    cases = {  # checkpoint, override, resolved candidates and select
        "default": (with_encoder, "start=null", (2, "mean")),
        "encoder": (with_encoder, "start=encoder", (2, "mean")),
        "random": (with_encoder, "start=random", (1, "best")),
        "grayscale": (with_encoder, "mask=grayscale", (1, "best")),
        "gan": (gan_only, "start=null", (1, "best")),
    }
    for name, (ckpt, override, resolved) in cases.items():
        output = tmp_path / name
        short = [*SMALL[1:], "limit=2", "stages=none", "solver.iterations=0"]
        run("inpaint.py", ckpt, *short, override, f"output={output}")
        assert len(read_csv(output / "trace.csv")) == 2  # one row per image: no iterations
        config = OmegaConf.load(output / "config.yaml")
        assert (config.candidates, config.select) == resolved
        z[name] = np.load(output / "z.npy")
    assert np.array_equal(z["default"], z["encoder"])
    assert not np.array_equal(z["encoder"], z["random"])
    assert np.array_equal(z["random"], z["gan"])
    assert np.array_equal(z["random"], z["grayscale"])


@pytest.mark.parametrize(
    ("start", "candidates", "evaluations"),
    [("encoder", 2, 1), ("encoder", 3, 101), ("random", 1, 101)],
)
def test_search_is_skipped_for_the_two_starts_of_the_latent_encoder(
    run, latent_encoder, tmp_path, start, candidates, evaluations
):
    overrides = [*SMALL[1:], "limit=1", "stages=none", f"output={tmp_path}"]
    overrides += [f"start={start}", f"candidates={candidates}"]
    run("inpaint.py", f"ckpt={latent_encoder / 'weights.safetensors'}", *overrides)
    assert len(read_csv(tmp_path / "trace.csv")) == evaluations


def test_checkpoint_of_a_latent_encoder_can_be_sampled(run, latent_encoder, tmp_path):
    ckpt = f"ckpt={latent_encoder / 'weights.safetensors'}"
    run("sample.py", ckpt, "count=2", f"output={tmp_path}")
    assert (tmp_path / "samples.png").is_file()


def test_wrong_start_is_one_error_line(run, trained, latent_encoder, tmp_path):
    gan_only = f"ckpt={trained / 'last.ckpt'}"
    with_encoder = f"ckpt={latent_encoder / 'weights.safetensors'}"
    train = "Train one: python train.py model=latent_encoder gan="
    for overrides, message in (
        ([gan_only, "start=encoder"], f"last.ckpt holds no encoder. {train}"),
        ([with_encoder, "start=gone.ckpt"], "start=gone.ckpt: should be 'encoder' or 'random'"),
        ([with_encoder, "start=encoder", "mask=grayscale"], "start=encoder: requires known pixels"),
    ):
        result = run("inpaint.py", *overrides, f"output={tmp_path / 'run'}", fails=True)
        assert_one_error(result, message)


def test_continued_evaluation_equals_an_uninterrupted_one(run, trained, tmp_path):
    """Damaged result files of the first part are written again from the records."""
    uninterrupted, continued = tmp_path / "uninterrupted", tmp_path / "continued"

    def evaluate(output, limit):
        return run(
            "inpaint.py",
            *SMALL[1:],
            f"ckpt={trained / 'last.ckpt'}",
            "mask=random",
            "batch_size=2",
            "candidates=2",
            "solver.iterations=2",
            "stages=none",
            "out_interval=1",
            f"limit={limit}",
            f"output={output}",
        )

    evaluate(uninterrupted, 10)
    evaluate(continued, 4)
    times = {path: path.stat().st_mtime_ns for path in (continued / "completed").iterdir()}
    with (continued / "metrics.csv").open("a") as file:
        file.write("00004_face_2000000004,17.0,12")
    (continued / "trace.csv").unlink()
    (continued / "z.npy").write_bytes(b"cut")
    config = (continued / "config.yaml").read_text()
    (continued / "config.yaml").write_text(config[: len(config) // 2])
    result = evaluate(continued, 10)
    assert "10 images completed" in result.stdout
    unchanged = (path.stat().st_mtime_ns == time for path, time in times.items())
    assert all(unchanged)  # no image was completed a second time
    for name in ("z.npy", "z_frames.npy"):
        assert np.array_equal(np.load(continued / name), np.load(uninterrupted / name)), name
    assert (continued / "trace.csv").read_text() == (uninterrupted / "trace.csv").read_text()
    for a, b in zip(
        read_csv(continued / "metrics.csv"), read_csv(uninterrupted / "metrics.csv"), strict=True
    ):
        assert a | {"seconds": ""} == b | {"seconds": ""}
    images = ("before", "masked", "generated", "completed", "rows", "mean", "frames/00001")
    for name in images:
        assert (continued / f"{name}.png").read_bytes() == (
            uninterrupted / f"{name}.png"
        ).read_bytes(), name
    assert "10 images completed" in evaluate(continued, 10).stdout  # all are stored


def test_continuing_with_other_settings_or_weights_is_an_error(run, trained, tmp_path):
    shutil.copy(trained / "weights.safetensors", tmp_path)
    small = [
        *SMALL[1:],
        f"ckpt={tmp_path / 'weights.safetensors'}",
        "stages=none",
        "solver.iterations=1",
        "limit=1",
    ]
    run("inpaint.py", *small, f"output={tmp_path / 'a'}")
    before = (tmp_path / "a" / "metrics.csv").read_text()
    result = run("inpaint.py", *small, "mask.scale=0.3", f"output={tmp_path / 'a'}", fails=True)
    assert_one_error(result, "was started with mask.scale=0.25, not 0.3. Use the same settings")
    bf16 = "trainer.precision=bf16-mixed"
    result = run("inpaint.py", *small, bf16, f"output={tmp_path / 'a'}", fails=True)
    assert_one_error(result, "was started with trainer.precision=32-true, not bf16-mixed")
    weights = load_file(tmp_path / "weights.safetensors")
    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        metadata = json.loads(file.metadata()["dcgan_inpaint"])
    del metadata["checksum"]
    header = {"dcgan_inpaint": json.dumps(metadata)}
    next(iter(weights.values())).add_(1)
    save_file(weights, tmp_path / "weights.safetensors", header)
    result = run("inpaint.py", *small, f"output={tmp_path / 'a'}", fails=True)
    assert_one_error(result, "was started with other contents of ckpt=")
    assert (tmp_path / "a" / "metrics.csv").read_text() == before


def test_continuing_with_another_mask_image_is_an_error(run, trained, tmp_path):
    overrides = [*SMALL[1:], f"ckpt={trained / 'weights.safetensors'}", "method=mean", "limit=1"]
    overrides += ["mask=file", f"mask.path={tmp_path / 'mask.png'}", f"output={tmp_path / 'a'}"]
    mask = Image.new("L", (16, 16), 255)
    for column in (2, 9):
        mask.paste(0, (column, 2, column + 4, 6))
        mask.save(tmp_path / "mask.png")
        result = run("inpaint.py", *overrides, fails=column == 9)
    assert_one_error(result, f" or mask.path={tmp_path / 'mask.png'}. Use another output")


@pytest.mark.parametrize("name", ["[a] (1)=b & c*", "it's", "bytes \udcff"])
def test_run_directory_may_have_any_name(run, trained, tmp_path, name):
    """The run is completed, continued, and refuses other results, as any run."""
    output, folder = tmp_path / name, tmp_path / f"{name} model"
    folder.mkdir()
    shutil.copy(trained / "weights.safetensors", folder)
    ckpt = f"ckpt={folder / 'weights.safetensors'}"
    quick = [*SMALL[1:], ckpt, "method=mean", f"output={output}"]
    for limit in (1, 2):
        result = run("inpaint.py", *quick, f"limit={limit}")
        assert f"{format_count(limit, 'image')} completed" in result.stdout
    assert {path.name for path in output.iterdir()} >= {"index.html", "metrics.csv", "config.yaml"}
    assert OmegaConf.load(output / "config.yaml").output == str(output)
    error = run("sample.py", f"output={output}", fails=True)
    assert_one_error(error, "contains a completion. Use another output")


def test_mean_psnr_is_logged_for_sweeps(run, trained, tmp_path):
    loggers = ["logger=wandb", "logger.wandb.offline=true"]
    small = [
        *SMALL[1:],
        f"ckpt={trained / 'last.ckpt'}",
        "stages=none",
        "solver.iterations=1",
        "limit=3",
    ]
    run("inpaint.py", *small, *loggers, f"output={tmp_path}")
    (logged,) = read_csv(tmp_path / "logs" / "version_0" / "metrics.csv")
    summary = {row["metric"]: row["mean"] for row in read_csv(tmp_path / "summary.csv")}
    assert float(logged["completion/psnr_hole"]) == pytest.approx(float(summary["psnr_hole"]))
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


@pytest.fixture
def photos(tmp_path):
    """A color and a gray photo, not square, in a directory beside a mask image of another size."""
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 255, (50, 80, 3), np.uint8)).save(folder / "a.jpg")
    Image.fromarray(generator.integers(0, 255, (90, 40), np.uint8)).save(folder / "b.png")
    mask = Image.new("L", (64, 32), 255)
    mask.paste(0, (16, 8, 48, 24))
    mask.save(tmp_path / "hole.png")
    return folder


@pytest.mark.parametrize("form", ["folder", "glob", "file", "list"])
def test_photos_are_named_by_directory_glob_file_or_list(run, trained, photos, tmp_path, form):
    images, count = {
        "folder": (photos, 2),
        "glob": (photos / "*.jpg", 1),
        "file": (photos / "b.png", 1),
        "list": (f"[{photos / 'b.png'},{photos / 'a.jpg'}]", 2),
    }[form]
    output = tmp_path / "out"
    result = run(
        "inpaint.py",
        *SMALL[1:],
        f"ckpt={trained / 'last.ckpt'}",
        f"images={images}",
        "mask=file",
        f"mask.path={tmp_path / 'hole.png'}",
        "solver.iterations=2",
        "stages=none",
        f"output={output}",
    )
    assert "searching z" not in result.stderr  # trainer.enable_progress_bar=false
    only_name = "00000_a.png" if form == "glob" else "00000_b.png"
    main_result = output / "photos" / ("" if count > 1 else only_name)
    assert result.stdout.splitlines()[-2:] == [
        f"{format_count(count, 'image')} completed",
        str(main_result),
    ]
    assert {row["metric"] for row in read_csv(output / "summary.csv")} == {
        *("context", "prior", "total", "seconds")  # the true content of the holes is unknown
    }
    names = sorted(p.name for p in (output / "completed").iterdir())
    assert len(names) == count
    assert names[0] == ("00000_a.png" if form in ("folder", "glob") else "00000_b.png")
    with Image.open(output / "completed" / names[0]) as image:
        assert image.size == (16, 16)


def test_photos_beside_broken_ones_are_completed(run, trained, photos, tmp_path):
    """The error at the end names the broken photos; a folder of only broken ones starts no run."""
    (photos / "a_cut.jpg").write_bytes((photos / "a.jpg").read_bytes()[:600])
    (photos / "c.png").write_text("not an image")
    small = [*SMALL[1:], f"ckpt={trained / 'last.ckpt'}", "method=mean", f"images={photos}"]
    result = run("inpaint.py", *small, f"output={tmp_path / 'out'}", fails=True)
    assert_one_error(result, "error: could not complete 2 of 4 photos: ")
    for name in ("a_cut.jpg", "c.png"):
        assert f"{photos / name}: cannot be read as an image" in result.stderr
    assert "2 images completed: psnr_hole" in result.stdout
    names = sorted(path.name for path in (tmp_path / "out" / "photos").iterdir())
    assert names == ["00000_a.png", "00001_b.png"]
    assert len(read_csv(tmp_path / "out" / "metrics.csv")) == 2
    for name in ("a.jpg", "b.png"):
        (photos / name).unlink()
    result = run("inpaint.py", *small, f"output={tmp_path / 'none'}", fails=True)
    assert_one_error(result, "cannot be read as an image")
    assert not (tmp_path / "none").exists()


def test_photos_beside_one_with_a_wrong_mask_are_completed(run, trained, photos, tmp_path):
    """The hole of a.jpg reaches outside its central crop; the mask of c.png is broken."""
    noise = np.random.default_rng(1).integers(0, 255, (50, 50, 3), np.uint8)
    Image.fromarray(noise).save(photos / "c.png")
    (tmp_path / "masks").mkdir()
    for name, size, box in (("a", (80, 50), (2, 20, 22, 31)), ("b", (40, 90), (4, 44, 12, 52))):
        mask = Image.new("L", size, 255)
        mask.paste(0, box)
        mask.save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "masks" / "c.png").write_text("not an image")
    small = [*SMALL[1:], f"ckpt={trained / 'last.ckpt'}", "method=mean", f"images={photos}"]
    small += ["detector=null", "mask=file", f"mask.path={tmp_path / 'masks'}"]
    result = run("inpaint.py", *small, f"output={tmp_path / 'out'}", fails=True)
    assert_one_error(result, "error: could not complete 2 of 3 photos: ")
    assert (
        f"{photos / 'a.jpg'}: mask.path={tmp_path / 'masks' / 'a.png'}: the hole" in result.stderr
    )
    assert f"mask.path={tmp_path / 'masks' / 'c.png'}: cannot be read" in result.stderr
    assert [path.name for path in (tmp_path / "out" / "photos").iterdir()] == ["00000_b.png"]


def test_command_returns_the_mean_psnr_of_the_holes(trained, photos, tmp_path, monkeypatch):
    """Hydra passes the returned value to a sweeper; it is None if the truth is unknown."""
    monkeypatch.chdir(tmp_path)

    def run_command(command, *overrides):
        return run_config(command, compose_config(command, [*overrides, f"cache_dir={tmp_path}"]))

    def mean_psnr(path):
        (row,) = [row for row in read_csv(path) if row["metric"] == "psnr_hole"]
        return float(row["mean"])

    search = [f"ckpt={trained / 'last.ckpt'}", "solver.iterations=1", "stages=none", *SMALL[1:]]
    psnr = run_command("inpaint", *search, "limit=3", "output=a")
    assert psnr == mean_psnr(tmp_path / "a" / "summary.csv")
    hole = ["mask=file", f"mask.path={tmp_path / 'hole.png'}", f"images={photos / 'b.png'}"]
    assert run_command("inpaint", *search, *hole, "output=b") is None
    short = ["trainer.max_epochs=1", "sample_metrics=0", "preview=0"]
    psnr = run_command("train", *TRAIN, *short, "output=c")
    assert psnr == mean_psnr(tmp_path / "c" / "validation" / "summary.csv")


def test_photos_without_a_face_are_reported_with_the_crop_drawn(run, trained, photos, tmp_path):
    """Before they are completed; a crop or detector=null of the user's needs no message."""
    output = tmp_path / "out"
    small = [*SMALL[1:], f"ckpt={trained / 'last.ckpt'}", "method=mean", f"images={photos}"]
    result = run("inpaint.py", *small, f"output={output}")
    lines = [line for line in result.stdout.splitlines() if "no face" in line]
    assert lines == [
        f"{photos / name}: no face found: completing the center {box}, drawn in "
        f"{output}/crops/{label}.png. Set crop=[x,y,w,h] to change it"
        for name, label, box in (
            ("a.jpg", "00000_a", "[15,0,50,50]"),
            ("b.png", "00001_b", "[0,25,40,40]"),
        )
    ]
    assert result.stdout.index(lines[1]) < result.stdout.index("2 images completed")
    with Image.open(output / "crops" / "00000_a.png") as drawn:
        assert drawn.size == (80, 50) and drawn.getpixel((15, 25)) in {(0, 0, 0), (255,) * 3}
    result = run("inpaint.py", *small, "detector=null", f"output={tmp_path / 'center'}")
    assert "no face" not in result.stdout and not (tmp_path / "center" / "crops").exists()


def test_photos_are_completed_by_shipped_models(run, photos, tmp_path):
    """The default is celeba128; photos of noise contain no face, so their center is completed."""
    cpu = "trainer.accelerator=cpu"
    several_samples = ["ckpt=celeba64", "candidates=2"]
    for ckpt, select, overrides in (
        ("celeba128", "sample", []),
        ("celeba64", "sample", several_samples),
    ):
        output = tmp_path / ckpt
        run("inpaint.py", cpu, *overrides, f"images={photos / 'b.png'}", f"output={output}")
        config = OmegaConf.load(output / "config.yaml")
        assert (config.ckpt, config.select) == (ckpt, select)
        assert (output / "photos" / "00000_b.png").is_file()


def test_portraits_are_completed_by_default_with_any_mask(run, tmp_path):
    """The printed result has a band of original, masked and completed images."""
    Image.new("L", (448, 448), 255).save(tmp_path / "hole.png")
    with Image.open(tmp_path / "hole.png") as mask:
        mask.paste(0, (200, 150, 250, 200))
        mask.save(tmp_path / "hole.png")
    photo_mask = ["mask=file", f"mask.path={tmp_path / 'hole.png'}"]
    quick = ["method=mean", "limit=2", "trainer.accelerator=cpu"]
    for name, mask in (("drawn", ["mask=half"]), ("painted", photo_mask)):
        output = tmp_path / name
        result = run("inpaint.py", *quick, *mask, f"output={output}")
        assert result.stdout.splitlines()[-1] == str(output / "rows.png")
        config = OmegaConf.load(output / "config.yaml")
        assert (config.ckpt, Path(config.images)) == ("celeba128", PORTRAITS)
        with Image.open(output / "rows.png") as image:
            assert image.size == (2 * 130 + 2, 3 * 130 + 2)
        names = sorted(path.name for path in (output / "photos").iterdir())
        assert names == ["00000_portrait_01.png", "00001_portrait_02.png"]


def test_data_without_a_checkpoint_is_completed_by_faces64(run, tmp_path):
    quick = ["data.test_size=2", "data.train_size=2", "data.val_size=2", "trainer.accelerator=cpu"]
    run("inpaint.py", "data=faces", *quick, "method=mean", f"output={tmp_path}")
    assert OmegaConf.load(tmp_path / "config.yaml").ckpt == "faces64"
    assert len(list((tmp_path / "completed").iterdir())) == 2


def test_shipped_checkpoint_completes_faces(run, tmp_path):
    run(
        "inpaint.py",
        "ckpt=faces64",
        "trainer.accelerator=cpu",
        "limit=2",
        "solver.iterations=2",
        "stages=none",
        f"output={tmp_path}",
    )
    assert len(list((tmp_path / "completed").iterdir())) == 2


def test_samples_come_from_the_prior_or_from_a_file_of_z(run, trained, tmp_path):
    ckpt = f"ckpt={trained / 'last.ckpt'}"
    arithmetic = ["plus=[0,1]", "minus=[2]", "base=[3]"]
    hydra_dir = f"hydra.run.dir={tmp_path / 'hydra'}"  # stays empty
    overrides = ["count=7", "steps=5", *arithmetic, hydra_dir, f"output={tmp_path / 'a'}"]
    result = run("sample.py", ckpt, *overrides)
    assert result.stdout.splitlines() == [str(tmp_path / "a" / "arithmetic.png")]
    assert not list((tmp_path / "hydra").iterdir())
    with Image.open(tmp_path / "a" / "samples.png") as image:
        assert image.size == (7 * 18 + 2, 18 + 2)
    with Image.open(tmp_path / "a" / "interpolation.png") as image:
        assert image.size == (5 * 18 + 2, 3 * 18 + 2)  # rows 0-1, 2-3, 4-5
    with Image.open(tmp_path / "a" / "interpolation.gif") as gif:
        assert gif.n_frames == 8  # forward and back
    with Image.open(tmp_path / "a" / "arithmetic.png") as image:
        assert image.size == (8 * 18 + 2, 18 + 2)
    dcgan = load_gan(trained / "last.ckpt")
    z = dcgan.latents(torch.arange(4), seed=9)
    np.save(tmp_path / "z.npy", z.numpy())
    run("sample.py", ckpt, f"z={tmp_path / 'z.npy'}", f"output={tmp_path / 'b'}")
    with Image.open(tmp_path / "b" / "samples.png") as image, torch.no_grad():
        assert np.array_equal(np.asarray(image), np.asarray(make_grid(dcgan(z))))


SAMPLE_ERRORS = {
    "z missing": (["z=gone.npy"], "z=gone.npy: no such file"),
    "z shape": (["z={tmp}/z.npy"], "expected shape (N, 100), not (4, 3)"),
    "rows": (["plus=[0]", "minus=[1]", "base=[64]"], "base=[64]: no such row. Use 0 to 63"),
    "rows missing": (["plus=[0]"], "minus=null: contains no rows. Set plus, minus, base together"),
    "row text": (["plus=[a]"], "plus.0=a: should be a valid integer"),
    "z text": (["z={tmp}/text.npy"], "text.npy: not a NumPy file"),
    "z archive": (["z={tmp}/archive.npz"], "archive.npz: not an array of numbers"),
    "z infinite": (["z={tmp}/infinite.npy"], "infinite.npy: contains numbers that are not finite"),
    "z cut": (["z={tmp}/cut.npy"], "cut.npy: not a NumPy file"),
}


@pytest.mark.parametrize("case", SAMPLE_ERRORS)
def test_wrong_option_of_sample_is_one_error_line(run, tmp_path, case):
    np.save(tmp_path / "z.npy", np.zeros((4, 3), np.float32))
    np.savez(tmp_path / "archive.npz", np.zeros((4, 100)))
    np.save(tmp_path / "infinite.npy", np.full((4, 100), np.inf))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "infinite.npy").read_bytes()[:200])
    (tmp_path / "text.npy").write_text("no array")
    arguments, message = SAMPLE_ERRORS[case]
    arguments = [f"output={tmp_path / 'out'}", *(a.format(tmp=tmp_path) for a in arguments)]
    assert_one_error(run("sample.py", *arguments, fails=True), message)
    assert not (tmp_path / "out").exists()


ERRORS = {
    "ckpt missing": (["ckpt=gone.ckpt"], "ckpt=gone.ckpt: no such file"),
    "ckpt foreign": (
        ["ckpt=inpaint.py"],
        "truncated, or not a checkpoint of a DCGAN, latent encoder or one-pass network",
    ),
    "other size": (["data=faces", "data.image_size=32"], "Use data.image_size=64 data.channels=3"),
    "other channels": (["data=faces", "data.channels=1"], "Use data.image_size=64 data.channels=3"),
    "no images": (["images=nowhere/*.png"], "images=nowhere/*.png: no image found"),
    "image unreadable": (["images={tmp}/broken.png"], "broken.png: cannot be read as an image"),
    "a pipe": (["images={tmp}/pipe"], "images={tmp}/pipe: {tmp}/pipe is not a regular file"),
    "a device": (["images=/dev/zero"], "images=/dev/zero: /dev/zero is not a regular file"),
    "mask a pipe": (["mask=file", "mask.path={tmp}/pipe"], "{tmp}/pipe is not a regular file"),
    "mask missing": (["mask=file", "mask.path=gone.png"], "mask.path=gone.png: no image found"),
    "mask all hole": (
        ["ckpt=faces64", "mask=file", "mask.path={tmp}/black.png"],
        "the mask has no known pixel",
    ),
    "mask no hole": (
        ["ckpt=faces64", "mask=file", "mask.path={tmp}/white.png"],
        "the mask has no hole",
    ),
    "mask unreadable": (["mask=file", "mask.path={tmp}/broken.png"], "cannot be read as an image"),
    "output": (["output={tmp}/broken.png/run"], "cannot be written"),
    "unknown split": (["split=dev"], "split=dev: should be 'train', 'val' or 'test'"),
    "method and ema": (["method=mean", "ema=false"], "ema=false: applies to method=search only"),
    "method and measure": (
        ["method=mean", "mask=lowres"],
        "measure=lowres: dcgan_inpaint.inpainting.baselines.mean needs known",
    ),
    "shard": (["shard=4/3"], "shard=4/3: use 1/16 to 16/16"),
    "method option": (["method=tv", "method.iterations=0"], "method.iterations=0"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_wrong_option_of_inpaint_is_one_error_line(run, tmp_path, case):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken.png").write_text("not an image")
    Image.new("L", (20, 20), 0).save(tmp_path / "black.png")
    Image.new("L", (20, 20), 255).save(tmp_path / "white.png")
    arguments, message = ERRORS[case]
    arguments = [f"output={tmp_path / 'out'}", *(a.format(tmp=tmp_path) for a in arguments)]
    assert_one_error(run("inpaint.py", *arguments, fails=True), message.format(tmp=tmp_path))
    assert not (tmp_path / "out").exists()


TRAIN_ERRORS = {
    "size": (["data.image_size=48"], "image_size=48"),
    "root missing": (["data=folder", "data.root=nowhere"], "data.root=nowhere: not a directory"),
    "celeba missing": (["data=celeba", "data.root=nowhere"], "data.root=nowhere: CelebA not found"),
    "empty folder": (["data=folder", "data.root={tmp}"], "no images in the train split"),
    "batch": (["data.train_size=8", "preview=0"], "Use batch_size=8 or less"),
    "resume": (["resume=gone.ckpt"], "resume=gone.ckpt: no such file"),
    "resume text": (["resume=train.py"], "resume=train.py: truncated or not a PyTorch"),
    "resume weights": (["resume={tmp}/weights.ckpt"], "it has no epoch"),
    "resume kind": (
        ["resume={tmp}/kind.ckpt"],
        "kind.ckpt: holds a context encoder, but model= selects a DCGAN",
    ),
    "resume old": (["resume={tmp}/old.ckpt"], ": written by an earlier version"),
    "device numbers": (["trainer.devices=[0]"], "trainer.devices=[0]: device numbers are those of"),
    "device of a CPU": (
        ["trainer=cpu", "trainer.devices=[0,1]"],
        "trainer.accelerator=cpu trainer.devices=[0, 1]: device numbers are those of GPUs",
    ),
    "devices": (["trainer.devices=2"], "trainer.devices=2: several devices require trainer=ddp"),
    "multirun": (
        ["trainer=ddp_cpu", "hydra.sweep.dir={tmp}/sweep", "-m"],
        "trainer.devices=2: 2 processes are not supported with -m",
    ),
    "not there": (["trainer.accelerator=tpu"], "trainer.accelerator=tpu trainer.devices=1: "),
    "shares": (["trainer=ddp_cpu", "batch_size=40"], "Use batch_size=32 or less"),
    "no share": (
        ["trainer=ddp_cpu", "trainer.devices=3", "data.train_size=2"],
        "too few images (2 of train, 4 of val, 1000 of test). Use trainer.devices=2 batch_size=1",
    ),
    "no devices": (["trainer.devices=0"], "trainer.devices=0: should be 1 or more"),
    "accelerator": (["trainer.accelerator=null"], "trainer.accelerator=null: should be 'auto'"),
    "precision bf16": (["trainer.precision=bf16-true"], "trainer.precision=bf16-true: should be"),
    "many images": (["data.train_size=1e12"], "data.train_size=1000000000000.0: should be"),
    "many steps": (["model.g_steps=1000000000000"], "model.g_steps=1000000000000: should be"),
    "no test images": (["data.test_size=0"], "data.test_size=0: should be greater"),
    "trainer": (["+trainer.speed=1"], "trainer.speed=1: unknown option"),
    "one sample": (["sample_metrics=1"], "sample_metrics=1: use 2 or more, or 0 for none"),
    "prior": (["model.prior=cauchy"], "model.prior=cauchy: should be 'uniform'"),
}


@pytest.mark.parametrize("case", TRAIN_ERRORS)
def test_wrong_option_of_train_is_one_error_line(run, tmp_path, case):
    arguments, message = TRAIN_ERRORS[case]
    arguments = [a.format(tmp=tmp_path) for a in arguments]
    torch.save({"state_dict": {}}, tmp_path / "weights.ckpt")
    training_state = dict.fromkeys(TRAINING_STATE, {})
    torch.save(training_state | {"kind": "context encoder"}, tmp_path / "kind.ckpt")
    torch.save(training_state | {"kind": "DCGAN"}, tmp_path / "old.ckpt")
    data = [] if any(a.startswith("data=") for a in arguments) else TRAIN[3:5]
    small = [a for a in TRAIN if not a.startswith(("data.train", "data.val"))]
    output = [f"output={tmp_path / 'out'}"]
    assert_one_error(run("train.py", *small, *data, *output, *arguments, fails=True), message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("script", "override"),
    [("inpaint.py", "mask=centre"), ("inpaint.py", "lam=0.1"), ("train.py", "model.width=3")],
)
def test_error_names_the_unknown_option_or_choice(run, script, override):
    result = run(script, override, fails=True)
    assert "Traceback" not in result.stderr
    assert override.split("=")[0].split(".")[-1] in result.stderr


def test_debug_run_takes_every_step_once_and_decodes_few_images(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [a for a in TRAIN if not a.startswith(DEBUG)]
    result = run("train.py", *overrides, "debug=true", "name=first try", f"cache_dir={tmp_path}")
    (folder,) = (tmp_path / "runs" / "train").iterdir()
    assert folder.name.endswith("_first try")
    assert "trained 2 iterations" in result.stdout
    assert sorted(p.name for p in (folder / "samples").iterdir()) == ["0000001.png", "0000002.png"]
    assert [p.name for p in (folder / "completions").iterdir()] == ["0000002.png"]
    assert (folder / "last.ckpt").is_file()
    assert (folder / "validation" / "index.html").is_file()
    assert "train/d_loss=" in result.stdout + result.stderr
    assert "train/g_loss=" in result.stdout + result.stderr
    assert "comparing samples" in result.stderr
    decoded = [len(json.loads(path.read_bytes())) for path in tmp_path.glob("*/names.json")]
    assert decoded == [128] * 3  # of 20,000, 1,000 and 1,000


def test_directory_of_masks_gives_each_photo_its_own_hole(run, trained, photos, tmp_path):
    (tmp_path / "masks").mkdir()
    for name, box in (("a", (30, 20, 42, 31)), ("b", (4, 44, 12, 52))):
        with Image.open(next(photos.glob(f"{name}.*"))) as photo:
            mask = Image.new("L", photo.size, 255)
        mask.paste(0, box)
        mask.save(tmp_path / "masks" / f"{name}.png")
    run(
        "inpaint.py",
        *SMALL[1:],
        f"ckpt={trained / 'last.ckpt'}",
        f"images={photos}",
        "detector=null",
        "mask=file",
        f"mask.path={tmp_path / 'masks'}",
        "solver.iterations=2",
        "stages=none",
        f"output={tmp_path / 'out'}",
    )
    for number, path in enumerate(sorted(photos.glob("[ab].*"))):
        with (
            Image.open(path) as photo,
            Image.open(tmp_path / "out" / "photos" / f"{number:05d}_{path.stem}.png") as image,
            Image.open(tmp_path / "masks" / f"{path.stem}.png") as mask,
        ):
            changed = np.asarray(photo.convert("RGB")) != np.asarray(image.convert("RGB"))
            hole = np.asarray(mask) == 0
        assert not changed.any(2)[~hole].any()
        assert changed.any(2)[hole].mean() > 0.9


def test_pasting_back_leaves_pixels_outside_the_hole_unchanged(run, trained, photos, tmp_path):
    mask = Image.new("L", (80, 50), 255)
    mask.paste(0, (30, 20, 42, 31))
    mask.save(tmp_path / "mask.png")
    run(
        "inpaint.py",
        *SMALL[1:],
        f"ckpt={trained / 'last.ckpt'}",
        f"images={photos / 'a.jpg'}",
        "crop=[20,10,32,32]",
        "mask=file",
        f"mask.path={tmp_path / 'mask.png'}",
        "solver.iterations=2",
        "stages=none",
        f"output={tmp_path / 'out'}",
    )
    with (
        Image.open(photos / "a.jpg") as photo,
        Image.open(tmp_path / "out" / "photos" / "00000_a.png") as image,
    ):
        before, after = np.asarray(photo), np.asarray(image)
    hole = np.zeros((50, 80), bool)
    hole[20:31, 30:42] = True
    assert np.array_equal(before[~hole], after[~hole])
    assert (before[hole] != after[hole]).mean() > 0.9
    with Image.open(tmp_path / "out" / "completed" / "00000_a.png") as image:
        assert image.size == (16, 16)


PHOTO_ERRORS = {
    "hole": (
        ["crop=[0,0,20,20]", "mask=file", "mask.path={tmp}/mask.png"],
        "outside the crop",
    ),
    "box": (["crop=[0,0,60,60]"], "a.jpg: crop=[0,0,60,60]: the crop reaches outside"),
    "oblong": (["crop=[0,0,60,50]"], "crop=[0,0,60,50]: the crop is not square"),
    "detector": (["detector=gone.onnx"], "detector=gone.onnx: should be 'auto'"),
    "no photo": (["images=null", "crop=[0,0,9,9]"], "Set images="),
}


@pytest.mark.parametrize("case", PHOTO_ERRORS)
def test_wrong_crop_of_a_photo_is_one_error_line(run, trained, photos, tmp_path, case):
    mask = Image.new("L", (80, 50), 255)
    mask.paste(0, (30, 20, 42, 31))
    mask.save(tmp_path / "mask.png")
    arguments, message = PHOTO_ERRORS[case]
    images = [] if case == "no photo" else [f"images={photos / 'a.jpg'}"]
    arguments = [*images, *(a.format(tmp=tmp_path) for a in arguments)]
    result = run("inpaint.py", f"ckpt={trained / 'last.ckpt'}", *arguments, fails=True)
    assert_one_error(result, message)
