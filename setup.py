"""The one part of the metadata that depends on the machine: which faiss wheel.

faiss-cpu and faiss-gpu hold the same module and break each other when both are installed, and a package's metadata
cannot say "one of the two". So the choice is made where the package is built: faiss-gpu where an NVIDIA GPU answers
on 64-bit Linux, else faiss-cpu. OOD_NC_FAISS=cpu or OOD_NC_FAISS=gpu decides it by hand (release wheels use cpu).
"""

import os
import platform
import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

DEPENDENCIES = [
    "accelerate>=1.0",
    "jinja2>=3.1",
    "numpy>=1.24",
    "packaging>=23",
    "pillow>=10.1",
    "plotly>=5.20",
    "pyarrow>=14",
    "pydantic>=2.10.6",
    "pyyaml>=6.0",
    "rich>=13",
    "safetensors>=0.4.3",
    "scikit-learn>=1.3",
    "scipy>=1.11",
    "shtab>=1.7",
    "threadpoolctl>=3.1",
    "timm>=1.0.26",
    "torch>=2.6",
    "torchvision>=0.21",
    "wandb>=0.18",
]


def faiss() -> str:
    """The requirement for the one faiss wheel that fits this machine."""
    choice = os.environ.get("OOD_NC_FAISS")
    if choice not in (None, "", "cpu", "gpu"):
        raise SystemExit(f"OOD_NC_FAISS is {choice!r}: use cpu or gpu.")
    if not choice:
        wheel_exists = platform.system() == "Linux" and platform.machine() == "x86_64"
        choice = "gpu" if wheel_exists and _has_nvidia_gpu() else "cpu"
    return f"faiss-{choice}>=1.8"


def _has_nvidia_gpu() -> bool:
    command = shutil.which("nvidia-smi")
    if command is None:
        return False
    try:
        answer = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return answer.returncode == 0 and "GPU" in answer.stdout


class BuildWithConfigs(build_py):
    """The recipes in configs/ go into the wheel too: `--config NAME` finds them where the package is installed."""

    def run(self) -> None:
        """Build, then copy the recipes."""
        super().run()
        if not self.editable_mode:
            self.copy_tree("configs", str(Path(self.build_lib) / "ood_nc" / "configs"))


setup(install_requires=[*DEPENDENCIES, faiss()], cmdclass={"build_py": BuildWithConfigs})
