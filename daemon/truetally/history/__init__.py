"""The history: findings, every transition, what was told to whom, and how the sources fared, in SQLite.

The only package that speaks SQL; the text of it stands in `sql/`. What `record()`
has returned from survives SIGKILL and a power cut.
"""
