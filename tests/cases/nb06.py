"""Answers to the exercises of notebook 06."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from cases import Case
from course_utils.checks import nb06 as checks
from course_utils.lessons import nb06_diffusers_applications as lesson

# --- 6.1 ------------------------------------------------------------------------------------------


def loop(
    start: bool = True,
    steps_draw: bool = True,
    timesteps: bool = True,
    end: Callable = lambda x: (x / 2 + 0.5).clamp(0, 1),
    ask: Callable = lambda unet, x, t: unet(x, t).sample,
) -> Callable:
    """The pipeline's loop, with one of its parts left out or written in another way."""

    @torch.no_grad()
    def answer(unet, scheduler, n, steps, generator):
        if timesteps:
            scheduler.set_timesteps(steps)
        shape = n, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size
        x = torch.randn(shape, generator=generator if start else None)
        for t in scheduler.timesteps if timesteps else reversed(range(steps)):
            rng = {"generator": generator} if steps_draw else {}
            x = scheduler.step(ask(unet, x, t), t, x, **rng).prev_sample
        return end(x)

    return answer


def as_the_pipeline(unet, scheduler, n, steps, generator):
    """The lines of DDPMPipeline."""
    from diffusers.utils.torch_utils import randn_tensor

    with torch.no_grad():
        size, channels = unet.config.sample_size, unet.config.in_channels
        shape = (n, channels, size, size)
        image = randn_tensor(shape, generator=generator, device=unet.device, dtype=unet.dtype)
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            output = unet(sample=image, timestep=t, return_dict=False)[0]
            image = scheduler.step(
                model_output=output,
                timestep=t,
                sample=image,
                generator=generator,
                return_dict=False,
            )[0]
    return image.mul(0.5).add(0.5).clamp(min=0, max=1)


@torch.inference_mode()
def in_inference_mode(unet, scheduler, n, steps, generator):
    return loop()(unet, scheduler, n, steps, generator)


def detached_each_time(unet, scheduler, n, steps, generator):
    scheduler.set_timesteps(num_inference_steps=steps)
    x = torch.randn(n, 2, 6, 6, generator=generator)
    for i in range(steps):
        t = scheduler.timesteps[i].item()
        x = scheduler.step(unet(x, t).sample.detach(), t, x, generator=generator).prev_sample
    return [(picture / 2 + 0.5).clip(0, 1) for picture in x]


def with_gradients(unet, scheduler, n, steps, generator):
    scheduler.set_timesteps(steps)
    x = torch.randn(n, 2, 6, 6, generator=generator)
    for t in scheduler.timesteps:
        x = scheduler.step(unet(x, t).sample, t, x, generator=generator).prev_sample
    return (x / 2 + 0.5).clamp(0, 1)


def published(unet, scheduler, n, steps, generator):
    size = unet.config.sample_size
    x = torch.randn(n, unet.config.in_channels, size, size)
    for t in reversed(range(steps)):
        x = scheduler.step(unet(x, t).sample, t, x).prev_sample
    return x


def set_but_not_walked(unet, scheduler, n, steps, generator):
    scheduler.set_timesteps(steps)
    x = torch.randn(n, 2, 6, 6, generator=generator)
    with torch.no_grad():
        for t in reversed(range(steps)):
            x = scheduler.step(unet(x, t).sample, t, x, generator=generator).prev_sample
    return (x / 2 + 0.5).clamp(0, 1)


def frozen(unet, *rest):
    unet.requires_grad_(False)
    return with_gradients(unet, *rest)


def one_step_short(unet, scheduler, n, steps, generator):
    scheduler.set_timesteps(steps)
    x = torch.randn(n, 2, 6, 6, generator=generator)
    with torch.no_grad():
        for t in scheduler.timesteps[:-1]:
            x = scheduler.step(unet(x, t).sample, t, x, generator=generator).prev_sample
    return (x / 2 + 0.5).clamp(0, 1)


def never_stepped(unet, scheduler, n, steps, generator):
    scheduler.set_timesteps(steps)
    x = torch.randn(n, 2, 6, 6, generator=generator)
    with torch.no_grad():
        for t in scheduler.timesteps:
            scheduler.step(unet(x, t).sample, t, x, generator=generator)
    return (x / 2 + 0.5).clamp(0, 1)


