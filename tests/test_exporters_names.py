"""Class names that a format cannot hold as they are: all nuclei keep their class."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import highdicom
import pyarrow as pa
import pytest
from export_runs import export_run
from fhir.resources.bundle import Bundle
from fhir.resources.R4B.bundle import Bundle as BundleR4B
from pycocotools.coco import COCO
from run_dirs import write_run

import wsiseg
from wsiseg.errors import UnknownName
from wsiseg.exporters._plain_names import WITHOUT_CLASS, plain_names
from wsiseg.exporters.fhir import FhirOptions, export_fhir

LONG = "a class with a name of more than sixty-four characters, of which there are "
ODD = ("a\\b", "a/b", LONG + "two: 1", LONG + "two: 2", " Tumour ", "Tumour", "(all)", "Nucleus")
"""Eight names, some of them equal once they are shortened or stripped."""


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> wsiseg.Result:
    folder = tmp_path_factory.mktemp("run")
    plain = export_run(folder / "plain.wsiseg")
    table = plain.cells()
    # k + 1 nuclei of class k, the others have none.
    names = [name for k, name in enumerate(ODD) for _ in range(k + 1)]
    names += [None] * (table.num_rows - len(names))
    at = table.column_names.index("class_name")
    table = table.set_column(at, "class_name", pa.array(names, pa.string()))
    classes = [{"name": name, "index": i, "rgb": [i, i, i]} for i, name in enumerate(ODD, 1)]
    run = write_run(folder / "a.wsiseg", table, **{**plain.run, "classes": classes})
    return wsiseg.open_result(run)


def test_names_are_plain_different_and_short_enough() -> None:
    assert plain_names(["Tumour", "a\\b", "a/b", " Tumour "]) == [
        *("Tumour", "a/b", "a/b (2)", "Tumour (2)"),
    ]
    assert plain_names(["a\tb\n c", "", "\\"]) == ["a b c", "unnamed", "/"]
    assert plain_names(["x" * 12] * 3, 10) == ["x" * 10, "xxxxxx (2)", "xxxxxx (3)"]
    # What is cut is not left with a space at its end, which readers would strip.
    assert plain_names(["123456789 1", "123456789"], 10) == ["123456789", "123456 (2)"]


def test_every_class_is_a_group_of_one_label_and_one_code(
    odd: wsiseg.Result, tmp_path: Path
) -> None:
    odd.export("dicom-ann", tmp_path / "a.dcm")
    groups = highdicom.ann.annread(tmp_path / "a.dcm").get_annotation_groups()
    assert [group.number_of_annotations for group in groups[:-1]] == [*range(1, len(ODD) + 1)]
    labels = [group.label for group in groups]
    assert all(isinstance(label, str) and len(label) <= 64 for label in labels)
    assert len(set(labels)) == len(ODD) + 1
    codes = []
    for group, name in zip(groups, ODD, strict=False):
        (kind,) = group.AnnotationPropertyTypeCodeSequence
        (modifier,) = kind.AnnotationPropertyTypeModifierCodeSequence
        codes.append(modifier.get("CodeValue") or modifier.LongCodeValue)
        assert group.label == name or f"Class: {name}. " in group.AnnotationGroupDescription
    assert codes == plain_names(ODD)
    (last,) = groups[-1].AnnotationPropertyTypeCodeSequence
    assert "AnnotationPropertyTypeModifierCodeSequence" not in last


def test_names_with_a_comma_are_listed_as_they_are_given(
    odd: wsiseg.Result, tmp_path: Path
) -> None:
    with pytest.raises(UnknownName, match=f'a/b, "{LONG}two: 1", "'):
        wsiseg.export_runs([odd], "csv", tmp_path / "a.csv", {"classes": "a class with a name"})


@pytest.mark.parametrize(("release", "reader"), [("R5", Bundle), ("R4B", BundleR4B)])
def test_every_class_is_an_observation(
    odd: wsiseg.Result, release: str, reader: type[Bundle], tmp_path: Path
) -> None:
    export_fhir(odd, tmp_path / "a.json", FhirOptions(release))
    bundle = reader.model_validate_json((tmp_path / "a.json").read_text(encoding="utf-8"))
    *classes, total = (entry.resource for entry in bundle.entry[2:])
    coded = [each.component[0].valueCodeableConcept.coding[0] for each in classes]
    assert [each.code for each in coded] == plain_names(ODD)
    assert [each.display for each in coded] == list(ODD)
    counts = [int(each.component[1].valueQuantity.value) for each in classes]
    assert counts == [*range(1, len(ODD) + 1)]
    assert int(total.component[0].valueQuantity.value) == odd.cells().num_rows


def test_nuclei_without_a_class_are_not_those_of_the_class_nucleus(
    odd: wsiseg.Result, tmp_path: Path
) -> None:
    odd.export("coco", tmp_path / "a.coco.json")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "a.coco.json"))
    names = [each["name"] for each in coco.loadCats(coco.getCatIds())]
    assert names == [*ODD, f"{WITHOUT_CLASS} (2)"]
    counts = [len(coco.getAnnIds(catIds=[k])) for k in coco.getCatIds()]
    assert counts == [*range(1, len(ODD) + 1), odd.cells().num_rows - sum(range(len(ODD) + 1))]
