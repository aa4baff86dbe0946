"""Features of colour pictures from a whole EfficientNet-Lite0 that was trained on ImageNet.

Distances on them are not FID: that word belongs to Inception's features. The last stages and the classifier are packed
in 8 bits; the first five stages are `photographs.LookingNet`.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import data
from .photographs import Bottleneck, LookingNet, looking_net
from .realesrgan import from_8_bits

PACKED = data.ASSETS / "efficientnet_lite0_rest.safetensors.xz"
SIDE = 224  # pixels a side that the network was trained on
N_FEATURES, N_CLASSES = 1280, 1000


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 for pictures (N, 3, H, W) in [0, 1]; batch normalisation is folded into the convolutions.

    `features` gives the mean over places of the last layer (N, 1280); `forward` the logits (N, 1000) of ImageNet.
    """

    # blocks, channels, widening, kernel, stride of the two stages after LookingNet's five
    STAGES = ((4, 192, 6, 5, 2), (1, 320, 6, 3, 1))

    def __init__(self) -> None:
        super().__init__()
        self.looking, channels, stages = LookingNet(), LookingNet.STAGES[-1][1], []
        for blocks, out, expand, kernel, stride in self.STAGES:
            stage = [Bottleneck(channels if i == 0 else out, out, expand, kernel, stride if i == 0 else 1)
                     for i in range(blocks)]  # fmt: skip
            stages.append(nn.Sequential(*stage))
            channels = out
        self.stages = nn.Sequential(*stages)
        self.head = nn.Conv2d(channels, N_FEATURES, 1)
        self.classify = nn.Linear(N_FEATURES, N_CLASSES)

    def features(self, x: Tensor) -> Tensor:
        return F.relu6(self.head(self.stages(self.looking(x)[-1]))).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))


@lru_cache(maxsize=1)
def network() -> EfficientNetLite0:
    """The network with its ImageNet weights, in eval mode, frozen, on the CPU.

    Raises:
        DataError: the file of its weights is damaged.
    """
    with torch.inference_mode(False):  # it is kept, and may be asked for gradients later
        net = EfficientNetLite0().float()
        state = from_8_bits(data.unpacked(PACKED))
        state["classify.weight"] = state["classify.weight"].flatten(1)
        first = {f"looking.{key}": value for key, value in looking_net().state_dict().items()}
        net.load_state_dict(state | first)
        return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def resized(x: Tensor, side: int = SIDE) -> Tensor:
    """Pictures (N, C, H, W) in [0, 1] at `side` x `side`, by bicubic interpolation that blurs before it shrinks."""
    if x.shape[-2:] == (side, side):
        return x
    return F.interpolate(x, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def _prepared(x: Tensor) -> Tensor:
    if isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] == 1:
        x = x.expand(-1, 3, -1, -1)
    if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[1] != 3 or len(x) == 0:
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"Pictures (N, 3, H, W) or (N, 1, H, W) in [-1, 1] are wanted, at least one, not {shape}.")
    if fault := data.pixel_fault(x):
        raise ValueError(f"Pictures in [-1, 1] are wanted, {fault}.")
    return (x.detach().float().cpu().clamp(-1, 1) + 1) / 2


@torch.no_grad()
def image_features(x: Tensor, side: int = SIDE, batch_size: int = 32) -> Tensor:
    """Features (N, 1280), float32, of pictures (N, 3, H, W) or grey ones (N, 1, H, W) in [-1, 1] of any size.

    Args:
        side: pixels a side that the pictures are resized to. 224 is what the network was trained on; 96 is about
            five times as fast. Compare only features of one side.
    """
    with torch.autocast("cpu", enabled=False):
        parts = [network().features(resized(_prepared(part), side)) for part in x.split(batch_size)]
    return torch.cat(parts)


@torch.no_grad()
def class_probabilities(x: Tensor, side: int = SIDE, batch_size: int = 32) -> Tensor:
    """Softmax (N, 1000) over the classes of ImageNet for pictures as in `image_features`."""
    with torch.autocast("cpu", enabled=False):
        parts = [network()(resized(_prepared(part), side)).softmax(dim=1) for part in x.split(batch_size)]
    return torch.cat(parts)
