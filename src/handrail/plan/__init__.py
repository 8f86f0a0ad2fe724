"""What a round or a stage is going to take: memory and time of each stage, on this machine or on a GPU that is named."""

from handrail.plan.machine import GPUS, Machine, gpu, here
from handrail.plan.plan import Foreseen, Otherwise, Plan, plan

__all__ = ["GPUS", "Foreseen", "Machine", "Otherwise", "Plan", "gpu", "here", "plan"]
