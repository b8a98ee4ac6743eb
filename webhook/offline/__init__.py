"""The commands that edit manifests: `inject` and `uninject`."""
