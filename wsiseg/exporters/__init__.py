"""Formats in which a finished run can be given away; further ones plug in by entry point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import pyarrow as pa

from wsiseg.exporters.formats import check_installed
from wsiseg.plugins import load_plugin, plugin_names


class ExportableResult(Protocol):
    """What an exporter may ask of a finished run."""

    @property
    def path(self) -> Path:
        """The run's directory."""
        ...

    @property
    def name(self) -> str:
        """File name of the slide."""
        ...

    @property
    def run(self) -> Mapping[str, Any]:
        """How the run was made: what its `run.json` holds."""
        ...

    @property
    def mpp(self) -> float:
        """Micrometres per level-0 pixel."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; empty without classes."""
        ...

    @property
    def class_colours(self) -> Mapping[str, tuple[int, int, int]]:
        """Red, green, blue (0 to 255) of each class name."""
        ...

    @property
    def bounds_origin_px(self) -> tuple[float, float]:
        """(x, y) of the slide's bounds in level-0 pixels; (0, 0) where it has none."""
        ...

    @property
    def regions(self) -> Sequence[Mapping[str, Any]]:
        """The regions, each with its `name`; `region_ids` of the cell table count in it."""
        ...

    @property
    def column_names(self) -> tuple[str, ...]:
        """Columns of the cell table; older runs lack some."""
        ...

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Measurements beside the cell table, which `batches` takes by name."""
        ...

    @property
    def classes_version(self) -> str | None:
        """Name of the version of the classes that is read; None: the model's own."""
        ...

    @property
    def analysed_mm2(self) -> float:
        """Area that was analysed."""
        ...

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Give the cell table piece by piece, in the order of the ids; None: all columns."""
        ...

    def summary(self) -> dict[str, Any]:
        """Give counts, densities and median sizes, of each class and in all."""
        ...


class ExporterProtocol(Protocol):
    """Writes one format."""

    def __call__(
        self, result: ExportableResult, destination: Path, **options: Any
    ) -> list[Path] | None:
        """Write `result` to `destination`, which appears only when it is complete.

        Returns what was written, None for `destination` alone; the options are its own.

        Raises
        ------
        OutputExists
            If something is at `destination` already.
        OutputNotWritable
            If it cannot be written.
        """
        ...


def exporter_names() -> list[str]:
    """Return the sorted names of the formats known; imports none of them."""
    return plugin_names("wsiseg.exporters")


def find_exporter(exporter: str | ExporterProtocol) -> ExporterProtocol:
    """Return the exporter of that name; an exporter given as an object is returned as it is.

    Raises
    ------
    UnknownName
        If no format, or more than one plug-in, has that name.
    MissingDependency
        If the format needs a package that is not installed.
    """
    if isinstance(exporter, str):
        check_installed(exporter)
        return cast(ExporterProtocol, load_plugin("wsiseg.exporters", exporter))
    return exporter
