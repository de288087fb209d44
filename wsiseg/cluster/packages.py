"""Dask, which comes with an extra: imported when it is needed, and not before."""

from __future__ import annotations

from typing import Any

from wsiseg.errors import MissingDependency


def import_distributed() -> Any:
    """Return the package `distributed`.

    Raises
    ------
    MissingDependency
        If it is not installed.
    """
    try:
        import distributed
    except ImportError as error:
        raise MissingDependency(
            "workers and clients need Dask: pip install 'wsiseg[cluster]'"
        ) from error
    return distributed


def import_jobqueue() -> Any:
    """Return the package `dask_jobqueue`.

    Raises
    ------
    MissingDependency
        If it is not installed.
    """
    try:
        import dask_jobqueue
    except ImportError as error:
        raise MissingDependency(
            "a cluster described in a YAML file needs dask-jobqueue: pip install 'wsiseg[jobqueue]'"
        ) from error
    return dask_jobqueue
