"""The inspector: pages over run folders, served to this machine alone.  They read and never write."""

from handrail.inspector.server.serve import serve, served

__all__ = ["serve", "served"]
