"""Where tiles run: in this process; others follow the same protocol."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from wsiseg.machine import RUN_GB, cpu_predictors
from wsiseg.models import Numerics
from wsiseg.models.loaded import LoadedOnce
from wsiseg.predict import ReadTile, TileJob, TileProcessor, TileReport
from wsiseg.records import Maps, Tile


class TileRunner(Protocol):
    """Runs tiles somewhere and yields their reports as they finish."""

    def __call__(self, job: TileJob, tiles: Sequence[Tile]) -> Iterator[TileReport]:
        """Run the tiles; their files are written when their reports come."""
        ...


@dataclass(frozen=True, slots=True)
class RunHere:
    """Run tiles in this process: readers, predictors and decoders overlap."""

    predictors: int = 1
    """Calls of the network at the same time."""

    def __call__(self, job: TileJob, tiles: Sequence[Tile]) -> Iterator[TileReport]:
        """Yield reports in the order of the tiles."""
        processor = TileProcessor(job)
        readers = ThreadPoolExecutor(self.predictors, "wsiseg-read")
        predictors = ThreadPoolExecutor(self.predictors, "wsiseg-predict")
        decoders = ThreadPoolExecutor(self.predictors, "wsiseg-decode")
        waiting: deque[Future[TileReport]] = deque()
        most = (self.predictors + 1) * job.numerics.batch_size
        try:
            for batch in batches_of(tiles, job.numerics.batch_size):
                reads = [readers.submit(processor.read, tile) for tile in batch]
                maps = predictors.submit(_predict_when_read, processor, reads)
                for index, tile in enumerate(batch):
                    waiting.append(
                        decoders.submit(_finish_when_predicted, processor, tile, index, reads, maps)
                    )
                while len(waiting) > most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for pool in (decoders, predictors, readers):
                pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class RunInTurn:
    """Run tiles in the calling thread, one step after the other.

    For a whole slide in a worker process that owns one core: others run beside it.  All such
    runs of a process share the loaded model.
    """

    def __call__(self, job: TileJob, tiles: Sequence[Tile]) -> Iterator[TileReport]:
        """Yield reports in the order of the tiles."""
        processor = TileProcessor(replace(job, model=LoadedOnce(job.model)))
        for batch in batches_of(tiles, job.numerics.batch_size):
            yield from processor.run(batch)


def tiles_at_once(numerics: Numerics, memory_gb: float | None = None) -> int:
    """Return how many tiles to predict at the same time in one process.

    Parameters
    ----------
    numerics : Numerics
        How the network runs.
    memory_gb : float or None
        What a run on a CPU may take, if it is free; None: 4.
    """
    if numerics.device_kind == "cuda":
        return 1
    return cpu_predictors(numerics.backend, RUN_GB if memory_gb is None else memory_gb)


def batches_of(tiles: Sequence[Tile], size: int) -> Iterator[Sequence[Tile]]:
    """Yield the tiles in groups of up to `size`."""
    for start in range(0, len(tiles), size):
        yield tiles[start : start + size]


Read = Future[ReadTile]


def _predict_when_read(processor: TileProcessor, reads: list[Read]) -> tuple[list[Maps], float]:
    return processor.predict([read.result().rgb for read in reads])


def _finish_when_predicted(
    processor: TileProcessor,
    tile: Tile,
    index: int,
    reads: list[Read],
    maps: Future[tuple[list[Maps], float]],
) -> TileReport:
    all_maps, seconds = maps.result()
    return processor.finish(tile, reads[index].result(), all_maps[index], seconds)
