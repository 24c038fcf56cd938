"""How good a model is, with intervals and yardsticks, and the report that says so."""
