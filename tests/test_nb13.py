"""What notebook 13 exports, against diffusers and against notebook 04."""

from __future__ import annotations

import pytest
import torch

from course_utils.lessons import nb05_ddpm_from_scratch as nb05
from course_utils.lessons import nb06_diffusers_applications as nb06
from course_utils.lessons import nb13_fast_sampling as nb13


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_capped_levels_stop_where_asked() -> None:
    betas = torch.tensor(nb13.capped_betas(80.0), dtype=torch.float64)
    sigmas = (1 / (1 - betas).cumprod(0) - 1).sqrt()
    assert len(betas) == nb05.T and sigmas.max() == pytest.approx(80, rel=1e-3)
    free = (1 / nb13.DDPMScheduler(**nb06.LEVELS).alphas_cumprod - 1).sqrt()
    torch.testing.assert_close(sigmas[:900].float(), free[:900], rtol=1e-3, atol=1e-5)


def test_a_level_that_cannot_be_and_a_name_that_is_none_are_refused() -> None:
    with pytest.raises(ValueError, match="lies above 0: 0.0 does not"):
        nb13.capped_betas(0.0)
    with pytest.raises(ValueError, match="not 'Eule' and 'trailing'"):
        nb13.make_scheduler("Eule")
    with pytest.raises(ValueError, match="not 'DDIM' and 'karras'"):
        nb13.make_scheduler("DDIM", "karras")


@pytest.mark.parametrize("spacing", nb13.SPACINGS)
def test_ratios_fall(spacing: str) -> None:
    ratios = torch.tensor(nb13.ratios(spacing, 10))
    assert len(ratios) == 10 and (ratios.diff() < 0).all()
    assert ratios[0] <= 80.1 or spacing in ("trailing", "linspace")


def test_the_librarys_karras_levels_are_the_formulas() -> None:
    theirs = torch.tensor(nb13.ratios("Karras", 10))
    torch.testing.assert_close(nb13.karras(10, theirs[-1].item(), 80.0), theirs, rtol=1e-3, atol=0)


def test_two_m_is_diffusers_to_the_rounding_of_its_timesteps() -> None:
    unet, y = nb06.course_unet(), torch.tensor([1, 8])
    ours = nb13.two_m(unet, y, 10, seeded())
    scheduler = nb13.make_scheduler("DPMSolverMultistep")
    theirs = nb06.sample_with(scheduler, unet, y, 10, generator=seeded())
    assert (ours - theirs).square().mean().sqrt() < 0.02
    one = nb13.two_m(unet, y, 1, seeded())
    assert one.shape == (2, 1, 28, 28) and one.abs().max() <= 1
    with pytest.raises(ValueError, match="At least one step"):
        nb13.two_m(unet, y, 0, seeded())
