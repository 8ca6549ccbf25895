"""`ood-nc private-head`: the head, its statement, and results that compare and report read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ood_nc.cli import main
from ood_nc.documents import read_results
from ood_nc.privacy import PrivateHead, epsilon_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = np.random.default_rng(0)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(n) % 3
        return np.eye(8)[labels] + 0.3 * generator.normal(size=(n, 8)), labels

    (train, y), (test, z) = draw(600), draw(90)
    path = tmp_path_factory.mktemp("features") / "features.npz"
    np.savez(
        path,
        **{"id_train/encoder": train, "id_train/labels": y, "id_test/encoder": test, "id_test/labels": z},
        **{"far/noise/encoder": generator.normal(size=(60, 8)), "near/shifted/encoder": draw(60)[0] + 0.5},
    )
    return path


def test_heads_statements_and_results_by_seed(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "h.safetensors"
    words = ["private-head", "--features", str(features), "--epsilon", "2", "--delta", "1e-4", "--seeds", "0", "1"]
    assert main([*words, "--center", "--components", "3", "--detectors", "energy", "-o", str(file)]) == 0
    said = capsys.readouterr().out
    assert "(2, 0.0001)-differentially private" in said
    statements = [PrivateHead.load(tmp_path / f"h-seed{seed}.safetensors").statement for seed in (0, 1)]
    both = epsilon_of([m for s in statements for m in s.mechanisms], 1e-4)
    assert 2 < both < 4
    told = (
        f"who sees them all has ({both:.4g}, 0.0001)-differential privacy (accountant analytic); added up, (4, 0.0002)."
    )
    assert told in said
    for seed in (0, 1):
        head = PrivateHead.load(tmp_path / f"h-seed{seed}.safetensors")
        assert 1.9 < head.statement.epsilon <= 2
        assert len(head.statement.mechanisms) == 3
        found = read_results(tmp_path / f"h-seed{seed}" / f"private-seed{seed}")
        assert found["identity"]["privacy"]["epsilon"] == head.statement.epsilon
        together = found["identity"]["privacy"]["together"]
        assert together["statement"]["epsilon"] == pytest.approx(both, rel=1e-9)
        assert together["added"]["epsilon"] == sum(statement.epsilon for statement in statements)
        assert any(told in note for note in found["identity"]["notes"])
        free = read_results(tmp_path / f"h-seed{seed}" / f"nonprivate-seed{seed}")["identity"]
        assert "together" not in free["privacy"]
        assert any("the head alone is private" in note for note in found["identity"]["notes"])
        (row,) = [r for r in found["rows"] if r["metric"] == "accuracy" and r["method"] == "head"]
        with np.load(features) as arrays:
            assert row["value"] == pytest.approx(head.accuracy(arrays["id_test/encoder"], arrays["id_test/labels"]))
        assert {"collapse", "detection"} <= {r["kind"] for r in found["rows"]}
    runs = [str(tmp_path / f"h-seed{s}" / f"{kind}-seed{s}") for kind in ("nonprivate", "private") for s in (0, 1)]
    assert main(["compare", *runs, "-o", str(tmp_path / "c.html"), "--quiet"]) == 0
    assert (tmp_path / "c.html").stat().st_size > 10_000


def test_presets_are_options_by_name_and_flags_go_first(features: Path, tmp_path: Path) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text("epsilon: 1.0\ndelta: 1.0e-4\nsteps: 7\nseeds: [3]\ndetectors: [energy]\n")
    words = ["private-head", "--features", str(features), "--config", str(preset), "--epsilon", "5", "--quiet"]
    assert main([*words, "-o", str(tmp_path / "h.safetensors")]) == 0
    statement = PrivateHead.load(tmp_path / "h-seed3.safetensors").statement
    assert 4.9 < statement.epsilon <= 5
    assert statement.mechanisms[0].steps == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epsilon", "1"], "needs --epsilon and --delta"),
        (
            ["--epsilon", "1", "--delta", "1e-4", "--seeds", "0", "-1"],
            "--seeds are different numbers from 0 to 2**63 - 1, got 0 -1",
        ),
        (["--epsilon", "1", "--delta", "1e-4", "--seeds", "2", "2"], "different numbers from 0 to 2**63 - 1, got 2 2"),
        (["--epsilon", "1", "--delta", "1e-4", "--seeds", str(2**63)], f"2**63 - 1, got {2**63}"),
        (["--epsilon", "1", "--delta", "1e-4", "--detectors", "energi"], "Did you mean 'energy'"),
        (["--epsilon", "1", "--delta", "1e-4", "--detectors", "odin"], "'odin' needs the network, not features alone"),
        (["--epsilon", "1", "--delta", "0.1"], "below 1/N"),
        (["--epsilon", "1", "--delta", "1e-4", "--tap", "encodr"], "Did you mean 'encoder'"),
        (["RUN", "--epsilon", "1", "--delta", "1e-4"], "give one of the two"),
        (["--epsilon", "1", "--delta", "1e-4", "--public", "none.npy"], "Cannot read none.npy"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], message: str, features: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["private-head", "--features", str(features), *words, "-o", str(tmp_path / "h.safetensors")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not list(tmp_path.glob("h*.safetensors")), "a head that is trained costs its budget"


def test_an_unknown_option_of_a_preset(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text("epsilonn: 1.0\n")
    words = ["private-head", "--features", str(features), "--config", str(preset), "-o", str(tmp_path / "h")]
    assert main(words) == 2
    assert "Did you mean 'epsilon'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("steps: ten", "steps: Input should be a valid integer, unable to parse string as an integer, got 'ten'"),
        ("seeds: 3", "seeds: Input should be a valid list, got 3"),
        ("detectors: knn", "detectors: Input should be a valid list, got 'knn'"),
        ("normalize: maybe", "normalize: Input should be a valid boolean"),
    ],
)
def test_a_value_of_a_preset_that_is_of_no_use(
    line: str, message: str, features: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text(f"epsilon: 1.0\ndelta: 1.0e-4\n{line}\n")
    words = [
        "private-head",
        "--features",
        str(features),
        "--config",
        str(preset),
        "-o",
        str(tmp_path / "h.safetensors"),
    ]
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_text_in_a_preset_means_what_it_says(features: Path, tmp_path: Path) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text("epsilon: 1.0\ndelta: 1e-4\nnormalize: 'no'\nsteps: 2\ndetectors: [energy]\n")  # YAML: text, text
    words = [
        "private-head",
        "--features",
        str(features),
        "--config",
        str(preset),
        "-o",
        str(tmp_path / "h.safetensors"),
    ]
    assert main([*words, "--quiet"]) == 0
    head = PrivateHead.load(tmp_path / "h.safetensors")
    assert head.statement.delta == 1e-4
    assert not head.preparation.normalize


def test_a_file_without_a_suffix_is_refused_before_anything_is_done(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["private-head", "--features", str(features), "--epsilon", "1", "--delta", "1e-4"]
    assert main([*words, "-o", str(tmp_path / "h")]) == 2
    assert "h.safetensors" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_no_head_is_not_written_over(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    other = tmp_path / "h-seed1.safetensors"
    other.write_bytes(b"weights of another project")
    words = ["private-head", "--features", str(features), "--epsilon", "1", "--delta", "1e-4", "--seeds", "0", "1"]
    assert main([*words, "-o", str(tmp_path / "h.safetensors")]) == 2
    assert f"{other} is there and is no private head" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [other.name]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["noisy-gd", "paid-pca", "dp-sgd"])
def test_shipped_presets(preset: str, features: Path, tmp_path: Path) -> None:
    if preset == "dp-sgd":
        pytest.importorskip("opacus")
    words = ["private-head", "--features", str(features), "--config", str(ROOT / "configs/privacy" / f"{preset}.yaml")]
    words += ["--components", "4"] if preset == "paid-pca" else []
    assert (
        main([*words, "--seeds", "0", "--detectors", "energy", "-o", str(tmp_path / "h.safetensors"), "--quiet"]) == 0
    )
    assert PrivateHead.load(tmp_path / "h-seed0.safetensors").statement.epsilon <= 4


@pytest.mark.slow
def test_a_head_on_a_run(tmp_path: Path) -> None:
    small = ["--model", "test_resnet", "--img-size", "32", "--epochs", "1", "--limit", "20", "--eval-limit", "60"]
    place = ["--output", str(tmp_path), "--experiment", "trial", "--device", "cpu", "-j", "0", "--quiet"]
    assert main(["train", "--config", "quickstart", *small, *place]) == 0
    words = ["private-head", str(tmp_path / "trial"), "--tap", "encoder", "--epsilon", "8", "--delta", "1e-3"]
    assert main([*words, "--detectors", "energy", "-o", str(tmp_path / "h.safetensors"), "--quiet"]) == 0
    assert PrivateHead.load(tmp_path / "h.safetensors").statement.epsilon <= 8
    found = read_results(tmp_path / "h" / "private")
    assert {row["group"] for row in found["rows"] if row["kind"] == "detection"} >= {"near", "far"}
