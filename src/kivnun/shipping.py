"""A model made ready to ship after its training, or without one: exported, measured, chosen."""
