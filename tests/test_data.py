"""Pictures are always there, whole, and said to come from where they come from; toy points are what they claim."""

import gzip
import hashlib
import http.client
import json
import lzma
import math
import os
import re
import socket
import struct
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from authoring import assets as make
from course_utils import data

# sizes promised for the embedded subsets
SIZES = [
    ("fashion_mnist", "train", 20_000),
    ("fashion_mnist", "test", 4_000),
    ("mnist", "train", 8_000),
    ("mnist", "test", 2_000),
]


# --- embedded data ------------------------------------------------------------------------------------------


def test_the_manifest_tells_of_every_asset_what_it_is_and_that_it_is_unchanged() -> None:
    manifest = json.loads((data.ASSETS / "MANIFEST.json").read_text("utf-8"))
    files = {path.relative_to(data.ASSETS).as_posix() for path in data.ASSETS.rglob("*") if path.is_file()}
    assets = {name for name in files if "__pycache__" not in name and not name.endswith(".py")} - {"MANIFEST.json"}
    assert set(manifest) == assets
    for name, entry in manifest.items():
        content = (data.ASSETS / name).read_bytes()
        assert entry["bytes"] == len(content), name
        assert entry["sha256"] == hashlib.sha256(content).hexdigest(), f"{name}: make it again or its manifest"
        assert all(entry[key].strip() for key in ("source", "licence", "how")), name


