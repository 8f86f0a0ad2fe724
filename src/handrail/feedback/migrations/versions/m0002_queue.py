"""Items in the order in which they are given out."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.drop_index(op.f("ix_items_task_purpose_taken_priority"), "items")
    order: list[Any] = ["task", "purpose", sa.text("priority DESC"), sa.text("taken DESC"), "position"]
    op.create_index("ix_items_queue", "items", order)
