"""Options of a resumed training: which may change, and which are refused."""

import shlex
from dataclasses import asdict
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dcgan_inpaint.cli import entry_point, train
from dcgan_inpaint.composition import (
    compose_config,
    normalize_overrides,
    parse_override,
    quote_override,
)
from dcgan_inpaint.configs import check_config, flatten
from dcgan_inpaint.runs.resuming import FREE_IN_TRAINING, how_to_resume
from dcgan_inpaint.schemas import TrainConfig

FREE_OPTIONS = {  # key: options of the original run that has it, new value
    "output": ([], "elsewhere"),
    "resume": ([], "last-1.ckpt"),
    "cache_dir": ([], "maps"),
    "gan": (["model=latent_encoder"], "celeba64"),
    "model.gan.path": (["model=one_pass"], "moved.safetensors"),
    "data.download": (["data=celeba"], True),
    "data.root": (["data=celeba", "data.root=before"], "after"),
    "data.path": (["data=huggingface", "data.path=before"], "after"),
    "data.urls": (["data=webdataset", "data.urls=before.tar"], "after.tar"),
    "data.val_urls": (["data=webdataset", "data.urls=a.tar", "data.val_urls=b.tar"], "c.tar"),
    "data.test_urls": (["data=webdataset", "data.urls=a.tar", "data.test_urls=b.tar"], "c.tar"),
    "logger": ([], "tensorboard"),
    "name": ([], "again"),
    "tags": ([], ["a", "b"]),
    "sample_every": ([], 7),
    "preview": ([], 0),
    "validate": ([], 0),
    "sample_metrics": ([], 0),
    "monitor": ([], "fd"),
    "patience": (["monitor=fd", "patience=3"], 5),
    "trainer.max_epochs": ([], 50),
    "trainer.max_steps": ([], 9),
    "trainer.max_time": ([], "00:01:00:00"),
    "trainer.accelerator": ([], "cpu"),
    "trainer.log_every_n_steps": ([], 3),
    "trainer.enable_progress_bar": ([], False),
    "trainer.profiler": ([], "simple"),
    "trainer.enable_model_summary": ([], False),
    "trainer.benchmark": ([], True),
    "trainer.detect_anomaly": ([], True),
}


@pytest.fixture
def original(tmp_path):
    """A function that writes the config.yaml of a run in `tmp_path` and returns its options."""

    def write(*overrides):
        cfg = compose_config("train", normalize_overrides(overrides))
        config = asdict(check_config(cfg, TrainConfig)) | {"output": str(tmp_path)}
        OmegaConf.save(OmegaConf.create(config), tmp_path / "config.yaml")
        return flatten(config)

    return write


@pytest.fixture
def resume(run, tmp_path, monkeypatch):
    """A function that calls train.py resume= and returns the options that it would train with."""
    configs = []
    monkeypatch.setattr(train, "main", configs.append)
    monkeypatch.setattr(entry_point, "check_files_exist", lambda config: None)  # there are none

    def call(*overrides, fails=False):
        result = run("train.py", f"resume={tmp_path / 'last.ckpt'}", *overrides, fails=fails)
        return result.stderr if fails else flatten(asdict(configs.pop()))

    return call


def as_text(value):
    return str(value).replace(" ", "")


@pytest.mark.parametrize("key", sorted(FREE_IN_TRAINING))
def test_option_that_may_change_on_resume_is_accepted(original, resume, tmp_path, key):
    """All others are those of the run; a plus is not required."""
    overrides, value = FREE_OPTIONS[key]
    before = original(*overrides)
    value = str(tmp_path / value) if key == "resume" else value
    after = resume(f"{key}={as_text(value)}")
    expected = before | {"resume": str(tmp_path / "last.ckpt"), key: value}
    if key == "gan":
        expected["model.gan.path"] = value
    if key == "logger":
        assert "logger.tensorboard._target_" in after
        after = {name: value for name, value in after.items() if "tensorboard" not in name}
        del expected[key]
    assert after == expected


def test_location_of_a_source_of_a_mixture_may_change(original, resume):
    before = original("data=balanced", "model=one_pass")
    after = resume("data.sources.utkface.root=moved", "data.sources.celeba.root='other place'")
    changed = {key: after[key] for key in after if after[key] != before[key]}
    assert changed.pop("resume")
    assert changed == {
        "data.sources.utkface.root": "moved",
        "data.sources.celeba.root": "other place",
    }


