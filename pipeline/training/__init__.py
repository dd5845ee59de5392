"""What trainings and searches share: the loop, its batches, losses, optimizers, checkpoints."""
