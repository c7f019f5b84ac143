"""Items, and the calls of operations for them."""
