"""What notebook 07 exports and its helpers, against scikit-image, spandrel and ncnn's own files."""

from __future__ import annotations

import json
import struct

import hub_standin
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from course_utils import data, photographs, realesrgan
from course_utils.lessons import nb07_super_resolution as nb07


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    """Two originals (2, 3, 96, 96) and what bicubic makes of a quarter."""
    y = torch.stack([nb07.centre_crop(p.x, 96) for p in photographs.photographs("test")[:2]])
    return nb07.enlarge(nb07.downscale(y), "bicubic").clamp(0, 1), y


def rescaled(net: nn.Module) -> nn.Module:
    """The same network with first weights of an ordinary size, so that no layer is silent."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=0.2)
            nn.init.normal_(layer.bias, std=0.1)
    return net.eval()


# --- measures -----------------------------------------------------------------------------------------------


def test_psnr_and_ssim_are_scikit_images(pair) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    x, y = pair
    inside = [z[..., 4:-4, 4:-4].numpy() for z in pair]
    psnr, ssim = nb07.psnr(x, y), nb07.ssim(x, y)
    for i, (a, b) in enumerate(zip(*inside)):
        assert abs(psnr[i].item() - metrics.peak_signal_noise_ratio(b, a, data_range=1)) < 1e-3
        theirs = metrics.structural_similarity(
            b, a, data_range=1, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert abs(ssim[i].item() - theirs) < 1e-4


def test_the_y_channel_is_scikit_images(pair) -> None:
    color = pytest.importorskip("skimage.color")
    theirs = color.rgb2ycbcr(pair[1].permute(0, 2, 3, 1).numpy())[..., 0] / 255
    assert np.abs(nb07.luma(pair[1])[:, 0].numpy() - theirs).max() < 1e-5


def test_downscaling_is_pillows(pair) -> None:
    plane = pair[1][0, 0]
    theirs = Image.fromarray(plane.numpy(), "F").resize((24, 24), Image.Resampling.BICUBIC)
    assert np.abs(nb07.downscale(pair[1][:1])[0, 0].numpy() - np.clip(theirs, 0, 1)).max() < 1e-4


@pytest.mark.parametrize("how", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_enlarging_a_flat_picture_changes_nothing(how: str) -> None:
    assert torch.allclose(nb07.enlarge(torch.full((2, 3, 5, 7), 0.3), how), torch.full((2, 3, 20, 28), 0.3), atol=1e-5)


# --- RRDBNet ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [4, 2])
def test_our_weights_load_in_spandrel_and_theirs_in_ours(scale: int) -> None:
    spandrel = pytest.importorskip("spandrel")
    ours = rescaled(nb07.RRDBNet(num_feat=16, num_block=2, num_grow_ch=32, scale=scale))
    theirs = spandrel.ModelLoader().load_from_state_dict(dict(ours.state_dict()))
    assert theirs.architecture.id == "ESRGAN" and theirs.scale == scale
    x = torch.rand(1, 3, 12, 16)
    with torch.no_grad():
        a, b = ours(x), theirs.model.eval()(x)
    assert (a - b).abs().max() <= 1e-5 * a.abs().max()
    again = nb07.RRDBNet(num_feat=16, num_block=2, num_grow_ch=32, scale=scale)
    found = realesrgan.modern_names(theirs.model.state_dict())
    again.load_state_dict(found)
    with torch.no_grad():
        assert torch.equal(again(x), a)


def test_the_names_of_the_first_esrgan_are_mapped() -> None:
    net = nb07.RRDBNet(num_feat=8, num_block=2, num_grow_ch=4)
    old = {realesrgan.legacy_name(key, 2): value for key, value in net.state_dict().items()}
    assert "model.0.weight" in old and "model.1.sub.1.RDB3.conv5.0.bias" in old and "model.1.sub.2.weight" in old
    found = realesrgan.modern_names(old)
    assert all(torch.equal(found[key], value) for key, value in net.state_dict().items()) and len(found) == len(old)


def test_the_official_weights_fit_and_are_near_the_exact_ones() -> None:
    net = nb07.official()
    y = nb07.centre_crop(photographs.photographs("test")[5].x, 96)[None]
    x = nb07.downscale(y)
    with torch.no_grad():
        out = net(x)
    assert nb07.psnr(out, y) > 20 and nb07.psnr(out, nb07.enlarge(x, "bicubic").clamp(0, 1)) > 20


def test_the_official_weights_give_the_same_picture_in_spandrel() -> None:
    spandrel = pytest.importorskip("spandrel")
    ours = nb07.official()
    theirs = spandrel.ModelLoader().load_from_state_dict(dict(realesrgan.weights()))
    assert theirs.architecture.id == "ESRGAN" and theirs.scale == 4
    x = nb07.downscale(nb07.centre_crop(photographs.photographs("test")[4].x, 128)[None])  # (1, 3, 32, 32)
    with torch.no_grad():
        assert (ours(x) - theirs.model.eval()(x)).abs().max() <= 1e-5


def test_weights_in_8_bits_are_off_by_half_a_step_at_most() -> None:
    state = {"a.weight": torch.randn(5, 4, 3, 3), "a.bias": torch.randn(5)}
    again = realesrgan.from_8_bits(realesrgan.to_8_bits(state))
    step = state["a.weight"].abs().amax(dim=(1, 2, 3), keepdim=True) / 127
    assert ((again["a.weight"] - state["a.weight"]).abs() <= 0.501 * step).all()
    assert torch.allclose(again["a.bias"], state["a.bias"], atol=2e-3)


def ncnn_model() -> tuple[str, bytes, list[tuple[Tensor, Tensor]]]:
    """Two convolutions, the first in float16 with padding, the second in float32."""
    first, second = torch.randn(3, 1, 3, 3).half(), torch.randn(2, 3, 1, 1)
    biases = torch.randn(3), torch.randn(2)
    param = (
        "7767517\n4 4\nInput in 0 1 data\nConvolution a 1 1 data b 0=3 1=3 4=1 5=1 6=27 9=2 -23310=1,2e-1\n"
        "Interp up 1 1 b c 0=1 1=2.0\nConvolution z 1 1 c d 0=2 1=1 4=0 5=1 6=6\n"
    )
    half = first.numpy().tobytes()
    content = struct.pack("<I", 0x01306B47) + half + bytes(-len(half) % 4) + biases[0].numpy().tobytes()
    content += struct.pack("<I", 0) + second.numpy().tobytes() + biases[1].numpy().tobytes()
    return param, content, [(first.float(), biases[0]), (second, biases[1])]


def test_ncnns_files_are_read_to_the_last_byte() -> None:
    param, content, wanted = ncnn_model()
    found = list(realesrgan.read_ncnn(param, content))
    assert all(torch.equal(a, b) for pair in zip(found, wanted) for a, b in zip(*pair)) and len(found) == 2


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda param, content: (param[1:], content), "begin with 7767517"),
        (lambda param, content: (param, content + b"1234"), "4 bytes are left"),
        (lambda param, content: (param, content[:40]), "do not belong together"),
        (lambda param, content: (param, b"\x01\x02\x03\x04" + content[4:]), "does not know"),
    ],
)
def test_what_is_no_model_of_ncnn_is_one_sentence(spoil, said) -> None:
    param, content, _ = ncnn_model()
    with pytest.raises(data.DataError, match=said):
        list(realesrgan.read_ncnn(*spoil(param, content)))


# --- tiles and pictures of one's own ------------------------------------------------------------------------


def test_tiles_with_enough_overlap_are_the_whole() -> None:
    net = rescaled(nb07.RRDBNet(num_feat=4, num_block=1, num_grow_ch=4))
    x = torch.rand(1, 3, 50, 41)
    with torch.no_grad():
        whole = net(x)
    tiled = nb07.in_tiles(net, x, tile=24, overlap=19)
    assert (tiled - whole).abs().max() <= 1e-5 * whole.abs().max()
    assert (nb07.in_tiles(net, x, tile=24, overlap=0) - whole).abs().max() > 1e-3 * whole.abs().max()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "LA"])
def test_a_picture_of_any_mode_grows_fourfold(mode: str) -> None:
    net = nb07.OnBicubic(nb07.RRDBNet(num_feat=4, num_block=1, num_grow_ch=4))
    picture = Image.new("RGBA", (9, 7), (200, 100, 50, 128)).convert(mode)
    grown = nb07.upscale(picture, net, tile=5, overlap=3)
    assert grown.size == (36, 28) and grown.mode == ("RGBA" if "A" in mode else "RGB")
    if "A" in mode:
        assert np.asarray(grown)[..., 3].min() == np.asarray(grown)[..., 3].max() == 128


# --- photographs and the network that looks -----------------------------------------------------------------


def test_photographs_of_the_two_splits_are_different_and_well_shaped() -> None:
    splits = [photographs.photographs(split) for split in ("train", "test")]
    names = [{p.name for p in split} for split in splits]
    assert not names[0] & names[1] and all(len(split) == 6 for split in splits)
    for p in splits[0] + splits[1]:
        assert p.x.shape[0] == 3 and p.x.shape[1] % 4 == p.x.shape[2] % 4 == 0 and min(p.x.shape[1:]) >= 256
        assert p.x.min() >= 0 and p.x.max() <= 1 and p.author and p.licence in ("CC BY 4.0", "CC0", "public domain")
    with pytest.raises(ValueError, match="choose 'train' or 'test'"):
        photographs.photographs("validation")


def test_the_distances_are_0_for_the_same_picture_and_grow_with_blur(pair) -> None:
    looking, y = photographs.looking_net(), pair[1]
    for distance in (nb07.feature_distance, nb07.statistics_distance):
        found = [distance(looking, x, y).mean().item() for x in (y, nb07.blur(y, 0.7), nb07.blur(y, 2.0))]
        assert found[0] < 1e-6 < found[1] < found[2]


def test_the_looking_net_has_five_stages_and_halves_as_tensorflow_does() -> None:
    shapes = [tuple(f.shape[1:]) for f in photographs.looking_net()(torch.rand(1, 3, 65, 64))]
    assert shapes == [(16, 33, 32), (24, 17, 16), (40, 9, 8), (80, 5, 4), (112, 5, 4)]


# --- training -----------------------------------------------------------------------------------------------


def test_before_training_the_model_is_nearly_bicubic_and_mixing_ends_at_both_networks() -> None:
    model, x = nb07.OnBicubic(nb07.RRDBNet(num_feat=4, num_block=1, num_grow_ch=4)), torch.rand(1, 3, 8, 8)
    assert (model(x) - nb07.enlarge(x, "bicubic")).abs().max() < 0.01
    other = rescaled(nb07.OnBicubic(nb07.RRDBNet(num_feat=4, num_block=1, num_grow_ch=4)))
    for alpha, end in ((0.0, model), (1.0, other)):
        found = nb07.mixed(model, other, alpha)
        assert all(torch.allclose(found[key], value) for key, value in end.state_dict().items())
    with pytest.raises(ValueError, match="different shapes"):
        nb07.mixed(model, nb07.OnBicubic(nb07.RRDBNet(num_feat=8, num_block=1, num_grow_ch=4)), 0.5)


def test_crops_are_pairs() -> None:
    x, y = nb07.crops_of([p.x for p in photographs.photographs("train")[:2]], batch_size=5, side=12)()
    assert x.shape == (5, 3, 12, 12) and y.shape == (5, 3, 48, 48)
    inside = slice(3, -3)  # the small picture's edge looked beyond the crop
    assert (nb07.downscale(y) - x)[..., inside, inside].abs().max() < 1e-3


def test_the_shipped_networks_beat_bicubic_each_in_its_measure() -> None:
    y = torch.stack([nb07.centre_crop(p.x, 128) for p in photographs.photographs("test")])
    x, looking = nb07.downscale(y), photographs.looking_net()
    with torch.no_grad():
        outs = [nb07.enlarge(x, "bicubic"), nb07.trained("l1")(x), nb07.trained("gan")(x)]
    dB = [nb07.psnr(out, y).mean().item() for out in outs]
    far = [nb07.statistics_distance(looking, out, y).mean().item() for out in outs]
    assert dB[1] > dB[0] + 0.8 and far[2] < far[1] < far[0]


# --- the diffusion upscaler for clothes ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def clothes() -> tuple[Tensor, Tensor]:
    """64 small clothes (64, 1, 14, 14) that the network never saw, and the large ones."""
    y = (data.images("fashion_mnist", "test").x[:64] + 1) / 2
    return nb07.downscale(y, 2), y


def test_the_untrained_upscaler_knows_no_small_picture_and_the_trained_one_does(clothes) -> None:
    x, y = clothes
    noise, level = torch.randn_like(y), torch.full((64,), nb07.T - 1)
    for net, differs in ((nb07.clothes_unet(), False), (nb07.diffusion_upscaler(), True)):
        with torch.no_grad():
            first, second = (nb07.beside(net, nb07.enlarge(z, "bicubic", 2))(noise, level) for z in (x, x.flip(0)))
        assert torch.equal(first, second) != differs


def test_other_noise_is_another_picture_the_same_noise_the_same_in_any_batches(clothes) -> None:
    x, net = clothes[0][:6], nb07.diffusion_upscaler()
    rngs = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    whole, parts, other = (nb07.sample_large(net, x, rng, 2, batch_size=n) for rng, n in zip(rngs, (6, 4, 6)))
    assert whole.shape == (6, 1, 28, 28) and whole.min() >= 0 and whole.max() <= 1
    assert torch.allclose(whole, parts, atol=1e-4) and (whole - other).abs().mean() > 1e-3


def test_the_mean_of_samples_is_nearer_than_one_and_both_beat_chance(clothes) -> None:
    x, y = clothes
    net = nb07.diffusion_upscaler()
    samples = [nb07.sample_large(net, x, torch.Generator().manual_seed(seed), 6) for seed in range(4)]
    one, mean = (nb07.psnr(z, y, 2).mean().item() for z in (samples[0], torch.stack(samples).mean(dim=0)))
    shuffled = nb07.psnr(samples[0].roll(1, dims=0), y, 2).mean().item()
    in_one_step = nb07.sample_large(net, x, torch.Generator().manual_seed(9), 1)
    assert mean > one + 0.5 and one > shuffled + 3
    assert nb07.psnr(in_one_step, y, 2).mean() > nb07.psnr(nb07.enlarge(x, "bicubic", 2), y, 2).mean() + 1


def test_the_distance_of_patches_is_0_for_one_set_and_sees_blur_and_noise() -> None:
    y = (data.images("fashion_mnist", "test").x[:128] + 1) / 2  # 2,048 patches
    spoilt = [y, nb07.blur(y, 0.5), nb07.blur(y, 1.0)]
    found = [nb07.patch_distance(y, z) for z in spoilt]
    assert found[0] < 1e-3 < found[1] < found[2]
    assert nb07.patch_distance(y, y + 0.1 * torch.randn_like(y)) > found[0] + 1


def test_the_stored_table_has_both_parts_paired() -> None:
    rows = json.loads((data.ASSETS / "super_resolution.json").read_text("utf-8"))
    means = [row for row in rows if row["part"] == "means"]
    assert means and all(len(row[name]) == 4 for row in means for name in ("psnr", "fd", "patches"))
    seeds = [sorted(row["seed"] for row in rows if row.get("active") == active) for active in (0, 1)]
    assert seeds[0] == seeds[1] and seeds[0]


def test_after_the_activation_the_perceptual_loss_is_another_one_and_0_for_the_same_picture(pair) -> None:
    looking = photographs.looking_net()
    with torch.no_grad():
        losses = [nb07.perceptual_loss(looking, *pair, active=active).item() for active in (False, True)]
        assert nb07.perceptual_loss(looking, pair[1], pair[1], active=True) == 0
    assert abs(losses[0] - losses[1]) > 0.01


def test_the_loss_is_that_of_what_bicubic_lacks(clothes) -> None:
    x, y = clothes
    silent = nb07.clothes_unet()  # its last convolution is zero, so that it puts out v = 0
    losses = [nb07.lack_loss(silent, x, y).item() for _ in range(8)]
    assert 0.7 < sum(losses) / 8 < 1.3  # v has about size 1 where LACK is the standard deviation
    with torch.no_grad():
        assert nb07.lack_loss(nb07.diffusion_upscaler(), x, y) < 0.9 * sum(losses) / 8


def test_the_librarys_upscaling_pipeline_enlarges_fourfold(tmp_path) -> None:
    diffusers = pytest.importorskip("diffusers")
    parts = hub_standin.tiny_stable_diffusion(tmp_path / "stable")
    stable = diffusers.StableDiffusionPipeline.from_pretrained(parts)
    unet = diffusers.UNet2DConditionModel.from_config(
        {**stable.unet.config, "in_channels": 7, "num_class_embeds": 1000}
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8), norm_num_groups=4, down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3, sample_size=32, scaling_factor=0.08333,
    )  # fmt: skip
    diffusers.StableDiffusionUpscalePipeline(
        vae=vae, text_encoder=stable.text_encoder, tokenizer=stable.tokenizer, unet=unet,
        low_res_scheduler=diffusers.DDPMScheduler(), scheduler=diffusers.DDIMScheduler(prediction_type="v_prediction"),
    ).save_pretrained(tmp_path / "upscaler")  # fmt: skip
    pipe, x = nb07.library_upscaler(str(tmp_path / "upscaler"), torch.device("cpu")), torch.rand(3, 16, 24)
    grown = [nb07.by_library(pipe, x, torch.Generator().manual_seed(seed), num_steps=2) for seed in (0, 0, 1)]
    assert grown[0].shape == (3, 64, 96) and grown[0].min() >= 0 and grown[0].max() <= 1
    assert torch.equal(grown[0], grown[1]) and not torch.equal(grown[0], grown[2])


# --- what does not fit is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: nb07.RRDBNet(scale=3), "1, 2 or 4 times, not 3"),
        (lambda: nb07.RRDBNet(num_block=1)(torch.zeros(1, 1, 8, 8)), r"\(N, 3, H, W\) are wanted"),
        (lambda: nb07.RRDBNet(num_block=1, scale=2)(torch.zeros(1, 3, 7, 8)), "multiples of 2"),
        (lambda: nb07.centre_crop(torch.zeros(3, 10, 10), 12), "does not fit"),
        (lambda: photographs.looking_net()(torch.zeros(1, 1, 8, 8)), r"\(N, 3, H, W\) in \[0, 1\]"),
    ],
)
def test_what_does_not_fit_is_one_sentence(ask, said) -> None:
    with pytest.raises(ValueError, match=said) as refusal:
        ask()
    assert "\n" not in str(refusal.value)
