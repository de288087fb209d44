"""Masks are what pixel-by-pixel painting gives, and OME-Zarr's own tools accept them."""

from __future__ import annotations

import dataclasses
import json
import threading
import time

import numpy as np
import pyarrow as pa
import pytest
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models import v04
from ome_zarr_models.v05 import Image, ImageLabel
from ome_zarr_models.v05.labels import Labels
from slow_cells import CLASS_COLOURS, CLASS_NAMES, cells_of, chosen, painted, slow_half, with_ids
from slow_masks import blobs, instances_of, moved, real_labels

from wsiseg.errors import OutputExists, OutputNotWritable, ResultNotReadable, UsageError
from wsiseg.exporters import ome_zarr
from wsiseg.exporters.ome_zarr import (
    UNKNOWN_VALUE,
    MaskSource,
    MaskWriter,
    OmeZarrOptions,
    Stopped,
    export_ome_zarr,
    write_masks,
)
from wsiseg.geometry import Box, Frame
from wsiseg.measure import measure_instances
from wsiseg.records import Cells
from wsiseg.rundir import clear_away

MPP = 0.5

SMALL = {
    "CHUNK_PX": 16,
    "SHARD_PX": 64,
    "READ_PX": 24,
    "COARSEST_LABEL_PX": 20,
}


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks and shards so small that little pictures have many."""
    for name, value in SMALL.items():
        monkeypatch.setattr(ome_zarr, name, value)


class Slide:
    """Cells and a picture, handed out as the pipeline does."""

    def __init__(self, cells: Cells, frame: Frame, pieces: int = 3) -> None:
        self.frame = frame
        self.boxes_asked: list[Box] = []
        self.boxes_read: list[Box] = []
        parts = np.array_split(np.arange(len(cells)), pieces)
        self._pieces = [chosen(cells, part.tolist()) for part in parts]

    def read_cells(self, box):
        self.boxes_asked.append(box)
        for piece in self._pieces:
            spans = [
                piece.instances.runs[a:b, 0]
                for a, b in zip(
                    piece.instances.first_run, piece.instances.first_run[1:], strict=False
                )
            ]
            near = [i for i, s in enumerate(spans) if s[0] < box.y_end_px and s[-1] >= box.y_px]
            yield chosen(piece, near)

    def read_rgb(self, frame, box):
        self.boxes_read.append(box)
        return picture(frame)[box.slices_in(frame.box)]


def picture(frame: Frame) -> np.ndarray:
    """Return a picture of a frame: (height, width, 3) uint8."""
    shape = (frame.height_px, frame.width_px, 3)
    return np.random.default_rng(int(frame.scale * 1000)).integers(0, 256, shape).astype(np.uint8)


def write(path, slide: Slide, mpp: float = MPP, threads: int = 1):
    write_masks(path, source_of(slide, mpp), threads)
    return zarr.open_group(path, mode="r")


def source_of(slide: Slide, mpp: float = MPP) -> MaskSource:
    return MaskSource(
        slide.frame, mpp, slide.read_cells, slide.read_rgb, CLASS_NAMES, CLASS_COLOURS
    )


def levels_of(group: zarr.Group) -> list[zarr.Array]:
    return [group[entry["path"]] for entry in multiscale(group)["datasets"]]


def multiscale(group: zarr.Group) -> dict:
    return group.attrs["ome"]["multiscales"][0]


def transform(group: zarr.Group, level: int) -> tuple[list[float], list[float]]:
    scale, translation = multiscale(group)["datasets"][level]["coordinateTransformations"]
    return scale["scale"], translation["translation"]


def check_labels(root: zarr.Group, cells: Cells, frame: Frame, coarsest_px: int) -> None:
    for name, expected in zip(("nuclei", "classes"), painted(cells, frame), strict=True):
        levels = levels_of(root[f"labels/{name}"])
        for k, level in enumerate(levels):
            want = expected[:: 2**k, :: 2**k]
            assert level.dtype == expected.dtype
            assert level.shape == (-(-frame.height_px // 2**k), -(-frame.width_px // 2**k))
            np.testing.assert_array_equal(level[:], want)
        assert max(levels[-1].shape) <= coarsest_px
        assert len(levels) == 1 or max(levels[-2].shape) > coarsest_px


def files_below(path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("seed", [1, 2])
def test_labels_are_those_of_painting_by_pixels(tmp_path, small_chunks, seed):
    cells = cells_of(blobs(seed, 180, 5), seed)
    frame = Frame(1.0, 169 + seed, 151)
    slide = Slide(cells, frame)
    root = write(tmp_path / "masks.zarr", slide)
    check_labels(root, cells, frame, SMALL["COARSEST_LABEL_PX"])
    assert {0, 1, 2, 3, 4, UNKNOWN_VALUE} == set(np.unique(root["labels/classes/0"]))
    assert slide.boxes_asked == frame.box.squares(64)
    assert list(tmp_path.iterdir()) == [tmp_path / "masks.zarr"]


@pytest.mark.parametrize("threads", [1, 3])
def test_shards_are_painted_when_their_cells_are_known(tmp_path, small_chunks, threads):
    """No shard is asked for too early, and what is painted bit by bit is the whole."""
    cells = cells_of(blobs(4, 180, 5), 4)
    frame = Frame(1.0, 173, 180)
    slide = Slide(cells, frame)
    known = threading.Event()
    with MaskWriter(tmp_path / "masks.zarr", source_of(slide), threads) as writer:
        for y_px, rows in ((63, 0), (64, 1), (127, 1), (150, 2)):
            writer.cells_complete_above(y_px)
            deadline = time.monotonic() + 10
            while len(slide.boxes_asked) < 3 * rows and time.monotonic() < deadline:
                known.wait(0.005)
            assert sorted(slide.boxes_asked) == sorted(frame.box.squares(64)[: 3 * rows])
    root = zarr.open_group(tmp_path / "masks.zarr", mode="r")
    check_labels(root, cells, frame, SMALL["COARSEST_LABEL_PX"])


def test_an_error_between_two_pieces_leaves_nothing(tmp_path, small_chunks):
    slide = Slide(cells_of(blobs(6), 6), Frame(1.0, 96, 96))

    def stopped():
        with MaskWriter(tmp_path / "masks.zarr", source_of(slide), 2) as writer:
            writer.cells_complete_above(64)
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        stopped()
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_wanted_any_more_is_not_finished(tmp_path, small_chunks):
    slide = Slide(cells_of(blobs(4, 180, 5), 4), Frame(1.0, 173, 180))
    stopped = threading.Event()

    def stop():
        with MaskWriter(tmp_path / "masks.zarr", source_of(slide), stopped=stopped) as writer:
            writer.cells_complete_above(64)
            stopped.set()
            time.sleep(0.2)
            asked = len(slide.boxes_asked), len(slide.boxes_read)
            writer.cells_complete_above(180)
            raise_if_more.append(asked)

    raise_if_more: list[tuple[int, int]] = []
    with pytest.raises(Stopped):
        stop()
    for asked in raise_if_more:
        assert asked == (len(slide.boxes_asked), len(slide.boxes_read))
    assert len(slide.boxes_asked) < len(slide.frame.box.squares(64))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
def test_labels_of_real_nuclei(tmp_path, shared):
    labels = real_labels(shared, "monuseg_train", 2)
    cells = cells_of(labels, 2)
    frame = Frame(1.0, labels.shape[1], labels.shape[0])
    root = write(tmp_path / "masks.zarr", Slide(cells, frame))
    check_labels(root, cells, frame, ome_zarr.COARSEST_LABEL_PX)
    np.testing.assert_array_equal(root["labels/nuclei/0"][:], labels)


def test_what_lies_outside_the_frame_is_cut_off(tmp_path, small_chunks):
    cells = with_ids(moved(instances_of(blobs(3, 120)), -20, -31), 1)
    frame = Frame(1.0, 70, 75)
    root = write(tmp_path / "masks.zarr", Slide(cells, frame))
    check_labels(root, cells, frame, SMALL["COARSEST_LABEL_PX"])


def test_chunks_of_the_promised_size(tmp_path):
    """Across the edge of a true shard, in both directions."""
    spots = np.zeros((60, 60), int)
    spots[:20, :20], spots[30:, 30:] = 1, 2
    cells = with_ids(moved(instances_of(spots), 4070, 4060), 70_000)
    frame = Frame(0.5, 4200, 4150)
    root = write(tmp_path / "masks.zarr", Slide(cells, frame))
    check_labels(root, cells, frame, 1024)
    for array in (root["labels/nuclei/0"], root["labels/classes/0"]):
        assert array.chunks == (1024, 1024)
        assert array.shards == (4096, 4096)
        (codec,) = json.loads(json.dumps(array.metadata.to_dict()["codecs"]))
        assert [inner["name"] for inner in codec["configuration"]["codecs"]] == ["bytes", "zstd"]
    assert [a.shape for a in levels_of(root)] == [
        (3, 519, 525),
        (3, 260, 263),
        (3, 130, 132),
        (3, 65, 66),
    ]


def test_chunks_without_nuclei_are_absent(tmp_path, small_chunks):
    labels = np.zeros((200, 200), int)
    labels[100:104, 10:14] = 1
    cells = cells_of(labels, 0)
    write(tmp_path / "masks.zarr", Slide(cells, Frame(1.0, 200, 200)))
    painted = {
        name
        for name in files_below(tmp_path / "masks.zarr")
        if name.startswith("labels") and not name.endswith("zarr.json")
    }
    # The spot's pixels survive striding by 4 (rows 100, columns 12), not by 8.
    assert painted == {
        f"labels/{kind}/{where}"
        for kind in ("nuclei", "classes")
        for where in ("0/c/1/0", "1/c/0/0", "2/c/0/0")
    }
    shard = (tmp_path / "masks.zarr/labels/nuclei/0/c/1/0").read_bytes()
    index = np.frombuffer(shard[-(16 * 16 + 4) : -4], "<u8").reshape(16, 2)
    assert (index[:, 0] != 2**64 - 1).sum() == 1, "only one chunk of the shard is written"


def test_zero_cells(tmp_path, small_chunks):
    cells = chosen(cells_of(blobs(1), 1), [])
    root = write(tmp_path / "masks.zarr", Slide(cells, Frame(1.0, 100, 90)))
    check_labels(root, cells, Frame(1.0, 100, 90), SMALL["COARSEST_LABEL_PX"])
    files = files_below(tmp_path / "masks.zarr/labels")
    assert all(name.endswith("zarr.json") for name in files)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 1), (33, 500), (1030, 3)])
def test_tiny_slides(tmp_path, width, height):
    cells = with_ids(instances_of(np.ones((1, 1), int)), 1)
    frame = Frame(1.0, width, height)
    root = write(tmp_path / "masks.zarr", Slide(cells, frame))
    check_labels(root, cells, frame, 1024)
    np.testing.assert_array_equal(
        root["0"][:], picture(Frame(root_scale(root), *root["0"].shape[:0:-1])).transpose(2, 0, 1)
    )
    Image.from_zarr(root)


def root_scale(root: zarr.Group) -> float:
    """Return the model pixels per pixel of the finest RGB level."""
    return transform(root, 0)[0][1] / MPP


@pytest.mark.parametrize(
    ("mpp", "halvings"), [(0.25, 4), (0.5, 3), (0.3, 4), (2.0, 1), (4.0, 0), (9.0, 0), (0.01, 4)]
)
def test_rgb_starts_near_4_um(tmp_path, small_chunks, mpp, halvings):
    """Never beyond the labels' coarsest level, the fourth here."""
    frame = Frame(1.0, 201, 150)
    slide = Slide(cells_of(blobs(1), 1), frame)
    root = write(tmp_path / "masks.zarr", slide, mpp)
    first = frame.coarser(2**halvings)
    assert transform(root, 0)[0] == [1.0, mpp * 2**halvings, mpp * 2**halvings]
    expected = picture(first)
    for level in levels_of(root):
        np.testing.assert_array_equal(level[:], expected.transpose(2, 0, 1))
        expected = slow_half(expected)
    assert len(levels_of(root)) == len(levels_of(root["labels/nuclei"])) == 5
    assert max(max(box.width_px, box.height_px) for box in slide.boxes_read) <= SMALL["READ_PX"]
    assert sum(box.area_px for box in slide.boxes_read) == first.box.area_px


