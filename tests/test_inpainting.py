import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from torch.utils.data import DataLoader
from training import quiet_trainer, small_dcgan

from dcgan_inpaint.blending import paste, poisson
from dcgan_inpaint.configs import compose_config, make
from dcgan_inpaint.data.faces.source import Faces
from dcgan_inpaint.images import to_float
from dcgan_inpaint.inpainting.build import build
from dcgan_inpaint.inpainting.module import InpaintingModule, Objective
from dcgan_inpaint.inpainting.search import SearchSettings, Stage
from dcgan_inpaint.inpainting.solvers import Adam
from dcgan_inpaint.masks import masks
from dcgan_inpaint.masks.measurements import Lowres
from dcgan_inpaint.metrics.completions import psnr
from dcgan_inpaint.models.checkpoint import load_model
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.networks import frozen
from dcgan_inpaint.models.uncertainty import DEPTHS
from dcgan_inpaint.randomness import normal


@pytest.fixture(scope="module")
def dcgan():
    return small_dcgan(z_dim=8)


KEPT = {"candidates", "select", "seed", "out_interval"}


def module(dcgan, mask=lambda i, s: masks.center(i, s, 0.25), **settings):
    defaults = {
        "objective": Objective(),
        "solver": Adam(iterations=12, lr=0.05),
        "blend": paste,
    }
    kept = {name: settings.pop(name) for name in KEPT & settings.keys()}
    return InpaintingModule(dcgan, mask, **defaults | settings, settings=make(SearchSettings, kept))


def batch(n, start=0):
    index = torch.arange(start, start + n)
    images = torch.stack(
        [torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(int(i))) for i in index]
    )
    return {"image": images * 2 - 1, "index": index}


def test_the_search_lowers_the_objective(dcgan):
    done = module(dcgan, solver=Adam(iterations=60, lr=0.05)).predict_step(batch(6))
    assert (done.trace[-1, :, 2] < 0.97 * done.trace[0, :, 2]).all()


def test_it_finds_the_z_of_a_generated_image(dcgan):
    """With nothing missing and a start near it, the search recovers the image."""
    z = dcgan.latents(torch.arange(3), seed=5) * 0.5
    with torch.no_grad():
        images = dcgan(z)
    search = module(dcgan, masks.full, solver=Adam(400, 0.05), objective=Objective(lam=0))
    done = search.predict_step({"image": images, "index": torch.arange(3)})
    assert (done.trace[-1, :, 2] < 0.15 * done.trace[0, :, 2]).all()


def test_only_z_gets_gradient(dcgan):
    before = {name: value.clone() for name, value in dcgan.state_dict().items()}
    search = module(dcgan)
    frozen = {name: value.clone() for name, value in search.state_dict().items()}
    done = search.predict_step(batch(2))
    assert not any(p.requires_grad for p in search.parameters())
    assert all(p.grad is None for p in [*search.parameters(), *dcgan.parameters()])
    for name, value in search.state_dict().items():
        assert torch.equal(value, frozen[name])
    for name, value in dcgan.state_dict().items():
        assert torch.equal(value, before[name])
    assert not done.z.requires_grad
    assert not torch.equal(done.z, dcgan.latents(done.index))


@pytest.mark.parametrize("weighting", ["mask", "window"])
def test_known_pixels_are_exact_after_paste(dcgan, weighting):
    search = module(
        dcgan,
        lambda i, s: masks.random(i, s, seed=0, missing=0.5),
        objective=Objective(weighting=weighting),
    )
    done = search.predict_step(batch(4))
    known = done.mask.expand_as(done.images) == 1
    assert torch.equal(done.completion[known], done.images[known])
    assert torch.equal(done.completion[~known], done.fake[~known])


