"""Every choice of every group composes and builds the object that its name says."""

import dataclasses
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from small_sets import Few, Little, write_cars, write_tar

from dcgan_inpaint.annotations import read_annotations
from dcgan_inpaint.composition import normalize_overrides
from dcgan_inpaint.configs import _target_types, check_config
from dcgan_inpaint.data.faces.source import Faces
from dcgan_inpaint.data.image_files import Cars, CelebA, Folder, TarShards
from dcgan_inpaint.data.library_sets import HuggingFace, TorchvisionSet
from dcgan_inpaint.data.mixture import Mixture
from dcgan_inpaint.data.utkface import UTKFace
from dcgan_inpaint.inpainting.build import build, build_preview, uses_source
from dcgan_inpaint.inpainting.config import resolve
from dcgan_inpaint.inpainting.module import InpaintingModule, Objective
from dcgan_inpaint.inpainting.solvers import Solver
from dcgan_inpaint.masks import masks
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.latent_encoder import LatentEncoder
from dcgan_inpaint.models.one_pass import OnePass
from dcgan_inpaint.runs.trainer import open_loggers
from dcgan_inpaint.schemas import InpaintConfig, TrainConfig

CONF = Path(__file__).parents[1] / "conf"


def choices(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def composed(name, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def test_every_group_has_a_test():
    groups = {path.name for path in CONF.iterdir() if path.is_dir()} - {"__pycache__"}
    tested = {"data", "model", "mask", "objective", "solver", "method", "blend", "stages", "loss"}
    assert groups == tested | {"trainer", "logger", "experiment", "debug"}


@pytest.fixture
def roots(tmp_path):
    (tmp_path / "img_align_celeba").mkdir()
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    write_cars(tmp_path, train=2, test=1)
    write_tar(tmp_path / "a.tar", {})
    mask = Image.new("L", (20, 20), 255)
    mask.paste(0, (5, 5, 15, 15))
    mask.save(tmp_path / "hole.png")
    return tmp_path


DATA = {  # class, required overrides
    "celeba": (CelebA, ["data.root={roots}"]),
    "balanced": (
        Mixture,
        [
            "data.sources.celeba.root={roots}",
            "data.sources.utkface.root={roots}",
        ],
    ),
    "faces": (Faces, []),
    "utkface": (UTKFace, ["data.root={roots}"]),
    "folder": (Folder, ["data.root={roots}"]),
    "torchvision": (TorchvisionSet, ["data.name=CIFAR10", "data.root={roots}"]),
    "svhn": (TorchvisionSet, ["data.root={roots}"]),
    "cars": (Cars, ["data.root={roots}"]),
    "webdataset": (TarShards, ["data.urls={roots}/*.tar"]),
    "huggingface": (HuggingFace, ["data.path={roots}"]),
    "own": (Few, ["data._target_=small_sets.Few"]),
}


@pytest.mark.parametrize("choice", choices("data"))
@pytest.mark.parametrize("command", ["train", "inpaint"])
def test_data_choice_builds_its_source(choice, command, roots):
    if choice == "huggingface":
        pytest.importorskip("datasets")
    source_class, overrides = DATA[choice]
    overrides = [override.format(roots=roots) for override in overrides]
    cfg = composed(command, f"data={choice}", "data.image_size=32", *overrides)
    source = instantiate(cfg.data)
    assert isinstance(source, source_class)
    assert (source.image_size, source.channels) == (32, 3)
    crops = {"celeba": 108 / 178, "utkface": 108 / 178, "balanced": 142 / 178}
    assert source.crop == pytest.approx(crops.get(choice, 1.0))


def test_svhn_follows_the_paper(roots):
    """Color images of 32 px enlarged to 64, with the published parts (Yeh 2017, section 4)."""
    source = instantiate(composed("train", "data=svhn", f"data.root={roots}").data)
    assert (source.name, source.image_size, source.channels) == ("SVHN", 64, 3)
    assert source.parts == {"train": "train", "val": None, "test": "test"}


MODELS = {  # class, overrides, the option that follows seed=
    "dcgan": (DCGAN, ["model.gf_dim=4"], "seed"),
    "one_pass": (OnePass, ["model.code_dim=4"], "mask.seed"),
    "context_encoder": (OnePass, ["model.gf_dim=4"], "mask.seed"),
    "unet": (OnePass, ["model.gf_dim=2"], "mask.seed"),
    "latent_encoder": (LatentEncoder, ["model.df_dim=2"], "mask.seed"),  # for the shipped DCGAN
    "own": (Little, ["model._target_=small_sets.Little"], None),
}


@pytest.mark.parametrize("choice", choices("model"))
def test_model_choice_builds_its_class(choice):
    model_class, small, seed = MODELS[choice]
    cfg = composed("train", f"model={choice}", "data.image_size=64", *small, "seed=3")
    model = instantiate(cfg.model, crop=0.5)
    assert isinstance(model, model_class)
    assert model.hparams["image_size"] == 64
    assert model.hparams["crop"] == 0.5
    assert seed is None or OmegaConf.select(cfg.model, seed) == 3


@pytest.mark.parametrize("loss", choices("loss"))
@pytest.mark.parametrize("network", choices("model/network"))
def test_one_pass_model_combines_each_network_with_each_loss(network, loss):
    cfg = composed("train", "model=one_pass", f"model/network={network}", f"loss={loss}")
    model = instantiate(cfg.model, crop=1.0)
    assert model.settings.network == network
    assert model.uses_discriminator == (loss != "l1")
    assert model.settings.conditional == (loss == "one_pass")


@pytest.mark.parametrize("mask", ["center", "random80", "file"])
@pytest.mark.parametrize("choice", ["context_encoder", "latent_encoder", "one_pass", "unet"])
def test_training_mask_can_be_replaced(choice, mask, roots):
    """By random masks and by fixed ones, which take no seed."""
    path = [f"model.mask.path={roots / 'hole.png'}"] if mask == "file" else []
    cfg = composed("train", f"model={choice}", f"mask@model.mask={mask}", *path)
    training_masks = instantiate(cfg.model, crop=1.0).mask(torch.arange(3), 64)
    hole = {"center": 0.25, "random80": 0.8, "file": 0.25}[mask]
    assert 1 - training_masks.mean().item() == pytest.approx(hole, abs=0.02)


def test_context_encoder_trains_with_four_kinds_of_masks_by_default():
    """Those of Yeh 2017; overrides add and remove kinds by name."""

    def mask(*overrides):
        cfg = composed("train", "model=context_encoder", "model.gf_dim=1", "seed=3", *overrides)
        return instantiate(cfg.model, crop=1.0).mask

    assert set(mask().keywords["masks"]) == {"center", "pattern", "random80", "half"}
    assert mask().keywords["seed"] == 3
    index = torch.arange(400)
    training_masks = mask()(index, 32)
    assert training_masks.shape == (400, 1, 32, 32)
    assert 1 - training_masks.mean().item() == pytest.approx(
        (0.25 + 0.25 + 0.8 + 0.5) / 4, abs=0.03
    )
    replaced = mask("~model.mask.masks.half", "+mask@model.mask.masks.grid=grid")
    assert set(replaced.keywords["masks"]) == {"center", "pattern", "random80", "grid"}


@pytest.mark.parametrize("choice", choices("mask"))
def test_mask_choice_removes_its_share_of_pixels(choice, roots):
    path = [f"mask.path={roots / 'hole.png'}"] if choice == "file" else []
    cfg = composed("inpaint", f"mask={choice}", *path)
    mask = instantiate(cfg.mask)(torch.arange(3), 64)
    assert mask.shape == (3, 1, 64, 64)
    missing = 1 - mask.mean().item()
    expected = {"center": 0.25, "file": 0.25, "full": 0, "grid": 15 / 16, "half": 0.5, "left": 0.5}
    expected |= {"pattern": 0.25, "random": 0.2, "random80": 0.8}  # mixture: one of several
    measured = {"lowres", "grayscale", "noisy", "quantized"}
    expected |= dict.fromkeys(measured, 1)
    if choice in expected:
        assert missing == pytest.approx(expected[choice], abs=0.02)
    else:
        assert 0 < missing < 0.7
    assert instantiate(cfg.measure).of_pixels == (choice not in measured)


@pytest.mark.parametrize("choice", choices("objective"))
def test_objective_choice_follows_its_paper(choice):
    objective = instantiate(composed("inpaint", f"objective={choice}").objective)
    assert isinstance(objective, Objective)
    if choice != "windowed":  # not from a paper
        papers = {"amos": (0.1, "mask", False), "yeh": (0.003, "window", True)}
        assert (objective.lam, objective.weighting, objective.saturating) == papers[choice]


@pytest.mark.parametrize("choice", choices("solver"))
def test_solver_choice_builds_its_class(choice):
    solver = instantiate(composed("inpaint", f"solver={choice}", "solver.iterations=3").solver)
    assert isinstance(solver, Solver)
    assert type(solver).__name__.lower() == choice


@pytest.mark.parametrize("choice", choices("stages"))
def test_stages_choice_builds_its_stages(choice):
    overrides = {"maps": ["stages.second.leash=0.2"], "none": []}[choice]
    stages = list(instantiate(composed("inpaint", f"stages={choice}", *overrides).stages).values())
    assert [(stage.level, stage.leash) for stage in stages[1:]] == [(2, 0.2)] * len(overrides)
    assert len(stages) == 2 * len(overrides)


OWN_METHOD = defaultdict[str, list[str]](list, own=["method._target_=small_sets.Brightest"])
LIBRARIES = {"biharmonic": "skimage", "telea": "cv2", "navier_stokes": "cv2"}


@pytest.mark.parametrize("choice", choices("method"))
def test_method_choice_builds_a_search_or_a_baseline(choice, tmp_path):
    """Baselines fill a constant image with the constant, except for nearest and network."""
    if choice in LIBRARIES:
        pytest.importorskip(LIBRARIES[choice])
    cfg = composed("inpaint", f"method={choice}", *OWN_METHOD[choice], f"cache_dir={tmp_path}")
    model = DCGAN(image_size=16, gf_dim=1, df_dim=1)
    if choice == "network":
        model = OnePass(
            network="context_encoder", hole_l2=1.0, image_size=16, gf_dim=1, df_dim=1, code_dim=3
        )
    mask = torch.ones(2, 1, 16, 16)
    mask[:, :, 4:12, 4:12] = 0
    source = Faces(image_size=16, train_size=3)
    config = resolve(check_config(cfg, InpaintConfig), model)
    module = build(config, model, lambda index, size: mask, source)
    assert isinstance(module, InpaintingModule) == (choice == "search")
    assert uses_source(config) == (choice == "nearest")
    if choice == "search":
        return
    constant = torch.full((2, 3, 16, 16), 0.4)
    filled = module.baseline(constant * mask, mask)
    assert filled.shape == (2, 3, 16, 16)
    if choice not in ("nearest", "network"):
        torch.testing.assert_close(filled.float(), constant, rtol=0, atol=0.02)


SEARCH_OPTIONS = ["solver=hmc", "objective.lam=1", "candidates=2", "experiment=amos2016"]
SEARCH_OPTIONS += ["stages=none", "start=random", "select=mean", "seed=1", "out_interval=5"]


def test_search_accepts_its_options():
    for option in SEARCH_OPTIONS:
        composed("inpaint", option)


@pytest.mark.parametrize("choice", [c for c in choices("method") if c != "search"])
def test_options_of_the_search_are_errors_with_a_baseline(choice):
    model = DCGAN(image_size=16, gf_dim=1, df_dim=1)
    for option in SEARCH_OPTIONS:
        cfg = composed("inpaint", f"method={choice}", *OWN_METHOD[choice], option)
        with pytest.raises(ValueError, match="applies to method=search only"):
            resolve(check_config(cfg, InpaintConfig), model)


def test_option_of_the_search_added_by_a_plus_is_an_error_with_a_baseline():
    cfg = composed("inpaint", "method=tv", "+candidates=2")
    config = check_config(cfg, InpaintConfig)
    with pytest.raises(ValueError, match="candidates=2: applies to method=search only"):
        resolve(config, DCGAN(image_size=16, gf_dim=1, df_dim=1))


@pytest.mark.parametrize(
    ("overrides", "iterations", "candidates", "select"),
    [
        ([], 100, 1, "best"),
        (["candidates=8"], 100, 8, "best"),
        (["solver.iterations=7", "select=mean"], 7, 1, "mean"),
        (["solver=momentum", "objective.lam=0.5", "candidates=8"], 3000, 8, "best"),
        (["experiment=amos2016"], 1000, 1, "best"),
        (["mask=lowres"], 100, 1, "best"),
    ],
)
def test_resolve_fills_in_the_options_that_depend_on_the_model(
    overrides, iterations, candidates, select
):
    model = DCGAN(image_size=16, gf_dim=1, df_dim=1)
    checked = check_config(composed("inpaint", *overrides), InpaintConfig)
    config = resolve(checked, model)
    assert (config.candidates, config.select, config.start) == (candidates, select, "random")
    assert checked.start is None or "experiment=amos2016" in overrides
    module = build(config, model, masks.full)
    assert module.solver.iterations == iterations
    assert (module.settings.candidates, module.settings.select) == (candidates, select)


@pytest.mark.parametrize("choice", choices("blend"))
def test_blend_without_known_pixels_returns_the_completion(choice):
    blend = instantiate(composed("inpaint", f"blend={choice}").blend)
    ones, zeros = torch.ones(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    assert torch.equal(blend(ones, -ones, zeros + 1), -ones)


LOGGERS = {"csv": "CSVLogger", "tensorboard": "TensorBoardLogger", "wandb": "WandbLogger"}
LOGGERS["mlflow"] = "MLFlowLogger"


@pytest.mark.parametrize("choice", sorted(set(choices("logger")) - {"own"}))
def test_logger_choice_adds_its_logger_to_the_csv_file(choice, tmp_path, monkeypatch):
    overrides = [f"logger={choice}"]
    if choice == "wandb":
        overrides.append("logger.wandb.offline=true")
    if choice == "mlflow":
        pytest.importorskip("mlflow")
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        overrides.append(f"logger.mlflow.tracking_uri=file:{tmp_path}")
    config = check_config(composed("train", *overrides), TrainConfig)
    loggers = open_loggers(config.logger, ["tag"], tmp_path)
    assert {type(logger).__name__ for logger in loggers} == {"CSVLogger", LOGGERS[choice]}
    assert all(Path(logger.save_dir) == tmp_path for logger in loggers)


PAPERS = {  # the published settings, independent of the defaults
    "amos2016": (
        {"lam": 0.1, "weighting": "mask", "saturating": False},
        {"iterations": 1000, "lr": 0.01, "schedule": "constant", "bound": "clip"},
        "paste",
    ),
    "yeh2017": (
        {"lam": 0.003, "weighting": "window", "window": 7, "floor": 0, "saturating": True},
        {"iterations": 1500, "lr": 0.01, "schedule": "constant", "bound": "clip"},
        "poisson",
    ),
}


@pytest.mark.parametrize("choice", choices("experiment"))
def test_experiment_has_the_settings_of_its_paper(choice):
    objective, solver, blend = PAPERS[choice]
    cfg = composed("inpaint", f"experiment={choice}")
    assert objective.items() <= dict(cfg.objective).items()
    assert solver.items() <= dict(cfg.solver).items()
    assert cfg.solver._target_.endswith("Adam")
    assert cfg.blend._target_.endswith(blend)
    assert cfg.ema is False
    assert cfg.stages == {}
    # one search from a random latent
    assert (cfg.candidates, cfg.start) == (None, "random")


def test_checked_config_is_frozen_and_complete():
    config = check_config(composed("inpaint", "candidates=2"), InpaintConfig)
    assert config.candidates == 2
    assert config.mask["_target_"] == "dcgan_inpaint.masks.masks.center"
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.candidates = 3


OVERRIDES = [  # as typed, normalized
    (["data=null", "mask=center"], ["~data", "mask=center"]),
    (["debug=true"], ["debug='true'"]),
    (["debug=false"], ["~debug"]),
    (["data._target_=mydata.Discs"], ["data._target_=mydata.Discs", "data=own"]),
    (["data=own", "data._target_=a.B"], ["data=own", "data._target_=a.B"]),
]


@pytest.mark.parametrize(("typed", "normalized"), OVERRIDES)
def test_overrides_are_normalized_for_hydra(typed, normalized):
    assert normalize_overrides(typed) == normalized


def test_renamed_option_is_reported_with_its_new_name():
    with pytest.raises(ValueError, match="answer=mean: the option was renamed. Use select=mean"):
        normalize_overrides(["answer=mean"])


@pytest.mark.parametrize(
    ("command", "override"),
    [
        ("train", "batch_size=-1"),
        ("train", "model.lr=-1"),
        ("train", "data.train_size=0"),
        ("inpaint", "start=gone"),
        ("inpaint", "mask.scale=0.7"),
        ("inpaint", "objective.lam=-1"),
        ("inpaint", "solver.bound=gone"),
        ("inpaint", "objective.window=4"),
        ("inpaint", "ckpt=gone"),
        ("inpaint", "images=gone.jpg"),
        ("inpaint", "mask=file mask.path=gone.png"),
        ("sample", "ckpt=gone"),
        ("sample", "z=gone.npy"),
        ("train", "resume=gone.ckpt"),
        ("train", "model=one_pass gan=gone"),
    ],
)
def test_wrong_option_or_file_is_reported_without_importing_torch(command, override):
    overrides = override.split()
    code = (
        "import sys; from dcgan_inpaint.cli.entry_point import run_command_line\n"
        f"sys.argv = ['{command}.py', *{overrides}]\n"
        f"try: run_command_line('{command}')\n"
        "except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CONF)
    assert result.stdout.startswith(f"error: {overrides[-1]}: "), result.stderr
    assert result.stdout.rstrip().endswith("False")


@pytest.mark.parametrize(
    ("arguments", "printed"), [(["--help"], "objective.lam=0.1"), (["-sc", "query=bash"], "mask=")]
)
def test_help_and_tab_completion_do_not_import_torch(arguments, printed, monkeypatch):
    monkeypatch.setenv("COMP_LINE", "python inpaint.py ma")
    monkeypatch.setenv("COMP_POINT", "20")
    code = (
        "import sys; from dcgan_inpaint.cli.entry_point import inpaint\n"
        f"sys.argv = ['inpaint.py', *{arguments}]\n"
        "inpaint(); print('\\ntorch' if 'torch' in sys.modules else '\\nno torch')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CONF)
    assert printed in result.stdout, result.stderr
    assert result.stdout.splitlines()[-1] == "no torch"


YAML = "\n".join(path.read_text() for path in CONF.rglob("*.yaml"))
TARGETS = sorted(set(re.findall(r"_target_: (dcgan_inpaint\S+)", YAML)))


@pytest.mark.parametrize("target", TARGETS)
def test_annotations_in_the_source_are_those_of_the_imported_target(target):
    """They may be less strict, where a type or a validator needs an import."""
    read, imported = read_annotations(target), _target_types(target, "")
    assert "**" not in read or "**" in imported
    assert {name for name in imported if not name.startswith("_")} == read.keys()


def test_preview_of_a_gan_with_a_normal_prior_leaves_z_unbounded():
    model = DCGAN(image_size=16, gf_dim=1, df_dim=1, prior="normal")
    module = build_preview(model, iterations=1)
    assert module.solver.bound == "none"
    batch = {"image": torch.zeros(1, 3, 16, 16), "index": torch.arange(1)}
    assert module.predict_step(batch).completion.isfinite().all()
