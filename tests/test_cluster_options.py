"""Which workers are meant, and what a queue's file may say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import wsiseg
import wsiseg.cluster.local as local
from wsiseg.cluster import ClusterOptions, choose_workers, refuse_own_workers
from wsiseg.cluster.jobqueue import (
    expected_threads,
    queue_cluster,
    read_queue,
    worker_environment,
)
from wsiseg.errors import UsageError
from wsiseg.models import device as devices

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus_here", lambda: 2)
    monkeypatch.setattr("wsiseg.cluster.choice.gpus_here", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("device", "workers", "gpus"),
    [
        ("cuda", None, ("0", "1")),
        ("cuda:0,1", None, ("0", "1")),
        ("cuda:1", None, ("1",)),
        ("cuda:1,0", 1, ("1",)),
        ("cuda", 2, ("0", "1")),
        ("auto", 2, ("0", "1")),
        ("cuda:0", 1, ("0",)),
    ],
)
def test_each_gpu_has_a_process(device: str, workers: int | None, gpus: tuple[str, ...]) -> None:
    assert choose_workers(device, workers) == ClusterOptions(gpus=gpus)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("device", ["auto", "cpu", "cuda:0"])
def test_one_device_needs_no_process_of_its_own(device: str) -> None:
    assert choose_workers(device, None) is None


@pytest.mark.usefixtures("two_gpus")
def test_gpus_are_those_that_a_queue_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-0c1e")
    assert choose_workers("cuda", None) == ClusterOptions(gpus=("5", "GPU-0c1e"))
    assert choose_workers("cuda:1", None) == ClusterOptions(gpus=("GPU-0c1e",))


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("device", "workers", "said"),
    [
        ("cuda:2", None, "torch finds 2 GPUs; their numbers are 0 to 1"),
        ("cuda:0,0", None, "names a GPU twice"),
        ("cuda:x", None, "one of auto, cpu, cuda, cuda:0,1 is needed"),
        ("cpu:0", None, "one of auto"),
        ("tpu", None, "one of auto"),
        ("cuda", 3, "one process for each GPU, 2 at most"),
        ("cpu", 0, "1 or more are needed"),
    ],
)
def test_what_contradicts_itself_is_refused(device: str, workers: int | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        choose_workers(device, workers)


def test_a_cluster_is_named_alone_and_rightly() -> None:
    with pytest.raises(UsageError, match="leave --workers and the numbers out"):
        refuse_own_workers("tcp://a:1", 2, "cpu")
    with pytest.raises(UsageError, match="leave --workers and the numbers out"):
        refuse_own_workers("tcp://a:1", None, "cuda:1")
    with pytest.raises(UsageError, match=r"memory-gb 2; .*leave --memory-gb out"):
        refuse_own_workers("tcp://a:1", None, "cpu", 2.0)
    with pytest.raises(UsageError, match="tcp://HOST:PORT"):
        ClusterOptions(cluster="a:8786")
    with pytest.raises(UsageError, match="there is no such file"):
        ClusterOptions(cluster="missing.yaml")
    with pytest.raises(UsageError, match="one of them is needed"):
        ClusterOptions(workers=2, cluster="tcp://a:1")


def test_without_a_gpu_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus_here", lambda: 0)
    with pytest.raises(UsageError, match="torch finds no usable GPU"):
        choose_workers("cuda", None)
    assert choose_workers("auto", None) is None
    # A cluster's workers may have what is not here.
    there = wsiseg.ComputeOptions("cuda", cluster="tls://a:1")
    assert there.numerics(wsiseg.load_model().card).device_kind == "cuda"


def test_workers_share_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "available_mb", lambda: 4000)
    options = local.worker_options(ClusterOptions(workers=3))
    assert [each["memory_limit"] for each in options] == [1_200_000_000] * 3
    (given,) = local.worker_options(ClusterOptions(workers=1, memory_gb=2.5))
    assert given["memory_limit"] == 2_500_000_000
    with pytest.raises(UsageError, match=r"4 workers with 0\.9 GB .* start fewer"):
        local.worker_options(ClusterOptions(workers=4))


def test_gpu_workers_offer_the_resource_and_see_one_gpu_each() -> None:
    options = local.worker_options(ClusterOptions(gpus=("5", "7"), memory_gb=2))
    assert [each["env"] for each in options] == [
        {"CUDA_VISIBLE_DEVICES": "5"},
        {"CUDA_VISIBLE_DEVICES": "7"},
    ]
    assert {each["resources"]["GPU"] for each in options} == {1}
    assert min(each["nthreads"] for each in options) >= 2


SLURM = """
kind: slurm
scale: {jobs: 3}
cores: 8
memory: 24GB
walltime: "04:00:00"
queue: short
account: pathology
job_extra_directives: ["--nice=100"]
job_script_prologue: ["module load python"]
worker_extra_args: ["--lifetime", "3h50m"]
python: python
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "queue.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_queue_is_read(tmp_path: Path) -> None:
    queue = read_queue(written(tmp_path, SLURM))
    assert (queue.kind, queue.least_jobs, queue.most_jobs) == ("slurm", 3, 3)
    assert (queue.options["processes"], expected_threads(queue)) == (8, 24)
    prologue = queue.options["job_script_prologue"]
    assert prologue[-1] == "module load python"
    assert "export OMP_NUM_THREADS=1" in prologue
    adapting = SLURM.replace("scale: {jobs: 3}", "adapt: {minimum: 1, maximum: 5}")
    queue = read_queue(written(tmp_path, adapting.replace('"--lifetime", "3h50m"', '"GPU=1"')))
    assert (queue.least_jobs, queue.most_jobs, queue.options["processes"]) == (1, 5, 1)
    # The one process of a job with a GPU has all its cores.
    assert expected_threads(queue) == 40


