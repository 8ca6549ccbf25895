"""``ood-nc private-head``: a differentially private classifier on frozen features, beside the same without privacy."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from ood_nc.cli.command import Command, find_config
from ood_nc.cli.places import check_place
from ood_nc.cli.show import say, table
from ood_nc.config import parse_yaml
from ood_nc.errors import UserError, nearest
from ood_nc.files import write_lock

if TYPE_CHECKING:
    import torch

    from ood_nc.evaluation import Results
    from ood_nc.privacy import PrivateHead, Statement

_SETTINGS: dict[str, type] = {
    **{"epsilon": float, "delta": float, "method": str, "steps": int, "batch_size": int, "learning_rate": float},
    **{"clip": float, "accountant": str, "normalize": bool, "center": bool, "components": int, "share": float},
}
"""What `fit_private_head` is asked for."""


_DETECTORS = ["msp", "energy", "knn", "mahalanobis"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", nargs="?", type=Path, help="a finished run directory")
    parser.add_argument(
        "--features", metavar="FILE|DIR", type=Path, help="features instead of a run, laid out as evaluate takes them"
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of the options below, by name (epsilon: 4)")
    parser.add_argument("--tap", metavar="NAME", help="where [what the head reads]")
    parser.add_argument("--epsilon", type=float, help="the budget, never exceeded")
    parser.add_argument("--delta", type=float, help="the probability that is left; below 1/N")
    parser.add_argument("--method", choices=("noisy_gd", "dp_sgd"), help="full batches [noisy_gd], or Poisson samples")
    parser.add_argument("--steps", type=int, help="of the training [100]")
    parser.add_argument("--batch-size", type=int, help="mean size of a Poisson sample [a tenth of the records]")
    parser.add_argument("--learning-rate", type=float, help="of the mean gradient [10]")
    parser.add_argument("--clip", type=float, help="largest norm of a sample's gradient [1]")
    parser.add_argument("--accountant", choices=("analytic", "zcdp", "rdp", "prv"), help="[analytic; dp_sgd: prv]")
    parser.add_argument(
        "--normalize", action=argparse.BooleanOptionalAction, default=None, help="features to unit norm [yes]"
    )
    parser.add_argument("--center", action="store_true", default=None, help="subtract a mean")
    parser.add_argument("--components", type=int, help="project onto so many principal directions")
    parser.add_argument(
        "--public", metavar="FILE.npy", type=Path, help="public features (M, d) for mean and directions; else paid for"
    )
    parser.add_argument("--share", type=float, help="share of the budget that those cost [0.2]")
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="one head each, of reproducible noise, paid for each [one of fresh noise]"
    )
    parser.add_argument("--detectors", nargs="+", help="of the results [msp energy knn mahalanobis]")
    parser.add_argument("-o", "--file", metavar="FILE", type=Path, required=True, help="the head, with its statement")


def _execute(arguments: argparse.Namespace) -> int:
    _read_preset(arguments)
    if (arguments.run is None) == (arguments.features is None):
        raise UserError("private-head takes either RUN, or --features FILE: give one of the two.")
    if arguments.epsilon is None or arguments.delta is None:
        raise UserError("private-head needs --epsilon and --delta, e.g. --epsilon 4 --delta 1e-5.")
    if not arguments.file.suffix:  # the folder of the results would take its name
        raise UserError(
            f"-o {arguments.file}: the results go into a folder of that name: call the file otherwise, "
            f"e.g. {arguments.file}.safetensors."
        )
    seeds = arguments.seeds or [0]
    if min(seeds) < 0 or max(seeds) >= 2**63 or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds are different numbers from 0 to 2**63 - 1, got {' '.join(map(str, seeds))}.")
    _check_detectors(arguments.detectors or _DETECTORS)
    for seed in arguments.seeds or [None]:
        check_place(_file(arguments.file, seed), "private head", lambda header: header.get("kind") == "private head")
    sets, tap = _features(arguments)
    settings = {name: value for name in _SETTINGS if (value := getattr(arguments, name)) is not None}
    public = None if arguments.public is None else _public(arguments.public)
    with write_lock(arguments.file):
        shown = _fit_seeds(arguments, sets, tap, settings, public)
    table("private and not", ["head", "accuracy", "NC3", "mean AUROC, energy"], shown)
    return 0


def _check_detectors(names: list[str]) -> None:
    """Refuse what cannot be measured before a head is trained, which costs the budget."""
    from ood_nc.detection import detector_class
    from ood_nc.evaluation.names import check_names

    for name in check_names(names, ()):
        if detector_class(name).kind != "feature":
            raise UserError(f"Detector {name!r} needs the network, not features alone: leave it out.")


def _fit_seeds(
    arguments: argparse.Namespace, sets: dict[str, torch.Tensor], tap: str, settings: dict[str, Any], public: Any
) -> list[list[str]]:
    """Fit, measure and keep a private head and one without privacy for each seed; a line of numbers for each."""
    private: list[tuple[int | None, Path, PrivateHead]] = []
    shown = []
    for seed in arguments.seeds or [None]:
        file, head = _file(arguments.file, seed), _fit(sets, settings, public, seed)
        head.save(file)
        say(f"{file}: {head.statement}")
        private.append((seed, file, head))
    together = _together([head.statement for _, _, head in private])
    for seed, file, head in private:
        free = _fit(sets, {**settings, "epsilon": math.inf}, public, seed)
        for kind, one in (("private", head), ("nonprivate", free)):
            directory = file.with_suffix("") / (kind if seed is None else f"{kind}-seed{seed}")
            results = _measure(one, sets, tap, seed or 0, arguments.detectors, directory, together)
            shown.append([directory.name, *_summary(results)])
            say(f"results: {directory} (for the report: ood-nc report {directory})")
    if together is not None:
        say(together["told"])
    return shown


def _file(file: Path, seed: int | None) -> Path:
    return file if seed is None else file.with_name(f"{file.stem}-seed{seed}{file.suffix}")


def _together(statements: Sequence[Statement]) -> dict[str, Any] | None:
    """What the heads of several seeds cost together, tightly and added up; None for one."""
    from ood_nc.privacy import compose

    if len(statements) == 1:
        return None
    tight, heads = compose(statements), len(statements)
    added = {name: sum(getattr(statement, name) for statement in statements) for name in ("epsilon", "delta")}
    told = (
        f"The {heads} private heads read the same records: who sees them all has "
        f"({tight.epsilon:.4g}, {tight.delta:g})-differential privacy (accountant {tight.accountant}); added up, "
        f"({added['epsilon']:.4g}, {added['delta']:g})."
    )
    return {"heads": heads, "statement": tight.to_dict(), "added": added, "told": told}


def _read_preset(arguments: argparse.Namespace) -> None:
    """Fill in from the file what no flag says."""
    if arguments.config is None:
        return
    path = find_config(arguments.config)
    try:
        preset = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, UserError) as error:
        raise UserError(f"Cannot read {path} ({error}).") from None
    known: dict[str, Any] = {**_SETTINGS, "tap": str, "seeds": list[int], "detectors": list[str]}
    if not isinstance(preset, dict):
        raise UserError(f"{path} must hold options by name, e.g. epsilon: 4.")
    for key, value in preset.items():
        if key not in known:
            raise UserError(f"{path}: unknown option {key!r}.{nearest(str(key), known)}")
        try:
            value = TypeAdapter(known[key]).validate_python(value)
        except ValidationError as error:
            raise UserError(f"{path}: {key}: {error.errors()[0]['msg']}, got {value!r}.") from None
        if getattr(arguments, key) is None:
            setattr(arguments, key, value)


def _public(path: Path) -> Any:
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read {path} ({error}): expected one array (M, d) in an .npy file.") from None


def _features(arguments: argparse.Namespace) -> tuple[dict[str, torch.Tensor], str]:
    """The features at one tap by set, with the labels as ``SET/labels``, and the tap's name."""
    from ood_nc.evaluation.feature_sets import feature_bank, open_features

    if arguments.features is not None:
        model, given = open_features(arguments.features)
        bank = feature_bank
    else:
        model, given, bank = _of_run(arguments.run)
    tap = arguments.tap or model.head_tap
    if tap not in model.tap_info:
        raise UserError(f"No tap {tap!r}.{nearest(tap, model.tap_info)} There are {', '.join(model.tap_info)}.")
    groups = given["groups"]
    opened = {"id_train": given["id_train"], "id_test": given["id"]}
    opened |= {f"{groups.get(name, 'far')}/{name}": dataset for name, dataset in given["ood"].items() if dataset}
    sets: dict[str, torch.Tensor] = {}
    for name, dataset in opened.items():
        found = bank(dataset)
        sets |= {f"{name}/{tap}": found.taps[tap]}
        if bool((found.labels >= 0).all()):
            sets[f"{name}/labels"] = found.labels
    if "id_train/labels" not in sets:
        raise UserError("A head needs the labels of id_train: the features hold none.")
    return sets, tap


