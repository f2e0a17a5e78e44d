"""What a notebook shows for a memory, a page, its history, a moment and a difference.

Self-contained HTML, of bounded size, made in milliseconds whatever the size of the pages: values are
sampled, nothing is recomputed, and nothing is raised.
"""

from mmsb_torch.memory.pictures.history import diff_html, history_html, moment_html
from mmsb_torch.memory.pictures.pages import memory_html, page_html

__all__ = ["diff_html", "history_html", "memory_html", "moment_html", "page_html"]
