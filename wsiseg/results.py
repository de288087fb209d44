"""Reading finished runs: cells, counts, densities, exports.

Everything streams from `cells.parquet`; nothing here imports torch or a slide reader.
"""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from wsiseg._run_record import read_run
from wsiseg.cell_table import (
    ALL_CLASSES,
    ClassCount,
    count_classes,
    count_squares,
    open_table,
    read_cells,
    stream_batches,
)
from wsiseg.densest import densest_squares
from wsiseg.errors import (
    OutputExists,
    OutputNotWritable,
    ResultNotReadable,
    UnknownName,
    UsageError,
)
from wsiseg.exporters import find_exporter
from wsiseg.geometry import Frame
from wsiseg.mixing import class_mixing
from wsiseg.within import shape_within, stats_within

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from wsiseg.regions import RoiOrigin


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A finished run; make it with `open_result`."""

    path: Path
    """The run's directory."""
    run: Mapping[str, Any]
    """`run.json` as it was written; not to be changed."""

    @property
    def name(self) -> str:
        """File name of the slide."""
        return str(self.run["slide"]["name"])

    @property
    def model_name(self) -> str:
        """Name of the model that made the run."""
        return str(self.run["model"]["name"])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the model's classes, in its order; empty if it has none."""
        return tuple(str(entry["name"]) for entry in self.run["classes"])

    @property
    def class_colours(self) -> dict[str, tuple[int, int, int]]:
        """Red, green, blue (0 to 255) of each class."""
        return {str(entry["name"]): _rgb(entry["rgb"]) for entry in self.run["classes"]}

    @property
    def mpp(self) -> float:
        """Micrometres per level-0 pixel of the slide."""
        return float(self.run["slide"]["mpp"])

    @property
    def frame(self) -> Frame:
        """The model frame: the resolution of the masks."""
        frame = self.run["frame"]
        return Frame(float(frame["scale"]), int(frame["width_px"]), int(frame["height_px"]))

    @property
    def bounds_origin_px(self) -> tuple[float, float]:
        """x, y of the slide's bounds in level-0 pixels: the origin QuPath uses."""
        x, y = self.run["slide"]["bounds"][:2]
        return float(x), float(y)

    @property
    def analysed_mm2(self) -> float:
        """Area that was analysed: tissue within the ROI, without unreadable tiles."""
        return float(self.run["analysed_mm2"])

    @property
    def no_density_reason(self) -> str | None:
        """Why there is no density; None if there is one."""
        if self.analysed_mm2 > 0:
            return None
        return str(self.run.get("no_density_reason") or "no area was analysed")

    @property
    def regions(self) -> tuple[Mapping[str, Any], ...]:
        """Regions of interest in the order of their file; empty if the whole slide was run.

        Each has `name`, `class`, `kind`, `missing`, `uuid` and `analysed_mm2`.
        """
        return tuple(self.run.get("regions", ()))

    @property
    def warnings(self) -> tuple[Mapping[str, str], ...]:
        """What the run warned about, each with `code` and `message`."""
        return tuple(self.run["warnings"])

    @property
    def cells_path(self) -> Path:
        """The cell table."""
        return self.path / "cells.parquet"

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Stream the cell table in the order of `cell_id`, some ten thousand rows at a time.

        Parameters
        ----------
        columns
            Names of the columns wanted; None for all.

        Raises
        ------
        ResultNotReadable
            If the table is missing or damaged.
        UnknownName
            If the table has no such column.
        """
        return stream_batches(self.cells_path, columns)

    def cells(
        self,
        classes: Sequence[str] | None = None,
        within: BaseGeometry | str | Path | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return the nuclei of some classes and of some region, one a row.

        Parameters
        ----------
        classes
            Names of the classes wanted; None for all nuclei, also those without a class.
        within
            Polygon or multipolygon in level-0 pixels, or a GeoJSON file from QuPath with one
            region or more.  A nucleus is taken if its centroid lies inside; exactly on the
            boundary is outside (the OGC's *within*).
        columns
            Names of the columns wanted, in that order; None for all.

        Returns
        -------
        pyarrow.Table
            In the order of `cell_id`; without rows if nothing fits.

        Raises
        ------
        UnknownName
            If the model has no such class or the table no such column.
        UsageError
            If `within` is no valid polygon, or a file that cannot be used.
        ResultNotReadable
            If the table is missing or damaged.
        """
        if isinstance(classes, str):
            classes = [classes]
        for name in classes or ():
            if name not in self.class_names:
                known = ", ".join(self.class_names) or "none (the model has no classes)"
                raise UnknownName(f"{self.name} has no class {name!r}; known: {known}")
        return read_cells(self.cells_path, classes, shape_within(within, self.run), columns)

    def summary(self) -> dict[str, Any]:
        """Count the nuclei of each class, and all of them.

        Returns
        -------
        dict
            `slide`, `model`, `analysed_mm2`, `no_density_reason`; `classes`: a dict for each
            class, also those without nuclei, and `total`: one for all nuclei.  Such a dict
            has `n`, `per_mm2` (None if nothing was analysed) and `median_area_um2` (None
            without nuclei).
        """
        *classes, total = count_classes(self.cells_path, self.class_names)
        return {
            "slide": self.name,
            "model": self.model_name,
            "analysed_mm2": self.analysed_mm2,
            "no_density_reason": self.no_density_reason,
            "classes": {
                count.class_name: class_numbers(count, self.analysed_mm2) for count in classes
            },
            "total": class_numbers(total, self.analysed_mm2),
        }

    def density(self, grid_um: float = 250) -> pa.Table:
        """Count the nuclei of each class in the squares of a grid.

        The grid starts at the slide's (0, 0); a square owns its left and top edges.  Only
        squares that hold a nucleus are listed, each with every class (zeros included) and
        `"(all)"`: an empty square may be empty or may not have been analysed.

        Parameters
        ----------
        grid_um
            Side of a square in micrometres, at least 1.

        Returns
        -------
        pyarrow.Table
            `x_um`, `y_um` (left, top edge), `class_name`, `n`, and `per_mm2`: n over the
            area of the whole square, so squares at the edge of the tissue read too low.

        Raises
        ------
        UsageError
            If `grid_um` is below 1 or not finite.
        """
        if not (math.isfinite(grid_um) and grid_um >= 1):
            raise UsageError(f"grid_um is {grid_um}; give the side of a square, at least 1 µm")
        names = (*self.class_names, ALL_CLASSES)
        found = count_squares(self.cells_path, self.class_names, grid_um)
        n = np.column_stack([found.n[:, 1:], found.n.sum(axis=1)]).ravel()
        rows, cols = found.square.T
        return pa.table(
            {
                "x_um": np.repeat(cols * float(grid_um), len(names)),
                "y_um": np.repeat(rows * float(grid_um), len(names)),
                "class_name": pa.array(list(names) * len(found.square), pa.string()),
                "n": n,
                "per_mm2": n / (grid_um / 1000) ** 2,
            }
        )

    def densest(self, mm2: float = 1.0, classes: Sequence[str] | None = None) -> pa.Table:
        """Find the square of some area with the most nuclei; see `wsiseg.densest_squares`."""
        return densest_squares(self, mm2, classes)

    def mixing(self) -> pa.Table:
        """Count which classes are nearest neighbours; see `wsiseg.class_mixing`."""
        return class_mixing(self)

    def stats_within(self, regions: str | Path, roi_origin: RoiOrigin = "auto") -> pa.Table:
        """Count nuclei in regions drawn in QuPath; see `wsiseg.stats_within`."""
        return stats_within(self, regions, roi_origin)

    def export(self, format: str, destination: str | Path, **options: Any) -> Path:  # noqa: A002
        """Write the result in another format.

        Parameters
        ----------
        format
            Name of a plug-in of the group `wsiseg.exporters`, such as `"geojson"`.
        destination
            File or folder to make; it must not exist, its parent folder must.
        **options
            Passed to the exporter.

        Returns
        -------
        Path
            What was written; of several parts the first (`wsiseg.export_runs` gives all).

        Raises
        ------
        UnknownName
            If there is no such format; the message lists the known ones.
        OutputExists
            If the destination exists.
        OutputNotWritable
            If its parent folder is missing.
        """
        exporter = find_exporter(format)
        target = Path(destination)
        if os.path.lexists(target):
            raise OutputExists(f"{target} exists; give another destination or remove it first")
        if not target.parent.is_dir():
            raise OutputNotWritable(f"{target.parent} is not a folder; make it first")
        written = exporter(self, target, **options)
        return written[0] if written else target


