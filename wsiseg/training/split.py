"""Which images a training learns from, and which it is judged on: never one patient in both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from wsiseg.errors import UsageError
from wsiseg.labels.records import LabelledImage, LabelSet

_MOST_NAMES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Two sides that share no patient."""

    train: tuple[LabelSet, ...]
    """To learn from; sets with images left, in their order."""
    validation: tuple[LabelSet, ...]
    """To be judged on; sets with images held back, in their order."""
    held_back: tuple[str, ...]
    """Patients of the second, sorted."""

    @property
    def held_back_images(self) -> list[tuple[str, LabelledImage]]:
        """Every image held back, with the name of its set."""
        return [(each.name, image) for each in self.validation for image in each.images]


def split_sets(sets: Sequence[LabelSet], validation: float | Sequence[str], seed: int) -> Split:
    """Hold patients back.

    Parameters
    ----------
    sets : sequence of LabelSet
        All annotated images.
    validation : float or sequence of str
        Share of each set's patients, of which at least one is held back wherever a set has two;
        or names of patients or images, whose patients are held back with all their images.
    seed : int
        Chooses patients where a share is given.

    Returns
    -------
    Split
        A patient in several sets is on the same side in all of them.

    Raises
    ------
    UsageError
        If there is no image, one patient only, a name that nobody has, or nothing left to learn
        from.
    """
    images = [image for each in sets for image in each.images]
    if not images:
        raise UsageError("no annotated image was found; at least two, of two patients, are needed")
    patients = {image.patient for image in images}
    if len(patients) < 2:
        raise UsageError(
            f"all {len(images)} images are of one patient ({min(patients)}); a model can only be "
            "judged on a patient it has not seen: annotate an image of a second one"
        )
    if isinstance(validation, int | float):
        held = _drawn(sets, float(validation), seed)
    else:
        held = _named(images, validation)
    if held == patients:
        raise UsageError(
            f"all {len(patients)} patients are held back, none is left to learn from; name fewer, "
            "or give a smaller share"
        )
    return Split(
        tuple(_those(sets, patients - held)), tuple(_those(sets, held)), tuple(sorted(held))
    )


def _those(sets: Sequence[LabelSet], patients: set[str]) -> Iterator[LabelSet]:
    for each in sets:
        images = tuple(image for image in each.images if image.patient in patients)
        if images:
            yield replace(each, images=images)


def _drawn(sets: Sequence[LabelSet], share: float, seed: int) -> set[str]:
    if not 0 < share < 1:
        raise UsageError(f"validation share {share:g}; a number above 0 and below 1 is needed")
    rng = np.random.default_rng(seed)
    held: set[str] = set()
    for each in sets:
        patients = sorted({image.patient for image in each.images})
        n = min(max(1, round(share * len(patients))), len(patients) - 1)
        # Those of an earlier set count: a patient in two sets is held back once.
        n -= len(held.intersection(patients))
        left = [patient for patient in patients if patient not in held]
        held.update(str(name) for name in rng.permutation(left)[: max(0, n)])
    if held:
        return held
    # Sets of one patient each.
    everyone = sorted({image.patient for each in sets for image in each.images})
    return {str(name) for name in rng.permutation(everyone)[: max(1, round(share * len(everyone)))]}


def _named(images: Sequence[LabelledImage], names: Sequence[str]) -> set[str]:
    held = {image.patient for image in images if {image.patient, image.name}.intersection(names)}
    known = {image.patient for image in images} | {image.name for image in images}
    missing = [name for name in names if name not in known]
    if missing or not held:
        some = sorted({image.patient for image in images})
        shown = ", ".join(some[:_MOST_NAMES]) + (", …" if len(some) > _MOST_NAMES else "")
        raise UsageError(
            f"no image or patient is called {', '.join(missing) or 'nothing'}; patients here: "
            f"{shown}"
        )
    return held
