"""How notebook 11's emoji were made, and the colour model trained on them for longer
(`python -m authoring.assets emoji|emoji_ddpm`).

`emoji` needs resvg-py (a wheel) and, in the folder named by COURSE_NPM_EMOJI, what these commands put there:

    npm pack @iconify-json/noto@1.2.9 @iconify-json/fluent-emoji-flat@1.2.6 @iconify-json/twemoji@1.2.5
    npm pack @iconify-json/emojione@1.2.3 emoji-datasource@16.0.0

`python -m authoring.emoji 64 FOLDER` draws the same things with 64 x 64 pixels into FOLDER, in which
`emoji.emoji("train", folder=FOLDER)` finds them.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from authoring.packing import store
from course_utils import data, emoji, training
from course_utils.files import write

PACKAGES = {"noto": "noto", "fluent": "fluent-emoji-flat", "twemoji": "twemoji", "emojione": "emojione"}
OVERSAMPLING = 4  # drawn at so many times the size, then reduced: a mean over each square
LEFT_OUT = {"Flags", "Component"}  # flags are rectangles of their own; components are skin tones and hair
TEST_SHARE = 10  # of every ten things of a group one is kept for testing
STEPS, BATCH, WIDTHS = 14_000, 32, (64, 128)
HANDS_DRAFT = Path(__file__).with_name("drafts") / "emoji_hands.safetensors"


# --- the pictures -------------------------------------------------------------------------------------------


def member(folder: Path, pattern: str, name: str) -> object:
    """A JSON file out of an npm package that `npm pack` fetched."""
    found = sorted(folder.glob(f"{pattern}-[0-9]*.tgz"))
    if not found:
        raise SystemExit(f"{pattern} is missing in {folder}: fetch it with `npm pack` as authoring/emoji.py says.")
    with tarfile.open(found[-1]) as archive:
        return json.load(archive.extractfile(f"package/{name}"))


def entry(icons: dict, name: str) -> dict | None:
    """An icon by its name, or by a plain alias of it; None if there is none."""
    if name in icons["icons"]:
        return icons["icons"][name]
    alias = icons.get("aliases", {}).get(name)
    return entry(icons, alias["parent"]) if alias and set(alias) == {"parent"} else None


def svg(icons: dict, name: str) -> str:
    """A whole SVG file of one icon."""
    icon = entry(icons, name)
    box = {key: icon.get(key, icons.get(key, default)) for key, default in (("width", 16), ("height", 16))}
    view = f"{icon.get('left', 0)} {icon.get('top', 0)} {box['width']} {box['height']}"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} width="{box["width"]}" height="{box["height"]}" viewBox="{view}">{icon["body"]}</svg>'


def drawn(icons: dict, name: str, size: int) -> Image.Image:
    """One icon on white, size x size."""
    import resvg_py

    side = OVERSAMPLING * size
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg(icons, name), width=side, height=side))
    picture = Image.open(io.BytesIO(png)).convert("RGBA").resize((side, side), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return white.convert("RGB").reduce(OVERSAMPLING)


def groups_of(folder: Path, chars: dict[str, str]) -> dict[str, str]:
    """The group of each name, such as "Animals & Nature": by the code points that stand for it."""
    by_code = {}
    for about in member(folder, "emoji-datasource", "emoji.json"):
        for key in ("unified", "non_qualified"):
            if about[key]:
                by_code[about[key].lower()] = about["category"]
    return {name: by_code[code] for code, name in chars.items() if code in by_code}


def things(folder: Path, sets: dict[str, dict]) -> Iterator[tuple[str, str]]:
    """(name, group) of every thing that all hands drew under the same name, by name."""
    groups: dict[str, str] = {}
    for package in PACKAGES.values():
        groups = groups_of(folder, member(folder, f"iconify-json-{package}", "chars.json")) | groups
    for name in sorted({name for icons in sets.values() for name in (*icons["icons"], *icons.get("aliases", {}))}):
        if all(entry(icons, name) for icons in sets.values()) and groups.get(name, "Flags") not in LEFT_OUT:
            yield name, groups[name]


def make_emoji(size: int = 32, target: Path = emoji.FOLDER) -> None:
    """Draw all things in four hands and pack them: a sheet a hand in lossless WebP, and things.json."""
    named = os.environ.get("COURSE_NPM_EMOJI")
    if not named:
        raise SystemExit("Set COURSE_NPM_EMOJI to a folder with the npm packages that authoring/emoji.py names.")
    folder = Path(named)
    sets = {hand: member(folder, f"iconify-json-{package}", "icons.json") for hand, package in PACKAGES.items()}
    chosen = list(things(folder, sets))
    groups = sorted({group for _, group in chosen})
    rng, test = torch.Generator().manual_seed(0), set()
    for group in groups:
        members = [name for name, other in chosen if other == group]
        order = torch.randperm(len(members), generator=rng)[: round(len(members) / TEST_SHARE)]
        test |= {members[i] for i in order.tolist()}
    about = {
        "size": size,
        "columns": emoji.COLUMNS,
        "groups": groups,
        "things": [[name, groups.index(group), int(name in test)] for name, group in chosen],
    }
    write(target / "things.json", json.dumps(about, ensure_ascii=False, separators=(",", ":")) + "\n")
    rows = -(-len(chosen) // emoji.COLUMNS)
    for hand, icons in sets.items():
        sheet = Image.new("RGB", (emoji.COLUMNS * size, rows * size), "white")
        for i, (name, _) in enumerate(chosen):
            sheet.paste(drawn(icons, name, size), (i % emoji.COLUMNS * size, i // emoji.COLUMNS * size))
        buffer = io.BytesIO()
        sheet.save(buffer, "WEBP", lossless=True, quality=100, method=6)
        write(target / f"{hand}.webp", buffer.getvalue())
        print(f"{hand}: {len(chosen)} things, {len(buffer.getvalue()) / 1e6:.2f} MB", flush=True)


# --- the model ----------------------------------------------------------------------------------------------


def make_emoji_ddpm(steps: int = STEPS) -> None:
    """Notebook 05's network on all training emoji, by group and hand; goes on where a killed run was.

    About 75 minutes on one core of a server. What is shipped was trained in four goes, in bfloat16: over the first
    7,000 steps the rate fell to 0, then it rose again, and it fell to 0 at the end. The folder of the checkpoint is
    COURSE_CHECKPOINTS, else build/.
    """
    from course_utils.lessons import nb04_diffusion_math as nb04
    from course_utils.lessons import nb05_ddpm_from_scratch as nb05

    mirrors = torch.tensor([group in emoji.MIRRORS for group in emoji.emoji("train").groups])
    file = Path(os.environ.get("COURSE_CHECKPOINTS", "build")) / "emoji_ddpm.pt"
    torch.manual_seed(0)
    pictures, schedule = emoji.emoji("train"), nb04.Schedule.named("cosine", nb05.T)
    unet = nb05.UNet(WIDTHS, channels=3, classes=len(pictures.classes), size=32)
    net = nb05.Preconditioned(unet, schedule, pictures.x.mean().item(), pictures.x.std().item())
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0)
    ema, weights, done = training.EMA(net, 0.9995), nb05.timestep_weights(schedule), 0
    if file.exists():
        done = training.load_checkpoint(file, net=net, optimiser=optimiser, ema=ema)["step"]
        print(f"goes on after step {done}", flush=True)
    begin, losses = time.perf_counter(), []
    for step in range(done, steps):
        torch.manual_seed(step)  # so that a run that was killed draws the same as one that was not
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 100, 2 * (1 - step / steps))
        index = torch.randint(len(pictures), (BATCH,))
        x0, y = pictures.x[index], nb05.drop_labels(pictures.y[index], 0.1, unet.null)
        turned = mirrors[pictures.group[index]] & (torch.rand(BATCH) < 0.5)
        x0 = torch.where(turned[:, None, None, None], x0.flip(-1), x0)
        t = nb05.sample_timesteps(weights, BATCH)
        with torch.autocast("cpu", torch.bfloat16, enabled=os.environ.get("COURSE_PRECISION") == "bfloat16"):
            loss = nb05.diffusion_loss(net, x0, y, t, torch.randn_like(x0), schedule)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        ema.update_parameters(net)
        losses.append(loss.item())
        if (step + 1) % 250 == 0:
            training.save_checkpoint(file, step + 1, net=net, optimiser=optimiser, ema=ema)
            mean = sum(losses[-250:]) / len(losses[-250:])
            print(f"step {step + 1}: loss {mean:.4f}, {time.perf_counter() - begin:.0f} s", flush=True)
    store("emoji_ddpm.safetensors.xz", ema.module.unet)


# --- draft: a picture in another hand ---------------------------------------------------------------------


def with_given(unet: nn.Module, schedule: Any, mean: float, std: float) -> nn.Module:
    """Notebook 05's preconditioned network with a second picture in, zeros where there is none: `net(x, t, y, given)`.

    `unet` has as many `extra` channels as the pictures have.
    """
    from course_utils.lessons import nb04_diffusion_math as nb04
    from course_utils.lessons import nb05_ddpm_from_scratch as nb05

    class WithGiven(nb05.Preconditioned):
        def forward(self, x: Tensor, t: Tensor, y: Tensor, given: Tensor) -> Tensor:
            level = self.schedule.level(t)
            alpha, sigma = nb04.like(level.alpha, x), nb04.like(level.sigma, x)
            c_skip, c_out = (nb04.like(c, x) for c in nb05.preconditioning(level, self.std))
            c_in = (alpha**2 * self.std**2 + sigma**2) ** -0.5
            centred = x - alpha * self.mean
            correction = self.unet(torch.cat([c_in * centred, given], 1), t, y)
            return (alpha * x - self.mean - c_skip * centred - c_out * correction) / sigma

    return WithGiven(unet, schedule, mean, std)


def make_emoji_hands(steps: int = 8000) -> None:
    """The shipped emoji model, trained on with the same thing in another hand beside it; writes HANDS_DRAFT.

    Not an asset yet: no notebook uses it. What lies there was trained in two goes, 1,500 steps at the full rate and
    6,525 whose rate fell to 0, in bfloat16; authoring/trials/nb06.md has its figures. Three of five questions have a
    picture that is given; the others are those of `make_emoji_ddpm`, so that the network still draws without one.
    """
    from course_utils.lessons import nb04_diffusion_math as nb04
    from course_utils.lessons import nb05_ddpm_from_scratch as nb05
    from course_utils.lessons import nb12_two_minutes as nb12

    torch.manual_seed(0)
    known, schedule = emoji.emoji("train"), nb04.Schedule.named("cosine", nb05.T)
    x, y = known.x.unflatten(0, (-1, len(emoji.HANDS))), known.y.unflatten(0, (-1, len(emoji.HANDS)))
    mirrors = torch.tensor([known.groups[group] in emoji.MIRRORS for group in known.group[:: len(emoji.HANDS)]])
    unet = nb05.UNet(WIDTHS, channels=3, classes=len(known.classes), size=32, extra=3)
    state = data.weights("emoji_ddpm")
    stem = state["stem.weight"]
    state["stem.weight"] = torch.cat([stem, torch.zeros_like(stem)], 1)  # what is given has no say at first
    unet.load_state_dict(state)
    net = with_given(unet, schedule, known.x.mean().item(), known.x.std().item())
    optimisers = nb12.make_optimisers(unet)
    rates = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda s: 0.7 * min(1, (s + 1) / 100, 1.5 * (1 - s / steps)))
        for o in optimisers
    ]
    ema, weights, losses = training.EMA(net, 0.999), nb05.timestep_weights(schedule), []
    for step in range(steps):
        thing, a = torch.randint(len(x), (BATCH,)), torch.randint(len(emoji.HANDS), (BATCH,))
        b = (a + torch.randint(1, len(emoji.HANDS), (BATCH,))) % len(emoji.HANDS)
        both = torch.cat([x[thing, a], x[thing, b]], 1)
        turned = mirrors[thing] & (torch.rand(BATCH) < 0.5)
        both = torch.where(turned[:, None, None, None], both.flip(-1), both)
        asked = torch.rand(BATCH) < 0.6
        i, j = torch.where(asked, torch.randint(5, (2, BATCH)), 2)  # these move by up to two pixels, both alike
        padded = F.pad(both, (2, 2, 2, 2), value=1.0)
        both = torch.stack([part[:, k : k + 32, m : m + 32] for part, k, m in zip(padded, i, j)])
        given, x0 = both[:, :3] * asked[:, None, None, None], both[:, 3:]
        labels = nb05.drop_labels(y[thing, b], 0.1, unet.null)
        t, noise = nb05.sample_timesteps(weights, BATCH), torch.randn_like(x0)
        x_t, target = (
            nb04.add_noise(x0, noise, schedule.level(t)),
            nb05.output_from("v", x0, noise, schedule.level(t)),
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=os.environ.get("COURSE_PRECISION") == "bfloat16"):
            out = net(x_t, t, labels, given)
        loss = F.mse_loss(out.float(), target)
        net.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for optimiser, rate in zip(optimisers, rates):
            optimiser.step()
            rate.step()
        ema.update_parameters(net)
        losses.append(loss.item())
        if (step + 1) % 250 == 0:
            print(f"step {step + 1}: loss {sum(losses[-250:]) / 250:.4f}", flush=True)
    state = {name: value.half() for name, value in ema.module.unet.state_dict().items()}
    HANDS_DRAFT.parent.mkdir(exist_ok=True)
    save_file(state, HANDS_DRAFT)


if __name__ == "__main__":
    make_emoji(int(sys.argv[1]), Path(sys.argv[2]))
