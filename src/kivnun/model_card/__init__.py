"""The model card: what a run's folder says of itself, in the format of the Hugging Face hub."""
