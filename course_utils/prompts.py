"""Prompts for Fashion-MNIST, of words that are measured on the pictures.

So the training captions are true (`captions`), and what a prompt asks for can be measured on what it gets
(`adherence`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import metrics

NOUNS = (  # in the order of the classes
    "T-shirt", "pair of trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
ADJECTIVES = {
    "tone": ("dark", "bright"),
    "texture": ("plain", "striped", "patterned"),
    "sleeves": ("short-sleeved", "long-sleeved"),
}
ASKED_OF = {"tone": range(10), "texture": (0, 2, 3, 4, 6, 8), "sleeves": (6,)}  # classes that differ in it
# Of the 60,000 training pictures, see `measure`:
TONE = (0.5465, 0.7092)  # terciles of the tone
CONTRAST = (0.1312, 0.1845)  # median and upper fifth of the contrast, over the classes that have texture
STRIPES = 0.6  # from here on a reader sees stripes
SLEEVES = (0.78, 0.95)  # between the two humps of the shirts' histogram


def measure(x: Tensor) -> dict[str, Tensor]:
    """What the adjectives are decided by, of pictures (N, 1, 28, 28) in [-1, 1]; each value is (N,), on the CPU.

    tone: mean brightness of the garment, in 0..1. contrast: root mean square, inside the garment, of what differs
    from the mean over 5 pixels of its column (so that gaps at sleeves and zips, which run down, do not count).
    stripes: share of that square which a row's mean holds, in 0..1. sleeves: width of the lower third over that of
    the shoulders.
    """
    x = x.detach().cpu()
    garment = (x > -0.9).float()  # (N, 1, 28, 28)
    tone = ((x + 1) / 2 * garment).sum((1, 2, 3)) / garment.sum((1, 2, 3)).clamp(min=1)
    inside = 1 - F.max_pool2d(1 - garment, 3, stride=1, padding=1)

    def column_mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, (5, 1), stride=1, padding=(2, 0))

    detail = (x - column_mean(x * inside) / column_mean(inside).clamp(min=1e-6)) * inside
    power = detail.square().sum((1, 2, 3))
    in_row = inside.sum(3)  # (N, 1, 28)
    row_power = (detail.sum(3).square() / in_row.clamp(min=1)).sum((1, 2))
    place = torch.arange(28.0).expand_as(x)
    left = torch.where(garment > 0, place, 28.0).amin((1, 3))  # (N, 28)
    right = torch.where(garment > 0, place, -1.0).amax((1, 3))
    width = (right - left + 1).clamp(min=0)
    return {
        "tone": tone,
        "contrast": (power / inside.sum((1, 2, 3)).clamp(min=1)).sqrt(),
        "stripes": row_power / power.clamp(min=1e-6),
        "sleeves": width[:, 16:22].mean(1) / width[:, 4:12].amax(1).clamp(min=1),
    }


def words(x: Tensor, y: Tensor) -> list[tuple[str, ...]]:
    """For each picture (N, 1, 28, 28) in [-1, 1] of class y (N,): its adjectives, if any, and last its noun."""
    marks = {kind: values.tolist() for kind, values in measured(x).items()}
    lists = []
    for i, label in enumerate(y.tolist()):
        kinds = [kind for kind in ADJECTIVES if label in ASKED_OF[kind] and marks[kind][i] >= 0]
        lists.append((*(ADJECTIVES[kind][marks[kind][i]] for kind in kinds), NOUNS[label]))
    return lists


def measured(x: Tensor) -> dict[str, Tensor]:
    """For each kind of adjective the index (N,) of the one that fits the pictures best, -1 for none."""
    m = measure(x)
    none = torch.full((len(x),), -1)
    rich = torch.where(m["stripes"] > STRIPES, 1, 2)
    return {
        "tone": none.where(m["tone"] >= TONE[0], 0).where(m["tone"] <= TONE[1], 1),
        "texture": none.where(m["contrast"] >= CONTRAST[0], 0).where(m["contrast"] <= CONTRAST[1], rich),
        "sleeves": none.where(m["sleeves"] >= SLEEVES[0], 0).where(m["sleeves"] <= SLEEVES[1], 1),
    }


def caption(described: Sequence[str], generator: torch.Generator | None = None, keep: float = 0.7) -> str:
    """A prompt of the words of one picture: each adjective with probability `keep`, in random order, the last one in
    a third of cases behind the noun, as in "a striped shirt, dark"."""
    *adjectives, noun = described
    place, *chances = torch.rand(len(adjectives) + 1, generator=generator).tolist()
    order = torch.randperm(len(adjectives), generator=generator).tolist()
    chosen = [adjectives[i] for i in order if chances[i] < keep]
    behind = f", {chosen.pop()}" if chosen and place < 1 / 3 else ""
    phrase = " ".join([*chosen, noun])
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}{behind}"


def captions(x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> list[str]:
    """A random true prompt for each picture (N, 1, 28, 28) in [-1, 1] of class y (N,)."""
    return [caption(described, generator) for described in words(x, y)]


def _split(prompt: str) -> list[str]:
    """A prompt as the tokenizer splits it: lower case, runs of letters, single digits, runs of anything else."""
    return re.findall(r"[^\W\d_]+|\d|[^\w\s]+|_+", prompt.lower())


WORDS = tuple(dict.fromkeys(_split(f"a an , {' '.join([*NOUNS, *sum(ADJECTIVES.values(), ())])}")))


def unknown_words(prompt: str) -> list[str]:
    """The words of a prompt that the text encoder has never seen."""
    return [word for word in _split(prompt) if word not in WORDS]


def asked(prompt: str) -> dict[str, int]:
    """What a prompt asks for: the index of the class and of each kind of adjective, -1 where it says nothing."""
    found = re.findall(r"[a-z]+(?:-[a-z]+)?", prompt.lower())
    kinds = {"class": [noun.lower().split()[-1] for noun in NOUNS], **ADJECTIVES}
    return {kind: next((list(of).index(w) for w in found if w in of), -1) for kind, of in kinds.items()}


def adherence(x: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
    """How pictures (N, 1, 28, 28) in [-1, 1] agree with N prompts, by kind ("class", "tone", ...): (N,) each.

    1 where the course's classifier finds the class that was asked for, or the measured tone (texture, sleeves) is
    that of the adjective, 0 where not, NaN where the prompt does not say: take `nanmean()`.
    """
    if len(x) != len(prompts):
        raise ValueError(f"{len(x)} pictures do not belong to {len(prompts)} prompts: give one prompt a picture.")
    got = {"class": metrics.class_probabilities(x, "fashion_mnist").argmax(1), **measured(x)}
    wanted = [asked(prompt) for prompt in prompts]
    result = {}
    for kind, marks in got.items():
        want = torch.tensor([each[kind] for each in wanted])
        result[kind] = (marks == want).float().where(want >= 0, torch.nan)
    return result