def test_positions_in_um_are_those_of_the_cell_table(tmp_path, small_chunks):
    cells = cells_of(blobs(6), 6)
    frame = Frame(2.004, 96, 96)
    root = write(tmp_path / "masks.zarr", Slide(cells, frame))
    ids = root["labels/nuclei/0"][:]
    scale, translation = transform(root["labels/nuclei"], 0)
    measured = measure_instances(cells.instances, MPP)
    for i, cell_id in enumerate(cells.cell_id):
        y, x = (
            np.mean(place) * s + t
            for place, s, t in zip(np.nonzero(ids == cell_id), scale, translation, strict=True)
        )
        assert (x, y) == pytest.approx((measured.x_px[i] * MPP, measured.y_px[i] * MPP))


def test_every_level_lies_where_its_pixels_do(tmp_path, small_chunks):
    root = write(tmp_path / "masks.zarr", Slide(cells_of(blobs(6), 6), Frame(1.0, 96, 96)))
    for name in ("nuclei", "classes"):
        group = root[f"labels/{name}"]
        for k in range(len(levels_of(group))):
            scale, translation = transform(group, k)
            assert scale == [MPP * 2**k] * 2
            # Pixel 3 is the finest level's pixel 3 · 2**k, whose centre is half a pixel on.
            assert translation[0] + 3 * scale[0] == (3 * 2**k + 0.5) * MPP
    for k in range(len(levels_of(root))):
        scale, translation = transform(root, k)
        # Pixel 3 is the mean of what lies from 3 to 4 of its pixels.
        assert translation[1] + 3 * scale[1] == 3.5 * scale[1]
        assert translation[0] == 0


