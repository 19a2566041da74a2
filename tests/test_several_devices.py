"""Training on several devices, here two processes on the CPU."""

import json
import subprocess
import sys

SCRIPT = """
import json

import torch
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader

from dcgan_inpaint.models.dcgan import DCGAN

torch.manual_seed(0)
model = DCGAN(image_size=16, gf_dim=2, df_dim=2)
pictures = [{"image": x, "index": torch.tensor(i)} for i, x in enumerate(torch.rand(32, 3, 16, 16))]
trainer = Trainer(
    accelerator="cpu",
    devices=2,
    strategy="ddp_find_unused_parameters_true",
    max_epochs=1,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, DataLoader(pictures, batch_size=4))
weights = [p.double().sum().item() for p in model.ema_generator.parameters()]
with open(f"{trainer.global_rank}.json", "w") as f:
    json.dump([model.iteration, weights], f)
"""


def test_the_processes_share_their_updates(tmp_path):
    """Each saw other pictures and drew other z, and both end with the same weights."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first[0] == 4
    assert first == second
