"""What building engines is made of: plans, choices by measurement, adding to a bundle."""
