"""Batches of tensors on a device: copied there while the step before them runs.

Owns when a batch is copied, and when it may be used. Imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch


def ahead(made: Iterator[dict[str, Any]], device: torch.device) -> Iterator[dict[str, Any]]:
    """The batches that ``made`` makes on ``device``: the first at once, then one is on its way.

    On a CUDA device the copies go through a stream of their own, so that they run beside the
    step's kernels.
    """
    stream = None
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        stream = _stream(index)

    def send() -> tuple[dict[str, Any], Any] | None:
        with nullcontext() if stream is None else torch.cuda.stream(stream):
            tensors = next(made, None)
            if tensors is None:
                return None
            return tensors, None if stream is None else stream.record_event()

    def given(tensors: dict[str, Any], copied: Any) -> dict[str, Any]:
        """A batch whose use, in the stream of the one who asks, waits for its copies."""
        if copied is not None:
            user = torch.cuda.current_stream(device)
            user.wait_event(copied)
            for part in (part for tensor in tensors.values() for part in _parts(tensor)):
                # Its memory is the other stream's: it is free again when this one has used it.
                part.record_stream(user)
        return tensors

    sent = send()
    if sent is None:
        return
    yield given(*sent)
    sent = send()
    while sent is not None:
        current, sent = sent, send()
        yield given(*current)


@cache
def _stream(device: int) -> Any:
    """The stream of a device's copies, one for all epochs: freed memory stays with its stream."""
    return torch.cuda.Stream(device)


def _parts(tensor: Any) -> list[torch.Tensor]:
    """The tensors that have the memory of an entry of a batch."""
    if not isinstance(tensor, torch.Tensor):
        return []
    if tensor.layout is torch.sparse_csr:
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    return [tensor]
