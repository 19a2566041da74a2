"""Web page for image completion."""
