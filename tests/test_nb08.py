"""What notebook 08 exports and the phantom, against scikit-image's scanner and dcmtk's reader."""

from __future__ import annotations

import json
import math
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
import torch
from torch import Tensor

from course_utils import brains, data, phantoms, pictures
from course_utils.lessons import nb08_medical_synthesis as nb08


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def people() -> tuple[Tensor, Tensor]:
    """Forty scanned heads and their requests."""
    return phantoms.patients(40, rng(1))


@pytest.fixture(scope="module")
def heads() -> Tensor:
    """Two heads before the scanner (2, 1, 48, 48), in HU."""
    return phantoms.head(phantoms.draw_parameters(2, rng(2)), phantoms.draw_anatomy(2, rng(3)))


# --- the scanner --------------------------------------------------------------------------------------------


def test_projections_and_pictures_are_scikit_images(heads) -> None:
    transform = pytest.importorskip("skimage.transform")
    density = (phantoms.WATER * (1 + heads[0, 0] / 1000)).clamp(min=0)
    angles = (np.arange(72) + 0.5) * 180 / 72
    theirs = transform.radon(density.numpy(), angles, circle=True) * phantoms.PIXEL
    ours = (density.flatten() @ phantoms.projector().T).view(72, -1)
    assert np.abs(theirs.sum(axis=0) - ours.sum(dim=1).numpy()).max() < 1e-3 * theirs.sum(axis=0).max()
    back = transform.iradon(theirs / phantoms.PIXEL, angles, filter_name="hann", circle=True)
    hu = 1000 * (back / phantoms.WATER - 1)
    scanned = phantoms.scan(heads[:1], torch.tensor([6.0]), None)[0, 0].numpy()
    assert np.corrcoef(hu.ravel(), scanned.ravel())[0, 1] > 0.999
    assert np.abs((hu - scanned)[14:34, 14:34]).mean() < 6


def test_ten_times_the_photons_give_a_third_of_the_noise(heads) -> None:
    clean = phantoms.scan(heads[:1], torch.tensor([5.0]), None)
    spread = []
    for dose in (5.0, 6.0):
        noisy = phantoms.scan(heads[:1].expand(20, -1, -1, -1), torch.full((20,), dose), rng(4))
        spread.append((noisy - clean)[..., 18:30, 18:30].std().item())
    assert spread[0] / spread[1] == pytest.approx(math.sqrt(10), rel=0.1)


def test_a_lesion_is_where_and_what_its_request_says() -> None:
    asked = phantoms.draw_parameters(30, rng(5))
    anatomy = phantoms.draw_anatomy(30, rng(6))
    gap = (phantoms.head(asked, anatomy) - phantoms.head(asked, anatomy, lesion=False))[:, 0]
    x, y = phantoms.grid()
    total = gap.sum(dim=(1, 2))
    place = torch.stack([(gap * x).sum(dim=(1, 2)), (gap * y).sum(dim=(1, 2))], dim=1) / total[:, None]
    assert (place - phantoms.place_of(asked)).abs().max() < 0.5
    area = total / asked[:, 3] * phantoms.PIXEL**2
    assert ((area / math.pi).sqrt() / asked[:, 0] - 1).abs().max() < 0.06


def test_every_drawn_request_is_possible() -> None:
    for row in phantoms.draw_parameters(300, rng(7), rare_share=0.5):
        nb08.request(**dict(zip(phantoms.NAMES, row.tolist())))


def test_cohorts_are_the_same_every_time_and_share_nobody() -> None:
    again = phantoms.patients(64, torch.Generator().manual_seed(phantoms.COHORTS["control"][1]))
    x, asked = phantoms.cohort("control")
    assert torch.equal(again[0], x) and torch.equal(again[1], asked)
    other = phantoms.patients(64, torch.Generator().manual_seed(phantoms.COHORTS["test"][1]))[1]
    assert torch.cdist(asked, other).min() > 0
    with pytest.raises(ValueError, match="no cohort 'all'"):
        phantoms.cohort("all")


def test_pictures_come_back_as_hu_within_the_window() -> None:
    hu = torch.linspace(-300, 400, 71).view(1, 1, 1, 71)
    low, high = 40 - 120, 40 + 120
    assert torch.allclose(phantoms.to_hu(phantoms.to_picture(hu)), hu.clamp(low, high), atol=1e-3)


