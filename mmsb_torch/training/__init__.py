"""The training door: a loop whose whole state is pages, so that it goes on where it was, bit for bit.

track        what there is of a loop, as parts of a run
run          Run: commit, resume, restore, history, export
pages        deltas for the tensors that are not what their pages hold
saved        what was kept, as of a moment
modules, optimizers, parts, randomness    the parts; `part` says what one is
sampler      a sampler whose place can be kept
frozen       cache_frozen: what a frozen backbone gives for a row is computed once
tree         plain Python data as JSON and tensors
"""

from mmsb_torch.training.frozen import cache_frozen
from mmsb_torch.training.run import Commit, Run, Step
from mmsb_torch.training.sampler import ResumableSampler
from mmsb_torch.training.track import track

__all__ = ["Commit", "ResumableSampler", "Run", "Step", "cache_frozen", "track"]
