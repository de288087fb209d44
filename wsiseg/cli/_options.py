"""Options of the command line: their types and what `--help` says of them."""

from __future__ import annotations

import csv
import enum
from pathlib import Path
from typing import Annotated

import typer

from wsiseg.errors import UsageError


class RoiOriginName(enum.StrEnum):
    """What coordinates in GeoJSON files are relative to."""

    auto = "auto"
    bounds = "bounds"
    slide = "slide"


SlidesArgument = Annotated[
    list[Path], typer.Argument(help="Slides, images, folders of them, or CSV files that list them.")
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
ModelOption = Annotated[
    str, typer.Option(help="auto (nearest in µm per pixel), a shipped model's name, or a folder.")
]
MppOption = Annotated[float | None, typer.Option(help="µm per pixel, if the file lacks it.")]
OverrideOption = Annotated[float | None, typer.Option(help="µm per pixel, against the file.")]
FromObjective = Annotated[
    bool, typer.Option("--mpp-from-objective", help="10x/20x/40x as 1/0.5/0.25 µm per pixel.")
]
ForceScale = Annotated[bool, typer.Option("--force-scale", help="Enlarge beyond 3 times.")]
TissueOption = Annotated[
    str, typer.Option(help="auto: find it; none: everything counts; or a GeoJSON file.")
]
RoiOption = Annotated[
    Path | None, typer.Option(help="GeoJSON from QuPath: only nuclei in these regions count.")
]
RoiOriginOption = Annotated[
    RoiOriginName,
    typer.Option(help="What coordinates in GeoJSON files are relative to; QuPath: bounds."),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Take warnings for failures, before the long part.")
]
PartOption = Annotated[
    str | None,
    typer.Option(
        help="I/N: only that part of the slides; auto: what the job array says (a task that is "
        "submitted again alone counts as all: write I/N)."
    ),
]
SkipBadTiles = Annotated[
    bool, typer.Option("--skip-bad-tiles", help="Leave out tiles that cannot be read.")
]
MeasureOption = Annotated[
    str,
    typer.Option(
        help="What goes into features.parquet: neighbours, ring, texture, probabilities "
        "(separated by commas), all or none."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would run, how long, how large; write nothing.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda (all GPUs) or cuda:0,1.")]
PrecisionOption = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16; else the model card's.")
]
BatchOption = Annotated[int | None, typer.Option(help="Tiles per call of the network.")]
TtaOption = Annotated[
    str,
    typer.Option(
        help="Test-time augmentation: none, flips (4 times the time) or flips+turns (8 times)."
    ),
]
LicenceOption = Annotated[
    str | None,
    typer.Option(
        help="Refuse models whose licence is not: commercial, permissive, or SPDX identifiers "
        "(separated by commas)."
    ),
]
WorkersOption = Annotated[int | None, typer.Option(help="Start that many Dask processes.")]
MemoryOption = Annotated[
    float | None,
    typer.Option("--memory-gb", help="Memory of a run on a CPU (4), or of each of --workers."),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(help="A Dask cluster: tcp://HOST:PORT, or FILE.yaml that describes a queue."),
]
FormatOption = Annotated[str, typer.Option("--format", help="Exports, separated by commas.")]
ReaderOption = Annotated[str | None, typer.Option(help="openslide, tiffslide or image.")]
RunsArgument = Annotated[list[Path], typer.Argument(help="Runs, folders of runs, or globs.")]
ClassesFromOption = Annotated[
    str | None,
    typer.Option(
        "--classes-from",
        help="Take the classes of this version (wsiseg classify), not the model's.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete existing results first.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Only errors and the final table.")]


NAMES = "separated by commas; one with a comma in double quotes: '\"Tumor, NOS\",Stroma'."
"""End of the help of options that take names; see `names_in`."""


def names_in(text: str | None) -> tuple[str, ...] | None:
    """Return the parts of a list separated by commas; None if there is no list.

    A name that holds a comma stands in double quotes, a double quote within it twice, as in CSV.

    Raises
    ------
    UsageError
        If there is a line break outside of quotes.
    """
    if text is None:
        return None
    try:
        parts = next(csv.reader([text], skipinitialspace=True), [])
    except csv.Error as error:
        raise UsageError(
            f"{text!r} is no list of names ({error}); part names by commas, and put a name with a "
            "comma or a line break in double quotes: '\"Tumor, NOS\",Stroma'"
        ) from error
    return tuple(name.strip() for name in parts if name.strip())
