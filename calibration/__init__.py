"""Numbers measured once and frozen to a file: latency tables."""
