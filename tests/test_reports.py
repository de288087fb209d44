"""Pages for people: one file, nothing loaded, every name escaped, the numbers of `summary()`."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_dirs import CLASSES, cell_table, random_table, write_run
from typer.testing import CliRunner

import wsiseg
from wsiseg import crop_files, reports
from wsiseg.classes.versions import CLASSES_SCHEMA
from wsiseg.cli import app
from wsiseg.errors import OutputNotWritable, ResultNotReadable, UnknownName, UsageError
from wsiseg.exporters.class_table import write_class_version
from wsiseg.reports._made import how_it_was_made
from wsiseg.reports._numbers import percent, short, whole
from wsiseg.reports._places import file_names, names_of_runs
from wsiseg.reports._slide_page import slide_page, slide_view
from wsiseg.testing.models import LocalNetwork
from wsiseg.testing.painted import paint_tissue
from wsiseg.testing.slides import ArraySlide

VOID = {"meta", "img", "input", "br", "link", "hr"}
HOSTILE = "<img src=x onerror=alert(1)>\"'&</script><script>alert(2)</script>"


class Page(HTMLParser):
    """A page's elements, its text, and whether all elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def parsed(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def check_alone(text: str, path: Path) -> Page:
    """The page loads nothing, its own parts are allowed by hash, links lead to files."""
    page = Page(text)
    assert not page.all("link")
    assert not page.all("iframe")
    for _, attributes in page.elements:
        assert "style" not in attributes, "the policy refuses it"
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action", "data"):
            address = attributes.get(name)
            if address is None or address.startswith("data:image/"):
                continue
            assert not re.match(r"[a-z][a-z0-9+.-]*:|//|/", address, re.IGNORECASE), address
            if address.startswith("#"):
                assert address[1:] in [a.get("id") for _, a in page.elements]
            else:
                assert (path.parent / unquote(address)).is_file(), address
    for image in page.all("img"):
        assert image["alt"]
    for image in page.all("svg"):
        assert image.get("aria-label") or image.get("aria-hidden") == "true"
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
        assert "url(" not in content
        assert "@import" not in content
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "For research use only" in page.words
    return page


def opened(path: Path) -> Page:
    return check_alone(path.read_text(encoding="utf-8"), path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> wsiseg.Result:
    """A run with two regions, one of them without anything, as this version makes it."""
    folder = tmp_path_factory.mktemp("run")
    square = [[60, 50], [560, 50], [560, 540], [60, 540], [60, 50]]
    corner = [[5, 5], [20, 5], [20, 20], [5, 20], [5, 5]]
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "annotation", "name": name},
        }
        for name, ring in ((f"{HOSTILE} 1", square), ("nothing here", corner))
    ]
    roi = folder / "roi.geojson"
    roi.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    rgb = paint_tissue(600, 640, 350, seed=3)
    slide = ArraySlide(rgb, mpp=0.5, name="painted.png")
    model = LocalNetwork(mpp=0.5, core_px=128, margin_px=64)
    options = wsiseg.PlanOptions(roi=roi, roi_origin="slide", tissue=None)
    return wsiseg.segment(slide, folder / "out", model=model, options=options)


@pytest.fixture
def copy(run: wsiseg.Result, tmp_path: Path) -> wsiseg.Result:
    return wsiseg.open_result(shutil.copytree(run.path, tmp_path / run.path.name))


# --- crops in a run


def test_a_run_keeps_plain_crops_of_each_kind(run: wsiseg.Result) -> None:
    stored = crop_files.read_crops(run.path)
    assert stored is not None
    kinds = [crop.kind for crop in stored.crops]
    assert set(kinds) == {"random", "densest", "uncertain", "seam"}
    assert kinds == sorted(kinds, key=["random", "densest", "uncertain", "seam"].index)
    files = list((run.path / "crops").iterdir())
    assert len(files) == len(kinds) + 2
    assert sum(path.stat().st_size for path in files) < 1_500_000
    for crop in stored.crops:
        assert crop.box[2:] == (crop.side_px, crop.side_px)
        assert b"Exif" not in crop.jpeg
        for seam in (*crop.seams_x_px, *crop.seams_y_px):
            assert 0 < seam < crop.side_px


