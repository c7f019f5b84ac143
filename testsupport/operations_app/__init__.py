"""Models, and a migration for each data operation."""
