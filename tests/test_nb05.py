"""What notebook 05 exports, against independent references."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from course_utils import data, metrics
from course_utils.lessons import nb04_diffusion_math as nb04
from course_utils.lessons import nb05_ddpm_from_scratch as nb05

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def schedule() -> nb04.Schedule:
    return nb04.Schedule.named("cosine", nb05.T)


# --- the network --------------------------------------------------------------------------------------------


def test_timestep_embedding_is_diffusers() -> None:
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    t = torch.tensor([0, 1, 17, 999])
    theirs = embeddings.get_timestep_embedding(t, 64, flip_sin_to_cos=False, downscale_freq_shift=0)
    assert torch.allclose(nb05.timestep_embedding(t, 64), theirs, atol=1e-3)  # 999 radians in float32


def test_attention_is_torchs_multi_head_attention() -> None:
    ours, x = nb05.Attention(32, heads=4), torch.randn(2, 32, 7, 7)
    nn.init.normal_(ours.to_out.weight, std=0.2)
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.to_qkv.weight.data, ours.to_qkv.bias.data
    theirs.out_proj.load_state_dict(ours.to_out.state_dict())
    places = ours.norm(x).flatten(2).mT
    expected = x + theirs(places, places, places)[0].mT.reshape(x.shape)
    assert torch.allclose(ours(x), expected, atol=1e-5)


def test_a_new_unet_puts_out_zero_and_every_weight_learns() -> None:
    net = nb05.UNet((16, 32), n_in=2)
    x, t, y = torch.randn(4, 2, 28, 28), torch.tensor([0, 10, 500, 999]), torch.tensor([0, 3, 9, nb05.NULL])
    assert net(x, t, y).shape == (4, 1, 28, 28) and not net(x, t, y).any()
    player = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(4):  # zero layers wake one after the other
        player.zero_grad()
        (net(x, t, y) - torch.randn(4, 1, 28, 28)).square().mean().backward()
        player.step()
    asleep = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not asleep


def test_a_unet_depends_on_time_and_class_and_not_on_company() -> None:
    net = nb05.UNet((16, 32)).eval()
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    x, t, y = torch.randn(3, 1, 28, 28), torch.tensor([5, 300, 900]), torch.tensor([1, 2, 3])
    out = net(x, t, y)
    assert torch.allclose(net(x[:1], t[:1], y[:1]), out[:1], atol=1e-4)
    assert not torch.allclose(net(x, t + 50, y), out, atol=1e-3)
    assert not torch.allclose(net(x, t, y + 1), out, atol=1e-3)


def test_sizes_that_cannot_be_halved_and_doubled_back_fail() -> None:
    with pytest.raises(RuntimeError):
        nb05.UNet((16, 32))(torch.randn(1, 1, 30, 30), torch.tensor([0]), torch.tensor([0]))  # 15, 8, 16


# --- the mixture --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_mixture() -> nb05.MixtureDenoiser:
    torch.manual_seed(1)
    y = torch.arange(10).repeat(60)
    return nb05.MixtureDenoiser(0.3 * torch.randn(600, 1, 2, 3) + 0.2 * y[:, None, None, None], y, clusters=3)


def dense_guess(m: nb05.MixtureDenoiser, x: Tensor, alpha: float, sigma: float, label: int) -> Tensor:
    """E[x0 | x] by full covariance matrices, in float64."""
    U, flat = m.directions.double(), x.double().flatten()
    centres, cov = m.means.double() @ U.T, U @ torch.diag(m.variances.double()) @ U.T
    noisy = alpha**2 * cov + sigma**2 * torch.eye(len(flat), dtype=torch.float64)
    chosen = [k for k in range(len(centres)) if label in (nb05.NULL, int(m.owner[k]))]
    logs = torch.stack(
        [
            m.log_weights[k].double() + torch.distributions.MultivariateNormal(alpha * centres[k], noisy).log_prob(flat)
            for k in chosen
        ]
    )
    gain = alpha * cov @ torch.linalg.inv(noisy)
    guesses = torch.stack([centres[k] + gain @ (flat - alpha * centres[k]) for k in chosen])
    return (logs.softmax(0)[:, None] * guesses).sum(0)


@pytest.mark.parametrize("label", [0, 7, nb05.NULL])
@pytest.mark.parametrize("angle", [0.05, 0.8, 1.5])
def test_the_mixtures_guess_is_that_of_dense_matrices(
    small_mixture: nb05.MixtureDenoiser, label: int, angle: float
) -> None:
    alpha, sigma, x = math.cos(angle), math.sin(angle), torch.randn(4, 1, 2, 3)
    guess, error = small_mixture(x, nb04.Level(alpha, sigma), torch.full((4,), label))
    expected = torch.stack([dense_guess(small_mixture, one, alpha, sigma, label) for one in x])
    assert torch.allclose(guess.flatten(1).double(), expected, atol=1e-4)
    assert error.shape[1:] == (1, 1, 1) and (error > 0).all()


def test_the_mixture_finds_clusters() -> None:
    centres = torch.tensor([[-3.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    x = centres.repeat_interleave(50, dim=0) + 0.1 * torch.randn(150, 2)
    best = min((nb05.k_means(x, 3) for _ in range(8)), key=lambda found: (x - found[0][found[1]]).square().sum())
    assert torch.cdist(best[0], centres).min(dim=0).values.max() < 0.1


def test_a_new_head_start_guesses_what_the_mixture_guesses(schedule: nb04.Schedule) -> None:
    y = torch.arange(10).repeat(70)
    mixture = nb05.MixtureDenoiser(torch.rand(700, 1, 28, 28) * 2 - 1, y, clusters=2)
    net, x, t, label = (
        nb05.HeadStart(nb05.UNet((16, 32), n_in=2), mixture, schedule),
        torch.randn(3, 1, 28, 28),
        [3, 500, 999],
        [1, 2, nb05.NULL],
    )
    t, label = torch.tensor(t), torch.tensor(label)
    level = schedule.level(t)
    assert torch.allclose(nb04.x0_from("v", net(x, t, label), x, level), mixture(x, level, label)[0], atol=1e-4)


# --- loss, timesteps, optimiser -----------------------------------------------------------------------------


def test_timestep_weights_make_half_log_snr_gaussian(schedule: nb04.Schedule) -> None:
    weights, half = nb05.timestep_weights(schedule, mean=0.3, std=1.3), schedule.log_snr / 2
    mean = (weights * half).sum()
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    assert mean == pytest.approx(0.3, abs=0.02)
    assert (weights * (half - mean) ** 2).sum().sqrt() == pytest.approx(1.3, abs=0.03)


def test_sample_timesteps_takes_one_from_each_slice() -> None:
    weights = torch.full((1000,), 1e-3, dtype=torch.float64)
    for _ in range(20):
        t = nb05.sample_timesteps(weights, 10)
        assert (t // 100).tolist() == list(range(10))
    ends = torch.cat([nb05.sample_timesteps(weights, 500) for _ in range(40)])
    assert ends.min() == 0 and ends.max() == 999


@pytest.mark.parametrize("kind", ["epsilon", "x0", "v"])
def test_the_loss_is_zero_for_a_perfect_network(schedule: nb04.Schedule, kind: str) -> None:
    x0, noise, t = torch.rand(5, 1, 4, 4), torch.randn(5, 1, 4, 4), torch.tensor([0, 99, 400, 700, 999])
    target = nb04.output_from(kind, x0, noise, schedule.level(t))
    assert nb05.diffusion_loss(lambda x, t, y: target, x0, t, t, noise, schedule, kind) == 0
    assert nb05.diffusion_loss(lambda x, t, y: target + 2, x0, t, t, noise, schedule, kind) == pytest.approx(4)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_orthogonalise_moves_singular_values_to_one_and_keeps_directions(shape: tuple[int, int]) -> None:
    G = torch.randn(3, *shape)
    out = nb05.orthogonalise(G)
    assert 0.3 < torch.linalg.svdvals(out).min() and torch.linalg.svdvals(out).max() < 1.3
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    inside = U.mT @ out @ Vh.mT  # diagonal if the directions are kept
    assert (inside - torch.diag_embed(inside.diagonal(dim1=1, dim2=2))).abs().max() < 1e-3


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_muon_is_torchs_on_matrices() -> None:
    ours, theirs = nn.Linear(40, 24, bias=False), nn.Linear(40, 24, bias=False)
    theirs.load_state_dict(ours.state_dict())
    before = ours.weight.detach().clone()
    players = nb05.Muon([ours.weight], lr=0.02), torch.optim.Muon([theirs.weight], lr=0.02, weight_decay=0.0)
    for _ in range(3):
        x = torch.randn(64, 40)  # of full rank: rounding is amplified in directions that have no gradient
        for net, player in zip((ours, theirs), players):
            player.zero_grad()
            net(x).square().sum().backward()
            player.step()
    change = (theirs.weight - before).norm()
    assert (ours.weight - theirs.weight).norm() < 0.05 * change  # torch's iteration runs in bfloat16


def test_optimisers_share_the_weights_out_once() -> None:
    net = nb05.UNet((16, 32))
    muon, adam = nb05.make_optimisers(net)
    given = [p for player in (muon, adam) for group in player.param_groups for p in group["params"]]
    assert len(given) == len({id(p) for p in given}) == len(list(net.parameters()))
    by_muon = {id(p) for group in muon.param_groups for p in group["params"]}
    assert id(net.middle.conv_1.weight) in by_muon and id(net.attention.to_qkv.weight) in by_muon
    assert not by_muon & {id(net.stem.weight), id(net.out.weight), id(net.label.weight), id(net.middle.conv_1.bias)}


def test_train_is_reproducible_and_learns(schedule: nb04.Schedule) -> None:
    x, y = torch.full((40, 1, 28, 28), -1.0), torch.arange(40) % 10
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        losses: list[float] = []
        net = nb05.UNet((16, 32))
        ema = nb05.train(net, x, y, schedule, num_steps=30, batch_size=16, watch=lambda s, loss, e: losses.append(loss))  # noqa: B023
        runs.append((losses, ema.module.out.weight.clone()))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert len(runs[0][0]) == 30 and sum(runs[0][0][-5:]) < 0.7 * sum(runs[0][0][:5])


# --- sampling and steering ----------------------------------------------------------------------------------


class Constant(nn.Module):
    """Guesses one brightness for each label, at any level (kind "x0")."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.anchor = 0, nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return torch.ones_like(x) * (y.float() / 20)[:, None, None, None]


