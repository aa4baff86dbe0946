"""Notebook 01: exported parts against independent references, checks against published mistakes, the live GAN."""

import math
import re

import matplotlib

matplotlib.use("Agg")
import pytest
import torch
import torch.nn.functional as F
from scipy import integrate, stats
from scipy.spatial.distance import jensenshannon
from torch import nn

from course_utils import plots, widgets
from course_utils.lessons import nb01_gan_theory as lesson

torch.set_num_threads(1)
LOG_2 = math.log(2)


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


# ------------------------------------------------------------------------------------------ value and losses


def test_the_value_is_minus_the_cross_entropy_with_labels_one_and_zero():
    real, fake = torch.randn(7, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    with_labels = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    with_labels = with_labels + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    assert lesson.value(real, fake).item() == pytest.approx(-with_labels.item(), abs=1e-12)


def test_the_saturating_loss_is_the_part_of_the_value_that_depends_on_the_generator():
    real, fake, other = torch.randn(3, 6, dtype=torch.float64)
    change = lesson.value(real, fake) - lesson.value(real, other)
    assert torch.isclose(lesson.saturating_loss(fake) - lesson.saturating_loss(other), change)


@pytest.mark.parametrize("loss", [lesson.saturating_loss, lesson.non_saturating_loss])
def test_losses_pass_gradcheck_and_are_finite_where_sigmoid_underflows(loss):
    assert torch.autograd.gradcheck(loss, torch.randn(6, dtype=torch.float64, requires_grad=True))
    assert loss(torch.tensor([-500.0, 500.0])).isfinite()


def test_both_losses_push_the_same_way_and_differ_only_in_strength():
    u = torch.linspace(-6, 6, 50, dtype=torch.float64, requires_grad=True)
    slopes = [torch.autograd.grad(loss(u), u)[0] for loss in lesson.GENERATOR_LOSSES.values()]
    assert all((slope < 0).all() for slope in slopes)
    assert torch.allclose((slopes[0] + slopes[1]) * len(u), -torch.ones_like(u))


def test_each_step_moves_only_its_own_player():
    generator, discriminator = lesson.mlp(2, 2), lesson.mlp(2, 1)
    before = [[p.clone() for p in net.parameters()] for net in (generator, discriminator)]

    def unchanged(net, old):
        return all(torch.equal(p, q) for p, q in zip(net.parameters(), old))

    x_fake = generator(torch.randn(8, 2))
    sgd = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (generator, discriminator)]
    lesson.discriminator_step(discriminator, sgd[1], torch.randn(8, 2), x_fake)
    assert unchanged(generator, before[0]) and not unchanged(discriminator, before[1])
    assert all(p.grad is None for p in generator.parameters())
    trained = [p.clone() for p in discriminator.parameters()]
    lesson.generator_step(discriminator, sgd[0], x_fake)
    assert unchanged(discriminator, trained) and not unchanged(generator, before[0])


# --------------------------------------------------------------------------------------- D*, JSD and distance


def test_no_other_discriminator_reaches_the_value_of_the_optimal_one():
    p, q = double(0.1, 0.2, 0.7), double(0.5, 0.3, 0.2)
    best = lesson.optimal_discriminator(p.log(), q.log())

    def reached(d):
        return (p * d.log() + q * (1 - d).log()).sum()

    others = torch.rand(500, 3, dtype=torch.float64).clamp(0.01, 0.99)
    assert all(reached(d) <= reached(best) + 1e-12 for d in others)


def test_the_value_at_the_optimum_is_2_jsd_minus_log_4_by_scipys_quadrature():
    p, q = stats.norm(-0.7, 0.6), stats.norm(0.9, 1.1)

    def d_star(x):
        return lesson.optimal_discriminator(double(p.logpdf(x)), double(q.logpdf(x))).item()

    def against_middle(a):
        return integrate.quad(lambda x: a.pdf(x) * math.log(2 * a.pdf(x) / (p.pdf(x) + q.pdf(x))), -7, 8, limit=200)[0]

    integrand = lambda x: p.pdf(x) * math.log(d_star(x)) + q.pdf(x) * math.log1p(-d_star(x))  # noqa: E731
    best = integrate.quad(integrand, -7, 8, limit=200)[0]
    jsd = (against_middle(p) + against_middle(q)) / 2
    assert best == pytest.approx(2 * jsd - math.log(4), abs=1e-6)
    x = torch.linspace(-7, 8, 3001, dtype=torch.float64).numpy()
    histograms = (torch.from_numpy(density.pdf(x)) for density in (p, q))
    assert lesson.jensen_shannon(*histograms).item() == pytest.approx(jsd, abs=1e-6)


