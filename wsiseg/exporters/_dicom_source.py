"""The image that DICOM annotations refer to: one that exists, or one made up from a run."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, NamedTuple

from wsiseg.errors import SlideNotReadable, UsageError
from wsiseg.exporters import ExportableResult
from wsiseg.exporters.formats import needed
from wsiseg.identity import run_namespace

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class of VL Whole Slide Microscopy Image Storage."""


_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "ReferringPhysicianName"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
)


class Source(NamedTuple):
    """What annotations refer to."""

    image: Any
    """A pydicom data set with the attributes of patient, study, series and image."""
    said: str
    """What the file says about it."""
    short: str
    """The same in few words."""


def new_uid(result: ExportableResult, name: str) -> str:
    """Return a UID that depends on slide, model and name alone.

    A UUIDv5 under the root 2.25 (DICOM PS3.5, B.2).
    """
    slide, model = result.run["slide"], result.run["model"]
    space = run_namespace(str(slide.get("fingerprint", result.name)), str(model["sha256"]))
    return f"2.25.{uuid.uuid5(space, f'dicom {name}').int}"


def made_up_source(result: ExportableResult) -> Source:
    """Return a stand-in for a slide that is not DICOM, or whose files are not given.

    Its UIDs depend on the slide's content alone; there is no patient, and no study but this.
    """
    data_set = needed("dicom-ann", "pydicom").Dataset()
    fingerprint = str(result.run["slide"].get("fingerprint", result.name))
    space = run_namespace(fingerprint, "")
    for kind in _UIDS:
        setattr(data_set, kind, f"2.25.{uuid.uuid5(space, f'dicom slide {kind}').int}")
    data_set.SOPClassUID = WHOLE_SLIDE
    data_set.Modality = "SM"
    for empty in _MAY_BE_EMPTY:
        setattr(data_set, empty, "")
    data_set.TotalPixelMatrixColumns = int(result.run["slide"]["width_px"])
    data_set.TotalPixelMatrixRows = int(result.run["slide"]["height_px"])
    return Source(
        data_set,
        "The image referred to does not exist as DICOM: its UIDs were made up from the slide's "
        "content.",
        "Image made up: slide not DICOM",
    )


def read_source(path: Path, result: ExportableResult) -> Source:
    """Return the finest level of the DICOM slide at a path, without its pixels.

    Raises
    ------
    SlideNotReadable
        If there is no such file.
    UsageError
        If no image there is a whole slide of the run's size.
    """
    pydicom = needed("dicom-ann", "pydicom")
    if not path.exists():
        raise SlideNotReadable(f"{path.name} does not exist; give a file of the DICOM slide")
    size = int(result.run["slide"]["width_px"]), int(result.run["slide"]["height_px"])
    found: list[str] = []
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        image = _whole_slide(pydicom, file)
        if image is None:
            continue
        own = tuple(int(image.get(f"TotalPixelMatrix{way}", 0)) for way in ("Columns", "Rows"))
        if own == size and "VOLUME" in image.get("ImageType", ()):
            return Source(image, "The image referred to is that of the source file.", "")
        found.append(f"{own[0]} × {own[1]} px")
    listed = f"; found: {', '.join(found)}" if found else ""
    raise UsageError(
        f"{path.name} holds no DICOM whole-slide image of {size[0]} × {size[1]} px, the size of "
        f"{result.name}{listed}; give the file of its finest level, or the folder of the slide"
    )


def _whole_slide(pydicom: Any, file: Path) -> Any | None:
    """Return what a file of a whole slide says of it, without its pixels; None: it is none."""
    if not file.is_file():
        return None
    try:
        image = pydicom.dcmread(file, stop_before_pixels=True)
    except pydicom.errors.InvalidDicomError:
        return None
    if image.get("SOPClassUID") != WHOLE_SLIDE or any(uid not in image for uid in _UIDS):
        return None
    for keyword in _MAY_BE_EMPTY:
        if keyword not in image:
            setattr(image, keyword, "")
    return image
