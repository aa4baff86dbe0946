"""Every notebook on an accelerator that is none: as strict as hardware about devices, with its numbers on the CPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
import warm
from pretend_device import pretend

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "notebooks" / "src").glob("[0-9][0-9]_*.py"))


@pytest.mark.parametrize("kind", ["mps", "cuda"])
def test_the_pretend_device_is_as_strict_as_hardware(kind: str) -> None:
    with pretend(kind, float64=False) as device:
        x = torch.ones(3, device=device)
        assert x.device.type == kind and (x + 1).device.type == kind
        assert torch.tensor([1.0], device=device).device.type == kind and torch.tensor([1.0]).device.type == "cpu"
        assert torch.tensor([x[0], x[1]]).device.type == "cpu"  # as of numbers
        assert torch.ones(2).to(x).device.type == x.quantile(0.5).device.type == kind and x.quantile(0.5).item() == 1
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.ones(3)
        with pytest.raises(TypeError, match="copy the tensor to host memory"):
            x.numpy()
        with pytest.raises(RuntimeError, match="for generator"):
            torch.randn(3, device=device, generator=torch.Generator())
        with pytest.raises(TypeError, match="float64"):
            x.double()
        assert x.cpu().double().sum() == 3


@pytest.mark.parametrize("kind", ["mps", "cuda"])  # mps has no float64; cuda takes other ways through the code
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_cell_mixes_devices(source: Path, kind: str, tmp_path: Path) -> None:
    program = ROOT / "tests" / "run_on_pretend_device.py"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(program), str(source), kind]
    done = warm.run(command, tmp_path, env=env)
    raised = [line for line in done.stdout.splitlines() if line.startswith("RAISED")]
    left_out = [line for line in done.stdout.splitlines() if line.startswith("LEFT OUT")]
    assert not left_out, "\n".join(left_out)
    assert done.returncode == 0 and not raised, "\n".join(raised) or done.stderr[-2000:]
