"""The replacement of the base class in the file of a Django migration."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

from massmigration_schema.exceptions import Refused

BASE = "OnlineMigration"
ONLINE = (f"massmigration_schema.{BASE}", f"massmigration_schema.migration.{BASE}")
DJANGO = ("django.db.migrations.Migration", "django.db.migrations.migration.Migration")
IMPORT = f"from massmigration_schema import {BASE}"


def rewritten(source: str) -> str:
    """Return the source of a migration whose class is an `OnlineMigration`. Raise `Refused` if it cannot be one.

    Only the name of the base class is replaced, and an import is added. Everything else stays as it is.
    """
    tree = ast.parse(source)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Migration"]
    if len(classes) != 1:
        raise _refused(f"it has {len(classes)} classes named Migration at its top level; required: 1")
    (found,) = classes
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)) and _is_before(node, found)]
    names = dict(_imported(imports))
    bases = [_full_name(base, names) for base in found.bases]
    if any(name in ONLINE for name in bases):
        return source
    places = [index for index, name in enumerate(bases) if name in DJANGO]
    if len(places) != 1 or found.bases[places[0]].lineno != found.bases[places[0]].end_lineno:
        listed = ", ".join(map(ast.unparse, found.bases)) or "none"
        raise _refused(f"the bases of its class are {listed}; one of them must be {DJANGO[0]}, on one line")
    known = next((name for name, origin in names.items() if origin in ONLINE), "")
    if not known and any(BASE in (getattr(each, "name", ""), getattr(each, "id", "")) for each in ast.walk(tree)):
        raise _refused(f"it uses the name {BASE} for something else")
    base = found.bases[places[0]]
    lines = source.encode().splitlines(keepends=True)
    line = lines[base.lineno - 1]  # offsets count bytes
    lines[base.lineno - 1] = line[: base.col_offset] + (known or BASE).encode() + line[base.end_col_offset :]
    if not known:
        newline = "\r\n" if "\r\n" in source else "\n"
        lines.insert(max(node.end_lineno or 0 for node in imports), (IMPORT + newline).encode())
    text = b"".join(lines).decode()
    found.bases[places[0]] = ast.Name(id=known or BASE, ctx=ast.Load())
    _require_same(tree, text)
    return text


def rewrite(path: Path) -> bool:
    """Change the file, and return whether it was changed. It has the old content or the new one at any time."""
    before = path.read_bytes()
    encoding, _ = tokenize.detect_encoding(io.BytesIO(before).readline)
    if encoding != "utf-8":
        raise _refused(f"its encoding is {encoding}; required: UTF-8 without a byte order mark")
    after = rewritten(before.decode()).encode()
    if after == before:
        return False
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(after)
        temporary.chmod(path.stat().st_mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _refused(problem: str) -> Refused:
    return Refused("online.file", f"The file cannot be changed: {problem}. Change its base class to {BASE} by hand.")


def _is_before(node: ast.stmt, other: ast.stmt) -> bool:
    return node.lineno < other.lineno


def _imported(imports: list[ast.Import | ast.ImportFrom]) -> Iterator[tuple[str, str]]:
    """Yield the names that imports bind, and what they stand for."""
    for node in imports:
        for each in node.names:
            if isinstance(node, ast.ImportFrom):
                yield each.asname or each.name, f"{'.' * node.level}{node.module}.{each.name}"
            else:
                first = each.name.partition(".")[0]
                yield each.asname or first, each.name if each.asname else first


def _full_name(node: ast.expr, names: dict[str, str]) -> str:
    """Return the full name of what an expression such as `migrations.Migration` stands for."""
    if isinstance(node, ast.Attribute):
        return f"{_full_name(node.value, names)}.{node.attr}"
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def _require_same(expected: ast.Module, text: str) -> None:
    """Raise `Refused` unless the new source means what is expected, apart from the import."""
    added = ast.dump(ast.parse(IMPORT).body[0])
    found = [ast.dump(node) for node in ast.parse(text).body]
    wanted = [ast.dump(node) for node in expected.body]
    if [each for each in found if each != added] != [each for each in wanted if each != added]:
        raise _refused("its class statement is written in a way that is not understood")
