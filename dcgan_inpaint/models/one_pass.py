"""One-pass completion: a network from the known pixels and the mask to the image.

One training covers a network that starts from a GAN, the context encoder (Pathak 2016) and the
U-Net (Ronneberger 2015).  The terms of its loss are weighted, and a weight of 0 turns a term off.
"""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from dcgan_inpaint import losses
from dcgan_inpaint.blending import poisson
from dcgan_inpaint.configs import Fraction, NonNegative, Positive, Seed, make, settings
from dcgan_inpaint.data.augmentation import augment
from dcgan_inpaint.errors import show
from dcgan_inpaint.masks.masks import MaskFunction
from dcgan_inpaint.models.base import LatentGAN, Model, ModelSettings, Width, gan_of
from dcgan_inpaint.models.efficientnet import feature_distance, load_efficientnet
from dcgan_inpaint.models.encoder_generator import EncoderGenerator, MirrorAverage
from dcgan_inpaint.models.networks import Discriminator, Encoder, Generator, Layers, freeze
from dcgan_inpaint.models.uncertainty import HOLE_DEPTHS, calibrate_error
from dcgan_inpaint.models.unet import UNetwork
from dcgan_inpaint.randomness import normal

Beta = Annotated[float, Field(ge=0, lt=1)]
CALIBRATION_BATCH = 16  # images that are sampled at once, which limits the memory at 256 px
PERCEPTUAL_SIDE = 96  # px, the largest side of the images that the perceptual loss compares
NETWORK_SETTINGS = {  # that each network reads
    "encoder_generator": {"code_dim", "skips", "frozen_layers", "generator_lr"},
    "context_encoder": {"code_dim", "gf_dim", "skips"},
    "unet": {"gf_dim"},
}


@settings
class OnePassSettings(ModelSettings):
    """Settings of a OnePass; see conf/model/one_pass.yaml, conf/model/network and conf/loss.

    network: "encoder_generator" (encoder, and the generator of a GAN), "context_encoder" (encoder,
    and a new generator) or "unet".  code_dim: width between encoder and generator.  gf_dim: width
    of the new generator, or of the U-Net at full resolution.  df_dim, layers: width and stride-2
    layers of encoder and discriminator.  skips: whether the maps of the encoder are added to those
    of the generator.  frozen_layers: first layers of the GAN's generator that are not trained.
    generator_lr: step size of its other layers / lr.

    known, hole, hole_l2, adversarial, feature_matching, perceptual, conditional, r1: the loss, see
    OnePass.  changed: share of training images that are augmented.  lr, d_lr, beta1, beta2: Adam.
    """

    network: Literal["encoder_generator", "context_encoder", "unet"] = "encoder_generator"
    code_dim: Width = 512
    gf_dim: Width = 64
    df_dim: Width = 64
    layers: Layers = 4
    skips: bool = False
    frozen_layers: Annotated[int, Field(ge=0, le=7)] = 0
    generator_lr: NonNegative = 1.0
    known: NonNegative = 0.0
    hole: NonNegative = 0.0
    hole_l2: NonNegative = 0.0
    adversarial: NonNegative = 0.0
    feature_matching: NonNegative = 0.0
    perceptual: NonNegative = 0.0
    conditional: bool = False
    r1: NonNegative = 0.0
    changed: Fraction = 0.0
    lr: Positive = 1e-3
    d_lr: Positive = 2e-4
    beta1: Beta = 0.5
    beta2: Beta = 0.999
    schedule: Literal["constant", "cosine"] = "cosine"
    seed: Seed = 0


class Completed(NamedTuple):
    """Images of a training step and what the network makes of them, each (B, C, S, S).

    fake: images of the network.  images: training images, with the pixels of `fake` where they are
    not valid.  completed: `fake` in the hole and `images` elsewhere.
    """

    fake: Tensor
    images: Tensor
    completed: Tensor


