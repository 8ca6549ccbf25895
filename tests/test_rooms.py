"""The walls between the rooms that import contracts do not hold: nothing private crosses, no circle, no long file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import ood_nc

LONGEST = 350


def modules(package: Path) -> dict[str, tuple[Path, ast.Module]]:
    """Name, file and syntax tree of every module of a package."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path, ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(name: str, path: Path, tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Every (module, name in it) that a module imports as it runs, in functions too; "" for a module."""
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = name.split(".")[: len(name.split(".")) - node.level + (path.name == "__init__.py")]
            module = ".".join([*parent, *filter(None, [node.module])]) if node.level else str(node.module)
            yield from ((module, alias.name) for alias in node.names)


def room(name: str) -> str:
    """The part of the package that a module is in: its folder or file at the root."""
    return name.split(".")[1] if "." in name else ""


def private_crossings(package: Path) -> list[str]:
    """What a module takes from another room under a name that begins with an underscore."""
    found = []
    for name, (path, tree) in modules(package).items():
        for module, imported in imports(name, path, tree):
            parts = [*module.split("."), imported]
            private = any(part.startswith("_") and not part.startswith("__") for part in parts)
            if private and parts[0] == package.name and room(f"{module}.{imported}") != room(name):
                found.append(f"{name}: {module} {imported}".strip())
    return found


def circle(package: Path) -> list[str]:
    """Modules that import each other in a circle, the first and last the same; empty where there is none.

    An import of a package's name means the package, unless it is a module; imports in functions count.
    """
    known = modules(package)
    graph: dict[str, set[str]] = {}
    for name, (path, tree) in known.items():
        wanted = {f"{module}.{imported}" if f"{module}.{imported}" in known else module
                  for module, imported in imports(name, path, tree)}  # fmt: skip
        graph[name] = {module for module in wanted if module in known and module != name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def long_files(package: Path) -> list[str]:
    """Files of more lines than a reader keeps in mind."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sorted(package.rglob("*.py"))}
    return [f"{path.relative_to(package)}: {length} lines" for path, length in lengths.items() if length > LONGEST]


CHECKS = (private_crossings, circle, long_files)
PACKAGE = Path(ood_nc.__file__).parent


@pytest.mark.parametrize("check", CHECKS)
def test_the_walls_hold(check) -> None:
    assert check(PACKAGE) == []


@pytest.mark.parametrize(
    ("check", "text", "seen"),
    [
        (private_crossings, "from house.attic._box import key", "attic._box"),
        (private_crossings, "from house.attic import _box", "attic _box"),
        (private_crossings, "def open():\n    from ..attic.chest import _lid", "attic.chest _lid"),
        (private_crossings, "import house.attic._box", "attic._box"),
        (circle, "from house.attic import chest", "house.attic.chest"),
        (circle, "def open():\n    import house.attic.chest", "house.attic.chest"),
        (long_files, "\n" * (LONGEST + 1), "cellar/door.py: 351 lines"),
    ],
)
def test_a_hole_is_found(check, text: str, seen: str, tmp_path: Path) -> None:
    files = {
        "__init__.py": "", "attic/__init__.py": "", "attic/_box.py": "key = 1", "cellar/__init__.py": "",
        "attic/chest.py": "from house.attic._box import key\nfrom house.cellar.door import __doc__\n_lid = key",
        "cellar/door.py": "from house.cellar import __name__\n",
    }  # fmt: skip
    house = tmp_path / "house"
    for name, content in files.items():
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / name).write_text(content)
    assert not any(rule(house) for rule in CHECKS)
    (house / "cellar/door.py").write_text(text)
    assert seen in str(check(house))
