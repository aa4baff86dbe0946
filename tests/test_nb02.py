"""What notebook 02 exports, against torch's own layers and against published mistakes (ERRATA 20, 21, 23)."""

from __future__ import annotations

import math
import os
import re
import sys
from pathlib import Path

import pytest
import torch
import warm
from shortened import shortened
from torch import nn

from course_utils import data, runtime
from course_utils.lessons import nb02_dcgan_training as nb02

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"), [(28, 4, 2, 1), (14, 3, 2, 1), (7, 7, 1, 0), (9, 5, 3, 2)]
)
def test_sizes_are_those_of_torchs_layers(size: int, kernel: int, stride: int, padding: int) -> None:
    x = torch.zeros(1, 1, size, size)
    assert nb02.conv_size(size, kernel, stride, padding) == nn.Conv2d(1, 1, kernel, stride, padding)(x).shape[-1]
    transposed = nn.ConvTranspose2d(1, 1, kernel, stride, padding)
    assert nb02.conv_transpose_size(size, kernel, stride, padding) == transposed(x).shape[-1]


def test_weights_and_gains_begin_as_in_the_authors_code() -> None:
    """ERRATA 20: gains around 0 instead of 1 switch every BatchNorm off."""
    net = nn.Sequential(nb02.Generator(width=64), nb02.Discriminator((64, 128, 256), 512)).apply(nb02.init_weights)
    for layer in net.modules():
        if isinstance(layer, NORMS):
            assert layer.weight.mean().item() == pytest.approx(1, abs=0.02) and layer.weight.std() < 0.03
            assert not layer.bias.any()
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            assert layer.weight.mean().item() == pytest.approx(0, abs=0.005)
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.25)


def test_no_batch_norm_has_its_momentum_in_the_place_of_eps() -> None:
    """ERRATA 21: BatchNorm2d(128, 0.8) sets eps to 0.8."""
    for net in (nb02.Generator(), nb02.Discriminator()):
        norms = [layer for layer in net.modules() if isinstance(layer, NORMS)]
        assert norms and all(layer.eps < 1e-3 and layer.momentum == pytest.approx(0.1) for layer in norms)


def test_pictures_lie_in_the_range_of_the_generators_tanh() -> None:
    """ERRATA 23: data beyond tanh's range can never be generated."""
    x = data.images("fashion_mnist", "test", verbose=False).x
    assert -1 <= x.min() < -0.99 and 0.99 < x.max() <= 1
    assert nb02.Generator()(100 * torch.randn(8, 64, 1, 1)).abs().max() <= 1


def test_losses_are_finite_where_log_of_sigmoid_is_not() -> None:
    """ERRATA 23: log(sigmoid(-200)) is minus infinity in float32."""
    sure = torch.full((4,), 200.0)
    assert not torch.isfinite((-sure).sigmoid().log()).any()
    assert nb02.discriminator_loss(-sure, sure).item() == pytest.approx(400)
    assert nb02.generator_loss(-sure).item() == pytest.approx(200)
    assert nb02.discriminator_loss(0 * sure, 0 * sure).item() == pytest.approx(2 * math.log(2))
    smooth = nb02.discriminator_loss(0.5 * sure / 200, -sure, smoothing=0.1).item()
    p = 1 / (1 + math.exp(-0.5))
    assert smooth == pytest.approx(-0.9 * math.log(p) - 0.1 * math.log(1 - p), abs=1e-5)


def test_training_does_not_reseed() -> None:
    """ERRATA 23: a seed set inside the loop gives every step the same latents."""
    pictures, run = torch.rand(64, 1, 28, 28) * 2 - 1, runtime.start(0, verbose=False)
    outcomes = []
    for _ in range(2):
        torch.manual_seed(1)
        generator, discriminator = nb02.Generator(width=4), nb02.Discriminator((4, 8, 8), 16)
        seen: list[torch.Tensor] = []
        handle = generator.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))  # noqa: B023
        nb02.train(generator, discriminator, pictures, run, num_steps=3, batch_size=8)
        handle.remove()
        outcomes.append((seen, torch.random.get_rng_state()))
    first = outcomes[0][0]
    assert len(first) == 3 and not torch.equal(first[0], first[1]) and not torch.equal(first[1], first[2])
    assert all(torch.equal(a, b) for a, b in zip(*(o[0] for o in outcomes)))  # and the seed outside decides


def test_the_same_latent_gives_another_picture_in_train_mode() -> None:
    """ERRATA 23: sampling in train mode."""
    generator, z = nb02.Generator().apply(nb02.init_weights), torch.randn(1, 64, 1, 1)
    other = torch.randn(7, 64, 1, 1)
    generator.train()
    a, b = (generator(torch.cat([z, k * other]))[0] for k in (1, 3))
    generator.eval()
    c, d = (generator(torch.cat([z, k * other]))[0] for k in (1, 3))
    assert not torch.allclose(a, b, atol=1e-3) and torch.allclose(c, d, atol=1e-5)


def test_spherical_interpolation_stays_on_the_shell() -> None:
    a, b = torch.randn(2, 64)
    a, b = 8 * a / a.norm(), 8 * b / b.norm()
    assert nb02.slerp(a, b, 0.5).norm().item() == pytest.approx(8, rel=1e-4) and nb02.lerp(a, b, 0.5).norm() < 7
    for path in (nb02.lerp, nb02.slerp):
        assert torch.allclose(path(a, b, 0.0), a, atol=1e-5) and torch.allclose(path(a, b, 1.0), b, atol=1e-4)


