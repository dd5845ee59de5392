"""Search: the stage of each method, in a file of its name, and what it is made of."""
