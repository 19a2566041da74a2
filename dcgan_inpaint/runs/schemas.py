"""The options of training and of sampling; importing this module does not import torch."""

from typing import Annotated

from pydantic import AfterValidator, Field

from dcgan_inpaint.configs import (
    Count,
    Natural,
    Node,
    RunName,
    Seed,
    Split,
    Text,
    TrainerOptions,
    settings,
)

AtLeastTwo = Annotated[int, Field(ge=2, le=10**7)]


def _not_one(value: int) -> int:
    if value == 1:
        raise ValueError("use 2 or more, or 0 for none")
    return value


@settings
class TrainConfig:
    """The options of conf/train.yaml."""

    data: Node
    model: Node
    trainer: TrainerOptions
    logger: dict[str, Node] | None
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
    gan: Text | None = None  # of model=latent_encoder


@settings
class SampleConfig:
    """The options of conf/sample.yaml."""

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
    metrics_count: AtLeastTwo
    split: Split
    fid: Text | None
    features: bool
    cache_dir: Text
    output: Text | None
