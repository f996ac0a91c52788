import sys

from detmem.cli import main

sys.exit(main())
