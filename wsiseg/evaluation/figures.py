"""What each figure means, where it comes from, and which formula makes it of sums.

*pooled*: of the sums over all images.  *macro*: the mean of the images' own values, those without
one left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from wsiseg.evaluation.formulas import (
    LIMITS_SD,
    Formula,
    f1,
    limit_of,
    mean_iou,
    r2_of,
    ratio,
)

Averaging = Literal["pooled", "macro"]
AVERAGING: Mapping[Averaging, str] = {
    "pooled": "of the sums over all images, so that every nucleus counts alike",
    "macro": "mean of the images' own values, so that every image counts alike; images without "
    "one are left out",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure and its definition."""

    name: str
    """Its key in files."""
    title: str
    """Its name for people."""
    definition: str
    source: str
    """Paper and DOI; empty for plain counts."""
    unit: str
    """Empty: none."""
    formula: Formula
    over: str
    """The sum that counts what it is over."""
    averages: tuple[Averaging, ...] = ("pooled", "macro")


KIRILLOV = "Kirillov et al. 2019, doi:10.1109/CVPR.2019.00963"
KUMAR = "Kumar et al. 2017, doi:10.1109/TMI.2017.2677499"
GRAHAM = "Graham et al. 2019, doi:10.1016/j.media.2019.101563"
NIKOLOV = "Nikolov et al. 2021, doi:10.2196/26151"
BLAND = "Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8"
GAMPER = "Gamper et al. 2020, doi:10.48550/arXiv.2003.10778"
CONIC = "Graham et al. 2024, doi:10.1016/j.media.2023.103047"
MAIER_HEIN = "Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z"


def figures_of(radius_um: float, tolerance_um: float) -> tuple[Figure, ...]:
    """Return the figures of nuclei of all classes, in the order of tables."""
    return (*_panoptic(), *_pixels(), *_detection(radius_um), *_shape(tolerance_um), *_counts())


def _panoptic() -> tuple[Figure, ...]:
    match = "A match is a pair with IoU > 0.5"
    return (
        Figure(
            "pq",
            "Panoptic quality, PQ",
            f"DQ × SQ. {match}; classes are not looked at.",
            KIRILLOV,
            "",
            lambda s: ratio(2 * s["iou"], s["n_truth"] + s["n_found"]),
            "n_truth",
        ),
        Figure(
            "dq",
            "Detection quality, DQ (F1 at IoU > 0.5)",
            f"2 × matches / (annotated + found). {match}.",
            KIRILLOV,
            "",
            lambda s: f1(s["tp"], s["n_truth"], s["n_found"]),
            "n_truth",
        ),
        Figure(
            "sq",
            "Segmentation quality, SQ",
            "Mean IoU of matches; 0 if there are nuclei but no match.",
            KIRILLOV,
            "",
            mean_iou,
            "tp",
        ),
        Figure(
            "matched_share",
            "Matched share (recall at IoU > 0.5)",
            "Matches / annotated nuclei: what the figures of matched nuclei rest on.",
            "",
            "",
            lambda s: ratio(s["tp"], s["n_truth"]),
            "n_truth",
        ),
        Figure(
            "precision_iou",
            "Precision at IoU > 0.5",
            "Matches / found nuclei.",
            "",
            "",
            lambda s: ratio(s["tp"], s["n_found"]),
            "n_found",
        ),
    )


def _pixels() -> tuple[Figure, ...]:
    return (
        Figure(
            "aji",
            "Aggregated Jaccard index, AJI",
            "Pixels shared / united. Each annotated nucleus takes the found one with the largest "
            "IoU, which may be taken twice; found ones nobody took add to the union.",
            KUMAR,
            "",
            lambda s: ratio(s["aji_shared"], s["aji_united"]),
            "n_truth",
        ),
        Figure(
            "aji_plus",
            "AJI+",
            "As AJI, but of one-to-one pairs with the largest sum of IoU; the same whichever side "
            "is the truth.",
            GRAHAM,
            "",
            lambda s: ratio(s["aji_plus_shared"], s["aji_plus_united"]),
            "n_truth",
        ),
        Figure(
            "dice",
            "Dice of the foreground",
            "2 × shared pixels / sum of both; nuclei are not told apart.",
            "Dice 1945, doi:10.2307/1932409",
            "",
            lambda s: ratio(2 * s["fg_shared"], s["fg_total"]),
            "images",
        ),
        Figure(
            "iou",
            "IoU of the foreground",
            "Shared pixels / united ones; nuclei are not told apart.",
            "Jaccard 1912, doi:10.1111/j.1469-8137.1912.tb05611.x",
            "",
            lambda s: ratio(s["fg_shared"], s["fg_total"] - s["fg_shared"]),
            "images",
        ),
    )


