"""Tiles in their order, each as soon as its file is there."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from wsiseg.exporters.ome_zarr import Stopped
from wsiseg.records import Tile


class Arrivals:
    """Hands tiles on from where they are run, in any order, to where they are stitched.

    Use as a context manager: when the block is left by an error, waiting ends.

    Parameters
    ----------
    tiles
        All tiles, in the order in which they are waited for.
    """

    def __init__(self, tiles: Sequence[Tile]) -> None:
        self._tiles = tiles
        self._there: set[tuple[int, int]] = set()
        self._changed = threading.Condition()
        self.stopped = threading.Event()
        """Set when no more will come, whatever was handed on."""

    def add(self, row: int, col: int) -> None:
        """Say that the file of a tile is there."""
        with self._changed:
            self._there.add((row, col))
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Tile]:
        for tile in self._tiles:
            self._wait((tile.row, tile.col))
            yield tile

    def _wait(self, place: tuple[int, int]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.stopped.is_set() or place in self._there)
            if self.stopped.is_set():
                raise Stopped("the run was stopped")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            with self._changed:
                self.stopped.set()
                self._changed.notify_all()
