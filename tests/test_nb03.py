"""What notebook 03 builds, against independent references, and its checks against published mistakes."""

import copy
import json
import math

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch import nn

from course_utils import data, points
from course_utils.checks import nb03 as checks
from course_utils.lessons import nb01_gan_theory as nb01
from course_utils.lessons import nb03_mode_collapse_and_wgan as nb03


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class ImageCritic(nn.Module):
    """Smooth, so that second derivatives can be checked."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(24, 7), nn.Tanh(), nn.Linear(7, 1), nn.Flatten(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


# --- three networks at once ---------------------------------------------------------------------------------


def one_of(stacked: nn.Module, single: nn.Module, index: int) -> nn.Module:
    """`single` with the weights of member `index` of `stacked`."""
    single.load_state_dict({k: v[index : index + 1].clone() for k, v in stacked.state_dict().items()})
    return single


OPTIONS = [
    {"octaves": 5},
    {"statistic": nb03.minibatch_discrimination},
    {"statistic": nb03.std_statistic},
    {"pack": 2},
    {"normalise": nb03.spectral_normalise},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options)))
def test_stacked_critics_score_as_separate_ones(options) -> None:
    critic, x = points.PointCritic(3, **options), torch.randn(3, 64, 2)
    singles = [one_of(critic, points.PointCritic(1, **options), i) for i in range(3)]
    scores = critic(x)
    assert scores.shape == (3, 64 // options.get("pack", 1))
    for i, single in enumerate(singles):
        torch.testing.assert_close(single(x[i : i + 1])[0], scores[i], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(set(nb03.RECIPES) - {"WGAN-GP", "instance noise"}))  # which draw noise
def test_a_stack_trains_as_its_members_would_alone(name) -> None:
    """The same samples and latents for both: after a few steps the weights agree."""
    recipe, n, steps = nb03.set_up(name, "plain", "low"), 64, 3
    generator, critic = points.PointGenerator(3).double(), points.PointCritic(3, **recipe.critic).double()
    alone = [
        tuple(
            one_of(net, type(net)(1, **options).double(), i)
            for net, options in ((generator, {}), (critic, recipe.critic))
        )
        for i in range(3)
    ]
    draws = 2 * steps * (recipe.critic_steps + 1)
    reals = [torch.randn(3, n, 2).double() for _ in range(draws)]
    zs = [points.point_latents(3, n).double() for _ in range(draws)]

    def train(pair, members, networks):
        real, z = iter(reals), iter(zs)
        nb03.train(
            recipe, *pair, lambda: next(real)[members], lambda: next(z)[members], num_steps=steps, networks=networks
        )

    train((generator, critic), slice(None), 3)
    for i, pair in enumerate(alone):
        train(pair, slice(i, i + 1), 1)
        for together, single in zip((generator, critic), pair):
            for a, b in zip(together.parameters(), single.parameters()):
                torch.testing.assert_close(a[i], b[0], atol=1e-6, rtol=1e-5)


def test_training_one_player_leaves_no_gradient_in_the_other() -> None:
    generator, critic = points.PointGenerator(1), points.PointCritic(1)
    before = copy.deepcopy(critic.state_dict())
    recipe = nb03.Recipe(lambda critic, real, fake, progress: 0 * critic(real).sum(), nb03.gan_g)
    nb03.train(recipe, generator, critic, lambda: torch.randn(1, 8, 2), lambda: points.point_latents(1, 8), num_steps=2)
    assert all(torch.equal(value, before[key]) for key, value in critic.state_dict().items())


def test_unit_size_keeps_the_shape_of_a_mixture() -> None:
    for mixture in (data.ring(), data.grid()):
        unit = points.unit_size(mixture)
        assert unit.centres.square().mean().item() == pytest.approx(1)
        assert unit.std / unit.centres.norm() == pytest.approx(mixture.std / mixture.centres.norm().item())


# --- statistics of a batch ----------------------------------------------------------------------------------


def test_minibatch_discrimination_is_the_formula_term_by_term() -> None:
    features, T = torch.randn(5, 4), torch.randn(4, 3, 2)
    M = [torch.einsum("a,abc->bc", f, T) for f in features]
    wanted = [[sum(math.exp(-(M[i][b] - M[j][b]).abs().sum()) for j in range(5)) for b in range(3)] for i in range(5)]
    torch.testing.assert_close(nb03.minibatch_discrimination(features, T), torch.tensor(wanted))


def test_minibatch_discrimination_follows_a_permutation_and_is_largest_for_identical_samples() -> None:
    features, T, order = torch.randn(9, 4), torch.randn(4, 3, 2), torch.randperm(9)
    found = nb03.minibatch_discrimination(features, T)
    torch.testing.assert_close(nb03.minibatch_discrimination(features[order], T), found[order])
    alike = nb03.minibatch_discrimination(features[:1].expand(9, 4), T)
    torch.testing.assert_close(alike, torch.full((9, 3), 9.0))
    assert (found < alike).all() and (found >= 1).all()


def test_minibatch_discrimination_has_the_right_gradient() -> None:
    features = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    T = torch.randn(3, 2, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(nb03.minibatch_discrimination, (features, T))


def test_minibatch_std_is_one_number_a_batch_whatever_its_order() -> None:
    features = torch.randn(8, 5)
    found = nb03.minibatch_std(features)
    assert found.shape == (8, 1) and found.unique().numel() == 1
    assert found[0, 0].item() == pytest.approx(features.std(0, unbiased=False).mean().item(), rel=1e-4)
    torch.testing.assert_close(nb03.minibatch_std(features.flip(0)), found)


def test_packing_puts_neighbours_side_by_side() -> None:
    x = torch.arange(12.0).reshape(1, 6, 2)
    assert points.pack_samples(x, 3).tolist() == [[[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]]
    assert points.pack_samples(x, 1) is x or torch.equal(points.pack_samples(x, 1), x)


def test_mode_seeking_is_the_inverse_of_the_mean_ratio() -> None:
    z = torch.randn(10, 2)
    assert nb03.mode_seeking_loss(3 * z, z).item() == pytest.approx(1 / 3, rel=1e-3)
    assert nb03.mode_seeking_loss(0 * z, z) > 1e4


# --- Wasserstein distance -----------------------------------------------------------------------------------


def test_w1_by_assignment_equals_scipy_and_the_quantiles_on_the_line() -> None:
    x, y = torch.randn(60, dtype=torch.double), torch.rand(60, dtype=torch.double)
    wanted = scipy.stats.wasserstein_distance(x.numpy(), y.numpy())
    assert nb03.wasserstein(x[:, None], y[:, None]) == pytest.approx(wanted, abs=1e-9)
    assert nb01.wasserstein_1(x, y).item() == pytest.approx(wanted, abs=1e-9)


def test_w1_in_the_plane_equals_scipys_linear_programme() -> None:
    x, y = torch.randn(12, 2, dtype=torch.double), torch.randn(12, 2, dtype=torch.double) + 1
    wanted = scipy.stats.wasserstein_distance_nd(x.numpy(), y.numpy())
    assert nb03.wasserstein(x, y) == pytest.approx(wanted, abs=1e-6)


def test_w1_is_a_distance() -> None:
    x, y, z = torch.randn(3, 40, 2)
    w = nb03.wasserstein
    assert w(x, x[torch.randperm(40)]) == pytest.approx(0, abs=1e-9)
    assert w(x, y) == pytest.approx(w(y, x)) and w(x, z) <= w(x, y) + w(y, z)
    assert w(x, x + torch.tensor([3.0, 4.0])) == pytest.approx(5, rel=1e-5)


# --- losses and penalties -----------------------------------------------------------------------------------


def test_a_critic_that_follows_its_loss_raises_real_and_lowers_fake_scores() -> None:
    real, fake = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    slopes = torch.autograd.grad(nb03.wgan_critic_loss(real, fake), (real, fake))
    assert (slopes[0] < 0).all() and (slopes[1] > 0).all()
    (slope,) = torch.autograd.grad(nb03.wgan_generator_loss(fake), fake)
    assert (slope < 0).all()


def test_the_wgan_estimate_does_not_change_when_all_scores_shift() -> None:
    real, fake = torch.randn(2, 9)
    loss = nb03.wgan_critic_loss(real, fake)
    torch.testing.assert_close(nb03.wgan_critic_loss(real + 5, fake + 5), loss)


def test_the_hinge_loss_stops_at_its_margin_and_is_no_distance() -> None:
    far = torch.full((3,), 7.0)
    assert nb03.hinge_loss(far, -far) == 0 and nb03.wgan_critic_loss(far, -far) == -14


def test_relativistic_losses_of_both_players_mirror_each_other() -> None:
    real, fake = torch.randn(2, 9)
    assert nb03.relativistic_loss(real, fake).item() == pytest.approx(-F.logsigmoid(real - fake).mean().item())
    gap = (nb03.relativistic_loss(real, fake) - nb03.relativistic_loss(fake, real)).item()
    assert gap == pytest.approx((fake - real).mean().item(), abs=1e-5)


@pytest.mark.parametrize(("slope", "penalty"), [(0, 1), (1, 0), (3, 4)])
def test_the_penalty_of_a_linear_critic(slope, penalty) -> None:
    shape = (3, 4, 5)
    found = nb03.gradient_penalty(checks.Slope(slope, shape), torch.randn(6, *shape), torch.randn(6, *shape))
    assert found.item() == pytest.approx(penalty, abs=1e-4)


def test_the_norm_is_one_for_each_sample_over_all_its_axes() -> None:
    x = torch.randn(6, 2, 3, 4, requires_grad=True)
    norms = nb03.gradient_norms(x, checks.Bowl()(x))
    torch.testing.assert_close(norms, x.detach().flatten(1).norm(dim=1))
    points = torch.randn(3, 7, 2, requires_grad=True)  # a stack: two axes number the samples
    norms = nb03.gradient_norms(points, points.square().sum(-1) / 2)
    torch.testing.assert_close(norms, points.detach().norm(dim=-1))


def test_the_penalty_looks_at_the_segment_with_an_epsilon_for_each_sample() -> None:
    for axes, shape in ((1, (200, 2, 3)), (2, (2, 100, 2))):
        seen = []

        def critic(x, seen=seen, axes=axes):
            seen.append(x.detach())
            return x.flatten(axes).sum(-1)

        nb03.gradient_penalty(critic, torch.ones(shape), torch.zeros(shape), axes)
        epsilon = seen[0].flatten(axes)
        assert (epsilon == epsilon[..., :1]).all(), "one epsilon a sample, for all of its coordinates"
        assert 0 <= epsilon.min() < 0.1 and 0.9 < epsilon.max() <= 1
        assert abs(epsilon[..., 0].mean() - 0.5) < 0.1 and epsilon[..., 0].unique().numel() > 150


def test_the_penalty_has_the_right_gradient_in_the_weights() -> None:
    critic = ImageCritic().double()
    real, fake = torch.randn(2, 3, 2, 3, 4, dtype=torch.double)
    name, weight = "net.1.weight", critic.net[1].weight.detach().clone().requires_grad_()

    def penalty(weight):
        torch.manual_seed(3)  # the same epsilon for every evaluation
        return nb03.gradient_penalty(lambda x: torch.func.functional_call(critic, {name: weight}, (x,)), real, fake)

    assert torch.autograd.gradcheck(penalty, (weight,), atol=1e-6)


def test_the_zero_centred_penalty_is_notebook_01s_r1() -> None:
    critic, x = ImageCritic(), torch.randn(5, 2, 3, 4)
    leaf = x.clone().requires_grad_()
    found = nb03.zero_centred_penalty(leaf, critic(leaf))
    torch.testing.assert_close(found, nb01.r1_penalty(critic, x, gamma=2.0))


def test_clipping_leaves_no_weight_beyond_the_limit() -> None:
    critic = points.PointCritic(2)
    nb03.clip_weights(critic, 0.01)
    assert max(p.abs().max().item() for p in critic.parameters()) <= 0.01 + 1e-9


def test_spectral_normalisation_equals_torchs_after_every_step() -> None:
    theirs = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5), n_power_iterations=1)
    u = theirs.parametrizations.weight[0]._u.clone()
    weight = theirs.parametrizations.weight.original.detach().T
    for _ in range(4):
        ours, u = nb03.spectral_normalise(weight, u)
        torch.testing.assert_close(ours.T, theirs.weight.detach(), atol=1e-5, rtol=1e-4)


def test_the_published_losses_of_r3gan() -> None:
    """E softplus(D(G(z)) - D(x)) + gamma / 2 (R1 + R2), with the gamma of the start."""
    critic, real, fake = ImageCritic(), torch.randn(6, 2, 3, 4), torch.randn(6, 2, 3, 4)
    wanted = F.softplus(critic(fake) - critic(real)).mean()
    wanted = wanted + nb01.r1_penalty(critic, real, 0.3) + nb01.r1_penalty(critic, fake, 0.3)
    torch.testing.assert_close(nb03.ABLATION["paired + R1 + R2"].d_loss(critic, real, fake, 0.0), wanted)


@pytest.mark.parametrize(("name", "terms"), [("vanilla", ""), ("vanilla + R1", "1"), ("vanilla + R2", "2")])
def test_a_row_of_the_ablation_has_its_penalties_and_no_other(name: str, terms: str) -> None:
    critic, real, fake = ImageCritic(), torch.randn(6, 2, 3, 4), torch.randn(6, 2, 3, 4)
    wanted = nb03.discriminator_loss(critic(real), critic(fake))
    for term, x in (("1", real), ("2", fake)):
        wanted = wanted + (nb01.r1_penalty(critic, x, 0.003) if term in terms else 0)
    torch.testing.assert_close(nb03.ABLATION[name].d_loss(critic, real, fake, 1.0), wanted)


def test_instance_noise_falls_from_a_half_to_a_hundredth() -> None:
    assert nb03.noise_std(0) == 0.5 and nb03.noise_std(1) == pytest.approx(0.01)


@pytest.mark.parametrize("name", nb03.RECIPES)
@pytest.mark.parametrize("critic", nb03.OCTAVES)
def test_every_recipe_of_the_contest_trains_both_networks(name: str, critic: str, monkeypatch) -> None:
    monkeypatch.setattr(nb03, "N_MATCHED", 20)
    recipe, mixture, before = nb03.set_up(name, critic, "low"), points.unit_size(data.ring()), {}

    def watch(step, generator, critic, ema) -> None:
        weights = {"g": generator.head.weight, "d": critic.net[0].weight}
        before.setdefault(step, {k: w.detach().clone() for k, w in weights.items()})

    found = nb03.train_points(recipe, mixture, num_steps=2, stack=2, watch=watch)
    assert len(found["modes"]) == len(found["good"]) == len(found["w1"]) == 2 and found["seconds"] > 0
    assert all(not torch.equal(before[1][k], before[2][k]) for k in ("g", "d"))


TABLE = json.loads((data.ASSETS / "points_contest.json").read_text("utf-8"))


def test_the_stored_contest_gave_every_recipe_the_same_tuning_and_time() -> None:
    for name in nb03.RECIPES:
        for critic in nb03.OCTAVES:
            tuned = [r for r in TABLE if r["part"] == "tuning" and (r["recipe"], r["critic"]) == (name, critic)]
            assert sorted((r["rates"], r["dataset"]) for r in tuned) == sorted(
                (rates, dataset) for rates in nb03.RATES for dataset in ("grid", "ring")
            )
            (cost,) = (r["ms"] for r in TABLE if r["part"] == "cost" and (r["recipe"], r["critic"]) == (name, critic))
            last = [r for r in TABLE if r["part"] == "contest" and (r["recipe"], r["critic"]) == (name, critic)]
            seconds = {r["dataset"]: r["steps"] * cost / 1000 for r in last}
            assert seconds["grid"] == pytest.approx(20, rel=0.01) and seconds["ring"] == pytest.approx(10, rel=0.01)
            w1 = {rates: sum(sum(r["w1"]) for r in tuned if r["rates"] == rates) for rates in nb03.RATES}
            assert all(r["rates"] == min(w1, key=w1.get) and r["seed"] != tuned[0]["seed"] for r in last)


# --- stacked digits -----------------------------------------------------------------------------------------


def test_triples_read_the_three_channels_in_order() -> None:
    pixels, labels = data.embedded("mnist", "test")
    pictures = data.to_unit_range(pixels)
    first = [int((labels == d).nonzero()[0]) for d in (3, 0, 7)]
    found = nb03.triples(torch.stack([pictures[first, 0], pictures[first[::-1], 0]]))
    assert found.tolist() == [307, 703]


def test_modes_and_kl_of_known_frequencies() -> None:
    share = torch.full((1000,), 1e-3, dtype=torch.double)
    modes, kl = nb03.modes_and_kl(torch.arange(1000), share)
    assert modes == 1000 and kl == pytest.approx(0, abs=1e-12)
    modes, kl = nb03.modes_and_kl(torch.zeros(50, dtype=torch.long), share)
    assert modes == 1 and kl == pytest.approx(math.log(1000))


@pytest.mark.parametrize("batch_norm", [True, False])
def test_digit_networks_fit_each_other(batch_norm) -> None:
    generator, critic = nb03.digit_networks(4, 8, batch_norm)
    pictures = generator(torch.randn(3, 8, 1, 1))
    assert pictures.shape == (3, 3, 28, 28) and critic(pictures).shape == (3,)
    assert any(isinstance(m, nn.BatchNorm2d) for m in critic.modules()) == batch_norm


def test_batchnorm_in_a_penalised_critic_mixes_the_gradients_of_samples() -> None:
    """ERRATA 22: what the penalty measures at a point must not depend on the rest of the batch."""
    point, a, b = torch.randn(1, 2), torch.randn(7, 2), 3 * torch.randn(7, 2)

    def norm_of_the_point(layer, company):
        torch.manual_seed(0)
        critic = nn.Sequential(nn.Linear(2, 16), layer, nn.LeakyReLU(0.2), nn.Linear(16, 1), nn.Flatten(0))
        x = torch.cat([point, company]).requires_grad_()
        return nb03.gradient_norms(x, critic(x))[0].item()

    assert norm_of_the_point(nn.LayerNorm(16), a) == pytest.approx(norm_of_the_point(nn.LayerNorm(16), b), rel=1e-4)
    assert norm_of_the_point(nn.BatchNorm1d(16), a) != pytest.approx(norm_of_the_point(nn.BatchNorm1d(16), b), rel=0.05)


def test_no_picture_has_no_modes() -> None:
    with pytest.raises(ValueError, match="There is no picture to count"):
        nb03.modes_and_kl(torch.zeros(0, dtype=torch.long), torch.full((1000,), 1e-3))
