"""A NAS to try truetally on: TrueNAS's JSON-RPC over a real WebSocket, with its state in memory."""

from truetally.lab.nas.driver import Driver
from truetally.lab.nas.server import LabNas, serve

__all__ = ["Driver", "LabNas", "serve"]
