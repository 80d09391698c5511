"""python -m benchmarks.torture."""

import sys

from benchmarks.torture.run import main

sys.exit(main())
