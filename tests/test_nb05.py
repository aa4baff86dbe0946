"""What notebook 05 exports, against independent references."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

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
    net = nb05.UNet((16, 32), classes=10, extra=1)
    x, t, y = torch.randn(4, 2, 28, 28), torch.tensor([0, 10, 500, 999]), torch.tensor([0, 3, 9, net.null])
    assert net(x, t, y).shape == (4, 1, 28, 28) and not net(x, t, y).any()
    player = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(4):  # zero layers wake one after the other
        player.zero_grad()
        (net(x, t, y) - torch.randn(4, 1, 28, 28)).square().mean().backward()
        player.step()
    asleep = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not asleep


def test_a_unet_depends_on_time_and_class_and_not_on_company() -> None:
    net = nb05.UNet((16, 32), classes=10).eval()
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    x, t, y = torch.randn(3, 1, 28, 28), torch.tensor([5, 300, 900]), torch.tensor([1, 2, 3])
    out = net(x, t, y)
    assert torch.allclose(net(x[:1], t[:1], y[:1]), out[:1], atol=1e-4)
    assert not torch.allclose(net(x, t + 50, y), out, atol=1e-3)
    assert not torch.allclose(net(x, t, y + 1), out, atol=1e-3)


@pytest.mark.parametrize("channels, size, classes", [(1, 28, 10), (3, 32, 12), (3, 64, 0), (4, 16, 2)])
def test_a_unet_of_any_channels_size_and_classes(channels: int, size: int, classes: int) -> None:
    net = nb05.UNet((16, 32), channels=channels, size=size, classes=classes)
    x, t = torch.randn(2, channels, size, size), torch.tensor([0, 999])
    nn.init.normal_(net.out.weight, std=0.1)
    none = torch.full((2,), classes)
    assert net(x, t, none).shape == x.shape and (classes or torch.equal(net(x, t), net(x, t, none)))


@pytest.mark.parametrize("size", [30, 29, 0])
def test_sizes_that_cannot_be_halved_and_doubled_back_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="a multiple of 4"):
        nb05.UNet((16, 32), size=size)


@pytest.mark.parametrize(
    "options",
    [{"widths": (10, 20)}, {"widths": (4, 8)}, {"widths": 32}, {"widths": (8, 16, 32)}, {"emb": 127}, {"emb": 0}],
)
def test_widths_that_no_normalisation_divides_and_odd_embeddings_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="two widths that are multiples of 8 .* an even emb"):
        nb05.UNet(**options)
    with pytest.raises(ValueError, match="no negative number"):
        nb05.UNet(blocks=(-1, 2))


def test_timesteps_and_labels_that_changed_places_are_named() -> None:
    x, t, y = torch.zeros(2, 1, 28, 28), torch.tensor([3, 999]), torch.tensor([0, 9])
    for classes, labels in ((10, y), (0, 0 * y)):
        net = nb05.UNet((8, 16), classes=classes)
        net(x, t, labels)
        with pytest.raises(ValueError, match=r"as if the two had changed places: call net\(x, t, y\)"):
            net(x, labels, t)
    with pytest.raises(ValueError, match="changed places"):
        nb05.diffusion_loss(nb05.UNet((8, 16), classes=10), x, t, y, x, SCHEDULE)


def test_a_wrong_label_beside_a_right_timestep_is_no_swap() -> None:
    with pytest.raises(ValueError, match="make a U-Net with classes"):
        nb05.UNet((8, 16), classes=10)(torch.zeros(2, 1, 28, 28), torch.tensor([3, 999]), torch.tensor([0, 11]))


def test_a_network_with_classes_wants_to_hear_that_no_class_is_given(schedule: nb04.Schedule) -> None:
    net, x, t = nb05.UNet((8, 16), classes=10), torch.zeros(2, 1, 28, 28), torch.tensor([3, 999])
    wrapped = nb05.Preconditioned(net, schedule, 0.0, 1.0)
    assert net(x, t, torch.full_like(t, net.null)).shape == x.shape
    for ask in (net, wrapped, lambda x, t: nb05.diffusion_loss(net, x, None, t, x, schedule)):
        with pytest.raises(ValueError, match=r"has 10 classes and got no labels: call net\(x, t, y\)"):
            ask(x, t)
    with pytest.raises(ValueError, match="has 10 classes and got no labels"):
        nb05.train_ddpm(net, x, schedule, num_steps=1, batch_size=2)


@pytest.mark.parametrize("y", [2, [3, 5], None])
def test_labels_that_are_no_tensor_are_one_sentence(schedule: nb04.Schedule, y) -> None:
    net = nb05.UNet((8, 16), classes=10)
    with pytest.raises(TypeError, match=r"Labels are a tensor \(N,\), one for each picture, not .*labels_in_turn"):
        nb05.sample_images(net, schedule, y)
    with pytest.raises(TypeError, match=r"Labels are a tensor \(2,\), one for each picture, not"):
        nb05.Denoiser(net, schedule, y)(torch.zeros(2, 1, 28, 28), schedule.level(5))
    with pytest.raises(TypeError, match=r"Timesteps are a tensor \(2,\), one for each picture, not"):
        nb05.UNet((8, 16))(torch.zeros(2, 1, 28, 28), y)


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (2, 1, 32, 32), (2, 1, 28, 32), (1, 28, 28)])
def test_pictures_that_do_not_fit_are_one_sentence(shape: tuple[int, ...]) -> None:
    net, t = nb05.UNet((16, 32)), torch.tensor([0, 1])[: shape[0]]
    with pytest.raises(ValueError, match=r"wants pictures \(N, 1, 28, 28\), not"):
        net(torch.zeros(shape), t)


@pytest.mark.parametrize("y", [[0, 11], [-1, 0], [0.0, 1.0]])
def test_labels_that_the_network_has_not_are_one_sentence(y: list) -> None:
    net = nb05.UNet((16, 32), classes=10)
    with pytest.raises(ValueError, match="whole numbers from 0 to 10"):
        net(torch.zeros(2, 1, 28, 28), torch.tensor([0, 1]), torch.tensor(y))


# --- loss, timesteps, optimiser -----------------------------------------------------------------------------


def test_timestep_weights_make_half_log_snr_gaussian(schedule: nb04.Schedule) -> None:
    weights, half = nb05.timestep_weights(schedule, mean=0.3, std=1.3, floor=0.0), schedule.log_snr / 2
    mean = (weights * half).sum()
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    assert mean == pytest.approx(0.3, abs=0.02)
    assert (weights * (half - mean) ** 2).sum().sqrt() == pytest.approx(1.3, abs=0.03)


def test_every_timestep_gets_its_share_of_the_floor(schedule: nb04.Schedule) -> None:
    weights = nb05.timestep_weights(schedule)
    assert weights.sum() == pytest.approx(1) and weights.min() >= 0.1 / schedule.T
    for floor, std in ((-0.1, 1.0), (1.1, 1.0), (0.1, 0.0)):
        with pytest.raises(ValueError, match="A standard deviation lies above 0"):
            nb05.timestep_weights(schedule, std=std, floor=floor)


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


def test_train_is_reproducible_and_learns(schedule: nb04.Schedule) -> None:
    x, y = torch.full((40, 1, 28, 28), -1.0), torch.arange(40) % 10
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        losses: list[float] = []
        net = nb05.UNet((16, 32), classes=10)
        ema = nb05.train(net, x, y, schedule, num_steps=30, batch_size=16, watch=lambda s, loss, e: losses.append(loss))  # noqa: B023
        runs.append((losses, ema.module.out.weight.clone()))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert len(runs[0][0]) == 30 and sum(runs[0][0][-5:]) < 0.7 * sum(runs[0][0][:5])


def test_the_papers_loop_is_reproducible_and_learns() -> None:
    linear, x, runs = nb04.Schedule.named("linear", nb05.T), torch.full((40, 3, 16, 16), -1.0), []
    for _ in range(2):
        torch.manual_seed(3)
        losses: list[float] = []
        net = nb05.UNet((16, 32), channels=3, size=16)
        ema = nb05.train_ddpm(net, x, linear, num_steps=30, batch_size=16, watch=lambda s, loss, e: losses.append(loss))  # noqa: B023
        runs.append((losses, ema.module.out.weight.clone()))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert len(runs[0][0]) == 30 and sum(runs[0][0][-5:]) < 0.7 * sum(runs[0][0][:5])
    drawn = nb05.sample_images(ema, linear, nb05.labels_in_turn(ema, 3), 4, kind="epsilon")
    assert drawn.shape == (3, 3, 16, 16) and drawn.abs().max() <= 1


def test_preconditioning_starts_at_the_best_linear_prediction(schedule: nb04.Schedule) -> None:
    net = nb05.Preconditioned(nb05.UNet((16, 32)), schedule, mean=0.4, std=0.5)
    t, x0 = torch.tensor([0, 300, 700, 999]).repeat_interleave(50), 0.4 + 0.5 * torch.randn(200, 1, 28, 28)
    level = schedule.level(t)
    x = nb04.add_noise(x0, torch.randn_like(x0), level)
    predicted = nb04.x0_from("v", net(x, t), x, level)
    alpha, sigma = (nb04.like(part, x) for part in level)
    gain = 0.25 * alpha / (0.25 * alpha**2 + sigma**2)
    assert torch.allclose(predicted, 0.4 + gain * (x - 0.4 * alpha), atol=2e-4)


def test_the_ddpm_step_is_the_ancestral_step_with_large_variance() -> None:
    linear, x, noise, z = nb04.Schedule.named("linear", nb05.T), *torch.randn(3, 4, 1, 5, 5).double()
    for t in (999, 400, 1, 0):
        now, then = linear.level(t), linear.level(t - 1)
        x0 = nb04.x0_from("epsilon", noise, x, now)
        expected = nb04.ancestral_step(x, x0, now, then, z, "large")
        found = nb05.ddpm_step(x, noise, linear.betas[t].item(), now.sigma, z, last=t == 0)
        assert torch.allclose(found, expected, atol=1e-9)


def test_the_whole_chain_visits_every_timestep_once() -> None:
    linear, seen = nb04.Schedule.named("linear", 12), []
    x_T = torch.randn(2, 1, 4, 4)
    out = nb05.sample_ddpm(lambda x, t: 0.5 * x, linear, x_T, observe=lambda t, x: seen.append((t, x)))
    assert [t for t, _ in seen] == list(range(11, -1, -1)) and torch.equal(seen[0][1], x_T)
    assert out.shape == x_T.shape and out.abs().max() <= 1


# --- sampling and steering ----------------------------------------------------------------------------------


class Constant(nn.Module):
    """Guesses one brightness for each label, at any level (kind "x0")."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.anchor = 0, nn.Parameter(torch.zeros(()))
        self.null, self.shape = 10, (1, 4, 4)

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
    net = nb05.UNet((16, 32), classes=10).eval()
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
    reader = nb05.NoisyClassifier(width=16)
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