@pytest.mark.parametrize("objective", [Objective(), Objective(0.003, "window", saturating=True)])
def test_results_do_not_depend_on_the_batch(dcgan, objective):
    search = module(
        dcgan, lambda i, s: masks.random(i, s, seed=3, missing=0.4), objective=objective
    )
    together = search.predict_step(batch(7))
    for i in range(7):
        alone = search.predict_step(batch(1, start=i))
        torch.testing.assert_close(alone.z[0], together.z[i], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone.completion[0], together.completion[i], rtol=0, atol=1e-3)
        assert torch.equal(alone.mask[0], together.mask[i])


def test_the_default_search_of_64_images_hardly_depends_on_the_batch_size():
    """What rounding does to the search of the shipped model from a random z; search.md has more."""
    cfg = compose_config("inpaint", ["ckpt=celeba64"])
    search = build(cfg, load_model(cfg.ckpt), instantiate(cfg.mask))
    faces = Faces(image_size=64)
    drawn = np.stack(faces.decode(faces.items("test")[:64]))  # (64, 3, 64, 64) uint8
    images = to_float(drawn)  # in [-1, 1]
    quality = {}
    for size in (64, 5):
        done = [
            search.predict_step({"image": images[i], "index": i})
            for i in torch.arange(64).split(size)
        ]
        quality[size] = torch.cat([psnr(d.completion, d.images, 1 - d.mask) for d in done])  # (64,)
    change = (quality[64] - quality[5]).abs()
    assert 0 < change.max() < 1
    assert change.mean() < 0.2
    assert abs(quality[64].mean() - quality[5].mean()) < 0.05


def test_neighbours_change_nothing(dcgan):
    """To the bit, in a batch of the same size, from a random z."""
    search, data = module(dcgan), batch(8)
    found = []
    for rows in ([0, 1, 2, 3, 4, 5], [6, 1, 7, 3, 6, 7]):
        done = search.predict_step({name: value[rows] for name, value in data.items()})
        found.append((done.z[[1, 3]], done.fake[[1, 3]]))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_start_follows_seed_and_index(dcgan):
    start = {}
    for seed in (0, 1):
        search = module(dcgan, solver=Adam(1, lr=1e-12), seed=seed)
        start[seed] = search.predict_step(batch(3)).z
        torch.testing.assert_close(start[seed], dcgan.latents(torch.arange(3), seed=seed))
    assert not torch.allclose(start[0], start[1])


def test_trace_holds_the_losses_seen(dcgan):
    search = module(dcgan, objective=Objective(lam=0.5))
    data = batch(3)
    done = search.predict_step(data)
    assert done.trace.shape == (13, 3, 3)
    context, prior, total = done.trace.unbind(2)
    torch.testing.assert_close(total, context + 0.5 * prior)
    with torch.no_grad():
        fake = dcgan(dcgan.latents(data["index"]))
        logits = dcgan.discriminator.eval()(fake)
    expected = (done.mask * (fake - data["image"]).abs()).sum((1, 2, 3))
    torch.testing.assert_close(context[0], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prior[0], torch.nn.functional.softplus(-logits))


def test_frames(dcgan):
    done = module(dcgan, out_interval=5).predict_step(batch(2))
    assert done.frame_iterations == [0, 5, 10, 12]
    assert done.frames.shape == (4, 2, 3, 16, 16)
    assert torch.equal(done.frames[-1], done.completion)
    assert torch.equal(done.frame_z[0], dcgan.latents(done.index))  # as evaluated, not as moved
    assert torch.equal(done.frame_z[-1], done.z)
    with torch.no_grad():
        second = paste(dcgan(done.frame_z[1]), done.images, done.mask)
    torch.testing.assert_close(second, done.frames[1], rtol=1e-4, atol=1e-5)
    known = done.mask.expand_as(done.images) == 1
    assert all(torch.equal(frame[known], done.images[known]) for frame in done.frames)


