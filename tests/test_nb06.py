"""Notebook 06: what it builds for later notebooks."""

from __future__ import annotations

import io
import json
import logging
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import warm
from diffusers import AutoPipelineForImage2Image, DDIMScheduler
from diffusers.utils.logging import get_logger
from hub_standin import HubStandin, tiny_ddpm, tiny_stable_diffusion

from course_utils import latent, training
from course_utils.lessons import nb05_ddpm_from_scratch as nb05
from course_utils.lessons import nb06_diffusers_applications as nb06

ROOT = Path(__file__).resolve().parents[1]


# --- what the notebook builds -------------------------------------------------------------------------------


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def unet() -> nb06.CourseUNet:
    return nb06.course_unet()


@pytest.fixture(scope="module")
def pipe():
    return nb06.prompt_pipelines(torch.device("cpu"), on_hub=False)["course"]


def test_the_network_in_the_library_is_that_of_notebook_05(unet) -> None:
    x, y, t = torch.randn(3, 1, 28, 28, generator=seeded()), torch.tensor([0, 4, 9]), torch.tensor([5, 500, 999])
    net = nb05.pretrained()
    with torch.no_grad():
        torch.testing.assert_close(unet(x, t, y).sample, net(x, t, y), atol=1e-4, rtol=0)
        no_class = net(x, t.fill_(500), torch.full((3,), net.unet.null))
        torch.testing.assert_close(unet(x, 500).sample, no_class, atol=1e-4, rtol=0)
        assert torch.equal(unet(x, 500, y, return_dict=False)[0], unet(x, torch.tensor(500.2), y).sample)


def test_guidance_one_is_the_network_with_the_class(unet) -> None:
    y = torch.tensor([1, 8])
    plain = nb06.sample_with(DDIMScheduler(**nb06.LEVELS), unet, y, 3, 1.0, seeded())
    nearly = nb06.sample_with(DDIMScheduler(**nb06.LEVELS), unet, y, 3, 1.0 + 1e-9, seeded())
    assert plain.shape == (2, 1, 28, 28) and plain.abs().max() <= 1
    torch.testing.assert_close(plain, nearly, atol=1e-3, rtol=0)


def test_a_sheet_has_x_across_and_y_down() -> None:
    sheets = nb06.xyz(lambda x, y, z: torch.full((1, 2, 2), 100.0 * z + 10 * y + x), (1, 2, 3), (4, 5), (6,))
    assert sheets.shape == (1, 2, 3, 1, 2, 2) and sheets[0, 1, 2, 0, 0, 0] == 653


def test_an_unknown_word_is_named(pipe) -> None:
    with pytest.raises(ValueError, match="never saw purple: use words that it knows"):
        nb06.sample_prompts(pipe, ["a purple dress"])
    with pytest.raises(ValueError, match="never saw spotted"):
        nb06.sample_prompts(pipe, ["a dress"], negative="spotted")


def test_a_picture_depends_on_its_seed_and_not_on_its_neighbours(pipe) -> None:
    three = nb06.sample_prompts(pipe, ["a bag", "a coat", "a dress"], steps=2, seed=5, batch_size=2)
    alone = nb06.sample_prompts(pipe, ["a dress"], steps=2, seed=7)
    assert three.shape == (3, 1, 28, 28)
    torch.testing.assert_close(three[2:], alone, atol=1e-4, rtol=0)


def test_the_lora_has_less_than_two_percent_of_the_weights_and_leaves_the_others_alone() -> None:
    pipe = nb06.prompt_pipelines(torch.device("cpu"), on_hub=False)["course"]
    base = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    thin, x = nb06.add_lora(pipe), torch.rand(8, 1, 28, 28, generator=seeded()) * 2 - 1
    assert sum(p.numel() for p in thin) < 0.02 * sum(weight.numel() for weight in base.values())
    losses = nb06.learn_style(pipe, latent.padded(x), ["a bag"] * 8, 3, seeded(), batch_size=4)
    kept = {name.replace(".base_layer", ""): w for name, w in pipe.unet.state_dict().items() if "lora_" not in name}
    assert len(losses) == 3 and kept.keys() == base.keys()
    assert all(torch.equal(kept[name], weight) for name, weight in base.items())
    assert any(name.endswith("lora_B.style.weight") and w.any() for name, w in pipe.unet.state_dict().items())


@contextmanager
def overheard() -> Iterator[io.StringIO]:
    """What the library says meanwhile."""
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    get_logger().addHandler(handler)
    try:
        yield heard
    finally:
        get_logger().removeHandler(handler)


