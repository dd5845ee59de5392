"""Numbers measured once and frozen to a file: latency tables, INT8 ranges."""
