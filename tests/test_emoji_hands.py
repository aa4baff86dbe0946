"""Emoji in another hand: prompts, the two tasks of one network, and measures that know the truth."""

import re

import pytest
import torch
from diffusers import StableDiffusionPipeline

from authoring import emoji_latent as making
from authoring import latent
from course_utils import emoji, emoji_hands
from course_utils.latent import token_ids
from course_utils.lessons import nb12_two_minutes as nb12

TRAIN, TEST = emoji.emoji("train"), emoji.emoji("test")
WORDS = emoji_hands.vocabulary(TRAIN.names, TRAIN.groups)
TOKENIZER = latent.build_tokenizer(WORDS, making.LENGTH)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- prompts ------------------------------------------------------------------------------------------------


def test_a_prompt_says_what_is_given() -> None:
    assert emoji_hands.prompt("dog-face", "Animals & Nature", "noto") == "dog face, animals, noto"
    assert emoji_hands.prompt(hand="fluent") == "fluent"
    assert emoji_hands.prompt() == ""


def test_every_word_of_the_training_names_is_a_token_and_no_prompt_is_cut() -> None:
    unknown = TOKENIZER.unk_token_id
    for name in set(TRAIN.names):
        ids = TOKENIZER(emoji_hands.prompt(name, "Food & Drink", "emojione")).input_ids
        assert unknown not in ids
        assert len(ids) <= making.LENGTH
    assert TOKENIZER.tokenize("dog face, food, noto") == [
        "dog</w>",
        "face</w>",
        ",</w>",
        "food</w>",
        ",</w>",
        "noto</w>",
    ]


def test_one_hand_of_every_ninth_thing_is_left_out() -> None:
    cells = emoji_hands.left_out(948)
    assert cells.sum() == 948 // 9 and cells.sum(1).max() == 1
    assert cells.sum(0).min() >= 26


# --- training -----------------------------------------------------------------------------------------------


def test_variants_change_all_hands_of_a_thing_alike_and_keep_white() -> None:
    x = making.by_thing(TEST)[:6]
    same = making.varied(x, torch.zeros(6, dtype=torch.bool), seeded(), torch.zeros(6, dtype=torch.bool))
    for old, new in zip(x, same):
        moved = [(i, j) for i in range(-2, 3) for j in range(-2, 3) if close(old, new, i, j)]
        assert moved, "moved by at most two pixels, in all hands alike"
    changed = making.varied(x, torch.ones(6, dtype=torch.bool), seeded(1), torch.ones(6, dtype=torch.bool))
    assert changed.shape == x.shape and changed.max() == 1
    grey = x.mean(2, keepdim=True).expand_as(x)
    turned = making.varied(grey, torch.zeros(6, dtype=torch.bool), seeded(2), torch.ones(6, dtype=torch.bool))
    assert torch.allclose(turned[:, :, 0], turned[:, :, 2])


def close(old: torch.Tensor, new: torch.Tensor, i: int, j: int) -> bool:
    inner = slice(4, 28)
    return torch.equal(old.roll((i, j), (-2, -1))[..., inner, inner], new[..., inner, inner])


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return latent.build_vae((8, 8, 8), channels=3).eval()


def test_standardising_changes_the_latents_and_not_the_pictures(vae) -> None:
    x = TEST.x[:40]
    before = emoji_hands.decode(vae, emoji_hands.encode(vae, x))
    spread = vae.encode(x[:4]).latent_dist.std / emoji_hands.encode(vae, x).std((0, 2, 3)).view(4, 1, 1)
    making.standardise(vae, x)
    latents = emoji_hands.encode(vae, x)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-3
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 1e-3
    assert torch.allclose(emoji_hands.decode(vae, latents), before, atol=1e-4)
    assert torch.allclose(vae.encode(x[:4]).latent_dist.std, spread, rtol=1e-3)


