"""The exporter: counts the sockets of its pod's network namespace and serves them to Prometheus."""

__version__ = "0.1.0"
