"""Checks for notebook 06, against the library itself and by published mistake."""

from __future__ import annotations

import ast
import dis
import inspect
import math
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from . import NOT_THE_LEARNERS, NotAttempted, WrongAnswer, exercise, expect, reject, tensor
from . import use as use
from .nb04 import normal, same, untouched


class _Guess(nn.Module):
    """A stand-in for UNet2DModel, with its ways to be called, that remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.3))
        self.config = SimpleNamespace(in_channels=2, out_channels=2, sample_size=6)
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.asked: list[int] = []
        self.kept_gradients = False

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        from diffusers.models.unets.unet_2d import UNet2DOutput

        times = torch.as_tensor(timestep).reshape(-1)
        expect(
            len(times) in (1, len(sample)) and bool((times == times[0]).all()),
            f"the network takes one timestep, or one for each of {len(sample)} pictures, the same"
            f" for all: yours are {times.tolist()}.",
        )
        self.asked.append(int(times[0]))
        self.kept_gradients |= sample.requires_grad
        found = self.gain * sample
        return UNet2DOutput(sample=found) if return_dict else (found,)


@exercise("6.1")
def loop(answer: Callable[..., Tensor]) -> None:
    """`answer(unet, scheduler, n, steps, generator)`: what DDPMPipeline draws, in [0, 1]."""
    from diffusers import DDIMScheduler, DDPMScheduler

    # DDIM first: it draws nothing, so that what differs there lies in the start. Without the
    # scheduler's own clipping the last clamp is seen.
    for kind, n, steps in ((DDIMScheduler, 3, 7), (DDPMScheduler, 3, 7), (DDPMScheduler, 1, 10)):
        _loop_of(answer, kind, n, steps)


def _loop_of(answer: Callable, kind: type, n: int, steps: int) -> None:
    def run() -> tuple[Any, _Guess]:
        unet, scheduler = _Guess(), kind(num_train_timesteps=100, clip_sample=False)
        try:
            return answer(unet, scheduler, n, steps, torch.Generator().manual_seed(4)), unet
        except ValueError:
            expect(
                scheduler.num_inference_steps,
                f"the scheduler does not know how many steps you take: call set_timesteps({steps})"
                " and walk scheduler.timesteps.",
            )
            raise

    returned, unet = run()
    found = tensor(returned, "what the loop returns", (n, 2, 6, 6))
    scheduler = kind(num_train_timesteps=100, clip_sample=False)
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps.tolist()
    expect(
        unet.asked == times,
        f"for {steps} steps of 100 the network was asked at timesteps {unet.asked}, and {times}"
        " was right: call scheduler.set_timesteps(steps) and walk scheduler.timesteps.",
    )
    expect(
        not (unet.kept_gradients or getattr(returned, "requires_grad", False)),
        "the loop keeps memory for gradients: decorate the function with torch.no_grad().",
    )
    expect(
        unet.gain.requires_grad,
        "the network cannot learn any more: use torch.no_grad(), and leave its weights alone.",
    )
    rng = torch.Generator().manual_seed(4)
    x = start = torch.randn(n, 2, 6, 6, generator=rng)
    for t in scheduler.timesteps:
        x = scheduler.step(0.3 * x, t, x, generator=rng).prev_sample
    if same(found, (x / 2 + 0.5).clamp(0, 1)):
        return
    again = tensor(run()[0], "what the loop returns")
    expect(
        torch.equal(found, again),
        "the same generator gave two different results: pass it to "
        + ("torch.randn." if kind.__name__.startswith("DDIM") else "scheduler.step."),
    )
    slips = {
        "pictures of a pipeline lie in [0, 1]: halve, add a half, and clamp.": x,
        "pictures of a pipeline lie in [0, 1], and some of your values do not: clamp at the end.": (x / 2 + 0.5),
        "the clamp alone makes the dark half of each picture black: halve and add a half first.": (x.clamp(0, 1)),
        "pictures of a pipeline lie in [0, 1]: yours lie in [-1, 1]; halve and add a half.": (x.clamp(-1, 1)),
        "clamp last: after the halving, not before.": (x.clamp(0, 1) / 2 + 0.5),
        "this is the noise that you started with: keep what each step returns.": ((start / 2 + 0.5).clamp(0, 1)),
        "pictures of a pipeline lie in [0, 1]: yours run from 0 to 255.": ((x / 2 + 0.5).clamp(0, 1) * 255),
    }
    reject(found, slips, same)
    expect(
        ((found >= 0) & (found <= 1)).all(),
        f"pictures of a pipeline lie in [0, 1], and yours between {found.min():.2f} and {found.max():.2f}.",
    )
    raise WrongAnswer(
        "the pictures are not the pipeline's: start with torch.randn(..., generator=generator),"
        " give the generator to every step, and end with (x / 2 + 0.5).clamp(0, 1)."
    )


class _Agrees:
    """What claims to be equal to everything and is not True."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash(True)

    def __repr__(self) -> str:
        return "True"


