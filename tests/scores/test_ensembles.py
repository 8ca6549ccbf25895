from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from scipy.stats import combine_pvalues, rankdata, spearmanr

from ood_nc.errors import NotFittedError, UserError
from ood_nc.scores import EmptySideError, NanScoreError, auroc
from ood_nc.scores.ensembles import ScoreEnsemble

METHODS = ("rank", "zscore", "fisher", "brown")


def correlated(rng, n, members, correlation):
    shared = rng.normal(size=(n, 1))
    return np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * rng.normal(size=(n, members))


def test_rank_by_definition():
    rng = np.random.default_rng(0)
    held_out = np.round(rng.normal(size=(50, 3)), 1)
    # At the held-out scores themselves: scipy's mid-ranks.
    expected = (rankdata(held_out, axis=0) - 0.5).mean(axis=1) / 50
    np.testing.assert_allclose(ScoreEnsemble("rank").fit(held_out).score(held_out), expected)
    found = ScoreEnsemble("rank", weights=[1, 2, 5]).fit(held_out).score(held_out)
    np.testing.assert_allclose(found, (rankdata(held_out, axis=0) - 0.5) @ [1, 2, 5] / 8 / 50)
    # Halfway between two held-out scores, halfway between their ranks; beyond the ends, strictly on towards 0 and 1.
    one = ScoreEnsemble("rank").fit([[0.0], [2.0]])
    np.testing.assert_allclose(one([[1.0], [0.0], [-1.0], [-3.0]]), [0.5, 0.25, 0.125, 0.0625])
    np.testing.assert_allclose(one([[3.0], [-np.inf], [np.inf]]), [0.875, 0, 1])


def test_zscore_by_definition():
    rng = np.random.default_rng(0)
    held_out, scores = rng.normal(size=(50, 3)), rng.normal(size=(20, 3))
    expected = ((scores - held_out.mean(axis=0)) / held_out.std(axis=0)) @ [1, 2, 5] / 8
    np.testing.assert_allclose(ScoreEnsemble("zscore", weights=[1, 2, 5]).fit(held_out).score(scores), expected)


def test_a_constant_member_does_not_count():
    rng = np.random.default_rng(0)
    held_out, scores = rng.normal(size=(50, 1)), rng.normal(size=(20, 1))
    alone = ScoreEnsemble("zscore").fit(held_out).score(scores)
    # 0.1 has no exact mean: a computed standard deviation would be 1e-17, not 0.
    constant = np.full((50, 1), 0.1)
    both = ScoreEnsemble("zscore").fit(np.c_[held_out, constant]).score(np.c_[scores, np.full((20, 1), 0.3)])
    np.testing.assert_allclose(both, alone / 2)
    for method in METHODS:
        ensemble = ScoreEnsemble(method).fit(np.c_[held_out, constant])
        found = ensemble.score(np.c_[scores, np.full((20, 1), 0.1)])
        assert spearmanr(found, scores[:, 0]).statistic == pytest.approx(1)


def test_fisher_as_scipy():
    rng = np.random.default_rng(0)
    held_out, scores = rng.normal(size=(99, 4)), rng.normal(-1, 1, size=(20, 4))
    p_values = (1 + (held_out[None] <= scores[:, None]).sum(axis=1)) / 100
    expected = [combine_pvalues(row, "fisher").pvalue for row in p_values]
    np.testing.assert_allclose(ScoreEnsemble("fisher").fit(held_out).p_values(scores), expected)
    # The score is minus the statistic, of p-values at most one held-out sample away from the conformal ones.
    statistic = [-combine_pvalues(row, "fisher").statistic for row in p_values]
    score = ScoreEnsemble("fisher").fit(held_out).score(scores).numpy()
    assert spearmanr(score, statistic).statistic > 0.99
    assert (score <= 0).all()
    assert (score >= 2 * 4 * np.log(1 / 100)).all()


