"""The scores of an evaluation in the plainest form: loops over sets of pixels."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np

UNKNOWN = 255


def pixel_sets(labels):
    """Return the pixels of label 1, 2, …."""
    found = {}
    for place, label in np.ndenumerate(labels):
        if label:
            found.setdefault(int(label), set()).add(place)
    return [found[label] for label in sorted(found)]


def iou_of(a, b):
    return len(a & b) / len(a | b)


def share(part, whole):
    return part / whole if whole else math.nan


def choices(n_first, n_second):
    """Yield every way to pair some of n with as many of m, one to one."""
    if n_first > n_second:
        for pairs in choices(n_second, n_first):
            yield [(i, j) for j, i in pairs]
        return
    for order in permutations(range(n_second), n_first):
        yield list(enumerate(order))


def slow_aji_plus(ours, theirs):
    """Return the values of all pairings with the largest sum of IoU."""
    best, values = -1.0, set()
    for pairs in choices(len(ours), len(theirs)):
        pairs = [(i, j) for i, j in pairs if ours[i] & theirs[j]]
        total = sum(iou_of(ours[i], theirs[j]) for i, j in pairs)
        shared = sum(len(ours[i] & theirs[j]) for i, j in pairs)
        united = sum(len(ours[i] | theirs[j]) for i, j in pairs)
        united += sum(len(a) for i, a in enumerate(ours) if i not in [p[0] for p in pairs])
        united += sum(len(b) for j, b in enumerate(theirs) if j not in [p[1] for p in pairs])
        if total > best + 1e-12:
            best, values = total, set()
        if total > best - 1e-12:
            values.add(share(shared, united))
    return values


def centre(pixels, mpp):
    rows, cols = zip(*pixels, strict=True)
    return (sum(cols) / len(cols) + 0.5) * mpp, (sum(rows) / len(rows) + 0.5) * mpp


def slow_pairs(found, truth, radius):
    """Return pairs of positions: as many as can be, then the smallest sum of distances."""
    best, chosen = (0, 0.0), []
    for pairs in choices(len(found), len(truth)):
        near = [(i, j) for i, j in pairs if math.dist(found[i], truth[j]) <= radius]
        score = (-len(near), sum(math.dist(found[i], truth[j]) for i, j in near))
        if score < best:
            best, chosen = score, near
    return chosen


def elements(pixels):
    """Return the length of outline at each corner of four pixels."""
    lengths = {}
    for row, col in pixels:
        for corner in ((row, col), (row, col + 1), (row + 1, col), (row + 1, col + 1)):
            r, c = corner
            four = [(r - 1, c - 1), (r - 1, c), (r, c - 1), (r, c)]
            inside = [place in pixels for place in four]
            if sum(inside) in (1, 3):
                lengths[corner] = math.sqrt(0.5)
            elif sum(inside) == 2:
                is_diagonal = inside[0] == inside[3]
                lengths[corner] = 2 * math.sqrt(0.5) if is_diagonal else 1.0
    return lengths


def directed(here, there):
    """Return (distance, length) from each element to the other outline, the nearest first."""
    return sorted((min(math.dist(a, b) for b in there), length) for a, length in here.items())


def percentile(distances):
    total, so_far = sum(length for _, length in distances), 0.0
    for distance, length in distances:
        so_far += length
        if so_far >= 0.95 * total - 1e-9:
            return distance
    raise AssertionError


def slow_outlines(a, b, tolerance_px):
    """Return HD95, mean distance, length within the tolerance, and whole length."""
    here, there = elements(a), elements(b)
    forth, back = directed(here, there), directed(there, here)
    both = forth + back
    length = sum(one for _, one in both)
    return (
        max(percentile(forth), percentile(back)),
        sum(d * one for d, one in both) / length,
        sum(one for d, one in both if d <= tolerance_px + 1e-9),
        length,
    )


def slow_image(truth, truth_classes, found, found_classes, mpp, options, n_classes):
    """Return all figures of one image, and those of each class."""
    ours, theirs = pixel_sets(truth), pixel_sets(found)
    matches = [
        (i, j, iou_of(a, b))
        for i, a in enumerate(ours)
        for j, b in enumerate(theirs)
        if iou_of(a, b) > 0.5
    ]
    n, m, tp = len(ours), len(theirs), len(matches)
    centres = [centre(a, mpp) for a in ours], [centre(b, mpp) for b in theirs]
    pairs = slow_pairs(centres[1], centres[0], options.radius_um)
    unpaired = [j for j in range(m) if j not in [p[0] for p in pairs]]
    missing = [i for i in range(n) if i not in [p[1] for p in pairs]]
    false = [
        j
        for j in unpaired
        if not any((int(centres[1][j][1] // mpp), int(centres[1][j][0] // mpp)) in a for a in ours)
    ]
    mm2 = truth.size * mpp**2 / 1e6
    shapes = [slow_outlines(ours[i], theirs[j], options.tolerance_um / mpp) for i, j, _ in matches]
    lengths = sum(sum(elements(each).values()) for each in ours + theirs)
    areas = [(len(theirs[j]) - len(ours[i])) * mpp**2 for i, j, _ in matches]
    foreground = set().union(*ours), set().union(*theirs)
    dq, iou_sum = share(tp, (n + m) / 2), sum(iou for _, _, iou in matches)
    sq = iou_sum / tp if tp else (0.0 if n + m else math.nan)
    figures = {
        "pq": dq * sq,
        "dq": dq,
        "sq": sq,
        "matched_share": share(tp, n),
        "precision_iou": share(tp, m),
        "dice": share(2 * len(foreground[0] & foreground[1]), sum(map(len, foreground))),
        "iou": share(len(foreground[0] & foreground[1]), len(foreground[0] | foreground[1])),
        "f1_centroid": share(2 * len(pairs), n + m),
        "precision_centroid": share(len(pairs), m),
        "recall_centroid": share(len(pairs), n),
        "false_per_mm2": len(false) / mm2,
        "unpaired_per_mm2": len(unpaired) / mm2,
        "hd95_um": share(sum(s[0] for s in shapes) * mpp, tp),
        "boundary_distance_um": share(sum(s[1] for s in shapes) * mpp, tp),
        "surface_dice": share(sum(s[2] for s in shapes), lengths),
        "surface_dice_matched": share(sum(s[2] / s[3] for s in shapes), tp),
        "area_error_um2": share(sum(areas), tp),
        "count_error_share": share(m - n, n),
    }
    of_class = []
    for k in range(n_classes):
        mine = [i for i in range(n) if truth_classes[i] == k]
        said = [j for j in range(m) if found_classes[j] == k]
        both = [iou for i, j, iou in matches if i in mine and j in said]
        open_ = [j for i, j, _ in matches if truth_classes[i] == UNKNOWN and j in said]
        right = sum(i in mine and j in said for j, i in pairs)
        wrong = sum(truth_classes[i] not in (k, UNKNOWN) and j in said for j, i in pairs)
        lost = sum(i in mine and j not in said for j, i in pairs)
        alone = sum(j in said for j in unpaired), sum(i in mine for i in missing)
        half = (len(mine) + len(said) - len(open_)) / 2
        of_class.append(
            {
                "f1": share(2 * right, 2 * right + 2 * wrong + 2 * lost + sum(alone)),
                "pq": share(sum(both), half),
                "dq": share(len(both), half),
                "false_per_mm2": sum(j in said for j in false) / mm2,
                "n": len(mine),
            }
        )
    return figures, of_class
