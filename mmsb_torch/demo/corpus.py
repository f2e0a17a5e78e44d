"""Real English without a download: sentences of Python's own language reference.

`pydoc_data.topics` holds what `help("assert")` prints: reStructuredText rendered to plain text,
about 460 kB of it, in every installation of CPython. What is not prose (grammar, code, tables,
rulers, signatures) is left out, markup is taken off, and what is repeated is kept once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

_SHORTEST, _LONGEST = 30, 300  # characters
_FEWEST_WORDS = 5
_WORD = re.compile(r"[A-Za-z]{2,}")

_BULLET = re.compile(r"(?:[*+•-]|\(?\d+[.)]|\[\d+\])\s+")
_RELEASE = re.compile(r"(?:Changed|New|Added|Deprecated)(?: in| since) version [\d.]+(?:: |\.)")
_ADMONITION = re.compile(
    r"(?:Note|See also|Tip|Warning|Important|CPython implementation detail): ?"
)
_EMPHASIS = re.compile(r"(?<![\w*])\*{1,2}(?=\S)([^*]+?)(?<=\S)\*{1,2}(?![\w*])")
_FOOTNOTE = re.compile(r"\s*\[\d+\](?=[\s.,;:)]|$)")
_CUT_WORD = re.compile(r"(?<=\w[-/])\n\s*(?=\w)")  # the renderer breaks lines after a hyphen
_END = re.compile(r"(?<=[.!?])[\"\u201d\u2019')]*\s+(?=[\"\u201c\u2018(]?[A-Z]|\"\w)")
_ABBREVIATED = re.compile(r"(?:\b(?:e\.g|i\.e|cf|vs|etc|resp|ex|fig|no)|\b[A-Z])\.$")
_SENTENCE = re.compile(r"(?:[\"“(]?[A-Z]|\"\w)[^\n]*[.!?][\"”)]?")
_LITERAL = re.compile(r"\"[^\"]+\"")  # how the renderer shows ``code`` inside a sentence
_CODE = re.compile(r"::=|->|:=|\.\.\.|\\|[{}<>|^~`=]|\[:|__\w+__\(|\"\"|\w\.\w+\(")
_NOT_WORDS = re.compile(r"[^\w\s.,;:()'\u2019\"“”/-]")


@cache
def _all_sentences() -> tuple[str, ...]:
    # Imported when asked: it is half a megabyte of text that few processes need.
    from pydoc_data.topics import topics  # noqa: PLC0415

    return tuple(dict.fromkeys(_from_topics(topics)))


def sentences(limit: int = 2000) -> list[str]:
    """The first `limit` sentences, in the order of the topics' names; the same at every call.

    Each is one line of 30 to 300 characters that begins with a capital letter and ends with
    `.`, `!` or `?`; none occurs twice. The order follows the text, so that a patch release of
    Python that adds a sentence shifts the others and reorders none.

    Args:
        limit: at most so many. Python 3.11 has over two thousand.
    """
    return list(_all_sentences()[: max(limit, 0)])


def _from_topics(topics: Mapping[str, str]) -> Iterator[str]:
    for _, text in sorted(topics.items()):
        for paragraph in re.split(r"\n\s*\n", text):
            yield from _from_paragraph(paragraph)


def _from_paragraph(paragraph: str) -> Iterator[str]:
    if _is_layout(paragraph.strip("\n").split("\n")):
        return
    for item in _items(paragraph):
        text = _plain(item)
        yield from (sentence for sentence in _split(text) if _is_prose(sentence))


def _is_layout(lines: list[str]) -> bool:
    """Whether the paragraph is a table, a ruler, a title, a session or a block of code."""
    if any(re.match(r"\s*(?:[-=*~^+|#\"]{3,}|[|+]|>>>|\.\.\. )", line) for line in lines):
        return True
    # Wrapped prose keeps one indentation, or hangs under its bullet; code goes in and out.
    indents = {len(line) - len(line.lstrip()) for line in lines if not _BULLET.match(line.lstrip())}
    return len(indents) > 2


def _items(paragraph: str) -> Iterable[str]:
    """The items of a list that is written without blank lines; else the paragraph itself."""
    return re.split(r"\n(?=\s*(?:[*•]|\d+\.)\s)", paragraph)


def _plain(item: str) -> str:
    lines = item.strip("\n").split("\n")
    if len(lines) > 1 and not _BULLET.match(lines[0].lstrip()) and _indent(*lines[:2]) > 0:
        lines = lines[1:]  # a term and, indented, what it means: the term is no sentence
    text = _CUT_WORD.sub("", "\n".join(lines).strip())
    text = _EMPHASIS.sub(r"\1", _without(_BULLET, " ".join(text.split())))
    text = _without(_ADMONITION, _without(_RELEASE, text))
    return _FOOTNOTE.sub("", text)


def _indent(line: str, following: str) -> int:
    return len(following) - len(following.lstrip()) - (len(line) - len(line.lstrip()))


def _without(prefix: re.Pattern[str], text: str) -> str:
    match = prefix.match(text)
    return text[match.end() :].lstrip() if match else text


def _split(text: str) -> Iterator[str]:
    begin = 0
    for end in _END.finditer(text):
        head = text[begin : end.end()].rstrip()
        if not _ABBREVIATED.search(head.rstrip("\"\u201d\u2019')")):
            yield head
            begin = end.end()
    yield text[begin:]


def _is_prose(sentence: str) -> bool:
    if not _SHORTEST <= len(sentence) <= _LONGEST or not _SENTENCE.fullmatch(sentence):
        return False
    if sentence.count('"') % 2 or _unbalanced(sentence):
        return False
    # A literal inside a sentence may be code; what stands around it may not.
    if _CODE.search(_LITERAL.sub("", sentence)) or len(_NOT_WORDS.findall(sentence)) > 4:
        return False
    letters = sum(character.isalpha() or character == " " for character in sentence)
    return len(_WORD.findall(sentence)) >= _FEWEST_WORDS and letters >= 0.8 * len(sentence)


def _unbalanced(sentence: str) -> bool:
    return any(sentence.count(left) != sentence.count(right) for left, right in ("()", "[]", "“”"))