def test_a_slice_as_thick_as_a_ball_holds_two_thirds_of_it_in_the_middle_and_less_at_the_edge() -> None:
    asked, anatomy = torch.tensor([[12.0, 30, 0, 60, 6, 70]]), phantoms.draw_anatomy(1, rng(21))
    plain = phantoms.head(asked, anatomy, lesion=False)
    x, y = phantoms.grid()
    for thickness in (0.0, 8.0, 24.0, 48.0):
        gap = (phantoms.head(asked, anatomy, thickness=thickness) - plain)[0, 0]
        total = gap.sum().item() * phantoms.PIXEL**2
        if thickness >= 24:  # the whole ball is in the slice: its volume over the slice's thickness
            assert total == pytest.approx(60 * 4 / 3 * math.pi * 12**3 / thickness, rel=0.05)
        middle = gap[(x - 30) ** 2 + y**2 < 9].max().item()
        assert middle == pytest.approx(60 * min(1, 24 / max(thickness, 1e-9)), rel=0.1)


# --- brains -------------------------------------------------------------------------------------------------


def test_slices_of_a_brain_lie_where_their_places_say() -> None:
    requests = torch.tensor([[0, 13.2], [1, -40.7], [2, 22.9]])
    brain, places = brains.volume("mni152"), brains.places(requests)
    at = torch.stack([(places[:, a] - brains.CENTRE[a]) / brains.STEP + 31.5 for a in range(3)], dim=1)
    grid = (2 * at / 63 - 1).flip(1).permute(0, 2, 3, 1).reshape(1, -1, 1, 1, 3)  # z, y, x: last axis first
    sampled = torch.nn.functional.grid_sample(brain[None, None], grid, align_corners=True)
    assert torch.allclose(sampled.view(3, 1, 64, 64), brains.slices("mni152", requests), atol=1e-4)


def test_requests_keep_to_the_slabs_and_ranges() -> None:
    seen, kept = (brains.draw_requests(300, rng(22), unseen=unseen) for unseen in (False, True))
    assert not brains.held_out(seen).any() and brains.held_out(kept).all()
    for requests in (seen, kept):
        orientation = requests[:, 0].long()
        assert (requests[:, 1] >= brains.LOW[orientation]).all() and (requests[:, 1] <= brains.HIGH[orientation]).all()
        assert set(orientation.tolist()) == {0, 1, 2}


def test_this_average_is_symmetrical_and_no_person_is() -> None:
    halves = {name: brains.volume(name) - brains.volume(name).flip(0) for name in ("mni152", "colin27")}
    assert halves["mni152"].abs().max() < 0.01 < halves["colin27"].abs().mean()
    with pytest.raises(ValueError, match="no brain 'ch2'"):
        brains.volume("ch2")


def test_grey_and_white_matter_are_shares_of_what_is_brain() -> None:
    grey, white = brains.volume("grey"), brains.volume("white")
    assert (grey + white).max() < 1.1 and ((grey + white) > 0.5)[brains.volume("mni152") < 0.02].float().mean() < 0.01


def test_the_network_of_slices_gives_the_outline_that_is_asked_for() -> None:
    requests = brains.draw_requests(24, rng(23))
    x = nb08.sample_brain(nb08.shipped("brain"), requests, rng(24))
    real = 2 * brains.slices("mni152", requests) - 1
    overlap = ((x > -0.3) & (real > -0.3)).sum() / ((x > -0.3) | (real > -0.3)).sum()
    mixed_up = ((x > -0.3) & (real.roll(1, 0) > -0.3)).sum() / ((x > -0.3) | (real.roll(1, 0) > -0.3)).sum()
    assert overlap > 0.92 and mixed_up < 0.8


def test_planes_of_waves_tell_neighbouring_places_apart() -> None:
    places = brains.places(torch.tensor([[0, 0.0], [0, 3.0], [0, 30.0]]))
    planes = nb08.waves(places)
    assert planes.shape == (3, 21, 64, 64) and planes.abs().max() < 1.3
    near, far = ((planes[0] - planes[k]).square().mean().sqrt() for k in (1, 2))
    assert 0.02 < near < far


# --- requests -----------------------------------------------------------------------------------------------


def test_neighbouring_angles_have_neighbouring_codes() -> None:
    asked = torch.tensor([[12.0, 36, angle, 50, 5, 66] for angle in (1.0, 359.0, 180.0)])
    near, far = (nb08.encode(asked)[0] - nb08.encode(asked)[k] for k in (1, 2))
    assert near.norm() < 0.05 and far.norm() > 1.9


