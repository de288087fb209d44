"""A methods paragraph: what the run recorded, works in the order they are named, honest limits."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from run_dirs import RUN, cell_table, random_table, write_run

import wsiseg
from wsiseg.errors import ResultNotReadable, UsageError
from wsiseg.models import DEFAULT_MODEL, ModelCard


def shipped_card() -> ModelCard:
    return next(card for card in wsiseg.list_models() if card.name == DEFAULT_MODEL)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with everything a paragraph tells."""
    card = shipped_card()
    return write_run(
        tmp_path / "a.svs.wsiseg",
        random_table(1234),
        slide=RUN["slide"] | {"reader": "openslide", "mpp_source": "file"},
        model={"name": card.name, "sha256": card.sha256, "card": card.to_json()},
        options={"tissue": {"target_mpp": 8.0}, "decode": card.decode},
        numerics={"device_kind": "cpu", "precision": "float32", "backend": "rows"},
        regions=[
            {"name": n, "class": None, "kind": "tma-core", "missing": m, "analysed_mm2": 1.0}
            for n, m in (("A-1", False), ("A-2", True))
        ],
        tiles={
            "planned": 30,
            "run": 22,
            "unreadable": [{"row": 1, "col": 2, "box": [0, 0, 10, 10], "reason": "bad"}],
        },
    )


def test_it_says_what_was_done_and_with_what(run: Path) -> None:
    said = wsiseg.cite(run)
    card = shipped_card()
    for words in (
        *(f"wsiseg {RUN['wsiseg_version']} [1]", f"model {card.name}", card.sha256),
        *("0.5 µm per pixel, as stored in the file", "resampled to 0.25 µm per pixel"),
        *("at 8 µm per pixel", "within 2 regions of interest measured 2.5 mm²"),
        *("1 tile could not be read", "1 core of the microarray was marked as missing"),
        *("1,234 nuclei", "CPU, float32, backend rows", "nucleus_threshold 0.5"),
    ):
        assert words in said.methods
    for words in (
        *(
            "was not corrected",
            "each on the patients it was not trained on",
            "MoNuSeg: PQ 0.5",
            "expect worse on other",
        ),
        *("Epithelial does not mean tumour", "some tiles are out of focus"),
        "For research use only; not for use in diagnostic procedures.",
    ):
        assert words in said.limits
    assert "CC-BY-NC-SA-4.0" in said.licence
    assert "`" not in said.text
    assert ".." not in said.text.replace("…", "")


def test_works_are_numbered_in_the_order_they_are_named(run: Path) -> None:
    said = wsiseg.cite(run)
    named = [int(n) for n in re.findall(r"\[(\d+)\]", f"{said.methods} {said.limits}")]
    assert list(dict.fromkeys(named)) == list(range(1, len(said.references) + 1))
    for doi in ("10.1016/j.media.2019.101563", "10.1109/TMI.2017.2677499"):
        assert any(f"doi:{doi}" in work for work in said.references)
        assert f"doi = {{{doi}}}" in said.bibtex


def test_bibtex_is_balanced_with_a_key_each(run: Path) -> None:
    said = wsiseg.cite(wsiseg.open_result(run))
    entries = re.findall(r"^@(\w+)\{(\w+),$", said.bibtex, re.MULTILINE)
    assert len(entries) == len(said.references) == len({key for _, key in entries})
    assert said.bibtex.count("{") == said.bibtex.count("}")
    assert said.bibtex.count("\n}\n") == len(entries)


def test_a_run_of_another_model_cites_nothing_it_did_not_use(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "a.wsiseg", cell_table([], [], []), options={"tissue": "none"}, classes=[]
    )
    said = wsiseg.cite(run)
    assert len(said.references) == 2
    assert "The whole slide measured 2.5 mm²" in said.methods
    assert "licence of the model test-model is not recorded" in said.licence
    assert "None" not in said.text


def test_what_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultNotReadable):
        wsiseg.cite(tmp_path / "nothing.wsiseg")