@pytest.mark.parametrize(
    ("d_real", "d_fake", "spread", "state"),
    [
        (0.6, 0.4, 0.5, "healthy"),
        (0.99, 0.01, 0.5, "discriminator too strong"),
        (0.6, 0.7, 0.5, "generator collapsed"),
        (0.5, 0.5, 0.05, "dead"),
        (0.5, 0.51, 0.05, "dead"),
    ],
)
def test_diagnose_reads_the_last_fifth(d_real: float, d_fake: float, spread: float, state: str) -> None:
    early = [0.5] * 80
    tails = {"d_real": d_real, "d_fake_after": d_fake, "spread": spread}
    curves = {name: early + [tails.get(name, 0.5)] * 20 for name in nb02.CURVES}
    assert nb02.diagnose(curves, real_spread=0.5) == state


# --- runs that went wrong ------------------------------------------------------------------------------------

FINE = {name: [0.5] * 100 for name in nb02.CURVES}


@pytest.mark.parametrize("name", nb02.CURVES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_run_with_a_number_that_is_not_finite_is_never_healthy(name, bad) -> None:
    assert nb02.diagnose(FINE, 0.5) == "healthy"
    assert nb02.diagnose(FINE | {name: [0.5] * 99 + [bad]}, 0.5) == "diverged: NaN"


def test_a_run_of_a_few_steps_has_no_verdict() -> None:
    few = {name: values[:99] for name, values in FINE.items()}
    assert nb02.diagnose(few, 0.5) == "too early to tell: fewer than 100 steps"


def test_a_run_without_a_step_is_never_healthy() -> None:
    assert nb02.diagnose({name: [] for name in nb02.CURVES}, 0.5) == "not trained: no step was taken"


@pytest.mark.parametrize(
    "wrong", [lambda x: 127.5 * (x + 1), lambda x: (x + 1) / 2, lambda x: (127.5 * (x + 1)).byte()]
)
def test_training_refuses_pictures_that_the_generator_cannot_reach(wrong) -> None:
    x = data.to_unit_range(data.embedded("fashion_mnist", "test")[0][:64])
    networks = nb02.Generator(8, 4), nb02.Discriminator((4, 4, 4), 4)
    with pytest.raises(ValueError, match=r"Pictures in \[-1, 1\] are wanted, not"):
        nb02.train(*networks, wrong(x), runtime.start(verbose=False), num_steps=1)


# --- the one switch ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_with_digits_the_notebook_runs_and_speaks_of_digits(tmp_path) -> None:
    """All cells with DATASET = "mnist", in few steps; claims are noted and need not hold in so few."""
    source, switch = shortened(ROOT / "notebooks" / "src" / "02_dcgan_training.py"), 'DATASET = "fashion_mnist"'
    assert source.count(switch) == 1
    source = source.replace(switch, 'DATASET = "mnist"')
    script = tmp_path / "digits.py"
    script.write_text(source, "utf-8")
    wanted = {"COURSE_DATA": "embedded", "COURSE_CLAIMS": str(tmp_path / "claims"), "COURSE_BUDGET": "quick"}
    env = {**os.environ, **wanted, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    done = warm.run([sys.executable, str(script)], tmp_path, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    said = re.findall(r"\[picture\] (.*)", done.stdout)
    assert len(said) > 8 and any("digits" in words for words in said)
    assert not re.search(r"cloth|shirt|trouser|sleeve", " ".join(said), re.I)


@pytest.mark.parametrize(("channels", "classes", "size"), [(1, 0, 28), (3, 0, 32), (3, 5, 32), (1, 10, 28), (3, 2, 64)])
def test_the_networks_take_other_channels_sizes_and_classes(channels: int, classes: int, size: int) -> None:
    settings = {"channels": channels, "classes": classes, "size": size}
    generator, discriminator = nb02.Generator(8, 4, **settings), nb02.Discriminator((4, 4, 4), 8, **settings)
    y = torch.arange(3) % classes if classes else None
    x = generator.eval()(torch.randn(3, 8, 1, 1), y)
    assert x.shape == (3, channels, size, size)
    assert discriminator(x, y).shape == (3,)
    if classes:
        with torch.no_grad():
            assert not torch.equal(discriminator.eval()(x, y), discriminator(x, (y + 1) % classes))
        with pytest.raises(ValueError, match="one label for each of its 3 inputs"):
            discriminator(x)
        with pytest.raises(ValueError, match=f"from 0 to {classes - 1}, not 0 to {classes}"):
            generator(torch.randn(3, 8, 1, 1), torch.tensor([0, 0, classes]))
    with pytest.raises(ValueError, match="Pictures of shape"):
        discriminator(x[..., :-4], y)


@pytest.mark.parametrize("size", [30, 4, 0])
def test_a_size_that_cannot_be_halved_twice_is_refused(size: int) -> None:
    for network in (nb02.Generator, nb02.Discriminator):
        with pytest.raises(ValueError, match=f"multiple of 4 is wanted, not {size}"):
            network(size=size)