def test_crops_repeat_to_the_byte(run: wsiseg.Result, tmp_path: Path) -> None:
    rgb = paint_tissue(300, 300, 400, seed=5)
    model = LocalNetwork(mpp=0.5, core_px=128, margin_px=32)
    made = [
        wsiseg.segment(ArraySlide(rgb, mpp=0.5, name="a.png"), tmp_path / name, model=model)
        for name in ("one", "two")
    ]
    one, two = ({p.name: p.read_bytes() for p in (r.path / "crops").iterdir()} for r in made)
    assert one == two


@pytest.mark.parametrize(
    "spoil",
    [
        lambda index: index | {"overview": "../run.json"},
        lambda index: index | {"overview": "/etc/hostname"},
        lambda index: index | {"format_version": 2},
        lambda index: index | {"crops": [{"file": "overview.jpg"}]},
        lambda index: {"crops": []},
        lambda index: [],
        lambda index: index | {"crops": [index["crops"][0] | {"side_px": 0}]},
        lambda index: index | {"crops": [index["crops"][0] | {"side_px": 1e400}]},
        lambda index: index | {"crops": [index["crops"][0] | {"box": [0, 0, 9, float("nan")]}]},
        lambda index: index | {"crops": [index["crops"][0] | {"box": [0, 0, 0, 9]}]},
        lambda index: index | {"crops": [index["crops"][0] | {"seams_x_px": [float("inf")]}]},
    ],
)
def test_damaged_crops_are_told_and_not_shown(copy: wsiseg.Result, spoil: Any) -> None:
    path = copy.path / "crops" / "crops.json"
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(ResultNotReadable, match="crops"):
        crop_files.read_crops(copy.path)
    page = check_alone(slide_page(copy, copy.name), copy.path / "report.html")
    assert "The stored crops cannot be shown: crops" in page.words
    # The slide is then that of the thumbnail.
    assert "From the run's thumbnail" in page.words


def test_a_picture_that_ends_too_early_is_told(copy: wsiseg.Result) -> None:
    path = copy.path / "crops" / "overview.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    words = opened(wsiseg.write_report(copy.path).pages[0]).words
    assert "The stored crops cannot be shown: crops is damaged" in words


@pytest.mark.parametrize(
    "odd",
    [
        {"tiles": 3},
        {"options": ["a"]},
        {"warnings": [{}]},
        {"warnings": 7},
        {"regions": [{}]},
        {"model": {"name": "m", "sha256": "0", "card": {"about": {"data": 3}}}},
        {"frame": {"scale": 0, "width_px": 1, "height_px": 1}},
        {"seconds": []},
        {"n_cells": "many"},
    ],
)
def test_one_odd_record_takes_no_other_page_down(tmp_path: Path, odd: dict[str, Any]) -> None:
    write_run(tmp_path / "good.svs.wsiseg", random_table(20))
    bad = write_run(tmp_path / "bad.svs.wsiseg", random_table(20), **odd)
    written = wsiseg.write_report(tmp_path)
    words = opened(written.pages[0]).words
    assert tmp_path / "good.svs.wsiseg" / "report.html" in written.pages
    if (bad / "report.html") in written.pages:
        assert not written.unread
        opened(bad / "report.html")
        return
    (said,) = written.unread
    assert said.startswith("bad.svs: ")
    assert "1 slide without a result" in words
    with pytest.raises(ResultNotReadable, match="bad"):
        wsiseg.write_report(bad)


