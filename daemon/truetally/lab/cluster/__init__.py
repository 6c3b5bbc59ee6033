"""A cluster to try truetally on: a Kubernetes API in memory, and the objects that CSI sidecars make."""

from truetally.lab.cluster.server import LabCluster

__all__ = ["LabCluster"]
