"""What the operations on data are tested with: models, and a migration for each operation."""
