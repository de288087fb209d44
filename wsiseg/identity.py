"""The identity of a nucleus: the same slide, model and place give the same UUID, everywhere."""

from __future__ import annotations

import hashlib
import uuid

import numpy as np
from numpy.typing import NDArray

from wsiseg.records import Instances

PROJECT_NAMESPACE = uuid.UUID("0a9a9299-bb62-4520-bd37-2df9d9848719")
"""Namespace of all wsiseg identities; fixed for ever, since identities in exports rest on it."""

_HEX_PAIRS = np.frombuffer(bytes(range(256)).hex().encode(), np.uint8).reshape(256, 2)
_HEX_COLUMNS = np.array([col for col in range(36) if col not in (8, 13, 18, 23)])


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
    prefix = run_namespace(slide_fingerprint, model_sha256).bytes
    sha1 = hashlib.sha1
    centroids = zip(
        instances.row_sum.tolist(),
        instances.col_sum.tolist(),
        instances.area_px.tolist(),
        strict=True,
    )
    # One join of small digests: the loop holds 20 bytes a nucleus, and hashlib is its only cost.
    digests = b"".join(
        [sha1(prefix + b"%d/%d/%d" % one, usedforsecurity=False).digest() for one in centroids]
    )
    octets = np.frombuffer(digests, np.uint8).reshape(-1, 20)[:, :16].copy()
    octets[:, 6] = octets[:, 6] & 0x0F | 0x50
    octets[:, 8] = octets[:, 8] & 0x3F | 0x80
    text = np.full((len(octets), 36), ord("-"), np.uint8)
    text[:, _HEX_COLUMNS] = _HEX_PAIRS[octets].reshape(-1, 32)
    return text


def run_namespace(slide_fingerprint: str, model_sha256: str) -> uuid.UUID:
    """Return the namespace of the nuclei that one model finds on one slide.

    The UUIDv5 of ``slide_fingerprint/model_sha256`` in `PROJECT_NAMESPACE`.
    """
    return uuid.uuid5(PROJECT_NAMESPACE, f"{slide_fingerprint}/{model_sha256}")
