"""One tile, from pixels to its file."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.calibration import calibrated
from wsiseg.decode import DecodeOptions, decode_instances, paint_instances
from wsiseg.errors import TileNotReadable
from wsiseg.features import class_means, measure_pixels
from wsiseg.geometry import Frame
from wsiseg.machine import peak_memory_mb
from wsiseg.models import MapsModel, ModelCard, Numerics, Predictor
from wsiseg.models.turned import averaged
from wsiseg.quality import TileQuality, measure_tile
from wsiseg.records import Instances, Maps, Tile
from wsiseg.rundir import RunDir, write_tile_file
from wsiseg.slides import Slide, read_frame
from wsiseg.slides.protocol import WHITE
from wsiseg.stitch import TileInstances, select_instances

TileReport = dict[str, Any]
"""One tile's row in `tiles.parquet`, without what the plan knows; plain JSON values.

That of a tile that was left out has `unreadable`, the reason, and no `quality`."""


@dataclass(frozen=True, slots=True)
class TileJob:
    """All that decides a tile's result, and where to put it.  It pickles."""

    slide: Slide
    """Reopens itself in another process."""
    model: MapsModel
    """Loaded once in each process."""
    numerics: Numerics
    """Equal in every process."""
    frame: Frame
    """The model frame."""
    model_mpp: float
    """µm per pixel of that frame."""
    decode: DecodeOptions
    """Fixed constants."""
    spare_px: int
    """How far outside its core a tile also hands over nuclei."""
    run_key: str
    """Identity of the run; stands in every tile file."""
    folder: Path
    """The run directory."""
    measure: tuple[str, ...] = ()
    """Groups of measurements that are made in the tile, besides the stain's."""
    skip_bad_tiles: bool = False
    """Leave out tiles that cannot be read, and say so in their report."""


@dataclass(frozen=True, slots=True, eq=False)
class ReadTile:
    """The pixels of a tile's outer box."""

    rgb: NDArray[np.uint8]
    """(h, w, 3); white if they could not be read."""
    seconds: float
    """What reading took."""
    damage: str | None = None
    """Why they could not be read."""


class TileProcessor:
    """A job loaded in this process: reads, predicts and finishes tiles.

    Its steps may be called from several threads.
    """

    def __init__(self, job: TileJob) -> None:
        self._job = job
        self._predictor: Predictor | None = None
        self._loading = threading.Lock()

    def read(self, tile: Tile) -> ReadTile:
        """Read a tile's outer box.

        Raises
        ------
        TileNotReadable
            If the slide is damaged there, unless the job leaves such tiles out.
        """
        start = time.perf_counter()
        damage = None
        try:
            rgb = read_frame(self._job.slide, self._job.frame, tile.outer)
        except TileNotReadable as error:
            if not self._job.skip_bad_tiles:
                raise
            damage = str(error)
            rgb = np.full((tile.outer.height_px, tile.outer.width_px, 3), WHITE, np.uint8)
        return ReadTile(rgb, time.perf_counter() - start, damage)

    def predict(self, blocks: Sequence[NDArray[np.uint8]]) -> tuple[list[Maps], float]:
        """Return the maps of up to a batch of blocks, and the seconds each took.

        A short batch is filled up with white: a network may choose its arithmetic by batch
        size, and a tile's result must not depend on how many tiles were left.
        """
        predictor = self._load()
        start = time.perf_counter()
        missing = self._job.numerics.batch_size - len(blocks)
        white = [np.full_like(blocks[0], WHITE)] * missing
        maps = predictor(np.stack([*blocks, *white]))
        return list(maps[: len(blocks)]), (time.perf_counter() - start) / len(blocks)

    def finish(self, tile: Tile, read: ReadTile, maps: Maps, predict_seconds: float) -> TileReport:
        """Decode a tile's maps, measure its quality, write its file, and report."""
        job = self._job
        if read.damage is not None:
            return skip_tile(job, tile, read.damage)
        start = time.perf_counter()
        quality = tile_quality(read.rgb, tile, job.frame, job.model_mpp)
        seconds = {"read": read.seconds, "predict": predict_seconds}
        seconds["quality"] = time.perf_counter() - start
        start = time.perf_counter()
        maps = _blank_outside(maps, tile, job.frame)
        instances = decode_instances(maps, job.decode)
        found = select_instances(instances, tile, job.spare_px)
        seconds["decode"] = time.perf_counter() - start
        start = time.perf_counter()
        found = _measured(found, instances, read.rgb, maps, job)
        seconds["measure"] = time.perf_counter() - start
        own = ~found.spare
        # What the network says, for limits that are the same for all models.
        confidence = found.instances.nucleus_prob[own]
        areas = found.instances.area_px[own]
        report: TileReport = {
            "row": tile.row,
            "col": tile.col,
            "n_own": int(own.sum()),
            "n_cut": int(found.instances.cut[own].sum()),
            "mean_confidence": float(confidence.mean()) if len(confidence) else None,
            "median_area_px": float(np.median(areas)) if len(areas) else None,
            "quality": quality.to_json(),
            "seconds": seconds,
        }
        path = RunDir(job.folder).tile_file(tile)
        write_tile_file(path, job.run_key, _calibrated(found, maps, job.model.card), report)
        return report | {"process": os.getpid(), "peak_memory_mb": peak_memory_mb()}

    def run(self, tiles: Sequence[Tile]) -> list[TileReport]:
        """Do all steps for up to a batch of tiles, one after the other."""
        reads = [self.read(tile) for tile in tiles]
        maps, seconds = self.predict([read.rgb for read in reads])
        return [
            self.finish(tile, read, tile_maps, seconds)
            for tile, read, tile_maps in zip(tiles, reads, maps, strict=True)
        ]

    def _load(self) -> Predictor:
        with self._loading:
            if self._predictor is None:
                numerics = self._job.numerics
                self._predictor = averaged(self._job.model.predictor(numerics), numerics.tta)
        return self._predictor


