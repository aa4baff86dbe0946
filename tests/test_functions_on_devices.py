"""Every public function of course_utils that takes tensors or networks, on an accelerator that is none.

What goes in lies on the accelerator; what comes out must be what comes out on the CPU, wherever it lies then.
tests/test_devices.py runs the notebooks' cells, and with them the lessons; of these stand here what no cell calls, or
not in this way.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from hub_standin import tiny_stable_diffusion
from pretend_device import There, pretend
from torch import Tensor, nn

import course_utils
from course_utils import (
    brains,
    claims,
    data,
    imagenet,
    latent,
    metrics,
    phantoms,
    photographs,
    pictures,
    plots,
    points,
    prompts,
    provenance,
    realesrgan,
    runtime,
    training,
)
from course_utils.lessons import nb01_gan_theory as nb01
from course_utils.lessons import nb03_mode_collapse_and_wgan as nb03
from course_utils.lessons import nb06_diffusers_applications as nb06
from course_utils.lessons import nb07_super_resolution as nb07
from course_utils.lessons import nb08_medical_synthesis as nb08
from course_utils.lessons import nb09_evaluation_and_release as nb09
from course_utils.lessons import nb11_your_own_pictures as nb11
from course_utils.lessons import nb12_two_minutes as nb12

To = Callable[[Any], Any]  # moves tensors and networks to the device on trial
NAME = "fashion_mnist"


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng(seed))


def clothes(n: int = 8) -> Tensor:
    return data.to_unit_range(data.embedded(NAME, "test")[0][:n])


def probabilities() -> Tensor:
    return noise(6, 10).softmax(1)


def normal(size: int = 3) -> tuple[Tensor, Tensor]:
    """A mean and a covariance."""
    x = noise(9, size)
    return x.mean(0), x.T.cov()


def drawn(show: Callable[..., Any], *args: Any, **options: Any) -> bytes:
    """The picture that a function of `plots` shows."""
    kept: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots.Picture, "show", lambda picture: kept.append(picture.image))
        show(*args, **options)
    return kept[0]


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


def averaged(to: To) -> list[Tensor]:
    net = to(seeded(lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))))
    ema = training.EMA(net)
    for weight in net.parameters():
        weight.data += 1
    ema.update_parameters(net)
    return list(ema.state_dict().values())


class AlmostPlain(nn.Module):
    """In the place of a U-Net: puts out a part of what it is given, whatever else that is."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor, t: Tensor, *_: Any) -> Tensor:
        return self.gain * x[:, :1] * (1 + t.reshape(-1, 1, 1, 1) / 1000)


def lost(to: To) -> bool:
    """Whether the loss is a number: its noise is drawn on the device."""
    x, y = noise(2, 1, 8, 8).sigmoid(), noise(2, 1, 16, 16).sigmoid()
    return bool(nb07.lack_loss(to(AlmostPlain()), to(x), to(y)).isfinite())


def trained_on_requests(to: To, brain: bool) -> bool:
    """Whether two steps of a training change the weight and leave it a number."""
    net, options = to(AlmostPlain()), {"num_steps": 2, "batch_size": 2}
    if brain:
        nb08.train_brain(net, **options)
    else:
        nb08.train_diffusion(net, noise(4, 1, 48, 48).clamp(-1, 1), noise(4, 6).sigmoid(), **options)
    gain = net.gain.detach().cpu()
    return bool(gain.isfinite() and gain != 0.1)


