"""Writes docs/detectors.md: the catalogue, and every detector measured on a public CIFAR-10 ResNet-20.

    python docs/detectors.py --data-dir DIR [--output docs/detectors.md] [--limit N]

DIR holds cifar10_jpg.tar.xz, tinyimagenet_dev100.tar.xz, flowers5.tar, dtd5_128px.tar, mnist.npz, fashion_mnist.npz and
weights/resnet20-12fca82f.th (github.com/akamaster/pytorch_resnet_cifar10, BSD-2).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ood_nc.data import ImageDataset, limit_per_class, limit_total, open_dataset, stratified_split
from ood_nc.detection import detector_class, list_detectors
from ood_nc.evaluation import Results, evaluate
from ood_nc.files import write_text
from ood_nc.models import ControlledModel, load_weights

OOD = {
    "Tiny ImageNet": "tinyimagenet_dev100.tar.xz::val",
    "flowers": "flowers5.tar",
    "textures": "dtd5_128px.tar",
    "MNIST": "mnist.npz::test",
    "Fashion-MNIST": "fashion_mnist.npz::test",
}
INTRODUCTION = """# Detectors

Every detector is one file in `ood_nc/detection/detectors/`, with its paper, its formula, what it needs and what it costs
in the docstring and in `info`; `ood-nc list detectors` shows them. Scores are larger for more in-distribution samples.

```python
from ood_nc.detection import TapQueries, TapStatistics, create_detector

train = TapStatistics(features, labels, logits=logits, head=(W, b))      # what several detectors share is computed once
queries = TapQueries(new_features, logits=new_logits)
scores = {name: create_detector(name).fit(train).score(queries) for name in ("energy", "mahalanobis", "vim")}
```

A detector of kind *input* reads images through the network: `create_detector("odin").fit(network, batches).score(images)`.
Neighbours among hundreds of thousands of features, and what is known without a feature bank: [features.md](features.md).
"""
CATALOGUE = """
## Catalogue

| name | paper | needs | kind | graph |
|---|---|---|---|---|
{rows}

*graph*: exports to ONNX and `torch.export` (`ood-nc export`). All hyper-parameters: `create_detector(NAME)`.
"""
LEFT_OUT = """
## Left out, and why

| | |
|---|---|
| trained for it | ConfBranch, G-ODIN, MOS, MCD, CIDER, NPOS, RotPred, T2FNorm, ASCOOD, ReweightOOD, RTS, DeepSVDD, weighted energy: they need a training objective or branch of their own; what is post-hoc in them (k-NN, energy) is here |
| generative | OpenGAN, DRAEM, CutPaste, RD4AD, PatchCore: anomaly detectors with networks or patch memories of their own |
| vision-language | MCM and other CLIP scores: no classifier head to read |
| ensembles of networks | deep ensembles: score each and combine them with `ScoreEnsemble` |
| the same score | OpenOOD's `ebo`, `mls`, `mds`, `dropout` are `energy`, `max_logit`, `mahalanobis`, `mc_dropout`; DKNN is `knn` |
"""
PEERS = """
## Beside other libraries

On the same data and with the choices below aligned, scores agree with pytorch-ood 0.4 and oodeel 0.4 to 1e-5 or better, up to
sign and scale. Where numbers differ, this is why:

| detector | elsewhere | here |
|---|---|---|
| `entropy`, `gen`, `klm`, `msp` | softmax in the precision of the logits, or clamped at 1e-7: ranks are lost on confident networks | float64, from log-probabilities |
| `temperature` | 50 steps of L-BFGS, which stop short (T 1.24 where 2.94 is best) | Newton's method to the optimum; scored by log-odds |
| `knn` | squared distances (faiss), k = 1, no normalisation, or float32 products that cannot tell collapsed features apart | the k-th distance, k = 50, normalised, right to float64 |
| `mahalanobis`, `relative_mahalanobis` | half the distance, a scatter in place of a covariance, + 1e-6 I; oodeel perturbs the inputs by default | the squared distance, over n, pseudo-inverse |
| `vim`, `residual` | oodeel centres on the feature mean (its `pseudo` origin has no effect) and takes one dimension too few; OpenOOD fits `residual` on validation data | u = -W^+ b, fitted on ID train |
| `she` | oodeel takes the best of all classes; a class without a correct sample is an error or NaN | the predicted class's pattern; all samples of a class where none is correct |
| `scale`, `ash_*`, `lts` | oodeel cuts at an interpolated quantile; zero rows give NaN | the k largest, k = d - round(d p / 100), as in the papers' code; ties share; zero rows score 0 activations |
| `openmax` | Weibull fitted on all samples of a class; distances to classes predicted in the same batch only | correctly classified samples; independent of the batch |
| `nnguide` | K = 10 with the whole bank, or the loader's first 1 % | K = 100, a seeded 1 %, never fewer than K |
| `pnml` | without the head's bias and the part outside the span, over log C | as the authors' code, in nats |
| `nac_ue` | bins spaced geometrically | even bins, as the authors |
| `react`, `vra` | OpenOOD takes percentiles on validation data | on ID train |
| `gram` | quantiles in place of the range, grouped by label, roots of entries | the authors' notebook: row sums, by prediction, held-out scale |
| `odin`, `iodin` | zero gradients count as +1; oodeel's step is .014 | zero gradients do not move; .0014 |
| `mc_dropout` | softmax of the mean logits (OpenOOD) | mean of the softmax |
"""
MEASURED = """
## Measured: CIFAR-10, ResNet-20

