"""Fine-tuning jobs: a durable queue, and the workers that run them."""