def test_the_recipe_can_be_read() -> None:
    recipe = REPOSITORY / "pipelines" / "slurm_dask.yaml"
    if recipe.exists():
        assert read_queue(recipe).kind == "slurm"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("kind: slurm", "kind: condor"), "kind is 'condor'; one of slurm, pbs, lsf, sge"),
        (("kind: slurm\n", ""), "kind is None"),
        (("queue:", "partition:"), "partition is not known for slurm; known are .*, queue,"),
        (("account:", "resource_spec:"), "resource_spec is not known for slurm"),
        (("cores: 8\n", ""), "cores of a job must be said"),
        (("cores: 8", "cores: 8\nprocesses: 9"), "8 cores and 9 processes"),
        (("cores: 8", "cores: many"), "whole numbers are needed"),
        (("scale: {jobs: 3}", ""), "`scale: {jobs: 4}`"),
        (("scale: {jobs: 3}", "scale: {jobs: 0}"), "`scale: {jobs: 4}`"),
        (("scale: {jobs: 3}", "scale: {jobs: 3}\nadapt: {minimum: 1, maximum: 2}"), "either"),
        (("scale: {jobs: 3}", "adapt: {minimum: 0, maximum: 2}"), "minimum: 1"),
        (('["--nice=100"]', "--nice=100"), "job_extra_directives must be a list"),
        (("24GB", "plenty"), "memory is 'plenty'; such as 16GB is needed"),
        (("cores: 8", "cores: ["), "queue.yaml: while parsing"),
        ((SLURM, "slurm"), "name: value"),
    ],
)
def test_a_queue_that_cannot_be_meant_is_refused(
    change: tuple[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        read_queue(written(tmp_path, SLURM.replace(*change)))


def without_environment(script: str) -> str:
    """Return a job script without the scheduler's address and the lines all have in common."""
    common = {f"export {name}={value}" for name, value in worker_environment().items()}
    lines = [line for line in script.splitlines() if line not in common]
    assert len(script.splitlines()) - len(lines) == len(common)
    return "\n".join(
        " ".join("tcp://SCHEDULER" if word.startswith("tcp://") else word for word in line.split())
        for line in lines
    )


EXPECTED_JOBS = {
    "slurm": """\
#!/usr/bin/env bash

#SBATCH -J dask-worker
#SBATCH -p short
#SBATCH -A pathology
#SBATCH -n 1
#SBATCH --cpus-per-task=8
#SBATCH --mem=23G
#SBATCH -t 04:00:00
#SBATCH --nice=100
module load python
python -m distributed.cli.dask_worker tcp://SCHEDULER --name dummy-name --nthreads 1 \
--memory-limit 2.79GiB --nworkers 8 --nanny --death-timeout 60 --lifetime 3h50m
""",
    "pbs": """\
#!/usr/bin/env bash

#PBS -N dask-worker
#PBS -q short
#PBS -A pathology
#PBS -l select=1:ncpus=8:mem=23GB
#PBS -l walltime=04:00:00
#PBS --nice=100
module load python
python -m distributed.cli.dask_worker tcp://SCHEDULER --name dummy-name --nthreads 1 \
--memory-limit 2.79GiB --nworkers 8 --nanny --death-timeout 60 --lifetime 3h50m
""",
    "lsf": """\
#!/usr/bin/env bash

#BSUB -J dask-worker
#BSUB -q short
#BSUB -P "pathology"
#BSUB -n 8
#BSUB -R "span[hosts=1]"
#BSUB -M 24000000
#BSUB -W 04:00
#BSUB --nice=100
module load python
python -m distributed.cli.dask_worker tcp://SCHEDULER --name dummy-name --nthreads 1 \
--memory-limit 2.79GiB --nworkers 8 --nanny --death-timeout 60 --lifetime 3h50m
""",
    "sge": """\
#!/usr/bin/env bash

#$ -N dask-worker
#$ -q short
#$ -P pathology
#$ -l h_rt=04:00:00
#$ -cwd
#$ -j y
#$ --nice=100
module load python
python -m distributed.cli.dask_worker tcp://SCHEDULER --name dummy-name --nthreads 1 \
--memory-limit 2.79GiB --nworkers 8 --nanny --death-timeout 60 --lifetime 3h50m
""",
}


@pytest.mark.parametrize("kind", sorted(EXPECTED_JOBS))
def test_the_job_that_would_be_submitted(kind: str, tmp_path: Path) -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("dask_jobqueue")
    text = SLURM.replace("kind: slurm", f"kind: {kind}")
    if kind in ("lsf", "sge"):
        text = text.replace("account:", "project:")
    if kind == "lsf":
        text = text.replace('"04:00:00"', '"04:00"') + "lsf_units: kb\nuse_stdin: true\n"
    with queue_cluster(read_queue(written(tmp_path, text))) as cluster:
        assert without_environment(cluster.job_script()) == EXPECTED_JOBS[kind].rstrip("\n")
