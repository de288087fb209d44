"""Shares the workers of a Dask cluster between slides.

One thread decides which task is submitted next.  It owns all that is in work; other threads leave
messages for it.  Each slide in work is a feed of tasks; the next place goes to the feed with the
fewest tasks alive, so that slides get equal shares, and a single one all there is.

When a worker process dies, Dask blames every task it had, after some repetitions.  Which of them
it was is found out here: they are put aside, and when nothing else is alive each is run alone.  One
that ends a process again is guilty; it is cut into its parts, if it has any, which are tried alone.
"""

from __future__ import annotations

import itertools
import logging
import pickle
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from wsiseg.cluster.checks import threads_of
from wsiseg.cluster.local import GPU
from wsiseg.cluster.packages import import_distributed
from wsiseg.cluster.tasks import WorkerUnfit, run_call
from wsiseg.errors import Interrupted, UsageError
from wsiseg.worker_needs import ClusterNeeds, unmet, unseen_slides

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger("wsiseg")

TASKS_PER_THREAD = 3
"""Tasks alive: one that runs, and two that wait, so that no worker waits for the client."""
_TICK_S = 1.0
_LOOK_S = 2.0
_POLL_S = 2.0
_LOST_S = 25.0
"""A scheduler that has not answered for so long is taken for lost."""
_FETCH_S = 10.0
_REMIND_S = 60.0
_AGAIN = "finished tiles are kept, and the same command continues"
_LOST = f"the Dask scheduler was lost; {_AGAIN}"


@dataclass(eq=False, slots=True)
class Work:
    """One task."""

    call: bytes
    """What `tasks.run_call` runs."""
    kind: str
    """What tasks of about the same duration are called."""
    slide: str
    """Its name, for messages."""
    parts: Callable[[], Sequence[Work]] | None = None
    """What it can be cut into, if it must be found out which part ends a process."""


@dataclass(eq=False, slots=True)
class Crashed:
    """A task that ends the process it runs in, also when it runs alone."""

    reason: str


@dataclass(eq=False, slots=True)
class Feed:
    """The tasks of one slide."""

    works: Iterator[Work]
    """Those that were not started."""
    again: deque[Work] = field(default_factory=deque)
    """Those to start once more."""
    finished: SimpleQueue[tuple[Work, Any] | None] = field(default_factory=SimpleQueue)
    """A future, `Crashed`, or an error, for each that ended; None after the last."""
    n_alive: int = 0
    n_open: int = 0
    """Started, and not yet seen by the slide's thread."""
    turn: int = 0
    """When it was last given a place."""
    is_exhausted: bool = False


