"""The one version number of all four packages; their builds read it from here."""

__version__ = "1.0.0.dev0"
