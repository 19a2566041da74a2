"""The scripts as a user runs them, in small; every error is one line."""

import csv
import json
import os
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
from dcgan_inpaint.configs import compose_config
from dcgan_inpaint.images import make_grid
from dcgan_inpaint.models.checkpoint import load_gan, load_model
from dcgan_inpaint.models.latent_encoder import LatentEncoder
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
DEBUGS = ("trainer.log", "sample_every", "preview", "validate", "sample_metrics")  # sets these
ENCODER = [a for a in TRAIN if "z_dim" not in a] + ["model=context_encoder", "model.code_dim=5"]


def test_a_real_command_line(tmp_path):
    """A process of its own, from another folder."""
    command = [PROJECT / "inpaint.py", "ckpt=gone.ckpt", f"output={tmp_path / 'out'}"]
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    one_line(done, "ckpt=gone.ckpt: no such file")


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """A trained run folder."""
    folder = tmp_path_factory.mktemp("train")
    loggers = ["logger=wandb", "logger.wandb.offline=true"]
    run("train.py", *TRAIN, *loggers, "trainer.max_epochs=2", f"output={folder}")
    return folder


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_train_writes(trained):
    assert (trained / "config.yaml").is_file()
    last = torch.load(trained / "last.ckpt")
    assert "optimizer_states" in last
    weights = load_file(trained / "weights.safetensors")
    assert weights.keys() == last["state_dict"].keys()
    assert all(torch.equal(v, last["state_dict"][k]) for k, v in weights.items())
    assert sorted(p.name for p in (trained / "samples").iterdir()) == ["0000004.png", "0000008.png"]
    assert [p.name for p in sorted((trained / "completions").iterdir())] == [
        "0000004.png",
        "0000008.png",
    ]
    with Image.open(trained / "completions" / "0000008.png") as image:
        assert image.size == (2 * 18 + 2, 3 * 18 + 2)  # masked, completed, original
    rows = table(trained / "logs" / "version_0" / "metrics.csv")
    logged = [row for row in rows if row["train/d_loss"]]
    assert [float(row["iteration"]) for row in logged] == [2, 4, 6, 8]
    for name in ("d_loss_real", "d_loss_fake", "g_loss", "D(x)", "D(G(z))", "images_per_second"):
        assert all(float(row[f"train/{name}"]) > 0 for row in logged)
    assert len([row for row in rows if row["preview/psnr_hole"]]) == 2  # one an epoch
    (judged,) = [float(row["completion/psnr_hole"]) for row in rows if row["completion/psnr_hole"]]
    completed = table(trained / "validation" / "metrics.csv")
    assert len(completed) == 3
    (swd,) = [float(row["samples/swd_16"]) for row in rows if row["samples/swd_16"]]
    assert 0 < swd < 3000
    assert judged == pytest.approx(sum(float(row["psnr_hole"]) for row in completed) / 3)
    assert list((trained / "wandb").glob("offline-run-*/*.wandb"))


def test_a_run_names_its_own_folder(run, tmp_path, monkeypatch):
    """One of the same second gets a number."""
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


def test_resume_goes_on(run, trained, tmp_path):
    """Two epochs and one more, in the same folder and with the settings that stand there, give the
    weights of three epochs at once."""
    resumed, whole = tmp_path / "resumed", tmp_path / "whole"
    shutil.copytree(trained, resumed)
    begun = (resumed / "logs" / "version_0" / "metrics.csv").read_text()
    run("train.py", "trainer.max_epochs=3", f"resume={resumed / 'last.ckpt'}")
    assert (resumed / "logs" / "version_0" / "metrics.csv").read_text() == begun
    logged = [
        row for row in table(resumed / "logs" / "version_1" / "metrics.csv") if row["train/d_loss"]
    ]
    assert [float(row["iteration"]) for row in logged] == [10, 12]
    run("train.py", *TRAIN, "trainer.max_epochs=3", "logger=tensorboard", f"output={whole}")
    assert list((whole / "tensorboard").glob("events.out.tfevents.*"))
    a, b = (torch.load(p / "last.ckpt") for p in (resumed, whole))
    assert a["iteration"] == b["iteration"] == 12
    for name, value in b["state_dict"].items():
        assert torch.equal(a["state_dict"][name], value), name


