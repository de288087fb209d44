"""Which slides files, folders and lists name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path, PurePosixPath
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


def _places(paths: list[Path], out: Path | None = None) -> list[str]:
    return [str(entry.place) for entry in list_slides(paths, out)]


def _list(folder: Path, content: str | bytes, name: str = "slides.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_files_are_taken_as_they_are(tmp_path: Path) -> None:
    paths = [tmp_path / "b.svs", tmp_path / "a.unusual", tmp_path / "missing.tif"]
    _touch(tmp_path, "b.svs", "a.unusual")
    assert list_slides(paths) == [SlideEntry(path) for path in paths]


def test_a_path_may_be_text_and_stand_alone(tmp_path: Path) -> None:
    _touch(tmp_path, "in/a.svs", "in/results/b.svs")
    folder, out = tmp_path / "in", tmp_path / "in" / "results"
    expected = list_slides([folder], out)
    assert [str(entry.place) for entry in expected] == ["a.svs"]
    for paths in (folder, str(folder), [str(folder)], iter([str(folder)])):
        assert list_slides(paths, str(out)) == expected
    assert list_slides("text") == list_slides(["text"]) == [SlideEntry(Path("text"))]


def test_a_folder_is_searched_for_slides_in_order_of_name(tmp_path: Path) -> None:
    _touch(tmp_path, "b.SVS", "a.ndpi", "._a.ndpi", ".hidden.svs", "notes.txt", "deep/c.svs")
    assert _names([tmp_path]) == ["a.ndpi", "b.SVS", "c.svs"]


def test_a_folder_without_slides_is_refused(tmp_path: Path) -> None:
    _touch(tmp_path, "notes.txt", "deep/notes.txt", "old/a.svs.wsiseg/overlay.png", ".git/c.svs")
    with pytest.raises(UsageError, match=r"holds no slide; files ending in .*\.svs"):
        list_slides([tmp_path])


def test_a_folder_of_dicom_files_is_one_slide(tmp_path: Path) -> None:
    _touch(tmp_path, "case/1.dcm", "case/2.DCM", "case/.DS_Store", "case/DICOMDIR")
    assert list_slides([tmp_path / "case"]) == [SlideEntry(tmp_path / "case")]
    assert list_slides([tmp_path]) == [SlideEntry(tmp_path / "case")]
    _touch(tmp_path, "mixed/1.dcm", "mixed/2.svs", "empty/none.txt", "case/more/a.svs")
    assert _names([tmp_path / "mixed"]) == ["1.dcm", "2.svs"]
    assert _places([tmp_path]) == ["case", "case/more/a.svs", "mixed/1.dcm", "mixed/2.svs"]
    assert _places([tmp_path / "case"]) == ["case", "more/a.svs"]


def test_exported_annotations_are_no_slides(tmp_path: Path) -> None:
    _touch(tmp_path, "a.svs", "a.svs.ann.dcm", "b.svs", "b.svs.ann.dcm", "d/1.dcm", "d/d.ANN.DCM")
    assert _places([tmp_path]) == ["a.svs", "b.svs", "d"]


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
            place=PurePosixPath("sub/b.svs"),
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
        (
            "slide\nx/../a.svs\ny/../x/a.svs\n",
            r"line 3: the results of two .* have one place, a\.svs \(.*a\.svs and .*column",
        ),
        ("slide,place\nx/a.svs,b\ny/a.svs,b\n", r"line 3: the results.*one place, b "),
        ("slide,place\na.svs,../b\n", r"line 2: column place: .*'\.\./b' would lead out"),
        ("slide,place\na.svs,/b\n", r"line 2: column place: .*'/b' would lead out"),
        ("slide,place\na.svs,.\n", r"line 2: column place: .*'\.' names nothing"),
        ("slide,place\na.svs,x.wsiseg/b\n", r"line 2: column place: .*a run's directory"),
        ("slide,plce\na.svs,b\n", r"line 1: has an unknown column plce"),
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
    with pytest.raises(UsageError, match=r"/y: .*one place, a\.svs \(.*x/a\.svs and .*y/a\.svs"):
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


def test_places_are_paths_below_the_folder_or_in_the_list(tmp_path: Path) -> None:
    _touch(tmp_path, "in/a.svs", "in/a.tiff", "in/sub/a.svs", "in/sub/deep/b.svs", "c.svs")
    assert _places([tmp_path / "in"]) == ["a.svs", "a.tiff", "sub/a.svs", "sub/deep/b.svs"]
    assert _places([tmp_path / "in/sub", tmp_path / "c.svs"]) == ["a.svs", "deep/b.svs", "c.svs"]
    text = "slide,place\nin/sub/a.svs,\n./in//a.svs,\nin/../c.svs,\nin/a.tiff,x y/ä;-.1\n"
    assert _places([_list(tmp_path, text)]) == ["in/sub/a.svs", "in/a.svs", "c.svs", "x y/ä;-.1"]
    assert _places([_list(tmp_path, f"slide\n{tmp_path}/in/a.svs\n")]) == ["a.svs"]


def test_a_slides_place_does_not_depend_on_other_slides(tmp_path: Path) -> None:
    _touch(tmp_path, "a/x.svs", "b/x.svs")
    before = {entry.path: entry.place for entry in list_slides([tmp_path])}
    _touch(tmp_path, "a/a.svs", "a/x.tif", "0/x.svs")
    (tmp_path / "0link").symlink_to(tmp_path / "a")
    after = {entry.path: entry.place for entry in list_slides([tmp_path])}
    assert before.items() <= after.items()
    assert len(after) == 5


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    _touch(tmp_path, "in/a.svs", "elsewhere/b.svs", "elsewhere/deep/c.svs")
    (tmp_path / "in/1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/2").symlink_to(tmp_path / "elsewhere/deep")
    (tmp_path / "elsewhere/round").symlink_to(tmp_path / "in")
    (tmp_path / "elsewhere/self").symlink_to(tmp_path / "elsewhere/self")
    (tmp_path / "in/nowhere.svs").symlink_to(tmp_path / "gone.svs")
    assert _places([tmp_path / "in"]) == ["1/b.svs", "1/deep/c.svs", "a.svs", "nowhere.svs"]


def test_the_folder_of_results_is_not_searched(tmp_path: Path) -> None:
    _touch(tmp_path, "a.svs", "out/copy.png", "out/a.svs.wsiseg/overlay.png", "run/run.json")
    _touch(tmp_path, "run/picture.png")
    (tmp_path / "run/run.json").write_text('{"format": "wsiseg-run"}')
    assert _places([tmp_path], tmp_path / "out") == ["a.svs"]
    assert _places([tmp_path]) == ["a.svs", "out/copy.png"]
    assert _places([tmp_path], tmp_path) == ["a.svs", "out/copy.png"]


@pytest.mark.parametrize("content", ["", "[1]", '{"format": "nextflow"}', '"wsiseg-run"'])
def test_a_run_json_of_another_program_hides_no_slide(content: str, tmp_path: Path) -> None:
    _touch(tmp_path, "a.svs", "sub/b.svs", "sub/deep/c.svs")
    (tmp_path / "sub/run.json").write_text(content)
    (tmp_path / "run.json").write_text(content)
    assert _places([tmp_path]) == ["a.svs", "sub/b.svs", "sub/deep/c.svs"]


@pytest.mark.parametrize("suffix", [".vms", ".VMU"])
def test_images_of_hamamatsu_slides_are_no_slides(suffix: str, tmp_path: Path) -> None:
    _touch(tmp_path, "x/a(1,0).jpg", "x/a.jpg", "x/a_macro.jpg", "x/other.jpg", "y/a.jpg")
    text = "[Virtual Microscope Specimen]\nImageFile=a.jpg\nImageFile(1,0)=a(1,0).jpg\n"
    (tmp_path / f"x/a{suffix}").write_text(f"{text}MacroImage=a_macro.jpg\nNoLayers=1\n")
    assert _places([tmp_path]) == [f"x/a{suffix}", "x/other.jpg", "y/a.jpg"]


def test_a_folder_that_may_not_be_searched_is_an_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _touch(tmp_path, "a.svs", "closed/b.svs")
    look = os.scandir

    def scandir(folder: Path) -> object:
        if folder == tmp_path / "closed":
            raise PermissionError(13, "Permission denied")
        return look(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert _places([tmp_path]) == ["a.svs", "closed"]
    with pytest.raises(UsageError, match=r"closed cannot be searched \(Permission denied\)"):
        list_slides([tmp_path / "closed"])


def test_data_folders_of_mrxs_slides_are_not_searched_at_any_depth(tmp_path: Path) -> None:
    _touch(tmp_path, "x/a.MRXS", "x/a/preview.jpg", "x/b/preview.jpg", "y/a/preview.jpg")
    assert _places([tmp_path]) == ["x/a.MRXS", "x/b/preview.jpg", "y/a/preview.jpg"]


@pytest.mark.parametrize(
    "name", ["-o.svs", "a b;c.svs", "new\nline.svs", "ä\u202e𝛼.svs", "\udcff.svs"]
)
def test_odd_names_have_places_too(name: str, tmp_path: Path) -> None:
    _touch(tmp_path, f"-x/{name}")
    (entry,) = list_slides([tmp_path])
    assert entry == SlideEntry(tmp_path / "-x" / name, place=PurePosixPath("-x", name))


@pytest.mark.parametrize("place", ["../a", "a/../../b", "/a", "//a", "a\0", "x.wsiseg/a", ".."])
def test_a_place_cannot_lead_out_of_the_output_folder(place: str) -> None:
    with pytest.raises(UsageError, match="the place"):
        SlideEntry(Path("a.svs"), place=PurePosixPath(place))


def test_a_slide_named_by_itself_has_its_file_name_for_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SlideEntry(Path("x/../b/a.svs")).place == PurePosixPath("a.svs")
    monkeypatch.chdir(tmp_path)
    assert SlideEntry(Path()).place == PurePosixPath(tmp_path.name)
