"""Numbers from a tile's pixels agree with plain numpy and scikit-image, wherever the tile lies."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import io, measure
from slow_features import slow_densities, slow_rings, slow_texture
from slow_masks import blobs, instances_of, moved

from wsiseg.densities import densities_around, densities_in, density_steps, half_widths_px
from wsiseg.errors import UsageError
from wsiseg.features import (
    MEASURE_GROUPS,
    chosen_groups,
    feature_columns,
    measure_pixels,
    tile_groups,
)
from wsiseg.stain import optical_density, unmix
from wsiseg.testing.painted import paint_nuclei
from wsiseg.texture import texture_of

ORIGIN = (0, 0)
Picture = tuple[NDArray[np.uint8], NDArray[np.integer]]


def noise(seed: int) -> Picture:
    """Return ragged, touching, perforated instances in noise: every density, below 0 too."""
    labels = blobs(seed)
    rgb = np.random.default_rng(seed).integers(0, 256, (*labels.shape, 3), dtype=np.uint8)
    return rgb, labels


def painted(seed: int) -> Picture:
    rgb, labels = paint_nuclei(160, 60, 0.25, (seed,))
    return rgb, measure.label(labels, connectivity=1)


def annotated(shared, set_name: str, position: int) -> Picture:
    """Return a corner of a real image and its annotated nuclei."""
    path = sorted((shared / "data" / set_name / "inst").glob("*.png"))[position]
    image = next((path.parent.parent / "images").glob(f"{path.stem}.*"))
    corner = slice(0, 300), slice(0, 300)
    labels = measure.label(io.imread(path)[corner], connectivity=1)
    return np.ascontiguousarray(io.imread(image)[corner][..., :3]), labels


def check(rgb: NDArray[np.uint8], labels: NDArray[np.integer], mpp: float = 0.25) -> None:
    """Compare all with the slow twins."""
    instances, everywhere = instances_of(labels), np.ones(labels.shape, bool)
    assert len(instances) > 5
    found = densities_in(rgb, instances, ORIGIN)
    np.testing.assert_allclose(found, slow_densities(rgb, labels), atol=2e-5)
    found = densities_around(rgb, labels > 0, instances, ORIGIN, mpp)
    np.testing.assert_allclose(found, slow_rings(rgb, labels, mpp, everywhere), atol=1e-5)
    found = texture_of(rgb, instances, ORIGIN)
    np.testing.assert_allclose(found, slow_texture(rgb, labels), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_noise(seed):
    check(*noise(seed))


@pytest.mark.parametrize("mpp", [0.2527, 0.4, 0.5, 1.0, 3.0])
def test_painted_nuclei_at_any_scale(mpp):
    check(*painted(1), mpp)


@pytest.mark.real
@pytest.mark.parametrize("set_name", ["consep_train", "monuseg_train"])
def test_real_nuclei(shared, set_name):
    check(*annotated(shared, set_name, 2))


def test_steps_are_the_densities_of_the_stains():
    rgb = np.random.default_rng(3).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    steps = density_steps()
    for stain in range(2):
        looked_up = sum(steps[stain, k][rgb[..., k]] for k in range(3)) / 1e6
        np.testing.assert_allclose(looked_up, unmix(optical_density(rgb))[..., stain], atol=5e-6)


def measured(picture: Picture, rows: int = 0, cols: int = 0) -> NDArray[np.float32]:
    rgb, labels = picture
    classes = np.stack([rgb[..., 0], 255 - rgb[..., 0]])
    instances = moved(instances_of(labels), rows, cols)
    return measure_pixels(
        rgb, labels > 0, classes, instances, (rows, cols), 0.25, tile_groups(MEASURE_GROUPS)
    )


def test_place_of_the_tile_changes_no_bit():
    here = measured(noise(4))
    assert here.shape == (len(instances_of(noise(4)[1])), 4 + 2 + 5 + 2)
    there = measured(noise(4), 300_000, 123_457)
    assert here.tobytes() == there.tobytes()


def test_what_the_tile_shows_beyond_the_ring_changes_no_bit():
    rgb, labels = painted(5)
    whole = measured((rgb, labels))
    # A window that cuts off 20 px: nuclei farther than a ring from its edge are as before.
    cut = slice(20, None), slice(20, None)
    boxes = [region.bbox for region in measure.regionprops(labels)]
    inner = [i for i, (top, left, _, _) in enumerate(boxes) if min(top, left) >= 31]
    assert 10 < len(inner) < len(boxes)
    only = np.where(np.isin(labels, np.array(inner) + 1), labels, 0)
    one = instances_of(only[cut])
    part_rgb = np.ascontiguousarray(rgb[cut])
    classes = np.stack([part_rgb[..., 0], 255 - part_rgb[..., 0]])
    part = measure_pixels(
        part_rgb, labels[cut] > 0, classes, one, ORIGIN, 0.25, tile_groups(MEASURE_GROUPS)
    )
    assert part.tobytes() == whole[inner].tobytes()


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_change_nothing(turns):
    rgb, labels = painted(6)
    order = np.rot90(labels, turns)
    turned = measured((np.ascontiguousarray(np.rot90(rgb, turns)), np.ascontiguousarray(order)))
    np.testing.assert_allclose(turned, measured((rgb, labels)), rtol=1e-5, atol=1e-6)


def test_a_plain_nucleus_has_no_spread_and_no_correlation():
    rgb = np.full((9, 9, 3), 120, np.uint8)
    labels = np.zeros((9, 9), int)
    labels[2:6, 3:7] = 1
    mean, sd, _, eosin_sd = densities_in(rgb, instances_of(labels), ORIGIN)[0]
    assert (sd, eosin_sd) == (0, 0)
    assert mean == pytest.approx(float(unmix(optical_density(rgb))[0, 0, 0]), abs=1e-5)
    contrast, homogeneity, energy, correlation, entropy = texture_of(
        rgb, instances_of(labels), ORIGIN
    )[0]
    assert (contrast, homogeneity, energy, entropy) == (0, 1, 1, 0)
    assert np.isnan(correlation)


def test_one_pixel_has_no_texture():
    labels = np.zeros((5, 5), int)
    labels[2, 2] = 1
    rgb = np.full((5, 5, 3), 90, np.uint8)
    assert np.isnan(texture_of(rgb, instances_of(labels), ORIGIN)).all()


def test_a_checkerboard_by_hand():
    # Straight neighbours always differ by one level, diagonal ones never.
    dark, bright = (np.full(3, v, np.uint8) for v in (100, 110))
    checks = np.indices((4, 4)).sum(axis=0) % 2
    rgb = np.where(checks[..., None] == 1, dark, bright).astype(np.uint8)
    both = texture_of(rgb, instances_of(np.ones((4, 4), int)), ORIGIN)[0]
    contrast, homogeneity, energy, correlation, entropy = both
    assert contrast == pytest.approx(0.5)
    assert homogeneity == pytest.approx(0.75)
    assert energy == pytest.approx(np.mean([np.sqrt(0.5), np.sqrt(0.5), *[energy_of(5, 4)] * 2]))
    assert correlation == pytest.approx(0)
    assert entropy == pytest.approx(np.log(2), rel=0.01)


def energy_of(*counts: int) -> float:
    shares = np.array(counts) / sum(counts)
    return float(np.sqrt((shares**2).sum()))


def test_discs_have_the_pixels_within_their_radius():
    for radius in (0.4, 1.0, 2.0, 9.893, 10.0):
        wide = half_widths_px(radius)
        for row in range(-12, 13):
            inside = [col for col in range(-12, 13) if row**2 + col**2 <= radius**2]
            assert len(inside) == (2 * wide[abs(row)] + 1 if abs(row) < len(wide) else 0)


def test_outside_the_slide_and_full_of_others_there_is_no_ring():
    rgb = np.full((40, 40, 3), 200, np.uint8)
    labels = np.zeros((40, 40), int)
    labels[18:22, 18:22] = 1
    instances = instances_of(labels)
    everything = np.ones(labels.shape, bool)
    assert np.isnan(densities_around(rgb, everything, instances, ORIGIN, 0.25)).all()
    outside = np.zeros(labels.shape, bool)
    outside[:, 20:] = True
    rgb[:, 20:] = 255
    left = densities_around(rgb, (labels > 0) | outside, instances, ORIGIN, 0.25)
    np.testing.assert_allclose(left, slow_rings(rgb, labels, 0.25, ~outside), atol=1e-5)
    assert left[0, 0] == pytest.approx(float(unmix(optical_density(rgb))[0, 0, 0]), abs=1e-5)


def test_a_scale_without_pixels_for_a_ring_has_none():
    rgb, labels = painted(2)
    found = densities_around(rgb, labels > 0, instances_of(labels), ORIGIN, 2.6)
    assert np.isnan(found).all()


def test_no_nuclei():
    rgb, labels = painted(2)
    found = measured((rgb, np.zeros_like(labels)))
    assert found.shape == (0, 13)


def test_groups_have_one_order_and_known_names():
    assert chosen_groups("all") == chosen_groups(MEASURE_GROUPS) == MEASURE_GROUPS
    assert chosen_groups("none") == chosen_groups(()) == ()
    assert chosen_groups("texture, ring,texture") == ("ring", "texture")
    with pytest.raises(UsageError, match=r"'rings' is no group; known: neighbours, ring"):
        chosen_groups("rings")
    columns = feature_columns(("neighbours", "probabilities"), ("Epithelial", "Dead cell"))
    assert columns == (
        *("nearest_cell_um", "cells_within_50um", "prob_Epithelial", "prob_Dead cell"),
    )
