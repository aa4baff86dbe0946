"""Averages, checkpoints and the bar: what a killed, resumed or silenced training must not lose or change."""

import copy
import os
import pickle
import subprocess
import sys
from collections import defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from course_utils import training
from course_utils.training import EMA, CheckpointError, load_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parents[1]


class Scalar(nn.Module):
    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value))

    def set(self, value: float) -> None:
        with torch.no_grad():
            self.weight.fill_(value)


def linear(seed: int = 0, width: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(model.state_dict())


def assert_same(one: dict, other: dict) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


# --- exponential moving average -----------------------------------------------------------------------------


def test_an_average_warms_up_by_tensorflows_rule_and_then_holds_its_decay() -> None:
    model = Scalar(5.0)
    ema = EMA(model, decay=0.3)
    by_hand = None
    for n, value in enumerate([1.0, 2.0, -1.0, 4.0, 0.5, 3.0]):
        model.set(value)
        ema.update_parameters(model)
        decay = min(0.3, (1 + n) / (10 + n))  # 2/11, 3/12, 4/13, then 0.3
        by_hand = value if n == 0 else decay * by_hand + (1 - decay) * value
        assert ema.module.weight.item() == pytest.approx(by_hand), n


def test_an_average_without_decay_is_the_model_itself() -> None:
    model = Scalar()
    ema = EMA(model, decay=0.0)
    for value in (1.0, 7.0, -2.0):
        model.set(value)
        ema.update_parameters(model)
        assert ema.module.weight.item() == value


def test_the_running_statistics_of_batchnorm_are_averaged_and_its_counter_copied() -> None:
    model = nn.BatchNorm1d(1, momentum=1.0)  # the running mean is the last batch's mean
    ema = EMA(model, decay=0.5)
    by_hand = None
    for n, mean in enumerate([10.0, -4.0, 6.0]):
        model(torch.tensor([[mean - 1], [mean + 1]]))
        ema.update_parameters(model)
        decay = min(0.5, (1 + n) / (10 + n))
        by_hand = mean if n == 0 else decay * by_hand + (1 - decay) * mean
    assert ema.module.running_mean.item() == pytest.approx(by_hand)
    assert ema.module.num_batches_tracked.item() == model.num_batches_tracked.item() == 3


def test_an_average_needs_no_gradient_and_leaves_the_model_alone() -> None:
    model = linear()
    ema = EMA(model)
    before = state(model)
    ema.update_parameters(model)
    assert not any(p.requires_grad for p in ema.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert_same(state(model), before)
    with torch.no_grad():
        model[0].weight.add_(1)
    assert not torch.equal(ema.module[0].weight, model[0].weight), "a copy, not a reference"


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, float("nan")])
def test_a_decay_outside_zero_to_one_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"lies in \[0, 1\), not"):
        EMA(Scalar(), decay)


# --- checkpoints --------------------------------------------------------------------------------------------


def test_a_checkpoint_gives_everything_back(tmp_path) -> None:
    model, other = linear(0), linear(1)
    ema, other_ema = EMA(model), EMA(other)
    ema.update_parameters(model)
    save_checkpoint(tmp_path / "new/run.pt", 7, model=model, ema=ema, losses=[1.0, 0.5], z=torch.arange(3))
    content = load_checkpoint(tmp_path / "new/run.pt", model=other, ema=other_ema)
    assert content["step"] == 7 and content["losses"] == [1.0, 0.5] and content["z"].tolist() == [0, 1, 2]
    assert_same(state(other), state(model))
    assert_same(state(other_ema), state(ema))


def train(model: nn.Module, optimiser: torch.optim.Optimizer, ema: EMA, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 2, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x.prod(dim=1, keepdim=True)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        ema.update_parameters(model)


def run(seed: int) -> tuple[nn.Module, torch.optim.Optimizer, EMA]:
    model = linear(seed)
    return model, torch.optim.Adam(model.parameters(), lr=0.05), EMA(model, 0.9)


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tmp_path) -> None:
    straight = run(0)
    train(*straight, range(20))

    names = ("model", "optimiser", "ema")
    first = run(0)
    train(*first, range(8))
    save_checkpoint(tmp_path / "run.pt", 8, **dict(zip(names, first, strict=True)))
    resumed = run(1)
    step = load_checkpoint(tmp_path / "run.pt", **dict(zip(names, resumed, strict=True)))["step"]
    train(*resumed, range(step, 20))

    assert_same(state(resumed[0]), state(straight[0]))
    assert_same(state(resumed[2]), state(straight[2]))


def test_a_save_that_is_killed_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch) -> None:
    path, model = tmp_path / "run.pt", linear()
    save_checkpoint(path, 1, model=model)
    before = path.read_bytes()

    def killed(content, file) -> None:
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, 2, model=model)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"], "no .tmp is left"


