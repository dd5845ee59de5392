"""The verbs of the command line: each parses its arguments, calls one function, prints the result for a person or a machine."""
