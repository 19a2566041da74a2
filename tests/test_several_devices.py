"""Training and completion in several processes, on the CPU."""

import csv
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_sets import noise, png, write_tar

from dcgan_inpaint.data.batches import EpochSampler, ImageDataset
from dcgan_inpaint.errors import format_count
from dcgan_inpaint.runs.trainer import share_batches

PROJECT = Path(__file__).parents[1]
SMALL = [
    *("data.image_size=16", "data.train_size=64", "data.val_size=8", "data.test_size=20"),
    "trainer.enable_progress_bar=false",
]
TRAIN = [
    *(*SMALL, "batch_size=8", "trainer.max_epochs=2", "trainer.log_every_n_steps=2"),
    *("model.df_dim=2", "sample_every=4", "preview=2", "validate=3", "sample_metrics=8"),
]
GAN = [*TRAIN, "model.gf_dim=2", "model.z_dim=5"]


def start(tmp_path, *arguments, **environment):
    """Start a script as a process in the given directory."""
    script, *overrides = map(str, arguments)
    variables = {"DCGAN_INPAINT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, PROJECT / script, *overrides],
        cwd=tmp_path,
        env=os.environ | variables | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    return out + err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def trained(folder):
    """The run directory and the output of a GAN trained by two processes, without output=."""
    log = finish(start(folder, "train.py", *GAN, "trainer=ddp_cpu"))
    (run,) = (folder / "runs" / "train").iterdir()
    return run, log


@pytest.mark.slow
def test_two_processes_train_one_gan(trained):
    """Each trains on half of the images; only the first evaluates, in the same run directory."""
    run, log = trained
    assert "2 processes: 16 images per iteration" in log
    assert log.count("trained 8 iterations") == 1  # 64 images, twice
    assert "3 validation images completed" in log
    assert (run / "validation" / "index.html").is_file()
    with (run / "logs" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["iteration"]) for row in rows if row["train/d_loss"]] == [2, 4, 6, 8]
    last = torch.load(run / "last.ckpt", weights_only=True)
    weights = load_file(run / "weights.safetensors")
    assert all(torch.equal(value, last["state_dict"][name]) for name, value in weights.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["model=latent_encoder", "model.code_dim=4", "gan={gan}"],
        ["model=context_encoder", "model.code_dim=4", "model.gf_dim=2"],
        ["model=one_pass", "model.layers=2", "model.perceptual=0.0", "gan={gan}"],
    ],
    ids=["latent encoder", "context encoder", "one-pass network of a GAN"],
)
def test_two_processes_train_the_other_models(trained, folder, overrides):
    gan = trained[0] / "weights.safetensors"
    own = [override.format(gan=gan) for override in overrides]
    run = folder / own[0].removeprefix("model=")
    log = finish(start(folder, "train.py", *TRAIN, *own, "trainer=ddp_cpu", f"output={run}"))
    assert "trained 8 iterations" in log
    assert all(value.isfinite().all() for value in load_file(run / "weights.safetensors").values())


@pytest.mark.slow
def test_two_processes_train_on_streamed_shards(folder):
    """Each reads half of the images, without a memory map of the training images."""
    for i in range(4):
        members = {f"{i}_{j:02d}.png": png(noise(16, 16, 3)) for j in range(20)}
        write_tar(folder / f"{i}.tar", members)
    run, own = folder / "streamed", [word for word in GAN if "data." not in word]
    overrides = [*own, "data=webdataset", f"data.urls={folder}/*.tar", "data.cache_limit=1e-5"]
    overrides += ["data.image_size=16", "trainer=ddp_cpu", f"output={run}"]
    log = finish(start(folder, "train.py", *overrides, f"cache_dir={folder / 'maps'}"))
    # 72 images: each process trains on 32 of its 36, which fill its batches
    assert "trained 8 iterations" in log
    maps = [(each / "images.bin").stat().st_size for each in (folder / "maps").glob("*/")]
    assert maps == [4 * 768] * 2  # for validation and tests
    assert all(value.isfinite().all() for value in load_file(run / "weights.safetensors").values())


def test_processes_split_the_order_of_an_epoch():
    """Together they read each image once."""
    images = ImageDataset(torch.zeros(11, 3, 4, 4).byte().numpy(), [f"{i}" for i in range(11)])
    alone = list(EpochSampler(images, seed=3))
    parts = [list(EpochSampler(images, 3, rank, 2)) for rank in range(2)]
    assert sorted(alone) == list(range(11))
    assert parts == [alone[0:10:2], alone[1:10:2]]
    assert all(len(part) == len(EpochSampler(images, 3, 0, 2)) == 5 for part in parts)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "val_size"), [(2, 1), (3, 3)])
def test_few_images_train_and_validate_in_several_processes(folder, processes, val_size):
    run = folder / f"few {processes}"
    overrides = ["data.train_size=33", f"data.val_size={val_size}", "batch_size=4", "validate=64"]
    overrides += ["trainer=ddp_cpu", f"trainer.devices={processes}", f"output={run}"]
    log = finish(start(folder, "train.py", *GAN, *overrides))
    assert f"trained {2 * (33 // processes // 4)} iterations" in log
    assert f"{format_count(val_size, 'validation image')} completed" in log


