"""Which slides files, folders and lists name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wsiseg.errors import UsageError
from wsiseg.listing import SlideEntry, list_slides


def _touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def _names(paths: list[Path]) -> list[str]:
    return [entry.path.name for entry in list_slides(paths)]


def _list(folder: Path, content: str | bytes, name: str = "slides.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_files_are_taken_as_they_are(tmp_path: Path) -> None:
    paths = [tmp_path / "b.svs", tmp_path / "a.unusual", tmp_path / "missing.tif"]
    _touch(tmp_path, "b.svs", "a.unusual")
    assert list_slides(paths) == [SlideEntry(path) for path in paths]


def test_a_folder_is_searched_for_slides_in_order_of_name(tmp_path: Path) -> None:
    _touch(tmp_path, "b.SVS", "a.ndpi", "._a.ndpi", ".hidden.svs", "notes.txt", "deep/c.svs")
    assert _names([tmp_path]) == ["a.ndpi", "b.SVS"]


def test_a_folder_without_slides_is_refused(tmp_path: Path) -> None:
    _touch(tmp_path, "notes.txt", "deep/c.svs")
    with pytest.raises(UsageError, match=r"holds no slide; files ending in .*\.svs"):
        list_slides([tmp_path])


def test_a_folder_of_dicom_files_is_one_slide(tmp_path: Path) -> None:
    _touch(tmp_path, "case/1.dcm", "case/2.DCM", "case/.DS_Store", "case/DICOMDIR")
    assert list_slides([tmp_path / "case"]) == [SlideEntry(tmp_path / "case")]
    assert list_slides([tmp_path]) == [SlideEntry(tmp_path / "case")]
    _touch(tmp_path, "mixed/1.dcm", "mixed/2.svs", "empty/none.txt")
    assert _names([tmp_path / "mixed"]) == ["1.dcm", "2.svs"]
    assert _names([tmp_path]) == ["case"]


def test_the_data_folder_of_an_mrxs_slide_is_part_of_it(tmp_path: Path) -> None:
    index, _ = _touch(tmp_path, "a.mrxs", "a/Slidedat.ini")
    _touch(tmp_path, "a/preview.jpg")
    assert _names([tmp_path]) == ["a.mrxs"]
    # What a shell makes of `slides/*`.
    assert list_slides([tmp_path / "a", index]) == [SlideEntry(index)]
    with pytest.raises(UsageError, match=r"data folder of an MRXS slide; give a\.mrxs"):
        list_slides([tmp_path / "a"])


def test_a_list_says_what_each_slide_gets(tmp_path: Path) -> None:
    content = (
        "Slide,patient, MPP ,override_mpp,mpp_from_objective,model,roi,tissue\n"
        "a.svs,p1,0.25,,,,,\n"
        "\n"
        'sub/b.svs,"p2, left",,0.5,no,nuclei-x,rois/b.geojson,none\n'
        f"{tmp_path}/elsewhere/c.tif,,,,YES,models/mine,,t.geojson\n"
        " d.tif \n"
        "e.tif,,,,,,,Auto\n"
    )
    assert list_slides([_list(tmp_path, content)]) == [
        SlideEntry(tmp_path / "a.svs", mpp=0.25),
        SlideEntry(
            tmp_path / "sub/b.svs",
            override_mpp=0.5,
            mpp_from_objective=False,
            model="nuclei-x",
            roi=tmp_path / "rois/b.geojson",
            tissue="none",
        ),
        SlideEntry(
            tmp_path / "elsewhere/c.tif",
            mpp_from_objective=True,
            model=str(tmp_path / "models/mine"),
            tissue=str(tmp_path / "t.geojson"),
        ),
        SlideEntry(tmp_path / "d.tif"),
        SlideEntry(tmp_path / "e.tif", tissue="auto"),
    ]


@pytest.mark.parametrize("column", ["slide", "path", "file", "filename", "image"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff", "sep={}{}"])
def test_lists_of_every_make_are_read(
    tmp_path: Path, column: str, delimiter: str, newline: str, start: str
) -> None:
    rows = [f"mpp;{column};note", '0.5;"ä b.svs";"several', 'lines; and ""quotes"""', "1;c.tif;x;;"]
    text = start.format(delimiter, newline) + newline.join(rows).replace(";", delimiter)
    assert list_slides([_list(tmp_path, text)]) == [
        SlideEntry(tmp_path / "ä b.svs", mpp=0.5),
        SlideEntry(tmp_path / "c.tif", mpp=1.0),
    ]


def test_the_first_known_name_of_a_slide_column_counts(tmp_path: Path) -> None:
    text = "image,filename,slide\n1,2,a.svs\n"
    assert _names([_list(tmp_path, text)]) == ["a.svs"]


def test_in_a_list_of_one_column_names_may_hold_commas(tmp_path: Path) -> None:
    assert _names([_list(tmp_path, "slide\na,b;c.svs\n")]) == ["a,b;c.svs"]


def test_a_decimal_comma_is_read_where_cells_are_not_split_by_commas(tmp_path: Path) -> None:
    for delimiter in ";\t":
        text = "slide;mpp\na.svs;0,25\n".replace(";", delimiter)
        assert list_slides([_list(tmp_path, text)])[0].mpp == 0.25
    with pytest.raises(UsageError, match="line 2: has 3 cells and the header 2"):
        list_slides([_list(tmp_path, "slide,mpp\na.svs,0,25\n")])
    with pytest.raises(UsageError, match="line 2: column mpp is '0,25'"):
        list_slides([_list(tmp_path, 'slide,mpp\na.svs,"0,25"\n')])


