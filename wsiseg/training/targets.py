"""What the network is asked to predict, from label images."""

from __future__ import annotations

import torch
from torch import Tensor


def distance_targets(instances: Tensor, most_instances: int) -> Tensor:
    """Return horizontal and vertical distances to each nucleus' centre.

    Each is scaled by the nucleus' extent on that side of the centre, so that it runs from
    -1 to 1 (Graham et al. 2019, doi:10.1016/j.media.2019.101563, section 3.2).

    Parameters
    ----------
    instances : Tensor, (n, h, w), int
        0 is background, labels reach up to `most_instances`.
    most_instances : int
        Largest label that can occur.

    Returns
    -------
    Tensor, (n, 2, h, w), float32
        Horizontal, vertical; 0 in the background.
    """
    n, height, width = instances.shape
    device = instances.device
    of_image = torch.arange(n, device=device)[:, None, None] * (most_instances + 1)
    label = (instances.long() + of_image).view(-1)
    n_labels = n * (most_instances + 1)
    # Whole numbers, so that sums are exact in whatever order a GPU adds.
    count = torch.zeros(n_labels, dtype=torch.int64, device=device)
    count.scatter_add_(0, label, torch.ones_like(label))
    distances = torch.empty((n, 2, height, width), device=device)
    for axis, length in enumerate((width, height)):
        at = torch.arange(length, device=device)
        places = (at if axis == 0 else at[:, None]).expand(n, height, width).reshape(-1)
        total = torch.zeros_like(count).scatter_add_(0, label, places)
        centre = total.double() / count.clamp(min=1)
        low = torch.full_like(count, length).scatter_reduce_(0, label, places, "amin")
        high = torch.full_like(count, -1).scatter_reduce_(0, label, places, "amax")
        offset = places - centre[label]
        extent = torch.where(offset < 0, (centre - low)[label], (high - centre)[label])
        scaled = (offset / extent.clamp(min=1e-6)).float().view(n, height, width)
        distances[:, axis] = torch.where(instances > 0, scaled, 0)
    return distances