def test_one_message_of_the_library_is_kept_back_and_no_other() -> None:
    with overheard() as heard:
        with nb06.kept_back("as expected"):
            get_logger("diffusers.some.module").warning("this is as expected")
            get_logger("diffusers.some.module").warning("this is news")
        get_logger().warning("and this is as expected")
    assert heard.getvalue().splitlines() == ["this is news", "and this is as expected"]


def test_a_sister_pipeline_shares_its_parts_without_a_warning(pipe) -> None:
    with overheard() as heard:
        other = nb06.sister(AutoPipelineForImage2Image, pipe)
    assert other.unet is pipe.unet and heard.getvalue() == ""


def test_a_merged_model_is_saved_under_its_names_once_the_low_rank_matrices_are_dropped(tmp_path) -> None:
    own = nb06.prompt_pipelines(torch.device("cpu"), on_hub=False)["course"]
    names = set(own.unet.state_dict())
    with torch.no_grad():
        for weight in nb06.add_lora(own):
            weight.normal_(std=0.1, generator=seeded())
    x, states = torch.randn(1, 4, 8, 8, generator=seeded()), torch.zeros(1, 1, own.unet.config.cross_attention_dim)
    with torch.no_grad():
        wanted = own.unet(x, 500, states).sample
    own.fuse_lora()
    assert "conv_in.weight" not in own.unet.state_dict()  # such a file would not be understood
    own.unload_lora_weights()
    assert set(own.unet.state_dict()) == names
    own.unet.save_pretrained(tmp_path)
    with torch.no_grad():
        again = type(own.unet).from_pretrained(tmp_path)(x, 500, states).sample
    torch.testing.assert_close(again, wanted, atol=1e-4, rtol=1e-4)


BIG = """
import json, torch
from course_utils import hub
from course_utils.lessons import nb06_diffusers_applications as nb06

hub.start({})
pipes = nb06.prompt_pipelines(torch.device("cpu"), on_hub=True)
big, x, shoes = pipes["Stable Diffusion 1.5"], torch.rand(3, 1, 28, 28) * 2 - 1, ["a shoe"] * 3
lower = torch.zeros(1, 1, 28, 28)
lower[:, :, 14:] = 1
drawn = nb06.sample_prompts(big, shoes, steps=2, guidance=7.5, negative="a", batch_size=2)
alone = nb06.sample_prompts(big, shoes[2:], steps=2, guidance=7.5, negative="a", seed=2)
landscape = nb06.sample_prompts(big, ["Van Gogh style landscape"] * 2, steps=2, guidance=7.5)
said = {
    "landscape": list(landscape.shape), "type": str(nb06.sister(nb06.AutoPipelineForInpainting, big).unet.dtype),
    "pipelines": list(pipes), "small": [nb06.is_small(pipe) for pipe in pipes.values()], "drawn": list(drawn.shape),
    "alone": (drawn[2:] - alone).abs().max().item(),
    "changed": list(nb06.img2img(big, x, shoes, 0.5, steps=4).shape),
    "filled": list(nb06.inpaint(big, x, lower, shoes, steps=2).shape),
}
thin = nb06.add_lora(big)
draw = torch.Generator().manual_seed(0)
losses = nb06.learn_style(big, torch.rand(4, 3, 16, 16), ["a shoe"] * 4, 3, draw, lr=0.1, batch_size=2)
styled = nb06.sample_prompts(big, shoes, steps=2, guidance=7.5, negative="a", batch_size=2)
said |= {"losses": len(losses), "style": (styled - drawn).abs().max().item()}
print(json.dumps(said))
"""


FIRST_SECTION = """
import jupytext, matplotlib
matplotlib.use("Agg")
for cell in jupytext.read("notebooks/src/06_diffusers_applications.py").cells:
    if cell.cell_type == "code" and "class CourseUNet" in cell.source:
        break
    if cell.cell_type == "code":
        exec(cell.source)
"""


