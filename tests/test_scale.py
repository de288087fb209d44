"""µm per pixel is read, given, or refused; never guessed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import MissingScale, ScaleRefused, UsageError
from wsiseg.scale import ScaleOptions, SlideScale, resolve_scale, upsampling_warning

NAME = "liver-7.svs"


def resolve(
    mpp_x: float | None,
    mpp_y: float | None,
    objective_power: float | None = None,
    **said: Any,
) -> SlideScale:
    return resolve_scale(NAME, mpp_x, mpp_y, objective_power, ScaleOptions(**said))


def test_what_the_file_says_is_used() -> None:
    assert resolve(0.2520, 0.2522) == SlideScale(pytest.approx(0.2521), "file")


def test_what_the_file_says_wins_over_its_objective() -> None:
    assert resolve(0.5, 0.5, 40.0, from_objective=True) == SlideScale(0.5, "file")


@pytest.mark.parametrize(("mpp_x", "mpp_y"), [(None, None), (0.5, None), (None, 0.5)])
def test_a_given_value_fills_in_a_missing_one(mpp_x: float | None, mpp_y: float | None) -> None:
    assert resolve(mpp_x, mpp_y, mpp=0.23) == SlideScale(0.23, "given")


@pytest.mark.parametrize("given_mpp", [0.491, 0.5, 0.509])
def test_a_given_value_that_agrees_leaves_the_files(given_mpp: float) -> None:
    assert resolve(0.5, 0.5, mpp=given_mpp) == SlideScale(0.5, "file")


@pytest.mark.parametrize("given_mpp", [0.489, 0.511, 0.25, 1.0])
def test_a_given_value_that_contradicts_by_two_percent_is_refused(given_mpp: float) -> None:
    with pytest.raises(ScaleRefused) as caught:
        resolve(0.5, 0.5, mpp=given_mpp)
    message = str(caught.value)
    for said in (NAME, f"--mpp {given_mpp:g}", "0.5 µm/px", "--override-mpp"):
        assert said in message


@pytest.mark.parametrize("file_mpp", [(None, None), (0.5, 0.5), (0.5, 0.7)])
def test_an_override_replaces_whatever_the_file_says(
    file_mpp: tuple[float | None, float | None],
) -> None:
    assert resolve(*file_mpp, 20.0, override_mpp=0.25) == SlideScale(0.25, "overridden")


def test_both_values_at_once_are_refused() -> None:
    with pytest.raises(UsageError, match=r"both --mpp and --override-mpp.*one of them"):
        ScaleOptions(mpp=0.5, override_mpp=0.5)


@pytest.mark.parametrize(("power", "mpp"), [(10.0, 1.0), (20.0, 0.5), (40.0, 0.25), (40, 0.25)])
def test_an_objective_stands_for_its_scale_if_asked(power: float, mpp: float) -> None:
    assert resolve(None, None, power, from_objective=True) == SlideScale(mpp, "objective")


def test_a_given_value_wins_over_the_objective() -> None:
    found = resolve(None, None, 40.0, from_objective=True, mpp=0.3)
    assert found == SlideScale(0.3, "given")


@pytest.mark.parametrize("power", [10.0, 20.0, 40.0])
def test_an_objective_is_not_used_unasked(power: float) -> None:
    with pytest.raises(MissingScale) as caught:
        resolve(None, None, power)
    for said in (NAME, f"{power:g}x", "--mpp", "--mpp-from-objective"):
        assert said in str(caught.value)


def test_neither_scale_nor_objective_says_so() -> None:
    with pytest.raises(MissingScale, match="no objective power either"):
        resolve(None, None)


@pytest.mark.parametrize("power", [None, 0.0, 5.0, 39.9, 60.0, 63.0, 80.0, math.nan])
def test_other_objectives_are_no_scale(power: float | None) -> None:
    with pytest.raises(MissingScale) as caught:
        resolve(None, None, power, from_objective=True)
    said = "no objective power either" if power is None else f"{power:g}x"
    assert said in str(caught.value)
    assert "10, 20 or 40" in str(caught.value)
    assert "--mpp" in str(caught.value)


def test_nearly_square_pixels_are_averaged() -> None:
    assert resolve(0.5, 0.5049).mpp == pytest.approx(0.50245)


@pytest.mark.parametrize(("mpp_x", "mpp_y"), [(0.5, 0.506), (0.506, 0.5), (0.25, 0.5)])
def test_oblong_pixels_are_refused_even_with_a_given_value(mpp_x: float, mpp_y: float) -> None:
    for said in ({}, {"mpp": 0.5}):
        with pytest.raises(ScaleRefused) as caught:
            resolve(mpp_x, mpp_y, **said)
        for part in (NAME, f"{mpp_x:g} × {mpp_y:g} µm", "--override-mpp"):
            assert part in str(caught.value)


@pytest.mark.parametrize("option", ["mpp", "override_mpp"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.25, 0.0, 0.0199, 20.1, 50.0])
def test_impossible_values_are_refused(option: str, value: float) -> None:
    with pytest.raises(UsageError) as caught:
        ScaleOptions(**{option: value})  # type: ignore[arg-type]
    for part in ("--" + option.replace("_", "-"), f"{value:g}", "0.02", "20"):
        assert part in str(caught.value)


@pytest.mark.parametrize("value", [0.02, 0.25, 20.0])
def test_possible_values_are_accepted(value: float) -> None:
    assert ScaleOptions(mpp=value).mpp == value
    assert ScaleOptions(override_mpp=value).override_mpp == value


def warn(enlarged: float, **said: Any) -> str | None:
    return upsampling_warning(NAME, 0.25 * enlarged, 0.25, ScaleOptions(**said))


@given(st.floats(0.01, 1.6))
def test_shrinking_and_slight_enlarging_pass_in_silence(enlarged: float) -> None:
    assert warn(enlarged) is None


@given(st.floats(1.61, 3.0))
def test_enlarging_is_warned_about(enlarged: float) -> None:
    warning = warn(enlarged)
    assert warning is not None
    assert f"enlarged {enlarged:.1f} times" in warning
    assert "0.25 µm/px" in warning


@given(st.floats(3.01, 80.0))
def test_enlarging_beyond_use_is_refused_unless_forced(enlarged: float) -> None:
    with pytest.raises(ScaleRefused) as caught:
        warn(enlarged)
    for part in (NAME, f"{enlarged:.1f} times", "3 times", "--force-scale"):
        assert part in str(caught.value)
    forced = warn(enlarged, force=True)
    assert forced is not None
    assert f"enlarged {enlarged:.1f} times" in forced


@pytest.mark.parametrize("mpp", [0.0005, 50.0])
def test_what_no_slide_has_is_not_believed(mpp: float) -> None:
    with pytest.raises(ScaleRefused, match=r"no slide has.*--override-mpp"):
        resolve_scale("a", mpp, mpp, None, ScaleOptions())
    found = resolve_scale("a", mpp, mpp, None, ScaleOptions(override_mpp=0.5))
    assert (found.mpp, found.source) == (0.5, "overridden")


def test_numbers_of_numpy_become_plain() -> None:
    assert type(ScaleOptions(mpp=np.float32(0.5)).mpp) is float


def test_what_was_forced_says_so() -> None:
    forced = upsampling_warning("a", 1.0, 0.25, ScaleOptions(force=True))
    assert forced is not None
    assert "--force-scale" in forced
    usual = upsampling_warning("a", 0.5, 0.25, ScaleOptions(force=True))
    assert usual is not None
    assert "--force-scale" not in usual
