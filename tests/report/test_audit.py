from __future__ import annotations

import json
from pathlib import Path

import pytest

from ood_nc.errors import UserError
from ood_nc.report import write_report
from ood_nc.report.audit import audits
from ood_nc.report.documents import read_runs
from tests.helpers.report_runs import build_run

BY = {"size": {"auroc": 0.991, "low": 0.98, "high": 1.0}, "grey": {"auroc": 0.5, "low": 0.5, "high": 0.5}}
CUE = {
    "name": "far-set",
    "against": "ID test",
    "auroc": 0.987,
    "low": 0.9741,
    "high": 1.0,
    "by_cue": BY,
    "told_by": ["size"],
}
NONE = {"name": "tiny", "against": "ID test", "auroc": None, "by_cue": {}, "told_by": [], "reason": "too few images"}


def audited(folder: Path, **changes) -> Path:
    run = build_run(folder / "run", epochs=1)
    document = {"schema": 1, "cues": [CUE, NONE], "findings": ["a <finding> of 3 images"], **changes}
    (run / "audit.json").write_text(json.dumps(document))
    return run


def test_cues_and_findings_stand_in_the_report(tmp_path: Path) -> None:
    page = write_report(audited(tmp_path)).read_text(encoding="utf-8")
    assert "Audit of the data" in page and "a &lt;finding&gt; of 3 images" in page
    rows = audits(read_runs([tmp_path / "run"]))[0]["cues"]
    assert [(row["auroc"], row["by"]) for row in rows] == [
        ("0.99 [0.97, 1.00]", "size 0.99"),
        ("–", "too few images"),
    ]
    assert "0.99 [0.97, 1.00]" in page


def test_without_findings_that_is_said_and_without_an_audit_nothing(tmp_path: Path) -> None:
    page = write_report(audited(tmp_path, cues=[], findings=[])).read_text(encoding="utf-8")
    assert "No absent or changed set" in page
    (tmp_path / "run/audit.json").unlink()
    assert "Audit of the data" not in write_report(tmp_path / "run").read_text(encoding="utf-8")


def test_an_audit_of_another_version_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"audit\.json has schema 2"):
        audits(read_runs([audited(tmp_path, schema=2)]))
