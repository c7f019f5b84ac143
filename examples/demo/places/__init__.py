"""Cities, and three mass migrations of them."""
