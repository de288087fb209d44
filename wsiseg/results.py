"""Reading finished runs: cells, counts, densities, exports.

Everything streams from `cells.parquet`; nothing here imports torch or a slide reader.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from wsiseg._run_record import read_run
from wsiseg._run_search import find_results
from wsiseg.answers.densest import densest_squares
from wsiseg.answers.mixing import class_mixing
from wsiseg.cell_table import (
    ALL_CLASSES,
    CellFiles,
    ClassCount,
    column_names,
    count_classes,
    count_squares,
    feature_names,
    open_table,
    read_cells,
    stream_batches,
)
from wsiseg.classes.versions import ClassVersion, read_class_version, version_names
from wsiseg.errors import (
    OutputExists,
    OutputNotWritable,
    ResultNotReadable,
    UnknownName,
    UsageError,
)
from wsiseg.exporters import find_exporter
from wsiseg.geometry import Frame

__all__ = ["Result", "class_numbers", "find_results", "finished_record", "open_result"]

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A finished run; make it with `open_result`."""

    path: Path
    """The run's directory."""
    run: Mapping[str, Any]
    """`run.json` as it was written; not to be changed."""
    version: ClassVersion | None = None
    """The version of the classes that is read; None: the model's own."""

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
        """Names of the classes, the model's or the version's, in order; empty without any."""
        return tuple(str(entry["name"]) for entry in self._classes)

    @property
    def class_colours(self) -> dict[str, tuple[int, int, int]]:
        """Red, green, blue (0 to 255) of each class."""
        return {str(entry["name"]): _rgb(entry["rgb"]) for entry in self._classes}

    @property
    def classes_version(self) -> str | None:
        """Name of the version of the classes that is read; None: the model's own."""
        return None if self.version is None else self.version.name

    @property
    def class_versions(self) -> tuple[str, ...]:
        """Names of the versions of the classes that `with_classes` takes, sorted."""
        return version_names(self.path)

    @property
    def _classes(self) -> Sequence[Mapping[str, Any]]:
        classes: Sequence[Mapping[str, Any]] = self.run["classes"]
        return classes if self.version is None else self.version.classes

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
        """The cell table, with the model's own classes; see `cell_files`."""
        return self.path / "cells.parquet"

    @property
    def cell_files(self) -> CellFiles:
        """Where the cells are, with the classes of the version that is read."""
        return CellFiles(self.cells_path, None if self.version is None else self.version.path)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Columns of the cell table; older runs lack some."""
        return column_names(self.cell_files)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Measurements that `cells` and `batches` take by name too; older runs have none."""
        return feature_names(self.cell_files)

    def with_classes(self, name: str | None) -> Result:
        """Return the same run with the classes of a version; see `wsiseg.classify`.

        Parameters
        ----------
        name
            One of `class_versions`; None for the model's own classes.

        Raises
        ------
        UnknownName
            If the run has no such version.
        ResultNotReadable
            If it is damaged, of a newer format, or of another cell table.
        """
        version = None if name is None else read_class_version(self.path, name)
        return Result(self.path, self.run, version)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Stream the cell table in the order of `cell_id`, some ten thousand rows at a time.

        Parameters
        ----------
        columns
            Names of the columns wanted, also of `feature_names`; None for all of the cell table.

        Raises
        ------
        ResultNotReadable
            If a table is missing or damaged.
        UnknownName
            If the run has no such column.
        """
        return stream_batches(self.cell_files, columns)

    def cells(
        self,
        classes: Sequence[str] | None = None,
        within: BaseGeometry | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return the nuclei of some classes and of some region, one a row.

        Parameters
        ----------
        classes
            Names of the classes wanted; None for all nuclei, also those without a class.
        within
            Polygon or multipolygon in level-0 pixels; `wsiseg.region_shape` reads one from
            QuPath.  A nucleus is taken if its centroid lies inside; exactly on the boundary is
            outside (the OGC's *within*).
        columns
            Names of the columns wanted, in that order, also of `feature_names`; None for all
            of the cell table.

        Returns
        -------
        pyarrow.Table
            In the order of `cell_id`; without rows if nothing fits.

        Raises
        ------
        UnknownName
            If there is no such class or column.
        UsageError
            If `within` is no valid polygon.
        ResultNotReadable
            If the table is missing or damaged.
        """
        if isinstance(classes, str):
            classes = [classes]
        for name in classes or ():
            if name not in self.class_names:
                known = ", ".join(self.class_names) or "none (the model has no classes)"
                raise UnknownName(f"{self.name} has no class {name!r}; known: {known}")
        return read_cells(self.cell_files, classes, within, columns)

    def summary(self) -> dict[str, Any]:
        """Count the nuclei of each class, and all of them.

        Returns
        -------
        dict
            `slide`, `model`, `classes_version` (None: the model's own classes), `analysed_mm2`,
            `no_density_reason`; `classes`: a dict for each class, also those without nuclei, and
            `total`: one for all nuclei.  Such a dict has `n`, `per_mm2` (None if nothing was
            analysed) and `median_area_um2` (None without nuclei).
        """
        *classes, total = count_classes(self.cell_files, self.class_names)
        return {
            "slide": self.name,
            "model": self.model_name,
            "classes_version": self.classes_version,
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
        found = count_squares(self.cell_files, self.class_names, grid_um)
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


def open_result(path: str | Path, classes: str | None = None) -> Result:
    """Open a finished run.

    Parameters
    ----------
    path
        A `*.wsiseg` directory.
    classes
        A version of its classes (see `wsiseg.classify`); None for the model's own.

    Raises
    ------
    ResultNotReadable
        If it is missing, unfinished, damaged or written by a newer version.
    UnknownName
        If the run has no such version of the classes.
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
    return result.with_classes(classes)


def finished_record(path: Path) -> Mapping[str, Any]:
    """Return what the `run.json` of a finished run holds, without a look at its table.

    Raises
    ------
    ResultNotReadable
        If it is missing, unfinished, damaged or written by a newer version.
    """
    return read_run(path)


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
