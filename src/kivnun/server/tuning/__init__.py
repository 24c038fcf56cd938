"""Fine-tuning jobs as clients see them."""
