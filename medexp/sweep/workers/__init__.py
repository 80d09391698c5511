"""Where trials run: launchers and processes of their own."""
