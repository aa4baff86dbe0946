"""How the emoji's latent pipeline was made: `python -m authoring.assets emoji_judges|emoji_latent`.

One network for two tasks: emoji by name, group and hand, and a given emoji in another hand. Each part goes on where a
killed run was; the folder of the checkpoints is COURSE_CHECKPOINTS, else build/.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from authoring import latent
from course_utils import data, emoji, emoji_hands, imagenet
from course_utils.files import write
from course_utils.latent import psnr, token_ids
from course_utils.lessons import nb12_two_minutes as nb12

VAE_STEPS, UNET_STEPS = 2_000, 12_000
VAE_BATCH, UNET_BATCH, VARIANTS = 16, 64, 16
VAE_WIDTHS, UNET_WIDTHS, KL_WEIGHT = (16, 32, 48), (64, 64), 1e-4
NO_PROMPT, NO_NAME, NO_WORD = 0.1, 0.15, 0.03
TEXT_WIDTH, LENGTH = 48, 14  # width; tokens of a prompt
DECAY = 1e-3  # of the judges' weights
ENDS = ("conv_in", "conv_out", "quant_conv", "post_quant_conv", "time_embedding", "time_emb_proj", "embeddings")
SHIFT = 2  # pixels, at most, by which training pictures are moved


class Muon(nb12.Muon):
    """Notebook 12's Muon in a third of its time: the rounds are taken on the small square matrix X X^T."""

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            same, state = group["params"], self.state[group["params"][0]]
            gradient = torch.stack([p.grad.flatten(1) for p in same])  # (G, m, n)
            average = state.setdefault("average", torch.zeros_like(gradient)).lerp_(gradient, 1 - group["momentum"])
            update = orthogonalise(gradient.lerp(average, group["momentum"]))
            size = max(1, update.shape[1] / update.shape[2]) ** 0.5
            for p, change in zip(same, update):
                p.add_(change.view_as(p), alpha=-group["lr"] * size)


