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
from handrail.evaluate.disagreement import Disagreement, disagreement
from handrail.evaluate.function import RewardFunction, load_function, total
from handrail.evaluate.judges import FunctionJudge, Judge, PartnerFunction, RewardModelJudge, TokenFunction
from handrail.evaluate.overlap import bleu, distinct_n, repetition, rouge_l
from handrail.evaluate.reward_model import held_out
from handrail.evaluate.winrate import WinRate, bootstrap, win_rate

__all__ = [
    "Accuracy",
    "Bin",
    "Count",
    "Disagreement",
    "FunctionJudge",
    "Judge",
    "LengthRule",
    "PartnerFunction",
    "RewardFunction",
    "RewardModelJudge",
    "TokenFunction",
    "WinRate",
    "accuracy",
    "bleu",
    "bootstrap",
    "calibration",
    "disagreement",
    "distinct_n",
    "expected_calibration_error",
    "held_out",
    "labeller_agreement",
    "length_rule_accuracy",
    "load_function",
    "margins",
    "pair_differences",
    "repetition",
    "rouge_l",
    "total",
    "win_rate",
]
