"""The schema of a run: every section and key with its default, bounds and meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, model_validator

from ood_nc.config.control import ControlConfig
from ood_nc.config.data import DataConfig
from ood_nc.config.fine_tuning import FineTuningConfig
from ood_nc.config.graphs import GraphsConfig
from ood_nc.config.intermediate import IntermediateConfig
from ood_nc.config.multilabel import MultilabelConfig
from ood_nc.config.values import (
    Channels,
    ChannelValues,
    Factor,
    Name,
    Names,
    Section,
    Share,
    Side,
    Text,
    all_positive,
    flag,
    in_order,
)


class ProjectorConfig(Section):
    """The frozen map between encoder and head."""

    kind: Literal["simplex_etf", "random", "plastic", "none"] = flag(
        "simplex_etf", "simplex_etf (frozen); for ablation random (frozen) or plastic (trainable); none", "--projector"
    )
    construction: Literal["paper", "orthonormal"] = flag("paper", "how the frozen weights are built")
    depth: int = flag(2, "linear maps, a ReLU between each two", ge=1, le=8)
    width: float = flag(4.0, "hidden width in multiples of the encoder's", gt=0, le=64)
    dim: int | None = flag(None, "output width; the encoder's when not given", ge=2, le=2**20)
    normalize: bool = flag(True, "L2-normalise the output")
    adapter: int = flag(0, "inner width of a trainable residual bottleneck in front of it; 0: none", ge=0, le=2**16)

    @model_validator(mode="after")
    def _adapter_has_a_projector(self) -> ProjectorConfig:
        if self.adapter and self.kind == "none":
            raise ValueError(f"adapter is {self.adapter}, but kind is none: it stands in front of a projector")
        return self


class ModelConfig(Section):
    """The backbone, its taps and its head."""

    name: Text = flag("resnet18", "any timm model", "--model")
    pretrained: bool = flag(False, "start from timm's pretrained weights")
    checkpoint: Text | None = flag(None, "start from the weights in this file", "--initial-checkpoint")
    new_head: bool = flag(False, "drop the head of those weights (its class count may differ)")
    drop_extra: bool = flag(False, "leave out tensors of those weights that are not the network's")
    by_order: bool = flag(False, "match those weights by order and shape, where only the names differ")
    num_classes: int | None = flag(None, "from data or weights when not given", ge=2, le=2**20)
    img_size: int | None = flag(None, "input size; the model's own when not given", ge=8, le=2**14)
    in_chans: int = flag(3, "input channels", ge=1, le=1024)
    input_size: tuple[Channels, Side, Side] | None = flag(None, "channels, height and width at once")
    mean: ChannelValues | None = flag(None, "mean of the pixels (0 to 1), one value or one a channel; the model's own")
    std: Annotated[ChannelValues, AfterValidator(all_positive)] | None = flag(None, "their deviation; the model's own")
    crop_pct: float | None = flag(None, "share of the side kept; the model's own", ge=0.01, le=2)
    crop_mode: Literal["center", "squash", "border"] | None = flag(None, "how it is cropped; the model's own")
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = flag(
        None, "how images are resized; the model's own"
    )
    drop: float = flag(0.0, "dropout rate", ge=0, lt=1)
    drop_path: float = flag(0.0, "stochastic depth rate", ge=0, lt=1)
    normalization: Literal["native", "group_ws"] = flag(
        "native", "native, or group norm with weight-standardised convolutions"
    )
    taps: Annotated[Names, Field(min_length=1)] = flag(
        ["stages", "encoder", "adapter", "projector"], "where features are read: names and globs"
    )
    pooling: Text | dict[Text, Text] = flag("auto", "how a tap is pooled, for all or by tap name")
    head: Literal["linear", "etf", "etf_bias"] = flag("linear", "trainable, or fixed ETF without or with trained bias")
    auxiliary: Names = flag([], "taps with a linear classifier of their own, for deep_supervision")
    head_init: Literal["native", "xavier_uniform"] = flag("native", "how the linear head's weights start")
    kwargs: dict[str, Any] = flag({}, "further arguments of the timm model")
    freeze: Names = flag([], "weights that are not trained: names and globs, e.g. backbone.*")
    projector: ProjectorConfig = Field(default_factory=ProjectorConfig)


class TermConfig(Section):
    """One term of the objective."""

    name: str = Field(description="a loss (`ood-nc list losses`)")
    tap: str = flag("encoder", "whose features it reads")
    weight: float = Field(description="what its value is multiplied by")
    kwargs: dict[str, Any] = flag({}, "further arguments of the loss")


class LossConfig(Section):
    """L = task loss + sum over terms of weight * loss of a tap; `entropy_weight` is short for entropy terms."""

    task: Literal["cross_entropy", "mse", "none"] = flag("cross_entropy", "task loss; none: a term is it", "--loss")
    smoothing: float = flag(0.1, "label smoothing of the cross-entropy", ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = flag(
        "none", "weights of the classes in the cross-entropy; balanced: one over their images"
    )
    entropy_weight: float | dict[Text, float] = flag(0.05, "alpha: of the encoder, or by tap name")
    entropy_scope: Literal["global", "device"] = flag("global", "neighbours among the global or the local batch")
    terms: list[TermConfig] = flag([], "further terms, each a mapping of name, tap, weight and kwargs")

    def entropy_weights(self) -> dict[str, float]:
        """The weight of each regularised tap, zero weights left out."""
        weights = self.entropy_weight
        by_tap = weights if isinstance(weights, dict) else {"encoder": weights}
        return {tap: weight for tap, weight in by_tap.items() if weight != 0}


class OptimConfig(Section):
    """timm's optimiser and schedule, under timm's names."""

    opt: Text = flag("adamw", "timm optimiser")
    lr: float = flag(1e-3, "learning rate", gt=0, le=1e3)
    lr_base_size: int | None = flag(None, "scale lr by (global batch / this) when given", ge=1, le=2**24)
    weight_decay: float = flag(0.05, "weight decay", ge=0, le=1e3)
    layer_decay: float | None = flag(
        None, "factor of the learning rate from each layer to the one before it", gt=0, le=1
    )
    weight_decay_exclude_1d: bool = flag(True, "no weight decay on biases and norms")
    momentum: float = flag(0.9, "momentum, where the optimiser has one", ge=0, lt=1)
    opt_kwargs: dict[str, Any] = flag({}, "further arguments of the optimiser")
    sched: Literal["cosine", "step", "multistep", "poly", "tanh", "none"] = flag("cosine", "timm schedule")
    sched_on_updates: bool = flag(False, "move the schedule at every step, not at every epoch")
    warmup_epochs: int = flag(0, "epochs of linear warm-up", ge=0)
    warmup_prefix: bool = flag(False, "the schedule begins behind the warm-up, over the epochs that remain")
    warmup_lr: float = flag(1e-6, "learning rate at the start of the warm-up", ge=0)
    min_lr: float = flag(0.0, "learning rate at the end", ge=0)
    decay_epochs: float = flag(30, "step schedule: epochs between two decays", gt=0)
    decay_milestones: list[Annotated[int, Field(ge=1)]] = flag(
        [90, 180, 270], "multistep schedule: epochs at which it decays"
    )
    decay_rate: Factor = flag(0.1, "step, multistep and poly schedules: the decay")


class AugmentConfig(Section):
    """timm's training transform, under timm's names."""

    no_aug: bool = flag(False, "resize and centre crop only")
    scale: Annotated[tuple[Share, Share], AfterValidator(in_order)] = flag(
        (0.08, 1.0), "random resized crop: range of areas"
    )
    ratio: Annotated[tuple[Factor, Factor], AfterValidator(in_order)] = flag(
        (0.75, 4 / 3), "random resized crop: range of aspect ratios"
    )
    hflip: float = flag(0.5, "probability of a horizontal flip", ge=0, le=1)
    vflip: float = flag(0.0, "probability of a vertical flip", ge=0, le=1)
    color_jitter: float | None = flag(None, "strength of colour jitter", ge=0, le=100)
    aa: Text | None = flag(None, "auto-augment policy")
    reprob: float = flag(0.0, "probability of random erasing", ge=0, le=1)
    aug_repeats: int = flag(0, "repeated augmentation: copies of an image a batch", ge=0, le=1000)
    mixup: float = flag(0.0, "mixup alpha", ge=0, le=1e3)
    cutmix: float = flag(0.0, "cutmix alpha", ge=0, le=1e3)


class TrainConfig(Section):
    """The training loop."""

    epochs: int = flag(100, "epochs", "--epochs", ge=1, le=2**24)
    batch_size: int = flag(128, "images a batch, shared out over all processes", "-b", "--batch-size", ge=1, le=2**24)
    grad_accum_steps: int = flag(1, "batches whose gradients are added up for a step", ge=1, le=2**16)
    grad_accum_joint: bool = flag(
        False, "the loss of all those batches together, for one more forward pass: no term sees a smaller batch"
    )
    clip_grad: float | None = flag(None, "largest norm of the gradient", gt=0)
    seed: int = flag(0, "seed of everything random", "--seed", ge=0, lt=2**63)
    workers: int = flag(2, "processes that load images, as many as the cores bear", "-j", ge=0, le=1024)
    device: Text = flag("auto", "auto, cpu, cuda, cuda:1, mps")
    amp: bool = flag(False, "automatic mixed precision")
    amp_dtype: Literal["float16", "bfloat16"] = flag("float16", "its type")
    torchcompile: bool = flag(False, "compile the model")
    channels_last: bool = flag(False, "channels-last memory layout")
    shard: bool = flag(False, "share weights, gradients and moments out over the processes (FSDP2)")
    log_interval: int = flag(50, "steps between two lines of metrics.jsonl", ge=1)
    collapse_interval: int = flag(0, "epochs between two collapse measurements, 0 for none", ge=0)
    track_interval: int = flag(100, "batches between two points of the collapse curve of every tap, 0 for none", ge=0)
    checkpoint_interval: int = flag(0, "epochs between two kept checkpoints, 0 for none", ge=0)
    recovery_interval: int = flag(0, "steps between two checkpoints within an epoch, 0 for none", ge=0)
    eval_metric: Literal["accuracy", "loss"] = flag("accuracy", "by what an epoch is the best, on validation data")
    model_ema: bool = flag(False, "measure and keep an exponential moving average of the weights")
    model_ema_decay: float = flag(0.9998, "share of the average that a step leaves", ge=0, lt=1)
    model_ema_warmup: bool = flag(False, "let that share grow over the steps")
    patience: int | None = flag(None, "stop so many epochs after the best", ge=1)
    balanced_sampling: bool = flag(False, "draw every class equally often, with replacement")

    @model_validator(mode="after")
    def _can_be_sharded(self) -> TrainConfig:
        whole = [name for name in ("model_ema", "torchcompile", "channels_last") if self.shard and getattr(self, name)]
        if whole:
            raise ValueError(f"train.shard cannot be had together with train.{whole[0]}: leave one of them out")
        if self.shard and self.amp and self.amp_dtype == "float16":
            raise ValueError("train.shard cannot be had in float16: use --amp-dtype bfloat16")
        return self


class EvaluationConfig(Section):
    """What is measured on every tap."""

    protocols: Names = flag(
        ["strict"],
        "strict, paper (what the ICML 2025 code measures), full_spectrum (covariate-shifted sets count as ID)",
    )
    detectors: Names = flag(
        ["msp", "max_logit", "energy", "knn", "mahalanobis", "vim", "nci", "etf_cosine"],
        "detectors, names and globs; input detectors by their full name",
    )
    ensembles: Names = flag([], "also combine scores over taps and over detectors: rank, zscore, fisher, brown")
    choose: Text = flag("none", "hyper-parameters of detectors: none (defaults), synthetic, or an OOD set's name")
    probes: Names = flag(["linear", "knn", "nearest_mean"], "transfer probes")
    finetune: FineTuningConfig = Field(default_factory=FineTuningConfig)
    batch_size: int = flag(128, "images a forward pass", ge=1, le=2**24)
    bank: bool = flag(True, "keep the features of every set; without, what one pass gives")
    bank_dtype: Literal["float32", "float16", "bfloat16"] = flag("float32", "what features are kept in")
    feature_map: Literal["pca", "umap"] = flag("pca", "how the report's map is made; umap needs ood_nc[umap]")
    bootstrap: int = flag(500, "bootstrap replicates of each interval, 0 for none", ge=0, le=10**6)


class TrackingConfig(Section):
    """Where a run's numbers go beside its own log. Weights & Biases is off by default, and offline without a key."""

    trackers: Names = flag([], "trackers by name (`ood-nc list trackers`)")
    log_wandb: bool = flag(False, "log to Weights & Biases too")
    wandb_project: Annotated[Name, Field(max_length=128)] = flag("ood_nc", "its project")
    wandb_entity: Name | None = flag(None, "its entity; your account's default when not given")
    wandb_tags: Names = flag([], "its tags")
    wandb_group: Name | None = flag(None, "its group; runs of several seeds are one")
    wandb_job_type: Name | None = flag(None, "its job type")

    def names(self) -> list[str]:
        """The trackers beside the run's own log."""
        return [*(["wandb"] if self.log_wandb else []), *self.trackers]


