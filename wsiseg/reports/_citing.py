"""A methods paragraph for a paper, from what a run recorded of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiseg.reports._numbers import short, whole
from wsiseg.reports._references import (
    DECONVOLUTION,
    EFFICIENTNET,
    HOVERNET,
    MONUSEG,
    OPENSLIDE,
    PANOPTIC,
    PYTORCH,
    Reference,
    references_of,
)
from wsiseg.results import Result, open_result

_RELEASED = 2026


@dataclass(frozen=True, slots=True)
class Citation:
    """How a run is described in a paper."""

    methods: str
    """What was done, one paragraph; numbers in brackets are those of `references`."""
    limits: str
    """What the results do not say, one paragraph."""
    licence: str
    """Under which conditions the model may be used."""
    references: tuple[str, ...]
    """The first is [1]."""
    bibtex: str
    """The same works as a BibTeX file."""

    @property
    def text(self) -> str:
        """All of it as plain text."""
        listed = "\n".join(f"[{i}] {work}" for i, work in enumerate(self.references, start=1))
        return f"{self.methods}\n\n{self.limits}\n\n{self.licence}\n\n{listed}\n"


def cite(run: str | Path | Result) -> Citation:
    """Describe a run for the methods section of a paper, with its limits and references.

    Everything comes from `run.json`: neither slide nor model is needed.

    Parameters
    ----------
    run
        A `*.wsiseg` directory, or a result.

    Raises
    ------
    ResultNotReadable
        If the run is missing, unfinished or damaged.
    """
    result = run if isinstance(run, Result) else open_result(run)
    version = str(result.run.get("wsiseg_version", "unknown"))
    works = references_of(result.run, version, _RELEASED)
    number = {work: f" [{i}]" for i, work in enumerate(works, start=1)}
    sentences = [*_program(result, version, number), *_area(result), *_tiles(result)]
    sentences += [*_measured(result, number), *_computed(result, number)]
    return Citation(
        methods=" ".join(sentences),
        limits=" ".join(_limits(result, number)),
        licence=_licence(result),
        references=tuple(work.text() for work in works),
        bibtex="\n\n".join(work.bibtex() for work in works) + "\n",
    )


_Numbers = Mapping[Reference, str]


def _program(result: Result, version: str, number: _Numbers) -> Iterator[str]:
    card, slide = _card(result), result.run["slide"]
    sha = str(result.run["model"].get("sha256", "not recorded"))
    network = _network(card, number)
    yield (
        f"Nuclei were segmented in the H&E-stained whole-slide image with wsiseg {version} [1], "
        f"model {result.model_name} ({network}SHA-256 {sha})."
    )
    source = {"file": "as stored in the file"}.get(str(slide.get("mpp_source")), "as given")
    model_mpp = result.frame.scale * result.mpp
    reader = slide.get("reader")
    with_reader = f", read with {reader}{number.get(OPENSLIDE, '')}," if reader else ""
    ratio = model_mpp / result.mpp
    resampled = (
        "was used as it is"
        if abs(ratio - 1) < 1e-6
        else f"was resampled to {short(model_mpp, 4)} µm per pixel for the network"
    )
    yield f"The slide ({short(result.mpp, 4)} µm per pixel, {source}){with_reader} {resampled}."
    if result.class_names:
        learned = f"; trained on: {'; '.join(map(str, data))}" if (data := _data(result)) else ""
        learned = learned.replace("MoNuSeg", f"MoNuSeg{number.get(MONUSEG, '')}", 1)
        yield f"Nuclei were assigned to the classes {', '.join(result.class_names)}{learned}."


def _network(card: Mapping[str, Any], number: _Numbers) -> str:
    """Return what kind of network it is, up to what follows; empty if the card does not say."""
    architecture = card.get("architecture")
    if not architecture:
        return ""
    known = {"hovernet": f"a HoVer-Net-like network{number.get(HOVERNET, '')}"}
    kind = known.get(str(architecture), f"architecture {architecture}")
    encoder = (card.get("network") or {}).get("encoder")
    with_encoder = f" with encoder {encoder}{number.get(EFFICIENTNET, '')}" if encoder else ""
    return f"{kind}{with_encoder}; "


def _area(result: Result) -> Iterator[str]:
    tissue = (result.run.get("options") or {}).get("tissue")
    if isinstance(tissue, Mapping) and "target_mpp" in tissue:
        what = f"Tissue, found by its stain at {short(tissue['target_mpp'])} µm per pixel,"
    else:
        # "none", the hash of a file with outlines, or nothing.
        drawn = "Tissue, as outlined in a file," if tissue else "The analysed area"
        what = "The whole slide" if tissue == "none" else drawn
    n = len(result.regions)
    within = f" within {n} region{'s' if n > 1 else ''} of interest" if n else ""
    yield f"{what}{within} measured {short(result.analysed_mm2, 4)} mm²; densities refer to it."
    if left_out := len((result.run.get("tiles") or {}).get("unreadable", ())):
        one = left_out == 1
        said = "1 tile" if one else f"{left_out} tiles"
        yield f"{said} could not be read and {'is' if one else 'are'} not part of it."
    if n_missing := sum(bool(region["missing"]) for region in result.regions):
        said = "1 core of the microarray was" if n_missing == 1 else f"{n_missing} cores were"
        yield f"{said} marked as missing and not counted."


def _tiles(result: Result) -> Iterator[str]:
    card = _card(result)
    decode = (result.run.get("options") or {}).get("decode") or card.get("decode") or {}
    if "core_px" in card:
        yield (
            f"Tiles of {card['core_px']}² px on a fixed grid were computed with "
            f"{card.get('margin_px')} px of context on each side, and decoded with fixed "
            f"parameters ({', '.join(f'{name} {value}' for name, value in decode.items())}); "
            "a nucleus belongs to the tile that holds its centroid, and "
            "where tiles disagreed one version was kept by a fixed rule, so that each nucleus "
            "counts once."
        )


def _measured(result: Result, number: _Numbers) -> Iterator[str]:
    yield (
        f"In all, {whole(result.run['n_cells'])} nuclei were found; areas are pixel counts times "
        "the area of a pixel, perimeters use the Crofton formula; optical densities, where given, "
        f"are those of haematoxylin and eosin after colour deconvolution{number[DECONVOLUTION]}."
    )


def _computed(result: Result, number: _Numbers) -> Iterator[str]:
    numerics = result.run.get("numerics") or {}
    versions = result.run.get("versions") or {}
    if numerics:
        torch = number.get(PYTORCH)
        trained = f"; the network was trained with PyTorch{torch}" if torch else ""
        others = ", ".join(f"{name} {v}" for name, v in versions.items())
        device = str(numerics.get("device_kind")).upper()
        yield (
            f"Computation: {device}, {numerics.get('precision')}, backend "
            f"{numerics.get('backend')}{f', with {others}' if others else ''}{trained}."
        )


def _limits(result: Result, number: _Numbers) -> Iterator[str]:
    about = _card(result).get("about") or {}
    yield "Limits: the segmentation is automatic and, unless said otherwise, was not corrected."
    metrics = (about.get("metrics") or {}).get("mean_over_images") or {}
    told = [
        f"{name}: PQ {one['pq']:.2f}, Dice {one['dice']:.2f} (mean of {one['images']} images)"
        for name, one in metrics.items()
        if isinstance(one, Mapping) and {"pq", "dice", "images"} <= one.keys()
    ]
    if told:
        yield f"On images held back from training the model reached {'; '.join(told)}" + (
            f"{number.get(PANOPTIC, '')}."
        )
    if valid := about.get("classes_valid_on"):
        yield f"Classes are valid on: {valid}".rstrip(".") + "."
    failures = [
        str(said).replace("`", "").strip().rstrip(".") for said in about.get("known_failures", ())
    ]
    if failures:
        yield f"Known failures: {'; '.join(failures)}."
    warned = [str(w["message"]).strip().rstrip(".") for w in result.warnings]
    if warned:
        yield f"Warnings of this run: {'; '.join(warned)}."
    yield "For research use only; not for use in diagnostic procedures."


def _licence(result: Result) -> str:
    card = _card(result)
    licence = card.get("licence")
    if not licence:
        return f"The licence of the model {result.model_name} is not recorded."
    note = str(card.get("licence_note", "")).strip()
    return f"Licence of the model: {licence}" + (f": {note}" if note else ".")


def _card(result: Result) -> Mapping[str, Any]:
    card = result.run["model"].get("card")
    return card if isinstance(card, Mapping) else {}


def _data(result: Result) -> list[Any]:
    return list((_card(result).get("about") or {}).get("data", ()))
