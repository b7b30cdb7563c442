"""What the kernel says of a process's memory, for tests that bound it.

``MEMORY`` is the function as text, for scripts of processes of their own.
"""

from __future__ import annotations

import inspect


def memory(field: str) -> int:
    """Bytes of this process, as ``VmHWM``, its peak: getrusage's begins with that of its parent."""
    with open("/proc/self/status") as status:
        said = dict(line.split(":", 1) for line in status)
    return 1024 * int(said[field].split()[0])


MEMORY = inspect.getsource(memory)
