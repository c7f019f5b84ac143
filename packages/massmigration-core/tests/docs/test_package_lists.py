"""The places that must list every package."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
ADAPTERS = sorted(
    path.parent.name for path in ROOT.glob("packages/*/pyproject.toml") if path.parent.name != "massmigration-core"
)


def lists(name):
    """Return the lists of this name in pyproject.toml."""
    return re.findall(rf"^{name} = \[(.*?)\]$", PROJECT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("package", ADAPTERS)
@pytest.mark.parametrize(
    "name", ["source_pkgs", "root_packages", "ancestors", "forbidden_modules", "modules", "source_modules"]
)
def test_tools_know_the_package(package, name):
    module = package.replace("-", "_")

    assert any(f'"{module}"' in found for found in lists(name)), f"{module} is in no list {name!r} of pyproject.toml."


@pytest.mark.parametrize("package", ADAPTERS)
def test_mypy_finds_the_package(package):
    path = f"/packages/{package}/src"

    assert path in lists("mypy_path")[0], f"{path} is not in mypy_path of pyproject.toml."


@pytest.mark.parametrize("package", ADAPTERS)
@pytest.mark.parametrize("readme", ["README.md", "packages/massmigration-core/README.md"])
def test_readmes_name_the_package(package, readme):
    is_named = package in (ROOT / readme).read_text(encoding="utf-8")

    assert is_named, f"{readme} does not name {package}."


@pytest.mark.parametrize("package", ADAPTERS)
def test_a_package_has_the_files_that_it_is_built_from(package):
    files = ("README.md", "LICENSE", f"src/{package.replace('-', '_')}/py.typed")

    assert [name for name in files if not (ROOT / "packages" / package / name).is_file()] == []
