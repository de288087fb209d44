"""The command that writes test slides, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from annotated_images import SIZES, write_annotated

from wsiseg.errors import UsageError
from wsiseg.slides import open_slide
from wsiseg.testing.gigapixel import FolderPictures, main, open_truth, truth_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_annotated(tmp_path_factory.mktemp("annotated") / "set")


def test_the_command_writes_a_slide(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "slide.svs"
    size = ["--side", "1600x1200", "--tissue", "0.3", "--seed", "3"]
    assert main([str(path), *size, "--images", str(folder), "--mpp", "0.5"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [
        "level 1:1  1,600 × 1,200 px written",
        "level 1:4  400 × 300 px written",
    ]
    n = open_truth(truth_path(path)).n_nuclei
    assert said[2].startswith(f"{path}: 1,600 × 1,200 px, 29.6 % tissue")
    assert f", {n:,} nuclei known, " in said[2]
    with open_slide(path) as opened:
        assert (opened.info.mpp_x, opened.info.objective_power) == (0.5, 20)
    assert main([str(path), "--once", "--images", str(folder)]) == 0
    names = [place.name for place in open_truth(truth_path(path)).placements()]
    assert names == [f"set/{number}" for number in range(len(SIZES))]


def test_the_command_paints_without_images(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    assert main([str(path), "--side", "900", "--tissue", "1", "--nuclei-per-mm2", "4000"]) == 0
    assert open_truth(truth_path(path)).n_nuclei == round(4000 * 0.225**2)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--side", "big"], "'big'; a number of px, or WxH, is needed"),
        (["--side", "0"], "a slide of 0 × 0 px; both sides need 1 px or more"),
        (["--tissue", "1.5"], "a tissue share of 1.5; a number above 0 and up to 1 is needed"),
        (["--seed", "-1"], "the seed is -1; a whole number from 0 on is needed"),
        (["--nuclei-per-mm2", "1e6"], "1000000.0 nuclei per mm² of tissue; 0 to 30,000"),
        (["--mpp", "0"], "0.0 µm per pixel; 0.05 to 10 is needed"),
        (["--once"], "name their folders with --images"),
        (["--images", "nowhere"], "nowhere has no images; PNG, TIFF or JPEG files in"),
        (["--images", "FOLDER", "--side", "200"], "holds no picture of 230 × 200 px"),
        (["--images", "PARTLY"], "1 of 2 images have no label map in inst, the first is b.png"),
        (["--images", "WRONG"], "has (height, width) (180, 230), its image (200, 230)"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str],
    reason: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, copies in (
        ("PARTLY", {"images/a": "images/0", "images/b": "images/0", "inst/a": "inst/0"}),
        ("WRONG", {"images/a": "images/0", "inst/a": "inst/1"}),
    ):
        for new, old in copies.items():
            target = tmp_path / name / f"{new}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((folder / f"{old}.png").read_bytes())
    places = {"FOLDER": folder, "PARTLY": tmp_path / "PARTLY", "WRONG": tmp_path / "WRONG"}
    given = [str(places.get(argument, argument)) for argument in arguments]
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "slide.svs"), *given])
    assert stopped.value.code == 2
    assert reason in capsys.readouterr().err
    assert not list(tmp_path.glob("slide*"))


def test_the_command_says_where_it_cannot_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "missing" / "a.svs"), "--side", "900"]) == 1
    assert "error:" in capsys.readouterr().out


def test_label_maps_in_colour_are_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("images", "inst"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes((folder / "images" / "0.png").read_bytes())
    pictures = FolderPictures([tmp_path])
    with pytest.raises(UsageError, match="a label map, one whole number from 0 to"):
        pictures.labels(0)
