"""The run directory: tile files, `run.json`, and what is already done.

Every file appears by rename.  A tile file carries its format, the key of the run it belongs
to, and a checksum; one that does not match is as good as absent.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from wsiseg.errors import OutputExists, OutputNotWritable
from wsiseg.geometry import Box
from wsiseg.records import Instances, Tile
from wsiseg.stitch import TileInstances

RUN_FORMAT_VERSION = 1
"""Format of `run.json` and of the run directory."""
RESULT_VERSION = 4
"""Raised whenever the same slide and model would give other cells, or other numbers of them."""
TILE_FORMAT_VERSION = 2
"""Format of tile files."""

_ARRAYS = (
    "first_run",
    "area_px",
    "row_sum",
    "col_sum",
    "class_index",
    "class_prob",
    "nucleus_prob",
    "cut",
    "measured",
)


def canonical_hash(values: Mapping[str, Any]) -> str:
    """Return the sha256 of a mapping's canonical JSON."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


_TEMPORARY = re.compile(r"\..+\.(?P<where>[0-9a-f]{8})-(?P<process>\d{1,9})-[0-9a-f]{8}\.tmp")


def temporary_beside(path: Path) -> Path:
    """Return a hidden path beside one, for what gets its name when it is whole.

    It is that of no other call, and tells which process made it.
    """
    mark = f"{where_processes_run()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name}.{mark}.tmp")


_in_use: set[str] = set()
"""Names of temporary paths that calls in this process are at work on."""


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Give a path of `temporary_beside`; until the block ends, no call here clears it away."""
    found = temporary_beside(path)
    _in_use.add(found.name)
    try:
        yield found
    finally:
        _in_use.discard(found.name)


def is_temporary(path: Path) -> bool:
    """Return whether a path is named as a temporary one, of whichever version."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def is_left_behind(path: Path) -> bool:
    """Return whether a path is temporary and nobody is at work on it any more.

    Of a process on another machine, or before this one was started again, nothing is sure.
    """
    process = _process_here(path)
    return process is not None and not _is_at_work(process, path)


def is_running(path: Path) -> bool:
    """Return whether a path is temporary and its process, on this machine, may be at work on it."""
    process = _process_here(path)
    return process is not None and _is_at_work(process, path)


def _process_here(path: Path) -> int | None:
    """Return the process that made a temporary path, None if it ran elsewhere."""
    found = _TEMPORARY.fullmatch(path.name)
    if found is None or found["where"] != where_processes_run():
        return None
    return int(found["process"])


def _is_at_work(process: int, path: Path) -> bool:
    return path.name in _in_use if process == os.getpid() else is_alive(process)


def is_alive(process: int) -> bool:
    """Return whether there may be a process of that id here."""
    if os.name != "posix":  # elsewhere to ask is to end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # Another user's.
        return True
    return True


@functools.cache
def where_processes_run() -> str:
    """Return eight hex digits: where they are equal, equal process ids are one process."""
    parts = [platform.node()]
    # Machines may share a name, and containers on one machine have process ids of their own.
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=4).hexdigest()


def clear_away(path: Path) -> None:
    """Delete a file or folder as far as possible; at once nothing has its name any more."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            # Whoever still writes there fails, and does not fill a folder that lost its first half.
            aside = temporary_beside(path.with_name(path.name.strip(".")[:40]))
            with contextlib.suppress(OSError):
                path.rename(aside)
            shutil.rmtree(aside if aside.exists() else path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync_directory(folder: Path) -> None:
    """Make the names in a folder safe from a power failure."""
    if os.name != "posix":  # other systems cannot open a directory
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole or not there.

    Its content is safe from a power failure; that its name is, `sync_directory` sees to.

    Raises
    ------
    OutputNotWritable
        If the disk is full or the folder read-only; nothing is left behind.
    """
    with temporary(path) as partial:
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            # Where nothing could be made (no folder, read-only disk) nothing can be removed.
            with contextlib.suppress(OSError):
                partial.unlink()
            raise OutputNotWritable(
                f"cannot write {path.name} ({error.strerror}); free some space or choose another "
                "output folder, then call the same command again"
            ) from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_atomically(path, json_bytes(values))


def json_bytes(values: Mapping[str, Any]) -> bytes:
    """Return the content of a JSON file."""
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
    # A file name may hold bytes that are no text.
    return (text + "\n").encode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths of one slide's results."""

    path: Path
    """`OUT/<name>.wsiseg`."""

    @property
    def run_json(self) -> Path:
        """The record of the run."""
        return self.path / "run.json"

    @property
    def work(self) -> Path:
        """Tile files and spools; removed when the run is done."""
        return self.path / "work"

    def tile_file(self, tile: Tile) -> Path:
        """Return the path of a tile's file."""
        return self.work / f"tile_{tile.row:05d}_{tile.col:05d}.safetensors"


def refuse_unwritable(out: Path) -> None:
    """Raise OutputNotWritable if a folder, or the next one above that exists, is of no use."""
    folder = out.absolute()
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputNotWritable(
            f"cannot write in {folder.name or folder} ({error.strerror}); choose a folder you may "
            "write to"
        ) from error