def state(folder):
    """Of each file below a folder its size and when it was written."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def test_resume_from_a_checkpoint_with_another_shape_is_refused(run, trained, tmp_path):
    saved = torch.load(trained / "last.ckpt")
    name = next(iter(saved["state_dict"]))
    saved["state_dict"][name] = torch.zeros(1)
    torch.save(saved, tmp_path / "last.ckpt")
    shutil.copy(trained / "config.yaml", tmp_path)
    done = run("train.py", f"resume={tmp_path / 'last.ckpt'}", fails=True)
    one_line(done, f"{name} does not fit. Use the model= and data= that it was started with")


OTHERS = {
    "seed": (["seed=1"], "seed=0, not 1"),
    "batch_size": (["batch_size=8"], "batch_size=16, not 8"),
    "g_steps": (["model.g_steps=1"], "model.g_steps=2, not 1"),
    "lr": (["model.lr=0.1"], "model.lr=0.0002, not 0.1"),
    "default": (["model.gf_dim=64"], "model.gf_dim=2, not 64"),
    "flip": (["flip=false"], "flip=true, not false"),
    "data.seed": (["data.seed=1"], "data.seed=0, not 1"),
    "model": (["model=unet"], "model._target_=dcgan_inpaint.models.dcgan.DCGAN, not dcgan_inpaint"),
    "precision": (["trainer.precision=bf16-mixed"], "trainer.precision=32-true, not bf16-mixed"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_resume_with_another_value_is_refused(run, trained, case):
    arguments, message = OTHERS[case]
    before = state(trained)
    done = run("train.py", f"resume={trained / 'last.ckpt'}", *arguments, fails=True)
    one_line(done, f"last.ckpt was started with {message}")
    assert state(trained) == before


def test_a_checkpoint_alone_knows_its_model(run, trained, tmp_path):
    """Without the config.yaml beside it the settings have to be given again, and it knows them."""
    shutil.copy(trained / "last.ckpt", tmp_path)
    given = [*TRAIN, f"resume={tmp_path / 'last.ckpt'}", f"output={tmp_path / 'out'}"]
    for argument, message in (
        ("model.lr=0.1", "model.lr=0.0002, not 0.1"),
        ("data.seed=1", "data.seed=0, not 1"),
        ("seed=1", "mask_seed=0, not 1"),  # which follows it
        ("flip=false", "flip=true, not false"),
        ("+trainer.limit_train_batches=1", "trainer.limit_train_batches=null, not 1"),
    ):
        done = run("train.py", *given, argument, fails=True)
        one_line(done, f"last.ckpt was started with {message}")
    assert not (tmp_path / "out").exists()
    config = (trained / "config.yaml").read_text()  # and whatever one that is damaged says
    (tmp_path / "config.yaml").write_text(config.replace("flip: true", "flip: false"))
    done = run("train.py", f"resume={tmp_path / 'last.ckpt'}", fails=True)
    one_line(done, "last.ckpt was started with flip=true, not false")


TAKEN = {
    "train again": ("train.py", ["last.ckpt"], "holds a training"),
    "train over a completion": ("train.py", ["records/00000.safetensors"], "holds a completion"),
    "complete into a training": ("inpaint.py", ["weights.safetensors"], "holds a training"),
    "samples into a completion": ("sample.py", ["metrics.csv"], "holds a completion"),
    "complete into samples": ("inpaint.py", ["samples.png"], "holds samples"),
}


@pytest.mark.parametrize("case", TAKEN)
def test_a_folder_of_other_results_is_left_alone(run, tmp_path, case):
    script, files, message = TAKEN[case]
    for name in ["config.yaml", *files]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("of another run")
    before = state(tmp_path)
    one_line(run(script, f"output={tmp_path}", fails=True), f"{message}. Use another output")
    assert state(tmp_path) == before


def test_two_runs_at_once(run, tmp_path):
    """In two processes: the second is refused, and leaves the folder to the first."""
    held = "lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"
    command = [sys.executable, "-c", f"import sys, filelock; {held}", tmp_path / ".lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        done = run("sample.py", "count=1", f"output={tmp_path}", fails=True)
        other.communicate(b"\n")
    one_line(done, "another run is using it")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    run("sample.py", "count=1", f"output={tmp_path}")
    assert (tmp_path / "samples.png").is_file()


def test_splits_of_few(run, tmp_path):
    """One validation image is enough to watch and to judge by; more are not asked for."""
    few = [a for a in TRAIN if not a.startswith(("data.val", "preview", "validate", "sample_m"))]
    few += ["data.val_size=1", "preview=20", "validate=20", "trainer.max_epochs=1"]
    done = run("train.py", *few, "sample_metrics=0", f"output={tmp_path / 'run'}")
    assert "1 validation images completed: psnr_hole" in done.stdout
    done = run("train.py", *few, "data.test_size=1", f"output={tmp_path / 'no'}", fails=True)
    one_line(done, "too few images (64 of train, 1 of val, 1 of test). Use sample_metrics=0")
    assert not (tmp_path / "no").exists()


@pytest.fixture
def few(tmp_path):
    """110 images of one's own, and 20, in a format whose bytes are the same everywhere."""
    generator = np.random.default_rng(0)
    for count in (110, 20):
        (tmp_path / f"{count}").mkdir()
        for i in range(count):
            levels = generator.integers(0, 256, (20, 24, 3), np.uint8)
            Image.fromarray(levels).save(tmp_path / f"{count}" / f"{i}.bmp")
    return tmp_path


def test_110_images_train_with_all_defaults(run, few, tmp_path):
    """All but the sizes, which only make it faster: one batch an epoch."""
    sizes = ["data.image_size=16", "model.gf_dim=1", "model.df_dim=1", "trainer.max_epochs=2"]
    folder = [f"data.root={few / '110'}", f"output={tmp_path / 'run'}"]
    done = run("train.py", "data=folder", *folder, *sizes, "trainer.accelerator=cpu")
    assert "7 validation images completed: psnr_hole" in done.stdout
    assert "swd_16 " in done.stdout
    assert "trained 2 iterations" in done.stdout
    assert (tmp_path / "run" / "completions" / "0000002.png").is_file()


