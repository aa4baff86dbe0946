"""Notebook 09's parts against independent references, and by what must break them."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.stats
import torch
import warm
from huggingface_hub import ModelCard
from PIL import Image

from course_utils import data, imagenet, metrics, pictures, provenance
from course_utils.lessons import nb05_ddpm_from_scratch as nb05
from course_utils.lessons import nb09_evaluation_and_release as nb09


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photo(n: int = 4, side: int = 128) -> torch.Tensor:
    return nb09.crops(n, side, rng(1))


# --- judging ------------------------------------------------------------------------------------------------


def test_a_metric_sees_praises_or_is_blind_by_all_of_its_draws() -> None:
    real = torch.tensor([[0.9, 2.0], [1.0, 2.1], [1.1, 1.9]])
    values = torch.tensor([[0.0, 1.0], [0.1, 0.9], [-0.2, 1.1]])
    assert nb09.verdicts(values, real, (1, -1)) == ["sees", "praises"]
    values[0] = real[0]  # one draw that does not differ
    assert nb09.verdicts(values, real, (1, -1)) == ["blind", "blind"]


@pytest.mark.filterwarnings("ignore:.* samples. below 2048")
def test_the_line_through_fd_takes_the_bias_of_small_samples_out() -> None:
    dim, found = 8, []
    real = torch.randn(200_000, dim, generator=rng(0), dtype=torch.float64)
    for n in (200, 400, 800):
        parts = [torch.randn(n, dim, generator=rng(7 * i + n), dtype=torch.float64) for i in range(30)]
        found.append(np.mean([metrics.frechet_distance(real, part) for part in parts]))
    assert found[0] > found[1] > found[2] > 0.01  # the same distribution, and yet no 0
    assert abs(nb09.fd_infinity([200, 400, 800], found)) < found[2] / 4


@pytest.mark.parametrize("right, n", [(9, 12), (0, 7), (50, 100), (200, 200)])
def test_wilsons_interval_is_scipys(right, n) -> None:
    wanted = scipy.stats.binomtest(right, n).proportion_ci(0.95, "wilson")
    assert nb09.wilson(right, n) == pytest.approx((wanted.low, wanted.high), abs=1e-4)
    with pytest.raises(ValueError, match="at least one answer"):
        nb09.wilson(1, 0)


def test_blur_keeps_the_mean_and_is_scipys() -> None:
    from scipy.ndimage import gaussian_filter

    x = torch.rand(1, 1, 30, 31, generator=rng(2))
    wanted = gaussian_filter(x[0, 0].double().numpy(), 0.8, mode="nearest", truncate=3.8)
    assert np.abs(nb09.blurred(x, 0.8)[0, 0].numpy() - wanted).max() < 1e-4


# --- watermark ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side, channels", [(28, 1), (64, 3)])
def test_scores_are_those_of_pictures_for_pictures_that_it_marked(tmp_path, side, channels) -> None:
    x = torch.rand(channels, side, side, generator=rng(3)) * 2 - 1
    path = pictures.save(x, tmp_path / "a.png", {}, kind="toy", visible=False, invisible=True)
    back = pictures.load(path)[0]
    c = nb09.coefficients((back[None] + 1) / 2)
    ours = nb09.z_scores(c, nb09.signs_of((side, side), pictures.KEY))[0]
    assert ours == pytest.approx(pictures.mark_strength(back), abs=1e-4) and ours > 4


def test_scores_without_a_mark_are_standard_normal() -> None:
    scores = nb09.null_scores(photo(8), [f"k{i}" for i in range(100)]).ravel()
    assert abs(scores.mean()) < 0.15 and 0.85 < scores.std() < 1.15
    one = nb09.null_scores(photo(2), ["a", "b"])
    wanted = [nb09.z_scores(nb09.coefficients(photo(2)), nb09.signs_of((128, 128), key)) for key in "ab"]
    assert one == pytest.approx(np.stack(wanted, axis=1), abs=1e-3)


def test_a_hamming_code_repairs_any_one_error_of_seven() -> None:
    bits = np.array([[int(b) for b in f"{i:04b}"] for i in range(16)]).ravel()
    words = nb09.hamming(bits)
    assert len(words) == 112 and (nb09.unhamming(words) == bits).all()
    for place in range(7):
        broken = words.reshape(-1, 7).copy()
        broken[:, place] ^= 1
        assert (nb09.unhamming(broken.ravel()) == bits).all()


def test_a_message_comes_back_and_not_under_another_key() -> None:
    bits = np.random.RandomState(1).randint(0, 2, 16)
    signs = nb09.signs_of((128, 128), "a")
    x = nb09.embed(photo(), nb09.carrying(signs, bits), 4.0)
    assert (nb09.message(nb09.coefficients(x), signs, 16) == bits).all()
    other = nb09.message(nb09.coefficients(x), nb09.signs_of((128, 128), "b"), 16)
    assert (other == bits).mean() < 0.9


def test_turning_there_and_back_and_jpeg_keep_the_picture() -> None:
    x = photo(2)
    inside = (..., slice(20, -20), slice(20, -20))
    assert (nb09.turned(nb09.turned(x, 5), -5) - x)[inside].abs().mean() < 0.05
    assert torch.allclose(nb09.turned(x, 0), x, atol=1e-4)
    assert (nb09.through_jpeg(x, 95) - x).abs().mean() < 0.02
    assert nb09.through_jpeg(x[:, :1], 50).shape == x[:, :1].shape


# --- a mark in the starting noise, a search, intervals -------------------------------------------------------


def white(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 1, 28, 28, generator=rng(seed))


def test_a_ring_is_symmetric_and_its_key_has_the_power_of_white_noise() -> None:
    ring, key = nb09.rings(), nb09.ring_key("a")
    assert set(ring.unique().tolist()) == {0, *range(5, 13)}
    assert (key != 0).equal(ring > 0) and not torch.equal(key, nb09.ring_key("b"))
    assert key.equal(nb09.ring_key("a")) and all(len(key[ring == r].unique()) == 1 for r in range(5, 13))
    power = nb09.fourier(white(200))[..., ring > 0].abs().square().mean()
    assert key[ring > 0].square().mean().item() == pytest.approx(power.item(), rel=0.05)


@pytest.mark.parametrize("share", [0.0, 0.35, 1.0])
def test_rings_go_into_noise_as_their_share_and_leave_the_rest(share) -> None:
    noise, key = white(300), nb09.ring_key("a")
    marked = nb09.with_rings(noise, key, share)
    was, now, inside = nb09.fourier(noise), nb09.fourier(marked), key != 0
    assert torch.allclose(was[..., ~inside], now[..., ~inside], atol=1e-3)
    assert torch.allclose(now[..., inside].mean(dim=0).real, share * key[inside].expand(1, -1), atol=6)
    assert marked.square().mean().item() == pytest.approx(1, abs=0.05)
    scores = nb09.ring_scores(marked, [key, nb09.ring_key("b")])
    assert scores.shape == (300, 2) and abs(nb09.ring_scores(noise, [key])).max() < 0.3
    assert scores[:, 0].mean() == pytest.approx(share / math.sqrt((1 + share**2) / 2), abs=0.05)


def test_turned_rings_stay_and_shifted_ones_do_not() -> None:
    key = nb09.ring_key("a")
    alone = nb09.with_rings(torch.zeros(1, 1, 28, 28), key, 1.0)
    quarter = alone.transpose(2, 3).flip(2).roll(1, 2)  # about pixel 14, the origin
    for x, low, high in ((alone, 0.999, 1.001), (quarter, 0.999, 1.001), (alone.roll(9, 3), -1, 0.5)):
        assert low < nb09.ring_scores(x, [key]).item() < high


def test_noise_comes_back_from_a_sample_and_with_it_the_mark() -> None:
    net, noise, key = nb05.pretrained(), white(8), nb09.ring_key("a")
    labels = torch.arange(8)
    plain, marked = (nb09.grown(net, nb09.with_rings(noise, key, share), labels) for share in (0.0, 1.0))
    assert plain.shape == (8, 1, 28, 28) and torch.equal((plain * 255).round() / 255, plain)
    back = nb09.noise_behind(net, plain)
    assert np.corrcoef(back.flatten(), noise.flatten())[0, 1] > 0.3
    without, found = (nb09.ring_scores(nb09.noise_behind(net, x), [key])[:, 0] for x in (plain, marked))
    assert found.mean() > 0.5 and found.min() > 0.35 > without.max()


def test_a_search_finds_a_crop_that_lies_on_its_grid() -> None:
    x = photo(3, 256)
    assert torch.allclose(nb09.put_back(x, 0, 0, 0), x, atol=1e-6)
    back = nb09.put_back(imagenet.resized(x[..., 16:, 16:], 256), 16, 16, 16)
    assert back.shape == x.shape and (back - x)[..., 16:, 16:].abs().mean() < 0.03
    assert (back[..., :17, 20] == back[..., 16:17, 20]).all()
    marked = nb09.embed(x, nb09.signs_of((256, 256), "a"), 4.0)
    scores = nb09.searched(imagenet.resized(marked[..., 16:, 16:], 256), ["a", "b"])
    assert scores.shape == (3, 2) and scores[:, 0].min() > 5 > scores[:, 1].max()


@pytest.mark.filterwarnings("ignore:.* samples. below 2048")
def test_the_jackknifes_errors_are_near_the_spread_of_fresh_sets_or_above() -> None:
    held = data.to_unit_range(data.embedded("fashion_mnist", "test")[0])
    every = data.to_unit_range(data.embedded("fashion_mnist", "train")[0])
    real, train = (metrics.features(x, "fashion_mnist").double() for x in (held[:1000], every[:1000]))
    known = (train, real, held[:1000])
    sets = every[2000:4400].split(300)
    fresh = torch.tensor([nb09.all_metrics(x, *known) for x in sets]).std(dim=0)
    ours = torch.stack([nb09.standard_errors(x, known) for x in sets[:3]]).mean(dim=0)
    ratio = dict(zip(nb09.METRICS, (ours / fresh).tolist()))
    neighbours = [ratio.pop(name) for name in ("recall", "coverage", "copy share")]
    assert all(0.5 < r < 2 for r in ratio.values()), ratio
    assert min(neighbours) > 0.8, neighbours  # too wide, and not too narrow


# --- provenance ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signed() -> tuple[bytes, provenance.Chain]:
    chain = provenance.test_chain()
    x = torch.rand(1, 40, 40, generator=rng(5)) * 2 - 1
    return provenance.signed(provenance.png(x), chain, "a bag", "course-model", {"seed": 3}), chain


def test_a_manifest_is_verified_and_its_signer_trusted_by_nobody_else(signed) -> None:
    file, chain = signed
    found = provenance.read(file)
    assert found.state == "Valid" and found.faults == ("signingCredential.untrusted",)
    assert (found.generator, found.source, found.settings) == ("course-model", "trainedAlgorithmicMedia", {"seed": 3})
    assert provenance.read(file, trust=chain).state == "Trusted"
    assert provenance.read(file, trust=provenance.test_chain()).state == "Valid"


def test_one_changed_bit_is_found_and_saving_again_strips_the_manifest(signed) -> None:
    file, chain = signed
    changed = provenance.with_one_pixel_changed(file)
    before, after = (np.asarray(Image.open(io.BytesIO(f))).astype(int) for f in (file, changed))
    assert np.abs(before - after).max() >= 1 and (before != after).sum() >= 1
    assert "assertion.dataHash.mismatch" in provenance.read(changed, trust=chain).faults
    renamed = provenance.read(file.replace(b"course-model", b"camera-model"), trust=chain)
    assert renamed.state == "Invalid" and "claimSignature.mismatch" in renamed.faults
    assert provenance.read(provenance.resaved(Image.open(io.BytesIO(file)))).state == "none"


def test_without_the_libraries_one_sentence_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(provenance, "available", lambda: False)
    for call in (provenance.test_chain, lambda: provenance.read(b""), lambda: provenance.signed(b"", None, "", "", {})):
        with pytest.raises(pictures.PictureError, match="pip install c2pa-python"):
            call()


# --- gate, log and card -------------------------------------------------------------------------------------

GOOD, LIMITS = {"FD": 5.0}, {"FD": (0, 30)}


def asked(log, measured=None, **more):
    more = {"approved": True, "by": "t"} | more
    return nb09.release("m", GOOD if measured is None else measured, LIMITS, log=log, **more)


class Yes:
    """True to whoever asks by `if` or `==`."""

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return True


@pytest.mark.parametrize("approved", [1, "yes", [True], np.True_, torch.tensor(True), Yes(), None, False])
def test_only_true_is_approval(tmp_path, approved) -> None:
    with pytest.raises(nb09.ReleaseError, match="ask whoever answers for it"):
        asked(tmp_path / "log", approved=approved)
    assert [e["entry"]["open"] for e in nb09.read_log(tmp_path / "log")] == [False]


@pytest.mark.parametrize("value", [31, -1, math.nan, math.inf, None, "5", True])
def test_a_bad_measurement_shuts_the_gate_and_every_reason_is_said(tmp_path, value) -> None:
    with pytest.raises(nb09.ReleaseError, match=r"FD is .*not in \(0, 30\).*approved") as caught:
        asked(tmp_path / "log", {"FD": value}, approved=False)
    assert isinstance(caught.value, PermissionError)


def test_only_a_receipt_of_an_opened_gate_publishes(tmp_path) -> None:
    log = tmp_path / "log"
    receipt = asked(log)
    assert nb09.publish("m", receipt, log) == "m may leave"
    with pytest.raises(nb09.ReleaseError):
        asked(log, {})
    shut = nb09.read_log(log)[-1]["hash"]
    for name, forged in (("m", ""), ("m", shut), ("other", receipt), ("m", receipt[::-1])):
        with pytest.raises(nb09.ReleaseError, match="no receipt"):
            nb09.publish(name, forged, log)


def test_a_torn_end_is_set_aside_at_every_byte_and_a_changed_line_is_not(tmp_path) -> None:
    log = tmp_path / "log"
    for i in range(3):
        nb09.append_log(log, {"i": i})
    whole = log.read_bytes()
    second = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    for cut in range(second, len(whole)):
        log.write_bytes(whole[:cut])
        assert [e["entry"]["i"] for e in nb09.read_log(log)] == [0, 1], cut
        nb09.append_log(log, {"i": 9})
        assert [e["entry"]["i"] for e in nb09.read_log(log)] == [0, 1, 9], cut
    lines = whole.splitlines(keepends=True)
    for bad in (
        whole.replace(b'"i": 1', b'"i": 7'),
        lines[0] + lines[2],
        lines[1] + lines[2],
        lines[1] + lines[0] + lines[2],
    ):
        log.write_bytes(bad)
        with pytest.raises(nb09.ReleaseError, match="does not fit"):
            nb09.read_log(log)


def test_a_process_killed_while_it_writes_leaves_a_log_that_reads(tmp_path) -> None:
    log = tmp_path / "log"
    program = (
        "import sys; from pathlib import Path\n"
        "from course_utils.lessons import nb09_evaluation_and_release as nb09\n"
        "i = 0\nprint('ready', flush=True)\n"
        "while True:\n    nb09.append_log(Path(sys.argv[1]), {'i': i, 'x': 'y' * 5000}); i += 1\n"
    )
    for delay in (0.05, 0.2):
        before = len(nb09.read_log(log))
        with (tmp_path / f"said {delay}").open("w+") as said:
            victim = warm.Popen([sys.executable, "-c", program, str(log)], stdout=said, stderr=subprocess.STDOUT)
            while victim.poll() is None and not said.read():
                time.sleep(0.01)
            with pytest.raises(subprocess.TimeoutExpired):  # else it ended by itself
                victim.wait(timeout=delay)
            victim.kill()
            victim.wait()
        assert len(nb09.read_log(log)) >= before


def test_the_card_is_read_by_the_hubs_parser_with_the_measured_numbers() -> None:
    card = nb09.model_card("m", {"FD": 5.123456, "copy share": 0.5}, 1000, ["small"])
    parsed = ModelCard(card)
    assert {r.metric_type: r.metric_value for r in parsed.data.eval_results} == {"fd": 5.1235, "copy-share": 0.5}
    assert parsed.data.license == "mit" and parsed.data.datasets == ["fashion_mnist"]
    for words in ("Intended use", "Training data", "Limits", "- small", "| FD | 5.12 |"):
        assert words in card


def test_the_checklist_says_what_failed_and_does_not_stop() -> None:
    found = nb09.checklist({"a": lambda: True, "b": lambda: False, "c": lambda: 1 / 0, "d": lambda: "yes"})
    assert found == {"a": "held", "b": "FAILED", "c": "FAILED (ZeroDivisionError)", "d": "FAILED"}


def test_a_changed_asset_is_noticed(tmp_path, monkeypatch) -> None:
    assert nb09.assets_intact()
    content = (data.ASSETS / "fashion_mnist_classifier.safetensors").read_bytes()
    name = "fashion_mnist_classifier.safetensors"
    manifest = json.loads((data.ASSETS / "MANIFEST.json").read_text("utf-8"))
    (tmp_path / "MANIFEST.json").write_text(json.dumps({name: manifest[name]}), "utf-8")
    monkeypatch.setattr(data, "ASSETS", tmp_path)
    (tmp_path / name).write_bytes(content)
    assert nb09.assets_intact()
    (tmp_path / "MANIFEST.json").write_text(json.dumps({name: manifest[name] | {"bytes": 1}}), "utf-8")
    assert not nb09.assets_intact()
    (tmp_path / "MANIFEST.json").write_text(json.dumps({name: manifest[name]}), "utf-8")
    (tmp_path / "fashion_mnist_classifier.safetensors").write_bytes(content[:-1] + b"x")
    assert not nb09.assets_intact()
    (tmp_path / "fashion_mnist_classifier.safetensors").unlink()
    assert not nb09.assets_intact()  # missing


def test_stored_samples_are_pictures_of_two_models() -> None:
    found = data.samples("fashion_mnist_samples")
    assert set(found) == {"ddpm_pipeline", "latent_pipeline"}
    for x in found.values():
        assert x.shape == (1000, 1, 28, 28) and x.min() >= -1 and x.max() <= 1 and x.std() > 0.3
