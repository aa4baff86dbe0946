"""Notebook 04: exported parts against quadrature, autograd, brute force and scipy."""

import math
from functools import partial

import pytest
import torch
from scipy import integrate, stats

from course_utils.data import GaussianMixture
from course_utils.lessons import nb04_diffusion_math as lesson
from course_utils.lessons.nb04_diffusion_math import CLEAN, Level, Schedule

torch.set_num_threads(1)
LINE = lesson.MixtureMarginals(GaussianMixture(torch.tensor([[-1.0], [0.6], [1.6]]), std=0.2))
PLANE = lesson.MixtureMarginals(GaussianMixture(torch.tensor([[-1.0, 0.5], [1.0, 0.0], [0.2, -1.1]]), std=0.3))
LEVELS = [Level(0.999, math.sqrt(1 - 0.999**2)), Level(0.8, 0.6), Level(0.1, math.sqrt(0.99)), Level(0.4, 0.6)]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a, b, tolerance=1e-9):
    a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    return torch.allclose(a, b, atol=tolerance, rtol=tolerance)


# ------------------------------------------------------------------------------------- levels and schedules


def test_betas_are_the_published_ones_at_1000_steps():
    # as diffusers' DDPMScheduler makes them, in plain Python
    linear = [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
    roots = [math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * i / 999 for i in range(1000)]
    sigmoid = [1e-4 + (0.02 - 1e-4) / (1 + math.exp(6 - 12 * i / 999)) for i in range(1000)]
    assert close(lesson.linear_betas(1000), linear, 1e-12)
    assert close(lesson.scaled_linear_betas(1000), [root**2 for root in roots], 1e-12)
    assert close(lesson.sigmoid_betas(1000), sigmoid, 1e-12)


@pytest.mark.parametrize("T", [10, 1000])
def test_cosine_betas_are_squaredcos_cap_v2(T):
    def alpha_bar(time):
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    expected = [min(1 - alpha_bar((i + 1) / T) / alpha_bar(i / T), 0.999) for i in range(T)]
    assert close(lesson.cosine_betas(T), expected, 1e-12)


@pytest.mark.parametrize("name", list(lesson.BETAS))
@pytest.mark.parametrize("T", [10, 50, 300, 1000])
def test_every_schedule_falls_to_noise_for_any_length(name, T):
    schedule = Schedule.named(name, T)
    assert schedule.betas.shape == schedule.alphas_bar.shape == (T,) and schedule.betas.dtype == torch.float64
    assert (schedule.log_snr.diff() < 0).all() and lesson.terminal_snr(schedule) < 0.01


def test_betas_that_ignore_the_number_of_steps_fail_the_terminal_test():
    kept = Schedule(torch.linspace(1e-4, 0.02, 50))
    assert kept.alphas_bar[-1].item() == pytest.approx(0.603, abs=5e-4)
    assert lesson.terminal_snr(kept) == pytest.approx(0.603 / 0.397, rel=0.01)


def test_levels_of_one_time_of_many_and_of_clean_data():
    schedule = Schedule.named("cosine", 20)
    assert schedule.level(-1) == CLEAN == Level(1.0, 0.0)
    one, many = schedule.level(7), schedule.level(torch.tensor([-1, 7, 19]))
    assert isinstance(one.alpha, float) and many.alpha.shape == (3,) and many.alpha.dtype == torch.float64
    assert many.alpha[1].item() == one.alpha and many.sigma[0] == 0
    assert one.alpha**2 == pytest.approx(torch.prod(1 - schedule.betas[:8]).item())
    assert one.alpha**2 + one.sigma**2 == pytest.approx(1)
    for wrong in (20, -2, 1.5, torch.tensor([0, 20])):
        with pytest.raises(ValueError, match="whole numbers from -1"):
            schedule.level(wrong)


def test_unknown_names_and_impossible_betas_are_refused():
    with pytest.raises(ValueError, match="choose one of linear"):
        Schedule.named("quadratic", 10)
    for betas in (torch.tensor([0.1, 1.2]), torch.tensor([[0.1]]), torch.tensor([-0.1])):
        with pytest.raises(ValueError, match="between 0 and 1"):
            Schedule(betas)


def test_lambda_and_angle_are_the_same_level_in_other_clocks():
    level = Schedule.named("linear", 100).level(torch.arange(100))
    assert close(2 * level.half_log_snr, Schedule.named("linear", 100).log_snr)
    assert close(level.angle.cos(), level.alpha) and close(level.angle.sin(), level.sigma)
    assert CLEAN.half_log_snr == math.inf and CLEAN.angle == 0
    lambdas = torch.stack([level.half_log_snr for level in lesson.even_levels(6, -2, 4)])
    assert close(lambdas, torch.arange(-2.0, 5.0))


@pytest.mark.parametrize(("T", "steps"), [(1000, 50), (1000, 300), (1000, 999), (1000, 1000), (50, 2), (7, 5)])
def test_respacing_starts_at_the_end_and_takes_steps_of_one_length_down_to_clean(T, steps):
    found = lesson.respaced(T, steps)
    assert found[0] == T - 1 and len(found) == steps and all(isinstance(t, int) for t in found)
    jumps = [a - b for a, b in zip(found, [*found[1:], -1])]
    assert min(jumps) >= T // steps and max(jumps) - min(jumps) <= 1
    levels = Schedule.named("linear", T).levels(steps)
    assert len(levels) == steps + 1 and levels[-1] == CLEAN


def test_respacing_holds_for_every_length_and_gives_known_lists():
    for T in range(1, 80):
        for steps in range(1, T + 1):
            found = lesson.respaced(T, steps)
            jumps = {a - b for a, b in zip(found, [*found[1:], -1])}
            assert found[0] == T - 1 and len(found) == steps and min(jumps) >= 1 and max(jumps) - min(jumps) <= 1
    assert lesson.respaced(1000, 10) == list(range(999, 0, -100))
    assert lesson.respaced(7, 7) == [6, 5, 4, 3, 2, 1, 0]
    trailing = [round(1000 - i * 1000 / 7) - 1 for i in range(7)]  # diffusers' timestep_spacing="trailing"
    assert lesson.respaced(1000, 7) == trailing


def test_respacing_refuses_more_steps_than_there_are():
    assert lesson.respaced(10, 1) == [9]
    for steps in (0, 11):
        with pytest.raises(ValueError, match="Between 1 and 10"):
            lesson.respaced(10, steps)


def test_coefficients_keep_the_type_of_the_data_and_fit_pictures():
    x0, noise = torch.randn(2, 5, 1, 4, 4)
    schedule = Schedule.named("cosine", 30)
    t = torch.tensor([0, 3, 10, 20, 29])
    x = lesson.add_noise(x0, noise, schedule.level(t))
    assert x.dtype == torch.float32 and x.shape == x0.shape
    for i in range(5):
        level = schedule.level(t[i].item())
        assert torch.allclose(x[i], level.alpha * x0[i] + level.sigma * noise[i], atol=1e-6)
    assert lesson.like(0.1, normal(3)).item() == 0.1  # not the float32 nearest to it


# ----------------------------------------------------------------------------------------- exact marginals


@pytest.mark.parametrize("level", LEVELS)
def test_the_density_is_the_convolution_of_data_and_noise(level):
    for x in (-1.3, 0.1, 0.9):

        def integrand(x0, x=x):
            data = sum(stats.norm.pdf(x0, c, 0.2) for c in (-1.0, 0.6, 1.6)) / 3
            return data * stats.norm.pdf(x, level.alpha * x0, level.sigma)

        by_quadrature = integrate.quad(integrand, -2.5, 3, limit=400, points=[x / level.alpha] if x > -1 else None)[0]
        found = LINE.log_density(torch.tensor([[x]], dtype=torch.float64), level).exp().item()
        assert found == pytest.approx(by_quadrature, rel=1e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_mean_and_variance_of_x0_given_x_are_those_of_quadrature(level):
    x = 0.4 * level.alpha
    points = torch.linspace(-3, 3.5, 200_001, dtype=torch.float64)[:, None]
    weights = LINE.log_density(points, CLEAN) - (x - level.alpha * points[:, 0]) ** 2 / (2 * level.sigma**2)
    weights = weights.softmax(0)
    mean = (weights * points[:, 0]).sum()
    variance = (weights * (points[:, 0] - mean) ** 2).sum()
    at = torch.tensor([[x]], dtype=torch.float64)
    assert close(LINE.denoise(at, level)[0, 0], mean, 1e-6)
    assert close(LINE.spread(at, level)[0], variance, 1e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_the_score_is_autograds_and_tweedies(level):
    x = normal(40, 2).requires_grad_()
    (by_autograd,) = torch.autograd.grad(PLANE.log_density(x, level).sum(), x)
    assert close(PLANE.score(x.detach(), level), by_autograd)
    by_tweedie = lesson.score_from_x0(PLANE.denoise(x.detach(), level), x.detach(), level)
    assert close(by_tweedie, by_autograd, 1e-7)


def test_the_jacobian_of_the_denoiser_is_the_variance_of_x0():
    # Cov[x0 | x] = sigma^2 / alpha dE[x0 | x] / dx: second-order Tweedie
    level = LEVELS[1]
    for point in normal(5, 2):
        jacobian = torch.autograd.functional.jacobian(lambda x: PLANE.denoise(x[None], level)[0], point)
        expected = level.sigma**2 / level.alpha * jacobian.trace()
        assert close(PLANE.spread(point[None], level)[0], expected)


def test_marginals_take_one_level_for_each_point():
    schedule, t, x = Schedule.named("linear", 50), torch.tensor([0, 20, 49]), normal(3, 2)
    for method in ("log_density", "score", "denoise", "spread"):
        together = getattr(PLANE, method)(x, schedule.level(t))
        each = [getattr(PLANE, method)(x[i : i + 1], schedule.level(t[i].item())) for i in range(3)]
        assert close(together, torch.cat(each))


# -------------------------------------------------------------------------------------------- conversions


@pytest.mark.parametrize("kind", lesson.KINDS)
@pytest.mark.parametrize("level", LEVELS)
def test_every_prediction_gives_x0_back(kind, level):
    x0, noise = normal(2, 6, 3, 2)
    x = lesson.add_noise(x0, noise, level)
    output = lesson.output_from(kind, x0, noise, level)
    assert close(lesson.x0_from(kind, output, x, level), x0)
    assert close(lesson.eps_from_x0(x0, x, level), noise, 1e-8)


def test_v_and_velocity_are_the_speeds_of_the_two_paths():
    x0, noise = normal(2, 5)
    angle, h = 0.7, 1e-6

    def turned(a):
        return lesson.add_noise(x0, noise, Level(math.cos(a), math.sin(a)))

    speed = (turned(angle + h) - turned(angle - h)) / (2 * h)
    assert close(lesson.output_from("v", x0, noise, Level(math.cos(angle), math.sin(angle))), speed, 1e-7)
    straight = lesson.add_noise(x0, noise, Level(0.2, 0.8)) - lesson.add_noise(x0, noise, Level(0.3, 0.7))
    assert close(lesson.output_from("velocity", x0, noise, Level(0.3, 0.7)), straight / 0.1)


def test_an_unknown_kind_is_refused():
    x = normal(3)
    with pytest.raises(ValueError, match="choose one of epsilon"):
        lesson.x0_from("eps", x, x, LEVELS[1])
    with pytest.raises(ValueError, match="choose one of epsilon"):
        lesson.output_from("eps", x, x, LEVELS[1])


# ------------------------------------------------------------------------------------ posterior and bound


@pytest.mark.parametrize(("t", "s"), [(1, 0), (12, 11), (15, 4), (19, 0)])
def test_the_posterior_equals_brute_force_bayes(t, s):
    schedule = Schedule.named("linear", 20)
    now, then, x0, x = schedule.level(t), schedule.level(s), -1.2, 0.5
    a = now.alpha / then.alpha
    grid = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    b = torch.prod(1 - schedule.betas[s + 1 : t + 1])  # the shrinking in between, from the betas
    assert a**2 == pytest.approx(b.item())
    log_product = -((x - a * grid) ** 2) / (2 * (1 - b)) - (grid - then.alpha * x0) ** 2 / (2 * then.sigma**2)
    weights = log_product.softmax(0)
    mean, variance = lesson.posterior(torch.tensor([x0]).double(), torch.tensor([x]).double(), now, then)
    brute = (weights * grid).sum()
    assert close(mean[0], brute, 1e-6)
    assert close(variance[0], (weights * (grid - brute) ** 2).sum(), 1e-6)


def test_the_posterior_between_neighbours_is_equation_7_of_ddpm():
    schedule, t = Schedule.named("cosine", 40), 25
    beta, bar, bar_before = schedule.betas[t], schedule.alphas_bar[t], schedule.alphas_bar[t - 1]
    x0, x = normal(2, 8)
    mean, variance = lesson.posterior(x0, x, schedule.level(t), schedule.level(t - 1))
    expected = bar_before.sqrt() * beta / (1 - bar) * x0 + (1 - beta).sqrt() * (1 - bar_before) / (1 - bar) * x
    assert close(mean, expected) and close(variance, (1 - bar_before) / (1 - bar) * beta)


def test_every_term_of_the_bound_agrees_with_a_monte_carlo_estimate_from_its_definition():
    levels = [*lesson.even_levels(5, -3, 3), CLEAN]
    grid = torch.linspace(-6, 6, 2401, dtype=torch.float64)
    bound = lesson.evidence_bound(LINE, LINE.denoise, levels, grid)
    rng = torch.Generator().manual_seed(1)
    x0 = LINE.mixture.sample(400_000, rng).double()
    alpha, sigma = levels[0]
    prior = torch.distributions.kl_divergence(
        torch.distributions.Normal(alpha * x0, sigma), torch.distributions.Normal(0.0, 1.0)
    )
    assert bound.prior == pytest.approx(prior.mean().item(), abs=2e-3)
    for i, term in enumerate(bound.middle):
        now, then = levels[i], levels[i + 1]
        x = lesson.add_noise(x0, torch.randn(x0.shape, generator=rng, dtype=torch.float64), now)
        mean, variance = lesson.posterior(x0, x, now, then)
        guessed, _ = lesson.posterior(LINE.denoise(x, now), x, now, then)
        q, p = (torch.distributions.Normal(m, variance.sqrt()) for m in (mean, guessed))
        assert term == pytest.approx(torch.distributions.kl_divergence(q, p).mean().item(), rel=0.02)
    x = lesson.add_noise(x0, torch.randn(x0.shape, generator=rng, dtype=torch.float64), levels[-2])
    beta = 1 - levels[-2].alpha ** 2
    last = torch.distributions.Normal(LINE.denoise(x, levels[-2]), beta**0.5).log_prob(x0)
    assert bound.last == pytest.approx(-last.mean().item(), abs=0.01)


def test_the_chains_density_is_that_of_its_samples_and_has_mass_one():
    levels = [*lesson.even_levels(7, -3, 3), CLEAN]
    grid = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    density = lesson.chain_density(LINE.denoise, levels, grid)
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-5)
    rng, n = torch.Generator().manual_seed(2), 100_000
    x = lesson.sample(LINE.denoise, torch.randn(n, 1, generator=rng).double(), levels, lesson.ANCESTRAL, rng)
    beta = 1 - levels[-2].alpha ** 2
    x = x[:, 0] + beta**0.5 * torch.randn(n, generator=rng).double()  # the bound's last step has the large variance
    cumulative = torch.cumulative_trapezoid(density, grid)
    for cut in (300, 450, 520, 600):
        assert (x < grid[cut + 1]).double().mean().item() == pytest.approx(cumulative[cut].item(), abs=0.008)


def test_the_bound_is_a_bound_and_a_wrong_guess_lowers_it():
    levels = [*lesson.even_levels(15, -4, 4), CLEAN]
    grid = torch.linspace(-5, 5, 1201, dtype=torch.float64)
    log_p = LINE.log_density(grid[:, None], CLEAN)

    def timid(x, level):
        return 0.9 * LINE.denoise(x, level)

    exact, worse = (lesson.evidence_bound(LINE, d, levels, grid).elbo for d in (LINE.denoise, timid))
    own = torch.trapezoid(log_p.exp() * lesson.chain_density(LINE.denoise, levels, grid).log(), grid).item()
    entropy = -torch.trapezoid(log_p.exp() * log_p, grid).item()
    assert worse < exact < own < -entropy


def test_epsilon_weights_turn_noise_errors_into_divergences():
    schedule, t = Schedule.named("linear", 30), 11
    now, then = schedule.level(t), schedule.level(t - 1)
    x0, eps, guess = normal(3, 1)
    x = lesson.add_noise(x0, eps, now)
    means = [lesson.posterior(lesson.x0_from("epsilon", e, x, now), x, now, then) for e in (eps, guess)]
    divergence = (means[0][0] - means[1][0]) ** 2 / (2 * means[0][1])
    assert close(lesson.epsilon_weights(schedule)[t - 1] * (eps - guess) ** 2, divergence)


# ------------------------------------------------------------------------------------------------ samplers

PAIRS = list(zip(lesson.even_levels(4), lesson.even_levels(4)[1:]))


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_ancestral_steps_are_those_of_ddpm_written_with_betas(variance, name):
    schedule = Schedule.named(name, 30)
    x, x0, noise = normal(3, 4, 2)
    for t in (29, 10, 1, 0):
        beta, bar = schedule.betas[t], schedule.alphas_bar[t]
        before = schedule.alphas_bar[t - 1] if t else torch.tensor(1.0).double()
        mean = before.sqrt() * beta / (1 - bar) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - bar) * x
        spread = beta if variance == "large" else (1 - before) / (1 - bar) * beta
        expected = mean + spread.sqrt() * noise if t else mean
        found = lesson.ancestral_step(x, x0, schedule.level(t), schedule.level(t - 1), noise, variance)
        assert close(found, expected)
    with pytest.raises(ValueError, match="'small' or 'large'"):
        lesson.ancestral_step(x, x0, *PAIRS[0], noise, "medium")


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_steps_are_those_of_the_paper_written_with_alpha_bars(eta):
    schedule = Schedule.named("scaled linear", 1000)
    x, x0, noise = normal(3, 4, 2)
    for t, s in ((999, 979), (400, 100), (19, 0), (0, -1)):
        bar = schedule.alphas_bar[t]
        before = schedule.alphas_bar[s] if s >= 0 else torch.tensor(1.0).double()
        eps = (x - bar.sqrt() * x0) / (1 - bar).sqrt()
        deviation = eta * ((1 - before) / (1 - bar) * (1 - bar / before)).sqrt()  # equation 16
        expected = before.sqrt() * x0 + (1 - before - deviation**2).sqrt() * eps + deviation * noise  # equation 12
        assert close(lesson.ddim_step(x, x0, schedule.level(t), schedule.level(s), eta, noise), expected)


def test_ddim_says_when_it_is_asked_for_too_much_noise_or_given_none():
    x, x0, noise = normal(3, 4, 2)
    with pytest.raises(ValueError, match="between 0 and 1"):
        lesson.ddim_step(x, x0, *PAIRS[0], 3.0, noise)
    with pytest.raises(ValueError, match="pass it"):
        lesson.ddim_step(x, x0, *PAIRS[0], 0.5)


def test_dpmpp_2m_is_the_published_update():
    # diffusers' multistep_dpm_solver_second_order_update, dpmsolver++ and midpoint
    before, now, then = lesson.even_levels(2, -1.3, 0.9)
    then = Level(0.9, math.sqrt(0.19))
    x, m0, m1 = normal(3, 4, 2)
    lambdas = [math.log(level.alpha / level.sigma) for level in (then, now, before)]
    h, h_0 = lambdas[0] - lambdas[1], lambdas[1] - lambdas[2]
    d1 = (h / h_0) * (m0 - m1)
    expected = then.sigma / now.sigma * x - then.alpha * math.expm1(-h) * m0
    expected = expected - 0.5 * then.alpha * math.expm1(-h) * d1
    assert close(lesson.dpmpp_2m_step(x, m0, now, then, (m1, before)), expected)
    assert close(lesson.dpmpp_2m_step(x, m0, now, then), lesson.ddim_step(x, m0, now, then))
    assert close(lesson.dpmpp_2m_step(x, m0, now, CLEAN, (m1, before)), m0)


@pytest.mark.parametrize("step", list(lesson.SAMPLERS.values()))
def test_every_sampler_works_on_pictures_in_float32_and_repeats_with_its_generator(step):
    levels = Schedule.named("cosine", 50).levels(10)[1:]
    x, seen = torch.randn(3, 1, 8, 8), []

    def denoise(x, level):
        seen.append(level)
        return 0.5 * x.tanh()

    runs = [lesson.sample(denoise, x, levels, step, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert runs[0].shape == x.shape and runs[0].dtype == torch.float32 and torch.equal(*runs)
    assert runs[0].isfinite().all() and seen[0] == levels[0] and CLEAN not in seen


def test_sampling_reports_each_step_and_keeps_no_gradient():
    levels, visited = Schedule.named("linear", 20).levels(5), []
    weight = torch.ones(1, requires_grad=True)
    start, observe = torch.randn(2, 3), lambda *step: visited.append(step)
    x = lesson.sample(lambda x, level: weight * x, start, levels, observe=observe)
    assert not x.requires_grad and [level for *_, level in visited] == levels[1:]
    assert torch.equal(visited[-1][0], x)


def test_options_go_through_partial():
    levels, x = Schedule.named("linear", 20).levels(), normal(500, 1)
    steps = (lesson.Solver(partial(lesson.ddim_step, eta=1.0), "noise"), lesson.ANCESTRAL)
    a, b = (lesson.sample(LINE.denoise, x, levels, step, torch.Generator().manual_seed(3)) for step in steps)
    assert close(a, b, 1e-8) and not close(a, lesson.sample(LINE.denoise, x, levels))


def test_for_a_single_gaussian_the_ode_only_scales():
    # x_t has the standard deviation sqrt(alpha^2 s^2 + sigma^2), and each point keeps its place in it
    gaussian = lesson.MixtureMarginals(GaussianMixture(torch.zeros(1, 1), std=0.5))
    first, last = lesson.even_levels(1)
    widths = [math.sqrt((level.alpha * 0.5) ** 2 + level.sigma**2) for level in (first, last)]
    x = normal(20, 1)
    expected = x * widths[1] / widths[0]
    assert close(lesson.exact_flow(gaussian, x, first, last), expected, 1e-8)
    for step, tolerance in ((lesson.DDIM, 5e-3), (lesson.HEUN, 1e-5), (lesson.DPMPP_2M, 1e-5)):
        assert close(lesson.sample(gaussian.denoise, x, lesson.even_levels(500), step), expected, tolerance)


def test_the_cdf_and_the_exact_flow_agree_with_scipy():
    first, last = lesson.even_levels(1)
    centres, x = LINE.centres[:, 0].tolist(), normal(6, 1)
    for level in (first, last):
        width = math.sqrt((level.alpha * 0.2) ** 2 + level.sigma**2)
        expected = sum(stats.norm.cdf(x, level.alpha * c, width) for c in centres) / 3
        assert close(lesson.cdf(LINE, x, level), expected)

    def slope(angle, y):
        level = Level(math.cos(angle), math.sin(angle))
        points = torch.tensor(y)[:, None]
        eps = -level.sigma * LINE.score(points, level)
        return ((eps - level.sigma * points) / level.alpha)[:, 0].numpy()  # dx/dphi = (eps - sigma x) / alpha

    span = [level.angle.item() for level in (first, last)]
    solved = integrate.solve_ivp(slope, span, x[:, 0].numpy(), rtol=1e-10, atol=1e-12)
    assert close(lesson.exact_flow(LINE, x, first, last)[:, 0], solved.y[:, -1], 1e-7)


@pytest.fixture(scope="module")
def fine():
    """Noise, and where a solver of second order comes from there in 2,000 steps."""
    x = normal(50, 2)
    return x, lesson.sample(PLANE.denoise, x, lesson.even_levels(2000), lesson.HEUN)


@pytest.mark.parametrize(
    ("step", "order"),
    [(lesson.Solver(lesson.euler_step), 1), (lesson.DDIM, 1), (lesson.HEUN, 2), (lesson.DPMPP_2M, 2)],
)
def test_orders_on_the_plane_against_a_fine_reference(step, order, fine):
    x, reference = fine
    errors = []
    for n in (128, 256):
        errors.append((lesson.sample(PLANE.denoise, x, lesson.even_levels(n), step) - reference).abs().mean().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


def test_euler_maruyama_reaches_the_data_with_many_steps_and_adds_no_noise_at_the_end():
    levels = Schedule.named("linear", 1000).levels(400)
    rng = torch.Generator().manual_seed(0)
    x = lesson.sample(LINE.denoise, normal(20_000, 1), levels, lesson.EULER_MARUYAMA, rng)
    for cut in (-1.0, 0.0, 0.6, 1.6):
        expected = lesson.cdf(LINE, torch.tensor([[cut]]).double(), CLEAN).item()
        assert (x < cut).double().mean().item() == pytest.approx(expected, abs=0.02)
    still = [lesson.euler_maruyama_step(x, 0 * x, levels[-2], CLEAN, noise) for noise in (normal(20_000, 1), 0 * x)]
    assert torch.equal(*still)


def test_one_ddim_step_solves_the_ode_with_a_constant_guess():
    x0, x, (now, then) = 0.3, 1.1, PAIRS[1]

    def slope(angle, y):
        return (math.cos(angle) * y - x0) / math.sin(angle)

    solved = integrate.solve_ivp(slope, [now.angle.item(), then.angle.item()], [x], rtol=1e-11, atol=1e-12)
    found = lesson.ddim_step(*torch.tensor([[x], [x0]], dtype=torch.float64), now, then)
    assert close(found, solved.y[:, -1], 1e-8)


def test_euler_on_the_flow_is_ddim_at_any_levels():
    x, x0 = normal(2, 9, 2)
    for now, then in [*PAIRS, (PAIRS[2][0], CLEAN)]:
        flow = [lesson.flow_level(level) for level in (now, then)]
        assert all(level.alpha + level.sigma == pytest.approx(1) for level in flow)
        by_euler = lesson.flow_euler_step(x / (now.alpha + now.sigma), x0, *flow) * (then.alpha + then.sigma)
        assert close(by_euler, lesson.ddim_step(x, x0, now, then))
        assert close(lesson.flow_euler_step(x, x0, *flow), lesson.ddim_step(x, x0, *flow))


def test_a_recorded_film_begins_and_ends_with_the_run():
    levels, x = Schedule.named("linear", 30).levels(6), normal(4, 2)
    film = lesson.record(PLANE, x, levels, lesson.ANCESTRAL, seed=1)
    assert film.shape == (7, 4, 2) and torch.equal(film[0], x)
    assert torch.equal(film, lesson.record(PLANE, x, levels, lesson.ANCESTRAL, seed=1))


# --- sizes that do not fit ----------------------------------------------------------------------------------


def test_noise_is_never_broadcast_over_pictures() -> None:
    level = Schedule.named("cosine", 10).level(5)
    with pytest.raises(ValueError, match=r"Noise \(1, 4\) does not fit x0 \(3, 4\)"):
        lesson.add_noise(torch.zeros(3, 4), torch.zeros(1, 4), level)


@pytest.mark.parametrize("betas", [torch.zeros(0), torch.tensor([math.nan]), torch.tensor([0.5, 1.0])])
def test_what_is_no_schedule_is_refused(betas) -> None:
    with pytest.raises(ValueError, match="Betas are a tensor"):
        Schedule(betas)


def test_no_step_is_no_sampling() -> None:
    schedule = Schedule.named("cosine", 10)
    for steps in (0, -1, 11):
        with pytest.raises(ValueError, match="Between 1 and 10 steps"):
            schedule.levels(steps)
    with pytest.raises(ValueError, match="two at least, not 1"):
        lesson.sample(lambda x, level: x, torch.zeros(2, 1), schedule.levels(5)[:1])


ONE, TWO = torch.zeros(1, 4), torch.zeros(2, 4)
NOW, THEN = Schedule.named("cosine", 10).level(5), Schedule.named("cosine", 10).level(2)
THREE_LEVELS = Schedule.named("cosine", 10).level(torch.tensor([1, 2, 3]))
MISFITS = {
    "x0_from": lambda: lesson.x0_from("v", ONE, TWO, NOW),
    "output_from": lambda: lesson.output_from("velocity", TWO, ONE, NOW),
    "eps_from_x0": lambda: lesson.eps_from_x0(ONE, TWO, NOW),
    "score_from_x0": lambda: lesson.score_from_x0(ONE, TWO, NOW),
    "posterior": lambda: lesson.posterior(ONE, TWO, NOW, THEN),
    "ancestral_step": lambda: lesson.ancestral_step(TWO, TWO, NOW, THEN, ONE),
    "ddim_step": lambda: lesson.ddim_step(TWO, TWO, NOW, THEN, 0.5, ONE),
    "euler_maruyama_step": lambda: lesson.euler_maruyama_step(TWO, TWO, NOW, THEN, ONE),
    "dpmpp_2m_step": lambda: lesson.dpmpp_2m_step(TWO, TWO, NOW, THEN, (ONE, NOW)),
    "a denoiser's x0": lambda: lesson.sample(lambda x, level: x[:1], TWO, [NOW, THEN]),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_is_smaller_is_never_repeated_in_silence(name) -> None:
    with pytest.raises(ValueError, match=r"\(1, 4\) does not fit \w+ \(2, 4\): both must have the same shape"):
        MISFITS[name]()


@pytest.mark.parametrize("x", [ONE, TWO])
def test_there_is_a_level_for_each_sample(x) -> None:
    for ask in (lambda: lesson.add_noise(x, x, THREE_LEVELS), lambda: lesson.x0_from("v", x, x, THREE_LEVELS)):
        with pytest.raises(ValueError, match=r"\(3,\) levels do not fit \(., 4\): give one for each"):
            ask()


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: Schedule.named("linear", 0), "at least one step, not 0"),
        (lambda: Schedule.named("cosine", -3), "at least one step, not -3"),
        (lambda: lesson.respaced(10, 2.5), "not 2.5"),
        (lambda: lesson.respaced(10, math.nan), "not nan"),
        (lambda: lesson.even_levels(0), "At least one step is wanted, not 0"),
        (lambda: lesson.ddim_step(TWO, TWO, NOW, THEN, -0.5, TWO), "eta = -0.5 is no share"),
        (lambda: lesson.ddim_step(TWO, TWO, NOW, THEN, math.nan, TWO), "eta = nan is no share"),
        (lambda: lesson.transition(THEN, NOW), "must have less noise than `now`: swap them"),
        (lambda: lesson.sample(lambda x, level: x, TWO, [CLEAN, NOW]), "Only the last level may be clean"),
        (lambda: PLANE.denoise(torch.zeros(3, 1), NOW), "have 2 coordinates, not 1"),
    ],
)
def test_numbers_that_mean_nothing_are_named(ask, said) -> None:
    with pytest.raises(ValueError, match=said):
        ask()


# --- arguments in each other's place ------------------------------------------------------------------------

T_FIVE, RING_LEVELS = torch.tensor([5]), Schedule.named("cosine", 10).levels(5)
MIXED_UP = [
    (lambda: Schedule("cosine"), TypeError, r"Schedule\.named\('linear', 1000\)"),
    (lambda: Schedule(lesson.linear_betas), TypeError, r"Schedule\(linear_betas\(1000\)\)"),
    (lambda: Schedule.named(50, "cosine"), TypeError, r"name comes first.*not Schedule\.named\(50, 'cosine'\)"),
    (lambda: Schedule.named("cosine", 50.0), TypeError, "a whole number"),
    (lambda: Schedule.named("cosine", 50).level([1, 2]), TypeError, r"Several timesteps are a tensor.*\[1, 2\]"),
    (lambda: Schedule.named("cosine", 50).levels([49, 20]), ValueError, r"Between 1 and 50 steps.*not \[49, 20\]"),
    (lambda: lesson.even_levels(4, 3.0, -3.0), ValueError, "lambda rises from noise to data"),
    (lambda: lesson.add_noise(TWO, TWO, 5), TypeError, "A level is wanted.*type int"),
    (lambda: lesson.add_noise(TWO, T_FIVE, TWO), ValueError, "must have the same shape"),
    (lambda: lesson.add_noise(TWO, NOW, TWO), TypeError, "noise is a tensor.*type Level"),
    (lambda: lesson.x0_from(TWO, "v", TWO, NOW), TypeError, "output is a tensor.*type str"),
    (lambda: lesson.output_from("v", TWO, TWO, T_FIVE), TypeError, "A level is wanted.*type Tensor"),
    (lambda: lesson.eps_from_x0(TWO, TWO, 5), TypeError, "A level is wanted"),
    (lambda: lesson.score_from_x0(TWO, TWO, 5), TypeError, "A level is wanted"),
    (lambda: lesson.preconditioning(0.5, NOW), TypeError, "A level is wanted.*type float"),
    (lambda: PLANE.denoise(NOW, normal(3, 2)), TypeError, "A level is wanted"),
    (lambda: lesson.transition(5, 4), TypeError, "A level is wanted"),
    (lambda: lesson.posterior(TWO, TWO, THEN, NOW), ValueError, "less noise than `now`: swap them"),
    (lambda: lesson.posterior(TWO, NOW, TWO, THEN), TypeError, "x is a tensor.*type Level"),
    (lambda: lesson.middle_term(TWO, TWO, THEN, NOW), ValueError, "less noise than `now`: swap them"),
    (lambda: lesson.ancestral_step(TWO, TWO, THEN, NOW, TWO), ValueError, "less noise than `now`: swap them"),
    (lambda: lesson.ancestral_step(TWO, TWO, NOW, THEN, "large"), TypeError, "noise is a tensor.*type str"),
    (lambda: lesson.euler_maruyama_step(TWO, TWO, THEN, NOW, TWO), ValueError, "less noise than `now`: swap them"),
    (lambda: lesson.ddim_step(TWO, TWO, NOW, THEN, TWO), TypeError, "eta, a number, comes before the noise"),
    (lambda: lesson.ddim_step(TWO, TWO, 5, 4), TypeError, "A level is wanted"),
    (lambda: lesson.euler_step(TWO, TWO, *map(lesson.flow_level, (NOW, THEN))), ValueError, "variance-preserving"),
    (lambda: lesson.flow_euler_step(TWO, TWO, NOW, THEN), ValueError, "pass each through flow_level"),
    (lambda: lesson.cdf(PLANE, normal(3, 1), CLEAN), ValueError, "on the line.*centres in 2 dimensions"),
    (lambda: lesson.cdf(LINE, normal(3), CLEAN), ValueError, r"points \(N, 1\).*points \(3,\)"),
    (lambda: lesson.quantiles(LINE, normal(30, 1), CLEAN), ValueError, "shares between 0 and 1"),
    (
        lambda: lesson.evidence_bound(LINE, LINE.denoise, lesson.even_levels(4), normal(9)),
        ValueError,
        "add CLEAN to the levels",
    ),
    (
        lambda: lesson.evidence_bound(LINE, LINE.denoise, [CLEAN, THEN, NOW], normal(9)),
        ValueError,
        "Only the last level may be clean",
    ),
    (lambda: lesson.chain_density(LINE.denoise, [THEN, NOW], normal(9)), ValueError, "sort or reverse"),
    (lambda: lesson.sample(PLANE.denoise, (3, 2), RING_LEVELS), TypeError, "then the noise x, a tensor"),
    (lambda: lesson.sample(normal(3, 2), PLANE.denoise, RING_LEVELS), TypeError, "A denoiser is wanted first"),
    (lambda: lesson.sample(PLANE.denoise, normal(3, 2), Schedule.named("cosine", 9)), TypeError, "a list from noise"),
    (lambda: lesson.sample(PLANE.denoise, normal(3, 2), [9, 5, 1]), TypeError, "A level is wanted.*type int"),
    (lambda: lesson.sample(PLANE.denoise, normal(3, 2), NOW), TypeError, "a list from noise.*type Level"),
    (lambda: lesson.sample(PLANE.denoise, normal(3, 2), [THEN, NOW]), ValueError, "sort or reverse them"),
    (
        lambda: lesson.sample(PLANE.denoise, normal(3, 2), RING_LEVELS, lesson.ddim_step),
        TypeError,
        "A Solver is wanted",
    ),
    (lambda: lesson.sample(PLANE.denoise, normal(3, 2), RING_LEVELS, lesson.DDIM, 0), TypeError, "rng is a generator"),
]


@pytest.mark.parametrize(("ask", "error", "said"), MIXED_UP)
def test_what_is_mixed_up_gets_one_sentence(ask, error, said) -> None:
    with pytest.raises(error, match=said) as caught:
        ask()
    assert "\n" not in str(caught.value)


def test_the_odes_steps_may_go_back_to_noise() -> None:
    # DDIM's inversion: what is refused for a chain with noise is right for an ODE
    x = normal(50, 2)
    for step in (lesson.ddim_step, lesson.euler_step):
        there = step(x, 0 * x, NOW, THEN)
        assert there.isfinite().all() and step(there, 0 * x, THEN, NOW).isfinite().all()
    assert close(lesson.ddim_step(lesson.ddim_step(x, 0 * x, NOW, THEN), 0 * x, THEN, NOW), x)