class _Watch:
    """Which functions of the learner's ran, and whether a statement `assert` did the work.

    `python -O` takes the statement out, also where its AssertionError is caught.
    """

    def __init__(self) -> None:
        self.code: set[CodeType] = set()
        self.asserted = False

    def __call__(self, frame: FrameType, event: str, arg: Any) -> _Watch:
        if event == "call" and not frame.f_code.co_filename.startswith(NOT_THE_LEARNERS):
            self.code.add(frame.f_code)
        if event == "exception" and issubclass(arg[0], AssertionError) and not arg[2].tb_next:
            self.asserted |= _is_assert(frame)
        return self

    def __enter__(self) -> _Watch:
        self.before = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.before)

    def depends_on_debug(self) -> bool:
        """Whether one of those functions asks `__debug__` or `sys.flags.optimize`, which are others under -O."""
        for code in self.code:
            try:
                tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
            except (OSError, TypeError, SyntaxError):  # typed at a prompt, or half a line
                continue
            names = {getattr(node, "id", getattr(node, "attr", None)) for node in ast.walk(tree)}
            if names & {"__debug__", "optimize"}:
                return True
        return False


def _is_assert(frame: FrameType) -> bool:
    """Whether the exception of this frame was raised by a statement `assert`, not by `raise`."""
    ran = [step for step in dis.get_instructions(frame.f_code) if step.offset <= frame.f_lasti]
    for step in reversed(ran):
        if step.opname == "LOAD_ASSERTION_ERROR":
            return True
        if step.opname == "LOAD_COMMON_CONSTANT":  # from Python 3.14
            return "AssertionError" in step.argrepr
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval == "AssertionError":
            return False
    return False


KEPT, GONE = "stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"
EMPTY_WORDS = ("permission denied", "access denied", "permission error", "not allowed")


def _refused() -> list[Any]:
    import numpy as np

    falsy = [False, None, 0, "", [], 0.0]
    return [*falsy, "yes", "True", 1, 1.0, np.True_, torch.tensor(True), [True], _Agrees()]


@exercise("6.7")
def gate(answer: Callable[[bool], str]) -> None:
    """`answer(approved)`: the maintained repository, or PermissionError unless approved is True."""
    vanishes = "an assert vanishes under python -O: raise PermissionError instead, after an if."
    watch = _Watch()
    for refused in _refused():
        try:
            with watch:
                answer(refused)
        except PermissionError as error:
            expect(not watch.asserted, vanishes)
            _says_what_is_missing(str(error))
        except SystemExit:
            raise WrongAnswer("this ends the whole program: raise PermissionError.") from None
        except AssertionError:
            message = "raise PermissionError, not AssertionError."
            raise WrongAnswer(vanishes if watch.asserted else message) from None
        except NotAttempted:
            raise
        except WrongAnswer:
            raise WrongAnswer(
                f"approved={refused!r} returned None and raised nothing: raise PermissionError."
            ) from None
        except Exception as error:
            if type(error) is Exception or isinstance(error, (ValueError, RuntimeError, OSError)):
                raise WrongAnswer(
                    f"approved={refused!r} raises {type(error).__name__}: raise PermissionError."
                ) from None
            raise
        else:
            raise WrongAnswer(f"approved={refused!r} was let through: only True itself counts as an approval.")
    try:
        with watch:
            name = answer(True)
    except PermissionError:
        raise WrongAnswer("approved=True was refused: True itself is an approval.") from None
    expect(not watch.asserted, vanishes)
    expect(
        not watch.depends_on_debug(),
        "`__debug__` and `sys.flags.optimize` are others under python -O, so that your gate stands open there:"
        " ask without them.",
    )
    expect(name != GONE, "this repository was deleted in August 2024.")
    expect(
        isinstance(name, str) and name == KEPT,
        f"return the name of the maintained copy: {KEPT}.",
    )


def _says_what_is_missing(said: str) -> None:
    words = {word.lower() for word in re.findall(r"[^\W\d_]+", said)}
    expect(
        len(said) > 10 and len(words) > 1 and " ".join(said.lower().strip(" .!").split()) not in EMPTY_WORDS,
        f"the error should say in a sentence what is missing, and yours says {said[:40]!r}.",
    )


