"""How notebook 08's assets were made (`python -m authoring.assets medical_gan|medical_diffusion|medical_control|
medical_use|medical_ablation`): networks trained for longer than the notebook does, one trained too long on few
people, and tables. `brains` makes the brains of course_utils.brains and `medical_brain` the network that learnt one.
"""

from __future__ import annotations

import datetime
import gzip
import json
import math
import os
import struct
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from authoring.packing import compressed, store
from course_utils import brains, data, phantoms, runtime
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
    store("medical_gan.safetensors.xz", ema.module)


def make_diffusion() -> None:
    """Two trainings, the second from the first one's average; about nine minutes of one core with bfloat16."""
    run = runtime.start(seed=0)
    net = nb08.make_denoiser_net().to(run.device)
    ema = nb08.train_diffusion(
        net, *phantoms.cohort("train"), num_steps=DIFFUSION_STEPS, autocast=run.autocast, watch=said
    )
    store("medical_diffusion.safetensors.xz", ema.module)
    continue_diffusion()


def continue_diffusion() -> None:
    """The second training, from the stored weights."""
    run = runtime.start(seed=1)
    net = nb08.make_denoiser_net().to(run.device)
    net.load_state_dict(data.weights("medical_diffusion"))
    ema = nb08.train_diffusion(
        net, *phantoms.cohort("train"), num_steps=MORE_STEPS, lr=1.5e-3, autocast=run.autocast, watch=said
    )
    store("medical_diffusion.safetensors.xz", ema.module)


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
    settings += [(f"real + {name}", n, [(pictures, wanted)]) for name, pictures in made.items() for n in REAL_SIZES]
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
    """A stored table of notebook 08: about two minutes of one core. Needs the networks above."""
    torch.set_num_threads(1)
    write_rows("medical_use.json", usefulness())


def write_rows(file_name: str, rows: list[dict]) -> None:
    """Rows of a stored table with today's date, one a line."""
    lines = ",\n".join(json.dumps(row | {"date": datetime.date.today().isoformat()}) for row in rows)
    write(data.ASSETS / file_name, f"[\n{lines}\n]\n".encode())


# --- brains ---------------------------------------------------------------------------------------------------

MNI = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"  # nilearn 0.14's names, and those of Debian's mricron-data
BRAINS = {"mni152": MNI.format("t1"), "grey": MNI.format("gm"), "white": MNI.format("wm")}
BRAINS |= {"colin27": "ch2bet.nii.gz", "macaque": "inia19-t1-brain.nii.gz"}
MACAQUE_STEP, MACAQUE_CENTRE = 1.3, (0.0, -6.0, 0.0)
BRAIN_STEPS = 1600


def read_nifti(path: Path) -> tuple[Tensor, list[float], float]:
    """The volume (X, Y, Z) of a plain NIfTI file, with axes along x, y and z, the first voxel's place, and the step."""
    content = gzip.decompress(path.read_bytes())
    shape, kind = struct.unpack_from("<3h", content, 42), struct.unpack_from("<h", content, 70)[0]
    rows = [struct.unpack_from("<4f", content, 280 + 16 * row) for row in range(3)]
    step = rows[0][0]
    if any(abs(rows[i][j] - step * (i == j)) > 1e-4 for i in range(3) for j in range(3)):
        raise SystemExit(f"{path.name} is turned or has unequal voxels.")
    pixels = np.frombuffer(content, {2: np.uint8, 16: np.float32}[kind], math.prod(shape), 352)
    volume = torch.tensor(pixels.reshape(shape, order="F").astype(np.float32))
    return volume, [row[3] for row in rows], step