def _of_run(directory: Path) -> tuple[Any, dict[str, Any], Any]:
    from ood_nc.data import eval_transform, load_data
    from ood_nc.features import BankStore
    from ood_nc.training import load_run

    model, config = load_run(directory)
    if config.multilabel is not None:
        raise UserError(f"{directory} learnt images with several labels: a private head tells one class each.")
    data = load_data(config.data, seed=config.train.seed, workers=config.train.workers, check_images=False)
    if data.id_test is None:
        raise UserError(f"{directory} has no data.test: a head is tested on held-out ID images.")
    store, transform = BankStore(directory / "features"), eval_transform(model.preprocessing)
    given = {"id_train": data.id_train, "id": data.id_test, "ood": data.ood, "groups": data.groups}
    return model, given, lambda dataset: store.get(model, dataset.with_transform(transform))


def _fit(sets: dict[str, torch.Tensor], settings: dict[str, Any], public: Any, seed: int | None) -> PrivateHead:
    from ood_nc.privacy import fit_private_head

    tap = next(name for name in sets if name.startswith("id_train/") and not name.endswith("/labels"))
    labels = sets["id_train/labels"]
    classes = int(labels.max()) + 1
    return fit_private_head(sets[tap], labels, num_classes=classes, public=public, seed=seed, **settings)


