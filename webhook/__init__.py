"""The injector: puts the exporter into every workload that is labelled for it."""
