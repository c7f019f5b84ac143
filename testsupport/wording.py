"""A check of the wording of texts that people read: `python -m testsupport.wording [PATH ...]`.

It reads the documentation, the templates, and the comments, docstrings and other strings of the code. A line that must
keep such a word, because Django, a driver or a user's file uses it, ends with a comment with `wording: allow`.
The docstring of a function begins with a verb, unless the function is a property or a fixture.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ALLOWED = "wording: allow"
DEFINITIONS = {"testsupport/wording.py", "docs/glossary.md"}
SUFFIXES = {".html", ".js", ".md", ".py", ".toml", ".txt"}

PHRASES = {
    r"mend(s|ed|ing)?": "fix",
    r"bears?|borne": "tolerate, allow",
    r"for ever": "forever, without end",
    r"for who": "for users who",
    r"(gives?|gave|given|giving) (a|the) verb": "perform an action",
    r"(is|are|was|were) at it": "is working on the shard",
    r"(go|goes|going|gone|went) on": "continue",
    r"anew": "again",
    r"heard of": "last seen",
    r"as ever": "as before",
    r"by chance": "accidentally, randomly",
    r"those of": "name the things again",
    r"(is|are|was|were) to be": "must be, will be",
    r"in vain": "without success, without effect",
    r"whoever": "every user who, the process that",
}
"""Regular expressions of phrases that no text contains, and what to write instead."""

PATTERN = re.compile(
    "|".join(rf"\b(?P<p{n}>{phrase})\b" for n, phrase in enumerate(PHRASES)).replace(" ", r"\s+"), re.IGNORECASE
)
ADVICE = list(PHRASES.values())
CONFLICT = re.compile(r"(<{7}|>{7}) ")

NO_VERB = re.compile(
    r"(a|all|an|another|as|at|by|each|every|for|from|how|in|its|no|not|of|on|one|some|that|the|these|this|those|until|"
    r"what|when|where|whether|which|who|with|within|without)\b",
    re.IGNORECASE,
)
"""Words with which no docstring of a function begins."""

NAMES_A_VALUE = re.compile(r"property|fixture")
"""Decorators of functions whose docstring may be a noun phrase."""


def main(paths: Iterable[str]) -> int:
    """Print every line that contains one of the phrases; return how many there are, at most 1."""
    found = [problem for path in list(paths) or tracked_files() for problem in problems(path)]
    print(*(found or ["The wording is fine."]), sep="\n")
    return min(len(found), 1)


def tracked_files() -> list[str]:
    """Return the paths of all files under version control that people read, relative to the root."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for path in listed.split("\0") if Path(path).suffix in SUFFIXES and path not in DEFINITIONS]


def problems(path: str) -> Iterator[str]:
    """Yield a message for each phrase that a file contains."""
    source = (ROOT / path).read_text()
    lines = source.splitlines()
    for number, line in enumerate(lines, 1):
        if CONFLICT.match(line):
            yield f"{path}:{number}: a conflict of a merge; resolve it"
    is_code = path.endswith(".py")
    for number, text in texts_of_code(source) if is_code else [(1, source)]:
        for match in PATTERN.finditer(text):
            line = number + text.count("\n", 0, match.start())
            if ALLOWED not in lines[line - 1]:
                advice = next(ADVICE[n] for n in range(len(ADVICE)) if match[f"p{n}"])
                yield f"{path}:{line}: {match[0]!r}; write: {advice}"
    for line, word in openings(source) if is_code else ():
        if ALLOWED not in lines[line - 1]:
            yield f"{path}:{line}: the docstring of a function begins with {word!r}; write: a verb, as in Return"


def texts_of_code(source: str) -> Iterator[tuple[int, str]]:
    """Yield the comments and strings of Python code, with the number of their first line."""
    strings = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1)}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in strings:
            yield token.start[0], token.string


def openings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the first words of the functions' docstrings that are no verbs, with the number of their line."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not (text := ast.get_docstring(node)):
            continue
        is_value = any(NAMES_A_VALUE.search(ast.unparse(each)) for each in node.decorator_list)
        if (found := NO_VERB.match(text)) and not is_value:
            yield node.body[0].lineno, found[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
