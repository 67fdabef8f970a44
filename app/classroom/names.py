"""The variables by which a class tells its server what to show."""

import os

LINK = "ENGRAM_CLASS_LINK"
"""What the class opens; set only in class mode."""
PAGES = "ENGRAM_PAGES"
"""The pages a class uses, separated by commas."""


def has_page(page: str) -> bool:
    """Whether a page is part of the navigation; all are but in a class."""
    return not os.environ.get(LINK) or page == "workbench" or page in os.environ.get(PAGES, "").split(",")