LOOP = Case(
    checks.loop,
    right=[
        loop(),
        lesson.sample_loop,
        as_the_pipeline,
        in_inference_mode,
        detached_each_time,
        loop(ask=lambda unet, x, t: unet(x, t)[0]),
        loop(ask=lambda unet, x, t: unet(x, t)["sample"]),
        loop(ask=lambda unet, x, t: unet(x, t, return_dict=False)[0]),
        loop(ask=lambda unet, x, t: unet(x, timestep=t.repeat(len(x)), return_dict=True).sample),
        loop(ask=lambda unet, x, t: unet(x, torch.full((len(x),), t.item())).sample),
        loop(ask=lambda unet, x, t: unet(x, t.expand(x.shape[0])).sample),
        loop(end=lambda x: ((x.clamp(-1, 1) + 1) / 2).double()),
        loop(end=lambda x: ((x + 1) / 2).clamp(0, 1).numpy()),
    ],
    wrong=[
        (published, "set_timesteps"),
        (loop(timesteps=False), "set_timesteps"),
        (set_but_not_walked, "asked at timesteps .* walk scheduler.timesteps"),
        (loop(start=False), "two different results: pass it to torch.randn"),
        (loop(steps_draw=False), "two different results: pass it to scheduler.step"),
        (loop(end=lambda x: x), r"\[0, 1\]: halve, add a half, and clamp"),
        (loop(end=lambda x: x / 2 + 0.5), "clamp at the end"),
        (loop(end=lambda x: x.clamp(0, 1)), "clamp alone"),
        (loop(end=lambda x: x.clamp(-1, 1)), r"lie in \[-1, 1\]"),
        (loop(end=lambda x: (x / 2 + 0.5).clamp(0, 1) * 255), "0 to 255"),
        (loop(end=lambda x: x.sigmoid()), "not the pipeline's"),
        (loop(end=lambda x: (x / 2 + 0.5).clamp(0, 1)[:, 0]), "has the shape"),
        (loop(end=lambda x: (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)), "has the shape"),
        (with_gradients, "no_grad"),
        (lambda *args: with_gradients(*args).detach(), "no_grad"),
        (frozen, "cannot learn any more"),
        (one_step_short, "asked at timesteps"),
        (loop(end=lambda x: x.clamp(0, 1) / 2 + 0.5), "clamp last"),
        (never_stepped, "keep what each step returns|not the pipeline's|two different"),
        (loop(ask=lambda unet, x, t: -unet(x, t).sample), "not the pipeline's"),
        (loop(ask=lambda unet, x, t: unet(x, torch.arange(len(x))).sample), "one timestep"),
    ],
)

# --- 6.2 ------------------------------------------------------------------------------------------


class Guidance(torch.nn.Module):
    def forward(self, wanted, unwanted, guidance):
        return torch.lerp(unwanted, wanted, torch.tensor(guidance, dtype=wanted.dtype))


def in_place_guidance(wanted, unwanted, guidance):
    wanted -= unwanted
    return unwanted + guidance * wanted


def clamped_guidance(wanted, unwanted, guidance):
    return unwanted + min(guidance, 2.0) * (wanted - unwanted)


def walk(wanted, unwanted, guidance):
    return unwanted + guidance * (wanted - unwanted)


NEGATIVE = Case(
    checks.negative,
    right=[
        walk,
        lambda w, u, g: w + (g - 1) * (w - u),
        lambda w, u, g: g * w + (1 - g) * u,
        Guidance(),
        lambda w, u, g: [walk(a, b, guidance=g) for a, b in zip(w, u)],
        torch.vmap(walk, in_dims=(0, 0, None)),
        lambda w, u, g: walk(w.numpy(), u.numpy(), g),
    ],
    wrong=[
        (lambda w, u, g: w + g * (u - w), "exchanged"),
        (lambda w, u, g: w + g * (w - u), "too much"),
        (lambda w, u, g: g * (w - u), "difference alone"),
        (lambda w, u, g: (w - u).mean(), "has the shape"),
        (lambda w, u, g: u - g * (w - u), "sign is turned"),
        (lambda w, u, g: w, "negative prompt has no say"),
        (lambda w, u, g: u, "wanted guess has no say"),
        (lambda w, u, g: u + g * w, "guidance multiplies"),
        (in_place_guidance, "changes a tensor"),
        (clamped_guidance, r"unwanted \+ guidance"),
        (lambda w, u, g: walk(w, u, max(g, 1.0)), "at guidance 0 "),
        (lambda w, u, g: walk(w[:1], u[:1], g).expand_as(w), r"unwanted \+ guidance"),
    ],
)

# --- 6.3 ------------------------------------------------------------------------------------------


def last(timesteps, strength):
    return timesteps[len(timesteps) - int(len(timesteps) * strength) :]


def skip(timesteps, strength):
    skipped = len(timesteps) - math.floor(strength * len(timesteps))
    return [t for i, t in enumerate(timesteps) if i >= skipped]


