"""timm backbones: building one, parting it from its classifier, its preprocessing, and what there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from timm.models import is_model_in_modules
from timm.models.vgg import VGG
from torch import nn

from ood_nc.errors import UserError, nearest
from ood_nc.models import cifar_resnet, convnet, mlp, vit_gap  # noqa: F401  registers their models with timm
from ood_nc.models.normalization import MAX_GROUPS, to_group_norm
from ood_nc.models.pretrained import from_cache_without_network
from ood_nc.models.probing import Trace, single_tensor, trace
from ood_nc.models.taps import TapInfo, resolve_taps, tappable

NORMALIZATIONS = ("native", "group_ws")


@dataclass
class Encoder:
    """A backbone without its classifier: images in, pooled features (B, d) out.

    Attributes:
        module: the backbone, its classifier replaced by an identity.
        dim: d.
        seen: its forward pass.
        classifier: the linear classifier that was taken off, None when there was none that could be.
        classifier_path: where in the backbone it was.
        classifier_is_trained: whether it came with trained weights.
        nonnegative: whether the features are nonnegative by construction; None when not known.
        preprocessing: timm's data configuration.
    """

    module: nn.Module
    dim: int
    seen: Trace
    classifier: nn.Linear | None
    classifier_path: str | None
    classifier_is_trained: bool = False
    nonnegative: bool | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)


def build_encoder(
    backbone: str | nn.Module,
    num_classes: int,
    *,
    normalization: str = "native",
    pretrained: bool = False,
    img_size: int | Sequence[int] | None = None,
    in_chans: int = 3,
    drop: float = 0.0,
    drop_path: float = 0.0,
    backbone_options: Mapping[str, Any] | None = None,
    images: Mapping[str, Any] | None = None,
    test_size: bool = False,
) -> Encoder:
    """Return the encoder of a `ControlledModel`, which documents the arguments."""
    if normalization not in NORMALIZATIONS:
        hint = nearest(normalization, NORMALIZATIONS)
        raise UserError(f"Unknown normalization {normalization!r}: use native or group_ws.{hint}")
    if normalization == "group_ws" and pretrained:
        raise UserError("normalization group_ws is another network: pretrained weights do not fit. Use native.")
    options = dict(backbone_options or {})
    keep_hidden_head = bool(options.pop("keep_hidden_head", False))
    max_groups = int(options.pop("max_groups", MAX_GROUPS))
    model: Any
    if isinstance(backbone, str):
        name = backbone
        if not (keep_hidden_head or pretrained) and is_model_in_modules(name.partition(".")[0], ["vgg"]):
            options.setdefault("mlp_ratio", 1 / 4096)  # 120 million weights less to draw and throw away
        sizes: dict[str, Any] = {"img_size": img_size, "in_chans": in_chans, "drop": drop, "drop_path": drop_path}
        model = create_timm(name, num_classes, pretrained=pretrained, options=options, **sizes)
        trained = pretrained and num_classes == model.pretrained_cfg.get("num_classes")
    elif options or pretrained or drop or drop_path:
        raise UserError("backbone_options, pretrained, drop and drop_path are for a model given by its timm name.")
    else:
        model, name, trained = backbone, type(backbone).__name__, True
    preprocessing = preprocessing_of(model, img_size, in_chans, images or {}, test_size=test_size)
    image_shape = preprocessing["input_size"]
    if not keep_hidden_head and drop_hidden_head(model, num_classes):
        trained = False
    if normalization == "group_ws":
        to_group_norm(model, image_shape, name, max_groups)
    encoder = part(model, num_classes, image_shape, name)
    encoder.classifier_is_trained, encoder.preprocessing = trained, preprocessing
    return encoder


def create_timm(
    name: str,
    num_classes: int,
    *,
    pretrained: bool = False,
    img_size: int | Sequence[int] | None = None,
    in_chans: int = 3,
    drop: float = 0.0,
    drop_path: float = 0.0,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return the timm model ``name`` as timm builds it, its classifier included.

    Raises:
        UserError: an unknown name, an argument that the model does not take, weights that cannot be fetched.
    """
    arguments: dict[str, Any] = {"in_chans": in_chans, **(options or {})}
    arguments |= {k: v for k, v in {"drop_rate": drop, "drop_path_rate": drop_path}.items() if v}
    if img_size is not None:
        arguments["img_size"] = img_size if isinstance(img_size, int) else tuple(img_size)
    try:
        return _create(name, pretrained, num_classes, arguments)
    except TypeError as error:
        if img_size is None or "img_size" not in str(error):
            raise UserError(f"{name} cannot be built with model.kwargs {arguments}: {_line(error)}.") from None
    # Convolutional networks take any size, so most of them have no such argument.
    rates: dict[str, Any] = {"drop": drop, "drop_path": drop_path}
    return create_timm(name, num_classes, pretrained=pretrained, in_chans=in_chans, options=options, **rates)


