"""Documents cut into passages, kept in a store, and found again by words and by vectors."""
