"""What each metric is called in the report, its unit, which direction is better, and its convention."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """How one metric is shown.

    Attributes:
        label: what it is called; it names its convention.
        unit: ``percent``, ``number`` or ``correlation``.
        better: ``higher``, ``lower``, or empty where neither is better in itself.
        meaning: a sentence for the glossary.
    """

    label: str
    unit: str
    better: str
    meaning: str


def _share(label: str, better: str, meaning: str) -> Metric:
    return Metric(label, "percent", better, meaning)


def _collapse(label: str, meaning: str, unit: str = "number") -> Metric:
    return Metric(label, unit, "", meaning)


_DETECTION = {
    "auroc": _share(
        "AUROC", "higher", "Probability that an ID sample scores above an OOD sample, ties counted half; 50 % is chance."
    ),
    "fpr95_id_positive": _share(
        "FPR95 (ID positive)",
        "lower",
        "Share of OOD samples accepted at the threshold that accepts at least 95 % of the ID samples.",
    ),
    "fpr95_ood_positive": _share(
        "FPR95 (OOD positive)",
        "lower",
        "Share of ID samples rejected at the threshold that rejects at least 95 % of the OOD samples (OpenOOD's convention).",
    ),
    "fpr95_paper": _share(
        "FPR95 (paper: ID positive, rounded rank)",
        "lower",
        "Share of OOD scores strictly above the ID score of rank round(0.05 n), the rule of the ICML 2025 code.",
    ),
    "aupr_in": _share(
        "AUPR-in (ID positive)",
        "higher",
        "Step-wise average precision with ID as the positive class; depends on the base rate n ID : n OOD.",
    ),
    "aupr_out": _share(
        "AUPR-out (OOD positive)",
        "higher",
        "Step-wise average precision with OOD as the positive class; depends on the base rate n ID : n OOD.",
    ),
    "detection_error": _share(
        "Detection error", "lower", "Smallest mean of the two error rates over all thresholds, both classes weighted equally."
    ),
}

_TRANSFER = {
    "accuracy": _share("Accuracy", "higher", "Share of samples whose top-1 prediction is right, on a split read once."),
    "transfer_error": _share("Transfer error", "lower", "1 − accuracy of a probe on a transfer set."),
    "1-auroc": _share("1 − AUROC", "lower", "Detection error in terms of ranking: 1 − AUROC."),
}

_COLLAPSE = {
    "nc1_pinv": _collapse("NC1 (pseudo-inverse)", "tr(Σ_W Σ_B⁺)/C, within- against between-class scatter; 0 = collapsed."),
    "nc1_ratio": _collapse("NC1 (trace ratio)", "tr Σ_W / tr Σ_B; 0 = collapsed."),
    "cdnv": _collapse("CDNV", "Class-distance normalised variance, mean over class pairs; 0 = collapsed."),
    "vci": _collapse("VCI", "Variability collapse index in [0, 1], comparable across layers; 0 = collapsed."),
    "nc2_norm": _collapse("NC2 (norms)", "Standard deviation over mean of the norms of centred class means; 0 = equal norms."),
    "nc2_angle": _collapse("NC2 (angles)", "Mean distance of the cosines of class means from −1/(C−1); 0 = simplex."),
    "nc2_etf": _collapse("NC2 (distance to the ETF)", "Frobenius distance of the normalised Gram matrix from a simplex ETF."),
    "nc3_duality": _collapse("NC3 (duality)", "Frobenius distance of W M′, normalised, from a simplex ETF; 0 = self-dual."),
    "nc3_papyan": _collapse("NC3 (Papyan)", "Frobenius distance of the normalised head W from the normalised class means M."),
    "nc4_ncc": _collapse("NC4 (disagreement)", "Share of samples whose nearest class mean is not the head's prediction.", "percent"),
    "ncc_accuracy": _collapse("Nearest-class-mean accuracy", "Share of samples whose nearest class mean is their own.", "percent"),
    "nc4_bias": _collapse("NC4 (bias)", "|W μ_G + b|₂, the quantity that the ICML 2025 code calls NC4."),
    "nc5_ortho": _collapse("NC5 (orthogonality)", "Mean |cos| between class means and the mean OOD feature."),
    "entropy_nn": _collapse("Nearest-neighbour entropy", "Mean log distance to the nearest neighbour on the unit sphere."),
    "effective_rank": _collapse("Effective rank", "exp of the entropy of the features' normalised singular values."),
    "pabs": _collapse("PABS", "Mean cosine of the principal angles between class means and the next layer's weights."),
}

_ALL = {**_DETECTION, **_TRANSFER, **_COLLAPSE}

METHODS = {
    "head": "the classification head of the model",
    "linear": "linear probe",
    "knn": "k-nearest neighbours (as a detector: distance to the k-th; as a probe: weighted vote by cosine)",
    "nearest_mean": "nearest class mean",
}


def metric(name: str) -> Metric:
    """How a metric is shown; one that is not in the glossary goes by its own name."""
    if name in _ALL:
        return _ALL[name]
    unit = "percent" if name.startswith(("fpr", "aupr", "auroc")) or name.endswith(("accuracy", "_error")) else "number"
    return Metric(name, unit, "", "")
