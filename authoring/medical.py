"""How notebook 08's assets were made (`python -m authoring.assets medical_gan|medical_diffusion|medical_control|
medical_use`): networks trained for longer than the notebook does, one trained too long on few people, and a table.
"""

from __future__ import annotations

import datetime
import json

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from authoring.packing import store
from course_utils import data, phantoms, runtime
from course_utils.files import write
from course_utils.lessons import nb08_medical_synthesis as nb08

GAN_STEPS, DIFFUSION_STEPS, MORE_STEPS, CONTROL_STEPS = 1800, 2400, 1400, 1200


def make_gan() -> None:
    """About six minutes of one core with bfloat16."""
    run = runtime.start(seed=0)
    generator, discriminator = nb08.ClinicalGenerator(), nb08.ClinicalDiscriminator()
    ema = nb08.train_clinical(
        generator.to(run.device),
        discriminator.to(run.device),
        *phantoms.cohort("train"),
        num_steps=GAN_STEPS,
        autocast=run.autocast,
        watch=said,
    )
    store("medical_gan.safetensors", ema.module)


def make_diffusion() -> None:
    """Two trainings, the second from the first one's average; about nine minutes of one core with bfloat16."""
    run = runtime.start(seed=0)
    net = nb08.make_denoiser_net().to(run.device)
    ema = nb08.train_diffusion(
        net, *phantoms.cohort("train"), num_steps=DIFFUSION_STEPS, autocast=run.autocast, watch=said
    )
    store("medical_diffusion.safetensors", ema.module)
    continue_diffusion()


def continue_diffusion() -> None:
    """The second training, from the stored weights."""
    run = runtime.start(seed=1)
    net = nb08.make_denoiser_net().to(run.device)
    net.load_state_dict(data.weights("medical_diffusion"))
    ema = nb08.train_diffusion(
        net, *phantoms.cohort("train"), num_steps=MORE_STEPS, lr=1.5e-3, autocast=run.autocast, watch=said
    )
    store("medical_diffusion.safetensors", ema.module)


def make_control() -> None:
    """The positive control of the membership attack: a small network trained on 64 people for 300 rounds."""
    run = runtime.start(seed=0)
    net = nb08.make_denoiser_net((16, 32)).to(run.device)
    ema = nb08.train_diffusion(net, *phantoms.cohort("control"), num_steps=CONTROL_STEPS, label_dropout=0.0, watch=said)
    store("medical_control.safetensors", ema.module)


def said(step: int, loss: object, ema: torch.nn.Module) -> None:
    """A line every hundred steps."""
    if step % 100 == 0:
        print(step, loss, flush=True)


# --- tables ---------------------------------------------------------------------------------------------------

LOCATOR_STEPS, BATCH_SIZE, SEEDS = 150, 16, (0, 1, 2)
REAL_SIZES, SYNTHETIC = (10, 40, 160), 400


def locator() -> nn.Module:
    """Pictures (N, 1, 48, 48) to logits (N, 576): in which of 24 x 24 cells the lesion's centre is."""
    return nn.Sequential(
        nn.PixelUnshuffle(2),
        nn.Conv2d(4, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=2, dilation=2),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 1, 1),
        nn.Flatten(),
    )


def cells(parameters: Tensor) -> Tensor:
    """The cell (N,) of 8 mm x 8 mm in which each lesion's centre lies."""
    at = phantoms.place_of(parameters) / (2 * phantoms.PIXEL) + 12
    return (23 - at[:, 1].floor()).long() * 24 + at[:, 0].floor().long()


def found_share(sets: list[tuple[Tensor, Tensor]], seed: int) -> float:
    """The share of the test cohort in which a locator trained on equal parts of `sets` is within 8 mm."""
    torch.manual_seed(seed)
    net = locator()
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    for step in range(LOCATOR_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 5e-3 * min(1, 2 * (1 - step / LOCATOR_STEPS))
        x, wanted = [], []
        for pictures, parameters in sets:
            index = torch.randint(len(pictures), (BATCH_SIZE // len(sets),))
            x.append(pictures[index]), wanted.append(cells(parameters[index]))
        loss = F.cross_entropy(net(torch.cat(x)), torch.cat(wanted))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    pictures, parameters = phantoms.cohort("test")
    with torch.no_grad():
        cell = net(pictures).argmax(dim=1)
    at = torch.stack([cell % 24 - 11.5, 11.5 - cell // 24], dim=1) * 2 * phantoms.PIXEL
    return ((at - phantoms.place_of(parameters)).norm(dim=1) <= 8).float().mean().item()


def usefulness() -> list[dict]:
    """Finding lesions in the test cohort after training on real, on synthetic and on both kinds of pictures."""
    rng, (x, parameters) = torch.Generator().manual_seed(22), phantoms.cohort("validation")
    wanted = phantoms.draw_parameters(SYNTHETIC, rng)
    gan, diffusion = nb08.ClinicalGenerator(), nb08.make_denoiser_net()
    gan.load_state_dict(data.weights("medical_gan")), diffusion.load_state_dict(data.weights("medical_diffusion"))
    made = {
        "GAN": nb08.sample_gan(gan.eval(), wanted, rng),
        "diffusion": nb08.sample_diffusion(diffusion.eval(), wanted, rng),
    }
    settings = [(f"synthetic, {name}", 0, [(pictures, wanted)]) for name, pictures in made.items()]
    for n in (*REAL_SIZES, len(x)):
        settings.append(("real", n, []))
    settings += [("real + GAN", n, [(made["GAN"], wanted)]) for n in REAL_SIZES]
    rows = []
    for name, n, others in settings:
        shares = []
        for seed in SEEDS:  # other people for each seed, where there are enough
            mine = slice(seed * n, (seed + 1) * n) if n < len(x) else slice(None)
            sets = [(x[mine], parameters[mine])] * (n > 0) + others
            shares.append(round(found_share(sets, seed), 4))
        rows.append({"part": "use", "name": name, "real": n, "found": shares})
        print(rows[-1], flush=True)
    return rows


def make_use() -> None:
    """The stored table of notebook 08: about two minutes of one core. Needs the networks above."""
    torch.set_num_threads(1)
    rows = [row | {"date": datetime.date.today().isoformat()} for row in usefulness()]
    lines = ",\n".join(map(json.dumps, rows))
    write(data.ASSETS / "medical_use.json", f"[\n{lines}\n]\n".encode())
