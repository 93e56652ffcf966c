"""Using a trained model: prediction on folders, and images as they arrive."""
