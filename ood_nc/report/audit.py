"""The audit of a run's data (``ood-nc suites check RUN``), where there is one beside its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ood_nc.documents import check_schema
from ood_nc.report.documents import Run


def audits(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Of each run that was audited the findings, and how well cues alone tell its OOD sets from ID.

    Raises:
        UserError: an audit of another version.
    """
    found = []
    for run in runs:
        if run.audit is not None:
            check_schema(run.audit, f"{run.directory / 'audit.json'}")
            cues = [_cues(entry) for entry in run.audit["cues"]]
            found.append({"run": run.name, "cues": cues, "findings": list(run.audit["findings"])})
    return found


def _cues(entry: Mapping[str, Any]) -> dict[str, str]:
    by = [f"{name} {entry['by_cue'][name]['auroc']:.2f}" for name in entry["told_by"]]
    if entry["auroc"] is None:
        return {"name": entry["name"], "against": entry["against"], "auroc": "–", "by": entry["reason"]}
    value = f"{entry['auroc']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]"
    return {"name": entry["name"], "against": entry["against"], "auroc": value, "by": ", ".join(by) or "no cue"}
