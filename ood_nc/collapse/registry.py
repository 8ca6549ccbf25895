"""The table of collapse metrics: what each is, where it comes from, what it ignores and what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MetricInfo:
    """One metric of `CollapseReport`.

    Attributes:
        name: its name in reports and result tables.
        definition: one line.
        source: who defined it.
        collapsed: whether a smaller ("low") or larger ("high") value means more collapse; None where it does not say.
        invariances: maps of the features that leave it unchanged, of "shift", "scale", "rotation", "linear"; a rotation
            turns the rows of W and the OOD features too, a scale the OOD features, and predictions stay.
        memory: "O(C d)", "O(C d + C^2)" (the statistics stay O(C d)), "O(C d + d^2)" (needs the scatter,
            ``full=True``), or "features" (a second pass).
        needs: arguments of `measure` beside the statistics.
    """

    name: str
    definition: str
    source: str
    collapsed: Literal["low", "high"] | None
    invariances: tuple[str, ...]
    memory: Literal["O(C d)", "O(C d + C^2)", "O(C d + d^2)", "features"]
    needs: tuple[str, ...] = ()


_RIGID = ("shift", "rotation")
_SIMILAR = ("shift", "scale", "rotation")
_TABLE: tuple[MetricInfo, ...] = (
    MetricInfo("trace_within", "tr Sigma_W", "Rangamani et al. 2023", "low", _RIGID, "O(C d)"),
    MetricInfo("trace_between", "tr Sigma_B", "Rangamani et al. 2023", None, _RIGID, "O(C d)"),
    MetricInfo(
        "within_share", "tr Sigma_W / (tr Sigma_W + tr Sigma_B)", "Rangamani et al. 2023", "low", _SIMILAR, "O(C d)"
    ),
    MetricInfo("nc1_pinv", "tr(Sigma_W Sigma_B^+) / C", "Papyan et al. 2020", "low", _SIMILAR, "O(C d + d^2)"),
    MetricInfo("nc1_ratio", "tr Sigma_W / tr Sigma_B", "trace form of NC1", "low", _SIMILAR, "O(C d)"),
    MetricInfo(
        "nc1_ratio_balanced", "mean of v_c / tr Sigma_B", "NC1 with equal class weights", "low", _SIMILAR, "O(C d)"
    ),
    MetricInfo(
        "cdnv", "mean over pairs of (v_i + v_j) / (2 |mu_i - mu_j|^2)", "Galanti et al. 2022", "low", _SIMILAR, "O(C d)"
    ),
    MetricInfo(
        "vci",
        "1 - tr(Sigma_T^+ Sigma_B) / min(d, C - 1)",
        "Xu and Liu 2023",
        "low",
        ("shift", "linear"),
        "O(C d + d^2)",
    ),
    MetricInfo("nc2_norm", "std / mean of |mu_c - mu_G|", "Papyan et al. 2020", "low", _SIMILAR, "O(C d)"),
    MetricInfo(
        "nc2_angle",
        "mean over pairs of |cos(mu_c - mu_G, mu_k - mu_G) + 1/(C - 1)|",
        "Papyan et al. 2020",
        "low",
        _SIMILAR,
        "O(C d)",
    ),
    MetricInfo("nc2_etf_means", "|MM'/|MM'| - (I - 11'/C)/sqrt(C - 1)|", "Zhu et al. 2021", "low", _SIMILAR, "O(C d)"),
    MetricInfo(
        "nc2_etf", "|WW'/|WW'| - (I - 11'/C)/sqrt(C - 1)|", "Zhu et al. 2021", "low", _SIMILAR, "O(C d)", ("weight",)
    ),
    MetricInfo("nc2_norm_head", "std / mean of |w_c|", "Papyan et al. 2020", "low", _SIMILAR, "O(C d)", ("weight",)),
    MetricInfo(
        "nc2_angle_head",
        "mean over pairs of |cos(w_c, w_k) + 1/(C - 1)|",
        "Papyan et al. 2020",
        "low",
        _SIMILAR,
        "O(C d)",
        ("weight",),
    ),
    MetricInfo(
        "nc3_duality",
        "|WM'/|WM'| - (I - 11'/C)/sqrt(C - 1)|",
        "Zhu et al. 2021",
        "low",
        _SIMILAR,
        "O(C d)",
        ("weight",),
    ),
    MetricInfo("nc3_papyan", "|W/|W| - M/|M||", "Papyan et al. 2020", "low", _SIMILAR, "O(C d)", ("weight",)),
    MetricInfo(
        "nc3_alignment",
        "mean cosine of w_c and mu_c - mu_G, both centred",
        "self-duality without an ETF",
        "high",
        _SIMILAR,
        "O(C d)",
        ("weight",),
    ),
    MetricInfo(
        "nc4_ncc",
        "share of samples whose nearest class mean is not the head's prediction",
        "Papyan et al. 2020",
        "low",
        _SIMILAR,
        "features",
        ("features", "predictions or weight"),
    ),
    MetricInfo(
        "ncc_accuracy",
        "share of samples whose nearest class mean is their class's",
        "Rangamani et al. 2023",
        "high",
        _SIMILAR,
        "features",
        ("features", "labels"),
    ),
    MetricInfo("nc4_bias", "|W mu_G + b|", "Harun et al. 2025 (code)", "low", ("rotation",), "O(C d)", ("weight",)),
    MetricInfo(
        "nc5_ortho",
        "mean over classes of |cos(mu_c, mean OOD feature)|",
        "Ammar et al. 2024 (NECO)",
        "low",
        ("scale", "rotation"),
        "O(C d)",
        ("ood",),
    ),
    MetricInfo(
        "gnc2_frame",
        "distance of M'M from a tight frame's; nc2_etf_means up to C = d + 1",
        "Benedetto and Fickus 2003",
        "low",
        _SIMILAR,
        "O(C d)",
    ),
    MetricInfo(
        "gnc2_margin",
        "mean largest cosine with another class, minus the best possible",
        "Jiang et al. 2024; Rankin 1955",
        "low",
        _SIMILAR,
        "O(C d)",
    ),
    MetricInfo(
        "gnc2_uniformity",
        "std / mean of the log distances of the mean directions",
        "Wu and Papyan 2024",
        "low",
        _SIMILAR,
        "O(C d)",
    ),
    MetricInfo(
        "uniformity",
        "log mean exp(-2 |m_c - m_k|^2) of the mean directions",
        "Wang and Isola 2020",
        "low",
        _SIMILAR,
        "O(C d)",
    ),
    MetricInfo(
        "gnc2_frame_head", "gnc2_frame of W", "Benedetto and Fickus 2003", "low", _SIMILAR, "O(C d)", ("weight",)
    ),
    MetricInfo(
        "gnc2_margin_head", "gnc2_margin of W", "Jiang et al. 2024; Rankin 1955", "low", _SIMILAR, "O(C d)", ("weight",)
    ),
    MetricInfo(
        "gnc2_uniformity_head", "gnc2_uniformity of W", "Wu and Papyan 2024", "low", _SIMILAR, "O(C d)", ("weight",)
    ),
    MetricInfo("uniformity_head", "uniformity of W", "Wang and Isola 2020", "low", _SIMILAR, "O(C d)", ("weight",)),
    MetricInfo(
        "minority_collapse",
        "mean cosine of the minority classes' rows of W",
        "Fang et al. 2021",
        "high",
        _SIMILAR,
        "O(C d)",
        ("weight",),
    ),
    MetricInfo(
        "nc2_seli",
        "distance of WW' from the imbalanced optimum's",
        "Thrampoulidis et al. 2022",
        "low",
        _SIMILAR,
        "O(C d + C^2)",
        ("weight",),
    ),
    MetricInfo(
        "effective_rank",
        "exp(entropy of the singular values), centred features",
        "Roy and Vetterli 2007",
        "low",
        _SIMILAR,
        "O(C d + d^2)",
    ),
    MetricInfo(
        "effective_rank_uncentered",
        "exp(entropy of the singular values), features as they are",
        "Harun et al. 2025",
        "low",
        ("scale", "rotation"),
        "O(C d + d^2)",
    ),
    MetricInfo(
        "entropy_nn",
        "mean log nearest-neighbour distance on the unit sphere",
        "Kozachenko and Leonenko 1987",
        "low",
        ("scale", "rotation"),
        "features",
        ("features",),
    ),
)

METRICS: dict[str, MetricInfo] = {info.name: info for info in _TABLE}
"""Every metric of `CollapseReport`, by name, in the order of the report."""
