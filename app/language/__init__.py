"""The words of the page in English and Simplified Chinese."""
