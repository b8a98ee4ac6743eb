"""The reconciler: applies the Services, keeps the certificates, reports what is missing."""
