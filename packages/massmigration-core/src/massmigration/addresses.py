"""Writes keys and database aliases into addresses, whatever characters they have."""

from __future__ import annotations

import re

_PLAIN = re.compile(rb"[A-Za-z0-9_:-]")


class PartConverter:
    """Letters, digits, `_`, `:` and `-` as they are; `~2F` for every other byte."""

    regex = "[^/]+"

    def to_python(self, value: str) -> str:
        """Raise `ValueError` for what `to_url` never makes and browsers never send."""
        data = re.sub(rb"~([0-9A-F]{2})", lambda found: bytes.fromhex(found[1].decode()), value.encode())
        return data.decode()

    def to_url(self, value: object) -> str:
        data = str(value).encode(errors="surrogatepass")
        return "".join(chr(byte) if _PLAIN.match(bytes([byte])) else f"~{byte:02X}" for byte in data)
