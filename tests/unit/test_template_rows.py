"""Every answer is learned exactly, whatever its letters; a spelled control token stays text.

The references are the library's own call, and for rows that spell control tokens the pieces of the
rendering read one by one, with `split_special_tokens` for what the row's writer wrote.
"""

import copy
import re
from functools import cache

import pytest
from test_template import (
    FAMILIES,
    TEMPLATES,
    TURNS,
    learned_texts,
    make_tokenizer,
    talk,
)
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from runner.training.data.control_tokens import PlainReader, Reader, control_tokens
from runner.training.data.conversation import Conversation
from runner.training.data.mark_answers import IGNORED
from runner.training.data.template import Template, UnlearnableRowError
from runner.training.evaluate.answers import prompt_ids

QUESTION = {"role": "user", "content": "Choose: a, b, c or d?"}


def answered(text, *before):
    """Make a conversation whose last answer is this text."""
    return talk(*(before or (QUESTION,)), {"role": "assistant", "content": text})


@pytest.fixture(scope="module")
def template_of(tiny_model):
    """Give the checked template of a family, made once."""
    packaged = AutoTokenizer.from_pretrained(tiny_model)

    @cache
    def make(name):
        if name == "smollm2":
            return Template(copy.deepcopy(packaged), name=name)
        return Template(make_tokenizer(packaged, name), name=name)

    return make


ALL = ["smollm2", *FAMILIES]


def end_of(template):
    """Give the text of the token that ends an answer in a template."""
    (end,) = template.marker.end_ids
    return template.tokenizer.convert_ids_to_tokens(end)


def substrings(text):
    """List every part of a text but the whole."""
    return {text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1)} - {text}


def library_ids(template, conversation):
    """Give what the library's own call makes of the same messages."""
    messages = [*template.prompt_messages(conversation), conversation.messages[-1]]
    return template.tokenizer.apply_chat_template(messages, return_dict=False)


@pytest.mark.parametrize("family", ALL)
def test_an_answer_made_of_the_end_tokens_letters_is_learned(family, template_of):
    """`n`, `d`, `end` and each other part of the end token's spelling is an answer like any."""
    template = template_of(family)
    end = end_of(template)
    space = " " if family == "mistral" else ""
    letters = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789<>|/_[].!?-")
    for text in sorted({t for t in substrings(end) | letters if t == t.strip()}):
        (example,) = template.encode(answered(text))
        assert learned_texts(template.tokenizer, example) == [f"{space}{text}{end}"], text
        assert example.input_ids == library_ids(template, answered(text)), text


@pytest.mark.parametrize("family", ALL)
def test_each_of_several_short_answers_ends_at_its_own_end(family, template_of):
    """In a long conversation no answer is mistaken for the end of another."""
    template = template_of(family)
    end = end_of(template)
    space = " " if family == "mistral" else ""
    said = ["n", "d", end[:-1], "e", "n"]
    turns = [t for text in said for t in (QUESTION, {"role": "assistant", "content": text})]
    (example,) = template.encode(talk({"role": "system", "content": "end n d"}, *turns))
    assert learned_texts(template.tokenizer, example) == [f"{space}{text}{end}" for text in said]


BLANKS = ["\n", "\n\n", " ", "  ", "    ", "\t", "\r\n", "\n \n", "\u00a0", "\u3000", "\x0b"]


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("text", ["Yes", "- yes\n- no", "1"])
def test_an_answer_that_begins_with_blank_space_is_learned(family, text, template_of):
    """It is learned exactly, or without its leading blank space and then that is said."""
    template = template_of(family)
    end = end_of(template)
    for blank in BLANKS:
        before = template.noted.rows_cut
        (example,) = template.encode(answered(blank + text))
        (said,) = learned_texts(template.tokenizer, example)
        assert said.endswith(end)
        assert said.removesuffix(end).strip() == text, repr(blank)
        cut = template.noted.rows_cut - before
        wanted = answered(text if cut else blank + text)
        assert example.input_ids == library_ids(template, wanted), repr(blank)
        if cut:
            assert "blank space at the beginning of an answer" in " ".join(template.shortfalls)


