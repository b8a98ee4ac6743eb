"""Real network namespaces with real connections, for the kernel tests, the demo and the benchmark."""