def test_jsd_equals_scipys_distance_squared():
    for p, q in torch.rand(20, 2, 9, dtype=torch.float64):
        p[:3] = 0  # empty bins
        assert lesson.jensen_shannon(p, q).item() == pytest.approx(jensenshannon(p, q) ** 2, abs=1e-12)


def test_jsd_is_bounded_and_takes_counts_of_any_total():
    p, q = torch.tensor([3, 1, 0, 0]), torch.tensor([0, 0, 10, 500])
    assert lesson.jensen_shannon(p, q).item() == pytest.approx(LOG_2)
    assert lesson.jensen_shannon(p, 70 * p).item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(("n", "m"), [(50, 50), (7, 31), (100, 30), (1, 9)])
def test_w1_equals_scipys_for_samples_of_any_two_sizes(n, m):
    x, y = torch.randn(n, dtype=torch.float64), 2 * torch.randn(m, dtype=torch.float64) + 1
    assert lesson.wasserstein_1(x, y).item() == pytest.approx(stats.wasserstein_distance(x, y), abs=1e-12)


def test_w1_of_disjoint_samples_has_a_slope_where_the_jsd_has_none():
    shift = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    x = torch.rand(40, dtype=torch.float64)
    (slope,) = torch.autograd.grad(lesson.wasserstein_1(x, torch.rand(30, dtype=torch.float64) + shift), shift)
    assert slope.item() == pytest.approx(1)


# ----------------------------------------------------------------------------------------------- the Dirac-GAN


def dirac_value(theta, psi, sigma):
    """V with instance noise, by scipy."""
    if sigma == 0:
        return -LOG_2 + F.logsigmoid(double(-psi * theta)).item()

    def integrand(x):
        real, fake = F.logsigmoid(double(psi * x)).item(), F.logsigmoid(double(-psi * (theta + x))).item()
        return stats.norm.pdf(x, scale=sigma) * (real + fake)

    return integrate.quad(integrand, -9 * sigma, 9 * sigma, epsabs=1e-12)[0]


@pytest.mark.parametrize("sigma", [0.0, 0.7])
def test_the_field_is_the_slope_of_the_value_down_for_g_and_up_for_d(sigma):
    theta, psi, e = 0.8, -0.6, 1e-4
    down = -(dirac_value(theta + e, psi, sigma) - dirac_value(theta - e, psi, sigma)) / (2 * e)
    up = (dirac_value(theta, psi + e, sigma) - dirac_value(theta, psi - e, sigma)) / (2 * e)
    field = lesson.dirac_field(double(theta, psi), sigma=sigma)
    assert field.tolist() == pytest.approx([down, up], abs=1e-6)


def test_the_field_is_what_the_penalty_and_losses_for_networks_give():
    theta, psi = double(0.8).requires_grad_(), double(-0.6).requires_grad_()
    critic = lambda x: psi * x  # noqa: E731
    x_real = torch.zeros(1, dtype=torch.float64)
    penalty = lesson.r1_penalty(lambda x: psi * x[:, 0], x_real[:, None], 0.7)
    gain = lesson.value(critic(x_real), critic(theta)) - penalty
    (for_d,) = torch.autograd.grad(gain, psi)
    for loss in ("saturating", "non-saturating", "Wasserstein"):
        (for_g,) = torch.autograd.grad(lesson.GAMES[loss][1](critic(theta)), theta)
        field = lesson.dirac_field(torch.cat([theta, psi]).detach(), loss=loss, gamma=0.7)
        assert field[0].item() == pytest.approx(-for_g.item())
        if loss != "Wasserstein":
            assert field[1].item() == pytest.approx(for_d.item())


