"""Photographs that ship with the course, and a network that has seen ImageNet to look at them with.

The photographs are CC0, CC BY or in the public domain, reduced until they are sharp; MANIFEST.json names their authors.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor

from .data import ASSETS, DataError, weights

FOLDER = ASSETS / "photographs"
# name, author, licence; by split. Those of one split are not in the other, nor another shot of the same thing.
PHOTOGRAPHS = {
    "train": {
        "brook": ("Aitzol Berasategi", "CC BY 4.0"),
        "mountains": ("Aitzol Berasategi", "CC BY 4.0"),
        "meadow": ("Aitzol Berasategi", "CC BY 4.0"),
        "evening": ("Aitzol Berasategi", "CC BY 4.0"),
        "brushes": ('Trevor "Freespace"', "CC BY 4.0"),
        "drum": ("Jakub Mede", "CC BY 4.0"),
    },
    "test": {
        "fig": ('Trevor "Freespace"', "CC BY 4.0"),
        "dogs": ("Aitzol Berasategi", "CC BY 4.0"),
        "dandelion": ("Clemens Engelhardt", "CC0"),
        "astronaut": ("NASA", "public domain"),
        "cat": ("Stéfan van der Walt", "CC0"),
        "coffee": ("Rachel Michetti", "CC0"),
    },
}


@dataclass(frozen=True)
class Photograph:
    """A picture with its name, author and licence; `x` is float32 (3, H, W) in [0, 1]."""

    name: str
    x: Tensor
    author: str
    licence: str


def photographs(split: str = "train") -> list[Photograph]:
    """The photographs of one split: 6 for training with up to 960 pixels a side, 6 others for testing with up to 512.

    Heights and widths are multiples of 4.

    Raises:
        ValueError: unknown split.
        DataError: a file is damaged or missing.
    """
    if split not in PHOTOGRAPHS:
        raise ValueError(f"There is no split {split!r} of the photographs: choose 'train' or 'test'.")
    found = []
    for name, (author, licence) in PHOTOGRAPHS[split].items():
        path = FOLDER / f"{name}.jpg"
        try:
            x = pil_to_tensor(Image.open(path).convert("RGB")).float() / 255
        except OSError as error:
            raise DataError(
                f"The photograph {path.name} cannot be read ({error}): install the course again."
            ) from error
        found.append(Photograph(name, x, author, licence))
    return found


# --- a network to look with ---------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    """One block of EfficientNet-Lite: widen, filter each channel, narrow; ReLU6 after the first two only.

    Its batch normalisation is folded into the convolutions. Padding is TensorFlow's "same", as in training.
    """

    def __init__(self, channels: int, out: int, expand: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner, self.stride = channels * expand, stride
        self.expand = nn.Conv2d(channels, inner, 1) if expand > 1 else None
        self.depthwise = nn.Conv2d(inner, inner, kernel, stride, groups=inner)
        self.project = nn.Conv2d(inner, out, 1)
        self.skips = stride == 1 and channels == out

    def widened(self, x: Tensor) -> Tensor:
        """The first convolution's output, before its activation."""
        return x if self.expand is None else self.expand(x)

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.expand is None else F.relu6(self.expand(x))
        h = self.project(F.relu6(self.depthwise(same(h, self.depthwise.kernel_size[0], self.stride))))
        return x + h if self.skips else h


def same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """x padded with zeros so that a convolution without padding gives ceil(size / stride): TensorFlow's "same"."""
    sides = []
    for size in (x.shape[-1], x.shape[-2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        sides += [total // 2, total - total // 2]
    return F.pad(x, sides)


class LookingNet(nn.Module):
    """The first five stages of EfficientNet-Lite0, which was trained on ImageNet.

    `forward(x)` of pictures (N, 3, H, W) in [0, 1] gives the outputs of the five stages, a list: 16, 24, 40, 80 and
    112 channels at 1/2, 1/4, 1/8, 1/16 and 1/16 of the size.
    """

    # blocks, channels, widening, kernel, stride of each stage (Tan and Le 2019, table 1; the Lite0 variant)
    STAGES = ((1, 16, 1, 3, 1), (2, 24, 6, 3, 2), (2, 40, 6, 5, 2), (3, 80, 6, 3, 2), (3, 112, 6, 5, 1))

    def __init__(self) -> None:
        super().__init__()
        self.stem, channels, stages = nn.Conv2d(3, 32, 3, 2), 32, []
        for blocks, out, expand, kernel, stride in self.STAGES:
            stage = [Bottleneck(channels if i == 0 else out, out, expand, kernel, stride if i == 0 else 1)
                     for i in range(blocks)]  # fmt: skip
            stages.append(nn.Sequential(*stage))
            channels = out
        self.stages = nn.ModuleList(stages)

    def begin(self, x: Tensor) -> Tensor:
        """The stem's output (N, 32, H/2, W/2)."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"Pictures (N, 3, H, W) in [0, 1] are wanted, not {tuple(x.shape)}.")
        return F.relu6(self.stem(same((x * 255 - 127) / 128, 3, 2)))

    def forward(self, x: Tensor) -> list[Tensor]:
        h, found = self.begin(x), []
        for stage in self.stages:
            h = stage(h)
            found.append(h)
        return found


def looking_net() -> LookingNet:
    """LookingNet with its ImageNet weights, in eval mode, frozen, on the CPU."""
    net = LookingNet()
    net.load_state_dict(weights("efficientnet_lite0_stages"))
    return net.eval().requires_grad_(False)
