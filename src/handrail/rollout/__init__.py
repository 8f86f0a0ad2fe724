"""Responses from a policy: one protocol, `Engine`, and the engine that runs in this process, `NativeEngine`."""

from handrail.rollout.engine import Engine
from handrail.rollout.native import NativeEngine
from handrail.rollout.settings import Sampling

__all__ = ["Engine", "NativeEngine", "Sampling"]
