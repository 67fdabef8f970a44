"""Methods whose editor is trained before it edits (`editing.train`)."""
