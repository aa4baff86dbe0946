"""Progress bar, weight averaging and checkpoints: what every training loop needs and none should hide."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from . import live
from .live import note as note


def progress(steps: int | Iterable, label: str = "training") -> Iterable:
    """A bar over `range(steps)` or any iterable, gone when done; `TQDM_DISABLE=1` silences it, as in tests.

    In Jupyter the stop button ends a loop over a number of steps after the step that it is in (see `live`), and
    `note(picture, loss=...)` shows numbers and a picture beside the bar.
    """
    silent = os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    if live.in_notebook() and not silent:
        return live.Bar(steps, label)
    iterable = range(steps) if isinstance(steps, int) else steps
    return tqdm(iterable, desc=label, leave=False, mininterval=0.5, disable=silent)


class EMA(AveragedModel):
    """Exponential moving average of weights and floating-point buffers, with warm-up.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that the random first weights are soon
    forgotten (the rule of TensorFlow's ExponentialMovingAverage). Integer buffers are copied. Call
    `update_parameters(model)` after every optimiser step and use the EMA like the model.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"The decay of an average lies in [0, 1), not {decay}.")

        def average(averaged: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
            if not averaged.is_floating_point():
                return current
            n = float(num_averaged)
            return averaged.lerp(current, 1 - min(decay, (1 + n) / (10 + n)))

        super().__init__(model, avg_fn=average, use_buffers=True)
        self.requires_grad_(False)


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or does not fit; the message names the cause and the cure."""


def save_checkpoint(path: str | Path, step: int, **objects: Any) -> None:
    """Write the `state_dict` of each object (or the object itself: numbers, lists, tensors) to one file.

    The file is written under a temporary name and renamed, so that a killed run leaves the old one whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {name: o.state_dict() if hasattr(o, "state_dict") else o for name, o in objects.items()}
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".tmp", delete=False) as scratch:
        try:
            torch.save({"step": step, **content}, scratch)
            scratch.close()
            Path(scratch.name).replace(path)
        finally:
            scratch.close()  # Windows deletes no open file
            Path(scratch.name).unlink(missing_ok=True)


def load_checkpoint(path: str | Path, **objects: Any) -> dict[str, Any]:
    """Load the states into the objects named as in `save_checkpoint`; returns everything, `step` among it.

    Nothing is loaded unless all of it fits.

    Raises:
        CheckpointError: no such file, a truncated one, a part that is missing, or weights of another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path.name}: train first, or correct the path.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise TypeError(f"holds {type(content).__name__}")
    except Exception as error:  # what torch raises depends on where the file is damaged
        raise CheckpointError(
            f"The checkpoint {path.name} is damaged, cut short or not made by save_checkpoint: delete it and use an"
            " older one, or train again."
        ) from error
    if missing := sorted(set(objects) - set(content)):
        raise CheckpointError(f"The checkpoint {path.name} holds no {', '.join(missing)}: it has {', '.join(content)}.")
    for name, target in objects.items():
        if isinstance(target, nn.Module):
            _check_fit(path.name, name, target.state_dict(), content[name])
    before = {name: copy.deepcopy(target.state_dict()) for name, target in objects.items()}
    try:
        for name, target in objects.items():
            target.load_state_dict(content[name])
    except Exception as error:  # an optimiser finds out only while it loads
        for done in objects:
            objects[done].load_state_dict(before[done])
        raise CheckpointError(f"{path.name}: {name} does not fit ({error}): make it as it was when saved.") from error
    return content


def _check_fit(file_name: str, name: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    if set(wanted) != set(found):
        key = sorted(set(wanted) ^ set(found))[0]
        side = "lacks" if key in wanted else "has a surplus"
        raise CheckpointError(f"{file_name}: {name} {side} {key!r}: the checkpoint is of another architecture.")
    for key, value in wanted.items():
        if isinstance(value, Tensor) and value.shape != found[key].shape:
            raise CheckpointError(
                f"{file_name}: {name}.{key} is {tuple(found[key].shape)} in the checkpoint and {tuple(value.shape)}"
                " in the model: build the model with the sizes that it was trained with."
            )


def parameters(model: nn.Module) -> int:
    """How many trainable numbers a model has."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