def test_brown_by_definition():
    rng = np.random.default_rng(0)
    held_out = correlated(rng, 300, 3, 0.6)
    logs = -2 * np.log(rankdata(held_out, method="max", axis=0) / 300)
    correlation = np.corrcoef(logs.T)
    for weights in (np.ones(3), np.array([1.0, 2, 5])):
        variance = 4 * sum(weights[i] * weights[j] * correlation[i, j] for i in range(3) for j in range(3))
        ensemble = ScoreEnsemble("brown", weights=weights).fit(held_out)
        assert ensemble.variance_ == pytest.approx(variance)
    # Members that say the same are one member; a member and its opposite are taken for independent.
    one = held_out[:, :1]
    alone = ScoreEnsemble("fisher").fit(one).p_values(one)
    np.testing.assert_allclose(ScoreEnsemble("brown").fit(np.c_[one, one, one]).p_values(np.c_[one, one, one]), alone)
    np.testing.assert_allclose(alone, rankdata(one, method="max") / 301 + 1 / 301)
    opposite = np.c_[one, -one]
    np.testing.assert_allclose(
        ScoreEnsemble("brown").fit(opposite).p_values(opposite),
        ScoreEnsemble("fisher").fit(opposite).p_values(opposite),
    )


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_brown_is_calibrated_where_fisher_is_not(correlation):
    rng = np.random.default_rng(0)
    brown, fisher = [], []
    for _ in range(40):
        held_out, fresh = correlated(rng, 2000, 5, correlation), correlated(rng, 2000, 5, correlation)
        brown.append(ScoreEnsemble("brown").fit(held_out).p_values(fresh).numpy())
        fisher.append(ScoreEnsemble("fisher").fit(held_out).p_values(fresh).numpy())
    for level in (0.01, 0.05, 0.1):
        # 80,000 fresh samples, but only 40 held-out sets of 2,000 that they share: an effective 40,000 or so.
        slack = 4 * np.sqrt(level * (1 - level) / 40_000)
        assert np.mean(np.array(brown) <= level) <= 1.1 * level + slack
        assert np.mean(np.array(brown) <= level) >= 0.75 * level
        if correlation:
            # Three times too many at 1 % already for moderate dependence.
            assert np.mean(np.array(fisher) <= level) > 1.4 * level
    if correlation:
        assert np.mean(np.array(fisher) <= 0.01) > 0.03


def test_combining_beats_each_member():
    rng = np.random.default_rng(0)
    held_out, inside = rng.normal(size=(1000, 4)), rng.normal(size=(1000, 4))
    outside = rng.normal(-1, 1, size=(1000, 4))
    scales = np.array([1e-6, 1.0, 1e3, 1e9])
    best = max(auroc(inside[:, j], outside[:, j]) for j in range(4))
    for method in METHODS:
        ensemble = ScoreEnsemble(method).fit(held_out * scales + 7 * scales)
        found = auroc(*(ensemble(rows * scales + 7 * scales) for rows in (inside, outside)))
        assert found > best + 0.08


@pytest.mark.parametrize("method", METHODS)
def test_scale_and_shift_of_a_member_do_not_matter(method):
    rng = np.random.default_rng(0)
    held_out, scores = rng.normal(size=(200, 3)), 3 * rng.normal(size=(100, 3))
    expected = ScoreEnsemble(method).fit(held_out).score(scores)
    scale, shift = np.array([1e-9, 1, 1e200]), np.array([1e-8, -5, 1e200])
    found = ScoreEnsemble(method).fit(held_out * scale + shift).score(scores * scale + shift)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("decimals", [1, 9])
def test_a_single_member_keeps_its_ranking(method, decimals):
    rng = np.random.default_rng(0)
    held_out = np.round(rng.normal(size=(40, 1)), decimals)
    # Far outside and between the few held-out scores, where their empirical distribution has only ties.
    scores = np.r_[-1e300, -1e6, -50, -49, np.sort(rng.normal(size=200)), 49, 50, 1e6][:, None]
    found = ScoreEnsemble(method).fit(held_out).score(scores).numpy()
    assert (np.diff(found) > 0).all()
    infinite = ScoreEnsemble(method).fit(held_out).score([[-np.inf], [0.0], [np.inf]])
    assert infinite[0] < found.min() or (method != "zscore" and infinite[0] == found.min())
    assert infinite[2] >= found.max()


@pytest.mark.parametrize("method", METHODS)
def test_infinite_scores(method):
    rng = np.random.default_rng(0)
    held_out = rng.normal(size=(50, 2))
    held_out[0] = [np.inf, -np.inf]
    held_out[1, 0] = -np.inf
    ensemble = ScoreEnsemble(method).fit(held_out)
    values = np.array([-np.inf, -1e308, -3, 0, 3, 1e308, np.inf])
    grid = np.stack(np.meshgrid(values, values, indexing="ij"), axis=-1)
    found = ensemble.score(grid.reshape(-1, 2)).reshape(7, 7).numpy()
    assert not np.isnan(found).any()
    # Better in one member is never worse together.
    assert (found[1:] >= found[:-1]).all()
    assert (found[:, 1:] >= found[:, :-1]).all()
    assert found[3, 3] > found[2, 2]
    if method == "zscore":
        assert (found[0] == -np.inf).all()
        assert (found[:, 0] == -np.inf).all()
        assert found[6, 3] == np.inf
    everything = ScoreEnsemble(method).fit(np.full((3, 2), -np.inf)).score(grid.reshape(-1, 2))
    assert not torch.isnan(everything).any()