def test_ome_zarr_py_finds_image_and_labels(tmp_path, small_chunks):
    path = tmp_path / "masks.zarr"
    root = write(path, Slide(cells_of(blobs(6), 6), Frame(1.0, 96, 96)))
    nodes = {str(node.zarr.basename()): node for node in Reader(parse_url(path))()}
    assert {"masks.zarr", "nuclei", "classes"} <= set(nodes)
    np.testing.assert_array_equal(nodes["masks.zarr"].data[0].compute(), root["0"][:])
    for name in ("nuclei", "classes"):
        expected = [level[:] for level in levels_of(root[f"labels/{name}"])]
        assert len(nodes[name].data) == len(expected)
        for lazy, level in zip(nodes[name].data, expected, strict=True):
            np.testing.assert_array_equal(lazy.compute(), level)


def test_ome_zarr_models_accepts_it(tmp_path, small_chunks):
    root = write(tmp_path / "masks.zarr", Slide(cells_of(blobs(6), 6), Frame(1.0, 96, 96)))
    image = Image.from_zarr(root)
    axes = [(axis.name, axis.type, axis.unit) for axis in image.ome_attributes.multiscales[0].axes]
    um = "micrometer"
    assert axes == [("c", "channel", None), ("y", "space", um), ("x", "space", um)]
    assert Labels.from_zarr(root["labels"]).ome_attributes.labels == ["nuclei", "classes"]
    ImageLabel.from_zarr(root["labels/nuclei"])
    label = ImageLabel.from_zarr(root["labels/classes"])
    found = root["labels/classes"].attrs["ome"]["image-label"]
    assert label.ome_attributes.multiscales[0].ndim == 2
    assert found["source"] == {"image": "../../"}
    assert found["properties"] == [
        {"label-value": value, "class": name}
        for value, name in [*enumerate(CLASS_NAMES, 1), (255, "Unknown")]
    ]
    assert found["colors"][1] == {"label-value": 2, "rgba": [0, 255, 0, 255]}
    assert found["colors"][-1] == {"label-value": 255, "rgba": [128, 128, 128, 255]}


