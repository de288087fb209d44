"""Identities are version 5 UUIDs, equal to Python's, and never change."""

from __future__ import annotations

import uuid

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg.identity import PROJECT_NAMESPACE, cell_uuids, run_namespace
from wsiseg.records import UNKNOWN_CLASS, Instances


def instances_at(places: list[tuple[int, int, int]]) -> Instances:
    """Return nuclei of those row sums, column sums and areas; their pixels do not matter."""
    n = len(places)
    row_sum, col_sum, area_px = np.array(places, np.int64).reshape(n, 3).T.copy()
    return Instances(
        first_run=np.arange(n + 1, dtype=np.int64),
        runs=np.zeros((n, 3), np.int32),
        area_px=area_px,
        row_sum=row_sum,
        col_sum=col_sum,
        class_index=np.full(n, UNKNOWN_CLASS, np.uint8),
        class_prob=np.full(n, np.nan, np.float32),
        nucleus_prob=np.ones(n, np.float32),
        cut=np.zeros(n, np.bool_),
    )


def texts(rows: np.ndarray) -> list[str]:
    return [bytes(row).decode("ascii") for row in rows]


# Small ones as they are, and all that fit: names of one block of SHA-1 and of two.
sums = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-1000, 10**8))


@given(st.lists(st.tuples(sums, sums, st.integers(1, 2**40)), max_size=20), st.text(), st.text())
@settings(max_examples=60, deadline=None)
def test_equal_to_pythons(places, fingerprint, sha256):
    namespace = uuid.uuid5(PROJECT_NAMESPACE, f"{fingerprint}/{sha256}")
    expected = [str(uuid.uuid5(namespace, f"{r}/{c}/{area}")) for r, c, area in places]
    rows = cell_uuids(instances_at(places), fingerprint, sha256)
    assert rows.shape == (len(places), 36)
    assert rows.dtype == np.uint8
    assert texts(rows) == expected


def test_names_of_every_length():
    """Where the padding just fits into a block, and where it no longer does."""
    places = [(10**a - 1, 10**b - 1, 10**c) for a in range(19) for b in (1, 9, 18) for c in (0, 18)]
    namespace = run_namespace("slide", "model")
    expected = [str(uuid.uuid5(namespace, "/".join(map(str, place)))) for place in places]
    assert texts(cell_uuids(instances_at(places), "slide", "model")) == expected


def test_identities_of_earlier_versions_stay():
    assert str(PROJECT_NAMESPACE) == "0a9a9299-bb62-4520-bd37-2df9d9848719"
    assert texts(cell_uuids(instances_at([(120, 340, 25)]), "f" * 64, "0" * 64)) == [
        "41064757-ddc6-57ee-b67a-74381f0fcc85"
    ]


def test_concentric_nuclei_differ():
    inner, outer = (9 * 50, 9 * 70, 9), (40 * 50, 40 * 70, 40)
    first, second = texts(cell_uuids(instances_at([inner, outer]), "slide", "model"))
    assert first != second


def test_slide_and_model_make_a_difference():
    places = instances_at([(1, 2, 3)])
    namespaces = {run_namespace(slide, model) for slide in "ab" for model in "cd"}
    assert len(namespaces) == 4
    one, other = cell_uuids(places, "a", "c"), cell_uuids(places, "a", "d")
    assert texts(one) != texts(other)


def test_bytes_are_an_arrow_string_array():
    rows = cell_uuids(instances_at([(1, 2, 3), (4, 5, 6)]), "slide", "model")
    offsets = np.arange(0, 36 * 3, 36, dtype=np.int32)
    strings = pa.StringArray.from_buffers(2, pa.py_buffer(offsets), pa.py_buffer(rows))
    strings.validate(full=True)
    assert strings.to_pylist() == texts(rows)


def test_no_nuclei():
    assert cell_uuids(instances_at([]), "slide", "model").shape == (0, 36)
