"""`fit_private_head`: the statement is what was run, and never above the target."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ood_nc.errors import MissingPackageError, UserError
from ood_nc.privacy import PrivateHead, epsilon_of, fit_private_head, noisy_gd

DELTA = 1e-4


def data(n: int = 1000, dim: int = 20, classes: int = 4, spread: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(n) % classes
    return torch.eye(dim)[labels] + spread * torch.randn(n, dim, generator=generator), labels


def fit(**settings: Any) -> PrivateHead:
    x, y = data()
    return fit_private_head(x, y, **{"epsilon": 2.0, "delta": DELTA, "num_classes": 4, "seed": 0, **settings})


CASES: list[Any] = [
    {},
    {"accountant": "zcdp"},
    {"center": True, "components": 4},
    {"center": True, "accountant": "zcdp"},
    {"public": data(n=80)[0], "components": 4, "normalize": False},
    pytest.param({"method": "dp_sgd", "accountant": "rdp", "batch_size": 250, "steps": 20}, marks=pytest.mark.slow),
    pytest.param(
        {"method": "dp_sgd", "accountant": "rdp", "batch_size": 250, "steps": 20, "components": 4},
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize("settings", CASES)
def test_the_statement_is_of_what_was_run_and_within_the_target(settings: dict[str, Any]) -> None:
    if settings.get("method") == "dp_sgd":
        pytest.importorskip("opacus")
    statement = fit(**settings).statement
    assert 0.97 * 2.0 < statement.epsilon <= 2.0
    assert statement.epsilon == epsilon_of(statement.mechanisms, DELTA, statement.accountant)
    paid = 0 if "public" in settings else settings.get("center", False) + ("components" in settings)
    assert len(statement.mechanisms) == 1 + paid
    assert statement.mechanisms[-1].steps == settings.get("steps", 100)
    assert statement.mechanisms[-1].sample_rate == (0.25 if "batch_size" in settings else 1.0)
    assert (statement.clip, statement.delta, statement.records) == (1.0, DELTA, 1000)
    assert "add or remove one record" in statement.adjacency


def test_accuracy_grows_with_the_budget_up_to_the_head_without_noise() -> None:
    x, y = data()
    tight, loose, free = (fit(epsilon=epsilon).accuracy(x, y) for epsilon in (0.05, 4.0, math.inf))
    assert tight < loose <= free + 0.01
    assert free > 0.95


def test_without_privacy_nothing_is_claimed() -> None:
    statement = fit(epsilon=math.inf, center=True, components=4).statement
    assert statement.epsilon == math.inf
    assert {mechanism.noise_multiplier for mechanism in statement.mechanisms} == {0.0}
    assert "nothing is guaranteed" in statement.notes[0]


def test_seeds() -> None:
    assert torch.equal(fit().weight, fit().weight)
    assert not torch.equal(fit(seed=None).weight, fit(seed=None).weight)
    assert any("seed was given" in note for note in fit().statement.notes)
    assert not any("seed was given" in note for note in fit(seed=None).statement.notes)


def test_fresh_noise_is_not_that_of_one_of_the_32_bit_seeds_that_can_all_be_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states: list[torch.Tensor] = []

    def watched(*arguments: Any, generator: torch.Generator, **settings: Any) -> Any:
        states.append(generator.get_state())
        return noisy_gd(*arguments, generator=generator, **settings)

    monkeypatch.setattr("ood_nc.privacy.head.noisy_gd", watched)
    fit(seed=None), fit(seed=None)
    for state in states:
        seed = int(state[24:32].view(torch.int64))  # the first word of the state is the seed that was taken
        assert not torch.equal(torch.Generator().manual_seed(seed).get_state()[24:], state[24:])
    assert not torch.equal(*states)


@pytest.mark.parametrize("settings", [{}, {"epsilon": math.inf}, {"center": True, "components": 3}])
def test_save_and_load(settings: dict[str, Any], tmp_path: Path) -> None:
    x, _ = data()
    head = fit(**settings)
    head.save(tmp_path / "head.safetensors")
    again = PrivateHead.load(tmp_path / "head.safetensors")
    assert torch.allclose(again.logits(x), head.logits(x), atol=1e-5)
    assert again.statement == head.statement


def test_files_of_another_kind(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="damaged, or no file of ood_nc"):
        PrivateHead.load(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="There is no file"):
        PrivateHead.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"delta": 0.5}, "below 1/N = 0.001"),
        ({"method": "sgd"}, "use noisy_gd or dp_sgd"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"normalize": False, "center": True}, "need bounded features"),
        ({"components": 30}, "components must be from 1 to 20"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"batch_size": 0}, "batch_size at least 1"),
        ({"public": torch.ones(50, 3), "center": True}, "finite features of 20 columns, got 3"),
        ({"public": torch.full((50, 20), math.nan), "components": 2}, "finite features"),
        ({"num_classes": 2}, "must be in 0..1"),
    ],
)
def test_mistakes_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit(**settings)


def test_one_line_says_how_to_install_opacus(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("opacus", "opacus.accountants", "opacus.utils.uniform_sampler"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=r"pip install ood_nc\[privacy\]"):
        fit(method="dp_sgd", accountant="rdp")
    assert fit().statement.epsilon <= 2.0
