"""The best one-to-one pairs among candidates, group by group of those that compete."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def assign(
    first: NDArray[np.int64], second: NDArray[np.int64], cost: NDArray[np.float64], far: float
) -> NDArray[np.int64]:
    """Choose one-to-one pairs with the smallest cost in sum.

    What has no partner in a group of candidates that share members is charged `far` as often as
    the smaller side of the group is left without a pair.  So a `far` above all sums of costs makes
    as many pairs as can be made before costs count, and 0 with negative costs takes a pair only
    where it gains.  Groups are independent of each other, so solving them one by one (Kuhn 1955,
    doi:10.1002/nav.3800020109) gives what one large problem would.

    Parameters
    ----------
    first, second : ndarray, (n,)
        Candidates: positions on either side; each combination at most once.
    cost : ndarray, (n,)
        Of each candidate.
    far : float
        Cost of what is no candidate.

    Returns
    -------
    ndarray
        Positions of the candidates chosen, ascending.
    """
    if len(first) == 0:
        return np.empty(0, np.int64)
    offset = int(first.max()) + 1
    size = offset + int(second.max()) + 1
    graph = coo_array((np.ones(len(first)), (first, second + offset)), shape=(size, size))
    _, group = connected_components(graph, directed=False)
    of_pair = group[first]
    order = np.argsort(of_pair, kind="stable")
    starts = np.flatnonzero(np.diff(of_pair[order], prepend=-1))
    chosen = []
    for members in np.split(order, starts[1:]):
        if len(members) == 1:
            chosen.append(members[cost[members] < far])
            continue
        rows, row = np.unique(first[members], return_inverse=True)
        cols, col = np.unique(second[members], return_inverse=True)
        costs = np.full((len(rows), len(cols)), far)
        costs[row, col] = cost[members]
        candidate = np.full(costs.shape, -1, np.int64)
        candidate[row, col] = members
        best = candidate[linear_sum_assignment(costs)]
        chosen.append(best[best >= 0])
    return np.sort(np.concatenate(chosen)).astype(np.int64)
