"""The configuration: one schema for files, flags and Python, with timm's names where timm has a flag for a thing."""

from __future__ import annotations

import math
import types
import typing
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ood_nc.errors import UserError, nearest


class Section(BaseModel):
    """A part of the configuration. Unknown keys are refused, and values that cannot mean anything."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _has_meaning(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = kinds_of(cls.model_fields[str(info.field_name)].annotation)
        if value == "None" and type(None) in kinds:  # as sweep agents write it
            return None
        if isinstance(value, bool) and bool not in kinds:
            raise ValueError("true and false mean nothing here")
        if any(isinstance(kind, type) and issubclass(kind, Section) for kind in kinds):
            return value  # whose fields are looked at one by one
        for part in _leaves(value):
            if isinstance(part, float) and not math.isfinite(part):
                raise ValueError("a finite number is needed")
            if isinstance(part, str) and any(unicodedata.category(letter) in ("Cc", "Cs") for letter in part):
                raise ValueError("text without control characters is needed")
        return value


def kinds_of(annotation: Any) -> set[Any]:
    """The types that a field's values can have, without what is inside them: ``{list}`` of ``list[int]``."""
    if hasattr(annotation, "__metadata__"):
        return kinds_of(annotation.__origin__)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set().union(*(kinds_of(part) for part in typing.get_args(annotation)))
    if typing.get_origin(annotation) is Literal:
        return {type(part) for part in typing.get_args(annotation)}
    return {typing.get_origin(annotation) or annotation}


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _flag(default: Any, help: str, *flags: str) -> Any:
    """A field with its help and the timm flags that mean it, beyond the dotted name and its last part."""
    settings: dict[str, Any] = {"json_schema_extra": {"flags": list(flags)}} if flags else {}
    if isinstance(default, (dict, list)):
        return Field(default_factory=lambda: type(default)(default), description=help, **settings)
    return Field(default=default, description=help, **settings)


