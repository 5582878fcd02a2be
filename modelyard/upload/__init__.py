"""Uploading a model from where its author is: no cluster and no Prefect needed."""