def _measure(
    head: PrivateHead,
    sets: dict[str, torch.Tensor],
    tap: str,
    seed: int,
    detectors: list[str] | None,
    directory: Path,
    together: dict[str, Any] | None,
) -> Results:
    """Collapse, detection and accuracy of a head on the prepared features, as a run of its own."""
    from ood_nc.evaluation import evaluate

    prepared = {name: head.preparation(value) if name.endswith(f"/{tap}") else value for name, value in sets.items()}
    prepared |= {"head/weight": head.weight, "head/bias": head.bias}
    names = detectors or _DETECTORS
    results = evaluate(features=prepared, detectors=names, run=directory.name, seed=seed, device="cpu")
    results.identity["privacy"] = head.statement.to_dict()
    results.identity["notes"] += [
        f"head: {head.statement}",
        "the head alone is private: detectors fitted on features, and collapse, read the training features themselves",
    ]
    if together is not None and head.statement.epsilon < math.inf:
        results.identity["privacy"]["together"] = {key: value for key, value in together.items() if key != "told"}
        results.identity["notes"].append(together["told"])
    results.save(directory)
    return results


def _summary(results: Results) -> list[str]:
    cells = (
        {"kind": "accuracy", "dataset": "id_test", "metric": "accuracy", "method": "head"},
        {"kind": "collapse", "dataset": "id_train", "metric": "nc3_duality"},
        {"kind": "detection", "dataset": "mean", "group": "ood", "metric": "auroc", "method": "energy"},
    )
    found = ([row["value"] for row in results.select(**cell) if row["value"] is not None] for cell in cells)
    return [f"{values[0]:.3f}" if values else "-" for values in found]


COMMAND = Command(
    name="private-head",
    summary="Train a differentially private head on frozen features, and measure it beside the same without privacy.",
    examples="""  ood-nc private-head runs/trial --epsilon 4 --delta 1e-5 -o head.safetensors
  ood-nc private-head --features features.npz --epsilon 1 --delta 1e-5 --center --components 40 -o head.safetensors
  ood-nc private-head --features features.npz --config configs/privacy/paid-pca.yaml -o heads.safetensors
  ood-nc compare heads-seed0/nonprivate-seed0 heads-seed0/private-seed0""",
    add_arguments=_add_arguments,
    execute=_execute,
)
