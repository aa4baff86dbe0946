"""Emoji in four hands: a thousand things, each drawn by Noto, Fluent, Twemoji and Emoji One, in colour, always there.

Every picture says what it is (a name and a group) and whose hand drew it, and for each there is the same thing in
another hand. Flags and skin tones are left out. Licences and authors: MANIFEST.json and LICENSES/emoji.txt.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from .data import ASSETS, SPLITS, DataError, to_unit_range

FOLDER = ASSETS / "emoji"
COLUMNS = 34  # of a sheet of pictures
HANDS = {"noto": "Noto", "fluent": "Fluent", "twemoji": "Twemoji", "emojione": "Emoji One"}

# Groups whose pictures mean the same when mirrored; letters, arrows, clocks and road signs do not.
MIRRORS = ("Activities", "Animals & Nature", "Food & Drink", "People & Body", "Smileys & Emotion")


@dataclass(frozen=True)
class Emoji:
    """Pictures in memory, thing by thing: those of one thing in all hands follow one another.

    Attributes:
        x: float32 tensor (N, 3, size, size) in [-1, 1], on white.
        y: int64 tensor (N,), the class of each picture: `group * len(hands) + hand`.
        classes: what a class is called, such as "Animals & Nature, Noto".
        names: what each picture shows, N words such as "dog-face".
        group, hand: int64 tensors (N,), of which `groups` and `hands` give the names.
        source: where the pictures came from, in words.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    names: tuple[str, ...]
    group: Tensor
    hand: Tensor
    groups: tuple[str, ...]
    hands: tuple[str, ...]
    source: str = "the course's emoji"

    def __len__(self) -> int:
        return len(self.x)

    def label(self, group: str, hand: str) -> int:
        """The class of a group in a hand; ValueError for an unknown one."""
        for name, known in ((group, self.groups), (hand, self.hands)):
            if name not in known:
                raise ValueError(f"There is no {name!r}: choose one of {', '.join(known)}.")
        return self.groups.index(group) * len(self.hands) + self.hands.index(hand)


def emoji(split: str = "train", *, folder: str | Path = FOLDER) -> Emoji:
    """All emoji of one split. The splits share no thing: what is in "test" is not in "train" in any hand.

    Args:
        split: "train" or "test".
        folder: where the sheets are; others are drawn by `python -m authoring.emoji 64 FOLDER`.

    Raises:
        ValueError: unknown split.
        DataError: a file is damaged or missing.
    """
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r} of the emoji: choose 'train' or 'test'.")
    folder = Path(folder)
    try:
        about = json.loads((folder / "things.json").read_text("utf-8"))
        sheets = [pil_to_tensor(Image.open(folder / f"{hand}.webp").convert("RGB")) for hand in HANDS]
        size, columns, groups = about["size"], about["columns"], tuple(about["groups"])
        chosen = [(i, *thing[:2]) for i, thing in enumerate(about["things"]) if thing[2] == SPLITS.index(split)]
        which = torch.tensor([i for i, _, _ in chosen])
        cut = torch.stack([_cut(sheet, size, columns)[which] for sheet in sheets], dim=1)  # (things, hands, 3, s, s)
    except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise DataError(f"The emoji in {folder.name} cannot be read ({error}): install the course again.") from error
    hands = tuple(HANDS.values())
    group = torch.tensor([group for _, _, group in chosen]).repeat_interleave(len(hands))
    hand = torch.arange(len(hands)).repeat(len(chosen))
    return Emoji(
        x=to_unit_range(cut.flatten(0, 1)),
        y=group * len(hands) + hand,
        classes=tuple(f"{group}, {hand}" for group in groups for hand in hands),
        names=tuple(name for _, name, _ in chosen for _ in hands),
        group=group,
        hand=hand,
        groups=groups,
        hands=hands,
    )


def _cut(sheet: Tensor, size: int, columns: int) -> Tensor:
    """A sheet (3, rows * size, columns * size) to its pictures (rows * columns, 3, size, size)."""
    parts = sheet.unfold(1, size, size).unfold(2, size, size)  # (3, rows, columns, size, size)
    if parts.shape[2] != columns:
        raise ValueError(f"{parts.shape[2]} columns in place of {columns}")
    return parts.permute(1, 2, 0, 3, 4).flatten(0, 1)
