"""What alembic runs: the migrations, in the transaction of the connection that `kivnun.database.migrate` gives it."""

from alembic import context

from kivnun.database.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    compare_type=True,
    # SQLite undoes changes to tables too, as long as nothing but SQLAlchemy begins transactions.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