def on_a_hub(hub: HubStandin, home: Path, script: str) -> list[str]:
    """The lines that a new Python prints which takes the stand-in for the hub."""
    environment = hub.environment(home, PYTHONPATH=str(ROOT))
    command = [sys.executable, "-c", script]
    done = warm.run(command, home.parent, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_first_section_runs_on_what_the_hub_gives(tmp_path: Path) -> None:
    with HubStandin(tmp_path / "repositories") as hub:
        tiny_ddpm(hub.folder("google/ddpm-cifar10-32"))
        said = on_a_hub(hub, tmp_path / "home", FIRST_SECTION)
        assert hub.downloads("google/ddpm-cifar10-32")
    assert "hub: answers" in said and any("32 pixels a side" in line for line in said)
    assert "✓ Our sample_loop and DDPMPipeline give the same pictures, bit for bit" in said


@pytest.mark.slow
def test_the_same_functions_run_on_stable_diffusion_from_the_hub(tmp_path: Path) -> None:
    """From a stand-in for the hub, with its classes and random weights: a CPU in CI holds no more."""
    with HubStandin(tmp_path / "repositories") as hub:
        tiny_stable_diffusion(hub.folder(nb06.STABLE_DIFFUSION))
        lines = on_a_hub(hub, tmp_path / "home", BIG)
        assert hub.downloads(nb06.STABLE_DIFFUSION)
    said = json.loads(lines[-1])
    assert lines[0] == "hub: answers"
    assert said["pipelines"] == ["course", "Stable Diffusion 1.5"] and said["small"] == [True, False]
    assert said["drawn"] == said["changed"] == said["filled"] == [3, 3, 16, 16]
    assert said["landscape"] == [2, 3, 16, 16] and said["type"] == "torch.float32"
    assert said["alone"] < 1e-4 and said["losses"] == 3 and said["style"] > 1e-3


def test_the_trainer_goes_on_exactly(tmp_path: Path) -> None:
    x = torch.rand(20, 1, 28, 28, generator=seeded()) * 2 - 1
    trainer = nb06.Trainer(x, 4)
    for _ in range(2):
        trainer.step(batch_size=2)
    other = nb06.Trainer(x, 4, seed=1)
    parts = ("unet", "optimiser", "lr_scheduler", "ema")
    mine = {part: getattr(trainer, part) for part in parts}
    training.save_checkpoint(tmp_path / "half.pt", 2, draw=trainer.draw.get_state(), **mine)
    content = training.load_checkpoint(tmp_path / "half.pt", **{p: getattr(other, p) for p in parts})
    other.draw.set_state(content["draw"])
    for each in (trainer, other):
        for _ in range(2):
            each.step(batch_size=2)
    assert trainer.losses[2:] == other.losses and trainer.losses[0] != trainer.losses[1]
    assert all(torch.equal(a, b) for a, b in zip(trainer.ema.shadow_params, other.ema.shadow_params))


def test_by_hand_is_the_pipeline_and_keeps_to_negative_prompts(pipe) -> None:
    prompts, noise = ["a dark bag", "a coat"], torch.randn(2, 4, 8, 8, generator=seeded())
    wanted, unwanted = nb06.embed(pipe, prompts), nb06.embed(pipe, ["dark"] * 2)
    options = {"num_inference_steps": 4, "guidance_scale": 4.0, "negative_prompt": ["dark"] * 2, "latents": noise}
    theirs = pipe(prompts, output_type="latent", **options).images
    torch.testing.assert_close(nb06.by_hand(pipe, wanted, unwanted, 4, 4.0, noise), theirs, atol=1e-4, rtol=0)


def test_latents_come_back_from_pictures_as_the_autoencoder_makes_them(pipe) -> None:
    x = torch.rand(2, 1, 32, 32, generator=seeded()) * 2 - 1
    back = nb06.decode(pipe, nb06.encode(pipe, x))
    with torch.no_grad():
        torch.testing.assert_close(back, pipe.vae(x).sample.clamp(-1, 1), atol=1e-4, rtol=0)


def test_the_controlnet_draws_what_the_outline_says(pipe) -> None:
    """Its outputs matter, and the pipeline that it was put onto is not changed."""
    control, prompts = nb06.controlled(pipe), ["a bag"] * 2
    assert control.unet is pipe.unet
    before = nb06.sample_prompts(pipe, prompts, steps=2)
    box = torch.zeros(2, 1, 32, 32)
    box[:, :, 8:24, 8:24] = 1
    drawn = nb06.sample_prompts(control, prompts, steps=2, image=box)
    none = nb06.sample_prompts(control, prompts, steps=2, image=box, controlnet_conditioning_scale=0.0)
    torch.testing.assert_close(none, before, atol=1e-4, rtol=0)
    assert (drawn - before).abs().mean() > 0.02


def test_the_shipped_style_loads_onto_the_pipeline_and_changes_it() -> None:
    pipe = nb06.prompt_pipelines(torch.device("cpu"), on_hub=False)["course"]
    before = nb06.sample_prompts(pipe, ["a coat"], steps=2)
    pipe.load_lora_weights(latent.MOSAIC, adapter_name="mosaic")
    assert (nb06.sample_prompts(pipe, ["a coat"], steps=2) - before).abs().mean() > 0.01


def test_kept_attention_sums_to_one_and_changes_nothing(pipe) -> None:
    maps, plain = [], dict(pipe.unet.attn_processors)
    before = nb06.sample_prompts(pipe, ["a coat"], steps=2)
    kept = {name: nb06.KeepsAttention(maps) if "attn2" in name else old for name, old in plain.items()}
    pipe.unet.set_attn_processor(kept)
    after = nb06.sample_prompts(pipe, ["a coat"], steps=2)
    pipe.unet.set_attn_processor(plain)
    torch.testing.assert_close(before, after, atol=1e-4, rtol=0)
    assert maps and all(torch.allclose(part.sum(-1), torch.ones(()), atol=1e-4) for part in maps)


# --- what does not fit together -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> object:
    return nb06.prompt_pipelines(torch.device("cpu"), False)["course"]


X = -torch.ones(3, 1, 28, 28)
TEN_CLASSES = SimpleNamespace(null=10)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda p: nb06.img2img(p, X[:2], ["a bag"] * 2, 0.2, steps=4), "strength of 0.2 leaves none of 4 steps"),
        (lambda p: nb06.img2img(p, X[:2], ["a bag"] * 2, 0.0, steps=4), "strength of 0.0"),
        (lambda p: nb06.img2img(p, X[:2], ["a bag"] * 2, 1.5, steps=4), "strength of 1.5"),
        (lambda p: nb06.img2img(p, X, ["a bag"] * 2, 0.8, steps=4), "3 pictures .* and 2 prompts do not fit"),
        (lambda p: nb06.img2img(p, X[:2], ["a bag"] * 3, 0.8, steps=4), "2 pictures .* and 3 prompts do not fit"),
        (lambda p: nb06.inpaint(p, X, torch.ones(1, 1, 28, 28), ["a bag"] * 2, steps=3), "3 pictures .* and 2 prompts"),
        (lambda p: nb06.inpaint(p, X, torch.ones(2, 1, 28, 28), ["a bag"] * 3, steps=3), r"A mask \(1, 1, 28, 28\)"),
        (lambda p: nb06.sample_prompts(p, [], steps=2), "A list of at least one prompt"),
        (lambda p: nb06.sample_prompts(p, "a bag", steps=2), "A list of at least one prompt"),
        (lambda p: nb06.sample_prompts(p, ["a bag"], steps=0), "At least one step"),
        (lambda p: nb06.sample_with(None, TEN_CLASSES, torch.tensor([11])), "whole numbers"),
        (lambda p: nb06.sample_with(None, TEN_CLASSES, torch.tensor([1]), steps=0), "At least one step"),
        (
            lambda p: nb06.sample_with(None, TEN_CLASSES, torch.tensor([1]), steps=1001),
            "at most 1000 are wanted, not 1001",
        ),
        (
            lambda p: nb06.sample_with(None, TEN_CLASSES, torch.tensor([1]), guidance=math.nan),
            "Guidance is a finite number",
        ),
        (lambda p: nb06.sample_prompts(p, ["a bag"], steps=2.5), "not 2.5"),
        (lambda p: nb06.sample_prompts(p, ["a bag"], steps=-1), "At least one step"),
        (lambda p: nb06.sample_prompts(p, ["a bag"], guidance=math.nan), "Guidance is a finite number"),
        (lambda p: nb06.sample_prompts(p, ["a bag"], guidance=0.0), r"Guidance is 1 \(none\) or more, not 0.0"),
        (lambda p: nb06.sample_prompts(p, ["a bag"], batch_size=0), "At least one picture at a time"),
        (lambda p: nb06.sample_prompts(p, ["a bag", None]), "A list of at least one prompt"),
        (lambda p: nb06.sample_prompts(p, ["a bag"], negative=["a shirt"]), "One negative prompt, a text"),
        (lambda p: nb06.img2img(p, X, ["a bag"] * 3, math.nan), "strength of nan"),
        (lambda p: nb06.img2img(p, X[:0], [], 0.8), "are wanted, not"),
        (
            lambda p: nb06.img2img(p, X.expand(3, 3, 28, 28), ["a bag"] * 3, 0.8),
            r"Pictures \(N, 1, 28, 28\) are wanted",
        ),
        (lambda p: nb06.img2img(p, X.new_zeros(3, 1, 32, 32), ["a bag"] * 3, 0.8), r"Pictures \(N, 1, 28, 28\)"),
        (lambda p: nb06.img2img(p, X * 255, ["a bag"] * 3, 0.8), r"Pictures in \[-1, 1\] are wanted"),
        (lambda p: nb06.img2img(p, X * math.nan, ["a bag"] * 3, 0.8), r"Pictures in \[-1, 1\] are wanted"),
        (lambda p: nb06.inpaint(p, X, torch.full((1, 1, 28, 28), 0.5), ["a bag"] * 3), "A mask is 1 where"),
        (lambda p: nb06.inpaint(p, X, torch.full((1, 1, 28, 28), math.nan), ["a bag"] * 3), "A mask is 1 where"),
        (
            lambda p: nb06.sample_prompts(p, ["a bag"] * 3, image=X, strength=0.8),
            r"image lies in \[0, 1\], not in \[-1.00",
        ),
        (lambda p: nb06.sample_prompts(p, ["a bag"], image=[X]), "image wants a tensor of pictures"),
        (
            lambda p: nb06.sample_loop(None, None, 0, 5, None),
            "At least one picture and one step are wanted, not 0 and 5",
        ),
        (
            lambda p: nb06.sample_loop(None, None, 2, 0, None),
            "At least one picture and one step are wanted, not 2 and 0",
        ),
        (lambda p: nb06.xyz(lambda x, y, z: X[0], [1], [], [1]), "Each axis wants a value at least, not 1, 0 and 1"),
        (lambda p: nb06.Trainer(X.expand(3, 3, 28, 28), 5), r"Pictures \(N, 1, 28, 28\) are wanted"),
        (lambda p: nb06.Trainer(X, 0), "At least one step is wanted, not 0"),
        (lambda p: nb06.Trainer(X, 5).step(batch_size=0), "At least one picture a step is wanted"),
        (lambda p: nb06.learn_style(p, X, ["a bag"] * 4, 5, None), "3 pictures and 4 prompts do not fit"),
        (lambda p: nb06.learn_style(p, X, ["a bag"] * 3, 0, None), "At least one step of one picture"),
        (lambda p: nb06.learn_style(p, X * 255, ["a bag"] * 3, 5, None), r"Pictures in \[-1, 1\] are wanted"),
        (lambda p: nb06.CourseUNet()(X, torch.tensor([1, 2])), "3 pictures want as many timesteps"),
        (lambda p: nb06.CourseUNet()(X, 5, torch.tensor([1])), "3 pictures want as many labels"),
        (lambda p: nb06.CourseUNet()(X, 5, torch.tensor([1, 2, 11])), "whole numbers"),
    ],
)
def test_what_does_not_fit_is_one_sentence_before_anything_is_drawn(small, ask, said) -> None:
    with pytest.raises(ValueError, match=said) as refusal:
        ask(small)
    assert "\n" not in str(refusal.value)