def test_the_denoiser_guides_and_counts(schedule: nb04.Schedule) -> None:
    y, x, level = torch.tensor([2, 8]), torch.randn(2, 1, 4, 4), schedule.level(500)
    for guidance, nfe in ((1.0, 1), (2.0, 2), (0.0, 2)):
        denoise = nb05.Denoiser(Constant(), schedule, y, guidance, kind="x0")
        expected = 0.5 + guidance * (y / 20 - 0.5)
        assert torch.allclose(denoise(x, level)[:, 0, 0, 0], expected.clamp(-1, 1))
        assert denoise.nfe == nfe and denoise.net.calls == 1


def test_timestep_of_finds_every_level(schedule: nb04.Schedule) -> None:
    assert [nb05.timestep_of(schedule, schedule.level(t)) for t in (0, 1, 499, 998, 999)] == [0, 1, 499, 998, 999]


DETERMINISTIC = [name for name, solver in nb04.SAMPLERS.items() if solver.needs != "noise"]


def small_network() -> nb05.UNet:
    torch.manual_seed(0)
    net = nb05.UNet((16, 32)).eval()
    for p in net.parameters():
        nn.init.normal_(p, std=0.05)
    return net


@pytest.mark.parametrize("name", list(nb04.SAMPLERS))
def test_pictures_do_not_depend_on_the_batch_size(schedule: nb04.Schedule, name: str) -> None:
    net, y, pictures = small_network(), torch.tensor([0, 1, 2, 3, 4]), []
    for batch_size in (5, 2, 1):
        rng = torch.Generator().manual_seed(5)
        settings = {"solver": nb04.SAMPLERS[name], "rng": rng, "batch_size": batch_size}
        pictures.append(nb05.sample_images(net, schedule, y, 4, **settings))
    assert pictures[0].shape == (5, 1, 28, 28) and pictures[0].isfinite().all()
    assert name == "Euler" or pictures[0].abs().max() <= 1  # plain Euler does not end at the prediction
    assert all(torch.allclose(pictures[0], other, atol=1e-4) for other in pictures[1:])


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_solvers_draw_nothing(schedule: nb04.Schedule, name: str) -> None:
    rng = torch.Generator().manual_seed(5)
    x, before, of_all = torch.randn(2, 1, 4, 4), rng.get_state(), torch.get_rng_state()
    for given in (rng, None):
        nb04.sample(lambda x, level: x.tanh(), x, schedule.levels(4), nb04.SAMPLERS[name], given)
    assert torch.equal(rng.get_state(), before) and torch.equal(torch.get_rng_state(), of_all)