The public weights `resnet20-12fca82f.th`, untouched. The images are JPEG copies of CIFAR-10, which costs the network some
accuracy: {accuracy:.2%} on {n_test:,} test images, where the weights' author reports 91.7 %. Fitted on the encoder features (64 wide) of {n_train:,} training images, defaults everywhere. AUROC in %, and the mean of FPR95 over the
five sets in both conventions; {sizes}. One network and one seed: the order among the best says little, the spread much.

| detector | {sets} | mean AUROC | FPR95, ID positive | FPR95, OOD positive |
|---|{rule}---|---|---|
{rows}

With hyper-parameters chosen on held-out ID images against synthetic outliers made of them alone (`--choose synthetic`; no
OOD image is seen), the mean AUROC becomes:

| detector | defaults | chosen | setting |
|---|---|---|---|
{chosen}

Written by `docs/detectors.py`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("detectors.md"))
    parser.add_argument("--limit", type=int, help="at most so many images a class (train) and a set (the others)")
    parser.add_argument("--cache", type=Path, help="folder of feature banks")
    arguments = parser.parse_args()
    names = list_detectors()
    plain, chosen = measured(arguments.data_dir, names, arguments.limit, arguments.cache)
    catalogue = CATALOGUE.format(rows="\n".join(map(catalogue_row, names)))
    parts = [INTRODUCTION, catalogue, LEFT_OUT, PEERS, table(plain, chosen)]
    write_text(arguments.output, "".join(parts))


def catalogue_row(name: str) -> str:
    cls = detector_class(name)
    graph = "yes" if getattr(cls, "closed_form", False) else ""
    paper = f"[{cls.info.title}]({cls.info.url}), {cls.info.venue}"
    return f"| `{name}` | {paper} | {cls.info.needs} | {cls.kind} | {graph} |"


def measured(folder: Path, names: list[str], limit: int | None, cache: Path | None) -> tuple[Results, Results]:
    model = ControlledModel("cifar_resnet20", 10, projector=None, taps=("encoder",))
    load_weights(model, folder / "weights" / "resnet20-12fca82f.th")
    train = opened(folder, "cifar10_jpg.tar.xz::train")
    if limit is not None:
        train = limit_per_class(train, limit)
    kept, held_out = stratified_split(train.targets, 0.1, 0)
    sets: dict[str, Any] = {
        "id": limited(opened(folder, "cifar10_jpg.tar.xz::test"), limit),
        "id_train": train.subset(kept),
        "id_val": train.subset(held_out),
        "ood": {name: limited(opened(folder, source), limit) for name, source in OOD.items()},
    }
    model.class_names = train.class_names
    options: dict[str, Any] = {"bootstrap": 0, "probes": [], "batch_size": 256, "cache": cache}
    plain = evaluate(model, **sets, **options, detectors=names)
    features = [name for name in names if detector_class(name).kind == "feature"]
    return plain, evaluate(model, **sets, **options, detectors=features, choose="synthetic")


def opened(folder: Path, source: str) -> ImageDataset:
    return open_dataset(source, root=folder)


def limited(dataset: ImageDataset, limit: int | None) -> ImageDataset:
    return dataset if limit is None else limit_total(dataset, limit)


def table(plain: Results, chosen: Results) -> str:
    methods = {row["method"] for row in plain.select(kind="detection", metric="auroc")}
    means = {method: mean(plain, method, "auroc") for method in methods}
    order = sorted(methods, key=lambda method: -(means[method] or 0))
    datasets = plain.identity["datasets"]
    (accuracy,) = plain.select(kind="accuracy", method="head", metric="accuracy", dataset="id_test")
    return MEASURED.format(
        accuracy=accuracy["value"],
        n_test=datasets["id_test"]["n"],
        n_train=datasets["id_train"]["n"],
        sizes=", ".join(f"{name} {datasets[name]['n']:,}" for name in OOD),
        sets=" | ".join(OOD),
        rule="---|" * len(OOD),
        rows="\n".join(measured_row(plain, method) for method in order),
        chosen="\n".join(chosen_row(plain, chosen, method) for method in order if was_chosen(chosen, method)),
    )


def measured_row(results: Results, method: str) -> str:
    cells = [percent(value(results, method, "auroc", name)) for name in OOD]
    cells += [percent(mean(results, method, metric)) for metric in ("auroc", "fpr95_id_positive", "fpr95_ood_positive")]
    return f"| `{method}` | {' | '.join(cells)} |"


def chosen_row(plain: Results, chosen: Results, method: str) -> str:
    cells = [percent(mean(results, method, "auroc")) for results in (plain, chosen)]
    _, _, setting = setting_of(chosen, method).partition("(")
    return f"| `{method}` | {' | '.join(cells)} | {setting.removesuffix(')')} |"


def was_chosen(chosen: Results, method: str) -> bool:
    return bool(setting_of(chosen, method))


def setting_of(chosen: Results, method: str) -> str:
    rows = chosen.select(kind="detection", method=method, metric="auroc", dataset=next(iter(OOD)))
    return (rows[0]["selected_on"] or "") if rows and rows[0]["value"] is not None else ""


def mean(results: Results, method: str, metric: str) -> float | None:
    return value(results, method, metric, "mean", group="ood")


def value(results: Results, method: str, metric: str, dataset: str, **where: str) -> float | None:
    rows = results.select(kind="detection", method=method, metric=metric, dataset=dataset, **where)
    return rows[0]["value"] if rows else None


def percent(number: float | None) -> str:
    return "-" if number is None else f"{100 * number:.1f}"


if __name__ == "__main__":
    main()
