"""A URL converter for keys and database aliases, which may contain any character."""

from __future__ import annotations

import re

_PLAIN = re.compile(rb"[A-Za-z0-9_:-]")


class PartConverter:
    """A converter that keeps letters, digits, `_`, `:` and `-`, and writes every other byte as in `~2F`."""

    regex = "[^/]+"

    def to_python(self, value: str) -> str:
        """Return the decoded name. Raise `ValueError` for invalid UTF-8 and for NUL, which no name contains."""
        data = re.sub(rb"~([0-9A-F]{2})", lambda found: bytes.fromhex(found[1].decode()), value.encode())
        if b"\x00" in data:
            raise ValueError("Found a NUL character in the name of a migration or a database.")
        return data.decode()

    def to_url(self, value: object) -> str:
        """Return the encoded name."""
        data = str(value).encode(errors="surrogatepass")
        return "".join(chr(byte) if _PLAIN.match(bytes([byte])) else f"~{byte:02X}" for byte in data)
