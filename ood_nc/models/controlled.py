"""The controlled model: backbone with taps, adapter, projector, head."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from timm.models import group_parameters
from torch import nn

from ood_nc.config import ModelConfig
from ood_nc.errors import UserError, nearest
from ood_nc.models.adapter import Adapter
from ood_nc.models.backbone import Encoder, build_encoder
from ood_nc.models.etf import ETFClassifier
from ood_nc.models.projector import Projector, make_projector
from ood_nc.models.specification import check_specification, without_weights
from ood_nc.models.taps import Recorder, TapInfo, resolve_taps

HEADS = ("linear", "etf", "etf_bias")
IMAGE_SETTINGS = ("mean", "std", "crop_pct", "crop_mode", "interpolation")


class ControlledModel(nn.Module):
    """A backbone whose layers can be read, a (frozen) projector, and a head: images -> e -> p -> logits.

    The encoder tap e (B, d) is the pooled tensor that the projector, or without one the head, receives: what timm's
    classifier would receive. Where timm's head has a hidden layer, or a norm in front of its last linear map
    (mobilenetv3, hgnet, ghostnet, metaformer, levit), they belong to the encoder. VGG's two 4096-wide layers are
    removed, so its d is 512 and its classifier new; `backbone_options={"keep_hidden_head": True}` keeps both. Without a
    projector the logits, and with or without it every tap of the backbone, equal those of timm's model. A model with
    two distilled heads has no single linear classifier: its head here is new.

    Source: Harun, Gallardo, Kanan, ICML 2025 (arXiv 2502.10691).

    Args:
        backbone: a timm name, a timm model (its classifier is taken over), or any module whose output is (B, d).
        num_classes: C.
        projector: ``simplex_etf`` or ``random`` (both frozen), ``plastic``, a `Projector`, or None (or ``none``).
        taps: names and globs of modules, ``stages``, ``blocks``, ``encoder``, ``adapter``, ``projector`` (see
            `resolve_taps`). The last two are passed over where there are none.
        pooling: ``auto``, ``avg``, ``max``, ``token``, ``flatten`` or ``avg2x2``, for all or by tap name, glob or word.
        normalization: ``native``, or ``group_ws`` (see `to_group_norm`; `backbone_options={"max_groups": 32}`).
        head: ``linear`` (trainable, with bias), ``etf`` (the fixed simplex-ETF classifier, meant for no projector) or
            ``etf_bias`` (that with a trainable bias).
        pretrained: timm's pretrained weights; the classifier's too, where there is no projector and C is theirs.
        img_size: input size, a side or (height, width); the model's own when not given.
        in_chans: input channels.
        drop: dropout in front of the head.
        drop_path: stochastic depth.
        projector_options: construction, depth, width, dim, normalize, eps, seed of the `Projector`.
        adapter: width of the `Adapter` in front of the projector; 0 for none.
        backbone_options: further arguments of the timm model, and the two named above.
        images: of the preprocessing, what differs from the model's own: mean, std, crop_pct, crop_mode, interpolation.
        auxiliary: taps with a linear classifier of their own, which learns where a loss reads it (`heads`).
        test_size: preprocess as timm's validation script does, which for some weights is at a larger size than they
            were trained at.

    Attributes:
        tap_names: the taps in depth order; ``encoder``, ``adapter``, ``projector`` last.
        tap_info: a `TapInfo` by name.
        encoder_dim: d.
        head_tap: what the head reads, ``projector`` or ``encoder``.
        head_is_fresh: whether the head is as initialised: no pretrained or loaded weights.
        preprocessing: timm's data configuration (input_size, interpolation, mean, std, crop_pct, crop_mode).
        class_names: set by whoever knows them.

    Raises:
        UserError: an unknown name, tap, pooling or option; sizes that do not fit.

    Example:
        >>> model = ControlledModel("test_resnet", num_classes=3, taps=("encoder", "projector"))
        >>> logits, taps = model.eval().forward_taps(torch.zeros(2, 3, 64, 64))
        >>> logits.shape, {name: tuple(features.shape) for name, features in taps.items()}
        (torch.Size([2, 3]), {'encoder': (2, 96), 'projector': (2, 96)})
    """

    def __init__(
        self,
        backbone: str | nn.Module,
        num_classes: int,
        *,
        projector: str | Projector | None = "simplex_etf",
        taps: Sequence[str] = ("encoder", "projector"),
        pooling: str | Mapping[str, str] = "auto",
        normalization: str = "native",
        head: str = "linear",
        pretrained: bool = False,
        img_size: int | Sequence[int] | None = None,
        in_chans: int = 3,
        drop: float = 0.0,
        drop_path: float = 0.0,
        projector_options: Mapping[str, Any] | None = None,
        adapter: int = 0,
        backbone_options: Mapping[str, Any] | None = None,
        images: Mapping[str, Any] | None = None,
        auxiliary: Sequence[str] = (),
        test_size: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise UserError(f"num_classes must be at least 1, got {num_classes}.")
        if head not in HEADS:
            raise UserError(f"Unknown head {head!r}: use {', '.join(HEADS)}.{nearest(head, HEADS)}")
        self.backbone_name = backbone if isinstance(backbone, str) else type(backbone).__name__
        settings: dict[str, Any] = {
            "normalization": normalization,
            "img_size": img_size if img_size is None or isinstance(img_size, int) else list(img_size),
            "in_chans": in_chans,
            "drop": drop,
            "drop_path": drop_path,
            "backbone_options": dict(backbone_options or {}),
        }
        sources: dict[str, Any] = {"pretrained": pretrained, "images": images, "test_size": test_size}
        encoder = build_encoder(backbone, num_classes, **sources, **settings)
        if test_size and img_size is None:
            settings["img_size"] = list(encoder.preprocessing["input_size"][1:])
        self.backbone = encoder.module
        self.encoder_dim, self.num_classes = encoder.dim, num_classes
        self.classifier_path = encoder.classifier_path
        self.projector = make_projector(projector, encoder.dim, projector_options or {})
        self.head = self._make_head(head, encoder)
        if adapter and self.projector is None:
            raise UserError("An adapter stands in front of a projector: name one, or leave the adapter out.")
        self.adapter = Adapter(encoder.dim, adapter).to(self.head_weight) if adapter else None
        self.head_is_fresh = self.head is not encoder.classifier or not encoder.classifier_is_trained
        self.preprocessing = encoder.preprocessing
        self.class_names: tuple[str, ...] | None = None
        self.tap_info = self._read_taps(taps, pooling, encoder)
        self.tap_names = tuple(self.tap_info)
        for tap in auxiliary:
            if tap not in self.tap_info:
                raise UserError(f"model.auxiliary names {tap!r}, which is no tap.{nearest(tap, self.tap_info)}")
        self.auxiliary = nn.ModuleDict(
            {_key(tap): nn.Linear(self.tap_info[tap].dim, num_classes).to(self.head_weight) for tap in auxiliary}
        )
        self._spec = {
            "backbone": backbone if isinstance(backbone, str) else None,
            "num_classes": num_classes,
            "projector": self.projector.kind if self.projector is not None else None,
            "projector_options": self.projector.options() if self.projector is not None else {},
            "adapter": adapter,
            "taps": list(taps),
            "pooling": pooling if isinstance(pooling, str) else dict(pooling),
            "head": head,
            "auxiliary": list(auxiliary),
            **settings,
            "backbone_options": without_weights(settings["backbone_options"]),
        }

    @property
    def head_tap(self) -> str:
        """The tap that the head reads."""
        return "encoder" if self.projector is None else "projector"

    @property
    def head_weight(self) -> torch.Tensor:
        """The head's weight (C, d)."""
        return cast(torch.Tensor, self.head.weight)

    @property
    def head_bias(self) -> torch.Tensor | None:
        """The head's bias (C,), None where it has none."""
        return cast("torch.Tensor | None", self.head.bias)

    @property
    def heads(self) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
        """Weight and bias of the linear classifier that reads a tap, by tap: the head's, and the auxiliary ones."""
        own = {tap: cast(nn.Linear, self.auxiliary[_key(tap)]) for tap in self._spec["auxiliary"]}
        return {tap: (head.weight, head.bias) for tap, head in own.items()} | {
            self.head_tap: (self.head_weight, self.head_bias)
        }

    @property
    def runs_in_threads(self) -> bool:
        """Whether several threads may run it at once: code of one's own may keep something between its layers."""
        return self._spec["backbone"] is not None and self._recorder.is_alone(self)

    def forward(self, images: torch.Tensor, *, taps: bool = False) -> Any:
        """Return the logits (B, C); with ``taps`` the pair that `forward_taps` returns.

        The switch is here because wrappers (DistributedDataParallel, `torch.compile`) only wrap `forward`.

        Args:
            images: (B, C, H, W) floating-point, preprocessed; they take the model's dtype.
            taps: also return the taps.

        Raises:
            UserError: no image.
        """
        images = self._prepared(images)
        if not taps:
            return self.behind_encoder(self.backbone(images))[0]
        with self._recorder.recording() as values:
            features = self.backbone(images)
        logits, behind = self.behind_encoder(features)
        every = {**values, "encoder": features, **behind}
        return logits, {name: every[name] for name in self.tap_names}

    def behind_encoder(self, features: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the logits, and the taps ``adapter`` and ``projector`` that there are, of encoder features (B, d)."""
        taps = {}
        if self.adapter is not None:
            taps["adapter"] = features = self.adapter(features)
        if self.projector is not None:
            taps["projector"] = features = self.projector(features)
        return self.head(features), taps

    def forward_taps(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the logits and every tap, pooled to (B, d), in depth order, with gradients.

        Each is pooled as soon as its module has run: memory of its own, and no feature map is kept for it.
        """
        return self(images, taps=True)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """The depth of a weight by its name, as timm's layer decay asks for it: behind the backbone's layers the rest.

        Args:
            coarse: as for timm's models.

        Raises:
            UserError: a backbone of one's own that does not say how its layers follow each other.
        """
        backbone: Any = self.backbone
        if not hasattr(backbone, "group_matcher"):
            raise UserError(f"The layers of {self.backbone_name} have no known order: leave optim.layer_decay out.")
        depth: dict[str, int] = group_parameters(backbone, backbone.group_matcher(coarse=coarse), reverse=True)
        behind = max(depth.values()) + 1
        return lambda name: depth.get(name.removeprefix("backbone."), behind)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load a state dict as any module does; the head then counts as trained."""
        result = super().load_state_dict(*args, **kwargs)
        self.head_is_fresh = False
        return result

    def spec(self) -> dict[str, Any]:
        """Return what `from_spec` needs to build this model again, as plain JSON values.

        Raises:
            UserError: the backbone was given as a module, whose code the specification cannot hold, or by an address;
                or an option is of a kind that `from_spec` would refuse.
        """
        if self._spec["backbone"] is None:
            raise UserError(
                f"A model on a module of your own ({self.backbone_name}) has no specification: build it in code and "
                "load its state dict."
            )
        if ":" in self.backbone_name:
            raise UserError(
                f"A model from {self.backbone_name} has no specification: give the name of its architecture as "
                "model.name and its file of weights as checkpoint."
            )
        spec = {**self._spec, "preprocessing": self.preprocessing, "class_names": self.class_names}
        try:
            return check_specification(json.loads(json.dumps(spec)))
        except TypeError as error:
            raise UserError(f"model.kwargs cannot be written, so no checkpoint could hold them: {error}.") from None

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> ControlledModel:
        """Build the model that `spec` described, with fresh weights.

        The specification may come from a file that is not trusted: no other file is opened and nothing downloaded.

        Raises:
            UserError: it holds anything that `spec` would not have written, or the model cannot be built.
        """
        arguments = check_specification(spec)
        preprocessing, class_names = arguments.pop("preprocessing"), arguments.pop("class_names")
        model = cls(arguments.pop("backbone"), arguments.pop("num_classes"), **arguments)
        model.preprocessing = {k: tuple(v) if isinstance(v, list) else v for k, v in preprocessing.items()}
        model.class_names = None if class_names is None else tuple(class_names)
        return model

    def _prepared(self, images: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling() and len(images) == 0:
            raise UserError(f"The batch holds no image: its shape is {tuple(images.shape)}.")
        if images.is_floating_point():
            for parameter in self.parameters():
                if parameter.is_floating_point():
                    return images.to(parameter.dtype)
        return images

    def _make_head(self, kind: str, encoder: Encoder) -> nn.Module:
        width = encoder.dim if self.projector is None else self.projector.out_dim
        if kind == "linear" and self.projector is None and encoder.classifier is not None:
            return encoder.classifier
        linear, count = kind == "linear", self.num_classes
        head = nn.Linear(width, count) if linear else ETFClassifier(width, count, bias=kind == "etf_bias")
        reference = next(self.backbone.parameters(), None)
        if reference is not None:
            head = head.to(reference)
            self.projector = None if self.projector is None else self.projector.to(reference)
        return head

    def _read_taps(
        self, patterns: Sequence[str], pooling: str | Mapping[str, str], encoder: Encoder
    ) -> dict[str, TapInfo]:
        modules = resolve_taps(patterns, pooling, self.backbone, encoder.seen, self.backbone_name)
        self._recorder = Recorder(modules, self.backbone)
        rows: list[Any] = [(name, tap.pooling.name, tap.dim, tap.nonnegative) for name, tap in modules.items()]
        if "encoder" in patterns:
            rows.append(("encoder", "native", encoder.dim, encoder.nonnegative))
        if "adapter" in patterns and self.adapter is not None:
            rows.append(("adapter", "none", encoder.dim, False))
        if "projector" in patterns and self.projector is not None:
            rows.append(("projector", "none", self.projector.out_dim, False))
        if not rows:
            raise UserError(f"No tap is left of {list(patterns)}: name a module, stages, blocks or encoder.")
        return {row[0]: TapInfo(row[0], depth, *row[1:]) for depth, row in enumerate(rows)}


def build_model(config: ModelConfig, num_classes: int, *, test_size: bool = False) -> ControlledModel:
    """Return the model that a configuration describes; `config.checkpoint` is not read (see `load_weights`).

    Example:
        >>> build_model(ModelConfig(name="test_resnet"), num_classes=3).head_tap
        'projector'
    """
    channels, *sides = config.input_size or (config.in_chans,)
    given = {key: getattr(config, key) for key in IMAGE_SETTINGS}
    return ControlledModel(
        config.name,
        num_classes,
        projector=config.projector.kind,
        taps=config.taps,
        pooling=config.pooling,
        normalization=config.normalization,
        head=config.head,
        auxiliary=config.auxiliary,
        pretrained=config.pretrained,
        img_size=sides or config.img_size,
        in_chans=channels,
        drop=config.drop,
        drop_path=config.drop_path,
        projector_options=config.projector.model_dump(exclude={"kind", "adapter"}),
        adapter=config.projector.adapter,
        backbone_options=config.kwargs,
        images={key: value for key, value in given.items() if value is not None},
        test_size=test_size,
    )


def _key(tap: str) -> str:
    """A name that a module can have."""
    return f"tap/{tap.replace('.', '/')}"
