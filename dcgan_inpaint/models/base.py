"""What train.py trains: its images, its iteration, its checkpoint, its updates."""

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
from dcgan_inpaint.data.decoding import Channels, Crop
from dcgan_inpaint.losses import discriminator_losses, generator_loss
from dcgan_inpaint.randomness import latents

MODELS = "dcgan_inpaint.models"  # the entry points by which a package brings models of its own
Width = Annotated[int, Field(ge=1, le=4096)]  # of a layer, a code or z


@settings
class ModelSettings:
    """What every model has: the images that it is for, and how slowly its average follows."""

    image_size: Annotated[Literal[16, 32, 64, 128, 256], INTEGER] = 64
    channels: Channels = 3
    # how the training images were framed, so that completion frames others alike: side of the
    # central square / short side
    crop: Crop = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999  # 0: no averaging


class Model(LightningModule):
    """Base of the models; `kind` is what it is called, in its checkpoint and in messages.

    Images are (B, channels, image_size, image_size) in [-1, 1].  A subclass takes the values of
    its `Settings` by name; they are its hyperparameters, plain scalars.  `gan` is the GAN whose z a
    search can move, or None.  A class that says a `kind` is known by it from then on.
    """

    kind: str
    kinds: ClassVar[dict[str, type["Model"]]] = {}  # all that are known so far
    Settings: type
    averages: ClassVar[Mapping[str, str]] = {}  # networks in training, and their averages
    training_only: ClassVar[Sequence[str]] = ()  # networks and numbers that completion never uses
    averaged = False  # whether it came from a file that holds the averages alone
    calibrates = False  # whether it has a `calibrate` to call at each epoch's end
    encoder_noise_dim: int | None = None  # noise of its latent encoder; None: it has no encoder
    gan: "LatentGAN | None"
    mask: Callable[[Tensor, int], Tensor] | None  # of those that learn with masks

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        kind = vars(cls).get("kind")
        known = Model.kinds.setdefault(kind, cls) if kind else cls
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"kind = {kind!r}: {known.__module__}.{known.__qualname__} is of it")
        if kind:
            Model.kinds[kind] = cls  # anew, where a notebook's cell is run again

    @classmethod
    def of_kind(cls, kind: str) -> type[Self] | None:
        """The model of a kind, if there is one below this class.

        One of another package is imported by its entry point, which bears the kind's name.
        """
        if kind not in Model.kinds:
            for point in entry_points(group=MODELS, name=kind):
                point.load()
        found = Model.kinds.get(kind)
        return found if found and issubclass(found, cls) else None

    def __init__(self, settings: Any, **kept: Any) -> None:
        """`settings` are checked ones, `kept` what is to stand with them in the checkpoint."""
        super().__init__()
        self.settings = settings
        self.save_hyperparameters(asdict(settings) | kept)
        self.data: dict[str, Any] | None = None  # what it was trained on: sources.describe's words
        self.trained = 0  # iterations that its checkpoint had seen

    @classmethod
    def rebuild(cls, hyperparameters: Mapping[str, Any]) -> Self:
        """The untrained model of saved hyperparameters.  Raises ValueError when they do not fit."""
        return cls(**asdict(make(cls.Settings, hyperparameters)))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, S, S)"""
        size = self.settings.image_size
        return self.settings.channels, size, size

    def latent_encoder(self) -> nn.Module | None:
        """Frozen: known (B, C, S, S), mask (B, 1, S, S) -> z and offset to start a search from."""
        return None

    def fill(self, ema: bool = True) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Frozen: known (B, C, S, S), mask (B, 1, S, S) -> images, without a search."""
        return None

    def training_masks(self, index: Tensor) -> Tensor:
        """(B, 1, S, S) for index (B,).  Raises ValueError for a model that was made without."""
        if self.mask is None:
            raise ValueError(f"model.mask=null: a {self.kind} needs masks to train with (masks.py)")
        return self.mask(index, self.settings.image_size)

    def check_raw(self, ema: bool) -> None:
        """Raise ValueError where the raw networks are asked for and not there."""
        if self.averaged and not ema:
            raise ValueError("ema=false: ckpt holds the averaged networks alone")

    def check(self) -> None:
        """Raise ValueError if it cannot be trained as it was made, before any long work."""
        if "mask" in vars(self):
            self.training_masks(torch.arange(1))

    @property
    def iteration(self) -> int:
        """Batches trained on; where one takes several optimizer steps, global_step counts those."""
        return self.global_step

    @property
    def logs_now(self) -> bool:
        """Whether the iteration just done is one of each log_every_n_steps."""
        return self.iteration % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    def rows(self, count: int) -> Tensor:
        """The numbers (B,) of this batch's images among all that were trained on, to draw by."""
        # rank and world size keep the draws of parallel processes apart
        batches = self.iteration * self.trainer.world_size + self.global_rank
        return batches * count + torch.arange(count, device=self.device)

    @torch.no_grad()
    def update_average(self, average: nn.Module, network: nn.Module) -> None:
        """Follow a network with a decay that warms up, so that its random init leaves no trace."""
        t = self.iteration
        decay = min(self.settings.ema_decay, (1 + t) / (10 + t))
        numbers, weights = average.state_dict(), network.state_dict()
        moved = [name for name, value in numbers.items() if value.is_floating_point()]
        follow = get_ema_multi_avg_fn(decay)  # all at once
        follow([numbers.pop(name) for name in moved], [weights[name] for name in moved], None)
        for name, count in numbers.items():
            count.copy_(weights[name])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"kind": self.kind, "iteration": self.iteration, "data": self.data}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.data = self.data or checkpoint.get("data")