def part(model: Any, num_classes: int, image_shape: tuple[int, int, int], name: str) -> Encoder:
    """Take the classifier off a timm model; leave any other module as it is: its output counts as pooled features.

    The classifier is the linear map (or 1x1 convolution) whose output the model returns, found by running it: so
    hidden layers of the head, and a norm in front of it, stay with the encoder. A model whose logits are no single
    linear map of one tensor (two distilled heads) has its heads reset and keeps none.

    Raises:
        UserError: the model does not run on such images, or its output is not (B, d).
    """
    is_timm = hasattr(model, "pretrained_cfg") and hasattr(model, "reset_classifier")
    if not is_timm or getattr(model, "num_classes", 0) <= 0:
        return _encoder(model, image_shape, name, None, None)
    path = _final_linear(model, _run(model, image_shape, name))
    if path is None:
        model.reset_classifier(0)
        return _encoder(model, image_shape, name, None, None)
    classifier = _as_linear(model.get_submodule(path))
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return _encoder(model, image_shape, name, classifier if classifier.out_features == num_classes else None, path)


def drop_hidden_head(model: Any, num_classes: int) -> bool:
    """Remove the two 4096-wide layers between a VGG's feature map and its classifier, in place, and renew the latter.

    Other models are left alone: where their head has a hidden layer, the classifier reads that layer.

    Returns:
        Whether there was something to remove.
    """
    if not isinstance(model, VGG):
        return False
    vgg: Any = model
    vgg.pre_logits = nn.Identity()
    reference = next(vgg.parameters())
    vgg.head.fc = nn.Linear(vgg.num_features, num_classes, device=reference.device, dtype=reference.dtype)
    vgg.head_hidden_size = vgg.head.num_features = vgg.num_features
    return True


def preprocessing_of(
    model: nn.Module,
    img_size: int | Sequence[int] | None,
    in_chans: int,
    given: Mapping[str, Any],
    *,
    test_size: bool = False,
) -> dict[str, Any]:
    """Return timm's data configuration: input_size, interpolation, mean, std, crop_pct, crop_mode.

    Mean and std become the average over colours where the model takes another number of channels than its weights.

    Args:
        model: its ``pretrained_cfg`` is what is not given.
        img_size: a side, or height and width.
        in_chans: channels.
        given: mean, std, crop_pct, crop_mode and interpolation that differ.
        test_size: take size and crop that timm's validation script takes, where they are not those of training.

    Raises:
        UserError: mean or std have neither one value nor one a channel.
    """
    stored = dict(getattr(model, "pretrained_cfg", None) or {})
    larger = test_size and img_size is None and not stored.get("fixed_input_size")
    config = dict(resolve_data_config(pretrained_cfg=stored, model=model, use_test_size=larger))
    config |= {key: value for key, value in given.items() if key not in ("mean", "std")}
    sides = config["input_size"][1:] if img_size is None else (img_size, img_size)
    if isinstance(img_size, Sequence):
        sides = img_size
    config["input_size"] = (in_chans, *sides)
    for key in ("mean", "std"):
        values = tuple(float(value) for value in given.get(key, config[key]))
        if key in given and len(values) not in (1, in_chans):
            raise UserError(f"{key} has {len(values)} values for images of {in_chans} channels: give one, or one each.")
        config[key] = values if len(values) == in_chans else (sum(values) / len(values),) * in_chans
    return config


