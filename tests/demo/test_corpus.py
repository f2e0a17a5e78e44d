"""The corpus is real, clean, distinct and always the same."""

import re
import subprocess
import sys

import pytest

from mmsb_torch.demo.corpus import sentences


def test_there_are_two_thousand_and_a_limit_takes_the_first():
    everything = sentences()
    assert len(everything) == 2000
    assert sentences(7) == everything[:7]
    assert sentences(0) == []
    assert sentences(-1) == []
    assert len(sentences(10**6)) > 2000


def test_none_occurs_twice():
    assert len(set(sentences())) == 2000


def test_each_is_one_line_of_thirty_to_three_hundred_characters():
    for sentence in sentences():
        assert 30 <= len(sentence) <= 300, sentence
        assert sentence == " ".join(sentence.split()), sentence


def test_each_begins_and_ends_like_a_sentence():
    for sentence in sentences():
        # A sentence may begin with a quoted name: "append()" adds an item.
        assert re.match(r'[“("]?[A-Z]|"\w', sentence), sentence
        assert re.search(r'[.!?][")”]?$', sentence), sentence


def test_most_of_each_is_letters_and_nearly_all_of_them_together():
    def share(text: str) -> float:
        return sum(character.isalpha() or character == " " for character in text) / len(text)

    assert min(map(share, sentences())) >= 0.8
    assert share("".join(sentences())) > 0.94


@pytest.mark.parametrize(
    "mark", [">>>", "::=", "****", "====", "----", "Changed in version", "```"]
)
def test_no_markup_is_left(mark):
    assert [sentence for sentence in sentences(10**6) if mark in sentence] == []


def test_it_is_english():
    words = re.findall(r"[a-z]+", " ".join(sentences()).lower())
    common = ("the", "a", "of", "is", "to", "in", "and", "for", "be", "that")
    assert sum(word in common for word in words) / len(words) > 0.25


def test_a_caller_may_change_its_list():
    sentences().clear()
    assert len(sentences()) == 2000


def test_another_process_with_another_hash_seed_reads_the_same():
    code = "import mmsb_torch.demo.corpus as c; print(ascii(c.sentences()))"
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "12345", "PATH": ""},
        capture_output=True,
        check=True,
        text=True,
    )
    assert told.stdout == ascii(sentences()) + "\n"
