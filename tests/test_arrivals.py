"""Tiles come in their order, whenever they arrive, and waiting ends when a run is stopped."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from wsiseg._arrivals import Arrivals
from wsiseg.exporters.ome_zarr import Stopped
from wsiseg.geometry import Frame
from wsiseg.records import Tile
from wsiseg.tiles import TileGrid

GRID = TileGrid(Frame(1.0, 500, 400), core_px=100, margin_px=10)
TILES = [GRID.tile(row, col) for row in range(4) for col in range(5)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_order_of_arrival_is_put_right(seed: int) -> None:
    arrivals = Arrivals(TILES)
    with ThreadPoolExecutor(1) as other:
        taken = other.submit(list, arrivals)
        for i in np.random.default_rng(seed).permutation(len(TILES)):
            assert not taken.done()
            arrivals.add(TILES[i].row, TILES[i].col)
        assert taken.result(10) == TILES


def test_a_tile_is_handed_on_before_the_next_is_there() -> None:
    arrivals = Arrivals(TILES)
    taken: list[Tile] = []
    second = threading.Event()

    def take() -> None:
        for tile in arrivals:
            taken.append(tile)
            if len(taken) == 2:
                second.set()

    with ThreadPoolExecutor(1) as other:
        done = other.submit(take)
        # The fourth must wait for the third.
        for i in (0, 1, 3):
            arrivals.add(TILES[i].row, TILES[i].col)
        assert second.wait(10)
        assert taken == TILES[:2]
        for tile in TILES:
            arrivals.add(tile.row, tile.col)
        done.result(10)
    assert taken == TILES


def test_an_error_ends_the_waiting() -> None:
    def fail(arrivals: Arrivals) -> None:
        with arrivals:
            arrivals.add(0, 0)
            raise KeyError("stop")

    arrivals = Arrivals(TILES)
    with ThreadPoolExecutor(1) as other:
        taken = other.submit(list, arrivals)
        with pytest.raises(KeyError, match="stop"):
            fail(arrivals)
        with pytest.raises(Stopped):
            taken.result(10)


def test_a_block_that_ends_well_leaves_the_waiting_alone() -> None:
    arrivals = Arrivals(TILES)
    with arrivals:
        for tile in TILES:
            arrivals.add(tile.row, tile.col)
    assert list(arrivals) == TILES