def test_what_is_no_solver_is_named(schedule: nb04.Schedule) -> None:
    for solver in (nb04.ddim_step, nb04.Solver(nb04.ddim_step, "luck")):
        with pytest.raises(TypeError, match="A Solver is wanted"):
            nb04.sample(lambda x, level: x, torch.zeros(1, 1), schedule.levels(2), solver)


def test_classifier_guidance_adds_the_gradient(schedule: nb04.Schedule) -> None:
    reader = nb05.NoisyClassifier(16)
    for p in reader.parameters():
        nn.init.normal_(p, std=0.1)
    x, y, level = torch.randn(3, 1, 28, 28), torch.tensor([1, 4, 9]), schedule.level(400)
    steered = nb05.classifier_guided(lambda x, level: torch.zeros_like(x), reader, schedule, y, 0.5)(x, level)
    push = torch.randn_like(x)
    h, t = 1e-2, torch.full((3,), 400)

    def log_p(at: Tensor) -> Tensor:
        return reader(at, t).log_softmax(1).gather(1, y[:, None]).sum()

    slope = (log_p(x + h * push) - log_p(x - h * push)) / (2 * h)
    assert steered.abs().max() < 1  # nothing was clipped
    assert (steered * push).sum() * level.alpha / (0.5 * level.sigma**2) == pytest.approx(slope.item(), rel=0.02)


