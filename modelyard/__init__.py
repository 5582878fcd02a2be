"""Modelyard: lifecycle procedures of model artifacts on Kubernetes. The library under the Prefect flows; usable without Prefect."""

__version__ = "0.1.0"