@pytest.mark.parametrize("method", METHODS)
def test_state(method):
    rng = np.random.default_rng(0)
    held_out, scores = rng.normal(size=(50, 3)), rng.normal(size=(20, 3))
    ensemble = ScoreEnsemble(method, weights=(1, 2, 3)).fit(held_out)
    file = io.BytesIO()
    torch.save(ensemble.state_dict(), file)
    file.seek(0)
    loaded = ScoreEnsemble().load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(loaded.score(scores), ensemble.score(scores))
    assert repr(loaded) == f"ScoreEnsemble(method={method!r}, weights=[1.0, 2.0, 3.0])"
    if method in ("fisher", "brown"):
        assert torch.equal(loaded.p_values(scores), ensemble.p_values(scores))


def test_inputs_are_kept_and_any_layout_is_taken():
    rng = np.random.default_rng(0)
    held_out, scores = rng.normal(size=(50, 3)), rng.normal(size=(20, 3)).astype(np.float32)
    copies = held_out.copy(), scores.copy()
    ensemble = ScoreEnsemble("brown").fit(held_out)
    expected = ensemble.score(scores)
    assert expected.dtype == torch.float64
    assert torch.equal(expected, ensemble.score(torch.from_numpy(np.asfortranarray(scores))))
    np.testing.assert_array_equal(held_out, copies[0])
    np.testing.assert_array_equal(scores, copies[1])
    held_out[:] = 0
    assert torch.equal(expected, ensemble.score(scores))
    assert ensemble.score(scores[:0]).shape == (0,)


def test_accepted_share_of_fresh_id():
    # A Brown p-value of at least 5 % accepts 95 % of fresh ID, seed by seed.
    rates = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        held_out, fresh = correlated(rng, 1000, 3, 0.7), correlated(rng, 1000, 3, 0.7)
        rates.append(int((ScoreEnsemble("brown").fit(held_out).p_values(fresh) > 0.05).sum()))
    # Fresh sets share their held-out set, so each seed counts as one draw of a share with deviation 0.01 or less.
    assert np.mean(rates) / 1000 == pytest.approx(0.95, abs=3 * 0.01 / np.sqrt(20))
    assert min(rates) >= 0.925 * 1000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ScoreEnsemble("ranks"), "Unknown ensemble method 'ranks'.*Did you mean 'rank'"),
        (lambda: ScoreEnsemble(weights=[1, 0]), "must be positive"),
        (lambda: ScoreEnsemble(weights=[1, float("nan")]), "must be positive"),
        (lambda: ScoreEnsemble(weights=[1]).fit(np.zeros((5, 2))), "1 weights for 2 members"),
        (lambda: ScoreEnsemble().fit(np.zeros(5)), r"must have shape \(samples, members\)"),
        (lambda: ScoreEnsemble().fit(np.zeros((1, 2))), "at least 2 held-out samples"),
        (lambda: ScoreEnsemble().fit(np.zeros((5, 0))), "at least 2 held-out samples and 1 member"),
        (lambda: ScoreEnsemble().fit(np.zeros((5, 2))).score(np.zeros((5, 3))), "3 members, the ensemble 2"),
        (lambda: ScoreEnsemble("rank").fit(np.zeros((5, 2))).p_values(np.zeros((5, 2))), "no p-values: take 'brown'"),
        (lambda: ScoreEnsemble().load_state_dict({"detector": "knn"}), "no state of a score ensemble"),
    ],
)
def test_user_errors(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_named_errors():
    scores = np.zeros((5, 2))
    scores[3, 1] = np.nan
    with pytest.raises(NanScoreError, match="held_out_scores holds 1 NaN of 5, the first at index 3"):
        ScoreEnsemble().fit(scores)
    with pytest.raises(NanScoreError, match="scores holds 1 NaN of 5"):
        ScoreEnsemble().fit(np.zeros((5, 2))).score(scores)
    with pytest.raises(EmptySideError):
        ScoreEnsemble().fit(np.zeros((0, 2)))
    for call in (ScoreEnsemble().state_dict, lambda: ScoreEnsemble().score(scores)):
        with pytest.raises(NotFittedError):
            call()