def take_from_the_end(timesteps, strength):
    found = []
    for t in reversed(timesteps):
        if len(found) < int(strength * len(timesteps)):
            found.insert(0, t)
    return tuple(found)


def used_up(timesteps, strength):
    del timesteps[: len(timesteps) - int(strength * len(timesteps))]
    return timesteps


def guarded(timesteps, strength):
    k = int(len(timesteps) * strength)
    return timesteps[-k:] if k else []


TIMESTEPS = Case(
    checks.timesteps,
    right=[
        last,
        skip,
        take_from_the_end,
        guarded,
        lambda t, s: torch.tensor(t)[len(t) - int(len(t) * s) :],
        lambda t, s: np.array(last(t, strength=s), dtype=float),
        lambda t, s: iter(last(t, s)),
    ],
    wrong=[
        (lambda t, s: t[: int(len(t) * s)], "noisiest"),
        (lambda t, s: t[int(len(t) * s) :], "the first 6 are skipped"),
        (lambda t, s: t[-int(len(t) * s) :], r"timesteps\[-0:\] is the whole list"),
        (lambda t, s: last(t, s)[::-1], "noisiest first"),
        (lambda t, s: t[len(t) - round(len(t) * s) :], "round down"),
        (lambda t, s: t[len(t) - math.ceil(len(t) * s) :], "round down"),
        (lambda t, s: [x for x in t if x < 1000 * s], "runs|should run"),
        (lambda t, s: t, r"runs 6, not 10\.$"),
        (used_up, "passed in is shorter"),
        (lambda t, s: int(len(t) * s), "whole numbers in a list"),
        (lambda t, s: last(t, s)[1:], "runs 6, not 5"),
        (lambda t, s: list(range(len(t)))[len(t) - int(len(t) * s) :], "should run"),
        (lambda t, s: t[-max(int(len(t) * s), 1) :], "strength 0.* runs 0, not 1"),
    ],
)

# --- 6.4 ------------------------------------------------------------------------------------------


def merged(W, A, B, alpha):
    return W + alpha / len(A) * B @ A


def by_the_identity(W, A, B, alpha):
    x = torch.eye(W.shape[1], dtype=W.dtype)
    return (F.linear(x, W) + alpha / A.shape[0] * F.linear(F.linear(x, A), B)).T


def by_outer_products(W, A, B, alpha):
    found = W.clone()
    for a, b in zip(A, B.T):
        found += alpha / B.shape[1] * torch.outer(b, a)
    return found


def in_place(W, A, B, alpha):
    W += alpha / len(A) * B @ A
    return W


def factors_in_place(W, A, B, alpha):
    B *= alpha / len(A)
    return W + B @ A


def over(divisor: Callable) -> Callable:
    return lambda W, A, B, alpha: W + alpha / divisor(W, A, B) * B @ A


MERGE = Case(
    checks.merge,
    right=[
        merged,
        by_the_identity,
        by_outer_products,
        lambda W, A, B, alpha: torch.addmm(W, B, A, alpha=alpha / A.size(0)),
        lambda W, A, B, alpha: W.numpy() + alpha / len(A) * B.numpy() @ A.numpy(),
        lambda W, A, B, alpha: merged(W.double(), A.double(), B=B.double(), alpha=alpha),
        lambda W, A, B, alpha: torch.nn.Parameter(W + torch.einsum("or,ri->oi", B, A) * alpha / len(A)),
    ],
    wrong=[
        (in_place, "W itself was changed"),
        (factors_in_place, "changes a tensor"),
        (over(lambda W, A, B: 1), "too large"),
        (over(lambda W, A, B: B.shape[0]), "divide by 6, the rows of B"),
        (over(lambda W, A, B: A.shape[1]), "divide by 5, the columns of A"),
        (over(lambda W, A, B: math.sqrt(len(A))), "root of the rank"),
        (over(lambda W, A, B: min(*W.shape, len(A))), "divide by 3, the rows of B"),
        (lambda W, A, B, alpha: W + (alpha / len(A) * B @ A).flip(0), "should equal"),
        (lambda W, A, B, alpha: W @ A.T, "shaped like W"),
        (lambda W, A, B, alpha: W + B @ A / len(A), "alpha is missing"),
        (lambda W, A, B, alpha: alpha / len(A) * B @ A, "change alone"),
        (lambda W, A, B, alpha: W - alpha / len(A) * B @ A, "sign is wrong"),
        (lambda W, A, B, alpha: alpha * (W + B @ A / len(A)) - 0 * W, "should equal|alpha belongs"),
        (
            lambda W, A, B, alpha: W + alpha / len(A) * ((B @ A).T if len(W) == 5 else B @ A),
            "turned around",
        ),
        (lambda W, A, B, alpha: W, "should equal"),
        (lambda W, A, B, alpha: merged(W, A, B, int(alpha)), "should equal"),
    ],
)

