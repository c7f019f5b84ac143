"""For tests: of adapters, and of projects that have migrations."""
