from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from torch import nn

from ood_nc.config import ModelConfig
from ood_nc.errors import UserError
from ood_nc.models import ControlledModel, Projector, build_model, weights_hash
from ood_nc.training.launch import leave_group

TAPS = ("stages", "encoder", "projector")


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trained() -> ControlledModel:
    return ControlledModel("cifar_resnet20", 5, taps=TAPS).eval()


def test_the_three_parts_in_a_row(trained: ControlledModel, images: torch.Tensor) -> None:
    logits, taps = trained.forward_taps(images)
    assert list(taps) == list(trained.tap_names) == ["layer1", "layer2", "layer3", "encoder", "projector"]
    torch.testing.assert_close(taps["encoder"], trained.backbone(images))
    torch.testing.assert_close(taps["projector"], trained.projector(taps["encoder"]))
    torch.testing.assert_close(logits, taps["projector"] @ trained.head_weight.T + trained.head_bias)
    assert torch.equal(trained(images), logits)
    assert trained.head_tap == "projector"
    assert trained.encoder_dim == 64
    assert trained.num_classes == 5
    assert trained.class_names is None


def test_without_a_projector_the_head_reads_the_encoder(images: torch.Tensor) -> None:
    model = ControlledModel("cifar_resnet20", 5, projector=None, taps=TAPS).eval()
    logits, taps = model.forward_taps(images)
    assert "projector" not in taps
    assert model.head_tap == "encoder"
    torch.testing.assert_close(logits, taps["encoder"] @ model.head_weight.T + model.head_bias)


@pytest.mark.parametrize("options", [{}, {"construction": "orthonormal"}])
def test_nothing_frozen_moves(options: dict[str, str], images: torch.Tensor) -> None:
    model = ControlledModel("cifar_resnet20", 3, taps=TAPS, projector_options=options)
    frozen = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("projector.")}
    assert len(frozen) == 2
    assert not any(name.startswith("projector") for name, _ in model.named_parameters())
    before = model.head.weight.clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in frozen.items())
    assert not torch.equal(model.head.weight, before)


def test_fixed_etf_classifier(images: torch.Tensor) -> None:
    model = ControlledModel("cifar_resnet20", 5, projector="none", head="etf", taps=TAPS)
    assert model.head_bias is None
    cosines = model.head_weight @ model.head_weight.T
    torch.testing.assert_close(cosines, (torch.eye(5) * 5 - 1) / 4, atol=1e-6, rtol=0)
    model(images).sum().backward()
    assert not any(name.startswith("head") for name, _ in model.named_parameters())
    with pytest.raises(UserError, match="K = 66 vertices in d = 64"):
        ControlledModel("cifar_resnet20", 66, projector=None, head="etf")


def test_only_the_bias_of_a_fixed_etf_classifier_is_trained(images: torch.Tensor) -> None:
    model = ControlledModel("cifar_resnet20", 5, projector=None, head="etf_bias", taps=("encoder",))
    plain = ControlledModel("cifar_resnet20", 5, projector=None, head="etf", taps=("encoder",))
    assert [name for name, _ in model.named_parameters() if name.startswith("head")] == ["head.bias"]
    torch.testing.assert_close(model.head_weight, plain.head_weight)
    before = model.head_weight.clone()
    logits = model(images)
    torch.nn.functional.cross_entropy(logits, torch.zeros(len(images), dtype=torch.long)).backward()
    expected = logits.detach().softmax(1).mean(0) - torch.eye(5)[0]
    torch.testing.assert_close(model.head_bias.grad, expected)
    assert torch.equal(model.head_weight, before)
    model.head_bias.data += 1
    twin = ControlledModel.from_spec(model.spec())
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(twin.eval()(images), model.eval()(images))


