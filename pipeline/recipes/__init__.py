"""Complete, named, runnable recipes: `edgesmith run NAME`."""