def test_a_damaged_table_is_told_without_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "study" / "out"
    write_run(out / "good.svs.wsiseg", random_table(20))
    bad = write_run(out / "bad.svs.wsiseg", random_table(20))
    (bad / "features.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for given in (out, Path("../study/out")):
        _check_no_place(wsiseg.write_report(given, tmp_path / "pages"))


def _check_no_place(written: reports.WrittenReport) -> None:
    assert [reason.partition(": ")[0] for reason in written.unread] == ["bad.svs"]
    for path in written.pages:
        assert "study" not in path.read_text(encoding="utf-8")
        assert "../" not in path.read_text(encoding="utf-8")


def test_crops_that_are_there_stay(copy: wsiseg.Result) -> None:
    before = (copy.path / "crops" / "crops.json").read_bytes()
    crop_files.write_crops(copy.path, np.zeros((9, 9, 3), np.uint8), [])
    assert (copy.path / "crops" / "crops.json").read_bytes() == before
    assert not [path for path in copy.path.iterdir() if path.name.startswith(".")]


# --- a slide's page


def test_a_page_says_what_the_summary_says(copy: wsiseg.Result) -> None:
    (written,) = wsiseg.write_report(copy.path).pages
    assert written == copy.path / "report.html"
    page = opened(written)
    summary = copy.summary()
    total = summary["total"]
    words = page.words
    assert total["n"] > 50
    assert f"Nuclei {whole(total['n'])}" in words
    assert f"Per mm² analysed {short(total['per_mm2'], 4)}" in words
    assert f"Analysed {short(copy.analysed_mm2, 4)} mm²" in words
    stats = {row["class_name"]: row for row in wsiseg.cohort_stats(copy.path).table.to_pylist()}
    for name, numbers in summary["classes"].items():
        low, high = (stats[name][f"per_mm2_{end}"] for end in ("low", "high"))
        cells = [
            *(short(numbers["per_mm2"]), f"{short(low)} to {short(high)}", whole(numbers["n"])),
            *(percent(numbers["n"] / total["n"]), short(numbers["median_area_um2"])),
        ]
        assert f"{name} {' '.join(' '.join(cells).split())}" in words


def test_densities_like_false_positives_are_marked(tmp_path: Path) -> None:
    rates = {CLASSES[0]: 1e6, CLASSES[1]: 0.001}
    about = {"metrics": {"false_positives": {"per_mm2": rates}}}
    named = {"name": "m", "sha256": "0", "card": {"about": about}}
    path = write_run(tmp_path / "a.wsiseg", random_table(300), model=named)
    view = slide_view(wsiseg.open_result(path), "a")
    assert [row.like_false for row in view.classes] == [True, *[False] * (len(CLASSES) - 1)]
    words = opened(wsiseg.write_report(path).pages[0]).words
    assert words.count("like false positives") == 1
    assert "Like false positives: below 2 times" in words


def test_warnings_stand_before_numbers(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a.svs.wsiseg", random_table(30))
    words = opened(wsiseg.write_report(run).pages[0]).words
    assert words.index("some tiles are out of focus") < words.index("Per mm² analysed")
    assert words.index("1 warning") < words.index("some tiles are out of focus")


def test_distributions_are_those_of_the_table(copy: wsiseg.Result) -> None:
    shown = {one.title: one for one in slide_view(copy, "a").distributions}
    values = copy.cells()["area_um2"].to_numpy()
    area = shown["Nuclear area"]
    assert area.n == len(values)
    assert area.median == pytest.approx(np.median(values))
    edges = [*np.linspace(area.low, area.high, len(area.bars) + 1)[:-1], np.inf]
    counts = [int(np.sum((a <= values) & (values < b))) for a, b in itertools.pairwise(edges)]
    assert area.bars == pytest.approx([n / max(counts) for n in counts])
    assert area.n_beyond == sum(value > area.high for value in values.tolist())
    for spread in area.spreads:
        mine = copy.cells(classes=[spread.name])["area_um2"].to_numpy()
        assert spread.percentiles == pytest.approx(np.percentile(mine, (5, 25, 50, 75, 95)))
        assert spread.n == len(mine)


def test_each_part_is_there_and_each_crop_has_its_outlines(copy: wsiseg.Result) -> None:
    text = slide_page(copy, copy.name)
    for heading in (
        *("Slide", "Density of each class", "Where they are", "At full zoom", "Distributions"),
        *("Tile quality", "Regions", "How it was made", "Methods, ready for a paper"),
    ):
        assert len(re.findall(rf"<h2[^>]*>{heading}</h2>", text)) == 1, heading
    view = slide_view(copy, copy.name)
    assert [group.title for group in view.crop_groups] == [
        *("At random", "Densest", "Least certain", "On seams")
    ]
    cells = copy.cells(columns=["x", "y"])
    x, y = (cells[name].to_numpy() for name in ("x", "y"))
    for group in view.crop_groups:
        for crop in group.crops:
            right, bottom = crop.x_px + crop.side_px, crop.y_px + crop.side_px
            inside = (x >= crop.x_px) & (x < right) & (y >= crop.y_px) & (y < bottom)
            assert crop.n == inside.sum() == sum(shown.n for shown in crop.outlines)
            assert sum(shown.path.count("M") for shown in crop.outlines) >= crop.n
    assert sum(map_.name == "(all)" for map_ in view.maps) == 1


def test_regions_are_those_of_the_statistics(copy: wsiseg.Result) -> None:
    rows = {
        (row["region"], row["class_name"]): row for row in wsiseg.region_stats([copy]).to_pylist()
    }
    view = slide_view(copy, copy.name)
    assert len(view.regions) == 2
    for region in view.regions:
        assert region.n == rows[region.name, "(all)"]["n"]
        assert region.per_mm2 == rows[region.name, "(all)"]["per_mm2"]
        assert list(region.by_class) == [
            rows[region.name, name]["per_mm2"] for name in copy.class_names
        ]


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    names = [HOSTILE, "k0 \u2028 \x07", "Plain"]
    table = random_table(200)
    classes = [
        None if c is None else names[CLASSES.index(c)] for c in table["class_name"].to_pylist()
    ]
    column = table.schema.get_field_index("class_name")
    table = table.set_column(column, "class_name", pa.array(classes, pa.string()))
    base = json.loads((write_run(tmp_path / "base.wsiseg", table) / "run.json").read_text())
    changes = {
        "slide": base["slide"] | {"name": f"{HOSTILE}.svs", "reader": HOSTILE},
        "model": {
            "name": HOSTILE,
            "sha256": HOSTILE,
            "card": {"licence": HOSTILE, "about": {"known_failures": [HOSTILE]}},
        },
        "classes": [{"name": n, "index": i + 1, "rgb": [9, 9, 9]} for i, n in enumerate(names)],
        "warnings": [{"code": HOSTILE, "message": HOSTILE}],
        "seconds": {HOSTILE: 1.0},
        "options": {HOSTILE: HOSTILE},
    }
    for name in ("a.wsiseg", "b.wsiseg"):
        write_run(tmp_path / "out" / name, table, **changes)
    written = wsiseg.write_report(tmp_path / "out")
    assert len(written.pages) == 3
    for path in written.pages:
        page = opened(path)
        assert len(page.all("script")) == 1
        assert not [image for image in page.all("img") if image["src"] == "x"]
        assert HOSTILE in "".join(page.text)


def test_an_older_run_says_what_it_lacks(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a.svs.wsiseg", random_table(300))
    words = opened(wsiseg.write_report(path).pages[0]).words
    assert "made by a version of wsiseg that did not keep crops" in words
    assert "The run holds no picture of the slide" in words
    assert (
        "Not shown, because the version of wsiseg that made this run did not measure it: Circ"
        in words
    )
    assert "tiles.parquet is missing or damaged" in words
    assert "tissue.geojson is missing or damaged" in words
    view = slide_view(wsiseg.open_result(path), "a.svs")
    assert [one.title for one in view.distributions] == ["Nuclear area"]


def test_a_column_without_a_value_is_told(tmp_path: Path) -> None:
    table = random_table(50).append_column(
        "hematoxylin_od_mean", pa.array([None] * 50, pa.float32())
    )
    result = wsiseg.open_result(write_run(tmp_path / "a.svs.wsiseg", table))
    view = slide_view(result, "a.svs")
    (told,) = [reason for reason, titles in view.missing if "Haematoxylin density" in titles]
    assert "left the column empty" in told


@pytest.mark.parametrize("classes", [CLASSES, ()])
def test_no_cells_no_area_no_classes(tmp_path: Path, classes: tuple[str, ...]) -> None:
    path = write_run(
        tmp_path / "a.svs.wsiseg",
        cell_table([], [], []),
        classes=[{"name": n, "index": i + 1, "rgb": [1, 2, 3]} for i, n in enumerate(classes)],
        analysed_mm2=0.0,
        no_density_reason="no tissue was found",
        warnings=[],
    )
    words = opened(wsiseg.write_report(path).pages[0]).words
    assert "This run gave no warnings" in words
    assert "Per mm² analysed – no tissue was found" in words
    assert "no nuclei were found" in words
    assert ("This model has no classes" in words) == (not classes)


@pytest.mark.parametrize(("height_px", "width_px"), [(1, 1), (300, 200), (40, 1500)])
def test_real_runs_of_nothing_have_pages(tmp_path: Path, height_px: int, width_px: int) -> None:
    rgb = np.full((height_px, width_px, 3), 245, np.uint8)
    model = LocalNetwork(mpp=0.5, core_px=256, margin_px=64)
    result = wsiseg.segment(ArraySlide(rgb, mpp=0.5), tmp_path, model=model)
    words = opened(wsiseg.write_report(result.path).pages[0]).words
    assert "Nothing was analysed, so there is nothing to show" in words
    assert (result.path / "crops" / "overview.jpg").is_file()


def test_a_missing_core_has_no_zero(tmp_path: Path) -> None:
    table = random_table(120)
    ids = pa.array([[0]] * 120, pa.list_(pa.uint16()))
    regions = [
        {
            "name": n,
            "class": None,
            "kind": "tma-core",
            "missing": m,
            "uuid": None,
            "analysed_mm2": a,
        }
        for n, m, a in (("A-1", False, 1.5), ("A-2", True, 0.0))
    ]
    path = write_run(tmp_path / "a.wsiseg", table.append_column("region_ids", ids), regions=regions)
    view = slide_view(wsiseg.open_result(path), "a")
    assert [(r.n, r.missing) for r in view.regions] == [(120, False), (None, True)]
    assert "A-2 (the core is marked as missing)" in opened(wsiseg.write_report(path).pages[0]).words


def test_a_page_repeats_and_tells_no_path(copy: wsiseg.Result) -> None:
    one = wsiseg.write_report(copy.path).pages[0].read_bytes()
    assert one == wsiseg.write_report(copy.path).pages[0].read_bytes()
    for word in (str(copy.path.parent), str(Path.home()) + "/", "/tmp/"):
        assert word.encode() not in one


# --- many slides


def _broken(out: Path) -> None:
    """Leave a failed run, one under way and a damaged one."""
    for name, record in (
        ("failed", {"status": "failed", "error": {"message": "the disk is on fire"}}),
        ("running", {"status": "running"}),
    ):
        path = out / f"{name}.svs.wsiseg"
        path.mkdir(parents=True)
        known = {"format": "wsiseg-run", "format_version": 1} | record
        (path / "run.json").write_text(json.dumps(known))
    damaged = write_run(out / "damaged.svs.wsiseg", random_table(10))
    (damaged / "cells.parquet").write_bytes(b"PAR1 no")


def test_what_failed_comes_first_and_is_not_zero(tmp_path: Path) -> None:
    out = tmp_path / "out"
    none = cell_table([], [], [])
    write_run(out / "a.svs.wsiseg", random_table(100))
    write_run(out / "deep" / "empty.svs.wsiseg", none, slide=_slide("empty.svs"), warnings=[])
    _broken(out)
    written = wsiseg.write_report(out)
    assert written.pages[0] == out / "report.html"
    assert {path.parent.name for path in written.pages[1:]} == {"a.svs.wsiseg", "empty.svs.wsiseg"}
    page = opened(written.pages[0])
    for name, why in (
        ("failed.svs", "the disk is on fire"),
        ("running.svs", "is not finished"),
        ("damaged.svs", "cells.parquet is damaged"),
    ):
        assert page.words.index(name) < page.words.index("Densities over the slides")
        assert why in page.words
        assert [
            reason for reason in written.unread if reason.startswith(f"{name}: ") and why in reason
        ]
    assert "3 slides without a result" in page.words
    assert str(tmp_path) not in written.pages[0].read_text()
    hrefs = [link["href"] for link in page.all("a")]
    assert hrefs == ["a.svs.wsiseg/report.html", "deep/empty.svs.wsiseg/report.html"]
    back = [link["href"] for link in opened(written.pages[2]).all("a")]
    assert "../../report.html" in back
    # Zero cells is a zero.
    rows = re.findall(r"<tr data-find.*?</tr>", written.pages[0].read_text(), re.DOTALL)
    (empty,) = [row for row in rows if "empty.svs" in row]
    assert re.findall(r'data-v="([^"]*)"', empty)[1:7] == ["0", "2.5", *["0.0"] * 4]


def _slide(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "width_px": 4000,
        "height_px": 3000,
        "mpp": 0.5,
        "bounds": [0, 0, 4000, 3000],
    }


def test_two_models_are_not_added_up(tmp_path: Path) -> None:
    for i, model in enumerate(("one", "other")):
        table = random_table(100 + i)
        named = {"name": model, "sha256": str(i) * 64, "card": {}}
        write_run(tmp_path / f"{i}.wsiseg", table, model=named, slide=_slide(f"{i}.svs"))
    words = opened(wsiseg.write_report(tmp_path).pages[0]).words
    assert "Nuclei 100 " in words
    assert "Nuclei 101 " in words
    assert "Nuclei 201" not in words
    assert "never added up" in words


def test_slides_of_one_name_have_pages_apart(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_run(tmp_path / "out" / name / "a.svs.wsiseg", random_table(20))
    written = wsiseg.write_report(tmp_path / "out", tmp_path / "pages")
    assert sorted(path.relative_to(tmp_path / "pages").as_posix() for path in written.pages) == [
        *("report.html", "x/a.svs.report.html", "y/a.svs.report.html")
    ]
    for path in written.pages:
        opened(path)
    assert not list((tmp_path / "out").rglob("*.html"))


@pytest.mark.parametrize("name", ["..", "../../up", "a\x00b", " ", "ü #?%.svs"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "out" / "r.wsiseg", random_table(5), slide=_slide(name))
    other = write_run(tmp_path / "out" / "s.wsiseg", random_table(5))
    pages = tmp_path / "deep" / "pages"
    written = wsiseg.write_report([run, other], pages)
    for path in written.pages:
        assert path.resolve().parent == pages.resolve()
        opened(path)


def test_runs_of_two_folders_need_a_folder_for_their_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [write_run(tmp_path / n / "x.svs.wsiseg", random_table(9)) for n in ("A", "B")]
    monkeypatch.setattr(reports, "batch_status", lambda folder: pytest.fail(f"looked at {folder}"))
    with pytest.raises(UsageError, match="--to"):
        wsiseg.write_report(runs)
    assert not list(tmp_path.rglob("*.html"))
    written = wsiseg.write_report(runs, tmp_path / "pages")
    words = opened(written.pages[0]).words
    assert "A/x.svs" in words
    assert "B/x.svs" in words
    monkeypatch.undo()
    both = wsiseg.write_report([tmp_path / "A", tmp_path / "B"], tmp_path / "pages")
    assert both.pages == written.pages


@pytest.mark.parametrize("name", ["report.html", "a.svs.wsiseg/report.html"])
def test_a_page_of_others_stays(tmp_path: Path, name: str) -> None:
    for run in ("a", "b"):
        write_run(tmp_path / f"{run}.svs.wsiseg", random_table(9))
    (tmp_path / name).write_text("<html>mine</html>")
    with pytest.raises(OutputNotWritable, match="no page by wsiseg"):
        wsiseg.write_report(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.html")] == [name]
    (tmp_path / name).unlink()
    first = wsiseg.write_report(tmp_path).pages
    assert wsiseg.write_report(tmp_path).pages == first


def test_runs_are_called_as_in_the_statistics(tmp_path: Path) -> None:
    write_run(tmp_path / "renamed.wsiseg", random_table(9), slide=_slide("a.svs"))
    write_run(tmp_path / "deep" / "b.svs.wsiseg", random_table(9), slide=_slide("b.svs"))
    names = names_of_runs(wsiseg.find_results(tmp_path), [tmp_path])
    assert set(names) == set(wsiseg.cohort_stats(tmp_path).table["slide"].to_pylist())
    words = opened(wsiseg.write_report(tmp_path).pages[0]).words
    for name in ("renamed", "deep/b.svs"):
        assert name in words


def test_files_of_pages_are_apart_on_any_disk() -> None:
    names = ['a"b:c.svs', "a_b_c.svs", "A_B_C.svs", "a\x01", "a\x02", "con.svs", "x" * 300, ". "]
    files = file_names(names)
    assert files[:3] == ["a_b_c.svs", "a_b_c.svs-2", "A_B_C.svs-3"]
    assert files[3:6] == ["a_", "a_-2", "_con.svs"]
    assert len(files[6]) == 120
    assert files[7] == "_"
    assert file_names(["d/ü.svs", "d?/ü.svs"]) == ["d/ü.svs", "d_/ü.svs"]


def test_a_slide_that_is_there_twice_is_told(tmp_path: Path) -> None:
    slide = _slide("a.svs") | {"fingerprint": "f" * 64}
    for name, of in (("one", slide), ("two", slide), ("other", _slide("o") | {"fingerprint": "e"})):
        write_run(tmp_path / f"{name}.wsiseg", random_table(9), slide=of)
    words = opened(wsiseg.write_report(tmp_path).pages[0]).words
    assert "1 of these slides is here more than once" in words
    assert "one = two" in words
    shutil.rmtree(tmp_path / "two.wsiseg")
    assert "more than once" not in opened(wsiseg.write_report(tmp_path).pages[0]).words


def test_numbers_are_no_words(tmp_path: Path) -> None:
    options = {"mpp": 1, "zero": 0.0, "force": True, "none": None, "many": [0, False]}
    run = write_run(tmp_path / "a.wsiseg", random_table(9), options=options)
    assert dict(how_it_was_made(wsiseg.open_result(run)).options) == {
        "mpp": "1", "zero": "0.0", "force": "yes", "none": "–", "many": "0, no"
    }  # fmt: skip


def test_read_only_runs_need_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "a.svs.wsiseg", random_table(20))
    before = sorted(path.name for path in run.iterdir())

    def refuse(path: Path, content: bytes) -> None:
        if run in path.parents:
            raise PermissionError(13, "Permission denied")
        path.write_bytes(content)

    monkeypatch.setattr(reports, "write_atomically", refuse)
    with pytest.raises(OutputNotWritable, match=r"Permission denied.*--to"):
        wsiseg.write_report(run)
    written = wsiseg.write_report(run, tmp_path / "pages")
    assert [path.name for path in written.pages] == ["a.svs.report.html"]
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_single_run_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    _broken(tmp_path)
    with pytest.raises(ResultNotReadable, match="on fire"):
        wsiseg.write_report(tmp_path / "failed.svs.wsiseg")
    with pytest.raises(ResultNotReadable, match="no run"):
        wsiseg.write_report(tmp_path / "nothing")


def test_five_hundred_slides_stay_usable(tmp_path: Path, run: wsiseg.Result) -> None:
    """Rows of the table hold their picture; hand-made here, for runs take longer than pages."""
    one = reports.cohort_slide(run, "a", "a.wsiseg/report.html")
    assert 500 < len(one.thumbnail) < 8_000
    slides = [
        replace(one, name=f"slide-{i:03}.svs", href=f"slide-{i:03}.svs.wsiseg/report.html")
        for i in range(500)
    ]
    text = reports.cohort_page(slides, [reports.Problem(f"p{i}.svs", "why") for i in range(40)])
    assert len(text) < 5_500_000
    page = Page(text)
    assert len(page.all("img")) == 500
    assert len(page.all("a")) == 500


# --- the command line


def test_commands(tmp_path: Path, copy: wsiseg.Result) -> None:
    def call(*arguments: object) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    done = call("report", copy.path, "--to", tmp_path / "pages", "--quiet")
    assert done.exit_code == 0
    assert done.stdout.strip() == str(tmp_path / "pages" / "painted.png.report.html")
    out = tmp_path / "out"
    write_run(out / "a.svs.wsiseg", random_table(9))
    _broken(out)
    partly = call("report", out, "--quiet")
    assert partly.exit_code == 3
    assert "no page: failed.svs: " in partly.stderr
    cited = call("cite", copy.path)
    assert cited.exit_code == 0
    assert cited.stdout == wsiseg.cite(copy.path).text
    assert call("cite", copy.path, "--bibtex").stdout == wsiseg.cite(copy).bibtex
    assert call("cite", out / "failed.svs.wsiseg").exit_code == 3


def test_pages_from_older_pictures(copy: wsiseg.Result) -> None:
    """Without crops the slide is cut from the thumbnail, to the pixel."""
    shutil.rmtree(copy.path / "crops")
    page = opened(wsiseg.write_report(copy.path).pages[0])
    assert "From the run's thumbnail" in page.words
    assert "did not keep crops" in page.words
    pq.write_table(pa.table({"a": [1]}), copy.path / "tiles.parquet")
    (copy.path / "thumbnail.png").write_bytes(b"no picture")
    (copy.path / "tissue.geojson").write_text('{"features": [{"geometry": 3}]}')
    words = opened(wsiseg.write_report(copy.path).pages[0]).words
    for said in ("tiles.parquet", "tissue.geojson", "The run holds no picture"):
        assert said in words


# --- other classes


def test_a_version_of_the_classes_has_its_own_page(copy: wsiseg.Result) -> None:
    cells = copy.cells(columns=["cell_id"])
    names = ["Even" if i % 2 == 0 else "Odd" for i in cells["cell_id"].to_pylist()]
    classes = [{"name": n, "index": i, "rgb": [9, 9, i]} for i, n in enumerate(("Odd", "Even"), 1)]
    columns = [cells["cell_id"].combine_chunks(), names, np.full(len(names), 0.5, np.float32)]
    arrays = [pa.array(v, f.type) for v, f in zip(columns, CLASSES_SCHEMA, strict=True)]
    batch = pa.record_batch(arrays, schema=CLASSES_SCHEMA)
    write_class_version(copy.path, "halves", [batch], classes, {})
    (own,) = wsiseg.write_report(copy.path).pages
    before = own.read_bytes()
    (written,) = wsiseg.write_report(copy.path, classes="halves").pages
    assert written.name == "report-halves.html"
    page = opened(written)
    assert "classes: version halves, not the model's own" in page.words
    assert f"Odd {short(names.count('Odd') / copy.analysed_mm2)}" in page.words
    assert "classes Odd, Even by the version halves of the classes" in page.words
    assert own.read_bytes() == before
    with pytest.raises(UnknownName, match="known: halves"):
        wsiseg.write_report(copy.path, classes="other")
    write_run(copy.path.parent / "b.svs.wsiseg", random_table(5))
    both = wsiseg.write_report(copy.path.parent, classes="halves")
    assert both.pages[0] == copy.path.parent / "report-halves.html"
    assert len(both.pages) == 2
    assert "b.svs: " in both.unread[0]
    assert "has no version 'halves'" in both.unread[0]
