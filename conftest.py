"""How many processes test at once, for the unit tests and the notebooks (`-n auto`)."""

import os
from pathlib import Path

GB_EACH = 2.5  # a notebook's kernel holds up to 1.7 GB (notebook 06)


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_gb() -> float:
    """Memory that is free, in GB, by what Linux and a container's limit say; elsewhere unlimited."""
    free = float("inf")
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if meminfo.is_file():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) / 1e6
    limit, used = group / "memory.max", group / "memory.current"
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, (int(limit.read_text()) - int(used.read_text())) / 1e9)
    return free


def processes(cores: int, free_gb: float) -> int:
    """One for each core that has memory for a notebook; one at least."""
    return max(1, min(cores, int(min(free_gb / GB_EACH, 1e6))))


def pytest_xdist_auto_num_workers(config) -> int:
    number = processes(cores(), free_gb())
    # two notebooks with a thread each are faster than one with two; read by torch in workers and kernels
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // number)))
    return number
