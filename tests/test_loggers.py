"""Weights & Biases that cannot be sent to is found out before anything is written."""

import http.server
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from dcgan_inpaint.configs import compose_config
from dcgan_inpaint.runs import loggers


@pytest.fixture
def server(monkeypatch):
    """What W&B is taken to be: `server(url)`."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("no_proxy", "*")

    def use(url):
        settings = SimpleNamespace(base_url=url)
        monkeypatch.setattr(loggers.wandb, "setup", lambda: SimpleNamespace(settings=settings))

    return use


def configured(*words):
    return compose_config("train", ["logger=wandb", "output=nowhere", *words])


def test_nobody_is_there(server):
    server("http://127.0.0.1:9")
    with pytest.raises(ValueError, match="cannot be reached.*logger.wandb.offline=true"):
        loggers.open_loggers(configured())


def test_nobody_answers(server, monkeypatch):
    monkeypatch.setattr(loggers, "PATIENCE", 0.1)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server(f"http://127.0.0.1:{listening.getsockname()[1]}")
        begun = time.monotonic()
        with pytest.raises(ValueError, match="cannot be reached.*logger.wandb.offline=true"):
            loggers.open_loggers(configured())
        assert time.monotonic() - begun < 5


def test_there_is_no_key(server, monkeypatch):
    class NotFound(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            """Say nothing."""

    def login():
        raise loggers.wandb.errors.UsageError("No API key configured.")  # as it says without one

    monkeypatch.setattr(loggers.wandb, "login", login)
    with http.server.HTTPServer(("127.0.0.1", 0), NotFound) as there:
        threading.Thread(target=there.serve_forever, daemon=True).start()
        server(f"http://127.0.0.1:{there.server_port}")
        with pytest.raises(ValueError, match="no key.*logger.wandb.offline=true"):
            loggers.open_loggers(configured())
        monkeypatch.setattr(loggers.wandb, "login", lambda: True)
        csv, wandb = loggers.open_loggers(configured())
        there.shutdown()
    assert isinstance(csv, CSVLogger)
    assert isinstance(wandb, WandbLogger)


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_offline_asks_nobody(server, monkeypatch, mode):
    server("http://127.0.0.1:9")
    assert len(loggers.open_loggers(configured("logger.wandb.offline=true"))) == 2
    monkeypatch.setenv("WANDB_MODE", mode)
    assert len(loggers.open_loggers(configured())) == 2
    assert loggers.open_loggers(OmegaConf.create({"logger": None})) == []
