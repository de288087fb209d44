"""How a model does on images that were changed a little more each time: the curve of domain shift.

Each change is a pure function of an annotated image; then the image goes through the whole
pipeline, and what is found is scored against the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.evaluation.curves import Curve, CurvePoint, curves_svg
from wsiseg.evaluation.metrics import MATCH_IOU, count_overlaps
from wsiseg.evaluation.sampling import Estimate, bootstrap
from wsiseg.evaluation.segmenting import segment_image
from wsiseg.labels.records import LabelledImage
from wsiseg.models import MapsModel, Numerics
from wsiseg.stain import optical_density, stain_matrix, unmix

Rgb = NDArray[np.uint8]


def blur(image: LabelledImage, sigma_um: float) -> LabelledImage:
    """Return an image out of focus: a Gaussian of that many µm."""
    sigma_px = sigma_um / image.mpp
    rgb = cv2.GaussianBlur(image.rgb, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT_101)
    return replace(image, rgb=np.asarray(rgb, np.uint8))


def compress(image: LabelledImage, quality: float) -> LabelledImage:
    """Return an image that went through JPEG of that quality, 1 to 100."""
    bgr = np.ascontiguousarray(image.rgb[:, :, ::-1])
    _, packed = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    opened = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return replace(image, rgb=np.ascontiguousarray(opened[:, :, ::-1]))


def shift_stains(image: LabelledImage, percent: float) -> LabelledImage:
    """Return an image with so much more haematoxylin, and so much less eosin.

    Densities are those of Ruifrok and Johnston 2001 (Anal Quant Cytol Histol 23:291).
    """
    stains = unmix(optical_density(image.rgb))
    share = percent / 100
    stains *= np.array([1 + share, 1 - share, 1], np.float32)
    density = cv2.transform(stains, np.linalg.inv(stain_matrix()).astype(np.float32))
    rgb = np.rint(255 * np.power(np.float32(10), -np.asarray(density)))
    return replace(image, rgb=np.clip(rgb, 0, 255).astype(np.uint8))


def brighten(image: LabelledImage, percent: float) -> LabelledImage:
    """Return an image whose values are so much higher, as under a brighter lamp."""
    rgb = np.rint(image.rgb.astype(np.float32) * np.float32(1 + percent / 100))
    return replace(image, rgb=np.clip(rgb, 0, 255).astype(np.uint8))


def misstate_mpp(image: LabelledImage, percent: float) -> LabelledImage:
    """Return an image whose µm per pixel are so much less than it says: all in it is larger.

    Labels are those at the middles of the new pixels.
    """
    height, width = image.instances.shape
    size = tuple(max(1, round(n * (1 + percent / 100))) for n in (height, width))
    method = cv2.INTER_AREA if percent < 0 else cv2.INTER_LINEAR
    rgb = np.asarray(cv2.resize(image.rgb, size[::-1], interpolation=method), np.uint8)
    rows, cols = (
        ((np.arange(new) + 0.5) * (old / new)).astype(np.int64)
        for new, old in zip(size, (height, width), strict=True)
    )
    at = np.ix_(rows, cols)
    return replace(
        image,
        rgb=rgb,
        instances=image.instances[at],
        classes=image.classes[at],
        ignored=None if image.ignored is None else image.ignored[at],
    )


@dataclass(frozen=True, slots=True)
class Perturbation:
    """One way of changing images."""

    title: str
    """For people."""
    unit: str
    """Of its strength."""
    untouched: float
    """Strength at which an image is as it was."""
    change: Callable[[LabelledImage, float], LabelledImage]
    """Called for every other strength."""

    def of(self, image: LabelledImage, strength: float) -> LabelledImage:
        """Return an image changed so far."""
        return image if strength == self.untouched else self.change(image, strength)


PERTURBATIONS: Mapping[str, Perturbation] = MappingProxyType(
    {
        "blur": Perturbation("Blur", "µm", 0.0, blur),
        "jpeg": Perturbation("JPEG compression", "quality", 100.0, compress),
        "hed": Perturbation("More haematoxylin, less eosin", "%", 0.0, shift_stains),
        "brightness": Perturbation("Brightness", "%", 0.0, brighten),
        "mpp": Perturbation("Wrong µm per pixel", "%", 0.0, misstate_mpp),
    }
)
"""By kind."""
UNTOUCHED = Perturbation("None", "", 0.0, blur)
_STRENGTHS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "blur": (0.25, 0.5, 0.75, 1.0),
        "jpeg": (80, 60, 40, 20),
        "hed": (-30, -15, 15, 30),
        "brightness": (-30, -15, 15, 30),
        "mpp": (-10, -5, 5, 10),
    }
)


@dataclass(frozen=True, slots=True)
class PerturbOptions:
    """Which changes, how strong, and how intervals are made.

    Raises
    ------
    UsageError
        If there is no change of that name.
    """

    strengths: Mapping[str, Sequence[float]] = field(default_factory=lambda: _STRENGTHS)
    """Of each kind, beside the untouched image."""
    n_draws: int = 2000
    """Samples of the bootstrap."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        for kind in self.strengths:
            if kind not in PERTURBATIONS:
                known = ", ".join(PERTURBATIONS)
                raise UsageError(f"{kind!r} is no change of an image; known: {known}")
        if self.n_draws < 1:
            raise UsageError(f"n_draws is {self.n_draws}; at least 1 is needed")


