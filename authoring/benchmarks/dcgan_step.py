"""Speed of notebook 02's training step beside a plain convolution of the same size.

    python -m authoring.benchmarks.dcgan_step

Both are counted in floating-point operations by torch's own counter, forward and backward, so that the share says
how much of what this machine's convolutions reach is left after optimiser, BatchNorm, loss and Python.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from course_utils import data, runtime
from course_utils.lessons.nb02_dcgan_training import Discriminator, Generator, init_weights, train

LATENT_DIM, BATCH, STEPS = 64, 64, 200


def operations(function: Callable[[], object]) -> int:
    """Floating-point operations of one call, by torch's counter."""
    counter = FlopCounterMode(display=False)
    with counter:
        function()
    return counter.get_total_flops()


def main() -> None:
    run = runtime.start(0)
    pictures = data.to_unit_range(data.embedded("fashion_mnist", "train")[0]).to(run.device)
    networks = Generator(LATENT_DIM), Discriminator()
    generator, discriminator = (
        network.apply(init_weights).to(run.device, memory_format=torch.channels_last) for network in networks
    )

    def steps(n: int) -> None:
        train(generator, discriminator, pictures, run, num_steps=n, batch_size=BATCH)

    per_step = operations(lambda: steps(1))
    steps(20)
    start = time.perf_counter()
    steps(STEPS)
    runtime.synchronize()
    step_rate = per_step * STEPS / (time.perf_counter() - start)
    print(f"training step: {step_rate / per_step * BATCH:,.0f} images/s, {step_rate / 1e9:.1f} GFLOP/s")

    conv = nn.Conv2d(24, 48, 4, 2, 1).to(run.device)  # the discriminator's second layer
    x = torch.randn(BATCH, 24, 14, 14, device=run.device, requires_grad=True)

    def convolve() -> None:
        with run.autocast():
            y = conv(x)
        y.float().sum().backward()

    conv_rate = operations(convolve) / runtime.seconds(convolve, repeats=50)
    print(f"plain convolution 24 -> 48, 14 x 14: {conv_rate / 1e9:.1f} GFLOP/s")
    print(f"share: {step_rate / conv_rate:.0%}")


if __name__ == "__main__":
    main()