def test_eigenvalues_are_those_of_the_papers_lemmas():
    a, h = 0.5, 0.3
    simultaneous = lesson.dirac_eigenvalues(h, alternating=False)
    assert simultaneous.abs().tolist() == pytest.approx([math.sqrt(1 + (h * a) ** 2)] * 2)  # lemma 2.4
    alpha = h * a
    root = torch.sqrt(torch.tensor((1 - alpha**2 / 2) ** 2 - 1, dtype=torch.complex128))
    assert torch.allclose(lesson.dirac_eigenvalues(h), torch.stack([1 - alpha**2 / 2 + root, 1 - alpha**2 / 2 - root]))
    assert lesson.spectral_radius(3.9) == pytest.approx(1)  # alpha < 2
    assert lesson.spectral_radius(4.1) > 1.1  # alpha > 2: lemma 2.5
    for gamma, sigma in ((0.4, 0.0), (0.0, 0.9), (3.0, 0.0)):  # lemmas 3.2 and 3.3: J = I + h times the field's
        half = gamma / 2 + sigma**2 / 4
        root = torch.sqrt(torch.tensor(half**2 - a**2, dtype=torch.complex128))
        expected = 1 + h * torch.stack([-half + root, -half - root])
        found = lesson.dirac_eigenvalues(h, alternating=False, gamma=gamma, sigma=sigma)
        assert torch.allclose(found, expected)


@pytest.mark.parametrize("alternating", [True, False])
@pytest.mark.parametrize("game", [{}, {"gamma": 0.3}, {"sigma": 0.8}, {"loss": "Wasserstein", "sigma": 0.8}])
def test_eigenvalues_are_those_of_the_jacobian_by_autograd(alternating, game):
    jacobian = torch.autograd.functional.jacobian(
        lambda x: lesson.dirac_update(x, 0.2, alternating, **game), torch.zeros(2, dtype=torch.float64)
    )
    found, expected = lesson.dirac_eigenvalues(0.2, alternating, **game), torch.linalg.eigvals(jacobian)
    assert min((found - expected).abs().max(), (found - expected.flip(0)).abs().max()) < 1e-9


def test_the_last_rounds_shrink_by_the_spectral_radius():
    distance = lesson.orbit(400, gamma=2.5).norm(dim=1)  # real eigenvalues: no rotation
    assert (distance[400] / distance[399]).item() == pytest.approx(lesson.spectral_radius(0.2, gamma=2.5), abs=1e-6)


def test_simultaneous_steps_recede_by_pythagoras():
    points = lesson.orbit(50, alternating=False)
    lengths = lesson.dirac_field(points[:-1]).norm(dim=1) * 0.2
    assert torch.allclose(points[1:].norm(dim=1), (points[:-1].norm(dim=1) ** 2 + lengths**2).sqrt())


def test_clipping_bounds_the_discriminator_and_gp_pulls_its_slope_to_one():
    assert lesson.orbit(200, loss="Wasserstein", clip=0.5)[:, 1].abs().max() <= 0.5
    at_one = lesson.dirac_field(double(0.0, 1.0), loss="Wasserstein", gamma=5.0, target=1.0)
    assert at_one[1] == 0


def test_the_gain_of_the_running_average_is_exact_for_a_rotation():
    omega = 0.07
    angle = omega * torch.arange(4000, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    for decay in (0.9, 0.99):
        radius = lesson.running_average(circle, decay)[-1].norm().item()
        assert radius == pytest.approx(lesson.averaging_gain(decay, omega), rel=1e-6)


def test_r1_passes_gradcheck_in_the_weights_and_matches_per_sample_gradients():
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0)).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    one_by_one = [torch.autograd.functional.jacobian(net, row[None]).square().sum() for row in x]
    assert torch.isclose(lesson.r1_penalty(net, x, 3.0), 1.5 * torch.stack(one_by_one).mean())

    def penalty(weight):
        return lesson.r1_penalty(lambda x: torch.tanh(x @ weight).sum(1), x)

    assert torch.autograd.gradcheck(penalty, torch.randn(3, 2, dtype=torch.float64, requires_grad=True))


# ---------------------------------------------------------------------------------------------- the live 2-D GAN


def test_a_histogram_counts_every_point_once_wherever_it_is():
    x = torch.tensor([[0.0, 0.0], [99.0, 0.0], [0.0, -99.0], [1.69, -1.69]])
    counts = lesson.histogram(x)
    assert counts.sum() == 4 and counts[-1] == 2 and len(counts) == 401


@pytest.mark.parametrize("name", list(lesson.TOYS))
def test_every_data_set_fits_into_the_frame_and_repeats_with_its_generator(name):
    x, again = (lesson.TOYS[name](500, torch.Generator().manual_seed(1)) for _ in range(2))
    assert x.shape == (500, 2) and torch.equal(x, again) and x.abs().max() < 1.7