# --- 6.5 ------------------------------------------------------------------------------------------

KEPT, GONE = "stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"


def gate(name: str = KEPT, approves: Callable = lambda approved: approved is True) -> Callable:
    def answer(approved):
        if not approves(approved):
            raise PermissionError("an approval is missing: ask the ethics board")
        return name

    return answer


def by_match(approved):
    match approved:
        case True:
            return KEPT
        case _:
            raise PermissionError("Not approved: ask the ethics board.")


class NeedsApproval(PermissionError):
    """A learner's own name for it."""


class Gate:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, approved):
        if isinstance(approved, bool) and approved:
            return self.name
        raise NeedsApproval("needs approval")


def asserts_something_else(approved):
    if approved is not True:
        raise PermissionError("an approval is missing")
    assert KEPT.count("/") == 1
    return KEPT


def asserts_before(approved):
    assert KEPT
    if approved is True:
        return KEPT
    raise PermissionError("an approval is missing")


def raises_and_catches(approved):
    try:
        if approved is not True:
            raise AssertionError("no approval")
    except AssertionError as error:
        raise PermissionError("an approval is missing") from error
    return KEPT


def asserting(approved):
    assert approved is True, "needs approval"
    return KEPT


def asserting_and_catching(approved):
    try:
        assert approved is True
    except AssertionError:
        raise PermissionError("an approval is missing") from None
    return KEPT


def helper_asserts(approved):
    try:
        asserting(approved)
    except AssertionError as error:
        raise PermissionError("an approval is missing") from error
    return KEPT


def flag_by_assert(approved):
    try:
        assert approved is True
        allowed = True
    except AssertionError:
        allowed = False
    if not allowed:
        raise PermissionError("an approval is missing")
    return KEPT


def only_in_debug(approved):
    if __debug__ and approved is not True:
        raise PermissionError("an approval is missing")
    return KEPT


def raising(error: BaseException) -> Callable:
    def answer(approved):
        if approved is not True:
            raise error
        return KEPT

    return answer


def explicit_assertion_error(approved):
    if approved is not True:
        raise AssertionError("needs approval")
    return KEPT


def returns_nothing(approved):
    if approved is True:
        return KEPT


GATE = Case(
    checks.gate,
    right=[
        gate(),
        lesson.gate,
        by_match,
        Gate(KEPT),
        partial(lambda name, approved: gate(name)(approved), KEPT),
        gate(approves=lambda approved: type(approved) is bool and approved),
        asserts_something_else,
        asserts_before,
        raises_and_catches,
    ],
    wrong=[
        (asserting, "python -O"),
        (asserting_and_catching, "python -O"),
        (helper_asserts, "python -O"),
        (flag_by_assert, "python -O"),
        (only_in_debug, "__debug__"),
        (explicit_assertion_error, "not AssertionError"),
        (gate(approves=bool), "'yes' was let through"),
        (gate(approves=lambda approved: approved == True), "1 was let through"),  # noqa: E712
        (gate(approves=lambda approved: not approved != True), "1 was let through"),  # noqa: E712
        (gate(approves=lambda approved: approved in (1,)), "1 was let through"),
        (gate(approves=lambda approved: approved is not False), "None was let through"),
        (gate(approves=lambda approved: str(approved) == "True"), "'True' was let through"),
        (
            gate(approves=lambda a: isinstance(a, (bool, np.bool_)) and bool(a)),
            "True_?.* was let through",
        ),
        (gate(approves=lambda a: not isinstance(a, (int, str, float)) and a == True), "let"),  # noqa: E712
        (gate(approves=lambda approved: False), "True was refused"),
        (lambda approved: KEPT, "let through"),
        (returns_nothing, "raised nothing"),
        (gate(GONE), "deleted in August 2024"),
        (gate("somewhere/else"), "maintained copy"),
        (gate(KEPT.upper()), "maintained copy"),
        (raising(PermissionError("no no no no no")), "what is missing"),
        (raising(PermissionError("Permission denied.")), "what is missing"),
        (raising(PermissionError()), "what is missing"),
        (raising(SystemExit("needs approval")), "ends the whole program"),
        (raising(ValueError("needs approval")), "ValueError: raise PermissionError"),
        (raising(Exception("needs approval")), "Exception: raise PermissionError"),
    ],
)

CASES = [LOOP, NEGATIVE, TIMESTEPS, MERGE, GATE]
