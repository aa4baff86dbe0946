"""Answers to the exercises of notebook 06."""

from __future__ import annotations

import math
import sys
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

# --- 6.4 ------------------------------------------------------------------------------------------


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
        (lambda w, u, g: u, "wanted prediction has no say"),
        (lambda w, u, g: u + g * w, "guidance multiplies"),
        (in_place_guidance, "changes a tensor"),
        (clamped_guidance, r"unwanted \+ guidance"),
        (lambda w, u, g: walk(w, u, max(g, 1.0)), "at guidance 0 "),
        (lambda w, u, g: walk(w[:1], u[:1], g).expand_as(w), r"unwanted \+ guidance"),
    ],
)

# --- 6.2 ------------------------------------------------------------------------------------------


def swap(pipeline, kind):
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    return pipeline


def swap_by_init(pipeline, kind):
    """The settings that both classes know, by hand."""
    import inspect

    known = inspect.signature(kind.__init__).parameters
    settings = {name: value for name, value in pipeline.scheduler.config.items() if name in known}
    setattr(pipeline, "scheduler", kind(**settings))  # noqa: B010
    return pipeline


def swap_by_dict(pipeline, kind):
    old = dict(pipeline.scheduler.config)
    pipeline.scheduler = kind.from_config(old)
    return pipeline


def with_scheduler(make: Callable, give: Callable = lambda pipeline: pipeline) -> Callable:
    def answer(pipeline, kind):
        pipeline.scheduler = make(pipeline, kind)
        return give(pipeline)

    return answer


def wrong_network(pipeline, kind):
    pipeline.unet = None
    return swap(pipeline, kind)


SWAP = Case(
    checks.swap,
    right=[swap, swap_by_init, swap_by_dict, lambda pipeline, kind: swap(kind=kind, pipeline=pipeline)],
    wrong=[
        (with_scheduler(lambda pipeline, kind: kind()), "has lost num_train_timesteps and"),
        (with_scheduler(lambda pipeline, kind: kind), "itself: make one of it"),
        (lambda pipeline, kind: pipeline, "is a DDPMScheduler"),
        (lambda pipeline, kind: swap(pipeline, kind).scheduler, "return the pipeline"),
        (
            with_scheduler(lambda pipeline, kind: kind(num_train_timesteps=100)),
            "has lost beta_schedule",
        ),
        (
            with_scheduler(
                lambda pipeline, kind: kind.from_config(pipeline.scheduler.config, prediction_type="epsilon")
            ),
            "has lost prediction_type",
        ),
        (wrong_network, "the network was changed"),
    ],
)

# --- 6.3 ------------------------------------------------------------------------------------------


@torch.no_grad()
def two_calls(unet, scheduler, x, timesteps, wanted, unwanted, guidance):
    for t in timesteps:
        x_in = scheduler.scale_model_input(x, t)
        towards = unet(x_in, t, encoder_hidden_states=wanted, return_dict=False)[0]
        away = unet(x_in, timestep=t.expand(len(x)), encoder_hidden_states=unwanted)["sample"]
        x = scheduler.step(towards + (guidance - 1) * (towards - away), t, x, return_dict=False)[0]
    return x


@torch.inference_mode()
def in_inference(unet, scheduler, x, timesteps, wanted, unwanted, guidance):
    both = torch.cat([wanted, unwanted])
    for t in timesteps:
        x_in = scheduler.scale_model_input(torch.cat([x] * 2), t)
        towards, away = unet(x_in, t, both).sample.chunk(2)
        x = scheduler.step(torch.lerp(away, towards, guidance), t, x).prev_sample
    return x


def guided_loop(
    scale: bool = True,
    mix: Callable = lambda away, towards, w: away + w * (towards - away),
    order: int = 1,
    all_times: bool = False,
    keep: bool = True,
    grad: bool = False,
) -> Callable:
    def answer(unet, scheduler, x, timesteps, wanted, unwanted, guidance):
        with torch.set_grad_enabled(grad):
            both = torch.cat([unwanted, wanted][::order])
            for t in scheduler.timesteps if all_times else timesteps:
                x_in = scheduler.scale_model_input(x, t) if scale else x
                away, towards = unet(torch.cat([x_in, x_in]), t, encoder_hidden_states=both).sample.chunk(2)
                after = scheduler.step(mix(away, towards, guidance), t, x).prev_sample
                x = after if keep else x
            return x

    return answer


