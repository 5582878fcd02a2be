"""The demo: the main job on real components, from an empty machine to a verified model on a claim."""
