"""Segment one slide and print how many nuclei of each class it has, and how dense they lie.

python segment_and_count.py slide.svs results/
"""

import sys

import wsiseg


def main(slide: str, out: str) -> None:
    result = wsiseg.segment(slide, out)
    summary = result.summary()
    print(f"{summary['slide']}, {summary['model']}: {summary['analysed_mm2']:.3f} mm² of tissue")
    for name, numbers in [*summary["classes"].items(), ("all", summary["total"])]:
        # Nothing analysed is not the same as no nuclei: then there is no density.
        density = "–" if numbers["per_mm2"] is None else f"{numbers['per_mm2']:.0f}"
        print(f"{name:15} {numbers['n']:8} {density:>8} per mm²")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