def test_planes_are_least_at_the_lesion_and_empty_where_it_is_not_known() -> None:
    asked = phantoms.draw_parameters(6, rng(8))
    away = nb08.planes(nb08.encode(asked), phantoms.SIZE)[:, 2]
    x, y = (part.flatten() for part in phantoms.grid())
    least = away.flatten(1).argmin(dim=1)
    place = torch.stack([x[least], y[least]], dim=1)
    assert (place - phantoms.place_of(asked)).abs().max() <= phantoms.PIXEL / 2 + 1e-3
    edge = nb08.edge(nb08.encode(asked), phantoms.SIZE).flatten(1)
    assert torch.allclose(edge.amin(dim=1), -asked[:, 0] / 10, atol=0.3)
    asked[:, 2] = math.nan
    encoded = nb08.encode(asked)
    assert nb08.planes(encoded, 24)[:, :3].abs().max() == 0 and nb08.edge(encoded, 24).abs().max() == 0


def test_what_is_missing_is_no_error_of_the_regressor() -> None:
    asked = phantoms.draw_parameters(9, rng(9))
    whole = nb08.encode(asked)
    asked[:, 0] = math.nan
    holed = nb08.encode(asked)
    found = whole[:, :7].clone()
    found[:, 0] += 5
    assert nb08.numbers_loss(found, whole) > 1 and nb08.numbers_loss(found, holed) < 1e-12
    asked[:] = math.nan
    assert nb08.numbers_loss(found, nb08.encode(asked)) == 0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"radius": -1}, "lies between 8 and 16 mm, not -1"),
        ({"radius": 1.2}, "centimetres"),
        ({"contrast": math.nan}, "leave it out"),
        ({"contrast": math.inf}, "leave it out"),
        ({"radius": "12"}, "is a number of mm"),
        ({"radius": True}, "is a number of mm"),
        ({"dose": 1e5}, "logarithm"),
        ({"size": 3}, "Nobody can ask for 'size'"),
        ({"radius": 16, "distance": 40, "head": 60}, "does not fit a head"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(asked, said) -> None:
    with pytest.raises(ValueError, match=said) as refusal:
        nb08.request(**asked)
    assert "\n" not in str(refusal.value)


# --- the judge ----------------------------------------------------------------------------------------------


def test_the_judge_reads_real_scans_and_is_not_fooled_by_other_requests(people) -> None:
    x, asked = people
    found = nb08.measure(x)
    e = nb08.errors(found, asked)
    assert e["place"] < 0.4 and e["radius"] < 0.12 and e["contrast"] < 0.15 and e["lost"] == 0
    other = nb08.errors(found, asked.roll(1, dims=0))
    assert other["place"] > 5 and other["lost"] > 0.8


def test_the_judges_derivatives_are_autograds() -> None:
    theta = torch.tensor([[3.0, -7.0, 11.0, 40.0, 35.0]]).double()
    x, y = (part.double().flatten()[::37] for part in phantoms.grid())
    wanted = torch.autograd.functional.jacobian(lambda t: nb08.disk_model(t, x, y)[0][0], theta)[:, 0]
    assert torch.allclose(nb08.disk_model(theta, x, y)[1][0], wanted, atol=1e-6)


def test_shipped_networks_put_lesions_where_they_are_asked_for() -> None:
    asked = phantoms.draw_parameters(40, rng(11))
    samplers = {"gan": nb08.sample_gan, "diffusion": nb08.sample_diffusion}
    for name, sampler in samplers.items():
        e = nb08.errors(nb08.measure(sampler(nb08.shipped(name), asked, rng(12))), asked)
        assert e["place"] < 1.5 and e["lost"] < 0.2


def test_a_picture_does_not_depend_on_the_others() -> None:
    asked, gan = phantoms.draw_parameters(3, rng(13)), nb08.shipped("gan")
    three, one = nb08.sample_gan(gan, asked, rng(14)), nb08.sample_gan(gan, asked[:1], rng(14))
    assert torch.allclose(three[:1], one, atol=1e-5)


# --- safety and files ---------------------------------------------------------------------------------------


def test_the_auc_interval_is_one_half_with_the_textbooks_width() -> None:
    low, high = nb08.auc_interval(0.5, 100, 100)
    assert (low + high) / 2 == pytest.approx(0.5) and high - low == pytest.approx(2 * 1.96 * 0.0409, rel=0.02)


@pytest.fixture
def file(tmp_path):
    asked = torch.tensor([14.0, 36, 40, 60, math.nan, 70])
    x = torch.linspace(-1, 1, 48 * 48).view(1, 48, 48)
    path = tmp_path / "synthetic.dcm"
    nb08.to_dicom(x, asked).save_as(path, enforce_file_format=True)
    return path, x


def test_a_file_says_that_it_is_synthetic_and_gives_the_picture_back(file) -> None:
    path, x = file
    found = pydicom.dcmread(path)
    assert found.ImageType[0] == "DERIVED" and "SYNTHETIC" in found.SeriesDescription
    assert (nb08.from_dicom(found)[7:] - phantoms.to_hu(x)[0, 7:]).abs().max() <= 0.5
    kept = found.private_block(0x0011, "GANS TO DIFFUSION")[0x01].value
    assert '"radius": 14.0' in kept and "dose" not in kept


def test_the_hidden_mark_comes_back_out_of_a_file_and_letters_on_top_of_it_do_harm(tmp_path) -> None:
    asked = phantoms.draw_parameters(12, rng(25))
    x, path = nb08.sample_gan(nb08.shipped("gan"), asked, rng(26)), tmp_path / "marked.dcm"

    def strength(picture: Tensor, row: Tensor, hidden: bool) -> float:
        nb08.to_dicom(picture, row, hidden=hidden).save_as(path, enforce_file_format=True)
        return pictures.mark_strength(phantoms.to_picture(nb08.from_dicom(pydicom.dcmread(path)))[None])

    marked, plain, before = (
        np.array([strength(make(picture), row, hidden) for picture, row in zip(x, asked)])
        for make, hidden in ((lambda p: p, True), (lambda p: p, False), (pictures.with_mark, False))
    )
    assert marked.min() >= pictures.THRESHOLD > plain.max()
    assert np.median(before) < np.median(marked)


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="dcmtk is not installed")
def test_dcmtk_reads_the_file(file) -> None:
    done = subprocess.run(["dcmdump", str(file[0])], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr.strip()
    for words in (r"DERIVED\SECONDARY\AXIAL", "SYNTHETIC^PHANTOM", "RescaleIntercept", r"4.0\4.0"):
        assert words in done.stdout


def test_nothing_that_names_somebody_is_left_and_a_series_stays_one(file) -> None:
    file = pydicom.dcmread(file[0])
    file.PatientName, file.PatientBirthDate, file.InstitutionName = "Doe^Jane", "19700101", "A hospital"
    inner = pydicom.dataset.Dataset()
    inner.PatientID, inner.StudyInstanceUID = "4711", file.StudyInstanceUID
    file.ReferencedStudySequence = [inner]
    file.OtherPatientNames, file.Occupation, file.AdditionalPatientHistory = "Roe^Jane", "Pilot", "seen by Dr Moe"
    file.IrradiationEventUID = event = pydicom.uid.generate_uid()
    file.add_new(0x60003000, "OW", b"4711")  # an overlay
    uids: dict[str, str] = {}
    first, second = nb08.deidentified(file, uids), nb08.deidentified(file, uids)
    text = str(first)
    telling = ("Doe", "19700101", "A hospital", "4711", "GANS TO DIFFUSION", "Roe", "Pilot", "Moe", event)
    assert not any(words in text for words in telling) and 0x60003000 not in first
    assert first.StudyInstanceUID == second.StudyInstanceUID != file.StudyInstanceUID
    assert "ReferencedStudySequence" not in first
    assert first.file_meta.MediaStorageSOPInstanceUID == first.SOPInstanceUID
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID != file.FrameOfReferenceUID
    assert "AccessionNumber" in first and not first.AccessionNumber  # empty, and there
    assert first.SyntheticData == "YES"
    assert first.PatientIdentityRemoved == "YES" and file.PatientName == "Doe^Jane"


# --- stored tables ------------------------------------------------------------------------------------------


def test_the_tables_have_a_row_for_everything_that_is_compared() -> None:
    use = json.loads((data.ASSETS / "medical_use.json").read_text("utf-8"))
    for name in ("real", "real + GAN", "real + diffusion"):
        assert {10, 40, 160} <= {row["real"] for row in use if row["name"] == name}
    rows = json.loads((data.ASSETS / "medical_ablation.json").read_text("utf-8"))
    kinds = {(row["projection"], row["regressor"]): row["seed"] for row in rows}
    assert len(kinds) == 4 and len({row["steps"] for row in rows}) == 1
