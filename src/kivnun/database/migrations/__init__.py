"""The steps that make and change the tables, one file each; alembic runs them."""
