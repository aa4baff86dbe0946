"""Prompts mean what is measured on pictures, the parts are the library's, and a killed training goes on exactly."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline

from authoring import latent as making
from course_utils import data, latent, prompts, training

STEPS = 6


@pytest.fixture(scope="module")
def pictures() -> data.Images:
    pixels, labels = data.embedded("fashion_mnist", "test")
    return data.Images(data.to_unit_range(pixels), labels.long(), data.info("fashion_mnist").classes, "embedded")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- words --------------------------------------------------------------------------------------------------


def test_the_thresholds_are_those_of_the_training_pictures() -> None:
    pixels, labels = (part[:10_000] for part in data.embedded("fashion_mnist", "train"))
    measures = prompts.measure(data.to_unit_range(pixels))
    textured = torch.isin(labels.long(), torch.tensor(prompts.ASKED_OF["texture"]))
    tone = measures["tone"].quantile(torch.tensor([1 / 3, 2 / 3]))
    contrast = measures["contrast"][textured].quantile(torch.tensor([0.5, 0.8]))
    assert tone.tolist() == pytest.approx(prompts.TONE, abs=0.006)  # 10,000 of the 60,000
    assert contrast.tolist() == pytest.approx(prompts.CONTRAST, abs=0.003)


def test_few_shirts_lie_between_short_and_long_sleeves() -> None:
    pixels, labels = data.embedded("fashion_mnist", "train")
    ratio = prompts.measure(data.to_unit_range(pixels[labels == 6]))["sleeves"]
    low, high = prompts.SLEEVES
    assert ((ratio >= low) & (ratio <= high)).float().mean() < 0.12
    assert (ratio < low).float().mean() > 0.15 and (ratio > high).float().mean() > 0.6


def drawn_shirts() -> torch.Tensor:
    """A plain dark block, a bright one, one with stripes across, one with stripes down, and one of dots."""
    x = torch.full((5, 1, 28, 28), -1.0)
    x[:, :, 2:26, 5:23] = -0.5
    x[1, :, 2:26, 5:23] = 0.8
    x[2, :, 2:26:4, 5:23] = 0.8
    x[2, :, 3:26:4, 5:23] = 0.8
    x[3, :, 2:26, 5:23:4] = 0.8
    x[4, :, 3:25:4, 7:22:4] = 0.8
    return x


def test_drawn_pictures_get_the_words_that_they_were_drawn_for() -> None:
    measured = prompts.measured(drawn_shirts())
    tone, texture = prompts.ADJECTIVES["tone"], prompts.ADJECTIVES["texture"]
    assert [tone[i] for i in measured["tone"][:2]] == ["dark", "bright"]
    assert [texture[i] for i in measured["texture"]] == ["plain", "plain", "striped", "plain", "patterned"]


def test_words_end_with_the_noun_and_only_use_adjectives_that_the_class_has(pictures: data.Images) -> None:
    for described, label in zip(prompts.words(pictures.x[:500], pictures.y[:500]), pictures.y[:500].tolist()):
        *adjectives, noun = described
        assert noun == prompts.NOUNS[label]
        allowed = [word for kind, of in prompts.ADJECTIVES.items() if label in prompts.ASKED_OF[kind] for word in of]
        assert set(adjectives) <= set(allowed)


def test_real_pictures_adhere_to_their_own_captions(pictures: data.Images) -> None:
    x = pictures.x[:1000]
    asked = prompts.captions(x, pictures.y[:1000], seeded())
    marks = prompts.adherence(x, asked)
    assert marks["class"].mean() > 0.9 and not marks["class"].isnan().any()
    for kind in prompts.ADJECTIVES:
        assert marks[kind].nanmean() == 1 and marks[kind].isnan().any()
    others = prompts.adherence(x.roll(1, 0), asked)
    assert others["class"].mean() < 0.2 and others["tone"].nanmean() < 0.6


def test_captions_vary_and_are_fixed_by_the_generator() -> None:
    described = ("dark", "striped", "short-sleeved", "shirt")
    drawn = {prompts.caption(described, seeded(i)) for i in range(200)}
    assert {"a shirt", "a dark striped shirt", "a striped dark shirt", "a striped shirt, dark"} <= drawn
    assert prompts.caption(described, seeded(3)) == prompts.caption(described, seeded(3))
    assert prompts.caption(("ankle boot",)) == "an ankle boot"
    assert all(prompts.asked(prompt)["class"] == 6 for prompt in drawn)


@pytest.mark.parametrize("label, noun", list(enumerate(prompts.NOUNS)))
def test_a_prompt_asks_for_its_class(label: int, noun: str) -> None:
    assert prompts.asked(f"A bright, plain {noun}") == {"class": label, "tone": 1, "texture": 0, "sleeves": -1}


def test_adherence_wants_one_prompt_a_picture() -> None:
    with pytest.raises(ValueError, match="one prompt a picture"):
        prompts.adherence(drawn_shirts(), ["a shirt"])


# --- tokenizer ----------------------------------------------------------------------------------------------


def test_every_word_of_a_caption_is_one_token_and_known() -> None:
    tokenizer = making.build_tokenizer()
    assert len(prompts.WORDS) <= 60
    assert tokenizer.get_vocab() == making.build_tokenizer().get_vocab()
    for noun in prompts.NOUNS:
        prompt = f"an, a {' '.join(sum(prompts.ADJECTIVES.values(), ()))} {noun}"
        assert prompts.unknown_words(prompt) == []
        for word in prompts._split(prompt):
            assert len(tokenizer(word).input_ids) == 3, word  # start, word, end
    assert prompts.unknown_words("A purple T-shirt, size 4") == ["purple", "size", "4"]


def test_pieces_of_unknown_words_mean_unknown() -> None:
    torch.manual_seed(0)
    tokenizer = making.build_tokenizer()
    encoder = making.build_text_encoder(tokenizer).eval()
    making.never_seen(encoder, tokenizer)
    table = encoder.get_input_embeddings().weight
    pieces = tokenizer("purple").input_ids[1:-1]
    assert all(torch.equal(table[piece], table[tokenizer.unk_token_id]) for piece in pieces)
    known = tokenizer("dark bag").input_ids
    assert not any(torch.equal(table[i], table[tokenizer.unk_token_id]) for i in known)


# --- styles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", latent.STYLES.values())
def test_styles_keep_shape_range_and_input_and_change_the_picture(style, pictures: data.Images) -> None:
    x = pictures.x[:50].clone()
    out = style(x)
    assert torch.equal(x, pictures.x[:50])
    assert out.shape == x.shape and out.min() >= -1 and out.max() <= 1
    assert (out - x).abs().mean() > 0.1


def test_an_outline_is_black_where_nothing_changes_and_a_mosaic_keeps_the_brightness(pictures: data.Images) -> None:
    even = torch.linspace(-1, 1, 9).view(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    assert (latent.outline(even) == -1).all()
    torch.testing.assert_close(latent.mosaic(even), even)
    x = pictures.x[:50]
    squares = latent.mosaic(x).unfold(2, 4, 4).unfold(3, 4, 4)
    assert (squares == squares[..., :1, :1]).all()
    torch.testing.assert_close(latent.mosaic(x).mean((1, 2, 3)), x.mean((1, 2, 3)))


# --- the pipeline -------------------------------------------------------------------------------------------


def small_vae():
    return making.build_vae(widths=(8, 8, 8))


def small_unet():
    return making.build_unet(widths=(8, 16))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures: data.Images) -> Path:
    """A pipeline of small parts, trained for a few steps and saved."""
    root = tmp_path_factory.mktemp("latent")
    torch.manual_seed(0)
    x, y = pictures.x[:200], pictures.y[:200]
    vae = making.train_vae(x, x[:10], STEPS, root / "keep", small_vae())
    making.save(making.train_unet(vae, x, y, STEPS, root / "keep", small_unet()), root / "pipeline")
    return root / "pipeline"


@pytest.fixture
def pipeline(folder: Path) -> StableDiffusionPipeline:
    return latent.load(folder)


def test_saved_files_are_float16_and_name_no_path(folder: Path) -> None:
    from safetensors import safe_open

    weights = sorted(folder.rglob("*.safetensors"))
    assert [file.parent.name for file in weights] == ["text_encoder", "unet", "vae"]
    for file in weights:
        with safe_open(file, "pt") as tensors:
            assert {tensors.get_tensor(key).dtype for key in tensors.keys()} <= {torch.float16, torch.int64}, file
    for file in folder.rglob("*.json"):
        text = file.read_text("utf-8")
        assert "name_or_path" not in text and str(folder) not in text, file


def test_the_saved_pipeline_loads_in_float32_and_makes_32_pixels(pipeline: StableDiffusionPipeline) -> None:
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float32}
    assert pipeline.vae_scale_factor == 4
    picture = pipeline("a dark bag", num_inference_steps=2).images[0]
    assert picture.size == (32, 32) and picture.mode == "L"
    drawn = latent.draw(pipeline, ["a bag", "a coat"], seeded(), steps=2)
    assert drawn.shape == (2, 1, 28, 28) and drawn.min() >= -1 and drawn.max() <= 1
    assert torch.equal(drawn, latent.draw(pipeline, ["a bag", "a coat"], seeded(), steps=2))


def test_latents_have_unit_variance_after_scaling(pipeline: StableDiffusionPipeline, pictures: data.Images) -> None:
    mean, std = making.encode(pipeline.vae, pictures.x[:200])
    drawn = mean + std * torch.randn(mean.shape, generator=seeded())
    assert (drawn * pipeline.vae.config.scaling_factor).std() == pytest.approx(1, abs=0.02)


def test_the_tokenizer_comes_back_the_same(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    some = ["a dark, striped T-shirt", "an ankle boot", "purple rain", ""]
    fresh = making.build_tokenizer()
    assert torch.equal(latent.token_ids(pipeline.tokenizer, some), latent.token_ids(fresh, some))
    assert json.loads((folder / "tokenizer/vocab.json").read_text("utf-8")) == fresh.get_vocab()


def test_image_to_image_and_inpainting_take_the_same_parts(pipeline, pictures: data.Images) -> None:
    image = (latent.padded(pictures.x[:2]) + 1) / 2
    options = {"prompt": ["a bag", "a coat"], "num_inference_steps": 4, "output_type": "pt", "generator": seeded()}
    by_image = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    by_mask = StableDiffusionInpaintPipeline(**pipeline.components, requires_safety_checker=False)
    for pipe in (by_image, by_mask):
        pipe.set_progress_bar_config(disable=True)
    assert by_image(image=image, strength=0.5, **options).images.shape == (2, 1, 32, 32)
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., 16:] = 1
    filled = by_mask(image=image, mask_image=mask, height=32, width=32, **options).images
    assert filled.shape == (2, 1, 32, 32)


def test_the_parts_fit_into_four_megabytes() -> None:
    tokenizer = making.build_tokenizer()
    parts = (making.build_vae(), making.build_unet(), making.build_text_encoder(tokenizer))
    assert 2 * sum(training.parameters(part) for part in parts) <= 3.95e6


def test_a_killed_training_goes_on_as_if_nothing_was(tmp_path, pictures, monkeypatch, capsys) -> None:
    monkeypatch.setattr(making, "KEEP_EVERY", 2)
    x = pictures.x[:100]

    def train(folder: Path, seed: int = 0) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return making.train_vae(x, x[:10], 4, folder, small_vae()).state_dict()

    whole = train(tmp_path / "whole")
    real, saved = training.save_checkpoint, []

    def killed(*arguments, **objects) -> None:
        real(*arguments, **objects)
        saved.append(arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(making.training, "save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "halves")
    again = train(tmp_path / "halves", seed=1)
    assert "goes on from step 2" in capsys.readouterr().out and len(saved) == 1
    assert all(torch.equal(again[key], value) for key, value in whole.items())
