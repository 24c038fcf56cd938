"""Models in memory that many clients ask at once."""
