"""The emoji: every thing in four hands, on white, split so that no thing is in both parts."""

import pytest
import torch

from authoring import emoji as make
from course_utils import data, emoji

TRAIN, TEST = emoji.emoji("train"), emoji.emoji("test")


def test_there_are_1054_things_in_four_hands_and_no_thing_is_in_both_parts() -> None:
    assert len(TRAIN) + len(TEST) == 4 * 1054
    assert not set(TRAIN.names) & set(TEST.names)
    for part in (TRAIN, TEST):
        assert part.x.shape == (len(part), 3, 32, 32) and part.x.dtype == torch.float32
        assert part.x.min() == -1 and part.x.max() == 1
        assert data.pixel_fault(part.x) == ""
        assert len(part.names) == len(part.y) == len(part.group) == len(part.hand) == len(part)
        assert set(part.group.tolist()) == set(range(8))  # every group is in both


@pytest.mark.parametrize("part", [TRAIN, TEST], ids=["train", "test"])
def test_the_hands_of_a_thing_follow_one_another_and_are_different_drawings(part) -> None:
    for i in range(0, len(part), 4):
        assert len(set(part.names[i : i + 4])) == len(set(part.group[i : i + 4].tolist())) == 1
        assert part.hand[i : i + 4].tolist() == [0, 1, 2, 3]
    x = part.x.view(-1, 4, 3, 32, 32)
    for a, b in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
        assert ((x[:, a] - x[:, b]).abs().amax(dim=(1, 2, 3)) > 0.05).all()


def test_the_same_thing_in_another_hand_is_nearer_than_another_thing() -> None:
    x = TEST.x.view(-1, 4, 3 * 32 * 32)
    own, other = (x[:, 0] - x[:, 2]).norm(dim=1), (x[:, 0] - x[:, 2].roll(1, dims=0)).norm(dim=1)
    assert (own < other).float().mean() > 0.85


def test_names_groups_and_classes_belong_together() -> None:
    for name, group in (
        ("dog-face", "Animals & Nature"),
        ("pizza", "Food & Drink"),
        ("red-heart", "Smileys & Emotion"),
    ):
        part = TRAIN if name in TRAIN.names else TEST
        i = part.names.index(name)
        assert part.groups[part.group[i]] == group
        assert part.classes[part.y[i]] == f"{group}, Noto" and part.y[i] == part.label(group, "Noto")
        red, green, blue = part.x[i].mean(dim=(1, 2)).tolist()
        assert name != "red-heart" or red > max(green, blue) + 0.2  # channels are in order
    assert torch.equal(TRAIN.y, 4 * TRAIN.group + TRAIN.hand)
    assert set(emoji.MIRRORS) <= set(TRAIN.groups)


def test_flags_and_skin_tones_are_left_out() -> None:
    assert not [
        name for name in (*TRAIN.names, *TEST.names) if name.startswith(("flag-of", "flag-for")) or "skin-tone" in name
    ]


def test_an_unknown_split_group_or_hand_is_one_sentence(tmp_path) -> None:
    with pytest.raises(ValueError, match="'train' or 'test'"):
        emoji.emoji("validation")
    with pytest.raises(ValueError, match="choose one of Activities"):
        TRAIN.label("Animals", "Noto")
    with pytest.raises(ValueError, match="choose one of Noto"):
        TRAIN.label("Activities", "noto")
    with pytest.raises(data.DataError, match="install the course again"):
        emoji.emoji(folder=tmp_path)
    for file in emoji.FOLDER.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert torch.equal(emoji.emoji(folder=tmp_path).x, TRAIN.x)
    (tmp_path / "noto.webp").write_bytes(b"RIFF")
    with pytest.raises(data.DataError, match="install the course again"):
        emoji.emoji(folder=tmp_path)


def test_an_alias_is_followed_unless_it_changes_the_picture() -> None:
    icons = {"icons": {"a": {"body": "<g/>"}}, "aliases": {"b": {"parent": "a"}, "c": {"parent": "a", "hFlip": True}}}
    assert make.entry(icons, "b") == icons["icons"]["a"]
    assert make.entry(icons, "c") is None and make.entry(icons, "d") is None


def test_a_drawing_keeps_its_box_and_is_laid_over_white() -> None:
    pytest.importorskip("resvg_py")
    body = '<path fill="#f00" d="M8 0h8v16H8z"/>'
    picture = make.drawn({"icons": {"half": {"body": body}}}, "half", 8)
    assert picture.size == (8, 8)
    assert picture.getpixel((1, 4)) == (255, 255, 255) and picture.getpixel((6, 4)) == (255, 0, 0)
