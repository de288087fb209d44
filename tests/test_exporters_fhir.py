"""fhir.resources reads the bundle back: counts, densities, units, and no patient."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from export_runs import empty_run, export_run
from fhir.resources.bundle import Bundle
from fhir.resources.R4B.bundle import Bundle as BundleR4B

import wsiseg
from wsiseg.errors import UsageError
from wsiseg.exporters.fhir import RELEASES, FhirOptions, export_fhir

READERS: dict[str, Any] = {"R5": Bundle, "R4B": BundleR4B}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> wsiseg.Result:
    return export_run(tmp_path_factory.mktemp("run") / "a b.svs.wsiseg")


def resources(run: wsiseg.Result, folder: Path, release: str) -> tuple[Any, Any, list[Any]]:
    """Return device, observation of the area, and those of nuclei, as read back."""
    path = folder / f"{release}.json"
    export_fhir(run, path, FhirOptions(release))
    bundle = READERS[release].model_validate_json(path.read_text(encoding="utf-8"))
    assert bundle.type == "collection"
    device, area, *nuclei = (entry.resource for entry in bundle.entry)
    assert all(each.status == "preliminary" for each in (area, *nuclei))
    assert all(each.device.reference == bundle.entry[0].fullUrl for each in (area, *nuclei))
    return device, area, nuclei


def components(observation: Any) -> dict[str, Any]:
    return {each.code.coding[0].code: each for each in observation.component}


@pytest.mark.parametrize("release", RELEASES)
def test_counts_and_densities_are_those_of_the_summary(
    result: wsiseg.Result, release: str, tmp_path: Path
) -> None:
    _, area, nuclei = resources(result, tmp_path, release)
    summary = result.summary()
    assert float(area.valueQuantity.value) == summary["analysed_mm2"] == 2.5
    assert area.valueQuantity.code == "mm2"
    assert len(nuclei) == len(summary["classes"]) + 1
    for name, observation in zip([*summary["classes"], None], nuclei, strict=True):
        numbers = summary["total"] if name is None else summary["classes"][name]
        said = components(observation)
        if name is None:
            assert "class" not in said
        else:
            assert said["class"].valueCodeableConcept.coding[0].code == name
        values = {
            "nuclei-count": (numbers["n"], "{nuclei}"),
            "nuclei-density": (numbers["per_mm2"], "{nuclei}/mm2"),
            "nuclear-area-median": (numbers["median_area_um2"], "um2"),
        }
        for code, (value, unit) in values.items():
            quantity = said[code].valueQuantity
            assert (float(quantity.value), quantity.code) == (value, unit)
            assert quantity.system == "http://unitsofmeasure.org"


@pytest.mark.parametrize("release", RELEASES)
def test_what_there_is_not_has_a_reason(release: str, tmp_path: Path) -> None:
    run = empty_run(tmp_path / "a b.svs.wsiseg")
    _, area, nuclei = resources(run, tmp_path, release)
    assert area.valueQuantity.value == 0
    for observation in nuclei:
        said = components(observation)
        assert said["nuclei-count"].valueQuantity.value == 0
        for code, reason in [
            ("nuclei-density", "there is no tissue"),
            ("nuclear-area-median", "there is no nucleus"),
        ]:
            assert said[code].valueQuantity is None
            assert said[code].dataAbsentReason.text == reason
            assert said[code].dataAbsentReason.coding[0].code == "not-applicable"


@pytest.mark.parametrize("release", RELEASES)
def test_the_device_is_the_model_and_nobody_is_named(
    result: wsiseg.Result, release: str, tmp_path: Path
) -> None:
    device, area, nuclei = resources(result, tmp_path, release)
    versions = {each.type.text: each.value for each in device.version}
    assert versions == {
        "wsiseg": "0.1.0",
        "model": "test-model",
        "model sha256": result.run["model"]["sha256"],
    }
    for observation in (area, *nuclei):
        assert observation.subject is None
        assert observation.performer is None
        assert "research use only" in observation.note[0].text.lower()
        assert observation.derivedFrom[0].identifier.value == "f" * 64
    assert "Patient" not in (tmp_path / f"{release}.json").read_text()


def test_other_numbers_are_another_bundle(result: wsiseg.Result, tmp_path: Path) -> None:
    export_fhir(result, tmp_path / "a.json")
    export_fhir(empty_run(tmp_path / "b.wsiseg"), tmp_path / "b.json")
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    urls = [{entry["fullUrl"] for entry in each["entry"]} for each in (one, two)]
    assert urls[0].isdisjoint(urls[1])
    assert one["identifier"] != two["identifier"]


def test_an_unknown_release_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'R3'.*R5, R4B"):
        FhirOptions("R3")
