"""What the server keeps: organisations, keys, files, jobs and models in SQLite or PostgreSQL."""
