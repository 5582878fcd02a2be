"""Serving a model's image: the cluster-side facts and acts of KServe's modelcars and of pulling images before traffic."""