def test_jump_back_undoes_a_step_in_distribution(schedule: nb04.Schedule) -> None:
    then, now = schedule.level(300), schedule.level(450)
    x = nb04.add_noise(torch.full((200_000,), 0.6), torch.randn(200_000), then)
    back = nb05.jump_back(x, then, now, torch.randn(200_000))
    assert back.mean() == pytest.approx(0.6 * now.alpha, abs=0.01) and back.std() == pytest.approx(now.sigma, abs=0.01)


def test_repaint_keeps_the_known_and_fills_the_rest(schedule: nb04.Schedule) -> None:
    known, mask = torch.rand(2, 1, 6, 6) * 2 - 1, torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    mask[..., :3, :] = True
    out = nb05.repaint(lambda x, level: torch.full_like(x, 0.25), known, mask, schedule.levels(8), repeats=3)
    assert torch.equal(out[..., :3, :], known[..., :3, :]) and torch.allclose(out[..., 3:, :], torch.tensor(0.25))


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


# --- several processes --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_equal_one_and_a_killed_run_resumes(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    (_, one), (_, two) = nb05.run_script(tmp_path / "one", 1, 4), nb05.run_script(tmp_path / "two", 2, 4)
    losses, nothing = nb05.run_script(tmp_path / "again", 2, 4, die_after=3)
    assert len(losses) == 3 and nothing is None
    _, again = nb05.run_script(tmp_path / "again", 2, 4)
    assert one and two and again
    assert max((one[k] - two[k]).abs().max() for k in one) < 1e-5
    assert max((again[k] - two[k]).abs().max() for k in two) < 1e-6


NO_LIBUV = """
import sys
if any(word.endswith(("torch.distributed.run", "train_several.py")) for word in sys.orig_argv):
    import torch.distributed as distributed
    real = distributed.TCPStore
    def store(*args, **kwargs):
        if kwargs.get("use_libuv", len(args) < 9 or args[8]):
            raise RuntimeError("use_libuv was requested but PyTorch was built without libuv support")
        return real(*args, **kwargs)
    distributed.TCPStore = store
    sys.modules["torch.distributed.rendezvous"].TCPStore = store
"""


def test_the_processes_start_where_torchrun_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, whose PyTorch has no libuv, which torchrun's store wants."""
    pytest.importorskip("accelerate")
    (tmp_path / "sitecustomize.py").write_text(NO_LIBUV)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert "torch.distributed.run" not in nb05.SEVERAL_PROCESSES
    losses, weights = nb05.run_script(tmp_path / "two", 2, 1)
    assert len(losses) == 1 and weights


def test_a_run_that_never_began_is_not_taken_for_a_killed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nb05, "SEVERAL_PROCESSES", "raise SystemExit('no store')")
    with pytest.raises(RuntimeError, match="2 processes did not come to their end; the last line is: .*no store"):
        nb05.run_script(tmp_path / "two", 2, 4, die_after=3)


