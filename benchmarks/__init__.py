"""A measurement of the engine against one raw SQL UPDATE of the same rows, in one run."""
