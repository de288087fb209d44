"""Works that a methods paragraph cites."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reference:
    """A work, with what its entry in a list of references and in BibTeX needs."""

    key: str
    kind: str
    """BibTeX's: `article`, `inproceedings`, `misc`."""
    authors: str
    """As BibTeX writes them: `Last, First and …`."""
    title: str
    venue: str
    year: int
    volume: str = ""
    number: str = ""
    pages: str = ""
    """The first and the last with a hyphen between them, or an article's number."""
    doi: str = ""

    def text(self) -> str:
        """Return its entry in a list of references."""
        names = [name.split(",")[0] for name in self.authors.split(" and ")]
        who = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
        issue = f"({self.number})" if self.number else ""
        where = ":".join(part for part in (f"{self.volume}{issue}", self.pages) if part)
        place = f"{self.venue} {where}".strip()
        doi = f" doi:{self.doi}" if self.doi else ""
        who = who.strip("{}").removesuffix(".")
        return f"{who}. {self.title}. {place} ({self.year}).{doi}"

    def bibtex(self) -> str:
        """Return its entry of a BibTeX file."""
        booked = "booktitle" if self.kind == "inproceedings" else "journal"
        fields = {
            "author": self.authors,
            # Its own braces keep capitals as they are.
            "title": f"{{{_in_tex(self.title)}}}",
            ("howpublished" if self.kind == "misc" else booked): _in_tex(self.venue),
            "volume": self.volume,
            "number": self.number,
            "pages": self.pages.replace("-", "--"),
            "year": str(self.year),
            "doi": self.doi,
        }
        lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value]
        return f"@{self.kind}{{{self.key},\n" + ",\n".join(lines) + "\n}"


_TEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


def _in_tex(text: str) -> str:
    """Return a text in which TeX finds no command; a version comes from a run's record."""
    return "".join(_TEX.get(c, c) for c in " ".join(text.split()) if c.isprintable())


HOVERNET = Reference(
    "graham2019hovernet",
    "article",
    "Graham, Simon and Vu, Quoc Dang and Raza, Shan E Ahmed and Azam, Ayesha and Tsang, Yee Wah "
    "and Kwak, Jin Tae and Rajpoot, Nasir",
    "HoVer-Net: Simultaneous segmentation and classification of nuclei in multi-tissue histology "
    "images",
    "Medical Image Analysis",
    2019,
    volume="58",
    pages="101563",
    doi="10.1016/j.media.2019.101563",
)
MONUSEG = Reference(
    "kumar2017monuseg",
    "article",
    "Kumar, Neeraj and Verma, Ruchika and Sharma, Sanuj and Bhargava, Surabhi and Vahadane, "
    "Abhishek and Sethi, Amit",
    "A dataset and a technique for generalized nuclear segmentation for computational pathology",
    "IEEE Transactions on Medical Imaging",
    2017,
    volume="36",
    number="7",
    pages="1550-1560",
    doi="10.1109/TMI.2017.2677499",
)
EFFICIENTNET = Reference(
    "tan2019efficientnet",
    "inproceedings",
    "Tan, Mingxing and Le, Quoc V.",
    "EfficientNet: Rethinking model scaling for convolutional neural networks",
    "International Conference on Machine Learning",
    2019,
    doi="10.48550/arXiv.1905.11946",
)
PANOPTIC = Reference(
    "kirillov2019panoptic",
    "inproceedings",
    "Kirillov, Alexander and He, Kaiming and Girshick, Ross and Rother, Carsten and Dollár, Piotr",
    "Panoptic segmentation",
    "IEEE/CVF Conference on Computer Vision and Pattern Recognition",
    2019,
    pages="9404-9413",
    doi="10.1109/CVPR.2019.00963",
)
DECONVOLUTION = Reference(
    "ruifrok2001deconvolution",
    "article",
    "Ruifrok, Arnout C. and Johnston, Dennis A.",
    "Quantification of histochemical staining by color deconvolution",
    "Analytical and Quantitative Cytology and Histology",
    2001,
    volume="23",
    number="4",
    pages="291-299",
)
OPENSLIDE = Reference(
    "goode2013openslide",
    "article",
    "Goode, Adam and Gilbert, Benjamin and Harkes, Jan and Jukic, Drazen and Satyanarayanan, "
    "Mahadev",
    "OpenSlide: A vendor-neutral software foundation for digital pathology",
    "Journal of Pathology Informatics",
    2013,
    volume="4",
    pages="27",
    doi="10.4103/2153-3539.119005",
)
PYTORCH = Reference(
    "paszke2019pytorch",
    "inproceedings",
    "Paszke, Adam and Gross, Sam and Massa, Francisco and others",
    "PyTorch: An imperative style, high-performance deep learning library",
    "Advances in Neural Information Processing Systems",
    2019,
    volume="32",
    doi="10.48550/arXiv.1912.01703",
)


def wsiseg_itself(version: str, year: int) -> Reference:
    """Return the entry of this program."""
    return Reference(
        "wsiseg",
        "misc",
        "{The wsiseg developers}",
        "wsiseg: every nucleus of a whole H&E slide, once and in the right place",
        f"Software, version {version}",
        year,
    )


WORKS = (
    HOVERNET,
    MONUSEG,
    EFFICIENTNET,
    PANOPTIC,
    DECONVOLUTION,
    OPENSLIDE,
    PYTORCH,
)
"""All but the program itself."""
