"""The benchmark's table, for the predecessor."""