def test_threads_make_no_difference(tmp_path, small_chunks):
    cells = cells_of(blobs(7, 150, 6), 7)
    frame = Frame(1.0, 140, 150)
    write(tmp_path / "one.zarr", Slide(cells, frame))
    write(tmp_path / "four.zarr", Slide(cells, frame), threads=4)
    files = files_below(tmp_path / "one.zarr")
    assert files == files_below(tmp_path / "four.zarr")
    for name in files:
        assert (tmp_path / "one.zarr" / name).read_bytes() == (
            tmp_path / "four.zarr" / name
        ).read_bytes()


def test_a_directory_that_is_there_stays(tmp_path, small_chunks):
    path = tmp_path / "masks.zarr"
    frame = Frame(1.0, 96, 96)
    cells = cells_of(blobs(6), 6)
    write(path, Slide(cells, frame))
    before = files_below(path)
    root = write(path, Slide(chosen(cells, [0]), frame))
    assert files_below(path) == before
    check_labels(root, cells, frame, SMALL["COARSEST_LABEL_PX"])
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_directory_is_no_result(tmp_path, small_chunks):
    path = tmp_path / "masks.zarr"
    path.mkdir()
    cells, frame = cells_of(blobs(6), 6), Frame(1.0, 96, 96)
    check_labels(write(path, Slide(cells, frame)), cells, frame, SMALL["COARSEST_LABEL_PX"])


