"""How a model does on images that were changed a little more each time: the curve of domain shift.

Each change is a pure function of an annotated image; then the image goes through the whole
pipeline, and what is found is scored against the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.evaluation.metrics import MATCH_IOU, count_overlaps
from wsiseg.evaluation.records import (
    EvaluateOptions,
    PerturbationPoint,
    instance_image,
    labelled_instances,
)
from wsiseg.evaluation.sampling import Estimate, bootstrap
from wsiseg.evaluation.segmenting import segment_image
from wsiseg.evaluation.tallies import scored_part
from wsiseg.labels.records import LabelledImage
from wsiseg.labels.resampling import resample
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
    """Return an image whose µm per pixel are so much less than it says: all in it is larger."""
    return replace(resample(image, image.mpp / (1 + percent / 100)), mpp=image.mpp)


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
    lowest: float
    """Of strengths that mean something."""
    highest: float

    def of(self, image: LabelledImage, strength: float) -> LabelledImage:
        """Return an image changed so far."""
        return image if strength == self.untouched else self.change(image, strength)


PERTURBATIONS: Mapping[str, Perturbation] = MappingProxyType(
    {
        "blur": Perturbation("Blur", "µm", 0.0, blur, 0.0, 100.0),
        "jpeg": Perturbation("JPEG compression", "quality", 100.0, compress, 1.0, 100.0),
        "hed": Perturbation("More haematoxylin, less eosin", "%", 0.0, shift_stains, -100.0, 100.0),
        "brightness": Perturbation("Brightness", "%", 0.0, brighten, -100.0, 1000.0),
        "mpp": Perturbation("Wrong µm per pixel", "%", 0.0, misstate_mpp, -75.0, 300.0),
    }
)
"""By kind."""
UNTOUCHED = Perturbation("None", "", 0.0, blur, 0.0, 0.0)
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
    """Which changes, and how strong.

    Raises
    ------
    UsageError
        If there is no change of that name, or none of that strength.
    """

    strengths: Mapping[str, Sequence[float]] = field(default_factory=lambda: _STRENGTHS)
    """Of each kind, beside the untouched image."""

    def __post_init__(self) -> None:
        for kind, strengths in self.strengths.items():
            if kind not in PERTURBATIONS:
                known = ", ".join(PERTURBATIONS)
                raise UsageError(f"{kind!r} is no change of an image; known: {known}")
            change = PERTURBATIONS[kind]
            for strength in strengths:
                if not change.lowest <= strength <= change.highest:
                    raise UsageError(
                        f"{kind} of {strength:g} {change.unit}; from {change.lowest:g} to "
                        f"{change.highest:g} is needed"
                    )


_DEFAULTS = PerturbOptions()
_SCORED = EvaluateOptions()


def perturbation_curve(
    model: MapsModel,
    images: Sequence[LabelledImage],
    numerics: Numerics,
    options: PerturbOptions = _DEFAULTS,
    scored: EvaluateOptions = _SCORED,
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
    options : PerturbOptions
        Which changes.
    scored : EvaluateOptions
        Seed and samples of the bootstrap.
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
        points.append(_point(kind, strength, untouched, patients, scored))
    for kind, strength in work:
        sums = sums_of(PERTURBATIONS[kind], strength)
        points.append(_point(kind, strength, sums, patients, scored))
    order = list(options.strengths)
    return tuple(sorted(points, key=lambda point: (order.index(point.kind), point.strength)))


def match_sums(truth: LabelledImage, found: NDArray[np.int32]) -> tuple[float, float, float, float]:
    """Return IoU of the matches, matches, annotated and found nuclei of one image.

    Parameters
    ----------
    truth : LabelledImage
        As it is annotated; what it ignores counts as `scored_part` says.
    found : ndarray, (h, w), int32
        Labels of what was found, 0 for background.
    """
    ours, theirs, _ = scored_part(labelled_instances(truth), instance_image(found, truth.mpp))
    overlaps = count_overlaps(ours.labels, theirs.labels)
    iou = overlaps.iou[overlaps.iou > MATCH_IOU]
    return float(iou.sum()), float(len(iou)), float(ours.n), float(theirs.n)


def _point(
    kind: str,
    strength: float,
    sums: NDArray[np.float64],
    patients: Sequence[str],
    scored: EvaluateOptions,
) -> PerturbationPoint:
    pq = pooled_pq(sums, patients, scored)
    return PerturbationPoint(kind, float(strength), PERTURBATIONS[kind].unit, pq, len(sums))


def pooled_pq(
    sums: NDArray[np.float64], patients: Sequence[str], scored: EvaluateOptions = _SCORED
) -> Estimate:
    """Return panoptic quality of images together, with its interval over patients.

    Parameters
    ----------
    sums : ndarray, (n, 4)
        Of `match_sums`, a row an image.
    patients : sequence of str
        Of each image.
    scored : EvaluateOptions
        Seed and samples of the bootstrap.
    """
    unit = np.unique(patients, return_inverse=True)[1]
    of_patients = np.zeros((int(unit.max()) + 1, sums.shape[1]))
    np.add.at(of_patients, unit, sums)
    ones = np.ones(len(of_patients))
    (pq,) = bootstrap(_pq, of_patients, ones, scored.seed, scored.n_draws)
    return pq


def _pq(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    n = sums[:, 2:].sum(axis=1, keepdims=True)
    quality = np.full((len(sums), 1), np.nan)
    np.divide(2 * sums[:, :1], n, out=quality, where=n > 0)
    return quality
