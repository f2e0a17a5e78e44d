"""The pages of the demo: token ids -> embeddings -> scores against a query -> top matches.

    ids/00 .. ids/15        int64[125, 64]     roots: sentences in shards
    embedded/00 .. /15      float32[125, 384]  MiniLM of each shard
    embeddings              float32[2000, 384]
    query ids -> query      float32[1, 384]    MiniLM of the query
    scores                  float32[2000]      cosine similarity
    top                     int64[10]          the best sentences

Sentences are sharded because a page is recomputed as a whole: an edit embeds its shard again, not
the whole text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmsb_torch.demo.encoder import SentenceEncoder, Tokenizer, tokenise
from mmsb_torch.memory import Memory, Page

SHARD = 125
BEST = 10
QUERY = "How do I define a function that takes keyword arguments?"


def joined(*shards: Tensor) -> Tensor:
    """All shards, one after the other."""
    return torch.cat(shards)


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
    shards: tuple[Page, ...]
    embedded: tuple[Page, ...]
    query_ids: Page
    query: Page
    embeddings: Page
    scores: Page
    top: Page

    def edit(self, changes: dict[int, str], label: str) -> int:
        """Replace sentences by position, in one transaction."""
        with self.memory.commit(label) as tx:
            for position, text in changes.items():
                shard, row = divmod(position, SHARD)
                tx.update(self.shards[shard], tokenise(self.tokenizer, [text]), rows=[row])
        assert tx.number is not None
        return tx.number

    def ask(self, text: str, label: str) -> int:
        """Replace the query."""
        with self.memory.commit(label) as tx:
            tx.update(self.query_ids, tokenise(self.tokenizer, [text]))
        assert tx.number is not None
        return tx.number

    def from_scratch(self, progress: Callable[[], None] = lambda: None) -> dict[str, Tensor]:
        """Every derived page's value, computed by calling its function: what a script would do."""
        values: dict[str, Tensor] = {}
        with torch.no_grad():
            for ids, page in zip(self.shards, self.embedded, strict=True):
                values[page.name] = self.encoder(ids.tensor)
                progress()
            values["embeddings"] = joined(*(values[page.name] for page in self.embedded))
            values["query"] = self.encoder(self.query_ids.tensor)
            values["scores"] = similarity(values["embeddings"], values["query"])
            values["top"] = best(values["scores"])
        return values


def build(
    memory: Memory, tokenizer: Tokenizer, encoder: SentenceEncoder, texts: Sequence[str]
) -> Pipeline:
    """Declare the pages; nothing is computed. On a reopened memory the texts change nothing."""
    shards, embedded = [], []
    for number, start in enumerate(range(0, len(texts), SHARD)):
        ids = tokenise(tokenizer, texts[start : start + SHARD])
        shards.append(memory.page(f"ids/{number:02}", ids))
        embedded.append(memory.derive(encoder, shards[-1], name=f"embedded/{number:02}"))
    query_ids = memory.page("query ids", tokenise(tokenizer, [QUERY]))
    query = memory.derive(encoder, query_ids, name="query")
    embeddings = memory.derive(joined, *embedded, name="embeddings")
    scores = memory.derive(similarity, embeddings, query, name="scores")
    top = memory.derive(best, scores, name="top")
    return Pipeline(
        memory,
        tokenizer,
        encoder,
        tuple(shards),
        tuple(embedded),
        query_ids,
        query,
        embeddings,
        scores,
        top,
    )
