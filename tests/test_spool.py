"""What is spooled is found again wherever it has pixels, and nothing stays on disk."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from slow_cells import cells_of
from slow_masks import blobs

from wsiseg._spool import spool_below
from wsiseg.errors import OutputNotWritable
from wsiseg.geometry import Box
from wsiseg.records import Cells, Instances
from wsiseg.rundir import is_left_behind

CORE_PX = 30


def bands(seed: int) -> list[Cells]:
    """Return the cells of a picture, a row of tiles at a time, in the order of columns."""
    cells = cells_of(blobs(seed, 180, 5), seed)
    rows = cells.instances.row_sum // cells.instances.area_px // CORE_PX
    cols = cells.instances.col_sum // cells.instances.area_px // CORE_PX
    found = []
    for row in np.unique(rows):
        mine = np.flatnonzero(rows == row)
        mine = mine[np.argsort(cols[mine], kind="stable")]
        found.append(
            Cells(
                cells.instances.taken(mine),
                cells.cell_id[mine],
                rows[mine].astype(np.int32),
                cols[mine].astype(np.int32),
            )
        )
    return found


def slow_near(all_bands: list[Cells], box: Box) -> set[int]:
    """Return the ids of cells with a pixel in a box."""
    ids = set()
    for cells in all_bands:
        first = cells.instances.first_run
        for i, cell_id in enumerate(cells.cell_id.tolist()):
            for row, start, end in cells.instances.runs[first[i] : first[i + 1]].tolist():
                inside_x = start < box.x_end_px and end > box.x_px
                if inside_x and box.y_px <= row < box.y_end_px:
                    ids.add(cell_id)
    return ids


@pytest.mark.parametrize("tiles_across", [1, 2, 100])
def test_all_cells_near_a_box_are_found_whole(tmp_path: Path, tiles_across: int) -> None:
    all_bands = bands(3)
    by_id = {i: (cells, k) for cells in all_bands for k, i in enumerate(cells.cell_id.tolist())}
    with spool_below(tmp_path, tiles_across) as spool:
        for cells in all_bands:
            spool.add(cells)
        for box in Box(0, 0, 180, 180).squares(50):
            got = list(spool.near(box))
            ids = [i for piece in got for i in piece.cell_id.tolist()]
            assert len(ids) == len(set(ids))
            assert set(ids) >= slow_near(all_bands, box)
            for piece in got:
                for k, i in enumerate(piece.cell_id.tolist()):
                    cells, at = by_id[i]
                    assert piece.tile_col[k] == cells.tile_col[at]
                    one, other = (
                        piece.instances.taken(np.array([k])),
                        cells.instances.taken(np.array([at])),
                    )
                    for field in fields(Instances):
                        np.testing.assert_array_equal(
                            getattr(one, field.name), getattr(other, field.name)
                        )
        whole = sum(len(piece) for piece in spool.near(Box(0, 0, 180, 180)))
        assert whole == len(by_id)
        if tiles_across == 1:
            assert len(ids) < whole, "a small box needs few of the pieces"
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_kept_of_no_cells(tmp_path: Path) -> None:
    none = bands(3)[0]
    none = Cells(
        none.instances.taken(np.empty(0, np.int64)),
        none.cell_id[:0],
        none.tile_row[:0],
        none.tile_col[:0],
    )
    with spool_below(tmp_path, 2) as spool:
        spool.add(none)
        assert list(spool.near(Box(0, 0, 100, 100))) == []


def test_a_disk_that_is_full_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with (
        pytest.raises(OutputNotWritable, match=r"No space left.*free some space"),
        spool_below(tmp_path, 2) as spool,
    ):
        spool.add(bands(3)[0])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputNotWritable, match="No such file"),
        spool_below(tmp_path / "none", 2),
    ):
        pass


def test_pieces_are_of_neighbouring_tiles(tmp_path: Path) -> None:
    (first, *_) = bands(3)
    with spool_below(tmp_path, 2) as spool:
        spool.add(replace(first))
        groups = [set((piece.tile_col // 2).tolist()) for piece in spool.near(Box(0, 0, 180, 180))]
    assert all(len(group) == 1 for group in groups)
    assert len(groups) == len(np.unique(first.tile_col // 2))


def test_another_call_in_this_process_leaves_a_spool_alone(tmp_path: Path) -> None:
    with spool_below(tmp_path, 2) as spool:
        spool.add(bands(3)[0])
        n = len(list(spool.near(Box(0, 0, 180, 180))))
        assert not [path for path in tmp_path.iterdir() if is_left_behind(path)]
        assert len(list(spool.near(Box(0, 0, 180, 180)))) == n > 0
