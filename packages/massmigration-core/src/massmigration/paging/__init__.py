"""Keyset pagination and sharding of querysets."""
