"""What notebook 11 exports: splits, batches, augmentation, resuming, the pipeline that a stranger loads."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import warm
from huggingface_hub import ModelCard
from PIL import Image
from torch import Tensor, nn

from course_utils import data, runtime
from course_utils.lessons import nb04_diffusion_math as nb04
from course_utils.lessons import nb11_your_own_pictures as nb11

RUN = replace(runtime.start(0, verbose=False), device=torch.device("cpu"), precision=torch.float32)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def part(n: int = 12, size: int = 8, classes: int = 3, flips: bool = False) -> nb11.Part:
    x = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return nb11.Part(x, torch.arange(n) % classes, tuple(map(str, range(n))), torch.full((n,), flips))


def small_job(kind: str, num_steps: int = 8, **options) -> nb11.Job:
    if kind == "diffusion":
        return nb11.diffusion_job(part(), 3, RUN, num_steps=num_steps, batch_size=4, widths=(8, 16), **options)
    return nb11.gan_job(part(), 3, RUN, num_steps=num_steps, batch_size=4, width=4, **options)


# --- the data -----------------------------------------------------------------------------------------------


def test_bits_apart_is_the_hamming_distance() -> None:
    a, b = torch.rand(5, 64) < 0.5, torch.rand(7, 64) < 0.3
    assert torch.equal(nb11.bits_apart(a, b), (a[:, None] != b).sum(dim=2))


def test_the_hash_does_not_change_with_brightness_or_size() -> None:
    x = torch.rand(6, 3, 9, 9).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3) * 1.6 - 0.8
    bits = nb11.difference_hash(x, margin=0)
    assert bits.shape == (6, 64) and bits.dtype == torch.bool
    assert ((nb11.difference_hash(0.9 * x + 0.05, margin=0) != bits).sum(dim=1) <= 1).all()


def test_whole_groups_are_held_out_and_every_class_is_trained() -> None:
    y = torch.tensor([0] * 30 + [1] * 30 + [2] * 2)
    group = torch.arange(62) // 3
    group[60:] = 99  # a class that is one group
    held = nb11.hold_out(group, y, 0.1, torch.Generator().manual_seed(3))
    assert not set(group[held].tolist()) & set(group[~held].tolist())
    assert not held[60:].any() and all(3 <= int(held[y == c].sum()) <= 5 for c in (0, 1))


def test_a_folder_becomes_material_with_its_classes_and_copies_on_one_side(tmp_path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for i in range(12):
            field = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            picture = field.resize((40, 40), Image.Resampling.BICUBIC)
            picture.save(tmp_path / kind / f"{i}.png")
            picture.save(tmp_path / kind / f"{i} again.jpg", quality=85)
    found = nb11.material(tmp_path, 16, flips=True)
    assert found.classes == ("cat", "dog") and found.train.x.shape[1:] == (3, 16, 16)
    assert found.train.flips.all() and len(found.train) + len(found.held) == 48 and len(found.held) >= 4
    things = [{name.removesuffix(" again.jpg").removesuffix(".png") for name in p.names}
              for p in (found.train, found.held)]  # fmt: skip
    assert not things[0] & things[1]


def test_the_emoji_are_split_by_thing_and_only_some_may_be_mirrored() -> None:
    found = nb11.material(None)
    assert not set(found.train.names) & set(found.held.names) and len(found.classes) == 32
    assert 0.2 < found.train.flips.double().mean() < 0.8


def test_only_pictures_that_may_be_mirrored_are_and_weights_are_kept() -> None:
    still = part(flips=False)
    x, y = nb11.draw_batch(still, torch.ones(12), 200)
    assert {tuple(p.flatten().tolist()) for p in x} <= {tuple(p.flatten().tolist()) for p in still.x}
    x, _ = nb11.draw_batch(part(flips=True), torch.ones(12), 200)
    turned = torch.tensor([any(torch.equal(p, q.flip(-1)) for q in still.x) for p in x])
    assert 0.3 < turned.double().mean() < 0.7
    weights = torch.zeros(12)
    weights[5] = 1.0
    x, y = nb11.draw_batch(still, weights, 9)
    assert torch.equal(x, still.x[5].expand(9, -1, -1, -1)) and (y == still.y[5]).all()


# --- DiffAugment --------------------------------------------------------------------------------------------


def theirs_translation(x: Tensor, right: int, down: int) -> Tensor:
    """Zhao et al.'s effect of a shift, by slices."""
    out, size = torch.zeros_like(x), x.shape[-1]
    rows, columns = (slice(max(0, -s), size - max(0, s)) for s in (down, right))
    rows_from, columns_from = (slice(max(0, s), size + min(0, s)) for s in (down, right))
    out[..., rows, columns] = x[..., rows_from, columns_from]
    return out


