"""Atomic checkpoints and loggers (runs/trainer.py)."""

import http.server
import os
import socket
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from torch.utils.data import DataLoader
from training import quiet_trainer

from dcgan_inpaint.composition import compose_config, normalize_overrides
from dcgan_inpaint.configs import check_config
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.runs import trainer
from dcgan_inpaint.runs.run_dir import start_run
from dcgan_inpaint.runs.trainer import AtomicCheckpointIO
from dcgan_inpaint.schemas import TrainConfig


def checkpoint(value):
    return {"state_dict": {"x": torch.full((1000,), float(value))}}


def stored_value(path):
    return torch.load(path)["state_dict"]["x"][0].item()


@pytest.fixture
def last(tmp_path):
    """A last.ckpt that holds the value 1."""
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(checkpoint(1), path)
    return path


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_saving_renames_the_previous_checkpoint(tmp_path):
    path = tmp_path / "run" / "last.ckpt"
    for value in (1, 2, 3):
        AtomicCheckpointIO().save_checkpoint(checkpoint(value), path)
    assert stored_value(path) == 3
    assert stored_value(path.with_name("last-1.ckpt")) == 2
    assert sorted(p.name for p in path.parent.iterdir()) == ["last-1.ckpt", "last.ckpt"]


def test_file_system_without_hard_links_gets_a_copy(last, monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    for value in (2, 3):
        AtomicCheckpointIO().save_checkpoint(checkpoint(value), last)
        assert stored_value(last.with_name("last-1.ckpt")) == value - 1
    assert stored_value(last) == 3
    assert sorted(p.name for p in last.parent.iterdir()) == ["last-1.ckpt", "last.ckpt"]


def test_disk_that_is_full_during_the_copy_leaves_the_checkpoint_unchanged(last, monkeypatch):
    def refused(*_):
        raise OSError(95, "Operation not supported")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(trainer.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint(checkpoint(2), last)
    assert stored_value(last) == 1
    assert [p.name for p in last.parent.iterdir()] == ["last.ckpt"]


def test_damaged_checkpoint_does_not_replace_the_previous_one(last):
    AtomicCheckpointIO().save_checkpoint(checkpoint(2), last)
    flip_a_bit(last)
    AtomicCheckpointIO().save_checkpoint(checkpoint(3), last)
    assert (stored_value(last), stored_value(last.with_name("last-1.ckpt"))) == (3, 1)


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("unexpected pos"), KeyboardInterrupt()],
    ids=["disk full", "disk full as reported by torch", "interrupted"],
)
def test_interrupted_write_leaves_the_checkpoint_unchanged(last, monkeypatch, error):
    def interrupted_save(checkpoint, file):
        file.write(b"PK half of a checkpoint")
        raise error

    before = last.read_bytes()
    monkeypatch.setattr(torch, "save", interrupted_save)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OSError
    with pytest.raises(expected):
        AtomicCheckpointIO().save_checkpoint(checkpoint(2), last)
    assert last.read_bytes() == before
    assert [p.name for p in last.parent.iterdir()] == ["last.ckpt"]


