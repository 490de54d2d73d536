"""What the API answers, as plain structures."""