def test_a_failed_process_ends_the_others_that_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_fails = "import os, time\nif os.environ['RANK'] == '1': raise SystemExit('no room')\ntime.sleep(300)\n"
    monkeypatch.setattr(nb05, "SEVERAL_PROCESSES", one_fails)
    with pytest.raises(RuntimeError, match="the last line is: no room"):
        nb05.run_script(tmp_path / "two", 2, 4)


def test_weights_of_an_earlier_run_are_not_taken_for_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.safetensors").touch()
    monkeypatch.setattr(nb05, "SEVERAL_PROCESSES", "raise SystemExit('no store')")
    with pytest.raises(RuntimeError, match="no store"):
        nb05.run_script(tmp_path, 1, 4)


def test_a_process_can_import_what_the_notebook_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package lies in a folder that a set-up cell put on the path."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "only_here.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    monkeypatch.setattr(nb05, "SEVERAL_PROCESSES", "import only_here\nraise SystemExit('imported')")
    with pytest.raises(RuntimeError, match="imported"):
        nb05.run_script(tmp_path / "one", 1, 1)


@pytest.mark.parametrize(
    ("processes", "steps", "die_after"), [(0, 4, None), (2, 0, None), (2, -1, None), (2, 4, 5), (2, 4, -1)]
)
def test_what_no_processes_can_do_is_refused(tmp_path: Path, processes, steps, die_after) -> None:
    with pytest.raises(ValueError, match="at least one of each is wanted"):
        nb05.run_script(tmp_path / "none", processes, steps, die_after)
    assert not list(tmp_path.iterdir())


