"""How assets are packed: xz for what is large, float16 for weights."""

from __future__ import annotations

import lzma

import safetensors.torch
from torch import Tensor, nn

from course_utils import data
from course_utils.files import write

FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}]


def compressed(tensors: dict[str, Tensor]) -> bytes:
    """A safetensors file of the tensors, xz-compressed as far as it goes."""
    content = safetensors.torch.save({key: value.contiguous() for key, value in tensors.items()})
    return lzma.compress(content, filters=FILTERS, format=lzma.FORMAT_XZ)


def store(file_name: str, net: nn.Module, **more: Tensor) -> None:
    """Write a network's weights in float16, and more tensors as they are; xz-compressed if the name ends in .xz."""
    weights = {key: value.half() if value.is_floating_point() else value for key, value in net.state_dict().items()}
    tensors = {key: value.contiguous() for key, value in (weights | more).items()}
    content = compressed(tensors) if file_name.endswith(".xz") else safetensors.torch.save(tensors)
    write(data.ASSETS / file_name, content)
