"""Base classes of migrations, which users subclass."""
