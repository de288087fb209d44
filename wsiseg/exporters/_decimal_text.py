"""Decimal numbers as ASCII, from whole multiples of a power of ten.

`put_decimal` writes any; the others write those of usual size without loops or branches, since a
wrongly guessed branch costs more than a digit.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

COORDINATE_DECIMALS = 2
"""QuPath snaps coordinates to 0.01 px."""
MISSING = np.iinfo(np.int64).min
"""A value that is not written."""
_MINUS = ord("-")
_POINT = ord(".")
_ZERO = ord("0")
_PAIRS = np.frombuffer("".join(f"{pair:02}" for pair in range(100)).encode(), np.uint8)
"""The digits of 00 to 99."""
_MOST_DIGITS = 20
_ZEROS = np.uint64(0x3030_3030_3030_3030)
SLACK_BYTES = 24
"""Writing in whole words may reach so far behind what is wanted."""
_POWERS = np.array([10**power for power in range(_MOST_DIGITS)], np.uint64)
# Beyond this a pixel position or measurement is damage, and scaled it may not fit an integer.
_LARGEST = 1e12


@numba.njit(cache=True, nogil=True)
def hundredths(
    xy_px: NDArray[np.float64], origin_x_px: float, origin_y_px: float, out: NDArray[np.int64]
) -> bool:
    """Set `out` to positions from the origin in 0.01 px; return whether all are positions."""
    sound = True
    for v in range(len(xy_px)):
        x, y = xy_px[v, 0] - origin_x_px, xy_px[v, 1] - origin_y_px
        # The comparison is false for NaN too.
        sound &= abs(x) < _LARGEST and abs(y) < _LARGEST
        out[v, 0] = np.int64(np.floor(x * 100 + 0.5))
        out[v, 1] = np.int64(np.floor(y * 100 + 0.5))
    return sound


@numba.njit(cache=True, nogil=True)
def scaled(values: NDArray[np.float64], factor: int, out: NDArray[np.int64]) -> None:
    """Set `out` to whole multiples of 1 / factor; `MISSING` where there is no number."""
    for i in range(len(values)):
        usable = abs(values[i]) < _LARGEST
        whole = np.floor((values[i] if usable else 0.0) * factor + 0.5)
        out[i] = np.int64(whole) if usable else MISSING


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _put_digits(out: NDArray[np.uint8], at: int, value: np.uint64, digits: int) -> int:
    """Write so many digits of a whole number, two at a time; return where they end."""
    to = at + digits
    while to - at >= 2:
        rest = value // np.uint64(100)
        pair = (value - rest * np.uint64(100)) * np.uint64(2)
        to -= 2
        out[to] = _PAIRS[pair]
        out[to + 1] = _PAIRS[pair + np.uint64(1)]
        value = rest
    if to > at:
        out[at] = np.uint8(_ZERO) + np.uint8(value % np.uint64(10))
    return at + digits


@numba.njit(cache=True, nogil=True)
def _n_digits(value: np.uint64) -> int:
    digits = 1
    while digits < _MOST_DIGITS and value >= _POWERS[digits]:
        digits += 1
    return digits


@numba.njit(cache=True, nogil=True, error_model="numpy")
def put_decimal(out: NDArray[np.uint8], at: int, value: int, decimals: int) -> int:
    """Write value / 10 ** decimals without trailing zeros; return where it ends."""
    left = np.uint64(value)
    if value < 0:
        out[at] = _MINUS
        at += 1
        left = np.uint64(0) - left
    whole = left // _POWERS[decimals]
    fraction = left - whole * _POWERS[decimals]
    at = _put_digits(out, at, whole, _n_digits(whole))
    if fraction == np.uint64(0):
        return at
    while fraction % np.uint64(10) == np.uint64(0):
        fraction //= np.uint64(10)
        decimals -= 1
    out[at] = _POINT
    return _put_digits(out, at + 1, fraction, decimals)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _eight_digits(value: np.uint64) -> np.uint64:
    """Return the digits of a number below 10⁸, the first in the lowest byte.

    Halves, quarters and eighths of the word divide at once, by multiplication with 1 / 100 and
    1 / 10 in whole numbers that are exact in this range.
    """
    fours = value // np.uint64(10_000)
    fours |= (value - fours * np.uint64(10_000)) << np.uint64(32)
    upper = (fours * np.uint64(10_486) >> np.uint64(20)) & np.uint64(0x7F_0000_007F)
    twos = upper | (fours - upper * np.uint64(100)) << np.uint64(16)
    upper = (twos * np.uint64(103) >> np.uint64(10)) & np.uint64(0x000F_000F_000F_000F)
    return upper | (twos - upper * np.uint64(10)) << np.uint64(8)


@numba.njit(cache=True, nogil=True)
def _n_digits_of_eight(value: np.uint64) -> int:
    """Return how many digits a number below 10⁸ has, without a branch."""
    more = int(value >= np.uint64(10)) + int(value >= np.uint64(100))
    more += int(value >= np.uint64(1_000)) + int(value >= np.uint64(10_000))
    more += int(value >= np.uint64(100_000)) + int(value >= np.uint64(1_000_000))
    return 1 + more + int(value >= np.uint64(10_000_000))


@numba.njit(cache=True, nogil=True)
def _put_word(out: NDArray[np.uint8], at: int, word: np.uint64) -> None:
    """Write 8 bytes, the lowest first.

    Spelt out, with indices that cannot be negative, the compiler makes one store of them.
    """
    to = np.uint64(at)
    out[to] = np.uint8(word)
    out[to + np.uint64(1)] = np.uint8(word >> np.uint64(8))
    out[to + np.uint64(2)] = np.uint8(word >> np.uint64(16))
    out[to + np.uint64(3)] = np.uint8(word >> np.uint64(24))
    out[to + np.uint64(4)] = np.uint8(word >> np.uint64(32))
    out[to + np.uint64(5)] = np.uint8(word >> np.uint64(40))
    out[to + np.uint64(6)] = np.uint8(word >> np.uint64(48))
    out[to + np.uint64(7)] = np.uint8(word >> np.uint64(56))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _put_parts(
    out: NDArray[np.uint8], at: int, negative: int, whole: np.uint64, ten_thousandths: np.uint64
) -> int:
    """Write whole + ten_thousandths / 10⁴ (below 10⁸) without trailing zeros, without a branch.

    Up to `SLACK_BYTES` from the number's start are written over.
    """
    n_digits = _n_digits_of_eight(whole)
    digits = _eight_digits(whole) | _ZEROS
    out[at] = _MINUS
    _put_word(out, at + negative, digits >> np.uint64(8 * (8 - n_digits)))
    out[at + negative + n_digits] = _POINT
    decimals = (_eight_digits(ten_thousandths) | _ZEROS) >> np.uint64(32)
    _put_word(out, at + negative + n_digits + 1, decimals)
    n_decimals = int(ten_thousandths % np.uint64(10) > np.uint64(0))
    n_decimals += int(ten_thousandths % np.uint64(100) > np.uint64(0))
    n_decimals += int(ten_thousandths % np.uint64(1_000) > np.uint64(0))
    n_decimals += 2 * int(ten_thousandths > np.uint64(0))
    return at + negative + n_digits + n_decimals


@numba.njit(cache=True, nogil=True, error_model="numpy")
def put_value(out: NDArray[np.uint8], at: int, value: int, decimals: int) -> int:
    """Write value / 10 ** decimals as `put_decimal` does, faster where it is of usual size."""
    left = np.uint64(abs(value))
    if left < np.uint64(100_000_000) and decimals == 0:
        return _put_parts(out, at, int(value < 0), left, np.uint64(0))
    if left < np.uint64(1_000_000_000_000) and decimals == 4:
        whole = left // np.uint64(10_000)
        fraction = left - whole * np.uint64(10_000)
        return _put_parts(out, at, int(value < 0), whole, fraction)
    return put_decimal(out, at, value, decimals)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def put_coordinate(out: NDArray[np.uint8], at: int, value: int) -> int:
    """Write value / 100 as `put_decimal` does, faster where it is of usual size."""
    left = np.uint64(abs(value))
    if left >= np.uint64(10_000_000_000):
        return put_decimal(out, at, value, COORDINATE_DECIMALS)
    whole = left // np.uint64(100)
    fraction = left - whole * np.uint64(100)
    tens = fraction // np.uint64(10)
    ones = fraction - tens * np.uint64(10)
    n_digits = _n_digits_of_eight(whole)
    negative = int(value < 0)
    digits = _eight_digits(whole) | _ZEROS
    out[np.uint64(at)] = _MINUS
    _put_word(out, at + negative, digits >> np.uint64(8 * (8 - n_digits)))
    at += negative + n_digits
    out[np.uint64(at)] = _POINT
    out[np.uint64(at + 1)] = np.uint8(tens + np.uint64(_ZERO))
    out[np.uint64(at + 2)] = np.uint8(ones + np.uint64(_ZERO))
    n_decimals = int(fraction > np.uint64(0)) * (2 + int(ones > np.uint64(0)))
    return at + n_decimals
