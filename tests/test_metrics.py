"""Each measure against an independent reference, and by what must not change it and what must."""

import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
import warm
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from course_utils import data, metrics

ROOT = Path(__file__).resolve().parents[1]

NAME = "fashion_mnist"
few_samples = pytest.mark.filterwarnings("ignore:.* samples. below 2048")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(n: int, dim: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    """Correlated Gaussian points, (n, dim), float64."""
    mix = torch.randn(dim, dim, generator=rng(99), dtype=torch.float64) / math.sqrt(dim)
    return torch.randn(n, dim, generator=rng(seed), dtype=torch.float64) @ mix + shift


def covariance(dim: int, seed: int) -> torch.Tensor:
    root = torch.randn(dim, 2 * dim, generator=rng(seed), dtype=torch.float64)
    return root @ root.T / (2 * dim)


@pytest.fixture(scope="module")
def train() -> data.Images:
    pixels, labels = data.embedded(NAME, "train")
    pick = torch.randperm(len(labels), generator=rng(1))[:4096]
    return data.Images(data.to_unit_range(pixels[pick]), labels[pick].long(), data.info(NAME).classes, "embedded")


@pytest.fixture(scope="module")
def train_features(train: data.Images) -> torch.Tensor:
    return metrics.features(train.x, NAME)


@pytest.fixture(scope="module")
def reference() -> torch.Tensor:
    return metrics.reference_features(NAME)


# --- Fréchet distance ---------------------------------------------------------------------------------------


def test_frechet_distance_of_one_dimensional_gaussians_is_the_closed_form() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    found = metrics.frechet_from_moments(2 * one[0], 9 * one, -1 * one[0], 4 * one)
    assert found == pytest.approx((2 - -1) ** 2 + (3 - 2) ** 2)  # means and standard deviations apart


def test_frechet_distance_of_diagonal_gaussians_adds_up_over_the_axes() -> None:
    mean_a, mean_b = torch.randn(2, 6, generator=rng(), dtype=torch.float64)
    std_a, std_b = torch.rand(2, 6, generator=rng(), dtype=torch.float64) + 0.1
    found = metrics.frechet_from_moments(mean_a, std_a.square().diag(), mean_b, std_b.square().diag())
    assert found == pytest.approx(((mean_a - mean_b) ** 2 + (std_a - std_b) ** 2).sum().item())


@pytest.mark.parametrize("dim", [2, 7, 40])
def test_frechet_distance_of_any_gaussians_agrees_with_scipys_matrix_root(dim: int) -> None:
    mean_a, mean_b = torch.randn(2, dim, generator=rng(), dtype=torch.float64)
    cov_a, cov_b = covariance(dim, 1), covariance(dim, 2)
    root = scipy.linalg.sqrtm(cov_a.numpy() @ cov_b.numpy())
    expected = (mean_a - mean_b).square().sum() + (cov_a + cov_b).trace() - 2 * np.trace(root).real
    assert metrics.frechet_from_moments(mean_a, cov_a, mean_b, cov_b) == pytest.approx(expected.item(), rel=1e-8)


def test_frechet_distance_survives_covariances_without_full_rank() -> None:
    """Fewer samples than features: a matrix root of the product turns complex here, the singular values do not."""
    x = torch.randn(10, 50, generator=rng(), dtype=torch.float64)
    mean, cov = x.mean(0), x.T.cov()
    assert metrics.frechet_from_moments(mean, cov, mean, cov) == pytest.approx(0, abs=1e-6)
    # covariances of rank one: the root of u u' v v' has the trace |u.v|
    u, v = torch.randn(2, 5, generator=rng(), dtype=torch.float64)
    found = metrics.frechet_from_moments(u, u.outer(u), u, v.outer(v))
    assert found == pytest.approx((u @ u + v @ v - 2 * (u @ v).abs()).item(), rel=1e-6)


@few_samples
def test_frechet_distance_agrees_with_torchmetrics_on_the_same_features(train: data.Images) -> None:
    class Features(nn.Module):
        num_features = metrics.Classifier.feature_dim

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return metrics.classifier(NAME).features(x)

    real, fake = train.x[:600], train.x[600:1000] * 0.9
    other = FrechetInceptionDistance(Features(), normalize=True, input_img_size=(1, 28, 28))
    other.update(real, real=True)
    other.update(fake, real=False)
    ours = metrics.frechet_distance(metrics.features(real, NAME), metrics.features(fake, NAME))
    assert ours == pytest.approx(other.compute().item(), rel=1e-4)


@few_samples
def test_frechet_distance_of_samples_uses_covariances_of_features_and_not_of_samples() -> None:
    """numpy.cov wants variables in rows: the transposed mistake still runs when N equals D (ERRATA 25)."""
    a, b = gaussian(30, 30, 1), gaussian(30, 30, 2, shift=0.5)
    root = scipy.linalg.sqrtm(np.cov(a.numpy(), rowvar=False) @ np.cov(b.numpy(), rowvar=False))
    expected = (a.mean(0) - b.mean(0)).square().sum() + a.var(0).sum() + b.var(0).sum() - 2 * np.trace(root).real
    assert metrics.frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-4)