def test_the_same_seed_gives_the_same_gan_and_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    first, second = (lesson.ToyGAN("ring", seed=3) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    first.train(3), second.train(3)
    assert torch.equal(first.sample(5), second.sample(5)) and first.history == second.history


@pytest.mark.parametrize("loss", list(lesson.GAMES))
def test_every_loss_trains_and_is_drawn(loss):
    gan = lesson.ToyGAN("two moons")
    before = [p.clone() for p in gan.generator.parameters()]
    gan.train(4, loss, gamma=0.0)
    assert gan.steps == 4 and any(not torch.equal(p, q) for p, q in zip(gan.generator.parameters(), before))
    picture = lesson.draw_gan(gan, loss)
    assert picture.alt.startswith("Step 4:") and picture.png


@pytest.fixture
def lab(monkeypatch):
    outputs, made = [], []
    monkeypatch.setattr(widgets, "publish_display_data", lambda data, metadata: outputs.append((data, metadata)))

    class Watched(lesson.ToyGAN):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(lesson, "ToyGAN", Watched)
    still = plots.Picture(b"png", "A film strip of five steps.")
    box = lesson.gan_lab(still)
    dataset, loss, r1, freeze, speed, row, screen = box.children
    player, one_step, again, _ = row.children
    parts = dict(dataset=dataset, loss=loss, r1=r1, freeze=freeze, speed=speed)
    parts |= dict(player=player, one_step=one_step, again=again)
    return parts, screen, made, outputs


def words(screen):
    return re.search(r'alt="([^"]+)"', screen.value)[1]


def test_the_live_gan_steps_plays_changes_loss_and_begins_again(lab):
    parts, screen, made, outputs = lab
    assert outputs[0][0]["text/plain"] == "[picture] A film strip of five steps." and widgets.VIEW in outputs[0][0]
    weights, first = made[0].generator[0].weight.clone(), screen.value
    parts["one_step"].click()
    assert made[0].steps == 10 and words(screen).startswith("Step 10:") and screen.value != first
    assert not torch.equal(weights, made[0].generator[0].weight)
    parts["speed"].value = 2
    parts["player"].value = 1
    parts["player"].value = 2
    assert made[0].steps == 14 and words(screen).startswith("Step 14:")
    before = screen.value
    parts["loss"].value = "saturating"
    assert len(made) == 1 and made[0].steps == 14 and screen.value != before  # other arrows, same game
    parts["dataset"].value = "grid"
    assert len(made) == 2 and words(screen).startswith("Step 0:")
    parts["one_step"].click()
    parts["again"].click()
    assert len(made) == 3 and words(screen).startswith("Step 0:")


@pytest.mark.parametrize("ticked", [True, False])
def test_the_box_switches_the_penalty(lab, ticked, monkeypatch):
    parts, _, _, _ = lab
    used = []
    monkeypatch.setattr(lesson, "r1_penalty", lambda d, x, gamma: used.append(gamma) or 0 * d(x).sum())
    parts["r1"].value = ticked
    parts["speed"].value = 1
    parts["one_step"].click()
    assert used == ([0.1] if ticked else [])


def test_a_frozen_generator_stays_while_the_saturating_arrows_die_away(lab):
    parts, _, made, _ = lab
    parts["r1"].value, parts["freeze"].value, parts["speed"].value = False, True, 50
    before = made[0].generator[0].weight.clone()
    for _ in range(4):
        parts["one_step"].click()
    assert made[0].steps == 200 and torch.equal(before, made[0].generator[0].weight)
    logits = made[0].discriminator(made[0].sample(100))
    assert logits.sigmoid().mean() < 0.05  # the push of the saturating loss, against 1 - D of the other


@pytest.mark.parametrize(
    "bad", [torch.zeros(4), torch.tensor([1.0, -1, 1, 1]), torch.full((4,), math.nan), torch.ones(1)]
)
def test_what_is_no_histogram_has_no_divergence(bad) -> None:
    for pair in ((bad, torch.ones(4)), (torch.ones(4), bad)):
        with pytest.raises(ValueError, match="Two histograms of one shape are wanted"):
            lesson.jensen_shannon(*pair)


def test_points_that_are_not_a_number_lie_in_no_bin() -> None:
    with pytest.raises(ValueError, match="hold NaN, which lies in no bin"):
        lesson.histogram(torch.full((5, 2), math.nan))


def test_a_game_that_diverged_leaves_a_gap_in_its_curve() -> None:
    game = lesson.ToyGAN("ring")
    with torch.no_grad():
        next(game.generator.parameters()).fill_(math.nan)
    game.measure()
    assert math.isnan(game.history[-1][1])
