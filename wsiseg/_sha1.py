"""SHA-1 (RFC 3174) of many short names, as text of UUIDs, without the interpreter lock.

`hashlib` would do one name at a time and hold the lock between them: at millions of nuclei that
is what threads wait for.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

UUID_BYTES = 36
_BLOCK_BYTES = 64
_LENGTH_BYTES = 8
_MOST_BLOCKS = 2
_PREFIX_BYTES = 16
# Three numbers of 64 bits with sign, and what stands between them, fit behind the prefix.
_MOST_NAME_BYTES = _PREFIX_BYTES + 3 * 20 + 2
_DASHES_BEFORE = (4, 6, 8, 10)
_DASH, _MINUS, _SLASH, _ZERO, _PADDING = 0x2D, 0x2D, 0x2F, 0x30, 0x80
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_START = np.array([0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0], np.uint32)


@numba.njit(cache=True, nogil=True)
def uuid5_texts(
    prefix: NDArray[np.uint8],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    third: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """Return (n, 36): UUIDv5 of the names ``first/second/third`` in a namespace of 16 bytes."""
    n = len(first)
    text = np.empty((n, UUID_BYTES), np.uint8)
    message = np.empty(_MOST_BLOCKS * _BLOCK_BYTES, np.uint8)
    message[:_PREFIX_BYTES] = prefix
    words = np.empty(80, np.uint32)
    state = np.empty(5, np.uint32)
    for i in range(n):
        at = _put_number(message, _PREFIX_BYTES, first[i])
        message[at] = _SLASH
        at = _put_number(message, at + 1, second[i])
        message[at] = _SLASH
        at = _put_number(message, at + 1, third[i])
        _digest(message, at, words, state)
        _put_uuid(state, text, i)
    return text


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _put_number(message: NDArray[np.uint8], at: int, number: int) -> int:
    """Write a number in decimal; return where it ends."""
    left = np.uint64(number)
    if number < 0:
        message[at] = _MINUS
        at += 1
        left = np.uint64(0) - left
    n_digits = 1
    rest = left // np.uint64(10)
    while rest > 0:
        rest //= np.uint64(10)
        n_digits += 1
    for k in range(n_digits - 1, -1, -1):
        message[at + k] = np.uint8(_ZERO) + np.uint8(left % np.uint64(10))
        left //= np.uint64(10)
    return at + n_digits


@numba.njit(cache=True, nogil=True)
def _digest(
    message: NDArray[np.uint8], n_bytes: int, words: NDArray[np.uint32], state: NDArray[np.uint32]
) -> None:
    """Set `state` to the digest of the first bytes of `message`, which is padded on the way."""
    n_blocks = (n_bytes + 1 + _LENGTH_BYTES + _BLOCK_BYTES - 1) // _BLOCK_BYTES
    end = n_blocks * _BLOCK_BYTES
    message[n_bytes] = _PADDING
    for at in range(n_bytes + 1, end - 2):
        message[at] = 0
    message[end - 2] = n_bytes * 8 >> 8
    message[end - 1] = n_bytes * 8 & 255
    for k in range(5):
        state[k] = _START[k]
    for block in range(n_blocks):
        _add_block(message, block * _BLOCK_BYTES, words, state)


@numba.njit(cache=True, nogil=True)
def _rotated(word: np.uint32, bits: int) -> np.uint32:
    return np.uint32(word << np.uint32(bits)) | np.uint32(word >> np.uint32(32 - bits))


@numba.njit(cache=True, nogil=True)
def _step(a: np.uint32, e: np.uint32, mixed: np.uint32, word: np.uint32, k: np.uint32) -> np.uint32:
    return np.uint32(np.uint32(_rotated(a, 5) + mixed) + np.uint32(e + word) + k)


@numba.njit(cache=True, nogil=True)
def _add_block(
    message: NDArray[np.uint8], at: int, words: NDArray[np.uint32], state: NDArray[np.uint32]
) -> None:
    """Go through the 80 steps of one block (RFC 3174, section 6.1)."""
    for t in range(16):
        word = np.uint32(0)
        for k in range(4):
            word = np.uint32(word << np.uint32(8)) | np.uint32(message[at + 4 * t + k])
        words[t] = word
    for t in range(16, 80):
        words[t] = _rotated(words[t - 3] ^ words[t - 8] ^ words[t - 14] ^ words[t - 16], 1)
    a, b, c, d, e = state[0], state[1], state[2], state[3], state[4]
    for t in range(20):
        mixed = d ^ (b & (c ^ d))
        a, b, c, d, e = (
            _step(a, e, mixed, words[t], np.uint32(0x5A827999)),
            a,
            _rotated(b, 30),
            c,
            d,
        )
    for t in range(20, 40):
        mixed = b ^ c ^ d
        a, b, c, d, e = (
            _step(a, e, mixed, words[t], np.uint32(0x6ED9EBA1)),
            a,
            _rotated(b, 30),
            c,
            d,
        )
    for t in range(40, 60):
        mixed = (b & c) | (d & (b | c))
        a, b, c, d, e = (
            _step(a, e, mixed, words[t], np.uint32(0x8F1BBCDC)),
            a,
            _rotated(b, 30),
            c,
            d,
        )
    for t in range(60, 80):
        mixed = b ^ c ^ d
        a, b, c, d, e = (
            _step(a, e, mixed, words[t], np.uint32(0xCA62C1D6)),
            a,
            _rotated(b, 30),
            c,
            d,
        )
    state[0] += a
    state[1] += b
    state[2] += c
    state[3] += d
    state[4] += e


@numba.njit(cache=True, nogil=True)
def _put_uuid(state: NDArray[np.uint32], text: NDArray[np.uint8], i: int) -> None:
    """Write the first 16 bytes of a digest as a UUID of version 5 (RFC 9562, section 5.5)."""
    to = 0
    for k in range(16):
        byte = state[k >> 2] >> np.uint32(8 * (3 - (k & 3))) & np.uint32(255)
        if k == 6:
            byte = byte & np.uint32(0x0F) | np.uint32(0x50)
        elif k == 8:
            byte = byte & np.uint32(0x3F) | np.uint32(0x80)
        if k in _DASHES_BEFORE:
            text[i, to] = _DASH
            to += 1
        text[i, to] = _HEX[byte >> np.uint32(4)]
        text[i, to + 1] = _HEX[byte & np.uint32(15)]
        to += 2
