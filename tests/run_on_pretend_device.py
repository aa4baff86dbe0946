"""Run the code cells of a notebook's text on the pretend accelerator: python run_on_pretend_device.py TEXT [KIND].

Trainings are cut short, so that claims are noted and need not hold. Prints a line for each cell that raises, and for
each that is left out, since it asks the pretend tensor for what only a real one has.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
import types
import warnings
from pathlib import Path

KIND = sys.argv[2] if len(sys.argv) > 2 else "mps"
SETTINGS = {
    "COURSE_DEVICE": f"{KIND}:0",
    "COURSE_BUDGET": "quick",
    "COURSE_DATA": "embedded",
    "COURSE_CLAIMS": os.devnull,
}
os.environ |= SETTINGS | {"TQDM_DISABLE": "1", "MPLBACKEND": "agg", "HF_HUB_OFFLINE": "1"}
warnings.simplefilter("ignore")

import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from pretend_device import pretend  # noqa: E402
from shortened import shortened  # noqa: E402

# What a real device can and a tensor without storage cannot: save_pretrained, and a C function that asks for its data.
BEYOND = ("invalid python storage", "its data is not allocated yet")


def cells(text: str) -> list[tuple[int, str]]:
    """Code cells with the line where each begins."""
    found, line = [], 1
    for part in re.split(r"(?m)^(?=# %%)", text):
        if part.startswith("# %%") and "[markdown]" not in part.splitlines()[0]:
            found.append((line, part))
        line += part.count("\n")
    return found


def main(source: Path) -> int:
    torch.set_num_threads(1)
    notebook = sys.modules["notebook_on_trial"] = types.ModuleType("notebook_on_trial")  # classes are found in it
    text, space = shortened(source), vars(notebook)
    raised = left_out = 0
    with pretend(KIND, float64=KIND == "cuda"):
        for line, code in cells(text):
            try:
                exec(compile(code, f"cell at line {line}", "exec"), space)
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                first = str(error).splitlines()[0] if str(error) else ""
                place = f"{Path(where.filename).name}:{where.lineno}"
                beyond = any(words in first for words in BEYOND) or (left_out and isinstance(error, NameError))
                left_out += beyond
                raised += not beyond
                word = "LEFT OUT" if beyond else "RAISED"
                print(f"{word}: the cell at line {line}, {place}: {type(error).__name__}: {first}")
    return raised


if __name__ == "__main__":
    sys.exit(min(1, main(Path(sys.argv[1]))))
