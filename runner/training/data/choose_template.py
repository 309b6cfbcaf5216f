"""Choose a tokenizer's chat template and pad: the model's own, or ChatML where it has none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runner.errors import ModelError, Problem
from runner.training.data.control_tokens import Reader, RefusedByTemplateError
from runner.training.data.mark_answers import Marker
from runner.training.data.render_answers import OTHER_MODEL
from runner.words import visible

_CHATML = (
    "{{% for message in messages %}}{{{{ {bos}'<|im_start|>' + message['role'] + '\n'"
    " + message['content'] + '{end}' + '\n' }}}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\n' }}}}{{% endif %}}"
)
_IN_PARTS = (
    "{%- set given = namespace(turns=[]) -%}{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{%- set given.turns = given.turns + "
    "[dict(message, content=[{'type': 'text', 'text': message['content']}])] -%}"
    "{%- else -%}{%- set given.turns = given.turns + [message] -%}{%- endif -%}"
    "{%- endfor -%}{%- set messages = given.turns -%}"
)
"""Put before a template that shows messages only as lists of parts (text, picture): LLaVA's and
SmolVLM's drop a message that is a text, without a word."""
_PAD_NAMES = (
    "<|finetune_right_pad_id|>",
    "<pad>",
    "<|pad|>",
    "[PAD]",
    "<|padding|>",
    "<|endoftext|>",
    "<unk>",
)
_PROBE = "Zqx"  # stands in for a text whose place in a rendering is looked for


def refusal(name: str, why: str) -> ModelError:
    """Say that a model does not allow answers alone to be learned."""
    return ModelError(
        [
            Problem(
                field="model",
                found=name,
                message=f"only answers are learned, and this model does not allow it: {why}",
                hint=OTHER_MODEL,
            )
        ]
    )


def require_readable(source: str, name: str) -> None:
    """Refuse a template that Jinja cannot read.

    Args:
        source: the template.
        name: the model, as the spec says it.

    Raises:
        ModelError: with the line and what is wrong there.
    """
    from jinja2 import TemplateSyntaxError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        _compile_jinja_template(source)
    except TemplateSyntaxError as error:
        why = visible(str(error.message))
        what = f"the model's chat template is damaged, from its line {error.lineno} on: {why}"
        hint = "Fetch the model again, or correct its chat_template.jinja."
        problem = Problem(field="model", found=name, message=what, hint=hint)
        raise ModelError([problem]) from None


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The template that a tokenizer has now."""

    whose: str
    note: str = ""
    """What the owner of the job should know of it."""


def choose_template(tokenizer: Any, usual: Reader, *, name: str, adds_bos: bool) -> Chosen:
    """Leave a tokenizer its own template where that shows texts, else mend it or give it ChatML.

    Args:
        tokenizer: it is changed.
        usual: its reader.
        name: the model, as the spec says it.
        adds_bos: the tokenizer puts a begin-of-text token before every text by itself.

    Raises:
        ModelError: it has neither a template nor an end token.
    """
    if not tokenizer.chat_template:
        return _chatml(tokenizer, name=name, adds_bos=adds_bos)
    if not _shows_texts(usual) and _give_parts(tokenizer, usual):
        return Chosen(whose="model's own, given texts as parts")
    return Chosen(whose="model's own")


def _chatml(tokenizer: Any, *, name: str, adds_bos: bool) -> Chosen:
    """Give a base model without a chat template ChatML, with an end token that it knows."""
    if tokenizer.eos_token is None:
        raise refusal(name, "it has neither a chat template nor an end token")
    end = "<|im_end|>" if "<|im_end|>" in tokenizer.get_vocab() else tokenizer.eos_token
    bos = "(bos_token if loop.first else '') + " if adds_bos else ""
    tokenizer.chat_template = _CHATML.format(bos=bos, end=end)
    what = f"the model has no chat template: ChatML is used, with {end} as the end of a turn"
    return Chosen(whose="ChatML", note=what)


def _give_parts(tokenizer: Any, usual: Reader) -> bool:
    """Let a template that wants messages in parts take texts, too, where that is all it lacks.

    The change travels with the template, into the adapter's folder and whoever reads it there.
    """
    own = tokenizer.chat_template
    if isinstance(own, str):
        tokenizer.chat_template = _IN_PARTS + own
        if _shows_texts(usual):
            return True
    tokenizer.chat_template = own
    return False


def _shows_texts(reader: Reader) -> bool:
    """Tell whether a question that is a text reaches the model."""
    try:
        return _PROBE in reader.render([{"role": "user", "content": _PROBE}])
    except RefusedByTemplateError:
        return False


def choose_pad(marker: Marker, *, name: str, embedding_rows: int | None) -> None:
    """Pad with a token that ends nothing: a learned pad would never be told from an end.

    Args:
        marker: it knows what ends answers; its tokenizer is changed.
        name: the model, as the spec says it.
        embedding_rows: token ids that the model has a row for, where its config tells.

    Raises:
        ModelError: there is no such token.
    """
    tokenizer = marker.tokenizer
    taken = {tokenizer.eos_token_id, *marker.end_ids}

    def fits(number: int) -> bool:
        return number not in taken and (embedding_rows is None or number < embedding_rows)

    if tokenizer.pad_token_id is not None and fits(tokenizer.pad_token_id):
        return
    vocabulary = tokenizer.get_vocab()
    names = [name for name in _PAD_NAMES if name in vocabulary]
    names += [tokenizer.unk_token] if tokenizer.unk_token else []
    names += [str(tokenizer.convert_ids_to_tokens(n)) for n in sorted(marker.special)]
    # Padding is masked out of attention and loss, so a begin-of-text token can serve as well.
    free = [name for name in names if fits(vocabulary[name])]
    free.sort(key=lambda name: vocabulary[name] == marker.bos)
    if not free:
        raise refusal(name, "its tokenizer has no token that can pad rows and ends nothing")
    tokenizer.pad_token = free[0]