@pytest.mark.parametrize("select", ["best", "mean", "sample"])
def test_a_search_is_watched(dcgan, select):
    """Each evaluation, as it stands in the trace and the frames; watching changes nothing."""
    settings = {"select": select, "candidates": 1 if select == "best" else 3, "out_interval": 5}
    seen, shown = [], {}

    def watch(progress):
        seen.append(progress)
        if progress.iteration in (0, 5, 10, 12):
            shown[progress.iteration] = progress.show()

    unwatched = module(dcgan, **settings).predict_step(batch(2))
    search = module(dcgan, **settings)
    search.on_progress = watch
    done = search.predict_step(batch(2))
    assert torch.equal(done.completion, unwatched.completion)
    assert [progress.iteration for progress in seen] == list(range(13))
    assert {progress.iterations for progress in seen} == {12}
    assert all(torch.equal(progress.index, done.index) for progress in seen)
    assert torch.equal(seen[-1].losses, done.trace[-1])
    for frame, iteration in zip(done.frames, done.frame_iterations, strict=True):
        torch.testing.assert_close(frame, shown[iteration])  # a mean may be of another order
        assert not shown[iteration].requires_grad


def test_who_watches_ends_the_search(dcgan):
    seen = []

    def watch(progress):
        seen.append(progress.iteration)
        if progress.iteration == 3:
            raise InterruptedError("the page was closed")

    search = module(dcgan)
    search.on_progress = watch
    with pytest.raises(InterruptedError, match="page was closed"):
        search.predict_step(batch(2))
    assert seen == [0, 1, 2, 3]


def test_spread_and_fakes_of_candidates(dcgan):
    done = module(dcgan, candidates=3).predict_step(batch(2))
    assert torch.equal(done.fakes[:, 0], done.fake)
    hole = (done.mask == 0).expand_as(done.images)
    for k in range(3):
        assert torch.equal(done.candidates[:, k][hole], done.fakes[:, k][hole])
    assert done.spread.shape == (2, 1, 16, 16)
    assert (done.spread[done.mask == 1] == 0).all()
    one = done.candidates[1, :, :, 7, 8]  # (3 candidates, 3 channels)
    by_hand = sum((((c - c.mean()) ** 2).sum() / 2).sqrt() for c in one.T) / 3
    torch.testing.assert_close(done.spread[1, 0, 7, 8], by_hand)


def test_measured_restoration(dcgan):
    measure = Lowres(4)
    search = module(dcgan, masks.nothing, measure=measure, solver=Adam(40, 0.05))
    data = batch(2)
    done = search.predict_step(data)
    context = (measure.predict(done.fake) - measure.predict(data["image"])).abs().sum((1, 2, 3))
    torch.testing.assert_close(done.trace[-1, :, 0], context, rtol=1e-4, atol=1e-4)
    assert torch.equal(done.completion, done.fake)
    assert (done.trace[-1, :, 0] < done.trace[0, :, 0]).all()
    assert torch.equal(done.observed[:, :, :4, :4], done.observed[:, :, :1, :1].expand(2, 3, 4, 4))


