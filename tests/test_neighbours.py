"""Neighbours are those of the plain search, and of whole slides however cells come."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_cells import with_ids
from slow_features import slow_neighbours
from slow_masks import instances_of

from wsiseg._feature_rows import FeatureRows
from wsiseg.exporters.features import FeaturesWriter
from wsiseg.features import feature_columns
from wsiseg.neighbours import find_neighbours


def check(x_um, y_um, start=0, stop=None):
    found = find_neighbours(x_um, y_um, start, len(x_um) if stop is None else stop)
    nearest, n_near = slow_neighbours(x_um, y_um)
    np.testing.assert_array_equal(found.nearest_um, nearest[start:stop])
    np.testing.assert_array_equal(found.n_near, n_near[start:stop])


@pytest.mark.parametrize(("n", "side_um"), [(1, 10), (2, 150), (300, 300), (400, 3000), (500, 90)])
def test_random_places(n, side_um):
    rng = np.random.default_rng(n)
    check(rng.uniform(-50, side_um, n), rng.uniform(1e5, 1e5 + side_um, n))


places = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40)


@given(places, st.sampled_from([10.0, 25.0, 50.0, 51.0, 100.0]))
@settings(max_examples=100, deadline=None)
def test_a_lattice_has_neighbours_exactly_on_the_limits(at, step_um):
    x_um, y_um = (np.array(values, float) * step_um for values in zip(*at, strict=True))
    check(x_um, y_um)


def test_some_of_them():
    rng = np.random.default_rng(7)
    x_um, y_um = rng.uniform(0, 400, (2, 200))
    check(x_um, y_um, 50, 120)
    assert len(find_neighbours(x_um, y_um, 5, 5).n_near) == 0
    assert len(find_neighbours(np.empty(0), np.empty(0), 0, 0).n_near) == 0


def test_limits_belong_to_what_they_limit():
    apart = find_neighbours(np.array([0.0, 50.0, 150.0]), np.zeros(3), 0, 3)
    assert apart.n_near.tolist() == [1, 1, 0]
    assert apart.nearest_um.tolist() == [50, 50, 100]
    beyond = find_neighbours(np.array([0.0, 100.001]), np.zeros(2), 0, 2)
    assert np.isnan(beyond.nearest_um).all()


def dots(side_px: int, n: int, seed: int):
    """Return single-pixel nuclei in raster order."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((side_px, side_px), int)
    at = np.sort(rng.choice(side_px**2, n, replace=False))
    labels.flat[at] = np.arange(1, n + 1)
    return instances_of(labels)


@pytest.mark.parametrize("band_px", [5, 40, 130, 600])
def test_bands_give_the_neighbours_of_the_whole(tmp_path, band_px):
    """Cells of a band may lie above the next one's and be held back over several bands."""
    side_px, scale, slide_mpp = 600, 0.5, 2.0
    dense = dots(side_px, 900, seed=1)
    columns = feature_columns(("neighbours",), ())
    with FeaturesWriter(tmp_path / "features.parquet", columns) as writer:
        rows = FeatureRows(writer, ("neighbours",), (scale, slide_mpp))
        edges = [*range(0, side_px, band_px), side_px]
        next_id, most = 1, 0
        for top, bottom in itertools.pairwise(edges):
            y = dense.runs[:, 0]
            # Nothing lies in one strip, so that a band is empty.
            chosen = np.flatnonzero((y >= top) & (y < bottom) & ~((y >= 200) & (y < 330)))
            cells = with_ids(dense.taken(chosen), next_id)
            next_id += len(cells)
            rows.add(cells, bottom)
            most = max(most, len(rows._x_um))
        rows.end()
    table = pq.read_table(tmp_path / "features.parquet")
    kept = dense.taken(np.flatnonzero((dense.runs[:, 0] < 200) | (dense.runs[:, 0] >= 330)))
    x_um, y_um = ((c + 0.5) * scale * slide_mpp for c in (kept.col_sum, kept.row_sum))
    nearest, n_near = slow_neighbours(x_um, y_um)
    assert table["cell_id"].to_pylist() == list(range(1, len(kept) + 1))
    found = table["nearest_cell_um"].to_numpy()
    np.testing.assert_array_equal(found, nearest.astype(np.float32))
    np.testing.assert_array_equal(table["cells_within_50um"].to_numpy(), n_near)
    if band_px < 100:
        # What is held does not grow with the slide.
        assert most < 0.6 * len(kept)


def test_numbers_of_another_shape_are_refused(tmp_path):
    with (
        pytest.raises(ValueError, match=r"2 nuclei came with numbers of shape \(2, 3\)"),
        FeaturesWriter(tmp_path / "features.parquet", ("a", "b")) as writer,
    ):
        writer.write(np.array([1, 2]), np.zeros((2, 3), np.float32))
    assert list(tmp_path.iterdir()) == []
