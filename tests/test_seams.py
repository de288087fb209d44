"""With an exactly local network no seam can be seen: any grid gives the same nuclei."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import wsiseg
from wsiseg.plan import PlanOptions
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue
from wsiseg.testing.slides import ArraySlide


def polygons(slide: object, out: Path, model: LocalNetwork, offset_px: int) -> list[bytes]:
    result = wsiseg.segment(
        slide,  # type: ignore[arg-type]
        out / str(offset_px) / str(model.core_px),
        model=model,
        options=PlanOptions(grid_offset_px=offset_px, tissue=None),
    )
    assert result.run["stitch"]["cut"] == 0, "a nucleus larger than the margin proves nothing here"
    return sorted(pq.read_table(result.path / "cells.parquet")["geometry"].to_pylist())


@pytest.mark.parametrize(("height_px", "width_px"), [(700, 900), (513, 257), (256, 1025)])
def test_shifted_grids_and_one_big_tile_agree(
    height_px: int, width_px: int, tmp_path: Path
) -> None:
    slide = ArraySlide(paint_tissue(height_px, width_px, 2500, seed=height_px), mpp=0.5)
    model = LocalNetwork(mpp=0.5, core_px=256, margin_px=96)
    expected = polygons(slide, tmp_path, model, 0)
    assert len(expected) > 100
    assert polygons(slide, tmp_path, model, 128) == expected
    whole = LocalNetwork(mpp=0.5, core_px=1088, margin_px=96)
    assert polygons(slide, tmp_path, whole, 0) == expected


def test_real_slide_with_a_shifted_grid(shared: Path, tmp_path: Path) -> None:
    slide = shared / "slides" / "CMU-1-Small-Region.svs"
    model = LocalNetwork(mpp=0.5, core_px=512, margin_px=256, darkness=150)
    expected = polygons(slide, tmp_path, model, 0)
    assert len(expected) > 1000
    assert polygons(slide, tmp_path, model, 256) == expected


def test_mosaic_of_annotated_images_with_a_shifted_grid(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "monuseg_train" / "images"
    images = [np.asarray(Image.open(p).convert("RGB")) for p in sorted(folder.glob("*.png"))[:4]]
    mosaic = np.vstack([np.hstack(images[:2]), np.hstack(images[2:])])
    model = LocalNetwork(mpp=0.25, core_px=512, margin_px=256, darkness=165)
    slide = ArraySlide(mosaic, mpp=0.25)
    expected = polygons(slide, tmp_path, model, 0)
    assert len(expected) > 500
    assert polygons(slide, tmp_path, model, 256) == expected
