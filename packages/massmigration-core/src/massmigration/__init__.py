"""Data migrations for live Django databases: long-running, resumable, exactly once."""
