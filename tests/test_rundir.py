"""The run directory: whole files or none, and nothing of another run."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg import rundir
from wsiseg.errors import OutputExists, OutputNotWritable
from wsiseg.geometry import Box
from wsiseg.models.card import MAX_OUTER_PX
from wsiseg.records import UNKNOWN_CLASS, Instances, Tile
from wsiseg.rundir import (
    RunDir,
    canonical_hash,
    check_same_run,
    read_run_json,
    read_tile_file,
    read_tile_report,
    write_atomically,
    write_json,
    write_tile_file,
)
from wsiseg.stitch import TileInstances

KEY = "a" * 64
CORE = Box(3 * 512, 70_000 * 512, 512, 512)
TILE = Tile(70_000, 3, CORE, CORE.grown(224))
REPORT = {"seconds": 1.25, "focus": None, "name": 'µ – "quoted"'}


def random_instances(n: int, seed: int, tile: Tile = TILE) -> TileInstances:
    """Return n records of the right types; to a file their meaning is no concern."""
    rng = np.random.default_rng(seed)
    n_runs = rng.integers(1, 9, n)
    total = int(n_runs.sum())
    side_px = tile.outer.width_px
    runs = np.stack(
        [
            rng.integers(0, side_px, total) + tile.outer.y_px,
            rng.integers(0, side_px - 9, total) + tile.outer.x_px,
            rng.integers(side_px - 9, side_px + 1, total) + tile.outer.x_px,
        ],
        axis=1,
    )
    instances = Instances(
        first_run=np.concatenate([[0], np.cumsum(n_runs)]).astype(np.int64),
        runs=runs.astype(np.int32),
        area_px=rng.integers(1, 2000, n),
        row_sum=rng.integers(0, 2**60, n),
        col_sum=rng.integers(0, 2**60, n),
        class_index=rng.choice(np.array([0, 1, UNKNOWN_CLASS], np.uint8), n),
        class_prob=np.where(rng.random(n) < 0.2, np.nan, rng.random(n)).astype(np.float32),
        nucleus_prob=rng.random(n).astype(np.float32),
        cut=rng.random(n) < 0.5,
    )
    return TileInstances(tile, instances, rng.random(n) < 0.3)


def assert_same(found: TileInstances | None, wanted: TileInstances) -> None:
    assert found is not None
    assert found.tile == wanted.tile
    of_both = (found.instances, wanted.instances)
    pairs = [tuple(getattr(i, field.name) for i in of_both) for field in fields(Instances)]
    for have, want in [*pairs, (found.spare, wanted.spare)]:
        assert (have.dtype, have.shape) == (want.dtype, want.shape)
        assert have.tobytes() == want.tobytes()


@pytest.fixture
def tile_file(tmp_path: Path) -> Path:
    path = tmp_path / "tile.safetensors"
    write_tile_file(path, KEY, random_instances(20, seed=1), REPORT)
    return path


# Whole files or none


def test_a_file_appears_whole_and_alone(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.bin", b"first")
    write_atomically(tmp_path / "a.bin", b"second, longer")
    assert (tmp_path / "a.bin").read_bytes() == b"second, longer"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("fails", ["fsync", "replace", "write"])
@pytest.mark.parametrize("before", [None, b"what was there"])
def test_a_failure_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, before: bytes | None
) -> None:
    path = tmp_path / "a.bin"
    if before is not None:
        path.write_bytes(before)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        if fails == "fsync":
            patched.setattr(rundir.os, "fsync", full)
        elif fails == "replace":
            patched.setattr(Path, "replace", full)
        else:
            opened = Path.open

            def open_full(self: Path, mode: str) -> Any:
                opened(self, mode).close()
                full()

            patched.setattr(Path, "open", open_full)
        with pytest.raises(OutputNotWritable) as caught:
            write_atomically(path, b"new")
    for part in ("a.bin", "No space left on device", "free some space", "same command again"):
        assert part in str(caught.value)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == (
        [] if before is None else [before]
    )


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_no_folder_is_no_other_error(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(OutputNotWritable, match=r"a\.bin"):
        write_atomically(tmp_path / folder / "a.bin", b"new")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 64 KiB; only root may."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small disk here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_nothing(small_disk: Path) -> None:
    write_atomically(small_disk / "run.json", b"{}")
    with pytest.raises(OutputNotWritable, match="No space left"):
        write_atomically(small_disk / "run.json", bytes(200_000))
    assert [(path.name, path.read_bytes()) for path in small_disk.iterdir()] == [
        ("run.json", b"{}")
    ]
    write_atomically(small_disk / "run.json", bytes(20_000))


def test_a_read_only_disk_says_so(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OutputNotWritable, match="Read-only"):
        write_atomically(small_disk / "run.json", b"{}")


def test_json_is_written_and_read(tmp_path: Path) -> None:
    values = {"b": [1, 2.5, None], "a": {"µm": "é"}}
    write_json(tmp_path / "run.json", values)
    assert read_run_json(tmp_path / "run.json") == values
    assert "µm" in (tmp_path / "run.json").read_text(encoding="utf-8")


def test_json_without_standard_meaning_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "run.json", {"density": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff\xfe{}", b'{"a": 1'])
def test_a_damaged_run_json_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    assert read_run_json(tmp_path / "run.json") is None


def test_no_run_json_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert read_run_json(tmp_path / "run.json") is None
    assert read_run_json(tmp_path / "file" / "run.json") is None


# Tile files


@given(n=st.integers(0, 40), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_a_tile_file_gives_back_every_bit(
    tmp_path_factory: pytest.TempPathFactory, n: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("tile") / "tile.safetensors"
    wanted = random_instances(n, seed)
    write_tile_file(path, KEY, wanted, REPORT)
    assert_same(read_tile_file(path, KEY, TILE), wanted)
    assert read_tile_report(path, KEY) == REPORT


def test_runs_reach_the_far_edge_of_the_largest_tile(tmp_path: Path) -> None:
    core = Box(0, 2**30, 16_384, 16_384)
    tile = Tile(0, 0, core, Box(-8_160, 2**30 - 8_160, MAX_OUTER_PX, MAX_OUTER_PX))
    wanted = random_instances(5, seed=3, tile=tile)
    wanted.instances.runs[-1] = [
        tile.outer.y_end_px - 1,
        tile.outer.x_end_px - 32_000,
        tile.outer.x_end_px,
    ]
    write_tile_file(tmp_path / "tile", KEY, wanted, {})
    assert_same(read_tile_file(tmp_path / "tile", KEY, tile), wanted)


@pytest.mark.parametrize("n", [0, 12])
def test_any_flipped_bit_is_noticed(tmp_path: Path, n: int) -> None:
    path = tmp_path / "tile"
    wanted = random_instances(n, seed=2)
    write_tile_file(path, KEY, wanted, {"seconds": 1.0})
    content = path.read_bytes()
    bits = np.random.default_rng(0).integers(0, 8, len(content))
    noticed = 0
    for index, bit in enumerate(bits):
        damaged = bytearray(content)
        damaged[index] ^= 1 << int(bit)
        path.write_bytes(damaged)
        found = read_tile_file(path, KEY, TILE)
        if found is None:
            noticed += 1
        else:
            # Only white space between the header's end and the data means nothing.
            assert content[index : index + 1].isspace()
            assert_same(found, wanted)
    assert noticed > 0.98 * len(content)


def test_bytes_that_change_a_shape_or_type_are_noticed(tmp_path: Path) -> None:
    """In an empty tile the data alone cannot tell: every array has no bytes."""
    path = tmp_path / "tile"
    write_tile_file(path, KEY, random_instances(0, seed=0), {})
    content = path.read_bytes()
    changes = [(b'"shape":[0,3]', b'"shape":[0,2]'), (b'"dtype":"I64"', b'"dtype":"U64"')]
    for old, new in changes:
        assert old in content
        path.write_bytes(content.replace(old, new))
        assert read_tile_file(path, KEY, TILE) is None
        assert read_tile_report(path, KEY) is None


def test_a_truncated_tile_file_is_as_good_as_none(tile_file: Path) -> None:
    content = tile_file.read_bytes()
    for length in [*range(0, len(content), 97), len(content) - 1]:
        tile_file.write_bytes(content[:length])
        assert read_tile_file(tile_file, KEY, TILE) is None, f"{length} of {len(content)} bytes"
        assert read_tile_report(tile_file, KEY) is None
    tile_file.write_bytes(content + b"\0")
    assert read_tile_file(tile_file, KEY, TILE) is None


def test_a_tile_file_of_another_run_is_as_good_as_none(tile_file: Path) -> None:
    assert read_tile_file(tile_file, KEY, TILE) is not None
    assert read_tile_file(tile_file, "b" * 64, TILE) is None
    assert read_tile_report(tile_file, "b" * 64) is None


def test_a_tile_file_of_another_format_is_as_good_as_none(
    tile_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rundir, "TILE_FORMAT_VERSION", rundir.TILE_FORMAT_VERSION + 1)
    assert read_tile_file(tile_file, KEY, TILE) is None
    assert read_tile_report(tile_file, KEY) is None


def test_no_tile_file_is_none(tmp_path: Path) -> None:
    assert read_tile_file(tmp_path / "none", KEY, TILE) is None
    assert read_tile_report(tmp_path / "none", KEY) is None


def test_every_tile_has_its_own_file() -> None:
    run = RunDir(Path("out/a.svs.wsiseg"))
    tiles = [Tile(row, col, CORE, CORE) for row in (0, 1, 11, 111_111) for col in (0, 1, 11)]
    assert len({run.tile_file(tile) for tile in tiles}) == len(tiles)
    assert all(run.tile_file(tile).parent == run.work for tile in tiles)


# Identity


def test_the_hash_depends_on_the_values_and_nothing_else() -> None:
    values = {"mpp": 0.25, "numerics": {"threads": 1, "precision": "float32"}, "name": "é"}
    reordered = {
        "name": "é",
        "numerics": {"precision": "float32", "threads": 1},
        "mpp": 0.25,
    }
    assert canonical_hash(values) == canonical_hash(reordered)
    # Written down: a tile file must be found again by a later version.
    assert canonical_hash(values) == (
        "a783e62992db1ff1431303ce1af384b7c8d6814d5c49e1f924507e251fa00639"
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_the_hash_survives_a_file(values: dict[str, Any]) -> None:
    read = json.loads(json.dumps(values))
    assert canonical_hash(read) == canonical_hash(values)
    assert canonical_hash({**values, "another key": 1}) != canonical_hash(values)


def test_the_same_run_is_accepted() -> None:
    identity = {"slide": "abc", "mpp": 0.25}
    check_same_run(identity, {"mpp": 0.25, "slide": "abc"}, "a.svs.wsiseg")


def test_another_run_is_refused_with_what_differs() -> None:
    there = {"slide": "abc", "mpp": 0.25, "gone": 1, "numerics": {"threads": 1}, "long": "x" * 99}
    now = {"slide": "abc", "mpp": 0.5, "new": 2, "numerics": {"threads": 2}, "long": "y" * 99}
    with pytest.raises(OutputExists) as caught:
        check_same_run(there, now, "a.svs.wsiseg")
    message = str(caught.value)
    for part in (
        "a.svs.wsiseg",
        "mpp: 0.25 there, 0.5 now",
        "gone: 1 there, null now",
        "new: null there, 2 now",
        "numerics.threads: 1 there, 2 now",
        "--overwrite",
    ):
        assert part in message
    assert "slide:" not in message
    assert re.search(r"long: x{57}… there, y{57}… now", message)
