"""Tasks of one function, handed to an engine that exists, and their results in order.

Owns what ``engine=`` may be. An engine is found or given, never started, but for Ray's own.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .._extras import require
from ..errors import DaoTypeError, DaoValueError

#: What runs tasks: a ``dask.distributed`` client or cluster, ``"dask"`` (the client there is), Ray
#: (the module or ``"ray"``), or an executor of ``concurrent.futures``.
Engine = Any

#: The tasks for each that runs at a time: who is done first takes another.
_PER_SLOT = 4


class Tasks:
    """An engine, as far as it takes tasks.

    Attributes:
        slots: how many tasks it runs at a time.
    """

    def __init__(self, engine: Engine) -> None:
        if engine == "ray" or getattr(engine, "__name__", None) == "ray":
            ray = require("ray", "engine='ray'")
            if not ray.is_initialized():
                ray.init(log_to_driver=False)  # the cluster of RAY_ADDRESS, or one on this machine
            self.slots = int(ray.cluster_resources().get("CPU", 1))
            self._share: Callable[[Any], Any] = ray.put
            self._submit: Callable[..., Any] = lambda f, *args: ray.remote(f).remote(*args)
            self._fetch: Callable[[Any], Any] = ray.get
            return
        if engine == "dask" or hasattr(engine, "scheduler_address"):
            distributed = require("distributed", "engine='dask'")
            try:
                engine = distributed.get_client() if engine == "dask" else _client(engine)
            except ValueError as error:
                raise DaoValueError(
                    "engine='dask' found no client; make one first: dask.distributed.Client(…)"
                ) from error
        if hasattr(engine, "scheduler_info"):
            self.slots = sum(engine.nthreads().values())
            self._share = lambda value: engine.scatter([value], broadcast=True)[0]
            self._submit = lambda f, *args: engine.submit(f, *args, pure=False)
        elif callable(getattr(engine, "submit", None)):
            context = getattr(engine, "_mp_context", None)
            if context is not None and context.get_start_method() == "fork":
                raise DaoValueError(
                    "engine= forks its processes, in which polars' threads are missing and would "
                    "be waited for for ever; make it with "
                    'ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))'
                )
            self.slots = getattr(engine, "_max_workers", None) or os.cpu_count() or 1
            self._share = lambda value: value
            self._submit = engine.submit
        else:
            raise DaoTypeError(
                f"engine={engine!r}; expected a dask client or cluster, 'dask', 'ray', or an "
                "executor of concurrent.futures"
            )
        self._fetch = lambda future: future.result()

    @property
    def n_tasks(self) -> int:
        """How many tasks a selection makes."""
        return _PER_SLOT * max(1, self.slots)

    def run(
        self, function: Callable[[Any, Any], Any], tasks: Iterable[Any], shared: Any
    ) -> Iterator[Any]:
        """The results of ``function(task, shared)``, in the order of the tasks."""
        shared = self._share(shared)
        waiting = deque(self._submit(function, task, shared) for task in tasks)
        try:
            while waiting:
                yield self._fetch(waiting.popleft())
        finally:
            for future in waiting:
                if callable(cancel := getattr(future, "cancel", None)):
                    cancel()


def _client(engine: Any) -> Any:
    """The client of a dask cluster; a client is its own."""
    return engine if hasattr(engine, "submit") else engine.get_client()