def orthogonalise(X: Tensor, rounds: int = 5) -> Tensor:
    """The same as notebook 12's: a round multiplies X by a polynomial of X X^T, and all of them commute."""
    X = X / (X.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    tall = X.shape[1] > X.shape[2]
    X = X.mT if tall else X
    A = X @ X.mT
    one = torch.eye(A.shape[1])
    product = one.expand_as(A)
    for _ in range(rounds):
        Q = 3.4445 * one - 4.7750 * A + 2.0315 * A @ A
        product, A = Q @ product, Q @ A @ Q
    X = product @ X
    return X.mT if tall else X


def optimisers(net: nn.Module, lr: float = 2e-3, muon_lr: float = 0.02) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside, AdamW for the first and last layers, embeddings, norms, biases."""
    slow, adamw = nb12.make_optimisers(net, lr, muon_lr, ENDS)
    return [Muon([p for group in slow.param_groups for p in group["params"]], muon_lr), adamw]


# --- pictures -----------------------------------------------------------------------------------------------


def by_thing(pictures: emoji.Emoji) -> Tensor:
    """(things, 4, 3, 32, 32)."""
    return pictures.x.view(-1, len(emoji_hands.HANDS), *pictures.x.shape[1:])


def may_mirror(pictures: emoji.Emoji) -> Tensor:
    """(things,), true where a mirrored picture means the same."""
    allowed = torch.tensor([group in emoji.MIRRORS for group in pictures.groups])
    return allowed[pictures.group[:: len(emoji_hands.HANDS)]]


def varied(x: Tensor, mirror: Tensor, rng: torch.Generator, colours: Tensor) -> Tensor:
    """Things (N, 4, 3, H, W) on white, each moved, mirrored where `mirror` (N,) allows it, in all hands alike.

    Where `colours` (N,) is true, red, green and blue change places.
    """
    n, side = len(x), x.shape[-1]
    x = torch.where((mirror & (torch.rand(n, generator=rng) < 0.5)).view(n, 1, 1, 1, 1), x.flip(-1), x)
    order = torch.rand(n, 3, generator=rng).argsort(1)
    order = torch.where(colours[:, None], order, torch.arange(3))
    x = x.gather(2, order.view(n, 1, 3, 1, 1).expand_as(x))
    wide = F.pad(x.flatten(1, 2), (SHIFT,) * 4, value=1.0).unflatten(1, x.shape[1:3])
    down, right = torch.randint(2 * SHIFT + 1, (2, n), generator=rng).tolist()
    return torch.stack([part[..., i : i + side, j : j + side] for part, i, j in zip(wide, down, right)])


# --- the autoencoder ----------------------------------------------------------------------------------------


def train_vae(
    x: Tensor, mirror: Tensor, test: Tensor, steps: int, folder: Path, vae: AutoencoderKL | None = None,
    make: Callable[[nn.Module], list[torch.optim.Optimizer]] = optimisers, name: str = "emoji_vae",
) -> AutoencoderKL:  # fmt: skip
    """L1 and a little KL divergence, on things (N, 4, 3, 32, 32); half of them in changed colours."""

    def loss_of(vae: nn.Module, rng: torch.Generator) -> Tensor:
        rows = latent.some(x, rng, VAE_BATCH)
        chosen = varied(x[rows], mirror[rows], rng, torch.rand(VAE_BATCH, generator=rng) < 0.5)
        chosen = chosen[torch.arange(VAE_BATCH), torch.randint(x.shape[1], (VAE_BATCH,), generator=rng)]
        latents = vae.encode(chosen).latent_dist
        decoded = vae.decode(latents.sample(rng)).sample
        divergence = latents.kl().mean() / latents.mean[0].numel()
        return (decoded.float() - chosen).abs().mean() + KL_WEIGHT * divergence

    def watch(vae: nn.Module) -> str:
        return f"held out {psnr(emoji_hands.through(vae, test), test):.2f} dB"

    vae = vae or latent.build_vae(VAE_WIDTHS, channels=3, attention=False)
    return latent.fit(name, vae, loss_of, steps, folder, make(vae), watch)


@torch.no_grad()
def standardise(vae: AutoencoderKL, x: Tensor) -> None:
    """Change the two 1 x 1 convolutions about the latents so that those of x have mean 0 and spread 1 by channel.

    Pictures that go through the autoencoder stay the same; a scaling factor is then not needed.
    """
    latents = emoji_hands.encode(vae, x)
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    n, into, out = len(mean), vae.quant_conv, vae.post_quant_conv
    into.bias[:n] = (into.bias[:n] - mean) / std
    into.weight[:n] /= std.view(n, 1, 1, 1)
    into.bias[n:] -= 2 * std.log()
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= std.view(1, n, 1, 1)
    vae.register_to_config(scaling_factor=1.0)


def checkpoints() -> Path:
    return Path(os.environ.get("COURSE_CHECKPOINTS", "build"))


# --- the network that removes noise -------------------------------------------------------------------------


def table(vae: AutoencoderKL, x: Tensor, mirror: Tensor) -> Tensor:
    """Latents (VARIANTS, things, 4, 4, 8, 8): first the pictures themselves, the second half in changed colours."""
    rng, rows = torch.Generator().manual_seed(0), []
    for i in range(VARIANTS):
        changed = varied(x, mirror, rng, torch.full((len(x),), i >= VARIANTS // 2)) if i else x
        with torch.autocast("cpu", torch.bfloat16):
            latents = emoji_hands.encode(vae, changed.flatten(0, 1))
        rows.append(latents.float().unflatten(0, x.shape[:2]))
    return torch.stack(rows)


def all_ids(tokenizer: CLIPTokenizer, pictures: emoji.Emoji) -> dict[str, Tensor]:
    """Token ids of what can be asked for: "full" (things, 4, L), "group" (things, 4, L), "hand" (4, L), "none" (L,)."""
    hands = emoji_hands.HANDS
    rows = [(pictures.names[i], pictures.groups[pictures.group[i]]) for i in range(0, len(pictures), len(hands))]
    prompt = emoji_hands.prompt

    def ids(prompts: list[str]) -> Tensor:
        return token_ids(tokenizer, prompts).unflatten(0, (-1, len(hands)))

    return {
        "full": ids([prompt(name, group, hand) for name, group in rows for hand in hands]),
        "group": ids([prompt("", group, hand) for _, group in rows for hand in hands]),
        "hand": ids([prompt("", "", hand) for hand in hands])[0],
        "none": token_ids(tokenizer, [""])[0],
    }


def examples(
    latents: Tensor, seen: Tensor, ids: dict[str, Tensor], n: int, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """n training examples: what is to come out and what is given (n, 4, 8, 8), and token ids (n, L).

    In the first half a picture is given, mostly with nothing but a hand; in the second half none is (zeros). `seen`
    (things, 4) says which cells there are.
    """
    half, variants = n // 2, len(latents)
    wanted = seen.nonzero()[torch.randint(int(seen.sum()), (n,), generator=rng)]
    thing, hand = wanted.T
    others = seen[thing].float().scatter(1, hand[:, None], 0.0)
    of = others.multinomial(1, generator=rng)[:, 0]
    variant = torch.randint(variants, (n,), generator=rng)
    variant[half:] %= variants // 2  # names say colours
    target, given = latents[variant, thing, hand], latents[variant, thing, of]
    given[half:] = 0
    u = torch.rand(n, generator=rng)
    named = u >= torch.where(torch.arange(n) < half, 0.7, NO_PROMPT + NO_NAME)
    named &= variant < variants // 2
    asked = torch.where((torch.arange(n) < half)[:, None], ids["hand"][hand], ids["group"][thing, hand])
    asked = torch.where(named[:, None], ids["full"][thing, hand], asked)
    return target, given, torch.where((u < NO_PROMPT)[:, None], ids["none"], asked)


def train_unet(
    vae: AutoencoderKL, pictures: emoji.Emoji, steps: int, folder: Path, unet: UNet2DConditionModel | None = None,
    make: Callable[[nn.Module], list[torch.optim.Optimizer]] = optimisers, name: str = "emoji_unet",
    latents: Tensor | None = None,
) -> StableDiffusionInstructPix2PixPipeline:  # fmt: skip
    """The U-Net and its text encoder together, on all training pictures but the cells that are left out."""
    x, mirror = by_thing(pictures), may_mirror(pictures)
    latents = table(vae, x, mirror) if latents is None else latents
    words = emoji_hands.vocabulary(pictures.names, pictures.groups)
    scheduler, tokenizer = latent.build_scheduler(), latent.build_tokenizer(words, LENGTH)
    ids, seen = all_ids(tokenizer, pictures), ~emoji_hands.left_out(len(x))
    channels, levels = latents.shape[3], scheduler.config.num_train_timesteps
    unet = unet or latent.build_unet(UNET_WIDTHS, TEXT_WIDTH, channels, extra=channels)
    net = nn.ModuleDict({"unet": unet, "text": latent.build_text_encoder(tokenizer, unet.config.cross_attention_dim)})

    def loss_of(net: nn.Module, rng: torch.Generator) -> Tensor:
        target, given, asked = examples(latents, seen, ids, UNET_BATCH, rng)
        noise = torch.randn(target.shape, generator=rng)
        t = torch.randint(levels, (len(target),), generator=rng)
        lost = (torch.rand(asked.shape, generator=rng) < NO_WORD) & (asked > tokenizer.unk_token_id)
        states = net["text"](asked.masked_fill(lost, tokenizer.unk_token_id))[0]
        v = net["unet"](torch.cat([scheduler.add_noise(target, noise, t), given], 1), t, states).sample
        return F.mse_loss(v.float(), scheduler.get_velocity(target, noise, t))

    net = latent.fit(name, net, loss_of, steps, folder, make(net))
    latent.never_seen(net["text"], tokenizer, len(words))
    return assemble(vae, net["text"], tokenizer, net["unet"])


def assemble(
    vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, unet: UNet2DConditionModel
) -> StableDiffusionInstructPix2PixPipeline:  # fmt: skip
    """The parts as the library's pipeline for a given picture and a prompt, quiet and in eval mode."""
    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae.eval(), text_encoder.eval(), tokenizer, unet.eval(), latent.build_scheduler(), None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# --- the judges ---------------------------------------------------------------------------------------------


def linear(features: Tensor, y: Tensor, classes: int, decay: float) -> tuple[Tensor, Tensor]:
    """Weights (classes, D) and bias (classes,) of a logistic regression on features (N, D) with labels y (N,)."""
    mean, std = features.mean(0), features.std(0).clamp(min=1e-3)
    x = (features - mean) / std
    weight, bias = torch.zeros(classes, x.shape[1], requires_grad=True), torch.zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, y) + decay * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    weight = weight.detach() / std
    return weight, bias.detach() - weight @ mean


