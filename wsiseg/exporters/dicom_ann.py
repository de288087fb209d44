"""DICOM Microscopy Bulk Simple Annotations: polygons, coded classes, measurements.

DICOM PS3.3, A.87 and C.37.1; written by highdicom (Herrmann et al. 2022,
doi:10.1007/s10278-022-00683-y).  One group for each class that has nuclei.  All are of the type
*Nucleus* (SNOMED CT 84640000, of DICOM's CID 8135); the class is its modifier, in the private
coding scheme `99WSISEG`, because the context group has no codes for kinds of nuclei.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.exporters import ExportableResult, wkb
from wsiseg.exporters._choice import CellChoice, chosen_batches
from wsiseg.exporters._dicom_source import Source, made_up_source, new_uid, read_source
from wsiseg.exporters._facts import run_facts
from wsiseg.exporters._finish import finished_file, refuse_existing
from wsiseg.exporters._plain_names import name_without_class, plain_names
from wsiseg.exporters.formats import needed

SCHEME = "99WSISEG"
"""The private coding scheme: a code is the class's name, or the name of the column."""
USE = "Research use only. Not for use in diagnostic procedures."
SINGLE_BELOW_PX = 131_072
"""Coordinates below this are stored as float32: off by at most 1/256 px; others as float64."""
MOST_BYTES = 2**32 - 2
"""Of one value in a DICOM file."""
_LABEL_CHARS = 64
"""Of a short text in a DICOM file (LO)."""
_COLUMNS = ("class_name", "class_prob", "nucleus_prob", "area_um2", "geometry")


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomAnnOptions(CellChoice):
    """What to export, and the slide it refers to."""

    source: Path | None = None
    """A file of the DICOM slide, or its folder: the annotations refer to it and take patient
    and study from it.  None: a slide that is made up from the run, without a patient."""


_EVERYTHING = DicomAnnOptions()


def export_dicom_ann(
    result: ExportableResult, destination: Path, options: DicomAnnOptions = _EVERYTHING
) -> None:
    """Write a run's nuclei as DICOM annotations, in pixels of the slide's finest level.

    All nuclei are held in memory: about 1.3 kB each at 30 vertices.  Holes are left out, since
    the format has none.  Classes without nuclei have no group, for a group cannot be empty.

    Raises
    ------
    UnknownName
        If the model has no such class or the run no such region.
    UsageError
        If the source is not the slide of the run, or a class is too large for one group.
    MissingDependency
        If highdicom is not installed.
    OutputExists
        If something is at `destination` already.
    OutputNotWritable
        If the operating system refuses to write.
    """
    needed("dicom-ann")
    batches = chosen_batches(result, options, _COLUMNS)
    source = made_up_source(result)
    if options.source is not None:
        source = read_source(Path(options.source), result)
    refuse_existing(destination)
    nuclei = _by_class(batches)
    names = [name for name in (*result.class_names, None) if name in nuclei]
    content = _digest({name: nuclei[name] for name in names}, source)
    called = _called(result.class_names)
    groups = []
    for number, name in enumerate(names, start=1):
        uid = new_uid(result, f"group {number} of {content}")
        groups.append(_group(number, uid, called[name], nuclei.pop(name), result, source))
    annotations = _annotations(groups, content, result, source)
    with finished_file(destination) as partial:
        annotations.save_as(partial, enforce_file_format=True)


class _Class(NamedTuple):
    """A class, as it is called in the file."""

    name: str | None
    """Its name; None for nuclei without a class."""
    label: str
    """Of its group; no other group has it."""
    code: str
    """In the private coding scheme; that of no other class."""


def _called(class_names: Sequence[str]) -> dict[str | None, _Class]:
    names: list[str | None] = [*class_names, None]
    texts = [*class_names, name_without_class(class_names)]
    labels = plain_names(texts, _LABEL_CHARS)
    return {
        name: _Class(name, label, code)
        for name, label, code in zip(names, labels, plain_names(texts), strict=True)
    }


