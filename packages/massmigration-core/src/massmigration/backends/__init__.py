"""What carries jobs to workers."""