def test_examples_ask_only_for_cells_that_were_seen_and_never_show_the_answer() -> None:
    things, half = 40, 200
    where = torch.arange(things * 4.0).view(1, things, 4, 1, 1, 1)
    latents = where.expand(4, things, 4, 1, 1, 1).clone()  # each says which cell it is
    seen = ~emoji_hands.left_out(things)
    part = emoji.Emoji(**{**vars(TRAIN), "names": TRAIN.names[: 4 * things], "x": TRAIN.x[: 4 * things]})
    ids = making.all_ids(TOKENIZER, part)
    target, given, asked = making.examples(latents, seen, ids, 2 * half, seeded())
    target, given = target.flatten().long(), given.flatten().long()
    assert seen.flatten()[target].all() and seen.flatten()[given[:half]].all()
    assert (target[:half] != given[:half]).all()
    assert torch.equal(target[:half] // 4, given[:half] // 4)
    assert not given[half:].any()
    for row in range(2 * half):
        said = asked[row].tolist()
        thing, hand = divmod(target[row].item(), 4)
        assert said in [ids[kind][thing, hand].tolist() for kind in ("full", "group")] + [
            ids["hand"][hand].tolist(), ids["none"].tolist(),
        ]  # fmt: skip
    silent = (asked == ids["none"]).all(1).float().mean()
    assert 0.05 < silent < 0.16


@pytest.fixture(scope="module")
def pipeline(vae):
    torch.manual_seed(0)
    unet = latent.build_unet((8, 8), channels=4, extra=4)
    return making.assemble(vae, latent.build_text_encoder(TOKENIZER), TOKENIZER, unet)


def test_drawing_from_a_picture_is_what_the_librarys_pipeline_does(pipeline) -> None:
    prompts, noise = ["noto", "dog face, animals, fluent"], torch.randn(2, 4, 8, 8, generator=seeded())
    ours = emoji_hands.draw(pipeline, prompts, seeded(), TEST.x[:2], steps=3, guidance=2.5)
    pictures = pipeline(
        prompts, image=(TEST.x[:2] + 1) / 2, latents=noise, num_inference_steps=3, guidance_scale=2.5,
        image_guidance_scale=1.0, output_type="pt",
    ).images  # fmt: skip
    assert torch.allclose(ours, pictures * 2 - 1, atol=1e-4)


def test_drawing_by_prompt_alone_is_what_the_usual_pipeline_does(pipeline) -> None:
    usual = emoji_hands.by_prompt(pipeline)
    assert isinstance(usual, StableDiffusionPipeline) and usual.unet.config.in_channels == 4
    prompts, noise = ["noto", "dog face, animals, fluent"], torch.randn(2, 4, 8, 8, generator=seeded())
    pictures = usual(prompts, latents=noise, num_inference_steps=3, guidance_scale=2.0, output_type="pt").images
    ours = emoji_hands.draw(pipeline, prompts, seeded(), steps=3, guidance=2.0)
    assert torch.allclose(ours, pictures * 2 - 1, atol=1e-4)


def test_a_killed_training_goes_on_to_the_same_weights(vae, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(making, "UNET_BATCH", 4)
    monkeypatch.setattr(latent, "KEEP_EVERY", 2)
    few = emoji.Emoji(**{key: value[:80] if key in ("x", "y", "names", "group", "hand") else value
                         for key, value in vars(TRAIN).items()})  # fmt: skip
    latents = torch.randn(2, 20, 4, 4, 8, 8, generator=seeded())

    def run(folder, stop: int | None = None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        unet = latent.build_unet((8, 8), channels=4, extra=4)
        if stop is not None:
            monkeypatch.setattr(latent.training, "save_checkpoint", killed_after(stop))
        return making.train_unet(vae, few, 6, folder, unet, latents=latents).unet.state_dict()

    saved = latent.training.save_checkpoint

    def killed_after(step: int):
        def save(path, done, **parts) -> None:
            saved(path, done, **parts)
            if done == step:
                raise KeyboardInterrupt

        return save

    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole = run(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", stop=4)
    monkeypatch.setattr(latent.training, "save_checkpoint", saved)
    resumed = run(tmp_path / "b")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.parametrize("shape", [(3, 16, 72), (2, 40, 12), (1, 8, 8)])
def test_the_quick_muon_takes_the_steps_of_notebook_12(shape) -> None:
    x = torch.randn(shape, generator=seeded())
    assert torch.allclose(making.orthogonalise(x), nb12.orthogonalise(x), atol=1e-4)
    nets = [torch.nn.Linear(6, 9), torch.nn.Linear(6, 9)]
    nets[1].load_state_dict(nets[0].state_dict())
    pair = [kind([net.weight], 0.1) for kind, net in zip((making.Muon, nb12.Muon), nets)]
    for step in range(3):
        for net, optimiser in zip(nets, pair):
            net.zero_grad()
            net(torch.ones(6) * step + 1).square().sum().backward()
            optimiser.step()
    assert torch.allclose(nets[0].weight, nets[1].weight, atol=1e-4)


# --- measures -----------------------------------------------------------------------------------------------


def test_all_twelve_questions_about_each_thing() -> None:
    thing, a, b = emoji_hands.pairs(3)
    assert len(thing) == 36 and (a != b).all()
    assert len({(i, j, k) for i, j, k in zip(thing.tolist(), a.tolist(), b.tolist())}) == 36


def test_distances_and_the_trivial_answers_on_numbers_done_by_hand() -> None:
    known = torch.tensor([[[0.0], [1], [2], [3]], [[10], [11], [12], [13]], [[4], [50], [60], [70]]])  # (3, 4, 1)
    seen = torch.ones(3, 4, dtype=torch.bool)
    given, a, b = torch.tensor([[3.9], [12.4]]), torch.tensor([0, 2]), torch.tensor([1, 3])
    assert emoji_hands.nearest_partner(given, a, b, known, seen).tolist() == [[50], [13]]
    seen[2, 1] = False  # its partner was not seen: the next one
    assert emoji_hands.nearest_partner(given, a, b, known, seen).tolist() == [[1], [13]]
    assert emoji_hands.average(b, known, seen).tolist() == [[6], [pytest.approx(86 / 3)]]
    assert emoji_hands.distance(torch.tensor([[3.0, 4]]), torch.zeros(1, 2)).item() == pytest.approx(12.5**0.5)


def test_the_truth_is_found_and_a_constant_is_not() -> None:
    true = TEST.x.view(-1, 4, 3, 32, 32)
    thing, _, b = emoji_hands.pairs(len(true))
    assert emoji_hands.found(true[thing, b], thing, b, true).mean() == 1
    constant = torch.ones(len(thing), 3, 32, 32)
    assert emoji_hands.found(constant, thing, b, true).mean() == pytest.approx(1 / len(true))


def test_kid_to_a_hand_tells_hands_apart() -> None:
    features, hand = torch.randn(4000, 8, generator=seeded()), torch.arange(4000) // 2 % 4
    features[hand == 0] += 2
    ours, b, real, real_hand = features[::2], hand[::2], features[1::2], hand[1::2]
    right = emoji_hands.kid_to_hands(ours, b, real, real_hand)
    wrong = emoji_hands.kid_to_hands(ours, (b + 2) % 4, real, real_hand)
    assert abs(right) < 0.2 and wrong > 2


def test_the_ruler_gives_the_truth_no_distance_and_white_a_large_one() -> None:
    few = emoji.Emoji(**{key: value[:48] if key in ("x", "y", "names", "group", "hand") else value
                         for key, value in vars(TEST).items()})  # fmt: skip
    ruler, true = making.Ruler(few), making.by_thing(few)
    thing, b = torch.arange(12).repeat_interleave(4), torch.arange(48) % 4
    wanted = ruler.last
    assert ruler.row(few.x, wanted, thing, b, true).startswith("RMS 0.000  features 0.000  found 1.000")
    numbers = re.findall(r"-?\d+\.\d+", ruler.row(torch.ones_like(few.x), wanted, thing, b, true))
    rms, features, found, hand, looks, strokes = map(float, numbers)
    assert rms > 0.5 and features > 0.8 and found < 0.1 and hand == 0.25 and looks > 1 and strokes > 1


def test_the_judges_are_right_more_often_than_chance_on_held_out_emoji() -> None:
    some = slice(0, None, 3)
    seen = emoji_hands.judged(emoji_hands.strokes(TEST.x[some]))
    assert (seen["hand"] == TEST.hand[some]).float().mean() > 0.7
    assert (seen["group"] == TEST.group[some]).float().mean() > 0.55


def test_a_logistic_regression_finds_two_heaps() -> None:
    x = torch.randn(200, 5, generator=seeded())
    y = (torch.arange(200) % 2).long()
    x[y == 1, 3] += 6
    weight, bias = making.linear(x, y, 2, 1e-3)
    assert ((x @ weight.T + bias).argmax(1) == y).float().mean() > 0.98


def test_token_ids_fit_the_text_encoder() -> None:
    assert token_ids(TOKENIZER, ["a", ""]).shape == (2, making.LENGTH)
