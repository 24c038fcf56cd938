"""The training loop, its objectives, optimizers, schedules and checkpoints."""
