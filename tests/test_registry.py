from __future__ import annotations

import sys

import pytest

from ood_nc.errors import UserError
from ood_nc.registry import Registry
from tests.plugins.installed import install

GROUP = "ood_nc.test_shapes"


def square(side):
    return side**2


@pytest.fixture
def shapes():
    shapes = Registry("shape", GROUP, fault=lambda entry: None if callable(entry) else "is no function")
    shapes.add("square", square)
    return shapes


@pytest.fixture
def installs(tmp_path, monkeypatch):
    def put(module, source, lines):
        monkeypatch.syspath_prepend(install(tmp_path / module, module, source, {GROUP: lines}))

    yield put
    for name in ("shapes_one", "shapes_two"):
        sys.modules.pop(name, None)


def test_ours(shapes):
    assert shapes["square"] is square
    assert (list(shapes), len(shapes), "square" in shapes, "cube" in shapes) == (["square"], 1, True, False)
    assert (shapes.names("s*"), shapes.names("no*")) == (["square"], [])
    with pytest.raises(UserError, match=r"^Unknown shape 'sqare'\. Did you mean 'square'\? Known: square\.$"):
        shapes["sqare"]


def test_a_name_stays_with_its_owner(shapes):
    assert shapes.add("square", square) is square
    with pytest.raises(UserError, match=r"^Shape name 'square' is taken by tests.test_registry.square\.$"):
        shapes.add("square", lambda side: side)
    with pytest.raises(UserError, match=r"^Shape 'five' is no function\.$"):
        shapes.add("five", 5)
    assert list(shapes) == ["square"]


def test_order_of_definition(shapes):
    shapes.add("disc", lambda radius: 3.14 * radius**2)
    assert list(shapes) == ["square", "disc"]
    assert shapes.names() == ["disc", "square"]


def test_of_another_package(shapes, installs):
    installs("shapes_one", "def cube(side):\n    return side**3\n", "cube = shapes_one:cube\nsquare = shapes_one:cube")
    assert list(shapes) == ["square", "cube"]
    assert "cube" in shapes and "shapes_one" not in sys.modules
    assert shapes["cube"](2) == 8
    assert shapes["square"] is square


def test_installed_again_elsewhere(shapes, installs):
    assert "cube" not in shapes
    installs("shapes_one", "def cube(side):\n    return side**3\n", "cube = shapes_one:cube")
    assert "cube" in shapes


def test_two_packages_of_one_name(shapes, installs):
    for module in ("shapes_one", "shapes_two"):
        installs(module, "cube = print", f"cube = {module}:cube")
    with pytest.raises(UserError, match=r"declare a shape 'cube': shapes_one:cube and shapes_two:cube\. Uninstall one"):
        shapes["cube"]
    assert shapes["square"] is square


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("import no_such_module", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemError('no')", "cannot be imported: SystemError: no"),
        ("cone = 1", "cannot be imported: AttributeError"),
        ("cube = 5", r"is no function\.$"),
    ],
)
def test_broken_plugin(shapes, installs, source, fault):
    installs("shapes_one", source, "cube = shapes_one:cube")
    assert "cube" in shapes
    with pytest.raises(UserError, match=rf"^Plug-in shape 'cube' \(shapes_one:cube\) {fault}"):
        shapes["cube"]


def test_many_names_are_not_all_told():
    numbers = Registry("number", GROUP)
    for number in range(20):
        numbers.add(f"n{number}", number)
    with pytest.raises(UserError, match=r"^Unknown number 'nn'\. See `ood-nc list`\.$"):
        numbers["nn"]


def test_modules_of_the_package_define_ours(tmp_path, monkeypatch):
    package = tmp_path / "shapes_package"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from ood_nc.registry import Registry\nS = Registry('s', 'g', package=__name__)"
    )
    (package / "disc.py").write_text("from shapes_package import S\nS.add('disc', print)")
    monkeypatch.syspath_prepend(tmp_path)
    import shapes_package

    assert "shapes_package.disc" not in sys.modules
    assert list(shapes_package.S) == ["disc"]