class OnePass(Model):
    """Network for one-pass completion, its moving average (EMA), and a discriminator for training.

    For training images y of n numbers, the mask M and the network's images x:

        loss = (known · sum M |x - y| + hole · sum (1 - M) |x - y|) / n
             + hole_l2 · hole_loss(x, y, M)
             + adversarial · CE(D(c), 1) + feature_matching · mean |maps of D(c) - maps of D(y)|
             + perceptual · feature_distance(x in the hole and y elsewhere, y)

    The mean of the feature matching (Salimans 2016; Wang 2018) is over each layer of D and then
    over the layers; feature_distance is by EfficientNet-Lite1 (models/efficientnet.py).

    `conditional`: D sees c, which is x in the hole and y elsewhere, together with the mask.  It
    knows the mask, so it is not rewarded for finding the seam.  Otherwise D sees c = x alone, as in
    Pathak 2016.  `r1` weighs a penalty on D's gradient at real images (Mescheder 2018).

    Pixels that are not valid (batch["valid"]) are holes without a truth: they are in no term, and D
    sees the network's pixels there in both images.

    The checkpoint of a network that starts from a GAN includes the GAN.  The hyperparameters
    gan_kind and gan_settings rebuild it.

    Args:
        gan: The GAN to start from, or a model that has one, for network="encoder_generator" only.
        mask: Masks for training (masks.py).  It is not stored in the checkpoint, because any mask
            can be completed.
        settings: Fields of OnePassSettings.

    Raises:
        ValueError: If the settings are invalid, are not read by the network, or do not fit the GAN.
    """

    kind = "one-pass network"
    Settings = OnePassSettings
    architecture = ("network", "code_dim", "gf_dim", "df_dim", "layers", "skips")
    averages = {"network": "ema_network", "gan.generator": "gan.ema_generator"}
    training_only = ("discriminator",)
    starts = {"ema_network.decoder": "gan.ema_generator"}
    respects_valid = True
    added_buffers = ("face_scores",)
    settings: OnePassSettings
    gan: LatentGAN | None
    discriminator: Discriminator
    ema_network: Any
    features: tuple[Any]  # network of the perceptual loss, or None
    error_calibration: Tensor  # (HOLE_DEPTHS, 2), see uncertainty.py
    face_scores: Tensor  # (2,), see photos/far_images.py; 0 if not measured

    def __init__(self, gan: Model | None = None, mask: MaskFunction | None = None, **settings: Any):
        s = make(OnePassSettings, settings)
        gan = None if gan is None else gan_of(gan)
        _check_settings(s, gan)
        extra = {} if gan is None else {"gan_kind": gan.kind, "gan_settings": dict(gan.hparams)}
        super().__init__(s, **extra)
        self.automatic_optimization = False
        self.gan = None if gan is None else gan.eval().requires_grad_(False)
        self.network = build_network(s, gan)
        self.ema_network = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.mask = mask
        if gan is not None:
            self.encoder_noise_dim = self.network.noise_dim
            self.register_buffer("error_calibration", torch.tensor([[1.0, 0.0]] * HOLE_DEPTHS))
            self.register_buffer("face_scores", torch.zeros(2))
        self.needs_calibration = gan is not None
        self.uses_discriminator = s.adversarial > 0 or s.feature_matching > 0
        self.steps_per_batch = 1 + self.uses_discriminator
        if self.uses_discriminator:
            channels = s.channels + s.conditional  # the mask is one more channel
            self.discriminator = Discriminator(s.image_size, channels, s.df_dim, s.layers)
            if gan is not None:
                start_from_gan(self.discriminator, gan.discriminator)

    @classmethod
    def from_hyperparameters(cls, hyperparameters: Mapping[str, Any]) -> Self:
        own = dict(hyperparameters)
        kind, gan_settings = own.pop("gan_kind", None), own.pop("gan_settings", None)
        gan = None if kind is None else LatentGAN.from_description(kind, gan_settings)
        return cls(gan, **asdict(make(cls.Settings, own)))

    def fill(self, ema: bool = True, fold: bool = True) -> nn.Module:
        network = freeze(self.ema_network if ema else self.network, fold)
        return network if self.gan is None else MirrorAverage(network)

    def latent_encoder(self, ema: bool = True) -> nn.Module | None:
        if self.gan is None:
            return None
        network = freeze(self.ema_network if ema else self.network)
        network.register_buffer("error_calibration", self.error_calibration)
        return network

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.gan is not None:  # the moving statistics of its generator stay as they are
            self.gan.eval()
            self.network.decoder.eval()
        return self

    def configure_optimizers(self) -> list[torch.optim.Adam]:
        s, parts = self.settings, dict(self.network.named_children())
        groups: list[dict[str, Any]] = []
        if self.gan is not None:
            tuned = parts.pop("decoder").layers[s.frozen_layers :]
            groups.append({"params": tuned.parameters(), "factor": s.generator_lr})
        new = (p for part in parts.values() for p in part.parameters())
        groups.insert(0, {"params": new, "factor": 1.0})
        betas = (s.beta1, s.beta2)
        optimizers = [torch.optim.Adam(groups, s.lr, betas, fused=True)]
        if self.uses_discriminator:
            parameters = self.discriminator.parameters()
            optimizers.append(torch.optim.Adam(parameters, s.d_lr, betas, fused=True))
        return optimizers

    def check(self) -> None:
        super().check()
        self._load_features()  # the package may be missing

    def _load_features(self) -> Any:
        """Return the network of the perceptual loss, or None."""
        s = self.settings
        if not s.perceptual:
            return None
        side = max(64, min(s.image_size, PERCEPTUAL_SIDE))  # px
        return load_efficientnet(
            "lite1", s.image_size, f"model.perceptual={s.perceptual}", side
        ).to(self.device)

    def on_fit_start(self) -> None:
        # A tuple keeps the network out of the checkpoint.
        self.features = (self._load_features(),)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        s, images = self.settings, batch["image"]  # (B, C, S, S)
        index = self.sample_indices(len(images))  # (B,)
        valid = batch.get("valid")  # (B, 1, S, S), or None if all pixels are
        if s.changed:
            images, valid = augment(images, index, s.seed, s.changed, valid)
        if valid is None:
            valid = torch.ones_like(images[:, :1])
        mask = self.training_masks(index) * valid  # (B, 1, S, S)
        parts = self.parts(images, mask, valid)
        # One pass serves both steps.  Several parts are completed twice, so that the graph of one
        # is in memory at a time.
        complete = functools.cache(self._complete) if len(parts) == 1 else self._complete
        log = {}
        if self.uses_discriminator:
            log = self.update_network(1, functools.partial(self._d_loss, complete), parts)
        log |= self._update_network(functools.partial(self._loss, complete), parts)
        self.update_average(self.ema_network, self.network)
        self.log_step(log, bar=("loss",))
        return log["loss"]

    def _complete(self, images: Tensor, mask: Tensor, valid: Tensor) -> Completed:
        fake = self.network(images * mask, mask).float()  # (B, C, S, S)
        images = torch.where(valid == 0, fake.detach(), images)
        return Completed(fake, images, torch.where(mask == 0, fake, images))

    def _seen(self, done: Completed) -> Tensor:
        """Return the images (B, C, S, S) of the network that D sees."""
        return done.completed if self.settings.conditional else done.fake

    def _loss(
        self, complete: Callable[..., Completed], images: Tensor, mask: Tensor, valid: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the network, and the values to log."""
        done = complete(images, mask, valid)
        terms = self._terms(done, mask, valid)
        if self.settings.perceptual:
            terms["perceptual"] = self._perceptual_term(done.completed, done.images)
        weighted = (getattr(self.settings, name) * term for name, term in terms.items())
        loss = sum(weighted, torch.zeros(()))
        return loss, {"loss": loss} | terms

    def _terms(self, done: Completed, mask: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss that have a weight, by the name of the weight."""
        fake, images, _ = done
        s, size, hole = self.settings, images[0].numel(), (1 - mask) * valid  # (B, 1, S, S)
        terms = {}
        if s.known:
            terms["known"] = losses.context_loss(fake, images, mask).mean() / size
        if s.hole:
            terms["hole"] = losses.context_loss(fake, images, hole).mean() / size
        if s.hole_l2:
            terms["hole_l2"] = losses.hole_loss(fake, images, 1 - hole).mean()
        if self.uses_discriminator:
            self.discriminator.requires_grad_(False)  # its weights need no gradients here
            logits, maps = self.discriminator.with_maps(self._input(self._seen(done), mask))
            if s.adversarial:
                terms["adversarial"] = losses.generator_loss(logits.float())
            if s.feature_matching:
                with torch.no_grad():
                    _, targets = self.discriminator.with_maps(self._input(images, mask))
                terms["feature_matching"] = losses.feature_matching(maps, targets)
            self.discriminator.requires_grad_(True)
        return terms

    def _perceptual_term(self, completed: Tensor, images: Tensor) -> Tensor:
        (network,) = self.features
        # On a CPU the gradient of a depthwise convolution is slower in bf16 than in float32.
        with torch.autocast(images.device.type, enabled=False):
            with torch.no_grad():
                truth = network(images)
            return feature_distance(network(completed), truth).mean()

    def _input(self, images: Tensor, mask: Tensor) -> Tensor:
        """Return what D sees of images (B, C, S, S): themselves or, conditional, also the mask."""
        return torch.cat([images, mask], 1) if self.settings.conditional else images

    def _d_loss(
        self, complete: Callable[..., Completed], images: Tensor, mask: Tensor, valid: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of D, and the values to log."""
        done = complete(images, mask, valid)

        def logits(x: Tensor) -> Tensor:
            return self.discriminator(self._input(x, mask)).float()  # (B,)

        real_logits, fake_logits = logits(done.images), logits(self._seen(done).detach())
        loss_real, loss_fake = losses.discriminator_losses(real_logits, fake_logits)
        loss = loss_real + loss_fake
        penalty = losses.lazy_penalty(logits, done.images, self.settings.r1, self.iteration)
        scores = {"D(y)": real_logits.sigmoid().mean(), "D(x)": fake_logits.sigmoid().mean()}
        return loss if penalty is None else loss + penalty, {"d_loss": loss} | scores

    def _update_network(
        self, loss_of: Callable, parts: Sequence[tuple[Tensor, ...]]
    ) -> dict[str, Tensor]:
        """Take one step with the network, on the schedule of the step size.

        Returns the values to log, as `update_network`.
        """
        optimizers = self.optimizers()
        optimizer: Any = optimizers[0] if isinstance(optimizers, list) else optimizers
        lr = self.settings.lr
        if self.settings.schedule == "cosine":
            lr *= self.cosine_factor()
        for group in optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        return self.update_network(0, loss_of, parts)

    @torch.no_grad()
    def calibrate(self, images: Tensor, count: int = 8) -> None:
        """Measure the noise of samples, and fit the error of their mean, on images not trained on.

        Args:
            images: (B, C, S, S) in [-1, 1].
            count: Number of samples of each image.
        """
        index = torch.arange(len(images), device=self.device)
        mask = self.training_masks(-1 - index)  # (B, 1, S, S); training has indices from 0
        self.ema_network.measure_directions(images, mask)
        self.network.directions.copy_(self.ema_network.directions)
        network, dim = freeze(self.ema_network), self.network.noise_dim

        def sample(known: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
            z, offset, skips = network.encode(known, mask, noise)
            return network.decoder(z, offset=offset, skips=skips).float()  # (b·K, C, S, S)

        parts = []
        for rows in index.split(CALIBRATION_BATCH):
            known, part = images[rows] * mask[rows], mask[rows]
            noise = normal("calibrate w", self.settings.seed, rows, count * dim).view(-1, dim)
            mirrored = sample(known.flip(3), part.flip(3), noise).flip(3)
            fakes = (sample(known, part, noise) + mirrored) / 2
            repeated = (each.repeat_interleave(count, 0) for each in (images[rows], part))
            parts.append(poisson(fakes, *repeated).unflatten(0, (-1, count)))
        samples = torch.cat(parts)  # (B, K, C, S, S)
        self.error_calibration.copy_(calibrate_error(samples, images, mask, self.error_calibration))


def build_network(s: OnePassSettings, gan: LatentGAN | None) -> Any:
    """Return the untrained network, or one that starts from the averaged generator of a GAN."""
    if s.network == "unet":
        return UNetwork(s.image_size, s.channels, s.gf_dim)
    encoder = Encoder(s.image_size, s.channels, s.code_dim, s.df_dim, s.layers)
    if gan is None:
        generator = Generator(s.image_size, s.channels, s.code_dim, s.gf_dim)
        return EncoderGenerator(encoder, generator, None, s.skips)
    generator = copy.deepcopy(gan.ema_generator).requires_grad_(True)
    generator.layers[: s.frozen_layers].requires_grad_(False)
    return EncoderGenerator(encoder, generator, gan.settings.prior, s.skips)


def start_from_gan(discriminator: Discriminator, trained: Any) -> None:
    """Copy the weights of a GAN's D if it has the same widths.

    Weights for a channel that it does not have, the mask, start at 0.
    """
    ours, theirs = discriminator.state_dict(), trained.state_dict()
    first = "convs.0.weight"
    if any(
        name not in theirs or (name != first and theirs[name].shape != value.shape)
        for name, value in ours.items()
    ):
        return
    channels = theirs[first].shape[1]
    ours[first][:, channels:] = 0
    for name, value in theirs.items():
        (ours[first][:, :channels] if name == first else ours[name]).copy_(value)
    discriminator.load_state_dict(ours)


def _check_settings(s: OnePassSettings, gan: LatentGAN | None) -> None:
    """Raise ValueError for a setting that the network does not read, and for a GAN that misfits."""
    read = NETWORK_SETTINGS[s.network]
    for field in fields(OnePassSettings):
        value = getattr(s, field.name)
        elsewhere = any(field.name in names for names in NETWORK_SETTINGS.values())
        if elsewhere and field.name not in read and value != field.default:
            raise ValueError(
                f"model.{field.name}={show(value)}: model/network={s.network} does not have it. "
                "Remove it"
            )
    if not (s.known or s.hole or s.hole_l2 or s.adversarial or s.perceptual):
        raise ValueError("loss: all weights are 0. Use loss=one_pass, pathak or l1")
    if (gan is not None) != (s.network == "encoder_generator"):
        problem = "=null: is required by" if gan is None else ": applies only to"
        raise ValueError(f"model.gan{problem} model/network=encoder_generator")
    if gan is not None and gan.image_shape != (s.channels, s.image_size, s.image_size):
        g = gan.settings
        raise ValueError(
            f"data.image_size={s.image_size} data.channels={s.channels}: gan= generates other "
            f"images. Use data.image_size={g.image_size} data.channels={g.channels}"
        )
