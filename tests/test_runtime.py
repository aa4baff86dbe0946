"""Device, precision, seed and budget follow the hardware and the settings, and say so in one line."""

import random
import sys
import time
import warnings

import numpy as np
import pytest
import torch

from course_utils import runtime
from course_utils.runtime import Budget, Runtime

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch) -> None:
    for setting in ("BUDGET", "SEED", "DEVICE", "PRECISION"):
        monkeypatch.delenv(f"COURSE_{setting}", raising=False)


# --- seed ---------------------------------------------------------------------------------------------------


def draws(generator: torch.Generator) -> list[float]:
    return [
        random.random(),
        np.random.random(),
        torch.rand(1).item(),
        torch.rand(1, generator=generator).item(),
    ]


def test_one_seed_fixes_python_numpy_torch_and_the_generator() -> None:
    one, same, other = (draws(runtime.seed_everything(seed)) for seed in (3, 3, 4))
    assert one == same
    assert all(a != b for a, b in zip(one, other, strict=True))


def test_the_seed_comes_from_the_argument_then_from_course_seed_then_is_zero(monkeypatch) -> None:
    monkeypatch.setenv("COURSE_PRECISION", "float32")
    assert runtime.start(verbose=False).seed == 0
    monkeypatch.setenv("COURSE_SEED", "12")
    assert runtime.start(verbose=False).seed == 12
    assert runtime.start(5, verbose=False).seed == 5


@pytest.mark.parametrize("value", ["", "one", "-1", "1.5", "0x10", "²"])
def test_a_seed_that_is_no_whole_number_is_refused(monkeypatch, value: str) -> None:
    monkeypatch.setenv("COURSE_SEED", value)
    with pytest.raises(ValueError, match=f"COURSE_SEED is '{value}': set it to a whole number such as 1, or unset it"):
        runtime.start(verbose=False)


def test_measuring_the_hardware_does_not_change_the_random_numbers(monkeypatch) -> None:
    """The measurement draws from torch's generator, on some machines only."""
    numbers = []
    monkeypatch.setattr(runtime, "seconds", lambda function, repeats: 1.0)
    for has_bf16 in (True, False):
        monkeypatch.setattr(runtime, "_cpu_has_bf16", lambda has_bf16=has_bf16: has_bf16)
        monkeypatch.setenv("COURSE_DEVICE", "cpu")
        runtime.start(0, verbose=False)
        numbers.append(torch.rand(1).item())
    assert numbers[0] == numbers[1] == torch.rand(1, generator=torch.Generator().manual_seed(0)).item()


# --- device -------------------------------------------------------------------------------------------------


def test_without_an_accelerator_the_device_is_the_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert runtime.best_device() == CPU


def test_a_working_accelerator_is_preferred(monkeypatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: check_available and CUDA)
    assert runtime.best_device() == CUDA


def test_course_device_overrides_the_accelerator(monkeypatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: CUDA)
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    assert runtime.best_device() == CPU


@pytest.mark.parametrize("name", ["gpu", "hpu:3", "cuda:99", "nonsense"])
def test_a_device_that_this_torch_cannot_use_is_refused(monkeypatch, name: str) -> None:
    monkeypatch.setenv("COURSE_DEVICE", name)
    with pytest.raises(RuntimeError, match=f"COURSE_DEVICE is '{name}', .*set it to 'cpu' or unset it") as refusal:
        runtime.best_device()
    assert "\n" not in str(refusal.value)


# --- precision ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("native, expected", [(True, torch.bfloat16), (False, torch.float16)], ids=["Ampere", "T4"])
def test_cuda_computes_in_bfloat16_only_where_it_is_native(monkeypatch, native, expected) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation  # a T4 says yes, meaning that it emulates

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert runtime.best_precision(CUDA) == expected


@pytest.mark.parametrize(
    "instructions, speedup, expected",
    [
        (False, 9.0, torch.float32),
        (True, 0.9, torch.float32),
        (True, 1.8, torch.bfloat16),
    ],
    ids=["no instructions", "not faster here", "faster here"],
)
def test_a_cpu_computes_in_bfloat16_only_where_it_has_instructions_and_pays(
    monkeypatch, instructions, speedup, expected
) -> None:
    monkeypatch.setattr(runtime, "_cpu_has_bf16", lambda: instructions)
    monkeypatch.setattr(runtime, "convolution_speedup", lambda dtype: speedup)
    assert runtime.best_precision(CPU) == expected


