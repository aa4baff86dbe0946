"""The contest of notebook 03: sixteen recipes for points and five for stacked digits, with equal tuning and seconds.

    python -m authoring.benchmarks.points

Half an hour on two idle cores. Parts, in this order: the milliseconds of one step of each recipe ("cost"); six settings
of each in a short run with seed 100 ("tuning"); the best rates for each critic with seed 0, for equal seconds
("contest"); the best three and the vanilla GAN for five times as long ("long"); stacked digits, seeds 0, 1 and 2
("digits"). Every row is written to the asset that notebook 03 shows, and rows that are there already are not measured
again: delete the file to start anew. A row of points holds three networks, trained side by side.
"""

from __future__ import annotations

import datetime
import json
import multiprocessing
import time
from collections.abc import Callable
from functools import partial

import torch

from authoring.benchmarks.ddpm_steps import fill
from course_utils import data, points, runtime
from course_utils.lessons import nb03_mode_collapse_and_wgan as nb03

FILE = data.ASSETS / "points_contest.json"
MIXTURES = {"ring": points.unit_size(data.ring()), "grid": points.unit_size(data.grid())}
SECONDS = {"tuning": 5.0, "contest": 20.0, "long": 100.0}  # on the grid; the ring gets half
DIGIT_SECONDS, DIGIT_SAMPLES = 25.0, 3000
Row = dict[str, object]


def rows() -> list[Row]:
    return json.loads(FILE.read_text("utf-8")) if FILE.exists() else []


def find(part: str, **wanted: object) -> list[Row]:
    return [row for row in rows() if row["part"] == part and all(row[k] == v for k, v in wanted.items())]


def fill_with(workers: int, measured: Callable[[Row], Row], runs: list[Row]) -> None:
    """As `fill`, in so many processes of one thread each; every row gets the day."""
    with multiprocessing.get_context("spawn").Pool(workers, torch.set_num_threads, (1,)) as pool:
        fill(FILE, runs, partial(dated, measured), pool.imap)


def dated(measured: Callable[[Row], Row], want: Row) -> Row:
    return measured(want) | {"date": datetime.date.today().isoformat()}


def cost(want: Row) -> Row:
    """Milliseconds of one step on one idle core: the best of three times 60 steps."""
    recipe, times = nb03.set_up(want["recipe"], want["critic"], "low"), []
    for _ in range(3):
        times.append(nb03.train_points(recipe, MIXTURES["ring"], num_steps=60)["seconds"] / 60)
    return {"ms": round(1000 * min(times), 3)}


def num_steps(want: Row) -> int:
    """Steps that take the part's seconds on one idle core."""
    (priced,) = find("cost", recipe=want["recipe"], critic=want["critic"])
    seconds = SECONDS[want["part"]] / (2 if want["dataset"] == "ring" else 1)
    return round(1000 * seconds / priced["ms"])


def train(want: Row) -> Row:
    runtime.start(want["seed"], verbose=False)
    recipe = nb03.set_up(want["recipe"], want["critic"], want["rates"])
    found = nb03.train_points(recipe, MIXTURES[want["dataset"]], num_steps=num_steps(want))
    shares = {"good": [round(share, 4) for share in found["good"]], "w1": [round(w, 4) for w in found["w1"]]}
    return {"steps": found["steps"], "modes": found["modes"]} | shares


def best_rates(recipe: str, critic: str) -> str:
    def w1(rates: str) -> float:
        return sum(sum(row["w1"]) for row in find("tuning", recipe=recipe, critic=critic, rates=rates))

    return min(nb03.RATES, key=w1)


def pairs(part: str, seed: int, chosen: list[tuple[str, str, str]]) -> list[Row]:
    return [
        {"part": part, "recipe": recipe, "critic": critic, "rates": rates, "dataset": dataset, "seed": seed}
        for recipe, critic, rates in chosen
        for dataset in ("grid", "ring")
    ]


def best_three() -> list[tuple[str, str, str]]:
    """The recipes with the most good samples among those that cover all modes on every seed, and the vanilla GAN."""

    def share(setting: tuple[str, str, str]) -> float:
        recipe, critic, _ = setting
        found = find("contest", recipe=recipe, critic=critic)
        whole = all(min(row["modes"]) == len(MIXTURES[row["dataset"]].centres) for row in found)
        return whole * sum(sum(row["good"]) for row in found)

    settings = [(r, c, best_rates(r, c)) for r in nb03.RECIPES for c in nb03.OCTAVES]
    best: dict[str, tuple[str, str, str]] = {}
    for setting in sorted(settings, key=share, reverse=True):
        best.setdefault(setting[0], setting)  # each recipe with its better critic
    vanilla = [setting for setting in settings if setting[0] == "vanilla"]
    return list(dict.fromkeys([*list(best.values())[:3], *vanilla]))  # each once


def digit_steps(recipe: str) -> int:
    """Steps of 64 pictures that take DIGIT_SECONDS on one core."""
    pictures = data.images("mnist", "train", verbose=False).x
    start = time.perf_counter()
    nb03.train_digits(nb03.DIGIT_RECIPES[recipe], pictures, width=16, num_steps=8, batch_size=64)
    return max(1, round(DIGIT_SECONDS * 8 / (time.perf_counter() - start)))


def price_digits(want: Row) -> Row:
    return {"steps": max(digit_steps(want["recipe"]) for _ in range(2))}


def train_digits(want: Row) -> Row:
    runtime.start(want["seed"], verbose=False)
    digits = data.images("mnist", "train", verbose=False)
    (priced,) = find("digit cost", recipe=want["recipe"])
    recipe = nb03.DIGIT_RECIPES[want["recipe"]]
    ema = nb03.train_digits(recipe, digits.x, width=16, num_steps=priced["steps"], batch_size=64)
    numbers = nb03.triples(nb03.sample_digits(ema, DIGIT_SAMPLES))
    modes, kl = nb03.modes_and_kl(numbers, nb03.true_share(digits.y))
    return {"steps": priced["steps"], "modes": modes, "kl": round(kl, 4), "samples": DIGIT_SAMPLES}


def main() -> None:
    both = [(recipe, critic) for recipe in nb03.RECIPES for critic in nb03.OCTAVES]
    fill_with(1, cost, [{"part": "cost", "recipe": recipe, "critic": critic} for recipe, critic in both])
    fill_with(2, train, pairs("tuning", 100, [(*pair, rates) for pair in both for rates in nb03.RATES]))
    fill_with(2, train, pairs("contest", 0, [(*pair, best_rates(*pair)) for pair in both]))
    fill_with(2, train, pairs("long", 0, best_three()))
    fill_with(1, price_digits, [{"part": "digit cost", "recipe": recipe} for recipe in nb03.DIGIT_RECIPES])
    wanted = [{"part": "digits", "recipe": r, "seed": seed} for seed in (0, 1, 2) for r in nb03.DIGIT_RECIPES]
    fill_with(2, train_digits, wanted)


if __name__ == "__main__":
    main()
