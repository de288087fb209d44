"""What a worker must have and see to take part; looked at in its own process.

Importing this is quick: a worker that is asked before its first task has loaded little yet.
"""

from __future__ import annotations

import platform
import socket
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from wsiseg.errors import WsisegError
from wsiseg.models import MapsModel, ModelFile, check_weights, list_models, load_model

PROCESS = uuid.uuid4().hex
"""Differs between processes."""
COMPARED = ("wsiseg", "numpy", "numba", "torch", "safetensors")
"""Packages that may change results, or what passes between client and worker."""


def versions_here() -> dict[str, str]:
    """Return the versions that must be the same in every process."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python} | {name: _version(name) for name in COMPARED}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model as it travels: a shipped one by its name, another by its folder."""

    name: str
    """Name of a shipped model, or an absolute folder."""
    sha256: str
    """Of everything that fixes what it computes."""

    def load(self) -> MapsModel:
        """Find it in this process.

        Raises
        ------
        WsisegError
            If there is none of that name.
        """
        return load_model(self.name)


@dataclass(frozen=True, slots=True)
class ClusterNeeds:
    """What tasks need of the process they run in."""

    out: Path | None = None
    """Folder of results: seen and written by client and workers alike."""
    slides: tuple[tuple[Path, int], ...] = ()
    """A few slides, and their sizes in bytes: a sample that every worker must see."""
    models: tuple[NamedModel, ...] = ()
    """Model files that every worker must have."""
    gpu: bool = False
    """Tasks run on workers that offer the resource GPU alone."""
    versions: Mapping[str, str] = field(default_factory=versions_here)
    """The client's."""
    process: str = PROCESS
    """The client's."""


def needs_of(
    out: Path | None,
    slides: tuple[Path, ...] = (),
    models: tuple[MapsModel, ...] = (),
    device_kind: str = "cpu",
) -> ClusterNeeds:
    """Return what workers need for these slides and models.

    Parameters
    ----------
    out : Path or None
        Folder of results.
    slides : tuple of Path
        A few of the slides; those that are missing here are left out.
    models : tuple of MapsModel
        Models in files are looked for; others travel whole.
    device_kind : str
        `cpu` or `cuda`.
    """
    sizes = tuple(
        (path.absolute(), size) for path in slides if (size := _size_bytes(path)) is not None
    )
    return ClusterNeeds(
        None if out is None else out.absolute(),
        sizes,
        tuple(named for model in models if (named := named_model(model)) is not None),
        device_kind == "cuda",
    )


def named_model(model: MapsModel) -> NamedModel | None:
    """Return how a model in files travels; None for one that pickles with all it needs."""
    if not isinstance(model, ModelFile):
        return None
    card = model.card
    shipped = any(known.name == card.name for known in list_models())
    if shipped and load_model(card.name) == model:
        return NamedModel(card.name, card.sha256)
    return NamedModel(str(model.folder.absolute()), card.sha256)


def host() -> str:
    """Return this machine's name."""
    return socket.gethostname()


def unmet(needs: ClusterNeeds) -> list[str]:
    """Return what this process lacks, and what to do, each as a clause."""
    return [*other_versions(needs.versions), *_unseen(needs), *other_models(needs.models)]


def other_versions(wanted: Mapping[str, str]) -> list[str]:
    """Return what has another version in this process."""
    here = versions_here()
    return [
        f"it has {name} {here.get(name, 'missing')}, this call has {version}: start it from the "
        "same environment"
        for name, version in wanted.items()
        if here.get(name) != version
    ]


def _unseen(needs: ClusterNeeds) -> Iterator[str]:
    if needs.out is not None and not needs.out.is_dir():
        yield (
            f"it does not see the output folder {needs.out.name}: use a folder on a disk that "
            "all machines share, by the same path"
        )
    yield from unseen_slides(needs.slides)


def unseen_slides(slides: tuple[tuple[Path, int], ...]) -> list[str]:
    """Return what is wrong with each slide that this process cannot read as it was."""
    found = [(path, size_bytes, _size_bytes(path)) for path, size_bytes in slides]
    return [
        f"it cannot read {path.name}: put slides on a disk that all machines share, by the same "
        "path"
        if here is None
        else f"its {path.name} has {here} bytes, the one here {size_bytes}: it sees another file "
        "under the same path"
        for path, size_bytes, here in found
        if here != size_bytes
    ]


def _size_bytes(path: Path) -> int | None:
    """Return a file's size if it can be read, 0 for a folder, None if there is none."""
    try:
        if path.is_dir():
            next(path.iterdir(), None)
            return 0
        with path.open("rb") as file:
            file.read(1)
        return path.stat().st_size
    except OSError:
        return None


def other_models(models: tuple[NamedModel, ...]) -> list[str]:
    """Return what is wrong with each model that this process has not, or another of its name."""
    reasons = []
    for named in models:
        try:
            model = named.load()
            if isinstance(model, ModelFile):
                check_weights(model)
        except WsisegError as error:
            reasons.append(f"{error}: give it the same model")
            continue
        if model.card.sha256 != named.sha256:
            reasons.append(
                f"its model {model.card.name} is {model.card.sha256[:12]}…, the one here "
                f"{named.sha256[:12]}…: install the same one"
            )
    return reasons


def answer(needs: ClusterNeeds, probe: Path | None) -> tuple[str, list[str], str | None]:
    """Say, in a worker: on which host it is, what it lacks, and what it wrote into the probe."""
    lacking = unmet(needs)
    if probe is None or lacking:
        return host(), lacking, None
    name = uuid.uuid4().hex
    try:
        seen = (probe / "client").is_file()
        if seen:
            _touch(probe / name)
    except OSError as error:
        return host(), [f"it cannot write into the output folder ({error.strerror})"], None
    if not seen:
        lacking = [
            "it does not see what was just written into the output folder: use a folder on a "
            "disk that all machines share"
        ]
    return host(), lacking, name


def _touch(path: Path) -> None:
    path.touch()