class Config(Section):
    """A whole run: what is trained, on what, how, and what is measured."""

    output: Text = flag("runs", "folder of run directories")
    experiment: Name | None = flag(None, "name of the run directory; made from the settings when not given")
    model: ModelConfig = Field(default_factory=ModelConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    control: list[ControlConfig] = flag([], "collapse to reach: mappings of tap, metric, target and side")
    optim: OptimConfig = Field(default_factory=OptimConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    graphs: GraphsConfig | None = flag(None, "a run on graphs, and not on images")
    intermediate: IntermediateConfig | None = flag(None, "follow every layer's input over training")
    multilabel: MultilabelConfig | None = flag(None, "a run on images with any number of labels")

    @model_validator(mode="after")
    def _values_fit_each_other(self) -> Config:
        optim = self.optim
        if self.intermediate is not None and self.train.patience is not None:
            raise ValueError("intermediate measures at the end of a run, which train.patience moves: use one of them")
        if self.intermediate is not None and self.train.shard:
            raise ValueError("intermediate reads every layer's weights, which train.shard takes apart: use one of them")
        taps = [control.tap for control in self.control]
        if twice := [tap for tap in taps if taps.count(tap) > 1]:
            raise ValueError(f"control names the tap {twice[0]} twice: one weight cannot follow two targets")
        if "projector" in self.loss.entropy_weights() and self.model.projector.kind == "none":
            raise ValueError("loss.entropy_weight names the projector, but model.projector.kind is none")
        if optim.sched != "none" and optim.warmup_epochs > self.train.epochs:
            raise ValueError(
                f"optim.warmup_epochs is {optim.warmup_epochs}, more than train.epochs, which is {self.train.epochs}: "
                "lower --warmup-epochs"
            )
        if self.loss.class_weights != "none" and self.loss.task != "cross_entropy":
            raise ValueError(f"loss.class_weights are of the cross-entropy, and loss.task is {self.loss.task}")
        companions = [name for name in ("graphs", "multilabel") if getattr(self, name) is not None]
        if companions and (self.control or self.intermediate is not None or len(companions) > 1):
            section = "control" if self.control else "multilabel" if len(companions) > 1 else "intermediate"
            raise ValueError(f"{section} needs images of one class each: leave it out with {companions[0]}")
        if self.multilabel is not None and self.data.outliers is not None:
            raise ValueError("data.outliers are for images of one class each: leave them out with multilabel")
        if self.multilabel is not None and self.loss.task != "none":
            raise ValueError("images with several labels need loss.task none and a term such as pick_all_label")
        if self.multilabel is not None and (self.augment.mixup or self.augment.cutmix):
            raise ValueError("augment.mixup and cutmix mix images of one label: leave them out with multilabel")
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