def test_interruption_before_the_rename_leaves_two_complete_checkpoints(last, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint(checkpoint(2), last)
    assert stored_value(last) == stored_value(last.with_name("last-1.ckpt")) == 1


def test_disk_that_returns_other_data_is_an_error(last, monkeypatch):
    def damage(_):
        (part,) = last.parent.glob("last.*.part")
        flip_a_bit(part)

    monkeypatch.setattr(os, "fsync", damage)
    with pytest.raises(OSError, match="returns other data"):
        AtomicCheckpointIO().save_checkpoint(checkpoint(2), last)
    assert stored_value(last) == 1


def test_training_writes_no_temporary_file_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))  # writing there would fail
    fitting = quiet_trainer(plugins=[AtomicCheckpointIO()], max_epochs=1)
    model = DCGAN(image_size=16, gf_dim=1, df_dim=1, z_dim=3)
    fitting.fit(model, DataLoader([{"image": torch.zeros(2, 3, 16, 16)}], batch_size=None))
    fitting.save_checkpoint(tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt")["iteration"] == 1


@pytest.fixture
def use_server(monkeypatch):
    """A function that sets the address of the W&B server."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("no_proxy", "*")

    def use(url):
        settings = SimpleNamespace(base_url=url)
        monkeypatch.setattr(trainer.wandb, "setup", lambda: SimpleNamespace(settings=settings))

    return use


def open_loggers(*overrides):
    cfg = compose_config("train", ["logger=wandb", "output=unused", *overrides])
    return trainer.open_loggers(cfg.logger, cfg.tags, Path("unused"))


UNREACHABLE = "cannot be reached.*logger.wandb.offline=true"


def test_wandb_without_a_server_is_an_error(use_server):
    use_server("http://127.0.0.1:9")
    with pytest.raises(ValueError, match=UNREACHABLE):
        open_loggers()


def test_wandb_server_that_does_not_answer_is_an_error(use_server, monkeypatch):
    monkeypatch.setattr(trainer, "WANDB_TIMEOUT", 0.1)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        use_server(f"http://127.0.0.1:{listening.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(ValueError, match=UNREACHABLE):
            open_loggers()
        assert time.monotonic() - start < 5


def test_wandb_without_an_api_key_is_an_error(use_server, monkeypatch):
    class NotFound(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            """Write no log."""

    def login():
        raise trainer.wandb.errors.UsageError("No API key configured.")  # W&B's own message

    monkeypatch.setattr(trainer.wandb, "login", login)
    with http.server.HTTPServer(("127.0.0.1", 0), NotFound) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        use_server(f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(ValueError, match="no API key.*logger.wandb.offline=true"):
            open_loggers()
        monkeypatch.setattr(trainer.wandb, "login", lambda: True)
        csv, wandb = open_loggers()
        server.shutdown()
    assert isinstance(csv, CSVLogger)
    assert isinstance(wandb, WandbLogger)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("logger.wandb.project=a/b", "^logger.wandb.project=a/b: W&B does not allow it"),
        (f"tags=[{'long' * 17}]", "^tags=.*: W&B does not allow it"),
    ],
)
def test_name_that_wandb_does_not_allow_is_an_error(override, message):
    with pytest.raises(ValueError, match=message):
        open_loggers("logger.wandb.offline=true", override)


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_offline_wandb_needs_no_server(use_server, monkeypatch, mode):
    use_server("http://127.0.0.1:9")
    assert len(open_loggers("logger.wandb.offline=true")) == 2
    monkeypatch.setenv("WANDB_MODE", mode)
    assert len(open_loggers()) == 2


def test_no_logger_is_allowed():
    assert trainer.open_loggers(None, [], Path("unused")) == []


class ListLogger(Logger):
    """A logger of another package: it has no save_dir and keeps its metrics in a list."""

    def __init__(self, title: str, limit: int = 3):
        super().__init__()
        if limit < 1:
            raise RuntimeError("the limit is reached")
        self.title, self.metrics = title, []

    name = version = None

    def log_metrics(self, metrics, step=None):
        self.metrics.append(metrics)

    def log_hyperparams(self, params, *_):
        raise ConnectionError("no server")


def open_by_class(target, *overrides, run_dir=Path("unused")):
    overrides = normalize_overrides([f"logger._target_={target}", *overrides])
    config = check_config(compose_config("train", overrides), TrainConfig)
    (logger,) = trainer.open_loggers(config.logger, ["tag"], run_dir)
    return logger


def test_logger_is_named_by_its_class(tmp_path):
    logger = open_by_class(
        "pytorch_lightning.loggers.TensorBoardLogger", "+logger.name=events", run_dir=tmp_path
    )
    assert logger.log_dir == str(tmp_path / "events" / "version_0")
    logger = open_by_class("test_trainer.ListLogger", "+logger.title=faces")
    assert (type(logger).__name__, logger.title) == ("ListLogger", "faces")


def test_closed_logger_writes_no_more(tmp_path):
    """An open writer would create the directory of a deleted run again."""
    threads = threading.active_count()
    logger = open_by_class("pytorch_lightning.loggers.TensorBoardLogger", run_dir=tmp_path)
    logger.log_metrics({"loss": 1.0})
    assert threading.active_count() > threads
    trainer.close_loggers([logger])
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("target", "overrides", "message"),
    [
        ("torch.nn.Identity", [], "logger._target_=torch.nn.Identity: expected a subclass"),
        ("test_trainer.ListLogger", [], "logger._target_=.*cannot be opened.*'title'"),
        ("test_trainer.ListLogger", ["+logger.title=3"], "logger.title=3: .*string"),
        ("test_trainer.ListLogger", ["+logger.text=a"], "logger.text=a: unknown option"),
        (
            "test_trainer.ListLogger",
            ["+logger.title=a", "+logger.limit=0"],
            "logger._target_=.*the limit is reached",
        ),
        ("loggers.Missing", [], "logger._target_=loggers.Missing: no such class"),
    ],
)
def test_class_that_cannot_log_is_an_error(target, overrides, message):
    with pytest.raises(ValueError, match=message):
        open_by_class(target, *overrides)


def test_logger_without_its_package_is_an_error():
    if find_spec("comet_ml"):
        pytest.skip("comet_ml is installed")
    with pytest.raises(ModuleNotFoundError, match="comet"):
        open_by_class("pytorch_lightning.loggers.CometLogger")


def test_logger_that_refuses_the_settings_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"logger: ListLogger cannot be used \(no server\)"):
        start_run(tmp_path / "run", {"seed": 0}, [ListLogger("a")])


def test_mlflow_has_settings_and_metrics_of_a_training(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # which needs no server
    options = ["logger=mlflow", f"logger.mlflow.tracking_uri=file:{tmp_path / 'mlruns'}"]
    config = check_config(compose_config("train", [*options, "name=faces"]), TrainConfig)
    csv, logger = trainer.open_loggers(config.logger, [], tmp_path)
    assert isinstance(csv, CSVLogger)
    start_run(tmp_path / "run", {"model": {"lr": 0.5}}, [logger])
    model = DCGAN(image_size=16, gf_dim=1, df_dim=1, z_dim=3)
    fitting = quiet_trainer(logger=[logger])
    fitting.fit(model, DataLoader([{"image": torch.zeros(2, 3, 16, 16)}] * 2, batch_size=None))
    stored = logger.experiment.get_run(logger.run_id)
    assert stored.data.params["model/lr"] == "0.5"
    assert stored.data.metrics["iteration"] == 2
    assert stored.data.tags["mlflow.runName"] == "faces"
