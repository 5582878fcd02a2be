"""What runs the flows: images, manifests, and the demo."""
