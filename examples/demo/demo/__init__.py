"""The demo's settings and addresses."""
