"""Several processes that train together, on one machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path


def start_processes(command: list[str], number: int, log: Path, seconds: float = 600) -> str:
    """Start `number` processes that know of each other, as torchrun does; returns what they printed, when they ended.

    torchrun itself cannot start on Windows: its store wants libuv, which PyTorch's builds for Windows lack. When one
    process fails, the others, which would wait for it, are ended 5 s later; all are after `seconds`. The words of the
    processes stand one after the other, those of the first one that failed at the end.

    Args:
        command: what each of them runs; it finds its place in RANK, LOCAL_RANK and WORLD_SIZE.
        number: of processes.
        log: the file for what they print.
        seconds: the longest that they may take.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free, and again when this block ends
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(number)}
    group |= {"OMP_NUM_THREADS": "1", "USE_LIBUV": "0", "PYTHONIOENCODING": "utf-8"}
    # what can be imported here can be imported there, too
    group["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), *sys.path]))
    running, logs, failed, end = [], [], [], time.monotonic() + seconds
    try:
        for rank in range(number):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            own = {**os.environ, **group, **place}
            logs.append(log.with_name(f"{log.name}.{rank}"))  # in one file their lines would run into each other
            with logs[-1].open("w") as output:
                running.append(subprocess.Popen(command, env=own, stdout=output, stderr=subprocess.STDOUT))
        while any(process.poll() is None for process in running) and time.monotonic() < end:
            failed += [rank for rank, process in enumerate(running) if process.poll() and rank not in failed]
            if failed:
                end = min(end, time.monotonic() + 5)  # to print their last line
            time.sleep(0.05)
    finally:
        for process in running:
            process.kill()  # does nothing to those that have ended
            process.wait()
    order = [rank for rank in range(number) if rank not in failed[:1]] + failed[:1]
    log.write_bytes(b"\n".join(logs[rank].read_bytes() for rank in order))
    return log.read_text(encoding="utf-8", errors="replace")
