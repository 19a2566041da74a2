"""Full-size photos: reading, face detection, cropping and pasting back."""
