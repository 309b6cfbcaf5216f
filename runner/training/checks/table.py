"""The table of data checks: the words of each, how serious it is, and what to do.

Figures stand in the sentences as ``{count}`` and ``{of}``; a sentence that names a number of rows
puts it behind a colon, so that it is right for one row and for many.
"""

from __future__ import annotations

from dataclasses import dataclass

from runner.contract.findings import Level
from runner.spec.checks import Checks

INFORM, ADVISE, STOP = Level.INFORM, Level.ADVISE, Level.STOP


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check's words."""

    level: Level
    """Where nothing else is said by the spec or by the finding's size."""
    small: Level | None = None
    """The level of a finding that is below the check's share; None: the same."""
    says: str
    says_of_sample: str | None = None
    """The same where there were too many rows to compare all: ``{sampled}`` were."""
    advice: str | None = None
    is_fact: bool = False
    """It is said of all data, so there is nothing to be done about it unless it is advice."""


TABLE: dict[str, Check] = {
    "end_of_turn": Check(
        level=STOP,
        says="The end of the answer is not learned: {count} of {of} rows. The model would not know "
        "where to stop.",
        advice="Please report this with the model's name: it should have been refused earlier.",
    ),
    "few_rows": Check(
        level=ADVISE,
        says="There are few rows: {count}. With fewer than {least}, a model learns the tone of the "
        "answers and little else, and the result cannot be measured well.",
        advice="Add rows if you can; good ones count for more than many.",
    ),
    "many_epochs": Check(
        level=ADVISE,
        says="{count} rows are each read {epochs} times. With so many rows, a model begins to "
        "learn them by heart from the third time on.",
        advice="Write epochs: 1 or 2 below training: in the spec; it also takes less time.",
    ),
    "learned_share": Check(
        level=ADVISE,
        small=INFORM,
        says="Of the text, {percent}% is learned (the answers); the rest is only read.",
        advice="Where the questions need not be so long, shorten them: the box then reads less.",
        is_fact=True,
    ),
    "leak": Check(
        level=ADVISE,
        says="The question is both learned and held out: {count} of {of} held-out rows. The "
        "measured result looks better than it is.",
        advice="Take these rows out of data: or out of eval_data:.",
    ),
    "near_leak": Check(
        level=ADVISE,
        small=INFORM,
        says="Held-out rows that nearly repeat a learned row: {count} of {of} held-out rows. The "
        "measured result may look better than it is.",
        says_of_sample="Held-out rows that nearly repeat a learned row: {count} were found among "
        "{sampled} rows drawn for it; there are too many rows to compare all. The measured result "
        "may look better than it is.",
        advice="Keep one of each pair, or put rows of one source into eval_data: together.",
    ),
    "contradictions": Check(
        level=ADVISE,
        small=INFORM,
        says="The same question with different answers: {count} of {of} rows. The model learns a "
        "mixture of them.",
        advice="Look at the rows named and keep the right answer; where the answers may differ, "
        "leave it so.",
    ),
    "exact_duplicates": Check(
        level=ADVISE,
        small=INFORM,
        says="Exact copies of an earlier row: {count} of {of} rows. They weigh more than "
        "the others.",
        advice="Delete the copies, unless these rows are meant to count more.",
    ),
    "near_duplicates": Check(
        level=ADVISE,
        small=INFORM,
        says="Rows that repeat an earlier one nearly word for word: {count} of {of} rows.",
        says_of_sample="Rows that repeat an earlier one nearly word for word: {count} were found "
        "among {sampled} rows drawn for it; there are too many rows ({of}) to compare all.",
        advice="Keep one of each group, unless the small differences are what is to be learned.",
    ),
    "wrong_encoding": Check(
        level=ADVISE,
        says="Letters broken by a wrong encoding (such as Ã¼ for ü): {count} of {of} rows. The "
        "model would learn to write them.",
        advice="Export the data again as UTF-8 (in Excel: 'CSV UTF-8').",
    ),
    "placeholder_answers": Check(
        level=ADVISE,
        says="The answer is only a placeholder (TODO, n/a, dashes or dots): {count} of {of} rows.",
        advice="Write the answers, or delete these rows.",
    ),
    "assistant_phrases": Check(
        level=ADVISE,
        says="The answer speaks of being a language model: {count} of {of} rows. Your model would "
        "say so, too.",
        advice="Rewrite or delete these rows.",
    ),
    "boilerplate_answers": Check(
        level=ADVISE,
        says="The same long answer to different questions: {count} of {of} rows. The model may "
        "give it to any question.",
        advice="Look at the rows named: keep some of them, or write answers of their own.",
    ),
    "repeated_questions": Check(
        level=ADVISE,
        small=INFORM,
        says="The answer begins with the whole question: {count} of {of} rows. The model learns to "
        "repeat what it is asked.",
        advice="If this comes from the export, cut the question from the answers.",
    ),
    "short_answers": Check(
        level=INFORM,
        says="An answer of one or two words, where half of all answers have {median} words or "
        "more: {count} of {of} rows.",
        advice="Look at the rows named: sometimes a cell has slipped.",
    ),
    "unusual_text": Check(
        level=INFORM,
        says="Text that the model reads in far more pieces than the rest: {count} of {of} rows. It "
        "is damaged, encoded, or in a script that this model hardly knows.",
        advice="Look at the rows named, and delete what no person could read.",
    ),
    "languages": Check(
        level=INFORM,
        says="Most rows are in {main}; in another language ({others}): {count} of {of} rows.",
        advice="Look at the rows named, if one language was meant.",
    ),
    "personal_data": Check(
        level=INFORM,
        says="Personal data ({kinds}): {count} of {of} rows. A model can repeat what it has "
        "learned. Names are not looked for.",
        advice="Replace it by placeholders, if the people who use the model must not see it.",
    ),
    "too_long": Check(
        level=INFORM,
        says="Longer than the limit of {limit} tokens and left out whole: {count} of {of} rows. No "
        "answer is cut.",
        advice="Cut these rows into shorter ones, or raise max_length if the card has the memory.",
    ),
    "language_mix": Check(
        level=INFORM,
        says="The rows are in more than one language ({named}), as far as one can see: {count} "
        "of {of} rows.",
        is_fact=True,
    ),
    "row_kinds": Check(
        level=INFORM,
        says="{of} rows ({kinds}).",
        is_fact=True,
    ),
    "token_lengths": Check(
        level=INFORM,
        says="Half of the rows have {median} tokens or fewer, 95 of 100 have at most {most}, the "
        "longest has {longest}.",
        is_fact=True,
    ),
    "known_answers": Check(
        level=ADVISE,
        small=INFORM,
        says="The base model gives the answer already, before any training: {count} of {of} rows "
        "that were measured ({learned} are learned).",
        advice="Such rows teach little; rows that the base gets wrong are worth more.",
    ),
    "surprising_answers": Check(
        level=ADVISE,
        says="The base model finds the answer far less likely than the others: {count} of {of} "
        "rows that were measured ({learned} are learned).",
        advice="Look at the rows named first: a wrong label or a slipped line stands out.",
    ),
    "hardest_answers": Check(
        level=INFORM,
        says="The answers that the base model finds hardest, of {of} rows that were measured "
        "({learned} are learned; a loss of up to {highest} per token; half have {median} or less).",
        advice="A look at the rows named shows whether their answers are right.",
    ),
}
"""In the order in which a person should read what has the same level."""

assert set(TABLE) == set(Checks.model_fields)