class AdversarialModule(Model):
    """A generator with its moving average (EMA), and a discriminator.

    Settings besides those of Model: lr, beta1, and where they are not `lr` and 1, d_lr and g_steps.
    """

    averages = {"generator": "ema_generator"}
    generator: nn.Module
    ema_generator: nn.Module

    def __init__(self, settings: Any, generator: nn.Module, discriminator: nn.Module):
        super().__init__(settings)
        self.automatic_optimization = False
        self.generator, self.discriminator = generator, discriminator
        self.ema_generator = copy.deepcopy(generator).eval().requires_grad_(False)

    @property
    def iteration(self) -> int:
        """Batches trained on; Lightning's global_step counts every optimizer step instead."""
        return self.global_step // (1 + self.hparams.get("g_steps", 1))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        lr, betas = self.settings.lr, (self.settings.beta1, 0.999)
        rates = ((self.discriminator, self.hparams.get("d_lr", lr)), (self.generator, lr))
        return [
            torch.optim.Adam(network.parameters(), rate, betas, fused=True)
            for network, rate in rates
        ]

    def log_step(self, log: Mapping[str, Tensor]) -> None:
        """Log what a batch gave, by name; the losses of D and G stand in the bar as well."""
        for name, value in log.items():
            self.log(name, value, prog_bar=name in ("train/d_loss", "train/g_loss"))
        self.log("iteration", float(self.iteration))

    def _discriminator_step(
        self, real: Tensor, fake: Tensor, penalty: Tensor | None = None
    ) -> dict[str, Tensor]:
        real_logits = self.discriminator(real).float()  # (B,): losses in fp32 also under bf16
        fake_logits = self.discriminator(fake).float()  # (B,)
        loss_real, loss_fake = discriminator_losses(real_logits, fake_logits)
        loss = loss_real + loss_fake
        self._update(0, loss if penalty is None else loss + penalty, count=self.iteration + 1)
        return {
            "train/d_loss": loss.detach(),
            "train/d_loss_real": loss_real.detach(),
            "train/d_loss_fake": loss_fake.detach(),
            "train/D(x)": torch.sigmoid(real_logits.detach()).mean(),
            "train/D(G(z))": torch.sigmoid(fake_logits.detach()).mean(),
        }

    def _adversarial_loss(self, fake: Tensor) -> Tensor:
        """CE(D(fake), 1), of which D takes no gradient: its weight gradients would go to waste."""
        self.discriminator.requires_grad_(False)
        loss = generator_loss(self.discriminator(fake).float())
        self.discriminator.requires_grad_(True)
        return loss

    def _update(self, which: int, loss: Tensor, count: int) -> None:
        """One Adam update, the count-th (from 1), of D (which = 0) or G (1)."""
        optimizer = self.optimizers()[which]  # type: ignore[index]
        for group in optimizer.param_groups:
            # TensorFlow adds eps to the uncorrected sqrt(v), torch to sqrt(v / (1 - beta2^count)):
            # this makes torch's update TensorFlow's (30 times torch's eps at the first one)
            group["eps"] = 1e-8 / math.sqrt(1 - group["betas"][1] ** count)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class LatentGAN(AdversarialModule):
    """A generator of images from z, which completion can search.

    z is (B, z_dim) from `prior`: "uniform" U[-1, 1] or "normal" N(0, 1).  Settings besides those of
    AdversarialModule: z_dim, prior, seed.  Its generators have the `levels`, `lift` and
    `forward(x, level)` of networks.Generator.
    """

    generator: Any
    ema_generator: Any

    @property
    def gan(self) -> "LatentGAN":
        return self

    def forward(self, z: Tensor, ema: bool = True) -> Tensor:
        """Samples: z (B, z_dim) -> images in [-1, 1], moving statistics, EMA weights or raw."""
        generator = self.ema_generator if ema else self.generator
        was_training = generator.training
        images = generator.eval()(z)  # (B, C, S, S)
        generator.train(was_training)
        return images

    def latents(self, index: Tensor, seed: int | None = None) -> Tensor:
        """z (B, z_dim) of the prior for the given indices (B,)."""
        seed = self.settings.seed if seed is None else seed
        return latents(self.settings.prior, seed, index, self.settings.z_dim)
