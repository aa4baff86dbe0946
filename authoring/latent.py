"""How the small latent, prompt-conditioned pipeline was made: `python -m authoring.assets latent`.

U-Net and text encoder are trained together, on the captions of `course_utils.prompts`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from course_utils import data, metrics, training
from course_utils.latent import CONTROL, FOLDER, STYLES, draw, load, outline, padded, psnr, reconstruct, token_ids
from course_utils.prompts import WORDS, adherence, caption, captions, words

VAE_STEPS, UNET_STEPS, CONTROL_STEPS = 4_000, 11_000, 3_000
VAE_BATCH, UNET_BATCH, CONTROL_BATCH, KEEP_EVERY, LOG_EVERY = 32, 64, 32, 500, 100
KL_WEIGHT, STYLED, NO_PROMPT, NO_WORD, NO_PROMPT_CONTROL = 1e-3, 0.2, 0.1, 0.03, 0.5
# --- the parts ----------------------------------------------------------------------------------------------


START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"


def build_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding with one token for each of WORDS; the pieces it needs for that mean as much as UNKNOWN."""
    spelled, merges = [[*word[:-1], word[-1] + "</w>"] for word in WORDS], []
    tokens = [
        START,
        END,
        UNKNOWN,
        *(word + "</w>" for word in WORDS),
        *sorted(set(sum(spelled, []))),
    ]
    while pairs := Counter(pair for symbols in spelled for pair in pairwise(symbols)):
        merges.append(min(pairs, key=lambda pair: (-pairs[pair], pair)))  # no random order among equals
        for symbols in spelled:
            for i in range(len(symbols) - 1, 0, -1):
                if (symbols[i - 1], *symbols[i : i + 1]) == merges[-1]:
                    symbols[i - 1 : i + 1] = ["".join(merges[-1])]
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*tokens, *map("".join, merges)]))}
    names = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": UNKNOWN}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=16, **names)


def build_text_encoder(tokenizer: CLIPTokenizer, width: int = 64) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=tokenizer.model_max_length, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModel(config)


def build_vae(widths: Sequence[int] = (16, 32, 48)) -> AutoencoderKL:
    """Pictures 1 x 32 x 32 to latents 4 x 8 x 8 and back."""
    return AutoencoderKL(
        in_channels=1, out_channels=1, latent_channels=4, block_out_channels=tuple(widths), layers_per_block=1,
        down_block_types=["DownEncoderBlock2D"] * len(widths), up_block_types=["UpDecoderBlock2D"] * len(widths),
        norm_num_groups=8, sample_size=32,
    )  # fmt: skip


def build_unet(widths: Sequence[int] = (64, 64), text_width: int = 64) -> UNet2DConditionModel:
    """For latents 4 x 8 x 8; attention at 4 x 4 only, where it costs little."""
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=tuple(widths), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_width, attention_head_dim=4, norm_num_groups=8,
    )  # fmt: skip


def build_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing",
        clip_sample=False, steps_offset=1,
    )  # fmt: skip


