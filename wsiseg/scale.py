"""µm per pixel: where it comes from, and whether a model can use it.  Never guessed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from wsiseg.errors import MissingScale, ScaleRefused, UsageError

MppSource = Literal["file", "given", "overridden", "objective"]

CONTRADICTION = 0.02
"""A given µm/px may differ from the file's by this share."""
ANISOTROPY = 0.01
"""µm/px in x and y may differ by this share."""
UPSAMPLING_WARNED = 1.6
"""Enlarging a slide by more than this is warned about …"""
UPSAMPLING_REFUSED = 3.0
"""… and by more than this refused."""
PLAUSIBLE_MPP = (0.02, 20.0)
"""Beyond this no bright-field slide is known."""
OBJECTIVE_MPP = {40.0: 0.25, 20.0: 0.5, 10.0: 1.0}


@dataclass(frozen=True, slots=True)
class ScaleOptions:
    """What the user says about the slide's scale."""

    mpp: float | None = None
    """Fills in a missing µm/px; must agree with the file's if that has one."""
    override_mpp: float | None = None
    """Replaces the file's µm/px."""
    from_objective: bool = False
    """Take 0.25, 0.5, 1.0 µm/px for objective powers 40, 20, 10 if µm/px is missing."""
    force: bool = False
    """Enlarge beyond what is sensible."""

    def __post_init__(self) -> None:
        for field in ("mpp", "override_mpp"):
            if getattr(self, field) is not None:
                # A NumPy number would not go into a record.
                object.__setattr__(self, field, float(getattr(self, field)))
        for option, value in (("--mpp", self.mpp), ("--override-mpp", self.override_mpp)):
            low, high = PLAUSIBLE_MPP
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise UsageError(
                    f"{option} is {value:g}; µm per pixel between {low:g} and {high:g} is needed"
                )
        if self.mpp is not None and self.override_mpp is not None:
            raise UsageError("both --mpp and --override-mpp were given; give one of them")


@dataclass(frozen=True, slots=True)
class SlideScale:
    """A slide's resolved scale."""

    mpp: float
    """µm per level-0 pixel."""
    source: MppSource
    """Where it comes from."""


def resolve_scale(
    name: str,
    mpp_x: float | None,
    mpp_y: float | None,
    objective_power: float | None,
    options: ScaleOptions,
) -> SlideScale:
    """Settle a slide's µm per pixel.

    Parameters
    ----------
    name : str
        The slide's name, for messages.
    mpp_x, mpp_y : float or None
        What the file says.
    objective_power : float or None
        What the file says.
    options : ScaleOptions
        What the user says.

    Raises
    ------
    MissingScale
        If neither the file nor the user says it.
    ScaleRefused
        If they contradict each other, or pixels are not square.
    """
    if options.override_mpp is not None:
        return SlideScale(options.override_mpp, "overridden")
    if mpp_x is None or mpp_y is None:
        return _fill_in(name, objective_power, options)
    if abs(mpp_x - mpp_y) > ANISOTROPY * min(mpp_x, mpp_y):
        raise ScaleRefused(
            f"{name}: pixels are not square ({mpp_x:g} × {mpp_y:g} µm); "
            "resample the slide, or give one value with --override-mpp"
        )
    mpp = (mpp_x + mpp_y) / 2
    low, high = PLAUSIBLE_MPP
    if not low <= mpp <= high:
        raise ScaleRefused(
            f"{name}: the file says {mpp:g} µm/px, which no slide has ({low:g} to {high:g} are "
            "plausible); give the right one with --override-mpp"
        )
    if options.mpp is not None and abs(options.mpp - mpp) > CONTRADICTION * mpp:
        raise ScaleRefused(
            f"{name}: --mpp {options.mpp:g} contradicts the file's {mpp:g} µm/px; leave --mpp "
            "out, or use --override-mpp if the file is wrong"
        )
    return SlideScale(mpp, "file")


def _fill_in(name: str, objective_power: float | None, options: ScaleOptions) -> SlideScale:
    if options.mpp is not None:
        return SlideScale(options.mpp, "given")
    power = "no objective power either" if objective_power is None else f"{objective_power:g}x"
    if not options.from_objective:
        raise MissingScale(
            f"{name}: the file does not say how many µm a pixel has ({power}); give it with "
            "--mpp, or use --mpp-from-objective to take it from the objective power"
        )
    if objective_power not in OBJECTIVE_MPP:
        raise MissingScale(
            f"{name}: the file says neither µm per pixel nor an objective power of 10, 20 or "
            f"40 ({power}); give µm per pixel with --mpp"
        )
    return SlideScale(OBJECTIVE_MPP[objective_power], "objective")


def upsampling_warning(
    name: str, slide_mpp: float, model_mpp: float, options: ScaleOptions
) -> str | None:
    """Return a warning if the slide is much coarser than the model, else None.

    Raises
    ------
    ScaleRefused
        If it is too coarse to be of use, and that was not forced.
    """
    enlarged = slide_mpp / model_mpp
    if enlarged > UPSAMPLING_REFUSED and not options.force:
        raise ScaleRefused(
            f"{name}: {slide_mpp:g} µm/px would be enlarged {enlarged:.1f} times for a model at "
            f"{model_mpp:g} µm/px, beyond {UPSAMPLING_REFUSED:g} times nuclei cannot be "
            "trusted; use a finer scan, or --force-scale"
        )
    if enlarged > UPSAMPLING_WARNED:
        forced = " (--force-scale)" if enlarged > UPSAMPLING_REFUSED else ""
        return (
            f"{slide_mpp:g} µm/px is enlarged {enlarged:.1f} times for a model at "
            f"{model_mpp:g} µm/px{forced}; expect fewer and coarser nuclei than from a finer scan"
        )
    return None
