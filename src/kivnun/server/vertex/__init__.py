"""Google's tuning and generation, over the same jobs and models."""