class _Nuclei(NamedTuple):
    """Nuclei of one class."""

    n_vertices: NDArray[np.int64]
    """(n,): vertices of each outline, the first not repeated."""
    xy_px: NDArray[np.float64]
    """(k, 2)."""
    measured: NDArray[np.float32]
    """(n, 3): area, probability of the class, of being a nucleus; NaN where unknown."""


def _by_class(batches: Iterator[pa.RecordBatch]) -> dict[str | None, _Nuclei]:
    parts: dict[str | None, list[_Nuclei]] = {}
    for batch in batches:
        codes = batch.column("class_name").cast(pa.string()).dictionary_encode()
        code = codes.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        names = [*codes.dictionary.to_pylist(), None]
        for k in np.unique(code):
            rows = batch.filter(pa.array(code == k))
            parts.setdefault(names[k], []).append(_nuclei(rows))
    joined: dict[str | None, _Nuclei] = {}
    for name in list(parts):
        # Popped, so that no more than one class is in memory twice.
        joined[name] = _Nuclei(*map(np.concatenate, zip(*parts.pop(name), strict=True)))
    return joined


def _digest(nuclei: Mapping[str | None, _Nuclei], source: Source) -> str:
    """Return what UIDs rest on: another choice of nuclei or classes is another object."""
    content = hashlib.sha256(str(source.image.SOPInstanceUID).encode())
    for name, group in nuclei.items():
        content.update(f"/{name}/{len(group.n_vertices)}/".encode())
        for part in group:
            content.update(np.ascontiguousarray(part).data)
    return content.hexdigest()


def _nuclei(rows: pa.RecordBatch) -> _Nuclei:
    polygons = wkb.decode(rows.column("geometry"))
    start = polygons.first_vertex[polygons.first_ring[:-1]]
    n_vertices = polygons.first_vertex[polygons.first_ring[:-1] + 1] - 1 - start
    firsts = np.cumsum(n_vertices) - n_vertices
    position = np.repeat(start - firsts, n_vertices) + np.arange(n_vertices.sum())
    measured = [
        rows.column(name).to_numpy(zero_copy_only=False).astype(np.float32)
        for name in ("area_um2", "class_prob", "nucleus_prob")
    ]
    return _Nuclei(n_vertices, polygons.xy_px[position], np.column_stack(measured))


def _group(
    number: int,
    uid: str,
    kind: _Class,
    nuclei: _Nuclei,
    result: ExportableResult,
    source: Source,
) -> Any:
    highdicom = needed("dicom-ann")
    ann = needed("dicom-ann", "highdicom.ann")
    codes = needed("dicom-ann", "pydicom.sr.codedict").codes
    concept = highdicom.sr.CodedConcept.from_code(codes.SCT.Nucleus)
    if kind.name is not None:
        meaning = f"Nucleus of class {kind.code}"[:_LABEL_CHARS].rstrip()
        concept.AnnotationPropertyTypeModifierCodeSequence = [
            highdicom.sr.CodedConcept(kind.code, SCHEME, meaning)
        ]
    # A long text may hold what the label and the code cannot.
    named = f"Class: {kind.name}. " if kind.name not in (None, kind.label) else ""
    return ann.AnnotationGroup(
        number=number,
        uid=uid,
        label=kind.label,
        annotated_property_category=codes.SCT.AnatomicalStructure,
        annotated_property_type=concept,
        graphic_type=ann.GraphicTypeValues.POLYGON,
        graphic_data=_outlines(kind.label, nuclei),
        algorithm_type=ann.AnnotationGroupGenerationTypeValues.AUTOMATIC,
        algorithm_identification=_algorithm(highdicom, codes, result),
        measurements=_measurements(highdicom, ann, codes, nuclei.measured),
        description=f"{named}{USE} {source.said}",
        display_color=_colour(highdicom, result, kind.name),
    )


