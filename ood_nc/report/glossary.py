"""What each metric is called in the report, its unit, which direction is better, and its convention."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ood_nc.headline import HEADLINE_DETECTORS


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
        "AUROC",
        "higher",
        "Probability that an ID sample scores above an OOD sample, ties counted half; 50 % is chance.",
    ),
    "fpr95_id_positive": _share(
        "FPR95 (ID positive)",
        "lower",
        "Share of OOD samples accepted at the threshold that accepts at least 95 % of the ID samples.",
    ),
    "fpr95_ood_positive": _share(
        "FPR95 (OOD positive)",
        "lower",
        "Share of ID samples rejected at the threshold that rejects at least 95 % of the OOD samples (as in OpenOOD).",
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
        "Detection error",
        "lower",
        "Smallest mean of the two error rates over all thresholds, both classes weighted equally.",
    ),
}

_TRANSFER = {
    "accuracy": _share("Accuracy", "higher", "Share of samples whose top-1 prediction is right, on a split read once."),
    "balanced_error": _share(
        "Balanced error", "lower", "1 − mean over classes of the accuracy on the class: rare classes count the same."
    ),
    "transfer_error": _share("Transfer error", "lower", "1 − accuracy of a probe on a transfer set."),
    "1-auroc": _share("1 − AUROC", "lower", "Detection error in terms of ranking: 1 − AUROC."),
    "retained": Metric(
        "Retained accuracy, %",
        "number",
        "higher",
        "Tunnel effect: 100 × accuracy at the last tap / accuracy at the best tap.",
    ),
    "id_correlation": Metric(
        "ID correlation",
        "correlation",
        "higher",
        "Tunnel effect: Pearson correlation over taps of transfer and ID accuracy.",
    ),
    "id_alignment": Metric(
        "ID alignment",
        "number",
        "higher",
        "(ID accuracy − chance)(transfer accuracy − chance): high where a tap serves both.",
    ),
    "ece": _share(
        "Calibration error (ECE)",
        "lower",
        "Mean distance of confidence from accuracy in 15 bins of confidence, of the head.",
    ),
    "ece_at_temperature": _share(
        "ECE at the temperature",
        "lower",
        "The same with the logits divided by the temperature that held-out ID chooses.",
    ),
    "temperature": Metric("Temperature", "number", "", "Of best likelihood on held-out ID; above 1: overconfident."),
    "memory": Metric("Memory, MB", "number", "", "Of what a fitted detector keeps to score with."),
    "seconds": Metric("Time, s", "number", "", "Seconds to fit and to score or test, on the device named above."),
}

_COLLAPSE = {
    "nc1_pinv": _collapse(
        "NC1 (pseudo-inverse)", "tr(Σ_W Σ_B⁺)/C, within- against between-class scatter; 0 = collapsed."
    ),
    "nc1_ratio": _collapse("NC1 (trace ratio)", "tr Σ_W / tr Σ_B; 0 = collapsed."),
    "nc1_ratio_balanced": _collapse(
        "NC1 (balanced trace ratio)", "The trace ratio with equal class weights; 0 = collapsed."
    ),
    "trace_within": _collapse("tr Σ_W", "Within-class scatter; depends on the scale of the features."),
    "trace_between": _collapse("tr Σ_B", "Between-class scatter; depends on the scale of the features."),
    "within_share": _collapse("Within-class share", "tr Σ_W / (tr Σ_W + tr Σ_B), in [0, 1]; 0 = collapsed."),
    "cdnv": _collapse("CDNV", "Class-distance normalised variance, mean over class pairs; 0 = collapsed."),
    "vci": _collapse("VCI", "Variability collapse index in [0, 1], comparable across layers; 0 = collapsed."),
    "nc2_norm": _collapse(
        "NC2 (norms)", "Standard deviation over mean of the norms of centred class means; 0 = equal norms."
    ),
    "nc2_norm_head": _collapse("NC2 (norms of W)", "The same for the rows of W; 0 = equal norms."),
    "nc2_angle": _collapse("NC2 (angles)", "Mean distance of the cosines of class means from −1/(C−1); 0 = simplex."),
    "nc2_angle_head": _collapse("NC2 (angles of W)", "The same for the rows of W; 0 = simplex."),
    "nc2_etf": _collapse("NC2 (W to the ETF)", "Distance of W W′, normalised, from a simplex ETF; 0 = ETF."),
    "nc2_etf_means": _collapse("NC2 (means to the ETF)", "Distance of M M′, normalised, from a simplex ETF; 0 = ETF."),
    "nc2_seli": _collapse("NC2 (SELI)", "Distance of W W′ from the optimum for imbalanced classes."),
    "nc3_duality": _collapse("NC3 (duality)", "Distance of W M′, normalised, from a simplex ETF; 0 = self-dual."),
    "nc3_papyan": _collapse(
        "NC3 (Papyan)", "Distance of the normalised W from the normalised class means M; 0 = self-dual."
    ),
    "nc3_alignment": _collapse(
        "NC3 (alignment)", "Mean cosine of each row of W with its class mean, both centred; 1 = self-dual."
    ),
    "nc4_ncc": _collapse(
        "NC4 (disagreement)", "Share of samples whose nearest class mean is not the head’s prediction.", "percent"
    ),
    "ncc_accuracy": _collapse(
        "Nearest-class-mean accuracy", "Share of samples whose nearest class mean is their own.", "percent"
    ),
    "nc4_bias": _collapse("NC4 (bias)", "|W μ_G + b|₂, the quantity that the ICML 2025 code calls NC4."),
    "nc5_ortho": _collapse(
        "NC5 (orthogonality)", "Mean |cos| between class means and the mean OOD feature; 0 = orthogonal."
    ),
    "gnc2_frame": _collapse("GNC2 (tight frame)", "Distance of the class means from a tight frame; 0 = tight."),
    "gnc2_margin": _collapse(
        "GNC2 (margin)", "Mean largest cosine with another class, above the best possible; 0 = best."
    ),
    "gnc2_uniformity": _collapse(
        "GNC2 (uniformity)", "Spread of the log distances of the class directions; 0 = uniform."
    ),
    "uniformity": _collapse("Uniformity", "Log mean Gaussian potential of the class directions; lower = more uniform."),
    "minority_collapse": _collapse(
        "Minority collapse", "Mean cosine of the minority classes’ rows of W; 1 = collapsed into one."
    ),
    "entropy_nn": _collapse(
        "Nearest-neighbour entropy",
        "Mean log distance to the nearest neighbour on the unit sphere; lower = more collapsed.",
    ),
    "effective_rank": _collapse(
        "Effective rank (centred)",
        "exp of the entropy of the singular values of centred features; C − 1 when collapsed.",
    ),
    "effective_rank_uncentered": _collapse(
        "Effective rank (uncentred)", "The same of the features as they are; C when collapsed."
    ),
    "ncc_agreement": _collapse(
        "Nearest class mean agrees", "Share of samples whose nearest class mean is the network’s prediction.", "percent"
    ),
    "accuracy_rank_c": _collapse(
        "Accuracy at rank C", "ID accuracy with the weight of this layer alone cut to rank C.", "percent"
    ),
    "accuracy_rank_c_onward": _collapse(
        "Accuracy at rank C, onward", "The same with the weights of this layer and of all later ones.", "percent"
    ),
    "effective_depth": _collapse(
        "Effective depth", "The first layer from whose input on the nearest class mean is right on the training images."
    ),
    "pabs": _collapse("PABS", "Mean cosine of the principal angles between class means and the next layer’s weights."),
}

_ALL = {**_DETECTION, **_TRANSFER, **_COLLAPSE}

METHODS = {
    "head": "the classification head of the model",
    "linear": "linear probe",
    "knn": "k-nearest neighbours (as a detector: distance to the k-th; as a probe: weighted vote by cosine)",
    "nearest_mean": "nearest class mean",
    "ridge": "ridge regression of class indicators, its penalty chosen on held-out train",
    "lda": "linear discriminant analysis, its shrinkage chosen on held-out train",
    "few_shot_1": "nearest mean of 1 training image a class; mean and interval over 10 draws",
    "few_shot_5": "nearest mean of 5 training images a class; mean and interval over 10 draws",
    "few_shot_10": "nearest mean of 10 training images a class; mean and interval over 10 draws",
}


def metric(name: str) -> Metric:
    """How a metric is shown; one that is not in the glossary goes by its own name."""
    if name in _ALL:
        return _ALL[name]
    unit = "percent" if name.startswith(("fpr", "aupr", "auroc")) or name.endswith(("accuracy", "_error")) else "number"
    return Metric(name, unit, "", "")


def default_method(methods: Iterable[str]) -> str:
    """The detector or probe a figure starts with: the headline's, else the first."""
    methods = list(methods)
    return next((name for name in ("linear", *HEADLINE_DETECTORS) if name in methods), methods[0])