def on_the_grid(path: Path, step: float, centre: tuple[float, ...]) -> Tensor:
    """A volume averaged over voxels of `step` mm, about, and sampled on a grid of them, (64, 64, 64)."""
    found, first, fine = read_nifti(path)
    window = 2 * round(step / fine / 2) + 1
    found = F.avg_pool3d(found[None, None], window, 1, window // 2)
    ticks = (torch.arange(brains.SIDE) - (brains.SIDE - 1) / 2) * step
    at = [2 * (ticks + c - f) / fine / (n - 1) - 1 for c, f, n in zip(centre, first, found.shape[2:])]
    grid = torch.stack(torch.meshgrid(*at, indexing="ij"), dim=-1).flip(-1)
    return F.grid_sample(found, grid[None], align_corners=True)[0, 0]


def make_brains() -> None:
    """Needs the folder named by COURSE_BRAINS, with the files of BRAINS: three out of nilearn's wheel (in
    nilearn/datasets/data), two out of Debian's package mricron-data (in /usr/share/mricron/templates).
    """
    folder = os.environ.get("COURSE_BRAINS")
    if not folder:
        raise SystemExit(f"Set COURSE_BRAINS to a folder with {', '.join(BRAINS.values())}.")
    found = {}
    for name, file in BRAINS.items():
        mine = (MACAQUE_STEP, MACAQUE_CENTRE) if name == "macaque" else (brains.STEP, brains.CENTRE)
        volume = on_the_grid(Path(folder) / file, *mine)
        if name in ("grey", "white"):
            scale = 255.0
        else:  # 0.9 is a brightness that one voxel of a hundred in the brain exceeds
            scale = volume[volume > 0.1 * volume.max()].quantile(0.99).item() / 0.9
        found[name] = (255 * volume / scale).round().clamp(0, 255).byte()
    write(data.ASSETS / "brains.safetensors.xz", compressed(found))


def make_brain() -> None:
    """The network that learnt MNI152 alone, without the slabs held out; about four minutes of one core."""
    run = runtime.start(seed=0)
    net = nb08.make_brain_net().to(run.device)
    ema = nb08.train_brain(net, num_steps=BRAIN_STEPS, batch_size=8, autocast=run.autocast, watch=said)
    store("medical_brain.safetensors", ema.module)


# --- what projection and regressor buy ------------------------------------------------------------------------

ABLATION_STEPS, ABLATION_BATCH, ABLATION_PEOPLE = 400, 16, 300


class WithoutProjection(nb08.ClinicalDiscriminator):
    """The discriminator whose score does not see the request."""

    def forward(self, x: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)  # (N, 128)
        return self.score(h)[:, 0], self.numbers(h)


def ablated(projection: bool, regressor: bool, seed: int) -> dict[str, float]:
    """Errors of a GAN trained with or without each part, and the slopes of found against asked."""
    run = runtime.start(seed=seed)
    generator = nb08.ClinicalGenerator().to(run.device)
    discriminator = (nb08.ClinicalDiscriminator if projection else WithoutProjection)().to(run.device)
    ema = nb08.train_clinical(
        generator,
        discriminator,
        *phantoms.cohort("train"),
        num_steps=ABLATION_STEPS,
        batch_size=ABLATION_BATCH,
        auxiliary=5.0 if regressor else 0.0,
        ema_decay=0.99,
        autocast=run.autocast,
    ).eval()
    rng = torch.Generator().manual_seed(31 + seed)
    wanted = phantoms.draw_parameters(ABLATION_PEOPLE, rng)
    found = nb08.measure(nb08.sample_gan(ema, wanted, rng))
    row = nb08.errors(found, wanted)
    for name, asked, read in (("radius", 0, 2), ("contrast", 3, 3)):
        pair = torch.cov(torch.stack([wanted[:, asked], found[:, read]]))
        row[f"slope of {name}"] = (pair[0, 1] / pair[0, 0]).item()
    return {key: round(value, 4) for key, value in row.items()}


def make_ablation() -> None:
    """Short trainings, the same steps and people for all four kinds: twelve take about fifteen minutes of one core.

    What is there is stored after each. The table that ships was stopped after seven: two seeds, and one with neither.
    """
    torch.set_num_threads(1)
    phantoms.cohort("train")
    rows = []
    for seed in SEEDS:
        for projection in (True, False):
            for regressor in (True, False):
                start = time.process_time()
                row = {
                    "projection": projection,
                    "regressor": regressor,
                    "seed": seed,
                    "steps": ABLATION_STEPS,
                    "batch_size": ABLATION_BATCH,
                }
                rows.append(row | ablated(projection, regressor, seed))
                print(rows[-1], f"{time.process_time() - start:.0f} s", flush=True)
                write_rows(
                    "medical_ablation.json", sorted(rows, key=lambda row: (-row["projection"], -row["regressor"]))
                )
