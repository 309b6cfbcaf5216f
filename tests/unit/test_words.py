"""Says durations, sizes and untrusted text as people read them."""

from runner.words import duration, memory, number, roughly, visible, visible_lines


def test_durations_read_as_people_say_them():
    """Exact where a run is over, rounded where it is a guess."""
    assert [duration(s) for s in (None, 0.4, 59.6, 200, 7500)] == [
        "?",
        "0 s",
        "1 min 00 s",
        "3 min 20 s",
        "2 h 05 min",
    ]
    assert [roughly(s) for s in (5, 600, 9000)] == ["5 s", "10 min", "2 h 30 min"]


def test_text_from_outside_cannot_hide_or_reorder_words():
    """Control, invisible and bidirectional characters are shown escaped; letters are kept."""
    assert visible("a\u202eb\x1b[2Jc\u200bd\tß\n") == "a\\u202eb\\x1b[2Jc\\u200bd\\tß\\n"
    assert visible_lines("a\r\nb\x1b") == "a\nb\\x1b"


def test_joiners_stand_where_people_spell_with_them():
    """Persian, Hindi and emoji of several parts are read as written; in Latin they hide."""
    for text in (
        "می\u200cخواهم",
        "क्\u200dष",
        "\U0001f468\u200d\U0001f469",
        "\U0001f3f3\ufe0f\u200d\U0001f308",
    ):
        assert visible(text) == text
    assert visible("pay\u200cpal\u200d") == "pay\\u200cpal\\u200d"
    assert visible("\u200dم\u200c\u200cم\u202e") == "\\u200dم\u200c\\u200cم\\u202e"


def test_what_was_not_measured_is_a_dash():
    """Nothing is shown as zero that nobody measured."""
    assert (memory(None), memory(3 * 2**30)) == ("–", "3.0 GiB")
    assert (number(None), number(2.06254)) == ("–", "2.0625")
