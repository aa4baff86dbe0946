"""Memory for the full budgets: two training steps of each notebook's full-size network, in a process of its own.

    python -m authoring.benchmarks.full_memory

What a card would need is estimated from the CPU: the growth of the process's largest resident memory from before the
network is made to after two steps at the full batch size (weights, gradients, the optimiser's state, activations).
A CUDA context takes a few hundred MB besides, which a CPU cannot show. Minutes on one core.
"""

from __future__ import annotations

import os
import subprocess
import sys

import torch

from course_utils import data, runtime

STEPS = 2


def pictures(n: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    part = data.images("fashion_mnist", "test", verbose=False)
    return part.x[:n], part.y[:n]


def nb02() -> None:
    from course_utils.lessons import nb02_dcgan_training as nb02

    generator, discriminator = nb02.Generator(100, 64), nb02.Discriminator((64, 128, 256), 512)
    nb02.train(generator, discriminator, pictures()[0], runtime.start(0, verbose=False), num_steps=STEPS)


def nb03() -> None:
    from course_utils.lessons import nb03_mode_collapse_and_wgan as nb03

    digits = data.images("mnist", "test", verbose=False).x
    nb03.train_digits(nb03.DIGIT_RECIPES["vanilla"], digits, width=64, num_steps=STEPS, batch_size=128)


def nb05() -> None:
    from course_utils.lessons import nb04_diffusion_math as nb04
    from course_utils.lessons import nb05_ddpm_from_scratch as nb05

    net = nb05.UNet((64, 128), classes=10)
    schedule = nb04.Schedule.named("cosine", nb05.T)
    nb05.train(net, *pictures(), schedule, num_steps=STEPS, batch_size=128)


def nb06() -> None:
    from course_utils.lessons import nb06_diffusers_applications as nb06

    trainer = nb06.Trainer(pictures()[0], STEPS)
    for _ in range(STEPS):
        trainer.step()


def nb07() -> None:
    from course_utils import photographs
    from course_utils.lessons import nb07_super_resolution as nb07

    run, crops = runtime.start(0, verbose=False), [p.x for p in photographs.photographs("train")]
    net = nb07.OnBicubic(nb07.RRDBNet(num_feat=64, num_block=8, num_grow_ch=32))
    nb07.train_l1(net, nb07.crops_of(crops), run, STEPS)
    large = nb07.crops_of(crops, batch_size=4, side=24)
    nb07.train_gan(net, nb07.make_critic(), large, run, STEPS, photographs.looking_net())


def nb08() -> None:
    from course_utils import phantoms
    from course_utils.lessons import nb08_medical_synthesis as nb08

    x, asked = phantoms.cohort("train")
    options = {"num_steps": STEPS, "batch_size": 64}
    nb08.train_clinical(nb08.ClinicalGenerator(), nb08.ClinicalDiscriminator(), x, asked, **options)


def nb11() -> None:
    from course_utils import emoji
    from course_utils.lessons import nb04_diffusion_math as nb04
    from course_utils.lessons import nb05_ddpm_from_scratch as nb05

    part = emoji.emoji("train")
    net = nb05.UNet((64, 128), channels=3, classes=len(part.classes), size=32)
    schedule = nb04.Schedule.named("cosine", nb05.T)
    nb05.train(net, part.x[:256], part.y[:256], schedule, num_steps=STEPS, batch_size=64)


def nb12() -> None:
    from course_utils.lessons import nb04_diffusion_math as nb04
    from course_utils.lessons import nb05_ddpm_from_scratch as nb05
    from course_utils.lessons import nb12_two_minutes as nb12

    train = data.images("fashion_mnist", "train", verbose=False)
    x, y = train.x, train.y
    schedule = nb04.Schedule.named("cosine", nb05.T)
    unet, mixture = nb05.UNet((64, 128), classes=10, extra=1), nb12.MixtureDenoiser(x, y)
    net = nb12.HeadStart(unet, mixture, schedule)
    options = {"num_steps": STEPS, "batch_size": 128, "make_optimisers": nb12.make_optimisers}
    nb05.train(net, x[:256], y[:256], schedule, **options)


PARTS = {
    "02 DCGAN, 64-128-256 channels, 64 at a time": nb02,
    "03 stacked digits, width 64, 128 at a time": nb03,
    "05 U-Net of widths 64, 128, 128 at a time": nb05,
    "06 UNet2DModel, 32 at a time": nb06,
    "07 RRDBNet, 64 features, 8 blocks, 8 at a time": nb07,
    "08 conditional GAN, 64 at a time": nb08,
    "11 U-Net of widths 64, 128 in colour, 64": nb11,
    "12 the same U-Net with a mixture, 128 at a time": nb12,
}


def main() -> None:
    if len(sys.argv) > 1:
        part = PARTS[sys.argv[1]]
        pictures()
        before = runtime.memory_gb(torch.device("cpu"))
        part()
        print(runtime.memory_gb(torch.device("cpu")) - before)
        return
    for name in PARTS:
        command = [sys.executable, "-m", "authoring.benchmarks.full_memory", name]
        done = subprocess.run(
            command, env=os.environ | {"COURSE_DATA": "embedded"}, capture_output=True, text=True, check=True
        )
        print(f"{name:<48}{float(done.stdout.splitlines()[-1]):.1f} GB", flush=True)


if __name__ == "__main__":
    main()
