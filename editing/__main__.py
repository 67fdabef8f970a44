"""`python -m editing`: the command line of edits stands on the top floor, since it also measures them."""

import sys

from app.edit_command import main

if __name__ == "__main__":
    sys.exit(main())
