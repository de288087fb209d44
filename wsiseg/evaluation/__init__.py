"""How good a segmentation is: metrics on label images, and runs over annotated sets."""
