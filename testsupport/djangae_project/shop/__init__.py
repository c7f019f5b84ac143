"""Items, and what was called for them."""
