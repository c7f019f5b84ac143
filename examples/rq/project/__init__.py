"""A project that has RQ: its queues are in the settings."""
