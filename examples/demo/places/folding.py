"""Comparable names: without accents and case, in every script."""

import unicodedata


def fold(text):
    """Return a comparable name: São Paulo -> sao paulo, ΑΘΉΝΑ -> αθηνα."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))
