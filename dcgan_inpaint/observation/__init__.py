"""What is known of a picture: masks, mask pictures, measurements."""
