"""Parts of a batch: each slide in one, few move, and what schedulers say."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest

from wsiseg.errors import UsageError
from wsiseg.parts import Part, parse_part

PLACES = [PurePosixPath(f"case {k % 37}/slide-{k}.svs") for k in range(2000)]


def parts_of(count: int, places: list[PurePosixPath] = PLACES) -> list[int]:
    """Return the part of each place, after making sure that there is only one."""
    parts = [Part(index, count) for index in range(1, count + 1)]
    owners = [[part.index for part in parts if part.holds(place)] for place in places]
    assert {len(found) for found in owners} == {1}
    return [found[0] for found in owners]


@pytest.mark.parametrize("count", [1, 2, 8, 50])
def test_each_slide_is_in_one_part_and_parts_are_about_equal(count: int) -> None:
    found = parts_of(count)
    sizes = [found.count(index) for index in range(1, count + 1)]
    # Within five standard deviations of what chance gives.
    mean = len(PLACES) / count
    assert all(abs(size - mean) <= 5 * mean**0.5 for size in sizes)


def test_with_another_number_of_parts_only_those_of_the_missing_parts_move() -> None:
    eight, five = parts_of(8), parts_of(5)
    assert all(before == after for before, after in zip(eight, five, strict=True) if before <= 5)


def test_parts_never_change() -> None:
    # In a later version neither: a batch that was begun with this one goes on.
    places = [PurePosixPath(name) for name in ("a.svs", "sub/a.svs", "b.tiff", "\udcff.svs", "ä")]
    assert parts_of(8, places) == [2, 3, 3, 3, 7]


@pytest.mark.parametrize(
    ("text", "environ", "part"),
    [
        ("3/8", {}, Part(3, 8)),
        (" 1 / 1 ", {}, Part(1, 1)),
        ("auto", {"SLURM_ARRAY_TASK": "ID=7 MIN=4 MAX=10 STEP=3 COUNT=3"}, Part(2, 3)),
        ("AUTO", {"SLURM_ARRAY_TASK": "ID=12 MIN=0 MAX=15 STEP=4 COUNT=4"}, Part(4, 4)),
        ("auto", {"SLURM_ARRAY_TASK": "ID=5 MIN=1 MAX=8 COUNT=8"}, Part(5, 8)),
        ("auto", {"SLURM": "PROCID=0 NTASKS=4"}, Part(1, 4)),
        ("auto", {"SLURM": "PROCID=2 NTASKS=9 STEP_NUM_TASKS=3 STEP_ID=0 JOB_ID=1"}, Part(3, 3)),
        ("auto", {"SLURM": "PROCID=0 NTASKS=1 JOB_ID=1"}, Part(1, 1)),
        ("auto", {"LSB": "JOBINDEX=3 JOBINDEX_END=9"}, Part(3, 9)),
        ("auto", {"SGE_TASK": "ID=5 FIRST=1 LAST=9 STEPSIZE=2"}, Part(3, 5)),
    ],
)
def test_a_part_is_named_or_comes_from_the_scheduler(
    text: str, environ: dict[str, str], part: Part
) -> None:
    assert parse_part(text, variables(environ)) == part


@pytest.mark.parametrize(
    ("text", "environ", "reason"),
    [
        ("0/8", {}, "part 0/8: parts are numbered from 1"),
        ("9/8", {}, "part 9/8: parts are numbered from 1"),
        ("0/0", {}, "part 0/0"),
        ("3", {}, "part is '3'.*such as 3/8, or auto"),
        ("-1/8", {}, "part is '-1/8'"),
        ("1/999999999", {}, "100,000 at most"),
        ("auto", {}, "no variable of SLURM, LSF or SGE.*--part 3/8"),
        (
            "auto",
            {"SLURM_ARRAY_TASK": "ID=3 MIN=1 MAX=7 STEP=1 COUNT=3"},
            "3 tasks are not evenly spaced.*--array=1-8, or write --part .SLURM_ARRAY_TASK_ID/8",
        ),
        ("auto", {"SLURM_ARRAY_TASK": "ID=3 MIN=1 MAX=7"}, "SLURM_ARRAY_TASK_COUNT is not set"),
        ("auto", {"SLURM": "PROCID=0 NTASKS=4 JOB_ID=1"}, "4 tasks, but .* runs once.*with srun"),
        ("auto", {"LSB": "JOBINDEX=3 JOBINDEX_END=9 JOBINDEX_STEP=2"}, "not numbered one by one"),
        ("auto", {"LSB": "JOBINDEX=0", "SGE_TASK": "ID=undefined"}, "no variable of SLURM"),
        ("auto", {"SGE_TASK": "ID=4 FIRST=1 LAST=9 STEPSIZE=2"}, "task 4 is not one of 1-9:2"),
        ("auto", {"PBS": "ARRAY_INDEX=4"}, "write --part .PBS_ARRAY_INDEX/8"),
    ],
)
def test_what_is_no_part_is_refused_with_what_to_write(
    text: str, environ: dict[str, str], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        parse_part(text, variables(environ))
    assert "\n" not in str(caught.value)


def variables(short: dict[str, str]) -> dict[str, str]:
    """Return environment variables from lists of names that share a beginning."""
    found = {
        f"{start}_{name}": value
        for start, text in short.items()
        for name, value in re.findall(r"(\w+)=(\S+)", text)
    }
    return found | {"HOME": "/none"}