def test_no_reader_ever_sees_a_half_written_checkpoint(tmp_path, monkeypatch) -> None:
    """A process that is killed outright cleans nothing up: the final name must not exist before the rename."""
    path, save, seen = tmp_path / "run.pt", torch.save, []

    def watched(content, file) -> None:
        save(content, file)
        seen.append(path.exists())

    monkeypatch.setattr(torch, "save", watched)
    save_checkpoint(path, 1, model=linear())
    assert seen == [False] and path.exists()


def test_a_missing_file_is_said(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="There is no checkpoint run.pt: train first, or correct the path"):
        load_checkpoint(tmp_path / "run.pt", model=linear())


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_said(tmp_path, share: float) -> None:
    path, model = tmp_path / "run.pt", linear()
    save_checkpoint(path, 1, model=model)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="run.pt is damaged, cut short or") as refusal:
        load_checkpoint(path, model=model)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("junk", [b"junk", b"\x80\x02", b"<html>" * 99, b"PK\x03\x04" + bytes(99), bytes(512)])
def test_a_file_of_another_kind_is_said(tmp_path, junk: bytes) -> None:
    (tmp_path / "run.pt").write_bytes(junk)
    with pytest.raises(CheckpointError, match="damaged, cut short or not made by save_checkpoint"):
        load_checkpoint(tmp_path / "run.pt", model=linear())


def test_a_bare_tensor_is_no_checkpoint(tmp_path) -> None:
    torch.save(torch.zeros(3), tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match="not made by save_checkpoint"):
        load_checkpoint(tmp_path / "run.pt", model=linear())


