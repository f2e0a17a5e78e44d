"""`python -m mmsb_torch.cli` is `mmsb`."""

import sys

from mmsb_torch.cli import main

if __name__ == "__main__":
    sys.exit(main())
