"""A slide made of an array, and the contract every slide reader keeps.

To check a reader of your own::

    from wsiseg.testing.slides import SlideContract

    class TestMyReader(SlideContract):
        def open_slide(self):
            return open_with_my_reader("a.slide")
"""

from __future__ import annotations

import functools
import hashlib
import math
import multiprocessing
import pickle
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import SlideNotReadable
from wsiseg.geometry import Box, Frame
from wsiseg.slides.frames import read_frame
from wsiseg.slides.protocol import Level, Slide, SlideInfo, white_outside
from wsiseg.slides.resampling import taps, weigh

SCALES = (0.501, 1.0108, 2.004, 4.0)
"""Level-0 pixels per pixel of the frames the contract looks at."""


class ArraySlide:
    """A pyramid in memory; exact, quick to make, and pickled with its pixels."""

    def __init__(
        self,
        rgb: NDArray[np.uint8],
        mpp: float | None = None,
        downsamples: Sequence[float] = (1,),
        bounds: Box | None = None,
        name: str = "array.png",
    ) -> None:
        """Make a slide.

        Parameters
        ----------
        rgb
            (h, w, 3): level 0.
        mpp
            µm per level-0 pixel; None: not known.
        downsamples
            One per level, beginning with 1; need not be whole.  Levels are rounded down to
            whole pixels, at least one.
        bounds
            Scanned area in level-0 pixels; None: the whole slide.
        name
            Its file name.

        Raises
        ------
        ValueError
            If the array is not 8-bit RGB.
        """
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            raise ValueError(
                f"rgb is {rgb.dtype} of shape {rgb.shape}; uint8 of shape (h, w, 3) is needed"
            )
        height, width, _ = rgb.shape
        base = np.ascontiguousarray(rgb)
        self._pixels = [_shrunk(base, float(downsample)) for downsample in downsamples]
        self._closed = False
        self._info = SlideInfo(
            name=name,
            reader="array",
            width_px=width,
            height_px=height,
            levels=tuple(
                Level(float(downsample), level.shape[1], level.shape[0])
                for downsample, level in zip(downsamples, self._pixels, strict=True)
            ),
            mpp_x=mpp,
            mpp_y=mpp,
            objective_power=None,
            vendor=None,
            bounds=bounds or Box(0, 0, width, height),
            fingerprint=hashlib.sha256(f"{rgb.shape}".encode() + base.tobytes()).hexdigest(),
        )

    @property
    def info(self) -> SlideInfo:
        """About the slide."""
        return self._info

    def read_level(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Return (h, w, 3) RGB; see `Slide.read_level`."""
        if self._closed:
            raise SlideNotReadable(f"{self._info.name} is closed; make it again to read it")
        found = self._info.level(level)
        return white_outside(
            found, box, lambda inside: self._pixels[level][inside.slices_in(found.box)].copy()
        )

    def close(self) -> None:
        """Refuse to be read from now on."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self.close()


def _shrunk(rgb: NDArray[np.uint8], downsample: float) -> NDArray[np.uint8]:
    """Return the image at a coarser level, white beyond its edge."""
    if downsample == 1:
        return rgb
    height, width = (max(1, math.floor(size / downsample)) for size in rgb.shape[:2])
    first_row, row_weights = taps(0, height, downsample)
    first_col, col_weights = taps(0, width, downsample)
    before = (max(0, -int(first_row[0])), max(0, -int(first_col[0])))
    after = (
        max(0, int(first_row[-1]) + row_weights.shape[1] - rgb.shape[0]),
        max(0, int(first_col[-1]) + col_weights.shape[1] - rgb.shape[1]),
    )
    edges = ((before[0], after[0]), (before[1], after[1]), (0, 0))
    wide = np.pad(rgb, edges, constant_values=255)
    return weigh(wide, first_col + before[1], col_weights, first_row + before[0], row_weights)


class SlideContract:
    """Tests that every reader passes; derive from it and give `open_slide`."""

    def open_slide(self) -> Slide:
        """Return the slide to test, newly opened; make it larger than 64 × 64 px."""
        raise NotImplementedError

    def test_info_is_consistent(self) -> None:
        """Levels, bounds, name and fingerprint are what they should be."""
        with self.open_slide() as slide:
            info = slide.info
        assert info.name
        assert "/" not in info.name
        assert "\\" not in info.name
        assert len(info.fingerprint) == 64
        assert int(info.fingerprint, 16) >= 0
        assert info.levels[0] == Level(1.0, info.width_px, info.height_px)
        for level in info.levels:
            assert abs(level.width_px - info.width_px / level.downsample) < 2
            assert abs(level.height_px - info.height_px / level.downsample) < 2
        whole = info.levels[0].box
        assert info.bounds.intersection(whole) == info.bounds
        for mpp in (info.mpp_x, info.mpp_y):
            assert mpp is None or (mpp > 0 and math.isfinite(mpp))

    def test_info_repeats(self) -> None:
        """Opening the same file twice says the same."""
        with self.open_slide() as one, self.open_slide() as other:
            assert one.info == other.info

    def test_levels_have_the_shape_they_announce(self) -> None:
        """Any box of any level is uint8 RGB of the size asked for."""
        with self.open_slide() as slide:
            for index, level in enumerate(slide.info.levels):
                boxes = (
                    Box(level.width_px - 7, level.height_px - 5, 7, 5),
                    Box(0, 0, 13, 1),
                    Box(3, 3, 0, 4),
                )
                for box in boxes:
                    pixels = slide.read_level(index, box)
                    assert pixels.shape == (box.height_px, box.width_px, 3)
                    assert pixels.dtype == np.uint8

    def test_missing_levels_are_refused(self) -> None:
        """There is no level -1 and none after the last."""
        with self.open_slide() as slide:
            for index in (-1, len(slide.info.levels)):
                try:
                    slide.read_level(index, Box(0, 0, 1, 1))
                except ValueError:
                    continue
                raise AssertionError(f"level {index} was read; ValueError is needed")

    def test_outside_is_white(self) -> None:
        """Everything outside a level is 255, and what is inside stays."""
        with self.open_slide() as slide:
            for index, level in enumerate(slide.info.levels):
                for box in _reaching_outside(level):
                    pixels = slide.read_level(index, box)
                    inside = box.intersection(level.box)
                    is_inside = np.zeros(pixels.shape[:2], bool)
                    if inside.area_px:
                        within = inside.slices_in(box)
                        is_inside[within] = True
                        assert np.array_equal(pixels[within], slide.read_level(index, inside))
                    assert (pixels[~is_inside] == 255).all()

    def test_overlapping_boxes_of_a_level_agree(self) -> None:
        """A pixel does not depend on the box it was read with, nor on what was read before."""
        with self.open_slide() as slide:
            for index, level in enumerate(slide.info.levels):
                whole = Box(-3, -3, min(level.width_px, 1100) + 6, min(level.height_px, 700) + 6)
                self._check_crops(functools.partial(slide.read_level, index), whole)
        with self.open_slide() as slide:
            last = Box(level.width_px - 40, level.height_px - 40, 40, 40)
            alone = slide.read_level(index, last)
            around = slide.read_level(index, last.grown(30))
            assert np.array_equal(around[30:-30, 30:-30], alone)

    def test_every_scale_is_one_virtual_image(self) -> None:
        """Boxes of a frame are crops of one image, at every scale and every level's own."""
        with self.open_slide() as slide:
            own = [level.downsample for level in slide.info.levels]
            for scale in (*SCALES, *own):
                frame = Frame.of_slide(slide.info.width_px, slide.info.height_px, scale)
                size = (min(frame.width_px, 700), min(frame.height_px, 500))
                self._check_crops(functools.partial(read_frame, slide, frame), Box(-5, -5, *size))
                corner = Box(frame.width_px - 90, frame.height_px - 70, 100, 80)
                self._check_crops(functools.partial(read_frame, slide, frame), corner)

    def test_reading_in_threads_gives_equal_pixels(self) -> None:
        """Eight threads that share a slide read what one reads alone."""
        with self.open_slide() as slide:
            jobs = _jobs(slide.info)
            alone = [slide.read_level(level, box) for level, box in jobs]
        with self.open_slide() as slide, ThreadPoolExecutor(8) as threads:
            together = list(threads.map(lambda job: slide.read_level(*job), jobs * 3))
        for pixels, again in zip(alone * 3, together, strict=True):
            assert np.array_equal(pixels, again)

    def test_pickling_gives_the_same_slide(self) -> None:
        """A pickled slide opens itself again."""
        with self.open_slide() as slide:
            box = Box(5, 7, 50, 40)
            with pickle.loads(pickle.dumps(slide)) as again:  # noqa: S301 - our own bytes
                assert again.info == slide.info
                assert np.array_equal(again.read_level(0, box), slide.read_level(0, box))

    def test_spawned_processes_give_equal_pixels(self) -> None:
        """Several new processes read what this one reads."""
        with self.open_slide() as slide:
            jobs = _jobs(slide.info)
            here = [slide.read_level(level, box) for level, box in jobs]
            both = [_processes().submit(_read_jobs, slide, jobs) for _ in range(2)]
            for there in both:
                for pixels, again in zip(here, there.result(), strict=True):
                    assert np.array_equal(pixels, again)

    def test_a_closed_slide_is_not_read(self) -> None:
        """Reading after close is refused, not a crash."""
        slide = self.open_slide()
        slide.close()
        try:
            slide.read_level(0, Box(0, 0, 4, 4))
        except SlideNotReadable:
            return
        raise AssertionError("a closed slide was read; SlideNotReadable is needed")

    def _check_crops(self, read: functools.partial[NDArray[np.uint8]], whole: Box) -> None:
        """Assert that boxes inside `whole` are crops of it, whatever their corner."""
        expected = read(whole)
        random = np.random.default_rng(0)
        for _ in range(4):
            width = int(random.integers(1, whole.width_px + 1))
            height = int(random.integers(1, whole.height_px + 1))
            x = whole.x_px + int(random.integers(0, whole.width_px - width + 1))
            y = whole.y_px + int(random.integers(0, whole.height_px - height + 1))
            box = Box(x, y, width, height)
            assert np.array_equal(read(box), expected[box.slices_in(whole)]), f"{box} differs"


def _reaching_outside(level: Level) -> list[Box]:
    width, height = level.width_px, level.height_px
    return [
        Box(-9, -4, 20, 17),
        Box(width - 6, height - 8, 30, 20),
        Box(width + 600, height + 600, 10, 10),
        Box(-50, 2, 20, 10),
        Box(-3, -3, min(width, 300) + 6, 9),
    ]


def _jobs(info: SlideInfo) -> list[tuple[int, Box]]:
    """Return overlapping boxes of all levels, some across the edges."""
    jobs = []
    for index, level in enumerate(info.levels):
        x, y = level.width_px // 2, level.height_px // 2
        jobs += [
            (index, Box(x, y, 130, 90)),
            (index, Box(x - 60, y - 40, 130, 90)),
            (index, Box(level.width_px - 50, level.height_px - 50, 80, 80)),
            (index, Box(-20, -20, 100, 60)),
        ]
    return jobs


def _read_jobs(slide: Slide, jobs: list[tuple[int, Box]]) -> list[NDArray[np.uint8]]:
    with slide:
        return [slide.read_level(level, box) for level, box in jobs]


@functools.cache
def _processes() -> ProcessPoolExecutor:
    """Return two processes for all contract tests of a session; starting them is slow."""
    return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))
