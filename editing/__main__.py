"""`python -m editing`: the command line of edits stands on the top floor, since it also measures them."""

import sys

from app.edit_command import main
from facts.pipes import outlive_reader

if __name__ == "__main__":
    outlive_reader()
    sys.exit(main())
