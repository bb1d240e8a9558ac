"""How much memory this machine has."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_of_machine() -> int | None:
    """Return the bytes of memory that this machine has, or its container may use; None where that is unknown."""
    try:
        held = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
    for name in _CGROUPS:
        try:
            held = min(held, int(Path(name).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return held