class Dispatcher:
    """Runs feeds of tasks on a cluster; see the module."""

    def __init__(
        self,
        client: Client,
        needs: ClusterNeeds,
        expected_threads: int,
        without_workers_s: float | None,
    ) -> None:
        self._client = client
        self._needs = needs
        self._packed_needs = pickle.dumps(needs)
        # So little that threads bound how many run at a time, and the resource only where.
        self._resources = {GPU: 0.01} if needs.gpu else None
        self._expected_threads = expected_threads
        self._without_workers_s = without_workers_s
        self._name = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._messages: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._unfit: SimpleQueue[str] = SimpleQueue()
        self._sent_away: set[str] = set()
        self._feeds: list[Feed] = []
        self._alive: dict[Any, tuple[Work, Feed, Future[Any]]] = {}
        self._suspects: deque[tuple[Work, Feed]] = deque()
        self._alone: Work | None = None
        self._failure: str | None = None
        self._ended = threading.Event()
        self.n_threads = threads_of(client, needs.gpu)
        """Of all workers, when last looked."""
        self.most_alive = 0
        """Most tasks that were alive at the same time."""
        self._seen_s = self._worked_s = self._reminded_s = self._polled_s = time.monotonic()
        self._threads = [
            threading.Thread(target=target, name=f"wsiseg-{name}", daemon=True)
            for name, target in (("dispatch", self._dispatch), ("watch", self._watch))
        ]
        for thread in self._threads:
            thread.start()

    def results(self, works: Iterator[Work]) -> Iterator[tuple[Work, Any]]:
        """Yield each task with its result, or with `Crashed`, as they end.

        Raises
        ------
        Interrupted
            If the scheduler or all workers are lost.
        Exception
            What a task has raised; the feed's other tasks are dropped.
        """
        feed = Feed(works)
        self._messages.put(lambda: self._open(feed))
        try:
            while (ended := self._next_ended(feed)) is not None:
                work, what = ended
                if isinstance(what, BaseException):
                    raise what
                if not isinstance(what, Crashed):
                    what = self._gathered(work, feed, what)
                    if what is None:
                        continue
                self._messages.put(lambda: self._settle(feed))
                yield work, what[0] if isinstance(what, tuple) else what
        finally:
            self._messages.put(lambda: self._drop(feed))

    @property
    def most_tasks(self) -> int:
        """How many tasks may be alive; a queue that follows the work must see some waiting."""
        return TASKS_PER_THREAD * max(self.n_threads, self._expected_threads)

    def stop(self) -> None:
        """Drop what is in work; those who wait for it get Interrupted."""
        self._messages.put(lambda: self._fail(f"stopped; {_AGAIN}"))
        self._messages.put(self._ended.set)
        for thread in self._threads:
            thread.join(timeout=2 * _TICK_S)

    def _next_ended(self, feed: Feed) -> tuple[Work, Any] | None:
        """Wait for the next task of a feed to end; None after the last."""
        while True:
            try:
                return feed.finished.get(timeout=_TICK_S)
            except Empty:
                if self._ended.is_set() and feed.finished.empty():
                    raise Interrupted(f"stopped; {_AGAIN}") from None

    def _gathered(self, work: Work, feed: Feed, future: Future[Any]) -> tuple[Any] | None:
        """Fetch a result; None if it went away with its worker, and the task runs again."""
        try:
            return (future.result(timeout=_FETCH_S),)
        except import_distributed().KilledWorker:
            self._messages.put(lambda: self._suspect(work, feed))
        except TimeoutError:
            # Dask may wait for ever for a result that its worker took along.  What the task has
            # written is there, so that it ends at once the second time.
            self._messages.put(lambda: feed.again.append(work))
        except CancelledError:
            self._messages.put(lambda: self._fail(_LOST))
        return None

    # What follows runs in the dispatcher's thread.

    def _dispatch(self) -> None:
        while not self._ended.is_set():
            try:
                self._take_messages()
                self._notice_ended()
                self._notice_losses()
                self._fill()
            # Whoever waits for results must learn that none will come.
            except Exception as error:
                log.exception("the dispatcher of tasks failed")
                self._fail(f"the dispatcher of tasks failed ({error}); {_AGAIN}")
        self._feeds.clear()
        self._alive.clear()

    def _notice_ended(self) -> None:
        """Look for tasks that have ended without a word: where workers die, callbacks get lost."""
        now_s = time.monotonic()
        if now_s - self._polled_s < _POLL_S:
            return
        self._polled_s = now_s
        for key, (_, _, future) in list(self._alive.items()):
            if future.status in ("finished", "error", "cancelled"):
                self._done(key)

    def _take_messages(self) -> None:
        try:
            self._messages.get(timeout=_TICK_S)()
            while True:
                self._messages.get_nowait()()
        except Empty:
            pass

    def _fill(self) -> None:
        """Submit what there is a place for."""
        if self._suspects or self._alone:
            if not self._alive and self._suspects and not self._alone:
                self._alone, feed = self._suspects.popleft()
                self._submit(self._alone, feed)
            return
        while len(self._alive) < self.most_tasks:
            next_feed = self._next_feed()
            if next_feed is None:
                return
            self._submit(next_feed.again.popleft(), next_feed)

    def _next_feed(self) -> Feed | None:
        """Return the feed whose turn it is, with its next task in `again`; None without one."""
        for feed in sorted(self._feeds, key=lambda feed: (feed.n_alive, feed.turn)):
            if feed.again:
                return feed
            # Results that nobody takes would pile up.
            if feed.is_exhausted or feed.n_open - feed.n_alive > self.most_tasks:
                continue
            work = next(feed.works, None)
            if work is None:
                feed.is_exhausted = True
                self._end_if_done(feed)
            else:
                feed.n_open += 1
                feed.again.append(work)
                return feed
        return None

    def _submit(self, work: Work, feed: Feed) -> None:
        number = next(self._numbers)
        key = (f"wsiseg-{work.kind}", f"{self._name}-{number}")
        future = self._client.submit(
            run_call,
            self._packed_needs,
            work.call,
            key=key,
            pure=False,
            resources=self._resources,
        )
        feed.n_alive += 1
        feed.turn = number
        self._alive[key] = (work, feed, future)
        self.most_alive = max(self.most_alive, len(self._alive))
        future.add_done_callback(  # type: ignore[no-untyped-call]
            lambda _: self._messages.put(lambda: self._done(key))
        )

    def _done(self, key: Any) -> None:
        """Hand an ended task to its slide, unless its worker is to blame, or it is suspected."""
        if key not in self._alive:
            return
        work, feed, future = self._alive.pop(key)
        feed.n_alive -= 1
        if future.status == "error":
            error = future.exception()  # type: ignore[no-untyped-call]
            if isinstance(error, import_distributed().KilledWorker):
                self._suspect(work, feed)
                return
            if isinstance(error, WorkerUnfit):
                self._unfit_found(work, feed, error)
            else:
                feed.finished.put((work, error))
        elif future.status != "cancelled":
            # Finished; if its worker died since, Dask runs it again, and fetching it waits.
            feed.finished.put((work, future))
        else:
            self._fail(_LOST)
        if self._alone is work:
            self._alone = None

    def _suspect(self, work: Work, feed: Feed) -> None:
        """Put a task aside that was in a process that died; alone, it is guilty."""
        was_alone = self._alone is work
        if was_alone:
            self._alone = None
        if feed not in self._feeds:
            return
        if not was_alone:
            log.warning("%s: worker processes died; one of their tasks is tried alone", work.slide)
            self._suspects.append((work, feed))
            return
        parts = work.parts() if work.parts is not None else ()
        if len(parts) > 1:
            feed.n_open += len(parts) - 1
            self._suspects.extend((part, feed) for part in parts)
            return
        feed.finished.put((work, Crashed("the process that ran it died, also when it ran alone")))

    def _unfit_found(self, work: Work, feed: Feed, error: WorkerUnfit) -> None:
        """Send a worker away and run its task elsewhere, unless the same is missing here too."""
        there = tuple(pair for pair in self._needs.slides if not unseen_slides((pair,)))
        if there != self._needs.slides:
            self._needs = replace(self._needs, slides=there)
            self._packed_needs = pickle.dumps(self._needs)
        elif unmet(self._needs):
            feed.finished.put((work, UsageError(str(error))))
            return
        else:
            if error.address not in self._sent_away:
                log.error("%s; it is sent away, and its tasks run elsewhere", error)
                self._sent_away.add(error.address)
                self._unfit.put(error.address)
            self._reminded_s = time.monotonic()
        feed.again.append(work)

    def _open(self, feed: Feed) -> None:
        if self._failure is not None:
            feed.finished.put((Work(b"", "", ""), Interrupted(self._failure)))
            return
        feed.turn = next(self._numbers)
        self._feeds.append(feed)

    def _settle(self, feed: Feed) -> None:
        feed.n_open -= 1
        self._end_if_done(feed)

    def _end_if_done(self, feed: Feed) -> None:
        if feed.is_exhausted and not feed.n_open and feed in self._feeds:
            self._feeds.remove(feed)
            feed.finished.put(None)

    def _drop(self, feed: Feed) -> None:
        """Forget a feed; the scheduler drops tasks that nobody waits for."""
        if feed in self._feeds:
            self._feeds.remove(feed)
        for key, (work, owner, _) in list(self._alive.items()):
            if owner is feed:
                del self._alive[key]
                if work is self._alone:
                    self._alone = None
        self._suspects = deque(pair for pair in self._suspects if pair[1] is not feed)

    def _fail(self, said: str) -> None:
        """Tell all who wait that nothing more will come."""
        self._failure = said
        for feed in list(self._feeds):
            self._drop(feed)
            feed.finished.put((Work(b"", "", ""), Interrupted(said)))

    def _notice_losses(self) -> None:
        """Give up without a scheduler, and at last without workers."""
        if self._failure is not None:
            return
        now_s = time.monotonic()
        if self._client.status != "running" or now_s - self._seen_s > _LOST_S:
            self._fail(_LOST)
            return
        if self.n_threads or not self._feeds:
            self._worked_s = now_s
            return
        if now_s - self._reminded_s > _REMIND_S:
            self._reminded_s = now_s
            log.warning("no worker has run for %d s; waiting for one", now_s - self._worked_s)
        most_s = self._without_workers_s
        if most_s is not None and now_s - self._worked_s > most_s:
            self._fail(f"no worker has run for {most_s:.0f} s; {_AGAIN} once there are some")

    def _seen(self, n_threads: int) -> None:
        self._seen_s = time.monotonic()
        self.n_threads = n_threads

    # This one has a thread of its own, for it waits for the scheduler.

    def _watch(self) -> None:
        """Look how many workers there are, and send those away that are unfit."""
        while not self._ended.wait(_LOOK_S):
            try:
                self._retire_unfit()
                n_threads = threads_of(self._client, self._needs.gpu)
            # Whatever it is, a scheduler that does not answer is found lost in the end.
            except Exception as error:  # noqa: BLE001
                log.debug("the scheduler does not answer: %s", error)
                continue
            self._messages.put(lambda n_threads=n_threads: self._seen(n_threads))  # type: ignore[misc]

    def _retire_unfit(self) -> None:
        addresses = set()
        while not self._unfit.empty():
            addresses.add(self._unfit.get())
        if addresses:
            self._client.retire_workers(list(addresses), close_workers=True)
