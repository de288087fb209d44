"""One annotated picture, written in every format of labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from wsiseg.labels.options import LabelOptions
from wsiseg.labels.reading import read_label_sets
from wsiseg.labels.records import LabelledImage, LabelSet
from wsiseg.records import UNKNOWN_CLASS
from wsiseg.testing.painted import paint_nuclei

PLAIN = LabelOptions(mpp=0.25)

SIDE_PX = 96
N_NUCLEI = 9
N_CLASSES = 3


@dataclass(frozen=True, eq=False)
class Truth:
    rgb: NDArray[np.uint8]
    labels: NDArray[np.int32]
    """1 to n."""
    classes: NDArray[np.int64]
    """(n,): 1 to 3."""

    @property
    def class_map(self) -> NDArray[np.int64]:
        return np.append(0, self.classes)[self.labels]

    @cached_property
    def outlines(self) -> list[shapely.Geometry]:
        """The outer sides of each nucleus's pixels."""
        return [outline(self.labels == k) for k in range(1, N_NUCLEI + 1)]


@cache
def truth(seed: int = 0) -> Truth:
    rgb, labels = paint_nuclei(SIDE_PX, N_NUCLEI, 0.25, (seed,))
    assert len(np.unique(labels)) == N_NUCLEI + 1
    return Truth(rgb, labels, np.arange(N_NUCLEI) % N_CLASSES + 1)


def truths() -> dict[str, Truth]:
    return {"b": truth(1), "a": truth(2)}


def write_png(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def outline(mask: NDArray[np.bool_]) -> shapely.Geometry:
    """Return the pixels' squares in one piece."""
    return shapely.union_all([shapely.box(x, y, x + 1, y + 1) for y, x in np.argwhere(mask)])


def write_folder(folder: Path, pictures: Mapping[str, Truth]) -> None:
    for name, one in pictures.items():
        write_png(folder / "images" / f"{name}.png", one.rgb)
        write_png(folder / "inst" / f"{name}.png", (one.labels * 7).astype(np.uint16))
        write_png(folder / "types" / f"{name}.png", one.class_map.astype(np.uint8))


def aperio_text(rings: Sequence[NDArray[np.float64]], mpp: str = "0.25", extra: str = "") -> str:
    regions = "".join(
        f'<Region Id="{k}" Type="0" NegativeROA="0"><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in ring)
        + "</Vertices></Region>"
        for k, ring in enumerate(rings, start=1)
    )
    return (
        f'<Annotations MicronsPerPixel="{mpp}"><Annotation Id="1" Name=""><Attributes><Attribute '
        f'Name="Description" Id="0" Value=""/></Attributes><Regions>{regions}{extra}</Regions>'
        "</Annotation></Annotations>"
    )


def write_monuseg(folder: Path, pictures: Mapping[str, Truth]) -> None:
    for name, one in pictures.items():
        (folder / "Tissue Images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(one.rgb).save(folder / "Tissue Images" / f"{name}.tif")
        rings = [np.asarray(shape.exterior.coords)[:-1] for shape in one.outlines]
        path = folder / "Annotations" / f"{name}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(aperio_text(rings))


def write_mat(path: Path, **arrays: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, arrays)


def write_consep(folder: Path, pictures: Mapping[str, Truth]) -> None:
    for name, one in pictures.items():
        write_png(folder / "Images" / f"{name}.png", one.rgb)
        write_png(folder / "Overlay" / f"{name}.png", 255 - one.rgb)
        write_mat(
            folder / "Labels" / f"{name}.mat",
            inst_map=one.labels.astype(np.float64),
            type_map=one.class_map.astype(np.float64),
            inst_type=one.classes[:, None].astype(np.float64),
            inst_centroid=np.zeros((N_NUCLEI, 2)),
        )


def write_lizard(folder: Path, pictures: Mapping[str, Truth]) -> None:
    for name, one in pictures.items():
        write_png(folder / "lizard_images1" / "Lizard_Images1" / f"{name}.png", one.rgb)
        order = np.random.default_rng(0).permutation(N_NUCLEI)
        write_mat(
            folder / "lizard_labels" / "Lizard_Labels" / "Labels" / f"{name}.mat",
            **{"inst_map": one.labels, "id": (order + 1)[None], "class": one.classes[order][None]},
        )


def pannuke_masks(one: Truth) -> NDArray[np.float64]:
    """Return six channels; ids begin again in each."""
    masks = np.zeros((SIDE_PX, SIDE_PX, 6))
    for class_number in range(1, N_CLASSES + 1):
        members = np.flatnonzero(one.classes == class_number) + 1
        for k, label in enumerate(members, start=1):
            masks[one.labels == label, class_number - 1] = k
    masks[..., 5] = one.labels == 0
    return masks


def write_pannuke(folder: Path, pictures: Mapping[str, Truth]) -> None:
    for part in ("images/fold1", "masks/fold1"):
        (folder / part).mkdir(parents=True)
    images = np.stack([one.rgb for one in pictures.values()]).astype(np.float64)
    np.save(folder / "images" / "fold1" / "images.npy", images)
    np.save(folder / "images" / "fold1" / "types.npy", np.array(["Breast", "Bile-duct"]))
    masks = np.stack([pannuke_masks(one) for one in pictures.values()])
    np.save(folder / "masks" / "fold1" / "masks.npy", masks)


def write_conic(folder: Path, pictures: Mapping[str, Truth]) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", np.stack([one.rgb for one in pictures.values()]))
    both = [np.stack([one.labels, one.class_map], axis=-1) for one in pictures.values()]
    np.save(folder / "labels.npy", np.stack(both).astype(np.uint16))
    (folder / "patch_info.csv").write_text("patch_info\nconsep_1-0000\ncrag_19-0003\n")


def feature(shape: shapely.Geometry, class_name: str | None = None, **properties: Any) -> Any:
    said = {"objectType": "detection"} | properties
    if class_name is not None:
        said["classification"] = {"name": class_name, "color": [1, 2, 3]}
    return {"type": "Feature", "geometry": shapely.geometry.mapping(shape), "properties": said}


def write_features(path: Path, features: Sequence[Any], **more: Any) -> None:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **more}))