def test_a_projector_of_ones_own() -> None:
    projector = Projector(64, "plastic", width=1)
    assert ControlledModel("cifar_resnet20", 5, projector=projector).projector is projector
    with pytest.raises(UserError, match="takes 32 features, but the encoder gives 64"):
        ControlledModel("cifar_resnet20", 5, projector=Projector(32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"head": "lineer"}, "Did you mean 'linear'"),
        ({"projector": "simplex"}, "Unknown projector 'simplex'"),
        ({"projector_options": {"widht": 2}}, "projector_options.*widht"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ControlledModel("cifar_resnet20", **{"num_classes": 5, **arguments})
    assert "\n" not in str(caught.value)


def test_spec_is_json_and_rebuilds_the_model(images: torch.Tensor) -> None:
    model = ControlledModel(
        "cifar_resnet20",
        4,
        projector_options={"construction": "orthonormal", "depth": 3, "width": 2, "dim": 20},
        taps=("layer*.*", "encoder", "projector"),
        pooling={"layer1.*": "max"},
        normalization="group_ws",
        backbone_options={"max_groups": 8},
    )
    model.class_names = ("a", "b", "c", "d")
    model.preprocessing["mean"] = (0.1, 0.2, 0.3)
    spec = pickle.loads(pickle.dumps(json.loads(json.dumps(model.spec()))))
    again = ControlledModel.from_spec(spec)
    again.load_state_dict(model.state_dict())
    assert again.spec() == model.spec()
    assert again.tap_info == model.tap_info
    assert again.preprocessing == model.preprocessing
    assert again.class_names == model.class_names
    assert weights_hash(again) == weights_hash(model)
    assert torch.equal(again.eval()(images), model.eval()(images))


def test_spec_never_fetches_weights() -> None:
    assert "pretrained" not in ControlledModel("cifar_resnet20", 4).spec()


def test_a_module_of_ones_own_has_no_spec() -> None:
    with pytest.raises(UserError, match="has no specification"):
        ControlledModel(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), 4, img_size=8).spec()


def test_head_is_fresh_until_weights_are_loaded(trained: ControlledModel) -> None:
    model = ControlledModel.from_spec(trained.spec())
    assert model.head_is_fresh
    model.load_state_dict(trained.state_dict())
    assert not model.head_is_fresh


