"""The first commands of the README, and the sessions that run them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def console_blocks():
    return re.findall(r"^```console\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def sessions():
    """Return the sessions that the README's commands run."""
    return re.findall(r"^\$ python3 dev\.py (\w+)$", console_blocks()[0], re.MULTILINE)


def test_the_first_console_block_has_two_commands_of_dev_py():
    assert console_blocks()[0].splitlines() == ["$ python3 dev.py demo", "$ python3 dev.py tests"]


def test_continuous_integration_runs_the_second():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    (names,) = re.findall(r"^for session in (.*); do$", script, re.MULTILINE)

    assert sessions()[1] in names.split()
    assert 'python3 dev.py "$session"' in script


@pytest.mark.parametrize("name", ["demo", "tests"])
def test_each_is_a_session_of_the_noxfile(name):
    assert re.search(rf"^@nox\.session\ndef {name}\(", (ROOT / "noxfile.py").read_text(encoding="utf-8"), re.MULTILINE)
