"""The evaluation: one forward pass an image, then collapse, detection, transfer of every tap, and their relation."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ood_nc.arrays import ArrayLike
from ood_nc.config import EvaluationConfig, FineTuningConfig
from ood_nc.data import Source, TransferSource, jumbled
from ood_nc.detection import detector_class
from ood_nc.devices import choose_device
from ood_nc.errors import UserError
from ood_nc.evaluation.banks import extract_banks, same_taps, untaught_notes
from ood_nc.evaluation.choices import evidence_of, make_choices
from ood_nc.evaluation.collapse_relations import relate
from ood_nc.evaluation.ensembles import measure_ensemble
from ood_nc.evaluation.feature_sets import feature_bank, open_features
from ood_nc.evaluation.findings import Found, tested_sets
from ood_nc.evaluation.fine_tuning import ENCODER, check_fine_tuning, fine_tune
from ood_nc.evaluation.fitting import NONE, SYNTHETIC, BankExtractor, Tuning
from ood_nc.evaluation.full_spectrum import check_shifted, full_spectrum_rows
from ood_nc.evaluation.gallery import gallery
from ood_nc.evaluation.input_detectors import measure_input_detectors
from ood_nc.evaluation.inputs import open_inputs
from ood_nc.evaluation.measurement_plan import Plan, Resamples
from ood_nc.evaluation.names import check_names, check_numbers
from ood_nc.evaluation.paper import PaperTaps, measure_paper
from ood_nc.evaluation.results import FULL_SPECTRUM, PAPER, STRICT, Results
from ood_nc.evaluation.rules import MADE_IMAGES
from ood_nc.evaluation.run_identity import identify
from ood_nc.evaluation.scores_table import scores_table
from ood_nc.evaluation.streaming import Streamed, measure_streamed, skipped, stream
from ood_nc.evaluation.tap_measurements import add_detectors, add_probe, measure_taps, timed
from ood_nc.evaluation.transfer import measure_probe, order_notes
from ood_nc.features import BankStore
from ood_nc.models import weights_hash
from ood_nc.threads import beside_each_other


def evaluate(
    model: Any = None,
    *,
    id: Source | None = None,
    id_train: Source | None = None,
    id_val: Source | None = None,
    ood: Mapping[str, Source] | None = None,
    transfer: Mapping[str, TransferSource] | None = None,
    features: str | Path | Mapping[str, ArrayLike] | None = None,
    groups: Mapping[str, str] | None = None,
    detectors: Sequence[str] | None = None,
    ensembles: Sequence[str] = (),
    choose: str = NONE,
    probes: Sequence[str] | None = None,
    finetune: FineTuningConfig | None = None,
    bootstrap: int = 500,
    seed: int = 0,
    batch_size: int = 128,
    workers: int = 0,
    device: str | torch.device = "auto",
    amp: bool = False,
    cache: str | Path | BankStore | None = None,
    bank: bool = True,
    bank_dtype: str = "float32",
    run: str = "run",
    protocols: Sequence[str] = (STRICT,),
    feature_map: str = "pca",
) -> Results:
    """Measure every tap of a model: collapse, OOD detection, transfer, ID accuracy, and their relation.

    Protocol ``strict``: detectors and probes are fitted on ID (or transfer) train features alone, what they choose is
    chosen on a split held out of those, and every test split is read once. The linear classifier of a tap is the
    model's head where the head reads that tap, else a fresh linear probe of the ID train features. Every set passes
    through the model's own preprocessing. What cannot be measured is a null row with the reason; the rest goes on.

    Rows: ``collapse`` on ``id_train`` and ``id_test``; ``detection`` by OOD set (its n counts OOD images; n of ID and
    the base rate stand in the identity), once more as ``NAME (disjoint)`` where the set shares images or classes with
    ID, and as dataset ``mean`` by group (its n counts sets); ``transfer`` likewise; ``accuracy`` on ID.

    Args:
        model: a `ControlledModel`, a timm model, or any module that maps images to (B, d) (`open_model`).
        id: held-out ID images: a source (`ood_nc.data.open_dataset`), a data set, a torch ``Dataset`` or
            ``DataLoader`` of (image, label); the other sets likewise.
        id_train: ID training images; without them half of ``id`` is fitted on.
        id_val: ID images that were not trained on, for what is settled before the test (ensembles, choices, detectors
            that fit on held-out ID); where needed and not given, a tenth of ``id_train``. Where it is given, more rules
            choose a tap and detector (`ood_nc.evaluation.rules`).
        ood: OOD sets by name.
        transfer: transfer tasks by name: (train, test), or one set, of which a fifth is the test part.
        features: features from elsewhere instead of a model and images: a file, a folder or arrays by name, laid out as
            `ood_nc.evaluation.feature_sets` says.
        groups: near, far (when not given) or covariate of each OOD set; of features, in place of what their names say.
        detectors: names and globs; the configuration's default when not given. Input detectors (those that need the
            network itself) must be named in full.
        ensembles: of rank, zscore, fisher, brown: each combines every detector over the taps (its rows stand at the tap
            that the head reads), and the detectors at each tap.
        choose: how hyper-parameters of detectors are chosen: ``none`` (defaults), ``synthetic`` (held-out ID against
            outliers made from it), or the name of an OOD set, which is then in no result. ``selected_on`` says which.
        probes: names (`ood-nc list probes`); linear, knn and nearest_mean when not given.
        finetune: a part of the backbone that learns each transfer task, and how: ``FineTuningConfig(part="layer4")`` of
            `ood_nc.config`; one more probe of the encoder, named after both.
        bootstrap: replicates of each interval, 0 for none.
        seed: of probes and intervals.
        batch_size: images a forward pass.
        workers: processes that load images.
        device: where the model and the measurements run; ``auto`` takes a GPU where there is one.
        amp: extract under autocast.
        cache: folder of feature banks, or a store of them; nothing is kept when not given.
        bank: False keeps no features, in memory or on disk: what class statistics and one look at each image give
            (`ood_nc.evaluation.streaming`), with the head alone for a classifier; the rest is null rows.
        bank_dtype: what features are kept in: float32, float16 or bfloat16. Logits are float32.
        run: name of the run in the results.
        protocols: of strict, paper and full_spectrum (beside strict); each row says which. All come from one forward
            pass.
        feature_map: how the report's map places encoder and projector: ``pca``, or ``umap`` (extra ``umap``).

    Under `torch.distributed` the processes share the forward passes; the first one measures, and the others return
    results without rows.

    Raises:
        UserError: a source cannot be opened, or a detector, probe, group or protocol is unknown.

    Example:
        >>> import numpy as np
        >>> from ood_nc.evaluation import evaluate
        >>> at = lambda *means: np.repeat(np.eye(3, dtype="float32")[list(means)], 20, axis=0)
        >>> noise = np.random.default_rng(0).normal(scale=0.1, size=(60, 3)).astype("float32")
        >>> arrays = {"id_train/encoder": at(0, 1, 2) + noise, "id_train/labels": np.repeat([0, 1, 2], 20),
        ...           "id_test/encoder": at(0, 1, 2) - noise, "id_test/labels": np.repeat([0, 1, 2], 20),
        ...           "ood/far/encoder": -5 * at(0, 0) - noise[:40]}
        >>> results = evaluate(features=arrays, detectors=["knn"], probes=["nearest_mean"], bootstrap=0)
        >>> [round(row["value"], 3) for row in results.rows if row["metric"] == "auroc" and row["dataset"] == "far"]
        [1.0]
    """
    start = time.perf_counter()
    device = choose_device(device)
    defaults = EvaluationConfig()
    probes = defaults.probes if probes is None else probes
    names = check_names(
        defaults.detectors if detectors is None else detectors, probes, ensembles, protocols, feature_map
    )
    # What is named twice is measured once.
    probes, ensembles, protocols = (list(dict.fromkeys(given)) for given in (probes, ensembles, protocols))
    check_numbers(bootstrap=(bootstrap, 0), seed=(seed, 0), batch_size=(batch_size, 1), workers=(workers, 0))
    kinds = {name: detector_class(name).kind for name in names}
    featured = [name for name in names if kinds[name] == "feature"]
    holds_out = bool(ensembles) or choose != NONE or any(detector_class(name).fits_on_held_out for name in featured)
    sets: dict[str, Any] = {
        "id": id,
        "id_train": id_train,
        "id_val": id_val,
        "ood": ood or {},
        "transfer": transfer or {},
    }
    if features is not None:
        if model is not None or any(sets.values()):
            raise UserError("Features bring all sets with them: give features, or a model with id, not both.")
        _check_features(names, featured, protocols)
        model, sets = open_features(features)
    elif model is None or id is None:
        raise UserError("evaluate needs a model and id, its held-out ID images; or features.")
    if not bank and (features is not None or PAPER in protocols or choose != NONE):
        raise UserError(
            "Without a bank there are no features to read, to choose on or for the paper protocol: keep one."
        )
    sets["groups"] = {**sets.get("groups", {}), **(groups or {})}
    choose_on = None if choose in (NONE, SYNTHETIC) else choose
    model, inputs = open_inputs(model, **sets, holds_out=holds_out, choose_on=choose_on)
    check_shifted(protocols, inputs.groups.values())
    tuned = finetune or FineTuningConfig()
    if tuned.part:
        if features is not None or not bank:
            raise UserError("Fine-tuning (finetune) needs a model, its images and a bank of their features.")
        check_fine_tuning(model, tuned)
    clock = {"preparation": time.perf_counter() - start}
    weights, streamed = weights_hash(model) if features is None else None, None
    options = {"batch_size": batch_size, "workers": workers, "device": device, "amp": amp}
    with timed(clock, "features"):
        tapped = PaperTaps(model) if PAPER in protocols else model
        if features is not None:
            banks = extract_banks(inputs, feature_bank)
        elif not bank:
            streamed = stream(model, inputs, featured, **options)
            banks = streamed.banks
        else:
            extractor = BankExtractor(tapped, cache, weights=weights, dtype=bank_dtype, **options)
            banks = extract_banks(inputs, extractor, begin=extractor.begin)
    preferred = (model.head_tap, "encoder")
    aliases = same_taps(model.tap_names, banks, preferred=preferred) if bank else {tap: [] for tap in model.tap_names}
    if bank and inputs.id_val is not None and inputs.id_val.transform is not None:
        with timed(clock, "features"):
            banks[MADE_IMAGES] = extractor(jumbled(inputs.id_val))
    if dist.is_available() and dist.is_initialized() and dist.get_rank() > 0:
        return Results(rows=[])
    inputs.notes += [f"{name} is the same tensor as {tap}: measured once" for tap in aliases for name in aliases[tap]]
    inputs.notes += untaught_notes(inputs, banks)
    plan = Plan(
        model=model,
        inputs=inputs,
        banks=banks,
        detectors=featured,
        taps=list(aliases),
        input_detectors=[name for name in names if kinds[name] == "input"],
        ensembles=ensembles,
        tuning=None if choose == NONE else Tuning(choose, seed),
        probes=probes,
        resamples=Resamples(bootstrap, seed),
        seed=seed,
        device=device,
        base={"run": run, "seed": seed, "protocol": STRICT},
        loading={"batch_size": batch_size, "workers": workers},
        feature_map=feature_map,
    )
    found = Found()
    if STRICT in protocols:
        _measure_strictly(plan, found, clock, tuned, streamed)
    if FULL_SPECTRUM in protocols:
        found.rows += full_spectrum_rows(plan, found)
    if PAPER in protocols:
        with timed(clock, "paper"):
            held_out = inputs.id_val is not None and id_val is None
            measure_paper(plan, tapped, found, held_out=held_out)
    inputs.notes += [*order_notes(found.rows, model.num_classes), *found.notes]
    identity = identify(
        model,
        inputs,
        aliases,
        weights_hash=weights,
        **{**plan.base, "protocol": ", ".join(protocols)},
        detectors=names,
        ensembles=ensembles,
        choose=choose,
        probes=probes,
        bootstrap=bootstrap,
    )
    with timed(clock, "relations"):
        results = _related(plan, found, identity, strict=STRICT in protocols)
    identity["seconds"] = {**clock, "total": time.perf_counter() - start}
    return results


def _check_features(names: Sequence[str], featured: Sequence[str], protocols: Sequence[str]) -> None:
    """Refuse what features alone do not serve for."""
    if PAPER in protocols:
        raise UserError("The paper protocol reads tensors of its own, which features from elsewhere do not hold.")
    if len(featured) < len(names):
        raise UserError(f"Detector {(set(names) - set(featured)).pop()!r} needs the network, not features alone.")


def _measure_strictly(
    plan: Plan, found: Found, clock: dict[str, float], tuned: FineTuningConfig, streamed: Streamed | None
) -> None:
    """Every tap by its bank, or by what the passes left; the fine-tuned part; what no single tap gives."""
    if streamed is None:
        measure_taps(plan, found, clock)
    else:
        for name, rows, measured in measure_streamed(plan, streamed):
            found.rows += rows
            add_detectors(plan, found, name, measured)
        found.notes.append(skipped(streamed, plan.probes))
    if tuned.part:
        with timed(clock, "transfer"):
            fine_tuned = functools.partial(fine_tune, plan, tuned)
            add_probe(found, ENCODER, measure_probe(tuned.method, fine_tuned, ENCODER, plan))
    with timed(clock, "detection"):
        _measure_network(plan, found)


def _related(plan: Plan, found: Found, identity: dict[str, Any], *, strict: bool) -> Results:
    """The results: rows, scores, relations, choices, and what the report draws."""
    results = Results(rows=found.rows, identity=identity)
    with beside_each_other(min(2, torch.get_num_threads())) as begin:
        shown = begin(gallery, plan, found, identity)
        results.scores = scores_table(tested_sets(plan, found))
        results.relations = relate(results.main_rows, replicates=plan.resamples.replicates, seed=plan.seed)
        if strict:  # the rules speak of the model's own taps
            results.choices = make_choices(results.main_rows, evidence_of(plan, found, results.main_rows, identity))
        results.series = found.series | {"gallery": shown()}
    return results


def _measure_network(plan: Plan, found: Found) -> None:
    """What no single tap gives: ensembles over the taps, and detectors that need the whole network."""
    tap = plan.model.head_tap
    for combine in plan.ensembles:
        for name in plan.detectors:
            members = [scores[name] for scores in found.scores.values() if name in scores]
            method = f"{combine}({name} over taps)"
            found.add(tap, method, measure_ensemble(plan, members, combine, tap, method))
    if not plan.input_detectors:
        return
    for name, one in measure_input_detectors(plan).items():
        found.add(tap, name, one)
        found.draw(tap, name, one)