def _as_list(value: Any) -> Any:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _in_order(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError("the smaller bound comes first")
    return value


Text = Annotated[str, Field(min_length=1)]
Names = Annotated[list[Text], BeforeValidator(_as_list)]
Share = Annotated[float, Field(gt=0, le=1)]
Factor = Annotated[float, Field(gt=0, le=100)]

# What the long table calls sets of its own.
_RESERVED = ("mean", "id_train", "id_val", "id_test")


def _is_name(value: str) -> str:
    """A name that can stand in a path and in a row of the results."""
    if value in (".", "..") or "/" in value or "\\" in value or len(value) > 200 or not value.strip():
        raise ValueError("a plain name is needed, without slashes")
    return value


def _is_free(value: str) -> str:
    if value in _RESERVED:
        raise ValueError(f"a set cannot be called {value!r}: the results call one of their own so")
    return _is_name(value)


Name = Annotated[str, AfterValidator(_is_name)]
SetName = Annotated[str, AfterValidator(_is_free)]


class ProjectorConfig(Section):
    """The frozen map between encoder and head."""

    kind: Literal["simplex_etf", "random", "plastic", "none"] = _flag(
        "simplex_etf", "simplex_etf (frozen); for ablation random (frozen) or plastic (trainable); none", "--projector"
    )
    construction: Literal["paper", "orthonormal"] = _flag("paper", "how the frozen weights are built")
    depth: int = Field(default=2, ge=1, le=8, description="linear maps, a ReLU between each two")
    width: float = Field(default=4.0, gt=0, le=64, description="hidden width in multiples of the encoder's")
    dim: int | None = Field(default=None, ge=2, le=2**20, description="output width; the encoder's when not given")
    normalize: bool = _flag(True, "L2-normalise the output")


class ModelConfig(Section):
    """The backbone, its taps and its head."""

    name: Text = _flag("resnet18", "any timm model", "--model")
    pretrained: bool = _flag(False, "start from timm's pretrained weights")
    checkpoint: Text | None = _flag(None, "start from the weights in this file", "--initial-checkpoint")
    new_head: bool = _flag(False, "drop the head of those weights (its class count may differ)")
    by_order: bool = _flag(False, "match those weights by order and shape, where only the names differ")
    num_classes: int | None = Field(default=None, ge=2, le=2**20, description="from the data when not given")
    img_size: int | None = Field(default=None, ge=8, le=2**14, description="input size; the model's own when not given")
    in_chans: int = Field(default=3, ge=1, le=1024, description="input channels")
    drop: float = Field(default=0.0, ge=0, lt=1, description="dropout rate")
    drop_path: float = Field(default=0.0, ge=0, lt=1, description="stochastic depth rate")
    normalization: Literal["native", "group_ws"] = _flag(
        "native", "native, or group norm with weight-standardised convolutions"
    )
    taps: Annotated[Names, Field(min_length=1)] = _flag(
        ["stages", "encoder", "projector"], "where features are read: names and globs"
    )
    pooling: Text | dict[Text, Text] = _flag("auto", "how a tap is pooled, for all or by tap name")
    head: Literal["linear", "etf"] = _flag("linear", "trainable linear head, or the fixed ETF classifier")
    kwargs: dict[str, Any] = _flag({}, "further arguments of the timm model")
    projector: ProjectorConfig = Field(default_factory=ProjectorConfig)


class TermConfig(Section):
    """One term of the objective."""

    name: str = Field(description="a loss (`ood-nc list losses`)")
    tap: str = Field(default="encoder", description="whose features it reads")
    weight: float = Field(description="what its value is multiplied by")
    kwargs: dict[str, Any] = _flag({}, "further arguments of the loss")


class LossConfig(Section):
    """L = task loss + sum over terms of weight * loss of a tap; `entropy_weight` is short for entropy terms."""

    task: Literal["cross_entropy", "mse"] = _flag("cross_entropy", "the task loss", "--loss")
    smoothing: float = Field(default=0.1, ge=0, lt=1, description="label smoothing of the cross-entropy")
    entropy_weight: float | dict[Text, float] = _flag(0.05, "alpha: of the encoder, or by tap name")
    entropy_scope: Literal["global", "device"] = _flag("global", "neighbours among the global or the local batch")
    terms: list[TermConfig] = _flag([], "further terms, each a mapping of name, tap, weight and kwargs")

    def entropy_weights(self) -> dict[str, float]:
        """The weight of each regularised tap, zero weights left out."""
        weights = self.entropy_weight
        by_tap = weights if isinstance(weights, dict) else {"encoder": weights}
        return {tap: weight for tap, weight in by_tap.items() if weight != 0}


class OptimConfig(Section):
    """timm's optimiser and schedule, under timm's names."""

    opt: Text = _flag("adamw", "timm optimiser")
    lr: float = Field(default=1e-3, gt=0, le=1e3, description="learning rate")
    lr_base_size: int | None = Field(
        default=None, ge=1, le=2**24, description="scale lr by (global batch / this) when given"
    )
    weight_decay: float = Field(default=0.05, ge=0, le=1e3, description="weight decay")
    weight_decay_exclude_1d: bool = _flag(True, "no weight decay on biases and norms")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum, where the optimiser has one")
    opt_kwargs: dict[str, Any] = _flag({}, "further arguments of the optimiser")
    sched: Literal["cosine", "step", "multistep", "poly", "tanh", "none"] = _flag("cosine", "timm schedule")
    sched_on_updates: bool = _flag(False, "move the schedule at every step, not at every epoch")
    warmup_epochs: int = Field(default=0, ge=0, description="epochs of linear warm-up")
    warmup_lr: float = Field(default=1e-6, ge=0, description="learning rate at the start of the warm-up")
    min_lr: float = Field(default=0.0, ge=0, description="learning rate at the end")
    decay_epochs: float = Field(default=30, gt=0, description="step schedule: epochs between two decays")
    decay_milestones: list[Annotated[int, Field(ge=1)]] = _flag(
        [90, 180, 270], "multistep schedule: epochs at which it decays"
    )
    decay_rate: Factor = Field(default=0.1, description="step, multistep and poly schedules: the decay")


class AugmentConfig(Section):
    """timm's training transform, under timm's names."""

    no_aug: bool = _flag(False, "resize and centre crop only")
    scale: Annotated[tuple[Share, Share], AfterValidator(_in_order)] = _flag(
        (0.08, 1.0), "random resized crop: range of areas"
    )
    ratio: Annotated[tuple[Factor, Factor], AfterValidator(_in_order)] = _flag(
        (0.75, 4 / 3), "random resized crop: range of aspect ratios"
    )
    hflip: float = Field(default=0.5, ge=0, le=1, description="probability of a horizontal flip")
    vflip: float = Field(default=0.0, ge=0, le=1, description="probability of a vertical flip")
    color_jitter: float | None = Field(default=None, ge=0, le=100, description="strength of colour jitter")
    aa: Text | None = _flag(None, "auto-augment policy")
    reprob: float = Field(default=0.0, ge=0, le=1, description="probability of random erasing")
    aug_repeats: int = Field(default=0, ge=0, le=1000, description="repeated augmentation: copies of an image a batch")
    mixup: float = Field(default=0.0, ge=0, le=1e3, description="mixup alpha")
    cutmix: float = Field(default=0.0, ge=0, le=1e3, description="cutmix alpha")


class OodSet(Section):
    """One OOD set: where it is and what kind it is."""

    source: Text = Field(description="a data source (`ood-nc list datasets`)")
    group: Literal["near", "far", "covariate"] = _flag("far", "near, far or covariate-shifted OOD")


class TransferSet(Section):
    """One transfer task. With `train` alone, a fifth of it (stratified, seed 0) is the test split."""

    train: Text = Field(description="the source that the probe is fitted on")
    test: Text | None = _flag(None, "the source on which the probe is read once")


def _as_ood(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


def _as_transfer(value: Any) -> Any:
    return {"train": value} if isinstance(value, str) else value


class DataConfig(Section):
    """The ID data and what it is compared with. Sources are relative to `root`."""

    root: Text | None = _flag(None, "folder that relative sources are looked up in", "--data-dir")
    train: Text = _flag("bundled/digits-id::train", "ID training data")
    val: Text | None = _flag(None, "ID validation data; a share of `train` when not given")
    val_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="that share, stratified and seeded; it is never trained on"
    )
    test: Text | None = _flag("bundled/digits-id::test", "held-out ID data, read once")
    suite: Text | None = _flag(None, "benchmark suite whose OOD and transfer sets are added (`ood-nc list suites`)")
    ood: dict[SetName, Annotated[OodSet, BeforeValidator(_as_ood)]] = _flag({}, "OOD sets by name")
    transfer: dict[SetName, Annotated[TransferSet, BeforeValidator(_as_transfer)]] = _flag({}, "transfer tasks by name")
    limit: int | None = Field(default=None, ge=1, description="at most so many images of a class, for ID train")
    eval_limit: int | None = Field(default=None, ge=1, description="at most so many images of any other set")
    skip_broken: bool = _flag(False, "leave out training images that cannot be read, instead of stopping")


class TrainConfig(Section):
    """The training loop."""

    epochs: int = Field(default=100, ge=1, le=2**24, description="epochs")
    batch_size: Annotated[int, Field(ge=1, le=2**24)] = _flag(128, "images a device a step", "-b", "--batch-size")
    grad_accum_steps: int = Field(
        default=1, ge=1, le=2**16, description="batches whose gradients are added up for a step"
    )
    clip_grad: float | None = Field(default=None, gt=0, description="largest norm of the gradient")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = _flag(0, "seed of everything random", "--seed")
    workers: Annotated[int, Field(ge=0, le=1024)] = _flag(2, "processes that load images", "-j")
    device: Text = _flag("auto", "auto, cpu, cuda, cuda:1, mps")
    amp: bool = _flag(False, "automatic mixed precision")
    amp_dtype: Literal["float16", "bfloat16"] = _flag("float16", "its type")
    torchcompile: bool = _flag(False, "compile the model")
    channels_last: bool = _flag(False, "channels-last memory layout")
    log_interval: int = Field(default=50, ge=1, description="steps between two lines of metrics.jsonl")
    collapse_interval: int = Field(default=0, ge=0, description="epochs between two collapse measurements, 0 for none")
    track_interval: int = Field(
        default=100, ge=0, description="batches between two points of the collapse curve of every tap, 0 for none"
    )
    checkpoint_interval: int = Field(default=0, ge=0, description="epochs between two kept checkpoints, 0 for none")


class EvaluationConfig(Section):
    """What is measured on every tap."""

    detectors: Names = _flag(
        ["msp", "max_logit", "energy", "knn", "mahalanobis", "vim", "nci", "etf_cosine"],
        "detectors, names and globs; input detectors by their full name",
    )
    ensembles: Names = _flag([], "also combine scores over taps and over detectors: rank, zscore, fisher, brown")
    choose: Text = _flag("none", "hyper-parameters of detectors: none (defaults), synthetic, or an OOD set's name")
    probes: Names = _flag(["linear", "knn", "nearest_mean"], "transfer probes")
    batch_size: int = Field(default=128, ge=1, le=2**24, description="images a forward pass")
    bootstrap: int = Field(default=500, ge=0, le=10**6, description="bootstrap replicates of each interval, 0 for none")


class TrackingConfig(Section):
    """Where a run's numbers go beside its own log. Weights & Biases is off by default, and offline without a key."""

    trackers: Names = _flag([], "trackers by name (`ood-nc list trackers`)")
    log_wandb: bool = _flag(False, "log to Weights & Biases too")
    wandb_project: Annotated[Name, Field(max_length=128)] = _flag("ood_nc", "its project")
    wandb_entity: Name | None = _flag(None, "its entity; your account's default when not given")
    wandb_tags: Names = _flag([], "its tags")


class Config(Section):
    """A whole run: what is trained, on what, how, and what is measured."""

    output: Text = _flag("runs", "folder of run directories")
    experiment: Name | None = _flag(None, "name of the run directory; made from the settings when not given")
    model: ModelConfig = Field(default_factory=ModelConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)

    @model_validator(mode="after")
    def _values_fit_each_other(self) -> Config:
        optim = self.optim
        if "projector" in self.loss.entropy_weights() and self.model.projector.kind == "none":
            raise ValueError("loss.entropy_weight names the projector, but model.projector.kind is none")
        if optim.sched != "none" and optim.warmup_epochs > self.train.epochs:
            raise ValueError(
                f"optim.warmup_epochs is {optim.warmup_epochs}, more than train.epochs, which is {self.train.epochs}: "
                "lower --warmup-epochs"
            )
        bounds = {"min_lr": optim.sched != "none", "warmup_lr": optim.sched != "none" and optim.warmup_epochs > 0}
        for name in [name for name, used in bounds.items() if used]:
            if getattr(optim, name) > optim.lr:
                raise ValueError(f"optim.{name} is {getattr(optim, name)}, more than optim.lr, which is {optim.lr}")
        choices = ("none", "synthetic", *self.data.ood)
        if self.data.suite is None and self.evaluation.choose not in choices:
            raise ValueError(
                f"evaluation.choose is {self.evaluation.choose!r}, which is no OOD set: it can be {', '.join(choices)}"
            )
        return self

    @property
    def run_directory(self) -> Path:
        """Where the run is kept: output/experiment."""
        name = (
            self.experiment or f"{self.model.name.replace('/', '_')}-{self.model.projector.kind}-seed{self.train.seed}"
        )
        return Path(self.output) / name

    def to_yaml(self) -> str:
        """The whole configuration, defaults included, as a file that `load` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load(path: str | Path | None = None, overrides: dict[str, Any] | None = None) -> Config:
    """Read a configuration: an override beats the file, the file beats the default.

    Args:
        path: YAML file; defaults alone when not given.
        overrides: dotted key to value, e.g. ``{"optim.lr": 0.1}``.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown (with the nearest match), a value is wrong.
    """
    values = {} if path is None else _read(Path(path))
    for key, value in (overrides or {}).items():
        _put(values, key.split("."), value)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(_one_line(error, str(path) if path else "flags")) from None


def known_keys(section: type[Section] = Config, prefix: str = "") -> dict[str, Any]:
    """Every dotted key of the schema with its pydantic field."""
    keys: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            keys.update(known_keys(kind, f"{prefix}{name}."))
        else:
            keys[prefix + name] = field
    return keys


def parse_yaml(text: str) -> Any:
    """What a YAML text means; a key that stands twice in one mapping is a mistake.

    Raises:
        UserError: it is not YAML; the message, without a full stop, starts with the line where that is known.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"line {mark.line + 1}: {problem}" if mark else problem) from None
    except RecursionError:
        raise UserError("it is nested too deeply") from None
    except (ValueError, OverflowError) as error:  # a number or a date that cannot be
        raise UserError(" ".join(str(error).split())) from None


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, for which each key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"No configuration file {path}: give the path of a YAML file.") from None
    except UserError as error:
        raise UserError(f"{path} is not YAML, {error}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read the configuration {path}: {error}.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold keys and values, not a {type(values).__name__}.")
    return values