def make_judges() -> None:
    """Two linear classifiers of hand and group, on all training emoji, for what is drawn."""
    train, test = emoji.emoji("train"), emoji.emoji("test")
    x = emoji_hands.strokes(train.x)
    hand, group = (
        linear(x, getattr(train, kind), len(getattr(train, f"{kind}s")), DECAY) for kind in ("hand", "group")
    )
    weights = {"weight": torch.cat([hand[0], group[0]]), "bias": torch.cat([hand[1], group[1]])}
    write(data.ASSETS / "emoji_judges.safetensors", safetensors.torch.save({k: w.half() for k, w in weights.items()}))
    for kind, seen in emoji_hands.judged(emoji_hands.strokes(test.x)).items():
        print(f"{kind}: right for {(seen == getattr(test, kind)).float().mean():.3f} of {len(test)} held-out emoji")


# --- what it can do -----------------------------------------------------------------------------------------


class Ruler:
    """Features of real emoji, and what pictures are measured by against them."""

    def __init__(self, real: emoji.Emoji) -> None:
        self.hand = real.hand
        self.last = imagenet.image_features(real.x, emoji_hands.SIDE)
        self.strokes = emoji_hands.strokes(real.x)

    def row(self, x: Tensor, wanted: Tensor, thing: Tensor, b: Tensor, true: Tensor) -> str:
        """The measures of pictures x (N, 3, 32, 32) that should show things in hands b.

        Args:
            wanted: features (N, 1280) of the truth.
            true: the truth of all things, (things, 4, 3, 32, 32).
        """
        last, strokes = imagenet.image_features(x, emoji_hands.SIDE), emoji_hands.strokes(x)
        mean, std = self.strokes.mean(0), self.strokes.std(0)
        looks = emoji_hands.kid_to_hands(last, b, self.last, self.hand)
        drawn = emoji_hands.kid_to_hands((strokes - mean) / std, b, (self.strokes - mean) / std, self.hand)
        return (
            f"RMS {emoji_hands.distance(x, true[thing, b]).mean():.3f}"
            f"  features {emoji_hands.distance(last, wanted).mean():.3f}"
            f"  found {emoji_hands.found(x, thing, b, true).mean():.3f}"
            f"  hand {(emoji_hands.judged(strokes)['hand'] == b).float().mean():.3f}"
            f"  KID {looks:.2f}, of strokes {drawn:.2f}"
        )


