"""Base classes of the models that train.py trains."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import entry_points
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dcgan_inpaint.configs import INTEGER, make, settings
from dcgan_inpaint.data.decoding import Channels, CropShare
from dcgan_inpaint.losses import discriminator_losses, generator_loss
from dcgan_inpaint.masks.masks import MaskFunction
from dcgan_inpaint.randomness import latents

ENTRY_POINT_GROUP = "dcgan_inpaint.models"  # where other packages register their models
Width = Annotated[int, Field(ge=1, le=4096)]  # width of a layer, a code or z


@settings
class ModelSettings:
    """Settings that all models share.

    image_size: side of the images in px.  channels: 1 or 3.  crop: side of the central square of a
    training image / its short side, so that completion crops photos the same way.  ema_decay:
    decay of the moving average of the weights; 0 turns averaging off.
    """

    image_size: Annotated[Literal[16, 32, 64, 128, 256], INTEGER] = 64
    channels: Channels = 3
    crop: CropShare = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999


class Model(LightningModule):
    """Base class of all models.

    Images are (B, channels, image_size, image_size) in [-1, 1].  The constructor of a subclass
    takes the fields of its `Settings` by name; they become its hyperparameters, plain scalars.

    Attributes:
        kind: Name of the model in checkpoints and messages.  A subclass that sets it is registered.
        kinds: All registered models by kind.
        Settings: Dataclass of the model's settings, a subclass of ModelSettings.
        architecture: Settings that weights of a checkpoint can only be loaded with.
        averages: Attribute of each trained network -> attribute of its moving average.
        starts: Attribute of each averaged part that starts from another part -> that part.
        training_only: Networks and buffers that completion does not use.
        respects_valid: Whether training ignores the unknown pixels, where batch["valid"] is 0.
        needs_calibration: Whether `calibrate` is called at the end of each epoch.
        ema_only: Whether the model was loaded from a file without the raw networks.
        added_buffers: Buffers that files of earlier versions omit; they keep their initial values.
        steps_per_batch: Optimizer steps for each batch.
        accumulate_grad_batches: Parts that a batch is split into, one in memory at a time, for
            manual optimization; Lightning does it for automatic optimization.
        gradient_clip_val: Largest norm of a network's gradient for manual optimization, or None.
        encoder_noise_dim: Noise of the latent encoder, 0 if it does not sample; None without one.
        gan: The GAN whose z a search can optimize, or None.
        mask: The masks for training, or None; models that train without masks omit it.
        data: Description of the training images (data/sources.py), or None.
        image_shape: Shape (C, S, S) of the images.
        trained_iterations: Iterations that the loaded checkpoint was trained for.
    """

    kind: str
    kinds: ClassVar[dict[str, type["Model"]]] = {}
    Settings: type
    architecture: ClassVar[Sequence[str]] = ()
    averages: ClassVar[Mapping[str, str]] = {}
    training_only: ClassVar[Sequence[str]] = ()
    starts: ClassVar[Mapping[str, str]] = {}
    respects_valid = False
    needs_calibration = False
    ema_only = False
    added_buffers: ClassVar[Sequence[str]] = ()
    discriminator: nn.Module
    steps_per_batch = 1
    accumulate_grad_batches = 1
    gradient_clip_val: float | None = None
    encoder_noise_dim: int | None = None
    gan: "LatentGAN | None"
    mask: MaskFunction | None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if kind := vars(cls).get("kind"):
            other = Model.kinds.get(kind, cls)
            # The same class may be defined again, by a notebook cell that runs twice.
            if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
                name = f"{other.__module__}.{other.__qualname__}"
                raise TypeError(f"kind={kind!r}: {name} has this kind already. Use another name")
            Model.kinds[kind] = cls

    @classmethod
    def class_for_kind(cls, kind: str) -> type[Self] | None:
        """Return the registered subclass of this class with the given kind, or None.

        A model of another package is imported through its entry point, which is named by the kind.
        """
        if kind not in Model.kinds:
            for point in entry_points(group=ENTRY_POINT_GROUP, name=kind):
                point.load()
        model = Model.kinds.get(kind)
        return model if model and issubclass(model, cls) else None

    def __init__(self, settings: Any, **extra: Any) -> None:
        """Initialize the model.

        Args:
            settings: Validated settings, an instance of `Settings`.
            extra: Further plain values to store as hyperparameters.
        """
        super().__init__()
        self.settings = settings
        self.image_shape = (settings.channels, settings.image_size, settings.image_size)
        self.save_hyperparameters(asdict(settings) | extra)
        self.data: dict[str, Any] | None = None
        self.trained_iterations = 0

    @classmethod
    def from_hyperparameters(cls, hyperparameters: Mapping[str, Any]) -> Self:
        """Build the untrained model.  Raises ValueError for invalid hyperparameters."""
        return cls(**asdict(make(cls.Settings, hyperparameters)))

    def latent_encoder(self, ema: bool = True) -> nn.Module | None:
        """Return the frozen encoder that a search can start from, averaged or raw, or None.

        Its method `encode` maps masked images (B, C, S, S), mask (B, 1, S, S) and, for samples,
        noise (B·K, noise_dim) to an Encoding.
        """
        return None

    def fill(
        self, ema: bool = True, fold: bool = True
    ) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Return the frozen network for one-pass completion, averaged or raw, or None.

        With `fold` its BatchNorms are folded, see `freeze`.  A network that starts from a GAN is
        averaged over the image and its mirror image (`MirrorAverage`).

        It maps masked images (B, C, S, S) and mask (B, 1, S, S) to images (B, C, S, S).
        """
        return None

    @property
    def completes_in_one_pass(self) -> bool:
        """Whether the class has a network for one-pass completion, see `fill`."""
        return type(self).fill is not Model.fill

    def training_masks(self, index: Tensor) -> Tensor:
        """Return the masks (B, 1, S, S) for sample indices (B,).

        Raises ValueError for a model that was built without `mask`.
        """
        if self.mask is None:
            raise ValueError(f"model.mask=null: a {self.kind} needs masks. Set mask@model.mask=...")
        return self.mask(index, self.settings.image_size)

    def calibrate(self, images: Tensor, count: int = 8) -> None:
        """Fit what a model that `needs_calibration` predicts, on images not trained on.

        Args:
            images: (B, C, S, S) in [-1, 1].
            count: Number of samples of each image.
        """
        raise NotImplementedError

    def check_ema(self, ema: bool) -> None:
        """Raise ValueError if the raw networks are requested but not in the checkpoint."""
        if self.ema_only and not ema:
            raise ValueError("ema=false: ckpt has only the averaged networks. Use ema=true")

    def check(self) -> None:
        """Raise ValueError if the model cannot be trained; called before any long work."""
        if "mask" in vars(self):
            self.training_masks(torch.arange(1))

    @property
    def iteration(self) -> int:
        """Number of batches trained on; Lightning's global_step counts optimizer steps."""
        return self.global_step // self.steps_per_batch

    @property
    def should_log(self) -> bool:
        """Whether the trainer logs at this iteration."""
        return self.iteration % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    def sample_indices(self, count: int) -> Tensor:
        """Return the indices (count,) of this batch's images among all images trained on.

        Random numbers of a training step follow from them, so that parallel processes differ.
        """
        trainer: Any = self.trainer
        batches = self.iteration
        if self.automatic_optimization:  # Lightning accumulates several batches per iteration
            parts = trainer.accumulate_grad_batches
            batches = batches * parts + trainer.fit_loop.batch_idx % parts
        batches = batches * trainer.world_size + self.global_rank
        return batches * count + torch.arange(count, device=self.device)

    @torch.no_grad()
    def update_average(self, average: nn.Module, network: nn.Module) -> None:
        """Update a moving average of a network's weights.

        The decay warms up to `ema_decay`, so that the random initialization is forgotten.
        """
        t = self.iteration
        decay = min(self.settings.ema_decay, (1 + t) / (10 + t))
        averages, weights = average.state_dict(), network.state_dict()
        floats = [name for name, value in averages.items() if value.is_floating_point()]
        update = get_ema_multi_avg_fn(decay)  # one kernel for all tensors
        update([averages[name] for name in floats], [weights[name] for name in floats], None)
        for name in averages.keys() - floats:
            averages[name].copy_(weights[name])

    def parts(self, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
        """Split the tensors (B, ...) of a batch into `accumulate_grad_batches` equal parts."""
        chunks = (tensor.chunk(self.accumulate_grad_batches) for tensor in tensors)
        return list(zip(*chunks, strict=True))

    def update_network(
        self,
        optimizer: int,
        loss_of: Callable[..., tuple[Tensor, Mapping[str, Tensor]]],
        parts: Sequence[tuple[Tensor, ...]],
        **options: float,
    ) -> dict[str, Tensor]:
        """Take one step on the mean loss of the parts of a batch.

        Args:
            optimizer: Number of the optimizer.
            loss_of: Returns the loss of a part and its values to log by name.
            parts: The parts, of equal sizes.  The graph of one is freed before the next.
            options: Options of the optimizer such as lr, which are set first.

        Returns:
            The means of the values to log.
        """
        optimizers = self.optimizers()
        chosen: Any = optimizers[optimizer] if isinstance(optimizers, list) else optimizers
        chosen.param_groups[0].update(options)
        chosen.zero_grad()
        logs = []
        for part in parts:
            loss, log = loss_of(*part)
            self.manual_backward(loss / len(parts))
            logs.append({name: value.detach() for name, value in log.items()})
        if self.gradient_clip_val is not None:
            self._clip_gradient(chosen.optimizer, self.gradient_clip_val)
        chosen.step()
        return {name: torch.stack([log[name] for log in logs]).mean() for name in logs[0]}

    def _clip_gradient(self, optimizer: torch.optim.Optimizer, largest: float) -> None:
        """Scale the gradient of an optimizer's parameters down to a norm of at most `largest`.

        Lightning's `clip_gradients` refuses fused optimizers in mixed precision.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # of 16-mixed
        if scaler is not None:  # the gradient is multiplied by its scale until the step
            largest *= scaler.get_scale()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, largest)

    def cosine_factor(self) -> float:
        """Return the factor of a step size that decays to 0 at the end of the training."""
        trainer: Any = self.trainer
        steps = trainer.max_epochs * trainer.num_training_batches
        if trainer.max_steps > 0:  # Lightning counts the steps of all optimizers
            steps = min(steps, trainer.max_steps // self.steps_per_batch)
        return (1 + math.cos(math.pi * min(1.0, self.iteration / steps))) / 2

    def adversarial_loss(self, fake: Tensor) -> Tensor:
        """Return CE(D(fake), 1) without weight gradients of D, which G's update does not need."""
        self.discriminator.requires_grad_(False)
        loss = generator_loss(self.discriminator(fake).float())
        self.discriminator.requires_grad_(True)
        return loss

    def log_step(self, values: Mapping[str, Tensor], bar: Sequence[str]) -> None:
        """Log the values of a training step by name if it is due, some in the progress bar."""
        if self.should_log:
            for name, value in values.items():
                self.log(f"train/{name}", value.detach(), prog_bar=name in bar)
            self.log("iteration", float(self.iteration))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"kind": self.kind, "iteration": self.iteration, "data": self.data}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.data = self.data or checkpoint.get("data")
        checkpoint["state_dict"] = self.initial_buffers() | checkpoint["state_dict"]

    def initial_buffers(self) -> dict[str, Tensor]:
        """Return the `added_buffers` of a model by name."""
        own = self.state_dict()
        return {name: own[name] for name in self.added_buffers if name in own}


