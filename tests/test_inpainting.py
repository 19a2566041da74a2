import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from torch.utils.data import DataLoader
from training import quiet_trainer, small_dcgan

from dcgan_inpaint.blending import paste, poisson
from dcgan_inpaint.configs import make
from dcgan_inpaint.data.faces.source import Faces
from dcgan_inpaint.images import to_float
from dcgan_inpaint.inpainting.build import build, load_configured
from dcgan_inpaint.inpainting.module import InpaintingModule, Objective
from dcgan_inpaint.inpainting.search import SearchSettings, Stage
from dcgan_inpaint.inpainting.solvers import Adam
from dcgan_inpaint.masks import masks
from dcgan_inpaint.masks.measurements import Lowres
from dcgan_inpaint.metrics.completions import psnr
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.networks import Encoding, freeze
from dcgan_inpaint.models.uncertainty import HOLE_DEPTHS
from dcgan_inpaint.randomness import normal


@pytest.fixture(scope="module")
def dcgan():
    return small_dcgan(z_dim=8)


SEARCH_OPTIONS = {"candidates", "select", "seed", "out_interval"}


def module(dcgan, mask=lambda i, s: masks.center(i, s, 0.25), **options):
    """An InpaintingModule with a short search; options of SearchSettings or of the module."""
    search_options = {name: options.pop(name) for name in SEARCH_OPTIONS & options.keys()}
    settings = make(SearchSettings, search_options)
    defaults = {"objective": Objective(), "solver": Adam(iterations=12, lr=0.05), "blend": paste}
    return InpaintingModule(dcgan, mask, **defaults | options, settings=settings)


def batch(n, start=0):
    index = torch.arange(start, start + n)
    images = torch.stack(
        [torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(int(i))) for i in index]
    )
    return {"image": images * 2 - 1, "index": index}


def test_search_lowers_the_objective(dcgan):
    done = module(dcgan, solver=Adam(iterations=60, lr=0.05)).predict_step(batch(6))
    assert (done.trace[-1, :, 2] < 0.97 * done.trace[0, :, 2]).all()


def test_search_recovers_a_generated_image(dcgan):
    """All pixels are known and the latents are small."""
    z = dcgan.latents(torch.arange(3), seed=5) * 0.5
    with torch.no_grad():
        images = dcgan(z)
    search = module(dcgan, masks.full, solver=Adam(400, 0.05), objective=Objective(lam=0))
    done = search.predict_step({"image": images, "index": torch.arange(3)})
    assert (done.trace[-1, :, 2] < 0.15 * done.trace[0, :, 2]).all()


def test_search_leaves_the_networks_unchanged(dcgan):
    before = {name: value.clone() for name, value in dcgan.state_dict().items()}
    search = module(dcgan)
    copies = {name: value.clone() for name, value in search.state_dict().items()}
    done = search.predict_step(batch(2))
    assert not any(p.requires_grad for p in search.parameters())
    assert all(p.grad is None for p in [*search.parameters(), *dcgan.parameters()])
    for name, value in search.state_dict().items():
        assert torch.equal(value, copies[name])
    for name, value in dcgan.state_dict().items():
        assert torch.equal(value, before[name])
    assert not done.z.requires_grad
    assert not torch.equal(done.z, dcgan.latents(done.index))


@pytest.mark.parametrize("weighting", ["mask", "window"])
def test_pasting_leaves_known_pixels_unchanged(dcgan, weighting):
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
def test_completions_do_not_depend_on_the_batch(dcgan, objective):
    search = module(
        dcgan, lambda i, s: masks.random(i, s, seed=3, missing=0.4), objective=objective
    )
    together = search.predict_step(batch(7))
    for i in range(7):
        alone = search.predict_step(batch(1, start=i))
        torch.testing.assert_close(alone.z[0], together.z[i], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone.completion[0], together.completion[i], rtol=0, atol=1e-3)
        assert torch.equal(alone.mask[0], together.mask[i])


