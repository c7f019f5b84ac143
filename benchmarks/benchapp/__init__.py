"""The benchmark's table and migrations."""