def report(pipeline: StableDiffusionInstructPix2PixPipeline, n: int = 424) -> None:
    """Print the measures of both tasks beside the trivial answers."""
    train, test = emoji.emoji("train"), emoji.emoji("test")
    known, true = by_thing(train), by_thing(test)
    seen, place = ~emoji_hands.left_out(len(known)), known.shape[:2]
    print(f"autoencoder, held out: {psnr(emoji_hands.through(pipeline.vae, test.x), test.x):.2f} dB", flush=True)
    ruler = Ruler(train)
    known_features = ruler.last.unflatten(0, place)
    true_features = imagenet.image_features(test.x, emoji_hands.SIDE).unflatten(0, true.shape[:2])
    chosen = torch.randperm(12 * len(true), generator=torch.Generator().manual_seed(0))[:n]
    thing, a, b = (part[chosen] for part in emoji_hands.pairs(len(true)))
    given, hands = true[thing, a], [emoji_hands.HANDS[i] for i in b.tolist()]

    def network(guidance: float, draws: int = 1) -> Tensor:
        rng = torch.Generator().manual_seed(1)
        several = (emoji_hands.draw(pipeline, hands, rng, given, guidance=guidance) for _ in range(draws))
        return torch.stack(list(several)).mean(0)

    rows = {
        "the truth": lambda: true[thing, b],
        "the truth through the autoencoder": lambda: emoji_hands.through(pipeline.vae, true[thing, b]),
        "the given picture": lambda: given,
        "nearest training partner": lambda: emoji_hands.nearest_partner(given, a, b, known, seen),
        "the hand's average": lambda: emoji_hands.average(b, known, seen),
        "network, guidance 1": lambda: network(1.0),
        "mean of 4 of these": lambda: network(1.0, 4),
        "network, guidance 2": lambda: network(2.0),
    }
    for label, made in rows.items():
        print(f"{label:34} {ruler.row(made(), true_features[thing, b], thing, b, true)}", flush=True)
    for label, which in {"left out": ~seen, "seen": ~seen.roll(1, dims=1)}.items():
        thing, b = which.nonzero().T
        asked = [
            emoji_hands.prompt(train.names[4 * i], train.groups[train.group[4 * i]], emoji_hands.HANDS[j])
            for i, j in which.nonzero().tolist()
        ]
        drawn = {
            f"guidance {guidance:g}": emoji_hands.draw(
                pipeline, asked, torch.Generator().manual_seed(1), guidance=guidance
            )
            for guidance in (1.0, 2.0, 4.0)
        }
        for kind, x in (drawn | {"another hand's picture": known[thing, (b + 1) % 4]}).items():
            text = ruler.row(x, known_features[thing, b], thing, b, known)
            print(f"by name, {label}, {kind:24} {text}", flush=True)


def make(folder: Path = emoji_hands.FOLDER) -> None:
    """Train, save, load again and report; a killed run goes on where it was."""
    torch.manual_seed(0)
    train, test, keep = emoji.emoji("train"), emoji.emoji("test"), checkpoints()
    vae = train_vae(by_thing(train), may_mirror(train), test.x, VAE_STEPS, keep).requires_grad_(False)
    standardise(vae, train.x)
    torch.manual_seed(1)
    latent.save(train_unet(vae, train, UNET_STEPS, keep), folder)
    report(emoji_hands.load())
