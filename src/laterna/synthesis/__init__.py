"""Annotated pictures become instruction records: readers, text proxy, teachers, parsing."""
