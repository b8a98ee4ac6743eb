"""`check`: looks at a live cluster and says, by symptom, what is wrong."""
