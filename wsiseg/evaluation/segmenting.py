"""An annotated image through the whole pipeline: file, reader, tiles, stitching, outlines."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

from wsiseg.evaluation.found import paint_outline
from wsiseg.models import MapsModel, Numerics
from wsiseg.pipeline import run_directory, segment_planned
from wsiseg.plan import PlanOptions, plan_run
from wsiseg.records import UNKNOWN_CLASS
from wsiseg.results import Result
from wsiseg.runners import RunHere
from wsiseg.scale import ScaleOptions
from wsiseg.slides import open_slide


@dataclass(frozen=True, slots=True, eq=False)
class FoundNuclei:
    """What a run found in an image, in the image's own pixels."""

    labels: NDArray[np.int32]
    """(h, w): 0 is background, row + 1 of the arrays below elsewhere."""
    class_index: NDArray[np.uint8]
    """(n,): index of the model's class, `UNKNOWN_CLASS` without one."""
    nucleus_prob: NDArray[np.float64]
    """(n,)."""
    class_probs: NDArray[np.float64]
    """(n, k): of the model's classes; k may be 0."""


def segment_image(
    model: MapsModel, rgb: NDArray[np.uint8], mpp: float, numerics: Numerics
) -> FoundNuclei:
    """Segment an image as a slide is segmented, all of it, and draw the outlines on its pixels.

    Parameters
    ----------
    model : MapsModel
        Finds the nuclei.
    rgb : ndarray, (h, w, 3), uint8
        The image.
    mpp : float
        Its µm per pixel.
    numerics : Numerics
        How the network is computed.

    Raises
    ------
    WsisegError
        As `wsiseg.segment`.
    """
    with tempfile.TemporaryDirectory(prefix="wsiseg-evaluation-") as temporary:
        path = Path(temporary) / "image.png"
        Image.fromarray(rgb).save(path, compress_level=1)
        options = PlanOptions(
            # An evaluated model may well be one that enlarges.
            scale=ScaleOptions(mpp=mpp, force=True),
            tissue=None,
            measure=("probabilities",),
        )
        with open_slide(path) as slide:
            plan = plan_run(slide, model, numerics, options)
            folder = run_directory(Path(temporary), slide.info.name)
            result = segment_planned(plan, folder, RunHere(), formats=())
        return _drawn(result, model.card.class_names, rgb.shape[:2])


def _drawn(result: Result, names: Sequence[str], shape: tuple[int, ...]) -> FoundNuclei:
    features = [f"prob_{name}" for name in names]
    cells = result.cells(columns=["class_name", "nucleus_prob", "geometry", *features])
    places = {name: index for index, name in enumerate(names)}
    class_index = [places.get(name, UNKNOWN_CLASS) for name in cells["class_name"].to_pylist()]
    probs = [cells[name].to_numpy().astype(np.float64) for name in features]
    outlines = shapely.from_wkb(cells["geometry"].to_numpy())
    return FoundNuclei(
        draw_outlines(outlines, (shape[0], shape[1])),
        np.array(class_index, np.uint8),
        cells["nucleus_prob"].to_numpy().astype(np.float64),
        np.stack(probs, axis=1) if probs else np.empty((len(outlines), 0)),
    )


def draw_outlines(outlines: NDArray[np.object_], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Return outlines as a label image: the pixels whose middle is inside.

    Parameters
    ----------
    outlines : ndarray of shapely polygons, (n,)
        In pixels, (0, 0) the image's corner; disjoint.
    shape : tuple of int
        Rows and columns of the image.

    Returns
    -------
    ndarray, (rows, cols), int32
        0 is background, position + 1 elsewhere; an outline between the middles has no pixel.
    """
    labels = np.zeros(shape, np.int32)
    for label, outline in enumerate(outlines, 1):
        paint_outline(labels, outline, label)
    return labels
