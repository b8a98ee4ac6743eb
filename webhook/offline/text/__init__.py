"""Change YAML and JSON text in place: every byte that need not change stays. Pure.

`stream` splits a text into documents, `edit.change` makes one say something else; the rest is how.
"""