def list_taps(backbone: str, *, img_size: int | None = None) -> list[TapInfo]:
    """Return everything of a timm model that can be tapped, in depth order, as ``auto`` pools it.

    No weights are made or read.

    Example:
        >>> [tap.name for tap in list_taps("test_resnet")][-1]
        'encoder'
    """
    try:
        with torch.device("meta"):
            encoder = build_encoder(backbone, 2, img_size=img_size)
    except UserError:
        raise
    except Exception:  # some models compute while they are built
        encoder = build_encoder(backbone, 2, img_size=img_size)
    names = tappable(encoder.module, encoder.seen)
    taps = resolve_taps(names, "auto", encoder.module, encoder.seen, backbone)
    rows = [TapInfo(n, i, t.pooling.name, t.dim, t.nonnegative) for i, (n, t) in enumerate(taps.items())]
    return [*rows, TapInfo("encoder", len(rows), "native", encoder.dim, encoder.nonnegative)]


def list_backbones(pattern: str = "*") -> list[str]:
    """Return the names of the models that match a glob: timm's, and the few that this package registers with it.

    Example:
        >>> list_backbones("cifar_resnet*")
        ['cifar_resnet20', 'cifar_resnet32', 'cifar_resnet44', 'cifar_resnet56']
    """
    return list(timm.list_models(pattern))


def default_num_classes(name: str) -> int:
    """Return how many classes timm's weights of a model have; 1,000 where timm does not say.

    Example:
        >>> default_num_classes("resnet18"), default_num_classes("cifar_resnet20")
        (1000, 10)
    """
    known = timm.models.get_pretrained_cfg(name) if timm.is_model(name.partition(".")[0]) else None
    return 1000 if known is None or not known.num_classes else int(known.num_classes)


def _create(name: str, pretrained: bool, num_classes: int, arguments: dict[str, Any]) -> nn.Module:
    architecture = name.partition(".")[0]
    if ":" not in name and not timm.is_model(architecture):
        hint = nearest(architecture, timm.list_models())
        raise UserError(f"Unknown model {name!r}.{hint} `ood-nc list backbones 'resnet*'` shows what there is.")
    if not pretrained:
        return _built(name, "timm refuses", "", num_classes=num_classes, **arguments)
    with from_cache_without_network() as reachable:
        why = "its pretrained weights cannot be had" if reachable else "there is no network for its pretrained weights"
        advice = " A local file of weights can be given: --checkpoint FILE."
        return _built(name, why, advice, pretrained=True, num_classes=num_classes, **arguments)


def _built(name: str, why: str, advice: str, **arguments: Any) -> nn.Module:
    try:
        return timm.create_model(name, **arguments)
    except TypeError:
        raise
    except Exception as error:
        raise UserError(f"Cannot build {name}: {why} ({type(error).__name__}: {_line(error)}).{advice}") from error


def _run(model: Any, image_shape: tuple[int, int, int], name: str) -> Trace:
    try:
        return trace(model, image_shape)
    except Exception as error:
        raise UserError(
            f"{name} does not run on images of {image_shape}: {_line(error)}. Set model.img_size."
        ) from error


def _encoder(
    model: Any, image_shape: tuple[int, int, int], name: str, classifier: nn.Linear | None, path: str | None
) -> Encoder:
    seen = _run(model, image_shape, name)
    if not isinstance(seen.output, torch.Tensor) or seen.output.ndim != 2:
        tensor = single_tensor(seen.output)
        shape = f"shape {tuple(tensor.shape)}" if tensor is not None else f"a {type(seen.output).__name__}"
        raise UserError(f"The output of {name} must be pooled, (B, d), not {shape}: end it with a global pooling.")
    return Encoder(model, int(seen.output.shape[1]), seen, classifier, path, nonnegative=seen.output_nonnegative)


def _final_linear(model: Any, seen: Trace) -> str | None:
    output = seen.output
    if not isinstance(output, torch.Tensor):
        return None
    modules = dict(model.named_modules())
    for name, tensor in seen.outputs.items():
        is_linear = isinstance(modules[name], nn.Linear) or getattr(modules[name], "kernel_size", None) == (1, 1)
        if is_linear and tensor is not None and (tensor is output or tensor is output._base):
            return name
    return None


def _as_linear(module: Any) -> nn.Linear:
    if isinstance(module, nn.Linear):
        return module
    weight, bias = module.weight.flatten(1), module.bias
    linear = nn.Linear(
        weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device, dtype=weight.dtype
    )
    linear.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone())
    return linear


def _line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
