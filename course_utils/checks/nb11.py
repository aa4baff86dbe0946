"""Checks for notebook 11, by independent references and by published mistake."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import WrongAnswer, exercise, expect, reject, tensor
from . import use as use
from .nb04 import normal, same, untouched


def _apart(bits: Tensor) -> Tensor:
    return (bits[:, None] != bits).sum(dim=2)


def _closed(linked: Tensor) -> Tensor:
    """The smallest index that each can reach, by walking from each in turn."""
    n, found = len(linked), torch.full((len(linked),), -1)
    for i in range(n):
        if found[i] >= 0:
            continue
        waiting = [i]
        while waiting:
            at = waiting.pop()
            if found[at] < 0:
                found[at] = i
                waiting += linked[at].nonzero().flatten().tolist()
    return found


def _smallest(linked: Tensor) -> Tensor:
    return torch.where(linked, torch.arange(len(linked)), len(linked)).amin(dim=1)


def _chain(rng: torch.Generator) -> Tensor:
    """Hashes with a chain of neighbours, in mixed order, whose ends are far from each other."""
    bits = torch.rand(24, 32, generator=rng) < 0.5
    for i in range(1, 7):  # each two bits from the one before
        bits[i] = bits[i - 1]
        bits[i, 2 * i : 2 * i + 2] = ~bits[i, 2 * i : 2 * i + 2]
    bits[10] = bits[9]
    return bits[torch.randperm(24, generator=rng)]


@exercise("11.1")
def groups(answer: Callable[[Tensor, int], Tensor]) -> None:
    """`answer(bits, at_most)`: the smallest index that each picture can reach over links."""
    for seed, at_most in ((1, 2), (2, 2), (3, 0), (4, 5)):
        bits = _chain(torch.Generator().manual_seed(seed))
        n, apart = len(bits), _apart(bits)
        found = untouched(answer, bits, at_most)
        found = tensor(found, "the groups", (n,))
        expect((found == found.round()).all() and (found >= 0).all() and (found < n).all(),
               f"the groups are indices, whole numbers from 0 to {n - 1}.")  # fmt: skip
        wanted = _closed(apart <= at_most)
        if same(found, wanted):
            continue
        _, renumbered = torch.unique(wanted, return_inverse=True)
        self_less = apart.clone().fill_diagonal_(999) <= at_most
        slips = {
            "links are followed only once: if A is linked with B and B with C, all three are one group.": _smallest(
                apart <= at_most
            ),
            "links are followed only twice: go on until nothing changes.": _twice(apart <= at_most),
            "pictures that differ in exactly `at_most` bits are linked, too: at most includes it.": _closed(
                apart < at_most
            ),
            "the groups are right and numbered anew: return the smallest index of each.": renumbered,
            "this is the largest index of each group: return the smallest.": _largest(wanted),
            "a picture without links is its own group: it is linked with itself.": torch.where(
                self_less.any(dim=1), wanted, 0
            ),
            "bits are compared the wrong way: count those that differ.": _closed(apart >= at_most),
        }
        reject(found, {said: slip for said, slip in slips.items() if not same(slip, wanted)}, same)
        wrong = int((found != wanted).nonzero()[0])
        raise WrongAnswer(
            f"with at most {at_most} bits picture {wrong} belongs to {int(wanted[wrong])}, and yours says"
            f" {int(found[wrong])}."
        )


def _twice(linked: Tensor) -> Tensor:
    once = _smallest(linked)
    return torch.where(linked, once, len(linked)).amin(dim=1)


def _largest(wanted: Tensor) -> Tensor:
    members = wanted[:, None] == wanted
    return torch.where(members, torch.arange(len(wanted)), -1).amax(dim=1)


@exercise("11.2")
def square(answer: Callable[[Tensor, float], Tensor]) -> None:
    """`answer(x, along)`: the largest square at a share of the room."""
    for shape, along in (((3, 21, 9), 0.2), ((3, 9, 22), 0.75), ((1, 7, 12), 0.0), ((3, 15, 6), 1.0), ((3, 8, 8), 0.4)):
        x = normal(*shape, dtype=torch.float32, seed=shape[1])
        height, width = shape[1:]
        side, room = min(height, width), abs(height - width)
        found = untouched(answer, x, along)
        found_shape = tuple(getattr(found, "shape", ()))
        expect(found_shape != shape or height == width, "the picture comes back whole: cut a square out of it.")
        expect(len(found_shape) != 3 or found_shape[1:] != (max(shape[1:]),) * 2 or height == width,
               "the square is as large as the longer side: something was padded or stretched, not cut.")  # fmt: skip
        found = tensor(found, "the square", (shape[0], side, side))

        def at(place: int, x: Tensor = x, side: int = side) -> Tensor:
            return x[:, place : place + side] if x.shape[1] > x.shape[2] else x[:, :, place : place + side]

        wanted = at(round(along * room))
        if same(found, wanted):
            continue
        slips = {
            "the place is the middle, whatever `along` says.": at(room // 2),
            "`along` is counted from the other end: 0 is the left or upper end.": at(room - round(along * room)),
            "the square always begins at the left or upper end.": at(0),
            "the place is cut down to a whole pixel: round it.": at(int(along * room)),
            "`along` is the share of the room, not of the whole side: it went too far.": at(
                min(round(along * max(height, width)), room)
            ),
            "height and width are exchanged in the result.": wanted.mT,
            "the picture is mirrored.": wanted.flip(-1),
        }
        reject(found, {said: slip for said, slip in slips.items() if not same(slip, wanted)}, same)
        raise WrongAnswer(
            f"for {height} x {width} pixels and along = {along} the square begins at {round(along * room)}, and its"
            " pixels stay as they are."
        )


@exercise("11.3")
def to_pixels(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """`answer(out, mean, std)`: out * std + mean by channel, in [0, 1]."""
    for shape, seed in (((2, 3, 5, 4), 1), ((4, 3, 3, 3), 2), ((1, 3, 6, 3), 3)):
        rng = torch.Generator().manual_seed(seed)
        mean = torch.tensor([0.485, 0.456, 0.406]) + 0.2 * (torch.rand(3, generator=rng) - 0.5)
        std = torch.tensor([0.15, 0.3, 0.45])
        out = 1.5 * normal(*shape, dtype=torch.float32, seed=seed)
        m, s = mean[:, None, None], std[:, None, None]
        try:
            found = untouched(answer, out, mean, std)
        except RuntimeError as error:
            if "size of tensor" in str(error):
                raise WrongAnswer(
                    "mean and std have one number a channel: give them the shape (3, 1, 1), so that they meet the"
                    " channels and not the columns."
                ) from None
            raise
        found = tensor(found, "the pictures", shape)
        raw = out * s + m
        wanted = raw.clamp(0, 1)
        if same(found, wanted):
            continue
        slips = {
            "this is the published line: it undoes another normalisation.": (out + 1) / 2,
            "this is the published line, capped: it undoes another normalisation.": ((out + 1) / 2).clamp(0, 1),
            "the result leaves [0, 1], and a file cannot hold that: clamp it.": raw,
            "this normalises once more: the inverse multiplies by std and then adds the mean.": (out - m) / s,
            "this normalises once more, capped: the inverse multiplies and then adds.": ((out - m) / s).clamp(0, 1),
            "the mean is added before std multiplies: first times std, then plus mean.": ((out + m) * s).clamp(0, 1),
            "the mean is subtracted: it was taken out, so it is added again.": (out * s - m).clamp(0, 1),
            "std divides: it divided before, so now it multiplies.": (out / s + m).clamp(0, 1),
            "mean and std are exchanged.": (out * m + s).clamp(0, 1),
            "one mean and one std for all channels: each channel has its own.": (out * std.mean() + mean.mean()).clamp(
                0, 1
            ),
        }
        if shape[-1] == 3:
            slips["mean and std meet the columns and not the channels: give them the shape (3, 1, 1)."] = (
                out * std + mean
            ).clamp(0, 1)
        reject(found, slips, same)
        raise WrongAnswer(f"some pixel is off by {(found - wanted).abs().max().item():.3f}.")


@exercise("11.4")
def weights(answer: Callable[[Tensor, float], Tensor]) -> None:
    """`answer(y, power)`: probabilities proportional to (number in the class) ** -power."""
    for counts, power in (([5, 1, 8], 1.0), ([2, 0, 9, 3], 0.5), ([4, 7], 0.0), ([0, 6, 1, 0, 3], 1.0)):
        y = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
        y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(len(y)))]
        found = untouched(answer, y, power)
        size = getattr(found, "shape", None) or (len(found) if isinstance(found, list) else None,)
        expect(
            tuple(size) not in ((len(counts),), (sum(n > 0 for n in counts),)) or len(counts) == len(y),
            "these are numbers of the classes: one for each picture is wanted, so index them with y.",
        )
        found = tensor(found, "the probabilities", (len(y),)).double()
        expect(found.isfinite().all(), "a class without pictures gives infinity or NaN: count only what is there.")
        n = torch.tensor(counts)[y].double()
        raw = n**-power
        wanted = raw / raw.sum()
        if same(found, wanted):
            continue
        slips = {
            "the weights do not add up to 1: divide by their sum.": raw,
            "the sign of the power is turned round: frequent classes are drawn more often still.": n**power
            / (n**power).sum(),
            "`power` is not used: this draws every class equally often.": (1 / n) / (1 / n).sum(),
            "`power` is not used: this draws every picture equally often.": torch.full_like(n, 1 / len(n)),
            "this divides by the number of classes, and not by the sum of the weights.": raw / len(counts),
            "this divides by the number of pictures, and not by the sum of the weights.": raw / len(y),
        }
        reject(found, {said: slip for said, slip in slips.items() if not same(slip, wanted)}, same)
        raise WrongAnswer(
            f"for classes of {counts} pictures and power {power} the first one is drawn with {wanted[0]:.4f}, and"
            f" yours with {found[0]:.4f}."
        )
