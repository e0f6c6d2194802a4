"""Templates and verbalizers: what is accepted, and in which words the rest is refused."""

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerothorder.data import Verbalizers, parse_template, parse_verbalizers
from zerothorder.data.formats import Row
from zerothorder.errors import UsageError

names = st.text(string.ascii_letters + string.digits + "_- ", min_size=1, max_size=8).filter(
    lambda name: name.strip() == name
)
words = st.text(min_size=1, max_size=8).filter(lambda w: w.strip() == w and "," not in w and "=" not in w)


@given(st.lists(st.tuples(st.text(max_size=10), names), min_size=1, max_size=4), st.text(max_size=10), st.data())
def test_a_template_says_what_it_was_written_to_say(parts: list[tuple[str, str]], tail: str, data: st.DataObject):
    def escaped(text: str) -> str:
        return text.replace("{", "{{").replace("}", "}}")

    written = "".join(f"{escaped(text)}{{{name}}}" for text, name in parts) + escaped(tail)
    cells = {name: data.draw(st.text(max_size=10)) for _, name in parts}
    template = parse_template(written)
    assert template.fill(cells) == "".join(text + cells[name] for text, name in parts) + tail
    assert set(template.columns) == set(cells)
    assert template.tail == tail


@given(st.text(max_size=30))
def test_a_template_is_read_or_refused_in_one_sentence(text: str):
    said = ""
    try:
        columns = parse_template(text).columns
    except UsageError as error:
        columns, said = (), str(error)
    assert columns or repr(text) in said


@pytest.mark.parametrize("bad", ["{text", "text}", "{}", "{text!r}", "{text:>5}", "{ text}", "plain", ""])
def test_templates_that_are_refused(bad: str):
    with pytest.raises(UsageError, match=r"\{text\}"):
        parse_template(bad)


def test_a_place_is_a_name_and_never_an_expression():
    template = parse_template("{text.__class__} {a[0]}")
    with pytest.raises(UsageError, match=r"text\.__class__"):
        template.cells({"text": "x", "a": ["y"]}, "row 1")


def test_cells_name_the_row():
    template = parse_template("{text} {year}")
    assert template.cells({"text": "a", "year": 1999}, "row 1") == {"text": "a", "year": "1999"}
    with pytest.raises(UsageError, match=r"names column 'year', which f.csv row 3 does not have; did you mean 'yera'"):
        template.cells({"text": "a", "yera": 1}, "f.csv row 3")
    for value, kind in ((None, "nothing"), ([1], "a list")):
        with pytest.raises(UsageError, match=f"f.csv row 3 has {kind} in column 'year'"):
            template.cells({"text": "a", "year": value}, "f.csv row 3")


@given(st.dictionaries(words, words, min_size=2, max_size=5))
def test_verbalizers_in_every_spelling(given_: dict[str, str]):
    if len(set(given_.values())) < len(given_):
        return
    expected = Verbalizers(tuple(given_), tuple(given_.values()))
    assert parse_verbalizers(given_) == expected
    written = ",".join(f"{label}={word}" for label, word in given_.items())
    if not written.startswith("{"):
        assert parse_verbalizers(written) == expected
    assert parse_verbalizers(expected) == expected


def test_verbalizers_as_people_write_them():
    assert parse_verbalizers(" 0 = terrible , 1 = very good ") == Verbalizers(("0", "1"), ("terrible", "very good"))
    assert parse_verbalizers({0: "no", True: "yes"}) == Verbalizers(("0", "true"), ("no", "yes"))
    assert parse_verbalizers('{"a": "x, y", "b": "="}') == Verbalizers(("a", "b"), ("x, y", "="))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("", "a part ''"),
        ("0=terrible", "name 1 of at least 2"),
        ("0=terrible,great", "a part 'great' without '='"),
        ("0=terrible,1=", "without a label or a word"),
        ("=terrible,1=great", "without a label or a word"),
        ("0=terrible,0=great", "the label '0' twice"),
        ("0=great,1=great", "the word 'great' twice"),
        ('{"0": "a"', "not JSON"),
        ({}, "name 0 of at least 2"),
    ],
)
def test_verbalizers_that_are_refused(bad: Any, says: str):
    with pytest.raises(UsageError, match=says):
        parse_verbalizers(bad)


@pytest.mark.parametrize(("label", "index"), [(0, 0), ("0", 0), (0.0, 0), (" 1 ", 1), (1, 1)])
def test_labels_are_found_however_the_file_spells_them(label: Any, index: int):
    assert parse_verbalizers("0=terrible,1=great").index(label, "row 1") == index


def test_true_and_false():
    assert parse_verbalizers("false=no,true=yes").index(True, "row 1") == 1


def test_an_unknown_label_names_the_row():
    row = Row({"label": "2"}.items(), "f.csv row 9")
    with pytest.raises(UsageError, match=r"f.csv row 9 has the label '2', not one of the verbalizers.*0, 1"):
        parse_verbalizers("0=terrible,1=great").index(row["label"], row.where)
