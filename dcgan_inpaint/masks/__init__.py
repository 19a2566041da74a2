"""What is known of an image: masks, mask images, measurements."""
