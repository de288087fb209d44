"""Slides and their tiles on Dask workers: of this machine, of a running cluster, of a queue."""

from wsiseg.cluster.checks import check_cluster, check_workers, client_address
from wsiseg.cluster.choice import check_choice, choose_workers, refuse_own_workers
from wsiseg.cluster.connect import (
    cluster_client,
    device_kind,
    threads_expected,
    without_workers_s,
)
from wsiseg.cluster.options import ClusterOptions, check_cluster_name, check_worker_count
from wsiseg.cluster.tiles import SlidesOnDask
from wsiseg.worker_needs import ClusterNeeds, needs_of

__all__ = [
    "ClusterNeeds",
    "ClusterOptions",
    "SlidesOnDask",
    "check_choice",
    "check_cluster",
    "check_cluster_name",
    "check_worker_count",
    "check_workers",
    "choose_workers",
    "client_address",
    "cluster_client",
    "device_kind",
    "needs_of",
    "refuse_own_workers",
    "threads_expected",
    "without_workers_s",
]
