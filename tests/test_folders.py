"""Any folder of pictures, whatever lies in it, becomes pictures or one sentence, and nothing in it is changed."""

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from course_utils import data, folders, photographs

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("COURSE_CACHE", str(place))
    return place


def halves(left=RED, right=BLUE, size=(40, 40), mode="RGB") -> Image.Image:
    """A picture whose left half has one colour and the right half another."""
    image = Image.new("RGB", size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image.convert(mode)


def only(folder: Path, **options) -> torch.Tensor:
    """The one picture of a folder, in 0..255, (C, H, W)."""
    found = data.folder(folder, verbose=False, **options)
    assert len(found) == 1, found.skipped
    return (found.x[0] + 1) * 127.5


def near(pixel: torch.Tensor, colour, within=3) -> bool:
    return bool((pixel - torch.tensor(colour, dtype=torch.float)).abs().max() <= within)


def state(folder: Path) -> dict:
    """Everything about a folder that reading it could change, but for the times of reading."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_mode, path.is_file() and path.read_bytes())
        for path in folder.rglob("*")
    }


# --- kinds of pictures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation, left, right", [(1, RED, BLUE), (2, BLUE, RED), (3, BLUE, RED)])
def test_exif_says_how_a_picture_is_turned(tmp_path, orientation, left, right) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    halves().save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    x = only(tmp_path)
    assert near(x[:, 16, 4], left, 12) and near(x[:, 16, 28], right, 12)


def test_a_picture_on_its_side_gets_its_width_and_height_back(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned by 90 degrees clockwise
    halves(size=(2000, 400)).save(tmp_path / "a.jpg", exif=exif)
    found = data.folder(tmp_path, fit="pad", verbose=False)
    assert found.sizes.tolist() == [[400, 2000]]
    x = (found.x[0] + 1) * 127.5
    assert near(x[:, 8, 16], RED, 12) and near(x[:, 24, 16], BLUE, 12) and near(x[:, 16, 2], WHITE, 12)


@pytest.mark.parametrize("name", ["rgba.png", "la.png", "palette.png", "palette.gif", "rgba.webp"])
def test_transparency_is_laid_over_white(tmp_path, name) -> None:
    image = halves(mode="RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 20, 40))  # transparent black on the left
    if name.startswith("la"):
        image = image.convert("LA")
    if name.startswith("palette"):
        paletted = halves().convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
        paletted.info["transparency"] = paletted.getpixel((0, 0))
        image = paletted
    image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    x = only(tmp_path)
    assert near(x[:, 16, 4], WHITE)
    assert near(x[:, 16, 28], (29, 29, 29) if name.startswith("la") else BLUE, 4)


@pytest.mark.parametrize("mode, name", [("P", "a.png"), ("CMYK", "a.jpg"), ("CMYK", "a.tif"), ("RGB", "a.bmp")])
def test_palettes_and_printers_colours_become_red_green_and_blue(tmp_path, mode, name) -> None:
    halves(mode=mode).save(tmp_path / name)
    x = only(tmp_path)
    assert near(x[:, 16, 4], RED, 12) and near(x[:, 16, 28], BLUE, 12)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, name) -> None:
    values = np.full((40, 40), 16384, dtype=np.uint16)
    values[:, 20:] = 49152
    Image.fromarray(values).save(tmp_path / name)
    x = only(tmp_path)
    assert near(x[:, 16, 4], (64, 64, 64), 1) and near(x[:, 16, 28], (191, 191, 191), 1)


def test_floating_point_and_one_bit_are_read(tmp_path) -> None:
    Image.fromarray(np.full((8, 8), 0.5, dtype=np.float32)).save(tmp_path / "half.tif")
    halves((0, 0, 0), WHITE).convert("1").save(tmp_path / "one.png")
    found = data.folder(tmp_path, channels=1, verbose=False)
    assert found.names == ("half.tif", "one.png") and found.x.shape[1] == 1
    assert found.x[0].abs().max() < 0.01 and found.x[1, 0, 16, 4] == -1 and found.x[1, 0, 16, 28] == 1


def test_grey_gets_three_channels_and_colour_becomes_grey(tmp_path) -> None:
    halves(mode="L").save(tmp_path / "a.png")
    x = only(tmp_path)
    assert x.shape == (3, 32, 32) and torch.equal(x[0], x[1]) and torch.equal(x[0], x[2])
    assert only(tmp_path, channels=1).shape == (1, 32, 32)


def test_the_first_frame_of_an_animation_counts(tmp_path) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in (GREEN, RED, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert near(only(tmp_path)[:, 16, 16], GREEN, 6)


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000), (3, 7)])
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_shapes_of_one_pixel_and_panoramas(tmp_path, size, fit) -> None:
    Image.new("RGB", size, RED).save(tmp_path / "a.png")
    x = only(tmp_path, fit=fit)
    assert x.shape == (3, 32, 32) and near(x[:, 15, 15], RED)


def test_crop_takes_the_middle_and_pad_shows_all_on_white(tmp_path) -> None:
    wide = Image.new("RGB", (120, 40), GREEN)
    wide.paste(RED, (0, 0, 30, 40))
    wide.save(tmp_path / "a.png")
    assert near(only(tmp_path)[:, 16, 1], GREEN)
    padded = only(tmp_path, fit="pad")
    assert near(padded[:, 16, 1], RED) and near(padded[:, 2, 16], WHITE)


def test_pictures_are_reduced_with_anti_aliasing(tmp_path) -> None:
    board = np.indices((512, 512)).sum(0) % 2 * 255
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "a.png")
    x = only(tmp_path)
    assert near(x[:, 16, 16], (127.5,) * 3, 3) and x.std() < 3


# --- what is no picture -------------------------------------------------------------------------------------


def png_that_says(width: int, height: int) -> bytes:
    """A PNG of some bytes whose header announces so many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def hostile(tmp_path) -> Path:
    """A folder with one good picture among what must be skipped."""
    folder, outside = tmp_path / "mine", tmp_path / "outside"
    folder.mkdir(), outside.mkdir()
    halves().save(folder / "good.png")
    halves(size=(200, 200)).save(outside / "secret.png")
    buffer = io.BytesIO()
    Image.effect_noise((300, 300), 80).save(buffer, "JPEG")
    (folder / "cut.jpg").write_bytes(buffer.getvalue()[:9000])
    buffer = io.BytesIO()
    Image.effect_noise((300, 300), 80).save(buffer, "PNG")
    (folder / "cut.png").write_bytes(buffer.getvalue()[:9000])
    (folder / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    (folder / "page.jpg").write_text("<html>404</html>")
    (folder / "program.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    (folder / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "bomb.png").write_bytes(png_that_says(60_000, 60_000))
    (folder / "large.png").write_bytes(png_that_says(13_000, 13_000))  # below Pillow's own limit
    (folder / "header.gif").write_bytes(b"GIF89a")
    (folder / ".hidden.png").write_bytes(b"never looked at")
    if os.name != "nt":
        (folder / "leaves.png").symlink_to(outside / "secret.png")
        (folder / "leaves").symlink_to(outside)
        (folder / "circle").symlink_to(folder)
        (folder / "nowhere.png").symlink_to(folder / "missing")
        os.mkfifo(folder / "pipe.png")
    return folder


def test_hostile_files_are_skipped_counted_and_named(hostile, capsys) -> None:
    before = state(hostile)
    found = data.folder(hostile)
    assert found.names == ("good.png",)
    reasons = dict(found.skipped)
    assert reasons["cut.jpg"] == reasons["cut.png"] == "cut short"
    assert reasons["empty.png"] == "an empty file"
    for name in ("notes.txt", "page.jpg", "program.eps", "drawing.svg"):
        assert reasons[name] == "no picture"
    assert reasons["bomb.png"] == reasons["large.png"] == "more than 150 million pixels"
    assert "header.gif" in reasons and ".hidden.png" not in reasons
    if os.name != "nt":
        links = {name for name, why in reasons.items() if why == "a link, not followed"}
        assert links == {"leaves.png", "leaves", "circle", "nowhere.png"}
        assert reasons["pipe.png"] == "no regular file"
    said = capsys.readouterr().out
    assert f"skipped {len(reasons)}: " in said and f"and {len(reasons) - 5} more" in said
    assert state(hostile) == before


def test_where_everything_is_skipped_there_is_one_sentence(hostile) -> None:
    (hostile / "good.png").unlink()
    with pytest.raises(folders.FolderError, match=r"holds no picture that can be read: .* and \d+ more\.$"):
        data.folder(hostile)


def test_no_folder_an_empty_one_a_file_or_a_senseless_argument_is_one_sentence(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name, words in (("empty", "is empty"), ("file", "is a file and no folder"), ("none", "does not exist")):
        with pytest.raises(folders.FolderError, match=words):
            data.folder(tmp_path / name)
    for options in ({"size": 0}, {"channels": 4}, {"fit": "squeeze"}):
        with pytest.raises(folders.FolderError, match="are wanted, not"):
            data.folder(tmp_path, **options)


@pytest.mark.skipif(os.name == "nt", reason="names are not bytes there")
def test_names_in_any_script_and_in_none(tmp_path, capsys) -> None:
    names = ["Äpfel", "林檎", "яблоко", "تفاحة", "🍎", "new\nline", os.fsdecode(b"\xff\xfe")]
    for name in names:
        halves().save(io.BytesIO(), "PNG")
        with open(tmp_path / f"{name}.png", "wb") as file:
            halves().save(file, "PNG")
    (tmp_path / os.fsdecode(b"\xfd.txt")).write_text("no picture")
    for _ in range(2):  # the second time from the cache
        found = data.folder(tmp_path)
        assert {name.removesuffix(".png") for name in found.names} == set(names)
    assert "from the cache" in capsys.readouterr().out


# --- classes ------------------------------------------------------------------------------------------------


def test_subfolders_are_classes_and_small_ones_are_said(tmp_path, capsys) -> None:
    for name, n in (("cats", 12), ("dogs/big", 2), ("none", 0)):
        (tmp_path / name).mkdir(parents=True)
        for i in range(n):
            halves().save(tmp_path / name / f"{i}.png")
    halves().save(tmp_path / "beside.png")
    found = data.folder(tmp_path)
    assert found.classes == (tmp_path.name, "cats", "dogs") and found.y.bincount().tolist() == [1, 12, 2]
    assert [found.classes[c] for c in found.y] == [
        tmp_path.name if "/" not in name else name.split("/")[0] for name in found.names
    ]
    assert f"fewer than 10 pictures, too few to learn from: {tmp_path.name} (1), dogs (2)" in capsys.readouterr().out


def test_without_subfolders_all_are_of_one_class(tmp_path) -> None:
    for i in range(3):
        halves().save(tmp_path / f"{i}.png")
    found = data.folder(tmp_path, verbose=False)
    assert found.classes == (tmp_path.name,) and found.y.tolist() == [0, 0, 0]
    assert found.x.shape == (3, 3, 32, 32) and data.pixel_fault(found.x) == ""


# --- cache --------------------------------------------------------------------------------------------------


def test_the_cache_knows_when_the_folder_changed(tmp_path, monkeypatch) -> None:
    for i in range(3):
        halves().save(tmp_path / f"{i}.png")
    first, read = data.folder(tmp_path, verbose=False), []
    plain = folders.picture
    monkeypatch.setattr(folders, "picture", lambda path, *a: read.append(path.name) or plain(path, *a))
    again = data.folder(tmp_path, verbose=False)
    assert not read and torch.equal(again.x, first.x) and torch.equal(again.sizes, first.sizes)
    assert (again.names, again.skipped, again.classes) == (first.names, first.skipped, first.classes)
    data.folder(tmp_path, size=16, verbose=False)
    assert len(read) == 3  # another size is read
    halves(BLUE, RED).save(tmp_path / "1.png")
    os.utime(tmp_path / "1.png", (1, 1))
    changed = data.folder(tmp_path, verbose=False)
    assert near((changed.x[1, :, 16, 4] + 1) * 127.5, BLUE)
    (tmp_path / "0.png").unlink()
    assert len(data.folder(tmp_path, verbose=False)) == 2
    halves().save(tmp_path / "9.png")
    assert len(data.folder(tmp_path, verbose=False)) == 3


def test_a_damaged_cache_is_read_anew_and_one_that_cannot_be_written_is_said(tmp_path, cache, capsys) -> None:
    halves().save(tmp_path / "a.png")
    x = only(tmp_path)
    (file,) = (cache / "folders").iterdir()
    file.write_bytes(b"damaged")
    assert torch.equal(only(tmp_path), x)
    file.unlink()
    (cache / "folders").rmdir()
    (cache / "folders").write_text("a file in the way")
    data.folder(tmp_path)
    assert "not cached" in capsys.readouterr().out


def test_nothing_is_written_into_the_readers_folder(tmp_path, monkeypatch) -> None:
    for i in range(3):
        halves().save(tmp_path / f"{i}.png")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    before = state(tmp_path)
    data.folder(tmp_path, verbose=False)
    assert state(tmp_path) == before


def test_many_files_have_a_progress_line_and_few_have_none(tmp_path, monkeypatch, capsys) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), RED).save(buffer, "BMP")
    for i in range(folders.MANY):
        (tmp_path / f"{i}.bmp").write_bytes(buffer.getvalue())
    monkeypatch.setenv("TQDM_DISABLE", "0")
    assert len(data.folder(tmp_path, verbose=False)) == folders.MANY
    assert "reading" in capsys.readouterr().err
    (tmp_path / "0.bmp").unlink()
    data.folder(tmp_path, verbose=False)
    assert not capsys.readouterr().err


# --- a folder such as people have ---------------------------------------------------------------------------


def test_crops_of_the_course_s_photographs_make_a_data_set(tmp_path) -> None:
    for photograph in photographs.photographs("train"):
        (tmp_path / photograph.name).mkdir()
        page = Image.fromarray((photograph.x.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())
        for i in range(36):
            left, top = 20 * (i % 6), 20 * (i // 6)
            page.crop((left, top, left + 256, top + 192)).save(tmp_path / photograph.name / f"{i}.jpg")
    found = data.folder(tmp_path, verbose=False)
    assert len(found) == 216 and len(found.classes) == 6 and not found.skipped
    assert set(found.y.bincount().tolist()) == {36} and data.pixel_fault(found.x) == ""
    digests = {hashlib.sha256(x.numpy().tobytes()).hexdigest() for x in found.x}
    assert len(digests) == 216
