"""The identity of a nucleus: the same slide, model and place give the same UUID, everywhere."""

from __future__ import annotations

import uuid

import numpy as np
from numpy.typing import NDArray

from wsiseg._sha1 import uuid5_texts
from wsiseg.records import Instances

PROJECT_NAMESPACE = uuid.UUID("0a9a9299-bb62-4520-bd37-2df9d9848719")
"""Namespace of all wsiseg identities; fixed for ever, since identities in exports rest on it."""


def cell_uuids(
    instances: Instances, slide_fingerprint: str, model_sha256: str
) -> NDArray[np.uint8]:
    """Return a UUID for each nucleus, from slide, model, exact centroid and area.

    Version 5 (RFC 9562, section 5.5).  The namespace is that of `run_namespace`; the name is
    ``row_sum/col_sum/area_px`` in decimal, the centroid unreduced, so that concentric nuclei
    differ.  Two disjoint nuclei of equal centroid and equal area would share a UUID.

    Parameters
    ----------
    instances : Instances
        n nuclei in slide-wide model pixels.
    slide_fingerprint : str
        Fingerprint of the slide's content.
    model_sha256 : str
        SHA-256 of the model that found them.

    Returns
    -------
    NDArray[np.uint8]
        (n, 36), C-contiguous: lower-case ASCII, ``xxxxxxxx-xxxx-5xxx-xxxx-xxxxxxxxxxxx``.
        Its bytes are the data buffer of an Arrow string array with offsets 0, 36, 72, …;
        ``bytes(row).decode()`` is one UUID's text.
    """
    prefix = np.frombuffer(run_namespace(slide_fingerprint, model_sha256).bytes, np.uint8)
    numbers = (instances.row_sum, instances.col_sum, instances.area_px)
    text: NDArray[np.uint8] = uuid5_texts(prefix, *map(np.ascontiguousarray, numbers))
    return text


def run_namespace(slide_fingerprint: str, model_sha256: str) -> uuid.UUID:
    """Return the namespace of the nuclei that one model finds on one slide.

    The UUIDv5 of ``slide_fingerprint/model_sha256`` in `PROJECT_NAMESPACE`.
    """
    return uuid.uuid5(PROJECT_NAMESPACE, f"{slide_fingerprint}/{model_sha256}")
