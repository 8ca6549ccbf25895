from __future__ import annotations

import pytest
import torch

from ood_nc import ControlledModel
from ood_nc.deployment import fit_detector
from ood_nc.deployment.blocks import in_blocks
from tests.deployment.conftest import digits, halves

WHITENED = ["mahalanobis", "vim"]
ALSO_WHITENED = ["relative_mahalanobis", "gmm", "ssd", "pnml", "residual"]


def test_every_block_has_one_size_and_no_filling_is_returned() -> None:
    seen = []

    def function(block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(len(block))
        return block.sum(dim=(1, 2, 3)), block[:, 0, 0, :2]

    images = torch.randn(13, 3, 100, 100)
    sums, corners = in_blocks(function, images)
    assert set(seen) == {224 * 224 // 100**2}
    torch.testing.assert_close(sums, images.sum(dim=(1, 2, 3)))
    assert torch.equal(corners, images[:, 0, 0, :2])


def test_no_image_reaches_the_function() -> None:
    assert in_blocks(lambda block: (block.flatten(1).sum(dim=1),), torch.empty(0, 3, 8, 8))[0].shape == (0,)


@pytest.mark.parametrize("name", [*WHITENED, *(pytest.param(name, marks=pytest.mark.slow) for name in ALSO_WHITENED)])
def test_one_image_is_scored_as_in_a_batch(name: str, model: ControlledModel) -> None:
    held_out, fresh = halves(digits("test"))
    detector = fit_detector(model, digits("train"), held_out, detectors=[name], taps=["encoder"])
    batch = torch.stack([detector.transform(fresh.load(index)) for index in range(40)])
    together = detector(batch).scores
    alone = torch.cat([detector(image[None]).scores for image in batch])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=0)
