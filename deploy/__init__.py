"""What runs on the device: numpy and an engine, nothing of the training side."""
