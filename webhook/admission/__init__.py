"""The admission process: answers the API server's reviews, and nothing else."""
