"""What is odd about a slide: its tiles together."""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterable, Sequence

from wsiseg.quality._flags import is_odd, unlike_fields
from wsiseg.quality._records import DEFAULTS, Appearance, QualityOptions, TileQuality


def slide_warnings(
    tiles: Sequence[tuple[TileQuality, float]],
    appearance: Appearance | None = None,
    confidence: Sequence[tuple[float | None, int]] = (),
    options: QualityOptions = DEFAULTS,
) -> list[dict[str, str]]:
    """Return what the user should know about a slide's pixels, worst first.

    Parameters
    ----------
    tiles : sequence of (TileQuality, float)
        Tiles, or a sample of them, each with the tissue it stands for (any unit).
    appearance : mapping, optional
        What the training images look like.
    confidence : sequence of (float or None, int)
        For tiles that ran, the mean probability of their nuclei and how many they are.
    options : QualityOptions
        Limits.

    Returns
    -------
    list of {"code", "message"}
        Codes: not-h-and-e, out-of-focus, ink-over-tissue, unlike-training, low-confidence.
    """
    found = (
        _not_h_and_e(tiles, options),
        _out_of_focus(tiles, options),
        _ink_over_tissue(tiles, options),
        _unlike_training(tiles, appearance, options),
        _low_confidence(confidence, options),
    )
    return [warning for warning in found if warning is not None]


_Tiles = Sequence[tuple[TileQuality, float]]
_Found = dict[str, str] | None


def _mean(values: Iterable[tuple[float | None, float]]) -> float | None:
    """Return the weighted mean of those that are known; None if none is."""
    known = [(value, weight) for value, weight in values if value is not None and weight > 0]
    total = math.fsum(weight for _, weight in known)
    return math.fsum(value * weight for value, weight in known) / total if known else None


def _not_h_and_e(tiles: _Tiles, options: QualityOptions) -> _Found:
    code = "not-h-and-e"
    dark = _mean((quality.dark_share, weight) for quality, weight in tiles)
    if dark is not None and dark > options.fluorescent_share:
        message = (
            f"{dark:.0%} of what was looked at is black, as in fluorescence; bright-field H&E on "
            "light glass is expected; check that this is the right slide"
        )
        return {"code": code, "message": message}
    judged = [
        (float(is_odd(quality, options)), weight)
        for quality, weight in tiles
        if quality.saturation is not None and quality.stained_share >= options.least_stained_share
    ]
    share = _mean(judged)
    if share is None or share <= options.odd_share:
        return None
    message = (
        f"{share:.0%} of the tissue does not look like H&E ({_colour_words(tiles, options)}); "
        "blue-purple nuclei in pink tissue are expected; check the stain"
    )
    return {"code": code, "message": message}


def _colour_words(tiles: _Tiles, options: QualityOptions) -> str:
    """Return the colour of a slide's odd tiles in numbers."""
    odd = [(quality, weight) for quality, weight in tiles if is_odd(quality, options)]
    saturation = _mean((quality.saturation, weight) for quality, weight in odd) or 0.0
    hues = [quality.hue_deg for quality, _ in odd if quality.hue_deg is not None]
    if saturation < options.least_saturation or not hues:
        return f"it is grey: saturation {saturation:.2f}, H&E has 0.2 and more"
    off = _mean((quality.off_colour_share, weight) for quality, weight in odd) or 0.0
    if off > options.most_off_colour_share:
        return f"{off:.0%} of its stain is brown, green or blue"
    angle = sum(cmath.rect(1, math.radians(hue)) for hue in hues)
    low, high = options.hue_deg
    hue = math.degrees(cmath.phase(angle)) % 360
    return f"its mean hue is {hue:.0f}°, H&E has {low:.0f} to {high:.0f}° and bluer nuclei"


def _out_of_focus(tiles: _Tiles, options: QualityOptions) -> _Found:
    share = _mean(
        (None if q.focus is None else float(q.focus < options.least_focus_per_um), weight)
        for q, weight in tiles
    )
    if share is None or share < options.blurred_share:
        return None
    return {
        "code": "out-of-focus",
        "message": f"{share:.0%} of the tissue is blurred (edges wider than "
        f"{1 / options.least_focus_per_um:.2f} µm); less than {options.blurred_share:.0%} is "
        "expected; scan the slide again, or leave these areas out with --roi",
    }


def _ink_over_tissue(tiles: _Tiles, options: QualityOptions) -> _Found:
    share = _mean((quality.ink_share, weight) for quality, weight in tiles)
    if share is None or share < options.inked_share:
        return None
    return {
        "code": "ink-over-tissue",
        "message": f"{share:.1%} of the tissue's tiles is under pen or dye; less than "
        f"{options.inked_share:.1%} is expected; leave the marks out with --roi, or look at the "
        "tiles flagged ink",
    }


def _unlike_training(
    tiles: _Tiles, appearance: Appearance | None, options: QualityOptions
) -> _Found:
    odd = [(unlike_fields(quality, appearance, options), weight) for quality, weight in tiles]
    share = _mean((float(bool(names)), weight) for names, weight in odd)
    if not appearance or share is None or share <= options.odd_share:
        return None
    weights = {name: math.fsum(w for names, w in odd if name in names) for name in appearance}
    worst = max(weights, key=lambda name: weights[name])
    value = _mean(
        (quality.to_json()[worst], weight)
        for (quality, weight), (names, _) in zip(tiles, odd, strict=True)
        if worst in names
    )
    low, high = appearance[worst]
    return {
        "code": "unlike-training",
        "message": f"{share:.0%} of the tissue is unlike the images the model was trained on "
        f"(most of all {worst}: {value:.3g}, expected {low:.3g} to {high:.3g}); check some of "
        "the results by eye",
    }


def _low_confidence(
    confidence: Sequence[tuple[float | None, int]], options: QualityOptions
) -> _Found:
    n_cells = sum(n for _, n in confidence)
    mean = _mean(confidence)
    if mean is None or n_cells < options.least_cells or mean >= options.least_confidence:
        return None
    return {
        "code": "low-confidence",
        "message": f"the network's mean confidence in its {n_cells:,} nuclei is {mean:.2f}; "
        f"{options.least_confidence:.2f} and more is expected; check some of the results by eye",
    }
