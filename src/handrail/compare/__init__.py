"""Methods against each other: the same prompts, the same reward model, as many sampled responses, several seeds.

For each seed one round makes demonstrations, SFT and the reward model; every method starts from there, in a round folder
of its own that takes those stages over.  Best-of-n on the starting model is the yardstick: what sampling alone reaches.
"""

from handrail.compare.figures import Found, gather
from handrail.compare.rounds import run
from handrail.compare.settings import Comparison

__all__ = ["Comparison", "Found", "gather", "run"]