@pytest.mark.parametrize("probe", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_the_processor_is_asked_for_avx512_bf16_and_amx(monkeypatch, probe) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not runtime._cpu_has_bf16()
    monkeypatch.setattr(torch.cpu, probe, lambda: True, raising=False)
    assert runtime._cpu_has_bf16()
    monkeypatch.delattr(torch.cpu, probe)
    assert not runtime._cpu_has_bf16(), "a torch without the question"


def test_other_accelerators_compute_in_float32() -> None:
    assert runtime.best_precision(torch.device("mps")) == torch.float32


@pytest.mark.parametrize("name", runtime.PRECISIONS)
def test_course_precision_overrides_the_hardware(monkeypatch, name: str) -> None:
    monkeypatch.setenv("COURSE_PRECISION", name)
    assert runtime.best_precision(CPU) == getattr(torch, name)


def test_another_precision_is_refused_with_the_choices(monkeypatch) -> None:
    monkeypatch.setenv("COURSE_PRECISION", "half")
    with pytest.raises(ValueError, match="COURSE_PRECISION is 'half': choose one of float32, bfloat16, float16"):
        runtime.best_precision(CPU)


def test_the_speed_of_a_convolution_is_that_of_float32_over_that_of_the_type(monkeypatch) -> None:
    durations = iter([9.0, 2.5, 3.0, 2.0])  # first float32, then the type asked for; at first another job was running
    used = []

    def timed(step, repeats: int) -> float:
        hook = torch.nn.modules.module.register_module_forward_hook(lambda m, i, out: used.append(out.dtype))
        step()
        hook.remove()
        return next(durations)

    monkeypatch.setattr(runtime, "seconds", timed)
    assert runtime.convolution_speedup(torch.bfloat16, repeats=2) == 1.5
    assert used == 2 * [torch.float32, torch.bfloat16]


# --- budget -------------------------------------------------------------------------------------------------


def test_the_budget_is_quick_on_a_cpu_and_full_on_an_accelerator() -> None:
    assert runtime.budget(device=CPU).size == "quick"
    assert runtime.budget(device=CUDA).size == "full"


def test_course_budget_overrides_the_device_and_an_argument_overrides_both(monkeypatch) -> None:
    monkeypatch.setenv("COURSE_BUDGET", "full")
    assert runtime.budget(device=CPU).size == "full"
    assert runtime.budget("quick", device=CUDA).size == "quick"


def test_an_unknown_budget_is_refused_with_the_choices(monkeypatch) -> None:
    with pytest.raises(ValueError, match="no budget 'tiny': choose 'quick' or 'full'"):
        runtime.budget("tiny")
    monkeypatch.setenv("COURSE_BUDGET", "Full")
    with pytest.raises(ValueError, match="no budget 'Full'.*COURSE_BUDGET"):
        runtime.budget()


def test_a_budget_picks_by_its_size() -> None:
    assert Budget("quick").pick(quick=10, full=1000) == 10
    assert Budget("full").pick(quick=10, full=1000) == 1000
    with pytest.raises(TypeError):
        Budget("quick").pick(10, 1000)  # by name only, so that the two are never swapped


# --- autocast and scaler ------------------------------------------------------------------------------------


def product(run: Runtime) -> torch.dtype:
    with run.autocast():
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


def test_autocast_computes_in_the_precision_and_does_nothing_in_float32() -> None:
    quick = Budget("quick")
    warnings.simplefilter("error")  # torch warns of an autocast that it cannot do
    assert product(Runtime(CPU, torch.bfloat16, quick, 0)) == torch.bfloat16
    assert product(Runtime(CPU, torch.float32, quick, 0)) == torch.float32


@pytest.mark.parametrize("precision", runtime.PRECISIONS.values(), ids=str)
def test_only_float16_scales_its_gradients(precision: torch.dtype) -> None:
    scaler = Runtime(CPU, precision, Budget("quick"), 0).scaler()
    assert scaler.is_enabled() == (precision == torch.float16)
    if not scaler.is_enabled():
        assert scaler.scale(torch.ones(())).item() == 1


# --- report -------------------------------------------------------------------------------------------------


def test_the_report_is_one_line_without_paths(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    monkeypatch.setenv("COURSE_PRECISION", "bfloat16")
    monkeypatch.setenv("COURSE_BUDGET", "full")
    run = runtime.start(7)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "/" not in said and "\\" not in said
    for part in ("cpu", "float32", f"{torch.get_num_threads()} threads", "budget full", "seed 7", " GB", " s"):
        assert part in said
    assert run.budget.size == "full" and run.device == CPU
    assert "bfloat16" not in said  # nothing was computed in it yet
    with run.autocast():
        pass
    assert "bfloat16 by autocast" in run.report()


def test_start_can_be_silent(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COURSE_PRECISION", "float32")
    runtime.start(0, verbose=False)
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_memory_is_that_of_this_process_in_gigabytes() -> None:
    assert 0.05 < runtime.memory_gb(CPU) < 100  # importing torch alone takes more than 50 MB


def test_the_first_call_is_not_timed() -> None:
    waits = iter([0.2, 0.0, 0.0, 0.0])
    calls = []

    def work() -> None:
        calls.append(1)
        time.sleep(next(waits))

    assert runtime.seconds(work, repeats=3) < 0.1
    assert len(calls) == 4