def skip_tile(job: TileJob, tile: Tile, reason: str) -> TileReport:
    """Write the file of a tile that is left out, and report.

    Parameters
    ----------
    job : TileJob
        Of its run.
    tile : Tile
        The tile.
    reason : str
        Why, for people.
    """
    report: TileReport = {
        "row": tile.row,
        "col": tile.col,
        "n_own": 0,
        "n_cut": 0,
        "mean_confidence": None,
        "median_area_px": None,
        "unreadable": reason,
        "seconds": dict.fromkeys(("read", "predict", "quality", "decode", "measure"), 0.0),
    }
    nothing = TileInstances(tile, Instances.none(), np.empty(0, np.bool_))
    write_tile_file(RunDir(job.folder).tile_file(tile), job.run_key, nothing, report)
    return report


def tile_quality(rgb: NDArray[np.uint8], tile: Tile, frame: Frame, model_mpp: float) -> TileQuality:
    """Return the quality of what a tile answers for: its core, as far as there is slide.

    Parameters
    ----------
    rgb : ndarray, (h, w, 3), uint8
        Pixels of the tile's outer box.
    tile : Tile
        The tile.
    frame : Frame
        The model frame.
    model_mpp : float
        µm per pixel of it.
    """
    core = tile.core.intersection(frame.box)
    return measure_tile(np.ascontiguousarray(rgb[core.slices_in(tile.outer)]), model_mpp)


def _measured(
    found: TileInstances, all_of_tile: Instances, rgb: NDArray[np.uint8], maps: Maps, job: TileJob
) -> TileInstances:
    """Measure what a tile hands over; `all_of_tile` lie in its outer box's own pixels."""
    outer = found.tile.outer
    taken = paint_instances(all_of_tile, (outer.height_px, outer.width_px)) > 0
    outside = np.ones_like(taken)
    outside[outer.intersection(job.frame.box).slices_in(outer)] = False
    measured = measure_pixels(
        rgb,
        taken | outside,
        maps.classes,
        found.instances,
        (outer.y_px, outer.x_px),
        job.model_mpp,
        job.measure,
        job.model.card.calibration,
    )
    return replace(found, instances=replace(found.instances, measured=measured))


def _calibrated(found: TileInstances, maps: Maps, card: ModelCard) -> TileInstances:
    """Let probabilities mean what the model's card says, before they leave the tile."""
    if card.calibration is None:
        return found
    outer = found.tile.outer
    means = class_means(found.instances, maps.classes, (outer.y_px, outer.x_px))
    return replace(found, instances=calibrated(found.instances, means, card.calibration))


def _blank_outside(maps: Maps, tile: Tile, frame: Frame) -> Maps:
    """Take away what lies outside the slide: there is nothing, whatever a network says."""
    if tile.outer.intersection(frame.box) == tile.outer:
        return maps
    nucleus = np.zeros_like(maps.nucleus)
    inside = tile.outer.intersection(frame.box).slices_in(tile.outer)
    nucleus[inside] = maps.nucleus[inside]
    return replace(maps, nucleus=nucleus)
