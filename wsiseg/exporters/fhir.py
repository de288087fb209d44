"""A FHIR bundle of Observations: counts, densities and sizes of each class on one slide.

https://hl7.org/fhir/observation.html, made and checked by fhir.resources.  Status `preliminary`,
no patient; units are UCUM's.  A density that does not exist has a `dataAbsentReason`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiseg.errors import UsageError
from wsiseg.exporters import ExportableResult
from wsiseg.exporters._facts import USE, run_facts
from wsiseg.exporters._finish import finished_file, refuse_existing
from wsiseg.exporters._plain_names import plain_names
from wsiseg.exporters.formats import needed
from wsiseg.identity import PROJECT_NAMESPACE, run_namespace

RELEASES = {"R5": "fhir.resources", "R4B": "fhir.resources.R4B"}
"""Release of FHIR and the package with its resources."""
CODE_SYSTEM = uuid.uuid5(PROJECT_NAMESPACE, "fhir code system").urn
"""Code system of what is observed: there is none for nuclei of a slide."""
_UCUM = "http://unitsofmeasure.org"
_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
_ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
_COMPONENTS = (
    ("n", "nuclei-count", "Number of nuclei", "{nuclei}", "nuclei"),
    ("per_mm2", "nuclei-density", "Nuclei per area analysed", "{nuclei}/mm2", "nuclei/mm²"),
    ("median_area_um2", "nuclear-area-median", "Median area of a nucleus", "um2", "µm²"),
)


@dataclass(frozen=True, slots=True)
class FhirOptions:
    """How to write it."""

    release: str = "R5"
    """Release of FHIR: R5 or R4B."""

    def __post_init__(self) -> None:
        if self.release not in RELEASES:
            known = ", ".join(RELEASES)
            raise UsageError(f"{self.release!r} is no FHIR release known here; give one of {known}")


_USUAL = FhirOptions()


def export_fhir(result: ExportableResult, destination: Path, options: FhirOptions = _USUAL) -> None:
    """Write a run's counts as a FHIR bundle of the type `collection`.

    One Observation for each class, zeros included, and one for all nuclei, each with the
    components count, density and median area; and one for the area analysed.  The device is
    wsiseg with its model.  Small, whatever the number of nuclei.

    Raises
    ------
    MissingDependency
        If fhir.resources is not installed.
    OutputExists
        If something is at `destination` already.
    OutputNotWritable
        If the operating system refuses to write.
    """
    package = RELEASES[options.release]
    bundle = needed("fhir", f"{package}.bundle").Bundle
    refuse_existing(destination)
    # The package checks what the standard demands; it raises where we wrote something wrong.
    checked = bundle.model_validate(_bundle(result, options.release))
    with finished_file(destination) as partial:
        partial.write_text(checked.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _bundle(result: ExportableResult, release: str) -> dict[str, Any]:
    summary = result.summary()
    space = _space(result, summary)
    device_urn = uuid.uuid5(space, "fhir device").urn
    entries = [(device_urn, _device(result, release))]
    observed = [_area(summary)]
    codes = plain_names(summary["classes"])
    observed += [
        _class(name, code, numbers, summary)
        for code, (name, numbers) in zip(codes, summary["classes"].items(), strict=True)
    ]
    observed.append(_class(None, "", summary["total"], summary))
    for number, parts in enumerate(observed):
        urn = uuid.uuid5(space, f"fhir observation {number}").urn
        entries.append((urn, {**_observation(result, device_urn), **parts}))
    bundle: dict[str, Any] = {
        "resourceType": "Bundle",
        "type": "collection",
        "identifier": {"system": "urn:ietf:rfc:3986", "value": uuid.uuid5(space, "fhir").urn},
        "entry": [{"fullUrl": urn, "resource": resource} for urn, resource in entries],
    }
    finished = result.run.get("finished_utc")
    return bundle | ({"timestamp": str(finished)} if finished else {})


def _space(result: ExportableResult, summary: Mapping[str, Any]) -> uuid.UUID:
    """Return a namespace of what is said: other numbers have other identities."""
    fingerprint = str(result.run["slide"].get("fingerprint", result.name))
    run = run_namespace(fingerprint, str(result.run["model"]["sha256"]))
    return uuid.uuid5(run, repr(summary))


def _device(result: ExportableResult, release: str) -> dict[str, Any]:
    facts = run_facts(result)
    name = f"wsiseg with the model {facts['model']}"
    named: dict[str, Any] = (
        {"name": [{"value": name, "type": "user-friendly-name"}]}
        if release == "R5"
        else {"deviceName": [{"name": name, "type": "user-friendly-name"}]}
    )
    versions = {
        "wsiseg": facts["wsiseg_version"],
        "model": facts["model"],
        "model sha256": facts["model_sha256"],
    }
    if "classes_version" in facts:
        versions["version of the classes"] = facts["classes_version"]
    return {
        "resourceType": "Device",
        "manufacturer": "wsiseg",
        **named,
        "version": [{"type": {"text": kind}, "value": value} for kind, value in versions.items()],
        "note": [{"text": USE}],
    }


def _observation(result: ExportableResult, device_urn: str) -> dict[str, Any]:
    """Return what all Observations of a run share."""
    finished = result.run.get("finished_utc")
    return {
        "resourceType": "Observation",
        "status": "preliminary",
        "category": [{"coding": [{"system": _CATEGORY, "code": "imaging", "display": "Imaging"}]}],
        "derivedFrom": [_slide(result)],
        "device": {"reference": device_urn},
        "note": [{"text": USE}],
        **({"issued": str(finished)} if finished else {}),
    }


def _slide(result: ExportableResult) -> dict[str, Any]:
    """Return a reference to the slide by its content: a FHIR server need not know it."""
    slide = result.run["slide"]
    reference: dict[str, Any] = {"type": "DocumentReference", "display": result.name}
    if "fingerprint" in slide:
        reference["identifier"] = {
            "type": {"text": "wsiseg fingerprint of the slide's file"},
            "value": str(slide["fingerprint"]),
        }
    return reference


def _area(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "code": _code("area-analysed", "Area of tissue analysed"),
        "valueQuantity": _quantity(summary["analysed_mm2"], "mm2", "mm²"),
    }


def _class(
    name: str | None,
    own_code: str,
    numbers: Mapping[str, float | None],
    summary: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what is said of a class; name None: of all nuclei."""
    kind = "all nuclei" if name is None else f"nuclei of class {name}"
    code = {**_code("nuclei", "Nuclei on a slide"), "text": f"Nuclei on a slide: {kind}"}
    reasons = {"per_mm2": summary["no_density_reason"], "median_area_um2": "there is no nucleus"}
    components: list[dict[str, Any]] = []
    if name is not None:
        shown_name = {"display": name} if name.strip() else {}
        of_class = {"coding": [{"system": CODE_SYSTEM, "code": own_code, **shown_name}]}
        components.append({"code": _code("class", "Class"), "valueCodeableConcept": of_class})
    for key, component, display, unit, shown in _COMPONENTS:
        value = numbers[key]
        said = (
            {"dataAbsentReason": _absent(str(reasons[key]))}
            if value is None
            else {"valueQuantity": _quantity(value, unit, shown)}
        )
        components.append({"code": _code(component, display), **said})
    return {"code": code, "component": components}


def _code(code: str, display: str) -> dict[str, Any]:
    return {
        "coding": [{"system": CODE_SYSTEM, "code": code, "display": display}],
        "text": display,
    }


def _quantity(value: float, unit: str, shown: str) -> dict[str, Any]:
    return {"value": value, "unit": shown, "system": _UCUM, "code": unit}


def _absent(reason: str) -> dict[str, Any]:
    return {
        "coding": [{"system": _ABSENT, "code": "not-applicable", "display": "Not Applicable"}],
        "text": reason,
    }