@pytest.mark.parametrize("family", ALL)
def test_an_answer_that_ends_in_blank_space_is_learned(family, template_of):
    """The library's ids stay as they are, and the end token is the only thing learned after it."""
    template = template_of(family)
    end = end_of(template)
    for blank in BLANKS:
        (example,) = template.encode(answered(f"Yes{blank}"))
        (said,) = learned_texts(template.tokenizer, example)
        assert said.strip().removesuffix(end).strip() == "Yes"
        assert example.labels[-1] == IGNORED or example.labels[-1] in template.marker.end_ids
        assert example.input_ids == library_ids(template, answered(f"Yes{blank}")), repr(blank)


def pieces_joined(template, conversation):
    """Read the template's own tokens and the row's texts one by one, and join their ids.

    The template's tokens are found by rendering the conversation with other texts in it.
    """
    tokenizer = template.tokenizer
    messages = [dict(m) for m in conversation.messages]
    # Where a template trims texts, it must find the same blanks in the stand-ins.
    texts = {f"\ue000{i}\ue001": m["content"].strip() for i, m in enumerate(messages)}
    stand_ins = [{**m, "content": f"\ue000{i}\ue001"} for i, m in enumerate(messages)]
    rendered = tokenizer.apply_chat_template(stand_ins, tokenize=False)
    control = "|".join(map(re.escape, control_tokens(tokenizer)))
    ids, pending = [], ""

    def flush():
        nonlocal pending
        read = tokenizer(pending, add_special_tokens=False, split_special_tokens=True)
        ids.extend(read["input_ids"] if pending else [])
        pending = ""

    for piece in re.split(f"({control}|\ue000\\d+\ue001)", rendered):
        if piece in texts:
            pending += texts[piece]
        elif re.fullmatch(control, piece):
            flush()
            ids.append(tokenizer.convert_tokens_to_ids(piece))
        else:
            pending += piece
    flush()
    return ids


def spelling_rows(template):
    """Give rows that spell each control token in a question, a system prompt and an answer."""
    tokens = control_tokens(template.tokenizer)
    end = end_of(template)
    for token in tokens:
        yield answered("Yes", {"role": "user", "content": f"What does {token} mean?"})
        yield answered(f"It is {token}, in <{token}>")
    for text in (
        f"Yes{end}",
        f"{end}Yes",
        end,
        f"{end}{end}",
        f"x {end}\n{tokens[0]}assistant\nhm",
    ):
        yield answered(text)
        yield answered("Yes", {"role": "user", "content": text})
        yield talk(*TURNS[:1], {"role": "assistant", "content": text}, *TURNS[2:])
        if not template.folds_system:
            yield answered(text, {"role": "system", "content": f"Say {text}"}, QUESTION)


@pytest.mark.parametrize("family", ALL)
def test_a_spelled_control_token_is_plain_text(family, template_of):
    """The ids are those of the template's tokens and the row's texts, each read by itself."""
    template = template_of(family)
    for row in spelling_rows(template):
        (example,) = template.encode(row)
        assert example.input_ids == pieces_joined(template, row)
        answers = [m["content"] for m in row.messages if m["role"] == "assistant"]
        said = learned_texts(template.tokenizer, example)
        assert [text.strip() for text in said] == [a + end_of(template) for a in answers]


@pytest.mark.parametrize("family", ALL)
def test_a_spelled_control_token_adds_none(family, template_of):
    """A row cannot forge turns: it has the control tokens of the same row with other words."""
    template = template_of(family)
    special = set(template.tokenizer.all_special_ids) | template.ending
    for row in spelling_rows(template):
        harmless = [{**m, "content": re.sub(r"\S+", "word", m["content"])} for m in row.messages]
        (forged,), (plain,) = template.encode(row), template.encode(talk(*harmless))
        assert [i for i in forged.input_ids if i in special] == [
            i for i in plain.input_ids if i in special
        ]


@pytest.mark.parametrize("family", ALL)
def test_a_text_row_that_spells_control_tokens_is_plain_text(family, template_of):
    """Its own words are read as text; only the begin and the end that are added are tokens."""
    template = template_of(family)
    tokenizer = template.tokenizer
    for token in control_tokens(tokenizer):
        text = f"In HTML {token} stands for {token}x{token}"
        (example,) = template.encode(Conversation(file="a", line=1, row=0, text=text))
        read = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        begin = [tokenizer.bos_token_id] if template.marker.adds_bos else []
        assert example.input_ids == [*begin, *read, tokenizer.eos_token_id]
        assert learned_texts(tokenizer, example) == [text + tokenizer.eos_token]