class AdversarialModule(Model):
    """A generator with its moving average (EMA), and a discriminator.

    Needs the settings lr and beta1 besides those of ModelSettings.  d_lr (by default lr) and
    g_steps (by default 1) are optional.
    """

    averages = {"generator": "ema_generator"}

    def __init__(self, settings: Any, generator: Any, discriminator: nn.Module):
        super().__init__(settings)
        self.automatic_optimization = False
        self.steps_per_batch = 1 + self.hparams.get("g_steps", 1)
        self.generator, self.discriminator = generator, discriminator
        self.ema_generator = copy.deepcopy(generator).eval().requires_grad_(False)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        lr, betas = self.settings.lr, (self.settings.beta1, 0.999)
        d_lr, d = self.hparams.get("d_lr", lr), self.discriminator
        g_adam = torch.optim.Adam(self.generator.parameters(), lr, betas, fused=True)
        return [torch.optim.Adam(d.parameters(), d_lr, betas, fused=True), g_adam]

    def discriminator_loss(
        self, real: Tensor, fake: Tensor, penalty: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of D for images real and fake (B, C, S, S), and the values to log."""
        real_logits = self.discriminator(real).float()  # (B,): losses in fp32 also under bf16
        fake_logits = self.discriminator(fake).float()  # (B,)
        loss_real, loss_fake = discriminator_losses(real_logits, fake_logits)
        loss = loss_real + loss_fake
        log = {"d_loss": loss, "d_loss_real": loss_real, "d_loss_fake": loss_fake}
        log |= {"D(x)": real_logits.sigmoid().mean(), "D(G(z))": fake_logits.sigmoid().mean()}
        return loss if penalty is None else loss + penalty, log

    def _update(
        self, network: int, loss_of: Callable, parts: Sequence[tuple[Tensor, ...]], count: int
    ) -> dict[str, Tensor]:
        """Take Adam step number `count` (from 1) of D (network 0) or G (network 1).

        Returns the values to log, as `update_network`.
        """
        # TensorFlow adds eps to the uncorrected sqrt(v), torch to sqrt(v / (1 - beta2^count)).
        # This eps makes torch's step equal to TensorFlow's.
        eps = 1e-8 / math.sqrt(1 - 0.999**count)
        return self.update_network(network, loss_of, parts, eps=eps)


class LatentGAN(AdversarialModule):
    """A generator of images from z (B, z_dim), which completion can search.

    Needs the settings z_dim, seed and prior ("uniform" for U[-1, 1], "normal" for N(0, 1)) besides
    those of AdversarialModule.  Its generators have `levels`, `lift` and `forward(x, level)` as
    networks.Generator.
    """

    @classmethod
    def from_description(cls, kind: Any, settings: Any) -> "LatentGAN":
        """Build the untrained GAN that another model's hyperparameters describe.

        Raises ValueError for an unknown kind or invalid settings.
        """
        gan_class = cls.class_for_kind(kind) if isinstance(kind, str) else None
        if gan_class is None or not isinstance(settings, Mapping):
            raise ValueError(f"gan_kind={kind}: expected the kind and the gan_settings of a GAN")
        return gan_class.from_hyperparameters(settings)

    @property
    def gan(self) -> "LatentGAN":
        return self

    def forward(self, z: Tensor, ema: bool = True) -> Tensor:
        """Generate images in [-1, 1] from z (B, z_dim) with moving statistics.

        `ema` selects the averaged weights; False selects the raw ones.
        """
        generator = self.ema_generator if ema else self.generator
        was_training = generator.training
        images = generator.eval()(z)  # (B, C, S, S)
        generator.train(was_training)
        return images

    def latents(self, index: Tensor, seed: int | None = None) -> Tensor:
        """Sample z (B, z_dim) from the prior for the given indices (B,)."""
        seed = self.settings.seed if seed is None else seed
        return latents(self.settings.prior, seed, index, self.settings.z_dim)


def gan_of(model: Model) -> LatentGAN:
    """Return the GAN that a model is or has.  Raises ValueError if it has none."""
    if model.gan is None:
        raise ValueError(f"gan: a {model.kind} without a GAN. Use a GAN")
    return model.gan
