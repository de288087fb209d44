"""What is odd about one tile."""

from __future__ import annotations

from wsiseg.quality._records import DEFAULTS, Appearance, QualityOptions, TileQuality

FLAGS = ("blurred", "ink", "fold", "dark", "not-h-and-e", "low-confidence", "unlike-training")
"""All codes `tile_flags` may give, in its order."""


def tile_flags(
    quality: TileQuality,
    mean_confidence: float | None = None,
    n_cells: int = 0,
    appearance: Appearance | None = None,
    options: QualityOptions = DEFAULTS,
) -> tuple[str, ...]:
    """Return the codes of what is odd about a tile, in the order of `FLAGS`.

    Parameters
    ----------
    quality : TileQuality
        As measured.
    mean_confidence : float, optional
        Mean probability of its nuclei.
    n_cells : int
        Number of its nuclei.
    appearance : mapping, optional
        What the training images look like; without it, or empty, no tile is unlike them.
    options : QualityOptions
        Limits.
    """
    sure = n_cells < options.least_cells or mean_confidence is None
    found = {
        "blurred": quality.focus is not None and quality.focus < options.least_focus_per_um,
        "ink": quality.ink_share > options.most_ink_share,
        "fold": quality.fold_share > options.most_fold_share,
        "dark": quality.dark_share > options.most_dark_share,
        "not-h-and-e": is_odd(quality, options),
        "low-confidence": not sure and (mean_confidence or 0.0) < options.least_confidence,
        "unlike-training": bool(unlike_fields(quality, appearance, options)),
    }
    return tuple(code for code in FLAGS if found[code])


def is_odd(quality: TileQuality, options: QualityOptions) -> bool:
    """Return whether a tile's colours do not fit H&E."""
    if quality.saturation is None or quality.stained_share < options.least_stained_share:
        return False
    if quality.hue_deg is None or quality.saturation < options.least_saturation:
        return True
    low, high = options.hue_deg
    bluest = quality.bluest_hue_deg
    return (
        not low <= from_yellow(quality.hue_deg) <= high
        or (quality.off_colour_share or 0.0) > options.most_off_colour_share
        or (bluest is not None and from_yellow(bluest) > options.most_bluest_hue_deg)
    )


def from_yellow(hue_deg: float) -> float:
    """Return a hue from 90° on: from blue over purple and red to orange it increases."""
    return (hue_deg - 90) % 360 + 90


def unlike_fields(
    quality: TileQuality,
    appearance: Appearance | None,
    options: QualityOptions = DEFAULTS,
) -> tuple[str, ...]:
    """Return the fields of a tile that lie outside the training images' range."""
    if not appearance or quality.stained_share < options.least_stained_share:
        return ()
    values = quality.to_json()
    return tuple(
        name
        for name, (low, high) in appearance.items()
        if (value := values.get(name)) is not None and not low <= value <= high
    )