def trained(to: To, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    net = to(nn.Linear(3, 2))
    optimiser = torch.optim.Adam(net.parameters())
    net(to(noise(4, 3))).square().mean().backward()
    optimiser.step()
    return {"net": net, "optimiser": optimiser, "ema": training.EMA(net)}


def resumed(to: To, folder: Path) -> list[Tensor]:
    """The weights after one more step of a training that was saved and loaded."""
    training.save_checkpoint(folder / "half.pt", 1, **trained(to, 0), losses=to(noise(3)))
    parts = trained(to, 1)
    content = training.load_checkpoint(folder / "half.pt", **parts)
    parts["optimiser"].step()
    parts["ema"].update_parameters(parts["net"])
    return [*parts["net"].parameters(), *parts["ema"].parameters(), content["losses"]]


def saved_and_made_again(to: To, folder: Path) -> list[Any]:
    net = to(seeded(lambda: nn.Linear(3, 2)))
    settings = {"model": "net", "model_hash": pictures.model_hash(net)}
    path = pictures.save(to(clothes()[0]), folder / "one.png", settings, kind="toy", invisible=True, visible=True)
    made = pictures.regenerate(path, {"net": lambda settings: to(clothes()[0])}, {"net": net})
    return [made.picture, made.report, pictures.load(path)[0]]


def through_the_autoencoder(to: To) -> list[Tensor]:
    pipeline = latent.load()
    pipeline.vae, pipeline.unet = to(pipeline.vae), to(pipeline.unet)
    pipeline.text_encoder = to(pipeline.text_encoder)
    return [latent.reconstruct(pipeline.vae, x) for x in (clothes(2), to(clothes(2)))] + [
        latent.draw(pipeline, ["a dark bag"], rng(), steps=2)
    ]


def looked_at(to: To) -> list[Tensor]:
    net, x = to(photographs.looking_net()), to(noise(1, 3, 32, 32).sigmoid())
    block = to(seeded(lambda: photographs.Bottleneck(4, 4, 2, 3, 1)))
    h = to(noise(1, 4, 6, 6))
    return [net.begin(x), *net(x), block(h), block.widened(h)]


def efficient(to: To) -> list[Tensor]:
    net, x = to(seeded(imagenet.EfficientNetLite0).eval()), to(noise(1, 3, 32, 32).sigmoid())
    return [net(x), net.features(x)]


def classified(to: To) -> list[Tensor]:
    net, x = to(seeded(metrics.Classifier).eval()), to(clothes())
    return [net(x), net.features(x)]


def of_points(to: To) -> list[Tensor]:
    x = to(noise(2, 128, 2))
    critic = points.PointCritic(2, octaves=2, pack=2, statistic=lambda f, T: f.std(-2, keepdim=True).expand_as(f))
    linear = points.StackedLinear(2, 2, 3, normalise=lambda weight, u: (weight / u.norm(), u))
    return [to(net)(x) for net in (points.PointGenerator(2), critic, linear)]


def mixture(to: To) -> data.GaussianMixture:
    ring = data.ring()
    return data.GaussianMixture(to(ring.centres), ring.std)


def scanned(to: To) -> list[Tensor]:
    wish, anatomy = to(phantoms.draw_parameters(2, rng())), to(phantoms.draw_anatomy(2, rng()))
    hu = phantoms.head(wish, anatomy, to(torch.tensor([True, False])))
    return [hu, phantoms.scan(hu, wish[:, 4], rng()), phantoms.scan(hu, wish[:, 4], None), phantoms.head(wish, anatomy)]


# The functions that a row calls, and the row: of `to` alone, or of `to` and a folder.
ROWS: dict[str, Callable[..., Any]] = {
    "brains.slices": lambda to: brains.slices("mni152", to(brains.draw_requests(3, rng()))),
    "brains.places": lambda to: brains.places(to(brains.draw_requests(3, rng()))),
    "brains.held_out": lambda to: brains.held_out(to(brains.draw_requests(9, rng()))),
    "claims.claim": lambda to: claims.claim("nothing is above one", to(torch.tensor([0.5, 1.0])), at_most=1),
    "claims.stored": lambda to: claims.stored("so it is", to(torch.ones(2)), at_most=1, date="2026-11-30", seeds=1,
                                              spread=None),
    "data.to_unit_range": lambda to: data.to_unit_range(to(torch.arange(200).byte().view(2, 10, 10))),
    "data.pixel_fault": lambda to: [data.pixel_fault(to(x)) for x in (clothes(), clothes() + 1, clothes() / 0)],
    "data.check_pixels": lambda to: data.check_pixels(to(clothes()), "Pictures"),
    "data.GaussianMixture.sample": lambda to: mixture(to).sample(5, rng()),
    "imagenet.EfficientNetLite0.forward imagenet.EfficientNetLite0.features": efficient,
    "imagenet.resized": lambda to: imagenet.resized(to(noise(1, 3, 20, 20).sigmoid()), 32),
    "imagenet.image_features": lambda to: imagenet.image_features(to(clothes(2)), 32),
    "imagenet.class_probabilities": lambda to: imagenet.class_probabilities(to(clothes(2)), 32),
    "latent.unpadded latent.padded": lambda to: latent.unpadded(latent.padded(to(clothes()))),
    "latent.outline": lambda to: latent.outline(to(clothes())),
    "latent.mosaic": lambda to: latent.mosaic(to(clothes())),
    "latent.psnr": lambda to: latent.psnr(to(clothes()), to(clothes() / 2)),
    "latent.reconstruct latent.draw": through_the_autoencoder,
    "metrics.Classifier.forward metrics.Classifier.features": classified,
    "metrics.in_batches": lambda to: metrics.in_batches(lambda x: 2 * x, to(noise(5, 2)), 2),
    "metrics.features": lambda to: metrics.features(to(clothes()), NAME),
    "metrics.class_probabilities": lambda to: metrics.class_probabilities(to(clothes()), NAME),
    "metrics.frechet_from_moments": lambda to: metrics.frechet_from_moments(*map(to, normal()), *map(to, normal())),
    "metrics.frechet_distance": lambda to: metrics.frechet_distance(to(noise(2048, 2)), to(noise(2048, 2, seed=1))),
    "metrics.kernel_distance": lambda to: metrics.kernel_distance(to(noise(20, 3)), to(noise(30, 3, seed=1))),
    "metrics.precision_recall": lambda to: metrics.precision_recall(to(noise(20, 3)), to(noise(30, 3, seed=1))),
    "metrics.density_coverage": lambda to: metrics.density_coverage(to(noise(20, 3)), to(noise(30, 3, seed=1))),
    "metrics.inception_score": lambda to: metrics.inception_score(to(probabilities())),
    "metrics.class_histogram": lambda to: metrics.class_histogram(to(probabilities())),
    "metrics.modes_covered": lambda to: [
        dataclasses.astuple(metrics.modes_covered(to(noise(9, 2)), of)) for of in (mixture(to), data.ring())
    ],
    "metrics.laplacian_pyramid": lambda to: metrics.laplacian_pyramid(to(clothes())),
    "metrics.wasserstein_1d": lambda to: [
        metrics.wasserstein_1d(to(noise(7, 3)), to(noise(n, 3, seed=1))) for n in (7, 10)
    ],
    "metrics.sliced_wasserstein_levels metrics.sliced_wasserstein": lambda to: metrics.sliced_wasserstein(
        to(clothes()), to(clothes(4)), patches=4, projections=8
    ),
    "metrics.evaluate": lambda to: dataclasses.astuple(metrics.evaluate(to(clothes()), NAME)),
    "phantoms.place_of": lambda to: phantoms.place_of(to(phantoms.draw_parameters(2, rng()))),
    "phantoms.head phantoms.scan": scanned,
    "phantoms.filtered": lambda to: phantoms.filtered(to(noise(1, 4, 20))),
    "phantoms.to_picture phantoms.to_hu": lambda to: phantoms.to_hu(phantoms.to_picture(to(noise(3) * 100))),
    "phantoms.patients": lambda to: phantoms.patients(
        2, rng(), to(phantoms.draw_parameters(2, rng(1))), to(torch.tensor([True, False]))
    ),
    "photographs.Bottleneck.forward photographs.Bottleneck.widened photographs.LookingNet.begin "
    "photographs.LookingNet.forward": looked_at,
    "photographs.same": lambda to: photographs.same(to(noise(1, 1, 5, 6)), 3, 2),
    "pictures.save pictures.model_hash pictures.regenerate": saved_and_made_again,
    "pictures.with_mark": lambda to: pictures.with_mark(to(clothes()[0])),
    "pictures.mark_strength": lambda to: pictures.mark_strength(to(clothes()[0])),
    "pictures.is_marked": lambda to: pictures.is_marked(to(clothes()[0])),
    "plots.to_unit_interval": lambda to: plots.to_unit_interval(to(clothes())),
    "plots.tile": lambda to: plots.tile(to(clothes())),
    "plots.image_grid": lambda to: drawn(plots.image_grid, to(clothes()), "a row of eight clothes"),
    "plots.film_strip": lambda to: drawn(plots.film_strip, [to(clothes())], ["row"], "a row of eight clothes"),
    "plots.animation": lambda to: plots.animation([to(clothes()), to(-clothes())], "clothes that turn white").image,
    "points.unit_size": lambda to: (points.unit_size(mixture(to)).centres, points.unit_size(mixture(to)).std),
    "points.point_latents": lambda to: points.point_latents(2, 3, to(torch.ones(1)).device).shape,
    "points.fourier_features": lambda to: points.fourier_features(to(noise(3, 2)), 2),
    "points.pack_samples": lambda to: points.pack_samples(to(noise(4, 2)), 2),
    "points.PointGenerator.forward points.PointCritic.forward points.StackedLinear.forward": of_points,
    "prompts.measure": lambda to: prompts.measure(to(clothes())),
    "prompts.measured": lambda to: prompts.measured(to(clothes())),
    "prompts.words": lambda to: prompts.words(to(clothes()), to(torch.arange(8))),
    "prompts.captions": lambda to: prompts.captions(to(clothes()), to(torch.arange(8)), rng()),
    "prompts.adherence": lambda to: prompts.adherence(to(clothes()), ["a dark, plain shirt", "a striped coat"] * 4),
    "provenance.png": lambda to: provenance.png(to(clothes()[0])),
    "realesrgan.to_8_bits realesrgan.from_8_bits": lambda to: realesrgan.from_8_bits(
        realesrgan.to_8_bits({"a.weight": to(noise(2, 2, 3, 3)), "a.bias": to(noise(2))})
    ),
    "realesrgan.modern_names": lambda to: realesrgan.modern_names({"model.0.weight": to(noise(2))}),
    "runtime.convolution_speedup": lambda to: (
        runtime.convolution_speedup(torch.bfloat16, to(torch.ones(1)).device, 1) > 0
    ),
    "runtime.best_precision": lambda to: runtime.best_precision(to(torch.ones(1)).device) is not None,
    "runtime.budget": lambda to: runtime.budget("quick", to(torch.ones(1)).device).size,
    "runtime.memory_gb": lambda to: runtime.memory_gb(to(torch.ones(1)).device) >= 0,
    "runtime.rng": lambda to: runtime.rng(0, "cpu").initial_seed(),
    "training.EMA.__init__": averaged,
    "training.save_checkpoint training.load_checkpoint": resumed,
    "training.parameters": lambda to: training.parameters(to(nn.Linear(3, 2))),
    # of the lessons what goes to float64; tests/test_devices.py calls the rest
    "lessons.nb01_gan_theory.jensen_shannon": lambda to: nb01.jensen_shannon(
        to(noise(5).exp()), to(noise(5, seed=1).exp())
    ),
    "lessons.nb03_mode_collapse_and_wgan.wasserstein": lambda to: nb03.wasserstein(
        to(noise(9, 2)), to(noise(9, 2, seed=1))
    ),
    "lessons.nb03_mode_collapse_and_wgan.true_share": lambda to: nb03.true_share(to(torch.arange(40) % 10)),
    "lessons.nb03_mode_collapse_and_wgan.modes_and_kl": lambda to: nb03.modes_and_kl(
        to(torch.tensor([1, 7, 7])), nb03.true_share(torch.arange(40) % 10)
    ),
    "lessons.nb07_super_resolution.ssim": lambda to: nb07.ssim(to(clothes(2)), to(clothes(2) / 2)),
    "lessons.nb07_super_resolution.lack_loss": lambda to: lost(to),
    "lessons.nb08_medical_synthesis.train_brain": lambda to: trained_on_requests(to, brain=True),
    "lessons.nb08_medical_synthesis.train_diffusion": lambda to: trained_on_requests(to, brain=False),
    "lessons.nb08_medical_synthesis.auc": lambda to: nb08.auc(to(noise(9)), to(noise(9, seed=1))),
    "lessons.nb09_evaluation_and_release.copy_share": lambda to: nb09.copy_share(
        to(noise(9, 3)), to(noise(9, 3, seed=1)), to(noise(9, 3, seed=2))
    ),
    "lessons.nb09_evaluation_and_release.main_directions": lambda to: nb09.main_directions(to(noise(40, 6)), 2)(
        to(noise(3, 6, seed=1))
    ).abs(),
    "lessons.nb09_evaluation_and_release.shares": lambda to: nb09.shares(to(clothes()), to(torch.tensor([0.3, 0.6]))),
    "lessons.nb09_evaluation_and_release.luminance": lambda to: nb09.luminance(to(clothes(2))).tolist(),
    "lessons.nb09_evaluation_and_release.ring_scores": lambda to: nb09.ring_scores(
        to(noise(3, 1, 28, 28)), [nb09.ring_key("a"), nb09.ring_key("b")]
    ).tolist(),
    "lessons.nb11_your_own_pictures.class_weights": lambda to: nb11.class_weights(to(torch.tensor([0, 0, 1])), 1.0),
    "lessons.nb11_your_own_pictures.copied": lambda to: nb11.copied(
        to(noise(9, 3)), to(noise(9, 3, seed=1)), to(noise(9, 3, seed=2)), 0.5
    ),
    "lessons.nb12_two_minutes.MixtureDenoiser": lambda to: nb12.MixtureDenoiser(
        to(clothes(20)), to(torch.arange(20) % 10), clusters=1
    ).variances,
}  # fmt: skip
COVERED = {name for names in ROWS for name in names.split()}

# What may take one by its signature and is in no row, and why.
EXCEPTIONS = {
    "claims.origin": "takes the numbers of a stored table",
    "metrics.show_reports": "writes reports, whose numbers are Python's",
    "plots.subplots": "passes matplotlib's options on",
    "plots.table": "writes its cells as str does, which does on a device, too",
    "provenance.resaved": "passes Pillow's options on",
    "provenance.signed": "writes settings as JSON",
    "runtime.seconds": "calls a function without arguments",
    "saving.leave_out_live_views": "takes a notebook as JSON",
    "widgets.choice": "takes the words of a menu",
    "widgets.play": "takes functions and controls",
}
WORDS = re.compile(r"\b(Tensor|Module|device|Autoencoder\w*|\w*Pipeline|GaussianMixture|Any|object)\b")


def takes_tensors() -> set[str]:
    """Public functions, methods and constructors whose signature names a tensor, a network or a device, or allows any.

    Left out are checks, which take functions of learners, lessons, and dataclasses' constructors, which only keep.
    """
    found = set()
    for module in pkgutil.iter_modules(course_utils.__path__):
        if module.ispkg:  # checks and lessons
            continue
        space = importlib.import_module(f"course_utils.{module.name}")
        for name, what in vars(space).items():
            if name.startswith("_") or getattr(what, "__module__", None) != space.__name__:
                continue
            if inspect.isclass(what):
                parts = {f"{name}.{key}": part for key, part in vars(what).items() if inspect.isfunction(part)}
                if dataclasses.is_dataclass(what):
                    parts.pop(f"{name}.__init__", None)
                parts = {k: p for k, p in parts.items() if k.endswith("__init__") or "._" not in k}
            else:
                parts = {name: what} if callable(what) else {}
            for key, part in parts.items():
                part = inspect.unwrap(part)
                hints = " ".join(str(v) for k, v in getattr(part, "__annotations__", {}).items() if k != "return")
                if WORDS.search(hints):
                    found.add(f"{module.name}.{key}")
    return found


def test_no_public_function_that_takes_tensors_is_left_out() -> None:
    found = takes_tensors()
    assert len(found) > 80 and {"metrics.features", "training.EMA.__init__", "photographs.LookingNet.begin"} <= found
    left_out = found - COVERED - set(EXCEPTIONS)
    assert not left_out, f"no row calls {', '.join(sorted(left_out))}: give each a row, or a reason in EXCEPTIONS"
    assert set(EXCEPTIONS) <= found - COVERED


def test_every_row_names_functions_that_exist() -> None:
    for name in COVERED | set(EXCEPTIONS):
        module, *path = name.split(".")
        what = importlib.import_module(f"course_utils.{module}")
        for part in path:
            what = getattr(what, part)


def plain(value: Any) -> Any:
    """A result as CPU tensors and Python's own values."""
    if isinstance(value, Tensor):
        return value.detach().cpu().double()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return [plain(part) for part in value]
    return value


@pytest.fixture(scope="module")
def on_the_cpu(tmp_path_factory) -> Callable[[str], Any]:
    known: dict[str, Any] = {}

    def result(row: str) -> Any:
        if row not in known:
            known[row] = called(row, lambda x: x, tmp_path_factory.mktemp("cpu"))
        return known[row]

    return result


def called(row: str, to: To, folder: Path) -> Any:
    torch.manual_seed(0)
    wanted = len(inspect.signature(ROWS[row]).parameters)
    return plain(ROWS[row](to, folder) if wanted == 2 else ROWS[row](to))


@pytest.mark.filterwarnings("ignore:.*samples. below 2048")
@pytest.mark.parametrize("kind", ["mps", "cuda"])  # mps has no float64
@pytest.mark.parametrize("row", ROWS)
def test_it_gives_on_a_device_what_it_gives_on_the_cpu(row: str, kind: str, on_the_cpu, tmp_path: Path) -> None:
    want = on_the_cpu(row)
    moved = []
    with pretend(kind, float64=kind == "cuda") as device:

        def to(x: Any) -> Any:
            x = x.to(device)
            moved.append(x)
            return x

        got = called(row, to, tmp_path)
    assert all(isinstance(x, (There, nn.Module)) for x in moved)
    assert same(got, want), f"{row}: {got} on {kind}, {want} on the CPU"


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-4, equal_nan=True)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return a == pytest.approx(b, rel=1e-3, abs=1e-5)
    return a == b


def test_stable_diffusion_in_half_precision_on_a_card(tmp_path: Path) -> None:
    """What notebook 06 does with it there, with its classes and random weights."""
    folder, x, shoes = tiny_stable_diffusion(tmp_path), clothes(2), ["a shoe"] * 2
    lower = torch.zeros(1, 1, 28, 28)
    lower[:, :, 14:] = 1
    with pretend("cuda") as device:
        pipe = StableDiffusionPipeline.from_pretrained(folder, **{nb06.TYPE: torch.float16}).to(device)
        pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
        pipe.set_progress_bar_config(disable=True)
        drawn = nb06.sample_prompts(pipe, shoes, steps=2, guidance=7.5, negative="a")
        changed = nb06.img2img(pipe, x, shoes, 0.5, steps=4)
        filled = nb06.inpaint(pipe, x, lower, shoes, steps=2)
        latents = nb06.encode(pipe, noise(2, 3, 16, 16).clamp(-1, 1))
        back = nb06.decode(pipe, latents)
    for pictures_ in (drawn, changed, filled):
        assert pictures_.shape == (2, 3, 16, 16) and pictures_.device.type == "cpu" and pictures_.isfinite().all()
    assert latents.dtype == torch.float16 and back.shape == (2, 3, 16, 16)
