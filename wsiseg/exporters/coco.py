"""COCO instances: the slide as one image, a polygon per nucleus.

Format: https://cocodataset.org/#format-data (object detection).  COCO's polygons have no holes,
so a hole is joined to the outline by a slit of no width: filled, both give the same pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from wsiseg.errors import ResultNotReadable
from wsiseg.exporters import ExportableResult, wkb
from wsiseg.exporters._choice import CellChoice, chosen_batches
from wsiseg.exporters._coco_text import annotations_text
from wsiseg.exporters._decimal_text import hundredths, scaled
from wsiseg.exporters._facts import USE, run_facts
from wsiseg.exporters._finish import finished_file, refuse_existing
from wsiseg.exporters._packed import open_for_text
from wsiseg.exporters._plain_names import name_without_class

_COLUMNS = ("cell_id", "class_name", "class_prob", "geometry")
_BLOCK_ROWS = 4096
_EVERYTHING = CellChoice()


def export_coco(
    result: ExportableResult, destination: Path, options: CellChoice = _EVERYTHING
) -> None:
    """Write a run's nuclei as COCO instances, in level-0 pixels to 0.01 px.

    Memory does not depend on the number of nuclei.  The ids of annotations are those of the
    cells, `category_id` is the position of the class in the model, from 1; nuclei without a
    class have the last category, `Nucleus`.  `score` is the probability of the class.

    Raises
    ------
    UnknownName
        If the model has no such class or the run no such region.
    OutputExists
        If something is at `destination` already.
    ResultNotReadable
        If a row's geometry is damaged.
    OutputNotWritable
        If the operating system refuses to write.
    """
    batches = chosen_batches(result, options, _COLUMNS)
    refuse_existing(destination)
    with (
        finished_file(destination) as partial,
        open_for_text(partial, destination) as stream,
    ):
        stream.write(_head(result))
        skip = 1  # the comma before the first annotation
        for text in _annotations(batches, result.class_names):
            stream.write(text[skip:])
            skip = 0
        stream.write(b"\n]}\n")


def _head(result: ExportableResult) -> bytes:
    slide = result.run["slide"]
    image = {
        "id": 1,
        "file_name": result.name,
        "width": int(slide["width_px"]),
        "height": int(slide["height_px"]),
        "mpp": result.mpp,
    }
    facts = run_facts(result)
    said = f"Nuclei of {result.name}, found by {facts['model']} (wsiseg). {USE}"
    info = {"description": said, "version": facts["wsiseg_version"], **facts}
    parts: Mapping[str, Any] = {
        "info": info,
        "licenses": [],
        "images": [image],
        "categories": _categories(result.class_names),
    }
    return json.dumps(parts)[:-1].encode("ascii") + b',"annotations":['


def _categories(class_names: Sequence[str]) -> list[dict[str, object]]:
    names = [*class_names, name_without_class(class_names)]
    return [
        {"id": number, "name": name, "supercategory": "nucleus"}
        for number, name in enumerate(names, start=1)
    ]


def _annotations(
    batches: Iterable[pa.RecordBatch], class_names: Sequence[str]
) -> Iterable[memoryview]:
    known = pa.array([*class_names], pa.string())
    for batch in batches:
        for start in range(0, batch.num_rows, _BLOCK_ROWS):
            yield _block_text(batch.slice(start, _BLOCK_ROWS), known)


def _block_text(rows: pa.RecordBatch, class_names: pa.Array) -> memoryview:
    polygons = wkb.decode(rows.column("geometry"))
    xy_centi_px = np.empty(polygons.xy_px.shape, np.int64)
    if not hundredths(polygons.xy_px, 0.0, 0.0, xy_centi_px):
        raise ResultNotReadable(
            "the cell table has a coordinate that is no pixel position; it is damaged: run the "
            "slide again"
        )
    index = pc.index_in(rows.column("class_name").cast(pa.string()), value_set=class_names)
    category = 1 + _numbers(index.fill_null(len(class_names)))
    score = np.empty(rows.num_rows, np.int64)
    prob = rows.column("class_prob").to_numpy(zero_copy_only=False)
    scaled(prob.astype(np.float64), 10_000, score)
    return annotations_text(
        _numbers(rows.column("cell_id")), category, score, polygons, xy_centi_px
    )


def _numbers(column: pa.Array) -> NDArray[np.int64]:
    return np.ascontiguousarray(column.to_numpy(zero_copy_only=False), np.int64)
