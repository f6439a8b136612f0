"""Annotated images become instruction records: readers, text proxy, teachers, parsing."""
