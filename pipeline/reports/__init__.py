"""A run's or a comparison's results as one HTML page that opens offline."""
