"""Every nucleus of a whole H&E slide, once and in the right place.  Research use only.

The names in `__all__` are the public ones.  They are loaded when first used, so that
reading results never waits for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsiseg.api import (
        ComputeOptions,
        Done,
        Failed,
        find_slides,
        segment,
        segment_many,
    )
    from wsiseg.demo import run_demo
    from wsiseg.errors import WsisegError
    from wsiseg.models import list_models, load_model
    from wsiseg.plan import PlanOptions
    from wsiseg.results import Result, find_results, open_result, slide_stats
    from wsiseg.scale import ScaleOptions
    from wsiseg.slides import Slide, SlideInfo, open_slide
    from wsiseg.tissue import TissueOptions

__all__ = [
    "ComputeOptions",
    "Done",
    "Failed",
    "PlanOptions",
    "Result",
    "ScaleOptions",
    "Slide",
    "SlideInfo",
    "TissueOptions",
    "WsisegError",
    "find_results",
    "find_slides",
    "list_models",
    "load_model",
    "open_result",
    "open_slide",
    "run_demo",
    "segment",
    "segment_many",
    "slide_stats",
]

_HOME = {
    "ComputeOptions": "api",
    "Done": "api",
    "Failed": "api",
    "PlanOptions": "plan",
    "Result": "results",
    "ScaleOptions": "scale",
    "Slide": "slides",
    "SlideInfo": "slides",
    "TissueOptions": "tissue",
    "WsisegError": "errors",
    "find_results": "results",
    "find_slides": "api",
    "list_models": "models",
    "load_model": "models",
    "open_result": "results",
    "open_slide": "slides",
    "run_demo": "demo",
    "segment": "api",
    "segment_many": "api",
    "slide_stats": "results",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'wsiseg' has no attribute {name!r}")
    value = getattr(import_module(f"wsiseg.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)