def test_a_slide_of_a_list_need_not_exist(tmp_path: Path) -> None:
    assert not list_slides([_list(tmp_path, "slide\nmissing.svs\n")])[0].path.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("name,mpp\na.svs,1\n", r"line 1: no column slide in the header \(name,mpp\)"),
        ("\n\nname\na.svs\n", r"line 3: no column slide"),
        ("a.svs\nb.svs\n", r"no column slide in the header \(a\.svs\)"),
        ("slide,mpp,MPP\na.svs,1,1\n", r"line 1: has 2 columns mpp"),
        ("slide,mpp\n\na.svs,fine\n", r"line 3: column mpp is 'fine'; µm per pixel between 0\.02"),
        ("slide,mpp\na.svs,-1\n", r"line 2: column mpp is '-1'"),
        ("slide,mpp\na.svs,0\n", r"line 2: column mpp is '0'"),
        ("slide,mpp\na.svs,50\n", r"line 2: column mpp is '50'"),
        ("slide,mpp\na.svs,nan\n", r"line 2: column mpp is 'nan'"),
        ("slide,override_mpp\na.svs,1_0\n", r"line 2: column override_mpp is '1_0'"),
        ("slide,mpp,override_mpp\na.svs,1,1\n", r"line 2: has both mpp and override_mpp"),
        ("slide,mpp_from_objective\na.svs,20x\n", r"from_objective is '20x'; yes or no"),
        ("slide,mpp\n,0.25\n", r"line 2: column slide is empty"),
        ("slide,mpp\n\n , \n", r"has a header but no slide"),
        ("", r"is empty; a header"),
        (" \n\n", r"is empty; a header"),
        (b"slide\n\x00\x01\x02\n", r"is no plain text"),
        ("slide\na.svs\n".encode("utf-16"), r"is no plain text.*CSV UTF-8"),
        ("slide,note\na.svs,µm\n".encode("latin-1"), r"line 2: is not UTF-8"),
        ('slide,note\na.svs,"open\nb.svs,x\n', r"line 2: cannot be split into cells"),
        (
            'slide,note\na.svs,"x\ny"\nb.svs,1\na.svs,2\n',
            r"line 5: a\.svs was named before.*line 2",
        ),
        ("slide\nx/a.svs\ny/a.svs\n", r"line 3: two slides are called a\.svs"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, content: str | bytes, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        list_slides([_list(tmp_path, content)])
    assert str(caught.value).startswith("slides.csv")
    assert "\n" not in str(caught.value)


def test_a_list_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.csv cannot be read"):
        list_slides([tmp_path / "none.csv"])


def test_slides_of_one_place_are_refused_wherever_they_are_named(tmp_path: Path) -> None:
    _touch(tmp_path, "x/a.svs", "y/a.svs")
    with pytest.raises(UsageError, match=r"a\.svs was named before"):
        list_slides([tmp_path / "x", tmp_path / "x" / "a.svs"])
    with pytest.raises(UsageError, match=r"two slides are called a\.svs"):
        list_slides([tmp_path / "x", tmp_path / "y"])
    table = _list(tmp_path, "slide\ny/../x/a.svs\n")
    with pytest.raises(UsageError, match=r"slides\.csv, line 2: a\.svs was named before"):
        list_slides([tmp_path / "x" / "a.svs", table])


def test_listing_slides_does_not_wait_for_torch() -> None:
    code = "import sys, wsiseg.listing; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("column", ["override-mpp", "--override_mpp", "Override MPP"])
def test_an_option_may_be_spelt_as_at_the_command_line(column: str, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(f"slide,{column}\na.svs,0.5\n")
    (entry,) = list_slides([tmp_path / "l.csv"])
    assert entry.override_mpp == 0.5


@pytest.mark.parametrize("column", ["mpp_x", "mpp (µm)", "overide_mpp", "tissues", "modle", "rois"])
def test_a_column_that_seems_meant_for_us_is_not_passed_over(column: str, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(f"slide,{column}\na.svs,0.5\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"l\.csv, line 1.*unknown column.*override_mpp"):
        list_slides([tmp_path / "l.csv"])


def test_a_cohorts_own_columns_are_ignored(tmp_path: Path) -> None:
    names = "patient,stain,scanner,magnification,modality,tissue_type,model_year,roi_count,issue"
    (tmp_path / "l.csv").write_text(f"slide,{names}\na.svs,{names}\n")
    assert list_slides([tmp_path / "l.csv"]) == [SlideEntry(tmp_path / "a.svs")]


def test_a_dicom_folder_may_hold_other_files(tmp_path: Path) -> None:
    folder = tmp_path / "slides" / "case 7"
    folder.mkdir(parents=True)
    for name in ("0.dcm", "1.dcm", "README.txt"):
        (folder / name).touch()
    assert list_slides([folder]) == [SlideEntry(folder)]
    (tmp_path / "slides/a.png").touch()
    both = list_slides([tmp_path / "slides"])
    assert both == [SlideEntry(tmp_path / "slides/a.png"), SlideEntry(folder)]
    (folder / "b.svs").touch()
    for given in (folder, folder.parent):
        with pytest.raises(UsageError, match=r"DICOM files .* and other slides"):
            list_slides([given])


def test_results_are_no_slides(tmp_path: Path) -> None:
    run = tmp_path / "a.svs.wsiseg"
    run.mkdir()
    (run / "overlay.png").touch()
    with pytest.raises(UsageError, match="holds results"):
        list_slides([run])


def test_an_entry_takes_text_for_paths() -> None:
    entry: Any = SlideEntry("a.svs", roi="r.geojson")  # type: ignore[arg-type]
    assert entry == SlideEntry(Path("a.svs"), roi=Path("r.geojson"))
