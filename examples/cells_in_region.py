"""Count the nuclei inside a region drawn in QuPath, and write them as CSV.

python cells_in_region.py results/slide.svs.wsiseg region.geojson cells.csv
"""

import sys
from pathlib import Path

import pyarrow.compute as pc
import shapely
from pyarrow import csv

import wsiseg


def main(run: str, region: str, table: str) -> None:
    result = wsiseg.open_result(run)
    drawn = shapely.union_all([shapely.from_geojson(Path(region).read_text(encoding="utf-8"))])
    # QuPath counts from the corner of the scanned area, the table from that of the slide.
    polygon = shapely.transform(drawn, lambda points: points + result.bounds_origin_px)
    cells = result.cells(within=polygon)
    mm2 = polygon.area * result.mpp**2 / 1e6
    print(f"{result.name}: {len(cells)} nuclei in {mm2:.4f} mm²")
    for name in result.class_names:
        n = pc.sum(pc.equal(cells["class_name"], name)).as_py() or 0
        print(f"{name:15} {n:8} {n / mm2:8.0f} per mm²")
    csv.write_csv(cells.drop_columns(["geometry", "bbox", "region_ids"]), table)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
