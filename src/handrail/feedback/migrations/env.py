"""Alembic runs this with the connection that the store has opened."""

from alembic import context

from handrail.feedback.store.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, render_as_batch=True)
context.run_migrations()