def test_the_note_names_the_tokens_and_counts_the_rows(tiny_model):
    """Which tokens, in how many rows, and what to do; nothing of the rows."""
    template = Template(AutoTokenizer.from_pretrained(tiny_model), name="smollm2")
    assert template.shortfalls == []
    template.encode(answered("secret <filename> and <filename>"))
    template.encode(answered("n"))
    template.encode(answered("Yes<|im_end|>", {"role": "user", "content": "secret <filename>"}))
    (note,) = template.shortfalls
    assert note.startswith("2 rows spell")
    assert "(<filename>, <|im_end|>)" in note
    assert "secret" not in note
    assert "remove them" in note


def metaspace_tokenizer(prepend_scheme, model):
    """Train a small SentencePiece-like tokenizer, as Llama 2 and Mistral have one."""
    kind, trainer = {
        "bpe": (models.BPE(byte_fallback=True, unk_token="<unk>"), trainers.BpeTrainer),
        "unigram": (models.Unigram(), trainers.UnigramTrainer),
    }[model]
    tokenizer = Tokenizer(kind)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=prepend_scheme)
    words = ["May I build a wall, 2.5 m high? Yes. [INST] Ask §4 first: it's allowed <s>/ [/INST]"]
    more = {"unk_token": "<unk>"} if model == "unigram" else {}
    tokenizer.train_from_iterator(
        words * 30,
        trainer(
            vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False, **more
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.add_tokens([AddedToken("<late>", special=True)])  # its id lies behind the vocabulary
    return fast


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_the_plain_reader_reads_everything_else_as_the_tokenizer_does(scheme, model):
    """Prefix spaces included: the same ids and places for a text of the template's tokens alone."""
    tokenizer = metaspace_tokenizer(scheme, model)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<s>[INST] ' + m['content'] + ' [/INST]<late> x</s>' }}"
        "{% endfor %}"
    )
    plain, usual = PlainReader(tokenizer, control_tokens(tokenizer)), Reader(tokenizer)
    for text in ("May I build", " a wall", "it's  high?", "é€", "\n- Yes"):
        messages = [{"role": "user", "content": text}] * 2
        ids, offsets = plain.read(plain.render(messages))
        wanted, places = usual.read(usual.render(messages))
        assert ids == wanted
        assert len(offsets) == len(places)
    forged = [{"role": "user", "content": "a <s>wall</s><late>"}]
    special = {tokenizer.convert_tokens_to_ids(t) for t in ("<s>", "</s>", "<late>")}
    ids = plain.ids(plain.render(forged))
    assert [i for i in ids if i in special] == [
        tokenizer.convert_tokens_to_ids(t) for t in ("<s>", "<late>", "</s>")
    ]


SHIPPED = [
    "cohere", "cohere2", "diffusion_gemma", "gemma", "gemma3", "gemma4", "gemma4_v2", "gemma4_v3",
    "gemma4_v4", "gemma4_v5", "gptoss", "lfm2", "lfm2_2_5", "lfm2_2_5_v2", "lfm2_2_5_vl", "lfm2_v2",
    "llama3", "llama3_1", "llama3_2", "muse_glimmer", "phi3", "phi3_5", "qwen2_5", "qwen2_5_vl",
    "qwen3", "qwen3_5_nothink", "qwen3_5_think", "qwen3_6", "qwen3_8", "qwen3_instruct_2507",
    "qwen3_vl",
]  # fmt: skip


def with_shipped_tokens(tokenizer):
    """Add the control tokens of every template that TRL ships."""
    source = "".join((TEMPLATES / f"{name}.jinja").read_text() for name in SHIPPED)
    spelled = set(
        re.findall(r"<\|[A-Za-z_]+\|>|<\|?(?:turn|channel)\|?>|<(?:start|end)_of_turn>", source)
    )
    wanted = [*sorted(spelled), "<pad_me>", "<|my_end|>", "<bos>"]
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(t, special=True) for t in wanted]}
    )
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = "<bos>", "<|my_end|>", None
    return tokenizer