def test_choices_of_the_original_run_may_be_repeated(original, resume):
    before = original("data=celeba", "model=latent_encoder", "model.lr=0.5", "trainer=gpu")
    choices = ["data=celeba", "model=latent_encoder", "trainer=gpu", "mask@model.mask=mixture"]
    after = resume(*choices, "data.root=moved", "gan=moved.ckpt", "model.lr=0.5")
    assert after["model.gan.path"] == after["gan"] == "moved.ckpt"
    assert after["data.root"] == "moved"
    assert after["model.lr"] == before["model.lr"] == 0.5


def test_choice_of_a_trainer_sets_the_options_in_its_file(original, resume):
    original("trainer.max_epochs=3")
    after = resume("trainer=cpu")
    assert (after["trainer.accelerator"], after["trainer.max_epochs"]) == ("cpu", 3)
    assert "trainer.precision=32-true, not bf16-mixed" in resume("trainer=gpu", fails=True)
    assert "limit=null, not 128" in resume("debug=true", fails=True)
    assert resume("debug=false")["trainer.max_epochs"] == 3


def test_run_from_before_an_option_existed_is_resumed_with_its_default(original, resume, tmp_path):
    options = original()
    config = OmegaConf.load(tmp_path / "config.yaml")
    del config["limit"]
    OmegaConf.save(config, tmp_path / "config.yaml")
    assert resume() == options | {"resume": str(tmp_path / "last.ckpt")}
    del config["batch_size"]  # an option without a default
    OmegaConf.save(config, tmp_path / "config.yaml")
    assert "written by an earlier version" in resume(fails=True)


def test_options_of_a_logger_may_change(original, resume):
    original("logger=wandb", "name=first")
    assert resume("logger.wandb.offline=true")["logger.wandb.offline"] is True
    assert resume("name=second")["logger.wandb.name"] == "second"
    other = resume("logger=wandb", "logger.wandb.project=mine", "name=second")
    assert (other["logger.wandb.project"], other["logger.wandb.name"]) == ("mine", "second")
    own = resume("logger._target_=pytorch_lightning.loggers.CSVLogger", "+logger.prefix=a")
    loggers = {key: value for key, value in own.items() if key.startswith("logger.")}
    target = "pytorch_lightning.loggers.CSVLogger"
    assert loggers == {"logger._target_": target, "logger.prefix": "a"}
    assert not [key for key in resume("logger=null") if key.startswith("logger.")]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epoch=50", "unknown option. Did you mean trainer.max_epochs=50?"),
        ("data.root=elsewhere", "data.root=elsewhere: unknown option"),
        ("data.seed=1", "the run was started with data.seed=0, not 1"),
        ("data=celeba", "the run was started with data._target_="),
        ("model.gf_dim=65", "the run was started with model.gf_dim=64, not 65"),
        ("mask_seed=${batch_size}", "the run was started with mask_seed=0, not 64"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0: should be greater than or equal to 1"),
        ("trainer=own", "trainer=own: no such choice. Use one of cpu, "),
    ],
)
def test_other_option_of_a_resumed_training_is_one_error_line(original, resume, override, message):
    original()
    error = resume(override, fails=True)
    assert message in error
    assert len(error.splitlines()) == 1


AWKWARD_NAMES = [
    "with space",
    "it's",
    'say "hi"',
    "a(1)",
    "a[1]",
    "{a}",
    "lr=0.1",
    "a&b",
    "a,b",
    "a;b|c",
    "a#b",
    "*?!",
    "~tilde",
    "back\\slash",
    "end\\",
    "\\'",
    "$HOME",
    "mül ler",
    "1.0",
    "null",
    "[a]",
    "a:b",
    "bytes\udcff",
]


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_printed_override_can_be_pasted_into_a_shell(name):
    (word,) = shlex.split(quote_override("ckpt", name))
    (override,) = normalize_overrides([word])
    assert parse_override(override).value() == name


@pytest.mark.parametrize("name", ["a[1].png", "a (1)", "ü", "a&b", "a=b", "bytes\udcff", "it's"])
def test_value_that_is_no_hydra_syntax_is_text(name):
    """So a path that only the shell has quoted is read as it is."""
    (override,) = normalize_overrides([f"images={name}"])
    assert parse_override(override).value() == name
    assert normalize_overrides(["--config-dir", "tags=[a,b]"]) == ["--config-dir", "tags=[a,b]"]


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_advice_to_resume_can_be_pasted(name, tmp_path):
    run_dir = tmp_path / name
    run_dir.mkdir()
    assert shlex.split(how_to_resume(run_dir))[1:] == ["starts", "again"]
    (run_dir / "last.ckpt").touch()
    word, *rest = shlex.split(how_to_resume(run_dir))
    assert rest == ["continues"]
    assert Path(parse_override(word).value()) == run_dir / "last.ckpt"