@dataclass(frozen=True, slots=True)
class PerturbationPoint:
    """How a model scores on images that were changed in one way."""

    kind: str
    """What was changed; a key of `PERTURBATIONS`."""
    strength: float
    """How far; the untouched images are one point of each kind."""
    unit: str
    """Of the strength."""
    pq: Estimate
    """Panoptic quality, pooled over the images; interval by bootstrap over patients."""
    f1: Estimate
    """Share of nuclei that match (IoU above 0.5), as F1; likewise."""
    n_images: int
    """Images it was measured on."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as in a model card's `about`, under `perturbation`."""
        return {
            "kind": self.kind,
            "strength": self.strength,
            "unit": self.unit,
            "pq": self.pq.value,
            "pq_low": self.pq.low,
            "pq_high": self.pq.high,
            "f1": self.f1.value,
            "n_images": self.n_images,
        }


def perturbation_curve(
    model: MapsModel,
    images: Sequence[LabelledImage],
    numerics: Numerics,
    options: PerturbOptions | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[PerturbationPoint, ...]:
    """Score a model on changed images, through the whole pipeline.

    Parameters
    ----------
    model : MapsModel
        Finds the nuclei.
    images : sequence of LabelledImage
        Annotated; of patients the model was not trained on, if the curve is to say anything.
    numerics : Numerics
        How the network is computed.
    options : PerturbOptions, optional
        Which changes.
    progress : callable, optional
        Called with (stage, done, total).

    Returns
    -------
    tuple of PerturbationPoint
        By kind, ascending in strength.

    Raises
    ------
    UsageError
        If there is no image.
    """
    options = options or PerturbOptions()
    if not images:
        raise UsageError("there is no image to change; at least one is needed")
    work = [
        (kind, strength)
        for kind, some in options.strengths.items()
        for strength in dict.fromkeys(some)
        if strength != PERTURBATIONS[kind].untouched
    ]
    total, done = (len(work) + 1) * len(images), 0

    def sums_of(change: Perturbation, strength: float) -> NDArray[np.float64]:
        nonlocal done
        rows = []
        for image in images:
            if progress is not None:
                progress("perturbing", done, total)
            changed = change.of(image, strength)
            found = segment_image(model, changed.rgb, changed.mpp, numerics)
            rows.append(match_sums(changed, found.labels))
            done += 1
        return np.array(rows)

    patients = [image.patient for image in images]
    points = []
    untouched = sums_of(UNTOUCHED, 0.0)
    for kind in options.strengths:
        strength = PERTURBATIONS[kind].untouched
        points.append(_point(kind, strength, untouched, patients, options))
    for kind, strength in work:
        sums = sums_of(PERTURBATIONS[kind], strength)
        points.append(_point(kind, strength, sums, patients, options))
    order = list(options.strengths)
    return tuple(sorted(points, key=lambda point: (order.index(point.kind), point.strength)))


def match_sums(truth: LabelledImage, found: NDArray[np.int32]) -> tuple[float, float, float, float]:
    """Return IoU of the matches, matches, annotated and found nuclei of one image.

    Pixels that are ignored belong to nothing, and what lost more than half of its pixels to
    them does not count (Kirillov et al. 2019, doi:10.1109/CVPR.2019.00963, section 4.2).
    """
    labels = [truth.instances, found]
    if truth.ignored is not None:
        labels = [_without_ignored(each, truth.ignored) for each in labels]
    overlaps = count_overlaps(*labels)
    iou = overlaps.iou[overlaps.iou > MATCH_IOU]
    n_truth, n_found = len(overlaps.reference_label), len(overlaps.predicted_label)
    return float(iou.sum()), float(len(iou)), float(n_truth), float(n_found)


def _without_ignored(labels: NDArray[np.int32], ignored: NDArray[np.bool_]) -> NDArray[np.int32]:
    area_px = np.bincount(labels.ravel())
    lost_px = np.bincount(labels[ignored], minlength=len(area_px))
    return np.where(ignored | (2 * lost_px > area_px)[labels], 0, labels).astype(np.int32)


def _point(
    kind: str,
    strength: float,
    sums: NDArray[np.float64],
    patients: Sequence[str],
    options: PerturbOptions,
) -> PerturbationPoint:
    unit = np.unique(patients, return_inverse=True)[1]
    of_patients = np.zeros((int(unit.max()) + 1, sums.shape[1]))
    np.add.at(of_patients, unit, sums)
    ones = np.ones(len(of_patients))
    pq, f1 = bootstrap(_pq_and_f1, of_patients, ones, options.seed, options.n_draws)
    return PerturbationPoint(kind, float(strength), PERTURBATIONS[kind].unit, pq, f1, len(sums))


def _pq_and_f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    n = sums[:, 2:].sum(axis=1, keepdims=True)
    ratios = np.full((len(sums), 2), np.nan)
    np.divide(2 * sums[:, :2], n, out=ratios, where=n > 0)
    return ratios


def perturbation_svg(points: Sequence[PerturbationPoint]) -> str:
    """Draw panoptic quality against strength, a panel for each kind.

    Parameters
    ----------
    points : sequence of PerturbationPoint
        Of `perturbation_curve`, at least one with a value.

    Returns
    -------
    str
        A whole SVG document that may also stand inside an HTML page.
    """
    curves = []
    for kind in dict.fromkeys(point.kind for point in points):
        mine = [p for p in points if p.kind == kind and p.pq.value is not None]
        if mine:
            known = PERTURBATIONS.get(kind)
            drawn = [CurvePoint(p.strength, p.pq.value or 0.0, p.pq.low, p.pq.high) for p in mine]
            title = kind if known is None else known.title
            curves.append(Curve(title, mine[0].unit, "PQ", tuple(drawn)))
    return curves_svg(curves, "Panoptic quality on changed images")
