"""Makes names comparable: without accents, without case, in every script."""

import unicodedata


def fold(text):
    """São Paulo -> sao paulo, ΑΘΉΝΑ -> αθηνα."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))