# --- several processes --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_equal_one_and_a_killed_run_resumes(tmp_path: Path, warm_processes) -> None:
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


def test_processes_that_cannot_share_a_batch_say_so(tmp_path: Path, warm_processes) -> None:
    pytest.importorskip("accelerate")
    with pytest.raises(RuntimeError, match="3 processes cannot share 16 pictures evenly"):
        nb05.run_script(tmp_path / "three", 3, 1)


def test_no_file_of_the_weights_stays_open(tmp_path: Path, warm_processes) -> None:
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
        (torch.tensor([11]), 2, "whole numbers from 0 to 10"),
        (torch.tensor([-1]), 2, "whole numbers"),
        (torch.zeros(2, 1, dtype=torch.long), 2, "whole numbers"),
        (torch.zeros(2), 2, "whole numbers"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_the_network_runs(y, steps, said) -> None:
    net, calls = nb05.UNet((8, 16), classes=10), []
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
    with pytest.raises(ValueError, match="Output .* does not fit target"):
        nb05.diffusion_loss(lambda x, t, y: x[:, :, :1], x0, None, t, x0, SCHEDULE)


# --- what does not fit is refused --------------------------------------------------------------------

PICTURES, LABELS = torch.zeros(3, 1, 28, 28), torch.zeros(3, dtype=torch.long)
MASK = torch.ones(1, 1, 28, 28, dtype=torch.bool)
LEVELS = SCHEDULE.levels(2)
READER = nb05.NoisyClassifier()


def black(x: Tensor, level: nb04.Level) -> Tensor:
    return -torch.ones_like(x)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: nb05.UNet((8, 16))(PICTURES, LABELS[:1], LABELS), "3 pictures want as many timesteps"),
        (lambda: nb05.UNet((8, 16))(PICTURES, LABELS, LABELS[:1]), "3 pictures want as many labels"),
        (lambda: nb05.Denoiser(nb05.UNet((8, 16)), SCHEDULE, LABELS[:1])(PICTURES, LEVELS[0]), "as many labels"),
        (lambda: nb05.Denoiser(nb05.UNet((8, 16)), SCHEDULE, LABELS, math.nan), "Guidance is a finite number"),
        (lambda: nb05.sample_images(nb05.UNet((8, 16)), SCHEDULE, LABELS + 1), "whole numbers from 0 to 0"),
        (lambda: nb05.sample_images(nb05.UNet((8, 16)), SCHEDULE, LABELS, guidance=math.inf), "Guidance is a finite"),
        (
            lambda: nb05.sample_images(nb05.UNet((8, 16)), SCHEDULE, LABELS, batch_size=0),
            "At least one picture at a time",
        ),
        (lambda: nb05.guided(PICTURES, PICTURES[:1], 2.0), "does not fit without"),
        (lambda: nb05.timestep_embedding(LABELS, 7), "an even number of components, not 7"),
        (lambda: nb05.drop_labels(LABELS, 1.5, 10), "between 0 and 1: 1.5 does not"),
        (lambda: nb05.drop_labels(LABELS, math.nan, 10), "between 0 and 1: nan does not"),
        (lambda: nb05.sample_timesteps(torch.ones(50), 4), "add up to 1"),
        (lambda: nb05.sample_timesteps(torch.full((50,), math.nan), 4), "add up to 1"),
        (lambda: nb05.timestep_weights(SCHEDULE, std=0.0), "lies above 0 and a share between 0 and 1"),
        (lambda: nb05.jump_back(PICTURES, LEVELS[1], LEVELS[0], PICTURES[:1]), "does not fit x"),
        (lambda: nb05.repaint(black, PICTURES[:1], MASK.expand(3, -1, -1, -1), LEVELS), "A mask of truth values"),
        (lambda: nb05.repaint(black, PICTURES, MASK.float(), LEVELS), "A mask of truth values"),
        (lambda: nb05.repaint(black, PICTURES, MASK, LEVELS, repeats=0), "At least one pass"),
        (lambda: nb05.repaint(black, PICTURES, MASK, LEVELS[:1]), "At least one pass"),
        (lambda: nb05.classifier_guided(black, READER, SCHEDULE, LABELS, math.nan), "Guidance is a finite"),
        (lambda: nb05.classifier_guided(black, READER, SCHEDULE, LABELS + 10, 1.0), "numbers from 0 to 9"),
        (
            lambda: nb05.classifier_guided(black, nb05.NoisyClassifier(10, 8, 8), SCHEDULE, LABELS[:1], 1.0)(
                PICTURES, LEVELS[1]
            ),
            "3 pictures want as many labels",
        ),
        (lambda: nb05.NoisyClassifier(10, 8, 8)(PICTURES, LABELS[:1]), "3 pictures want as many timesteps"),
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
