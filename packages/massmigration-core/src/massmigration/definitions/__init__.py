"""What users subclass."""
