"""What notebook 12 exports, against independent references."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn

from course_utils import data, metrics
from course_utils.lessons import nb04_diffusion_math as nb04
from course_utils.lessons import nb05_ddpm_from_scratch as nb05
from course_utils.lessons import nb12_two_minutes as nb12


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def schedule() -> nb04.Schedule:
    return nb04.Schedule.named("cosine", nb05.T)


# --- the mixture --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_mixture() -> nb12.MixtureDenoiser:
    torch.manual_seed(1)
    y = torch.arange(10).repeat(60)
    return nb12.MixtureDenoiser(0.3 * torch.randn(600, 1, 2, 3) + 0.2 * y[:, None, None, None], y, clusters=3)


def dense_guess(m: nb12.MixtureDenoiser, x: Tensor, alpha: float, sigma: float, label: int) -> Tensor:
    """E[x0 | x] by full covariance matrices, in float64."""
    U, flat = m.directions.double(), x.double().flatten()
    centres, cov = m.means.double() @ U.T, U @ torch.diag(m.variances.double()) @ U.T
    noisy = alpha**2 * cov + sigma**2 * torch.eye(len(flat), dtype=torch.float64)
    chosen = [k for k in range(len(centres)) if label in (nb12.NULL, int(m.owner[k]))]
    logs = torch.stack(
        [
            m.log_weights[k].double() + torch.distributions.MultivariateNormal(alpha * centres[k], noisy).log_prob(flat)
            for k in chosen
        ]
    )
    gain = alpha * cov @ torch.linalg.inv(noisy)
    guesses = torch.stack([centres[k] + gain @ (flat - alpha * centres[k]) for k in chosen])
    return (logs.softmax(0)[:, None] * guesses).sum(0)


@pytest.mark.parametrize("label", [0, 7, nb12.NULL])
@pytest.mark.parametrize("angle", [0.05, 0.8, 1.5])
def test_the_mixtures_guess_is_that_of_dense_matrices(
    small_mixture: nb12.MixtureDenoiser, label: int, angle: float
) -> None:
    alpha, sigma, x = math.cos(angle), math.sin(angle), torch.randn(4, 1, 2, 3)
    guess, error = small_mixture(x, nb04.Level(alpha, sigma), torch.full((4,), label))
    expected = torch.stack([dense_guess(small_mixture, one, alpha, sigma, label) for one in x])
    assert torch.allclose(guess.flatten(1).double(), expected, atol=1e-4)
    assert error.shape[1:] == (1, 1, 1) and (error > 0).all()


def test_the_mixture_finds_clusters() -> None:
    centres = torch.tensor([[-3.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    x = centres.repeat_interleave(50, dim=0) + 0.1 * torch.randn(150, 2)
    best = min((nb12.k_means(x, 3) for _ in range(8)), key=lambda found: (x - found[0][found[1]]).square().sum())
    assert torch.cdist(best[0], centres).min(dim=0).values.max() < 0.1


def test_a_new_head_start_guesses_what_the_mixture_guesses(schedule: nb04.Schedule) -> None:
    y = torch.arange(10).repeat(70)
    mixture = nb12.MixtureDenoiser(torch.rand(700, 1, 28, 28) * 2 - 1, y, clusters=2)
    net, x, t, label = (
        nb12.HeadStart(nb05.UNet((16, 32), classes=10, extra=1), mixture, schedule),
        torch.randn(3, 1, 28, 28),
        [3, 500, 999],
        [1, 2, nb12.NULL],
    )
    t, label = torch.tensor(t), torch.tensor(label)
    level = schedule.level(t)
    assert torch.allclose(nb04.x0_from("v", net(x, t, label), x, level), mixture(x, level, label)[0], atol=1e-4)


# --- the optimiser ---


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_orthogonalise_moves_singular_values_to_one_and_keeps_directions(shape: tuple[int, int]) -> None:
    G = torch.randn(3, *shape)
    out = nb12.orthogonalise(G)
    assert 0.3 < torch.linalg.svdvals(out).min() and torch.linalg.svdvals(out).max() < 1.3
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    inside = U.mT @ out @ Vh.mT  # diagonal if the directions are kept
    assert (inside - torch.diag_embed(inside.diagonal(dim1=1, dim2=2))).abs().max() < 1e-3


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_muon_is_torchs_on_matrices() -> None:
    ours, theirs = nn.Linear(40, 24, bias=False), nn.Linear(40, 24, bias=False)
    theirs.load_state_dict(ours.state_dict())
    before = ours.weight.detach().clone()
    players = nb12.Muon([ours.weight], lr=0.02), torch.optim.Muon([theirs.weight], lr=0.02, weight_decay=0.0)
    for _ in range(3):
        x = torch.randn(64, 40)  # of full rank: rounding is amplified in directions that have no gradient
        for net, player in zip((ours, theirs), players):
            player.zero_grad()
            net(x).square().sum().backward()
            player.step()
    change = (theirs.weight - before).norm()
    assert (ours.weight - theirs.weight).norm() < 0.05 * change  # torch's iteration runs in bfloat16


def test_optimisers_share_the_weights_out_once() -> None:
    net = nb05.UNet((16, 32), classes=10)
    muon, adam = nb12.make_optimisers(net)
    given = [p for player in (muon, adam) for group in player.param_groups for p in group["params"]]
    assert len(given) == len({id(p) for p in given}) == len(list(net.parameters()))
    by_muon = {id(p) for group in muon.param_groups for p in group["params"]}
    assert id(net.middle.conv_1.weight) in by_muon and id(net.attention.to_qkv.weight) in by_muon
    assert not by_muon & {id(net.stem.weight), id(net.out.weight), id(net.label.weight), id(net.middle.conv_1.bias)}


# --- the model that the course ships ---


def test_pretrained_is_the_stored_model(schedule: nb04.Schedule) -> None:
    net, stored = nb05.pretrained(), data.weights("fashion_mnist_ddpm")
    assert not net.training
    assert all(torch.equal(value, stored[key]) for key, value in net.state_dict().items())
    pictures = nb05.sample_images(net, schedule, torch.arange(10), 5, rng=torch.Generator().manual_seed(0))
    seen = metrics.class_probabilities(pictures, "fashion_mnist").argmax(1)
    assert (seen == torch.arange(10)).sum() >= 7  # ten of ten as a rule


def test_the_stored_table_of_fd_counts_evaluations() -> None:
    rows = json.loads((data.ASSETS / "fashion_mnist_ddpm_fd.json").read_text("utf-8"))
    assert len({(row["sampler"], row["steps"], row["guidance"]) for row in rows}) == len(rows)
    for row in rows:
        once = 2 * row["steps"] - 1 if row["sampler"] == "Heun" else row["steps"]
        assert row["nfe"] == once * (1 if row["guidance"] == 1 else 2)
        assert (
            row["samples"] >= metrics.MIN_SAMPLES
            and row["fd"] > 0
            and row["date"]
            and row["draws"] >= 3
            and row["fd_spread"] > 0
        )


# --- what does not fit is refused --------------------------------------------------------------------

PICTURES, LABELS = torch.zeros(3, 1, 28, 28), torch.zeros(3, dtype=torch.long)


def empty_model() -> nb12.HeadStart:
    """Nothing fitted and nothing trained."""
    mixture = nb12.MixtureDenoiser(torch.zeros(20, 1, 28, 28), torch.arange(20) % 10, clusters=2)
    return nb12.HeadStart(nb05.UNet(classes=10, extra=1), mixture, nb04.Schedule.named("cosine", nb05.T))


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: empty_model()(PICTURES, LABELS, LABELS[:1]), "3 pictures want as many labels"),
        (lambda: empty_model()(PICTURES, LABELS[:1], LABELS), "levels do not fit"),
        (lambda: nb12.k_means(torch.zeros(3, 2), 4), "3 rows cannot make 4 clusters"),
        (lambda: nb12.MixtureDenoiser(PICTURES, LABELS[:2], 1), "3 pictures want as many labels"),
        (lambda: nb12.MixtureDenoiser(PICTURES, LABELS, 1), "0 rows cannot make 1 clusters"),
    ],
)
def test_what_does_not_fit_is_one_sentence(ask, said) -> None:
    with pytest.raises(ValueError, match=said) as refusal:
        ask()
    assert "\n" not in str(refusal.value)


def test_one_round_of_the_iteration_moves_singular_values_by_its_polynomial() -> None:
    X = torch.randn(3, 4, 9, dtype=torch.float64) / 5
    before, after = torch.linalg.svdvals(X), torch.linalg.svdvals(nb12.newton_schulz(X))
    moved = (3.4445 * before - 4.7750 * before**3 + 2.0315 * before**5).abs()
    assert torch.allclose(after, moved.sort(dim=1, descending=True).values)


def test_a_centre_without_rows_stays() -> None:
    x, centres = torch.randn(6, 2), torch.randn(3, 2)
    moved = nb12.new_centres(x, torch.tensor([0, 0, 0, 2, 2, 2]), centres)
    assert torch.allclose(moved[0], x[:3].mean(0)) and torch.equal(moved[1], centres[1])