def test_20_images_say_what_to_lower(run, few, tmp_path):
    """And train with that."""
    words = ["data=folder", f"data.root={few / '20'}", "data.image_size=16", "model.gf_dim=1"]
    words += [*SMALL[1:], "model.df_dim=1", "trainer.max_epochs=1", f"output={tmp_path / 'run'}"]
    done = run("train.py", *words, fails=True)
    one_line(done, "error: data: too few images (")
    assert not (tmp_path / "run").exists()
    lower = done.stderr.rpartition(". Use ")[2].replace(" or less", "").replace(",", "").split()
    assert {word.partition("=")[0] for word in lower} > {"batch_size"}
    assert "trained 1 iterations" in run("train.py", *words, *lower).stdout


def test_inpaint_a_split(run, trained, tmp_path):
    done = run(
        "inpaint.py",
        f"ckpt={trained / 'last.ckpt'}",  # and so its data
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
    assert "5 images completed: psnr_hole" in done.stdout
    assert "searching z" in done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "completed.png")
    for name in ("before", "masked", "generated", "completed"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size[1] == 16 + 4
    assert len(list((tmp_path / "completed").glob("*_face_*.png"))) == 5
    rows = table(tmp_path / "metrics.csv")
    assert [row["name"] for row in rows] == [f"0000{i}_face_{2_000_000_000 + i}" for i in range(5)]
    for row in rows:
        hole, whole, raw = (float(row[n]) for n in ("psnr_hole", "psnr_whole", "raw_psnr_whole"))
        assert raw < whole < 60
        assert hole < whole
        assert float(row["raw_psnr_hole"]) == pytest.approx(hole)  # pasted: the hole is G(z)
        assert float(row["seconds"]) > 0
    summary = {row["metric"]: row for row in table(tmp_path / "summary.csv")}
    mean = sum(float(row["psnr_hole"]) for row in rows) / 5
    assert float(summary["psnr_hole"]["mean"]) == pytest.approx(mean)
    assert float(summary["psnr_hole"]["low"]) < mean < float(summary["psnr_hole"]["high"])
    assert summary["psnr_hole"]["images"] == "5"
    trace = table(tmp_path / "trace.csv")
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
def test_inpaint_without_a_search(run, trained, tmp_path, method):
    """Sizes and data are those of the checkpoint; blending, masks and metrics are as ever."""
    small = [*SMALL[1:], f"ckpt={trained / 'last.ckpt'}", "mask=random80", "limit=3"]
    done = run("inpaint.py", *small, f"method={method}", "batch_size=2", f"output={tmp_path}")
    assert "3 images completed: psnr_hole" in done.stdout
    rows = table(tmp_path / "metrics.csv")
    assert all(float(row["psnr_hole"]) > 5 for row in rows)
    assert all(row["context"] == "nan" for row in rows)  # there was no objective
    assert not (tmp_path / "trace.csv").exists()
    assert not (tmp_path / "z.npy").exists()


def test_nearest_is_found_for_photos(run, trained, photos, tmp_path):
    """The training images are those of the checkpoint."""
    small = [*SMALL[1:], f"ckpt={trained / 'last.ckpt'}", f"images={photos}"]
    run("inpaint.py", *small, "method=nearest", f"output={tmp_path / 'out'}")
    assert len(list((tmp_path / "out" / "photos").iterdir())) == 2


@pytest.fixture(scope="module")
def encoder(run, tmp_path_factory):
    """A trained run folder of a context encoder."""
    folder = tmp_path_factory.mktemp("encoder")
    run("train.py", *ENCODER, "trainer.max_epochs=2", f"output={folder}")
    return folder


def test_train_a_context_encoder(encoder):
    assert not (encoder / "samples").exists()  # it has no z to sample from
    names = [p.name for p in sorted((encoder / "completions").iterdir())]
    assert names == ["0000004.png", "0000008.png"]
    rows = table(encoder / "logs" / "version_0" / "metrics.csv")
    logged = [row for row in rows if row["train/l2"]]
    assert [float(row["iteration"]) for row in logged] == [2, 4, 6, 8]
    for name in ("l2", "g_loss", "d_loss", "images_per_second"):
        assert all(float(row[f"train/{name}"]) > 0 for row in logged)
    assert len([row for row in rows if row["preview/psnr_hole"]]) == 2
    assert len([row for row in rows if row["completion/psnr_hole"]]) == 1
    assert len(table(encoder / "validation" / "metrics.csv")) == 3


def test_a_context_encoder_resumes(run, encoder, tmp_path):
    last, longer = f"resume={encoder / 'last.ckpt'}", "trainer.max_epochs=3"
    run("train.py", longer, last, f"output={tmp_path / 'resumed'}")
    run("train.py", *ENCODER, longer, f"output={tmp_path / 'whole'}")
    a, b = (torch.load(tmp_path / n / "last.ckpt") for n in ("resumed", "whole"))
    assert a["iteration"] == b["iteration"] == 12
    for name, value in b["state_dict"].items():
        assert torch.equal(a["state_dict"][name], value), name


def test_inpaint_with_a_context_encoder(run, encoder, tmp_path):
    """The checkpoint says what it is, its sizes and its data; the average fills, or the raw net."""
    small = [*SMALL[1:], f"ckpt={encoder / 'last.ckpt'}", "mask=half", "limit=3"]
    network = [*small, "method=network"]
    done = run("inpaint.py", *network, "blend=poisson", f"output={tmp_path / 'a'}")
    assert "3 images completed: psnr_hole" in done.stdout
    run("inpaint.py", *network, "ema=false", f"output={tmp_path / 'b'}")
    ema, raw = ((tmp_path / n / "generated.png").read_bytes() for n in "ab")
    assert ema != raw
    run("inpaint.py", *small, "method=mean", f"output={tmp_path / 'c'}")
    assert (tmp_path / "c" / "metrics.csv").is_file()


ENCODER_ERRORS = {
    "search": ([], "holds a context encoder, which has no z to search. Use method=network"),
    "solver": (["method=network", "solver.lr=1"], "Could not override 'solver.lr'"),
    "measure": (["method=network", "mask=grayscale"], "network needs known pixels"),
    "size": (["data=faces", "data.image_size=32"], "Use data.image_size=16 data.channels=3"),
}


@pytest.mark.parametrize("case", ENCODER_ERRORS)
def test_errors_with_a_context_encoder_are_one_line(run, encoder, case):
    arguments, message = ENCODER_ERRORS[case]
    one_line(run("inpaint.py", f"ckpt={encoder / 'last.ckpt'}", *arguments, fails=True), message)


def test_a_context_encoder_has_no_samples(run, encoder):
    done = run("sample.py", f"ckpt={encoder / 'last.ckpt'}", fails=True)
    one_line(done, "last.ckpt: holds a context encoder. Use a checkpoint of a DCGAN")


def test_a_sampler_is_calibrated_whatever_else_is_watched(run, trained, tmp_path):
    sampler = [a for a in TRAIN if not a.startswith(("model", "sample", "validate", "preview"))]
    sampler += ["model=latent_encoder", "model.df_dim=2", "model.code_dim=8", "model.noise_dim=3"]
    sampler += ["validate=0", "preview=0", "trainer.max_epochs=1"]
    run("train.py", *sampler, f"gan={trained / 'last.ckpt'}", f"output={tmp_path}")
    model = load_model(tmp_path / "weights.safetensors", LatentEncoder)
    assert (model.reward != 1).any()
    assert (model.error_calibration[:, 1] > 0).any()
    rows = table(tmp_path / "logs" / "version_0" / "metrics.csv")
    assert any(name.startswith("calibration/spread_ratio") for name in rows[0])


def test_an_encoder_starts_the_search(run, trained, tmp_path):
    ckpt = f"ckpt={trained / 'last.ckpt'}"
    encoder = [a for a in TRAIN if not a.startswith(("model", "sample"))]
    encoder += [
        "model=latent_encoder",
        "model.df_dim=2",
        "model.code_dim=8",
        "trainer.max_epochs=1",
    ]
    done = run(
        "train.py", *encoder, f"gan={trained / 'last.ckpt'}", f"output={tmp_path / 'encoder'}"
    )
    assert "3 validation images completed: psnr_hole" in done.stdout
    rows = table(tmp_path / "encoder" / "logs" / "version_0" / "metrics.csv")
    assert [float(r["iteration"]) for r in rows if r["train/whole"]] == [2, 4]
    assert (tmp_path / "encoder" / "completions" / "0000004.png").is_file()
    both = f"ckpt={tmp_path / 'encoder' / 'weights.safetensors'}"
    default = [*SMALL[1:], "limit=2", "stages=none"]
    small = [*default, "solver.iterations=0"]
    z = {}
    chosen = {"null": (2, "mean"), "encoder": (2, "mean"), "random": (1, "best")}
    for start in chosen:
        output = tmp_path / f"from_{start}"
        run("inpaint.py", both, *small, f"start={start}", f"output={output}")
        assert len(table(output / "trace.csv")) == 2  # the end of each: no search
        z[start] = np.load(output / "z.npy")
        cfg = OmegaConf.load(output / "config.yaml")
        assert (cfg.candidates, cfg.select) == chosen[start]
    # that is what an encoder makes the default, unless there are other starts
    for start, count, evaluations in (("encoder", 2, 1), ("encoder", 3, 101), ("random", 1, 101)):
        output = tmp_path / f"{start}{count}"
        more = [f"start={start}", f"candidates={count}", f"output={output}"]
        run("inpaint.py", both, *default, *more)
        assert len(table(output / "trace.csv")) == 2 * evaluations
    run("inpaint.py", ckpt, *small, f"output={tmp_path / 'gan'}")
    assert np.array_equal(z["null"], z["encoder"])
    assert np.array_equal(z["random"], np.load(tmp_path / "gan" / "z.npy"))
    assert not np.array_equal(z["random"], z["encoder"])
    # what is known of these is no pixels, which the encoder needs
    run("inpaint.py", both, *small, "mask=grayscale", f"output={tmp_path / 'grey'}")
    assert np.array_equal(z["random"], np.load(tmp_path / "grey" / "z.npy"))
    run("sample.py", both, "count=2", f"output={tmp_path / 'samples'}")
    errors = {
        (
            ckpt,
            "start=encoder",
        ): "last.ckpt holds no encoder. Train one: python train.py model=latent_encoder gan=",
        (both, "start=gone.ckpt"): "start=gone.ckpt: should be 'encoder' or 'random'",
        (both, "start=encoder", "mask=grayscale"): "start=encoder: requires known pixels",
    }
    for arguments, message in errors.items():
        output = f"output={tmp_path / 'no'}"
        one_line(run("inpaint.py", *arguments, output, fails=True), message)


def test_an_evaluation_is_gone_on_with(run, trained, tmp_path):
    """In two sittings, of which the second finds damage, it ends as if never stopped."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"

    def command(output, limit):
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

    command(whole, 10)
    command(halves, 4)
    first = {p: p.stat().st_mtime_ns for p in (halves / "completed").iterdir()}
    with (halves / "metrics.csv").open("a") as file:
        file.write("00004_face_2000000004,17.0,12")
    (halves / "trace.csv").unlink()
    (halves / "z.npy").write_bytes(b"cut")
    config = (halves / "config.yaml").read_text()
    (halves / "config.yaml").write_text(config[: len(config) // 2])
    done = command(halves, 10)
    assert "10 images completed" in done.stdout
    assert all(p.stat().st_mtime_ns == then for p, then in first.items())  # not done again
    for name in ("z.npy", "z_frames.npy"):
        assert np.array_equal(np.load(halves / name), np.load(whole / name)), name
    assert (halves / "trace.csv").read_text() == (whole / "trace.csv").read_text()
    for a, b in zip(table(halves / "metrics.csv"), table(whole / "metrics.csv"), strict=True):
        assert a | {"seconds": ""} == b | {"seconds": ""}
    images = ("before", "masked", "generated", "completed", "rows", "mean", "frames/00001")
    for name in images:
        assert (halves / f"{name}.png").read_bytes() == (whole / f"{name}.png").read_bytes(), name
    assert "10 images completed" in command(halves, 10).stdout  # nothing is left to do


def test_another_command_does_not_go_on(run, trained, tmp_path):
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
    done = run("inpaint.py", *small, "mask.scale=0.3", f"output={tmp_path / 'a'}", fails=True)
    one_line(done, "was started with mask.scale=0.25, not 0.3. Use the same settings")
    bf16 = "trainer.precision=bf16-mixed"
    done = run("inpaint.py", *small, bf16, f"output={tmp_path / 'a'}", fails=True)
    one_line(done, "was started with trainer.precision=32-true, not bf16-mixed")
    weights = load_file(tmp_path / "weights.safetensors")
    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        about = json.loads(file.metadata()["dcgan_inpaint"])
    del about["checksum"]
    header = {"dcgan_inpaint": json.dumps(about)}
    next(iter(weights.values())).add_(1)
    save_file(weights, tmp_path / "weights.safetensors", header)
    done = run("inpaint.py", *small, f"output={tmp_path / 'a'}", fails=True)
    one_line(done, "was started with other contents of ckpt=")
    assert (tmp_path / "a" / "metrics.csv").read_text() == before


def test_another_mask_image_does_not_go_on(run, trained, tmp_path):
    words = [*SMALL[1:], f"ckpt={trained / 'weights.safetensors'}", "method=mean", "limit=1"]
    words += ["mask=file", f"mask.path={tmp_path / 'mask.png'}", f"output={tmp_path / 'a'}"]
    mask = Image.new("L", (16, 16), 255)
    for column in (2, 9):
        mask.paste(0, (column, 2, column + 4, 6))
        mask.save(tmp_path / "mask.png")
        done = run("inpaint.py", *words, fails=column == 9)
    one_line(done, f" or mask.path={tmp_path / 'mask.png'}. Use another output")


def test_inpaint_logs_what_a_sweep_asks_for(run, trained, tmp_path):
    loggers = ["logger=wandb", "logger.wandb.offline=true"]
    small = [
        *SMALL[1:],
        f"ckpt={trained / 'last.ckpt'}",
        "stages=none",
        "solver.iterations=1",
        "limit=3",
    ]
    run("inpaint.py", *small, *loggers, f"output={tmp_path}")
    (logged,) = table(tmp_path / "logs" / "version_0" / "metrics.csv")
    summary = {row["metric"]: row["mean"] for row in table(tmp_path / "summary.csv")}
    assert float(logged["completion/psnr_hole"]) == pytest.approx(float(summary["psnr_hole"]))
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


@pytest.fixture
def photos(tmp_path):
    """Images that are neither square nor small, grey and colour, and a mask of its own size."""
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
def test_inpaint_own_images(run, trained, photos, tmp_path, form):
    images, count = {
        "folder": (photos, 2),
        "glob": (photos / "*.jpg", 1),
        "file": (photos / "b.png", 1),
        "list": (f"[{photos / 'b.png'},{photos / 'a.jpg'}]", 2),
    }[form]
    output = tmp_path / "out"
    done = run(
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
    assert "searching z" not in done.stderr  # trainer.enable_progress_bar=false
    one = "00000_a.png" if form == "glob" else "00000_b.png"
    where = output / "photos" / ("" if count > 1 else one)
    assert done.stdout.splitlines()[-2:] == [f"{count} images completed", str(where)]
    assert {row["metric"] for row in table(output / "summary.csv")} == {
        *("context", "prior", "total", "seconds")  # nobody knows what was in the holes
    }
    names = sorted(p.name for p in (output / "completed").iterdir())
    assert len(names) == count
    assert names[0] == ("00000_a.png" if form in ("folder", "glob") else "00000_b.png")
    with Image.open(output / "completed" / names[0]) as image:
        assert image.size == (16, 16)


def test_a_sweeper_is_told_how_good_it_was(trained, photos, tmp_path, monkeypatch):
    """What main gives, which Hydra hands to a sweeper, is the mean of summary.csv."""
    monkeypatch.chdir(tmp_path)
    cache = f"cache_dir={tmp_path}"
    short = [
        *SMALL[1:],
        cache,
        f"ckpt={trained / 'last.ckpt'}",
        "solver.iterations=1",
        "stages=none",
    ]
    found = run_config("inpaint", compose_config("inpaint", [*short, "limit=3", "output=a"]))
    (row,) = [row for row in table(tmp_path / "a" / "summary.csv") if row["metric"] == "psnr_hole"]
    assert found == float(row["mean"])
    hole = ["mask=file", f"mask.path={tmp_path / 'hole.png'}", f"images={photos / 'b.png'}"]
    assert run_config("inpaint", compose_config("inpaint", [*short, *hole, "output=b"])) is None
    found = run_config(
        "train", compose_config("train", [*TRAIN, cache, "sample_metrics=0", "output=c"])
    )
    rows = table(tmp_path / "c" / "validation" / "summary.csv")
    assert [float(row["mean"]) for row in rows if row["metric"] == "psnr_hole"] == [found]


def test_photos_are_completed_by_shipped_models(run, photos, tmp_path):
    """celeba128 without ckpt=; a photo of noise has no face, so its center is taken."""
    words = ["solver.iterations=0", "stages=none", "trainer.accelerator=cpu"]
    sampler = ["ckpt=celeba64", "candidates=2"]  # whose several answers are draws
    for ckpt, select, more in (("celeba128", "best", []), ("celeba64", "sample", sampler)):
        output = tmp_path / ckpt
        run("inpaint.py", *words, *more, f"images={photos / 'b.png'}", f"output={output}")
        kept = OmegaConf.load(output / "config.yaml")
        assert (kept.ckpt, kept.select) == (ckpt, select)
        assert (output / "photos" / "00000_b.png").is_file()


def test_shipped_checkpoint_completes_faces(run, tmp_path):
    run(
        "inpaint.py",
        "trainer.accelerator=cpu",
        "limit=2",
        "solver.iterations=2",
        "stages=none",
        f"output={tmp_path}",
    )
    assert len(list((tmp_path / "completed").iterdir())) == 2


def test_sample(run, trained, tmp_path):
    """From the prior, and from the z of completed images."""
    ckpt = f"ckpt={trained / 'last.ckpt'}"
    arithmetic = ["plus=[0,1]", "minus=[2]", "base=[3]"]
    elsewhere = f"hydra.run.dir={tmp_path / 'hydra'}"  # where nothing of ours goes
    words = ["count=7", "steps=5", *arithmetic, elsewhere, f"output={tmp_path / 'a'}"]
    done = run("sample.py", ckpt, *words)
    assert done.stdout.splitlines() == [str(tmp_path / "a" / "arithmetic.png")]
    assert not list((tmp_path / "hydra").iterdir())
    with Image.open(tmp_path / "a" / "samples.png") as image:
        assert image.size == (7 * 18 + 2, 18 + 2)
    with Image.open(tmp_path / "a" / "interpolation.png") as image:
        assert image.size == (5 * 18 + 2, 3 * 18 + 2)  # rows 0-1, 2-3, 4-5
    with Image.open(tmp_path / "a" / "interpolation.gif") as gif:
        assert gif.n_frames == 8  # there and back
    with Image.open(tmp_path / "a" / "arithmetic.png") as image:
        assert image.size == (8 * 18 + 2, 18 + 2)
    dcgan = load_gan(trained / "last.ckpt")
    z = dcgan.latents(torch.arange(4), seed=9)
    np.save(tmp_path / "z.npy", z.numpy())
    run("sample.py", ckpt, f"z={tmp_path / 'z.npy'}", f"output={tmp_path / 'b'}")
    with Image.open(tmp_path / "b" / "samples.png") as image, torch.no_grad():
        assert np.array_equal(np.asarray(image), np.asarray(make_grid(dcgan(z))))


SAMPLE_ERRORS = {
    "count": (["count=0"], "count=0"),
    "z missing": (["z=gone.npy"], "z=gone.npy: no such file"),
    "z shape": (["z={tmp}/z.npy"], "expected shape (N, 100), not (4, 3)"),
    "rows": (["plus=[0]", "minus=[1]", "base=[64]"], "base=[64]: no such row. Use 0 to 63"),
    "rows missing": (["plus=[0]"], "minus=null: no rows. Set plus, minus, base together"),
    "row text": (["plus=[a]"], "plus.0=a: should be a valid integer"),
    "z text": (["z={tmp}/text.npy"], "text.npy: not a NumPy file"),
    "z archive": (["z={tmp}/archive.npz"], "archive.npz: not an array of numbers"),
    "z infinite": (["z={tmp}/infinite.npy"], "infinite.npy: contains numbers that are not finite"),
    "z cut": (["z={tmp}/cut.npy"], "cut.npy: not a NumPy file"),
}


@pytest.mark.parametrize("case", SAMPLE_ERRORS)
def test_sample_errors_are_one_line(run, tmp_path, case):
    np.save(tmp_path / "z.npy", np.zeros((4, 3), np.float32))
    np.savez(tmp_path / "archive.npz", np.zeros((4, 100)))
    np.save(tmp_path / "infinite.npy", np.full((4, 100), np.inf))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "infinite.npy").read_bytes()[:200])
    (tmp_path / "text.npy").write_text("no array")
    arguments, message = SAMPLE_ERRORS[case]
    arguments = [f"output={tmp_path / 'out'}", *(a.format(tmp=tmp_path) for a in arguments)]
    one_line(run("sample.py", *arguments, fails=True), message)
    assert not (tmp_path / "out").exists()


ERRORS = {
    "ckpt missing": (["ckpt=gone.ckpt"], "ckpt=gone.ckpt: no such file"),
    "ckpt foreign": (
        ["ckpt=inpaint.py"],
        "truncated, or not a checkpoint of a DCGAN, latent encoder, context encoder or U-Net",
    ),
    "other size": (["data=faces", "data.image_size=32"], "Use data.image_size=64 data.channels=3"),
    "other channels": (["data=faces", "data.channels=1"], "Use data.image_size=64 data.channels=3"),
    "lam negative": (["objective.lam=-1"], "objective.lam=-1"),
    "no images": (["images=nowhere/*.png"], "images=nowhere/*.png: no image found"),
    "image unreadable": (["images={tmp}/broken.png"], "broken.png: cannot be read as an image"),
    "a pipe": (["images={tmp}/pipe"], "images={tmp}/pipe: {tmp}/pipe is not a regular file"),
    "a device": (["images=/dev/zero"], "images=/dev/zero: /dev/zero is not a regular file"),
    "mask a pipe": (["mask=file", "mask.path={tmp}/pipe"], "{tmp}/pipe is not a regular file"),
    "mask missing": (["mask=file", "mask.path=gone.png"], "mask.path=gone.png: no image found"),
    "mask all hole": (["mask=file", "mask.path={tmp}/black.png"], "the mask has no known pixel"),
    "mask no hole": (["mask=file", "mask.path={tmp}/white.png"], "the mask has no hole"),
    "mask unreadable": (["mask=file", "mask.path={tmp}/broken.png"], "cannot be read as an image"),
    "output": (["output={tmp}/broken.png/run"], "cannot be written"),
    "unknown split": (["split=dev"], "split=dev: should be 'train', 'val' or 'test'"),
    "limit": (["limit=0"], "limit=0"),
    "method and solver": (["method=mean", "solver=hmc"], "Could not override 'solver'"),
    "method and lam": (["method=mean", "objective.lam=1"], "Could not override 'objective.lam'"),
    "method and paper": (["method=tv", "experiment=amos2016"], "Could not override 'objective'"),
    "method and ema": (["method=mean", "ema=false"], "Could not override 'ema'"),
    "method and candidates": (["method=mean", "candidates=2"], "Could not override 'candidates'"),
    "method and measure": (
        ["method=mean", "mask=lowres"],
        "measure=lowres: dcgan_inpaint.inpainting.baselines.mean needs known",
    ),
    "shard": (["shard=4/3"], "shard=4/3: use 1/16 to 16/16"),
    "method option": (["method=tv", "method.iterations=0"], "method.iterations=0"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_inpaint_errors_are_one_line(run, tmp_path, case):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken.png").write_text("not an image")
    Image.new("L", (20, 20), 0).save(tmp_path / "black.png")
    Image.new("L", (20, 20), 255).save(tmp_path / "white.png")
    arguments, message = ERRORS[case]
    arguments = [f"output={tmp_path / 'out'}", *(a.format(tmp=tmp_path) for a in arguments)]
    one_line(run("inpaint.py", *arguments, fails=True), message.format(tmp=tmp_path))
    assert not (tmp_path / "out").exists()


TRAIN_ERRORS = {
    "size": (["data.image_size=48"], "image_size=48"),
    "root missing": (["data=folder", "data.root=nowhere"], "data.root=nowhere: not a folder"),
    "celeba missing": (["data=celeba", "data.root=nowhere"], "data.root=nowhere: CelebA not found"),
    "empty folder": (["data=folder", "data.root={tmp}"], "no images in the train split"),
    "batch": (["data.train_size=8", "preview=0"], "Use batch_size=8 or less"),
    "resume": (["resume=gone.ckpt"], "resume=gone.ckpt: no such file"),
    "resume text": (["resume=train.py"], "resume=train.py: truncated or not a PyTorch"),
    "resume weights": (["resume={tmp}/weights.ckpt"], "it has no epoch"),
    "resume kind": (["resume={tmp}/kind.ckpt"], "holds a context encoder, model= is a DCGAN"),
    "resume old": (["resume={tmp}/old.ckpt"], "was written by an earlier version"),
    "devices": (["trainer.devices=2"], "trainer.devices=2: several devices require trainer=ddp"),
    "multirun": (
        ["trainer=ddp_cpu", "hydra.sweep.dir={tmp}/sweep", "-m"],
        "trainer.devices=2: 2 processes do not work with -m",
    ),
    "not there": (["trainer.accelerator=tpu"], "trainer.accelerator=tpu trainer.devices=1: "),
    "shares": (["trainer=ddp_cpu", "batch_size=40"], "Use batch_size=32 or less"),
    "no devices": (["trainer.devices=0"], "trainer.devices=0: use 1 or more"),
    "accelerator": (["trainer.accelerator=null"], "trainer.accelerator=null: should be 'auto'"),
    "precision": (["trainer.precision=8"], "trainer.precision=8: should be '32-true'"),
    "precision bf16": (["trainer.precision=bf16-true"], "trainer.precision=bf16-true: should be"),
    "precision 16": (["trainer.precision=16-true"], "trainer.precision=16-true: should be"),
    "precision 64": (["trainer.precision=64-true"], "trainer.precision=64-true: should be"),
    "many images": (["data.train_size=1e12"], "data.train_size=1000000000000.0: should be"),
    "many steps": (["model.g_steps=1000000000000"], "model.g_steps=1000000000000: should be"),
    "no test images": (["data.test_size=0"], "data.test_size=0: should be greater"),
    "epochs": (["trainer.max_epochs=-1"], "trainer.max_epochs=-1: should be greater"),
    "trainer": (["+trainer.speed=1"], "trainer.speed=1: unknown option"),
    "one sample": (["sample_metrics=1"], "sample_metrics=1: use 2 or more, or 0 for none"),
    "prior": (["model.prior=cauchy"], "model.prior=cauchy: should be 'uniform'"),
    "z_dim": (["model.z_dim=0"], "z_dim=0"),
}


@pytest.mark.parametrize("case", TRAIN_ERRORS)
def test_train_errors_are_one_line(run, tmp_path, case):
    arguments, message = TRAIN_ERRORS[case]
    arguments = [a.format(tmp=tmp_path) for a in arguments]
    torch.save({"state_dict": {}}, tmp_path / "weights.ckpt")
    whole = dict.fromkeys(TRAINING_STATE, {})
    torch.save(whole | {"kind": "context encoder"}, tmp_path / "kind.ckpt")
    torch.save(whole | {"kind": "DCGAN"}, tmp_path / "old.ckpt")
    data = [] if any(a.startswith("data=") for a in arguments) else TRAIN[3:5]
    small = [a for a in TRAIN if not a.startswith(("data.train", "data.val"))]
    output = [f"output={tmp_path / 'out'}"]
    one_line(run("train.py", *small, *data, *output, *arguments, fails=True), message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("script", "override"),
    [("inpaint.py", "mask=centre"), ("inpaint.py", "lam=0.1"), ("train.py", "model.width=3")],
)
def test_unknown_choices_name_themselves(run, script, override):
    done = run(script, override, fails=True)
    assert "Traceback" not in done.stderr
    assert override.split("=")[0].split(".")[-1] in done.stderr


def one_line(done, message):
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert message in errors[0]
    assert "Traceback" not in done.stderr


def test_a_debug_run_shows_how_far_it_is(run, tmp_path, monkeypatch):
    """debug=true: 20 iterations and all that follows them; the bars say what and how well."""
    monkeypatch.chdir(tmp_path)
    words = [w for w in TRAIN if "progress_bar" not in w and not w.startswith(DEBUGS)]
    done = run("train.py", *words, "debug=true", "name=first try", "data.train_size=640")
    (folder,) = (tmp_path / "runs" / "train").iterdir()
    assert folder.name.endswith("_first try")
    assert "trained 20 iterations" in done.stdout
    assert sorted(p.name for p in (folder / "samples").iterdir()) == ["0000010.png", "0000020.png"]
    assert "train/d_loss=" in done.stdout + done.stderr
    assert "train/g_loss=" in done.stdout + done.stderr
    assert "judging samples" in done.stderr


def test_each_photo_has_its_mask(run, trained, photos, tmp_path):
    """mask.path names a folder: the hole of each photo is where its own mask says."""
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


def test_inpaint_puts_photos_back(run, trained, photos, tmp_path):
    """At full size, nothing changed outside the hole of a mask of the photo's size."""
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
    "no photo": (["images=null", "crop=[0,0,9,9]"], "Give images="),
}


@pytest.mark.parametrize("case", PHOTO_ERRORS)
def test_photo_errors_are_one_line(run, trained, photos, tmp_path, case):
    mask = Image.new("L", (80, 50), 255)
    mask.paste(0, (30, 20, 42, 31))
    mask.save(tmp_path / "mask.png")
    arguments, message = PHOTO_ERRORS[case]
    images = [] if case == "no photo" else [f"images={photos / 'a.jpg'}"]
    arguments = [*images, *(a.format(tmp=tmp_path) for a in arguments)]
    done = run("inpaint.py", f"ckpt={trained / 'last.ckpt'}", *arguments, fails=True)
    one_line(done, message)
