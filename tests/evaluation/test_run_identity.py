from __future__ import annotations

import pytest

from ood_nc.config import EvaluationConfig
from ood_nc.evaluation import Results
from ood_nc.models import ControlledModel
from tests.helpers.tiny import arguments


def test_the_identity_says_what_was_evaluated(evaluated: Results, model: ControlledModel) -> None:
    identity = evaluated.identity
    assert identity["run"] == "tiny" and identity["model"] == model.backbone_name
    assert identity["taps"][1] == {"name": "encoder", "depth": 1, "pooling": "native", "dim": model.encoder_dim}
    assert identity["head_tap"] == "projector" and identity["classes"] == 5 and len(identity["weights_hash"]) == 64
    assert identity["detectors"] == EvaluationConfig().detectors and identity["probes"] == EvaluationConfig().probes
    textures = identity["datasets"]["textures"]
    n = len(arguments()["ood"]["textures"])
    assert (textures["n"], textures["n_id"], textures["group"]) == (n, 60, "far")
    assert textures["base_rate"] == pytest.approx(n / (n + 60)), "beside every AUPR"
    assert textures["fingerprint"] and textures["duplicates"] == {}
    assert {"torch", "timm", "ood_nc"} <= set(identity["versions"])
    seconds = identity["seconds"]
    parts = {"preparation", "features", "id_probes", "collapse", "detection", "transfer", "relations"}
    assert set(seconds) == parts | {"total"} and sum(seconds[name] for name in parts) <= seconds["total"]
