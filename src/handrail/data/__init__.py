"""Files and datasets to records, records to tokens and batches.

load_*            a Source -> Loaded records, checked
write_records     records -> a file, whole or not at all
split_by_prompt   records -> train, test
Codec             prompts and responses <-> tokens
*_example, *_batch, within_context, token_budget_batches      records -> what a model takes
"""

from handrail.data.batching import token_budget_batches
from handrail.data.codec import Codec
from handrail.data.examples import Example, demonstration_example, ranking_batch, within_context
from handrail.data.loading import Loaded, load_demonstrations, load_prompts, load_rankings, load_ratings, load_responses, load_verdicts
from handrail.data.settings import Source
from handrail.data.split import prompt_of, split_by_prompt
from handrail.data.writing import write_records

__all__ = [
    "Codec",
    "Example",
    "Loaded",
    "Source",
    "demonstration_example",
    "load_demonstrations",
    "load_prompts",
    "load_rankings",
    "load_ratings",
    "load_responses",
    "load_verdicts",
    "prompt_of",
    "ranking_batch",
    "split_by_prompt",
    "token_budget_batches",
    "within_context",
    "write_records",
]
