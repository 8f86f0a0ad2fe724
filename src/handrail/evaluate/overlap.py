"""Overlap with reference texts, and how much texts repeat: cheap numbers that preference is read beside."""

import re
from collections.abc import Iterable, Sequence

WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Lower-case words and punctuation marks."""
    return WORD.findall(text.lower())


def rouge_l(responses: Sequence[str], references: Sequence[str]) -> float:
    """The mean F-measure of ROUGE-L (Lin 2004) over pairs of response and reference, 0 to 1, by rouge-score.

    Raises ValueError where there is not one reference a response, or none at all.
    """
    from rouge_score.rouge_scorer import RougeScorer  # slow to import, and rarely needed
    from rouge_score.tokenizers import DefaultTokenizer

    _matched(responses, references)
    # Without a tokenizer the scorer logs that it takes this one, and that first log sends all later ones to standard error.
    scorer = RougeScorer(["rougeL"], tokenizer=DefaultTokenizer(use_stemmer=False))
    pairs = zip(references, responses, strict=True)
    found = [scorer.score(reference, response)["rougeL"].fmeasure for reference, response in pairs]
    return float(sum(found) / len(found))


def bleu(responses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU (Papineni et al. 2002), 0 to 100, by sacrebleu with its default tokens and smoothing.

    Raises ValueError where there is not one reference a response, or none at all.
    """
    from sacrebleu.metrics import BLEU

    _matched(responses, references)
    return float(BLEU().corpus_score(list(responses), [list(references)]).score)


def distinct_n(texts: Iterable[str], n: int = 2) -> float:
    """Different n-grams of words as a share of all n-grams of all texts (Li et al. 2016); 0 where there are none."""
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(texts: Iterable[str], n: int = 3) -> float:
    """The mean over texts of the share of n-grams of words that the same text has said before; 0 without texts."""
    shares = []
    for text in texts:
        grams = _grams(text, n)
        shares.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    return sum(shares) / len(shares) if shares else 0.0


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    found = words(text)
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]


def _matched(responses: Sequence[str], references: Sequence[str]) -> None:
    if len(responses) != len(references) or not responses:
        raise ValueError(f"{len(responses)} responses and {len(references)} references: one reference a response")
