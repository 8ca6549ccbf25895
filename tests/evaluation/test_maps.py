from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch

from ood_nc.errors import MissingPackageError, UserError
from ood_nc.evaluation.maps import POINTS, feature_maps
from ood_nc.evaluation.names import check_names
from ood_nc.features import FeatureBank


def make_bank(features: np.ndarray) -> FeatureBank:
    ids = tuple(str(number) for number in range(len(features)))
    taps, labels = {"encoder": torch.as_tensor(features)}, torch.arange(len(features)) % 3
    return FeatureBank(taps=taps, logits=None, labels=labels, ids=ids)


def test_maps_are_the_first_two_singular_vectors_of_what_is_placed() -> None:
    generator = np.random.default_rng(0)
    held_out = generator.normal(size=(40, 6)) * [5, 3, 1, 1, 1, 1]
    outside = generator.normal(size=(30, 6)) + 4
    banks = {"id_train": make_bank(held_out), "id_test": make_bank(held_out), "ood/far": make_bank(outside)}
    maps = feature_maps("encoder", banks)
    assert [(one["view"], one["dataset"]) for one in maps] == [("id", "id_test"), ("all", "id_test"), ("all", "far")]
    for view, features in (("id", held_out), ("all", np.concatenate([held_out, outside]))):
        centred = features - features.mean(axis=0)
        left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
        places = np.concatenate([np.stack([one["x"], one["y"]], axis=1) for one in maps if one["view"] == view])
        assert np.allclose(np.abs(places), np.abs((left * sizes)[:, :2]), rtol=1e-3, atol=1e-3)
        assert np.allclose(maps[0 if view == "id" else 1]["explained"], (sizes**2 / (sizes**2).sum())[:2])


def test_large_sets_are_thinned_evenly_and_rows_that_are_not_finite_left_out() -> None:
    features = np.random.default_rng(0).normal(size=(3 * POINTS + 1, 4)).astype(np.float32)
    features[1] = np.nan
    (one,) = feature_maps("encoder", {"id_test": make_bank(features)})[:1]
    assert len(one["x"]) == POINTS == len(one["labels"]) and np.isfinite(one["x"]).all()


def test_features_without_spread_have_no_map() -> None:
    assert feature_maps("encoder", {"id_test": make_bank(np.ones((5, 3)))}) == []


def test_umap_keeps_neighbours_together_and_repeats_itself() -> None:
    pytest.importorskip("umap", reason="needs the extra umap")
    generator = np.random.default_rng(0)
    near, far = generator.normal(size=(2, 40, 8)) + np.array([0.0, 9.0])[:, None, None]
    banks = {"id_test": make_bank(near), "ood/far": make_bank(far)}
    first, second = (feature_maps("encoder", banks, "umap", seed=3) for _ in range(2))
    assert first == second
    assert [(one["view"], one["dataset"], one["explained"]) for one in first] == [
        ("id", "id_test", []),
        ("all", "id_test", []),
        ("all", "far", []),
    ]
    inside, outside = (np.stack([one["x"], one["y"]], axis=1) for one in first[1:])
    within = np.linalg.norm(inside[:, None] - inside, axis=2)
    assert (within.max(axis=1) < np.linalg.norm(inside[:, None] - outside, axis=2).min(axis=1)).all()
    assert len(feature_maps("encoder", {"id_test": make_bank(near[:5])}, "umap")) == 2, "few images too"


def test_a_map_that_cannot_be_made_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"Unknown feature_map 'umpa': use pca or umap.*umap"):
        check_names(["msp"], [], feature_map="umpa")
    found = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "umap":
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackageError, match=r"pip install 'ood_nc\[umap\]'"):
        check_names(["msp"], [], feature_map="umap")