DENOISE = Case(
    checks.denoise,
    right=[
        lesson.denoise,
        two_calls,
        in_inference,
        lambda *given: lesson.denoise(
            **dict(zip(("unet", "scheduler", "x", "timesteps", "wanted", "unwanted", "guidance"), given))
        ),
    ],
    wrong=[
        (guided_loop(order=-1), "exchanged"),
        (guided_loop(mix=lambda a, b, w: b + w * (b - a)), "one guidance too much"),
        (guided_loop(mix=lambda a, b, w: w * (b - a)), "difference alone"),
        (guided_loop(mix=lambda a, b, w: b), "unwanted prediction has no say"),
        (guided_loop(mix=lambda a, b, w: a), "the prompt has no say|not those of"),
        (guided_loop(scale=False), "scale_model_input"),
        (guided_loop(keep=False), "as they were|not those of"),
        (guided_loop(all_times=True), "walk `timesteps`"),
        (guided_loop(grad=True), "torch.no_grad"),
        (lambda unet, scheduler, x, timesteps, wanted, unwanted, guidance: x.clone(), "asked at timesteps"),
        (lambda unet, scheduler, x, timesteps, *rest: unet(x, timesteps[0], rest[0]).sample, "no_grad|asked at"),
    ],
)

# --- 6.5 ------------------------------------------------------------------------------------------


def by_index(denoise, scheduler, latents, noise, steps, strength):
    scheduler.set_timesteps(steps)
    first = steps - math.floor(steps * strength)
    if first == steps:
        return latents.clone()
    t = torch.full((len(latents),), int(scheduler.timesteps[first]))
    return denoise(scheduler.add_noise(latents, noise, t), scheduler.timesteps[first:])


def by_list(denoise, scheduler, latents, noise, steps, strength):
    scheduler.set_timesteps(num_inference_steps=steps)
    times = scheduler.timesteps.tolist()[steps - int(strength * steps) :]
    if not times:
        return latents
    noisy = [scheduler.add_noise(x[None], n[None], torch.tensor([times[0]])) for x, n in zip(latents, noise)]
    return denoise(torch.cat(noisy), times)


def changed(
    run: Callable = lambda steps, strength: int(steps * strength),
    take: Callable = lambda times, run: times[len(times) - run :],
    noisy: Callable = lambda add, x, n, t, every: add(x, n, t),
    set_steps: bool = True,
    give: Callable = lambda found, latents: found,
    guard: bool = True,
) -> Callable:
    def answer(denoise, scheduler, latents, noise, steps, strength):
        if set_steps:
            scheduler.set_timesteps(steps)
        count = run(steps, strength)
        if guard and count == 0:
            return latents
        times = take(scheduler.timesteps, count)
        t, every = times[:1].repeat(len(latents)), scheduler.timesteps[:1].repeat(len(latents))
        return give(denoise(noisy(scheduler.add_noise, latents, noise, t, every), times), latents)

    return answer


CHANGED = Case(
    checks.image_to_image,
    right=[
        lesson.image_to_image,
        by_index,
        by_list,
        lambda *given: lesson.image_to_image(
            **dict(zip(("denoise", "scheduler", "latents", "noise", "steps", "strength"), given))
        ),
    ],
    wrong=[
        (changed(take=lambda times, run: times[:run]), "the noisiest timesteps"),
        (changed(run=lambda steps, strength: math.ceil(steps * strength)), "rounded down"),
        (changed(take=lambda times, run: times[-run:], guard=False), "is the whole list"),
        (changed(set_steps=False), "does not know how many steps"),
        (changed(noisy=lambda add, x, n, t, every: x), "have no noise on them"),
        (changed(noisy=lambda add, x, n, t, every: n), "noise alone"),
        (changed(noisy=lambda add, x, n, t, every: add(n, x, t)), "latents come first"),
        (changed(noisy=lambda add, x, n, t, every: add(x, n, every)), "first of all timesteps"),
        (changed(noisy=lambda add, x, n, t, every: x + n), "weighs both"),
        (changed(give=lambda found, latents: latents.clone()), "return what denoise returns"),
        (changed(take=lambda times, run: times), "runs 6, rounded down"),
    ],
)

# --- 6.6 ------------------------------------------------------------------------------------------


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

# --- 6.7 ------------------------------------------------------------------------------------------

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


def asks_the_flags(approved):
    if sys.flags.optimize == 0 and approved is not True:
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
        (asks_the_flags, "sys.flags.optimize"),
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

CASES = [LOOP, SWAP, DENOISE, NEGATIVE, CHANGED, MERGE, GATE]
