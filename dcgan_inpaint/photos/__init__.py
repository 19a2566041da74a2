"""Full-size photos: where the face is, and the way back."""
