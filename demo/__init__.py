"""`make demo`: a pod runs out of local ports, and one sees it coming. Needs no cluster."""
