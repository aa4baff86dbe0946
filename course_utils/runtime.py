"""Device, precision, seed, budget and the one line that reports them. Leans on torch throughout."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from .console import say
from .live import explain_missing_names

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BUDGETS = ("quick", "full")
Choice = TypeVar("Choice")


def seed_everything(seed: int) -> torch.Generator:
    """Seed Python, NumPy and torch once, at the start; returns a CPU generator with the same seed to pass on."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def rng(stream: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator of its own for one purpose: the same `stream` gives the same numbers.

    Another `COURSE_SEED` gives others, so that what hangs on one lucky start is seen.
    """
    return torch.Generator(device).manual_seed(stream + 1_000_003 * course_seed())


def course_seed() -> int:
    """The seed of the session: `COURSE_SEED`, a whole number, else 0."""
    given = os.environ.get("COURSE_SEED", "0")
    if not given.isdecimal():
        raise ValueError(f"COURSE_SEED is {given!r}: set it to a whole number such as 1, or unset it.")
    return int(given)


# --- device and precision -----------------------------------------------------------------------------------


def best_device() -> torch.device:
    """The accelerator that torch finds working, else the CPU. `COURSE_DEVICE` (for example "cpu") overrides."""
    if named := os.environ.get("COURSE_DEVICE"):
        try:
            return torch.empty(0, device=named).device
        except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
            raise RuntimeError(
                f"COURSE_DEVICE is {named!r}, which this torch cannot use: set it to 'cpu' or unset it."
            ) from error
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def best_precision(device: torch.device) -> torch.dtype:
    """The type for autocast: what the hardware computes natively and fast. `COURSE_PRECISION` overrides.

    CUDA: bfloat16 where it is native, else float16 (with a scaler). CPU: bfloat16 only where the processor has
    instructions for it *and* a convolution measured here is faster with it. Others: float32.
    """
    if named := os.environ.get("COURSE_PRECISION"):
        if named not in PRECISIONS:
            raise ValueError(f"COURSE_PRECISION is {named!r}: choose one of {', '.join(PRECISIONS)}, or unset it.")
        return PRECISIONS[named]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and _cpu_has_bf16() and convolution_speedup(torch.bfloat16) > 1.1:
        return torch.bfloat16
    return torch.float32


def _cpu_has_bf16() -> bool:
    """Whether the processor has AVX512-BF16 or AMX; torch asks the processor, under names that vary by release."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in probes)


def convolution_speedup(dtype: torch.dtype, device: torch.device | str = "cpu", repeats: int = 10) -> float:
    """How many times faster a 64-channel convolution, forward and backward, runs in `dtype` than in float32.

    Both take turns, and the fastest of each counts, so that other jobs on the machine hardly change the answer.
    """
    x = torch.randn(32, 64, 14, 14, device=device)
    conv = nn.Conv2d(64, 64, 3, padding=1).to(device)

    def step(enabled: bool) -> None:
        with torch.autocast(torch.device(device).type, dtype=dtype, enabled=enabled):
            conv(x).float().square().mean().backward()

    pairs = [[seconds(lambda enabled=enabled: step(enabled), 1) for enabled in (False, True)] for _ in range(repeats)]
    plain, fast = map(min, zip(*pairs, strict=True))
    return plain / fast


def seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """The least wall time in seconds of `repeats` calls, after one call that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def synchronize() -> None:
    """Wait for the accelerator's queue, where there is one: without it a clock measures the launch only."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


# --- budget -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """`size` is "quick" (CPU, tests) or "full" (accelerator). Budgets count steps and pictures, never seconds."""

    size: str

    def pick(self, *, quick: Choice, full: Choice) -> Choice:
        """The value for this size: the one place where a notebook asks."""
        return quick if self.size == "quick" else full


def budget(size: str | None = None, device: torch.device | None = None) -> Budget:
    """`size`, else `COURSE_BUDGET`, else "full" on an accelerator and "quick" on a CPU."""
    chosen = size or os.environ.get("COURSE_BUDGET")
    if not chosen:
        chosen = "quick" if (device or best_device()).type == "cpu" else "full"
    if chosen not in BUDGETS:
        raise ValueError(f"There is no budget {chosen!r}: choose 'quick' or 'full' (or unset COURSE_BUDGET).")
    return Budget(chosen)


# --- all of it at once --------------------------------------------------------------------------------------


@dataclass
class Runtime:
    """What a notebook runs on. Made by `start()`."""

    device: torch.device
    precision: torch.dtype
    budget: Budget
    seed: int
    started: float = field(default_factory=time.perf_counter)
    mixed: bool = False  # whether autocast() was asked for, so that the report says what was computed in

    def autocast(self) -> AbstractContextManager:
        """Mixed precision for a forward pass; does nothing when the precision is float32."""
        enabled = self.mixed = self.precision != torch.float32
        return torch.autocast(self.device.type, dtype=self.precision if enabled else None, enabled=enabled)

    def scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler, which only float16 needs; otherwise it passes everything through."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)

    def report(self) -> str:
        """Device, precision, threads, budget, seed, memory and the seconds since `start()`, in one line.

        The precision is float32 until `autocast()` has been asked for.
        """
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)
        precision = f"{str(self.precision).removeprefix('torch.')} by autocast" if self.mixed else "float32"
        parts = [name, precision, f"{torch.get_num_threads()} threads"]
        parts += [f"budget {self.budget.size}", f"seed {self.seed}", f"{memory_gb(self.device):.1f} GB at most"]
        return " | ".join([*parts, f"{time.perf_counter() - self.started:.0f} s"])


def memory_gb(device: torch.device) -> float:
    """Peak memory in GB: of the accelerator's allocator on CUDA, else of this process (0 where unknown)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


def start(seed: int | None = None, *, verbose: bool = True) -> Runtime:
    """Choose device, precision and budget, seed everything, and print the report.

    Args:
        seed: else `COURSE_SEED`, else 0: every notebook's claims hold for several seeds, and this changes it.
    """
    seed = course_seed() if seed is None else seed
    device = best_device()
    run = Runtime(device, best_precision(device), budget(device=device), seed)
    explain_missing_names()
    seed_everything(seed)  # last: choosing the precision may draw random numbers
    if verbose:
        say(run.report())
    return run