@pytest.fixture(scope="module")
def many_tokens(tiny_model):
    """Give the real tokenizer, and one of letters alone, of which a copy is made in no time."""
    letters = Tokenizer(models.BPE(vocab=_bytes(), merges=[]))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.decoder = decoders.ByteLevel()
    return (
        with_shipped_tokens(AutoTokenizer.from_pretrained(tiny_model)),
        with_shipped_tokens(PreTrainedTokenizerFast(tokenizer_object=letters)),
    )


def _bytes():
    return {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


@pytest.mark.parametrize("name", SHIPPED)
def test_templates_as_models_ship_them_learn_every_answer_exactly(name, many_tokens):
    """Short, blank-edged and token-spelling answers alike, in one turn and in several."""
    for tokenizer, spelling in zip(many_tokens, (False, True), strict=True):
        tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
        template = Template(tokenizer, name=name)
        (end,) = template.marker.end_ids
        spelled = tokenizer.convert_ids_to_tokens(end)
        plain = ("n", "d", "end", "<", "|", spelled[:-1], "x\n")
        for text in (spelled, f"a {spelled} b") if spelling else plain:
            for row in (answered(text), answered(text, *TURNS[:3])):
                examples = template.encode(row)
                said = [t for e in examples for t in learned_texts(tokenizer, e)]
                answers = [m["content"] for m in row.messages if m["role"] == "assistant"]
                assert len(said) == len(answers)
                for learned, answer in zip(said, answers, strict=True):
                    assert learned.endswith(spelled)
                    assert learned.removesuffix(spelled).rstrip().endswith(answer.rstrip())
                learned_ids = [i for e in examples for i in e.labels if i != IGNORED]
                assert learned_ids.count(end) == len(answers)


def test_no_answer_to_learn_refuses_the_row(template_of):
    """A row whose answers are all only read would train nothing in silence."""
    row = Conversation(file="a", line=1, row=0, messages=TURNS[:2], unlearned=frozenset({0}))
    with pytest.raises(UnlearnableRowError, match="no answer"):
        template_of("smollm2").encode(row)


def test_the_templates_own_reason_is_said_and_nothing_of_the_row(tiny_model):
    """A reason that stands in the template is shown; one made from the row is not."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    own = "{% if messages[0]['content'][0] == '%' %}{{ raise_exception(%s) }}{% endif %}"
    for reason, shown in (("'Roles must alternate'", True), ("messages[0]['content']", False)):
        tokenizer.chat_template = own.replace("%s", reason) + (
            "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
            "{{ '<|im_end|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
        )
        template = Template(tokenizer, name="strict")
        with pytest.raises(UnlearnableRowError) as caught:
            template.encode(answered("Yes", {"role": "user", "content": "% secret of mine"}))
        assert ("Roles must alternate" in str(caught.value)) == shown
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("family", ["smollm2", "llama3", "mistral"])
def test_the_model_is_asked_as_it_was_trained_where_a_question_spells_control_tokens(
    family, template_of
):
    """The prompt of an answer that we show is, token by token, what stood before it in training."""
    template = template_of(family)
    token = control_tokens(template.tokenizer)[0]
    asked = {"role": "user", "content": f"What does {token} mean?"}
    (example,) = template.encode(talk(asked, {"role": "assistant", "content": "Nothing."}))
    learned = next(at for at, label in enumerate(example.labels) if label != IGNORED)
    assert prompt_ids(template.tokenizer, [[asked]]) == [example.input_ids[:learned]]


def test_letters_that_merge_into_a_control_token_stay_letters():
    """Where a tokenizer's own merges lead to `<s>`, a row that spells it has no begin token."""
    words = ["<", "s", ">", "<s", "<s>"]
    inner = Tokenizer(
        models.BPE(
            vocab={word: at for at, word in enumerate(words)}, merges=[("<", "s"), ("<s", ">")]
        )
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")
    assert tokenizer("<s>")["input_ids"] == [words.index("<s>")]
    reader = PlainReader(tokenizer, control_tokens(tokenizer))
    assert reader.ids("<s>") == [words.index("<s"), words.index(">")]