def write_geojson(folder: Path, pictures: Mapping[str, Truth]) -> None:
    for name, one in pictures.items():
        write_png(folder / f"{name}.png", one.rgb)
        names = [("Inflammatory", "Epithelial", "Spindle")[k - 1] for k in one.classes]
        found = [feature(s, n) for s, n in zip(one.outlines, names, strict=True)]
        write_features(folder / f"{name}.png.geojson", found)


WRITERS: dict[str, Callable[[Path, Mapping[str, Truth]], None]] = {
    "folders": write_folder,
    "monuseg": write_monuseg,
    "consep": write_consep,
    "lizard": write_lizard,
    "pannuke": write_pannuke,
    "conic": write_conic,
    "geojson": write_geojson,
}


def write_toml(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def square(x: float, y: float, side: float = 8) -> shapely.Polygon:
    return shapely.box(x, y, x + side, y + side)


def write_drawn(folder: Path, features: list[Any], size: int = 200, **more: Any) -> Path:
    rng = np.random.default_rng(0)
    write_png(folder / "a.png", rng.integers(0, 255, (size, size, 3), np.uint8))
    write_features(folder / "a.geojson", features, **more)
    return folder / "a.png"


def pixels(*boxes: tuple[int, int, int, int], size: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(size, np.bool_)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


def read_one(path: Path, options: LabelOptions = PLAIN) -> LabelSet:
    (found,) = read_label_sets([path], options).sets
    return found


def class_indices(image: LabelledImage) -> list[int]:
    """Return the one class of each nucleus, 1 to n."""
    n = int(image.instances.max())
    found = [np.unique(image.classes[image.instances == k]) for k in range(1, n + 1)]
    assert all(len(values) == 1 for values in found)
    assert (image.classes[image.instances == 0] == UNKNOWN_CLASS).all()
    return [int(values[0]) for values in found]
