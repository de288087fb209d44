"""What every export says of the run it is of."""

from __future__ import annotations

from wsiseg.exporters import ExportableResult

USE = "For research use only. Not for use in diagnostic procedures."


def run_facts(result: ExportableResult) -> dict[str, str]:
    """Return slide, model and versions, all as text; what is not known is left out."""
    slide, model = result.run["slide"], result.run["model"]
    facts = {
        "use": USE,
        "slide": result.name,
        "slide_fingerprint": slide.get("fingerprint"),
        "model": model["name"],
        "model_sha256": model["sha256"],
        "classes_version": result.classes_version,
        "wsiseg_version": result.run["wsiseg_version"],
    }
    return {name: str(value) for name, value in facts.items() if value is not None}
