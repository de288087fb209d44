"""A methods paragraph for a paper, from what a run recorded of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiseg.errors import UsageError
from wsiseg.reports._numbers import short, whole
from wsiseg.reports._references import (
    DECONVOLUTION,
    EFFICIENTNET,
    HOVERNET,
    MONUSEG,
    OPENSLIDE,
    PANOPTIC,
    PYTORCH,
    WORKS,
    Reference,
    wsiseg_itself,
)
from wsiseg.results import Result, find_results, open_result
from wsiseg.rundir import unreadable_tiles

_RELEASED = 2026
_MOST_WARNINGS = 8


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


def cite(runs: str | Path | Result | Sequence[str | Path]) -> Citation:
    """Describe runs for the methods section of a paper, with their limits and references.

    Everything comes from `run.json`: neither slides nor model are needed.

    Parameters
    ----------
    runs
        A run, a folder of runs, a glob, several of them, or a result.  Several runs must be of
        one model, version and set of options: then one paragraph is true of all.

    Raises
    ------
    ResultNotReadable
        If there is no run, or one is unfinished or damaged: no number leaves a slide out silently.
    UsageError
        If the runs were not made alike.
    """
    results = [runs] if isinstance(runs, Result) else [open_result(p) for p in find_results(runs)]
    _check_alike(results)
    version = str(results[0].run.get("wsiseg_version", "unknown"))
    known = (wsiseg_itself(version, _RELEASED), *WORKS)
    mark = {work: f" [@{work.key}]" for work in known}
    sentences = [*_program(results, version, mark), *_slides(results, mark)]
    sentences += [*_classes(results[0]), *_training(results[0], mark), *_area(results)]
    sentences += [*_tiles(results[0]), *_measured(results, mark), *_computed(results, mark)]
    methods, limits = " ".join(sentences), " ".join(_limits(results, mark))
    works = _in_order(f"{methods} {limits}", mark)
    for i, work in enumerate(works, start=1):
        methods, limits = (text.replace(mark[work], f" [{i}]") for text in (methods, limits))
    return Citation(
        methods=methods,
        limits=limits,
        licence=_licence(results[0]),
        references=tuple(work.text() for work in works),
        bibtex="\n\n".join(work.bibtex() for work in works) + "\n",
    )


_Marks = Mapping[Reference, str]
"""What stands for the number of each work, until it is known which are named, and when."""


def _in_order(text: str, mark: _Marks) -> list[Reference]:
    """Return the works a text names, in the order in which it does."""
    named = [work for work in mark if mark[work] in text]
    return sorted(named, key=lambda work: text.index(mark[work]))


def _check_alike(results: Sequence[Result]) -> None:
    """Raise UsageError unless one paragraph can be true of all runs."""
    what = {
        "model": [result.run["model"].get("sha256") for result in results],
        "version of wsiseg": [result.run.get("wsiseg_version") for result in results],
        "options": [_common_options(result) for result in results],
    }
    differ = [name for name, values in what.items() if any(v != values[0] for v in values)]
    if differ:
        raise UsageError(
            f"these {len(results)} runs were not made alike (they differ in {', '.join(differ)}), "
            "so no one paragraph is true of all; name one run, or runs that were made alike"
        )


def _common_options(result: Result) -> dict[str, Any]:
    """Return the options but for the scale, which is each slide's own and said of each."""
    options = result.run.get("options")
    given = options if isinstance(options, Mapping) else {}
    return {name: value for name, value in given.items() if name != "scale"}


def _program(results: Sequence[Result], version: str, mark: _Marks) -> Iterator[str]:
    result, n = results[0], len(results)
    sha = str(result.run["model"].get("sha256", "not recorded"))
    network = _network(_card(result), mark)
    itself = next(text for work, text in mark.items() if work.key == "wsiseg")
    slides = (
        "the H&E-stained whole-slide image" if n == 1 else f"{n} H&E-stained whole-slide images"
    )
    yield (
        f"Nuclei were segmented in {slides} with wsiseg {version}{itself}, "
        f"model {result.model_name} ({network}SHA-256 {sha})."
    )