def test_processes_that_cannot_share_a_batch_say_so(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    with pytest.raises(RuntimeError, match="3 processes cannot share 16 pictures evenly"):
        nb05.run_script(tmp_path / "three", 3, 1)


def test_no_file_of_the_weights_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows deletes no file that is mapped into memory."""
    mapped = Path("/proc/self/maps")
    if not mapped.is_file():
        pytest.skip("this system does not say which files are mapped")
    _, weights = nb05.run_script(tmp_path / "one", 1, 1)
    assert weights and str(tmp_path) not in mapped.read_text()


# --- sizes that do not fit ----------------------------------------------------------------------------------

SCHEDULE = nb04.Schedule.named("cosine", 50)


@pytest.mark.parametrize(
    ("y", "steps", "said"),
    [
        (torch.arange(2), 0, "Between 1 and 50 steps"),
        (torch.arange(2), -1, "Between 1 and 50 steps"),
        (torch.tensor([11]), 2, "class numbers from 0 to 10"),
        (torch.tensor([-1]), 2, "class numbers"),
        (torch.zeros(2, 1, dtype=torch.long), 2, "class numbers"),
        (torch.zeros(2), 2, "class numbers"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_the_network_runs(y, steps, said) -> None:
    net, calls = nb05.UNet((8, 16)), []
    net.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match=said):
        nb05.sample_images(net, SCHEDULE, y, steps)
    assert not calls


@pytest.mark.parametrize(
    ("pictures", "labels", "options", "said"),
    [
        (4, 4, {"num_steps": 0}, "At least one step"),
        (4, 4, {"batch_size": 0}, "At least one step"),
        (4, 3, {}, "4 pictures want as many labels"),
    ],
)
def test_what_cannot_be_trained_is_refused(pictures, labels, options, said) -> None:
    x, y = -torch.ones(pictures, 1, 28, 28), torch.zeros(labels, dtype=torch.long)
    with pytest.raises(ValueError, match=said):
        nb05.train(nb05.UNet((8, 16)), x, y, SCHEDULE, **{"num_steps": 1, "batch_size": 2} | options)


def test_a_loss_never_broadcasts() -> None:
    x0, y, t = torch.zeros(3, 1, 28, 28), torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.long)
    net = nb05.UNet((8, 16))
    for bad in ((y[:1], t, x0), (y, t[:1], x0), (y, t, x0[:1])):
        labels, times, noise = bad
        with pytest.raises(ValueError, match="want as many (timesteps|labels)|does not fit x0"):
            nb05.diffusion_loss(net, x0, labels, times, noise, SCHEDULE)


# --- what does not fit is refused --------------------------------------------------------------------

PICTURES, LABELS = torch.zeros(3, 1, 28, 28), torch.zeros(3, dtype=torch.long)
MASK = torch.ones(1, 1, 28, 28, dtype=torch.bool)
LEVELS = SCHEDULE.levels(2)


def black(x: Tensor, level: nb04.Level) -> Tensor:
    return -torch.ones_like(x)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: nb05.UNet((8, 16))(PICTURES, LABELS[:1], LABELS), "3 pictures want as many timesteps"),
        (lambda: nb05.UNet((8, 16))(PICTURES, LABELS, LABELS[:1]), "3 pictures want as many labels"),
        (lambda: nb05.empty_model()(PICTURES, LABELS, LABELS[:1]), "3 pictures want as many labels"),
        (lambda: nb05.empty_model()(PICTURES, LABELS[:1], LABELS), "levels do not fit"),
        (lambda: nb05.Denoiser(nb05.UNet((8, 16)), SCHEDULE, LABELS[:1])(PICTURES, LEVELS[0]), "as many labels"),
        (lambda: nb05.Denoiser(nb05.UNet((8, 16)), SCHEDULE, LABELS, math.nan), "Guidance is a finite number"),
        (lambda: nb05.Denoiser(nb05.UNet((8, 16)), SCHEDULE, LABELS + 11), "class numbers from 0 to 10"),
        (lambda: nb05.sample_images(nb05.UNet((8, 16)), SCHEDULE, LABELS, guidance=math.inf), "Guidance is a finite"),
        (
            lambda: nb05.sample_images(nb05.UNet((8, 16)), SCHEDULE, LABELS, batch_size=0),
            "At least one picture at a time",
        ),
        (lambda: nb05.guided(PICTURES, PICTURES[:1], 2.0), "does not fit without"),
        (lambda: nb05.timestep_embedding(LABELS, 7), "an even number of components, not 7"),
        (lambda: nb05.drop_labels(LABELS, 1.5), "between 0 and 1: 1.5 does not"),
        (lambda: nb05.drop_labels(LABELS, math.nan), "between 0 and 1: nan does not"),
        (lambda: nb05.sample_timesteps(torch.ones(50), 4), "add up to 1"),
        (lambda: nb05.sample_timesteps(torch.full((50,), math.nan), 4), "add up to 1"),
        (lambda: nb05.timestep_weights(SCHEDULE, std=0.0), "lies above 0: 0.0 does not"),
        (lambda: nb05.k_means(torch.zeros(3, 2), 4), "3 rows cannot make 4 clusters"),
        (lambda: nb05.MixtureDenoiser(PICTURES, LABELS[:2], 1), "3 pictures want as many labels"),
        (lambda: nb05.MixtureDenoiser(PICTURES, LABELS, 1), "0 rows cannot make 1 clusters"),
        (lambda: nb05.jump_back(PICTURES, LEVELS[1], LEVELS[0], PICTURES[:1]), "does not fit x"),
        (lambda: nb05.repaint(black, PICTURES[:1], MASK.expand(3, -1, -1, -1), LEVELS), "A mask of truth values"),
        (lambda: nb05.repaint(black, PICTURES, MASK.float(), LEVELS), "A mask of truth values"),
        (lambda: nb05.repaint(black, PICTURES, MASK, LEVELS, repeats=0), "At least one pass"),
        (lambda: nb05.repaint(black, PICTURES, MASK, LEVELS[:1]), "At least one pass"),
        (lambda: nb05.classifier_guided(black, None, SCHEDULE, LABELS, math.nan), "a finite scale"),
        (lambda: nb05.classifier_guided(black, None, SCHEDULE, LABELS + 10, 1.0), "classes from 0 to 9"),
        (
            lambda: nb05.classifier_guided(black, nb05.NoisyClassifier(8, 8), SCHEDULE, LABELS[:1], 1.0)(
                PICTURES, LEVELS[1]
            ),
            "3 pictures want as many labels",
        ),
        (lambda: nb05.NoisyClassifier(8, 8)(PICTURES, LABELS[:1]), "3 pictures want as many timesteps"),
    ],
)
def test_what_does_not_fit_is_one_sentence(ask, said) -> None:
    with pytest.raises(ValueError, match=said) as refusal:
        ask()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": torch.ones(10) / 10}, "50 timesteps want as many weights"),
        ({"kind": "noise"}, "no prediction kind 'noise'"),
        ({"label_dropout": 2.0}, "between 0 and 1: 2.0"),
    ],
)
def test_settings_of_a_training_are_refused_before_the_network_runs(options, said) -> None:
    net, calls = nb05.UNet((8, 16)), []
    net.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match=said):
        nb05.train(net, -torch.ones(3, 1, 28, 28), LABELS, SCHEDULE, num_steps=1, batch_size=2, **options)
    assert not calls
