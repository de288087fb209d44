"""What is looked at before a cluster is trusted, and what is said."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import distributed
import pytest

from wsiseg import worker_needs as seen_here
from wsiseg.cluster import (
    ClusterOptions,
    SlidesOnDask,
    check_cluster,
    check_workers,
    cluster_client,
    needs_of,
)
from wsiseg.errors import Interrupted, OutputNotWritable, UsageError
from wsiseg.models import load_model
from wsiseg.testing.models import LocalNetwork
from wsiseg.worker_needs import NamedModel, named_model, versions_here

if TYPE_CHECKING:
    from distributed import Client


@pytest.fixture(scope="module")
def cluster() -> Iterator[distributed.LocalCluster]:
    """A scheduler and one worker, in this process."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: distributed.LocalCluster) -> Iterator[Client]:
    with distributed.Client(cluster) as client:
        yield client


def test_a_fit_cluster_passes_and_nothing_is_left(client: Client, tmp_path: Path) -> None:
    slide = tmp_path / "a.svs"
    slide.write_bytes(b"abc")
    needs = needs_of(tmp_path / "out" / "deep", (slide, tmp_path / "gone.svs"), (load_model(),))
    assert needs.slides == ((slide, 3),)
    check_cluster(client, needs)
    assert {path.name for path in tmp_path.iterdir()} == {"a.svs", "out"}
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_gpu_is_said_in_time(client: Client) -> None:
    start = time.monotonic()
    said = (
        "no worker of the Dask cluster offers the resource GPU.*CUDA_VISIBLE_DEVICES=0 dask worker "
        ".* --resources GPU=1; or use --device cpu"
    )
    with pytest.raises(UsageError, match=said):
        check_cluster(client, needs_of(None, device_kind="cuda"), timeout_s=2)
    assert time.monotonic() - start < 5


def test_no_workers_are_said_with_the_command_that_starts_some() -> None:
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        said = r"no workers; start some, .*: dask worker \w+://\S+ --nthreads 1 --nworkers N"
        with pytest.raises(UsageError, match=said):
            check_cluster(client, needs_of(None), timeout_s=1)
        with pytest.raises(UsageError, match=said):
            check_workers(client)


def test_another_version_is_named_with_the_worker(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = needs_of(None)
    there = versions_here() | {"numpy": "1.9", "Python": "3.99"}
    monkeypatch.setattr(seen_here, "versions_here", lambda: there)
    with pytest.raises(UsageError, match=r"scheduler \S+: it has Python 3\.99, .*numpy 1\.9"):
        check_cluster(client, needs)
    monkeypatch.setattr("wsiseg.cluster.checks.other_versions", lambda _: [])
    with pytest.raises(UsageError) as caught:
        check_cluster(client, needs)
    (address,) = client.nthreads()
    assert f"worker {address} on {seen_here.host()}" in str(caught.value)
    assert f"it has numpy 1.9, this call has {needs.versions['numpy']}: start" in str(caught.value)
    assert "it has Python 3.99" in str(caught.value)


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ({"slides": ((Path("/no/a.svs"), 3),)}, r"cannot read a\.svs: put slides on a disk"),
        ({"slides": ((Path(__file__), 3),)}, r"its test_cluster_checks\.py has \d+ bytes, .* 3"),
        ({"models": (NamedModel("nuclei-99x", "ab"),)}, "nuclei-99x.*give it the same model"),
        ({"models": (NamedModel("nuclei-40x-v0", "abc"),)}, "its model nuclei-40x-v0 is .* abc…"),
    ],
)
def test_what_a_worker_lacks_is_said(
    client: Client, lacking: dict[str, tuple[object, ...]], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        check_cluster(client, replace(needs_of(None), **lacking))  # type: ignore[arg-type]


def test_an_output_folder_must_be_shared(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that sees another disk under the same path: what it writes is not here."""
    monkeypatch.setattr("wsiseg.worker_needs._touch", lambda _: None)
    with pytest.raises(UsageError, match=r"what it writes .* does not appear here"):
        check_cluster(client, needs_of(tmp_path), timeout_s=2)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OutputNotWritable, match="cannot write in out"):
        check_cluster(client, needs_of(tmp_path / "file" / "out"))


def test_a_worker_that_joins_unfit_is_sent_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("wsiseg.cluster.dispatch.unmet", lambda _: [])
    needs = replace(needs_of(None), versions={"numpy": "1.9"})
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
        SlidesOnDask(client, needs, without_workers_s=1) as slides,
    ):
        with pytest.raises(Interrupted, match=r"no worker has run for 1 s; .* same command"):
            slides.run_whole(len, "abc", "a.svs")
        assert not client.nthreads()
    assert "it has numpy" in caplog.text
    assert "it is sent away" in caplog.text


def test_what_went_away_everywhere_is_no_workers_fault(client: Client, tmp_path: Path) -> None:
    out = tmp_path / "out"
    needs = needs_of(out, (Path(__file__),))
    gone = replace(needs, slides=(*needs.slides, (tmp_path / "gone.svs", 3)), out=None)
    with SlidesOnDask(client, gone) as slides:
        assert slides.run_whole(len, "abc", "a.svs") == 3
    with (
        SlidesOnDask(client, needs) as slides,
        pytest.raises(UsageError, match="does not see the output folder out"),
    ):
        slides.run_whole(len, "abc", "a.svs")
    assert len(client.nthreads()) == 1


def test_a_worker_is_asked_without_loading_much() -> None:
    code = (
        "import sys, wsiseg.worker_needs\n"
        "print(*{'torch', 'numba', 'pyarrow', 'distributed'} & sys.modules.keys())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == []


def test_shipped_models_travel_by_name_and_others_by_folder(tmp_path: Path) -> None:
    model = load_model()
    named = named_model(model)
    assert named == NamedModel(model.card.name, model.card.sha256)
    elsewhere = replace(model, folder=tmp_path)  # type: ignore[type-var]
    assert named_model(elsewhere) == NamedModel(str(tmp_path), model.card.sha256)
    assert named_model(LocalNetwork()) is None


def test_a_scheduler_that_does_not_answer_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsiseg.cluster.connect._CONNECT_S", 1)
    said = r"no Dask scheduler answers at tcp://127\.0\.0\.1:9 .*`dask scheduler`"
    with (
        pytest.raises(UsageError, match=said),
        cluster_client(ClusterOptions(cluster="tcp://127.0.0.1:9")),
    ):
        pass
