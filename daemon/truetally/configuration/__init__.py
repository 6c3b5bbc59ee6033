"""Configuration: from a YAML file and the environment to settings, or to a list of every mistake.

A mistake says where it is (file, line, key), what is wrong and what was
probably meant, and all of them are told at once: whoever mends a
configuration should not have to start the daemon once for each.
"""

from truetally.configuration.loading import Checked, check, load, mistakes, warnings
from truetally.configuration.mistake import Mistake
from truetally.configuration.secrets import resolve

__all__ = ["Checked", "Mistake", "check", "load", "mistakes", "resolve", "warnings"]