def _slides(results: Sequence[Result], mark: _Marks) -> Iterator[str]:
    """Yield a sentence for the slides of each scale, reader and way the scale was known."""
    counts = Counter(map(_scale, results))
    for (mpp, source, reader, model_mpp), n in counts.items():
        source = {"file": "as stored in the file"}.get(source, "as given")
        is_as_it_is = abs(model_mpp / mpp - 1) < 1e-6
        was, they = ("was", "it is") if n == 1 else ("were", "they are")
        resampled = (
            f"{was} used as {they}"
            if is_as_it_is
            else f"{was} resampled to {short(model_mpp, 4)} µm per pixel for the network"
        )
        by = f", read with {reader}{mark[OPENSLIDE] if reader == 'openslide' else ''},"
        one = "The slide" if len(results) == 1 else f"{n} slide{'s' if n > 1 else ''}"
        yield f"{one} ({short(mpp, 4)} µm per pixel, {source}){by if reader else ''} {resampled}."


def _scale(result: Result) -> tuple[float, str, str, float]:
    slide = result.run["slide"]
    source, reader = str(slide.get("mpp_source")), str(slide.get("reader") or "")
    return result.mpp, source, reader, result.frame.scale * result.mpp


def _classes(result: Result) -> Iterator[str]:
    if result.class_names:
        by = "" if result.version is None else _relabelled(result.version.record)
        yield f"Nuclei were assigned to the classes {', '.join(result.class_names)}{by}."


def _training(result: Result, mark: _Marks) -> Iterator[str]:
    if data := (_card(result).get("about") or {}).get("data", ()):
        told = "; ".join(map(str, data))
        for name, work in (("CoNSeP", HOVERNET), ("MoNuSeg", MONUSEG)):
            told = told.replace(name, f"{name}{mark[work]}", 1)
        yield f"The model was trained on: {told}".rstrip(".") + "."


def _relabelled(record: Mapping[str, Any]) -> str:
    """Return how a version of the classes was made, as far as its record says."""
    made = record.get("made_by")
    how = made.get("method") if isinstance(made, Mapping) else None
    return f" by the version {record.get('name')} of the classes" + (f" ({how})" if how else "")


def _network(card: Mapping[str, Any], mark: _Marks) -> str:
    """Return what kind of network it is, up to what follows; empty if the card does not say."""
    architecture = card.get("architecture")
    if not architecture:
        return ""
    known = {"hovernet": f"a HoVer-Net-like network{mark[HOVERNET]}"}
    kind = known.get(str(architecture), f"architecture {architecture}")
    encoder = (card.get("network") or {}).get("encoder")
    cited = mark[EFFICIENTNET] if "efficientnet" in str(encoder) else ""
    with_encoder = f" with encoder {encoder}{cited}" if encoder else ""
    return f"{kind}{with_encoder}; "


def _area(results: Sequence[Result]) -> Iterator[str]:
    tissue = (results[0].run.get("options") or {}).get("tissue")
    many = len(results) > 1
    if isinstance(tissue, Mapping) and "target_mpp" in tissue:
        what = f"Tissue, found by its stain at {short(tissue['target_mpp'])} µm per pixel,"
    else:
        # "none", the hash of a file with outlines, or nothing.
        drawn = "Tissue, as outlined in a file," if tissue else "The analysed area"
        whole_slides = "All of the slides" if many else "The whole slide"
        what = whole_slides if tissue == "none" else drawn
    regions = [region for result in results for region in result.regions]
    n = len(regions)
    within = f" within {n} region{'s' if n > 1 else ''} of interest" if n else ""
    area_mm2 = sum(result.analysed_mm2 for result in results)
    yield (
        f"{what}{within} measured {short(area_mm2, 4)} mm²{' in all' if many else ''}; densities "
        "refer to it."
    )
    if left_out := sum(len(unreadable_tiles(result.run)) for result in results):
        one = left_out == 1
        said = "1 tile" if one else f"{left_out} tiles"
        yield f"{said} could not be read and {'is' if one else 'are'} not part of it."
    if n_missing := sum(bool(region["missing"]) for region in regions):
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


