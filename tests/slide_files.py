"""Writers of small test slides in the formats of scanners, and why one is not opened."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as Items
from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage, generate_uid

from wsiseg.errors import SlideNotReadable
from wsiseg.slides import open_slide

TILE_PX = 128
TILED: dict[str, Any] = {"tile": (TILE_PX, TILE_PX), "photometric": "rgb"}


def picture(height: int, width: int) -> NDArray[np.uint8]:
    """Smooth random colours with fine noise, so that shifts and seams show."""
    random = np.random.default_rng(3)
    coarse = random.integers(40, 216, (height // 12 + 2, width // 12 + 2, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return (smooth + random.integers(0, 40, smooth.shape, np.uint8)).astype(np.uint8)


def shrunk(rgb: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Average step × step pixels; sizes are rounded down."""
    size = (rgb.shape[1] // step, rgb.shape[0] // step)
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX))


def refusal(path: Path, reader: str | None = None) -> str:
    """Return why a path is not opened, after making sure that it is one line without folders."""
    with pytest.raises(SlideNotReadable) as caught:
        open_slide(path, reader)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path.parent) not in message
    return message


# ---------------------------------------------------------------- DICOM


def write_dicom(
    folder: Path,
    rgb: NDArray[np.uint8],
    steps: Sequence[int] = (1, 2),
    mpp: float | None = 0.25,
    names: Sequence[str] | None = None,
    series: str = "slide",
) -> list[Path]:
    """Write a whole-slide series: one file a level, JPEG tiles in full rows.

    DICOM PS3.3, A.32.8 (VL Whole Slide Microscopy Image); equal `series` give equal UIDs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, step in enumerate(steps):
        name = names[number] if names else f"level-{number}.dcm"
        level = rgb if step == 1 else shrunk(rgb, step)
        dataset = _dicom_level(level, series, number, None if mpp is None else mpp * step)
        dcmwrite(folder / name, dataset, enforce_file_format=True)
        paths.append(folder / name)
    return paths


def _uid(*parts: object) -> str:
    return str(generate_uid(entropy_srcs=[str(part) for part in parts]))


def _dicom_level(rgb: NDArray[np.uint8], series: str, number: int, mpp: float | None) -> Dataset:
    height, width, _ = rgb.shape
    frames = [_jpeg(tile) for tile in _tiles(rgb)]
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.file_meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = _uid(series, number)
    data.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    data.SOPInstanceUID = _uid(series, number)
    data.StudyInstanceUID = _uid(series, "study")
    data.SeriesInstanceUID = _uid(series)
    data.FrameOfReferenceUID = _uid(series, "frame")
    data.Modality = "SM"
    data.InstanceNumber = number + 1
    kind = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    data.ImageType = kind if number == 0 else ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    data.Rows = data.Columns = TILE_PX
    data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = width, height
    data.TotalPixelMatrixFocalPlanes = 1
    data.NumberOfOpticalPaths = 1
    data.NumberOfFrames = len(frames)
    data.DimensionOrganizationType = "TILED_FULL"
    data.SamplesPerPixel, data.PlanarConfiguration = 3, 0
    data.PhotometricInterpretation = "YBR_FULL_422"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.LossyImageCompression = "01"
    shared = Dataset()
    if mpp is not None:
        measures = Dataset()
        measures.PixelSpacing = [mpp / 1000, mpp / 1000]
        shared.PixelMeasuresSequence = Items([measures])
    data.SharedFunctionalGroupsSequence = Items([shared])
    optics = Dataset()
    optics.OpticalPathIdentifier = "1"
    optics.ObjectiveLensPower = "40"
    data.OpticalPathSequence = Items([optics])
    data.PixelData = encapsulate(frames)
    return data


def _tiles(rgb: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    height, width, _ = rgb.shape
    rows, cols = -(-height // TILE_PX), -(-width // TILE_PX)
    wide = np.full((rows * TILE_PX, cols * TILE_PX, 3), 255, np.uint8)
    wide[:height, :width] = rgb
    return [
        wide[row * TILE_PX :, col * TILE_PX :][:TILE_PX, :TILE_PX]
        for row in range(rows)
        for col in range(cols)
    ]


def _jpeg(rgb: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=90, subsampling="4:2:2")
    return file.getvalue()


# ---------------------------------------------------------------- TIFF


def write_scn(
    path: Path,
    rgb: NDArray[np.uint8],
    corner: tuple[int, int],
    size: tuple[int, int],
    steps: Sequence[int] = (1, 4),
    mpp: float = 0.25,
) -> Path:
    """Write a Leica SCN slide whose scanned area, `rgb`, begins at `corner` (x, y) px.

    `size` is the width and height of the whole slide.  OpenSlide names such an area as the
    slide's bounds; what lies outside has no pixels.
    """
    nm = round(1000 * mpp)
    height, width, _ = rgb.shape
    levels = [rgb if step == 1 else shrunk(rgb, step) for step in steps]
    dimensions = "".join(
        f'<dimension sizeX="{level.shape[1]}" sizeY="{level.shape[0]}" r="{r}" ifd="{r}"/>'
        for r, level in enumerate(levels)
    )
    description = (
        '<?xml version="1.0"?>'
        '<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="slide" sizeX="{size[0] * nm}" sizeY="{size[1] * nm}"><image>'
        f'<pixels sizeX="{width}" sizeY="{height}">{dimensions}</pixels>'
        f'<view sizeX="{width * nm}" sizeY="{height * nm}" offsetX="{corner[0] * nm}" '
        f'offsetY="{corner[1] * nm}"/>'
        "<scanSettings><objectiveSettings><objective>40</objective></objectiveSettings>"
        "<illuminationSettings><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image></collection></scn>"
    )
    options: dict[str, Any] = {"metadata": None, "compression": "jpeg", **TILED}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for step, level in zip(steps, levels, strict=True):
            per_cm = 1e4 / (mpp * step)
            options |= {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
            tiff.write(level, description=description, **options)
            description = ""
    return path


def write_ome_pyramid(
    path: Path,
    rgb: NDArray[np.uint8],
    steps: Sequence[int] = (2, 4),
    mpp: float | None = 0.25,
    planar: bool = False,
    **options: Any,
) -> Path:
    """Write an OME-TIFF with the coarser levels in sub-directories, as the format demands."""
    layout = TILED | options | ({"planarconfig": "separate"} if planar else {})
    metadata: dict[str, Any] = {"axes": "SYX" if planar else "YXS"}
    if mpp is not None:
        metadata |= {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp}

    def arranged(level: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(np.moveaxis(level, -1, 0)) if planar else level

    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(arranged(rgb), subifds=len(steps), metadata=metadata, **layout)
        for step in steps:
            tiff.write(arranged(shrunk(rgb, step)), subfiletype=1, **layout)
    return path
