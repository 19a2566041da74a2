"""Tests of the export entry point."""

import sys

import pytest
import torch
from training import small_dcgan

from dcgan_inpaint.cli.export import main
from dcgan_inpaint.models.checkpoint import load_gan, save_weights


def export(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
    main()


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(small_dcgan(z_dim=4), path)
    return path


def test_exported_model_generates_the_same_images_up_to_half_precision(
    checkpoint, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "exported.safetensors"
    export(monkeypatch, checkpoint, out)
    assert capsys.readouterr().out == f"{out}: {out.stat().st_size:,} bytes\n"
    assert out.stat().st_size < checkpoint.stat().st_size
    original, exported = load_gan(checkpoint), load_gan(out)
    assert exported.ema_only
    z = original.latents(torch.arange(2))
    torch.testing.assert_close(exported(z), original(z), rtol=0, atol=1e-2)


def test_missing_checkpoint_ends_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"error: ckpt=.*missing\.safetensors: "):
        export(monkeypatch, tmp_path / "missing.safetensors", tmp_path / "out.safetensors")


def test_directory_as_output_ends_in_one_line(checkpoint, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="is a directory. Give the path of a file"):
        export(monkeypatch, checkpoint, tmp_path)
