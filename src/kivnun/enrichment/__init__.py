"""New rows from the rows that are there: asked of a model, checked, and each with its origin on record."""