def test_a_folder_in_the_manifest_is_listed_file_by_file(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "pipeline" / "unet").mkdir(parents=True)
    for name in ("single.json", "pipeline/index.json", "pipeline/unet/config.json"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(data, "ASSETS", tmp_path)
    monkeypatch.setattr(make, "SOURCES", {"single.json": ("a", "b", "c"), "pipeline": ("d", "e", "f")})
    make.make_manifest()
    manifest = json.loads((tmp_path / "MANIFEST.json").read_text("utf-8"))
    assert list(manifest) == ["single.json", "pipeline/index.json", "pipeline/unet/config.json"]
    for name, entry in manifest.items():
        assert entry["bytes"] == len(name) and entry["sha256"] == hashlib.sha256(name.encode()).hexdigest()
    assert manifest["pipeline/unet/config.json"]["source"] == "d"


def test_the_assets_stay_small() -> None:
    files = [path for path in data.ASSETS.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    assert sum(path.stat().st_size for path in files) <= 56 * 2**20


def test_the_package_holds_the_assets_at_every_depth() -> None:
    settings = tomllib.loads((data.ASSETS.parents[1] / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    deepest = max(len(Path(name).parts) for name in json.loads((data.ASSETS / "MANIFEST.json").read_text("utf-8")))
    patterns = settings["package-data"]["course_utils"]
    assert {"/".join(["assets", *"*" * depth]) for depth in range(1, deepest + 1)} <= set(patterns)


@pytest.mark.parametrize("name, split, size", SIZES)
def test_embedded_pictures_have_the_promised_number_shape_and_type(name: str, split: str, size: int) -> None:
    pixels, labels = data.embedded(name, split)
    assert len(pixels) >= size
    assert pixels.shape == (len(labels), 28, 28) and pixels.dtype == labels.dtype == torch.uint8
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize("name", data.DATASETS)
def test_embedded_splits_are_stratified(name: str) -> None:
    """Each class has the same share in both splits, to within two pictures of the smaller."""
    train, test = (data.embedded(name, split)[1].bincount(minlength=10) for split in data.SPLITS)
    assert len(train) == len(test) == 10 == len(data.info(name).classes)
    assert (test - train * test.sum() / train.sum()).abs().max() < 2
    if name == "fashion_mnist":  # the full set has as many of each class
        assert train.unique().numel() == test.unique().numel() == 1


@pytest.mark.parametrize("name", data.DATASETS)
def test_embedded_splits_share_no_picture(name: str) -> None:
    train, test = ({row.tobytes() for row in data.embedded(name, split)[0].numpy()} for split in data.SPLITS)
    assert not train & test


@pytest.mark.parametrize("name, split, size", SIZES)
def test_the_first_embedded_pictures_are_of_every_class(name: str, split: str, size: int) -> None:
    """The full sets are in mixed order, so code may take the first n pictures of either."""
    labels = data.embedded(name, split)[1]
    share = labels[:500].bincount(minlength=10) / 500
    whole = labels.bincount(minlength=10) / len(labels)
    assert (share - whole).abs().max() < 0.05
    assert torch.equal(labels, data.embedded(name, split)[1]), "the order is fixed"


@pytest.mark.parametrize("split", data.SPLITS)
def test_embedded_clothes_are_pictures_of_the_full_set_with_their_labels(split: str) -> None:
    folder = data.DATASETS["fashion_mnist"].debian
    if len(data._split_files(folder, split)) < 2:
        pytest.skip("the full Fashion-MNIST is not here (Debian: apt install dataset-fashion-mnist)")

    def rows(pixels: torch.Tensor, labels: torch.Tensor) -> set[tuple[bytes, int]]:
        return {(row.tobytes(), int(y)) for row, y in zip(pixels.numpy(), labels, strict=True)}

    full = rows(*data._read_split(folder, split))
    assert len(full) == {"train": 60_000, "test": 10_000}[split]
    assert rows(*data.embedded("fashion_mnist", split)) <= full


def test_a_damaged_embedded_file_asks_for_a_new_installation(monkeypatch, tmp_path) -> None:
    good = (data.ASSETS / "mnist.safetensors.xz").read_bytes()
    monkeypatch.setattr(data, "ASSETS", tmp_path)
    for content in (good[:1000], b"not xz", None):
        data._embedded_file.cache_clear()
        if content is not None:
            (tmp_path / "mnist.safetensors.xz").write_bytes(content)
        else:
            (tmp_path / "mnist.safetensors.xz").unlink()
        with pytest.raises(data.DataError, match="mnist.safetensors.xz cannot be read .* install the course"):
            data.embedded("mnist", "test")
    data._embedded_file.cache_clear()


# --- where the full set is looked for -----------------------------------------------------------------------


class Download:
    """torchvision's class in miniature: writes a packed and an unpacked copy of each file, as it does."""

    mirrors = ["https://mirror.invalid/"]
    calls = 0
    fails_with: BaseException | None = None

    def __init__(self, root: str, download: bool) -> None:
        type(self).calls += 1
        assert download
        raw = Path(root) / type(self).__name__ / "raw"
        raw.mkdir(parents=True)
        write_split(raw, "train", packed=True)
        if self.fails_with:
            (raw / "t10k-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b half of a fi")
            raise self.fails_with
        write_split(raw, "test", packed=True)
        for split in data.SPLITS:
            write_split(raw, split, packed=False)


def idx(values: torch.Tensor) -> bytes:
    """Bytes in LeCun's IDX format, written from its description."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.numpy().tobytes()


def small_split(n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    pixels = torch.randint(256, (n, 28, 28), generator=generator, dtype=torch.uint8)
    return pixels, torch.randint(10, (n,), generator=generator, dtype=torch.uint8)


def write_split(folder: Path, split: str, packed: bool, n: int = 6, n_labels: int | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stem = {"train": "train", "test": "t10k"}[split]
    pixels, labels = small_split(n)
    for name, values in (("images-idx3", pixels), ("labels-idx1", labels.repeat(2)[: n_labels or n])):
        content = idx(values)
        file = folder / f"{stem}-{name}-ubyte{'.gz' if packed else ''}"
        file.write_bytes(gzip.compress(content) if packed else content)


@pytest.fixture
def alone(monkeypatch, tmp_path) -> type:
    """No settings, no cache, no Debian package, no network; returns the class that stands for torchvision's."""
    for setting in ("COURSE_DATA", "COURSE_DATA_DIR"):
        monkeypatch.delenv(setting, raising=False)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    fake = type("FashionMNIST", (Download,), {"calls": 0})
    about = replace(data.DATASETS["fashion_mnist"], debian=None, torchvision=fake)
    monkeypatch.setitem(data.DATASETS, "fashion_mnist", about)
    monkeypatch.setattr(data, "_answers", lambda url: False)
    return fake


@pytest.fixture
def online(alone, monkeypatch) -> type:
    monkeypatch.setattr(data, "_answers", lambda url: True)
    return alone


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def assert_small(found: data.Images, n: int = 6) -> None:
    pixels, labels = small_split(n)
    assert torch.equal(((found.x[:, 0] + 1) * 127.5).round().to(torch.uint8), pixels)
    assert torch.equal(found.y, labels.long())


def assert_embedded(found: data.Images, split: str = "test") -> None:
    assert len(found) == len(data.embedded("fashion_mnist", split)[0]) and "embedded" in found.source


def test_pictures_are_floats_from_minus_one_to_one_with_whole_number_labels(alone) -> None:
    found = data.images("fashion_mnist", "test", verbose=False)
    assert found.x.shape == (len(found), 1, 28, 28) and found.x.dtype == torch.float32
    assert (found.x.min(), found.x.max()) == (-1, 1)
    assert found.y.shape == (len(found),) and found.y.dtype == torch.int64


def test_black_is_minus_one_and_white_is_one() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1)
    assert data.to_unit_range(pixels).flatten().tolist() == pytest.approx([-1, -0.6, 1])


def test_one_line_says_how_many_pictures_come_from_where(alone, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COURSE_DATA", "embedded")
    found = data.images("fashion_mnist", "test")
    assert capsys.readouterr().out == f"Fashion-MNIST, test: {len(found):,} pictures from the embedded subset\n"
    data.images("fashion_mnist", "test", verbose=False)
    assert capsys.readouterr().out == ""


def test_unknown_names_and_splits_are_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="no data set 'cifar10': choose one of fashion_mnist, mnist"):
        data.images("cifar10")
    with pytest.raises(ValueError, match="no split 'validation' of MNIST: choose 'train' or 'test'"):
        data.images("mnist", "validation")


def test_course_data_embedded_wins_over_everything_else(online, monkeypatch, tmp_path) -> None:
    write_split(tmp_path / "cache/fashion_mnist", "test", packed=True)
    monkeypatch.setenv("COURSE_DATA", "embedded")
    assert_embedded(data.images("fashion_mnist", "test"))
    assert online.calls == 0


def test_another_value_of_course_data_is_refused(alone, monkeypatch) -> None:
    monkeypatch.setenv("COURSE_DATA", "none")
    with pytest.raises(ValueError, match="COURSE_DATA is 'none': set it to 'full' or 'embedded', or unset it"):
        data.images("fashion_mnist")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("folder", ["fashion_mnist", "fashion-mnist", "FashionMNIST/raw", "FashionMNIST"])
def test_an_own_folder_is_read_however_it_is_named(alone, monkeypatch, tmp_path, folder, packed) -> None:
    write_split(tmp_path / "own" / folder, "test", packed)
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path / "own"))
    found = data.images("fashion_mnist", "test")
    assert_small(found)
    assert found.source == "COURSE_DATA_DIR"


def test_places_are_searched_in_order(alone, monkeypatch, tmp_path) -> None:
    """Cache, own folder, Debian, told apart by their sizes."""
    cache, own, debian = tmp_path / "cache/fashion_mnist", tmp_path / "own", tmp_path / "debian"
    for n, folder in enumerate((cache, own / "fashion_mnist", debian), start=3):
        write_split(folder, "train", packed=True, n=n)
    monkeypatch.setenv("COURSE_DATA_DIR", str(own))
    about = replace(data.DATASETS["fashion_mnist"], debian=debian)
    monkeypatch.setitem(data.DATASETS, "fashion_mnist", about)
    assert len(data.images("fashion_mnist")) == 3
    (cache / "train-labels-idx1-ubyte.gz").unlink()  # a cache with half of a split is none
    assert len(data.images("fashion_mnist")) == 4
    monkeypatch.delenv("COURSE_DATA_DIR")
    assert len(data.images("fashion_mnist")) == 5


def test_an_own_folder_that_does_not_exist_is_an_error(alone, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(data.DataError, match="COURSE_DATA_DIR is '.*nowhere', which is no folder"):
        data.images("fashion_mnist")


def cut(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def spoil(folder: Path, how: str) -> str:
    """Damage the test split in `folder`; returns what the complaint should match."""
    pictures = folder / "t10k-images-idx3-ubyte"
    write_split(folder, "test", packed="gz" in how, n_labels=5 if how == "labels of another length" else None)
    if how == "truncated gz":
        cut(pictures.with_name(pictures.name + ".gz"))
        return "t10k-images-idx3-ubyte.gz cannot be read .*: delete it or fetch it again"
    if how == "gz that is none":
        pictures.with_name(pictures.name + ".gz").write_bytes(b"<html>not found</html>")
        return "t10k-images-idx3-ubyte.gz cannot be read"
    if how == "empty gz":
        pictures.with_name(pictures.name + ".gz").write_bytes(b"")
        return "t10k-images-idx3-ubyte.gz cannot be read"
    if how == "raw cut short":
        cut(pictures)
        return "t10k-images-idx3-ubyte is no complete IDX file"
    if how == "raw cut in its head":
        cut(pictures, 6 / pictures.stat().st_size)
        return "t10k-images-idx3-ubyte cannot be read"
    if how == "one byte too many":
        pictures.write_bytes(pictures.read_bytes() + b"\0")
        return "t10k-images-idx3-ubyte is no complete IDX file"
    if how == "floats":
        pictures.write_bytes(struct.pack(">HBBI", 0, 0x0D, 1, 4) + bytes(4))
        return "t10k-images-idx3-ubyte is no complete IDX file of bytes"
    if how == "pictures of another size":
        pictures.write_bytes(idx(torch.zeros(6, 32, 32, dtype=torch.uint8)))
        return r"do not belong together: shapes \(6, 32, 32\) and \(6,\)"
    assert how == "labels of another length"
    return r"t10k-images.* and t10k-labels.* do not belong together: shapes \(6, 28, 28\) and \(5,\)"


DAMAGES = [
    "truncated gz",
    "gz that is none",
    "empty gz",
    "raw cut short",
    "raw cut in its head",
    "one byte too many",
    "floats",
    "pictures of another size",
    "labels of another length",
]


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_files_in_an_own_folder_are_an_error_that_names_them(alone, monkeypatch, tmp_path, how) -> None:
    complaint = spoil(tmp_path / "own/fashion_mnist", how)
    before = everything_below(tmp_path / "own")
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path / "own"))
    with pytest.raises(data.DataError, match=complaint) as refusal:
        data.images("fashion_mnist", "test")
    assert "\n" not in str(refusal.value)
    assert everything_below(tmp_path / "own") == before, "a reader's own files are left alone"


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_cache_is_passed_over_in_so_many_words(alone, tmp_path, capsys, how) -> None:
    complaint = spoil(tmp_path / "cache/fashion_mnist", how)
    assert_embedded(data.images("fashion_mnist", "test"))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("the cache is passed over: ") and len(said) == 3
    assert re.search(complaint, said[0])


def test_a_damaged_cache_is_mended_by_a_download(online, tmp_path) -> None:
    spoil(tmp_path / "cache/fashion_mnist", "truncated gz")
    assert_small(data.images("fashion_mnist", "test"))
    assert_small(data.images("fashion_mnist", "test"))
    assert online.calls == 1


# --- download -----------------------------------------------------------------------------------------------


def test_a_download_lands_in_the_cache_and_is_used_the_second_time(online, tmp_path, capsys) -> None:
    first = data.images("fashion_mnist", "train")
    assert_small(first)
    assert "download" in capsys.readouterr().out
    second, other_split = data.images("fashion_mnist", "train"), data.images("fashion_mnist", "test")
    assert online.calls == 1
    assert torch.equal(first.x, second.x) and other_split.source == second.source == "the cache"
    stored = everything_below(tmp_path / "cache")
    assert len(stored) == 5, stored  # the folder and four packed files: no scratch, no unpacked twins
    assert all(name == "fashion_mnist" or name.endswith(".gz") for name in stored)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("File not found or corrupted."),
        ConnectionResetError("reset by peer"),
        TimeoutError("timed out"),
        http.client.IncompleteRead(b"half"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_download_that_fails_half_way_is_said_and_leaves_nothing(online, tmp_path, capsys, error) -> None:
    online.fails_with = error
    assert_embedded(data.images("fashion_mnist", "test"))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Fashion-MNIST could not be downloaded (") and "embedded subset" in said[0]
    assert str(error) in said[0]
    assert everything_below(tmp_path / "cache") == []
    online.fails_with = None
    assert_small(data.images("fashion_mnist", "test"))


def test_an_interrupted_download_leaves_nothing_half_written(online, tmp_path) -> None:
    online.fails_with = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        data.images("fashion_mnist", "test")
    assert everything_below(tmp_path / "cache") == []


def test_a_failed_download_keeps_what_the_cache_held(online, tmp_path) -> None:
    write_split(tmp_path / "cache/fashion_mnist", "train", packed=True)
    before = everything_below(tmp_path / "cache")
    online.fails_with = OSError("lost")
    assert_embedded(data.images("fashion_mnist", "test"))  # the cache has no test split
    assert everything_below(tmp_path / "cache") == before


def test_without_network_the_embedded_subset_is_used_and_said(alone, capsys, tmp_path) -> None:
    assert_embedded(data.images("fashion_mnist", "test"))
    assert alone.calls == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "Fashion-MNIST: no network, so the embedded subset is used."
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_made_is_said(online, monkeypatch, tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file" / "cache"))
    assert_embedded(data.images("fashion_mnist", "test"))
    assert "could not be downloaded" in capsys.readouterr().out
    assert online.calls == 0, "nothing is fetched that cannot be kept"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_is_said(online, tmp_path, capsys) -> None:
    (tmp_path / "cache").mkdir(mode=0o500)
    assert_embedded(data.images("fashion_mnist", "test"))
    assert "could not be downloaded" in capsys.readouterr().out


@pytest.mark.parametrize("locked", ["cache", "cache/fashion_mnist"])
def test_a_cache_that_may_not_be_read_is_passed_over_and_said(alone, monkeypatch, tmp_path, capsys, locked) -> None:
    (tmp_path / "cache" / "fashion_mnist").mkdir(parents=True)
    is_file = Path.is_file

    def refuse(path: Path) -> bool:
        if (tmp_path / locked) in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    assert_embedded(data.images("fashion_mnist", "test"))
    assert capsys.readouterr().out.startswith("the cache is passed over: [Errno 13] Permission denied")


@pytest.mark.parametrize(
    ("cache", "said"),
    [(None, "this user's home folder cannot be found"), ("~nobody-of-this-name/x", "COURSE_CACHE is '~nobody")],
)
def test_a_user_without_a_home_gets_the_embedded_pictures(alone, monkeypatch, capsys, cache, said) -> None:
    def no_home(*_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("COURSE_CACHE", cache) if cache else monkeypatch.delenv("COURSE_CACHE")
    assert_embedded(data.images("fashion_mnist", "test"))
    assert f"the cache is passed over: {said}" in capsys.readouterr().out


def test_a_named_folder_without_the_asked_set_is_not_passed_over_in_silence(
    alone, monkeypatch, tmp_path, capsys
) -> None:
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    assert_embedded(data.images("fashion_mnist", "test"))
    begins = "COURSE_DATA_DIR is passed over for Fashion-MNIST, test: "
    assert f"{begins}it has no folder fashion_mnist or FashionMNIST." in capsys.readouterr().out
    (tmp_path / "fashion-mnist").mkdir()
    data.images("fashion_mnist", "test")
    assert f"{begins}its folder fashion-mnist lacks files of it." in capsys.readouterr().out


def test_nothing_is_said_when_nothing_shall_be(alone, monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    data.images("fashion_mnist", "test", verbose=False)
    assert capsys.readouterr().out == ""


# --- is there a network? ------------------------------------------------------------------------------------


@pytest.fixture
def no_proxy(monkeypatch) -> None:
    monkeypatch.setattr(data, "getproxies", dict)


def test_a_host_answers_when_it_takes_a_connection(no_proxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/file.gz"
        assert data._answers(address)
    assert not data._answers(address, seconds=0.5)


@pytest.mark.parametrize("error", [OSError("unreachable"), TimeoutError(), socket.gaierror("unknown host")])
def test_no_route_no_name_and_no_reply_are_no_answer(no_proxy, monkeypatch, error) -> None:
    def fail(address, timeout):
        assert address == ("host.invalid", 443) and timeout <= 5
        raise error

    monkeypatch.setattr(socket, "create_connection", fail)
    assert not data._answers("https://host.invalid/file.gz")


@pytest.mark.parametrize("form", ["http://127.0.0.1:{}", "127.0.0.1:{}"])
def test_behind_a_proxy_the_proxy_is_asked(monkeypatch, form) -> None:
    monkeypatch.setattr(data, "proxy_bypass", lambda host: host == "inside.invalid")
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = form.format(server.getsockname()[1])
        monkeypatch.setattr(data, "getproxies", lambda: {"https": proxy})
        assert data._answers("https://outside.invalid/file.gz")
        assert not data._answers("https://inside.invalid/file.gz", seconds=0.5)
    assert not data._answers("https://outside.invalid/file.gz", seconds=0.5)


def test_the_cache_is_where_the_settings_say(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    assert data.cache_dir() == tmp_path
    monkeypatch.delenv("COURSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert data.cache_dir() == tmp_path / "xdg" / "gans-to-diffusion"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data.cache_dir() == Path.home() / ".cache" / "gans-to-diffusion"


# --- toy distributions --------------------------------------------------------------------------------------


def test_the_ring_has_its_modes_evenly_on_a_circle() -> None:
    ring = data.ring(modes=8, radius=2.0)
    assert ring.centres.norm(dim=1).tolist() == pytest.approx([2.0] * 8)
    gaps = (ring.centres - ring.centres.roll(1, dims=0)).norm(dim=1)
    assert gaps.tolist() == pytest.approx([4 * math.sin(math.pi / 8)] * 8, rel=1e-5)
    assert ring.std**2 == pytest.approx(1e-4)  # PacGAN, section 4.1


def test_the_grid_is_a_square_lattice_around_zero() -> None:
    grid = data.grid(side=5, spacing=2.0)
    assert {tuple(c) for c in grid.centres.tolist()} == {(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)}
    assert len(grid.centres) == 25
    assert data.grid(side=2, spacing=1.0).centres.abs().unique().tolist() == [0.5]


@pytest.mark.parametrize("mixture", [data.ring(), data.grid()], ids=["ring", "grid"])
def test_samples_visit_every_mode_alike_with_the_stated_spread(mixture: data.GaussianMixture) -> None:
    n = 20_000
    points = mixture.sample(n, torch.Generator().manual_seed(0))
    assert points.shape == (n, 2) and points.dtype == torch.float32
    nearest = torch.cdist(points, mixture.centres).argmin(dim=1)
    expected = n / len(mixture.centres)
    counts = nearest.bincount(minlength=len(mixture.centres))
    assert (counts - expected).abs().max() < 5 * math.sqrt(expected)
    offsets = points - mixture.centres[nearest]
    assert offsets.std(dim=0).tolist() == pytest.approx([mixture.std] * 2, rel=0.03)
    assert offsets.mean(dim=0).abs().max() < 5 * mixture.std / math.sqrt(n)


def test_a_generator_fixes_the_sample_and_spares_the_global_state() -> None:
    before = torch.get_rng_state()
    one, same = (data.ring().sample(9, torch.Generator().manual_seed(5)) for _ in range(2))
    other = data.ring().sample(9, torch.Generator().manual_seed(6))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_shipped_weights_come_as_float32() -> None:
    state = data.weights("fashion_mnist_ddpm")
    assert state["unet.stem.weight"].dtype == torch.float32


def test_packed_weights_come_as_others_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "ASSETS", tmp_path)
    content = safetensors.torch.save({"a": torch.ones(2).half(), "n": torch.tensor([3])})
    (tmp_path / "plain.safetensors").write_bytes(content)
    (tmp_path / "packed.safetensors.xz").write_bytes(lzma.compress(content))
    for name in ("plain", "packed"):
        state = data.weights(name)
        assert state["a"].dtype == torch.float32 and state["n"].dtype == torch.int64 and state["n"].item() == 3
    (tmp_path / "packed.safetensors.xz").write_bytes(lzma.compress(content)[:-9])
    with pytest.raises(data.DataError, match="packed.safetensors.xz cannot be read .* install the course again"):
        data.weights("packed")


def test_pictures_are_no_weights() -> None:
    with pytest.raises(ValueError, match="no model 'mnist': choose one of"):
        data.weights("mnist")


def test_a_model_that_is_not_shipped_is_named() -> None:
    with pytest.raises(ValueError, match="no model 'nonsense': choose one of .*fashion_mnist_ddpm"):
        data.weights("nonsense")


def test_damaged_weights_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "ASSETS", tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(data.DataError, match="cut.safetensors cannot be read .* install the course again"):
        data.weights("cut")


# --- ranges of pixels ---------------------------------------------------------------------------------------

RAW = data.embedded("fashion_mnist", "test")[0][:64].unsqueeze(1)
RIGHT = data.to_unit_range(RAW[:, 0])


@pytest.mark.parametrize(
    ("pictures", "mend"),
    [
        (RAW, lambda x: x.float() / 127.5 - 1),
        (RAW.float(), lambda x: x / 127.5 - 1),
        (RAW.double(), lambda x: x / 127.5 - 1),
        ((RIGHT + 1) / 2, lambda x: 2 * x - 1),
    ],
)
def test_the_cure_for_a_wrong_range_cures(pictures, mend) -> None:
    fault = data.pixel_fault(pictures)
    cure = re.search(r"with (.*)$", fault)[1]
    assert eval(f"lambda x: {cure}")(pictures).sub(mend(pictures)).abs().max() == 0
    assert data.pixel_fault(mend(pictures)) == ""
    torch.testing.assert_close(mend(pictures).float(), RIGHT)


@pytest.mark.parametrize(
    ("pictures", "said"),
    [
        (((RIGHT + 1) / 2 - 0.286) / 0.353, "undo what they were normalised with"),
        (RIGHT / 2, "with a background of -0.50"),
        (0.06 + 0.94 * (RIGHT + 1) / 2, "rescale with 2 * x - 1"),
        (RIGHT * math.nan, "not NaN or infinity"),
        (RIGHT.numpy(), "not a ndarray: make a tensor"),
    ],
)
def test_other_ranges_are_named(pictures, said) -> None:
    assert said in data.pixel_fault(pictures)


@pytest.mark.parametrize(
    "pictures",
    [RIGHT, RIGHT.double(), 0.9 * RIGHT, 1.2 * RIGHT, torch.ones(2, 1, 28, 28), 0.2 * torch.randn(9, 1, 28, 28)],
)
def test_good_poor_and_flat_pictures_pass(pictures) -> None:
    assert data.pixel_fault(pictures) == ""


def test_noise_on_pictures_passes_where_it_may() -> None:
    noisy = RIGHT + torch.randn(RIGHT.shape, generator=torch.Generator().manual_seed(0))
    assert data.pixel_fault(noisy) and not data.pixel_fault(noisy, strict=False)
    with pytest.raises(ValueError, match=r"Pictures in \[-1, 1\] are wanted, not in \[0.00, 1.00\]: rescale"):
        data.check_pixels((RIGHT + 1) / 2, "Pictures", strict=False)
