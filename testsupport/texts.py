"""Texts that are easily damaged on their way into a database or out of it."""

from __future__ import annotations

NASTY = [
    "",
    'it\'s "quoted"',
    "100%",
    "%s %(a)s",
    "a\\b\\",
    "\\x00 {1,2}",
    "NULL",
    "null",
    "'; DROP",
    "é ß 漢 😀",
    "a\nb\tc\r",
    "{",
    '","',
    " x ",
]
