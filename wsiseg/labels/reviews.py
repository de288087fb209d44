"""Reviews of a run by a person (`wsiseg review read`): the squares that came back.

Each square is an image with the corrected nuclei.  Nuclei of the run whose centroid is in no
reviewed square, and which reach into one, were not looked at: their pixels are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from wsiseg.errors import LabelsNotReadable, UsageError
from wsiseg.geometry import Box
from wsiseg.labels.areas import (
    AnnotatedSlide,
    OutlinedNucleus,
    Rings,
    image_of_area,
    polygons_of,
    reach_of,
)
from wsiseg.labels.files import needed_mpp, open_picture, stated_mpp
from wsiseg.labels.found import FoundImage, LabelFormat
from wsiseg.labels.options import SetDescription

_SAMPLE, _CORRECTED, _AGREEMENT = "sample.json", "corrected_cells.parquet", "agreement.json"


def is_review(path: Path) -> bool:
    """Return whether a path is a run with reviews that were read, or the folder of one."""
    return bool(_folders(path))


def _folders(path: Path) -> list[Path]:
    """Return the folders of reviews that came back."""
    if not path.is_dir():
        return []
    candidates = [path, *sorted(path.glob("reviews/*/"))]
    return [
        folder
        for folder in candidates
        if all((folder / name).is_file() for name in (_SAMPLE, _CORRECTED, _AGREEMENT))
    ]


def read_reviews(described: SetDescription) -> Iterator[FoundImage]:
    """Yield the squares of a run's reviews that came back, in the order of their names.

    Raises
    ------
    UsageError
        If the slide is not given, is another one, or a file is damaged.
    """
    if described.slide is None:
        raise UsageError(
            f"{described.path}: a review holds no pixels; name the slide in a TOML file (slide = "
            '"a.svs" beside path = …)'
        )
    for folder in _folders(described.path):
        yield from _squares_of(folder, described, described.slide)


def _squares_of(folder: Path, described: SetDescription, path: Path) -> Iterator[FoundImage]:
    sample, agreement = (_json(folder / name) for name in (_SAMPLE, _AGREEMENT))
    with open_picture(path) as slide:
        if slide.info.name != sample["slide"]:
            raise UsageError(
                f"{folder} is a review of {sample['slide']}, and {slide.info.name} was given; give "
                "that slide"
            )
        squares = _reviewed_squares(folder, sample, agreement)
        rows = _table(folder / _CORRECTED, ("uuid", "class_name", "geometry")).to_pylist()
        nuclei = [
            OutlinedNucleus(
                f"nucleus {row['uuid']}",
                row["class_name"],
                polygons_of(shapely.from_wkb(row["geometry"])),
            )
            for row in rows
        ]
        mpp = needed_mpp(stated_mpp(slide.info, described.mpp), path)
        unseen = _unseen(folder, sample, squares)
        drawn = AnnotatedSlide(
            slide,
            mpp,
            str(folder / _CORRECTED),
            nuclei,
            unseen,
            described.overlaps,
            reach_of(nuclei),
        )
        for name, box in squares.items():
            stem = f"{path.stem}_{folder.name}_{name.replace(' ', '')}"
            found = image_of_area(drawn, stem, [[_ring(box)]])
            yield replace(found, source=path.stem)


def _reviewed_squares(folder: Path, sample: Any, agreement: Any) -> dict[str, Box]:
    try:
        reviewed = frozenset(agreement["reviewed"])
        return {
            square["name"]: Box(*(int(value) for value in square["box_px"]))
            for square in sample["squares"]
            if square["name"] in reviewed
        }
    except (KeyError, TypeError, ValueError) as error:
        raise LabelsNotReadable(
            f"{folder}: its records are damaged ({type(error).__name__}: {error}); read the review "
            "again"
        ) from error


def _unseen(folder: Path, sample: Any, squares: dict[str, Box]) -> list[list[Rings]]:
    """Return nuclei of the run that are no part of the review and reach into its squares."""
    run = folder.parent.parent / "cells.parquet"
    if not run.is_file():
        return []
    cells = _table(run, ("uuid", "geometry"))
    seen = {
        uuid
        for square in sample["squares"]
        if square["name"] in squares
        for uuid in square["cell_uuids"]
    }
    outlines = shapely.from_wkb(cells["geometry"].to_numpy(zero_copy_only=False))
    tree = shapely.STRtree(outlines)
    boxes = [shapely.box(b.x_px, b.y_px, b.x_end_px, b.y_end_px) for b in squares.values()]
    near: set[int] = set(tree.query(boxes, predicate="intersects")[1].tolist()) if boxes else set()
    uuids = cells["uuid"].to_pylist()
    return [polygons_of(outlines[k]) for k in sorted(near) if uuids[k] not in seen]


def _ring(box: Box) -> Any:
    x0, y0, x1, y1 = box.x_px, box.y_px, box.x_end_px, box.y_end_px
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LabelsNotReadable(
            f"{path}: cannot be read ({error}); read the review again"
        ) from error


def _table(path: Path, columns: tuple[str, ...]) -> pa.Table:
    try:
        return pq.read_table(path, columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise LabelsNotReadable(
            f"{path}: cannot be read ({error}); read the review again"
        ) from error


REVIEW = LabelFormat(
    "review",
    "a run with a review that was read",
    "reviews/NAME/ of `wsiseg review read`, and the slide",
    is_review,
    read_reviews,
    names_classes=True,
)
