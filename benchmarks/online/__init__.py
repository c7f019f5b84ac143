"""The load test of online schema changes: `python -m benchmarks.online`."""
