"""A collapse metric: the largest class variance over the mean one."""

from __future__ import annotations

from ood_nc.collapse import CollapseMetric, UndefinedMetricError


def _compute(layer):
    variances = layer.stats.class_variances[layer.stats.present]
    if not len(variances) or not float(variances.max()) > 0:
        raise UndefinedMetricError("no class has any variance.")
    return float(variances.max() / variances.mean())


VARIANCE_RATIO = CollapseMetric(
    name="variance_ratio",
    definition="max v_c / mean v_c",
    source="an example",
    collapsed=None,
    invariances=("shift", "scale", "rotation"),
    memory="O(C d)",
    compute=_compute,
)