class Touch:
    """A pickle that would run code: it makes a file when it is loaded."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_a_file_that_holds_code_is_refused_and_the_code_not_run(tmp_path, write) -> None:
    with open(tmp_path / "run.pt", "wb") as file:
        write({"step": 1, "model": Touch(tmp_path / "ran")}, file)
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "run.pt", model=linear())
    assert not (tmp_path / "ran").exists()


def test_a_missing_part_is_named(tmp_path) -> None:
    model, other = linear(0), linear(1)
    before = state(other)
    save_checkpoint(tmp_path / "run.pt", 1, model=model)
    with pytest.raises(CheckpointError, match="run.pt holds no ema, optimiser: it has step, model"):
        load_checkpoint(tmp_path / "run.pt", model=other, optimiser=None, ema=EMA(other))
    assert_same(state(other), before)


@pytest.mark.parametrize(
    "misfit, complaint",
    [
        (linear(0, width=4), r"second.0.weight is \(3, 2\) in the checkpoint and \(4, 2\) in the model"),
        (nn.Sequential(*linear(), nn.Linear(1, 1)), "second lacks '3.bias'"),
        (linear()[:2], "second has a surplus '2.bias'"),
    ],
    ids=["other width", "more layers", "fewer layers"],
)
def test_nothing_is_loaded_when_one_model_does_not_fit(tmp_path, misfit, complaint) -> None:
    save_checkpoint(tmp_path / "run.pt", 1, first=linear(0), second=linear(0))
    first = linear(1)
    before, before_misfit = state(first), state(misfit)
    with pytest.raises(CheckpointError, match=complaint):
        load_checkpoint(tmp_path / "run.pt", first=first, second=misfit)
    assert_same(state(first), before)
    assert_same(state(misfit), before_misfit)


def test_nothing_is_loaded_when_an_optimiser_does_not_fit(tmp_path) -> None:
    model, optimiser, _ = run(0)
    save_checkpoint(tmp_path / "run.pt", 1, model=model, optimiser=optimiser)
    other = linear(1)
    of_one_layer = torch.optim.Adam(other[0].parameters())
    before = state(other)
    with pytest.raises(CheckpointError, match="run.pt: optimiser does not fit"):
        load_checkpoint(tmp_path / "run.pt", model=other, optimiser=of_one_layer)
    assert_same(state(other), before)


# --- progress bar and sizes ---------------------------------------------------------------------------------


def bar(**settings: str) -> str:
    """What a bar writes in a process of its own: tqdm reads its settings when it is imported."""
    kept = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    code = "from course_utils.training import progress; print(sum(progress(3, 'fitting')))"
    done = subprocess.run([sys.executable, "-c", code], env=kept | settings, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "3\n", done.stderr
    return done.stderr


def test_the_bar_is_silenced_by_tqdms_own_switch_and_shown_without_it() -> None:
    assert bar(TQDM_DISABLE="1") == ""
    assert "fitting" in bar()


def test_the_bar_runs_over_a_number_of_steps_or_anything_iterable() -> None:
    assert list(training.progress(3)) == [0, 1, 2]
    assert list(training.progress("abc")) == ["a", "b", "c"]


def test_only_trainable_numbers_are_counted() -> None:
    model = linear()  # 2 x 3 + 3, 3 + 3, 3 + 1; running statistics are no parameters
    assert training.parameters(model) == 9 + 6 + 4
    model[0].requires_grad_(False)
    assert training.parameters(model) == 10


def test_the_notebook_bar_is_silenced_like_the_one_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.live, "in_notebook", lambda: True)
    monkeypatch.setenv("TQDM_DISABLE", "0")
    assert isinstance(training.progress(3), training.live.Bar)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert training.progress(3).disable and list(training.progress(3)) == [0, 1, 2]


# --- what is saved can be loaded ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "given_back"),
    [
        (np.float64(0.5), 0.5),
        ([np.float32(0.5), 1], [0.5, 1]),
        ({"a": (np.int64(2), np.bool_(True))}, {"a": (2, True)}),
        (defaultdict(list, loss=[0.1]), {"loss": [0.1]}),
        ({1, 2}, {1, 2}),
    ],
)
def test_numbers_of_numpy_and_plain_containers_are_given_back(tmp_path, value, given_back) -> None:
    save_checkpoint(tmp_path / "run.pt", np.int64(7), thing=value)
    assert load_checkpoint(tmp_path / "run.pt") == {"step": 7, "thing": given_back}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.zeros(3), r"curve is a ndarray, .* save torch.from_numpy\(it\) instead"),
        ({"where": [Path("run")]}, r"curve\['where'\]\[0\] is a \w*Path, .* save str\(it\)"),
        (deque([1]), r"curve is a deque, .* list\(it\)"),
        (torch.Generator(), r"curve is a Generator, .* its get_state\(\)"),
        (lambda: 0, "curve is a function, which a checkpoint cannot give back"),
    ],
)
def test_what_could_not_be_loaded_is_refused_by_name_and_the_old_file_stays(tmp_path, value, said) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, 1, curve=[0.5])
    with pytest.raises(CheckpointError, match=said):
        save_checkpoint(path, 2, curve=value)
    assert load_checkpoint(path)["step"] == 1 and list(tmp_path.iterdir()) == [path]


def test_a_whole_file_of_somebody_else_is_never_called_damaged(tmp_path) -> None:
    torch.save({"step": 1, "who": Path("x")}, tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match="run.pt is whole, but holds what is not loaded for safety"):
        load_checkpoint(tmp_path / "run.pt")


def test_no_message_advises_to_delete_a_file() -> None:
    assert "delete" not in (ROOT / "course_utils" / "training.py").read_text("utf-8")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_a_checkpoint_has_the_permissions_that_umask_gives(tmp_path) -> None:
    before = os.umask(0o027)
    try:
        save_checkpoint(tmp_path / "run.pt", 1)
    finally:
        os.umask(before)
    assert (tmp_path / "run.pt").stat().st_mode & 0o777 == 0o640


def test_places_where_no_file_can_be_are_said_in_a_sentence(tmp_path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "run.pt"):
        with pytest.raises(CheckpointError, match="cannot be written"):
            save_checkpoint(path, 1)
    with pytest.raises(CheckpointError, match="is a folder: name the checkpoint's file"):
        load_checkpoint(tmp_path)


def test_compiled_and_parallel_networks_share_their_checkpoints_with_the_plain_one(tmp_path) -> None:
    plain, path = linear(), tmp_path / "run.pt"
    wrapped = {"compiled": torch.compile(linear(1)), "parallel": nn.DataParallel(linear(2))}
    for name, model in wrapped.items():
        save_checkpoint(path, 1, net=plain, ema=EMA(plain))
        ema = EMA(model)
        load_checkpoint(path, net=model, ema=ema)
        inner = model._orig_mod if name == "compiled" else model.module
        assert_same(state(inner), state(plain))
        save_checkpoint(path, 2, net=model, ema=ema)
        other = linear(3)
        other_ema = EMA(other)
        load_checkpoint(path, net=other, ema=other_ema)
        assert_same(state(other), state(plain))
        assert_same(state(other_ema.module), state(plain))


def test_a_target_without_a_state_and_a_part_that_is_none_are_said(tmp_path) -> None:
    save_checkpoint(tmp_path / "run.pt", 1, losses=[0.5])
    with pytest.raises(CheckpointError, match="losses is a list, into which nothing can be loaded: take losses from"):
        load_checkpoint(tmp_path / "run.pt", losses=[])
    with pytest.raises(CheckpointError, match="losses is a list there and no state"):
        load_checkpoint(tmp_path / "run.pt", losses=linear())
