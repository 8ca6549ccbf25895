"""The package as others install it: what the wheel and the sdist hold, its types, its container, its citation."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest
import yaml

import ood_nc

ROOT = Path(__file__).parent.parent
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff")


def build(kind: str, source: Path, target: Path) -> Path:
    """A wheel or an sdist of a source tree, made with the tools that are installed."""
    program = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(target)!r}))"
    command = [sys.executable, "-c", program]
    environment = {"OOD_NC_FAISS": "cpu", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return target / done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist of this tree, and the wheel that is made of the sdist alone."""
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip("setuptools is older than what builds the package")
    tree, target = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("built")
    for name in FILES:
        shutil.copy(ROOT / name, tree)
    for folder in ("ood_nc", "configs"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    sdist = build("sdist", tree, target)
    with tarfile.open(sdist) as archive:
        archive.extractall(target / "unpacked", filter="data")
    (unpacked,) = (target / "unpacked").iterdir()
    return sdist, build("wheel", unpacked, target)


@pytest.mark.slow
def test_wheel_and_sdist_hold_every_file_of_the_package_and_every_configuration(built: tuple[Path, Path]) -> None:
    sdist, wheel = built
    source = {path for path in (ROOT / "ood_nc").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    configs = {path for path in (ROOT / "configs").rglob("*") if path.is_file()}
    names = {str(path.relative_to(ROOT)) for path in source}
    assert {"ood_nc/py.typed", "ood_nc/detection/detectors.csv"} <= names
    assert any("report/templates/" in name for name in names) and ROOT / "configs/graphs/cora.yaml" in configs
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA")]
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert held == names | {f"ood_nc/{path.relative_to(ROOT)}" for path in configs}
    assert "Requires-Dist: faiss-cpu>=" in metadata and "Requires-Dist: torch>=" in metadata
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert names | {str(path.relative_to(ROOT)) for path in configs} | set(FILES) <= packed


@pytest.mark.slow
def test_a_consumer_sees_our_types_under_mypy_strict(built: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    (site,) = (tmp_path / "env" / "lib").glob("*/site-packages")
    with zipfile.ZipFile(built[1]) as archive:
        archive.extractall(site)
    (site / "ours.pth").write_text(sysconfig.get_paths()["purelib"])
    consumer = tmp_path / "consumer.py"
    consumer.write_text(
        textwrap.dedent("""
        from ood_nc import ControlledModel, Detector, Results, evaluate
        from ood_nc.collapse import ClassStatistics, measure
        from ood_nc.detection import auroc, create_detector

        def judge(path: str, images: list[str]) -> Results:
            reveal_type(Detector.load(path))
            reveal_type(ControlledModel("resnet18", num_classes=3))
            reveal_type(auroc([1.0], [0.0]))
            reveal_type(create_detector("knn"))
            reveal_type(measure(ClassStatistics(num_classes=2, dim=3)))
            return evaluate(features={"id_test/encoder": [[0.0]]})

        judge(3, [])
        """)
    )
    heavy = ", ".join(
        f"{name}.*" for name in ("torch", "torchvision", "timm", "sklearn", "scipy", "accelerate", "wandb")
    )
    (tmp_path / "mypy.ini").write_text(f"[mypy]\n[mypy-{heavy}]\nfollow_imports = skip\n")  # half the time is theirs
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(tmp_path / "env/bin/python")]
    done = subprocess.run(
        [*command, "--cache-dir", str(tmp_path / "cache"), "--follow-imports", "silent", consumer.name],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    wanted = ("Detector", "ControlledModel", "float", "Detector", "CollapseReport")
    assert len(revealed) == len(wanted), done.stdout + done.stderr
    for found, part in zip(revealed, wanted, strict=True):
        assert part in found and "Any" not in found
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1 and 'has incompatible type "int"; expected "str"' in errors[0], done.stdout


def test_the_container_begins_with_the_quickstart_and_copies_what_there_is() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert 'ENTRYPOINT ["ood-nc"]\nCMD ["quickstart"]' in text
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", text, re.M)
    assert {"cpu", "cuda"} <= {name for _, name in stages}
    known: set[str] = set()
    for base, name in stages:
        assert base.startswith("python:3.") or base in known
        known.add(name)
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for word in line.split()]
    assert "ood_nc" in copied and set(FILES) <= set(copied)
    for name in copied:
        assert (ROOT / name).exists() and f"!{name}\n" in allowed


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["version"] == ood_nc.__version__
    assert {"message", "title", "authors"} <= set(citation) and citation["license"] == "Apache-2.0"
    assert re.search(
        rf"^## {re.escape(ood_nc.__version__)} ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M
    )