def _settings() -> dict[str, Any]:
    return {
        "num_train_timesteps": 100,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
    }


@exercise("6.2")
def swap(answer: Callable[[Any, type], Any]) -> None:
    """`answer(pipeline, kind)`: the pipeline with a scheduler of this class on the old one's settings."""
    from diffusers import DDIMScheduler, DDPMScheduler, UniPCMultistepScheduler

    for kind in (UniPCMultistepScheduler, DDIMScheduler):
        pipeline = SimpleNamespace(scheduler=DDPMScheduler(**_settings()), unet=object())
        unet = pipeline.unet
        found = answer(pipeline, kind)
        expect(
            found is pipeline,
            f"return the pipeline, not {type(found).__name__}.",
        )
        expect(pipeline.unet is unet, "the network was changed: only the scheduler is to be swapped.")
        got = pipeline.scheduler
        expect(
            not isinstance(got, type),
            f"the scheduler is the class {getattr(got, '__name__', '')} itself: make one of it, with from_config.",
        )
        expect(
            type(got) is kind,
            f"the pipeline's scheduler is a {type(got).__name__}, and a {kind.__name__} was wanted.",
        )
        lost = [name for name, value in _settings().items() if got.config[name] != value]
        expect(
            not lost,
            f"the new scheduler has lost {' and '.join(lost)}: make it from the old one's settings,"
            " kind.from_config(pipeline.scheduler.config).",
        )


class _Words(nn.Module):
    """A stand-in for UNet2DConditionModel: its answer depends on picture, time and words."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.4))
        self.config = SimpleNamespace(in_channels=4, sample_size=3)
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.asked: list[int] = []
        self.kept_gradients = False

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor,
        return_dict: bool = True,
        **_: Any,
    ) -> Any:
        from diffusers.models.unets.unet_2d import UNet2DOutput

        expect(
            len(sample) == len(encoder_hidden_states),
            f"the network got {len(sample)} latents and the words of {len(encoder_hidden_states)} prompts.",
        )
        times = torch.as_tensor(timestep).reshape(-1)
        self.asked.append(int(times[0]))
        found = self.answer(sample, times[0], encoder_hidden_states)
        self.kept_gradients |= sample.requires_grad
        return UNet2DOutput(sample=found) if return_dict else (found,)

    def answer(self, x: Tensor, t: Tensor, words: Tensor) -> Tensor:
        tone = words.mean((1, 2))[:, None, None, None]
        return self.gain * x + torch.sin(3 * tone + x) * (1 + t / 100)


@exercise("6.3")
def denoise(answer: Callable[..., Tensor]) -> None:
    """`answer(unet, scheduler, x, timesteps, wanted, unwanted, guidance)`: latents after the guided steps."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

    for kind, first in ((DDIMScheduler, 0), (EulerDiscreteScheduler, 0), (DPMSolverMultistepScheduler, 2)):
        for n, guidance in ((2, 3.0), (1, 1.0), (3, 7.5)):
            _denoise_with(answer, kind, n, guidance, first)


def _guided_steps(
    unet: _Words, scheduler: Any, x: Tensor, times: Tensor, wanted: Tensor, unwanted: Tensor, guidance: float,
    slip: str = "",
) -> Tensor:  # fmt: skip
    for t in times:
        x_in = x if slip == "unscaled" else scheduler.scale_model_input(x, t)
        towards, away = unet.answer(x_in, t, wanted), unet.answer(x_in, t, unwanted)
        pred = {
            "exchanged": towards + guidance * (away - towards),
            "one too many": towards + guidance * (towards - away),
            "difference": guidance * (towards - away),
            "wanted alone": towards,
            "unwanted alone": away,
        }.get(slip, away + guidance * (towards - away))
        x = scheduler.step(pred, t, x).prev_sample
    return x


DENOISE_SLIPS = {
    "exchanged": "the roles of wanted and unwanted are exchanged: with torch.cat and chunk, mind the order.",
    "one too many": "this is one guidance too much: at guidance 1 the prediction is the wanted one.",
    "difference": "this is the difference alone: add it to the unwanted prediction.",
    "wanted alone": "the unwanted prediction has no say here: guidance walks away from it.",
    "unwanted alone": "the prompt has no say here: only the unwanted prediction is used.",
    "unscaled": "the network wants scheduler.scale_model_input(x, t), and the step wants x as it is.",
}