def test_a_directory_deleted_while_it_is_written_does_not_appear(tmp_path, small_chunks):
    """The library makes folders anew, so what is written last would come to stand alone."""
    path = tmp_path / "masks.zarr"
    slide = Slide(cells_of(blobs(6), 6), Frame(1.0, 96, 96))
    read_rgb = slide.read_rgb

    def delete_and_read(frame, box):
        for partial in tmp_path.glob(".masks.zarr.*"):
            clear_away(partial)
        return read_rgb(frame, box)

    slide.read_rgb = delete_and_read
    with pytest.raises(OutputNotWritable):
        write(path, slide)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_older_directory_and_nothing_else(tmp_path, small_chunks):
    path = tmp_path / "masks.zarr"
    slide = Slide(cells_of(blobs(6), 6), Frame(1.0, 96, 96))
    write(path, slide)
    before = files_below(path)

    def unreadable(frame, box):
        raise ZeroDivisionError

    slide.read_rgb = unreadable
    with pytest.raises(ZeroDivisionError):
        write(path, slide)
    assert files_below(path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_error_of_any_shard_is_told(tmp_path, small_chunks, monkeypatch):
    def full(pieces, box):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ome_zarr, "paint_box", full)
    with pytest.raises(OutputNotWritable, match="No space left"):
        write(tmp_path / "masks.zarr", Slide(cells_of(blobs(6), 6), Frame(1.0, 96, 96)))
    assert list(tmp_path.iterdir()) == []


def test_classes_that_do_not_fit_are_refused(tmp_path, small_chunks):
    cells = cells_of(blobs(6), 6)
    index = cells.instances.class_index.copy()
    index[0] = 4
    wrong = Cells(
        dataclasses.replace(cells.instances, class_index=index),
        cells.cell_id,
        cells.tile_row,
        cells.tile_col,
    )
    slide = Slide(wrong, Frame(1.0, 96, 96))
    with pytest.raises(ValueError, match="class index 4"):
        write(tmp_path / "masks.zarr", slide)
    names = [str(k) for k in range(255)]
    with pytest.raises(ValueError, match="at most 254"):
        dataclasses.replace(source_of(slide), class_names=names)
    assert list(tmp_path.iterdir()) == []


class FakeResult:
    classes_version: str | None = None

    def __init__(self, path) -> None:
        self.path = path


def test_the_exporter_copies_a_run_s_masks_once(tmp_path, small_chunks):
    run = tmp_path / "a.svs.wsiseg"
    run.mkdir()
    result = FakeResult(run)
    with pytest.raises(ResultNotReadable, match=r"no masks\.zarr"):
        export_ome_zarr(result, tmp_path / "copy.zarr")
    write(run / "masks.zarr", Slide(cells_of(blobs(6), 6), Frame(1.0, 96, 96)))
    export_ome_zarr(result, tmp_path / "copy.zarr")
    files = files_below(run / "masks.zarr")
    assert files_below(tmp_path / "copy.zarr") == files
    for name in files:
        assert (tmp_path / "copy.zarr" / name).read_bytes() == (
            run / "masks.zarr" / name
        ).read_bytes()
    with pytest.raises(OutputExists, match="delete it first"):
        export_ome_zarr(result, tmp_path / "copy.zarr")
    assert {path.name for path in tmp_path.iterdir()} == {"a.svs.wsiseg", "copy.zarr"}


OLDER = OmeZarrOptions("0.4")


