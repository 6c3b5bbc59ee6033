"""truetally keeps the true tally of persistent volumes across Kubernetes, TrueNAS and democratic-csi."""

__version__ = "0.1.0"
