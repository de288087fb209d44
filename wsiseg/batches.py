"""Many slides: each is segmented once, and one that fails does not stop the others.

Several calls may be at work on one batch, also on other machines.  They agree by `claims` on who
does what, so nothing is done twice as a rule; where that goes wrong results are right all the same.
Nothing here grows with the number of slides but the list of them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from queue import SimpleQueue

from wsiseg.claims import Claims, claims_folder, disk_now_s
from wsiseg.errors import Interrupted, OutputExists, OutputNotWritable, UsageError, WsisegError
from wsiseg.listing import RUN_SUFFIX, SlideEntry
from wsiseg.results import Result, open_result
from wsiseg.rundir import RunDir, temporary_beside, write_atomically
from wsiseg.unfinished import append_traceback, failure_of, leave_failure

SegmentOne = Callable[[SlideEntry], Path]
"""Segments a slide and returns its run's directory."""

IsFinished = Callable[[SlideEntry, bool], bool]
"""A quick look at whether a slide is done already; told whether another call did it meanwhile."""

_POLL_S = 1.0
"""Pause before looking again at a slide that another call is at work on."""
_PROBE_BYTES = 8 << 20
"""A disk that does not take so much is full."""


@dataclass(frozen=True, slots=True)
class Done:
    """A slide that was segmented, now or by an earlier call."""

    slide: str
    """File name."""
    path: Path
    """The run's directory."""
    place: PurePosixPath
    """Where in the output folder that is, without `.wsiseg`."""

    @property
    def result(self) -> Result:
        """The finished run, opened when it is asked for: thousands of them stay small."""
        return open_result(self.path)


@dataclass(frozen=True, slots=True)
class Failed:
    """A slide that was not segmented."""

    slide: str
    """File name."""
    error: WsisegError
    """Why."""
    place: PurePosixPath
    """Where in the output folder its results would be, without `.wsiseg`."""


@dataclass(slots=True)
class _Work:
    """What the threads of one call share."""

    out: Path
    segment_one: SegmentOne
    is_finished: IsFinished
    claims: Claims
    began_s: float
    """When this call began, by the clock of the output folder's disk."""
    stop: threading.Event
    """Set when no further slide is to be begun."""
    fresh: deque[SlideEntry]
    """Not looked at so far."""
    elsewhere: deque[SlideEntry] = field(default_factory=deque)
    """Another call was at work on them."""

    def next(self) -> tuple[SlideEntry, bool] | None:
        """Return a slide, and whether another call was at work on it; None if none is left."""
        for waiting, was_elsewhere in ((self.fresh, False), (self.elsewhere, True)):
            with suppress(IndexError):
                return waiting.popleft(), was_elsewhere
        return None


def place_directory(out: Path, place: PurePosixPath) -> RunDir:
    """Return where the results of a place are."""
    return RunDir(Path(out) / place.parent / f"{place.name}{RUN_SUFFIX}")


