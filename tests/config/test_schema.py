from __future__ import annotations

import pytest

from ood_nc.config import load
from ood_nc.errors import UserError

NAN, INF = float("nan"), float("inf")

BAD = [
    ("train.seed", -1), ("train.seed", 2**63), ("train.seed", 1.5), ("train.seed", True), ("train.seed", "a"),
    ("train.epochs", 0), ("train.epochs", -3), ("train.epochs", True), ("train.epochs", 1e300), ("train.epochs", NAN),
    ("train.batch_size", 0), ("train.batch_size", -8), ("train.batch_size", 10**12), ("train.batch_size", [4]),
    ("train.grad_accum_steps", 0), ("train.clip_grad", 0), ("train.clip_grad", -1), ("train.clip_grad", INF),
    ("train.workers", -1), ("train.workers", 10**6), ("train.device", ""), ("train.amp_dtype", "float8"),
    ("train.amp", "perhaps"), ("train.log_interval", 0), ("train.track_interval", -1),
    ("train.checkpoint_interval", -1), ("optim.lr", 0), ("optim.lr", -0.1), ("optim.lr", INF), ("optim.lr", NAN),
    ("optim.lr", True), ("optim.lr", 1e30), ("optim.lr_base_size", 0), ("optim.weight_decay", -1),
    ("optim.weight_decay", INF), ("optim.momentum", 1), ("optim.opt", ""), ("optim.opt_kwargs", {"eps": NAN}),
    ("optim.sched", "cosin"), ("optim.warmup_epochs", -1), ("optim.warmup_lr", -1e-3), ("optim.min_lr", INF),
    ("optim.decay_epochs", 0), ("optim.decay_rate", 0), ("optim.decay_milestones", [0, 5]),
    ("augment.scale", [5, 1]), ("augment.scale", [0.5, 0.1]), ("augment.scale", [0, 1]), ("augment.scale", [0.5]),
    ("augment.ratio", [2, 1]), ("augment.ratio", [-1, 1]), ("augment.hflip", 1.5), ("augment.reprob", -0.1),
    ("augment.color_jitter", INF), ("augment.mixup", -1), ("augment.cutmix", NAN), ("augment.aug_repeats", -1),
    ("loss.smoothing", 1), ("loss.smoothing", -0.1), ("loss.entropy_weight", NAN), ("loss.entropy_weight", INF),
    ("loss.entropy_weight", {"encoder": NAN}), ("loss.entropy_weight", {"": 1}), ("loss.task", "hinge"),
    ("model.name", ""), ("model.name", "a\0b"), ("model.taps", []), ("model.taps", [""]), ("model.taps", ","),
    ("model.img_size", 4), ("model.img_size", 10**9), ("model.in_chans", 0), ("model.num_classes", 1),
    ("model.drop", 1), ("model.drop_path", -0.5), ("model.projector.depth", 0), ("model.projector.width", INF),
    ("model.projector.dim", 0), ("model.crop_pct", 1e-300), ("model.kwargs", {"a": [1, INF]}), ("model.checkpoint", ""),
    ("data.train", ""), ("data.train", "a\nb"), ("data.val_fraction", 0), ("data.val_fraction", 1), ("data.limit", 0),
    ("data.eval_limit", -5), ("data.ood", {"mean": "x"}), ("data.ood", {"../x": "y"}), ("data.ood", {"": "y"}),
    ("data.ood", {"a": ""}), ("data.transfer", {"id_test": "x"}), ("data.transfer", {"a/b": "x"}),
    ("data.ood", {"x (disjoint)": "y"}),
    ("evaluation.batch_size", 0), ("evaluation.bootstrap", -1), ("evaluation.bootstrap", 10**9),
    ("evaluation.detectors", [""]), ("evaluation.detectors", 5), ("tracking.wandb_project", ""),
    ("tracking.wandb_project", "a/b"), ("output", ""), ("experiment", "../../x"), ("experiment", ".."),
    ("experiment", "a/b"), ("experiment", "/tmp/x"), ("experiment", ""), ("experiment", " "), ("experiment", "a\tb"),
    ("experiment", "x" * 300), ("experiment", "\ud800"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_value_without_meaning_is_refused_by_its_key(key: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"^{key}\b.* \(in flags\)") as caught:
        load(None, {key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optim.warmup_epochs": 1_000_000}, r"optim\.warmup_epochs is 1000000, more than train\.epochs.* 100"),
        ({"intermediate.images": 8, "train.patience": 2}, r"which train\.patience moves"),
        ({"optim.min_lr": 1e30}, r"optim\.min_lr is 1e\+30, more than optim\.lr"),
        ({"optim.warmup_epochs": 1, "optim.warmup_lr": 0.5}, r"optim\.warmup_lr is 0\.5, more than optim\.lr"),
        ({"evaluation.choose": "texture", "data.ood": {"textures": "x"}}, r"choose is 'texture'.*synthetic, textures"),
    ],
)
def test_values_that_do_not_fit_each_other_are_refused(overrides: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(None, overrides)


def test_what_a_schedule_does_not_use_is_not_compared() -> None:
    assert load(None, {"optim.sched": "none", "optim.warmup_epochs": 1000, "optim.min_lr": 1.0}).optim.min_lr == 1.0
    assert (
        load(None, {"optim.lr": 1e-12}).optim.lr == 1e-12
    )  # the default warm-up rate is higher, and there is no warm-up
    assert load(None, {"optim.warmup_epochs": 3, "train.epochs": 3}).optim.warmup_epochs == 3
