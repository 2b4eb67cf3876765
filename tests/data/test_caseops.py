import random
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from golf.data.caseops import (
    ALLCAPS_MARK,
    CAPNEXT_MARK,
    CASE_MARKS,
    ESCAPE_MARK,
    TITLE_MARK,
    escape_marks,
    mark_case,
    unmark_case,
)

T, A, C, E = TITLE_MARK, ALLCAPS_MARK, CAPNEXT_MARK, ESCAPE_MARK
ANY_TEXT = st.text(st.characters(), max_size=60)
CASED_TEXT = st.text("aAbBzZ1 4.\u0301\u030cé" + "".join(CASE_MARKS), max_size=30)


@settings(max_examples=600, deadline=None)
@given(text=ANY_TEXT | CASED_TEXT | st.text(st.characters(categories=["Cs", "Co", "Lu", "Mn"]), max_size=20))
@example("".join(map(chr, range(0x300))))
@example(E + E + T + "The" + A)
def test_every_unicode_string_comes_back(text: str):
    assert unmark_case(mark_case(text)) == text
    assert unmark_case(escape_marks(text)) == text


@settings(max_examples=300, deadline=None)
@given(left=ANY_TEXT | CASED_TEXT, right=ANY_TEXT | CASED_TEXT)
def test_different_texts_have_different_marked_forms(left: str, right: str):
    assert (mark_case(left) == mark_case(right)) == (left == right)


@settings(max_examples=200, deadline=None)
@given(text=CASED_TEXT)
def test_no_capital_is_left_but_before_a_combining_character(text: str):
    plain = "".join(letter for letter in text if not unicodedata.combining(letter))
    assert not any("A" <= letter <= "Z" for letter in mark_case(plain))


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("the", "the"),
        ("The NASA I am", f"{T}the {A}nasa {T}i am"),
        ("iPhone McDonald PhD", f"i{C}phone {T}mc{C}donald {T}ph{C}d"),
        ("A1B HTTPServer2", f"{T}a1{T}b {T}h{C}t{C}t{C}p{C}server2"),
        ("naïVE ÉCOLE", f"naï{A}ve É{A}cole"),
        ("don't O'Brien X-ray", f"don't {T}o'{T}brien {T}x-ray"),
        ("É E\u0301TE ab\u0301", f"É E\u0301{A}te ab\u0301"),
        (f"{T}The {E}", f"{E}1{T}the {E}4"),
    ],
)
def test_marked_forms_are_those_of_the_description(text: str, marked: str):
    assert mark_case(text) == marked


@settings(max_examples=200, deadline=None)
@given(text=st.text("aA1" + "".join(CASE_MARKS), max_size=12))
def test_unmarking_never_fails_on_what_no_text_has_as_its_form(text: str):
    unmark_case(text)


def test_a_million_letters_in_one_run_take_no_longer_than_in_many():
    """Backtracking over the run would make it a billion steps."""
    draw = random.Random(0)
    long = "".join(draw.choice("acgt") for _ in range(300_000))
    assert mark_case(long) == long
    assert unmark_case(mark_case(long + "A")) == long + "A"
