import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ood_nc.features import small_maps
from ood_nc.features.small_maps import SmallMaps


@pytest.fixture
def products(monkeypatch):
    """How often a product took the place of a convolution."""
    taken = []
    product = small_maps._product
    monkeypatch.setattr(small_maps, "_product", lambda *given: taken.append(1) or product(*given))
    return taken


def convolve(*given, **options):
    with torch.inference_mode(), SmallMaps():
        return F.conv2d(*given, **options)


CASES = {
    "2 x 2": ((8, 256, 2, 2), 3, {"padding": 1}),
    "onto 2 x 2": ((8, 256, 4, 4), 3, {"padding": 1, "stride": 2}),
    "no padding": ((9, 256, 5, 4), 3, {}),
    "1 x 1": ((8, 1280, 3, 2), 1, {}),
    "unequal": ((8, 256, 3, 5), (3, 2), {"padding": (1, 0), "stride": (1, 2)}),
    "onto a pixel": ((8, 256, 3, 3), 3, {}),
    "1 x 16": ((8, 256, 1, 16), 3, {"padding": 1}),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", CASES)
def test_a_product_is_the_convolution(case, layout, products):
    shape, size, options = CASES[case]
    high, wide = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(shape, generator=generator).contiguous(memory_format=layout)
    weight = torch.randn(512, shape[1], high, wide, generator=generator).contiguous(memory_format=layout)
    bias = torch.randn(512, generator=generator)
    for added in (bias, None):
        found = convolve(maps, weight, added, **options)
        wanted = F.conv2d(maps.double(), weight.double(), None if added is None else added.double(), **options)
        assert found.shape == wanted.shape and found.dtype == torch.float32
        assert found.is_contiguous(memory_format=torch.channels_last), "the next layer wants it so"
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=2e-4)
    assert len(products) == 2


@pytest.mark.parametrize(
    ("shape", "weights", "options"),
    [
        ((8, 256, 8, 8), (512, 256, 3, 3), {"padding": 1}),
        ((7, 256, 2, 2), (512, 256, 3, 3), {"padding": 1}),
        ((8, 64, 2, 2), (64, 64, 3, 3), {"padding": 1}),
        ((8, 1024, 2, 2), (1024, 512, 3, 3), {"padding": 1, "groups": 2}),
        ((8, 256, 4, 4), (512, 256, 3, 3), {"padding": 2, "dilation": 2}),
        ((8, 256, 2, 2), (512, 256, 3, 3), {"padding": "same"}),
        ((256, 2, 2), (512, 256, 3, 3), {"padding": 1}),
    ],
)
def test_what_a_product_is_not_for_stays_as_it_is(shape, weights, options, products):
    maps, weight = torch.randn(shape), torch.randn(weights)
    assert torch.equal(convolve(maps, weight, **options), F.conv2d(maps, weight, **options))
    assert not products


def test_other_types_and_gradients_stay_as_they_are(products):
    maps, weight = torch.randn(8, 512, 2, 2), torch.randn(512, 512, 3, 3)
    assert convolve(maps.double(), weight.double(), padding=1).dtype == torch.float64
    assert convolve(maps.bfloat16(), weight.bfloat16(), padding=1).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert convolve(maps, weight, padding=1).dtype == torch.bfloat16
    layer = nn.Conv2d(512, 512, 3, padding=1)
    with SmallMaps():
        layer(maps).sum().backward()
    assert layer.weight.grad is not None and not products


def test_what_a_convolution_refuses_is_refused():
    with pytest.raises(RuntimeError, match=r"[Kk]ernel size"):
        convolve(torch.randn(8, 256, 2, 2), torch.randn(512, 256, 3, 3))
    with pytest.raises(RuntimeError, match="channels"):
        convolve(torch.randn(8, 128, 3, 3), torch.randn(512, 256, 3, 3))


def test_it_holds_in_its_own_thread_alone(products):
    maps, weight = torch.randn(8, 512, 2, 2), torch.randn(512, 512, 3, 3)

    def elsewhere():
        with torch.inference_mode():
            F.conv2d(maps, weight, padding=1)

    with SmallMaps():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert not products


def test_extraction_uses_it_and_features_are_those_of_the_network(products):
    from ood_nc.data import as_dataset, eval_transform
    from ood_nc.features import extract
    from ood_nc.models import ControlledModel

    model = ControlledModel("resnet18", 4, taps=("stages", "encoder"), projector=None, img_size=64).eval()
    pixels = torch.rand(24, 3, 64, 64)
    images = as_dataset(torch.utils.data.TensorDataset(pixels, torch.zeros(24, dtype=torch.long)))
    images = images.with_transform(eval_transform(model.preprocessing))
    bank = extract(model, images)
    assert len(products) == 4 + 3, "3 x 3 convolutions of 2^19 weights and more: the last stage's, most of the third's"
    with torch.inference_mode():
        logits, taps = model.forward_taps(torch.stack([images[row][0] for row in range(24)]))
    torch.testing.assert_close(bank.logits, logits, rtol=1e-4, atol=1e-5)
    for name, features in taps.items():
        torch.testing.assert_close(bank.taps[name], features, rtol=1e-4, atol=1e-5)


def test_it_serves_networks_of_large_convolutions_alone():
    assert SmallMaps.serve(nn.Sequential(nn.Conv2d(256, 256, 3)))
    assert not SmallMaps.serve(nn.Sequential(nn.Conv2d(128, 128, 3), nn.Linear(1024, 1024)))