@few_samples
def test_frechet_distance_of_a_set_to_itself_is_zero() -> None:
    x = gaussian(300, 20, 0)
    assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-8)


@few_samples
def test_frechet_distance_of_a_shifted_set_is_the_squared_length_of_the_shift() -> None:
    x, shift = gaussian(300, 20, 0), torch.randn(20, generator=rng(), dtype=torch.float64)
    assert metrics.frechet_distance(x, x + shift) == pytest.approx((shift @ shift).item())


@few_samples
def test_frechet_distance_is_symmetric_and_the_same_in_rotated_features() -> None:
    a, b = gaussian(300, 10, 1), gaussian(200, 10, 2, shift=0.3) * 1.5
    turn, _ = torch.linalg.qr(torch.randn(10, 10, generator=rng(), dtype=torch.float64))
    found = metrics.frechet_distance(a, b)
    assert found == pytest.approx(metrics.frechet_distance(b, a))
    assert found == pytest.approx(metrics.frechet_distance(a @ turn, b @ turn))


@few_samples
def test_few_samples_bias_the_frechet_distance_upwards(train_features: torch.Tensor, reference: torch.Tensor) -> None:
    few = [metrics.frechet_distance(reference, part) for part in train_features[:2048].split(256)]
    many = metrics.frechet_distance(reference, train_features[:2048])
    assert min(few) > 2 * many


def test_2048_real_pictures_are_one_floor_from_the_reference(
    train_features: torch.Tensor, reference: torch.Tensor
) -> None:
    floors = [metrics.frechet_distance(reference, part) for part in train_features.split(2048)]
    assert all(0.6 < floor < 1.6 for floor in floors), floors


def test_below_2048_samples_there_is_a_warning_and_from_there_on_none() -> None:
    x = gaussian(2048, 3, 0)
    with pytest.warns(UserWarning, match="2047 samples: below 2048 .* biased upwards"):
        metrics.frechet_distance(x, x[:2047])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.frechet_distance(x, x)


# --- KID ----------------------------------------------------------------------------------------------------


