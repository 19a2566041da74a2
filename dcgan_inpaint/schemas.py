"""Schemas of the options of completion, training, sampling and export.

Importing this module does not import torch.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field

from dcgan_inpaint.configs import (
    CandidateCount,
    Count,
    CropBox,
    EyePositions,
    FaceChoice,
    Natural,
    Node,
    RunName,
    Seed,
    Split,
    Text,
    TrainerOptions,
    settings,
)

NO_GAN = "none"


def _shard(value: str) -> str:
    part, count = map(int, value.split("/"))
    if not 1 <= part <= count:
        raise ValueError("use 1/16 to 16/16")
    return value


def _pick(value: Any) -> Any:
    """Read the dict in a text; Hydra parses only one with keys of its own syntax."""
    try:
        read = yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        return value
    return read if isinstance(read, dict) else value


# one logger by its class, or several by name
Loggers = Node | dict[str, Node]
# number of a sample, from 1: of all photos, or by the name of a photo
Pick = Annotated[CandidateCount | dict[Text, CandidateCount], BeforeValidator(_pick)]
Shard = Annotated[str, Field(pattern=r"^\d{1,9}/\d{1,9}$"), AfterValidator(_shard)]


@settings
class InpaintConfig:
    """Options of conf/inpaint.yaml; those with a default here belong to one method only.

    After `resolve` (inpainting/config.py) `method` is "search" or the node of another method, and
    none of ckpt and, for the search, candidates, select, start and solver.iterations is None.
    """

    ckpt: Text | None
    data: Node | None
    images: Text | Annotated[list[Text], Field(min_length=1)] | None
    crop: CropBox | None
    detector: Literal["auto"] | None
    face: FaceChoice | None
    eyes: EyePositions | None
    split: Split
    limit: Count | None
    shard: Shard | None
    batch_size: Count
    mask: Node
    measure: Node
    blend: Node
    lpips: Text | None
    features: bool
    trainer: TrainerOptions
    logger: Loggers | None
    cache_dir: Text
    output: Text | None
    pick: Pick | None
    name: RunName | None
    tags: list[Text]
    method: Literal["search"] | Node | None = None
    objective: Node | None = None
    solver: Node | None = None
    stages: dict[str, Node] = Field(default_factory=dict)
    ema: bool = True
    candidates: CandidateCount | None = None
    select: Literal["best", "mean", "sample"] | None = None
    start: Literal["encoder", "random"] | None = None
    seed: Seed = 0
    out_interval: Natural = 0


def _not_one(value: int) -> int:
    if value == 1:
        raise ValueError("use 2 or more, or 0 for none")
    return value


@settings
class TrainConfig:
    """Options of conf/train.yaml."""

    data: Node
    model: Node
    trainer: TrainerOptions
    logger: Loggers | None
    seed: Seed
    mask_seed: Seed
    batch_size: Count
    flip: bool
    cache_dir: Text
    output: Text | None
    name: RunName | None
    tags: list[Text]
    resume: Text | None
    sample_every: Count
    preview: Natural
    validate: Natural
    sample_metrics: Annotated[Natural, AfterValidator(_not_one)]
    limit: Count | None = None
    init: Text | None = None
    monitor: Literal["fd", "psnr_hole"] | None = None
    monitor_every: Count = 1
    monitor_images: Annotated[Count, Field(ge=2)] = 512
    patience: Count | None = None
    gan: Text = NO_GAN  # read by the models that start from a GAN


@settings
class SampleConfig:
    """Options of conf/sample.yaml."""

    ckpt: Text
    data: Node | None
    ema: bool
    count: Annotated[Count, Field(le=10**4)]  # generated at once, in memory
    steps: Annotated[int, Field(ge=2, le=1000)]
    seed: Seed
    z: Text | None
    plus: list[Natural] | None
    minus: list[Natural] | None
    base: list[Natural] | None
    metrics: bool
    metrics_count: Annotated[int, Field(ge=2, le=10**7)]
    split: Split
    fid: Text | None
    features: bool
    cache_dir: Text
    output: Text | None


def _exported(value: str) -> str:
    if Path(value).suffix not in (".safetensors", ".onnx", ".pt2"):
        raise ValueError("should end in .safetensors, .onnx or .pt2")
    return value


@settings
class ExportConfig:
    """Options of conf/export.yaml."""

    ckpt: Text
    out: Annotated[Text, AfterValidator(_exported)]
    weights: Literal["half", "int8"]
    blend: Node