def _detection(radius_um: float) -> tuple[Figure, ...]:
    paired = f"centroids no further than {radius_um:g} µm apart, one to one, as many as can be"
    return (
        Figure(
            "f1_centroid",
            "F1 of centroids, F_d",
            f"2 × pairs / (annotated + found). Pairs: {paired}, then the nearest in sum.",
            GRAHAM,
            "",
            lambda s: f1(s["paired"], s["n_truth"], s["n_found"]),
            "n_truth",
        ),
        Figure(
            "precision_centroid",
            "Precision of centroids",
            f"Pairs / found nuclei. Pairs: {paired}.",
            "",
            "",
            lambda s: ratio(s["paired"], s["n_found"]),
            "n_found",
        ),
        Figure(
            "recall_centroid",
            "Recall of centroids",
            f"Pairs / annotated nuclei. Pairs: {paired}.",
            "",
            "",
            lambda s: ratio(s["paired"], s["n_truth"]),
            "n_truth",
        ),
        *false_positives(radius_um),
    )


def false_positives(radius_um: float) -> tuple[Figure, ...]:
    """Return the figures of what was found where nothing is."""
    return (
        Figure(
            "false_per_mm2",
            "False positives per mm²",
            f"Found nuclei without a partner within {radius_um:g} µm whose centroid lies on no "
            "annotated nucleus, over the area that is scored. Nuclei that annotators left out "
            "count too.",
            "",
            "1/mm²",
            lambda s: ratio(s["false"], s["mm2"]),
            "false",
        ),
        Figure(
            "unpaired_per_mm2",
            "Unpaired per mm²",
            f"Found nuclei without a partner within {radius_um:g} µm, over the area that is "
            "scored: also halves of a nucleus and poor outlines.",
            "",
            "1/mm²",
            lambda s: ratio(s["unpaired"], s["mm2"]),
            "unpaired",
        ),
    )


def _shape(tolerance_um: float) -> tuple[Figure, ...]:
    element = "Elements of marching squares, their distances those of their pixel corners."
    return (
        Figure(
            "hd95_um",
            "HD95 of matched nuclei",
            "Mean over matches (IoU > 0.5) of the distance that 95 % of the outline's length does "
            f"not exceed, of the two directions the larger. {element}",
            NIKOLOV,
            "µm",
            lambda s: ratio(s["hd95_um"], s["tp"]),
            "tp",
        ),
        Figure(
            "boundary_distance_um",
            "Mean outline distance of matched nuclei",
            "Mean over matches (IoU > 0.5) of the mean distance over the length of both outlines. "
            f"{element}",
            MAIER_HEIN,
            "µm",
            lambda s: ratio(s["distance_um"], s["tp"]),
            "tp",
        ),
        Figure(
            "surface_dice",
            f"Surface Dice at {tolerance_um:g} µm",
            f"Length of outline within {tolerance_um:g} µm of the match's outline / length of all "
            "outlines; missed and extra nuclei have none within.",
            NIKOLOV,
            "",
            lambda s: ratio(s["within_um"], s["length_um"]),
            "n_truth",
        ),
        Figure(
            "surface_dice_matched",
            f"Surface Dice at {tolerance_um:g} µm of matched nuclei",
            "Mean over matches of the same within the match alone.",
            NIKOLOV,
            "",
            lambda s: ratio(s["surface_dice"], s["tp"]),
            "tp",
        ),
    )


def _counts() -> tuple[Figure, ...]:
    pooled: tuple[Averaging, ...] = ("pooled",)
    return (
        Figure(
            "area_error_um2",
            "Area error of matched nuclei",
            "Mean of found − annotated area over matches (IoU > 0.5).",
            BLAND,
            "µm²",
            lambda s: ratio(s["area_d"], s["tp"]),
            "tp",
        ),
        *agreement("area", "tp", "matches", "µm²"),
        Figure(
            "count_error",
            "Count error of an image",
            "Mean of found − annotated nuclei over images.",
            BLAND,
            "nuclei",
            lambda s: ratio(s["count_d"], s["images"]),
            "images",
            pooled,
        ),
        *agreement("count", "images", "images", "nuclei"),
        Figure(
            "count_error_share",
            "Count error of all images together",
            "(Found − annotated) / annotated nuclei.",
            "",
            "",
            lambda s: ratio(s["count_d"], s["count_t"]),
            "n_truth",
        ),
    )


def agreement(name: str, n: str, things: str, unit: str) -> tuple[Figure, ...]:
    """Return Bland and Altman's limits and R² of areas or counts."""
    key = f"{name}_limit_{{}}" + ("_um2" if unit == "µm²" else "")
    limit = f"Mean difference {{}} {LIMITS_SD} standard deviations of differences over {things}."
    return (
        Figure(
            key.format("low"),
            f"Lower limit of agreement of {name}s",
            limit.format("−"),
            BLAND,
            unit,
            limit_of(name, n, -1),
            n,
            ("pooled",),
        ),
        Figure(
            key.format("high"),
            f"Upper limit of agreement of {name}s",
            limit.format("+"),
            BLAND,
            unit,
            limit_of(name, n, 1),
            n,
            ("pooled",),
        ),
        Figure(
            f"{name}_r2",
            f"R² of {name}s",
            f"1 − Σ (found − annotated)² / Σ (annotated − its mean)² over {things}: of the line "
            "found = annotated, so below 0 where the mean would do better.",
            CONIC if name == "count" else "",
            "",
            r2_of(name, n),
            n,
            ("pooled",),
        ),
    )
