"""Filling the templates: everything is escaped, and a page may load nothing."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from wsiseg.reports import _numbers
from wsiseg.reports._places import GENERATOR

RESEARCH_USE = "For research use only. Not for use in diagnostic procedures."


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("wsiseg.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "whole": _numbers.whole,
        "short": _numbers.short,
        "percent": _numbers.percent,
    }
    found.globals["research_use"] = RESEARCH_USE
    return found


@cache
def _asset(name: str) -> str:
    return files("wsiseg.reports").joinpath("templates", name).read_text(encoding="utf-8")


def render(template: str, view: Any) -> str:
    """Return a page: one file that needs, and may load, nothing else.

    The page's policy allows its own style and script by their hashes, pictures inside it, and
    nothing more, so even markup that slipped through could not run or call anybody.

    Parameters
    ----------
    template : str
        `slide.html` or `cohort.html`.
    view : object
        What it shows; must have `colours`, CSS made from numbers alone.
    """
    style = _asset("page.css") + view.colours
    script = _asset("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    # Neither holds anything that comes from a run but numbers.
    filled = {"style": Markup(style), "script": Markup(script), "generator": Markup(GENERATOR)}  # noqa: S704
    return _environment().get_template(template).render(view=view, policy=policy, **filled)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
