"""FD against evaluations of the network, for every sampler, and how cost grows with pictures, steps and width.

    python tests/benchmarks/ddpm_steps.py [--chain]

Uses the diffusion model that the course ships, with guidance 2. `--chain` adds the 1,000-step ancestral chain, without
which it takes about half an hour on two cores, and with which several hours.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import torch
from safetensors.torch import load_file

from course_utils import data, metrics, runtime, training
from course_utils.lessons import nb04_diffusion_math as nb04
from course_utils.lessons import nb05_ddpm_from_scratch as nb05

DATASET = "fashion_mnist"
SCHEDULE = nb04.Schedule.named("cosine", nb05.T)
RUNS = [
    *[("DDIM", nb04.ddim_step, steps) for steps in (5, 10, 20, 50)],
    *[("DDIM, eta 1", partial(nb04.ddim_step, eta=1.0), steps) for steps in (10, 50)],
    *[("Heun", nb04.heun_step, steps) for steps in (5, 10)],
    *[("DPM-Solver++(2M)", nb04.dpmpp_2m_step, steps) for steps in (5, 7, 10, 14, 20, 50)],
    *[("ancestral", nb04.ancestral_step, steps) for steps in (10, 20, 50, 100)],
]
CHAIN = [("ancestral", nb04.ancestral_step, 1000)]


def shipped() -> torch.nn.Module:
    pictures = torch.zeros(nb05.NULL * 64, 1, 28, 28)  # of the right shapes only: the weights replace what is fitted
    empty = nb05.MixtureDenoiser(pictures, torch.arange(len(pictures)) % nb05.NULL)
    net = nb05.HeadStart(nb05.UNet(n_in=2), empty, SCHEDULE)
    state = load_file(data.ASSETS / f"{DATASET}_ddpm.safetensors")
    net.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in state.items()})
    return net.eval().to(memory_format=torch.channels_last)


def training_step(net: torch.nn.Module, n: int = 32) -> None:
    """Forwards and backwards once for n pictures of noise."""
    x, t, label = torch.randn(n, 1, 28, 28), torch.randint(nb05.T, (n,)), torch.randint(nb05.NULL, (n,))
    nb05.diffusion_loss(net, x, label, t, torch.randn_like(x), SCHEDULE).backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chain", action="store_true")
    parser.add_argument("--samples", type=int, default=metrics.MIN_SAMPLES)
    options = parser.parse_args()
    runtime.start(0)
    net, y = shipped(), torch.arange(options.samples) % 10
    print(f"{'sampler':<20}{'steps':>7}{'calls':>7}  {metrics.Report.head(0)}  seconds")
    for name, step, steps in RUNS + (CHAIN if options.chain else []):
        begin = time.perf_counter()
        pictures = nb05.generate(net, SCHEDULE, y, steps, 2.0, step, torch.Generator().manual_seed(0))
        spent = time.perf_counter() - begin
        calls = 2 * steps * (2 if name == "Heun" else 1)
        print(
            f"{name:<20}{steps:>7}{calls:>7}  {metrics.evaluate(pictures, DATASET).row('', 0)}{spent:>9.0f}", flush=True
        )
    print("\npictures at once, seconds for ten guided steps:")
    for n in (1, 4, 16, 64, 256):
        took = runtime.seconds(lambda n=n: nb05.generate(net, SCHEDULE, torch.arange(n) % 10), repeats=3)
        print(f"{n:>6}{took:>9.2f}", flush=True)
    print("\nwidths, weights, seconds for a training step of 32:")
    for widths in ((16, 32), (32, 64), (64, 128), (128, 256)):
        unet = nb05.UNet(widths).to(memory_format=torch.channels_last)
        took = runtime.seconds(partial(training_step, unet), repeats=3)
        print(f"{widths!s:>12}{training.parameters(unet):>12,}{took:>9.3f}", flush=True)


if __name__ == "__main__":
    main()
