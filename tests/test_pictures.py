"""Pictures with their settings: what is written comes back, what is made again is the same, what is marked is found."""

import errno
import io
import json
import math
import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import diffusers
import matplotlib.cbook
import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import nn

from course_utils import data, pictures
from course_utils.pictures import PictureError

SETTINGS = {"seed": 3, "steps": 10, "guidance": 1.5, "scheduler": "DDIMScheduler", "model": "noise", "prompt": "Ärmel"}
SHAPES = [(1, 28, 28), (3, 28, 28), (3, 64, 40), (1, 17, 301), (3, 20, 1200)]


def noise(settings: dict) -> torch.Tensor:
    """A smooth picture that depends on the seed, in [-1, 1]."""
    generator = torch.Generator().manual_seed(settings["seed"])
    coarse = torch.rand(1, settings.get("channels", 1), 7, 7, generator=generator) * 2 - 1
    return nn.functional.interpolate(coarse, size=settings.get("side", 28), mode="bilinear")[0]


def any_picture(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Every level of grey, on the grid of bytes, as `data.to_unit_range` makes it."""
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).byte()
    return pixels.float().div_(127.5).sub_(1.0)


def clothes(n: int) -> torch.Tensor:
    return data.to_unit_range(data.embedded("fashion_mnist", "test")[0][:n])


def photographs(side: int, n: int) -> list[Image.Image]:
    """Crops of 256 x 256 of a photograph that comes with matplotlib, made smaller."""
    whole = Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg")).convert("RGB")
    random = np.random.default_rng(0)
    corners = [(random.integers(0, whole.width - 256), random.integers(0, whole.height - 256)) for _ in range(n)]
    return [whole.crop((x, y, x + 256, y + 256)).resize((side, side), Image.Resampling.LANCZOS) for x, y in corners]


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return 10 * math.log10(4 / (a - b).square().mean().item())


def refused(function, *args, **kwargs) -> str:
    """The one sentence with which a call is refused."""
    with pytest.raises(PictureError) as caught:
        function(*args, **kwargs)
    said = str(caught.value)
    assert isinstance(caught.value, ValueError) and said.endswith(".") and "\n" not in said
    assert re.search(r"[:,] ", said), "names no cure"
    return said


def rewrite(path: Path, **changes) -> None:
    """Change the record in a file and leave its pixels."""
    with Image.open(path) as image:
        record, pixels = json.loads(image.text[pictures.CHUNK]), image.copy()
    chunks = PngInfo()
    chunks.add_itxt(pictures.CHUNK, json.dumps(record | changes))
    pixels.save(path, pnginfo=chunks)


# ---------------------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("visible", [False, True])
def test_a_picture_and_its_settings_come_back_bit_for_bit(tmp_path, shape, visible) -> None:
    picture = any_picture(shape)
    path = pictures.save(picture, tmp_path / "deep" / "er" / "a.png", SETTINGS, kind="toy", visible=visible)
    back, settings = pictures.load(path)
    assert torch.equal(back, picture) and back.dtype == torch.float32 and back.is_contiguous()
    assert settings == pictures.settings_of(path) == SETTINGS
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_all_256_levels_come_back_and_others_go_to_the_nearest(tmp_path) -> None:
    levels = torch.arange(256).byte().reshape(1, 16, 16)
    exact = data.to_unit_range(levels)[0]
    back, _ = pictures.load(pictures.save(exact, tmp_path / "a.png", {}, kind="toy"))
    assert torch.equal(back, exact)
    nudged = (exact + 0.4 / 127.5).clamp(-1, 1)
    assert torch.equal(pictures.load(pictures.save(nudged, tmp_path / "a.png", {}, kind="toy"))[0], exact)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_pillow_image_is_taken_as_it_is(tmp_path, mode) -> None:
    image = photographs(32, 1)[0].convert(mode)
    path = pictures.save(image, tmp_path / "a.png", SETTINGS, kind="drawing")
    with Image.open(path) as stored:
        assert stored.mode == mode and stored.tobytes() == image.tobytes()
    again = pictures.save(pictures.load(path)[0], tmp_path / "b.png", SETTINGS, kind="drawing")
    assert again.read_bytes() == path.read_bytes()


def test_the_dtype_device_and_gradient_of_a_picture_do_not_matter(tmp_path) -> None:
    picture = torch.zeros(1, 4, 4, dtype=torch.float64).fill_(1 / 255).requires_grad_()
    back, _ = pictures.load(pictures.save(picture.bfloat16(), tmp_path / "a.png", {}, kind="toy"))
    assert torch.equal(back, data.to_unit_range(torch.full((1, 4, 4), 128).byte())[0])


def test_plain_pillow_reads_everything(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pictures, "version", {"torch": "9.1", "diffusers": "9.2"}.__getitem__)
    path = pictures.save(any_picture((3, 20, 30)), tmp_path / "a.png", SETTINGS, kind="face")
    with Image.open(path) as image:
        record = json.loads(image.text["generation"])
    assert record == pictures.record_of(path)
    assert record["settings"] == SETTINGS and record["kind"] == "face" and record["size"] == [20, 30, 3]
    assert record["marks"] == {"visible": True, "invisible": True}
    assert record["versions"] == {"torch": "9.1", "diffusers": "9.2"}
    assert (
        record["sha256"]
        == pictures.hashlib.sha256(
            any_picture((3, 20, 30)).add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy().tobytes()
        ).hexdigest()
    ), "of the unmarked picture"


def test_the_real_versions_and_a_library_that_is_missing(tmp_path, monkeypatch) -> None:
    path = pictures.save(any_picture((1, 4, 4)), tmp_path / "a.png", {}, kind="toy")
    found = pictures.record_of(path)["versions"]
    assert found["diffusers"] == diffusers.__version__ and torch.__version__.startswith(found["torch"])

    def only_torch(name: str) -> str:
        if name != "torch":
            raise PackageNotFoundError(name)
        return "9.1"

    monkeypatch.setattr(pictures, "version", only_torch)
    pictures.save(any_picture((1, 4, 4)), path, {}, kind="toy")
    assert pictures.record_of(path)["versions"] == {"torch": "9.1"}


# ------------------------------------------------------------------------------------------------------- marks


@pytest.mark.parametrize(
    ("kind", "on"), [("toy", False), ("drawing", False), ("photo", True), ("face", True), ("medical", True)]
)
def test_the_kind_decides_and_the_author_overrides(tmp_path, kind, on) -> None:
    picture = noise({"seed": 0})
    for given in (None, True, False):
        path = pictures.save(picture, tmp_path / "a.png", {}, kind=kind, visible=given, invisible=given)
        wanted = on if given is None else given
        assert pictures.record_of(path)["marks"] == {"visible": wanted, "invisible": wanted}
        assert pictures.is_marked(pictures.load(path)[0]) == wanted
        with Image.open(path) as image:
            assert (image.size != (28, 28)) == wanted


@pytest.mark.parametrize("shape", SHAPES)
def test_the_label_is_below_legible_and_leaves_the_picture_alone(tmp_path, shape) -> None:
    picture = any_picture(shape)
    path = pictures.save(picture, tmp_path / "a.png", {}, kind="toy", visible=True)
    record, height, width = pictures.record_of(path), *shape[1:]
    factor, strip = record["enlarged"], record["strip"]
    with Image.open(path) as image:
        pixels = np.atleast_3d(np.asarray(image))
    assert pixels.shape == (height * factor + strip, width * factor, shape[0])
    plain = np.atleast_3d(pixels[:-strip])
    shown = picture.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    assert torch.equal(torch.tensor(plain).permute(2, 0, 1).float() / 127.5 - 1, shown)
    dot = strip // 12
    assert dot >= 2 and strip == 12 * dot, "letters are 14 pixels high or more"
    assert factor == 1 or width * (factor - 1) < 69 * 2, "enlarged more than the label needs"
    words = pixels[height * factor :][dot // 2 :: dot, dot // 2 :: dot]
    assert (words == words[..., :1]).all()
    read = ["".join(".#"[value // 255] for value in row) for row in words[2:10, 2:67, 0]]
    assert read == pictures.LABEL
    assert (words.sum((0, 2)) > 0).sum() == sum(any(row[i] == "#" for row in pictures.LABEL) for i in range(65))


def test_the_label_has_twelve_letters() -> None:
    """Columns without ink part the letters: A, I, -, g, e, n, e, r, a, t, e, d."""
    columns = "".join("#" if "#" in column else " " for column in map("".join, zip(*pictures.LABEL)))
    assert [len(letter) for letter in columns.split()] == [5, 3, 3, 5, 5, 5, 5, 4, 5, 4, 5, 5]


def test_every_marked_picture_is_found_and_only_under_its_key(tmp_path) -> None:
    scores, wrong, quality = [], [], []
    for i, picture in enumerate(clothes(200)):
        path = tmp_path / f"{i}.png"
        back, _ = pictures.load(pictures.save(picture, path, {}, kind="photo", visible=False))
        scores.append(pictures.mark_strength(back))
        wrong.append(pictures.mark_strength(back, "another key"))
        quality.append(psnr(back, picture))
    assert min(scores) >= pictures.TARGET
    assert max(wrong) < pictures.THRESHOLD and abs(np.mean(wrong)) < 0.5 and 0.8 < np.std(wrong) < 1.2
    assert np.mean(quality) > 33 and min(quality) > 22


def test_without_mark_with_another_key_or_turned_it_is_not_found() -> None:
    assert pictures.is_marked(clothes(1)[0]) is False
    marked = pictures._watermarked(pictures._levels(clothes(1)[0]), "mine")
    assert pictures.is_marked(pictures._tensor(marked), "mine") is True
    assert not pictures.is_marked(pictures._tensor(marked))
    assert not pictures.is_marked(pictures._tensor(marked[::-1].copy()), "mine"), "upside down it is hidden"


def test_unmarked_clothes_score_like_a_standard_normal() -> None:
    scores = np.array([pictures.mark_strength(picture) for picture in clothes(2000)])
    assert (scores >= pictures.THRESHOLD).sum() == 0
    assert abs(scores.mean()) < 0.4 and 0.9 < scores.std() < 1.1
    other_keys = [pictures.mark_strength(clothes(1)[0], f"key {i}") for i in range(1000)]
    assert abs(np.mean(other_keys)) < 0.1 and 0.93 < np.std(other_keys) < 1.07  # 3 standard errors


@pytest.mark.parametrize(("side", "least"), [(28, 27), (64, 37), (256, 41.5)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_mark_in_photographs(tmp_path, side, least, mode) -> None:
    for image in photographs(side, 8):
        path = pictures.save(image.convert(mode), tmp_path / "a.png", {}, kind="photo")
        plain = pictures.save(image.convert(mode), tmp_path / "b.png", {}, kind="drawing")
        back, before = pictures.load(path)[0], pictures.load(plain)[0]
        assert pictures.mark_strength(back) >= pictures.TARGET and not pictures.is_marked(before)
        assert not pictures.is_marked(back, "another key")
        assert psnr(back, before) > least


def test_the_mark_of_a_large_photograph_survives_jpeg(tmp_path) -> None:
    for image in photographs(256, 4):
        back, _ = pictures.load(pictures.save(image, tmp_path / "a.png", {}, kind="photo"))
        packed = io.BytesIO()
        Image.fromarray(pictures._levels(back)).save(packed, "JPEG", quality=75)
        assert pictures.is_marked(Image.open(packed))


def test_all_channels_move_alike_and_stay_in_range(tmp_path) -> None:
    picture = any_picture((3, 32, 32)) * 0.5
    moved = pictures._levels(pictures.load(pictures.save(picture, tmp_path / "a.png", {}, kind="photo"))[0]).astype(int)
    moved -= pictures._levels(picture)
    assert moved.any() and (moved == moved[..., :1]).all()


def test_a_colour_picture_scores_by_its_luminance() -> None:
    image = Image.fromarray(pictures._levels(any_picture((3, 64, 64))))
    grey = image.convert("L")  # of the same weights, rounded
    assert pictures.mark_strength(image) == pytest.approx(pictures.mark_strength(grey), abs=0.1)
    assert abs(pictures.mark_strength(image) - pictures.mark_strength(image.getchannel("R"))) > 0.2


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_a_flat_picture_is_marked_and_unmarked_it_scores_nothing(tmp_path, value) -> None:
    flat = torch.full((3, 28, 28), value)
    assert abs(pictures.mark_strength(flat)) < 0.01
    assert pictures.is_marked(pictures.load(pictures.save(flat, tmp_path / "a.png", {}, kind="photo"))[0])


def test_the_mark_lies_in_the_middle_frequencies() -> None:
    flat = np.full((64, 64, 1), 128, np.uint8)
    change = pictures._watermarked(flat, pictures.KEY)[..., 0] - 128.0
    energy = pictures.dctn(change, norm="ortho") ** 2
    radius = np.hypot(*np.indices((64, 64)) / 64)
    inside = (radius >= pictures.BAND[0]) & (radius < pictures.BAND[1])
    assert energy[inside].sum() > 0.95 * energy.sum(), "but for rounding"


def test_pictures_that_cannot_carry_the_mark(tmp_path) -> None:
    path = tmp_path / "a.png"
    small = torch.zeros(1, 15, 40)
    for said in (refused(pictures.save, small, path, {}, kind="photo"), refused(pictures.mark_strength, small)):
        assert said.startswith("The picture is 15 x 40 and the invisible mark needs 16 x 16: enlarge it, or save it")
    pictures.save(torch.zeros(1, 16, 16), path, {}, kind="photo")
    busy = torch.randint(0, 2, (1, 16, 16), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    assert "too busy to carry the invisible mark" in refused(pictures.save, busy, tmp_path / "b.png", {}, kind="photo")
    pictures.save(busy, path, {}, kind="photo", invisible=False)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


# --------------------------------------------------------------------------------------------------- made again


MARKS = [{"kind": "toy"}, {"kind": "photo"}, {"kind": "face", "visible": False}, {"kind": "toy", "visible": True}]


@pytest.mark.parametrize("marks", MARKS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_settings_make_the_same_picture(tmp_path, marks, channels) -> None:
    settings = SETTINGS | {"channels": channels}
    path = pictures.save(noise(settings), tmp_path / "a.png", settings, **marks)
    result = pictures.regenerate(path, {"noise": noise, "other": None})
    assert result.identical is True and result.largest_difference == 0
    assert result.report == "a.png was made again, the same in every pixel."
    plain = pictures.save(noise(settings), tmp_path / "b.png", settings, kind="toy")
    assert torch.equal(result.picture, pictures.load(plain)[0]), "without marks, on the levels of a file"


@pytest.mark.parametrize("marks", MARKS)
def test_other_settings_make_another_picture(tmp_path, marks) -> None:
    path = pictures.save(noise(SETTINGS), tmp_path / "a.png", SETTINGS, **marks)
    rewrite(path, settings=SETTINGS | {"seed": 4})
    result = pictures.regenerate(path, {"noise": noise})
    assert result.identical is False and result.largest_difference > 50
    assert result.report == f"a.png was made again and differs by up to {result.largest_difference} of 255 grey levels."


def test_the_largest_difference_is_in_grey_levels(tmp_path) -> None:
    path = pictures.save(-torch.ones(1, 8, 8), tmp_path / "a.png", {"model": "m"}, kind="toy")
    nudged = -torch.ones(1, 8, 8)
    nudged[0, 2, 3] += 7 / 127.5
    assert pictures.regenerate(path, {"m": lambda settings: nudged}).largest_difference == 7


def test_another_key_and_a_changed_file_are_told_from_another_picture(tmp_path) -> None:
    path = pictures.save(noise(SETTINGS), tmp_path / "a.png", SETTINGS, kind="photo", key="mine")
    assert pictures.regenerate(path, {"noise": noise}, key="mine").identical
    result = pictures.regenerate(path, {"noise": noise})
    assert not result.identical and "another key or was changed since, by up to " in result.report
    assert not pictures.is_marked(pictures.load(path)[0]) and pictures.is_marked(pictures.load(path)[0], "mine")


def test_other_versions_are_named(tmp_path, monkeypatch) -> None:
    path = pictures.save(noise(SETTINGS), tmp_path / "a.png", SETTINGS, kind="toy")
    monkeypatch.setattr(pictures, "_versions", lambda: {"torch": "9.1"})
    then = " ".join(f"{name} {number}" for name, number in pictures.record_of(path)["versions"].items())
    report = pictures.regenerate(path, {"noise": noise}).report
    assert report.endswith(f"the same in every pixel; it was saved with {then}, and this is torch 9.1.")


def test_the_model_is_compared_by_its_hash(tmp_path) -> None:
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    settings = SETTINGS | {"model_hash": pictures.model_hash(model)}
    path = pictures.save(noise(settings), tmp_path / "a.png", settings, kind="toy")
    assert pictures.regenerate(path, {"noise": noise}, {"noise": model}).identical
    said = refused(pictures.regenerate, path, {"noise": noise}, {"noise": other})
    assert said.startswith(f"a.png stores {settings['model_hash']} as the hash of 'noise', and this model has ")
    assert pictures.model_hash(other) in said and "load the weights that made the picture" in said
    pictures.save(noise(SETTINGS), path, SETTINGS, kind="toy")
    assert "stores None as the hash" in refused(pictures.regenerate, path, {"noise": noise}, {"noise": model})


def test_what_cannot_be_made_again(tmp_path) -> None:
    path = pictures.save(noise(SETTINGS), tmp_path / "a.png", SETTINGS, kind="toy")
    unknown = "a.png names the model 'noise', and {} holds {}: add it there."
    assert refused(pictures.regenerate, path, {"gan": noise, "vae": noise}) == unknown.format("makers", "'gan', 'vae'")
    assert refused(pictures.regenerate, path, {"noise": noise}, {}) == unknown.format("models", "nothing")
    larger = refused(pictures.regenerate, path, {"noise": lambda settings: noise(settings | {"side": 32})})
    assert larger == "a.png is of size [28, 28, 1] and its maker made [32, 32, 1]: correct the maker."
    assert "A NoneType is no picture" in refused(pictures.regenerate, path, {"noise": lambda settings: None})
    pictures.save(noise(SETTINGS), path, {}, kind="toy")
    assert "names the model None" in refused(pictures.regenerate, path, {"noise": noise})


# ------------------------------------------------------------------------------------------------ hash of models


def test_the_hash_depends_on_values_names_shapes_and_types_only() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    first = pictures.model_hash(net)
    assert re.fullmatch("[0-9a-f]{16}", first)
    copy = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    assert pictures.model_hash(copy) != first
    copy.load_state_dict(net.state_dict())
    assert pictures.model_hash(copy.eval().requires_grad_(False)) == first
    copy[1].running_mean[0] += 1
    assert pictures.model_hash(copy) != first, "buffers count"
    hashes = {first, pictures.model_hash(net.bfloat16()), pictures.model_hash(net.half())}
    hashes |= {pictures.model_hash(nn.ModuleDict({"a": net})), pictures.model_hash(nn.ModuleDict({"b": net}))}
    assert len(hashes) == 5
    square, flat = nn.Module(), nn.Module()
    square.w, flat.w = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(4))
    assert pictures.model_hash(square) != pictures.model_hash(flat)
    one, two = nn.ModuleDict({"a": net[0], "b": net[2]}), nn.ModuleDict({"b": net[2], "a": net[0]})
    assert pictures.model_hash(one) == pictures.model_hash(two), "whatever was added first"


def test_the_hash_of_one_model_is_fixed() -> None:
    net = nn.Module()
    net.w = nn.Parameter(torch.tensor([[1.0, 2.0]]))
    wanted = pictures.hashlib.sha256(b"/w torch.float32 (1, 2)\n\x00\x00\x80?\x00\x00\x00@").hexdigest()[:16]
    assert pictures.model_hash(net) == wanted


def test_the_hash_of_a_pipeline_covers_its_networks() -> None:
    def pipeline(seed: int) -> diffusers.DDPMPipeline:
        torch.manual_seed(seed)
        blocks = dict(down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), block_out_channels=(4,))
        unet = diffusers.UNet2DModel(8, 1, 1, layers_per_block=1, norm_num_groups=2, add_attention=False, **blocks)
        return diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler())

    first = pipeline(0)
    assert pictures.model_hash(first) == pictures.model_hash(pipeline(0)) != pictures.model_hash(pipeline(1))
    first.scheduler = diffusers.DDIMScheduler()
    assert pictures.model_hash(first) == pictures.model_hash(pipeline(0)), "a scheduler has no weights"


def test_what_has_no_hash() -> None:
    class Odd(nn.Module):
        def get_extra_state(self):
            return {"step": 3}

    assert refused(pictures.model_hash, 3) == "A int has no weights to hash: give an nn.Module or a pipeline."
    assert refused(pictures.model_hash, Odd()).startswith("The state '_extra_state' is a dict, no tensor")


# ------------------------------------------------------------------------------------------------- what is wrong


def test_an_unknown_kind_and_a_name_that_is_no_png(tmp_path) -> None:
    picture = any_picture((1, 4, 4))
    said = refused(pictures.save, picture, tmp_path / "a.png", {}, kind="cartoon")
    assert said == "There is no kind 'cartoon' of picture: choose one of toy, drawing, photo, face, medical."
    assert "let it end in .png" in refused(pictures.save, picture, tmp_path / "a.jpg", {}, kind="toy")


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (torch.zeros(2, 1, 8, 8), "shape (1 or 3, H, W), not (2, 1, 8, 8): pick one of the batch"),
        (torch.zeros(2, 8, 8), "not (2, 8, 8)"),
        (torch.zeros(8, 8), "not (8, 8)"),
        (torch.zeros(1, 0, 8), "not (1, 0, 8)"),
        (torch.zeros(1, 8, 8).byte(), "A tensor of torch.uint8 is no picture: give a float tensor"),
        (np.zeros((8, 8)), "A ndarray is no picture"),
        (torch.full((1, 8, 8), 1.02), "The picture spans [1.02, 1.02], not [-1, 1]: use picture.clamp(-1, 1)."),
        (torch.full((1, 8, 8), float("nan")), "spans [nan, nan]"),
        (Image.new("RGBA", (8, 8)), "The picture is of mode RGBA: convert it to 'L' or 'RGB'."),
    ],
)
def test_what_is_no_picture(tmp_path, picture, said) -> None:
    assert said in refused(pictures.save, picture, tmp_path / "a.png", {}, kind="toy")
    assert said in refused(pictures.mark_strength, picture)
    assert not list(tmp_path.iterdir())


loop: list = []
loop.append(loop)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": nn.Identity()}, "no JSON (Object of type Identity is not JSON serializable): use finite numbers"),
        ({"seed": torch.tensor(3)}, "no JSON (Object of type Tensor"),
        ({"guidance": float("nan")}, "no JSON (Out of range float values"),
        ({"loop": loop}, "no JSON (Circular reference detected"),
        ({"size": (28, 28)}, "change in JSON: use a dict with text as keys, and lists instead of tuples"),
        ({"steps": {3: "three"}}, "change in JSON"),
        ([1, 2], "change in JSON"),
        (None, "change in JSON"),
    ],
)
def test_settings_that_do_not_come_back_are_refused(tmp_path, settings, said) -> None:
    refusal = refused(pictures.save, any_picture((1, 4, 4)), tmp_path / "a.png", settings, kind="toy")
    assert refusal.startswith("The settings ") and said in refusal
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"prompt": "日本 \x00 \n 'a' \ud800", "numbers": [1, 2.5e-8, None, True, {"": 2**70}]},
        {"latents": list(range(400_000))},
    ],
    ids=["none", "odd", "many"],
)
def test_unusual_settings_come_back(tmp_path, settings) -> None:
    path = pictures.save(any_picture((1, 4, 4)), tmp_path / "a.png", settings, kind="toy")
    assert pictures.settings_of(path) == settings


@pytest.mark.parametrize("reader", [pictures.load, pictures.settings_of, lambda path: pictures.regenerate(path, {})])
def test_files_that_are_not_ours(tmp_path, reader) -> None:
    path = tmp_path / "a.png"
    assert refused(reader, path) == "There is no picture a.png: save it first, or correct the path."
    assert refused(reader, tmp_path).startswith("There is no picture ")
    for content in (b"", b"\x89PNG", b"GIF89a", b"<html>"):
        path.write_bytes(content)
        assert refused(reader, path) == "a.png is no PNG: give a file that pictures.save wrote."
    Image.new("RGB", (8, 8)).save(path)
    assert refused(reader, path).startswith("a.png carries no settings: use a file that pictures.save wrote")


def test_a_file_cut_anywhere_or_with_a_changed_byte_is_damaged(tmp_path) -> None:
    path = pictures.save(noise(SETTINGS | {"side": 8}), tmp_path / "a.png", {"seed": 3}, kind="toy")
    whole, damaged = path.read_bytes(), "a.png is damaged or cut short: use another copy, or save it again."
    for length in range(8, len(whole)):
        path.write_bytes(whole[:length])
        assert refused(pictures.load, path) == damaged, length
    for place in range(8, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert refused(pictures.load, path) == damaged, place


def test_a_record_that_does_not_fit(tmp_path) -> None:
    path = pictures.save(any_picture((1, 20, 20)), tmp_path / "a.png", {}, kind="toy", visible=True)
    right = pictures.record_of(path)
    for wrong in ({"size": [20, 21, 1]}, {"size": 3}, {"strip": 0}, {"enlarged": 2}, {"size": [20, 20, 3]}):
        rewrite(path, **wrong)
        assert "do not fit its pixels: it was changed, so use the original" in refused(pictures.load, path)
        rewrite(path, **right)
    assert pictures.load(path)
    for text in ("no JSON", "[]", "{}", "3"):
        chunks = PngInfo()
        chunks.add_itxt(pictures.CHUNK, text)
        Image.new("L", (8, 8)).save(path, pnginfo=chunks)
        assert "do not fit its pixels" in refused(pictures.load, path)


# ------------------------------------------------------------------------------------------------ whole or nothing


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step, failure) -> None:
    path = pictures.save(any_picture((1, 4, 4)), tmp_path / "a.png", {"seed": 1}, kind="toy")
    before, real = path.read_bytes(), getattr(Path, step)

    def fail(self: Path, argument) -> None:
        if step == "write_bytes":
            real(self, argument[:10])
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(Path, step, fail)
        with pytest.raises(PictureError if isinstance(failure, OSError) else KeyboardInterrupt) as caught:
            pictures.save(any_picture((1, 4, 4), 1), path, {"seed": 2}, kind="toy")
    if isinstance(failure, OSError):
        assert "a.png cannot be written ([Errno 28] No space left on device): choose another" in str(caught.value)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder.png", tmp_path / "file" / "a.png"):
        said = refused(pictures.save, any_picture((1, 4, 4)), path, {}, kind="toy")
        assert said.startswith(f"{path.name} cannot be written (")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.png"]


def test_the_mark_alone_is_the_one_that_a_file_gets(tmp_path) -> None:
    picture = any_picture((1, 32, 32))
    saved = pictures.save(picture, tmp_path / "a.png", {}, kind="medical", visible=False)
    assert torch.equal(pictures.with_mark(picture), pictures.load(saved)[0])
    assert pictures.is_marked(pictures.with_mark(picture, "mine"), "mine")
