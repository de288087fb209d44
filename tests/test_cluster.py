"""Many slides on the workers of one cluster: equal results, equal shares, bounded tasks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import dask
import psutil
import pyarrow.parquet as pq
import pytest
from cluster_tasks import (
    THREAD_NUMBERS,
    noted,
    process_and_gpu,
    refuse,
    seconds_by_thread,
    threads_here,
)
from dask.utils import parse_timedelta

import wsiseg
from wsiseg.cluster import (
    ClusterOptions,
    SlidesOnDask,
    check_cluster,
    cluster_client,
    needs_of,
)
from wsiseg.errors import Interrupted, SlideNotReadable
from wsiseg.models import Numerics
from wsiseg.pipeline import segment_planned
from wsiseg.plan import PlanOptions, plan_run
from wsiseg.results import Result
from wsiseg.rundir import RunDir
from wsiseg.runners import RunInTurn, TileRunner
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue
from wsiseg.testing.slides import ArraySlide

if TYPE_CHECKING:
    from distributed import Client

MPP = 0.5


@pytest.fixture(scope="module")
def slide() -> ArraySlide:
    return ArraySlide(paint_tissue(700, 1000, 1500, seed=4), MPP, name="painted.png")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with cluster_client(ClusterOptions(workers=2)) as client:
        yield client


def run(
    slide: ArraySlide, out: Path, run_tiles: TileRunner, batch_size: int = 1, pause_s: float = 0
) -> Result:
    numerics = Numerics(batch_size=batch_size)
    plan = plan_run(slide, LocalNetwork(mpp=MPP, pause_s=pause_s), numerics, PlanOptions())
    return segment_planned(plan, RunDir(out / "painted.png.wsiseg"), run_tiles, formats=())


def cells(result: Result) -> object:
    return pq.read_table(result.path / "cells.parquet")


@pytest.fixture(scope="module")
def reference(slide: ArraySlide, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """One thread of this process, one step after the other."""
    return run(slide, tmp_path_factory.mktemp("reference"), RunInTurn())


def test_tiles_and_whole_slides_share_workers_and_give_the_same_cells(
    client: Client, slide: ArraySlide, reference: Result, tmp_path: Path
) -> None:
    assert reference.summary()["total"]["n"] > 300
    check_cluster(client, needs_of(tmp_path))
    assert list(tmp_path.iterdir()) == []
    with SlidesOnDask(client, needs_of(tmp_path)) as slides, ThreadPoolExecutor(4) as threads:
        assert slides.slides_at_once == 4
        spread = [
            threads.submit(run, slide, tmp_path / str(size), slides.run_tiles, size, 0.02)
            for size in (1, 3)
        ]
        whole = [
            threads.submit(slides.run_whole, process_and_gpu, 0.5, f"{k}.png") for k in range(3)
        ]
        assert all(cells(done.result()).equals(cells(reference)) for done in spread)
        processes = {done.result()[0] for done in whole}
        assert slides.most_alive == 6
    tiles = pq.read_table(spread[0].result().path / "tiles.parquet")
    assert len(tiles) == 12
    workers = set(client.run(os.getpid).values())
    assert processes <= workers
    assert len(workers) == 2
    assert os.getpid() not in workers


def test_no_library_starts_threads_of_its_own(client: Client) -> None:
    with SlidesOnDask(client) as slides:
        said = slides.run_whole(threads_here, None, "a.png")
        assert said == dict.fromkeys(THREAD_NUMBERS, "1") | {"cv2": 1, "cores": 1, "torch": 1}
        spent = slides.run_whole(seconds_by_thread, 0.3, "a.png")
    # One thread works; those that talk to the scheduler and the like do little.
    assert max(spent) > 0.7
    assert sum(spent) - max(spent) < 0.15
    assert len(spent) < 16


def test_dask_s_profiler_does_not_run(client: Client) -> None:
    found = client.run(lambda dask_worker: "profile" in dask_worker.periodic_callbacks)
    assert set(found.values()) == {False}


def test_workers_have_limits_and_never_spill(client: Client) -> None:
    for limit, target, spill, pause in client.run(memory_settings).values():
        assert 1e9 < limit < psutil.virtual_memory().total
        assert (target, spill, pause) == (False, False, False)


def memory_settings(dask_worker: object) -> tuple[object, ...]:
    memory = dask_worker.memory_manager  # type: ignore[attr-defined]
    return (
        memory.memory_limit,
        memory.memory_target_fraction,
        memory.memory_spill_fraction,
        memory.memory_pause_fraction,
    )


def test_slides_get_equal_shares_and_small_ones_do_not_wait(client: Client, tmp_path: Path) -> None:
    """Whole slides that come while a large one is in work are not put behind it."""
    note = tmp_path / "order.txt"
    with SlidesOnDask(client) as slides, ThreadPoolExecutor(8) as threads:
        large = threads.submit(list, _many(slides, [(note, "large", 0.05)] * 60))
        while not note.exists():
            time.sleep(0.01)
        small = [
            threads.submit(slides.run_whole, noted, (note, "small", 0.05), "b.png")
            for _ in range(4)
        ]
        for done in small:
            assert done.result() == "small"
        order_then = note.read_text().split()
        large.result()
        assert slides.most_alive == 6
    order = note.read_text().split()
    assert len(order) == 64
    assert len(order_then) < 40
    assert order.count("small") == 4


def _many(slides: SlidesOnDask, arguments: Sequence[tuple[Path, str, float]]) -> Iterator[object]:
    """Run tasks as the tiles of one slide are run."""
    from wsiseg.cluster.dispatch import Work
    from wsiseg.cluster.tasks import packed_call

    works = (Work(packed_call(noted, each), "tiles", "large.png") for each in arguments)
    yield from slides._dispatcher.results(works)


def test_what_a_task_raises_is_raised_where_it_is_waited_for(client: Client) -> None:
    with SlidesOnDask(client) as slides:
        with pytest.raises(SlideNotReadable, match=r"a\.png: is empty"):
            slides.run_whole(refuse, "a.png", "a.png")
        assert slides.run_whole(process_and_gpu, 0, "b.png")[1] is None


def test_stopping_interrupts_those_who_wait(client: Client) -> None:
    slides = SlidesOnDask(client)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(slides.run_whole, process_and_gpu, 3, "a.png")
        time.sleep(0.3)
        start = time.monotonic()
        slides.stop()
        with pytest.raises(Interrupted, match="the same command continues"):
            waiting.result()
    assert time.monotonic() - start < 3
    with pytest.raises(Interrupted):
        slides.run_whole(process_and_gpu, 0, "b.png")
    assert not [each for each in threading.enumerate() if each.name == "wsiseg-dispatch"]


def test_each_gpu_has_one_process_and_the_cells_stay(
    slide: ArraySlide, reference: Result, tmp_path: Path
) -> None:
    """With two GPUs that are none: what a process sees, and that both work."""
    where = ClusterOptions(gpus=("3", "7"))
    with cluster_client(where) as client, SlidesOnDask(client, needs_of(None)) as slides:
        check_cluster(client, needs_of(tmp_path, device_kind="cuda"))
        with ThreadPoolExecutor(8) as threads:
            seen = set(threads.map(lambda _: slides.run_whole(process_and_gpu, 0.2, "a"), range(8)))
        result = run(slide, tmp_path, slides.run_tiles, batch_size=2, pause_s=0.05)
        with SlidesOnDask(client, needs_of(None, device_kind="cuda")) as on_gpus:
            assert on_gpus.run_whole(process_and_gpu, 0, "a.png") in seen
    assert {gpu for _, gpu in seen} == {"3", "7"}
    assert len({process for process, _ in seen}) == 2
    assert cells(result).equals(cells(reference))
    tiles = wsiseg.open_result(result.path).run["tiles"]
    assert tiles["run"] == 12


def test_dask_does_not_give_a_worker_up(client: Client) -> None:
    said = dask.config.get("distributed.deploy.lost-worker-timeout")
    assert parse_timedelta(said) > 1e6


@pytest.mark.slow
def test_a_worker_that_is_dead_whenever_dask_looks_comes_back() -> None:
    with cluster_client(ClusterOptions(workers=1)) as client:
        started_s = time.monotonic()
        kill_the_worker(client)
        # Dask would look 15 s after the first death.
        client.wait_for_workers(1, timeout=60)
        time.sleep(max(0.0, started_s + 14.6 - time.monotonic()))
        kill_the_worker(client)
        time.sleep(3)
        client.wait_for_workers(1, timeout=60)
        assert client.submit(sum, [1, 2]).result(timeout=60) == 3


def kill_the_worker(client: Client) -> None:
    """Kill it, and return when the scheduler knows."""
    pid = client.submit(os.getpid, pure=False).result(timeout=60)
    addresses = set(client.scheduler_info()["workers"])
    psutil.Process(pid).kill()
    deadline = time.monotonic() + 10
    while addresses & set(client.scheduler_info()["workers"]) and time.monotonic() < deadline:
        time.sleep(0.05)
