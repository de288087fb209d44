"""What the shipped models are made of: images, recipe, and who is judged by whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsiseg.labels.options import LabelOptions
from wsiseg.labels.reading import read_label_sets
from wsiseg.labels.records import LabelledImage, LabelSet
from wsiseg.labels.resampling import resample_sets
from wsiseg.models import NucleusClass
from wsiseg.training.fit import TrainOptions

CLASSES = (
    NucleusClass("Epithelial", (255, 230, 0)),
    NucleusClass("Inflammatory", (60, 255, 60)),
    NucleusClass("Spindle", (0, 220, 255)),
    NucleusClass("Miscellaneous", (255, 140, 0)),
)
LABELS = LabelOptions(
    mpp=0.25,
    classes=tuple(one.name for one in CLASSES),
    class_of={"1": "Miscellaneous", "2": "Inflammatory", "3": "Epithelial", "4": "Spindle"},
)
"""What the files of MoNuSeg and CoNSeP do not say."""
NUCLEI_ONLY = LabelOptions(mpp=0.25, class_of={"1": "", "2": ""})
"""Of the CC0 sets: the classes of `nucls_sample` are unrelated to anything seen in its images."""
ANNOTATED = ("monuseg_train", "consep_train")
CC0 = ("nucls_sample", "dsb2018_brightfield")
TITLES = {"monuseg_train": "MoNuSeg", "consep_train": "CoNSeP"}

REBUILT = frozenset({"TCGA-AY-A8YK", "TCGA-G2-A2EK", "TCGA-G9-6336", "TCGA-G9-6348"})
"""Patients whose labels were rebuilt from contours: learned from, never scored."""
ORGANS = ("lung", "breast", "kidney", "prostate", "bladder", "colon", "stomach")

BASE = TrainOptions(
    batch_size=32,
    learning_rate=3e-3,
    ema_decay=0.998,
    class_weights=(1.0, 1.0, 1.0, 2.5),
    checkpoint_steps=200,
)


@dataclass(frozen=True, slots=True)
class Fold:
    """Images that one network is judged on and does not see in training."""

    name: str
    patients: frozenset[str]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model is made."""

    name: str
    mpp: float
    folders: tuple[str, ...]
    """Below the data folder."""
    labels: LabelOptions
    classes: tuple[NucleusClass, ...]
    steps: int
    """Of the shipped network, which learns from all images."""
    fold_steps: int
    """Of the networks that are judged; 0: the shipped one is judged, on data it never saw."""
    folds: str
    """`organs`: of each organ all; `patients`: a third each."""
    licence: str
    licence_note: str
    known_failures: tuple[str, ...]

    def options(self, steps: int, device: str, precision: str) -> TrainOptions:
        """Return how a network of this recipe is trained."""
        decay = 0.999 if steps > 2000 else BASE.ema_decay
        n_classes = len(self.classes)
        return replace(
            BASE,
            steps=steps,
            ema_decay=decay,
            class_weights=BASE.class_weights[:n_classes],
            device=device,
            precision=precision,  # type: ignore[arg-type]
        )

    def read(self, data: Path) -> tuple[LabelSet, ...]:
        """Read the images to learn from, at the model's µm per pixel."""
        return read_sets(data, self.folders, self.labels, self.mpp)


FAILURES = (
    "trained on 57 images of two sources: expect worse on other scanners, stains and organs",
    "pale or out-of-focus nuclei are missed, crowded ones merged; pigment, ink and "
    "keratin are taken for nuclei",
    "`Miscellaneous` (mitotic, necrotic, …) is rare in the data and unreliable",
)
NON_COMMERCIAL = "weights for non-commercial research only (trained on MoNuSeg and CoNSeP)."
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "nuclei-40x-v1", 0.25, ANNOTATED, LABELS, CLASSES, 3200, 1050, "organs",
            "CC-BY-NC-SA-4.0", NON_COMMERCIAL,
            (*FAILURES, "slides coarser than 0.4 µm/px are enlarged: use nuclei-20x-v1"),
        ),
        Recipe(
            "nuclei-20x-v1", 0.5, ANNOTATED, LABELS, CLASSES, 800, 350, "patients",
            "CC-BY-NC-SA-4.0", NON_COMMERCIAL,
            (*FAILURES, "small lymphocytes cover some twenty pixels and often merge"),
        ),
        Recipe(
            "nuclei-40x-cc0", 0.25, CC0, NUCLEI_ONLY, (), 600, 0, "",
            "CC0-1.0", "weights in the public domain (trained on CC0 images alone).",
            (
                "learned from 15 small images of breast and 107 of other stains, most not H&E: "
                "poor on CoNSeP",
                "its images of breast are of TCGA, as MoNuSeg is: that no tissue is in both was "
                "not checked",
                "no classes: those of its data are unrelated to what is seen",
            ),
        ),
    )
}  # fmt: skip


def read_sets(
    data: Path, folders: Sequence[str], labels: LabelOptions, mpp: float
) -> tuple[LabelSet, ...]:
    """Read annotated images and bring them to a µm per pixel."""
    read = read_label_sets([data / name for name in folders], labels)
    return resample_sets(read, mpp).sets


def organ_folds(sets: Sequence[LabelSet]) -> list[Fold]:
    """Hold back each organ of MoNuSeg, and with the k-th every seventh image of CoNSeP from k."""
    monuseg, consep = sets
    numbered = _numbered(consep)
    return [
        Fold(
            organ,
            frozenset(
                image.patient for image in monuseg.images if monuseg.organs[image.name] == organ
            )
            | frozenset(numbered[k :: len(ORGANS)]),
        )
        for k, organ in enumerate(ORGANS)
    ]


def patient_folds(sets: Sequence[LabelSet], n: int = 3) -> list[Fold]:
    """Deal patients, organ by organ, and images of CoNSeP, to n folds."""
    monuseg, consep = sets
    order = [
        image.patient
        for organ in ORGANS
        for image in monuseg.images
        if monuseg.organs[image.name] == organ
    ]
    numbered = _numbered(consep)
    return [Fold(f"part{k}", frozenset(order[k::n]) | frozenset(numbered[k::n])) for k in range(n)]


def _numbered(consep: LabelSet) -> list[str]:
    """Return CoNSeP's images as they are numbered: train_2 before train_10."""
    return sorted((i.name for i in consep.images), key=lambda name: int(name.split("_")[1]))


def without(sets: Sequence[LabelSet], patients: frozenset[str]) -> list[LabelSet]:
    """Return sets without the images of patients."""
    return [
        replace(one, images=tuple(i for i in one.images if i.patient not in patients))
        for one in sets
    ]


def judged_images(
    sets: Sequence[LabelSet], patients: frozenset[str] | None
) -> Iterator[tuple[LabelSet, LabelledImage]]:
    """Yield the images of patients (None: of all) that are fit for scoring, with their set."""
    for one in sets:
        for image in one.images:
            wanted = patients is None or image.patient in patients
            if wanted and image.patient not in REBUILT:
                yield one, image
