"""The files of an evaluation; others of their names are left alone."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import OutputNotWritable
from wsiseg.evaluation.drawings import draw_pair
from wsiseg.evaluation.evaluation import FORMAT, Evaluation
from wsiseg.evaluation.records import ScoredPair
from wsiseg.reports._places import check_replaceable
from wsiseg.reports.evaluation_page import Extreme, evaluation_page
from wsiseg.rundir import json_bytes, write_atomically

JSON, CSV, HTML = "evaluation.json", "evaluation.csv", "evaluation.html"
_CSV_BEGINS = b"name,patient,organ,n_truth,n_found,"
_DRAWN = 3
"""Best images, and as many worst ones."""


def check_files(folder: Path) -> None:
    """Raise OutputNotWritable if a file is in the way that is not of an evaluation."""
    check_replaceable(folder / HTML)
    ours = {JSON: _is_our_json, CSV: _is_our_csv}
    for name, is_ours in ours.items():
        path = folder / name
        if not path.exists():
            continue
        with suppress(OSError, ValueError, AttributeError):
            if is_ours(path.read_bytes()):
                continue
        raise OutputNotWritable(
            f"{path} is there and of no evaluation by wsiseg; move it, or name another folder "
            "with --to"
        )


def make_folder(folder: Path) -> None:
    """Make the folder of the files, before hours of work that they are to hold.

    Raises
    ------
    OutputNotWritable
        If nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputNotWritable(
            f"cannot write to the folder {folder} ({error.strerror}); name another one with --to"
        ) from error


def _is_our_json(content: bytes) -> bool:
    return bool(json.loads(content).get("format") == FORMAT)


def _is_our_csv(content: bytes) -> bool:
    return content.startswith(_CSV_BEGINS)


def write_files(
    evaluation: Evaluation,
    pairs: Sequence[ScoredPair],
    pictures: Mapping[str, NDArray[np.uint8]],
    folder: Path,
) -> None:
    """Write `evaluation.json`, `evaluation.csv` and `evaluation.html`.

    Parameters
    ----------
    evaluation : Evaluation
        What it says.
    pairs : sequence of ScoredPair
        The images, in the order of `evaluation.scores.images`.
    pictures : mapping of str to ndarray
        Each image's picture, (h, w, 3) uint8.
    folder : Path
        As `make_folder` made it.

    Raises
    ------
    OutputNotWritable
        If the disk is full or the folder read-only.
    """
    page = evaluation_page(evaluation, _extremes(evaluation, pairs, pictures))
    write_atomically(folder / JSON, json_bytes(evaluation.to_json()))
    write_atomically(folder / CSV, evaluation.to_csv().encode("utf-8"))
    write_atomically(folder / HTML, page.encode("utf-8", "replace"))


def _extremes(
    evaluation: Evaluation,
    pairs: Sequence[ScoredPair],
    pictures: Mapping[str, NDArray[np.uint8]],
) -> list[Extreme]:
    """Draw the images with the lowest and the highest PQ, the worst first."""
    scored = [
        (value, i)
        for i, image in enumerate(evaluation.scores.images)
        if (value := image.figures["pq"]) is not None
    ]
    ranked = [i for _, i in sorted(scored)]
    worst = ranked[: min(_DRAWN, (len(ranked) + 1) // 2)]
    best = ranked[::-1][: min(_DRAWN, len(ranked) // 2)]
    return [
        Extreme(kind, evaluation.scores.images[i], draw_pair(pairs[i], pictures[pairs[i].name]))
        for kind, chosen in (("worst", worst), ("best", best))
        for i in chosen
    ]
