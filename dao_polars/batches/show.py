"""How a batch and a loader show themselves in a terminal and a notebook.

Owns the layout of both. Reads nothing.
"""

from __future__ import annotations

import textwrap
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .batch import Batch
    from .batches import BatchIterable
    from .tokens import Tokens

_ROWS = 5  # of obs that a notebook shows


def batch_text(batch: Batch[Any]) -> str:
    """A batch in a few lines: shapes, types and names."""
    lines = [f"Batch of {len(batch):,} cells", f"  x: {_matrix(batch.x)}"]
    obs = f"  obs: {', '.join(batch.obs.columns) or 'no columns'}"
    lines.append(textwrap.fill(obs, 100, subsequent_indent="       "))
    for group, matrices in (("layers", batch.layers), ("obsm", batch.obsm)):
        lines += [f"  {group} {name!r}: {_matrix(matrix)}" for name, matrix in matrices.items()]
    if batch.tokens is not None:
        lines.append(f"  tokens: {_tokens(batch.tokens)}")
    return "\n".join(lines)


def batch_html(batch: Batch[Any]) -> str:
    """A batch as HTML: its shapes, and the first rows of obs."""
    lines = [f"<b>Batch</b> of {len(batch):,} cells", f"<b>x</b> {escape(_matrix(batch.x))}"]
    for group, matrices in (("layers", batch.layers), ("obsm", batch.obsm)):
        lines += [
            f"<b>{group}</b> <code>{escape(name)}</code> {escape(_matrix(matrix))}"
            for name, matrix in matrices.items()
        ]
    if batch.tokens is not None:
        lines.append(f"<b>tokens</b> {escape(_tokens(batch.tokens))}")
    more = f", the first {_ROWS} of {len(batch):,}" if len(batch) > _ROWS else ""
    lines.append(f"<b>obs</b>{more}")
    shown = "".join(f"<div>{line}</div>" for line in lines)
    return f"<div>{shown}{batch.obs.head(_ROWS)._repr_html_()}</div>"


def loader_text(batches: BatchIterable[Any]) -> str:
    """A loader in a line: how many batches, of how many cells and genes, in which order."""
    count, cells, layout, order = _loader(batches)
    return f"{count} from {cells}, {layout}, {order}"


def loader_html(batches: BatchIterable[Any]) -> str:
    """A loader as HTML: the same, and what a batch has."""
    count, cells, layout, order = _loader(batches)
    matrices = [
        f"{escape(name)} ({form.dtype}, {form.layout}, {form.n_columns:,} columns)"
        for name, form in batches.matrices.entries()
    ]
    obs = ", ".join(escape(column.name) for column in batches.obs) or "no columns"
    encoding = batches.matrices.encoding
    lines = (
        f"<b>{count}</b> from {cells}, {layout}",
        f"<b>order</b> {escape(order)}; epoch {batches.epoch} is next",
        f"<b>matrices</b> {', '.join(matrices)}",
        *(() if encoding is None else (f"<b>tokens</b> {escape(repr(encoding))}",)),
        f"<b>obs</b> {obs}",
    )
    return f"<div>{''.join(f'<div>{line}</div>' for line in lines)}</div>"


def _loader(batches: BatchIterable[Any]) -> tuple[str, str, str, str]:
    sampling, seed = batches.sampling, batches.seed
    order = "in frame order" if seed is None else f"shuffled, seed {seed}"
    if sampling.settings["shuffle"] == "block":
        order = order.replace("shuffled", "shuffled in blocks")
    if sampling.settings["n_samples"] is not None:
        order = f"{sampling.n_samples:,} drawn an epoch, seed {seed}"
    n = sampling.sampler.n_batches(batches.epoch)
    count = f"{n:,} {'batch' if n == 1 else 'batches'} of {sampling.batch_size:,}"
    cells = f"{batches.n_obs:,} cells × {batches.n_vars:,} genes"
    return count, cells, batches.matrices.layout, order


def _tokens(tokens: Tokens) -> str:
    """Tokens in words: shape, how many places have one, and whether they have bins."""
    cells, length = tokens.input_ids.shape
    bins = "" if tokens.bins is None else ", with bins"
    return f"{cells:,} × {length:,}, {np.count_nonzero(tokens.attention_mask):,} of them{bins}"


def _matrix(x: Any) -> str:
    """A matrix in words: shape, layout, type, and how many values of a sparse one are stored."""
    shape = " × ".join(f"{n:,}" for n in x.shape)
    if isinstance(x, np.ndarray):
        return f"{shape}, dense {x.dtype}"
    return f"{shape}, csr {x.dtype}, {x.nnz:,} values"
