"""Looking for what breaks a test."""