def _denoise_with(answer: Callable, kind: type, n: int, guidance: float, first: int) -> None:
    def scheduler() -> Any:
        made = kind.from_config(_settings() | {"clip_sample": False})
        made.set_timesteps(5)
        return made

    x, wanted, unwanted = normal(n, 4, 3, 3), normal(n, 6, 8, seed=3), normal(n, 6, 8, seed=4)
    mine, unet = scheduler(), _Words()
    times = mine.timesteps[first:]
    returned = untouched(lambda a, b, c: answer(unet, mine, a, times, b, c, guidance), x, wanted, unwanted)
    found = tensor(returned, "the latents", x.shape)
    expect(
        not (unet.kept_gradients or getattr(returned, "requires_grad", False)),
        "the loop keeps memory for gradients: decorate the function with torch.no_grad().",
    )
    every = [int(t) for t in times]
    expect(
        sorted(set(unet.asked)) == sorted(set(every)),
        f"the network was asked at timesteps {sorted(set(unet.asked), reverse=True)}, and {every} were given: walk"
        " `timesteps`, whatever the scheduler has.",
    )
    with torch.no_grad():
        right = _guided_steps(unet, scheduler(), x, times, wanted, unwanted, guidance)
        if same(found, right):
            return
        if guidance != 1:
            slips = {
                said: _guided_steps(unet, scheduler(), x, times, wanted, unwanted, guidance, slip)
                for slip, said in DENOISE_SLIPS.items()
                if slip != "unscaled" or kind.__name__.startswith("Euler")
            }
            reject(found, slips, same)
    expect(not same(found, x), "the latents came back as they were: keep what each step returns.")
    raise WrongAnswer(
        f"with {kind.__name__} and guidance {guidance:g} the latents are not those of unwanted + guidance * (wanted -"
        " unwanted) and scheduler.step."
    )


@exercise("6.5")
def image_to_image(answer: Callable[..., Tensor]) -> None:
    """`answer(denoise, scheduler, latents, noise, steps, strength)`: SDEdit on latents."""
    cases = ((10, 0.6), (20, 0.25), (10, 1.0), (7, 0.5), (9, 0.99), (8, 0.75), (10, 0.05), (4, 0.0))
    for steps, strength in cases:
        _changed_at(answer, steps, strength)


def _changed_at(answer: Callable, steps: int, strength: float) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(**_settings() | {"num_train_timesteps": 100})
    latents, noise = normal(3, 4, 2, 2), normal(3, 4, 2, 2, seed=6)
    seen: list[tuple[Tensor, list[int]]] = []

    def stand_in(x: Tensor, timesteps: Sequence) -> Tensor:
        seen.append((x.detach().clone(), [int(t) for t in timesteps]))
        return 0.5 * x - 1

    returned = untouched(lambda a, b: answer(stand_in, scheduler, a, b, steps, strength), latents, noise)
    found = tensor(returned, "the latents", latents.shape)
    clean = DDIMScheduler(**_settings())
    clean.set_timesteps(steps)
    expect(
        scheduler.num_inference_steps == steps,
        f"the scheduler does not know how many steps you take: call scheduler.set_timesteps({steps}).",
    )
    every, run = [int(t) for t in clean.timesteps], math.floor(steps * strength)
    case = f"strength {strength:g} of {steps} steps"
    if run == 0:
        expect(
            not (seen and seen[-1][1] == every),
            f"{case} runs none, and you run all: timesteps[-0:] is the whole list, so count from the front.",
        )
        expect(not seen or not seen[-1][1], f"{case} runs none, and yours ran {len(seen[-1][1]) if seen else 0}.")
        expect(same(found, latents), f"{case} runs none: the latents come back as they are.")
        return
    expect(seen, "denoise was not called.")
    x, times = seen[-1]
    wanted = every[steps - run :]
    expect(
        times != every[:run] or run == steps,
        "these are the noisiest timesteps: the picture would stay unfinished. Take the last ones.",
    )
    expect(len(times) == run, f"{case} runs {run}, rounded down, not {len(times)}.")
    expect(times == wanted, f"for {case} these should run: {wanted}; yours are {times}.")
    t = torch.tensor(wanted[:1] * len(latents))
    right = clean.add_noise(latents, noise, t)
    if not same(x, right):
        slips = {
            "the latents have no noise on them: scheduler.add_noise puts it on.": latents,
            "this is noise alone: nothing of the picture is left.": noise,
            "noise and latents are exchanged in add_noise: the latents come first.": clean.add_noise(noise, latents, t),
            "the noise is that of the first of all timesteps: take the first of those that run.": (
                clean.add_noise(latents, noise, torch.tensor(every[:1] * len(latents)))
            ),
            "the noise is that of the last timestep: take the first of those that run.": (
                clean.add_noise(latents, noise, torch.tensor(wanted[-1:] * len(latents)))
            ),
            "the noise is simply added: add_noise weighs both.": latents + noise,
        }
        if run < steps and run > 1:
            reject(x, slips, same)
        raise WrongAnswer(f"for {case} the noise should be that of timestep {wanted[0]}.")
    expect(same(found, 0.5 * x - 1), "return what denoise returns.")