def test_translation_moves_whole_pictures_by_up_to_an_eighth_and_zeros_come_in() -> None:
    x = torch.rand(1, 3, 16, 16) + 0.5
    moved = nb11.random_translation(x.expand(200, -1, -1, -1))
    every = {(r, d): theirs_translation(x[0], r, d) for r in range(-2, 3) for d in range(-2, 3)}
    seen = {shift for picture in moved for shift, known in every.items() if torch.equal(picture, known)}
    assert seen == set(every)


def test_cutout_sets_a_square_of_half_the_side_to_zero() -> None:
    cut = nb11.random_cutout(torch.ones(300, 1, 16, 16))[:, 0]
    gone = cut == 0
    assert int(gone.sum(dim=(1, 2)).max()) == 64  # 8 x 8, less at the border
    assert (gone.any(dim=2).sum(dim=1) * gone.any(dim=1).sum(dim=1) == gone.sum(dim=(1, 2))).all()  # a rectangle


def test_colour_keeps_a_grey_picture_grey_and_changes_each_picture_by_itself() -> None:
    x = torch.rand(5, 1, 8, 8).expand(-1, 3, -1, -1)
    changed = nb11.random_colour(x)
    assert torch.allclose(changed[:, 0], changed[:, 2], atol=1e-5)
    assert len({round(v, 4) for v in (changed - x).mean(dim=(1, 2, 3)).tolist()}) == 5


def test_augmentation_lets_second_derivatives_through() -> None:
    """A gradient penalty behind it needs them."""
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(nb11.diff_augment(x).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    assert second.isfinite().all() and second.abs().sum() > 0


def test_real_and_generated_pictures_are_augmented_alike() -> None:
    seen = []

    def spy(x: Tensor) -> Tensor:
        seen.append(x.shape)
        return nb11.diff_augment(x)

    small_job("GAN", augment=spy).step(0)
    assert len(seen) == 4  # real and generated, for each player


# --- training -----------------------------------------------------------------------------------------------


class Cut(Exception):
    pass


@pytest.mark.parametrize("kind", ["diffusion", "GAN"])
@pytest.mark.parametrize("at", [3, 4, 7])
def test_a_run_that_was_cut_ends_like_one_that_was_not(kind: str, at: int, tmp_path) -> None:
    def cut(step: int, losses: dict, job: nb11.Job) -> None:
        if step == at:
            raise Cut

    whole = small_job(kind)
    curves = nb11.fit(whole, 8)
    with pytest.raises(Cut):
        nb11.fit(small_job(kind), 8, file=tmp_path / "run.pt", every=2, watch=cut)
    torch.manual_seed(99)  # chance elsewhere does not matter
    again = small_job(kind)
    assert nb11.fit(again, 8, file=tmp_path / "run.pt", every=2) == curves
    for name, module in whole.parts.items():
        if isinstance(module, nn.Module):
            other = again.parts[name].state_dict()
            assert all(torch.equal(value, other[key]) for key, value in module.state_dict().items())
    assert nb11.fit(small_job(kind), 8, file=tmp_path / "run.pt") == curves  # nothing is left to do


def test_a_checkpoint_that_misses_the_average_is_no_resumable_one(tmp_path) -> None:
    """The usual mistake: the run goes on with another average, and nobody sees it in the losses."""
    job = small_job("diffusion")
    forgetful = nb11.Job({k: v for k, v in job.parts.items() if k != "ema"}, job.step, job.sample)
    nb11.fit(forgetful, 4, file=tmp_path / "run.pt", every=4)
    other = small_job("diffusion")
    nb11.fit(nb11.Job({k: v for k, v in other.parts.items() if k != "ema"}, other.step, other.sample), 8,
             file=tmp_path / "run.pt")  # fmt: skip
    whole = small_job("diffusion")
    nb11.fit(whole, 8)
    pairs = zip(whole.parts["ema"].parameters(), other.parts["ema"].parameters())
    assert max((a - b).abs().max() for a, b in pairs) > 1e-5


def test_the_rate_rises_holds_and_falls_to_almost_nothing() -> None:
    rates = [nb11.rate(n, 200) for n in range(200)]
    assert rates[0] == 1 / 50 and rates[60] == rates[99] == 1 and rates[199] == pytest.approx(0.01)


def test_losses_are_those_of_the_same_noise_whatever_the_batch() -> None:
    net, some = nb11.diffusion_net(part(), 3, (8, 16)), part()
    once = nb11.losses_of(net, some, batch_size=12)
    assert torch.allclose(once, nb11.losses_of(net, some, batch_size=12)) and once.shape == (12,)
    mirrored = nb11.Part(some.x.flip(-1), some.y, some.names, some.flips)
    assert torch.equal(nb11.losses_of(net, some, mirrored=True), nb11.losses_of(net, some, mirrored=True))
    assert not torch.allclose(nb11.losses_of(net, mirrored), nb11.losses_of(net, some))


def test_a_discriminator_without_batch_norm_judges_each_picture_by_itself() -> None:
    net = small_job("GAN").parts["d"]
    x, y = part().x, part().y
    assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in net.modules())
    assert torch.allclose(net(x, y)[:1], net(x[:1], y[:1]), atol=1e-6)