def read_run_json(path: Path) -> dict[str, Any] | None:
    """Return what a `run.json` says, None if there is none or it is damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise OutputNotWritable(
            f"{path.parent.name} cannot be read ({error.strerror}); check who owns it, or choose "
            "another output folder"
        ) from error
    return values if isinstance(values, dict) else None


def unreadable_tiles(run: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return what `run.json` says of the tiles that were left out."""
    return tuple(run.get("tiles", {}).get("unreadable", ()))


def check_same_run(found: Mapping[str, Any], wanted: Mapping[str, Any], name: str) -> None:
    """Raise OutputExists unless an existing run has the same identity.

    Parameters
    ----------
    found, wanted : mapping
        The `identity` of the run on disk and of the one asked for.
    name : str
        Name of the run directory.
    """
    if found == wanted:
        return
    said = ", ".join(differing("", found, wanted))
    raise OutputExists(
        f"{name} holds another run ({said}); choose another output folder, or "
        "use --overwrite to delete it"
    )


def differing(name: str, there: Any, now: Any) -> Iterator[str]:
    """Yield what differs, under dotted names, as far down as both sides have names.

    What stands on one side alone, where that has all the other has, is `none` on the other.

    Parameters
    ----------
    name : str
        Of the two, for their parts; empty at the top.
    there, now : any
        Plain JSON values on disk and asked for.
    """
    if isinstance(there, Mapping) and isinstance(now, Mapping) and there.keys() == now.keys():
        for key in sorted(there):
            yield from differing(f"{name}.{key}" if name else key, there[key], now[key])
    elif not name and isinstance(there, Mapping) and isinstance(now, Mapping):
        for key in sorted({*there, *now}):
            yield from differing(key, there.get(key), now.get(key))
    elif isinstance(there, Mapping) and isinstance(now, Mapping) and _is_longer(there, now):
        for key in sorted({*there, *now}):
            yield from differing(f"{name}.{key}", there.get(key, "none"), now.get(key, "none"))
    elif there != now:
        yield f"{name or 'identity'}: {_short(there)} there, {_short(now)} now"


def _is_longer(there: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether one side, which is not empty, has all names of the other and more."""
    return bool(there and now) and (there.keys() < now.keys() or there.keys() > now.keys())


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(value))}}}" if len(value) < 4 else "other settings"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else f"{text[:57]}…"


def write_tile_file(
    path: Path, run_key: str, found: TileInstances, report: Mapping[str, Any]
) -> None:
    """Write what one tile hands over.

    Parameters
    ----------
    path : Path
        Target; its folder exists.
    run_key : str
        Identity of the run.
    found : TileInstances
        In slide-wide model pixels.
    report : mapping
        The tile's row in `tiles.parquet`, plain JSON values.
    """
    instances, tile = found.instances, found.tile
    # Relative to the outer box two bytes are enough, and files are half as large.
    runs = instances.runs - _origin(tile)
    tensors = {name: getattr(instances, name) for name in _ARRAYS}
    tensors |= {"runs": runs.astype(np.int16), "spare": found.spare}
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    text = json.dumps(report, sort_keys=True)
    metadata = {
        "format_version": str(TILE_FORMAT_VERSION),
        "run_key": run_key,
        "report": text,
        "checksum": _checksum(tensors, text),
    }
    write_atomically(path, save(tensors, metadata))


def read_tile_report(path: Path, run_key: str) -> dict[str, Any] | None:
    """Return a tile file's report, None unless the file is whole and of this run."""
    read = _read_checked(path, run_key)
    return None if read is None else dict(json.loads(read[1]["report"]))


def read_finished_report(path: Path, run_key: str) -> dict[str, Any] | None:
    """Return the report of a tile that needs not run again, None of every other.

    A tile that was left out is tried again: the disk may have been to blame.
    """
    report = read_tile_report(path, run_key)
    return None if report is None or "unreadable" in report else report


def read_tile_file(path: Path, run_key: str, tile: Tile) -> TileInstances | None:
    """Return what a tile handed over, None unless the file is whole and of this run."""
    read = _read_checked(path, run_key)
    if read is None:
        return None
    tensors, _ = read
    runs = tensors["runs"].astype(np.int32) + _origin(tile)
    instances = Instances(runs=runs, **{name: tensors[name] for name in _ARRAYS})
    return TileInstances(tile, instances, tensors["spare"])


def _read_checked(
    path: Path, run_key: str
) -> tuple[dict[str, NDArray[Any]], dict[str, str]] | None:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            if metadata.get("format_version") != str(TILE_FORMAT_VERSION):
                return None
            if metadata.get("run_key") != run_key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (FileNotFoundError, SafetensorError):
        return None
    except OSError as error:
        raise OutputNotWritable(
            f"{path.name} cannot be read ({error.strerror}); check who owns it, or choose another "
            "output folder"
        ) from error
    whole = metadata.get("checksum") == _checksum(tensors, metadata.get("report", ""))
    return (tensors, metadata) if whole else None


def _checksum(tensors: Mapping[str, NDArray[Any]], text: str) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _origin(tile: Tile) -> NDArray[np.int32]:
    box: Box = tile.outer
    return np.array([box.y_px, box.x_px, box.x_px], np.int32)
