"""Does a run survive whatever happens to it, with the same results?

    python benchmarks/chaos.py kill|full|readonly|together|batch|batchdisk|all [SLIDE]
        [--times N] [--mpp 0.5] [--model NAME] [--pause-s 0.1] [--size-px 1200] [--seed 0]
        [--no-compiler]

Without a slide one is painted, without a model a stand-in for a network is used.

kill: kill -9 of the whole process group, spread over a run and its end phase, each time the same
command again.  full, readonly: from the n-th change of a file on, all fail (preloaded library;
without a C compiler, what Python itself does).  together: two or three calls at once in one
place, some of them killed, some with --overwrite.  batch, batchdisk: see chaos_batch.py; they make
their own slides and take neither a slide nor a model.  Whatever happened, the results must be those
of an undisturbed run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from chaos_batch import disks_of_a_batch, kills_of_a_batch
from chaos_disk import full_disk, read_only_disk
from chaos_kill import kills
from chaos_processes import Case, compiled_disk, painted, scratch
from chaos_together import together

TRIALS = {
    **{"kill": kills, "full": full_disk, "readonly": read_only_disk, "together": together},
    **{"batch": kills_of_a_batch, "batchdisk": disks_of_a_batch},
}
DEFAULT_N = {"kill": 30, "full": 60, "readonly": 30, "together": 50, "batch": 30, "batchdisk": 3}
SIDE_PX = {"kill": 1600}
PAUSE_S = {"kill": 0.25, "together": 0.02}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("trial", choices=[*TRIALS, "all"])
    parser.add_argument("slide", type=Path, nargs="?")
    parser.add_argument("--times", type=int, help="kills, failures of each kind, or rounds")
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--model")
    parser.add_argument("--pause-s", type=float)
    parser.add_argument("--size-px", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-compiler", action="store_true")
    given = parser.parse_args()
    # Trials take minutes; what is known is to be seen.
    sys.stdout.reconfigure(line_buffering=True)
    wrong = 0
    for trial in TRIALS if given.trial == "all" else [given.trial]:
        with scratch() as folder:
            slide, mpp = given.slide, given.mpp
            if slide is None:
                side_px = given.size_px or SIDE_PX.get(trial, 600)
                slide, mpp = painted(folder, side_px, side_px * 5 // 4), 0.5
            pause_s = PAUSE_S.get(trial, 0.0) if given.pause_s is None else given.pause_s
            library = None if given.no_compiler else compiled_disk(folder)
            case = Case(slide.resolve(), mpp, given.model, pause_s, folder, library)
            print(f"== {trial}: {slide.name}, {given.model or 'stand-in'}, seed {given.seed}")
            wrong += TRIALS[trial](case, given.times or DEFAULT_N[trial], given.seed)
    print(f"{wrong} wrong" if wrong else "all is well")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