def open_result(path: str | Path) -> Result:
    """Open a finished run.

    Parameters
    ----------
    path
        A `*.wsiseg` directory.

    Raises
    ------
    ResultNotReadable
        If it is missing, unfinished, damaged or written by a newer version.
    """
    folder = Path(path)
    if not folder.is_dir():
        found = "is not a folder" if folder.exists() else "does not exist"
        raise ResultNotReadable(f"{folder} {found}; a run's *.wsiseg folder is needed")
    run = read_run(folder)
    result = Result(folder, run)
    with open_table(result.cells_path) as table:
        n_rows = table.metadata.num_rows
    if n_rows != run["n_cells"]:
        raise ResultNotReadable(
            f"{folder} is damaged: cells.parquet has {n_rows} rows, run.json says "
            f"{run['n_cells']}; segment the slide again with --overwrite"
        )
    return result


def finished_record(path: Path) -> Mapping[str, Any]:
    """Return what the `run.json` of a finished run holds, without a look at its table.

    Raises
    ------
    ResultNotReadable
        If it is missing, unfinished, damaged or written by a newer version.
    """
    return read_run(path)


def find_results(path_or_glob: str | Path | Sequence[str | Path]) -> list[Path]:
    """Find runs: given themselves, in folders (at any depth), or by globs.

    Parameters
    ----------
    path_or_glob
        A run, a folder of runs, a glob (`**` for any depth), or several of them.

    Returns
    -------
    list of Path
        Sorted, each run once; unfinished ones too.

    Raises
    ------
    ResultNotReadable
        If one of them leads to no run.
    """
    given = [path_or_glob] if isinstance(path_or_glob, (str, Path)) else list(path_or_glob)
    if not given:
        raise ResultNotReadable("no path was given; give a run, a folder of runs, or a glob")
    found: dict[Path, Path] = {}
    for pattern in given:
        runs = [run for start in _starts(pattern) for run in _runs_below(start)]
        if not runs:
            raise ResultNotReadable(
                f"no run (*.wsiseg folder) at {pattern}; give a run, a folder of runs, or a glob"
            )
        for run in runs:
            found.setdefault(run.resolve(), run)
    return sorted(found.values())


def class_numbers(count: ClassCount, area_mm2: float) -> dict[str, float | None]:
    """Return a class's count, density (None where nothing was analysed) and median size."""
    return {
        "n": count.n,
        "per_mm2": count.n / area_mm2 if area_mm2 > 0 else None,
        "median_area_um2": count.median_area_um2,
    }


def _rgb(values: Sequence[int]) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in values)
    return red, green, blue


def _starts(pattern: str | Path) -> list[Path]:
    """Return the existing path, or what matches the glob; names may hold brackets."""
    if Path(pattern).exists():
        return [Path(pattern)]
    return [Path(match) for match in glob.glob(str(pattern), recursive=True)]  # noqa: PTH207


def _runs_below(start: Path) -> Iterator[Path]:
    """Yield the runs in a folder; never looks into a run, which may hold many files."""
    if _is_run(start):
        yield start
        return
    for folder, names, _ in os.walk(start):
        for name in list(names):
            if _is_run(Path(folder, name)):
                names.remove(name)
                yield Path(folder, name)


def _is_run(path: Path) -> bool:
    return path.is_dir() and (path.suffix == ".wsiseg" or (path / "run.json").is_file())