@pytest.mark.parametrize("shares", [2, 3])
@pytest.mark.parametrize("count", [1, 3, 33])
@pytest.mark.parametrize("batch_size", [2, 64])
def test_processes_complete_each_image_once_in_equal_shares(count, shares, batch_size):
    parts = [share_batches(count, batch_size, share, shares) for share in range(shares)]
    images = [[i for batch in part for i in batch] for part in parts]
    assert sorted(itertools.chain(*images)) == list(range(count))
    assert all(1 <= len(batch) <= batch_size for part in parts for batch in part)
    assert all(images) == (count >= shares)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_batches_are_those_of_one_process_if_there_are_enough():
    alone = share_batches(33, 4, 0, 1)
    parts = [share_batches(33, 4, share, 3) for share in range(3)]
    assert alone == [range(i, min(i + 4, 33)) for i in range(0, 33, 4)]
    assert sorted(itertools.chain(*parts), key=lambda batch: batch.start) == alone


COMPLETE = [
    *("trainer.enable_progress_bar=false", "limit=20", "batch_size=3", "candidates=2"),
    *("solver.iterations=3", "stages=none"),
]


def complete(folder, trained, output, *overrides):
    ckpt = f"ckpt={trained[0] / 'weights.safetensors'}"
    return start(folder, "inpaint.py", ckpt, *COMPLETE, f"output={output}", *overrides)


def results(output):
    """Return the tensors of each record, and the metrics without the run time."""
    tensors = {path.name: load_file(path) for path in (output / "records").glob("*.safetensors")}
    tables = []
    for table, key in (("metrics.csv", "name"), ("summary.csv", "metric")):
        with (output / table).open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row[key] != "seconds"]
        tables.append([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
    return tensors, tables


def assert_same_results(one, other):
    (tensors, tables), (other_tensors, other_tables) = results(one), results(other)
    assert len(tensors) == 20
    assert tensors.keys() == other_tensors.keys()
    for name, record in tensors.items():
        assert record.keys() == other_tensors[name].keys()
        assert all(torch.equal(value, other_tensors[name][key]) for key, value in record.items())
    assert tables == other_tables


@pytest.fixture(scope="module")
def alone(folder, trained):
    output = folder / "alone"
    finish(complete(folder, trained, output, "trainer=cpu"))
    return output


@pytest.mark.slow
def test_three_processes_complete_as_one_does(folder, trained, alone):
    output = folder / "three"
    log = finish(complete(folder, trained, output, "trainer=ddp_cpu", "trainer.devices=3"))
    assert log.count("20 images completed") == 1
    assert_same_results(alone, output)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("count", [1, 3, 33])
def test_fewer_batches_than_processes(folder, trained, count, processes):
    """The other options have their defaults, so all images fit in one batch of 64."""
    output = folder / f"{count} images in {processes}"
    command = [f"ckpt={trained[0] / 'weights.safetensors'}", "limit=null", "method=mean"]
    command += ["data=faces", *SMALL, f"data.test_size={count}", f"output={output}"]
    command += ["trainer=ddp_cpu", f"trainer.devices={processes}"]
    log = finish(start(folder, "inpaint.py", *command))
    assert log.count(f"{format_count(count, 'image')} completed") == 1
    assert len(list((output / "records").iterdir())) == count
    (output / "records" / "00000.safetensors").unlink()  # the other processes have no image left
    log = finish(start(folder, "inpaint.py", *command))
    assert log.count(f"{format_count(count, 'image')} completed") == 1


@pytest.mark.slow
def test_shards_of_several_processes_complete_each_image_once(folder, trained):
    output = folder / "shards of two processes"
    command = ["trainer=ddp_cpu", "batch_size=64"]
    for part in (1, 2):
        log = finish(complete(folder, trained, output, *command, f"shard={part}/2"))
        # The last shard writes the report.
        assert log.count("shard 1/2 completed" if part == 1 else "20 images completed") == 1
        assert len(list((output / "records").iterdir())) == 10 * part
    log = finish(complete(folder, trained, output, *command))
    assert "20 images completed" in log


@pytest.mark.slow
def test_shards_complete_as_one_process_does_after_a_kill(folder, trained, alone):
    """Three independent processes; one is killed, and the run is completed without shard=."""
    output = folder / "shards"
    shards = {
        part: complete(folder, trained, output, "trainer=cpu", f"shard={part}/3") for part in "123"
    }
    while shards["2"].poll() is None and not (output / "records" / "00003.safetensors").exists():
        time.sleep(0.005)
    shards["2"].send_signal(signal.SIGKILL)
    shards["2"].communicate()
    for part in "13":
        out = finish(shards[part])
        assert (
            f"shard {part}/3 completed. Run the command without shard= to write the report" in out
        )
    assert not (output / "summary.csv").exists()
    log = finish(complete(folder, trained, output, "trainer=cpu"))
    assert "20 images completed" in log
    assert_same_results(alone, output)
