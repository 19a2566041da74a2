"""What the doors' own keys may be, of the words and of the images at hand."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from omegaconf import DictConfig
from pydantic import AfterValidator, Field
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from dcgan_inpaint.configs import (
    STRICT,
    CandidateCount,
    Count,
    CropBox,
    EyePositions,
    FaceChoice,
    Natural,
    Seed,
    Text,
    choices_of,
    settings,
)
from dcgan_inpaint.data.cache import Source

Split = Literal["train", "val", "test"]
# of a run, and so of a folder
Name = Annotated[str, Field(pattern=r"^[\w .+=-]+$", max_length=100)]
AtLeastTwo = Annotated[int, Field(ge=2, le=10**7)]


def _built(value: Any) -> Any:
    raise ValueError("use one of the choices of this group")  # a part is checked by what it builds


def _devices(value: Any) -> Any:
    numbers = value if isinstance(value, list) else [value]
    whole = all(type(number) is int and 0 <= number < 1024 for number in numbers)
    if value != "auto" and (value in (0, []) or not whole):
        raise ValueError("use 1 or more, a list of device numbers or auto")
    return value


def _shard(value: str) -> str:
    part, of = map(int, value.split("/"))
    if not 1 <= part <= of:
        raise ValueError("use 1/16 to 16/16")
    return value


def _none_or_two(value: int) -> int:
    if value == 1:
        raise ValueError("use 2 or more, or 0 for none")
    return value


Shard = Annotated[str, Field(pattern=r"^\d{1,9}/\d{1,9}$"), AfterValidator(_shard)]
Part = Annotated[Any, AfterValidator(_built)]
Parts = dict[str, Part]  # several, by name


class TrainerOptions(TypedDict, total=False):
    """conf/trainer, and those of Lightning's own arguments that go with any model and door, which
    are added by a plus: +trainer.max_time=..."""

    __pydantic_config__ = STRICT | {"extra": "forbid"}  # type: ignore[misc]

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"]
    devices: Annotated[Any, AfterValidator(_devices)]
    num_nodes: Count
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    max_epochs: Count
    log_every_n_steps: Count
    enable_progress_bar: bool
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"]
    max_steps: Count  # optimizer steps, of which a batch may take several
    max_time: Annotated[str, Field(pattern=r"^\d\d:\d\d:\d\d:\d\d$")]  # days:hours:minutes:seconds
    limit_train_batches: Count
    deterministic: bool
    benchmark: bool
    detect_anomaly: bool
    enable_model_summary: bool
    profiler: Literal["simple", "advanced"]


@settings
class TrainOptions:
    """The keys of conf/train.yaml."""

    data: Part
    model: Part
    trainer: TrainerOptions
    logger: Parts | None
    seed: Seed
    mask_seed: Seed
    batch_size: Count
    flip: bool
    cache_dir: Text
    output: Text | None
    name: Name | None
    tags: list[Text]
    resume: Text | None
    sample_every: Count
    preview: Natural
    validate: Natural
    sample_metrics: Annotated[Natural, AfterValidator(_none_or_two)]
    gan: Text = ""  # of model=latent_encoder


@settings
class SampleOptions:
    """The keys of conf/sample.yaml."""

    ckpt: Text
    ema: bool
    count: Annotated[Count, Field(le=10**4)]  # at once, in memory
    steps: Annotated[int, Field(ge=2, le=1000)]
    seed: Seed
    z: Text | None
    plus: list[Natural] | None
    minus: list[Natural] | None
    base: list[Natural] | None
    metrics: bool
    metrics_count: AtLeastTwo
    data: Part | None
    split: Split
    fid: Text | None
    features: bool
    cache_dir: Text
    output: Text | None


@settings
class CompleteOptions:
    """The keys of conf/inpaint.yaml; those with a default belong to one method alone."""

    ckpt: Text | None
    data: Part | None
    images: Text | Annotated[list[Text], Field(min_length=1)] | None
    crop: CropBox | None
    detector: Text | None
    face: FaceChoice
    eyes: EyePositions | None
    split: Split
    limit: Count | None
    shard: Shard | None
    batch_size: Count
    mask: Part
    measure: Part
    blend: Part
    lpips: Text | None
    features: bool
    trainer: TrainerOptions
    logger: Parts | None
    cache_dir: Text
    output: Text | None
    name: Name | None
    tags: list[Text]
    method: Part = None
    objective: Part = None
    solver: Part = None
    stages: Parts = Field(default_factory=dict)
    ema: bool = True
    candidates: CandidateCount | None = None
    select: Literal["best", "mean", "sample"] | None = None
    start: Literal["encoder", "random"] | None = None
    seed: Seed = 0
    out_interval: Natural = 0


def check_images(
    cfg: DictConfig, source: Source, judged: bool, calibrated: bool, processes: int
) -> None:
    """Raise ValueError, one line with what to lower, where a source has fewer images than a
    training by `cfg` (conf/train.yaml) in so many processes, its samples `judged` or not, its model
    `calibrated` on validation images or not, needs; none is decoded."""
    watched = bool(cfg.validate or cfg.preview or calibrated)
    needed = {"train": cfg.batch_size * processes, "val": int(watched)}
    needed |= {"test": 2 if judged else 0}
    counts = {split: len(source.items(split)) for split, count in needed.items() if count}
    unwatched = "validate=0 preview=0" + " model.noise_dim=0" * calibrated
    mends = {"val": unwatched, "test": "sample_metrics=0"}
    mends |= {"train": f"batch_size={counts['train'] // processes} or less"}
    lower = [mends[split] for split in counts if counts[split] < needed[split]]
    if counts["train"] >= processes and lower:
        have = ", ".join(f"{count} of {split}" for split, count in counts.items())
        raise ValueError(f"data: too few images ({have}): use {', '.join(lower)}")


REMOVED = "was removed: see experiments/"
OLD_WORDS = {  # a key, or a choice of a group
    "ckpt_path": "is now resume=",
    "judge": "is now sample_metrics=",
    "method=null": "is now method=search",
    "method=context_encoder": "is now method=network",
    "model=encoder": "is now model=latent_encoder",
    "objective=near": "is now objective=windowed",
    "model=residual": f"{REMOVED}beyond.md",
    "solver=langevin": f"{REMOVED}search.md",
    "init_draws": "was removed: candidates= gives several starts",
    "leash": "was removed: stages.first.leash and stages.second.leash are what is left",
}


def mend_words(words: Sequence[str], door: str) -> list[str]:
    """What is typed behind a door's name, as Hydra reads it: group=null is its ~group, and
    debug=true the choice of that name.

    Raises ValueError, one line, for a word of an earlier version, and for what can be no choice of
    a group.
    """
    mended = list(words)
    for group in ("data", "model"):  # a class of one's own, by its name alone
        if any(word.startswith(f"{group}._target_=") for word in words):
            chosen = any(word.startswith(f"{group}=") for word in words)
            mended += [] if chosen else [f"{group}=own"]
    old = OLD_WORDS | ({"ckpt": "is now gan="} if door == "train" else {})
    if door != "inpaint":
        old |= {"experiment": "is for inpaint.py"}
    for i, argument in enumerate(words):
        key, equals, value = argument.lstrip("+").partition("=")
        for word in (key, *(f"{key}={choice}" for choice in value.split(","))):
            if equals and word in old:
                raise ValueError(f"{word}{'' if '=' in word else '='} {old[word]}")
        choices = choices_of(key)
        if choices and (value == "null" or value == "false" and "true" in choices):
            mended[i] = f"~{key}"
        elif value == "true" and value in choices:
            mended[i] = f"{key}='true'"  # a name; Hydra would read a bool
        elif choices and re.fullmatch(r"[\w.+-]+|\[.*", value) and value not in choices:
            raise ValueError(f"{argument}: choose one of {', '.join(choices)}")
    return mended