# Where a plain value may stand for a mapping, the entry that it means.
_SHORTHAND = {("data", "ood"): "source", ("data", "transfer"): "train", ("loss",): "encoder"}


def _put(values: dict[str, Any], parts: list[str], value: Any) -> None:
    for depth, part in enumerate(parts[:-1]):
        inner = values.get(part)
        if not isinstance(inner, dict):
            entry = _SHORTHAND.get(tuple(parts[:depth]))
            inner = {} if inner is None or entry is None else {entry: inner}
            values[part] = inner
        values = inner
    values[parts[-1]] = value


def _one_line(error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"] if not str(part).startswith("function-")]
    key = ".".join(parts)
    if first["type"] == "extra_forbidden":
        known = list(known_keys()) + list(Config.model_fields)
        siblings = [name.rsplit(".", 1)[-1] for name in known if name.rsplit(".", 1)[0] == ".".join(parts[:-1])]
        hint = nearest(parts[-1], siblings or Config.model_fields) or nearest(key, known)
        return f"Unknown key {key!r} in {where}.{hint}"
    message = first["msg"].removeprefix("Value error, ")
    value = f", got {first['input']!r}" if key and not isinstance(first["input"], (dict, Section)) else ""
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{key + ': ' if key else ''}{message}{value} (in {where}){more}."