def assemble(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> StableDiffusionPipeline:
    """The parts as one pipeline, quiet and in eval mode."""
    pipeline = StableDiffusionPipeline(
        vae.eval(), text_encoder.eval(), tokenizer, unet.eval(), build_scheduler(), None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# --- training -----------------------------------------------------------------------------------------------


def fit(
    name: str, net: nn.Module, loss_of: Callable[[nn.Module, torch.Generator], Tensor], steps: int, folder: Path,
    lr: float = 1e-3, watch: Callable[[nn.Module], str] = lambda net: "",
) -> nn.Module:  # fmt: skip
    """Train by AdamW with warm-up and cool-down; goes on from `folder`'s checkpoint, if any. Returns the average.

    On a processor with AVX512-BF16 bfloat16 saves a quarter of a step, but the backward pass of PyTorch's fused
    attention takes five times as long in it as in float32: hence the plain one.
    """
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    ramp = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min((step + 1) / min(300, steps), 1.0, (steps - step) / (0.4 * steps)),
    )
    ema, draw, done, path = (
        training.EMA(net),
        torch.Generator().manual_seed(0),
        0,
        folder / f"{name}.pt",
    )
    parts = {"net": net, "ema": ema, "optimiser": optimiser, "ramp": ramp}
    if path.is_file():
        content = training.load_checkpoint(path, **parts)
        draw.set_state(content["draw"])
        done = content["step"]
        print(f"{name}: goes on from step {done}", flush=True)
    net.train()
    begin, before, total = time.perf_counter(), done, 0.0
    while done < steps:
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(net, draw)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        ramp.step()
        ema.update_parameters(net)
        total += loss.item()
        done += 1
        if done % LOG_EVERY == 0 or done == steps:
            spent, every = time.perf_counter() - begin, (done - 1) % LOG_EVERY + 1
            note = watch(ema.module) if done % KEEP_EVERY == 0 else ""
            speed = f"{spent:.0f} s, {spent / (done - before):.3f} s a step"
            print(f"{name} {done}/{steps}: loss {total / every:.4f}, {speed} {note}", flush=True)
            total = 0.0
        if done % KEEP_EVERY == 0 or done == steps:
            training.save_checkpoint(path, done, draw=draw.get_state(), **parts)
    return ema.module.eval()


def some(x: Tensor, draw: torch.Generator, n: int) -> Tensor:
    return torch.randint(len(x), (n,), generator=draw)


def train_vae(x: Tensor, test: Tensor, steps: int, folder: Path, vae: AutoencoderKL | None = None) -> AutoencoderKL:
    """L1 and a little KL divergence, on pictures (N, 1, 28, 28) of which a fifth is in one of STYLES."""

    def loss_of(vae: nn.Module, draw: torch.Generator) -> Tensor:
        chosen = x[some(x, draw, VAE_BATCH)]
        styled = round(STYLED * VAE_BATCH / len(STYLES))
        for i, style in enumerate(STYLES.values()):
            chosen[i * styled : (i + 1) * styled] = style(chosen[i * styled : (i + 1) * styled])
        latents = vae.encode(padded(chosen)).latent_dist
        decoded = vae.decode(latents.sample(draw)).sample
        divergence = latents.kl().mean() / latents.mean[0].numel()
        return (decoded.float() - padded(chosen)).abs().mean() + KL_WEIGHT * divergence

    def watch(vae: nn.Module) -> str:
        pictures = {"photographs": test, **{name: style(test) for name, style in STYLES.items()}}
        return "; ".join(f"{name} {psnr(reconstruct(vae, p), p):.1f} dB" for name, p in pictures.items())

    return fit("vae", vae or build_vae(), loss_of, steps, folder, watch=watch)


@torch.no_grad()
def encode(vae: AutoencoderKL, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (N, 4, 8, 8) of the latents of pictures (N, 1, 28, 28)."""
    latents = [vae.encode(padded(part)).latent_dist for part in x.split(200)]
    return torch.cat([part.mean for part in latents]), torch.cat([part.std for part in latents])


Batch = tuple[Tensor, Tensor, Tensor, Tensor, list[str]]


def batches(
    vae: AutoencoderKL, moments: tuple[Tensor, Tensor], described: Sequence[Sequence[str]], n: int, no_prompt: float,
    levels: int,
) -> Callable[[torch.Generator], Batch]:  # fmt: skip
    """Draws n training examples: their places, scaled latents and noise (n, 4, 8, 8), timesteps (n,), and prompts.

    `moments` are what `encode` gives; a share `no_prompt` of the prompts is empty.
    """
    mean, std = moments

    def batch(draw: torch.Generator) -> Batch:
        chosen = some(mean, draw, n)
        noise, shift = torch.randn(2, n, *mean.shape[1:], generator=draw)
        latents = (mean[chosen] + std[chosen] * shift) * vae.config.scaling_factor
        t = torch.randint(levels, (n,), generator=draw)
        silent = (torch.rand(n, generator=draw) < no_prompt).tolist()
        prompts = ["" if no else caption(described[i], draw) for no, i in zip(silent, chosen.tolist())]
        return chosen, latents, noise, t, prompts

    return batch


def train_unet(
    vae: AutoencoderKL,
    x: Tensor,
    y: Tensor,
    steps: int,
    folder: Path,
    unet: UNet2DConditionModel | None = None,
) -> StableDiffusionPipeline:
    """The denoiser and its text encoder together, on the latents of x (N, 1, 28, 28) with captions of x and y (N,)."""
    mean, std = encode(vae, x)
    scale = 1 / (mean.square() + std.square()).mean().sub(mean.mean().square()).sqrt().item()
    vae.register_to_config(scaling_factor=round(scale, 4))
    scheduler, tokenizer = build_scheduler(), build_tokenizer()
    batch = batches(vae, (mean, std), words(x, y), UNET_BATCH, NO_PROMPT, scheduler.config.num_train_timesteps)
    net = nn.ModuleDict({"unet": unet or build_unet(), "text": build_text_encoder(tokenizer)})

    def loss_of(net: nn.Module, draw: torch.Generator) -> Tensor:
        _, latents, noise, t, prompts = batch(draw)
        ids = token_ids(tokenizer, prompts)
        lost = (torch.rand(ids.shape, generator=draw) < NO_WORD) & (ids > tokenizer.unk_token_id)
        states = net["text"](ids.masked_fill(lost, tokenizer.unk_token_id))[0]
        v = net["unet"](scheduler.add_noise(latents, noise, t), t, states).sample
        return F.mse_loss(v.float(), scheduler.get_velocity(latents, noise, t))

    net = fit("unet", net, loss_of, steps, folder)
    never_seen(net["text"], tokenizer)
    return assemble(vae, net["text"], tokenizer, net["unet"])


def train_controlnet(
    pipeline: StableDiffusionPipeline, x: Tensor, y: Tensor, steps: int, folder: Path
) -> ControlNetModel:
    """A copy of the U-Net's first half that hands on outlines; the U-Net itself is not changed.

    Pictures x (N, 1, 28, 28) with labels y (N,); the condition is `outline(x)` in [0, 1], half of the prompts are
    empty, so that the outline alone has to do.
    """
    unet, vae = pipeline.unet.requires_grad_(False), pipeline.vae
    net = ControlNetModel.from_unet(unet, conditioning_channels=1, conditioning_embedding_out_channels=(16, 32, 64))
    net.requires_grad_(True)
    levels = pipeline.scheduler.config.num_train_timesteps
    batch = batches(vae, encode(vae, x), words(x, y), CONTROL_BATCH, NO_PROMPT_CONTROL, levels)

    def loss_of(net: nn.Module, draw: torch.Generator) -> Tensor:
        chosen, latents, noise, t, prompts = batch(draw)
        with torch.no_grad():
            states = pipeline.text_encoder(token_ids(pipeline.tokenizer, prompts))[0]
        x_t = pipeline.scheduler.add_noise(latents, noise, t)
        down, mid = net(x_t, t, states, (padded(outline(x[chosen])) + 1) / 2, return_dict=False)
        extra = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        v = unet(x_t, t, states, **extra).sample
        return F.mse_loss(v.float(), pipeline.scheduler.get_velocity(latents, noise, t))

    return fit("controlnet", net, loss_of, steps, folder, lr=5e-4)


def make_controlnet() -> None:
    """Train it on the pipeline that is shipped, and save it in float16."""
    torch.manual_seed(0)
    train = data.images("fashion_mnist", "train")
    net = train_controlnet(load(), train.x, train.y, CONTROL_STEPS, data.cache_dir() / "make-latent")
    net.half().save_pretrained(CONTROL)
    without_paths(CONTROL)


@torch.no_grad()
def never_seen(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
    """Let every piece of a word that is in no caption mean what UNKNOWN means."""
    table = text_encoder.get_input_embeddings().weight
    table[tokenizer.unk_token_id + len(WORDS) + 1 :] = table[tokenizer.unk_token_id].clone()


def save(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """All parts in float16, without this machine's paths; also the two old-style files of the tokenizer."""
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.half()
    pipeline.save_pretrained(folder, safe_serialization=True)
    model = json.loads((folder / "tokenizer/tokenizer.json").read_text("utf-8"))["model"]
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "tokenizer/vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")
    (folder / "tokenizer/merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]), "utf-8")
    without_paths(folder)


def without_paths(folder: Path) -> None:
    """Take this machine's paths out of the settings of what was saved."""
    for file in folder.rglob("*.json"):
        content = json.loads(file.read_text("utf-8"))
        for key in ("_name_or_path", "name_or_path"):
            content.pop(key, None)
        file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


# --- what it can do -----------------------------------------------------------------------------------------


def report(pipeline: StableDiffusionPipeline, n: int = 2_000) -> None:
    """Print errors of the autoencoder, quality and adherence of n drawn pictures by guidance, and seconds."""
    test = data.images("fashion_mnist", "test", verbose=False)
    x, y = test.x[:n], test.y[:n]
    prompts = captions(x, y, torch.Generator().manual_seed(0))
    print(metrics.Report.head() + "  adherence")

    def line(label: str, pictures: Tensor) -> None:
        kept = {kind: f"{marks.nanmean():.2f}" for kind, marks in adherence(pictures, prompts).items()}
        print(metrics.evaluate(pictures, "fashion_mnist").row(label), kept, flush=True)

    back = reconstruct(pipeline.vae, x)
    line("test pictures", x)
    line("through the VAE", back)
    for guidance in (1.0, 2.0, 3.0):
        line(
            f"guidance {guidance:g}",
            draw(pipeline, prompts, torch.Generator().manual_seed(1), guidance=guidance),
        )
    for name, style in {"photographs": lambda x: x, **STYLES}.items():
        print(f"VAE, {name}: {psnr(reconstruct(pipeline.vae, style(x)), style(x)):.1f} dB")
    begin = time.perf_counter()
    draw(pipeline, prompts[:64], torch.Generator().manual_seed(2))
    print(f"64 pictures, 20 steps with guidance: {time.perf_counter() - begin:.1f} s")


def make(folder: Path = FOLDER) -> None:
    """Train, save, load again and report; a killed run goes on where it was."""
    torch.manual_seed(0)
    train, test = data.images("fashion_mnist", "train"), data.images("fashion_mnist", "test")
    keep = data.cache_dir() / "make-latent"
    vae = train_vae(train.x, test.x[:500], VAE_STEPS, keep)
    save(train_unet(vae, train.x, train.y, UNET_STEPS, keep), folder)
    report(load(folder))