@pytest.mark.slow
def test_batch_size_hardly_changes_the_default_search_of_64_images():
    """The search from random latents amplifies rounding (experiments/search.md)."""
    config, model = load_configured(["ckpt=celeba64", "method=search", "start=random"])
    search = build(config, model, instantiate(config.mask))
    faces = Faces(image_size=64)
    levels = np.stack(faces.decode(faces.items("test")[:64]))  # (64, 3, 64, 64) uint8
    images = to_float(levels)  # in [-1, 1]
    by_size = {}
    for size in (64, 5):
        batches = [
            search.predict_step({"image": images[i], "index": i})
            for i in torch.arange(64).split(size)
        ]
        by_size[size] = torch.cat(
            [psnr(done.completion, done.images, 1 - done.mask) for done in batches]
        )  # (64,)
    change = (by_size[64] - by_size[5]).abs()
    assert 0 < change.max() < 1
    assert change.mean() < 0.2
    assert abs(by_size[64].mean() - by_size[5].mean()) < 0.05


def test_results_are_bitwise_equal_beside_other_images(dcgan):
    """In a batch of the same size, from random latents."""
    search, data = module(dcgan), batch(8)
    results = []
    for rows in ([0, 1, 2, 3, 4, 5], [6, 1, 7, 3, 6, 7]):
        done = search.predict_step({name: value[rows] for name, value in data.items()})
        results.append((done.z[[1, 3]], done.fake[[1, 3]]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_initial_z_depends_on_seed_and_index(dcgan):
    start = {}
    for seed in (0, 1):
        search = module(dcgan, solver=Adam(1, lr=1e-12), seed=seed)
        start[seed] = search.predict_step(batch(3)).z
        torch.testing.assert_close(start[seed], dcgan.latents(torch.arange(3), seed=seed))
    assert not torch.allclose(start[0], start[1])


def test_trace_contains_the_losses_of_each_evaluation(dcgan):
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


def test_frames_are_the_completions_of_their_iterations(dcgan):
    done = module(dcgan, out_interval=5).predict_step(batch(2))
    assert done.frame_iterations == [0, 5, 10, 12]
    assert done.frames.shape == (4, 2, 3, 16, 16)
    assert torch.equal(done.frames[-1], done.completion)
    assert torch.equal(done.frame_z[0], dcgan.latents(done.index))  # before the step
    assert torch.equal(done.frame_z[-1], done.z)
    with torch.no_grad():
        second = paste(dcgan(done.frame_z[1]), done.images, done.mask)
    torch.testing.assert_close(second, done.frames[1], rtol=1e-4, atol=1e-5)
    known = done.mask.expand_as(done.images) == 1
    assert all(torch.equal(frame[known], done.images[known]) for frame in done.frames)


@pytest.mark.parametrize("select", ["best", "mean", "sample"])
def test_on_progress_receives_every_evaluation(dcgan, select):
    """Its losses and images are those of the trace and the frames."""
    settings = {"select": select, "candidates": 1 if select == "best" else 3, "out_interval": 5}
    calls, shown = [], {}

    def on_progress(progress):
        calls.append(progress)
        if progress.iteration in (0, 5, 10, 12):
            shown[progress.iteration] = progress.show()

    plain = module(dcgan, **settings).predict_step(batch(2))
    search = module(dcgan, **settings)
    search.on_progress = on_progress
    done = search.predict_step(batch(2))
    assert torch.equal(done.completion, plain.completion)
    assert [progress.iteration for progress in calls] == list(range(13))
    assert {progress.iterations for progress in calls} == {12}
    assert all(torch.equal(progress.index, done.index) for progress in calls)
    assert torch.equal(calls[-1].losses, done.trace[-1])
    for frame, iteration in zip(done.frames, done.frame_iterations, strict=True):
        torch.testing.assert_close(frame, shown[iteration])  # the order of a mean may differ
        assert not shown[iteration].requires_grad


def test_an_exception_of_on_progress_ends_the_search(dcgan):
    iterations = []

    def on_progress(progress):
        iterations.append(progress.iteration)
        if progress.iteration == 3:
            raise InterruptedError("the page was closed")

    search = module(dcgan)
    search.on_progress = on_progress
    with pytest.raises(InterruptedError, match="page was closed"):
        search.predict_step(batch(2))
    assert iterations == [0, 1, 2, 3]


def test_spread_is_the_standard_deviation_of_the_candidates(dcgan):
    done = module(dcgan, candidates=3).predict_step(batch(2))
    assert torch.equal(done.fakes[:, 0], done.fake)
    hole = (done.mask == 0).expand_as(done.images)
    for k in range(3):
        assert torch.equal(done.candidates[:, k][hole], done.fakes[:, k][hole])
    assert done.spread.shape == (2, 1, 16, 16)
    assert (done.spread[done.mask == 1] == 0).all()
    one = done.candidates[1, :, :, 7, 8]  # (3 candidates, 3 channels)
    expected = sum((((c - c.mean()) ** 2).sum() / 2).sqrt() for c in one.T) / 3
    torch.testing.assert_close(done.spread[1, 0, 7, 8], expected)


def test_search_lowers_the_context_loss_of_a_low_resolution_measurement(dcgan):
    measure = Lowres(4)
    search = module(dcgan, masks.nothing, measure=measure, solver=Adam(40, 0.05))
    data = batch(2)
    done = search.predict_step(data)
    context = (measure.predict(done.fake) - measure.predict(data["image"])).abs().sum((1, 2, 3))
    torch.testing.assert_close(done.trace[-1, :, 0], context, rtol=1e-4, atol=1e-4)
    assert torch.equal(done.completion, done.fake)
    assert (done.trace[-1, :, 0] < done.trace[0, :, 0]).all()
    assert torch.equal(done.observed[:, :, :4, :4], done.observed[:, :, :1, :1].expand(2, 3, 4, 4))


def test_ema_false_searches_the_raw_generator(dcgan):
    solver = Adam(1, lr=1e-12)
    averaged = module(dcgan, solver=solver).predict_step(batch(1)).fake
    raw = module(dcgan, solver=solver, ema=False).predict_step(batch(1)).fake
    z = dcgan.latents(torch.arange(1))
    with torch.no_grad():
        torch.testing.assert_close(averaged, dcgan(z), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(raw, dcgan(z, ema=False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_trainer_predicts_in_both_precisions(dcgan, precision):
    """The first losses of bf16 are close to those of fp32."""
    search = module(dcgan)
    trainer = quiet_trainer(precision=precision)
    (done,) = trainer.predict(search, DataLoader([batch(4)], batch_size=None))
    exact = search.predict_step(batch(4))
    assert done.z.dtype == done.completion.dtype == torch.float32
    torch.testing.assert_close(done.trace[:3], exact.trace[:3], rtol=0.02, atol=0)
    assert (done.trace[-1, :, 2] < done.trace[0, :, 2]).all()


def test_a_normal_prior_requires_a_solver_without_a_bound():
    normal_gan = DCGAN(image_size=16, z_dim=8, gf_dim=4, df_dim=4, prior="normal")
    with pytest.raises(ValueError, match="Use solver.bound=none"):
        module(normal_gan)
    done = module(normal_gan, solver=Adam(3, 0.05, bound="none")).predict_step(batch(2))
    assert done.z.abs().max() > 1


def test_search_works_in_inference_mode(dcgan):
    search = module(dcgan)
    with torch.inference_mode():
        done = search.predict_step(batch(2))
    assert (done.trace[-1, :, 2] < done.trace[0, :, 2]).all()


def test_check_raises_for_options_out_of_range(dcgan):
    with pytest.raises(ValueError, match="measure.factor=3"):
        module(dcgan, masks.nothing, measure=Lowres(3)).check()
    for name, value in (("out_interval", -1), ("candidates", 0)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            module(dcgan, **{name: value})


def test_candidates_are_independent_and_the_best_one_is_selected(dcgan):
    one, four = module(dcgan), module(dcgan, candidates=4)
    single, several = one.predict_step(batch(3)), four.predict_step(batch(3))
    assert several.candidates.shape == (3, 4, 3, 16, 16)
    assert torch.equal(several.candidates[:, 0], several.completion)
    assert (several.trace[-1, :, 2] <= single.trace[-1, :, 2] * 1.001).all()
    for i in range(3):  # candidate 0 equals the search with candidates=1
        distance = (several.candidates[i] - single.completion[i]).abs().amax((1, 2, 3))
        assert distance.min() < 1e-3
        assert distance.max() > 1e-2
    known = several.mask[:, None].expand_as(several.candidates) == 1
    truth = several.images[:, None].expand_as(several.candidates)
    assert torch.equal(several.candidates[known], truth[known])
    with torch.no_grad():
        fake = dcgan(several.z)  # z, trace and images belong to the same candidate
        torch.testing.assert_close(fake, several.fake, rtol=1e-3, atol=1e-4)


def test_candidates_do_not_depend_on_the_batch(dcgan):
    search = module(dcgan, candidates=3)
    together = search.predict_step(batch(4))
    alone = search.predict_step(batch(1, start=2))
    torch.testing.assert_close(alone.candidates[0], together.candidates[2], rtol=0, atol=1e-3)


def stage(level=1, leash=0.0, **solver):
    defaults = {"iterations": 30, "lr": 0.05, "bound": "none"}
    return Stage(level, Adam(**defaults | solver), leash)


def test_stages_continue_from_the_final_z(dcgan):
    plain = module(dcgan).predict_step(batch(4))
    staged = module(dcgan, stages=[stage(1), stage(2)]).predict_step(batch(4))
    assert staged.trace.shape == (12 + 30 + 30 + 1, 4, 3)
    assert torch.equal(staged.z, plain.z)
    torch.testing.assert_close(staged.trace[:13], plain.trace)
    # Each stage starts from the image of the previous one and lowers its loss.
    assert (staged.trace[42, :, 2] < 0.9 * staged.trace[12, :, 2]).all()
    assert (staged.trace[-1, :, 2] < 0.9 * staged.trace[42, :, 2]).all()
    known = staged.mask.expand_as(staged.images) == 1
    assert torch.equal(staged.completion[known], staged.images[known])


def test_a_larger_leash_changes_the_image_less(dcgan):
    plain = module(dcgan).predict_step(batch(3))
    change = {}
    for leash in (0.0, 0.3, 1e6):
        # A step that decays to almost 0 lets Adam converge under a large leash.
        staged = module(dcgan, stages=[stage(1, leash, lr=1e-3, schedule="cosine")])
        change[leash] = (staged.predict_step(batch(3)).fake - plain.fake).abs().mean()
    assert change[1e6] < change[0.3] < change[0.0]
    assert change[1e6] < 0.1 * change[0.0]


def test_the_leash_adds_the_l1_distance_to_the_initial_map(dcgan):
    extra = {}
    for leash in (0.7, 1.4):
        staged = module(dcgan, objective=Objective(lam=0), stages=[stage(2, leash, iterations=2)])
        done = staged.predict_step(batch(2))
        totals, contexts = done.trace[:, :, 2], done.trace[:, :, 0]
        assert torch.equal(totals[:13], contexts[:13])  # in z and at the start of the stage
        assert torch.equal(totals[-1], contexts[-1])  # the final loss is without it
        extra[leash] = totals[13] - contexts[13]
    size = staged.generator.lift(done.z, 0, 2).shape[1]
    # Adam's first step is lr for every component with a gradient; a ReLU removes some of them.
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
def test_stages_that_do_not_fit_raise(dcgan, settings, message):
    with pytest.raises(ValueError, match=message):
        module(dcgan, stages=[stage(**settings)])


class Constant(torch.nn.Module):
    """A deterministic encoder with constant output that stores its input."""

    def __init__(self, map_dim):
        super().__init__()
        self.map_dim, self.noise_dim = map_dim, 0

    def encode(self, known, mask):
        self.known = known
        z, offset = torch.full((len(known), 8), 0.25), torch.full((len(known), self.map_dim), 0.5)
        return Encoding(z, offset)


def test_solvers_update_float32_with_networks_in_bf16(dcgan):
    generator = freeze(dcgan.ema_generator)

    class Half(Constant):
        def encode(self, known, mask):
            z, offset, _ = super().encode(known, mask)
            return Encoding(z.bfloat16(), offset.bfloat16())

    dtypes = []

    class RecordingAdam(Adam):
        def __call__(self, z, evaluate, rng):
            dtypes.append(z.dtype)
            return super().__call__(z, evaluate, rng)

    settings = {"iterations": 2, "lr": 0.01, "bound": "none"}
    stages = [Stage(level, RecordingAdam(**settings)) for level in (1, 2)]
    encoder = Half(generator.project.out_features)
    search = module(dcgan, solver=RecordingAdam(2), encoder=encoder, candidates=3, stages=stages)
    trainer = quiet_trainer(precision="bf16-mixed")
    (done,) = trainer.predict(search, DataLoader([batch(2)], batch_size=None))
    assert dtypes == [torch.float32] * 3
    assert done.completion.dtype == torch.float32


def test_an_encoder_initializes_two_candidates(dcgan):
    """The first from the image, the second from its mirror image; the third is random."""
    generator = freeze(dcgan.ema_generator)
    encoder = Constant(generator.project.out_features)
    search = module(dcgan, solver=Adam(0), encoder=encoder, candidates=3)
    data = batch(2)
    done = search.predict_step(data)
    assert done.trace.shape == (1, 2, 3)  # no search
    with torch.no_grad():
        first = generator(generator.project(torch.full((2, 8), 0.25)) + 0.5, level=1)
        third = dcgan(dcgan.latents(data["index"] + (2 << 32)))
    hole = (1 - done.mask[:, None]).bool().expand_as(done.candidates)
    for fake in (first, first.flip(3), third):  # the candidates are sorted by their objective
        distance = ((done.candidates - fake[:, None]) * hole).abs().amax((2, 3, 4)).amin(1)
        assert (distance < 1e-4).all()
    known = data["image"] * done.mask
    assert (encoder.known == torch.stack([known, known.flip(3)], 1).flatten(0, 1)).all()
    # A stage continues from the image of the encoder.
    staged = module(dcgan, solver=Adam(0), encoder=encoder, stages=[stage(iterations=0, level=2)])
    torch.testing.assert_close(staged.predict_step(data).fake, first)


class Sampling(torch.nn.Module):
    """An encoder that returns its noise as z and counts its input images."""

    noise_dim, first_without_noise = 8, False

    def __init__(self, map_dim):
        super().__init__()
        self.map_dim, self.image_count = map_dim, 0
        self.error_calibration = torch.tensor([[2.0, 0.1]] * HOLE_DEPTHS)

    def encode(self, known, mask, noise):
        self.image_count += len(known)
        return Encoding(noise.clamp(-1, 1), torch.zeros(len(noise), self.map_dim))


def complete_by_sampling(dcgan, data, **settings):
    encoder = Sampling(freeze(dcgan.ema_generator).project.out_features)
    search = module(dcgan, solver=Adam(0), encoder=encoder, **settings)
    return search.predict_step(data), encoder


def test_a_sampling_encoder_samples_every_candidate(dcgan):
    """Each image is encoded once, and its first sample does not depend on the batch."""
    several, encoder = complete_by_sampling(dcgan, batch(3), candidates=4, select="sample")
    assert encoder.image_count == 3
    assert several.candidates.shape == (3, 4, 3, 16, 16)
    alone, _ = complete_by_sampling(dcgan, batch(1, start=2), select="sample")
    torch.testing.assert_close(several.completion[2], alone.completion[0], rtol=0, atol=1e-5)
    noise = normal("w", 0, torch.arange(3), 8).clamp(-1, 1)
    torch.testing.assert_close(several.z, noise)
    with torch.no_grad():
        torch.testing.assert_close(several.fake, dcgan(noise), rtol=1e-4, atol=1e-5)
    other, _ = complete_by_sampling(dcgan, batch(3), candidates=4, select="sample", seed=1)
    assert not torch.allclose(several.z, other.z)
    error = (2 * several.spread * (1 + 1 / 4) ** 0.5 + 0.1) * (1 - several.mask)
    torch.testing.assert_close(several.predicted_error, error)
    assert alone.predicted_error is None


def test_select_chooses_the_first_or_the_best_sample_or_the_mean(dcgan):
    first, best, mean = (
        complete_by_sampling(dcgan, batch(4), candidates=5, select=select)[0]
        for select in ("sample", "best", "mean")
    )
    assert (best.trace[-1, :, 2] <= first.trace[-1, :, 2]).all()
    assert (best.trace[-1, :, 2] < first.trace[-1, :, 2]).any()
    torch.testing.assert_close(first.candidates[:, 0], first.completion)
    torch.testing.assert_close(best.candidates[:, 0], best.completion)
    hole = (mean.mask == 0).expand_as(mean.images)
    torch.testing.assert_close(mean.completion[hole], mean.candidates.mean(1)[hole])


@pytest.mark.parametrize("blend", [paste, poisson])
def test_select_mean_blends_the_mean_of_the_candidates(dcgan, blend):
    best = module(dcgan, candidates=3, blend=blend).predict_step(batch(2))
    settings = {"candidates": 3, "blend": blend, "select": "mean", "out_interval": 5}
    mean = module(dcgan, **settings).predict_step(batch(2))
    assert torch.equal(mean.candidates, best.candidates)
    assert torch.equal(mean.frames[-1], mean.completion)
    assert torch.equal(mean.z, best.z)
    # Blending is linear except for the clamp of Poisson blending.
    difference = (mean.completion - best.candidates.mean(1)).abs()
    assert (difference < 1e-5).float().mean() > (0.999 if blend is paste else 0.9)
    known = mean.mask.expand_as(mean.images) == 1
    assert torch.equal(mean.completion[known], mean.images[known])
    with pytest.raises(ValueError, match="select=all: should be 'best', 'mean' or 'sample'"):
        module(dcgan, select="all")