def _outlines(label: str, nuclei: _Nuclei) -> list[NDArray[np.floating[Any]]]:
    """Return the outlines in the precision they need."""
    single = np.abs(nuclei.xy_px).max(initial=0) < SINGLE_BELOW_PX
    xy_px = nuclei.xy_px.astype(np.float32 if single else np.float64, copy=False)
    if xy_px.nbytes > MOST_BYTES:
        raise UsageError(
            f"the outlines of {label} need {xy_px.nbytes / 2**30:.1f} GiB, a DICOM group holds "
            "4 GiB; export parts of the slide (regions or bbox)"
        )
    return np.split(xy_px, np.cumsum(nuclei.n_vertices)[:-1])


def _measurements(highdicom: Any, ann: Any, codes: Any, measured: NDArray[np.float32]) -> list[Any]:
    concept = highdicom.sr.CodedConcept
    kinds = (
        (concept.from_code(codes.SCT.Area), codes.UCUM.SquareMicrometer),
        (concept("class_prob", SCHEME, "Probability of the class"), codes.UCUM.NoUnits),
        (concept("nucleus_prob", SCHEME, "Probability of being a nucleus"), codes.UCUM.NoUnits),
    )
    return [
        ann.Measurements(name, np.ascontiguousarray(measured[:, k]), unit)
        for k, (name, unit) in enumerate(kinds)
        if not np.isnan(measured[:, k]).all()
    ]


def _algorithm(highdicom: Any, codes: Any, result: ExportableResult) -> Any:
    model = result.run["model"]
    return highdicom.AlgorithmIdentificationSequence(
        name=_model_label(result),
        family=codes.DCM.ArtificialIntelligence,
        # 64 hexadecimal digits: as long as the value may be.
        version=str(model["sha256"]),
        source="wsiseg",
        parameters={
            name: value
            for name, value in run_facts(result).items()
            if name in ("model_sha256", "wsiseg_version", "classes_version")
        },
    )


def _colour(highdicom: Any, result: ExportableResult, name: str | None) -> Any:
    rgb = None if name is None else result.class_colours.get(name)
    return None if rgb is None else highdicom.color.CIELabColor.from_rgb(*rgb)


def _model_label(result: ExportableResult) -> str:
    return plain_names([str(result.run["model"]["name"])], _LABEL_CHARS)[0]


def _annotations(groups: list[Any], content: str, result: ExportableResult, source: Source) -> Any:
    ann = needed("dicom-ann", "highdicom.ann")
    coding = needed("dicom-ann", "highdicom.coding_schemes")
    made = ann.MicroscopyBulkSimpleAnnotations(
        source_images=[source.image],
        annotation_coordinate_type=ann.AnnotationCoordinateTypeValues.SCOORD,
        annotation_groups=groups,
        series_instance_uid=new_uid(result, f"series of {content}"),
        series_number=1,
        sop_instance_uid=new_uid(result, f"annotations {content}"),
        instance_number=1,
        manufacturer="wsiseg",
        manufacturer_model_name=_model_label(result),
        software_versions=str(result.run["wsiseg_version"]),
        device_serial_number=str(result.run["model"]["sha256"])[:16],
        content_description=USE,
        content_label="WSISEG_NUCLEI",
        coding_schemes=[
            coding.CodingSchemeIdentificationItem(
                SCHEME, name="Classes and columns of wsiseg", responsible_organization="wsiseg"
            )
        ],
        specific_character_set="ISO_IR 192",
        series_description=f"Nuclei by wsiseg. {source.short}".strip()[:64],
    )
    if "Laterality" not in made:
        # Of a paired organ it has to be there; of which organ this is we know nothing.
        made.Laterality = ""
    _date(made, result)
    return made


def _date(made: Any, result: ExportableResult) -> None:
    """Say when the run ended, not when it was exported: the same run gives the same bytes."""
    finished = result.run.get("finished_utc")
    if not finished:
        return
    moment = datetime.fromisoformat(str(finished))
    for name in ("Content", "InstanceCreation"):
        setattr(made, f"{name}Date", moment.strftime("%Y%m%d"))
        setattr(made, f"{name}Time", moment.strftime("%H%M%S"))
    for equipment in made.get("ContributingEquipmentSequence", ()):
        equipment.ContributionDateTime = moment.strftime("%Y%m%d%H%M%S")
