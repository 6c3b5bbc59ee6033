"""Telling people: who is told what and why (pure), how it reads (pure), and Apprise at the edge.

At least once: what is to be told is written with the transition itself, and struck
off when the receiver has accepted it. A message is repeated only where the answer
to it was lost.
"""
