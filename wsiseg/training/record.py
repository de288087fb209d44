"""What decides a training, on disk: so that only the same one goes on from its checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsiseg.errors import OutputExists
from wsiseg.labels.records import LabelSet
from wsiseg.listing import TRAINING_RECORD
from wsiseg.rundir import differing, read_run_json, write_json

RECORD_FORMAT_VERSION = 1
"""Format of `training.json`."""


def sets_identity(sets: Sequence[LabelSet]) -> dict[str, dict[str, Any]]:
    """Return, by name, what of each set decides a training: its place among them too."""
    return {
        each.name: {
            "place": place,
            "weight": each.weight,
            "images": len(each.images),
            "pixels": _hash_of(each),
        }
        for place, each in enumerate(sets)
    }


def _hash_of(each: LabelSet) -> str:
    found = hashlib.blake2b(digest_size=16)
    for image in each.images:
        found.update(f"{image.name}\0{image.patient}\0{image.mpp:.6g}\0".encode())
        for part in (image.rgb, image.instances, image.classes, image.ignored):
            if part is not None:
                found.update(f"{part.shape}{part.dtype}".encode())
                found.update(np.ascontiguousarray(part).data)
    return found.hexdigest()


def begun_training(folder: Path) -> dict[str, Any] | None:
    """Return the record of the training in a folder; None if there is none.

    Raises
    ------
    OutputExists
        If what is there has no record, or one that is damaged or of a newer format.
    """
    path = folder / TRAINING_RECORD
    record = read_run_json(path)
    if record is None:
        if (folder / "checkpoint.pt").exists() or path.exists():
            raise OutputExists(
                f"{folder.name} holds a checkpoint, but no readable training.json says of which "
                "training; choose another folder"
            )
        return None
    version = record.get("format_version")
    if record.get("format") != "wsiseg-training" or version != RECORD_FORMAT_VERSION:
        raise OutputExists(
            f"{folder.name}/training.json is of format {record.get('format')} {version}; this "
            f"wsiseg goes on with wsiseg-training {RECORD_FORMAT_VERSION}: choose another folder"
        )
    if not all(isinstance(record.get(part), dict) for part in ("identity", "settled")):
        raise OutputExists(
            f"{folder.name}/training.json is damaged, so that nothing says of which training this "
            "is; choose another folder"
        )
    return record


def write_record(folder: Path, identity: Mapping[str, Any], settled: Mapping[str, Any]) -> None:
    """Write `training.json`.

    Parameters
    ----------
    folder : Path
        Of the training; exists.
    identity : mapping
        What was asked for; must be the same to go on.
    settled : mapping
        What was measured or chosen at the beginning, and holds from then on.
    """
    write_json(
        folder / TRAINING_RECORD,
        {
            "format": "wsiseg-training",
            "format_version": RECORD_FORMAT_VERSION,
            "identity": identity,
            "settled": settled,
        },
    )


def check_same_training(
    found: Mapping[str, Any], wanted: Mapping[str, Any], name: str, resume: bool
) -> None:
    """Refuse to go on with another training, or without being asked to.

    Raises
    ------
    OutputExists
        Names what differs.
    """
    if found != wanted:
        raise OutputExists(
            f"{name} holds another training ({', '.join(differing('', found, wanted))}); choose "
            "another folder, or give the same images and options to go on"
        )
    if not resume:
        raise OutputExists(
            f"{name} holds this training already; go on with it by --resume, or choose another "
            "folder"
        )
