"""`CheckNames`: the names of check constraints on a copy of a table, where the copy cannot have the same names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping


class CheckNames:
    """The names of check constraints on a copy of a table. On MariaDB, they are those that Django has given."""

    def created(self, name: str) -> str:
        """Return the name on the copy of a check constraint that Django adds."""
        return name

    def deleted(self, name: str) -> str:
        """Return the name on the copy of a check constraint that Django deletes."""
        return name

    def restored(self, text: str) -> str:
        """Return a statement, or a name, with the names that Django has given."""
        return text


class CopiedCheckNames(CheckNames):
    """The names on a copy if they are unique in a database, and the server has given the copied constraints new ones.

    `copies`: the names that the constraints of the table have on its copy.
    `make_name`: returns the name of a constraint that Django adds to the copy.
    """

    def __init__(self, copies: Mapping[str, str], make_name: Callable[[str], str]) -> None:
        self._names = dict(copies)
        self._make_name = make_name

    def created(self, name: str) -> str:
        self._names[name] = self._make_name(name)
        return self._names[name]

    def deleted(self, name: str) -> str:
        return self._names.get(name, name)

    def restored(self, text: str) -> str:
        # The longest first: a name may be the beginning of another.
        for name, copy in sorted(self._names.items(), key=lambda pair: -len(pair[1])):
            text = text.replace(copy, name)
        return text


def temporary_name(name: str) -> str:
    """Return a name for a check constraint of a copy that is dropped soon."""
    return f"mmc_{hashlib.sha1(name.encode()).hexdigest()[:16]}"  # a name, not a secret