def test_copied_sees_copies_and_not_others() -> None:
    train, held, others = torch.randn(300, 6), torch.randn(2000, 6), torch.randn(2000, 6)
    assert nb11.copied(train[:50] + 1e-3, train, held) == 1.0
    assert 0.03 < nb11.copied(others, train, held) < 0.08


def test_a_walk_begins_and_ends_at_its_two_noises() -> None:
    net = nb11.diffusion_net(part(), 3, (8, 16)).eval()
    ends = torch.randn(2, 3, 8, 8)
    found = nb11.walk(net, RUN, 1, ends, [0.0, 0.5, 1.0])
    again = nb11.walk(net, RUN, 1, ends.flip(0), [1.0, 0.5, 0.0])
    assert torch.allclose(found, again, atol=1e-4)


# --- several processes ---------------------------------------------------------------------------------------

HEAVY = "diffusers.pipelines.stable_diffusion"  # imported once for all processes of this module


@pytest.mark.parametrize("warm_processes", [HEAVY], indirect=True)
def test_two_processes_killed_and_resumed_equal_one_with_the_whole_batch(tmp_path, warm_processes) -> None:
    one, weights = nb11.run_script(tmp_path / "one", 1, 4)
    killed, _ = nb11.run_script(tmp_path / "two", 2, 4, die_after=3)
    rest, others = nb11.run_script(tmp_path / "two", 2, 4)
    assert killed[:2] + rest == pytest.approx(one, abs=1e-5)
    assert max((weights[key] - others[key]).abs().max() for key in weights) < 1e-4


# --- the pipeline --------------------------------------------------------------------------------------------

STRANGER = """
import sys
sys.modules["course_utils"] = None  # not installed here
import numpy as np, torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
made = pipe(["b", 2], num_inference_steps=5, generator=torch.Generator().manual_seed(1), output_type="np").images
np.save(sys.argv[2], made)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    net = nb11.diffusion_net(part(), 3, (8, 16)).eval()
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.2)
    place = tmp_path_factory.mktemp("pipeline")
    card = nb11.card_of("tiny", "a folder", "All mine.", {"SWD": 0.25}, ["Random weights."], 7)
    nb11.export(net, ["a", "b", "c"], place, card)
    return net, place


def test_a_stranger_without_the_course_gets_the_pictures_of_the_network_in_memory(folder, tmp_path) -> None:
    net, place = folder
    done = warm.run([sys.executable, "-c", STRANGER, str(place), str(tmp_path / "made.npy")], tmp_path, more=HEAVY)
    assert done.returncode == 0, done.stderr[-2000:]
    made = torch.from_numpy(np.load(tmp_path / "made.npy")).permute(0, 3, 1, 2)
    scheduler = nb11.DPMSolverMultistepScheduler(**nb11.LEVELS)
    scheduler.set_timesteps(5)
    x, y = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([1, 2])
    for t in scheduler.timesteps:
        with torch.no_grad():
            v, none = (net(x, t.expand(2), each) for each in (y, torch.full_like(y, 3)))
        x = scheduler.step(none + 2 * (v - none), t, x).prev_sample
    assert (made - (x.clamp(-1, 1) + 1) / 2).abs().max() < 1e-4


def test_the_exported_network_has_the_levels_of_notebook_04(folder) -> None:
    space: dict = {}
    exec((folder[1] / "unet" / "folder_unet.py").read_text("utf-8"), space)
    ours = nb04.Schedule.named("cosine", 1000).alphas_bar
    assert (space["alphas_bar"]() - ours).abs().max() < 1e-5


def test_the_card_can_be_read_back(folder) -> None:
    about = ModelCard.load(folder[1] / "README.md").data
    assert [(r.metric_type, r.metric_value) for r in about.eval_results] == [("swd", 0.25)]
    assert "All mine." in (folder[1] / "README.md").read_text("utf-8")


def test_the_shipped_model_knows_its_emoji() -> None:
    net, held = nb11.shipped(), nb11.material(None).held
    few = nb11.take(held, torch.arange(0, len(held), 20))
    loss = nb11.losses_of(net, few).mean().item()
    assert loss < 0.3 and set(data.weights("emoji_ddpm")) == set(net.unet.state_dict())
    torch.manual_seed(0)
    blank = nb11.diffusion_net(nb11.material(None).train, 32, (8, 16))
    assert loss < 0.5 * nb11.losses_of(blank, few).mean().item()
