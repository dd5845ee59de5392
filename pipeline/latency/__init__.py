"""Latency tables: distinct pieces of networks, exported alone and timed."""