def test_build_model_from_the_configuration() -> None:
    config = ModelConfig.model_validate(
        {
            "name": "cifar_resnet20",
            "in_chans": 1,
            "taps": "layer1,encoder",
            "projector": {"kind": "plastic", "width": 2, "dim": 30},
            "pooling": {"layer1": "max"},
        }
    )
    model = build_model(config, 6)
    assert model.tap_names == ("layer1", "encoder")
    assert model.tap_info["layer1"].pooling == "max"
    assert [tuple(layer.weight.shape) for layer in model.projector.layers] == [(128, 64), (30, 128)]
    assert model.head_weight.shape == (6, 30)
    assert build_model(ModelConfig(name="cifar_resnet20", projector={"kind": "none"}), 3).projector is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(trained: ControlledModel, images: torch.Tensor, dtype: torch.dtype) -> None:
    exact, _ = trained.forward_taps(images)
    with torch.autocast("cpu", dtype):
        logits, taps = trained.forward_taps(images)
    torch.testing.assert_close(logits.float(), exact, atol=0.05, rtol=0.05)
    assert taps["projector"].dtype == torch.float32
    assert all(tap.isfinite().all() for tap in taps.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(trained: ControlledModel, images: torch.Tensor, dtype: torch.dtype) -> None:
    logits, taps = copy.deepcopy(trained).to(dtype).forward_taps(images.to(dtype))
    assert {logits.dtype, *(tap.dtype for tap in taps.values())} == {dtype}


def test_channels_last(trained: ControlledModel, images: torch.Tensor) -> None:
    expected_logits, expected = trained.forward_taps(images)
    twin = copy.deepcopy(trained).to(memory_format=torch.channels_last)
    logits, taps = twin.forward_taps(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(logits, expected_logits)
    for name, tap in taps.items():
        torch.testing.assert_close(tap, expected[name])


def test_compile_with_and_without_taps(images: torch.Tensor) -> None:
    """One graph each: after the first call no break is left."""
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = ControlledModel(layers, 3, taps=("0", "1", *TAPS[1:]), img_size=32)
    expected_logits, expected = model.forward_taps(images)
    compiled = torch.compile(model, backend="eager")
    compiled(images, taps=True)
    whole = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(images), expected_logits)
    logits, taps = whole(images, taps=True)
    torch.testing.assert_close(logits, expected_logits)
    assert list(taps) == list(expected)
    for name, tap in taps.items():
        torch.testing.assert_close(tap, expected[name])
    assert torch.equal(model.forward_taps(images)[0], expected_logits), "the module itself still works"


def test_a_layer_compiled_by_itself_cannot_be_tapped(images: torch.Tensor) -> None:
    model = ControlledModel("test_resnet", 3, taps=("stages", "encoder")).eval()
    tap = model.tap_names[1]
    model.backbone.get_submodule(tap).compile(backend="eager")
    model(images)
    with pytest.raises(UserError, match=rf"Tap '{tap}' was not reached: its layer is compiled by itself"):
        model.forward_taps(images)
    model.compile(backend="eager")
    assert list(model(images, taps=True)[1]) == list(model.tap_names)


@pytest.mark.slow
def test_compile_with_inductor(trained: ControlledModel, images: torch.Tensor) -> None:
    compiled = torch.compile(copy.deepcopy(trained))
    expected_logits, expected = trained.forward_taps(images)
    logits, taps = compiled(images, taps=True)
    torch.testing.assert_close(logits, expected_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(taps["layer2"], expected["layer2"], atol=1e-4, rtol=1e-4)


def test_export_of_the_inference_path(trained: ControlledModel, images: torch.Tensor) -> None:
    batch = {"images": {0: torch.export.Dim("batch", max=2**31)}}
    exported = torch.export.export(trained, (images,), dynamic_shapes=batch, strict=False)
    torch.testing.assert_close(exported.module()(images[:3]), trained(images[:3]))


def test_distributed_wrapper(images: torch.Tensor, tmp_path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model = ControlledModel("cifar_resnet20", 3, taps=TAPS)
        wrapped = nn.parallel.DistributedDataParallel(model)
        for _ in range(2):
            logits, taps = wrapped(images, taps=True)
            (logits.sum() + taps["layer1"].sum()).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
    finally:
        leave_group()


def test_pickle_of_the_whole_model(trained: ControlledModel, images: torch.Tensor) -> None:
    again = pickle.loads(pickle.dumps(trained))
    assert torch.equal(again(images), trained(images))
    assert list(again.forward_taps(images)[1]) == list(trained.tap_names)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(images: torch.Tensor) -> None:
    model = ControlledModel("cifar_resnet20", 3, taps=TAPS).cuda()
    with torch.autocast("cuda", torch.float16):
        logits, taps = model.forward_taps(images.cuda())
    assert logits.device.type == "cuda"
    torch.testing.assert_close(taps["projector"].norm(dim=1), torch.ones(4, device="cuda"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_take_the_models_dtype(trained: ControlledModel, images: torch.Tensor, dtype: torch.dtype) -> None:
    model = copy.deepcopy(trained).to(dtype)
    logits, taps = model.forward_taps(images)
    assert {tensor.dtype for tensor in (logits, *taps.values())} == {dtype}
    expected, _ = trained.forward_taps(images)
    torch.testing.assert_close(
        logits.float(), expected, **({} if dtype == torch.float64 else {"rtol": 0.1, "atol": 0.1})
    )


def test_a_batch_without_an_image_is_one_line(trained: ControlledModel, images: torch.Tensor) -> None:
    for call in (trained, trained.forward_taps):
        with pytest.raises(UserError, match="holds no image"):
            call(images[:0])


def test_an_auxiliary_classifier_reads_its_tap_and_is_built_again() -> None:
    options = {"taps": ("layer2.0", "encoder", "projector"), "auxiliary": ("layer2.0",), "img_size": 32}
    model = ControlledModel("test_resnet", 3, **options).eval()
    assert list(model.heads) == ["layer2.0", "projector"]
    weight, bias = model.heads["layer2.0"]
    _, taps = model.forward_taps(torch.zeros(2, 3, 32, 32))
    assert torch.nn.functional.linear(taps["layer2.0"], weight, bias).shape == (2, 3)
    again = ControlledModel.from_spec(model.spec())
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.heads["layer2.0"][0], weight) and "auxiliary" in model.spec()
    old = {key: value for key, value in model.spec().items() if key != "auxiliary"}  # of a file written before
    assert list(ControlledModel.from_spec(old).heads) == ["projector"]
    with pytest.raises(UserError, match=r"model\.auxiliary names 'layer9', which is no tap"):
        ControlledModel("test_resnet", 3, auxiliary=("layer9",))
