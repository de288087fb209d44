"""The figures of classes, and the means over classes, which differ in what is averaged first."""

from __future__ import annotations

from wsiseg.evaluation.figures import (
    BLAND,
    CONIC,
    GAMPER,
    GRAHAM,
    KIRILLOV,
    Figure,
    agreement,
    false_positives,
)
from wsiseg.evaluation.formulas import (
    class_dq,
    class_f1,
    class_pq,
    mean_iou,
    mean_over_classes,
    r2_of,
    ratio,
)


def class_figures_of(radius_um: float) -> tuple[Figure, ...]:
    """Return the figures of one class, in the order of tables."""
    return (
        Figure(
            "f1",
            "F1 of the class, F_c",
            f"2 TP / (2 TP + 2 FP + 2 FN + FP_d + FN_d): among pairs (centroids within "
            f"{radius_um:g} µm) TP have the class on both sides, FP only as found, FN only as "
            "annotated; FP_d and FN_d are found and annotated nuclei of the class without a "
            "partner. (The published formula's TN is 0 where a pair has the class on one side "
            "at least, as in its authors' code.) Found nuclei whose partner is of unknown class "
            "are left out.",
            GRAHAM,
            "",
            class_f1,
            "n_truth",
        ),
        Figure(
            "pq",
            "PQ of the class",
            "PQ of the nuclei of this class alone: a match has IoU > 0.5 and the class on both "
            "sides. Found nuclei that match one of unknown class are left out.",
            KIRILLOV,
            "",
            class_pq,
            "n_truth",
        ),
        Figure(
            "dq",
            "DQ of the class (F1 at IoU > 0.5)",
            "2 × matches / (annotated + found) of this class alone.",
            KIRILLOV,
            "",
            class_dq,
            "n_truth",
        ),
        Figure("sq", "SQ of the class", "Mean IoU of its matches.", KIRILLOV, "", mean_iou, "tp"),
        *false_positives(radius_um),
        Figure(
            "of_other_class_per_mm2",
            "Of another class, per mm²",
            "Found nuclei of this class whose partner has another one, over the area of images "
            "with classes.",
            "",
            "1/mm²",
            lambda s: ratio(s["other"], s["classed_mm2"]),
            "other",
        ),
        Figure(
            "count_error",
            "Count error of an image",
            "Mean of found − annotated nuclei of this class over images with classes; found nuclei "
            "that match one of unknown class are left out.",
            BLAND,
            "nuclei",
            lambda s: ratio(s["count_d"], s["images"]),
            "images",
            ("pooled",),
        ),
        *agreement("count", "images", "images", "nuclei"),
    )


def over_classes_figures(n_classes: int) -> tuple[Figure, ...]:
    """Return the figures that are means over classes, named apart by their averaging."""
    return (
        Figure(
            "mpq",
            "mPQ (per image, then over classes)",
            "In each image the mean over the classes annotated there of the class's PQ; then the "
            "mean over images.",
            GAMPER,
            "",
            lambda s: mean_over_classes(s, n_classes, class_pq, "n_truth"),
            "classed_images",
            ("macro",),
        ),
        Figure(
            "mpq_plus",
            "mPQ+ (over all images, then over classes)",
            "PQ of each class of its sums over all images, then the mean over classes; a class "
            "that is neither annotated nor found anywhere is left out.",
            CONIC,
            "",
            lambda s: mean_over_classes(s, n_classes, class_pq, ""),
            "classed_images",
            ("pooled",),
        ),
        Figure(
            "mf1",
            "Mean F_c over classes",
            "F_c of each class of its sums over all images, then the mean over classes.",
            GRAHAM,
            "",
            lambda s: mean_over_classes(s, n_classes, class_f1, ""),
            "classed_images",
            ("pooled",),
        ),
        Figure(
            "mr2",
            "R² of counts, mean over classes",
            "R² over images of each class's counts, then the mean over classes.",
            CONIC,
            "",
            lambda s: mean_over_classes(s, n_classes, r2_of("count", "images"), ""),
            "classed_images",
            ("pooled",),
        ),
    )