def test_kid_is_the_double_sum_over_pairs_without_the_diagonal() -> None:
    a, b = gaussian(13, 4, 1), gaussian(9, 4, 2, shift=0.4)

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return (sum(p * q for p, q in zip(x.tolist(), y.tolist(), strict=True)) / 4 + 1) ** 3

    def within(x: torch.Tensor) -> float:
        pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]
        return sum(kernel(x[i], x[j]) for i, j in pairs) / len(pairs)

    between = sum(kernel(p, q) for p in a for q in b) / (len(a) * len(b))
    assert metrics.kernel_distance(a, b) == pytest.approx(within(a) + within(b) - 2 * between, rel=1e-9)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_kid_agrees_with_torchmetrics_on_the_same_features(train: data.Images) -> None:
    class Features(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return metrics.classifier(NAME).features(x).double()

    real, fake = train.x[:300], train.x[300:600] * 0.8
    other = KernelInceptionDistance(Features(), subsets=1, subset_size=300)
    other.update(real, real=True)
    other.update(fake, real=False)
    ours = metrics.kernel_distance(metrics.features(real, NAME), metrics.features(fake, NAME))
    assert ours == pytest.approx(other.compute()[0].item(), rel=1e-5)


def test_kid_of_two_samples_of_one_distribution_is_zero_on_average() -> None:
    """Unbiased: with the diagonals left in, the mean of 200 estimates is more than ten of its errors above 0."""
    estimates = [metrics.kernel_distance(gaussian(20, 5, 2 * i), gaussian(20, 5, 2 * i + 1)) for i in range(200)]
    mean, error = np.mean(estimates), np.std(estimates) / math.sqrt(len(estimates))
    assert min(estimates) < 0
    assert abs(mean) < 3 * error


def test_few_samples_do_not_bias_kid(train_features: torch.Tensor, reference: torch.Tensor) -> None:
    real, moved = reference[:1000], train_features * 1.1
    few = torch.tensor([metrics.kernel_distance(real, part) for part in moved.split(256)])
    many = metrics.kernel_distance(real, moved)
    assert many > 0
    assert (few.mean() - many).abs() < 3 * few.std() / math.sqrt(len(few))


def test_kid_of_real_pictures_is_far_below_that_of_changed_ones(
    train_features: torch.Tensor, reference: torch.Tensor
) -> None:
    real = metrics.kernel_distance(reference[:2000], train_features[:2000])
    changed = metrics.kernel_distance(reference[:2000], train_features[:2000] * 1.1)
    assert abs(real) < 0.1 * changed


# --- precision, recall, density, coverage -------------------------------------------------------------------


def distance(a: list[float], b: list[float]) -> float:
    return math.dist(a, b)


def radius(points: list[list[float]], i: int, k: int) -> float:
    """Distance from point i to its k-th nearest neighbour among the others."""
    return sorted(distance(points[i], points[j]) for j in range(len(points)) if j != i)[k - 1]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("n_real, n_fake", [(25, 25), (30, 18), (12, 31)])
def test_precision_and_recall_are_the_papers_indicator_sums(k: int, n_real: int, n_fake: int) -> None:
    real, fake = gaussian(n_real, 3, 1), gaussian(n_fake, 3, 2, shift=0.4)
    r, f = real.tolist(), fake.tolist()

    def share_inside(points: list, manifold: list) -> float:
        radii = [radius(manifold, i, k) for i in range(len(manifold))]
        inside = [any(distance(p, m) <= rad for m, rad in zip(manifold, radii, strict=True)) for p in points]
        return sum(inside) / len(inside)

    expected = (share_inside(f, r), share_inside(r, f))
    assert 0 < min(expected) and max(expected) < 1 and expected[0] != expected[1], "a case that tells them apart"
    assert metrics.precision_recall(real, fake, k) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("n_real, n_fake", [(25, 25), (30, 18), (12, 31)])
def test_density_and_coverage_are_the_papers_indicator_sums(k: int, n_real: int, n_fake: int) -> None:
    real, fake = gaussian(n_real, 3, 3), gaussian(n_fake, 3, 4, shift=0.4)
    r, f = real.tolist(), fake.tolist()
    radii = [radius(r, i, k) for i in range(n_real)]
    density = sum(distance(r[i], f[j]) < radii[i] for i in range(n_real) for j in range(n_fake)) / (k * n_fake)
    covered = [any(distance(r[i], f[j]) < radii[i] for j in range(n_fake)) for i in range(n_real)]
    assert metrics.density_coverage(real, fake, k) == pytest.approx((density, sum(covered) / n_real))


def test_an_outlier_among_real_points_inflates_precision_and_not_density() -> None:
    """Naeem et al. 2020, section 3.1: why density was proposed."""
    real = torch.cat([gaussian(100, 2, 0), torch.full((1, 2), 30.0, dtype=torch.float64)])
    fake = gaussian(100, 2, 1) + 15.0  # nowhere near the real points, but inside the outlier's ball
    assert metrics.precision_recall(real, fake)[0] == 1
    assert metrics.density_coverage(real, fake)[0] < 0.3


def test_a_set_has_perfect_precision_and_recall_against_itself() -> None:
    x = gaussian(200, 8, 0)
    assert metrics.precision_recall(x, x) == (1, 1)
    density, coverage = metrics.density_coverage(x, x)
    assert density == pytest.approx(1) and coverage == 1  # k balls hold each point: its own and k - 1 neighbours'


def test_far_apart_sets_share_nothing() -> None:
    x = gaussian(50, 4, 0)
    assert metrics.precision_recall(x, x + 1000) == (0, 0)
    assert metrics.density_coverage(x, x + 1000) == (0, 0)


def test_dropping_classes_lowers_recall_and_coverage_and_not_precision(
    train: data.Images, train_features: torch.Tensor, reference: torch.Tensor
) -> None:
    all_classes, three_classes = train_features[:1000], train_features[train.y < 3][:1000]
    assert len(three_classes) == 1000
    real = reference[:1000]
    (precision_all, recall_all), (precision, recall) = (
        metrics.precision_recall(real, x) for x in (all_classes, three_classes)
    )
    coverage_all, coverage = (metrics.density_coverage(real, x)[1] for x in (all_classes, three_classes))
    assert precision > precision_all - 0.1
    assert recall < 0.8 * recall_all
    assert coverage < 0.6 * coverage_all


def test_noise_in_the_pictures_lowers_precision(train: data.Images, reference: torch.Tensor) -> None:
    clean = train.x[:1000]
    noisy = (clean + 0.5 * torch.randn(clean.shape, generator=rng())).clamp(-1, 1)
    clean_precision, noisy_precision = (
        metrics.precision_recall(reference[:1000], metrics.features(x, NAME))[0] for x in (clean, noisy)
    )
    assert noisy_precision < clean_precision - 0.3


# --- scores of classes --------------------------------------------------------------------------------------


def test_inception_score_is_the_exponential_of_the_mean_relative_entropy() -> None:
    p = torch.randn(200, 10, generator=rng(), dtype=torch.float64).mul(3).softmax(1).numpy()
    expected = np.exp(np.mean([scipy.stats.entropy(row, p.mean(0)) for row in p]))
    assert metrics.inception_score(torch.from_numpy(p)) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore`", "ignore:std():UserWarning")
def test_inception_score_agrees_with_torchmetrics_on_the_same_classifier(train: data.Images) -> None:
    class Logits(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return metrics.classifier(NAME)(x)

    other = InceptionScore(Logits(), splits=1)
    other.update(train.x[:500])
    ours = metrics.inception_score(metrics.class_probabilities(train.x[:500], NAME))
    assert ours == pytest.approx(other.compute()[0].item(), rel=1e-4)


def test_inception_score_runs_from_one_to_the_number_of_classes() -> None:
    assert metrics.inception_score(torch.eye(10)) == pytest.approx(10)  # sure, and every class: 0 log 0 is 0
    assert metrics.inception_score(torch.eye(10)[:1].repeat(5, 1)) == pytest.approx(1)  # sure, one class
    assert metrics.inception_score(torch.full((5, 10), 0.1)) == pytest.approx(1)  # unsure


def test_class_histogram_counts_the_most_likely_classes() -> None:
    p = torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1], [0.5, 0.2, 0.3]])
    assert metrics.class_histogram(p).tolist() == [0.75, 0.25, 0.0]


# --- modes of a mixture -------------------------------------------------------------------------------------


def test_a_mode_is_covered_by_a_point_within_three_sigma_and_the_share_of_those_is_the_quality() -> None:
    mixture = data.GaussianMixture(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]), std=1.0)
    points = torch.tensor([[0.0, 2.9], [0.5, 0.5], [10.0, 3.1], [5.0, 5.0], [2.0, 10.0]])
    # mode 0 by two points; mode 1 missed by a tenth of a sigma; one between all; mode 2 by one
    assert metrics.modes_covered(points, mixture) == metrics.Coverage(2, 3, 3 / 5)
    assert metrics.modes_covered(points, mixture, sigmas=3.2) == metrics.Coverage(3, 3, 4 / 5)


def test_samples_of_a_mixture_cover_it_with_the_gaussian_share_inside_three_sigma() -> None:
    found = metrics.modes_covered(data.grid().sample(20_000, rng()), data.grid())
    inside = scipy.stats.chi2(df=2).cdf(9)  # 98.9 %
    assert (found.modes, found.of) == (25, 25)
    assert found.high_quality == pytest.approx(inside, abs=4 * math.sqrt(inside * (1 - inside) / 20_000))


def test_one_collapsed_mode_and_diverged_points_cover_nothing_else() -> None:
    ring = data.ring()
    points = torch.cat([ring.centres[3].repeat(5, 1), torch.full((5, 2), math.nan), torch.full((10, 2), 1e6)])
    assert metrics.modes_covered(points, ring) == metrics.Coverage(1, 8, 5 / 20)


# --- order, reports, bad input ------------------------------------------------------------------------------


@few_samples
@pytest.mark.parametrize(
    "measure",
    [metrics.frechet_distance, metrics.kernel_distance, metrics.precision_recall, metrics.density_coverage],
)
def test_the_order_of_samples_does_not_matter(measure) -> None:
    a, b = gaussian(60, 5, 1), gaussian(50, 5, 2, shift=0.3)
    shuffled = measure(a[torch.randperm(60, generator=rng())], b[torch.randperm(50, generator=rng())])
    assert shuffled == pytest.approx(measure(a, b))


def test_a_report_of_real_pictures_is_good_by_every_measure(train: data.Images) -> None:
    """At 2,048 the reference has more pictures than the sample: the ones compared with hold every class."""
    report = metrics.evaluate(train.x[:2048], NAME)
    assert report.n == 2048
    assert report.fd == pytest.approx(1, abs=0.6)
    assert abs(report.kid) < 0.1
    assert min(report.precision, report.recall, report.coverage) > 0.6
    assert abs(report.precision - report.recall) < 0.15
    assert 0.8 < report.density < 1.3
    assert 6 < report.inception_score < 10
    assert sum(report.histogram) == pytest.approx(1) and max(report.histogram) < 0.15
    assert len(report.row()) == len(metrics.COLUMNS)


@few_samples
def test_a_report_does_not_depend_on_the_order_of_the_pictures(train: data.Images) -> None:
    by_class = train.x[:500][train.y[:500].argsort()]
    one, other = metrics.evaluate(train.x[:500], NAME), metrics.evaluate(by_class, NAME)
    for name in ("fd", "kid", "precision", "recall", "density", "coverage", "inception_score"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-4, abs=1e-5), name


def picture(value: float = -1.0, n: int = 2) -> torch.Tensor:
    return torch.full((n, 1, 28, 28), value)


@pytest.mark.parametrize(
    "pictures, complaint",
    [
        (torch.zeros(2, 28, 28), r"shape \(N, 1, 28, 28\), not \(2, 28, 28\)"),
        (torch.zeros(2, 3, 28, 28), r"not \(2, 3, 28, 28\)"),
        (torch.zeros(2, 1, 32, 32), r"not \(2, 1, 32, 32\)"),
        (torch.rand(2, 1, 28, 28), r"in \[-1, 1\], not in \[0.00, 1.00\]"),
        (torch.linspace(-2, 5, 784).reshape(1, 1, 28, 28), r"not in \[-2.00, 5.00\]"),
        (picture(n=0), "at least one picture"),
        (picture(math.nan), "NaN or infinity: the model that made them diverged"),
        (picture(-math.inf), "NaN or infinity"),
    ],
)
def test_bad_pictures_are_refused_in_one_sentence(pictures: torch.Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as refusal:
        metrics.features(pictures, NAME)
    assert "\n" not in str(refusal.value)


def test_an_unknown_data_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'cifar'.*fashion_mnist, mnist"):
        metrics.features(picture(), "cifar")


@few_samples
@pytest.mark.parametrize(
    "measure, least",
    [
        (metrics.frechet_distance, 2),
        (metrics.kernel_distance, 2),
        (metrics.precision_recall, 4),
        (metrics.density_coverage, 6),
    ],
)
def test_too_few_samples_are_refused_with_the_number_needed(measure, least: int) -> None:
    x = gaussian(10, 3, 0)
    measure(x[:least], x[:least])
    with pytest.raises(ValueError, match=f"At least {least} samples"):
        measure(x, x[: least - 1])
    with pytest.raises(ValueError, match=f"At least {least} samples"):
        measure(x[: least - 1], x)


@few_samples
@pytest.mark.parametrize(
    "measure",
    [metrics.frechet_distance, metrics.kernel_distance, metrics.precision_recall, metrics.density_coverage],
)
def test_features_of_unlike_width_are_refused(measure) -> None:
    with pytest.raises(ValueError, match=r"\(N, D\).*\(9, 3\) and \(9, 4\)"):
        measure(gaussian(9, 3, 0), gaussian(9, 4, 0))


@pytest.mark.parametrize(
    "scores", [torch.randn(5, 10, generator=rng()), torch.ones(10) / 10, torch.full((5, 10), math.nan)]
)
def test_the_inception_score_refuses_what_is_no_probability(scores: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="rows sum to 1"):
        metrics.inception_score(scores)


# --- the feature network ------------------------------------------------------------------------------------


def accuracy(name: str, x: torch.Tensor, y: torch.Tensor) -> float:
    return (metrics.class_probabilities(x, name).argmax(1) == y).double().mean().item()


def embedded_accuracy(name: str) -> float:
    pixels, labels = data.embedded(name, "test")
    return accuracy(name, data.to_unit_range(pixels), labels)


def test_the_digit_classifier_reads_985_in_1000_unseen_digits() -> None:
    assert embedded_accuracy("mnist") >= 0.985


def test_the_clothes_classifier_names_most_of_the_embedded_pictures() -> None:
    assert embedded_accuracy("fashion_mnist") >= 0.905  # 4,000 pictures: a standard error is 0.44 %


def test_the_clothes_classifier_names_915_in_1000_of_the_full_test_set() -> None:
    places = [data.DATASETS[NAME].debian, data.cache_dir() / NAME]
    folder = next((place for place in places if len(data._split_files(place, "test")) == 2), None)
    if folder is None:
        pytest.skip("the full Fashion-MNIST is not here (Debian: apt install dataset-fashion-mnist)")
    pixels, labels = data._read_split(folder, "test")
    assert len(labels) == 10_000
    assert accuracy(NAME, data.to_unit_range(pixels), labels) >= 0.915


def test_features_do_not_depend_on_the_batch_and_hold_no_gradient(train: data.Images) -> None:
    x = train.x[:7].clone().requires_grad_()
    together = metrics.features(x, NAME)
    assert together.shape == (7, metrics.Classifier.feature_dim) and together.dtype == torch.float32
    assert not together.requires_grad
    one_by_one = torch.cat([metrics.features(part, NAME) for part in x.split(1)])
    torch.testing.assert_close(one_by_one, together, rtol=1e-4, atol=1e-4)


# --- not a number, none, many, and settings of the caller ----------------------------------------------------


def spoilt(x):
    x = x.clone()
    x[3, 1] = math.nan
    return x


@pytest.mark.parametrize("spoil", [spoilt, lambda x: x * math.nan, lambda x: x / 0])
@pytest.mark.parametrize(
    "measure",
    [metrics.frechet_distance, metrics.kernel_distance, metrics.precision_recall, metrics.density_coverage],
)
@pytest.mark.filterwarnings("ignore")
def test_features_that_are_not_finite_are_refused(measure, spoil) -> None:
    x = gaussian(50, 4, 0)
    for pair in ((x, spoil(x)), (spoil(x), x)):
        with pytest.raises(ValueError, match="hold NaN or infinity: the model that made the pictures diverged"):
            measure(*pair)


def test_nothing_and_what_is_not_finite_is_no_histogram_and_covers_no_mode() -> None:
    for bad in (torch.full((10, 10), math.nan), torch.zeros(0, 10), torch.zeros(10)):
        with pytest.raises(ValueError, match="at least one sample"):
            metrics.class_histogram(bad)
    with pytest.raises(ValueError, match=r"Points \(N, 2\), at least one"):
        metrics.modes_covered(torch.zeros(0, 2), data.ring())
    with pytest.raises(ValueError, match=r"Points \(N, 2\), at least one, are wanted, not \(5, 3\)"):
        metrics.modes_covered(torch.zeros(5, 3), data.ring())


def test_moments_of_two_sizes_are_refused_and_not_broadcast() -> None:
    mean, cov = torch.zeros(3), torch.eye(3)
    for moments in ((mean, cov, torch.zeros(1), torch.eye(1)), (torch.zeros(3, 1), cov, mean, cov)):
        with pytest.raises(ValueError, match=r"covariances \(D, D\) of one D"):
            metrics.frechet_from_moments(*moments)


def test_slices_change_no_measure(monkeypatch) -> None:
    real, fake = gaussian(300, 6, 0).double(), 1.2 * gaussian(250, 6, 1).double()
    measures = (metrics.kernel_distance, metrics.precision_recall, metrics.density_coverage)
    whole = [measure(real, fake) for measure in measures]
    monkeypatch.setattr(metrics, "SLICE", 7)
    for measure, before in zip(measures, whole):
        assert measure(real, fake) == pytest.approx(before, rel=1e-9)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no resource module")
def test_many_samples_do_not_fill_the_memory(tmp_path) -> None:
    """8,000 samples a side: a whole table of pairs in float64 takes 0.5 GB, and several are needed at once."""
    code = """
import resource, torch
from course_utils import metrics
x, y = torch.randn(2, 8_000, 4)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
metrics.kernel_distance(x, y), metrics.precision_recall(x, y), metrics.density_coverage(x, y)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6)
"""
    done = warm.run([sys.executable, "-c", code], tmp_path, cwd=ROOT)
    assert float(done.stdout) < 0.4, done.stderr


def test_settings_of_the_caller_change_no_number_and_stay_as_they_are() -> None:
    x = data.to_unit_range(data.embedded(NAME, "test")[0][:40])
    plain = metrics.features(x, NAME)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(metrics.features(x, NAME), plain) and torch.is_autocast_enabled("cpu")
    metrics.classifier.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(metrics.features(x, NAME), plain)
        assert data.ring().sample(4).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    metrics.classifier.cache_clear()
    with torch.inference_mode():
        metrics.features(x, NAME)
    pictures = x.clone().requires_grad_()
    metrics.classifier(NAME)(pictures).sum().backward()  # what was made in inference mode would refuse
    assert pictures.grad.abs().sum() > 0


# --- sliced Wasserstein -------------------------------------------------------------------------------------


def waves(n: int, seed: int, channels: int = 3, side: int = 32) -> torch.Tensor:
    """Smooth random pictures (n, channels, side, side) in [-1, 1]."""
    x = torch.randn(n, channels, side // 4, side // 4, generator=rng(seed))
    return nn.functional.interpolate(x, size=(side, side), mode="bicubic").mul(0.3).clamp(-1, 1)


@pytest.mark.parametrize("n, m", [(50, 50), (50, 33), (7, 100), (1, 5)])
def test_the_wasserstein_distance_in_one_dimension_is_scipys(n, m) -> None:
    a, b = torch.randn(n, 3, generator=rng(0)).double(), torch.rand(m, 3, generator=rng(1)).double() * 3
    want = [scipy.stats.wasserstein_distance(a[:, i], b[:, i]) for i in range(3)]
    assert metrics.wasserstein_1d(a, b).tolist() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("size", [(64, 64), (61, 40), (28, 28), (15, 33)])
def test_a_laplacian_pyramid_adds_up_to_the_picture(size) -> None:
    x = torch.randn(2, 3, *size, generator=rng(0))
    bands = metrics.laplacian_pyramid(x, min_side=7)
    back = bands[-1]
    for band in reversed(bands[:-1]):
        back = band + metrics._enlarged(back, band.shape[-2:])
    torch.testing.assert_close(back, x)
    assert min(bands[-1].shape[-2:]) >= 7 and len(bands) > 1
    flat = metrics.laplacian_pyramid(torch.ones(1, 1, *size), min_side=7)
    assert all(band.abs().max() < 1e-5 for band in flat[:-1])  # a grey picture has nothing in the fine bands


def test_sliced_wasserstein_equals_scipys_distance_along_the_same_directions() -> None:
    a, b = waves(6, 0, 1, 12), waves(4, 1, 1, 12)
    ours = metrics.sliced_wasserstein(a, b, patches=5, projections=16, min_side=12, rng=rng(3))
    draw = rng(3)
    corners = torch.rand(6, 5, 2, generator=draw)
    rows = []
    for x in (a, b):
        places = (corners[: len(x)] * 6).long()
        rows.append(torch.stack([x[i, 0, t : t + 7, s : s + 7].flatten() for i in range(len(x)) for t, s in places[i]]))
    mean, std = rows[0].mean(), rows[0].std()
    lines = torch.randn(49, 16, generator=draw)
    lines /= lines.norm(dim=0)
    p, q = (((r - mean) / std) @ lines for r in rows)
    want = np.mean([scipy.stats.wasserstein_distance(p[:, i], q[:, i]) for i in range(16)])
    assert ours == pytest.approx(want, rel=1e-4)


def test_sliced_wasserstein_is_0_for_a_set_and_itself_and_the_same_twice() -> None:
    a, b = waves(40, 0), waves(40, 1)
    assert metrics.sliced_wasserstein(a, a) == 0
    assert metrics.sliced_wasserstein(a, b) == metrics.sliced_wasserstein(a, b)
    assert metrics.sliced_wasserstein(a, b, rng=rng(5)) == metrics.sliced_wasserstein(a, b, rng=rng(5))
    assert metrics.sliced_wasserstein(a, b, rng=rng(5)) != metrics.sliced_wasserstein(a, b, rng=rng(6))
    there, back = (metrics.sliced_wasserstein(*pair, standardise="each") for pair in ((a, b), (b, a)))
    assert there == pytest.approx(back, rel=1e-5)


def test_sliced_wasserstein_grows_with_blur_and_names_the_level_of_the_damage() -> None:
    a, b = waves(60, 0, side=64), waves(60, 1, side=64)
    noisy = b + 0.1 * torch.randn(b.shape, generator=rng(2))
    floor, damaged = (metrics.sliced_wasserstein_levels(a, x) for x in (b, noisy))
    assert list(floor) == [64, 32, 16]
    assert damaged[64] > 5 * floor[64] and damaged[16] < 2 * floor[16]
    strong = metrics.sliced_wasserstein_levels(a, b + 0.2 * torch.randn(b.shape, generator=rng(2)))
    assert strong[64] > damaged[64]


def test_a_shift_in_brightness_counts_by_the_real_scale_and_not_by_each_sets_own() -> None:
    a, b = waves(80, 0), waves(80, 1)
    floor, shifted = metrics.sliced_wasserstein(a, b), metrics.sliced_wasserstein(a, b + 0.3)
    assert shifted > 2 * floor
    own = [metrics.sliced_wasserstein(a, x, standardise="each") for x in (b, b + 0.3)]
    assert own[1] == pytest.approx(own[0], rel=1e-3)


def test_sliced_wasserstein_does_not_change_when_all_pictures_are_scaled_alike() -> None:
    a, b = waves(30, 0), waves(20, 1)
    assert metrics.sliced_wasserstein(a, b) == pytest.approx(metrics.sliced_wasserstein(a / 2 + 0.1, b / 2 + 0.1), 1e-3)


@pytest.mark.parametrize(
    "a, b, more, sentence",
    [
        (torch.zeros(2, 3, 32, 32), torch.zeros(2, 1, 32, 32), {}, "differ in channels or size"),
        (torch.zeros(2, 3, 5, 32), torch.zeros(2, 3, 5, 32), {}, "hold no patch"),
        (torch.zeros(3, 32, 32), torch.zeros(3, 32, 32), {}, r"\(N, C, H, W\)"),
        (torch.full((2, 1, 9, 9), torch.inf), torch.zeros(2, 1, 9, 9), {}, "NaN or infinity"),
        (torch.zeros(2, 1, 9, 9), torch.zeros(2, 1, 9, 9), {"standardise": "none"}, "'by real' or 'each'"),
    ],
)
def test_sliced_wasserstein_says_what_is_wrong(a, b, more, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        metrics.sliced_wasserstein(a, b, **more)
