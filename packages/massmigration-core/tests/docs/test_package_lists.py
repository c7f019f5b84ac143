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
    assert any(f'"{package.replace("-", "_")}"' in found for found in lists(name))


@pytest.mark.parametrize("package", ADAPTERS)
def test_mypy_finds_the_package(package):
    assert f"/packages/{package}/src" in lists("mypy_path")[0]


@pytest.mark.parametrize("package", ADAPTERS)
@pytest.mark.parametrize("readme", ["README.md", "packages/massmigration-core/README.md"])
def test_readmes_name_the_package(package, readme):
    assert package in (ROOT / readme).read_text(encoding="utf-8")