@pytest.fixture
def run(tmp_path, small_chunks):
    """A run with masks of several shards, one of them without nuclei."""
    folder = tmp_path / "a.svs.wsiseg"
    folder.mkdir()
    labels = blobs(6, 180, 5)
    labels[:, 64:128] = 0
    write(folder / "masks.zarr", Slide(cells_of(labels, 6), Frame(1.0, 191, 150)))
    return FakeResult(folder)


def export_older(run, path) -> tuple[zarr.Group, zarr.Group]:
    """Return the masks of the run and of the export."""
    export_ome_zarr(run, path, OLDER)
    return zarr.open_group(run.path / "masks.zarr", mode="r"), zarr.open_group(path, mode="r")


def images_of(newer: zarr.Group, older: zarr.Group):
    """Yield (what 0.5 says, arrays of 0.5, what 0.4 says, arrays of 0.4) of all three images."""
    for name in ("", "labels/nuclei", "labels/classes"):
        group, copied = (root[name] if name else root for root in (newer, older))
        said, said_older = group.attrs["ome"], copied.attrs.asdict()
        paths = [entry["path"] for entry in said["multiscales"][0]["datasets"]]
        yield said, [group[p] for p in paths], said_older, [copied[p] for p in paths]


def test_version_0_4_has_the_same_pixels_places_and_colours(tmp_path, run):
    newer, older = export_older(run, tmp_path / "a.ome.zarr")
    n_levels = 0
    for said, arrays, said_older, copied in images_of(newer, older):
        (image,), (image_older,) = said["multiscales"], said_older["multiscales"]
        assert image_older.pop("version") == "0.4"
        assert image_older == image
        for array, copy in zip(arrays, copied, strict=True):
            n_levels += 1
            assert (copy.dtype, copy.chunks, copy.fill_value) == (
                array.dtype,
                array.chunks,
                array.fill_value,
            )
            np.testing.assert_array_equal(copy[:], array[:])
    assert n_levels == 3 * 5
    label = older["labels/classes"].attrs["image-label"]
    assert label.pop("version") == "0.4"
    expected = newer["labels/classes"].attrs["ome"]["image-label"]
    assert label == {name: value for name, value in expected.items() if name != "version"}
    assert label["colors"], "no colour was tried"
    assert older["labels"].attrs["labels"] == ["nuclei", "classes"]
    assert {path.name for path in tmp_path.iterdir()} == {"a.svs.wsiseg", "a.ome.zarr"}


def test_version_0_4_is_zarr_2_as_java_reads_it(tmp_path, run):
    """jzarr, in Bio-Formats and QuPath: zlib or blosc, no zstd, no filters, nested chunks."""
    export_older(run, tmp_path / "a.ome.zarr")
    files = files_below(tmp_path / "a.ome.zarr")
    assert not any(name.endswith("zarr.json") for name in files)
    headers = [name for name in files if name.endswith(".zarray")]
    assert len(headers) == 3 * 5
    for name in headers:
        header = json.loads((tmp_path / "a.ome.zarr" / name).read_text())
        assert header["zarr_format"] == 2
        assert header["compressor"]["id"] == "zlib"
        assert header["dimension_separator"] == "/"
        assert header["filters"] is None
        assert header["order"] == "C"
        assert header["dtype"] in ("|u1", "<u4")
    assert "labels/nuclei/0/0/0" in files
    # Columns 64 to 127 hold no nucleus: chunks 4 to 7 of 16 px.
    assert not any(f"labels/nuclei/0/{y}/{x}" in files for y in range(10) for x in range(4, 8))


def test_version_0_4_is_accepted_by_ome_zarr_models_and_read_by_ome_zarr_py(tmp_path, run):
    path = tmp_path / "a.ome.zarr"
    newer, older = export_older(run, path)
    image = v04.Image.from_zarr(older)
    assert [axis.name for axis in image.attributes.multiscales[0].axes] == ["c", "y", "x"]
    assert v04.Labels.from_zarr(older["labels"]).attributes.labels == ["nuclei", "classes"]
    for name in ("nuclei", "classes"):
        v04.ImageLabel.from_zarr(older[f"labels/{name}"])
    nodes = {str(node.zarr.basename()): node for node in Reader(parse_url(path))()}
    for name, group in [("a.ome.zarr", newer), *newer["labels"].groups()]:
        for lazy, level in zip(nodes[name].data, levels_of(group), strict=True):
            np.testing.assert_array_equal(lazy.compute(), level[:])