def test_raw_generator_on_request(dcgan):
    start = Adam(1, lr=1e-12)
    averaged = module(dcgan, solver=start).predict_step(batch(1)).fake
    raw = module(dcgan, solver=start, ema=False).predict_step(batch(1)).fake
    z = dcgan.latents(torch.arange(1))
    with torch.no_grad():
        torch.testing.assert_close(averaged, dcgan(z), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(raw, dcgan(z, ema=False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_predict_in_either_precision(dcgan, precision):
    """Through Lightning; bf16 follows fp32 for a while."""
    search = module(dcgan)
    trainer = quiet_trainer(
        precision=precision,
    )
    (done,) = trainer.predict(search, DataLoader([batch(4)], batch_size=None))
    exact = search.predict_step(batch(4))
    assert done.z.dtype == done.completion.dtype == torch.float32
    torch.testing.assert_close(done.trace[:3], exact.trace[:3], rtol=0.02, atol=0)
    assert (done.trace[-1, :, 2] < done.trace[0, :, 2]).all()


def test_a_normal_prior_is_not_clipped():
    normal = DCGAN(image_size=16, z_dim=8, gf_dim=4, df_dim=4, prior="normal")
    with pytest.raises(ValueError, match="Use solver.bound=none"):
        module(normal)
    done = module(normal, solver=Adam(3, 0.05, bound="none")).predict_step(batch(2))
    assert done.z.abs().max() > 1


def test_works_inside_inference_mode(dcgan):
    search = module(dcgan)
    with torch.inference_mode():
        done = search.predict_step(batch(2))
    assert (done.trace[-1, :, 2] < done.trace[0, :, 2]).all()


def test_check_finds_a_bad_mask_at_once(dcgan):
    with pytest.raises(ValueError, match="measure.factor=3"):
        module(dcgan, masks.nothing, measure=Lowres(3)).check()
    for name, value in (("out_interval", -1), ("candidates", 0)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            module(dcgan, **{name: value})


def test_candidates_are_separate_searches_and_the_best_is_kept(dcgan):
    one, four = module(dcgan), module(dcgan, candidates=4)
    single, several = one.predict_step(batch(3)), four.predict_step(batch(3))
    assert several.candidates.shape == (3, 4, 3, 16, 16)
    assert torch.equal(several.candidates[:, 0], several.completion)
    assert (several.trace[-1, :, 2] <= single.trace[-1, :, 2] * 1.001).all()
    for i in range(3):  # candidate 0 is the search that candidates=1 makes
        distance = (several.candidates[i] - single.completion[i]).abs().amax((1, 2, 3))
        assert distance.min() < 1e-3
        assert distance.max() > 1e-2
    known = several.mask[:, None].expand_as(several.candidates) == 1
    truth = several.images[:, None].expand_as(several.candidates)
    assert torch.equal(several.candidates[known], truth[known])
    with torch.no_grad():
        fake = dcgan(several.z)  # z, trace and images are of the same candidate
        torch.testing.assert_close(fake, several.fake, rtol=1e-3, atol=1e-4)


def test_candidates_do_not_depend_on_the_batch(dcgan):
    search = module(dcgan, candidates=3)
    together = search.predict_step(batch(4))
    alone = search.predict_step(batch(1, start=2))
    torch.testing.assert_close(alone.candidates[0], together.candidates[2], rtol=0, atol=1e-3)


def stage(level=1, leash=0.0, **solver):
    defaults = {"iterations": 30, "lr": 0.05, "bound": "none"}
    return Stage(level, Adam(**defaults | solver), leash)


def test_stages_go_on_where_z_stopped(dcgan):
    plain = module(dcgan).predict_step(batch(4))
    staged = module(dcgan, stages=[stage(1), stage(2)]).predict_step(batch(4))
    assert staged.trace.shape == (12 + 30 + 30 + 1, 4, 3)
    assert torch.equal(staged.z, plain.z)
    torch.testing.assert_close(staged.trace[:13], plain.trace)
    # each stage starts with the image of the one before, and does better than it
    assert (staged.trace[42, :, 2] < 0.9 * staged.trace[12, :, 2]).all()
    assert (staged.trace[-1, :, 2] < 0.9 * staged.trace[42, :, 2]).all()
    known = staged.mask.expand_as(staged.images) == 1
    assert torch.equal(staged.completion[known], staged.images[known])


def test_a_short_leash_holds(dcgan):
    plain = module(dcgan).predict_step(batch(3))
    change = {}
    for leash in (0.0, 0.3, 1e6):
        # with a step that falls to almost nothing, Adam rests where the leash is tight
        held = module(dcgan, stages=[stage(1, leash, lr=1e-3, schedule="cosine")])
        change[leash] = (held.predict_step(batch(3)).fake - plain.fake).abs().mean()
    assert change[1e6] < change[0.3] < change[0.0]
    assert change[1e6] < 0.1 * change[0.0]


def test_the_leash_is_the_l1_distance_to_the_start(dcgan):
    extra = {}
    for leash in (0.7, 1.4):
        held = module(dcgan, objective=Objective(lam=0), stages=[stage(2, leash, iterations=2)])
        done = held.predict_step(batch(2))
        totals, contexts = done.trace[:, :, 2], done.trace[:, :, 0]
        assert torch.equal(totals[:13], contexts[:13])  # z, and the start of the stage
        assert torch.equal(totals[-1], contexts[-1])  # the end is judged without it
        extra[leash] = totals[13] - contexts[13]
    size = held.generator.lift(done.z, 0, 2).shape[1]
    # Adam's first step moves what has a gradient by lr: not what a ReLU has cut off
    assert (extra[0.7] > 0.2 * 0.7 * 0.05 * size).all()
    assert (extra[0.7] < 1.001 * 0.7 * 0.05 * size).all()
    torch.testing.assert_close(extra[1.4], 2 * extra[0.7], rtol=1e-3, atol=0)


def test_stages_do_not_depend_on_the_batch(dcgan):
    staged = module(dcgan, candidates=2, stages=[stage(1, 0.05, lr=0.01)])
    together = staged.predict_step(batch(3))
    alone = staged.predict_step(batch(1, start=2))
    torch.testing.assert_close(alone.completion[0], together.completion[2], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": 0}, "level=0: should be"),
        ({"leash": -1.0}, "leash=-1.0: should be"),
        ({"bound": "clip"}, "bound=clip: a feature map has no bound. Use bound=none"),
        (
            {"level": 3},
            r"stages: levels \[3\] do not fit this checkpoint. Use increasing levels from 1 to 2",
        ),
    ],
)
def test_stage_errors(dcgan, settings, message):
    with pytest.raises(ValueError, match=message):
        module(dcgan, stages=[stage(**settings)])


class Constant(torch.nn.Module):
    """An encoder that always says the same, and remembers what it was shown."""

    def __init__(self, map_dim):
        super().__init__()
        self.map_dim, self.noise_dim = map_dim, 0

    def forward(self, known, mask):
        self.known = known
        return torch.full((len(known), 8), 0.25), torch.full((len(known), self.map_dim), 0.5)


def test_an_encoder_and_stages_in_bf16(dcgan):
    """What is moved stays float32, though the networks speak bf16, whose steps would be lost."""
    generator = frozen(dcgan.ema_generator)

    class Speaks(Constant):
        def forward(self, known, mask):
            return tuple(says.bfloat16() for says in super().forward(known, mask))

    moved = []

    class Watched(Adam):
        def optimizer(self, z):
            moved.append(z.dtype)
            return super().optimizer(z)

    settings = {"iterations": 2, "lr": 0.01, "bound": "none"}
    stages = [Stage(level, Watched(**settings)) for level in (1, 2)]
    encoder = Speaks(generator.project.out_features)
    search = module(dcgan, solver=Watched(2), encoder=encoder, candidates=3, stages=stages)
    trainer = quiet_trainer(precision="bf16-mixed")
    (done,) = trainer.predict(search, DataLoader([batch(2)], batch_size=None))
    assert moved == [torch.float32] * 3
    assert done.completion.dtype == torch.float32


def test_an_encoder_starts_two_candidates(dcgan):
    """From the image, and from its mirror image; a third candidate starts from a draw of z."""
    generator = frozen(dcgan.ema_generator)
    encoder = Constant(generator.project.out_features)
    search = module(dcgan, solver=Adam(0), encoder=encoder, candidates=3)
    data = batch(2)
    done = search.predict_step(data)
    assert done.trace.shape == (1, 2, 3)  # no search
    with torch.no_grad():
        first = generator(generator.project(torch.full((2, 8), 0.25)) + 0.5, level=1)
        third = dcgan(dcgan.latents(data["index"] + (2 << 32)))
    hole = (1 - done.mask[:, None]).bool().expand_as(done.candidates)
    for fake in (
        first,
        first.flip(3),
        third,
    ):  # all are among the candidates, in the order of the objective
        distance = ((done.candidates - fake[:, None]) * hole).abs().amax((2, 3, 4)).amin(1)
        assert (distance < 1e-4).all()
    known = data["image"] * done.mask
    assert (encoder.known == torch.stack([known, known.flip(3)], 1).flatten(0, 1)).all()
    # and a stage goes on from there
    still = module(dcgan, solver=Adam(0), encoder=encoder, stages=[stage(iterations=0, level=2)])
    torch.testing.assert_close(still.predict_step(data).fake, first)


class Sampling(torch.nn.Module):
    """An encoder whose z is its noise, and that counts the images it was shown."""

    noise_dim = 8

    def __init__(self, map_dim):
        super().__init__()
        self.map_dim, self.shown = map_dim, 0
        self.doubt = torch.tensor([[2.0, 0.1]] * DEPTHS)

    def forward(self, known, mask, noise):
        self.shown += len(known)
        return noise.clamp(-1, 1), torch.zeros(len(noise), self.map_dim)


def sampled(dcgan, data, **settings):
    encoder = Sampling(frozen(dcgan.ema_generator).project.out_features)
    search = module(dcgan, solver=Adam(0), encoder=encoder, **settings)
    return search.predict_step(data), encoder


def test_a_sampling_encoder_draws_every_candidate(dcgan):
    """K draws of one encoding; the first of them is what one draw gives, whoever is beside it."""
    several, encoder = sampled(dcgan, batch(3), candidates=4, select="sample")
    assert encoder.shown == 3
    assert several.candidates.shape == (3, 4, 3, 16, 16)
    alone, _ = sampled(dcgan, batch(1, start=2), select="sample")
    torch.testing.assert_close(several.completion[2], alone.completion[0], rtol=0, atol=1e-5)
    noise = normal("w", 0, torch.arange(3), 8).clamp(-1, 1)
    torch.testing.assert_close(several.z, noise)
    with torch.no_grad():
        torch.testing.assert_close(several.fake, dcgan(noise), rtol=1e-4, atol=1e-5)
    other, _ = sampled(dcgan, batch(3), candidates=4, select="sample", seed=1)
    assert not torch.allclose(several.z, other.z)
    error = (2 * several.spread * (1 + 1 / 4) ** 0.5 + 0.1) * (1 - several.mask)
    torch.testing.assert_close(several.predicted_error, error)
    assert alone.predicted_error is None


def test_answers_of_a_sampling_encoder(dcgan):
    """The first draw, whatever the objective says; the best by it; the mean of all."""
    data = batch(4)
    answers = ("sample", "best", "mean")
    first, best, mean = (sampled(dcgan, data, candidates=5, select=a)[0] for a in answers)
    assert (best.trace[-1, :, 2] <= first.trace[-1, :, 2]).all()
    assert (best.trace[-1, :, 2] < first.trace[-1, :, 2]).any()
    torch.testing.assert_close(first.candidates[:, 0], first.completion)
    torch.testing.assert_close(best.candidates[:, 0], best.completion)
    hole = (mean.mask == 0).expand_as(mean.images)
    torch.testing.assert_close(mean.completion[hole], mean.candidates.mean(1)[hole])


@pytest.mark.parametrize("blend", [paste, poisson])
def test_the_mean_of_the_candidates(dcgan, blend):
    best = module(dcgan, candidates=3, blend=blend).predict_step(batch(2))
    settings = {"candidates": 3, "blend": blend, "select": "mean", "out_interval": 5}
    mean = module(dcgan, **settings).predict_step(batch(2))
    assert torch.equal(mean.candidates, best.candidates)
    assert torch.equal(mean.frames[-1], mean.completion)
    assert torch.equal(mean.z, best.z)
    # blending is linear, but for Poisson's clamp
    difference = (mean.completion - best.candidates.mean(1)).abs()
    assert (difference < 1e-5).float().mean() > (0.999 if blend is paste else 0.9)
    known = mean.mask.expand_as(mean.images) == 1
    assert torch.equal(mean.completion[known], mean.images[known])
    with pytest.raises(ValueError, match="select=all: should be 'best', 'mean' or 'sample'"):
        module(dcgan, select="all")
