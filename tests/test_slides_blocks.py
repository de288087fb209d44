"""The block cache, and slides that are damaged in places."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from wsiseg.errors import TileNotReadable
from wsiseg.geometry import Box
from wsiseg.slides import open_slide
from wsiseg.slides.blocks import BlockCache, block_edge_px

BLOCK = np.zeros((10, 10, 3), np.uint8)


def test_a_block_is_decoded_once_while_it_is_held() -> None:
    cache = BlockCache(2 * BLOCK.nbytes)
    decoded: list[int] = []

    def get(col: int) -> None:
        cache.get((0, 0, col), lambda: (decoded.append(col), BLOCK)[1])

    for col in (0, 1, 0, 2, 0, 1):
        get(col)
    # 1 was used longest ago when 2 came, so it is the one decoded again.
    assert decoded == [0, 1, 2, 1]


def test_the_cache_stays_within_its_size() -> None:
    cache = BlockCache(3 * BLOCK.nbytes + 1)
    for col in range(50):
        cache.get((0, 0, col), BLOCK.copy)
    assert len(cache._blocks) == 3
    assert cache._held_bytes == 3 * BLOCK.nbytes


def test_a_block_larger_than_the_cache_is_still_delivered() -> None:
    cache = BlockCache(1)
    with ThreadPoolExecutor(4) as threads:
        blocks = list(threads.map(lambda _: cache.get((0, 0, 0), BLOCK.copy), range(20)))
    assert all(np.array_equal(block, BLOCK) for block in blocks)


def test_threads_that_want_one_block_decode_it_once() -> None:
    cache = BlockCache(10 * BLOCK.nbytes)
    all_here = threading.Barrier(4)
    n_decoded = 0

    def decode() -> NDArray[np.uint8]:
        nonlocal n_decoded
        n_decoded += 1
        threading.Event().wait(0.05)
        return BLOCK

    def get(_: int) -> NDArray[np.uint8]:
        all_here.wait(5)
        return cache.get((0, 0, 0), decode)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(get, range(4)))
    assert n_decoded == 1


def test_a_failure_reaches_every_thread_that_waits() -> None:
    cache = BlockCache(10 * BLOCK.nbytes)

    def fail() -> NDArray[np.uint8]:
        raise TileNotReadable("damaged")

    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(cache.get, (0, 0, 0), fail) for _ in range(8)]
    assert all(isinstance(future.exception(), TileNotReadable) for future in futures)
    assert cache.get((0, 0, 0), BLOCK.copy).shape == BLOCK.shape


@pytest.mark.parametrize(
    ("tile_px", "edge_px"),
    [
        (None, 512),
        (0, 512),
        (240, 480),
        (256, 512),
        (512, 512),
        (1000, 1000),
        (4096, 512),
        (1, 512),
    ],
)
def test_blocks_hold_whole_tiles(tile_px: int | None, edge_px: int) -> None:
    assert block_edge_px(tile_px) == edge_px


def write_damaged(path: Path) -> NDArray[np.uint8]:
    """A tiled JPEG slide whose tile at row 1, column 1 is overwritten; return the whole one."""
    rgb = np.full((1536, 1536, 3), 180, np.uint8)
    rgb += np.random.default_rng(0).integers(0, 40, rgb.shape, np.uint8)
    tifffile.imwrite(path, rgb, tile=(512, 512), photometric="rgb", compression="jpeg")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        whole: NDArray[np.uint8] = page.asarray()
        start, length = page.dataoffsets[4], page.databytecounts[4]
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\0" * length)
    return whole


@pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
def test_damage_is_named_and_does_not_spread(tmp_path: Path, reader: str) -> None:
    """OpenSlide's handle fails for ever after one bad read; the slide must not."""
    whole = write_damaged(tmp_path / "a.tif")
    with open_slide(tmp_path / "a.tif", reader) as slide:
        for _ in range(2):
            with pytest.raises(TileNotReadable) as caught:
                slide.read_level(0, Box(600, 600, 10, 10))
            message = str(caught.value)
            assert "a.tif: level 0 cannot be decoded in the box x 512 to 1024, y 512" in message
            assert str(tmp_path) not in message
            for box in (Box(0, 0, 512, 512), Box(1024, 300, 512, 900)):
                assert np.array_equal(
                    slide.read_level(0, box), whole[box.slices_in(Box(0, 0, 0, 0))]
                )


@pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
def test_damage_does_not_spread_to_other_threads(tmp_path: Path, reader: str) -> None:
    whole = write_damaged(tmp_path / "a.tif")
    corners = [(row, col) for row in range(3) for col in range(3)] * 4

    with open_slide(tmp_path / "a.tif", reader) as slide:

        def is_right(corner: tuple[int, int]) -> bool:
            row, col = corner
            box = Box(512 * col + 3, 512 * row + 3, 500, 500)
            try:
                pixels = slide.read_level(0, box)
            except TileNotReadable:
                return corner == (1, 1)
            return corner != (1, 1) and np.array_equal(
                pixels, whole[box.slices_in(Box(0, 0, 0, 0))]
            )

        with ThreadPoolExecutor(6) as threads:
            assert all(threads.map(is_right, corners))