def _measured(results: Sequence[Result], mark: _Marks) -> Iterator[str]:
    n_cells = sum(result.run["n_cells"] for result in results)
    yield (
        f"In all, {whole(n_cells)} nuclei were found; areas are pixel counts times "
        "the area of a pixel, perimeters use the Crofton formula; optical densities, where given, "
        f"are those of haematoxylin and eosin after colour deconvolution{mark[DECONVOLUTION]}."
    )


def _computed(results: Sequence[Result], mark: _Marks) -> Iterator[str]:
    """Yield how it was computed: a sentence, or one for each way."""
    is_torch = _card(results[0]).get("architecture") == "hovernet"
    trained = f"; the network was trained with PyTorch{mark[PYTORCH]}" if is_torch else ""
    said: dict[str, None] = {}
    for result in results:
        if numerics := result.run.get("numerics") or {}:
            versions = result.run.get("versions") or {}
            others = ", ".join(f"{name} {v}" for name, v in versions.items())
            device = str(numerics.get("device_kind")).upper()
            text = f"{device}, {numerics.get('precision')}, backend {numerics.get('backend')}"
            if "tta" in numerics:
                text += f", test-time augmentation {numerics['tta']}"
            said[text + (f", with {others}" if others else "")] = None
    if said:
        yield f"Computation: {'; or '.join(said)}{trained}."


def _limits(results: Sequence[Result], mark: _Marks) -> Iterator[str]:
    result = results[0]
    about = _card(result).get("about") or {}
    yield "Limits: the segmentation is automatic and, unless said otherwise, was not corrected."
    yield from _quality(about.get("metrics") or {}, mark)
    if (valid := about.get("classes_valid_on")) and result.version is None:
        yield f"Classes are valid on: {valid}".rstrip(".") + "."
    failures = [
        str(said).replace("`", "").strip().rstrip(".") for said in about.get("known_failures", ())
    ]
    if failures:
        yield f"Known failures: {'; '.join(failures)}."
    yield from _warned(results)
    yield "For research use only; not for use in diagnostic procedures."


def _quality(metrics: Mapping[str, Any], mark: _Marks) -> Iterator[str]:
    """Yield how good the model is, on images that it or its like never saw."""
    sets = metrics.get("sets") or {}
    told = [
        f"{name}: PQ {_number(one['pq']):.2f}, Dice {_number(one['dice']):.2f} (mean of "
        f"{one['images']} images)"
        for name, one in (sets or metrics.get("mean_over_images") or {}).items()
        if isinstance(one, Mapping) and {"pq", "dice", "images"} <= one.keys()
    ]
    if not told:
        return
    who = (
        f"{metrics.get('how')}: "
        if sets
        else "On images held back from training the model reached "
    )
    yield f"{who[0].upper()}{who[1:]}{'; '.join(told)}{mark[PANOPTIC]}."


def _number(estimate: Any) -> float:
    """Return an estimate's value; the first cards have numbers alone."""
    return float(estimate["value"] if isinstance(estimate, Mapping) else estimate)


def _warned(results: Sequence[Result]) -> Iterator[str]:
    """Yield what the runs warned of; of several, on how many slides."""
    counts = Counter(
        message
        for result in results
        for message in dict.fromkeys(str(w["message"]).strip().rstrip(".") for w in result.warnings)
    )
    if not counts:
        return
    if len(results) == 1:
        yield f"Warnings of this run: {'; '.join(counts)}."
        return
    told = [f"{message} ({n} of {len(results)} slides)" for message, n in counts.most_common()]
    more = f"; and {len(told) - _MOST_WARNINGS} more" if len(told) > _MOST_WARNINGS else ""
    yield f"Warnings of these runs: {'; '.join(told[:_MOST_WARNINGS])}{more}."


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
