"""Test slides of any size: both readers open them, and their truth is what was laid."""

from __future__ import annotations

import dataclasses
import hashlib
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tiffslide
from annotated_images import SIZES, write_annotated
from numpy.typing import NDArray

import wsiseg
from wsiseg.errors import SlideNotReadable, UsageError
from wsiseg.geometry import Box, Frame
from wsiseg.plan import read_overview
from wsiseg.slides import open_slide
from wsiseg.testing.gigapixel import (
    FolderPictures,
    Mosaic,
    MosaicOptions,
    MosaicTruth,
    PaintedPictures,
    Pictures,
    each_once,
    open_truth,
    scatter,
    truth_path,
    write_mosaic,
)
from wsiseg.testing.models import fine_network
from wsiseg.testing.mosaics import GLASS, Canvas, tissue_share
from wsiseg.tissue import TissueOptions, find_tissue


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_annotated(tmp_path_factory.mktemp("annotated") / "set")


@pytest.fixture(scope="module")
def pictures(folder: Path) -> FolderPictures:
    return FolderPictures([folder])


@pytest.fixture(scope="module")
def slide(pictures: FolderPictures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An odd, flat slide with three levels."""
    path = tmp_path_factory.mktemp("slides") / "flat.svs"
    write_mosaic(path, scatter(pictures, FLAT), pictures)
    return path


FLAT = MosaicOptions(6501, 403, tissue_share=0.3, seed=4)


def pasted(mosaic: Mosaic, pictures: Pictures) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the whole slide and its truth, the slow way: everything in one array."""
    rgb = np.full((mosaic.height_px, mosaic.width_px, 3), GLASS, np.uint8)
    ids = np.zeros((mosaic.height_px, mosaic.width_px), np.int64)
    last = 0
    rows, cols = mosaic.picture.shape
    for row in range(rows):
        for col in range(cols):
            index = int(mosaic.picture[row, col])
            if index < 0:
                continue
            y = mosaic.y_px + row * mosaic.cell_height_px
            x = mosaic.x_px + col * mosaic.cell_width_px
            labels = pictures.labels(index)
            assert labels is not None
            height, width = labels.shape
            rgb[y : y + height, x : x + width] = pictures.rgb(index)
            for label in np.unique(labels[labels > 0]):
                last += 1
                ids[y : y + height, x : x + width][labels == label] = last
    return rgb, ids


def box_means(rgb: NDArray[np.uint8], step: int) -> NDArray[np.float64]:
    height, width = rgb.shape[0] // step, rgb.shape[1] // step
    blocks = rgb[: height * step, : width * step].reshape(height, step, width, step, 3)
    return np.asarray(blocks.mean(axis=(1, 3)))


# ---------------------------------------------------------------- the file


def test_both_libraries_know_size_levels_scale_and_objective(slide: Path) -> None:
    for opened in (openslide.OpenSlide(slide), tiffslide.TiffSlide(slide)):
        with opened:
            assert opened.level_dimensions == ((6501, 403), (1625, 100), (406, 25))
            prefix = type(opened).__module__.partition(".")[0]
            assert opened.properties[f"{prefix}.vendor"] == "aperio"
            assert float(opened.properties[f"{prefix}.mpp-x"]) == 0.25
            assert float(opened.properties[f"{prefix}.mpp-y"]) == 0.25
            assert float(opened.properties[f"{prefix}.objective-power"]) == 40
            assert list(opened.associated_images) == ["thumbnail"]


@pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
def test_our_readers_know_the_same(slide: Path, reader: str) -> None:
    with open_slide(slide, reader) as opened:
        info = opened.info
        assert (info.width_px, info.height_px) == (6501, 403)
        assert (info.mpp_x, info.mpp_y, info.objective_power) == (0.25, 0.25, 40)
        assert len(info.levels) == 3
        assert info.bounds == Box(0, 0, 6501, 403)


@pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
def test_every_level_is_the_mean_of_the_pictures_up_to_jpeg(
    slide: Path, pictures: FolderPictures, reader: str
) -> None:
    rgb, _ = pasted(scatter(pictures, FLAT), pictures)
    with open_slide(slide, reader) as opened:
        for index, (step, loss) in enumerate(((1, 4), (4, 8), (16, 9))):
            expected = box_means(rgb, step)
            height, width, _ = expected.shape
            apart = opened.read_level(index, Box(0, 0, width, height)) - expected
            glass = (expected == GLASS).all(axis=2)
            assert np.median(np.abs(apart[glass])) <= 1
            # Shifted by one pixel, means are at 6, 17, 30; with red and blue swapped, one
            # colour is off by 8 on average.  (Painted nuclei are fine, JPEG's colours coarse.)
            assert np.abs(apart[~glass]).mean() < loss
            assert np.abs(apart[~glass].mean(axis=0)).max() < 2


@pytest.mark.parametrize("step", [1, 4, 16, 64])
def test_levels_are_exact_before_compression(pictures: FolderPictures, step: int) -> None:
    mosaic = each_once(pictures)
    rgb, _ = pasted(mosaic, pictures)
    expected = box_means(rgb, step)
    height, width, _ = expected.shape
    found = Canvas(mosaic, pictures).read_shrunk(Box(0, 0, width, height), step)
    # Half of a grey level, for rounding.
    assert np.abs(found - expected).max() <= 0.5 + 1e-9
    part = Box(width // 3, height // 4, width // 2, height // 2)
    again = Canvas(mosaic, pictures).read_shrunk(part, step)
    assert np.array_equal(again, found[part.slices_in(Box(0, 0, width, height))])


def test_equal_seeds_make_equal_files(pictures: FolderPictures, tmp_path: Path) -> None:
    digests = []
    for name, seed in (("a.svs", 4), ("b.svs", 4), ("c.svs", 5)):
        options = MosaicOptions(1300, 1100, tissue_share=0.3, seed=seed)
        write_mosaic(tmp_path / name, scatter(pictures, options), pictures)
        files = (tmp_path / name, truth_path(tmp_path / name))
        digests.append([hashlib.sha256(file.read_bytes()).digest() for file in files])
    assert digests[0] == digests[1]
    assert digests[0][0] != digests[2][0]
    assert digests[0][1] != digests[2][1]


def test_memory_does_not_follow_the_size(pictures: FolderPictures, tmp_path: Path) -> None:
    peaks = []
    # The first one also pays for what stays in memory.
    for side in (1600, 1600, 6400):
        mosaic = scatter(pictures, MosaicOptions(side, side, tissue_share=0.1))
        tracemalloc.start()
        write_mosaic(tmp_path / "slide.svs", mosaic, pictures)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 3e6


def test_what_fails_leaves_the_old_slide(pictures: FolderPictures, tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    path.write_bytes(b"older")

    class Failing:
        names, sizes = pictures.names, pictures.sizes
        labels = pictures.labels

        def rgb(self, index: int) -> NDArray[np.uint8]:
            raise OSError(f"picture {index} is gone")

    with pytest.raises(OSError, match="is gone"):
        write_mosaic(path, each_once(pictures), Failing())
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------- where pictures lie


@pytest.mark.parametrize("share", [0.05, 0.15, 0.4, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tissue_covers_the_share_asked_for(
    pictures: FolderPictures, share: float, seed: int
) -> None:
    mosaic = scatter(pictures, MosaicOptions(4600, 4000, tissue_share=share, seed=seed))
    rgb_share = tissue_share(mosaic, pictures)
    # Pictures that are smaller than the largest leave glass between them.
    attainable = min(share, 0.85)
    assert rgb_share >= attainable - 0.002
    assert rgb_share <= share + 0.002
    slide = Box(0, 0, mosaic.width_px, mosaic.height_px)
    for row, col in np.argwhere(mosaic.picture >= 0).tolist():
        place = mosaic.place(row, col, SIZES[int(mosaic.picture[row, col])])
        assert place.intersection(slide) == place


def test_all_pictures_are_used_evenly(pictures: FolderPictures) -> None:
    mosaic = scatter(pictures, MosaicOptions(4600, 4000, tissue_share=0.3))
    counts = np.bincount(mosaic.picture[mosaic.picture >= 0], minlength=len(SIZES))
    assert counts.max() - counts.min() <= 1


def test_tissue_is_compact(pictures: FolderPictures) -> None:
    mosaic = scatter(pictures, MosaicOptions(9200, 8000, tissue_share=0.15))
    laid = np.pad(mosaic.picture >= 0, 1)
    neighbours = sum(np.roll(laid, shift, axis)[laid] for shift in (1, -1) for axis in (0, 1))
    # 240 cells as a disc would have 3.7 of 4 neighbours on average, scattered ones 0.6.
    assert float(np.mean(neighbours)) > 3


def test_the_tissue_finder_finds_it(tmp_path: Path) -> None:
    painted = PaintedPictures(4000, side_px=320, n_pictures=3)
    mosaic = scatter(painted, MosaicOptions(4800, 3840, tissue_share=0.2))
    path = tmp_path / "slide.svs"
    write_mosaic(path, mosaic, painted)
    with open_slide(path) as opened:
        found = find_tissue(read_overview(opened, Frame(32.0, 150, 120)), 8.0, TissueOptions())
    laid = np.kron(mosaic.picture >= 0, np.ones((10, 10), bool))
    assert (found & laid).sum() / laid.sum() > 0.99
    # It grows tissue by 16 µm, after smoothing and closing gaps: 6 px are 48 µm.
    around = cv2.dilate(laid.astype(np.uint8), np.ones((13, 13), np.uint8)) > 0
    assert not (found & ~around).any()
    assert not around.all()


# ---------------------------------------------------------------- the truth


@pytest.mark.parametrize("arrange", ["once", "scatter"])
def test_truth_of_any_box_is_what_was_pasted(
    pictures: FolderPictures, arrange: str, tmp_path: Path
) -> None:
    mosaic = each_once(pictures) if arrange == "once" else scatter(pictures, FLAT)
    _, ids = pasted(mosaic, pictures)
    made = write_mosaic(tmp_path / "slide.svs", mosaic, pictures)
    opened = open_truth(truth_path(tmp_path / "slide.svs"))
    assert made is not None
    for truth in (made, opened):
        assert truth.n_nuclei == ids.max() > 50
        whole = truth.labels_in(Box(0, 0, mosaic.width_px, mosaic.height_px))
        assert whole.dtype == np.int64
        assert np.array_equal(whole, ids)
        check_boxes(truth, ids)


def check_boxes(truth: MosaicTruth, ids: NDArray[np.int64]) -> None:
    """Assert that boxes, also outside the slide, are crops of the padded array."""
    height, width = ids.shape
    padded = np.pad(ids, 300)
    random = np.random.default_rng(1)
    for _ in range(20):
        wide, high = random.integers(0, 300, 2).tolist()
        x = int(random.integers(-300, width + 300 - wide))
        y = int(random.integers(-300, height + 300 - high))
        found = truth.labels_in(Box(x, y, wide, high))
        assert np.array_equal(found, padded[y + 300 :, x + 300 :][:high, :wide])


def test_nuclei_cut_by_their_image_are_named(pictures: FolderPictures, slide: Path) -> None:
    truth = open_truth(truth_path(slide))
    mosaic = scatter(pictures, FLAT)
    _, ids = pasted(mosaic, pictures)
    cut = set()
    for place in truth.placements():
        part = ids[place.box.slices_in(Box(0, 0, *ids.shape[::-1]))]
        inside = set(np.unique(part[part > 0]).tolist())
        assert inside == set(range(place.first_id, place.first_id + place.n_nuclei))
        cut |= set(np.unique([*part[0], *part[-1], *part[:, 0], *part[:, -1]]).tolist())
        assert place.name == f"set/{place.picture}"
    assert truth.cut_ids().tolist() == sorted(cut - {0})
    assert 0 < len(truth.cut_ids()) < truth.n_nuclei


def test_without_label_maps_there_is_no_truth(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes((folder / "images" / "0.png").read_bytes())
    pictures = FolderPictures([tmp_path])
    path = tmp_path / "slide.svs"
    truth_path(path).write_bytes(b"of an older slide")
    assert write_mosaic(path, each_once(pictures), pictures) is None
    assert not truth_path(path).exists()


def test_a_file_that_is_no_truth_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.svs.truth.npz"
    with pytest.raises(SlideNotReadable, match="make the slide again"):
        open_truth(path)
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(SlideNotReadable, match="make the slide again"):
        open_truth(path)
    np.savez(path, names=np.array(["a"]))
    with pytest.raises(SlideNotReadable, match="is no 'wsiseg mosaic truth 1'"):
        open_truth(path)


# ---------------------------------------------------------------- painted tissue


def test_painted_nuclei_are_as_many_as_asked_for() -> None:
    for density in (0, 2000, 15_000):
        painted = PaintedPictures(density, mpp=0.25, side_px=800, n_pictures=2)
        n = round(density * 0.2**2)
        labels = painted.labels(1)
        assert np.array_equal(np.unique(labels), np.arange(n + 1))
        assert not np.any([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        assert np.array_equal(painted.rgb(1), painted.rgb(1))
        assert not np.array_equal(painted.rgb(0), painted.rgb(1))
        if n:
            red = painted.rgb(1)[:, :, 0].astype(float)
            assert red[labels > 0].mean() < 130 < 190 < red[labels == 0].mean()


def test_the_stand_in_finds_the_painted_nuclei_of_a_slide(tmp_path: Path) -> None:
    painted = PaintedPictures(9000, side_px=400, n_pictures=3)
    path = tmp_path / "slide.svs"
    truth = write_mosaic(path, scatter(painted, MosaicOptions(1700, 1300, 0.5)), painted)
    result = wsiseg.segment(path, out=tmp_path / "out", model=fine_network())
    assert truth is not None
    table = result.cells()
    found = [
        truth.labels_in(Box(int(x), int(y), 1, 1)).item()
        for x, y in zip(table["x"].to_pylist(), table["y"].to_pylist(), strict=True)
    ]
    hit = np.unique([label for label in found if label])
    assert len(hit) > 0.97 * truth.n_nuclei
    assert len(found) < 1.03 * truth.n_nuclei


def test_no_pictures_are_refused(pictures: FolderPictures) -> None:
    @dataclasses.dataclass
    class Nothing:
        names: tuple[str, ...] = ()
        sizes: tuple[tuple[int, int], ...] = ()
        rgb = pictures.rgb
        labels = pictures.labels

    with pytest.raises(UsageError, match="there are no pictures"):
        each_once(Nothing())
    with pytest.raises(UsageError, match="there are no pictures"):
        scatter(Nothing(), FLAT)
