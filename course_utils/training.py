"""Progress bar, weight averaging and checkpoints: what every training loop needs and none should hide."""

from __future__ import annotations

import copy
import io
import os
import zipfile
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from . import files, live
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

    The file is written under a temporary name, read back and renamed: a killed run leaves the old one whole, and what
    is saved can be loaded. NumPy's numbers become Python's. The names of a network's weights do not tell whether it
    was compiled or trained in parallel.

    Raises:
        CheckpointError: a value that `load_checkpoint` could not give back, or a file that cannot be written.
    """
    path = Path(path)
    content = {name: _plain(_state(o) if hasattr(o, "state_dict") else o) for name, o in objects.items()}
    content = {"step": _plain(step), **content}
    try:
        with files.replacing(path) as scratch:
            _save_and_read_back(content, scratch, path.name)
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint {path} cannot be written ({error.strerror or error}): make room, or choose a file in a"
            " folder where you may write."
        ) from error


def _save_and_read_back(content: dict[str, Any], scratch: Path, name: str) -> None:
    try:
        torch.save(content, scratch)
        torch.load(scratch, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a value that cannot be written, or not be read back
        if fault := _unsafe(content):
            raise CheckpointError(fault) from None
        raise CheckpointError(f"{name} cannot be written ({_first_line(error)}): is the disk full?") from error


def load_checkpoint(path: str | Path, **objects: Any) -> dict[str, Any]:
    """Load the states into the objects named as in `save_checkpoint`; returns everything, `step` among it.

    Nothing is loaded unless all of it fits.

    Raises:
        CheckpointError: no such file, a truncated one, a part that is missing, or weights of another shape.
    """
    path = Path(path)
    content = _read(path)
    if missing := sorted(set(objects) - set(content)):
        raise CheckpointError(f"The checkpoint {path.name} holds no {', '.join(missing)}: it has {', '.join(content)}.")
    states = {}
    for name, target in objects.items():
        if not hasattr(target, "load_state_dict"):
            raise CheckpointError(
                f"{name} is a {type(target).__name__}, into which nothing can be loaded: take {name} from what"
                " load_checkpoint returns."
            )
        if not isinstance(content[name], Mapping):
            raise CheckpointError(f"{path.name}: {name} is a {type(content[name]).__name__} there and no state.")
        states[name] = content[name]
        if isinstance(target, nn.Module):
            own = {_bare(key, target): key for key in target.state_dict()}
            found = {key.replace("_orig_mod.", ""): value for key, value in content[name].items()}
            _check_fit(path.name, name, {_bare(k, target): v for k, v in target.state_dict().items()}, found)
            states[name] = {own[key]: value for key, value in found.items()}
    before = {name: copy.deepcopy(target.state_dict()) for name, target in objects.items()}
    try:
        for name, target in objects.items():
            target.load_state_dict(states[name])
    except Exception as error:  # an optimiser finds out only while it loads
        for done in objects:
            objects[done].load_state_dict(before[done])
        raise CheckpointError(f"{path.name}: {name} does not fit ({error}): make it as it was when saved.") from error
    return content


def _read(path: Path) -> dict[str, Any]:
    """What a checkpoint holds; a file that is whole is never called damaged."""
    if not path.exists():
        raise CheckpointError(f"There is no checkpoint {path.name}: train first, or correct the path.")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: name the checkpoint's file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f"The checkpoint {path} may not be read: change its permissions or copy it.") from error
    except Exception as error:  # what torch raises depends on where the file is damaged
        if _is_whole(path):
            raise CheckpointError(
                f"{path.name} is whole, but holds what is not loaded for safety ({_first_line(error)}): it was not made"
                " by save_checkpoint; load it with the program that made it and save its numbers and tensors."
            ) from error
        raise CheckpointError(
            f"The checkpoint {path.name} is damaged, cut short or not made by save_checkpoint: use an older one, or"
            " train again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path.name} holds a {type(content).__name__} and is not made by save_checkpoint: load it with torch.load."
        )
    return content


def _is_whole(path: Path) -> bool:
    """Whether a file is a zip archive, as torch writes them, all of whose parts have their checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


# What to save in place of a value that cannot be loaded safely.
INSTEAD = {
    np.ndarray: "torch.from_numpy(it)",
    PurePath: "str(it)",
    torch.Generator: "its get_state()",
    deque: "list(it)",
    range: "list(it)",
}


def _plain(value: Any) -> Any:
    """The same value with Python's numbers in place of NumPy's, at any depth; unchanged containers stay themselves."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        items = {_plain(key): _plain(item) for key, item in value.items()}
        same = type(value) in (dict, OrderedDict) and all(items[key] is value[key] for key in value)
        return value if same else items
    if type(value) in (list, tuple, set):
        items = [_plain(item) for item in value]
        return value if all(a is b for a, b in zip(items, value)) else type(value)(items)
    return value


def _unsafe(value: Any, name: str = "") -> str:
    """The sentence that names the innermost value which does not survive saving and loading; "" if all do."""
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
        return ""
    except Exception:  # of many kinds, from pickle and from torch
        pass
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        parts = value.items()
    elif type(value) in (list, tuple):
        parts = enumerate(value)
    for key, part in parts:
        inner = f"{name}[{key!r}]" if name else str(key)
        if fault := _unsafe(part, inner):
            return fault
    instead = next((words for kind, words in INSTEAD.items() if isinstance(value, kind)), "its numbers and tensors")
    return f"{name} is a {type(value).__name__}, which a checkpoint cannot give back: save {instead} instead."


def _state(value: Any) -> Mapping[str, Any]:
    """The state of an object; a network's under the names that it has without wrappers."""
    state = value.state_dict()
    if not isinstance(value, nn.Module) or all(_bare(key, value) == key for key in state):
        return state
    return {_bare(key, value): tensor for key, tensor in state.items()}


def _bare(key: str, module: nn.Module) -> str:
    """The name of a weight as if nothing within `module` were compiled or wrapped for several devices."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    wrappers = [
        (path, "_orig_mod" if "_orig_mod" in part._modules else "module")
        for path, part in module.named_modules()
        if "_orig_mod" in part._modules or isinstance(part, parallel)
    ]
    for path, child in sorted(wrappers, key=lambda wrapper: -len(wrapper[0])):  # the innermost first
        before = f"{path}." if path else ""
        if key.startswith(f"{before}{child}."):
            key = before + key.removeprefix(f"{before}{child}.")
    return key


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