def refuse_long_name(out: Path, entry: SlideEntry) -> None:
    """Raise UsageError if the disk takes no name as long as that of a slide's results."""
    try:
        os.lstat(place_directory(out, entry.place).path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(
                f"{entry.place.name[:60]}…: a folder with {RUN_SUFFIX} after this name cannot be "
                "made, the name is too long for the disk; rename the slide, or give it a shorter "
                "place in a list with a column place"
            ) from error


def write_places(out: Path, entries: Sequence[SlideEntry]) -> None:
    """Write down which slides a batch has, in a file called after its content.

    On a disk that is full or read-only it is left out: it only serves to tell what is left.
    """
    content = {
        "format": "wsiseg-batch",
        "format_version": 1,
        "places": [str(entry.place) for entry in entries],
    }
    text = json.dumps(content, indent=0).encode()
    path = out / "batch" / f"slides-{hashlib.sha256(text).hexdigest()[:16]}.json"
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            # So that the newest list is that of the last call.
            os.utime(path)
        else:
            write_atomically(path, text)


def run_batch(
    entries: Sequence[SlideEntry],
    out: Path,
    segment_one: SegmentOne,
    at_once: int = 1,
    *,
    is_finished: IsFinished = lambda entry, was_elsewhere: False,  # noqa: ARG005
    stop: threading.Event | None = None,
    drop: Callable[[], None] = lambda: None,
    claims: Claims | None = None,
    poll_s: float = _POLL_S,
) -> Iterator[Done | Failed]:
    """Segment slides, several at once; those another call is at work on come last.

    What another call finishes meanwhile is not done again; what it leaves undone is taken over.

    Parameters
    ----------
    entries : sequence of SlideEntry
        Slides with different places.
    out : Path
        The output folder.
    segment_one : callable
        Segments one slide and returns its run's directory; with `at_once` above 1 it is called
        in that many threads.
    at_once : int
        Slides at the same time.
    is_finished : callable
        From a slide, and whether another call has worked on it since this one began, to whether
        it is done; True saves the call of `segment_one`.
    stop : threading.Event, optional
        Set when the call ends before its time; whoever works for `segment_one` should then stop.
    drop : callable
        Called after that, before the threads are waited for.
    claims : Claims, optional
        What this call claims; made if it is not given.
    poll_s : float
        Pause before looking again at a slide that another call is at work on.

    Yields
    ------
    Done or Failed
        One per slide: in order with one at once and no other call, else as they end.

    Raises
    ------
    OutputNotWritable
        If nothing at all can be written into the output folder any more, as on a full disk.
    Interrupted
        If `segment_one` was.
    """
    stop = stop or threading.Event()
    with claims or Claims(out) as held:
        began_s = disk_now_s(claims_folder(out))
        work = _Work(out, segment_one, is_finished, held, began_s, stop, deque(entries))
        if at_once == 1:
            yield from _outcomes(work, poll_s)
        else:
            yield from _in_threads(work, at_once, drop, poll_s)


def _in_threads(
    work: _Work, at_once: int, drop: Callable[[], None], poll_s: float
) -> Iterator[Done | Failed]:
    """Yield what several threads tell; raise what one of them could not go on with."""
    told: SimpleQueue[Done | Failed | BaseException | None] = SimpleQueue()

    def run() -> None:
        try:
            for outcome in _outcomes(work, poll_s):
                told.put(outcome)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            told.put(error)
            work.stop.set()
        else:
            told.put(None)

    threads = [
        threading.Thread(target=run, name=f"wsiseg-slide-{number}", daemon=True)
        for number in range(min(at_once, len(work.fresh)))
    ]
    first: BaseException | None = None
    try:
        for thread in threads:
            thread.start()
        n_running = len(threads)
        while n_running:
            said = told.get()
            if isinstance(said, Done | Failed):
                yield said
            else:
                n_running -= 1
                first = first or said
    finally:
        work.stop.set()
        drop()
        for thread in threads:
            thread.join()
    if first is not None:
        raise first


def _outcomes(work: _Work, poll_s: float) -> Iterator[Done | Failed]:
    """Yield what becomes of slides until none is left."""
    while not work.stop.is_set():
        taken = work.next()
        if taken is None:
            return
        entry, was_elsewhere = taken
        outcome = _outcome(work, entry, was_elsewhere)
        if outcome is not None:
            yield outcome
            continue
        work.elsewhere.append(entry)
        if was_elsewhere:
            work.stop.wait(poll_s)


def _outcome(work: _Work, entry: SlideEntry, was_elsewhere: bool) -> Done | Failed | None:
    """Return what becomes of a slide, None if another call is at work on it."""
    name, folder = entry.path.name, place_directory(work.out, entry.place)
    try:
        if work.is_finished(entry, was_elsewhere or _is_new(folder, work.began_s)):
            return Done(name, folder.path, entry.place)
        if not work.claims.take(entry.place):
            return None
        # What an earlier call has left says nothing of what another tried meanwhile.
        failure = failure_of(folder, work.began_s) if was_elsewhere else None
        if failure is not None:
            return Failed(name, failure, entry.place)
        refuse_long_name(work.out, entry)
        return Done(name, work.segment_one(entry), entry.place)
    except Interrupted:
        raise
    except WsisegError as error:
        return _failed(work, entry, folder, error, error)
    except Exception as error:  # noqa: BLE001 - a bug that one slide brings out spares the others
        told = WsisegError(
            f"{name}: unexpected {type(error).__name__}: {error}; this is a fault of the program: "
            "please report it with the slide's log.txt"
        )
        return _failed(work, entry, folder, error, told)
    finally:
        work.claims.release(entry.place)


def _is_new(folder: RunDir, began_s: float) -> bool:
    """Return whether a run was written to since this call began."""
    try:
        return folder.run_json.stat().st_mtime >= began_s
    except OSError:
        return False


def _failed(
    work: _Work, entry: SlideEntry, folder: RunDir, error: Exception, told: WsisegError
) -> Failed:
    """Record a failure, unless it is one of the whole output folder, which is raised."""
    is_bug = not isinstance(error, WsisegError)
    if is_bug or isinstance(error, OutputNotWritable):
        _refuse_useless_disk(work.out, told)
    # An output that is in the way is no property of the slide, but of what is there.
    if not isinstance(error, OutputExists):
        leave_failure(folder, entry.path, work.out, error)
    if is_bug:
        append_traceback(folder, entry.path, work.out, error)
    _forget_frames(error)
    return Failed(entry.path.name, told, entry.place)


def _refuse_useless_disk(out: Path, error: WsisegError) -> None:
    """Raise OutputNotWritable if nothing can be written into the output folder."""
    probe = temporary_beside(out / "batch" / "probe")
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        with probe.open("wb") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as found:
        raise OutputNotWritable(
            f"nothing can be written into the output folder any more ({found.strerror}; first "
            f"noticed: {error}); finished slides and tiles are kept: free some space, or see who "
            "may write there, then call the same command again"
        ) from None
    finally:
        with suppress(OSError):
            probe.unlink()


def _forget_frames(error: BaseException | None) -> None:
    """Let go of all that an error's frames hold: a slide's tiles and overview among them."""
    while error is not None:
        error.__traceback__ = None
        before = error.__cause__ or error.__context__
        error.__cause__ = error.__context__ = None
        error = before
