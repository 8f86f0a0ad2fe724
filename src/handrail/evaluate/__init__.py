"""Win rates with intervals, reward-model accuracy and calibration, text overlap, and the judges behind them."""

from handrail.evaluate.accuracy import (
    Accuracy,
    Bin,
    Count,
    LengthRule,
    accuracy,
    calibration,
    expected_calibration_error,
    labeller_agreement,
    length_rule_accuracy,
    margins,
    pair_differences,
)
from handrail.evaluate.attribution import Asked, attributions, chosen_pairs, responses_of
from handrail.evaluate.disagreement import Disagreement, disagreement
from handrail.evaluate.endpoint import Endpoint, EndpointSettings
from handrail.evaluate.function import RewardFunction, load_function, total
from handrail.evaluate.judges import FunctionJudge, Judge, PartnerFunction, RewardModelJudge, TokenFunction
from handrail.evaluate.overlap import bleu, distinct_n, repetition, rouge_l
from handrail.evaluate.pairwise import EndpointJudge, Judgements, rubric_of
from handrail.evaluate.people import PeopleSettings, people, read_verdicts
from handrail.evaluate.reward_model import held_out, scores_of, verdicts
from handrail.evaluate.winrate import WinRate, bootstrap, judged_rate, win_rate

__all__ = [
    "Accuracy",
    "Asked",
    "Bin",
    "Count",
    "Disagreement",
    "Endpoint",
    "EndpointJudge",
    "EndpointSettings",
    "FunctionJudge",
    "Judge",
    "Judgements",
    "LengthRule",
    "PartnerFunction",
    "PeopleSettings",
    "RewardFunction",
    "RewardModelJudge",
    "TokenFunction",
    "WinRate",
    "accuracy",
    "attributions",
    "bleu",
    "bootstrap",
    "calibration",
    "chosen_pairs",
    "disagreement",
    "distinct_n",
    "expected_calibration_error",
    "held_out",
    "judged_rate",
    "labeller_agreement",
    "length_rule_accuracy",
    "load_function",
    "margins",
    "pair_differences",
    "people",
    "read_verdicts",
    "repetition",
    "responses_of",
    "rouge_l",
    "rubric_of",
    "scores_of",
    "total",
    "verdicts",
    "win_rate",
]
