"""Search: one method a file."""
