"""What is known of the quality of labels.  Pure functions of labels: no store, no server.

sheets          labels as arrays; which of them count
figures         a figure with its interval; the bootstrap over items
coefficients    kappas, alpha and tau from sums over items
agreement       two by two and all together
checks          repeats against first answers, answers against gold
dawid_skene     error rates of labellers from verdicts alone
pairs           how often labellers order two responses right, from who agrees with whom
rankers         utilities of responses from rankings, given how sharply each labeller sees
reliability     both, with the weight of each labeller and the consensus of each item
concern(s)      what looks wrong: habits, and standing beside others and gold
disagreements   the most contested items
summary         all of it in one record
"""

from handrail.feedback.quality.agreement import Agreement, PairAgreement, agreement
from handrail.feedback.quality.checks import Share, gold_accuracy, self_consistency
from handrail.feedback.quality.concern import Concern
from handrail.feedback.quality.concerns import concerns
from handrail.feedback.quality.disagreements import Disagreement, Said, disagreements
from handrail.feedback.quality.figures import Figure
from handrail.feedback.quality.reliability import Consensus, ErrorRate, Judged, Reliability, Verdict, error_rates, reliability
from handrail.feedback.quality.sheets import Sheet, sheet, sheets
from handrail.feedback.quality.summary import Part, Quality, summary

__all__ = [
    "Agreement",
    "Concern",
    "Consensus",
    "Disagreement",
    "ErrorRate",
    "Figure",
    "Judged",
    "PairAgreement",
    "Part",
    "Quality",
    "Reliability",
    "Said",
    "Share",
    "Sheet",
    "Verdict",
    "agreement",
    "concerns",
    "disagreements",
    "error_rates",
    "gold_accuracy",
    "reliability",
    "self_consistency",
    "sheet",
    "sheets",
    "summary",
]
