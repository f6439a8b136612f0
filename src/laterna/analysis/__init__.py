"""What a finished instruction set asks about, and what of it its teacher could have known.

What `laterna inspect` shows of a set: `coverage` (open first: the counts) · `properties` (what a
question asks about) · `answerability` (whether a text proxy held the answer) · `mentions` (what a
text names) · `proxy_lookup` (the proxy that a record was written from).
"""
