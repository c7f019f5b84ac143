"""Backends, which transport jobs, and the code around them that sends, runs and recovers jobs."""
