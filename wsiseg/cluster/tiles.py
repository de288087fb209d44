"""Tiles of many slides, and whole slides, on the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from wsiseg.cluster.connect import WITHOUT_WORKERS_S
from wsiseg.cluster.dispatch import Crashed, Dispatcher, Work
from wsiseg.cluster.tasks import packed_call, packed_job, run_batch
from wsiseg.errors import TileCrashed
from wsiseg.predict import TileJob, TileReport, skip_tile
from wsiseg.records import Tile
from wsiseg.runners import batches_of
from wsiseg.worker_needs import ClusterNeeds

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
R = TypeVar("R")

_MOST_SLIDES = 256
"""Each slide in work is a thread here."""


class SlidesOnDask:
    """Runs the tiles of many slides, and whole slides, on shared workers.

    Its methods may be called from several threads; each slide gets an equal share.  Use as a
    context manager, or call `stop`.
    """

    def __init__(
        self,
        client: Client,
        needs: ClusterNeeds | None = None,
        expected_threads: int = 0,
        without_workers_s: float | None = WITHOUT_WORKERS_S,
    ) -> None:
        """Begin.

        Parameters
        ----------
        client : distributed.Client
            Connected to the scheduler.
        needs : ClusterNeeds, optional
            What every worker process must have; it is asked before its first task, also where
            it joined later, and sent away if it lacks something.
        expected_threads : int
            How many threads the workers will have when all have come.
        without_workers_s : float or None
            After so long without a worker, waiting slides fail; None: never.
        """
        self._expected_threads = expected_threads
        self._dispatcher = Dispatcher(
            client, needs or ClusterNeeds(), expected_threads, without_workers_s
        )

    @property
    def slides_at_once(self) -> int:
        """How many slides to have in work, so that no worker waits for one."""
        threads = max(self._expected_threads, self._dispatcher.n_threads, 1)
        return min(threads + max(2, threads // 8), _MOST_SLIDES)

    @property
    def most_alive(self) -> int:
        """Most tasks that were alive at the same time."""
        return self._dispatcher.most_alive

    def run_tiles(self, job: TileJob, tiles: Sequence[Tile]) -> Iterator[TileReport]:
        """Yield reports as tiles are finished, in any order.

        Raises
        ------
        TileCrashed
            If a tile ends the process it runs in, and the job does not skip bad tiles.
        Interrupted
            If the scheduler or all workers are lost; the same command continues.
        WsisegError
            What running a tile raises.
        """
        packed = packed_job(job)
        tiles_of: dict[Work, Sequence[Tile]] = {}

        def works() -> Iterator[Work]:
            for batch in batches_of(tiles, job.numerics.batch_size):
                yield work_of(batch)

        def work_of(batch: Sequence[Tile]) -> Work:
            work = Work(
                packed_call(run_batch, packed, batch),
                "tiles",
                job.slide.info.name,
                lambda: [work_of([tile]) for tile in batch],
            )
            tiles_of[work] = batch
            return work

        for work, result in self._dispatcher.results(works()):
            batch = tiles_of.pop(work)
            if isinstance(result, Crashed):
                yield from (_crashed(job, tile, result.reason) for tile in batch)
            else:
                yield from result

    def run_whole(self, function: Callable[[T], R], argument: T, name: str) -> R:
        """Run one slide as one task; return what the function returns.

        Parameters
        ----------
        function : callable
            Runs in a worker process; what it raises is raised here.
        argument : object
            Its argument; both must pickle.
        name : str
            The slide's, for messages.

        Raises
        ------
        TileCrashed
            If the slide ends the process it runs in; run it tile by tile then, to find out where.
        Interrupted
            If the scheduler or all workers are lost; the same command continues.
        """
        work = Work(packed_call(function, argument), "slides", name)
        for _, result in self._dispatcher.results(iter([work])):
            if isinstance(result, Crashed):
                raise TileCrashed(f"{name}: {result.reason}; run it tile by tile to find out where")
            found: R = result
        return found

    def stop(self) -> None:
        """Drop what is in work; what waits for it is interrupted."""
        self._dispatcher.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _crashed(job: TileJob, tile: Tile, reason: str) -> TileReport:
    """Return the report of a tile that is left out, or say which it is."""
    if job.skip_bad_tiles:
        return skip_tile(job, tile, reason)
    raise TileCrashed(
        f"{job.slide.info.name}: tile in row {tile.row}, column {tile.col}: {reason}; leave such "
        "tiles out with --skip-bad-tiles"
    )
