"""Measure, every night and with evidence, whether Cilium's BIG TCP helps on a Kubernetes cluster."""

__version__ = "0.1.0"
