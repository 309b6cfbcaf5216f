"""Generation of many answers: greedy, in batches that shrink where memory runs out, until a time.

Prompts are padded on the left, so that every answer begins where its batch's prompts end. In fp32
the answers are those that a model gives one by one; in 16 bits a batch rounds differently, and a
tie between two words may fall the other way.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.training.evaluate.answers import autocast, ends
from runner.training.evaluate.scores import Answer
from runner.training.fit.memory import classify, let_go, plan_does_not_fit
from runner.training.fit.model import Machine

ON_CARD = 64  # answers at once: keys and values of 64 × 1,000 tokens take 8 GiB in an 8B
ON_CPU = 8  # more are no faster there


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is to be continued."""

    ids: list[int]
    limit: int
    """Tokens of the longest answer."""


class Generator:
    """One loaded model, with whichever adapter is switched on."""

    def __init__(
        self, model: Any, tokenizer: Any, machine: Machine, *, until: float | None = None
    ) -> None:
        """Take a model that is for answering.

        Args:
            model: a causal LM.
            tokenizer: its.
            machine: where it computes.
            until: monotonic time at which it ends; None: it takes as long as it takes.
        """
        self.model, self.tokenizer, self._machine = model, tokenizer, machine
        self.until = until
        self.batch_size = ON_CARD if machine.on_gpu else ON_CPU
        """Halved where it did not fit."""

    @property
    def is_late(self) -> bool:
        """Whether the time is over."""
        return self.until is not None and time.monotonic() >= self.until

    def answers(self, prompts: Sequence[Prompt]) -> list[Answer | None]:
        """Continue each prompt; None: the time was over before its batch was complete.

        Answers of that batch that had ended by then do not count either: they are those of the rows
        where the model stops early, and a model that writes on without end would look as good.

        Raises:
            Exception: memory ran out even with one at a time.
        """
        order = sorted(
            range(len(prompts)), key=lambda at: -len(prompts[at].ids) - prompts[at].limit
        )
        found: list[Answer | None] = [None] * len(prompts)
        done = 0
        while done < len(order) and not self.is_late:
            here = order[done : done + self.batch_size]
            written = self._try_batch([prompts[at] for at in here])
            if written is None:
                let_go()  # only here: inside an except the error still holds the tensors
                self.batch_size = max(1, self.batch_size // 2)
                continue
            for at, answer in zip(here, written, strict=True):
                found[at] = answer
            done += len(here)
        return found

    def _try_batch(self, prompts: Sequence[Prompt]) -> list[Answer | None] | None:
        """Continue one batch; None: it did not fit and may be smaller."""
        try:
            return self._batch(prompts)
        except Exception as error:
            fits_not = plan_does_not_fit(classify(error), on_gpu=self._machine.on_gpu)
            if not fits_not or len(prompts) == 1:
                raise
            traceback.clear_frames(error.__traceback__)
        return None

    def _batch(self, prompts: Sequence[Prompt]) -> list[Answer | None]:
        import torch

        stops = ends(self.model, self.tokenizer)
        pad = self.tokenizer.pad_token_id
        pad = stops[0] if pad is None else pad
        longest = max(len(prompt.ids) for prompt in prompts)
        blanks = [longest - len(prompt.ids) for prompt in prompts]
        rows = [[pad] * blank + p.ids for blank, p in zip(blanks, prompts, strict=True)]
        seen = [[0] * blank + [1] * (longest - blank) for blank in blanks]
        late = Late(self.until, [prompt.limit for prompt in prompts], longest)
        device = self.model.device
        with torch.inference_mode(), autocast(self._machine):
            out = self.model.generate(
                input_ids=torch.tensor(rows, device=device),
                attention_mask=torch.tensor(seen, device=device),
                max_new_tokens=max(prompt.limit for prompt in prompts),
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                use_cache=True,
                eos_token_id=stops,
                pad_token_id=pad,
                stopping_criteria=[late],
            )
        written = out[:, longest:].tolist()
        found = [self._read(ids, p.limit, stops) for ids, p in zip(written, prompts, strict=True)]
        return [None] * len(found) if None in found else found

    def _read(self, ids: list[int], limit: int, stops: Sequence[int]) -> Answer | None:
        end = next((at for at, id_ in enumerate(ids[:limit]) if id_ in stops), None)
        if end is None and len(ids) < limit:
            return None  # the time was over
        text = self.tokenizer.decode(ids[: limit if end is None else end], skip_special_tokens=True)
        return Answer(text=str(text).strip(), stopped=end is not None)


class Late:
    """Ends a row that has its number of tokens, and all rows when the time is over."""

    def __init__(self, until: float | None, limits: Sequence[int], begin: int) -> None:
        """Take the time, each row's longest answer, and where the answers begin."""
        self._until, self._limits, self._begin = until, list(limits), begin

    def __call__(self, input_ids: Any, _scores: Any, **_more: Any) -> Any:
        """Say by row whether it is at its end."""
        import torch

        over = self._until is not None and time.monotonic() >= self._until
        written = input_ids.shape[1] - self._begin
        done = [over or written >= limit for limit in self._limits]
        return torch.tensor(done, device=input_ids.device, dtype=torch.bool)
