"""Other classes for the nuclei of a run: learned from examples, kept beside the model's own."""