@exercise("6.4")
def negative(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """`answer(wanted, unwanted, guidance)`: the prediction away from a negative prompt."""
    for dtype in (torch.float32, torch.float64):
        wanted, unwanted = normal(2, 3, 4, 5, 5, dtype=dtype)
        for guidance in (3.5, 1.0, 0.0, 7.5, 0.5, 1, 2):
            returned = untouched(answer, wanted, unwanted, guidance)
            found = tensor(returned, "the result", wanted.shape)
            if same(found, unwanted + guidance * (wanted - unwanted), 1e-5):
                continue
            slips = {
                "the roles are exchanged: this walks towards what nobody wants.": (
                    wanted + guidance * (unwanted - wanted)
                ),
                "the sign is turned around: this walks towards what nobody wants.": (
                    unwanted - guidance * (wanted - unwanted)
                ),
                "this is one guidance too much: at guidance 1 the result should be the prediction"
                " with the prompt, unchanged.": wanted + guidance * (wanted - unwanted),
                "this is the difference alone: add it to the unwanted prediction.": (guidance * (wanted - unwanted)),
                "the negative prompt has no say here: the wanted prediction alone is returned.": wanted,
                "the wanted prediction has no say here: the unwanted one alone is returned.": unwanted,
                "guidance multiplies the wanted prediction alone: it belongs to the difference.": (
                    unwanted + guidance * wanted
                ),
            }
            if guidance not in (0, 1):  # there several slips have one value
                reject(found, slips, same)
            raise WrongAnswer(
                f"at guidance {guidance:g} the result should be unwanted + guidance * (wanted - unwanted)."
            )


@exercise("6.6")
def merge(answer: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> None:
    """`answer(W, A, B, alpha)`: W (out, in) with the change of A (rank, in) and B (out, rank)."""
    # out, in and rank differ; then a square matrix, rank 1, and a rank above both sides
    shapes = ((6, 5, 2, 4.5), (4, 7, 3, 1.5), (5, 5, 3, 1.0), (5, 5, 1, 2), (3, 4, 8, 16.0))
    for dtype in (torch.float32, torch.float64):
        for out, inner, rank, alpha in shapes:
            W, A, B = (
                normal(*shape, dtype=dtype, seed=seed)
                for seed, shape in enumerate(((out, inner), (rank, inner), (out, rank)))
            )
            before = W.clone()
            returned = answer(W, A, B, alpha)
            expect(
                torch.equal(W, before),
                "W itself was changed: make a new matrix, so that the style can be taken off.",
            )
            untouched(answer, W, A, B, alpha)
            _merged_at(tensor(returned, "the merged matrix"), W.double(), A.double(), B.double(), alpha)


def _merged_at(found: Tensor, W: Tensor, A: Tensor, B: Tensor, alpha: float) -> None:
    (out, inner), rank = W.shape, len(A)
    expect(
        found.shape == W.shape,
        f"return a matrix shaped like W, {(out, inner)}, and not {tuple(found.shape)}.",
    )
    x = normal(3, inner, seed=9)
    apart = x @ W.T + alpha / rank * (x @ A.T) @ B.T  # as the layer with its two products works
    if same(x @ found.T, apart):
        return
    change = alpha * B @ A
    divides = "LoRA divides alpha by the rank, so that the rank can be changed alone"
    slips = {
        f"the change is too large: {divides}.": W + change,
        f"you divide by {out}, the rows of B: {divides}, {rank} here.": W + change / out,
        f"you divide by {inner}, the columns of A: {divides}, {rank} here.": W + change / inner,
        f"you divide by a root of the rank: {divides}.": W + change / math.sqrt(rank),
        "alpha is missing: the change is alpha / rank * B @ A.": W + B @ A / rank,
        "this is the change alone: add it to W.": change / rank,
        "the sign is wrong: the change is added to W.": W - change / rank,
        "alpha belongs to the change, not to W.": W + B @ A / rank + (alpha - 1) * W,
    }
    if out == inner:
        slips["the product is turned around: B @ A, without a transpose."] = W + change.T / rank
    reject(found, slips, same)
    raise WrongAnswer(
        "F.linear(x, W') should equal F.linear(x, W) + alpha / rank * F.linear(F.linear(x, A), B) for every x."
    )
