"""Which rows an epoch visits, for peers that are asked for rows by number."""

import numpy as np


def in_order(cells, task, rng):
    return np.arange(cells.n_obs)


def shuffled(cells, task, rng):
    return rng.permutation(cells.n_obs)


def selection(cells, task, rng):
    return rng.permutation(np.flatnonzero(cells.obs["cell_type"] == task.cell_type))


# By pattern: ``cells`` has ``n_obs`` and a pandas ``obs``.
ORDERS = {
    "in order": in_order,
    "shuffled": shuffled,
    "first epoch": shuffled,
    "batches of 256": shuffled,
    "selection": selection,
    "dense": shuffled,
}
