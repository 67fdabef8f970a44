"""Read published datasets of knowledge editing as `Case`s; docs/datasets.md lists the formats.

for case in read_cases("counterfact.json", on_rejected=print):
    ...
"""

from facts.importers.errors import BadRowError, OnRejected, Rejected, RowError
from facts.importers.fact_list import CaseList, FactList, answered, list_cases, read_facts
from facts.importers.files.text import Source
from facts.importers.formats.engram import case_of, record_of
from facts.importers.read import Preview, detect, preview, read_cases
from facts.importers.registry import FORMATS, Format
from facts.importers.snippets import Snippets, read_snippets
from facts.importers.write import RejectedFile, Summary, import_file, write_cases

__all__ = [
    "FORMATS",
    "BadRowError",
    "CaseList",
    "FactList",
    "Format",
    "OnRejected",
    "Preview",
    "Rejected",
    "RejectedFile",
    "RowError",
    "Snippets",
    "Source",
    "Summary",
    "answered",
    "case_of",
    "detect",
    "import_file",
    "list_cases",
    "preview",
    "read_cases",
    "read_facts",
    "read_snippets",
    "record_of",
    "write_cases",
]
