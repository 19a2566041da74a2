"""What is kept of a completed batch (runs/records.py)."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from dcgan_inpaint.runs.records import SHOWN, write_candidates
from dcgan_inpaint.runs.writer import CompletionWriter, Networks


def test_candidates_beyond_the_grids_are_written_alone(tmp_path):
    """A batch of which the grids show nothing has no mean and no spread to show either."""
    done = SimpleNamespace(
        index=torch.arange(SHOWN, SHOWN + 2), candidates=torch.zeros(2, 3, 3, 16, 16)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of statistics over nothing
        write_candidates(tmp_path, ["a", "b"], done)
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == ["a.png", "b.png"]


def test_without_a_true_picture_nothing_compares(tmp_path):
    photos = SimpleNamespace(own_holes=True)
    with pytest.raises(ValueError, match="nothing to compare with"):
        CompletionWriter(tmp_path, ["a"], photos, Networks(lpips=torch.nn.Identity()))
    assert not CompletionWriter(tmp_path, ["a"], photos).truth
    assert CompletionWriter(tmp_path, ["a"], SimpleNamespace(own_holes=False)).truth