def entries_of(bibtex: str) -> list[tuple[str, str, dict[str, str]]]:
    """Read a BibTeX file as its grammar has it: kind, key, fields in balanced braces."""
    entries, at = [], 0
    while (head := re.compile(r"\s*@(\w+)\{(\w+),\s*").match(bibtex, at)) is not None:
        at, fields = head.end(), {}
        while (name := re.compile(r"(\w+) = \{").match(bibtex, at)) is not None:
            end, depth = name.end(), 1
            while depth:
                step = 2 if bibtex[end] == "\\" else 1
                depth += {"{": 1, "}": -1}.get(bibtex[end], 0)
                end += step
            assert name[1] not in fields
            fields[name[1]] = bibtex[name.end() : end - 1]
            at = re.compile(r",?\s*").match(bibtex, end).end()  # type: ignore[union-attr]
        assert bibtex[at] == "}"
        at += 1
        entries.append((head[1], head[2], fields))
    assert not bibtex[at:].strip()
    return entries


def test_bibtex_can_be_read_by_tex(tmp_path: Path, run: Path) -> None:
    works = {key: (kind, fields) for kind, key, fields in entries_of(wsiseg.cite(run).bibtex)}
    kind, monuseg = works["kumar2017monuseg"]
    assert kind == "article"
    assert [monuseg[name] for name in ("volume", "number", "pages", "year")] == [
        *("36", "7", "1550--1560", "2017")
    ]
    assert "IEEE Transactions on Medical Imaging 36(7):1550-1560 (2017)" in wsiseg.cite(run).text
    assert all("note" not in fields for _, fields in works.values())
    assert works["wsiseg"][1]["title"] == (
        r"{wsiseg: every nucleus of a whole H\&E slide, once and in the right place}"
    )
    odd = write_run(tmp_path / "odd.wsiseg", random_table(3), wsiseg_version="1_0%{}\\~^#$&\n@x{y,")
    said = wsiseg.cite(odd).bibtex
    assert len(entries_of(said)) == len(wsiseg.cite(odd).references)
    for _, _, fields in entries_of(said):
        for value in fields.values():
            assert not re.search(r"(?<!\\)[&%$#_~^]", value)


def test_what_a_model_without_classes_learned_from_is_cited_where_it_is_said(
    run: Path, tmp_path: Path
) -> None:
    record = json.loads((run / "run.json").read_text())
    path = write_run(tmp_path / "b.wsiseg", random_table(5), model=record["model"], classes=[])
    said = wsiseg.cite(path)
    assert re.search(r"The model was trained on: .*MoNuSeg \[\d\]", said.methods)
    named = [int(n) for n in re.findall(r"\[(\d+)\]", f"{said.methods} {said.limits}")]
    assert list(dict.fromkeys(named)) == list(range(1, len(said.references) + 1))


def test_runs_made_alike_are_one_paragraph(tmp_path: Path) -> None:
    out, options = tmp_path / "out", {"tissue": "none"}
    finer = RUN["slide"] | {"mpp": 0.25}
    write_run(out / "a.wsiseg", random_table(10), options=options)
    one = wsiseg.cite(out)
    assert one == wsiseg.cite(out / "a.wsiseg")
    write_run(out / "b.wsiseg", random_table(20), options=options)
    write_run(
        out / "c.wsiseg",
        random_table(30),
        options=options | {"scale": {"mpp": 0.25}},
        slide=finer,
        warnings=[],
    )
    said = wsiseg.cite(str(out / "*.wsiseg"))
    for words in (
        *("in 3 H&E-stained whole-slide images", "2 slides (0.5 µm per pixel", "60 nuclei"),
        *("1 slide (0.25 µm per pixel", "All of the slides measured 7.5 mm² in all"),
    ):
        assert words in said.methods
    assert "some tiles are out of focus (2 of 3 slides)" in said.limits
    write_run(out / "d.wsiseg", random_table(5), options={"tissue": "auto"})
    with pytest.raises(UsageError, match=r"4 runs were not .* differ in options"):
        wsiseg.cite(out)
