"""Thresholds of the data checks: every figure with its reason; docs/checks.md shows this table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """One figure that decides whether something is said, or how seriously."""

    value: float
    unit: str
    why: str


FEW_ROWS = Threshold(
    value=300,
    unit="rows",
    why="with fewer, little more than the tone of the answers is learned, and no verdict is sure: "
    "the held-out fifth of 300 rows shows no difference under 19 points",
)
MANY_ROWS = Threshold(
    value=10_000,
    unit="rows",
    why="so many rows teach within one or two epochs what they hold",
)
MANY_EPOCHS = Threshold(
    value=3,
    unit="epochs",
    why="from the third reading on, a model learns rows by heart rather than what they share",
)
LEARNED_SHARE = Threshold(
    value=0.005,
    unit="of the tokens",
    why="half a token in a hundred: hours of reading for a few words; labels after long texts lie "
    "at 1% and are fine",
)
DUPLICATES = Threshold(
    value=0.01,
    unit="of the rows",
    why="a few copies change nothing; from one in a hundred on they outweigh other rows",
)
NEAR = Threshold(
    value=0.85,
    unit="Jaccard similarity of three-word sequences",
    why="one word in forty differs; rows that share a form but not their facts lie below",
)
NEAR_WORDS = Threshold(
    value=20,
    unit="words",
    why="in shorter rows one word is the fact that they differ in; shorter answers must be equal",
)
NEAR_DUPLICATES = Threshold(
    value=0.05,
    unit="of the rows",
    why="standard clauses repeat in any real archive; one in twenty is worth a look",
)
NEAR_ROWS = Threshold(
    value=500_000,
    unit="rows",
    why="128 bytes are kept for each row that is compared; larger data is compared by a sample, "
    "so that memory stays bounded",
)
NEAR_LEAK = Threshold(
    value=0.02,
    unit="of the held-out rows",
    why="one in fifty moves the held-out loss less than chance does",
)
CONTRADICTIONS = Threshold(
    value=0.01,
    unit="of the rows",
    why="a question may well have two good answers; from one in a hundred on it looks like labels "
    "that disagree",
)
CONTRADICTIONS_MEANT = Threshold(
    value=0.5,
    unit="of the rows",
    why="where most rows ask the same, the answers are examples of a style and differ on purpose",
)
USUAL_ANSWER = Threshold(
    value=20,
    unit="words (median)",
    why="only where answers are sentences is a short one remarkable; labels are short",
)
SHORT_ANSWER = Threshold(
    value=2,
    unit="words",
    why="one or two words among answers of whole sentences: often a cell that slipped",
)
SHORT_ANSWERS_MEANT = Threshold(
    value=0.05,
    unit="of the rows",
    why="where more rows answer so briefly, a part of the questions is meant to be answered so",
)
BOILERPLATE_WORDS = Threshold(
    value=8,
    unit="words",
    why="a shorter answer may be a label, and labels repeat",
)
BOILERPLATE_ROWS = Threshold(
    value=5,
    unit="rows",
    why="four questions may share an answer by nature",
)
BOILERPLATE_SHARE = Threshold(
    value=0.02,
    unit="of the rows",
    why="an answer that one question in fifty gets is what the model falls back on",
)
REPEATED_WORDS = Threshold(
    value=5,
    unit="words",
    why="an answer may well begin with a short question's words",
)
UNUSUAL_Z = Threshold(
    value=8,
    unit="robust standard deviations of tokens per character",
    why="measured: a price list among English answers lies at 7.4, German licences among English "
    "ones at 6; Chinese and Japanese ones, and encoded text, from 11 on",
)
UNUSUAL_TIMES = Threshold(
    value=2.7,
    unit="times the median of tokens per character",
    why="where rows are much alike, small differences are many deviations: the same price list has "
    "2.6 times the median, Chinese 2.9",
)
UNUSUAL_CHARACTERS = Threshold(
    value=200,
    unit="characters",
    why="in shorter rows the template's own tokens count for too much",
)
LANGUAGE_HITS = Threshold(
    value=4,
    unit="different frequent words",
    why="with fewer, names and quotations decide",
)
LANGUAGE_WORDS = Threshold(
    value=12,
    unit="words",
    why="shorter texts have too few of the frequent words to tell a language",
)
LANGUAGE_FEW = Threshold(
    value=0.1,
    unit="of the rows",
    why="where more rows are in a language, both are meant",
)
LOSS_TOKENS = Threshold(
    value=100_000,
    unit="tokens on a card",
    why="half a minute at 3,000 tokens a second; without a card, at most a quarter of what the "
    "held-out measuring reads, and 4,000",
)
LOSS_SECONDS = Threshold(
    value=60,
    unit="seconds",
    why="nothing beside a training of hours; where a model is so slow that it measures fewer rows "
    "in that time, it is said how many",
)
LOSS_ROWS = Threshold(
    value=512,
    unit="rows",
    why="a mislabelled share of 1% shows 5 rows among them",
)
KNOWN_LOSS = Threshold(
    value=0.1,
    unit="nats per token",
    why="each token of the answer has 90% on average before any training",
)
KNOWN_SHARE = Threshold(
    value=0.5,
    unit="of the measured rows",
    why="where the base gives half of the answers already, training has little to add",
)
SURPRISING_Z = Threshold(
    value=5,
    unit="robust standard deviations of the loss per token",
    why="right labels of four tokens reach 4.2 among themselves (SmolLM2 on licence categories)",
)
SURPRISING_LOSS = Threshold(
    value=1,
    unit="nats per token",
    why="the base gives each token less than 37% on average; measured: sentences with another "
    "country's capital lie at 1.6 to 2.3, right ones at 0.1 to 0.5 (SmolLM2). Where it does not "
    "know the subject, nothing is named: of 46 exchanged labels and answers of four data sets none "
    "was, and none of 386 right ones",
)

TABLE: dict[str, Threshold] = {
    name: value for name, value in globals().items() if isinstance(value, Threshold)
}
