"""Which intervals hold what they say: python benchmarks/intervals.py CCP

CCP is the folder of Clothing Co-Parsing, with `labels/` and `map15.csv`, 15 groups of its 58 garment tags. Its label maps are
the population: which classes an image shows, and how large. Splits are drawn from it, and two models of equal errors are
simulated on each, so that every difference between them is chance. Printed are, for every rule and number of images, how
often the 95 % interval of a figure holds its value in the population, and how often that of the difference leaves out 0: a
false star. Splits on which the figure rests on fewer than ten images take no part; the last row says what share does. The
rule that `imptool eval` has for means is the jackknife that is stretched by the bias, from twenty images on.

With --seeds, each model is trained with several seeds, and the figure is the gain of one model over another, a mean over
seeds. Seeds differ in skill and in their errors on each image; images differ in how hard they are for a model. Printed are
how often the interval holds the gain that all seeds and images would show, and the false stars of two equal models. The
rule for means over seeds is the last one; each of the other two takes one factor for fixed.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from scipy import stats

from imptool.metrics.average_precision import THRESHOLDS, Matches, resampled_average_precision
from imptool.metrics.bootstrap import (
    ENOUGH,
    draw_weights,
    effective_images,
    interval,
    interval_over_seeds,
    is_significant,
    leave_out_weights,
    mean_interval,
)
from imptool.metrics.confusion import class_iou, mean_of_present

IMAGES = (12, 30, 120)
REPLICATES = 200  # over many splits as good as 1000
SEEDS = (3, 5)
SPREADS = (0.02, 0.1, 0.3)  # of the errors of seeds: standard deviation, as a share of the errors
ERRORS = 0.8  # of the better model, as a share of those of the other

Model = Callable[[np.ndarray], np.ndarray]
"""From weights [b, N] to the figure of every class [b, C]."""


class Mean(NamedTuple):
    """A mean over classes, and the same of resampled splits; the difference of two models is that of all of these."""

    value: np.ndarray  # []
    held: np.ndarray  # [B], drawn; a class that was not drawn takes part with its figure of the split
    present: np.ndarray  # [B], drawn; over the classes that were
    common: np.ndarray  # [B], drawn; over the classes in at least ten images
    left_out: np.ndarray  # [N], without one image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ccp", type=Path)
    parser.add_argument("--splits", type=int, default=400, help="for every number of images")
    parser.add_argument("--seeds", action="store_true", help="means over seeds in place of single models")
    arguments = parser.parse_args()
    tags = read_areas(arguments.ccp)
    if arguments.seeds:
        for spread in SPREADS:
            for title, by_column in measure_seeds(tags, spread, splits=arguments.splits).items():
                print_table(f"Gain in {title}, seeds -/+ {spread:.0%}: intervals that hold it", by_column)
        return
    groups = group_areas(tags, arguments.ccp)
    for title, areas, simulate, single in (
        ("mIOU of 58 tags", tags, simulate_maps, False),
        ("mIOU of 15 groups", groups, simulate_maps, False),
        ("AP of 15 groups", groups, simulate_detections, False),
        ("IOU of the rarest group in ten images", groups, simulate_maps, True),
    ):
        rates = measure(areas, simulate, single=single, splits=arguments.splits)
        print_table(f"{title}: intervals that hold the value", {f"{images} images": cells for images, cells in rates.items()})


def print_table(title: str, rates: dict[str, dict[str, str]]) -> None:
    """A column for each of rates, a row for each rule."""
    print(f"\n{title} / false stars, percent\n")
    print("| rule | " + " | ".join(rates) + " |")
    print("|---|" + "---:|" * len(rates))
    for rule in dict.fromkeys(rule for found in rates.values() for rule in found):
        print(f"| {rule} | " + " | ".join(found.get(rule, "-") for found in rates.values()) + " |", flush=True)


def read_areas(ccp: Path) -> np.ndarray:
    """Pixels of every tag in every image: [900, 58] int64, without the background."""
    count = len((ccp / "label_list.txt").read_text().split())
    maps = (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted((ccp / "labels").glob("*.png")))
    return np.stack([np.bincount(ids.ravel(), minlength=count)[1:count] for ids in maps])


def group_areas(tags: np.ndarray, ccp: Path) -> np.ndarray:
    """The same of the 15 groups: [900, 15] int64."""
    groups = np.zeros((len(tags), 15), np.int64)
    with (ccp / "map15.csv").open() as file:
        for row in csv.DictReader(file):
            if 1 <= int(row["group_id"]) <= 15:
                groups[:, int(row["group_id"]) - 1] += tags[:, int(row["id"]) - 1]
    return groups


def measure(areas: np.ndarray, simulate: Callable[..., Model], *, single: bool, splits: int) -> dict[int, dict[str, str]]:
    """By number of images and rule the two rates, as they are printed.

    Args:
        areas: [M, C] of the population.
        simulate: a model's errors on images of areas [N, C] and difficulty [N].
        single: of one class, the rarest of those in at least ten images, in place of the mean over all.
    """
    rng = np.random.default_rng(0)
    difficulty = rng.uniform(0, 2, len(areas))  # of an image, for both models
    many = np.tile(np.arange(len(areas)), 20)
    truth = simulate(areas[many], difficulty[many], rng)(np.ones((1, len(many)), np.int64))[0]
    rates = {}
    for images in IMAGES:
        weights = draw_weights(images, replicates=REPLICATES), leave_out_weights(images)
        held, stars = defaultdict(list), defaultdict(list)
        for _ in range(splits):
            chosen = rng.choice(len(areas), images, replace=False)
            shown = areas[chosen] > 0
            classes = _classes(shown, single=single)
            count = effective_images(shown[:, classes].T.astype(int) @ shown[:, classes])
            if count < ENOUGH:
                continue
            one, other = (
                mean_of(simulate(areas[chosen], difficulty[chosen], rng), weights, classes, shown.sum(0)) for _ in range(2)
            )
            difference = Mean(*(ours - theirs for ours, theirs in zip(one, other, strict=True)))
            for rule, (low, high) in rules(one, count).items():
                over = classes & (shown.sum(0) >= (ENOUGH if rule == COMMON else 1))
                held[rule].append(low <= truth[over].mean() <= high)
            for rule, bounds in rules(difference, count).items():
                stars[rule].append(is_significant(*bounds))
        rates[images] = {rule: f"{100 * np.mean(held[rule]):.0f} / {100 * np.mean(stars[rule]):.1f}" for rule in held}
        rates[images]["share of the splits"] = f"{100 * len(next(iter(held.values()), [])) / splits:.0f}"
    return rates


COMMON = "bootstrap of the classes in ten images"


def rules(mean: Mean, images: float) -> dict[str, tuple[Any, Any]]:
    """The interval by every rule."""
    low, high = interval(mean.held)
    return {
        "bootstrap, undrawn classes as in the split": (low, high),
        "the same, reversed (basic)": (2 * mean.value - high, 2 * mean.value - low),
        "bootstrap, undrawn classes left out": interval(mean.present),
        COMMON: interval(mean.common),
        "jackknife": mean_interval(mean.value, [mean.value], mean.left_out, images),
        "jackknife, stretched by the bias": mean_interval(mean.value, mean.present, mean.left_out, images),
    }


def mean_of(model: Model, weights: tuple[np.ndarray, np.ndarray], classes: np.ndarray, shown: np.ndarray) -> Mean:
    """The mean over classes [C] of a model; shown [C]: how many images have each."""
    split = model(np.ones((1, weights[0].shape[1]), np.int64))
    drawn, left_out = map(model, weights)
    complete = np.where(np.isnan(drawn), split, drawn)
    return Mean(
        mean_of_present(split[:, classes])[0],
        mean_of_present(complete[:, classes]),
        mean_of_present(drawn[:, classes]),
        mean_of_present(complete[:, classes & (shown >= ENOUGH)]),
        mean_of_present(left_out[:, classes]),
    )


def _classes(shown: np.ndarray, *, single: bool) -> np.ndarray:
    """Which classes [C] the mean is over."""
    counts = shown.sum(0)
    if not single:
        return np.asarray(counts > 0)
    rarest = np.where(counts >= ENOUGH, counts, len(shown) + 1).argmin()
    return np.arange(len(counts)) == rarest


def measure_seeds(areas: np.ndarray, spread: float, *, splits: int) -> dict[str, dict[str, dict[str, str]]]:
    """By figure, column and rule the two rates, as they are printed.

    Args:
        areas: [M, C] of the population.
        spread: of the errors of seeds.
    """
    rng = np.random.default_rng(0)
    difficulty = rng.uniform(0.5, 1, len(areas))  # of an image, for all models
    everything = np.ones((1, len(areas)), np.int64)
    first, better = (
        np.mean([model(everything)[0] for model in train(areas, difficulty, errors, spread, rng, seeds=200)], axis=0)
        for errors in (1, ERRORS)
    )
    truth = better - first
    cells: Any = defaultdict(lambda: defaultdict(dict))
    for images in IMAGES[1:]:
        weights = draw_weights(images, replicates=REPLICATES), leave_out_weights(images)
        held, stars = defaultdict(list), defaultdict(list)
        for _ in range(splits):
            chosen = rng.choice(len(areas), images, replace=False)
            shown = areas[chosen] > 0
            models = [
                train(areas[chosen], difficulty[chosen], errors, spread, rng, seeds=max(SEEDS)) for errors in (1, 1, ERRORS)
            ]
            for single in (False, True):
                classes = _classes(shown, single=single)
                count = effective_images(shown[:, classes].T.astype(int) @ shown[:, classes])
                one, equal, other = ([mean_of(model, weights, classes, shown.sum(0)) for model in of] for of in models)
                for seeds in SEEDS:
                    for rule, (low, high) in rules_of_seeds(other[:seeds], one[:seeds], count, single=single).items():
                        held[single, seeds, rule].append(low <= truth[classes].mean() <= high)
                    for rule, bounds in rules_of_seeds(equal[:seeds], one[:seeds], count, single=single).items():
                        stars[single, seeds, rule].append(is_significant(*bounds))
        for (single, seeds, rule), holds in held.items():
            title = "IOU of the rarest tag in ten images" if single else "mIOU of 58 tags"
            rates = f"{100 * np.mean(holds):.0f} / {100 * np.mean(stars[single, seeds, rule]):.1f}"
            cells[title][f"{seeds} seeds, {images} images"][rule] = rates
    return cells


def rules_of_seeds(ours: list[Mean], theirs: list[Mean], images: float, *, single: bool) -> dict[str, tuple[Any, Any]]:
    """The interval of our gain by every rule."""
    gains = [Mean(*(us - them for us, them in zip(*pair, strict=True))) for pair in zip(ours, theirs, strict=True)]
    mean = Mean(*(np.mean(parts, axis=0) for parts in zip(*gains, strict=True)))
    values = [gain.value for gain in gains]
    replicates = mean.present, None if single else mean.left_out, images
    return {
        "seeds alone: Student's t": stats.ttest_1samp(values, 0).confidence_interval(),
        "images alone": interval_over_seeds([mean.value], *replicates),
        "seeds and images": interval_over_seeds(values, *replicates),
    }


def train(
    areas: np.ndarray, difficulty: np.ndarray, errors: float, spread: float, rng: np.random.Generator, *, seeds: int
) -> list[Model]:
    """One model with several seeds: which images are hard for it is common to them, how large their errors are is not."""
    hard = errors * difficulty * rng.uniform(0, 2, len(areas))
    return [simulate_maps(areas, (hard * (1 + spread * rng.normal())).clip(0, 2), rng) for _ in range(seeds)]


def simulate_maps(areas: np.ndarray, difficulty: np.ndarray, rng: np.random.Generator) -> Model:
    """Label maps: a garment is taken for another, or a part of it is lost and some background taken for it."""
    size = areas.shape
    confused = rng.random(size) < 0.15 * difficulty[:, None]
    hits = np.where(confused, 0, areas * (1 - rng.beta(1, 4, size) * difficulty[:, None] / 2))
    predicted = hits + areas * rng.beta(1, 6, size) * ~confused
    image, tag = np.nonzero(confused & (areas > 0))
    present = np.flatnonzero(areas.any(axis=0))
    np.add.at(predicted, (image, rng.choice(present, len(image))), areas[image, tag])
    counts = np.stack([hits, predicted, areas], axis=-1)

    def model(weights: np.ndarray) -> np.ndarray:
        sums = weights.astype(np.float64) @ counts.reshape(len(counts), -1)
        return class_iou(sums.reshape(len(weights), -1, 3))

    return model


def simulate_detections(areas: np.ndarray, difficulty: np.ndarray, rng: np.random.Generator) -> Model:
    """Detections: an instance of each class shown is found or not, at some IOU; others are false, mostly of low score."""
    num_classes = areas.shape[1]
    frequency = (areas > 0).mean(0)
    image, category = np.nonzero(areas)
    found = rng.random(len(image)) < 0.9 - 0.25 * difficulty[image]
    met = np.where(found, rng.integers(1, THRESHOLDS + 1, len(image)), 0)  # at so many thresholds
    wrong = rng.random(areas.shape) < 0.02 + 0.2 * frequency * difficulty[:, None]
    false_image, false_category = np.nonzero(wrong)
    of_image, of_category = np.concatenate([image, false_image]), np.concatenate([category, false_category])
    bits = np.concatenate([2**met - 1, np.zeros(len(false_image), np.int64)])
    score = np.concatenate([rng.beta(2 + met / 3, 2), rng.beta(2, 4, len(false_image))])
    order = np.lexsort((-score, of_category))
    matches = Matches(
        images=len(areas),
        categories=np.arange(num_classes),
        image=of_image[order].astype(np.int32),
        category=of_category[order].astype(np.int32),
        score=score[order],
        matched=bits[order].astype(np.uint16),
        ignored=np.zeros(len(order), np.uint16),
        instance_image=image.astype(np.int32),
        instance_category=category.astype(np.int32),
        instance_count=np.ones(len(image), np.int32),
    )
    return lambda weights: resampled_average_precision(matches, weights)["AP"]


if __name__ == "__main__":
    main()