def test_version_0_5_can_be_asked_for_and_others_not(tmp_path, run):
    export_ome_zarr(run, tmp_path / "a.zarr", OmeZarrOptions("0.5"))
    assert files_below(tmp_path / "a.zarr") == files_below(run.path / "masks.zarr")
    with pytest.raises(UsageError, match=r"'0\.3'.*0\.5 or 0\.4"):
        OmeZarrOptions("0.3")


@pytest.mark.parametrize("what", ["chunk", "attributes", "group"])
def test_version_0_4_of_damaged_masks_is_refused(tmp_path, run, what):
    masks = run.path / "masks.zarr"
    if what == "chunk":
        shard = masks / "labels/nuclei/0/c/0/0"
        shard.write_bytes(bytes(len(shard.read_bytes())))
    elif what == "attributes":
        header = json.loads((masks / "zarr.json").read_text())
        header["attributes"] = {}
        (masks / "zarr.json").write_text(json.dumps(header))
    else:
        (masks / "labels/classes/zarr.json").unlink()
    with pytest.raises(ResultNotReadable, match=r"masks\.zarr is damaged"):
        export_older(run, tmp_path / "a.ome.zarr")
    assert list(tmp_path.iterdir()) == [run.path]


def test_version_0_4_reads_one_shard_at_a_time(tmp_path, run, monkeypatch):
    read: list[tuple[int, ...]] = []
    get = zarr.Array.__getitem__

    def watched(self, place):
        found = get(self, place)
        read.append(found.shape[-2:])
        return found

    monkeypatch.setattr(zarr.Array, "__getitem__", watched)
    export_ome_zarr(run, tmp_path / "a.ome.zarr", OLDER)
    assert max(max(shape) for shape in read) == SMALL["SHARD_PX"]


class VersionedResult(FakeResult):
    """The same masks with other classes: of every three nuclei one has none."""

    classes_version = "clicks"
    class_colours = {"Tumour": (1, 2, 3), "Other": (4, 5, 6)}  # noqa: RUF012
    n_cells = 1000

    def batches(self, columns):
        names = [(None, "Tumour", "Other")[k % 3] for k in range(1, self.n_cells + 1)]
        yield from pa.table({"class_name": pa.array(names)}).to_batches(100)


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_an_export_of_a_version_has_its_classes(tmp_path, run, version):
    masks = run.path / "masks.zarr"
    before = {name: (masks / name).read_bytes() for name in files_below(masks)}
    export_ome_zarr(VersionedResult(run.path), tmp_path / "v.zarr", OmeZarrOptions(version))
    assert {name: (masks / name).read_bytes() for name in files_below(masks)} == before
    own, root = (zarr.open_group(path, mode="r") for path in (masks, tmp_path / "v.zarr"))
    n_levels = len(levels_of(own["labels/nuclei"]))
    assert n_levels > 2
    for k in range(n_levels):
        ids = own[f"labels/nuclei/{k}"][:]
        np.testing.assert_array_equal(root[f"labels/nuclei/{k}"][:], ids)
        expected = np.where(ids == 0, 0, np.array([255, 1, 2])[ids % 3])
        np.testing.assert_array_equal(root[f"labels/classes/{k}"][:], expected)
        assert len(np.unique(expected)) == 4
    attributes = root["labels/classes"].attrs.asdict()
    described = attributes.get("ome", attributes)["image-label"]
    assert described["properties"] == [
        {"label-value": value, "class": name}
        for value, name in ((1, "Tumour"), (2, "Other"), (255, "Unknown"))
    ]
    assert described["colors"][1] == {"label-value": 2, "rgba": [4, 5, 6, 255]}
    assert described["source"] == {"image": "../../"}
    if version == "0.5":
        ImageLabel.from_zarr(root["labels/classes"])


def test_a_version_of_other_cells_than_the_masks_is_refused(tmp_path, run):
    few = VersionedResult(run.path)
    few.n_cells = 3
    with pytest.raises(ResultNotReadable, match="the cell table 3 nuclei"):
        export_ome_zarr(few, tmp_path / "v.zarr")
    assert not (tmp_path / "v.zarr").exists()
