"""The pages of the demo: token ids -> embeddings -> scores against a query -> top matches.

    ids                     int64[2000, 64]    roots: a sentence a row
    embeddings              float32[2000, 384] MiniLM of each row
    query ids -> query      float32[1, 384]    MiniLM of the query
    scores                  float32[2000]      cosine similarity of each row
    top                     int64[10]          the best sentences

Rows of embeddings and scores follow rows of what they are made from, so an edit of a sentence embeds
that sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmsb_torch.demo.encoder import SentenceEncoder, Tokenizer, tokenise
from mmsb_torch.memory import Memory, Page

BEST = 10
QUERY = "How do I define a function that takes keyword arguments?"


def similarity(embeddings: Tensor, query: Tensor) -> Tensor:
    """Cosine similarity of unit vectors to one query."""
    return embeddings @ query[0]


def best(scores: Tensor) -> Tensor:
    """Positions of the highest scores, best first."""
    return scores.topk(min(BEST, len(scores))).indices


class Pipeline(NamedTuple):
    """The pages, and what makes them."""

    memory: Memory
    tokenizer: Tokenizer
    encoder: SentenceEncoder
    ids: Page
    query_ids: Page
    query: Page
    embeddings: Page
    scores: Page
    top: Page

    def edit(self, changes: dict[int, str], label: str) -> int:
        """Replace sentences by position, in one transaction."""
        with self.memory.commit(label) as tx:
            tx.update(
                self.ids, tokenise(self.tokenizer, list(changes.values())), rows=list(changes)
            )
        assert tx.number is not None
        return tx.number

    def ask(self, text: str, label: str) -> int:
        """Replace the query."""
        with self.memory.commit(label) as tx:
            tx.update(self.query_ids, tokenise(self.tokenizer, [text]))
        assert tx.number is not None
        return tx.number

    def from_scratch(self) -> dict[str, Tensor]:
        """Every derived page's value, computed by calling its function: what a script would do."""
        values: dict[str, Tensor] = {}
        with torch.no_grad():
            values["embeddings"] = self.encoder(self.ids.tensor)
            values["query"] = self.encoder(self.query_ids.tensor)
            values["scores"] = similarity(values["embeddings"], values["query"])
            values["top"] = best(values["scores"])
        return values


def build(
    memory: Memory, tokenizer: Tokenizer, encoder: SentenceEncoder, texts: Sequence[str]
) -> Pipeline:
    """Declare the pages; nothing is computed. On a reopened memory the texts change nothing."""
    ids = memory.page("ids", tokenise(tokenizer, texts))
    embeddings = memory.derive(encoder, ids, name="embeddings", rows=True)
    query_ids = memory.page("query ids", tokenise(tokenizer, [QUERY]))
    query = memory.derive(encoder, query_ids, name="query")
    scores = memory.derive(similarity, embeddings, query, name="scores", rows=["embeddings"])
    top = memory.derive(best, scores, name="top")
    return Pipeline(memory, tokenizer, encoder, ids, query_ids, query, embeddings, scores, top)
