"""One dataset a file. `open_split` (spec.py) turns the text a user types into frames and label maps."""
