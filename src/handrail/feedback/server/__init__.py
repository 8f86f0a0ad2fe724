"""The web app: a JSON API with an OpenAPI schema, and the pages of labellers and of those who run the projects."""

from handrail.feedback.server.app import Responder, ServerSettings, create_app
from handrail.feedback.server.serve import listening, serve, served

__all__ = ["Responder", "ServerSettings", "create_app", "listening", "serve", "served"]