# --- Windows ------------------------------------------------------------------------------------------------

TEXTS = sorted((Path(__file__).resolve().parents[1] / "notebooks" / "src").glob("*.py"))
NOT_ON_WINDOWS = {
    r"TemporaryDirectory\((?!ignore_cleanup_errors=True)": "a mapped file in it cannot be deleted there",
    r"str\([^()]*\.relative_to\([^()]*\)\)": "prints backslashes there: use as_posix",
    r"\bos\.(sep|fork|killpg|setsid|getuid|uname|nice)\b|\bpreexec_fn\b|start_new_session": "is missing there",
    r"\bsignal\.SIG(KILL|ALRM|HUP|USR\d|CHLD)\b|\"fork\"": "is missing there",
    r"torch\.distributed\.run\b|\"torchrun\"": "its store wants libuv, which PyTorch's builds lack there",
    r"[\"'/](tmp|dev/null|dev/shm)/": "is missing there",
}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_no_notebook_does_what_windows_cannot(path: Path) -> None:
    joined = re.sub(r"\(\n\s+", "(", path.read_text("utf-8"))  # calls that the formatter has broken
    code = [line for line in joined.splitlines() if not line.startswith("#")]
    for pattern, why in NOT_ON_WINDOWS.items():
        assert not [line for line in code if re.search(pattern, line)], why


def test_what_windows_cannot_do_is_seen() -> None:
    wrong = (
        "with tempfile.TemporaryDirectory() as folder:", "str(path.relative_to(folder))", "os.killpg(0, 9)",
        "signal.SIGKILL", '"-m", torch.distributed.run', 'Path("/tmp/x")',
    )  # fmt: skip
    for line, pattern in zip(wrong, NOT_ON_WINDOWS, strict=True):
        assert re.search(pattern, line)
