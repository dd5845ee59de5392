"""How a network is made: stages that turn one artifact into the next, recipes that chain them, and the command line."""
