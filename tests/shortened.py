"""Texts of notebooks with short trainings, for tests that run all cells and ask no claim to hold."""

from __future__ import annotations

from pathlib import Path

# Words of a text and the same with less to do; each must be there once, so that no cut is lost.
CUTS = {
    "01": [('"d_steps": 1000, "gan_steps": 1600', '"d_steps": 20, "gan_steps": 60')],
    "02": [
        ('"num_steps": 2500', '"num_steps": 120'),
        ("SHORT_STEPS = 64, 300", "SHORT_STEPS = 16, 12"),
        ("N_MEASURED = 2048", "N_MEASURED = 300"),
        ("num_steps=150", "num_steps=12"),
        ("2e-3}, num_steps=400", "2e-3}, num_steps=12"),
        ('["networks"], num_steps=300', '["networks"], num_steps=12'),
    ],
    "03": [
        ('"scale": 1,', '"scale": 0.02,'),
        ('"digit_scale": 1}', '"digit_scale": 0.02}'),
        ("num_steps=300", "num_steps=5"),
        ("num_steps=400", "num_steps=5"),
        ("N_MATCHED = 1000", "N_MATCHED = 50"),
    ],
    "04": [('quick={"samples": 100_000}', 'quick={"samples": 2_000}')],
    "05": [
        (
            '"widths": (32, 64), "num_steps": 1200, "batch_size": 32, "samples": 2048',
            '"widths": (8, 16), "num_steps": 20, "batch_size": 4, "samples": 40',
        ),
        ("N_TEST = 40", "N_TEST = 10"),
        ('training.progress(300, "noisy', 'training.progress(3, "noisy'),
        ("made[torch.arange(200)]", "made[torch.arange(40)]"),
    ],
    "07": [
        (
            'quick={"num_feat": 24, "num_block": 3, "num_grow_ch": 12, "l1_steps": 200, "gan_steps": 60}',
            'quick={"num_feat": 24, "num_block": 3, "num_grow_ch": 12, "l1_steps": 3, "gan_steps": 4}',
        ),
        ("TAILOR_STEPS = 150", "TAILOR_STEPS = 3"),
        ("SAMPLING_STEPS = 10", "SAMPLING_STEPS = 2"),
        ("N_AGAIN = 256", "N_AGAIN = 16"),
        ("MEMORY_STEPS = 150", "MEMORY_STEPS = 3"),
    ],
    "08": [
        (
            'quick={"num_steps": 200, "batch_size": 32, "people": 200}',
            'quick={"num_steps": 4, "batch_size": 4, "people": 10}',
        ),
        ("CONTROL_N, PUBLISHED_N = 64, 300", "CONTROL_N, PUBLISHED_N = 8, 8"),
        ("PEOPLE, SLICES, REPEATS = 60, 6, 20", "PEOPLE, SLICES, REPEATS = 8, 3, 2"),
        ("N_BEYOND = 80", "N_BEYOND = 20"),
        ("N_GROUP = 80", "N_GROUP = 6"),
        ("N_BEST = 50", "N_BEST = 6"),
        ("N_SLICES = 60", "N_SLICES = 6"),
        ("N_HIDDEN = 40", "N_HIDDEN = 4"),
        ("READER_STEPS, READER_BATCH = 400, 32", "READER_STEPS, READER_BATCH = 4, 4"),
    ],
    "09": [
        ("N = run.budget.pick(quick=1000, full=2000)", "N = run.budget.pick(quick=100, full=100)"),
        ("FEW = 500", "FEW = 60"),
        ("in_turn = nb05.labels_in_turn(ddpm, 1000)", "in_turn = nb05.labels_in_turn(ddpm, 40)"),
        ("N_CROPS = 160", "N_CROPS = 20"),
        ("N_MARKED = 64", "N_MARKED = 16"),
        ("N_RINGS, N_ATTACKED = 300, 60", "N_RINGS, N_ATTACKED = 20, 6"),
        ("PAYLOADS = (16, 32, 64, 128, 256, 512)", "PAYLOADS = (16, 512)"),
        (
            '"FD": (0, 10), "recall": (0.3, 1), "copy share": (0, 0.6)',
            '"FD": (0, 9999), "recall": (0, 1), "copy share": (0, 0.9)',
        ),
    ],
    "11": [
        (
            'quick={"widths": (32, 64), "num_steps": 900, "gan_steps": 750, "batch_size": 16}',
            'quick={"widths": (16, 32), "num_steps": 6, "gan_steps": 6, "batch_size": 4}',
        ),
        (
            "train, held = mine.train, mine.held",
            "mine = Material(take(mine.train, torch.arange(0, 3792, 40)), take(mine.held, torch.arange(0, 424, 9)),"
            " mine.classes, mine.source)\ntrain, held = mine.train, mine.held",
        ),
        ("N_ASKED = 200", "N_ASKED = 10"),
        ("PHOTO_STEPS = 120", "PHOTO_STEPS = 2"),
        ("OVER_STEPS = 100", "OVER_STEPS = 4"),
        ("SHORT = 12", "SHORT = 8"),
        ("PLACES = 12", "PLACES = 3"),
    ],
    "12": [
        (
            '"widths": (32, 64), "num_steps": 1200, "batch_size": 32, "samples": 2048',
            '"widths": (8, 16), "num_steps": 20, "batch_size": 4, "samples": 40',
        ),
    ],
    "13": [("MORE, MANY = 10, 40, 200", "MORE, MANY = 10, 12, 14")],
    "06": [
        ("quick=50, full=20_000", "quick=6, full=6"),
        ("quick=300, full=4000", "quick=4, full=4"),
        ("N = 400", "N = 20"),
        ("N_FILLED = 60", "N_FILLED = 10"),
        ("N_STYLE = 150", "N_STYLE = 10"),
        ('["a sandal"] * 100', '["a sandal"] * 10'),
    ],
}


def shortened(source: Path) -> str:
    """The text of a notebook with its CUTS.

    Raises:
        AssertionError: the text has changed where a cut is.
    """
    text = source.read_text("utf-8")
    for old, new in CUTS[source.name[:2]]:
        assert text.count(old) == 1, f"{source.name} has {old!r} {text.count(old)} times: mend CUTS."
        text = text.replace(old, new)
    return text
