"""Class mode: one file says what a class may use, and a page shows the link as a QR code."""
