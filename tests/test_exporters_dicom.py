"""highdicom reads the annotations back: the same nuclei, coded classes, and no patient."""

from __future__ import annotations

import os
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import shapely
from export_runs import empty_run, export_run, replaced
from pydicom.sr.codedict import codes
from run_dirs import write_run
from slide_files import write_dicom

import wsiseg
from wsiseg.errors import SlideNotReadable, UsageError
from wsiseg.exporters import dicom_ann
from wsiseg.exporters._plain_names import WITHOUT_CLASS
from wsiseg.exporters.dicom_ann import (
    SCHEME,
    SINGLE_BELOW_PX,
    DicomAnnOptions,
    export_dicom_ann,
)
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> wsiseg.Result:
    return export_run(tmp_path_factory.mktemp("run") / "a b.svs.wsiseg")


@pytest.fixture(scope="module")
def path(result: wsiseg.Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "a.ann.dcm"
    export_dicom_ann(result, path)
    return path


def groups_of(path: Path) -> dict[str, highdicom.ann.AnnotationGroup]:
    groups = highdicom.ann.annread(path).get_annotation_groups()
    return {group.label: group for group in groups}


def cells_by_class(result: wsiseg.Result) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for cell in result.cells().to_pylist():
        found.setdefault(cell["class_name"] or WITHOUT_CLASS, []).append(cell)
    return found


def test_every_class_is_a_group_with_its_nuclei(path: Path, result: wsiseg.Result) -> None:
    groups, cells = groups_of(path), cells_by_class(result)
    assert list(groups) == [*result.class_names, WITHOUT_CLASS]
    assert {name: group.number_of_annotations for name, group in groups.items()} == {
        name: len(rows) for name, rows in cells.items()
    }


def test_outlines_are_within_a_hundredth_of_a_pixel(path: Path, result: wsiseg.Result) -> None:
    groups = groups_of(path)
    for name, cells in cells_by_class(result).items():
        group = groups[name]
        assert group.graphic_type is highdicom.ann.GraphicTypeValues.POLYGON
        outlines = group.get_graphic_data("2D")
        for outline, cell in zip(outlines, cells, strict=True):
            ring = np.array(shapely.from_wkb(cell["geometry"]).exterior.coords)
            assert np.abs(outline - ring[:-1]).max() < 0.01


def test_classes_are_coded(path: Path, result: wsiseg.Result) -> None:
    for name, group in groups_of(path).items():
        assert group.annotated_property_category == codes.SCT.AnatomicalStructure
        assert group.annotated_property_type == codes.SCT.Nucleus
        (kind,) = group.AnnotationPropertyTypeCodeSequence
        modifiers = kind.get("AnnotationPropertyTypeModifierCodeSequence", [])
        assert [(each.CodeValue, each.CodingSchemeDesignator) for each in modifiers] == (
            [] if name == WITHOUT_CLASS else [(name, SCHEME)]
        )
    schemes = pydicom.dcmread(path).CodingSchemeIdentificationSequence
    assert [each.CodingSchemeDesignator for each in schemes] == [SCHEME]


def test_measurements_have_units_and_are_those_of_the_table(
    path: Path, result: wsiseg.Result
) -> None:
    groups = groups_of(path)
    for name, cells in cells_by_class(result).items():
        names, values, units = groups[name].get_measurements()
        said = dict(zip([each.value for each in names], values.T, strict=True))
        assert dict(zip(said, [unit.value for unit in units], strict=True)) == {
            codes.SCT.Area.value: "um2",
            "nucleus_prob": "1",
        } | ({} if name == WITHOUT_CLASS else {"class_prob": "1"})
        columns = {codes.SCT.Area.value: "area_um2"}
        for key, found in said.items():
            wanted = [cell[columns.get(key, key)] for cell in cells]
            assert found.tolist() == wanted


def test_the_algorithm_is_named_and_no_patient_is(path: Path, result: wsiseg.Result) -> None:
    data_set = pydicom.dcmread(path)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate"):
        assert not data_set[keyword].value
    assert data_set.Modality == "ANN"
    assert data_set.PixelOriginInterpretation == "VOLUME"
    for group in groups_of(path).values():
        (algorithm,) = group.algorithm_identification
        assert algorithm.AlgorithmName == "test-model"
        assert algorithm.AlgorithmVersion == result.run["model"]["sha256"]
        assert group.algorithm_type.value == "AUTOMATIC"
        assert "Research use only" in group.AnnotationGroupDescription
        assert "made up" in group.AnnotationGroupDescription


def test_uids_follow_the_content(path: Path, result: wsiseg.Result, tmp_path: Path) -> None:
    export_dicom_ann(result, tmp_path / "same.dcm")
    export_dicom_ann(result, tmp_path / "few.dcm", DicomAnnOptions(classes=("Spindle",)))
    first, same, few = (
        pydicom.dcmread(file) for file in (path, tmp_path / "same.dcm", tmp_path / "few.dcm")
    )
    assert first.SOPInstanceUID == same.SOPInstanceUID
    assert first.SOPInstanceUID != few.SOPInstanceUID
    assert first.SOPInstanceUID.startswith("2.25.")
    references = [each.ReferencedImageSequence[0].ReferencedSOPInstanceUID for each in (first, few)]
    assert references[0] == references[1]
    assert [group.AnnotationGroupLabel for group in few.AnnotationGroupSequence] == ["Spindle"]


@pytest.mark.parametrize(("offset_px", "bits"), [(SINGLE_BELOW_PX - 3000, 32), (300_000, 64)])
def test_far_coordinates_keep_their_precision(
    result: wsiseg.Result, offset_px: float, bits: int, tmp_path: Path
) -> None:
    table = result.cells()
    shapes = shapely.transform(
        shapely.from_wkb(table["geometry"].to_pylist()), lambda xy: xy + offset_px + 0.123
    )
    far = replaced(table, "geometry", list(shapely.to_wkb(shapes))).replace_schema_metadata(None)
    run = wsiseg.open_result(write_run(tmp_path / "a.wsiseg", far, **dict(result.run)))
    export_dicom_ann(run, tmp_path / "a.dcm")
    for name, group in groups_of(tmp_path / "a.dcm").items():
        cells = cells_by_class(run)[name]
        outlines = group.get_graphic_data("2D")
        assert {outline.dtype.itemsize * 8 for outline in outlines} == {bits}
        for outline, cell in zip(outlines, cells, strict=True):
            ring = np.array(shapely.from_wkb(cell["geometry"]).exterior.coords)
            assert np.abs(outline - ring[:-1]).max() < 0.01


def test_a_run_without_nuclei_has_no_groups(tmp_path: Path) -> None:
    export_dicom_ann(empty_run(tmp_path / "a.svs.wsiseg"), tmp_path / "a.dcm")
    assert groups_of(tmp_path / "a.dcm") == {}


def slide_file(folder: Path, width_px: int) -> pydicom.Dataset:
    """Write the header of a whole-slide image, of a patient."""
    image = pydicom.Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{width_px}"
    image.SeriesInstanceUID, image.StudyInstanceUID = "1.2.4", "1.2.5"
    image.FrameOfReferenceUID, image.Modality = "1.2.6", "SM"
    image.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    image.TotalPixelMatrixColumns, image.TotalPixelMatrixRows = width_px, width_px * 3 // 4
    image.PatientName, image.PatientID = "Doe^Jo", "P1"
    image.StudyDate = "20260101"  # what else there should be of patient and study is missing
    image.save_as(folder / f"{width_px}.dcm", enforce_file_format=True)
    return image


def test_a_dicom_slide_is_referred_to(result: wsiseg.Result, tmp_path: Path) -> None:
    slide = tmp_path / "slide"
    slide.mkdir()
    slide_file(slide, 1000)
    finest = slide_file(slide, 4000)
    (slide / "notes.txt").write_text("no DICOM")
    os.mkfifo(slide / "0.pipe")  # nobody will ever write to it
    for source in (slide, slide / "4000.dcm"):
        path = tmp_path / f"{source.stem}.ann.dcm"
        export_dicom_ann(result, path, DicomAnnOptions(source=source))
        made = pydicom.dcmread(path)
        assert (made.PatientID, made.StudyInstanceUID) == ("P1", "1.2.5")
        (reference,) = made.ReferencedImageSequence
        assert reference.ReferencedSOPInstanceUID == finest.SOPInstanceUID
        assert made.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.4"
        assert "made up" not in made.AnnotationGroupSequence[0].AnnotationGroupDescription
    with pytest.raises(UsageError, match=r"4000 × 3000 px.*found: 1000 × 750 px"):
        export_dicom_ann(result, tmp_path / "b.dcm", DicomAnnOptions(source=slide / "1000.dcm"))
    with pytest.raises(UsageError, match="holds no DICOM whole-slide image"):
        export_dicom_ann(result, tmp_path / "b.dcm", DicomAnnOptions(source=slide / "notes.txt"))
    with pytest.raises(SlideNotReadable, match="does not exist"):
        export_dicom_ann(result, tmp_path / "b.dcm", DicomAnnOptions(source=slide / "no.dcm"))


def test_a_group_too_large_for_dicom_is_refused(
    result: wsiseg.Result, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dicom_ann, "MOST_BYTES", 1000)
    with pytest.raises(UsageError, match=r"outlines of Epithelial need .* 4 GiB"):
        export_dicom_ann(result, tmp_path / "a.dcm")
    assert list(tmp_path.iterdir()) == []


def test_a_name_longer_than_a_code_value_is_kept(result: wsiseg.Result, tmp_path: Path) -> None:
    name = "Überaus lange Klasse von Zellkernen"
    table = result.cells().slice(0, 1)
    table = replaced(table, "class_name", [name]).replace_schema_metadata(None)
    changes = dict(result.run) | {"classes": [{"name": name, "index": 1, "rgb": [1, 2, 3]}]}
    changes["n_cells"] = 1
    run = wsiseg.open_result(write_run(tmp_path / "a.wsiseg", table, **changes))
    export_dicom_ann(run, tmp_path / "a.dcm")
    (group,) = groups_of(tmp_path / "a.dcm").values()
    assert group.label == name
    (kind,) = group.AnnotationPropertyTypeCodeSequence
    assert kind.AnnotationPropertyTypeModifierCodeSequence[0].LongCodeValue == name


def test_a_dicom_slide_goes_from_pixels_to_its_own_annotations(tmp_path: Path) -> None:
    rgb = paint_tissue(400, 500, 900, seed=1)
    paths = write_dicom(tmp_path / "case", rgb, steps=(1, 2), mpp=0.5)
    finest, coarse = (pydicom.dcmread(path, stop_before_pixels=True) for path in paths)
    model = LocalNetwork(mpp=0.5, core_px=256, margin_px=64)
    run = wsiseg.segment(tmp_path / "case", tmp_path / "out", model=model, formats=())
    (path,) = wsiseg.export_runs(
        [run], "dicom-ann", f"{tmp_path}/to/", {"source": tmp_path / "case"}
    )
    made = highdicom.ann.annread(path)
    (reference,) = made.ReferencedImageSequence
    assert reference.ReferencedSOPInstanceUID == finest.SOPInstanceUID != coarse.SOPInstanceUID
    n = sum(group.number_of_annotations for group in made.get_annotation_groups())
    assert n == run.cells().num_rows > 10
