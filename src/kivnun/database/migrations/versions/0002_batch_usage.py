"""What a batch cost in tokens, and which model answered it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns; batches of before have neither."""
    op.add_column("batches", sa.Column("model", sa.Text(), nullable=True))
    op.add_column("batches", sa.Column("usage", sa.JSON(), nullable=True))
