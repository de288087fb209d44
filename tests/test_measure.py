"""Shapes agree with scikit-image, and depend on nothing but the nucleus itself."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from skimage import measure
from slow_masks import blobs, instances_of, moved, real_labels

from wsiseg.measure import Measurements, measure_instances
from wsiseg.records import Instances

NAMES = [field.name for field in dataclasses.fields(Measurements)]
SHAPE_NAMES = [name for name in NAMES if name not in ("x_px", "y_px")]


def disc(radius_px: float) -> NDArray[np.int64]:
    reach = math.ceil(radius_px) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return (x**2 + y**2 < radius_px**2).astype(int)


def ellipse(major_px: float, minor_px: float, angle_rad: float) -> NDArray[np.int64]:
    """Return an ellipse whose major axis has the direction (x, y) = (sin, cos) of the angle."""
    reach = math.ceil(major_px / 2) + 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along = x * math.sin(angle_rad) + y * math.cos(angle_rad)
    across = x * math.cos(angle_rad) - y * math.sin(angle_rad)
    return ((2 * along / major_px) ** 2 + (2 * across / minor_px) ** 2 < 1).astype(int)


def slow_measurements(labels: NDArray[np.integer], mpp: float) -> dict[str, NDArray[np.float64]]:
    """Return the same quantities by scikit-image, one region at a time."""
    rows = []
    for region in measure.regionprops(labels):
        # scikit-image takes pixels as points; a square of side 1 adds 1/12 to every variance.
        large, small = (value + 1 / 12 for value in region.inertia_tensor_eigvals)
        perimeter = measure.perimeter_crofton(region.image, directions=4)
        rows.append(
            {
                "x_px": region.centroid[1] + 0.5,
                "y_px": region.centroid[0] + 0.5,
                "area_um2": region.num_pixels * mpp**2,
                "perimeter_um": perimeter * mpp,
                "major_axis_um": 4 * math.sqrt(large) * mpp,
                "minor_axis_um": 4 * math.sqrt(small) * mpp,
                "eccentricity": math.sqrt(max(0.0, 1 - small / large)),
                "solidity": region.solidity,
                "circularity": min(1.0, 4 * math.pi * region.num_pixels / perimeter**2),
                "orientation_rad": region.orientation,
            }
        )
    return {name: np.array([row[name] for row in rows], float) for name in NAMES}


def check_against_skimage(labels: NDArray[np.integer], mpp: float = 0.25) -> None:
    measured = measure_instances(instances_of(labels), mpp)
    expected = slow_measurements(labels, mpp)
    for name in NAMES:
        if name not in ("eccentricity", "orientation_rad"):
            np.testing.assert_allclose(getattr(measured, name), expected[name], rtol=1e-9)
    # The square of the eccentricity is what rounding leaves alone near 0.
    np.testing.assert_allclose(measured.eccentricity**2, expected["eccentricity"] ** 2, atol=1e-9)
    longish = measured.eccentricity > 1e-3
    turn = (measured.orientation_rad - expected["orientation_rad"])[longish]
    np.testing.assert_allclose(np.sin(turn), 0, atol=1e-7)
    assert (np.abs(measured.orientation_rad) <= math.pi / 2).all()


def subset(instances: Instances, order: list[int]) -> Instances:
    """Return some instances, in that order."""
    parts = [instances.runs[instances.first_run[i] : instances.first_run[i + 1]] for i in order]
    names = [f.name for f in dataclasses.fields(Instances) if f.name not in ("first_run", "runs")]
    return Instances(
        first_run=np.cumsum([0] + [len(part) for part in parts]),
        runs=np.concatenate(parts),
        **{name: getattr(instances, name)[order] for name in names},
    )


@pytest.mark.parametrize("seed", range(3))
def test_ragged_blobs(seed):
    check_against_skimage(blobs(seed))


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2))
)
@settings(max_examples=100, deadline=None)
def test_any_touching_instances(values):
    check_against_skimage(measure.label(values, connectivity=1, background=0))


@pytest.mark.real
@pytest.mark.parametrize("set_name", ["consep_train", "monuseg_train"])
def test_real_nuclei(shared, set_name):
    check_against_skimage(real_labels(shared, set_name, 1))


@pytest.mark.parametrize(("rows", "cols"), [(1, 0), (0, 1), (-13, 7), (200_000, 399_999)])
def test_place_changes_no_bit_of_the_shape(rows, cols):
    here = instances_of(blobs(3))
    before = measure_instances(here, 0.2527)
    after = measure_instances(moved(here, rows, cols), 0.2527)
    for name in SHAPE_NAMES:
        assert getattr(before, name).tobytes() == getattr(after, name).tobytes()
    np.testing.assert_allclose(after.x_px, before.x_px + cols, rtol=1e-12)
    np.testing.assert_allclose(after.y_px, before.y_px + rows, rtol=1e-12)


def test_company_changes_no_bit():
    instances = instances_of(blobs(4))
    together = measure_instances(instances, 0.2527)
    order = list(range(len(instances)))[::-3]
    some = measure_instances(subset(instances, order), 0.2527)
    for name in NAMES:
        assert getattr(some, name).tobytes() == getattr(together, name)[order].tobytes()


def test_perimeter_does_not_depend_on_the_direction():
    angles = np.linspace(0, math.pi, 37)
    perimeters = [
        measure_instances(instances_of(ellipse(40, 24, angle)), 1.0).perimeter_um[0]
        for angle in angles
    ]
    assert max(perimeters) / min(perimeters) < 1.03
    # Ramanujan's approximation (1914), exact to 1e-5 for this ellipse.
    a, b = 20, 12
    true = math.pi * (3 * (a + b) - math.sqrt((3 * a + b) * (a + 3 * b)))
    assert np.mean(perimeters) == pytest.approx(true, rel=0.02)


@pytest.mark.parametrize("angle", [-1.2, -math.pi / 4, 0.0, 0.3, math.pi / 4, 1.5])
def test_ellipse_gives_its_own_axes_and_direction(angle):
    measured = measure_instances(instances_of(ellipse(60, 20, angle)), 0.5)
    assert measured.major_axis_um[0] == pytest.approx(30, rel=0.01)
    assert measured.minor_axis_um[0] == pytest.approx(10, rel=0.02)
    assert measured.eccentricity[0] == pytest.approx(math.sqrt(8) / 3, rel=0.005)
    assert measured.orientation_rad[0] == pytest.approx(angle, abs=0.02)


def test_bar_from_top_left_to_bottom_right_has_positive_orientation():
    bar = np.eye(12, dtype=int) + np.eye(12, k=1, dtype=int)
    measured = measure_instances(instances_of(bar), 1.0)
    assert measured.orientation_rad[0] == pytest.approx(math.pi / 4, abs=0.05)


def test_large_discs_are_round():
    measured = measure_instances(instances_of(disc(60.0)), 1.0)
    assert measured.circularity[0] == pytest.approx(1, abs=0.02)
    assert measured.solidity[0] > 0.99


@pytest.mark.parametrize("radius_px", [1.5, 3.0, 8.2, 60.0])
@pytest.mark.parametrize("cut_rows", [0, 1])
def test_what_has_no_longer_axis_has_no_direction(radius_px, cut_rows):
    shape = disc(radius_px)
    middle = len(shape) // 2
    even = np.delete(np.delete(shape, [middle] * cut_rows, 0), [middle] * cut_rows, 1)
    measured = measure_instances(instances_of(even), 1.0)
    assert measured.eccentricity[0] == 0
    assert measured.orientation_rad[0] == 0


def test_one_pixel():
    measured = measure_instances(moved(instances_of(np.ones((1, 1), int)), 3, 5), 0.5)
    assert (measured.x_px[0], measured.y_px[0]) == (5.5, 3.5)
    assert measured.area_um2[0] == 0.25
    assert measured.perimeter_um[0] == pytest.approx(math.pi / 4 * (2 + math.sqrt(2)) * 0.5)
    assert measured.major_axis_um[0] == measured.minor_axis_um[0]
    assert measured.minor_axis_um[0] == pytest.approx(2 / math.sqrt(12))
    assert measured.eccentricity[0] == 0
    assert measured.solidity[0] == 1
    assert measured.circularity[0] == 1
    assert measured.orientation_rad[0] == 0


@pytest.mark.parametrize(("shape", "orientation"), [((1, 1000), math.pi / 2), ((1000, 1), 0.0)])
def test_line(shape, orientation):
    measured = measure_instances(instances_of(np.ones(shape, int)), 1.0)
    assert measured.minor_axis_um[0] == pytest.approx(4 / math.sqrt(12), rel=1e-6)
    assert measured.orientation_rad[0] == orientation
    assert measured.solidity[0] == 1


def test_perimeter_counts_holes():
    ring = np.ones((9, 9), int)
    full = measure_instances(instances_of(ring), 1.0).perimeter_um[0]
    ring[4, 4] = 0
    one_px = math.pi / 4 * (2 + math.sqrt(2))
    assert measure_instances(instances_of(ring), 1.0).perimeter_um[0] == pytest.approx(
        full + one_px
    )


def test_solidity_of_an_l_by_hand():
    # The hull of the edges' middles runs from (1, 0.5) to (3, 2.5): the centre (1.5, 1.5) of
    # the pixel in the corner of the L lies left of x = y + 0.5, the one above it right of it.
    l_shape = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 1]])
    assert measure_instances(instances_of(l_shape), 1.0).solidity[0] == 5 / 6


def test_no_instances():
    measured = measure_instances(instances_of(np.zeros((3, 3), int)), 0.25)
    assert len(measured) == 0
    assert measured.solidity.shape == (0,)


@pytest.mark.parametrize("mpp", [0.0, -0.25, math.nan, math.inf])
def test_an_impossible_scale_is_refused(mpp):
    with pytest.raises(ValueError, match="positive number of µm per pixel"):
        measure_instances(instances_of(np.ones((2, 2), int)), mpp)


def test_an_instance_without_pixels_is_refused():
    one = instances_of(np.ones((2, 2), int))
    empty = dataclasses.replace(
        one, first_run=np.array([0, 0]), runs=np.zeros((0, 3), np.int32), area_px=np.array([0])
    )
    with pytest.raises(ValueError, match="instance 0 has no pixels"):
        measure_instances(empty, 0.25)


def test_arrays_of_unequal_length_are_refused():
    columns = {name: np.zeros(3) for name in NAMES}
    with pytest.raises(ValueError, match="solidity is float64 of shape"):
        Measurements(**{**columns, "solidity": np.zeros(2)})
