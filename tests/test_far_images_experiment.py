"""experiments/far_images.py: the statistics of a checkpoint, and the table."""

import sys
from functools import partial

import far_images
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dcgan_inpaint.masks import masks
from dcgan_inpaint.models.checkpoint import load_model, save_weights
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.one_pass import OnePass
from dcgan_inpaint.photos.photos import PORTRAITS

FACES = {"source": "faces", "image_size": 16, "channels": 3, "seed": 0} | {
    f"{split}_size": 8 for split in ("train", "val", "test")
}


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["far_images.py", *map(str, arguments)])
    far_images.main()


@pytest.mark.parametrize("averaged", [False, True])
def test_measuring_changes_the_statistics_only(tmp_path, monkeypatch, capsys, averaged):
    gan = DCGAN(image_size=16, gf_dim=1, df_dim=1, z_dim=3)
    mask = partial(masks.center, scale=0.25)
    model = OnePass(gan, mask, image_size=16, code_dim=3, df_dim=2, known=1.0)
    model.data, path = FACES, tmp_path / "weights.safetensors"
    save_weights(model, path, averaged)
    before = load_file(path)
    call(monkeypatch, "--measure", path, f"cache_dir={tmp_path}")
    after = load_file(path)
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["face_scores"]
    mean, deviation = load_model(path).face_scores.tolist()
    assert f"mean {mean:.3f}, standard deviation {deviation:.3f}" in capsys.readouterr().out


def test_measuring_requires_a_one_pass_network(tmp_path, monkeypatch):
    model = DCGAN(image_size=16, gf_dim=1, df_dim=1, z_dim=3)
    model.data = FACES
    save_weights(model, tmp_path / "weights.safetensors")
    with pytest.raises(SystemExit, match="holds a DCGAN"):
        call(monkeypatch, "--measure", tmp_path / "weights.safetensors", f"cache_dir={tmp_path}")


def test_table_counts_the_warnings_for_each_directory(tmp_path, monkeypatch, capsys):
    for kind in ("flat", "people"):
        (tmp_path / kind).mkdir()
    Image.new("RGB", (96, 96), "green").save(tmp_path / "flat" / "a.png")
    Image.open(PORTRAITS / "portrait_07.webp").save(tmp_path / "people" / "b.png")
    directories = [tmp_path / "flat", tmp_path / "people"]
    call(monkeypatch, "ckpt=celeba64", "--photos", *directories)
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| flat | 1 | 1 | 1 (100%) | 1 (100%) |",
        "| people | 1 | 0 | 0 (0%) | 0 (0%) |",
    ]
